//! `AF_NETLINK` sockets (`netlink(7)`).
//!
//! A guest's socket is one end of a pair of `SOCK_SEQPACKET` sockets of the host, which keeps the boundaries of messages; the
//! other end is ours, with one thread for all. What a family answers is said in `family.rs`, for `NETLINK_ROUTE` by the model
//! ([`nomina_kernel::net::rtnetlink`]). Answers that find no room wait here until the guest has read.
//!
//! Programs look at the address a message came from. Our end has an abstract name of ten bytes, by which the shim knows the
//! kernel, and which even without it has the length of a `sockaddr_nl` and a zero for its `nl_pid`.
//!
//! Differences from Linux: a reader that does not read loses notifications without `ENOBUFS`; answers come a moment after the call
//! that asks; a socket cannot be given a filter.

mod bytecode;
mod family;
mod options;
mod sender;
mod sock_diag;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetNamespace;
use rustix::event::{EventfdFlags, epoll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use self::family::Family;
pub use self::options::{get_option, set_option};
use super::Server;
use super::lock::Mutex;
use super::request::{Ctx, Reply, host};

/// A socket.
pub struct NetlinkSocket {
    ino: u64,
    ours: OwnedFd,
    family: Family,
    net: Arc<NetNamespace>,
    /// Whether who made it has `CAP_NET_ADMIN` over the namespace.
    may_change: bool,
    port: AtomicU32,
    /// Bit `n - 1` for group `n`.
    groups: AtomicU64,
    /// Options that are on: bit `n` for `NETLINK_*` number `n`.
    options: AtomicU32,
    /// What waits for room.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    datagrams: VecDeque<Vec<u8>>,
    bytes: usize,
}

/// All netlink sockets of a sandbox.
pub struct Netlink(Arc<Shared>);

struct Shared {
    epoll: OwnedFd,
    /// Ends the thread, or wakes it for notifications.
    wake: OwnedFd,
    ended: AtomicU64,
    started: AtomicU64,
    server: OnceLock<Weak<Server>>,
    /// By inode number of the guest's end.
    sockets: Mutex<HashMap<u64, Arc<NetlinkSocket>>>,
}

/// No inode number of a socket.
const WAKE: u64 = 0;
/// Longest message that is taken, in bytes.
const LONGEST: usize = 32 * 1024;
/// Most bytes of answers that wait for a reader.
const MOST_WAITING: usize = 4 << 20;
/// Notifications are lost for a reader that has let so many bytes wait, as with a receive buffer of Linux's default size.
const MOST_NOTIFIED: usize = 212_992;

impl Netlink {
    /// None yet, and no thread.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` and `eventfd(2)`.
    pub fn new() -> io::Result<Netlink> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Netlink(Arc::new(Shared {
            epoll,
            wake,
            ended: AtomicU64::new(0),
            started: AtomicU64::new(0),
            server: OnceLock::new(),
            sockets: Mutex::default(),
        })))
    }

    /// Tells whose sockets they are.
    pub fn serve(&self, server: &Arc<Server>) {
        let _ = self.0.server.set(Arc::downgrade(server));
        let shared = Arc::downgrade(&self.0);
        server.net_stack.set_on_notify(move || {
            if let Some(shared) = shared.upgrade() {
                shared.wake();
            }
        });
    }

    /// The socket of which `fd` is a guest's end.
    pub fn find(&self, fd: &OwnedFd) -> Option<Arc<NetlinkSocket>> {
        let sockets = self.0.sockets.lock().unwrap();
        if sockets.is_empty() {
            return None;
        }
        let stat = rustix::fs::fstat(fd).ok()?;
        // Files of the guest's own could have any number.
        if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            return None;
        }
        sockets.get(&stat.st_ino).cloned()
    }

    /// All of them.
    fn sockets(&self) -> Vec<Arc<NetlinkSocket>> {
        self.0.sockets.lock().unwrap().values().cloned().collect()
    }

    fn create(
        &self,
        family: Family,
        net: Arc<NetNamespace>,
        may_change: bool,
        nonblock: bool,
    ) -> io::Result<OwnedFd> {
        if self.0.sockets.lock().unwrap().len() >= nomina_fs::wait::descriptor_share() {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Messages to us then say which process has sent them.
        rustix::net::sockopt::set_socket_passcred(&ours, true)?;
        if nonblock {
            let now = rustix::fs::fcntl_getfl(&theirs)?;
            rustix::fs::fcntl_setfl(&theirs, now | rustix::fs::OFlags::NONBLOCK)?;
        }
        name_as_kernel(&ours)?;
        if self.0.started.swap(1, Ordering::AcqRel) == 0 {
            let shared = Arc::downgrade(&self.0);
            let epoll = self.0.epoll.try_clone()?;
            let thread = std::thread::Builder::new().name("nomina-netlink".into()).stack_size(512 * 1024);
            thread.spawn(move || run(&shared, &epoll))?;
        }
        let ino = rustix::fs::fstat(&theirs)?.st_ino;
        let socket = Arc::new(NetlinkSocket {
            ino,
            ours,
            family,
            net,
            may_change,
            port: AtomicU32::new(0),
            groups: AtomicU64::new(0),
            options: AtomicU32::new(0),
            waiting: Mutex::default(),
        });
        self.0.sockets.lock().unwrap().insert(ino, socket.clone());
        let added =
            epoll::add(&self.0.epoll, &socket.ours, epoll::EventData::new_u64(ino), epoll::EventFlags::IN);
        if let Err(error) = added {
            self.0.sockets.lock().unwrap().remove(&ino);
            return Err(error.into());
        }
        Ok(theirs)
    }

    /// `netlink_bind`, `netlink_autobind`: takes `port`, or with 0 the one of the process or any other that is free.
    fn bind(&self, socket: &NetlinkSocket, port: u32, process: u32) -> Result<()> {
        let sockets = self.0.sockets.lock().unwrap();
        let is_taken = |port: u32| {
            sockets.values().any(|other| {
                other.ino != socket.ino
                    && other.family == socket.family
                    && other.port.load(Ordering::Relaxed) == port
                    && Arc::ptr_eq(&other.net, &socket.net)
            })
        };
        let now = socket.port.load(Ordering::Relaxed);
        let port = match (now, port) {
            (0, 0) => {
                // Like the kernel's, numbers that are no process's are negative.
                let others = (0..4096u32).map(|n| (-4097i32 - n as i32) as u32);
                std::iter::once(process)
                    .chain(others)
                    .find(|&port| !is_taken(port))
                    .ok_or(Errno::EADDRINUSE)?
            }
            (0, port) if is_taken(port) => return Err(Errno::EADDRINUSE),
            (0, port) => port,
            (_, 0) => now,
            (now, port) if now == port => now,
            _ => return Err(Errno::EINVAL),
        };
        socket.port.store(port, Ordering::Relaxed);
        Ok(())
    }
}

impl Shared {
    fn wake(&self) {
        // A counter of 1 always has room.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Tells the members of groups what the model has to tell.
    fn deliver(&self, server: &Server) {
        let stack = &server.net_stack;
        loop {
            let notifications = stack.lock().take_notifications();
            if notifications.is_empty() {
                return;
            }
            let members: Vec<_> = self.sockets.lock().unwrap().values().cloned().collect();
            for notification in notifications {
                let bit = 1u64 << (notification.group - 1);
                for member in &members {
                    if member.family == Family::Route
                        && member.net.common().inum() == notification.net
                        && member.groups.load(Ordering::Relaxed) & bit != 0
                    {
                        self.send(member, notification.message.clone(), MOST_NOTIFIED);
                    }
                }
            }
        }
    }

    /// Sends a message, now or when the reader has made room; what would be beyond `most` waiting bytes is lost.
    fn send(&self, socket: &NetlinkSocket, message: Vec<u8>, most: usize) {
        let mut waiting = socket.waiting.lock().unwrap();
        if waiting.datagrams.is_empty() {
            match rustix::net::send(&socket.ours, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::AGAIN) => {}
                // Whoever cannot be sent to is gone.
                _ => return,
            }
        }
        if waiting.bytes + message.len() > most {
            return;
        }
        waiting.bytes += message.len();
        waiting.datagrams.push_back(message);
        drop(waiting);
        self.watch(socket, epoll::EventFlags::IN | epoll::EventFlags::OUT);
    }

    /// Sends what waits, as far as there is room.
    fn flush(&self, socket: &NetlinkSocket) {
        let mut waiting = socket.waiting.lock().unwrap();
        while let Some(message) = waiting.datagrams.front() {
            match rustix::net::send(&socket.ours, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::AGAIN) => return,
                _ => {
                    let len = message.len();
                    waiting.datagrams.pop_front();
                    waiting.bytes -= len;
                }
            }
        }
        drop(waiting);
        self.watch(socket, epoll::EventFlags::IN);
    }

    fn watch(&self, socket: &NetlinkSocket, events: epoll::EventFlags) {
        // Fails only where it is gone already.
        let _ = epoll::modify(&self.epoll, &socket.ours, epoll::EventData::new_u64(socket.ino), events);
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.0.ended.store(1, Ordering::Release);
        self.0.wake();
    }
}

/// Gives our end a name that reads as the address of the kernel: `nl_pad` and `nl_groups` make it one of its own.
fn name_as_kernel(ours: &OwnedFd) -> io::Result<()> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    const TRIES: u32 = 64;
    let start = SERIAL.fetch_add(TRIES, Ordering::Relaxed) ^ std::process::id().rotate_left(16);
    for tried in 0..TRIES {
        let [a, b, c, d] = start.wrapping_add(tried).to_ne_bytes();
        // Behind the NUL of abstract names: the rest of nl_pad, nl_pid, nl_groups.
        let name = [1, 0, 0, 0, 0, a, b, c, d];
        let address = rustix::net::SocketAddrUnix::new_abstract_name(&name)?;
        match rustix::net::bind(ours, &address) {
            Err(rustix::io::Errno::ADDRINUSE) => {}
            other => return Ok(other?),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn run(shared: &Weak<Shared>, epoll: &OwnedFd) {
    let mut buffer = vec![0; LONGEST];
    loop {
        let mut events = Vec::with_capacity(16);
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        let Some(shared) = shared.upgrade() else { return };
        let server = shared.server.get().and_then(Weak::upgrade);
        let Some(server) = server.filter(|_| shared.ended.load(Ordering::Acquire) == 0) else { return };
        for event in events {
            let (ino, flags) = (event.data.u64(), event.flags);
            if ino == WAKE {
                let mut counter = [0; 8];
                // EAGAIN: it has been read.
                let _ = rustix::io::read(&shared.wake, &mut counter);
                shared.deliver(&server);
                continue;
            }
            let socket = shared.sockets.lock().unwrap().get(&ino).cloned();
            let Some(socket) = socket else { continue };
            if flags.contains(epoll::EventFlags::OUT) {
                shared.flush(&socket);
            }
            if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                continue;
            }
            // A panic is our bug, not the guest's to exploit: the message is lost, the sandbox lives.
            let open = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                receive(&shared, &server, &socket, &mut buffer)
            }));
            if !open.unwrap_or(true) {
                // Fails only where it is gone already.
                let _ = epoll::delete(epoll, &socket.ours);
                shared.sockets.lock().unwrap().remove(&ino);
            }
        }
    }
}

/// Serves one message; false at the end.
fn receive(shared: &Shared, server: &Arc<Server>, socket: &NetlinkSocket, buffer: &mut [u8]) -> bool {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1), ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut room = [io::IoSliceMut::new(buffer)];
    let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC | RecvFlags::CMSG_CLOEXEC;
    let received = match rustix::net::recvmsg(&socket.ours, &mut room, &mut control, flags) {
        Ok(received) => received.bytes,
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
        Err(_) => return false,
    };
    // Descriptors that came along are closed with what holds them.
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid.as_raw_nonzero().get()),
        _ => None,
    });
    if received == 0 {
        return rustix::net::sockopt::socket_error(&socket.ours).is_ok_and(|error| error.is_ok())
            && !is_closed(&socket.ours);
    }
    if received > LONGEST {
        return true;
    }
    let answers = family::answer(server, socket, sender, &buffer[..received]);
    // Who asks for a change and is a member is told of it before it is answered.
    shared.deliver(server);
    for answer in answers {
        shared.send(socket, answer, MOST_WAITING);
    }
    true
}

/// Whether the guest's end is closed: an empty message looks like the end, too.
fn is_closed(ours: &OwnedFd) -> bool {
    let mut polled = [rustix::event::PollFd::new(ours, rustix::event::PollFlags::empty())];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    let polled = rustix::event::poll(&mut polled, Some(&now)).map(|_| polled[0].revents());
    polled.map_or(true, |events| events.contains(rustix::event::PollFlags::HUP))
}

impl NetlinkSocket {
    /// Sends a message of the kernel's, where there is room.
    pub fn send(&self, message: &[u8]) {
        let _ = rustix::net::send(&self.ours, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }

    fn has_option(&self, option: i32) -> bool {
        self.options.load(Ordering::Relaxed) & 1 << option != 0
    }
}

/// `socket(2)` of the family.
///
/// # Errors
/// `ESOCKTNOSUPPORT` for types other than `SOCK_RAW` and `SOCK_DGRAM`, `EPROTONOSUPPORT` for families that there are not,
/// `EINVAL` for flags.
pub fn socket(ctx: &Ctx<'_>) -> Result<Reply> {
    let (kind, flags) = (ctx.int(1) & 0xf, ctx.int(1) & !0xf);
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if !matches!(kind, libc::SOCK_RAW | libc::SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    let family = Family::from_protocol(ctx.int(2)).ok_or(Errno::EPROTONOSUPPORT)?;
    let (net, may_change) = net_of(ctx)?;
    let nonblock = flags & libc::SOCK_NONBLOCK != 0;
    ctx.server.net_stack.lock().listen();
    let fd = ctx.server.netlink.create(family, net, may_change, nonblock).map_err(host)?;
    Ok(Reply::Fd { fd, cloexec: flags & libc::SOCK_CLOEXEC != 0 })
}

/// The caller's network namespace, and whether it has `CAP_NET_ADMIN` over it.
///
/// # Errors
/// `ESRCH`: it is gone.
pub fn net_of(ctx: &Ctx<'_>) -> Result<(Arc<NetNamespace>, bool)> {
    let kernel = ctx.server.kernel.lock().unwrap();
    let task = kernel.task(ctx.task()).ok_or(Errno::ESRCH)?;
    let net = task.nsproxy().ok_or(Errno::ESRCH)?.net_ns().clone();
    let may_change = net.common().owner().is_some_and(|owner| task.cred().ns_capable(owner, Cap::NET_ADMIN));
    Ok((net, may_change))
}

/// The number of the caller's process, as it sees it.
fn process_of(ctx: &Ctx<'_>) -> u32 {
    let kernel = ctx.server.kernel.lock().unwrap();
    kernel.task_tgid_vnr(ctx.task(), ctx.task()) as u32
}

/// `bind(2)` of a `struct sockaddr_nl`: port and groups.
///
/// # Errors
/// `EINVAL`: another family, a short address, another port than before. `EADDRINUSE`.
pub fn bind(ctx: &Ctx<'_>, socket: &NetlinkSocket, address: &[u8]) -> Result<Reply> {
    let word = |at: usize| address.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let (Some(family), Some(port), Some(groups)) = (word(0), word(4), word(8)) else {
        return Err(Errno::EINVAL);
    };
    if family as u16 != libc::AF_NETLINK as u16 {
        return Err(Errno::EINVAL);
    }
    ctx.server.netlink.bind(socket, port, process_of(ctx))?;
    // The address has the first 32 groups; others are joined by option and stay.
    let first = u64::from(u32::MAX);
    let others = socket.groups.load(Ordering::Relaxed) & !first;
    socket.groups.store(others | u64::from(groups), Ordering::Relaxed);
    Ok(().into())
}

/// `getsockname(2)` and, with `peer`, `getpeername(2)`: the kernel is at the other end.
pub fn name(socket: &NetlinkSocket, peer: bool) -> Vec<u8> {
    let (port, groups) = match peer {
        true => (0, 0),
        false => (socket.port.load(Ordering::Relaxed), socket.groups.load(Ordering::Relaxed) as u32),
    };
    let mut address = u32::from(libc::AF_NETLINK as u16).to_ne_bytes().to_vec();
    address.extend(port.to_ne_bytes());
    address.extend(groups.to_ne_bytes());
    address
}

/// A message to an address: only the kernel can be one.
///
/// # Errors
/// `EINVAL`: another family. `ECONNREFUSED`: another process.
pub fn send_to(ctx: &Ctx<'_>, socket: &NetlinkSocket, address: &[u8]) -> Result<Reply> {
    let word = |at: usize| address.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    match (word(0), word(4), word(8)) {
        (Some(family), Some(port), Some(_)) if family as u16 == libc::AF_NETLINK as u16 => {
            if port != 0 {
                return Err(Errno::ECONNREFUSED);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    if socket.port.load(Ordering::Relaxed) == 0 {
        ctx.server.netlink.bind(socket, 0, process_of(ctx))?;
    }
    Ok(().into())
}
