//! Options of packet, raw and ping sockets (`socket(7)`, `ip(7)`, `ipv6(7)`, `packet(7)`), and the ancillary data that they ask for.

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::core::softirq::Message;
use std::net::IpAddr;

use nomina_kernel::net::packet_ring::Version;

use super::super::request::{Ctx, Reply};
use super::socket::{EndState, Kind, SocketEnd};

const SOL_SOCKET: i32 = libc::SOL_SOCKET;
const SOL_IP: i32 = libc::IPPROTO_IP;
const SOL_IPV6: i32 = libc::IPPROTO_IPV6;
const SOL_RAW: i32 = 255;
const SOL_ICMPV6: i32 = libc::IPPROTO_ICMPV6;
const SOL_PACKET: i32 = 263;
const ICMP_FILTER: i32 = 1;
const SO_ATTACH_FILTER: i32 = 26;
const SO_DETACH_FILTER: i32 = 27;
const SO_TIMESTAMP: i32 = 29;
const SO_TIMESTAMPNS: i32 = 35;
const SO_LOCK_FILTER: i32 = 44;
const SO_BPF_EXTENSIONS: i32 = 48;
/// What filters may load beside the packet: `SKF_AD_VLAN_TPID` and all below.
const SKF_AD_MAX: i32 = 64;
const IPV6_CHECKSUM: i32 = 7;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_DROP_MEMBERSHIP: i32 = 2;
const PACKET_STATISTICS: i32 = 6;
const PACKET_RX_RING: i32 = 5;
const PACKET_AUXDATA: i32 = 8;
const PACKET_VERSION: i32 = 10;
const PACKET_HDRLEN: i32 = 11;
const PACKET_RESERVE: i32 = 12;
const PACKET_IGNORE_OUTGOING: i32 = 23;
/// Options of packet sockets that are kept: `PACKET_ORIGDEV`, `PACKET_LOSS`, `PACKET_TIMESTAMP` (there are no clocks of devices),
/// `PACKET_QDISC_BYPASS`.
const PACKET_KEPT: [i32; 4] = [9, 14, 17, 20];
/// Options of `SOL_SOCKET` that are kept as they are set.
const SOCKET_KEPT: [i32; 12] = [1, 2, 5, 6, 9, 12, 15, 29, 32, 33, 35, 36];
/// Longest value that is kept, in bytes.
const MAX_VALUE: usize = 256;

fn int(value: &[u8]) -> Result<i32> {
    match value.first_chunk::<4>() {
        Some(bytes) => Ok(i32::from_ne_bytes(*bytes)),
        // IPv4 takes a byte as well.
        None if !value.is_empty() => Ok(value[0].into()),
        None => Err(Errno::EINVAL),
    }
}

/// `setsockopt(2)`
///
/// # Errors
/// `ENOPROTOOPT`: there is no such option, or it is not served. `EINVAL`, `ENODEV`, and those of packet memberships.
pub fn set(ctx: &mut Ctx<'_>, end: &SocketEnd) -> Result<Reply> {
    let (level, option, value) = (ctx.int(1), ctx.int(2), ctx.bytes_opt(3)?.unwrap_or_default());
    if value.len() > MAX_VALUE && option != SO_ATTACH_FILTER {
        return Err(Errno::EINVAL);
    }
    if (end.kind, level, option) == (Kind::Packet, SOL_PACKET, PACKET_RX_RING) {
        return super::ring::set(ctx, end, &value);
    }
    let mut stack = ctx.server.net.stack().ok_or(Errno::EBADF)?.lock();
    let net = match end.kind {
        Kind::Packet => stack.packet_sockets.get(&end.ino).map(|own| own.net),
        _ => stack.raw_sockets.get(&end.ino).map(|own| own.net),
    };
    let net = net.ok_or(Errno::EBADF)?;
    match (end.kind, level, option) {
        (Kind::Packet, SOL_SOCKET, SO_ATTACH_FILTER | SO_DETACH_FILTER) => {
            let own = stack.packet_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?;
            own.filter = match option {
                SO_ATTACH_FILTER => Some(super::parse_filter(&value)?),
                _ => None,
            };
            return Ok(().into());
        }
        // Of raw sockets only what is not wanted is dropped by it; the program looks at all it gets anyway.
        (_, SOL_SOCKET, SO_ATTACH_FILTER | SO_DETACH_FILTER | SO_LOCK_FILTER) => return Ok(().into()),
        (Kind::Packet, SOL_PACKET, PACKET_ADD_MEMBERSHIP | PACKET_DROP_MEMBERSHIP) => {
            let word = value.get(..8).ok_or(Errno::EINVAL)?;
            let ifindex = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
            let kind = u16::from_ne_bytes([word[4], word[5]]);
            stack.packet_membership(end.ino, ifindex, kind, option == PACKET_ADD_MEMBERSHIP)?;
            return Ok(().into());
        }
        (Kind::Packet, SOL_PACKET, PACKET_IGNORE_OUTGOING) => {
            let on = int(&value)? != 0;
            stack.packet_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?.ignore_outgoing = on;
        }
        (Kind::Packet, SOL_PACKET, PACKET_VERSION | PACKET_RESERVE) => {
            let own = stack.packet_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?;
            let number = i32::from_ne_bytes(*value.first_chunk::<4>().ok_or(Errno::EINVAL)?);
            if option == PACKET_VERSION {
                let version = Version::new(number)?;
                own.version = if own.ring.is_none() { version } else { return Err(Errno::EBUSY) };
            } else {
                let reserve = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
                own.reserve = if own.ring.is_none() { reserve } else { return Err(Errno::EBUSY) };
            }
        }
        (Kind::Packet, SOL_PACKET, PACKET_AUXDATA) => {}
        (Kind::Packet, SOL_PACKET, option) if PACKET_KEPT.contains(&option) => {}
        (Kind::Packet, SOL_PACKET, _) => return Err(Errno::ENOPROTOOPT),
        (Kind::Inet | Kind::Inet6, SOL_SOCKET, libc::SO_BINDTODEVICE) => {
            let name = value.split(|&byte| byte == 0).next().unwrap_or_default();
            let name = String::from_utf8_lossy(name).into_owned();
            let dev = match name.is_empty() {
                true => None,
                false => Some(stack.dev_get_by_name(net, &name).ok_or(Errno::ENODEV)?.id),
            };
            stack.raw_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?.oif = dev;
            return Ok(().into());
        }
        (Kind::Inet | Kind::Inet6, _, _) => {
            let own = stack.raw_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?;
            let bounded = |value: i32| u8::try_from(value).map_err(|_| Errno::EINVAL);
            match (level, option) {
                (SOL_SOCKET, libc::SO_BROADCAST) => own.broadcast = int(&value)? != 0,
                (SOL_IP, libc::IP_TTL) => {
                    let ttl = int(&value)?;
                    own.ttl = if ttl == -1 { None } else { Some(bounded(ttl)?).filter(|ttl| *ttl > 0) };
                    if ttl == 0 {
                        return Err(Errno::EINVAL);
                    }
                }
                (SOL_IPV6, libc::IPV6_UNICAST_HOPS) => {
                    let hops = int(&value)?;
                    own.ttl = if hops == -1 { None } else { Some(bounded(hops)?) };
                }
                (SOL_IP, libc::IP_MULTICAST_TTL) | (SOL_IPV6, libc::IPV6_MULTICAST_HOPS) => {
                    let ttl = int(&value)?;
                    own.multicast_ttl = if ttl == -1 { 1 } else { bounded(ttl)? };
                }
                (SOL_IP, libc::IP_MULTICAST_LOOP) | (SOL_IPV6, libc::IPV6_MULTICAST_LOOP) => {
                    own.multicast_loop = int(&value)? != 0;
                }
                (SOL_IP, libc::IP_TOS) => own.tos = int(&value)? as u8,
                (SOL_IPV6, libc::IPV6_TCLASS) => own.tos = int(&value)?.max(0) as u8,
                (SOL_IP, libc::IP_MTU_DISCOVER) | (SOL_IPV6, libc::IPV6_MTU_DISCOVER) => {
                    const DO: i32 = 2;
                    const PROBE: i32 = 3;
                    own.dont_fragment = matches!(int(&value)?, DO | PROBE);
                }
                (SOL_IP, libc::IP_HDRINCL) => own.header_included = int(&value)? != 0,
                (SOL_RAW, ICMP_FILTER) if end.kind == Kind::Inet => own.icmp_filter[0] = int(&value)? as u32,
                (SOL_ICMPV6, ICMP_FILTER) if end.kind == Kind::Inet6 => {
                    for (word, bytes) in own.icmp_filter.iter_mut().zip(value.chunks_exact(4)) {
                        *word = u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
                    }
                }
                (SOL_IPV6 | SOL_RAW, IPV6_CHECKSUM) if end.kind == Kind::Inet6 => {
                    let at = int(&value)?;
                    if at > 0 && at % 2 != 0 {
                        return Err(Errno::EINVAL);
                    }
                    own.checksum_at = u16::try_from(at).ok();
                }
                (SOL_IP | SOL_IPV6, _) => {}
                (SOL_SOCKET, option) if SOCKET_KEPT.contains(&option) => {}
                _ => return Err(Errno::ENOPROTOOPT),
            }
        }
        (Kind::Packet, SOL_SOCKET, option) if SOCKET_KEPT.contains(&option) => {}
        _ => return Err(Errno::ENOPROTOOPT),
    }
    drop(stack);
    end.state.lock().unwrap().options.insert((level, option), value);
    Ok(().into())
}

/// `getsockopt(2)`
///
/// # Errors
/// `ENOPROTOOPT`
pub fn get(ctx: &mut Ctx<'_>, end: &SocketEnd) -> Result<Reply> {
    let (level, option, room) = (ctx.int(1), ctx.int(2), ctx.args[4] as usize);
    let number = |value: i32| value.to_ne_bytes().to_vec();
    let family = match end.kind {
        Kind::Packet => libc::AF_PACKET,
        Kind::Inet => libc::AF_INET,
        Kind::Inet6 => libc::AF_INET6,
    };
    let mut answer = match (level, option) {
        (SOL_SOCKET, libc::SO_TYPE) => number(end.made.0),
        (SOL_SOCKET, libc::SO_DOMAIN) => number(family),
        (SOL_SOCKET, libc::SO_PROTOCOL) => number(end.made.1),
        (SOL_SOCKET, libc::SO_ERROR) => {
            number(end.state.lock().unwrap().error.take().map_or(0, |errno| errno.0))
        }
        (SOL_PACKET, PACKET_STATISTICS) if end.kind == Kind::Packet => {
            let mut stack = ctx.server.net.stack().ok_or(Errno::EBADF)?.lock();
            let own = stack.packet_sockets.get_mut(&end.ino).ok_or(Errno::EBADF)?;
            let (packets, drops) = std::mem::take(&mut own.stats);
            let mut answer = [packets.to_ne_bytes(), drops.to_ne_bytes()].concat();
            if own.version == Version::V3 {
                let frozen = own.ring.as_mut().map_or(0, |ring| std::mem::take(&mut ring.frozen));
                answer.extend(frozen.to_ne_bytes());
            }
            answer
        }
        (SOL_PACKET, PACKET_HDRLEN) if end.kind == Kind::Packet => {
            if room < 4 {
                return Err(Errno::EINVAL);
            }
            number(Version::new(ctx.int(5))?.own_header() as i32)
        }
        (SOL_PACKET, PACKET_VERSION | PACKET_RESERVE) if end.kind == Kind::Packet => {
            let stack = ctx.server.net.stack().ok_or(Errno::EBADF)?.lock();
            let own = stack.packet_sockets.get(&end.ino).ok_or(Errno::EBADF)?;
            number(if option == PACKET_VERSION { own.version as i32 } else { own.reserve as i32 })
        }
        (SOL_SOCKET, SO_BPF_EXTENSIONS) => number(SKF_AD_MAX),
        _ => {
            let kept = end.state.lock().unwrap().options.get(&(level, option)).cloned();
            let known = matches!(level, SOL_SOCKET | SOL_IP | SOL_IPV6);
            match kept {
                Some(value) => value,
                None if level == SOL_IP && option == libc::IP_TTL => number(64),
                None if known && end.kind != Kind::Packet => number(0),
                None => return Err(Errno::ENOPROTOOPT),
            }
        }
    };
    answer.truncate(room);
    ctx.out[0] = answer.len() as u64;
    ctx.write(3, &answer)?;
    Ok(().into())
}

/// One entry of ancillary data (`cmsg(3)`).
fn push(out: &mut Vec<u8>, level: i32, kind: i32, payload: &[u8]) {
    const HEADER: usize = 16;
    out.extend(((HEADER + payload.len()) as u64).to_ne_bytes());
    out.extend(level.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(payload);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// The ancillary data that goes with a message: `ip_cmsg_recv`, `packet_recvmsg`.
pub(super) fn control(kind: Kind, state: &EndState, message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let about = &message.ancillary;
    if state.is_set(SOL_SOCKET, SO_TIMESTAMPNS) || state.is_set(SOL_SOCKET, SO_TIMESTAMP) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let nanos = state.is_set(SOL_SOCKET, SO_TIMESTAMPNS);
        let part = if nanos { now.tv_nsec } else { now.tv_nsec / 1000 };
        let payload = [now.tv_sec.to_ne_bytes(), part.to_ne_bytes()].concat();
        push(&mut out, SOL_SOCKET, if nanos { SO_TIMESTAMPNS } else { SO_TIMESTAMP }, &payload);
    }
    let ifindex = (about.ifindex as i32).to_ne_bytes();
    match kind {
        Kind::Packet => {
            if state.is_set(SOL_PACKET, PACKET_AUXDATA) {
                const TP_STATUS_USER: u32 = 1;
                let mut payload = TP_STATUS_USER.to_ne_bytes().to_vec();
                payload.extend((message.original_len as u32).to_ne_bytes());
                payload.extend((message.data.len() as u32).to_ne_bytes());
                payload.extend([0; 2]);
                payload.extend(about.mac_len.to_ne_bytes());
                payload.extend([0; 4]);
                push(&mut out, SOL_PACKET, PACKET_AUXDATA, &payload);
            }
        }
        Kind::Inet => {
            if let Some(IpAddr::V4(to)) = about.destination
                && state.is_set(SOL_IP, libc::IP_PKTINFO)
            {
                let payload = [ifindex, to.octets(), to.octets()].concat();
                push(&mut out, SOL_IP, libc::IP_PKTINFO, &payload);
            }
            if state.is_set(SOL_IP, libc::IP_RECVTTL) {
                push(&mut out, SOL_IP, libc::IP_TTL, &i32::from(about.ttl).to_ne_bytes());
            }
            if state.is_set(SOL_IP, libc::IP_RECVTOS) {
                push(&mut out, SOL_IP, libc::IP_TOS, &[about.tos]);
            }
        }
        Kind::Inet6 => {
            if let Some(IpAddr::V6(to)) = about.destination
                && state.is_set(SOL_IPV6, libc::IPV6_RECVPKTINFO)
            {
                let payload = [&to.octets()[..], &ifindex].concat();
                push(&mut out, SOL_IPV6, libc::IPV6_PKTINFO, &payload);
            }
            if state.is_set(SOL_IPV6, libc::IPV6_RECVHOPLIMIT) {
                push(&mut out, SOL_IPV6, libc::IPV6_HOPLIMIT, &i32::from(about.ttl).to_ne_bytes());
            }
            if state.is_set(SOL_IPV6, libc::IPV6_RECVTCLASS) {
                push(&mut out, SOL_IPV6, libc::IPV6_TCLASS, &i32::from(about.tos).to_ne_bytes());
            }
        }
    }
    out
}
