//! Forks that are allowed before they are asked for.
//!
//! An embedder may tell a task which numbers its next children get, and learn of a fork afterwards: Linux needs nothing like it, since
//! there a fork asks nobody. A promise binds until the embedder takes it back, which it must before anything else allocates a number,
//! changes a limit, or changes what a fork copies.

use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::fork::{CloneOutcome, KernelCloneArgs};
use crate::kernel::Kernel;
use crate::rlimit::Resource;
use crate::seccomp::Seccomp;
use crate::task::TaskId;

impl Kernel {
    /// The numbers that the next `count` plain forks of a task will get; none where one of them might be refused, judged, or seen by a tracer.
    pub fn promise_forks(&self, caller: TaskId, count: usize) -> Vec<i32> {
        self.forks_to_come(caller, count).unwrap_or_default()
    }

    fn forks_to_come(&self, caller: TaskId, count: usize) -> Option<Vec<i32>> {
        let task = self.task(caller).filter(|task| !task.exiting)?;
        let ns = task.pid.ns();
        let is_ordinary = self.policy.is_none()
            && *ns == task.nsproxy.as_ref()?.pid_for_children
            && ns.is_alive()
            && self.tracee(caller).is_none()
            && matches!(task.seccomp, Seccomp::Disabled);
        let limit = self.rlimit(caller, Resource::Nproc).ok()?.cur;
        let has_room = self.nr_threads() + count < self.max_threads
            && self.ucounts.nproc_has_room(&task.cred, limit, count as u64)
            && task.cgroup.pids_have_room(count as u64);
        (is_ordinary && has_room).then(|| ns.next_numbers(count))
    }

    /// A fork that was made because it had been promised number `nr`.
    ///
    /// # Errors
    /// Those of [`Kernel::kernel_clone`], where the promise should have been taken back; `EEXIST`: so it should, the number is taken.
    pub fn fork_promised(&mut self, caller: TaskId, nr: i32, now: u64) -> Result<CloneOutcome> {
        let ns = Arc::clone(self.task(caller).ok_or(Errno::ESRCH)?.pid.ns());
        if ns.find(nr).is_some() {
            return Err(Errno::EEXIST);
        }
        // A number below it may have become free meanwhile.
        ns.set_last_pid(nr - 1)?;
        self.kernel_clone(caller, &KernelCloneArgs::fork(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rlimit::Rlimit;
    use crate::tests::boot;

    #[test]
    fn a_promised_fork_gets_its_number_although_a_lower_one_became_free() {
        let (mut kernel, init) = boot();
        let other = kernel.kernel_clone(init, &KernelCloneArgs::fork(0)).unwrap();
        kernel.active_pid_ns(init).unwrap().set_last_pid(other.pid - 1).unwrap();
        let promised = kernel.promise_forks(init, 3);
        assert_eq!(promised, [other.pid + 1, other.pid + 2, other.pid + 3]);
        kernel.exit_group(other.child, 0).unwrap();
        kernel.reap(init, other.child).unwrap();
        for nr in &promised {
            assert_eq!(kernel.fork_promised(init, *nr, 0).unwrap().pid, *nr);
        }
        assert_eq!(kernel.fork_promised(init, promised[0], 0), Err(Errno::EEXIST));
    }

    #[test]
    fn nothing_is_promised_where_a_limit_is_near() {
        let (mut kernel, init) = boot();
        let limit = |cur| Some(Rlimit { cur, max: 1000 });
        kernel.prlimit(init, init, Resource::Nproc, limit(5)).unwrap();
        assert_eq!(kernel.promise_forks(init, 8), []);
        kernel.prlimit(init, init, Resource::Nproc, limit(500)).unwrap();
        assert_eq!(kernel.promise_forks(init, 8).len(), 8);
    }
}
