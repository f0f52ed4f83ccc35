//! Rules: which routing table is asked for which packet (`ip-rule(8)`, `net/core/fib_rules.c`).

use std::net::IpAddr;

use super::dev::DevId;
use super::fib::{FibResult, Flow, NextHop, RT_TABLE_DEFAULT, RT_TABLE_LOCAL, RT_TABLE_MAIN, rtnh_f};
use super::inetdev::network;
use super::stack::Stack;
use crate::errno::{Errno, Result};

/// What a rule says: `FR_ACT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// To ask a table.
    ToTable(u32),
    /// To go on with the rule of this priority.
    Goto(u32),
    /// Nothing.
    Nop,
    /// To drop.
    Blackhole,
    /// To drop, with "network unreachable".
    Unreachable,
    /// To drop, with "administratively prohibited".
    Prohibit,
}

impl RuleAction {
    /// `FR_ACT_*`
    pub fn raw(self) -> u8 {
        match self {
            RuleAction::ToTable(_) => 1,
            RuleAction::Goto(_) => 2,
            RuleAction::Nop => 3,
            RuleAction::Blackhole => 6,
            RuleAction::Unreachable => 7,
            RuleAction::Prohibit => 8,
        }
    }
}

/// A rule: `struct fib_rule`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibRule {
    /// Of IPv6, or of IPv4.
    pub is_v6: bool,
    /// Those with smaller ones are asked first.
    pub priority: u32,
    /// What it says.
    pub action: RuleAction,
    /// Whose packets: from this network.
    pub source: Option<(IpAddr, u8)>,
    /// To this network.
    pub destination: Option<(IpAddr, u8)>,
    /// Come in by the device of this name; `lo`: our own.
    pub iif: Option<String>,
    /// To leave by the device of this name.
    pub oif: Option<String>,
    /// With this mark, after the mask.
    pub mark: Option<(u32, u32)>,
    /// With this type of service; 0: any.
    pub tos: u8,
    /// Of this protocol; 0: any.
    pub ip_proto: u8,
    /// From these ports.
    pub sport: Option<(u16, u16)>,
    /// To these ports.
    pub dport: Option<(u16, u16)>,
    /// Of these users, by kernel id.
    pub uids: Option<(u32, u32)>,
    /// All others.
    pub invert: bool,
    /// Routes with prefixes of at most so many bits do not count.
    pub suppress_prefixlen: Option<u32>,
    /// `RTPROT_*` of who has made it.
    pub protocol: u8,
}

impl FibRule {
    /// A rule for everything.
    pub fn new(is_v6: bool, priority: u32, action: RuleAction) -> FibRule {
        FibRule {
            is_v6,
            priority,
            action,
            source: None,
            destination: None,
            iif: None,
            oif: None,
            mark: None,
            tos: 0,
            ip_proto: 0,
            sport: None,
            dport: None,
            uids: None,
            invert: false,
            suppress_prefixlen: None,
            protocol: 0,
        }
    }

    /// Those of a new namespace: `fib_default_rules_init`, `fib6_rules_net_init`.
    pub(super) fn initial() -> Vec<FibRule> {
        let rules = [
            (false, 0, RT_TABLE_LOCAL),
            (false, 32766, RT_TABLE_MAIN),
            (false, 32767, RT_TABLE_DEFAULT),
            (true, 0, RT_TABLE_LOCAL),
            (true, 32766, RT_TABLE_MAIN),
        ];
        rules
            .into_iter()
            .map(|(is_v6, priority, table)| FibRule {
                protocol: super::fib::RTPROT_KERNEL,
                ..FibRule::new(is_v6, priority, RuleAction::ToTable(table))
            })
            .collect()
    }

    /// `fib_rule_match`
    fn matches(&self, flow: &Flow, name: &dyn Fn(DevId) -> Option<String>) -> bool {
        let within = |net: &(IpAddr, u8), address: IpAddr| network(address, net.1) == net.0;
        let in_range =
            |range: Option<(u16, u16)>, port: u16| range.is_none_or(|(a, b)| a <= port && port <= b);
        let incoming = match flow.iif {
            Some(dev) => name(dev),
            None => Some("lo".into()),
        };
        let is_it = self.iif.as_ref().is_none_or(|iif| incoming.as_ref() == Some(iif))
            && self.oif.as_ref().is_none_or(|oif| flow.oif.and_then(name).as_ref() == Some(oif))
            && self.mark.is_none_or(|(mark, mask)| flow.mark & mask == mark & mask)
            && self.source.as_ref().is_none_or(|net| flow.saddr.is_some_and(|saddr| within(net, saddr)))
            && self.destination.as_ref().is_none_or(|net| within(net, flow.daddr))
            && (self.tos == 0 || self.tos == flow.tos)
            && (self.ip_proto == 0 || self.ip_proto == flow.proto)
            && in_range(self.sport, flow.ports.0)
            && in_range(self.dport, flow.ports.1)
            && self.uids.is_none_or(|(first, last)| first <= flow.uid && flow.uid <= last);
        is_it != self.invert
    }
}

impl Stack {
    /// Finds the way of a packet in namespace `inum`: `fib_lookup`, `fib6_lookup`.
    ///
    /// # Errors
    /// `ENETUNREACH`: no route. Those of routes and rules that forbid: `EINVAL` (blackhole), `EHOSTUNREACH`, `EACCES`.
    pub fn fib_lookup(&self, inum: u64, flow: &Flow) -> Result<FibResult> {
        let net = self.net(inum).ok_or(Errno::ENETUNREACH)?;
        let name = |dev: DevId| self.dev(dev).map(|dev| dev.name.clone());
        let usable = |hop: &NextHop| {
            let Some(dev) = hop.dev.and_then(|dev| self.dev(dev)) else { return false };
            let ignored = match flow.daddr {
                IpAddr::V4(_) => {
                    let which = super::devconf::ipv4::IGNORE_ROUTES_WITH_LINKDOWN;
                    net.ipv4_all.is_on(which) || dev.ipv4.is_on(which)
                }
                IpAddr::V6(_) => dev.ipv6.is_on(super::devconf::ipv6::IGNORE_ROUTES_WITH_LINKDOWN),
            };
            hop.flags & rtnh_f::DEAD == 0 && (dev.carrier || !ignored)
        };
        let mut least = 0;
        for rule in net.fib.rules.iter().filter(|rule| rule.is_v6 == flow.daddr.is_ipv6()) {
            if rule.priority < least || !rule.matches(flow, &name) {
                continue;
            }
            match rule.action {
                RuleAction::Nop => {}
                RuleAction::Goto(priority) => least = priority,
                RuleAction::Blackhole => return Err(Errno::EINVAL),
                RuleAction::Unreachable => return Err(Errno::ENETUNREACH),
                RuleAction::Prohibit => return Err(Errno::EACCES),
                RuleAction::ToTable(table) => {
                    let Some(found) = net.fib.table_lookup(table, flow, &usable) else { continue };
                    let suppressed = |most: u32| u32::from(found.route.prefix_len) <= most;
                    match found.route.kind.error() {
                        _ if rule.suppress_prefixlen.is_some_and(suppressed) => {}
                        Some(Errno::EAGAIN) => {}
                        Some(error) => return Err(error),
                        None => return Ok(found),
                    }
                }
            }
        }
        Err(Errno::ENETUNREACH)
    }
}
