//! Standard streams: the only host descriptors of the caller that a guest gets.
//!
//! A descriptor of a directory, or one opened with `O_PATH`, names everything below it, and a datagram socket sends to
//! whatever address it is told; so those are refused, here and at every other place where handles are given out.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags};
use rustix::net::{SocketType, sockopt::socket_type};

use super::ConfigError;

/// A standard stream of the first program.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The caller's own; `/dev/null` where that is closed.
    #[default]
    Inherit,
    /// `/dev/null`.
    Null,
    /// This descriptor: a regular file, pipe, stream socket or terminal. What it reaches, the program reaches.
    Fd(OwnedFd),
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self::Fd(fd)
    }
}

impl Stdio {
    pub(super) fn check(&self, which: &'static str, own: BorrowedFd<'_>) -> Result<(), ConfigError> {
        let fd = match self {
            Self::Inherit => own,
            Self::Null => return Ok(()),
            Self::Fd(fd) => fd.as_fd(),
        };
        Stdio::check_fd(fd, which)
    }

    /// Checks that a descriptor reaches no further than a stream.
    ///
    /// # Errors
    /// [`ConfigError::Stream`].
    pub(crate) fn check_fd(fd: BorrowedFd<'_>, which: &'static str) -> Result<(), ConfigError> {
        // Closed: there is nothing to reach.
        let Ok(stat) = rustix::fs::fstat(fd) else { return Ok(()) };
        let refuse = |what| Err(ConfigError::Stream { which, what });
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => refuse("a directory"),
            FileType::Socket
                if !matches!(socket_type(fd), Ok(SocketType::STREAM | SocketType::SEQPACKET)) =>
            {
                refuse("a datagram or raw socket")
            }
            _ if rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::PATH)) => {
                refuse("an O_PATH descriptor")
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn check(fd: impl Into<OwnedFd>) -> Result<(), ConfigError> {
        Stdio::Fd(fd.into()).check("stdin", rustix::stdio::stdin())
    }

    fn open(path: &str, flags: OFlags) -> OwnedFd {
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).unwrap()
    }

    #[test]
    fn files_pipes_and_stream_sockets_are_streams() {
        assert!(check(open("/etc/passwd", OFlags::RDONLY)).is_ok());
        assert!(check(open("/dev/null", OFlags::RDWR)).is_ok());
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert!(check(read).is_ok() && check(write).is_ok());
        assert!(check(UnixStream::pair().unwrap().0).is_ok());
        assert!(Stdio::Null.check("stdin", rustix::stdio::stdin()).is_ok());
    }

    #[test]
    fn what_names_other_things_is_refused() {
        let refused = |result| matches!(result, Err(ConfigError::Stream { which: "stdin", .. }));
        assert!(refused(check(open("/", OFlags::RDONLY))));
        assert!(refused(check(open("/etc/passwd", OFlags::PATH))));
        assert!(refused(check(UnixDatagram::unbound().unwrap())));
    }
}
