//! Receiving and forwarding IPv6 (`net/ipv6/ip6_input.c`, `ip6_forward` of `ip6_output.c`, `reassembly.c`).

use std::net::IpAddr;

use smoltcp::wire::IpProtocol;

use super::super::core::offload;
use super::super::core::skbuff::{PacketType, SkBuff, eth_p};
use super::super::core::softirq::Out;
use super::super::dev::iff;
use super::super::fib::{Flow, RouteType};
use super::super::ipv4::ipproto;
use super::super::ipv4::{FragKey, Piece};
use super::super::stack::Stack;
use super::icmpv6::{icmpv6_code, icmpv6_type};
use super::{HEADER_LEN, addresses, nexthdr, skip_exthdr};
use crate::errno::Errno;

impl Stack {
    /// A packet has come in: `ipv6_rcv`.
    pub(crate) fn ipv6_rcv(&mut self, mut skb: SkBuff) {
        if skb.pkt_type == PacketType::OtherHost {
            return;
        }
        let Some((source, destination)) = addresses(skb.network()) else { return };
        let header = skb.network();
        let len = HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if header[0] >> 4 != 6 || len > header.len() || source.is_multicast() {
            if let Some(dev) = self.dev_mut(skb.dev) {
                dev.stats.rx_errors += 1;
            }
            return;
        }
        skb.trim_network(len);
        let Some(dev) = self.dev(skb.dev) else { return };
        let (net, loopback) = (dev.net, dev.flags & iff::LOOPBACK != 0);
        if self.is_ipv6_disabled(skb.dev)
            || !loopback && (source.is_loopback() || destination.is_loopback())
            || destination.is_multicast() && destination.segments()[0] & 0xf == 0
        {
            return;
        }
        if destination.is_multicast() {
            return self.ip6_input(net, skb);
        }
        // An address of a link is ours on the device that has it only.
        if destination.is_unicast_link_local() && !loopback {
            if self.dev(skb.dev).is_some_and(|dev| dev.has_address(destination.into())) {
                self.ip6_input(net, skb);
            }
            return;
        }
        let flow =
            Flow { saddr: Some(IpAddr::V6(source)), iif: Some(skb.dev), ..Flow::to(destination.into()) };
        let forwarding = self.ipv6_forwarding(skb.dev);
        match self.fib_lookup(net, &flow).map(|found| found.route.kind) {
            Ok(RouteType::Local | RouteType::Anycast) => self.ip6_input(net, skb),
            _ if !forwarding || source.is_unspecified() => {}
            Ok(_) => self.ip6_forward(net, skb),
            Err(Errno::EINVAL) => {}
            Err(Errno::EACCES) => {
                self.icmpv6_send(&skb, icmpv6_type::DEST_UNREACH, icmpv6_code::ADM_PROHIBITED, 0)
            }
            Err(Errno::EHOSTUNREACH) => {
                self.icmpv6_send(&skb, icmpv6_type::DEST_UNREACH, icmpv6_code::ADDR_UNREACH, 0)
            }
            Err(_) => self.icmpv6_send(&skb, icmpv6_type::DEST_UNREACH, icmpv6_code::NOROUTE, 0),
        }
    }

    /// `ip6_forward`
    fn ip6_forward(&mut self, net: u64, mut skb: SkBuff) {
        if skb.pkt_type != PacketType::Host {
            return;
        }
        let Some((source, destination)) = addresses(skb.network()) else { return };
        if skb.network()[7] <= 1 {
            return self.icmpv6_send(&skb, icmpv6_type::TIME_EXCEED, icmpv6_code::EXC_HOPLIMIT, 0);
        }
        if source.is_unicast_link_local() {
            return self.icmpv6_send(&skb, icmpv6_type::DEST_UNREACH, icmpv6_code::NOT_NEIGHBOUR, 0);
        }
        let flow =
            Flow { saddr: Some(IpAddr::V6(source)), iif: Some(skb.dev), ..Flow::to(destination.into()) };
        let Ok(dst) = self.route_output(net, &flow) else {
            return self.icmpv6_send(&skb, icmpv6_type::DEST_UNREACH, icmpv6_code::NOROUTE, 0);
        };
        if skb.network().len() > dst.mtu as usize {
            return self.icmpv6_send(&skb, icmpv6_type::PKT_TOOBIG, 0, dst.mtu);
        }
        skb.pull_mac();
        skb.data_mut()[7] -= 1;
        skb.dev = dst.dev;
        self.ip6_finish_output(&dst, skb);
    }

    /// A packet is for us: `ip6_input`.
    pub(crate) fn ip6_input(&mut self, net: u64, skb: SkBuff) {
        let Some((protocol, at, fragment)) = skip_exthdr(skb.network()) else { return };
        let skb = match fragment {
            Some(fragment) => match self.ipv6_frag_rcv(net, skb, fragment) {
                Some(whole) => whole,
                None => return,
            },
            None => skb,
        };
        let (protocol, at) = match fragment {
            Some(_) => match skip_exthdr(skb.network()) {
                Some((protocol, at, None)) => (protocol, at),
                _ => return,
            },
            None => (protocol, at),
        };
        let Some((source, destination)) = addresses(skb.network()) else { return };
        let taken = self.raw6_deliver(net, protocol, at, &skb);
        let payload = &skb.network()[at..];
        let is_sound = || {
            let protocol = IpProtocol::from(protocol);
            offload::transport_checksum_ok(source.into(), destination.into(), protocol, payload)
        };
        match protocol {
            ipproto::ICMPV6 if is_sound() => self.icmpv6_rcv(net, at, skb),
            ipproto::UDP | ipproto::TCP if is_sound() => self.hand_out(Out::Transport { net, skb }),
            ipproto::ICMPV6 | ipproto::UDP | ipproto::TCP | nexthdr::NONE => {}
            _ if taken => {}
            _ => self.icmpv6_send(&skb, icmpv6_type::PARAMPROB, icmpv6_code::UNK_NEXTHDR, 6),
        }
    }

    /// `ipv6_frag_rcv`: the fragment header is at `at`.
    fn ipv6_frag_rcv(&mut self, net: u64, skb: SkBuff, at: usize) -> Option<SkBuff> {
        let (source, destination) = addresses(skb.network())?;
        let header: [u8; 8] = skb.network().get(at..at + 8)?.try_into().ok()?;
        let field = u16::from_be_bytes([header[2], header[3]]);
        let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let (source, destination) = (source.into(), destination.into());
        let key = FragKey { net, source, destination, id, protocol: ipproto::ICMPV6 };
        let piece =
            Piece { offset: usize::from(field & !7), more: field & 1 != 0, data: &skb.network()[at + 8..] };
        let atomic = piece.offset == 0 && !piece.more;
        let (first, payload) = if atomic {
            let payload = piece.data.to_vec();
            (skb, payload)
        } else {
            self.arm_frag_timer();
            let now = self.now();
            self.frags.add(&key, &piece, &skb, now)?
        };
        // The first fragment's own headers, where its fragment header was.
        let (_, _, Some(at)) = skip_exthdr(first.network())? else { return None };
        let mut bytes = first.network()[..at].to_vec();
        let next = *first.network().get(at)?;
        let mut link = 6;
        let mut header = HEADER_LEN;
        while header < at {
            link = header;
            header += (usize::from(*bytes.get(header + 1)?) + 1) * 8;
        }
        bytes[link] = next;
        bytes.extend(payload);
        let len = u16::try_from(bytes.len() - HEADER_LEN).ok()?;
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        let mut whole = SkBuff::new(first.dev, eth_p::IPV6, &bytes);
        whole.pkt_type = first.pkt_type;
        Some(whole)
    }
}
