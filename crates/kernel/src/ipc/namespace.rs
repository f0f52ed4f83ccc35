//! The namespace itself (`struct ipc_namespace`): what is in it, and how much of it there may be.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::mqueue::MqueueState;
use super::msg::MsgIds;
use super::sem::SemIds;
use super::shm::ShmIds;
use crate::errno::{Errno, Result};
use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;

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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of the embedder's memory the semaphores and messages of all namespaces may take. In Linux that is the kernel's memory,
/// which control groups limit; the limits of a namespace do not help, for whoever makes a namespace sets them.
#[derive(Debug, Default)]
pub struct IpcMemory(AtomicUsize);

impl IpcMemory {
    /// The limit.
    pub const MAX: usize = 256 << 20;

    /// Takes `bytes` of it, until what is returned is dropped.
    ///
    /// # Errors
    /// `ENOMEM` when so much is not left.
    pub(super) fn charge(self: &Arc<Self>, bytes: usize) -> Result<Charge> {
        let grown = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= Self::MAX);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => Ok(Charge { memory: self.clone(), bytes }),
            Err(_) => Err(Errno::ENOMEM),
        }
    }

    /// How many bytes are taken.
    pub fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
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
        self.memory.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
