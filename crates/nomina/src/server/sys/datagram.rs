//! System calls on `AF_UNIX` datagram sockets; see [`super::super::datagram`].

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use nomina_abi as abi;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::{S_IFSOCK, namei};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::super::datagram::{Datagram, Maker};
use super::super::request::{Ctx, Reply, host};
use super::socket::unix::{find_socket, path_name, probe, socket_file};

const AF_UNIX: u16 = libc::AF_UNIX as u16;

/// The datagram socket behind a copy of a guest's descriptor.
pub fn datagram_of(ctx: &Ctx<'_>, socket: &OwnedFd) -> Option<Arc<Datagram>> {
    let stat = rustix::fs::fstat(socket).ok()?;
    // Files of the guest's own could have any number.
    if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return None;
    }
    ctx.server.datagrams.by_ino(stat.st_ino)
}

/// `socket(2)` and `socketpair(2)`.
///
/// # Errors
/// `EPROTONOSUPPORT`, `EINVAL` for flags, `EMFILE`.
pub fn socket(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const PF_UNIX: i32 = libc::AF_UNIX;
    if !matches!(ctx.int(2), 0 | PF_UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let flags = ctx.int(1) & !0xf;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let nonblock =
        if flags & libc::SOCK_NONBLOCK != 0 { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
    let (first, fd) = ctx.server.datagrams.create(ctx.server, nonblock)?;
    if ctx.nr != 53 {
        return Ok(Reply::Fd { fd, cloexec: flags & libc::SOCK_CLOEXEC != 0 });
    }
    let (second, other) = ctx.server.datagrams.create(ctx.server, nonblock)?;
    let cred = ctx.cred();
    let maker = Maker { host_pid: ctx.host_pid(), uid: cred.euid, gid: cred.egid };
    for (socket, peer) in [(&first, &second), (&second, &first)] {
        socket.set_maker(maker);
        socket.connect(Some(peer));
    }
    ctx.fds = vec![fd, other];
    Ok(().into())
}

/// `bind(2)`.
///
/// # Errors
/// `EINVAL` when it is bound, `EADDRINUSE`; those of making a file.
pub fn bind(ctx: &Ctx<'_>, socket: &Arc<Datagram>, name: &[u8]) -> Result<Reply> {
    let datagrams = &ctx.server.datagrams;
    if name.is_empty() || name[0] == 0 {
        return datagrams.bind_abstract(socket, ctx.net_ns(), name).map(Into::into);
    }
    if socket.name().is_some() {
        return Err(Errno::EINVAL);
    }
    let path = path_name(name);
    // The file needs a socket of the host to be made; it is closed at once, so that nobody outside reaches anything by it.
    let stand_in = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).map_err(host)?;
    let since = SystemTime::now();
    ctx.with_walk(libc::AT_FDCWD, path, |walk| {
        let made = namei::with_new_name(walk, path, S_IFSOCK | 0o777, 0, |dir, name, new| {
            dir.inode().bind_socket(name, new, &stand_in)?;
            let made = dir.inode().lookup(name)?.getattr()?;
            ctx.server.unix.note_file(&made, since)?;
            Ok(socket_file(&made))
        });
        let file = made.map_err(|errno| if errno == Errno::EEXIST { Errno::EADDRINUSE } else { errno })?;
        let mut bytes = path.to_vec();
        bytes.push(0);
        datagrams.bind_file(socket, file, &bytes)
    })?;
    Ok(().into())
}

/// The socket with a name.
///
/// # Errors
/// `ECONNREFUSED` when there is none, `EPROTOTYPE` when it is of another type; those of a path walk.
fn find(ctx: &Ctx<'_>, name: &[u8]) -> Result<Arc<Datagram>> {
    let datagrams = &ctx.server.datagrams;
    if name.first() == Some(&0) {
        return datagrams.by_name(ctx.net_ns(), name).ok_or(Errno::ECONNREFUSED);
    }
    let (handle, file) = find_socket(ctx, path_name(name))?;
    match datagrams.by_file(file) {
        Some(socket) => Ok(socket),
        None => Err(probe(&handle, SocketType::DGRAM).err().unwrap_or(Errno::ECONNREFUSED)),
    }
}

fn named(ctx: &Ctx<'_>, socket: &Arc<Datagram>, name: &[u8]) -> Result<Arc<Datagram>> {
    if name.is_empty() {
        return Err(Errno::EINVAL);
    }
    if socket.passes_credentials() && socket.name().is_none() {
        ctx.server.datagrams.bind_abstract(socket, ctx.net_ns(), &[])?;
    }
    let to = find(ctx, name)?;
    if socket.may_send(&to) { Ok(to) } else { Err(Errno::EPERM) }
}

/// `connect(2)`; the family `AF_UNSPEC` takes a connection back.
///
/// # Errors
/// As [`find`]; `EPERM` when the other is connected to a third, `EINVAL`.
pub fn connect(ctx: &Ctx<'_>, socket: &Arc<Datagram>, family: u16, name: &[u8]) -> Result<Reply> {
    match family {
        0 => socket.connect(None),
        AF_UNIX => socket.connect(Some(&named(ctx, socket, name)?)),
        _ => return Err(Errno::EINVAL),
    }
    Ok(().into())
}

/// Where a message with an address goes: a tag for it.
///
/// # Errors
/// As [`connect`].
pub fn send_to(ctx: &Ctx<'_>, socket: &Arc<Datagram>, family: u16, name: &[u8]) -> Result<Reply> {
    if family != AF_UNIX {
        return Err(Errno::EINVAL);
    }
    let to = named(ctx, socket, name)?;
    let fd = ctx.server.datagrams.destination_tag(&to)?.try_clone().map_err(host)?;
    Ok(Reply::Fd { fd, cloexec: true })
}

/// [`abi::op::SENDER`].
///
/// # Errors
/// `EPROTOTYPE` for other sockets, `EINVAL` for what is no tag.
pub fn sender(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let socket = datagram_of(ctx, &ctx.getfd(ctx.int(0))?).ok_or(Errno::EPROTOTYPE)?;
    let tag = ctx.getfd(ctx.int(1))?;
    let source = ctx.server.datagrams.source_of(&tag).ok_or(Errno::EINVAL)?;
    let user_ns = ctx.cred().user_ns.clone();
    let _ = ctx.server.guest_of_host_pid(source.host_pid);
    let pid = ctx.server.vnr_of_host(ctx.thread, source.host_pid).unwrap_or(0);
    let uid = user_ns.from_kuid_munged(source.uid);
    let gid = user_ns.from_kgid_munged(source.gid);
    let address =
        if source.name.is_empty() { Vec::new() } else { [&AF_UNIX.to_ne_bytes()[..], &source.name].concat() };
    ctx.out[0] = address.len() as u64;
    ctx.out[1] = pid as u64;
    ctx.out[2] = uid.into();
    ctx.out[3] = gid.into();
    ctx.out[4] = socket.passes_credentials().into();
    ctx.write(2, &address)?;
    debug_assert!(address.len() <= abi::SOCKADDR_MAX);
    Ok(().into())
}

/// `getsockopt(2)` of what a datagram socket answers otherwise than the host's end; `None`: it does not.
pub fn option(ctx: &Ctx<'_>, socket: &Datagram) -> Option<Vec<u8>> {
    let number = match (ctx.int(1), ctx.int(2)) {
        (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_DGRAM,
        (libc::SOL_SOCKET, libc::SO_PASSCRED) => socket.passes_credentials().into(),
        (libc::SOL_SOCKET, libc::SO_PEERCRED) => {
            let unknown = Maker { host_pid: 0, uid: u32::MAX, gid: u32::MAX };
            let maker = socket.maker().unwrap_or(unknown);
            let pid = ctx.server.vnr_of_host(ctx.thread, maker.host_pid).unwrap_or(0) as u32;
            return Some([pid, maker.uid, maker.gid].iter().flat_map(|word| word.to_ne_bytes()).collect());
        }
        _ => return None,
    };
    Some(number.to_ne_bytes().to_vec())
}
