//! Published UDP ports: a socket of the host's at which others send to the sandbox, and from which they are answered.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::errno::Result;
use rustix::io::Errno as HostErrno;
use rustix::net::{RecvFlags, SendFlags};

use super::super::lock::Mutex;
use super::super::request::host;
use super::{After, Flow};

/// Takes a datagram to the sandbox: who sent it, and what.
pub type Arrive = Box<dyn Fn(SocketAddr, &[u8]) + Send>;

/// How many senders of a port are remembered: the oldest one of more cannot be answered any more.
const MANY: usize = 4096;
/// How many datagrams are taken before others have their turn.
const TURN: usize = 64;

/// The host's socket of a published port.
pub struct Port {
    socket: OwnedFd,
    peers: Mutex<Peers>,
}

/// Who has sent something, oldest first.
#[derive(Default)]
struct Peers {
    known: HashSet<SocketAddr>,
    order: VecDeque<SocketAddr>,
}

impl Peers {
    fn note(&mut self, peer: SocketAddr) {
        if self.known.insert(peer) {
            self.order.push_back(peer);
        }
        if self.order.len() > MANY
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

impl Port {
    pub(super) fn new(socket: OwnedFd) -> Port {
        Port { socket, peers: Mutex::default() }
    }

    /// Sends a datagram to somebody who has sent one to the port; `None`: it has not.
    pub(super) fn answer(&self, to: SocketAddr, data: &[u8]) -> Option<Result<()>> {
        if !self.peers.lock().unwrap().known.contains(&to) {
            return None;
        }
        let sent = rustix::net::sendto(&self.socket, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &to);
        Some(match sent {
            // A full buffer loses a datagram, as a full queue of a device does.
            Ok(_) | Err(HostErrno::AGAIN) => Ok(()),
            Err(error) => Err(host(error)),
        })
    }
}

/// The receiving side.
pub struct Receiver {
    pub(super) port: Arc<Port>,
    pub(super) arrive: Arrive,
}

impl Receiver {
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.port.socket.as_fd()
    }

    /// Takes what has come to the sandbox.
    pub(super) fn serve(self, buffer: &mut [u8]) -> After {
        for _ in 0..TURN {
            match rustix::net::recvfrom(&self.port.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((len, _, from)) => {
                    let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) else { continue };
                    self.port.peers.lock().unwrap().note(from);
                    (self.arrive)(from, &buffer[..len]);
                }
                Err(HostErrno::AGAIN) => return After::Stays(Flow::Published(self)),
                // What an answer has met: it concerns no other sender.
                Err(_) => {}
            }
        }
        After::Again(Flow::Published(self))
    }
}
