//! Connections whose other end is no guest's socket: a machine behind the way out, or behind a device of packets.
//!
//! The guest's socket is connected to one of ours at once. While the real connection is being made, it looks as in `SYN_SENT`: it
//! is not writable, since its buffer is small and full of a filler that our end has not taken, and there is nothing to read. When
//! the connection is there, our end takes the filler, the buffer gets its size back, and who waits is woken. When it fails, our end
//! goes with the filler unread, which the host tells as an error; which one, `SO_ERROR` and `connect(2)` say.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use rustix::event::EventfdFlags;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, sockopt};

use super::super::request::{Reply, host};
use super::super::sys::socket::unix::{bind_host, connect_host};
use super::{Inet, InetSocket, TcpState, host_socket};

/// Of the filler, in bytes: more than the smallest buffer of the host's takes at a time.
const FILLER: usize = 4096;

/// A connection that is being made.
pub struct Outward {
    socket: Arc<InetSocket>,
    /// A copy of the guest's descriptor, for as long as it waits.
    guest: OwnedFd,
    ours: OwnedFd,
    /// How much filler there is, in bytes.
    filler: usize,
    /// The size that the guest's buffer had, in bytes.
    buffer: usize,
}

impl Inet {
    /// A pair of a guest's socket and one of ours, which `name` tells from others of the kind.
    fn end_of_ours(&self, guest: &OwnedFd) -> Result<OwnedFd> {
        let path = self.dir.join("outward");
        let mut listener = self.outward.lock().unwrap();
        if listener.is_none() {
            let (socket, _) = host_socket::stream(true)?;
            bind_host(&socket, &path)?;
            rustix::net::listen(&socket, 1).map_err(host)?;
            *listener = Some(socket);
        }
        let listener = listener.as_ref().ok_or(Errno::EIO)?;
        connect_host(guest, path.as_os_str().as_bytes())?;
        rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(host)
    }

    /// Begins a connection of a guest's socket to `to`: `tcp_v4_connect`. Its state is [`TcpState::SynSent`] from now on.
    ///
    /// # Errors
    /// Those of the host's sockets.
    pub fn begin(&self, fd: &OwnedFd, socket: &Arc<InetSocket>) -> Result<Outward> {
        let guest = fd.try_clone().map_err(host)?;
        let buffer = sockopt::socket_send_buffer_size(&guest).map_err(host)?;
        let ours = self.end_of_ours(&guest)?;
        sockopt::set_socket_send_buffer_size(&guest, 0).map_err(host)?;
        let mut filler = 0;
        while let Ok(sent) =
            rustix::net::send(&guest, &[0; FILLER], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
        {
            filler += sent;
        }
        let told = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host)?;
        let mut state = socket.state.lock().unwrap();
        state.tcp = TcpState::SynSent;
        state.told = Some(told);
        Ok(Outward { socket: socket.clone(), guest, ours, filler, buffer })
    }
}

impl InetSocket {
    /// What who connects, and connects again, is told while the connection is being made.
    ///
    /// # Errors
    /// `EINPROGRESS` the first time and `EALREADY` from then on for who does not wait.
    pub fn connecting(&self, nonblock: bool, first: bool) -> Result<Reply> {
        if nonblock {
            return Err(if first { Errno::EINPROGRESS } else { Errno::EALREADY });
        }
        let state = self.state.lock().unwrap();
        let told = state.told.as_ref().map(OwnedFd::try_clone).transpose().map_err(host)?;
        Ok(told.map_or(Reply::Retry, Reply::Wait))
    }
}

impl Outward {
    /// The connection has been made, or has failed: gives our end, from which what the guest sends comes.
    pub fn finish(self, peer: SocketAddr, result: Result<()>) -> Option<OwnedFd> {
        let mut left = self.filler;
        let mut taken = [0; FILLER];
        if result.is_ok() {
            while left > 0 {
                let some = left.min(taken.len());
                match rustix::net::recv(&self.ours, &mut taken[..some], RecvFlags::DONTWAIT) {
                    Ok((len, _)) if len > 0 => left -= len,
                    // The guest has closed it.
                    _ => break,
                }
            }
        }
        {
            let mut state = self.socket.state.lock().unwrap();
            match result {
                Ok(()) => {
                    state.peer = Some(peer);
                    state.tcp = TcpState::Connecting;
                }
                Err(errno) => {
                    state.error = Some(errno);
                    state.tcp = TcpState::Failed;
                }
            }
            if let Some(told) = state.told.take() {
                let _ = rustix::io::write(&told, &1u64.to_ne_bytes());
            }
        }
        // The host doubles what it is given; setting it wakes who waits to write.
        let _ = sockopt::set_socket_send_buffer_size(&self.guest, self.buffer / 2);
        result.is_ok().then_some(self.ours)
    }
}
