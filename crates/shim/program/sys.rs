//! Raw system calls of the host.
//!
//! Every call here is made from the shim's text, where the filter lets through what it stops elsewhere. Nothing is checked:
//! results are as the kernel returns them, negative errno on failure.

use core::arch::asm;

/// Numbers of the system calls that the shim makes or serves by code of its own (x86-64).
#[allow(missing_docs)]
pub mod nr {
    pub const READ: u64 = 0;
    pub const OPEN: u64 = 2;
    pub const CLOSE: u64 = 3;
    pub const STAT: u64 = 4;
    pub const FSTAT: u64 = 5;
    pub const LSEEK: u64 = 8;
    pub const LSTAT: u64 = 6;
    pub const ACCESS: u64 = 21;
    pub const READLINK: u64 = 89;
    pub const OPENAT: u64 = 257;
    pub const GETDENTS64: u64 = 217;
    pub const NEWFSTATAT: u64 = 262;
    pub const READLINKAT: u64 = 267;
    pub const FACCESSAT: u64 = 269;
    pub const POLL: u64 = 7;
    pub const WRITE: u64 = 1;
    pub const SELECT: u64 = 23;
    pub const MMAP: u64 = 9;
    pub const MPROTECT: u64 = 10;
    pub const MUNMAP: u64 = 11;
    pub const RT_SIGACTION: u64 = 13;
    pub const RT_SIGPROCMASK: u64 = 14;
    pub const RT_SIGRETURN: u64 = 15;
    pub const IOCTL: u64 = 16;
    pub const SOCKET: u64 = 41;
    pub const PREAD64: u64 = 17;
    pub const READV: u64 = 19;
    pub const SCHED_YIELD: u64 = 24;
    pub const MADVISE: u64 = 28;
    pub const DUP: u64 = 32;
    pub const DUP2: u64 = 33;
    pub const PAUSE: u64 = 34;
    pub const NANOSLEEP: u64 = 35;
    pub const GETPID: u64 = 39;
    pub const SETHOSTNAME: u64 = 170;
    pub const SETDOMAINNAME: u64 = 171;
    pub const CONNECT: u64 = 42;
    pub const ACCEPT: u64 = 43;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SHMAT: u64 = 30;
    pub const SHMCTL: u64 = 31;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const SOCKETPAIR: u64 = 53;
    pub const BIND: u64 = 49;
    pub const LISTEN: u64 = 50;
    pub const GETPEERNAME: u64 = 52;
    pub const GETSOCKOPT: u64 = 55;
    pub const CLONE: u64 = 56;
    pub const FORK: u64 = 57;
    pub const VFORK: u64 = 58;
    pub const EXECVE: u64 = 59;
    pub const EXIT: u64 = 60;
    pub const SEMOP: u64 = 65;
    pub const SEMCTL: u64 = 66;
    pub const SHMDT: u64 = 67;
    pub const MSGSND: u64 = 69;
    pub const MSGRCV: u64 = 70;
    pub const MSGCTL: u64 = 71;
    pub const WAIT4: u64 = 61;
    pub const KILL: u64 = 62;
    pub const FCNTL: u64 = 72;
    pub const FLOCK: u64 = 73;
    pub const FSYNC: u64 = 74;
    pub const FDATASYNC: u64 = 75;
    pub const GETRLIMIT: u64 = 97;
    pub const GETPRIORITY: u64 = 140;
    pub const SETPRIORITY: u64 = 141;
    pub const SCHED_SETPARAM: u64 = 142;
    pub const SCHED_GETPARAM: u64 = 143;
    pub const SCHED_SETSCHEDULER: u64 = 144;
    pub const SCHED_GETSCHEDULER: u64 = 145;
    pub const SCHED_RR_GET_INTERVAL: u64 = 148;
    pub const SCHED_SETAFFINITY: u64 = 203;
    pub const SCHED_GETAFFINITY: u64 = 204;
    pub const SCHED_SETATTR: u64 = 314;
    pub const SCHED_GETATTR: u64 = 315;
    pub const SETSOCKOPT: u64 = 54;
    pub const PTRACE: u64 = 101;
    pub const SETPGID: u64 = 109;
    pub const SETSID: u64 = 112;
    pub const RT_SIGPENDING: u64 = 127;
    pub const RT_SIGTIMEDWAIT: u64 = 128;
    pub const RT_SIGSUSPEND: u64 = 130;
    pub const SIGALTSTACK: u64 = 131;
    pub const PRCTL: u64 = 157;
    pub const ARCH_PRCTL: u64 = 158;
    pub const SETRLIMIT: u64 = 160;
    pub const GETTID: u64 = 186;
    pub const FUTEX: u64 = 202;
    pub const SEMTIMEDOP: u64 = 220;
    pub const CLOCK_GETTIME: u64 = 228;
    pub const MQ_TIMEDSEND: u64 = 242;
    pub const MQ_TIMEDRECEIVE: u64 = 243;
    pub const MQ_NOTIFY: u64 = 244;
    pub const MEMFD_CREATE: u64 = 319;
    pub const SET_TID_ADDRESS: u64 = 218;
    pub const RESTART_SYSCALL: u64 = 219;
    pub const TIMER_CREATE: u64 = 222;
    pub const CLOCK_NANOSLEEP: u64 = 230;
    pub const EXIT_GROUP: u64 = 231;
    pub const TGKILL: u64 = 234;
    pub const WAITID: u64 = 247;
    pub const PSELECT6: u64 = 270;
    pub const EPOLL_WAIT: u64 = 232;
    pub const EPOLL_CTL: u64 = 233;
    pub const PPOLL: u64 = 271;
    pub const UNSHARE: u64 = 272;
    pub const GETUID: u64 = 102;
    pub const GETGID: u64 = 104;
    pub const GETEUID: u64 = 107;
    pub const GETEGID: u64 = 108;
    pub const SET_ROBUST_LIST: u64 = 273;
    pub const GET_ROBUST_LIST: u64 = 274;
    pub const EPOLL_PWAIT: u64 = 281;
    pub const SIGNALFD: u64 = 282;
    pub const ACCEPT4: u64 = 288;
    pub const SIGNALFD4: u64 = 289;
    pub const DUP3: u64 = 292;
    pub const RECVMMSG: u64 = 299;
    pub const PRLIMIT64: u64 = 302;
    pub const SENDMMSG: u64 = 307;
    pub const PROCESS_VM_READV: u64 = 310;
    pub const PROCESS_VM_WRITEV: u64 = 311;
    pub const BPF: u64 = 321;
    pub const SECCOMP: u64 = 317;
    pub const GETRANDOM: u64 = 318;
    pub const EXECVEAT: u64 = 322;
    pub const IOPRIO_SET: u64 = 251;
    pub const IOPRIO_GET: u64 = 252;
    pub const MIGRATE_PAGES: u64 = 256;
    pub const MOVE_PAGES: u64 = 279;
    pub const CLONE3: u64 = 435;
    pub const CLOSE_RANGE: u64 = 436;
    pub const SYNCFS: u64 = 306;
    pub const EPOLL_PWAIT2: u64 = 441;
}

/// Error numbers, negative as the kernel returns them.
#[allow(missing_docs)]
pub mod err {
    pub const EPERM: i64 = -1;
    pub const ESRCH: i64 = -3;
    pub const ESTALE: i64 = -116;
    pub const EINTR: i64 = -4;
    pub const EISDIR: i64 = -21;
    pub const EIO: i64 = -5;
    pub const ENODEV: i64 = -19;
    pub const E2BIG: i64 = -7;
    pub const ENOSPC: i64 = -28;
    pub const EBADF: i64 = -9;
    pub const ECHILD: i64 = -10;
    pub const EAGAIN: i64 = -11;
    pub const ENOMEM: i64 = -12;
    pub const EFAULT: i64 = -14;
    pub const EEXIST: i64 = -17;
    pub const EINVAL: i64 = -22;
    pub const ESPIPE: i64 = -29;
    pub const EMFILE: i64 = -24;
    pub const ETIMEDOUT: i64 = -110;
    pub const EMSGSIZE: i64 = -90;
    pub const EDEADLK: i64 = -35;
    pub const ENAMETOOLONG: i64 = -36;
    pub const ENOSYS: i64 = -38;
    pub const ENOBUFS: i64 = -105;
    /// Never seen by guests: restart if the handler has `SA_RESTART`, else `EINTR`.
    pub const ERESTARTSYS: i64 = -512;
    /// Never seen by guests: restart always.
    pub const ERESTARTNOINTR: i64 = -513;
    /// Never seen by guests: restart only if no handler runs.
    pub const ERESTARTNOHAND: i64 = -514;
    /// Never seen by guests: `restart_syscall(2)` if no handler runs.
    pub const ERESTART_RESTARTBLOCK: i64 = -516;
    /// Never seen by guests: the filter wants the shim to serve the call.
    pub const NOT_NATIVE: i64 = -601;
    /// Never seen by guests: the call must be made with a signal frame.
    pub const NEEDS_FRAME: i64 = -600;
}

/// Makes a system call.
///
/// # Safety
/// As the call: pointers among `args` must be what the call makes of them, and what it changes (memory, descriptors, masks)
/// must not be relied upon otherwise.
#[inline(always)]
pub unsafe fn syscall(nr: u64, args: [u64; 6]) -> i64 {
    let ret: i64;
    // SAFETY: registers are those of the x86-64 convention; the rest is the caller's duty.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr as i64 => ret,
            in("rdi") args[0],
            in("rsi") args[1],
            in("rdx") args[2],
            in("r10") args[3],
            in("r8") args[4],
            in("r9") args[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    ret
}

/// A system call with any number of arguments, each converted to a register.
macro_rules! sys {
    ($nr:expr $(, $arg:expr)* $(,)?) => {{
        #[allow(unused_mut, unused_assignments, unused_variables)]
        {
            let mut args = [0u64; 6];
            let mut at = 0;
            $( args[at] = $arg as u64; at += 1; )*
            $crate::sys::syscall($nr, args)
        }
    }};
}
pub(crate) use sys;

/// `close(2)`.
pub fn close(fd: i32) {
    // SAFETY: touches no memory; all descriptors closed here are the shim's temporaries.
    unsafe { sys!(nr::CLOSE, fd) };
}

/// Ends the process; the only answer to a supervisor that is gone or a broken invariant.
pub fn exit_group(code: i32) -> ! {
    loop {
        // SAFETY: does not return.
        unsafe { sys!(nr::EXIT_GROUP, code) };
    }
}

/// Sets the calling thread's signal mask.
pub fn set_mask(mask: u64) {
    // SAFETY: the kernel only reads the word.
    unsafe { sys!(nr::RT_SIGPROCMASK, SIG_SETMASK, &raw const mask, 0, 8) };
}

/// The signals that are blocked.
pub fn mask() -> u64 {
    let mut mask = 0u64;
    // SAFETY: the kernel only writes the word.
    unsafe { sys!(nr::RT_SIGPROCMASK, SIG_BLOCK, 0, &raw mut mask, 8) };
    mask
}

/// Unblocks the signals of a set.
pub fn unblock(set: u64) {
    // SAFETY: the kernel only reads the word.
    unsafe { sys!(nr::RT_SIGPROCMASK, SIG_UNBLOCK, &raw const set, 0, 8) };
}

/// Blocks the signals of a set.
pub fn block(set: u64) {
    // SAFETY: the kernel only reads the word.
    unsafe { sys!(nr::RT_SIGPROCMASK, SIG_BLOCK, &raw const set, 0, 8) };
}

/// `sched_yield(2)`.
pub fn sched_yield() {
    // SAFETY: touches no memory.
    unsafe { sys!(nr::SCHED_YIELD) };
}

/// `mmap(2)` of new anonymous private memory, readable and writable.
pub fn map_anonymous(len: u64) -> Result<u64, i64> {
    // SAFETY: a new mapping where nothing was.
    let at = unsafe { sys!(nr::MMAP, 0, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1i64, 0) };
    if at < 0 { Err(at) } else { Ok(at as u64) }
}

/// As [`map_anonymous`], the same memory in forked children.
pub fn map_shared_anonymous(len: u64) -> Result<u64, i64> {
    // SAFETY: a new mapping where nothing was.
    let at = unsafe { sys!(nr::MMAP, 0, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1i64, 0) };
    if at < 0 { Err(at) } else { Ok(at as u64) }
}

/// `SIG_BLOCK` to `SIG_SETMASK`.
pub const SIG_BLOCK: u64 = 0;
/// See [`SIG_BLOCK`].
pub const SIG_UNBLOCK: u64 = 1;
/// See [`SIG_BLOCK`].
pub const SIG_SETMASK: u64 = 2;

/// `mmap(2)` constants.
pub const PROT_NONE: u64 = 0;
/// See [`PROT_NONE`].
pub const PROT_READ: u64 = 1;
/// See [`PROT_READ`].
pub const PROT_WRITE: u64 = 2;
/// See [`PROT_READ`].
pub const PROT_EXEC: u64 = 4;
/// See [`PROT_READ`].
pub const PROT_GROWSDOWN: u64 = 0x0100_0000;
/// See [`PROT_READ`].
pub const MAP_SHARED: u64 = 1;
/// See [`PROT_READ`].
pub const MAP_PRIVATE: u64 = 2;
/// See [`PROT_READ`].
pub const MAP_FIXED: u64 = 0x10;
/// See [`PROT_READ`].
pub const MAP_ANONYMOUS: u64 = 0x20;
/// See [`PROT_READ`].
pub const MAP_NORESERVE: u64 = 0x4000;
/// See [`PROT_READ`].
pub const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
