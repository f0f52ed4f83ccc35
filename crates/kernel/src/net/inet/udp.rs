//! Datagrams as packets (`net/ipv4/udp.c`, `net/ipv6/udp.c`): what goes to, and comes from, where the model's devices do not lead to a
//! socket.

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};

use super::super::core::offload::{transport_checksum_ok, transport_sum};
use super::super::core::skbuff::{SkBuff, eth_p};
use super::super::ipv4::{IpOut, ipproto};
use super::super::stack::Stack;
use crate::errno::{Errno, Result};

/// Bytes of the header.
const HEADER_LEN: usize = 8;

/// A datagram that has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Where it is from.
    pub from: SocketAddr,
    /// Where it was sent to.
    pub to: SocketAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// The bytes.
    pub data: &'a [u8],
}

/// The datagram in a packet; `None` for other protocols, and for what is malformed.
pub fn udp_rcv(skb: &SkBuff) -> Option<Datagram<'_>> {
    let network = skb.network();
    let (source, destination, ttl, tos, payload): (IpAddr, IpAddr, u8, u8, &[u8]) = match skb.protocol {
        eth_p::IP => {
            let packet = Ipv4Packet::new_checked(network).ok()?;
            let (header, total) = (usize::from(packet.header_len()), usize::from(packet.total_len()));
            if packet.next_header() != IpProtocol::Udp {
                return None;
            }
            let ends = (packet.src_addr().into(), packet.dst_addr().into());
            (ends.0, ends.1, packet.hop_limit(), network[1], network.get(header..total)?)
        }
        eth_p::IPV6 => {
            let packet = Ipv6Packet::new_checked(network).ok()?;
            if packet.next_header() != IpProtocol::Udp {
                return None;
            }
            let total = packet.header_len() + usize::from(packet.payload_len());
            let ends = (packet.src_addr().into(), packet.dst_addr().into());
            let payload = network.get(packet.header_len()..total)?;
            (ends.0, ends.1, packet.hop_limit(), packet.traffic_class(), payload)
        }
        _ => return None,
    };
    let datagram = UdpPacket::new_checked(payload).ok()?;
    if !transport_checksum_ok(source, destination, IpProtocol::Udp, &payload[..usize::from(datagram.len())]) {
        return None;
    }
    let (from, to) =
        (SocketAddr::new(source, datagram.src_port()), SocketAddr::new(destination, datagram.dst_port()));
    Some(Datagram { from, to, ttl, tos, data: payload.get(HEADER_LEN..usize::from(datagram.len()))? })
}

impl Stack {
    /// Sends a datagram as a packet: `udp_send_skb`. The source of `out` has to be given.
    ///
    /// # Errors
    /// Those of [`Stack::ip_send`]; `EINVAL`: no source.
    pub fn udp_send(&mut self, net: u64, out: &IpOut, from: u16, to: u16, data: &[u8]) -> Result<()> {
        let source = out.source.ok_or(Errno::EINVAL)?;
        let len = u16::try_from(HEADER_LEN + data.len()).map_err(|_| Errno::EMSGSIZE)?;
        let mut packet = Vec::with_capacity(usize::from(len));
        for field in [from, to, len, 0] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend(data);
        let sum = !transport_sum(source, out.destination, IpProtocol::Udp, &packet);
        // Zero says that there is no checksum.
        packet[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
        self.ip_send(net, &IpOut { protocol: ipproto::UDP, ..*out }, &packet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::DevId;

    /// A packet of IPv4 with a datagram.
    fn packet(datagram: &[u8], protocol: u8) -> SkBuff {
        let mut bytes = vec![
            0x45,
            0x10,
            0,
            (20 + datagram.len()) as u8,
            0,
            0,
            0,
            0,
            9,
            protocol,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ];
        bytes.extend(datagram);
        SkBuff::new(DevId(1), eth_p::IP, &bytes)
    }

    #[test]
    fn a_datagram_is_what_its_length_says_and_nothing_malformed() {
        // Without a checksum, and with two bytes behind it.
        let good = [0, 53, 0x13, 0x88, 0, 10, 0, 0, b'h', b'i', 0, 0];
        let skb = packet(&good, ipproto::UDP);
        let got = udp_rcv(&skb).unwrap();
        assert_eq!((got.from, got.to), ("10.0.0.1:53".parse().unwrap(), "10.0.0.2:5000".parse().unwrap()));
        assert_eq!((got.data, got.ttl, got.tos), (&b"hi"[..], 9, 0x10));
        assert_eq!(udp_rcv(&packet(&good, ipproto::TCP)), None);
        for len in 0..good.len() {
            let short = packet(&good[..len], ipproto::UDP);
            assert!(udp_rcv(&short).is_none_or(|got| got.data.len() <= 2), "{len}");
        }
        let mut wrong = good;
        wrong[6] = 1;
        assert_eq!(udp_rcv(&packet(&wrong, ipproto::UDP)), None);
        wrong = good;
        wrong[5] = 200;
        assert_eq!(udp_rcv(&packet(&wrong, ipproto::UDP)), None);
        assert_eq!(udp_rcv(&SkBuff::new(DevId(1), eth_p::IPV6, &[0x60; 50])), None);
    }
}
