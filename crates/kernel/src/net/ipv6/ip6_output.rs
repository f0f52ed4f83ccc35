//! Sending IPv6 (`net/ipv6/ip6_output.c`).

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::Ipv6Packet;

use super::super::core::Dst;
use super::super::core::skbuff::{SkBuff, eth_p};
use super::super::dev::{MacAddr, iff};
use super::super::ipv4::IpOut;
use super::super::stack::Stack;
use super::icmpv6::{icmpv6_code, icmpv6_type};
use super::{HEADER_LEN, nexthdr};
use crate::errno::{Errno, Result};

/// `IPV6_DEFAULT_HOPLIMIT`
const HOP_LIMIT: u8 = 64;
/// Bytes of a fragment header.
const FRAGMENT_LEN: usize = 8;

/// The header in front of `payload_len` bytes.
pub(super) fn header(
    out: &IpOut,
    next: u8,
    hop_limit: u8,
    addresses: (Ipv6Addr, Ipv6Addr),
    payload_len: usize,
) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    let mut packet = Ipv6Packet::new_unchecked(&mut bytes[..]);
    packet.set_version(6);
    packet.set_traffic_class(out.tos);
    packet.set_flow_label(0);
    packet.set_payload_len(payload_len as u16);
    packet.set_next_header(next.into());
    packet.set_hop_limit(hop_limit);
    packet.set_src_addr(addresses.0);
    packet.set_dst_addr(addresses.1);
    bytes
}

impl Stack {
    /// Sends `payload` behind a header of ours, in fragments where it is too long: `ip6_send_skb`.
    pub(crate) fn ip6_send(
        &mut self,
        net: u64,
        dst: &Dst,
        out: &IpOut,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        payload: &[u8],
    ) -> Result<()> {
        if payload.len() > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        let Some(dev) = self.dev(dst.dev) else { return Err(Errno::ENODEV) };
        if !dev.is_up() {
            return Err(Errno::ENETDOWN);
        }
        let loopback = dev.flags & iff::LOOPBACK != 0;
        let hop_limit = out.ttl.unwrap_or(if destination.is_multicast() { 1 } else { HOP_LIMIT });
        let ends = (source, destination);
        let build = |next: u8, parts: &[&[u8]]| {
            let len = parts.iter().map(|part| part.len()).sum();
            let mut bytes = header(out, next, hop_limit, ends, len).to_vec();
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
            SkBuff::new(dst.dev, eth_p::IPV6, &bytes)
        };
        let whole = build(out.protocol, &[payload]);
        if destination.is_multicast() && !loopback && out.multicast_loop {
            self.ip6_input(net, whole.clone());
        }
        if destination.is_multicast() && (hop_limit == 0 || destination.segments()[0] & 0xf == 1 && !loopback)
        {
            return Ok(());
        }
        let mtu = (dst.mtu as usize).max(HEADER_LEN + FRAGMENT_LEN + 8);
        if whole.len() <= mtu {
            self.ip6_finish_output(dst, whole);
            return Ok(());
        }
        if out.dont_fragment {
            return Err(Errno::EMSGSIZE);
        }
        let step = (mtu - HEADER_LEN - FRAGMENT_LEN) & !7;
        let ident = (self.random() as u32).to_be_bytes();
        for (index, chunk) in payload.chunks(step).enumerate() {
            let more = index * step + chunk.len() < payload.len();
            let field = ((index * step) as u16 | u16::from(more)).to_be_bytes();
            let fragment = [out.protocol, 0, field[0], field[1], ident[0], ident[1], ident[2], ident[3]];
            let skb = build(nexthdr::FRAGMENT, &[&fragment, chunk]);
            self.ip6_finish_output(dst, skb);
        }
        Ok(())
    }

    /// To the neighbour, or to the link-layer address of a group: `ip6_finish_output2`.
    pub(super) fn ip6_finish_output(&mut self, dst: &Dst, skb: SkBuff) {
        match dst.neighbour {
            IpAddr::V6(address) if address.is_multicast() => {
                // RFC 2464: the lower 32 bits of the group.
                let [.., a, b, c, d] = address.octets();
                self.xmit_to(skb, MacAddr([0x33, 0x33, a, b, c, d]));
            }
            neighbour => self.neigh_output(skb, neighbour),
        }
    }

    /// Nobody has that address on the link.
    pub(crate) fn ipv6_link_failure(&mut self, skb: SkBuff) {
        self.icmpv6_send(&skb, icmpv6_type::DEST_UNREACH, icmpv6_code::ADDR_UNREACH, 0);
    }
}
