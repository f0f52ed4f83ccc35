//! Receiving and sending by devices (`net/core/dev.c`), and what each kind of device does with a packet (`drivers/net`).

use super::super::dev::{DevId, DeviceKind, MacAddr, NetDevice, iff};
use super::super::devconf::{ipv4, ipv6};
use super::super::stack::Stack;
use super::skbuff::{ETH_HLEN, PacketType, SkBuff, eth_p, eth_protocol};

/// Bytes of an IEEE 802.1Q tag.
const VLAN_HLEN: usize = 4;

impl NetDevice {
    /// Whether its packets have an Ethernet header: `ARPHRD_ETHER` and `ARPHRD_LOOPBACK`.
    pub(crate) fn has_ethernet_header(&self) -> bool {
        match &self.kind {
            DeviceKind::Tun(tun) => tun.flags & super::super::tun::tun_flags::TAP != 0,
            _ => true,
        }
    }

    /// Whether neighbours on it need no link-layer address: `IFF_NOARP`, and loopback.
    pub(crate) fn is_noarp(&self) -> bool {
        self.flags & (iff::NOARP | iff::LOOPBACK) != 0 || !self.has_ethernet_header()
    }

    fn count_rx(&mut self, len: usize) {
        self.stats.rx_packets += 1;
        self.stats.rx_bytes += len as u64;
    }

    fn count_tx(&mut self, len: usize) {
        self.stats.tx_packets += 1;
        self.stats.tx_bytes += len as u64;
    }
}

/// Who a frame is for that came to `dev`, by its destination: `eth_type_trans`.
fn packet_type(dev: &NetDevice, frame: &[u8]) -> PacketType {
    let destination = MacAddr(frame[..6].try_into().unwrap_or_default());
    if destination == MacAddr::BROADCAST {
        PacketType::Broadcast
    } else if destination.is_multicast() {
        PacketType::Multicast
    } else if destination == dev.dev_addr {
        PacketType::Host
    } else {
        PacketType::OtherHost
    }
}

impl Stack {
    /// A packet has come in on its device: `__netif_receive_skb_core`. Its data begin with the link-layer header, if the device has
    /// one.
    pub(super) fn netif_receive_skb(&mut self, mut skb: SkBuff) {
        let len = skb.len();
        let Some(dev) = self.dev_mut(skb.dev) else { return };
        if !dev.is_up() {
            dev.stats.rx_dropped += 1;
            return;
        }
        if dev.has_ethernet_header() {
            if len < ETH_HLEN {
                dev.stats.rx_errors += 1;
                return;
            }
            skb.mac_len = ETH_HLEN;
            skb.protocol = eth_protocol(skb.data());
            let is_macvlan = matches!(dev.kind, DeviceKind::Macvlan { .. });
            skb.pkt_type = match packet_type(dev, skb.data()) {
                _ if dev.kind == DeviceKind::Loopback => PacketType::Host,
                // macvlan_handle_frame has chosen it.
                PacketType::OtherHost if is_macvlan => PacketType::Host,
                told => told,
            };
            // A macvlan counts broadcasts, too.
            if skb.pkt_type == PacketType::Multicast || is_macvlan && skb.pkt_type == PacketType::Broadcast {
                dev.stats.multicast += 1;
            }
            // The header is not counted, as drivers count after eth_type_trans.
            let whole = matches!(dev.kind, DeviceKind::Veth { .. } | DeviceKind::Macvlan { .. });
            dev.count_rx(if whole { len } else { len - ETH_HLEN });
        } else {
            dev.count_rx(len);
        }
        let master = dev.master;
        self.deliver_to_taps(&skb);
        if skb.protocol == eth_p::VLAN {
            match self.vlan_do_receive(skb) {
                // A tag nobody here has: only a bridge may carry it on.
                Some(tagged) => skb = tagged,
                None => return,
            }
        }
        if let Some(bridge) = master
            && matches!(self.dev(bridge).map(|dev| &dev.kind), Some(DeviceKind::Bridge(_)))
        {
            self.br_handle_frame(bridge, skb);
            return;
        }
        let Some(skb) = self.macvlan_handle_frame(skb).and_then(|skb| self.tap_handle_frame(skb)) else {
            return;
        };
        match skb.protocol {
            eth_p::IP => self.ip_rcv(skb),
            eth_p::IPV6 => self.ipv6_rcv(skb),
            eth_p::ARP => self.arp_rcv(skb),
            _ => {
                if let Some(dev) = self.dev_mut(skb.dev) {
                    dev.stats.rx_dropped += u64::from(skb.pkt_type != PacketType::OtherHost);
                }
            }
        }
    }

    /// Takes the tag off a frame for a VLAN that has a device here and gives it to that. Gives back what is for none.
    fn vlan_do_receive(&mut self, mut skb: SkBuff) -> Option<SkBuff> {
        let network = skb.network();
        if network.len() < VLAN_HLEN {
            return Some(skb);
        }
        let wanted = u16::from_be_bytes([network[0], network[1]]) & 0xfff;
        // The device may have been moved to another namespace than the one it is on.
        let found = self
            .all_devices()
            .find(|dev| matches!(dev.kind, DeviceKind::Vlan { real, id } if real == skb.dev && id == wanted));
        let Some(vlan) = found.map(|dev| dev.id) else { return Some(skb) };
        let mut addresses = [0; 12];
        addresses.copy_from_slice(&skb.data()[..12]);
        skb.pull(VLAN_HLEN);
        skb.data_mut()[..12].copy_from_slice(&addresses);
        skb.mac_len = 0;
        skb.dev = vlan;
        self.netif_rx(skb);
        None
    }

    /// Sends a packet by its device: `dev_hard_start_xmit`. Its data begin with the link-layer header, if the device has one.
    pub(super) fn dev_hard_start_xmit(&mut self, mut skb: SkBuff) {
        let Some(dev) = self.dev_mut(skb.dev) else { return };
        if !dev.is_up() {
            dev.stats.tx_dropped += 1;
            return;
        }
        let ethernet = dev.has_ethernet_header();
        if ethernet && skb.len() < ETH_HLEN {
            dev.stats.tx_errors += 1;
            return;
        }
        let (id, kind, len) = (dev.id, dev.kind.clone(), skb.len());
        skb.mac_len = if ethernet { ETH_HLEN } else { 0 };
        if ethernet {
            skb.protocol = eth_protocol(skb.data());
        }
        skb.pkt_type = PacketType::Outgoing;
        self.deliver_to_taps(&skb);
        skb.mac_len = 0;
        skb.sender = None;
        let count = |stack: &mut Stack, len: usize| {
            if let Some(dev) = stack.dev_mut(id) {
                dev.count_tx(len);
            }
        };
        match kind {
            DeviceKind::Loopback => {
                // loopback_xmit counts the packet without its header, both ways.
                count(self, len - ETH_HLEN);
                self.netif_rx(skb);
            }
            // What goes outside is no packet.
            DeviceKind::Dummy | DeviceKind::Uplink => count(self, len),
            DeviceKind::Veth { peer } => {
                let peer =
                    peer.and_then(|peer| self.dev(peer)).filter(|peer| peer.is_up()).map(|peer| peer.id);
                let up = peer.is_some();
                skb.dev = peer.unwrap_or_default();
                if up && self.netif_rx(skb) {
                    count(self, len);
                } else if let Some(dev) = self.dev_mut(id) {
                    dev.stats.tx_dropped += 1;
                }
            }
            DeviceKind::Vlan { real, id: vid } => {
                count(self, len);
                let protocol = eth_p::VLAN.to_be_bytes();
                let mut header = [0; ETH_HLEN + 2];
                header[..12].copy_from_slice(&skb.data()[..12]);
                header[12..14].copy_from_slice(&protocol);
                header[14..].copy_from_slice(&vid.to_be_bytes());
                skb.pull(12);
                skb.push(&header);
                skb.dev = real;
                self.dev_queue_xmit(skb);
            }
            DeviceKind::Bridge(_) => {
                count(self, len);
                self.br_dev_xmit(id, skb);
            }
            DeviceKind::Tun(_) => self.tun_net_xmit(id, skb),
            DeviceKind::Macvlan { lower, mode, .. } => {
                count(self, len);
                self.macvlan_queue_xmit(id, lower, mode, skb);
            }
        }
    }

    /// Sends `skb`, which begins with its network header, to a link-layer address by its device: `dev_hard_header` and
    /// `dev_queue_xmit`.
    pub(crate) fn xmit_to(&mut self, mut skb: SkBuff, to: MacAddr) {
        let Some(dev) = self.dev(skb.dev) else { return };
        skb.pull_mac();
        if dev.has_ethernet_header() {
            let mut header = [0; ETH_HLEN];
            header[..6].copy_from_slice(&to.0);
            header[6..12].copy_from_slice(&dev.dev_addr.0);
            header[12..].copy_from_slice(&skb.protocol.to_be_bytes());
            skb.push_mac(&header);
        }
        self.dev_queue_xmit(skb);
    }

    /// The namespace of a device.
    pub(crate) fn net_of_dev(&self, dev: DevId) -> Option<u64> {
        self.dev(dev).map(|dev| dev.net)
    }

    /// Whether packets that arrive at a device may go on: `IN_DEV_FORWARD`.
    pub(crate) fn ipv4_forwarding(&self, dev: DevId) -> bool {
        self.dev(dev).is_some_and(|dev| dev.ipv4.is_on(ipv4::FORWARDING))
    }

    /// `IN_DEV_PROXY_ARP`
    pub(crate) fn proxy_arp(&self, dev: DevId) -> bool {
        let Some(dev) = self.dev(dev) else { return false };
        let all = self.net(dev.net).is_some_and(|net| net.ipv4_all.is_on(ipv4::PROXY_ARP));
        all || dev.ipv4.is_on(ipv4::PROXY_ARP)
    }

    /// Whether a device is a router's: `idev->cnf.forwarding`.
    pub(crate) fn ipv6_forwarding(&self, dev: DevId) -> bool {
        self.dev(dev).is_some_and(|dev| dev.ipv6.is_on(ipv6::FORWARDING))
    }

    /// `disable_ipv6`
    pub(crate) fn is_ipv6_disabled(&self, dev: DevId) -> bool {
        self.dev(dev).is_none_or(|dev| dev.ipv6.is_on(ipv6::DISABLE_IPV6))
    }
}
