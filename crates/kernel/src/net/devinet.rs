//! IPv4 addresses of devices (`net/ipv4/devinet.c`) and the routes that follow from them (`net/ipv4/fib_frontend.c`).

use std::net::{IpAddr, Ipv4Addr};

use super::dev::{DevId, NetDevice, iff};
use super::devconf::ipv4;
use super::fib::{AddMode, NextHop, RT_TABLE_LOCAL, RT_TABLE_MAIN, Route, RouteType, rtnh_f};
use super::inetdev::{InterfaceAddress, broadcast_of, ifa_f, network, scope};
use super::nlattr::NlResult;
use super::rtnetlink::{RTM_DELADDR, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWROUTE};
use super::stack::Stack;
use crate::errno::Errno;

/// All hosts of a link: `IGMP_ALL_HOSTS`.
pub const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// Most addresses of a device: a bound of ours.
const MAX_ADDRESSES: usize = 1024;

/// The routes that an address makes: `fib_add_ifaddr`. The metric of the route to its network is that of the address.
fn routes_of(dev: &NetDevice, known: &InterfaceAddress) -> Vec<Route> {
    let (IpAddr::V4(address), IpAddr::V4(prefix)) = (known.address, known.prefix_address()) else {
        return Vec::new();
    };
    // The routes of a secondary address are from the first of its network.
    let source = match known.flags & ifa_f::SECONDARY {
        0 => known.address,
        _ => primary_of(dev, known).map_or(known.address, |primary| primary.address),
    };
    let route = |kind, destination: Ipv4Addr, prefix_len| Route {
        kind,
        scope: if kind == RouteType::Local { scope::HOST } else { scope::LINK },
        prefsrc: Some(source),
        ..Route::new(RT_TABLE_LOCAL, destination.into(), prefix_len, dev.id)
    };
    let mut routes = vec![route(RouteType::Local, address, 32)];
    if !dev.is_up() {
        return routes;
    }
    if let Some(broadcast) = known.broadcast.filter(|address| !address.is_broadcast()) {
        routes.push(route(RouteType::Broadcast, broadcast, 32));
    }
    let IpAddr::V4(net) = network(prefix.into(), known.prefix_len) else { return routes };
    let is_first = known.flags & ifa_f::SECONDARY == 0;
    if net.octets()[0] != 0 && is_first && (net != address || known.prefix_len < 32) {
        if known.flags & ifa_f::NOPREFIXROUTE == 0 {
            let loopback = dev.flags & iff::LOOPBACK != 0;
            let kind = if loopback { RouteType::Local } else { RouteType::Unicast };
            let table = if loopback { RT_TABLE_LOCAL } else { RT_TABLE_MAIN };
            routes.push(Route { table, metric: known.metric, ..route(kind, net, known.prefix_len) });
        }
        if known.prefix_len < 31 {
            routes.push(route(RouteType::Broadcast, broadcast_of(net, known.prefix_len), 32));
        }
    }
    routes
}

/// `inet_ifa_byprefix`
fn primary_of<'a>(dev: &'a NetDevice, known: &InterfaceAddress) -> Option<&'a InterfaceAddress> {
    dev.addresses.iter().find(|other| {
        other.address.is_ipv4()
            && other.flags & ifa_f::SECONDARY == 0
            && other.prefix_len == known.prefix_len
            && other.covers(known.prefix_address())
    })
}

impl Stack {
    /// Adds an address: `inet_insert_ifa`.
    ///
    /// # Errors
    /// `EEXIST`: it is there. `EINVAL`: another scope than the first of its network. `ENODEV`. `ENOBUFS`: too many.
    pub fn inet_insert_ifa(&mut self, id: DevId, mut new: InterfaceAddress) -> NlResult<()> {
        let now = self.now();
        let dev = self.dev_mut(id).ok_or(Errno::ENODEV)?;
        if dev.addresses.len() >= MAX_ADDRESSES {
            return Err(Errno::ENOBUFS.into());
        }
        new.flags &= !ifa_f::SECONDARY;
        (new.created, new.updated) = (now, now);
        let is_v4 = |known: &&InterfaceAddress| known.address.is_ipv4();
        for known in dev.addresses.iter().filter(is_v4) {
            if known.prefix_len == new.prefix_len && known.covers(new.prefix_address()) {
                if known.address == new.address {
                    return Err(Errno::EEXIST.with("ipv4: Address already assigned"));
                }
                if known.scope != new.scope {
                    return Err(Errno::EINVAL.with("ipv4: Invalid scope value"));
                }
                new.flags |= ifa_f::SECONDARY;
            }
        }
        let count = dev.addresses.iter().filter(is_v4).count();
        let at = if new.flags & ifa_f::SECONDARY != 0 {
            count
        } else {
            // Behind the last primary one whose scope is not narrower.
            let before = |known: &InterfaceAddress| {
                known.address.is_ipv4() && known.flags & ifa_f::SECONDARY == 0 && new.scope <= known.scope
            };
            dev.addresses.iter().rposition(before).map_or(0, |at| at + 1)
        };
        dev.addresses.insert(at, new.clone());
        let routes = self.dev(id).map(|dev| routes_of(dev, &new)).unwrap_or_default();
        self.rtmsg_ifa(RTM_NEWADDR, id, &new);
        for route in routes {
            self.fib_magic_add(id, route);
        }
        Ok(())
    }

    /// The kernel adds a route of its own: `fib_magic`.
    fn fib_magic_add(&mut self, dev: DevId, route: Route) {
        let Some(net) = self.dev(dev).map(|dev| dev.net) else { return };
        let added =
            self.net_mut(net).is_some_and(|net| net.fib.insert(route.clone(), AddMode::KERNEL).is_ok());
        if added {
            self.rtmsg_route(RTM_NEWROUTE, net, &route, 0);
        }
    }

    /// Removes an address, with what hangs on it: `inet_del_ifa`. `which` says which of the device's.
    pub fn inet_del_ifa(&mut self, id: DevId, address: IpAddr, prefix_len: u8) {
        let Some(dev) = self.dev(id) else { return };
        let promote = dev.ipv4.is_on(ipv4::PROMOTE_SECONDARIES)
            || self.net(dev.net).is_some_and(|net| net.ipv4_all.is_on(ipv4::PROMOTE_SECONDARIES));
        let is_it = |known: &InterfaceAddress| known.address == address && known.prefix_len == prefix_len;
        let Some(removed) = dev.addresses.iter().find(|known| is_it(known)).cloned() else { return };
        let followers: Vec<InterfaceAddress> = dev
            .addresses
            .iter()
            .filter(|known| {
                removed.flags & ifa_f::SECONDARY == 0
                    && known.address.is_ipv4()
                    && known.flags & ifa_f::SECONDARY != 0
                    && known.prefix_len == removed.prefix_len
                    && removed.covers(known.prefix_address())
            })
            .cloned()
            .collect();
        let before: Vec<Route> = self.address_routes(id);
        let mut gone = Vec::new();
        let mut promoted = None;
        if let Some(dev) = self.dev_mut(id) {
            if promote && let Some(first) = followers.first() {
                dev.addresses.retain(|known| !is_it(known) && known.address != first.address);
                let primary = InterfaceAddress { flags: first.flags & !ifa_f::SECONDARY, ..first.clone() };
                let last = dev.addresses.iter().rposition(|known| {
                    known.address.is_ipv4()
                        && known.flags & ifa_f::SECONDARY == 0
                        && primary.scope <= known.scope
                });
                dev.addresses.insert(last.map_or(0, |at| at + 1), primary.clone());
                promoted = Some(primary);
            } else {
                gone.extend(followers);
                let is_gone = |known: &InterfaceAddress| gone.iter().any(|other| other == known);
                dev.addresses.retain(|known| !is_it(known) && !is_gone(known));
            }
        }
        for known in &gone {
            self.rtmsg_ifa(RTM_DELADDR, id, known);
        }
        self.rtmsg_ifa(RTM_DELADDR, id, &removed);
        let after = self.address_routes(id);
        self.drop_routes(id, before.into_iter().filter(|route| !after.contains(route)).collect());
        gone.push(removed);
        for known in gone {
            self.fib_sync_down_addr(id, known.address);
        }
        if let Some(primary) = promoted {
            self.rtmsg_ifa(RTM_NEWADDR, id, &primary);
        }
        for route in self.address_routes(id) {
            self.fib_magic_add(id, route);
        }
    }

    /// The routes that the addresses of a device make.
    fn address_routes(&self, id: DevId) -> Vec<Route> {
        let Some(dev) = self.dev(id) else { return Vec::new() };
        dev.addresses.iter().flat_map(|known| routes_of(dev, known)).collect()
    }

    fn drop_routes(&mut self, id: DevId, routes: Vec<Route>) {
        let Some(net) = self.dev(id).map(|dev| dev.net) else { return };
        for route in routes {
            let same = |known: &Route| Route { nexthops: route.nexthops.clone(), ..known.clone() } == route;
            if self.net_mut(net).and_then(|net| net.fib.remove(same)).is_some() {
                self.rtmsg_route(RTM_DELROUTE, net, &route, 0);
            }
        }
    }

    /// Routes from an address that is nobody's any more go: `fib_sync_down_addr`.
    fn fib_sync_down_addr(&mut self, id: DevId, address: IpAddr) {
        let Some(inum) = self.dev(id).map(|dev| dev.net) else { return };
        if self.devices_of(inum).any(|dev| dev.has_address(address)) {
            return;
        }
        self.flush_routes(inum, &mut |route| route.destination.is_ipv4() && route.prefsrc == Some(address));
    }

    /// Removes the routes of which `which` is true, in silence as `fib_flush` does it.
    pub(super) fn flush_routes(&mut self, inum: u64, which: &mut dyn FnMut(&Route) -> bool) {
        if let Some(net) = self.net_mut(inum) {
            net.fib.routes.retain(|route| !which(route));
        }
    }

    /// `inetdev_event`, `fib_netdev_event`: NETDEV_UP.
    pub(super) fn inetdev_up(&mut self, id: DevId) {
        let Some(dev) = self.dev_mut(id) else { return };
        let has_v4 = dev.addresses.iter().any(|known| known.address.is_ipv4());
        let loopback = dev.flags & iff::LOOPBACK != 0;
        let multicast = loopback || dev.flags & iff::MULTICAST != 0;
        if multicast && !dev.groups.has(ALL_HOSTS.into()) {
            dev.groups.join(ALL_HOSTS.into());
        }
        for route in self.address_routes(id) {
            self.fib_magic_add(id, route);
        }
        if loopback && !has_v4 {
            let own = InterfaceAddress {
                label: "lo".into(),
                ..InterfaceAddress::new(Ipv4Addr::LOCALHOST.into(), 8, scope::HOST)
            };
            // There is none, so none is in its way.
            let _ = self.inet_insert_ifa(id, own);
        }
        self.fib_sync_carrier(id);
    }

    /// `fib_disable_ip`: NETDEV_DOWN. Own addresses stay addresses of this host.
    pub(super) fn inetdev_down(&mut self, id: DevId) {
        let Some(dev) = self.dev_mut(id) else { return };
        dev.groups.leave(ALL_HOSTS.into());
        let inum = dev.net;
        self.fib_sync_down_dev(inum, id, false);
    }

    /// `inetdev_destroy`: the device leaves its namespace.
    pub(super) fn inetdev_destroy(&mut self, id: DevId) {
        let Some(dev) = self.dev_mut(id) else { return };
        let (gone, rest) =
            std::mem::take(&mut dev.addresses).into_iter().partition(|known| known.address.is_ipv4());
        dev.addresses = rest;
        dev.groups.leave(ALL_HOSTS.into());
        let inum = dev.net;
        let gone: Vec<InterfaceAddress> = gone;
        for known in &gone {
            self.rtmsg_ifa(RTM_DELADDR, id, known);
        }
        self.fib_sync_down_dev(inum, id, true);
    }

    /// Next hops by a device that is down are dead, and routes with dead ones only go: `fib_sync_down_dev`.
    fn fib_sync_down_dev(&mut self, inum: u64, id: DevId, unregister: bool) {
        self.flush_routes(inum, &mut |route| {
            let is_own = route.kind == RouteType::Local && route.scope == scope::HOST;
            route.destination.is_ipv4()
                && (unregister || !is_own)
                && !route.nexthops.is_empty()
                && route.nexthops.iter().all(|hop| hop.dev == Some(id) || hop.flags & rtnh_f::DEAD != 0)
        });
        self.each_hop(inum, id, &mut |hop| hop.flags |= rtnh_f::DEAD | rtnh_f::LINKDOWN);
    }

    /// `fib_sync_up`, `fib_sync_down_dev` for a carrier, and what IPv6 shows of it.
    pub(super) fn fib_sync_carrier(&mut self, id: DevId) {
        let Some(dev) = self.dev(id) else { return };
        let (inum, carrier, up) = (dev.net, dev.carrier, dev.is_up());
        self.each_hop(inum, id, &mut |hop| {
            let dead = if up { 0 } else { rtnh_f::DEAD };
            let down = if carrier { 0 } else { rtnh_f::LINKDOWN };
            hop.flags = hop.flags & !(rtnh_f::DEAD | rtnh_f::LINKDOWN) | dead | down;
        });
    }

    fn each_hop(&mut self, inum: u64, id: DevId, change: &mut dyn FnMut(&mut NextHop)) {
        let Some(net) = self.net_mut(inum) else { return };
        for route in &mut net.fib.routes {
            // Own addresses do not depend on a carrier.
            if route.kind == RouteType::Local {
                continue;
            }
            route.nexthops.iter_mut().filter(|hop| hop.dev == Some(id)).for_each(&mut *change);
        }
    }
}
