//! Forwarding IPv4 (`net/ipv4/ip_forward.c`).

use std::net::IpAddr;

use smoltcp::wire::Ipv4Packet;

use super::super::core::skbuff::{PacketType, SkBuff};
use super::super::fib::Flow;
use super::super::stack::Stack;
use super::icmp::{icmp_code, icmp_type};

impl Stack {
    /// A packet for somebody else has come in: `ip_forward`.
    pub(crate) fn ip_forward(&mut self, mut skb: SkBuff) {
        if skb.pkt_type != PacketType::Host {
            return;
        }
        let Some(net) = self.net_of_dev(skb.dev) else { return };
        let Ok(packet) = Ipv4Packet::new_checked(skb.network()) else { return };
        let (destination, source) = (packet.dst_addr(), packet.src_addr());
        let (ttl, dont_fragment) = (packet.hop_limit(), packet.dont_frag());
        if ttl <= 1 {
            return self.icmp_send(&skb, icmp_type::TIME_EXCEEDED, icmp_code::EXC_TTL, 0);
        }
        let flow = Flow {
            saddr: Some(IpAddr::V4(source)),
            iif: Some(skb.dev),
            tos: skb.network()[1],
            ..Flow::to(IpAddr::V4(destination))
        };
        let Ok(dst) = self.route_output(net, &flow) else {
            return self.icmp_send(&skb, icmp_type::DEST_UNREACH, icmp_code::NET_UNREACH, 0);
        };
        let len = skb.network().len();
        if len > dst.mtu as usize && dont_fragment {
            return self.icmp_send(&skb, icmp_type::DEST_UNREACH, icmp_code::FRAG_NEEDED, dst.mtu);
        }
        skb.pull_mac();
        let mut packet = Ipv4Packet::new_unchecked(skb.data_mut());
        packet.set_hop_limit(ttl - 1);
        packet.fill_checksum();
        skb.sender = None;
        // Whatever stands in the way of a packet of somebody else's is not ours to report.
        let _ = self.ip_output(net, &dst, skb, false);
    }
}
