//! Where a destination is: here, in which namespace, or nowhere (`ip_route_output_key` as sockets see it).

use std::net::IpAddr;

use crate::errno::{Errno, Result};
use crate::net::fib::Flow;
use crate::net::{DevId, DeviceKind, RouteType, Stack, iff};

/// Where packets to a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To sockets of a namespace.
    Local {
        /// Its inode number.
        net: u64,
        /// The address that a socket without one sends from.
        source: IpAddr,
    },
    /// Out of the sandbox.
    Uplink {
        /// The address that a socket without one sends from.
        source: IpAddr,
    },
}

impl Stack {
    /// The device that has an address of a namespace, which is local then: `inet_addr_type` is `RTN_LOCAL`. The whole network of
    /// a loopback device is local.
    pub fn inet_local_dev(&self, net: u64, address: IpAddr) -> Option<DevId> {
        self.devices_of(net).filter(|dev| dev.flags & iff::UP != 0).find_map(|dev| {
            let loopback = dev.flags & iff::LOOPBACK != 0;
            let here = dev.addresses.iter().any(|known| match (known.address, address) {
                (IpAddr::V4(known4), IpAddr::V4(wanted)) if loopback => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(known.prefix_len)).unwrap_or(0);
                    (known4.to_bits() ^ wanted.to_bits()) & mask == 0
                }
                (known, wanted) => known == wanted,
            });
            here.then_some(dev.id)
        })
    }

    /// Where a packet to `address` goes.
    ///
    /// # Errors
    /// `ENETUNREACH`: there is no route; others where a route says so.
    pub fn inet_route_output(&self, net: u64, address: IpAddr) -> Result<Destination> {
        let Some(id) = self.inet_local_dev(net, address) else {
            let dst = self.route_output(net, &Flow::to(address))?;
            let dev = self.dev(dst.dev).ok_or(Errno::ENETUNREACH)?;
            return match dev.kind {
                DeviceKind::Uplink if dst.kind == RouteType::Unicast => {
                    Ok(Destination::Uplink { source: dst.prefsrc })
                }
                _ => Err(Errno::ENETUNREACH),
            };
        };
        let known = |dev: &crate::net::NetDevice| dev.addresses.iter().any(|known| known.address == address);
        let first = |dev: &crate::net::NetDevice| {
            dev.addresses.iter().map(|known| known.address).find(|known| known.is_ipv4() == address.is_ipv4())
        };
        let dev = self.dev(id).ok_or(Errno::ENETUNREACH)?;
        // Of a network that is local as a whole, the address itself need not be on the device.
        let source = if known(dev) { Some(address) } else { first(dev) };
        Ok(Destination::Local { net, source: source.unwrap_or(address) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::NetNamespace;
    use crate::user_namespace::UserNamespace;

    #[test]
    fn loopback_is_reachable_when_it_is_up() {
        let ns = NetNamespace::initial(1, UserNamespace::initial());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let route = |to| ns.stack().lock().inet_route_output(1, ip(to));
        assert_eq!(route("127.0.0.1"), Err(Errno::ENETUNREACH));
        {
            let mut stack = ns.stack().lock();
            let lo = stack.dev_get_by_name(1, "lo").unwrap().id;
            stack.dev_change_flags(lo, iff::UP, iff::UP).unwrap();
        }
        assert_eq!(route("127.0.0.1"), Ok(Destination::Local { net: 1, source: ip("127.0.0.1") }));
        assert_eq!(route("127.5.0.1"), Ok(Destination::Local { net: 1, source: ip("127.0.0.1") }));
        assert_eq!(route("::1"), Ok(Destination::Local { net: 1, source: ip("::1") }));
        assert_eq!(route("10.0.0.1"), Err(Errno::ENETUNREACH));
        assert_eq!(route("::2"), Err(Errno::ENETUNREACH));
    }
}
