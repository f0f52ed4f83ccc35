//! Process ids (`struct pid`, `pid_namespaces(7)`): an object with one number per pid namespace from the task's own up to
//! the initial one, shared by the tasks that use it as thread id, process id, process group or session. It outlives the
//! task it was made for as long as a group or session of that number has members.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::kernel::Kernel;
use crate::pid_namespace::PidNamespace;
use crate::task::TaskId;

/// What a task uses a [`Pid`] as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidType {
    /// Thread id.
    Pid = 0,
    /// Process id: the member is the thread group leader.
    Tgid = 1,
    /// Process group: the members are thread group leaders.
    Pgid = 2,
    /// Session: the members are thread group leaders.
    Sid = 3,
}

impl PidType {
    /// All four.
    pub const ALL: [PidType; 4] = [PidType::Pid, PidType::Tgid, PidType::Pgid, PidType::Sid];
}

/// The number of a [`Pid`] in one namespace.
#[derive(Clone, Debug)]
pub struct Upid {
    /// The number, from 1.
    pub nr: i32,
    /// The namespace in which it holds.
    pub ns: Arc<PidNamespace>,
}

/// A process id.
pub struct Pid {
    /// From the initial namespace inwards.
    numbers: Box<[Upid]>,
    /// A leaf lock: nothing else is taken while it is held.
    members: Mutex<[Vec<TaskId>; 4]>,
}

impl Pid {
    pub(crate) fn new(numbers: Box<[Upid]>) -> Arc<Pid> {
        debug_assert!(!numbers.is_empty());
        Arc::new(Pid { numbers, members: Mutex::default() })
    }

    /// The numbers from the initial namespace inwards.
    pub fn numbers(&self) -> &[Upid] {
        &self.numbers
    }
    /// Level of the innermost namespace.
    pub fn level(&self) -> usize {
        self.numbers.len() - 1
    }
    fn innermost(&self) -> &Upid {
        &self.numbers[self.numbers.len() - 1]
    }
    /// The innermost namespace (`ns_of_pid`).
    pub fn ns(&self) -> &Arc<PidNamespace> {
        &self.innermost().ns
    }
    /// The number in the innermost namespace.
    pub fn own_nr(&self) -> i32 {
        self.innermost().nr
    }
    /// The number in `ns` (`pid_nr_ns`); 0 where it is not visible there.
    pub fn nr_ns(&self, ns: &PidNamespace) -> i32 {
        match self.numbers.get(ns.level()) {
            Some(upid) if *upid.ns == *ns => upid.nr,
            _ => 0,
        }
    }
    /// Whether it belongs to the init process of its namespace (`is_child_reaper`).
    pub fn is_child_reaper(&self) -> bool {
        self.own_nr() == 1
    }

    fn lock(&self) -> MutexGuard<'_, [Vec<TaskId>; 4]> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The tasks that use it as `kind`, oldest first.
    pub fn members(&self, kind: PidType) -> Vec<TaskId> {
        self.lock()[kind as usize].clone()
    }
    /// The first of them (`pid_task`).
    pub fn task(&self, kind: PidType) -> Option<TaskId> {
        self.lock()[kind as usize].first().copied()
    }
    /// Whether nobody uses it any more.
    pub(crate) fn is_unused(&self) -> bool {
        self.lock().iter().all(Vec::is_empty)
    }
    pub(crate) fn attach(&self, kind: PidType, task: TaskId) {
        self.lock()[kind as usize].push(task);
    }
    pub(crate) fn detach(&self, kind: PidType, task: TaskId) {
        self.lock()[kind as usize].retain(|member| *member != task);
    }
    /// Puts `new` in the place of `old` (`transfer_pid`).
    pub(crate) fn replace(&self, kind: PidType, old: TaskId, new: TaskId) {
        for member in &mut self.lock()[kind as usize] {
            if *member == old {
                *member = new;
            }
        }
    }
}

impl PartialEq for Pid {
    fn eq(&self, other: &Pid) -> bool {
        std::ptr::eq(self, other)
    }
}
impl Eq for Pid {}

impl fmt::Debug for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.numbers.iter().map(|upid| upid.nr)).finish()
    }
}

/// Gives the numbers back when nobody uses them (`free_pid`, at the end of `__change_pid`).
pub(crate) fn free_pid_if_unused(pid: &Pid) {
    if pid.is_unused() {
        for upid in pid.numbers() {
            upid.ns.release_nr(upid.nr);
        }
    }
}

impl Kernel {
    /// The pid namespace the task is in (`task_active_pid_ns`), which is not the one its children will be in after
    /// `unshare(CLONE_NEWPID)`.
    pub fn active_pid_ns(&self, task: TaskId) -> Option<Arc<PidNamespace>> {
        self.task(task).map(|t| t.pid().ns().clone())
    }

    /// The `struct pid` that `caller` knows by the number `nr` (`find_vpid`).
    pub fn find_vpid(&self, caller: TaskId, nr: i32) -> Option<Arc<Pid>> {
        self.task(caller)?.pid().ns().find(nr)
    }
    /// The task with thread id `nr` as `caller` numbers it (`find_task_by_vpid`).
    pub fn find_task_by_vpid(&self, caller: TaskId, nr: i32) -> Option<TaskId> {
        self.find_vpid(caller, nr)?.task(PidType::Pid)
    }
    /// The number of `pid` in `ns`, 0 where it is not visible.
    pub fn pid_nr_ns(&self, pid: &Pid, ns: &PidNamespace) -> i32 {
        pid.nr_ns(ns)
    }

    fn vnr(&self, pid: Option<&Arc<Pid>>, viewer: TaskId) -> i32 {
        match (pid, self.task(viewer)) {
            (Some(pid), Some(viewer)) => pid.nr_ns(viewer.pid().ns()),
            _ => 0,
        }
    }
    /// The thread id of `task` as `viewer` sees it; 0 when it does not.
    pub fn task_pid_vnr(&self, task: TaskId, viewer: TaskId) -> i32 {
        self.vnr(self.task(task).map(|t| t.pid()), viewer)
    }
    /// The process id of `task` as `viewer` sees it; 0 when it does not.
    pub fn task_tgid_vnr(&self, task: TaskId, viewer: TaskId) -> i32 {
        self.vnr(self.signal_of(task).map(|s| s.pid(PidType::Tgid)), viewer)
    }
    /// The process group of `task` as `viewer` sees it; 0 when it does not.
    pub fn task_pgrp_vnr(&self, task: TaskId, viewer: TaskId) -> i32 {
        self.vnr(self.signal_of(task).map(|s| s.pid(PidType::Pgid)), viewer)
    }
    /// The session of `task` as `viewer` sees it; 0 when it does not.
    pub fn task_session_vnr(&self, task: TaskId, viewer: TaskId) -> i32 {
        self.vnr(self.signal_of(task).map(|s| s.pid(PidType::Sid)), viewer)
    }
    /// The process id of the parent of `task` as `viewer` sees it (`getppid(2)` for `viewer == task`); 0 when it does not.
    pub fn task_ppid_vnr(&self, task: TaskId, viewer: TaskId) -> i32 {
        self.task(task).map_or(0, |t| self.task_tgid_vnr(t.real_parent(), viewer))
    }

    /// The thread groups visible in `ns` with their numbers there, ascending: the process directories of a `/proc`
    /// mounted in it. Zombies included.
    pub fn tasks_in_ns(&self, ns: &PidNamespace) -> Vec<(i32, TaskId)> {
        ns.pids().into_iter().filter_map(|(nr, pid)| Some((nr, pid.task(PidType::Tgid)?))).collect()
    }
    /// The threads of the group `task` is in, leader first.
    pub fn threads_of(&self, task: TaskId) -> &[TaskId] {
        self.signal_of(task).map_or(&[], |s| &s.threads)
    }
}
