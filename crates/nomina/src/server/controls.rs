//! Files of proc whose writes must reach the supervisor: `uid_map`, `comm`, `sys/kernel/hostname` …
//!
//! The guest holds one end of a socket pair that keeps write boundaries. What it wrote is applied before any later request
//! of the sandbox is served, so that every effect a guest can ask for is seen in order. Where ours differs from Linux: an
//! error of such a write is not given to the `write(2)` itself.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nomina_fs::proc::{TaskKey, with_current};
use nomina_kernel::errno::Result;
use nomina_kernel::vfs::Path;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::guest::GuestThread;
use super::lock::Mutex;
use super::request::host;

struct Control {
    ours: OwnedFd,
    path: Path,
    opener: TaskKey,
}

/// Longest text of one write.
const LONGEST: usize = 4096;

/// The open ones.
#[derive(Default)]
pub struct Controls {
    open: Mutex<Vec<Control>>,
    count: AtomicUsize,
}

impl Controls {
    /// Opens the file at `path` for writing; `text` is what reading it gives first.
    ///
    /// # Errors
    /// Those of `socketpair(2)`.
    pub fn open(&self, text: &[u8], path: Path, thread: &Arc<GuestThread>, flags: u32) -> Result<OwnedFd> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(host)?;
        if flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32 && !text.is_empty() {
            rustix::net::send(&ours, text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(host)?;
        }
        self.open.lock().unwrap().push(Control { ours, path, opener: TaskKey(thread.task.0) });
        self.count.fetch_add(1, Ordering::Release);
        Ok(theirs)
    }

    /// Applies everything written so far.
    pub fn apply(&self) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut open = self.open.lock().unwrap();
        open.retain(|control| {
            let mut buffer = [0u8; LONGEST];
            loop {
                match rustix::net::recv(control.ours.as_fd(), &mut buffer[..], RecvFlags::DONTWAIT) {
                    Ok((0, _)) => return false,
                    Ok((_, len)) => {
                        let text = &buffer[..len.min(LONGEST)];
                        let _ = with_current(control.opener, || control.path.inode().write_text(text));
                    }
                    Err(rustix::io::Errno::AGAIN) => return true,
                    Err(_) => return false,
                }
            }
        });
        self.count.store(open.len(), Ordering::Release);
    }
}
