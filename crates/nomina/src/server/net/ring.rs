//! Rings of packet sockets (`PACKET_RX_RING`, [`nomina_kernel::net::packet_ring`]).
//!
//! A ring is a sealed memfd, which the shim maps when the program maps the socket. Whether there is something to read is told by a
//! message in the socket pair, so that `poll(2)` wakes natively. Nobody tells when the program gives a frame back: it only writes
//! a word. So in a process that has asked for a ring the shim asks before each wait ([`settle`]), and the message is taken out again
//! where there is nothing to read any more.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::packet_ring::{PacketRing, Request, RingMemory};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{RecvFlags, SendFlags};

use super::super::request::{Ctx, Reply, host};
use super::socket::{Kind, SocketEnd};

/// Most bytes that all rings of a sandbox may take.
const MAX_RINGS: u64 = 512 << 20;

/// A ring's memory.
#[derive(Debug)]
pub(super) struct Memory {
    file: OwnedFd,
    len: u64,
}

impl Memory {
    fn new(len: u64) -> Result<Memory> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("nomina-packet-ring", flags).map_err(host)?;
        rustix::fs::ftruncate(&file, len).map_err(host)?;
        let seals = SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, seals).map_err(host)?;
        Ok(Memory { file, len })
    }
}

/// What the model uses of it.
struct Shared(Arc<Memory>);

impl RingMemory for Shared {
    fn load(&self, at: u64) -> u32 {
        let mut word = [0; 4];
        // A word that cannot be read is as one that the program still has: its packets are dropped.
        match rustix::io::pread(&self.0.file, &mut word, at) {
            Ok(4) => u32::from_ne_bytes(word),
            _ => u32::MAX,
        }
    }

    fn store(&self, at: u64, bytes: &[u8]) {
        // Fails where the host has no memory left: the program then sees no packet.
        let _ = rustix::io::pwrite(&self.0.file, bytes, at);
    }

    fn time_of_day(&self) -> (u32, u32) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        (now.tv_sec as u32, now.tv_nsec as u32)
    }
}

/// `setsockopt(2)` of `PACKET_RX_RING`.
///
/// # Errors
/// `EINVAL`: sizes that do not fit together. `EBUSY`: there is a ring already, or it is mapped. `ENOMEM`: too large.
pub fn set(ctx: &Ctx<'_>, end: &SocketEnd, value: &[u8]) -> Result<Reply> {
    let stack = ctx.server.net.stack().ok_or(Errno::EBADF)?;
    let mut stack = stack.lock();
    let own = stack.packet_sockets.get(&end.ino).ok_or(Errno::EBADF)?;
    let (version, reserve) = (own.version, own.reserve);
    let request = Request::parse(value, version)?;
    if request.block_nr != 0 && own.ring.is_some() {
        return Err(Errno::EBUSY);
    }
    let size = request.size(version, reserve)?;
    if size == 0 {
        end.state.lock().unwrap().ring = None;
        stack.packet_set_ring(end.ino, None)?;
        return Ok(().into());
    }
    let taken: u64 = {
        let sockets = ctx.server.net.0.sockets.lock().unwrap();
        let size = |end: &Arc<SocketEnd>| end.state.lock().unwrap().ring.as_ref().map_or(0, |ring| ring.len);
        sockets.values().map(size).sum()
    };
    if taken + size > MAX_RINGS {
        return Err(Errno::ENOMEM);
    }
    let memory = Arc::new(Memory::new(size)?);
    let ring = PacketRing::new(Box::new(Shared(memory.clone())), version, reserve, request)?;
    stack.packet_set_ring(end.ino, Some(ring))?;
    end.state.lock().unwrap().ring = Some(memory);
    Ok(().into())
}

/// `mmap(2)` of a packet socket: the memory to map in its place.
///
/// # Errors
/// `ENODEV`: no packet socket. `EINVAL`: it has no ring, or not exactly the whole of it is wanted (`packet_mmap`).
pub fn mmap(ctx: &Ctx<'_>) -> Result<Reply> {
    let (_, end) = end_of(ctx, 4).map_err(|_| Errno::ENODEV)?;
    let state = end.state.lock().unwrap();
    let ring = state.ring.as_ref().ok_or(Errno::EINVAL)?;
    if ctx.args[5] != 0 || ctx.args[1].next_multiple_of(4096) != ring.len {
        return Err(Errno::EINVAL);
    }
    Ok(Reply::Fd { fd: ring.file.try_clone().map_err(host)?, cloexec: true })
}

/// Before a wait: makes the socket readable exactly if there is something in its ring (`packet_poll`).
///
/// # Errors
/// `EBADF`, `ENOTSOCK`: no packet socket has this number. `EINVAL`: it has no ring.
pub fn settle(ctx: &Ctx<'_>) -> Result<Reply> {
    let (socket, end) = end_of(ctx, 0)?;
    let stack = ctx.server.net.stack().ok_or(Errno::EBADF)?.lock();
    let own = stack.packet_sockets.get(&end.ino).ok_or(Errno::ENOTSOCK)?;
    let ready = own.ring.as_ref().ok_or(Errno::EINVAL)?.is_ready();
    // Only we send to it, and with the stack's lock held: what is found is all there is.
    while rustix::net::recv(&socket, &mut [0u8; 1], RecvFlags::DONTWAIT).is_ok_and(|(_, len)| len > 0) {}
    end.state.lock().unwrap().bell = false;
    if ready {
        end.ring_bell();
    }
    Ok(().into())
}

/// The packet socket that argument `index` names, and a copy of its descriptor.
fn end_of(ctx: &Ctx<'_>, index: usize) -> Result<(OwnedFd, Arc<SocketEnd>)> {
    let fd = ctx.getfd(ctx.int(index))?;
    let stat = rustix::fs::fstat(&fd).map_err(host)?;
    let end = ctx.server.net.socket(stat.st_ino).filter(|_| stat.st_mode & libc::S_IFMT == libc::S_IFSOCK);
    Ok((fd, end.filter(|end| end.kind == Kind::Packet).ok_or(Errno::ENOTSOCK)?))
}

impl SocketEnd {
    /// Makes the program's end readable, unless it is.
    pub(super) fn ring_bell(&self) {
        let mut state = self.state.lock().unwrap();
        if !std::mem::replace(&mut state.bell, true) {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            // Where there is no room it is readable already.
            let _ = rustix::net::send(self.ours(), &[1], flags);
        }
    }
}
