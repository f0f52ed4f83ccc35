//! Links: `RTM_NEWLINK`, `RTM_SETLINK`, `RTM_DELLINK`, `RTM_GETLINK` (`ip-link(8)`, `net/core/rtnetlink.c`). How a link is shown
//! stands in `link_fill.rs`.

use super::super::dev::{BridgePort, DevId, DeviceKind, MacAddr, MacvlanMode, NetDevice, iff};
use super::super::dev_core::IF_NAME_MAX;
use super::super::devconf::ipv6;
use super::super::nlattr::{Attrs, NlResult, nlm_f};
use super::super::stack::{NetStack, Stack};
use super::link_fill::{self, EXT_MASK_SKIP_STATS};
use super::{AF_BRIDGE, AF_INET6, NetRef, RTM_NEWLINK, Replies, Request};
use crate::errno::{Errno, Result};

/// `IFLA_*`
pub(super) const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_BROADCAST: u16 = 2;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_LINK: u16 = 5;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_PROTINFO: u16 = 12;
pub(super) const IFLA_TXQLEN: u16 = 13;
const IFLA_MAP: u16 = 14;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
pub(super) const IFLA_IFALIAS: u16 = 20;
pub(super) const IFLA_AF_SPEC: u16 = 26;
pub(super) const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
pub(super) const IFLA_NUM_TX_QUEUES: u16 = 31;
pub(super) const IFLA_NUM_RX_QUEUES: u16 = 32;
pub(super) const IFLA_CARRIER: u16 = 33;
pub(super) const IFLA_LINK_NETNSID: u16 = 37;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_DATA: u16 = 2;
pub(super) const IFLA_INFO_SLAVE_KIND: u16 = 4;
pub(super) const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const VETH_INFO_PEER: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
pub(super) const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_FLAGS: u16 = 2;
/// Longest alias, in bytes (`IFALIASZ`).
const ALIAS_MAX: usize = 255;

/// `struct ifinfomsg`
struct IfInfo {
    index: i32,
    flags: u32,
    change: u32,
}

fn ifinfo(fixed: [u8; 16]) -> IfInfo {
    let word = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    IfInfo { index: word(4) as i32, flags: word(8), change: word(12) }
}

impl IfInfo {
    /// `rtnl_dev_combine_flags`: without a mask all flags count.
    fn mask(&self) -> u32 {
        if self.change == 0 && self.flags != 0 { u32::MAX } else { self.change }
    }
}

/// The namespace that a message names. `EPERM`: it may not be changed.
fn target(request: &Request<'_>, attrs: Attrs<'_>) -> NlResult<Option<NetRef>> {
    let found = if let Some(pid) = attrs.u32(IFLA_NET_NS_PID)? {
        request.sender.nets.by_pid(pid)?
    } else if let Some(fd) = attrs.u32(IFLA_NET_NS_FD)? {
        request.sender.nets.by_fd(fd)?
    } else {
        return Ok(None);
    };
    if found.may_change { Ok(Some(found)) } else { Err(Errno::EPERM.into()) }
}

/// The device that a message means, by index or by name.
fn find(stack: &Stack, net: u64, info: &IfInfo, attrs: Attrs<'_>) -> NlResult<Option<DevId>> {
    if info.index < 0 {
        return Err(Errno::EINVAL.with("ifindex can't be negative"));
    }
    let dev = match (info.index, attrs.string(IFLA_IFNAME, IF_NAME_MAX)?) {
        (0, None) => None,
        (0, Some(name)) => stack.dev_get_by_name(net, name),
        (index, _) => stack.dev_get_by_index(net, index as u32),
    };
    Ok(dev.map(|dev| dev.id))
}

fn names_one(info: &IfInfo, attrs: Attrs<'_>) -> bool {
    info.index != 0 || attrs.has(IFLA_IFNAME)
}

/// `rtnl_newlink`, `rtnl_setlink`
pub(super) fn newlink(stack: &NetStack, request: &Request<'_>, _replies: &mut Replies) -> NlResult<()> {
    let (fixed, attrs) = request.split::<16>()?;
    let info = ifinfo(fixed);
    if fixed[0] == AF_BRIDGE {
        return bridge_setlink(&mut stack.lock(), request, &info, attrs);
    }
    let linkinfo = attrs.nested(IFLA_LINKINFO).unwrap_or_default();
    let kind = linkinfo.string(IFLA_INFO_KIND, 64)?;
    let data = linkinfo.nested(IFLA_INFO_DATA).unwrap_or_default();
    let target = target(request, attrs)?;
    // That of the other end of a cable, which a message may put into a namespace of its own.
    let peer_target = match (kind, data.get(VETH_INFO_PEER)) {
        (Some("veth"), Some(peer)) => {
            self::target(request, Attrs::new(peer.get(16..).ok_or(Errno::EINVAL)?))?
        }
        _ => None,
    };
    let mut stack = stack.lock();
    let dev = find(&stack, request.net, &info, attrs)?;
    if request.kind == RTM_NEWLINK
        && let Some(dev) = dev
    {
        if request.has(nlm_f::EXCL) {
            return Err(Errno::EEXIST.into());
        }
        if request.has(nlm_f::REPLACE) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let own = stack.dev(dev).and_then(|dev| dev.kind.name());
        if kind.is_some() && kind != own {
            return Err(Errno::EOPNOTSUPP.into());
        }
        change_data(&mut stack, dev, data)?;
    }
    if let Some(dev) = dev {
        return setlink(&mut stack, dev, &info, attrs, target);
    }
    if request.kind != RTM_NEWLINK || !request.has(nlm_f::CREATE) {
        if request.kind == RTM_NEWLINK
            && !names_one(&info, attrs)
            && let Some(group) = attrs.u32(IFLA_GROUP)?
        {
            return group_changelink(&mut stack, request.net, group, &info, attrs);
        }
        let invalid = request.kind != RTM_NEWLINK && !names_one(&info, attrs);
        return Err(if invalid { Errno::EINVAL } else { Errno::ENODEV }.into());
    }
    if attrs.has(IFLA_MAP) || attrs.has(IFLA_PROTINFO) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let Some(kind) = kind else { return Err(Errno::EOPNOTSUPP.with("Unknown device type")) };
    let to = target.map_or(request.net, |target| target.inum);
    let to_peer = peer_target.map_or(to, |target| target.inum);
    let link = Link { info: &info, attrs, data, kind, from: request.net, to, to_peer };
    create(&mut stack, &link)
}

/// A link that is to be made.
struct Link<'a> {
    info: &'a IfInfo,
    attrs: Attrs<'a>,
    data: Attrs<'a>,
    kind: &'a str,
    /// Where the devices are that the message names.
    from: u64,
    to: u64,
    to_peer: u64,
}

/// `rtnl_newlink_create`, and the `newlink` of each kind.
fn create(stack: &mut Stack, link: &Link<'_>) -> NlResult<()> {
    let Link { info, attrs, data, kind, .. } = *link;
    let pattern = format!("{kind}%d");
    let name = attrs.string(IFLA_IFNAME, IF_NAME_MAX)?.unwrap_or(&pattern).to_owned();
    let mut dev = match kind {
        "dummy" => NetDevice::dummy(&name),
        "veth" => NetDevice::veth(&name),
        "bridge" => NetDevice::bridge(&name),
        "vlan" => vlan(stack, link, &name)?,
        "macvlan" | "macvtap" => macvlan(stack, link, &name)?,
        "tun" => return Err(Errno::EOPNOTSUPP.with("tun/tap creation via rtnetlink is not supported.")),
        _ => return Err(Errno::EOPNOTSUPP.with("Unknown device type")),
    };
    dev.ifindex = info.index as u32;
    configure_new(&mut dev, attrs)?;
    let mut peer_id = None;
    let mut peer_info = None;
    if kind == "veth" {
        // The kernel has two queues where there are two processors; what a driver allocates is not modelled.
        let (info, attrs) = match data.get(VETH_INFO_PEER) {
            Some(peer) => {
                let fixed: [u8; 16] = *peer.first_chunk().ok_or(Errno::EINVAL)?;
                (ifinfo(fixed), Attrs::new(&peer[16..]))
            }
            None => (IfInfo { index: 0, flags: 0, change: 0 }, Attrs::default()),
        };
        let name = attrs.string(IFLA_IFNAME, IF_NAME_MAX)?.unwrap_or("veth%d");
        let mut peer = NetDevice::veth(name);
        peer.ifindex = info.index.max(0) as u32;
        peer.mtu = dev.mtu;
        configure_new(&mut peer, attrs)?;
        let id = stack.register_netdevice(link.to_peer, peer)?;
        peer_id = Some(id);
        peer_info = Some(info);
        dev.kind = DeviceKind::Veth { peer: Some(id) };
    }
    let id = match stack.register_netdevice(link.to, dev) {
        Ok(id) => id,
        Err(error) => {
            if let Some(peer) = peer_id {
                stack.unregister_netdevice(peer);
            }
            return Err(error.into());
        }
    };
    if let (Some(peer), Some(info)) = (peer_id, peer_info) {
        if let Some(peer) = stack.dev_mut(peer) {
            peer.kind = DeviceKind::Veth { peer: Some(id) };
        }
        // Its state tells of the other end, which it has only now.
        stack.rfc2863_policy(peer);
        stack.dev_change_flags(peer, info.flags, info.mask())?;
        stack.rtmsg_ifinfo(RTM_NEWLINK, peer, u32::MAX);
    }
    let rest = change_data(stack, id, if kind == "bridge" { data } else { Attrs::default() })
        .and_then(|()| Ok(stack.dev_change_flags(id, info.flags, info.mask())?))
        .and_then(|_| match attrs.u32(IFLA_MASTER)? {
            Some(master) => enslave(stack, id, master),
            None => Ok(()),
        });
    if let Err(error) = rest {
        stack.unregister_netdevice(id);
        return Err(error);
    }
    stack.rtmsg_ifinfo(RTM_NEWLINK, id, u32::MAX);
    Ok(())
}

/// `vlan_newlink`
fn vlan(stack: &Stack, link: &Link<'_>, name: &str) -> NlResult<NetDevice> {
    let id = link.data.u16(IFLA_VLAN_ID)?.ok_or(Errno::EINVAL.with("VLAN properties not specified"))?;
    let real = link.attrs.u32(IFLA_LINK)?.ok_or(Errno::EINVAL.with("link not specified"))?;
    let real = stack.dev_get_by_index(link.from, real).ok_or(Errno::ENODEV.with("link does not exist"))?;
    if id >= 4095 {
        return Err(Errno::ERANGE.with("Invalid VLAN id"));
    }
    if !real.has_link_address() || real.flags & iff::LOOPBACK != 0 {
        return Err(Errno::EOPNOTSUPP.with("VLANs not supported on device"));
    }
    let same = |dev: &NetDevice| matches!(dev.kind, DeviceKind::Vlan { real: on, id: tag } if on == real.id && tag == id);
    if stack.all_devices().any(same) {
        return Err(Errno::EEXIST.with("VLAN device already exists"));
    }
    Ok(NetDevice::vlan(name, real, id))
}

/// `macvlan_common_newlink`
fn macvlan(stack: &Stack, link: &Link<'_>, name: &str) -> NlResult<NetDevice> {
    let mode = macvlan_mode(link.data)?.unwrap_or(MacvlanMode::Vepa);
    let lower = link.attrs.u32(IFLA_LINK)?.ok_or(Errno::EINVAL)?;
    let mut lower = stack.dev_get_by_index(link.from, lower).ok_or(Errno::ENODEV)?;
    // On another macvlan means on what that is on.
    if let DeviceKind::Macvlan { lower: real, .. } = lower.kind {
        lower = stack.dev(real).ok_or(Errno::ENODEV)?;
    }
    if link.attrs.u32(IFLA_MTU)?.is_some_and(|mtu| mtu > lower.mtu) {
        return Err(Errno::EINVAL.into());
    }
    stack.macvlan_may_join(lower, mode)?;
    let mut dev = NetDevice::macvlan(name, lower, mode, link.kind == "macvtap");
    if mode == MacvlanMode::Passthru {
        // eth_hw_addr_inherit
        dev.dev_addr = lower.dev_addr;
        dev.addr_assign_type = lower.addr_assign_type;
    }
    Ok(dev)
}

/// The mode that a message names: `macvlan_validate`. `EINVAL`: there is no such mode. `EOPNOTSUPP`: one, or a setting, that is not
/// offered.
fn macvlan_mode(data: Attrs<'_>) -> NlResult<Option<MacvlanMode>> {
    const MODE_SOURCE: u32 = 16;
    for (which, payload) in data.iter() {
        let is_offered = match which {
            IFLA_MACVLAN_MODE => true,
            IFLA_MACVLAN_FLAGS => payload.iter().all(|byte| *byte == 0),
            _ => false,
        };
        if !is_offered {
            return Err(Errno::EOPNOTSUPP.into());
        }
    }
    match data.u32(IFLA_MACVLAN_MODE)? {
        None => Ok(None),
        Some(MODE_SOURCE) => Err(Errno::EOPNOTSUPP.into()),
        Some(mode) => Ok(Some(MacvlanMode::from_number(mode).ok_or(Errno::EINVAL)?)),
    }
}

/// What a message says of a device that is not there yet: `rtnl_create_link`.
fn configure_new(dev: &mut NetDevice, attrs: Attrs<'_>) -> NlResult<()> {
    if let Some(mtu) = attrs.u32(IFLA_MTU)? {
        if mtu < dev.min_mtu {
            return Err(Errno::EINVAL.with("mtu less than device minimum"));
        }
        if dev.max_mtu > 0 && mtu > dev.max_mtu {
            return Err(Errno::EINVAL.with("mtu greater than device maximum"));
        }
        dev.mtu = mtu;
    }
    if let Some(address) = attrs.mac(IFLA_ADDRESS)? {
        if !address.is_valid() {
            return Err(Errno::EADDRNOTAVAIL.into());
        }
        dev.dev_addr = address;
        dev.addr_assign_type = 3;
        if let DeviceKind::Bridge(bridge) = &mut dev.kind {
            bridge.has_own_address = true;
        }
    }
    if let Some(broadcast) = attrs.mac(IFLA_BROADCAST)? {
        dev.broadcast = broadcast;
    }
    if let Some(len) = attrs.u32(IFLA_TXQLEN)? {
        dev.tx_queue_len = len;
    }
    if let Some(group) = attrs.u32(IFLA_GROUP)? {
        dev.group = group;
    }
    for (which, queues) in
        [(IFLA_NUM_TX_QUEUES, &mut dev.num_queues.0), (IFLA_NUM_RX_QUEUES, &mut dev.num_queues.1)]
    {
        if let Some(number) = attrs.u32(which)? {
            if !(1..=4096).contains(&number) {
                return Err(Errno::EINVAL.with("Invalid number of transmit queues"));
            }
            *queues = number;
        }
    }
    Ok(())
}

fn enslave(stack: &mut Stack, dev: DevId, master: u32) -> NlResult<()> {
    let net = stack.dev(dev).map(|dev| dev.net).ok_or(Errno::ENODEV)?;
    let master = match master {
        0 => None,
        index => Some(stack.dev_get_by_index(net, index).ok_or(Errno::EINVAL)?.id),
    };
    stack.set_master(dev, master)
}

/// `do_setlink`
fn setlink(
    stack: &mut Stack,
    id: DevId,
    info: &IfInfo,
    attrs: Attrs<'_>,
    target: Option<NetRef>,
) -> NlResult<()> {
    let ifname = attrs.string(IFLA_IFNAME, IF_NAME_MAX)?.filter(|name| !name.is_empty());
    let by_index = info.index > 0;
    if let Some(target) = target {
        stack.dev_change_net_namespace(id, target.inum, ifname)?;
    }
    let mut changed = 0;
    if let Some(payload) = attrs.get(IFLA_ADDRESS) {
        let has = stack.dev(id).is_some_and(NetDevice::has_link_address);
        let address = payload.first_chunk::<6>().copied().map(MacAddr).ok_or(Errno::EINVAL)?;
        if !has {
            return Err(Errno::EOPNOTSUPP.into());
        }
        stack.dev_set_mac_address(id, address)?;
        changed |= 1;
    }
    if let Some(mtu) = attrs.u32(IFLA_MTU)? {
        stack.dev_set_mtu(id, mtu)?;
        changed |= 1;
    }
    if let Some(group) = attrs.u32(IFLA_GROUP)? {
        stack.dev_mut(id).ok_or(Errno::ENODEV)?.group = group;
        changed |= 1;
    }
    if by_index && let Some(name) = ifname {
        changed |= u32::from(stack.dev_change_name(id, name)?);
    }
    if let Some(alias) = attrs.string(IFLA_IFALIAS, ALIAS_MAX)? {
        let dev = stack.dev_mut(id).ok_or(Errno::ENODEV)?;
        dev.alias = Some(alias.to_owned()).filter(|alias| !alias.is_empty());
        changed |= 1;
    }
    if let Some(broadcast) = attrs.mac(IFLA_BROADCAST)? {
        stack.dev_mut(id).ok_or(Errno::ENODEV)?.broadcast = broadcast;
        changed |= 1;
    }
    if let Some(master) = attrs.u32(IFLA_MASTER)? {
        enslave(stack, id, master)?;
        changed |= 1;
    }
    if info.flags != 0 || info.change != 0 {
        changed |= stack.dev_change_flags(id, info.flags, info.mask())?;
    }
    if let Some(carrier) = attrs.u8(IFLA_CARRIER)? {
        change_carrier(stack, id, carrier != 0)?;
    }
    if let Some(len) = attrs.u32(IFLA_TXQLEN)? {
        stack.dev_mut(id).ok_or(Errno::ENODEV)?.tx_queue_len = len;
        changed |= 1;
    }
    let slave = attrs.nested(IFLA_LINKINFO).and_then(|info| info.nested(IFLA_INFO_SLAVE_DATA));
    if let Some(slave) = slave {
        set_port(stack, id, slave)?;
        changed |= 1;
    }
    let inet6 = attrs.nested(IFLA_AF_SPEC).and_then(|spec| spec.nested(AF_INET6.into()));
    if let Some(mode) = inet6.map(|inet6| inet6.u8(IFLA_INET6_ADDR_GEN_MODE)).transpose()?.flatten() {
        if mode > 3 {
            return Err(Errno::EINVAL.into());
        }
        stack.dev_mut(id).ok_or(Errno::ENODEV)?.ipv6.0[ipv6::ADDR_GEN_MODE] = mode.into();
        changed |= 1;
    }
    if changed != 0 {
        stack.rtmsg_ifinfo(RTM_NEWLINK, id, changed & !1);
    }
    Ok(())
}

/// `dev_change_carrier`: dummy and TUN devices let an administrator say.
fn change_carrier(stack: &mut Stack, id: DevId, carrier: bool) -> Result<()> {
    let dev = stack.dev(id).ok_or(Errno::ENODEV)?;
    if !matches!(dev.kind, DeviceKind::Dummy | DeviceKind::Tun(_)) {
        return Err(Errno::EOPNOTSUPP);
    }
    stack.netif_carrier(id, carrier);
    Ok(())
}

/// `rtnl_group_changelink`
fn group_changelink(
    stack: &mut Stack,
    net: u64,
    group: u32,
    info: &IfInfo,
    attrs: Attrs<'_>,
) -> NlResult<()> {
    let members: Vec<DevId> =
        stack.devices_of(net).filter(|dev| dev.group == group).map(|dev| dev.id).collect();
    for dev in members {
        setlink(stack, dev, info, attrs, None)?;
    }
    Ok(())
}

/// `changelink` of each kind: for a bridge `br_changelink`, for a macvlan `macvlan_changelink`.
fn change_data(stack: &mut Stack, id: DevId, data: Attrs<'_>) -> NlResult<()> {
    let Some(dev) = stack.dev_mut(id) else { return Err(Errno::ENODEV.into()) };
    if let DeviceKind::Macvlan { mode, .. } = &mut dev.kind {
        if let Some(wanted) = macvlan_mode(data)? {
            // Who is alone on its device stays so.
            if (wanted == MacvlanMode::Passthru) != (*mode == MacvlanMode::Passthru) {
                return Err(Errno::EINVAL.into());
            }
            *mode = wanted;
        }
        return Ok(());
    }
    let DeviceKind::Bridge(bridge) = &mut dev.kind else {
        return if data.iter().next().is_some() { Err(Errno::EOPNOTSUPP.into()) } else { Ok(()) };
    };
    for (which, payload) in data.iter() {
        let word = payload.first_chunk().copied().map(u32::from_ne_bytes).ok_or(Errno::ERANGE);
        let byte = payload.first().copied().ok_or(Errno::ERANGE);
        match which {
            // Times in hundredths of a second.
            1 if (200..=3000).contains(&word?) => bridge.forward_delay = word?,
            2 if (100..=1000).contains(&word?) => bridge.hello_time = word?,
            3 if (600..=4000).contains(&word?) => bridge.max_age = word?,
            1..=3 => return Err(Errno::ERANGE.into()),
            4 => bridge.ageing_time = word?,
            6 => {
                bridge.priority =
                    payload.first_chunk().copied().map(u16::from_ne_bytes).ok_or(Errno::ERANGE)?
            }
            23 => bridge.mcast_snooping = byte? != 0,
            // Spanning tree, filtering by tags, statistics of tags: to turn off what is off changes nothing.
            5 | 7 | 36 | 37 | 38 | 41 | 42 | 24 | 25 if byte? == 0 => {}
            // Learned stations are to be forgotten.
            18 => bridge.fdb.retain(|_, entry| entry.is_static || entry.is_local),
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
    }
    Ok(())
}

/// `br_setport`: `IFLA_BRPORT_*`
fn set_port(stack: &mut Stack, id: DevId, data: Attrs<'_>) -> NlResult<()> {
    let port: &mut BridgePort = stack.dev_mut(id).and_then(|dev| dev.port.as_mut()).ok_or(Errno::EINVAL)?;
    for (which, payload) in data.iter() {
        let byte = payload.first().copied().ok_or(Errno::ERANGE)?;
        match which {
            2 => {
                port.priority =
                    payload.first_chunk().copied().map(u16::from_ne_bytes).ok_or(Errno::ERANGE)? as u8
            }
            3 => {
                let cost = payload.first_chunk().copied().map(u32::from_ne_bytes).ok_or(Errno::ERANGE)?;
                if !(1..=65535).contains(&cost) {
                    return Err(Errno::ERANGE.into());
                }
                port.path_cost = cost;
            }
            4 => port.hairpin = byte != 0,
            8 => port.learning = byte != 0,
            9 => port.flood = byte != 0,
            27 => port.mcast_flood = byte != 0,
            30 => port.bcast_flood = byte != 0,
            33 => port.isolated = byte != 0,
            // What is off already: guard, protection, fast leave, proxies.
            5 | 6 | 7 | 10 | 11 | 28 if byte == 0 => {}
            // Forwarding, which is what it does.
            1 if byte == 3 => {}
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
    }
    Ok(())
}

/// `rtnl_bridge_setlink`, as `bridge link set` uses it.
fn bridge_setlink(stack: &mut Stack, request: &Request<'_>, info: &IfInfo, attrs: Attrs<'_>) -> NlResult<()> {
    let dev = find(stack, request.net, info, attrs)?.ok_or(Errno::ENODEV)?;
    let port = attrs.nested(IFLA_PROTINFO).ok_or(Errno::EOPNOTSUPP)?;
    set_port(stack, dev, port)?;
    stack.rtmsg_ifinfo(RTM_NEWLINK, dev, 0);
    Ok(())
}

/// `rtnl_dellink`
pub(super) fn dellink(stack: &NetStack, request: &Request<'_>) -> NlResult<()> {
    let (fixed, attrs) = request.split::<16>()?;
    let info = ifinfo(fixed);
    let mut stack = stack.lock();
    let mut doomed = Vec::new();
    if names_one(&info, attrs) {
        doomed.push(find(&stack, request.net, &info, attrs)?.ok_or(Errno::ENODEV)?);
    } else if let Some(group) = attrs.u32(IFLA_GROUP)? {
        if group == 0 {
            return Err(Errno::EPERM.into());
        }
        doomed.extend(stack.devices_of(request.net).filter(|dev| dev.group == group).map(|dev| dev.id));
        if doomed.is_empty() {
            return Err(Errno::ENODEV.into());
        }
    } else {
        return Err(Errno::EINVAL.into());
    }
    for id in doomed {
        let Some(dev) = stack.dev(id) else { continue };
        match &dev.kind {
            DeviceKind::Loopback => return Err(Errno::EOPNOTSUPP.into()),
            // `tun_link_ops` has a dellink by default: the descriptors are left without a device.
            _ => stack.unregister_netdevice(id),
        }
    }
    Ok(())
}

/// `rtnl_getlink`, `rtnl_dump_ifinfo`
pub(super) fn getlink(stack: &NetStack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    // `ip` sends the family alone, in 4 bytes or as a whole structure.
    let (fixed, attrs) = match request.split::<16>() {
        Err(_) if request.payload.len() < 16 => ([0; 16], Attrs::default()),
        other => other?,
    };
    let info = ifinfo(fixed);
    let mask = attrs.u32(IFLA_EXT_MASK)?.unwrap_or(0);
    let mut stack = stack.lock();
    if !request.is_dump() {
        if !names_one(&info, attrs) && !attrs.has(53) {
            return Err(Errno::EINVAL.into());
        }
        let id = find(&stack, request.net, &info, attrs)?.ok_or(Errno::ENODEV)?;
        replies.push(stack.fill_ifinfo(request, id, mask));
        return Ok(());
    }
    if fixed[0] == AF_BRIDGE {
        let ports: Vec<DevId> =
            stack.devices_of(request.net).filter(|dev| dev.port.is_some()).map(|dev| dev.id).collect();
        replies.extend(ports.into_iter().map(|id| link_fill::bridge_link(&stack, request, id)));
        return Ok(());
    }
    let master = attrs.u32(IFLA_MASTER)?;
    let kind = attrs.nested(IFLA_LINKINFO).unwrap_or_default().string(IFLA_INFO_KIND, 64)?;
    let all: Vec<DevId> = stack
        .devices_of(request.net)
        .filter(|dev| kind.is_none() || dev.kind.name() == kind)
        .filter(|dev| match master {
            None => true,
            Some(master) => dev.master.and_then(|id| stack.dev(id)).map_or(0, |dev| dev.ifindex) == master,
        })
        .map(|dev| dev.id)
        .collect();
    for id in all {
        let message = stack.fill_ifinfo(request, id, mask);
        replies.push(message);
    }
    Ok(())
}

impl Stack {
    fn fill_ifinfo(&mut self, request: &Request<'_>, id: DevId, mask: u32) -> Vec<u8> {
        let netnsid = self.link_netnsid(id);
        let mut message = request.reply(RTM_NEWLINK, &link_fill::header(self, id, 0));
        link_fill::fill(self, id, netnsid, mask & EXT_MASK_SKIP_STATS == 0, &mut message);
        message.finish()
    }

    /// Where the other end is, if it is in another namespace: `rtnl_fill_link_netnsid`.
    fn link_netnsid(&mut self, id: DevId) -> Option<i32> {
        let dev = self.dev(id)?;
        let (own, link) = (dev.net, self.dev(dev.link()?)?.net);
        if own == link { None } else { self.peernet2id_alloc(own, link) }
    }

    /// Tells that a link is there, or gone, or has changed: `rtmsg_ifinfo`.
    pub(in super::super) fn rtmsg_ifinfo(&mut self, kind: u16, id: DevId, change: u32) {
        let Some(net) = self.dev(id).map(|dev| dev.net) else { return };
        let netnsid = self.link_netnsid(id);
        let mut message =
            super::super::nlattr::Message::new(kind, 0, 0, 0, &link_fill::header(self, id, change));
        link_fill::fill(self, id, netnsid, true, &mut message);
        self.rtnl_notify(net, super::rtnlgrp::LINK, message);
    }
}
