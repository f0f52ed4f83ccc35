//! Mount namespaces: `struct mnt_namespace` and `copy_mnt_ns` (`fs/namespace.c`).

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

use super::tree::{CopyFlags, copy_tree, umount_tree};
use super::{Mount, MountFlags, MountTable};
use crate::errno::{Errno, Result};
use crate::vfs::lock::RwLock;
use crate::vfs::{ActiveSuper, FsStruct};

/// A mount namespace: a tree of mounts.
pub struct MntNamespace {
    ino: u64,
    pub(super) table: Arc<MountTable>,
    pub(super) root: RwLock<Option<Arc<Mount>>>,
    pub(super) mounts: RwLock<BTreeMap<u32, Arc<Mount>>>,
    owner: OnceLock<Arc<dyn Any + Send + Sync>>,
}

impl MntNamespace {
    /// `sysctl_mount_max`: the most mounts in a namespace.
    pub const MOUNT_MAX: usize = 100_000;

    /// The first namespace, with `sb` mounted as its root.
    pub fn new(table: &Arc<MountTable>, sb: Arc<ActiveSuper>, flags: MountFlags) -> Arc<MntNamespace> {
        let ns = Self::empty(table);
        let root = sb.root().clone();
        ns.adopt_tree(Mount::new(table, sb, root, flags));
        ns
    }

    fn empty(table: &Arc<MountTable>) -> Arc<MntNamespace> {
        Arc::new(MntNamespace {
            ino: table.next_ns.fetch_add(1, Ordering::Relaxed),
            table: table.clone(),
            root: RwLock::new(None),
            mounts: RwLock::default(),
            owner: OnceLock::new(),
        })
    }

    fn adopt_tree(self: &Arc<Self>, root: Arc<Mount>) {
        for mount in root.preorder() {
            self.add(&mount);
        }
        *self.root.write() = Some(root);
    }

    /// The lock and counters that all namespaces of the sandbox share.
    pub fn table(&self) -> &Arc<MountTable> {
        &self.table
    }

    /// Inode number, as `/proc/PID/ns/mnt` shows it.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// The mount at the top of the tree. `None` only when even that has been unmounted lazily.
    pub fn root(&self) -> Option<Arc<Mount>> {
        self.root.read().clone()
    }

    /// All mounts, oldest first.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.read().values().cloned().collect()
    }

    /// `nr_mounts`
    pub fn nr_mounts(&self) -> usize {
        self.mounts.read().len()
    }

    /// The user namespace that owns this one, as its creator has recorded it.
    pub fn owner(&self) -> Option<&Arc<dyn Any + Send + Sync>> {
        self.owner.get()
    }

    /// Records the owner, once.
    pub fn set_owner(&self, owner: Arc<dyn Any + Send + Sync>) {
        // The owner of a namespace never changes; a second call has nothing to say.
        let _ = self.owner.set(owner);
    }

    pub(super) fn add(self: &Arc<Self>, mount: &Arc<Mount>) {
        mount.state.write().ns = Arc::downgrade(self);
        self.mounts.write().insert(mount.id, mount.clone());
    }

    pub(super) fn remove(&self, mount: &Arc<Mount>) {
        mount.state.write().ns = Weak::new();
        let removed = self.mounts.write().remove(&mount.id);
        drop(removed);
    }

    /// `count_mounts`: `ENOSPC` where `more` mounts would be too many.
    pub(super) fn count_mounts(&self, more: usize) -> Result<()> {
        if self.nr_mounts() + more > Self::MOUNT_MAX { Err(Errno::ENOSPC) } else { Ok(()) }
    }
}

impl Drop for MntNamespace {
    /// The last task has left: `put_mnt_ns`. Mounts that somebody still holds become detached.
    fn drop(&mut self) {
        let mounts = std::mem::take(self.mounts.get_mut());
        if let Some(root) = self.root.get_mut().take() {
            let _sem = self.table.namespace_sem.lock();
            umount_tree(None, &root);
        }
        // After the lock: the last reference to a file system may go with them.
        drop(mounts);
    }
}

/// The mount namespace of a new task with `CLONE_NEWNS`, or of `unshare(2)`: a copy of `old`'s whole tree, unbindable mounts
/// included (automounts, whose expiry Linux copies too, do not exist here). Both trees are then walked in lock step, and the task's root and working directory move to the new mounts
/// that correspond to theirs. When the new namespace belongs to another user namespace (`user_ns_differs`) its mounts are
/// locked together, so that a less privileged owner cannot uncover what is below them.
///
/// `ENOSPC`: too many mounts.
pub fn copy_mnt_ns(
    user_ns_differs: bool,
    old: &Arc<MntNamespace>,
    fs: &mut FsStruct,
) -> Result<Arc<MntNamespace>> {
    let new_ns = MntNamespace::empty(&old.table);
    // Dropped after the lock, because dropping the last mount of a file system may do much.
    let replaced;
    {
        let _sem = old.table.namespace_sem.lock();
        let Some(old_root) = old.root() else { return Ok(new_ns.clone()) };
        let mut flags = CopyFlags::UNBINDABLE;
        if user_ns_differs {
            flags |= CopyFlags::SHARED_TO_SLAVE;
        }
        let new_root = copy_tree(&old_root, old_root.root(), flags)?;
        if user_ns_differs {
            lock_mnt_tree(&new_root);
        }
        let mut q = new_root.preorder().into_iter();
        let (mut root_mnt, mut pwd_mnt) = (None, None);
        for p in old_root.preorder() {
            // A mount that was not copied has no partner: the next new one belongs to a later old one.
            let Some(new) = q.as_slice().first() else { break };
            if !Arc::ptr_eq(p.root(), new.root()) {
                continue;
            }
            if Arc::ptr_eq(&p, &fs.root.mnt) {
                root_mnt = Some(new.clone());
            }
            if Arc::ptr_eq(&p, &fs.pwd.mnt) {
                pwd_mnt = Some(new.clone());
            }
            q.next();
        }
        new_ns.adopt_tree(new_root);
        replaced = (
            root_mnt.map(|mnt| std::mem::replace(&mut fs.root.mnt, mnt)),
            pwd_mnt.map(|mnt| std::mem::replace(&mut fs.pwd.mnt, mnt)),
        );
    }
    drop(replaced);
    Ok(new_ns)
}

/// `lock_mnt_tree`: flags that a less privileged owner may not take back, and mounts it may not take apart.
fn lock_mnt_tree(root: &Arc<Mount>) {
    for mount in root.preorder() {
        let mut flags = mount.flags() | MountFlags::LOCK_ATIME;
        for (flag, lock) in [
            (MountFlags::READONLY, MountFlags::LOCK_READONLY),
            (MountFlags::NODEV, MountFlags::LOCK_NODEV),
            (MountFlags::NOSUID, MountFlags::LOCK_NOSUID),
            (MountFlags::NOEXEC, MountFlags::LOCK_NOEXEC),
        ] {
            if flags.contains(flag) {
                flags |= lock;
            }
        }
        // The root of the copy covers nothing.
        if !Arc::ptr_eq(&mount, root) {
            flags |= MountFlags::LOCKED;
        }
        mount.set_flags(flags);
    }
}
