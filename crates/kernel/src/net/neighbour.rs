//! Neighbours: which link-layer address an address of the link has (`struct neighbour`, `arp(7)`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::dev::{DevId, MacAddr};

/// States: `NUD_*` (`rtnetlink(7)`).
pub mod nud {
    /// Being asked for.
    pub const INCOMPLETE: u16 = 0x01;
    /// Confirmed a short time ago.
    pub const REACHABLE: u16 = 0x02;
    /// To be confirmed when it is used next.
    pub const STALE: u16 = 0x04;
    /// Used, and soon to be confirmed.
    pub const DELAY: u16 = 0x08;
    /// Being confirmed.
    pub const PROBE: u16 = 0x10;
    /// Did not answer.
    pub const FAILED: u16 = 0x20;
    /// Needs no asking: loopback and the like.
    pub const NOARP: u16 = 0x40;
    /// Set by an administrator.
    pub const PERMANENT: u16 = 0x80;
}

/// One neighbour: `struct neighbour`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its link-layer address, once known.
    pub lladdr: Option<MacAddr>,
    /// `NUD_*`
    pub nud_state: u16,
    /// When the state was entered, in nanoseconds of the monotonic clock.
    pub updated: u64,
}

/// The neighbours of a namespace, both families: `arp_tbl`, `nd_tbl`.
#[derive(Clone, Debug, Default)]
pub struct NeighTable {
    /// By device and address.
    pub entries: BTreeMap<(DevId, IpAddr), Neighbour>,
}
