//! The life of devices (`net/core/dev.c`): names, registration, going up and down, carrier, moves between namespaces.
//!
//! Whatever happens to a device has consequences for its neighbours in the model: the other end of a cable, the bridge it is a
//! port of, the tagged devices on it, its addresses and the routes over it. They follow here at once, as the kernel's notifier
//! chain has it, and those who listen are told.

use super::dev::{DevId, DeviceKind, MacAddr, NetDevice, if_oper, iff};
use super::devconf::ipv6;
use super::nlattr::NlResult;
use super::rtnetlink::{RTM_DELLINK, RTM_NEWLINK};
use super::stack::Stack;
use crate::errno::{Errno, Result};

/// `IFNAMSIZ` without the NUL.
pub const IF_NAME_MAX: usize = 15;
/// Most devices of a sandbox: a bound of ours.
const MAX_DEVICES: usize = 4096;
/// `NET_ADDR_RANDOM`, `NET_ADDR_SET`
const ADDR_RANDOM: u8 = 1;
const ADDR_SET: u8 = 3;

/// `dev_valid_name`
fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= IF_NAME_MAX
        && name != "."
        && name != ".."
        && !name.bytes().any(|byte| matches!(byte, b'/' | b':') || byte.is_ascii_whitespace() || byte == 0x0b)
}

impl Stack {
    /// The name that a device gets in a namespace: `dev_get_valid_name`. A name with `%d` stands for the first number that is
    /// free.
    ///
    /// # Errors
    /// `EINVAL`: no name that a device can have. `EEXIST`: taken. `ENFILE`: no number is free.
    pub fn dev_get_valid_name(&self, inum: u64, name: &str) -> Result<String> {
        if !is_valid_name(name) {
            return Err(Errno::EINVAL);
        }
        let Some((before, after)) = name.split_once('%') else {
            let taken = self.dev_get_by_name(inum, name).is_some();
            return if taken { Err(Errno::EEXIST) } else { Ok(name.into()) };
        };
        let after = after.strip_prefix('d').filter(|after| !after.contains('%')).ok_or(Errno::EINVAL)?;
        // `__dev_alloc_name` looks at a page of bits.
        (0..32768)
            .map(|number| format!("{before}{number}{after}"))
            .take_while(|name| name.len() <= IF_NAME_MAX)
            .find(|name| self.dev_get_by_name(inum, name).is_none())
            .ok_or(Errno::ENFILE)
    }

    /// Puts a device into a namespace and gives it a number, an address where it needs one, and an index unless it brings a free
    /// one: `register_netdevice`. Its name may be a pattern.
    ///
    /// # Errors
    /// Those of [`Stack::dev_get_valid_name`]. `EEXIST`: the index is taken. `ENODEV`: there is no such namespace. `ENOBUFS`: too
    /// many devices.
    pub fn register_netdevice(&mut self, inum: u64, mut dev: NetDevice) -> Result<DevId> {
        dev.name = self.dev_get_valid_name(inum, &dev.name)?;
        if self.device_count() >= MAX_DEVICES {
            return Err(Errno::ENOBUFS);
        }
        if dev.dev_type == super::dev::arphrd::ETHER && dev.dev_addr == MacAddr::default() {
            dev.dev_addr = MacAddr::local(self.random());
            dev.addr_assign_type = ADDR_RANDOM;
        }
        self.take_ifindex(inum, &mut dev)?;
        let id = self.insert_device(dev);
        self.list_netdevice(inum, id);
        // linkwatch_init_dev; the driver of macvlans has it looked at in any case.
        if !self.dev(id).is_some_and(|dev| dev.carrier && !matches!(dev.kind, DeviceKind::Macvlan { .. })) {
            self.rfc2863_policy(id);
        }
        Ok(id)
    }

    /// A device of `/dev/net/tun` (`tun_set_iff`), told of.
    ///
    /// # Errors
    /// Those of [`Stack::register_netdevice`].
    pub(super) fn tun_register(&mut self, inum: u64, dev: NetDevice) -> Result<DevId> {
        let id = self.register_netdevice(inum, dev)?;
        self.rtmsg_ifinfo(RTM_NEWLINK, id, u32::MAX);
        Ok(id)
    }

    fn take_ifindex(&mut self, inum: u64, dev: &mut NetDevice) -> Result<()> {
        let net = self.net_mut(inum).ok_or(Errno::ENODEV)?;
        if dev.ifindex == 0 {
            while net.devices.contains_key(&(net.last_ifindex + 1)) {
                net.last_ifindex += 1;
            }
            net.last_ifindex += 1;
            dev.ifindex = net.last_ifindex;
        } else if net.devices.contains_key(&dev.ifindex) {
            return Err(Errno::EEXIST);
        }
        Ok(())
    }

    /// `list_netdevice`, and what IPv4 and IPv6 set up for a new device of a namespace (`inetdev_init`, `ipv6_add_dev`).
    fn list_netdevice(&mut self, inum: u64, id: DevId) {
        let Some(net) = self.net(inum) else { return };
        let (mut conf4, mut conf6) = (net.ipv4_default.clone(), net.ipv6_default.clone());
        let Some(dev) = self.dev_mut(id) else { return };
        dev.net = inum;
        conf6.0[ipv6::MTU] = dev.mtu as i32;
        if dev.flags & iff::LOOPBACK != 0 {
            conf4.0[super::devconf::ipv4::DISABLE_XFRM] = 1;
            conf4.0[super::devconf::ipv4::DISABLE_POLICY] = 1;
        }
        if dev.flags & iff::LOOPBACK != 0 || !dev.has_link_address() {
            conf6.0[ipv6::USE_TEMPADDR] = -1;
            conf6.0[ipv6::ACCEPT_DAD] = -1;
        }
        (dev.ipv4, dev.ipv6) = (conf4, conf6);
        let ifindex = dev.ifindex;
        self.ipv6_mc_init_dev(id);
        if let Some(net) = self.net_mut(inum) {
            net.devices.insert(ifindex, id);
        }
        self.tap_register(id);
    }

    /// The devices that are on this one.
    pub(super) fn uppers(&self, lower: DevId) -> Vec<DevId> {
        self.all_devices().filter(|dev| dev.lower() == Some(lower)).map(|dev| dev.id).collect()
    }

    /// Takes a device out of the model, with the other end of its cable and the devices on it: `unregister_netdevice`.
    pub fn unregister_netdevice(&mut self, id: DevId) {
        let mut doomed = vec![id];
        if let Some(DeviceKind::Veth { peer: Some(peer) }) = self.dev(id).map(|dev| &dev.kind) {
            doomed.push(*peer);
        }
        let mut at = 0;
        while let Some(next) = doomed.get(at).copied() {
            for upper in self.uppers(next) {
                if !doomed.contains(&upper) {
                    doomed.push(upper);
                }
            }
            at += 1;
        }
        for id in doomed.into_iter().rev() {
            self.dev_close(id);
            self.unlist_netdevice(id);
            self.tap_del_queues(id);
            self.forget_device(id);
        }
    }

    /// What leaving a namespace takes with it: `NETDEV_UNREGISTER`.
    fn unlist_netdevice(&mut self, id: DevId) {
        self.release_slaves(id);
        if self.dev(id).is_some_and(|dev| dev.master.is_some()) {
            self.set_master(id, None).unwrap_or_default();
        }
        self.inetdev_destroy(id);
        self.addrconf_ifdown(id, true);
        self.rtmsg_ifinfo(RTM_DELLINK, id, 0);
        self.tap_unregister(id);
        self.forget_packets(id);
        let Some((inum, ifindex)) = self.dev(id).map(|dev| (dev.net, dev.ifindex)) else { return };
        if let Some(net) = self.net_mut(inum) {
            net.devices.remove(&ifindex);
            net.neighbours.entries.retain(|(dev, _), _| *dev != id);
        }
    }

    /// Moves a device to another namespace, down: `dev_change_net_namespace`. `pattern` names it there if its own name is taken.
    ///
    /// # Errors
    /// `EINVAL`: `lo`, which stays. `EEXIST`: the name is taken. `ENODEV`: no such namespace.
    pub fn dev_change_net_namespace(&mut self, id: DevId, to: u64, pattern: Option<&str>) -> NlResult<()> {
        let dev = self.dev(id).ok_or(Errno::ENODEV)?;
        if dev.flags & iff::LOOPBACK != 0 {
            return Err(Errno::EINVAL.with("The interface netns is immutable"));
        }
        if dev.net == to {
            return Ok(());
        }
        self.net(to).ok_or(Errno::ENODEV)?;
        let mut name = dev.name.clone();
        if self.dev_get_by_name(to, &name).is_some() {
            let pattern = pattern.ok_or(Errno::EEXIST)?;
            name = self.dev_get_valid_name(to, pattern)?;
        }
        self.dev_close(id);
        self.unlist_netdevice(id);
        let Some(mut dev) = self.dev(id).cloned() else { return Err(Errno::ENODEV.into()) };
        if self.net(to).is_some_and(|net| net.devices.contains_key(&dev.ifindex)) {
            dev.ifindex = 0;
        }
        self.take_ifindex(to, &mut dev)?;
        dev.name = name;
        if let Some(known) = self.dev_mut(id) {
            *known = dev;
        }
        self.list_netdevice(to, id);
        self.rtmsg_ifinfo(RTM_NEWLINK, id, u32::MAX);
        Ok(())
    }

    /// Renames a device: `dev_change_name`. Gives whether it had another name.
    ///
    /// # Errors
    /// Those of [`Stack::dev_get_valid_name`].
    pub fn dev_change_name(&mut self, id: DevId, name: &str) -> Result<bool> {
        let dev = self.dev(id).ok_or(Errno::ENODEV)?;
        if dev.name == name {
            return Ok(false);
        }
        let name = self.dev_get_valid_name(dev.net, name)?;
        let dev = self.dev_mut(id).ok_or(Errno::ENODEV)?;
        for known in &mut dev.addresses {
            if known.address.is_ipv4() {
                let suffix = known.label.split_once(':').map(|(_, alias)| format!(":{alias}"));
                let mut label = format!("{name}{}", suffix.unwrap_or_default());
                label.truncate(IF_NAME_MAX);
                known.label = label;
            }
        }
        dev.name = name;
        Ok(true)
    }

    /// Sets the flags that an administrator sets: `__dev_change_flags`. Gives which have changed.
    ///
    /// # Errors
    /// `ENETDOWN`: a tagged device goes up whose device is down. `ENOTCONN`: a cable without another end. `EADDRINUSE`: a macvlan with
    /// an address that another on its link has.
    pub fn dev_change_flags(&mut self, id: DevId, flags: u32, change: u32) -> Result<u32> {
        /// `IFF_DEBUG`, `IFF_NOTRAILERS`, `IFF_NOARP`, `IFF_DYNAMIC`, `IFF_MULTICAST`, `IFF_PORTSEL`, `IFF_AUTOMEDIA`
        const KEPT: u32 = 0x4 | 0x20 | iff::NOARP | 0x8000 | iff::MULTICAST | 0x2000 | 0x4000;
        let dev = self.dev_mut(id).ok_or(Errno::ENODEV)?;
        let before = dev.flags;
        let wanted = before & !change | flags & change;
        dev.flags = before & !KEPT | wanted & KEPT;
        for (flag, users) in [(iff::PROMISC, &mut dev.promiscuity), (iff::ALLMULTI, &mut dev.allmulti)] {
            if (before ^ wanted) & flag != 0 {
                dev.flags ^= flag;
                *users = if wanted & flag != 0 { *users + 1 } else { users.saturating_sub(1) };
            }
        }
        match ((before & iff::UP != 0), (wanted & iff::UP != 0)) {
            (false, true) => self.dev_open(id)?,
            (true, false) => self.dev_close(id),
            _ => {}
        }
        let after = self.dev(id).map_or(before, |dev| dev.flags);
        Ok((before ^ after) & !(iff::RUNNING | iff::LOWER_UP))
    }

    /// `__dev_open` and `ndo_open`
    fn dev_open(&mut self, id: DevId) -> Result<()> {
        let dev = self.dev(id).ok_or(Errno::ENODEV)?;
        let is_up = |id: DevId| self.dev(id).is_some_and(NetDevice::is_up);
        let mut carriers = None;
        match dev.kind {
            DeviceKind::Veth { peer: None } => return Err(Errno::ENOTCONN),
            DeviceKind::Veth { peer: Some(peer) } if is_up(peer) => carriers = Some(peer),
            DeviceKind::Vlan { real, .. } if !is_up(real) => return Err(Errno::ENETDOWN),
            DeviceKind::Macvlan { .. } => self.macvlan_open(id)?,
            _ => {}
        }
        if let Some(dev) = self.dev_mut(id) {
            dev.flags |= iff::UP;
        }
        if let Some(peer) = carriers {
            self.set_carrier(id, true, false);
            self.netif_carrier(peer, true);
        }
        self.update_flags(id);
        self.after_change(id);
        self.inetdev_up(id);
        self.addrconf_up(id);
        Ok(())
    }

    /// `__dev_close` and `ndo_stop`
    pub(super) fn dev_close(&mut self, id: DevId) {
        let Some(dev) = self.dev_mut(id).filter(|dev| dev.is_up()) else { return };
        dev.flags &= !iff::UP;
        let kind = dev.kind.clone();
        self.update_flags(id);
        match kind {
            DeviceKind::Veth { peer: Some(peer) } => {
                self.set_carrier(id, false, false);
                self.netif_carrier(peer, false);
            }
            DeviceKind::Macvlan { .. } => self.macvlan_stop(id),
            _ => {}
        }
        let on_it: Vec<DevId> = self
            .all_devices()
            .filter(|dev| matches!(dev.kind, DeviceKind::Vlan { real, .. } if real == id) && dev.is_up())
            .map(|dev| dev.id)
            .collect();
        for vlan in on_it {
            self.dev_close(vlan);
            self.rtmsg_ifinfo(RTM_NEWLINK, vlan, iff::UP);
        }
        self.after_change(id);
        self.inetdev_down(id);
        self.addrconf_ifdown(id, false);
    }

    /// The driver has a carrier, or has it no more: `netif_carrier_on`, `netif_carrier_off`.
    pub fn netif_carrier(&mut self, id: DevId, carrier: bool) {
        if self.set_carrier(id, carrier, true) && self.dev(id).is_some_and(NetDevice::is_up) {
            self.after_change(id);
            self.fib_sync_carrier(id);
            self.rtmsg_ifinfo(RTM_NEWLINK, id, 0);
            self.addrconf_change(id);
        }
    }

    fn set_carrier(&mut self, id: DevId, carrier: bool, flags: bool) -> bool {
        let Some(dev) = self.dev_mut(id).filter(|dev| dev.carrier != carrier) else { return false };
        dev.carrier = carrier;
        let counter = if carrier { &mut dev.carrier_changes.0 } else { &mut dev.carrier_changes.1 };
        *counter = counter.wrapping_add(1);
        self.rfc2863_policy(id);
        if flags {
            self.update_flags(id);
        }
        for upper in self.uppers(id) {
            self.netif_carrier(upper, carrier);
        }
        true
    }

    /// `rfc2863_policy`
    pub(super) fn rfc2863_policy(&mut self, id: DevId) {
        if let Some(dev) = self.dev_mut(id) {
            dev.operstate = match (dev.carrier, dev.link()) {
                (true, _) => if_oper::UP,
                (false, Some(_)) => if_oper::LOWERLAYERDOWN,
                (false, None) => if_oper::DOWN,
            };
        }
    }

    /// `dev_get_flags`: what follows from the others.
    fn update_flags(&mut self, id: DevId) {
        let Some(dev) = self.dev_mut(id) else { return };
        let operational = dev.is_up() && matches!(dev.operstate, if_oper::UP | if_oper::UNKNOWN);
        for (flag, is_set) in [(iff::RUNNING, operational), (iff::LOWER_UP, dev.is_up() && dev.carrier)] {
            dev.flags = if is_set { dev.flags | flag } else { dev.flags & !flag };
        }
    }

    /// A bridge has a carrier while it is up and a port is.
    fn after_change(&mut self, id: DevId) {
        let Some(dev) = self.dev(id) else { return };
        let bridge = if matches!(dev.kind, DeviceKind::Bridge(_)) { Some(id) } else { dev.master };
        if let Some(bridge) = bridge {
            self.bridge_carrier(bridge);
        }
    }

    pub(super) fn bridge_carrier(&mut self, bridge: DevId) {
        let is_live = |dev: &NetDevice| dev.master == Some(bridge) && dev.flags & iff::RUNNING != 0;
        let up = self.dev(bridge).is_some_and(NetDevice::is_up);
        let carrier = up && self.all_devices().any(is_live);
        self.netif_carrier(bridge, carrier);
    }

    /// Sets the largest packet: `dev_set_mtu_ext`.
    ///
    /// # Errors
    /// `EINVAL`: outside of the device's bounds. `ERANGE`, of a macvlan `EINVAL`: more than the device below has.
    pub fn dev_set_mtu(&mut self, id: DevId, mtu: u32) -> NlResult<()> {
        let dev = self.dev(id).ok_or(Errno::ENODEV)?;
        if dev.mtu == mtu {
            return Ok(());
        }
        if mtu > i32::MAX as u32 || mtu < dev.min_mtu {
            return Err(Errno::EINVAL.with("mtu less than device minimum"));
        }
        if dev.max_mtu > 0 && mtu > dev.max_mtu {
            return Err(Errno::EINVAL.with("mtu greater than device maximum"));
        }
        let below = dev.lower().and_then(|lower| self.dev(lower)).map(|lower| lower.mtu);
        if below.is_some_and(|below| mtu > below) {
            let is_macvlan = matches!(dev.kind, DeviceKind::Macvlan { .. });
            return Err(if is_macvlan { Errno::EINVAL } else { Errno::ERANGE }.into());
        }
        if let Some(dev) = self.dev_mut(id) {
            dev.mtu = mtu;
            dev.ipv6.0[ipv6::MTU] = mtu as i32;
        }
        for upper in self.uppers(id) {
            if self.dev(upper).is_some_and(|dev| dev.mtu > mtu) {
                self.dev_set_mtu(upper, mtu)?;
            }
        }
        if let Some(bridge) = self.dev(id).and_then(|dev| dev.master) {
            self.br_mtu_auto_adjust(bridge);
        }
        if mtu < 1280 {
            self.addrconf_ifdown(id, true);
        }
        Ok(())
    }

    /// Sets the link-layer address: `dev_set_mac_address`.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: it has none. `EADDRNOTAVAIL`: no address of a station. `EADDRINUSE`: a macvlan that is up, and another on its link
    /// has it.
    pub fn dev_set_mac_address(&mut self, id: DevId, address: MacAddr) -> Result<()> {
        let dev = self.dev(id).ok_or(Errno::ENODEV)?;
        if !dev.has_link_address() {
            return Err(Errno::EOPNOTSUPP);
        }
        if !address.is_valid() {
            return Err(Errno::EADDRNOTAVAIL);
        }
        self.macvlan_may_have(dev, address)?;
        for alike in self.passthru_pair(id) {
            if let Some(dev) = self.dev_mut(alike) {
                dev.dev_addr = address;
            }
        }
        let dev = self.dev_mut(id).ok_or(Errno::ENODEV)?;
        let before = std::mem::replace(&mut dev.dev_addr, address);
        dev.addr_assign_type = ADDR_SET;
        if let DeviceKind::Bridge(bridge) = &mut dev.kind {
            bridge.has_own_address = true;
        }
        self.br_changed_address(id, before);
        Ok(())
    }
}
