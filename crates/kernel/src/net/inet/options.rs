//! Options that are a number: `socket(7)`, `ip(7)`, `ipv6(7)`, `tcp(7)`, `udp(7)`.
//!
//! What can be set, to what, by whom, and what is read back. Buffer sizes and timeouts are the host's to keep; options that are
//! more than a number (groups, names, the state of a connection) stand where the thing itself does.

use std::collections::BTreeMap;

use super::{AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use crate::errno::{Errno, Result};

/// `SOL_SOCKET`
pub const SOL_SOCKET: i32 = 1;
/// `SOL_IP`
pub const SOL_IP: i32 = 0;
/// `SOL_TCP`
pub const SOL_TCP: i32 = IPPROTO_TCP;
/// `SOL_UDP`
pub const SOL_UDP: i32 = IPPROTO_UDP;
/// `SOL_IPV6`
pub const SOL_IPV6: i32 = 41;

/// Names of options that mean something elsewhere: (level, name).
pub mod name {
    use super::{SOL_IP, SOL_IPV6, SOL_SOCKET, SOL_TCP};

    /// An option's level and name.
    pub type Name = (i32, i32);
    /// `SO_REUSEADDR`
    pub const REUSEADDR: Name = (SOL_SOCKET, 2);
    /// `SO_BROADCAST`
    pub const BROADCAST: Name = (SOL_SOCKET, 6);
    /// `SO_REUSEPORT`
    pub const REUSEPORT: Name = (SOL_SOCKET, 15);
    /// `SO_TIMESTAMP_OLD`
    pub const TIMESTAMP: Name = (SOL_SOCKET, 29);
    /// `SO_TIMESTAMPNS_OLD`
    pub const TIMESTAMPNS: Name = (SOL_SOCKET, 35);
    /// `IP_TOS`
    pub const IP_TOS: Name = (SOL_IP, 1);
    /// `IP_TTL`
    pub const IP_TTL: Name = (SOL_IP, 2);
    /// `IP_PKTINFO`
    pub const IP_PKTINFO: Name = (SOL_IP, 8);
    /// `IP_MTU_DISCOVER`
    pub const IP_MTU_DISCOVER: Name = (SOL_IP, 10);
    /// `IP_RECVERR`
    pub const IP_RECVERR: Name = (SOL_IP, 11);
    /// `IP_RECVTTL`
    pub const IP_RECVTTL: Name = (SOL_IP, 12);
    /// `IP_RECVTOS`
    pub const IP_RECVTOS: Name = (SOL_IP, 13);
    /// `IP_FREEBIND`
    pub const IP_FREEBIND: Name = (SOL_IP, 15);
    /// `IP_RECVORIGDSTADDR`
    pub const IP_RECVORIGDSTADDR: Name = (SOL_IP, 20);
    /// `IP_MULTICAST_TTL`
    pub const IP_MULTICAST_TTL: Name = (SOL_IP, 33);
    /// `IP_MULTICAST_LOOP`
    pub const IP_MULTICAST_LOOP: Name = (SOL_IP, 34);
    /// `IP_MULTICAST_ALL`
    pub const IP_MULTICAST_ALL: Name = (SOL_IP, 49);
    /// `IPV6_UNICAST_HOPS`
    pub const IPV6_UNICAST_HOPS: Name = (SOL_IPV6, 16);
    /// `IPV6_MULTICAST_IF`
    pub const IPV6_MULTICAST_IF: Name = (SOL_IPV6, 17);
    /// `IPV6_MULTICAST_HOPS`
    pub const IPV6_MULTICAST_HOPS: Name = (SOL_IPV6, 18);
    /// `IPV6_MULTICAST_LOOP`
    pub const IPV6_MULTICAST_LOOP: Name = (SOL_IPV6, 19);
    /// `IPV6_RECVERR`
    pub const IPV6_RECVERR: Name = (SOL_IPV6, 25);
    /// `IPV6_V6ONLY`
    pub const IPV6_V6ONLY: Name = (SOL_IPV6, 26);
    /// `IPV6_RECVPKTINFO`
    pub const IPV6_RECVPKTINFO: Name = (SOL_IPV6, 49);
    /// `IPV6_RECVHOPLIMIT`
    pub const IPV6_RECVHOPLIMIT: Name = (SOL_IPV6, 51);
    /// `IPV6_RECVTCLASS`
    pub const IPV6_RECVTCLASS: Name = (SOL_IPV6, 66);
    /// `IPV6_FREEBIND`
    pub const IPV6_FREEBIND: Name = (SOL_IPV6, 78);
    /// `TCP_MAXSEG`
    pub const TCP_MAXSEG: Name = (SOL_TCP, 2);
}

/// Which values an option takes, and what becomes of them.
#[derive(Clone, Copy)]
enum Takes {
    /// Zero or not.
    Bool,
    /// A number in a range, `EINVAL` outside.
    Range(i32, i32),
    /// As `Range`; -1 stands for the default.
    OrDefault(i32, i32),
    /// Nothing: `ENOPROTOOPT`.
    Nothing,
    /// As `Bool`, with a privilege to set it: `EPERM`.
    Privileged,
}

/// Sockets that have an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    All,
    Stream,
    Datagram,
}

struct Row {
    level: i32,
    name: i32,
    default: i32,
    takes: Takes,
    on: On,
}

use On::{All, Datagram, Stream};
use Takes::{Bool, Nothing, OrDefault, Privileged, Range};

macro_rules! rows {
    ($($level:ident { $($name:literal $doc:ident: $default:expr, $takes:expr, $on:expr;)* })*) => {
        &[$($(Row { level: $level, name: $name, default: $default, takes: $takes, on: $on },)*)*]
    };
}

const ROWS: &[Row] = rows! {
    SOL_SOCKET {
        1 SO_DEBUG: 0, Privileged, All;
        2 SO_REUSEADDR: 0, Bool, All;
        5 SO_DONTROUTE: 0, Bool, All;
        6 SO_BROADCAST: 0, Bool, All;
        9 SO_KEEPALIVE: 0, Bool, All;
        10 SO_OOBINLINE: 0, Bool, All;
        11 SO_NO_CHECK: 0, Bool, All;
        12 SO_PRIORITY: 0, Range(0, 6), All;
        15 SO_REUSEPORT: 0, Bool, All;
        29 SO_TIMESTAMP_OLD: 0, Bool, All;
        35 SO_TIMESTAMPNS_OLD: 0, Bool, All;
        36 SO_MARK: 0, Privileged, All;
        40 SO_RXQ_OVFL: 0, Bool, All;
        45 SO_SELECT_ERR_QUEUE: 0, Bool, All;
        47 SO_MAX_PACING_RATE: -1, Range(i32::MIN, i32::MAX), All;
        49 SO_INCOMING_CPU: -1, Range(i32::MIN, i32::MAX), All;
        56 SO_INCOMING_NAPI_ID: 0, Nothing, All;
    }
    SOL_IP {
        1 IP_TOS: 0, Range(i32::MIN, i32::MAX), All;
        2 IP_TTL: 64, OrDefault(1, 255), All;
        6 IP_RECVOPTS: 0, Bool, All;
        7 IP_RETOPTS: 0, Bool, All;
        8 IP_PKTINFO: 0, Bool, All;
        10 IP_MTU_DISCOVER: 1, Range(0, 5), All;
        11 IP_RECVERR: 0, Bool, All;
        12 IP_RECVTTL: 0, Bool, All;
        13 IP_RECVTOS: 0, Bool, All;
        15 IP_FREEBIND: 0, Bool, All;
        19 IP_TRANSPARENT: 0, Privileged, All;
        20 IP_RECVORIGDSTADDR: 0, Bool, All;
        21 IP_MINTTL: 0, Range(0, 255), All;
        23 IP_CHECKSUM: 0, Bool, Datagram;
        24 IP_BIND_ADDRESS_NO_PORT: 0, Bool, All;
        25 IP_RECVFRAGSIZE: 0, Bool, Datagram;
        33 IP_MULTICAST_TTL: 1, OrDefault(0, 255), All;
        34 IP_MULTICAST_LOOP: 1, Bool, All;
        49 IP_MULTICAST_ALL: 1, Bool, All;
    }
    SOL_IPV6 {
        16 IPV6_UNICAST_HOPS: 64, OrDefault(0, 255), All;
        18 IPV6_MULTICAST_HOPS: 1, OrDefault(0, 255), All;
        19 IPV6_MULTICAST_LOOP: 1, Range(0, 1), All;
        23 IPV6_MTU_DISCOVER: 1, Range(0, 5), All;
        25 IPV6_RECVERR: 0, Bool, All;
        26 IPV6_V6ONLY: 0, Bool, All;
        29 IPV6_MULTICAST_ALL: 1, Bool, All;
        49 IPV6_RECVPKTINFO: 0, Bool, All;
        51 IPV6_RECVHOPLIMIT: 0, Bool, All;
        53 IPV6_RECVHOPOPTS: 0, Bool, All;
        56 IPV6_RECVRTHDR: 0, Bool, All;
        58 IPV6_RECVDSTOPTS: 0, Bool, All;
        62 IPV6_DONTFRAG: 0, Bool, All;
        66 IPV6_RECVTCLASS: 0, Bool, All;
        67 IPV6_TCLASS: 0, OrDefault(0, 255), All;
        70 IPV6_AUTOFLOWLABEL: 1, Bool, All;
        73 IPV6_MINHOPCOUNT: 0, Range(0, 255), All;
        74 IPV6_RECVORIGDSTADDR: 0, Bool, All;
        75 IPV6_TRANSPARENT: 0, Privileged, All;
        78 IPV6_FREEBIND: 0, Bool, All;
    }
    SOL_TCP {
        1 TCP_NODELAY: 0, Bool, Stream;
        2 TCP_MAXSEG: 536, Range(88, 32767), Stream;
        3 TCP_CORK: 0, Bool, Stream;
        4 TCP_KEEPIDLE: 7200, Range(1, 32767), Stream;
        5 TCP_KEEPINTVL: 75, Range(1, 32767), Stream;
        6 TCP_KEEPCNT: 9, Range(1, 127), Stream;
        7 TCP_SYNCNT: 6, Range(1, 127), Stream;
        8 TCP_LINGER2: 60, Range(i32::MIN, i32::MAX), Stream;
        9 TCP_DEFER_ACCEPT: 0, Range(i32::MIN, i32::MAX), Stream;
        12 TCP_QUICKACK: 1, Bool, Stream;
        18 TCP_USER_TIMEOUT: 0, Range(0, i32::MAX), Stream;
        23 TCP_FASTOPEN: 0, Range(0, i32::MAX), Stream;
        25 TCP_NOTSENT_LOWAT: -1, Range(i32::MIN, i32::MAX), Stream;
        30 TCP_FASTOPEN_CONNECT: 0, Range(0, 1), Stream;
        36 TCP_INQ: 0, Range(0, 1), Stream;
    }
    SOL_UDP {
        1 UDP_CORK: 0, Nothing, Datagram;
        103 UDP_SEGMENT: 0, Nothing, Datagram;
        104 UDP_GRO: 0, Nothing, Datagram;
    }
};

/// `inet_sk(sk)` and `tcp_sk(sk)` as far as they are numbers.
#[derive(Clone, Debug)]
pub struct SockOptions {
    family: u16,
    stream: bool,
    /// Those that are not at their default.
    set: BTreeMap<(i32, i32), i32>,
}

/// The number in an option's value.
///
/// # Errors
/// `EINVAL`: too short.
fn number(level: i32, value: &[u8]) -> Result<i32> {
    match (value.first_chunk::<4>(), value.first()) {
        (Some(word), _) => Ok(i32::from_ne_bytes(*word)),
        // `ip_setsockopt` takes a byte as well.
        (None, Some(&byte)) if level == SOL_IP => Ok(byte.into()),
        _ => Err(Errno::EINVAL),
    }
}

/// Seconds as retransmissions and back, as `TCP_DEFER_ACCEPT` keeps them: timeouts double from one second.
fn defer_accept(seconds: i32) -> i32 {
    const RTO_MAX: i32 = 120;
    let (mut sum, mut timeout) = (1, 1);
    if seconds <= 0 {
        return 0;
    }
    while sum < seconds && sum < i32::MAX - RTO_MAX {
        timeout = (timeout * 2).min(RTO_MAX);
        sum += timeout;
    }
    sum
}

impl SockOptions {
    /// All defaults.
    pub fn new(family: u16, stream: bool) -> SockOptions {
        SockOptions { family, stream, set: BTreeMap::new() }
    }

    fn row(&self, level: i32, name: i32) -> Option<&'static Row> {
        if level == SOL_IPV6 && self.family != AF_INET6 {
            return None;
        }
        let on = if self.stream { Stream } else { Datagram };
        ROWS.iter().find(|row| row.level == level && row.name == name && (row.on == All || row.on == on))
    }

    /// The value of an option that exists on all sockets or whose absence reads as 0.
    pub fn value(&self, (level, name): (i32, i32)) -> i32 {
        self.set.get(&(level, name)).copied().or(self.row(level, name).map(|row| row.default)).unwrap_or(0)
    }

    /// Whether an option is on.
    pub fn is_set(&self, name: (i32, i32)) -> bool {
        self.value(name) != 0
    }

    /// `setsockopt(2)`; `None`: it is no number that is kept here.
    ///
    /// # Errors
    /// `EINVAL`: a value it does not take. `EPERM`, and `EACCES` for `SO_DEBUG`: only with `CAP_NET_ADMIN`, which is `admin`.
    /// `ENOPROTOOPT`: it can only be read.
    pub fn set(&mut self, level: i32, name: i32, value: &[u8], admin: bool) -> Option<Result<()>> {
        let row = self.row(level, name)?;
        Some(self.set_row(row, value, admin))
    }

    fn set_row(&mut self, row: &Row, value: &[u8], admin: bool) -> Result<()> {
        const DEBUG: (i32, i32) = (SOL_SOCKET, 1);
        const DEFER_ACCEPT: (i32, i32) = (SOL_TCP, 9);
        const LINGER2: (i32, i32) = (SOL_TCP, 8);
        let key = (row.level, row.name);
        match key {
            name::IP_MULTICAST_TTL if self.stream => return Err(Errno::EINVAL),
            name::IPV6_MULTICAST_HOPS if self.stream => return Err(Errno::ENOPROTOOPT),
            _ => {}
        }
        let given = number(row.level, value)?;
        let new = match row.takes {
            Bool => i32::from(given != 0),
            Range(low, high) if (low..=high).contains(&given) => given,
            OrDefault(..) if given == -1 => row.default,
            OrDefault(low, high) if (low..=high).contains(&given) => given,
            Range(..) if key == (SOL_SOCKET, 12) => {
                if !admin {
                    return Err(Errno::EPERM);
                }
                given
            }
            Range(..) | OrDefault(..) => return Err(Errno::EINVAL),
            Nothing => return Err(Errno::ENOPROTOOPT),
            Privileged if admin || (given == 0 && key != (SOL_SOCKET, 36)) => {
                if key == (SOL_SOCKET, 36) {
                    given
                } else {
                    i32::from(given != 0)
                }
            }
            Privileged if key == DEBUG => return Err(Errno::EACCES),
            Privileged => return Err(Errno::EPERM),
        };
        let new = match key {
            DEFER_ACCEPT => defer_accept(new),
            LINGER2 if new < 0 => -1,
            LINGER2 => new.min(120),
            // INET_ECN_MASK is the protocol's own in a stream.
            name::IP_TOS if self.stream => (new & 0xff & !3) | (self.value(key) & 3),
            name::IP_TOS => new & 0xff,
            _ => new,
        };
        self.set.insert(key, new);
        Ok(())
    }

    /// `getsockopt(2)`, of which the caller takes as much as it has `room` for; `None`: it is no number that is kept here.
    pub fn get(&self, level: i32, name: i32, room: usize) -> Option<Vec<u8>> {
        let row = self.row(level, name)?;
        let value = self.value((level, name));
        if row.level == SOL_UDP {
            return Some(value.to_ne_bytes().to_vec());
        }
        // `ip_getsockopt`: a small number fits into a byte.
        if level == SOL_IP && (1..4).contains(&room) && (0..=255).contains(&value) {
            return Some(vec![value as u8]);
        }
        Some(value.to_ne_bytes()[..room.min(4)].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::inet::AF_INET;

    fn int(value: i32) -> [u8; 4] {
        value.to_ne_bytes()
    }

    #[test]
    fn an_option_reads_back_as_the_kernel_keeps_it() {
        let mut options = SockOptions::new(AF_INET, true);
        let mut set = |level, name, value| {
            let result = options.set(level, name, &int(value), false)?;
            Some(result.map(|()| options.value((level, name))))
        };
        assert_eq!(set(SOL_TCP, 1, 5), Some(Ok(1)));
        assert_eq!(set(SOL_TCP, 4, 0), Some(Err(Errno::EINVAL)));
        assert_eq!(set(SOL_TCP, 9, 5), Some(Ok(7)));
        assert_eq!(set(SOL_IP, 2, -1), Some(Ok(64)));
        assert_eq!(set(SOL_IP, 1, 0x13), Some(Ok(0x10)));
        assert_eq!(set(SOL_SOCKET, 12, 7), Some(Err(Errno::EPERM)));
        assert_eq!(set(SOL_SOCKET, 36, 1), Some(Err(Errno::EPERM)));
        assert_eq!(set(SOL_IPV6, 26, 1), None);
        assert_eq!(set(SOL_UDP, 103, 1), None);
        assert_eq!(options.get(SOL_IP, 2, 1), Some(vec![64]));
        assert_eq!(options.get(SOL_IP, 2, 4), Some(int(64).to_vec()));
        assert_eq!(options.set(SOL_IP, 2, &[9], false), Some(Ok(())));
        assert_eq!(options.value(name::IP_TTL), 9);
        assert_eq!(options.set(SOL_TCP, 1, &[9], false), Some(Err(Errno::EINVAL)));
    }
}
