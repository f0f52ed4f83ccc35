//! The queue of packets that are to be looked at, timers, and what leaves the model.
//!
//! In Linux a packet that is received on a virtual device waits in the backlog of a processor (`netif_rx`) for the soft interrupt;
//! sending calls the device directly. Here both wait in one queue, so that no chain of devices, however it is wired, makes the
//! stack grow. Whoever holds the lock runs it ([`Stack::net_rx_action`]) and takes what is to be handed out.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use super::super::dev::DevId;
use super::super::stack::Stack;
use super::skbuff::SkBuff;

/// Packets that may wait: of more, the newest are dropped (`net.core.netdev_max_backlog` is 1000 for each processor).
const MAX_BACKLOG: usize = 4096;
/// How many packets one run looks at before others get the lock (`net.core.netdev_budget` is 300).
pub const BUDGET: usize = 512;
/// Through how many devices a packet may be handed on (`XMIT_RECURSION_LIMIT` is 8, for each processor).
const MAX_HOPS: u8 = 32;
/// Packets that may wait to be handed out.
const MAX_OUT: usize = 8192;

/// What is to be done with a packet.
#[derive(Debug)]
pub(crate) enum Work {
    /// It has come in on its device: `netif_rx`.
    Receive(SkBuff),
    /// It is to be sent by its device: `dev_queue_xmit`.
    Xmit(SkBuff),
}

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// `neigh_timer_handler`
    Neighbour(DevId, IpAddr),
    /// The next address that is to be tried or has passed: `addrconf_dad_work`.
    Dad(DevId, Ipv6Addr),
    /// The next solicitation of a router: `addrconf_rs_timer`.
    RouterSolicitation(DevId),
    /// Fragments that have waited too long: `ip_expire`.
    Fragments,
    /// The block of this packet socket's ring: `prb_retire_rx_blk_timer_expired`.
    PacketRing(u64),
}

/// What leaves the model.
#[derive(Debug)]
pub enum Out {
    /// A frame for the program at a queue of a tun device.
    Tun {
        /// The device.
        dev: DevId,
        /// Number of the queue, as [`Stack::tun_attach`] gave it.
        queue: u64,
        /// The frame without any header of the driver's.
        skb: SkBuff,
    },
    /// A frame for the program at a queue of a macvtap.
    Tap {
        /// The device.
        dev: DevId,
        /// Number of the queue, as [`Stack::tap_open`] was given it.
        queue: u64,
        /// The frame without any header of the driver's.
        skb: SkBuff,
    },
    /// A message for a packet, raw or ping socket.
    Socket {
        /// The socket.
        socket: u64,
        /// What it receives.
        message: Message,
    },
    /// An IP packet of TCP or UDP that is for this namespace: whoever keeps these sockets looks for one, and answers with
    /// [`Stack::port_unreachable`] where there is none. The packet is whole, its network header in front.
    Transport {
        /// The namespace.
        net: u64,
        /// The packet.
        skb: SkBuff,
    },
    /// An ICMP error about a packet of TCP or UDP that we have sent.
    TransportError {
        /// The namespace.
        net: u64,
        /// `IPPROTO_TCP` or `IPPROTO_UDP`
        protocol: u8,
        /// Where it was from: an address of ours.
        source: std::net::SocketAddr,
        /// Where it was going.
        destination: std::net::SocketAddr,
        /// What to tell the socket, a number of `errno(3)`.
        errno: crate::errno::Errno,
        /// Whether a connection ends of it at once, or only when it does not go on: `icmp_err_convert[].fatal`.
        fatal: bool,
        /// Who has sent the error.
        offender: IpAddr,
        /// `ICMP_*` type and code, and for a packet too large the MTU.
        kind: (u8, u8, u32),
    },
    /// An error about a packet of a raw or ping socket.
    SocketError {
        /// The socket.
        socket: u64,
        /// What to tell it.
        errno: crate::errno::Errno,
    },
    /// There is something to read in the ring of a packet socket.
    RingReady {
        /// The socket.
        socket: u64,
    },
    /// Something that notifications tell of has changed at a device: its addresses, its neighbours or its carrier.
    Changed(DevId),
}

/// What a socket receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it is from: a `struct sockaddr_*`.
    pub source: Vec<u8>,
    /// The bytes.
    pub data: Vec<u8>,
    /// The length the packet had before a filter cut it.
    pub original_len: usize,
    /// For the ancillary data that the socket has asked for.
    pub ancillary: Ancillary,
}

/// What ancillary data can tell of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ancillary {
    /// Index of the device it came in on.
    pub ifindex: u32,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// The address it was sent to.
    pub destination: Option<IpAddr>,
    /// Length of the link-layer header, for `PACKET_AUXDATA`.
    pub mac_len: u16,
}

/// The state of the packet path.
#[derive(Debug, Default)]
pub struct SoftIrq {
    queue: VecDeque<Work>,
    out: VecDeque<Out>,
    timers: BTreeSet<(u64, Timer)>,
    /// When the keeper will look by itself; `None`: never.
    awaited: Option<u64>,
    /// Nanoseconds of the monotonic clock, as of the latest call that brought them.
    now: u64,
    /// For numbers that are to differ: identifications, delays. Not for secrets.
    random: u64,
}

impl Stack {
    /// Nanoseconds of the monotonic clock.
    pub fn now(&self) -> u64 {
        self.softirq.now
    }

    /// Tells the time, which never goes back.
    pub fn set_now(&mut self, now: u64) {
        self.softirq.now = self.softirq.now.max(now);
    }

    /// Numbers that differ (xorshift); the first call of [`Stack::seed`] decides which.
    pub(crate) fn random(&mut self) -> u64 {
        let mut x = self.softirq.random | 1;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.softirq.random = x;
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Where the numbers begin.
    pub fn seed(&mut self, seed: u64) {
        self.softirq.random = seed;
    }

    /// A packet has come in on its device: `netif_rx`. Gives whether there was room.
    pub(crate) fn netif_rx(&mut self, skb: SkBuff) -> bool {
        self.enqueue(skb, Work::Receive)
    }

    /// A packet is to leave by its device, link-layer header and all: `dev_queue_xmit`.
    pub(crate) fn dev_queue_xmit(&mut self, skb: SkBuff) -> bool {
        self.enqueue(skb, Work::Xmit)
    }

    fn enqueue(&mut self, mut skb: SkBuff, work: fn(SkBuff) -> Work) -> bool {
        skb.hops += 1;
        if skb.hops > MAX_HOPS || self.softirq.queue.len() >= MAX_BACKLOG {
            if let Some(dev) = self.dev_mut(skb.dev) {
                dev.stats.rx_dropped += 1;
            }
            return false;
        }
        self.softirq.queue.push_back(work(skb));
        true
    }

    /// Hands something out.
    pub(crate) fn hand_out(&mut self, out: Out) {
        if self.softirq.out.len() < MAX_OUT {
            self.softirq.out.push_back(out);
        }
    }

    /// What is to be handed out next.
    pub fn next_out(&mut self) -> Option<Out> {
        self.softirq.out.pop_front()
    }

    /// Whether there is something to do.
    pub fn is_busy(&self) -> bool {
        !self.softirq.queue.is_empty() || !self.softirq.out.is_empty()
    }

    /// Works on packets that wait, at most [`BUDGET`] of them, at time `now`. Gives whether some are left.
    pub fn net_rx_action(&mut self, now: u64) -> bool {
        self.set_now(now);
        self.run_timers();
        for _ in 0..BUDGET {
            match self.softirq.queue.pop_front() {
                Some(Work::Receive(skb)) => self.netif_receive_skb(skb),
                Some(Work::Xmit(skb)) => self.dev_hard_start_xmit(skb),
                None => return false,
            }
        }
        !self.softirq.queue.is_empty()
    }

    /// When the next timer is due, in nanoseconds of the monotonic clock; `None`: there is none.
    pub fn next_timer(&self) -> Option<u64> {
        self.softirq.timers.first().map(|(at, _)| *at)
    }

    /// The keeper will look by itself at this time.
    pub fn set_awaited(&mut self, at: Option<u64>) {
        self.softirq.awaited = at;
    }

    /// Whether the keeper has to look sooner than it would.
    pub(crate) fn leaves_work(&self) -> bool {
        let sooner = match (self.next_timer(), self.softirq.awaited) {
            (Some(next), Some(awaited)) => next < awaited,
            (next, None) => next.is_some(),
            (None, Some(_)) => false,
        };
        self.is_busy() || sooner
    }

    /// Sets a timer. It may fire although what it was set for has passed: who it calls looks.
    pub(crate) fn add_timer(&mut self, at: u64, timer: Timer) {
        self.softirq.timers.insert((at, timer));
    }

    fn run_timers(&mut self) {
        while let Some(&(at, timer)) = self.softirq.timers.first()
            && at <= self.now()
        {
            self.softirq.timers.pop_first();
            match timer {
                Timer::Neighbour(dev, address) => self.neigh_timer(dev, address),
                Timer::Dad(dev, address) => self.addrconf_dad_work(dev, address),
                Timer::RouterSolicitation(dev) => self.addrconf_rs_timer(dev),
                Timer::Fragments => self.frag_expire(),
                Timer::PacketRing(socket) => self.packet_ring_timer(socket),
            }
        }
    }

    /// A device goes away: what waits for it and what the packet path knows of it is forgotten.
    pub(crate) fn forget_packets(&mut self, dev: DevId) {
        self.softirq.queue.retain(|work| match work {
            Work::Receive(skb) | Work::Xmit(skb) => skb.dev != dev,
        });
        self.dad.retain(|(on, _), _| *on != dev);
        self.router_solicitations.remove(&dev);
        self.neigh_ifdown(dev, true);
        self.tun_detach_all(dev);
    }
}
