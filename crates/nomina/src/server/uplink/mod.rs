//! The way out of a sandbox with `--net user`: flows between guests' sockets and sockets of the host.
//!
//! Guests hold no socket of the host's network. What they send to the outside comes here, is decided upon ([`EgressPolicy`]), and
//! goes out of a socket of the supervisor's: TCP connections are copied between two stream sockets ([`pump`]), datagrams go
//! through a socket for each of the guest's ([`datagrams`]), queries of names through a resolver that notes the answers ([`dns`]).
//! One thread does all of it and never waits for one of them.
//!
//! Locks: the table of flows is held for single steps; a flow that is being served is not in it.

mod datagrams;
mod dns;
pub mod guests;
mod log;
mod published;
mod pump;
mod resolver;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nomina_fs::wait::descriptor_share;
use nomina_kernel::errno::{Errno, Result};
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::io::Errno as HostErrno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::Server;
use super::lock::Mutex;
use super::request::host;
use crate::egress::{EgressPolicy, NameCache, Protocol, Publish, Verdict};

pub use datagrams::Deliver;
pub use log::{Log, Who};
pub use published::Arrive;
pub use pump::{Ours, Reset};
pub use resolver::host_resolvers;

/// What happens when a connection has been made or has failed: gives our end of the guest's socket, which is pumped from then on.
pub type Done = Box<dyn FnOnce(Result<()>) -> Option<Ours> + Send>;

/// Makes the guest's end of a connection that comes in on a published port, from the first address to the second: our end of it.
pub type Incoming = Box<dyn Fn(SocketAddr, SocketAddr) -> Option<Ours> + Send>;

/// The way out.
pub struct Uplink(Arc<Shared>);

/// Under which addresses the outside and the sandbox know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The sandbox has addresses of its own, and the host is its gateway (`--net user`).
    User,
    /// The sandbox has the host's addresses (`--net host`).
    Host,
}

/// A way out and the namespace whose device leads there.
pub struct Attached {
    /// Inode number of the namespace.
    pub net: u64,
    /// How it is seen.
    pub mode: Mode,
    /// The sandbox.
    pub server: Weak<Server>,
    /// The way out.
    pub uplink: Uplink,
    /// Published ports, with the ports that the host has.
    pub published: Vec<Publish>,
}

struct Shared {
    policy: EgressPolicy,
    names: Mutex<NameCache>,
    log: Log,
    /// The host's resolvers.
    resolvers: Vec<SocketAddr>,
    epoll: OwnedFd,
    wake: OwnedFd,
    serial: AtomicU64,
    flows: Mutex<HashMap<u64, Flow>>,
    /// The host's sides of guests' datagram sockets, which are used by guests and by the thread at a time.
    datagrams: Mutex<HashMap<u64, Arc<datagrams::Datagrams>>>,
    /// Published UDP ports, by the port inside.
    ports: Mutex<HashMap<u16, Vec<Arc<published::Port>>>>,
    stop: AtomicBool,
}

/// What the thread serves.
enum Flow {
    /// A connection that the host makes.
    Connecting { socket: OwnedFd, done: Done },
    /// Two ends that are copied to each other.
    Pump(pump::Pump),
    /// A query that waits for its answer.
    Query(dns::Query),
    /// A connection to the resolver.
    DnsStream(dns::Stream),
    /// A published UDP port.
    Published(published::Receiver),
    /// A published TCP port.
    Listener { socket: OwnedFd, incoming: Incoming },
}

/// What becomes of a flow that has been served.
enum After {
    Stays(Flow),
    /// It stays and has more to do, when others had their turn.
    Again(Flow),
    Ends,
}

/// Not the number of a flow.
const WAKE: u64 = 0;

impl Uplink {
    /// A way out under `policy`, with these resolvers ([`host_resolvers`]), and its thread.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`, `eventfd(2)`, and of starting a thread.
    pub fn start(policy: EgressPolicy, log: Log, resolvers: Vec<SocketAddr>) -> io::Result<Uplink> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let shared = Arc::new(Shared {
            policy,
            names: Mutex::default(),
            log,
            resolvers,
            epoll,
            wake,
            serial: AtomicU64::new(WAKE + 1),
            flows: Mutex::default(),
            datagrams: Mutex::default(),
            ports: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let thread = shared.clone();
        std::thread::Builder::new().name("nomina-uplink".into()).spawn(move || run(&thread))?;
        Ok(Uplink(shared))
    }

    /// Asks whether `to` may be reached, and says so in the log.
    ///
    /// # Errors
    /// `EACCES`: it may not.
    pub fn permit(&self, protocol: Protocol, to: SocketAddr, who: &Who) -> Result<()> {
        self.0.permit(protocol, to, who)
    }

    /// Connects to `to`, which has been permitted, from the address `from` of the host's if one is given. `done` is called when it is
    /// known what became of it: at once, or by the thread. Gives the host's name of the connection.
    pub fn connect(&self, to: SocketAddr, from: Option<SocketAddr>, done: Done) -> Option<SocketAddr> {
        let begun = host_socket(to.ip(), SocketType::STREAM).and_then(|socket| {
            if let Some(from) = from {
                sockopt::set_socket_reuseaddr(&socket, true).map_err(host)?;
                rustix::net::bind(&socket, &from).map_err(host)?;
            }
            match rustix::net::connect(&socket, &to) {
                Ok(()) | Err(HostErrno::INPROGRESS) => Ok(socket),
                Err(error) => Err(host(error)),
            }
        });
        match begun {
            Ok(socket) => {
                let name = rustix::net::getsockname(&socket).ok();
                // Without room for it, `done` goes unasked with what it holds, and the guest's socket with that.
                let _ = self.0.add(Flow::Connecting { socket, done });
                name.and_then(|name| SocketAddr::try_from(name).ok())
            }
            Err(errno) => {
                drop(done(Err(errno)));
                None
            }
        }
    }

    /// Whether this is the address of a resolver of the host's.
    pub fn is_resolver(&self, address: SocketAddr) -> bool {
        self.0.resolvers.contains(&address)
    }

    /// Serves a stream connection of a guest to the resolver; `ours` is our end.
    ///
    /// # Errors
    /// `ENFILE`: there are too many flows.
    pub fn dns_stream(&self, ours: OwnedFd, who: &Who) -> Result<()> {
        self.0.add(Flow::DnsStream(dns::Stream::new(&self.0, ours, who.clone())?))
    }

    /// Asks the host's resolver what the guest asks in `query`; the answer is delivered later.
    ///
    /// # Errors
    /// `EINVAL`: it is no query. `ENFILE`, and those of `socket(2)`.
    pub fn dns_query(&self, query: &[u8], who: &Who, deliver: Deliver, from: SocketAddr) -> Result<()> {
        dns::ask(&self.0, query, who, dns::Asker { deliver, from })
    }

    /// Opens the host's side of a guest's datagram socket, which gets this port if it is free; 0: any.
    ///
    /// # Errors
    /// `ENFILE`: there are too many.
    pub fn open_datagrams(&self, deliver: Deliver, port: u16) -> Result<DatagramFlow> {
        let mut all = self.0.datagrams.lock().unwrap();
        if all.len() >= descriptor_share() {
            return Err(Errno::ENFILE);
        }
        let id = self.0.serial.fetch_add(1, Ordering::Relaxed);
        all.insert(id, Arc::new(datagrams::Datagrams::new(deliver, port)));
        Ok(DatagramFlow { id, shared: self.0.clone() })
    }

    /// Listens on the host for a published TCP port; gives the port, which the host chose if it was 0.
    ///
    /// # Errors
    /// Those of `bind(2)`.
    pub fn listen(&self, publish: &Publish, incoming: Incoming) -> io::Result<u16> {
        let (socket, port) = bound(publish, SocketType::STREAM)?;
        rustix::net::listen(&socket, 128)?;
        self.0.add(Flow::Listener { socket, incoming }).map_err(io_error)?;
        Ok(port)
    }

    /// Takes what is sent to a published UDP port; gives the port, which the host chose if it was 0.
    ///
    /// # Errors
    /// Those of `bind(2)`.
    pub fn receive(&self, publish: &Publish, arrive: Arrive) -> io::Result<u16> {
        let (socket, number) = bound(publish, SocketType::DGRAM)?;
        let port = Arc::new(published::Port::new(socket));
        self.0.ports.lock().unwrap().entry(publish.guest_port).or_default().push(port.clone());
        self.0.add(Flow::Published(published::Receiver { port, arrive })).map_err(io_error)?;
        Ok(number)
    }

    /// Answers somebody outside who has sent a datagram to the published port `from` of the sandbox; `None`: nobody at `to` has.
    pub fn answer(&self, from: u16, to: SocketAddr, data: &[u8]) -> Option<Result<()>> {
        let ports = self.0.ports.lock().unwrap().get(&from).cloned()?;
        ports.iter().find_map(|port| port.answer(to, data))
    }
}

/// The host's side of a guest's datagram socket, closed when this is dropped.
pub struct DatagramFlow {
    id: u64,
    shared: Arc<Shared>,
}

impl DatagramFlow {
    /// Sends a datagram from it.
    ///
    /// # Errors
    /// `EACCES`: `to` may not be reached. Those of `sendto(2)`.
    pub fn send(&self, to: SocketAddr, data: &[u8], who: &Who) -> Result<()> {
        datagrams::send(&self.shared, self.id, to, data, who)
    }
}

impl Drop for DatagramFlow {
    fn drop(&mut self) {
        self.shared.datagrams.lock().unwrap().remove(&self.id);
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
        self.0.poke();
    }
}

fn io_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}

/// The host's socket of a published port, and its number.
fn bound(publish: &Publish, kind: SocketType) -> io::Result<(OwnedFd, u16)> {
    let socket = host_socket(publish.address, kind).map_err(io_error)?;
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(publish.address, publish.host_port))?;
    let name = SocketAddr::try_from(rustix::net::getsockname(&socket)?);
    Ok((socket, name.map_or(publish.host_port, |at| at.port())))
}

/// A socket of the host that waits for nothing.
fn host_socket(address: IpAddr, kind: SocketType) -> Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None).map_err(host)?;
    if kind == SocketType::STREAM {
        // What guests write together travels together; what they write alone shall not wait here.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
    }
    Ok(socket)
}

/// Whether `address` is this machine's: a socket connected there would have it as its own.
fn is_own(address: IpAddr) -> bool {
    source_to(address) == Some(address)
}

/// The address that this machine sends from to `address`. Nothing is sent.
fn source_to(address: IpAddr) -> Option<IpAddr> {
    let socket = host_socket(address, SocketType::DGRAM).ok()?;
    rustix::net::connect(&socket, &SocketAddr::new(address, 9)).ok()?;
    Some(SocketAddr::try_from(rustix::net::getsockname(&socket).ok()?).ok()?.ip())
}

impl Shared {
    fn permit(&self, protocol: Protocol, to: SocketAddr, who: &Who) -> Result<()> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let names = self.names.lock().unwrap().names_of(to.ip(), Instant::now());
        let verdict = self.policy.decide(to, &names, is_own(to.ip()));
        self.log.destination(protocol, to, &names, who, &verdict);
        match verdict {
            Verdict::Allowed(_) => Ok(()),
            Verdict::Refused(_) => Err(Errno::EACCES),
        }
    }

    fn poke(&self) {
        // A full counter wakes as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Watches a descriptor of a flow for everything, told of once.
    fn watch(&self, id: u64, fd: BorrowedFd<'_>) -> Result<()> {
        let all =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, fd, epoll::EventData::new_u64(id), all).map_err(host)
    }

    /// Adds a flow and watches its descriptors.
    fn add(&self, flow: Flow) -> Result<()> {
        // The table is held, so that the thread finds the flow when it is told of the first event.
        let mut flows = self.flows.lock().unwrap();
        if flows.len() >= descriptor_share() {
            return Err(Errno::ENFILE);
        }
        let id = self.serial.fetch_add(1, Ordering::Relaxed);
        for fd in flow.descriptors() {
            self.watch(id, fd)?;
        }
        flows.insert(id, flow);
        drop(flows);
        // The thread looks when the next query is due.
        self.poke();
        Ok(())
    }
}

impl Flow {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Flow::Connecting { socket, .. } | Flow::Listener { socket, .. } => vec![socket.as_fd()],
            Flow::Pump(pump) => pump.descriptors().to_vec(),
            Flow::Query(query) => vec![query.descriptor()],
            Flow::Published(receiver) => vec![receiver.descriptor()],
            Flow::DnsStream(stream) => stream.descriptors().to_vec(),
        }
    }

    /// Does what can be done now.
    fn serve(self, shared: &Arc<Shared>, id: u64, buffer: &mut [u8]) -> After {
        match self {
            Flow::Connecting { socket, done } => connecting(shared, id, socket, done),
            Flow::Pump(pump) => pump.serve(buffer),
            Flow::Query(query) => query.serve(shared, id, buffer),
            Flow::Published(receiver) => receiver.serve(buffer),
            Flow::DnsStream(stream) => stream.serve(shared, buffer),
            Flow::Listener { socket, incoming } => {
                accept(shared, &socket, &incoming);
                After::Stays(Flow::Listener { socket, incoming })
            }
        }
    }
}

fn connecting(shared: &Arc<Shared>, id: u64, socket: OwnedFd, done: Done) -> After {
    let error = match sockopt::socket_error(&socket) {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error),
    };
    if let Some(error) = error {
        done(Err(host(error)));
        return After::Ends;
    }
    if rustix::net::getpeername(&socket).is_err() {
        // Not yet.
        return After::Stays(Flow::Connecting { socket, done });
    }
    let Some(ours) = done(Ok(())) else { return After::Ends };
    if shared.watch(id, ours.end.as_fd()).is_err() {
        return After::Ends;
    }
    After::Again(Flow::Pump(pump::Pump::new(ours, socket)))
}

fn accept(shared: &Arc<Shared>, socket: &OwnedFd, incoming: &Incoming) {
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::acceptfrom_with(socket, flags) {
            Ok((theirs, from)) => {
                let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) else { continue };
                let _ = sockopt::set_tcp_nodelay(&theirs, true);
                let at = rustix::net::getsockname(&theirs).ok().and_then(|at| SocketAddr::try_from(at).ok());
                let Some(ours) = at.and_then(|at| incoming(from, at)) else {
                    // Nobody listens inside: a host without the service would reset it, too.
                    pump::abort(theirs);
                    continue;
                };
                let _ = shared.add(Flow::Pump(pump::Pump::new(ours, theirs)));
            }
            Err(HostErrno::INTR | HostErrno::CONNABORTED) => {}
            Err(_) => return,
        }
    }
}

/// The thread.
fn run(shared: &Arc<Shared>) {
    let mut events = Vec::with_capacity(64);
    let mut buffer = vec![0; 256 << 10];
    let mut again: Vec<u64> = Vec::new();
    while !shared.stop.load(Ordering::Acquire) {
        events.clear();
        let timeout = if again.is_empty() { dns::until_next(shared) } else { Some(Duration::ZERO) };
        let timeout = timeout
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match epoll::wait(&shared.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(HostErrno::INTR) => {}
            Err(_) => return,
        }
        let mut turns = std::mem::take(&mut again);
        for event in &events {
            match event.data.u64() {
                WAKE => {
                    let mut count = [0; 8];
                    let _ = rustix::io::read(&shared.wake, &mut count);
                }
                id if !turns.contains(&id) => turns.push(id),
                _ => {}
            }
        }
        turns.extend(dns::due(shared));
        for id in turns {
            let Some(flow) = shared.flows.lock().unwrap().remove(&id) else {
                let datagrams = shared.datagrams.lock().unwrap().get(&id).cloned();
                if datagrams.is_some_and(|datagrams| datagrams.serve(&mut buffer)) {
                    again.push(id);
                }
                continue;
            };
            // A panic is our bug, not the guest's to exploit: the flow ends, the sandbox lives.
            match catch_unwind(AssertUnwindSafe(|| flow.serve(shared, id, &mut buffer))) {
                Ok(After::Stays(flow)) => {
                    shared.flows.lock().unwrap().insert(id, flow);
                }
                Ok(After::Again(flow)) => {
                    shared.flows.lock().unwrap().insert(id, flow);
                    again.push(id);
                }
                Ok(After::Ends) | Err(_) => {}
            }
        }
    }
}
