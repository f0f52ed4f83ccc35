//! A namespace that shows somebody else's: the host's devices, addresses and routes, as a dump of them tells
//! (`rtnetlink(7)`). Its devices lead to the outside as [`super::uplink`]'s does.

use std::net::IpAddr;

use super::dev::{DeviceKind, MacAddr, NetDevice, arphrd, iff};
use super::devconf::ipv6;
use super::nlattr::{Attrs, NLMSG_HDRLEN, NlResult, nlm_f};
use super::rtnetlink::{NetRef, Nets, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, Sender, rtnetlink_rcv};
use super::stack::Stack;
use super::{NetNamespace, RT_TABLE_LOCAL};
use crate::errno::{Errno, Result};

/// `IFLA_*`
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_CARRIER: u16 = 33;
/// Length of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// Where `rtm_table` and `rtm_type` are in a `struct rtmsg`.
const RTM_TABLE: usize = 4;
/// Where `rtm_flags` are, of which what is learnt (`RTM_F_CLONED`) is no route.
const RTM_FLAGS: usize = 8;
const RTM_F_CLONED: u32 = 0x200;

/// Nobody names a namespace in a dump.
struct NoNets;

impl Nets for NoNets {
    fn by_pid(&self, _: u32) -> Result<NetRef> {
        Err(Errno::ESRCH)
    }

    fn by_fd(&self, _: u32) -> Result<NetRef> {
        Err(Errno::EBADF)
    }
}

impl NetNamespace {
    /// Takes over what the messages of a dump tell: devices first, then addresses, then routes. What has no counterpart here is
    /// left out; what follows from the rest is there already.
    pub fn mirror(&self, dump: &[u8]) {
        let sender = Sender {
            port: 0,
            may_change: true,
            uid: 0,
            ext_ack: false,
            cap_ack: true,
            strict: false,
            nets: &NoNets,
        };
        let inum = self.common().inum();
        let mut rest = dump;
        while let Some(header) = rest.first_chunk::<NLMSG_HDRLEN>() {
            let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            if len < NLMSG_HDRLEN || len > rest.len() {
                break;
            }
            let (message, tail) = rest.split_at(len);
            rest = &tail[(len.next_multiple_of(4) - len).min(tail.len())..];
            let payload = &message[NLMSG_HDRLEN..];
            match u16::from_ne_bytes([message[4], message[5]]) {
                RTM_NEWLINK => {
                    // A device that cannot be shown takes its addresses and routes with it.
                    let _ = self.stack().lock().mirror_link(inum, payload);
                }
                RTM_NEWADDR => drop(rtnetlink_rcv(self, &sender, &as_request(message))),
                RTM_NEWROUTE if is_shown(payload) => {
                    drop(rtnetlink_rcv(self, &sender, &as_request(message)));
                }
                _ => {}
            }
        }
        let mut stack = self.stack().lock();
        let asked = |dev: &NetDevice| {
            let tentative = dev.addresses.iter().filter(|known| !known.is_usable());
            tentative.map(|known| (dev.id, known.address)).collect::<Vec<_>>()
        };
        let asked: Vec<_> = stack.devices_of(inum).flat_map(asked).collect();
        for (dev, address) in asked {
            // The host has asked already whether somebody else has it.
            if let IpAddr::V6(address) = address {
                stack.addrconf_dad_completed(dev, address);
            }
        }
    }
}

/// A message of a dump as the request for what it tells of.
fn as_request(message: &[u8]) -> Vec<u8> {
    let flags = nlm_f::REQUEST | nlm_f::CREATE | nlm_f::EXCL;
    let mut request = message.to_vec();
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request
}

/// Whether a route is one that somebody has made, and not one of own addresses.
fn is_shown(rtmsg: &[u8]) -> bool {
    let table = rtmsg.get(RTM_TABLE).copied().unwrap_or(0);
    let flags = rtmsg.get(RTM_FLAGS..RTM_FLAGS + 4).and_then(|bytes| bytes.first_chunk().copied());
    u32::from(table) != RT_TABLE_LOCAL && u32::from_ne_bytes(flags.unwrap_or_default()) & RTM_F_CLONED == 0
}

impl Stack {
    fn mirror_link(&mut self, inum: u64, payload: &[u8]) -> NlResult<()> {
        let fixed = payload.first_chunk::<IFINFOMSG>().ok_or(Errno::EINVAL)?;
        let attrs = Attrs::new(&payload[IFINFOMSG..]);
        let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
        let (dev_type, ifindex, flags) = (u16::from_ne_bytes([fixed[2], fixed[3]]), word(4), word(8));
        let name = attrs.string(IFLA_IFNAME, 15)?.ok_or(Errno::EINVAL)?;
        if dev_type == arphrd::LOOPBACK {
            // The sandbox has its own, which is up already.
            return Ok(());
        }
        let address: [u8; 6] =
            attrs.get(IFLA_ADDRESS).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
        /// What of a device's flags is the driver's.
        const OF_DEVICE: u32 = iff::BROADCAST | iff::MULTICAST | iff::POINTOPOINT | iff::NOARP;
        let ether = NetDevice::ether(DeviceKind::Uplink, name);
        let is_ether = dev_type == arphrd::ETHER;
        let mut dev = NetDevice {
            dev_type: if is_ether { arphrd::ETHER } else { arphrd::NONE },
            ifindex,
            flags: flags & OF_DEVICE,
            mtu: attrs.u32(IFLA_MTU)?.unwrap_or(ether.mtu),
            tx_queue_len: attrs.u32(IFLA_TXQLEN)?.unwrap_or(ether.tx_queue_len),
            carrier: attrs.u8(IFLA_CARRIER)?.unwrap_or(1) != 0,
            dev_addr: MacAddr(address),
            broadcast: if is_ether { MacAddr::BROADCAST } else { MacAddr::default() },
            ..ether
        };
        // Its addresses come with the dump, and nobody is asked for them.
        dev.ipv6.0[ipv6::ADDR_GEN_MODE] = 1;
        dev.ipv6.0[ipv6::ACCEPT_DAD] = 0;
        dev.ipv6.0[ipv6::ACCEPT_RA] = 0;
        let id = self.register_netdevice(inum, dev)?;
        self.dev_change_flags(id, flags & iff::UP, iff::UP)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fib::Flow;
    use super::super::inet::route::Destination;
    use super::super::nlattr::Message;
    use super::*;
    use crate::user_namespace::UserNamespace;

    #[test]
    fn devices_addresses_and_routes_of_a_dump_are_shown() {
        let ns = NetNamespace::initial(1, UserNamespace::outside());
        let mut link = [0; IFINFOMSG];
        link[2..4].copy_from_slice(&arphrd::ETHER.to_ne_bytes());
        link[4..8].copy_from_slice(&7u32.to_ne_bytes());
        link[8..12].copy_from_slice(&(iff::UP | iff::BROADCAST).to_ne_bytes());
        let mut link = Message::new(RTM_NEWLINK, nlm_f::MULTI, 1, 9, &link);
        link.put_string(IFLA_IFNAME, "wan0");
        link.put(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1]);
        let mut address = Message::new(RTM_NEWADDR, nlm_f::MULTI, 1, 9, &[2, 24, 0, 0, 7, 0, 0, 0]);
        address.put(1, &[192, 0, 2, 9]);
        address.put(2, &[192, 0, 2, 9]);
        let mut route =
            Message::new(RTM_NEWROUTE, nlm_f::MULTI, 1, 9, &[2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0]);
        route.put(5, &[192, 0, 2, 1]);
        route.put(4, &7u32.to_ne_bytes());
        ns.mirror(&[link.finish(), address.finish(), route.finish(), vec![9; 5]].concat());
        let dev = ns.device_by_name("wan0").unwrap();
        assert_eq!((dev.ifindex, dev.is_up(), dev.dev_addr.0[5]), (7, true, 1));
        let stack = ns.stack().lock();
        let way = stack.inet_route_output(1, &Flow::to("198.51.100.1".parse().unwrap()));
        assert!(matches!(way, Ok(Destination::Outside(dst)) if stack.is_uplink(dst.dev)), "{way:?}");
    }
}
