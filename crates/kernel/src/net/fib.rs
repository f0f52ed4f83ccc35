//! The forwarding information base: routing tables and rules (`ip-route(8)`, `ip-rule(8)`, `net/ipv4/fib_*`).

use std::net::IpAddr;

use super::dev::DevId;

/// Types of routes: `RTN_*` (`rtnetlink(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteType {
    /// To a gateway or a neighbour.
    Unicast = 1,
    /// An address of our own.
    Local = 2,
    /// To all of a link.
    Broadcast = 3,
    /// To a group.
    Multicast = 5,
    /// Dropped in silence.
    Blackhole = 6,
    /// Answered with "host unreachable".
    Unreachable = 7,
    /// Answered with "administratively prohibited".
    Prohibit = 8,
}

/// `RT_TABLE_MAIN`
pub const RT_TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`
pub const RT_TABLE_LOCAL: u32 = 255;
/// `RT_TABLE_DEFAULT`
pub const RT_TABLE_DEFAULT: u32 = 253;

/// A route: `struct fib_info` with its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The table it stands in.
    pub table: u32,
    /// The network, its bits beyond the prefix zero.
    pub destination: IpAddr,
    /// Bits of the network.
    pub prefix_len: u8,
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
    /// The next hop, where it is not the destination itself.
    pub gateway: Option<IpAddr>,
    /// The device it goes out of.
    pub dev: Option<DevId>,
}

/// Routes and rules of a namespace, both families.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    /// All routes, in the order in which a dump shows them.
    pub routes: Vec<Route>,
}
