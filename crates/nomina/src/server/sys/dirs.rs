//! Directories: reading, entering, creating and removing names.

use nomina_kernel::bpf::ACC_MKNOD;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::namei::{self, RenameFlags};
use nomina_kernel::vfs::{DirEntry, LookupFlags, S_IFCHR, S_IFMT};
use rustix::fs::SeekFrom;
use std::sync::Arc;

use super::super::request::{Ctx, Reply, host};
use super::super::{layout, remembered};
use super::files::FdPath;

/// Kinds of `d_type`.
const DT_DIR: u8 = 4;

/// `getdents(2)`, `getdents64(2)`. The position of the placeholder counts entries, `.` and `..` first.
pub fn getdents(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let fd = ctx.getfd(ctx.int(0))?;
    let handle = ctx.server.handles.find(std::os::fd::AsFd::as_fd(&fd)).ok_or(Errno::ENOTDIR)?;
    if handle.flags & libc::O_PATH as u32 != 0 {
        return Err(Errno::EBADF);
    }
    if !handle.path.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    let position = rustix::fs::seek(&fd, SeekFrom::Current(0)).map_err(host)?;
    let mut cached = handle.entries.lock().unwrap();
    if position == 0 || cached.is_none() {
        if handle.path.dentry.is_deleted() {
            return Err(Errno::ENOENT);
        }
        let inode = handle.path.inode();
        let own = inode.ino().unwrap_or(1);
        let parent = handle.path.dentry.parent().and_then(|p| p.inode().ino().ok()).unwrap_or(own);
        let mut entries = vec![
            DirEntry { ino: own, kind: DT_DIR, name: b".".to_vec() },
            DirEntry { ino: parent, kind: DT_DIR, name: b"..".to_vec() },
        ];
        entries.extend(inode.readdir()?);
        *cached = Some(Arc::new(entries));
    }
    let entries = cached.clone().unwrap_or_default();
    drop(cached);
    let capacity = ctx.capacity(1);
    let mut buffer = Vec::with_capacity(capacity.min(16384));
    let push = if ctx.nr == 78 { layout::push_dirent } else { layout::push_dirent64 };
    let mut next = position;
    for entry in entries.get(position as usize..).unwrap_or_default() {
        if !push(&mut buffer, capacity, entry, next + 1) {
            break;
        }
        next += 1;
    }
    if buffer.is_empty() && (position as usize) < entries.len() {
        return Err(Errno::EINVAL);
    }
    if next != position {
        rustix::fs::seek(&fd, SeekFrom::Start(next)).map_err(host)?;
    }
    ctx.write(1, &buffer)?;
    if next as usize == entries.len() {
        remembered::ends(ctx, std::os::fd::AsFd::as_fd(&fd), &handle.path, next);
    }
    Ok(buffer.len().into())
}

/// `flock(2)` of a directory; what is no placeholder is locked natively by the caller ([`nomina_abi::FLOCK_NATIVE`]). Waiting
/// is asking again, as there is nothing to wait on.
pub fn flock(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let op = ctx.int(1);
    let fd = ctx.getfd(ctx.int(0))?;
    let handles = &ctx.server.handles;
    let Some(handle) = handles.find(std::os::fd::AsFd::as_fd(&fd)).filter(|h| h.path.dentry.is_dir()) else {
        return Ok(Reply::Value(nomina_abi::FLOCK_NATIVE));
    };
    if handle.flags & libc::O_PATH as u32 != 0 {
        return Err(Errno::EBADF);
    }
    let attr = handle.path.inode().getattr()?;
    match handles.flock(&handle, (attr.dev, attr.ino), op) {
        Err(Errno::EAGAIN) if op & libc::LOCK_NB == 0 => Ok(Reply::Wait(super::soon().map_err(host)?)),
        other => other.map(|()| ().into()),
    }
}

/// `getcwd(2)`: the length with the NUL.
pub fn getcwd(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let fs = ctx.fs();
    if fs.pwd.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let mut path = nomina_kernel::vfs::d_path::getcwd(&fs.pwd, &fs.root)?;
    path.push(0);
    if path.len() > ctx.capacity(0) {
        return Err(Errno::ERANGE);
    }
    ctx.write(0, &path)?;
    Ok(path.len().into())
}

/// `chdir(2)`.
pub fn chdir(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let path = ctx.path(0)?;
    ctx.change_fs(|fs, cred| fs.chdir(cred, &path))?;
    Ok(().into())
}

/// `fchdir(2)`.
pub fn fchdir(ctx: &mut Ctx<'_>) -> Result<Reply> {
    match ctx.fd_path(ctx.int(0))? {
        FdPath::Place(path) => ctx.change_fs(|fs, cred| fs.fchdir(cred, &path))?,
        FdPath::Open(..) => return Err(Errno::ENOTDIR),
    }
    Ok(().into())
}

/// `chroot(2)`.
pub fn chroot(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let path = ctx.path(0)?;
    ctx.change_fs(|fs, cred| fs.chroot(cred, &path))?;
    Ok(().into())
}

/// `mkdir(2)`, `mkdirat(2)`.
pub fn mkdir(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (dirfd, at) = if ctx.nr == 83 { (libc::AT_FDCWD, 0) } else { (ctx.int(0), 1) };
    let path = ctx.path(at)?;
    let mode = ctx.uint(at + 1);
    ctx.with_walk(dirfd, &path, |walk| namei::mkdir(walk, &path, mode))?;
    Ok(().into())
}

/// `mknod(2)`, `mknodat(2)`.
pub fn mknod(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (dirfd, at) = if ctx.nr == 133 { (libc::AT_FDCWD, 0) } else { (ctx.int(0), 1) };
    let path = ctx.path(at)?;
    let (mode, dev) = (ctx.uint(at + 1), u64::from(ctx.uint(at + 2)));
    let whiteout = mode & S_IFMT == S_IFCHR && dev == 0;
    if !whiteout && let Err(denied) = super::bpf::check_device(ctx, mode & S_IFMT, dev, ACC_MKNOD) {
        // A name that is there, or cannot be, comes first.
        let found = ctx.with_walk(dirfd, &path, |walk| namei::path_lookup(walk, &path, LookupFlags::empty()));
        return Err(
            found.map_or_else(|error| if error == Errno::ENOENT { denied } else { error }, |_| Errno::EEXIST)
        );
    }
    ctx.with_walk(dirfd, &path, |walk| namei::mknod(walk, &path, mode, dev))?;
    Ok(().into())
}

/// `symlink(2)`, `symlinkat(2)`.
pub fn symlink(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let target = ctx.path(0)?;
    let (dirfd, at) = if ctx.nr == 88 { (libc::AT_FDCWD, 1) } else { (ctx.int(1), 2) };
    let path = ctx.path(at)?;
    ctx.with_walk(dirfd, &path, |walk| namei::symlink(walk, &target, &path))?;
    Ok(().into())
}

/// `unlink(2)`, `unlinkat(2)`, `rmdir(2)`.
pub fn unlink(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (dirfd, at, flags) = match ctx.nr {
        84 => (libc::AT_FDCWD, 0, libc::AT_REMOVEDIR),
        87 => (libc::AT_FDCWD, 0, 0),
        _ => (ctx.int(0), 1, ctx.int(2)),
    };
    let path = ctx.path(at)?;
    ctx.with_walk(dirfd, &path, |walk| match flags {
        0 => namei::unlink(walk, &path),
        libc::AT_REMOVEDIR => namei::rmdir(walk, &path),
        _ => Err(Errno::EINVAL),
    })?;
    Ok(().into())
}

/// `link(2)`, `linkat(2)`.
pub fn link(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (old_dirfd, old_at, new_dirfd, new_at, flags) = match ctx.nr {
        86 => (libc::AT_FDCWD, 0, libc::AT_FDCWD, 1, 0),
        _ => (ctx.int(0), 1, ctx.int(2), 3, ctx.int(4)),
    };
    if flags & !(libc::AT_SYMLINK_FOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let (old, new) = (ctx.path(old_at)?, ctx.path(new_at)?);
    if old.is_empty()
        && flags & libc::AT_EMPTY_PATH != 0
        && let FdPath::Open(_, fd) = ctx.fd_path(old_dirfd)?
    {
        ctx.with_walk(new_dirfd, &new, |walk| namei::link_handle(walk, &fd, &new))?;
        return Ok(().into());
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_FOLLOW != 0);
    lookup.set(LookupFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    ctx.with_walk(old_dirfd, &old, |old_walk| {
        // `/proc/self/fd/N` of a file that may have no name: linked by its handle.
        if lookup.contains(LookupFlags::FOLLOW) {
            let found = namei::path_lookup(old_walk, &old, lookup)?;
            if let Some(fd) = super::files::handle_of(found.inode()) {
                return ctx.with_walk(new_dirfd, &new, |walk| namei::link_handle(walk, &fd, &new));
            }
        }
        ctx.with_walk(new_dirfd, &new, |new_walk| namei::link(old_walk, &old, lookup, new_walk, &new))
    })?;
    Ok(().into())
}

/// `rename(2)`, `renameat(2)`, `renameat2(2)`.
pub fn rename(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (old_dirfd, old_at, new_dirfd, new_at, flags) = match ctx.nr {
        82 => (libc::AT_FDCWD, 0, libc::AT_FDCWD, 1, 0),
        264 => (ctx.int(0), 1, ctx.int(2), 3, 0),
        _ => (ctx.int(0), 1, ctx.int(2), 3, ctx.uint(4)),
    };
    let (old, new) = (ctx.path(old_at)?, ctx.path(new_at)?);
    let flags = RenameFlags::from_bits_retain(flags);
    ctx.with_walk(old_dirfd, &old, |old_walk| {
        ctx.with_walk(new_dirfd, &new, |new_walk| namei::rename(old_walk, &old, new_walk, &new, flags))
    })?;
    Ok(().into())
}
