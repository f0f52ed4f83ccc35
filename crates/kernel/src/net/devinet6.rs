//! IPv6 addresses of devices: how they come and go with the device, and the routes that follow from them (`net/ipv6/addrconf.c`).

use std::net::{IpAddr, Ipv6Addr};

use super::dev::{DevId, MacAddr, NetDevice, iff};
use super::devconf::ipv6;
use super::fib::{AddMode, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTPROT_KERNEL, Route, RouteType};
use super::inetdev::{InterfaceAddress, ifa_f, ipv6_scope, network, scope, solicited_node};
use super::nlattr::NlResult;
use super::rtnetlink::{RTM_DELADDR, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWROUTE};
use super::stack::Stack;
use crate::errno::Errno;

/// `ff02::1`
pub const LINKLOCAL_ALLNODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// `ff01::1`
pub const INTERFACELOCAL_ALLNODES: Ipv6Addr = Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 1);
/// `ff02::2`, `ff01::2`, `ff05::2`
const ALLROUTERS: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xff01, 0, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 2),
];
/// `IP6_RT_PRIO_ADDRCONF`: metric of the routes to networks on a link.
pub const IP6_RT_PRIO_ADDRCONF: u32 = 256;
/// `IFAPROT_KERNEL_LO`, `IFAPROT_KERNEL_LL`
const IFAPROT_KERNEL_LO: u8 = 1;
const IFAPROT_KERNEL_LL: u8 = 3;
/// Most addresses of a device: a bound of ours.
const MAX_ADDRESSES: usize = 1024;

/// `IN6_ADDR_GEN_MODE_*`
const GEN_NONE: i32 = 1;
const GEN_RANDOM: i32 = 3;

/// `ipv6_addr_src_scope`: by which addresses are ordered; wider ones first.
fn order(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => u8::MAX,
        IpAddr::V6(address) => match ipv6_scope(address) {
            scope::HOST => 1,
            scope::LINK => 2,
            scope::SITE => 5,
            _ => 14,
        },
    }
}

/// `addrconf_ifid_eui48`
fn link_local(address: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = address.0;
    let low = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from_bits(0xfe80u128 << 112 | u128::from(low))
}

impl Stack {
    /// The groups that every device is in: `ipv6_add_dev`.
    pub(super) fn ipv6_mc_init_dev(&mut self, id: DevId) {
        if let Some(dev) = self.dev_mut(id) {
            for group in [INTERFACELOCAL_ALLNODES, LINKLOCAL_ALLNODES] {
                if !dev.groups.has(group.into()) {
                    dev.groups.join(group.into());
                }
            }
        }
    }

    fn ipv6_is_disabled(&self, dev: &NetDevice) -> bool {
        dev.ipv6.is_on(ipv6::DISABLE_IPV6) || dev.mtu < 1280
    }

    /// NETDEV_UP: IPv6 starts as soon as there is a carrier (`addrconf_notify`).
    pub(super) fn addrconf_up(&mut self, id: DevId) {
        self.ipv6_mc_init_dev(id);
        self.addrconf_change(id);
    }

    /// NETDEV_UP, NETDEV_CHANGE: a device that is ready gets its own addresses (`addrconf_dev_config`, `init_loopback`).
    pub(super) fn addrconf_change(&mut self, id: DevId) {
        let Some(dev) = self.dev(id) else { return };
        let ready = dev.is_up() && dev.carrier;
        if dev.inet6_ready || !ready || self.ipv6_is_disabled(dev) {
            return;
        }
        let (loopback, link_address, mac) =
            (dev.flags & iff::LOOPBACK != 0, dev.has_link_address(), dev.dev_addr);
        let (mode, multicast) = (dev.ipv6.0[ipv6::ADDR_GEN_MODE], dev.flags & iff::MULTICAST != 0);
        let waiting: Vec<Ipv6Addr> = dev
            .addresses
            .iter()
            .filter(|known| known.flags & ifa_f::TENTATIVE != 0)
            .filter_map(|known| if let IpAddr::V6(address) = known.address { Some(address) } else { None })
            .collect();
        let known_routes: Vec<InterfaceAddress> =
            dev.addresses.iter().filter(|known| known.address.is_ipv6()).cloned().collect();
        if let Some(dev) = self.dev_mut(id) {
            dev.inet6_ready = true;
        }
        if loopback {
            let own = InterfaceAddress {
                proto: IFAPROT_KERNEL_LO,
                ..InterfaceAddress::new(Ipv6Addr::LOCALHOST.into(), 128, scope::HOST)
            };
            let _ = self.ipv6_add_addr(id, own);
            return;
        }
        if multicast {
            let group = Route {
                kind: RouteType::Multicast,
                metric: IP6_RT_PRIO_ADDRCONF,
                ..Route::new(RT_TABLE_LOCAL, Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8, id)
            };
            self.ip6_insert(id, group);
        }
        for known in known_routes {
            self.addrconf_prefix_route(id, &known);
        }
        for address in waiting {
            self.addrconf_dad_start(id, address);
        }
        if mode == GEN_NONE {
            return;
        }
        let mut own = InterfaceAddress {
            proto: IFAPROT_KERNEL_LL,
            flags: ifa_f::PERMANENT | ifa_f::TENTATIVE,
            ..InterfaceAddress::new(link_local(mac).into(), 64, scope::LINK)
        };
        if !link_address || mode == GEN_RANDOM {
            if let Some(dev) = self.dev_mut(id) {
                dev.ipv6.0[ipv6::ADDR_GEN_MODE] = GEN_RANDOM;
            }
            own.flags |= ifa_f::STABLE_PRIVACY;
            own.address = Ipv6Addr::from_bits(0xfe80u128 << 112 | u128::from(self.random())).into();
        }
        // EEXIST: an administrator has set it already.
        let _ = self.ipv6_add_addr(id, own);
    }

    /// Adds an address: `ipv6_add_addr`, `inet6_addr_add`.
    ///
    /// # Errors
    /// `EEXIST`: it is there. `EADDRNOTAVAIL`: of no station. `EACCES`: IPv6 is off. `ENODEV`. `ENOBUFS`: too many.
    pub fn ipv6_add_addr(&mut self, id: DevId, mut new: InterfaceAddress) -> NlResult<()> {
        let now = self.now();
        let dev = self.dev(id).ok_or(Errno::ENODEV)?;
        let IpAddr::V6(address) = new.address else { return Err(Errno::EINVAL.into()) };
        let loopback = dev.flags & iff::LOOPBACK != 0;
        if address.is_multicast() {
            return Err(
                Errno::EINVAL.with("ipv6: Cannot assign multicast address without \"IFA_F_MCAUTOJOIN\" flag")
            );
        }
        if address.is_unspecified() || address.is_loopback() && !loopback {
            return Err(Errno::EADDRNOTAVAIL.with("ipv6: Cannot assign requested address"));
        }
        if self.ipv6_is_disabled(dev) {
            return Err(Errno::EACCES.with("ipv6: IPv6 is disabled on this device"));
        }
        if dev.has_address(new.address) {
            return Err(Errno::EEXIST.with("ipv6: address already assigned"));
        }
        if dev.addresses.len() >= MAX_ADDRESSES {
            return Err(Errno::ENOBUFS.into());
        }
        (new.created, new.updated) = (now, now);
        new.scope = ipv6_scope(address);
        let asks = dev.flags & (iff::NOARP | iff::LOOPBACK) == 0
            && dev.ipv6.is_on(ipv6::ACCEPT_DAD)
            && dev.ipv6.is_on(ipv6::DAD_TRANSMITS)
            && new.flags & ifa_f::NODAD == 0;
        new.flags = if asks || !dev.inet6_ready {
            new.flags | ifa_f::TENTATIVE
        } else {
            new.flags & !ifa_f::TENTATIVE
        };
        let ready = dev.inet6_ready;
        let dev = self.dev_mut(id).ok_or(Errno::ENODEV)?;
        let at = dev.addresses.iter().position(|known| order(new.address) >= order(known.address));
        dev.addresses.insert(at.unwrap_or(dev.addresses.len()), new.clone());
        if dev.flags & iff::LOOPBACK == 0 {
            dev.groups.join(solicited_node(address).into());
        }
        if ready {
            self.addrconf_prefix_route(id, &new);
            if asks {
                self.rtmsg_ifa_tentative(id, &new);
                self.addrconf_dad_start(id, address);
            } else {
                self.addrconf_dad_completed(id, address);
            }
        }
        Ok(())
    }

    /// Nobody else has the address, or nobody was asked: it is used from now on (`addrconf_dad_completed`).
    pub fn addrconf_dad_completed(&mut self, id: DevId, address: Ipv6Addr) {
        let Some(dev) = self.dev_mut(id) else { return };
        let Some(known) = dev.addresses.iter_mut().find(|known| known.address == IpAddr::V6(address)) else {
            return;
        };
        known.flags &= !(ifa_f::TENTATIVE | ifa_f::OPTIMISTIC | ifa_f::DADFAILED);
        let known = known.clone();
        let own = Route {
            kind: RouteType::Local,
            metric: 0,
            ..Route::new(RT_TABLE_LOCAL, address.into(), 128, id)
        };
        self.ip6_insert(id, own);
        self.rtmsg_ifa(RTM_NEWADDR, id, &known);
    }

    /// `addrconf_prefix_route`
    fn addrconf_prefix_route(&mut self, id: DevId, known: &InterfaceAddress) {
        if known.flags & ifa_f::NOPREFIXROUTE != 0 || known.prefix_len == 128 && known.peer.is_none() {
            return;
        }
        let metric = if known.metric == 0 { IP6_RT_PRIO_ADDRCONF } else { known.metric };
        let route =
            Route { metric, ..Route::new(RT_TABLE_MAIN, known.prefix_address(), known.prefix_len, id) };
        self.ip6_insert(id, route);
    }

    fn ip6_insert(&mut self, id: DevId, route: Route) {
        let Some(net) = self.dev(id).map(|dev| dev.net) else { return };
        // EEXIST: another address has made it.
        if self.net_mut(net).is_some_and(|net| net.fib.insert(route.clone(), AddMode::KERNEL).is_ok()) {
            self.rtmsg_route(RTM_NEWROUTE, net, &route, 0);
        }
    }

    /// Removes an address: `ipv6_del_addr`.
    pub fn ipv6_del_addr(&mut self, id: DevId, address: IpAddr) {
        let Some(dev) = self.dev_mut(id) else { return };
        let Some(at) = dev.addresses.iter().position(|known| known.address == address) else { return };
        let removed = dev.addresses.remove(at);
        let IpAddr::V6(v6) = address else { return };
        if dev.flags & iff::LOOPBACK == 0 {
            dev.groups.leave(solicited_node(v6).into());
        }
        let net = dev.net;
        let shared = dev.addresses.iter().any(|known| {
            known.address.is_ipv6()
                && known.prefix_len == removed.prefix_len
                && known.flags & ifa_f::NOPREFIXROUTE == 0
                && network(known.prefix_address(), known.prefix_len)
                    == network(removed.prefix_address(), removed.prefix_len)
        });
        let prefix = network(removed.prefix_address(), removed.prefix_len);
        let own = |route: &Route| {
            route.table == RT_TABLE_LOCAL
                && route.kind == RouteType::Local
                && (route.destination, route.prefix_len) == (address, 128)
                && route.uses(id)
        };
        let of_prefix = |route: &Route| {
            route.table == RT_TABLE_MAIN
                && route.protocol == RTPROT_KERNEL
                && (route.destination, route.prefix_len) == (prefix, removed.prefix_len)
                && route.uses(id)
        };
        self.rtmsg_ifa(RTM_DELADDR, id, &removed);
        let mut gone = Vec::new();
        if let Some(net) = self.net_mut(net) {
            gone.extend(net.fib.remove(own));
            if !shared && removed.flags & ifa_f::NOPREFIXROUTE == 0 {
                gone.extend(net.fib.remove(of_prefix));
            }
            net.fib.routes.retain(|route| route.prefsrc != Some(address));
        }
        for route in gone {
            self.rtmsg_route(RTM_DELROUTE, net, &route, 0);
        }
    }

    /// IPv6 stops on a device: `addrconf_ifdown`. `unregister`: it leaves its namespace.
    pub(super) fn addrconf_ifdown(&mut self, id: DevId, unregister: bool) {
        let Some(dev) = self.dev_mut(id) else { return };
        dev.inet6_ready = false;
        let keep = !unregister && dev.ipv6.0[ipv6::KEEP_ADDR_ON_DOWN] > 0;
        let stays = |known: &InterfaceAddress| {
            known.address.is_ipv4()
                || keep
                    && known.flags & ifa_f::PERMANENT != 0
                    && known.scope != scope::LINK
                    && known.scope != scope::HOST
        };
        let (mut rest, gone): (Vec<_>, Vec<_>) =
            std::mem::take(&mut dev.addresses).into_iter().partition(|known| stays(known));
        for known in rest.iter_mut().filter(|known| known.address.is_ipv6()) {
            known.flags |= ifa_f::TENTATIVE;
        }
        dev.addresses = rest;
        let is_v6 = |group: IpAddr| group.is_ipv6();
        for known in &gone {
            if let IpAddr::V6(address) = known.address {
                dev.groups.leave(solicited_node(address).into());
            }
        }
        if unregister {
            let all: Vec<IpAddr> =
                dev.groups.inet.iter().map(|(group, _)| *group).filter(|g| is_v6(*g)).collect();
            for group in all {
                while dev.groups.has(group) {
                    dev.groups.leave(group);
                }
            }
        }
        let net = dev.net;
        self.flush_routes(net, &mut |route| route.destination.is_ipv6() && route.uses(id));
        for known in gone {
            self.rtmsg_ifa(RTM_DELADDR, id, &known);
        }
    }

    /// `disable_ipv6` has changed for a device: `dev_disable_change`.
    pub fn dev_disable_change(&mut self, id: DevId) {
        let Some(dev) = self.dev(id) else { return };
        if self.ipv6_is_disabled(dev) {
            self.addrconf_ifdown(id, false);
        } else {
            self.addrconf_change(id);
        }
    }

    /// `forwarding` has changed for a device: a router is in the groups of routers (`dev_forward_change`).
    pub fn dev_forward_change(&mut self, id: DevId) {
        let Some(dev) = self.dev_mut(id) else { return };
        let is_router = dev.ipv6.is_on(ipv6::FORWARDING);
        for group in ALLROUTERS {
            match (is_router, dev.groups.has(group.into())) {
                (true, false) if dev.flags & iff::MULTICAST != 0 => _ = dev.groups.join(group.into()),
                (false, true) => _ = dev.groups.leave(group.into()),
                _ => {}
            }
        }
    }
}
