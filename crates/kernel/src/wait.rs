//! Waiting for children (`wait4(2)`, `waitid(2)`, `kernel/exit.c`): which children a call is about, and reaping in the
//! model. The waiting itself, stops and continues are the host's.

use std::sync::Arc;

use bitflags::bitflags;

use crate::errno::{Errno, Result};
use crate::kernel::{Kernel, SIGCHLD};
use crate::pid::{Pid, PidType};
use crate::task::{ExitState, Task, TaskId};

bitflags! {
    /// Options of `wait4(2)` and `waitid(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct WaitOptions: u32 {
        /// Do not wait.
        const NOHANG = 1;
        /// Stopped children too (`WUNTRACED`).
        const STOPPED = 2;
        /// Dead children (`waitid` only; `wait4` always).
        const EXITED = 4;
        /// Continued children too.
        const CONTINUED = 8;
        /// Leave the child waitable.
        const NOWAIT = 0x0100_0000;
        /// Only children of the calling thread.
        const NOTHREAD = 0x2000_0000;
        /// All children.
        const ALL = 0x4000_0000;
        /// Only children that do not send SIGCHLD.
        const CLONE = 0x8000_0000;
    }
}

/// Which children.
#[derive(Clone, Debug)]
pub enum WaitFor {
    /// Any.
    Any,
    /// The one with this process id.
    Pid(Arc<Pid>),
    /// Those in this process group.
    Pgid(Arc<Pid>),
    /// A number that nobody has: no child.
    Nobody,
}

/// A dead child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitedChild {
    /// The child.
    pub child: TaskId,
    /// Its process id as the caller sees it.
    pub pid: i32,
    /// Its real user id as the caller sees it.
    pub uid: u32,
    /// Its wait status.
    pub status: i32,
}

impl Kernel {
    /// The children that `wait4(pid)` means.
    ///
    /// # Errors
    /// `ESRCH` for the most negative number, `EINVAL` for options it does not know.
    pub fn wait4_target(&self, caller: TaskId, pid: i32, options: u32) -> Result<(WaitFor, WaitOptions)> {
        use WaitOptions as W;
        let known = W::NOHANG | W::STOPPED | W::CONTINUED | W::NOTHREAD | W::CLONE | W::ALL;
        let options = W::from_bits(options).filter(|o| known.contains(*o)).ok_or(Errno::EINVAL)?;
        let target = match pid {
            i32::MIN => return Err(Errno::ESRCH),
            -1 => WaitFor::Any,
            0 => WaitFor::Pgid(self.signal_of(caller).ok_or(Errno::ESRCH)?.pid(PidType::Pgid).clone()),
            1.. => self.find_vpid(caller, pid).map_or(WaitFor::Nobody, WaitFor::Pid),
            _ => self.find_vpid(caller, -pid).map_or(WaitFor::Nobody, WaitFor::Pgid),
        };
        Ok((target, options | W::EXITED))
    }

    /// The children that `waitid(P_ALL = 0, P_PID = 1, P_PGID = 2)` means; P_PIDFD is the embedder's.
    ///
    /// # Errors
    /// `EINVAL` for unknown options, none of EXITED, STOPPED and CONTINUED, another id type, or an id out of range.
    pub fn waitid_target(
        &self,
        caller: TaskId,
        which: u32,
        id: i32,
        options: u32,
    ) -> Result<(WaitFor, WaitOptions)> {
        use WaitOptions as W;
        let options = W::from_bits(options).ok_or(Errno::EINVAL)?;
        if !options.intersects(W::EXITED | W::STOPPED | W::CONTINUED) {
            return Err(Errno::EINVAL);
        }
        let target = match (which, id) {
            (0, _) => WaitFor::Any,
            (1, 1..) => self.find_vpid(caller, id).map_or(WaitFor::Nobody, WaitFor::Pid),
            (2, 0) => WaitFor::Pgid(self.signal_of(caller).ok_or(Errno::ESRCH)?.pid(PidType::Pgid).clone()),
            (2, 1..) => self.find_vpid(caller, id).map_or(WaitFor::Nobody, WaitFor::Pgid),
            _ => return Err(Errno::EINVAL),
        };
        Ok((target, options))
    }

    /// `eligible_child` over the caller's children, those of the other threads included: oldest first. The call fails
    /// with `ECHILD` when there is none.
    pub fn eligible_children(&self, caller: TaskId, target: &WaitFor, options: WaitOptions) -> Vec<TaskId> {
        let own = [caller];
        let threads =
            if options.contains(WaitOptions::NOTHREAD) { &own[..] } else { self.threads_of(caller) };
        let children = threads.iter().filter_map(|t| self.task(*t)).flat_map(Task::children).copied();
        children.filter(|child| self.eligible_child(*child, target, options)).collect()
    }

    fn eligible_child(&self, child: TaskId, target: &WaitFor, options: WaitOptions) -> bool {
        let (Some(task), Some(signal)) = (self.task(child), self.signal_of(child)) else { return false };
        let named = match target {
            WaitFor::Any => true,
            WaitFor::Pid(pid) => task.pid == *pid,
            WaitFor::Pgid(pid) => signal.pid(PidType::Pgid) == pid,
            WaitFor::Nobody => false,
        };
        let clone_child = task.exit_signal != Some(SIGCHLD);
        named && (options.contains(WaitOptions::ALL) || clone_child == options.contains(WaitOptions::CLONE))
    }

    /// The first dead child the call is about, reaped unless `NOWAIT`; `None` when it would have to wait.
    ///
    /// # Errors
    /// `ECHILD` when no child is eligible; `ESRCH` when the caller is gone.
    pub fn wait_zombie(
        &mut self,
        caller: TaskId,
        target: &WaitFor,
        options: WaitOptions,
    ) -> Result<Option<WaitedChild>> {
        let viewer_ns = self.task(caller).ok_or(Errno::ESRCH)?.cred.user_ns.clone();
        let eligible = self.eligible_children(caller, target, options);
        if eligible.is_empty() {
            return Err(Errno::ECHILD);
        }
        if !options.contains(WaitOptions::EXITED) {
            return Ok(None);
        }
        // A dead leader whose group still has threads is not yet to be waited for.
        let ripe = |id: &TaskId| {
            self.thread_group_empty(*id) && self.task(*id).is_some_and(|t| t.exit_state == ExitState::Zombie)
        };
        let Some(child) = eligible.into_iter().find(ripe) else { return Ok(None) };
        let (Some(task), Some(signal)) = (self.task(child), self.signal_of(child)) else { return Ok(None) };
        let waited = WaitedChild {
            child,
            pid: self.task_pid_vnr(child, caller),
            uid: viewer_ns.from_kuid_munged(task.cred.uid),
            status: signal.group_exit_code.unwrap_or(task.exit_code),
        };
        if !options.contains(WaitOptions::NOWAIT) {
            self.reap(caller, child)?;
        }
        Ok(Some(waited))
    }
}
