//! Receive rings of packet sockets (`packet(7)`, `PACKET_RX_RING`; `tpacket_rcv` and its relatives in `net/packet/af_packet.c`).
//!
//! The ring is memory that a program has mapped: it may write anything there at any time. So nothing in it is believed but the status
//! words by which the program gives frames and blocks back, and a false one only costs the program its own packets. Where things
//! stand is kept here.
//!
//! Versions 1 and 2 have frames of one size, each with a status. Version 3 has blocks, which are filled with packets one behind
//! the other and handed over when they are full or their time has passed.

use super::core::softirq::Timer;
use super::stack::Stack;
use crate::errno::{Errno, Result};

/// The memory of a ring, and the time of day.
pub trait RingMemory: Send + Sync {
    /// The 32-bit word at `at`, bytes from the start of the ring.
    fn load(&self, at: u64) -> u32;
    /// Writes bytes at `at`. What was written before is seen before.
    fn store(&self, at: u64, bytes: &[u8]);
    /// Seconds and nanoseconds since the epoch.
    fn time_of_day(&self) -> (u32, u32);
}

/// Status words: `TP_STATUS_*`.
mod status {
    pub const KERNEL: u32 = 0;
    pub const USER: u32 = 1;
    pub const LOSING: u32 = 1 << 2;
    pub const BLK_TMO: u32 = 1 << 5;
    pub const TS_SOFTWARE: u32 = 1 << 29;
}

/// `TPACKET_ALIGNMENT`, in bytes.
const ALIGNMENT: u32 = 16;
const PAGE_SIZE: u32 = 4096;
/// `sizeof(struct sockaddr_ll)`
const SOCKADDR_LL: u32 = 20;
/// `BLK_HDR_LEN`: a `struct tpacket_block_desc`.
const BLOCK_HEADER: u32 = 48;
/// Packets of a block are aligned to so many bytes: `V3_ALIGNMENT`.
const V3_ALIGNMENT: u32 = 8;
/// How long a block waits to be filled where the program does not say: `DEFAULT_PRB_RETIRE_TOV`, in milliseconds.
const RETIRE_MS: u32 = 8;
/// Most bytes of one ring.
const MAX_RING: u64 = 256 << 20;

/// `TPACKET_V1` and its successors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `TPACKET_V1`
    #[default]
    V1,
    /// `TPACKET_V2`
    V2,
    /// `TPACKET_V3`
    V3,
}

impl Version {
    /// By number.
    ///
    /// # Errors
    /// `EINVAL`: there is no such version.
    pub fn new(number: i32) -> Result<Version> {
        [Version::V1, Version::V2, Version::V3]
            .into_iter()
            .find(|known| *known as i32 == number)
            .ok_or(Errno::EINVAL)
    }

    /// Bytes of the header of a packet, `PACKET_HDRLEN`: `sizeof(struct tpacket_hdr)` and its like.
    pub fn own_header(self) -> u32 {
        match self {
            Version::V1 | Version::V2 => 32,
            Version::V3 => 48,
        }
    }

    /// Bytes of the header with the address that follows: `po->tp_hdrlen`.
    fn header(self) -> u32 {
        self.own_header() + SOCKADDR_LL
    }
}

/// `struct tpacket_req3`, whose first half is `struct tpacket_req`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Bytes of a block.
    pub block_size: u32,
    /// How many blocks.
    pub block_nr: u32,
    /// Bytes of a frame.
    pub frame_size: u32,
    /// How many frames.
    pub frame_nr: u32,
    /// Milliseconds until a block that has packets is handed over.
    pub retire_ms: u32,
    /// Bytes of each block that are the program's own.
    pub private: u32,
}

impl Request {
    /// As it stands in memory.
    ///
    /// # Errors
    /// `EINVAL`: too short.
    pub fn parse(bytes: &[u8], version: Version) -> Result<Request> {
        let word = |index: usize| {
            let at = index * 4;
            bytes
                .get(at..at + 4)
                .and_then(|word| word.try_into().ok())
                .map(u32::from_ne_bytes)
                .ok_or(Errno::EINVAL)
        };
        let mut request = Request {
            block_size: word(0)?,
            block_nr: word(1)?,
            frame_size: word(2)?,
            frame_nr: word(3)?,
            ..Request::default()
        };
        if version == Version::V3 {
            (request.retire_ms, request.private) = (word(4)?, word(5)?);
            // Features: the only one there is, a hash of the flow, is 0 for virtual devices.
            word(6)?;
        }
        Ok(request)
    }

    /// Bytes of the ring; 0: there is to be none any more.
    ///
    /// # Errors
    /// `EINVAL`: sizes that do not fit together (`packet_set_ring`). `ENOMEM`: too large.
    pub fn size(&self, version: Version, reserve: u32) -> Result<u64> {
        if self.block_nr == 0 {
            return if self.frame_nr == 0 { Ok(0) } else { Err(Errno::EINVAL) };
        }
        let least = version.header().checked_add(reserve).ok_or(Errno::EINVAL)?;
        let sound = self.block_size as i32 > 0
            && self.block_size.is_multiple_of(PAGE_SIZE)
            && (version != Version::V3
                || u64::from(self.block_size) >= self.block_header() + u64::from(least))
            && self.frame_size >= least
            && self.frame_size.is_multiple_of(ALIGNMENT)
            && self.block_size / self.frame_size.max(1) > 0;
        let frames = (self.block_size / self.frame_size.max(1)).checked_mul(self.block_nr);
        if !sound || frames != Some(self.frame_nr) {
            return Err(Errno::EINVAL);
        }
        let size = u64::from(self.block_size) * u64::from(self.block_nr);
        if size > MAX_RING { Err(Errno::ENOMEM) } else { Ok(size) }
    }

    /// `BLK_PLUS_PRIV`: where the first packet of a block stands.
    fn block_header(&self) -> u64 {
        u64::from(BLOCK_HEADER) + u64::from(self.private).next_multiple_of(V3_ALIGNMENT.into())
    }
}

/// A block that is being filled.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Bytes used.
    len: u64,
    packets: u32,
    /// Where the last packet stands, bytes from the start of the block.
    last: u64,
    /// When its first packet came, in seconds and nanoseconds of the day.
    first_time: (u32, u32),
    last_time: (u32, u32),
}

/// A receive ring: `struct packet_ring_buffer`.
pub struct PacketRing {
    memory: Box<dyn RingMemory>,
    version: Version,
    reserve: u32,
    request: Request,
    /// The frame or block that is next.
    head: u32,
    /// Of version 3: what is being filled; `None`: the program has the block at `head` (a frozen queue).
    open: Option<Open>,
    /// Number of the block that is opened next.
    sequence: u64,
    /// When the block that is open is handed over, in nanoseconds of the stack's clock.
    pub(super) retire_at: Option<u64>,
    /// How often the program had the next block when one was full, since it was last asked: `tp_freeze_q_cnt`.
    pub frozen: u32,
}

impl std::fmt::Debug for PacketRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketRing")
            .field("request", &self.request)
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// A packet as it goes into a ring.
pub(super) struct Arrival<'a> {
    /// The bytes.
    pub data: &'a [u8],
    /// How many of them the filter lets through.
    pub wanted: usize,
    /// Bytes before the network header; 0 for `SOCK_DGRAM`.
    pub mac_len: u32,
    /// Without link-layer header: `SOCK_DGRAM`.
    pub dgram: bool,
    /// `struct sockaddr_ll`
    pub address: &'a [u8],
    /// Packets have been lost.
    pub losing: bool,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// There was no room.
    Dropped,
    /// It is in the block that is being filled.
    Kept,
    /// The program has something to read now.
    Ready,
}

impl PacketRing {
    /// An empty ring in `memory`, which is all zero.
    ///
    /// # Errors
    /// Those of [`Request::size`].
    pub fn new(
        memory: Box<dyn RingMemory>,
        version: Version,
        reserve: u32,
        request: Request,
    ) -> Result<PacketRing> {
        request.size(version, reserve)?;
        let mut ring = PacketRing {
            memory,
            version,
            reserve,
            request,
            head: 0,
            open: None,
            sequence: 1,
            retire_at: None,
            frozen: 0,
        };
        if version == Version::V3 {
            ring.open_block();
        }
        Ok(ring)
    }

    /// What was asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    fn slots(&self) -> u32 {
        if self.version == Version::V3 { self.request.block_nr } else { self.request.frame_nr }
    }

    /// Where a frame or block stands.
    fn place(&self, slot: u32) -> u64 {
        if self.version == Version::V3 {
            return u64::from(slot) * u64::from(self.request.block_size);
        }
        let in_block = self.request.block_size / self.request.frame_size;
        let block = u64::from(slot / in_block) * u64::from(self.request.block_size);
        block + u64::from(slot % in_block) * u64::from(self.request.frame_size)
    }

    /// Where the status of a frame or block stands.
    fn status_at(&self, slot: u32) -> u64 {
        self.place(slot) + if self.version == Version::V3 { 8 } else { 0 }
    }

    fn has_kernel(&self, slot: u32) -> bool {
        self.memory.load(self.status_at(slot)) == status::KERNEL
    }

    /// Whether `poll(2)` says that there is something to read: the last frame or block that was handed over is still the program's.
    pub fn is_ready(&self) -> bool {
        let previous = self.head.checked_sub(1).unwrap_or(self.slots() - 1);
        !self.has_kernel(previous)
    }

    fn advance(&mut self) {
        self.head = (self.head + 1) % self.slots();
    }

    /// Puts a packet in: `tpacket_rcv`.
    pub(super) fn receive(&mut self, arrival: &Arrival<'_>) -> Taken {
        let header = self.version.header();
        let net = if arrival.dgram {
            header.next_multiple_of(ALIGNMENT) + 16 + self.reserve
        } else {
            (header + arrival.mac_len.max(16)).next_multiple_of(ALIGNMENT) + self.reserve
        };
        let mac = net - if arrival.dgram { 0 } else { arrival.mac_len };
        if net > u32::from(u16::MAX) {
            return Taken::Dropped;
        }
        let room = match self.version {
            Version::V3 => u64::from(self.request.block_size) - self.request.block_header(),
            _ => u64::from(self.request.frame_size),
        };
        // What the program has reserved may leave no room for data.
        let mac = u64::from(mac).min(room) as u32;
        let snap = arrival.wanted.min(arrival.data.len()).min((room - u64::from(mac)) as usize);
        let data = &arrival.data[..snap];
        let offsets = (mac as u16, net as u16);
        if self.version == Version::V3 {
            return self.receive_in_block(arrival, data, offsets);
        }
        if !self.has_kernel(self.head) {
            return Taken::Dropped;
        }
        let at = self.place(self.head);
        let status = status::USER | status::TS_SOFTWARE | if arrival.losing { status::LOSING } else { 0 };
        let time = self.memory.time_of_day();
        let mut text = Vec::with_capacity(mac as usize + snap);
        // The status is written last of all.
        let lens = [arrival.data.len() as u32, snap as u32];
        let (start, part) = match self.version {
            Version::V1 => (8, time.1 / 1000),
            _ => (4, time.1),
        };
        text.extend(lens.iter().flat_map(|word| word.to_ne_bytes()));
        text.extend([offsets.0, offsets.1].iter().flat_map(|half| half.to_ne_bytes()));
        text.extend([time.0, part].iter().flat_map(|word| word.to_ne_bytes()));
        text.resize(self.version.own_header() as usize - start, 0);
        text.extend(arrival.address);
        if !data.is_empty() {
            text.resize(mac as usize - start, 0);
            text.extend(data);
        }
        self.memory.store(at + start as u64, &text);
        match self.version {
            Version::V1 => self.memory.store(at, &u64::from(status).to_ne_bytes()),
            _ => self.memory.store(at, &status.to_ne_bytes()),
        }
        self.advance();
        Taken::Ready
    }

    /// `__packet_lookup_frame_in_block` and what fills the frame.
    fn receive_in_block(&mut self, arrival: &Arrival<'_>, data: &[u8], (mac, net): (u16, u16)) -> Taken {
        if self.open.is_none() {
            if !self.has_kernel(self.head) {
                return Taken::Dropped;
            }
            self.open_block();
        }
        let need = (u64::from(mac) + data.len() as u64).next_multiple_of(V3_ALIGNMENT.into());
        let mut ready = false;
        if self.open.is_some_and(|open| open.len + need > self.request.block_size.into()) {
            self.close_block(0, arrival.losing);
            ready = true;
            if !self.dispatch_next_block() {
                return Taken::Ready;
            }
        }
        let time = self.memory.time_of_day();
        let block = self.place(self.head);
        let Some(open) = &mut self.open else { return Taken::Dropped };
        let at = open.len;
        let mut text = Vec::with_capacity(need as usize);
        let words = [need as u32, time.0, time.1, data.len() as u32, arrival.data.len() as u32];
        text.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        text.extend((status::USER | status::TS_SOFTWARE).to_ne_bytes());
        text.extend([mac, net].iter().flat_map(|half| half.to_ne_bytes()));
        text.resize(self.version.own_header() as usize, 0);
        text.extend(arrival.address);
        if !data.is_empty() {
            text.resize(mac.into(), 0);
            text.extend(data);
        }
        self.memory.store(block + at, &text);
        if open.packets == 0 {
            open.first_time = time;
        }
        (open.last, open.last_time) = (at, time);
        open.packets += 1;
        open.len += need;
        if ready { Taken::Ready } else { Taken::Kept }
    }

    /// `prb_open_block`
    fn open_block(&mut self) {
        let len = self.request.block_header();
        let time = self.memory.time_of_day();
        self.open = Some(Open { len, packets: 0, last: 0, first_time: time, last_time: time });
        self.retire_at = None;
    }

    /// `prb_close_block`: hands the block over.
    fn close_block(&mut self, why: u32, losing: bool) {
        let Some(open) = self.open.take() else { return };
        let block = self.place(self.head);
        // The last packet has none after it.
        self.memory.store(block + open.last, &0u32.to_ne_bytes());
        const VERSION: u32 = 3;
        let first = self.request.block_header() as u32;
        let mut text = Vec::with_capacity(BLOCK_HEADER as usize);
        text.extend([VERSION, BLOCK_HEADER].iter().flat_map(|word| word.to_ne_bytes()));
        self.memory.store(block, &text);
        text.clear();
        text.extend([open.packets, first, open.len as u32].iter().flat_map(|word| word.to_ne_bytes()));
        text.extend(self.sequence.to_ne_bytes());
        let times = [open.first_time.0, open.first_time.1, open.last_time.0, open.last_time.1];
        text.extend(times.iter().flat_map(|word| word.to_ne_bytes()));
        self.memory.store(block + 12, &text);
        let status = status::USER | why | if losing { status::LOSING } else { 0 };
        self.memory.store(block + 8, &status.to_ne_bytes());
        self.sequence += 1;
        self.retire_at = None;
        self.advance();
    }

    /// `prb_dispatch_next_block`: false if the program still has it.
    fn dispatch_next_block(&mut self) -> bool {
        if !self.has_kernel(self.head) {
            self.frozen = self.frozen.wrapping_add(1);
            return false;
        }
        self.open_block();
        true
    }

    /// The time of a block has passed: `prb_retire_rx_blk_timer_expired`. Gives whether the program has something to read now.
    fn retire(&mut self, losing: bool) -> bool {
        if self.open.is_none_or(|open| open.packets == 0) {
            return false;
        }
        self.close_block(status::BLK_TMO, losing);
        self.dispatch_next_block();
        true
    }

    /// How long a block waits to be filled, in nanoseconds.
    fn retire_after(&self) -> u64 {
        let ms = if self.request.retire_ms == 0 { RETIRE_MS } else { self.request.retire_ms };
        u64::from(ms) * 1_000_000
    }

    /// A packet is in the block that is open: when it has to be handed over, if that was not settled before.
    pub(super) fn arm(&mut self, now: u64) -> Option<u64> {
        if self.retire_at.is_some() || self.open.is_none_or(|open| open.packets == 0) {
            return None;
        }
        self.retire_at = Some(now + self.retire_after());
        self.retire_at
    }
}

impl Stack {
    /// Gives a packet socket a ring, or with `None` takes it: `packet_set_ring`.
    ///
    /// # Errors
    /// `EBUSY`: it has one.
    pub fn packet_set_ring(&mut self, socket: u64, ring: Option<PacketRing>) -> Result<()> {
        let own = self.packet_sockets.get_mut(&socket).ok_or(Errno::EBADF)?;
        if ring.is_some() && own.ring.is_some() {
            return Err(Errno::EBUSY);
        }
        own.ring = ring;
        Ok(())
    }

    /// The timer of a ring's block.
    pub(super) fn packet_ring_timer(&mut self, socket: u64) {
        let now = self.now();
        let Some(own) = self.packet_sockets.get_mut(&socket) else { return };
        let losing = own.stats.1 > 0;
        let Some(ring) = own.ring.as_mut().filter(|ring| ring.retire_at.is_some_and(|at| at <= now)) else {
            return;
        };
        if ring.retire(losing) {
            self.hand_out(super::core::softirq::Out::RingReady { socket });
        }
    }

    /// Sets the timer of the block that a packet has gone into.
    pub(super) fn packet_ring_arm(&mut self, socket: u64) {
        let now = self.now();
        let ring = self.packet_sockets.get_mut(&socket).and_then(|own| own.ring.as_mut());
        if let Some(at) = ring.and_then(|ring| ring.arm(now)) {
            self.add_timer(at, Timer::PacketRing(socket));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Bytes(Arc<Mutex<Vec<u8>>>);

    impl RingMemory for Bytes {
        fn load(&self, at: u64) -> u32 {
            u32::from_ne_bytes(self.0.lock().unwrap()[at as usize..][..4].try_into().unwrap())
        }

        fn store(&self, at: u64, bytes: &[u8]) {
            self.0.lock().unwrap()[at as usize..][..bytes.len()].copy_from_slice(bytes);
        }

        fn time_of_day(&self) -> (u32, u32) {
            (1000, 5000)
        }
    }

    fn ring(version: Version, request: Request, reserve: u32) -> (PacketRing, Bytes) {
        let memory = Bytes::default();
        memory.0.lock().unwrap().resize(request.size(version, reserve).unwrap() as usize, 0);
        (PacketRing::new(Box::new(memory.clone()), version, reserve, request).unwrap(), memory)
    }

    fn put(ring: &mut PacketRing, data: &[u8]) -> Taken {
        let (wanted, mac_len, dgram, losing) = (usize::MAX, 14, false, false);
        ring.receive(&Arrival { data, wanted, mac_len, dgram, address: &[7; 20], losing })
    }

    const SMALL: Request =
        Request { block_size: 4096, block_nr: 2, frame_size: 2048, frame_nr: 4, retire_ms: 10, private: 0 };

    #[test]
    fn sizes_that_do_not_fit_together_are_refused() {
        for version in [Version::V1, Version::V2, Version::V3] {
            assert_eq!(SMALL.size(version, 0), Ok(8192));
            for wrong in [
                Request { block_size: 4095, ..SMALL },
                Request { block_size: 0, ..SMALL },
                Request { block_size: 1 << 31, ..SMALL },
                Request { frame_size: 16, ..SMALL },
                Request { frame_size: 2056, ..SMALL },
                Request { frame_size: 0, ..SMALL },
                Request { frame_size: 8192, ..SMALL },
                Request { frame_nr: 5, ..SMALL },
                Request { block_nr: 0, ..SMALL },
                Request { block_nr: u32::MAX, frame_nr: u32::MAX - 1, ..SMALL },
            ] {
                assert_eq!(wrong.size(version, 0), Err(Errno::EINVAL), "{wrong:?}");
            }
            assert_eq!(SMALL.size(version, u32::MAX), Err(Errno::EINVAL));
            assert_eq!(SMALL.size(version, 2000), Err(Errno::EINVAL));
        }
        assert_eq!(Request { private: 4000, ..SMALL }.size(Version::V3, 0), Err(Errno::EINVAL));
        let large = Request {
            block_size: 1 << 20,
            block_nr: 1 << 10,
            frame_size: 1 << 20,
            frame_nr: 1 << 10,
            ..SMALL
        };
        assert_eq!(large.size(Version::V2, 0), Err(Errno::ENOMEM));
    }

    #[test]
    fn frames_go_round_and_a_full_ring_drops() {
        let (mut ring, memory) = ring(Version::V2, SMALL, 0);
        assert!(!ring.is_ready());
        for _ in 0..4 {
            assert_eq!(put(&mut ring, &[9; 60]), Taken::Ready);
        }
        assert_eq!(put(&mut ring, &[9; 60]), Taken::Dropped);
        assert!(ring.is_ready());
        {
            let bytes = memory.0.lock().unwrap();
            let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
            assert_eq!((word(2048) & 1, word(2052), word(2056)), (1, 60, 60));
            let mac = usize::from(u16::from_ne_bytes(bytes[2060..2062].try_into().unwrap()));
            assert_eq!(&bytes[2048 + mac..2048 + mac + 60], &[9; 60]);
            assert_eq!(&bytes[2048 + 32..2048 + 52], &[7; 20]);
        }
        for frame in 0..4 {
            memory.store(frame * 2048, &[0; 4]);
        }
        assert!(!ring.is_ready());
        assert_eq!(put(&mut ring, &[1; 5000]), Taken::Ready);
        assert_eq!(
            memory.load(8),
            2048 - u32::from_ne_bytes([memory.load(12) as u8, 0, 0, 0]),
            "cut to the frame"
        );
    }

    #[test]
    fn a_block_is_handed_over_when_it_is_full_or_its_time_has_passed() {
        let (mut ring, memory) = ring(Version::V3, SMALL, 0);
        assert_eq!(put(&mut ring, &[1; 60]), Taken::Kept);
        assert_eq!(ring.arm(5), Some(10_000_005));
        assert_eq!(ring.arm(6), None);
        assert!(!ring.is_ready());
        assert!(ring.retire(false));
        assert!(ring.is_ready());
        assert_eq!((memory.load(8) & 1, memory.load(12), memory.load(16)), (1, 1, 48));
        // The second block, until it is full; then the program has both.
        assert_eq!(put(&mut ring, &[2; 3000]), Taken::Kept);
        assert_eq!(put(&mut ring, &[3; 3000]), Taken::Ready);
        assert_eq!(put(&mut ring, &[4; 60]), Taken::Dropped);
        assert_eq!(ring.frozen, 1);
        memory.store(8, &[0; 4]);
        assert_eq!(put(&mut ring, &[5; 60]), Taken::Kept);
        assert!(!ring.retire(false) || memory.load(4096 + 8) & 1 == 1);
    }

    #[test]
    fn what_the_program_writes_leads_nowhere_else() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u32
        };
        for round in 0..300 {
            let version = [Version::V1, Version::V2, Version::V3][round % 3];
            let frame_size = 16 * (1 + random() % 400);
            let block_size = 4096 * (1 + random() % 4);
            let block_nr = 1 + random() % 4;
            let frame_nr = block_size / frame_size * block_nr;
            let request = Request {
                block_size,
                block_nr,
                frame_size,
                frame_nr,
                retire_ms: 0,
                private: random() % 5000,
            };
            let reserve = random() % 5000;
            if request.size(version, reserve).is_err() {
                continue;
            }
            // Every store is inside: `Bytes` would panic.
            let (mut ring, memory) = ring(version, request, reserve);
            for _ in 0..200 {
                put(&mut ring, &vec![7; 14 + random() as usize % 3000]);
                let mut bytes = memory.0.lock().unwrap();
                let at = random() as usize % (bytes.len() - 8);
                bytes[at..at + 8].fill(random() as u8 % 2);
                drop(bytes);
                if random() % 8 == 0 {
                    ring.retire(false);
                }
                ring.is_ready();
            }
        }
    }
}
