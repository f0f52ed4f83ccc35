//! rtnetlink: links and addresses (`rtnetlink(7)`, `net/core/rtnetlink.c`, `net/ipv4/devinet.c`).
//!
//! Served are `RTM_GETLINK`, `RTM_NEWLINK`/`RTM_SETLINK` of an existing device's flags, and `RTM_GETADDR`, `RTM_NEWADDR`,
//! `RTM_DELADDR`; everything else is `EOPNOTSUPP`, as on a kernel that is built without it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_MULTIPART, NLM_F_REQUEST};
use netlink_packet_core::{NetlinkHeader, NetlinkMessage, NetlinkPayload, ParseableParametrized};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage, State};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::inetdev::scope;
use super::{InterfaceAddress, NetDevice, NetNamespace, iff};
use crate::errno::{Errno, Result};

/// Multicast groups, as `bind(2)` takes them in `nl_groups`.
pub mod rtmgrp {
    /// `RTMGRP_LINK`
    pub const LINK: u32 = 1;
    /// `RTMGRP_IPV4_IFADDR`
    pub const IPV4_IFADDR: u32 = 0x10;
    /// `RTMGRP_IPV6_IFADDR`
    pub const IPV6_IFADDR: u32 = 0x100;
}

/// What a message to the kernel leads to.
#[derive(Default)]
pub struct Answer {
    /// Datagrams for the sender, in order.
    pub replies: Vec<Vec<u8>>,
    /// Datagrams for the members of groups, in order.
    pub notifications: Vec<(u32, Vec<u8>)>,
}

const HEADER: usize = 16;
/// `NLMSG_MIN_TYPE`: smaller types are control messages.
const NLMSG_MIN_TYPE: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// How much of a dump goes into one datagram, in bytes (`NLMSG_GOODSIZE`).
const DUMP_SIZE: usize = 8192 - 320;
const IF_NAME_MAX: usize = 15;

fn header(len: usize, kind: u16, flags: u16, seq: u32, port: u32) -> Vec<u8> {
    let mut out = (len as u32).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(seq.to_ne_bytes());
    out.extend(port.to_ne_bytes());
    out
}

/// `netlink_ack`: the error, or 0, and the header of the message it is about.
fn ack(request: &NetlinkHeader, message: &[u8], port: u32, error: Option<Errno>) -> Vec<u8> {
    /// `NLM_F_CAPPED`: of the message there is the header only.
    const CAPPED: u16 = 0x100;
    let about = if error.is_some() { message } else { &message[..HEADER] };
    let flags = if error.is_some() { 0 } else { CAPPED };
    let mut out = header(HEADER + 4 + about.len(), NLMSG_ERROR, flags, request.sequence_number, port);
    out.extend(error.map_or(0, |error| -error.0).to_ne_bytes());
    out.extend(about);
    out
}

/// Serves a datagram of a program: `rtnetlink_rcv`. `port` is the sender's, `may_change` whether it has `CAP_NET_ADMIN` over
/// the namespace.
pub fn rtnetlink_rcv(ns: &NetNamespace, port: u32, may_change: bool, datagram: &[u8]) -> Answer {
    let mut answer = Answer::default();
    let mut rest = datagram;
    while rest.len() >= HEADER {
        let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let len = word(0) as usize;
        if len < HEADER || len > rest.len() {
            break;
        }
        let mut request = NetlinkHeader::default();
        request.length = word(0);
        request.message_type = word(4) as u16;
        request.flags = (word(4) >> 16) as u16;
        request.sequence_number = word(8);
        let message = &rest[..len];
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        if request.flags & NLM_F_REQUEST == 0 {
            continue;
        }
        let result = if request.message_type < NLMSG_MIN_TYPE {
            Ok(())
        } else {
            rcv_msg(ns, port, may_change, &request, &message[HEADER..], &mut answer)
        };
        match result {
            Err(error) => answer.replies.push(ack(&request, message, port, Some(error))),
            Ok(()) if request.flags & NLM_F_ACK != 0 => {
                answer.replies.push(ack(&request, message, port, None));
            }
            Ok(()) => {}
        }
    }
    answer
}

/// One message: `rtnetlink_rcv_msg`.
fn rcv_msg(
    ns: &NetNamespace,
    port: u32,
    may_change: bool,
    request: &NetlinkHeader,
    payload: &[u8],
    answer: &mut Answer,
) -> Result<()> {
    /// The last two bits of a type: new, delete, get, set.
    const GET: u16 = 2;
    let kind = request.message_type;
    if kind & 3 != GET && !may_change {
        return Err(Errno::EPERM);
    }
    let dump = kind & 3 == GET && request.flags & NLM_F_DUMP == NLM_F_DUMP;
    // Dumps may come with a header of one byte only, the family (`struct rtgenmsg`).
    /// `struct ifinfomsg`, `struct ifaddrmsg`.
    const HEADERS: [usize; 2] = [16, 8];
    let mut padded = [0; HEADERS[0]];
    let least = HEADERS[usize::from(kind >= 20)];
    let payload = if dump && payload.len() < least {
        padded[..payload.len()].copy_from_slice(payload);
        &padded[..least]
    } else {
        payload
    };
    let parsed = match kind {
        16 | 18 | 19 | 20 | 21 | 22 => RouteNetlinkMessage::parse_with_param(payload, kind),
        _ => return Err(Errno::EOPNOTSUPP),
    };
    let reply = |flags, message| datagram(port, request.sequence_number, flags, message);
    match parsed.map_err(|_| Errno::EINVAL)? {
        RouteNetlinkMessage::GetLink(_) if dump => {
            let all = ns.devices().iter().map(link_message).map(RouteNetlinkMessage::NewLink).collect();
            answer.replies.extend(dumped(port, request.sequence_number, all));
            Ok(())
        }
        RouteNetlinkMessage::GetLink(link) => {
            let dev = find(ns, &link)?;
            answer.replies.push(reply(0, RouteNetlinkMessage::NewLink(link_message(&dev))));
            Ok(())
        }
        RouteNetlinkMessage::GetAddress(wanted) if dump => {
            let family = wanted.header.family;
            let mut all = Vec::new();
            for dev in ns.devices() {
                let seen = |known: &&InterfaceAddress| {
                    family == AddressFamily::Unspec || family == family_of(&known.address)
                };
                let addresses = dev.addresses.iter().filter(seen);
                all.extend(
                    addresses.map(|known| RouteNetlinkMessage::NewAddress(address_message(&dev, known))),
                );
            }
            answer.replies.extend(dumped(port, request.sequence_number, all));
            Ok(())
        }
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::SetLink(link) => {
            let dev = find(ns, &link)?;
            let (flags, change) = (link.header.flags.bits(), link.header.change_mask.bits());
            // Without a mask all flags count (`rtnl_dev_combine_flags`).
            let change = if change == 0 && flags != 0 { u32::MAX } else { change };
            if let Some((dev, gained)) = ns.change_flags(dev.ifindex, flags, change) {
                let message = RouteNetlinkMessage::NewLink(link_message(&dev));
                answer.notifications.push((rtmgrp::LINK, datagram(0, 0, 0, message)));
                for known in gained {
                    let message = RouteNetlinkMessage::NewAddress(address_message(&dev, &known));
                    answer.notifications.push((group_of(&known.address), datagram(0, 0, 0, message)));
                }
            }
            Ok(())
        }
        RouteNetlinkMessage::NewAddress(message) => {
            let (address, known) = wanted_address(ns, &message)?;
            ns.with_device(message.header.index, |dev| dev.add_address(known.clone()))??;
            let dev = ns.device_by_index(message.header.index).ok_or(Errno::ENODEV)?;
            let message = RouteNetlinkMessage::NewAddress(address_message(&dev, &known));
            answer.notifications.push((group_of(&address), datagram(0, 0, 0, message)));
            Ok(())
        }
        RouteNetlinkMessage::DelAddress(message) => {
            let (address, known) = wanted_address(ns, &message)?;
            let removed = ns.with_device(message.header.index, |dev| {
                dev.remove_address(known.address, known.prefix_len)
            })??;
            let dev = ns.device_by_index(message.header.index).ok_or(Errno::ENODEV)?;
            let message = RouteNetlinkMessage::DelAddress(address_message(&dev, &removed));
            answer.notifications.push((group_of(&address), datagram(0, 0, 0, message)));
            Ok(())
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

impl NetNamespace {
    fn with_device<T>(&self, ifindex: u32, with: impl FnOnce(&mut NetDevice) -> T) -> Result<T> {
        let mut stack = self.stack.lock();
        let id = stack.dev_get_by_index(self.common.inum(), ifindex).ok_or(Errno::ENODEV)?.id;
        stack.dev_mut(id).map(with).ok_or(Errno::ENODEV)
    }

    /// `dev_change_flags`: the device and the addresses it has got, where something has changed.
    fn change_flags(
        &self,
        ifindex: u32,
        flags: u32,
        change: u32,
    ) -> Option<(NetDevice, Vec<InterfaceAddress>)> {
        let changed = self.with_device(ifindex, |dev| {
            let before = dev.addresses.clone();
            dev.change_flags(flags, change).then(|| {
                let gained = dev.addresses.iter().filter(|known| !before.contains(known)).cloned().collect();
                (dev.clone(), gained)
            })
        });
        changed.ok().flatten()
    }

    /// The flags of `SIOCSIFFLAGS` (`netdevice(7)`).
    ///
    /// # Errors
    /// `ENODEV`: there is no device of that name.
    pub fn set_flags(&self, name: &str, flags: u32) -> Result<()> {
        let dev = self.device_by_name(name).ok_or(Errno::ENODEV)?;
        self.change_flags(dev.ifindex, flags, u32::MAX);
        Ok(())
    }
}

impl NetDevice {
    /// Sets the flags that `change` has to those of `flags`: `dev_change_flags`. Only `IFF_UP` changes anything here. A
    /// loopback device that comes up gets its addresses (`inetdev_event`, `init_loopback`); one that goes down loses those of
    /// IPv6. Gives whether something has changed.
    pub fn change_flags(&mut self, flags: u32, change: u32) -> bool {
        let (was, up) = (self.flags & iff::UP != 0, flags & iff::UP != 0);
        if change & iff::UP == 0 || was == up {
            return false;
        }
        let running = iff::UP | iff::RUNNING | iff::LOWER_UP;
        if up {
            self.flags |= running;
            let has = |v4: bool| self.addresses.iter().any(|known| known.address.is_ipv4() == v4);
            let (has_v4, has_v6) = (has(true), has(false));
            let mut give = |address: IpAddr, prefix_len, label: &str| {
                let label = label.to_owned();
                self.addresses.push(InterfaceAddress {
                    label,
                    ..InterfaceAddress::new(address, prefix_len, scope::HOST)
                });
            };
            if !has_v4 {
                give(Ipv4Addr::LOCALHOST.into(), 8, "lo");
            }
            if !has_v6 {
                give(Ipv6Addr::LOCALHOST.into(), 128, "");
            }
        } else {
            self.flags &= !running;
            self.addresses.retain(|known| known.address.is_ipv4());
        }
        true
    }

    /// Adds an address: `inet_rtm_newaddr`.
    ///
    /// # Errors
    /// `EEXIST`: it is there. `EINVAL`: a prefix longer than the address. `EACCES`: IPv6 on a device that is down.
    pub fn add_address(&mut self, new: InterfaceAddress) -> Result<()> {
        let longest = if new.address.is_ipv4() { 32 } else { 128 };
        if new.prefix_len > longest {
            return Err(Errno::EINVAL);
        }
        let same = |known: &InterfaceAddress| {
            known.address == new.address && (new.address.is_ipv6() || known.prefix_len == new.prefix_len)
        };
        if self.addresses.iter().any(same) {
            return Err(Errno::EEXIST);
        }
        self.addresses.push(new);
        Ok(())
    }

    /// Removes an address.
    ///
    /// # Errors
    /// `EADDRNOTAVAIL`: it is not there.
    pub fn remove_address(&mut self, address: IpAddr, prefix_len: u8) -> Result<InterfaceAddress> {
        let same = |known: &InterfaceAddress| known.address == address && known.prefix_len == prefix_len;
        let at = self.addresses.iter().position(same).ok_or(Errno::EADDRNOTAVAIL)?;
        Ok(self.addresses.remove(at))
    }
}

/// The device a link message means, by index or by name. `ENODEV`; `EINVAL` where it names none; `EOPNOTSUPP` for one that is
/// to be made.
fn find(ns: &NetNamespace, link: &LinkMessage) -> Result<NetDevice> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    });
    if name.is_some_and(|name| name.len() > IF_NAME_MAX) {
        return Err(Errno::EINVAL);
    }
    let makes = link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(_)));
    let found = match (link.header.index, name) {
        (0, None) => return Err(Errno::EINVAL),
        (0, Some(name)) => ns.device_by_name(name),
        (index, _) => ns.device_by_index(index),
    };
    found.ok_or(if makes { Errno::EOPNOTSUPP } else { Errno::ENODEV })
}

/// The address of a message. `EINVAL` where it has none, or one of another family; `ENODEV`.
fn wanted_address(ns: &NetNamespace, message: &AddressMessage) -> Result<(IpAddr, InterfaceAddress)> {
    let (mut address, mut local, mut label) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(at) => address = Some(*at),
            AddressAttribute::Local(at) => local = Some(*at),
            AddressAttribute::Label(text) => label = Some(text.clone()),
            _ => {}
        }
    }
    let address = local.or(address).ok_or(Errno::EINVAL)?;
    if family_of(&address) != message.header.family || label.as_ref().is_some_and(|l| l.len() > IF_NAME_MAX) {
        return Err(Errno::EINVAL);
    }
    let dev = ns.device_by_index(message.header.index).ok_or(Errno::ENODEV)?;
    let label = if address.is_ipv4() { label.unwrap_or(dev.name) } else { String::new() };
    let prefix_len = message.header.prefix_len;
    let scope = message.header.scope.into();
    Ok((address, InterfaceAddress { label, ..InterfaceAddress::new(address, prefix_len, scope) }))
}

fn family_of(address: &IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn group_of(address: &IpAddr) -> u32 {
    if address.is_ipv4() { rtmgrp::IPV4_IFADDR } else { rtmgrp::IPV6_IFADDR }
}

/// `rtnl_fill_ifinfo`
fn link_message(dev: &NetDevice) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = dev.ifindex;
    message.header.link_layer_type = LinkLayerType::Loopback;
    message.header.flags = LinkFlags::from_bits_retain(dev.flags);
    let up = dev.flags & iff::UP != 0;
    message.attributes = vec![
        LinkAttribute::IfName(dev.name.clone()),
        LinkAttribute::TxQueueLen(1000),
        // The loopback device does not tell its state when it is up.
        LinkAttribute::OperState(if up { State::Unknown } else { State::Down }),
        LinkAttribute::Mode(Default::default()),
        LinkAttribute::Mtu(dev.mtu),
        LinkAttribute::Group(0),
        LinkAttribute::Promiscuity(0),
        LinkAttribute::NumTxQueues(1),
        LinkAttribute::NumRxQueues(1),
        LinkAttribute::Carrier(1),
        LinkAttribute::Qdisc("noqueue".into()),
        LinkAttribute::Address(vec![0; 6]),
        LinkAttribute::Broadcast(vec![0; 6]),
    ];
    message
}

/// `inet_fill_ifaddr`, `inet6_fill_ifaddr`
fn address_message(dev: &NetDevice, known: &InterfaceAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(&known.address);
    message.header.prefix_len = known.prefix_len;
    message.header.scope = known.scope.into();
    message.header.index = dev.ifindex;
    /// `IFA_F_PERMANENT`
    const PERMANENT: u8 = 0x80;
    message.header.flags = netlink_packet_route::address::AddressHeaderFlags::from_bits_retain(PERMANENT);
    message.attributes = vec![AddressAttribute::Address(known.address)];
    if known.address.is_ipv4() {
        message.attributes.push(AddressAttribute::Local(known.address));
        message.attributes.push(AddressAttribute::Label(known.label.clone()));
    }
    let flags = netlink_packet_route::address::AddressFlags::from_bits_retain(PERMANENT.into());
    message.attributes.push(AddressAttribute::Flags(flags));
    message
}

fn datagram(port: u32, seq: u32, flags: u16, message: RouteNetlinkMessage) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = seq;
    header.port_number = port;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut out = vec![0; packet.buffer_len()];
    packet.serialize(&mut out);
    out
}

/// The datagrams of a dump, with `NLMSG_DONE` at its end.
fn dumped(port: u32, seq: u32, all: Vec<RouteNetlinkMessage>) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    for message in all {
        let mut bytes = datagram(port, seq, NLM_F_MULTIPART, message);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        match out.last_mut().filter(|last| last.len() + bytes.len() <= DUMP_SIZE) {
            Some(last) => last.extend(bytes),
            None => out.push(bytes),
        }
    }
    let mut done = header(HEADER + 4, NLMSG_DONE, NLM_F_MULTIPART, seq, port);
    done.extend(0i32.to_ne_bytes());
    out.push(done);
    out
}
