//! Creation of tasks (`clone(2)`, `kernel_clone` and `copy_process` of `kernel/fork.c`).
//!
//! The source document's kernel counts the user's processes before it copies credentials; since Linux 5.14 the order is the
//! other way round, because the count is per user namespace and credentials may bring a new one. Ours is today's.

use std::sync::{Arc, Mutex, PoisonError};

use bitflags::bitflags;

use crate::capability::Cap;
use crate::cgroup::Cgroup;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::kernel::{Kernel, SIGCHLD};
use crate::nsproxy::NsProxy;
use crate::pid::{Pid, PidType, free_pid_if_unused};
use crate::pid_namespace::alloc_pid;
use crate::policy::ForkRequest;
use crate::ptrace::PtraceEvents;
use crate::rlimit::{RLIM_INFINITY, Resource};
use crate::task::{ExitState, Sighand, SignalId, SignalStruct, Task, TaskId};
use crate::user_namespace::UserNamespace;
use crate::vfs::FsStruct;

bitflags! {
    /// Flags of `clone(2)`, `clone3(2)`, `unshare(2)` and `setns(2)`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct CloneFlags: u64 {
        /// New time namespace (not for `clone(2)`: the bit lies in its exit signal).
        const NEWTIME = 0x80;
        /// Share the address space.
        const VM = 0x100;
        /// Share root, working directory and umask.
        const FS = 0x200;
        /// Share the descriptor table.
        const FILES = 0x400;
        /// Share the signal handlers.
        const SIGHAND = 0x800;
        /// Make a pidfd.
        const PIDFD = 0x1000;
        /// Trace the child too.
        const PTRACE = 0x2000;
        /// The caller waits until the child has done exec or exit.
        const VFORK = 0x4000;
        /// Same parent as the caller.
        const PARENT = 0x8000;
        /// Same thread group.
        const THREAD = 0x1_0000;
        /// New mount namespace.
        const NEWNS = 0x2_0000;
        /// Share the System V semaphore undo list.
        const SYSVSEM = 0x4_0000;
        /// Set the thread pointer.
        const SETTLS = 0x8_0000;
        /// Store the child's number in the parent's memory.
        const PARENT_SETTID = 0x10_0000;
        /// Clear a word in the child's memory when it exits.
        const CHILD_CLEARTID = 0x20_0000;
        /// Ignored, but not together with PIDFD.
        const DETACHED = 0x40_0000;
        /// The tracer cannot force PTRACE.
        const UNTRACED = 0x80_0000;
        /// Store the child's number in the child's memory.
        const CHILD_SETTID = 0x100_0000;
        /// New cgroup namespace.
        const NEWCGROUP = 0x200_0000;
        /// New UTS namespace.
        const NEWUTS = 0x400_0000;
        /// New IPC namespace.
        const NEWIPC = 0x800_0000;
        /// New user namespace.
        const NEWUSER = 0x1000_0000;
        /// New pid namespace.
        const NEWPID = 0x2000_0000;
        /// New network namespace.
        const NEWNET = 0x4000_0000;
        /// Share the I/O context.
        const IO = 0x8000_0000;
        /// Reset all handlers (only `clone3(2)`).
        const CLEAR_SIGHAND = 0x1_0000_0000;
        /// Start in a given control group (only `clone3(2)`).
        const INTO_CGROUP = 0x2_0000_0000;
    }
}

/// The bits of `clone(2)`'s flags that are the exit signal.
pub const CSIGNAL: u64 = 0xff;
/// Highest signal number.
pub const NSIG: i32 = 64;

/// What a clone is asked (`struct kernel_clone_args`), without what only concerns memory.
#[derive(Clone, Debug, Default)]
pub struct KernelCloneArgs {
    /// The flags, without exit signal.
    pub flags: CloneFlags,
    /// The signal the parent gets at the child's end; 0 for none.
    pub exit_signal: i32,
    /// Wanted numbers, innermost namespace first (`clone3(2)`).
    pub set_tid: Vec<i32>,
    /// Whether the pidfd and the parent's copy of the number are to be stored at one address, as `clone(2)` always does.
    pub pidfd_at_parent_tid: bool,
    /// The control group to start in, with CLONE_INTO_CGROUP.
    pub cgroup: Option<Arc<Cgroup>>,
    /// The time, for the start time of the child, in any unit.
    pub now: u64,
}

impl KernelCloneArgs {
    /// The arguments of `fork(2)`.
    pub fn fork(now: u64) -> KernelCloneArgs {
        KernelCloneArgs { exit_signal: SIGCHLD, now, ..KernelCloneArgs::default() }
    }
    /// The arguments of `vfork(2)`.
    pub fn vfork(now: u64) -> KernelCloneArgs {
        KernelCloneArgs { flags: CloneFlags::VFORK | CloneFlags::VM, ..KernelCloneArgs::fork(now) }
    }
    /// The arguments of `clone(2)`, whose lowest flag byte is the exit signal.
    pub fn clone(flags: u64, now: u64) -> KernelCloneArgs {
        let low = flags & 0xffff_ffff;
        KernelCloneArgs {
            flags: CloneFlags::from_bits_truncate(low & !CSIGNAL),
            exit_signal: (low & CSIGNAL) as i32,
            pidfd_at_parent_tid: true,
            now,
            ..KernelCloneArgs::default()
        }
    }
    /// The arguments of `clone3(2)` from its raw flags and exit signal.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, `CLONE_DETACHED`, an exit signal in the flags, an invalid exit signal, one together
    /// with THREAD or PARENT, and SIGHAND with CLEAR_SIGHAND.
    pub fn clone3(flags: u64, exit_signal: u64, set_tid: Vec<i32>, now: u64) -> Result<KernelCloneArgs> {
        let invalid_signal = exit_signal > NSIG as u64;
        let flags = CloneFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        let in_group = flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT);
        if invalid_signal
            || flags.contains(CloneFlags::DETACHED)
            || flags.contains(CloneFlags::SIGHAND | CloneFlags::CLEAR_SIGHAND)
            || in_group && exit_signal != 0
        {
            return Err(Errno::EINVAL);
        }
        Ok(KernelCloneArgs {
            flags,
            exit_signal: exit_signal as i32,
            set_tid,
            cgroup: None,
            pidfd_at_parent_tid: false,
            now,
        })
    }
}

/// A child that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloneOutcome {
    /// The new task.
    pub child: TaskId,
    /// Its number in the caller's pid namespace: the result of the call.
    pub pid: i32,
    /// The number to store in the parent's memory, with CLONE_PARENT_SETTID.
    pub parent_tid: Option<i32>,
    /// Its number in its own pid namespace: what `gettid(2)` answers there and CLONE_CHILD_SETTID stores.
    pub child_tid: i32,
    /// The event to report to the caller's tracer; empty for none.
    pub ptrace_event: PtraceEvents,
    /// Whether the caller must wait until [`crate::exec::ExecOutcome`] or [`crate::exit::ExitOutcome`] names it.
    pub vfork: bool,
}

impl Kernel {
    /// `kernel_clone` (the source document's `do_fork`): creates a task and says what the caller and its tracer learn. Waking
    /// the child and waiting for a vfork child is left to the host.
    ///
    /// # Errors
    /// `EINVAL` for combinations of flags that contradict each other (SPEC 1.3, `clone(2)`); `EPERM` without the
    /// privilege for new namespaces; `EAGAIN` for RLIMIT_NPROC, the thread limit or exhausted numbers, and `pids.max` of a control group; `ENOMEM` in a pid
    /// namespace whose init has died; `ENOSPC` for namespaces nested too deep; what the policy says; `ESRCH` for a caller
    /// that is gone.
    pub fn kernel_clone(&mut self, caller: TaskId, args: &KernelCloneArgs) -> Result<CloneOutcome> {
        let flags = args.flags;
        if args.pidfd_at_parent_tid && flags.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
            return Err(Errno::EINVAL);
        }
        let ptrace_event = self.ptrace_event_of_clone(caller, args);
        let child = self.copy_process(caller, args)?;
        if !ptrace_event.is_empty()
            || flags.contains(CloneFlags::PTRACE) && !flags.contains(CloneFlags::UNTRACED)
        {
            self.ptrace_init_task(caller, child);
        }
        let pid = self.task_pid_vnr(child, caller);
        Ok(CloneOutcome {
            child,
            pid,
            parent_tid: flags.contains(CloneFlags::PARENT_SETTID).then_some(pid),
            child_tid: self.task_pid_vnr(child, child),
            ptrace_event,
            vfork: flags.contains(CloneFlags::VFORK),
        })
    }

    /// What `copy_process` refuses by the flags alone (SPEC 1.3).
    fn check_clone_flags(&self, caller: TaskId, flags: CloneFlags) -> Result<()> {
        use CloneFlags as F;
        let task = self.task(caller).filter(|t| !t.exiting).ok_or(Errno::ESRCH)?;
        let nsproxy = task.nsproxy.as_ref().ok_or(Errno::ESRCH)?;
        let unkillable = self.signal_of(caller).is_some_and(|s| s.unkillable);
        // One root directory cannot be in two mount namespaces, nor be seen through two sets of capabilities.
        let shared_fs = flags.contains(F::NEWNS | F::FS) || flags.contains(F::NEWUSER | F::FS);
        let thread_without_sighand = flags.contains(F::THREAD) && !flags.contains(F::SIGHAND);
        let sighand_without_vm = flags.contains(F::SIGHAND) && !flags.contains(F::VM);
        // Siblings of init would never be reaped, and many trees in one namespace could not be told apart.
        let sibling_of_init = flags.contains(F::PARENT) && unkillable;
        // Threads of a group must see each other by one pid and with one set of privileges.
        let thread_elsewhere = flags.contains(F::THREAD)
            && (flags.intersects(F::NEWUSER | F::NEWPID) || *task.pid.ns() != nsproxy.pid_for_children);
        let detached_pidfd = flags.contains(F::PIDFD | F::DETACHED);
        if shared_fs
            || thread_without_sighand
            || sighand_without_vm
            || sibling_of_init
            || thread_elsewhere
            || detached_pidfd
        {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// `copy_process`: SPEC 1.3 and 1.4. On failure nothing has changed (but for consumed inode numbers).
    fn copy_process(&mut self, caller: TaskId, args: &KernelCloneArgs) -> Result<TaskId> {
        self.check_clone_flags(caller, args.flags)?;
        let parent = self.task(caller).ok_or(Errno::ESRCH)?;
        if let Some(policy) = self.policy.clone() {
            let tgid = self.task_tgid_vnr(caller, caller);
            let (flags, tasks) = (args.flags, self.nr_threads());
            policy.may_fork(&ForkRequest { flags, tgid, comm: &parent.comm, cred: &parent.cred, tasks })?;
        }
        let cred = self.copy_creds(caller, args.flags)?;
        self.ucounts.inc_nproc(&cred);
        let result = self.copy_process_counted(caller, args, cred.clone());
        if result.is_err() {
            self.ucounts.dec_nproc(&cred);
        }
        result
    }

    /// The part of `copy_process` after the child is counted for its user.
    fn copy_process_counted(
        &mut self,
        caller: TaskId,
        args: &KernelCloneArgs,
        cred: Arc<Cred>,
    ) -> Result<TaskId> {
        let limit = self.rlimit(caller, Resource::Nproc)?.cur;
        if self.ucounts.nproc_over_limit(&cred, limit) {
            let mine = &self.task(caller).ok_or(Errno::ESRCH)?.cred;
            // INIT_USER is the initial root, whatever its capabilities.
            let initial_root = cred.uid == 0;
            if !initial_root && !mine.capable(Cap::SYS_RESOURCE) && !mine.capable(Cap::SYS_ADMIN) {
                return Err(Errno::EAGAIN);
            }
        }
        if let Some(parent) = self.tasks.get_mut(&caller) {
            parent.nproc_exceeded = false;
        }
        if self.nr_threads() >= self.max_threads {
            return Err(Errno::EAGAIN);
        }
        // Open files, handlers and memory are the host's to copy or share; here only their identities are.
        let fs = self.copy_fs(caller, args.flags)?;
        let nsproxy = self.copy_namespaces(args.flags, caller, &cred, &fs)?;
        let pid = alloc_pid(
            &nsproxy.pid_for_children,
            &args.set_tid,
            &self.task(caller).ok_or(Errno::ESRCH)?.cred,
        )?;
        let cgroup = self.cgroup_can_fork(caller, args).inspect_err(|_| free_pid_if_unused(&pid))?;
        // Nothing below fails.
        Ok(self.attach_child(caller, args, NewTask { cred, fs, nsproxy, pid, cgroup }))
    }

    /// `copy_creds`: those of the caller, or a copy in a new user namespace.
    fn copy_creds(&mut self, caller: TaskId, flags: CloneFlags) -> Result<Arc<Cred>> {
        let cred = self.task(caller).ok_or(Errno::ESRCH)?.cred.clone();
        if !flags.contains(CloneFlags::NEWUSER) {
            return Ok(cred);
        }
        Ok(Arc::new(self.create_user_ns(caller, &cred)?))
    }

    /// Credentials like `cred` in a new user namespace made by `caller`. For errors see [`UserNamespace::create`].
    pub(crate) fn create_user_ns(&mut self, caller: TaskId, cred: &Cred) -> Result<Cred> {
        // enforced_nproc_rlimit: the initial root is unlimited, so is what it creates.
        let limited = cred.uid != 0 || cred.user_ns.level() != 0;
        let nproc_max = if limited { self.rlimit(caller, Resource::Nproc)?.cur } else { RLIM_INFINITY };
        let chrooted = self.is_chrooted(caller);
        let ns = UserNamespace::create(self.inums.alloc(), cred, chrooted, nproc_max)?;
        let mut cred = cred.clone();
        cred.set_user_ns(ns);
        Ok(cred)
    }

    /// `current_chrooted`.
    fn is_chrooted(&self, task: TaskId) -> bool {
        let Some(Task { fs: Some(fs), nsproxy: Some(nsproxy), .. }) = self.task(task) else { return false };
        crate::mnt_ns::is_chrooted(nsproxy.mnt.mounts(), &fs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn copy_fs(&self, caller: TaskId, flags: CloneFlags) -> Result<Arc<Mutex<FsStruct>>> {
        let fs = self.task(caller).and_then(|t| t.fs.as_ref()).ok_or(Errno::ESRCH)?;
        Ok(if flags.contains(CloneFlags::FS) { fs.clone() } else { copy_fs_struct(fs) })
    }

    /// The end of `copy_process`: enters the child into the tables.
    fn attach_child(&mut self, caller: TaskId, args: &KernelCloneArgs, new: NewTask) -> TaskId {
        let flags = args.flags;
        let id = TaskId(self.alloc_id());
        let sysvsem = self.copy_semundo(caller, flags);
        let thread = flags.contains(CloneFlags::THREAD);
        let new_signal = SignalId(if thread { 0 } else { self.alloc_id() });
        let parent = &self.tasks[&caller];
        let group = &self.signals[&parent.signal];
        let siblings = thread || flags.contains(CloneFlags::PARENT);
        let real_parent = if siblings { parent.real_parent } else { caller };
        let exit_signal = if thread {
            None
        } else if flags.contains(CloneFlags::PARENT) {
            self.tasks[&group.leader()].exit_signal
        } else {
            Some(args.exit_signal)
        };
        let share = |flag| flags.contains(flag);
        let task = Task {
            id,
            pid: new.pid.clone(),
            signal: if thread { parent.signal } else { new_signal },
            real_parent,
            children: Vec::new(),
            exit_signal,
            mm: parent.mm.as_ref().map(|mm| if share(CloneFlags::VM) { mm.clone() } else { mm.duplicate() }),
            sighand: if share(CloneFlags::SIGHAND) { parent.sighand.clone() } else { Some(Sighand::new()) },
            nsproxy: None,
            fs: Some(new.fs),
            vfork_parent: share(CloneFlags::VFORK).then_some(caller),
            cred: new.cred,
            cgroup: new.cgroup.clone(),
            in_cgroup: true,
            no_new_privs: parent.no_new_privs,
            seccomp: parent.seccomp.clone(),
            exiting: false,
            exit_state: ExitState::Running,
            exit_code: 0,
            forknoexec: true,
            nproc_exceeded: false,
            start_time: args.now,
            ptrace_events: PtraceEvents::empty(),
            comm: parent.comm.clone(),
            sysvsem,
            ipc_wait: None,
        };
        let parent_of_group = &self.signals[&self.tasks[&real_parent].signal];
        let signal = SignalStruct {
            id: new_signal,
            threads: vec![id],
            pids: [
                new.pid.clone(),
                new.pid.clone(),
                group.pid(PidType::Pgid).clone(),
                group.pid(PidType::Sid).clone(),
            ],
            unkillable: new.pid.is_child_reaper(),
            session_leader: false,
            is_child_subreaper: false,
            has_child_subreaper: parent_of_group.has_child_subreaper || parent_of_group.is_child_subreaper,
            group_exit_code: None,
            rlimits: group.rlimits,
            sigchld: if share(CloneFlags::CLEAR_SIGHAND) { group.sigchld.flushed() } else { group.sigchld },
            tty: group.tty,
        };
        new.pid.attach(PidType::Pid, id);
        self.tasks.insert(id, task);
        if thread {
            let group = self.tasks[&caller].signal;
            self.signals.entry(group).and_modify(|s| s.threads.push(id));
        } else {
            for kind in [PidType::Tgid, PidType::Pgid, PidType::Sid] {
                signal.pid(kind).attach(kind, id);
            }
            if signal.unkillable {
                new.pid.ns().set_child_reaper(Some(id));
            }
            self.signals.insert(signal.id, signal);
            self.tasks.entry(real_parent).and_modify(|t| t.children.push(id));
        }
        self.switch_task_namespaces(id, Some(new.nsproxy));
        new.cgroup.add_tasks(1);
        id
    }

    /// Takes back a clone whose host process could not be made: the child, which has never run, vanishes without exit
    /// code or zombie. `ESRCH` when it is gone, `EBUSY` when it has created tasks itself.
    pub fn abort_clone(&mut self, child: TaskId) -> Result<()> {
        let task = self.task(child).ok_or(Errno::ESRCH)?;
        let leads_others = task.exit_signal.is_some() && !self.thread_group_empty(child);
        if child == self.init_task() || !task.children.is_empty() || leads_others {
            return Err(Errno::EBUSY);
        }
        let (ns, init) = (task.pid.ns().clone(), task.pid.is_child_reaper());
        if init && ns.child_reaper() == Some(child) {
            ns.set_child_reaper(None);
        }
        self.exit_ipc(child);
        self.switch_task_namespaces(child, None);
        self.cgroup_exit(child);
        self.unhash(child);
        Ok(())
    }
}

/// What `copy_process` has made before the child exists.
struct NewTask {
    cred: Arc<Cred>,
    fs: Arc<Mutex<FsStruct>>,
    nsproxy: Arc<NsProxy>,
    pid: Arc<Pid>,
    cgroup: Arc<Cgroup>,
}

/// `copy_fs_struct`.
pub(crate) fn copy_fs_struct(fs: &Mutex<FsStruct>) -> Arc<Mutex<FsStruct>> {
    Arc::new(Mutex::new(fs.lock().unwrap_or_else(PoisonError::into_inner).clone()))
}
