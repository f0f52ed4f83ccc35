//! Guests' sockets at the way out: what they connect to, and what the host connects to them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetNamespace;
use nomina_kernel::net::uplink::{self as device, ADDRESS, ADDRESS6, GATEWAY, GATEWAY6, outside};

use super::super::Server;
use super::super::inet::{Inet, InetSocket};
use super::super::request::Ctx;
use super::{Arrive, Attached, DatagramFlow, Deliver, Incoming, Mode, Ours, Reset, Who, source_to};
use crate::egress::{Protocol, Publish};

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

impl Attached {
    /// Whom a guest reaches at `to`.
    fn outside(&self, to: SocketAddr) -> device::Outside {
        match self.mode {
            Mode::User => match outside(to.ip()) {
                device::Outside::Resolver if to.port() != DOMAIN => device::Outside::Nobody,
                outside => outside,
            },
            Mode::Host if self.uplink.is_resolver(to) => device::Outside::Resolver,
            Mode::Host => device::Outside::Host(to.ip()),
        }
    }
}

/// Whether the addresses of a namespace are the host's, so that who finds nobody there inside may look outside.
pub fn is_host(inet: &Inet, net: u64) -> bool {
    inet.uplink.get().is_some_and(|attached| attached.net == net && attached.mode == Mode::Host)
}

/// Whether a connection to `to`, an own address of a namespace where nobody listens inside, reaches the host; where the rules refuse
/// it, the port is closed.
pub fn reaches_host(inet: &Inet, net: u64, to: SocketAddr, who: impl FnOnce() -> Who) -> bool {
    let Some(attached) = inet.uplink.get().filter(|_| is_host(inet, net)) else { return false };
    attached.uplink.is_resolver(to) || attached.uplink.permit(Protocol::Tcp, to, &who()).is_ok()
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
    let (flow, who, own) = {
        let state = socket.state.lock().unwrap();
        (state.outside.flow.clone(), state.outside.who.clone().unwrap_or_default(), state.local.port())
    };
    match attached.outside(to) {
        // Nobody answers who is asked for the address.
        device::Outside::Nobody => Ok(()),
        device::Outside::Resolver => attached.uplink.dns_query(data, &who, deliver(attached, socket), to),
        device::Outside::Host(address) => {
            let host = SocketAddr::new(address, to.port());
            if let Some(answered) = attached.uplink.answer(own, host, data) {
                return answered;
            }
            let flow = match flow {
                Some(flow) => flow,
                None => {
                    let port = if attached.mode == Mode::Host { own } else { 0 };
                    let flow = Arc::new(attached.uplink.open_datagrams(deliver(attached, socket), port)?);
                    // Another thread may have been faster; all it has lost is an answer.
                    socket.state.lock().unwrap().outside.flow = Some(flow.clone());
                    flow
                }
            };
            flow.send(host, data, &who)
        }
    }
}

/// Brings what comes from outside to a socket.
fn deliver(attached: &Attached, socket: &Arc<InetSocket>) -> Deliver {
    let (server, socket, mode) = (attached.server.clone(), Arc::downgrade(socket), attached.mode);
    Arc::new(move |from, data| {
        let (Some(server), Some(socket)) = (server.upgrade(), socket.upgrade()) else { return };
        let from = if mode == Mode::User { inside(from).0 } else { from };
        server.inet.deliver_outsiders(&socket, from, data);
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

/// Begins a connection of a guest's to something outside. Gives what is readable once it is made or has failed.
///
/// # Errors
/// `EACCES`: the rules refuse it. `EHOSTUNREACH`: nobody has the address. `ENETUNREACH`: another namespace has the device. Those of
/// the host's sockets.
pub fn connect(ctx: &Ctx<'_>, fd: &OwnedFd, socket: &Arc<InetSocket>, to: SocketAddr) -> Result<OwnedFd> {
    let attached = uplink(&ctx.server.inet, socket)?;
    if let device::Outside::Host(address) = attached.outside(to) {
        attached.uplink.permit(Protocol::Tcp, SocketAddr::new(address, to.port()), &caller(ctx))?;
    }
    connect_permitted(ctx, attached, fd, socket, to)
}

/// As [`connect`], to somebody who may be reached.
///
/// # Errors
/// As [`connect`].
pub fn connect_permitted(
    ctx: &Ctx<'_>,
    attached: &Attached,
    fd: &OwnedFd,
    socket: &Arc<InetSocket>,
    to: SocketAddr,
) -> Result<OwnedFd> {
    let inet = &ctx.server.inet;
    match attached.outside(to) {
        device::Outside::Nobody if to.ip() == IpAddr::V4(device::RESOLVER) => Err(Errno::ECONNREFUSED),
        device::Outside::Nobody => Err(Errno::EHOSTUNREACH),
        device::Outside::Resolver => {
            let (outward, made) = inet.begin(fd, socket)?;
            let ours = outward.finish(to, Ok(())).ok_or(Errno::EIO)?;
            attached.uplink.dns_stream(ours, &caller(ctx))?;
            Ok(made)
        }
        device::Outside::Host(address) => {
            let host = SocketAddr::new(address, to.port());
            let (local, chosen) = {
                let state = socket.state.lock().unwrap();
                (state.local, state.port_locked || state.address_locked)
            };
            let from = (attached.mode == Mode::Host && chosen).then_some(local);
            let (outward, made) = inet.begin(fd, socket)?;
            let reset = resetting(Arc::downgrade(ctx.server), socket, to);
            let finish = move |result| outward.finish(to, result).map(|end| Ours { end, reset });
            let name = attached.uplink.connect(host, from, Box::new(finish));
            if let Some(name) = name.filter(|_| attached.mode == Mode::Host) {
                inet.rename(socket, name);
            }
            Ok(made)
        }
    }
}

/// Takes connections from a published port to a listener inside.
pub fn incoming(server: &Weak<Server>, net: &Arc<NetNamespace>, mode: Mode, port: u16) -> Incoming {
    let (server, net) = (server.clone(), Arc::downgrade(net));
    Box::new(move |from, at| {
        let (server, net) = (server.upgrade()?, net.upgrade()?);
        let (from, own) = match mode {
            Mode::User => inside(from),
            Mode::Host => (unmapped(from), at.ip().to_canonical()),
        };
        let to = SocketAddr::new(own, port);
        let end = server.inet.join_from(&net, from, to).ok()?;
        let (server, net) = (Arc::downgrade(&server), net.common().inum());
        let reset = Box::new(move |ours| {
            if let Some(server) = server.upgrade() {
                server.reset_connection(net, to, from, ours);
            }
        });
        Some(Ours { end, reset })
    })
}

/// Takes datagrams from a published port to whoever has the port inside.
pub fn arriving(server: &Weak<Server>, net: &Arc<NetNamespace>, mode: Mode, publish: &Publish) -> Arrive {
    let (server, net, publish) = (server.clone(), Arc::downgrade(net), *publish);
    Box::new(move |from, data| {
        let (Some(server), Some(net)) = (server.upgrade(), net.upgrade()) else { return };
        let (from, own) = match mode {
            Mode::User => inside(from),
            Mode::Host if publish.address.is_unspecified() => {
                let from = unmapped(from);
                (from, source_to(from.ip()).unwrap_or(publish.address))
            }
            Mode::Host => (unmapped(from), publish.address),
        };
        let to = SocketAddr::new(own, publish.guest_port);
        server.inet.deliver_to_port(net.common().inum(), from, to, data);
    })
}

fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How somebody outside looks from inside, and to which of the sandbox's addresses he comes: this machine comes from the
/// gateway, as answers to it go there.
fn inside(from: SocketAddr) -> (SocketAddr, IpAddr) {
    let (own, address) = match from.ip().to_canonical() {
        IpAddr::V4(address) if address.is_loopback() => (ADDRESS.into(), GATEWAY.into()),
        IpAddr::V6(address) if address.is_loopback() => (ADDRESS6.into(), GATEWAY6.into()),
        address @ IpAddr::V4(_) => (ADDRESS.into(), address),
        address @ IpAddr::V6(_) => (ADDRESS6.into(), address),
    };
    (SocketAddr::new(address, from.port()), own)
}

/// What resets a guest's connection to `peer`.
fn resetting(server: Weak<Server>, socket: &Arc<InetSocket>, peer: SocketAddr) -> Reset {
    let socket = Arc::downgrade(socket);
    Box::new(move |ours| {
        if let (Some(server), Some(socket)) = (server.upgrade(), socket.upgrade()) {
            let local = socket.state.lock().unwrap().local;
            server.reset_connection(socket.net_ns(), local, peer, ours);
        }
    })
}
