//! How a link is shown: `rtnl_fill_ifinfo`, the `fill_info` of each kind, `br_fill_ifinfo`.

use super::super::dev::{
    Bridge, BridgePort, DevId, DeviceKind, DeviceStats, MacAddr, NetDevice, if_oper, iff,
};
use super::super::devconf::ipv6;
use super::super::nlattr::Message;
use super::super::stack::Stack;
use super::link::{
    IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_BROADCAST, IFLA_CARRIER, IFLA_GROUP, IFLA_IFALIAS, IFLA_IFNAME,
    IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND, IFLA_LINK, IFLA_LINK_NETNSID,
    IFLA_LINKINFO, IFLA_MACVLAN_MODE, IFLA_MASTER, IFLA_MTU, IFLA_NUM_RX_QUEUES, IFLA_NUM_TX_QUEUES,
    IFLA_PROTINFO, IFLA_TXQLEN,
};
use super::{AF_BRIDGE, AF_INET, AF_INET6, RTM_NEWLINK, Request};

/// `RTEXT_FILTER_SKIP_STATS`
pub(super) const EXT_MASK_SKIP_STATS: u32 = 1 << 3;

const IFLA_QDISC: u16 = 6;
const IFLA_STATS: u16 = 7;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKMODE: u16 = 17;
const IFLA_STATS64: u16 = 23;
const IFLA_PROMISCUITY: u16 = 30;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_PROTO_DOWN: u16 = 39;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_CARRIER_UP_COUNT: u16 = 47;
const IFLA_CARRIER_DOWN_COUNT: u16 = 48;
const IFLA_MIN_MTU: u16 = 50;
const IFLA_MAX_MTU: u16 = 51;
const IFLA_GRO_MAX_SIZE: u16 = 58;
const IFLA_TSO_MAX_SIZE: u16 = 59;
const IFLA_TSO_MAX_SEGS: u16 = 60;
const IFLA_ALLMULTI: u16 = 61;
/// `GSO_LEGACY_MAX_SIZE`, `GSO_MAX_SEGS`, `TSO_MAX_SIZE`
const GSO_LEGACY_MAX_SIZE: u32 = 65536;
const GSO_MAX_SEGS: u32 = 65535;
const TSO_MAX_SIZE: u32 = 524_280;

/// `struct ifinfomsg`
pub(super) fn header(stack: &Stack, id: DevId, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    if let Some(dev) = stack.dev(id) {
        fixed[2..4].copy_from_slice(&dev.dev_type.to_ne_bytes());
        fixed[4..8].copy_from_slice(&dev.ifindex.to_ne_bytes());
        fixed[8..12].copy_from_slice(&dev.flags.to_ne_bytes());
        fixed[12..].copy_from_slice(&change.to_ne_bytes());
    }
    fixed
}

/// The operational state that is shown.
pub(in super::super) fn operstate(dev: &NetDevice) -> u8 {
    if dev.is_up() { dev.operstate } else { if_oper::DOWN }
}

/// The queueing discipline: none is modelled, and those of Linux's defaults are named.
fn qdisc(dev: &NetDevice) -> &'static str {
    match dev.kind {
        // What was up once keeps its discipline.
        _ if !dev.is_up() && dev.carrier_changes == (0, 0) => "noop",
        DeviceKind::Tun(_) | DeviceKind::Macvlan { tap: Some(_), .. } => "pfifo_fast",
        _ => "noqueue",
    }
}

/// The attributes: `rtnl_fill_ifinfo`.
pub(super) fn fill(stack: &Stack, id: DevId, netnsid: Option<i32>, stats: bool, message: &mut Message) {
    let Some(dev) = stack.dev(id) else { return };
    message.put_string(IFLA_IFNAME, &dev.name);
    message.put_u32(IFLA_TXQLEN, dev.tx_queue_len);
    message.put_u8(IFLA_OPERSTATE, operstate(dev));
    message.put_u8(IFLA_LINKMODE, 0);
    message.put_u32(IFLA_MTU, dev.mtu);
    message.put_u32(IFLA_MIN_MTU, dev.min_mtu);
    message.put_u32(IFLA_MAX_MTU, dev.max_mtu);
    message.put_u32(IFLA_GROUP, dev.group);
    message.put_u32(IFLA_PROMISCUITY, dev.promiscuity);
    message.put_u32(IFLA_ALLMULTI, dev.allmulti);
    message.put_u32(IFLA_NUM_TX_QUEUES, dev.num_queues.0);
    message.put_u32(IFLA_GSO_MAX_SEGS, GSO_MAX_SEGS);
    message.put_u32(IFLA_GSO_MAX_SIZE, GSO_LEGACY_MAX_SIZE);
    message.put_u32(IFLA_GRO_MAX_SIZE, GSO_LEGACY_MAX_SIZE);
    let tso = if matches!(dev.kind, DeviceKind::Tun(_)) { GSO_LEGACY_MAX_SIZE } else { TSO_MAX_SIZE };
    message.put_u32(IFLA_TSO_MAX_SIZE, tso);
    message.put_u32(IFLA_TSO_MAX_SEGS, GSO_MAX_SEGS);
    message.put_u32(IFLA_NUM_RX_QUEUES, dev.num_queues.1);
    if let Some(master) = dev.master.and_then(|id| stack.dev(id)) {
        message.put_u32(IFLA_MASTER, master.ifindex);
    }
    message.put_u8(IFLA_CARRIER, dev.carrier.into());
    let (ups, downs) = dev.carrier_changes;
    message.put_u32(IFLA_CARRIER_CHANGES, ups.wrapping_add(downs));
    message.put_u32(IFLA_CARRIER_UP_COUNT, ups);
    message.put_u32(IFLA_CARRIER_DOWN_COUNT, downs);
    message.put_u8(IFLA_PROTO_DOWN, 0);
    if let Some(alias) = &dev.alias {
        message.put_string(IFLA_IFALIAS, alias);
    }
    if dev.has_link_address() {
        message.put(IFLA_ADDRESS, &dev.dev_addr.0);
        message.put(IFLA_BROADCAST, &dev.broadcast.0);
    }
    if stats {
        message.put(IFLA_STATS64, &stats64(&dev.stats));
        message.put(IFLA_STATS, &stats32(&dev.stats));
    }
    if dev.kind.name().is_some() || dev.port.is_some() {
        message.nest(IFLA_LINKINFO, |message| fill_linkinfo(stack, dev, message));
    }
    if let Some(link) = dev.link().and_then(|id| stack.dev(id)) {
        message.put_u32(IFLA_LINK, link.ifindex);
        if let Some(netnsid) = netnsid {
            message.put_u32(IFLA_LINK_NETNSID, netnsid as u32);
        }
    }
    message.put_string(IFLA_QDISC, qdisc(dev));
    message.nest(IFLA_AF_SPEC, |message| fill_af_spec(dev, message));
}

fn counters(stats: &DeviceStats) -> [u64; 24] {
    let mut all = [0; 24];
    let known = [
        stats.rx_packets,
        stats.tx_packets,
        stats.rx_bytes,
        stats.tx_bytes,
        stats.rx_errors,
        stats.tx_errors,
        stats.rx_dropped,
        stats.tx_dropped,
        stats.multicast,
    ];
    all[..known.len()].copy_from_slice(&known);
    all
}

/// `struct rtnl_link_stats64`
fn stats64(stats: &DeviceStats) -> Vec<u8> {
    let mut bytes: Vec<u8> = counters(stats).iter().flat_map(|value| value.to_ne_bytes()).collect();
    // rx_otherhost_dropped
    bytes.extend(0u64.to_ne_bytes());
    bytes
}

/// `struct rtnl_link_stats`
fn stats32(stats: &DeviceStats) -> Vec<u8> {
    counters(stats).iter().flat_map(|value| (*value as u32).to_ne_bytes()).collect()
}

fn fill_linkinfo(stack: &Stack, dev: &NetDevice, message: &mut Message) {
    if let Some(kind) = dev.kind.name() {
        message.put_string(IFLA_INFO_KIND, kind);
    }
    match &dev.kind {
        DeviceKind::Bridge(bridge) => {
            message.nest(IFLA_INFO_DATA, |message| fill_bridge(dev, bridge, message))
        }
        DeviceKind::Vlan { id, .. } => message.nest(IFLA_INFO_DATA, |message| {
            /// `IFLA_VLAN_*`; the protocol is in network order.
            const PROTOCOL: u16 = 5;
            const ID: u16 = 1;
            const FLAGS: u16 = 2;
            message.put(PROTOCOL, &0x8100u16.to_be_bytes());
            message.put_u16(ID, *id);
            // VLAN_FLAG_REORDER_HDR
            message.put(FLAGS, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        }),
        DeviceKind::Tun(tun) => message.nest(IFLA_INFO_DATA, |message| {
            /// `IFLA_TUN_*`
            const OWNER: u16 = 1;
            const GROUP: u16 = 2;
            const TYPE: u16 = 3;
            const PI: u16 = 4;
            const VNET_HDR: u16 = 5;
            const PERSIST: u16 = 6;
            const MULTI_QUEUE: u16 = 7;
            const NUM_QUEUES: u16 = 8;
            const NUM_DISABLED_QUEUES: u16 = 9;
            message.put_u8(TYPE, (tun.flags & 3) as u8);
            if let Some(owner) = tun.owner {
                message.put_u32(OWNER, owner);
            }
            if let Some(group) = tun.group {
                message.put_u32(GROUP, group);
            }
            message.put_u8(PI, u8::from(tun.flags & 0x1000 == 0));
            message.put_u8(VNET_HDR, u8::from(tun.flags & 0x4000 != 0));
            message.put_u8(PERSIST, tun.persist.into());
            message.put_u8(MULTI_QUEUE, u8::from(tun.flags & 0x0100 != 0));
            if tun.flags & 0x0100 != 0 {
                message.put_u32(NUM_QUEUES, tun.queues);
                message.put_u32(NUM_DISABLED_QUEUES, tun.disabled);
            }
        }),
        DeviceKind::Macvlan { mode, .. } => message.nest(IFLA_INFO_DATA, |message| {
            /// `IFLA_MACVLAN_FLAGS`, `IFLA_MACVLAN_MACADDR_COUNT`, and the length of the queue for broadcasts, asked for and in use.
            const FLAGS: u16 = 2;
            const MACADDR_COUNT: u16 = 6;
            const BC_QUEUE_LEN: u16 = 7;
            const BC_QUEUE_LEN_USED: u16 = 8;
            message.put_u32(IFLA_MACVLAN_MODE, *mode as u32);
            message.put_u16(FLAGS, 0);
            message.put_u32(MACADDR_COUNT, 0);
            message.put_u32(BC_QUEUE_LEN, 1000);
            message.put_u32(BC_QUEUE_LEN_USED, 1000);
        }),
        DeviceKind::Loopback | DeviceKind::Dummy | DeviceKind::Veth { .. } | DeviceKind::Uplink => {}
    }
    if let (Some(port), Some(master)) = (&dev.port, dev.master.and_then(|id| stack.dev(id))) {
        message.put_string(IFLA_INFO_SLAVE_KIND, "bridge");
        message.nest(IFLA_INFO_SLAVE_DATA, |message| fill_port(dev, port, master, message));
    }
}

/// `br_get_bridge_id`
fn bridge_id(priority: u16, address: MacAddr) -> [u8; 8] {
    let [a, b, c, d, e, f] = address.0;
    let [high, low] = priority.to_be_bytes();
    [high, low, a, b, c, d, e, f]
}

/// `br_fill_info`
fn fill_bridge(dev: &NetDevice, bridge: &Bridge, message: &mut Message) {
    let own_id = bridge_id(
        bridge.priority,
        if dev.promiscuity == 0 { bridge_address(dev, bridge) } else { dev.dev_addr },
    );
    for timer in 16..=19 {
        message.put_u64(timer, 0);
    }
    for (which, value) in [
        (1, bridge.forward_delay),
        (2, bridge.hello_time),
        (3, bridge.max_age),
        (4, bridge.ageing_time),
        (5, 0),
    ] {
        message.put_u32(which, value);
    }
    message.put_u16(6, bridge.priority);
    message.put_u8(7, 0);
    message.put_u16(9, 0);
    message.put(11, &own_id);
    message.put(10, &own_id);
    message.put_u16(12, 0);
    message.put_u32(13, 0);
    message.put_u8(14, 0);
    message.put_u8(15, 0);
    message.put(20, &[0x01, 0x80, 0xc2, 0, 0, 0]);
    // IFLA_BR_MULTI_BOOLOPT: which of the options there are.
    message.put(46, &[0, 0, 0, 0, 0x1f, 0, 0, 0]);
    message.put_u8(22, 1);
    message.put_u8(23, bridge.mcast_snooping.into());
    message.put_u8(24, 0);
    message.put_u8(25, 0);
    message.put_u8(42, 0);
    for (which, value) in [(26, 16), (27, 4096), (28, 2), (29, 2)] {
        message.put_u32(which, value);
    }
    message.put_u8(43, 2);
    message.put_u8(44, 1);
    // Intervals of the querier, in hundredths of a second.
    for (which, value) in [(30, 100), (31, 26_000), (32, 25_500), (33, 12_500), (34, 1000), (35, 3124)] {
        message.put_u64(which, value);
    }
    for which in 36..=38 {
        message.put_u8(which, 0);
    }
}

/// The address in the bridge's id: none while it has no port and none has been set.
fn bridge_address(dev: &NetDevice, bridge: &Bridge) -> MacAddr {
    let is_own =
        bridge.has_own_address || bridge.fdb.values().any(|entry| entry.is_local && entry.dev != dev.id);
    if is_own { dev.dev_addr } else { MacAddr::default() }
}

/// Whether a port forwards: `BR_STATE_FORWARDING`, or else `BR_STATE_DISABLED`.
fn port_state(dev: &NetDevice, master: &NetDevice) -> u8 {
    if master.is_up() && dev.flags & iff::RUNNING != 0 { 3 } else { 0 }
}

/// `br_port_fill_attrs`
fn fill_port(dev: &NetDevice, port: &BridgePort, master: &NetDevice, message: &mut Message) {
    let priority = match &master.kind {
        DeviceKind::Bridge(bridge) => bridge.priority,
        _ => 0x8000,
    };
    let id = bridge_id(priority, master.dev_addr);
    let port_id = u16::from(port.priority) << 10 | port.port_no & 0x3ff;
    message.put_u8(1, port_state(dev, master));
    message.put_u16(2, port.priority.into());
    message.put_u32(3, port.path_cost);
    for (which, value) in [
        (4, port.hairpin),
        (5, false),
        (6, false),
        (7, false),
        (28, false),
        (8, port.learning),
        (9, port.flood),
        (27, port.mcast_flood),
        (30, port.bcast_flood),
        (10, false),
        (12, false),
    ] {
        message.put_u8(which, value.into());
    }
    message.put(13, &id);
    message.put(14, &id);
    message.put_u16(15, port_id.swap_bytes().swap_bytes());
    message.put_u16(16, 0);
    message.put_u16(17, port_id);
    message.put_u16(18, port.port_no);
    for which in [19, 20, 29] {
        message.put_u8(which, 0);
    }
    message.put_u16(31, 0);
    message.put_u8(32, 0);
    for which in [35, 36] {
        message.put_u8(which, 0);
    }
    message.put_u8(33, port.isolated.into());
    for which in [39, 40, 43] {
        message.put_u8(which, 0);
    }
    for timer in [21, 22, 23] {
        message.put_u64(timer, 0);
    }
    message.put_u8(25, 1);
    for (which, value) in [(37, 512), (38, 0), (41, 1), (42, 0)] {
        message.put_u32(which, value);
    }
}

/// The settings of IPv4 and IPv6: `inet_fill_link_af`, `inet6_fill_link_af`.
fn fill_af_spec(dev: &NetDevice, message: &mut Message) {
    /// `IFLA_INET_CONF`; `IFLA_INET6_*`
    const INET_CONF: u16 = 1;
    const INET6_FLAGS: u16 = 1;
    const INET6_CONF: u16 = 2;
    const INET6_CACHEINFO: u16 = 5;
    const INET6_TOKEN: u16 = 7;
    const INET6_ADDR_GEN_MODE: u16 = 8;
    /// `IF_READY`
    const IF_READY: u32 = 0x8000_0000;
    let bytes = |values: &[i32]| values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>();
    message.nest(AF_INET.into(), |message| message.put(INET_CONF, &bytes(&dev.ipv4.0)));
    message.nest(AF_INET6.into(), |message| {
        message.put_u32(INET6_FLAGS, if dev.inet6_ready { IF_READY } else { 0 });
        // max_reasm_len, tstamp, reachable_time, retrans_time
        message.put(INET6_CACHEINFO, &bytes(&[65535, 0, 30_000, 1000]));
        message.put(INET6_CONF, &bytes(&dev.ipv6.0));
        message.put(INET6_TOKEN, &[0; 16]);
        message.put_u8(INET6_ADDR_GEN_MODE, dev.ipv6.0[ipv6::ADDR_GEN_MODE] as u8);
    });
}

/// A port as `bridge link` is shown it: `br_fill_ifinfo`.
pub(super) fn bridge_link(stack: &Stack, request: &Request<'_>, id: DevId) -> Vec<u8> {
    let mut fixed = header(stack, id, 0);
    fixed[0] = AF_BRIDGE;
    let mut message = request.reply(RTM_NEWLINK, &fixed);
    if let Some(dev) = stack.dev(id) {
        message.put_string(IFLA_IFNAME, &dev.name);
        message.put_u32(IFLA_MASTER, dev.master.and_then(|id| stack.dev(id)).unwrap_or(dev).ifindex);
        message.put_u32(IFLA_MTU, dev.mtu);
        message.put_u8(IFLA_OPERSTATE, operstate(dev));
        message.put(IFLA_ADDRESS, &dev.dev_addr.0);
        if let Some(link) = dev.link().and_then(|id| stack.dev(id)) {
            message.put_u32(IFLA_LINK, link.ifindex);
        }
        if let (Some(port), Some(master)) = (&dev.port, dev.master.and_then(|id| stack.dev(id))) {
            /// `NLA_F_NESTED`
            const NESTED: u16 = 0x8000;
            message.nest(IFLA_PROTINFO | NESTED, |message| fill_port(dev, port, master, message));
        }
    }
    message.finish()
}
