//! IPv4 (`net/ipv4`, `ip(7)`).

pub mod arp;
mod icmp;
mod ip_forward;
mod ip_fragment;
mod ip_input;
mod ip_output;

pub use icmp::icmp_type;
pub(super) use icmp::{IcmpLimits, fill_checksum as icmp_checksum};
pub(super) use ip_fragment::{FragKey, Frags, Piece};
pub use ip_output::IpOut;
pub(super) use ip_output::ip_send_check;

/// Numbers of protocols: `IPPROTO_*`.
pub mod ipproto {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// The header is the program's.
    pub const RAW: u8 = 255;
}
