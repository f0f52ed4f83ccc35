//! Attributes of files that guests hold open: `fstat`, `fchmod`, `fchown`, `ftruncate`, `futimens` and `f*xattr` on a
//! host handle.
//!
//! The changing functions act on the very file of the handle and are meant for files of ours (the upper directory of an
//! overlay). A handle of a file *below* an overlay must not be changed: use
//! [`crate::overlay::OverlaySb::set_attr_of_handle`] and the like, which copy up first.

use std::os::fd::BorrowedFd;

use nomina_kernel::vfs::{Attr, SetAttr};
use nomina_kernel::{Errno, Result};

use crate::at::{At, errno};
use crate::names;
use crate::override_stat::{IdMap, attr_of};
use crate::store::Store;

/// `fstat(2)` as the guest must see it.
///
/// # Errors
/// Those of the host's `statx(2)`.
pub fn attr_from_fd(fd: BorrowedFd<'_>, map: &IdMap) -> Result<Attr> {
    attr_in(&Store::Xattr, fd, map)
}

pub(crate) fn attr_in(store: &Store, fd: BorrowedFd<'_>, map: &IdMap) -> Result<Attr> {
    let at = At { fd, name: b"" };
    let stat = at.statx()?;
    Ok(attr_of(&stat, store.override_of(at, &stat, false)?.as_ref(), map))
}

/// `fchmod(2)`, `fchown(2)`, `ftruncate(2)` and `futimens(2)` on a file of ours.
///
/// # Errors
/// Those of the host; `EINVAL` for a new size where the handle is not open for writing.
pub fn set_attr_fd(fd: BorrowedFd<'_>, map: &IdMap, set: &SetAttr) -> Result<()> {
    set_attr_in(&Store::Xattr, fd, map, set)
}

pub(crate) fn set_attr_in(store: &Store, fd: BorrowedFd<'_>, map: &IdMap, set: &SetAttr) -> Result<()> {
    let at = At { fd, name: b"" };
    if let Some(size) = set.size {
        rustix::fs::ftruncate(fd, size).map_err(errno)?;
    }
    if *set == SetAttr::default() {
        at.touch_ctime()?;
    }
    if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
        let stat = at.statx()?;
        let over = store.override_of(at, &stat, false)?;
        store.change_owner_mode(at, &stat, over.as_ref(), map, set)?;
    }
    if set.atime.is_some() || set.mtime.is_some() {
        at.set_times(set.atime, set.mtime)?;
    }
    Ok(())
}

fn kind_of(at: At<'_>) -> Result<u32> {
    let stat = at.statx()?;
    let kind = Store::Xattr.override_of(at, &stat, false)?.and_then(|o| o.kind);
    Ok(kind.unwrap_or(u32::from(stat.stx_mode) & libc::S_IFMT))
}

/// `fgetxattr(2)`.
///
/// # Errors
/// `ENODATA` where absent, `EOPNOTSUPP` for name spaces that do not exist here.
pub fn get_xattr_fd(fd: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>> {
    let at = At { fd, name: b"" };
    let host = names::to_host(name, kind_of(at)?, false)?;
    match at.getxattr(&host) {
        Err(Errno::ENODATA) if name == names::CAPABILITY => at.getxattr(name),
        other => other,
    }
}

/// The capabilities of a program's file (`security.capability`, `capabilities(7)`) from a handle that can be read: ours, else
/// what the host has.
pub fn file_capability(fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let read = |name: &[u8]| {
        let mut value = [0u8; 64];
        rustix::fs::fgetxattr(fd, name, &mut value[..]).ok().map(|len| value[..len].to_vec())
    };
    read(&[names::PREFIX, names::CAPABILITY].concat()).or_else(|| read(names::CAPABILITY))
}

/// `flistxattr(2)`: names, each ended by NUL.
///
/// # Errors
/// Those of the host.
pub fn list_xattr_fd(fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
    let at = At { fd, name: b"" };
    Ok(names::list_to_guest(&at.listxattr()?, kind_of(at)?, true))
}

/// `fsetxattr(2)` on a file of ours.
///
/// # Errors
/// `EPERM` for our own bookkeeping, `EEXIST` and `ENODATA` by flags, `EOPNOTSUPP`.
pub fn set_xattr_fd(fd: BorrowedFd<'_>, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
    let at = At { fd, name: b"" };
    at.setxattr(&names::to_host(name, kind_of(at)?, true)?, value, flags)
}

/// `fremovexattr(2)` on a file of ours.
///
/// # Errors
/// As [`set_xattr_fd`]; `ENODATA` where absent.
pub fn remove_xattr_fd(fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let at = At { fd, name: b"" };
    at.removexattr(&names::to_host(name, kind_of(at)?, true)?)
}
