//! Attributes by name and by handle: `stat(2)` and its forms, `statx(2)`, `access(2)`, `readlink(2)`, `statfs(2)`.

use std::os::fd::AsFd;

use nomina_kernel::bpf::{ACC_READ, ACC_WRITE};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::{Attr, LookupFlags, S_IFBLK, S_IFCHR, attr, namei};

use super::super::layout::{self, MountIds};
use super::super::request::{Ctx, Reply, host};

const AT_EMPTY_PATH: i32 = libc::AT_EMPTY_PATH;
const AT_SYMLINK_NOFOLLOW: i32 = libc::AT_SYMLINK_NOFOLLOW;

/// Attributes of the guest's descriptor `fd`.
pub fn fd_attr(ctx: &Ctx<'_>, fd: i32) -> Result<(Attr, MountIds)> {
    let copy = ctx.getfd(fd)?;
    if let Some(path) = ctx.server.controls.find(copy.as_fd()) {
        return Ok((path.inode().getattr()?, MountIds::of(&path.mnt, path.inode())));
    }
    let attr = ctx.server.attr_of_handle(copy.as_fd())?;
    if let Some(handle) = ctx.server.handles.find_key(attr.dev, attr.ino) {
        let path = &handle.path;
        return Ok((path.inode().getattr()?, MountIds::of(&path.mnt, path.inode())));
    }
    if let Some(node) = ctx.server.device_inode(attr.rdev, attr.mode) {
        return Ok((node.getattr()?, MountIds::default()));
    }
    Ok((attr, MountIds::default()))
}

fn name_attr(ctx: &Ctx<'_>, dirfd: i32, name: &[u8], at_flags: i32) -> Result<(Attr, MountIds)> {
    if name.is_empty() && at_flags & AT_EMPTY_PATH != 0 && dirfd != libc::AT_FDCWD {
        return fd_attr(ctx, dirfd);
    }
    let mut flags = LookupFlags::empty();
    if at_flags & AT_SYMLINK_NOFOLLOW == 0 {
        flags |= LookupFlags::FOLLOW;
    }
    if at_flags & AT_EMPTY_PATH != 0 {
        flags |= LookupFlags::EMPTY;
    }
    ctx.with_walk(dirfd, name, |walk| {
        namei::with_inode(walk, name, flags, |mnt, inode| Ok((inode.getattr()?, MountIds::of(mnt, inode))))
    })
}

fn put_stat(ctx: &Ctx<'_>, index: usize, attr: &Attr) -> Result<Reply> {
    if ctx.is_null(index) {
        return Err(Errno::EFAULT);
    }
    ctx.write(index, &layout::stat(&ctx.seen(attr)))?;
    Ok(().into())
}

/// `stat(2)`, `lstat(2)`.
pub fn stat(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let nofollow = if ctx.nr == 6 { AT_SYMLINK_NOFOLLOW } else { 0 };
    let (attr, _) = name_attr(ctx, libc::AT_FDCWD, &ctx.path(0)?, nofollow)?;
    put_stat(ctx, 1, &attr)
}

/// `fstat(2)`.
pub fn fstat(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (attr, _) = fd_attr(ctx, ctx.int(0))?;
    put_stat(ctx, 1, &attr)
}

/// `newfstatat(2)`.
pub fn newfstatat(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let flags = ctx.int(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL);
    }
    let (attr, _) = name_attr(ctx, ctx.int(0), &ctx.path(1)?, flags)?;
    put_stat(ctx, 2, &attr)
}

/// `statx(2)`.
pub fn statx(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const AT_STATX_SYNC_TYPE: i32 = 0x6000;
    let flags = ctx.int(2);
    let known = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | libc::AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE;
    if flags & !known != 0
        || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE
        || ctx.uint(3) & 0x8000_0000 != 0
    {
        return Err(Errno::EINVAL);
    }
    let name = match ctx.bytes_opt(1)? {
        // Since Linux 6.11 a null path with AT_EMPTY_PATH is the descriptor itself.
        None if flags & AT_EMPTY_PATH != 0 => Vec::new(),
        None => return Err(Errno::EFAULT),
        Some(_) => ctx.path(1)?,
    };
    let (attr, mount) = name_attr(ctx, ctx.int(0), &name, flags)?;
    if ctx.is_null(4) {
        return Err(Errno::EFAULT);
    }
    ctx.write(4, &layout::statx(&ctx.seen(&attr), &mount, ctx.uint(3)))?;
    Ok(().into())
}

/// `access(2)`, `faccessat(2)`, `faccessat2(2)`.
pub fn access(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const AT_EACCESS: i32 = libc::AT_EACCESS;
    let (dirfd, name, mode, flags) = match ctx.nr {
        21 => (libc::AT_FDCWD, ctx.path(0)?, ctx.int(1), 0),
        269 => (ctx.int(0), ctx.path(1)?, ctx.int(2), 0),
        _ => (ctx.int(0), ctx.path(1)?, ctx.int(2), ctx.int(3)),
    };
    if mode & !7 != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mode = mode as u32;
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & AT_EMPTY_PATH != 0);
    let check = |walk: &namei::WalkContext<'_>| {
        let path = namei::path_lookup(walk, &name, lookup)?;
        attr::vfs_access(&path, walk.cred, mode)?;
        let kind = path.dentry.file_type();
        if matches!(kind, S_IFCHR | S_IFBLK) {
            let wanted = if mode & 4 != 0 { ACC_READ } else { 0 } | if mode & 2 != 0 { ACC_WRITE } else { 0 };
            super::bpf::check_device(ctx, kind, path.inode().getattr()?.rdev, wanted)?;
        }
        Ok(())
    };
    if flags & AT_EACCESS != 0 {
        ctx.with_walk(dirfd, &name, check)?;
    } else {
        ctx.with_real_walk(dirfd, &name, check)?;
    }
    Ok(().into())
}

/// `readlink(2)`, `readlinkat(2)`.
pub fn readlink(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (dirfd, name, out) = match ctx.nr {
        89 => (libc::AT_FDCWD, ctx.path(0)?, 1),
        _ => (ctx.int(0), ctx.path(1)?, 2),
    };
    if ctx.int(out + 1) <= 0 {
        return Err(Errno::EINVAL);
    }
    let flags = if ctx.nr == 89 { LookupFlags::empty() } else { LookupFlags::EMPTY };
    let text = ctx.with_walk(dirfd, &name, |walk| namei::readlink(walk, &name, flags))?;
    let len = text.len().min(ctx.capacity(out));
    ctx.write(out, &text[..len])?;
    Ok(len.into())
}

/// `statfs(2)`, `fstatfs(2)`.
pub fn statfs(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let path = if ctx.nr == 137 {
        let name = ctx.path(0)?;
        ctx.with_walk(libc::AT_FDCWD, &name, |walk| namei::path_lookup(walk, &name, LookupFlags::FOLLOW))?
    } else {
        match ctx.fd_path(ctx.int(0))? {
            super::files::FdPath::Place(path) => path,
            super::files::FdPath::Open(_, fd) => {
                if let Some((sb, mount)) = ctx.server.instance_of_open(&fd) {
                    let flags = mount.map_or(0, |mount| mount.statfs_flags());
                    ctx.write(1, &layout::statfs(&sb.ops().statfs()?, flags))?;
                    return Ok(().into());
                }
                let fs = rustix::fs::fstatfs(&fd).map_err(host)?;
                let stat = nomina_kernel::vfs::StatFs {
                    magic: fs.f_type as u64,
                    bsize: fs.f_bsize as u64,
                    blocks: (fs.f_blocks, fs.f_bfree, fs.f_bavail),
                    files: (fs.f_files, fs.f_ffree),
                    namelen: fs.f_namelen as u64,
                    fsid: 0,
                };
                ctx.write(1, &layout::statfs(&stat, 0))?;
                return Ok(().into());
            }
        }
    };
    let (stat, flags) = nomina_kernel::vfs::attr::vfs_statfs(&path)?;
    ctx.write(1, &layout::statfs(&stat, flags))?;
    Ok(().into())
}
