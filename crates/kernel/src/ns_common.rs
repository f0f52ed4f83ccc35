//! What every namespace has in common (`struct ns_common`): its kind, its inode number in nsfs, the user namespace that
//! owns it, and its count.
//!
//! The count is the number of nsproxies that point to the namespace. Linux's counts also contain open nsfs files and
//! references in flight; here `Arc` keeps those alive, and the count tells only what `namespaces(7)` reasons about.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fork::CloneFlags;
use crate::user_namespace::UserNamespace;

/// The kinds of namespace (`namespaces(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NsKind {
    /// Control group root directories.
    Cgroup,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Mounts.
    Mnt,
    /// Network stack.
    Net,
    /// Process ids.
    Pid,
    /// Boot and monotonic clocks.
    Time,
    /// User and group ids, capabilities.
    User,
    /// Host name and domain name.
    Uts,
}

impl NsKind {
    /// The name in the text of `/proc/PID/ns/*` links, such as `uts` in `uts:[4026531838]`.
    pub fn name(self) -> &'static str {
        match self {
            NsKind::Cgroup => "cgroup",
            NsKind::Ipc => "ipc",
            NsKind::Mnt => "mnt",
            NsKind::Net => "net",
            NsKind::Pid => "pid",
            NsKind::Time => "time",
            NsKind::User => "user",
            NsKind::Uts => "uts",
        }
    }

    /// The `CLONE_NEW*` flag, which is also what `NS_GET_NSTYPE` answers.
    pub fn clone_flag(self) -> CloneFlags {
        match self {
            NsKind::Cgroup => CloneFlags::NEWCGROUP,
            NsKind::Ipc => CloneFlags::NEWIPC,
            NsKind::Mnt => CloneFlags::NEWNS,
            NsKind::Net => CloneFlags::NEWNET,
            NsKind::Pid => CloneFlags::NEWPID,
            NsKind::Time => CloneFlags::NEWTIME,
            NsKind::User => CloneFlags::NEWUSER,
            NsKind::Uts => CloneFlags::NEWUTS,
        }
    }
}

/// Kind, identity, owner and count of a namespace.
pub struct NsCommon {
    kind: NsKind,
    inum: u64,
    /// `None` only for the initial user namespace.
    owner: Option<Arc<UserNamespace>>,
    count: AtomicUsize,
}

impl NsCommon {
    pub(crate) fn new(kind: NsKind, inum: u64, owner: Option<Arc<UserNamespace>>) -> NsCommon {
        NsCommon { kind, inum, owner, count: AtomicUsize::new(0) }
    }
    /// Its kind.
    pub fn kind(&self) -> NsKind {
        self.kind
    }
    /// The inode number `/proc/PID/ns/*` shows.
    pub fn inum(&self) -> u64 {
        self.inum
    }
    /// The user namespace whose capabilities rule it; for a user namespace its parent, `None` for the initial one.
    pub fn owner(&self) -> Option<&Arc<UserNamespace>> {
        self.owner.as_ref()
    }
    /// The number of nsproxies that point to it. 0 for user namespaces, which credentials hold.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
    pub(crate) fn inc(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }
    pub(crate) fn dec(&self) {
        let before = self.count.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "{self:?} put more often than taken");
    }
}

impl fmt::Debug for NsCommon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:[{}]", self.kind.name(), self.inum)
    }
}

/// Hands out inode numbers for namespaces (`proc_alloc_inum`), never one twice.
#[derive(Debug)]
pub(crate) struct NsInums(u64);

impl NsInums {
    /// Linux counts from 0xF0000000 (`PROC_DYNAMIC_FIRST`) and has its initial namespaces just below; ours begin 16
    /// million further on, so that no namespace here shows the number of one of the host's.
    const FIRST: u64 = 0xf100_0000;

    pub(crate) fn new() -> NsInums {
        NsInums(Self::FIRST)
    }
    pub(crate) fn alloc(&mut self) -> u64 {
        let inum = self.0;
        self.0 += 1;
        inum
    }
}

/// Implements what all namespaces share for a type with a `common: NsCommon` field.
macro_rules! impl_ns {
    ($type:ty) => {
        impl $type {
            /// Kind, inode number, owner and count.
            pub fn common(&self) -> &$crate::ns_common::NsCommon {
                &self.common
            }
        }
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.common.fmt(f)
            }
        }
    };
}
pub(crate) use impl_ns;

/// The owner of a namespace that is not a user namespace.
pub(crate) fn owner_of(common: &NsCommon) -> &Arc<UserNamespace> {
    common.owner().expect("only the initial user namespace has no owner")
}
