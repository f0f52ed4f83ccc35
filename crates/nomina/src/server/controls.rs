//! Files of proc whose writes must reach the supervisor: `uid_map`, `comm`, `sys/kernel/hostname` …
//!
//! In Linux the file's own `write` runs inside `write(2)`, whose result is its result. Here `write(2)` is native: the guest
//! holds one end of a socket pair that keeps write boundaries, and we the other. The host calls the opener ([`SIG_CALL`])
//! whenever something arrives at our end (`F_SETSIG`), which it does inside the writing call; so the shim of the opener asks
//! for the true result ([`Controls::result`]) before the guest sees any. Handles that do not report writes cost nothing.
//!
//! What was written is in any case applied before a later request of the sandbox is served, so every effect a guest can ask
//! for is seen in order; and, where nobody asks for anything, by and by ([`super::reaper`]). Where ours differs from Linux: a thread that did not open the file itself (a forked child, the
//! receiver of a passed descriptor) is told of success whatever becomes of its write, and a write is made with the
//! credentials of the opener. The handle cannot seek (`ESPIPE`), as if every file were read and written from its start on.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nomina_abi::{SIG_CALL, called};
use nomina_fs::proc::{TaskKey, with_current};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::Path;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType};

use super::guest::GuestThread;
use super::lock::Mutex;
use super::request::host;

struct Control {
    ours: OwnedFd,
    /// Inode number of the guest's end.
    ino: u64,
    path: Path,
    opener: TaskKey,
    /// Where the next write goes (`f_pos`).
    position: u64,
    /// What became of the latest write, until its writer asks.
    result: Option<Result<()>>,
}

/// One more than the longest text that a control file takes (a page).
const TOO_LONG: usize = 4096;

/// More messages than a socket holds (each takes 768 bytes at least of twice `net.core.wmem_max`). A guest that goes on
/// writing must not keep the supervisor at it.
const MOST: usize = 1024;

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
    /// Those of `socketpair(2)`; `ENFILE` when too many are open.
    pub fn open(&self, text: &[u8], path: Path, thread: &Arc<GuestThread>, flags: u32) -> Result<OwnedFd> {
        if self.count.load(Ordering::Acquire) >= nomina_fs::wait::descriptor_share() {
            return Err(Errno::ENFILE);
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(host)?;
        if flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32 && !text.is_empty() {
            rustix::net::send(&ours, text, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(host)?;
        }
        // Behind the text the reader meets the end of the file.
        rustix::net::shutdown(&ours, Shutdown::Write).map_err(host)?;
        report_writes(ours.as_fd(), thread).map_err(host)?;
        let ino = rustix::fs::fstat(&theirs).map_err(host)?.st_ino;
        let opener = TaskKey(thread.task.0);
        let control = Control { ours, ino, path, opener, position: 0, result: None };
        self.open.lock().unwrap().push(control);
        self.count.fetch_add(1, Ordering::Release);
        Ok(theirs)
    }

    /// The file behind a guest's descriptor, if that is a control file open for writing.
    pub fn find(&self, fd: BorrowedFd<'_>) -> Option<Path> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let stat = rustix::fs::fstat(fd).ok()?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            return None;
        }
        // Sockets have their inode numbers from one allocator for the whole host.
        let open = self.open.lock().unwrap();
        open.iter().find(|control| control.ino == stat.st_ino).map(|control| control.path.clone())
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// Applies everything written so far.
    pub fn apply(&self) {
        if !self.any() {
            return;
        }
        let mut open = self.open.lock().unwrap();
        open.retain_mut(Control::apply);
        self.count.store(open.len(), Ordering::Release);
    }

    /// What became of the latest write to this descriptor, which has been applied; once, and only for who has opened it. `None` for one
    /// that is no control file and when there was none.
    pub fn result(&self, task: TaskId, fd: BorrowedFd<'_>) -> Option<Result<()>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let stat = rustix::fs::fstat(fd).ok()?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            return None;
        }
        let mut open = self.open.lock().unwrap();
        let is_it = |control: &&mut Control| control.ino == stat.st_ino && control.opener == TaskKey(task.0);
        open.iter_mut().find(is_it)?.result.take()
    }
}

impl Control {
    /// Applies what had been written before; false when the guest's end is closed.
    fn apply(&mut self) -> bool {
        let mut buffer = [0u8; TOO_LONG];
        for _ in 0..MOST {
            match rustix::net::recv(
                self.ours.as_fd(),
                &mut buffer[..],
                RecvFlags::DONTWAIT | RecvFlags::TRUNC,
            ) {
                // The end, or an empty write.
                Ok((0, _)) if self.is_closed() => return false,
                Ok((_, len)) => self.write(&buffer[..len.min(TOO_LONG)], len),
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    fn write(&mut self, text: &[u8], len: usize) {
        let result = if len >= TOO_LONG {
            Err(Errno::EINVAL)
        } else {
            with_current(self.opener, || self.path.inode().write_text(text, self.position))
        };
        if result.is_ok() {
            self.position += len as u64;
        }
        self.result = Some(result);
    }

    fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(&self.ours, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        !matches!(poll(&mut fds, Some(&now)), Ok(0))
    }
}

/// Has the host call `thread` at every event of `fd`: a message, for a socket; a notification, for inotify.
///
/// # Errors
/// Those of `fcntl(2)`.
pub fn report_writes(fd: BorrowedFd<'_>, thread: &GuestThread) -> std::io::Result<()> {
    thread.reports.store(true, Ordering::Release);
    if let Some(image) = thread.image() {
        image.slot.call(called::REPORTS);
    }
    signal_at_events(fd, SIG_CALL, thread.host_tid.load(Ordering::Acquire), true)
}

/// Has the host send `signal` to a thread or a process at every event of `fd`.
///
/// # Errors
/// Those of `fcntl(2)`.
pub fn signal_at_events(fd: BorrowedFd<'_>, signal: i32, pid: i32, thread: bool) -> std::io::Result<()> {
    let owner = FOwnerEx { kind: if thread { F_OWNER_TID } else { F_OWNER_PID }, pid };
    let raw = fd.as_raw_fd();
    // SAFETY: a descriptor of ours, an integer, and a structure that is read.
    let failed = unsafe {
        libc::fcntl(raw, F_SETSIG, signal) < 0
            || libc::fcntl(raw, F_SETOWN_EX, &raw const owner) < 0
            || libc::fcntl(raw, libc::F_SETFL, libc::fcntl(raw, libc::F_GETFL) | libc::O_ASYNC) < 0
    };
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;
const F_OWNER_PID: libc::c_int = 1;

/// `struct f_owner_ex` (`fcntl(2)`).
#[repr(C)]
struct FOwnerEx {
    kind: libc::c_int,
    pid: libc::pid_t,
}
