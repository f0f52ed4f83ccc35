//! `umask(2)` and the parts of `ioctl(2)` and `fcntl(2)` that carry names.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::ioctl::{self, IoctlCaller};
use nomina_kernel::nsfs::NsRef;

use super::super::net::tun;
use super::super::netlink;
use super::super::nsfs::NsInode;
use super::super::request::{Ctx, Reply, host};
use super::files::FdPath;
use super::{fasync, pidfd};

/// `umask(2)`.
pub fn umask(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let fs = {
        let kernel = ctx.server.kernel.lock().unwrap();
        kernel.task(ctx.task()).and_then(|task| task.fs().cloned()).ok_or(Errno::ESRCH)?
    };
    let mut fs = fs.lock().unwrap();
    let old = std::mem::replace(&mut fs.umask, ctx.uint(0) & 0o777);
    Ok(Reply::Value(old.into()))
}

/// `ioctl_ns(2)` commands.
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;

/// `ioctl(2)`: what the filter does not allow natively.
pub fn ioctl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let command = ctx.uint(1);
    if u64::from(command) == libc::TIOCGPTPEER {
        return open_peer(ctx);
    }
    if command >> 8 & 0xff == pidfd::IOCTL_MAGIC {
        return pidfd::ioctl(ctx);
    }
    if let Some(done) = fasync::ioctl(ctx) {
        return done;
    }
    let fd = ctx.getfd(ctx.int(0))?;
    if rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::PATH)) {
        return Err(Errno::EBADF);
    }
    if let Some(done) = tun::ioctl(ctx, &fd) {
        return done;
    }
    if rustix::fs::fstat(&fd).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFSOCK)
        && let Some(result) = net_ioctl(ctx, command)
    {
        return result;
    }
    let FdPath::Place(path) = ctx.fd_path(ctx.int(0))? else { return Err(Errno::ENOTTY) };
    let Some(inode) = path.inode().as_any().downcast_ref::<NsInode>() else { return Err(Errno::ENOTTY) };
    let kernel = ctx.server.kernel.lock().unwrap();
    let ns = match command {
        NS_GET_USERNS => NsRef::User(kernel.ns_get_userns(ctx.task(), &inode.ns)?),
        NS_GET_PARENT => kernel.ns_get_parent(ctx.task(), &inode.ns)?,
        NS_GET_OWNER_UID => {
            let uid = kernel.ns_get_owner_uid(ctx.task(), &inode.ns)?;
            drop(kernel);
            // What the shim could not read at the pointer it cannot write there either.
            ctx.bytes_opt(3)?.ok_or(Errno::EFAULT)?;
            ctx.write_data(&uid.to_ne_bytes())?;
            ctx.out[0] = 4;
            return Ok(().into());
        }
        NS_GET_NSTYPE => return Ok(Reply::Value(inode.ns.common().kind().clone_flag().bits() as i64)),
        _ => return Err(Errno::ENOTTY),
    };
    drop(kernel);
    let place = ctx.server.ns_path(ns);
    let fd = ctx.server.handles.open_path(place, libc::O_RDONLY as u32).map_err(host)?;
    Ok(Reply::Fd { fd, cloexec: true })
}

/// The commands of `netdevice(7)` on a socket of any family; `None` for others.
fn net_ioctl(ctx: &mut Ctx<'_>, command: u32) -> Option<Result<Reply>> {
    let known = ioctl::is_ifreq_command(command)
        || ioctl::is_ifconf_command(command)
        || ioctl::is_rtentry_command(command);
    if !known {
        return None;
    }
    let (net, net_admin) = match netlink::net_of(ctx) {
        Ok((net, net_admin)) => (net.common().inum(), net_admin),
        Err(errno) => return Some(Err(errno)),
    };
    let mut serve = || -> Result<Reply> {
        let caller = IoctlCaller { net, net_admin };
        let server = ctx.server;
        let stack = &*server.net_stack;
        stack.lock().set_now(server.now());
        if ioctl::is_ifconf_command(command) {
            // Argument 2 is the room; without a buffer all there is counts.
            let without = ctx.args[4] != 0;
            let room = if without { usize::MAX } else { (ctx.args[2] as usize).min(nomina_abi::SLOT_DATA) };
            let all = ioctl::ifconf(stack, net, room);
            ctx.out[1] = all.len() as u64;
            if !without {
                ctx.write_data(&all)?;
                ctx.out[0] = all.len() as u64;
            }
            return Ok(().into());
        }
        if ioctl::is_rtentry_command(command) {
            let entry = ctx.structure(3)?.ok_or(Errno::EFAULT)?;
            let device = ctx.bytes_opt(4)?;
            ioctl::rt_ioctl(stack, caller, command, &entry, device.as_deref())?;
            return Ok(().into());
        }
        let mut request = ctx.structure(3)?.ok_or(Errno::EFAULT)?;
        ioctl::ifreq_ioctl(stack, caller, command, &mut request)?;
        ctx.write(3, &request)?;
        ctx.out[0] = request.len() as u64;
        Ok(().into())
    };
    Some(serve())
}

/// `TIOCGPTPEER`: the slave of a master the guest holds.
fn open_peer(ctx: &mut Ctx<'_>) -> Result<Reply> {
    use std::os::fd::AsRawFd;
    let master = ctx.getfd(ctx.int(0))?;
    let flags = ctx.int(2);
    // SAFETY: the command takes open flags by value and gives a new descriptor.
    let fd = unsafe {
        libc::ioctl(master.as_fd().as_raw_fd(), libc::TIOCGPTPEER, flags | libc::O_CLOEXEC | libc::O_NOCTTY)
    };
    if fd < 0 {
        return Err(host(std::io::Error::last_os_error()));
    }
    // SAFETY: just opened.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let cloexec = flags & libc::O_CLOEXEC != 0;
    if super::open::may_control(flags as u32) {
        return Ok(Reply::Terminal { fd, cloexec });
    }
    Ok(Reply::Fd { fd, cloexec })
}

/// [`nomina_abi::op::SIGNALFD`]: only the name that the host shows of a descriptor tells what it is.
pub fn is_signalfd(ctx: &mut Ctx<'_>) -> Result<Reply> {
    use std::os::fd::AsRawFd;
    let fd = ctx.getfd(ctx.int(0))?;
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let name = rustix::fs::readlink(link, Vec::new()).map_err(host)?;
    Ok(i32::from(name.as_bytes() == b"anon_inode:[signalfd]").into())
}

/// `fcntl(2)`: what the filter does not allow natively.
pub fn fcntl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    if let Some(done) = fasync::command(ctx) {
        return done;
    }
    match ctx.int(1) {
        libc::F_SETLEASE => Err(Errno::EAGAIN),
        _ => Err(Errno::EINVAL),
    }
}
