//! Which destinations a rule is about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::EgressError;

/// A set of hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`
    Any,
    /// A name, in lower case and without a dot at its end.
    Name(String),
    /// `*.NAME`: every name below it, but not itself.
    Below(String),
    /// An address or a network.
    Net(IpNet),
}

/// `HOST[:PORT]` of `--allow` and `--deny`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// The hosts.
    pub host: HostPattern,
    /// The ports; `None` is all.
    pub ports: Option<RangeInclusive<u16>>,
}

/// A name as it is compared: in lower case, without the dot that ends a full name.
pub(super) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// An IPv4 address in IPv6's clothes is that IPv4 address.
pub(super) fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

impl HostPattern {
    /// Whether it is about `address`, which is known under `names`.
    pub fn matches(&self, address: IpAddr, names: &[String]) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Name(name) => names.iter().any(|known| canonical(known) == *name),
            HostPattern::Below(name) => names.iter().any(|known| {
                canonical(known)
                    .strip_suffix(name.as_str())
                    .is_some_and(|front| front.len() > 1 && front.ends_with('.'))
            }),
            HostPattern::Net(net) => net.contains(&unmapped(address)),
        }
    }

    /// Whether it means `address` and no ordinary host: it is that address, or a network of loopback or link-local ones. A
    /// name, `*` or a large network does not.
    pub fn is_explicit(&self, address: IpAddr) -> bool {
        /// 127.0.0.0/8, 169.254.0.0/16 and fe80::/10.
        const SPECIAL: [IpNet; 3] = [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16)),
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10)),
        ];
        let HostPattern::Net(net) = self else { return false };
        let narrow =
            net.prefix_len() == net.max_prefix_len() || SPECIAL.iter().any(|special| special.contains(net));
        narrow && self.matches(address, &[])
    }
}

impl HostRule {
    /// Whether it is about `to`, whose address is known under `names`.
    pub fn matches(&self, to: SocketAddr, names: &[String]) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&to.port()))
            && self.host.matches(to.ip(), names)
    }
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, EgressError> {
    let number = |part: &str| part.parse().ok().filter(|&port: &u16| port > 0);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(EgressError::Port(text.into())),
    }
}

fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    // What is all digits and dots is meant to be an address.
    text.len() <= 253 && text.split('.').all(label) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

impl FromStr for HostPattern {
    type Err = EgressError;

    fn from_str(text: &str) -> Result<Self, EgressError> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Ok(HostPattern::Net(net.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(HostPattern::Net(unmapped(address).into()));
        }
        let name = canonical(text);
        match name.strip_prefix("*.") {
            Some(below) if is_name(below) => Ok(HostPattern::Below(below.into())),
            None if is_name(&name) => Ok(HostPattern::Name(name)),
            _ => Err(EgressError::Rule(text.into())),
        }
    }
}

impl FromStr for HostRule {
    type Err = EgressError;

    /// Reads `HOST[:PORT[-PORT]]`.
    fn from_str(text: &str) -> Result<Self, EgressError> {
        let wrong = |_| EgressError::Rule(text.into());
        if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| EgressError::Rule(text.into()))?;
            let host = host.parse().map_err(wrong)?;
            return match rest.strip_prefix(':') {
                Some(range) => Ok(HostRule { host, ports: Some(ports(range)?) }),
                None if rest.is_empty() => Ok(HostRule { host, ports: None }),
                None => Err(EgressError::Rule(text.into())),
            };
        }
        // An IPv6 address has more than one colon, and then no port.
        match text.split_once(':') {
            Some((host, range)) if !range.contains(':') => {
                Ok(HostRule { host: host.parse().map_err(wrong)?, ports: Some(ports(range)?) })
            }
            _ => Ok(HostRule { host: text.parse().map_err(wrong)?, ports: None }),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Name(name) => f.write_str(name),
            HostPattern::Below(name) => write!(f, "*.{name}"),
            HostPattern::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            HostPattern::Net(net) => net.fmt(f),
        }
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ports {
            None => self.host.fmt(f),
            Some(ports) => {
                match self.host {
                    HostPattern::Net(net) if net.addr().is_ipv6() => write!(f, "[{}]:", self.host)?,
                    _ => write!(f, "{}:", self.host)?,
                }
                match (ports.start(), ports.end()) {
                    (first, last) if first == last => first.fmt(f),
                    (first, last) => write!(f, "{first}-{last}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> HostRule {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_is_written_as_it_was_read() {
        for text in [
            "*",
            "*:443",
            "example.com",
            "*.example.com:80-90",
            "10.0.0.0/8",
            "192.0.2.1:53",
            "[fd00::/8]:22",
            "fd00::1",
        ] {
            assert_eq!(rule(text).to_string(), text);
        }
        assert_eq!(rule("Example.COM.:443").to_string(), "example.com:443");
        assert_eq!(rule("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(rule("[fd00::1]").to_string(), "fd00::1");
    }

    #[test]
    fn what_is_no_host_or_no_port_is_refused() {
        for text in [
            "",
            ":80",
            "a b",
            "*.",
            "*.*",
            "300.1.1.1",
            "10.0.0.0/33",
            "[fd00::1",
            "[fd00::1]80",
            "exa*mple.com",
        ] {
            assert!(matches!(text.parse::<HostRule>(), Err(EgressError::Rule(_))), "{text}");
        }
        for text in ["a:0", "a:65536", "a:", "a:http", "a:9-8", "[fd00::1]:"] {
            assert!(matches!(text.parse::<HostRule>(), Err(EgressError::Port(_))), "{text}");
        }
    }

    #[test]
    fn a_star_stands_for_what_is_below_a_name_and_not_for_the_name() {
        let address = "192.0.2.1".parse().unwrap();
        let matches = |pattern: &str, name: &str| {
            pattern.parse::<HostPattern>().unwrap().matches(address, &[name.to_owned()])
        };
        assert!(matches("*.example.com", "a.b.Example.com."));
        assert!(!matches("*.example.com", "example.com"));
        assert!(!matches("*.example.com", "badexample.com"));
        assert!(!matches("*.example.com", ".example.com"));
        assert!(matches("example.com", "EXAMPLE.com"));
        assert!(!matches("example.com", "www.example.com"));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_in_it() {
        assert!(rule("10.0.0.0/8").matches("[::ffff:10.1.2.3]:80".parse().unwrap(), &[]));
        assert!(rule("::ffff:10.1.2.3").matches("10.1.2.3:80".parse().unwrap(), &[]));
        assert!(!rule("10.0.0.0/8:443").matches("10.1.2.3:80".parse().unwrap(), &[]));
    }
}
