//! Packet sockets with a ring in shared memory (`PACKET_RX_RING`, `packet(7)`).
//!
//! The guest's socket is a native one that cannot be mapped, and whether there is something in the ring only its memory tells. So a
//! seccomp filter of the process's, which is made with the ring, traps mapping that number and all waiting: the shim maps the
//! ring's memory in its place, and has the supervisor look at the ring before the host waits.
//!
//! Where ours differs: a process that got such a socket by exec or in a message waits as if something were in the ring; no more
//! than [`MOST`] rings of a process are looked at.

use core::sync::atomic::{AtomicU32, Ordering};

use nomina_abi::{SHIM_BASE, op};

use crate::arch::shim_end;
use crate::area::Area;
use crate::masked::unless_only_called;
use crate::own_filter::{self, ARGS, IP, Instruction, NR, RET_ALLOW, TRAP, at_least, equal, load, ret};
use crate::poll;
use crate::slot::request;
use crate::sys::{self, err, nr, sys};
use crate::window::window;

/// Most rings of a process that are looked at.
const MOST: usize = 8;

/// Numbers of packet sockets with a ring, one more each; 0: none.
static RINGS: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];

/// A packet socket has got a ring.
pub fn made(fd: u64) {
    let fd = fd as u32;
    let free = |ring: &AtomicU32| {
        ring.compare_exchange(0, fd.wrapping_add(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    if !is_known(fd) && RINGS.iter().any(free) {
        own_filter::install(&program(fd));
    }
}

fn is_known(fd: u32) -> bool {
    fd != u32::MAX && RINGS.iter().any(|ring| ring.load(Ordering::Relaxed) == fd.wrapping_add(1))
}

/// The filter for a number: traps waiting, and mapping this number, except from the shim's text.
fn program(fd: u32) -> [Instruction; 17] {
    const FD: u32 = ARGS + 4 * 8;
    [
        load(NR),
        equal(nr::MMAP as u32, 7, 0),
        equal(nr::POLL as u32, 8, 0),
        equal(nr::PPOLL as u32, 7, 0),
        equal(nr::SELECT as u32, 6, 0),
        equal(nr::PSELECT6 as u32, 5, 0),
        equal(nr::EPOLL_WAIT as u32, 4, 0),
        equal(nr::EPOLL_PWAIT as u32, 3, 0),
        equal(nr::EPOLL_PWAIT2 as u32, 2, 6),
        // 9: is it this number?
        load(FD),
        equal(fd, 0, 4),
        // 11: is it not the shim that calls?
        load(IP + 4),
        equal((SHIM_BASE >> 32) as u32, 0, 3),
        load(IP),
        at_least(shim_end() as u32, 1, 0),
        // 15
        ret(RET_ALLOW),
        ret(TRAP),
    ]
}

/// `mmap(2)` of a number that was a packet socket's. Those of the manual page; `EINVAL`: not exactly the whole ring.
pub fn mmap(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [at, len, protection, flags, fd, offset] = *args;
    let memory = if is_known(fd as u32) { request(area, nr::MMAP as u32, args) } else { err::ENODEV };
    if memory < 0 && memory != err::ENODEV {
        return Err(memory);
    }
    let (fd, offset) = if memory < 0 { (fd, offset) } else { (memory as u64, 0) };
    // SAFETY: where the guest wants it, and with its own descriptors: what it could map itself.
    let mapped = unsafe { sys!(nr::MMAP, at, len, protection, flags, fd, offset) };
    if memory >= 0 {
        sys::close(memory as i32);
    }
    Ok(mapped)
}

/// Before a wait: rings that have nothing to read do not keep it from waiting.
pub fn settle(area: &Area) {
    for ring in &RINGS {
        let Some(fd) = ring.load(Ordering::Relaxed).checked_sub(1) else { continue };
        if request(area, op::PACKET_RING, &[fd.into(), 0, 0, 0, 0, 0]) < 0 {
            // The number is another's by now. Its filter stays; nothing is slower for it than a trap.
            ring.store(0, Ordering::Relaxed);
        }
    }
}

/// `poll(2)`, `select(2)` and `epoll_wait(2)` in a process with rings.
pub fn wait(area: &Area, number: u64, args: &[u64; 6]) -> Result<i64, i64> {
    settle(area);
    area.unnoticed.set(false);
    let ret = poll::finish(area, number, args, window(area, area.guest_mask(), number, *args));
    Ok(unless_only_called(area, ret))
}
