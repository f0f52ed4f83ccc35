//! What a task has of IPC: the list of what it has to undo, and the queue it sleeps in.

use std::sync::Arc;

use super::mqueue::{MqMsg, MqWait};
use super::msg::{Msg, MsgWait};
use super::sem::{SemUndoList, SemWait};
use super::{IpcCaller, IpcNamespace};
use crate::errno::{Errno, Result};
use crate::fork::CloneFlags;
use crate::kernel::Kernel;
use crate::pid::PidType;
use crate::task::TaskId;

/// A call that sleeps in a namespace.
pub enum IpcWait {
    /// `semop(2)`.
    Sem(Arc<IpcNamespace>, SemWait),
    /// `msgsnd(2)`.
    Snd(Arc<IpcNamespace>, MsgWait<()>),
    /// `msgrcv(2)`.
    Rcv(Arc<IpcNamespace>, MsgWait<Msg>),
    /// `mq_send(3)`.
    MqSend(Arc<IpcNamespace>, MqWait<()>),
    /// `mq_receive(3)`.
    MqReceive(Arc<IpcNamespace>, MqWait<MqMsg>),
}

/// What a call that slept gives.
#[derive(Debug)]
pub enum IpcWoken {
    /// Nothing but success.
    Done,
    /// A message.
    Msg(Msg),
    /// A message of a POSIX queue.
    MqMsg(MqMsg),
}

impl IpcWait {
    /// The result, once there is one; later calls give `None`.
    pub fn take(&self) -> Option<Result<IpcWoken>> {
        match self {
            IpcWait::Sem(_, wait) => wait.sleeper.take().map(|result| result.map(|()| IpcWoken::Done)),
            IpcWait::Snd(_, wait) => wait.sleeper.take().map(|result| result.map(|()| IpcWoken::Done)),
            IpcWait::Rcv(_, wait) => wait.sleeper.take().map(|result| result.map(IpcWoken::Msg)),
            IpcWait::MqSend(_, wait) => wait.sleeper.take().map(|result| result.map(|()| IpcWoken::Done)),
            IpcWait::MqReceive(_, wait) => wait.sleeper.take().map(|result| result.map(IpcWoken::MqMsg)),
        }
    }

    /// Leaves the queue. `Some`: the result was there all the same.
    pub fn cancel(&self) -> Option<Result<IpcWoken>> {
        match self {
            IpcWait::Sem(ns, wait) => ns.sem_cancel(wait).map(|result| result.map(|()| IpcWoken::Done)),
            IpcWait::Snd(ns, wait) => ns.msgsnd_cancel(wait).map(|result| result.map(|()| IpcWoken::Done)),
            IpcWait::Rcv(ns, wait) => ns.msgrcv_cancel(wait).map(|result| result.map(IpcWoken::Msg)),
            IpcWait::MqSend(ns, wait) => {
                ns.mq_send_cancel(wait).map(|result| result.map(|()| IpcWoken::Done))
            }
            IpcWait::MqReceive(ns, wait) => {
                ns.mq_receive_cancel(wait).map(|result| result.map(IpcWoken::MqMsg))
            }
        }
    }
}

impl Kernel {
    /// Who `task` is to its IPC namespace, and the namespace.
    ///
    /// # Errors
    /// `ESRCH` for a task that has ended.
    pub fn ipc_caller(&self, task: TaskId) -> Result<(Arc<IpcNamespace>, IpcCaller)> {
        let group = self.signal_of(task).ok_or(Errno::ESRCH)?;
        let tgid = group.pid(PidType::Tgid).clone();
        let t = self.task(task).ok_or(Errno::ESRCH)?;
        let ns = t.nsproxy.as_ref().ok_or(Errno::ESRCH)?.ipc.clone();
        Ok((ns, IpcCaller { task, tgid, cred: t.cred.clone(), now: self.wall_clock() }))
    }

    /// The undo list of a task (`get_undo_list`).
    ///
    /// # Errors
    /// `ESRCH` for a task that has ended.
    pub fn sem_undo_list(&mut self, task: TaskId) -> Result<Arc<SemUndoList>> {
        let id = self.alloc_id();
        let task = self.tasks.get_mut(&task).filter(|task| !task.exiting).ok_or(Errno::ESRCH)?;
        Ok(task.sysvsem.get_or_insert_with(|| SemUndoList::new(id)).clone())
    }

    /// `copy_semundo`: the undo list of a new task, shared with its maker by `CLONE_SYSVSEM`.
    pub(crate) fn copy_semundo(&mut self, caller: TaskId, flags: CloneFlags) -> Option<Arc<SemUndoList>> {
        if !flags.contains(CloneFlags::SYSVSEM) {
            return None;
        }
        let list = self.sem_undo_list(caller).ok()?;
        list.get();
        Some(list)
    }

    /// `exit_sem`: the task leaves its undo list. What the list holds is of the namespace the task is in still.
    pub(crate) fn exit_sem(&mut self, id: TaskId) {
        let now = self.wall_clock();
        let Some(task) = self.tasks.get_mut(&id) else { return };
        let Some(list) = task.sysvsem.take() else { return };
        if list.put()
            && let (Some(nsproxy), Some(group)) = (&task.nsproxy, self.signals.get(&task.signal))
        {
            nsproxy.ipc.exit_sem(&list, group.pid(PidType::Tgid), now);
        }
    }

    /// A task ends: it sleeps in no queue any more, and what it has to undo is undone.
    pub(crate) fn exit_ipc(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if let Some(wait) = task.ipc_wait.take() {
            wait.cancel();
        }
        self.exit_sem(id);
        if let Some(nsproxy) = self.task(id).and_then(|task| task.nsproxy.as_ref()) {
            nsproxy.ipc.exit_shm(id);
        }
    }
}
