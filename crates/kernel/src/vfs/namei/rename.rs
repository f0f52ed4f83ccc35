//! `rename(2)`.

use std::sync::{Arc, RwLockWriteGuard};

use super::walk::{LastType, Nameidata};
use super::{LookupFlags, WalkContext};
use crate::errno::{Errno, Result};
use crate::mount::{detach_mounts, is_local_mountpoint};
use crate::vfs::dcache::{Found, Keep, same_inode};
use crate::vfs::permission::{MAY_WRITE, may_create, may_delete, path_permission};
use crate::vfs::{Dentry, NAME_MAX, Path, watch};

bitflags::bitflags! {
    /// Flags of `renameat2(2)`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        /// `RENAME_NOREPLACE`
        const NOREPLACE = 1;
        /// `RENAME_EXCHANGE`
        const EXCHANGE = 2;
        /// `RENAME_WHITEOUT`
        const WHITEOUT = 4;
    }
}

/// `renameat2(2)`.
///
/// In Linux's order: `EINVAL` (flags that exclude each other); the walks; `EXDEV` (different mounts); `EBUSY` (`.`, `..` or
/// `/`; `EEXIST` for the new name with `NOREPLACE`); `EROFS`; `ENOENT`; `EEXIST` (`NOREPLACE`), `ENOENT` (`EXCHANGE`);
/// `ENOTDIR` (a slash after the name of what is no directory); `EINVAL` (into its own subtree); `ENOTEMPTY` (onto its own
/// ancestor); permissions on the old and the new directory, with `ENOTDIR` and `EISDIR`; `EACCES` (a directory that gets a
/// new parent must be writable); `EBUSY` (a mount point); then the file system's answer.
pub fn rename(
    old_ctx: &WalkContext<'_>,
    old: &[u8],
    new_ctx: &WalkContext<'_>,
    new: &[u8],
    flags: RenameFlags,
) -> Result<()> {
    let exchange = flags.contains(RenameFlags::EXCHANGE);
    let unknown = !(flags - RenameFlags::all()).is_empty();
    if unknown || (exchange && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT)) {
        return Err(Errno::EINVAL);
    }
    let mut from = Nameidata::new(old_ctx, old, LookupFlags::default())?;
    from.link_path_walk()?;
    let mut to = Nameidata::new(new_ctx, new, LookupFlags::default())?;
    to.link_path_walk()?;
    if !Arc::ptr_eq(&from.path.mnt, &to.path.mnt) {
        return Err(Errno::EXDEV);
    }
    if from.last_type != LastType::Norm {
        return Err(Errno::EBUSY);
    }
    if to.last_type != LastType::Norm {
        let no_replace = flags.contains(RenameFlags::NOREPLACE);
        return Err(if no_replace { Errno::EEXIST } else { Errno::EBUSY });
    }
    from.path.mnt.want_write()?;
    let replaced = rename_locked(&from, &to, flags)?;
    if let Some(dentry) = replaced {
        detach_mounts(&dentry);
    }
    Ok(())
}

/// Locks of one or two directories: `lock_rename` without the super block's lock.
struct LockedDirs<'a> {
    _first: RwLockWriteGuard<'a, ()>,
    _second: Option<RwLockWriteGuard<'a, ()>>,
}

fn lock_dirs<'a>(a: &'a Arc<Dentry>, b: &'a Arc<Dentry>) -> LockedDirs<'a> {
    if Arc::ptr_eq(a, b) {
        return LockedDirs { _first: a.i_rwsem.write(), _second: None };
    }
    let a_first = b.is_subdir(a) || (!a.is_subdir(b) && Arc::as_ptr(a) < Arc::as_ptr(b));
    let (first, second) = if a_first { (a, b) } else { (b, a) };
    LockedDirs { _first: first.i_rwsem.write(), _second: Some(second.i_rwsem.write()) }
}

fn child(nd: &Nameidata<'_>) -> Result<Arc<Dentry>> {
    let name = nd.last_name();
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let sb = nd.path.mnt.sb();
    match nd.path.dentry.lookup_locked(name, sb, Keep::All)? {
        Found::Dentry(dentry) => Ok(dentry),
        Found::Inode(inode) => Ok(nd.path.dentry.d_add(name, inode, sb)),
    }
}

/// Renames and gives the dentry that was replaced, if any.
fn rename_locked(
    from: &Nameidata<'_>,
    to: &Nameidata<'_>,
    flags: RenameFlags,
) -> Result<Option<Arc<Dentry>>> {
    let (old_dir, new_dir): (&Path, &Path) = (&from.path, &to.path);
    let sb = old_dir.mnt.sb();
    let exchange = flags.contains(RenameFlags::EXCHANGE);
    let other_dir = !Arc::ptr_eq(&old_dir.dentry, &new_dir.dentry);
    // The tree's shape between directories is stable only under this lock.
    let _rename_lock = other_dir.then(|| sb.rename_lock.lock());
    let _dirs = lock_dirs(&old_dir.dentry, &new_dir.dentry);

    let source = child(from)?;
    let target = match child(to) {
        Ok(dentry) => Some(dentry),
        Err(Errno::ENOENT) => None,
        Err(error) => return Err(error),
    };
    if flags.contains(RenameFlags::NOREPLACE) && target.is_some() {
        return Err(Errno::EEXIST);
    }
    if exchange {
        let target = target.as_ref().ok_or(Errno::ENOENT)?;
        if !target.is_dir() && to.trailing_slash {
            return Err(Errno::ENOTDIR);
        }
    }
    let is_dir = source.is_dir();
    if !is_dir && (from.trailing_slash || (!exchange && to.trailing_slash)) {
        return Err(Errno::ENOTDIR);
    }
    if other_dir {
        if new_dir.dentry.is_subdir(&source) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = &target
            && old_dir.dentry.is_subdir(target)
        {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
    }
    if let Some(target) = &target
        && same_inode(source.inode(), target.inode())
    {
        return Ok(None);
    }

    let cred = from.cred;
    may_delete(old_dir, &**source.inode(), cred, is_dir)?;
    match &target {
        None => may_create(new_dir, cred)?,
        Some(target) => {
            let wants_dir = if exchange { target.is_dir() } else { is_dir };
            may_delete(new_dir, &**target.inode(), cred, wants_dir)?;
        }
    }
    if other_dir {
        // The entry `..` of a directory that moves is written.
        let at = |dentry: &Arc<Dentry>| Path { mnt: old_dir.mnt.clone(), dentry: dentry.clone() };
        if is_dir {
            path_permission(&at(&source), cred, MAY_WRITE)?;
        }
        if let Some(target) = target.as_ref().filter(|target| exchange && target.is_dir()) {
            path_permission(&at(target), cred, MAY_WRITE)?;
        }
    }
    let busy = |dentry: &Arc<Dentry>| is_local_mountpoint(&old_dir.mnt, dentry);
    if busy(&source) || target.as_ref().is_some_and(busy) {
        return Err(Errno::EBUSY);
    }

    for dir in [old_dir, new_dir] {
        watch::will_change_names(dir);
    }
    for dentry in std::iter::once(&source).chain(&target) {
        watch::will_change(&old_dir.mnt, dentry);
    }
    let (old_name, new_name) = (from.last_name(), to.last_name());
    old_dir.inode().rename(old_name, new_dir.inode(), new_name, flags.bits())?;
    match target {
        Some(target) if exchange => {
            source.d_exchange(&target);
            Ok(None)
        }
        target => {
            if let Some(target) = &target {
                target.d_delete(sb);
            }
            source.d_move(&new_dir.dentry, new_name);
            Ok(target)
        }
    }
}
