//! Attaches a sandbox to the way out that it was given.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use nomina_fs::overlay::OverlaySb;
use nomina_kernel::net::NetNamespace;
use nomina_kernel::net::uplink::RESOLVER;

use super::config::{Net, NetworkPlan};
use super::host_net;
use super::outcome::SpawnError;
use crate::egress::{EgressPolicy, Protocol, Publish};
use crate::server::Server;
use crate::server::uplink::{Attached, Log, Mode, Uplink, guests, host_resolvers};

/// Where the host says from which port on everybody may listen.
const PORT_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Starts the way out, gives the first network namespace its device, and publishes ports.
///
/// # Errors
/// [`SpawnError::NetLog`], [`SpawnError::Publish`], [`SpawnError::Host`].
pub(super) fn attach(
    server: &Arc<Server>,
    net: &Arc<NetNamespace>,
    plan: &NetworkPlan,
) -> Result<(), SpawnError> {
    if plan.net == Net::None {
        return Ok(());
    }
    let log = match &plan.log {
        Some(file) => Log::open(file).map_err(|error| SpawnError::NetLog { file: file.clone(), error })?,
        None => Log::default(),
    };
    let policy = EgressPolicy { allow: plan.allow.clone(), deny: plan.deny.clone() };
    let uplink = Uplink::start(policy, log, host_resolvers())
        .map_err(|error| SpawnError::Host { what: "starting the network", error })?;
    let inum = net.common().inum();
    let mode = match plan.net {
        Net::Host => {
            let dump = host_net::dump()
                .map_err(|error| SpawnError::Host { what: "looking at the host's network", error })?;
            net.mirror(&dump);
            let first = std::fs::read_to_string(PORT_START).ok();
            if let Some(first) = first.and_then(|text| text.trim().parse().ok()) {
                net.set_unprivileged_port_start(first);
            }
            Mode::Host
        }
        Net::None | Net::User => {
            let added = net.stack().lock().add_uplink(inum, host_has_ipv6());
            added.map_err(|error| SpawnError::Host {
                what: "adding the network device",
                error: std::io::Error::from_raw_os_error(error.errno.0),
            })?;
            Mode::User
        }
    };
    let weak = Arc::downgrade(server);
    let mut published = Vec::new();
    for publish in &plan.publish {
        let failed = |error| SpawnError::Publish { publish: *publish, error };
        let host_port = match publish.protocol {
            Protocol::Tcp => uplink.listen(publish, guests::incoming(&weak, net, mode, publish.guest_port)),
            Protocol::Udp => uplink.receive(publish, guests::arriving(&weak, net, mode, publish)),
        };
        published.push(Publish { host_port: host_port.map_err(failed)?, ..*publish });
    }
    let _ = server.inet.uplink.set(Attached { net: inum, mode, server: weak, uplink, published });
    Ok(())
}

/// Whether the host has a way to the IPv6 world. Programs prefer IPv6, so it is not offered where it leads nowhere. Nothing is sent.
fn host_has_ipv6() -> bool {
    /// An address of the world: all of them begin with the bits 001.
    const WORLD: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1));
    let connected = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect(SocketAddr::new(WORLD, 9)).map(|()| socket));
    connected.is_ok()
}

/// Names the resolver in `/etc/resolv.conf`, in the private layer: the host's may be one that only the host reaches.
///
/// # Errors
/// Of the upper file system. A root without `/etc` has no resolver.
pub(super) fn name_resolver(plan: &NetworkPlan, root: &OverlaySb) -> nomina_kernel::Result<()> {
    if plan.net == Net::None {
        return Ok(());
    }
    let kept = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let of_use = |line: &&str| ["search ", "domain ", "options "].iter().any(|word| line.starts_with(word));
    let mut text: String = kept.lines().filter(of_use).map(|line| format!("{line}\n")).collect();
    let servers: Vec<IpAddr> = match plan.net {
        Net::Host => host_resolvers().iter().map(SocketAddr::ip).collect(),
        Net::None | Net::User => vec![RESOLVER.into()],
    };
    text.extend(servers.iter().map(|server| format!("nameserver {server}\n")));
    match root.seed(b"etc/resolv.conf", text.as_bytes(), 0o644, 0, 0) {
        Err(nomina_kernel::Errno::ENOENT | nomina_kernel::Errno::ENOTDIR) => Ok(()),
        other => other,
    }
}
