//! Mount namespaces: `struct mnt_namespace` (`fs/namespace.c`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::rootfs::RootFs;
use super::umount::{UmountTree, umount_tree};
use super::{Mount, MountFlags, MountTable, NamespaceLock};
use crate::errno::{Errno, Result};
use crate::user_namespace::UserNamespace;
use crate::vfs::lock::RwLock;
use crate::vfs::{ActiveSuper, SuperFlags};

/// A mount namespace: a tree of mounts. As long as somebody holds it (`ns.count` in Linux) the tree stands.
pub struct MntNamespace {
    inner: Arc<NsMounts>,
    table: Arc<MountTable>,
}

/// What the mounts of a namespace refer to; it outlives the namespace with the last of them (`passive` in Linux).
pub(super) struct NsMounts {
    ino: u64,
    /// Detached trees live in anonymous namespaces, which no task can be in.
    anon: bool,
    /// The namespace that a detached tree was copied from (`seq_origin`), 0 for none.
    origin: u64,
    user_ns: OnceLock<Arc<UserNamespace>>,
    root: RwLock<Option<Arc<Mount>>>,
    /// By unique id.
    mounts: RwLock<BTreeMap<u64, Arc<Mount>>>,
    /// Mounts that an operation in progress is going to add.
    pending_mounts: AtomicUsize,
    event: AtomicU64,
}

impl NsMounts {
    fn new(ino: u64, origin: u64) -> Arc<NsMounts> {
        Arc::new(NsMounts {
            ino,
            anon: ino == 0,
            origin,
            user_ns: OnceLock::new(),
            root: RwLock::new(None),
            mounts: RwLock::default(),
            pending_mounts: AtomicUsize::new(0),
            event: AtomicU64::new(0),
        })
    }

    /// A namespace for a detached tree: `alloc_mnt_ns` with `anon`. `source` is where the tree is copied from.
    pub(super) fn new_anon(owner: &MntNamespace, source: Option<&NsMounts>) -> Arc<NsMounts> {
        let origin = source.map_or(0, |source| if source.anon { source.origin } else { source.ino });
        let ns = Self::new(0, origin);
        if let Some(user_ns) = owner.user_ns() {
            let _ = ns.user_ns.set(user_ns.clone());
        }
        ns
    }

    /// `check_anonymous_mnt`: a detached tree that comes from `ns`, or from no namespace.
    pub(super) fn is_anon_of(&self, ns: &MntNamespace) -> bool {
        self.anon && (self.origin == 0 || self.origin == ns.id())
    }

    /// `is_anon_ns`
    pub(super) fn is_anon(&self) -> bool {
        self.anon
    }

    pub(super) fn user_ns(&self) -> Option<&Arc<UserNamespace>> {
        self.user_ns.get()
    }

    pub(super) fn root(&self) -> Option<Arc<Mount>> {
        self.root.read().clone()
    }

    /// Makes `root` the root of the tree, and all of its mounts mounts of this namespace.
    pub(super) fn adopt_tree(self: &Arc<Self>, root: &Arc<Mount>) {
        for mount in root.preorder() {
            self.add(&mount);
        }
        *self.root.write() = Some(root.clone());
    }

    /// `mnt_add_to_ns`
    pub(super) fn add(self: &Arc<Self>, mount: &Arc<Mount>) {
        let old = mount.state.write().ns.replace(self.clone());
        drop(old);
        self.mounts.write().insert(mount.unique_id, mount.clone());
    }

    /// The mount with a unique id: `lookup_mnt_in_ns`.
    pub(super) fn find(&self, unique_id: u64) -> Option<Arc<Mount>> {
        self.mounts.read().get(&unique_id).cloned()
    }

    /// `move_from_ns`: the mount still says that it is here.
    pub(super) fn remove(&self, mount: &Mount, lock: &mut NamespaceLock<'_>) {
        let removed = self.mounts.write().remove(&mount.unique_id);
        lock.unmounted.extend(removed);
        let mut root = self.root.write();
        if root.as_ref().is_some_and(|root| std::ptr::eq(&**root, mount)) {
            lock.unmounted.extend(root.take());
        }
    }

    /// How many of the references to `mount` are from here.
    pub(super) fn references_to(&self, mount: &Arc<Mount>) -> usize {
        let listed = self.mounts.read().contains_key(&mount.unique_id);
        let root = self.root.read().as_ref().is_some_and(|root| Arc::ptr_eq(root, mount));
        usize::from(listed) + usize::from(root)
    }

    /// `count_mounts`: reserves room for `more` mounts. `ENOSPC` where there is none.
    pub(super) fn count_mounts(&self, more: usize) -> Result<()> {
        let pending = self.pending_mounts.load(Ordering::Relaxed) + more;
        if self.mounts.read().len() + pending > MntNamespace::MOUNT_MAX {
            return Err(Errno::ENOSPC);
        }
        self.pending_mounts.store(pending, Ordering::Relaxed);
        Ok(())
    }

    /// The reserved room has been used, or is not needed.
    pub(super) fn clear_pending(&self) {
        self.pending_mounts.store(0, Ordering::Relaxed);
    }

    pub(super) fn ino(&self) -> u64 {
        self.ino
    }

    pub(super) fn set_event(&self, event: u64) {
        self.event.store(event, Ordering::Release);
    }
}

impl MntNamespace {
    /// `sysctl_mount_max`: the most mounts in a namespace.
    pub const MOUNT_MAX: usize = 100_000;

    /// The first namespace, with `sb` mounted as its root: `init_mount_tree`.
    ///
    /// Its mounts are private, as the kernel makes them and as containers usually have it: nothing done in a new
    /// namespace shows elsewhere unless a program asks for it (`mount --make-shared`), and `pivot_root` and
    /// `mount --move` work without preparation. On hosts with systemd, which makes everything shared, they need some.
    pub fn new(table: &Arc<MountTable>, sb: Arc<ActiveSuper>, flags: MountFlags) -> Arc<MntNamespace> {
        let ns = Self::empty(table);
        let rootfs = ActiveSuper::new(Arc::new(RootFs), SuperFlags::empty());
        let bottom = Mount::new(table, rootfs.clone(), rootfs.root().clone(), MountFlags::empty());
        let root = sb.root().clone();
        Mount::new(table, sb, root, flags).attach(&bottom, &bottom.root);
        ns.inner.adopt_tree(&bottom);
        ns
    }

    pub(super) fn empty(table: &Arc<MountTable>) -> Arc<MntNamespace> {
        let ino = table.next_ns.fetch_add(1, Ordering::Relaxed);
        let ns = Arc::new(MntNamespace { inner: NsMounts::new(ino, 0), table: table.clone() });
        table.namespaces.lock().insert(ino, Arc::downgrade(&ns));
        ns
    }

    pub(super) fn inner(&self) -> &Arc<NsMounts> {
        &self.inner
    }

    /// The lock and counters that all namespaces of the sandbox share.
    pub fn table(&self) -> &Arc<MountTable> {
        &self.table
    }

    /// Inode number, as `/proc/PID/ns/mnt` shows it.
    pub fn ino(&self) -> u64 {
        self.inner.ino
    }

    /// `ns_id`: never used again, and higher than those of all namespaces that existed when this one was made. A file that
    /// stands for a mount namespace can be mounted only in one with a lower number, so that they cannot keep one another
    /// alive (`mnt_ns_loop`).
    pub fn id(&self) -> u64 {
        self.inner.ino
    }

    /// The mount that is the root directory of who enters the namespace: what is on top of rootfs. `None` only at the
    /// end of the namespace.
    pub fn root(&self) -> Option<Arc<Mount>> {
        self.inner.root().map(|root| root.topmost_overmount())
    }

    /// All mounts, oldest first.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.inner.mounts.read().values().cloned().collect()
    }

    /// `nr_mounts`
    pub fn nr_mounts(&self) -> usize {
        self.inner.mounts.read().len()
    }

    /// Number of the latest change of this tree. Who polls `/proc/PID/mounts` is woken when it is not the one seen last.
    pub fn event(&self) -> u64 {
        self.inner.event.load(Ordering::Acquire)
    }

    /// The user namespace whose capabilities rule this one, once its creator has told.
    pub fn user_ns(&self) -> Option<&Arc<UserNamespace>> {
        self.inner.user_ns()
    }

    /// Records the owner, once.
    pub(crate) fn set_user_ns(&self, owner: Arc<UserNamespace>) {
        // The owner of a namespace never changes; a second call has nothing to say.
        let _ = self.inner.user_ns.set(owner);
    }
}

impl Drop for MntNamespace {
    /// The last task has left: `put_mnt_ns`. Mounts that somebody still holds become detached.
    fn drop(&mut self) {
        self.table.namespaces.lock().remove(&self.inner.ino);
        let mut lock = self.table.namespace_lock();
        if let Some(root) = self.inner.root() {
            umount_tree(&root, UmountTree::empty(), &mut lock);
            lock.unmounted.push(root);
        }
    }
}
