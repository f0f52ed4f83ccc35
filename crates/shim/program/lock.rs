//! A mutual exclusion lock on a futex.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::sys::{nr, sys};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;
const FUTEX_WAIT: u64 = 0;
const FUTEX_WAKE: u64 = 1;
const FUTEX_PRIVATE: u64 = 128;

/// A lock. It is only taken with all signals blocked, so a holder is never interrupted by guest code.
pub struct Lock(AtomicU32);

/// Releases the lock when dropped.
pub struct Guard<'lock> {
    lock: &'lock Lock,
    private: u64,
}

impl Lock {
    /// A free lock.
    pub const fn new() -> Lock {
        Lock(AtomicU32::new(FREE))
    }

    /// Waits until the lock is free and takes it.
    pub fn lock(&self) -> Guard<'_> {
        self.take(FUTEX_PRIVATE)
    }

    /// The same for a lock in memory that several address spaces share.
    pub fn lock_shared(&self) -> Guard<'_> {
        self.take(0)
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_>> {
        let taken = self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        taken.then_some(Guard { lock: self, private: FUTEX_PRIVATE })
    }

    fn take(&self, private: u64) -> Guard<'_> {
        if self.0.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while self.0.swap(CONTENDED, Ordering::Acquire) != FREE {
                // SAFETY: the futex word outlives the call.
                unsafe { sys!(nr::FUTEX, self.0.as_ptr() as u64, FUTEX_WAIT | private, CONTENDED, 0, 0, 0) };
            }
        }
        Guard { lock: self, private }
    }

    /// Makes the lock free whoever held it: in a forked child, where the holder does not exist.
    pub fn reset(&self) {
        // A store would have the host copy the page.
        if self.0.load(Ordering::Relaxed) != FREE {
            self.0.store(FREE, Ordering::Relaxed);
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.lock.0.swap(FREE, Ordering::Release) == CONTENDED {
            // SAFETY: only an address is passed.
            unsafe { sys!(nr::FUTEX, self.lock.0.as_ptr() as u64, FUTEX_WAKE | self.private, 1, 0, 0, 0) };
        }
    }
}
