//! Guests' sockets at the way out: what they connect to, and what the host connects to them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetNamespace;
use nomina_kernel::net::uplink::{ADDRESS, ADDRESS6, GATEWAY, GATEWAY6, Outside, outside};

use super::super::Server;
use super::super::inet::InetSocket;
use super::super::request::Ctx;
use super::{Incoming, Uplink, Who};
use crate::egress::Protocol;

/// The port of the resolver.
const DOMAIN: u16 = 53;

/// The way out, for a socket of the namespace that has it.
fn uplink<'a>(ctx: &Ctx<'a>, socket: &InetSocket) -> Result<&'a Uplink> {
    let attached = ctx.server.uplink.get().ok_or(Errno::ENETUNREACH)?;
    if socket.net_ns() == attached.net { Ok(&attached.uplink) } else { Err(Errno::ENETUNREACH) }
}

/// Who makes a call.
pub fn caller(ctx: &Ctx<'_>) -> Who {
    let host = ctx.host_pid();
    let comm = std::fs::read_to_string(format!("/proc/{host}/comm")).unwrap_or_default();
    let kernel = ctx.server.kernel.lock().unwrap();
    let first = ctx.server.first_pid_ns.get();
    let pid = kernel.task(ctx.task()).zip(first).map_or(0, |(task, first)| task.pid().nr_ns(first));
    Who { comm: comm.trim_end_matches('\n').to_owned(), pid }
}

/// Begins a connection of a guest's to something outside.
///
/// # Errors
/// `EACCES`: the rules refuse it. `EHOSTUNREACH`: nobody has the address. `ENETUNREACH`: another namespace has the device. Those of
/// the host's sockets.
pub fn connect(ctx: &Ctx<'_>, fd: &OwnedFd, socket: &Arc<InetSocket>, to: SocketAddr) -> Result<()> {
    let uplink = uplink(ctx, socket)?;
    let who = caller(ctx);
    match outside(to.ip()) {
        Outside::Nobody => Err(Errno::EHOSTUNREACH),
        Outside::Resolver if to.port() != DOMAIN => Err(Errno::ECONNREFUSED),
        Outside::Resolver => {
            let ours = ctx.server.inet.begin(fd, socket)?.finish(to, Ok(()));
            uplink.dns_stream(ours.ok_or(Errno::EIO)?, &who)
        }
        Outside::Host(address) => {
            let host = SocketAddr::new(address, to.port());
            uplink.permit(Protocol::Tcp, host, &who)?;
            let outward = ctx.server.inet.begin(fd, socket)?;
            uplink.connect(host, Box::new(move |result| outward.finish(to, result)));
            Ok(())
        }
    }
}

/// Takes connections from a published port to a listener inside.
pub fn incoming(server: &Weak<Server>, net: &Arc<NetNamespace>, port: u16) -> Incoming {
    let (server, net) = (server.clone(), Arc::downgrade(net));
    Box::new(move |from| {
        let (server, net) = (server.upgrade()?, net.upgrade()?);
        // Who connects from this machine comes from the gateway, as its answers go there.
        let (to, address) = match from.ip().to_canonical() {
            IpAddr::V4(address) if address.is_loopback() => (ADDRESS.into(), GATEWAY.into()),
            IpAddr::V6(address) if address.is_loopback() => (ADDRESS6.into(), GATEWAY6.into()),
            address @ IpAddr::V4(_) => (ADDRESS.into(), address),
            address @ IpAddr::V6(_) => (ADDRESS6.into(), address),
        };
        server.inet.join_from(&net, SocketAddr::new(address, from.port()), SocketAddr::new(to, port)).ok()
    })
}
