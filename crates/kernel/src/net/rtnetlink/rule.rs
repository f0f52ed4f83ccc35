//! Rules: `RTM_NEWRULE`, `RTM_DELRULE`, `RTM_GETRULE` (`ip-rule(8)`, `net/core/fib_rules.c`).

use std::net::IpAddr;

use super::super::dev_core::IF_NAME_MAX;
use super::super::fib_rules::{FibRule, RuleAction};
use super::super::inetdev::network;
use super::super::nlattr::{Attrs, Message, NlResult, nlm_f};
use super::super::stack::Stack;
use super::route::compat_table;
use super::{AF_INET, AF_INET6, AF_UNSPEC, RTM_DELRULE, RTM_NEWRULE, Replies, Request, rtnlgrp};
use crate::errno::Errno;

/// `FRA_*`
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
/// `FIB_RULE_*`
const INVERT: u32 = 0x2;
const UNRESOLVED: u32 = 0x4;
const IIF_DETACHED: u32 = 0x8;
const OIF_DETACHED: u32 = 0x10;
/// Most rules of a namespace: a bound of ours.
const MAX_RULES: usize = 4096;

fn pair<T>(payload: &[u8], half: impl Fn(&[u8]) -> Option<T>) -> NlResult<(T, T)> {
    let (a, b) = payload.split_at(payload.len() / 2);
    Ok((half(a).ok_or(Errno::EINVAL)?, half(b).ok_or(Errno::EINVAL)?))
}

fn ports(attrs: Attrs<'_>, which: u16) -> NlResult<Option<(u16, u16)>> {
    let Some(payload) = attrs.get(which) else { return Ok(None) };
    let (first, last) = pair(payload, |half| half.try_into().ok().map(u16::from_ne_bytes))?;
    if first == 0 || last == 0xffff || first > last {
        return Err(Errno::EINVAL.with("Invalid sport range"));
    }
    Ok(Some((first, last)))
}

/// `fib_nl2rule`. The priority is `None` where none is given.
fn parse(request: &Request<'_>) -> NlResult<(FibRule, Option<u32>)> {
    let ([family, dst_len, src_len, tos, table, _, _, action, flags @ ..], attrs) = request.split::<12>()?;
    let is_v6 = match family {
        AF_INET => false,
        AF_INET6 => true,
        _ => return Err(Errno::EAFNOSUPPORT.with("Rule family not supported")),
    };
    let longest = if is_v6 { 128 } else { 32 };
    let prefix = |which, len: u8, text: &'static str| -> NlResult<Option<(IpAddr, u8)>> {
        if len == 0 {
            return Ok(None);
        }
        let address = attrs.ip(which)?.ok_or(Errno::EINVAL.with(text))?;
        if len > longest || address.is_ipv6() != is_v6 {
            return Err(Errno::EINVAL.with(text));
        }
        Ok(Some((network(address, len), len)))
    };
    if attrs.has(FRA_L3MDEV) {
        return Err(Errno::EOPNOTSUPP.with("l3mdev support is not enabled in kernel"));
    }
    let table = attrs.u32(FRA_TABLE)?.unwrap_or(table.into());
    let action = match action {
        1 => RuleAction::ToTable(table),
        2 => RuleAction::Goto(attrs.u32(FRA_GOTO)?.ok_or(Errno::EINVAL.with("Missing goto target"))?),
        3 => RuleAction::Nop,
        6 => RuleAction::Blackhole,
        7 => RuleAction::Unreachable,
        8 => RuleAction::Prohibit,
        _ => return Err(Errno::EINVAL.into()),
    };
    let priority = attrs.u32(FRA_PRIORITY)?;
    let mark = match (attrs.u32(FRA_FWMARK)?, attrs.u32(FRA_FWMASK)?) {
        (None, None) => None,
        (mark, mask) => Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    let uids = match attrs.get(FRA_UID_RANGE) {
        Some(payload) => Some(pair(payload, |half| half.try_into().ok().map(u32::from_ne_bytes))?),
        None => None,
    };
    let name = |which| Ok::<_, Errno>(attrs.string(which, IF_NAME_MAX)?.map(str::to_owned));
    let rule = FibRule {
        source: prefix(FRA_SRC, src_len, "Invalid source address")?,
        destination: prefix(FRA_DST, dst_len, "Invalid dst address")?,
        iif: name(FRA_IIFNAME)?,
        oif: name(FRA_OIFNAME)?,
        mark,
        tos,
        ip_proto: attrs.u8(FRA_IP_PROTO)?.unwrap_or(0),
        sport: ports(attrs, FRA_SPORT_RANGE)?,
        dport: ports(attrs, FRA_DPORT_RANGE)?,
        uids,
        invert: u32::from_ne_bytes(flags) & INVERT != 0,
        suppress_prefixlen: attrs.u32(FRA_SUPPRESS_PREFIXLEN)?.filter(|len| *len != u32::MAX),
        protocol: attrs.u8(FRA_PROTOCOL)?.unwrap_or(0),
        ..FibRule::new(is_v6, priority.unwrap_or(0), action)
    };
    Ok((rule, priority))
}

/// `fib_nl_newrule`
pub(super) fn newrule(stack: &mut Stack, request: &Request<'_>) -> NlResult<()> {
    let (mut rule, priority) = parse(request)?;
    let net = stack.net_mut(request.net).ok_or(Errno::ENODEV)?;
    if priority.is_none() {
        // `fib_default_rule_pref`: before the second.
        let second = net.fib.rules.iter().filter(|known| known.is_v6 == rule.is_v6).nth(1);
        rule.priority = second.map_or(0, |known| known.priority.saturating_sub(1));
    }
    if matches!(rule.action, RuleAction::ToTable(0)) {
        return Err(Errno::EINVAL.with("Invalid table"));
    }
    if let RuleAction::Goto(to) = rule.action
        && to <= rule.priority
    {
        return Err(Errno::EINVAL.with("Backward goto not supported"));
    }
    if net.fib.rules.len() >= MAX_RULES {
        return Err(Errno::ENOBUFS.into());
    }
    if request.has(nlm_f::EXCL) && net.fib.rules.contains(&rule) {
        return Err(Errno::EEXIST.into());
    }
    net.fib.has_custom_rules |= !rule.is_v6;
    let at =
        net.fib.rules.partition_point(|known| (known.is_v6, known.priority) <= (rule.is_v6, rule.priority));
    net.fib.rules.insert(at, rule.clone());
    stack.rtmsg_rule(RTM_NEWRULE, request.net, &rule);
    Ok(())
}

/// `fib_nl_delrule`
pub(super) fn delrule(stack: &mut Stack, request: &Request<'_>) -> NlResult<()> {
    let ([_, dst_len, src_len, tos, table, _, _, action, ..], attrs) = request.split::<12>()?;
    let table = attrs.u32(FRA_TABLE)?.unwrap_or(table.into());
    let (wanted, priority) = match action {
        0 => {
            // No action is given: any will do.
            let mut payload = request.payload.to_vec();
            payload[7] = 3;
            let request = Request { payload: &payload, ..*request };
            parse(&request)?
        }
        _ => parse(request)?,
    };
    let net = stack.net_mut(request.net).ok_or(Errno::ENODEV)?;
    let is_it = |known: &FibRule| {
        known.is_v6 == wanted.is_v6
            && (action == 0 || known.action.raw() == action)
            && (table == 0 || known.action == RuleAction::ToTable(table))
            && priority.is_none_or(|priority| known.priority == priority)
            && (src_len == 0 || known.source == wanted.source)
            && (dst_len == 0 || known.destination == wanted.destination)
            && (wanted.iif.is_none() || known.iif == wanted.iif)
            && (wanted.oif.is_none() || known.oif == wanted.oif)
            && (wanted.mark.is_none() || known.mark == wanted.mark)
            && (tos == 0 || known.tos == tos)
            && (wanted.ip_proto == 0 || known.ip_proto == wanted.ip_proto)
            && (wanted.sport.is_none() || known.sport == wanted.sport)
            && (wanted.dport.is_none() || known.dport == wanted.dport)
            && (wanted.uids.is_none() || known.uids == wanted.uids)
            && (wanted.protocol == 0 || known.protocol == wanted.protocol)
            && known.invert == wanted.invert
    };
    let at = net.fib.rules.iter().position(is_it).ok_or(Errno::ENOENT)?;
    let removed = net.fib.rules.remove(at);
    net.fib.has_custom_rules |= !removed.is_v6;
    stack.rtmsg_rule(RTM_DELRULE, request.net, &removed);
    Ok(())
}

/// `fib_nl_dumprule`
pub(super) fn getrule(stack: &Stack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    let family = request.family();
    if !request.is_dump() {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if !matches!(family, AF_UNSPEC | AF_INET | AF_INET6) {
        return Err(Errno::EAFNOSUPPORT.into());
    }
    let net = stack.net(request.net).ok_or(Errno::ENODEV)?;
    for rule in &net.fib.rules {
        if family == AF_UNSPEC || (family == AF_INET6) == rule.is_v6 {
            let mut message = request.reply(RTM_NEWRULE, &header(stack, request.net, rule));
            fill(rule, &mut message);
            replies.push(message.finish());
        }
    }
    Ok(())
}

/// `struct fib_rule_hdr`
fn header(stack: &Stack, net: u64, rule: &FibRule) -> [u8; 12] {
    let missing =
        |name: &Option<String>| name.as_ref().is_some_and(|name| stack.dev_get_by_name(net, name).is_none());
    let mut flags = if rule.invert { INVERT } else { 0 };
    if missing(&rule.iif) {
        flags |= IIF_DETACHED;
    }
    if missing(&rule.oif) {
        flags |= OIF_DETACHED;
    }
    if let RuleAction::Goto(to) = rule.action {
        let rules = stack.net(net).map(|net| &net.fib.rules[..]).unwrap_or_default();
        if !rules.iter().any(|known| known.is_v6 == rule.is_v6 && known.priority == to) {
            flags |= UNRESOLVED;
        }
    }
    let table = match rule.action {
        RuleAction::ToTable(table) => compat_table(table),
        _ => 0,
    };
    let len = |net: &Option<(IpAddr, u8)>| net.map_or(0, |(_, len)| len);
    let family = if rule.is_v6 { AF_INET6 } else { AF_INET };
    let [a, b, c, d] = flags.to_ne_bytes();
    let (dst, src) = (len(&rule.destination), len(&rule.source));
    [family, dst, src, rule.tos, table, 0, 0, rule.action.raw(), a, b, c, d]
}

/// `fib_nl_fill_rule`
fn fill(rule: &FibRule, message: &mut Message) {
    let table = match rule.action {
        RuleAction::ToTable(table) => table,
        _ => 0,
    };
    message.put_u32(FRA_TABLE, table);
    message.put_u32(FRA_SUPPRESS_PREFIXLEN, rule.suppress_prefixlen.unwrap_or(u32::MAX));
    message.put_u8(FRA_PROTOCOL, rule.protocol);
    if let RuleAction::Goto(to) = rule.action {
        message.put_u32(FRA_GOTO, to);
    }
    if let Some(name) = &rule.iif {
        message.put_string(FRA_IIFNAME, name);
    }
    if let Some(name) = &rule.oif {
        message.put_string(FRA_OIFNAME, name);
    }
    if rule.priority != 0 {
        message.put_u32(FRA_PRIORITY, rule.priority);
    }
    if let Some((mark, mask)) = rule.mark {
        if mark != 0 {
            message.put_u32(FRA_FWMARK, mark);
        }
        message.put_u32(FRA_FWMASK, mask);
    }
    if let Some((first, last)) = rule.uids {
        message.put(FRA_UID_RANGE, &[first.to_ne_bytes(), last.to_ne_bytes()].concat());
    }
    if rule.ip_proto != 0 {
        message.put_u8(FRA_IP_PROTO, rule.ip_proto);
    }
    for (which, range) in [(FRA_SPORT_RANGE, rule.sport), (FRA_DPORT_RANGE, rule.dport)] {
        if let Some((first, last)) = range {
            message.put(which, &[first.to_ne_bytes(), last.to_ne_bytes()].concat());
        }
    }
    if let Some((address, _)) = rule.destination {
        message.put_ip(FRA_DST, address);
    }
    if let Some((address, _)) = rule.source {
        message.put_ip(FRA_SRC, address);
    }
}

impl Stack {
    fn rtmsg_rule(&mut self, kind: u16, net: u64, rule: &FibRule) {
        let group = if rule.is_v6 { rtnlgrp::IPV6_RULE } else { rtnlgrp::IPV4_RULE };
        let mut message = Message::new(kind, 0, 0, 0, &header(self, net, rule));
        fill(rule, &mut message);
        self.rtnl_notify(net, group, message);
    }
}
