//! ARP (`net/ipv4/arp.c`, `arp(7)`): link-layer addresses of IPv4 neighbours.

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use super::super::core::Dst;
use super::super::core::skbuff::{PacketType, SkBuff, eth_p};
use super::super::dev::{DevId, MacAddr};
use super::super::fib::{Flow, RouteType};
use super::super::stack::Stack;

impl Stack {
    /// Sends a request or an answer: `arp_send`.
    pub(crate) fn arp_send(
        &mut self,
        dev: DevId,
        operation: ArpOperation,
        source: Ipv4Addr,
        target: (MacAddr, Ipv4Addr),
        to: MacAddr,
    ) {
        let Some(own) = self.dev(dev).map(|dev| dev.dev_addr) else { return };
        let repr = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(own.0),
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress(target.0.0),
            target_protocol_addr: target.1,
        };
        let mut bytes = [0; 28];
        repr.emit(&mut ArpPacket::new_unchecked(&mut bytes[..]));
        self.xmit_to(SkBuff::new(dev, eth_p::ARP, &bytes), to);
    }

    /// Asks for the address of a neighbour: `arp_solicit`. The packet that waits says which of our addresses asks.
    pub(crate) fn arp_solicit(
        &mut self,
        dev: DevId,
        target: Ipv4Addr,
        known: Option<MacAddr>,
        waiting: Option<&SkBuff>,
    ) {
        let Some(net) = self.net_of_dev(dev) else { return };
        let of_packet = waiting.and_then(|skb| {
            let bytes: [u8; 4] = skb.network().get(12..16)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes)).filter(|address| self.is_local(net, IpAddr::V4(*address)))
        });
        let source = of_packet.or_else(|| match self.select_source(net, dev, IpAddr::V4(target)) {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        });
        let source = source.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let to = known.unwrap_or(MacAddr::BROADCAST);
        self.arp_send(dev, ArpOperation::Request, source, (MacAddr::default(), target), to);
    }

    /// Tells the link that an address is ours: `arp_announce` of a device that comes up.
    pub fn arp_announce(&mut self, dev: DevId, address: Ipv4Addr) {
        self.arp_send(dev, ArpOperation::Request, address, (MacAddr::default(), address), MacAddr::BROADCAST);
    }

    /// A packet has come in: `arp_process`.
    pub(crate) fn arp_rcv(&mut self, skb: SkBuff) {
        let Some(dev) = self.dev(skb.dev) else { return };
        if dev.is_noarp() || skb.pkt_type == PacketType::OtherHost {
            return;
        }
        let net = dev.net;
        let Ok(packet) = ArpPacket::new_checked(skb.network()) else { return };
        let Ok(ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr: sip,
            target_protocol_addr: tip,
            ..
        }) = ArpRepr::parse(&packet)
        else {
            return;
        };
        let sha = MacAddr(source_hardware_addr.0);
        if tip.is_multicast()
            || tip.is_loopback()
            || !matches!(operation, ArpOperation::Request | ArpOperation::Reply)
        {
            return;
        }
        // Detection of duplicates (RFC 5227): no source address.
        if sip.is_unspecified() {
            if operation == ArpOperation::Request && self.is_local(net, IpAddr::V4(tip)) {
                self.arp_send(skb.dev, ArpOperation::Reply, tip, (sha, sip), sha);
            }
            return;
        }
        if operation == ArpOperation::Request && self.is_local(net, IpAddr::V4(tip)) {
            // Whoever asks shows its address; and will be asked for soon.
            self.neigh_update(skb.dev, IpAddr::V4(sip), sha, false, true, true);
            self.arp_send(skb.dev, ArpOperation::Reply, tip, (sha, sip), sha);
            return;
        }
        if operation == ArpOperation::Request && self.arp_fwd_proxy(net, skb.dev, tip) {
            self.neigh_update(skb.dev, IpAddr::V4(sip), sha, false, true, true);
            self.arp_send(skb.dev, ArpOperation::Reply, tip, (sha, sip), sha);
            return;
        }
        let confirmed = operation == ArpOperation::Reply && skb.pkt_type == PacketType::Host;
        self.neigh_update(skb.dev, IpAddr::V4(sip), sha, confirmed, true, false);
    }

    /// Whether we answer for an address behind another device: `arp_fwd_proxy`, with `proxy_arp`.
    fn arp_fwd_proxy(&self, net: u64, dev: DevId, target: Ipv4Addr) -> bool {
        if !self.ipv4_forwarding(dev) || !self.proxy_arp(dev) {
            return false;
        }
        let flow = Flow::to(IpAddr::V4(target));
        let way = self.route_output(net, &flow);
        matches!(way, Ok(Dst { kind: RouteType::Unicast, dev: out, .. }) if out != dev)
    }
}
