//! Neighbours (`ip-neighbour(8)`, `net/core/neighbour.c`) and stations of bridges (`bridge(8)`, `net/bridge/br_fdb.c`):
//! `RTM_NEWNEIGH`, `RTM_DELNEIGH`, `RTM_GETNEIGH`, `RTM_GETNEIGHTBL`.

use std::net::IpAddr;

use super::super::dev::{DevId, DeviceKind, FdbEntry, MacAddr, NetDevice};
use super::super::neighbour::{Neighbour, nud};
use super::super::nlattr::{Message, NlResult, nlm_f};
use super::super::stack::Stack;
use super::{AF_BRIDGE, AF_INET, AF_INET6, AF_UNSPEC, RTM_DELNEIGH, RTM_NEWNEIGH, Replies, Request, rtnlgrp};
use crate::errno::Errno;

/// `NDA_*`
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_CACHEINFO: u16 = 3;
const NDA_PROBES: u16 = 4;
const NDA_VLAN: u16 = 5;
const NDA_IFINDEX: u16 = 8;
const NDA_MASTER: u16 = 9;
/// `NTF_*`
const NTF_SELF: u8 = 0x02;
const NTF_MASTER: u8 = 0x04;
const NTF_PROXY: u8 = 0x08;
const NTF_ROUTER: u8 = 0x80;
/// Nanoseconds in a hundredth of a second.
const HUNDREDTH: u64 = 10_000_000;
/// Most neighbours that are set by hand: `gc_thresh3`.
const MAX_NEIGHBOURS: usize = 1024;

/// `struct ndmsg`
struct NdMsg {
    family: u8,
    index: u32,
    state: u16,
    flags: u8,
}

fn ndmsg(fixed: [u8; 12]) -> NdMsg {
    NdMsg {
        family: fixed[0],
        index: u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        state: u16::from_ne_bytes([fixed[8], fixed[9]]),
        flags: fixed[10],
    }
}

fn bytes(family: u8, index: u32, state: u16, flags: u8, kind: u8) -> [u8; 12] {
    let ([a, b, c, d], [e, f]) = (index.to_ne_bytes(), state.to_ne_bytes());
    [family, 0, 0, 0, a, b, c, d, e, f, flags, kind]
}

/// `neigh_add`, `rtnl_fdb_add`
pub(super) fn newneigh(stack: &mut Stack, request: &Request<'_>) -> NlResult<()> {
    let (fixed, attrs) = request.split::<12>()?;
    let ndm = ndmsg(fixed);
    let id = stack.dev_get_by_index(request.net, ndm.index).map(|dev| dev.id);
    if ndm.family == AF_BRIDGE {
        let id = id.ok_or(Errno::ENODEV.with("unknown ifindex"))?;
        let address = attrs.mac(NDA_LLADDR)?.ok_or(Errno::EINVAL.with("invalid address"))?;
        if attrs.u16(NDA_VLAN)?.is_some_and(|tag| tag != 0) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        return fdb_add(stack, request, &ndm, id, address);
    }
    let address = attrs.ip(NDA_DST)?.ok_or(Errno::EINVAL.with("Network address not specified"))?;
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    if ndm.family != family {
        return Err(Errno::EAFNOSUPPORT.into());
    }
    if ndm.flags & NTF_PROXY != 0 {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let id = id.ok_or(if ndm.index == 0 {
        Errno::EINVAL.with("Device not specified")
    } else {
        Errno::ENODEV.into()
    })?;
    let lladdr = attrs.mac(NDA_LLADDR)?;
    let now = stack.now();
    let net = stack.net_mut(request.net).ok_or(Errno::ENODEV)?;
    let known = net.neighbours.entries.get(&(id, address));
    match known {
        None if !request.has(nlm_f::CREATE) => return Err(Errno::ENOENT.into()),
        None if net.neighbours.entries.len() >= MAX_NEIGHBOURS => return Err(Errno::ENOBUFS.into()),
        Some(_) if request.has(nlm_f::EXCL) => return Err(Errno::EEXIST.into()),
        _ => {}
    }
    let before = known.and_then(|known| known.lladdr);
    // What is there is kept unless it is to be replaced (`NEIGH_UPDATE_F_OVERRIDE`).
    let lladdr = if request.has(nlm_f::REPLACE) || before.is_none() { lladdr.or(before) } else { before };
    if ndm.state & (nud::PERMANENT | nud::NOARP | nud::REACHABLE | nud::STALE | nud::PROBE | nud::DELAY) != 0
        && lladdr.is_none()
        && ndm.state & nud::NOARP == 0
    {
        return Err(Errno::EINVAL.with("No link layer address given"));
    }
    let new = Neighbour { lladdr, nud_state: ndm.state, updated: now };
    net.neighbours.entries.insert((id, address), new.clone());
    stack.rtmsg_neigh(RTM_NEWNEIGH, id, address, &new);
    Ok(())
}

fn fdb_add(
    stack: &mut Stack,
    request: &Request<'_>,
    ndm: &NdMsg,
    id: DevId,
    address: MacAddr,
) -> NlResult<()> {
    let now = stack.now();
    let is_bridge = stack.dev(id).is_some_and(|dev| matches!(dev.kind, DeviceKind::Bridge(_)));
    let has_master = stack.dev(id).is_some_and(|dev| dev.master.is_some());
    // Without a flag, or with NTF_SELF alone, the device itself is meant; only a bridge keeps stations.
    let ok = if ndm.flags & NTF_MASTER != 0 { has_master } else { is_bridge };
    if !ok {
        return Err(Errno::EOPNOTSUPP.into());
    }
    if !address.is_valid() {
        return Err(Errno::EINVAL.with("invalid address"));
    }
    let is_local = ndm.state & nud::PERMANENT != 0;
    let is_static = ndm.state & (nud::PERMANENT | nud::NOARP) != 0;
    let entry = FdbEntry { dev: id, is_static, is_local, updated: now, used: now };
    stack.br_fdb_add(id, address, entry, request.has(nlm_f::CREATE), request.has(nlm_f::EXCL))?;
    stack.rtmsg_fdb(RTM_NEWNEIGH, id, address, &entry);
    Ok(())
}

/// `neigh_delete`, `rtnl_fdb_del`
pub(super) fn delneigh(stack: &mut Stack, request: &Request<'_>) -> NlResult<()> {
    let (fixed, attrs) = request.split::<12>()?;
    let ndm = ndmsg(fixed);
    let id = stack.dev_get_by_index(request.net, ndm.index).map(|dev| dev.id);
    if ndm.family == AF_BRIDGE {
        let id = id.ok_or(Errno::ENODEV.with("invalid ifindex"))?;
        let address = attrs.mac(NDA_LLADDR)?.ok_or(Errno::EINVAL.with("invalid address"))?;
        stack.br_fdb_delete(id, address)?;
        let now = stack.now();
        let entry = FdbEntry { dev: id, is_static: true, is_local: false, updated: now, used: now };
        stack.rtmsg_fdb(RTM_DELNEIGH, id, address, &entry);
        return Ok(());
    }
    let address = attrs.ip(NDA_DST)?.ok_or(Errno::EINVAL.with("Network address not specified"))?;
    let id = id.ok_or(Errno::ENODEV)?;
    let net = stack.net_mut(request.net).ok_or(Errno::ENODEV)?;
    let mut removed = net.neighbours.entries.remove(&(id, address)).ok_or(Errno::ENOENT)?;
    removed.nud_state = nud::FAILED;
    stack.rtmsg_neigh(RTM_DELNEIGH, id, address, &removed);
    Ok(())
}

/// `neigh_dump_info`, `neigh_get`, `rtnl_fdb_dump`
pub(super) fn getneigh(stack: &Stack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    let (fixed, attrs) = request.split::<12>()?;
    let ndm = ndmsg(fixed);
    if ndm.family == AF_BRIDGE {
        return fdb_dump(stack, request, &ndm, replies);
    }
    if ndm.flags & NTF_PROXY != 0 && request.is_dump() {
        return Ok(());
    }
    let net = stack.net(request.net).ok_or(Errno::ENODEV)?;
    let one = if request.is_dump() { None } else { Some(attrs.ip(NDA_DST)?.ok_or(Errno::EINVAL)?) };
    let index = attrs.u32(NDA_IFINDEX)?.unwrap_or(if one.is_some() { ndm.index } else { 0 });
    let master = attrs.u32(NDA_MASTER)?;
    for ((id, address), known) in &net.neighbours.entries {
        let Some(dev) = stack.dev(*id) else { continue };
        let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
        let of_master =
            |index| dev.master.and_then(|id| stack.dev(id)).is_some_and(|dev| dev.ifindex == index);
        let wanted = (ndm.family == AF_UNSPEC || ndm.family == family)
            && one.is_none_or(|one| one == *address)
            && (index == 0 || dev.ifindex == index)
            && master.is_none_or(of_master);
        if wanted {
            let mut message = request.reply(RTM_NEWNEIGH, &neigh_header(dev, *address, known));
            fill(stack.now(), *address, known, &mut message);
            replies.push(message.finish());
        }
    }
    if one.is_some() && replies.is_empty() {
        return Err(Errno::ENOENT.into());
    }
    Ok(())
}

/// `RTN_*` of a neighbour.
fn kind_of(address: IpAddr) -> u8 {
    if address.is_multicast() { 5 } else { 1 }
}

fn neigh_header(dev: &NetDevice, address: IpAddr, known: &Neighbour) -> [u8; 12] {
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    let flags = if known.is_router() { NTF_ROUTER } else { 0 };
    bytes(family, dev.ifindex, known.nud_state, flags, kind_of(address))
}

impl Neighbour {
    /// Whether it has said that it is a router; not kept.
    fn is_router(&self) -> bool {
        false
    }
}

/// `neigh_fill_info`
fn fill(now: u64, address: IpAddr, known: &Neighbour, message: &mut Message) {
    message.put_ip(NDA_DST, address);
    if let Some(lladdr) = known.lladdr.filter(|_| known.nud_state & (nud::INCOMPLETE | nud::FAILED) == 0) {
        message.put(NDA_LLADDR, &lladdr.0);
    }
    message.put_u32(NDA_PROBES, 0);
    let age = (now.saturating_sub(known.updated) / HUNDREDTH) as u32;
    // Confirmed, used, updated, references.
    let info: Vec<u8> = [age, age, age, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    message.put(NDA_CACHEINFO, &info);
}

fn fdb_header(dev: &NetDevice, entry: &FdbEntry) -> [u8; 12] {
    let state = match (entry.is_local, entry.is_static) {
        (true, _) => nud::PERMANENT,
        (_, true) => nud::NOARP,
        _ => nud::REACHABLE,
    };
    bytes(AF_BRIDGE, dev.ifindex, state, 0, 0)
}

/// `fdb_fill_info`
fn fill_fdb(stack: &Stack, bridge: &NetDevice, address: MacAddr, entry: &FdbEntry, message: &mut Message) {
    message.put(NDA_LLADDR, &address.0);
    message.put_u32(NDA_MASTER, bridge.ifindex);
    /// `NDA_FLAGS_EXT`
    const NDA_FLAGS_EXT: u16 = 15;
    message.put_u32(NDA_FLAGS_EXT, 0);
    let age = |at: u64| (stack.now().saturating_sub(at) / HUNDREDTH) as u32;
    let info: Vec<u8> =
        [age(entry.used), 0, age(entry.updated), 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    message.put(NDA_CACHEINFO, &info);
}

/// Stations of all bridges, and the addresses of groups that devices listen to: `rtnl_fdb_dump`.
fn fdb_dump(stack: &Stack, request: &Request<'_>, ndm: &NdMsg, replies: &mut Replies) -> NlResult<()> {
    // Older programs send a `struct ifinfomsg`, whose index stands in the same place; a filter by master is an attribute.
    let (_, attrs) = request.split::<12>()?;
    let master = attrs.u32(NDA_MASTER)?.or_else(|| attrs.u32(super::link::IFLA_MASTER).ok().flatten());
    let port = if request.sender.strict { attrs.u32(NDA_IFINDEX)?.unwrap_or(ndm.index) } else { ndm.index };
    for dev in stack.devices_of(request.net) {
        if let DeviceKind::Bridge(bridge) = &dev.kind
            && master.is_none_or(|index| index == dev.ifindex)
        {
            for (address, entry) in &bridge.fdb {
                let Some(at) = stack.dev(entry.dev) else { continue };
                if port == 0 || port == at.ifindex {
                    let mut message = request.reply(RTM_NEWNEIGH, &fdb_header(at, entry));
                    fill_fdb(stack, dev, *address, entry, &mut message);
                    replies.push(message.finish());
                }
            }
        }
        let is_wanted = match master {
            None => port == 0 || port == dev.ifindex,
            Some(_) => false,
        };
        if is_wanted && dev.has_link_address() {
            for (group, _) in dev.groups.link.iter().filter(|_| dev.is_up()) {
                let fixed = bytes(AF_BRIDGE, dev.ifindex, nud::PERMANENT, NTF_SELF, 0);
                let mut message = request.reply(RTM_NEWNEIGH, &fixed);
                message.put(NDA_LLADDR, &group.0);
                replies.push(message.finish());
            }
        }
    }
    Ok(())
}

/// The parameters of neighbours, by table and device: `neightbl_dump_info`. They are those of Linux's defaults.
pub(super) fn getneightbl(stack: &Stack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    const RTM_NEWNEIGHTBL: u16 = 64;
    /// `NDTA_*`
    const NAME: u16 = 1;
    const THRESH1: u16 = 2;
    const THRESH2: u16 = 3;
    const THRESH3: u16 = 4;
    const PARMS: u16 = 6;
    const GC_INTERVAL: u16 = 8;
    for (family, name) in [(AF_INET, "arp_cache"), (AF_INET6, "ndisc_cache")] {
        if !matches!(request.family(), AF_UNSPEC) && request.family() != family {
            continue;
        }
        let mut message = request.reply(RTM_NEWNEIGHTBL, &[family, 0, 0, 0]);
        message.put_string(NAME, name);
        message.put_u64(GC_INTERVAL, 30_000);
        message.put_u32(THRESH1, 128);
        message.put_u32(THRESH2, 512);
        message.put_u32(THRESH3, 1024);
        message.nest(PARMS, |message| fill_parms(family, 0, message));
        replies.push(message.finish());
        for dev in stack.devices_of(request.net) {
            let mut message = request.reply(RTM_NEWNEIGHTBL, &[family, 0, 0, 0]);
            message.put_string(NAME, name);
            message.nest(PARMS, |message| fill_parms(family, dev.ifindex, message));
            replies.push(message.finish());
        }
    }
    Ok(())
}

/// `neightbl_fill_parms`: `NDTPA_*`, times in milliseconds.
fn fill_parms(family: u8, index: u32, message: &mut Message) {
    if index != 0 {
        message.put_u32(1, index);
    }
    for (which, value) in [(2, 1), (16, 212_992), (8, 101), (14, 64), (9, 0), (10, 3), (11, 3), (17, 0)] {
        message.put_u32(which, value);
    }
    let locktime = if family == AF_INET { 1000 } else { 0 };
    for (which, value) in [
        (3, 30_000),
        (4, 30_000),
        (6, 60_000),
        (7, 5000),
        (5, 1000),
        (12, 1000),
        (13, 800),
        (15, locktime),
        (19, 5000),
    ] {
        message.put_u64(which, value);
    }
}

impl Stack {
    /// Tells of a neighbour: `neigh_notify`.
    pub(in super::super) fn rtmsg_neigh(&mut self, kind: u16, id: DevId, address: IpAddr, known: &Neighbour) {
        let Some(dev) = self.dev(id) else { return };
        let net = dev.net;
        let mut message = Message::new(kind, 0, 0, 0, &neigh_header(dev, address, known));
        fill(self.now(), address, known, &mut message);
        self.rtnl_notify(net, rtnlgrp::NEIGH, message);
    }

    /// Tells of a station: `fdb_notify`.
    fn rtmsg_fdb(&mut self, kind: u16, port: DevId, address: MacAddr, entry: &FdbEntry) {
        let Some(dev) = self.dev(port) else { return };
        let Some(bridge) = dev.master.and_then(|id| self.dev(id)).or(Some(dev)) else { return };
        let mut message = Message::new(kind, 0, 0, 0, &fdb_header(dev, entry));
        fill_fdb(self, bridge, address, entry, &mut message);
        let net = dev.net;
        self.rtnl_notify(net, rtnlgrp::NEIGH, message);
    }
}
