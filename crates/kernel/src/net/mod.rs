//! Network namespaces (`network_namespaces(7)`): devices and their addresses.
//!
//! A namespace has its loopback device `lo`, which starts down, as in Linux. `rtnetlink`, `ioctl.rs` and `sysctl.rs` are how programs
//! look at it and set it up.

pub mod af_packet;
mod br_if;
mod bridge;
pub mod core;
mod dev;
mod dev_core;
pub mod devconf;
mod devinet;
mod devinet6;
mod fib;
mod fib_rules;
pub mod filter;
pub mod inet;
mod inetdev;
pub mod ioctl;
pub mod ipv4;
mod ipv6;
mod macvlan;
mod mirror;
mod neighbour;
pub mod nlattr;
pub mod packet_ring;
#[cfg(test)]
mod packet_tests;
mod proc_net;
pub mod raw;
pub mod rtnetlink;
mod stack;
mod sysctl;
mod sysctl_tree;
pub mod tap;
#[cfg(test)]
mod tests;
pub mod tun;
pub mod uplink;

use std::sync::Arc;

pub use dev::{
    Bridge, BridgePort, DevId, DeviceKind, DeviceStats, FdbEntry, MacAddr, MacvlanMode, NetDevice, Tun,
    arphrd, if_oper, iff,
};
pub use fib::{
    AddMode, Fib, FibResult, Flow, NextHop, RT_TABLE_DEFAULT, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTPROT_BOOT,
    RTPROT_KERNEL, RTPROT_RA, Route, RouteType, rtnh_f,
};
pub use fib_rules::{FibRule, RuleAction};
pub use inetdev::{
    InterfaceAddress, Memberships, broadcast_of, ifa_f, ipv6_scope, network, scope, solicited_node,
};
pub use neighbour::{NeighTable, Neighbour, nud};
pub use stack::{Net, NetStack, Stack, StackGuard};
pub use sysctl::NetSysctl;

use crate::errno::{Errno, Result};
use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;

/// A namespace of this kind. What it holds stands in the sandbox's [`NetStack`] under its inode number, as long as this lives.
pub struct NetNamespace {
    common: NsCommon,
    stack: Arc<NetStack>,
}
impl_ns!(NetNamespace);

impl NetNamespace {
    /// A namespace in a network of its own: the first of a sandbox.
    pub fn initial(inum: u64, owner: Arc<UserNamespace>) -> Arc<NetNamespace> {
        NetNamespace::new_in(Arc::default(), inum, owner)
    }

    /// Another namespace beside `self`: `copy_net_ns`.
    pub(crate) fn copy_net_ns(&self, inum: u64, owner: Arc<UserNamespace>) -> Arc<NetNamespace> {
        NetNamespace::new_in(self.stack.clone(), inum, owner)
    }

    fn new_in(stack: Arc<NetStack>, inum: u64, owner: Arc<UserNamespace>) -> Arc<NetNamespace> {
        stack.lock().setup_net(inum);
        Arc::new(NetNamespace { common: NsCommon::new(NsKind::Net, inum, Some(owner)), stack })
    }

    /// The network it is part of.
    pub fn stack(&self) -> &Arc<NetStack> {
        &self.stack
    }

    /// Takes a device up or down: `dev_change_flags`.
    ///
    /// # Errors
    /// `ENODEV`; those of [`Stack::dev_change_flags`].
    pub fn set_flags(&self, name: &str, flags: u32) -> Result<()> {
        let mut stack = self.stack.lock();
        let id = stack.dev_get_by_name(self.common.inum(), name).map(|dev| dev.id).ok_or(Errno::ENODEV)?;
        stack.dev_change_flags(id, flags, iff::UP).map(drop)
    }

    /// The devices, by index.
    pub fn devices(&self) -> Vec<NetDevice> {
        self.stack.lock().devices_of(self.common.inum()).cloned().collect()
    }

    /// The device named `name`: `__dev_get_by_name`.
    pub fn device_by_name(&self, name: &str) -> Option<NetDevice> {
        self.stack.lock().dev_get_by_name(self.common.inum(), name).cloned()
    }

    /// Takes the device named `name` up or down.
    ///
    /// # Errors
    /// `ENODEV`: there is none. Those of [`Stack::dev_change_flags`].
    pub fn set_up(&self, name: &str, up: bool) -> Result<()> {
        let dev = self.device_by_name(name).ok_or(Errno::ENODEV)?;
        let flags = if up { iff::UP } else { 0 };
        self.stack.lock().dev_change_flags(dev.id, flags, iff::UP).map(|_| ())
    }

    /// The device with index `ifindex`: `__dev_get_by_index`.
    pub fn device_by_index(&self, ifindex: u32) -> Option<NetDevice> {
        self.stack.lock().dev_get_by_index(self.common.inum(), ifindex).cloned()
    }
}

impl Drop for NetNamespace {
    fn drop(&mut self) {
        self.stack.lock().cleanup_net(self.common.inum());
    }
}
