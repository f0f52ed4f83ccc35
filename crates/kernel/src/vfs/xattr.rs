//! Extended attributes of an object found: `fs/xattr.c`, `xattr(7)`.

use super::Path;
use super::inode::{S_IFDIR, S_IFREG};
use super::permission::{MAY_READ, MAY_WRITE, WalkCred, path_permission};
use super::posix_acl::{is_acl, vfs_set_acl};
use crate::errno::{Errno, Result};

/// `XATTR_NAME_MAX`
const NAME_MAX: usize = 255;
/// `XATTR_SIZE_MAX`
const SIZE_MAX: usize = 65536;
/// `XATTR_CREATE | XATTR_REPLACE`
const SETXATTR_FLAGS: u32 = 3;

const S_ISVTX: u32 = 0o1000;

/// `xattr_permission`, and what the capability module adds for `security.*`.
fn xattr_permission(path: &Path, cred: &WalkCred<'_>, name: &[u8], mask: u32) -> Result<()> {
    let writes = mask & MAY_WRITE != 0;
    let refused = if writes { Errno::EPERM } else { Errno::ENODATA };
    if name.starts_with(b"security.") {
        if !writes {
            return Ok(());
        }
        let allowed = if name == b"security.capability" {
            let attr = path.inode().getattr()?;
            cred.capable_wrt(cred.setfcap, attr.uid, attr.gid)
        } else {
            cred.sys_admin
        };
        return if allowed { Ok(()) } else { Err(Errno::EPERM) };
    }
    if name.starts_with(b"system.") {
        // Access control lists: the owner's to set.
        if writes && !cred.owner_or_capable(&path.inode().getattr()?) {
            return Err(Errno::EPERM);
        }
        return Ok(());
    }
    if name.starts_with(b"trusted.") {
        return if cred.sys_admin { path_permission(path, cred, mask) } else { Err(refused) };
    }
    if !name.starts_with(b"user.") {
        // Nobody serves the name space, but that is found out after the mode.
        path_permission(path, cred, mask)?;
        return Err(Errno::EOPNOTSUPP);
    }
    match path.dentry.file_type() {
        S_IFREG => {}
        S_IFDIR => {
            if writes && !(cred.fowner && cred.mapped.is_none()) {
                let attr = path.inode().getattr()?;
                if attr.mode & S_ISVTX != 0 && !cred.owner_or_capable(&attr) {
                    return Err(Errno::EPERM);
                }
            }
        }
        _ => return Err(refused),
    }
    path_permission(path, cred, mask)
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX { Err(Errno::ERANGE) } else { Ok(()) }
}

/// Whether a value is file capabilities of revision 2 or 3 (`capabilities(7)`): `validheader`.
fn is_vfs_cap_data(value: &[u8]) -> bool {
    matches!((value.len(), value.get(3)), (20, Some(2)) | (24, Some(3)))
}

/// `getxattr(2)`.
///
/// `ERANGE`: an empty or too long name. `ENODATA`: absent, or the caller may not know. `EACCES`: `user.*` of an object it
/// may not read. `EOPNOTSUPP`: an unknown name space.
pub fn vfs_getxattr(path: &Path, cred: &WalkCred<'_>, name: &[u8]) -> Result<Vec<u8>> {
    check_name(name)?;
    if is_acl(name) && (path.dentry.is_symlink() || !path.mnt.sb().ops().has_acls()) {
        return Err(Errno::EOPNOTSUPP);
    }
    xattr_permission(path, cred, name, MAY_READ)?;
    path.inode().getxattr(name)
}

/// `listxattr(2)`: names each ended by NUL; `trusted.*` only for who has `CAP_SYS_ADMIN`.
pub fn vfs_listxattr(path: &Path, cred: &WalkCred<'_>) -> Result<Vec<u8>> {
    let names = path.inode().listxattr()?;
    if cred.sys_admin {
        return Ok(names);
    }
    Ok(names
        .split_inclusive(|&byte| byte == 0)
        .filter(|name| !name.starts_with(b"trusted."))
        .flatten()
        .copied()
        .collect())
}

/// `setxattr(2)` with `XATTR_CREATE` (1) and `XATTR_REPLACE` (2).
///
/// `EINVAL`: another flag, or malformed file capabilities. `ERANGE`: an empty or too long name. `E2BIG`: a value above 64 KiB. `EROFS`. `EPERM`: the name
/// space is not the caller's to write, or `user.*` of what is neither file nor directory. `EACCES`: no write permission.
/// `EEXIST`, `ENODATA`: by the flags.
pub fn vfs_setxattr(path: &Path, cred: &WalkCred<'_>, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
    if flags & !SETXATTR_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    check_name(name)?;
    if value.len() > SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    path.mnt.want_write()?;
    if name == b"security.capability" && !is_vfs_cap_data(value) {
        return Err(Errno::EINVAL);
    }
    if is_acl(name) {
        return vfs_set_acl(path, cred, name, Some(value));
    }
    xattr_permission(path, cred, name, MAY_WRITE)?;
    path.inode().setxattr(name, value, flags)
}

/// Whether the caller may set an attribute, whatever its value. Errors as [`vfs_setxattr`].
pub fn may_setxattr(path: &Path, cred: &WalkCred<'_>, name: &[u8]) -> Result<()> {
    path.mnt.want_write()?;
    xattr_permission(path, cred, name, MAY_WRITE)
}

/// `removexattr(2)`. Errors as [`vfs_setxattr`]; `ENODATA`: absent.
pub fn vfs_removexattr(path: &Path, cred: &WalkCred<'_>, name: &[u8]) -> Result<()> {
    check_name(name)?;
    path.mnt.want_write()?;
    if is_acl(name) {
        return vfs_set_acl(path, cred, name, None);
    }
    xattr_permission(path, cred, name, MAY_WRITE)?;
    path.inode().removexattr(name)
}
