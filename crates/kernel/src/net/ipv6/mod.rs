//! IPv6 (`net/ipv6`, `ipv6(7)`).

mod addrconf;
mod icmpv6;
mod ip6_input;
mod ip6_output;
mod ndisc;

use std::net::Ipv6Addr;

/// Bytes of a header without extensions.
pub(crate) const HEADER_LEN: usize = 40;
/// `ff02::1`
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// `ff02::2`
pub(crate) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Numbers of extension headers: `NEXTHDR_*`.
pub(crate) mod nexthdr {
    pub const HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const NONE: u8 = 59;
    pub const DEST: u8 = 60;
}

/// Source and destination of a packet whose header has been checked.
pub(crate) fn addresses(network: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(network.get(at..at + 16)?).ok()?));
    Some((address(8)?, address(24)?))
}

/// The protocol behind the extension headers of a packet, where it begins, and the fragment header where there is one before it:
/// `ipv6_skip_exthdr`.
pub(crate) fn skip_exthdr(network: &[u8]) -> Option<(u8, usize, Option<usize>)> {
    let mut next = *network.get(6)?;
    let mut at = HEADER_LEN;
    let mut fragment = None;
    // Each is at least 8 bytes, so this ends.
    loop {
        match next {
            nexthdr::HOP | nexthdr::ROUTING | nexthdr::DEST => {
                let len = (usize::from(*network.get(at + 1)?) + 1) * 8;
                next = *network.get(at)?;
                at += len;
            }
            nexthdr::FRAGMENT => {
                fragment = Some(at);
                let offset = u16::from_be_bytes([*network.get(at + 2)?, *network.get(at + 3)?]) & !7;
                next = *network.get(at)?;
                at += 8;
                if offset != 0 {
                    return (at <= network.len()).then_some((next, at, fragment));
                }
            }
            _ => return (at <= network.len()).then_some((next, at, fragment)),
        }
    }
}
