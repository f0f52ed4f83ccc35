//! All network namespaces of a sandbox: what `struct net` holds, the devices, and the lock over them.
//!
//! Devices connect namespaces: a frame that enters one end of a veth pair comes out in another namespace and may be forwarded by a
//! bridge there. So there is one lock for all of it, [`NetStack::lock`], which stands for `rtnl_lock` and for the locks of the
//! packet path, and everything behind it is plain data reached by number.
//!
//! The lock is taken after the kernel model's and never the other way round; nothing under it waits.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::ops::{Deref, DerefMut};
use std::sync::{MutexGuard, OnceLock};

use super::af_packet::PacketSocket;
use super::core::NeighState;
use super::core::softirq::SoftIrq;
use super::dev::{DevId, NetDevice};
use super::devconf::{Ipv4Devconf, Ipv6Devconf};
use super::fib::Fib;
use super::ipv4::{Frags, IcmpLimits};
use super::neighbour::NeighTable;
use super::raw::RawSocket;
use super::rtnetlink::Notification;
use super::sysctl::NetSysctls;
use super::tap::Taps;
use super::tun::Tuns;
use crate::vfs::lock::Mutex;

/// The network of a sandbox.
#[derive(Default)]
pub struct NetStack {
    stack: Mutex<Stack>,
    waker: OnceLock<Waker>,
}

/// Called when work is left in the stack.
type Waker = Box<dyn Fn() + Send + Sync>;

impl NetStack {
    /// Lets `wake` be called when there are notifications to be taken ([`Stack::take_notifications`]). It must neither wait nor take
    /// a lock of the model.
    pub fn set_on_notify(&self, wake: impl Fn() + Send + 'static) {
        self.lock().on_notify = Some(Box::new(wake));
    }

    /// Everything in it.
    pub fn lock(&self) -> StackGuard<'_> {
        StackGuard { stack: self.stack.lock(), waker: self.waker.get() }
    }

    /// Sets what is called, once for good, whenever somebody gives the lock back and leaves packets, things to hand out, or a timer
    /// that is due sooner than what is waited for.
    pub fn set_waker(&self, waker: Waker) {
        // The first one stays.
        let _ = self.waker.set(waker);
    }
}

/// The stack, while it is locked.
pub struct StackGuard<'a> {
    stack: MutexGuard<'a, Stack>,
    waker: Option<&'a Waker>,
}

impl Deref for StackGuard<'_> {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.stack
    }
}

impl DerefMut for StackGuard<'_> {
    fn deref_mut(&mut self) -> &mut Stack {
        &mut self.stack
    }
}

impl Drop for StackGuard<'_> {
    fn drop(&mut self) {
        if let Some(waker) = self.waker
            && self.stack.leaves_work()
        {
            waker();
        }
    }
}

/// What [`NetStack`] guards.
#[derive(Default)]
pub struct Stack {
    nets: BTreeMap<u64, Net>,
    devices: BTreeMap<DevId, NetDevice>,
    /// The number the last device got.
    last_dev: u32,
    /// What members of groups are to be told.
    pub(super) pending: Vec<Notification>,
    /// Somebody takes it.
    pub(super) listening: bool,
    /// Called under the lock when there is something to tell and was nothing before.
    pub(super) on_notify: Option<Box<dyn Fn() + Send>>,
    /// Packets that wait, timers, and what is to be handed out.
    pub(super) softirq: SoftIrq,
    /// What the state machine of neighbours knows beyond [`NeighTable`].
    pub(super) neigh: NeighState,
    /// Fragments that wait for others.
    pub(super) frags: Frags,
    /// How many errors hosts may be told of.
    pub(super) icmp_limits: IcmpLimits,
    /// Addresses that may be somebody else's, with how often that is to be asked.
    pub(super) dad: BTreeMap<(DevId, Ipv6Addr), u32>,
    /// Devices on which routers are asked for, with how often.
    pub(super) router_solicitations: BTreeMap<DevId, u8>,
    /// Packet sockets, by the number their keeper gave them.
    pub packet_sockets: BTreeMap<u64, PacketSocket>,
    /// Raw and ping sockets, likewise.
    pub raw_sockets: BTreeMap<u64, RawSocket>,
    /// Files of `/dev/net/tun`.
    pub(super) tuns: Tuns,
    /// Files of `/dev/tapN`.
    pub(super) taps: Taps,
}

/// One network namespace: `struct net`.
pub struct Net {
    /// Its devices: `dev_index_head`.
    pub devices: BTreeMap<u32, DevId>,
    /// The highest index given so far: `ifindex`.
    pub last_ifindex: u32,
    /// `net.ipv4.conf.all`
    pub ipv4_all: Ipv4Devconf,
    /// `net.ipv4.conf.default`
    pub ipv4_default: Ipv4Devconf,
    /// `net.ipv6.conf.all`
    pub ipv6_all: Ipv6Devconf,
    /// `net.ipv6.conf.default`
    pub ipv6_default: Ipv6Devconf,
    /// Routes and rules.
    pub fib: Fib,
    /// Neighbours: ARP and ND.
    pub neighbours: NeighTable,
    /// Numbers by which it knows other namespaces, by inode number: `netns_ids`.
    pub nsids: BTreeMap<i32, u64>,
    /// `/proc/sys/net`.
    pub sysctls: NetSysctls,
    /// Settings that have been written, by path below `/proc/sys/net`.
    pub(super) sysctl_values: BTreeMap<String, Vec<i64>>,
}

impl Default for Net {
    fn default() -> Net {
        Net {
            devices: BTreeMap::new(),
            last_ifindex: 0,
            ipv4_all: Ipv4Devconf::all(),
            ipv4_default: Ipv4Devconf::default(),
            ipv6_all: Ipv6Devconf::all(),
            ipv6_default: Ipv6Devconf::default(),
            fib: Fib::default(),
            neighbours: NeighTable::default(),
            nsids: BTreeMap::new(),
            sysctls: NetSysctls::default(),
            sysctl_values: BTreeMap::new(),
        }
    }
}

impl Net {
    /// The number by which it knows a namespace.
    pub(super) fn nsid_of(&self, inum: u64) -> Option<i32> {
        self.nsids.iter().find(|(_, known)| **known == inum).map(|(nsid, _)| *nsid)
    }

    /// The first number that is free: `alloc_netid`.
    pub(super) fn alloc_nsid(&self) -> i32 {
        (0..).find(|nsid| !self.nsids.contains_key(nsid)).unwrap_or(0)
    }
}

impl Stack {
    /// Adds an empty namespace with a loopback device: `setup_net`.
    pub(super) fn setup_net(&mut self, inum: u64) {
        self.nets.insert(inum, Net::default());
        self.register_netdevice(inum, NetDevice::loopback()).expect("the namespace is new");
    }

    /// Removes a namespace, the devices in it and the other ends of its cables: `cleanup_net`.
    pub(super) fn cleanup_net(&mut self, inum: u64) {
        let Some(net) = self.nets.get(&inum) else { return };
        // The kernel moves physical devices to the initial namespace; here all are virtual, and end.
        let devices: Vec<DevId> = net.devices.values().copied().collect();
        for id in devices {
            self.unregister_netdevice(id);
        }
        self.nets.remove(&inum);
        self.pending.retain(|pending| pending.net != inum);
        for net in self.nets.values_mut() {
            net.nsids.retain(|_, known| *known != inum);
        }
        self.frags.forget(inum);
    }

    /// Takes a device out.
    pub(super) fn forget_device(&mut self, id: DevId) {
        let Some(dev) = self.devices.remove(&id) else { return };
        if let Some(net) = self.nets.get_mut(&dev.net) {
            net.devices.remove(&dev.ifindex);
        }
    }

    /// A namespace, by inode number.
    pub fn net(&self, inum: u64) -> Option<&Net> {
        self.nets.get(&inum)
    }

    /// A namespace, by inode number.
    pub fn net_mut(&mut self, inum: u64) -> Option<&mut Net> {
        self.nets.get_mut(&inum)
    }

    /// A device.
    pub fn dev(&self, id: DevId) -> Option<&NetDevice> {
        self.devices.get(&id)
    }

    /// A device.
    pub fn dev_mut(&mut self, id: DevId) -> Option<&mut NetDevice> {
        self.devices.get_mut(&id)
    }

    /// The devices of a namespace, by index.
    pub fn devices_of(&self, inum: u64) -> impl Iterator<Item = &NetDevice> {
        self.nets.get(&inum).into_iter().flat_map(|net| net.devices.values()).filter_map(|id| self.dev(*id))
    }

    /// `__dev_get_by_name`.
    pub fn dev_get_by_name(&self, inum: u64, name: &str) -> Option<&NetDevice> {
        self.devices_of(inum).find(|dev| dev.name == name)
    }

    /// `__dev_get_by_index`.
    pub fn dev_get_by_index(&self, inum: u64, ifindex: u32) -> Option<&NetDevice> {
        self.dev(*self.nets.get(&inum)?.devices.get(&ifindex)?)
    }

    /// All devices of the sandbox.
    pub(super) fn all_devices(&self) -> impl Iterator<Item = &NetDevice> {
        self.devices.values()
    }

    /// How many devices there are.
    pub(super) fn device_count(&self) -> usize {
        self.devices.len()
    }

    /// Gives a device its number.
    pub(super) fn insert_device(&mut self, mut dev: NetDevice) -> DevId {
        self.last_dev += 1;
        let id = DevId(self.last_dev);
        dev.id = id;
        self.devices.insert(id, dev);
        id
    }
}
