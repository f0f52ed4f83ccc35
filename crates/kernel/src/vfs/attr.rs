//! Attributes of an object found: `fs/attr.c`, `fs/open.c`, `fs/utimes.c`.
//!
//! The functions take a [`Path`]: the result of [`super::namei::path_lookup`] for calls with a name, the handle's place or
//! [`Path::anonymous`] for calls on a descriptor.

use super::Path;
use super::dcache::Dentry;
use super::inode::{
    Attr, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK, SetAttr, SetTime, StatFs,
};
use super::permission::{
    MAY_EXEC, MAY_READ, MAY_WRITE, WalkCred, drop_sugid, get_write_access, mode_without_privs,
    path_permission,
};
use super::posix_acl::acl_chmod;
use crate::errno::{Errno, Result};

const S_ISGID: u32 = 0o2000;

/// `fstat(2)`
pub fn vfs_getattr(path: &Path) -> Result<Attr> {
    path.inode().getattr()
}

/// Changes attributes of an object that a file system keeps another one's on, without asking who does (overlayfs).
///
/// `EROFS`, and the file system's answer.
pub fn notify_change(path: &Path, set: &SetAttr) -> Result<()> {
    path.mnt.want_write()?;
    setattr(&path.dentry, set)
}

/// Changes attributes after all checks: the end of `notify_change`.
fn setattr(dentry: &Dentry, set: &SetAttr) -> Result<()> {
    let result = dentry.inode().setattr(set);
    dentry.set_cached_perm(None);
    result
}

/// `fchmod(2)`, `fchmodat2(2)`. The set-group-ID bit is dropped where the caller is not of the file's group and has no
/// `CAP_FSETID`.
///
/// `EROFS`. `EPERM`: neither owner nor `CAP_FOWNER`. `EOPNOTSUPP`: a symbolic link.
pub fn vfs_chmod(path: &Path, cred: &WalkCred<'_>, mode: u32) -> Result<()> {
    path.mnt.want_write()?;
    let attr = path.inode().getattr()?;
    if !cred.owner_or_capable(&attr) {
        return Err(Errno::EPERM);
    }
    if path.dentry.is_symlink() {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut mode = mode & 0o7777;
    if !cred.in_group_or_capable(attr.uid, attr.gid) {
        mode &= !S_ISGID;
    }
    setattr(&path.dentry, &SetAttr { mode: Some(mode), ..SetAttr::default() })?;
    acl_chmod(path, &attr, mode)
}

/// `fchown(2)`, `lchown(2)`; `None` leaves an id as it is. Of a file the set-user-ID bit, the set-group-ID bit (where it
/// means that) and the file capabilities are taken away, whoever changes it.
///
/// `EROFS`. `EPERM`: without `CAP_CHOWN` an owner may only keep the owner and choose among the groups it is in; a file with
/// set-id bits to lose is changed by nobody but its owner and who has `CAP_FOWNER`.
pub fn vfs_chown(path: &Path, cred: &WalkCred<'_>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    path.mnt.want_write()?;
    let attr = path.inode().getattr()?;
    let capable = cred.capable_wrt(cred.chown, attr.uid, attr.gid);
    let owner = cred.fsuid == attr.uid;
    if let Some(uid) = uid
        && !capable
        && !(owner && uid == attr.uid)
    {
        return Err(Errno::EPERM);
    }
    if let Some(gid) = gid
        && !capable
        && !(owner && (gid == attr.gid || cred.in_group(gid)))
    {
        return Err(Errno::EPERM);
    }
    let mode = if path.dentry.is_dir() { None } else { drop_sugid(&attr, cred) };
    // Losing the bits is a change of the mode (`ATTR_MODE`), which is the owner's to make, even where no id changes.
    if mode.is_some() && !cred.owner_or_capable(&attr) {
        return Err(Errno::EPERM);
    }
    if path.dentry.file_type() == S_IFREG && attr.mode & 0o111 != 0 {
        // A file without them, or a file system without extended attributes, is none to change.
        let _ = path.inode().removexattr(b"security.capability");
    }
    setattr(&path.dentry, &SetAttr { mode, uid, gid, ..SetAttr::default() })
}

/// `utimensat(2)`; `None` is `UTIME_OMIT`. Both omitted: nothing happens, as the caller should have found before the walk.
///
/// `EROFS`. Both now: `EACCES` for who neither owns nor may write the file. Otherwise `EPERM` for who does not own it.
pub fn vfs_utimes(
    path: &Path,
    cred: &WalkCred<'_>,
    atime: Option<SetTime>,
    mtime: Option<SetTime>,
) -> Result<()> {
    if atime.is_none() && mtime.is_none() {
        return Ok(());
    }
    path.mnt.want_write()?;
    let touch = (atime, mtime) == (Some(SetTime::Now), Some(SetTime::Now));
    let unrestricted = cred.fowner && cred.mapped.is_none();
    if !unrestricted && !cred.owner_or_capable(&path.inode().getattr()?) {
        if !touch {
            return Err(Errno::EPERM);
        }
        path_permission(path, cred, MAY_WRITE)?;
    }
    setattr(&path.dentry, &SetAttr { atime, mtime, ..SetAttr::default() })
}

/// Takes the set-user-ID and set-group-ID bits of a file that is written to (`file_remove_privs`), unless who writes has
/// `CAP_FSETID`.
///
/// Fails as a change of the mode does.
pub fn file_remove_privs(dentry: &Dentry, cred: &WalkCred<'_>) -> Result<()> {
    if cred.fsetid && cred.mapped.is_none() {
        return Ok(());
    }
    match mode_without_privs(&dentry.inode().getattr()?, cred, true) {
        Some(mode) => setattr(dentry, &SetAttr { mode: Some(mode), ..SetAttr::default() }),
        None => Ok(()),
    }
}

/// `truncate(2)`. The set-user-ID and set-group-ID bits go, unless the caller has `CAP_FSETID`. `limit` is the caller's
/// `RLIMIT_FSIZE`: who is refused by it gets a `SIGXFSZ` from the caller of this function.
///
/// `EISDIR`, `EINVAL`: not a regular file. `EROFS`. `EACCES`: no write permission. `ETXTBSY`: a program that runs.
/// `EFBIG`: to grow past the limit.
pub fn vfs_truncate(path: &Path, cred: &WalkCred<'_>, size: u64, limit: u64) -> Result<()> {
    match path.dentry.file_type() {
        S_IFDIR => return Err(Errno::EISDIR),
        S_IFREG => {}
        _ => return Err(Errno::EINVAL),
    }
    path.mnt.want_write()?;
    path_permission(path, cred, MAY_WRITE)?;
    get_write_access(path, cred)?;
    // `inode_newsize_ok`
    if size > limit && size > path.inode().getattr()?.size {
        return Err(Errno::EFBIG);
    }
    let mode = if cred.fsetid { None } else { mode_without_privs(&path.inode().getattr()?, cred, true) };
    setattr(&path.dentry, &SetAttr { size: Some(size), mode, ..SetAttr::default() })
}

/// `access(2)`, `faccessat2(2)`: `mode` of `R_OK` (4), `W_OK` (2), `X_OK` (1). For `access` and `faccessat` without
/// `AT_EACCESS` the credentials carry the real ids, and capabilities only when the real user is root.
///
/// `EINVAL`: another bit. `EACCES`: refused, or a file to execute on a `noexec` mount. `EROFS`: to write on a read-only
/// mount, other than to a device, FIFO or socket.
pub fn vfs_access(path: &Path, cred: &WalkCred<'_>, mode: u32) -> Result<()> {
    if mode & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    let file_type = path.dentry.file_type();
    if mode & MAY_EXEC != 0 && file_type == S_IFREG && path.mnt.noexec() {
        return Err(Errno::EACCES);
    }
    path_permission(path, cred, mode & (MAY_READ | MAY_WRITE | MAY_EXEC))?;
    let special = matches!(file_type, S_IFCHR | S_IFBLK | S_IFIFO | S_IFSOCK);
    if mode & MAY_WRITE != 0 && !special { path.mnt.want_write() } else { Ok(()) }
}

/// Whether the file may be executed: the checks of `do_open_execat`.
///
/// `ELOOP`: a symbolic link that was not followed. `EACCES`: not a regular file, on a `noexec` mount, or refused by the
/// mode.
pub fn may_exec(path: &Path, cred: &WalkCred<'_>) -> Result<()> {
    match path.dentry.file_type() {
        S_IFLNK => return Err(Errno::ELOOP),
        S_IFREG => {}
        _ => return Err(Errno::EACCES),
    }
    if path.mnt.noexec() {
        return Err(Errno::EACCES);
    }
    path_permission(path, cred, MAY_EXEC)
}

/// `statfs(2)`: what the file system says, and `ST_*` flags of the mount as `f_flags` has them.
pub fn vfs_statfs(path: &Path) -> Result<(StatFs, u64)> {
    const ST_VALID: u64 = 0x20;
    let sb = path.mnt.sb();
    Ok((sb.ops().statfs()?, ST_VALID | path.mnt.statfs_flags()))
}
