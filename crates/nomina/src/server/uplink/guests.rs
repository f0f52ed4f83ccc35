//! Guests' sockets at the way out: what they connect to, and what the host connects to them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::uplink::{self as device, ADDRESS, ADDRESS6, GATEWAY, GATEWAY6, outside};
use nomina_kernel::net::{Flow, NetNamespace};

use super::super::Server;
use super::super::inet::{Inet, InetSocket};
use super::super::request::Ctx;
use super::{Attached, DatagramFlow, Deliver, Incoming, Who};
use crate::egress::Protocol;

/// The port of the resolver.
const DOMAIN: u16 = 53;

/// What a datagram socket has at the way out.
#[derive(Default)]
pub struct Outside {
    /// Its flow, from the first message on.
    pub flow: Option<Arc<DatagramFlow>>,
    /// Who has used it first.
    pub who: Option<Who>,
}

/// The way out, for a socket of the namespace that has it.
fn uplink<'a>(inet: &'a Inet, socket: &InetSocket) -> Result<&'a Attached> {
    let attached = inet.uplink.get().ok_or(Errno::ENETUNREACH)?;
    if socket.net_ns() == attached.net { Ok(attached) } else { Err(Errno::ENETUNREACH) }
}

/// Notes who uses a datagram socket, as long as it is not known.
pub fn introduce(ctx: &Ctx<'_>, socket: &InetSocket) {
    if ctx.server.inet.uplink.get().is_some() && socket.state.lock().unwrap().outside.who.is_none() {
        let who = caller(ctx);
        socket.state.lock().unwrap().outside.who = Some(who);
    }
}

/// Sends a datagram of a guest's to something outside.
///
/// # Errors
/// `EACCES`: the rules refuse it. `ENETUNREACH`: another namespace has the device. Those of the host's sockets.
pub fn send(inet: &Inet, socket: &Arc<InetSocket>, to: SocketAddr, data: &[u8]) -> Result<()> {
    let attached = uplink(inet, socket)?;
    let (flow, who) = {
        let state = socket.state.lock().unwrap();
        (state.outside.flow.clone(), state.outside.who.clone().unwrap_or_default())
    };
    match outside(to.ip()) {
        // Nobody answers who is asked for the address.
        device::Outside::Nobody => Ok(()),
        device::Outside::Resolver if to.port() != DOMAIN => Ok(()),
        device::Outside::Resolver => attached.uplink.dns_query(data, &who, deliver(attached, socket), to),
        device::Outside::Host(address) => {
            let flow = match flow {
                Some(flow) => flow,
                None => {
                    let flow = Arc::new(attached.uplink.open_datagrams(deliver(attached, socket))?);
                    // Another thread may have been faster; all it has lost is an answer.
                    socket.state.lock().unwrap().outside.flow = Some(flow.clone());
                    flow
                }
            };
            flow.send(SocketAddr::new(address, to.port()), data, &who)
        }
    }
}

/// Brings what comes from outside to a socket.
fn deliver(attached: &Attached, socket: &Arc<InetSocket>) -> Deliver {
    let (server, socket) = (attached.server.clone(), Arc::downgrade(socket));
    Arc::new(move |from, data| {
        let (Some(server), Some(socket)) = (server.upgrade(), socket.upgrade()) else { return };
        let address = match from.ip() {
            IpAddr::V4(address) if address.is_loopback() => GATEWAY.into(),
            IpAddr::V6(address) if address.is_loopback() => GATEWAY6.into(),
            address => address,
        };
        server.inet.deliver_outsiders(&socket, SocketAddr::new(address, from.port()), data);
    })
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

/// Whether what a socket sends to an address leaves by the device of the way out.
pub fn leads_out(socket: &InetSocket, to: SocketAddr) -> bool {
    let stack = socket.net.stack().lock();
    stack.route_output(socket.net_ns(), &Flow::to(to.ip())).is_ok_and(|dst| stack.is_uplink(dst.dev))
}

/// Begins a connection of a guest's to something outside. Gives what is readable once it is made or has failed.
///
/// # Errors
/// `EACCES`: the rules refuse it. `EHOSTUNREACH`: nobody has the address. `ENETUNREACH`: another namespace has the device. Those of
/// the host's sockets.
pub fn connect(ctx: &Ctx<'_>, fd: &OwnedFd, socket: &Arc<InetSocket>, to: SocketAddr) -> Result<OwnedFd> {
    let inet = &ctx.server.inet;
    let uplink = &uplink(inet, socket)?.uplink;
    let who = caller(ctx);
    match outside(to.ip()) {
        device::Outside::Nobody => Err(Errno::EHOSTUNREACH),
        device::Outside::Resolver if to.port() != DOMAIN => Err(Errno::ECONNREFUSED),
        device::Outside::Resolver => {
            let (outward, made) = inet.begin(fd, socket)?;
            uplink.dns_stream(outward.finish(to, Ok(())).ok_or(Errno::EIO)?, &who)?;
            Ok(made)
        }
        device::Outside::Host(address) => {
            let host = SocketAddr::new(address, to.port());
            uplink.permit(Protocol::Tcp, host, &who)?;
            let (outward, made) = inet.begin(fd, socket)?;
            uplink.connect(host, Box::new(move |result| outward.finish(to, result)));
            Ok(made)
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
