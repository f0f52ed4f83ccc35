//! Putting a tree in its place (`fs/namespace.c`): where exactly, how often, and what becomes of what is there.

use std::sync::Arc;

use super::copy::lock_mnt_tree;
use super::propagate::propagate_mnt;
use super::umount::{UmountTree, umount_tree};
use super::{MntNamespace, Mount, NamespaceLock};
use crate::errno::{Errno, Result};
use crate::vfs::Path;

/// The place on top of all that is mounted at `at`: `do_lock_mount`.
///
/// `ENOENT`: the place has been removed, or its mount unmounted.
pub(super) fn lock_mount(at: &Path) -> Result<Path> {
    let at = match at.mnt.lookup_mnt(&at.dentry) {
        Some(over) => Path::mount_root(&over.topmost_overmount()),
        None => at.clone(),
    };
    if at.dentry.is_deleted() || !at.mnt.is_mounted() { Err(Errno::ENOENT) } else { Ok(at) }
}

/// The place directly below the topmost mount at `at`, the root of a mount, and that topmost mount: `do_lock_mount` for
/// `MOVE_MOUNT_BENEATH`.
///
/// `EINVAL`: not the root of a mount, or the root of a namespace. `ENOENT` as [`lock_mount`].
pub(super) fn lock_mount_beneath(at: &Path) -> Result<(Path, Option<Arc<Mount>>)> {
    if !Arc::ptr_eq(&at.dentry, &at.mnt.root) {
        return Err(Errno::EINVAL);
    }
    let over = at.mnt.topmost_overmount();
    let (mnt, dentry) = over.parent_and_mountpoint().ok_or(Errno::EINVAL)?;
    if dentry.is_deleted() || !at.mnt.is_mounted() {
        return Err(Errno::ENOENT);
    }
    Ok((Path { mnt, dentry }, Some(over)))
}

/// `graft_tree`: `ENOTDIR` where one is a directory and the other is not. Errors of [`attach_recursive_mnt`].
pub(super) fn graft_tree(
    tree: &Arc<Mount>,
    at: &Path,
    ns: &MntNamespace,
    lock: &mut NamespaceLock<'_>,
) -> Result<()> {
    if at.dentry.is_dir() != tree.root.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    attach_recursive_mnt(tree, at, ns, lock)
}

/// Mounts the tree `source` at `dest`, or moves it there, and copies of it at all places that receive from there:
/// `attach_recursive_mnt`. `ns` is the caller's namespace. What is mounted at one of the other places goes on top of
/// the copy there.
///
/// | source → | shared | private | slave | unbindable |
/// |---|---|---|---|---|
/// | bind on shared | shared, peer of the source, copied on | shared, copied on | shared and slave, copied on | `EINVAL` |
/// | bind on other | shared, peer of the source | private | slave | `EINVAL` |
/// | move to shared | shared, copied on | shared, copied on | shared and slave, copied on | `EINVAL` |
/// | move to other | shared | private | slave | unbindable |
///
/// `ENOENT`: the topmost root of the tree has been removed. `ENOSPC`: too many mounts, here or in a namespace that receives
/// copies. Nothing has changed then.
pub(super) fn attach_recursive_mnt(
    source: &Arc<Mount>,
    dest: &Path,
    ns: &MntNamespace,
    lock: &mut NamespaceLock<'_>,
) -> Result<()> {
    // What is there already may have to go on top of the tree: its root must be fit for that (`get_mountpoint`).
    let top = source.topmost_overmount();
    if top.root.is_deleted() && !top.root.is_mountpoint() {
        return Err(Errno::ENOENT);
    }
    let dest_ns = dest.mnt.ns().ok_or(Errno::EINVAL)?;
    if !source.has_parent() {
        dest_ns.count_mounts(source.tree_size())?;
    }
    let shared = lock.pnodes.is_shared(&dest.mnt);
    let mut copies = Vec::new();
    if shared {
        lock.pnodes.invent_group_ids(source, true);
        let propagated = propagate_mnt(&dest.mnt, &dest.dentry, source, &mut copies, lock);
        if let Err(error) = propagated {
            dest_ns.clear_pending();
            for copy in &copies {
                if let Some(ns) = copy.parent().and_then(|parent| parent.ns()) {
                    ns.clear_pending();
                }
                umount_tree(copy, UmountTree::SYNC, lock);
            }
            lock.pnodes.cleanup_group_ids(source);
            return Err(error);
        }
        for mount in source.preorder() {
            lock.pnodes.set_shared(&mount);
        }
    }
    let old = source.parent_and_mountpoint();
    if let Some((_, old_mountpoint)) = &old {
        old_mountpoint.remove_mount(source);
        // Who moves a mount wants to keep it.
        source.set_expiry_list(None);
    } else if let Some(from) = source.ns() {
        // Out of a detached tree.
        for mount in source.preorder() {
            from.remove(&mount, lock);
            let left = mount.state.write().ns.take();
            drop(left);
        }
    }
    source.set_mountpoint(&dest.mnt, &dest.dentry);
    copies.push(source.clone());
    for tree in copies.iter().rev() {
        commit_tree(tree, ns, lock);
    }
    if let Some((old_parent, old_mountpoint)) = old {
        // Only now: who walks meanwhile finds the mount at one place or the other, and always a way up from it.
        old_parent.remove_child(source, &old_mountpoint);
        lock.unmounted.push(old_parent);
        lock.ex_mountpoints.push(old_mountpoint);
    }
    Ok(())
}

/// Makes a tree visible at the place set for it, below what is there already: `commit_tree` and what comes with it.
fn commit_tree(tree: &Arc<Mount>, caller: &MntNamespace, lock: &mut NamespaceLock<'_>) {
    let Some((parent, mountpoint)) = tree.parent_and_mountpoint() else { return };
    let Some(ns) = parent.ns() else { return };
    if ns.user_ns() != caller.user_ns() {
        lock_mnt_tree(tree);
    }
    if !tree.is_mounted() {
        for mount in tree.preorder() {
            ns.add(&mount);
        }
        ns.clear_pending();
    }
    if let Some(there) = parent.lookup_mnt(&mountpoint) {
        // What was locked covered something; the new mount does so from now on.
        if there.is_locked() {
            tree.set_locked(true);
            there.set_locked(false);
        }
        // It is on top of the new mount before that is shown in its place: walkers always find it.
        let top = tree.topmost_overmount();
        mountpoint.remove_mount(&there);
        there.attach(&top, &top.root);
    }
    tree.make_visible();
    lock.touch(&ns);
}
