//! UDP (`udp(7)`).
//!
//! A guest's socket is one end of a pair of `SOCK_SEQPACKET` sockets of the host, which keep the boundaries of messages; the other
//! end is ours. What a guest sends to an address comes as a request and is put into the receiver's pair at once, so that errors are
//! exact; what it sends without, on a connected socket, comes through the pair and is sent on by a thread. A message carries a
//! descriptor, its *label*, whose text is what `recvmsg(2)` tells of it: the sender's address and the ancillary data. A receiver
//! that does not ask never sees it.
//!
//! Where ours differs from Linux: a `send(2)` without an address on a socket that has no peer succeeds, and the message is lost; a
//! port that nobody has is told to a connected sender by an empty message, which is `ECONNREFUSED` to calls that ask for an
//! address, and nothing to `recv(2)` and `read(2)`; corking and segmentation offload are refused; `SO_RCVBUF` does not change how
//! much is kept.

use std::hash::BuildHasher;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use nomina_abi::label;
use nomina_fs::wait::descriptor_share;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::core::skbuff::{SkBuff, eth_p};
use nomina_kernel::net::core::softirq::Out;
use nomina_kernel::net::inet::options::name;
use nomina_kernel::net::inet::route::Destination;
use nomina_kernel::net::inet::udp::udp_rcv;
use nomina_kernel::net::inet::{AF_INET6, sockaddr};
use nomina_kernel::net::ipv4::IpOut;
use nomina_kernel::net::{DevId, NetNamespace, NetStack, RouteType, iff};
use rustix::event::epoll;
use rustix::io::Errno as HostErrno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::super::Server;
use super::super::labels::{self, Labels};
use super::super::request::{Reply, host};
use super::super::uplink::guests as uplink;
use super::cmsg::{self, Sending};
use super::{Inet, InetSocket, Names, State};

/// Most bytes of a message, of IPv4 and IPv6: a packet has at most 65535.
const LONGEST: (usize, usize) = (65507, 65527);
/// Descriptors in a message of a guest's that are looked at: more are thrown away by the host.
const MAX_FDS: usize = 4;
/// How many messages of one socket are taken before others have their turn.
const TURN: usize = 64;
const AF_UNSPEC: u16 = 0;
/// Fragments are forbidden (`ip(7)`).
const IP_PMTUDISC_DO: i32 = 2;

/// Where a message goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// To sockets of a namespace.
    Local(u64),
    /// Out, as a packet, by this device if it is decided.
    Out(Option<DevId>),
    /// Out of the sandbox.
    Uplink,
}

/// A message on its way.
struct Packet {
    way: Way,
    from: SocketAddr,
    to: SocketAddr,
    sending: Sending,
}

/// What is ours of datagram sockets.
pub struct Datagrams {
    /// Watches our ends.
    epoll: OwnedFd,
    /// By text.
    labels: Labels,
    /// The thread runs.
    running: bool,
}

impl Datagrams {
    /// None yet.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new() -> std::io::Result<Datagrams> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Datagrams { epoll, labels: Labels::default(), running: false })
    }
}

impl Inet {
    /// A new UDP socket; the descriptor is the guest's.
    ///
    /// # Errors
    /// Those of `socketpair(2)`; `ENFILE` when there are too many.
    pub fn create_datagram(
        &self,
        server: &Arc<Server>,
        net: Arc<NetNamespace>,
        family: u16,
        uid: u32,
        nonblock: bool,
    ) -> Result<OwnedFd> {
        if self.names().all().filter(|socket| !socket.is_stream()).count() >= descriptor_share() {
            return Err(Errno::ENFILE);
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(host)?;
        if nonblock {
            let now = rustix::fs::fcntl_getfl(&theirs).map_err(host)?;
            rustix::fs::fcntl_setfl(&theirs, now | rustix::fs::OFlags::NONBLOCK).map_err(host)?;
        }
        let ino = rustix::fs::fstat(&theirs).map_err(host)?.st_ino;
        let mut state = State::new(ino, family, false);
        state.ours = Some(Arc::new(ours));
        let ours = state.ours.clone();
        let socket = InetSocket::new(self.next(), family, libc::IPPROTO_UDP, net, uid, state);
        self.names().insert(&socket);
        let mut datagrams = self.datagrams.lock().unwrap();
        if !datagrams.running {
            start(server, &datagrams.epoll).map_err(host)?;
            datagrams.running = true;
        }
        if let Some(ours) = ours {
            let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
            epoll::add(&datagrams.epoll, &ours, epoll::EventData::new_u64(socket.id), events)
                .map_err(host)?;
        }
        Ok(theirs)
    }

    /// `connect(2)`: `__ip4_datagram_connect`, `__ip6_datagram_connect`.
    ///
    /// # Errors
    /// `EINVAL`, `EAFNOSUPPORT`, `ENETUNREACH`; `EACCES`: a broadcast without `SO_BROADCAST`; `EAGAIN`: there is no port left.
    pub fn connect_datagram(&self, socket: &InetSocket, address: &[u8]) -> Result<Reply> {
        if sockaddr::family(address)? == AF_UNSPEC {
            let mut names = self.names();
            let mut state = socket.state.lock().unwrap();
            state.peer = None;
            let before = state.local;
            if !state.address_locked {
                state.local.set_ip(sockaddr::any(socket.family));
            }
            if !state.port_locked {
                state.local.set_port(0);
            }
            names.moved(socket, &state, before);
            return Ok(().into());
        }
        let to = sockaddr::parse_as(socket.family, address)?;
        let to = SocketAddr::new(sockaddr::this_host(to.ip()), to.port());
        let mut names = self.names();
        let mut state = socket.state.lock().unwrap();
        let (_, source) = way_of(socket, &state, to, &Sending::default())?;
        self.autobind(&mut names, socket, &mut state)?;
        let before = state.local;
        if before.ip().is_unspecified() {
            state.local.set_ip(source);
        }
        state.peer = Some(to);
        names.moved(socket, &state, before);
        Ok(().into())
    }

    /// Gives a socket a port when it has none: `inet_autobind`.
    fn autobind(&self, names: &mut Names, socket: &InetSocket, state: &mut State) -> Result<()> {
        if state.local.port() != 0 {
            return Ok(());
        }
        names.take_port(socket, state, 0, self.random() as u32).map_err(|_| Errno::EAGAIN)
    }

    /// Sends a message to `address`, or to the peer: `udp_sendmsg`. Gives its length.
    ///
    /// # Errors
    /// `EMSGSIZE`, `EDESTADDRREQ`, `EINVAL`: an address too short, port 0, or ancillary data that is not understood. `EAFNOSUPPORT`,
    /// `ENETUNREACH`, `EACCES`; a pending error of the socket.
    pub fn send(
        &self,
        socket: &Arc<InetSocket>,
        address: Option<&[u8]>,
        control: &[u8],
        data: &[u8],
    ) -> Result<usize> {
        let packet = self.prepare(socket, destination(socket, address)?, control, data.len())?;
        self.submit(socket, &packet, data)?;
        Ok(data.len())
    }

    /// What stands before sending: who is it to, from which address.
    ///
    /// # Errors
    /// As [`Inet::send`].
    fn prepare(
        &self,
        socket: &InetSocket,
        to: Option<SocketAddr>,
        control: &[u8],
        len: usize,
    ) -> Result<Packet> {
        let longest = if socket.family == AF_INET6 { LONGEST.1 } else { LONGEST.0 };
        if len > longest {
            return Err(Errno::EMSGSIZE);
        }
        if to.is_some_and(|to| to.port() == 0) {
            return Err(Errno::EINVAL);
        }
        let mut names = self.names();
        let mut state = socket.state.lock().unwrap();
        if let Some(errno) = state.error.take() {
            return Err(errno);
        }
        let to = to.or(state.peer).ok_or(Errno::EDESTADDRREQ)?;
        let to = SocketAddr::new(sockaddr::this_host(to.ip()), to.port());
        let sending = cmsg::parse(&socket.net, socket.net_ns(), &state.options, control)?;
        let (way, source) = way_of(socket, &state, to, &sending)?;
        self.autobind(&mut names, socket, &mut state)?;
        let bound = state.local;
        let ip = sending.source.unwrap_or(if bound.ip().is_unspecified() { source } else { bound.ip() });
        Ok(Packet { way, to, from: SocketAddr::new(ip, bound.port()), sending })
    }

    /// Sends a message on its way: to sockets, or as a packet.
    fn submit(&self, sender: &Arc<InetSocket>, packet: &Packet, data: &[u8]) -> Result<()> {
        let Packet { way, from, to, ref sending } = *packet;
        match way {
            Way::Uplink => uplink::send(self, sender, to, data),
            Way::Local(net) => {
                let ifindex = {
                    let stack = sender.net.stack().lock();
                    stack
                        .inet_local_dev(net, to.ip())
                        .and_then(|id| stack.dev(id))
                        .map_or(1, |dev| dev.ifindex)
                };
                let many = to.ip().is_multicast() || is_broadcast(to.ip());
                if !self.deliver(net, from, to, many, ifindex, sending, data) && !many {
                    if uplink::is_host(self, net) {
                        match uplink::send(self, sender, to, data) {
                            // To the guest the port is closed.
                            Err(Errno::EACCES) => {}
                            sent => return sent,
                        }
                    }
                    // As the ICMP message that the port is unreachable.
                    self.tell_error(sender, to, Errno::ECONNREFUSED);
                }
                Ok(())
            }
            Way::Out(oif) => {
                let (multicast, options) =
                    (to.ip().is_multicast(), sender.state.lock().unwrap().options.clone());
                let (hops, loops) = match to.is_ipv4() {
                    true => (name::IP_MULTICAST_TTL, name::IP_MULTICAST_LOOP),
                    false => (name::IPV6_MULTICAST_HOPS, name::IPV6_MULTICAST_LOOP),
                };
                let out = IpOut {
                    source: Some(from.ip()),
                    ttl: Some(if multicast { options.value(hops) as u8 } else { sending.ttl }),
                    tos: sending.tos,
                    dont_fragment: options.value(name::IP_MTU_DISCOVER) == IP_PMTUDISC_DO,
                    oif,
                    multicast_loop: options.is_set(loops),
                    ..IpOut::to(to.ip(), libc::IPPROTO_UDP as u8)
                };
                sender.net.stack().lock().udp_send(sender.net_ns(), &out, from.port(), to.port(), data)
            }
        }
    }

    /// What has come in for sockets.
    pub fn transport(&self, server: &Arc<Server>, stack: &Arc<NetStack>, out: Out) {
        match out {
            Out::Transport { net, skb } if is_tcp(&skb) => self.tcp_rcv(server, stack, net, &skb),
            Out::Transport { net, skb } => {
                let taken = self.rcv(stack, net, &skb);
                if !taken {
                    stack.lock().port_unreachable(&skb);
                }
            }
            Out::TransportError { net, protocol, source, destination, errno, fatal: true, .. }
                if i32::from(protocol) == libc::IPPROTO_UDP =>
            {
                self.err(net, source, destination, errno);
            }
            Out::TransportError { net, source, destination, errno, fatal: true, .. } => {
                self.tcp_err(server, net, source, destination, errno);
            }
            _ => {}
        }
    }

    /// A packet has come in for a namespace: `__udp4_lib_rcv`. False: nobody has the port.
    fn rcv(&self, stack: &NetStack, net: u64, skb: &SkBuff) -> bool {
        let Some(datagram) = udp_rcv(skb) else { return true };
        let (ifindex, broadcast) = {
            let stack = stack.lock();
            let ifindex = stack.dev(skb.dev).map_or(0, |dev| dev.ifindex);
            (ifindex, stack.inet_local_dev(net, datagram.to.ip()).is_none())
        };
        let many = datagram.to.ip().is_multicast() || broadcast;
        let sending = Sending { source: None, ifindex, ttl: datagram.ttl, tos: datagram.tos };
        self.deliver(net, datagram.from, datagram.to, many, ifindex, &sending, datagram.data) || many
    }

    /// An ICMP error about a packet from `source` to `destination` has come in: `__udp4_lib_err`.
    fn err(&self, net: u64, source: SocketAddr, destination: SocketAddr, errno: Errno) {
        let sockets: Vec<_> = {
            let mut names = self.names();
            let holders = names.ports(net, libc::IPPROTO_UDP).holders(source.port()).to_vec();
            holders.iter().filter_map(|holder| names.by_id(holder.id)).collect()
        };
        for socket in sockets {
            self.tell_error(&socket, destination, errno);
        }
    }

    /// Brings a message to the sockets it is for; false: there is none. Of one that is closed we may learn only now: then it is for
    /// somebody else.
    #[allow(clippy::too_many_arguments)]
    fn deliver(
        &self,
        net: u64,
        from: SocketAddr,
        to: SocketAddr,
        many: bool,
        ifindex: u32,
        sending: &Sending,
        data: &[u8],
    ) -> bool {
        loop {
            let receivers = self.names().receivers(net, from, to, many, ifindex, self.random());
            if receivers.is_empty() {
                return false;
            }
            let mut closed = receivers;
            closed.retain(|receiver| !self.deliver_to(receiver, (from, to), ifindex, sending, data));
            let mut names = self.names();
            for socket in &closed {
                names.remove(socket);
            }
            if closed.is_empty() || many {
                return true;
            }
        }
    }

    /// Brings a message that comes from outside to whoever has the port.
    pub fn deliver_to_port(&self, net: u64, from: SocketAddr, to: SocketAddr, data: &[u8]) {
        self.deliver(net, from, to, false, 0, &Sending::default(), data);
    }

    /// Brings a message that comes from outside to a socket, unless it is connected to somebody else.
    pub fn deliver_outsiders(&self, receiver: &InetSocket, from: SocketAddr, data: &[u8]) {
        let to = {
            let state = receiver.state.lock().unwrap();
            if state.peer.is_some_and(|peer| peer != from) {
                return;
            }
            state.local
        };
        self.deliver_to(receiver, (from, to), 0, &Sending::default(), data);
    }

    /// Brings a message to one socket; false: it is closed.
    fn deliver_to(
        &self,
        receiver: &InetSocket,
        (from, to): (SocketAddr, SocketAddr),
        ifindex: u32,
        sending: &Sending,
        data: &[u8],
    ) -> bool {
        let (ours, text) = {
            let state = receiver.state.lock().unwrap();
            let control = cmsg::format(receiver.family, &state.options, to, ifindex, sending);
            let from = sockaddr::format(receiver.family, from);
            (state.ours.clone(), labels::text(label::INET, &from, &control))
        };
        let label = self.datagrams.lock().unwrap().labels.label(text);
        match (ours, label) {
            (Some(ours), Ok(label)) => put(&ours, &label, data),
            (ours, _) => ours.is_some(),
        }
    }

    /// Tells a sender that is connected to `to` of an error.
    fn tell_error(&self, sender: &InetSocket, to: SocketAddr, errno: Errno) {
        let ours = {
            let mut state = sender.state.lock().unwrap();
            if state.peer != Some(to) || state.error.is_some() {
                return;
            }
            state.error = Some(errno);
            state.ours.clone()
        };
        let text = labels::text(label::ERROR, &errno.0.to_ne_bytes(), &[]);
        let label = self.datagrams.lock().unwrap().labels.label(text);
        if let (Some(ours), Ok(label)) = (ours, label) {
            put(&ours, &label, &[]);
        }
    }

    /// A descriptor that makes a message of `len` bytes, sent with it, go to `address`: for messages too long for a request.
    ///
    /// # Errors
    /// As [`Inet::send`]; those of `memfd_create(2)`.
    pub fn destination(&self, socket: &InetSocket, address: Option<&[u8]>, len: usize) -> Result<OwnedFd> {
        let Packet { to, .. } = self.prepare(socket, destination(socket, address)?, &[], len)?;
        let key = self.random.hash_one(to);
        let text = labels::text(label::DESTINATION, &sockaddr::format(AF_INET6, to), &key.to_ne_bytes());
        self.datagrams.lock().unwrap().labels.label(text)?.try_clone().map_err(host)
    }
}

/// The address of a destination that a guest names.
fn destination(socket: &InetSocket, address: Option<&[u8]>) -> Result<Option<SocketAddr>> {
    address.map(|address| sockaddr::parse_as(socket.family, address)).transpose()
}

/// The way of a message to `to`, and the address that it is sent from.
///
/// # Errors
/// `ENETUNREACH`; `EACCES`: a broadcast without `SO_BROADCAST`; those of routes.
fn way_of(socket: &InetSocket, state: &State, to: SocketAddr, sending: &Sending) -> Result<(Way, IpAddr)> {
    if to.is_ipv4() && socket.family == AF_INET6 && state.options.is_set(name::IPV6_V6ONLY) {
        return Err(Errno::ENETUNREACH);
    }
    let own = sending.source.unwrap_or(state.local.ip());
    if !own.is_unspecified() && own.is_ipv4() != to.is_ipv4() {
        return Err(if to.is_ipv4() { Errno::ENETUNREACH } else { Errno::EINVAL });
    }
    let net = socket.net_ns();
    let mut flow = super::flow(socket, state, to);
    let stack = socket.net.stack().lock();
    let index = |index: u32| stack.dev_get_by_index(net, index).map(|dev| dev.id);
    if sending.ifindex != 0 {
        flow.oif = index(sending.ifindex);
    }
    if to.ip().is_multicast() || is_broadcast(to.ip()) {
        // Out of the device that was chosen, or that the own address is on (`ip_route_output_key_hash_rcu`).
        let chosen = if to.ip().is_multicast() { state.multicast_if.and_then(index) } else { None };
        flow.oif = flow.oif.or(chosen).or_else(|| stack.inet_local_dev(net, own));
    }
    let broadcasts = state.options.is_set(name::BROADCAST);
    if is_broadcast(to.ip()) && !broadcasts {
        return Err(Errno::EACCES);
    }
    if to.ip().is_multicast() || is_broadcast(to.ip()) {
        let dst = stack.route_output(net, &flow)?;
        let loopback = stack.dev(dst.dev).is_some_and(|dev| dev.flags & iff::LOOPBACK != 0);
        let way = if loopback { Way::Local(net) } else { Way::Out(Some(dst.dev)) };
        return Ok((way, dst.prefsrc));
    }
    match stack.inet_route_output(net, &flow)? {
        Destination::Local { net: there, source } => {
            let from = SocketAddr::new(source, state.local.port());
            let way = match stack.inet_is_watched(net, &flow, from, to) {
                true => Way::Out(flow.oif),
                false => Way::Local(there),
            };
            Ok((way, source))
        }
        Destination::Outside(dst) if stack.is_uplink(dst.dev) && dst.kind == RouteType::Unicast => {
            Ok((Way::Uplink, dst.prefsrc))
        }
        Destination::Outside(dst) if dst.kind == RouteType::Broadcast && !broadcasts => Err(Errno::EACCES),
        Destination::Outside(dst) => Ok((Way::Out(flow.oif), dst.prefsrc)),
    }
}

/// Broadcasts of the loopback device's network and of no network in particular.
fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast() || v4 == Ipv4Addr::new(127, 255, 255, 255))
}

/// Whether a packet is one of TCP.
fn is_tcp(skb: &SkBuff) -> bool {
    const TCP: u8 = libc::IPPROTO_TCP as u8;
    let protocol = if skb.protocol == eth_p::IP { 9 } else { 6 };
    skb.network().get(protocol) == Some(&TCP)
}

/// Puts a message where its receiver takes it; where there is no room it is lost, as on Linux. False: the receiver is closed.
fn put(ours: &OwnedFd, label: &OwnedFd, data: &[u8]) -> bool {
    let fds = [label.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return true;
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let sent = rustix::net::sendmsg(ours, &[IoSlice::new(data)], &mut control, flags);
    !matches!(sent, Err(HostErrno::PIPE | HostErrno::CONNRESET | HostErrno::CONNREFUSED))
}

/// Starts the thread that sends on what guests send without an address. It ends with the last socket.
fn start(server: &Arc<Server>, epoll: &OwnedFd) -> std::io::Result<()> {
    let epoll = epoll.try_clone()?;
    let server = Arc::downgrade(server);
    let builder = std::thread::Builder::new().name("nomina-udp".into()).stack_size(256 * 1024);
    builder.spawn(move || {
        let mut events = Vec::with_capacity(64);
        let mut buffer = vec![0; LONGEST.1 + 1];
        loop {
            events.clear();
            match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(HostErrno::INTR) => {}
                Err(_) => return,
            }
            let Some(server) = server.upgrade() else { return };
            for event in &events {
                let id = event.data.u64();
                // A panic is our bug, not the guest's to exploit: the message is lost, the sandbox lives.
                let open = catch_unwind(AssertUnwindSafe(|| take_all(&server.inet, id, &mut buffer)));
                if !open.unwrap_or(true) {
                    server.inet.remove_datagram(&epoll, id);
                }
            }
            if server.inet.rests() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Takes what a guest has sent; false at the end.
fn take_all(inet: &Inet, id: u64, buffer: &mut [u8]) -> bool {
    let Some(socket) = inet.names().by_id(id) else { return false };
    let Some(ours) = socket.state.lock().unwrap().ours.clone() else { return false };
    for _ in 0..TURN {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = match rustix::net::recvmsg(&ours, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Ok(got) => got,
            Err(HostErrno::AGAIN | HostErrno::INTR) => return true,
            Err(_) => return false,
        };
        let mut fds: Vec<OwnedFd> = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if got.bytes == 0 && fds.is_empty() && is_closed(&ours) {
            return false;
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            continue;
        }
        let address = fds.first().and_then(|label| inet.destination_of(label));
        let sent = inet.prepare(&socket, address, &[], got.bytes);
        if let Ok(packet) = sent {
            // Nobody can be told any more.
            let _ = inet.submit(&socket, &packet, &buffer[..got.bytes]);
        }
    }
    true
}

/// Whether the other end is closed.
pub fn is_closed(ours: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::from_borrowed_fd(ours.as_fd(), PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

impl Inet {
    /// The address that a label of [`Inet::destination`] stands for. Only of a sealed memfd is anything read:
    /// other files may block.
    fn destination_of(&self, label: &OwnedFd) -> Option<SocketAddr> {
        if rustix::fs::fcntl_get_seals(label).ok()? != labels::SEALS {
            return None;
        }
        let mut text = [0; label::CONTROL_AT + 8];
        if rustix::io::pread(label, &mut text, 0).ok()? != text.len() {
            return None;
        }
        let len = u32::from_ne_bytes(*text[4..].first_chunk()?) as usize;
        let to = sockaddr::parse_any(text.get(label::ADDRESS_AT..label::CONTROL_AT)?.get(..len)?).ok()?;
        let key = self.random.hash_one(to).to_ne_bytes();
        (text[..4] == label::DESTINATION.to_ne_bytes() && text[label::CONTROL_AT..] == key).then_some(to)
    }

    fn remove_datagram(&self, epoll: &OwnedFd, id: u64) {
        let mut names = self.names();
        let Some(socket) = names.by_id(id) else { return };
        if let Some(ours) = socket.state.lock().unwrap().ours.take() {
            let _ = epoll::delete(epoll, &ours);
        }
        names.remove(&socket);
    }

    /// Whether there is no datagram socket, so that the thread may end.
    fn rests(&self) -> bool {
        let mut datagrams = self.datagrams.lock().unwrap();
        datagrams.running = self.names().all().any(|socket| !socket.is_stream());
        !datagrams.running
    }
}
