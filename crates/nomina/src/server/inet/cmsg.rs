//! Ancillary data of datagrams (`ip(7)`, `ipv6(7)`, `socket(7)`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetNamespace;
use nomina_kernel::net::inet::options::{SOL_IP, SOL_IPV6, SOL_SOCKET, SockOptions, name};
use nomina_kernel::net::inet::{AF_INET, AF_INET6, sockaddr};

const IP_TOS: i32 = 1;
const IP_TTL: i32 = 2;
const IP_PKTINFO: i32 = 8;
const IP_ORIGDSTADDR: i32 = 20;
const IPV6_PKTINFO: i32 = 50;
const IPV6_HOPLIMIT: i32 = 52;
const IPV6_TCLASS: i32 = 67;
const SO_TIMESTAMP: i32 = 29;
const SO_TIMESTAMPNS: i32 = 35;
/// `sizeof(struct cmsghdr)`
const HEADER: usize = 16;

/// What a packet gets besides its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sending {
    /// Own address (`IP_PKTINFO`).
    pub source: Option<IpAddr>,
    /// Device it shall go out of.
    pub ifindex: u32,
    /// Hop limit.
    pub ttl: u8,
    /// Traffic class.
    pub tos: u8,
}

/// What a message with this ancillary data gets: `ip_cmsg_send`, `ip6_datagram_send_ctl`.
///
/// # Errors
/// `EINVAL`: it is malformed or not understood. `ENODEV`: there is no such device.
pub fn parse(net: &NetNamespace, net_ns: u64, options: &SockOptions, control: &[u8]) -> Result<Sending> {
    let mut sending = Sending {
        ttl: options.value(name::IP_TTL) as u8,
        tos: options.value(name::IP_TOS) as u8,
        ..Sending::default()
    };
    let word = |payload: &[u8], at: usize| -> Result<u32> {
        let bytes = payload.get(at..at + 4).and_then(|bytes| bytes.first_chunk()).ok_or(Errno::EINVAL)?;
        Ok(u32::from_ne_bytes(*bytes))
    };
    let mut rest = control;
    while rest.len() >= HEADER {
        let len = usize::try_from(u64::from_ne_bytes(*rest.first_chunk().ok_or(Errno::EINVAL)?))
            .map_err(|_| Errno::EINVAL)?;
        let payload = rest.get(HEADER..len).ok_or(Errno::EINVAL)?;
        match (word(rest, 8)? as i32, word(rest, 12)? as i32) {
            (SOL_IP, IP_PKTINFO) if payload.len() >= 12 => {
                sending.ifindex = word(payload, 0)?;
                let source = Ipv4Addr::from(*payload[4..].first_chunk::<4>().ok_or(Errno::EINVAL)?);
                sending.source = (!source.is_unspecified()).then_some(source.into());
            }
            (SOL_IP, IP_TTL) => match word(payload, 0)? {
                ttl @ 1..=255 => sending.ttl = ttl as u8,
                _ => return Err(Errno::EINVAL),
            },
            (SOL_IP, IP_TOS) if !payload.is_empty() => sending.tos = payload[0],
            (SOL_IPV6, IPV6_PKTINFO) if payload.len() >= 20 => {
                let source = Ipv6Addr::from(*payload.first_chunk::<16>().ok_or(Errno::EINVAL)?);
                sending.ifindex = word(payload, 16)?;
                let source = source.to_ipv4_mapped().map_or(IpAddr::V6(source), IpAddr::V4);
                sending.source = (!source.is_unspecified()).then_some(source);
            }
            (SOL_IPV6, IPV6_HOPLIMIT) => sending.ttl = word(payload, 0)? as u8,
            (SOL_IPV6, IPV6_TCLASS) => sending.tos = word(payload, 0)? as u8,
            // Means something for unix sockets only, and is passed over.
            (SOL_SOCKET, libc::SCM_RIGHTS | libc::SCM_CREDENTIALS) => {}
            _ => return Err(Errno::EINVAL),
        }
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    let stack = net.stack().lock();
    if sending.ifindex != 0 && stack.dev_get_by_index(net_ns, sending.ifindex).is_none() {
        return Err(Errno::ENODEV);
    }
    if sending.source.is_some_and(|source| stack.inet_local_dev(net_ns, source).is_none()) {
        return Err(Errno::EINVAL);
    }
    Ok(sending)
}

fn push(out: &mut Vec<u8>, level: i32, kind: i32, payload: &[u8]) {
    out.extend(((HEADER + payload.len()) as u64).to_ne_bytes());
    out.extend(level.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(payload);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// What a receiver with these options is told of a message to `to` that came in by a device: `ip_cmsg_recv`,
/// `ip6_datagram_recv_ctl`.
pub fn format(
    family: u16,
    options: &SockOptions,
    to: SocketAddr,
    ifindex: u32,
    sending: &Sending,
) -> Vec<u8> {
    let mut out = Vec::new();
    if options.is_set(name::TIMESTAMPNS) || options.is_set(name::TIMESTAMP) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let nanoseconds = options.is_set(name::TIMESTAMPNS);
        let fraction = if nanoseconds { now.tv_nsec } else { now.tv_nsec / 1000 };
        let kind = if nanoseconds { SO_TIMESTAMPNS } else { SO_TIMESTAMP };
        push(&mut out, SOL_SOCKET, kind, &[now.tv_sec.to_ne_bytes(), fraction.to_ne_bytes()].concat());
    }
    let ttl = i32::from(sending.ttl).to_ne_bytes();
    if family == AF_INET6 && options.is_set(name::IPV6_RECVPKTINFO) {
        let ip = match to.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        push(&mut out, SOL_IPV6, IPV6_PKTINFO, &[&ip.octets()[..], &ifindex.to_ne_bytes()].concat());
    }
    if family == AF_INET6 && options.is_set(name::IPV6_RECVHOPLIMIT) {
        push(&mut out, SOL_IPV6, IPV6_HOPLIMIT, &ttl);
    }
    if family == AF_INET6 && options.is_set(name::IPV6_RECVTCLASS) {
        push(&mut out, SOL_IPV6, IPV6_TCLASS, &i32::from(sending.tos).to_ne_bytes());
    }
    let IpAddr::V4(v4) = to.ip() else { return out };
    if options.is_set(name::IP_PKTINFO) {
        let local = if v4.is_multicast() || v4.is_broadcast() { Ipv4Addr::UNSPECIFIED } else { v4 };
        push(
            &mut out,
            SOL_IP,
            IP_PKTINFO,
            &[&ifindex.to_ne_bytes()[..], &local.octets(), &v4.octets()].concat(),
        );
    }
    if options.is_set(name::IP_RECVTTL) {
        push(&mut out, SOL_IP, IP_TTL, &ttl);
    }
    if options.is_set(name::IP_RECVTOS) {
        push(&mut out, SOL_IP, IP_TOS, &[sending.tos]);
    }
    if options.is_set(name::IP_RECVORIGDSTADDR) {
        push(&mut out, SOL_IP, IP_ORIGDSTADDR, &sockaddr::format(AF_INET, to));
    }
    out
}

#[cfg(test)]
mod tests {
    use nomina_kernel::net::iff;
    use nomina_kernel::user_namespace::UserNamespace;

    use super::*;

    #[test]
    fn what_is_malformed_or_unknown_is_refused() {
        let net = NetNamespace::initial(1, UserNamespace::initial());
        net.set_flags("lo", iff::UP).unwrap();
        let options = SockOptions::new(AF_INET, false);
        let one = |level: i32, kind: i32, payload: &[u8]| {
            let mut out = Vec::new();
            push(&mut out, level, kind, payload);
            parse(&net, 1, &options, &out)
        };
        let info = |ifindex: u32, ip: [u8; 4]| [&ifindex.to_ne_bytes()[..], &ip, &[0; 4]].concat();
        assert_eq!(one(SOL_IP, IP_TTL, &9i32.to_ne_bytes()).unwrap().ttl, 9);
        assert_eq!(one(SOL_IP, IP_TTL, &0i32.to_ne_bytes()), Err(Errno::EINVAL));
        assert_eq!(one(SOL_IP, IP_TTL, &[]), Err(Errno::EINVAL));
        assert_eq!(one(SOL_IP, 99, &[0; 4]), Err(Errno::EINVAL));
        let local = one(SOL_IP, IP_PKTINFO, &info(1, [127, 0, 0, 1])).unwrap();
        assert_eq!(local.source, Some(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(one(SOL_IP, IP_PKTINFO, &info(9, [0; 4])), Err(Errno::ENODEV));
        assert_eq!(one(SOL_IP, IP_PKTINFO, &info(0, [1, 2, 3, 4])), Err(Errno::EINVAL));
        for len in [0u64, 15, 1000, u64::MAX] {
            let mut short = len.to_ne_bytes().to_vec();
            short.extend([0; 24]);
            assert_eq!(parse(&net, 1, &options, &short), Err(Errno::EINVAL));
        }
    }
}
