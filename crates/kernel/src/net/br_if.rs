//! Ports of a bridge (`net/bridge/br_if.c`), and what a bridge takes from them: its address, its MTU, its local stations.

use super::dev::{BridgePort, DevId, DeviceKind, FdbEntry, MacAddr, NetDevice, arphrd, iff};
use super::nlattr::NlResult;
use super::rtnetlink::RTM_NEWLINK;
use super::stack::Stack;
use crate::errno::{Errno, Result};

/// `BR_MAX_PORTS`
const MAX_PORTS: u16 = 1 << 10;

impl BridgePort {
    /// `new_nbp`
    fn new(port_no: u16, kind: &DeviceKind) -> BridgePort {
        BridgePort {
            port_no,
            // `port_cost`: by the speed that the driver says it has.
            path_cost: if matches!(kind, DeviceKind::Veth { .. }) { 2 } else { 100 },
            priority: 32,
            hairpin: false,
            learning: true,
            flood: true,
            mcast_flood: true,
            bcast_flood: true,
            isolated: false,
        }
    }
}

impl Stack {
    /// Makes a device a port of a bridge, or of none: `do_set_master`.
    ///
    /// # Errors
    /// `EINVAL`: not a device of Ethernet, or no such device. `ELOOP`: a bridge. `EOPNOTSUPP`: the master is no bridge. `EBUSY`:
    /// what it receives goes to macvlans or to a tap. `EXFULL`: it has no port left.
    pub fn set_master(&mut self, id: DevId, master: Option<DevId>) -> NlResult<()> {
        let dev = self.dev(id).ok_or(Errno::ENODEV)?;
        if let Some(now) = dev.master {
            if Some(now) == master {
                return Ok(());
            }
            self.br_del_if(id, now);
        }
        match master {
            Some(bridge) => self.br_add_if(id, bridge),
            None => Ok(()),
        }
    }

    fn br_add_if(&mut self, id: DevId, bridge: DevId) -> NlResult<()> {
        let dev = self.dev(id).ok_or(Errno::ENODEV)?;
        let master = self.dev(bridge).ok_or(Errno::ENODEV)?;
        if !matches!(master.kind, DeviceKind::Bridge(_)) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let is_ether =
            dev.dev_type == arphrd::ETHER && dev.flags & iff::LOOPBACK == 0 && dev.dev_addr.is_valid();
        if !is_ether {
            return Err(Errno::EINVAL.into());
        }
        if matches!(dev.kind, DeviceKind::Bridge(_)) {
            return Err(Errno::ELOOP.with("Can not enslave a bridge to a bridge"));
        }
        if self.has_rx_handler(dev) {
            return Err(Errno::EBUSY.into());
        }
        if dev.lower() == Some(bridge) {
            return Err(Errno::ELOOP.into());
        }
        let taken: Vec<u16> =
            self.ports_of(bridge).filter_map(|dev| dev.port).map(|port| port.port_no).collect();
        let port_no = (1..MAX_PORTS).find(|number| !taken.contains(number)).ok_or(Errno(54))?;
        let dev = self.dev_mut(id).ok_or(Errno::ENODEV)?;
        dev.master = Some(bridge);
        dev.port = Some(BridgePort::new(port_no, &dev.kind));
        dev.promiscuity += 1;
        dev.allmulti += 1;
        let address = dev.dev_addr;
        self.fdb_local(bridge, address, Some(id));
        self.br_recalculate_address(bridge);
        self.br_mtu_auto_adjust(bridge);
        self.bridge_carrier(bridge);
        // A port has no life of its own in IPv6: its link-local address goes (`addrconf_notify`, NETDEV_CHANGEUPPER does not
        // touch it in fact; only the bridge's own state is announced).
        self.rtmsg_ifinfo(RTM_NEWLINK, bridge, 0);
        Ok(())
    }

    fn br_del_if(&mut self, id: DevId, bridge: DevId) {
        let Some(dev) = self.dev_mut(id) else { return };
        dev.master = None;
        dev.port = None;
        dev.promiscuity = dev.promiscuity.saturating_sub(1);
        dev.allmulti = dev.allmulti.saturating_sub(1);
        if let Some(DeviceKind::Bridge(bridge)) = self.dev_mut(bridge).map(|dev| &mut dev.kind) {
            bridge.fdb.retain(|_, entry| entry.dev != id);
        }
        self.br_recalculate_address(bridge);
        self.br_mtu_auto_adjust(bridge);
        self.bridge_carrier(bridge);
    }

    /// A bridge goes, and its ports stay: `br_dev_delete`.
    pub(super) fn release_slaves(&mut self, bridge: DevId) {
        let ports: Vec<DevId> = self.ports_of(bridge).map(|dev| dev.id).collect();
        for port in ports {
            self.br_del_if(port, bridge);
            self.rtmsg_ifinfo(RTM_NEWLINK, port, 0);
        }
    }

    /// The ports of a bridge.
    pub fn ports_of(&self, bridge: DevId) -> impl Iterator<Item = &NetDevice> {
        self.all_devices().filter(move |dev| dev.master == Some(bridge))
    }

    /// `br_stp_recalculate_bridge_id`: the bridge's address is the lowest of its ports', unless it has been set.
    fn br_recalculate_address(&mut self, bridge: DevId) {
        let lowest = self.ports_of(bridge).map(|dev| dev.dev_addr).min();
        let Some(dev) = self.dev_mut(bridge) else { return };
        let DeviceKind::Bridge(state) = &dev.kind else { return };
        if state.has_own_address {
            return;
        }
        let before = std::mem::replace(&mut dev.dev_addr, lowest.unwrap_or_default());
        if before != dev.dev_addr {
            let now = dev.dev_addr;
            self.fdb_forget_local(bridge, before);
            self.fdb_local(bridge, now, None);
        }
    }

    /// `br_mtu_auto_adjust`: the smallest of the ports'.
    pub(super) fn br_mtu_auto_adjust(&mut self, bridge: DevId) {
        let least = self.ports_of(bridge).map(|dev| dev.mtu).min().unwrap_or(1500);
        if let Some(dev) = self.dev_mut(bridge)
            && matches!(dev.kind, DeviceKind::Bridge(_))
        {
            dev.mtu = least;
        }
    }

    /// A device has another address: of a port, the bridge's may follow (`br_fdb_changeaddr`).
    pub(super) fn br_changed_address(&mut self, id: DevId, before: MacAddr) {
        let Some(dev) = self.dev(id) else { return };
        let (now, master) = (dev.dev_addr, dev.master);
        if matches!(dev.kind, DeviceKind::Bridge(_)) {
            self.fdb_forget_local(id, before);
            self.fdb_local(id, now, None);
        }
        if let Some(bridge) = master {
            self.fdb_forget_local(bridge, before);
            self.fdb_local(bridge, now, Some(id));
            self.br_recalculate_address(bridge);
        }
    }

    fn fdb_local(&mut self, bridge: DevId, address: MacAddr, port: Option<DevId>) {
        let now = self.now();
        if let Some(DeviceKind::Bridge(state)) = self.dev_mut(bridge).map(|dev| &mut dev.kind) {
            let dev = port.unwrap_or(bridge);
            let entry = FdbEntry { dev, is_static: true, is_local: true, updated: now, used: now };
            let known = state.fdb.entry(address).or_insert(entry);
            // An address of a port that is the bridge's too stays the port's.
            if port.is_some() || !known.is_local {
                *known = entry;
            }
        }
    }

    fn fdb_forget_local(&mut self, bridge: DevId, address: MacAddr) {
        let still = self.ports_of(bridge).find(|dev| dev.dev_addr == address).map(|dev| dev.id);
        if let Some(DeviceKind::Bridge(state)) = self.dev_mut(bridge).map(|dev| &mut dev.kind)
            && still.is_none()
            && state.fdb.get(&address).is_some_and(|entry| entry.is_local)
        {
            state.fdb.remove(&address);
        }
    }

    /// Adds a station by hand: `br_fdb_add`. `port` is a port, or the bridge itself.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT` by the mode of the message; `EINVAL`: neither bridge nor port.
    pub fn br_fdb_add(
        &mut self,
        port: DevId,
        address: MacAddr,
        entry: FdbEntry,
        create: bool,
        exclusive: bool,
    ) -> Result<()> {
        let bridge = self.bridge_of(port)?;
        let Some(DeviceKind::Bridge(state)) = self.dev_mut(bridge).map(|dev| &mut dev.kind) else {
            return Err(Errno::EINVAL);
        };
        match state.fdb.get(&address) {
            None if !create => return Err(Errno::ENOENT),
            Some(_) if exclusive => return Err(Errno::EEXIST),
            _ => {}
        }
        state.fdb.insert(address, entry);
        Ok(())
    }

    /// Removes a station: `br_fdb_delete`.
    ///
    /// # Errors
    /// `ENOENT`: it is not there, or at another port.
    pub fn br_fdb_delete(&mut self, port: DevId, address: MacAddr) -> Result<()> {
        let bridge = self.bridge_of(port)?;
        let Some(DeviceKind::Bridge(state)) = self.dev_mut(bridge).map(|dev| &mut dev.kind) else {
            return Err(Errno::EINVAL);
        };
        if state.fdb.get(&address).is_none_or(|entry| entry.dev != port) {
            return Err(Errno::ENOENT);
        }
        state.fdb.remove(&address);
        Ok(())
    }

    fn bridge_of(&self, port: DevId) -> Result<DevId> {
        let dev = self.dev(port).ok_or(Errno::ENODEV)?;
        if matches!(dev.kind, DeviceKind::Bridge(_)) { Ok(port) } else { dev.master.ok_or(Errno::EINVAL) }
    }
}
