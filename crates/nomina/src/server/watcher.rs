//! The watcher: a thread that spins on the channels of guests that ask often, so that their requests cost no wake-up.
//!
//! A worker that sees a burst of requests from one thread ([`Watcher::pace`]) hands the thread's slot to the watcher, which
//! answers requests as they appear in shared memory and goes back to sleep when none has come for a while. It spins
//! only where a processor is idle: when the host takes the processor away from it, it stays asleep for some time.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use nomina_abi as abi;

use super::Server;
use super::guest::{GuestThread, Image};
use super::lock::Mutex;
use super::worker::serve;

/// How long a channel is watched after its last request.
const LINGER: Duration = Duration::from_micros(60);
/// Requests that follow each other within this time are a burst …
const BURST_GAP_NS: u64 = 50_000;
/// … when there are so many of them.
const BURST: u32 = 4;
/// How long nothing is watched after the host took the processor away: at first, and at most when that goes on.
const COOL_DOWN_NS: u64 = 1_000_000;
const LONGEST_COOL_DOWN_NS: u64 = 1_000_000_000;
/// Requests served between two interruptions that make watching worth while.
const ENOUGH: u32 = 200;
/// A round that takes longer, without a request to serve, was not ours alone.
const STOLEN: Duration = Duration::from_micros(300);
/// Rounds between looks at the clock.
const ROUNDS: u32 = 64;
/// Most channels watched at a time.
const MOST: usize = 8;

/// Not watched.
const FREE: u8 = 0;
/// Watched.
const WATCHED: u8 = 1;

/// What a thread's requests say about its pace, and whether it is watched.
#[derive(Default)]
pub struct Pace {
    last_ns: AtomicU64,
    quick: AtomicU32,
    watch: AtomicU8,
}

/// The watcher's side that workers see.
#[derive(Default)]
pub struct Watcher {
    arrivals: Mutex<Vec<(Arc<GuestThread>, Image)>>,
    any: AtomicBool,
    idle_until_ns: AtomicU64,
    thread: OnceLock<Thread>,
}

impl Watcher {
    /// Takes note of a request that `thread` made by notification, and hands its slot over to the watcher in a burst. Called
    /// before the reply.
    pub fn pace(&self, server: &Server, thread: &Arc<GuestThread>) {
        let Some(watcher) = self.thread.get() else { return };
        let now = server.now();
        let pace = &thread.pace;
        let gap = now - pace.last_ns.swap(now, Ordering::Relaxed).min(now);
        if gap > BURST_GAP_NS {
            pace.quick.store(0, Ordering::Relaxed);
            return;
        }
        if pace.quick.fetch_add(1, Ordering::Relaxed) + 1 < BURST
            || now < self.idle_until_ns.load(Ordering::Relaxed)
        {
            return;
        }
        pace.quick.store(0, Ordering::Relaxed);
        // A reply by the channel can carry descriptors only where there is a socket already.
        if thread.files().socket.get().is_none() {
            return;
        }
        if pace.watch.compare_exchange(FREE, WATCHED, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        let Some(image) = thread.image() else { return };
        self.arrivals.lock().unwrap().push((thread.clone(), image));
        self.any.store(true, Ordering::Release);
        watcher.unpark();
    }
}

struct Watched {
    thread: Arc<GuestThread>,
    image: Image,
    last: Instant,
    /// Since the last look at the clock.
    served: bool,
}

impl Watched {
    /// Ends the watch if no request is there. False: one is.
    fn sleep(&self) -> bool {
        if self.image.slot.watch(0) {
            return false;
        }
        self.thread.pace.watch.store(FREE, Ordering::Release);
        true
    }
}

fn run(server: &Arc<Server>) {
    let watcher = &server.watcher;
    let mut watched: Vec<Watched> = Vec::new();
    let mut hits = 0u32;
    let mut cool_down = COOL_DOWN_NS;
    let mut before = Instant::now();
    while !server.is_ending() {
        if watched.is_empty() && !watcher.any.load(Ordering::Acquire) {
            std::thread::park();
            before = Instant::now();
            continue;
        }
        if watcher.any.swap(false, Ordering::AcqRel) {
            for (thread, image) in watcher.arrivals.lock().unwrap().drain(..) {
                // Only now, when somebody is there to look.
                image.slot.channel().store(abi::CHANNEL_WATCHED, Ordering::Release);
                watched.push(Watched { thread, image, last: Instant::now(), served: false });
            }
        }
        let (mut hit, mut withdrawn) = (false, false);
        for _ in 0..ROUNDS {
            for one in &mut watched {
                let state = one.image.slot.channel().load(Ordering::Acquire);
                withdrawn |= state == abi::CHANNEL_ASLEEP;
                if state == abi::CHANNEL_REQUEST && one.image.slot.take_request() {
                    serve(server, &one.thread, None);
                    one.image.slot.channel().store(abi::CHANNEL_DONE_WATCHED, Ordering::Release);
                    one.served = true;
                    hit = true;
                    hits = hits.saturating_add(1);
                }
            }
            if hit {
                break;
            }
            std::hint::spin_loop();
        }
        let now = Instant::now();
        for one in watched.iter_mut().filter(|one| one.served) {
            one.last = now;
            one.served = false;
        }
        let stolen = withdrawn || (!hit && now - before > STOLEN);
        before = now;
        let give_up = stolen || watched.len() > MOST;
        watched.retain(|one| (!give_up && now - one.last < LINGER) || !one.sleep());
        if give_up {
            // Worth it all the same, when so many requests were served between two such moments.
            cool_down = if hits > ENOUGH { COOL_DOWN_NS } else { (cool_down * 4).min(LONGEST_COOL_DOWN_NS) };
            hits = 0;
            watcher.idle_until_ns.store(server.now() + cool_down, Ordering::Relaxed);
        }
    }
}

/// Starts the watcher, where there is more than one processor for it. It ends with the sandbox.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(server: &Arc<Server>) -> io::Result<()> {
    if std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        return Ok(());
    }
    let mine = server.clone();
    let handle = std::thread::Builder::new()
        .name("nomina-watch".into())
        .stack_size(512 * 1024)
        .spawn(move || run(&mine))?;
    let _ = server.watcher.thread.set(handle.thread().clone());
    Ok(())
}
