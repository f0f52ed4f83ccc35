//! Which local names are taken: bind buckets (`inet_bind_conflict` in `net/ipv4/inet_connection_sock.c`, `udp_lib_lport_inuse` in
//! `net/ipv4/udp.c`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::errno::{Errno, Result};

/// `net.ipv4.ip_local_port_range` of a fresh namespace.
pub const LOCAL_PORT_RANGE: (u16, u16) = (32768, 60999);

/// A socket that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Which socket.
    pub id: u64,
    /// Its address, IPv4 never in the form of IPv6.
    pub address: IpAddr,
    /// `IPV6_V6ONLY`
    pub v6only: bool,
    /// `SO_BINDTODEVICE`, 0: none.
    pub ifindex: u32,
    /// `SO_REUSEADDR`
    pub reuse: bool,
    /// `SO_REUSEPORT`
    pub reuseport: bool,
    /// Effective user of who made it.
    pub uid: u32,
    /// It listens.
    pub listens: bool,
}

impl Holder {
    /// Whether a packet could be meant for both: `inet_rcv_saddr_equal` with wildcards.
    fn overlaps(&self, other: &Holder) -> bool {
        if self.ifindex != 0 && other.ifindex != 0 && self.ifindex != other.ifindex {
            return false;
        }
        match (self.address, other.address) {
            (IpAddr::V4(one), IpAddr::V4(two)) => one.is_unspecified() || two.is_unspecified() || one == two,
            (IpAddr::V6(one), IpAddr::V6(two)) => one.is_unspecified() || two.is_unspecified() || one == two,
            (IpAddr::V6(six), IpAddr::V4(_)) => six.is_unspecified() && !self.v6only,
            (IpAddr::V4(_), IpAddr::V6(six)) => six.is_unspecified() && !other.v6only,
        }
    }

    /// Whether both may have a port that overlaps.
    fn tolerates(&self, other: &Holder, stream: bool) -> bool {
        let both_reuse = self.reuse && other.reuse && !(stream && other.listens);
        both_reuse || (self.reuseport && other.reuseport && self.uid == other.uid)
    }
}

/// The ports of one protocol in one namespace: `inet_bind_hashbucket`, `udp_table`.
#[derive(Debug)]
pub struct BindTable {
    /// TCP, whose listeners share with nobody but those with `SO_REUSEPORT`.
    stream: bool,
    ports: BTreeMap<u16, Vec<Holder>>,
}

impl BindTable {
    /// None taken; `stream` for TCP.
    pub fn new(stream: bool) -> BindTable {
        BindTable { stream, ports: BTreeMap::new() }
    }

    /// Who has `port`.
    pub fn holders(&self, port: u16) -> &[Holder] {
        self.ports.get(&port).map_or(&[], Vec::as_slice)
    }

    /// Those who are in the way of `new` at `port`.
    pub fn conflicts(&self, port: u16, new: &Holder) -> Vec<u64> {
        let in_the_way =
            |other: &&Holder| other.id != new.id && new.overlaps(other) && !new.tolerates(other, self.stream);
        self.holders(port).iter().filter(in_the_way).map(|other| other.id).collect()
    }

    /// Takes a port, in the place of what the socket had of it.
    ///
    /// # Errors
    /// `EADDRINUSE`
    pub fn take(&mut self, port: u16, new: Holder) -> Result<()> {
        if !self.conflicts(port, &new).is_empty() {
            return Err(Errno::EADDRINUSE);
        }
        let holders = self.ports.entry(port).or_default();
        holders.retain(|other| other.id != new.id);
        holders.push(new);
        Ok(())
    }

    /// Adds who shares a port by right: a connection, with its listener.
    pub fn share(&mut self, port: u16, new: Holder) {
        self.ports.entry(port).or_default().push(new);
    }

    /// A port from `range` (both inclusive) that is free for `new`, looked for from a place that `random` chooses.
    ///
    /// # Errors
    /// `EADDRINUSE`: there is none.
    pub fn take_any(&mut self, range: (u16, u16), random: u32, new: Holder) -> Result<u16> {
        let (low, high) = range;
        let count = u32::from(high.saturating_sub(low)) + 1;
        // Ports with any holder are passed over at first, as the kernel prefers empty buckets.
        let start = random % count;
        let candidates = (0..count).map(|step| low + ((start + step) % count) as u16);
        let found = candidates.clone().find(|port| !self.ports.contains_key(port));
        let found = found.or_else(|| candidates.clone().find(|port| self.conflicts(*port, &new).is_empty()));
        let port = found.ok_or(Errno::EADDRINUSE)?;
        self.take(port, new)?;
        Ok(port)
    }

    /// Takes a socket out.
    pub fn release(&mut self, port: u16, id: u64) {
        if let Some(holders) = self.ports.get_mut(&port) {
            holders.retain(|other| other.id != id);
            if holders.is_empty() {
                self.ports.remove(&port);
            }
        }
    }

    /// Whether nobody has a port.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(id: u64, address: &str) -> Holder {
        Holder {
            id,
            address: address.parse().unwrap(),
            v6only: false,
            ifindex: 0,
            reuse: false,
            reuseport: false,
            uid: 0,
            listens: false,
        }
    }

    #[test]
    fn a_port_is_taken_for_all_addresses_that_overlap() {
        let mut table = BindTable::new(true);
        table.take(80, holder(1, "127.0.0.1")).unwrap();
        table.take(80, holder(2, "127.0.0.2")).unwrap();
        assert_eq!(table.take(80, holder(3, "0.0.0.0")), Err(Errno::EADDRINUSE));
        assert_eq!(table.take(80, holder(3, "::")), Err(Errno::EADDRINUSE));
        table.take(80, Holder { v6only: true, ..holder(3, "::") }).unwrap();
        assert_eq!(table.take(80, holder(4, "::1")), Err(Errno::EADDRINUSE));
        table.release(80, 3);
        table.take(80, holder(4, "::1")).unwrap();
    }

    #[test]
    fn reuse_ends_where_somebody_listens() {
        let mut table = BindTable::new(true);
        let reusing = |id| Holder { reuse: true, ..holder(id, "0.0.0.0") };
        table.take(80, reusing(1)).unwrap();
        table.take(80, reusing(2)).unwrap();
        assert_eq!(table.take(80, holder(3, "0.0.0.0")), Err(Errno::EADDRINUSE));
        table.take(80, Holder { listens: true, ..reusing(1) }).unwrap();
        assert_eq!(table.take(80, Holder { listens: true, ..reusing(2) }), Err(Errno::EADDRINUSE));
        assert_eq!(table.take(80, reusing(3)), Err(Errno::EADDRINUSE));
        let mut table = BindTable::new(false);
        table.take(53, reusing(1)).unwrap();
        table.take(53, reusing(2)).unwrap();
    }

    #[test]
    fn users_share_a_port_only_with_themselves() {
        let mut table = BindTable::new(true);
        let sharing = |id, uid| Holder { reuseport: true, listens: true, uid, ..holder(id, "::") };
        table.take(80, sharing(1, 7)).unwrap();
        table.take(80, sharing(2, 7)).unwrap();
        assert_eq!(table.take(80, sharing(3, 8)), Err(Errno::EADDRINUSE));
    }

    #[test]
    fn any_port_is_one_of_the_range_that_is_free() {
        let mut table = BindTable::new(true);
        let mut got: Vec<u16> =
            (0..4).map(|id| table.take_any((10, 13), 7, holder(id, "0.0.0.0")).unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [10, 11, 12, 13]);
        assert_eq!(table.take_any((10, 13), 7, holder(9, "0.0.0.0")), Err(Errno::EADDRINUSE));
        table.take_any((10, 13), 7, Holder { v6only: true, ..holder(9, "::") }).unwrap();
    }
}
