//! New names: `mkdir(2)`, `mknod(2)`, `symlink(2)`, `link(2)`.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::walk::{LastType, Nameidata};
use super::{LookupFlags, WalkContext, path_lookup};
use crate::errno::{Errno, Result};
use crate::vfs::dcache::Keep;
use crate::vfs::permission::{may_create, prepare_mode};
use crate::vfs::{
    NewInode, PATH_MAX, Path, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, watch,
};

/// Calls `make` with the directory and name of a path that does not exist yet, under the directory's lock:
/// `filename_create` and the start of every `vfs_*` that creates. Also for callers that create in their own way (binding
/// a socket). With `mode` `make` gets the owner and mode the object shall have.
///
/// In Linux's order: `EEXIST` (the name exists, or is `.`, `..` or `/`); `ENOENT` (a slash after the name of what will
/// be no directory); `EROFS`; then `ENOENT` (the directory has been removed), `EOVERFLOW` and the directory's permissions.
pub fn with_new_name<T>(
    ctx: &WalkContext<'_>,
    name: &[u8],
    mode: u32,
    rdev: u64,
    make: impl FnOnce(&Path, &[u8], NewInode) -> Result<T>,
) -> Result<T> {
    new_name(ctx, name, mode & S_IFMT == S_IFDIR, |dir, name| {
        may_create(dir, ctx.cred)?;
        let (mode, gid) = prepare_mode(dir, ctx.cred, mode, ctx.umask)?;
        make(dir, name, NewInode { mode, uid: ctx.cred.fsuid, gid, rdev })
    })
}

fn new_name<T>(
    ctx: &WalkContext<'_>,
    name: &[u8],
    wants_dir: bool,
    make: impl FnOnce(&Path, &[u8]) -> Result<T>,
) -> Result<T> {
    let mut nd = Nameidata::new(ctx, name, LookupFlags::default())?;
    nd.link_path_walk()?;
    if nd.last_type != LastType::Norm {
        return Err(Errno::EEXIST);
    }
    let dir = &nd.path;
    let _exclusive = dir.dentry.i_rwsem.write();
    nd.expect_negative()?;
    if nd.trailing_slash && !wants_dir {
        return Err(Errno::ENOENT);
    }
    dir.mnt.want_write()?;
    watch::will_change_names(dir);
    make(dir, nd.last_name())
}

impl Nameidata<'_> {
    /// The last component must not exist. The caller holds the directory's `i_rwsem`.
    fn expect_negative(&self) -> Result<()> {
        let name = self.last_name();
        if name.len() > crate::vfs::NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        match self.path.dentry.lookup_locked(name, self.path.mnt.sb(), Keep::Dirs) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) if !self.path.mnt.sb().ops().has_fixed_names() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// `mkdir(2)`. Errors of [`with_new_name`].
pub fn mkdir(ctx: &WalkContext<'_>, name: &[u8], mode: u32) -> Result<()> {
    with_new_name(ctx, name, S_IFDIR | mode & 0o1777, 0, |dir, name, new| {
        let inode = dir.inode().mkdir(name, new)?;
        dir.dentry.d_add(name, inode, dir.mnt.sb());
        Ok(())
    })
}

/// `mknod(2)`: a regular file, FIFO, socket or device node, by the type bits of `mode` (0: regular).
///
/// `EPERM`: a directory is asked for, or a device without `CAP_MKNOD` (the whiteout device 0:0 needs none). `EINVAL`:
/// another type. Then errors of [`with_new_name`].
pub fn mknod(ctx: &WalkContext<'_>, name: &[u8], mode: u32, rdev: u64) -> Result<()> {
    let file_type = match mode & S_IFMT {
        0 => S_IFREG,
        known @ (S_IFREG | S_IFCHR | S_IFBLK | S_IFIFO | S_IFSOCK) => known,
        S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let rdev = if matches!(file_type, S_IFCHR | S_IFBLK) { rdev } else { 0 };
    with_new_name(ctx, name, file_type | mode & 0o7777, rdev, |dir, name, new| {
        let is_whiteout = file_type == S_IFCHR && rdev == 0;
        if matches!(file_type, S_IFCHR | S_IFBLK) && !is_whiteout && !ctx.cred.mknod {
            return Err(Errno::EPERM);
        }
        dir.inode().mknod(name, new).map(drop)
    })
}

/// `symlink(2)`. `ENOENT`: an empty target; `ENAMETOOLONG`: one above 4095 bytes. Then errors of [`with_new_name`].
pub fn symlink(ctx: &WalkContext<'_>, target: &[u8], name: &[u8]) -> Result<()> {
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    if target.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    with_new_name(ctx, name, S_IFLNK | 0o777, 0, |dir, name, new| {
        dir.inode().symlink(name, target, new).map(drop)
    })
}

/// `linkat(2)`: gives the object `old` names (walked with `old_flags`: `FOLLOW` for `AT_SYMLINK_FOLLOW`, `EMPTY` for
/// `AT_EMPTY_PATH`, whose capability the caller has checked) the further name `new`.
///
/// Errors of the walk to `old`, then those of [`with_new_name`] with `EXDEV` (another mount) before the directory's
/// permissions; `EPERM`: a directory.
pub fn link(
    old_ctx: &WalkContext<'_>,
    old: &[u8],
    old_flags: LookupFlags,
    new_ctx: &WalkContext<'_>,
    new: &[u8],
) -> Result<()> {
    let old = path_lookup(old_ctx, old, old_flags)?;
    new_name(new_ctx, new, false, |dir, name| {
        if !Arc::ptr_eq(&dir.mnt, &old.mnt) {
            return Err(Errno::EXDEV);
        }
        may_create(dir, new_ctx.cred)?;
        if old.dentry.is_dir() {
            return Err(Errno::EPERM);
        }
        dir.inode().link(name, old.inode())
    })
}

/// [`link`] for an open file without a name (`O_TMPFILE`, or `/proc/self/fd/N` of a host file).
pub fn link_handle(ctx: &WalkContext<'_>, handle: &OwnedFd, new: &[u8]) -> Result<()> {
    new_name(ctx, new, false, |dir, name| {
        may_create(dir, ctx.cred)?;
        dir.inode().link_handle(name, handle)
    })
}

/// The inode an object created in `dir` gets: owner, group and mode.
pub(super) fn new_inode(ctx: &WalkContext<'_>, dir: &Path, mode: u32) -> Result<NewInode> {
    let (mode, gid) = prepare_mode(dir, ctx.cred, mode, ctx.umask)?;
    Ok(NewInode { mode, uid: ctx.cred.fsuid, gid, rdev: 0 })
}
