//! Exits: every guest process has a pidfd here; when it becomes readable, the model's task ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nomina_kernel::exit::ExitOutcome;
use rustix::event::epoll;

use super::Server;
use super::guest::GuestThread;
use super::lock::Mutex;
use super::sys::clone::parent_of;
use super::sys::process::kill_all;

/// How long a process that the host has reaped may wait for its parent to say so, before it is taken for reaped by nobody
/// (a parent that ignores SIGCHLD, or one that died).
const GRACE: Duration = Duration::from_millis(500);

/// The least time between two wake-ups of the thread that waits for exits.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a process may be silent before somebody looks whether it still lives.
const SILENCE: Duration = Duration::from_millis(300);

/// What the timer is in the epoll instance, where the processes count from 1.
const TIMER: u64 = 0;

/// The pidfds.
pub struct Reaper {
    epoll: OwnedFd,
    serial: AtomicU64,
    watched: Mutex<HashMap<u64, Arc<GuestThread>>>,
    /// Ended, and the host may have reaped them.
    ended: Mutex<Vec<(Instant, Arc<GuestThread>)>>,
}

impl Reaper {
    /// Nothing watched yet.
    ///
    /// # Errors
    /// Those of `epoll_create1(2)`.
    pub fn new() -> io::Result<Reaper> {
        Ok(Reaper {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            serial: AtomicU64::new(1),
            watched: Mutex::default(),
            ended: Mutex::default(),
        })
    }

    /// Watches a timer of processes that are about to be ended.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn watch_timer(&self, timer: &OwnedFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?)
    }

    /// Watches the process whose leader is `leader`.
    pub fn watch(&self, leader: &Arc<GuestThread>) {
        let Some(pidfd) = leader.process.pidfd.get() else { return };
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        self.watched.lock().unwrap().insert(serial, leader.clone());
        let data = epoll::EventData::new_u64(serial);
        let _ = epoll::add(&self.epoll, pidfd, data, epoll::EventFlags::IN | epoll::EventFlags::ONESHOT);
    }

    /// Takes note of every exit the host has to tell of.
    pub fn drain(&self, server: &Arc<Server>) {
        self.wait(server, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
    }

    fn wait(&self, server: &Arc<Server>, timeout: Option<&rustix::event::Timespec>) {
        let mut events: [epoll::Event; 64] =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 64];
        let Ok(count) = epoll::wait(&self.epoll, &mut events[..], timeout) else { return };
        if count > 0 {
            server.settle();
        }
        for event in &events[..count] {
            if event.data.u64() == TIMER {
                server.robust.expired();
                continue;
            }
            let Some(leader) = self.watched.lock().unwrap().remove(&event.data.u64()) else { continue };
            if let Some(pidfd) = leader.process.pidfd.get() {
                let _ = epoll::delete(&self.epoll, pidfd);
            }
            // Whom it has waited for and could not tell us any more: they are no orphans.
            for (number, host_pid) in leader.image().map_or_else(Vec::new, |image| image.slot.take_reaped()) {
                super::sys::process::note_reaped(server, &leader, number, host_pid);
            }
            // Under one lock, as where its parent says that it has reaped it: who comes second finds a zombie.
            let mut kernel = server.kernel.lock().unwrap();
            if leader.process.exited.swap(true, Ordering::AcqRel) {
                continue;
            }
            let outcome = kernel.exit_group(leader.task, 0);
            drop(kernel);
            if let Ok(outcome) = outcome {
                after_exit(server, &leader, outcome);
            }
            self.ended.lock().unwrap().push((Instant::now(), leader));
        }
    }

    /// Looks after processes that have not introduced themselves for a while: nothing else would tell of their end when
    /// nobody waits for them.
    fn look_after_the_silent(&self, server: &Arc<Server>) {
        server.settle();
        let now = server.now();
        for thread in server.guests.waiting() {
            let old = now.saturating_sub(thread.made_ns) > SILENCE.as_nanos() as u64;
            let Some(host_pid) = thread.noted_pid().filter(|_| old) else { continue };
            if server.seek(&thread).is_some() || parent_of(host_pid).is_some() {
                continue;
            }
            let mut kernel = server.kernel.lock().unwrap();
            if !thread.process.exited.swap(true, Ordering::AcqRel) {
                let outcome = kernel.exit_group(thread.task, 0);
                drop(kernel);
                if let Ok(outcome) = outcome {
                    after_exit(server, &thread, outcome);
                }
                self.ended.lock().unwrap().push((Instant::now(), thread));
            }
        }
    }

    /// Lets go of processes that nobody will wait for.
    fn sweep(&self, server: &Arc<Server>) {
        let mut gone = Vec::new();
        self.ended.lock().unwrap().retain(|(since, leader)| {
            if server.guests.by_task(leader.task).is_none() {
                return false;
            }
            let reaped = leader.process.pidfd.get().is_none_or(|pidfd| !is_zombie_or_alive(pidfd));
            if reaped && since.elapsed() > GRACE {
                gone.push(leader.clone());
                return false;
            }
            true
        });
        for leader in gone {
            let mut kernel = server.kernel.lock().unwrap();
            let host_pid = leader.process.host_pid.load(Ordering::Acquire);
            if host_pid != 0 {
                server.pids.depart(&kernel, leader.task, host_pid, true);
            }
            if let Some(parent) = kernel.task(leader.task).map(|task| task.real_parent()) {
                let _ = kernel.reap(parent, leader.task);
            }
            drop(kernel);
            server.guests.remove(&leader);
        }
    }
}

/// Whether the process of a pidfd is still there, if only as a zombie.
pub fn is_zombie_or_alive(pidfd: &OwnedFd) -> bool {
    // SAFETY: signal 0 is only a question; the info pointer is null.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            std::os::fd::AsRawFd::as_raw_fd(&pidfd.as_fd()),
            0,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        ) == 0
    }
}

/// What follows on the host from the end of a task in the model.
pub fn after_exit(server: &Arc<Server>, leader: &Arc<GuestThread>, outcome: ExitOutcome) {
    leader.harvest();
    super::ptrace::after_exit(server, &outcome);
    kill_all(server, &outcome.killed);
    // An exec that it had begun; what was prepared refers to the thread.
    *leader.process.exec.lock().unwrap() = None;
    if leader.process.threaded.load(Ordering::Acquire) {
        for thread in server.guests.all() {
            if Arc::ptr_eq(&thread.process, &leader.process) && thread.task != leader.task {
                thread.harvest();
                server.guests.remove(&thread);
            }
        }
    }
    server.tracees.forget(leader.task);
    for task in outcome.released {
        server.tracees.forget(task);
        if let Some(thread) = server.guests.by_task(task) {
            server.guests.remove(&thread);
        }
    }
}

/// The thread that waits for exits.
///
/// # Errors
/// When it cannot be started.
pub fn start(server: &Arc<Server>) -> io::Result<()> {
    let server = server.clone();
    std::thread::Builder::new().name("nomina-reaper".into()).stack_size(256 * 1024).spawn(move || {
        while !server.is_ending() {
            // A panic here must not leave the sandbox without anybody who sees its exits.
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let idle = server.reaper.ended.lock().unwrap().is_empty();
                let nsec = match idle {
                    _ if server.controls.any() => 20_000_000,
                    true => 500_000_000,
                    false => 100_000_000,
                };
                server.reaper.wait(&server, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: nsec }));
                server.reaper.look_after_the_silent(&server);
                server.tethers.tie_all(&server);
                server.reaper.sweep(&server);
                // Who has opened a control file may wait, for a child that waits for room to write to it, and nobody ask anything.
                server.controls.apply();
            }));
            // Whoever must know of an exit at once drains; this thread need not wake up for each one.
            std::thread::sleep(PAUSE);
        }
    })?;
    Ok(())
}
