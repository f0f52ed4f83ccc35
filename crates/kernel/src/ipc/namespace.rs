//! The namespace itself (`struct ipc_namespace`): what is in it, and how much of it there may be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mqueue::MqueueState;
use super::msg::MsgIds;
use super::sem::SemIds;
use super::shm::ShmIds;
use crate::errno::{Errno, Result};
use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::{Kuid, UserNamespace};

/// An IPC namespace. Its four locks are leaves, and no two of them are held at a time.
pub struct IpcNamespace {
    common: NsCommon,
    pub(super) memory: Arc<IpcMemory>,
    pub(super) shm: Mutex<ShmIds>,
    pub(super) sem: Mutex<SemIds>,
    pub(super) msg: Mutex<MsgIds>,
    pub(super) mqueue: Mutex<MqueueState>,
}
impl_ns!(IpcNamespace);

impl IpcNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>, memory: Arc<IpcMemory>) -> Arc<IpcNamespace> {
        Arc::new(IpcNamespace {
            common: NsCommon::new(NsKind::Ipc, inum, Some(owner)),
            memory,
            shm: Mutex::default(),
            sem: Mutex::default(),
            msg: Mutex::default(),
            mqueue: Mutex::default(),
        })
    }

    /// The user namespace that owns it.
    pub fn user_ns(&self) -> &Arc<UserNamespace> {
        crate::ns_common::owner_of(&self.common)
    }
}

impl Drop for IpcNamespace {
    fn drop(&mut self) {
        self.free_mqueues();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of the embedder's memory the semaphores and messages of all namespaces may take. In Linux that is the kernel's memory,
/// which control groups limit; the limits of a namespace do not help, for whoever makes a namespace sets them.
#[derive(Debug, Default)]
pub struct IpcMemory {
    used: AtomicUsize,
    /// What `RLIMIT_MSGQUEUE` counts, by user.
    mqueues: Mutex<HashMap<Kuid, u64>>,
}

impl IpcMemory {
    /// The limit.
    pub const MAX: usize = 256 << 20;

    /// Takes `bytes` of it, until what is returned is dropped.
    ///
    /// # Errors
    /// `ENOMEM` when so much is not left.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Result<Charge> {
        let grown = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= Self::MAX);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => Ok(Charge { memory: self.clone(), bytes }),
            Err(_) => Err(Errno::ENOMEM),
        }
    }

    /// Charges a user for a POSIX message queue.
    ///
    /// # Errors
    /// `EMFILE` beyond `limit`.
    pub(super) fn charge_mqueue(&self, user: Kuid, bytes: u64, limit: u64) -> Result<()> {
        let mut all = lock(&self.mqueues);
        let sum = all.get(&user).copied().unwrap_or(0).saturating_add(bytes);
        if sum > limit {
            return Err(Errno::EMFILE);
        }
        all.insert(user, sum);
        Ok(())
    }

    /// Takes that back.
    pub(super) fn uncharge_mqueue(&self, user: Kuid, bytes: u64) {
        let mut all = lock(&self.mqueues);
        let left = all.get(&user).map_or(0, |sum| sum.saturating_sub(bytes));
        if left == 0 {
            all.remove(&user);
        } else {
            all.insert(user, left);
        }
    }

    /// How many bytes are taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// Memory that is taken.
#[derive(Debug)]
pub(super) struct Charge {
    memory: Arc<IpcMemory>,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
