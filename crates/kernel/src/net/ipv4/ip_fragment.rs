//! Fragments (`net/ipv4/ip_fragment.c`, `net/ipv6/reassembly.c`): taking packets apart and putting them together again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use smoltcp::wire::Ipv4Packet;

use super::super::core::skbuff::{SkBuff, eth_p};
use super::super::core::softirq::Timer;
use super::super::stack::Stack;
use super::ip_output::{HEADER_LEN, ip_send_check};

/// Bytes of fragments that may wait in a sandbox (`ipfrag_high_thresh`, which is for each namespace).
const HIGH_THRESH: usize = 4 << 20;
/// How long fragments wait for the others, in nanoseconds (`ipfrag_time`: 30 s).
const FRAG_TIME: u64 = 30_000_000_000;
/// Fragments of one packet.
const MAX_PIECES: usize = 8192 / 8;

/// Which fragments belong together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FragKey {
    pub net: u64,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub id: u32,
    pub protocol: u8,
}

/// Fragments of one packet: `struct ipq`.
#[derive(Debug, Default)]
struct FragQueue {
    /// By offset, none overlapping another.
    pieces: BTreeMap<usize, Vec<u8>>,
    bytes: usize,
    /// Length of the whole, once the last one is here.
    total: Option<usize>,
    /// The first fragment, its header and all, for the header of the whole.
    first: Option<SkBuff>,
    expires: u64,
}

/// All that wait.
#[derive(Debug, Default)]
pub(crate) struct Frags {
    queues: BTreeMap<FragKey, FragQueue>,
    bytes: usize,
}

/// A fragment without its headers.
pub(crate) struct Piece<'a> {
    pub offset: usize,
    pub more: bool,
    pub data: &'a [u8],
}

impl Frags {
    /// Adds a fragment; gives the first fragment and the whole payload when it is complete. Overlapping fragments make all of the
    /// packet invalid (RFC 5722).
    pub(crate) fn add(
        &mut self,
        key: &FragKey,
        piece: &Piece<'_>,
        skb: &SkBuff,
        now: u64,
    ) -> Option<(SkBuff, Vec<u8>)> {
        let end = piece.offset + piece.data.len();
        if end > usize::from(u16::MAX)
            || piece.data.is_empty()
            || piece.more && !piece.data.len().is_multiple_of(8)
        {
            return None;
        }
        while self.bytes + piece.data.len() > HIGH_THRESH {
            let oldest =
                self.queues.iter().min_by_key(|(_, queue)| queue.expires).map(|(key, _)| key.clone())?;
            self.remove(&oldest);
        }
        let queue = self
            .queues
            .entry(key.clone())
            .or_insert_with(|| FragQueue { expires: now + FRAG_TIME, ..FragQueue::default() });
        let before = queue.pieces.range(..=piece.offset).next_back().map(|(at, data)| at + data.len());
        let after = queue.pieces.range(piece.offset..).next().map(|(at, _)| *at);
        let contradicts = queue.total.is_some_and(|total| end > total || !piece.more && end != total)
            || !piece.more && queue.pieces.iter().any(|(at, data)| at + data.len() > end);
        if before.is_some_and(|before| before > piece.offset)
            || after.is_some_and(|after| after < end)
            || contradicts
            || queue.pieces.len() >= MAX_PIECES
        {
            self.remove(key);
            return None;
        }
        queue.pieces.insert(piece.offset, piece.data.to_vec());
        queue.bytes += piece.data.len();
        self.bytes += piece.data.len();
        if !piece.more {
            queue.total = Some(end);
        }
        if piece.offset == 0 {
            queue.first = Some(skb.clone());
        }
        if queue.total != Some(queue.bytes) || queue.first.is_none() {
            return None;
        }
        let queue = self.remove(key)?;
        let whole = queue.pieces.into_values().flatten().collect();
        Some((queue.first?, whole))
    }

    fn remove(&mut self, key: &FragKey) -> Option<FragQueue> {
        let queue = self.queues.remove(key)?;
        self.bytes -= queue.bytes;
        Some(queue)
    }

    /// Whether some wait.
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Takes out what has waited too long: the first fragments, where these have come.
    fn expire(&mut self, now: u64) -> Vec<SkBuff> {
        let due = |(key, queue): (&FragKey, &FragQueue)| (queue.expires <= now).then(|| key.clone());
        let due: Vec<FragKey> = self.queues.iter().filter_map(due).collect();
        due.iter().filter_map(|key| self.remove(key)?.first).collect()
    }

    /// Forgets the fragments of a namespace that ends.
    pub(crate) fn forget(&mut self, net: u64) {
        let of_net: Vec<FragKey> = self.queues.keys().filter(|key| key.net == net).cloned().collect();
        for key in of_net {
            self.remove(&key);
        }
    }
}

impl Stack {
    /// Collects fragments; gives whole packets: `ip_defrag`.
    pub(super) fn ip_defrag(&mut self, net: u64, skb: SkBuff) -> Option<SkBuff> {
        let packet = Ipv4Packet::new_checked(skb.network()).ok()?;
        if !packet.more_frags() && packet.frag_offset() == 0 {
            return Some(skb);
        }
        let key = FragKey {
            net,
            source: packet.src_addr().into(),
            destination: packet.dst_addr().into(),
            id: packet.ident().into(),
            protocol: packet.next_header().into(),
        };
        // smoltcp counts bytes here.
        let piece = Piece {
            offset: packet.frag_offset().into(),
            more: packet.more_frags(),
            data: &skb.network()[usize::from(packet.header_len())..],
        };
        self.arm_frag_timer();
        let (now, mut frags) = (self.now(), std::mem::take(&mut self.frags));
        let done = frags.add(&key, &piece, &skb, now);
        self.frags = frags;
        let (first, payload) = done?;
        let header_len = usize::from(first.network()[0] & 0xf) * 4;
        let mut bytes = first.network()[..header_len].to_vec();
        bytes.extend(payload);
        let total = u16::try_from(bytes.len()).ok()?;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[6..8].fill(0);
        ip_send_check(&mut bytes);
        let mut whole = SkBuff::new(first.dev, eth_p::IP, &bytes);
        whole.pkt_type = first.pkt_type;
        Some(whole)
    }

    pub(crate) fn arm_frag_timer(&mut self) {
        if self.frags.is_empty() {
            let at = self.now() + FRAG_TIME;
            self.add_timer(at, Timer::Fragments);
        }
    }

    /// `ip_expire`
    pub(crate) fn frag_expire(&mut self) {
        let now = self.now();
        for first in self.frags.expire(now) {
            if first.protocol == eth_p::IP {
                self.icmp_send(
                    &first,
                    super::icmp::icmp_type::TIME_EXCEEDED,
                    super::icmp::icmp_code::EXC_FRAGTIME,
                    0,
                );
            }
        }
        if !self.frags.is_empty() {
            self.add_timer(now + FRAG_TIME / 4, Timer::Fragments);
        }
    }
}

/// Takes a packet apart for a way that takes `mtu` bytes: `ip_do_fragment`. `None`: it must not be.
pub(super) fn fragment(network: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let packet = Ipv4Packet::new_checked(network).ok()?;
    let header_len = usize::from(packet.header_len());
    if packet.dont_frag() || mtu < header_len + 8 {
        return None;
    }
    let (offset, more) = (usize::from(packet.frag_offset()), packet.more_frags());
    let step = (mtu - header_len) & !7;
    let payload = &network[header_len..];
    let mut fragments = Vec::new();
    for (index, chunk) in payload.chunks(step).enumerate() {
        let at = offset + index * step;
        let last = index * step + chunk.len() == payload.len();
        let mut bytes = network[..header_len].to_vec();
        bytes.extend_from_slice(chunk);
        bytes[2..4].copy_from_slice(&((header_len + chunk.len()) as u16).to_be_bytes());
        let flags = if more || !last { 0x2000 } else { 0 };
        bytes[6..8].copy_from_slice(&((at / 8) as u16 | flags).to_be_bytes());
        if index > 0 && header_len > HEADER_LEN {
            clear_options(&mut bytes[HEADER_LEN..header_len]);
        }
        ip_send_check(&mut bytes);
        fragments.push(bytes);
    }
    Some(fragments)
}

/// Options that are not copied into later fragments become no operations: `ip_options_fragment`.
fn clear_options(options: &mut [u8]) {
    const NOP: u8 = 1;
    let mut at = 0;
    while at < options.len() {
        let len = match options[at] {
            0 => return,
            NOP => 1,
            _ => usize::from(options.get(at + 1).copied().unwrap_or(0)),
        };
        if len == 0 || at + len > options.len() {
            return;
        }
        if options[at] & 0x80 == 0 {
            options[at..at + len].fill(NOP);
        }
        at += len;
    }
}
