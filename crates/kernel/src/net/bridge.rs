//! Bridges (`net/bridge`, `bridge(8)`): frames go from port to port by what has been learned of who is where.
//!
//! There is no spanning tree (`stp_state` 0, the default), so ports forward as soon as they are up.

use super::core::skbuff::{ETH_HLEN, SkBuff};
use super::dev::{Bridge, DevId, DeviceKind, FdbEntry, MacAddr, NetDevice, iff};
use super::stack::Stack;

/// Stations a bridge remembers; while there are as many, no more.
const MAX_FDB: usize = 4096;
/// Nanoseconds in a hundredth of a second.
const CENTISECOND: u64 = 10_000_000;

impl Bridge {
    fn is_fresh(&self, entry: &FdbEntry, now: u64) -> bool {
        entry.is_static || entry.is_local || entry.updated + u64::from(self.ageing_time) * CENTISECOND > now
    }

    /// `br_fdb_update`: `station` has been seen on `port`.
    fn learn(&mut self, station: MacAddr, port: DevId, now: u64) {
        if self.fdb.len() >= MAX_FDB && !self.fdb.contains_key(&station) {
            let stale: Vec<_> = self
                .fdb
                .iter()
                .filter(|(_, entry)| !self.is_fresh(entry, now))
                .map(|(key, _)| *key)
                .collect();
            for station in stale {
                self.fdb.remove(&station);
            }
            if self.fdb.len() >= MAX_FDB {
                return;
            }
        }
        let new = FdbEntry { dev: port, is_static: false, is_local: false, updated: now, used: now };
        let entry = self.fdb.entry(station).or_insert(new);
        if !entry.is_static && !entry.is_local {
            entry.dev = port;
            entry.updated = now;
        }
    }

    /// `br_fdb_find_rcu`: where `station` is.
    fn find(&mut self, station: MacAddr, now: u64) -> Option<FdbEntry> {
        let mut entry = *self.fdb.get(&station)?;
        if !self.is_fresh(&entry, now) {
            return None;
        }
        entry.used = now;
        self.fdb.insert(station, entry);
        Some(entry)
    }
}

fn destination(frame: &[u8]) -> MacAddr {
    MacAddr(frame[..6].try_into().unwrap_or_default())
}

fn source(frame: &[u8]) -> MacAddr {
    MacAddr(frame[6..12].try_into().unwrap_or_default())
}

/// 01-80-C2-00-00-0X: for the next bridge only, never forwarded.
fn is_link_local(address: MacAddr) -> bool {
    address.0[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && address.0[5] & 0xf0 == 0
}

impl Stack {
    /// A frame has come in on a port of `bridge`: `br_handle_frame`. Its link-layer header is in front.
    pub(super) fn br_handle_frame(&mut self, bridge: DevId, skb: SkBuff) {
        let frame = skb.data();
        if frame.len() < ETH_HLEN || source(frame).0[0] & 1 != 0 {
            return;
        }
        let (from, to) = (source(frame), destination(frame));
        if is_link_local(to) || !self.dev(bridge).is_some_and(NetDevice::is_up) {
            return;
        }
        let (now, port) = (self.now(), skb.dev);
        let learning = self.dev(port).and_then(|dev| dev.port).is_none_or(|port| port.learning);
        let Some(learned) = self.bridge_mut(bridge) else { return };
        if learning {
            learned.learn(from, port, now);
        }
        let found = learned.find(to, now);
        let own = self.is_own_address(bridge, to);
        if to.is_multicast() {
            self.br_flood(bridge, Some(port), &skb);
            self.br_pass_frame_up(bridge, skb);
        } else if own || found.is_some_and(|entry| entry.is_local) {
            self.br_pass_frame_up(bridge, skb);
        } else {
            match found {
                Some(entry) => self.br_forward(Some(port), entry.dev, skb.clone()),
                None => self.br_flood(bridge, Some(port), &skb),
            }
            if self.dev(bridge).is_some_and(|dev| dev.flags & iff::PROMISC != 0) {
                self.br_pass_frame_up(bridge, skb);
            }
        }
    }

    fn bridge_mut(&mut self, bridge: DevId) -> Option<&mut Bridge> {
        match &mut self.dev_mut(bridge)?.kind {
            DeviceKind::Bridge(learned) => Some(learned),
            _ => None,
        }
    }

    /// The bridge's address and those of its ports (`br_fdb_add_local`).
    fn is_own_address(&self, bridge: DevId, address: MacAddr) -> bool {
        let of = |dev: &NetDevice| dev.id == bridge || dev.master == Some(bridge);
        self.all_devices().any(|dev| of(dev) && dev.dev_addr == address)
    }

    /// The bridge itself sends: `br_dev_xmit`.
    pub(super) fn br_dev_xmit(&mut self, bridge: DevId, skb: SkBuff) {
        let (to, now) = (destination(skb.data()), self.now());
        let found =
            self.bridge_mut(bridge).filter(|_| !to.is_multicast()).and_then(|learned| learned.find(to, now));
        match found {
            Some(entry) => self.br_forward(None, entry.dev, skb),
            None => self.br_flood(bridge, None, &skb),
        }
    }

    /// To all ports but the one it came from: `br_flood`.
    fn br_flood(&mut self, bridge: DevId, from: Option<DevId>, skb: &SkBuff) {
        let to = destination(skb.data());
        let floods = |dev: &&NetDevice| {
            dev.port.is_none_or(|port| match to {
                MacAddr::BROADCAST => port.bcast_flood,
                to if to.is_multicast() => port.mcast_flood,
                _ => port.flood,
            })
        };
        let is_port = |dev: &&NetDevice| dev.master == Some(bridge) && dev.is_up();
        let ports: Vec<DevId> = self.all_devices().filter(is_port).filter(floods).map(|dev| dev.id).collect();
        for port in ports {
            self.br_forward(from, port, skb.clone());
        }
    }

    /// By one port: `__br_forward`.
    fn br_forward(&mut self, from: Option<DevId>, port: DevId, mut skb: SkBuff) {
        // A tag is not part of what the MTU limits (`is_skb_forwardable`).
        const VLAN_HLEN: usize = 4;
        let Some(dev) = self.dev(port) else { return };
        let isolated = |dev: &NetDevice| dev.port.is_some_and(|port| port.isolated);
        let hairpin = dev.port.is_some_and(|port| port.hairpin);
        if from == Some(port) && !hairpin
            || isolated(dev) && from.and_then(|from| self.dev(from)).is_some_and(isolated)
        {
            return;
        }
        if !dev.is_up() || skb.len() > dev.mtu as usize + ETH_HLEN + VLAN_HLEN {
            return;
        }
        skb.mac_len = 0;
        skb.dev = port;
        self.dev_queue_xmit(skb);
    }

    /// To the bridge as a device of ours: `br_pass_frame_up`.
    fn br_pass_frame_up(&mut self, bridge: DevId, mut skb: SkBuff) {
        skb.mac_len = 0;
        skb.dev = bridge;
        self.netif_rx(skb);
    }
}
