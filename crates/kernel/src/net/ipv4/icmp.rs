//! ICMP (`net/ipv4/icmp.c`, `icmp(7)`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smoltcp::wire::{Ipv4Packet, checksum};

use super::super::core::skbuff::{PacketType, SkBuff, eth_p};
use super::super::core::softirq::Out;
use super::super::dev::iff;
use super::super::stack::Stack;
use super::ip_output::{HEADER_LEN, IpOut};
use super::ipproto;
use crate::errno::Errno;

/// Types of messages.
pub mod icmp_type {
    /// Answer to a ping.
    pub const ECHOREPLY: u8 = 0;
    /// It does not get there.
    pub const DEST_UNREACH: u8 = 3;
    /// Use another gateway.
    pub const REDIRECT: u8 = 5;
    /// A ping.
    pub const ECHO: u8 = 8;
    /// Too many hops, or fragments are missing.
    pub const TIME_EXCEEDED: u8 = 11;
    /// The header makes no sense.
    pub const PARAMETERPROB: u8 = 12;
    /// The time is asked for.
    pub const TIMESTAMP: u8 = 13;
    /// The time.
    pub const TIMESTAMPREPLY: u8 = 14;
}

/// Codes of messages.
pub(crate) mod icmp_code {
    pub const NET_UNREACH: u8 = 0;
    pub const HOST_UNREACH: u8 = 1;
    pub const PROT_UNREACH: u8 = 2;
    pub const PORT_UNREACH: u8 = 3;
    pub const FRAG_NEEDED: u8 = 4;
    pub const PKT_FILTERED: u8 = 13;
    pub const EXC_TTL: u8 = 0;
    pub const EXC_FRAGTIME: u8 = 1;
}

/// Bytes of a header.
const ICMP_HLEN: usize = 8;
/// Most that an error says of the packet, header and all (RFC 1812).
const MAX_ERROR: usize = 576;
/// One error in so long a time to one host, in nanoseconds (`icmp_ratelimit`: 1 s), and as many at once (`XRLIM_BURST_FACTOR`).
const RATELIMIT: u64 = 1_000_000_000;
const BURST: u64 = 6;
/// Hosts whose errors are counted.
const MAX_PEERS: usize = 1024;

/// How many errors who may still be told of: `inet_peer_xrlim_allow`. By namespace and host: credit and when it was counted.
#[derive(Debug, Default)]
pub(crate) struct IcmpLimits(BTreeMap<(u64, IpAddr), (u64, u64)>);

impl IcmpLimits {
    /// Whether another error may be sent; it is counted.
    pub(crate) fn allow(&mut self, net: u64, to: IpAddr, now: u64) -> bool {
        if self.0.len() >= MAX_PEERS && !self.0.contains_key(&(net, to)) {
            self.0.retain(|_, (_, at)| *at + BURST * RATELIMIT > now);
            if self.0.len() >= MAX_PEERS {
                return false;
            }
        }
        let (credit, at) = self.0.entry((net, to)).or_insert((BURST * RATELIMIT, now));
        *credit = (*credit + now.saturating_sub(*at)).min(BURST * RATELIMIT);
        *at = now;
        let allowed = *credit >= RATELIMIT;
        if allowed {
            *credit -= RATELIMIT;
        }
        allowed
    }
}

/// Whether a type is that of an error.
pub(crate) fn is_error(kind: u8) -> bool {
    use icmp_type::{DEST_UNREACH, PARAMETERPROB, REDIRECT, TIME_EXCEEDED};
    matches!(kind, DEST_UNREACH | REDIRECT | TIME_EXCEEDED | PARAMETERPROB | 4)
}

/// What an error means for a socket, and whether a connection ends of it: `icmp_err_convert`.
fn err_convert(kind: u8, code: u8) -> (Errno, bool) {
    match (kind, code) {
        (icmp_type::DEST_UNREACH, 0 | 6 | 9 | 11) => (Errno::ENETUNREACH, matches!(code, 6 | 9)),
        (icmp_type::DEST_UNREACH, icmp_code::PROT_UNREACH) => (Errno::ENOPROTOOPT, true),
        (icmp_type::DEST_UNREACH, icmp_code::PORT_UNREACH) => (Errno::ECONNREFUSED, true),
        (icmp_type::DEST_UNREACH, icmp_code::FRAG_NEEDED) => (Errno::EMSGSIZE, false),
        (icmp_type::DEST_UNREACH, 5) => (Errno::EOPNOTSUPP, false),
        (icmp_type::DEST_UNREACH, 7) => (Errno::EHOSTDOWN, true),
        (icmp_type::DEST_UNREACH, _) => (Errno::EHOSTUNREACH, matches!(code, 10 | 13..)),
        (icmp_type::PARAMETERPROB, _) => (Errno::EPROTO, true),
        _ => (Errno::EHOSTUNREACH, false),
    }
}

/// Sets the checksum of a message.
pub(crate) fn fill_checksum(message: &mut [u8]) {
    message[2..4].fill(0);
    let sum = !checksum::data(message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

impl Stack {
    /// A message for us: `icmp_rcv`.
    pub(super) fn icmp_rcv(&mut self, net: u64, skb: SkBuff) {
        let Ok(packet) = Ipv4Packet::new_checked(skb.network()) else { return };
        let (source, destination, tos) = (packet.src_addr(), packet.dst_addr(), skb.network()[1]);
        let message = &skb.network()[usize::from(packet.header_len())..];
        if message.len() < ICMP_HLEN || checksum::data(message) != 0xffff {
            return;
        }
        let to_many = matches!(skb.pkt_type, PacketType::Broadcast | PacketType::Multicast)
            || destination.is_multicast()
            || destination.is_broadcast();
        match message[0] {
            // icmp_echo_ignore_broadcasts
            icmp_type::ECHO | icmp_type::TIMESTAMP if to_many => {}
            icmp_type::ECHO => {
                let mut reply = message.to_vec();
                reply[0] = icmp_type::ECHOREPLY;
                self.icmp_reply(net, source, destination, tos, &mut reply);
            }
            icmp_type::TIMESTAMP if message.len() >= ICMP_HLEN + 12 => {
                let mut reply = message[..ICMP_HLEN + 12].to_vec();
                reply[0] = icmp_type::TIMESTAMPREPLY;
                let of_day = ((self.now() / 1_000_000) % 86_400_000) as u32;
                reply[12..16].copy_from_slice(&of_day.to_be_bytes());
                reply[16..20].copy_from_slice(&of_day.to_be_bytes());
                self.icmp_reply(net, source, destination, tos, &mut reply);
            }
            icmp_type::ECHOREPLY => self.ping_rcv(net, IpAddr::V4(source), &skb),
            kind if is_error(kind) => {
                let message = message.to_vec();
                self.icmp_error(net, source, &message);
            }
            _ => {}
        }
    }

    /// `icmp_reply`: from the address that was asked, if it is one of ours.
    fn icmp_reply(&mut self, net: u64, to: Ipv4Addr, asked: Ipv4Addr, tos: u8, reply: &mut [u8]) {
        fill_checksum(reply);
        let mut out = IpOut::to(IpAddr::V4(to), ipproto::ICMP);
        out.tos = tos;
        out.source = self.is_local(net, IpAddr::V4(asked)).then_some(IpAddr::V4(asked));
        let _ = self.ip_send(net, &out, reply);
    }

    /// Somebody tells us of a packet of ours: `icmp_unreach`.
    fn icmp_error(&mut self, net: u64, offender: Ipv4Addr, message: &[u8]) {
        let (kind, code) = (message[0], message[1]);
        let about = &message[ICMP_HLEN..];
        if kind == icmp_type::REDIRECT || about.len() < HEADER_LEN + 8 || about[0] >> 4 != 4 {
            return;
        }
        let header_len = usize::from(about[0] & 0xf) * 4;
        let Some(transport) = about.get(header_len..header_len + 8) else { return };
        let address = |at: usize| Ipv4Addr::new(about[at], about[at + 1], about[at + 2], about[at + 3]);
        let (source, destination) = (address(12), address(16));
        if !self.is_local(net, IpAddr::V4(source)) {
            return;
        }
        let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
        let mtu = match (kind, code) {
            (icmp_type::DEST_UNREACH, icmp_code::FRAG_NEEDED) => {
                u32::from(u16::from_be_bytes([message[6], message[7]]))
            }
            _ => 0,
        };
        let (errno, fatal) = err_convert(kind, code);
        match about[9] {
            protocol @ (ipproto::TCP | ipproto::UDP) => self.hand_out(Out::TransportError {
                net,
                protocol,
                source: SocketAddr::new(source.into(), port(0)),
                destination: SocketAddr::new(destination.into(), port(2)),
                errno,
                fatal,
                offender: offender.into(),
                kind: (kind, code, mtu),
            }),
            protocol => self.raw_error(net, protocol, source.into(), destination.into(), errno, fatal),
        }
    }

    /// Tells the sender of `skb` why it gets no further: `icmp_send`. `info` is the MTU of "fragmentation needed".
    pub(crate) fn icmp_send(&mut self, skb: &SkBuff, kind: u8, code: u8, info: u32) {
        if skb.protocol != eth_p::IP || !matches!(skb.pkt_type, PacketType::Host | PacketType::Outgoing) {
            return;
        }
        let Ok(packet) = Ipv4Packet::new_checked(skb.network()) else { return };
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let header_len = usize::from(packet.header_len());
        let first = skb.network().get(header_len).copied();
        // Never about an error, a later fragment, or something that was for many (RFC 1122, 3.2.2).
        if packet.frag_offset() != 0
            || packet.next_header() == ipproto::ICMP.into()
                && first.is_none_or(|kind| is_error(kind) || kind > 18)
            || destination.is_multicast()
            || destination.is_broadcast()
            || source.is_unspecified()
            || source.is_multicast()
            || source.is_broadcast()
        {
            return;
        }
        let Some(dev) = self.dev(skb.dev) else { return };
        let (net, loopback, now) = (dev.net, dev.flags & iff::LOOPBACK != 0, self.now());
        let unlimited = loopback || code == icmp_code::FRAG_NEEDED && kind == icmp_type::DEST_UNREACH;
        if !unlimited && !self.icmp_limits.allow(net, IpAddr::V4(source), now) {
            return;
        }
        let room = MAX_ERROR - HEADER_LEN - ICMP_HLEN;
        let about = &skb.network()[..skb.network().len().min(room)];
        let mut message = vec![kind, code, 0, 0];
        message.extend(info.to_be_bytes());
        message.extend_from_slice(about);
        fill_checksum(&mut message);
        let tos = (skb.network()[1] & 0x1e) | 0xc0;
        let mut out = IpOut::to(IpAddr::V4(source), ipproto::ICMP);
        out.tos = tos;
        out.source = self.is_local(net, IpAddr::V4(destination)).then_some(IpAddr::V4(destination));
        let _ = self.ip_send(net, &out, &message);
    }

    /// There is no socket for a packet that was handed out as [`Out::Transport`]: "port unreachable".
    pub fn port_unreachable(&mut self, skb: &SkBuff) {
        match skb.protocol {
            eth_p::IP => self.icmp_send(skb, icmp_type::DEST_UNREACH, icmp_code::PORT_UNREACH, 0),
            _ => self.icmpv6_port_unreachable(skb),
        }
    }
}
