//! Network namespaces (`network_namespaces(7)`): devices and their addresses.
//!
//! A namespace has its loopback device `lo`, which starts down, as in Linux. `rtnetlink.rs` is how programs look at it and set
//! it up. Sockets of the Internet families, routes and other devices are not modelled yet.

mod dev;
mod rtnetlink;
mod sysctl;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use dev::{InterfaceAddress, NetDevice, iff};
pub use rtnetlink::{Answer, rtmgrp, rtnetlink_rcv};
pub use sysctl::NetSysctl;

use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;
use crate::vfs::lock::Mutex;

/// A namespace of this kind.
pub struct NetNamespace {
    common: NsCommon,
    devices: Mutex<Vec<NetDevice>>,
    sysctls: Mutex<sysctl::NetSysctls>,
}
impl_ns!(NetNamespace);

impl NetNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>) -> Arc<NetNamespace> {
        Arc::new(NetNamespace {
            common: NsCommon::new(NsKind::Net, inum, Some(owner)),
            devices: Mutex::new(vec![NetDevice::loopback()]),
            sysctls: Mutex::default(),
        })
    }

    /// The devices, by index.
    pub fn devices(&self) -> Vec<NetDevice> {
        self.devices.lock().clone()
    }

    /// The device named `name`: `__dev_get_by_name`.
    pub fn device_by_name(&self, name: &str) -> Option<NetDevice> {
        self.devices.lock().iter().find(|dev| dev.name == name).cloned()
    }

    /// The device with index `ifindex`: `__dev_get_by_index`.
    pub fn device_by_index(&self, ifindex: u32) -> Option<NetDevice> {
        self.devices.lock().iter().find(|dev| dev.ifindex == ifindex).cloned()
    }
}
