//! Resource limits (`getrlimit(2)`): kept per thread group, inherited over fork and exec. Those on processes are enforced
//! here; the ones on memory, files and time are also set on the host process by the supervisor.

use crate::capability::Cap;
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::task::TaskId;

/// No limit.
pub const RLIM_INFINITY: u64 = u64::MAX;
/// Number of resources.
pub const RLIM_NLIMITS: usize = 16;
/// `/proc/sys/fs/nr_open`: no hard limit of open files can be above.
pub const NR_OPEN: u64 = 1024 * 1024;

/// A limited resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of getrlimit(2)")]
pub enum Resource {
    Cpu = 0,
    Fsize = 1,
    Data = 2,
    Stack = 3,
    Core = 4,
    Rss = 5,
    Nproc = 6,
    Nofile = 7,
    Memlock = 8,
    As = 9,
    Locks = 10,
    Sigpending = 11,
    Msgqueue = 12,
    Nice = 13,
    Rtprio = 14,
    Rttime = 15,
}

impl Resource {
    /// The resource with this number. `EINVAL` beyond the last.
    pub fn new(nr: u32) -> Result<Resource> {
        use Resource::*;
        const ALL: [Resource; RLIM_NLIMITS] = [
            Cpu, Fsize, Data, Stack, Core, Rss, Nproc, Nofile, Memlock, As, Locks, Sigpending, Msgqueue,
            Nice, Rtprio, Rttime,
        ];
        ALL.get(nr as usize).copied().ok_or(Errno::EINVAL)
    }
}

/// Soft and hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    /// What is enforced.
    pub cur: u64,
    /// How far the soft limit may be raised.
    pub max: u64,
}

impl Rlimit {
    /// Unlimited.
    pub const INFINITY: Rlimit = Rlimit { cur: RLIM_INFINITY, max: RLIM_INFINITY };
}

/// The limits of a thread group, indexed by [`Resource`].
pub type Rlimits = [Rlimit; RLIM_NLIMITS];

impl Kernel {
    /// The limits of the task's thread group. `ESRCH` for a task that is gone.
    pub fn rlimit(&self, task: TaskId, resource: Resource) -> Result<Rlimit> {
        Ok(self.signal_of(task).ok_or(Errno::ESRCH)?.rlimits[resource as usize])
    }

    /// `prlimit(2)`: changes a limit of `target` where `new` is given, and returns the old one.
    ///
    /// # Errors
    /// `ESRCH` for a task that is gone; `EPERM` when the real ids of the caller are not all ids of the target and it has
    /// no CAP_SYS_RESOURCE there, when a hard limit would rise without CAP_SYS_RESOURCE, or the hard limit of open files
    /// would pass [`NR_OPEN`]; `EINVAL` when the soft limit is above the hard one.
    pub fn prlimit(
        &mut self,
        caller: TaskId,
        target: TaskId,
        resource: Resource,
        new: Option<Rlimit>,
    ) -> Result<Rlimit> {
        let cred = self.task(caller).ok_or(Errno::ESRCH)?.cred().clone();
        let theirs = self.task(target).ok_or(Errno::ESRCH)?.cred().clone();
        let same_ids = [theirs.euid, theirs.suid, theirs.uid] == [cred.uid; 3]
            && [theirs.egid, theirs.sgid, theirs.gid] == [cred.gid; 3];
        if caller != target && !same_ids && !cred.ns_capable(&theirs.user_ns, Cap::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        let old = self.rlimit(target, resource)?;
        if let Some(new) = new {
            if new.cur > new.max {
                return Err(Errno::EINVAL);
            }
            let too_many_files = resource == Resource::Nofile && new.max > NR_OPEN;
            if too_many_files || new.max > old.max && !cred.capable(Cap::SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            if let Some(signal) = self.signal_of_mut(target) {
                signal.rlimits[resource as usize] = new;
            }
        }
        Ok(old)
    }
}
