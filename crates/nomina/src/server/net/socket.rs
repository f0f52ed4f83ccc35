//! Packet sockets, raw sockets and ping sockets (`packet(7)`, `raw(7)`, `icmp(7)`).
//!
//! A guest's socket is one end of a pair of `SOCK_SEQPACKET` sockets, as one of [UDP](super::super::inet::udp) is, and messages to it carry
//! the same labels. What is sent to an address comes as a request, so its errors are exact; what is sent without one comes through
//! the pair, and its errors are lost. Where ours differs from Linux besides: there are rings for receiving
//! ([`super::ring`]) and none for sending, and errors of connected raw sockets are told by `SO_ERROR` only.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nomina_abi::label;
use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::Stack;
use nomina_kernel::net::af_packet::{PacketSocket, SockaddrLl};
use nomina_kernel::net::core::softirq::Message;
use nomina_kernel::net::inet::sockaddr;
use nomina_kernel::net::raw::{RawKind, RawSocket};
use rustix::event::epoll;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::super::labels::{self, Labels};
use super::super::lock::Mutex;
use super::super::request::{Ctx, Reply, host};
use super::engine::LONGEST;
use super::ring::Memory;
use super::tun::{Taken, is_closed};
use super::{engine, options};

/// Descriptors in a message of a guest's that are looked at.
const MAX_FDS: usize = 4;

/// What kind of socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `AF_PACKET`
    Packet,
    /// Raw or ping, of IPv4.
    Inet,
    /// Raw or ping, of IPv6.
    Inet6,
}

/// Our end of a socket.
pub struct SocketEnd {
    /// Inode number of the guest's end, and the socket's number in the model.
    pub(super) ino: u64,
    pub(super) kind: Kind,
    /// `SOCK_*` and the protocol it was made with.
    pub(super) made: (i32, i32),
    /// Effective user of who made it, by kernel id.
    pub uid: u32,
    ours: OwnedFd,
    pub(super) state: Mutex<EndState>,
}

/// What can change of it.
#[derive(Default)]
pub(super) struct EndState {
    /// Values of options, by level and number, as they were set.
    pub(super) options: HashMap<(i32, i32), Vec<u8>>,
    /// `SO_ERROR`
    pub(super) error: Option<Errno>,
    labels: Labels,
    /// `PACKET_RX_RING`
    pub(super) ring: Option<Arc<Memory>>,
    /// A message that tells of the ring is in the pair.
    pub(super) bell: bool,
}

impl EndState {
    /// Whether an option is set to something else than 0.
    pub(super) fn is_set(&self, level: i32, option: i32) -> bool {
        self.options.get(&(level, option)).is_some_and(|value| value.iter().any(|&byte| byte != 0))
    }
}

impl SocketEnd {
    pub(super) fn ours(&self) -> &OwnedFd {
        &self.ours
    }

    /// Gives the program a message; false if there is no room.
    pub(super) fn send(&self, message: &Message) -> bool {
        let mut state = self.state.lock().unwrap();
        let control = options::control(self.kind, &state, message);
        let mut text = labels::text(label::INET, &message.source, &control);
        text.truncate(label::MAX);
        let Ok(label) = state.labels.label(text) else {
            return false;
        };
        let fds = [label.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.ours, &[IoSlice::new(&message.data)], &mut ancillary, flags).is_ok()
    }

    /// Gives the stack what the program has sent without a request.
    pub(super) fn take(&self, stack: &mut Stack, buffer: &mut [u8]) -> Taken {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = match rustix::net::recvmsg(&self.ours, &mut [IoSliceMut::new(buffer)], &mut control, flags)
        {
            Ok(got) => got,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Taken::Nothing,
            Err(_) => return Taken::End,
        };
        let mut fds: Vec<OwnedFd> = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 && fds.is_empty() && is_closed(&self.ours) {
            return Taken::End;
        }
        if !got.flags.contains(ReturnFlags::TRUNC) {
            let address = fds.first().and_then(destination_of);
            // There is nobody to tell.
            let _ = self.xmit(stack, address.as_deref(), &buffer[..got.bytes]);
        }
        Taken::One
    }

    /// Sends to `address`, or to where the socket is bound or connected.
    fn xmit(&self, stack: &mut Stack, address: Option<&[u8]>, data: &[u8]) -> Result<()> {
        match self.kind {
            Kind::Packet => {
                let to = address.map(SockaddrLl::parse).transpose()?;
                stack.packet_send(self.ino, to, data)
            }
            _ => {
                let to = address.map(|address| self.ip_address(address)).transpose()?;
                stack.raw_send(self.ino, to, data)
            }
        }
    }

    /// An address of the socket's family, and the device of one of a link.
    fn ip_address(&self, bytes: &[u8]) -> Result<(IpAddr, u32)> {
        let family = if self.kind == Kind::Inet { libc::AF_INET } else { libc::AF_INET6 } as u16;
        let address = sockaddr::parse(family, bytes)?;
        let scope = match address {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Ok((sockaddr::this_host(address.ip()), scope))
    }
}

/// The address in a label of [`destination`]. Only of a sealed memfd is anything read: other files may block. Who makes one up says
/// no more than with an address.
fn destination_of(label: &OwnedFd) -> Option<Vec<u8>> {
    if rustix::fs::fcntl_get_seals(label).ok()? != labels::SEALS {
        return None;
    }
    let mut text = [0; label::CONTROL_AT];
    if rustix::io::pread(label, &mut text, 0).ok()? != text.len() {
        return None;
    }
    let len = u32::from_ne_bytes(*text[4..].first_chunk()?) as usize;
    Some(text.get(label::ADDRESS_AT..)?.get(..len)?.to_vec())
}

/// `socket(2)` of these kinds; `None`: it is of another.
pub fn socket(ctx: &mut Ctx<'_>) -> Option<Result<Reply>> {
    let (family, kind, protocol) = (ctx.int(0), ctx.int(1) & 0xf, ctx.int(2));
    let is_ping = match family {
        libc::AF_INET => protocol == libc::IPPROTO_ICMP,
        libc::AF_INET6 => protocol == libc::IPPROTO_ICMPV6,
        _ => false,
    };
    match (family, kind) {
        (libc::AF_PACKET, _) | (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW) => {}
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) if is_ping => {}
        _ => return None,
    }
    Some(create(ctx, family, kind, protocol))
}

fn create(ctx: &mut Ctx<'_>, family: i32, kind: i32, protocol: i32) -> Result<Reply> {
    const PROTOCOLS: i32 = 256;
    let flags = ctx.int(1) & !0xf;
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let cred = ctx.cred();
    let net = {
        let kernel = ctx.server.kernel.lock().unwrap();
        let task = kernel.task(ctx.task()).ok_or(Errno::ESRCH)?;
        task.nsproxy().ok_or(Errno::ESRCH)?.net_ns().clone()
    };
    let inum = net.common().inum();
    let net_raw = net.common().owner().is_some_and(|owner| cred.ns_capable(owner, Cap::NET_RAW));
    let network = &ctx.server.net;
    let stack = network.stack().ok_or(Errno::ENOBUFS)?;
    let end_kind = match family {
        libc::AF_PACKET if !net_raw => return Err(Errno::EPERM),
        libc::AF_PACKET if !matches!(kind, libc::SOCK_RAW | libc::SOCK_DGRAM) => {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        libc::AF_PACKET => Kind::Packet,
        _ if !(0..PROTOCOLS).contains(&protocol) => return Err(Errno::EINVAL),
        _ if kind == libc::SOCK_RAW && protocol == 0 => return Err(Errno::EPROTONOSUPPORT),
        _ if kind == libc::SOCK_RAW && !net_raw => return Err(Errno::EPERM),
        _ if kind == libc::SOCK_DGRAM => {
            let (low, high) = stack.lock().net(inum).map_or((1, 0), |net| net.sysctls.ping_group_range());
            let allowed = |group: &u32| (low..=high).contains(group);
            if !allowed(&cred.egid) && !cred.groups.iter().any(allowed) {
                return Err(Errno::EACCES);
            }
            if family == libc::AF_INET { Kind::Inet } else { Kind::Inet6 }
        }
        libc::AF_INET => Kind::Inet,
        _ => Kind::Inet6,
    };
    if !network.has_room() {
        return Err(Errno::ENFILE);
    }
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(host)?;
    if flags & libc::SOCK_NONBLOCK != 0 {
        let now = rustix::fs::fcntl_getfl(&theirs).map_err(host)?;
        rustix::fs::fcntl_setfl(&theirs, now | rustix::fs::OFlags::NONBLOCK).map_err(host)?;
    }
    let ino = rustix::fs::fstat(&theirs).map_err(host)?.st_ino;
    let made = (kind, protocol);
    let end =
        Arc::new(SocketEnd { ino, kind: end_kind, made, uid: cred.euid, ours, state: Mutex::default() });
    engine::start(&network.0);
    {
        let mut stack = stack.lock();
        if end_kind == Kind::Packet {
            // The protocol stands in network order.
            let socket = PacketSocket::new(inum, kind == libc::SOCK_DGRAM, u16::from_be(protocol as u16));
            stack.packet_sockets.insert(ino, socket);
        } else {
            let raw = if kind == libc::SOCK_RAW { RawKind::Raw } else { RawKind::Ping };
            let socket = RawSocket::new(inum, raw, end_kind == Kind::Inet6, protocol as u8);
            stack.raw_sockets.insert(ino, socket);
        }
    }
    network.0.sockets.lock().unwrap().insert(ino, end.clone());
    let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if let Err(error) = epoll::add(&network.0.epoll, &end.ours, epoll::EventData::new_u64(ino), events) {
        network.0.close_socket(&mut stack.lock(), &end);
        return Err(host(error));
    }
    Ok(Reply::Fd { fd: theirs, cloexec: flags & libc::SOCK_CLOEXEC != 0 })
}

/// `bind(2)`
///
/// # Errors
/// `EINVAL`, `EAFNOSUPPORT`; `ENODEV`: no such device. `EADDRNOTAVAIL`: not an address of ours. `EADDRINUSE`.
pub fn bind(ctx: &Ctx<'_>, end: &SocketEnd, address: &[u8]) -> Result<Reply> {
    let mut stack = ctx.server.net.stack().ok_or(Errno::EBADF)?.lock();
    if end.kind == Kind::Packet {
        if address.len() < SockaddrLl::LEN {
            return Err(Errno::EINVAL);
        }
        let name = SockaddrLl::parse(address)?;
        let net = stack.packet_sockets.get(&end.ino).ok_or(Errno::EBADF)?.net;
        if name.ifindex != 0 && stack.dev_get_by_index(net, name.ifindex).is_none() {
            return Err(Errno::ENODEV);
        }
        let own = stack.packet_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?;
        own.ifindex = name.ifindex;
        if name.protocol != 0 {
            own.protocol = name.protocol;
        }
        return Ok(().into());
    }
    let (ip, scope) = end.ip_address_any(address)?;
    let own = stack.raw_sockets.get(&end.ino).ok_or(Errno::EBADF)?;
    let (net, is_ping) = (own.net, own.kind == RawKind::Ping);
    let on_link = stack.dev_get_by_index(net, scope).is_some_and(|dev| dev.has_address(ip));
    let many = match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    };
    if !ip.is_unspecified() && !many && !on_link && !stack.is_local(net, ip) {
        return Err(Errno::EADDRNOTAVAIL);
    }
    if is_ping {
        let port = sockaddr::parse_any(address).map_or(0, |address| address.port());
        stack.ping_get_port(end.ino, port)?;
    }
    let own = stack.raw_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?;
    own.bound = (!ip.is_unspecified()).then_some(ip);
    Ok(().into())
}

/// `connect(2)`; the family `AF_UNSPEC` takes a connection back.
///
/// # Errors
/// `EOPNOTSUPP` for packet sockets; `EAFNOSUPPORT`, `ENETUNREACH` and others of a way.
pub fn connect(ctx: &Ctx<'_>, end: &SocketEnd, address: &[u8]) -> Result<Reply> {
    if end.kind == Kind::Packet {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut stack = ctx.server.net.stack().ok_or(Errno::EBADF)?.lock();
    if sockaddr::family(address)? == libc::AF_UNSPEC as u16 {
        let own = stack.raw_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?;
        own.peer = None;
        return Ok(().into());
    }
    let (ip, scope) = end.ip_address(address)?;
    let own = stack.raw_sockets.get(&end.ino).ok_or(Errno::EBADF)?.clone();
    let scope = stack.dev_get_by_index(own.net, scope).map(|dev| dev.id);
    let flow = nomina_kernel::net::Flow {
        saddr: own.bound,
        oif: own.oif.or(scope),
        ..nomina_kernel::net::Flow::to(ip)
    };
    let dst = stack.route_output(own.net, &flow)?;
    let socket = stack.raw_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?;
    socket.peer = Some(ip);
    socket.bound = socket.bound.or(Some(dst.prefsrc));
    socket.oif = socket.oif.or(scope);
    if socket.kind == RawKind::Ping && socket.ident == 0 {
        stack.ping_get_port(end.ino, 0)?;
    }
    Ok(().into())
}

/// `getsockname(2)` and, with `peer`, `getpeername(2)`.
///
/// # Errors
/// `ENOTCONN`; `EOPNOTSUPP` for packet sockets.
pub fn name(ctx: &Ctx<'_>, end: &SocketEnd, peer: bool) -> Result<Vec<u8>> {
    let stack = ctx.server.net.stack().ok_or(Errno::EBADF)?.lock();
    if end.kind == Kind::Packet {
        return match peer {
            true => Err(Errno::EOPNOTSUPP),
            false => stack.packet_getname(end.ino).ok_or(Errno::EBADF),
        };
    }
    let own = stack.raw_sockets.get(&end.ino).ok_or(Errno::EBADF)?;
    let address = match peer {
        true => own.peer.ok_or(Errno::ENOTCONN)?,
        false => own.bound.unwrap_or(nomina_kernel::net::raw::unspecified(own.is_v6)),
    };
    let port = match (own.kind, peer) {
        (RawKind::Ping, _) => own.ident,
        (RawKind::Raw, false) => own.protocol.into(),
        (RawKind::Raw, true) => 0,
    };
    let family = if own.is_v6 { libc::AF_INET6 } else { libc::AF_INET } as u16;
    Ok(sockaddr::format(family, SocketAddr::new(address, port)))
}

/// `sendto(2)` and `sendmsg(2)` with an address or ancillary data.
///
/// # Errors
/// Those of the stack; a pending error of the socket.
pub fn sendto(ctx: &mut Ctx<'_>, end: &SocketEnd) -> Result<Reply> {
    if ctx.int(3) & libc::MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let (data, address) = (ctx.bytes_opt(1)?, ctx.bytes_opt(4)?);
    let Some(data) = data else {
        if ctx.args[5] > LONGEST as u64 {
            return Err(Errno::EMSGSIZE);
        }
        let Some(address) = address else { return Ok(().into()) };
        let text = labels::text(label::DESTINATION, &address, &[]);
        let label = end.state.lock().unwrap().labels.label(text).map_err(|_| Errno::ENOBUFS)?;
        return Ok(Reply::Fd { fd: label.try_clone().map_err(host)?, cloexec: true });
    };
    if let Some(errno) = end.state.lock().unwrap().error.take() {
        return Err(errno);
    }
    let network = &ctx.server.net;
    let mut stack = network.stack().ok_or(Errno::EBADF)?.lock();
    stack.set_now(network.0.now());
    let sent = end.xmit(&mut stack, address.as_deref(), &data);
    network.serve(&mut stack);
    drop(stack);
    sent?;
    ctx.out[0] = 1;
    Ok(data.len().into())
}

impl SocketEnd {
    /// As [`SocketEnd::ip_address`], where the unspecified address stands for itself.
    fn ip_address_any(&self, bytes: &[u8]) -> Result<(IpAddr, u32)> {
        let family = if self.kind == Kind::Inet { libc::AF_INET } else { libc::AF_INET6 } as u16;
        let address = sockaddr::parse(family, bytes)?;
        let scope = match address {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Ok((address.ip(), scope))
    }
}
