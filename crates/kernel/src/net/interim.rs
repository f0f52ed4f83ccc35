//! Configuration that the packet path needs.
use super::dev::{DevId, NetDevice};
use super::inetdev::InterfaceAddress;
use super::stack::Stack;
use crate::errno::Result;

impl Stack {
    pub(super) fn unregister_netdevice(&mut self, dev: DevId) {
        self.forget_packets(dev);
        self.forget_device(dev);
    }
    pub(super) fn netif_carrier(&mut self, dev: DevId, carrier: bool) {
        if let Some(dev) = self.dev_mut(dev) {
            dev.carrier = carrier;
        }
    }
    pub(super) fn tun_register(&mut self, net: u64, dev: NetDevice) -> Result<DevId> {
        self.register_netdevice(net, dev)
    }
    pub(super) fn addrconf_add(&mut self, dev: DevId, new: InterfaceAddress) {
        if let Some(dev) = self.dev_mut(dev) {
            dev.addresses.push(new);
        }
    }
}
