//! Who is told by `SIGIO` that a descriptor is ready: `F_SETOWN`, `O_ASYNC`, `FIOASYNC` (`fcntl(2)`, `ioctl(2)`).
//!
//! The host sends the signal. So the owner of a descriptor can only be the process that asks, and only sockets and pipes have one:
//! other files a guest may share with programs outside.

use std::os::fd::{AsRawFd, OwnedFd};

use nomina_kernel::errno::{Errno, Result};
use rustix::fs::OFlags;

use super::super::request::{Ctx, host};

/// A copy of the caller's socket or pipe.
fn pipe_or_socket(ctx: &Ctx<'_>, refusal: Errno) -> Result<OwnedFd> {
    let fd = ctx.getfd(ctx.int(0))?;
    match rustix::fs::fstat(&fd).map_err(host)?.st_mode & libc::S_IFMT {
        libc::S_IFSOCK | libc::S_IFIFO => Ok(fd),
        _ => Err(refusal),
    }
}

/// The number of the caller's process, as it sees it.
fn own_pid(ctx: &Ctx<'_>) -> i32 {
    ctx.server.kernel.lock().unwrap().task_tgid_vnr(ctx.task(), ctx.task())
}

/// `F_SETOWN`: the caller, or 0 for nobody.
///
/// # Errors
/// `EBADF`; `EPERM`: somebody else, or a file without owners.
pub fn set(ctx: &Ctx<'_>) -> Result<()> {
    let fd = pipe_or_socket(ctx, Errno::EPERM)?;
    let owner = match ctx.int(2) {
        0 => 0,
        pid if pid == own_pid(ctx) => ctx.host_pid(),
        _ => return Err(Errno::EPERM),
    };
    // SAFETY: the argument is a number.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETOWN, owner) } < 0 {
        return Err(host(std::io::Error::last_os_error()));
    }
    Ok(())
}

/// `F_GETOWN`: the caller, or 0 for nobody and for anybody else.
///
/// # Errors
/// `EBADF`
pub fn get(ctx: &Ctx<'_>) -> Result<i32> {
    let fd = ctx.getfd(ctx.int(0))?;
    // SAFETY: no argument.
    let owner = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETOWN) };
    Ok(if owner == ctx.host_pid() { own_pid(ctx) } else { 0 })
}

/// `F_SETFL` with `O_ASYNC`, or `FIOASYNC`: `wanted` are all flags then, or only whether.
///
/// # Errors
/// `EBADF`; `refusal` for other files.
pub fn set_async(ctx: &Ctx<'_>, wanted: Wanted, refusal: Errno) -> Result<()> {
    let fd = pipe_or_socket(ctx, refusal)?;
    let now = rustix::fs::fcntl_getfl(&fd).map_err(host)?;
    let asynchronous = OFlags::from_bits_retain(libc::O_ASYNC as u32);
    let flags = match wanted {
        Wanted::Flags(flags) => OFlags::from_bits_retain(flags),
        Wanted::On(true) => now | asynchronous,
        Wanted::On(false) => now - asynchronous,
    };
    rustix::fs::fcntl_setfl(&fd, flags).map_err(host)
}

/// What [`set_async`] sets.
pub enum Wanted {
    /// These flags.
    Flags(u32),
    /// `O_ASYNC` or not.
    On(bool),
}
