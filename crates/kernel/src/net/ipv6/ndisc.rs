//! Neighbour discovery (`net/ipv6/ndisc.c`, RFC 4861).

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};

use super::super::core::Dst;
use super::super::core::skbuff::SkBuff;
use super::super::dev::{DevId, MacAddr};
use super::super::fib::RouteType;
use super::super::inetdev::{ifa_f, solicited_node};
use super::super::ipv4::{IpOut, ipproto};
use super::super::stack::Stack;
use super::{ALL_NODES, addresses};

/// What every message of the protocol has, so that none comes from behind a router.
const HOP_LIMIT: u8 = 255;

fn hardware(address: MacAddr) -> RawHardwareAddress {
    RawHardwareAddress::from(EthernetAddress(address.0))
}

fn mac(raw: RawHardwareAddress) -> Option<MacAddr> {
    Some(MacAddr(raw.as_bytes().try_into().ok()?))
}

impl Stack {
    /// Sends a message on a device: `ndisc_send_skb`.
    pub(super) fn ndisc_send(&mut self, dev: DevId, source: Ipv6Addr, to: Ipv6Addr, message: NdiscRepr<'_>) {
        let Some(device) = self.dev(dev) else { return };
        let (net, mtu) = (device.net, device.mtu);
        let message = Icmpv6Repr::Ndisc(message);
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(
            &source,
            &to,
            &mut Icmpv6Packet::new_unchecked(&mut bytes[..]),
            &ChecksumCapabilities::default(),
        );
        let mut out = IpOut::to(IpAddr::V6(to), ipproto::ICMPV6);
        out.ttl = Some(HOP_LIMIT);
        out.multicast_loop = false;
        let kind = if to.is_multicast() { RouteType::Multicast } else { RouteType::Unicast };
        let dst = Dst { kind, dev, neighbour: to.into(), prefsrc: source.into(), mtu };
        // Nobody waits for an answer of ours.
        let _ = self.ip6_send(net, &dst, &out, source, to, &bytes);
    }

    /// Asks for the address of a neighbour: `ndisc_solicit`. The packet that waits says which of our addresses asks.
    pub(crate) fn ndisc_solicit(
        &mut self,
        dev: DevId,
        target: Ipv6Addr,
        known: Option<MacAddr>,
        waiting: Option<&SkBuff>,
    ) {
        let Some(device) = self.dev(dev) else { return };
        let (net, own) = (device.net, device.dev_addr);
        let of_packet = waiting.and_then(|skb| addresses(skb.network())).map(|(source, _)| source);
        let of_packet = of_packet.filter(|source| device.has_address(IpAddr::V6(*source)));
        let source = of_packet.or_else(|| match self.select_source(net, dev, IpAddr::V6(target)) {
            Some(IpAddr::V6(source)) => Some(source),
            _ => None,
        });
        let Some(source) = source else { return };
        let to = if known.is_some() { target } else { solicited_node(target) };
        let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: Some(hardware(own)) };
        self.ndisc_send(dev, source, to, message);
    }

    /// Asks whether somebody else has an address (RFC 4862): from no address.
    pub(super) fn ndisc_dad(&mut self, dev: DevId, target: Ipv6Addr) {
        let message = NdiscRepr::NeighborSolicit { target_addr: target, lladdr: None };
        self.ndisc_send(dev, Ipv6Addr::UNSPECIFIED, solicited_node(target), message);
    }

    /// Answers, or tells: `ndisc_send_na`.
    fn ndisc_send_na(&mut self, dev: DevId, to: Ipv6Addr, target: Ipv6Addr, solicited: bool) {
        let Some(own) = self.dev(dev).map(|dev| dev.dev_addr) else { return };
        let mut flags = NdiscNeighborFlags::OVERRIDE;
        flags.set(NdiscNeighborFlags::SOLICITED, solicited);
        flags.set(NdiscNeighborFlags::ROUTER, self.ipv6_forwarding(dev));
        let message = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(hardware(own)) };
        self.ndisc_send(dev, target, to, message);
    }

    /// A message has come in, at `at` of its packet: `ndisc_rcv`.
    pub(super) fn ndisc_rcv(&mut self, _net: u64, at: usize, skb: SkBuff) {
        let Some((source, destination)) = addresses(skb.network()) else { return };
        let Some(dev) = self.dev(skb.dev) else { return };
        if skb.network()[7] != HOP_LIMIT || dev.is_noarp() {
            return;
        }
        let Ok(packet) = Icmpv6Packet::new_checked(&skb.network()[at..]) else { return };
        let caps = ChecksumCapabilities::default();
        let Ok(Icmpv6Repr::Ndisc(message)) = Icmpv6Repr::parse(&source, &destination, &packet, &caps) else {
            return;
        };
        match message {
            NdiscRepr::NeighborSolicit { target_addr, lladdr } => {
                self.ndisc_recv_ns(skb.dev, source, destination, target_addr, lladdr.and_then(mac));
            }
            NdiscRepr::NeighborAdvert { flags, target_addr, lladdr } => {
                self.ndisc_recv_na(skb.dev, flags, target_addr, lladdr.and_then(mac));
            }
            NdiscRepr::RouterAdvert { .. } => self.ndisc_router_discovery(skb.dev, source, &message),
            NdiscRepr::RouterSolicit { lladdr } => {
                if let Some(lladdr) = lladdr.and_then(mac).filter(|_| !source.is_unspecified()) {
                    self.neigh_update(skb.dev, source.into(), lladdr, false, true, false);
                }
            }
            NdiscRepr::Redirect { .. } => {}
        }
    }

    fn ndisc_recv_ns(
        &mut self,
        dev: DevId,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        target: Ipv6Addr,
        lladdr: Option<MacAddr>,
    ) {
        let dad = source.is_unspecified();
        if target.is_multicast() || dad && (destination != solicited_node(target) || lladdr.is_some()) {
            return;
        }
        let Some(device) = self.dev(dev) else { return };
        let Some(own) = device.addresses.iter().find(|known| known.address == IpAddr::V6(target)) else {
            return;
        };
        if !own.is_usable() {
            // Somebody else wants the address that we are asking for.
            if dad {
                self.addrconf_dad_failure(dev, target);
            }
            return;
        }
        if dad {
            return self.ndisc_send_na(dev, ALL_NODES, target, false);
        }
        if let Some(lladdr) = lladdr {
            self.neigh_update(dev, source.into(), lladdr, false, true, true);
        }
        self.ndisc_send_na(dev, source, target, true);
    }

    fn ndisc_recv_na(
        &mut self,
        dev: DevId,
        flags: NdiscNeighborFlags,
        target: Ipv6Addr,
        lladdr: Option<MacAddr>,
    ) {
        let Some(device) = self.dev(dev) else { return };
        if let Some(own) = device.addresses.iter().find(|known| known.address == IpAddr::V6(target)) {
            if own.flags & ifa_f::TENTATIVE != 0 {
                self.addrconf_dad_failure(dev, target);
            }
            return;
        }
        let Some(lladdr) = lladdr else { return };
        let solicited = flags.contains(NdiscNeighborFlags::SOLICITED);
        let overrides = flags.contains(NdiscNeighborFlags::OVERRIDE);
        self.neigh_update(dev, target.into(), lladdr, solicited, overrides, false);
    }
}
