//! Sockets of the Internet families (`ip(7)`, `tcp(7)`; [`udp`] for `udp(7)`).
//!
//! A guest's TCP socket is a unix stream socket of the host. Two guests that connect are joined by the host: reading, writing,
//! waiting, accepting and closing are native, and no byte passes through here. What is ours is names ([`Names`]): which ports are
//! taken, who listens where, and what the two ends of a connection are called ([`tcp`]).
//!
//! A listener's host socket is bound to a file in a private directory. Who connects is bound to an abstract name by which the
//! other end, which the host makes in `accept(2)`, is recognised; nobody listens there.
//!
//! Nobody tells when a stream socket is closed. What is remembered of dead ones is dropped when a name of theirs is wanted, and
//! from time to time ([`Names::sweep`]).
//!
//! Locks, outermost first: the engine, what is of datagram sockets only, [`Names`], the state of a socket, the model's network.

pub mod cmsg;
pub mod engine;
pub mod groups;
pub mod host_socket;
mod inward;
pub mod options;
pub mod outward;
pub mod proc;
mod reset;
pub mod tcp;
pub mod udp;

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::inet::bind::{BindTable, Holder, LOCAL_PORT_RANGE};
use nomina_kernel::net::inet::options::{SockOptions, name};
use nomina_kernel::net::inet::sockaddr;
use nomina_kernel::net::{Flow, NetNamespace};

use super::lock::Mutex;
use super::uplink::Attached;

/// A guest's socket.
pub struct InetSocket {
    /// Its number in the sandbox.
    pub id: u64,
    /// `AF_INET` or `AF_INET6`
    pub family: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`
    pub protocol: i32,
    /// The namespace it was made in.
    pub net: Arc<NetNamespace>,
    /// Effective user of who made it.
    pub uid: u32,
    /// What changes.
    pub state: Mutex<State>,
}

/// Where a stream socket is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// Neither connected nor listening.
    Close,
    /// Listening, with room for so many connections.
    Listen(u32),
    /// The handshake with somebody outside is under way.
    Pending,
    /// Connected, which the guest, who did not want to wait, has not been told yet.
    Connecting,
    /// Connected.
    Established,
    /// Connecting has failed, which `connect(2)` has not said yet; the host's socket is used up.
    Failed,
    /// As [`TcpState::Close`], but the host's socket is used up.
    Spent,
}

/// What changes of a socket.
pub struct State {
    /// Inode number of the guest's descriptor.
    pub ino: u64,
    /// Own name. Port 0: none.
    pub local: SocketAddr,
    /// The port of a connection that failed, which `getsockname(2)` still shows.
    pub last_port: u16,
    /// The guest has chosen the port (`SOCK_BINDPORT_LOCK`).
    pub port_locked: bool,
    /// The guest has chosen the address (`SOCK_BINDADDR_LOCK`).
    pub address_locked: bool,
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// Options.
    pub options: SockOptions,
    /// `SO_BINDTODEVICE`
    pub ifindex: u32,
    /// `TCP_CONGESTION`
    pub congestion: Option<&'static str>,
    /// `sk_err`
    pub error: Option<Errno>,
    /// Groups and the devices they were joined on.
    pub groups: Vec<(IpAddr, u32)>,
    /// The device that messages to groups go out of.
    pub multicast_if: Option<u32>,
    /// Our end of a datagram socket.
    pub ours: Option<Arc<OwnedFd>>,
    /// What a datagram socket has at the way out.
    pub outside: super::uplink::guests::Outside,
    /// Of a stream socket.
    pub tcp: TcpState,
    /// Readable when [`TcpState::Pending`] is over.
    pub made: Option<Arc<OwnedFd>>,
    /// What the host's socket is bound to.
    pub bound: HostName,
}

/// What a host socket is bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostName {
    /// Nothing yet.
    None,
    /// The file of a listener.
    File,
    /// The mark of a connection with this number.
    Mark(u64),
}

/// A connection between guests, from the connecting end.
pub struct Connection {
    /// Who connects.
    pub client: SocketAddr,
    /// Whom to.
    pub server: SocketAddr,
    /// The listener's family, namespace and user, and its options at that time: what `accept(2)` inherits.
    listener: Arc<InetSocket>,
    options: SockOptions,
    ifindex: u32,
    congestion: Option<&'static str>,
}

/// All sockets of a sandbox.
pub struct Inet {
    dir: PathBuf,
    /// What marks begin with.
    mark: Vec<u8>,
    random: RandomState,
    serial: AtomicU64,
    names: Mutex<Names>,
    /// The way out, where there is one.
    pub uplink: OnceLock<Attached>,
    /// The listener at which sockets of ours are joined to guests'.
    refuser: Mutex<Option<OwnedFd>>,
    datagrams: Mutex<udp::Datagrams>,
    engine: Mutex<engine::Engine>,
    pace: Mutex<reset::Pace>,
}

/// Sockets by what they are known by.
pub struct Names {
    sockets: HashMap<u64, Arc<InetSocket>>,
    /// By inode number of the guest's descriptor.
    by_ino: HashMap<u64, u64>,
    /// By namespace and protocol.
    ports: HashMap<(u64, i32), BindTable>,
    connections: HashMap<u64, Arc<Connection>>,
    /// Connections whose connecting end is closed, oldest first.
    lingering: VecDeque<u64>,
    /// How many sockets make it time to look for dead ones.
    sweep_at: usize,
}

/// How many sockets there may be before dead ones are looked for.
const MANY: usize = 1024;
/// How many connections are remembered whose connecting end is closed.
const LINGERING: usize = 8192;

impl InetSocket {
    fn new(
        id: u64,
        family: u16,
        protocol: i32,
        net: Arc<NetNamespace>,
        uid: u32,
        state: State,
    ) -> Arc<InetSocket> {
        Arc::new(InetSocket { id, family, protocol, net, uid, state: Mutex::new(state) })
    }

    /// The number of its namespace.
    pub fn net_ns(&self) -> u64 {
        self.net.common().inum()
    }

    /// Whether it is a stream socket.
    pub fn is_stream(&self) -> bool {
        self.protocol == libc::IPPROTO_TCP
    }

    /// What it holds of its port, as `state` says.
    pub fn holder(&self, state: &State) -> Holder {
        Holder {
            id: self.id,
            address: state.local.ip(),
            v6only: state.options.is_set(name::IPV6_V6ONLY),
            ifindex: state.ifindex,
            reuse: state.options.is_set(name::REUSEADDR),
            reuseport: state.options.is_set(name::REUSEPORT),
            uid: self.uid,
            listens: matches!(state.tcp, TcpState::Listen(_)),
        }
    }
}

/// The flow of what a socket sends to `to`, as routes look at it.
fn flow(socket: &InetSocket, state: &State, to: SocketAddr) -> Flow {
    let saddr = Some(state.local.ip()).filter(|ip| !ip.is_unspecified() && ip.is_ipv4() == to.is_ipv4());
    let scope = if let SocketAddr::V6(v6) = to { v6.scope_id() } else { 0 };
    let ifindex = if state.ifindex != 0 { state.ifindex } else { scope };
    let oif = match ifindex {
        0 => None,
        ifindex => socket.net.device_by_index(ifindex).map(|dev| dev.id),
    };
    Flow { saddr, oif, proto: socket.protocol as u8, uid: socket.uid, ..Flow::to(to.ip()) }
}

impl State {
    fn new(ino: u64, family: u16, stream: bool) -> State {
        State {
            ino,
            local: SocketAddr::new(sockaddr::any(family), 0),
            last_port: 0,
            port_locked: false,
            address_locked: false,
            peer: None,
            options: SockOptions::new(family, stream),
            ifindex: 0,
            congestion: None,
            error: None,
            groups: Vec::new(),
            multicast_if: None,
            ours: None,
            outside: Default::default(),
            tcp: TcpState::Close,
            made: None,
            bound: HostName::None,
        }
    }
}

impl Names {
    fn insert(&mut self, socket: &Arc<InetSocket>) {
        if self.sockets.len() >= self.sweep_at {
            self.sweep();
            self.sweep_at = (self.sockets.len() * 2).max(MANY);
        }
        self.by_ino.insert(socket.state.lock().unwrap().ino, socket.id);
        self.sockets.insert(socket.id, socket.clone());
    }

    /// The socket with this number.
    pub fn by_id(&self, id: u64) -> Option<Arc<InetSocket>> {
        self.sockets.get(&id).cloned()
    }

    /// The name of a socket has changed, as `state` says.
    fn moved(&mut self, socket: &InetSocket, state: &State, before: SocketAddr) {
        let ports = self.ports(socket.net_ns(), socket.protocol);
        if before.port() != 0 {
            ports.release(before.port(), socket.id);
        }
        if state.local.port() != 0 {
            ports.share(state.local.port(), socket.holder(state));
        }
    }

    /// The datagram sockets that a message reaches: `__udp4_lib_lookup`, `__udp4_lib_mcast_deliver`.
    fn receivers(
        &self,
        net: u64,
        from: SocketAddr,
        to: SocketAddr,
        many: bool,
        ifindex: u32,
        random: u64,
    ) -> Vec<Arc<InetSocket>> {
        let Some(ports) = self.ports.get(&(net, libc::IPPROTO_UDP)) else { return Vec::new() };
        // A group that nobody has joined is not listened to, not even by those who take all groups.
        let joined = |socket: &InetSocket| {
            socket.net_ns() == net
                && socket.state.lock().unwrap().groups.iter().any(|&(group, _)| group == to.ip())
        };
        let wanted = !to.ip().is_multicast() || self.sockets.values().any(|socket| joined(socket));
        let mut best: Vec<(u32, bool, Arc<InetSocket>)> = Vec::new();
        for holder in ports.holders(to.port()).iter().filter(|_| wanted) {
            if holder.ifindex != 0 && holder.ifindex != ifindex {
                continue;
            }
            let Some(socket) = self.by_id(holder.id) else { continue };
            let state = socket.state.lock().unwrap();
            let address = match (holder.address, to.ip()) {
                (mine, to) if mine == to => 2,
                (IpAddr::V6(mine), IpAddr::V4(_)) if mine.is_unspecified() && !holder.v6only => 0,
                (mine, to) if mine.is_unspecified() && mine.is_ipv4() == to.is_ipv4() => 1,
                _ => continue,
            };
            let connected = match state.peer {
                Some(peer) if peer == from => 4,
                Some(_) => continue,
                None => 0,
            };
            let all = name::IP_MULTICAST_ALL;
            if to.ip().is_multicast()
                && !state.groups.iter().any(|&(group, _)| group == to.ip())
                && !state.options.is_set(all)
            {
                continue;
            }
            drop(state);
            best.push((address + connected, holder.reuseport, socket));
        }
        if !many {
            let score = best.iter().map(|&(score, ..)| score).max().unwrap_or(0);
            best.retain(|&(found, ..)| found == score);
            if best.len() > 1 {
                // Those who share a port by SO_REUSEPORT share messages; of others the last one gets them.
                let shared = best.iter().all(|&(_, reuseport, _)| reuseport);
                let chosen = if shared { (random % best.len() as u64) as usize } else { best.len() - 1 };
                best = vec![best.swap_remove(chosen)];
            }
        }
        best.into_iter().map(|(.., socket)| socket).collect()
    }

    /// All sockets.
    pub fn all(&self) -> impl Iterator<Item = &Arc<InetSocket>> {
        self.sockets.values()
    }

    /// The ports of a namespace.
    pub fn ports(&mut self, net: u64, protocol: i32) -> &mut BindTable {
        let new = || BindTable::new(protocol == libc::IPPROTO_TCP);
        self.ports.entry((net, protocol)).or_insert_with(new)
    }

    /// Forgets sockets that no descriptor is left of: they are not in `/proc/net/unix` any more.
    pub fn sweep(&mut self) {
        /// Num, RefCount, Protocol, Flags, Type, St, Inode, Path.
        const INODE: usize = 6;
        let Ok(text) = std::fs::read_to_string("/proc/net/unix") else { return };
        let inode = |line: &str| line.split_ascii_whitespace().nth(INODE)?.parse().ok();
        let live: HashSet<u64> = text.lines().filter_map(inode).collect();
        let dead = |socket: &&Arc<InetSocket>| !live.contains(&socket.state.lock().unwrap().ino);
        let dead: Vec<_> = self.sockets.values().filter(dead).cloned().collect();
        for socket in dead {
            self.remove(&socket);
        }
    }

    fn remove(&mut self, socket: &InetSocket) {
        let state = socket.state.lock().unwrap();
        if self.sockets.remove(&socket.id).is_none() {
            return;
        }
        for &(group, ifindex) in &state.groups {
            groups::listen_to(socket, group, ifindex, false);
        }
        self.by_ino.remove(&state.ino);
        if state.local.port() != 0 {
            self.ports(socket.net_ns(), socket.protocol).release(state.local.port(), socket.id);
        }
        if let HostName::Mark(serial) = state.bound {
            // The other end may still ask for its name.
            self.linger(serial);
        }
    }

    /// A connection is to be forgotten some time.
    fn linger(&mut self, serial: u64) {
        self.lingering.push_back(serial);
        if self.lingering.len() > LINGERING
            && let Some(oldest) = self.lingering.pop_front()
        {
            self.connections.remove(&oldest);
        }
    }

    /// Takes a port for a socket; in the way may be some that are closed.
    fn take_port(&mut self, socket: &InetSocket, state: &mut State, port: u16, random: u32) -> Result<()> {
        let holder = socket.holder(state);
        if port != 0 && !self.ports(socket.net_ns(), socket.protocol).conflicts(port, &holder).is_empty() {
            let ino = state.ino;
            self.sweep_but(socket.id, ino);
        }
        let ports = self.ports(socket.net_ns(), socket.protocol);
        let port = match port {
            0 => ports.take_any(LOCAL_PORT_RANGE, random, holder)?,
            port => {
                ports.take(port, holder)?;
                port
            }
        };
        state.local.set_port(port);
        Ok(())
    }

    /// As [`Names::sweep`], while the state of one socket, which is alive, is held.
    fn sweep_but(&mut self, id: u64, ino: u64) {
        let held = self.sockets.remove(&id);
        self.sweep();
        if let Some(held) = held {
            self.sockets.insert(id, held);
            self.by_ino.insert(ino, id);
        }
    }

    /// The socket that a connection to `to` reaches: `__inet_lookup_listener`. The more it says of itself, the better it fits.
    fn listener(&self, net: u64, to: SocketAddr, random: u64) -> Option<Arc<InetSocket>> {
        let ports = self.ports.get(&(net, libc::IPPROTO_TCP))?;
        let score = |holder: &Holder| match (holder.address, to.ip()) {
            _ if !holder.listens => None,
            (mine, to) if mine == to => Some(2),
            (IpAddr::V4(mine), IpAddr::V4(_)) if mine.is_unspecified() => Some(1),
            (IpAddr::V6(mine), IpAddr::V6(_)) if mine.is_unspecified() => Some(1),
            (IpAddr::V6(mine), IpAddr::V4(_)) if mine.is_unspecified() && !holder.v6only => Some(0),
            _ => None,
        };
        let scored = ports.holders(to.port()).iter().filter_map(|holder| Some((score(holder)?, holder.id)));
        let scored: Vec<(u32, u64)> = scored.collect();
        let best = scored.iter().map(|&(score, _)| score).max()?;
        let best: Vec<u64> =
            scored.into_iter().filter(|&(score, _)| score == best).map(|(_, id)| id).collect();
        self.sockets.get(&best[(random % best.len() as u64) as usize]).cloned()
    }
}

impl Inet {
    /// No sockets yet; those that listen will have their files in `dir`, a private directory.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new(dir: PathBuf) -> io::Result<Inet> {
        let random = RandomState::new();
        let mark = format!("\0nomina-{:016x}-", random.hash_one(std::process::id())).into_bytes();
        Ok(Inet {
            dir,
            mark,
            random,
            serial: AtomicU64::new(1),
            names: Mutex::new(Names {
                sockets: HashMap::new(),
                by_ino: HashMap::new(),
                ports: HashMap::new(),
                connections: HashMap::new(),
                lingering: VecDeque::new(),
                sweep_at: MANY,
            }),
            uplink: OnceLock::new(),
            refuser: Mutex::default(),
            datagrams: Mutex::new(udp::Datagrams::new()?),
            engine: Mutex::new(engine::Engine::new()?),
            pace: Mutex::default(),
        })
    }

    /// The tables.
    pub fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap()
    }

    /// Gives a socket, whose name the guest has not asked for yet, the name that the host has given it.
    pub fn rename(&self, socket: &InetSocket, name: SocketAddr) {
        let mut names = self.names();
        let mut state = socket.state.lock().unwrap();
        let before = state.local;
        state.local = SocketAddr::new(name.ip().to_canonical(), name.port());
        names.moved(socket, &state, before);
    }

    fn next(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    fn random(&self) -> u64 {
        self.random.hash_one(self.next())
    }

    /// The socket behind a copy of a guest's descriptor whose inode number is `ino`.
    pub fn find(&self, fd: &OwnedFd, ino: u64) -> Option<Arc<InetSocket>> {
        {
            let names = self.names();
            if names.sockets.is_empty() {
                return None;
            }
            if let Some(id) = names.by_ino.get(&ino) {
                return names.sockets.get(id).cloned();
            }
        }
        self.accepted(fd, ino)
    }

    /// The end of a connection that the host has made in `accept(2)`: it has the listener's name, and its peer a mark.
    fn accepted(&self, fd: &OwnedFd, ino: u64) -> Option<Arc<InetSocket>> {
        let peer = host_socket::name(fd, libc::getpeername).ok()?;
        let serial = std::str::from_utf8(peer.strip_prefix(&self.mark[..])?).ok()?.parse::<u64>().ok()?;
        let own = host_socket::name(fd, libc::getsockname).ok()?;
        if !own.starts_with(self.dir.as_os_str().as_encoded_bytes()) {
            return None;
        }
        let mut names = self.names();
        let connection = names.connections.get(&serial)?.clone();
        let listener = &connection.listener;
        let mut state = State::new(ino, listener.family, true);
        state.local = connection.server;
        state.peer = Some(connection.client);
        state.tcp = TcpState::Established;
        state.options = connection.options.clone();
        state.ifindex = connection.ifindex;
        state.congestion = connection.congestion;
        let (family, net, uid) = (listener.family, listener.net.clone(), listener.uid);
        let socket = InetSocket::new(self.next(), family, libc::IPPROTO_TCP, net, uid, state);
        names.insert(&socket);
        let holder = socket.holder(&socket.state.lock().unwrap());
        let port = connection.server.port();
        names.ports(socket.net_ns(), libc::IPPROTO_TCP).share(port, holder);
        Some(socket)
    }
}
