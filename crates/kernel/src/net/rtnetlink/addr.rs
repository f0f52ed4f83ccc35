//! Addresses: `RTM_NEWADDR`, `RTM_DELADDR`, `RTM_GETADDR` (`ip-address(8)`, `net/ipv4/devinet.c`, `net/ipv6/addrconf.c`).

use std::net::IpAddr;

use super::super::dev::{DevId, NetDevice};
use super::super::dev_core::IF_NAME_MAX;
use super::super::inetdev::{INFINITY_LIFE_TIME, InterfaceAddress, ifa_f, ipv6_scope};
use super::super::nlattr::{Message, NlResult, nlm_f};
use super::super::stack::{NetStack, Stack};
use super::{AF_INET, AF_INET6, AF_UNSPEC, RTM_NEWADDR, Replies, Request, rtnlgrp};
use crate::errno::Errno;

/// `IFA_*`
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;

/// Nanoseconds in a second and in its hundredth.
const SECOND: u64 = 1_000_000_000;
const HUNDREDTH: u64 = 10_000_000;

/// What a message says: `rtm_to_ifaddr`, `inet6_rtm_newaddr`. `new`: it is to be added.
fn parse(stack: &Stack, request: &Request<'_>, new: bool) -> NlResult<(DevId, InterfaceAddress)> {
    let ([family, prefix_len, flags, scope, index @ ..], attrs) = request.split::<8>()?;
    let index = u32::from_ne_bytes(index);
    let is_v4 = family == AF_INET;
    if !is_v4 && family != AF_INET6 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if prefix_len > if is_v4 { 32 } else { 128 } {
        return Err(Errno::EINVAL.with(if is_v4 {
            "ipv4: Invalid prefix length"
        } else {
            "ipv6: Invalid prefix length"
        }));
    }
    let (address, local) = (attrs.ip(IFA_ADDRESS)?, attrs.ip(IFA_LOCAL)?);
    if new && is_v4 && local.is_none() {
        return Err(Errno::EINVAL.with("ipv4: Local address is not supplied"));
    }
    let own = local.or(address).ok_or(Errno::EINVAL)?;
    if own.is_ipv4() != is_v4 || address.is_some_and(|address| address.is_ipv4() != is_v4) {
        return Err(Errno::EINVAL.into());
    }
    let missing = if is_v4 { "ipv4: Device not found" } else { "ipv6: Unable to find the interface" };
    let dev = stack.dev_get_by_index(request.net, index).ok_or(Errno::ENODEV.with(missing))?;
    let label = attrs.string(IFA_LABEL, IF_NAME_MAX)?;
    let mut known = InterfaceAddress {
        peer: address.filter(|address| *address != own),
        flags: attrs.u32(IFA_FLAGS)?.unwrap_or(flags.into()),
        metric: attrs.u32(IFA_RT_PRIORITY)?.unwrap_or(0),
        proto: attrs.u8(IFA_PROTO)?.unwrap_or(0),
        ..InterfaceAddress::new(own, prefix_len, scope)
    };
    if is_v4 {
        known.label = label.unwrap_or(&dev.name).to_owned();
        known.broadcast = match attrs.ip(IFA_BROADCAST)? {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
    } else {
        /// What a program may ask for: `inet6_rtm_newaddr`.
        const ALLOWED: u32 =
            ifa_f::NODAD | 0x10 | ifa_f::MANAGETEMPADDR | ifa_f::NOPREFIXROUTE | 0x400 | ifa_f::OPTIMISTIC;
        known.flags &= ALLOWED;
        if let IpAddr::V6(address) = own {
            known.scope = ipv6_scope(address);
        }
    }
    known.flags |= ifa_f::PERMANENT;
    if let Some(info) = attrs.get(IFA_CACHEINFO).filter(|_| new) {
        let word = |at: usize| info.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let (preferred, valid) = (word(0).ok_or(Errno::EINVAL)?, word(4).ok_or(Errno::EINVAL)?);
        if valid == 0 || preferred > valid {
            return Err(Errno::EINVAL.with(if is_v4 {
                "ipv4: address lifetime invalid"
            } else {
                "ipv6: address lifetime invalid"
            }));
        }
        set_lifetime(&mut known, valid, preferred);
    }
    Ok((dev.id, known))
}

/// `set_ifa_lifetime`
fn set_lifetime(known: &mut InterfaceAddress, valid: u32, preferred: u32) {
    known.flags &= !(ifa_f::PERMANENT | ifa_f::DEPRECATED);
    if valid == INFINITY_LIFE_TIME {
        known.flags |= ifa_f::PERMANENT;
    }
    if preferred == 0 {
        known.flags |= ifa_f::DEPRECATED;
    }
    (known.valid_lft, known.preferred_lft) = (valid, preferred);
}

/// `inet_rtm_newaddr`, `inet6_rtm_newaddr`
pub(super) fn newaddr(stack: &mut Stack, request: &Request<'_>) -> NlResult<()> {
    let (id, new) = parse(stack, request, true)?;
    let now = stack.now();
    let is_v4 = new.address.is_ipv4();
    let same = |known: &InterfaceAddress| {
        known.address == new.address
            && (!is_v4 || known.prefix_len == new.prefix_len && known.covers(new.prefix_address()))
    };
    let found = stack.dev(id).and_then(|dev| dev.addresses.iter().find(|known| same(known))).cloned();
    let Some(found) = found else {
        return if is_v4 { stack.inet_insert_ifa(id, new) } else { stack.ipv6_add_addr(id, new) };
    };
    if request.has(nlm_f::EXCL) || !request.has(nlm_f::REPLACE) {
        return Err(Errno::EEXIST.with(if is_v4 {
            "ipv4: Address already assigned"
        } else {
            "ipv6: address already assigned"
        }));
    }
    let mut changed =
        InterfaceAddress { updated: now, metric: new.metric, proto: new.proto, ..found.clone() };
    set_lifetime(&mut changed, new.valid_lft, new.preferred_lft);
    if let Some(dev) = stack.dev_mut(id)
        && let Some(known) = dev.addresses.iter_mut().find(|known| **known == found)
    {
        *known = changed.clone();
    }
    stack.rtmsg_ifa(RTM_NEWADDR, id, &changed);
    Ok(())
}

/// `inet_rtm_deladdr`, `inet6_rtm_deladdr`
pub(super) fn deladdr(stack: &mut Stack, request: &Request<'_>) -> NlResult<()> {
    let (id, wanted) = parse(stack, request, false)?;
    let (_, attrs) = request.split::<8>()?;
    let (address, local, label) =
        (attrs.ip(IFA_ADDRESS)?, attrs.ip(IFA_LOCAL)?, attrs.string(IFA_LABEL, IF_NAME_MAX)?);
    let is_v4 = wanted.address.is_ipv4();
    let is_it = |known: &&InterfaceAddress| {
        if !is_v4 {
            return known.address == wanted.address && known.prefix_len == wanted.prefix_len;
        }
        known.address.is_ipv4()
            && local.is_none_or(|local| known.address == local)
            && label.is_none_or(|label| known.label == label)
            && address.is_none_or(|address| known.prefix_len == wanted.prefix_len && known.covers(address))
    };
    let found = stack.dev(id).and_then(|dev| dev.addresses.iter().find(is_it)).cloned();
    let Some(found) = found else {
        return Err(Errno::EADDRNOTAVAIL.with(if is_v4 {
            "ipv4: Address not found"
        } else {
            "ipv6: address not found"
        }));
    };
    if is_v4 {
        stack.inet_del_ifa(id, found.address, found.prefix_len);
    } else {
        stack.ipv6_del_addr(id, found.address);
    }
    Ok(())
}

/// `inet_dump_ifaddr`, `inet6_dump_ifaddr`
pub(super) fn getaddr(stack: &NetStack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    let ([family, _, _, _, index @ ..], _) = request.split::<8>()?;
    let index = if request.sender.strict || !request.is_dump() { u32::from_ne_bytes(index) } else { 0 };
    if !request.is_dump() {
        return getaddr_one(&stack.lock(), request, replies);
    }
    if !matches!(family, AF_UNSPEC | AF_INET | AF_INET6) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let stack = stack.lock();
    if index != 0 && stack.dev_get_by_index(request.net, index).is_none() {
        return Err(Errno::ENODEV.into());
    }
    for is_v4 in [true, false] {
        if family != AF_UNSPEC && (family == AF_INET) != is_v4 {
            continue;
        }
        for dev in stack.devices_of(request.net).filter(|dev| index == 0 || dev.ifindex == index) {
            for known in dev.addresses.iter().filter(|known| known.address.is_ipv4() == is_v4) {
                let mut message = request.reply(RTM_NEWADDR, &header(dev, known));
                fill(known, stack.now(), &mut message);
                replies.push(message.finish());
            }
        }
    }
    Ok(())
}

/// `inet6_rtm_getaddr`: IPv6 gives one address, too.
fn getaddr_one(stack: &Stack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    if request.family() != AF_INET6 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let ([_, _, _, _, index @ ..], attrs) = request.split::<8>()?;
    let index = u32::from_ne_bytes(index);
    let address = attrs.ip(IFA_LOCAL)?.or(attrs.ip(IFA_ADDRESS)?).ok_or(Errno::EINVAL)?;
    for dev in stack.devices_of(request.net).filter(|dev| index == 0 || dev.ifindex == index) {
        if let Some(known) = dev.addresses.iter().find(|known| known.address == address) {
            let mut message = request.reply(RTM_NEWADDR, &header(dev, known));
            fill(known, stack.now(), &mut message);
            replies.push(message.finish());
            return Ok(());
        }
    }
    Err(Errno::EADDRNOTAVAIL.into())
}

/// `struct ifaddrmsg`
fn header(dev: &NetDevice, known: &InterfaceAddress) -> [u8; 8] {
    let family = if known.address.is_ipv4() { AF_INET } else { AF_INET6 };
    let [a, b, c, d] = dev.ifindex.to_ne_bytes();
    [family, known.prefix_len, known.flags as u8, known.scope, a, b, c, d]
}

/// `inet_fill_ifaddr`, `inet6_fill_ifaddr`
fn fill(known: &InterfaceAddress, now: u64, message: &mut Message) {
    let age = (now.saturating_sub(known.updated) / SECOND) as u32;
    let left =
        |lifetime: u32| if lifetime == INFINITY_LIFE_TIME { lifetime } else { lifetime.saturating_sub(age) };
    let hundredths = |time: u64| (time / HUNDREDTH) as u32;
    let mut info = Vec::new();
    for word in [
        left(known.preferred_lft),
        left(known.valid_lft),
        hundredths(known.created),
        hundredths(known.updated),
    ] {
        info.extend(word.to_ne_bytes());
    }
    if known.address.is_ipv4() {
        message.put_ip(IFA_ADDRESS, known.prefix_address());
        message.put_ip(IFA_LOCAL, known.address);
        if let Some(broadcast) = known.broadcast {
            message.put_ip(IFA_BROADCAST, broadcast.into());
        }
        message.put_string(IFA_LABEL, &known.label);
        if known.proto != 0 {
            message.put_u8(IFA_PROTO, known.proto);
        }
        message.put_u32(IFA_FLAGS, known.flags);
        if known.metric != 0 {
            message.put_u32(IFA_RT_PRIORITY, known.metric);
        }
        message.put(IFA_CACHEINFO, &info);
    } else {
        if let Some(peer) = known.peer {
            message.put_ip(IFA_LOCAL, known.address);
            message.put_ip(IFA_ADDRESS, peer);
        } else {
            message.put_ip(IFA_ADDRESS, known.address);
        }
        if known.metric != 0 {
            message.put_u32(IFA_RT_PRIORITY, known.metric);
        }
        message.put(IFA_CACHEINFO, &info);
        message.put_u32(IFA_FLAGS, known.flags);
        if known.proto != 0 {
            message.put_u8(IFA_PROTO, known.proto);
        }
    }
}

impl Stack {
    /// Tells of an address: `rtmsg_ifa`, `inet6_ifa_notify`.
    pub(in super::super) fn rtmsg_ifa(&mut self, kind: u16, id: DevId, known: &InterfaceAddress) {
        let Some(dev) = self.dev(id) else { return };
        let (net, group) =
            (dev.net, if known.address.is_ipv4() { rtnlgrp::IPV4_IFADDR } else { rtnlgrp::IPV6_IFADDR });
        let mut message = Message::new(kind, 0, 0, 0, &header(dev, known));
        fill(known, self.now(), &mut message);
        self.rtnl_notify(net, group, message);
    }

    /// An address that is asked for is told of, too.
    pub(in super::super) fn rtmsg_ifa_tentative(&mut self, id: DevId, known: &InterfaceAddress) {
        if known.flags & ifa_f::OPTIMISTIC != 0 {
            self.rtmsg_ifa(RTM_NEWADDR, id, known);
        }
    }
}
