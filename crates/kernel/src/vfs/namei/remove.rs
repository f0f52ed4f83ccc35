//! Removing names: `unlink(2)` and `rmdir(2)`.

use super::walk::{LastType, Nameidata};
use super::{LookupFlags, WalkContext};
use crate::errno::{Errno, Result};
use crate::mount::{detach_mounts, is_local_mountpoint};
use crate::vfs::dcache::{Found, Keep};
use crate::vfs::permission::may_delete;
use crate::vfs::{NAME_MAX, S_IFDIR, watch};

/// `unlink(2)`.
///
/// In Linux's order: `EISDIR` (the path ends in `.`, `..` or `/`); `EROFS`; `ENOENT`; with a slash after the name `EISDIR`
/// or `ENOTDIR`; the directory's permissions (`EACCES`, `EPERM` of a sticky one); `EISDIR`; `EBUSY` (a mount point).
pub fn unlink(ctx: &WalkContext<'_>, name: &[u8]) -> Result<()> {
    let mut nd = Nameidata::new(ctx, name, LookupFlags::default())?;
    nd.link_path_walk()?;
    if nd.last_type != LastType::Norm {
        return Err(Errno::EISDIR);
    }
    remove(&nd, false)
}

/// `rmdir(2)`.
///
/// In Linux's order: `ENOTEMPTY` (the path ends in `..`), `EINVAL` (in `.`), `EBUSY` (`/`); `EROFS`; `ENOENT`; the
/// directory's permissions; `ENOTDIR`; `EBUSY` (a mount point); `ENOTEMPTY`.
pub fn rmdir(ctx: &WalkContext<'_>, name: &[u8]) -> Result<()> {
    let mut nd = Nameidata::new(ctx, name, LookupFlags::default())?;
    nd.link_path_walk()?;
    match nd.last_type {
        LastType::Norm => remove(&nd, true),
        LastType::DotDot => Err(Errno::ENOTEMPTY),
        LastType::Dot => Err(Errno::EINVAL),
        LastType::Root => Err(Errno::EBUSY),
    }
}

fn remove(nd: &Nameidata<'_>, wants_dir: bool) -> Result<()> {
    let (dir, name) = (&nd.path, nd.last_name());
    let sb = dir.mnt.sb();
    dir.mnt.want_write()?;
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let exclusive = dir.dentry.i_rwsem.write();
    let victim = dir.dentry.lookup_locked(name, sb, Keep::Dirs)?;
    if nd.trailing_slash && !wants_dir {
        return Err(if victim.file_type() == S_IFDIR { Errno::EISDIR } else { Errno::ENOTDIR });
    }
    may_delete(dir, &**victim.inode(), nd.cred, wants_dir)?;
    if let Found::Dentry(dentry) = &victim
        && is_local_mountpoint(&dir.mnt, dentry)
    {
        return Err(Errno::EBUSY);
    }
    watch::will_change_names(dir);
    match &victim {
        Found::Dentry(dentry) => watch::will_change(&dir.mnt, dentry),
        Found::Inode(inode) => watch::will_change_inode(&dir.mnt, &**inode),
    }
    if wants_dir {
        dir.inode().rmdir(name)?;
    } else {
        dir.inode().unlink(name)?;
    }
    if let Found::Dentry(dentry) = &victim {
        dentry.d_delete(sb);
    }
    drop(exclusive);
    if let Found::Dentry(dentry) = &victim {
        detach_mounts(dentry);
    }
    Ok(())
}
