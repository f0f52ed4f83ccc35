//! Locks of the file system switch. A panic in one thread must not take the others with it, so poisoning is ignored:
//! everything these locks guard is replaced in single steps.
//!
//! # Order
//!
//! 1. the super block's rename lock (`s_vfs_rename_mutex`), only for a rename between directories
//! 2. directories' `i_rwsem`: ancestor before descendant, else by address; never more than two
//! 3. the mount table's `namespace_sem`
//! 4. a mount's state, a namespace's mount list
//! 5. a dentry's location, children, mount list; the list of recently used dentries
//!
//! Locks of level 4 and 5 are held for single steps and never while taking another one of the same level, with the
//! exception that nothing is dropped under them: dropping the last reference to a dentry takes its parent's lock.

use std::sync::{self, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

/// A reader-writer lock that ignores poisoning.
#[derive(Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        RwLock(sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mutex that ignores poisoning.
#[derive(Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Mutex(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
