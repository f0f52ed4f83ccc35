//! Descriptors that a request names, in the supervisor's hands.
//!
//! In Linux a system call finds the file of a descriptor in the table of its caller. The supervisor takes a copy with
//! `pidfd_getfd(2)`. Where that is refused (the profiles of container engines, `kernel.yama.ptrace_scope` above 1), the guest
//! is asked to *give* it: the reply says so, the shim sends the descriptor over its hidden socket and asks again.
//!
//! Nothing is believed that was not before: which file stands at a number is the guest's to decide in either case. That the
//! message is the asking process's own, the kernel says (`SCM_CREDENTIALS`): others may hold the socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_abi as abi;
use nomina_gate::sock;
use nomina_kernel::errno::{Errno, Result};
use rustix::fs::{Mode, OFlags};

use super::guest::{GuestFiles, GuestProcess, GuestThread};
use super::request::{Ctx, host};

/// Most descriptors that wait for their requests at one socket. More come only from a guest that was not asked.
const MAX_WAITING: usize = 64;

/// A message of a guest.
pub struct Given {
    host_pid: i32,
    slot: u32,
    fd: i32,
    /// `None`: the guest has no such descriptor.
    file: Option<OwnedFd>,
}

/// Whether the host does not let the supervisor take descriptors.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES))
}

impl Ctx<'_> {
    /// The file of descriptor `fd` of the caller.
    ///
    /// # Errors
    /// `EBADF` when the caller has no such descriptor, `ESRCH` when it is gone. Any other failure may mean that the guest
    /// has to give it first: then the service's result does not count.
    pub fn getfd(&self, fd: i32) -> Result<OwnedFd> {
        match self.thread.process.getfd(fd) {
            Err(error) if is_refusal(&error) => self.given(fd),
            other => other.map_err(host),
        }
    }

    fn given(&self, fd: i32) -> Result<OwnedFd> {
        let files = self.server.socket_of(self.thread, self.call)?;
        files.receive_given()?;
        let (host_pid, slot) = self.giver();
        let given = files.given.lock().unwrap();
        match given.iter().find(|given| (given.host_pid, given.slot, given.fd) == (host_pid, slot, fd)) {
            Some(given) => given.file.as_ref().ok_or(Errno::EBADF)?.try_clone().map_err(host),
            None => {
                self.wanted.set(Some(fd));
                Err(Errno::EAGAIN)
            }
        }
    }

    fn giver(&self) -> (i32, u32) {
        (self.host_pid(), self.slot.index())
    }

    /// Drops what was given for the request, which is done.
    pub fn drop_given(&self) {
        let (host_pid, slot) = self.giver();
        let files = self.thread.files();
        let mut given = files.given.lock().unwrap();
        if !given.is_empty() {
            given.retain(|given| (given.host_pid, given.slot) != (host_pid, slot));
        }
    }
}

impl GuestFiles {
    /// Takes what guests have sent.
    fn receive_given(&self) -> Result<()> {
        let socket = self.end()?;
        let mut given = self.given.lock().unwrap();
        if !self.takes_given.swap(true, Ordering::AcqRel) {
            sock::pass_credentials(socket).map_err(host)?;
        }
        let mut data = [0u8; 8];
        while let Some(message) = sock::try_recv(socket, &mut data).map_err(host)? {
            let words = [&data[..4], &data[4..]].map(|word| word.try_into().unwrap_or_default());
            if given.len() >= MAX_WAITING {
                given.remove(0);
            }
            given.push(Given {
                host_pid: message.pid,
                slot: u32::from_ne_bytes(words[0]),
                fd: i32::from_ne_bytes(words[1]),
                file: message.fds.into_iter().next(),
            });
        }
        Ok(())
    }
}

impl GuestProcess {
    /// Copies descriptor `fd` of the guest (`pidfd_getfd(2)`).
    ///
    /// # Errors
    /// `EBADF` when the guest has no such descriptor, `ESRCH` when it is gone, `EPERM` or `ENOSYS` where the host refuses.
    pub fn getfd(&self, fd: i32) -> io::Result<OwnedFd> {
        use std::os::fd::FromRawFd;
        let pidfd = self.pidfd.get().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
        if is_hidden(fd) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: three integers; the result, when not negative, is a descriptor that only we own.
        unsafe {
            let got = libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0);
            if got < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(got as i32)) }
        }
    }
}

/// Whether a number is one of the shim's descriptors.
pub fn is_hidden(fd: i32) -> bool {
    (abi::HIDDEN_FD_BASE..abi::HIDDEN_FD_BASE + abi::HIDDEN_FDS).contains(&(fd as u32))
}

/// Looks at descriptor `fd` of a guest that has not asked for anything: the file and the flags it was opened with. Where
/// descriptors cannot be taken, the file is one with `O_PATH`.
///
/// # Errors
/// `EBADF` when the guest has no such descriptor, `ESRCH` when it is gone; others of `open(2)`.
pub fn look_at(thread: &Arc<GuestThread>, fd: i32) -> io::Result<(OwnedFd, OFlags)> {
    match thread.process.getfd(fd) {
        Err(error) if is_refusal(&error) => {}
        other => {
            let file = other?;
            let flags = rustix::fs::fcntl_getfl(&file)?;
            return Ok((file, flags));
        }
    }
    let pid = thread.process.host_pid.load(Ordering::Acquire);
    let bad = |error: rustix::io::Errno| match error {
        rustix::io::Errno::NOENT => io::Error::from_raw_os_error(libc::EBADF),
        other => other.into(),
    };
    let path = format!("/proc/{pid}/fd/{fd}");
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(bad)?;
    let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}"))?;
    let flags =
        info.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    let flags = flags.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
    Ok((file, OFlags::from_bits_retain(flags)))
}
