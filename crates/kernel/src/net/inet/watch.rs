//! Who watches the way of a flow.
//!
//! What two sockets of the sandbox say to each other needs no packets, and is seen by nobody. Where a packet socket would take some of its
//! packets, or a raw socket of its protocol is there, it has to go by packets all the same. A connection that was made before somebody
//! listened stays as it is, and so is not seen.

use std::net::{IpAddr, SocketAddr};

use super::super::core::skbuff::{SkBuff, eth_p};
use super::super::fib::Flow;
use super::super::ipv4::ipproto;
use super::super::stack::Stack;

/// Flags of segments that a filter may ask for: SYN, SYN and ACK, ACK, PSH and ACK, FIN and ACK, RST.
const TCP_FLAGS: [u8; 6] = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04];
/// Bytes of a header without options.
const TCP_HLEN: usize = 20;
const UDP_HLEN: usize = 8;

impl Stack {
    /// Whether somebody watches packets with this flow, or their answers.
    pub fn inet_is_watched(&self, net: u64, flow: &Flow, from: SocketAddr, to: SocketAddr) -> bool {
        if self.packet_sockets.values().all(|socket| socket.protocol == 0) && self.raw_sockets.is_empty() {
            return false;
        }
        let passed = self.inet_devices_passed(net, flow);
        passed.iter().filter_map(|id| self.dev(*id)).any(|dev| {
            let raw = |socket: &super::super::raw::RawSocket| {
                socket.net == dev.net && socket.protocol == flow.proto && socket.is_v6 == flow.daddr.is_ipv6()
            };
            let protocol = if to.is_ipv4() { eth_p::IP } else { eth_p::IPV6 };
            self.raw_sockets.values().any(raw)
                || self.packet_sockets.values().any(|socket| {
                    socket.net == dev.net
                        && (socket.ifindex == 0 || socket.ifindex == dev.ifindex)
                        && (socket.protocol == eth_p::ALL || socket.protocol == protocol)
                        && socket.filter.as_ref().is_none_or(|filter| {
                            let link = if dev.has_ethernet_header() { 14 } else { 0 };
                            samples(flow.proto, from, to).iter().any(|packet| {
                                let mut bytes = vec![0; link];
                                if link > 0 {
                                    bytes[12..14].copy_from_slice(&protocol.to_be_bytes());
                                }
                                bytes.extend(packet);
                                let mut skb = SkBuff::new(dev.id, protocol, &bytes);
                                skb.mac_len = link;
                                let data = if socket.dgram { packet.as_slice() } else { &bytes };
                                filter.run(&skb, data, dev.ifindex, dev.dev_type) > 0
                            })
                        })
                })
        })
    }
}

/// Packets as a flow has them, both ways.
fn samples(protocol: u8, from: SocketAddr, to: SocketAddr) -> Vec<Vec<u8>> {
    let flags: &[u8] = if protocol == ipproto::TCP { &TCP_FLAGS } else { &[0] };
    let sample = |flags: &u8| [packet(protocol, *flags, from, to), packet(protocol, *flags, to, from)];
    flags.iter().flat_map(sample).collect()
}

fn packet(protocol: u8, flags: u8, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut payload = vec![0; if protocol == ipproto::TCP { TCP_HLEN } else { UDP_HLEN }];
    payload[..2].copy_from_slice(&from.port().to_be_bytes());
    payload[2..4].copy_from_slice(&to.port().to_be_bytes());
    if protocol == ipproto::TCP {
        (payload[12], payload[13]) = (0x50, flags);
    } else {
        payload[5] = UDP_HLEN as u8;
    }
    let len = payload.len() as u8;
    let mut bytes = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, 20 + len, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            header.extend(from.octets());
            header.extend(to.octets());
            header
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let mut header = vec![0x60, 0, 0, 0, 0, len, protocol, 64];
            header.extend(octets(from));
            header.extend(octets(to));
            header
        }
    };
    bytes.extend(payload);
    bytes
}
