//! The way out: which hosts a sandbox may reach, and which of its ports are published.
//!
//! Everything here is decided on plain data. Who connects is asked for at the moment of `connect(2)` or of the first datagram, by
//! address, with the names under which the sandbox has resolved that address ([`NameCache`]).

mod names;
mod pattern;
mod policy;
mod publish;

pub use names::NameCache;
pub use pattern::{HostPattern, HostRule};
pub use policy::{EgressPolicy, Reason, Verdict};
pub use publish::Publish;

/// How a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// What is wrong with a rule or a published port.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EgressError {
    /// A rule that is not `HOST[:PORT]`.
    #[error(
        "{0}: not of the form HOST[:PORT]; HOST is a name, *.NAME, an address, a network as 10.0.0.0/8, or *, and \
         IPv6 with a port is written [ADDRESS]:PORT"
    )]
    Rule(String),
    /// A port, or a range of them, out of order or out of range.
    #[error("{0}: not a port; write a number from 1 to 65535, or FIRST-LAST")]
    Port(String),
    /// A published port that is not `[ADDRESS:]HOST:GUEST[/udp]`.
    #[error(
        "{0}: not of the form [ADDRESS:]HOSTPORT:GUESTPORT[/udp]; write 8080:80, or 0.0.0.0:8080:80 for other \
         machines"
    )]
    Publish(String),
}
