//! TCP for connections that leave the sandbox's own sockets: smoltcp, over the model's packets.
//!
//! The guest's socket is joined to one of ours, *the end*, and what passes there is a connection of smoltcp's. While a connection is being
//! made the guest's socket is full of bytes of ours, so that it is not writable; they are taken out when it is there. Each namespace has
//! an interface of its own that takes packets for every address: which are local, the model has decided.
//!
//! Locks, outermost first: the engine, [`super::Names`], a socket's state, the stack.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use nomina_fs::wait::descriptor_share;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetStack;
use nomina_kernel::net::core::skbuff::SkBuff;
use nomina_kernel::net::ipv4::IpOut;
use rustix::event::{EventfdFlags, Timespec, epoll};
use rustix::io::Errno as HostErrno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{
    HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint, Ipv4Packet, Ipv6Packet, TcpPacket,
};

use super::super::Server;
use super::super::request::host;
use super::{Inet, InetSocket, TcpState, host_socket, udp};

/// Bytes of each buffer of a connection.
const BUFFER: usize = 256 * 1024;
/// Largest packet.
const MTU: usize = 1500;
/// An address for the interface itself, which nobody uses (RFC 7600).
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// How long a connection may take to be made, and data to be acknowledged.
const TIMEOUT_S: u64 = 127;
/// Event of the wake-up.
const WAKE: u64 = 0;

/// Packets between an interface and the model.
#[derive(Default)]
struct Wire {
    incoming: VecDeque<Vec<u8>>,
    outgoing: Vec<Vec<u8>>,
}

struct Incoming(Vec<u8>);
struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        Some((Incoming(self.incoming.pop_front()?), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// TCP of a namespace.
struct NetTcp {
    stack: Arc<NetStack>,
    iface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
}

/// Where a connection is in its life.
enum Phase {
    /// Being made for a guest's socket, which is full of so many bytes of ours.
    Connecting { socket: Arc<InetSocket>, filler: usize },
    /// Being made from outside.
    Accepting,
    /// There.
    Open,
}

struct Conn {
    net: u64,
    handle: SocketHandle,
    local: SocketAddr,
    remote: SocketAddr,
    phase: Phase,
    /// Our end; none while the listener does not know of the connection.
    end: Option<OwnedFd>,
    /// The guest will send nothing more.
    guest_done: bool,
    /// The guest has been told that nothing more comes.
    told_end: bool,
    /// Readable once the connection is made or has failed.
    made: OwnedFd,
    since: std::time::Instant,
}

/// All connections to the outside.
pub struct Engine {
    nets: HashMap<u64, NetTcp>,
    conns: HashMap<u64, Conn>,
    /// By namespace, own name and the other end's.
    by_ends: HashMap<(u64, SocketAddr, SocketAddr), u64>,
    last: u64,
    epoll: OwnedFd,
    wake: OwnedFd,
    started: bool,
    clock: std::time::Instant,
}

fn smol(address: SocketAddr) -> IpEndpoint {
    IpEndpoint::new(address.ip().into(), address.port())
}

impl Engine {
    /// No connections, and no thread.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` and `eventfd(2)`.
    pub fn new() -> std::io::Result<Engine> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Engine {
            nets: HashMap::new(),
            conns: HashMap::new(),
            by_ends: HashMap::new(),
            last: WAKE,
            epoll,
            wake,
            started: false,
            clock: std::time::Instant::now(),
        })
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.clock.elapsed().as_micros() as i64)
    }

    fn net(&mut self, net: u64, stack: &Arc<NetStack>) -> &mut NetTcp {
        let now = self.now();
        self.nets.entry(net).or_insert_with(|| {
            let mut wire = Wire::default();
            let mut config = Config::new(HardwareAddress::Ip);
            // Sequence numbers are to be nobody's guess.
            config.random_seed = RandomState::new().hash_one(net);
            let mut iface = Interface::new(config, &mut wire, now);
            iface.set_any_ip(true);
            iface.update_ip_addrs(|addresses| {
                let _ = addresses.push(IpCidr::new(IpAddr::V4(OWN).into(), 32));
                let _ = addresses.push(IpCidr::new(IpAddr::V6(OWN.to_ipv6_mapped()).into(), 128));
            });
            // With `any_ip`, an address is taken whose route leads to an own address.
            let _ = iface.routes_mut().add_default_ipv4_route(OWN);
            let _ = iface.routes_mut().add_default_ipv6_route(OWN.to_ipv6_mapped());
            NetTcp { stack: stack.clone(), iface, wire, sockets: SocketSet::new(Vec::new()) }
        })
    }

    fn socket(&mut self, net: u64, stack: &Arc<NetStack>) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_timeout(Some(smoltcp::time::Duration::from_secs(TIMEOUT_S)));
        socket.set_nagle_enabled(false);
        self.net(net, stack).sockets.add(socket)
    }

    fn add(&mut self, conn: Conn) -> Result<u64> {
        self.last += 1;
        let id = self.last;
        self.watch(id, conn.end.as_ref())?;
        self.by_ends.insert((conn.net, conn.local, conn.remote), id);
        self.conns.insert(id, conn);
        Ok(id)
    }

    fn watch(&self, id: u64, end: Option<&OwnedFd>) -> Result<()> {
        let Some(end) = end else { return Ok(()) };
        let events =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, end, epoll::EventData::new_u64(id), events).map_err(host)
    }

    fn has_room(&self) -> bool {
        self.conns.len() < descriptor_share() / 2
    }

    /// Runs the protocol of a namespace and gives its packets to the model.
    fn poll(&mut self, net: u64) {
        let now = self.now();
        let Some(tcp) = self.nets.get_mut(&net) else { return };
        tcp.iface.poll(now, &mut tcp.wire, &mut tcp.sockets);
        if tcp.wire.outgoing.is_empty() {
            return;
        }
        let mut stack = tcp.stack.lock();
        for packet in tcp.wire.outgoing.drain(..) {
            let Some((out, segment)) = parts(&packet) else { continue };
            // What cannot be sent is sent again.
            let _ = stack.ip_send(net, &out, segment);
        }
    }

    /// When the protocol of some namespace wants to run again.
    fn next(&mut self) -> Option<Duration> {
        let now = self.now();
        let delays = self.nets.values_mut().filter_map(|tcp| tcp.iface.poll_delay(now, &tcp.sockets));
        delays.min().map(|delay| Duration::from_micros(delay.total_micros()))
    }
}

/// Addresses and segment of a packet of smoltcp's.
fn parts(packet: &[u8]) -> Option<(IpOut, &[u8])> {
    const TCP: u8 = libc::IPPROTO_TCP as u8;
    if packet.first()? >> 4 == 4 {
        let header = Ipv4Packet::new_checked(packet).ok()?;
        let source = Some(IpAddr::V4(header.src_addr()));
        let out = IpOut { source, ..IpOut::to(IpAddr::V4(header.dst_addr()), TCP) };
        return Some((out, packet.get(usize::from(header.header_len())..)?));
    }
    let header = Ipv6Packet::new_checked(packet).ok()?;
    let source = Some(IpAddr::V6(header.src_addr()));
    let out = IpOut { source, ..IpOut::to(IpAddr::V6(header.dst_addr()), TCP) };
    Some((out, packet.get(header.header_len()..)?))
}

/// The ends of a segment, its destination first, and whether it asks for a connection.
fn segment(packet: &[u8]) -> Option<(SocketAddr, SocketAddr, bool)> {
    let (out, segment) = parts(packet)?;
    let header = TcpPacket::new_checked(segment).ok()?;
    let to = SocketAddr::new(out.destination, header.dst_port());
    let from = SocketAddr::new(out.source?, header.src_port());
    Some((to, from, header.syn() && !header.ack()))
}

impl Inet {
    /// Begins a connection of a guest's socket, which has been joined to `end`. Gives what is readable once it is made or has failed.
    ///
    /// # Errors
    /// `ENFILE`: too many connections. `EADDRNOTAVAIL`: there is one between the two addresses.
    pub fn connect_outside(
        &self,
        server: &Arc<Server>,
        fd: &OwnedFd,
        end: OwnedFd,
        socket: &Arc<InetSocket>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<OwnedFd> {
        let mut engine = self.engine.lock().unwrap();
        if !engine.has_room() {
            return Err(Errno::ENFILE);
        }
        start(server, &mut engine).map_err(host)?;
        let net = socket.net_ns();
        let handle = engine.socket(net, socket.net.stack());
        let tcp = engine.net(net, socket.net.stack());
        let context = tcp.iface.context();
        let begun =
            tcp.sockets.get_mut::<tcp::Socket<'_>>(handle).connect(context, smol(remote), smol(local));
        if begun.is_err() {
            tcp.sockets.remove(handle);
            return Err(Errno::EADDRNOTAVAIL);
        }
        let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host)?;
        let waits = made.try_clone().map_err(host)?;
        let filler = fill(fd);
        engine.add(Conn {
            net,
            handle,
            local,
            remote,
            phase: Phase::Connecting { socket: socket.clone(), filler },
            end: Some(end),
            guest_done: false,
            told_end: false,
            made,
            since: std::time::Instant::now(),
        })?;
        engine.poll(net);
        // The thread has a new time to look at.
        let _ = rustix::io::write(&engine.wake, &1u64.to_ne_bytes());
        Ok(waits)
    }

    /// A segment has come in for a namespace: `tcp_v4_rcv`.
    pub fn tcp_rcv(&self, server: &Arc<Server>, stack: &Arc<NetStack>, net: u64, skb: &SkBuff) {
        let Some((to, from, asks)) = segment(skb.network()) else { return };
        let mut engine = self.engine.lock().unwrap();
        let known = engine.by_ends.contains_key(&(net, to, from));
        let listens = || self.names().listener(net, to, self.random()).is_some();
        if asks && !known && engine.has_room() && listens() && start(server, &mut engine).is_ok() {
            let handle = engine.socket(net, stack);
            let endpoint = IpListenEndpoint { addr: Some(to.ip().into()), port: to.port() };
            let tcp = engine.net(net, stack);
            let listening = tcp.sockets.get_mut::<tcp::Socket<'_>>(handle).listen(endpoint);
            let made = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
            if let (Ok(()), Ok(made)) = (listening, made) {
                let since = std::time::Instant::now();
                let (phase, end) = (Phase::Accepting, None);
                let conn = Conn {
                    net,
                    handle,
                    local: to,
                    remote: from,
                    phase,
                    end,
                    guest_done: false,
                    told_end: false,
                    made,
                    since,
                };
                let _ = engine.add(conn);
            } else {
                tcp.sockets.remove(handle);
            }
        }
        engine.net(net, stack).wire.incoming.push_back(skb.network().to_vec());
        engine.poll(net);
        let id = engine.by_ends.get(&(net, to, from)).copied();
        self.run(server, &mut engine, id.into_iter().collect());
        let _ = rustix::io::write(&engine.wake, &1u64.to_ne_bytes());
    }

    /// An ICMP error about a segment from `local` to `remote` has come in: `tcp_v4_err`. It ends a connection that is being made.
    pub fn tcp_err(&self, server: &Server, net: u64, local: SocketAddr, remote: SocketAddr, errno: Errno) {
        let mut engine = self.engine.lock().unwrap();
        let Some(&id) = engine.by_ends.get(&(net, local, remote)) else { return };
        let Some(Conn { phase: Phase::Connecting { socket, .. }, handle, .. }) = engine.conns.get(&id) else {
            return;
        };
        let (socket, handle) = (socket.clone(), *handle);
        if let Some(tcp) = engine.nets.get_mut(&net) {
            tcp.sockets.get_mut::<tcp::Socket<'_>>(handle).abort();
        }
        self.run(server, &mut engine, vec![id]);
        let mut state = socket.state.lock().unwrap();
        if state.tcp == TcpState::Failed {
            state.error = Some(errno);
        }
    }

    /// Moves data of connections, and removes those that are over.
    fn run(&self, server: &Server, engine: &mut Engine, ids: Vec<u64>) {
        for id in ids {
            let Some(mut conn) = engine.conns.remove(&id) else { continue };
            let alive = self.pump(server, engine, id, &mut conn);
            engine.poll(conn.net);
            if alive {
                engine.conns.insert(id, conn);
            } else {
                let _ = rustix::io::write(&conn.made, &1u64.to_ne_bytes());
                engine.by_ends.remove(&(conn.net, conn.local, conn.remote));
                if let Some(tcp) = engine.nets.get_mut(&conn.net) {
                    tcp.sockets.remove(conn.handle);
                }
            }
        }
    }

    /// Moves what there is to move; false: the connection is over.
    fn pump(&self, server: &Server, engine: &mut Engine, id: u64, conn: &mut Conn) -> bool {
        let Some(tcp) = engine.nets.get_mut(&conn.net) else { return false };
        let socket = tcp.sockets.get_mut::<tcp::Socket<'_>>(conn.handle);
        let state = socket.state();
        let made = !matches!(
            state,
            tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Closed
        );
        match &conn.phase {
            Phase::Connecting { socket: guest, filler } if made => {
                if let Some(end) = &conn.end {
                    drain(end, *filler);
                }
                let mut state = guest.state.lock().unwrap();
                state.peer = Some(conn.remote);
                state.tcp = TcpState::Connecting;
                drop(state);
                conn.phase = Phase::Open;
                let _ = rustix::io::write(&conn.made, &1u64.to_ne_bytes());
            }
            Phase::Connecting { socket: guest, .. } if state == tcp::State::Closed => {
                let late = conn.since.elapsed() >= Duration::from_secs(TIMEOUT_S);
                let mut state = guest.state.lock().unwrap();
                state.error = Some(if late { Errno::ETIMEDOUT } else { Errno::ECONNREFUSED });
                state.tcp = TcpState::Failed;
                // Our end goes with the filler unread: the host has an error for the guest's.
                return false;
            }
            Phase::Accepting if made => match self.announce(conn.net, conn.local, conn.remote) {
                Ok(end) => {
                    conn.end = Some(end);
                    conn.phase = Phase::Open;
                    if engine.watch(id, conn.end.as_ref()).is_err() {
                        return false;
                    }
                }
                Err(_) => {
                    socket.abort();
                    engine.poll(conn.net);
                    return false;
                }
            },
            Phase::Accepting => return state != tcp::State::Closed,
            Phase::Connecting { .. } if conn.end.as_ref().is_some_and(udp::is_closed) => {
                socket.abort();
                return false;
            }
            Phase::Connecting { .. } => return true,
            Phase::Open => {}
        }
        let Some(tcp) = engine.nets.get_mut(&conn.net) else { return false };
        let socket = tcp.sockets.get_mut::<tcp::Socket<'_>>(conn.handle);
        let Some(end) = conn.end.as_ref() else { return false };
        // To the guest.
        while socket.can_recv() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = socket.recv(|data| match rustix::net::send(end, data, flags) {
                Ok(sent) => (sent, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(HostErrno::AGAIN | HostErrno::INTR)) => break,
                // The guest is gone, and there is something that it has not read.
                _ => {
                    socket.abort();
                    break;
                }
            }
        }
        let reset = socket.state() == tcp::State::Closed && !conn.told_end && !conn.guest_done;
        if reset && socket.recv_queue() == 0 {
            if let Some(end) = conn.end.take() {
                server.reset_connection(conn.net, conn.local, conn.remote, end);
            }
            return false;
        }
        if !socket.may_recv() && socket.recv_queue() == 0 && !conn.told_end {
            let _ = rustix::net::shutdown(end, Shutdown::Write);
            conn.told_end = true;
        }
        // From the guest.
        let mut buffer = [0; 32 * 1024];
        while !conn.guest_done && socket.may_send() {
            let room = (socket.send_capacity() - socket.send_queue()).min(buffer.len());
            if room == 0 {
                break;
            }
            match rustix::net::recv(end, &mut buffer[..room], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    socket.close();
                    conn.guest_done = true;
                }
                Ok((_, got)) => {
                    if socket.send_slice(&buffer[..got]) != Ok(got) {
                        break;
                    }
                }
                Err(HostErrno::AGAIN | HostErrno::INTR) => break,
                Err(_) => {
                    socket.abort();
                    conn.guest_done = true;
                }
            }
        }
        !matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait)
    }

    /// Tells a listener of a connection from outside; gives our end of it.
    fn announce(&self, net: u64, local: SocketAddr, remote: SocketAddr) -> Result<OwnedFd> {
        let listener = self.names().listener(net, local, self.random()).ok_or(Errno::ECONNREFUSED)?;
        let (end, _) = host_socket::stream(true)?;
        self.join_listener(&end, &listener, remote, local)?;
        Ok(end)
    }
}

/// Fills a guest's socket, so that it is not writable; gives with how many bytes.
fn fill(fd: &OwnedFd) -> usize {
    const MOST: usize = 64 << 20;
    let bytes = [0; 16 * 1024];
    let mut filled = 0;
    while filled < MOST {
        match rustix::net::send(fd, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => filled += sent,
            Err(_) => break,
        }
    }
    filled
}

/// Takes so many bytes out of our end.
pub(super) fn drain(end: &OwnedFd, mut filler: usize) {
    let mut buffer = [0; 16 * 1024];
    while filler > 0 {
        let want = filler.min(buffer.len());
        match rustix::net::recv(end, &mut buffer[..want], RecvFlags::DONTWAIT) {
            Ok((_, got)) if got > 0 => filler -= got,
            _ => break,
        }
    }
}

/// Starts the thread that watches our ends and the protocol's timers.
fn start(server: &Arc<Server>, engine: &mut Engine) -> std::io::Result<()> {
    if engine.started {
        return Ok(());
    }
    let (server, epoll) = (Arc::downgrade(server), engine.epoll.try_clone()?);
    let builder = std::thread::Builder::new().name("nomina-tcp".into()).stack_size(512 * 1024);
    builder.spawn(move || watch(&server, &epoll))?;
    engine.started = true;
    Ok(())
}

fn watch(server: &Weak<Server>, epoll: &OwnedFd) {
    /// How long the thread waits at most: then it looks whether the sandbox is still there.
    const LONGEST_WAIT: Duration = Duration::from_secs(5);
    let mut wait = Duration::ZERO;
    loop {
        let mut events = Vec::with_capacity(64);
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        match epoll::wait(epoll.as_fd(), rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(HostErrno::INTR) => {}
            Err(_) => return,
        }
        let Some(server) = server.upgrade() else { return };
        // A panic is our bug, not the guest's to exploit: a connection stands still, the sandbox lives.
        let next = catch_unwind(AssertUnwindSafe(|| {
            let mut engine = server.inet.engine.lock().unwrap();
            let ready: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
            if ready.contains(&WAKE) {
                let _ = rustix::io::read(&engine.wake, &mut [0u8; 8]);
            }
            if ready.is_empty() {
                // A timer.
                let nets: Vec<u64> = engine.nets.keys().copied().collect();
                nets.into_iter().for_each(|net| engine.poll(net));
                let all = engine.conns.keys().copied().collect();
                server.inet.run(&server, &mut engine, all);
            } else {
                server.inet.run(&server, &mut engine, ready);
            }
            engine.next()
        }));
        wait = next.unwrap_or_default().unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    }
}
