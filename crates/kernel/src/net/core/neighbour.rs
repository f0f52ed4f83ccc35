//! The state machine of neighbours (`net/core/neighbour.c`): resolving, confirming and giving up, for ARP and ND alike.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use super::super::dev::{DevId, MacAddr};
use super::super::neighbour::{Neighbour, nud};
use super::super::stack::Stack;
use super::skbuff::SkBuff;
use super::softirq::{Out, Timer};

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;
/// `base_reachable_time`, which Linux varies between half of it and one and a half.
const REACHABLE_TIME: u64 = 30 * SECOND;
/// `delay_first_probe_time`
const DELAY_PROBE_TIME: u64 = 5 * SECOND;
/// `retrans_time`
const RETRANS_TIME: u64 = SECOND;
/// `mcast_solicit` and `ucast_solicit`: how often is asked before giving up.
const SOLICIT: u32 = 3;
/// Packets that wait for one neighbour (`unres_qlen_bytes` is some hundred of full size).
const UNRES_QLEN: usize = 101;
/// Neighbours of one namespace (`gc_thresh3`).
const GC_THRESH3: usize = 1024;

/// What the machine knows of a neighbour beyond what is shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct NeighEntry {
    /// Packets that wait for its address.
    queue: VecDeque<SkBuff>,
    /// How often it has been asked since it answered.
    probes: u32,
    /// When its timer is due.
    timer: u64,
    /// When it was last used, in nanoseconds of the monotonic clock.
    used: u64,
}

/// By device and address.
pub(crate) type NeighState = BTreeMap<(DevId, IpAddr), NeighEntry>;

impl Stack {
    /// Sends `skb`, which begins with its network header, to a neighbour on its device: `neigh_output`.
    pub(crate) fn neigh_output(&mut self, skb: SkBuff, to: IpAddr) {
        let (dev, now) = (skb.dev, self.now());
        let Some(device) = self.dev(dev) else { return };
        if device.is_noarp() {
            let to = if device.has_ethernet_header() { device.dev_addr } else { MacAddr::default() };
            return self.xmit_to(skb, to);
        }
        let net = device.net;
        let key = (dev, to);
        let entry = self.neigh.entry(key).or_default();
        entry.used = now;
        let known = self.net(net).and_then(|net| net.neighbours.entries.get(&key)).cloned();
        match known {
            Some(Neighbour { lladdr: Some(lladdr), nud_state, .. })
                if nud_state & (nud::FAILED | nud::INCOMPLETE) == 0 =>
            {
                if nud_state == nud::STALE {
                    self.set_nud(key, None, nud::DELAY);
                    self.neigh_add_timer(key, now + DELAY_PROBE_TIME);
                }
                self.xmit_to(skb, lladdr);
            }
            Some(Neighbour { nud_state: nud::INCOMPLETE, .. }) => self.neigh_wait(key, skb),
            _ => {
                if known.is_none() && !self.neigh_make_room(net) {
                    return;
                }
                self.set_nud(key, None, nud::INCOMPLETE);
                if let Some(entry) = self.neigh.get_mut(&key) {
                    entry.probes = 0;
                }
                self.neigh_wait(key, skb);
                self.neigh_probe(key);
                self.neigh_add_timer(key, now + RETRANS_TIME);
            }
        }
    }

    /// Room for another neighbour: `neigh_forced_gc`.
    fn neigh_make_room(&mut self, net: u64) -> bool {
        let Some(net) = self.net_mut(net) else { return false };
        if net.neighbours.entries.len() < GC_THRESH3 {
            return true;
        }
        let unneeded = |(key, known): (&(DevId, IpAddr), &Neighbour)| {
            (known.nud_state & (nud::STALE | nud::FAILED) != 0).then_some(*key)
        };
        let gone: Vec<_> = net.neighbours.entries.iter().filter_map(unneeded).take(64).collect();
        for key in &gone {
            net.neighbours.entries.remove(key);
        }
        let room = net.neighbours.entries.len() < GC_THRESH3;
        for key in gone {
            self.neigh.remove(&key);
        }
        room
    }

    fn neigh_wait(&mut self, key: (DevId, IpAddr), skb: SkBuff) {
        let Some(entry) = self.neigh.get_mut(&key) else { return };
        if entry.queue.len() >= UNRES_QLEN {
            // The oldest goes (`__neigh_event_send`).
            entry.queue.pop_front();
        }
        entry.queue.push_back(skb);
    }

    fn neigh_add_timer(&mut self, key: (DevId, IpAddr), at: u64) {
        let Some(entry) = self.neigh.get_mut(&key) else { return };
        entry.timer = at;
        self.add_timer(at, Timer::Neighbour(key.0, key.1));
    }

    fn set_nud(&mut self, key: (DevId, IpAddr), lladdr: Option<MacAddr>, state: u16) {
        let now = self.now();
        let Some(net) = self.net_of_dev(key.0).and_then(|net| self.net_mut(net)) else { return };
        let known = net.neighbours.entries.entry(key).or_insert(Neighbour {
            lladdr: None,
            nud_state: state,
            updated: now,
        });
        known.nud_state = state;
        known.updated = now;
        if lladdr.is_some() {
            known.lladdr = lladdr;
        }
        self.hand_out(Out::Changed(key.0));
    }

    fn nud_of(&self, key: (DevId, IpAddr)) -> Option<&Neighbour> {
        self.net(self.net_of_dev(key.0)?)?.neighbours.entries.get(&key)
    }

    /// Asks a neighbour: `neigh_probe`. Whose address is known is asked directly.
    fn neigh_probe(&mut self, key: (DevId, IpAddr)) {
        let Some(entry) = self.neigh.get_mut(&key) else { return };
        entry.probes += 1;
        let waiting = entry.queue.front().cloned();
        let known = self.nud_of(key).filter(|known| known.nud_state & nud::PROBE != 0);
        let lladdr = known.and_then(|known| known.lladdr);
        match key.1 {
            IpAddr::V4(target) => self.arp_solicit(key.0, target, lladdr, waiting.as_ref()),
            IpAddr::V6(target) => self.ndisc_solicit(key.0, target, lladdr, waiting.as_ref()),
        }
    }

    /// `neigh_timer_handler`
    pub(super) fn neigh_timer(&mut self, dev: DevId, address: IpAddr) {
        let (key, now) = ((dev, address), self.now());
        let Some(entry) = self.neigh.get(&key) else { return };
        if entry.timer > now {
            return;
        }
        let (used, probes) = (entry.used, entry.probes);
        let Some(known) = self.nud_of(key).cloned() else {
            self.neigh.remove(&key);
            return;
        };
        match known.nud_state {
            nud::REACHABLE if known.updated + REACHABLE_TIME > now => {
                self.neigh_add_timer(key, known.updated + REACHABLE_TIME);
            }
            nud::REACHABLE if used + DELAY_PROBE_TIME > now => {
                self.set_nud(key, None, nud::DELAY);
                self.neigh_add_timer(key, now + DELAY_PROBE_TIME);
            }
            nud::REACHABLE => self.set_nud(key, None, nud::STALE),
            nud::DELAY => {
                self.set_nud(key, None, nud::PROBE);
                if let Some(entry) = self.neigh.get_mut(&key) {
                    entry.probes = 0;
                }
                self.neigh_probe(key);
                self.neigh_add_timer(key, now + RETRANS_TIME);
            }
            nud::INCOMPLETE | nud::PROBE if probes < SOLICIT => {
                self.neigh_probe(key);
                self.neigh_add_timer(key, now + RETRANS_TIME);
            }
            nud::INCOMPLETE | nud::PROBE => {
                self.set_nud(key, None, nud::FAILED);
                let waiting = self.neigh.get_mut(&key).map(|entry| std::mem::take(&mut entry.queue));
                for skb in waiting.into_iter().flatten() {
                    self.neigh_error_report(skb);
                }
            }
            _ => {}
        }
    }

    /// The sender of a packet that nobody takes is told: `arp_error_report`, `ndisc_error_report`.
    fn neigh_error_report(&mut self, skb: SkBuff) {
        match skb.protocol {
            super::skbuff::eth_p::IP => self.ipv4_link_failure(skb),
            super::skbuff::eth_p::IPV6 => self.ipv6_link_failure(skb),
            _ => {}
        }
    }

    /// Something was heard of a neighbour: `neigh_update`. Unless `create`, only of one that is known. `confirmed`: it has answered
    /// a question of ours; otherwise it has only shown its address. Unless `overrides`, an address that is known stays.
    pub(crate) fn neigh_update(
        &mut self,
        dev: DevId,
        address: IpAddr,
        lladdr: MacAddr,
        confirmed: bool,
        overrides: bool,
        create: bool,
    ) {
        let (key, now) = ((dev, address), self.now());
        let known = self.nud_of(key).cloned();
        let Some(net) = self.net_of_dev(dev) else { return };
        match &known {
            None if !create || !self.neigh_make_room(net) => return,
            Some(known) if known.nud_state & (nud::PERMANENT | nud::NOARP) != 0 => return,
            _ => {}
        }
        let was_valid = known.as_ref().is_some_and(|known| {
            known.lladdr.is_some() && known.nud_state & (nud::INCOMPLETE | nud::FAILED) == 0
        });
        let same = known.as_ref().is_some_and(|known| known.lladdr == Some(lladdr));
        if was_valid && !same && !overrides {
            return;
        }
        let state = match (&known, confirmed) {
            (_, true) => nud::REACHABLE,
            // What is confirmed stays so when it is seen again.
            (Some(known), false) if same && was_valid => known.nud_state,
            (_, false) => nud::STALE,
        };
        self.neigh.entry(key).or_default();
        if !(same && was_valid && !confirmed) {
            self.set_nud(key, Some(lladdr), state);
        }
        if state == nud::REACHABLE {
            self.neigh_add_timer(key, now + REACHABLE_TIME);
        }
        let Some(entry) = self.neigh.get_mut(&key) else { return };
        entry.probes = 0;
        for skb in std::mem::take(&mut entry.queue) {
            self.xmit_to(skb, lladdr);
        }
    }

    /// Forgets the neighbours on a device that goes down or away: `neigh_ifdown`. Permanent ones stay while it is there.
    pub(crate) fn neigh_ifdown(&mut self, dev: DevId, gone: bool) {
        self.neigh.retain(|key, _| key.0 != dev);
        if let Some(net) = self.net_of_dev(dev).and_then(|net| self.net_mut(net)) {
            let stays = |known: &Neighbour| !gone && known.nud_state & nud::PERMANENT != 0;
            net.neighbours.entries.retain(|key, known| key.0 != dev || stays(known));
        }
    }
}
