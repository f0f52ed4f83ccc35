//! Sockets whose peer is gone.
//!
//! In Linux the next send without an address fails with `ECONNREFUSED`, and those after it with `ENOTCONN`
//! (`unix_dgram_sendmsg`). Here that send is native, on a seqpacket socket, which knows no such errors. So it succeeds and
//! reports itself to the thread that makes it, as a write to a [control file](super::super::controls) does, and gets its result
//! before the guest sees any ([`Datagrams::result`]).
//!
//! Only one thread can be told. So this is for a socket that one process without threads holds; any other, and one to which
//! somebody writes without asking for the result, is shut down, and sending fails with `EPIPE`.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::task::TaskId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, Shutdown};

use super::super::Server;
use super::super::controls::report_writes;
use super::super::guest::GuestThread;
use super::super::reaper::is_zombie_or_alive;
use super::{Datagram, Datagrams};

/// What is known of such a socket.
pub struct Orphan {
    /// The thread that is told of writes.
    owner: TaskId,
    /// It has been told that the peer is gone.
    refused: bool,
    /// How many writes it asked about.
    asked: u64,
    /// How many messages came.
    came: u64,
}

/// Messages that are taken off a socket at a time; a guest that goes on sending must not keep the relay at it.
const MOST: usize = 1024;

/// These sockets have lost their peers.
pub(super) fn adopt(server: &Arc<Server>, sockets: &[Arc<Datagram>]) {
    if sockets.is_empty() {
        return;
    }
    let mut holders = holders(server);
    // A process that is about to introduce itself is not known for a moment.
    for _ in 0..3 {
        if sockets.iter().all(|socket| holders.contains_key(&socket.ino)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
        holders = self::holders(server);
    }
    for socket in sockets {
        socket.connect(None);
        let owner = match holders.get(&socket.ino).map(Vec::as_slice) {
            Some([only]) if !only.process.threaded.load(Ordering::Acquire) => only,
            _ => {
                socket.shut();
                continue;
            }
        };
        if socket.report_to(owner).is_err() {
            socket.shut();
        }
    }
}

/// Which guest processes hold which sockets, by inode number.
fn holders(server: &Arc<Server>) -> HashMap<u64, Vec<Arc<GuestThread>>> {
    let mut holders: HashMap<u64, Vec<Arc<GuestThread>>> = HashMap::new();
    for thread in server.leaders() {
        let pid = thread.process.host_pid.load(Ordering::Acquire);
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(link) = std::fs::read_link(entry.path()) else { continue };
            let ino =
                link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            let Some(ino) = ino else { continue };
            let of = holders.entry(ino).or_default();
            if !of.iter().any(|known| Arc::ptr_eq(known, &thread)) {
                of.push(thread.clone());
            }
        }
    }
    holders
}

impl Datagram {
    fn shut(&self) {
        let _ = rustix::net::shutdown(&self.ours, Shutdown::Read);
    }

    /// Has the guest's writes reported to `owner`, the only thread that makes any.
    fn report_to(&self, owner: &GuestThread) -> std::io::Result<()> {
        report_writes(self.ours.as_fd(), owner)?;
        // A number that belongs to somebody else by now must not get signals.
        if !owner.process.pidfd.get().is_some_and(is_running) {
            self.report_no_more();
            return Err(std::io::ErrorKind::NotFound.into());
        }
        // What was sent before then is not asked about.
        let mut byte = [0u8; 1];
        for _ in 0..MOST {
            if rustix::net::recv(&self.ours, &mut byte, RecvFlags::DONTWAIT).is_err() {
                break;
            }
        }
        let orphan = Orphan { owner: owner.task, refused: false, asked: 0, came: 0 };
        self.state.lock().unwrap().orphan = Some(orphan);
        Ok(())
    }

    /// Ends the reports.
    pub(super) fn report_no_more(&self) {
        // SAFETY: a descriptor of ours and integers.
        unsafe {
            let flags = libc::fcntl(self.ours.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(self.ours.as_raw_fd(), libc::F_SETFL, flags & !libc::O_ASYNC);
        }
    }

    /// A message without a destination came.
    pub(super) fn lost_one(&self) {
        let mut state = self.state.lock().unwrap();
        let Some(orphan) = &mut state.orphan else { return };
        orphan.came += 1;
        if orphan.came > orphan.asked + 1 {
            // Somebody has been told of success.
            state.orphan = None;
            drop(state);
            self.report_no_more();
            self.shut();
        }
    }
}

/// Whether a process has not ended.
fn is_running(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    is_zombie_or_alive(pidfd) && matches!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)), Ok(0))
}

impl Datagrams {
    /// What a native send of `thread` on this socket shall have returned; `None` for sockets that are not orphans.
    pub fn result(&self, thread: TaskId, socket: &OwnedFd) -> Option<Result<i64>> {
        let stat = rustix::fs::fstat(socket).ok()?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            return None;
        }
        let socket = self.by_ino(stat.st_ino)?;
        let mut state = socket.state.lock().unwrap();
        let orphan = state.orphan.as_mut().filter(|orphan| orphan.owner == thread)?;
        orphan.asked += 1;
        // The message must be gone before the socket gets another peer.
        let _ = rustix::net::recv(&socket.ours, &mut [0u8; 1], RecvFlags::DONTWAIT);
        Some(Err(if std::mem::replace(&mut orphan.refused, true) {
            Errno::ENOTCONN
        } else {
            Errno::ECONNREFUSED
        }))
    }
}
