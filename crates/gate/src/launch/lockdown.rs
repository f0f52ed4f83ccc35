//! The lock-down: what a forked process does to itself between the guardian and the shim. It makes system calls and nothing else,
//! since it was forked from a process that may have had threads.

use std::os::fd::RawFd;
use std::ptr;

use nomina_abi as abi;

use super::{Step, errno};
use crate::guardian::{REPORT_FAILED, Report};

/// Whose session and terminal a guest has at its start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    /// Nomina's own.
    Callers,
    /// A process group of its own in that, the foreground one of the terminal among the standard streams.
    Foreground,
    /// One of its own, without a terminal.
    Own,
    /// One of its own, whose terminal standard input is.
    Terminal,
}

/// What becomes the shim, by the numbers its descriptors have in the guardian.
pub(crate) struct Recruit<'a> {
    pub(crate) shim: RawFd,
    pub(crate) landlock: RawFd,
    pub(crate) stdio: [RawFd; 3],
    /// Guest's end of the hidden socket.
    pub(crate) socket: RawFd,
    /// Where the listener is handed over, failures are reported and the start is waited for.
    pub(crate) control: RawFd,
    pub(crate) filter: &'a [libc::sock_filter],
    /// Soft `RLIMIT_NOFILE` the guest shall see.
    pub(crate) nofile: u64,
    /// Bound of `RLIMIT_NPROC`.
    pub(crate) nproc: u64,
    pub(crate) session: Session,
    /// NULL-terminated arrays of strings.
    pub(crate) argv: *const *const libc::c_char,
    pub(crate) envp: *const *const libc::c_char,
}

impl Recruit<'_> {
    /// The process, until it is the shim.
    pub(crate) fn run(&self) -> ! {
        let failed = |step: Step| -> ! {
            // SAFETY: system calls only.
            unsafe {
                let bytes = Report { kind: REPORT_FAILED, value: step as i32, errno: errno() }.bytes();
                libc::send(self.control, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
                libc::_exit(125)
            }
        };
        // SAFETY: system calls only, on descriptors and memory that the fork copied.
        unsafe {
            match self.session {
                Session::Callers => {}
                Session::Foreground => {
                    libc::setpgid(0, 0);
                    libc::signal(libc::SIGTTOU, libc::SIG_IGN);
                    for fd in self.stdio {
                        if libc::isatty(fd) == 1 && libc::tcsetpgrp(fd, libc::getpid()) == 0 {
                            break;
                        }
                    }
                    libc::signal(libc::SIGTTOU, libc::SIG_DFL);
                }
                Session::Own => drop(libc::setsid()),
                Session::Terminal => {
                    if libc::setsid() < 0 || libc::ioctl(self.stdio[0], libc::TIOCSCTTY, 0) != 0 {
                        failed(Step::Terminal);
                    }
                }
            }
            for signal in 1..32 {
                // A Rust program ignores SIGPIPE; the guest starts with defaults.
                libc::signal(signal, libc::SIG_DFL);
            }
            let limit_to = |nproc: u64| {
                let mut limit: libc::rlimit = std::mem::zeroed();
                libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit);
                let limit =
                    libc::rlimit { rlim_cur: limit.rlim_cur.min(nproc), rlim_max: limit.rlim_max.min(nproc) };
                libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit);
            };
            limit_to(self.nproc);
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());

            let hidden = u64::from(abi::HIDDEN_FD_BASE + abi::HIDDEN_FDS);
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = hidden.max(limit.rlim_cur).min(limit.rlim_max);
            if limit.rlim_cur < hidden || libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
                failed(Step::Limits);
            }
            // Sources may stand below 3 or in each other's way: move them up first.
            let up = |fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 64);
            let stdio = self.stdio.map(up);
            let (socket, shim) = (up(self.socket), up(self.shim));
            let (control, landlock) = (up(self.control), up(self.landlock));
            for (to, from) in stdio.into_iter().enumerate() {
                if libc::dup2(from, to as i32) < 0 {
                    failed(Step::Descriptors);
                }
            }
            for fd in abi::HIDDEN_FD_BASE..abi::HIDDEN_FD_BASE + abi::HIDDEN_FDS {
                let from = if fd as i32 == abi::FD_SOCK { socket } else { shim };
                if libc::dup2(from, fd as i32) < 0 {
                    failed(Step::Descriptors);
                }
            }
            // Whatever else the caller had open without close-on-exec must not reach the guest.
            let above = abi::HIDDEN_FD_BASE + abi::HIDDEN_FDS;
            for (from, to) in [(3, abi::HIDDEN_FD_BASE - 1), (above, u32::MAX)] {
                libc::syscall(libc::SYS_close_range, from, to, libc::CLOSE_RANGE_CLOEXEC);
            }
            // Below the hidden numbers the guest's limit is the host's; above, the hidden ones do not count.
            let hidden =
                if self.nofile < abi::HIDDEN_FD_BASE.into() { 0 } else { u64::from(abi::HIDDEN_FDS) };
            limit.rlim_cur = (self.nofile + hidden).min(limit.rlim_max);
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
                failed(Step::Limits);
            }
            libc::chdir(c"/".as_ptr());
            libc::umask(0);

            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                failed(Step::NoNewPrivs);
            }
            if libc::syscall(libc::SYS_landlock_restrict_self, landlock, 0) != 0 {
                failed(Step::Landlock);
            }
            if !drop_capabilities() {
                failed(Step::Capabilities);
            }
            let Some(trampoline) = trampoline() else { failed(Step::Trampoline) };
            let program =
                libc::sock_fprog { len: self.filter.len() as u16, filter: self.filter.as_ptr().cast_mut() };
            let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
            let listener =
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program);
            if listener < 0 {
                failed(Step::Seccomp);
            }
            if !send_fd(trampoline, control, listener as RawFd) {
                failed(Step::Handover);
            }
            let mut go = 0u8;
            if libc::read(control, (&raw mut go).cast(), 1) != 1 {
                libc::_exit(125);
            }
            trampoline(
                libc::SYS_execveat,
                i64::from(abi::FD_SHIM),
                c"".as_ptr() as i64,
                self.argv as i64,
                self.envp as i64,
                i64::from(libc::AT_EMPTY_PATH),
            );
            failed(Step::Exec)
        }
    }
}

/// Room beside the guests' tasks in the limit of [`native_nproc`]: what the user starts elsewhere meanwhile must not use it up.
const NPROC_SLACK: u64 = 1024;

/// The native `RLIMIT_NPROC` under which a sandbox can have `tasks` tasks. The kernel compares it with the number of all tasks
/// of the user, in whatever container, which only forks can find out. `None` for users whom the limit does not bind (root),
/// and where it is tighter already.
pub(crate) unsafe fn native_nproc(tasks: u64) -> Option<u64> {
    // SAFETY: system calls on local structures; the children only exit.
    unsafe {
        let mut before: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NPROC, &raw mut before);
        let can_fork = |limit: u64| {
            let limit = libc::rlimit { rlim_cur: limit, ..before };
            libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit);
            match libc::fork() {
                0 => libc::_exit(0),
                pid if pid > 0 => {
                    libc::waitpid(pid, ptr::null_mut(), 0);
                    true
                }
                _ => false,
            }
        };
        // The lowest limit under which a fork works counts the new task.
        let (mut low, mut high) = (0, before.rlim_max.min(1 << 22));
        let bound = !can_fork(0);
        while bound && low < high {
            let middle = low + (high - low) / 2;
            if can_fork(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        libc::setrlimit(libc::RLIMIT_NPROC, &raw const before);
        let wanted = low + tasks + NPROC_SLACK;
        (bound && wanted < before.rlim_max).then_some(wanted)
    }
}

type Trampoline = extern "C" fn(i64, i64, i64, i64, i64, i64) -> i64;

/// Empties all capability sets and the bounding set (`capabilities(7)`). Nothing to do for an ordinary user.
unsafe fn drop_capabilities() -> bool {
    // SAFETY: system calls on local structures.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0
                && errno() != libc::EINVAL
                && errno() != libc::EPERM
            {
                return false;
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        // struct __user_cap_header_struct of version 3, then two words of each set.
        let header: [u32; 2] = [0x2008_0522, 0];
        let data = [0u32; 6];
        libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) == 0
    }
}

/// A page at the shim's address with one system call in it. The filter allows `execveat` of an empty path only from
/// there, and the exec replaces the page by the shim.
unsafe fn trampoline() -> Option<Trampoline> {
    // SAFETY: a fixed mapping at an address that nothing else in this process uses; NOREPLACE fails otherwise.
    unsafe {
        let code: &[u8] = crate::arch::TRAMPOLINE;
        let page = libc::mmap(
            abi::SHIM_BASE as *mut libc::c_void,
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        );
        if page as u64 != abi::SHIM_BASE {
            return None;
        }
        ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
        if libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            return None;
        }
        Some(std::mem::transmute::<*mut libc::c_void, Trampoline>(page))
    }
}

/// Sends one descriptor without allocating.
unsafe fn send_fd(trampoline: Trampoline, socket: RawFd, fd: RawFd) -> bool {
    // SAFETY: the control buffer is large and aligned enough for one descriptor.
    unsafe {
        let mut byte = 0u8;
        let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut space = [0u64; 4];
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd);
        trampoline(libc::SYS_sendmsg, socket.into(), &raw const message as i64, 0, 0, 0) == 1
    }
}
