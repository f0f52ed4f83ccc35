//! Devices with addresses of their own on the link of another, the *lower* device (`drivers/net/macvlan.c`).

use super::core::skbuff::{ETH_HLEN, PacketType, SkBuff};
use super::dev::{DevId, DeviceKind, MacAddr, MacvlanMode, NetDevice, arphrd, iff};
use super::stack::Stack;
use crate::errno::{Errno, Result};

/// `MACVLAN_MODE_*` by which a frame is spread.
type Modes = fn(MacvlanMode) -> bool;

fn address_at(frame: &[u8], at: usize) -> MacAddr {
    frame.get(at..at + 6).and_then(|bytes| bytes.try_into().ok()).map(MacAddr).unwrap_or_default()
}

fn mode_of(dev: &NetDevice) -> Option<MacvlanMode> {
    match dev.kind {
        DeviceKind::Macvlan { mode, .. } => Some(mode),
        _ => None,
    }
}

/// Whether frames to a group are wanted: `mc_filter`.
fn listens(dev: &NetDevice, to: MacAddr) -> bool {
    to == dev.broadcast || dev.flags & (iff::PROMISC | iff::ALLMULTI) != 0 || dev.groups.has_link(to)
}

impl Stack {
    /// The macvlans on a device.
    fn macvlans_of(&self, lower: DevId) -> impl Iterator<Item = &NetDevice> {
        self.all_devices().filter(move |dev| mode_of(dev).is_some() && dev.lower() == Some(lower))
    }

    /// Whether what a device receives goes to macvlans on it, or to a tap: `netdev_is_rx_handler_busy`.
    pub(super) fn has_rx_handler(&self, dev: &NetDevice) -> bool {
        matches!(dev.kind, DeviceKind::Macvlan { tap: Some(_), .. })
            || self.macvlans_of(dev.id).next().is_some()
    }

    /// Whether another macvlan of `mode` can be on `lower`: `macvlan_port_create`.
    ///
    /// # Errors
    /// `EINVAL`: no Ethernet, or one of them would not be alone that has to. `EBUSY`: a port of a bridge.
    pub(super) fn macvlan_may_join(&self, lower: &NetDevice, mode: MacvlanMode) -> Result<()> {
        if lower.dev_type != arphrd::ETHER || lower.flags & iff::LOOPBACK != 0 {
            return Err(Errno::EINVAL);
        }
        if lower.master.is_some() {
            return Err(Errno::EBUSY);
        }
        let alone = self.macvlans_of(lower.id).all(|dev| mode_of(dev) != Some(MacvlanMode::Passthru));
        if !alone || mode == MacvlanMode::Passthru && self.macvlans_of(lower.id).next().is_some() {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// The one that is up and has this address: `macvlan_hash_lookup`.
    fn macvlan_lookup(&self, lower: DevId, address: MacAddr) -> Option<&NetDevice> {
        self.macvlans_of(lower).find(|dev| dev.is_up() && dev.dev_addr == address)
    }

    fn is_busy_address(&self, lower: DevId, address: MacAddr) -> bool {
        self.dev(lower).is_some_and(|dev| dev.dev_addr == address)
            || self.macvlan_lookup(lower, address).is_some()
    }

    /// `macvlan_open`
    ///
    /// # Errors
    /// `EADDRINUSE`: the lower device, or another on it that is up, has its address.
    pub(super) fn macvlan_open(&mut self, id: DevId) -> Result<()> {
        let Some((lower, mode, address)) =
            self.dev(id).and_then(|dev| Some((dev.lower()?, mode_of(dev)?, dev.dev_addr)))
        else {
            return Ok(());
        };
        if mode == MacvlanMode::Passthru {
            self.set_promiscuity(lower, true);
        } else if self.is_busy_address(lower, address) {
            return Err(Errno::EADDRINUSE);
        }
        Ok(())
    }

    /// `macvlan_stop`
    pub(super) fn macvlan_stop(&mut self, id: DevId) {
        let Some(dev) = self.dev(id) else { return };
        if let (Some(MacvlanMode::Passthru), Some(lower)) = (mode_of(dev), dev.lower()) {
            self.set_promiscuity(lower, false);
        }
    }

    /// `dev_set_promiscuity`
    fn set_promiscuity(&mut self, id: DevId, more: bool) {
        let Some(dev) = self.dev_mut(id) else { return };
        dev.promiscuity = if more { dev.promiscuity + 1 } else { dev.promiscuity.saturating_sub(1) };
    }

    /// Whether a device may be given an address: `macvlan_sync_address`.
    ///
    /// # Errors
    /// `EADDRINUSE`
    pub(super) fn macvlan_may_have(&self, dev: &NetDevice, address: MacAddr) -> Result<()> {
        let (Some(mode), Some(lower)) = (mode_of(dev), dev.lower()) else { return Ok(()) };
        let taken = mode != MacvlanMode::Passthru
            && dev.is_up()
            && dev.dev_addr != address
            && self.is_busy_address(lower, address);
        if taken { Err(Errno::EADDRINUSE) } else { Ok(()) }
    }

    /// Who has the same address as a device, whatever it is: the one below, or the one on it, where that passes everything through.
    pub(super) fn passthru_pair(&self, id: DevId) -> Vec<DevId> {
        let passes = |dev: &&NetDevice| mode_of(dev) == Some(MacvlanMode::Passthru);
        let above = self.macvlans_of(id).filter(passes).map(|dev| dev.id);
        let below = self.dev(id).filter(passes).and_then(NetDevice::lower);
        above.chain(below).collect()
    }

    /// A frame has come in on a device: it may be for a macvlan on it (`macvlan_handle_frame`). Gives back what the device itself is
    /// to look at.
    pub(super) fn macvlan_handle_frame(&mut self, mut skb: SkBuff) -> Option<SkBuff> {
        let lower = skb.dev;
        if skb.mac_len < ETH_HLEN || self.macvlans_of(lower).next().is_none() {
            return Some(skb);
        }
        let (to, from) = (address_at(skb.mac_header(), 0), address_at(skb.mac_header(), 6));
        if to.is_multicast() {
            let source = self.macvlan_lookup(lower, from).and_then(|dev| Some((dev.id, mode_of(dev)?)));
            match source {
                // From outside: to all.
                None => self.macvlan_broadcast(&skb, lower, None, |_| true),
                // Sent back by the switch. Those of its bridge have had it when it went out.
                Some((source, MacvlanMode::Vepa)) => {
                    let others: Modes = |mode| matches!(mode, MacvlanMode::Vepa | MacvlanMode::Bridge);
                    self.macvlan_broadcast(&skb, lower, Some(source), others);
                }
                Some((source, MacvlanMode::Bridge)) => {
                    self.macvlan_broadcast(&skb, lower, Some(source), |mode| mode == MacvlanMode::Vepa);
                }
                Some((source, _)) => {
                    self.forward_to(source, skb);
                    return None;
                }
            }
            return Some(skb);
        }
        let passes = |dev: &&NetDevice| mode_of(dev) == Some(MacvlanMode::Passthru);
        let wanted = match self.macvlans_of(lower).find(passes) {
            Some(dev) => Some(dev.id),
            None => self.macvlan_lookup(lower, to).map(|dev| dev.id),
        };
        match wanted {
            Some(wanted) => {
                skb.mac_len = 0;
                self.forward_to(wanted, skb);
                None
            }
            None => Some(skb),
        }
    }

    /// To those of some modes on a device that listen: `macvlan_broadcast`.
    fn macvlan_broadcast(&mut self, skb: &SkBuff, lower: DevId, source: Option<DevId>, modes: Modes) {
        let to = address_at(skb.data(), 0);
        let wanted = |dev: &&NetDevice| {
            Some(dev.id) != source && dev.is_up() && mode_of(dev).is_some_and(modes) && listens(dev, to)
        };
        let all: Vec<DevId> = self.macvlans_of(lower).filter(wanted).map(|dev| dev.id).collect();
        for dev in all {
            self.forward_to(dev, skb.clone());
        }
    }

    /// A frame, whose link-layer header is in front, comes in on `dev`.
    fn forward_to(&mut self, dev: DevId, mut skb: SkBuff) {
        skb.mac_len = 0;
        skb.dev = dev;
        self.netif_rx(skb);
    }

    /// A macvlan sends: `macvlan_queue_xmit`.
    pub(super) fn macvlan_queue_xmit(&mut self, id: DevId, lower: DevId, mode: MacvlanMode, mut skb: SkBuff) {
        if mode == MacvlanMode::Bridge {
            let is_bridge: Modes = |mode| mode == MacvlanMode::Bridge;
            let to = address_at(skb.data(), 0);
            if to.is_multicast() {
                self.macvlan_broadcast(&skb, lower, Some(id), is_bridge);
            } else if let Some(dev) = self.macvlan_lookup(lower, to)
                && mode_of(dev).is_some_and(is_bridge)
            {
                let dev = dev.id;
                // Those who watch the lower device see it.
                skb.dev = lower;
                skb.mac_len = ETH_HLEN;
                skb.pkt_type = PacketType::OtherHost;
                self.deliver_to_taps(&skb);
                self.forward_to(dev, skb);
                return;
            }
        }
        skb.dev = lower;
        self.dev_queue_xmit(skb);
    }
}
