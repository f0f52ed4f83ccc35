//! Addresses of a device (`struct in_ifaddr`, `struct inet6_ifaddr`) and the groups it listens to (`struct ip_mc_list`,
//! `struct ifmcaddr6`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dev::MacAddr;

/// Scopes: `RT_SCOPE_*` (`rtnetlink(7)`).
pub mod scope {
    /// Everywhere.
    pub const UNIVERSE: u8 = 0;
    /// This site, IPv6 only.
    pub const SITE: u8 = 200;
    /// This link.
    pub const LINK: u8 = 253;
    /// This host.
    pub const HOST: u8 = 254;
    /// No destination.
    pub const NOWHERE: u8 = 255;
}

/// Flags of an address: `IFA_F_*` (`rtnetlink(7)`).
pub mod ifa_f {
    /// IPv4: not the first of its network. IPv6: `IFA_F_TEMPORARY`.
    pub const SECONDARY: u32 = 0x01;
    /// IPv6: used without asking whether somebody else has it.
    pub const NODAD: u32 = 0x02;
    /// IPv6: may be used while that is being asked.
    pub const OPTIMISTIC: u32 = 0x04;
    /// IPv6: somebody else has it.
    pub const DADFAILED: u32 = 0x08;
    /// Not for new connections.
    pub const DEPRECATED: u32 = 0x20;
    /// IPv6: being asked whether somebody else has it.
    pub const TENTATIVE: u32 = 0x40;
    /// Has no end.
    pub const PERMANENT: u32 = 0x80;
    /// IPv6: temporary addresses are made from it.
    pub const MANAGETEMPADDR: u32 = 0x100;
    /// Makes no route to its network.
    pub const NOPREFIXROUTE: u32 = 0x200;
    /// IPv6: made from the network's prefix and a secret.
    pub const STABLE_PRIVACY: u32 = 0x800;
}

/// Without an end, as the lifetime of an address in seconds.
pub const INFINITY_LIFE_TIME: u32 = u32::MAX;

/// An address on a device: `struct in_ifaddr`, `struct inet6_ifaddr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The device's own address: `IFA_LOCAL`.
    pub address: IpAddr,
    /// The address at the other end, where the prefix is its.
    pub peer: Option<IpAddr>,
    /// Bits of the network.
    pub prefix_len: u8,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// Name, IPv4 only.
    pub label: String,
    /// To all of the network, IPv4 only.
    pub broadcast: Option<Ipv4Addr>,
    /// `IFA_F_*`
    pub flags: u32,
    /// `IFA_RT_PRIORITY`: the metric of the routes it makes, 0 for that of the family.
    pub metric: u32,
    /// `IFA_PROTO`: who has set it.
    pub proto: u8,
    /// Until when it is used, in seconds from `updated`.
    pub valid_lft: u32,
    /// Until when it is used for new connections, in seconds from `updated`.
    pub preferred_lft: u32,
    /// When it was made, in nanoseconds of the monotonic clock.
    pub created: u64,
    /// When its lifetimes were set.
    pub updated: u64,
}

impl InterfaceAddress {
    /// An address without an end.
    pub fn new(address: IpAddr, prefix_len: u8, scope: u8) -> InterfaceAddress {
        InterfaceAddress {
            address,
            peer: None,
            prefix_len,
            scope,
            label: String::new(),
            broadcast: None,
            flags: ifa_f::PERMANENT,
            metric: 0,
            proto: 0,
            valid_lft: INFINITY_LIFE_TIME,
            preferred_lft: INFINITY_LIFE_TIME,
            created: 0,
            updated: 0,
        }
    }

    /// The address whose first bits are the network's: `ifa_address`.
    pub fn prefix_address(&self) -> IpAddr {
        self.peer.unwrap_or(self.address)
    }

    /// Whether `address` is in its network: `inet_ifa_match`.
    pub fn covers(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && network(address, self.prefix_len) == network(self.prefix_address(), self.prefix_len)
    }

    /// Whether it may be the source of what is sent, and answered for.
    pub fn is_usable(&self) -> bool {
        let asked = self.flags & ifa_f::TENTATIVE != 0 && self.flags & ifa_f::OPTIMISTIC == 0;
        self.address.is_ipv4() || !asked && self.flags & ifa_f::DADFAILED == 0
    }
}

/// `address` with all bits beyond the first `prefix_len` zero.
pub fn network(address: IpAddr, prefix_len: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

/// The highest address of a network.
pub fn broadcast_of(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let host = u32::MAX.checked_shr(prefix_len.min(32).into()).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() | host)
}

/// `ipv6_addr_scope`, as `RT_SCOPE_*` (`rt_scope`).
pub fn ipv6_scope(address: Ipv6Addr) -> u8 {
    if address.is_loopback() {
        scope::HOST
    } else if address.is_unicast_link_local() {
        scope::LINK
    } else if address.segments()[0] & 0xffc0 == 0xfec0 {
        scope::SITE
    } else {
        scope::UNIVERSE
    }
}

/// The groups of a device, with how many want each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memberships {
    /// IPv4 and IPv6, the latest first: `ip_mc_list`, `ifmcaddr6`.
    pub inet: Vec<(IpAddr, u32)>,
    /// Link layer, the first first: `netdev_hw_addr_list`.
    pub link: Vec<(MacAddr, u32)>,
}

impl Memberships {
    /// The link-layer address of a group: `ip_eth_mc_map`, `ipv6_eth_mc_map`.
    pub fn link_address(group: IpAddr) -> MacAddr {
        match group {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
            }
            IpAddr::V6(group) => {
                let [.., a, b, c, d] = group.octets();
                MacAddr([0x33, 0x33, a, b, c, d])
            }
        }
    }

    /// Whether anybody wants `group`.
    pub fn has(&self, group: IpAddr) -> bool {
        self.inet.iter().any(|(known, _)| *known == group)
    }

    /// Whether frames to `group` are wanted.
    pub fn has_link(&self, group: MacAddr) -> bool {
        self.link.iter().any(|(known, _)| *known == group)
    }

    /// `ip_mc_inc_group`, `ipv6_dev_mc_inc`: one more wants `group`. True for the first.
    pub fn join(&mut self, group: IpAddr) -> bool {
        if let Some((_, users)) = self.inet.iter_mut().find(|(known, _)| *known == group) {
            *users += 1;
            return false;
        }
        self.inet.insert(0, (group, 1));
        if is_of_interface(group) {
            return true;
        }
        let link = Memberships::link_address(group);
        match self.link.iter_mut().find(|(known, _)| *known == link) {
            Some((_, users)) => *users += 1,
            None => self.link.push((link, 1)),
        }
        true
    }

    /// `ip_mc_dec_group`, `ipv6_dev_mc_dec`: one wants it no more. True for the last.
    pub fn leave(&mut self, group: IpAddr) -> bool {
        let Some(at) = self.inet.iter().position(|(known, _)| *known == group) else { return false };
        self.inet[at].1 -= 1;
        if self.inet[at].1 > 0 {
            return false;
        }
        self.inet.remove(at);
        if is_of_interface(group) {
            return true;
        }
        let link = Memberships::link_address(group);
        if let Some(at) = self.link.iter().position(|(known, _)| *known == link) {
            self.link[at].1 -= 1;
            if self.link[at].1 == 0 {
                self.link.remove(at);
            }
        }
        true
    }
}

/// A group whose packets do not leave the device, and of which the link is hence not told (`igmp6_group_added`).
fn is_of_interface(group: IpAddr) -> bool {
    matches!(group, IpAddr::V6(group) if group.segments()[0] & 0xf < 2)
}

/// The group of all who may have `address`: `addrconf_addr_solict_mult`.
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., b, c, d] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(b), u16::from(c) << 8 | u16::from(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_the_first_bits() {
        let network = |text: &str, len| network(text.parse().unwrap(), len).to_string();
        assert_eq!(network("10.1.2.3", 8), "10.0.0.0");
        assert_eq!(network("10.1.2.3", 0), "0.0.0.0");
        assert_eq!(network("10.1.2.3", 32), "10.1.2.3");
        assert_eq!(network("fe80::1:2", 64), "fe80::");
        assert_eq!(network("fe80::1:2", 0), "::");
        assert_eq!(network("fe80::1:2", 128), "fe80::1:2");
        assert_eq!(broadcast_of(Ipv4Addr::new(10, 1, 2, 3), 24).to_string(), "10.1.2.255");
        assert_eq!(broadcast_of(Ipv4Addr::new(10, 1, 2, 3), 32).to_string(), "10.1.2.3");
    }

    #[test]
    fn groups_have_link_addresses_that_are_counted() {
        let mut groups = Memberships::default();
        let group: IpAddr = "ff02::1:ff5b:d780".parse().unwrap();
        assert_eq!(solicited_node("fe80::2053:1cff:fe5b:d780".parse().unwrap()), group);
        assert!(groups.join(group));
        assert!(!groups.join(group));
        assert_eq!(groups.link[0].0.to_string(), "33:33:ff:5b:d7:80");
        assert!(!groups.leave(group));
        assert!(groups.leave(group));
        assert!(groups.link.is_empty());
    }
}
