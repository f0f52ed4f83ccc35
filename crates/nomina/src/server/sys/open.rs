//! Opening: `open(2)`, `openat(2)`, `openat2(2)`, `creat(2)`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nomina_fs::dev::open_device;
use nomina_fs::devpts::DevPts;
use nomina_kernel::bpf::{ACC_READ, ACC_WRITE};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::namei::OpenResult;
use nomina_kernel::vfs::{LookupFlags, Opened, namei};

use super::super::layout::u64_at;
use super::super::request::{Ctx, Reply, host};

const O_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const O_PATH: u32 = libc::O_PATH as u32;
const O_ACCMODE: u32 = libc::O_ACCMODE as u32;

/// `open(2)`: path, flags, mode.
pub fn open(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let path = ctx.path(0)?;
    do_open(ctx, libc::AT_FDCWD, &path, ctx.uint(1), ctx.uint(2), LookupFlags::default())
}

/// `creat(2)`: path, mode.
pub fn creat(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let path = ctx.path(0)?;
    let flags = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u32;
    do_open(ctx, libc::AT_FDCWD, &path, flags, ctx.uint(1), LookupFlags::default())
}

/// `openat(2)`: dirfd, path, flags, mode.
pub fn openat(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let path = ctx.path(1)?;
    do_open(ctx, ctx.int(0), &path, ctx.uint(2), ctx.uint(3), LookupFlags::default())
}

/// `openat2(2)`: dirfd, path, `struct open_how` (24 bytes), its size.
pub fn openat2(ctx: &mut Ctx<'_>) -> Result<Reply> {
    /// All flags `openat2` knows (`VALID_OPEN_FLAGS`); unlike `openat` it refuses others.
    const VALID_OPEN_FLAGS: u64 = (libc::O_ACCMODE
        | libc::O_CREAT
        | libc::O_EXCL
        | libc::O_NOCTTY
        | libc::O_TRUNC
        | libc::O_APPEND
        | libc::O_NDELAY
        | libc::O_DSYNC
        | libc::O_SYNC
        | libc::O_ASYNC
        | libc::O_DIRECT
        | libc::O_LARGEFILE
        | 0o100000
        | libc::O_DIRECTORY
        | libc::O_NOFOLLOW
        | libc::O_NOATIME
        | libc::O_CLOEXEC
        | libc::O_PATH
        | libc::O_TMPFILE) as u64;
    let how = ctx.bytes(2)?;
    if ctx.args[3] < 24 || how.len() < 24 {
        return Err(Errno::EINVAL);
    }
    if how[24..].iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let (flags, mode, resolve) = (u64_at(&how, 0), u64_at(&how, 8), u64_at(&how, 16));
    let creates =
        flags & (libc::O_CREAT as u64) != 0 || flags & (libc::O_TMPFILE as u64) == libc::O_TMPFILE as u64;
    if flags & !VALID_OPEN_FLAGS != 0 || mode & !0o7777 != 0 || (mode != 0 && !creates) {
        return Err(Errno::EINVAL);
    }
    let resolve = LookupFlags::from_resolve(resolve)?;
    let path = ctx.path(1)?;
    do_open(ctx, ctx.int(0), &path, flags as u32, mode as u32, resolve)
}

fn do_open(
    ctx: &mut Ctx<'_>,
    dirfd: i32,
    name: &[u8],
    flags: u32,
    mode: u32,
    resolve: LookupFlags,
) -> Result<Reply> {
    // With RESOLVE_IN_ROOT an absolute path starts at the descriptor as well.
    let from: &[u8] = if resolve.contains(LookupFlags::IN_ROOT) { b"." } else { name };
    let result = ctx.with_walk(dirfd, from, |walk| namei::open(walk, name, flags, mode & 0o7777, resolve))?;
    hand_out(ctx, result, flags, mode)
}

/// Gives the caller what has been opened with `flags`, and `mode` if it was created.
pub fn hand_out(ctx: &mut Ctx<'_>, result: OpenResult, flags: u32, mode: u32) -> Result<Reply> {
    let cloexec = flags & O_CLOEXEC != 0;
    let server = ctx.server;
    // A name of a terminal, of whatever kind: a node, or a link to a descriptor.
    let is_character_device = result.path.dentry.file_type() == libc::S_IFCHR;
    let fd: OwnedFd = match result.opened {
        Opened::Host(fd) => {
            server.note_open(&fd, &result.path.mnt);
            if flags & O_ACCMODE != 0 {
                server.reporters.opened(server, ctx.thread, &**result.path.mnt.sb().ops(), &fd);
                if !result.created || mode & 0o6000 != 0 {
                    server.privs.opened(server, ctx.thread, &result.path, &fd)?;
                }
            } else {
                super::super::remembered::identify(ctx, fd.as_fd(), &result.path);
            }
            fd
        }
        Opened::Copy(fd) => {
            server.handles.register(&fd, result.path, flags).map_err(host)?;
            fd
        }
        Opened::Directory => {
            let fd = server.handles.open_path(result.path.clone(), flags).map_err(host)?;
            if flags & O_PATH == 0 {
                super::super::remembered::identify_directory(ctx, fd.as_fd(), &result.path);
            }
            if server.handles.is_short_of_blanks() {
                server.spares.wake();
            }
            fd
        }
        Opened::Text(text) => {
            if flags & O_ACCMODE != 0 {
                return Err(Errno::EACCES);
            }
            server.handles.open_text(&text, result.path, flags).map_err(host)?
        }
        Opened::Mounts(mounts) => server.handles.open_mounts(mounts, result.path, flags).map_err(host)?,
        Opened::Control(text) => {
            if flags & O_ACCMODE == 0 {
                server.handles.open_text(&text, result.path, flags).map_err(host)?
            } else {
                server.controls.open(&text, result.path, ctx.thread, flags)?
            }
        }
        Opened::Device(rdev) => {
            let kind = result.path.dentry.file_type();
            super::bpf::check_device(ctx, kind, rdev, wanted(flags))?;
            // A node of devpts is of its own instance, whatever its number.
            let of_devpts = result.path.mnt.sb().ops().as_any().is::<DevPts>();
            let opened = if of_devpts {
                result.path.inode().open(flags)
            } else {
                open_device(rdev, kind, flags, &*server.terminals)
            };
            match opened? {
                Opened::Host(fd) => fd,
                _ => return Err(Errno::ENXIO),
            }
        }
        Opened::WouldBlock => {
            if flags & libc::O_NONBLOCK as u32 != 0 {
                return Err(Errno::ENXIO);
            }
            // A FIFO without a peer. There is no descriptor to wait on that tells of an opener, so ask again soon: a timer
            // is what the guest waits on, interruptibly.
            return Ok(Reply::Wait(super::soon().map_err(host)?));
        }
    };
    if is_character_device && may_control(flags) && is_slave(&fd) {
        return Ok(Reply::Terminal { fd, cloexec });
    }
    Ok(Reply::Fd { fd, cloexec })
}

/// What opening a device with these flags asks of control groups.
fn wanted(flags: u32) -> u32 {
    match flags as i32 & libc::O_ACCMODE {
        libc::O_RDONLY => ACC_READ,
        libc::O_WRONLY => ACC_WRITE,
        _ => ACC_READ | ACC_WRITE,
    }
}

/// Whether opening a terminal with `flags` may make it the controlling one of the caller: not for writing only
/// (`tty_open_proc_set_tty()`).
pub fn may_control(flags: u32) -> bool {
    flags & libc::O_NOCTTY as u32 == 0 && flags & O_ACCMODE != libc::O_WRONLY as u32
}

/// Whether a descriptor is of the side of a pseudo terminal that programs run on.
fn is_slave(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| rustix::fs::major(stat.st_rdev) == nomina_fs::dev::PTS_MAJOR)
}

/// The flags of a reopened `/proc/self/fd/N`: what `open(2)` may change.
pub fn reopen(fd: &OwnedFd, flags: u32) -> Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    // Opened again, a process's memory would be what the process has by now, with other credentials perhaps.
    if rustix::fs::fstatfs(fd).is_ok_and(|fs| fs.f_type == libc::PROC_SUPER_MAGIC)
        && rustix::fs::readlink(&link, Vec::new()).is_ok_and(|name| name.as_bytes().ends_with(b"/mem"))
    {
        return Err(Errno::EACCES);
    }
    let keep = flags & !(O_PATH | libc::O_CREAT as u32 | libc::O_EXCL as u32 | libc::O_NOFOLLOW as u32);
    let flags = rustix::fs::OFlags::from_bits_retain(
        keep | O_CLOEXEC | libc::O_NOCTTY as u32 | libc::O_NONBLOCK as u32,
    );
    let fd = rustix::fs::open(link, flags, rustix::fs::Mode::empty()).map_err(host)?;
    if keep & libc::O_NONBLOCK as u32 == 0 {
        let now = rustix::fs::fcntl_getfl(&fd).map_err(host)?;
        rustix::fs::fcntl_setfl(&fd, now - rustix::fs::OFlags::NONBLOCK).map_err(host)?;
    }
    Ok(fd)
}
