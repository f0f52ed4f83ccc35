//! Connections that the other side, outside of the sandbox, has reset (`tcp_reset`).
//!
//! A guest's socket is a unix socket of the host, which the host marks with `ECONNRESET` when its peer, ours, goes with something
//! unread. There is nothing unread where the guest has sent nothing lately, so it is made: a byte is sent from a copy of the guest's
//! own descriptor. Who has that, nobody tells; guests are looked through for it, which takes at most a tenth of the time. Where that
//! is not allowed, or where the guest has said that it sends no more, it sees the end of the connection.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::net::SendFlags;

use super::super::Server;

/// The time from which guests may be looked through again.
#[derive(Default)]
pub struct Pace(Option<Instant>);

impl Server {
    /// Closes `ours`, our end of the guest's connection between these addresses in a namespace, so that the guest is told of a
    /// reset.
    pub fn reset_connection(&self, net: u64, local: SocketAddr, peer: SocketAddr, ours: OwnedFd) {
        let unread = rustix::io::ioctl_fionread(&ours).is_ok_and(|bytes| bytes > 0);
        let ends = |socket: &super::InetSocket| {
            let state = socket.state.lock().unwrap();
            (socket.is_stream() && state.local == local && state.peer == Some(peer)).then_some(state.ino)
        };
        let ino = || {
            let names = self.inet.names();
            let mut here = names.all().filter(|socket| socket.net_ns() == net);
            here.find_map(|socket| ends(socket))
        };
        if !unread
            && let Some(ino) = ino()
            && let Some(guest) = self.copy_of_socket(ino)
        {
            let _ = rustix::net::send(&guest, b"x", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
        drop(ours);
    }

    /// A copy of a guest's descriptor of the socket with this inode number, if there is time to look for it.
    fn copy_of_socket(&self, ino: u64) -> Option<OwnedFd> {
        /// Between two looks passes so many times what one takes.
        const REST: u32 = 9;
        let mut pace = self.inet.pace.lock().unwrap();
        let begin = Instant::now();
        if pace.0.is_some_and(|next| begin < next) {
            return None;
        }
        let wanted = format!("socket:[{ino}]");
        let mut seen = HashSet::from([0]);
        let found = self.guests.all().into_iter().find_map(|thread| {
            let pid = thread.process.host_pid.load(Ordering::Acquire);
            let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok().filter(|_| seen.insert(pid))?;
            entries.flatten().find_map(|entry| {
                let link = std::fs::read_link(entry.path()).ok()?;
                let number = entry.file_name().to_str()?.parse().ok()?;
                let copy = (link.as_os_str().as_bytes() == wanted.as_bytes())
                    .then(|| thread.process.getfd(number))?;
                // The number may be another file's by now.
                copy.ok().filter(|fd| rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_ino == ino))
            })
        });
        pace.0 = Some(Instant::now() + begin.elapsed() * REST);
        found
    }
}
