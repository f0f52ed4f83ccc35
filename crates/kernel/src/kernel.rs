//! The whole model: every task, and what is global to the system. The embedder keeps one `Kernel` behind one lock.
//!
//! Locks: the kernel's own (the embedder's) is taken first; the small ones inside namespaces and pids are leaves. A
//! task's [`FsStruct`] lock is taken only while forking, unsharing and entering mount namespaces; the embedder may hold it
//! alone, but must not take the kernel's lock under it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use crate::cgroup::{CgroupNamespace, CgroupRoot};
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::fork::{CloneFlags, KernelCloneArgs};
use crate::ipc::{IpcMemory, IpcNamespace};
use crate::mnt_ns::MntNs;
use crate::mount::MntNamespace;
use crate::net::NetNamespace;
use crate::ns_common::NsInums;
use crate::nsproxy::NsProxy;
use crate::pid::{Pid, PidType, Upid};
use crate::pid_namespace::PidNamespace;
use crate::policy::Policy;
use crate::ptrace::PtraceEvents;
use crate::rlimit::Rlimits;
use crate::seccomp::Seccomp;
use crate::task::{Dumpable, ExitState, Mm, SigchldAction, Sighand, SignalId, SignalStruct, Task, TaskId};
use crate::time::TimeNamespace;
use crate::ucount::Ucounts;
use crate::user_namespace::UserNamespace;
use crate::uts::{UtsName, UtsNamespace};
use crate::vfs::FsStruct;

/// SIGCHLD on x86-64.
pub const SIGCHLD: i32 = 17;

/// What a sandbox starts with.
pub struct KernelConfig {
    /// Credentials of the first process. Its user namespace must be a [`UserNamespace::initial`] one.
    pub init_cred: Cred,
    /// Host name.
    pub hostname: Vec<u8>,
    /// NIS domain name; `(none)` by custom.
    pub domainname: Vec<u8>,
    /// Limits of the first process.
    pub limits: Rlimits,
    /// Most tasks at a time (`/proc/sys/kernel/threads-max`).
    pub max_threads: usize,
    /// Numbers stay below it (`/proc/sys/kernel/pid_max`).
    pub pid_max: i32,
    /// Decisions of the embedder.
    pub policy: Option<Arc<dyn Policy>>,
    /// Root, working directory and umask of the first process.
    pub fs: FsStruct,
    /// The mounts `fs` is in.
    pub mnt_ns: Arc<MntNamespace>,
    /// Who owns the initial network namespace, which the first process is in then; default: the initial user namespace, and the first
    /// process gets a network namespace of its own.
    pub net_owner: Option<Arc<UserNamespace>>,
    /// The hierarchy of control groups.
    pub cgroup_root: Arc<CgroupRoot>,
    /// When the system starts, in the unit of [`KernelCloneArgs::now`].
    pub now: u64,
}

/// The model of one sandbox.
pub struct Kernel {
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) signals: BTreeMap<SignalId, SignalStruct>,
    /// Every task that is traced.
    pub(crate) ptraced: BTreeMap<TaskId, crate::ptrace::Tracee>,
    /// Dead tracees that wait for their tracers.
    pub(crate) ptrace_zombies: Vec<crate::ptrace::PtraceZombie>,
    next_id: u64,
    pub(crate) inums: NsInums,
    pub(crate) ucounts: Ucounts,
    pub(crate) max_threads: usize,
    pub(crate) policy: Option<Arc<dyn Policy>>,
    pub(crate) cgroup_root: Arc<CgroupRoot>,
    pub(crate) suid_dumpable: Dumpable,
    init_task: TaskId,
    init_nsproxy: Arc<NsProxy>,
    first_cred: Option<Cred>,
    pub(crate) ipc_memory: Arc<IpcMemory>,
    wall_clock: Box<dyn Fn() -> i64 + Send>,
    /// Instructions of all seccomp filters.
    pub(crate) seccomp_in_all: Arc<AtomicUsize>,
}

impl Kernel {
    /// Makes the initial namespaces (`INIT_NSPROXY`) and the first task (`init_task`, the "swapper"): root of the initial
    /// user namespace, pid 0, the ancestor of every other task. No program runs in it; it stands for the embedder.
    ///
    /// # Panics
    /// When `init_cred` is not of an initial user namespace.
    pub fn new(config: KernelConfig) -> Kernel {
        let user_ns = config.init_cred.user_ns.clone();
        assert_eq!(user_ns.level(), 0, "the first process lives in the initial user namespace");
        let mut inums = NsInums::new();
        let names = UtsName { nodename: config.hostname, domainname: config.domainname };
        let pid_ns = PidNamespace::initial(inums.alloc(), user_ns.clone(), config.pid_max);
        let time = TimeNamespace::new(inums.alloc(), user_ns.clone());
        let ipc_memory = Arc::new(IpcMemory::default());
        let init_nsproxy = NsProxy::new(
            UtsNamespace::new(inums.alloc(), user_ns.clone(), names),
            IpcNamespace::new(inums.alloc(), user_ns.clone(), ipc_memory.clone()),
            MntNs::new(user_ns.clone(), config.mnt_ns),
            pid_ns.clone(),
            NetNamespace::initial(inums.alloc(), config.net_owner.unwrap_or_else(|| user_ns.clone())),
            CgroupNamespace::initial(inums.alloc(), user_ns.clone(), config.cgroup_root.cgrp().clone()),
            time.clone(),
            time,
        );
        let id = TaskId(0);
        // Number 0 is in no table: nobody finds the swapper by it (`init_struct_pid`).
        let pid = Pid::new(Box::new([Upid { nr: 0, ns: pid_ns.clone() }]));
        for kind in PidType::ALL {
            pid.attach(kind, id);
        }
        pid_ns.set_child_reaper(Some(id));
        init_nsproxy.get();
        let cred = Arc::new(Cred::root(user_ns.clone()));
        let mut ucounts = Ucounts::default();
        ucounts.inc_nproc(&cred);
        let signal = SignalStruct {
            id: SignalId(0),
            threads: vec![id],
            pids: std::array::from_fn(|_| pid.clone()),
            // Linux marks only inits; marking the swapper keeps CLONE_PARENT from making it siblings.
            unkillable: true,
            session_leader: false,
            is_child_subreaper: false,
            has_child_subreaper: false,
            group_exit_code: None,
            rlimits: config.limits,
            sigchld: SigchldAction::Notify,
            tty: None,
        };
        let task = Task {
            id,
            pid,
            signal: signal.id,
            real_parent: id,
            children: Vec::new(),
            exit_signal: Some(SIGCHLD),
            nsproxy: Some(init_nsproxy.clone()),
            fs: Some(Arc::new(Mutex::new(config.fs))),
            mm: Some(Mm::new(Vec::new(), user_ns, Dumpable::User)),
            sighand: Some(Sighand::new()),
            vfork_parent: None,
            cred,
            cgroup: config.cgroup_root.cgrp().clone(),
            in_cgroup: false,
            no_new_privs: false,
            seccomp: Seccomp::Disabled,
            exiting: false,
            exit_state: ExitState::Running,
            exit_code: 0,
            forknoexec: false,
            nproc_exceeded: false,
            start_time: config.now,
            ptrace_events: PtraceEvents::empty(),
            comm: b"swapper".to_vec(),
            sysvsem: None,
            ipc_wait: None,
        };
        Kernel {
            tasks: BTreeMap::from([(id, task)]),
            signals: BTreeMap::from([(signal.id, signal)]),
            ptraced: BTreeMap::new(),
            ptrace_zombies: Vec::new(),
            next_id: 1,
            inums,
            ucounts,
            max_threads: config.max_threads,
            policy: config.policy,
            cgroup_root: config.cgroup_root,
            suid_dumpable: Dumpable::Disable,
            init_task: id,
            init_nsproxy,
            first_cred: Some(config.init_cred),
            ipc_memory,
            wall_clock: Box::new(|| 0),
            seccomp_in_all: Arc::default(),
        }
    }

    /// Creates the sandbox's first process: pid 1 of a first pid namespace, with uts, ipc and net namespaces of its own
    /// (the names copied from the initial ones). It keeps the initial mount namespace, which was made for it, and the initial
    /// user and cgroup namespaces.
    ///
    /// # Errors
    /// `EBUSY` when called twice; otherwise those of [`Kernel::kernel_clone`].
    pub fn spawn_first(&mut self, comm: &[u8]) -> Result<TaskId> {
        let cred = self.first_cred.clone().ok_or(Errno::EBUSY)?;
        let now = self.task(self.init_task).map_or(0, Task::start_time);
        let mut flags = CloneFlags::NEWUTS | CloneFlags::NEWIPC | CloneFlags::NEWPID;
        if self.init_nsproxy.net_ns().common().owner() == Some(self.init_user_ns()) {
            flags |= CloneFlags::NEWNET;
        }
        let args = KernelCloneArgs { flags, exit_signal: SIGCHLD, now, ..KernelCloneArgs::default() };
        let first = self.kernel_clone(self.init_task, &args)?.child;
        self.first_cred = None;
        self.commit_creds(first, cred);
        // Like a kernel thread that becomes init by exec: leader of its own session, and dumpable though it changed user.
        let _ = self.setsid(first);
        if let Some(task) = self.tasks.get_mut(&first) {
            task.set_comm(comm);
            if let Some(mm) = &task.mm {
                mm.set_dumpable(Dumpable::User);
            }
        }
        Ok(first)
    }

    /// Sets where the time of day comes from, in seconds since 1970; without it stands still at 0.
    pub fn set_wall_clock(&mut self, clock: impl Fn() -> i64 + Send + 'static) {
        self.wall_clock = Box::new(clock);
    }
    pub(crate) fn wall_clock(&self) -> i64 {
        (self.wall_clock)()
    }

    /// The swapper.
    pub fn init_task(&self) -> TaskId {
        self.init_task
    }
    /// The initial set of namespaces.
    pub fn init_nsproxy(&self) -> &Arc<NsProxy> {
        &self.init_nsproxy
    }
    /// The hierarchy of control groups.
    pub fn cgroup_root(&self) -> &Arc<CgroupRoot> {
        &self.cgroup_root
    }
    /// The initial user namespace.
    pub fn init_user_ns(&self) -> &Arc<UserNamespace> {
        &self.tasks[&self.init_task].cred.user_ns
    }
    /// How many tasks there are, zombies and the swapper included (`nr_threads`).
    pub fn nr_threads(&self) -> usize {
        self.tasks.len()
    }
    /// Processes a user (a kernel id) has in a user namespace, as RLIMIT_NPROC counts.
    pub fn nproc_of(&self, ns: &UserNamespace, uid: u32) -> u64 {
        self.ucounts.nproc(ns, uid)
    }

    pub(crate) fn alloc_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}
