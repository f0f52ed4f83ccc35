//! Tracees: who traces whom, in which stop a tracee is, and how it goes on (`kernel/ptrace.c`, `ptrace(2)`).
//!
//! Registers and memory are the host's. A tracee that stops is parked by the embedder, which tells the model of the stop
//! ([`Kernel::ptrace_stop`]); what the tracer asks is checked here ([`Kernel::ptrace_check_attach`]).

use std::sync::Arc;

use bitflags::bitflags;

use super::{PtraceCreds, PtraceEvents};
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::pid::Pid;
use crate::signal::{SIGKILL, SIGSTOP};
use crate::task::{ExitState, TaskId};

/// `SIGTRAP`.
pub const SIGTRAP: i32 = 5;
/// `PTRACE_EVENT_STOP`.
pub const EVENT_STOP: i32 = 128;
const SI_USER: i32 = 0;
const SI_KERNEL: i32 = 0x80;

bitflags! {
    /// Options of a tracer (`PTRACE_SETOPTIONS`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PtraceOptions: u32 {
        /// System call stops have bit 7 in their signal.
        const SYSGOOD = 1;
        /// Stop at `fork(2)`, and trace the child.
        const FORK = 1 << 1;
        /// Stop at `vfork(2)`, and trace the child.
        const VFORK = 1 << 2;
        /// Stop at `clone(2)`, and trace the child.
        const CLONE = 1 << 3;
        /// Stop at `execve(2)`.
        const EXEC = 1 << 4;
        /// Stop at the end of the wait of `vfork(2)`.
        const VFORK_DONE = 1 << 5;
        /// Stop before the end.
        const EXIT = 1 << 6;
        /// Stop when a seccomp filter says so.
        const SECCOMP = 1 << 7;
        /// Kill the tracee when the tracer ends.
        const EXITKILL = 1 << 20;
    }
}

/// Why a tracee stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// Before a signal is delivered.
    Signal,
    /// Before a system call.
    SyscallEntry,
    /// After a system call.
    SyscallExit,
    /// An event (`PTRACE_EVENT_*`).
    Event,
    /// The process is stopped by a signal, and the tracee with it.
    Group,
}

/// A stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub kind: StopKind,
    /// Signal, and above it the event.
    pub code: i32,
    /// Whether a wait has told the tracer.
    pub reported: bool,
    /// `PTRACE_LISTEN`: the stop goes on, but the tracer may not touch the tracee.
    pub listening: bool,
}

impl Stop {
    /// The wait status.
    pub fn status(&self) -> i32 {
        self.code << 8 | 0x7f
    }
}

/// How a tracee was told to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ResumeMode {
    /// `PTRACE_CONT`.
    #[default]
    Cont,
    /// `PTRACE_SYSCALL`.
    Syscall,
    /// `PTRACE_SINGLESTEP`.
    SingleStep,
}

/// A signal that stops, to be reported by a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedStop {
    /// The signal.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
    /// The sender's number as the tracee sees it.
    pub pid: i32,
    /// The sender's real user as the tracee sees it.
    pub uid: u32,
}

/// What a tracee that runs has to do at its next chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attention {
    /// Report this signal (`SIGSTOP`).
    Signal(QueuedStop),
    /// A stop with [`EVENT_STOP`] and this signal.
    Trap(i32),
    /// The process is stopped by this signal.
    Group(i32),
}

/// The tracing of a task (`task->ptrace`).
#[derive(Clone, Debug)]
pub struct Tracee {
    /// The thread that traces.
    pub tracer: TaskId,
    /// Attached with `PTRACE_SEIZE`.
    pub seized: bool,
    /// Options.
    pub options: PtraceOptions,
    /// How it goes on, or went.
    pub mode: ResumeMode,
    /// The stop it is in.
    pub stop: Option<Stop>,
    /// `PTRACE_GETEVENTMSG`: a number, for events about a task its number as the tracer sees it.
    pub message: u64,
    /// What it has to do.
    pub attention: Vec<Attention>,
    /// What it says its wait status will be.
    pub exit_status: Option<i32>,
}

/// A dead tracee that its tracer has not waited for, where no native wait finds it: a thread, or another's child.
#[derive(Clone, Debug)]
pub struct PtraceZombie {
    /// Its tracer.
    pub tracer: TaskId,
    /// Its number.
    pub pid: Arc<Pid>,
    /// Its real user.
    pub uid: u32,
    /// Its wait status.
    pub status: i32,
}

/// A tracee whose tracer has ended or let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Released {
    /// The tracee.
    pub task: TaskId,
    /// `PTRACE_O_EXITKILL`.
    pub kill: bool,
    /// It was stopped, and must be woken.
    pub stopped: bool,
}

impl Kernel {
    /// How a task is traced.
    pub fn tracee(&self, task: TaskId) -> Option<&Tracee> {
        self.ptraced.get(&task)
    }

    /// As [`Kernel::tracee`], to change it.
    pub fn tracee_mut(&mut self, task: TaskId) -> Option<&mut Tracee> {
        self.ptraced.get_mut(&task)
    }

    /// Whether a process traces, or has dead tracees to wait for.
    pub fn is_tracer(&self, task: TaskId) -> bool {
        let own = |tracer: TaskId| self.same_thread_group(tracer, task);
        self.ptraced.values().any(|tracee| own(tracee.tracer))
            || self.ptrace_zombies.iter().any(|zombie| own(zombie.tracer))
    }

    /// The tracees among the threads of a process.
    pub fn traced_threads(&self, process: TaskId) -> Vec<TaskId> {
        if self.ptraced.is_empty() {
            return Vec::new();
        }
        self.threads_of(process).iter().copied().filter(|thread| self.ptraced.contains_key(thread)).collect()
    }

    fn link(&mut self, task: TaskId, tracee: Tracee) {
        self.ptraced.insert(task, tracee);
        self.set_ptrace_events(task);
    }

    fn set_ptrace_events(&mut self, task: TaskId) {
        let options = self.tracee(task).map_or(0, |tracee| tracee.options.bits());
        if let Some(task) = self.task_mut(task) {
            task.ptrace_events = PtraceEvents::from_bits_truncate(options);
        }
    }

    /// `PTRACE_TRACEME`: the parent becomes the caller's tracer, and is given.
    ///
    /// # Errors
    /// `EPERM` when the caller is traced, or its parent is outside of the sandbox or may not look into it.
    pub fn ptrace_traceme(&mut self, caller: TaskId) -> Result<TaskId> {
        let me = self.task(caller).ok_or(Errno::ESRCH)?;
        let parent = me.real_parent;
        let theirs = self.task(parent).ok_or(Errno::EPERM)?;
        if self.tracee(caller).is_some() || parent == self.init_task() || theirs.exiting {
            return Err(Errno::EPERM);
        }
        // cap_ptrace_traceme
        let covered = theirs.cred.user_ns == me.cred.user_ns
            && me.cred.cap_permitted.is_subset(theirs.cred.cap_permitted);
        if !covered && !theirs.cred.ns_capable(&me.cred.user_ns, crate::capability::Cap::SYS_PTRACE) {
            return Err(Errno::EPERM);
        }
        self.link(caller, Tracee::new(parent, false, PtraceOptions::empty()));
        Ok(parent)
    }

    /// `PTRACE_ATTACH` and `PTRACE_SEIZE` (with `options`).
    ///
    /// # Errors
    /// `EPERM` for a thread of the caller's own process, one that is traced, dead, or that the caller may not look into
    /// (`PTRACE_MODE_ATTACH_REALCREDS`); `ESRCH`.
    pub fn ptrace_attach(
        &mut self,
        caller: TaskId,
        target: TaskId,
        seize: Option<PtraceOptions>,
    ) -> Result<()> {
        let them = self.task(target).ok_or(Errno::ESRCH)?;
        if self.same_thread_group(caller, target) {
            return Err(Errno::EPERM);
        }
        let dead = them.exiting || them.exit_state != ExitState::Running;
        self.ptrace_may_access(caller, target, PtraceCreds::Real)?;
        if dead || self.tracee(target).is_some() {
            return Err(Errno::EPERM);
        }
        let mut tracee = Tracee::new(caller, seize.is_some(), seize.unwrap_or_default());
        if seize.is_none() {
            let stop = QueuedStop { signal: SIGSTOP, code: SI_KERNEL, pid: 0, uid: 0 };
            tracee.attention.push(Attention::Signal(stop));
        }
        self.link(target, tracee);
        Ok(())
    }

    /// `ptrace_init_task`: a child whose maker stops for it, or that is made with `CLONE_PTRACE`, is traced too.
    pub(crate) fn ptrace_init_task(&mut self, maker: TaskId, child: TaskId) {
        let Some(makers) = self.tracee(maker) else { return };
        let mut tracee = Tracee::new(makers.tracer, makers.seized, makers.options);
        tracee.attention.push(if makers.seized {
            Attention::Trap(SIGTRAP)
        } else {
            Attention::Signal(QueuedStop { signal: SIGSTOP, code: SI_USER, pid: 0, uid: 0 })
        });
        self.link(child, tracee);
    }

    /// `PTRACE_SETOPTIONS`.
    pub fn ptrace_set_options(&mut self, tracee: TaskId, options: PtraceOptions) {
        if let Some(tracee) = self.tracee_mut(tracee) {
            tracee.options = options;
        }
        self.set_ptrace_events(tracee);
    }

    /// `ptrace_check_attach`: the tracee that the caller asks about.
    ///
    /// # Errors
    /// `ESRCH` when the caller does not trace it, or it is not stopped where it must be.
    pub fn ptrace_check_attach(
        &mut self,
        caller: TaskId,
        target: TaskId,
        ignore_state: bool,
    ) -> Result<&mut Tracee> {
        let tracee = self.ptraced.get_mut(&target).filter(|tracee| tracee.tracer == caller);
        let tracee = tracee.ok_or(Errno::ESRCH)?;
        let stopped = tracee.stop.is_some_and(|stop| !stop.listening);
        if stopped || ignore_state { Ok(tracee) } else { Err(Errno::ESRCH) }
    }

    /// A tracee stops. Gives the tracer, who must be told.
    ///
    /// # Errors
    /// `ESRCH` when it is not traced.
    pub fn ptrace_stop(&mut self, task: TaskId, kind: StopKind, code: i32, message: u64) -> Result<TaskId> {
        let tracee = self.tracee_mut(task).ok_or(Errno::ESRCH)?;
        tracee.stop = Some(Stop { kind, code, reported: false, listening: false });
        tracee.message = message;
        Ok(tracee.tracer)
    }

    /// Ends the tracing of a task.
    pub fn ptrace_unlink(&mut self, task: TaskId) -> Option<Tracee> {
        let tracee = self.ptraced.remove(&task)?;
        self.set_ptrace_events(task);
        Some(tracee)
    }

    /// `exit_ptrace`: what a thread that ends has traced goes on untraced.
    pub(crate) fn exit_ptrace(&mut self, tracer: TaskId) -> Vec<Released> {
        if self.ptraced.is_empty() && self.ptrace_zombies.is_empty() {
            return Vec::new();
        }
        self.ptrace_zombies.retain(|zombie| zombie.tracer != tracer);
        let tracees: Vec<TaskId> = self
            .ptraced
            .iter()
            .filter(|(_, tracee)| tracee.tracer == tracer)
            .map(|(task, _)| *task)
            .collect();
        let release = |task: &TaskId| {
            let tracee = self.ptrace_unlink(*task)?;
            let kill = tracee.options.contains(PtraceOptions::EXITKILL);
            Some(Released { task: *task, kill, stopped: tracee.stop.is_some() })
        };
        tracees.iter().filter_map(release).collect()
    }

    /// A dead tracee of a tracer, the latest.
    pub fn ptrace_zombie_of(&self, tracer: TaskId) -> Option<&PtraceZombie> {
        self.ptrace_zombies.iter().rev().find(|zombie| zombie.tracer == tracer)
    }

    /// Whether a tracer finds the end of a tracee natively: it is a process, and its own child.
    pub fn ptrace_waits_natively(&self, id: TaskId) -> bool {
        let (Some(tracee), Some(task)) = (self.tracee(id), self.task(id)) else { return false };
        task.exit_signal.is_some() && self.same_thread_group(task.real_parent, tracee.tracer)
    }

    /// A tracee has ended: its tracer can wait for it, unless it finds it natively, as its own child.
    pub fn ptrace_ended(&mut self, id: TaskId, status: i32) -> Option<TaskId> {
        let own_child = self.ptrace_waits_natively(id);
        let tracee = self.ptraced.remove(&id)?;
        let task = self.task(id)?;
        if own_child || self.task(tracee.tracer).is_none_or(|tracer| tracer.exiting) {
            return None;
        }
        let (pid, uid) = (task.pid.clone(), task.cred.uid);
        // Whatever ends by itself says so; the host does not tell how others' children end.
        let status = tracee.exit_status.unwrap_or(if status == 0 { SIGKILL } else { status });
        self.ptrace_zombies.push(PtraceZombie { tracer: tracee.tracer, pid, uid, status });
        Some(tracee.tracer)
    }

    /// A task becomes another's tracee's place: an exec by another thread than the leader ends the tracing of the rest.
    pub(crate) fn ptrace_vanished(&mut self, others: &[TaskId], leader: TaskId) {
        for other in others {
            if *other == leader {
                self.ptraced.remove(other);
            } else {
                if let Some(tracee) = self.tracee_mut(*other) {
                    tracee.exit_status = Some(0);
                }
                self.ptrace_ended(*other, 0);
            }
        }
    }

    /// A signal that stops (`SIGSTOP`) is sent to a process of which tracees are threads: one of them reports it. False: there is
    /// none, so it is the host's to send.
    pub fn ptrace_send_stop(
        &mut self,
        threads: &[TaskId],
        signal: i32,
        pid: i32,
        uid: u32,
    ) -> Option<TaskId> {
        let chosen = threads.iter().copied().find(|thread| self.ptraced.contains_key(thread))?;
        let tracee = self.tracee_mut(chosen)?;
        let queued = |what: &Attention| matches!(what, Attention::Signal(stop) if stop.signal == signal);
        if !tracee.attention.iter().any(queued) {
            tracee.attention.push(Attention::Signal(QueuedStop { signal, code: SI_USER, pid, uid }));
        }
        Some(chosen)
    }

    /// A process is stopped by `signal`: the other tracees in it are to stop as well. Gives them.
    pub fn ptrace_group_stop(&mut self, task: TaskId, signal: i32) -> Vec<TaskId> {
        let others: Vec<TaskId> =
            self.traced_threads(task).into_iter().filter(|other| *other != task).collect();
        for other in &others {
            if let Some(tracee) = self.tracee_mut(*other) {
                tracee.attention.push(Attention::Group(signal));
            }
        }
        others
    }

    /// `SIGCONT`: stops that have not been reported are forgotten; tracees that are listened to report the end of the stop. Gives
    /// those.
    pub fn ptrace_continue_group(&mut self, threads: &[TaskId]) -> Vec<TaskId> {
        let mut told = Vec::new();
        for thread in threads {
            let Some(tracee) = self.tracee_mut(*thread) else { continue };
            tracee.attention.retain(|what| !matches!(what, Attention::Signal(..) | Attention::Group(_)));
            if let Some(stop) = tracee.stop.as_mut().filter(|stop| stop.listening) {
                *stop = Stop {
                    kind: StopKind::Event,
                    code: EVENT_STOP << 8 | SIGTRAP,
                    reported: false,
                    listening: false,
                };
                told.push(*thread);
            }
        }
        told
    }
}

impl Tracee {
    fn new(tracer: TaskId, seized: bool, options: PtraceOptions) -> Tracee {
        Tracee {
            tracer,
            seized,
            options,
            mode: ResumeMode::Cont,
            stop: None,
            message: 0,
            attention: Vec::new(),
            exit_status: None,
        }
    }
}
