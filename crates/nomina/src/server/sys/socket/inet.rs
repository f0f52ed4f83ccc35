//! System calls on sockets of the Internet families; see [`super::super::super::inet`].

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetNamespace;
use nomina_kernel::net::inet::options::SOL_SOCKET;
use nomina_kernel::net::inet::sockaddr;

use super::super::super::inet::tcp::Listening;
use super::super::super::inet::{InetSocket, options};
use super::super::super::request::{Ctx, Reply};

/// `IPPROTO_IP`: the protocol that goes with the type.
const ANY: i32 = 0;

/// The caller's network namespace.
fn net_of(ctx: &Ctx<'_>) -> Result<Arc<NetNamespace>> {
    let kernel = ctx.server.kernel.lock().unwrap();
    let task = kernel.task(ctx.task()).ok_or(Errno::ESRCH)?;
    Ok(task.nsproxy().ok_or(Errno::ESRCH)?.net_ns().clone())
}

/// `socket(2)`: `inet_create`.
///
/// # Errors
/// `EINVAL`: flags, or no protocol number. `EPERM`: a raw socket without `CAP_NET_RAW`. `EPROTONOSUPPORT`, `ESOCKTNOSUPPORT`
pub fn socket(ctx: &mut Ctx<'_>, family: u16, kind: i32) -> Result<Reply> {
    /// `IPPROTO_MAX`
    const PROTOCOLS: i32 = 263;
    let flags = ctx.int(1) & !0xf;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let protocol = ctx.int(2);
    if !(0..PROTOCOLS).contains(&protocol) {
        return Err(Errno::EINVAL);
    }
    let net = net_of(ctx)?;
    let nonblock = flags & libc::SOCK_NONBLOCK != 0;
    let fd = match (kind, protocol) {
        (libc::SOCK_STREAM, ANY | libc::IPPROTO_TCP) => {
            ctx.server.inet.create_stream(net, family, ctx.cred().euid, nonblock)?
        }
        (libc::SOCK_DGRAM, ANY | libc::IPPROTO_UDP) => {
            ctx.server.inet.create_datagram(ctx.server, net, family, ctx.cred().euid, nonblock)?
        }
        (libc::SOCK_RAW, protocol) if protocol != ANY => {
            let raw = net.common().owner().is_some_and(|owner| ctx.cred().ns_capable(owner, Cap::NET_RAW));
            return Err(if raw { Errno::EPROTONOSUPPORT } else { Errno::EPERM });
        }
        (libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_RAW, _) => return Err(Errno::EPROTONOSUPPORT),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    Ok(Reply::Fd { fd, cloexec: flags & libc::SOCK_CLOEXEC != 0 })
}

/// `sendto(2)` and `sendmsg(2)` with an address or with ancillary data. A datagram that came with the request is sent; for
/// another the reply is a descriptor to send it with.
///
/// # Errors
/// Those of [`super::super::super::inet::Inet::send`].
pub fn sendto(ctx: &mut Ctx<'_>, socket: &Arc<InetSocket>) -> Result<Reply> {
    if socket.is_stream() {
        // `tcp_sendmsg` does not look at the address.
        return Ok(().into());
    }
    if ctx.int(3) & (libc::MSG_OOB | libc::MSG_MORE) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let inet = &ctx.server.inet;
    let (data, control, address) =
        (ctx.bytes_opt(1)?, ctx.bytes_opt(2)?.unwrap_or_default(), ctx.bytes_opt(4)?);
    match data {
        Some(data) => {
            let sent = inet.send(socket, address.as_deref(), &control, &data)?;
            ctx.out[0] = 1;
            Ok(sent.into())
        }
        None => {
            let len = usize::try_from(ctx.args[5]).unwrap_or(usize::MAX);
            let fd = inet.destination(socket, address.as_deref(), len)?;
            Ok(Reply::Fd { fd, cloexec: true })
        }
    }
}

/// `listen(2)`
///
/// # Errors
/// Those of [`super::super::super::inet::Inet::listen`]; `EOPNOTSUPP` for datagrams.
pub fn listen(ctx: &mut Ctx<'_>, fd: &OwnedFd, socket: &Arc<InetSocket>) -> Result<Reply> {
    if !socket.is_stream() {
        return Err(Errno::EOPNOTSUPP);
    }
    match ctx.server.inet.listen(fd, socket, ctx.int(1))? {
        Listening::Backlog(backlog) => {
            ctx.out[0] = backlog.into();
            Ok(().into())
        }
        Listening::Fresh(fd) => Ok(Reply::Fd { fd, cloexec: true }),
    }
}

/// `getsockname(2)` and `getpeername(2)`.
///
/// # Errors
/// `ENOTCONN`
pub fn name(socket: &InetSocket, own: bool) -> Result<Vec<u8>> {
    let state = socket.state.lock().unwrap();
    if own {
        let mut shown = state.local;
        if shown.port() == 0 {
            shown.set_port(state.last_port);
        }
        return Ok(sockaddr::format(socket.family, shown));
    }
    Ok(sockaddr::format(socket.family, state.peer.ok_or(Errno::ENOTCONN)?))
}

/// `setsockopt(2)`
///
/// # Errors
/// Those of [`options::set`].
pub fn set_option(ctx: &mut Ctx<'_>, fd: &OwnedFd, socket: &Arc<InetSocket>) -> Result<Reply> {
    let (level, option, value) = (ctx.int(1), ctx.int(2), ctx.bytes(3)?);
    options::set(ctx, socket, level, option, &value)?;
    if (level, option) == (SOL_SOCKET, libc::SO_OOBINLINE) {
        let on = i32::from(value.iter().any(|&byte| byte != 0));
        let len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: the option takes an int, which lives through the call.
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const on).cast(), len) };
    }
    Ok(().into())
}

/// `getsockopt(2)`
///
/// # Errors
/// Those of [`options::get`].
pub fn get_option(ctx: &mut Ctx<'_>, socket: &Arc<InetSocket>) -> Result<Reply> {
    let room = ctx.args[4] as usize;
    let mut answer = options::get(socket, ctx.int(1), ctx.int(2), room)?;
    answer.truncate(room);
    ctx.out[0] = answer.len() as u64;
    ctx.write(3, &answer)?;
    Ok(().into())
}
