//! The user notification listener (`seccomp_unotify(2)`): where gate calls arrive.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// `SECCOMP_IOCTL_NOTIF_RECV`, `_SEND`, `_SET_FLAGS` of `linux/seccomp.h` (x86-64 and the other 64-bit ABIs agree).
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
const NOTIF_ADDFD: libc::c_ulong = 0x4018_2103;
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// `SECCOMP_ADDFD_FLAG_SETFD`: at a given number.
const SECCOMP_ADDFD_FLAG_SETFD: u32 = 1;
/// `SECCOMP_ADDFD_FLAG_SEND`: and reply with that number (Linux 5.14).
const SECCOMP_ADDFD_FLAG_SEND: u32 = 2;
/// Wake-ups on the waker's CPU: without it every call costs about ten times more.
const FD_SYNC_WAKE_UP: u64 = 1;

/// A gate call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The notification's id, to be given back with the reply.
    pub id: u64,
    /// Host thread id of the caller: the only identity that counts.
    pub tid: u32,
    /// System call number that notified.
    pub nr: i32,
    /// Argument registers.
    pub args: [u64; 6],
}

/// The listener of a filter.
pub struct Listener {
    fd: OwnedFd,
}

impl Listener {
    /// Takes the descriptor that `seccomp(2)` gave and asks for synchronous wake-ups. The second value tells whether the
    /// kernel has them (Linux 6.6).
    pub fn new(fd: OwnedFd) -> (Listener, bool) {
        // SAFETY: an ioctl with an integer argument.
        let sync = unsafe { libc::ioctl(fd.as_raw_fd(), NOTIF_SET_FLAGS as _, FD_SYNC_WAKE_UP) } == 0;
        (Listener { fd }, sync)
    }

    /// Waits for a gate call. `None`: no task has the filter any more.
    ///
    /// # Errors
    /// Those of the ioctl, except the passing ones (`EINTR`; `ENOENT`: the caller was killed meanwhile).
    pub fn recv(&self) -> io::Result<Option<Call>> {
        loop {
            // SAFETY: an all-zero seccomp_notif is valid, and required by the ioctl.
            let mut notif: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the ioctl writes a seccomp_notif.
            if unsafe { libc::ioctl(self.fd.as_raw_fd(), NOTIF_RECV as _, &raw mut notif) } == 0 {
                return Ok(Some(Call {
                    id: notif.id,
                    tid: notif.pid,
                    nr: notif.data.nr,
                    args: notif.data.args,
                }));
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // The caller died between wake-up and read, or all callers are gone: poll tells which.
                Some(libc::ENOENT) => {
                    let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                    // SAFETY: one valid pollfd.
                    unsafe { libc::poll(&raw mut poll, 1, 0) };
                    if poll.revents & libc::POLLHUP != 0 {
                        return Ok(None);
                    }
                }
                _ => return Err(error),
            }
        }
    }

    /// Installs a copy of `fd` as descriptor `number` of the caller, in place of what is there.
    ///
    /// # Errors
    /// Those of the ioctl: `EBADF` when the caller's `RLIMIT_NOFILE` does not allow the number, `ENOENT` when the caller is gone.
    pub fn install(&self, id: u64, fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
        self.add_fd(id, fd, number, SECCOMP_ADDFD_FLAG_SETFD)
    }

    /// As [`Listener::install`], and answers the call with `number`, all in one: the caller need not be woken twice. There must
    /// be no [`Listener::reply`] after it unless it fails.
    ///
    /// # Errors
    /// As [`Listener::install`].
    pub fn install_and_reply(&self, id: u64, fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
        self.add_fd(id, fd, number, SECCOMP_ADDFD_FLAG_SETFD | SECCOMP_ADDFD_FLAG_SEND)
    }

    fn add_fd(&self, id: u64, fd: BorrowedFd<'_>, number: i32, flags: u32) -> io::Result<()> {
        let mut request = libc::seccomp_notif_addfd {
            id,
            flags,
            srcfd: fd.as_raw_fd() as u32,
            newfd: number as u32,
            newfd_flags: 0,
        };
        // SAFETY: the ioctl reads a seccomp_notif_addfd.
        let got = unsafe { libc::ioctl(self.fd.as_raw_fd(), NOTIF_ADDFD as _, &raw mut request) };
        if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Answers a call: `value` is what the gate call returns, negative errno for failure. A caller that died meanwhile is no
    /// error.
    pub fn reply(&self, id: u64, value: i64) {
        let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
        if (-4095..0).contains(&value) {
            response.error = value as i32;
        } else {
            response.val = value;
        }
        // SAFETY: the ioctl reads a seccomp_notif_resp. ENOENT (caller gone) is nobody's concern.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), NOTIF_SEND as _, &raw mut response) };
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
