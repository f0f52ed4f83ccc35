//! The first code of an image: fetches what it is to run from the supervisor, and runs it.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use nomina_abi::ptrace::mode;
use nomina_abi::{FD_SOCK, GATE_START, REGION_SIZE, StartInfo, init};

use crate::arch::{nomina_enter_guest, nomina_enter_traced};
use crate::area::{Area, REGION};
use crate::load::{Loaded, Place, load, make_stack_executable};
use crate::ptrace;
use crate::slot::{gate, receive_fds};
use crate::sys::{self, MAP_FIXED, MAP_SHARED, PROT_READ, PROT_WRITE, err, nr, sys};

const AT_NULL: u64 = 0;
const AT_PHDR: u64 = 3;
const AT_PHNUM: u64 = 5;
const AT_BASE: u64 = 7;
const AT_ENTRY: u64 = 9;
const AT_UID: u64 = 11;
const AT_GID: u64 = 13;
const AT_EUID: u64 = 12;
const AT_EGID: u64 = 14;
const AT_SECURE: u64 = 23;
const AT_HWCAP2: u64 = 26;
const AT_EXECFN: u64 = 31;
/// Programs may set the bases of `fs` and `gs` themselves.
const HWCAP2_FSGSBASE: u64 = 2;

const PR_SET_NAME: u64 = 15;
const PR_SET_CHILD_SUBREAPER: u64 = 36;

/// Exit code of an image that cannot be run although exec had succeeded; Linux kills such a process.
const CANNOT_START: i32 = 137;

struct StartCell(UnsafeCell<StartInfo>);

// SAFETY: written once, before the guest runs.
unsafe impl Sync for StartCell {}

/// Stays in memory: `AT_EXECFN` points into it.
#[unsafe(link_section = ".bss.start1")]
static START: StartCell = StartCell(UnsafeCell::new(StartInfo {
    tid: 0,
    pid: 0,
    slot: 0,
    secure: 0,
    ids: [0; 4],
    has_interp: 0,
    patch_after: 0,
    traced: 0,
    old_tid: 0,
    ahead: 0,
    init: init::NONE,
    ignored: 0,
    ids_stay: 0,
    random: 0,
    always: [0; 8],
    comm: [0; 16],
    execfn: [0; 4096],
}));

/// Runs on the initial stack, which the kernel filled for the guest program.
pub extern "C" fn start(stack: *mut u64) -> ! {
    let started = match gate(GATE_START, 0) {
        // A limit below the hidden numbers keeps the supervisor from installing the socket.
        err::EBADF => crate::fd::with_hidden_numbers(|| gate(GATE_START, 0)),
        other => other,
    };
    if started < 0 {
        sys::exit_group(CANNOT_START);
    }
    // SAFETY: nothing else accesses it yet; all bits are valid.
    let bytes =
        unsafe { core::slice::from_raw_parts_mut(START.0.get().cast::<u8>(), size_of::<StartInfo>()) };
    // An exec must not fail because the program has used up its descriptors.
    match crate::fd::with_higher_limit(|| receive_fds(FD_SOCK, true, bytes)) {
        Ok(received) if received.count >= 2 => start_with(stack, &received.fds),
        _ => sys::exit_group(CANNOT_START),
    }
}

fn start_with(stack: *mut u64, fds: &[i32; crate::slot::MAX_FDS]) -> ! {
    // SAFETY: filled by the message just received, and not written any more.
    let info = unsafe { &*START.0.get() };
    let [region, exe, interp, ..] = *fds;
    let socket = fds[2 + info.has_interp.min(1) as usize];
    if map_region(region, 0).is_err() {
        sys::exit_group(CANNOT_START);
    }
    let area = Area::first();
    area.set_slot(info.slot);
    area.tid.set(info.tid);
    area.pid.set(info.pid);
    area.ids.set((info.ids_stay != 0).then_some(info.ids));
    let stack_of_handlers = area.native_stack();
    // SAFETY: the stack of the area is the shim's alone.
    unsafe { sys!(nr::SIGALTSTACK, &raw const stack_of_handlers, 0) };
    crate::sighand::install();
    sys::unblock(crate::frame::ALWAYS_OPEN);
    // SAFETY: the name is NUL-terminated.
    unsafe { sys!(nr::PRCTL, PR_SET_NAME, info.comm.as_ptr()) };
    crate::seccomp::note(&info.always);
    if info.pid == 1 {
        adopt_orphans();
    }
    match info.init {
        init::NESTED => area.sighand().make_unkillable(Some(info.ignored)),
        init::FIRST => area.sighand().make_first(sys::mask()),
        _ => {}
    }

    let has_interp = info.has_interp != 0;
    let library = Place::Library(REGION.load(Ordering::Relaxed));
    let program = load(exe, if has_interp { Place::Program(info.random) } else { library });
    sys::close(exe);
    let Ok(program) = program else { sys::exit_group(CANNOT_START) };
    let mut entry = program.entry;
    let mut base = 0;
    if has_interp {
        let loaded = load(interp, library);
        sys::close(interp);
        let Ok(loaded) = loaded else { sys::exit_group(CANNOT_START) };
        entry = loaded.entry;
        base = loaded.bias;
    }
    if program.executable_stack {
        make_stack_executable(stack as u64);
    }
    let hwcap2 = patch_auxv(stack, info, &program, base);
    crate::ahead::start(info.ahead, (socket >= 0).then_some(socket));
    crate::patch::start(area, info.patch_after, hwcap2 & HWCAP2_FSGSBASE != 0);
    if info.traced != 0 {
        ptrace::ENTRY.store(entry, Ordering::Relaxed);
        ptrace::OLD_TID.store(info.old_tid as u32, Ordering::Relaxed);
        ptrace::set_mode(area, info.traced & !mode::ATTEND);
        if info.traced & mode::ATTEND != 0 {
            area.kicked.set(true);
        }
        // SAFETY: as below.
        unsafe { nomina_enter_traced(stack as u64) }
    }
    // SAFETY: the stack is as the kernel made it, the entry is the program's.
    unsafe { nomina_enter_guest(stack as u64, entry) }
}

/// Maps the region of slots, anywhere or at `at`, where a forked child still has its maker's.
pub fn map_region(fd: i32, at: u64) -> Result<(), i64> {
    let fixed = if at == 0 { 0 } else { MAP_FIXED };
    // SAFETY: a new mapping, or one in place of another region.
    let mapped =
        unsafe { sys!(nr::MMAP, at, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | fixed, fd, 0) };
    sys::close(fd);
    if mapped < 0 {
        return Err(mapped);
    }
    REGION.store(mapped as u64, Ordering::Relaxed);
    Ok(())
}

/// Makes the host kernel give the orphans of a pid namespace to the caller, its init.
pub fn adopt_orphans() {
    // SAFETY: touches no memory.
    unsafe { sys!(nr::PRCTL, PR_SET_CHILD_SUBREAPER, 1) };
}

/// Puts the guest's values into the auxiliary vector; gives its `AT_HWCAP2`.
fn patch_auxv(stack: *mut u64, info: &StartInfo, program: &Loaded, base: u64) -> u64 {
    let mut hwcap2 = 0;
    // SAFETY: the kernel's layout: argc, argv, NULL, envp, NULL, pairs up to AT_NULL.
    unsafe {
        let mut at = stack.add(*stack as usize + 2);
        while *at != 0 {
            at = at.add(1);
        }
        at = at.add(1);
        while *at != AT_NULL {
            let value = match *at {
                AT_PHDR => Some(program.phdr),
                AT_PHNUM => Some(program.phnum),
                AT_BASE => Some(base),
                AT_ENTRY => Some(program.entry),
                AT_UID => Some(u64::from(info.ids[0])),
                AT_EUID => Some(u64::from(info.ids[1])),
                AT_GID => Some(u64::from(info.ids[2])),
                AT_EGID => Some(u64::from(info.ids[3])),
                AT_SECURE => Some(u64::from(info.secure)),
                AT_EXECFN => Some(info.execfn.as_ptr() as u64),
                _ => None,
            };
            if let Some(value) = value {
                *at.add(1) = value;
            } else if *at == AT_HWCAP2 {
                hwcap2 = *at.add(1);
            }
            at = at.add(2);
        }
    }
    hwcap2
}
