//! `/proc/net/tcp`, `tcp6`, `udp` and `udp6` (`proc_pid_net(5)`, `net/ipv4/tcp_ipv4.c`, `net/ipv4/udp.c`).

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use nomina_kernel::net::inet::{AF_INET6, sockaddr};

use super::{Inet, InetSocket, TcpState};

/// States of a connection as numbers (`TCP_ESTABLISHED` and so on).
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;
/// Lines of IPv4 are padded.
const TCP_WIDTH: usize = 149;
const UDP_WIDTH: usize = 127;

/// A socket as others may see it: `struct inet_diag_msg`.
#[derive(Clone, Debug)]
pub struct Entry {
    /// `IPPROTO_TCP` or `IPPROTO_UDP`
    pub protocol: i32,
    /// `AF_INET` or `AF_INET6`
    pub family: u16,
    /// Own name.
    pub local: SocketAddr,
    /// The other end; the name of nobody where there is none.
    pub peer: SocketAddr,
    /// `TCP_*`
    pub state: u8,
    /// How many connections a listener holds.
    pub backlog: u32,
    /// Effective user of who made it, by kernel id.
    pub uid: u32,
    /// Inode number of the descriptor; 0: nobody has accepted it yet.
    pub ino: u64,
    /// Its number.
    pub id: u64,
}

fn entry(socket: &InetSocket) -> Entry {
    let state = socket.state.lock().unwrap();
    let nobody = SocketAddr::new(sockaddr::any(socket.family), 0);
    let number = match state.tcp {
        TcpState::Listen(_) => LISTEN,
        _ if state.peer.is_some() => ESTABLISHED,
        _ => CLOSE,
    };
    Entry {
        protocol: socket.protocol,
        family: socket.family,
        local: state.local,
        peer: state.peer.unwrap_or(nobody),
        state: number,
        backlog: if let TcpState::Listen(backlog) = state.tcp { backlog } else { 0 },
        uid: socket.uid,
        ino: state.ino,
        id: socket.id,
    }
}

impl Inet {
    /// The sockets of a namespace that have a name, in the order in which they were made.
    pub fn entries(&self, net: u64, protocol: i32) -> Vec<Entry> {
        let mut names = self.names();
        names.sweep();
        let of_it = |socket: &&Arc<InetSocket>| socket.net_ns() == net && socket.protocol == protocol;
        let mut all: Vec<Entry> = names.sockets.values().filter(of_it).map(|socket| entry(socket)).collect();
        all.retain(|entry| entry.local.port() != 0);
        if protocol == libc::IPPROTO_TCP {
            // Ends that nobody has asked about: the host has made them, or will when they are accepted.
            let met: Vec<(SocketAddr, SocketAddr)> =
                all.iter().map(|entry| (entry.local, entry.peer)).collect();
            for (&id, connection) in &names.connections {
                let ends = (connection.server, connection.client);
                let alive = met.contains(&(ends.1, ends.0)) && !met.contains(&ends);
                if alive && connection.listener.net_ns() == net {
                    let (family, uid) = (connection.listener.family, connection.listener.uid);
                    let (local, peer) = ends;
                    let state = ESTABLISHED;
                    all.push(Entry { protocol, family, local, peer, state, backlog: 0, uid, ino: 0, id });
                }
            }
        }
        all.sort_by_key(|entry| (entry.state != LISTEN, entry.id));
        all
    }

    /// The lines of `/proc/net/NAME` below its heading; `None` for other files. `uid` translates to what the reader sees.
    pub fn proc_net(&self, net: u64, name: &str, uid: impl Fn(u32) -> u32) -> Option<String> {
        let (protocol, six) = match name {
            "tcp" => (libc::IPPROTO_TCP, false),
            "tcp6" => (libc::IPPROTO_TCP, true),
            "udp" => (libc::IPPROTO_UDP, false),
            "udp6" => (libc::IPPROTO_UDP, true),
            _ => return None,
        };
        let mut text = String::new();
        let all = self.entries(net, protocol);
        for (at, entry) in all.iter().filter(|entry| (entry.family == AF_INET6) == six).enumerate() {
            let line = line(at, entry, uid(entry.uid));
            let width = match (six, protocol) {
                (true, _) => 0,
                (false, libc::IPPROTO_TCP) => TCP_WIDTH,
                _ => UDP_WIDTH,
            };
            let _ = writeln!(text, "{line:<width$}");
        }
        Some(text)
    }
}

/// An address as words of the machine.
fn words(family: u16, address: SocketAddr) -> String {
    let ip = match (family, address.ip()) {
        (AF_INET6, IpAddr::V4(v4)) if v4.is_unspecified() => vec![0; 16],
        (AF_INET6, IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets().to_vec(),
        (_, IpAddr::V4(v4)) => v4.octets().to_vec(),
        (_, IpAddr::V6(v6)) => v6.octets().to_vec(),
    };
    let words: String = ip
        .chunks_exact(4)
        .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
        .collect();
    format!("{words}:{:04X}", address.port())
}

fn line(at: usize, entry: &Entry, uid: u32) -> String {
    let (local, peer) = (words(entry.family, entry.local), words(entry.family, entry.peer));
    let Entry { state, ino, .. } = *entry;
    if entry.protocol == libc::IPPROTO_TCP {
        // The timers' part: retransmission timeout, and the congestion window of a connection.
        let rest = if state == LISTEN { "100 0 0 10 0" } else { "20 0 0 10 -1" };
        return format!(
            "{at:4}: {local} {peer} {state:02X} 00000000:00000000 00:00000000 00000000 {uid:5} {:8} {ino} 1 {:016} {rest}",
            0, 0
        );
    }
    format!(
        "{at:5}: {local} {peer} {state:02X} 00000000:00000000 00:00000000 00000000 {uid:5} {:8} {ino} 2 {:016} 0",
        0, 0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nomina_kernel::net::inet::AF_INET;

    #[test]
    fn a_line_is_as_the_kernel_writes_it() {
        let entry = Entry {
            protocol: libc::IPPROTO_TCP,
            family: AF_INET,
            local: "127.0.0.1:8080".parse().unwrap(),
            peer: "0.0.0.0:0".parse().unwrap(),
            state: LISTEN,
            backlog: 5,
            uid: 1000,
            ino: 42,
            id: 1,
        };
        assert_eq!(
            line(0, &entry, 1000),
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 42 1 0000000000000000 100 0 0 10 0"
        );
        let six = Entry { family: AF_INET6, local: "[::1]:53".parse().unwrap(), ..entry };
        assert!(line(1, &six, 0).starts_with("   1: 00000000000000000000000001000000:0035 000000"));
    }
}
