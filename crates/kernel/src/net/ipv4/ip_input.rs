//! Receiving IPv4 (`net/ipv4/ip_input.c`).

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::super::core::offload;
use super::super::core::skbuff::{PacketType, SkBuff};
use super::super::core::softirq::Out;
use super::super::dev::iff;
use super::super::fib::{Flow, RouteType};
use super::super::stack::Stack;
use super::icmp::{icmp_code, icmp_type};
use super::ipproto;
use crate::errno::Errno;

impl Stack {
    /// A packet has come in: `ip_rcv`.
    pub(crate) fn ip_rcv(&mut self, mut skb: SkBuff) {
        if skb.pkt_type == PacketType::OtherHost {
            return;
        }
        let Some(header) = checked(skb.network()) else {
            if let Some(dev) = self.dev_mut(skb.dev) {
                dev.stats.rx_errors += 1;
            }
            return;
        };
        skb.trim_network(header.total_len);
        let Some(dev) = self.dev(skb.dev) else { return };
        let (net, loopback) = (dev.net, dev.flags & iff::LOOPBACK != 0);
        let (source, destination) = (header.source, header.destination);
        // Martians (`ip_route_input_slow`).
        if source.is_multicast() || source.is_broadcast() {
            return;
        }
        if !loopback {
            let is_ours = !source.is_unspecified() && self.is_local(net, IpAddr::V4(source));
            if source.is_loopback() || destination.is_loopback() || is_ours {
                return;
            }
        }
        let flow = Flow {
            saddr: Some(IpAddr::V4(source)),
            iif: Some(skb.dev),
            tos: skb.network()[1],
            ..Flow::to(IpAddr::V4(destination))
        };
        let forwarding = self.ipv4_forwarding(skb.dev);
        let local_to_link = destination.is_broadcast() || destination.is_multicast();
        let route = self.fib_lookup(net, &flow).map(|found| found.route.kind);
        let mut unreachable = |code| self.icmp_send(&skb, icmp_type::DEST_UNREACH, code, 0);
        match route {
            _ if local_to_link => self.ip_local_deliver(skb),
            Ok(RouteType::Local | RouteType::Broadcast) => self.ip_local_deliver(skb),
            _ if source.is_unspecified() || !forwarding => {}
            Ok(_) => self.ip_forward(skb),
            Err(Errno::EINVAL) => {}
            Err(Errno::EACCES) => unreachable(icmp_code::PKT_FILTERED),
            Err(Errno::EHOSTUNREACH) => unreachable(icmp_code::HOST_UNREACH),
            Err(_) => unreachable(icmp_code::NET_UNREACH),
        }
    }

    /// A packet is for us: `ip_local_deliver`.
    pub(crate) fn ip_local_deliver(&mut self, skb: SkBuff) {
        let Some(net) = self.net_of_dev(skb.dev) else { return };
        let Some(skb) = self.ip_defrag(net, skb) else { return };
        let Ok(packet) = Ipv4Packet::new_checked(skb.network()) else { return };
        let protocol = u8::from(packet.next_header());
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        let taken = self.raw_deliver(net, protocol, &skb);
        match protocol {
            ipproto::ICMP => self.icmp_rcv(net, skb),
            ipproto::IGMP => {}
            ipproto::UDP | ipproto::TCP => {
                let payload = &skb.network()[usize::from(packet.header_len())..];
                let protocol = IpProtocol::from(protocol);
                if offload::transport_checksum_ok(source.into(), destination.into(), protocol, payload) {
                    self.hand_out(Out::Transport { net, skb });
                }
            }
            _ if taken => {}
            _ => self.icmp_send(&skb, icmp_type::DEST_UNREACH, icmp_code::PROT_UNREACH, 0),
        }
    }
}

/// What is needed of a header that has been checked.
struct Header {
    total_len: usize,
    source: Ipv4Addr,
    destination: Ipv4Addr,
}

/// The checks of `ip_rcv_core`.
fn checked(bytes: &[u8]) -> Option<Header> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.version() != 4 || packet.header_len() < 20 || !packet.verify_checksum() {
        return None;
    }
    Some(Header {
        total_len: packet.total_len().into(),
        source: packet.src_addr(),
        destination: packet.dst_addr(),
    })
}
