//! `NETLINK_SOCK_DIAG` (`sock_diag(7)`, `net/core/sock_diag.c`): which sockets a namespace has, as `ss` asks.
//!
//! Served are sockets of TCP, UDP and raw ones of both versions of IP (`net/ipv4/inet_diag.c`), packet sockets (`net/packet/diag.c`)
//! and netlink sockets (`net/netlink/diag.c`). For other families there is no handler, `ENOENT`, and `ss` reads `/proc/net`. Where
//! ours differs from Linux: bytes that wait in a connection are the host's to know and are told as 0, as is how many connections wait
//! at a listener; ends of connections that only the host has seen closing are `ESTABLISHED`; destroying sockets (`SOCK_DESTROY`)
//! is `EOPNOTSUPP`, as on a kernel that is built without it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::inet::options::name;
use nomina_kernel::net::inet::{AF_INET, AF_INET6};
use nomina_kernel::net::nlattr::{Attrs, Message, NlResult, nlm_f};
use nomina_kernel::net::raw::{RawKind, unspecified};
use nomina_kernel::net::rtnetlink::Header;

use super::super::Server;
use super::super::inet::proc::Entry;
use super::super::inet::{TcpState, options};
use super::NetlinkSocket;
use super::bytecode::Code;
use super::sender::Process;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const AF_MAX: u8 = 46;
/// `TCP_CLOSE`
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// Default sizes of the buffers for receiving and sending, in bytes (`net.core.rmem_default`, `wmem_default`); of TCP the second values
/// of `tcp_rmem` and `tcp_wmem`.
const BUFFERS: (u32, u32) = (212_992, 212_992);

/// What is asked for with a message.
struct Asked<'a> {
    server: &'a Arc<Server>,
    process: &'a Process<'a>,
    /// The socket's namespace.
    net: u64,
    /// The socket's port.
    port: u32,
    header: Header,
    /// Whether who asks has `CAP_NET_ADMIN` over the namespace.
    admin: bool,
}

impl Asked<'_> {
    fn is_dump(&self) -> bool {
        self.header.flags & nlm_f::DUMP == nlm_f::DUMP
    }

    fn reply(&self, fixed: &[u8]) -> Message {
        let flags = if self.is_dump() { nlm_f::MULTI } else { 0 };
        Message::new(SOCK_DIAG_BY_FAMILY, flags, self.header.seq, self.port, fixed)
    }

    /// A user as who asks sees it.
    fn uid(&self, kuid: u32) -> u32 {
        self.process.sees_uid(kuid)
    }
}

/// Serves a message of `process`: `sock_diag_rcv_msg`. What comes of it, the answers, and whether they are a dump.
pub fn answer(
    server: &Arc<Server>,
    socket: &NetlinkSocket,
    process: &Process<'_>,
    header: Header,
    payload: &[u8],
) -> (NlResult<()>, Vec<Vec<u8>>, bool) {
    let port = socket.port.load(Ordering::Relaxed);
    let (net, admin) = (socket.net.common().inum(), process.net_admin_over(&socket.net));
    let asked = Asked { server, process, net, port, header, admin };
    let mut replies = Vec::new();
    let result = receive(&asked, payload, &mut replies);
    let dump = asked.is_dump() && header.kind == SOCK_DIAG_BY_FAMILY && !is_refused(&result);
    (result, replies, dump)
}

/// Whether a dump is not begun at all.
fn is_refused(result: &NlResult<()>) -> bool {
    result.as_ref().is_err_and(|error| matches!(error.errno, Errno::ENOENT | Errno::EINVAL))
}

fn receive(asked: &Asked<'_>, payload: &[u8], replies: &mut Vec<Vec<u8>>) -> NlResult<()> {
    match asked.header.kind {
        SOCK_DIAG_BY_FAMILY => {}
        SOCK_DESTROY => return Err(Errno::EOPNOTSUPP.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    let [family, protocol] = *payload.first_chunk().ok_or(Errno::EINVAL)?;
    match i32::from(family) {
        _ if family >= AF_MAX => Err(Errno::EINVAL.into()),
        libc::AF_INET | libc::AF_INET6 => inet(asked, payload, replies),
        libc::AF_PACKET if asked.is_dump() => packet(asked, payload, replies),
        libc::AF_NETLINK if asked.is_dump() => netlink(asked, payload, protocol, replies),
        libc::AF_PACKET | libc::AF_NETLINK => Err(Errno::EOPNOTSUPP.into()),
        _ => Err(Errno::ENOENT.into()),
    }
}

/// Bytes of a `struct inet_diag_req_v2` and of the `struct inet_diag_sockid` in it.
const INET_REQUEST: usize = 56;
const SOCKID_AT: usize = 8;

/// An `INET_DIAG_*` extension, as a bit of `idiag_ext`.
mod extension {
    pub const MEMINFO: u16 = 1;
    pub const INFO: u16 = 2;
    pub const CONG: u16 = 4;
    pub const TOS: u16 = 5;
    pub const TCLASS: u16 = 6;
    pub const SKMEMINFO: u16 = 7;
    pub const SHUTDOWN: u16 = 8;
    pub const SKV6ONLY: u16 = 11;
}

/// A socket as it is told of.
pub struct Told {
    /// What `/proc/net` tells, too.
    pub entry: Entry,
    /// Index of the device it is bound to.
    pub ifindex: u32,
    v6only: bool,
    tos: u8,
    congestion: Option<&'static str>,
    info: Option<Vec<u8>>,
    buffers: (u32, u32),
}

/// `inet_diag_handler_cmd`
fn inet(asked: &Asked<'_>, payload: &[u8], replies: &mut Vec<Vec<u8>>) -> NlResult<()> {
    let request: &[u8; INET_REQUEST] = payload.first_chunk().ok_or(Errno::EINVAL)?;
    let (family, protocol, extensions) = (u16::from(request[0]), i32::from(request[1]), request[2]);
    let states = u32::from_ne_bytes([request[4], request[5], request[6], request[7]]);
    let sockid = &request[SOCKID_AT..];
    let port = |at: usize| u16::from_be_bytes([sockid[at], sockid[at + 1]]);
    let all = match protocol {
        libc::IPPROTO_TCP | libc::IPPROTO_UDP => sockets(asked, protocol),
        libc::IPPROTO_RAW => raw_sockets(asked),
        _ => return Err(Errno::ENOENT.into()),
    };
    let of_family = all.into_iter().filter(|told| told.entry.family == family);
    let answer = |told: &Told| fill(asked, told, extensions).finish();
    if !asked.is_dump() {
        let found = of_family.into_iter().find(|told| {
            let name = id(told);
            // Ports and addresses; a listener is found without those of the other end.
            name[..36] == sockid[..36] || told.entry.state == LISTEN && name[..2] == sockid[..2]
        });
        let found = found.ok_or(Errno::ENOENT)?;
        let cookie = &sockid[40..48];
        if cookie != [0xff; 8] && cookie != found.entry.id.to_ne_bytes() {
            return Err(Errno::ESTALE.into());
        }
        replies.push(answer(&found));
        return Ok(());
    }
    const INET_DIAG_REQ_BYTECODE: u16 = 1;
    let code = match Attrs::new(&payload[INET_REQUEST..]).get(INET_DIAG_REQ_BYTECODE) {
        Some(bytes) => Some(Code::new(bytes)?),
        None => None,
    };
    for told in of_family {
        let wanted = states & 1 << told.entry.state != 0
            && (port(0) == 0 || port(0) == told.entry.local.port())
            && (port(2) == 0 || port(2) == told.entry.peer.port())
            && code.as_ref().is_none_or(|code| code.wants(&told));
        if wanted {
            replies.push(answer(&told));
        }
    }
    Ok(())
}

/// The sockets of TCP or UDP of a namespace.
fn sockets(asked: &Asked<'_>, protocol: i32) -> Vec<Told> {
    let inet = &asked.server.inet;
    let entries = inet.entries(asked.net, protocol);
    let told = |entry: Entry| {
        let socket = inet.names().by_id(entry.id);
        let mut told = Told {
            entry,
            ifindex: 0,
            v6only: false,
            tos: 0,
            congestion: None,
            info: None,
            buffers: if protocol == libc::IPPROTO_TCP { (131_072, 16_384) } else { BUFFERS },
        };
        let Some(socket) = socket else { return told };
        let state = socket.state.lock().unwrap();
        told.ifindex = state.ifindex;
        // An own address of IPv6 leaves no room for others (`__inet6_bind`).
        let own_v6 = matches!(state.local.ip(), IpAddr::V6(ip) if !ip.is_unspecified());
        told.v6only = own_v6 || state.options.is_set(name::IPV6_V6ONLY);
        told.tos = state.options.value(name::IP_TOS) as u8;
        if state.tcp == TcpState::Pending {
            const SYN_SENT: u8 = 2;
            told.entry.state = SYN_SENT;
        }
        if protocol == libc::IPPROTO_TCP {
            told.congestion = Some(state.congestion.unwrap_or("cubic"));
            told.info = Some(options::tcp_info(&state));
        }
        told
    };
    entries.into_iter().map(told).collect()
}

/// The raw sockets of a namespace; their protocol stands for a port.
fn raw_sockets(asked: &Asked<'_>) -> Vec<Told> {
    let Some(stack) = asked.server.net.stack() else { return Vec::new() };
    let stack = stack.lock();
    let own = stack.raw_sockets.iter().filter(|(_, raw)| raw.net == asked.net && raw.kind == RawKind::Raw);
    let told = |(&ino, raw): (&u64, &nomina_kernel::net::raw::RawSocket)| {
        let family = if raw.is_v6 { AF_INET6 } else { AF_INET };
        let name = |address: Option<IpAddr>| address.unwrap_or(unspecified(raw.is_v6));
        Told {
            entry: Entry {
                protocol: libc::IPPROTO_RAW,
                family,
                local: SocketAddr::new(name(raw.bound), raw.protocol.into()),
                peer: SocketAddr::new(name(raw.peer), 0),
                state: if raw.peer.is_some() { 1 } else { CLOSE },
                backlog: 0,
                uid: asked.server.net.socket(ino).map_or(0, |end| end.uid),
                ino,
                id: ino,
            },
            ifindex: raw.oif.and_then(|id| stack.dev(id)).map_or(0, |dev| dev.ifindex),
            v6only: false,
            tos: raw.tos,
            congestion: None,
            info: None,
            buffers: BUFFERS,
        }
    };
    own.map(told).collect()
}

/// `struct inet_diag_sockid`: what a socket is known by.
fn id(told: &Told) -> [u8; 48] {
    let entry = &told.entry;
    let mut bytes = [0; 48];
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) if entry.family == AF_INET => [&v4.octets()[..], &[0; 12]].concat(),
        IpAddr::V4(v4) if v4.is_unspecified() => vec![0; 16],
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    bytes[..2].copy_from_slice(&entry.local.port().to_be_bytes());
    bytes[2..4].copy_from_slice(&entry.peer.port().to_be_bytes());
    bytes[4..20].copy_from_slice(&octets(entry.local.ip()));
    bytes[20..36].copy_from_slice(&octets(entry.peer.ip()));
    bytes[36..40].copy_from_slice(&told.ifindex.to_ne_bytes());
    bytes[40..].copy_from_slice(&entry.id.to_ne_bytes());
    bytes
}

/// `inet_sk_diag_fill`
fn fill(asked: &Asked<'_>, told: &Told, extensions: u8) -> Message {
    let entry = &told.entry;
    let mut fixed = vec![entry.family as u8, entry.state, 0, 0];
    fixed.extend(id(told));
    // Timers are the host's.
    let words = [0, 0, entry.backlog, asked.uid(entry.uid), entry.ino as u32];
    fixed.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    let mut message = asked.reply(&fixed);
    let wants = |which: u16| extensions & 1 << (which - 1) != 0;
    message.put_u8(extension::SHUTDOWN, 0);
    if wants(extension::TOS) {
        message.put_u8(extension::TOS, told.tos);
    }
    if entry.family == AF_INET6 {
        if wants(extension::TCLASS) {
            message.put_u8(extension::TCLASS, 0);
        }
        if matches!(entry.state, LISTEN | CLOSE) {
            message.put_u8(extension::SKV6ONLY, told.v6only.into());
        }
    }
    if wants(extension::MEMINFO) {
        message.put(extension::MEMINFO, &[0; 16]);
    }
    if wants(extension::SKMEMINFO) {
        message.put(extension::SKMEMINFO, &memory(told.buffers));
    }
    if wants(extension::INFO)
        && let Some(info) = &told.info
    {
        message.put(extension::INFO, info);
    }
    if wants(extension::CONG)
        && let Some(congestion) = told.congestion
    {
        message.put_string(extension::CONG, congestion);
    }
    message
}

/// `SK_MEMINFO_*`: what is used, which is not known here, and the sizes of the buffers for receiving and sending.
fn memory((receive, send): (u32, u32)) -> Vec<u8> {
    let words = [0, receive, 0, send, 0, 0, 0, 0, 0];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// `packet_diag_dump`
fn packet(asked: &Asked<'_>, payload: &[u8], replies: &mut Vec<Vec<u8>>) -> NlResult<()> {
    const REQUEST: usize = 20;
    const SHOW_INFO: u32 = 1;
    const SHOW_MCLIST: u32 = 2;
    const SHOW_RING: u32 = 4;
    const SHOW_MEMINFO: u32 = 16;
    const SHOW_FILTER: u32 = 32;
    let request: &[u8; REQUEST] = payload.first_chunk().ok_or(Errno::EINVAL)?;
    let protocol = request[1];
    if protocol != 0 {
        return Err(Errno::EINVAL.into());
    }
    let show = u32::from_ne_bytes([request[8], request[9], request[10], request[11]]);
    let admin = asked.admin;
    let Some(stack) = asked.server.net.stack() else { return Ok(()) };
    let stack = stack.lock();
    for (ino, socket) in stack.packet_sockets.iter().filter(|(_, socket)| socket.net == asked.net) {
        let kind = if socket.dgram { libc::SOCK_DGRAM } else { libc::SOCK_RAW } as u8;
        let mut fixed = vec![libc::AF_PACKET as u8, kind];
        fixed.extend(socket.protocol.to_ne_bytes());
        fixed.extend((*ino as u32).to_ne_bytes());
        fixed.extend(ino.to_ne_bytes());
        let mut message = asked.reply(&fixed);
        if show & SHOW_INFO != 0 {
            let words = [socket.ifindex, socket.version as u32, socket.reserve, 0, 0, 0];
            message.put(0, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>());
            let uid = asked.server.net.socket(*ino).map_or(0, |end| end.uid);
            message.put_u32(5, asked.uid(uid));
        }
        if show & SHOW_MCLIST != 0 {
            message.nest(1, |_| {});
        }
        if show & SHOW_RING != 0
            && let Some(ring) = &socket.ring
        {
            let request = ring.request();
            let words = [
                request.block_size,
                request.block_nr,
                request.frame_size,
                request.frame_nr,
                request.retire_ms,
                request.private,
                0,
            ];
            message.put(2, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>());
        }
        if show & SHOW_MEMINFO != 0 {
            message.put(6, &memory(BUFFERS));
        }
        if show & SHOW_FILTER != 0
            && admin
            && let Some(filter) = &socket.filter
        {
            let mut text = Vec::new();
            for op in filter.instructions() {
                text.extend(op.code.to_ne_bytes());
                text.extend([op.jt, op.jf]);
                text.extend(op.k.to_ne_bytes());
            }
            message.put(7, &text);
        }
        replies.push(message.finish());
    }
    Ok(())
}

/// `netlink_diag_dump`: the sockets of guests, and the kernel's own of the families that there are.
fn netlink(asked: &Asked<'_>, payload: &[u8], protocol: u8, replies: &mut Vec<Vec<u8>>) -> NlResult<()> {
    const REQUEST: usize = 20;
    const ALL: u8 = 255;
    const SHOW_MEMINFO: u32 = 1;
    const SHOW_GROUPS: u32 = 2;
    let request: &[u8; REQUEST] = payload.first_chunk().ok_or(Errno::EINVAL)?;
    let show = u32::from_ne_bytes([request[8], request[9], request[10], request[11]]);
    let mut rows: Vec<(u8, u32, u64, u64)> =
        [libc::NETLINK_ROUTE, libc::NETLINK_SOCK_DIAG, libc::NETLINK_KOBJECT_UEVENT, libc::NETLINK_GENERIC]
            .into_iter()
            .map(|family| (family as u8, 0, 0, 0))
            .collect();
    for socket in asked.server.netlink.sockets() {
        if socket.net.common().inum() == asked.net {
            let port = socket.port.load(Ordering::Relaxed);
            let groups = socket.groups.load(Ordering::Relaxed);
            // Linux tells of members of groups twice: it walks the table and the list of members.
            for _ in 0..1 + u32::from(groups != 0) {
                rows.push((socket.family.protocol() as u8, port, socket.ino, groups));
            }
        }
    }
    rows.sort_by_key(|&(family, port, ..)| (family, port));
    for (family, port, ino, groups) in rows {
        if protocol != ALL && protocol != family {
            continue;
        }
        const SOCK_RAW: u8 = 3;
        let mut fixed = vec![libc::AF_NETLINK as u8, SOCK_RAW, family, 0];
        fixed.extend([port, 0, 0, ino as u32].iter().flat_map(|word| word.to_ne_bytes()));
        fixed.extend(ino.to_ne_bytes());
        let mut message = asked.reply(&fixed);
        if show & SHOW_GROUPS != 0 && groups != 0 {
            message.put(1, &groups.to_ne_bytes());
        }
        if show & SHOW_MEMINFO != 0 {
            message.put(0, &memory(BUFFERS));
        }
        replies.push(message.finish());
    }
    Ok(())
}

/// What a filter compares.
impl Told {
    /// An address as a filter has it, and the port.
    pub fn end(&self, own: bool) -> (IpAddr, u16) {
        let end = if own { self.entry.local } else { self.entry.peer };
        (end.ip(), end.port())
    }
}

/// A word of a filter's.
///
/// # Errors
/// `EINVAL`: it ends before.
pub fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).ok_or(Errno::EINVAL)?;
    Ok(u32::from_ne_bytes(word))
}
