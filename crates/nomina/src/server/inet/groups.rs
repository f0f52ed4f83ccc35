//! Membership in groups (`ip(7)`: `IP_ADD_MEMBERSHIP`; `ipv6(7)`; `net/ipv4/igmp.c`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::inet::options::{SOL_IP, SOL_IPV6};
use nomina_kernel::net::inet::{AF_INET6, sockaddr};

use super::{InetSocket, State};

const IP_MULTICAST_IF: i32 = 32;
const IP_ADD_MEMBERSHIP: i32 = 35;
const IP_DROP_MEMBERSHIP: i32 = 36;
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_LEAVE_GROUP: i32 = 45;
const IPV6_MULTICAST_IF: i32 = 17;
const IPV6_ADD_MEMBERSHIP: i32 = 20;
const IPV6_DROP_MEMBERSHIP: i32 = 21;
/// `net.ipv4.igmp_max_memberships`
const MAX_MEMBERSHIPS: usize = 20;

fn word(value: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*value.get(at..at + 4)?.first_chunk()?))
}

fn v4(value: &[u8], at: usize) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(*value.get(at..at + 4)?.first_chunk::<4>()?))
}

/// `setsockopt(2)` of options about groups; `None`: it is none.
///
/// # Errors
/// `EINVAL`: no group, or too short. `ENODEV`: no such device. `EADDRINUSE`: it is a member. `EADDRNOTAVAIL`: it is none.
/// `ENOBUFS`: of too many.
pub fn set(
    socket: &InetSocket,
    state: &mut State,
    level: i32,
    option: i32,
    value: &[u8],
) -> Option<Result<()>> {
    match (level, option) {
        (SOL_IPV6, _) if socket.family != AF_INET6 => return None,
        (SOL_IP, IP_MULTICAST_IF | IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP) => {}
        (SOL_IP | SOL_IPV6, MCAST_JOIN_GROUP | MCAST_LEAVE_GROUP) => {}
        (SOL_IPV6, IPV6_MULTICAST_IF | IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP) => {}
        _ => return None,
    }
    Some(set_known(socket, state, level, option, value))
}

fn set_known(socket: &InetSocket, state: &mut State, level: i32, option: i32, value: &[u8]) -> Result<()> {
    let short = || Errno::EINVAL;
    match (level, option) {
        (SOL_IP, IP_MULTICAST_IF) if socket.is_stream() => Err(Errno::EINVAL),
        (SOL_IPV6, IPV6_MULTICAST_IF) if socket.is_stream() => Err(Errno::ENOPROTOOPT),
        (SOL_IP, IP_MULTICAST_IF) => {
            // struct in_addr, struct ip_mreq or struct ip_mreqn.
            let (ip, ifindex) = match value.len() {
                12.. => (v4(value, 4), word(value, 8).unwrap_or(0)),
                8.. => (v4(value, 4), 0),
                _ => (v4(value, 0), 0),
            };
            let ip = ip.ok_or_else(short)?;
            if ip.is_unspecified() && ifindex == 0 {
                state.multicast_if = None;
                return Ok(());
            }
            let found = device(socket, ifindex, ip.into());
            state.multicast_if =
                Some(found.map_err(|errno| if ifindex == 0 { Errno::EADDRNOTAVAIL } else { errno })?);
            Ok(())
        }
        (SOL_IPV6, IPV6_MULTICAST_IF) => {
            let ifindex = word(value, 0).ok_or_else(short)?;
            if ifindex != 0 {
                socket.net.device_by_index(ifindex).ok_or(Errno::ENODEV)?;
            }
            state.multicast_if = (ifindex != 0).then_some(ifindex);
            Ok(())
        }
        (SOL_IP, IP_ADD_MEMBERSHIP | IP_DROP_MEMBERSHIP) => {
            let group = v4(value, 0).ok_or_else(short)?;
            let local = v4(value, 4).ok_or_else(short)?;
            let ifindex = word(value, 8).unwrap_or(0);
            member(socket, state, group.into(), ifindex, local.into(), option == IP_ADD_MEMBERSHIP)
        }
        (SOL_IPV6, IPV6_ADD_MEMBERSHIP | IPV6_DROP_MEMBERSHIP) => {
            let group = Ipv6Addr::from(*value.first_chunk::<16>().ok_or_else(short)?);
            let ifindex = word(value, 16).ok_or_else(short)?;
            let none = Ipv6Addr::UNSPECIFIED.into();
            member(socket, state, group.into(), ifindex, none, option == IPV6_ADD_MEMBERSHIP)
        }
        _ => {
            // struct group_req: the index, then an address.
            let ifindex = word(value, 0).ok_or_else(short)?;
            let group = sockaddr::parse_any(value.get(8..).ok_or_else(short)?)?.ip();
            member(socket, state, group, ifindex, sockaddr::any(socket.family), option == MCAST_JOIN_GROUP)
        }
    }
}

/// The device that is meant by an index, or by an address on it.
fn device(socket: &InetSocket, ifindex: u32, address: IpAddr) -> Result<u32> {
    if ifindex != 0 {
        return Ok(socket.net.device_by_index(ifindex).ok_or(Errno::ENODEV)?.ifindex);
    }
    let stack = socket.net.stack().lock();
    let found = stack.inet_local_dev(socket.net_ns(), address).and_then(|id| stack.dev(id));
    Ok(found.ok_or(Errno::ENODEV)?.ifindex)
}

fn member(
    socket: &InetSocket,
    state: &mut State,
    group: IpAddr,
    ifindex: u32,
    local: IpAddr,
    joins: bool,
) -> Result<()> {
    if !group.is_multicast() {
        return Err(Errno::EINVAL);
    }
    let at = |state: &State, index: u32| state.groups.iter().position(|&known| known == (group, index));
    if !joins {
        let any = || state.groups.iter().position(|&(known, _)| known == group);
        let found = match device(socket, ifindex, local) {
            Ok(index) => at(state, index),
            Err(_) if ifindex == 0 => any(),
            Err(errno) => return Err(errno),
        };
        let (_, index) = state.groups.remove(found.ok_or(Errno::EADDRNOTAVAIL)?);
        listen_to(socket, group, index, false);
        return Ok(());
    }
    let index = device(socket, ifindex, local)?;
    if at(state, index).is_some() {
        return Err(Errno::EADDRINUSE);
    }
    if state.groups.len() >= MAX_MEMBERSHIPS {
        return Err(Errno::ENOBUFS);
    }
    state.groups.push((group, index));
    listen_to(socket, group, index, true);
    Ok(())
}

/// Has a device take packets for a group, or no more.
pub fn listen_to(socket: &InetSocket, group: IpAddr, ifindex: u32, joins: bool) {
    let mut stack = socket.net.stack().lock();
    let Some(id) = stack.dev_get_by_index(socket.net_ns(), ifindex).map(|dev| dev.id) else { return };
    let Some(dev) = stack.dev_mut(id) else { return };
    match joins {
        true => dev.groups.join(group),
        false => dev.groups.leave(group),
    };
}
