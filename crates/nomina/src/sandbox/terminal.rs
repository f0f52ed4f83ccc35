//! The user's terminal while a sandbox is in the foreground of it.
//!
//! The first program has a process group of its own, which is the foreground group, so that what is typed (`^C`, `^Z`) reaches
//! the sandbox and not Nomina. To the user's shell the two are one job all the same: when the first program stops, we take the
//! terminal and stop too; when the shell continues us, we hand the terminal on and continue the guests; when the sandbox
//! ends, the terminal is ours again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpgrp, kill_current_process_group, test_kill_process_group};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};

/// How long a stop may take to begin. Where nobody could continue us the host ignores it, and we go on.
const STOP: Duration = Duration::from_millis(50);

/// What the handler of SIGCONT needs: descriptor of the terminal, and the group to give it to.
static TTY: AtomicI32 = AtomicI32::new(-1);
static GUESTS: AtomicI32 = AtomicI32::new(0);
static CONTINUED: AtomicBool = AtomicBool::new(false);

/// A terminal whose foreground the sandbox has.
#[derive(Debug)]
pub struct Foreground {
    tty: OwnedFd,
    group: Pid,
}

/// Whether a program with these streams is meant to talk to the user: input and output are a terminal, and our process group is
/// the foreground of it. In a pipeline the others of the group need the terminal as much.
pub fn is_foreground(streams: &[BorrowedFd<'_>; 3]) -> bool {
    let own = getpgrp();
    let ours = |fd: &BorrowedFd<'_>| isatty(fd) && tcgetpgrp(fd).is_ok_and(|group| group == own);
    ours(&streams[0]) && ours(&streams[1])
}

impl Foreground {
    /// Of `tty`, for the guests' process group `group`.
    ///
    /// # Errors
    /// `EINVAL` for an impossible group; those of `dup(2)`.
    pub fn new(tty: BorrowedFd<'_>, group: i32) -> io::Result<Foreground> {
        let group = Pid::from_raw(group).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        Ok(Foreground { tty: tty.try_clone_to_owned()?, group })
    }

    /// Makes our process group the foreground again, if guests have it, or a group that is no more.
    fn take_back(&self, is_guest: impl Fn(i32) -> bool) {
        let Ok(now) = tcgetpgrp(&self.tty) else { return };
        let dead = || test_kill_process_group(now) == Err(rustix::io::Errno::SRCH);
        let theirs = now == self.group || is_guest(now.as_raw_nonzero().get()) || dead();
        if now == getpgrp() || !theirs {
            return;
        }
        // It may be a group that the first program made.
        GUESTS.store(now.as_raw_nonzero().get(), Ordering::Release);
        // From the background this stops the caller, unless the signal is blocked.
        // SAFETY: masks are local; the thread's mask is restored.
        unsafe {
            let mut blocked: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut blocked);
            libc::sigaddset(&raw mut blocked, libc::SIGTTOU);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const blocked, &raw mut before);
            let _ = tcsetpgrp(self.tty.as_fd(), getpgrp());
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        }
    }

    /// Follows the user's shell when it continues us. For a program that is nothing but the sandbox: it sets the process's handler
    /// of SIGCONT.
    pub fn follow(&self) {
        GUESTS.store(self.group.as_raw_nonzero().get(), Ordering::Release);
        TTY.store(self.tty.as_raw_fd(), Ordering::Release);
        // SAFETY: the handler makes async-signal-safe calls only.
        unsafe { libc::signal(libc::SIGCONT, on_continue as *const () as libc::sighandler_t) };
    }

    /// The first program has stopped: so do we, with everybody else of our job. `is_guest` tells whether a process is one.
    pub fn stopped(&self, is_guest: impl Fn(i32) -> bool) {
        self.take_back(is_guest);
        CONTINUED.store(false, Ordering::Release);
        let _ = kill_current_process_group(Signal::TSTP);
        std::thread::sleep(STOP);
        if !CONTINUED.load(Ordering::Acquire) {
            hand_on();
        }
    }
}

extern "C" fn on_continue(_signal: i32) {
    CONTINUED.store(true, Ordering::Release);
    hand_on();
}

/// Gives the terminal to the guests, if it is ours, and lets them continue.
fn hand_on() {
    let (tty, guests) = (TTY.load(Ordering::Acquire), GUESTS.load(Ordering::Acquire));
    if guests <= 0 {
        return;
    }
    // SAFETY: async-signal-safe system calls on a descriptor that is open as long as it is stored.
    unsafe {
        if tty >= 0 && libc::tcgetpgrp(tty) == libc::getpgrp() {
            libc::tcsetpgrp(tty, guests);
        }
        libc::kill(-guests, libc::SIGCONT);
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        let _ = TTY.compare_exchange(self.tty.as_raw_fd(), -1, Ordering::AcqRel, Ordering::Relaxed);
        self.take_back(|_| false);
        GUESTS.store(0, Ordering::Release);
    }
}
