//! `name_to_handle_at(2)` and `open_by_handle_at(2)` (`fs/fhandle.c`).
//!
//! Handles are names for files that outlive their paths. None of the file systems here can be asked for a file by such a
//! name: guests must never reach a file past its path, and the host's own handles would do just that. So, as for overlayfs
//! without `nfs_export` and for proc, making one is `EOPNOTSUPP`, after all checks that come before.

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::LookupFlags;

use super::super::layout::u32_at;
use super::super::request::{Ctx, Reply};

const AT_HANDLE_MNT_ID_UNIQUE: i32 = 0x001;
const AT_HANDLE_CONNECTABLE: i32 = 0x002;
/// `AT_HANDLE_FID`: the handle is only compared, never opened.
const AT_HANDLE_FID: i32 = libc::AT_REMOVEDIR;

/// `name_to_handle_at(2)`: directory, path, handle, mount id, flags.
pub fn name_to_handle_at(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let flags = ctx.int(4);
    let known = libc::AT_SYMLINK_FOLLOW
        | libc::AT_EMPTY_PATH
        | AT_HANDLE_FID
        | AT_HANDLE_MNT_ID_UNIQUE
        | AT_HANDLE_CONNECTABLE;
    if flags & !known != 0
        || flags & (AT_HANDLE_FID | AT_HANDLE_CONNECTABLE) == AT_HANDLE_FID | AT_HANDLE_CONNECTABLE
    {
        return Err(Errno::EINVAL);
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_FOLLOW != 0);
    lookup.set(LookupFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    ctx.mount_path(ctx.int(0), &ctx.path(1)?, lookup)?;
    Err(Errno::EOPNOTSUPP)
}

/// `open_by_handle_at(2)`: a descriptor on the file system, handle, flags. No handle was ever given out.
pub fn open_by_handle_at(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let handle = ctx.bytes(1)?;
    if handle.len() < 8 {
        return Err(Errno::EFAULT);
    }
    ctx.fd_path(ctx.int(0))?;
    if !ctx.cred().capable(nomina_kernel::capability::Cap::DAC_READ_SEARCH) {
        return Err(Errno::EPERM);
    }
    if u32_at(&handle, 0) == 0 { Err(Errno::EINVAL) } else { Err(Errno::ESTALE) }
}
