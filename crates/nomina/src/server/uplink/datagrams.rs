//! Datagrams: a guest's socket has two of the host's, one for each version of IP, from which what it sends goes out, and at which
//! what is sent back arrives.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use rustix::io::Errno as HostErrno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use super::super::lock::Mutex;
use super::super::request::host;
use super::{Shared, Who, host_socket};
use crate::egress::Protocol;

/// Takes a datagram to the guest's socket: who sent it, and what.
pub type Deliver = Arc<dyn Fn(SocketAddr, &[u8]) + Send + Sync>;

/// How many destinations of one socket are remembered as allowed; it is asked again for the others.
const MANY: usize = 1024;
/// How many datagrams are taken before others have their turn.
const TURN: usize = 64;

/// The host's side of a guest's datagram socket.
pub struct Datagrams {
    deliver: Deliver,
    /// The port that the host's sockets are to have; 0: any.
    port: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Sockets by whether they are IPv6's.
    sockets: HashMap<bool, Arc<OwnedFd>>,
    /// Who was sent something.
    allowed: HashSet<SocketAddr>,
}

impl Datagrams {
    pub(super) fn new(deliver: Deliver, port: u16) -> Datagrams {
        Datagrams { deliver, port, state: Mutex::default() }
    }

    /// Takes what has come to the guest. True: there may be more.
    pub(super) fn serve(&self, buffer: &mut [u8]) -> bool {
        let sockets: Vec<_> = self.state.lock().unwrap().sockets.values().cloned().collect();
        let mut more = false;
        for socket in sockets {
            for turn in 0.. {
                if turn == TURN {
                    more = true;
                    break;
                }
                match rustix::net::recvfrom(&socket, &mut *buffer, RecvFlags::DONTWAIT) {
                    Ok((len, _, from)) => {
                        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                        // Only who was sent something may answer, as with any translator of addresses.
                        if let Some(from) =
                            from.filter(|from| self.state.lock().unwrap().allowed.contains(from))
                        {
                            (self.deliver)(from, &buffer[..len]);
                        }
                    }
                    Err(HostErrno::AGAIN) => break,
                    // What an earlier datagram met: Linux does not tell unconnected sockets either.
                    Err(_) => {}
                }
            }
        }
        more
    }
}

/// Sends from the socket with number `id`.
pub(super) fn send(shared: &Shared, id: u64, to: SocketAddr, data: &[u8], who: &Who) -> Result<()> {
    let datagrams = shared.datagrams.lock().unwrap().get(&id).cloned().ok_or(Errno::EBADF)?;
    let known = datagrams.state.lock().unwrap().allowed.contains(&to);
    if !known {
        shared.permit(Protocol::Udp, to, who)?;
    }
    let mut state = datagrams.state.lock().unwrap();
    if state.allowed.len() >= MANY && !known {
        state.allowed.clear();
    }
    state.allowed.insert(to);
    let socket = match state.sockets.entry(to.is_ipv6()) {
        Entry::Occupied(known) => known.get().clone(),
        Entry::Vacant(place) => {
            let socket = Arc::new(host_socket(to.ip(), SocketType::DGRAM)?);
            if datagrams.port != 0 {
                // Where somebody else has the port, another one does.
                let any: IpAddr =
                    if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let _ = rustix::net::bind(&socket, &SocketAddr::new(any, datagrams.port));
            }
            shared.watch(id, socket.as_fd())?;
            place.insert(socket).clone()
        }
    };
    drop(state);
    match rustix::net::sendto(&socket, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL, &to) {
        // A full buffer loses a datagram, as a full queue of a device does.
        Ok(_) | Err(HostErrno::AGAIN) => Ok(()),
        Err(error) => Err(host(error)),
    }
}
