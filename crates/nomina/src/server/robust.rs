//! Robust locks of processes that a signal ends (`set_robust_list(2)`).
//!
//! When a thread ends, Linux marks the locks in its robust list which name it as their holder. The names are thread ids, and
//! those in guests' memory are the guest's, which the host does not know: it marks nothing. The shim does it at `exit(2)` and
//! `exit_group(2)`. A process that a fatal signal ends has no such moment; so where it could share locks with others, the
//! supervisor first tells it to mark them ([`nomina_abi::SI_END`]) and sends the signal when it says that it has, at the
//! latest [`PATIENCE`] later.
//!
//! Where ours differs: a process that is stopped, or is ended by the terminal, by a timer, by `SIGPIPE` or from outside, marks
//! nothing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nomina_abi as abi;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::guest::GuestProcess;
use super::lock::Mutex;

/// `siginfo_t` as bytes.
pub type Info = [u8; 128];

/// How long a process may take to mark its locks.
const PATIENCE: Duration = Duration::from_millis(10);
/// Most processes that are told at a time; others end at once.
const MOST: usize = 64;

struct Condemned {
    process: Arc<GuestProcess>,
    signal: i32,
    info: Info,
    until: Instant,
}

/// Processes that have been told to mark their locks.
pub struct Robust {
    condemned: Mutex<Vec<Condemned>>,
    /// Expires when the first must wait no longer.
    pub timer: OwnedFd,
}

impl Robust {
    /// None.
    ///
    /// # Errors
    /// Those of `timerfd_create(2)`.
    pub fn new() -> io::Result<Robust> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Robust { condemned: Mutex::default(), timer: timerfd_create(TimerfdClockId::Monotonic, flags)? })
    }

    /// If `signal` is about to end a process that may hold locks which others see, tells it to mark them. `false`: the
    /// signal is to be sent at once.
    pub fn tell(&self, process: &Arc<GuestProcess>, signal: i32, info: &Info) -> bool {
        let pid = process.host_pid.load(Ordering::Acquire);
        let Some(pidfd) = process.pidfd.get() else { return false };
        if !ends(pid, signal) || !shares_memory(pid) {
            return false;
        }
        let mut condemned = self.condemned.lock().unwrap();
        if let Some(told) = condemned.iter_mut().find(|other| Arc::ptr_eq(&other.process, process)) {
            if signal == libc::SIGKILL {
                (told.signal, told.info) = (signal, *info);
            }
            return true;
        }
        let mut order = [0; 128];
        order[..4].copy_from_slice(&abi::SIG_CALL.to_ne_bytes());
        order[8..12].copy_from_slice(&abi::SI_END.to_ne_bytes());
        order[24..28].copy_from_slice(&signal.to_ne_bytes());
        if condemned.len() >= MOST || !send(pidfd, abi::SIG_CALL, &order) {
            return false;
        }
        let until = Instant::now() + PATIENCE;
        condemned.push(Condemned { process: process.clone(), signal, info: *info, until });
        if condemned.len() == 1 {
            self.wake_after(PATIENCE);
        }
        true
    }

    /// A process says that it has marked its locks.
    pub fn marked(&self, process: &Arc<GuestProcess>) {
        let mut condemned = self.condemned.lock().unwrap();
        let at = condemned.iter().position(|other| Arc::ptr_eq(&other.process, process));
        if let Some(at) = at {
            condemned.swap_remove(at).end();
        }
    }

    /// The timer has expired: ends those that have not answered.
    pub fn expired(&self) {
        let mut expirations = [0; 8];
        let _ = rustix::io::read(&self.timer, &mut expirations);
        let mut condemned = self.condemned.lock().unwrap();
        let now = Instant::now();
        condemned.retain(|process| {
            let waits = process.until > now;
            if !waits {
                process.end();
            }
            waits
        });
        if let Some(next) = condemned.iter().map(|process| process.until).min() {
            self.wake_after(next.saturating_duration_since(now).max(Duration::from_millis(1)));
        }
    }

    fn wake_after(&self, delay: Duration) {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: 0, tv_nsec: i64::from(delay.subsec_nanos()) };
        let times = Itimerspec { it_interval: zero, it_value: value };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &times);
    }
}

impl Condemned {
    fn end(&self) {
        if let Some(pidfd) = self.process.pidfd.get() {
            send(pidfd, self.signal, &self.info);
        }
    }
}

fn send(pidfd: &OwnedFd, signal: i32, info: &Info) -> bool {
    // SAFETY: a pidfd and a valid siginfo.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info.as_ptr(), 0) == 0 }
}

/// Whether a signal ends a process, as far as that can be told. Only signals that are sent for that are looked at.
fn ends(pid: i32, signal: i32) -> bool {
    if signal == libc::SIGKILL {
        return true;
    }
    const FATAL: [i32; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGABRT, libc::SIGTERM];
    if !FATAL.contains(&signal) {
        return false;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let has = |field: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_none_or(|mask| mask >> (signal - 1) & 1 != 0)
    };
    // What the guest blocks, only the shim knows.
    !has("SigCgt") && !has("SigIgn")
}

/// Whether a process has memory that it can write and others can see, other than the supervisor's.
fn shares_memory(pid: i32) -> bool {
    let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.split(|&byte| byte == b'\n').any(is_shared_and_writable)
}

/// Whether a line of `maps` shows such memory (`proc_pid_maps(5)`).
fn is_shared_and_writable(line: &[u8]) -> bool {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let Some(&[_, b'w', _, b's']) = words.nth(1) else { return false };
    words.nth(3).is_none_or(|name| !name.starts_with(b"/memfd:nomina-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_that_others_write_is_shared() {
        assert!(is_shared_and_writable(
            b"7f0000000000-7f0000001000 rw-s 00000000 00:01 1033   /dev/zero (deleted)"
        ));
        assert!(is_shared_and_writable(b"7f0000000000-7f0000001000 rw-s 00000000 fe:01 4711   /srv/a file"));
        assert!(!is_shared_and_writable(b"7f0000000000-7f0000001000 rw-p 00000000 fe:01 4711   /srv/file"));
        assert!(!is_shared_and_writable(b"7f0000000000-7f0000001000 r--s 00000000 fe:01 4711   /srv/file"));
        assert!(!is_shared_and_writable(
            b"7f0000000000-7f0000001000 rw-s 00000000 00:01 1   /memfd:nomina-region (deleted)"
        ));
        assert!(!is_shared_and_writable(b""));
    }
}
