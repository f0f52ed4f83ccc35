use std::sync::Arc;

use super::nlattr::Message;
use super::rtnetlink::{NetRef, Nets, Sender, rtnetlink_rcv, rtnlgrp};
use super::*;
use crate::errno::Errno;

use crate::user_namespace::UserNamespace;

/// No other namespace is known.
struct NoNets;

impl Nets for NoNets {
    fn by_pid(&self, _pid: u32) -> crate::errno::Result<NetRef> {
        Err(Errno::ESRCH)
    }
    fn by_fd(&self, _fd: u32) -> crate::errno::Result<NetRef> {
        Err(Errno::EBADF)
    }
}

fn sender(port: u32, may_change: bool) -> Sender<'static> {
    Sender { port, may_change, uid: 0, ext_ack: true, cap_ack: false, strict: true, nets: &NoNets }
}

fn rcv(ns: &NetNamespace, port: u32, may_change: bool, datagram: &[u8]) -> Vec<Vec<u8>> {
    rtnetlink_rcv(ns, &sender(port, may_change), datagram)
}

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;

fn ns() -> Arc<NetNamespace> {
    NetNamespace::initial(1, UserNamespace::initial())
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = (16 + payload.len() as u32).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend((flags | REQUEST).to_ne_bytes());
    out.extend(7u32.to_ne_bytes());
    out.extend(0u32.to_ne_bytes());
    out.extend(payload);
    out
}

fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.extend(index.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(change.to_ne_bytes());
    out
}

/// 127.0.0.1/8 on device 1, as bubblewrap adds it.
fn localhost() -> Vec<u8> {
    let mut out = vec![2, 8, 0x80, 254];
    out.extend(1u32.to_ne_bytes());
    for kind in [2u16, 1] {
        out.extend(8u16.to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend([127, 0, 0, 1]);
    }
    out
}

fn error_of(answer: &[Vec<u8>]) -> i32 {
    let ack = answer.last().expect("an answer");
    assert_eq!(ack[4..6], 2u16.to_ne_bytes(), "not an NLMSG_ERROR");
    i32::from_ne_bytes(ack[16..20].try_into().unwrap())
}

#[test]
fn lo_is_set_up_as_bubblewrap_does_it() {
    let ns = ns();
    assert_eq!(error_of(&rcv(&ns, 9, true, &message(20, ACK, &localhost()))), 0);
    assert_eq!(error_of(&rcv(&ns, 9, true, &message(16, ACK, &link(1, 1, 1)))), 0);
    let lo = ns.device_by_name("lo").unwrap();
    assert_eq!(lo.flags & (iff::UP | iff::RUNNING), iff::UP | iff::RUNNING);
    let shown: Vec<_> = lo.addresses.iter().map(|a| format!("{}/{}", a.address, a.prefix_len)).collect();
    assert_eq!(shown, ["127.0.0.1/8", "::1/128"]);
}

#[test]
fn changes_need_the_right_and_name_what_exists() {
    let ns = ns();
    assert_eq!(error_of(&rcv(&ns, 9, false, &message(16, ACK, &link(1, 1, 1)))), -Errno::EPERM.0);
    assert_eq!(error_of(&rcv(&ns, 9, true, &message(16, ACK, &link(2, 1, 1)))), -Errno::ENODEV.0);
    assert_eq!(error_of(&rcv(&ns, 9, true, &message(24, ACK, &[0; 12]))), -Errno::EOPNOTSUPP.0);
    let twice = message(20, ACK, &localhost());
    rcv(&ns, 9, true, &twice);
    assert_eq!(error_of(&rcv(&ns, 9, true, &twice)), -Errno::EEXIST.0);
}

#[test]
fn a_dump_lists_devices_and_ends() {
    let answer = rcv(&ns(), 9, false, &message(18, DUMP, &[0]));
    assert_eq!(answer.len(), 2);
    assert_eq!(answer[0][4..6], 16u16.to_ne_bytes());
    assert!(answer[0].windows(3).any(|bytes| bytes == b"lo\0"));
    assert_eq!(answer[1][4..6], 3u16.to_ne_bytes());
}

#[test]
fn who_listens_is_told_of_changes() {
    let ns = ns();
    ns.stack().lock().listen();
    let answer = rcv(&ns, 9, true, &message(16, 0, &link(1, 1, 1)));
    let groups: Vec<_> = ns.stack().lock().take_notifications().iter().map(|told| told.group).collect();
    for group in [rtnlgrp::LINK, rtnlgrp::IPV4_IFADDR, rtnlgrp::IPV6_IFADDR, rtnlgrp::IPV4_ROUTE] {
        assert!(groups.contains(&group), "{group}");
    }
    assert!(answer.is_empty());
}

/// `ip link add NAME type veth peer name PEER`
fn veth(name: &str, peer: &str) -> Vec<u8> {
    const CREATE: u16 = 0x400;
    const EXCL: u16 = 0x200;
    let mut message = Message::new(16, REQUEST | ACK | CREATE | EXCL, 7, 0, &[0; 16]);
    message.put_string(3, name);
    message.nest(18, |message| {
        message.put_string(1, "veth");
        message.nest(2, |message| {
            message.nest(1, |message| {
                message.raw(&[0; 16]);
                message.put_string(3, peer);
            });
        });
    });
    message.finish()
}

#[test]
fn the_ends_of_a_cable_go_together() {
    let ns = ns();
    assert_eq!(error_of(&rcv(&ns, 9, true, &veth("a", "b"))), 0);
    assert_eq!(error_of(&rcv(&ns, 9, true, &veth("a", "c"))), -Errno::EEXIST.0);
    assert!(ns.device_by_name("c").is_none(), "undone");
    let (a, b) = (ns.device_by_name("a").unwrap(), ns.device_by_name("b").unwrap());
    assert_eq!((a.link(), b.link()), (Some(b.id), Some(a.id)));
    assert_eq!(error_of(&rcv(&ns, 9, true, &message(17, ACK, &link(b.ifindex, 0, 0)))), 0);
    let names: Vec<_> = ns.devices().into_iter().map(|dev| dev.name).collect();
    assert_eq!(names, ["lo"]);
}

#[test]
fn a_device_that_moves_leaves_its_addresses_and_goes_with_its_namespace() {
    let ns = ns();
    let other = ns.copy_net_ns(2, UserNamespace::initial());
    rcv(&ns, 9, true, &veth("a", "b"));
    let (a, b) = (ns.device_by_name("a").unwrap(), ns.device_by_name("b").unwrap());
    {
        let mut stack = ns.stack().lock();
        let address = InterfaceAddress::new("10.0.0.1".parse().unwrap(), 24, scope::UNIVERSE);
        stack.inet_insert_ifa(b.id, address).unwrap();
        stack.dev_change_flags(a.id, iff::UP, iff::UP).unwrap();
        stack.dev_change_flags(b.id, iff::UP, iff::UP).unwrap();
        assert!(stack.dev(a.id).unwrap().carrier);
        assert!(stack.net(1).unwrap().fib.routes.iter().any(|route| route.uses(b.id)));
        stack.dev_change_net_namespace(b.id, 2, None).unwrap();
        assert!(!stack.dev(a.id).unwrap().carrier);
        assert!(!stack.net(1).unwrap().fib.routes.iter().any(|route| route.uses(b.id)));
    }
    let moved = other.device_by_name("b").unwrap();
    assert!(moved.addresses.is_empty() && !moved.is_up());
    let lo = other.device_by_name("lo").unwrap();
    assert!(other.stack().lock().dev_change_net_namespace(lo.id, 1, None).is_err());
    drop(other);
    assert!(ns.device_by_name("a").is_none());
}

#[test]
fn names_are_patterns_and_unique() {
    let ns = ns();
    let mut stack = ns.stack().lock();
    for wanted in ["veth0", "veth1"] {
        let id = stack.register_netdevice(1, NetDevice::dummy("veth%d")).unwrap();
        assert_eq!(stack.dev(id).unwrap().name, wanted);
    }
    for bad in ["", ".", "a/b", "a b", "a:b", "%s", "a%d%d", "sixteen-letters-"] {
        assert_eq!(stack.dev_get_valid_name(1, bad), Err(Errno::EINVAL), "{bad}");
    }
    assert_eq!(stack.dev_get_valid_name(1, "lo"), Err(Errno::EEXIST));
}

#[test]
fn no_datagram_makes_it_panic() {
    let ns = ns();
    let mut state = 1u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for _ in 0..20_000 {
        let payload: Vec<u8> = match random() % 4 {
            0 => localhost(),
            1 => link(random() % 3, random(), random()),
            2 => veth("a", "b%d")[16..].to_vec(),
            _ => (0..random() % 100).map(|_| random() as u8).collect(),
        };
        let mut datagram = message((14 + random() % 80) as u16, random() as u16, &payload);
        for _ in 0..random() % 4 {
            let at = random() as usize % datagram.len();
            datagram[at] = random() as u8;
        }
        rcv(&ns, random(), true, &datagram);
    }
}
