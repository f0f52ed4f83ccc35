//! Whose turn it is to wait for gate calls.
//!
//! The host kernel wakes *every* thread that waits in `SECCOMP_IOCTL_NOTIF_RECV` for each notification (they wait on one queue, not
//! exclusively), and all but one find nothing: with four workers that costs more than serving the call. So as few
//! workers as possible wait there, mostly one, and that one serves the call itself before it waits again; the others are
//! parked. A call that takes long must not hold up the others' calls: while calls come, a *relief* looks every few milliseconds
//! whether nobody waits and nothing has been served since it last looked, and lets one more worker wait; also when
//! calls mostly find nobody waiting, because guests ask on several processors.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::Server;
use super::guest::Gate;

/// How often the relief looks.
const TICK: Duration = Duration::from_millis(2);
/// Looks without any call after which the relief sleeps until the next one.
const IDLE_TICKS: u32 = 20;
/// Looks without a reason for so many waiting workers after which there is one less.
const CALM_TICKS: u32 = 100;
/// A wait that ends within this time was none: the call was there already.
const AT_ONCE: Duration = Duration::from_micros(3);
/// Calls between two looks below which it does not matter who serves them.
const FEW: u64 = 32;

struct State {
    /// Workers that wait for a call.
    waiting: usize,
    /// Workers that may wait at a time.
    wanted: usize,
    /// Nobody is left to call.
    ended: bool,
}

/// The turns of the workers.
pub struct Turns {
    state: std::sync::Mutex<State>,
    parked: Condvar,
    /// Calls taken.
    taken: AtomicU64,
    /// Calls that were there already when a worker began to wait.
    behind: AtomicU64,
    /// The relief looks.
    looking: AtomicBool,
    relief: OnceLock<Thread>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            state: std::sync::Mutex::new(State { waiting: 0, wanted: 1, ended: false }),
            parked: Condvar::new(),
            taken: AtomicU64::new(0),
            behind: AtomicU64::new(0),
            looking: AtomicBool::new(false),
            relief: OnceLock::new(),
        }
    }
}

impl Turns {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits with `wait` when it is the caller's turn. `None`: there will be no more calls.
    pub fn take<T>(&self, wait: impl FnOnce() -> Option<T>) -> Option<T> {
        let mut state = self.state();
        while !state.ended && state.waiting >= state.wanted {
            state = self.parked.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended {
            return None;
        }
        state.waiting += 1;
        drop(state);
        let since = Instant::now();
        let call = wait();
        if since.elapsed() < AT_ONCE {
            self.behind.fetch_add(1, Ordering::Relaxed);
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        state.waiting -= 1;
        if call.is_none() {
            state.ended = true;
            self.parked.notify_all();
            drop(state);
            self.relief.get().iter().for_each(|relief| relief.unpark());
            return None;
        }
        drop(state);
        self.keep_looking();
        call
    }

    /// Makes sure that the relief looks.
    pub fn keep_looking(&self) {
        if !self.looking.swap(true, Ordering::SeqCst)
            && let Some(relief) = self.relief.get()
        {
            relief.unpark();
        }
    }

    /// Lets one more worker wait, if there is one.
    fn one_more(&self, workers: usize) {
        let mut state = self.state();
        if state.wanted < workers {
            state.wanted += 1;
        }
        self.parked.notify_one();
    }

    /// Looks until no calls come any more and `at_each_look` says that it need not be called again.
    fn look(&self, workers: usize, is_ending: impl Fn() -> bool, at_each_look: impl Fn() -> bool) {
        let (mut seen, mut seen_behind) = (self.taken.load(Ordering::Relaxed), 0);
        let (mut idle, mut calm) = (0, 0);
        let mut wanted = false;
        while (idle < IDLE_TICKS || wanted) && !is_ending() {
            std::thread::sleep(TICK);
            wanted = at_each_look();
            let (taken, behind) = (self.taken.load(Ordering::Relaxed), self.behind.load(Ordering::Relaxed));
            let (calls, late) = (taken - seen, behind.saturating_sub(seen_behind));
            (seen, seen_behind) = (taken, behind);
            let nobody = self.state().waiting == 0;
            idle = if calls == 0 && !nobody { idle + 1 } else { 0 };
            if (calls == 0 && nobody) || (calls >= FEW && late * 2 > calls) {
                calm = 0;
                self.one_more(workers);
            } else {
                calm += 1;
                if calm >= CALM_TICKS {
                    calm = 0;
                    let mut state = self.state();
                    state.wanted = (state.wanted - 1).max(1);
                }
            }
        }
        self.state().wanted = 1;
    }
}

/// Starts the relief of the `workers` workers that share `gate`. It ends with the sandbox, or when nobody is left to call.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(server: &Arc<Server>, gate: &Arc<Gate>, workers: usize) -> io::Result<()> {
    let (mine, gate_of_mine) = (server.clone(), gate.clone());
    let relief =
        std::thread::Builder::new().name("nomina-relief".into()).stack_size(128 * 1024).spawn(move || {
            let turns = &gate_of_mine.turns;
            while !mine.is_ending() && !turns.state().ended {
                std::thread::park();
                turns.look(workers, || mine.is_ending() || turns.state().ended, || mine.ahead.expire());
                turns.looking.store(false, Ordering::SeqCst);
                // Who took a call before that, or remembers an answer, believes that somebody looks.
                let is_relied_on = turns.state().waiting == 0 || mine.ahead.expire();
                if is_relied_on && !turns.looking.swap(true, Ordering::SeqCst) {
                    std::thread::current().unpark();
                }
            }
        })?;
    let _ = gate.turns.relief.set(relief.thread().clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Workers that take what comes over a channel, which stands for the listener, and hand what they took on.
    fn workers(turns: &Arc<Turns>, count: usize) -> (mpsc::Sender<Duration>, mpsc::Receiver<Duration>) {
        let (calls, listener) = mpsc::channel();
        let (done, served) = mpsc::channel();
        let listener = Arc::new(std::sync::Mutex::new(listener));
        for _ in 0..count {
            let (turns, listener, done) = (turns.clone(), listener.clone(), done.clone());
            std::thread::spawn(move || {
                while let Some(busy) = turns.take(|| listener.lock().unwrap().recv().ok()) {
                    std::thread::sleep(busy);
                    let _ = done.send(busy);
                }
            });
        }
        (calls, served)
    }

    #[test]
    fn a_long_call_does_not_hold_up_the_next_one() {
        let turns = Arc::new(Turns::default());
        let (calls, served) = workers(&turns, 2);
        let long = Duration::from_secs(3);
        calls.send(long).unwrap();
        calls.send(Duration::ZERO).unwrap();
        let looking = turns.clone();
        std::thread::spawn(move || looking.look(2, || false, || false));
        assert_eq!(served.recv_timeout(Duration::from_secs(2)), Ok(Duration::ZERO));
    }

    #[test]
    fn one_worker_waits_when_calls_come_one_by_one() {
        let turns = Arc::new(Turns::default());
        let (calls, served) = workers(&turns, 4);
        for _ in 0..100 {
            calls.send(Duration::ZERO).unwrap();
            served.recv().unwrap();
            assert!(turns.state().waiting <= 1);
        }
    }

    #[test]
    fn the_end_of_calls_releases_everybody() {
        let turns = Arc::new(Turns::default());
        let (calls, served) = workers(&turns, 4);
        drop(calls);
        assert_eq!(served.recv_timeout(Duration::from_secs(5)), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
