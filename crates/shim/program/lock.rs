//! A mutual exclusion lock on a futex.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::sys::{nr, sys};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;
const FUTEX_WAIT_PRIVATE: u64 = 128;
const FUTEX_WAKE_PRIVATE: u64 = 129;

/// A lock. It is only taken with all signals blocked, so a holder is never interrupted by guest code.
pub struct Lock(AtomicU32);

/// Releases the lock when dropped.
pub struct Guard<'lock>(&'lock Lock);

impl Lock {
    /// A free lock.
    pub const fn new() -> Lock {
        Lock(AtomicU32::new(FREE))
    }

    /// Waits until the lock is free and takes it.
    pub fn lock(&self) -> Guard<'_> {
        if self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.0.swap(CONTENDED, Ordering::Acquire) != FREE {
                // SAFETY: the futex word outlives the call.
                unsafe { sys!(nr::FUTEX, self.0.as_ptr() as u64, FUTEX_WAIT_PRIVATE, CONTENDED, 0, 0, 0) };
            }
        }
        Guard(self)
    }

    /// Makes the lock free whoever held it: in a forked child, where the holder does not exist.
    pub fn reset(&self) {
        self.0.store(FREE, Ordering::Relaxed);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.0.0.swap(FREE, Ordering::Release) == CONTENDED {
            // SAFETY: only an address is passed.
            unsafe { sys!(nr::FUTEX, self.0.0.as_ptr() as u64, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) };
        }
    }
}
