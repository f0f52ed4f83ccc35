//! Waiting for a view of the mount table (`/proc/PID/mountinfo`), which natively is a file that cannot be waited for.
//!
//! `poll(2)` and `select(2)` stay native. When the mounts have changed, the supervisor sends a thread that sleeps in one of them
//! a signal, which makes the call fail with `EINTR`; here that becomes the result Linux would have given.

use nomina_abi::{POLL_FILE, op};

use crate::area::Area;
use crate::frame::UContext;
use crate::slot::request;
use crate::sys::{err, nr, sys};
use crate::uaccess::{get_user, put_user};

const POLLPRI: i16 = 2;
const POLLERR: i16 = 8;
const EPOLL_CTL_DEL: u64 = 2;

/// `struct pollfd`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

/// `epoll_ctl(2)`: native, except for files that only the supervisor can watch.
pub fn epoll_ctl(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [epoll, op, fd, event, ..] = *args;
    // SAFETY: the guest's descriptors; the kernel reads the event.
    let native = unsafe { sys!(nr::EPOLL_CTL, epoll, op, fd, event) };
    if native != err::EPERM {
        return Ok(native);
    }
    let (events, data) = match op as u32 as u64 {
        EPOLL_CTL_DEL => (0, 0),
        _ => (get_user::<u32>(event)?, get_user::<u64>(event.wrapping_add(4))?),
    };
    Ok(request(area, nr::EPOLL_CTL as u32, &[epoll, op, fd, events.into(), data, 0]))
}

/// The supervisor has interrupted a call of the guest's that waited for a view of the mount table, or so it thinks: gives it the
/// result, or leaves it as interrupted.
pub fn mounts_changed(area: &Area, context: &mut UContext, number: u64) {
    let registers = &mut context.mcontext;
    let args = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    registers.rax = changed(area, number, &args) as u64;
}

/// The result of a call that the shim made for the guest, `ret` natively.
pub fn finish(area: &Area, number: u64, args: &[u64; 6], ret: i64) -> i64 {
    if area.mounts_changed.replace(false) && ret == err::EINTR && !area.pending.get() {
        changed(area, number, args)
    } else {
        ret
    }
}

fn changed(area: &Area, number: u64, args: &[u64; 6]) -> i64 {
    let ready = match number {
        nr::POLL | nr::PPOLL => poll(area, args[0], args[1]),
        nr::SELECT | nr::PSELECT6 => select(area, args),
        _ => return err::EINTR,
    };
    match ready {
        // Somebody else was told first.
        Ok(0) => err::EINTR,
        Ok(ready) | Err(ready) => ready,
    }
}

fn has_changed(area: &Area, fd: i32) -> bool {
    request(area, op::MOUNTS_CHANGED, &[fd as u64, 0, 0, 0, 0, 0]) == 1
}

fn poll(area: &Area, fds: u64, count: u64) -> Result<i64, i64> {
    // SAFETY: the kernel writes the guest's memory; nothing waits.
    let mut ready = unsafe { sys!(nr::POLL, fds, count, 0) };
    if ready < 0 {
        return Err(ready);
    }
    for at in (0..count).map(|index| fds + index * 8) {
        let mut entry: PollFd = get_user(at)?;
        if entry.fd >= 0
            && entry.revents == 0
            && entry.events & POLL_FILE == 0
            && has_changed(area, entry.fd)
        {
            entry.revents = POLLERR | entry.events & POLLPRI;
            put_user(at, entry)?;
            ready += 1;
        }
    }
    Ok(ready)
}

fn select(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    /// Words of the largest set that is looked at.
    const WORDS: usize = 16;
    let [count, read, write, except, ..] = *args;
    let words = (count as u32 as usize).div_ceil(64).min(WORDS);
    let mut asked = [0u64; WORDS];
    for (index, word) in asked[..words].iter_mut().enumerate() {
        *word = get_user(except + index as u64 * 8)?;
    }
    let now = [0u64; 2];
    // SAFETY: the kernel writes the guest's sets; nothing waits.
    let mut ready = unsafe { sys!(nr::SELECT, count, read, write, except, now.as_ptr() as u64) };
    if ready < 0 {
        return Err(ready);
    }
    for (index, word) in asked[..words].iter().enumerate() {
        let at = except + index as u64 * 8;
        let mut told: u64 = get_user(at)?;
        let open = word & !told;
        for bit in (0..64).filter(|bit| open & 1 << bit != 0) {
            if has_changed(area, index as i32 * 64 + bit) {
                told |= 1 << bit;
                ready += 1;
            }
        }
        put_user(at, told)?;
    }
    Ok(ready)
}
