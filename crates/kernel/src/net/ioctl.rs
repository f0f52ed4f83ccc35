//! The commands of `netdevice(7)` on sockets: `dev_ioctl`, `devinet_ioctl`, `ip_rt_ioctl`, `arp_ioctl`, `br_ioctl_stub`.
//!
//! Programs that are older than rtnetlink use them: `ifconfig`, `route`, `arp`, `brctl`, and busybox.

use std::net::{IpAddr, Ipv4Addr};

use super::dev::{DevId, DeviceKind, MacAddr, NetDevice, iff};
use super::dev_core::IF_NAME_MAX;
use super::fib::{AddMode, Flow, NextHop, RT_TABLE_MAIN, RTPROT_BOOT, Route, RouteType};
use super::inetdev::{InterfaceAddress, broadcast_of, ifa_f, scope};
use super::neighbour::{Neighbour, nud};
use super::rtnetlink::{RTM_DELROUTE, RTM_NEWLINK, RTM_NEWROUTE};
use super::stack::{NetStack, Stack};
use crate::errno::{Errno, Result};

/// `SIOC*`
mod sioc {
    pub const ADDRT: u32 = 0x890b;
    pub const DELRT: u32 = 0x890c;
    pub const GIFNAME: u32 = 0x8910;
    pub const GIFCONF: u32 = 0x8912;
    pub const GIFFLAGS: u32 = 0x8913;
    pub const SIFFLAGS: u32 = 0x8914;
    pub const GIFADDR: u32 = 0x8915;
    pub const SIFADDR: u32 = 0x8916;
    pub const GIFDSTADDR: u32 = 0x8917;
    pub const SIFDSTADDR: u32 = 0x8918;
    pub const GIFBRDADDR: u32 = 0x8919;
    pub const SIFBRDADDR: u32 = 0x891a;
    pub const GIFNETMASK: u32 = 0x891b;
    pub const SIFNETMASK: u32 = 0x891c;
    pub const GIFMETRIC: u32 = 0x891d;
    pub const SIFMETRIC: u32 = 0x891e;
    pub const GIFMTU: u32 = 0x8921;
    pub const SIFMTU: u32 = 0x8922;
    pub const SIFNAME: u32 = 0x8923;
    pub const SIFHWADDR: u32 = 0x8924;
    pub const GIFHWADDR: u32 = 0x8927;
    pub const GIFINDEX: u32 = 0x8933;
    pub const SIFHWBROADCAST: u32 = 0x8937;
    pub const GIFTXQLEN: u32 = 0x8942;
    pub const SIFTXQLEN: u32 = 0x8943;
    pub const ETHTOOL: u32 = 0x8946;
    pub const DARP: u32 = 0x8953;
    pub const GARP: u32 = 0x8954;
    pub const SARP: u32 = 0x8955;
    pub const GIFMAP: u32 = 0x8970;
    pub const BRADDBR: u32 = 0x89a0;
    pub const BRDELBR: u32 = 0x89a1;
    pub const BRADDIF: u32 = 0x89a2;
    pub const BRDELIF: u32 = 0x89a3;
}

/// Length of `struct ifreq`, in bytes.
pub const IFREQ: usize = 40;
/// Length of `struct rtentry`.
pub const RTENTRY: usize = 120;

/// Who asks.
#[derive(Clone, Copy)]
pub struct IoctlCaller {
    /// Inode number of its network namespace.
    pub net: u64,
    /// Whether it has `CAP_NET_ADMIN` over it.
    pub net_admin: bool,
}

/// Whether a command is one of those that read or write a `struct ifreq` (or the structures of the same length and less).
pub fn is_ifreq_command(command: u32) -> bool {
    use sioc::*;
    matches!(
        command,
        GIFNAME | GIFFLAGS..=SIFMETRIC | GIFMTU..=SIFHWADDR | GIFHWADDR | GIFINDEX | SIFHWBROADCAST | GIFTXQLEN
            | SIFTXQLEN | ETHTOOL | DARP..=SARP | GIFMAP | BRADDBR..=BRDELIF
    )
}

/// Whether a command is `SIOCGIFCONF`.
pub fn is_ifconf_command(command: u32) -> bool {
    command == sioc::GIFCONF
}

/// Whether a command is `SIOCADDRT` or `SIOCDELRT`.
pub fn is_rtentry_command(command: u32) -> bool {
    matches!(command, sioc::ADDRT | sioc::DELRT)
}

/// The name at the start of a structure.
fn name_in(bytes: &[u8]) -> Result<String> {
    let name = bytes[..IF_NAME_MAX + 1].split(|&byte| byte == 0).next().unwrap_or_default();
    let name = &name[..name.len().min(IF_NAME_MAX)];
    String::from_utf8(name.to_vec()).map_err(|_| Errno::ENODEV)
}

/// Serves a command with a `struct ifreq`, changed in place.
///
/// # Errors
/// `ENODEV`: no such device. `EPERM`: a change without `CAP_NET_ADMIN`. `EADDRNOTAVAIL`: no such address. `EINVAL`: a value that
/// cannot be. `EOPNOTSUPP`: nothing is known of it (`SIOCETHTOOL`, `SIOCSIFMETRIC`).
pub fn ifreq_ioctl(
    stack: &NetStack,
    caller: IoctlCaller,
    command: u32,
    request: &mut [u8; IFREQ],
) -> Result<()> {
    use sioc::*;
    let mut stack = stack.lock();
    let changes = matches!(
        command,
        SIFFLAGS
            | SIFADDR
            | SIFDSTADDR
            | SIFBRDADDR
            | SIFNETMASK
            | SIFMETRIC
            | SIFMTU
            | SIFNAME
            | SIFHWADDR
            | SIFHWBROADCAST
            | SIFTXQLEN
            | DARP
            | SARP
            | BRADDBR..=BRDELIF
    );
    match command {
        DARP | GARP | SARP => {
            if changes && !caller.net_admin {
                return Err(Errno::EPERM);
            }
            return arp(&mut stack, caller.net, command, request);
        }
        GIFNAME => {
            let index = u32::from_ne_bytes([request[16], request[17], request[18], request[19]]);
            let name = stack.dev_get_by_index(caller.net, index).ok_or(Errno::ENODEV)?.name.clone();
            request[..16].fill(0);
            request[..name.len()].copy_from_slice(name.as_bytes());
            return Ok(());
        }
        BRADDBR | BRDELBR => {
            if !caller.net_admin {
                return Err(Errno::EPERM);
            }
            return bridge(&mut stack, caller.net, command, &name_in(request)?);
        }
        _ => {}
    }
    let label = name_in(request)?;
    let base = label.split(':').next().unwrap_or_default();
    let dev = stack.dev_get_by_name(caller.net, base).ok_or(Errno::ENODEV)?;
    if changes && !caller.net_admin {
        return Err(Errno::EPERM);
    }
    let (id, request) = (dev.id, &mut request[16..]);
    match command {
        GIFADDR | SIFADDR | GIFDSTADDR | SIFDSTADDR | GIFBRDADDR | SIFBRDADDR | GIFNETMASK | SIFNETMASK => {
            return address(&mut stack, id, &label, command, request);
        }
        SIFFLAGS if label.contains(':') => {
            let flags = u16::from_ne_bytes([request[0], request[1]]);
            return alias_down(&mut stack, id, &label, flags.into());
        }
        _ => {}
    }
    if changes { set(&mut stack, id, command, request) } else { get(&stack, id, command, request) }
}

/// `dev_ifsioc_locked`
fn get(stack: &Stack, id: DevId, command: u32, value: &mut [u8]) -> Result<()> {
    use sioc::*;
    let dev = stack.dev(id).ok_or(Errno::ENODEV)?;
    match command {
        GIFFLAGS => value[..2].copy_from_slice(&(dev.flags as u16).to_ne_bytes()),
        GIFMETRIC => value[..4].fill(0),
        GIFMTU => value[..4].copy_from_slice(&dev.mtu.to_ne_bytes()),
        GIFTXQLEN => value[..4].copy_from_slice(&dev.tx_queue_len.to_ne_bytes()),
        GIFINDEX => value[..4].copy_from_slice(&dev.ifindex.to_ne_bytes()),
        GIFHWADDR => {
            value[..16].fill(0);
            value[..2].copy_from_slice(&dev.dev_type.to_ne_bytes());
            if dev.has_link_address() {
                value[2..8].copy_from_slice(&dev.dev_addr.0);
            }
        }
        GIFMAP => value.fill(0),
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(())
}

/// `dev_ifsioc`
fn set(stack: &mut Stack, id: DevId, command: u32, value: &[u8]) -> Result<()> {
    use sioc::*;
    let number = u32::from_ne_bytes([value[0], value[1], value[2], value[3]]);
    let dev = stack.dev(id).ok_or(Errno::ENODEV)?;
    let dev_type = dev.dev_type;
    let address = MacAddr([value[2], value[3], value[4], value[5], value[6], value[7]]);
    let family = u16::from_ne_bytes([value[0], value[1]]);
    match command {
        SIFFLAGS => {
            stack.dev_change_flags(id, number & 0xffff, 0xffff)?;
        }
        SIFMTU => stack.dev_set_mtu(id, number).map_err(|error| error.errno)?,
        SIFNAME => {
            let name = value[..IF_NAME_MAX].split(|&byte| byte == 0).next().unwrap_or_default();
            stack.dev_change_name(id, std::str::from_utf8(name).map_err(|_| Errno::EINVAL)?)?;
        }
        SIFHWADDR if family != dev_type => return Err(Errno::EINVAL),
        SIFHWADDR => stack.dev_set_mac_address(id, address)?,
        SIFHWBROADCAST if family != dev_type => return Err(Errno::EINVAL),
        SIFHWBROADCAST => stack.dev_mut(id).ok_or(Errno::ENODEV)?.broadcast = address,
        SIFTXQLEN if (number as i32) < 0 => return Err(Errno::EINVAL),
        SIFTXQLEN => stack.dev_mut(id).ok_or(Errno::ENODEV)?.tx_queue_len = number,
        BRADDIF | BRDELIF => {
            if !matches!(dev.kind, DeviceKind::Bridge(_)) {
                return Err(Errno::EOPNOTSUPP);
            }
            let net = dev.net;
            let port = stack.dev_get_by_index(net, number).ok_or(Errno::EINVAL)?;
            let (port, master) = (port.id, port.master);
            if command == BRADDIF && master.is_some() {
                return Err(Errno::EBUSY);
            }
            if command == BRDELIF && master != Some(id) {
                return Err(Errno::EINVAL);
            }
            let master = (command == BRADDIF).then_some(id);
            stack.set_master(port, master).map_err(|error| error.errno)?;
            stack.rtmsg_ifinfo(RTM_NEWLINK, port, 0);
            return Ok(());
        }
        _ => return Err(Errno::EOPNOTSUPP),
    }
    stack.rtmsg_ifinfo(RTM_NEWLINK, id, 0);
    Ok(())
}

/// `br_ioctl_stub`: a bridge comes or goes.
fn bridge(stack: &mut Stack, net: u64, command: u32, name: &str) -> Result<()> {
    if command == sioc::BRADDBR {
        let id = stack.register_netdevice(net, NetDevice::bridge(name))?;
        stack.rtmsg_ifinfo(RTM_NEWLINK, id, u32::MAX);
        return Ok(());
    }
    let dev = stack.dev_get_by_name(net, name).ok_or(Errno::ENXIO)?;
    if !matches!(dev.kind, DeviceKind::Bridge(_)) {
        return Err(Errno::EPERM);
    }
    if dev.is_up() {
        return Err(Errno::EBUSY);
    }
    let id = dev.id;
    stack.unregister_netdevice(id);
    Ok(())
}

/// A `struct sockaddr_in`.
fn sockaddr(address: Ipv4Addr, value: &mut [u8]) {
    /// `AF_INET`
    const AF_INET: u16 = 2;
    value[..16].fill(0);
    value[..2].copy_from_slice(&AF_INET.to_ne_bytes());
    value[4..8].copy_from_slice(&address.octets());
}

fn mask_of(prefix_len: u8) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0))
}

/// `inet_mask_len`; `None` for what is no mask.
fn mask_len(mask: Ipv4Addr) -> Option<u8> {
    let bits = mask.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() >= 32).then_some(bits.leading_ones() as u8)
}

/// `inet_abc_len`: how long a network was before there were masks. `EINVAL` for what is no host.
fn class_len(address: Ipv4Addr) -> Result<u8> {
    match address.octets()[0] {
        0 if address.is_unspecified() => Ok(0),
        0..=127 => Ok(8),
        128..=191 => Ok(16),
        192..=223 => Ok(24),
        _ if address.is_broadcast() => Ok(0),
        224..=239 => Err(Errno::EINVAL),
        _ => Ok(32),
    }
}

/// `devinet_ioctl`
fn address(stack: &mut Stack, id: DevId, label: &str, command: u32, value: &mut [u8]) -> Result<()> {
    use sioc::*;
    let given = Ipv4Addr::new(value[4], value[5], value[6], value[7]);
    let dev = stack.dev(id).ok_or(Errno::ENODEV)?;
    let flags = dev.flags;
    let found = dev.addresses.iter().find(|known| known.address.is_ipv4() && known.label == label).cloned();
    let v4 =
        |address: IpAddr| if let IpAddr::V4(address) = address { address } else { Ipv4Addr::UNSPECIFIED };
    let Some(known) = found else {
        if command != SIFADDR {
            return Err(Errno::EADDRNOTAVAIL);
        }
        let len = class_len(given)?;
        if given.is_unspecified() {
            return Ok(());
        }
        return stack.inet_insert_ifa(id, classful(given, len, label, flags)).map_err(|error| error.errno);
    };
    match command {
        GIFADDR => sockaddr(v4(known.address), value),
        GIFDSTADDR => sockaddr(v4(known.prefix_address()), value),
        GIFBRDADDR => sockaddr(known.broadcast.unwrap_or(Ipv4Addr::UNSPECIFIED), value),
        GIFNETMASK => sockaddr(mask_of(known.prefix_len), value),
        _ => {
            let mut new = known.clone();
            match command {
                SIFADDR => {
                    let len = class_len(given)?;
                    if known.address == IpAddr::V4(given) {
                        return Ok(());
                    }
                    new = classful(given, len, label, flags);
                }
                SIFDSTADDR if class_len(given).is_ok() => {
                    new.peer = Some(given.into()).filter(|peer| *peer != new.address);
                }
                SIFDSTADDR => return Err(Errno::EINVAL),
                SIFBRDADDR => new.broadcast = Some(given),
                _ => {
                    let len = mask_len(given).ok_or(Errno::EINVAL)?;
                    let own = v4(known.address);
                    // A broadcast address that followed from the old mask follows from the new one.
                    if flags & iff::BROADCAST != 0
                        && len < 31
                        && known.broadcast == Some(broadcast_of(own, known.prefix_len))
                    {
                        new.broadcast = Some(broadcast_of(own, len));
                    }
                    new.prefix_len = len;
                }
            }
            if new == known {
                return Ok(());
            }
            stack.inet_del_ifa(id, known.address, known.prefix_len);
            if given.is_unspecified() && command == SIFADDR {
                return Ok(());
            }
            return stack.inet_insert_ifa(id, new).map_err(|error| error.errno);
        }
    }
    Ok(())
}

/// An address with the mask of its class.
fn classful(address: Ipv4Addr, len: u8, label: &str, flags: u32) -> InterfaceAddress {
    let prefix_len = if flags & iff::POINTOPOINT != 0 { 32 } else { len };
    let broadcast =
        (flags & iff::BROADCAST != 0 && prefix_len < 31).then(|| broadcast_of(address, prefix_len));
    let scope = if address.is_loopback() { scope::HOST } else { scope::UNIVERSE };
    InterfaceAddress {
        label: label.to_owned(),
        broadcast,
        flags: ifa_f::PERMANENT,
        ..InterfaceAddress::new(address.into(), prefix_len, scope)
    }
}

/// An alias that is taken down is removed.
fn alias_down(stack: &mut Stack, id: DevId, label: &str, flags: u32) -> Result<()> {
    let dev = stack.dev(id).ok_or(Errno::ENODEV)?;
    let known = dev.addresses.iter().find(|known| known.address.is_ipv4() && known.label == label);
    let known = known.ok_or(Errno::EADDRNOTAVAIL)?;
    let (address, prefix_len) = (known.address, known.prefix_len);
    if flags & iff::UP == 0 {
        stack.inet_del_ifa(id, address, prefix_len);
    }
    Ok(())
}

/// `SIOCGIFCONF`: a `struct ifreq` for each address of IPv4, as many as fit into `room` bytes.
pub fn ifconf(stack: &NetStack, net: u64, room: usize) -> Vec<u8> {
    let stack = stack.lock();
    let mut out = Vec::new();
    for dev in stack.devices_of(net) {
        for known in &dev.addresses {
            let IpAddr::V4(address) = known.address else { continue };
            if out.len() + IFREQ > room {
                return out;
            }
            let mut request = [0; IFREQ];
            let name = known.label.as_bytes();
            request[..name.len().min(IF_NAME_MAX)].copy_from_slice(&name[..name.len().min(IF_NAME_MAX)]);
            sockaddr(address, &mut request[16..]);
            out.extend(request);
        }
    }
    out
}

/// `ip_rt_ioctl`: `SIOCADDRT`, `SIOCDELRT` with a `struct rtentry`, and the name of its device if it has one.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`. `EAFNOSUPPORT`: not IPv4. `EINVAL`: no mask, bits beyond it. `ENODEV`, `ENETUNREACH`: no way to
/// go. `EEXIST`, `ESRCH`.
pub fn rt_ioctl(
    stack: &NetStack,
    caller: IoctlCaller,
    command: u32,
    entry: &[u8; RTENTRY],
    device: Option<&[u8]>,
) -> Result<()> {
    /// `RTF_*`
    const RTF_GATEWAY: u16 = 2;
    const RTF_HOST: u16 = 4;
    const RTF_REJECT: u16 = 0x200;
    if !caller.net_admin {
        return Err(Errno::EPERM);
    }
    let family = |at: usize| u16::from_ne_bytes([entry[at], entry[at + 1]]);
    let ip = |at: usize| Ipv4Addr::new(entry[at + 4], entry[at + 5], entry[at + 6], entry[at + 7]);
    let flags = u16::from_ne_bytes([entry[56], entry[57]]);
    let metric = i16::from_ne_bytes([entry[80], entry[81]]);
    if family(8) != 2 {
        return Err(Errno::EAFNOSUPPORT);
    }
    let mut stack = stack.lock();
    let (destination, gateway, mask) = (ip(8), ip(24), ip(40));
    let mut prefix_len = 32;
    if flags & RTF_HOST == 0 {
        if family(40) != 2 && (!mask.is_unspecified() || family(40) != 0) {
            return Err(Errno::EAFNOSUPPORT);
        }
        prefix_len = mask_len(mask).ok_or(Errno::EINVAL)?;
        if destination.to_bits() & !mask.to_bits() != 0 {
            return Err(Errno::EINVAL);
        }
    }
    let mut hop = NextHop { dev: None, gateway: None, weight: 1, flags: 0 };
    if let Some(name) = device {
        let mut bytes = [0; 16];
        bytes[..name.len().min(15)].copy_from_slice(&name[..name.len().min(15)]);
        let name = name_in(&bytes)?;
        let base = name.split(':').next().unwrap_or_default();
        hop.dev = Some(stack.dev_get_by_name(caller.net, base).ok_or(Errno::ENODEV)?.id);
    }
    let mut own_scope = scope::LINK;
    if flags & RTF_GATEWAY != 0 {
        if family(24) != 2 || gateway.is_unspecified() {
            return Err(Errno::EINVAL);
        }
        hop.gateway = Some(gateway.into());
        own_scope = scope::UNIVERSE;
    }
    // A metric is one more than it is (`rtentry_to_fib_config`).
    let metric = u32::try_from(metric).map_or(0, |metric| metric.saturating_sub(1));
    if command == sioc::DELRT {
        let is_it = |route: &Route| {
            route.table == RT_TABLE_MAIN
                && (route.destination, route.prefix_len) == (destination.into(), prefix_len)
                && (metric == 0 || route.metric == metric)
                && hop
                    .gateway
                    .is_none_or(|gateway| route.nexthops.iter().any(|known| known.gateway == Some(gateway)))
                && hop.dev.is_none_or(|dev| route.uses(dev))
        };
        let net = stack.net_mut(caller.net).ok_or(Errno::ENODEV)?;
        let removed = net.fib.remove(is_it).ok_or(Errno::ESRCH)?;
        stack.rtmsg_route(RTM_DELROUTE, caller.net, &removed, 0);
        return Ok(());
    }
    let mut kind = RouteType::Unicast;
    let mut nexthops = vec![hop];
    if flags & RTF_REJECT != 0 {
        (kind, own_scope, nexthops) = (RouteType::Unreachable, scope::HOST, Vec::new());
    } else if let Some(gateway) = hop.gateway {
        let flow = Flow { oif: hop.dev, ..Flow::to(gateway) };
        let found = stack.fib_lookup(caller.net, &flow)?;
        if found.route.scope < scope::LINK || found.route.kind == RouteType::Local {
            return Err(Errno::ENETUNREACH);
        }
        nexthops[0].dev = found.hop.dev;
    } else {
        let dev = hop.dev.and_then(|dev| stack.dev(dev)).ok_or(Errno::ENODEV)?;
        if !dev.is_up() {
            return Err(Errno::ENETDOWN);
        }
    }
    let route = Route {
        table: RT_TABLE_MAIN,
        destination: destination.into(),
        prefix_len,
        kind,
        scope: own_scope,
        protocol: RTPROT_BOOT,
        metric,
        nexthops,
        ..Route::new(RT_TABLE_MAIN, destination.into(), prefix_len, DevId::default())
    };
    let mode = AddMode { create: true, exclusive: true, ..AddMode::default() };
    let net = stack.net_mut(caller.net).ok_or(Errno::ENODEV)?;
    net.fib.insert(route.clone(), mode)?;
    stack.rtmsg_route(RTM_NEWROUTE, caller.net, &route, 0);
    Ok(())
}

/// `arp_ioctl` with a `struct arpreq`, of which the first 40 bytes are there: address, link-layer address, flags and the start of
/// the mask; the device is found by the address.
fn arp(stack: &mut Stack, net: u64, command: u32, request: &mut [u8; IFREQ]) -> Result<()> {
    /// `ATF_*`
    const ATF_COM: u32 = 2;
    const ATF_PERM: u32 = 4;
    if u16::from_ne_bytes([request[0], request[1]]) != 2 {
        return Err(Errno::EPFNOSUPPORT);
    }
    let address: IpAddr = Ipv4Addr::new(request[4], request[5], request[6], request[7]).into();
    let mut flags = u32::from_ne_bytes([request[32], request[33], request[34], request[35]]);
    let now = stack.now();
    let known =
        stack.net(net).and_then(|net| net.neighbours.entries.iter().find(|((_, at), _)| *at == address));
    match command {
        sioc::GARP => {
            let (_, known) = known.ok_or(Errno::ENXIO)?;
            flags = if known.nud_state & nud::PERMANENT != 0 { ATF_PERM | ATF_COM } else { ATF_COM };
            request[16..32].fill(0);
            request[16..18].copy_from_slice(&1u16.to_ne_bytes());
            request[18..24].copy_from_slice(&known.lladdr.unwrap_or_default().0);
            request[32..36].copy_from_slice(&flags.to_ne_bytes());
        }
        sioc::DARP => {
            let (key, _) = known.ok_or(Errno::ENXIO)?;
            let key = *key;
            if let Some(net) = stack.net_mut(net) {
                net.neighbours.entries.remove(&key);
            }
        }
        _ => {
            let dev = stack.fib_lookup(net, &Flow::to(address))?.hop.dev.ok_or(Errno::EINVAL)?;
            let [a, b, c, d, e, f] = [18, 19, 20, 21, 22, 23].map(|at| request[at]);
            let nud_state = if flags & ATF_PERM != 0 { nud::PERMANENT } else { nud::STALE };
            let new = Neighbour { lladdr: Some(MacAddr([a, b, c, d, e, f])), nud_state, updated: now };
            if let Some(net) = stack.net_mut(net) {
                net.neighbours.entries.insert((dev, address), new);
            }
        }
    }
    Ok(())
}
