//! The compiled filter against the table: by interpretation for every row, and for real in forked children.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, Ordering};

use super::*;
use crate::child::in_child;
use crate::table::{Class, SYSCALLS};

/// What `struct seccomp_data` has.
#[derive(Clone, Copy)]
struct Data {
    nr: u32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

impl Data {
    fn call(nr: u32, args: [u64; 6], ip: u64) -> Data {
        Data { nr, arch: AUDIT_ARCH_X86_64, ip, args }
    }

    fn word(&self, offset: u32) -> u32 {
        match offset {
            OFFSET_NR => self.nr,
            OFFSET_ARCH => self.arch,
            OFFSET_IP_LOW => self.ip as u32,
            OFFSET_IP_HIGH => (self.ip >> 32) as u32,
            16..64 if offset.is_multiple_of(4) => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
            _ => panic!("load from offset {offset}"),
        }
    }
}

/// Runs a filter; the second result is whether it looked at number and architecture only, which makes "allow" eligible for
/// the kernel's bitmap.
fn interpret(filter: &Filter, data: Data) -> (u32, bool) {
    let (mut at, mut accumulator, mut constant) = (0, 0u32, true);
    loop {
        let Instruction { code, jt, jf, k } = filter.instructions[at];
        at += 1;
        let holds = match code {
            LOAD => {
                constant &= matches!(k, OFFSET_NR | OFFSET_ARCH);
                accumulator = data.word(k);
                continue;
            }
            AND => {
                accumulator &= k;
                continue;
            }
            RETURN => return (k, constant),
            JUMP => {
                at += k as usize;
                continue;
            }
            JUMP_EQUAL => accumulator == k,
            JUMP_AT_LEAST => accumulator >= k,
            JUMP_ABOVE => accumulator > k,
            _ => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { jt } else { jf });
    }
}

fn options() -> BuildOptions {
    BuildOptions { shim_text: 0x7e90_0000_1000..0x7e90_0004_2000, hidden_fds: 1024..1032 }
}

fn filter() -> Filter {
    Filter::build(&options()).unwrap()
}

/// The conditions' meaning, apart from BPF.
fn holds(options: &BuildOptions, test: Test, args: &[u64; 6]) -> bool {
    let low = |arg: usize| args[arg] as u32;
    match test {
        Test::In(arg, values) => values.iter().any(|(_, value)| *value == low(arg)),
        Test::Masked(arg, mask, values) => values.iter().any(|(_, value)| *value == low(arg) & mask),
        Test::Null(arg) => args[arg] == 0,
        Test::Whole(arg, value) => args[arg] == value,
        Test::NotHidden(arg) => !options.hidden_fds.contains(&low(arg)),
        Test::BelowHidden(arg) => low(arg) < options.hidden_fds.start,
        Test::AboveHidden(arg) => low(arg) >= options.hidden_fds.end,
    }
}

fn expected(options: &BuildOptions, cases: &[Case], args: &[u64; 6], in_shim: bool) -> u32 {
    let applies = |case: &&Case| case.when.iter().all(|test| holds(options, *test, args));
    match cases.iter().find(applies).map_or(Verdict::Trap, |case| case.then) {
        Verdict::ShimOnly if in_shim => libc::SECCOMP_RET_ALLOW,
        verdict => action(verdict),
    }
}

/// Values of every argument at which some condition may change its mind, with and without a set upper half.
fn interesting(cases: &[Case]) -> [Vec<u64>; 6] {
    let mut values: [Vec<u64>; 6] = std::array::from_fn(|_| vec![0]);
    for test in cases.iter().flat_map(|case| case.when) {
        let (arg, mut more): (usize, Vec<u64>) = match *test {
            Test::In(arg, named) => (arg, named.iter().map(|(_, value)| u64::from(*value)).collect()),
            Test::Masked(arg, mask, named) => {
                let mut more: Vec<u64> = named.iter().map(|(_, value)| u64::from(*value)).collect();
                more.extend((0..32).map(|bit| 1u64 << bit));
                more.extend(named.iter().map(|(_, value)| u64::from(*value | !mask)));
                (arg, more)
            }
            Test::Null(arg) => (arg, vec![1, 0xffff_ffff]),
            Test::Whole(arg, value) => (arg, vec![value, value & 0xffff_ffff, value >> 32 << 32]),
            Test::NotHidden(arg) | Test::BelowHidden(arg) | Test::AboveHidden(arg) => {
                (arg, vec![3, 1023, 1024, 1028, 1031, 1032, 1033])
            }
        };
        let neighbours: Vec<u64> = more.iter().flat_map(|v| [v.wrapping_add(1), v.wrapping_sub(1)]).collect();
        more.extend(neighbours);
        values[arg]
            .extend(more.iter().flat_map(|value| [*value, *value | 1 << 32, *value | 0xdead_beef << 32]));
        values[arg].push(u64::MAX);
        values[arg].sort_unstable();
        values[arg].dedup();
    }
    values
}

#[test]
fn every_row_does_what_its_class_says() {
    let (options, filter) = (options(), filter());
    let text = options.shim_text.clone();
    let places = [
        (text.start, true),
        (text.end - 1, true),
        (text.start - 1, false),
        (text.end, false),
        (0x40_1000, false),
        (text.start - (1 << 32), false),
        (text.start + (1 << 32), false),
    ];
    for row in SYSCALLS {
        let cases = row.cases();
        let values = interesting(&cases);
        let combinations: usize = values.iter().map(Vec::len).product();
        assert!(combinations < 200_000, "{}: {combinations} combinations", row.name);
        for mut at in 0..combinations {
            let args = values.each_ref().map(|values| {
                let value = values[at % values.len()];
                at /= values.len();
                value
            });
            for (ip, in_shim) in places {
                let (result, _) = interpret(&filter, Data::call(row.nr, args, ip));
                let wanted = expected(&options, &cases, &args, in_shim);
                assert_eq!(result, wanted, "{} {args:x?} at {ip:#x}", row.name);
            }
        }
    }
}

#[test]
fn native_rows_are_eligible_for_the_kernels_bitmap() {
    let filter = filter();
    for row in SYSCALLS {
        let (result, constant) = interpret(&filter, Data::call(row.nr, [0; 6], 0x40_1000));
        if row.class == Class::Native {
            assert_eq!((result, constant), (libc::SECCOMP_RET_ALLOW, true), "{}", row.name);
        }
    }
}

#[test]
fn unknown_numbers_and_the_x32_abi_do_not_exist() {
    let filter = filter();
    let enosys = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    for nr in [337, 400, 423, 470, 512, 547, 600, 0x4e4f, 0x4000_0000, 0x4000_0001, 0x4000_0208, u32::MAX] {
        assert_eq!(
            interpret(&filter, Data::call(nr, [0; 6], options().shim_text.start)).0,
            enosys,
            "{nr:#x}"
        );
    }
}

#[test]
fn other_architectures_are_killed_whatever_the_number() {
    let filter = filter();
    for (arch, nr) in [(0x4000_0003, 0), (0x4000_0003, nomina_abi::GATE_NR), (0xc000_00b7, 60), (0, 1)] {
        let data = Data { arch, ..Data::call(nr, [0; 6], options().shim_text.start) };
        assert_eq!(interpret(&filter, data).0, libc::SECCOMP_RET_KILL_PROCESS);
    }
}

#[test]
fn the_gate_notifies_from_anywhere() {
    let filter = filter();
    let run = |magic, ip| interpret(&filter, Data::call(nomina_abi::GATE_NR, [7, 7, magic, 7, 7, 7], ip)).0;
    for ip in [0, 0x40_1000, options().shim_text.start] {
        assert_eq!(run(nomina_abi::GATE_MAGIC, ip), libc::SECCOMP_RET_USER_NOTIF);
        for bit in 0..64 {
            let trap = action(Verdict::Trap);
            assert_eq!(run(nomina_abi::GATE_MAGIC ^ 1 << bit, ip), trap, "an ordinary get_robust_list");
        }
    }
}

#[test]
fn known_ways_out_are_shut_even_from_shim_text() {
    let filter = filter();
    let ip = options().shim_text.start + 64;
    let run = |name: &str, args: &[u64]| {
        let nr = SYSCALLS.iter().find(|row| row.name == name).unwrap().nr;
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        interpret(&filter, Data::call(nr, all, ip)).0
    };
    let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    let (trap, allow) = (action(Verdict::Trap), libc::SECCOMP_RET_ALLOW);
    let high = 0xffff_ffff_0000_0000;

    assert_eq!(run("ioctl", &[0, libc::TIOCSTI]), eperm);
    assert_eq!(run("ioctl", &[0, high | libc::TIOCSTI]), eperm, "the kernel drops the upper half");
    assert_eq!(run("ioctl", &[0, libc::TIOCEXCL]), trap);
    assert_eq!(run("ioctl", &[0, libc::FIOASYNC]), trap);
    assert_eq!(run("ioctl", &[0, 0x4008_6602]), trap, "FS_IOC_SETFLAGS");
    assert_eq!(run("ioctl", &[0, libc::TIOCGPTPEER]), trap);
    for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWPID, libc::CLONE_NEWCGROUP] {
        assert_eq!(run("clone", &[flag as u64 | 17]), trap);
        assert_eq!(run("unshare", &[flag as u64]), trap);
    }
    assert_eq!(run("clone", &[(libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64]), allow);
    assert_eq!(run("unshare", &[0x80]), trap, "CLONE_NEWTIME");
    assert_eq!(run("unshare", &[libc::CLONE_FILES as u64]), allow);
    assert_eq!(run("clone3", &[0x1000, 88]), trap);
    assert_eq!(run("execveat", &[3, 0x1000, 0, 0, 0]), trap);
    assert_eq!(run("execveat", &[3, 0x1000, 0, 0, 0x1000 | 0x100]), trap);
    assert_eq!(run("execveat", &[3, 0x1000, 0, 0, 0x1000]), allow);
    assert_eq!(run("execve", &[0x1000]), trap);
    assert_eq!(run("fcntl", &[0, libc::F_SETOWN as u64, 1]), trap);
    assert_eq!(run("fcntl", &[0, 10, 9]), trap, "F_SETSIG");
    assert_eq!(run("fcntl", &[0, libc::F_SETFL as u64, libc::O_ASYNC as u64]), trap);
    assert_eq!(run("fcntl", &[0, libc::F_SETFL as u64, libc::O_NONBLOCK as u64]), allow);
    assert_eq!(run("fcntl", &[0, 1024, 1]), trap, "F_SETLEASE");
    assert_eq!(run("socket", &[1, 2]), trap, "a datagram socket reaches any name");
    assert_eq!(run("socket", &[1, 3]), trap, "SOCK_RAW is a datagram socket");
    assert_eq!(run("socketpair", &[1, 2 | libc::SOCK_CLOEXEC as u64]), trap);
    assert_eq!(run("socket", &[1, 1 | libc::SOCK_CLOEXEC as u64]), allow);
    assert_eq!(run("socket", &[16, 3]), trap, "netlink");
    assert_eq!(run("accept4", &[3, 1 << 32]), trap, "a pointer counts whole");
    assert_eq!(run("setsockopt", &[3, 1, libc::SO_ATTACH_FILTER as u64]), trap);
    assert_eq!(run("getsockopt", &[3, 1, libc::SO_PEERCRED as u64]), trap);
    assert_eq!(run("setpriority", &[2, 0, 19]), trap, "PRIO_USER");
    assert_eq!(run("sched_setaffinity", &[1]), trap);
    assert_eq!(run("prlimit64", &[1, 0]), trap);
    assert_eq!(run("kill", &[1, 9]), trap);
    assert_eq!(run("rt_sigqueueinfo", &[1, 9]), trap);
    assert_eq!(run("futex", &[0x1000, 6 | 128]), trap, "FUTEX_LOCK_PI");
    assert_eq!(run("prctl", &[libc::PR_SET_DUMPABLE as u64, 0]), trap);
    assert_eq!(run("prctl", &[libc::PR_SET_SECCOMP as u64, 2]), trap);
    assert_eq!(run("seccomp", &[1, 1]), allow);
    assert_eq!(run("seccomp", &[1, 8]), trap, "a second listener");
    assert_eq!(run("seccomp", &[0, 0]), trap, "strict mode would stop the shim");
}

#[test]
fn calls_without_conditions_are_decided_in_less_than_twenty_steps() {
    let filter = filter();
    assert!(filter.instructions().len() < 1200, "{}", filter.instructions().len());
    let jumps_of = |nr| {
        let (mut at, mut count) = (0, 0);
        while filter.instructions[at].code != RETURN {
            let Instruction { code, jt, jf, k } = filter.instructions[at];
            let holds = match code {
                JUMP_AT_LEAST => nr >= k,
                JUMP_EQUAL => k == AUDIT_ARCH_X86_64 || nr == k,
                _ => false,
            };
            count += 1;
            at += 1 + if code == JUMP { k as usize } else { usize::from(if holds { jt } else { jf }) };
        }
        count
    };
    for row in
        SYSCALLS.iter().filter(|row| matches!(row.class, Class::Native | Class::Trap | Class::Refused(_)))
    {
        assert!(jumps_of(row.nr) < 20, "{}: {}", row.name, jumps_of(row.nr));
    }
}

#[test]
fn options_that_cannot_be_expressed_are_refused() {
    let build = |change: fn(&mut BuildOptions)| {
        let mut options = options();
        change(&mut options);
        Filter::build(&options).unwrap_err()
    };
    assert!(matches!(build(|o| o.shim_text = 0xffff_f000..0x1_0000_1000), FilterError::ShimText(_)));
    assert!(matches!(build(|o| o.shim_text = 5..5), FilterError::ShimText(_)));
    assert!(matches!(build(|o| o.hidden_fds = 7..7), FilterError::HiddenFds(_)));
    let at_the_top = BuildOptions { shim_text: 0xffff_f000..0x1_0000_0000, ..options() };
    let filter = Filter::build(&at_the_top).unwrap();
    assert_eq!(interpret(&filter, Data::call(60, [0; 6], 0xffff_ffff)).0, libc::SECCOMP_RET_ALLOW);
    assert_eq!(interpret(&filter, Data::call(60, [0; 6], 0x1_0000_0000)).0, action(Verdict::Trap));
}

const TRAPPED: i32 = 42;
const NOTHING: i32 = -1;
const GATE: i64 = nomina_abi::GATE_NR as i64;

/// Where a trial's result is seen: a page that the child shares. Under the filter it cannot say it by `exit_group(2)`.
static RESULT: AtomicPtr<i32> = AtomicPtr::new(std::ptr::null_mut());

/// Ends the child of a trial.
fn end(result: i32) -> ! {
    // SAFETY: the page is mapped; an invalid instruction ends the process.
    unsafe {
        RESULT.load(Ordering::Relaxed).write_volatile(result);
        std::arch::asm!("ud2", options(noreturn));
    }
}

extern "C" fn on_sigsys(_: i32) {
    end(TRAPPED)
}

fn install(filter: &Filter) -> bool {
    let code = filter.as_sock_filters();
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    // SAFETY: the kernel reads `program` and `code`, which outlive the call.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) == 0 }
}

/// Runs `trial` in a child under the filter; [`TRAPPED`] when a call of it was trapped.
fn under(filter: &Filter, trial: impl FnOnce() -> i32) -> Result<i32, Errno> {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // SAFETY: a fresh mapping, given back below.
    let page = unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: just mapped.
    unsafe { page.cast::<i32>().write_volatile(NOTHING) };
    RESULT.store(page.cast(), Ordering::Relaxed);
    let ended = in_child(|| {
        // SAFETY: the handler is async-signal-safe; prctl with these arguments reads no memory.
        unsafe {
            libc::signal(libc::SIGSYS, on_sigsys as *const () as usize);
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        }
        end(if install(filter) { trial() } else { 255 })
    });
    // SAFETY: mapped above; the child has ended.
    let result = unsafe {
        let result = page.cast::<i32>().read_volatile();
        libc::munmap(page, 4096);
        result
    };
    match ended {
        // What the filter itself killed has left nothing.
        Err(Errno::EINTR) if result != NOTHING => Ok(result),
        Ok(code) => panic!("the trial exited with {code}"),
        Err(errno) => Err(errno),
    }
}

/// A system call's errno, 0 when it succeeds.
fn errno_of(nr: i64, args: [u64; 3]) -> i32 {
    // SAFETY: only called with arguments for which the kernel writes no memory.
    match unsafe { libc::syscall(nr, args[0], args[1], args[2]) } {
        -1 => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
        _ => 0,
    }
}

#[test]
fn the_kernel_runs_native_calls_and_refuses_others() {
    let status = under(&filter(), || {
        let results = [
            (errno_of(libc::SYS_sched_yield, [0; 3]), 0),
            (errno_of(libc::SYS_lseek, [999, 0, 0]), libc::EBADF),
            (errno_of(libc::SYS_syslog, [0; 3]), libc::EPERM),
            (errno_of(libc::SYS_io_uring_setup, [1, 0, 0]), libc::ENOSYS),
            (errno_of(libc::SYS_ioctl, [0, libc::TIOCSTI | 1 << 32, 0]), libc::EPERM),
            (errno_of(libc::SYS_close, [999, 0, 0]), libc::EBADF),
            (errno_of(600, [0; 3]), libc::ENOSYS),
            (errno_of(0x4000_0000 + libc::SYS_getpid, [0; 3]), libc::ENOSYS),
            (errno_of(-1, [0; 3]), libc::ENOSYS),
            (errno_of(GATE, [1, 0, nomina_abi::GATE_MAGIC]), libc::ENOSYS),
        ];
        results.iter().position(|(got, wanted)| got != wanted).map_or(0, |at| at as i32 + 1)
    });
    assert_eq!(status, Ok(0), "position in the list of the first wrong result");
}

#[test]
fn the_kernel_traps_names() {
    for (nr, args) in [
        (GATE, [0; 3]),
        (GATE, [1, 0, nomina_abi::GATE_MAGIC as u32 as u64]),
        (libc::SYS_getpid, [0; 3]),
        (libc::SYS_close, [1024, 0, 0]),
        (libc::SYS_close_range, [3, 0xffff_ffff, 0]),
        (libc::SYS_kill, [1, 0, 0]),
        (libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0]),
        (libc::SYS_wait4, [0xffff_ffff, 0, 0]),
        (libc::SYS_fcntl, [0, libc::F_SETOWN as u64, 1]),
    ] {
        assert_eq!(under(&filter(), || errno_of(nr, args)), Ok(TRAPPED), "{nr}");
    }
}

#[test]
fn the_kernel_runs_shim_only_calls_from_the_shims_addresses() {
    // The function `syscall` of the C library stands in for shim text.
    let start = libc::syscall as *const () as u64;
    let near = Filter::build(&BuildOptions { shim_text: start..start + 64, ..options() }).unwrap();
    assert_eq!(under(&near, || errno_of(libc::SYS_setsid, [0; 3])), Ok(0));
    assert_eq!(under(&near, || errno_of(libc::SYS_close, [1024, 0, 0])), Ok(libc::EBADF));
    assert_eq!(under(&near, || errno_of(libc::SYS_wait4, [0xffff_ffff, 0, 0])), Ok(libc::ECHILD));
    assert_eq!(under(&near, || errno_of(libc::SYS_clone, [libc::CLONE_NEWUSER as u64, 0, 0])), Ok(TRAPPED));
    assert_eq!(under(&near, || errno_of(libc::SYS_getpid, [0; 3])), Ok(TRAPPED));
}

#[test]
fn the_kernel_kills_32_bit_calls() {
    let status = under(&filter(), || {
        // SAFETY: getpid of the 32-bit ABI.
        unsafe { std::arch::asm!("int 0x80", inout("eax") 20 => _, options(nostack)) };
        0
    });
    assert_eq!(status, Err(Errno::EINTR), "killed by a signal that cannot be caught");
}
