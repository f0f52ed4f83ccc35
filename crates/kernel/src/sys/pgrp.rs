//! Process groups and sessions (`credentials(7)`): `setpgid(2)`, `getpgid(2)`, `setsid(2)`, `getsid(2)`.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::pid::{Pid, PidType, free_pid_if_unused};
use crate::task::TaskId;

impl Kernel {
    /// Moves a process to another group or session (`change_pid`).
    fn change_pid(&mut self, leader: TaskId, kind: PidType, new: Arc<Pid>) {
        let Some(signal) = self.signal_of_mut(leader) else { return };
        let old = std::mem::replace(&mut signal.pids[kind as usize], new.clone());
        old.detach(kind, leader);
        new.attach(kind, leader);
        free_pid_if_unused(&old);
    }

    /// `setpgid(2)`. Returns the process that was moved and the group as the caller sees it, to be mirrored on the host.
    ///
    /// # Errors
    /// `EINVAL` for a negative group or a thread that is not a leader; `ESRCH` when `pid` is neither the caller nor a
    /// child; `EACCES` for a child that has done exec; `EPERM` for a child in another session, a session leader, or a
    /// group that is not in the caller's session.
    pub fn setpgid(&mut self, caller: TaskId, pid: i32, pgid: i32) -> Result<(TaskId, i32)> {
        let me = self.leader_of(caller).ok_or(Errno::ESRCH)?;
        let pid = if pid == 0 { self.task_pid_vnr(me, caller) } else { pid };
        let pgid = if pgid == 0 { pid } else { pgid };
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        let target = self.find_task_by_vpid(caller, pid).ok_or(Errno::ESRCH)?;
        if self.leader_of(target) != Some(target) {
            return Err(Errno::EINVAL);
        }
        let task = self.task(target).ok_or(Errno::ESRCH)?;
        let my_session = self.signal_of(caller).ok_or(Errno::ESRCH)?.pid(PidType::Sid).clone();
        let signal = self.signal_of(target).ok_or(Errno::ESRCH)?;
        if self.same_thread_group(task.real_parent, me) {
            if *signal.pid(PidType::Sid) != my_session {
                return Err(Errno::EPERM);
            }
            if !task.forknoexec {
                return Err(Errno::EACCES);
            }
        } else if target != me {
            return Err(Errno::ESRCH);
        }
        if signal.session_leader {
            return Err(Errno::EPERM);
        }
        let mut group = task.pid.clone();
        if pgid != pid {
            group = self.find_vpid(caller, pgid).ok_or(Errno::EPERM)?;
            let member = group.task(PidType::Pgid).and_then(|t| self.signal_of(t)).ok_or(Errno::EPERM)?;
            if *member.pid(PidType::Sid) != my_session {
                return Err(Errno::EPERM);
            }
        }
        if *signal.pid(PidType::Pgid) != group {
            self.change_pid(target, PidType::Pgid, group);
        }
        Ok((target, pgid))
    }

    /// `getpgid(2)`, 0 for the caller. `ESRCH` when nobody has the number.
    pub fn getpgid(&self, caller: TaskId, pid: i32) -> Result<i32> {
        let target = if pid == 0 { Some(caller) } else { self.find_task_by_vpid(caller, pid) };
        Ok(self.task_pgrp_vnr(target.ok_or(Errno::ESRCH)?, caller))
    }

    /// `getsid(2)`, 0 for the caller. `ESRCH` when nobody has the number.
    pub fn getsid(&self, caller: TaskId, pid: i32) -> Result<i32> {
        let target = if pid == 0 { Some(caller) } else { self.find_task_by_vpid(caller, pid) };
        Ok(self.task_session_vnr(target.ok_or(Errno::ESRCH)?, caller))
    }

    /// `setsid(2)`: the number of the new session. `EPERM` for a session leader, or while a process group has the
    /// caller's number.
    pub fn setsid(&mut self, caller: TaskId) -> Result<i32> {
        let me = self.leader_of(caller).ok_or(Errno::ESRCH)?;
        let pid = self.task(me).ok_or(Errno::ESRCH)?.pid.clone();
        let signal = self.signal_of(me).ok_or(Errno::ESRCH)?;
        if signal.session_leader || pid.task(PidType::Pgid).is_some() {
            return Err(Errno::EPERM);
        }
        if let Some(signal) = self.signal_of_mut(me) {
            signal.session_leader = true;
            signal.tty = None;
        }
        self.change_pid(me, PidType::Sid, pid.clone());
        self.change_pid(me, PidType::Pgid, pid);
        Ok(self.task_session_vnr(me, caller))
    }
}
