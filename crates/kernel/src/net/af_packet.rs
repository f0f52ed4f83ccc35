//! Packet sockets (`packet(7)`, `net/packet/af_packet.c`): they see what devices send and receive, and send frames of their own.

use super::core::skbuff::{ETH_HLEN, PacketType, SkBuff, eth_p};
use super::core::softirq::{Ancillary, Message, Out};
use super::dev::{DevId, DeviceKind, MacAddr, NetDevice};
use super::filter::Filter;
use super::packet_ring::{Arrival, PacketRing, Taken, Version};
use super::stack::Stack;
use crate::errno::{Errno, Result};

const AF_PACKET: u16 = 17;

/// `struct sockaddr_ll`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockaddrLl {
    /// `ETH_P_*`, in host order.
    pub protocol: u16,
    /// Index of a device; 0: any.
    pub ifindex: u32,
    /// Link-layer address.
    pub address: MacAddr,
    /// How many bytes of it there are.
    pub halen: u8,
}

impl SockaddrLl {
    /// Bytes of one.
    pub const LEN: usize = 20;

    /// Reads one.
    ///
    /// # Errors
    /// `EINVAL`: too short, or of another family.
    pub fn parse(bytes: &[u8]) -> Result<SockaddrLl> {
        // Everything up to the address must be there.
        if bytes.len() < 12 || u16::from_ne_bytes([bytes[0], bytes[1]]) != AF_PACKET {
            return Err(Errno::EINVAL);
        }
        let mut address = [0; 6];
        let given = &bytes[12..bytes.len().min(18)];
        address[..given.len()].copy_from_slice(given);
        Ok(SockaddrLl {
            protocol: u16::from_be_bytes([bytes[2], bytes[3]]),
            ifindex: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
            address: MacAddr(address),
            halen: bytes[11],
        })
    }

    /// As it stands in memory, with `ARPHRD_*` and `PACKET_*`.
    pub fn to_bytes(self, hatype: u16, pkt_type: PacketType) -> Vec<u8> {
        let mut bytes = AF_PACKET.to_ne_bytes().to_vec();
        bytes.extend(self.protocol.to_be_bytes());
        bytes.extend(self.ifindex.to_ne_bytes());
        bytes.extend(hatype.to_ne_bytes());
        bytes.push(pkt_type as u8);
        bytes.push(self.halen);
        bytes.extend(self.address.0);
        bytes.extend([0; 2]);
        bytes
    }
}

/// A packet socket: `struct packet_sock`.
#[derive(Debug)]
pub struct PacketSocket {
    /// Its namespace.
    pub net: u64,
    /// `SOCK_DGRAM`: without link-layer headers.
    pub dgram: bool,
    /// `ETH_P_*` in host order; 0: nothing is received.
    pub protocol: u16,
    /// Index of the device it is bound to; 0: all.
    pub ifindex: u32,
    /// Which packets it wants.
    pub filter: Option<Filter>,
    /// Packets handed to it, and those it had no room for, since they were last asked for: `PACKET_STATISTICS`.
    pub stats: (u32, u32),
    /// `PACKET_IGNORE_OUTGOING`
    pub ignore_outgoing: bool,
    /// Devices it keeps promiscuous or listening to groups: `PACKET_ADD_MEMBERSHIP`.
    pub memberships: Vec<(u32, u16)>,
    /// `PACKET_VERSION`
    pub version: Version,
    /// `PACKET_RESERVE`: bytes before the data of a frame that are the program's.
    pub reserve: u32,
    /// `PACKET_RX_RING`
    pub ring: Option<PacketRing>,
}

impl PacketSocket {
    /// `packet_create`
    pub fn new(net: u64, dgram: bool, protocol: u16) -> PacketSocket {
        PacketSocket {
            net,
            dgram,
            protocol,
            ifindex: 0,
            filter: None,
            stats: (0, 0),
            ignore_outgoing: false,
            memberships: Vec::new(),
            version: Version::default(),
            reserve: 0,
            ring: None,
        }
    }
}

impl Stack {
    /// Gives a packet to the sockets that want it: `packet_rcv`. Its link-layer header is `mac_len` long.
    pub(super) fn deliver_to_taps(&mut self, skb: &SkBuff) {
        if self.packet_sockets.is_empty() {
            return;
        }
        let Some(dev) = self.dev(skb.dev) else { return };
        let (net, ifindex, hatype) = (dev.net, dev.ifindex, dev.dev_type);
        let outgoing = skb.pkt_type == PacketType::Outgoing;
        // What loopback sends it receives at once; both are seen, as in Linux.
        let source = skb.mac_header().get(6..12).and_then(|bytes| bytes.try_into().ok());
        let address = SockaddrLl {
            protocol: skb.protocol,
            ifindex,
            address: MacAddr(source.unwrap_or_default()),
            halen: if source.is_some() { 6 } else { 0 },
        };
        let (mut out, mut filled) = (Vec::new(), Vec::new());
        for (id, socket) in &mut self.packet_sockets {
            let wanted = socket.net == net
                && (socket.ifindex == 0 || socket.ifindex == ifindex)
                && (socket.protocol == eth_p::ALL || socket.protocol == skb.protocol && !outgoing)
                && !(outgoing && socket.ignore_outgoing)
                && skb.sender != Some(*id);
            if !wanted {
                continue;
            }
            let data = if socket.dgram { skb.network() } else { skb.data() };
            let wanted = match &socket.filter {
                Some(filter) => filter.run(skb, data, ifindex, hatype) as usize,
                None => usize::MAX,
            };
            if wanted == 0 {
                continue;
            }
            socket.stats.0 = socket.stats.0.wrapping_add(1);
            if let Some(ring) = &mut socket.ring {
                let address = address.to_bytes(hatype, skb.pkt_type);
                let losing = socket.stats.1 > 0;
                let (dgram, mac_len) = (socket.dgram, skb.mac_len as u32);
                match ring.receive(&Arrival { data, wanted, mac_len, dgram, address: &address, losing }) {
                    Taken::Dropped => socket.stats.1 = socket.stats.1.wrapping_add(1),
                    Taken::Kept => {}
                    Taken::Ready => out.push(Out::RingReady { socket: *id }),
                }
                filled.push(*id);
                continue;
            }
            let message = Message {
                source: address.to_bytes(hatype, skb.pkt_type),
                data: data[..data.len().min(wanted)].to_vec(),
                original_len: data.len(),
                ancillary: Ancillary { ifindex, mac_len: skb.mac_len as u16, ..Ancillary::default() },
            };
            out.push(Out::Socket { socket: *id, message });
        }
        out.into_iter().for_each(|out| self.hand_out(out));
        filled.into_iter().for_each(|socket| self.packet_ring_arm(socket));
    }

    /// Sends a frame, or with `SOCK_DGRAM` a packet: `packet_snd`.
    ///
    /// # Errors
    /// `ENXIO`: no such device, or none is named. `ENETDOWN`: it is down. `EINVAL`: shorter than a link-layer header, or an address
    /// without one. `EMSGSIZE`: longer than the device takes.
    pub fn packet_send(&mut self, socket: u64, to: Option<SockaddrLl>, data: &[u8]) -> Result<()> {
        // A tag may come on top.
        const VLAN_HLEN: usize = 4;
        let from = self.packet_sockets.get(&socket).ok_or(Errno::EBADF)?;
        let (net, dgram) = (from.net, from.dgram);
        let (ifindex, protocol) = match to {
            Some(to) => (to.ifindex, to.protocol),
            None => (from.ifindex, from.protocol),
        };
        let dev = self.dev_get_by_index(net, ifindex).ok_or(Errno::ENXIO)?;
        if !dev.is_up() {
            return Err(Errno::ENETDOWN);
        }
        let header = if dev.has_ethernet_header() { ETH_HLEN } else { 0 };
        let (id, mtu, ethernet) = (dev.id, dev.mtu as usize, header > 0);
        let is_bound_kind = !matches!(dev.kind, DeviceKind::Loopback);
        if !dgram && data.len() < header {
            return Err(Errno::EINVAL);
        }
        let payload = if dgram { data.len() } else { data.len() - header };
        let tagged = ethernet && !dgram && data.get(12..14) == Some(&eth_p::VLAN.to_be_bytes());
        let longest = mtu + if tagged { VLAN_HLEN } else { 0 };
        if payload > longest && is_bound_kind {
            return Err(Errno::EMSGSIZE);
        }
        let mut skb = SkBuff::new(id, protocol, data);
        skb.sender = Some(socket);
        if dgram {
            let to = to.map_or(MacAddr::default(), |to| to.address);
            self.xmit_to(skb, to);
        } else {
            self.dev_queue_xmit(skb);
        }
        Ok(())
    }

    /// Keeps a device promiscuous or listening to all groups for a socket, or no longer: `PACKET_ADD_MEMBERSHIP`,
    /// `PACKET_DROP_MEMBERSHIP`.
    ///
    /// # Errors
    /// `ENODEV`: no such device. `EADDRNOTAVAIL`: it was not kept so.
    pub fn packet_membership(&mut self, socket: u64, ifindex: u32, kind: u16, add: bool) -> Result<()> {
        const PROMISC: u16 = 1;
        const ALLMULTI: u16 = 2;
        let net = self.packet_sockets.get(&socket).ok_or(Errno::EBADF)?.net;
        let dev = self.dev_get_by_index(net, ifindex).map(|dev| dev.id);
        let id = match (dev, add) {
            (None, true) => return Err(Errno::ENODEV),
            (dev, _) => dev,
        };
        let Some(own) = self.packet_sockets.get_mut(&socket) else { return Err(Errno::EBADF) };
        if add {
            own.memberships.push((ifindex, kind));
        } else {
            let at = own.memberships.iter().position(|known| *known == (ifindex, kind));
            own.memberships.remove(at.ok_or(Errno::EADDRNOTAVAIL)?);
        }
        let change = |count: &mut u32| *count = if add { *count + 1 } else { count.saturating_sub(1) };
        if let Some(dev) = id.and_then(|id: DevId| self.dev_mut(id)) {
            match kind {
                PROMISC => change(&mut dev.promiscuity),
                ALLMULTI => change(&mut dev.allmulti),
                // Frames of every group are taken anyway.
                _ => {}
            }
        }
        Ok(())
    }

    /// A packet socket is closed: `packet_release`.
    pub fn packet_release(&mut self, socket: u64) {
        let held = self.packet_sockets.get(&socket).map(|own| own.memberships.clone());
        for (ifindex, kind) in held.into_iter().flatten() {
            // It is there: it was just read.
            let _ = self.packet_membership(socket, ifindex, kind, false);
        }
        self.packet_sockets.remove(&socket);
    }

    /// What a packet socket bound to a device is called: `packet_getname`.
    pub fn packet_getname(&self, socket: u64) -> Option<Vec<u8>> {
        let own = self.packet_sockets.get(&socket)?;
        let dev = self.dev_get_by_index(own.net, own.ifindex);
        let name = SockaddrLl {
            protocol: own.protocol,
            ifindex: own.ifindex,
            address: dev.map(|dev| dev.dev_addr).unwrap_or_default(),
            halen: if dev.is_some_and(NetDevice::has_link_address) { 6 } else { 0 },
        };
        Some(name.to_bytes(dev.map_or(0, |dev| dev.dev_type), PacketType::Host))
    }
}
