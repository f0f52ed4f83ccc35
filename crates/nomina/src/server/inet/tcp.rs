//! TCP (`tcp(7)`): names, listening, connecting. Data passes natively between the two ends.
//!
//! Where ours differs from Linux: an end whose peer is closed shows `POLLHUP` and refuses to send at once, not only after the
//! peer's reset has come; `SO_LINGER` with a time of zero ends a connection without a reset; a `write(2)` on a socket that was
//! never connected is `ENOTCONN`; a listener takes [`SOMAXCONN`] connections whatever backlog it asks for, since there is no
//! sender who would try again a second later, and who does not wait is told `EAGAIN` when even these are too many.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::inet::AF_INET6;
use nomina_kernel::net::inet::options::name;
use nomina_kernel::net::inet::route::Destination;
use nomina_kernel::net::inet::sockaddr;
use nomina_kernel::net::{NetNamespace, RouteType};
use rustix::net::{SendFlags, SocketFlags};

use super::super::request::{Ctx, Reply, host};
use super::super::sys;
use super::super::sys::socket::unix::{bind_host, connect_host};
use super::super::uplink::guests as uplink;
use super::{Connection, HostName, Inet, InetSocket, State, TcpState, host_socket};

/// `net.core.somaxconn`: room for connections that every listener has.
const SOMAXCONN: u32 = 4096;
const AF_UNSPEC: u16 = 0;

/// Where a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// To a listener of a namespace.
    Local(u64),
    /// Out of the sandbox.
    Uplink,
    /// Out of the sandbox, to somebody who may be reached.
    Permitted,
    /// Out of a device, as packets.
    Packets,
}

/// Whether the caller may use the low ports of a namespace.
fn may_bind_low(ctx: &Ctx<'_>, net: &NetNamespace) -> bool {
    net.common().owner().is_some_and(|owner| ctx.cred().ns_capable(owner, Cap::NET_BIND_SERVICE))
}

/// Whether a socket may take an address as its own.
///
/// # Errors
/// `EADDRNOTAVAIL`; `EINVAL` for a group, of IPv6 and a stream.
fn check_address(socket: &InetSocket, state: &State, address: SocketAddr) -> Result<()> {
    let ip = address.ip();
    if socket.is_stream() && ip.is_multicast() && ip.is_ipv6() {
        return Err(Errno::EINVAL);
    }
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    let free = state.options.is_set(name::IP_FREEBIND) || state.options.is_set(name::IPV6_FREEBIND);
    if ip.is_unspecified() || ip.is_multicast() || broadcast || free {
        return Ok(());
    }
    let stack = socket.net.stack().lock();
    stack.inet_local_dev(socket.net_ns(), ip).map(|_| ()).ok_or(Errno::EADDRNOTAVAIL)
}

impl Inet {
    /// A new TCP socket; the descriptor is the guest's.
    ///
    /// # Errors
    /// Those of `socket(2)`.
    pub fn create_stream(
        &self,
        net: Arc<NetNamespace>,
        family: u16,
        uid: u32,
        nonblock: bool,
    ) -> Result<OwnedFd> {
        let (fd, ino) = host_socket::stream(nonblock)?;
        let state = State::new(ino, family, true);
        let socket = InetSocket::new(self.next(), family, libc::IPPROTO_TCP, net, uid, state);
        self.names().insert(&socket);
        Ok(fd)
    }

    /// `bind(2)`: `inet_bind`, `inet6_bind`.
    ///
    /// # Errors
    /// `EINVAL`: a short address, or the socket has a name. `EAFNOSUPPORT`, `EADDRNOTAVAIL`, `EACCES`, `EADDRINUSE`.
    pub fn bind(&self, ctx: &Ctx<'_>, socket: &InetSocket, address: &[u8]) -> Result<()> {
        let mut unspec = address.to_vec();
        if socket.family != AF_INET6
            && address.len() >= 16
            && address[..2] == [0, 0]
            && address[4..8] == [0; 4]
        {
            // As old programs have it: INADDR_ANY without a family.
            unspec[..2].copy_from_slice(&socket.family.to_ne_bytes());
        }
        let address = sockaddr::parse(socket.family, &unspec)?;
        let low = address.port() != 0 && u32::from(address.port()) < socket.net.unprivileged_port_start();
        let refused = low && !may_bind_low(ctx, &socket.net);
        let mut names = self.names();
        let mut state = socket.state.lock().unwrap();
        if socket.family == AF_INET6 && address.is_ipv4() && state.options.is_set(name::IPV6_V6ONLY) {
            return Err(Errno::EINVAL);
        }
        check_address(socket, &state, address)?;
        if refused {
            return Err(Errno::EACCES);
        }
        if state.local.port() != 0 || state.tcp != TcpState::Close {
            return Err(Errno::EINVAL);
        }
        let before = state.local;
        state.local = SocketAddr::new(address.ip(), 0);
        if let Err(errno) = names.take_port(socket, &mut state, address.port(), self.random() as u32) {
            state.local = before;
            return Err(errno);
        }
        state.port_locked = address.port() != 0;
        state.address_locked = !address.ip().is_unspecified();
        Ok(())
    }

    /// `listen(2)`: `inet_listen`. Gives the backlog that the caller asks the host for, or a fresh socket to use.
    ///
    /// # Errors
    /// `EINVAL`: it is connected. `EADDRINUSE`
    pub fn listen(&self, fd: &OwnedFd, socket: &InetSocket, backlog: i32) -> Result<Listening> {
        let mut names = self.names();
        let mut state = socket.state.lock().unwrap();
        match state.tcp {
            TcpState::Close | TcpState::Listen(_) => {}
            TcpState::Failed | TcpState::Spent => {
                return self.fresh(&mut names, socket, &mut state, fd).map(Listening::Fresh);
            }
            _ => return Err(Errno::EINVAL),
        }
        if let HostName::Mark(_) = state.bound {
            return self.fresh(&mut names, socket, &mut state, fd).map(Listening::Fresh);
        }
        let before = state.tcp;
        let asked = (backlog as u32).min(SOMAXCONN);
        state.tcp = TcpState::Listen(asked);
        let port = state.local.port();
        if let Err(errno) = names.take_port(socket, &mut state, port, self.random() as u32) {
            state.tcp = before;
            return Err(errno);
        }
        if state.bound == HostName::None {
            let bound = bind_host(fd, &self.path(socket));
            if let Err(errno) = bound {
                state.tcp = before;
                return Err(errno);
            }
            state.bound = HostName::File;
        }
        Ok(Listening::Backlog(SOMAXCONN))
    }

    /// The file of a listener.
    fn path(&self, socket: &InetSocket) -> std::path::PathBuf {
        self.dir.join(format!("t{}", socket.id))
    }

    /// Gives a socket another one of the host in the place of `old`, which cannot connect any more.
    fn fresh(
        &self,
        names: &mut super::Names,
        socket: &InetSocket,
        state: &mut State,
        old: &OwnedFd,
    ) -> Result<OwnedFd> {
        let (fd, ino) = host_socket::stream(host_socket::is_nonblocking(old)?)?;
        names.by_ino.remove(&state.ino);
        names.by_ino.insert(ino, socket.id);
        state.ino = ino;
        state.bound = HostName::None;
        state.tcp = TcpState::Close;
        Ok(fd)
    }

    /// `connect(2)`: `inet_stream_connect`.
    ///
    /// # Errors
    /// `EISCONN`, `EINVAL`, `EAFNOSUPPORT`, `ENETUNREACH`, `ECONNREFUSED`, `EADDRNOTAVAIL`; `EINPROGRESS` for who does not wait.
    pub fn connect(
        &self,
        ctx: &Ctx<'_>,
        fd: &OwnedFd,
        socket: &Arc<InetSocket>,
        address: &[u8],
    ) -> Result<Reply> {
        let nonblock = host_socket::is_nonblocking(fd)?;
        if sockaddr::family(address)? == AF_UNSPEC {
            return self.disconnect(fd, socket);
        }
        let (to, serial, source, way) = {
            let mut names = self.names();
            let mut state = socket.state.lock().unwrap();
            match state.tcp {
                TcpState::Close => {}
                TcpState::Connecting => {
                    state.tcp = TcpState::Established;
                    return Ok(().into());
                }
                TcpState::Pending if nonblock => return Err(Errno::EALREADY),
                TcpState::Pending => {
                    let made = state.made.as_ref().ok_or(Errno::EALREADY)?;
                    return Ok(Reply::Wait(made.try_clone().map_err(host)?));
                }
                TcpState::Failed => {
                    state.tcp = TcpState::Spent;
                    return Err(state.error.take().unwrap_or(Errno::ECONNABORTED));
                }
                TcpState::Spent => {
                    // The fresh one takes the place of the old; then the guest asks again.
                    let fd = self.fresh(&mut names, socket, &mut state, fd)?;
                    return Ok(Reply::Fd { fd, cloexec: true });
                }
                TcpState::Listen(_) | TcpState::Established => return Err(Errno::EISCONN),
            }
            let to = sockaddr::parse(socket.family, address)?;
            let to = SocketAddr::new(sockaddr::this_host(to.ip()), to.port());
            let broadcast = matches!(to.ip(), IpAddr::V4(v4) if v4.is_broadcast());
            if to.ip().is_multicast() || broadcast {
                return Err(Errno::ENETUNREACH);
            }
            if to.is_ipv4() && socket.family == AF_INET6 && state.options.is_set(name::IPV6_V6ONLY) {
                return Err(Errno::ENETUNREACH);
            }
            let before = state.local;
            let flow = super::flow(socket, &state, to);
            let (way, source) = {
                let stack = socket.net.stack().lock();
                match stack.inet_route_output(socket.net_ns(), &flow)? {
                    Destination::Local { net, source } => {
                        let from = SocketAddr::new(source, before.port());
                        let watched = stack.inet_is_watched(socket.net_ns(), &flow, from, to);
                        (if watched { Way::Packets } else { Way::Local(net) }, source)
                    }
                    Destination::Outside(dst) if dst.kind != RouteType::Unicast => {
                        return Err(Errno::ENETUNREACH);
                    }
                    Destination::Outside(dst) if stack.is_uplink(dst.dev) => (Way::Uplink, dst.prefsrc),
                    Destination::Outside(dst) => (Way::Packets, dst.prefsrc),
                }
            };
            if before.ip().is_unspecified() {
                state.local = SocketAddr::new(source, before.port());
            } else if before.is_ipv4() != to.is_ipv4() {
                return Err(Errno::EADDRNOTAVAIL);
            }
            if before.port() == 0
                && let Err(errno) = names.take_port(socket, &mut state, 0, self.random() as u32)
            {
                state.local = before;
                return Err(if errno == Errno::EADDRINUSE { Errno::EADDRNOTAVAIL } else { errno });
            }
            let serial = match state.bound {
                HostName::Mark(serial) => serial,
                _ => self.next(),
            };
            (to, serial, before, way)
        };
        let Way::Local(net) = way else {
            return self.connect_away(ctx, fd, socket, to, way, nonblock, source);
        };
        let listens = self.names().listener(net, to, 0).is_some();
        if !listens && uplink::reaches_host(self, net, to, || uplink::caller(ctx)) {
            return self.connect_away(ctx, fd, socket, to, Way::Permitted, nonblock, source);
        }
        let result = self.join(fd, socket, net, to, serial);
        let mut names = self.names();
        let mut state = socket.state.lock().unwrap();
        match result {
            Ok(()) => {
                state.peer = Some(to);
                state.tcp = if nonblock { TcpState::Connecting } else { TcpState::Established };
                drop((state, names));
                if nonblock {
                    host_socket::wake(fd);
                    return Err(Errno::EINPROGRESS);
                }
                Ok(().into())
            }
            Err(Errno::EAGAIN) if !nonblock => Ok(Reply::Wait(sys::soon().map_err(host)?)),
            Err(errno) => {
                // What the guest has not chosen itself is free again.
                if source.port() == 0 {
                    let port = state.local.port();
                    names.ports(socket.net_ns(), socket.protocol).release(port, socket.id);
                    state.last_port = port;
                }
                state.local = source;
                drop((state, names));
                if nonblock && errno == Errno::ECONNREFUSED {
                    self.refuse(fd, socket)?;
                    return Err(Errno::EINPROGRESS);
                }
                Err(errno)
            }
        }
    }

    /// Connects a socket, whose name was `before`, to somebody outside.
    #[allow(clippy::too_many_arguments)]
    fn connect_away(
        &self,
        ctx: &Ctx<'_>,
        fd: &OwnedFd,
        socket: &Arc<InetSocket>,
        to: SocketAddr,
        way: Way,
        nonblock: bool,
        before: SocketAddr,
    ) -> Result<Reply> {
        let begin = || {
            if way == Way::Permitted {
                let attached = self.uplink.get().ok_or(Errno::ENETUNREACH)?;
                return uplink::connect_permitted(ctx, attached, fd, socket, to);
            }
            if way == Way::Uplink {
                return uplink::connect(ctx, fd, socket, to);
            }
            let end = self.pair_with(fd)?;
            let local = {
                let mut state = socket.state.lock().unwrap();
                state.tcp = TcpState::Pending;
                state.local
            };
            self.connect_outside(ctx.server, fd, end, socket, local, to)
        };
        match begin() {
            Ok(made) => {
                socket.state.lock().unwrap().made = Some(Arc::new(made.try_clone().map_err(host)?));
                if nonblock { Err(Errno::EINPROGRESS) } else { Ok(Reply::Wait(made)) }
            }
            Err(errno) => {
                let mut names = self.names();
                let mut state = socket.state.lock().unwrap();
                let port = state.local.port();
                if before.port() == 0 {
                    names.ports(socket.net_ns(), socket.protocol).release(port, socket.id);
                }
                state.local = before;
                // The host's socket may have been joined already.
                state.tcp = TcpState::Spent;
                Err(errno)
            }
        }
    }

    /// Connects `end`, which is ours, to a listener in the name of `client`, who is outside.
    ///
    /// # Errors
    /// `ECONNREFUSED`, `EAGAIN`: it takes no more.
    pub fn join_listener(
        &self,
        end: &OwnedFd,
        listener: &Arc<InetSocket>,
        client: SocketAddr,
        server: SocketAddr,
    ) -> Result<()> {
        let serial = self.next();
        let connection = connection(listener, client, server);
        {
            let mut names = self.names();
            names.connections.insert(serial, Arc::new(connection));
            names.linger(serial);
        }
        host_socket::bind_abstract(end, &[&self.mark[..], serial.to_string().as_bytes()].concat())?;
        connect_host(end, self.path(listener).as_os_str().as_bytes())
    }

    /// Connects the host's sockets.
    ///
    /// # Errors
    /// `ECONNREFUSED`; `EAGAIN`: the listener has no room.
    fn join(
        &self,
        fd: &OwnedFd,
        socket: &Arc<InetSocket>,
        net: u64,
        to: SocketAddr,
        serial: u64,
    ) -> Result<()> {
        loop {
            let listener = self.names().listener(net, to, self.random());
            let listener = listener.ok_or(Errno::ECONNREFUSED)?;
            let client = socket.state.lock().unwrap().local;
            let connection = connection(&listener, client, to);
            self.names().connections.insert(serial, Arc::new(connection));
            let unmarked = socket.state.lock().unwrap().bound == HostName::None;
            if unmarked {
                host_socket::bind_abstract(fd, &[&self.mark[..], serial.to_string().as_bytes()].concat())?;
                socket.state.lock().unwrap().bound = HostName::Mark(serial);
            }
            match connect_host(fd, self.path(&listener).as_os_str().as_bytes()) {
                Err(Errno::ECONNREFUSED | Errno::ENOENT) => {
                    // It is closed, or shut down.
                    let mut names = self.names();
                    names.sweep();
                    let port = to.port();
                    names.ports(listener.net_ns(), listener.protocol).release(port, listener.id);
                }
                other => return other,
            }
        }
    }

    /// Lets a socket look as one whose connection was refused, to those who wait at it too: it is connected to one of ours that goes
    /// away with something unread, so that the host has an error for it.
    fn refuse(&self, fd: &OwnedFd, socket: &InetSocket) -> Result<()> {
        let ours = self.pair_with(fd)?;
        let _ = rustix::net::send(fd, b"x", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        drop(ours);
        let mut state = socket.state.lock().unwrap();
        state.tcp = TcpState::Failed;
        state.error = Some(Errno::ECONNREFUSED);
        Ok(())
    }

    /// Connects a guest's socket to one of ours.
    pub(super) fn pair_with(&self, fd: &OwnedFd) -> Result<OwnedFd> {
        let mut refuser = self.refuser.lock().unwrap();
        let path = self.dir.join("refuse");
        if refuser.is_none() {
            let (listener, _) = host_socket::stream(true)?;
            bind_host(&listener, &path)?;
            rustix::net::listen(&listener, 1).map_err(host)?;
            *refuser = Some(listener);
        }
        let refuser = refuser.as_ref().ok_or(Errno::EIO)?;
        connect_host(fd, path.as_os_str().as_bytes())?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::accept_with(refuser, flags).map_err(host)
    }

    /// `connect(2)` to nowhere: `tcp_disconnect`.
    fn disconnect(&self, fd: &OwnedFd, socket: &InetSocket) -> Result<Reply> {
        let mut names = self.names();
        let mut state = socket.state.lock().unwrap();
        state.error = None;
        if state.tcp == TcpState::Close {
            return Ok(().into());
        }
        let fresh = self.fresh(&mut names, socket, &mut state, fd)?;
        state.peer = None;
        let port = state.local.port();
        if !state.port_locked && port != 0 {
            names.ports(socket.net_ns(), socket.protocol).release(port, socket.id);
            state.local.set_port(0);
        } else if port != 0 {
            let holder = socket.holder(&state);
            let _ = names.ports(socket.net_ns(), socket.protocol).take(port, holder);
        }
        if !state.address_locked {
            state.local.set_ip(sockaddr::any(socket.family));
        }
        Ok(Reply::Fd { fd: fresh, cloexec: true })
    }
}

fn connection(listener: &Arc<InetSocket>, client: SocketAddr, server: SocketAddr) -> Connection {
    let state = listener.state.lock().unwrap();
    Connection {
        client,
        server,
        listener: listener.clone(),
        options: state.options.clone(),
        ifindex: state.ifindex,
        congestion: state.congestion,
    }
}

/// What [`Inet::listen`] has the guest do.
pub enum Listening {
    /// Ask the host for this backlog.
    Backlog(u32),
    /// Take another socket, and ask again.
    Fresh(OwnedFd),
}
