//! The numbers below `/proc/sys/net` of a namespace (`ip(7)`, `tcp(7)`, `ip-sysctl.rst`): settings of each device, and of the
//! namespace. All are kept and shown; what has an effect asks for it ([`Net::sysctl`], [`super::devconf`]).
//!
//! Paths here are relative to `/proc/sys/net`.

use super::dev::DevId;
use super::devconf::{Ipv4Devconf, Ipv6Devconf, ipv4, ipv6};
use super::stack::{Net, Stack};
use crate::errno::{Errno, Result};

/// A setting of a namespace: path, initial values, least and greatest.
type Setting = (&'static str, &'static [i64], i64, i64);

const MAX: i64 = i32::MAX as i64;

/// The order is that of the names.
const SETTINGS: [Setting; 60] = [
    ("core/netdev_max_backlog", &[1000], 0, MAX),
    ("core/optmem_max", &[131_072], 0, MAX),
    ("core/somaxconn", &[4096], 0, MAX),
    ("ipv4/icmp_echo_ignore_all", &[0], 0, 1),
    ("ipv4/icmp_echo_ignore_broadcasts", &[1], 0, 1),
    ("ipv4/icmp_errors_use_inbound_ifaddr", &[0], 0, 1),
    ("ipv4/icmp_ignore_bogus_error_responses", &[1], 0, 1),
    ("ipv4/icmp_ratelimit", &[1000], 0, MAX),
    ("ipv4/icmp_ratemask", &[6168], 0, MAX),
    ("ipv4/igmp_max_memberships", &[20], 0, MAX),
    ("ipv4/igmp_max_msf", &[10], 0, MAX),
    ("ipv4/ip_default_ttl", &[64], 1, 255),
    ("ipv4/ip_dynaddr", &[0], 0, MAX),
    ("ipv4/ip_early_demux", &[1], 0, 255),
    ("ipv4/ip_forward_use_pmtu", &[0], 0, 255),
    ("ipv4/ip_local_port_range", &[32768, 60999], 1, 65535),
    ("ipv4/ip_no_pmtu_disc", &[0], 0, 3),
    ("ipv4/ip_nonlocal_bind", &[0], 0, 1),
    ("ipv4/ipfrag_high_thresh", &[4_194_304], 0, MAX),
    ("ipv4/ipfrag_low_thresh", &[3_145_728], 0, MAX),
    ("ipv4/ipfrag_time", &[30], 0, MAX),
    ("ipv4/route/min_pmtu", &[552], 68, MAX),
    ("ipv4/route/mtu_expires", &[600], 0, MAX),
    ("ipv4/tcp_abort_on_overflow", &[0], 0, 1),
    ("ipv4/tcp_ecn", &[2], 0, 5),
    ("ipv4/tcp_fastopen", &[1], 0, MAX),
    ("ipv4/tcp_fin_timeout", &[60], 0, MAX),
    ("ipv4/tcp_keepalive_intvl", &[75], 1, 32767),
    ("ipv4/tcp_keepalive_probes", &[9], 1, 127),
    ("ipv4/tcp_keepalive_time", &[7200], 1, 32767),
    ("ipv4/tcp_max_syn_backlog", &[2048], 0, MAX),
    ("ipv4/tcp_max_tw_buckets", &[131_072], 0, MAX),
    ("ipv4/tcp_moderate_rcvbuf", &[1], 0, 1),
    ("ipv4/tcp_mtu_probing", &[0], 0, 2),
    ("ipv4/tcp_no_metrics_save", &[0], 0, 1),
    ("ipv4/tcp_notsent_lowat", &[u32::MAX as i64], 0, u32::MAX as i64),
    ("ipv4/tcp_orphan_retries", &[0], 0, 255),
    ("ipv4/tcp_retries1", &[3], 0, 255),
    ("ipv4/tcp_retries2", &[15], 0, 255),
    ("ipv4/tcp_rfc1337", &[0], 0, 1),
    ("ipv4/tcp_rmem", &[4096, 131_072, 33_554_432], 1, MAX),
    ("ipv4/tcp_sack", &[1], 0, 1),
    ("ipv4/tcp_slow_start_after_idle", &[1], 0, 1),
    ("ipv4/tcp_syn_retries", &[6], 1, 127),
    ("ipv4/tcp_synack_retries", &[5], 0, 255),
    ("ipv4/tcp_syncookies", &[1], 0, 2),
    ("ipv4/tcp_timestamps", &[1], 0, 2),
    ("ipv4/tcp_tw_reuse", &[2], 0, 2),
    ("ipv4/tcp_window_scaling", &[1], 0, 1),
    ("ipv4/tcp_wmem", &[4096, 16384, 4_194_304], 1, MAX),
    ("ipv4/udp_rmem_min", &[4096], 1, MAX),
    ("ipv4/udp_wmem_min", &[4096], 1, MAX),
    ("ipv6/auto_flowlabels", &[1], 0, 3),
    ("ipv6/bindv6only", &[0], 0, 1),
    ("ipv6/icmp/echo_ignore_all", &[0], 0, 1),
    ("ipv6/icmp/ratelimit", &[100], 0, MAX),
    ("ipv6/ip6frag_time", &[60], 0, MAX),
    ("ipv6/ip_nonlocal_bind", &[0], 0, 1),
    ("ipv6/route/gc_thresh", &[1024], 0, MAX),
    ("unix/max_dgram_qlen", &[512], 0, MAX),
];

/// Parameters of neighbours, the same for each device (`arp(7)`): name, IPv4, IPv6.
const NEIGH: [(&str, i64, i64); 16] = [
    ("anycast_delay", 100, 100),
    ("app_solicit", 0, 0),
    ("base_reachable_time", 30, 30),
    ("base_reachable_time_ms", 30_000, 30_000),
    ("delay_first_probe_time", 5, 5),
    ("gc_stale_time", 60, 60),
    ("interval_probe_time_ms", 5000, 5000),
    ("locktime", 100, 0),
    ("mcast_resolicit", 0, 0),
    ("mcast_solicit", 3, 3),
    ("proxy_delay", 80, 80),
    ("proxy_qlen", 64, 64),
    ("retrans_time_ms", 1000, 1000),
    ("ucast_solicit", 3, 3),
    ("unres_qlen", 101, 101),
    ("unres_qlen_bytes", 212_992, 212_992),
];

/// Which devices a setting is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    All,
    Default,
    Dev(DevId),
}

/// What a path is.
enum Place {
    Dir,
    Setting(&'static Setting),
    /// `ipv4/ip_forward` is that of all devices.
    Conf {
        is_v6: bool,
        of: Of,
        which: usize,
    },
    Neigh {
        is_v6: bool,
        at: usize,
    },
}

impl Net {
    /// The first value of a setting, such as `ipv4/ip_default_ttl`.
    pub fn sysctl(&self, path: &str) -> i64 {
        self.sysctl_values(path).first().copied().unwrap_or(0)
    }

    /// The values of a setting.
    pub fn sysctl_values(&self, path: &str) -> Vec<i64> {
        let initial =
            || SETTINGS.iter().find(|(known, ..)| *known == path).map_or(&[][..], |(_, all, ..)| *all);
        self.sysctl_values.get(path).cloned().unwrap_or_else(|| initial().to_vec())
    }
}

fn conf_index(is_v6: bool, name: &str) -> Option<usize> {
    if is_v6 {
        Ipv6Devconf::names().position(|known| known == name)
    } else {
        Ipv4Devconf::names().position(|known| known == name)
    }
}

impl Stack {
    fn place(&self, net: u64, path: &str) -> Option<Place> {
        if let Some(setting) = SETTINGS.iter().find(|(known, ..)| *known == path) {
            return Some(Place::Setting(setting));
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let is_v6 = match parts.first() {
            None => return Some(Place::Dir),
            Some(family) => *family == "ipv6",
        };
        let of = |name: &str| match name {
            "all" => Some(Of::All),
            "default" => Some(Of::Default),
            name => self.dev_get_by_name(net, name).map(|dev| Of::Dev(dev.id)),
        };
        match parts[..] {
            ["ipv4" | "ipv6", "conf" | "neigh"] => Some(Place::Dir),
            ["ipv4", "ip_forward"] => {
                Some(Place::Conf { is_v6: false, of: Of::All, which: ipv4::FORWARDING })
            }
            ["ipv4" | "ipv6", "conf", dev] => of(dev).map(|_| Place::Dir),
            ["ipv4" | "ipv6", "conf", dev, name] => {
                Some(Place::Conf { is_v6, of: of(dev)?, which: conf_index(is_v6, name)? })
            }
            ["ipv4" | "ipv6", "neigh", dev] => of(dev).filter(|of| *of != Of::All).map(|_| Place::Dir),
            ["ipv4" | "ipv6", "neigh", dev, name] => {
                of(dev).filter(|of| *of != Of::All)?;
                Some(Place::Neigh { is_v6, at: NEIGH.iter().position(|(known, ..)| *known == name)? })
            }
            _ => {
                let below = format!("{path}/");
                SETTINGS.iter().any(|(known, ..)| known.starts_with(&below)).then_some(Place::Dir)
            }
        }
    }

    /// Whether `path` is a directory (`Some(true)`) or a file.
    pub fn sysctl_kind(&self, net: u64, path: &str) -> Option<bool> {
        Some(matches!(self.place(net, path)?, Place::Dir))
    }

    /// The names in a directory, each with whether it is a directory.
    pub fn sysctl_names(&self, net: u64, dir: &str) -> Vec<(String, bool)> {
        let mut names: Vec<(String, bool)> = Vec::new();
        let below = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        for (path, ..) in &SETTINGS {
            let Some(rest) = path.strip_prefix(&below) else { continue };
            let (name, is_dir) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
            if !names.iter().any(|(known, _)| known == name) {
                names.push((name.into(), is_dir));
            }
        }
        let parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
        match parts[..] {
            ["ipv4" | "ipv6"] => {
                names.extend([("conf".into(), true), ("neigh".into(), true)]);
                if dir == "ipv4" {
                    names.push(("ip_forward".into(), false));
                }
            }
            ["ipv4" | "ipv6", kind @ ("conf" | "neigh")] => {
                if kind == "conf" {
                    names.push(("all".into(), true));
                }
                names.push(("default".into(), true));
                names.extend(self.devices_of(net).map(|dev| (dev.name.clone(), true)));
            }
            ["ipv4", "conf", _] => names.extend(Ipv4Devconf::names().map(|name| (name.into(), false))),
            ["ipv6", "conf", _] => names.extend(Ipv6Devconf::names().map(|name| (name.into(), false))),
            ["ipv4" | "ipv6", "neigh", _] => {
                names.extend(NEIGH.iter().map(|(name, ..)| ((*name).into(), false)))
            }
            _ => {}
        }
        names
    }

    fn conf(&self, net: u64, is_v6: bool, of: Of, which: usize) -> Option<i32> {
        let all = self.net(net)?;
        Some(match (is_v6, of) {
            (false, Of::All) => all.ipv4_all.0[which],
            (false, Of::Default) => all.ipv4_default.0[which],
            (false, Of::Dev(id)) => self.dev(id)?.ipv4.0[which],
            (true, Of::All) => all.ipv6_all.0[which],
            (true, Of::Default) => all.ipv6_default.0[which],
            (true, Of::Dev(id)) => self.dev(id)?.ipv6.0[which],
        })
    }

    /// What is read.
    pub fn sysctl_show(&self, net: u64, path: &str) -> Option<String> {
        let all = self.net(net)?;
        let values = match self.place(net, path)? {
            Place::Dir => return None,
            Place::Setting((path, ..)) => all.sysctl_values(path),
            Place::Conf { is_v6: true, of, which } if which == IOAM6_ID_WIDE => {
                vec![self.conf(net, true, of, which)?.cast_unsigned().into()]
            }
            Place::Conf { is_v6, of, which } => vec![self.conf(net, is_v6, of, which)?.into()],
            Place::Neigh { is_v6, at } => match all.sysctl_values.get(path) {
                Some(values) => values.clone(),
                None => vec![if is_v6 { NEIGH[at].2 } else { NEIGH[at].1 }],
            },
        };
        let shown: Vec<String> = values.iter().map(i64::to_string).collect();
        Some(format!("{}\n", shown.join("\t")))
    }

    /// A write. Numbers that are not given keep their values.
    ///
    /// # Errors
    /// `EINVAL`: no number, out of range, too many. `ENOENT`.
    pub fn sysctl_write(&mut self, net: u64, path: &str, text: &[u8]) -> Result<()> {
        let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let text = text.trim_end_matches('\0');
        let numbers: Vec<i64> = text
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Errno::EINVAL)?;
        let first = *numbers.first().ok_or(Errno::EINVAL)?;
        match self.place(net, path).ok_or(Errno::ENOENT)? {
            Place::Dir => Err(Errno::EISDIR),
            Place::Setting((path, initial, least, most)) => {
                if numbers.len() > initial.len() || numbers.iter().any(|n| n < least || n > most) {
                    return Err(Errno::EINVAL);
                }
                let all = self.net_mut(net).ok_or(Errno::ENOENT)?;
                let mut values = all.sysctl_values(path);
                values[..numbers.len()].copy_from_slice(&numbers);
                if *path == "ipv4/ip_local_port_range" && values[0] > values[1] {
                    return Err(Errno::EINVAL);
                }
                all.sysctl_values.insert((*path).into(), values);
                Ok(())
            }
            Place::Neigh { .. } => {
                let value = i32::try_from(first).ok().filter(|value| *value >= 0).ok_or(Errno::EINVAL)?;
                self.net_mut(net).ok_or(Errno::ENOENT)?.sysctl_values.insert(path.into(), vec![value.into()]);
                Ok(())
            }
            Place::Conf { is_v6, of, which } => {
                let value = i32::try_from(first).map_err(|_| Errno::EINVAL)?;
                if is_v6 && which == ipv6::MTU && value < 1280 {
                    return Err(Errno::EINVAL);
                }
                self.set_conf(net, is_v6, of, which, value);
                Ok(())
            }
        }
    }

    /// Sets a setting of devices, with what follows from it: `devinet_conf_proc`, `devinet_sysctl_forward`,
    /// `addrconf_sysctl_forward`, `addrconf_sysctl_disable`.
    fn set_conf(&mut self, net: u64, is_v6: bool, of: Of, which: usize, value: i32) {
        // Forwarding and the end of IPv6 for all devices are those of each.
        let spreads = which == if is_v6 { ipv6::FORWARDING } else { ipv4::FORWARDING }
            || is_v6 && which == ipv6::DISABLE_IPV6;
        let devices: Vec<(DevId, u32)> = match of {
            Of::Dev(id) => self.dev(id).map(|dev| (id, dev.ifindex)).into_iter().collect(),
            Of::All if spreads => self.devices_of(net).map(|dev| (dev.id, dev.ifindex)).collect(),
            _ => Vec::new(),
        };
        let Some(all) = self.net_mut(net) else { return };
        if of == Of::All {
            let conf = if is_v6 { &mut all.ipv6_all.0[..] } else { &mut all.ipv4_all.0[..] };
            conf[which] = value;
            if !is_v6 && which == ipv4::FORWARDING {
                conf[ipv4::ACCEPT_REDIRECTS] = i32::from(value == 0);
            }
        }
        if of == Of::Default || of == Of::All && spreads {
            let conf = if is_v6 { &mut all.ipv6_default.0[..] } else { &mut all.ipv4_default.0[..] };
            conf[which] = value;
        }
        for (id, _) in &devices {
            let Some(dev) = self.dev_mut(*id) else { continue };
            if is_v6 {
                dev.ipv6.0[which] = value;
            } else {
                dev.ipv4.0[which] = value;
            }
        }
        if is_v6 {
            for (id, _) in &devices {
                match which {
                    ipv6::FORWARDING => self.dev_forward_change(*id),
                    ipv6::DISABLE_IPV6 => self.dev_disable_change(*id),
                    _ => {}
                }
            }
        }
        let shown = if is_v6 {
            [ipv6::FORWARDING, ipv6::PROXY_NDP, ipv6::IGNORE_ROUTES_WITH_LINKDOWN].contains(&which)
        } else {
            [
                ipv4::FORWARDING,
                ipv4::RP_FILTER,
                ipv4::PROXY_ARP,
                ipv4::BC_FORWARDING,
                ipv4::IGNORE_ROUTES_WITH_LINKDOWN,
            ]
            .contains(&which)
        };
        if !shown {
            return;
        }
        match of {
            Of::All => self.netconf_notify(net, is_v6, -1),
            Of::Default => self.netconf_notify(net, is_v6, -2),
            Of::Dev(_) => {}
        }
        for (_, ifindex) in devices {
            self.netconf_notify(net, is_v6, ifindex as i32);
        }
    }
}

/// Where `ioam6_id_wide` stands, the only number without a sign.
const IOAM6_ID_WIDE: usize = 55;

#[cfg(test)]
mod tests {
    use super::super::NetNamespace;
    use super::*;
    use crate::user_namespace::UserNamespace;

    #[test]
    fn forwarding_of_all_is_that_of_each() {
        let ns = NetNamespace::initial(1, UserNamespace::initial());
        let mut stack = ns.stack().lock();
        stack.sysctl_write(1, "ipv4/ip_forward", b"1\n").unwrap();
        for path in ["ipv4/conf/all/forwarding", "ipv4/conf/default/forwarding", "ipv4/conf/lo/forwarding"] {
            assert_eq!(stack.sysctl_show(1, path).as_deref(), Some("1\n"), "{path}");
        }
        stack.sysctl_write(1, "ipv4/conf/lo/forwarding", b"0").unwrap();
        assert_eq!(stack.sysctl_show(1, "ipv4/ip_forward").as_deref(), Some("1\n"));
    }

    #[test]
    fn names_lead_to_what_can_be_read() {
        let ns = NetNamespace::initial(1, UserNamespace::initial());
        let stack = ns.stack().lock();
        let mut dirs = vec![String::new()];
        let mut files = 0;
        while let Some(dir) = dirs.pop() {
            for (name, is_dir) in stack.sysctl_names(1, &dir) {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                assert_eq!(stack.sysctl_kind(1, &path), Some(is_dir), "{path}");
                if is_dir {
                    dirs.push(path);
                } else {
                    assert!(stack.sysctl_show(1, &path).is_some(), "{path}");
                    files += 1;
                }
            }
        }
        assert!(files > 300, "{files}");
    }

    #[test]
    fn numbers_are_checked() {
        let ns = NetNamespace::initial(1, UserNamespace::initial());
        let mut stack = ns.stack().lock();
        for bad in [&b""[..], b"x", b"0", b"256", b"1 2"] {
            assert_eq!(stack.sysctl_write(1, "ipv4/ip_default_ttl", bad), Err(Errno::EINVAL), "{bad:?}");
        }
        assert_eq!(stack.sysctl_write(1, "ipv4/ip_local_port_range", b"2000 1000"), Err(Errno::EINVAL));
        stack.sysctl_write(1, "ipv4/ip_local_port_range", b"2000\t3000").unwrap();
        assert_eq!(stack.net(1).unwrap().sysctl_values("ipv4/ip_local_port_range"), [2000, 3000]);
        assert_eq!(stack.sysctl_write(1, "ipv4/conf/none/forwarding", b"1"), Err(Errno::ENOENT));
    }
}
