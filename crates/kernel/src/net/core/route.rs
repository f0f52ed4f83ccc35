//! Which way a packet of ours goes (`ip_route_output_key`, `ip6_route_output`): a look-up by the rules and tables of a namespace,
//! and what follows from it for the packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::dev::{DevId, iff};
use super::super::fib::{Flow, RouteType};
use super::super::inetdev::InterfaceAddress;
use super::super::stack::Stack;
use crate::errno::{Errno, Result};

/// `RTAX_MTU`
const RTAX_MTU: u16 = 2;

/// The way of a packet: `struct rtable`, `struct rt6_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dst {
    /// To us, to all, or on.
    pub kind: RouteType,
    /// The device it leaves by; for an address of ours the loopback device.
    pub dev: DevId,
    /// Who gets it on the link.
    pub neighbour: IpAddr,
    /// The address it is sent from, where that is not decided.
    pub prefsrc: IpAddr,
    /// Longest packet, in bytes.
    pub mtu: u32,
}

/// `fe80::/10` and the groups of a link or an interface: only meaningful together with a device.
pub(crate) fn is_link_scope(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local() || address.is_multicast() && matches!(address.segments()[0] & 0xf, 1 | 2)
}

fn unspecified_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl Stack {
    /// The loopback device of a namespace.
    pub(crate) fn loopback_of(&self, net: u64) -> Option<DevId> {
        self.devices_of(net).find(|dev| dev.flags & iff::LOOPBACK != 0).map(|dev| dev.id)
    }

    /// Whether an address is ours: `inet_addr_type`, `ipv6_chk_addr`.
    pub fn is_local(&self, net: u64, address: IpAddr) -> bool {
        self.fib_lookup(net, &Flow::to(address)).is_ok_and(|found| found.route.kind == RouteType::Local)
    }

    /// The way of a packet of ours: `ip_route_output_flow`, `ip6_route_output_flags`.
    ///
    /// # Errors
    /// `ENETUNREACH`: there is no route. `EHOSTUNREACH`, `EACCES`, `EINVAL` for routes that say so. `ENODEV`: the device is gone.
    /// `EADDRNOTAVAIL`: IPv6, and there is no address to send from.
    pub fn route_output(&self, net: u64, flow: &Flow) -> Result<Dst> {
        let is_group = match flow.daddr {
            IpAddr::V4(address) => address.is_multicast(),
            IpAddr::V6(address) => address.is_multicast(),
        };
        let to_all = matches!(flow.daddr, IpAddr::V4(address) if address.is_broadcast());
        let of_link = matches!(flow.daddr, IpAddr::V6(address) if is_link_scope(address));
        let kind = |kind: RouteType| match kind {
            _ if to_all => RouteType::Broadcast,
            RouteType::Local => RouteType::Local,
            _ if is_group => RouteType::Multicast,
            kind => kind,
        };
        if let Some(oif) = flow.oif
            && (is_group || to_all || of_link)
            && !self.is_local(net, flow.daddr)
        {
            return self.on_link(net, oif, flow, kind(RouteType::Unicast));
        }
        let found = match self.fib_lookup(net, flow) {
            Ok(found) => found,
            // A device alone decides where no route does (`ip_route_output_key_hash_rcu`).
            Err(Errno::ENETUNREACH) if let (Some(oif), IpAddr::V4(_)) = (flow.oif, flow.daddr) => {
                return self.on_link(net, oif, flow, kind(RouteType::Unicast));
            }
            Err(errno) => return Err(errno),
        };
        let route = &found.route;
        if let Some(errno) = route.kind.error() {
            return Err(errno);
        }
        let dev = match route.kind {
            RouteType::Local => self.loopback_of(net),
            _ => found.hop.dev,
        };
        let out = self.dev(dev.ok_or(Errno::ENETUNREACH)?).ok_or(Errno::ENODEV)?;
        let neighbour = if is_group { flow.daddr } else { found.nexthop(flow.daddr) };
        let prefsrc = match (route.prefsrc, route.kind) {
            (Some(address), _) => Some(address),
            (None, RouteType::Local) => Some(flow.daddr),
            (None, _) => self.select_source(net, out.id, neighbour),
        };
        let prefsrc = match (prefsrc.or(flow.saddr), flow.daddr) {
            (Some(address), _) => address,
            (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
            (None, IpAddr::V6(_)) => return Err(Errno::EADDRNOTAVAIL),
        };
        let own_mtu = route.metrics.iter().find(|(which, _)| *which == RTAX_MTU).map(|(_, mtu)| *mtu);
        let mtu = own_mtu.map_or(out.mtu, |mtu| mtu.min(out.mtu));
        Ok(Dst { kind: kind(route.kind), dev: out.id, neighbour, prefsrc, mtu })
    }

    fn on_link(&self, net: u64, oif: DevId, flow: &Flow, kind: RouteType) -> Result<Dst> {
        let dev = self.dev(oif).filter(|dev| dev.net == net).ok_or(Errno::ENODEV)?;
        if !dev.is_up() {
            return Err(Errno::ENETUNREACH);
        }
        let prefsrc = self.select_source(net, oif, flow.daddr).or(flow.saddr);
        let prefsrc = prefsrc.unwrap_or_else(|| unspecified_like(flow.daddr));
        Ok(Dst { kind, dev: oif, neighbour: flow.daddr, prefsrc, mtu: dev.mtu })
    }

    /// The address of ours to send to `to` from by `dev`, one of the device's if it has one: `inet_select_addr`, `ipv6_dev_get_saddr`.
    pub fn select_source(&self, net: u64, dev: DevId, to: IpAddr) -> Option<IpAddr> {
        let own = &self.dev(dev)?.addresses;
        let like = |known: &&InterfaceAddress| known.address.is_ipv4() == to.is_ipv4() && known.is_usable();
        let others = || {
            self.devices_of(net).filter(|dev| dev.flags & iff::LOOPBACK == 0).flat_map(|dev| &dev.addresses)
        };
        let found = match to {
            IpAddr::V4(_) => {
                let same_network = own.iter().filter(like).find(|known| known.covers(to));
                same_network.or_else(|| own.iter().find(like)).or_else(|| others().find(like))
            }
            IpAddr::V6(to) => {
                // Rules 2 and 8 of RFC 6724: the same scope, then the longest prefix in common.
                let rank = |known: &&InterfaceAddress| match known.address {
                    IpAddr::V6(address) => {
                        let common = (u128::from(address) ^ u128::from(to)).leading_zeros();
                        (is_link_scope(to) == is_link_scope(address), common)
                    }
                    IpAddr::V4(_) => (false, 0),
                };
                let best = own.iter().rev().filter(like).max_by_key(rank);
                let global = |known: &&InterfaceAddress| like(known) && rank(known).0;
                match best {
                    Some(known) if rank(&known).0 => Some(known),
                    _ => others().find(global).or(best),
                }
            }
        };
        found.map(|known| known.address)
    }
}
