//! Changes of a mount tree: `mount(2)`, `umount2(2)`, `pivot_root(2)`, and copies of trees (`fs/namespace.c`).
//!
//! The caller has checked `CAP_SYS_ADMIN` over the namespace's owner, and passes its own namespace: places in another one
//! are `EINVAL`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{MntNamespace, Mount, MountFlags};
use crate::errno::{Errno, Result};
use crate::vfs::d_path::path_is_under;
use crate::vfs::{ActiveSuper, Dentry, Path};

bitflags::bitflags! {
    /// How a tree is copied: `CL_*`.
    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) struct CopyFlags: u32 {
        /// `CL_COPY_UNBINDABLE`
        const UNBINDABLE = 0x04;
        /// `CL_SHARED_TO_SLAVE`
        const SHARED_TO_SLAVE = 0x20;
    }

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
}

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

/// `clone_mnt`
fn clone_mnt(old: &Arc<Mount>, root: &Arc<Dentry>, copy: CopyFlags) -> Arc<Mount> {
    let mount = Mount::new(&old.table, old.sb.clone(), root.clone(), old.flags());
    let mut propagation = old.propagation();
    if copy.contains(CopyFlags::SHARED_TO_SLAVE) && propagation.shared.is_some() {
        propagation.master = propagation.shared.take();
    }
    mount.state.write().propagation = propagation;
    if let Some(name) = old.devname() {
        mount.set_devname(name);
    }
    mount
}

/// Copies `src` from `root` downwards with the mounts on it: `copy_tree`. The caller holds `namespace_sem`.
///
/// `EINVAL`: an unbindable mount. `EPERM`: one below that may not be left out.
pub(super) fn copy_tree(src: &Arc<Mount>, root: &Arc<Dentry>, copy: CopyFlags) -> Result<Arc<Mount>> {
    let skips = |mount: &Mount| {
        !copy.contains(CopyFlags::UNBINDABLE) && mount.flags().contains(MountFlags::UNBINDABLE)
    };
    if skips(src) {
        return Err(Errno::EINVAL);
    }
    let top = clone_mnt(src, root, copy);
    let mut todo = vec![(src.clone(), top.clone())];
    while let Some((src, dst)) = todo.pop() {
        for child in src.children() {
            let Some((_, mountpoint)) = child.parent_and_mountpoint() else { continue };
            if !mountpoint.is_subdir(&dst.root) {
                continue;
            }
            if skips(&child) {
                if child.flags().contains(MountFlags::LOCKED) {
                    umount_tree(None, &top);
                    return Err(Errno::EPERM);
                }
                continue;
            }
            let new = clone_mnt(&child, &child.root, copy);
            new.attach(&dst, &mountpoint);
            todo.push((child, new));
        }
    }
    Ok(top)
}

/// Takes a mount and all below it out of the tree, each from its parent: `umount_tree`. The caller holds `namespace_sem` and
/// drops what it gets after releasing it.
pub(super) fn umount_tree(ns: Option<&MntNamespace>, root: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let mounts = root.preorder();
    for mount in &mounts {
        match ns {
            Some(ns) => ns.remove(mount),
            None => mount.state.write().ns = std::sync::Weak::new(),
        }
        mount.detach();
    }
    mounts
}

/// The top of what is mounted at a place: `lock_mount`.
///
/// `ENOENT`: the place has been removed. `EINVAL`: it is not in the caller's namespace.
fn mount_target(ns: &Arc<MntNamespace>, at: &Path) -> Result<Path> {
    let mut at = at.clone();
    while let Some(mounted) = at.mnt.lookup_mnt(&at.dentry) {
        at = Path::mount_root(&mounted);
    }
    if at.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    if !at.mnt.in_this_namespace(ns) {
        return Err(Errno::EINVAL);
    }
    Ok(at)
}

/// `graft_tree`: `ENOTDIR` where one is a directory and the other is not, `ENOSPC` where there are too many mounts.
fn graft_tree(ns: &Arc<MntNamespace>, tree: &Arc<Mount>, at: &Path) -> Result<()> {
    if at.dentry.is_dir() != tree.root.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let mounts = tree.preorder();
    ns.count_mounts(mounts.len())?;
    for mount in &mounts {
        ns.add(mount);
    }
    tree.attach(&at.mnt, &at.dentry);
    Ok(())
}

fn is_mount_root(path: &Path) -> bool {
    Arc::ptr_eq(&path.dentry, &path.mnt.root)
}

/// Mounts a file system: `do_new_mount`.
///
/// `ENOENT`, `EINVAL`: a removed place, or one in another namespace. `EBUSY`: the same file system is mounted right there.
/// `EINVAL`: its root is a symbolic link. `ENOTDIR`, `ENOSPC`.
pub fn do_mount(
    ns: &Arc<MntNamespace>,
    sb: Arc<ActiveSuper>,
    at: &Path,
    flags: MountFlags,
) -> Result<Arc<Mount>> {
    let root = sb.root().clone();
    let mount = Mount::new(&ns.table, sb, root, flags & MountFlags::USER_SETTABLE);
    do_add_mount(ns, &mount, at)?;
    Ok(mount)
}

/// Puts a new mount into the tree: `do_add_mount`.
///
/// Errors of [`do_mount`].
pub fn do_add_mount(ns: &Arc<MntNamespace>, mount: &Arc<Mount>, at: &Path) -> Result<()> {
    let _sem = ns.table.namespace_sem.lock();
    let at = mount_target(ns, at)?;
    if is_mount_root(&at) && Arc::ptr_eq(&at.mnt.sb, &mount.sb) {
        return Err(Errno::EBUSY);
    }
    if mount.root.is_symlink() {
        return Err(Errno::EINVAL);
    }
    graft_tree(ns, mount, &at)
}

/// `mount --bind`, with `recurse` `--rbind`: `do_loopback`. Gives the new mount.
///
/// `EINVAL`: an unbindable source, one in another namespace, or one with locked mounts on it that would be uncovered.
/// Errors of [`do_mount`]'s target.
pub fn bind_mount(ns: &Arc<MntNamespace>, from: &Path, at: &Path, recurse: bool) -> Result<Arc<Mount>> {
    let _sem = ns.table.namespace_sem.lock();
    let at = mount_target(ns, at)?;
    if from.mnt.flags().contains(MountFlags::UNBINDABLE) || !from.mnt.in_this_namespace(ns) {
        return Err(Errno::EINVAL);
    }
    if !recurse && has_locked_children(from) {
        return Err(Errno::EINVAL);
    }
    let tree = if recurse {
        copy_tree(&from.mnt, &from.dentry, CopyFlags::empty())?
    } else {
        clone_mnt(&from.mnt, &from.dentry, CopyFlags::empty())
    };
    tree.set_flags(tree.flags() - MountFlags::LOCKED);
    if let Err(error) = graft_tree(ns, &tree, &at) {
        umount_tree(None, &tree);
        return Err(error);
    }
    Ok(tree)
}

fn has_locked_children(path: &Path) -> bool {
    path.mnt.children().iter().any(|child| {
        child.flags().contains(MountFlags::LOCKED)
            && child.parent_and_mountpoint().is_some_and(|(_, mountpoint)| mountpoint.is_subdir(&path.dentry))
    })
}

/// `umount2(2)`. Takes the place by value: another reference to the mount (a working directory, a handle) makes it busy.
/// `root` is the caller's root directory.
///
/// `EINVAL`: not the root of a mount in the caller's namespace, a locked mount, or `EXPIRE` with another flag. `EBUSY`: in
/// use, or mounts are on it (not with `DETACH`); the caller's root. `EAGAIN`: marked by the first call with `EXPIRE`.
pub fn umount(ns: &Arc<MntNamespace>, path: Path, flags: UmountFlags, root: &Path) -> Result<()> {
    let removed = {
        let _sem = ns.table.namespace_sem.lock();
        let mount = &path.mnt;
        if !is_mount_root(&path)
            || !mount.in_this_namespace(ns)
            || mount.flags().contains(MountFlags::LOCKED)
            || mount.parent_and_mountpoint().is_none()
        {
            return Err(Errno::EINVAL);
        }
        if flags.contains(UmountFlags::EXPIRE) {
            if flags.intersects(UmountFlags::FORCE | UmountFlags::DETACH) || Arc::ptr_eq(mount, &root.mnt) {
                return Err(Errno::EINVAL);
            }
            if in_use(mount) {
                return Err(Errno::EBUSY);
            }
            if !mount.expiry_mark.swap(true, Ordering::Relaxed) {
                return Err(Errno::EAGAIN);
            }
        }
        if !flags.contains(UmountFlags::DETACH) && (Arc::ptr_eq(mount, &root.mnt) || in_use(mount)) {
            return Err(Errno::EBUSY);
        }
        umount_tree(Some(ns), mount)
    };
    drop(removed);
    Ok(())
}

/// `propagate_mount_busy`: mounts are on it, or somebody holds it beside the namespace, the parent and the caller.
fn in_use(mount: &Arc<Mount>) -> bool {
    const OWN_REFERENCES: usize = 3;
    !mount.children.read().is_empty() || Arc::strong_count(mount) > OWN_REFERENCES
}

/// `mount -o remount,bind`: sets the flags of one mount (`do_reconfigure_mnt`).
///
/// `EINVAL`: not the root of a mount in the caller's namespace. `EPERM`: a flag that a more privileged user locked.
pub fn remount_flags(ns: &Arc<MntNamespace>, path: &Path, flags: MountFlags) -> Result<()> {
    let _sem = ns.table.namespace_sem.lock();
    if !is_mount_root(path) || !path.mnt.in_this_namespace(ns) {
        return Err(Errno::EINVAL);
    }
    path.mnt.may_change_flags(flags)?;
    let (old, new) = (path.mnt.flags(), flags & MountFlags::USER_SETTABLE);
    path.mnt.set_flags((old - MountFlags::USER_SETTABLE) | new);
    Ok(())
}

impl Mount {
    /// Whether the flags that a user sets may become `flags`: `can_change_locked_flags`.
    ///
    /// `EPERM`: a more privileged user has locked one.
    pub fn may_change_flags(&self, flags: MountFlags) -> Result<()> {
        let old = self.flags();
        let new = flags & MountFlags::USER_SETTABLE;
        for (lock, flag) in [
            (MountFlags::LOCK_READONLY, MountFlags::READONLY),
            (MountFlags::LOCK_NODEV, MountFlags::NODEV),
            (MountFlags::LOCK_NOSUID, MountFlags::NOSUID),
            (MountFlags::LOCK_NOEXEC, MountFlags::NOEXEC),
        ] {
            if old.contains(lock) && !new.contains(flag) {
                return Err(Errno::EPERM);
            }
        }
        let atime = MountFlags::NOATIME | MountFlags::NODIRATIME | MountFlags::RELATIME;
        if old.contains(MountFlags::LOCK_ATIME) && old & atime != new & atime {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}

/// `mount --make-…`: `do_change_type`.
///
/// `EINVAL`: not the root of a mount in the caller's namespace. `EOPNOTSUPP`: shared, which this version does not have.
pub fn change_propagation(
    ns: &Arc<MntNamespace>,
    path: &Path,
    kind: MountPropagation,
    recurse: bool,
) -> Result<()> {
    let _sem = ns.table.namespace_sem.lock();
    if !is_mount_root(path) || !path.mnt.in_this_namespace(ns) {
        return Err(Errno::EINVAL);
    }
    let mounts = if recurse { path.mnt.preorder() } else { vec![path.mnt.clone()] };
    for mount in mounts {
        match kind {
            MountPropagation::Shared => return Err(Errno::EOPNOTSUPP),
            // A slave of no peer group is private; an unbindable one stays unbindable, as it does in Linux.
            MountPropagation::Slave => {}
            MountPropagation::Private => mount.set_flags(mount.flags() - MountFlags::UNBINDABLE),
            MountPropagation::Unbindable => mount.set_flags(mount.flags() | MountFlags::UNBINDABLE),
        }
    }
    Ok(())
}

/// `mount --move`: `do_move_mount`.
///
/// `EINVAL`: not the root of a mount in the caller's namespace, one without parent, or a locked one. `ENOTDIR`: a directory
/// onto a file or the reverse. `ELOOP`: to a place below itself.
pub fn move_mount(ns: &Arc<MntNamespace>, from: &Path, to: &Path) -> Result<()> {
    let _sem = ns.table.namespace_sem.lock();
    let to = mount_target(ns, to)?;
    let mount = &from.mnt;
    if !mount.in_this_namespace(ns)
        || mount.flags().contains(MountFlags::LOCKED)
        || !is_mount_root(from)
        || mount.parent_and_mountpoint().is_none()
    {
        return Err(Errno::EINVAL);
    }
    if from.dentry.is_dir() != to.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    if path_is_under(&Path::mount_root(&to.mnt), from) {
        return Err(Errno::ELOOP);
    }
    mount.detach();
    mount.attach(&to.mnt, &to.dentry);
    Ok(())
}

/// `pivot_root(2)`: makes the mount at `new` the root of the tree and puts the old root at `put_old`. Gives the old and the
/// new root; the caller moves every task of the namespace that stood at the old one (`chroot_fs_refs`, see
/// [`crate::vfs::FsStruct::replace_root`]).
///
/// `ENOTDIR`: not directories. `EINVAL`: a place in another namespace, `new` or the caller's root is no mount's root, `new` is
/// locked, `put_old` is not below `new`, or `new` not below the root. `EBUSY`: `new` or `put_old` is on the current root.
/// `ENOENT`: `new` has been removed.
pub fn pivot_root(ns: &Arc<MntNamespace>, new: &Path, put_old: &Path, root: &Path) -> Result<(Path, Path)> {
    if !new.dentry.is_dir() || !put_old.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let _sem = ns.table.namespace_sem.lock();
    let put_old = mount_target(ns, put_old)?;
    let (new_mnt, root_mnt) = (&new.mnt, &root.mnt);
    if !root_mnt.in_this_namespace(ns) || !new_mnt.in_this_namespace(ns) {
        return Err(Errno::EINVAL);
    }
    if new_mnt.flags().contains(MountFlags::LOCKED) {
        return Err(Errno::EINVAL);
    }
    if new.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    if Arc::ptr_eq(new_mnt, root_mnt) || Arc::ptr_eq(&put_old.mnt, root_mnt) {
        return Err(Errno::EBUSY);
    }
    if !is_mount_root(root)
        || !is_mount_root(new)
        || new_mnt.parent_and_mountpoint().is_none()
        || !path_is_under(&put_old, new)
        || !path_is_under(new, root)
    {
        return Err(Errno::EINVAL);
    }
    let root_place = root_mnt.parent_and_mountpoint();
    new_mnt.detach();
    root_mnt.detach();
    if root_mnt.flags().contains(MountFlags::LOCKED) {
        new_mnt.set_flags(new_mnt.flags() | MountFlags::LOCKED);
        root_mnt.set_flags(root_mnt.flags() - MountFlags::LOCKED);
    }
    root_mnt.attach(&put_old.mnt, &put_old.dentry);
    match root_place {
        Some((parent, mountpoint)) => new_mnt.attach(&parent, &mountpoint),
        None => *ns.root.write() = Some(new_mnt.clone()),
    }
    Ok((root.clone(), new.clone()))
}

/// Whether something is mounted at `dentry` in the namespace of `mnt`: `is_local_mountpoint`.
pub(crate) fn is_local_mountpoint(mnt: &Mount, dentry: &Dentry) -> bool {
    if !dentry.is_mountpoint() {
        return false;
    }
    let ns = mnt.state.read().ns.clone();
    dentry.mounts_here().iter().any(|mount| mount.state.read().ns.ptr_eq(&ns))
}

/// Unmounts what other namespaces have mounted on a name that has been removed: `detach_mounts`.
pub(crate) fn detach_mounts(dentry: &Dentry) {
    let mounts = dentry.mounts_here();
    let Some(table) = mounts.first().map(|mount| mount.table.clone()) else { return };
    // Namespaces are held beyond the lock, which their destructor takes.
    let spaces: HashMap<u32, _> = mounts.iter().map(|mount| (mount.id, mount.namespace())).collect();
    let mut removed = Vec::new();
    {
        let _sem = table.namespace_sem.lock();
        for mount in &mounts {
            let ns = spaces.get(&mount.id).and_then(Option::as_deref);
            removed.push(umount_tree(ns, mount));
        }
    }
    drop(removed);
}
