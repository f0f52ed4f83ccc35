//! What stands before a guest's own seccomp filter when it is installed natively.
//!
//! The host kernel shows a filter of the guest's every call of the process, the shim's too. Those that the shim makes for itself, or
//! for a call of the guest's that has another number, the guest's program must not judge: without them the process could not go on, and
//! where the guest allows `fork(2)` it has not said anything about `clone(2)`. So they are allowed first, from the shim's
//! text. Calls that the shim makes for the guest under their own number are judged like all others.
//!
//! A guest that jumps into the shim gets around its own filter for what is listed here, and for nothing else. So the list has
//! only calls on own memory, own signals, own children and descriptors that the caller holds; none of them carries a name.

use super::{Assembler, BuildOptions, Instruction, JUMP, JUMP_EQUAL, OFFSET_NR, Verdict, action, load, ret};
use crate::table::Test;

const LOAD_IMMEDIATE: u16 = (libc::BPF_LD | libc::BPF_IMM) as u16;

macro_rules! is {
    ($arg:literal, $($name:ident = $value:expr),*) => { Test::In($arg, &[$((stringify!($name), $value as u32)),*]) };
}

/// The calls, ascending by number, with what they must be about.
const CALLS: &[(i64, &[Test])] = &[
    (libc::SYS_close, &[]),
    // Waiting for what the supervisor names.
    (libc::SYS_poll, &[]),
    // Areas, images and regions.
    (libc::SYS_mmap, &[]),
    (libc::SYS_mprotect, &[]),
    (libc::SYS_munmap, &[]),
    (libc::SYS_rt_sigaction, &[]),
    (libc::SYS_rt_sigprocmask, &[]),
    (libc::SYS_rt_sigreturn, &[]),
    // For open(2) of a terminal.
    (libc::SYS_ioctl, &[is!(1, TIOCSCTTY = libc::TIOCSCTTY), is!(2, NOT_ANOTHERS = 0)]),
    // The headers of an image.
    (libc::SYS_pread64, &[]),
    // A look at descriptors before pselect6(2) waits.
    (libc::SYS_select, &[]),
    (libc::SYS_sched_yield, &[]),
    // Also for sendto(2) and sendmmsg(2), recvfrom(2) and recvmmsg(2).
    (libc::SYS_sendmsg, &[]),
    (libc::SYS_recvmsg, &[]),
    // The type of a socket.
    (libc::SYS_getsockopt, &[is!(1, SOL_SOCKET = libc::SOL_SOCKET), is!(2, SO_TYPE = libc::SO_TYPE)]),
    // For fork(2), vfork(2) and clone3(2).
    (libc::SYS_clone, &[]),
    (libc::SYS_exit, &[]),
    (libc::SYS_wait4, &[]),
    (libc::SYS_fcntl, &[is!(1, F_SETFD = libc::F_SETFD)]),
    (libc::SYS_sigaltstack, &[]),
    (
        libc::SYS_prctl,
        &[is!(
            0,
            PR_SET_NAME = libc::PR_SET_NAME,
            PR_SET_CHILD_SUBREAPER = libc::PR_SET_CHILD_SUBREAPER,
            PR_SET_SYSCALL_USER_DISPATCH = 59
        )],
    ),
    // Registers of a tracee.
    (libc::SYS_arch_prctl, &[]),
    (libc::SYS_futex, &[]),
    // A sleep that the supervisor has interrupted.
    (libc::SYS_restart_syscall, &[]),
    // For semtimedop(2).
    (libc::SYS_clock_gettime, &[]),
    (libc::SYS_exit_group, &[]),
    (libc::SYS_waitid, &[]),
    (libc::SYS_get_robust_list, &[Test::Whole(2, nomina_abi::GATE_MAGIC)]),
    // For setrlimit(2), and room for the hidden descriptors.
    (libc::SYS_prlimit64, &[is!(0, SELF = 0), is!(1, RLIMIT_NOFILE = libc::RLIMIT_NOFILE)]),
    // For prctl(PR_SET_SECCOMP).
    (libc::SYS_seccomp, &[is!(0, SECCOMP_SET_MODE_FILTER = libc::SECCOMP_SET_MODE_FILTER)]),
    (libc::SYS_execveat, &[is!(0, FD_SHIM = nomina_abi::FD_SHIM)]),
];

/// The instructions to put before a guest's program, which begins as at its own beginning.
///
/// # Panics
/// Never: the list is short enough for jumps.
pub fn before_a_guests_filter(options: &BuildOptions) -> Vec<Instruction> {
    let mut asm = Assembler::default();
    let [in_shim, allow, guests] = [(); 3].map(|()| asm.label());
    asm.in_shim_text(&options.shim_text, in_shim, guests);
    asm.place(in_shim);
    asm.emit(load(OFFSET_NR));
    for (nr, when) in CALLS {
        let [tests, next] = [(); 2].map(|()| asm.label());
        asm.jump(JUMP_EQUAL, *nr as u32, if when.is_empty() { allow } else { tests }, next);
        asm.place(tests);
        if let Some((last, others)) = when.split_last() {
            for test in others {
                let on = asm.label();
                asm.test(options, *test, on, guests);
                asm.place(on);
            }
            asm.test(options, *last, allow, guests);
        }
        asm.place(next);
    }
    asm.jump(JUMP, 0, guests, guests);
    asm.place(allow);
    asm.emit(ret(action(Verdict::Native)));
    asm.place(guests);
    // Programs may rely on the accumulator being 0.
    asm.emit(Instruction { code: LOAD_IMMEDIATE, jt: 0, jf: 0, k: 0 });
    asm.finish().expect("the list is short")
}

#[cfg(test)]
mod tests {
    use nomina_kernel::seccomp::bpf::{Data, Instruction as KernelInstruction, Program};
    use nomina_kernel::seccomp::{AUDIT_ARCH_X86_64, RET_ALLOW, RET_ERRNO};

    use super::super::Range;
    use super::*;
    use crate::table;

    const TEXT: Range<u64> = 0x7e90_0000_1000..0x7e90_0004_2000;

    /// What a filter says that returns the accumulator it starts with.
    fn says(nr: i64, args: [u64; 6], instruction_pointer: u64) -> u32 {
        let options = BuildOptions { shim_text: TEXT, ..BuildOptions::default() };
        let mut program: Vec<_> = before_a_guests_filter(&options)
            .into_iter()
            .map(|Instruction { code, jt, jf, k }| KernelInstruction { code, jt, jf, k })
            .collect();
        // add #RET_ERRNO; ret a
        program.push(KernelInstruction { code: 0x04, jt: 0, jf: 0, k: RET_ERRNO });
        program.push(KernelInstruction { code: 0x16, jt: 0, jf: 0, k: 0 });
        let data = Data { nr: nr as u32, arch: AUDIT_ARCH_X86_64, instruction_pointer, args };
        Program::new(&program).unwrap().run(&data)
    }

    #[test]
    fn the_guests_filter_judges_everything_outside_the_shim() {
        let outside = [TEXT.start - 1, TEXT.end, 0x40_1000, TEXT.start + (1 << 32), TEXT.start - (1 << 32)];
        for (nr, _) in CALLS {
            for ip in outside {
                assert_eq!(says(*nr, [0; 6], ip), RET_ERRNO, "{nr} at {ip:#x}");
            }
        }
    }

    #[test]
    fn from_the_shim_only_the_listed_calls_pass() {
        let listed = |nr: i64| CALLS.iter().find(|(listed, _)| *listed == nr);
        for nr in 0..i64::from(table::END) {
            // No condition of the list holds for these.
            let said = says(nr, [77; 6], TEXT.start + 2);
            let passes = listed(nr).is_some_and(|(_, when)| when.is_empty());
            assert_eq!(said, if passes { RET_ALLOW } else { RET_ERRNO }, "{nr}");
        }
        assert!(CALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn conditions_of_listed_calls_hold() {
        let inside = |nr, args: [u64; 3]| says(nr, [args[0], args[1], args[2], 0, 0, 0], TEXT.end - 1);
        assert_eq!(inside(libc::SYS_get_robust_list, [1, 0, nomina_abi::GATE_MAGIC]), RET_ALLOW);
        assert_eq!(inside(libc::SYS_get_robust_list, [1, 0, 0]), RET_ERRNO);
        assert_eq!(inside(libc::SYS_ioctl, [3, libc::TIOCSCTTY, 0]), RET_ALLOW);
        assert_eq!(inside(libc::SYS_ioctl, [3, libc::TIOCSCTTY, 1]), RET_ERRNO);
        assert_eq!(inside(libc::SYS_ioctl, [3, libc::TIOCSTI, 0]), RET_ERRNO);
        assert_eq!(inside(libc::SYS_execveat, [nomina_abi::FD_SHIM as u64, 0, 0]), RET_ALLOW);
        assert_eq!(inside(libc::SYS_execveat, [5, 0, 0]), RET_ERRNO);
        assert_eq!(inside(libc::SYS_prctl, [libc::PR_SET_NAME as u64, 0, 0]), RET_ALLOW);
        assert_eq!(inside(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0]), RET_ERRNO);
        assert_eq!(inside(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE.into(), 0]), RET_ALLOW);
        assert_eq!(inside(libc::SYS_prlimit64, [0, libc::RLIMIT_CPU.into(), 0]), RET_ERRNO);
        assert_eq!(inside(libc::SYS_seccomp, [1, 0, 0]), RET_ALLOW);
    }
}
