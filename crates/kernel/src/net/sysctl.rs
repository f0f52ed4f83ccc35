//! Settings of a network namespace below `/proc/sys/net` that are more than numbers (`sysctl(8)`, `ip(7)`, `icmp(7)`), and who may
//! write any of them. The numbers stand in `sysctl_tree.rs`.

use super::NetNamespace;
use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};

/// A setting: one or two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetSysctl {
    /// `net.ipv4.ping_group_range`: the groups that may open ICMP sockets; none when the first is higher than the last.
    PingGroupRange,
    /// `net.ipv4.ip_unprivileged_port_start`: the first port that needs no privilege.
    UnprivilegedPortStart,
}

/// Their values in one namespace.
#[derive(Clone, Copy, Debug)]
pub struct NetSysctls {
    /// As kernel ids.
    ping_group_range: (u32, u32),
    unprivileged_port_start: u32,
}

impl Default for NetSysctls {
    fn default() -> NetSysctls {
        NetSysctls { ping_group_range: (1, 0), unprivileged_port_start: 1024 }
    }
}

impl NetSysctls {
    /// The groups that may open ping sockets, as kernel ids: the first and the last.
    pub fn ping_group_range(&self) -> (u32, u32) {
        self.ping_group_range
    }
}

impl NetNamespace {
    /// Sets the first port that needs no privilege.
    pub fn set_unprivileged_port_start(&self, port: u32) {
        if let Some(net) = self.stack.lock().net_mut(self.common.inum()) {
            net.sysctls.unprivileged_port_start = port;
        }
    }

    /// The first port that needs no `CAP_NET_BIND_SERVICE`: `inet_prot_sock`.
    pub fn unprivileged_port_start(&self) -> u32 {
        self.stack.lock().net(self.common.inum()).map_or(1024, |net| net.sysctls.unprivileged_port_start)
    }

    /// What `reader` reads.
    pub fn show_sysctl(&self, which: NetSysctl, reader: &Cred) -> String {
        let stack = self.stack.lock();
        let Some(all) = stack.net(self.common.inum()).map(|net| &net.sysctls) else { return String::new() };
        match which {
            NetSysctl::PingGroupRange => {
                let (low, high) = all.ping_group_range;
                let shown = |gid| reader.user_ns.from_kgid_munged(gid);
                // An empty range is no pair of groups.
                if low > high { "1\t0\n".into() } else { format!("{}\t{}\n", shown(low), shown(high)) }
            }
            NetSysctl::UnprivilegedPortStart => format!("{}\n", all.unprivileged_port_start),
        }
    }

    /// A write by `writer` to the setting at `path` below `/proc/sys/net`.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN` over the namespace, and those of [`super::Stack::sysctl_write`].
    pub fn write_sysctl_at(&self, path: &str, text: &[u8], writer: &Cred) -> Result<()> {
        let owner = self.common.owner().ok_or(Errno::EPERM)?;
        if !writer.ns_capable(owner, Cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        self.stack.lock().sysctl_write(self.common.inum(), path, text)
    }

    /// A write by `writer`.
    ///
    /// # Errors
    /// `EPERM` without `CAP_NET_ADMIN` over the namespace; `EINVAL` for something else than the numbers it takes, in their
    /// range.
    pub fn write_sysctl(&self, which: NetSysctl, text: &[u8], writer: &Cred) -> Result<()> {
        let owner = self.common.owner().ok_or(Errno::EPERM)?;
        if !writer.ns_capable(owner, Cap::NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let numbers: Vec<u32> = text
            .split_ascii_whitespace()
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Errno::EINVAL)?;
        let mut stack = self.stack.lock();
        let all = &mut stack.net_mut(self.common.inum()).ok_or(Errno::ENODEV)?.sysctls;
        match (which, numbers[..].as_ref()) {
            (NetSysctl::PingGroupRange, &[low, high]) => {
                let kgid = |gid| writer.user_ns.make_kgid(gid).ok_or(Errno::EINVAL);
                let range = (kgid(low)?, kgid(high)?);
                all.ping_group_range = if low > high { (1, 0) } else { range };
            }
            (NetSysctl::UnprivilegedPortStart, &[port]) if port <= 65535 => {
                all.unprivileged_port_start = port
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user_namespace::UserNamespace;

    #[test]
    fn settings_are_kept_where_they_are_numbers_in_range() {
        let user_ns = UserNamespace::initial();
        let (root, user) = (Cred::root(user_ns.clone()), Cred::user(1000, 1000, &[], user_ns.clone()));
        let net = NetNamespace::initial(1, user_ns);
        let which = NetSysctl::PingGroupRange;
        assert_eq!(net.show_sysctl(which, &root), "1\t0\n");
        assert_eq!(net.write_sysctl(which, b"0 0", &user), Err(Errno::EPERM));
        for bad in [&b"0"[..], b"0 x", b"0 4294967295", b"0 1 2", b"-1 0", b""] {
            assert_eq!(net.write_sysctl(which, bad, &root), Err(Errno::EINVAL), "{bad:?}");
        }
        net.write_sysctl(which, b"0\t5\n", &root).unwrap();
        assert_eq!(net.show_sysctl(which, &root), "0\t5\n");
        net.write_sysctl(which, b"7 2", &root).unwrap();
        assert_eq!(net.show_sysctl(which, &root), "1\t0\n");
        let which = NetSysctl::UnprivilegedPortStart;
        assert_eq!(net.write_sysctl(which, b"65536", &root), Err(Errno::EINVAL));
        net.write_sysctl(which, b"0\n", &root).unwrap();
        assert_eq!(net.show_sysctl(which, &root), "0\n");
    }
}
