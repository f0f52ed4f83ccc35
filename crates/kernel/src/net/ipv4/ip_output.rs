//! Sending IPv4 (`net/ipv4/ip_output.c`).

use std::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::Ipv4Packet;

use super::super::core::Dst;
use super::super::core::skbuff::{SkBuff, eth_p};
use super::super::dev::{DevId, MacAddr, iff};
use super::super::fib::{Flow, RouteType};
use super::super::stack::Stack;
use super::icmp::{icmp_code, icmp_type};
use crate::errno::{Errno, Result};

/// Bytes of a header without options.
pub(crate) const HEADER_LEN: usize = 20;
/// `IPDEFTTL`
const DEFAULT_TTL: u8 = 64;

/// How a packet is to be sent: what sockets can say.
#[derive(Clone, Copy, Debug)]
pub struct IpOut {
    /// Source; the route decides where it is not given.
    pub source: Option<IpAddr>,
    /// Destination.
    pub destination: IpAddr,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// Time to live or hop limit; the default where it is not given.
    pub ttl: Option<u8>,
    /// Type of service or traffic class.
    pub tos: u8,
    /// It must not be fragmented: `IP_PMTUDISC_DO`.
    pub dont_fragment: bool,
    /// The device it must go out of.
    pub oif: Option<DevId>,
    /// Groups and broadcasts come back to us: `IP_MULTICAST_LOOP`.
    pub multicast_loop: bool,
}

impl IpOut {
    /// To `destination` with the defaults.
    pub fn to(destination: IpAddr, protocol: u8) -> IpOut {
        IpOut {
            source: None,
            destination,
            protocol,
            ttl: None,
            tos: 0,
            dont_fragment: false,
            oif: None,
            multicast_loop: true,
        }
    }
}

/// Sets the checksum of a header.
pub(crate) fn ip_send_check(network: &mut [u8]) {
    if let Ok(mut packet) = Ipv4Packet::new_checked(network) {
        packet.fill_checksum();
    }
}

impl Stack {
    /// Sends `payload` behind a header of ours: `ip_append_data` and `ip_push_pending_frames`, or their like of IPv6. Checksums of the
    /// payload are the caller's.
    ///
    /// # Errors
    /// Those of [`Stack::route_output`]; `EMSGSIZE`: too long for the protocol, or for the way and not to be fragmented.
    pub fn ip_send(&mut self, net: u64, out: &IpOut, payload: &[u8]) -> Result<()> {
        let flow = Flow {
            saddr: out.source,
            oif: out.oif,
            tos: out.tos,
            proto: out.protocol,
            ..Flow::to(out.destination)
        };
        let dst = self.route_output(net, &flow)?;
        match (out.destination, out.source.unwrap_or(dst.prefsrc)) {
            (IpAddr::V4(destination), IpAddr::V4(source)) => {
                let skb = self.ip_build(&dst, out, source, destination, payload)?;
                self.ip_output(net, &dst, skb, out.multicast_loop)
            }
            (IpAddr::V6(destination), IpAddr::V6(source)) => {
                self.ip6_send(net, &dst, out, source, destination, payload)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn ip_build(
        &mut self,
        dst: &Dst,
        out: &IpOut,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        payload: &[u8],
    ) -> Result<SkBuff> {
        let total = HEADER_LEN + payload.len();
        if total > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = vec![0; total];
        bytes[HEADER_LEN..].copy_from_slice(payload);
        let ident = self.random() as u16;
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
        packet.set_version(4);
        packet.set_header_len(HEADER_LEN as u8);
        packet.set_dscp(out.tos >> 2);
        packet.set_ecn(out.tos & 3);
        packet.set_total_len(total as u16);
        packet.clear_flags();
        packet.set_dont_frag(out.dont_fragment);
        packet.set_ident(if out.dont_fragment { 0 } else { ident });
        let multicast = destination.is_multicast();
        packet.set_hop_limit(out.ttl.unwrap_or(if multicast { 1 } else { DEFAULT_TTL }));
        packet.set_next_header(out.protocol.into());
        packet.set_src_addr(source);
        packet.set_dst_addr(destination);
        packet.fill_checksum();
        Ok(SkBuff::new(dst.dev, eth_p::IP, &bytes))
    }

    /// Sends a packet whose header is complete on its way: `ip_output`, `ip_mc_output`.
    ///
    /// # Errors
    /// `EMSGSIZE`: longer than the way takes, and not to be fragmented. `ENETDOWN`: the device is down.
    pub(crate) fn ip_output(
        &mut self,
        net: u64,
        dst: &Dst,
        mut skb: SkBuff,
        multicast_loop: bool,
    ) -> Result<()> {
        skb.dev = dst.dev;
        let Some(dev) = self.dev(dst.dev) else { return Err(Errno::ENODEV) };
        if !dev.is_up() {
            return Err(Errno::ENETDOWN);
        }
        let (is_loopback, mtu) = (dev.flags & iff::LOOPBACK != 0, dst.mtu as usize);
        let to_many = matches!(dst.kind, RouteType::Broadcast | RouteType::Multicast);
        if to_many && !is_loopback && multicast_loop {
            let _ = net;
            self.ip_local_deliver(skb.clone());
        }
        if dst.kind == RouteType::Multicast && skb.network().get(8).is_none_or(|ttl| *ttl == 0) {
            return Ok(());
        }
        if skb.len() <= mtu {
            self.ip_finish_output(dst, skb);
            return Ok(());
        }
        let fragments = super::ip_fragment::fragment(skb.network(), mtu).ok_or(Errno::EMSGSIZE)?;
        for bytes in fragments {
            self.ip_finish_output(dst, SkBuff::new(dst.dev, eth_p::IP, &bytes));
        }
        Ok(())
    }

    /// To the neighbour, or to the link-layer address of a group: `ip_finish_output2`.
    fn ip_finish_output(&mut self, dst: &Dst, skb: SkBuff) {
        match (dst.kind, dst.neighbour) {
            (RouteType::Broadcast, _) => self.xmit_to(skb, MacAddr::BROADCAST),
            (_, IpAddr::V4(address)) if address.is_multicast() => {
                // RFC 1112: the lower 23 bits of the group.
                let [_, a, b, c] = address.octets();
                self.xmit_to(skb, MacAddr([0x01, 0x00, 0x5e, a & 0x7f, b, c]));
            }
            (_, neighbour) => self.neigh_output(skb, neighbour),
        }
    }

    /// Nobody has that address on the link: `ipv4_link_failure`.
    pub(crate) fn ipv4_link_failure(&mut self, skb: SkBuff) {
        self.icmp_send(&skb, icmp_type::DEST_UNREACH, icmp_code::HOST_UNREACH, 0);
    }
}
