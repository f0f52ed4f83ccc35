//! `quotactl(2)`, `quotactl_fd(2)` (`fs/quota/quota.c`), as on a kernel that has quotas and no file system that uses them.

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::{LookupFlags, S_IFBLK, namei};

use super::super::request::{Ctx, Reply};

/// `MAXQUOTAS`: quotas of users, groups and projects.
const MAXQUOTAS: u32 = 3;
const Q_SYNC: u32 = 0x80_0001;
/// Commands that never write, those of XFS included: all but these are `quotactl_cmd_write`.
const READING: [u32; 8] = [
    0x80_0004, // Q_GETFMT
    0x80_0005, // Q_GETINFO
    Q_SYNC, 0x5803, // Q_XGETQUOTA
    0x5805, // Q_XGETQSTAT
    0x5807, // Q_XQUOTASYNC
    0x5808, // Q_XGETQSTATV
    0x5809, // Q_XGETNEXTQUOTA
];

/// Command and type of quota out of the argument of both calls.
fn command(argument: u32) -> Result<u32> {
    if argument & 0xff >= MAXQUOTAS { Err(Errno::EINVAL) } else { Ok(argument >> 8) }
}

/// `quotactl(2)`: command, device, id, address.
///
/// # Errors
/// `EINVAL`: no such type of quota. `ENODEV`: no device, or nothing is mounted from it, as nothing is from any device here.
/// `ENOTBLK`: not a block device. `EACCES`: on a `nodev` mount. Those of path walk.
pub fn quotactl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let command = command(ctx.uint(0))?;
    if ctx.is_null(1) {
        // Writing back the quotas of every file system there is.
        return if command == Q_SYNC { Ok(().into()) } else { Err(Errno::ENODEV) };
    }
    let name = ctx.path(1)?;
    let place =
        ctx.with_walk(libc::AT_FDCWD, &name, |walk| namei::path_lookup(walk, &name, LookupFlags::FOLLOW))?;
    if place.dentry.file_type() != S_IFBLK {
        return Err(Errno::ENOTBLK);
    }
    Err(if place.mnt.may_open_dev() { Errno::ENODEV } else { Errno::EACCES })
}

/// `quotactl_fd(2)`: descriptor, command, id, address.
///
/// # Errors
/// `EBADF`. `EINVAL`: no such type of quota. `EROFS`: a change on a read-only mount. `ENOSYS`: the file system has no quotas.
pub fn quotactl_fd(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let place = ctx.fd_path(ctx.int(0))?.path().clone();
    let command = command(ctx.uint(1))?;
    if !READING.contains(&command) {
        place.mnt.want_write()?;
    }
    Err(Errno::ENOSYS)
}
