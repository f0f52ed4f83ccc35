//! ICMPv6 (`net/ipv6/icmp.c`, RFC 4443).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use smoltcp::wire::{IpProtocol, checksum};

use super::super::core::skbuff::{PacketType, SkBuff, eth_p};
use super::super::core::softirq::Out;
use super::super::dev::iff;
use super::super::ipv4::{IpOut, ipproto};
use super::super::stack::Stack;
use super::{HEADER_LEN, addresses, skip_exthdr};
use crate::errno::Errno;

/// Types of messages.
pub(crate) mod icmpv6_type {
    pub const DEST_UNREACH: u8 = 1;
    pub const PKT_TOOBIG: u8 = 2;
    pub const TIME_EXCEED: u8 = 3;
    pub const PARAMPROB: u8 = 4;
    pub const ECHO_REQUEST: u8 = 128;
    pub const ECHO_REPLY: u8 = 129;
    pub const ROUTER_SOLICITATION: u8 = 133;
    pub const REDIRECT: u8 = 137;
    /// Messages from here on are not errors.
    pub const INFOMSG_MASK: u8 = 128;
}

/// Codes of messages.
pub(crate) mod icmpv6_code {
    pub const NOROUTE: u8 = 0;
    pub const ADM_PROHIBITED: u8 = 1;
    pub const NOT_NEIGHBOUR: u8 = 2;
    pub const ADDR_UNREACH: u8 = 3;
    pub const PORT_UNREACH: u8 = 4;
    pub const EXC_HOPLIMIT: u8 = 0;
    pub const UNK_NEXTHDR: u8 = 1;
}

/// Bytes of a header.
const ICMP_HLEN: usize = 8;
/// The least MTU of IPv6, which an error does not exceed.
const MIN_MTU: usize = 1280;

/// Sets the checksum of a message.
pub(crate) fn fill_checksum(source: Ipv6Addr, destination: Ipv6Addr, message: &mut [u8]) {
    message[2..4].fill(0);
    let pseudo = checksum::pseudo_header_v6(&source, &destination, IpProtocol::Icmpv6, message.len() as u32);
    let sum = !checksum::combine(&[pseudo, checksum::data(message)]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

/// `icmpv6_err_convert`
fn err_convert(kind: u8, code: u8) -> (Errno, bool) {
    match (kind, code) {
        (icmpv6_type::DEST_UNREACH, 0) => (Errno::ENETUNREACH, false),
        (icmpv6_type::DEST_UNREACH, 1 | 5 | 6) => (Errno::EACCES, true),
        (icmpv6_type::DEST_UNREACH, icmpv6_code::PORT_UNREACH) => (Errno::ECONNREFUSED, true),
        (icmpv6_type::PKT_TOOBIG, _) => (Errno::EMSGSIZE, false),
        (icmpv6_type::PARAMPROB, _) => (Errno::EPROTO, true),
        _ => (Errno::EHOSTUNREACH, false),
    }
}

impl Stack {
    /// A message for us, whose checksum is right, at `at`: `icmpv6_rcv`.
    pub(super) fn icmpv6_rcv(&mut self, net: u64, at: usize, skb: SkBuff) {
        let Some((source, destination)) = addresses(skb.network()) else { return };
        let message = &skb.network()[at..];
        if message.len() < ICMP_HLEN {
            return;
        }
        match message[0] {
            icmpv6_type::ECHO_REQUEST => {
                let mut reply = message.to_vec();
                reply[0] = icmpv6_type::ECHO_REPLY;
                let own = !destination.is_multicast();
                self.icmpv6_to(net, &skb, own.then_some(destination), source, reply);
            }
            icmpv6_type::ECHO_REPLY => self.ping_rcv(net, IpAddr::V6(source), &skb),
            icmpv6_type::ROUTER_SOLICITATION..=icmpv6_type::REDIRECT => self.ndisc_rcv(net, at, skb),
            kind if kind < icmpv6_type::INFOMSG_MASK => {
                let message = message.to_vec();
                self.icmpv6_error(net, source, &message);
            }
            _ => {}
        }
    }

    /// Sends a message from `source`, or from whatever address the way has, back where `about` came from.
    fn icmpv6_to(
        &mut self,
        net: u64,
        about: &SkBuff,
        source: Option<Ipv6Addr>,
        to: Ipv6Addr,
        mut message: Vec<u8>,
    ) {
        let mut out = IpOut::to(IpAddr::V6(to), ipproto::ICMPV6);
        out.source = source.map(IpAddr::V6);
        if super::super::core::is_link_scope(to) {
            out.oif = Some(about.dev);
        }
        let flow = super::super::fib::Flow {
            saddr: out.source,
            oif: out.oif,
            ..super::super::fib::Flow::to(out.destination)
        };
        let Ok(dst) = self.route_output(net, &flow) else { return };
        let IpAddr::V6(source) = out.source.unwrap_or(dst.prefsrc) else { return };
        fill_checksum(source, to, &mut message);
        // There is nobody to tell.
        let _ = self.ip6_send(net, &dst, &out, source, to, &message);
    }

    /// Somebody tells us of a packet of ours: `icmpv6_notify`.
    fn icmpv6_error(&mut self, net: u64, offender: Ipv6Addr, message: &[u8]) {
        let (kind, code) = (message[0], message[1]);
        let about = &message[ICMP_HLEN..];
        if about.len() < HEADER_LEN || about[0] >> 4 != 6 {
            return;
        }
        let (Some((source, destination)), Some((protocol, at, _))) = (addresses(about), skip_exthdr(about))
        else {
            return;
        };
        let own = self.is_local(net, IpAddr::V6(source))
            || self.devices_of(net).any(|dev| dev.has_address(IpAddr::V6(source)));
        if !own {
            return;
        }
        let (errno, fatal) = err_convert(kind, code);
        let info = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
        match (protocol, about.get(at..at + 4)) {
            (ipproto::TCP | ipproto::UDP, Some(ports)) => {
                let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
                self.hand_out(Out::TransportError {
                    net,
                    protocol,
                    source: SocketAddr::new(source.into(), port(0)),
                    destination: SocketAddr::new(destination.into(), port(2)),
                    errno,
                    fatal,
                    offender: offender.into(),
                    kind: (kind, code, info),
                });
            }
            _ => self.raw_error(net, protocol, source.into(), destination.into(), errno, fatal),
        }
    }

    /// Tells the sender of `skb` why it gets no further: `icmp6_send`. `info` is an MTU or where the fault is.
    pub(crate) fn icmpv6_send(&mut self, skb: &SkBuff, kind: u8, code: u8, info: u32) {
        if skb.protocol != eth_p::IPV6 || skb.pkt_type == PacketType::OtherHost {
            return;
        }
        let (Some((source, destination)), Some((protocol, at, _))) =
            (addresses(skb.network()), skip_exthdr(skb.network()))
        else {
            return;
        };
        let first = skb.network().get(at).copied();
        let is_error =
            protocol == ipproto::ICMPV6 && first.is_none_or(|kind| kind < icmpv6_type::INFOMSG_MASK);
        let for_many = destination.is_multicast() && kind != icmpv6_type::PKT_TOOBIG;
        if is_error || for_many || source.is_multicast() || source.is_unspecified() {
            return;
        }
        let Some(dev) = self.dev(skb.dev) else { return };
        let (net, loopback, now) = (dev.net, dev.flags & iff::LOOPBACK != 0, self.now());
        let unlimited = loopback || kind == icmpv6_type::PKT_TOOBIG;
        if !unlimited && !self.icmp_limits.allow(net, IpAddr::V6(source), now) {
            return;
        }
        let mut message = vec![kind, code, 0, 0];
        message.extend(info.to_be_bytes());
        let room = MIN_MTU - HEADER_LEN - ICMP_HLEN;
        message.extend_from_slice(&skb.network()[..skb.network().len().min(room)]);
        let own = self.is_local(net, IpAddr::V6(destination));
        self.icmpv6_to(net, skb, own.then_some(destination), source, message);
    }

    /// There is no socket for a datagram.
    pub(crate) fn icmpv6_port_unreachable(&mut self, skb: &SkBuff) {
        self.icmpv6_send(skb, icmpv6_type::DEST_UNREACH, icmpv6_code::PORT_UNREACH, 0);
    }
}
