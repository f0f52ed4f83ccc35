//! `name_to_handle_at(2)` and `open_by_handle_at(2)` (`fs/fhandle.c`).
//!
//! The handles are the model's ([`nomina_kernel::vfs::exportfs`]), never the host's. Where Linux lets who has `CAP_DAC_READ_SEARCH`
//! in the initial user namespace open whatever the file system of the descriptor holds, here it must be below the root of
//! the descriptor's mount: no file is reached past the mounts that show it. Linux 6.13 lets the root of another user namespace
//! open directories; here that is `EPERM`, as before.

use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::exportfs::{FILEID_INVALID, FileId};
use nomina_kernel::vfs::{FsStruct, LookupFlags, Path, WalkContext, namei};

use super::super::layout::u32_at;
use super::super::request::{Ctx, Reply};
use super::open::hand_out;

const AT_HANDLE_MNT_ID_UNIQUE: i32 = 0x001;
const AT_HANDLE_CONNECTABLE: i32 = 0x002;
/// `AT_HANDLE_FID`: the handle is only compared, never opened.
const AT_HANDLE_FID: i32 = libc::AT_REMOVEDIR;
/// Bytes of `struct file_handle` before the opaque ones: their number and the type.
const HEADER: usize = 8;

/// `name_to_handle_at(2)`: directory, path, handle, mount id, flags.
///
/// # Errors
/// `EINVAL`: flags. `EOPNOTSUPP`: the file system has no handles, or none that lead to the directory as well
/// (`AT_HANDLE_CONNECTABLE`). `EOVERFLOW`: the handle is larger; its size has been told. Those of path walk.
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
    let path = ctx.mount_path(ctx.int(0), &ctx.path(1)?, lookup)?;
    if flags & AT_HANDLE_CONNECTABLE != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let id = path.mnt.sb().encode_fh(&path.dentry, flags & AT_HANDLE_FID != 0)?;
    let room = ctx.bytes(2)?.len().checked_sub(HEADER).ok_or(Errno::EFAULT)?;
    if ctx.is_null(3) {
        return Err(Errno::EFAULT);
    }
    let fits = id.bytes.len() <= room;
    let mut handle = (id.bytes.len() as u32).to_le_bytes().to_vec();
    handle.extend((if fits { id.kind } else { FILEID_INVALID }).to_le_bytes());
    if fits {
        handle.extend(&id.bytes);
    }
    ctx.write(2, &handle)?;
    let unique = flags & AT_HANDLE_MNT_ID_UNIQUE != 0;
    let mount = if unique { path.mnt.unique_id() } else { path.mnt.id().into() };
    ctx.write(3, &mount.to_le_bytes())?;
    ctx.out[0] = handle.len() as u64;
    if fits { Ok(().into()) } else { Err(Errno::EOVERFLOW) }
}

/// `open_by_handle_at(2)`: a descriptor on the mount, handle, flags.
///
/// # Errors
/// `EINVAL`: size or type. `EBADF`, also for `O_PATH` descriptors. `EPERM`: no `CAP_DAC_READ_SEARCH` in the initial user
/// namespace. `ESTALE`: there is no such object. Those of `open(2)`.
pub fn open_by_handle_at(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let handle = ctx.bytes(1)?;
    if handle.len() < HEADER {
        return Err(Errno::EFAULT);
    }
    let (size, kind) = (u32_at(&handle, 0) as usize, u32_at(&handle, 4) as i32);
    // The upper half of the type is for flags, none of which belongs to a handle given out here.
    if size == 0 || !(0..=0xffff).contains(&kind) {
        return Err(Errno::EINVAL);
    }
    let anchor = ctx.open_place(ctx.int(0))?;
    if !ctx.cred().capable(Cap::DAC_READ_SEARCH) {
        return Err(Errno::EPERM);
    }
    let bytes = handle.get(HEADER..HEADER + size).ok_or(Errno::EFAULT)?.to_vec();
    let (sb, id) = (anchor.mnt.sb(), FileId { kind, bytes });
    let mut dentry = sb.decode_fh(&id)?;
    if dentry.is_deleted() {
        // Alive, unless what held it has been closed.
        drop(dentry);
        ctx.server.handles.sweep_closed();
        dentry = sb.decode_fh(&id)?;
    }
    if !dentry.is_subdir(anchor.mnt.root()) {
        return Err(Errno::ESTALE);
    }
    let path = Path { mnt: anchor.mnt.clone(), dentry };
    let FsStruct { umask, .. } = ctx.fs();
    let flags = ctx.uint(2);
    let opened = ctx.with_cred(|cred| {
        let walk = WalkContext { root: &path, pwd: &path, cred, umask };
        namei::open(&walk, b"", flags, 0, LookupFlags::EMPTY)
    })?;
    hand_out(ctx, opened, flags, 0)
}
