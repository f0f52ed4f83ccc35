//! The Internet families (`AF_INET`, `AF_INET6`; `ip(7)`, `ipv6(7)`): what sockets of theirs are called, which names are taken, and
//! their options.

pub mod bind;
pub mod options;
pub mod route;
pub mod sockaddr;
pub mod udp;
mod watch;

/// `AF_INET`
pub const AF_INET: u16 = 2;
/// `AF_INET6`
pub const AF_INET6: u16 = 10;
/// `IPPROTO_ICMP`
pub const IPPROTO_ICMP: i32 = 1;
/// `IPPROTO_TCP`
pub const IPPROTO_TCP: i32 = 6;
/// `IPPROTO_UDP`
pub const IPPROTO_UDP: i32 = 17;
/// `IPPROTO_ICMPV6`
pub const IPPROTO_ICMPV6: i32 = 58;
