//! Whether a destination may be reached.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::pattern::unmapped;
use super::{HostPattern, HostRule};

/// The rules of `--allow` and `--deny`.
///
/// In this order: a matching `--deny` refuses. The host's own addresses, its loopback, link-local addresses (cloud metadata) and
/// what is no host at all are refused unless an `--allow` names the address itself or a network of such addresses: names are given by
/// whoever answers queries and may point anywhere, and who allows a large network hardly means the services of this machine. With any `--allow`, only what one matches is
/// allowed. Without, the rest is.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    /// `--allow`
    pub allow: Vec<HostRule>,
    /// `--deny`
    pub deny: Vec<HostRule>,
}

/// What is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be reached.
    Allowed(Reason),
    /// It may not.
    Refused(Reason),
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `--allow` of this rule.
    Allow(HostRule),
    /// `--deny` of this rule.
    Deny(HostRule),
    /// There are no `--allow` rules, and nothing forbids it.
    Open,
    /// There are `--allow` rules, and none matches.
    NoAllow,
    /// It is the machine itself.
    HostItself,
    /// Link-local: the neighbours' automatic addresses, and clouds' metadata services.
    LinkLocal,
    /// Metadata services at other addresses.
    Metadata,
    /// No address of one host.
    NoHost,
}

/// Metadata services that are not at a link-local address: Alibaba's, Oracle's older one, and Amazon's for IPv6.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

impl EgressPolicy {
    /// Decides about `to`, whose address the sandbox has resolved from `names`; `own`: it is an address of this machine.
    pub fn decide(&self, to: SocketAddr, names: &[String], own: bool) -> Verdict {
        let to = SocketAddr::new(unmapped(to.ip()), to.port());
        if let Some(rule) = self.deny.iter().find(|rule| rule.matches(to, names)) {
            return Verdict::Refused(Reason::Deny(rule.clone()));
        }
        let mut allow = self.allow.iter().filter(|rule| rule.matches(to, names));
        let special = special(to.ip()).or(own.then_some(Reason::HostItself));
        if let Some(reason) = special {
            return match allow.find(|rule| rule.host.is_explicit(to.ip())) {
                Some(rule) if reason != Reason::NoHost => Verdict::Allowed(Reason::Allow(rule.clone())),
                _ => Verdict::Refused(reason),
            };
        }
        match allow.next() {
            Some(rule) => Verdict::Allowed(Reason::Allow(rule.clone())),
            None if self.allow.is_empty() => Verdict::Allowed(Reason::Open),
            None => Verdict::Refused(Reason::NoAllow),
        }
    }

    /// Whether a query for `name` may be answered: a query tells its name to whoever runs the domain. With rules that name hosts
    /// or single addresses only, no others are asked for; a network may be meant by any name.
    pub fn may_resolve(&self, name: &str) -> Verdict {
        let names = [name.to_owned()];
        let about = |rule: &&HostRule| match &rule.host {
            HostPattern::Net(_) => false,
            host => rule.ports.is_none() && host.matches(IpAddr::V4(Ipv4Addr::UNSPECIFIED), &names),
        };
        if let Some(rule) = self.deny.iter().find(about) {
            return Verdict::Refused(Reason::Deny(rule.clone()));
        }
        let may = |rule: &&HostRule| match &rule.host {
            HostPattern::Net(net) => net.prefix_len() < net.max_prefix_len(),
            host => host.matches(IpAddr::V4(Ipv4Addr::UNSPECIFIED), &names),
        };
        match self.allow.iter().find(may) {
            Some(rule) => Verdict::Allowed(Reason::Allow(rule.clone())),
            None if self.allow.is_empty() => Verdict::Allowed(Reason::Open),
            None => Verdict::Refused(Reason::NoAllow),
        }
    }
}

/// Why `address` is not reached by default.
fn special(address: IpAddr) -> Option<Reason> {
    let (nowhere, loopback, link_local) = match address {
        IpAddr::V4(v4) => (
            v4.is_broadcast() || v4.is_multicast() || v4.octets()[0] >= 240,
            v4.is_loopback() || v4.octets()[0] == 0,
            v4.is_link_local(),
        ),
        IpAddr::V6(v6) => {
            // An IPv4 address in the oldest of IPv6's clothes, `::a.b.c.d`, in NAT64's and in 6to4's is judged as itself.
            let embedded = embedded_v4(v6).and_then(|v4| special(v4.into()));
            if embedded.is_some() {
                return embedded;
            }
            (v6.is_multicast(), v6.is_loopback() || v6.is_unspecified(), v6.segments()[0] & 0xffc0 == 0xfe80)
        }
    };
    if nowhere {
        Some(Reason::NoHost)
    } else if loopback {
        Some(Reason::HostItself)
    } else if link_local {
        Some(Reason::LinkLocal)
    } else if METADATA.contains(&address) {
        Some(Reason::Metadata)
    } else {
        None
    }
}

/// The IPv4 address that a translator or a tunnel would send to.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(((u32::from(high) << 16) | u32::from(low)).into()),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some(((u32::from(high) << 16) | u32::from(low)).into())
        }
        _ => None,
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Allow(rule) => write!(f, "--allow {rule}"),
            Reason::Deny(rule) => write!(f, "--deny {rule}"),
            Reason::Open => f.write_str("nothing forbids it"),
            Reason::NoAllow => f.write_str("no --allow matches"),
            Reason::HostItself => f.write_str("this machine itself; --allow its address to reach it"),
            Reason::LinkLocal => {
                f.write_str("link-local, where metadata services are; --allow its address to reach it")
            }
            Reason::Metadata => f.write_str("a metadata service; --allow its address to reach it"),
            Reason::NoHost => f.write_str("not the address of a host"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> EgressPolicy {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        EgressPolicy { allow: rules(allow), deny: rules(deny) }
    }

    fn allowed(policy: &EgressPolicy, to: &str, names: &[&str]) -> bool {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let to: SocketAddr = to.parse().unwrap();
        let own = to.ip().to_canonical() == IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
        matches!(policy.decide(to, &names, own), Verdict::Allowed(_))
    }

    #[test]
    fn without_rules_the_world_is_open_and_this_machine_is_not() {
        let open = policy(&[], &[]);
        for to in ["192.0.2.1:443", "10.0.0.1:53", "[2001:db8::1]:22"] {
            assert!(allowed(&open, to, &[]), "{to}");
        }
        for to in [
            "127.0.0.1:5432",
            "127.8.9.1:80",
            "0.0.0.0:80",
            "[::1]:80",
            "[::]:80",
            "[::ffff:127.0.0.1]:80",
            "[::7f00:1]:80",
            "[64:ff9b::7f00:1]:80",
            "[2002:7f00:1::1]:80",
            "198.51.100.7:22",
            "[::ffff:198.51.100.7]:22",
            "169.254.169.254:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "100.100.100.200:80",
            "255.255.255.255:67",
            "224.0.0.1:5353",
            "[ff02::1]:5353",
        ] {
            assert!(!allowed(&open, to, &["localhost"]), "{to}");
        }
    }

    #[test]
    fn with_an_allow_only_that_is_open() {
        let some = policy(&["example.com:443", "10.0.0.0/8"], &["10.9.0.0/16"]);
        assert!(allowed(&some, "192.0.2.1:443", &["example.com"]));
        assert!(!allowed(&some, "192.0.2.1:80", &["example.com"]));
        assert!(!allowed(&some, "192.0.2.1:443", &["example.org"]));
        assert!(!allowed(&some, "192.0.2.1:443", &[]));
        assert!(allowed(&some, "10.1.2.3:9", &[]));
        assert!(!allowed(&some, "10.9.2.3:9", &[]));
    }

    #[test]
    fn a_name_that_points_at_this_machine_does_not_lead_there() {
        let named = policy(&["evil.example", "*"], &[]);
        assert!(!allowed(&named, "127.0.0.1:22", &["evil.example"]));
        assert!(!allowed(&named, "169.254.169.254:80", &["evil.example"]));
        assert!(allowed(&policy(&["127.0.0.1:22"], &[]), "127.0.0.1:22", &[]));
        assert!(!allowed(&policy(&["127.0.0.1:22"], &[]), "127.0.0.1:23", &[]));
        assert!(allowed(&policy(&["169.254.0.0/16"], &[]), "169.254.169.254:80", &[]));
        assert!(!allowed(&policy(&["0.0.0.0/0", "::/0", "198.51.100.0/24"], &[]), "127.0.0.1:22", &[]));
        assert!(!allowed(&policy(&["198.51.100.0/24"], &[]), "198.51.100.7:22", &[]));
        assert!(allowed(&policy(&["198.51.100.7"], &[]), "198.51.100.7:22", &[]));
        assert!(!allowed(&policy(&["255.255.255.255"], &[]), "255.255.255.255:9", &[]));
    }

    #[test]
    fn names_are_asked_for_where_a_rule_could_be_about_them() {
        let may = |policy: &EgressPolicy, name: &str| matches!(policy.may_resolve(name), Verdict::Allowed(_));
        assert!(may(&policy(&[], &[]), "a.example"));
        assert!(!may(&policy(&[], &["*.example"]), "a.example"));
        assert!(may(&policy(&[], &["a.example:25"]), "a.example"));
        assert!(may(&policy(&["a.example:443"], &[]), "A.example."));
        assert!(!may(&policy(&["a.example:443"], &[]), "secret.b.example"));
        assert!(may(&policy(&["10.0.0.0/8"], &[]), "b.example"));
        assert!(!may(&policy(&["10.1.2.3", "a.example"], &[]), "b.example"));
    }
}
