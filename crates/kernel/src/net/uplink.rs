//! The device behind which the outside is, for who is allowed to go there: an Ethernet device with a gateway and a resolver on its
//! link, as emulators of machines make it (`qemu(1)`, `-netdev user`; `slirp4netns(1)`).
//!
//! Connections and datagrams that are routed out of it are no packets: they are sockets of the supervisor's, which asks
//! [`Uplink`] where they go. What is sent as packets goes nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dev::{DevId, DeviceKind, NetDevice, iff};
use super::fib::{AddMode, NextHop, Route};
use super::inetdev::{InterfaceAddress, scope};
use super::stack::Stack;
use super::{RT_TABLE_MAIN, nlattr::NlResult};
use crate::errno::Errno;

/// The name of the device.
pub const NAME: &str = "eth0";
/// The sandbox's address, on a network of 24 bits.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The gateway, which stands for the host's loopback.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The resolver.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The sandbox's address of IPv6, on a network of 64 bits.
pub const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x15);
/// The gateway of IPv6, which stands for the host's loopback.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// `RTPROT_BOOT`
const RTPROT_BOOT: u8 = 3;

/// What an address behind the device stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// The resolver.
    Resolver,
    /// This address of the host's world.
    Host(IpAddr),
    /// Nobody: an address on the link that nobody has.
    Nobody,
}

/// Whom a connection to `address` reaches.
pub fn outside(address: IpAddr) -> Outside {
    match address {
        IpAddr::V4(RESOLVER) => Outside::Resolver,
        IpAddr::V4(GATEWAY) => Outside::Host(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(GATEWAY6) => Outside::Host(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(address) if address.octets()[..3] == GATEWAY.octets()[..3] => Outside::Nobody,
        IpAddr::V6(address) if address.segments()[..4] == GATEWAY6.segments()[..4] => Outside::Nobody,
        address => Outside::Host(address),
    }
}

impl Stack {
    /// Whether a device is one behind which the outside is.
    pub fn is_uplink(&self, dev: DevId) -> bool {
        self.dev(dev).is_some_and(|dev| dev.kind == DeviceKind::Uplink)
    }

    /// Adds the device to a namespace, up, with addresses and default routes; those of IPv6 if `v6`.
    ///
    /// # Errors
    /// Those of [`Stack::register_netdevice`] and of adding addresses and routes.
    pub fn add_uplink(&mut self, inum: u64, v6: bool) -> NlResult<DevId> {
        let id = self.register_netdevice(inum, NetDevice::ether(DeviceKind::Uplink, NAME))?;
        self.inet_insert_ifa(id, InterfaceAddress::new(ADDRESS.into(), 24, scope::UNIVERSE))?;
        self.dev_change_flags(id, iff::UP, iff::UP)?;
        self.default_route(inum, id, GATEWAY.into())?;
        if v6 {
            self.ipv6_add_addr(id, InterfaceAddress::new(ADDRESS6.into(), 64, scope::UNIVERSE))?;
            self.addrconf_dad_completed(id, ADDRESS6);
            self.default_route(inum, id, GATEWAY6.into())?;
        }
        Ok(id)
    }

    fn default_route(&mut self, inum: u64, dev: DevId, gateway: IpAddr) -> NlResult<()> {
        let unspecified = match gateway {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let route = Route {
            protocol: RTPROT_BOOT,
            metric: if gateway.is_ipv4() { 0 } else { 1024 },
            nexthops: vec![NextHop { dev: Some(dev), gateway: Some(gateway), weight: 1, flags: 0 }],
            ..Route::new(RT_TABLE_MAIN, unspecified, 0, dev)
        };
        self.net_mut(inum).ok_or(Errno::ENODEV)?.fib.insert(route, AddMode::KERNEL)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::fib::Flow;
    use crate::net::inet::route::Destination;
    use crate::net::{NetNamespace, NetStack};
    use crate::user_namespace::UserNamespace;

    #[test]
    fn what_is_not_local_goes_out_of_it() {
        let ns = NetNamespace::initial(1, UserNamespace::initial());
        let stack: &NetStack = ns.stack();
        let mut stack = stack.lock();
        stack.add_uplink(1, true).unwrap();
        let route = |stack: &Stack, to: &str| stack.inet_route_output(1, &Flow::to(to.parse().unwrap()));
        let source = |stack: &Stack, to: &str| match route(stack, to) {
            Ok(Destination::Outside(dst)) if stack.is_uplink(dst.dev) => Some(dst.prefsrc),
            _ => None,
        };
        assert_eq!(source(&stack, "192.0.2.1"), Some(ADDRESS.into()));
        assert_eq!(source(&stack, "10.0.2.3"), Some(ADDRESS.into()));
        assert_eq!(source(&stack, "2001:db8::1"), Some(ADDRESS6.into()));
        let local = Destination::Local { net: 1, source: ADDRESS.into() };
        assert_eq!(route(&stack, "10.0.2.15"), Ok(local));
        stack.net_mut(1).unwrap().fib.routes.retain(|route| route.prefix_len != 0);
        assert_eq!(route(&stack, "192.0.2.1"), Err(Errno::ENETUNREACH));
    }

    #[test]
    fn the_gateway_stands_for_the_host() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(outside(ip("10.0.2.2")), Outside::Host(ip("127.0.0.1")));
        assert_eq!(outside(ip("fd00::2")), Outside::Host(ip("::1")));
        assert_eq!(outside(ip("10.0.2.3")), Outside::Resolver);
        assert_eq!(outside(ip("10.0.2.7")), Outside::Nobody);
        assert_eq!(outside(ip("10.0.3.7")), Outside::Host(ip("10.0.3.7")));
    }
}
