//! The packet side of a sandbox's network: what connects the model's stack ([`nomina_kernel::net::Stack`]) with programs.
//!
//! Programs hold one end of a pair of `SOCK_SEQPACKET` sockets, which keeps the bounds of packets: reading, writing and waiting are
//! native. The other ends are here, watched by one thread, the *engine* ([`engine`]), which gives what programs write to the stack, runs
//! the stack and its timers, and sends on what the stack hands out. Whoever else leaves work in the stack wakes it
//! ([`nomina_kernel::net::NetStack::set_waker`]).
//!
//! Locks, outermost first: the stack; the table of ends; an end.

pub mod engine;
pub mod options;
pub mod ring;
pub mod socket;
pub mod tap;
pub mod tun;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nomina_fs::wait::descriptor_share;
use nomina_kernel::errno::Result;
use nomina_kernel::net::NetStack;
use nomina_kernel::net::core::softirq::Out;
use nomina_kernel::net::filter::{Filter, Instruction};
use rustix::event::{EventfdFlags, epoll};

use super::lock::Mutex;
use socket::SocketEnd;
use tun::TunEnd;

/// The network of a sandbox.
pub struct Network(Arc<Shared>);

/// What the engine shares with those who serve requests.
struct Shared {
    stack: OnceLock<Arc<NetStack>>,
    epoll: OwnedFd,
    wake: OwnedFd,
    started: AtomicBool,
    /// By inode number of the guest's end.
    ends: Mutex<HashMap<u64, Arc<TunEnd>>>,
    /// What has come in for sockets of TCP and UDP.
    incoming: Mutex<Vec<Out>>,
    /// Who takes it.
    transport: OnceLock<Transport>,
    /// Likewise, of sockets.
    sockets: Mutex<HashMap<u64, Arc<SocketEnd>>>,
    clock: Instant,
}

/// Takes packets and errors for sockets of TCP and UDP, without the stack's lock held.
pub type Transport = Box<dyn Fn(&Arc<NetStack>, Out) + Send + Sync>;

impl Network {
    /// Nothing yet, and no thread.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)` and `eventfd(2)`.
    pub fn new() -> io::Result<Network> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(engine::WAKE), epoll::EventFlags::IN)?;
        Ok(Network(Arc::new(Shared {
            stack: OnceLock::new(),
            epoll,
            wake,
            started: AtomicBool::new(false),
            ends: Mutex::default(),
            incoming: Mutex::default(),
            transport: OnceLock::new(),
            sockets: Mutex::default(),
            clock: Instant::now(),
        })))
    }

    /// Says which stack it is, once.
    pub fn attach(&self, stack: &Arc<NetStack>) {
        if self.0.stack.set(stack.clone()).is_err() {
            return;
        }
        // Identifications and delays are to differ between sandboxes; nothing depends on their being secret.
        let seed = u64::from(std::process::id()) << 32 ^ self.0.clock.elapsed().as_nanos() as u64;
        stack.lock().seed(seed ^ std::ptr::from_ref(self) as u64);
        let shared = Arc::downgrade(&self.0);
        stack.set_waker(Box::new(move || {
            if let Some(shared) = shared.upgrade() {
                engine::wake(&shared);
            }
        }));
    }

    /// Says who keeps the sockets of TCP and UDP, once.
    pub fn set_transport(&self, transport: Transport) {
        // The first one stays.
        let _ = self.0.transport.set(transport);
    }

    /// The stack, once it is known.
    pub fn stack(&self) -> Option<&Arc<NetStack>> {
        self.0.stack.get()
    }

    /// The end of which `fd` is a guest's.
    fn end_of(&self, fd: &OwnedFd) -> Option<Arc<TunEnd>> {
        let ends = self.0.ends.lock().unwrap();
        if ends.is_empty() {
            return None;
        }
        let stat = rustix::fs::fstat(fd).ok()?;
        // Files of the guest's own could have any number.
        if stat.st_mode & libc::S_IFMT != libc::S_IFSOCK {
            return None;
        }
        ends.get(&stat.st_ino).cloned()
    }

    /// The packet, raw or ping socket with this inode number.
    pub fn socket(&self, ino: u64) -> Option<Arc<SocketEnd>> {
        self.0.sockets.lock().unwrap().get(&ino).cloned()
    }

    fn has_room(&self) -> bool {
        let sockets = self.0.sockets.lock().unwrap().len();
        self.0.ends.lock().unwrap().len() + sockets < descriptor_share()
    }
}

/// A program of classic BPF as it stands in memory.
///
/// # Errors
/// `EINVAL`: not one that can be run.
pub fn parse_filter(bytes: &[u8]) -> Result<Filter> {
    let instructions = bytes.chunks_exact(Instruction::SIZE);
    let parse = |bytes: &[u8]| Instruction::from_bytes(bytes.try_into().unwrap_or_default());
    Filter::new(&instructions.map(parse).collect::<Vec<_>>())
}

impl Drop for Network {
    fn drop(&mut self) {
        // A counter of 1 always has room; the engine finds that we are gone.
        let _ = rustix::io::write(&self.0.wake, &1u64.to_ne_bytes());
    }
}
