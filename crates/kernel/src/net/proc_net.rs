//! Devices, addresses and routes as text: the files of `/proc/net` (`proc_pid_net(5)`).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dev::{NetDevice, iff};
use super::fib::{NextHop, RT_TABLE_LOCAL, RT_TABLE_MAIN, Route, RouteType};
use super::neighbour::nud;
use super::stack::Stack;

/// Flags of a route as `route(8)` shows them: `RTF_*`.
mod rtf {
    pub const UP: u32 = 0x1;
    pub const GATEWAY: u32 = 0x2;
    pub const HOST: u32 = 0x4;
    pub const REJECT: u32 = 0x200;
    pub const ADDRCONF: u32 = 0x0004_0000;
    pub const NONEXTHOP: u32 = 0x0020_0000;
    pub const EXPIRES: u32 = 0x0040_0000;
    pub const LOCAL: u32 = 0x8000_0000;
}

impl Stack {
    /// The text of a file of `/proc/net` in namespace `inum`; `None` for those that are not about devices, addresses, neighbours and
    /// routes.
    pub fn proc_net(&self, inum: u64, file: &str) -> Option<String> {
        let mut out = String::new();
        match file {
            "dev" => self.dev_seq_show(inum, &mut out),
            "route" => self.fib_route_seq_show(inum, &mut out),
            "arp" => self.arp_seq_show(inum, &mut out),
            "if_inet6" => self.if6_seq_show(inum, &mut out),
            "ipv6_route" => self.ipv6_route_seq_show(inum, &mut out),
            "igmp" => self.igmp_mc_seq_show(inum, &mut out),
            "igmp6" => self.igmp6_mc_seq_show(inum, &mut out),
            "dev_mcast" => self.dev_mc_seq_show(inum, &mut out),
            // Ticks of the packet scheduler, in nanoseconds.
            "psched" => out.push_str("000003e8 00000040 000f4240 3b9aca00\n"),
            _ => return None,
        }
        Some(out)
    }

    fn dev_seq_show(&self, inum: u64, out: &mut String) {
        out.push_str(
            "Inter-|   Receive                                                |  Transmit\n face |bytes    packets \
             errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
        );
        for dev in self.devices_of(inum) {
            let stats = &dev.stats;
            // Writing to a string does not fail, here and below.
            let _ = writeln!(
                out,
                "{:>6}: {:7} {:7} {:4} {:4} {:4} {:5} {:10} {:9} {:8} {:7} {:4} {:4} {:4} {:5} {:7} {:10}",
                dev.name,
                stats.rx_bytes,
                stats.rx_packets,
                stats.rx_errors,
                stats.rx_dropped,
                0,
                0,
                0,
                stats.multicast,
                stats.tx_bytes,
                stats.tx_packets,
                stats.tx_errors,
                stats.tx_dropped,
                0,
                0,
                0,
                0,
            );
        }
    }

    fn name_of(&self, hop: Option<&NextHop>) -> &str {
        hop.and_then(|hop| hop.dev).and_then(|dev| self.dev(dev)).map_or("*", |dev| &dev.name)
    }

    fn fib_route_seq_show(&self, inum: u64, out: &mut String) {
        let heading = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
        let _ = writeln!(out, "{heading:<127}");
        let hex = |address: Ipv4Addr| u32::from_ne_bytes(address.octets());
        for route in self.net(inum).iter().flat_map(|net| &net.fib.routes) {
            let IpAddr::V4(destination) = route.destination else { continue };
            if route.table != RT_TABLE_MAIN
                || matches!(route.kind, RouteType::Broadcast | RouteType::Multicast)
            {
                continue;
            }
            let hop = route.nexthops.first();
            let gateway = match hop.and_then(|hop| hop.gateway) {
                Some(IpAddr::V4(gateway)) => gateway,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let mut flags = rtf::UP;
            if matches!(route.kind, RouteType::Unreachable | RouteType::Prohibit) {
                flags |= rtf::REJECT;
            }
            if !gateway.is_unspecified() {
                flags |= rtf::GATEWAY;
            }
            if route.prefix_len == 32 {
                flags |= rtf::HOST;
            }
            let mask = u32::MAX.checked_shl(32 - u32::from(route.prefix_len)).unwrap_or(0).to_be();
            let line = format!(
                "{}\t{:08X}\t{:08X}\t{flags:04X}\t0\t0\t{}\t{mask:08X}\t{}\t0\t0",
                self.name_of(hop),
                hex(destination),
                hex(gateway),
                route.metric,
                route.metric_value(8).map_or(0, |mss| mss + 40),
            );
            let _ = writeln!(out, "{line:<127}");
        }
    }

    fn arp_seq_show(&self, inum: u64, out: &mut String) {
        /// `ATF_*`
        const ATF_COM: u32 = 2;
        const ATF_PERM: u32 = 4;
        out.push_str("IP address       HW type     Flags       HW address            Mask     Device\n");
        for ((dev, address), known) in self.net(inum).iter().flat_map(|net| &net.neighbours.entries) {
            let (IpAddr::V4(address), Some(dev)) = (address, self.dev(*dev)) else { continue };
            if known.nud_state & nud::NOARP != 0 {
                continue;
            }
            let flags = match known.nud_state {
                state if state & nud::PERMANENT != 0 => ATF_PERM | ATF_COM,
                state if state & (nud::INCOMPLETE | nud::FAILED) != 0 => 0,
                _ => ATF_COM,
            };
            let _ = writeln!(
                out,
                "{:<16} 0x{:<10x}0x{flags:<10x}{:<17}     *        {}",
                address.to_string(),
                dev.dev_type,
                known.lladdr.unwrap_or_default().to_string(),
                dev.name,
            );
        }
    }

    fn if6_seq_show(&self, inum: u64, out: &mut String) {
        for dev in self.devices_of(inum) {
            for known in &dev.addresses {
                let IpAddr::V6(address) = known.address else { continue };
                let _ = writeln!(
                    out,
                    "{:032x} {:02x} {:02x} {:02x} {:02x} {:>8}",
                    address.to_bits(),
                    dev.ifindex,
                    known.prefix_len,
                    // `ipv6_addr_scope`: a loopback address has one of its own.
                    match known.scope {
                        super::inetdev::scope::HOST => 0x10,
                        super::inetdev::scope::LINK => 0x20,
                        super::inetdev::scope::SITE => 0x40,
                        _ => 0,
                    },
                    known.flags & 0xff,
                    dev.name,
                );
            }
        }
    }

    fn ipv6_route_seq_show(&self, inum: u64, out: &mut String) {
        let none = Ipv6Addr::UNSPECIFIED;
        let mut line =
            |destination: Ipv6Addr, len: u8, gateway: Ipv6Addr, metric: u32, flags: u32, name: &str| {
                let _ = writeln!(
                    out,
                    "{:032x} {len:02x} {:032x} 00 {:032x} {metric:08x} {:08x} {:08x} {flags:08x} {name:>8}",
                    destination.to_bits(),
                    0,
                    gateway.to_bits(),
                    1,
                    0,
                );
            };
        let reject = rtf::REJECT | rtf::NONEXTHOP;
        let routes = || self.net(inum).into_iter().flat_map(|net| &net.fib.routes);
        for table in [RT_TABLE_MAIN, RT_TABLE_LOCAL] {
            for route in routes().filter(|route| route.table == table) {
                let IpAddr::V6(destination) = route.destination else { continue };
                let hop = route.nexthops.first();
                let gateway = match hop.and_then(|hop| hop.gateway) {
                    Some(IpAddr::V6(gateway)) => gateway,
                    _ => none,
                };
                let name = self.name_of(hop);
                line(destination, route.prefix_len, gateway, route.metric, flags_v6(route, gateway), name);
            }
            // The null entry at the end of a table.
            line(none, 0, none, u32::MAX, reject, "lo");
        }
    }

    fn igmp_mc_seq_show(&self, inum: u64, out: &mut String) {
        out.push_str("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n");
        for dev in self.devices_of(inum) {
            let groups: Vec<(Ipv4Addr, u32)> = dev
                .groups
                .inet
                .iter()
                .filter_map(
                    |(group, users)| {
                        if let IpAddr::V4(group) = group { Some((*group, *users)) } else { None }
                    },
                )
                .collect();
            if groups.is_empty() {
                continue;
            }
            let _ = writeln!(out, "{}\t{:<10}: {:5}      V3", dev.ifindex, dev.name, groups.len());
            for (group, users) in groups {
                let group = u32::from_ne_bytes(group.octets());
                let _ = writeln!(out, "\t\t\t\t{group:08X} {users:5} 0:00000000\t\t0");
            }
        }
    }

    fn igmp6_mc_seq_show(&self, inum: u64, out: &mut String) {
        /// `MAF_NOREPORT`, `MAF_LOADED`, `MAF_LAST_REPORTER`
        const NOREPORT: u32 = 8;
        const LAST_REPORTER: u32 = 4;
        for dev in self.devices_of(inum) {
            for (group, users) in &dev.groups.inet {
                let IpAddr::V6(group) = group else { continue };
                let flags = match group.segments() {
                    [0xff01, ..] => NOREPORT,
                    [0xff02, 0, 0, 0, 0, 0, 0, 1] => NOREPORT | LAST_REPORTER,
                    _ => LAST_REPORTER,
                };
                let (name, bits) = (&dev.name, group.to_bits());
                let _ = writeln!(out, "{:<4} {name:<15} {bits:032x} {users:5} {flags:08X} 0", dev.ifindex);
            }
        }
    }

    fn dev_mc_seq_show(&self, inum: u64, out: &mut String) {
        let shown =
            |dev: &&NetDevice| dev.has_link_address() && dev.flags & iff::LOOPBACK == 0 && dev.is_up();
        for dev in self.devices_of(inum).filter(shown) {
            for (group, users) in &dev.groups.link {
                let [a, b, c, d, e, f] = group.0;
                let (index, name) = (dev.ifindex, &dev.name);
                let _ = writeln!(
                    out,
                    "{index:<4} {name:<15} {users:<5} {:<5} {a:02x}{b:02x}{c:02x}{d:02x}{e:02x}{f:02x}",
                    0
                );
            }
        }
    }
}

fn flags_v6(route: &Route, gateway: Ipv6Addr) -> u32 {
    let mut flags = rtf::UP;
    if !gateway.is_unspecified() {
        flags |= rtf::GATEWAY;
    }
    if route.prefix_len == 128 && route.kind != RouteType::Local {
        flags |= rtf::HOST;
    }
    if route.kind == RouteType::Local {
        flags |= rtf::LOCAL | rtf::NONEXTHOP;
    }
    if route.kind.error().is_some() {
        flags = rtf::REJECT | rtf::NONEXTHOP;
    }
    if route.protocol == super::fib::RTPROT_RA {
        flags |= rtf::ADDRCONF;
    }
    if route.expires.is_some() {
        flags |= rtf::EXPIRES;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::super::NetNamespace;
    use crate::user_namespace::UserNamespace;

    #[test]
    fn a_new_namespace_has_what_linux_shows() {
        let ns = NetNamespace::initial(1, UserNamespace::initial());
        let stack = ns.stack().lock();
        let dev = stack.proc_net(1, "dev").unwrap();
        let line = "    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0 \
                    \x20     0          0";
        assert_eq!(dev.lines().nth(2), Some(line));
        assert_eq!(stack.proc_net(1, "igmp6").unwrap().lines().count(), 2);
        assert_eq!(stack.proc_net(1, "route").unwrap().len(), 128);
        assert_eq!(stack.proc_net(1, "tcp"), None);
    }
}
