//! `class/net` and `devices/virtual/net`: the devices of the network namespace of who has mounted the file system
//! (`net/core/net-sysfs.c`). All files are read-only.

use crate::dev::TAP_MAJOR;
use nomina_kernel::net::{DeviceKind, NetDevice, if_oper, iff};
use nomina_kernel::{Errno, Result};

/// Where devices are.
const DEVICES: &str = "devices/virtual/net";
/// Where links to them are.
const CLASS: &str = "class/net";
/// Where links to the taps of macvtaps are.
const TAP_CLASS: &str = "class/macvtap";

/// A device with what its files say of others.
pub struct SysNetDevice {
    /// It.
    pub dev: NetDevice,
    /// Index of the device below it or at its other end; its own where there is none.
    pub iflink: u32,
    /// Name of the bridge it is a port of.
    pub master: Option<String>,
    /// Names of its ports.
    pub ports: Vec<String>,
}

/// The devices that are shown.
pub trait NetClass: Send + Sync {
    /// All of them, by index.
    fn devices(&self) -> Vec<SysNetDevice>;
}

/// A new network namespace.
pub(super) struct NewNamespace;

impl NetClass for NewNamespace {
    fn devices(&self) -> Vec<SysNetDevice> {
        let dev = NetDevice { ifindex: 1, ..NetDevice::loopback() };
        vec![SysNetDevice { dev, iflink: 1, master: None, ports: Vec::new() }]
    }
}

/// What a path is.
pub(super) enum Entry {
    Dir,
    /// A text, or why it cannot be read.
    Text(Result<String>),
    Link(String),
}

/// Files of every device.
const ATTRIBUTES: [&str; 28] = [
    "addr_assign_type",
    "addr_len",
    "address",
    "broadcast",
    "carrier",
    "carrier_changes",
    "carrier_down_count",
    "carrier_up_count",
    "dev_id",
    "dev_port",
    "dormant",
    "duplex",
    "flags",
    "gro_flush_timeout",
    "ifalias",
    "ifindex",
    "iflink",
    "link_mode",
    "mtu",
    "name_assign_type",
    "netdev_group",
    "operstate",
    "proto_down",
    "speed",
    "testing",
    "tx_queue_len",
    "type",
    "uevent",
];

const STATISTICS: [&str; 10] = [
    "collisions",
    "multicast",
    "rx_bytes",
    "rx_dropped",
    "rx_errors",
    "rx_packets",
    "tx_bytes",
    "tx_dropped",
    "tx_errors",
    "tx_packets",
];

/// Settings of a bridge.
const BRIDGE: [&str; 9] = [
    "ageing_time",
    "bridge_id",
    "forward_delay",
    "hello_time",
    "max_age",
    "multicast_snooping",
    "priority",
    "root_id",
    "stp_state",
];

fn attribute(shown: &SysNetDevice, name: &str) -> Option<Result<String>> {
    let dev = &shown.dev;
    let up = |text: String| if dev.is_up() { Ok(text) } else { Err(Errno::EINVAL) };
    let (ups, downs) = dev.carrier_changes;
    let text = match name {
        "addr_assign_type" => dev.addr_assign_type.to_string(),
        "addr_len" => if dev.has_link_address() { "6" } else { "0" }.into(),
        "address" if dev.has_link_address() => dev.dev_addr.to_string(),
        "broadcast" if dev.has_link_address() => dev.broadcast.to_string(),
        "address" | "broadcast" => String::new(),
        "carrier" => return Some(up(format!("{}\n", u8::from(dev.carrier)))),
        "carrier_changes" => ups.wrapping_add(downs).to_string(),
        "carrier_down_count" => downs.to_string(),
        "carrier_up_count" => ups.to_string(),
        "dev_id" => "0x0".into(),
        "dormant" | "testing" => return Some(up("0\n".into())),
        "duplex" | "speed" => {
            let known = matches!(dev.kind, DeviceKind::Veth { .. } | DeviceKind::Tun(_));
            let text = match (name, &dev.kind) {
                ("duplex", _) => "full\n",
                (_, DeviceKind::Veth { .. }) => "10000\n",
                _ => "10\n",
            };
            return Some(if known { up(text.into()) } else { Err(Errno::EINVAL) });
        }
        // The upper bits are not shown (`netdev_show_group`), nor what follows from the state.
        "flags" => format!("{:#x}", dev.flags & !(iff::RUNNING | iff::LOWER_UP)),
        "ifalias" => match &dev.alias {
            Some(alias) => alias.clone(),
            None => return Some(Ok(String::new())),
        },
        "ifindex" => dev.ifindex.to_string(),
        "iflink" => shown.iflink.to_string(),
        "mtu" => dev.mtu.to_string(),
        "name_assign_type" if dev.flags & iff::LOOPBACK != 0 => "2".into(),
        "name_assign_type" => "3".into(),
        "netdev_group" => dev.group.to_string(),
        "operstate" => match (dev.is_up(), dev.operstate) {
            (false, _) | (_, if_oper::DOWN) => "down",
            (_, if_oper::LOWERLAYERDOWN) => "lowerlayerdown",
            (_, if_oper::UP) => "up",
            _ => "unknown",
        }
        .into(),
        "tx_queue_len" => dev.tx_queue_len.to_string(),
        "type" => dev.dev_type.to_string(),
        "uevent" => {
            let kind = match dev.kind {
                DeviceKind::Bridge(_) => "DEVTYPE=bridge\n",
                DeviceKind::Vlan { .. } => "DEVTYPE=vlan\n",
                _ => "",
            };
            format!("{kind}INTERFACE={}\nIFINDEX={}", dev.name, dev.ifindex)
        }
        "dev_port" | "gro_flush_timeout" | "link_mode" | "proto_down" => "0".into(),
        _ => return None,
    };
    Some(Ok(text + "\n"))
}

fn statistic(dev: &NetDevice, name: &str) -> Option<u64> {
    let stats = &dev.stats;
    Some(match name {
        "collisions" => 0,
        "multicast" => stats.multicast,
        "rx_bytes" => stats.rx_bytes,
        "rx_dropped" => stats.rx_dropped,
        "rx_errors" => stats.rx_errors,
        "rx_packets" => stats.rx_packets,
        "tx_bytes" => stats.tx_bytes,
        "tx_dropped" => stats.tx_dropped,
        "tx_errors" => stats.tx_errors,
        "tx_packets" => stats.tx_packets,
        _ => return None,
    })
}

fn bridge_setting(dev: &NetDevice, name: &str) -> Option<String> {
    let DeviceKind::Bridge(bridge) = &dev.kind else { return None };
    let [a, b, c, d, e, f] = dev.dev_addr.0;
    Some(match name {
        "ageing_time" => bridge.ageing_time.to_string(),
        "bridge_id" | "root_id" => {
            format!("{:04x}.{a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}", bridge.priority)
        }
        "forward_delay" => bridge.forward_delay.to_string(),
        "hello_time" => bridge.hello_time.to_string(),
        "max_age" => bridge.max_age.to_string(),
        "multicast_snooping" => u8::from(bridge.mcast_snooping).to_string(),
        "priority" => bridge.priority.to_string(),
        "stp_state" => "0".into(),
        _ => return None,
    })
}

/// The minor number of a macvtap's node.
fn tap_minor(dev: &NetDevice) -> Option<u32> {
    match dev.kind {
        DeviceKind::Macvlan { tap, .. } => tap,
        _ => None,
    }
}

/// The name of a macvtap's node.
fn tap_name(dev: &NetDevice) -> Option<String> {
    tap_minor(dev).map(|_| format!("tap{}", dev.ifindex))
}

/// What is at `path` in the directory `macvtap` of a device.
fn tap_entry(dev: &NetDevice, path: &[&str]) -> Option<Entry> {
    let (name, minor) = (tap_name(dev)?, tap_minor(dev)?);
    match path {
        [] => Some(Entry::Dir),
        [own, rest @ ..] if *own == name => Some(match rest {
            [] => Entry::Dir,
            ["dev"] => Entry::Text(Ok(format!("{TAP_MAJOR}:{minor}\n"))),
            ["uevent"] => Entry::Text(Ok(format!("MAJOR={TAP_MAJOR}\nMINOR={minor}\nDEVNAME={name}\n"))),
            ["device"] => Entry::Link(format!("../../../{}", dev.name)),
            ["subsystem"] => Entry::Link(format!("../../../../../../{TAP_CLASS}")),
            _ => return None,
        }),
        _ => None,
    }
}

/// What stands at `path`, if it is one of ours.
pub(super) fn entry(class: &dyn NetClass, path: &str) -> Option<Entry> {
    let find = |name: &str| class.devices().into_iter().find(|shown| shown.dev.name == name);
    if let Some(name) = path.strip_prefix(CLASS).and_then(|rest| rest.strip_prefix('/')) {
        find(name)?;
        return Some(Entry::Link(format!("../../{DEVICES}/{name}")));
    }
    if let Some(name) = path.strip_prefix(TAP_CLASS).and_then(|rest| rest.strip_prefix('/')) {
        let all = class.devices();
        let shown = all.iter().find(|shown| tap_name(&shown.dev).as_deref() == Some(name))?;
        return Some(Entry::Link(format!("../../{DEVICES}/{}/macvtap/{name}", shown.dev.name)));
    }
    let mut parts = path.strip_prefix(DEVICES)?.strip_prefix('/')?.split('/');
    let shown = find(parts.next()?)?;
    let is_bridge = matches!(shown.dev.kind, DeviceKind::Bridge(_));
    if tap_minor(&shown.dev).is_some() {
        let rest: Vec<&str> = parts.clone().collect();
        match rest[..] {
            ["macvtap", ref below @ ..] => return tap_entry(&shown.dev, below),
            [name] if tap_name(&shown.dev).as_deref() == Some(name) => {
                return Some(Entry::Link(format!("macvtap/{name}")));
            }
            _ => {}
        }
    }
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) | (Some("statistics"), None, _) => Some(Entry::Dir),
        (Some("subsystem"), None, _) => Some(Entry::Link(format!("../../../../{CLASS}"))),
        (Some("bridge" | "brif"), None, _) if is_bridge => Some(Entry::Dir),
        (Some("master"), None, _) => Some(Entry::Link(format!("../{}", shown.master?))),
        (Some(name), None, _) => Some(Entry::Text(attribute(&shown, name)?)),
        (Some("statistics"), Some(name), None) => {
            Some(Entry::Text(Ok(format!("{}\n", statistic(&shown.dev, name)?))))
        }
        (Some("bridge"), Some(name), None) => {
            Some(Entry::Text(Ok(format!("{}\n", bridge_setting(&shown.dev, name)?))))
        }
        (Some("brif"), Some(port), None) if shown.ports.iter().any(|known| known == port) => {
            Some(Entry::Link(format!("../../{port}")))
        }
        _ => None,
    }
}

/// The names that stand in `dir` besides fixed ones.
pub(super) fn names(class: &dyn NetClass, dir: &str) -> Vec<String> {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    if dir == CLASS || dir == DEVICES {
        return class.devices().into_iter().map(|shown| shown.dev.name).collect();
    }
    if dir == TAP_CLASS {
        return class.devices().iter().filter_map(|shown| tap_name(&shown.dev)).collect();
    }
    let Some(rest) = dir.strip_prefix(DEVICES).and_then(|rest| rest.strip_prefix('/')) else {
        return Vec::new();
    };
    let (name, below) = rest.split_once('/').unwrap_or((rest, ""));
    let Some(shown) = class.devices().into_iter().find(|shown| shown.dev.name == name) else {
        return Vec::new();
    };
    match below {
        "" => {
            let mut names = owned(&ATTRIBUTES);
            names.extend(owned(&["statistics", "subsystem"]));
            if matches!(shown.dev.kind, DeviceKind::Bridge(_)) {
                names.extend(owned(&["bridge", "brif"]));
            }
            if shown.master.is_some() {
                names.push("master".into());
            }
            if let Some(tap) = tap_name(&shown.dev) {
                names.extend([tap, "macvtap".into()]);
            }
            names
        }
        "statistics" => owned(&STATISTICS),
        "bridge" => owned(&BRIDGE),
        "brif" => shown.ports,
        "macvtap" => tap_name(&shown.dev).into_iter().collect(),
        tap if tap
            .strip_prefix("macvtap/")
            .is_some_and(|tap| tap_name(&shown.dev).as_deref() == Some(tap)) =>
        {
            owned(&["dev", "device", "subsystem", "uevent"])
        }
        _ => Vec::new(),
    }
}
