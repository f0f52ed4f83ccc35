//! `/dev/fuse`: the connection between a mount and its server (`fs/fuse/dev.c`).
//!
//! The server's descriptor is one end of a `SOCK_SEQPACKET` socket pair, so that its `read(2)`, `writev(2)` and `poll(2)`
//! are native and keep the bounds of messages. The other end is here, with one thread for all connections of a sandbox.
//! Nothing is ever waited for: requests that do not fit are queued, answers are taken when they come.
//!
//! Locks: a connection's `state` is a leaf. What an answer sets off is done without it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nomina_kernel::{Errno, Result};
use rustix::event::{EventfdFlags, epoll};
use rustix::fs::inotify;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::abi::{self, Caller, MAX_MESSAGE, op};
use super::inode::{FuseInode, FuseSb};
use super::replay::Replays;
use crate::proc::TaskKey;

/// What the file systems ask of the sandbox.
pub trait FuseHost: Send + Sync {
    /// Ids (of the first user namespace) and number of a task.
    fn caller(&self, task: Option<TaskKey>) -> Caller;
    /// An empty file without a name, for the contents of a file.
    ///
    /// # Errors
    /// Those of `open(2)`.
    fn scratch_file(&self) -> io::Result<OwnedFd>;
    /// No guest has the file with this device and inode number open any longer.
    fn closed(&self, key: (u64, u64));
}

/// All FUSE file systems of a sandbox.
pub struct Fuse(Arc<Hub>);

/// What connections and their thread share.
pub(super) struct Hub {
    pub host: Arc<dyn FuseHost>,
    pub replays: Replays,
    pub inotify: OwnedFd,
    epoll: OwnedFd,
    stop: OwnedFd,
    next_id: AtomicU64,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Files whose contents guests hold open, by their watch.
    open_files: Mutex<OpenFiles>,
}

type OpenFiles = HashMap<i32, (Arc<FuseInode>, Arc<FuseSb>)>;

/// Edge-triggered: a socket that becomes writable tells so by itself.
const EVENTS: epoll::EventFlags =
    epoll::EventFlags::IN.union(epoll::EventFlags::OUT).union(epoll::EventFlags::ET);
/// How many messages of one server are taken before others have their turn.
const TURN: usize = 256;

const STOP: u64 = 0;
const INOTIFY: u64 = 1;
const FIRST_CONNECTION: u64 = 2;

impl Fuse {
    /// None yet; no thread either.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`, `eventfd(2)` and `inotify_init1(2)`.
    pub fn new(host: Arc<dyn FuseHost>) -> io::Result<Fuse> {
        let hub = Hub {
            host,
            replays: Replays::default(),
            inotify: inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            stop: rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            next_id: AtomicU64::new(0),
            connections: Mutex::default(),
            open_files: Mutex::default(),
        };
        epoll::add(&hub.epoll, &hub.stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN)?;
        epoll::add(&hub.epoll, &hub.inotify, epoll::EventData::new_u64(INOTIFY), epoll::EventFlags::IN)?;
        Ok(Fuse(Arc::new(hub)))
    }

    /// The logs of system calls that wait.
    pub fn replays(&self) -> &Replays {
        &self.0.replays
    }

    /// Opens `/dev/fuse`: a connection that is not mounted yet. Gives the server's descriptor.
    ///
    /// # Errors
    /// Those of `socketpair(2)`, `EAGAIN` when there can be no thread, `ENFILE` when there are too many.
    pub fn open(&self, nonblock: bool) -> io::Result<OwnedFd> {
        if self.0.connections().len() >= crate::wait::descriptor_share() {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        let mut kind = SocketFlags::CLOEXEC;
        kind.set(SocketFlags::NONBLOCK, nonblock);
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, kind, None)?;
        for end in [&ours, &theirs] {
            // The most an ordinary user may have is enough for the longest message (`net.core.wmem_max`).
            rustix::net::sockopt::set_socket_send_buffer_size(end, 4 * MAX_MESSAGE)?;
        }
        let hub = &self.0;
        let serial = hub.next_id.fetch_add(1, Ordering::Relaxed);
        if serial == 0 {
            let hub = hub.clone();
            let thread = std::thread::Builder::new().name("nomina-fuse".into()).stack_size(512 * 1024);
            thread.spawn(move || run(&hub))?;
        }
        let id = FIRST_CONNECTION + serial;
        let connection = Arc::new(Connection {
            id,
            hub: Arc::downgrade(hub),
            server_ino: rustix::fs::fstat(&theirs)?.st_ino,
            end: ours,
            state: Mutex::default(),
            sb: Mutex::default(),
        });
        hub.connections().insert(id, connection.clone());
        if let Err(error) = epoll::add(&hub.epoll, &connection.end, epoll::EventData::new_u64(id), EVENTS) {
            hub.connections().remove(&id);
            return Err(error.into());
        }
        Ok(theirs)
    }

    /// The connection whose server's end is `fd`. `EINVAL` where it is something else, as `mount(2)` has it for `fd=`.
    ///
    /// # Errors
    /// `EINVAL`.
    pub(super) fn connection_of(&self, fd: &OwnedFd) -> Result<Arc<Connection>> {
        let stat = rustix::fs::fstat(fd).map_err(|_| Errno::EINVAL)?;
        let is_socket = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Socket;
        let connections = self.0.connections();
        let found = connections.values().find(|c| is_socket && c.server_ino == stat.st_ino);
        found.cloned().ok_or(Errno::EINVAL)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // A counter of 1 always has room.
        let _ = rustix::io::write(&self.0.stop, &1u64.to_ne_bytes());
    }
}

impl Hub {
    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_files(&self) -> MutexGuard<'_, OpenFiles> {
        self.open_files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a file, and the file system, while guests have it open and until it is written back.
    pub fn keep(&self, watch: i32, inode: Arc<FuseInode>, sb: Arc<FuseSb>) {
        let old = self.open_files().insert(watch, (inode, sb));
        drop(old);
    }

    /// Lets it go.
    pub fn release(&self, watch: i32) {
        let old = self.open_files().remove(&watch);
        drop(old);
    }
}

/// The thread: answers, room for requests, closed files.
fn run(hub: &Arc<Hub>) {
    let mut buffer = vec![0; MAX_MESSAGE + 1];
    loop {
        let mut events = Vec::with_capacity(32);
        match epoll::wait(&hub.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
        }
        for event in events {
            match event.data.u64() {
                STOP => return hub.connections().clear(),
                INOTIFY => closed_files(hub),
                id => {
                    let connection = hub.connections().get(&id).cloned();
                    if let Some(connection) = connection {
                        // A panic is our bug, not the server's to exploit: its connection ends, the others live.
                        let served = catch_unwind(AssertUnwindSafe(|| {
                            if !connection.receive(&mut buffer) {
                                // More has come: tell again, after the others.
                                let id = epoll::EventData::new_u64(id);
                                let _ = epoll::modify(&hub.epoll, &connection.end, id, EVENTS);
                            }
                            connection.flush();
                        }));
                        if served.is_err() {
                            connection.abort();
                        }
                    }
                }
            }
        }
    }
}

fn closed_files(hub: &Arc<Hub>) {
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(hub.inotify.as_fd(), &mut buffer);
    let mut closed = Vec::new();
    while let Ok(event) = reader.next() {
        if !closed.contains(&event.wd()) {
            closed.push(event.wd());
        }
    }
    for watch in closed {
        let file = hub.open_files().get(&watch).cloned();
        if let Some((inode, _sb)) = file {
            inode.closed();
        }
    }
}

type Then = Box<dyn FnOnce(Result<&[u8]>) + Send>;

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not mounted.
    #[default]
    New,
    /// INIT has been sent.
    Init,
    /// Serves.
    Ready,
    /// The server or the mount is gone.
    Dead,
}

#[derive(Default)]
struct State {
    phase: Phase,
    next_unique: u64,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    pending: HashMap<u64, Then>,
    max_write: u32,
    /// The mount is gone; what is under way is finished first.
    closing: bool,
}

/// Most that waits for a server to read it, in bytes.
const QUEUE_BYTES: usize = 16 << 20;

/// One connection: `struct fuse_conn`.
pub(super) struct Connection {
    pub id: u64,
    hub: Weak<Hub>,
    end: OwnedFd,
    server_ino: u64,
    state: Mutex<State>,
    sb: Mutex<Weak<FuseSb>>,
}

impl Connection {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sandbox's FUSE. `ENOTCONN` when it is being taken down.
    pub fn hub(&self) -> Result<Arc<Hub>> {
        self.hub.upgrade().ok_or(Errno::ENOTCONN)
    }

    /// Takes the connection into use for a mount. `EINVAL` where it is already.
    pub fn start(self: &Arc<Self>, sb: &Arc<FuseSb>) -> Result<()> {
        {
            let mut state = self.state();
            if state.phase != Phase::New {
                return Err(Errno::EINVAL);
            }
            state.phase = Phase::Init;
        }
        *self.sb.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(sb);
        let body =
            abi::Body::default().u32(abi::MAJOR).u32(abi::MINOR).u32(abi::MAX_DATA).u32(abi::INIT_FLAGS);
        let me = Arc::downgrade(self);
        let then: Then = Box::new(move |result| {
            let Some(me) = me.upgrade() else { return };
            match result.and_then(abi::init_out) {
                Ok(init) if init.major == abi::MAJOR => {
                    let mut state = me.state();
                    state.max_write = init.max_write;
                    if state.phase == Phase::Init {
                        state.phase = Phase::Ready;
                    }
                }
                _ => me.abort(),
            }
        });
        self.submit_with(op::INIT, 0, Caller::default(), &body.0, then);
        Ok(())
    }

    /// Most bytes in one WRITE.
    pub fn max_write(&self) -> u32 {
        self.state().max_write.clamp(4096, abi::MAX_DATA)
    }

    /// Sends a request, and does `then` with what follows the header of the answer, on the connection's thread. `then` gets
    /// `ENOTCONN` when there will be no answer.
    pub fn submit(
        self: &Arc<Self>,
        opcode: u32,
        nodeid: u64,
        caller: Caller,
        body: &[u8],
        then: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        self.submit_with(opcode, nodeid, caller, body, Box::new(then));
    }

    fn submit_with(&self, opcode: u32, nodeid: u64, caller: Caller, body: &[u8], then: Then) {
        let refused = {
            let mut state = self.state();
            if matches!(state.phase, Phase::Dead | Phase::New) {
                Some((then, Errno::ENOTCONN))
            } else if state.queued > QUEUE_BYTES {
                Some((then, Errno::ENOMEM))
            } else {
                // Even, as Linux has them; 0 stands for notifications.
                state.next_unique += 2;
                let unique = state.next_unique;
                state.pending.insert(unique, then);
                self.enqueue(&mut state, abi::request(unique, opcode, nodeid, caller, body));
                None
            }
        };
        if let Some((then, error)) = refused {
            then(Err(error));
        }
    }

    /// Sends a request that has no answer, where there is room.
    pub fn tell(&self, opcode: u32, nodeid: u64, body: &[u8]) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Init | Phase::Ready) && state.queued <= QUEUE_BYTES {
            state.next_unique += 2;
            let unique = state.next_unique;
            self.enqueue(&mut state, abi::request(unique, opcode, nodeid, Caller::default(), body));
        }
    }

    fn enqueue(&self, state: &mut State, message: Vec<u8>) {
        state.queued += message.len();
        state.queue.push_back(message);
        self.drain(state);
    }

    /// Sends what there is room for. Before the server has answered INIT it gets nothing else.
    fn drain(&self, state: &mut State) {
        while let Some(message) = state.queue.front() {
            let is_init = message.get(4..8) == Some(&op::INIT.to_ne_bytes()[..]);
            if state.phase != Phase::Ready && !is_init {
                return;
            }
            match rustix::net::send(&self.end, message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
                // The receiver is told by the end of file.
                Err(_) => {}
            }
            if let Some(message) = state.queue.pop_front() {
                state.queued -= message.len();
            }
        }
    }

    fn flush(&self) {
        self.drain(&mut self.state());
        self.close_if_idle();
    }

    /// Takes the messages that have come; false where there may be more.
    fn receive(self: &Arc<Self>, buffer: &mut [u8]) -> bool {
        for _ in 0..TURN {
            match rustix::net::recv(&self.end, &mut *buffer, RecvFlags::DONTWAIT) {
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Ok((0, _)) | Err(_) => {
                    self.abort();
                    return true;
                }
                Ok((len, _)) => self.message(&buffer[..len]),
            }
        }
        false
    }

    /// One message of the server. What is no answer, or an answer to nothing, is passed over (`EINVAL`, `ENOENT` for the
    /// server in Linux, which here has written it already).
    fn message(self: &Arc<Self>, message: &[u8]) {
        let Some(answer) = abi::answer(message) else { return };
        if answer.unique == 0 {
            return self.notification(answer.error, answer.body);
        }
        let Some(then) = self.state().pending.remove(&answer.unique) else { return };
        then(if answer.error == 0 { Ok(answer.body) } else { Err(Errno(-answer.error)) });
    }

    fn notification(&self, kind: i32, body: &[u8]) {
        let sb = self.sb.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let mut reader = abi::Reader(body);
        if let (Some(sb), Some(nodeid)) = (sb, reader.u64()) {
            match kind {
                abi::NOTIFY_INVAL_INODE => sb.invalidate(nodeid, None),
                abi::NOTIFY_INVAL_ENTRY => {
                    let len = reader.u32().unwrap_or(0) as usize;
                    let name = reader.u32().and_then(|_| reader.bytes(len)).unwrap_or_default();
                    sb.invalidate(nodeid, Some(name));
                }
                _ => {}
            }
        }
    }

    /// The end of the connection: whoever waits learns it (`fuse_abort_conn`).
    pub fn abort(&self) {
        let (pending, _queue) = {
            let mut state = self.state();
            state.phase = Phase::Dead;
            state.queued = 0;
            (std::mem::take(&mut state.pending), std::mem::take(&mut state.queue))
        };
        for (_, then) in pending {
            then(Err(Errno::ENOTCONN));
        }
        // Fails only where the other end is gone.
        let _ = rustix::net::shutdown(&self.end, rustix::net::Shutdown::Both);
        if let Some(hub) = self.hub.upgrade() {
            let me = hub.connections().remove(&self.id);
            drop(me);
        }
    }

    /// The mount is gone: what is under way is finished, then the server is told.
    pub fn close(&self) {
        self.state().closing = true;
        self.close_if_idle();
    }

    fn close_if_idle(&self) {
        let idle = {
            let mut state = self.state();
            let idle = state.closing
                && (state.phase != Phase::Ready || (state.pending.is_empty() && state.queue.is_empty()));
            if idle && state.phase == Phase::Ready {
                state.next_unique += 2;
                let unique = state.next_unique;
                self.enqueue(&mut state, abi::request(unique, op::DESTROY, 0, Caller::default(), &[]));
            }
            state.closing &= !idle;
            idle
        };
        if idle {
            self.abort();
        }
    }
}
