//! Futexes in which the kernel reads a thread id: priority-inheriting ones and robust lists.
//!
//! The ids in memory are the guest's numbers, which the host kernel does not know, so both are served here, by the same rules.
//! A priority-inheriting lock is an ordinary one here: the priority of its owner is not raised.

use crate::area::Area;
use crate::sys::{err, nr, sys};
use crate::uaccess::{compare_exchange_user, get_user, put_user_opt};
use crate::window::window;

const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

const FUTEX_WAKE: u64 = 1;
const FUTEX_LOCK_PI: u64 = 6;
const FUTEX_UNLOCK_PI: u64 = 7;
const FUTEX_TRYLOCK_PI: u64 = 8;
const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_LOCK_PI2: u64 = 13;
const FUTEX_PRIVATE: u64 = 128;
const FUTEX_CLOCK_REALTIME: u64 = 256;
const ANY: u64 = 0xffff_ffff;

/// Entries that a thread's end looks at (`ROBUST_LIST_LIMIT`).
const ROBUST_LIST_LIMIT: u32 = 2048;
const ROBUST_HEAD_SIZE: u64 = 24;

/// `futex(2)` operations with priority inheritance. `FUTEX_WAIT_REQUEUE_PI` and its partner are `ENOSYS`.
pub fn futex(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [at, operation, _, timeout, ..] = *args;
    let private = operation & FUTEX_PRIVATE;
    match operation & !(FUTEX_PRIVATE | FUTEX_CLOCK_REALTIME) {
        FUTEX_LOCK_PI => lock(area, at, timeout, private | FUTEX_CLOCK_REALTIME),
        FUTEX_LOCK_PI2 => lock(area, at, timeout, private | operation & FUTEX_CLOCK_REALTIME),
        FUTEX_TRYLOCK_PI => try_lock(area, at),
        FUTEX_UNLOCK_PI => unlock(area, at, private),
        _ => Err(err::ENOSYS),
    }
}

/// Takes a lock that is free. Its value if it is not.
fn take(area: &Area, at: u64, waiters: u32) -> Result<Result<(), u32>, i64> {
    let own = area.tid.get() as u32;
    let mut value: u32 = get_user(at)?;
    while value & FUTEX_TID_MASK == 0 {
        let new = own | value & (FUTEX_OWNER_DIED | FUTEX_WAITERS) | waiters;
        let was = compare_exchange_user(at, value, new)?;
        if was == value {
            return Ok(Ok(()));
        }
        value = was;
    }
    if value & FUTEX_TID_MASK == own {
        return Err(err::EDEADLK);
    }
    Ok(Err(value))
}

fn lock(area: &Area, at: u64, timeout: u64, flags: u64) -> Result<i64, i64> {
    let mut waiters = 0;
    loop {
        let Err(value) = take(area, at, waiters)? else { return Ok(0) };
        let waited = value | FUTEX_WAITERS;
        if value != waited && compare_exchange_user(at, value, waited)? != value {
            continue;
        }
        // Whoever wakes cannot know whether others still wait.
        waiters = FUTEX_WAITERS;
        let call = [at, FUTEX_WAIT_BITSET | flags, u64::from(waited), timeout, 0, ANY];
        match window(area, area.guest_mask(), nr::FUTEX, call) {
            0 | err::EAGAIN => {}
            err::EINTR | err::ERESTARTSYS => return Err(err::ERESTARTNOINTR),
            error => return Err(error),
        }
    }
}

fn try_lock(area: &Area, at: u64) -> Result<i64, i64> {
    take(area, at, 0)?.map_or(Err(err::EAGAIN), |()| Ok(0))
}

fn unlock(area: &Area, at: u64, private: u64) -> Result<i64, i64> {
    let mut value: u32 = get_user(at)?;
    loop {
        if value & FUTEX_TID_MASK != area.tid.get() as u32 {
            return Err(err::EPERM);
        }
        let was = compare_exchange_user(at, value, 0)?;
        if was == value {
            break;
        }
        value = was;
    }
    if value & FUTEX_WAITERS != 0 {
        wake(at, private);
    }
    Ok(0)
}

fn wake(at: u64, private: u64) {
    // SAFETY: only an address is passed.
    unsafe { sys!(nr::FUTEX, at, FUTEX_WAKE | private, 1, 0, 0, 0) };
}

/// `set_robust_list(2)`. `EINVAL` for a bad size.
pub fn set_robust_list(area: &Area, head: u64, len: u64) -> Result<i64, i64> {
    if len != ROBUST_HEAD_SIZE {
        return Err(err::EINVAL);
    }
    area.robust_list.set(head);
    Ok(0)
}

/// `get_robust_list(2)`, for the caller only; the supervisor says why not of others.
pub fn get_robust_list(area: &Area, tid: u64, head: u64, len: u64) -> Result<i64, i64> {
    if tid as i32 != 0 && tid as i32 != area.tid.get() {
        return Ok(crate::slot::request(area, nr::GET_ROBUST_LIST as u32, &[tid, 0, 0, 0, 0, 0]));
    }
    put_user_opt(len, ROBUST_HEAD_SIZE)?;
    crate::uaccess::put_user(head, area.robust_list.get())?;
    Ok(0)
}

/// What `exit_robust_list` of the kernel does: marks the locks that the ending thread holds, and wakes one waiter of each.
pub fn exit_robust_list(area: &Area) {
    let head = area.robust_list.get();
    if head != 0 {
        // A list that cannot be read any further ends there.
        let _ = walk(head, area.tid.get() as u32);
    }
}

/// The same for all threads of a process that ends. The others still run, but not for long; each lock is marked only while
/// its word names its holder.
pub fn exit_robust_lists(area: &Area) {
    Area::each(|other| {
        // A child that shares the memory until it executes something lives on.
        if other.pid.get() == area.pid.get() {
            exit_robust_list(other);
        }
    });
}

fn walk(head: u64, tid: u32) -> Result<(), i64> {
    let offset: i64 = get_user(head + 8)?;
    let pending: u64 = get_user::<u64>(head + 16)? & !1;
    let mut entry = get_user::<u64>(head)? & !1;
    for _ in 0..ROBUST_LIST_LIMIT {
        if entry == head {
            break;
        }
        // The entry may be reused as soon as its lock is free.
        let next = get_user::<u64>(entry);
        if entry != pending {
            owner_died(tid, entry.wrapping_add_signed(offset), false)?;
        }
        entry = next? & !1;
    }
    if pending != 0 {
        owner_died(tid, pending.wrapping_add_signed(offset), true)?;
    }
    Ok(())
}

fn owner_died(tid: u32, at: u64, pending: bool) -> Result<(), i64> {
    let mut value: u32 = get_user(at)?;
    loop {
        if pending && value & !FUTEX_WAITERS == 0 {
            // Released, but perhaps not woken.
            wake(at, 0);
            return Ok(());
        }
        if value & FUTEX_TID_MASK != tid {
            return Ok(());
        }
        let was = compare_exchange_user(at, value, value & FUTEX_WAITERS | FUTEX_OWNER_DIED)?;
        if was == value {
            break;
        }
        value = was;
    }
    if value & FUTEX_WAITERS != 0 {
        wake(at, 0);
    }
    Ok(())
}
