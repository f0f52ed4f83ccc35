//! Tasks (`struct task_struct`) and thread groups (`struct signal_struct`).
//!
//! A [`TaskId`] names a task for the embedder and is never used again; the numbers programs see are [`Pid`]s. What a host
//! process keeps natively (memory, open files, signal handlers, scheduling) is not here; of the address space and the
//! handler table only the identity is, to know who shares them.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use crate::cgroup::Cgroup;
use crate::cred::Cred;
use crate::kernel::Kernel;
use crate::nsproxy::NsProxy;
use crate::pid::{Pid, PidType};
use crate::rlimit::Rlimits;
use crate::seccomp::Seccomp;
use crate::user_namespace::UserNamespace;
use crate::vfs::FsStruct;

/// Names a task for the embedder. Never reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u64);

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task#{}", self.0)
    }
}

/// Names a thread group inside the kernel. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SignalId(pub(crate) u64);

/// Whether a task runs or waits to be reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitState {
    /// Alive.
    Running,
    /// Dead; its parent has not waited for it, or (a leader) other threads of its group still live.
    Zombie,
}

/// What may be read from a process (`PR_SET_DUMPABLE`, `suid_dumpable`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dumpable {
    /// `SUID_DUMP_DISABLE`: only with CAP_SYS_PTRACE.
    Disable = 0,
    /// `SUID_DUMP_USER`: by the same user.
    User = 1,
    /// `SUID_DUMP_ROOT`: core files for root only.
    Root = 2,
}

/// An address space (`struct mm_struct`), as far as names are concerned.
#[derive(Debug)]
pub struct Mm {
    dumpable: AtomicU8,
    user_ns: Arc<UserNamespace>,
    exe: Vec<u8>,
}

impl Mm {
    pub(crate) fn new(exe: Vec<u8>, user_ns: Arc<UserNamespace>, dumpable: Dumpable) -> Arc<Mm> {
        Arc::new(Mm { dumpable: AtomicU8::new(dumpable as u8), user_ns, exe })
    }
    /// `dup_mm`.
    pub(crate) fn duplicate(&self) -> Arc<Mm> {
        Mm::new(self.exe.clone(), self.user_ns.clone(), self.dumpable())
    }
    /// Path of the executed program.
    pub fn exe(&self) -> &[u8] {
        &self.exe
    }
    /// The user namespace the program was executed in: privilege over it is privilege there.
    pub fn user_ns(&self) -> &Arc<UserNamespace> {
        &self.user_ns
    }
    /// What `PR_GET_DUMPABLE` answers.
    pub fn dumpable(&self) -> Dumpable {
        match self.dumpable.load(Ordering::Relaxed) {
            0 => Dumpable::Disable,
            1 => Dumpable::User,
            _ => Dumpable::Root,
        }
    }
    pub(crate) fn set_dumpable(&self, dumpable: Dumpable) {
        self.dumpable.store(dumpable as u8, Ordering::Relaxed);
    }
}

/// A table of signal handlers (`struct sighand_struct`): only who shares it.
#[derive(Debug)]
pub(crate) struct Sighand {
    /// Keeps the type from being zero-sized, so that two tables never have one address.
    _identity: u8,
}

impl Sighand {
    pub(crate) fn new() -> Arc<Sighand> {
        Arc::new(Sighand { _identity: 0 })
    }
}

/// A thread: `struct task_struct`.
pub struct Task {
    pub(crate) id: TaskId,
    pub(crate) pid: Arc<Pid>,
    pub(crate) signal: SignalId,
    pub(crate) real_parent: TaskId,
    /// Thread group leaders whose `real_parent` this is, oldest first.
    pub(crate) children: Vec<TaskId>,
    /// Sent to the parent when the thread group is dead; `None` for a thread that is not the leader (-1 in Linux).
    pub(crate) exit_signal: Option<i32>,
    /// `None` once the task has exited; so are the next four.
    pub(crate) nsproxy: Option<Arc<NsProxy>>,
    pub(crate) fs: Option<Arc<Mutex<FsStruct>>>,
    pub(crate) mm: Option<Arc<Mm>>,
    pub(crate) sighand: Option<Arc<Sighand>>,
    /// The parent that waits in `vfork(2)`.
    pub(crate) vfork_parent: Option<TaskId>,
    pub(crate) cred: Arc<Cred>,
    /// Its control group, kept when it has exited.
    pub(crate) cgroup: Arc<Cgroup>,
    /// Whether it has not left that by exiting.
    pub(crate) in_cgroup: bool,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: Seccomp,
    /// `PF_EXITING`.
    pub(crate) exiting: bool,
    pub(crate) exit_state: ExitState,
    /// Wait status word.
    pub(crate) exit_code: i32,
    /// `PF_FORKNOEXEC`: has not executed a program since it was forked.
    pub(crate) forknoexec: bool,
    /// `PF_NPROC_EXCEEDED`: a change of user id went beyond RLIMIT_NPROC; the next exec will fail.
    pub(crate) nproc_exceeded: bool,
    pub(crate) start_time: u64,
    /// Events the task's tracer has enabled (`PTRACE_O_TRACE*`); empty without a tracer.
    pub ptrace_events: crate::ptrace::PtraceEvents,
    /// The name in `/proc/PID/comm`, at most 15 bytes.
    pub comm: Vec<u8>,
    /// What is undone at its end (`sysvsem.undo_list`).
    pub(crate) sysvsem: Option<Arc<crate::ipc::sem::SemUndoList>>,
    /// The queue of an IPC object it sleeps in. Set by the embedder.
    pub ipc_wait: Option<crate::ipc::IpcWait>,
}

impl Task {
    /// Its id.
    pub fn id(&self) -> TaskId {
        self.id
    }
    /// Its thread id.
    pub fn pid(&self) -> &Arc<Pid> {
        &self.pid
    }
    /// The thread that created its process, or adopted it.
    pub fn real_parent(&self) -> TaskId {
        self.real_parent
    }
    /// Processes it created or adopted, oldest first.
    pub fn children(&self) -> &[TaskId] {
        &self.children
    }
    /// The signal its parent gets at its end; `None` for a thread that is not the leader.
    pub fn exit_signal(&self) -> Option<i32> {
        self.exit_signal
    }
    /// Its namespaces; `None` after its end.
    pub fn nsproxy(&self) -> Option<&Arc<NsProxy>> {
        self.nsproxy.as_ref()
    }
    /// Root, working directory and umask; `None` after its end.
    pub fn fs(&self) -> Option<&Arc<Mutex<FsStruct>>> {
        self.fs.as_ref()
    }
    /// Its address space; `None` after its end.
    pub fn mm(&self) -> Option<&Arc<Mm>> {
        self.mm.as_ref()
    }
    /// Its credentials.
    pub fn cred(&self) -> &Arc<Cred> {
        &self.cred
    }
    /// Its control group; after its end the last.
    pub fn cgroup(&self) -> &Arc<Cgroup> {
        &self.cgroup
    }
    /// Whether exec gives no privileges (`PR_SET_NO_NEW_PRIVS`).
    pub fn no_new_privs(&self) -> bool {
        self.no_new_privs
    }
    /// Whether it runs or is a zombie.
    pub fn exit_state(&self) -> ExitState {
        self.exit_state
    }
    /// Whether it has begun to end.
    pub fn is_exiting(&self) -> bool {
        self.exiting
    }
    /// When it was created, in the embedder's unit.
    pub fn start_time(&self) -> u64 {
        self.start_time
    }
    /// Sets the name as `PR_SET_NAME` does: cut to 15 bytes.
    pub fn set_comm(&mut self, comm: &[u8]) {
        let end = comm.iter().position(|b| *b == 0).unwrap_or(comm.len()).min(15);
        self.comm = comm[..end].to_vec();
    }
}

/// What a process has told the kernel to do with SIGCHLD, as far as dead children are concerned (`sigaction(2)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigchldAction {
    /// Dead children wait to be waited for.
    Notify,
    /// `SA_NOCLDWAIT`: the signal is sent, but dead children vanish.
    NoCldWait,
    /// `SIG_IGN`: no signal, and dead children vanish.
    Ignore,
}

impl SigchldAction {
    /// What is left of it when handlers are reset: only ignoring (`flush_signal_handlers`).
    pub(crate) fn flushed(self) -> SigchldAction {
        if self == SigchldAction::NoCldWait { SigchldAction::Notify } else { self }
    }
}

/// A thread group, that is a process: `struct signal_struct`.
pub struct SignalStruct {
    pub(crate) id: SignalId,
    /// Threads not yet released, the leader first.
    pub(crate) threads: Vec<TaskId>,
    /// Process id, process group and session; the entry of `PidType::Pid` is unused.
    pub(crate) pids: [Arc<Pid>; 4],
    /// `SIGNAL_UNKILLABLE`: init of a pid namespace.
    pub(crate) unkillable: bool,
    /// Whether it leads its session.
    pub(crate) session_leader: bool,
    pub(crate) is_child_subreaper: bool,
    /// Whether an ancestor is a subreaper.
    pub(crate) has_child_subreaper: bool,
    /// Wait status of `exit_group(2)` or of a fatal signal; overrides that of the leader.
    pub(crate) group_exit_code: Option<i32>,
    pub(crate) rlimits: Rlimits,
    /// What it does about SIGCHLD. Set by the embedder, who sees `rt_sigaction(2)`; fork and exec are seen to here.
    pub sigchld: SigchldAction,
    /// Device number of the controlling terminal.
    pub tty: Option<u64>,
}

impl SignalStruct {
    /// Process id, process group or session.
    pub fn pid(&self, kind: PidType) -> &Arc<Pid> {
        &self.pids[kind as usize]
    }
    /// The leader.
    pub fn leader(&self) -> TaskId {
        self.threads[0]
    }
    /// Threads not yet released, the leader first.
    pub fn threads(&self) -> &[TaskId] {
        &self.threads
    }
    /// Whether it is the init of a pid namespace.
    pub fn is_init(&self) -> bool {
        self.unkillable
    }
    /// Whether it leads its session.
    pub fn is_session_leader(&self) -> bool {
        self.session_leader
    }
    /// Whether orphaned descendants come to it (`PR_SET_CHILD_SUBREAPER`).
    pub fn is_child_subreaper(&self) -> bool {
        self.is_child_subreaper
    }
    /// Its limits.
    pub fn rlimits(&self) -> &Rlimits {
        &self.rlimits
    }
}

impl Kernel {
    /// The task with this id, `None` once it is released.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id)
    }
    /// The task with this id, to change its open fields.
    pub fn task_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(&id)
    }
    /// The thread group of a task.
    pub fn signal_of(&self, task: TaskId) -> Option<&SignalStruct> {
        self.signals.get(&self.tasks.get(&task)?.signal)
    }
    /// The thread group of a task, to change its open fields.
    pub fn signal_of_mut(&mut self, task: TaskId) -> Option<&mut SignalStruct> {
        self.signals.get_mut(&self.tasks.get(&task)?.signal)
    }
    /// The leader of a task's thread group.
    pub fn leader_of(&self, task: TaskId) -> Option<TaskId> {
        self.signal_of(task).map(SignalStruct::leader)
    }
    /// Every task, zombies included.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }
    /// Whether both are threads of one process.
    pub fn same_thread_group(&self, a: TaskId, b: TaskId) -> bool {
        matches!((self.task(a), self.task(b)), (Some(a), Some(b)) if a.signal == b.signal)
    }

    /// Whether the task is the only one of its group (`thread_group_empty`).
    pub(crate) fn thread_group_empty(&self, task: TaskId) -> bool {
        self.threads_of(task).len() == 1
    }
    /// How many tasks share the task's root and working directory (`fs->users`).
    pub(crate) fn fs_users(&self, task: TaskId) -> usize {
        self.sharers(task, |t| t.fs.as_ref())
    }
    /// How many tasks share the task's handler table.
    pub(crate) fn sighand_users(&self, task: TaskId) -> usize {
        self.sharers(task, |t| t.sighand.as_ref())
    }
    /// `current_is_single_threaded`: nobody else is in the thread group or shares the address space.
    pub(crate) fn is_single_threaded(&self, task: TaskId) -> bool {
        self.thread_group_empty(task) && self.sharers(task, |t| t.mm.as_ref()) <= 1
    }
    fn sharers<T: ?Sized>(&self, task: TaskId, of: impl Fn(&Task) -> Option<&Arc<T>>) -> usize {
        // A scan, for calls that are rare. Counts of Arc would include what the embedder holds for a moment.
        let Some(mine) = self.task(task).and_then(&of) else { return 0 };
        self.tasks.values().filter(|t| of(t).is_some_and(|theirs| Arc::ptr_eq(mine, theirs))).count()
    }
}
