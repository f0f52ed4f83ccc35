//! Connections whose other end is no guest's socket: a machine behind the way out, or behind a device of packets.
//!
//! The guest's socket is connected to one of ours at once. While the real connection is being made, it looks as in `SYN_SENT`: it
//! is not writable, since its buffer is small and full of a filler that our end has not taken, and there is nothing to read. When
//! the connection is there, our end takes the filler, the buffer gets its size back, and who waits is woken. When it fails, our end
//! goes with the filler unread, which the host tells as an error; which one, `SO_ERROR` and `connect(2)` say.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use rustix::event::EventfdFlags;
use rustix::net::{SendFlags, sockopt};

use super::super::request::host;
use super::engine::drain;
use super::{Inet, InetSocket, TcpState};

/// Of the filler, in bytes: more than the smallest buffer of the host's takes at a time.
const FILLER: usize = 4096;

/// A connection that is being made.
pub struct Outward {
    socket: Arc<InetSocket>,
    /// A copy of the guest's descriptor, for as long as it waits.
    guest: OwnedFd,
    /// Our end, until it is known what became of the connection.
    ours: Option<OwnedFd>,
    /// How much filler there is, in bytes.
    filler: usize,
    /// The size that the guest's buffer had, in bytes.
    buffer: usize,
    made: OwnedFd,
}

impl Inet {
    /// Begins a connection of a guest's socket: `tcp_v4_connect`. Its state is [`TcpState::Pending`] from now on. The second value
    /// becomes readable when that is over.
    ///
    /// # Errors
    /// Those of the host's sockets.
    pub fn begin(&self, fd: &OwnedFd, socket: &Arc<InetSocket>) -> Result<(Outward, OwnedFd)> {
        let guest = fd.try_clone().map_err(host)?;
        let buffer = sockopt::socket_send_buffer_size(&guest).map_err(host)?;
        let ours = self.pair_with(&guest)?;
        sockopt::set_socket_send_buffer_size(&guest, 0).map_err(host)?;
        let mut filler = 0;
        while let Ok(sent) =
            rustix::net::send(&guest, &[0; FILLER], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        {
            filler += sent;
        }
        let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host)?;
        let waits = made.try_clone().map_err(host)?;
        socket.state.lock().unwrap().tcp = TcpState::Pending;
        Ok((Outward { socket: socket.clone(), guest, ours: Some(ours), filler, buffer, made }, waits))
    }
}

impl Outward {
    /// The connection has been made, or has failed: gives our end, from which what the guest sends comes.
    pub fn finish(mut self, peer: SocketAddr, result: Result<()>) -> Option<OwnedFd> {
        let ours = self.ours.take()?;
        if result.is_ok() {
            drain(&ours, self.filler);
        }
        self.tell(result.map(|()| peer));
        result.is_ok().then_some(ours)
    }

    fn tell(&self, result: Result<SocketAddr>) {
        {
            let mut state = self.socket.state.lock().unwrap();
            match result {
                Ok(peer) => {
                    state.peer = Some(peer);
                    state.tcp = TcpState::Connecting;
                }
                Err(errno) => {
                    state.error = Some(errno);
                    state.tcp = TcpState::Failed;
                }
            }
            let _ = rustix::io::write(&self.made, &1u64.to_ne_bytes());
        }
        // The host doubles what it is given; setting it wakes who waits to write.
        let _ = sockopt::set_socket_send_buffer_size(&self.guest, self.buffer / 2);
    }
}

impl Drop for Outward {
    /// Nobody can say any more what becomes of it, for want of room: who waits is told.
    fn drop(&mut self) {
        if self.ours.take().is_some() {
            self.tell(Err(Errno::ENOBUFS));
        }
    }
}
