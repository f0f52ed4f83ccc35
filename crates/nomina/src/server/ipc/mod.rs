//! The host side of IPC objects: memory of segments, and the sleep of tasks in queues.
//!
//! A call that sleeps stands in the model's queue ([`nomina_kernel::ipc`]); its thread sleeps natively, on a futex in its own slot
//! ([`nomina_abi::reply::SLEEP`]), and asks again when it is woken, when a signal came, or when its time is over. Whoever makes it
//! possible for the call to go on completes it in the model, so waking costs one host call, and order is the model's.

pub mod mqueue;
pub mod proc;
pub mod shm;

use std::sync::Arc;
use std::task::{Wake, Waker};

use nomina_gate::region::SlotRef;

/// Wakes a thread that sleeps on its slot.
struct SlotWaker(SlotRef);

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.0.wake();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.wake();
    }
}

/// What wakes the thread of a slot. From now on it does not sleep through a wake-up.
pub fn waker_of(slot: &SlotRef) -> Waker {
    slot.clear_wake();
    Waker::from(Arc::new(SlotWaker(slot.clone())))
}
