//! Sockets (`socket(2)`): which family serves a call.
//!
//! Every guest's socket is a unix socket of the host. What it stands for is known by its inode number, or by the host's name of it.

pub mod inet;
pub mod unix;

use std::os::fd::OwnedFd;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::inet::{AF_INET, AF_INET6};
use nomina_kernel::vfs::S_IFSOCK;

use super::super::net::{options, socket as packets};
use super::super::netlink;
use super::super::request::{Ctx, Reply, host};
use super::super::uplink::guests;
use super::datagram;

/// A copy of a guest's socket, and its inode number.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`
fn guest_socket(ctx: &Ctx<'_>, index: usize) -> Result<(OwnedFd, u64)> {
    let fd = ctx.getfd(ctx.int(index))?;
    let stat = rustix::fs::fstat(&fd).map_err(host)?;
    if stat.st_mode & libc::S_IFMT != S_IFSOCK { Err(Errno::ENOTSOCK) } else { Ok((fd, stat.st_ino)) }
}

/// `socket(2)` and `socketpair(2)`. Native for stream and seqpacket `AF_UNIX`.
///
/// # Errors
/// `EAFNOSUPPORT`, `ESOCKTNOSUPPORT`, `EPROTONOSUPPORT`, and those of the family.
pub fn socket(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const SOCKETPAIR: u32 = 53;
    const SOCK_TYPE_MASK: i32 = 0xf;
    let kind = ctx.int(1) & SOCK_TYPE_MASK;
    if ctx.nr != SOCKETPAIR
        && let Some(done) = packets::socket(ctx)
    {
        return done;
    }
    match ctx.int(0) {
        libc::AF_UNIX => match kind {
            libc::SOCK_DGRAM | libc::SOCK_RAW => datagram::socket(ctx),
            libc::SOCK_STREAM | libc::SOCK_SEQPACKET => Err(Errno::EPROTONOSUPPORT),
            _ => Err(Errno::ESOCKTNOSUPPORT),
        },
        libc::AF_NETLINK if ctx.nr != SOCKETPAIR => netlink::socket(ctx),
        family @ (libc::AF_INET | libc::AF_INET6) if ctx.nr != SOCKETPAIR => {
            inet::socket(ctx, if family == libc::AF_INET { AF_INET } else { AF_INET6 }, kind)
        }
        libc::AF_NETLINK | libc::AF_INET | libc::AF_INET6 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// `bind(2)`.
///
/// # Errors
/// Those of the family.
pub fn bind(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (socket, ino) = guest_socket(ctx, 0)?;
    let address = ctx.bytes(1)?;
    if let Some(netlink) = ctx.server.netlink.find(&socket) {
        return netlink::bind(ctx, &netlink, &address);
    }
    if let Some(inet) = ctx.server.inet.find(&socket, ino) {
        return ctx.server.inet.bind(ctx, &inet, &address).map(Into::into);
    }
    if let Some(end) = ctx.server.net.socket(ino) {
        return packets::bind(ctx, &end, &address);
    }
    unix::bind(ctx, &socket, &address)
}

/// `listen(2)`, before the caller makes it natively with the backlog in `out[0]`.
///
/// # Errors
/// Those of the family; `EOPNOTSUPP`: its sockets do not listen.
pub fn listen(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (socket, ino) = guest_socket(ctx, 0)?;
    ctx.out[0] = ctx.int(1) as u32 as u64;
    if let Some(inet) = ctx.server.inet.find(&socket, ino) {
        return inet::listen(ctx, &socket, &inet);
    }
    if ctx.server.netlink.find(&socket).is_some() || datagram::datagram_of(ctx, &socket).is_some() {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(().into())
}

/// `connect(2)`. A descriptor in the reply takes the place of the caller's, who then asks again.
///
/// # Errors
/// Those of the family.
pub fn connect(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (socket, ino) = guest_socket(ctx, 0)?;
    let address = ctx.bytes(1)?;
    if let Some(netlink) = ctx.server.netlink.find(&socket) {
        return netlink::send_to(ctx, &netlink, &address);
    }
    if let Some(inet) = ctx.server.inet.find(&socket, ino) {
        return match inet.is_stream() {
            true => ctx.server.inet.connect(ctx, &socket, &inet, &address),
            false => {
                guests::introduce(ctx, &inet);
                ctx.server.inet.connect_datagram(&inet, &address)
            }
        };
    }
    if let Some(end) = ctx.server.net.socket(ino) {
        return packets::connect(ctx, &end, &address);
    }
    unix::connect(ctx, &socket, &address)
}

/// `getsockname(2)` and `getpeername(2)`.
///
/// # Errors
/// `ENOTCONN`
pub fn name_of(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const GETSOCKNAME: u32 = 51;
    let own = ctx.nr == GETSOCKNAME;
    let (socket, ino) = guest_socket(ctx, 0)?;
    let answer = if let Some(netlink) = ctx.server.netlink.find(&socket) {
        netlink::name(&netlink, !own)
    } else if let Some(inet) = ctx.server.inet.find(&socket, ino) {
        inet::name(&inet, own)?
    } else if let Some(end) = ctx.server.net.socket(ino) {
        packets::name(ctx, &end, !own)?
    } else {
        unix::name(ctx, &socket, own)?
    };
    ctx.out[0] = answer.len() as u64;
    ctx.write(1, &answer)?;
    Ok(().into())
}

/// `sendto(2)` and `sendmsg(2)` with an address. For a datagram of `AF_UNIX` the reply is a tag to send with it.
///
/// # Errors
/// Those of the family.
pub fn sendto(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (socket, ino) = guest_socket(ctx, 0)?;
    if let Some(inet) = ctx.server.inet.find(&socket, ino) {
        return inet::sendto(ctx, &inet);
    }
    if let Some(end) = ctx.server.net.socket(ino) {
        return packets::sendto(ctx, &end);
    }
    if ctx.is_null(4) {
        return Ok(().into());
    }
    if let Some(netlink) = ctx.server.netlink.find(&socket) {
        return netlink::send_to(ctx, &netlink, &ctx.bytes(4)?);
    }
    unix::sendto(ctx, &socket)
}

/// `setsockopt(2)` of what the filter does not allow natively.
///
/// # Errors
/// `ENOPROTOOPT` and `EOPNOTSUPP` for options that are not there; those of the host.
pub fn set_option(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (socket, ino) = guest_socket(ctx, 0)?;
    if let Some(netlink) = ctx.server.netlink.find(&socket)
        && let Some(result) = netlink::set_option(ctx, &netlink)
    {
        return result;
    }
    if let Some(inet) = ctx.server.inet.find(&socket, ino) {
        return inet::set_option(ctx, &socket, &inet);
    }
    if let Some(end) = ctx.server.net.socket(ino) {
        return options::set(ctx, &end);
    }
    unix::set_option(ctx, &socket)
}

/// `getsockopt(2)` of what the filter does not allow natively.
///
/// # Errors
/// `ENOPROTOOPT` and `EOPNOTSUPP` for options that are not there; those of the host.
pub fn get_option(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (socket, ino) = guest_socket(ctx, 0)?;
    if let Some(netlink) = ctx.server.netlink.find(&socket)
        && let Some(result) = netlink::get_option(ctx, &netlink)
    {
        return result;
    }
    if let Some(inet) = ctx.server.inet.find(&socket, ino) {
        return inet::get_option(ctx, &inet);
    }
    if let Some(end) = ctx.server.net.socket(ino) {
        return options::get(ctx, &end);
    }
    unix::get_option(ctx, &socket)
}
