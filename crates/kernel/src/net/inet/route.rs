//! Where a destination is: in this namespace, in another one of the sandbox, or beyond (`ip_route_output_key` as sockets see it).
//!
//! Streams between two namespaces need no packets where every device on the way is the model's own: then the two sockets can be joined.
//! [`Stack::inet_route_output`] follows the way a packet would take, over cables and bridges and through namespaces that forward.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::core::Dst;
use super::super::dev::{DevId, DeviceKind, NetDevice, iff};
use super::super::fib::{Flow, RouteType};
use super::super::stack::Stack;
use crate::errno::{Errno, Result};

/// Through how many namespaces a way is followed.
const MAX_HOPS: u8 = 16;

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
    /// Out of a device, to where the model does not see.
    Outside(Dst),
}

impl Stack {
    /// The device that has an address of a namespace, which is local then: `inet_addr_type` is `RTN_LOCAL`. The whole network of
    /// a loopback device is local.
    pub fn inet_local_dev(&self, net: u64, address: IpAddr) -> Option<DevId> {
        self.devices_of(net).filter(|dev| dev.is_up()).find_map(|dev| {
            let loopback = dev.flags & iff::LOOPBACK != 0 && address.is_ipv4();
            let here = dev.addresses.iter().any(|known| {
                known.is_usable() && (known.address == address || loopback && known.covers(address))
            });
            here.then_some(dev.id)
        })
    }

    /// Where a packet with this flow goes.
    ///
    /// # Errors
    /// Those of [`Stack::route_output`].
    pub fn inet_route_output(&self, net: u64, flow: &Flow) -> Result<Destination> {
        let address = flow.daddr;
        if let Some(dev) = self.inet_local_dev(net, address).and_then(|id| self.dev(id)) {
            // Of a network that is local as a whole, the address itself need not be on the device.
            let all = || dev.addresses.iter().map(|known| known.address);
            let source = all().find(|known| *known == address);
            let source = source.or_else(|| all().find(|known| known.is_ipv4() == address.is_ipv4()));
            return Ok(Destination::Local { net, source: source.unwrap_or(address) });
        }
        let dst = self.route_output(net, flow)?;
        let source = flow.saddr.unwrap_or(dst.prefsrc);
        Ok(match dst.kind {
            RouteType::Local => Destination::Local { net, source },
            RouteType::Unicast => match self.inet_follow(&dst, address, MAX_HOPS, &mut BTreeSet::new()) {
                // Where nothing comes back, packets are needed to find that out.
                Some(net) if self.route_output(net, &Flow::to(source)).is_ok() => {
                    Destination::Local { net, source }
                }
                _ => Destination::Outside(dst),
            },
            RouteType::Broadcast | RouteType::Multicast => Destination::Outside(dst),
            _ => return Err(Errno::ENETUNREACH),
        })
    }

    /// The devices that a packet with this flow passes, whose destination is [`Destination::Local`].
    pub(super) fn inet_devices_passed(&self, net: u64, flow: &Flow) -> BTreeSet<DevId> {
        let mut passed = BTreeSet::new();
        if self.inet_local_dev(net, flow.daddr).is_some() {
            passed.extend(self.loopback_of(net));
        } else if let Ok(dst) = self.route_output(net, flow) {
            let _ = self.inet_follow(&dst, flow.daddr, MAX_HOPS, &mut passed);
        }
        passed
    }

    /// The namespace in which a packet that leaves by `dst` ends, if only devices of the model's are on its way. Those are added to
    /// `passed`.
    fn inet_follow(&self, dst: &Dst, address: IpAddr, hops: u8, passed: &mut BTreeSet<DevId>) -> Option<u64> {
        let mut reached = BTreeSet::new();
        self.leave(dst.dev, &mut reached, passed);
        let has = |dev: &&NetDevice| {
            dev.is_up()
                && dev.addresses.iter().any(|known| known.address == dst.neighbour && known.is_usable())
        };
        let entry = reached.iter().filter_map(|id| self.dev(*id)).find(has)?;
        if self.inet_local_dev(entry.net, address).is_some() {
            return Some(entry.net);
        }
        let forwards =
            if address.is_ipv4() { self.ipv4_forwarding(entry.id) } else { self.ipv6_forwarding(entry.id) };
        if !forwards || hops == 0 {
            return None;
        }
        let flow = Flow { iif: Some(entry.id), ..Flow::to(address) };
        let next = self.route_output(entry.net, &flow).ok()?;
        match next.kind {
            RouteType::Unicast => self.inet_follow(&next, address, hops - 1, passed),
            _ => None,
        }
    }

    /// The devices that frames come in on that leave by `dev`.
    fn leave(&self, dev: DevId, reached: &mut BTreeSet<DevId>, passed: &mut BTreeSet<DevId>) {
        let Some(out) = self.dev(dev).filter(|dev| dev.is_up()) else { return };
        passed.insert(dev);
        match out.kind {
            DeviceKind::Veth { peer: Some(peer) } => {
                let Some(peer) = self.dev(peer).filter(|peer| peer.is_up()) else { return };
                passed.insert(peer.id);
                match peer.master {
                    None => {
                        reached.insert(peer.id);
                    }
                    Some(bridge) if reached.insert(bridge) => self.flood(bridge, peer.id, reached, passed),
                    Some(_) => {}
                }
            }
            DeviceKind::Bridge(_) => self.flood(dev, dev, reached, passed),
            _ => {}
        }
    }

    /// What leaves by all ports of a bridge but one.
    fn flood(&self, bridge: DevId, but: DevId, reached: &mut BTreeSet<DevId>, passed: &mut BTreeSet<DevId>) {
        passed.insert(bridge);
        let Some(net) = self.dev(bridge).map(|bridge| bridge.net) else { return };
        let is_port = |dev: &&NetDevice| dev.master == Some(bridge) && dev.id != but;
        for port in self.devices_of(net).filter(is_port) {
            self.leave(port.id, reached, passed);
        }
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
        let route = |to| ns.stack().lock().inet_route_output(1, &Flow::to(ip(to)));
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
