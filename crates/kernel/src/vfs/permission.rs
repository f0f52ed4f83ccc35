//! Who may do what with an inode: `inode_permission` and its relatives (`fs/namei.c`, `path_resolution(7)`).
//!
//! The sysctls `fs.protected_hardlinks`, `protected_symlinks`, `protected_fifos` and `protected_regular` are 0, the kernel's own
//! default.

use super::dcache::DirPerm;
use super::inode::{Attr, Inode, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use super::posix_acl::{check_acl, create_mode};
use super::{Path, SuperFlags};
use crate::errno::{Errno, Result};

/// Search a directory or execute a file.
pub const MAY_EXEC: u32 = 1;
/// Write.
pub const MAY_WRITE: u32 = 2;
/// Read.
pub const MAY_READ: u32 = 4;

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_ISVTX: u32 = 0o1000;
const S_IXGRP: u32 = 0o010;

/// The credentials a file system call is made with: ids of the initial user namespace and the effective capabilities
/// that matter here, as plain values.
#[derive(Clone, Copy)]
pub struct WalkCred<'a> {
    /// `fsuid`, or the real uid for `access(2)`.
    pub fsuid: u32,
    /// `fsgid`, or the real gid for `access(2)`.
    pub fsgid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// `CAP_DAC_OVERRIDE`
    pub dac_override: bool,
    /// `CAP_DAC_READ_SEARCH`
    pub dac_read_search: bool,
    /// `CAP_FOWNER`
    pub fowner: bool,
    /// `CAP_FSETID`
    pub fsetid: bool,
    /// `CAP_CHOWN`
    pub chown: bool,
    /// `CAP_MKNOD`
    pub mknod: bool,
    /// `CAP_SYS_CHROOT`
    pub sys_chroot: bool,
    /// `CAP_SYS_ADMIN`
    pub sys_admin: bool,
    /// `CAP_SETFCAP`
    pub setfcap: bool,
    /// Whether the caller's user namespace maps an owner and a group; capabilities over an inode count only then
    /// (`capable_wrt_inode_uidgid`). `None`: it maps all.
    pub mapped: Option<&'a (dyn Fn(u32, u32) -> bool + Sync)>,
    /// Whether some process runs the file with these attributes as its program, which then cannot be written
    /// (`exe_file_deny_write_access`). `None`: nobody runs anything.
    pub runs: Option<&'a (dyn Fn(&Attr) -> bool + Sync)>,
}

impl<'a> WalkCred<'a> {
    /// Root with all capabilities.
    pub const fn root() -> WalkCred<'static> {
        WalkCred {
            fsuid: 0,
            fsgid: 0,
            groups: &[],
            dac_override: true,
            dac_read_search: true,
            fowner: true,
            fsetid: true,
            chown: true,
            mknod: true,
            sys_chroot: true,
            sys_admin: true,
            setfcap: true,
            mapped: None,
            runs: None,
        }
    }

    /// An ordinary user without capabilities.
    pub const fn user(fsuid: u32, fsgid: u32, groups: &'a [u32]) -> WalkCred<'a> {
        WalkCred {
            fsuid,
            fsgid,
            groups,
            dac_override: false,
            dac_read_search: false,
            fowner: false,
            fsetid: false,
            chown: false,
            mknod: false,
            sys_chroot: false,
            sys_admin: false,
            setfcap: false,
            mapped: None,
            runs: None,
        }
    }

    /// `in_group_p`
    pub fn in_group(&self, gid: u32) -> bool {
        self.fsgid == gid || self.groups.contains(&gid)
    }

    /// Whether a capability counts over an inode of this owner: `capable_wrt_inode_uidgid`.
    pub fn capable_wrt(&self, capability: bool, uid: u32, gid: u32) -> bool {
        capability && self.mapped.is_none_or(|mapped| mapped(uid, gid))
    }

    /// `inode_owner_or_capable`
    pub fn owner_or_capable(&self, attr: &Attr) -> bool {
        self.fsuid == attr.uid || self.capable_wrt(self.fowner, attr.uid, attr.gid)
    }

    /// `in_group_or_capable`: whether the set-group-ID bit may stay.
    pub fn in_group_or_capable(&self, uid: u32, gid: u32) -> bool {
        self.in_group(gid) || self.capable_wrt(self.fsetid, uid, gid)
    }

    /// Whether no mode of a directory can refuse the caller anything in `mask`.
    fn passes_directories(&self, mask: u32) -> bool {
        self.mapped.is_none() && (self.dac_override || (self.dac_read_search && mask & MAY_WRITE == 0))
    }

    /// Whether no mode of another object can refuse the caller anything in `mask`.
    fn passes_files(&self, mask: u32) -> bool {
        self.mapped.is_none() && self.dac_override && mask & MAY_EXEC == 0
    }
}

/// The mode bits' verdict: `generic_permission`. `EACCES`: refused.
pub fn generic_permission(mode: u32, uid: u32, gid: u32, cred: &WalkCred<'_>, mask: u32) -> Result<()> {
    by_class(mode, uid, gid, cred, mask).or_else(|_| by_capability(mode, uid, gid, cred, mask))
}

/// [`generic_permission`] with the access list of the object, which goes before the bits of group and others:
/// `acl_permission_check`.
fn acl_permission(
    path: &Path,
    (mode, uid, gid): (u32, u32, u32),
    cred: &WalkCred<'_>,
    mask: u32,
) -> Result<()> {
    let listed = if cred.fsuid == uid { None } else { check_acl(path, (mode, uid, gid), cred, mask)? };
    let verdict = listed.unwrap_or_else(|| by_class(mode, uid, gid, cred, mask));
    verdict.or_else(|_| by_capability(mode, uid, gid, cred, mask))
}

/// What the nine bits say.
fn by_class(mode: u32, uid: u32, gid: u32, cred: &WalkCred<'_>, mask: u32) -> Result<()> {
    let bits = if cred.fsuid == uid {
        mode >> 6
    } else if cred.in_group(gid) {
        mode >> 3
    } else {
        mode
    };
    if mask & 7 & !bits == 0 { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether the capabilities allow what the bits refuse.
fn by_capability(mode: u32, uid: u32, gid: u32, cred: &WalkCred<'_>, mask: u32) -> Result<()> {
    let is_dir = mode & S_IFMT == S_IFDIR;
    let read_search = if is_dir { mask & MAY_WRITE == 0 } else { mask & 7 == MAY_READ };
    if read_search && cred.capable_wrt(cred.dac_read_search, uid, gid) {
        return Ok(());
    }
    // Files that nobody may execute are not executable for CAP_DAC_OVERRIDE either.
    let overridable = is_dir || mask & MAY_EXEC == 0 || mode & 0o111 != 0;
    if overridable && cred.capable_wrt(cred.dac_override, uid, gid) {
        return Ok(());
    }
    Err(Errno::EACCES)
}

/// Whether `cred` may do `mask` with an object of these attributes: `inode_permission` without the super block's part.
///
/// `EACCES`: refused.
pub fn inode_permission(attr: &Attr, cred: &WalkCred<'_>, mask: u32) -> Result<()> {
    generic_permission(attr.mode, attr.uid, attr.gid, cred, mask)
}

/// Whether `cred` may do `mask` with the object at `path`: `path_permission`. Asks for the attributes only where the
/// answer depends on them.
///
/// `EROFS`: to write on a read-only file system. `EACCES`: refused by the mode.
pub fn path_permission(path: &Path, cred: &WalkCred<'_>, mask: u32) -> Result<()> {
    let file_type = path.dentry.file_type();
    if mask & MAY_WRITE != 0
        && path.mnt.sb().flags().contains(SuperFlags::RDONLY)
        && matches!(file_type, S_IFREG | S_IFDIR | S_IFLNK)
    {
        return Err(Errno::EROFS);
    }
    if file_type == S_IFDIR {
        return dir_permission(path, cred, mask);
    }
    if mask & 7 == 0 || cred.passes_files(mask) {
        return Ok(());
    }
    let attr = path.inode().getattr()?;
    acl_permission(path, (attr.mode, attr.uid, attr.gid), cred, mask)
}

/// `get_write_access`: a program cannot be written while it runs. (Only where the file may be executed now: Linux looks at what
/// runs, whatever its mode has become.)
///
/// `ETXTBSY`.
pub(crate) fn get_write_access(path: &Path, cred: &WalkCred<'_>) -> Result<()> {
    let Some(runs) = cred.runs.filter(|_| path.dentry.file_type() == S_IFREG) else { return Ok(()) };
    let attr = path.inode().getattr()?;
    if attr.mode & 0o111 != 0 && runs(&attr) { Err(Errno::ETXTBSY) } else { Ok(()) }
}

/// [`path_permission`] for directories, from the dentry's memory where names are cached.
pub(crate) fn dir_permission(path: &Path, cred: &WalkCred<'_>, mask: u32) -> Result<()> {
    if mask & 7 == 0 || cred.passes_directories(mask) {
        return Ok(());
    }
    let perm = dir_perm(path)?;
    let verdict = acl_permission(path, (perm.mode, perm.uid, perm.gid), cred, mask);
    verdict.or_else(|errno| if path.inode().lets_in() { Ok(()) } else { Err(errno) })
}

/// Mode and owner of a directory.
pub(crate) fn dir_perm(path: &Path) -> Result<DirPerm> {
    let cacheable = path.mnt.sb().cacheable();
    if cacheable && let Some(perm) = path.dentry.cached_perm() {
        return Ok(perm);
    }
    let attr = path.inode().getattr()?;
    let perm = DirPerm { mode: attr.mode, uid: attr.uid, gid: attr.gid };
    if cacheable {
        path.dentry.set_cached_perm(Some(perm));
    }
    Ok(perm)
}

/// Whether a name may be created in `dir`: `may_create`.
///
/// `ENOENT`: the directory has been removed. `EOVERFLOW`: the file system cannot store the caller's ids. `EROFS`, `EACCES`: as
/// [`path_permission`].
pub(crate) fn may_create(dir: &Path, cred: &WalkCred<'_>) -> Result<()> {
    if dir.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    // fsuidgid_has_mapping asks the user namespace that owns the file system, not the caller's.
    let sb_ns = dir.mnt.sb().user_ns();
    if sb_ns.is_some_and(|ns| ns.from_kuid(cred.fsuid).is_none() || ns.from_kgid(cred.fsgid).is_none()) {
        return Err(Errno::EOVERFLOW);
    }
    path_permission(dir, cred, MAY_WRITE | MAY_EXEC)
}

/// Whether the name of `victim` may be removed from `dir`, by a call for directories or for others: `may_delete`.
///
/// `EPERM`: the file system's names are fixed. `EROFS`, `EACCES`: no write permission on the directory. `EPERM`: a sticky directory and neither it nor the victim is
/// the caller's. `ENOTDIR`, `EISDIR`: not what the call is for. `ENOENT`: the directory has been removed.
pub(crate) fn may_delete(dir: &Path, victim: &dyn Inode, cred: &WalkCred<'_>, wants_dir: bool) -> Result<()> {
    if dir.mnt.sb().ops().has_fixed_names() {
        return Err(Errno::EPERM);
    }
    path_permission(dir, cred, MAY_WRITE | MAY_EXEC)?;
    check_sticky(dir, victim, cred)?;
    let is_dir = victim.file_type() == S_IFDIR;
    if wants_dir && !is_dir {
        return Err(Errno::ENOTDIR);
    }
    if !wants_dir && is_dir {
        return Err(Errno::EISDIR);
    }
    if dir.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    Ok(())
}

fn check_sticky(dir: &Path, victim: &dyn Inode, cred: &WalkCred<'_>) -> Result<()> {
    if cred.fowner && cred.mapped.is_none() {
        return Ok(());
    }
    let perm = dir_perm(dir)?;
    if perm.mode & S_ISVTX == 0 || perm.uid == cred.fsuid {
        return Ok(());
    }
    let attr = victim.getattr()?;
    if attr.uid == cred.fsuid || cred.capable_wrt(cred.fowner, attr.uid, attr.gid) {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// Mode and group of an object that `cred` creates in a directory: `vfs_prepare_mode` and `inode_init_owner`.
///
/// Errors of asking for the directory's attributes and its default list, which the umask gives way to.
pub(crate) fn prepare_mode(path: &Path, cred: &WalkCred<'_>, mode: u32, umask: u32) -> Result<(u32, u32)> {
    let dir = dir_perm(path)?;
    let is_dir = mode & S_IFMT == S_IFDIR;
    let inherits = dir.mode & S_ISGID != 0;
    let mut mode = mode;
    if inherits
        && !is_dir
        && mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP
        && !cred.in_group_or_capable(dir.uid, dir.gid)
    {
        mode &= !S_ISGID;
    }
    mode = create_mode(path, mode, umask)?;
    if inherits && is_dir {
        mode |= S_ISGID;
    }
    Ok((mode, if inherits { dir.gid } else { cred.fsgid }))
}

/// The mode after the privileges of a file that somebody changes have been taken away, where that changes anything:
/// `setattr_should_drop_suidgid`.
pub(crate) fn mode_without_privs(attr: &Attr, cred: &WalkCred<'_>, keep_for_fsetid: bool) -> Option<u32> {
    if attr.mode & S_IFMT != S_IFREG || (keep_for_fsetid && cred.fsetid) {
        return None;
    }
    drop_sugid(attr, cred)
}

/// Takes set-user-ID away, and set-group-ID where it means that (group execution) or the caller is not of the group.
pub(crate) fn drop_sugid(attr: &Attr, cred: &WalkCred<'_>) -> Option<u32> {
    let mut mode = attr.mode & !S_ISUID;
    if mode & S_ISGID != 0 && (mode & S_IXGRP != 0 || !cred.in_group_or_capable(attr.uid, attr.gid)) {
        mode &= !S_ISGID;
    }
    (mode != attr.mode).then_some(mode & 0o7777)
}
