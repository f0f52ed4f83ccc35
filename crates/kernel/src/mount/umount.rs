//! Taking mounts out of a tree: `umount2(2)` (`fs/namespace.c`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::propagate::{propagate_mount_busy, propagate_mount_unlock, propagate_umount};
use super::tree::is_mount_root;
use super::{MntNamespace, Mount, MountFlags, NamespaceLock};
use crate::errno::{Errno, Result};
use crate::vfs::{Dentry, Path};

bitflags::bitflags! {
    /// Flags of `umount2(2)`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct UmountFlags: u32 {
        /// `MNT_FORCE`: no file system here has requests to abort, so it changes nothing.
        const FORCE = 1;
        /// `MNT_DETACH`
        const DETACH = 2;
        /// `MNT_EXPIRE`
        const EXPIRE = 4;
        /// `UMOUNT_NOFOLLOW`, for the caller's walk.
        const NOFOLLOW = 8;
    }

    /// `enum umount_tree_flags`
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct UmountTree: u32 {
        /// Nobody uses the mounts; they are taken apart.
        const SYNC = 1;
        /// Mounts that receive from these go as well.
        const PROPAGATE = 2;
        /// The tree stays in one piece for those who are in it.
        const CONNECTED = 4;
    }
}

/// Takes a mount and all below it out of the tree: `umount_tree`. Dropped is all that after the lock.
pub(super) fn umount_tree(root: &Arc<Mount>, how: UmountTree, lock: &mut NamespaceLock<'_>) {
    if how.contains(UmountTree::PROPAGATE) {
        propagate_mount_unlock(root, lock);
    }
    let mut set = root.preorder();
    for mount in &set {
        mount.set_flags(mount.flags() | MountFlags::UMOUNT);
        if let Some(ns) = mount.ns() {
            ns.remove(mount, lock);
        }
    }
    if how.contains(UmountTree::PROPAGATE) {
        propagate_umount(&mut set, lock);
    }
    lock.pnodes.bulk_make_private(&set);
    for mount in &set {
        mount.set_expiry_list(None);
        let ns = mount.state.write().ns.take();
        if let Some(ns) = ns {
            lock.touch(&ns);
        }
        if how.contains(UmountTree::SYNC) {
            mount.set_flags(mount.flags() | MountFlags::SYNC_UMOUNT);
        }
        if disconnect_mount(mount, how) {
            mount.detach(lock);
        }
    }
    lock.unmounted.append(&mut set);
}

/// `disconnect_mount`: whether an unmounted mount leaves its parent.
fn disconnect_mount(mount: &Mount, how: UmountTree) -> bool {
    if how.contains(UmountTree::SYNC) || mount.parent().is_none_or(|parent| !parent.is_umount()) {
        return true;
    }
    // What a more privileged user has covered stays covered for who is still in there.
    !how.contains(UmountTree::CONNECTED) && !mount.is_locked()
}

/// `umount2(2)`. Takes the place by value: another reference to the mount (a working directory, a handle) makes it busy.
/// `root` is the caller's root directory.
///
/// In Linux's order: `EINVAL`: not the root of a mount in the caller's namespace, or a locked mount; `EXPIRE` with another
/// flag or of the caller's root. `EBUSY`: in use, or mounts are on it (with `EXPIRE`). `EAGAIN`: marked by the first call
/// with `EXPIRE`. `EBUSY`: the caller's root without `DETACH` (Linux then makes its file system read-only, which fails
/// likewise while files are open for writing). `EINVAL`: the root of the namespace. `EBUSY`: in use, mounts are on it, or
/// one that would be unmounted along with it is in use (not with `DETACH`).
pub fn umount(ns: &Arc<MntNamespace>, path: Path, flags: UmountFlags, root: &Path) -> Result<()> {
    let mut lock = ns.table().namespace_lock();
    let mount = &path.mnt;
    if !is_mount_root(&path) || !mount.is_in(ns) || mount.is_locked() {
        return Err(Errno::EINVAL);
    }
    let is_root = Arc::ptr_eq(mount, &root.mnt);
    if flags.contains(UmountFlags::EXPIRE) {
        if flags.intersects(UmountFlags::FORCE | UmountFlags::DETACH) || is_root {
            return Err(Errno::EINVAL);
        }
        if mount.has_children() || mount.users() > 0 {
            return Err(Errno::EBUSY);
        }
        if !mount.expiry_mark.swap(true, Ordering::Relaxed) {
            return Err(Errno::EAGAIN);
        }
    }
    if is_root && !flags.contains(UmountFlags::DETACH) {
        return Err(Errno::EBUSY);
    }
    if !mount.has_parent() {
        return Err(Errno::EINVAL);
    }
    let mut how = UmountTree::PROPAGATE;
    if !flags.contains(UmountFlags::DETACH) {
        if propagate_mount_busy(mount, &lock) {
            return Err(Errno::EBUSY);
        }
        how |= UmountTree::SYNC;
    }
    umount_tree(mount, how, &mut lock);
    Ok(())
}

/// Whether something is mounted at `dentry` in the namespace of `mnt`: `is_local_mountpoint`.
pub(crate) fn is_local_mountpoint(mnt: &Mount, dentry: &Dentry) -> bool {
    if !dentry.is_mountpoint() {
        return false;
    }
    let Some(ns) = mnt.ns() else { return false };
    dentry.mounts_here().iter().any(|mount| mount.ns().is_some_and(|own| Arc::ptr_eq(&own, &ns)))
}

/// Unmounts what is mounted, in other namespaces, on a name that has been removed: `detach_mounts`. Who is in there keeps
/// the tree as it was.
pub(crate) fn detach_mounts(dentry: &Dentry) {
    let mounts = dentry.mounts_here();
    let Some(table) = mounts.first().map(|mount| mount.table.clone()) else { return };
    let mut lock = table.namespace_lock();
    // The latest is first in Linux's list.
    for mount in mounts.into_iter().rev() {
        if mount.is_umount() {
            mount.detach(&mut lock);
        } else if mount.has_parent() {
            umount_tree(&mount, UmountTree::CONNECTED, &mut lock);
        }
        lock.unmounted.push(mount);
    }
}
