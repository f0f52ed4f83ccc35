//! Network devices (`struct net_device`, `netdevice(7)`) and the addresses on them (`struct in_device`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::errno::{Errno, Result};

/// Flags of a device: `IFF_*` (`netdevice(7)`).
pub mod iff {
    /// Administratively up.
    pub const UP: u32 = 1;
    /// A loopback device.
    pub const LOOPBACK: u32 = 1 << 3;
    /// Operational.
    pub const RUNNING: u32 = 1 << 6;
    /// The carrier is there.
    pub const LOWER_UP: u32 = 1 << 16;
}

/// An address on a device: `struct in_ifaddr`, `struct inet6_ifaddr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network.
    pub prefix_len: u8,
    /// `RT_SCOPE_*`
    pub scope: u8,
    /// Label, IPv4 only.
    pub label: String,
}

/// `RT_SCOPE_HOST`
pub const SCOPE_HOST: u8 = 254;

/// Which device of a sandbox, whatever namespace it is in and whatever its index there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevId(pub u32);

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

/// What a device is: `rtnl_link_ops`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `lo`
    Loopback,
}

/// Counters of a device: `struct rtnl_link_stats64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceStats {
    /// Packets and bytes received.
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
    /// Link-layer address.
    pub dev_addr: MacAddr,
    /// Link-layer broadcast address.
    pub broadcast: MacAddr,
    /// The bridge it is a port of.
    pub master: Option<DevId>,
    /// Counters.
    pub stats: DeviceStats,
    /// Index, from 1.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// `IFF_*`
    pub flags: u32,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Addresses in the order they were added.
    pub addresses: Vec<InterfaceAddress>,
}

impl NetDevice {
    /// `lo`: down, without addresses (`loopback_net_init`).
    pub fn loopback() -> NetDevice {
        NetDevice {
            id: DevId::default(),
            net: 0,
            kind: DeviceKind::Loopback,
            dev_addr: MacAddr::default(),
            broadcast: MacAddr::default(),
            master: None,
            stats: DeviceStats::default(),
            ifindex: 1,
            name: "lo".into(),
            flags: iff::LOOPBACK,
            mtu: 65536,
            addresses: Vec::new(),
        }
    }

    /// Sets the flags that `change` has to those of `flags`: `dev_change_flags`. Only `IFF_UP` changes anything here. A
    /// loopback device that comes up gets its addresses (`inetdev_event`, `init_loopback`); one that goes down loses those of
    /// IPv6. Gives whether something has changed.
    pub fn change_flags(&mut self, flags: u32, change: u32) -> bool {
        let (was, up) = (self.flags & iff::UP != 0, flags & iff::UP != 0);
        if change & iff::UP == 0 || was == up {
            return false;
        }
        let running = iff::UP | iff::RUNNING | iff::LOWER_UP;
        if up {
            self.flags |= running;
            let has = |v4: bool| self.addresses.iter().any(|known| known.address.is_ipv4() == v4);
            let (has_v4, has_v6) = (has(true), has(false));
            let mut give = |address: IpAddr, prefix_len, label: &str| {
                let label = label.to_owned();
                self.addresses.push(InterfaceAddress { address, prefix_len, scope: SCOPE_HOST, label });
            };
            if !has_v4 {
                give(Ipv4Addr::LOCALHOST.into(), 8, "lo");
            }
            if !has_v6 {
                give(Ipv6Addr::LOCALHOST.into(), 128, "");
            }
        } else {
            self.flags &= !running;
            self.addresses.retain(|known| known.address.is_ipv4());
        }
        true
    }

    /// Adds an address: `inet_rtm_newaddr`.
    ///
    /// # Errors
    /// `EEXIST`: it is there. `EINVAL`: a prefix longer than the address. `EACCES`: IPv6 on a device that is down.
    pub fn add_address(&mut self, new: InterfaceAddress) -> Result<()> {
        let longest = if new.address.is_ipv4() { 32 } else { 128 };
        if new.prefix_len > longest {
            return Err(Errno::EINVAL);
        }
        let same = |known: &InterfaceAddress| {
            known.address == new.address && (new.address.is_ipv6() || known.prefix_len == new.prefix_len)
        };
        if self.addresses.iter().any(same) {
            return Err(Errno::EEXIST);
        }
        self.addresses.push(new);
        Ok(())
    }

    /// Removes an address.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`: it is not there.
    pub fn remove_address(&mut self, address: IpAddr, prefix_len: u8) -> Result<InterfaceAddress> {
        let same = |known: &InterfaceAddress| known.address == address && known.prefix_len == prefix_len;
        let at = self.addresses.iter().position(same).ok_or(Errno::EADDRNOTAVAIL)?;
        Ok(self.addresses.remove(at))
    }
}
