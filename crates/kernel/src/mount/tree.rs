//! The operations of `mount(2)` and `pivot_root(2)` on a mount tree (`fs/namespace.c`).
//!
//! The caller has checked `CAP_SYS_ADMIN` over the namespace's owner (`may_mount`), and passes its own namespace: places in
//! another one are `EINVAL`, except where noted.

use std::sync::Arc;

use super::attach::{attach_recursive_mnt, graft_tree, lock_mount, lock_mount_beneath};
use super::copy::{CopyFlags, clone_mnt, copy_tree, mnt_ns_loop};
use super::propagate::propagation_would_overmount;
use super::umount::{UmountTree, umount_tree};
use super::{MntNamespace, Mount, MountFlags, NamespaceLock};
use crate::errno::{Errno, Result};
use crate::user_namespace::UserNamespace;
use crate::vfs::d_path::path_is_under;
use crate::vfs::{ActiveSuper, Path};

/// The propagation types of `mount(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountPropagation {
    /// `MS_SHARED`
    Shared,
    /// `MS_PRIVATE`
    Private,
    /// `MS_SLAVE`
    Slave,
    /// `MS_UNBINDABLE`
    Unbindable,
}

/// `path_mounted`
pub(super) fn is_mount_root(path: &Path) -> bool {
    Arc::ptr_eq(&path.dentry, &path.mnt.root)
}

/// Mounts a file system: `do_new_mount`.
///
/// `ENOENT`: a place that has been removed or unmounted. `EINVAL`: one in another namespace. `EBUSY`: the same file system
/// is mounted right there. `EINVAL`: its root is a symbolic link. `ENOTDIR`, `ENOSPC`.
pub fn do_mount(
    ns: &Arc<MntNamespace>,
    sb: Arc<ActiveSuper>,
    at: &Path,
    flags: MountFlags,
) -> Result<Arc<Mount>> {
    let root = sb.root().clone();
    let mount = Mount::new(ns.table(), sb, root, flags & MountFlags::USER_SETTABLE);
    do_add_mount(ns, &mount, at)?;
    Ok(mount)
}

/// Puts a new mount into the tree: `do_add_mount`.
///
/// Errors of [`do_mount`].
pub fn do_add_mount(ns: &Arc<MntNamespace>, mount: &Arc<Mount>, at: &Path) -> Result<()> {
    let mut lock = ns.table().namespace_lock();
    let at = lock_mount(at)?;
    if !at.mnt.is_in(ns) {
        return Err(Errno::EINVAL);
    }
    if is_mount_root(&at) && Arc::ptr_eq(&at.mnt.sb, &mount.sb) {
        return Err(Errno::EBUSY);
    }
    if mount.root.is_symlink() {
        return Err(Errno::EINVAL);
    }
    graft_tree(mount, &at, ns, &mut lock)
}

/// `mount --bind`, with `recurse` `--rbind`: `do_loopback`. Gives the new mount.
///
/// `EINVAL`: the file of this mount namespace, or of one that could contain it. Errors of the target as [`do_mount`] has
/// them; then `EINVAL`: an unbindable source, one in another namespace that is no file of nsfs, or one with locked mounts on
/// it that would be uncovered. `ENOTDIR`, `ENOSPC`.
pub fn bind_mount(ns: &Arc<MntNamespace>, from: &Path, at: &Path, recurse: bool) -> Result<Arc<Mount>> {
    if mnt_ns_loop(ns, &from.dentry) {
        return Err(Errno::EINVAL);
    }
    let mut lock = ns.table().namespace_lock();
    let at = lock_mount(at)?;
    if !at.mnt.is_in(ns) {
        return Err(Errno::EINVAL);
    }
    let tree = do_loopback(ns, from, recurse, &mut lock)?;
    if let Err(error) = graft_tree(&tree, &at, ns, &mut lock) {
        umount_tree(&tree, UmountTree::SYNC, &mut lock);
        return Err(error);
    }
    Ok(tree)
}

/// `__do_loopback`
pub(super) fn do_loopback(
    ns: &Arc<MntNamespace>,
    from: &Path,
    recurse: bool,
    lock: &mut NamespaceLock<'_>,
) -> Result<Arc<Mount>> {
    // may_copy_tree: files of nsfs can be bound wherever they come from.
    let may_copy = from.mnt.may_be_used_by(ns) || from.inode().namespace().is_some();
    if from.mnt.is_unbindable()
        || !may_copy
        || (recurse && !from.mnt.is_mounted())
        || (!recurse && has_locked_children(from))
    {
        return Err(Errno::EINVAL);
    }
    if recurse {
        copy_tree(&from.mnt, &from.dentry, CopyFlags::MNT_NS_FILE, lock)
    } else {
        Ok(clone_mnt(&from.mnt, &from.dentry, CopyFlags::MNT_NS_FILE, lock))
    }
}

/// `has_locked_children`
pub(super) fn has_locked_children(path: &Path) -> bool {
    path.mnt.children().iter().any(|child| {
        child.is_locked()
            && child.parent_and_mountpoint().is_some_and(|(_, mountpoint)| mountpoint.is_subdir(&path.dentry))
    })
}

impl Mount {
    /// Whether the flags that a user sets may become `flags`: `can_change_locked_flags`.
    ///
    /// `EPERM`: a more privileged user has locked one.
    pub fn may_change_flags(&self, flags: MountFlags) -> Result<()> {
        let old = self.flags();
        let kept = [
            (MountFlags::LOCK_READONLY, MountFlags::READONLY),
            (MountFlags::LOCK_NODEV, MountFlags::NODEV),
            (MountFlags::LOCK_NOSUID, MountFlags::NOSUID),
            (MountFlags::LOCK_NOEXEC, MountFlags::NOEXEC),
        ];
        let atime_kept =
            !old.contains(MountFlags::LOCK_ATIME) || old & MountFlags::ATIME == flags & MountFlags::ATIME;
        if atime_kept && kept.iter().all(|(lock, flag)| !old.contains(*lock) || flags.contains(*flag)) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }
}

/// `mount -o remount,bind`: sets the flags of one mount (`do_reconfigure_mnt`).
///
/// `EINVAL`: not the root of a mount in the caller's namespace. `EPERM`: a flag that a more privileged user locked.
pub fn remount_flags(ns: &Arc<MntNamespace>, path: &Path, flags: MountFlags) -> Result<()> {
    let mut lock = ns.table().namespace_lock();
    if !is_mount_root(path) || !path.mnt.is_in(ns) {
        return Err(Errno::EINVAL);
    }
    path.mnt.may_change_flags(flags)?;
    let (old, new) = (path.mnt.flags(), flags & MountFlags::USER_SETTABLE);
    path.mnt.set_flags((old - MountFlags::USER_SETTABLE) | new);
    lock.touch(ns.inner());
    Ok(())
}

/// Whether the caller has `CAP_SYS_ADMIN` in a user namespace.
pub type IsAdmin<'a> = &'a dyn Fn(&Arc<UserNamespace>) -> bool;

/// `may_change_propagation`: `EINVAL` for a mount in no namespace, `EPERM` without `CAP_SYS_ADMIN` in the owner of its
/// namespace.
fn may_change_propagation(mount: &Mount, is_admin: IsAdmin<'_>) -> Result<()> {
    let of_mount = mount.ns().ok_or(Errno::EINVAL)?;
    if of_mount.user_ns().is_none_or(is_admin) { Ok(()) } else { Err(Errno::EPERM) }
}

/// `mount --make-…`, with `recurse` of all mounts below as well: `do_change_type`. Also for a mount of another namespace.
///
/// `EINVAL`: not the root of a mount, or an unmounted one. `EPERM`: a mount in a namespace of a more privileged owner.
pub fn change_propagation(
    ns: &Arc<MntNamespace>,
    is_admin: IsAdmin<'_>,
    path: &Path,
    kind: MountPropagation,
    recurse: bool,
) -> Result<()> {
    let mut lock = ns.table().namespace_lock();
    if !is_mount_root(path) {
        return Err(Errno::EINVAL);
    }
    may_change_propagation(&path.mnt, is_admin)?;
    if kind == MountPropagation::Shared {
        lock.pnodes.invent_group_ids(&path.mnt, recurse);
    }
    let mounts = if recurse { path.mnt.preorder() } else { vec![path.mnt.clone()] };
    for mount in mounts {
        lock.pnodes.change_mnt_propagation(&mount, kind);
    }
    if let Some(ns_of_mount) = path.mnt.ns() {
        lock.touch(&ns_of_mount);
    }
    Ok(())
}

/// `mount --move`: `do_move_mount`. Also the root of a detached tree ([`super::DetachedMount`]) to its place.
///
/// In Linux's order: `EINVAL`: not the root of a mount, or a directory onto a file or the reverse. `ENOENT`: the target has
/// been removed or unmounted. `EINVAL`: source or target in another namespace, a source without parent, a locked one, one on a
/// shared mount; a part of a detached tree other than its root; unbindable mounts to a shared mount. `ELOOP`: to a place
/// below itself, or with the file of this mount namespace in it. `ENOSPC`.
pub fn move_mount(ns: &Arc<MntNamespace>, from: &Path, to: &Path) -> Result<()> {
    do_move_mount(ns, from, to, None)
}

/// `move_mount(2)` with `MOVE_MOUNT_BENEATH`: below the topmost mount at `to`, which is the root of a mount and keeps its
/// place for who walks there.
///
/// As [`move_mount`]; and `EINVAL`: nothing is mounted at `to`, the mount there carries `from` or is the caller's root `root`
/// or that of the namespace, something is mounted on the root of `from`, or propagation would put a copy on top.
pub fn move_mount_beneath(ns: &Arc<MntNamespace>, from: &Path, to: &Path, root: &Path) -> Result<()> {
    do_move_mount(ns, from, to, Some(root))
}

fn do_move_mount(ns: &Arc<MntNamespace>, from: &Path, to: &Path, beneath: Option<&Path>) -> Result<()> {
    let mut lock = ns.table().namespace_lock();
    let mount = &from.mnt;
    if !is_mount_root(from) || from.dentry.is_dir() != to.dentry.is_dir() {
        return Err(Errno::EINVAL);
    }
    let (at, over) = if beneath.is_some() { lock_mount_beneath(to)? } else { (lock_mount(to)?, None) };
    let allowed = if mount.is_in(ns) {
        !mount.is_locked()
            && mount.parent().is_some_and(|parent| !lock.pnodes.is_shared(&parent))
            && at.mnt.is_in(ns)
    } else {
        mount.is_anon_root() && !same_namespace(mount, &at.mnt) && at.mnt.may_be_used_by(ns)
    };
    if !allowed {
        return Err(Errno::EINVAL);
    }
    if let Some(over) = over
        && (over.is_locked()
            || mount.overmount().is_some()
            || beneath.is_some_and(|root| Arc::ptr_eq(&over, &root.mnt))
            || over.parent().zip(ns.inner().root()).is_some_and(|(parent, root)| Arc::ptr_eq(&parent, &root))
            || mount_is_ancestor(&over, mount)
            || propagation_would_overmount(&at.mnt, &over, &at.dentry, &lock)
            || (mount.is_in(ns) && propagation_would_overmount(&at.mnt, mount, &at.dentry, &lock)))
    {
        return Err(Errno::EINVAL);
    }
    if lock.pnodes.is_shared(&at.mnt) && mount.preorder().iter().any(|mount| mount.is_unbindable()) {
        return Err(Errno::EINVAL);
    }
    let loops = |mount: &Arc<Mount>| mnt_ns_loop(ns, &mount.root);
    if mount.preorder().iter().any(loops) || mount_is_ancestor(mount, &at.mnt) {
        return Err(Errno::ELOOP);
    }
    attach_recursive_mnt(mount, &at, ns, &mut lock)
}

/// `move_mount(2)` with `MOVE_MOUNT_SET_GROUP`: gives the private mount `to` the peer group and the master of `from`, a
/// mount of the same file system that shows at least as much: `do_set_group`.
///
/// `EINVAL`: one is not the root of a mount, or unmounted; another file system, or less of it; a locked mount in `from`
/// that `to` would uncover; `to` is not private, or `from` is. `EPERM` as [`change_propagation`].
pub fn set_group(ns: &Arc<MntNamespace>, is_admin: IsAdmin<'_>, from: &Path, to: &Path) -> Result<()> {
    let mut lock = ns.table().namespace_lock();
    may_change_propagation(&from.mnt, is_admin)?;
    may_change_propagation(&to.mnt, is_admin)?;
    let pnodes = &lock.pnodes;
    let below_from = Path { mnt: from.mnt.clone(), dentry: to.mnt.root.clone() };
    if !is_mount_root(from)
        || !is_mount_root(to)
        || !Arc::ptr_eq(&from.mnt.sb, &to.mnt.sb)
        || !to.mnt.root.is_subdir(&from.mnt.root)
        || has_locked_children(&below_from)
        || pnodes.is_shared(&to.mnt)
        || pnodes.is_slave(&to.mnt)
        || to.mnt.is_unbindable()
        || !(pnodes.is_shared(&from.mnt) || pnodes.is_slave(&from.mnt))
    {
        return Err(Errno::EINVAL);
    }
    lock.pnodes.set_group(&from.mnt, &to.mnt);
    if let Some(of_mount) = to.mnt.ns() {
        lock.touch(&of_mount);
    }
    Ok(())
}

fn same_namespace(a: &Mount, b: &Mount) -> bool {
    a.ns().zip(b.ns()).is_some_and(|(a, b)| Arc::ptr_eq(&a, &b))
}

/// `mount_is_ancestor`: whether `below` is `mount` or on it, however high.
pub(super) fn mount_is_ancestor(mount: &Arc<Mount>, below: &Arc<Mount>) -> bool {
    let mut at = Some(below.clone());
    while let Some(below) = at {
        if Arc::ptr_eq(&below, mount) {
            return true;
        }
        at = below.parent();
    }
    false
}

/// `pivot_root(2)`: makes the mount at `new` the root of the tree and puts the old root at `put_old`. Gives the old and the
/// new root; the caller moves every task of the namespace that stood at the old one (`chroot_fs_refs`, see
/// [`crate::vfs::FsStruct::replace_root`]).
///
/// In Linux's order: `ENOTDIR`: not directories. `ENOENT`: `put_old` has been removed. `EINVAL`: `put_old`, the parent of
/// `new` or that of the root is shared; a place in another namespace; `new` is locked. `ENOENT`: `new` has been removed.
/// `EBUSY`: `new` or `put_old` is on the current root. `EINVAL`: `new` or the caller's root is no mount's root, `put_old`
/// is not below `new`, or `new` not below the root.
pub fn pivot_root(ns: &Arc<MntNamespace>, new: &Path, put_old: &Path, root: &Path) -> Result<(Path, Path)> {
    if !new.dentry.is_dir() || !put_old.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let mut lock = ns.table().namespace_lock();
    let put_old = lock_mount(put_old)?;
    let (new_mnt, root_mnt) = (&new.mnt, &root.mnt);
    let parent_or_self = |mount: &Arc<Mount>| mount.parent().unwrap_or_else(|| mount.clone());
    if [put_old.mnt.clone(), parent_or_self(new_mnt), parent_or_self(root_mnt)]
        .iter()
        .any(|mount| lock.pnodes.is_shared(mount))
        || !root_mnt.is_in(ns)
        || !new_mnt.is_in(ns)
        || new_mnt.is_locked()
    {
        return Err(Errno::EINVAL);
    }
    if new.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    if Arc::ptr_eq(new_mnt, root_mnt) || Arc::ptr_eq(&put_old.mnt, root_mnt) {
        return Err(Errno::EBUSY);
    }
    let (Some((root_parent, root_mountpoint)), true) =
        (root_mnt.parent_and_mountpoint(), new_mnt.has_parent())
    else {
        return Err(Errno::EINVAL);
    };
    if !is_mount_root(root)
        || !is_mount_root(new)
        || !path_is_under(&put_old, new)
        || !path_is_under(new, root)
    {
        return Err(Errno::EINVAL);
    }
    if root_mnt.is_locked() {
        new_mnt.set_locked(true);
        root_mnt.set_locked(false);
    }
    new_mnt.change_mountpoint(&root_parent, &root_mountpoint, &mut lock);
    root_mnt.change_mountpoint(&put_old.mnt, &put_old.dentry, &mut lock);
    new_mnt.set_expiry_list(None);
    lock.touch(ns.inner());
    Ok((root.clone(), new.clone()))
}
