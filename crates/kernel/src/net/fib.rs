//! The forwarding information base: routing tables and their lookup (`ip-route(8)`, `net/ipv4/fib_trie.c`,
//! `net/ipv6/ip6_fib.c`). Which table is asked is the rules' to say (`fib_rules.rs`).
//!
//! A table is a list in the order in which a dump shows it. IPv6 routes with several next hops are kept as that many routes, as
//! Linux does it too; they are also shown like that.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::dev::DevId;
use super::fib_rules::FibRule;
use super::inetdev::{network, scope};
use crate::errno::{Errno, Result};

/// Types of routes: `RTN_*` (`rtnetlink(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteType {
    /// To a gateway or a neighbour.
    Unicast = 1,
    /// An address of our own.
    Local = 2,
    /// To all of a link.
    Broadcast = 3,
    /// To any of those who have the address.
    Anycast = 4,
    /// To a group.
    Multicast = 5,
    /// Dropped in silence.
    Blackhole = 6,
    /// Answered with "host unreachable".
    Unreachable = 7,
    /// Answered with "administratively prohibited".
    Prohibit = 8,
    /// Not in this table.
    Throw = 9,
}

impl RouteType {
    /// `RTN_*`; `None` for one that there is not.
    pub fn from_raw(raw: u8) -> Option<RouteType> {
        use RouteType::*;
        let all = [Unicast, Local, Broadcast, Anycast, Multicast, Blackhole, Unreachable, Prohibit, Throw];
        all.into_iter().find(|kind| *kind as u8 == raw)
    }

    /// What a packet meets that finds such a route (`fib_props`), if it is no way to go.
    pub fn error(self) -> Option<Errno> {
        match self {
            RouteType::Blackhole => Some(Errno::EINVAL),
            RouteType::Unreachable => Some(Errno::EHOSTUNREACH),
            RouteType::Prohibit => Some(Errno::EACCES),
            RouteType::Throw => Some(Errno::EAGAIN),
            _ => None,
        }
    }
}

/// `RT_TABLE_DEFAULT`
pub const RT_TABLE_DEFAULT: u32 = 253;
/// `RT_TABLE_MAIN`
pub const RT_TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`
pub const RT_TABLE_LOCAL: u32 = 255;

/// Flags of a next hop: `RTNH_F_*`.
pub mod rtnh_f {
    /// The device is down.
    pub const DEAD: u8 = 1;
    /// The gateway is on the link, whatever the tables say.
    pub const ONLINK: u8 = 4;
    /// The device has no carrier.
    pub const LINKDOWN: u8 = 16;
}

/// One way to go: `struct fib_nh_common`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The device packets go out of.
    pub dev: Option<DevId>,
    /// Whom they are given to, where that is not the destination itself.
    pub gateway: Option<IpAddr>,
    /// Its share among several, from 1.
    pub weight: u16,
    /// `RTNH_F_*`
    pub flags: u8,
}

/// A route: `struct fib_info` with its prefix, `struct fib6_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The table it stands in.
    pub table: u32,
    /// The network, its bits beyond the prefix zero.
    pub destination: IpAddr,
    /// Bits of the network.
    pub prefix_len: u8,
    /// Of packets with this type of service only; 0: all. IPv4.
    pub tos: u8,
    /// `RTN_*`
    pub kind: RouteType,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// `RTPROT_*`
    pub protocol: u8,
    /// Smaller is better.
    pub metric: u32,
    /// `RTA_PREFSRC`
    pub prefsrc: Option<IpAddr>,
    /// The ways to go; none where the type has none.
    pub nexthops: Vec<NextHop>,
    /// `RTA_METRICS`: `RTAX_*` and value.
    pub metrics: Vec<(u16, u32)>,
    /// `RTA_PREF`: of routers, IPv6.
    pub pref: u8,
    /// When it ends, in nanoseconds of the monotonic clock: from a router's announcement.
    pub expires: Option<u64>,
}

impl Route {
    /// A route of the kernel's own to a network on `dev`.
    pub fn new(table: u32, destination: IpAddr, prefix_len: u8, dev: DevId) -> Route {
        Route {
            table,
            destination: network(destination, prefix_len),
            prefix_len,
            tos: 0,
            kind: RouteType::Unicast,
            scope: scope::UNIVERSE,
            protocol: RTPROT_KERNEL,
            metric: 0,
            prefsrc: None,
            nexthops: vec![NextHop { dev: Some(dev), gateway: None, weight: 1, flags: 0 }],
            metrics: Vec::new(),
            pref: 0,
            expires: None,
        }
    }

    /// The first device.
    pub fn dev(&self) -> Option<DevId> {
        self.nexthops.first().and_then(|hop| hop.dev)
    }

    /// Whether any packet takes it out of `dev`.
    pub fn uses(&self, dev: DevId) -> bool {
        self.nexthops.iter().any(|hop| hop.dev == Some(dev))
    }

    /// A value of `RTA_METRICS`.
    pub fn metric_value(&self, which: u16) -> Option<u32> {
        self.metrics.iter().find(|(known, _)| *known == which).map(|(_, value)| *value)
    }

    fn is_v6(&self) -> bool {
        self.destination.is_ipv6()
    }

    /// Whether the two stand for one destination in one table, of which the better is taken.
    fn is_alias_of(&self, other: &Route) -> bool {
        (self.table, self.destination, self.prefix_len, self.tos)
            == (other.table, other.destination, other.prefix_len, other.tos)
    }

    /// The order in which a dump shows routes. IPv4: by network, longer prefixes first (`fib_table_dump`); IPv6: below each
    /// network the longer prefixes in it first (`fib6_walk`).
    fn order(&self, other: &Route) -> Ordering {
        let bucket = |route: &Route| (route.is_v6(), route.table & 0xff, route.table);
        let key = |route: &Route| match route.destination {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => {
                address.to_bits() | u128::MAX.checked_shr(route.prefix_len.into()).unwrap_or(0)
            }
        };
        bucket(self)
            .cmp(&bucket(other))
            .then(key(self).cmp(&key(other)))
            .then(Reverse(self.prefix_len).cmp(&Reverse(other.prefix_len)))
            .then(Reverse(self.tos).cmp(&Reverse(other.tos)))
            .then(self.metric.cmp(&other.metric))
    }
}

/// `RTPROT_KERNEL`
pub const RTPROT_KERNEL: u8 = 2;
/// `RTPROT_BOOT`
pub const RTPROT_BOOT: u8 = 3;
/// `RTPROT_RA`
pub const RTPROT_RA: u8 = 9;

/// What a packet is asked by: `struct flowi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it goes.
    pub daddr: IpAddr,
    /// Where it comes from, if that is decided.
    pub saddr: Option<IpAddr>,
    /// The device it has come in by; none for our own.
    pub iif: Option<DevId>,
    /// The device it has to leave by: `SO_BINDTODEVICE`, scope of an address.
    pub oif: Option<DevId>,
    /// `SO_MARK`
    pub mark: u32,
    /// Type of service.
    pub tos: u8,
    /// `IPPROTO_*`, 0: not known.
    pub proto: u8,
    /// Ports, of source and destination; 0: not known.
    pub ports: (u16, u16),
    /// Kernel id of the sender.
    pub uid: u32,
}

impl Flow {
    /// Of our own, to `daddr`.
    pub fn to(daddr: IpAddr) -> Flow {
        Flow { daddr, saddr: None, iif: None, oif: None, mark: 0, tos: 0, proto: 0, ports: (0, 0), uid: 0 }
    }
}

/// The way a packet goes: `struct fib_result`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibResult {
    /// The route that was found.
    pub route: Route,
    /// Which of its ways.
    pub hop: NextHop,
}

impl FibResult {
    /// Whom the packet is given to on the link.
    pub fn nexthop(&self, daddr: IpAddr) -> IpAddr {
        self.hop.gateway.unwrap_or(daddr)
    }
}

/// How a route is added: `NLM_F_*` of the message.
#[derive(Clone, Copy, Debug, Default)]
pub struct AddMode {
    /// It may be new.
    pub create: bool,
    /// It must be.
    pub exclusive: bool,
    /// It takes the place of another.
    pub replace: bool,
    /// It comes after others like it.
    pub append: bool,
}

impl AddMode {
    /// As the kernel adds its own.
    pub const KERNEL: AddMode = AddMode { create: true, exclusive: false, replace: false, append: true };
}

/// Routes and rules of a namespace, both families.
#[derive(Clone, Debug)]
pub struct Fib {
    /// All routes, in the order in which a dump shows them.
    pub routes: Vec<Route>,
    /// Rules of both families, in the order in which they are asked.
    pub rules: Vec<FibRule>,
    /// Rules of IPv4 have been changed: until then its two main tables are one.
    pub(super) has_custom_rules: bool,
    /// Tables that have been made: of IPv4 or not, and the number.
    pub(super) tables: BTreeSet<(bool, u32)>,
}

impl Default for Fib {
    fn default() -> Fib {
        Fib {
            routes: Vec::new(),
            rules: FibRule::initial(),
            has_custom_rules: false,
            tables: BTreeSet::new(),
        }
    }
}

/// Most routes of a namespace: a bound of ours.
const MAX_ROUTES: usize = 16_384;

impl Fib {
    /// Adds a route: `fib_table_insert`, `fib6_add`. Gives whether it took the place of another.
    ///
    /// # Errors
    /// `EEXIST`: there is one, and it must be new, or it is the same. `ENOENT`: there is none, and it must not be new.
    /// `ENOBUFS`: too many.
    pub fn insert(&mut self, new: Route, mode: AddMode) -> Result<bool> {
        let like = |route: &Route| route.is_alias_of(&new) && route.metric == new.metric;
        let first = self.routes.iter().position(like);
        if let Some(first) = first {
            if mode.exclusive {
                return Err(Errno::EEXIST);
            }
            let same = self.routes.iter().position(|route| {
                like(route) && if new.is_v6() { route.nexthops == new.nexthops } else { *route == new }
            });
            if mode.replace {
                return match same {
                    Some(same) if same == first && !new.is_v6() => Ok(true),
                    Some(same) if same != first => Err(Errno::EEXIST),
                    _ => {
                        self.routes[first] = new;
                        Ok(true)
                    }
                };
            }
            if same.is_some() {
                return Err(Errno::EEXIST);
            }
        }
        // IPv6 takes a route without NLM_F_CREATE, and only complains about it in the log.
        if !mode.create && (new.destination.is_ipv4() || mode.replace) {
            return Err(Errno::ENOENT);
        }
        if self.routes.len() >= MAX_ROUTES {
            return Err(Errno::ENOBUFS);
        }
        let before = mode.append || new.is_v6();
        let at = self.routes.partition_point(|route| match route.order(&new) {
            Ordering::Equal => before,
            order => order == Ordering::Less,
        });
        self.tables.insert((!new.is_v6(), new.table));
        if new.table == RT_TABLE_LOCAL {
            // One trie holds both (`fib_new_table`).
            self.tables.insert((!new.is_v6(), RT_TABLE_MAIN));
        }
        self.routes.insert(at, new);
        Ok(false)
    }

    /// Removes the first route of which `is_it` is true.
    pub fn remove(&mut self, is_it: impl FnMut(&Route) -> bool) -> Option<Route> {
        let at = self.routes.iter().position(is_it)?;
        Some(self.routes.remove(at))
    }

    /// The best route of a table: `fib_table_lookup`, `fib6_table_lookup`. `usable` says of a next hop whether it can be taken.
    pub(super) fn table_lookup(
        &self,
        table: u32,
        flow: &Flow,
        usable: &dyn Fn(&NextHop) -> bool,
    ) -> Option<FibResult> {
        let mut best: Option<(&Route, NextHop)> = None;
        for route in &self.routes {
            if route.table != table || route.is_v6() != flow.daddr.is_ipv6() {
                continue;
            }
            if network(flow.daddr, route.prefix_len) != route.destination {
                continue;
            }
            if route.tos != 0 && route.tos != flow.tos {
                continue;
            }
            // Of aliases the first is the best: that of the closest type of service, and of the smallest metric.
            if best.is_some_and(|(known, _)| known.prefix_len >= route.prefix_len) {
                continue;
            }
            if route.nexthops.is_empty() {
                let none = NextHop { dev: None, gateway: None, weight: 1, flags: 0 };
                best = Some((route, none));
                continue;
            }
            let mut hops = route.nexthops.iter().filter(|hop| {
                usable(hop) && flow.oif.is_none_or(|oif| hop.dev == Some(oif) || route.is_anybodys())
            });
            let several = route.nexthops.len() > 1;
            let hop = if several { pick(&hops.collect::<Vec<_>>(), flow) } else { hops.next().copied() };
            if let Some(hop) = hop {
                best = Some((route, hop));
            }
        }
        best.map(|(route, hop)| FibResult { route: route.clone(), hop })
    }
}

impl Route {
    /// Own addresses of IPv6 are found whichever device is asked for, unless they are the link's.
    fn is_anybodys(&self) -> bool {
        self.is_v6() && self.kind == RouteType::Local && self.scope != scope::LINK
    }
}

/// One of several next hops, by their weights, the same for all packets of a flow: `fib_select_multipath`.
fn pick(hops: &[&NextHop], flow: &Flow) -> Option<NextHop> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (flow.daddr, flow.saddr).hash(&mut hasher);
    let total: u64 = hops.iter().map(|hop| u64::from(hop.weight)).sum();
    let mut at = hasher.finish() % total.max(1);
    for hop in hops {
        let weight = u64::from(hop.weight);
        if at < weight {
            return Some(**hop);
        }
        at -= weight;
    }
    None
}
