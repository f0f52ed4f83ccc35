//! Copying between two stream sockets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno as HostErrno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};

use super::{After, Flow};

/// Our end of a guest's connection.
pub struct Ours {
    /// The socket.
    pub end: OwnedFd,
    /// What resets the connection.
    pub reset: Reset,
}

/// Closes our end so that the guest is told of a reset.
pub type Reset = Box<dyn FnOnce(OwnedFd) + Send>;

/// How much of one direction is copied before others have their turn, in bytes.
const TURN: usize = 1 << 20;

/// Two sockets, ours of the guest's connection and the host's, and what is between them.
pub struct Pump {
    ends: [OwnedFd; 2],
    ways: [Way; 2],
    reset: Reset,
}

/// Which of the ends is the host's socket.
const HOST: usize = 1;

/// One direction.
#[derive(Default)]
struct Way {
    /// Read and not written yet.
    kept: Vec<u8>,
    /// The sender has sent all.
    ended: bool,
    /// And the receiver has been told.
    told: bool,
}

enum Copied {
    /// Nothing more can be done now.
    Dry,
    More,
    /// This end has gone without saying goodbye.
    Reset(usize),
}

impl Pump {
    /// Between a guest's connection and one of the host's.
    pub fn new(ours: Ours, host: OwnedFd) -> Pump {
        Pump { ends: [ours.end, host], ways: Default::default(), reset: ours.reset }
    }

    /// Both ends.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.ends[0].as_fd(), self.ends[1].as_fd()]
    }

    /// Copies what can be copied.
    pub(super) fn serve(mut self, buffer: &mut [u8]) -> After {
        let mut more = false;
        for from in [0, 1] {
            match self.copy(from, buffer) {
                Copied::Dry => {}
                Copied::More => more = true,
                Copied::Reset(HOST) => {
                    let [ours, _] = self.ends;
                    (self.reset)(ours);
                    return After::Ends;
                }
                Copied::Reset(_) => {
                    let [_, host] = self.ends;
                    abort(host);
                    return After::Ends;
                }
            }
        }
        if self.ways.iter().all(|way| way.told) {
            return After::Ends;
        }
        if more { After::Again(Flow::Pump(self)) } else { After::Stays(Flow::Pump(self)) }
    }

    fn copy(&mut self, from: usize, buffer: &mut [u8]) -> Copied {
        let (source, target) = (&self.ends[from], &self.ends[1 - from]);
        let way = &mut self.ways[from];
        let mut copied = 0;
        while copied < TURN {
            if !way.kept.is_empty() {
                match send(target, &way.kept) {
                    Ok(sent) => drop(way.kept.drain(..sent)),
                    Err(HostErrno::AGAIN) => return Copied::Dry,
                    Err(_) => return Copied::Reset(1 - from),
                }
                continue;
            }
            if way.ended {
                if !way.told {
                    way.told = true;
                    let _ = rustix::net::shutdown(target, Shutdown::Write);
                }
                return Copied::Dry;
            }
            match rustix::net::recv(source, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) => way.ended = true,
                Ok((len, _)) => {
                    copied += len;
                    let sent = match send(target, &buffer[..len]) {
                        Ok(sent) => sent,
                        Err(HostErrno::AGAIN) => 0,
                        Err(_) => return Copied::Reset(1 - from),
                    };
                    way.kept.extend_from_slice(&buffer[sent..len]);
                }
                Err(HostErrno::INTR) => {}
                Err(HostErrno::AGAIN) => return Copied::Dry,
                Err(_) => return Copied::Reset(from),
            }
        }
        Copied::More
    }
}

/// Closes a socket of the host with a reset.
pub fn abort(socket: OwnedFd) {
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
    drop(socket);
}

fn send(target: &OwnedFd, data: &[u8]) -> rustix::io::Result<usize> {
    loop {
        match rustix::net::send(target, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(HostErrno::INTR) => {}
            other => return other,
        }
    }
}
