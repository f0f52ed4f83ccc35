//! Mounts (`struct mount`, `fs/mount.h`) and mount namespaces (`mount_namespaces(7)`).
//!
//! A [`Mount`] shows a file system, from one of its directories downwards, at a place in another mount. A
//! [`MntNamespace`] is a tree of mounts. The files here are parts of Linux's `fs/namespace.c` and `fs/pnode.c`:
//!
//! - [`namespace`]: namespaces; `copy`: copies of trees, and `copy_mnt_ns` for `CLONE_NEWNS`
//! - `attach`: putting a tree in its place; `umount`: taking one out, `expire`: when nobody uses it any more; `tree`: the operations of `mount(2)`, `umount2(2)`
//!   and `pivot_root(2)` made of them
//! - `detached`: trees in no namespace (`open_tree(2)`, `fsmount(2)`); `setattr`: `mount_setattr(2)`
//! - `pnode`: peer groups and slaves, who receives from whom; `propagate`: mounts and unmounts carried along these links
//! - `proc_mounts`: `/proc/PID/mountinfo` and its relatives; `statmount`: `statmount(2)` and `listmount(2)`
//!
//! # Locking
//!
//! All namespaces that descend from one another share a [`MountTable`]; its `namespace_sem` serialises every change of
//! a tree and guards the propagation links ([`pnode::Pnodes`]). Path walk never takes it: it reads a mount's children
//! only at a dentry marked as a mount point, and a mount's parent only on the way up. See [`crate::vfs`]'s `lock.rs`
//! for the order.

mod attach;
mod copy;
mod detached;
mod expire;
mod flags;
mod ida;
mod namespace;
mod pnode;
mod proc_mounts;
mod propagate;
mod rootfs;
mod setattr;
mod statmount;
#[cfg(test)]
mod tests;
mod tree;
mod umount;
mod visible;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, Weak};

pub use copy::{clone_private_mount, copy_mnt_ns};
pub use detached::DetachedMount;
pub use expire::{ExpiryList, mark_mounts_for_expiry, mnt_set_expiry};
pub use flags::MountFlags;
use ida::Ida;
pub use namespace::MntNamespace;
use namespace::NsMounts;
use pnode::Pnodes;
pub use pnode::Propagation;
pub use proc_mounts::{ProcMounts, show_mountinfo, show_mounts, show_mountstats};
pub use setattr::{MountKattr, mount_setattr};
pub use statmount::{LSMT_ROOT, ListMount, MountView, StatMount, listmount, statmount};
pub use tree::{
    IsAdmin, MountPropagation, bind_mount, change_propagation, do_add_mount, do_mount, move_mount,
    move_mount_beneath, pivot_root, remount_flags, set_group,
};
pub use umount::{UmountFlags, umount};
pub(crate) use umount::{detach_mounts, is_local_mountpoint};
pub use visible::mount_too_revealing;

use crate::errno::{Errno, Result};
use crate::user_namespace::UserNamespace;
use crate::vfs::lock::{Mutex, RwLock};
use crate::vfs::{ActiveSuper, Dentry, SuperFlags, SuperIflags};

/// What all mount trees of one sandbox share: the lock of their shape and the counters of their numbers.
pub struct MountTable {
    namespace_sem: Mutex<Pnodes>,
    /// `mnt_id_xa`
    mnt_ids: Mutex<Ida>,
    /// `mnt_id_ctr`
    next_unique: AtomicU64,
    /// Inode and sequence numbers of namespaces.
    next_ns: AtomicU64,
    /// All namespaces that tasks can be in, by number. An end of the chain of locks: nothing is dropped under it.
    namespaces: Mutex<BTreeMap<u64, Weak<MntNamespace>>>,
    /// Number of the latest change of any tree: `event`.
    event: AtomicU64,
    /// Order of mounts on one parent.
    next_child: AtomicU64,
    on_change: OnceLock<OnChange>,
}

/// Is told the number of a namespace whose tree has changed.
type OnChange = Box<dyn Fn(u64) + Send + Sync>;

impl MountTable {
    /// Where inode numbers of mount namespaces start.
    const FIRST_NS: u64 = 0xf400_0000;

    /// `MNT_UNIQUE_ID_OFFSET`: unique ids lie above, so that nobody takes one for a mount id of 32 bits.
    pub const UNIQUE_ID_OFFSET: u64 = 1 << 31;

    /// A table of its own.
    pub fn new() -> Arc<MountTable> {
        Arc::new(MountTable {
            namespace_sem: Mutex::new(Pnodes::new()),
            mnt_ids: Mutex::new(Ida::new(1)),
            next_unique: AtomicU64::new(Self::UNIQUE_ID_OFFSET + 1),
            next_ns: AtomicU64::new(Self::FIRST_NS),
            namespaces: Mutex::default(),
            event: AtomicU64::new(0),
            next_child: AtomicU64::new(0),
            on_change: OnceLock::new(),
        })
    }

    /// The namespace with a number ([`MntNamespace::id`]): `lookup_mnt_ns`.
    pub fn lookup_mnt_ns(&self, id: u64) -> Option<Arc<MntNamespace>> {
        self.namespaces.lock().get(&id).and_then(Weak::upgrade)
    }

    /// Has `hook` called with the number of a namespace ([`MntNamespace::id`]) after each change of its tree, once for
    /// all that one operation changes, without locks of this module. Once.
    pub fn set_on_change(&self, hook: impl Fn(u64) + Send + Sync + 'static) {
        let _ = self.on_change.set(Box::new(hook));
    }

    /// `namespace_lock`
    fn namespace_lock(&self) -> NamespaceLock<'_> {
        let pnodes = self.namespace_sem.lock();
        let touched = Touched { table: self, namespaces: BTreeSet::new() };
        NamespaceLock { pnodes, unmounted: Vec::new(), ex_mountpoints: Vec::new(), touched }
    }
}

/// `namespace_sem`, held for a change, with the propagation links it guards.
///
/// What is taken out of a tree is dropped only after the lock (`namespace_unlock`): the last reference to a mount can
/// be the last one to a file system, or, for a file of nsfs, to another mount namespace, whose end takes the lock.
struct NamespaceLock<'a> {
    // Fields are dropped in this order.
    pnodes: MutexGuard<'a, Pnodes>,
    unmounted: Vec<Arc<Mount>>,
    ex_mountpoints: Vec<Arc<Dentry>>,
    touched: Touched<'a>,
}

impl NamespaceLock<'_> {
    /// Notes that the tree of `ns` changes: `touch_mnt_namespace`.
    fn touch(&mut self, ns: &NsMounts) {
        ns.set_event(self.touched.table.event.fetch_add(1, Ordering::Relaxed) + 1);
        if !ns.is_anon() {
            self.touched.namespaces.insert(ns.ino());
        }
    }
}

/// Namespaces whose trees have changed under the lock. Their watchers are told after it.
struct Touched<'a> {
    table: &'a MountTable,
    namespaces: BTreeSet<u64>,
}

impl Drop for Touched<'_> {
    fn drop(&mut self) {
        if let Some(hook) = self.table.on_change.get() {
            self.namespaces.iter().for_each(|ns| hook(*ns));
        }
    }
}

struct MountState {
    parent: Weak<Mount>,
    mountpoint: Option<Arc<Dentry>>,
    ns: Option<Arc<NsMounts>>,
    /// `mnt_expire`: the list this mount is on.
    expire: Option<Arc<ExpiryList>>,
}

/// The mounts on a mount, by the address of their mount point's dentry, which they keep alive, and in the order they
/// came (`mnt_mounts`).
#[derive(Default)]
struct Children {
    by_place: HashMap<usize, (u64, Arc<Mount>)>,
    order: BTreeMap<u64, usize>,
}

/// One mount: `struct mount` with its `struct vfsmount`.
pub struct Mount {
    id: u32,
    unique_id: u64,
    root: Arc<Dentry>,
    sb: Arc<ActiveSuper>,
    devname: OnceLock<Box<[u8]>>,
    flags: AtomicU32,
    expiry_mark: AtomicBool,
    state: RwLock<MountState>,
    children: RwLock<Children>,
    table: Arc<MountTable>,
}

fn key(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry).addr()
}

impl Mount {
    /// A mount of `sb` from `root` downwards that is nowhere yet: `vfs_create_mount`.
    pub fn new(
        table: &Arc<MountTable>,
        sb: Arc<ActiveSuper>,
        root: Arc<Dentry>,
        flags: MountFlags,
    ) -> Arc<Mount> {
        let mount = Arc::new(Mount {
            id: table.mnt_ids.lock().alloc(),
            unique_id: table.next_unique.fetch_add(1, Ordering::Relaxed),
            root,
            sb,
            devname: OnceLock::new(),
            flags: AtomicU32::new(flags.bits()),
            expiry_mark: AtomicBool::new(false),
            state: RwLock::new(MountState { parent: Weak::new(), mountpoint: None, ns: None, expire: None }),
            children: RwLock::default(),
            table: table.clone(),
        });
        mount.sb.add_mount(&mount);
        mount
    }

    /// Mount id, as mountinfo shows it: the lowest that was free.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// `mnt_id_unique`: never used again.
    pub fn unique_id(&self) -> u64 {
        self.unique_id
    }

    /// `mnt_root`
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// The file system.
    pub fn sb(&self) -> &Arc<ActiveSuper> {
        &self.sb
    }

    /// What was given as its source (`mnt_devname`): with `mount(2)` each mount of one instance may have another.
    pub fn devname(&self) -> Option<&[u8]> {
        self.devname.get().map(|name| &name[..])
    }

    /// Records its source, once.
    pub fn set_devname(&self, name: &[u8]) {
        let _ = self.devname.set(name.into());
    }

    /// Whether device nodes can be opened: `may_open_dev`.
    pub fn may_open_dev(&self) -> bool {
        !self.flags().nodev() && !self.sb.iflags().contains(SuperIflags::NODEV)
    }

    /// Whether set-user-ID bits and file capabilities count for somebody of `user_ns` whose mounts are those of `ns`:
    /// `mnt_may_suid`. Those of other mount namespaces, and of file systems that a user namespace below has mounted, do not.
    pub fn may_suid(&self, ns: &MntNamespace, user_ns: &Arc<UserNamespace>) -> bool {
        let owns = |owner: &Arc<UserNamespace>| {
            std::iter::successors(Some(user_ns), |ns| ns.parent()).any(|ns| Arc::ptr_eq(ns, owner))
        };
        !self.flags().nosuid() && self.is_in(ns) && self.sb.user_ns().is_none_or(owns)
    }

    /// Whether nothing can be executed: `path_noexec`.
    pub fn noexec(&self) -> bool {
        self.flags().noexec() || self.sb.iflags().contains(SuperIflags::NOEXEC)
    }

    /// Current flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Somebody has used the mount, so it does not expire yet: what `mntput` does at the end of a walk.
    pub(crate) fn clear_expiry_mark(&self) {
        // Reading first keeps the cache line shared between walkers.
        if self.expiry_mark.load(Ordering::Relaxed) {
            self.expiry_mark.store(false, Ordering::Relaxed);
        }
    }

    /// `mnt_expire`
    fn expiry_list(&self) -> Option<Arc<ExpiryList>> {
        self.state.read().expire.clone()
    }

    fn set_expiry_list(&self, list: Option<Arc<ExpiryList>>) {
        let old = std::mem::replace(&mut self.state.write().expire, list);
        drop(old);
    }

    /// `MNT_LOCKED`
    fn is_locked(&self) -> bool {
        self.flags().contains(MountFlags::LOCKED)
    }

    fn set_locked(&self, locked: bool) {
        let mut flags = self.flags();
        flags.set(MountFlags::LOCKED, locked);
        self.set_flags(flags);
    }

    /// `IS_MNT_UNBINDABLE`
    fn is_unbindable(&self) -> bool {
        self.flags().contains(MountFlags::UNBINDABLE)
    }

    /// `MNT_UMOUNT`, `will_be_unmounted`
    fn is_umount(&self) -> bool {
        self.flags().contains(MountFlags::UMOUNT)
    }

    /// Whether changes through this mount are refused: `__mnt_is_readonly`.
    pub fn is_readonly(&self) -> bool {
        self.flags().contains(MountFlags::READONLY) || self.sb.flags().contains(SuperFlags::RDONLY)
    }

    /// `mnt_want_write`: `EROFS` where this mount or its file system is read-only.
    pub fn want_write(&self) -> Result<()> {
        if self.is_readonly() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// The mount this one is on, and where.
    pub fn parent_and_mountpoint(&self) -> Option<(Arc<Mount>, Arc<Dentry>)> {
        let state = self.state.read();
        Some((state.parent.upgrade()?, state.mountpoint.clone()?))
    }

    fn parent(&self) -> Option<Arc<Mount>> {
        self.state.read().parent.upgrade()
    }

    /// `mnt_has_parent`
    fn has_parent(&self) -> bool {
        self.state.read().mountpoint.is_some()
    }

    /// `is_mounted`: in the tree of a namespace, or in a detached one.
    fn is_mounted(&self) -> bool {
        self.state.read().ns.is_some()
    }

    /// Whether this mount is in the tree of a namespace that tasks can be in, not in a detached one.
    pub(crate) fn in_namespace(&self) -> bool {
        self.state.read().ns.as_ref().is_some_and(|ns| !ns.is_anon())
    }

    /// `mnt_ns`
    fn ns(&self) -> Option<Arc<NsMounts>> {
        self.state.read().ns.clone()
    }

    /// `anon_ns_root`: the root of a detached tree.
    fn is_anon_root(&self) -> bool {
        let ns = self.ns().filter(|ns| ns.is_anon());
        ns.and_then(|ns| ns.root()).is_some_and(|root| std::ptr::eq(&*root, self))
    }

    /// `may_use_mount`: in the tree of `ns`, or in a detached one that comes from it.
    fn may_be_used_by(&self, ns: &MntNamespace) -> bool {
        self.is_in(ns) || self.ns().is_some_and(|own| own.is_anon_of(ns))
    }

    /// Whether this mount is in the tree of `ns`: `check_mnt`.
    pub fn is_in(&self, ns: &MntNamespace) -> bool {
        self.state.read().ns.as_ref().is_some_and(|own| Arc::ptr_eq(own, ns.inner()))
    }

    /// Peer groups, as mountinfo shows them.
    pub fn propagation(&self) -> Propagation {
        self.table.namespace_sem.lock().propagation(self)
    }

    /// The mount at `dentry` of this mount: `lookup_mnt`.
    pub fn lookup_mnt(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        self.children.read().by_place.get(&key(dentry)).map(|(_, mount)| mount.clone())
    }

    /// The mount that covers all of this one, mounted on its root: `overmount`.
    fn overmount(&self) -> Option<Arc<Mount>> {
        self.lookup_mnt(&self.root)
    }

    /// `topmost_overmount`
    fn topmost_overmount(self: &Arc<Mount>) -> Arc<Mount> {
        let mut top = self.clone();
        while let Some(over) = top.overmount() {
            top = over;
        }
        top
    }

    /// Mounts on this one, in the order they came: `mnt_mounts`.
    pub fn children(&self) -> Vec<Arc<Mount>> {
        let children = self.children.read();
        children.order.values().filter_map(|key| Some(children.by_place.get(key)?.1.clone())).collect()
    }

    fn has_children(&self) -> bool {
        !self.children.read().order.is_empty()
    }

    /// This mount and all below it, parents first: the order of `next_mnt`.
    pub fn preorder(self: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut order = Vec::new();
        let mut todo = vec![self.clone()];
        while let Some(mount) = todo.pop() {
            todo.extend(mount.children().into_iter().rev());
            order.push(mount);
        }
        order
    }

    /// How many mounts [`Mount::preorder`] gives.
    fn tree_size(self: &Arc<Mount>) -> usize {
        let mut size = 0;
        let mut todo = vec![self.clone()];
        while let Some(mount) = todo.pop() {
            todo.extend(mount.children.read().by_place.values().map(|(_, child)| child.clone()));
            size += 1;
        }
        size
    }

    /// References beside `self` and those of the tree: `mnt_get_count`, less what every caller and every mount has.
    fn users(self: &Arc<Mount>) -> usize {
        let (place, ns) = {
            let state = self.state.read();
            (state.parent.upgrade().zip(state.mountpoint.clone()), state.ns.clone())
        };
        let in_parent = place.is_some_and(|(parent, mountpoint)| {
            let children = parent.children.read();
            children.by_place.get(&key(&mountpoint)).is_some_and(|(_, child)| Arc::ptr_eq(child, self))
        });
        let in_ns = ns.as_ref().map_or(0, |ns| ns.references_to(self));
        Arc::strong_count(self).saturating_sub(1 + usize::from(in_parent) + in_ns)
    }

    /// The `ST_*` flags of `statfs(2)`.
    pub fn statfs_flags(&self) -> u64 {
        let flags = self.flags();
        let mut st = 0;
        for (flag, bit) in [
            (MountFlags::NOSUID, 0x0002),
            (MountFlags::NODEV, 0x0004),
            (MountFlags::NOEXEC, 0x0008),
            (MountFlags::NOATIME, 0x0400),
            (MountFlags::NODIRATIME, 0x0800),
            (MountFlags::RELATIME, 0x1000),
            (MountFlags::NOSYMFOLLOW, 0x2000),
        ] {
            if flags.contains(flag) {
                st |= bit;
            }
        }
        if self.is_readonly() {
            st |= 0x0001;
        }
        if self.sb.flags().contains(SuperFlags::SYNCHRONOUS) {
            st |= 0x0010;
        }
        st
    }

    /// Says where this mount is to be, without showing it there yet: `mnt_set_mountpoint`.
    fn set_mountpoint(self: &Arc<Mount>, parent: &Arc<Mount>, mountpoint: &Arc<Dentry>) {
        {
            let mut state = self.state.write();
            state.parent = Arc::downgrade(parent);
            state.mountpoint = Some(mountpoint.clone());
        }
        mountpoint.add_mount(self);
    }

    /// Shows this mount where [`Mount::set_mountpoint`] has put it, instead of what was there: `make_visible`.
    fn make_visible(self: &Arc<Mount>) {
        let Some((parent, mountpoint)) = self.parent_and_mountpoint() else { return };
        let order = self.table.next_child.fetch_add(1, Ordering::Relaxed);
        let replaced = {
            let mut children = parent.children.write();
            children.order.insert(order, key(&mountpoint));
            let replaced = children.by_place.insert(key(&mountpoint), (order, self.clone()));
            if let Some((order, _)) = &replaced {
                children.order.remove(order);
            }
            replaced
        };
        drop(replaced);
    }

    /// Puts this mount on `parent` at `mountpoint`: `attach_mnt`.
    fn attach(self: &Arc<Mount>, parent: &Arc<Mount>, mountpoint: &Arc<Dentry>) {
        self.set_mountpoint(parent, mountpoint);
        self.make_visible();
    }

    /// Takes this mount off its parent: `umount_mnt`.
    fn detach(self: &Arc<Mount>, lock: &mut NamespaceLock<'_>) {
        let (parent, mountpoint) = {
            let mut state = self.state.write();
            (std::mem::take(&mut state.parent), state.mountpoint.take())
        };
        let Some(mountpoint) = mountpoint else { return };
        mountpoint.remove_mount(self);
        if let Some(parent) = parent.upgrade() {
            parent.remove_child(self, &mountpoint);
            lock.unmounted.push(parent);
        }
        lock.ex_mountpoints.push(mountpoint);
    }

    /// Moves this mount: `mnt_change_mountpoint`. Walkers find it at the old or the new place at any moment.
    fn change_mountpoint(
        self: &Arc<Mount>,
        parent: &Arc<Mount>,
        mountpoint: &Arc<Dentry>,
        lock: &mut NamespaceLock<'_>,
    ) {
        let old = self.parent_and_mountpoint();
        if let Some((_, old_mountpoint)) = &old {
            old_mountpoint.remove_mount(self);
        }
        self.attach(parent, mountpoint);
        if let Some((old_parent, old_mountpoint)) = old {
            old_parent.remove_child(self, &old_mountpoint);
            lock.unmounted.push(old_parent);
            lock.ex_mountpoints.push(old_mountpoint);
        }
    }

    /// Forgets a child, unless another one has taken its place.
    fn remove_child(&self, child: &Arc<Mount>, mountpoint: &Arc<Dentry>) {
        let removed = {
            let mut children = self.children.write();
            match children.by_place.get(&key(mountpoint)) {
                Some((order, here)) if Arc::ptr_eq(here, child) => {
                    let order = *order;
                    children.order.remove(&order);
                    children.by_place.remove(&key(mountpoint))
                }
                _ => None,
            }
        };
        drop(removed);
    }

    /// Takes the mounts that stayed on this one when it was unmounted (`mnt_stuck_children`) off it.
    fn take_stuck_children(&mut self) -> Vec<Arc<Mount>> {
        let children = std::mem::take(self.children.get_mut());
        let stuck: Vec<_> = children.by_place.into_values().map(|(_, child)| child).collect();
        for child in &stuck {
            let mountpoint = child.state.write().mountpoint.take();
            if let Some(mountpoint) = mountpoint {
                mountpoint.remove_mount(child);
            }
        }
        stuck
    }
}

impl Drop for Mount {
    /// The last user of an unmounted mount has gone: `cleanup_mnt`. Mounts still on it go along, in a loop: trees can be
    /// deeper than the stack.
    fn drop(&mut self) {
        self.table.mnt_ids.lock().free(self.id);
        let mut todo = self.take_stuck_children();
        while let Some(child) = todo.pop() {
            if let Some(mut child) = Arc::into_inner(child) {
                todo.extend(child.take_stuck_children());
            }
        }
    }
}
