//! Sending signals by number (`kill(2)`, `tgkill(2)`, `kernel/signal.c`): whom a number means, who may send to whom, and
//! what the receiver learns of the sender. Delivery is the host's.

use std::sync::Arc;

use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::fork::NSIG;
use crate::kernel::Kernel;
use crate::pid::{Pid, PidType};
use crate::task::TaskId;

pub(crate) const SIGKILL: i32 = 9;
const SIGCONT: i32 = 18;
pub(crate) const SIGSTOP: i32 = 19;

/// One receiver of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalTarget {
    /// For `kill` the leader of the process, for `tgkill` the thread.
    pub task: TaskId,
    /// The sender's process id as the receiver sees it, 0 when it does not (`si_pid`).
    pub si_pid: i32,
    /// The sender's real user id as the receiver sees it (`si_uid`).
    pub si_uid: u32,
}

/// Whom a signal through a pidfd goes to (`PIDFD_SIGNAL_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalScope {
    /// The thread (`PIDTYPE_PID`).
    Thread,
    /// Its process (`PIDTYPE_TGID`).
    Process,
    /// The process group that has its number (`PIDTYPE_PGID`).
    Group,
}

impl Kernel {
    /// `kill_ok_by_cred`: whether real or effective user id of the sender is real or saved id of the receiver, or it has
    /// CAP_KILL there.
    pub fn kill_ok_by_cred(sender: &Cred, target: &Cred) -> bool {
        [sender.euid, sender.uid].iter().any(|id| *id == target.suid || *id == target.uid)
            || sender.ns_capable(&target.user_ns, Cap::KILL)
    }

    /// `check_kill_permission`. `EPERM` when not; SIGCONT may go to the whole session.
    fn check_kill(&self, sender: TaskId, target: TaskId, signal: i32) -> Result<()> {
        let (Some(from), Some(to)) = (self.task(sender), self.task(target)) else { return Err(Errno::ESRCH) };
        let same_session = || {
            let session = |t| self.signal_of(t).map(|s| s.pid(PidType::Sid).clone());
            signal == SIGCONT && session(sender) == session(target)
        };
        if from.signal == to.signal || Self::kill_ok_by_cred(&from.cred, &to.cred) || same_session() {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }

    /// What `target` learns of `sender`.
    pub fn signal_target(&self, sender: TaskId, target: TaskId) -> SignalTarget {
        let uid = match (self.task(sender), self.task(target)) {
            (Some(from), Some(to)) => to.cred.user_ns.from_kuid_munged(from.cred.uid),
            _ => crate::user_namespace::OVERFLOW_UID,
        };
        SignalTarget { task: target, si_pid: self.task_tgid_vnr(sender, target), si_uid: uid }
    }

    /// The processes `kill(pid, signal)` sends to: the process, the caller's group (0), everyone but init and the caller
    /// (-1), or another group (below). Zombies among them count as sent to.
    ///
    /// # Errors
    /// `EINVAL` for an invalid signal (0 only checks); `ESRCH` when nobody is meant; `EPERM` when the caller may send to
    /// none of them (for -1 it succeeds then, as in Linux).
    pub fn kill_targets(&self, caller: TaskId, pid: i32, signal: i32) -> Result<Vec<SignalTarget>> {
        let candidates = match pid {
            i32::MIN => return Err(Errno::ESRCH),
            -1 => {
                let ns = self.active_pid_ns(caller).ok_or(Errno::ESRCH)?;
                let others = self.tasks_in_ns(&ns).into_iter();
                let others: Vec<TaskId> = others
                    .filter(|(nr, task)| *nr > 1 && !self.same_thread_group(*task, caller))
                    .map(|(_, task)| task)
                    .collect();
                if others.is_empty() {
                    return Err(Errno::ESRCH);
                }
                check_signal(signal)?;
                return Ok(self.permitted(caller, &others, signal));
            }
            1.. => {
                let task = self.find_task_by_vpid(caller, pid).ok_or(Errno::ESRCH)?;
                // The number of any thread means its process.
                vec![self.leader_of(task).ok_or(Errno::ESRCH)?]
            }
            0 => self.signal_of(caller).ok_or(Errno::ESRCH)?.pid(PidType::Pgid).members(PidType::Pgid),
            _ => {
                let group: Arc<Pid> = self.find_vpid(caller, -pid).ok_or(Errno::ESRCH)?;
                group.members(PidType::Pgid)
            }
        };
        if candidates.is_empty() {
            return Err(Errno::ESRCH);
        }
        // Linux looks for the receiver first.
        check_signal(signal)?;
        let targets = self.permitted(caller, &candidates, signal);
        if targets.is_empty() { Err(Errno::EPERM) } else { Ok(targets) }
    }

    fn permitted(&self, caller: TaskId, candidates: &[TaskId], signal: i32) -> Vec<SignalTarget> {
        let allowed = candidates.iter().filter(|t| self.check_kill(caller, **t, signal).is_ok());
        allowed.map(|t| self.signal_target(caller, *t)).collect()
    }

    /// Those a signal to `task` goes to, whatever its number (`kill_pid_info_type`, `kill_pgrp_info`).
    ///
    /// # Errors
    /// `EINVAL` for an invalid signal; `ESRCH` when nobody is meant; `EPERM`.
    pub fn signal_targets(
        &self,
        caller: TaskId,
        task: TaskId,
        scope: SignalScope,
        signal: i32,
    ) -> Result<Vec<SignalTarget>> {
        let candidates = match scope {
            SignalScope::Thread => vec![task],
            SignalScope::Process => vec![self.leader_of(task).ok_or(Errno::ESRCH)?],
            SignalScope::Group => self.task(task).ok_or(Errno::ESRCH)?.pid.members(PidType::Pgid),
        };
        if candidates.is_empty() {
            return Err(Errno::ESRCH);
        }
        check_signal(signal)?;
        let targets = self.permitted(caller, &candidates, signal);
        if targets.is_empty() { Err(Errno::EPERM) } else { Ok(targets) }
    }

    /// The thread `tgkill(tgid, tid, signal)` sends to; `tkill(2)` with no `tgid`.
    ///
    /// # Errors
    /// `EINVAL` for an invalid signal or number; `ESRCH` when no such thread is in that group; `EPERM`.
    pub fn tgkill_target(
        &self,
        caller: TaskId,
        tgid: Option<i32>,
        tid: i32,
        signal: i32,
    ) -> Result<SignalTarget> {
        if tid <= 0 || tgid.is_some_and(|tgid| tgid <= 0) {
            return Err(Errno::EINVAL);
        }
        let target = self.find_task_by_vpid(caller, tid).ok_or(Errno::ESRCH)?;
        if tgid.is_some_and(|tgid| self.task_tgid_vnr(target, caller) != tgid) {
            return Err(Errno::ESRCH);
        }
        check_signal(signal)?;
        self.check_kill(caller, target, signal)?;
        Ok(self.signal_target(caller, target))
    }

    /// Whether a signal that `sender` may send has an effect on `target`: init of a pid namespace gets only signals it has
    /// a handler for (`handled`), except SIGKILL and SIGSTOP from outside its namespace (`pid_namespaces(7)`). `sender` is
    /// `None` for signals of the kernel itself.
    pub fn signal_reaches(&self, sender: Option<TaskId>, target: TaskId, signal: i32, handled: bool) -> bool {
        let Some(group) = self.signal_of(target) else { return false };
        let kernel_only = signal == SIGKILL || signal == SIGSTOP;
        if !group.unkillable || handled && !kernel_only {
            return true;
        }
        let from_outside = sender.is_none_or(|sender| self.task_pid_vnr(sender, target) == 0);
        kernel_only && from_outside
    }
}

/// `EINVAL` for a number that is no signal; 0 is allowed and only checks.
fn check_signal(signal: i32) -> Result<()> {
    if (0..=NSIG).contains(&signal) { Ok(()) } else { Err(Errno::EINVAL) }
}
