//! Descriptors of `fsopen(2)` and `fspick(2)`.
//!
//! In Linux the descriptor is the context; reading it gives the messages about it, one at a time. Here the guest holds one
//! end of a socket pair that keeps the boundaries of messages, and we the other, with the context. Where ours differs:
//! without a message `read(2)` is `EAGAIN`, not `ENODATA`, and a buffer that is too small cuts a message instead of
//! leaving it (`EMSGSIZE`).

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::errno::Result;
use nomina_kernel::vfs::fs_context::FsContext;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::lock::Mutex;
use super::request::host;

/// An open context.
pub struct OpenContext {
    ours: OwnedFd,
    /// Inode number of the guest's end.
    ino: u64,
    /// The context: `uapi_mutex` is its lock.
    pub context: Mutex<FsContext>,
}

impl OpenContext {
    /// Makes the messages that the context has collected readable.
    pub fn publish(&self, context: &mut FsContext) {
        for message in context.take_log() {
            // Linux forgets messages that nobody reads, too.
            let _ = rustix::net::send(&self.ours, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    fn is_closed(&self) -> bool {
        let mut polled = [PollFd::new(&self.ours, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut polled, Some(&now)), Ok(1)) && polled[0].revents().contains(PollFlags::HUP)
    }
}

/// The open ones.
#[derive(Default)]
pub struct FsContexts {
    open: Mutex<Vec<Arc<OpenContext>>>,
}

impl FsContexts {
    /// A descriptor for a new context.
    ///
    /// # Errors
    /// Those of `socketpair(2)`.
    pub fn open(&self, context: FsContext) -> Result<OwnedFd> {
        self.sweep();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(host)?;
        let ino = rustix::fs::fstat(&theirs).map_err(host)?.st_ino;
        let opened = OpenContext { ours, ino, context: Mutex::new(context) };
        self.open.lock().unwrap().push(Arc::new(opened));
        Ok(theirs)
    }

    /// The context a descriptor stands for.
    pub fn find(&self, fd: BorrowedFd<'_>) -> Option<Arc<OpenContext>> {
        let stat = rustix::fs::fstat(fd).ok()?;
        // Inode numbers are those of sockets, which are of one file system.
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Socket {
            return None;
        }
        self.open.lock().unwrap().iter().find(|open| open.ino == stat.st_ino).cloned()
    }

    /// Forgets those whose last descriptor was closed: with them go instances that were never mounted.
    pub fn sweep(&self) {
        let mut open = self.open.lock().unwrap();
        let (gone, left) =
            std::mem::take(&mut *open).into_iter().partition::<Vec<_>, _>(|open| open.is_closed());
        *open = left;
        drop(open);
        drop(gone);
    }
}
