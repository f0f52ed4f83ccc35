//! What network cards do for the stack, and virtual machines expect of a TAP device (`struct virtio_net_hdr`): checksums to be
//! completed and large segments to be cut. Both are done as a frame comes in, so nothing unfinished is ever inside.

use std::net::IpAddr;

use smoltcp::wire::{IpProtocol, checksum};

use super::super::ipv4::ipproto;
use super::skbuff::{ETH_HLEN, eth_p};

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_*`
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_UDP: u8 = 3;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
/// Segments of one frame (`GSO_MAX_SEGS` of virtual devices is 65535, but no frame of 64 KiB has as many).
const MAX_SEGMENTS: usize = 2048;

/// `struct virtio_net_hdr`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

impl VnetHeader {
    /// Bytes of it; programs may set more (`TUNSETVNETHDRSZ`), which mean nothing here.
    pub const LEN: usize = 10;

    /// Reads one, with numbers in the order that `TUNSETVNETLE` and `TUNSETVNETBE` have set.
    pub fn parse(bytes: &[u8], big_endian: bool) -> Option<VnetHeader> {
        let word = |at: usize| {
            let pair = [*bytes.get(at)?, *bytes.get(at + 1)?];
            Some(if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) })
        };
        Some(VnetHeader {
            flags: *bytes.first()?,
            gso_type: *bytes.get(1)?,
            hdr_len: word(2)?,
            gso_size: word(4)?,
            csum_start: word(6)?,
            csum_offset: word(8)?,
        })
    }
}

/// Where the network header of a frame begins and what it is; frames without a link-layer header tell by their version.
fn network_of(frame: &[u8], ethernet: bool) -> Option<(usize, u16)> {
    if !ethernet {
        return match frame.first()? >> 4 {
            4 => Some((0, eth_p::IP)),
            6 => Some((0, eth_p::IPV6)),
            _ => None,
        };
    }
    let mut at = ETH_HLEN;
    let mut protocol = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    if protocol == eth_p::VLAN {
        protocol = u16::from_be_bytes([*frame.get(16)?, *frame.get(17)?]);
        at += 4;
    }
    Some((at, protocol))
}

/// Does what the header asks for and gives the frames as they go on: `virtio_net_hdr_to_skb` and `skb_gso_segment`. `None`: it makes
/// no sense (`EINVAL`).
pub fn complete(frame: Vec<u8>, header: VnetHeader, ethernet: bool) -> Option<Vec<Vec<u8>>> {
    match header.gso_type & !GSO_ECN {
        GSO_NONE => complete_checksum(frame, header).map(|frame| vec![frame]),
        kind => segment(&frame, header, kind, ethernet),
    }
}

/// `skb_checksum_help`: the field holds the sum of the pseudo header.
fn complete_checksum(mut frame: Vec<u8>, header: VnetHeader) -> Option<Vec<u8>> {
    if header.flags & NEEDS_CSUM == 0 {
        return Some(frame);
    }
    let start = usize::from(header.csum_start);
    let field = start + usize::from(header.csum_offset);
    if field + 2 > frame.len() {
        return None;
    }
    let sum = match !checksum::data(&frame[start..]) {
        // For UDP, 0 would mean that there is none.
        0 => 0xffff,
        sum => sum,
    };
    frame[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Some(frame)
}

/// `tcp_gso_segment`, `udp4_ufo_fragment` and their like: headers before every piece, numbers moved on. Large datagrams of the old
/// kind (`VIRTIO_NET_HDR_GSO_UDP`) stay whole and are fragmented on their way.
fn segment(frame: &[u8], header: VnetHeader, kind: u8, ethernet: bool) -> Option<Vec<Vec<u8>>> {
    let size = usize::from(header.gso_size);
    let (network, protocol) = network_of(frame, ethernet)?;
    if header.flags & NEEDS_CSUM == 0 || size == 0 {
        return None;
    }
    let transport = usize::from(header.csum_start);
    let is_v4 = protocol == eth_p::IP;
    let fits = match kind {
        GSO_TCPV4 => is_v4,
        GSO_TCPV6 => protocol == eth_p::IPV6,
        GSO_UDP | GSO_UDP_L4 => is_v4 || protocol == eth_p::IPV6,
        _ => false,
    };
    let least = network + if is_v4 { 20 } else { 40 };
    if !fits || transport < least {
        return None;
    }
    if kind == GSO_UDP {
        return complete_checksum(frame.to_vec(), header).map(|frame| vec![frame]);
    }
    let tcp = kind != GSO_UDP_L4;
    let transport_len = match tcp {
        true => usize::from(frame.get(transport + 12)? >> 4) * 4,
        false => 8,
    };
    if tcp && transport_len < 20 {
        return None;
    }
    let headers = transport + transport_len;
    let payload = frame.get(headers..)?;
    if payload.len().div_ceil(size) > MAX_SEGMENTS {
        return None;
    }
    if payload.is_empty() {
        return complete_checksum(frame.to_vec(), header).map(|frame| vec![frame]);
    }
    let source_destination = addresses(frame, network, is_v4)?;
    let sequence =
        tcp.then(|| u32::from_be_bytes(frame[transport + 4..transport + 8].try_into().unwrap_or_default()));
    let ident = u16::from_be_bytes([frame[network + 4], frame[network + 5]]);
    let count = payload.len().div_ceil(size);
    let mut segments = Vec::with_capacity(count);
    for (index, chunk) in payload.chunks(size).enumerate() {
        let mut bytes = frame[..headers].to_vec();
        bytes.extend_from_slice(chunk);
        let len = bytes.len() - network;
        if is_v4 {
            bytes[network + 2..network + 4].copy_from_slice(&(len as u16).to_be_bytes());
            bytes[network + 4..network + 6].copy_from_slice(&ident.wrapping_add(index as u16).to_be_bytes());
            super::super::ipv4::ip_send_check(&mut bytes[network..]);
        } else {
            bytes[network + 4..network + 6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        if let Some(sequence) = sequence {
            const FIN_PSH: u8 = 0x09;
            const CWR: u8 = 0x80;
            let sequence = sequence.wrapping_add((index * size) as u32);
            bytes[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            if index + 1 < count {
                bytes[transport + 13] &= !FIN_PSH;
            }
            if index > 0 {
                bytes[transport + 13] &= !CWR;
            }
        } else {
            let len = (8 + chunk.len()) as u16;
            bytes[transport + 4..transport + 6].copy_from_slice(&len.to_be_bytes());
        }
        let (protocol, field) =
            if tcp { (ipproto::TCP, transport + 16) } else { (ipproto::UDP, transport + 6) };
        bytes.get_mut(field..field + 2)?.fill(0);
        let (source, destination) = source_destination;
        let sum = !transport_sum(source, destination, protocol.into(), &bytes[transport..]);
        let sum = if sum == 0 && !tcp { 0xffff } else { sum };
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        segments.push(bytes);
    }
    Some(segments)
}

fn addresses(frame: &[u8], network: usize, is_v4: bool) -> Option<(IpAddr, IpAddr)> {
    let v4 =
        |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(frame.get(network + at..network + at + 4)?).ok()?));
    let v6 = |at: usize| {
        Some(IpAddr::from(<[u8; 16]>::try_from(frame.get(network + at..network + at + 16)?).ok()?))
    };
    if is_v4 { Some((v4(12)?, v4(16)?)) } else { Some((v6(8)?, v6(24)?)) }
}

/// The sum over pseudo header and payload; `0xffff` when a checksum in it is right.
pub fn transport_sum(source: IpAddr, destination: IpAddr, protocol: IpProtocol, payload: &[u8]) -> u16 {
    let len = payload.len() as u32;
    let pseudo = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            checksum::pseudo_header_v4(&source, &destination, protocol, len)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            checksum::pseudo_header_v6(&source, &destination, protocol, len)
        }
        _ => 0,
    };
    checksum::combine(&[pseudo, checksum::data(payload)])
}

/// Whether the checksum of a segment, datagram or message is right.
pub fn transport_checksum_ok(
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    payload: &[u8],
) -> bool {
    let without = protocol == IpProtocol::Udp
        && source.is_ipv4()
        && payload.get(6..8).is_some_and(|field| field == [0, 0]);
    without || transport_sum(source, destination, protocol, payload) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TCP packet without a link-layer header, with the sum of its pseudo header.
    fn packet(payload: usize) -> Vec<u8> {
        let mut bytes = vec![0; 40 + payload];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
        bytes[8] = 64;
        bytes[9] = ipproto::TCP;
        bytes[12..16].copy_from_slice(&[10, 0, 0, 1]);
        bytes[16..20].copy_from_slice(&[10, 0, 0, 2]);
        bytes[32] = 0x50;
        bytes[33] = 0x19;
        for (at, byte) in bytes[40..].iter_mut().enumerate() {
            *byte = at as u8;
        }
        let len = (20 + payload) as u32;
        let pseudo =
            checksum::pseudo_header_v4(&[10, 0, 0, 1].into(), &[10, 0, 0, 2].into(), IpProtocol::Tcp, len);
        bytes[36..38].copy_from_slice(&pseudo.to_be_bytes());
        bytes
    }

    #[test]
    fn a_large_segment_becomes_several_with_right_checksums() {
        let header = VnetHeader {
            flags: 1,
            gso_type: 1,
            hdr_len: 40,
            gso_size: 1000,
            csum_start: 20,
            csum_offset: 16,
        };
        let segments = complete(packet(2500), header, false).unwrap();
        assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [1040, 1040, 540]);
        for (index, segment) in segments.iter().enumerate() {
            let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            assert!(transport_checksum_ok(ends.0, ends.1, IpProtocol::Tcp, &segment[20..]));
            assert_eq!(checksum::data(&segment[..20]), 0xffff);
            assert_eq!(segment[24..28], (1000 * index as u32).to_be_bytes());
            assert_eq!(segment[33], if index == 2 { 0x19 } else { 0x10 });
        }
    }

    #[test]
    fn a_checksum_is_completed_and_nonsense_refused() {
        let header = VnetHeader { flags: 1, csum_start: 20, csum_offset: 16, ..VnetHeader::default() };
        let done = complete(packet(33), header, false).unwrap().remove(0);
        assert!(transport_checksum_ok(
            [10, 0, 0, 1].into(),
            [10, 0, 0, 2].into(),
            IpProtocol::Tcp,
            &done[20..]
        ));
        let beyond = VnetHeader { csum_start: 90, ..header };
        assert_eq!(complete(packet(33), beyond, false), None);
        let no_size = VnetHeader { gso_type: 1, ..header };
        assert_eq!(complete(packet(33), no_size, false), None);
        let other_family = VnetHeader { gso_type: 4, gso_size: 10, ..header };
        assert_eq!(complete(packet(33), other_family, false), None);
    }
}
