//! Options that are more than a number (`socket(7)`, `ip(7)`, `tcp(7)`); the numbers are the model's.

use std::net::{IpAddr, SocketAddr};

use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::inet::options::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP, SOL_UDP, name};
use nomina_kernel::net::inet::{AF_INET6, sockaddr};

use super::super::request::Ctx;
use super::{InetSocket, State, TcpState, groups};

const SO_NETNS_COOKIE: i32 = 71;
const IP_OPTIONS: i32 = 4;
const IP_MTU: i32 = 14;
const IPV6_MTU: i32 = 24;
const IP_MULTICAST_IF: i32 = 32;
const IPV6_MULTICAST_IF: i32 = 17;
const TCP_INFO: i32 = 11;
const TCP_CONGESTION: i32 = 13;
/// Longest name of an algorithm with its NUL (`TCP_CA_NAME_MAX`).
const TCP_CA_NAME_MAX: usize = 16;
/// Longest name of a device with its NUL.
const IFNAMSIZ: usize = 16;
/// The congestion control that sockets begin with, and the other that everybody may choose.
const ALGORITHMS: [&str; 2] = ["cubic", "reno"];
/// Largest packet of IPv4 on a loopback device (`IP_MAX_MTU`), and of IPv6.
const LOOPBACK_MTU: (i32, i32) = (65535, 65536);
/// Headers of IP, of either version, and of TCP with time stamps.
const HEADERS: (i32, i32) = (20 + 32, 40 + 32);

fn text(value: &[u8], most: usize) -> Result<String> {
    let value = &value[..value.len().min(most - 1)];
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8(value[..end].to_vec()).map_err(|_| Errno::EINVAL)
}

/// `setsockopt(2)`.
///
/// # Errors
/// `ENOPROTOOPT`: there is no such option. `EINVAL`, `EPERM`, `EACCES`, `ENODEV`, `ENOENT` as on Linux.
pub fn set(ctx: &Ctx<'_>, socket: &InetSocket, level: i32, option: i32, value: &[u8]) -> Result<()> {
    let owner = socket.net.common().owner();
    let admin = owner.is_some_and(|owner| ctx.cred().ns_capable(owner, Cap::NET_ADMIN));
    if (level, option) == (SOL_SOCKET, libc::SO_BINDTODEVICE) {
        return bind_to_device(ctx, socket, value);
    }
    let mut names = ctx.server.inet.names();
    let mut state = socket.state.lock().unwrap();
    let bound = state.local.port() != 0;
    if (level, option) == name::IPV6_V6ONLY && bound && socket.family == AF_INET6 {
        return Err(Errno::EINVAL);
    }
    if let Some(result) = groups::set(socket, &mut state, level, option, value) {
        return result;
    }
    if let Some(result) = state.options.set(level, option, value, admin) {
        result?;
        if bound && [name::REUSEADDR, name::REUSEPORT].contains(&(level, option)) {
            let (port, holder) = (state.local.port(), socket.holder(&state));
            let ports = names.ports(socket.net_ns(), socket.protocol);
            ports.release(port, socket.id);
            ports.share(port, holder);
        }
        return Ok(());
    }
    if socket.is_stream() && level == SOL_TCP {
        return match option {
            TCP_CONGESTION => {
                if value.is_empty() {
                    return Err(Errno::EINVAL);
                }
                let wanted = text(value, TCP_CA_NAME_MAX)?;
                let known = ALGORITHMS.into_iter().find(|known| *known == wanted);
                state.congestion = Some(known.ok_or(Errno::ENOENT)?);
                Ok(())
            }
            // TCP_WINDOW_CLAMP: there is no window.
            10 => Ok(()),
            _ => Err(Errno::ENOPROTOOPT),
        };
    }
    Err(Errno::ENOPROTOOPT)
}

/// `SO_BINDTODEVICE`: an empty name unbinds.
fn bind_to_device(ctx: &Ctx<'_>, socket: &InetSocket, value: &[u8]) -> Result<()> {
    let owner = socket.net.common().owner();
    let raw = owner.is_some_and(|owner| ctx.cred().ns_capable(owner, Cap::NET_RAW));
    let name = text(value, IFNAMSIZ)?;
    let ifindex = match name.as_str() {
        "" => 0,
        name => socket.net.device_by_name(name).ok_or(Errno::ENODEV)?.ifindex,
    };
    let mut state = socket.state.lock().unwrap();
    if state.ifindex != 0 && !raw {
        return Err(Errno::EPERM);
    }
    state.ifindex = ifindex;
    Ok(())
}

/// `getsockopt(2)`, of which there is room for `room` bytes.
///
/// # Errors
/// `ENOPROTOOPT`: there is no such option. `ENOTCONN`, `ENODEV` as on Linux.
pub fn get(socket: &InetSocket, level: i32, option: i32, room: usize) -> Result<Vec<u8>> {
    let mut state = socket.state.lock().unwrap();
    let int = |value: i32| Ok(value.to_ne_bytes()[..room.min(4)].to_vec());
    if (level, option) == name::TCP_MAXSEG && state.peer.is_some() {
        return int(mss(&state));
    }
    if let Some(value) = state.options.get(level, option, room) {
        return Ok(value);
    }
    match (level, option) {
        (SOL_SOCKET, libc::SO_TYPE) => {
            int(if socket.is_stream() { libc::SOCK_STREAM } else { libc::SOCK_DGRAM })
        }
        (SOL_SOCKET, libc::SO_ERROR) => int(state.error.take().map_or(0, |errno| errno.0)),
        (SOL_SOCKET, libc::SO_PROTOCOL) => int(socket.protocol),
        (SOL_SOCKET, libc::SO_DOMAIN) => int(socket.family.into()),
        (SOL_SOCKET, libc::SO_ACCEPTCONN) => int(matches!(state.tcp, TcpState::Listen(_)).into()),
        (SOL_SOCKET, libc::SO_PEERCRED) => {
            Ok([0, u32::MAX, u32::MAX].map(u32::to_ne_bytes).as_flattened().to_vec())
        }
        (SOL_SOCKET, libc::SO_PEERNAME) => {
            let peer = state.peer.ok_or(Errno::ENOTCONN)?;
            Ok(sockaddr::format(socket.family, peer))
        }
        // SO_SNDLOWAT
        (SOL_SOCKET, 19) => int(1),
        (SOL_SOCKET, libc::SO_BINDTODEVICE) => match state.ifindex {
            0 => Ok(Vec::new()),
            _ if room < IFNAMSIZ => Err(Errno::EINVAL),
            ifindex => {
                let dev = socket.net.device_by_index(ifindex).ok_or(Errno::ENODEV)?;
                Ok([dev.name.as_bytes(), &[0]].concat())
            }
        },
        (SOL_SOCKET, libc::SO_COOKIE | SO_NETNS_COOKIE) if room < 8 => Err(Errno::EINVAL),
        (SOL_SOCKET, libc::SO_COOKIE) => Ok(socket.id.to_ne_bytes().to_vec()),
        (SOL_SOCKET, SO_NETNS_COOKIE) => Ok(socket.net_ns().to_ne_bytes().to_vec()),
        (SOL_IP, IP_MULTICAST_IF) => {
            let dev = state.multicast_if.and_then(|index| socket.net.device_by_index(index));
            let ips = dev.iter().flat_map(|dev| &dev.addresses).map(|known| known.address);
            let ip = ips.into_iter().find_map(|ip| if let IpAddr::V4(v4) = ip { Some(v4) } else { None });
            Ok(ip.map_or([0; 4], |ip| ip.octets()).to_vec())
        }
        (SOL_IPV6, IPV6_MULTICAST_IF) if socket.family == AF_INET6 => {
            int(state.multicast_if.unwrap_or(0) as i32)
        }
        (SOL_IP, IP_OPTIONS) => Ok(Vec::new()),
        (SOL_IP, IP_MTU) if state.peer.is_none() => Err(Errno::ENOTCONN),
        (SOL_IP, IP_MTU) => int(LOOPBACK_MTU.0),
        (SOL_IPV6, IPV6_MTU) if socket.family == AF_INET6 && state.peer.is_none() => Err(Errno::ENOTCONN),
        (SOL_IPV6, IPV6_MTU) if socket.family == AF_INET6 => int(LOOPBACK_MTU.1),
        (SOL_TCP, TCP_INFO) if socket.is_stream() => Ok(tcp_info(&state)),
        (SOL_TCP, TCP_CONGESTION) if socket.is_stream() => {
            let mut value = state.congestion.unwrap_or(ALGORITHMS[0]).as_bytes().to_vec();
            value.resize(TCP_CA_NAME_MAX, 0);
            Ok(value)
        }
        (SOL_TCP, 10) if socket.is_stream() => int(0),
        (SOL_SOCKET | SOL_IP, _) => Err(Errno::ENOPROTOOPT),
        (SOL_TCP, _) if socket.is_stream() => Err(Errno::ENOPROTOOPT),
        (SOL_UDP, _) if !socket.is_stream() => Err(Errno::ENOPROTOOPT),
        // `ip_getsockopt` knows no other level.
        _ if socket.family == AF_INET6 => Err(Errno::ENOPROTOOPT),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// Largest segment of a connection.
fn mss(state: &State) -> i32 {
    match state.local {
        SocketAddr::V4(_) => LOOPBACK_MTU.0 - HEADERS.0,
        SocketAddr::V6(_) => LOOPBACK_MTU.1 - HEADERS.1,
    }
}

/// `struct tcp_info`, as far as there is something to tell: state, segment sizes, timers' starts.
pub fn tcp_info(state: &State) -> Vec<u8> {
    /// `sizeof(struct tcp_info)` before the fields that came with Linux 5.5.
    const SIZE: usize = 232;
    const ESTABLISHED: u8 = 1;
    const SYN_SENT: u8 = 2;
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
    /// Microseconds.
    const TCP_TIMEOUT_MIN: u32 = 200_000;
    const RTO_INITIAL: u32 = 1_000_000;
    const CWND: u32 = 10;
    let mut info = vec![0; SIZE];
    info[0] = match state.tcp {
        TcpState::Listen(_) => LISTEN,
        TcpState::Established | TcpState::Connecting => ESTABLISHED,
        TcpState::Pending => SYN_SENT,
        _ => CLOSE,
    };
    let connected = state.peer.is_some();
    let mut word = |at: usize, value: u32| info[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    // tcpi_rto, tcpi_ato, tcpi_snd_mss, tcpi_rcv_mss.
    word(8, if connected { TCP_TIMEOUT_MIN } else { RTO_INITIAL });
    word(16, if connected { mss(state) as u32 } else { 536 });
    word(20, 536);
    if let TcpState::Listen(backlog) = state.tcp {
        // tcpi_sacked: the backlog.
        word(28, backlog);
    }
    // tcpi_pmtu, tcpi_snd_ssthresh, tcpi_snd_cwnd, tcpi_advmss.
    word(60, if connected { LOOPBACK_MTU.0 as u32 } else { 0 });
    word(76, i32::MAX as u32);
    word(80, CWND);
    word(84, if connected { mss(state) as u32 } else { 536 });
    info
}
