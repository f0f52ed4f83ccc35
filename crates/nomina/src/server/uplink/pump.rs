//! Copying between two stream sockets.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno as HostErrno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};

use super::{After, Flow};

/// How much of one direction is copied before others have their turn, in bytes.
const TURN: usize = 1 << 20;

/// Two sockets, ours of the guest's connection and the host's, and what is between them.
pub struct Pump {
    ends: [OwnedFd; 2],
    ways: [Way; 2],
}

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
    Broken,
}

impl Pump {
    /// Between a guest's connection and one of the host's.
    pub fn new(ours: OwnedFd, host: OwnedFd) -> Pump {
        Pump { ends: [ours, host], ways: Default::default() }
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
                // Both ends are closed, which resets them where something was unread.
                Copied::Broken => return After::Ends,
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
                    Err(_) => return Copied::Broken,
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
                        Err(_) => return Copied::Broken,
                    };
                    way.kept.extend_from_slice(&buffer[sent..len]);
                }
                Err(HostErrno::INTR) => {}
                Err(HostErrno::AGAIN) => return Copied::Dry,
                Err(_) => return Copied::Broken,
            }
        }
        Copied::More
    }
}

fn send(target: &OwnedFd, data: &[u8]) -> rustix::io::Result<usize> {
    loop {
        match rustix::net::send(target, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(HostErrno::INTR) => {}
            other => return other,
        }
    }
}
