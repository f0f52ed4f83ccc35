//! Network devices (`struct net_device`, `netdevice(7)`).

use std::collections::BTreeMap;

use super::devconf::{Ipv4Devconf, Ipv6Devconf};
use super::inetdev::{InterfaceAddress, Memberships};

/// Flags of a device: `IFF_*` (`netdevice(7)`).
pub mod iff {
    /// Administratively up.
    pub const UP: u32 = 1;
    /// Packets can be sent to all of the link.
    pub const BROADCAST: u32 = 1 << 1;
    /// A loopback device.
    pub const LOOPBACK: u32 = 1 << 3;
    /// The link has two ends.
    pub const POINTOPOINT: u32 = 1 << 4;
    /// Operational.
    pub const RUNNING: u32 = 1 << 6;
    /// Neighbours are not asked for.
    pub const NOARP: u32 = 1 << 7;
    /// Takes frames for everybody.
    pub const PROMISC: u32 = 1 << 8;
    /// Takes frames for every group.
    pub const ALLMULTI: u32 = 1 << 9;
    /// Packets can be sent to groups.
    pub const MULTICAST: u32 = 1 << 12;
    /// The carrier is there.
    pub const LOWER_UP: u32 = 1 << 16;
}

/// States of a device as RFC 2863 has them: `IF_OPER_*`.
pub mod if_oper {
    /// The device does not tell.
    pub const UNKNOWN: u8 = 0;
    /// No carrier.
    pub const DOWN: u8 = 2;
    /// No carrier, for that of the device below.
    pub const LOWERLAYERDOWN: u8 = 3;
    /// Can carry packets.
    pub const UP: u8 = 6;
}

/// Link layers: `ARPHRD_*`.
pub mod arphrd {
    /// Ethernet.
    pub const ETHER: u16 = 1;
    /// `lo`
    pub const LOOPBACK: u16 = 772;
    /// No link layer: packets begin with their network header.
    pub const NONE: u16 = 0xfffe;
}

/// Which device of a sandbox, whatever namespace it is in and whatever its index there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevId(pub u32);

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// To all of a link.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// Of a group, or of all.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// `is_valid_ether_addr`: of one station, and not zero.
    pub fn is_valid(self) -> bool {
        !self.is_multicast() && self.0 != [0; 6]
    }

    /// `eth_random_addr`: an address that is locally administered, made from `bits`.
    pub fn local(bits: u64) -> MacAddr {
        let [a, b, c, d, e, f, ..] = bits.to_le_bytes();
        MacAddr([a & 0xfe | 2, b, c, d, e, f])
    }
}

impl std::fmt::Display for MacAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a device is: `rtnl_link_ops`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `lo`
    Loopback,
    /// Takes what is sent and does nothing with it.
    Dummy,
    /// One end of a cable; the other may be in another namespace.
    Veth {
        /// The other end; `None` only while it is made or torn down.
        peer: Option<DevId>,
    },
    /// A switch (`net/bridge`).
    Bridge(Box<Bridge>),
    /// The part of a device's traffic that carries a tag (`net/8021q`).
    Vlan {
        /// The device that sends and receives tagged frames.
        real: DevId,
        /// The tag, 1 to 4094.
        id: u16,
    },
    /// A program at the other end (`drivers/net/tun.c`).
    Tun(Box<Tun>),
    /// A device with an address of its own on another's link (`drivers/net/macvlan.c`).
    Macvlan {
        /// The device whose link it is on: `lowerdev`.
        lower: DevId,
        /// Whom of the others on it it reaches.
        mode: MacvlanMode,
        /// Minor number of the node at which programs take what it receives (`drivers/net/macvtap.c`); `None`: it has none.
        tap: Option<u32>,
    },
    /// The outside, through sockets of the host's.
    Uplink,
}

impl DeviceKind {
    /// The name of the kind, as `ip link add … type` takes it; `lo` has none.
    pub fn name(&self) -> Option<&'static str> {
        match self {
            DeviceKind::Loopback | DeviceKind::Uplink => None,
            DeviceKind::Dummy => Some("dummy"),
            DeviceKind::Veth { .. } => Some("veth"),
            DeviceKind::Bridge(_) => Some("bridge"),
            DeviceKind::Vlan { .. } => Some("vlan"),
            DeviceKind::Tun(_) => Some("tun"),
            DeviceKind::Macvlan { tap: None, .. } => Some("macvlan"),
            DeviceKind::Macvlan { tap: Some(_), .. } => Some("macvtap"),
        }
    }
}

/// Whom of the others on its link a macvlan reaches: `enum macvlan_mode`. `MACVLAN_MODE_SOURCE` is not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Nobody, not even by way of the switch outside.
    Private = 1,
    /// Whoever the switch outside sends it back to.
    Vepa = 2,
    /// Those of the same mode directly.
    Bridge = 4,
    /// It is alone on the device, with its address, and gets everything.
    Passthru = 8,
}

impl MacvlanMode {
    /// `IFLA_MACVLAN_MODE`
    pub fn from_number(number: u32) -> Option<MacvlanMode> {
        use MacvlanMode::{Bridge, Passthru, Private, Vepa};
        [Private, Vepa, Bridge, Passthru].into_iter().find(|mode| *mode as u32 == number)
    }
}

/// Where a bridge has seen a station: `struct net_bridge_fdb_entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// The port, or the bridge itself.
    pub dev: DevId,
    /// Not learnt, and not forgotten: set by an administrator.
    pub is_static: bool,
    /// An address of the bridge or of a port.
    pub is_local: bool,
    /// When it was last seen, in nanoseconds of the monotonic clock.
    pub updated: u64,
    /// When it was last sent to.
    pub used: u64,
}

/// Parameters of a bridge and what it has learnt: `struct net_bridge`. Times are in hundredths of a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Stations: the forwarding database.
    pub fdb: BTreeMap<MacAddr, FdbEntry>,
    /// How long a station is remembered.
    pub ageing_time: u32,
    /// Spanning tree: its times are kept, the protocol is not spoken.
    pub forward_delay: u32,
    /// Spanning tree.
    pub hello_time: u32,
    /// Spanning tree.
    pub max_age: u32,
    /// Spanning tree.
    pub priority: u16,
    /// Groups' frames are sent to their members only. Kept; all ports get them.
    pub mcast_snooping: bool,
    /// The address is an administrator's, and not the lowest of the ports'.
    pub has_own_address: bool,
}

impl Default for Bridge {
    fn default() -> Bridge {
        Bridge {
            fdb: BTreeMap::new(),
            ageing_time: 30_000,
            forward_delay: 1500,
            hello_time: 200,
            max_age: 2000,
            priority: 0x8000,
            mcast_snooping: true,
            has_own_address: false,
        }
    }
}

/// What a port of a bridge has of its own: `struct net_bridge_port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgePort {
    /// Its number in the bridge, from 1.
    pub port_no: u16,
    /// Cost of a path through it.
    pub path_cost: u32,
    /// Spanning tree.
    pub priority: u8,
    /// What arrives may go back out of it.
    pub hairpin: bool,
    /// Stations seen here are remembered.
    pub learning: bool,
    /// Frames for unknown stations go out of it.
    pub flood: bool,
    /// Frames of groups go out of it.
    pub mcast_flood: bool,
    /// Broadcasts go out of it.
    pub bcast_flood: bool,
    /// Nothing goes from it to another isolated port.
    pub isolated: bool,
}

/// Parameters of a TUN or TAP device: `struct tun_struct`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tun {
    /// `IFF_TUN`, `IFF_TAP`, `IFF_NO_PI`, `IFF_VNET_HDR`, `IFF_MULTI_QUEUE` …, as `TUNSETIFF` takes them.
    pub flags: u16,
    /// Stays when no descriptor is attached.
    pub persist: bool,
    /// Kernel id of the user who may attach.
    pub owner: Option<u32>,
    /// Kernel id of the group that may attach.
    pub group: Option<u32>,
    /// Descriptors attached and enabled.
    pub queues: u32,
    /// Descriptors attached and disabled.
    pub disabled: u32,
}

/// Counters of a device: `struct rtnl_link_stats64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Received and thrown away.
    pub rx_dropped: u64,
    /// Received and malformed.
    pub rx_errors: u64,
    /// Received for a group.
    pub multicast: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Not sent for want of room.
    pub tx_dropped: u64,
    /// Not sent for an error.
    pub tx_errors: u64,
}

/// A device: `struct net_device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetDevice {
    /// Its number in the sandbox.
    pub id: DevId,
    /// Inode number of the namespace it is in.
    pub net: u64,
    /// What it is.
    pub kind: DeviceKind,
    /// `ARPHRD_*`
    pub dev_type: u16,
    /// Index in its namespace, from 1.
    pub ifindex: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// What an administrator calls it besides: `ifalias`.
    pub alias: Option<String>,
    /// `IFF_*`, as a program is shown them (`dev_get_flags`).
    pub flags: u32,
    /// `IF_OPER_*`, as it counts while the device is up.
    pub operstate: u8,
    /// The driver has a carrier: the other end of the cable is up, a program has the descriptor open.
    pub carrier: bool,
    /// How often the carrier has come, and gone.
    pub carrier_changes: (u32, u32),
    /// How many want frames for everybody.
    pub promiscuity: u32,
    /// How many want frames for every group.
    pub allmulti: u32,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Least value of `mtu`.
    pub min_mtu: u32,
    /// Greatest value of `mtu`; 0: no bound.
    pub max_mtu: u32,
    /// Packets that may wait to be sent.
    pub tx_queue_len: u32,
    /// Queues for sending and for receiving.
    pub num_queues: (u32, u32),
    /// `IFLA_GROUP`
    pub group: u32,
    /// Link-layer address.
    pub dev_addr: MacAddr,
    /// Where the address is from: `NET_ADDR_*`. 0: for good, 1: random, 3: set.
    pub addr_assign_type: u8,
    /// Link-layer broadcast address.
    pub broadcast: MacAddr,
    /// The bridge it is a port of.
    pub master: Option<DevId>,
    /// What it is as a port of `master`.
    pub port: Option<BridgePort>,
    /// Counters.
    pub stats: DeviceStats,
    /// Addresses of both families, in the order in which a dump shows them.
    pub addresses: Vec<InterfaceAddress>,
    /// Whether IPv6 is there: it goes when the device is taken down and comes when it is up with a carrier.
    pub inet6_ready: bool,
    /// Groups it listens to.
    pub groups: Memberships,
    /// `net.ipv4.conf.DEV`
    pub ipv4: Ipv4Devconf,
    /// `net.ipv6.conf.DEV`
    pub ipv6: Ipv6Devconf,
}

impl NetDevice {
    /// A device with the values that Ethernet gives (`ether_setup`), down, not yet registered.
    pub fn ether(kind: DeviceKind, name: &str) -> NetDevice {
        NetDevice {
            id: DevId::default(),
            net: 0,
            kind,
            dev_type: arphrd::ETHER,
            ifindex: 0,
            name: name.into(),
            alias: None,
            flags: iff::BROADCAST | iff::MULTICAST,
            operstate: if_oper::UNKNOWN,
            carrier: true,
            carrier_changes: (0, 0),
            promiscuity: 0,
            allmulti: 0,
            mtu: 1500,
            min_mtu: 68,
            max_mtu: 65535,
            tx_queue_len: 1000,
            num_queues: (1, 1),
            group: 0,
            dev_addr: MacAddr::default(),
            addr_assign_type: 0,
            broadcast: MacAddr::BROADCAST,
            master: None,
            port: None,
            stats: DeviceStats::default(),
            addresses: Vec::new(),
            inet6_ready: false,
            groups: Memberships::default(),
            ipv4: Ipv4Devconf::default(),
            ipv6: Ipv6Devconf::default(),
        }
    }

    /// `lo`: down, without addresses (`loopback_net_init`).
    pub fn loopback() -> NetDevice {
        NetDevice {
            dev_type: arphrd::LOOPBACK,
            flags: iff::LOOPBACK,
            mtu: 65536,
            min_mtu: 0,
            max_mtu: 0,
            broadcast: MacAddr::default(),
            ..NetDevice::ether(DeviceKind::Loopback, "lo")
        }
    }

    /// `dummy_setup`
    pub fn dummy(name: &str) -> NetDevice {
        NetDevice {
            flags: iff::BROADCAST | iff::NOARP,
            min_mtu: 0,
            max_mtu: 0,
            ..NetDevice::ether(DeviceKind::Dummy, name)
        }
    }

    /// `veth_setup`: without a carrier until both ends are up.
    pub fn veth(name: &str) -> NetDevice {
        NetDevice { carrier: false, ..NetDevice::ether(DeviceKind::Veth { peer: None }, name) }
    }

    /// `br_dev_setup`
    pub fn bridge(name: &str) -> NetDevice {
        NetDevice::ether(DeviceKind::Bridge(Box::default()), name)
    }

    /// `vlan_setup`, on `real`, whose address and MTU it takes.
    pub fn vlan(name: &str, real: &NetDevice, id: u16) -> NetDevice {
        NetDevice {
            mtu: real.mtu,
            min_mtu: 0,
            max_mtu: 65535,
            dev_addr: real.dev_addr,
            addr_assign_type: 2,
            carrier: real.carrier,
            ..NetDevice::ether(DeviceKind::Vlan { real: real.id, id }, name)
        }
    }

    /// `tun_net_initialize`: packets begin with their network header (TUN).
    pub fn tun(name: &str, tun: Tun) -> NetDevice {
        NetDevice {
            dev_type: arphrd::NONE,
            flags: iff::POINTOPOINT | iff::NOARP | iff::MULTICAST,
            tx_queue_len: 500,
            broadcast: MacAddr::default(),
            ..NetDevice::ether(DeviceKind::Tun(Box::new(tun)), name)
        }
    }

    /// `tun_net_initialize`: frames (TAP).
    pub fn tap(name: &str, tun: Tun) -> NetDevice {
        NetDevice { max_mtu: 65521, ..NetDevice::ether(DeviceKind::Tun(Box::new(tun)), name) }
    }

    /// `macvlan_common_setup`, `macvtap_setup`: on `lower`, whose MTU and carrier it takes. With a node if `tap`.
    pub fn macvlan(name: &str, lower: &NetDevice, mode: MacvlanMode, tap: bool) -> NetDevice {
        let kind = DeviceKind::Macvlan { lower: lower.id, mode, tap: tap.then_some(0) };
        let own = NetDevice::ether(kind, name);
        NetDevice {
            mtu: lower.mtu,
            max_mtu: if lower.max_mtu > 0 { lower.max_mtu } else { 65535 },
            // TUN_READQ_SIZE
            tx_queue_len: if tap { 500 } else { own.tx_queue_len },
            carrier: lower.carrier,
            ..own
        }
    }

    /// `netif_running`: administratively up.
    pub fn is_up(&self) -> bool {
        self.flags & iff::UP != 0
    }

    /// Whether it has a link-layer address.
    pub fn has_link_address(&self) -> bool {
        self.dev_type != arphrd::NONE
    }

    /// The device below it or at its other end, if any: `dev_get_iflink`.
    pub fn link(&self) -> Option<DevId> {
        match self.kind {
            DeviceKind::Veth { peer } => peer,
            _ => self.lower(),
        }
    }

    /// The device that it is on, without which it cannot be.
    pub fn lower(&self) -> Option<DevId> {
        match self.kind {
            DeviceKind::Vlan { real: lower, .. } | DeviceKind::Macvlan { lower, .. } => Some(lower),
            _ => None,
        }
    }

    /// Whether `address` is its own: as the source of what it sends, and the destination of what it takes.
    pub fn has_address(&self, address: std::net::IpAddr) -> bool {
        self.addresses.iter().any(|known| known.address == address)
    }
}
