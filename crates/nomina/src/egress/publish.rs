//! Ports of the sandbox that are reachable from the host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use super::{EgressError, Protocol};

/// A published port: `-p [ADDRESS:]HOSTPORT:GUESTPORT[/udp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where the host listens. Default: its loopback, so that other machines do not reach the sandbox unasked.
    pub address: IpAddr,
    /// The host's port; 0 takes any that is free.
    pub host_port: u16,
    /// The port inside.
    pub guest_port: u16,
    /// Whose port it is.
    pub protocol: Protocol,
}

impl FromStr for Publish {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        let wrong = || EgressError::Publish(text.into());
        let (ports, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(wrong()),
        };
        let (rest, guest) = ports.rsplit_once(':').ok_or_else(wrong)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
            Some((address, host)) => {
                let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let parsed = match bare {
                    Some(v6) => v6.parse().map(IpAddr::V6).ok(),
                    None => address.parse().map(IpAddr::V4).ok(),
                };
                (parsed.ok_or_else(wrong)?, host)
            }
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| EgressError::Port(text.into()));
        let guest_port = port(guest)?;
        if guest_port == 0 {
            return Err(EgressError::Port(guest.into()));
        }
        Ok(Publish { address, host_port: port(host)?, guest_port, protocol })
    }
}

impl fmt::Display for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = std::net::SocketAddr::new(self.address, self.host_port);
        write!(f, "{at}:{}/{}", self.guest_port, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_published_on_loopback_unless_an_address_is_given() {
        let parse = |text: &str| text.parse::<Publish>().unwrap();
        let plain = parse("8080:80");
        assert_eq!(
            (plain.address, plain.host_port, plain.guest_port),
            (Ipv4Addr::LOCALHOST.into(), 8080, 80)
        );
        assert_eq!(parse("[::]:8080:80").address, "::".parse::<IpAddr>().unwrap());
        assert_eq!(parse("0.0.0.0:0:80").host_port, 0);
        assert_eq!(plain.protocol, Protocol::Tcp);
        let udp = parse("[::1]:5353:53/udp");
        assert_eq!((udp.guest_port, udp.protocol), (53, Protocol::Udp));
        assert_eq!(udp.to_string(), "[::1]:5353:53/udp");
    }

    #[test]
    fn what_is_no_pair_of_ports_is_refused() {
        for text in ["80", "", "a:80:80", "::80:80", "[::1:80:80", "53:53/sctp", "53:53/"] {
            assert!(matches!(text.parse::<Publish>(), Err(EgressError::Publish(_))), "{text}");
        }
        for text in ["8080:0", "8080:x", "99999:80", ":80"] {
            assert!(matches!(text.parse::<Publish>(), Err(EgressError::Port(_))), "{text}");
        }
    }
}
