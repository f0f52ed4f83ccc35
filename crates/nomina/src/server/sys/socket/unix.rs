//! The names of `AF_UNIX` (`unix(7)`).
//!
//! Stream and seqpacket sockets are host sockets in the guest's hands: reading, writing, polling, listening and accepting are
//! native. Only the calls that carry a name come here, and the supervisor makes them on a copy of the guest's descriptor, on
//! host names that no guest can utter: path names become sockets in the private upper layer, abstract names become
//! files in a private directory.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path as HostPath, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::{Attr, LookupFlags, S_IFSOCK, namei};
use rustix::fs::OFlags;

use super::super::super::interrupt;
use super::super::super::lock::Mutex;
use super::super::super::request::{Ctx, Reply, host};
use super::super::datagram;

const AF_UNIX: u16 = libc::AF_UNIX as u16;

/// Identity of a process that connected, as `SO_PEERCRED` shows it.
#[derive(Clone, Copy)]
struct Peer {
    host_pid: i32,
    uid: u32,
    gid: u32,
}

/// Names of the sandbox's sockets.
pub struct UnixNames {
    dir: PathBuf,
    serial: AtomicU64,
    /// Host address of a bound socket → what the guest called it (the bytes behind `sun_family`).
    bound: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    /// Serial of a connection → who made it.
    peers: Mutex<HashMap<u64, Peer>>,
    /// The socket files made here.
    files: Mutex<HashMap<SocketFile, u64>>,
    /// Number of names at which the next look for dead ones is due.
    sweep_at: AtomicUsize,
}

use super::super::super::datagram::SocketFile;

/// The identity of a socket file.
pub fn socket_file(attr: &Attr) -> SocketFile {
    let born = attr.btime.unwrap_or_default();
    (attr.dev, attr.ino, (born.sec, born.nsec))
}

/// How long a connect may block although it was asked not to.
const PATIENCE: Duration = Duration::from_millis(20);

/// How many names are kept before those are looked for that no socket has any more.
const MANY: usize = 1024;
/// How many socket files are remembered; of more, the older half is forgotten.
const MAX_FILES: usize = 65536;
/// How far the clock that dates files may be behind.
const CLOCK_LAG: Duration = Duration::from_millis(50);

/// Connections whose makers are remembered.
const MAX_PEERS: usize = 8192;

impl UnixNames {
    /// Names live in `dir`, a private directory.
    pub fn new(dir: PathBuf) -> UnixNames {
        UnixNames {
            dir,
            serial: AtomicU64::new(1),
            bound: Mutex::default(),
            peers: Mutex::default(),
            files: Mutex::default(),
            sweep_at: AtomicUsize::new(MANY),
        }
    }

    /// The host path for an abstract name.
    fn abstract_path(&self, net_ns: u64, name: &[u8]) -> PathBuf {
        let mut first = DefaultHasher::new();
        (net_ns, name).hash(&mut first);
        let mut second = DefaultHasher::new();
        (name, net_ns, 1u8).hash(&mut second);
        self.dir.join(format!("a{:016x}{:016x}", first.finish(), second.finish()))
    }

    /// Marks `socket`, about to connect, with a name by which the other side knows who it is.
    fn mark(&self, socket: &OwnedFd, peer: Peer) {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("c{serial}"));
        // EINVAL: the guest has bound the socket itself; then the kernel's answer has to do.
        if bind_host(socket, &path).is_ok() {
            let _ = std::fs::remove_file(&path);
            let mut peers = self.peers.lock().unwrap();
            if peers.len() >= MAX_PEERS {
                peers.retain(|&old, _| old + (MAX_PEERS as u64) / 2 > serial);
            }
            peers.insert(serial, peer);
        }
    }

    /// Who is behind a host address that [`UnixNames::mark`] made.
    fn marked(&self, address: &[u8]) -> Option<Peer> {
        let name = HostPath::new(std::ffi::OsStr::from_bytes(address)).strip_prefix(&self.dir).ok()?;
        let serial = name.to_str()?.strip_prefix('c')?.parse().ok()?;
        self.peers.lock().unwrap().get(&serial).copied()
    }

    /// Remembers a socket file just made. What was found in its place and is older is not it.
    ///
    /// # Errors
    /// `EADDRINUSE`.
    pub fn note_file(&self, made: &Attr, bound_since: SystemTime) -> Result<()> {
        let since = (bound_since - CLOCK_LAG).duration_since(UNIX_EPOCH).unwrap_or_default();
        let born = made.btime.map_or(Duration::ZERO, |time| Duration::new(time.sec.max(0) as u64, time.nsec));
        if made.btime.is_some() && born < since {
            return Err(Errno::EADDRINUSE);
        }
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut files = self.files.lock().unwrap();
        if files.len() >= MAX_FILES {
            let mut serials: Vec<u64> = files.values().copied().collect();
            serials.sort_unstable();
            let middle = serials[MAX_FILES / 2];
            files.retain(|_, &mut serial| serial > middle);
        }
        files.insert(socket_file(made), serial);
        Ok(())
    }

    /// Remembers what the guest calls a host address. Nobody tells us when a socket is closed, so dead names are looked for
    /// from time to time, in `/proc/net/unix`.
    fn note_bound(&self, address: Vec<u8>, guest_name: Vec<u8>) {
        let mut bound = self.bound.lock().unwrap();
        bound.insert(address, guest_name);
        if bound.len() < self.sweep_at.load(Ordering::Relaxed) {
            return;
        }
        let Ok(text) = std::fs::read("/proc/net/unix") else { return };
        let live: HashSet<&[u8]> = text
            .split(|&byte| byte == b'\n')
            .filter_map(|line| line.iter().position(|&byte| byte == b'/').map(|at| &line[at..]))
            .collect();
        bound.retain(|address, _| {
            let alive = live.contains(&address[..]);
            let path = HostPath::new(std::ffi::OsStr::from_bytes(address));
            if !alive && path.parent() == Some(&*self.dir) {
                // The file that stands for an abstract name.
                let _ = std::fs::remove_file(path);
            }
            alive
        });
        self.sweep_at.store((bound.len() * 2).max(MANY), Ordering::Relaxed);
    }

    /// What the guest sees of a host address.
    fn guest_name(&self, address: &[u8]) -> Vec<u8> {
        self.bound.lock().unwrap().get(address).cloned().unwrap_or_default()
    }
}

fn sockaddr(path: &[u8]) -> Result<(libc::sockaddr_un, libc::socklen_t)> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = AF_UNIX;
    if path.len() >= address.sun_path.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, &from) in address.sun_path.iter_mut().zip(path) {
        *to = from as libc::c_char;
    }
    Ok((address, (2 + path.len() + 1) as libc::socklen_t))
}

/// Binds a socket of the host.
///
/// # Errors
/// Those of `bind(2)`.
pub fn bind_host(socket: &OwnedFd, path: &HostPath) -> Result<()> {
    let (address, len) = sockaddr(path.as_os_str().as_bytes())?;
    // SAFETY: a valid address of that length.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if result == 0 { Ok(()) } else { Err(host(io::Error::last_os_error())) }
}

/// Connects without ever blocking the supervisor. `EAGAIN`: the listener's backlog is full.
pub fn connect_host(socket: &OwnedFd, path: &[u8]) -> Result<()> {
    let (address, len) = sockaddr(path)?;
    let flags = rustix::fs::fcntl_getfl(socket).map_err(host)?;
    // The flag belongs to the open file description, which the guest shares: set for the moment of the call only.
    let blocking = !flags.contains(OFlags::NONBLOCK);
    if blocking {
        rustix::fs::fcntl_setfl(socket, flags | OFlags::NONBLOCK).map_err(host)?;
    }
    let call = || {
        // SAFETY: a valid address of that length.
        let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) };
        (result, io::Error::last_os_error())
    };
    // The guest may take the flag away again before the call.
    let (result, error) = interrupt::at_most(PATIENCE, call).ok_or(Errno::EAGAIN)?;
    if blocking {
        rustix::fs::fcntl_setfl(socket, flags).map_err(host)?;
    }
    match host(error) {
        _ if result == 0 => Ok(()),
        Errno::EINTR => Err(Errno::EAGAIN),
        errno => Err(errno),
    }
}

/// Family and name of a guest's address.
fn parse(bytes: &[u8]) -> Result<(u16, &[u8])> {
    let family = u16::from_ne_bytes(bytes.get(..2).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?);
    if bytes.len() > size_of::<libc::sockaddr_un>() && family == AF_UNIX {
        return Err(Errno::EINVAL);
    }
    Ok((family, &bytes[2..]))
}

/// A path name: up to the first NUL.
pub fn path_name(name: &[u8]) -> &[u8] {
    name.split(|&b| b == 0).next().unwrap_or_default()
}

/// `bind(2)`.
///
/// # Errors
/// `EINVAL`: another family, or it has a name. `EADDRINUSE`; those of making a file.
pub fn bind(ctx: &mut Ctx<'_>, socket: &OwnedFd, address: &[u8]) -> Result<Reply> {
    let (family, name) = parse(address)?;
    if family != AF_UNIX {
        return Err(Errno::EINVAL);
    }
    if let Some(socket) = datagram::datagram_of(ctx, socket) {
        return datagram::bind(ctx, &socket, name);
    }
    let names = &ctx.server.unix;
    let mut guest_name = name.to_vec();
    if name.is_empty() || name[0] == 0 {
        if name.is_empty() {
            // Autobind: NUL and five hexadecimal digits.
            let serial = names.serial.fetch_add(1, Ordering::Relaxed);
            guest_name = format!("\0{:05x}", serial & 0xfffff).into_bytes();
        }
        let path = names.abstract_path(ctx.net_ns(), &guest_name);
        match bind_host(socket, &path) {
            Err(Errno::EADDRINUSE) => {
                // An abstract name goes with its socket; the file does not. Nobody listens there: take it over.
                let probe = rustix::net::socket(
                    rustix::net::AddressFamily::UNIX,
                    rustix::net::sockopt::socket_type(socket).map_err(host)?,
                    None,
                )
                .map_err(host)?;
                if connect_host(&probe, path.as_os_str().as_bytes()) != Err(Errno::ECONNREFUSED) {
                    return Err(Errno::EADDRINUSE);
                }
                let _ = std::fs::remove_file(&path);
                bind_host(socket, &path)?;
            }
            other => other?,
        }
    } else {
        let path = path_name(name);
        let since = SystemTime::now();
        ctx.with_walk(libc::AT_FDCWD, path, |walk| {
            match namei::with_new_name(walk, path, S_IFSOCK | 0o777, 0, |dir, name, new| {
                dir.inode().bind_socket(name, new, socket)?;
                let made = dir.inode().lookup(name)?.getattr()?;
                names.note_file(&made, since)
            }) {
                Err(Errno::EEXIST) => Err(Errno::EADDRINUSE),
                other => other,
            }
        })?;
    }
    if let Some(address) = local_address(socket)? {
        names.note_bound(address, guest_name);
    }
    Ok(().into())
}

/// A socket file that this sandbox has made, for connecting to it.
///
/// # Errors
/// Those of a path walk, `EACCES`; `ECONNREFUSED` for what is no such file.
pub fn find_socket(ctx: &Ctx<'_>, path: &[u8]) -> Result<(OwnedFd, SocketFile)> {
    ctx.with_walk(libc::AT_FDCWD, path, |walk| {
        let found = namei::path_lookup(walk, path, LookupFlags::FOLLOW)?;
        let attr = found.inode().getattr()?;
        nomina_kernel::vfs::permission::inode_permission(
            &attr,
            walk.cred,
            nomina_kernel::vfs::permission::MAY_WRITE,
        )?;
        if attr.mode & nomina_kernel::vfs::S_IFMT != S_IFSOCK {
            return Err(Errno::ECONNREFUSED);
        }
        let file = socket_file(&attr);
        // Only what this sandbox has bound: a socket of the host's that a mount shows leads out of the sandbox.
        if !ctx.server.unix.files.lock().unwrap().contains_key(&file) {
            return Err(Errno::ECONNREFUSED);
        }
        Ok((found.inode().host_handle(false)?, file))
    })
}

/// What a socket of type `kind` is told that connects to a socket file.
///
/// # Errors
/// Those of `connect(2)`: `EPROTOTYPE` for another type, `ECONNREFUSED` when nobody is there.
pub fn probe(handle: &OwnedFd, kind: rustix::net::SocketType) -> Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, kind, None).map_err(host)?;
    connect_host(&socket, format!("/proc/self/fd/{}", handle.as_raw_fd()).as_bytes())
}

/// `connect(2)`.
///
/// # Errors
/// `ECONNREFUSED`, `EPROTOTYPE`, `EAFNOSUPPORT`, those of a path walk and of the host.
pub fn connect(ctx: &mut Ctx<'_>, socket: &OwnedFd, address: &[u8]) -> Result<Reply> {
    let (family, name) = parse(address)?;
    if let Some(socket) = datagram::datagram_of(ctx, socket) {
        return datagram::connect(ctx, &socket, family, name);
    }
    if family != AF_UNIX {
        return Err(if family == 0 { Errno::EINVAL } else { Errno::EAFNOSUPPORT });
    }
    let names = &ctx.server.unix;
    let handle;
    let target = if name.first() == Some(&0) {
        names.abstract_path(ctx.net_ns(), name).into_os_string().into_encoded_bytes()
    } else {
        let file;
        (handle, file) = find_socket(ctx, path_name(name))?;
        if ctx.server.datagrams.by_file(file).is_some() {
            return Err(Errno::EPROTOTYPE);
        }
        format!("/proc/self/fd/{}", handle.as_raw_fd()).into_bytes()
    };
    let cred = ctx.cred();
    let peer = Peer { host_pid: ctx.host_pid(), uid: cred.euid, gid: cred.egid };
    names.mark(socket, peer);
    match connect_host(socket, &target) {
        Ok(()) => Ok(().into()),
        Err(Errno::ENOENT) => Err(if name.first() == Some(&0) { Errno::ECONNREFUSED } else { Errno::ENOENT }),
        Err(Errno::EAGAIN) if !rustix::fs::fcntl_getfl(socket).map_err(host)?.contains(OFlags::NONBLOCK) => {
            // The backlog is full and the guest wants to wait. There is no descriptor that tells when it has room.
            std::thread::yield_now();
            Ok(Reply::Retry)
        }
        Err(errno) => Err(errno),
    }
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

/// The host's path of a socket's own or peer address; `None` when it has no name.
fn address_of(socket: &OwnedFd, call: NameCall) -> Result<(u16, Option<Vec<u8>>)> {
    let mut address = MaybeUninit::<libc::sockaddr_un>::zeroed();
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: buffer and length are valid and the kernel writes at most the length.
    if unsafe { call(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut len) } != 0 {
        return Err(host(io::Error::last_os_error()));
    }
    // SAFETY: zeroed before, so every byte is initialised.
    let address = unsafe { address.assume_init() };
    let name: Vec<u8> =
        address.sun_path.iter().take((len as usize).saturating_sub(2)).map(|&c| c as u8).collect();
    let name = path_name(&name).to_vec();
    Ok((address.sun_family, (!name.is_empty()).then_some(name)))
}

fn local_address(socket: &OwnedFd) -> Result<Option<Vec<u8>>> {
    Ok(address_of(socket, libc::getsockname)?.1)
}

/// What `getsockname(2)`, or `getpeername(2)`, tells.
///
/// # Errors
/// `ENOTCONN`
pub fn name(ctx: &Ctx<'_>, socket: &OwnedFd, own: bool) -> Result<Vec<u8>> {
    if let Some(socket) = datagram::datagram_of(ctx, socket) {
        let mut answer = AF_UNIX.to_ne_bytes().to_vec();
        answer.extend(if own { socket.name().unwrap_or_default() } else { socket.peer_name()? });
        return Ok(answer);
    }
    let call: NameCall = if own { libc::getsockname } else { libc::getpeername };
    let (family, address) = address_of(socket, call)?;
    let mut answer = family.to_ne_bytes().to_vec();
    if let Some(address) = address {
        answer.extend(ctx.server.unix.guest_name(&address));
    }
    Ok(answer)
}

/// `sendto(2)` and `sendmsg(2)` with an address: on connected sockets Linux ignores or refuses it; for a datagram the reply is
/// a tag to send with it.
///
/// # Errors
/// `EISCONN`, `EOPNOTSUPP`; for a datagram those of [`datagram::send_to`].
pub fn sendto(ctx: &mut Ctx<'_>, socket: &OwnedFd) -> Result<Reply> {
    if let Some(socket) = datagram::datagram_of(ctx, socket) {
        let address = ctx.bytes(4)?;
        let (family, name) = parse(&address)?;
        return datagram::send_to(ctx, &socket, family, name);
    }
    match rustix::net::sockopt::socket_type(socket).map_err(host)? {
        rustix::net::SocketType::STREAM => match address_of(socket, libc::getpeername) {
            Ok(_) => Err(Errno::EISCONN),
            Err(_) => Err(Errno::EOPNOTSUPP),
        },
        // unix_seqpacket_sendmsg: "if (msg->msg_namelen) msg->msg_namelen = 0".
        _ => Ok(().into()),
    }
}

const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;

/// Options that are a number: that mean nothing for the sockets there are yet, and that programs set by habit; and
/// `SO_PASSCRED` and time stamps, whose effect on `recvmsg(2)` the shim translates.
fn is_habit(level: i32, option: i32) -> bool {
    level == libc::SOL_SOCKET
        && matches!(
            option,
            libc::SO_REUSEADDR
                | libc::SO_REUSEPORT
                | libc::SO_KEEPALIVE
                | libc::SO_BROADCAST
                | libc::SO_OOBINLINE
                | libc::SO_PRIORITY
                | libc::SO_PASSCRED
                | libc::SO_TIMESTAMP
                | libc::SO_TIMESTAMPNS
                | SO_TIMESTAMP_NEW
                | SO_TIMESTAMPNS_NEW
        )
}

/// `setsockopt(2)` of what the filter does not allow natively.
///
/// # Errors
/// `EPERM` for sizes of buffers beyond the host's limits, which only its root sets; `ENOPROTOOPT` and `EOPNOTSUPP` for options that
/// are not there; those of the host.
pub fn set_option(ctx: &mut Ctx<'_>, socket: &OwnedFd) -> Result<Reply> {
    let (level, option) = (ctx.int(1), ctx.int(2));
    let datagram = datagram::datagram_of(ctx, socket);
    if let Some(datagram) = datagram.filter(|_| (level, option) == (libc::SOL_SOCKET, libc::SO_PASSCRED)) {
        let value = ctx.bytes(3)?;
        datagram.pass_credentials(value.get(..4).ok_or(Errno::EINVAL)?.iter().any(|&byte| byte != 0));
        return Ok(().into());
    }
    if level == libc::SOL_SOCKET && matches!(option, libc::SO_RCVBUFFORCE | libc::SO_SNDBUFFORCE) {
        return Err(Errno::EPERM);
    }
    if !is_habit(level, option) {
        return Err(if level == libc::SOL_SOCKET { Errno::ENOPROTOOPT } else { Errno::EOPNOTSUPP });
    }
    let value = ctx.bytes(3)?;
    let value = i32::from_ne_bytes(value.get(..4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?);
    // SAFETY: the option takes an int, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if result == 0 { Ok(().into()) } else { Err(host(io::Error::last_os_error())) }
}

/// Options by which the host describes the socket itself.
const OF_THE_HANDLE: [i32; 5] =
    [libc::SO_TYPE, libc::SO_ERROR, libc::SO_ACCEPTCONN, libc::SO_PROTOCOL, libc::SO_DOMAIN];

fn get_habit(ctx: &mut Ctx<'_>, socket: &OwnedFd) -> Result<Reply> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option gives an int; the length says how much room there is.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), ctx.int(1), ctx.int(2), (&raw mut value).cast(), &raw mut len)
    };
    if result != 0 {
        return Err(host(io::Error::last_os_error()));
    }
    ctx.out[0] = 4.min(ctx.args[4]);
    ctx.write(3, &value.to_ne_bytes())?;
    Ok(().into())
}

/// `SO_PEERPIDFD`.
const SO_PEERPIDFD: i32 = 77;

/// `getsockopt(2)` of what the filter does not allow natively: the identity of the peer (`SO_PEERCRED`, `SO_PEERPIDFD`), and numbers.
///
/// # Errors
/// `ENOPROTOOPT`; those of the host.
pub fn get_option(ctx: &mut Ctx<'_>, socket: &OwnedFd) -> Result<Reply> {
    if let Some(answer) = datagram::datagram_of(ctx, socket).and_then(|socket| datagram::option(ctx, &socket))
    {
        ctx.out[0] = (answer.len() as u64).min(ctx.args[4]);
        ctx.write(3, &answer)?;
        return Ok(().into());
    }
    let of_the_handle = ctx.int(1) == libc::SOL_SOCKET && OF_THE_HANDLE.contains(&ctx.int(2));
    if is_habit(ctx.int(1), ctx.int(2)) || of_the_handle {
        return get_habit(ctx, socket);
    }
    let wants_pidfd = (ctx.int(1), ctx.int(2)) == (libc::SOL_SOCKET, SO_PEERPIDFD);
    if !wants_pidfd && (ctx.int(1), ctx.int(2)) != (libc::SOL_SOCKET, libc::SO_PEERCRED) {
        return Err(Errno::ENOPROTOOPT);
    }
    let marked = match address_of(socket, libc::getpeername) {
        Ok((_, Some(address))) => ctx.server.unix.marked(&address),
        _ => None,
    };
    let peer = match marked {
        Some(peer) => peer,
        None => {
            let ucred = rustix::net::sockopt::socket_peercred(socket).map_err(host)?;
            let host_pid = ucred.pid.as_raw_nonzero().get();
            let (uid, gid) = ctx.server.ids_of_host_pid(host_pid).unwrap_or((65534, 65534));
            Peer { host_pid, uid, gid }
        }
    };
    if wants_pidfd {
        let peer = ctx.server.guest_of_host_pid(peer.host_pid).ok_or(Errno::ESRCH)?;
        return match super::super::pidfd::open(ctx.server, peer.task, 0)? {
            Some(fd) => Ok(Reply::Fd { fd, cloexec: true }),
            None => Ok(Reply::Retry),
        };
    }
    let pid = ctx.server.vnr_of_host(ctx.thread, peer.host_pid).unwrap_or(0);
    let mut answer = [0; 12];
    answer[..4].copy_from_slice(&pid.to_ne_bytes());
    answer[4..8].copy_from_slice(&peer.uid.to_ne_bytes());
    answer[8..].copy_from_slice(&peer.gid.to_ne_bytes());
    ctx.out[0] = 12;
    ctx.write(3, &answer)?;
    Ok(().into())
}
