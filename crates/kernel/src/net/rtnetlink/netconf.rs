//! Settings of IPv4 and IPv6 by device (`ip-netconf(8)`): `RTM_GETNETCONF`.

use super::super::devconf::{ipv4, ipv6};
use super::super::nlattr::{Message, NlResult};
use super::super::stack::Stack;
use super::{AF_INET, AF_INET6, AF_UNSPEC, RTM_NEWNETCONF, Replies, Request, rtnlgrp};
use crate::errno::Errno;

/// `NETCONFA_*`
const IFINDEX: u16 = 1;
const FORWARDING: u16 = 2;
const RP_FILTER: u16 = 3;
const MC_FORWARDING: u16 = 4;
const PROXY_NEIGH: u16 = 5;
const IGNORE_ROUTES_WITH_LINKDOWN: u16 = 6;
const BC_FORWARDING: u16 = 8;
/// `NETCONFA_IFINDEX_ALL`, `NETCONFA_IFINDEX_DEFAULT`
const ALL: i32 = -1;
const DEFAULT: i32 = -2;

fn fill(family: u8, index: i32, conf4: &[i32], conf6: &[i32], message: &mut Message) {
    message.put_u32(IFINDEX, index as u32);
    let mut put = |which, value: i32| message.put_u32(which, value as u32);
    if family == AF_INET {
        put(FORWARDING, conf4[ipv4::FORWARDING]);
        put(RP_FILTER, conf4[ipv4::RP_FILTER]);
        put(MC_FORWARDING, conf4[ipv4::MC_FORWARDING]);
        put(BC_FORWARDING, conf4[ipv4::BC_FORWARDING]);
        put(PROXY_NEIGH, conf4[ipv4::PROXY_ARP]);
        put(IGNORE_ROUTES_WITH_LINKDOWN, conf4[ipv4::IGNORE_ROUTES_WITH_LINKDOWN]);
    } else {
        put(FORWARDING, conf6[ipv6::FORWARDING]);
        put(MC_FORWARDING, conf6[ipv6::MC_FORWARDING]);
        put(PROXY_NEIGH, conf6[ipv6::PROXY_NDP]);
        put(IGNORE_ROUTES_WITH_LINKDOWN, conf6[ipv6::IGNORE_ROUTES_WITH_LINKDOWN]);
    }
}

/// `inet_netconf_dump_devconf`, `inet_netconf_get_devconf` and those of IPv6.
pub(super) fn getnetconf(stack: &Stack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    let net = stack.net(request.net).ok_or(Errno::ENODEV)?;
    let families = match request.family() {
        AF_UNSPEC if request.is_dump() => vec![AF_INET, AF_INET6],
        family @ (AF_INET | AF_INET6) => vec![family],
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    let (_, attrs) = request.split::<4>()?;
    let wanted = if request.is_dump() { None } else { Some(attrs.i32(IFINDEX)?.ok_or(Errno::EINVAL)?) };
    for family in families {
        let mut all = Vec::new();
        for dev in stack.devices_of(request.net) {
            all.push((dev.ifindex as i32, &dev.ipv4.0, &dev.ipv6.0));
        }
        all.push((ALL, &net.ipv4_all.0, &net.ipv6_all.0));
        all.push((DEFAULT, &net.ipv4_default.0, &net.ipv6_default.0));
        all.retain(|(index, ..)| wanted.is_none_or(|wanted| wanted == *index));
        if all.is_empty() {
            return Err(Errno::EINVAL.into());
        }
        for (index, conf4, conf6) in all {
            let mut message = request.reply(RTM_NEWNETCONF, &[family, 0, 0, 0]);
            fill(family, index, conf4, conf6, &mut message);
            replies.push(message.finish());
        }
    }
    Ok(())
}

impl Stack {
    /// A setting has changed that netconf shows: `inet_netconf_notify_devconf`. `index` is that of a device, or -1 for `all`, -2
    /// for `default`.
    pub(in super::super) fn netconf_notify(&mut self, inum: u64, is_v6: bool, index: i32) {
        let Some(net) = self.net(inum) else { return };
        let (conf4, conf6) = match index {
            ALL => (net.ipv4_all.0, net.ipv6_all.0),
            DEFAULT => (net.ipv4_default.0, net.ipv6_default.0),
            _ => match self.dev_get_by_index(inum, index as u32) {
                Some(dev) => (dev.ipv4.0, dev.ipv6.0),
                None => return,
            },
        };
        let family = if is_v6 { AF_INET6 } else { AF_INET };
        let mut message = Message::new(RTM_NEWNETCONF, 0, 0, 0, &[family, 0, 0, 0]);
        fill(family, index, &conf4, &conf6, &mut message);
        let group = if is_v6 { rtnlgrp::IPV6_NETCONF } else { rtnlgrp::IPV4_NETCONF };
        self.rtnl_notify(inum, group, message);
    }
}
