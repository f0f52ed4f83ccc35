//! A packet on its way through the stack (`struct sk_buff`).

use super::super::dev::DevId;

/// Ether types: `ETH_P_*` (`packet(7)`, `<linux/if_ether.h>`).
pub mod eth_p {
    /// Every packet, for packet sockets.
    pub const ALL: u16 = 0x0003;
    /// IPv4.
    pub const IP: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IEEE 802.1Q.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// What a frame of IEEE 802.3 with a length is.
    pub const P802_3: u16 = 0x0001;
    /// With an 802.2 header.
    pub const P802_2: u16 = 0x0004;
    /// The lowest number that is a type and not a length.
    pub const P802_3_MIN: u16 = 0x0600;
}

/// Bytes of an Ethernet header: `ETH_HLEN`.
pub const ETH_HLEN: usize = 14;
/// Room kept in front of a packet for the headers of the devices it will pass.
const HEADROOM: usize = 64;

/// Who a packet is for, as its link-layer address tells: `PACKET_*` (`packet(7)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PacketType {
    /// Us.
    #[default]
    Host = 0,
    /// Everybody on the link.
    Broadcast = 1,
    /// A group.
    Multicast = 2,
    /// Somebody else; seen because the device is promiscuous.
    OtherHost = 3,
    /// Sent by us.
    Outgoing = 4,
}

/// A packet.
#[derive(Clone, Debug, Default)]
pub struct SkBuff {
    /// Bytes, `head` of which are unused room.
    bytes: Vec<u8>,
    head: usize,
    /// Length of the link-layer header at the front: 0 once it is taken off, or where the device has none.
    pub mac_len: usize,
    /// The device it came from or goes to.
    pub dev: DevId,
    /// `ETH_P_*`
    pub protocol: u16,
    /// Who it is for.
    pub pkt_type: PacketType,
    /// The packet socket that has sent it, which does not get it back.
    pub sender: Option<u64>,
    /// How many devices it has been handed on by: what circles is dropped.
    pub hops: u8,
}

impl SkBuff {
    /// A packet of these bytes, with room in front.
    pub fn new(dev: DevId, protocol: u16, data: &[u8]) -> SkBuff {
        let mut bytes = Vec::with_capacity(HEADROOM + data.len());
        bytes.resize(HEADROOM, 0);
        bytes.extend_from_slice(data);
        SkBuff { bytes, head: HEADROOM, dev, protocol, ..SkBuff::default() }
    }

    /// Everything from the front.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.head..]
    }

    /// Everything from the front.
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.head..]
    }

    /// Bytes from the front.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The network header and what follows: `skb_network_header`.
    pub fn network(&self) -> &[u8] {
        &self.bytes[self.head + self.mac_len..]
    }

    /// The network header and what follows.
    pub fn network_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.head + self.mac_len..]
    }

    /// The link-layer header.
    pub fn mac_header(&self) -> &[u8] {
        &self.bytes[self.head..self.head + self.mac_len]
    }

    /// Adds bytes in front: `skb_push`.
    pub fn push(&mut self, header: &[u8]) {
        if header.len() > self.head {
            let more = HEADROOM + header.len();
            self.bytes.splice(0..0, std::iter::repeat_n(0, more));
            self.head += more;
        }
        self.head -= header.len();
        self.bytes[self.head..self.head + header.len()].copy_from_slice(header);
    }

    /// Takes up to `len` bytes off the front: `skb_pull`.
    pub fn pull(&mut self, len: usize) {
        self.head += len.min(self.len());
    }

    /// Cuts it to `len` bytes: `skb_trim`.
    pub fn trim(&mut self, len: usize) {
        self.bytes.truncate(self.head + len.min(self.len()));
    }

    /// Cuts what is behind the network packet of `len` bytes.
    pub fn trim_network(&mut self, len: usize) {
        self.trim(self.mac_len + len);
    }

    /// Takes the link-layer header off.
    pub fn pull_mac(&mut self) {
        let len = std::mem::take(&mut self.mac_len);
        self.pull(len);
    }

    /// Puts a link-layer header in front of the network header.
    pub fn push_mac(&mut self, header: &[u8]) {
        self.push(header);
        self.mac_len = header.len();
    }
}

/// `eth_type_trans`: what a frame with an Ethernet header carries.
pub fn eth_protocol(frame: &[u8]) -> u16 {
    let word = |at: usize| frame.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    match word(12) {
        kind if kind >= eth_p::P802_3_MIN => kind,
        // Novell's use of 802.3 without an 802.2 header.
        _ if word(14) == 0xffff => eth_p::P802_3,
        _ => eth_p::P802_2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_put_in_front_and_taken_off() {
        let mut skb = SkBuff::new(DevId(1), eth_p::IP, b"packet");
        skb.push_mac(&[7; 14]);
        assert_eq!((skb.len(), skb.mac_len, skb.network()), (20, 14, &b"packet"[..]));
        for _ in 0..20 {
            skb.push(&[1; 14]);
        }
        assert_eq!(skb.len(), 20 + 280);
        skb.pull(280);
        assert_eq!(skb.mac_header(), [7; 14]);
        skb.pull_mac();
        skb.trim(3);
        assert_eq!(skb.data(), b"pac");
        skb.pull(100);
        assert!(skb.is_empty());
    }

    #[test]
    fn a_number_below_1536_is_a_length() {
        let frame = |at12: [u8; 2], at14: [u8; 2]| [&[0; 12][..], &at12, &at14].concat();
        assert_eq!(eth_protocol(&frame([8, 0], [0, 0])), eth_p::IP);
        assert_eq!(eth_protocol(&frame([0, 40], [0xff, 0xff])), eth_p::P802_3);
        assert_eq!(eth_protocol(&frame([0, 40], [0x42, 0x42])), eth_p::P802_2);
        assert_eq!(eth_protocol(&[]), eth_p::P802_2);
    }
}
