use std::sync::Arc;

use super::*;
use crate::errno::Errno;

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

fn error_of(answer: &Answer) -> i32 {
    let ack = answer.replies.last().expect("an answer");
    assert_eq!(ack[4..6], 2u16.to_ne_bytes(), "not an NLMSG_ERROR");
    i32::from_ne_bytes(ack[16..20].try_into().unwrap())
}

#[test]
fn lo_is_set_up_as_bubblewrap_does_it() {
    let ns = ns();
    assert_eq!(error_of(&rtnetlink_rcv(&ns, 9, true, &message(20, ACK, &localhost()))), 0);
    assert_eq!(error_of(&rtnetlink_rcv(&ns, 9, true, &message(16, ACK, &link(1, 1, 1)))), 0);
    let lo = ns.device_by_name("lo").unwrap();
    assert_eq!(lo.flags & (iff::UP | iff::RUNNING), iff::UP | iff::RUNNING);
    let shown: Vec<_> = lo.addresses.iter().map(|a| format!("{}/{}", a.address, a.prefix_len)).collect();
    assert_eq!(shown, ["127.0.0.1/8", "::1/128"]);
}

#[test]
fn changes_need_the_right_and_name_what_exists() {
    let ns = ns();
    assert_eq!(error_of(&rtnetlink_rcv(&ns, 9, false, &message(16, ACK, &link(1, 1, 1)))), -Errno::EPERM.0);
    assert_eq!(error_of(&rtnetlink_rcv(&ns, 9, true, &message(16, ACK, &link(2, 1, 1)))), -Errno::ENODEV.0);
    assert_eq!(error_of(&rtnetlink_rcv(&ns, 9, true, &message(24, ACK, &[0; 12]))), -Errno::EOPNOTSUPP.0);
    let twice = message(20, ACK, &localhost());
    rtnetlink_rcv(&ns, 9, true, &twice);
    assert_eq!(error_of(&rtnetlink_rcv(&ns, 9, true, &twice)), -Errno::EEXIST.0);
}

#[test]
fn a_dump_lists_devices_and_ends() {
    let answer = rtnetlink_rcv(&ns(), 9, false, &message(18, DUMP, &[0]));
    assert_eq!(answer.replies.len(), 2);
    assert_eq!(answer.replies[0][4..6], 16u16.to_ne_bytes());
    assert!(answer.replies[0].windows(3).any(|bytes| bytes == b"lo\0"));
    assert_eq!(answer.replies[1][4..6], 3u16.to_ne_bytes());
}

#[test]
fn who_listens_is_told_of_changes() {
    let ns = ns();
    let answer = rtnetlink_rcv(&ns, 9, true, &message(16, 0, &link(1, 1, 1)));
    let groups: Vec<_> = answer.notifications.iter().map(|(group, _)| *group).collect();
    assert_eq!(groups, [rtmgrp::LINK, rtmgrp::IPV4_IFADDR, rtmgrp::IPV6_IFADDR]);
    assert!(answer.replies.is_empty());
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
        let payload: Vec<u8> = match random() % 3 {
            0 => localhost(),
            1 => link(random() % 3, random(), random()),
            _ => (0..random() % 100).map(|_| random() as u8).collect(),
        };
        let mut datagram = message((14 + random() % 12) as u16, random() as u16, &payload);
        for _ in 0..random() % 4 {
            let at = random() as usize % datagram.len();
            datagram[at] = random() as u8;
        }
        rtnetlink_rcv(&ns, random(), true, &datagram);
    }
}
