//! Packets through devices and namespaces, without a program.

use std::net::{IpAddr, Ipv4Addr};

use super::af_packet::PacketSocket;
use super::core::softirq::{Message, Out};
use super::dev::*;
use super::fib::*;
use super::inetdev::{InterfaceAddress, scope};
use super::ipv4::{IpOut, ipproto};
use super::raw::{RawKind, RawSocket};
use super::stack::Stack;
use super::tun::{TunCaller, tun_flags};

const MS: u64 = 1_000_000;

fn up(stack: &mut Stack, net: u64, mut dev: NetDevice) -> DevId {
    dev.flags |= iff::UP | iff::RUNNING | iff::LOWER_UP;
    dev.carrier = true;
    if dev.has_link_address() {
        dev.dev_addr = MacAddr::local(stack.random());
    }
    stack.register_netdevice(net, dev).unwrap()
}

fn namespace(stack: &mut Stack, net: u64) {
    stack.setup_net(net);
    let lo = stack.loopback_of(net).unwrap();
    stack.dev_mut(lo).unwrap().flags |= iff::UP;
}

/// An address with the routes that it makes.
fn address(stack: &mut Stack, dev: DevId, text: &str, len: u8) {
    let address: IpAddr = text.parse().unwrap();
    let net = stack.net_of_dev(dev).unwrap();
    stack.dev_mut(dev).unwrap().addresses.push(InterfaceAddress::new(address, len, scope::UNIVERSE));
    let host = if address.is_ipv4() { 32 } else { 128 };
    let mut local = Route::new(RT_TABLE_LOCAL, address, host, dev);
    local.kind = RouteType::Local;
    let connected = Route::new(RT_TABLE_MAIN, address, len, dev);
    let fib = &mut stack.net_mut(net).unwrap().fib;
    fib.insert(local, AddMode::KERNEL).unwrap();
    if len < host {
        fib.insert(connected, AddMode::KERNEL).unwrap();
    }
}

fn gateway(stack: &mut Stack, dev: DevId, via: &str) {
    let via: IpAddr = via.parse().unwrap();
    let any = super::raw::unspecified(via.is_ipv6());
    let mut route = Route::new(RT_TABLE_MAIN, any, 0, dev);
    route.nexthops[0].gateway = Some(via);
    let net = stack.net_of_dev(dev).unwrap();
    stack.net_mut(net).unwrap().fib.insert(route, AddMode::KERNEL).unwrap();
}

fn veth(stack: &mut Stack, a: u64, b: u64) -> (DevId, DevId) {
    let (one, other) =
        (up(stack, a, NetDevice::veth("eth0")), up(stack, b, NetDevice::veth(&format!("veth{a}"))));
    stack.dev_mut(one).unwrap().kind = DeviceKind::Veth { peer: Some(other) };
    stack.dev_mut(other).unwrap().kind = DeviceKind::Veth { peer: Some(one) };
    (one, other)
}

fn run(stack: &mut Stack, now: u64) -> Vec<Out> {
    while stack.net_rx_action(now) {}
    std::iter::from_fn(|| stack.next_out()).filter(|out| !matches!(out, Out::Changed(_))).collect()
}

fn echo(sequence: u8, payload: usize) -> Vec<u8> {
    let mut message = vec![8, 0, 0, 0, 0x12, 0x34, 0, sequence];
    message.extend((0..payload).map(|n| n as u8));
    super::ipv4::icmp_checksum(&mut message);
    message
}

fn messages(out: Vec<Out>) -> Vec<Message> {
    out.into_iter()
        .filter_map(|out| match out {
            Out::Socket { message, .. } => Some(message),
            _ => None,
        })
        .collect()
}

fn raw(stack: &mut Stack, id: u64, net: u64, is_v6: bool) {
    let protocol = if is_v6 { ipproto::ICMPV6 } else { ipproto::ICMP };
    let mut socket = RawSocket::new(net, RawKind::Raw, is_v6, protocol);
    // Only replies and errors, as ping asks for.
    match is_v6 {
        false => socket.icmp_filter[0] = 1 << 8,
        true => socket.icmp_filter[4] = 1 | 0x7e << 4,
    }
    stack.raw_sockets.insert(id, socket);
}

fn ping(stack: &mut Stack, id: u64, to: &str, payload: usize) {
    let to: IpAddr = to.parse().unwrap();
    let mut message = echo(1, payload);
    if to.is_ipv6() {
        message[0] = 128;
    }
    stack.raw_send(id, Some((to, 0)), &message).unwrap();
}

#[test]
fn a_ping_over_a_veth_pair_asks_for_the_neighbour_and_is_answered() {
    let mut stack = Stack::default();
    namespace(&mut stack, 1);
    namespace(&mut stack, 2);
    let (a, b) = veth(&mut stack, 1, 2);
    for (dev, v4, v6) in [(a, "10.0.0.1", "fd00::1"), (b, "10.0.0.2", "fd00::2")] {
        address(&mut stack, dev, v4, 24);
        address(&mut stack, dev, v6, 64);
    }
    raw(&mut stack, 7, 1, false);
    ping(&mut stack, 7, "10.0.0.2", 56);
    let out = messages(run(&mut stack, 0));
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!(out[0].data[20..22], [0, 0]);
    assert_eq!(out[0].data.len(), 20 + 8 + 56);
    assert_eq!(out[0].source[4..8], [10, 0, 0, 2]);
    let neighbours = |stack: &Stack, net: u64| -> Vec<(IpAddr, u16)> {
        let all = &stack.net(net).unwrap().neighbours.entries;
        all.iter().map(|((_, address), known)| (*address, known.nud_state)).collect()
    };
    assert_eq!(neighbours(&stack, 1), [("10.0.0.2".parse().unwrap(), super::nud::REACHABLE)]);
    // Whoever was asked knows the asker, and confirms it when it is used: the reply has.
    assert_eq!(neighbours(&stack, 2), [("10.0.0.1".parse().unwrap(), super::nud::DELAY)]);
    run(&mut stack, 7000 * MS);
    assert_eq!(neighbours(&stack, 2)[0].1, super::nud::REACHABLE);
    raw(&mut stack, 8, 1, true);
    ping(&mut stack, 8, "fd00::2", 56);
    let out = messages(run(&mut stack, 7001 * MS));
    assert_eq!(out.iter().map(|m| (m.data[0], m.data.len())).collect::<Vec<_>>(), [(129, 64)]);
    // Each namespace can reach itself, by whatever address.
    ping(&mut stack, 7, "10.0.0.1", 10);
    assert_eq!(messages(run(&mut stack, 7002 * MS)).len(), 1);
    ping(&mut stack, 8, "fd00::1", 10);
    assert_eq!(messages(run(&mut stack, 7003 * MS)).len(), 1);
}

#[test]
fn nobody_there_is_told_as_host_unreachable_after_three_questions() {
    let mut stack = Stack::default();
    namespace(&mut stack, 1);
    namespace(&mut stack, 2);
    let (a, b) = veth(&mut stack, 1, 2);
    address(&mut stack, a, "10.0.0.1", 24);
    let mut tap = PacketSocket::new(2, false, super::core::skbuff::eth_p::ARP);
    tap.ifindex = stack.dev(b).unwrap().ifindex;
    stack.packet_sockets.insert(9, tap);
    raw(&mut stack, 7, 1, false);
    ping(&mut stack, 7, "10.0.0.9", 8);
    assert_eq!(messages(run(&mut stack, 0)).len(), 1);
    for second in 1..3 {
        assert_eq!(messages(run(&mut stack, second * 1000 * MS)).len(), 1);
    }
    let out = messages(run(&mut stack, 3000 * MS));
    assert_eq!(out.iter().map(|m| m.data[20..22].to_vec()).collect::<Vec<_>>(), [[3, 1]]);
}

/// `hosts` namespaces from 1 on, each with `eth0` on a bridge in namespace 100.
fn bridged(stack: &mut Stack, hosts: u64) -> DevId {
    namespace(stack, 100);
    let bridge = up(stack, 100, NetDevice::bridge("br0"));
    for host in 1..=hosts {
        namespace(stack, host);
        let (own, port) = veth(stack, host, 100);
        stack.dev_mut(port).unwrap().master = Some(bridge);
        address(stack, own, &format!("10.0.0.{host}"), 24);
        address(stack, own, &format!("fd00::{host}"), 64);
    }
    bridge
}

#[test]
fn a_bridge_floods_until_it_knows_who_is_where() {
    let mut stack = Stack::default();
    let bridge = bridged(&mut stack, 3);
    address(&mut stack, bridge, "10.0.0.100", 24);
    raw(&mut stack, 7, 1, false);
    raw(&mut stack, 8, 1, true);
    for (to, socket) in [("10.0.0.2", 7), ("10.0.0.3", 7), ("10.0.0.100", 7), ("fd00::3", 8)] {
        ping(&mut stack, socket, to, 56);
        assert_eq!(messages(run(&mut stack, 0)).len(), 1, "{to}");
    }
    let DeviceKind::Bridge(learned) = &stack.dev(bridge).unwrap().kind else { panic!() };
    assert_eq!(learned.fdb.len(), 3);
    // Host 3 sees nothing of what goes between 1 and 2 now.
    stack.packet_sockets.insert(9, PacketSocket::new(3, false, 3));
    ping(&mut stack, 7, "10.0.0.2", 56);
    assert_eq!(messages(run(&mut stack, 0)).len(), 1);
}

#[test]
fn a_router_forwards_counts_hops_and_says_when_there_were_too_many() {
    let mut stack = Stack::default();
    for net in 1..=3 {
        namespace(&mut stack, net);
    }
    let (a, left) = veth(&mut stack, 1, 2);
    let (b, right) = veth(&mut stack, 3, 2);
    for (dev, text) in [(a, "10.0.1.1"), (left, "10.0.1.2"), (b, "10.0.3.1"), (right, "10.0.3.2")] {
        address(&mut stack, dev, text, 24);
    }
    gateway(&mut stack, a, "10.0.1.2");
    gateway(&mut stack, b, "10.0.3.2");
    raw(&mut stack, 7, 1, false);
    ping(&mut stack, 7, "10.0.3.1", 56);
    assert_eq!(messages(run(&mut stack, 0)).len(), 0, "it is no router yet");
    for dev in [left, right] {
        stack.dev_mut(dev).unwrap().ipv4.0[super::devconf::ipv4::FORWARDING] = 1;
    }
    ping(&mut stack, 7, "10.0.3.1", 56);
    let out = messages(run(&mut stack, 0));
    assert_eq!(out.iter().map(|m| (m.data[8], m.data[20])).collect::<Vec<_>>(), [(63, 0)]);
    stack.raw_sockets.get_mut(&7).unwrap().ttl = Some(1);
    ping(&mut stack, 7, "10.0.3.1", 56);
    let out = messages(run(&mut stack, 0));
    assert_eq!((out[0].data[20], out[0].data[21], &out[0].source[4..8]), (11, 0, &[10, 0, 1, 2][..]));
    // Fragments pass the router and are put together at the end.
    stack.raw_sockets.get_mut(&7).unwrap().ttl = None;
    ping(&mut stack, 7, "10.0.3.1", 5000);
    let out = messages(run(&mut stack, 0));
    assert_eq!(out.iter().map(|m| m.data.len()).collect::<Vec<_>>(), [5028]);
    // A narrow way behind the router: the sender is told the MTU.
    stack.dev_mut(right).unwrap().mtu = 1000;
    stack.raw_sockets.get_mut(&7).unwrap().dont_fragment = true;
    ping(&mut stack, 7, "10.0.3.1", 1200);
    let out = messages(run(&mut stack, 0));
    assert_eq!(out[0].data[20..28], {
        let [a, b] = 1000u16.to_be_bytes();
        [3, 4, out[0].data[22], out[0].data[23], 0, 0, a, b]
    });
}

#[test]
fn large_pings_of_ipv6_are_fragmented_by_their_sender() {
    let mut stack = Stack::default();
    bridged(&mut stack, 2);
    raw(&mut stack, 8, 1, true);
    ping(&mut stack, 8, "fd00::2", 4000);
    let out = messages(run(&mut stack, 0));
    assert_eq!(out.iter().map(|m| m.data.len()).collect::<Vec<_>>(), [4008]);
}

const ROOT: TunCaller<'static> = TunCaller { euid: 0, in_group: &|_| true, net_admin: true };

#[test]
fn a_program_at_a_tun_device_pings_the_stack() {
    let mut stack = Stack::default();
    namespace(&mut stack, 1);
    stack.tun_open(5, 1);
    assert_eq!(stack.tun_get_user(5, b"x"), Err(super::super::errno::Errno::EBADFD));
    let dev = stack.tun_set_iff(5, "tun0", tun_flags::TUN | tun_flags::NO_PI, &ROOT).unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 1, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1];
    packet.extend(echo(1, 20));
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    super::ipv4::ip_send_check(&mut packet);
    assert_eq!(stack.tun_get_user(5, &packet), Err(super::super::errno::Errno::EIO));
    stack.dev_mut(dev).unwrap().flags |= iff::UP;
    address(&mut stack, dev, "10.9.0.1", 24);
    assert_eq!(stack.tun_get_user(5, b"x"), Err(super::super::errno::Errno::EINVAL));
    stack.tun_get_user(5, &packet).unwrap();
    let out = run(&mut stack, 0);
    let [Out::Tun { queue: 5, skb, .. }] = &out[..] else { panic!("{out:?}") };
    assert_eq!((skb.data().len(), skb.data()[20]), (packet.len(), 0));
    // A segment for nobody is handed to whoever keeps the sockets; who has none says so.
    let mut out = IpOut::to(Ipv4Addr::new(10, 9, 0, 1).into(), ipproto::UDP);
    out.source = Some(Ipv4Addr::new(10, 9, 0, 1).into());
    stack.ip_send(1, &out, &[0, 7, 0, 9, 0, 8, 0, 0]).unwrap();
    let out = run(&mut stack, 0);
    let [Out::Transport { net: 1, skb }] = &out[..] else { panic!("{out:?}") };
    stack.port_unreachable(skb);
    let out = run(&mut stack, 0);
    assert!(matches!(&out[..], [Out::TransportError { protocol: 17, fatal: true, .. }]), "{out:?}");
}

#[test]
fn attaching_goes_by_the_rules_of_the_driver() {
    use super::super::errno::Errno;
    let mut stack = Stack::default();
    namespace(&mut stack, 1);
    (5..9).for_each(|file| stack.tun_open(file, 1));
    let nobody = TunCaller { euid: 1, in_group: &|_| false, net_admin: false };
    assert_eq!(stack.tun_set_iff(5, "t0", tun_flags::TUN, &nobody), Err(Errno::EPERM));
    assert_eq!(stack.tun_set_iff(5, "t0", 0, &ROOT), Err(Errno::EINVAL));
    let dev = stack.tun_set_iff(5, "t0", tun_flags::TUN, &ROOT).unwrap();
    assert_eq!(stack.tun_set_iff(5, "t1", tun_flags::TUN, &ROOT), Err(Errno::EEXIST));
    assert_eq!(stack.tun_set_iff(6, "t0", tun_flags::TUN, &ROOT), Err(Errno::EBUSY));
    assert_eq!(stack.tun_set_iff(6, "t0", tun_flags::TAP, &ROOT), Err(Errno::EINVAL));
    assert_eq!(stack.tun_set_iff(6, "t0", tun_flags::TUN | tun_flags::TUN_EXCL, &ROOT), Err(Errno::EBUSY));
    assert_eq!(stack.tun_get_iff(5).unwrap(), ("t0".into(), tun_flags::TUN | tun_flags::NOFILTER));
    assert_eq!(stack.tun_set_queue(5, tun_flags::DETACH_QUEUE), Err(Errno::EINVAL));
    let several = tun_flags::TAP | tun_flags::MULTI_QUEUE;
    let tap = stack.tun_set_iff(6, "t1", several, &ROOT).unwrap();
    assert_eq!(stack.tun_set_iff(7, "t1", several, &ROOT), Ok(tap));
    stack.tun_set_queue(7, tun_flags::DETACH_QUEUE).unwrap();
    assert_eq!(stack.tun_get_iff(7).unwrap().1 & tun_flags::DETACH_QUEUE, tun_flags::DETACH_QUEUE);
    stack.tun_set_queue(7, tun_flags::ATTACH_QUEUE).unwrap();
    stack.tun_set_owner(dev, Some(1), None);
    stack.tun_set_persist(dev, true);
    stack.tun_close(5);
    assert!(stack.dev(dev).is_some());
    assert_eq!(
        stack.tun_set_iff(8, "t0", tun_flags::TUN, &TunCaller { euid: 2, ..nobody }),
        Err(Errno::EPERM)
    );
    assert_eq!(stack.tun_set_iff(8, "t0", tun_flags::TUN, &nobody), Ok(dev));
    assert_eq!(stack.tun_set_offload(tap, 0x02), Err(Errno::EINVAL));
    stack.tun_set_offload(tap, 0x01 | 0x02 | 0x04).unwrap();
}

#[test]
fn frames_that_make_no_sense_are_dropped() {
    let mut stack = Stack::default();
    stack.seed(1);
    let bridge = bridged(&mut stack, 2);
    stack.tun_open(5, 100);
    let tap =
        stack.tun_set_iff(5, "tap0", tun_flags::TAP | tun_flags::NO_PI | tun_flags::VNET_HDR, &ROOT).unwrap();
    let device = stack.dev_mut(tap).unwrap();
    device.flags |= iff::UP;
    device.master = Some(bridge);
    let own = stack.dev(bridge).unwrap().dev_addr;
    address(&mut stack, bridge, "10.0.0.100", 24);
    address(&mut stack, bridge, "fd00::100", 64);
    stack.packet_sockets.insert(9, PacketSocket::new(100, false, 3));
    raw(&mut stack, 7, 100, false);
    raw(&mut stack, 8, 100, true);
    let mut random = 88172645463325252u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for round in 0..12_000u64 {
        let mut frame = vec![0; (next() % 200) as usize + 10];
        frame.iter_mut().for_each(|byte| *byte = next() as u8);
        if round % 4 != 0 {
            // Towards what looks inside: no offloads, a destination, a protocol, a plausible header.
            frame[..10].fill(0);
            if round % 16 == 1 {
                frame[0] = 1;
                frame[1] = [1, 3, 4, 5][(next() % 4) as usize];
            }
            frame.resize(frame.len().max(100), 7);
            let to = [own.0, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]][(next() % 3) as usize];
            frame[10..16].copy_from_slice(&to);
            frame[16] &= !1;
            let kind = [0x0800u16, 0x86dd, 0x0806, 0x8100][(next() % 4) as usize];
            frame[22..24].copy_from_slice(&kind.to_be_bytes());
            let len = frame.len();
            let network = &mut frame[24..];
            match kind {
                0x0800 => {
                    network[0] = [0x45, 0x46, 0x4f][(next() % 3) as usize];
                    network[2..4].copy_from_slice(&((len - 24) as u16).to_be_bytes());
                    network[9] = [1, 2, 6, 17, 47][(next() % 5) as usize];
                    network[16..20].copy_from_slice(&[10, 0, 0, 100]);
                    super::ipv4::ip_send_check(network);
                }
                0x86dd => {
                    network[0] = 0x60;
                    network[4..6].copy_from_slice(&((len - 64) as u16).to_be_bytes());
                    network[6] = [0, 43, 44, 60, 58, 6, 17, 59][(next() % 8) as usize];
                    network[8] = 0xfd;
                    let to: std::net::Ipv6Addr = "fd00::100".parse().unwrap();
                    network[24..40].copy_from_slice(&to.octets());
                    if network[6] == 58 {
                        network[40] = 128 + (next() % 12) as u8;
                        network[7] = 255;
                        network[42..44].fill(0);
                        let ends = (network[8..24].try_into().unwrap(), network[24..40].try_into().unwrap());
                        let (from, to): ([u8; 16], [u8; 16]) = ends;
                        let sum = !super::core::offload::transport_sum(
                            from.into(),
                            to.into(),
                            smoltcp::wire::IpProtocol::Icmpv6,
                            &network[40..],
                        );
                        network[42..44].copy_from_slice(&sum.to_be_bytes());
                    }
                }
                _ => {}
            }
        }
        let _ = stack.tun_get_user(5, &frame);
        run(&mut stack, round * MS);
    }
}
