//! `ptrace(2)`: whether one task may look into another (`ptrace_may_access`), which event a clone reports, and, in the modules
//! below, tracing itself. No task is ever traced by the host's ptrace.

mod tracee;
mod wait;

pub use tracee::{
    Attention, EVENT_STOP, PtraceOptions, PtraceZombie, QueuedStop, Released, ResumeMode, SIGTRAP, Stop,
    StopKind, Tracee,
};
pub use wait::WaitedTracee;

use bitflags::bitflags;

use crate::capability::Cap;
use crate::errno::{Errno, Result};
use crate::fork::{CloneFlags, KernelCloneArgs};
use crate::kernel::{Kernel, SIGCHLD};
use crate::task::{Dumpable, TaskId};

bitflags! {
    /// Events a tracer has enabled (`PTRACE_O_TRACE*`), or the one that is reported.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct PtraceEvents: u32 {
        /// `fork(2)`, or clone with SIGCHLD.
        const FORK = 1 << 1;
        /// `vfork(2)`, or clone with CLONE_VFORK.
        const VFORK = 1 << 2;
        /// Clone with another exit signal.
        const CLONE = 1 << 3;
        /// `execve(2)`.
        const EXEC = 1 << 4;
        /// The end of the wait of `vfork(2)`.
        const VFORK_DONE = 1 << 5;
        /// The end of the task.
        const EXIT = 1 << 6;
    }
}

/// The ids of the caller that count (`PTRACE_MODE_FSCREDS`, `PTRACE_MODE_REALCREDS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PtraceCreds {
    /// The ids for file access: for `/proc`.
    Fs,
    /// The real ids: for system calls.
    Real,
}

impl Kernel {
    /// The event `kernel_clone` reports (SPEC 1.2); empty when the tracer has not enabled it.
    pub(crate) fn ptrace_event_of_clone(&self, caller: TaskId, args: &KernelCloneArgs) -> PtraceEvents {
        let event = if args.flags.contains(CloneFlags::UNTRACED) {
            PtraceEvents::empty()
        } else if args.flags.contains(CloneFlags::VFORK) {
            PtraceEvents::VFORK
        } else if args.exit_signal != SIGCHLD {
            PtraceEvents::CLONE
        } else {
            PtraceEvents::FORK
        };
        self.task(caller).map_or(PtraceEvents::empty(), |t| t.ptrace_events & event)
    }

    /// `__ptrace_may_access`: whether `caller` may look into `target` (`ptrace(2)`, "Ptrace access mode checking").
    ///
    /// # Errors
    /// `ESRCH` when either is gone, `EPERM` when not.
    pub fn ptrace_may_access(&self, caller: TaskId, target: TaskId, creds: PtraceCreds) -> Result<()> {
        let me = self.task(caller).ok_or(Errno::ESRCH)?;
        let them = self.task(target).ok_or(Errno::ESRCH)?;
        if me.signal == them.signal {
            return Ok(());
        }
        let (uid, gid) = match creds {
            PtraceCreds::Fs => (me.cred.fsuid, me.cred.fsgid),
            PtraceCreds::Real => (me.cred.uid, me.cred.gid),
        };
        let theirs = &them.cred;
        let same_user = [theirs.euid, theirs.suid, theirs.uid] == [uid; 3]
            && [theirs.egid, theirs.sgid, theirs.gid] == [gid; 3];
        if !same_user && !me.cred.ns_capable(&theirs.user_ns, Cap::SYS_PTRACE) {
            return Err(Errno::EPERM);
        }
        if let Some(mm) = &them.mm
            && mm.dumpable() != Dumpable::User
            && !me.cred.ns_capable(mm.user_ns(), Cap::SYS_PTRACE)
        {
            return Err(Errno::EPERM);
        }
        // cap_ptrace_access_check: no looking at someone more capable.
        let caps = if creds == PtraceCreds::Fs { me.cred.cap_effective } else { me.cred.cap_permitted };
        let covered = me.cred.user_ns == theirs.user_ns && theirs.cap_permitted.is_subset(caps);
        if covered || me.cred.ns_capable(&theirs.user_ns, Cap::SYS_PTRACE) {
            Ok(())
        } else {
            Err(Errno::EPERM)
        }
    }
}
