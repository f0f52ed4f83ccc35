//! Locks that a panic does not poison. A panic in a service is caught, its request fails with `EIO`, and the sandbox lives
//! on (rule 8 of SECURITY.md): with the standard library's locks every later request would panic at the first of them.

use std::convert::Infallible;
use std::sync::{self, PoisonError, RwLockReadGuard, RwLockWriteGuard};

pub use std::sync::MutexGuard;

/// A mutex that ignores poisoning.
#[derive(Default)]
pub struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    /// An unlocked one.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    /// Locks it. Never fails; a result like the standard library's, so that either can stand in a field.
    ///
    /// # Errors
    /// None.
    pub fn lock(&self) -> Result<MutexGuard<'_, T>, Infallible> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A reader-writer lock that ignores poisoning.
#[derive(Default)]
pub struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    /// Locks it shared.
    ///
    /// # Errors
    /// None.
    pub fn read(&self) -> Result<RwLockReadGuard<'_, T>, Infallible> {
        Ok(self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Locks it exclusively.
    ///
    /// # Errors
    /// None.
    pub fn write(&self) -> Result<RwLockWriteGuard<'_, T>, Infallible> {
        Ok(self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_can_be_taken_after_a_panic_under_it() {
        let lock = Mutex::new(1);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = lock.lock().unwrap();
            panic!("under the lock");
        }));
        assert!(caught.is_err());
        assert_eq!(*lock.lock().unwrap(), 1);
    }
}
