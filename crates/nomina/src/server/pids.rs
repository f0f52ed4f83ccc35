//! Which host process stands for which number of the model.

use std::collections::{HashMap, VecDeque};
use std::sync::Weak;

use nomina_kernel::kernel::Kernel;
use nomina_kernel::pid::Pid;
use nomina_kernel::pid_namespace::PidNamespace;
use nomina_kernel::task::TaskId;

use super::lock::Mutex;

#[derive(Default)]
struct Maps {
    /// Number in the sandbox's first pid namespace → host pid.
    host: HashMap<i32, i32>,
    /// Host pid → number in the sandbox's first pid namespace.
    guest: HashMap<i32, i32>,
    /// Size at which entries are looked through for numbers nobody has any more.
    full: usize,
}

/// Numbers of processes that have been reaped. In Linux a message or a signal keeps the `struct pid` of its sender, and with it
/// the numbers, after the process has gone; here the latest are kept.
#[derive(Default)]
struct Departed {
    numbers: HashMap<i32, Vec<(Weak<PidNamespace>, i32)>>,
    order: VecDeque<i32>,
}

impl Departed {
    const MOST: usize = 1024;

    fn insert(&mut self, host: i32, pid: &Pid) {
        let numbers =
            pid.numbers().iter().map(|upid| (std::sync::Arc::downgrade(&upid.ns), upid.nr)).collect();
        if self.numbers.insert(host, numbers).is_none() {
            self.order.push_back(host);
        }
        if self.order.len() > Departed::MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.numbers.remove(&oldest);
        }
    }
}

/// Both directions. An entry outlives its process, because process groups and sessions do.
#[derive(Default)]
pub struct Pids(Mutex<Maps>, Mutex<Departed>);

/// The number of `pid` in the sandbox's first pid namespace (level 1: level 0 is the embedder's own).
fn first_level(pid: &Pid) -> Option<i32> {
    pid.numbers().get(1).map(|upid| upid.nr)
}

impl Maps {
    /// Once in a while forgets numbers that are free in the model.
    fn sweep(&mut self, in_use: impl Fn(i32) -> bool) {
        const LEAST: usize = 1024;
        if self.host.len() > self.full.max(LEAST) {
            self.host.retain(|&nr, _| in_use(nr));
            self.guest.retain(|_, nr| in_use(*nr));
            self.full = self.host.len() * 2;
        }
    }
}

impl Pids {
    /// Task `task` runs as host process `host`.
    pub fn bind(&self, kernel: &Kernel, task: TaskId, host: i32) {
        if let Some(pid) = kernel.task(task).map(|task| task.pid())
            && let Some(first) = pid.numbers().get(1)
        {
            self.bind_nr(first.nr, host);
            self.0.lock().unwrap().sweep(|nr| first.ns.find(nr).is_some());
        }
    }

    /// Number `nr` of the first pid namespace is host process `host`.
    pub fn bind_nr(&self, nr: i32, host: i32) {
        let mut maps = self.0.lock().unwrap();
        maps.host.insert(nr, host);
        maps.guest.insert(host, nr);
    }

    /// A host process group outside that stands for number `nr`.
    pub fn alias(&self, nr: i32, host: i32) {
        self.0.lock().unwrap().guest.insert(host, nr);
    }

    /// `task`, which ran as host process `host`, is about to be reaped. `proved`: the host or a request has said that it ran
    /// there, not only the notes of a guest.
    pub fn depart(&self, kernel: &Kernel, task: TaskId, host: i32, proved: bool) {
        let Some(task) = kernel.task(task) else { return };
        let mut departed = self.1.lock().unwrap();
        if proved || !departed.numbers.contains_key(&host) {
            departed.insert(host, task.pid());
        }
    }

    /// The number in `ns` of a process that has been reaped; `None` where it had none or that is long ago.
    pub fn departed(&self, host: i32, ns: &PidNamespace) -> Option<i32> {
        let departed = self.1.lock().unwrap();
        let (of, nr) = departed.numbers.get(&host)?.get(ns.level())?;
        std::ptr::eq(of.as_ptr(), ns).then_some(*nr)
    }

    /// The host pid that stands for `pid`, as process, group or session.
    pub fn to_host(&self, pid: &Pid) -> Option<i32> {
        self.0.lock().unwrap().host.get(&first_level(pid)?).copied()
    }

    /// The number in the first pid namespace of host process, group or session `host`.
    pub fn from_host(&self, host: i32) -> Option<i32> {
        self.0.lock().unwrap().guest.get(&host).copied()
    }
}
