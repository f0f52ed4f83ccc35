//! TUN and TAP devices (`drivers/net/tun.c`, the kernel's `networking/tuntap.rst`): a program is at the other end of the cable.
//!
//! A *queue* is an open file of `/dev/net/tun` that is attached to a device. Whoever keeps the descriptors gives each file a number
//! and hands in what programs write ([`Stack::tun_get_user`]); what the stack sends comes out as [`Out::Tun`].

use std::collections::BTreeMap;

use super::core::offload::{self, VnetHeader};
use super::core::skbuff::{ETH_HLEN, SkBuff, eth_p};
use super::core::softirq::Out;
use super::dev::{DevId, DeviceKind, MacAddr, NetDevice, Tun, iff};
use super::filter::Filter;
use super::stack::Stack;
use crate::errno::{Errno, Result};

/// Flags of `TUNSETIFF`: `IFF_*` of `<linux/if_tun.h>`.
pub mod tun_flags {
    /// Packets begin with their network header.
    pub const TUN: u16 = 0x0001;
    /// Packets begin with an Ethernet header.
    pub const TAP: u16 = 0x0002;
    /// Receiving in batches: accepted, and nothing different.
    pub const NAPI: u16 = 0x0010;
    /// Frames in pieces.
    pub const NAPI_FRAGS: u16 = 0x0020;
    /// No carrier at first.
    pub const NO_CARRIER: u16 = 0x0040;
    /// No `struct tun_pi` in front.
    pub const NO_PI: u16 = 0x1000;
    /// Means nothing.
    pub const ONE_QUEUE: u16 = 0x2000;
    /// A `struct virtio_net_hdr` in front.
    pub const VNET_HDR: u16 = 0x4000;
    /// It must not exist.
    pub const TUN_EXCL: u16 = 0x8000;
    /// Several queues.
    pub const MULTI_QUEUE: u16 = 0x0100;
    /// Of `TUNSETQUEUE`.
    pub const ATTACH_QUEUE: u16 = 0x0200;
    /// Of `TUNSETQUEUE`.
    pub const DETACH_QUEUE: u16 = 0x0400;
    /// It stays when nobody is attached.
    pub const PERSIST: u16 = 0x0800;
    /// The socket of the file has no filter, as `TUNGETIFF` tells.
    pub const NOFILTER: u16 = 0x1000;
    /// What `TUNSETIFF` stores: `TUN_FEATURES`.
    pub const FEATURES: u16 = NO_PI | ONE_QUEUE | VNET_HDR | MULTI_QUEUE | NAPI | NAPI_FRAGS;
}
use tun_flags as flags;

/// Queues of one device: `MAX_TAP_QUEUES`.
const MAX_QUEUES: usize = 256;
/// Addresses of a `TUNSETTXFILTER`: `FLT_EXACT_COUNT` are compared, others by their hash, here all.
pub const MAX_TX_FILTER: usize = 1024;
/// `TUN_F_CSUM`, and all offloads that `TUNSETOFFLOAD` knows: `TUN_F_TSO4` … `TUN_F_USO6`.
const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO: u32 = 0x02 | 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_UFO: u32 = 0x10;
const TUN_F_USO: u32 = 0x20 | 0x40;

/// An open file of `/dev/net/tun`: `struct tun_file`.
#[derive(Clone, Debug, Default)]
pub struct TunFile {
    /// The namespace it was opened in.
    pub net: u64,
    /// The device it is attached to.
    pub dev: Option<DevId>,
    /// Attached, but out of use: `TUNSETQUEUE` with `IFF_DETACH_QUEUE`.
    pub detached: bool,
    /// `TUNSETIFINDEX`: the index the device is to have.
    pub ifindex: u32,
}

/// What a device has beyond what configuration shows.
#[derive(Clone, Debug)]
pub struct TunState {
    /// Files that are attached and in use, in order.
    pub queues: Vec<u64>,
    /// `TUNSETVNETHDRSZ`
    pub vnet_hdr_sz: usize,
    /// `TUNSETVNETBE`
    pub vnet_be: bool,
    /// `TUNSETSNDBUF`
    pub sndbuf: i32,
    /// Which frames of TAP are wanted: `TUNATTACHFILTER`.
    pub filter: Option<Filter>,
    /// Destinations of TAP that are wanted beside broadcasts, and whether all groups are: `TUNSETTXFILTER`.
    pub tx_filter: Option<(Vec<MacAddr>, bool)>,
    /// `TUNSETOFFLOAD`
    pub offload: u32,
}

impl Default for TunState {
    fn default() -> TunState {
        TunState {
            queues: Vec::new(),
            vnet_hdr_sz: VnetHeader::LEN,
            vnet_be: false,
            sndbuf: i32::MAX,
            filter: None,
            tx_filter: None,
            offload: 0,
        }
    }
}

/// All files and what devices have.
#[derive(Debug, Default)]
pub struct Tuns {
    files: BTreeMap<u64, TunFile>,
    devices: BTreeMap<DevId, TunState>,
}

/// Who asks, as far as the driver looks at it.
#[derive(Clone, Copy)]
pub struct TunCaller<'a> {
    /// Kernel id of the effective user.
    pub euid: u32,
    /// Whether it is in a group, by kernel id: `in_egroup_p`.
    pub in_group: &'a dyn Fn(u32) -> bool,
    /// `CAP_NET_ADMIN` over the namespace.
    pub net_admin: bool,
}

fn tun_of(dev: &NetDevice) -> Option<&Tun> {
    match &dev.kind {
        DeviceKind::Tun(tun) => Some(tun),
        _ => None,
    }
}

impl Stack {
    /// `tun_chr_open`
    pub fn tun_open(&mut self, file: u64, net: u64) {
        self.tuns.files.insert(file, TunFile { net, ..TunFile::default() });
    }

    /// An open file.
    pub fn tun_file(&self, file: u64) -> Option<&TunFile> {
        self.tuns.files.get(&file)
    }

    /// `TUNSETIFINDEX`
    ///
    /// # Errors
    /// `EPERM`: it is attached. `EINVAL`: negative.
    pub fn tun_set_ifindex(&mut self, file: u64, ifindex: i32) -> Result<()> {
        let own = self.tuns.files.get_mut(&file).ok_or(Errno::EBADFD)?;
        if own.dev.is_some() {
            return Err(Errno::EPERM);
        }
        own.ifindex = u32::try_from(ifindex).map_err(|_| Errno::EINVAL)?;
        Ok(())
    }

    /// The device of an attached file: `tun_get`.
    ///
    /// # Errors
    /// `EBADFD`: it is not attached.
    pub fn tun_get(&self, file: u64) -> Result<DevId> {
        self.tuns.files.get(&file).and_then(|own| own.dev).ok_or(Errno::EBADFD)
    }

    /// What a device has.
    pub fn tun_state(&mut self, dev: DevId) -> &mut TunState {
        self.tuns.devices.entry(dev).or_default()
    }

    fn tun_mut(&mut self, dev: DevId) -> Option<&mut Tun> {
        match &mut self.dev_mut(dev)?.kind {
            DeviceKind::Tun(tun) => Some(tun),
            _ => None,
        }
    }

    /// `TUNSETIFF`: attaches a file to the device `name`, which is made if need be. Gives the device.
    ///
    /// # Errors
    /// `EEXIST`: it is attached. `EBUSY`: another file is, or the device must not exist. `EINVAL`: neither or another of TUN and TAP,
    /// another use of queues, or a bad name. `EPERM`: neither owner nor privileged. `E2BIG`: too many queues.
    pub fn tun_set_iff(
        &mut self,
        file: u64,
        name: &str,
        wanted: u16,
        caller: &TunCaller<'_>,
    ) -> Result<DevId> {
        let own = self.tuns.files.get(&file).ok_or(Errno::EBADFD)?.clone();
        if own.dev.is_some() {
            return Err(Errno::EEXIST);
        }
        if wanted & flags::NAPI_FRAGS != 0 {
            if !caller.net_admin {
                return Err(Errno::EPERM);
            }
            if wanted & flags::NAPI == 0 || wanted & (flags::TUN | flags::TAP) != flags::TAP {
                return Err(Errno::EINVAL);
            }
        }
        let known = self.dev_get_by_name(own.net, name).map(|dev| dev.id).filter(|_| !name.is_empty());
        let dev = match known {
            Some(dev) => {
                self.tun_may_attach(dev, wanted, caller)?;
                self.tun_attach(file, dev)?;
                let several = self
                    .dev(dev)
                    .and_then(tun_of)
                    .is_some_and(|tun| tun.flags & flags::MULTI_QUEUE != 0 && tun.queues + tun.disabled > 1);
                if several {
                    return Ok(dev);
                }
                dev
            }
            None => {
                if !caller.net_admin {
                    return Err(Errno::EPERM);
                }
                let made = self.tun_make(&own, name, wanted)?;
                if let Err(errno) = self.tun_attach(file, made) {
                    self.unregister_netdevice(made);
                    return Err(errno);
                }
                made
            }
        };
        if let Some(tun) = self.tun_mut(dev) {
            tun.flags = tun.flags & !flags::FEATURES | wanted & flags::FEATURES;
        }
        if wanted & flags::NO_CARRIER != 0 && known.is_none() {
            self.netif_carrier(dev, false);
        }
        self.hand_out(Out::Changed(dev));
        Ok(dev)
    }

    fn tun_may_attach(&self, dev: DevId, wanted: u16, caller: &TunCaller<'_>) -> Result<()> {
        if wanted & flags::TUN_EXCL != 0 {
            return Err(Errno::EBUSY);
        }
        let tun = self.dev(dev).and_then(tun_of).ok_or(Errno::EINVAL)?;
        let same_kind = wanted & flags::TUN != 0 && tun.flags & flags::TUN != 0
            || wanted & flags::TUN == 0 && wanted & flags::TAP != 0 && tun.flags & flags::TAP != 0;
        if !same_kind || (wanted ^ tun.flags) & flags::MULTI_QUEUE != 0 {
            return Err(Errno::EINVAL);
        }
        // tun_not_capable: an owner or a group that is set must be met.
        let stranger = tun.owner.is_some_and(|owner| owner != caller.euid)
            || tun.group.is_some_and(|group| !(caller.in_group)(group));
        if stranger && !caller.net_admin {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    fn tun_make(&mut self, file: &TunFile, name: &str, wanted: u16) -> Result<DevId> {
        let (kind, pattern) = match wanted {
            kind if kind & flags::TUN != 0 => (flags::TUN, "tun%d"),
            kind if kind & flags::TAP != 0 => (flags::TAP, "tap%d"),
            _ => return Err(Errno::EINVAL),
        };
        let name = if name.is_empty() { pattern } else { name };
        let tun = Tun { flags: kind | wanted & flags::FEATURES, ..Tun::default() };
        let mut dev = if kind == flags::TUN { NetDevice::tun(name, tun) } else { NetDevice::tap(name, tun) };
        dev.carrier = false;
        dev.ifindex = file.ifindex;
        if kind == flags::TAP {
            dev.dev_addr = MacAddr::local(self.random());
            dev.addr_assign_type = 1;
        }
        let queues = if wanted & flags::MULTI_QUEUE != 0 { MAX_QUEUES as u32 } else { 1 };
        dev.num_queues = (queues, queues);
        self.tun_register(file.net, dev)
    }

    /// `tun_attach`
    fn tun_attach(&mut self, file: u64, dev: DevId) -> Result<()> {
        let again = self.tuns.files.get(&file).is_some_and(|own| own.detached);
        let tun = self.tun_mut(dev).ok_or(Errno::EINVAL)?;
        if tun.flags & flags::MULTI_QUEUE == 0 && tun.queues >= 1 {
            return Err(Errno::EBUSY);
        }
        if !again && (tun.queues + tun.disabled) as usize >= MAX_QUEUES {
            return Err(Errno::E2BIG);
        }
        tun.queues += 1;
        if again {
            tun.disabled -= 1;
        }
        self.tun_state(dev).queues.push(file);
        if let Some(own) = self.tuns.files.get_mut(&file) {
            own.dev = Some(dev);
            own.detached = false;
        }
        self.netif_carrier(dev, true);
        Ok(())
    }

    /// `TUNSETQUEUE`
    ///
    /// # Errors
    /// `EINVAL`: neither attaching nor detaching, or not possible as it is. `EBUSY`.
    pub fn tun_set_queue(&mut self, file: u64, wanted: u16) -> Result<()> {
        let own = self.tuns.files.get(&file).ok_or(Errno::EINVAL)?.clone();
        if wanted & flags::ATTACH_QUEUE != 0 {
            let dev = own.dev.filter(|_| own.detached).ok_or(Errno::EINVAL)?;
            return self.tun_attach(file, dev);
        }
        if wanted & flags::DETACH_QUEUE == 0 {
            return Err(Errno::EINVAL);
        }
        let dev = own.dev.filter(|_| !own.detached).ok_or(Errno::EINVAL)?;
        let tun = self.tun_mut(dev).ok_or(Errno::EINVAL)?;
        if tun.flags & flags::MULTI_QUEUE == 0 {
            return Err(Errno::EINVAL);
        }
        tun.queues -= 1;
        tun.disabled += 1;
        self.tun_state(dev).queues.retain(|queue| *queue != file);
        if let Some(own) = self.tuns.files.get_mut(&file) {
            own.detached = true;
        }
        Ok(())
    }

    /// A file is closed for good: `tun_chr_close`. With the last one goes the device, unless it is persistent.
    pub fn tun_close(&mut self, file: u64) {
        let Some(own) = self.tuns.files.remove(&file) else { return };
        let Some(dev) = own.dev else { return };
        self.tun_state(dev).queues.retain(|queue| *queue != file);
        let Some(tun) = self.tun_mut(dev) else { return };
        if own.detached {
            tun.disabled -= 1;
        } else {
            tun.queues -= 1;
        }
        let (rest, persist) = (tun.queues + tun.disabled, tun.persist);
        if rest > 0 {
            return;
        }
        self.netif_carrier(dev, false);
        if !persist {
            self.unregister_netdevice(dev);
        }
    }

    /// A device is gone, whoever has removed it: its files are attached to nothing (`tun_detach_all`).
    pub(crate) fn tun_detach_all(&mut self, dev: DevId) {
        self.tuns.devices.remove(&dev);
        for file in self.tuns.files.values_mut().filter(|file| file.dev == Some(dev)) {
            file.dev = None;
            file.detached = false;
        }
    }

    /// `TUNSETPERSIST`
    pub fn tun_set_persist(&mut self, dev: DevId, persist: bool) {
        if let Some(tun) = self.tun_mut(dev) {
            tun.persist = persist;
            tun.flags = if persist { tun.flags | flags::PERSIST } else { tun.flags & !flags::PERSIST };
        }
        self.hand_out(Out::Changed(dev));
    }

    /// `TUNSETOWNER` and `TUNSETGROUP`, with kernel ids.
    pub fn tun_set_owner(&mut self, dev: DevId, owner: Option<u32>, group: Option<u32>) {
        if let Some(tun) = self.tun_mut(dev) {
            tun.owner = owner.or(tun.owner);
            tun.group = group.or(tun.group);
        }
        self.hand_out(Out::Changed(dev));
    }

    /// `TUNSETOFFLOAD`: what the program can take. Frames come to it finished all the same.
    ///
    /// # Errors
    /// `EINVAL`: an offload that is not known, or segments without checksums.
    pub fn tun_set_offload(&mut self, dev: DevId, offload: u32) -> Result<()> {
        let mut left = offload;
        if left & TUN_F_CSUM != 0 {
            // UFO means nothing any more, but is accepted.
            left &= !(TUN_F_CSUM | TUN_F_UFO);
            if left & TUN_F_TSO != 0 {
                left &= !(TUN_F_TSO | TUN_F_TSO_ECN);
            }
            // One family without the other is not taken.
            if left & TUN_F_USO == TUN_F_USO {
                left &= !TUN_F_USO;
            }
        }
        if left != 0 {
            return Err(Errno::EINVAL);
        }
        self.tun_state(dev).offload = offload;
        Ok(())
    }

    /// `TUNSETCARRIER`
    ///
    /// # Errors
    /// `EPERM`: a carrier, and nobody is attached.
    pub fn tun_set_carrier(&mut self, dev: DevId, carrier: bool) -> Result<()> {
        let queues = self.dev(dev).and_then(tun_of).map_or(0, |tun| tun.queues);
        if carrier && queues == 0 {
            return Err(Errno::EPERM);
        }
        self.netif_carrier(dev, carrier);
        Ok(())
    }

    /// What `TUNGETIFF` tells: the name and the flags.
    ///
    /// # Errors
    /// `EBADFD`
    pub fn tun_get_iff(&self, file: u64) -> Result<(String, u16)> {
        let dev = self.tun_get(file)?;
        let device = self.dev(dev).ok_or(Errno::EBADFD)?;
        let tun = tun_of(device).ok_or(Errno::EBADFD)?;
        let shown = flags::FEATURES | flags::PERSIST | flags::TUN | flags::TAP;
        let mut told = tun.flags & shown;
        if self.tuns.files.get(&file).is_some_and(|own| own.detached) {
            told |= flags::DETACH_QUEUE;
        }
        if self.tuns.devices.get(&dev).is_none_or(|state| state.filter.is_none()) {
            told |= flags::NOFILTER;
        }
        Ok((device.name.clone(), told))
    }

    /// A program has written `bytes`: the device receives a frame (`tun_get_user`).
    ///
    /// # Errors
    /// `EBADFD`: not attached. `EIO`: the device is down. `EINVAL`: too short for its headers, or they make no sense.
    pub fn tun_get_user(&mut self, file: u64, bytes: &[u8]) -> Result<()> {
        let dev = self.tun_get(file)?;
        let device = self.dev(dev).ok_or(Errno::EBADFD)?;
        let Some(tun) = tun_of(device) else { return Err(Errno::EBADFD) };
        let (features, up) = (tun.flags, device.is_up());
        let ethernet = features & flags::TAP != 0;
        let (header_size, big_endian) = {
            let state = self.tun_state(dev);
            (state.vnet_hdr_sz, state.vnet_be)
        };
        let mut rest = bytes;
        let mut protocol = None;
        if features & flags::NO_PI == 0 {
            const PI_LEN: usize = 4;
            let Some(pi) = rest.get(..PI_LEN) else { return Err(Errno::EINVAL) };
            protocol = Some(u16::from_be_bytes([pi[2], pi[3]]));
            rest = &rest[PI_LEN..];
        }
        let mut vnet = VnetHeader::default();
        if features & flags::VNET_HDR != 0 {
            if rest.len() < header_size {
                return Err(Errno::EINVAL);
            }
            vnet = VnetHeader::parse(rest, big_endian).ok_or(Errno::EINVAL)?;
            rest = &rest[header_size..];
        }
        let drop_with = |stack: &mut Stack, errno: Errno| {
            if let Some(dev) = stack.dev_mut(dev) {
                match errno {
                    Errno::EIO => dev.stats.rx_dropped += 1,
                    _ => dev.stats.rx_errors += 1,
                }
            }
            Err(errno)
        };
        if ethernet && rest.len() < ETH_HLEN {
            return Err(Errno::EINVAL);
        }
        if !ethernet && features & flags::NO_PI != 0 {
            protocol = match rest.first().map(|first| first >> 4) {
                Some(4) => Some(eth_p::IP),
                Some(6) => Some(eth_p::IPV6),
                _ => {
                    if let Some(dev) = self.dev_mut(dev) {
                        dev.stats.rx_dropped += 1;
                    }
                    return Err(Errno::EINVAL);
                }
            };
        }
        let Some(frames) = offload::complete(rest.to_vec(), vnet, ethernet) else {
            return drop_with(self, Errno::EINVAL);
        };
        if !up {
            return drop_with(self, Errno::EIO);
        }
        for frame in frames {
            self.netif_rx(SkBuff::new(dev, protocol.unwrap_or(0), &frame));
        }
        Ok(())
    }

    /// What goes in front of a frame that a program reads: `tun_put_user`.
    pub fn tun_headers(&mut self, dev: DevId, protocol: u16) -> Vec<u8> {
        let features = self.dev(dev).and_then(tun_of).map_or(flags::NO_PI, |tun| tun.flags);
        let mut headers = Vec::new();
        if features & flags::NO_PI == 0 {
            headers.extend([0; 2]);
            headers.extend(protocol.to_be_bytes());
        }
        if features & flags::VNET_HDR != 0 {
            headers.resize(headers.len() + self.tun_state(dev).vnet_hdr_sz, 0);
        }
        headers
    }

    /// The stack sends a frame by the device: `tun_net_xmit`.
    pub(super) fn tun_net_xmit(&mut self, dev: DevId, skb: SkBuff) {
        let Some(device) = self.dev(dev) else { return };
        let (ethernet, ifindex, hatype) = (device.has_link_address(), device.ifindex, device.dev_type);
        let state = self.tun_state(dev);
        let wanted = match &state.filter {
            Some(filter) if ethernet => filter.run(&skb, skb.data(), ifindex, hatype) as usize,
            _ => usize::MAX,
        };
        let addressed = match &state.tx_filter {
            Some((addresses, groups)) if ethernet => {
                let to = MacAddr(skb.data()[..6].try_into().unwrap_or_default());
                to == MacAddr::BROADCAST || *groups && to.is_multicast() || addresses.contains(&to)
            }
            _ => true,
        };
        // The same queue for all packets of a flow, by the addresses of its network header.
        let queue = match state.queues.len() {
            0 => None,
            1 => state.queues.first().copied(),
            many => state.queues.get(flow_hash(&skb, ethernet) as usize % many).copied(),
        };
        let Some(queue) = queue.filter(|_| wanted > 0 && addressed) else {
            if let Some(dev) = self.dev_mut(dev) {
                dev.stats.tx_dropped += 1;
            }
            return;
        };
        let mut skb = skb;
        skb.trim(wanted);
        let len = skb.len() as u64;
        if let Some(dev) = self.dev_mut(dev) {
            dev.stats.tx_packets += 1;
            dev.stats.tx_bytes += len;
        }
        self.hand_out(Out::Tun { dev, queue, skb });
    }

    /// There was no room for a frame that was handed out.
    pub fn tun_dropped(&mut self, dev: DevId, len: usize) {
        if let Some(dev) = self.dev_mut(dev) {
            dev.stats.tx_packets = dev.stats.tx_packets.saturating_sub(1);
            dev.stats.tx_bytes = dev.stats.tx_bytes.saturating_sub(len as u64);
            dev.stats.tx_dropped += 1;
        }
    }

    /// The flags of a device as files have set them.
    pub fn tun_flags(&self, dev: DevId) -> u16 {
        self.dev(dev).and_then(tun_of).map_or(0, |tun| tun.flags)
    }

    /// Whether a device can be given another type of link: `TUNSETLINK`.
    ///
    /// # Errors
    /// `EBUSY`: it is up.
    pub fn tun_set_link(&mut self, dev: DevId, dev_type: u16) -> Result<()> {
        let Some(device) = self.dev_mut(dev) else { return Err(Errno::EBADFD) };
        if device.flags & iff::UP != 0 {
            return Err(Errno::EBUSY);
        }
        device.dev_type = dev_type;
        Ok(())
    }
}

/// `skb_get_hash`: of addresses and ports.
pub(super) fn flow_hash(skb: &SkBuff, ethernet: bool) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let network = skb.data().get(if ethernet { ETH_HLEN } else { 0 }..).unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    match network.first().map(|first| first >> 4) {
        Some(4) => (network.get(12..24), network.get(9)).hash(&mut hasher),
        Some(6) => (network.get(8..44), network.get(6)).hash(&mut hasher),
        _ => {}
    }
    hasher.finish()
}
