//! Addresses of IPv6 that configure themselves (`net/ipv6/addrconf.c`, RFC 4862): whether somebody else has one, and what routers tell.

use std::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::{EthernetAddress, NdiscPrefixInfoFlags, NdiscRepr, RawHardwareAddress};

use super::super::core::softirq::{Out, Timer};
use super::super::dev::{DevId, MacAddr};
use super::super::devconf::ipv6 as conf;
use super::super::fib::{AddMode, RT_TABLE_MAIN, RTPROT_RA, Route};
use super::super::inetdev::{InterfaceAddress, ifa_f, scope};
use super::super::stack::Stack;
use super::ALL_ROUTERS;

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// How long an answer is waited for (`retrans_time`).
const RETRANS_TIME: u64 = SECOND;
/// `RTR_SOLICITATION_INTERVAL`, and how often is asked.
const RS_INTERVAL: u64 = 4 * SECOND;
const RS_COUNT: u8 = 3;
/// Addresses and routes of routers' announcements for one device (`max_addresses`).
const MAX_ADDRESSES: usize = 16;

/// The interface identifier of an Ethernet address: `addrconf_ifid_eui48`.
pub(crate) fn eui64(address: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = address.0;
    u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

impl Stack {
    /// An address that may be somebody else's has been set on a device that is up: `addrconf_dad_start`. It is asked for after a
    /// short time that varies, so that hosts which start together do not ask together.
    pub fn addrconf_dad_start(&mut self, dev: DevId, address: Ipv6Addr) {
        let delay = self.random() % SECOND;
        let at = self.now() + delay;
        self.dad.insert((dev, address), 1);
        self.add_timer(at, Timer::Dad(dev, address));
    }

    /// The next question, or nobody has answered: `addrconf_dad_work`.
    pub(crate) fn addrconf_dad_work(&mut self, dev: DevId, address: Ipv6Addr) {
        let Some(left) = self.dad.get_mut(&(dev, address)) else { return };
        if *left > 0 {
            *left -= 1;
            let at = self.now() + RETRANS_TIME;
            self.ndisc_dad(dev, address);
            self.add_timer(at, Timer::Dad(dev, address));
            return;
        }
        self.dad.remove(&(dev, address));
        self.addrconf_dad_completed(dev, address);
        self.hand_out(Out::Changed(dev));
        if address.is_unicast_link_local() {
            self.addrconf_rs_start(dev);
        }
    }

    /// Somebody else has it: `addrconf_dad_failure`.
    pub(super) fn addrconf_dad_failure(&mut self, dev: DevId, address: Ipv6Addr) {
        self.dad.remove(&(dev, address));
        let Some(device) = self.dev_mut(dev) else { return };
        if let Some(known) = device.addresses.iter_mut().find(|known| known.address == IpAddr::V6(address)) {
            known.flags |= ifa_f::DADFAILED;
        }
        self.hand_out(Out::Changed(dev));
    }

    /// Whether what routers tell is believed: `ipv6_accept_ra`.
    fn accepts_ra(&self, dev: DevId) -> bool {
        let Some(device) = self.dev(dev) else { return false };
        match device.ipv6.0[conf::ACCEPT_RA] {
            2 => true,
            1 => !self.ipv6_forwarding(dev),
            _ => false,
        }
    }

    fn addrconf_rs_start(&mut self, dev: DevId) {
        if self.accepts_ra(dev) {
            self.router_solicitations.insert(dev, RS_COUNT);
            self.addrconf_rs_timer(dev);
        }
    }

    /// Asks for routers: `addrconf_rs_timer`.
    pub(crate) fn addrconf_rs_timer(&mut self, dev: DevId) {
        let Some(left) = self.router_solicitations.get_mut(&dev) else { return };
        if *left == 0 {
            self.router_solicitations.remove(&dev);
            return;
        }
        *left -= 1;
        let Some(device) = self.dev(dev) else { return };
        let lladdr = Some(RawHardwareAddress::from(EthernetAddress(device.dev_addr.0)));
        let own = device.addresses.iter().find_map(|known| match known.address {
            IpAddr::V6(address) if address.is_unicast_link_local() && known.is_usable() => Some(address),
            _ => None,
        });
        if let Some(source) = own {
            self.ndisc_send(dev, source, ALL_ROUTERS, NdiscRepr::RouterSolicit { lladdr });
        }
        let at = self.now() + RS_INTERVAL;
        self.add_timer(at, Timer::RouterSolicitation(dev));
    }

    /// A router announces itself and its prefixes: `ndisc_router_discovery`.
    pub(super) fn ndisc_router_discovery(&mut self, dev: DevId, router: Ipv6Addr, message: &NdiscRepr<'_>) {
        let NdiscRepr::RouterAdvert { router_lifetime, lladdr, mtu: _, prefix_info, .. } = message else {
            return;
        };
        if !router.is_unicast_link_local() || !self.accepts_ra(dev) {
            return;
        }
        self.router_solicitations.remove(&dev);
        if let Some(lladdr) = lladdr.and_then(|raw| Some(MacAddr(raw.as_bytes().try_into().ok()?))) {
            self.neigh_update(dev, router.into(), lladdr, false, true, true);
        }
        let now = self.now();
        let Some(device) = self.dev(dev) else { return };
        let (net, own, metric) = (device.net, device.dev_addr, device.ipv6.0[conf::RA_DEFRTR_METRIC]);
        let autoconf = device.ipv6.is_on(conf::AUTOCONF);
        let announced = device.addresses.iter().filter(|known| known.flags & ifa_f::PERMANENT == 0).count();
        let until = |lifetime: u64| (lifetime < u64::from(u32::MAX)).then(|| now + lifetime * SECOND);
        let default = |route: &Route| {
            route.protocol == RTPROT_RA
                && route.prefix_len == 0
                && route.nexthops.iter().any(|hop| hop.gateway == Some(router.into()))
        };
        let mut new = Vec::new();
        if let Some(net) = self.net_mut(net) {
            net.fib.remove(default);
        }
        if router_lifetime.secs() > 0 {
            let mut route = Route::new(RT_TABLE_MAIN, Ipv6Addr::UNSPECIFIED.into(), 0, dev);
            route.nexthops[0].gateway = Some(router.into());
            route.protocol = RTPROT_RA;
            route.metric = metric.max(1) as u32;
            route.expires = until(router_lifetime.secs());
            new.push(route);
        }
        if let Some(prefix) = prefix_info
            && !prefix.prefix.is_unicast_link_local()
            && prefix.preferred_lifetime <= prefix.valid_lifetime
        {
            let (len, valid) = (prefix.prefix_len, prefix.valid_lifetime.secs());
            if prefix.flags.contains(NdiscPrefixInfoFlags::ON_LINK) && valid > 0 {
                let mut route = Route::new(RT_TABLE_MAIN, prefix.prefix.into(), len, dev);
                route.metric = 256;
                route.expires = until(valid);
                let same = |known: &Route| {
                    known.destination == route.destination
                        && known.prefix_len == len
                        && known.dev() == Some(dev)
                };
                if let Some(net) = self.net_mut(net)
                    && !net.fib.routes.iter().any(same)
                {
                    new.push(route);
                }
            }
            if prefix.flags.contains(NdiscPrefixInfoFlags::ADDRCONF) && autoconf && len == 64 && valid > 0 {
                let bits = u128::from(prefix.prefix) & !u128::from(u64::MAX) | u128::from(eui64(own));
                let address = Ipv6Addr::from(bits);
                let lifetimes = (valid as u32, prefix.preferred_lifetime.secs() as u32);
                self.addrconf_prefix_rcv(dev, address, lifetimes, announced);
            }
        }
        if let Some(net) = self.net_mut(net) {
            for route in new {
                // EEXIST: it is there already, set by somebody else. ENOBUFS: too many.
                let _ = net.fib.insert(route, AddMode::KERNEL);
            }
        }
        self.hand_out(Out::Changed(dev));
    }

    /// Makes an address of a prefix, or renews it: `addrconf_prefix_rcv_add_addr`.
    fn addrconf_prefix_rcv(
        &mut self,
        dev: DevId,
        address: Ipv6Addr,
        lifetimes: (u32, u32),
        announced: usize,
    ) {
        let now = self.now();
        let Some(device) = self.dev_mut(dev) else { return };
        if let Some(known) = device.addresses.iter_mut().find(|known| known.address == IpAddr::V6(address)) {
            if known.flags & ifa_f::PERMANENT == 0 {
                (known.valid_lft, known.preferred_lft, known.updated) = (lifetimes.0, lifetimes.1, now);
            }
            return;
        }
        if announced >= MAX_ADDRESSES {
            return;
        }
        let new = InterfaceAddress {
            flags: ifa_f::TENTATIVE | ifa_f::MANAGETEMPADDR | ifa_f::NOPREFIXROUTE,
            valid_lft: lifetimes.0,
            preferred_lft: lifetimes.1,
            created: now,
            updated: now,
            ..InterfaceAddress::new(address.into(), 64, scope::UNIVERSE)
        };
        // EEXIST, ENOBUFS: there is one, or there are too many.
        let _ = self.ipv6_add_addr(dev, new);
    }
}
