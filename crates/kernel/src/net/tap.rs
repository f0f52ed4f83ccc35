//! The node of a macvtap (`drivers/net/tap.c`, `drivers/net/macvtap.c`): a program is the station that the device is on the link.
//!
//! A *queue* is an open file of `/dev/tapN`, N being the device's index. What the device receives goes to a queue, as long as there is
//! one; what a program writes is sent by the device. Whoever keeps the descriptors gives each file a number and hands in what
//! programs write ([`Stack::tap_get_user`]); what they are to read comes out as [`Out::Tap`].

use std::collections::BTreeMap;

use super::core::offload::{self, VnetHeader};
use super::core::skbuff::{ETH_HLEN, SkBuff};
use super::core::softirq::Out;
use super::dev::{DevId, DeviceKind, MacAddr, NetDevice};
use super::stack::Stack;
use super::tun::{flow_hash, tun_flags as flags};
use crate::errno::{Errno, Result};

/// Queues of one device: `MAX_TAP_QUEUES`.
const MAX_QUEUES: usize = 256;
/// `TAP_IFFEATURES`: what `TUNSETIFF` changes.
const IFFEATURES: u16 = flags::VNET_HDR | flags::MULTI_QUEUE;
/// What `TUNGETFEATURES` tells.
pub const FEATURES: u16 = flags::TAP | flags::NO_PI | IFFEATURES;
/// `TUN_F_CSUM` … `TUN_F_USO6`: the offloads that there are.
const TUN_F_ALL: u32 = 0x7f;

/// An open file of `/dev/tapN`: `struct tap_queue`.
#[derive(Clone, Debug)]
pub struct TapQueue {
    /// The device; `None` once that is gone.
    pub dev: Option<DevId>,
    /// Out of use: `TUNSETQUEUE` with `IFF_DETACH_QUEUE`.
    pub disabled: bool,
    /// `IFF_TAP`, `IFF_NO_PI`, and what `TUNSETIFF` has set.
    pub flags: u16,
    /// Bytes of the header in front of each frame: `TUNSETVNETHDRSZ`.
    pub vnet_hdr_sz: usize,
    /// `TUNSETVNETLE`: without effect where the host's order is this one.
    pub vnet_le: bool,
}

/// Tells that the node of a tap is to be there or not: its number N and minor.
pub type NodeHook = Box<dyn Fn(u32, u32, bool) + Send>;

/// All files, and the devices that have a node.
#[derive(Default)]
pub struct Taps {
    files: BTreeMap<u64, TapQueue>,
    /// Files in use of each device, in order.
    queues: BTreeMap<DevId, Vec<u64>>,
    /// `minor_idr`
    minors: BTreeMap<u32, DevId>,
    /// Called under the lock.
    on_node: Option<NodeHook>,
}

impl Stack {
    /// Lets `hook` be called whenever a node appears or goes. It must not take the stack.
    pub fn set_tap_node_hook(&mut self, hook: NodeHook) {
        self.taps.on_node = Some(hook);
    }

    fn tap_node(&self, id: DevId, minor: u32, there: bool) {
        if let (Some(hook), Some(dev)) = (&self.taps.on_node, self.dev(id)) {
            hook(dev.ifindex, minor, there);
        }
    }

    /// A device has come to a namespace: if it is a macvtap, it gets a number and its node (`macvtap_device_event`).
    pub(super) fn tap_register(&mut self, id: DevId) {
        if !matches!(self.dev(id).map(|dev| &dev.kind), Some(DeviceKind::Macvlan { tap: Some(_), .. })) {
            return;
        }
        // There are fewer devices than numbers.
        let free = (1..).find(|minor| !self.taps.minors.contains_key(minor)).unwrap_or_default();
        if let Some(DeviceKind::Macvlan { tap, .. }) = self.dev_mut(id).map(|dev| &mut dev.kind) {
            *tap = Some(free);
        }
        self.taps.minors.insert(free, id);
        self.tap_node(id, free, true);
    }

    /// A device leaves its namespace, and its node goes.
    pub(super) fn tap_unregister(&mut self, id: DevId) {
        if let Some(DeviceKind::Macvlan { tap: Some(minor), .. }) = self.dev(id).map(|dev| dev.kind.clone()) {
            self.taps.minors.remove(&minor);
            self.tap_node(id, minor, false);
        }
    }

    /// A device is gone: its files are left without one (`tap_del_queues`).
    pub(super) fn tap_del_queues(&mut self, dev: DevId) {
        self.taps.queues.remove(&dev);
        for file in self.taps.files.values_mut().filter(|file| file.dev == Some(dev)) {
            file.dev = None;
        }
    }

    /// `tap_open`, of the node with number `minor`.
    ///
    /// # Errors
    /// `ENODEV`: there is no such device. `EBUSY`: it has too many queues.
    pub fn tap_open(&mut self, file: u64, minor: u32) -> Result<()> {
        let dev = *self.taps.minors.get(&minor).ok_or(Errno::ENODEV)?;
        if self.taps.files.values().filter(|file| file.dev == Some(dev)).count() >= MAX_QUEUES {
            return Err(Errno::EBUSY);
        }
        let queue = TapQueue {
            dev: Some(dev),
            disabled: false,
            flags: flags::VNET_HDR | flags::NO_PI | flags::TAP,
            vnet_hdr_sz: VnetHeader::LEN,
            vnet_le: false,
        };
        self.taps.files.insert(file, queue);
        self.taps.queues.entry(dev).or_default().push(file);
        Ok(())
    }

    /// A file is closed for good: `tap_release`. The device stays.
    pub fn tap_release(&mut self, file: u64) {
        let Some(own) = self.taps.files.remove(&file) else { return };
        if let Some(queues) = own.dev.and_then(|dev| self.taps.queues.get_mut(&dev)) {
            queues.retain(|queue| *queue != file);
        }
    }

    /// An open file; `None`: it is not one of `/dev/tapN`.
    pub fn tap_file(&mut self, file: u64) -> Option<&mut TapQueue> {
        self.taps.files.get_mut(&file)
    }

    /// The device of a file: `tap_get_tap_dev`.
    ///
    /// # Errors
    /// `ENOLINK`: it is gone.
    pub fn tap_dev(&self, file: u64) -> Result<&NetDevice> {
        let dev = self.taps.files.get(&file).and_then(|own| own.dev);
        dev.and_then(|dev| self.dev(dev)).ok_or(Errno::ENOLINK)
    }

    /// `TUNSETIFF`: which headers there are. The name means nothing.
    ///
    /// # Errors
    /// `EINVAL`: other flags than `IFF_TAP`, `IFF_NO_PI` and what may be added, or not both of these.
    pub fn tap_set_iff(&mut self, file: u64, wanted: u16) -> Result<()> {
        let own = self.taps.files.get_mut(&file).ok_or(Errno::EBADFD)?;
        if wanted & !IFFEATURES != flags::NO_PI | flags::TAP {
            return Err(Errno::EINVAL);
        }
        own.flags = wanted;
        Ok(())
    }

    /// `TUNSETQUEUE`
    ///
    /// # Errors
    /// `EINVAL`: neither attaching nor detaching, or it is so already, or the device is gone.
    pub fn tap_set_queue(&mut self, file: u64, wanted: u16) -> Result<()> {
        let own = self.taps.files.get_mut(&file).ok_or(Errno::EINVAL)?;
        let dev = own.dev.ok_or(Errno::EINVAL)?;
        let queues = self.taps.queues.entry(dev).or_default();
        if wanted & flags::ATTACH_QUEUE != 0 && own.disabled {
            own.disabled = false;
            queues.push(file);
        } else if wanted & (flags::ATTACH_QUEUE | flags::DETACH_QUEUE) == flags::DETACH_QUEUE && !own.disabled
        {
            own.disabled = true;
            queues.retain(|queue| *queue != file);
        } else {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// `TUNSETOFFLOAD`: what the program can take. Frames come to it finished all the same.
    ///
    /// # Errors
    /// `EINVAL`: an offload that is not known. `ENOLINK`.
    pub fn tap_set_offload(&self, file: u64, offload: u32) -> Result<()> {
        if offload & !TUN_F_ALL != 0 {
            return Err(Errno::EINVAL);
        }
        self.tap_dev(file).map(drop)
    }

    /// `SIOCSIFHWADDR`
    ///
    /// # Errors
    /// `ENOLINK`, and those of [`Stack::dev_set_mac_address`].
    pub fn tap_set_address(&mut self, file: u64, address: MacAddr) -> Result<()> {
        let dev = self.tap_dev(file)?.id;
        self.dev_set_mac_address(dev, address)
    }

    /// A program has written `bytes`: the device sends a frame (`tap_get_user`). Without a device, and where it is down, nothing
    /// becomes of it.
    ///
    /// # Errors
    /// `EINVAL`: too short for its headers, or they make no sense.
    pub fn tap_get_user(&mut self, file: u64, bytes: &[u8]) -> Result<()> {
        let own = self.taps.files.get(&file).ok_or(Errno::EBADFD)?;
        let (dev, has_header, header_size) = (own.dev, own.flags & flags::VNET_HDR != 0, own.vnet_hdr_sz);
        let parse = || {
            let (mut vnet, mut frame) = (VnetHeader::default(), bytes);
            if has_header {
                frame = bytes.get(header_size..)?;
                vnet = VnetHeader::parse(bytes, false)?;
            }
            if frame.len() < ETH_HLEN {
                return None;
            }
            offload::complete(frame.to_vec(), vnet, true)
        };
        let Some(frames) = parse() else {
            if let Some(dev) = dev.and_then(|dev| self.dev_mut(dev)) {
                dev.stats.tx_dropped += 1;
            }
            return Err(Errno::EINVAL);
        };
        if let Some(dev) = dev {
            for frame in frames {
                self.dev_queue_xmit(SkBuff::new(dev, 0, &frame));
            }
        }
        Ok(())
    }

    /// A frame has come in on a device: a macvtap's goes to a program that has the node open (`tap_handle_frame`). Gives back what
    /// does not.
    pub(super) fn tap_handle_frame(&mut self, mut skb: SkBuff) -> Option<SkBuff> {
        let dev = skb.dev;
        let queues = match self.taps.queues.get(&dev) {
            Some(queues) if !queues.is_empty() => queues,
            _ => return Some(skb),
        };
        // The same queue for all packets of a flow.
        let queue = queues[flow_hash(&skb, true) as usize % queues.len()];
        skb.mac_len = 0;
        self.hand_out(Out::Tap { dev, queue, skb });
        None
    }

    /// What goes in front of a frame that a program reads: `tap_put_user`.
    pub fn tap_headers(&self, file: u64) -> Vec<u8> {
        let size = match self.taps.files.get(&file) {
            Some(own) if own.flags & flags::VNET_HDR != 0 => own.vnet_hdr_sz,
            _ => 0,
        };
        vec![0; size]
    }

    /// There was no room for a frame that was handed out: `count_rx_dropped`.
    pub fn tap_dropped(&mut self, dev: DevId) {
        if let Some(dev) = self.dev_mut(dev) {
            dev.stats.rx_errors += 1;
            dev.stats.rx_dropped += 1;
        }
    }
}

impl std::fmt::Debug for Taps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taps").field("files", &self.files).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::dev::{MacvlanMode, iff};
    use super::*;

    const OTHERS: [u8; 6] = [2, 0, 0, 0, 0, 9];

    /// A dummy, and on it a macvtap of minor number 1 and a macvlan, both up, in one mode.
    fn stack(mode: MacvlanMode) -> (Stack, DevId, DevId, DevId) {
        let mut stack = Stack::default();
        stack.setup_net(1);
        let lower = stack.register_netdevice(1, NetDevice::dummy("d0")).unwrap();
        let on = |stack: &Stack, tap| NetDevice::macvlan("m%d", stack.dev(lower).unwrap(), mode, tap);
        let (tap, plain) = (on(&stack, true), on(&stack, false));
        let (tap, plain) =
            (stack.register_netdevice(1, tap).unwrap(), stack.register_netdevice(1, plain).unwrap());
        for dev in [lower, tap, plain] {
            stack.dev_change_flags(dev, iff::UP, iff::UP).unwrap();
        }
        while stack.net_rx_action(0) {}
        while stack.next_out().is_some() {}
        (stack, lower, tap, plain)
    }

    fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        [&to[..], &from, &[0x88, 0xb5], &[0; 46]].concat()
    }

    fn taken(stack: &mut Stack) -> Vec<(u64, Vec<u8>)> {
        while stack.net_rx_action(0) {}
        let frames = |out| match out {
            Out::Tap { queue, skb, .. } => Some((queue, skb.data().to_vec())),
            _ => None,
        };
        std::iter::from_fn(|| stack.next_out()).filter_map(frames).collect()
    }

    #[test]
    fn what_comes_in_for_the_device_goes_to_the_program_as_long_as_there_is_one() {
        let (mut stack, lower, tap, plain) = stack(MacvlanMode::Vepa);
        let own = stack.dev(tap).unwrap().dev_addr.0;
        let (to_it, to_all) = (frame(own, OTHERS), frame([0xff; 6], OTHERS));
        assert_eq!(stack.tap_open(5, 2), Err(Errno::ENODEV));
        stack.tap_open(5, 1).unwrap();
        for frame in [&to_it, &to_all, &frame(OTHERS, OTHERS)] {
            stack.netif_rx(SkBuff::new(lower, 0, frame));
        }
        assert_eq!(taken(&mut stack), [(5, to_it.clone()), (5, to_all)]);
        // The macvlan has had the broadcast only.
        assert_eq!(stack.dev(plain).unwrap().stats.rx_packets, 1);
        stack.tap_release(5);
        stack.netif_rx(SkBuff::new(lower, 0, &to_it));
        assert_eq!(taken(&mut stack), []);
        assert_eq!(stack.dev(tap).unwrap().stats.rx_packets, 3);
    }

    #[test]
    fn what_a_program_writes_leaves_by_the_lower_device_or_reaches_a_sibling() {
        for (mode, reaches) in [(MacvlanMode::Bridge, 1), (MacvlanMode::Vepa, 0), (MacvlanMode::Private, 0)] {
            let (mut stack, lower, tap, plain) = stack(mode);
            let sent = stack.dev(lower).unwrap().stats.tx_packets;
            let (own, other) = (stack.dev(tap).unwrap().dev_addr.0, stack.dev(plain).unwrap().dev_addr.0);
            stack.tap_open(5, 1).unwrap();
            stack.tap_get_user(5, &[&[0; 10][..], &frame(other, own)].concat()).unwrap();
            assert_eq!(taken(&mut stack), []);
            assert_eq!(stack.dev(plain).unwrap().stats.rx_packets, reaches, "{mode:?}");
            assert_eq!(stack.dev(lower).unwrap().stats.tx_packets - sent, 1 - reaches, "{mode:?}");
        }
    }

    #[test]
    fn frames_of_any_length_and_header_are_taken_or_refused() {
        let (mut stack, ..) = stack(MacvlanMode::Bridge);
        stack.tap_open(5, 1).unwrap();
        for size in [10, 12, 60000] {
            stack.tap_file(5).unwrap().vnet_hdr_sz = size;
            for len in (0..120).chain([size, size + 13, size + 14, 65535]) {
                for byte in [0, 1, 0xff] {
                    let result = stack.tap_get_user(5, &vec![byte; len]);
                    assert!(result.is_err() || len >= size + ETH_HLEN);
                    while stack.net_rx_action(0) {}
                }
            }
        }
    }

    #[test]
    fn files_outlive_the_device_and_numbers_are_used_again() {
        let (mut stack, lower, ..) = stack(MacvlanMode::Bridge);
        stack.tap_open(5, 1).unwrap();
        stack.unregister_netdevice(lower);
        assert_eq!(stack.tap_dev(5).map(|dev| dev.id), Err(Errno::ENOLINK));
        assert_eq!(stack.tap_get_user(5, &[0; 60]), Ok(()));
        assert_eq!(stack.tap_set_queue(5, flags::DETACH_QUEUE), Err(Errno::EINVAL));
        assert_eq!(stack.tap_open(6, 1), Err(Errno::ENODEV));
        let lower = stack.register_netdevice(1, NetDevice::dummy("d1")).unwrap();
        let dev = NetDevice::macvlan("m0", stack.dev(lower).unwrap(), MacvlanMode::Vepa, true);
        stack.register_netdevice(1, dev).unwrap();
        assert_eq!(stack.tap_open(6, 1), Ok(()));
    }
}
