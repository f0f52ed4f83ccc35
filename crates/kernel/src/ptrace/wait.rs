//! Waiting for tracees (`do_wait` over `ptraced`): stops, and the end of those that no native wait finds.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::pid::{Pid, PidType};
use crate::task::TaskId;
use crate::wait::{WaitFor, WaitOptions};

/// A tracee that a wait has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitedTracee {
    /// Its number as the caller sees it.
    pub pid: i32,
    /// Its real user as the caller sees it.
    pub uid: u32,
    /// Its wait status.
    pub status: i32,
}

impl Kernel {
    /// The number of a dead tracee of the caller's process. Its parent may have waited for it, so that nobody else finds the number.
    pub fn ptrace_zombie_pid(&self, caller: TaskId, nr: i32) -> Option<Arc<Pid>> {
        let ns = self.active_pid_ns(caller)?;
        let mut own =
            self.ptrace_zombies.iter().filter(|zombie| self.same_thread_group(zombie.tracer, caller));
        own.find(|zombie| zombie.pid.nr_ns(&ns) == nr).map(|zombie| zombie.pid.clone())
    }

    /// The first tracee of the caller's process (with `NOTHREAD`: of the caller) that has something to tell. `None` when it would
    /// have to wait. Whether a child sends SIGCHLD makes no difference for tracees.
    ///
    /// # Errors
    /// `ECHILD` when no tracee is meant.
    pub fn ptrace_wait(
        &mut self,
        caller: TaskId,
        target: &WaitFor,
        options: WaitOptions,
    ) -> Result<Option<WaitedTracee>> {
        let me = self.task(caller).ok_or(Errno::ECHILD)?;
        let user_ns = me.cred.user_ns.clone();
        let pid_ns = me.pid.ns().clone();
        let traces = |k: &Kernel, tracer: TaskId| {
            tracer == caller
                || !options.contains(WaitOptions::NOTHREAD) && k.same_thread_group(tracer, caller)
        };
        let named = |pid: &Arc<Pid>, group: Option<&Arc<Pid>>| match target {
            WaitFor::Any => true,
            WaitFor::Pid(wanted) => pid == wanted,
            WaitFor::Pgid(wanted) => group == Some(wanted),
            WaitFor::Nobody => false,
        };
        let zombies = || {
            let fits = |z: &super::PtraceZombie| traces(self, z.tracer) && named(&z.pid, None);
            self.ptrace_zombies.iter().position(fits)
        };
        if let Some(at) = zombies().filter(|_| options.contains(WaitOptions::EXITED)) {
            let zombie = if options.contains(WaitOptions::NOWAIT) {
                self.ptrace_zombies[at].clone()
            } else {
                self.ptrace_zombies.remove(at)
            };
            let uid = user_ns.from_kuid_munged(zombie.uid);
            return Ok(Some(WaitedTracee { pid: zombie.pid.nr_ns(&pid_ns), uid, status: zombie.status }));
        }
        let mut eligible = zombies().is_some();
        let mut found = None;
        for (task, tracee) in &self.ptraced {
            let Some(them) = self.task(*task).filter(|_| traces(self, tracee.tracer)) else { continue };
            let group = self.signal_of(*task).map(|signal| signal.pid(PidType::Pgid));
            if !named(&them.pid, group) {
                continue;
            }
            eligible = true;
            if let Some(stop) = tracee.stop.filter(|stop| !stop.reported && !stop.listening) {
                let uid = user_ns.from_kuid_munged(them.cred.uid);
                let pid = them.pid.nr_ns(&pid_ns);
                found = Some((*task, WaitedTracee { pid, uid, status: stop.status() }));
                break;
            }
        }
        let Some((task, waited)) = found else {
            return if eligible { Ok(None) } else { Err(Errno::ECHILD) };
        };
        if !options.contains(WaitOptions::NOWAIT)
            && let Some(stop) = self.tracee_mut(task).and_then(|tracee| tracee.stop.as_mut())
        {
            stop.reported = true;
        }
        Ok(Some(waited))
    }
}
