//! The guardian: a small process between the supervisor and the guests that outlives the supervisor just long enough to
//! kill every guest (rule 7: whichever way the supervisor dies, its guests die within a second).
//!
//! It is the parent of the first guest and, as a child subreaper (`PR_SET_CHILD_SUBREAPER`), inherits every orphan. It watches
//! the supervisor through a pidfd and reports the first guest's exit status. If the guardian itself dies, the guests
//! are orphaned to the supervisor (a subreaper too), which sees the end of the control socket and kills them the same way.
//!
//! Processes that enter the sandbox later are forked from it too ([`crate::launch::Enter`]).
//!
//! It is forked from a process that may have threads, so until it exits it calls nothing but system calls: no allocation,
//! no lock.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::launch::Reception;

/// What the guardian writes on the control socket.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Report {
    /// [`REPORT_PID`], [`REPORT_EXIT`], [`REPORT_STOPPED`] or [`REPORT_FAILED`].
    pub kind: u32,
    /// The first guest's host pid, its wait status (`wait(2)`), or a step number.
    pub value: i32,
    /// For a failure: errno.
    pub errno: i32,
}

/// The first guest's host pid.
pub const REPORT_PID: u32 = 1;
/// The first guest's wait status; the guardian waits for the end of the control socket.
pub const REPORT_EXIT: u32 = 2;
/// The first guest stopped; its wait status.
pub const REPORT_STOPPED: u32 = 4;
/// A step of the launch failed in the first guest; `value` is the step ([`crate::launch::Step`]).
pub const REPORT_FAILED: u32 = 3;

impl Report {
    /// The bytes on the wire.
    pub fn bytes(&self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.value.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.errno.to_ne_bytes());
        bytes
    }

    /// From the wire.
    pub fn parse(bytes: &[u8]) -> Option<Report> {
        let word = |at: usize| Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        Some(Report { kind: word(0)? as u32, value: word(4)?, errno: word(8)? })
    }
}

/// The guardian's life, after the first guest was forked from it. Returns when all guests are dead.
pub(crate) fn watch(supervisor: RawFd, control: RawFd, first: libc::pid_t, reception: &mut Reception<'_>) {
    // SAFETY: plain system calls on valid arguments throughout; this process has one thread.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut mask);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const mask, std::ptr::null_mut());
        libc::sigemptyset(&raw mut mask);
        libc::sigaddset(&raw mut mask, libc::SIGCHLD);
        let signals = libc::signalfd(-1, &raw const mask, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        let mut alive = true;
        loop {
            let mut polls = [
                libc::pollfd { fd: supervisor, events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: control, events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: signals, events: libc::POLLIN, revents: 0 },
            ];
            libc::poll(polls.as_mut_ptr(), 3, -1);
            if polls[0].revents != 0 || polls[1].revents & (libc::POLLHUP | libc::POLLERR) != 0 {
                break;
            }
            if polls[1].revents & libc::POLLIN != 0 && !reception.receive(control) {
                break;
            }
            let mut drain = [0u8; 1024];
            while libc::read(signals, drain.as_mut_ptr().cast(), drain.len()) > 0 {}
            loop {
                let mut status = 0;
                let pid = libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED);
                if pid <= 0 {
                    break;
                }
                if pid == first && alive {
                    let stopped = libc::WIFSTOPPED(status);
                    alive = stopped;
                    let kind = if stopped { REPORT_STOPPED } else { REPORT_EXIT };
                    let report = Report { kind, value: status, errno: 0 }.bytes();
                    libc::send(control, report.as_ptr().cast(), report.len(), libc::MSG_NOSIGNAL);
                } else if !libc::WIFSTOPPED(status) {
                    reception.ended(pid, status);
                }
            }
        }
    }
    kill_descendants();
}

/// Kills and reaps every descendant of this process, which must be a child subreaper: children first; theirs come to us
/// and are killed in the next round. No allocation.
///
/// The limit of processes of each is set to 0 before it is killed, so that a fork bomb cannot outrun us.
pub(crate) fn kill_descendants() {
    loop {
        for_each_child(|pid| {
            // SAFETY: signals and limits for a child of ours, which stays a zombie, its pid unused, until we reap it.
            unsafe {
                let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                libc::prlimit(pid, libc::RLIMIT_NPROC, &raw const none, std::ptr::null_mut());
                libc::kill(pid, libc::SIGKILL);
            }
        });
        // SAFETY: waits for any child; ECHILD ends the loop.
        let mut pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        while pid > 0 {
            // SAFETY: as above, without blocking.
            pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
        }
        // SAFETY: errno is this thread's.
        if pid < 0 && unsafe { *libc::__errno_location() } == libc::ECHILD {
            return;
        }
    }
}

/// Calls `with` for each child of the calling thread (`/proc/thread-self/children`), or, on kernels without that file, for
/// each process whose parent is this one.
fn for_each_child(mut with: impl FnMut(libc::pid_t)) {
    // SAFETY: opens and reads a file into a local buffer.
    unsafe {
        let fd = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return for_each_child_slowly(with);
        }
        let mut buffer = [0u8; 4096];
        let mut number = 0;
        loop {
            let got = libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len());
            if got <= 0 {
                break;
            }
            for &byte in &buffer[..got as usize] {
                if byte.is_ascii_digit() {
                    number = number * 10 + i32::from(byte - b'0');
                } else if number > 0 {
                    with(number);
                    number = 0;
                }
            }
        }
        if number > 0 {
            with(number);
        }
        libc::close(fd);
    }
}

/// As [`for_each_child`] without `CONFIG_PROC_CHILDREN`: asks `waitid` for the parenthood of every pid in use.
fn for_each_child_slowly(mut with: impl FnMut(libc::pid_t)) {
    // SAFETY: `waitid` with WNOWAIT | WNOHANG only looks; it answers ECHILD for what is no child of ours.
    unsafe {
        for pid in 2..4_194_304 {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT;
            if libc::waitid(libc::P_PID, pid as libc::id_t, &raw mut info, flags) == 0 {
                with(pid);
            }
        }
    }
}

/// Makes the calling process the one that inherits guests should the guardian die.
///
/// # Errors
/// What `prctl(2)` gives.
pub fn become_subreaper() -> std::io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Kills guests that were orphaned to this process because the guardian died: children of this process that have `filter`
/// marks are told by `is_guest`.
pub fn kill_orphans(is_guest: impl Fn(libc::pid_t) -> bool) {
    for _ in 0..1000 {
        let mut any = false;
        for_each_child_of_process(|pid| {
            if is_guest(pid) {
                any = true;
                // SAFETY: a signal to, and a wait for, a child of ours.
                unsafe {
                    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                    libc::prlimit(pid, libc::RLIMIT_NPROC, &raw const none, std::ptr::null_mut());
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, std::ptr::null_mut(), 0);
                }
            }
        });
        if !any {
            return;
        }
    }
}

fn for_each_child_of_process(mut with: impl FnMut(libc::pid_t)) {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return };
    for thread in threads.flatten() {
        let Ok(text) = std::fs::read_to_string(thread.path().join("children")) else { continue };
        text.split_ascii_whitespace().filter_map(|word| word.parse().ok()).for_each(&mut with);
    }
}

/// The raw number of a borrowed descriptor, for the code between fork and exec.
pub(crate) fn raw(fd: BorrowedFd<'_>) -> RawFd {
    fd.as_raw_fd()
}
