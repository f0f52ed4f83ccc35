//! Forks promised ahead (`nomina_abi::Promised`): a thread that forks again and again does so without asking each time.
//!
//! With the answer to a fork go the numbers and tokens of the next few. The shim takes one, makes the native clone and says nothing; the
//! model makes the child when anybody asks for anything ([`Server::settle`]), before that is served. So nobody can find that it had not
//! been made: whoever could ask about it settles first. Only one thread has promises at a time, and they are taken back before anything else
//! gets a number, changes a limit or a namespace, or begins to trace, so that the model refuses nothing that has been promised.
//!
//! A guest that claims forks it has not made gets children that never introduce themselves, as by asking for them and making no native clone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nomina_abi::{NOTES_PROMISED, op};

use super::Server;
use super::ahead::{changes_credentials, changes_names, changes_nothing};
use super::guest::{GuestThread, Image};
use super::lock::{Mutex, MutexGuard};
use super::sys::clone::{NewChild, expect};

/// What was promised to one thread.
struct Promise {
    index: usize,
    pid: i32,
    token: u64,
    /// The slot that the child borrows.
    borrowed: Image,
}

struct Holder {
    thread: Arc<GuestThread>,
    /// Where the promises are written.
    image: Image,
    open: Vec<Promise>,
}

/// The promises of a sandbox.
#[derive(Default)]
pub struct Promises {
    any: AtomicBool,
    /// Taken before the kernel.
    holder: Mutex<Option<Holder>>,
}

/// While it lives no promise is made or used without the holder's knowledge.
pub struct Settled<'a>(MutexGuard<'a, Option<Holder>>);

/// Whether promises may stand while a request is served: it changes nothing that a fork depends on.
fn leaves_forks_alone(nr: u32, args: &[u64; 6]) -> bool {
    // prlimit64
    nr != 302 && (changes_nothing(nr, args) || changes_names(nr, args) || changes_credentials(nr))
}

impl Server {
    /// Takes note of promised forks that were made. To be called before anything is looked at or changed.
    pub fn settle(self: &Arc<Self>) {
        if self.promises.any.load(Ordering::SeqCst) {
            let mut holder = self.promises.holder.lock().unwrap();
            self.settle_locked(&mut holder, false);
        }
    }

    /// The same, and takes back those that were not made, if the request of `thread` may touch what they depend on.
    pub fn settle_for(self: &Arc<Self>, thread: &Arc<GuestThread>, nr: u32, args: &[u64; 6]) {
        // A fork settles itself.
        if !self.promises.any.load(Ordering::SeqCst) || nr == op::CLONE {
            return;
        }
        let mut holder = self.promises.holder.lock().unwrap();
        let is_own_exec =
            nr == op::EXEC && holder.as_ref().is_some_and(|holder| Arc::ptr_eq(&holder.thread, thread));
        self.settle_locked(&mut holder, is_own_exec || !leaves_forks_alone(nr, args));
    }

    /// Takes all promises back.
    pub fn settle_all(self: &Arc<Self>) -> Settled<'_> {
        let mut holder = self.promises.holder.lock().unwrap();
        self.settle_locked(&mut holder, true);
        Settled(holder)
    }

    fn settle_locked(self: &Arc<Self>, holder: &mut Option<Holder>, take_back: bool) {
        let Some(held) = holder else { return };
        let slot = &held.image.slot;
        let mut left = Vec::new();
        for promise in held.open.drain(..) {
            let was_not_made =
                if take_back { slot.take_back(promise.index) } else { !slot.is_forked(promise.index) };
            if was_not_made {
                left.push(promise);
                continue;
            }
            let Promise { pid, token, borrowed, .. } = promise;
            let outcome = self.kernel.lock().unwrap().fork_promised(held.thread.task, pid, self.now());
            // Where it fails the child's first request is denied, which ends it.
            let Ok(outcome) = outcome else { continue };
            expect(self, &held.thread, NewChild::forked(&outcome, token, borrowed));
        }
        if take_back {
            // Whose promises are for nothing gets fewer.
            if !left.is_empty() {
                held.thread.forks.store(0, Ordering::Relaxed);
            }
            left.clear();
        }
        held.open = left;
        if held.open.is_empty() {
            *holder = None;
            self.promises.any.store(false, Ordering::SeqCst);
        }
    }

    /// After a plain fork by `thread`: promises it some more, if it has forked before.
    pub fn promise(&self, settled: &mut Settled<'_>, thread: &Arc<GuestThread>) {
        let forks = thread.forks.fetch_add(1, Ordering::Relaxed);
        let Some(image) = thread.image().filter(|_| forks > 0) else { return };
        let count = NOTES_PROMISED.min(2 << forks.min(8) >> 1);
        let numbers = self.kernel.lock().unwrap().promise_forks(thread.task, count);
        let open: Vec<Promise> = numbers
            .into_iter()
            .enumerate()
            .map_while(|(index, pid)| {
                let borrowed = image.lend()?;
                Some(Promise { index, pid, token: self.tokens.next(), borrowed })
            })
            .collect();
        if open.is_empty() {
            return;
        }
        self.promises.any.store(true, Ordering::SeqCst);
        for promise in &open {
            image.slot.promise(promise.index, promise.pid, promise.token, promise.borrowed.index());
        }
        *settled.0 = Some(Holder { thread: thread.clone(), image, open });
    }
}
