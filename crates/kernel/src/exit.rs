//! The end of tasks (`_exit(2)`, `exit_group(2)`, `kernel/exit.c`): zombies, orphans and the end of pid namespaces.
//!
//! One difference from Linux: when a namespace's init dies, Linux lets it wait until everything inside is dead and
//! reaped before its parent hears of it. Here everything inside is dead for the model at once; the embedder kills the
//! host processes named in [`ExitOutcome::killed`], and should do so before it lets the parent's wait return.

use crate::errno::{Errno, Result};
use crate::kernel::{Kernel, SIGCHLD};
use crate::pid::{PidType, free_pid_if_unused};
use crate::ptrace::PtraceEvents;
use crate::task::{ExitState, SigchldAction, TaskId};

/// SIGKILL.
const SIGKILL: i32 = 9;

/// The wait status of a task that called exit with `code`.
pub fn status_exited(code: i32) -> i32 {
    (code & 0xff) << 8
}
/// The wait status of a task killed by `signal`.
pub fn status_signaled(signal: i32, core_dumped: bool) -> i32 {
    signal & 0x7f | if core_dumped { 0x80 } else { 0 }
}

/// What the end of tasks brings about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitOutcome {
    /// Whether the process is over, not only a thread.
    pub group_dead: bool,
    /// Children of the dead and who adopted them.
    pub reparented: Vec<(TaskId, TaskId)>,
    /// Whether the process asked for is gone at once, because its parent ignores SIGCHLD.
    pub autoreap: bool,
    /// Everything alive in the pid namespace whose init died: dead for the model, to be killed by the embedder.
    pub killed: Vec<TaskId>,
    /// Tasks whose numbers are free again.
    pub released: Vec<TaskId>,
    /// Parents to be told of a dead child, and by which signal.
    pub notify: Vec<(TaskId, i32)>,
    /// The parent whose wait in `vfork(2)` ends.
    pub vfork_done: Option<TaskId>,
    /// What the dead have traced.
    pub untraced: Vec<crate::ptrace::Released>,
    /// Tracers that can wait for a dead tracee now.
    pub tracers: Vec<TaskId>,
    /// The events to report to that parent's tracer ([`PtraceEvents::VFORK_DONE`]).
    pub ptrace_event: PtraceEvents,
}

impl Kernel {
    /// One thread has ended with this wait status ([`status_exited`], [`status_signaled`]): `do_exit`. With the last one
    /// the process ends. Errors: `ESRCH` when it has ended already, `EPERM` for the swapper.
    pub fn exit_thread(&mut self, id: TaskId, status: i32) -> Result<ExitOutcome> {
        self.check_exit(id)?;
        let mut out = ExitOutcome::default();
        self.tasks.entry(id).and_modify(|t| t.exiting = true);
        self.do_exit(id, status, &mut out);
        Ok(out)
    }

    /// The whole process of `id` has ended with this wait status: `do_group_exit`. Errors as [`Kernel::exit_thread`].
    pub fn exit_group(&mut self, id: TaskId, status: i32) -> Result<ExitOutcome> {
        // The leader may be a zombie while `id` is another thread, or `id` the zombie leader itself.
        let threads = self.threads_of(id).to_vec();
        let alive: Vec<TaskId> = threads.into_iter().filter(|t| self.check_exit(*t).is_ok()).collect();
        if alive.is_empty() {
            self.check_exit(id)?;
            return Err(Errno::ESRCH);
        }
        let mut out = ExitOutcome::default();
        if let Some(signal) = self.signal_of_mut(id)
            && signal.group_exit_code.is_none()
        {
            signal.group_exit_code = Some(status);
        }
        // All at once, so that no thread adopts the children of another only to die next.
        for thread in &alive {
            self.tasks.entry(*thread).and_modify(|t| t.exiting = true);
        }
        for thread in alive.into_iter().rev() {
            self.do_exit(thread, status, &mut out);
        }
        Ok(out)
    }

    fn check_exit(&self, id: TaskId) -> Result<()> {
        match self.task(id) {
            Some(_) if id == self.init_task() => Err(Errno::EPERM),
            Some(t) if t.exit_state == ExitState::Running => Ok(()),
            _ => Err(Errno::ESRCH),
        }
    }

    /// `do_exit` of a task marked as exiting.
    fn do_exit(&mut self, id: TaskId, status: i32, out: &mut ExitOutcome) {
        let alive_threads = |k: &Kernel| {
            k.threads_of(id)
                .iter()
                .filter(|t| k.task(**t).is_some_and(|t| t.exit_state == ExitState::Running))
                .count()
        };
        let group_dead = alive_threads(self) == 1;
        out.group_dead |= group_dead;
        self.drop_resources(id, status, out);
        out.untraced.extend(self.exit_ptrace(id));
        out.tracers.extend(self.ptrace_ended(id, status));
        self.forget_original_parent(id, group_dead, out);
        let Some(task) = self.tasks.get_mut(&id) else { return };
        task.exit_state = ExitState::Zombie;
        if task.exit_signal.is_none() {
            // Nobody waits for a thread that is not the leader.
            self.release_task(id, out);
        } else if self.thread_group_empty(id) && self.notify_parent(id, out) {
            out.autoreap = true;
            self.release_task(id, out);
        }
    }

    /// `exit_sem`, `exit_shm`, `exit_mm`, `exit_fs`, `exit_task_namespaces`; ends the wait of a vfork parent.
    fn drop_resources(&mut self, id: TaskId, status: i32, out: &mut ExitOutcome) {
        if let Some(parent) = self.complete_vfork(id) {
            out.vfork_done = Some(parent);
            out.ptrace_event |= self.vfork_done_event(parent);
        }
        self.exit_ipc(id);
        if let Some(task) = self.tasks.get_mut(&id) {
            task.exiting = true;
            task.exit_code = status;
            task.mm = None;
            task.fs = None;
            task.sighand = None;
        }
        self.switch_task_namespaces(id, None);
        self.cgroup_exit(id);
    }

    /// `complete_vfork_done`: the parent that waited, if any.
    pub(crate) fn complete_vfork(&mut self, id: TaskId) -> Option<TaskId> {
        let parent = self.tasks.get_mut(&id)?.vfork_parent.take()?;
        self.task(parent).is_some_and(|p| !p.exiting).then_some(parent)
    }
    pub(crate) fn vfork_done_event(&self, parent: TaskId) -> PtraceEvents {
        self.task(parent).map_or(PtraceEvents::empty(), |t| t.ptrace_events & PtraceEvents::VFORK_DONE)
    }

    fn alive_thread(&self, group_of: TaskId) -> Option<TaskId> {
        self.threads_of(group_of).iter().copied().find(|t| self.task(*t).is_some_and(|t| !t.exiting))
    }

    /// `forget_original_parent`: first the role of init is handed to another thread or the namespace ends, then children
    /// get a new parent.
    fn forget_original_parent(&mut self, father: TaskId, group_dead: bool, out: &mut ExitOutcome) {
        let Some(ns) = self.active_pid_ns(father) else { return };
        if ns.child_reaper() == Some(father) {
            match self.alive_thread(father) {
                Some(thread) => ns.set_child_reaper(Some(thread)),
                None if group_dead => self.zap_pid_ns_processes(father, out),
                // Other threads are exiting too; the last one of them ends the namespace.
                None => {
                    let last = self.threads_of(father).iter().copied().find(|t| {
                        *t != father && self.task(*t).is_some_and(|t| t.exit_state == ExitState::Running)
                    });
                    ns.set_child_reaper(last);
                }
            }
        }
        let children = match self.tasks.get_mut(&father) {
            Some(task) if !task.children.is_empty() => std::mem::take(&mut task.children),
            _ => return,
        };
        let reaper = self.find_new_reaper(father);
        let within_group = self.same_thread_group(father, reaper);
        for child in &children {
            for thread in self.threads_of(*child).to_vec() {
                self.tasks.entry(thread).and_modify(|t| t.real_parent = reaper);
            }
            out.reparented.retain(|(known, _)| known != child);
            out.reparented.push((*child, reaper));
        }
        self.tasks.entry(reaper).and_modify(|t| t.children.extend(&children));
        if within_group {
            return;
        }
        for child in children {
            // reparent_leader: whatever signal was agreed, the new parent gets SIGCHLD.
            let Some(task) = self.tasks.get_mut(&child) else { continue };
            task.exit_signal = Some(SIGCHLD);
            let zombie = task.exit_state == ExitState::Zombie;
            if zombie && self.thread_group_empty(child) && self.notify_parent(child, out) {
                self.release_task(child, out);
            }
        }
    }

    /// `find_new_reaper`: another thread of the group, else the nearest subreaper among the ancestors of the same pid
    /// namespace, else its init.
    fn find_new_reaper(&self, father: TaskId) -> TaskId {
        if let Some(thread) = self.alive_thread(father) {
            return thread;
        }
        let task = &self.tasks[&father];
        let init = task.pid.ns().child_reaper().unwrap_or(self.init_task());
        if !self.signal_of(father).is_some_and(|s| s.has_child_subreaper) {
            return init;
        }
        let level = task.pid.level();
        let mut at = task.real_parent;
        while let Some(ancestor) = self.task(at) {
            // A parent of another level is in another namespace; its subreaper is not for us.
            if at == self.init_task() || ancestor.pid.level() != level {
                break;
            }
            if self.signal_of(at).is_some_and(|s| s.is_child_subreaper)
                && let Some(thread) = self.alive_thread(at)
            {
                return thread;
            }
            at = ancestor.real_parent;
        }
        init
    }

    /// `zap_pid_ns_processes`: nothing is born in the namespace any more, and everything in it dies. What has its parent
    /// in there too is gone at once; what was put in from outside stays as a zombie for its parent.
    fn zap_pid_ns_processes(&mut self, init: TaskId, out: &mut ExitOutcome) {
        let Some(ns) = self.active_pid_ns(init) else { return };
        ns.stop_adding();
        ns.set_child_reaper(None);
        let mut doomed: Vec<TaskId> = ns
            .pids()
            .into_iter()
            .filter_map(|(_, pid)| pid.task(PidType::Pid))
            .filter(|id| !self.same_thread_group(*id, init))
            .collect();
        // A leader is released last of its group, for the group's numbers hang on it.
        doomed.sort_by_key(|id| self.leader_of(*id) == Some(*id));
        let mut from_outside = Vec::new();
        for id in &doomed {
            let Some(task) = self.task(*id) else { continue };
            let parent_inside = self.task(task.real_parent).is_some_and(|p| p.pid.nr_ns(&ns) != 0);
            if !parent_inside && task.exit_signal.is_some() {
                from_outside.push(*id);
            }
            if task.exit_state == ExitState::Running {
                out.killed.push(*id);
                self.drop_resources(*id, status_signaled(SIGKILL, false), out);
                out.untraced.extend(self.exit_ptrace(*id));
                out.tracers.extend(self.ptrace_ended(*id, status_signaled(SIGKILL, false)));
            }
            // Inner namespaces end with their inits.
            if let Some(task) = self.tasks.get_mut(id) {
                task.exit_state = ExitState::Zombie;
                task.children.clear();
                let inner = task.pid.ns();
                if inner.child_reaper() == Some(*id) {
                    inner.stop_adding();
                    inner.set_child_reaper(None);
                }
            }
        }
        self.tasks.entry(init).and_modify(|t| t.children.clear());
        for id in &doomed {
            // Threads and whatever has its parent inside; the leaders from outside wait for that parent.
            if !from_outside.contains(id) {
                self.unhash(*id);
                out.released.push(*id);
            }
        }
        for id in from_outside {
            if self.notify_parent(id, out) {
                self.release_task(id, out);
            }
        }
    }

    /// `do_notify_parent`: records the signal to the parent; `true` when the parent does not want to wait.
    fn notify_parent(&self, id: TaskId, out: &mut ExitOutcome) -> bool {
        let Some(task) = self.task(id) else { return false };
        let Some(signal) = task.exit_signal else { return true };
        let action = match self.signal_of(task.real_parent) {
            Some(parent) if signal == SIGCHLD => parent.sigchld,
            _ => SigchldAction::Notify,
        };
        if signal != 0 && action != SigchldAction::Ignore {
            out.notify.push((task.real_parent, signal));
        }
        action != SigchldAction::Notify
    }

    /// `release_task`: the numbers are given back. When that leaves a dead leader alone, its parent hears of it only now.
    fn release_task(&mut self, id: TaskId, out: &mut ExitOutcome) {
        let leader = self.leader_of(id);
        self.unhash(id);
        out.released.push(id);
        let Some(leader) = leader.filter(|leader| *leader != id) else { return };
        let alone = self.thread_group_empty(leader)
            && self.task(leader).is_some_and(|l| l.exit_state == ExitState::Zombie);
        if alone && self.notify_parent(leader, out) {
            out.autoreap = true;
            self.unhash(leader);
            out.released.push(leader);
        }
    }

    /// Takes a task out of every table (`__exit_signal`, `__unhash_process`). Its nsproxy must be put already.
    pub(crate) fn unhash(&mut self, id: TaskId) {
        let Some(task) = self.tasks.remove(&id) else { return };
        self.ptraced.remove(&id);
        debug_assert!(task.nsproxy.is_none(), "{id:?} is released with its namespaces");
        self.ucounts.dec_nproc(&task.cred);
        task.cgroup.pids_uncharge(1);
        task.pid.detach(PidType::Pid, id);
        let group = self.signals.get_mut(&task.signal);
        let last = group.is_none_or(|group| {
            group.threads.retain(|thread| *thread != id);
            group.threads.is_empty()
        });
        if last && let Some(group) = self.signals.remove(&task.signal) {
            for kind in [PidType::Tgid, PidType::Pgid, PidType::Sid] {
                group.pid(kind).detach(kind, id);
            }
            for kind in [PidType::Pgid, PidType::Sid] {
                // The one of the process itself is looked at last, below.
                if *group.pid(kind) != task.pid {
                    free_pid_if_unused(group.pid(kind));
                }
            }
        }
        free_pid_if_unused(&task.pid);
        if let Some(parent) = self.tasks.get_mut(&task.real_parent) {
            parent.children.retain(|child| *child != id);
        }
    }

    /// The parent has waited for `child` on the host: the zombie and its number go.
    ///
    /// # Errors
    /// `ESRCH` when the child is gone; `ECHILD` when it is not a zombie or not of that parent's process.
    pub fn reap(&mut self, parent: TaskId, child: TaskId) -> Result<()> {
        let task = self.task(child).ok_or(Errno::ESRCH)?;
        let ripe = task.exit_state == ExitState::Zombie && self.thread_group_empty(child);
        if !ripe || !self.same_thread_group(parent, task.real_parent) {
            return Err(Errno::ECHILD);
        }
        self.release_task(child, &mut ExitOutcome::default());
        Ok(())
    }
}
