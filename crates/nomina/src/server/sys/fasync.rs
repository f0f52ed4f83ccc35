//! Signals that descriptors send: owners, `F_SETSIG` and `O_ASYNC` (`fcntl(2)`, `FIOASYNC` and its like of `ioctl(2)`).
//!
//! The host sends them natively, from the moment a descriptor becomes ready. Whom they may reach is decided when the owner is set,
//! by the rules of `kill(2)`, and only processes of the sandbox can be one. Where ours differs: Linux looks at the permission
//! when the signal is sent; and a signal that cannot be refused (SIGKILL, SIGSTOP) or is the shim's (SIGSYS, SIGSTKFLT) cannot be chosen.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::pid::PidType;
use rustix::fs::OFlags;

use super::super::layout::u32_at;
use super::super::lock::Mutex;
use super::super::request::{Ctx, Reply, host};

const F_SETSIG: i32 = 10;
const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_GETOWN_EX: i32 = 16;
const F_OWNER_TID: i32 = 0;
const F_OWNER_PID: i32 = 1;
const F_OWNER_PGRP: i32 = 2;
/// What `F_SETFL` can change.
const SETFL: i32 = libc::O_APPEND | libc::O_NONBLOCK | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME;

/// `struct f_owner_ex`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Owner {
    kind: i32,
    pid: i32,
}

/// Held from the look at an owner to `O_ASYNC`: a terminal without an owner would get its foreground group as one, which may be
/// outside of the sandbox.
static OWNERS: Mutex<()> = Mutex::new(());

fn fcntl(fd: BorrowedFd<'_>, command: i32, arg: libc::c_long) -> Result<i32> {
    // SAFETY: the commands here take a number, or a pointer to an `f_owner_ex` that outlives the call.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), command, arg) };
    if result < 0 { Err(host(std::io::Error::last_os_error())) } else { Ok(result) }
}

fn owner_of(fd: BorrowedFd<'_>) -> Result<Owner> {
    let mut owner = Owner { kind: F_OWNER_PID, pid: 0 };
    fcntl(fd, F_GETOWN_EX, (&raw mut owner) as libc::c_long)?;
    Ok(owner)
}

fn set_host_owner(fd: BorrowedFd<'_>, owner: Owner) -> Result<()> {
    fcntl(fd, F_SETOWN_EX, (&raw const owner) as libc::c_long).map(drop)
}

/// `fcntl(2)` commands about owners. `None`: another command.
///
/// # Errors
/// `EBADF`, `EINVAL`, `ESRCH`, `EPERM`.
pub fn command(ctx: &mut Ctx<'_>) -> Option<Result<Reply>> {
    let value = ctx.int(2);
    Some(match ctx.int(1) {
        libc::F_SETOWN if value == i32::MIN => Err(Errno::EINVAL),
        libc::F_SETOWN if value < 0 => set_owner(ctx, Owner { kind: F_OWNER_PGRP, pid: -value }),
        libc::F_SETOWN => set_owner(ctx, Owner { kind: F_OWNER_PID, pid: value }),
        libc::F_GETOWN => get_owner(ctx).map(|owner| match owner.kind {
            F_OWNER_PGRP => Reply::Value(-i64::from(owner.pid)),
            _ => owner.pid.into(),
        }),
        F_SETOWN_EX => owner_argument(ctx).and_then(|owner| set_owner(ctx, owner)),
        F_GETOWN_EX => get_owner(ctx).and_then(|owner| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&owner.kind.to_ne_bytes());
            bytes[4..].copy_from_slice(&owner.pid.to_ne_bytes());
            ctx.out[0] = 8;
            ctx.write(3, &bytes)?;
            Ok(().into())
        }),
        F_SETSIG => set_signal(ctx, value),
        F_GETSIG => ctx.getfd(ctx.int(0)).and_then(|fd| fcntl(fd.as_fd(), F_GETSIG, 0)).map(Reply::from),
        libc::F_SETFL => set_flags(ctx, ctx.int(0), value),
        _ => return None,
    })
}

/// `ioctl(2)` commands about owners. `None`: another command.
///
/// # Errors
/// As [`command`]; `EFAULT`.
pub fn ioctl(ctx: &mut Ctx<'_>) -> Option<Result<Reply>> {
    const FIOASYNC: u32 = 0x5452;
    const FIOSETOWN: u32 = 0x8901;
    const SIOCSPGRP: u32 = 0x8902;
    const FIOGETOWN: u32 = 0x8903;
    const SIOCGPGRP: u32 = 0x8904;
    let command = ctx.uint(1);
    if !matches!(command, FIOASYNC | FIOSETOWN | SIOCSPGRP | FIOGETOWN | SIOCGPGRP) {
        return None;
    }
    let serve = |ctx: &mut Ctx<'_>| {
        let fd = ctx.getfd(ctx.int(0))?;
        let is_socket =
            rustix::fs::fstat(&fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFSOCK);
        if command != FIOASYNC && !is_socket {
            return Err(Errno::ENOTTY);
        }
        let value = ctx.bytes_opt(3)?.filter(|bytes| bytes.len() >= 4).map(|bytes| u32_at(&bytes, 0) as i32);
        let value = value.ok_or(Errno::EFAULT)?;
        match command {
            FIOASYNC => set_async(&fd, ctx.int(0), ctx.host_pid(), value != 0),
            FIOSETOWN | SIOCSPGRP if value == i32::MIN => Err(Errno::EINVAL),
            FIOSETOWN | SIOCSPGRP if value < 0 => set_owner(ctx, Owner { kind: F_OWNER_PGRP, pid: -value }),
            FIOSETOWN | SIOCSPGRP => set_owner(ctx, Owner { kind: F_OWNER_PID, pid: value }),
            _ => {
                let owner = get_owner(ctx)?;
                let pid = if owner.kind == F_OWNER_PGRP { -owner.pid } else { owner.pid };
                ctx.out[0] = 4;
                ctx.write(3, &pid.to_ne_bytes())?;
                Ok(().into())
            }
        }
    };
    Some(serve(ctx))
}

fn owner_argument(ctx: &Ctx<'_>) -> Result<Owner> {
    let bytes = ctx.structure::<8>(3)?.ok_or(Errno::EFAULT)?;
    Ok(Owner { kind: u32_at(&bytes, 0) as i32, pid: u32_at(&bytes, 4) as i32 })
}

/// `f_setown`, with the number as the caller sees it; 0 for nobody.
fn set_owner(ctx: &mut Ctx<'_>, owner: Owner) -> Result<Reply> {
    let fd = ctx.getfd(ctx.int(0))?;
    if fcntl(fd.as_fd(), libc::F_GETFL, 0)? & libc::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    if !(F_OWNER_TID..=F_OWNER_PGRP).contains(&owner.kind) {
        return Err(Errno::EINVAL);
    }
    let server = ctx.server;
    let host_pid = if owner.pid == 0 {
        Some(0)
    } else if owner.kind == F_OWNER_PGRP {
        let kernel = server.kernel.lock().unwrap();
        let group = kernel.find_vpid(ctx.task(), owner.pid).ok_or(Errno::ESRCH)?;
        let members = group.members(PidType::Pgid);
        let allowed =
            kernel.kill_targets(ctx.task(), -owner.pid, libc::SIGIO).map_or(0, |targets| targets.len());
        // The first group may have members outside.
        let is_first = group.numbers().get(1).is_some_and(|upid| upid.nr == 1);
        if allowed < members.len() || is_first {
            return Err(Errno::EPERM);
        }
        drop(kernel);
        server.pids.to_host(&group)
    } else {
        let task = {
            let kernel = server.kernel.lock().unwrap();
            let task = kernel.find_task_by_vpid(ctx.task(), owner.pid).ok_or(Errno::ESRCH)?;
            kernel.tgkill_target(ctx.task(), None, owner.pid, libc::SIGIO)?;
            task
        };
        let thread = server.guests.by_task(task).ok_or(Errno::ESRCH)?;
        super::clone::host_tid(&thread).or_else(|| server.seek(&thread))
    };
    let Some(pid) = host_pid else { return Ok(Reply::Retry) };
    let _owners = OWNERS.lock().unwrap();
    set_host_owner(fd.as_fd(), Owner { kind: owner.kind, pid })?;
    Ok(().into())
}

/// `f_getown`, as the caller sees it; 0 for nobody and for who is gone.
fn get_owner(ctx: &Ctx<'_>) -> Result<Owner> {
    let fd = ctx.getfd(ctx.int(0))?;
    let mut owner = owner_of(fd.as_fd())?;
    let server = ctx.server;
    owner.pid = if owner.kind == F_OWNER_PGRP {
        let kernel = server.kernel.lock().unwrap();
        let first_level = server.pids.from_host(owner.pid);
        let pid = first_level.and_then(|nr| server.first_pid_ns.get()?.find(nr));
        pid.zip(kernel.active_pid_ns(ctx.task())).map_or(0, |(pid, ns)| pid.nr_ns(&ns))
    } else {
        server.vnr_of_host(ctx.thread, owner.pid).unwrap_or(0)
    };
    Ok(owner)
}

fn set_signal(ctx: &Ctx<'_>, signal: i32) -> Result<Reply> {
    let fd = ctx.getfd(ctx.int(0))?;
    if !(0..=nomina_kernel::fork::NSIG).contains(&signal)
        || matches!(signal, libc::SIGKILL | libc::SIGSTOP | libc::SIGSYS | nomina_abi::SIG_CALL)
    {
        return Err(Errno::EINVAL);
    }
    fcntl(fd.as_fd(), F_SETSIG, signal.into())?;
    Ok(().into())
}

/// `F_SETFL` with `O_ASYNC`, which the filter does not allow natively, or when it is there already.
fn set_flags(ctx: &Ctx<'_>, guest_fd: i32, flags: i32) -> Result<Reply> {
    let fd = ctx.getfd(guest_fd)?;
    if rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::PATH)) {
        return Err(Errno::EBADF);
    }
    set_async(&fd, guest_fd, ctx.host_pid(), flags & libc::O_ASYNC != 0).or_else(|errno| match errno {
        // A file that never tells; the flag stands all the same.
        Errno::ENOTTY => Ok(().into()),
        errno => Err(errno),
    })?;
    fcntl(fd.as_fd(), libc::F_SETFL, (flags & SETFL).into())?;
    Ok(().into())
}

/// `FIOASYNC`. `ENOTTY` for files that never tell.
fn set_async(fd: &OwnedFd, guest_fd: i32, owner: i32, on: bool) -> Result<Reply> {
    let _owners = OWNERS.lock().unwrap();
    if on && rustix::termios::isatty(fd) && owner_of(fd.as_fd())?.pid == 0 {
        set_host_owner(fd.as_fd(), Owner { kind: F_OWNER_PID, pid: owner })?;
    }
    let numbered = if on { Some(at_number(fd, guest_fd)?) } else { None };
    let fd = numbered.as_ref().unwrap_or(fd);
    let value = libc::c_int::from(on);
    // SAFETY: the command reads a number.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIOASYNC, &raw const value) } < 0 {
        return Err(host(std::io::Error::last_os_error()));
    }
    Ok(().into())
}

/// A copy whose number has the guest's in its lower bits: it becomes `si_fd`, which the shim cuts to these
/// ([`nomina_abi::SI_FD_MASK`]).
fn at_number(fd: &OwnedFd, guest_fd: i32) -> Result<OwnedFd> {
    const ATTEMPTS: i32 = 16;
    let step = nomina_abi::SI_FD_MASK + 1;
    for attempt in 1..=ATTEMPTS {
        let wanted = (guest_fd & nomina_abi::SI_FD_MASK) + attempt * step;
        let got = fcntl(fd.as_fd(), libc::F_DUPFD_CLOEXEC, wanted.into())?;
        // SAFETY: just made.
        let got = unsafe { OwnedFd::from_raw_fd(got) };
        if got.as_raw_fd() == wanted {
            return Ok(got);
        }
    }
    Err(Errno::ENFILE)
}
