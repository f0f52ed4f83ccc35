//! `AF_NETLINK` sockets (`netlink(7)`): the family `NETLINK_ROUTE`.
//!
//! A guest's socket is one end of a pair of `SOCK_SEQPACKET` sockets of the host, which keeps the boundaries of messages; the
//! other end is ours, with one thread for all. The model answers ([`nomina_kernel::net::rtnetlink_rcv`]).
//!
//! Programs look at the address a message came from. Our end has an abstract name of ten bytes, by which the shim knows the
//! kernel, and which even without it has the length of a `sockaddr_nl` and a zero for its `nl_pid`.
//!
//! Differences from Linux: the right to change something is that of who made the socket; a reader that does not read loses
//! messages without `ENOBUFS`; answers come a moment after the call that asks.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::{NetNamespace, rtnetlink_rcv};
use rustix::event::{EventfdFlags, epoll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::lock::Mutex;
use super::request::{Ctx, Reply, host};

/// A socket.
pub struct NetlinkSocket {
    ino: u64,
    ours: OwnedFd,
    net: Arc<NetNamespace>,
    may_change: bool,
    port: AtomicU32,
    groups: AtomicU32,
}

/// All netlink sockets of a sandbox.
pub struct Netlink(Arc<Shared>);

struct Shared {
    epoll: OwnedFd,
    stop: OwnedFd,
    started: AtomicU64,
    /// By inode number of the guest's end.
    sockets: Mutex<HashMap<u64, Arc<NetlinkSocket>>>,
}

/// No inode number of a socket.
const STOP: u64 = 0;
/// Longest message that is taken, in bytes.
const LONGEST: usize = 32 * 1024;

impl Netlink {
    /// None yet, and no thread.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` and `eventfd(2)`.
    pub fn new() -> io::Result<Netlink> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        Ok(Netlink(Arc::new(Shared { epoll, stop, started: AtomicU64::new(0), sockets: Mutex::default() })))
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

    fn create(&self, net: Arc<NetNamespace>, may_change: bool, nonblock: bool) -> io::Result<OwnedFd> {
        if self.0.sockets.lock().unwrap().len() >= nomina_fs::wait::descriptor_share() {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        if nonblock {
            let now = rustix::fs::fcntl_getfl(&theirs)?;
            rustix::fs::fcntl_setfl(&theirs, now | rustix::fs::OFlags::NONBLOCK)?;
        }
        name_as_kernel(&ours)?;
        if self.0.started.swap(1, Ordering::AcqRel) == 0 {
            let shared = Arc::downgrade(&self.0);
            let epoll = self.0.epoll.try_clone()?;
            let thread = std::thread::Builder::new().name("nomina-netlink".into()).stack_size(256 * 1024);
            thread.spawn(move || run(&shared, &epoll))?;
        }
        let ino = rustix::fs::fstat(&theirs)?.st_ino;
        let socket = Arc::new(NetlinkSocket {
            ino,
            ours,
            net,
            may_change,
            port: AtomicU32::new(0),
            groups: AtomicU32::new(0),
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

impl Drop for Netlink {
    fn drop(&mut self) {
        // A counter of 1 always has room.
        let _ = rustix::io::write(&self.0.stop, &1u64.to_ne_bytes());
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
        for event in events {
            let ino = event.data.u64();
            if ino == STOP {
                return;
            }
            let socket = shared.sockets.lock().unwrap().get(&ino).cloned();
            let Some(socket) = socket else { continue };
            // A panic is our bug, not the guest's to exploit: the message is lost, the sandbox lives.
            let open = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                receive(&shared, &socket, &mut buffer)
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
fn receive(shared: &Shared, socket: &NetlinkSocket, buffer: &mut [u8]) -> bool {
    let len = match rustix::net::recv(&socket.ours, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
        Ok((_, 0)) => return false,
        Ok((_, len)) if len <= LONGEST => len,
        Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return true,
        Err(_) => return false,
    };
    let port = socket.port.load(Ordering::Relaxed);
    let answer = rtnetlink_rcv(&socket.net, port, socket.may_change, &buffer[..len]);
    for reply in answer.replies {
        send(socket, &reply);
    }
    for (group, message) in answer.notifications {
        let members: Vec<_> = shared.sockets.lock().unwrap().values().cloned().collect();
        for member in members {
            if Arc::ptr_eq(&member.net, &socket.net) && member.groups.load(Ordering::Relaxed) & group != 0 {
                send(&member, &message);
            }
        }
    }
    true
}

impl NetlinkSocket {
    /// Sends a message of the kernel's, where there is room.
    pub fn send(&self, message: &[u8]) {
        send(self, message);
    }
}

/// Sends where there is room.
fn send(socket: &NetlinkSocket, message: &[u8]) {
    let _ = rustix::net::send(&socket.ours, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// `socket(2)` of the family.
///
/// # Errors
/// `ESOCKTNOSUPPORT` for types other than `SOCK_RAW` and `SOCK_DGRAM`, `EPROTONOSUPPORT` for protocols other than
/// `NETLINK_ROUTE`, `EINVAL` for flags.
pub fn socket(ctx: &Ctx<'_>) -> Result<Reply> {
    let (kind, flags) = (ctx.int(1) & 0xf, ctx.int(1) & !0xf);
    if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    if !matches!(kind, libc::SOCK_RAW | libc::SOCK_DGRAM) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if ctx.int(2) != libc::NETLINK_ROUTE {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let (net, may_change) = net_of(ctx)?;
    let fd = ctx.server.netlink.create(net, may_change, flags & libc::SOCK_NONBLOCK != 0).map_err(host)?;
    Ok(Reply::Fd { fd, cloexec: flags & libc::SOCK_CLOEXEC != 0 })
}

/// The caller's network namespace, and whether it has `CAP_NET_ADMIN` over it.
fn net_of(ctx: &Ctx<'_>) -> Result<(Arc<NetNamespace>, bool)> {
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
    socket.groups.store(groups, Ordering::Relaxed);
    Ok(().into())
}

/// `getsockname(2)` and, with `peer`, `getpeername(2)`: the kernel is at the other end.
pub fn name(socket: &NetlinkSocket, peer: bool) -> Vec<u8> {
    let (port, groups) = match peer {
        true => (0, 0),
        false => (socket.port.load(Ordering::Relaxed), socket.groups.load(Ordering::Relaxed)),
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

/// The commands of `netdevice(7)` on a socket of any family; `None` for others. `request` is a `struct ifreq`, changed in
/// place.
///
/// # Errors
/// `ENODEV`: no such device. `EPERM`: a change without `CAP_NET_ADMIN`.
pub fn ioctl(ctx: &Ctx<'_>, command: u32, request: &mut [u8; 40]) -> Option<Result<()>> {
    const SIOCGIFNAME: u32 = 0x8910;
    const SIOCGIFFLAGS: u32 = 0x8913;
    const SIOCSIFFLAGS: u32 = 0x8914;
    const SIOCGIFMTU: u32 = 0x8921;
    const SIOCGIFHWADDR: u32 = 0x8927;
    const SIOCGIFINDEX: u32 = 0x8933;
    const SIOCGIFTXQLEN: u32 = 0x8942;
    const ARPHRD_LOOPBACK: u16 = 772;
    if !matches!(
        command,
        SIOCGIFNAME | SIOCGIFFLAGS | SIOCSIFFLAGS | SIOCGIFMTU | SIOCGIFHWADDR | SIOCGIFINDEX | SIOCGIFTXQLEN
    ) {
        return None;
    }
    let mut serve = || -> Result<()> {
        let (net, may_change) = net_of(ctx)?;
        let name = request[..16].split(|&byte| byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        let number = u32::from_ne_bytes([request[16], request[17], request[18], request[19]]);
        if command == SIOCGIFNAME {
            let dev = net.device_by_index(number).ok_or(Errno::ENODEV)?;
            request[..16].fill(0);
            request[..dev.name.len().min(15)].copy_from_slice(&dev.name.as_bytes()[..dev.name.len().min(15)]);
            return Ok(());
        }
        let dev = net.device_by_name(&name).ok_or(Errno::ENODEV)?;
        let value = &mut request[16..];
        match command {
            SIOCSIFFLAGS if !may_change => return Err(Errno::EPERM),
            SIOCSIFFLAGS => net.set_flags(&name, number & 0xffff)?,
            SIOCGIFFLAGS => value[..2].copy_from_slice(&(dev.flags as u16).to_ne_bytes()),
            SIOCGIFMTU => value[..4].copy_from_slice(&dev.mtu.to_ne_bytes()),
            SIOCGIFTXQLEN => value[..4].copy_from_slice(&1000u32.to_ne_bytes()),
            SIOCGIFINDEX => value[..4].copy_from_slice(&dev.ifindex.to_ne_bytes()),
            _ => {
                value[..2].copy_from_slice(&ARPHRD_LOOPBACK.to_ne_bytes());
                value[2..16].fill(0);
            }
        }
        Ok(())
    };
    Some(serve())
}
