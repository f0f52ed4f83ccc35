//! Copies of mounts, trees and namespaces (`fs/namespace.c`).

use std::sync::Arc;

use super::expire::mnt_set_expiry;
use super::tree::has_locked_children;
use super::umount::{UmountTree, umount_tree};
use super::{MntNamespace, Mount, MountFlags, NamespaceLock};
use crate::errno::{Errno, Result};
use crate::nsfs::NsRef;
use crate::user_namespace::UserNamespace;
use crate::vfs::{Dentry, FsStruct, Path};

bitflags::bitflags! {
    /// How mounts are copied: `CL_*`.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct CopyFlags: u32 {
        /// `CL_SLAVE`: the copy of a shared mount is its slave. That of a private or slave mount is like the original
        /// (what used to be `CL_SHARED_TO_SLAVE`).
        const SLAVE = 0x02;
        /// `CL_COPY_UNBINDABLE`
        const UNBINDABLE = 0x04;
        /// `CL_MAKE_SHARED`
        const MAKE_SHARED = 0x08;
        /// `CL_EXPIRE`: copies of mounts that expire do so as well.
        const EXPIRE = 0x01;
        /// `CL_COPY_MNT_NS_FILE`: also files that stand for mount namespaces.
        const MNT_NS_FILE = 0x80;
    }
}

/// `clone_mnt`. The copy of an unbindable mount can be bound, since Linux 6.17 (`mnt_t_flags` are not copied).
pub(super) fn clone_mnt(
    old: &Arc<Mount>,
    root: &Arc<Dentry>,
    copy: CopyFlags,
    lock: &mut NamespaceLock<'_>,
) -> Arc<Mount> {
    let flags = old.flags() - MountFlags::INTERNAL - MountFlags::UNBINDABLE;
    let mount = Mount::new(&old.table, old.sb.clone(), root.clone(), flags);
    if let Some(name) = old.devname() {
        mount.set_devname(name);
    }
    lock.pnodes.clone_links(&mount, old, copy);
    mount
}

/// A mount of the directory at `path` for a file system made of others (overlayfs): in no namespace, so that what is
/// mounted below does not show.
///
/// `EINVAL`: an unbindable mount, an unmounted one, one in a detached tree other than its root, or one with locked mounts on
/// it, which would be uncovered.
pub fn clone_private_mount(path: &Path) -> Result<Arc<Mount>> {
    let mnt = &path.mnt;
    let _lock = mnt.table.namespace_lock();
    if mnt.is_unbindable() || !(mnt.in_namespace() || mnt.is_anon_root()) || has_locked_children(path) {
        return Err(Errno::EINVAL);
    }
    let flags = mnt.flags() - MountFlags::INTERNAL;
    Ok(Mount::new(&mnt.table, mnt.sb.clone(), path.dentry.clone(), flags))
}

/// Copies `src` from `root` downwards with the mounts on it: `copy_tree`.
///
/// `EINVAL`: an unbindable mount, or, unless asked for, a file that stands for a mount namespace. `EPERM`: an unbindable one
/// below that may not be left out, because it is locked.
pub(super) fn copy_tree(
    src: &Arc<Mount>,
    root: &Arc<Dentry>,
    copy: CopyFlags,
    lock: &mut NamespaceLock<'_>,
) -> Result<Arc<Mount>> {
    let skips = |mount: &Mount| !copy.contains(CopyFlags::UNBINDABLE) && mount.is_unbindable();
    let skips_file = |root: &Dentry| !copy.contains(CopyFlags::MNT_NS_FILE) && is_mnt_ns_file(root);
    if skips(src) || skips_file(root) {
        return Err(Errno::EINVAL);
    }
    let top = clone_mnt(src, root, copy, lock);
    let below = |mount: &Arc<Mount>, parent: &Arc<Mount>| {
        let children = mount.children().into_iter().rev().map(|child| (child, parent.clone()));
        children.collect::<Vec<_>>()
    };
    let mut todo = below(src, &top);
    todo.retain(|(child, _)| child.parent_and_mountpoint().is_some_and(|(_, at)| at.is_subdir(root)));
    while let Some((child, parent)) = todo.pop() {
        let Some((_, mountpoint)) = child.parent_and_mountpoint() else { continue };
        if skips(&child) {
            if child.is_locked() {
                umount_tree(&top, UmountTree::SYNC, lock);
                return Err(Errno::EPERM);
            }
            continue;
        }
        if skips_file(&child.root) {
            continue;
        }
        let new = clone_mnt(&child, &child.root, copy, lock);
        new.set_locked(child.is_locked());
        if copy.contains(CopyFlags::EXPIRE)
            && let Some(list) = child.expiry_list()
        {
            mnt_set_expiry(&new, &list);
        }
        new.attach(&parent, &mountpoint);
        todo.extend(below(&child, &new));
    }
    Ok(top)
}

/// `is_mnt_ns_file`
pub(super) fn is_mnt_ns_file(dentry: &Dentry) -> bool {
    matches!(dentry.inode().namespace(), Some(NsRef::Mnt(_)))
}

/// `mnt_ns_loop`: whether a mount of this file in `ns` could make a namespace keep itself alive.
pub(super) fn mnt_ns_loop(ns: &MntNamespace, dentry: &Dentry) -> bool {
    matches!(dentry.inode().namespace(), Some(NsRef::Mnt(other)) if ns.id() >= other.mounts().id())
}

/// The mount namespace, owned by `user_ns`, of a new task with `CLONE_NEWNS`, or of `unshare(2)`: a copy of `old`'s whole
/// tree, unbindable mounts included, files of mount namespaces left out. Both trees are then walked in lock step, and the task's root and working directory
/// move to the new mounts that correspond to theirs. When `old` belongs to another user namespace, the copies of shared
/// mounts are slaves, and all are locked together, so that a less privileged owner cannot uncover what is below them.
///
/// `ENOSPC`: too many mounts.
pub fn copy_mnt_ns(
    user_ns: &Arc<UserNamespace>,
    old: &Arc<MntNamespace>,
    fs: &mut FsStruct,
) -> Result<Arc<MntNamespace>> {
    let new_ns = MntNamespace::empty(old.table());
    new_ns.set_user_ns(user_ns.clone());
    let differs = old.user_ns().is_some_and(|owner| owner != user_ns);
    let mut lock = old.table().namespace_lock();
    let Some(old_root) = old.inner().root() else { return Ok(new_ns.clone()) };
    let mut flags = CopyFlags::UNBINDABLE | CopyFlags::EXPIRE;
    flags.set(CopyFlags::SLAVE, differs);
    let new_root = copy_tree(&old_root, &old_root.root, flags, &mut lock)?;
    if differs {
        lock_mnt_tree(&new_root);
    }
    let (mut root_mnt, mut pwd_mnt) = (None, None);
    let mut pairs = vec![(old_root, new_root.clone())];
    while let Some((p, q)) = pairs.pop() {
        if Arc::ptr_eq(&p, &fs.root.mnt) {
            root_mnt = Some(q.clone());
        }
        if Arc::ptr_eq(&p, &fs.pwd.mnt) {
            pwd_mnt = Some(q.clone());
        }
        // Files of mount namespaces have not been copied, nor what is on them.
        let copied = p.children().into_iter().filter(|child| !is_mnt_ns_file(&child.root));
        pairs.extend(copied.zip(q.children()));
    }
    new_ns.inner().adopt_tree(&new_root);
    for (at, mnt) in [(&mut fs.root, root_mnt), (&mut fs.pwd, pwd_mnt)] {
        lock.unmounted.extend(mnt.map(|mnt| std::mem::replace(&mut at.mnt, mnt)));
    }
    Ok(new_ns)
}

/// `lock_mnt_tree`: flags that a less privileged owner may not take back, and mounts it may not take apart.
pub(super) fn lock_mnt_tree(root: &Arc<Mount>) {
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
        // The root of the copy covers nothing, and what expires may be gone at any time.
        if !Arc::ptr_eq(&mount, root) && mount.expiry_list().is_none() {
            flags |= MountFlags::LOCKED;
        }
        mount.set_flags(flags);
    }
}
