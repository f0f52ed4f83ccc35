//! Routes that programs add and remove: `RTM_NEWROUTE`, `RTM_DELROUTE` (`ip-route(8)`, `net/ipv4/fib_semantics.c`,
//! `net/ipv6/route.c`). How they are shown stands in `route_fill.rs`.

use std::net::IpAddr;

use super::super::dev::DevId;
use super::super::fib::{AddMode, Flow, NextHop, RT_TABLE_MAIN, RTPROT_BOOT, Route, RouteType, rtnh_f};
use super::super::inetdev::{network, scope};
use super::super::nlattr::{Attrs, NlResult, nlm_f};
use super::super::stack::Stack;
use super::{AF_INET, AF_INET6, RTM_DELROUTE, RTM_NEWROUTE, Request};
use crate::errno::Errno;

/// `RTA_*`
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_SRC: u16 = 2;
pub(super) const RTA_IIF: u16 = 3;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
pub(super) const RTA_PRIORITY: u16 = 6;
pub(super) const RTA_PREFSRC: u16 = 7;
pub(super) const RTA_METRICS: u16 = 8;
pub(super) const RTA_MULTIPATH: u16 = 9;
pub(super) const RTA_TABLE: u16 = 15;
pub(super) const RTA_VIA: u16 = 18;
pub(super) const RTA_PREF: u16 = 20;
const RTA_EXPIRES: u16 = 23;
const RTA_NH_ID: u16 = 30;
/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// `struct rtmsg`
#[derive(Clone, Copy)]
pub(super) struct RtMsg {
    pub(super) family: u8,
    pub(super) dst_len: u8,
    pub(super) src_len: u8,
    pub(super) tos: u8,
    pub(super) table: u8,
    pub(super) protocol: u8,
    pub(super) scope: u8,
    pub(super) kind: u8,
    pub(super) flags: u32,
}

impl RtMsg {
    pub(super) fn parse(fixed: [u8; 12]) -> RtMsg {
        let [family, dst_len, src_len, tos, table, protocol, scope, kind, flags @ ..] = fixed;
        RtMsg {
            family,
            dst_len,
            src_len,
            tos,
            table,
            protocol,
            scope,
            kind,
            flags: u32::from_ne_bytes(flags),
        }
    }
}

/// What a message says, before it is checked: `struct fib_config`, `struct fib6_config`.
struct Config {
    route: Route,
    /// The type was given.
    has_kind: bool,
    nexthops: Vec<NextHop>,
}

fn index_of(stack: &Stack, net: u64, index: u32) -> NlResult<Option<DevId>> {
    match index {
        0 => Ok(None),
        index => Ok(Some(stack.dev_get_by_index(net, index).ok_or(Errno::ENODEV)?.id)),
    }
}

/// `rtm_to_fib_config`, `rtm_to_fib6_config`
fn parse(stack: &Stack, request: &Request<'_>) -> NlResult<Config> {
    let (fixed, attrs) = request.split::<12>()?;
    let rtm = RtMsg::parse(fixed);
    let is_v4 = match rtm.family {
        AF_INET => true,
        AF_INET6 => false,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    if rtm.dst_len > if is_v4 { 32 } else { 128 } {
        return Err(Errno::EINVAL.with(if is_v4 {
            "Invalid prefix length"
        } else {
            "Invalid destination address length"
        }));
    }
    if rtm.src_len != 0 {
        return Err(Errno::EINVAL.with("Specifying source address requires IPV6_SUBTREES to be enabled"));
    }
    if attrs.has(RTA_NH_ID) {
        return Err(Errno::EINVAL.with("Nexthop id does not exist"));
    }
    let family = |address: Option<IpAddr>| match address {
        Some(address) if address.is_ipv4() != is_v4 => Err(Errno::EINVAL),
        other => Ok(other),
    };
    let any = if is_v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let destination = family(attrs.ip(RTA_DST)?)?.unwrap_or(any);
    if network(destination, rtm.dst_len) != destination && is_v4 {
        return Err(Errno::EINVAL.with("Invalid prefix for given prefix length"));
    }
    let kind = match rtm.kind {
        0 => RouteType::Unicast,
        raw => RouteType::from_raw(raw).ok_or(Errno::EINVAL.with("Invalid route type"))?,
    };
    let table = attrs.u32(RTA_TABLE)?.unwrap_or(rtm.table.into());
    let mut nexthops = Vec::new();
    let onlink = rtm.flags & u32::from(rtnh_f::ONLINK) != 0;
    let flags = if onlink { rtnh_f::ONLINK } else { 0 };
    let oif = index_of(stack, request.net, attrs.u32(RTA_OIF)?.unwrap_or(0))?;
    let gateway = match via(attrs)? {
        Some(via) => Some(via),
        None => family(attrs.ip(RTA_GATEWAY)?)?.filter(|address| !address.is_unspecified()),
    };
    match attrs.get(RTA_MULTIPATH) {
        Some(several) if !several.is_empty() => nexthops = multipath(stack, request.net, several)?,
        _ if oif.is_some() || gateway.is_some() => {
            nexthops.push(NextHop { dev: oif, gateway, weight: 1, flags })
        }
        _ => {}
    }
    let metrics = attrs.nested(RTA_METRICS).map(parse_metrics).transpose()?.unwrap_or_default();
    let expires = attrs.u32(RTA_EXPIRES)?.map(|seconds| stack.now() + u64::from(seconds) * SECOND);
    let route = Route {
        table: if table == 0 { RT_TABLE_MAIN } else { table },
        destination: network(destination, rtm.dst_len),
        prefix_len: rtm.dst_len,
        tos: rtm.tos,
        kind,
        scope: rtm.scope,
        protocol: rtm.protocol,
        metric: attrs.u32(RTA_PRIORITY)?.unwrap_or(0),
        prefsrc: family(attrs.ip(RTA_PREFSRC)?)?.filter(|address| !address.is_unspecified()),
        nexthops: Vec::new(),
        metrics,
        pref: attrs.u8(RTA_PREF)?.unwrap_or(0),
        expires,
    };
    Ok(Config { route, has_kind: rtm.kind != 0, nexthops })
}

/// `RTA_VIA`: a gateway of another family.
fn via(attrs: Attrs<'_>) -> NlResult<Option<IpAddr>> {
    let Some(via) = attrs.get(RTA_VIA) else { return Ok(None) };
    let address = via.get(2..).and_then(super::super::nlattr::ip_of);
    Ok(Some(address.ok_or(Errno::EINVAL.with("Invalid attribute in RTA_VIA"))?))
}

/// `struct rtnexthop` and the attributes behind each.
fn multipath(stack: &Stack, net: u64, mut rest: &[u8]) -> NlResult<Vec<NextHop>> {
    let mut hops = Vec::new();
    while rest.len() >= 8 {
        let len = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
        if len < 8 || len > rest.len() {
            return Err(Errno::EINVAL.with("Invalid nexthop configuration - extra data after nexthop"));
        }
        let index = u32::from_ne_bytes([rest[4], rest[5], rest[6], rest[7]]);
        let attrs = Attrs::new(&rest[8..len]);
        let gateway = match via(attrs)? {
            Some(via) => Some(via),
            None => attrs.ip(RTA_GATEWAY)?,
        };
        let weight = u16::from(rest[3]) + 1;
        hops.push(NextHop {
            dev: index_of(stack, net, index)?,
            gateway,
            weight,
            flags: rest[2] & rtnh_f::ONLINK,
        });
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
    }
    if hops.len() > 64 {
        return Err(Errno::EINVAL.with("Too many nexthops"));
    }
    Ok(hops)
}

/// `fib_create_info` of `RTA_METRICS`: numbers only.
fn parse_metrics(attrs: Attrs<'_>) -> NlResult<Vec<(u16, u32)>> {
    /// `RTAX_MAX`; `RTAX_CC_ALGO`, which is a name.
    const RTAX_MAX: u16 = 17;
    const RTAX_CC_ALGO: u16 = 16;
    let mut metrics = Vec::new();
    for (which, payload) in attrs.iter() {
        if which == 0 {
            continue;
        }
        if which > RTAX_MAX || which == RTAX_CC_ALGO {
            return Err(Errno::EINVAL.with("Invalid metric type"));
        }
        let value = payload.first_chunk().copied().map(u32::from_ne_bytes);
        metrics.push((which, value.ok_or(Errno::EINVAL.with("Invalid attribute in metrics"))?));
    }
    metrics.sort_unstable();
    Ok(metrics)
}

/// `inet_rtm_newroute`, `inet6_rtm_newroute`
pub(super) fn newroute(stack: &mut Stack, request: &Request<'_>) -> NlResult<()> {
    let mut config = parse(stack, request)?;
    let is_v4 = config.route.destination.is_ipv4();
    if is_v4 {
        check_v4(stack, request.net, &mut config)?;
    } else {
        check_v6(stack, request.net, &mut config)?;
    }
    let mode = AddMode {
        create: request.has(nlm_f::CREATE),
        exclusive: request.has(nlm_f::EXCL),
        replace: request.has(nlm_f::REPLACE),
        append: request.has(nlm_f::APPEND),
    };
    let hops = config.nexthops;
    let routes: Vec<Route> = if is_v4 || hops.is_empty() {
        vec![Route { nexthops: hops, ..config.route }]
    } else {
        hops.into_iter().map(|hop| Route { nexthops: vec![hop], ..config.route.clone() }).collect()
    };
    for (at, route) in routes.into_iter().enumerate() {
        // The further ways of a route of IPv6 join the first.
        let mode = if at == 0 { mode } else { AddMode { create: true, append: true, ..AddMode::default() } };
        let net = stack.net_mut(request.net).ok_or(Errno::ENODEV)?;
        let replaced = net.fib.insert(route.clone(), mode)?;
        let flags = if replaced { nlm_f::REPLACE } else { nlm_f::CREATE };
        stack.rtmsg_route(RTM_NEWROUTE, request.net, &route, flags);
    }
    Ok(())
}

/// `fib_create_info`
fn check_v4(stack: &Stack, net: u64, config: &mut Config) -> NlResult<()> {
    let route = &mut config.route;
    let widest = match route.kind {
        RouteType::Local => scope::HOST,
        RouteType::Broadcast | RouteType::Anycast => scope::LINK,
        _ => scope::UNIVERSE,
    };
    if widest > route.scope {
        return Err(Errno::EINVAL.with("Invalid scope"));
    }
    if route.kind.error().is_some() {
        if !config.nexthops.is_empty() {
            return Err(
                Errno::EINVAL.with("Gateway, device and nexthop can not be specified for this route type")
            );
        }
        return Ok(());
    }
    if config.nexthops.is_empty() {
        return Err(Errno::ENODEV.into());
    }
    if route.scope == scope::HOST {
        if config.nexthops.len() != 1 {
            return Err(Errno::EINVAL.with("Route with host scope can not have multiple nexthops"));
        }
        if config.nexthops[0].gateway.is_some() {
            return Err(Errno::EINVAL.with("Route with host scope can not have a gateway"));
        }
        config.nexthops[0].dev.ok_or(Errno::ENODEV)?;
    } else {
        for hop in &mut config.nexthops {
            check_nh(stack, net, route.scope, hop)?;
        }
    }
    if let Some(source) = route.prefsrc
        && route.kind != RouteType::Local
        && !is_local(stack, net, source)
    {
        return Err(Errno::EINVAL.with("Invalid prefsrc address"));
    }
    for hop in &mut config.nexthops {
        let carrier = hop.dev.and_then(|dev| stack.dev(dev)).is_none_or(|dev| dev.carrier);
        if !carrier {
            hop.flags |= rtnh_f::LINKDOWN;
        }
    }
    Ok(())
}

/// Whether an address is one of ours, up or not: `inet_addr_type`.
fn is_local(stack: &Stack, net: u64, address: IpAddr) -> bool {
    stack.devices_of(net).any(|dev| dev.has_address(address))
        || stack.fib_lookup(net, &Flow::to(address)).is_ok_and(|found| found.route.kind == RouteType::Local)
}

/// `fib_check_nh`
fn check_nh(stack: &Stack, net: u64, route_scope: u8, hop: &mut NextHop) -> NlResult<()> {
    let dev = hop.dev.and_then(|dev| stack.dev(dev));
    let Some(gateway) = hop.gateway else {
        if hop.flags & rtnh_f::ONLINK != 0 {
            return Err(Errno::EINVAL.with("Invalid flags for nexthop - PERVASIVE and ONLINK can not be set"));
        }
        let dev = dev.ok_or(Errno::ENODEV)?;
        return if dev.is_up() { Ok(()) } else { Err(Errno::ENETDOWN.with("Device for nexthop is not up")) };
    };
    if gateway.is_ipv6() {
        let dev = dev.ok_or(Errno::EINVAL.with("Egress device is required with an IPv6 gateway"))?;
        return if dev.is_up() { Ok(()) } else { Err(Errno::ENETDOWN.with("Nexthop device is not up")) };
    }
    if hop.flags & rtnh_f::ONLINK != 0 {
        let dev = dev.ok_or(Errno::ENODEV.with("Nexthop device required for onlink"))?;
        if !dev.is_up() {
            return Err(Errno::ENETDOWN.with("Nexthop device is not up"));
        }
        return if is_local(stack, net, gateway) {
            Err(Errno::EINVAL.with("Nexthop has invalid gateway"))
        } else {
            Ok(())
        };
    }
    if route_scope >= scope::LINK {
        return Err(Errno::EINVAL.with("Nexthop has invalid scope"));
    }
    let flow = Flow { oif: hop.dev, ..Flow::to(gateway) };
    let invalid = "Nexthop has invalid gateway";
    let found = stack.fib_lookup(net, &flow).map_err(|errno| errno.with(invalid))?;
    // A gateway must be on a link, not behind another gateway.
    if found.route.scope < scope::LINK {
        return Err(Errno::ENETUNREACH.with(invalid));
    }
    if !matches!(found.route.kind, RouteType::Unicast | RouteType::Local) {
        return Err(Errno::EINVAL.with(invalid));
    }
    let out = found.hop.dev.ok_or(Errno::ENODEV.with("No egress device for nexthop gateway"))?;
    hop.dev = Some(out);
    match stack.dev(out) {
        Some(dev) if dev.is_up() => Ok(()),
        _ => Err(Errno::ENETDOWN.with("Nexthop device is not up")),
    }
}

/// `ip6_route_info_create`
fn check_v6(stack: &Stack, net: u64, config: &mut Config) -> NlResult<()> {
    /// `IP6_RT_PRIO_USER`
    const PRIO_USER: u32 = 1024;
    let route = &mut config.route;
    route.scope = scope::UNIVERSE;
    route.tos = 0;
    if route.protocol == 0 {
        route.protocol = RTPROT_BOOT;
    }
    if route.metric == 0 {
        route.metric = PRIO_USER;
    }
    if route.kind.error().is_some() {
        let lo = stack.devices_of(net).find(|dev| dev.flags & super::super::dev::iff::LOOPBACK != 0);
        config.nexthops = vec![NextHop { dev: lo.map(|dev| dev.id), gateway: None, weight: 1, flags: 0 }];
        return Ok(());
    }
    if config.nexthops.is_empty() {
        return Err(Errno::ENODEV.into());
    }
    for hop in &mut config.nexthops {
        if let Some(gateway) = hop.gateway {
            check_gateway_v6(stack, net, gateway, hop)?;
        }
        let dev = hop.dev.and_then(|dev| stack.dev(dev)).ok_or(Errno::ENODEV)?;
        if dev.ipv6.is_on(super::super::devconf::ipv6::DISABLE_IPV6) {
            return Err(Errno::EACCES.with("IPv6 is disabled on nexthop device"));
        }
        if !dev.is_up() {
            return Err(Errno::ENETDOWN.with("Nexthop device is not up"));
        }
        if !dev.carrier {
            hop.flags |= rtnh_f::LINKDOWN;
        }
    }
    if let Some(source) = route.prefsrc
        && !stack.devices_of(net).any(|dev| dev.has_address(source))
    {
        return Err(Errno::EINVAL.with("Invalid source address"));
    }
    Ok(())
}

/// `fib6_nh_init`, `ip6_validate_gw`
fn check_gateway_v6(stack: &Stack, net: u64, gateway: IpAddr, hop: &mut NextHop) -> NlResult<()> {
    let IpAddr::V6(address) = gateway else { return Err(Errno::EINVAL.into()) };
    if stack.devices_of(net).any(|dev| {
        dev.has_address(gateway)
            && (hop.dev.is_none() || !address.is_unicast_link_local() || hop.dev == Some(dev.id))
    }) {
        return Err(Errno::EINVAL.with("Gateway can not be a local address"));
    }
    if address.is_unicast_link_local() {
        hop.dev.ok_or(Errno::EINVAL.with("Egress device not specified"))?;
        return Ok(());
    }
    if address.is_multicast() || address.is_loopback() {
        return Err(Errno::EINVAL.with("Invalid gateway address"));
    }
    if hop.flags & rtnh_f::ONLINK != 0 {
        return Ok(());
    }
    let flow = Flow { oif: hop.dev, ..Flow::to(gateway) };
    let found = stack.fib_lookup(net, &flow).map_err(|_| Errno::EHOSTUNREACH)?;
    if found.hop.gateway.is_some() {
        return Err(Errno::EHOSTUNREACH.into());
    }
    hop.dev = hop.dev.or(found.hop.dev);
    Ok(())
}

/// `inet_rtm_delroute`, `inet6_rtm_delroute`
pub(super) fn delroute(stack: &mut Stack, request: &Request<'_>) -> NlResult<()> {
    let config = parse(stack, request)?;
    let (fixed, attrs) = request.split::<12>()?;
    let rtm = RtMsg::parse(fixed);
    let wanted = &config.route;
    let is_v4 = wanted.destination.is_ipv4();
    let priority = attrs.u32(RTA_PRIORITY)?.unwrap_or(0);
    let hop_matches = |route: &Route| {
        config.nexthops.is_empty()
            || route.nexthops.len() >= config.nexthops.len()
                && config.nexthops.iter().zip(&route.nexthops).all(|(wanted, known)| {
                    wanted.dev.is_none_or(|dev| known.dev == Some(dev))
                        && wanted.gateway.is_none_or(|gateway| known.gateway == Some(gateway))
                })
    };
    let is_it = |route: &Route| {
        (route.table, route.destination, route.prefix_len)
            == (wanted.table, wanted.destination, wanted.prefix_len)
            && (!is_v4 || route.tos == wanted.tos)
            && (!config.has_kind || route.kind == wanted.kind)
            && (!is_v4 || rtm.scope == scope::NOWHERE || route.scope == rtm.scope)
            && (!is_v4 || wanted.prefsrc.is_none_or(|source| route.prefsrc == Some(source)))
            && (rtm.protocol == 0 || route.protocol == rtm.protocol)
            && (priority == 0 || route.metric == priority)
            && hop_matches(route)
    };
    let net = stack.net_mut(request.net).ok_or(Errno::ENODEV)?;
    let removed = net.fib.remove(is_it).ok_or(Errno::ESRCH)?;
    stack.rtmsg_route(RTM_DELROUTE, request.net, &removed, 0);
    Ok(())
}

/// The table of a route in `rtm_table`, which has 8 bits: `RT_TABLE_COMPAT` stands for more.
pub(super) fn compat_table(table: u32) -> u8 {
    const RT_TABLE_COMPAT: u8 = 252;
    u8::try_from(table).unwrap_or(RT_TABLE_COMPAT)
}
