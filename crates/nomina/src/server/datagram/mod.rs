//! `AF_UNIX` datagram sockets (`unix(7)`).
//!
//! In Linux every message of such a socket may name its destination, which a filter cannot see: a host socket would reach
//! every host socket that listens. So a guest's is one end of a pair of `SOCK_SEQPACKET` sockets, which keeps the
//! boundaries of messages, ignores addresses and reaches nobody but the other end, which is ours. What guests send, the
//! relay ([`relay`]) takes there and sends on at the end of the receiver. Reading, writing, waiting and the limits of buffers
//! stay native.
//!
//! Names travel beside the data as *tags* ([`tag`]): descriptors that the shim adds to a message it sends to a name, and takes
//! off a message whose sender's name or credentials the guest asked for.
//!
//! Where ours differs from Linux: a `send(2)` or `write(2)` without an address on a socket that never had a peer succeeds, and
//! the message is lost; when the peer is gone and more than one thread may send, sending fails with `EPIPE` ([`orphan`]). What
//! `sendto(2)` and `sendmsg(2)` give for an address is exact.
//!
//! Locks, outermost first: a socket's outbox, which only the relay takes; the table; a socket's state, never two at once.

pub mod orphan;
pub mod relay;
pub mod tag;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use nomina_fs::wait::descriptor_share;
use nomina_gate::sock;
use nomina_kernel::errno::{Errno, Result};
use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::Server;
use super::lock::Mutex;
use super::request::host;
use tag::Tags;

/// Device, inode number and time of birth of a socket file.
pub type SocketFile = (u64, u64, (i64, u32));

/// A guest's datagram socket.
pub struct Datagram {
    /// Inode number of the guest's end.
    pub ino: u64,
    /// Our end.
    ours: OwnedFd,
    state: Mutex<State>,
    outbox: Mutex<relay::Outbox>,
    /// Shows the same destination wherever it was passed.
    destination: Mutex<Option<Arc<OwnedFd>>>,
}

/// Who a socket pair's other end belongs to, as `SO_PEERCRED` shows it.
#[derive(Clone, Copy)]
pub struct Maker {
    /// Host pid.
    pub host_pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

#[derive(Default)]
struct State {
    /// What the guest calls it: the bytes behind `sun_family`.
    name: Option<Vec<u8>>,
    peer: Option<Weak<Datagram>>,
    /// Both ends of a `socketpair(2)` have one maker.
    maker: Option<Maker>,
    /// `SO_PASSCRED`.
    pass_credentials: bool,
    /// Its peer is gone, and its writes report themselves.
    orphan: Option<orphan::Orphan>,
}

#[derive(Default)]
struct Table {
    /// By inode number of the guest's end.
    sockets: HashMap<u64, Arc<Datagram>>,
    /// By network namespace and abstract name.
    names: HashMap<(u64, Vec<u8>), Weak<Datagram>>,
    /// By socket file.
    files: HashMap<SocketFile, Weak<Datagram>>,
    /// Who waits for room at the socket with this number.
    stalled: HashMap<u64, Vec<Weak<Datagram>>>,
    /// The relay runs.
    relaying: bool,
}

impl Table {
    /// Forgets names of sockets that are gone.
    fn sweep(&mut self) {
        self.names.retain(|_, socket| socket.strong_count() > 0);
        self.files.retain(|_, socket| socket.strong_count() > 0);
    }
}

/// All datagram sockets of a sandbox.
pub struct Datagrams {
    table: Mutex<Table>,
    tags: Tags,
    /// Watches our ends.
    epoll: OwnedFd,
    /// Descriptors in messages that wait for room.
    held: AtomicUsize,
}

impl Datagrams {
    /// None yet.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new() -> io::Result<Datagrams> {
        Ok(Datagrams {
            table: Mutex::default(),
            tags: Tags::default(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            held: AtomicUsize::new(0),
        })
    }

    /// Makes one; the second value is the guest's end.
    ///
    /// # Errors
    /// Those of `socketpair(2)`; `ENFILE` when there are too many.
    pub fn create(&self, server: &Arc<Server>, flags: SocketFlags) -> Result<(Arc<Datagram>, OwnedFd)> {
        if self.table.lock().unwrap().sockets.len() >= descriptor_share() {
            return Err(Errno::ENFILE);
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(host)?;
        if flags.contains(SocketFlags::NONBLOCK) {
            let now = rustix::fs::fcntl_getfl(&theirs).map_err(host)?;
            rustix::fs::fcntl_setfl(&theirs, now | rustix::fs::OFlags::NONBLOCK).map_err(host)?;
        }
        sock::pass_credentials(ours.as_fd()).map_err(host)?;
        let ino = rustix::fs::fstat(&theirs).map_err(host)?.st_ino;
        let socket = Arc::new(Datagram {
            ino,
            ours,
            state: Mutex::default(),
            outbox: Mutex::default(),
            destination: Mutex::default(),
        });
        {
            let mut table = self.table.lock().unwrap();
            if !table.relaying {
                relay::start(server).map_err(host)?;
                table.relaying = true;
            }
            table.sockets.insert(ino, socket.clone());
        }
        let events =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let watched = epoll::add(&self.epoll, &socket.ours, epoll::EventData::new_u64(ino), events);
        if let Err(error) = watched {
            self.table.lock().unwrap().sockets.remove(&ino);
            return Err(host(error));
        }
        Ok((socket, theirs))
    }

    /// The socket with this inode number.
    pub fn by_ino(&self, ino: u64) -> Option<Arc<Datagram>> {
        self.table.lock().unwrap().sockets.get(&ino).cloned()
    }

    /// The socket with an abstract name.
    pub fn by_name(&self, net_ns: u64, name: &[u8]) -> Option<Arc<Datagram>> {
        self.table.lock().unwrap().names.get(&(net_ns, name.to_vec()))?.upgrade()
    }

    /// The socket that was bound to a file.
    pub fn by_file(&self, file: SocketFile) -> Option<Arc<Datagram>> {
        self.table.lock().unwrap().files.get(&file)?.upgrade()
    }

    /// Gives a socket an abstract name. Without a name it gets one of five hexadecimal digits.
    ///
    /// # Errors
    /// `EINVAL` when it has a name, `EADDRINUSE` when another socket has this one, `ENOSPC` when there is none left.
    pub fn bind_abstract(&self, socket: &Arc<Datagram>, net_ns: u64, name: &[u8]) -> Result<()> {
        /// Names that autobind can give.
        const AUTOBIND: u32 = 0x10_0000;
        let mut table = self.table.lock().unwrap();
        let mut state = socket.state.lock().unwrap();
        if state.name.is_some() {
            return if name.is_empty() { Ok(()) } else { Err(Errno::EINVAL) };
        }
        table.sweep();
        let free = |name: &Vec<u8>| !table.names.contains_key(&(net_ns, name.clone()));
        let name = match name {
            [] => (0..AUTOBIND)
                .map(|number| format!("\0{number:05x}").into_bytes())
                .find(free)
                .ok_or(Errno::ENOSPC)?,
            name => Some(name.to_vec()).filter(free).ok_or(Errno::EADDRINUSE)?,
        };
        state.name = Some(name.clone());
        table.names.insert((net_ns, name), Arc::downgrade(socket));
        Ok(())
    }

    /// Says that `file` was made for a socket, which calls itself `name` now.
    ///
    /// # Errors
    /// `EINVAL` when it has a name.
    pub fn bind_file(&self, socket: &Arc<Datagram>, file: SocketFile, name: &[u8]) -> Result<()> {
        let mut table = self.table.lock().unwrap();
        let mut state = socket.state.lock().unwrap();
        if state.name.is_some() {
            return Err(Errno::EINVAL);
        }
        table.sweep();
        state.name = Some(name.to_vec());
        table.files.insert(file, Arc::downgrade(socket));
        Ok(())
    }

    /// A tag that makes a message go to `socket`.
    ///
    /// # Errors
    /// Those of `memfd_create(2)`.
    pub fn destination_tag(&self, socket: &Datagram) -> Result<Arc<OwnedFd>> {
        let mut destination = socket.destination.lock().unwrap();
        if let Some(tag) = &*destination {
            return Ok(tag.clone());
        }
        let tag = Arc::new(self.tags.destination(socket.ino).map_err(host)?);
        *destination = Some(tag.clone());
        Ok(tag)
    }

    /// What a tag that came with a message says about the sender.
    pub fn source_of(&self, tag: &OwnedFd) -> Option<tag::Source> {
        self.tags.source_of(tag)
    }
}

impl Datagram {
    /// What the guest calls it.
    pub fn name(&self) -> Option<Vec<u8>> {
        self.state.lock().unwrap().name.clone()
    }

    /// What its peer is called.
    ///
    /// # Errors
    /// `ENOTCONN` without a peer.
    pub fn peer_name(&self) -> Result<Vec<u8>> {
        let peer = self.peer().ok_or(Errno::ENOTCONN)?;
        Ok(peer.name().unwrap_or_default())
    }

    fn peer(&self) -> Option<Arc<Datagram>> {
        self.state.lock().unwrap().peer.as_ref()?.upgrade()
    }

    /// Whether messages of `self` may go to `to` (`unix_may_send`): it must have no peer but `self`.
    pub fn may_send(&self, to: &Datagram) -> bool {
        to.peer().is_none_or(|peer| peer.ino == self.ino)
    }

    /// Connects, or, without a peer, takes the connection back.
    pub fn connect(&self, peer: Option<&Arc<Datagram>>) {
        let mut state = self.state.lock().unwrap();
        state.peer = peer.map(Arc::downgrade);
        if state.orphan.take().is_some() {
            self.report_no_more();
        }
    }

    /// Says who made the pair.
    pub fn set_maker(&self, maker: Maker) {
        self.state.lock().unwrap().maker = Some(maker);
    }

    /// Who made the pair, if it is one.
    pub fn maker(&self) -> Option<Maker> {
        self.state.lock().unwrap().maker
    }

    /// `SO_PASSCRED`.
    pub fn passes_credentials(&self) -> bool {
        self.state.lock().unwrap().pass_credentials
    }

    /// Sets `SO_PASSCRED`.
    pub fn pass_credentials(&self, pass: bool) {
        self.state.lock().unwrap().pass_credentials = pass;
    }
}
