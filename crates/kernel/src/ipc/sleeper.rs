//! Tasks that wait in a queue of an IPC object.

use std::sync::{Mutex, PoisonError};
use std::task::Waker;

/// A task that waits; `T` is what the call will give. Linux keeps these on the stack of the sleeping task and hands the result
/// over by `smp_store_release(&q->status, …)`.
pub struct Sleeper<T> {
    /// A leaf lock.
    outcome: Mutex<Option<T>>,
    waker: Waker,
}

impl<T> Sleeper<T> {
    pub(crate) fn new(waker: &Waker) -> Sleeper<T> {
        Sleeper { outcome: Mutex::new(None), waker: waker.clone() }
    }

    /// Gives it its result and wakes it (`wake_q_add`).
    pub(crate) fn complete(&self, outcome: T) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.waker.wake_by_ref();
    }

    /// Takes the result, if there is one.
    pub fn take(&self) -> Option<T> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
