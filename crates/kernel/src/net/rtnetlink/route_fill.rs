//! Routes as they are shown, and looked up for a destination: `RTM_GETROUTE` (`fib_dump_info`, `rt_fill_info`, `rt6_fill_node`).

use std::net::{IpAddr, Ipv4Addr};

use super::super::dev::{DevId, iff};
use super::super::fib::{FibResult, Flow, NextHop, RT_TABLE_LOCAL, RT_TABLE_MAIN, Route, RouteType, rtnh_f};
use super::super::inetdev::scope;
use super::super::nlattr::{Message, NlResult};
use super::super::stack::Stack;
use super::route::{
    RTA_DST, RTA_GATEWAY, RTA_IIF, RTA_METRICS, RTA_MULTIPATH, RTA_OIF, RTA_PREF, RTA_PREFSRC, RTA_PRIORITY,
    RTA_SRC, RTA_TABLE, RTA_VIA, RtMsg, compat_table,
};
use super::{AF_INET, AF_INET6, AF_UNSPEC, RTM_NEWROUTE, Replies, Request, rtnlgrp};
use crate::errno::Errno;

const RTA_CACHEINFO: u16 = 12;
const RTA_MARK: u16 = 16;
const RTA_UID: u16 = 25;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
/// `RTM_F_CLONED`: a look-up's result.
const RTM_F_CLONED: u32 = 0x200;
/// `RTM_F_LOOKUP_TABLE`: with the table it was found in.
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
/// `RTM_F_FIB_MATCH`: the route itself.
const RTM_F_FIB_MATCH: u32 = 0x2000;

fn family_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn header(route: &Route) -> [u8; 12] {
    let flags = match &route.nexthops[..] {
        [hop] => u32::from(hop.flags),
        _ => 0,
    };
    let [a, b, c, d] = flags.to_ne_bytes();
    let family = family_of(route.destination);
    let table = compat_table(route.table);
    [family, route.prefix_len, 0, route.tos, table, route.protocol, route.scope, route.kind as u8, a, b, c, d]
}

fn ifindex(stack: &Stack, dev: Option<DevId>) -> Option<u32> {
    dev.and_then(|dev| stack.dev(dev)).map(|dev| dev.ifindex)
}

/// `fib_nexthop_info`
fn put_gateway(route: &Route, hop: &NextHop, message: &mut Message) {
    match hop.gateway {
        Some(gateway) if gateway.is_ipv4() == route.destination.is_ipv4() => {
            message.put_ip(RTA_GATEWAY, gateway)
        }
        Some(IpAddr::V6(gateway)) => {
            let mut via = u16::from(AF_INET6).to_ne_bytes().to_vec();
            via.extend(gateway.octets());
            message.put(RTA_VIA, &via);
        }
        _ => {}
    }
}

/// `fib_dump_info`, `rt6_fill_node`
fn fill(stack: &Stack, route: &Route, message: &mut Message) {
    message.put_u32(RTA_TABLE, route.table);
    let is_v4 = route.destination.is_ipv4();
    if route.prefix_len > 0 {
        message.put_ip(RTA_DST, route.destination);
    }
    if is_v4 && route.metric != 0 {
        message.put_u32(RTA_PRIORITY, route.metric);
    }
    if !route.metrics.is_empty() {
        message.nest(RTA_METRICS, |message| {
            route.metrics.iter().for_each(|(which, value)| message.put_u32(*which, *value));
        });
    }
    if let Some(source) = route.prefsrc {
        message.put_ip(RTA_PREFSRC, source);
    }
    if !is_v4 {
        message.put_u32(RTA_PRIORITY, route.metric);
    }
    match &route.nexthops[..] {
        [] => {}
        [hop] => {
            put_gateway(route, hop, message);
            if let Some(index) = ifindex(stack, hop.dev) {
                message.put_u32(RTA_OIF, index);
            }
        }
        several => message.nest(RTA_MULTIPATH, |message| {
            for hop in several {
                let start = message.here();
                let [a, b, c, d] = ifindex(stack, hop.dev).unwrap_or(0).to_ne_bytes();
                message.raw(&[8, 0, hop.flags, (hop.weight - 1) as u8, a, b, c, d]);
                put_gateway(route, hop, message);
                message.set_len(start);
            }
        }),
    }
    if !is_v4 {
        let left = route.expires.map_or(0, |at| (at.saturating_sub(stack.now()) / 10_000_000) as u32);
        put_cacheinfo(left, message);
        message.put_u8(RTA_PREF, route.pref);
    }
}

/// `rtnl_put_cacheinfo`: nothing is counted.
fn put_cacheinfo(expires: u32, message: &mut Message) {
    let mut info = [0; 32];
    info[8..12].copy_from_slice(&expires.to_ne_bytes());
    message.put(RTA_CACHEINFO, &info);
}

/// `inet_dump_fib`, `inet6_dump_fib`
pub(super) fn dump(stack: &Stack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    let (fixed, attrs) = request.split::<12>()?;
    let rtm = RtMsg::parse(fixed);
    if !matches!(rtm.family, AF_UNSPEC | AF_INET | AF_INET6) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let net = stack.net(request.net).ok_or(Errno::ENODEV)?;
    let strict = request.sender.strict;
    let table = if strict { attrs.u32(RTA_TABLE)?.unwrap_or(rtm.table.into()) } else { 0 };
    let oif = if strict { attrs.u32(RTA_OIF)? } else { None };
    for is_v4 in [true, false] {
        if rtm.family != AF_UNSPEC && (rtm.family == AF_INET) != is_v4 {
            continue;
        }
        if table != 0 && rtm.family != AF_UNSPEC && !net.fib.has_table(is_v4, table) {
            return Err(Errno::ENOENT.with(if is_v4 {
                "ipv4: FIB table does not exist"
            } else {
                "ipv6: FIB table does not exist"
            }));
        }
        let wanted = |route: &&Route| {
            route.destination.is_ipv4() == is_v4
                && (table == 0 || route.table == table)
                && (!strict || rtm.protocol == 0 || route.protocol == rtm.protocol)
                && (!strict || rtm.kind == 0 || route.kind as u8 == rtm.kind)
                && oif.is_none_or(|oif| route.nexthops.iter().any(|hop| ifindex(stack, hop.dev) == Some(oif)))
        };
        for route in net.fib.routes.iter().filter(wanted) {
            let mut message = request.reply(RTM_NEWROUTE, &header(route));
            fill(stack, route, &mut message);
            replies.push(message.finish());
        }
    }
    Ok(())
}

/// The way to a destination: `inet_rtm_getroute`, `inet6_rtm_getroute`.
pub(super) fn getroute(stack: &Stack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    let (fixed, attrs) = request.split::<12>()?;
    let rtm = RtMsg::parse(fixed);
    let is_v4 = match rtm.family {
        AF_INET => true,
        AF_INET6 => false,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    let family = |address: Option<IpAddr>| match address {
        Some(address) if address.is_ipv4() != is_v4 => Err(Errno::EINVAL),
        other => Ok(other),
    };
    let any = if is_v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let daddr = family(attrs.ip(RTA_DST)?)?.unwrap_or(any);
    let saddr = family(attrs.ip(RTA_SRC)?)?;
    let index = |which| match attrs.u32(which)? {
        None | Some(0) => Ok::<_, Errno>(None),
        Some(index) => Ok(Some(stack.dev_get_by_index(request.net, index).ok_or(Errno::ENODEV)?.id)),
    };
    let (iif, oif) = (index(RTA_IIF)?, index(RTA_OIF)?);
    let port = |which| Ok::<_, Errno>(attrs.u16(which)?.map_or(0, u16::from_be));
    let mark = attrs.u32(RTA_MARK)?.unwrap_or(0);
    let uid = attrs.u32(RTA_UID)?.unwrap_or(request.sender.uid);
    let flow = Flow {
        saddr: saddr.filter(|address| !address.is_unspecified()),
        iif,
        oif,
        mark,
        tos: rtm.tos,
        proto: attrs.u8(RTA_IP_PROTO)?.unwrap_or(17),
        ports: (port(RTA_SPORT)?, port(RTA_DPORT)?),
        uid,
        ..Flow::to(daddr)
    };
    let found = stack.fib_lookup(request.net, &flow)?;
    if rtm.flags & RTM_F_FIB_MATCH != 0 {
        let mut message = request.reply(RTM_NEWROUTE, &header(&found.route));
        fill(stack, &found.route, &mut message);
        replies.push(message.finish());
        return Ok(());
    }
    let lookup = Lookup { daddr, saddr, iif, mark, uid, table_wanted: rtm.flags & RTM_F_LOOKUP_TABLE != 0 };
    let message = if is_v4 {
        fill_v4(stack, request, &lookup, &found)?
    } else {
        fill_v6(stack, request, &lookup, &found)?
    };
    replies.push(message);
    Ok(())
}

/// What was asked.
struct Lookup {
    daddr: IpAddr,
    saddr: Option<IpAddr>,
    iif: Option<DevId>,
    mark: u32,
    uid: u32,
    table_wanted: bool,
}

/// `rt_fill_info`
fn fill_v4(stack: &Stack, request: &Request<'_>, lookup: &Lookup, found: &FibResult) -> NlResult<Vec<u8>> {
    /// `RTCF_LOCAL`, `RTCF_BROADCAST`, `RTCF_MULTICAST`
    const RTCF_LOCAL: u32 = 0x8000_0000;
    const RTCF_BROADCAST: u32 = 0x1000_0000;
    const RTCF_MULTICAST: u32 = 0x2000_0000;
    let route = &found.route;
    let lo = stack.devices_of(request.net).find(|dev| dev.flags & iff::LOOPBACK != 0).map(|dev| dev.id);
    let out = if route.kind == RouteType::Local { lo } else { found.hop.dev };
    let mut kind = route.kind;
    let mut flags = match route.kind {
        RouteType::Local => RTCF_LOCAL,
        RouteType::Broadcast => RTCF_LOCAL | RTCF_BROADCAST,
        _ => 0,
    };
    if let IpAddr::V4(address) = lookup.daddr {
        if address.is_multicast() {
            kind = RouteType::Multicast;
            let joined = out.and_then(|dev| stack.dev(dev)).is_some_and(|dev| dev.groups.has(address.into()));
            flags = RTCF_MULTICAST | if joined { RTCF_LOCAL } else { 0 };
        } else if address == Ipv4Addr::BROADCAST {
            kind = RouteType::Broadcast;
            flags = RTCF_LOCAL | RTCF_BROADCAST;
        }
    }
    let merged =
        route.table == RT_TABLE_LOCAL && !stack.net(request.net).is_some_and(|net| net.fib.has_custom_rules);
    let table = if lookup.table_wanted && !merged { route.table } else { RT_TABLE_MAIN };
    let [a, b, c, d] = (flags & !0xffff | RTM_F_CLONED).to_ne_bytes();
    let src_len = if lookup.saddr.is_some() { 32 } else { 0 };
    let fixed = [AF_INET, 32, src_len, 0, compat_table(table), 0, scope::UNIVERSE, kind as u8, a, b, c, d];
    let mut message = request.reply(RTM_NEWROUTE, &fixed);
    message.put_u32(RTA_TABLE, table);
    message.put_ip(RTA_DST, lookup.daddr);
    if let Some(saddr) = lookup.saddr {
        message.put_ip(RTA_SRC, saddr);
    }
    if let Some(index) = ifindex(stack, out) {
        message.put_u32(RTA_OIF, index);
    }
    if lookup.iif.is_none() {
        let neighbour = found.nexthop(lookup.daddr);
        let chosen = match (route.prefsrc, route.kind) {
            (Some(source), _) => Some(source),
            (None, RouteType::Local) => Some(lookup.daddr),
            (None, _) => out.and_then(|dev| stack.select_source(request.net, dev, neighbour)),
        };
        if let Some(source) = chosen.filter(|source| lookup.saddr != Some(*source)) {
            message.put_ip(RTA_PREFSRC, source);
        }
    }
    // A gateway that is ourselves, or a group's, is none.
    let is_own = |gateway| stack.devices_of(request.net).any(|dev| dev.has_address(gateway));
    let is_real = |gateway: &IpAddr| kind == RouteType::Unicast && !is_own(*gateway);
    if let Some(gateway) = found.hop.gateway.filter(is_real) {
        message.put_ip(RTA_GATEWAY, gateway);
    }
    if !route.metrics.is_empty() {
        message.nest(RTA_METRICS, |message| {
            route.metrics.iter().for_each(|(which, value)| message.put_u32(*which, *value));
        });
    }
    if lookup.mark != 0 {
        message.put_u32(RTA_MARK, lookup.mark);
    }
    if lookup.iif.is_none() {
        message.put_u32(RTA_UID, lookup.uid);
    }
    if let Some(index) = ifindex(stack, lookup.iif) {
        message.put_u32(RTA_IIF, index);
    }
    put_cacheinfo(0, &mut message);
    Ok(message.finish())
}

/// `rt6_fill_node` for the way to a destination.
fn fill_v6(stack: &Stack, request: &Request<'_>, lookup: &Lookup, found: &FibResult) -> NlResult<Vec<u8>> {
    let route = &found.route;
    let table = route.table;
    let linkdown = if found.hop.flags & rtnh_f::LINKDOWN != 0 { u32::from(rtnh_f::LINKDOWN) } else { 0 };
    let [a, b, c, d] = (linkdown).to_ne_bytes();
    let fixed = [
        AF_INET6,
        128,
        128,
        0,
        compat_table(table),
        route.protocol,
        scope::UNIVERSE,
        route.kind as u8,
        a,
        b,
        c,
        d,
    ];
    let mut message = request.reply(RTM_NEWROUTE, &fixed);
    message.put_u32(RTA_TABLE, table);
    message.put_ip(RTA_DST, lookup.daddr);
    message.put_ip(RTA_SRC, lookup.saddr.unwrap_or(IpAddr::from([0; 16])));
    if !route.metrics.is_empty() {
        message.nest(RTA_METRICS, |message| {
            route.metrics.iter().for_each(|(which, value)| message.put_u32(*which, *value));
        });
    }
    let neighbour = found.nexthop(lookup.daddr);
    let source = match (route.prefsrc, route.kind) {
        (Some(source), _) => Some(source),
        (None, RouteType::Local) => Some(lookup.daddr),
        (None, _) => found.hop.dev.and_then(|dev| stack.select_source(request.net, dev, neighbour)),
    };
    if let Some(source) = source {
        message.put_ip(RTA_PREFSRC, source);
    }
    message.put_u32(RTA_PRIORITY, route.metric);
    if let Some(gateway) = found.hop.gateway {
        message.put_ip(RTA_GATEWAY, gateway);
    }
    let lo = stack.devices_of(request.net).find(|dev| dev.flags & iff::LOOPBACK != 0).map(|dev| dev.id);
    let out = if route.kind == RouteType::Local { lo } else { found.hop.dev };
    if let Some(index) = ifindex(stack, out) {
        message.put_u32(RTA_OIF, index);
    }
    put_cacheinfo(0, &mut message);
    message.put_u8(RTA_PREF, route.pref);
    Ok(message.finish())
}

impl Stack {
    /// Tells of a route: `rtmsg_fib`, `inet6_rt_notify`.
    pub(in super::super) fn rtmsg_route(&mut self, kind: u16, net: u64, route: &Route, flags: u16) {
        let group = if route.destination.is_ipv4() { rtnlgrp::IPV4_ROUTE } else { rtnlgrp::IPV6_ROUTE };
        let mut message = Message::new(kind, flags, 0, 0, &header(route));
        fill(self, route, &mut message);
        self.rtnl_notify(net, group, message);
    }
}

impl super::super::fib::Fib {
    /// Whether a table has been made: it is with its first route, and some are always there.
    fn has_table(&self, is_v4: bool, table: u32) -> bool {
        let always = !is_v4 && matches!(table, RT_TABLE_MAIN | RT_TABLE_LOCAL);
        always || self.tables.contains(&(is_v4, table))
    }
}
