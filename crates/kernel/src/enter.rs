//! A process that enters from outside (`nsenter(1)`, `docker exec`): one that the embedder starts in the namespaces of a
//! running task.
//!
//! It is what `nsenter --all --target PID --fork` does, by the same calls and rules: a helper outside of every sandbox's
//! namespaces enters those of the task with [`Kernel::setns`], makes the process there as its sibling, and vanishes. So
//! the process has no parent that it could see (number 0), and the swapper, which stands for the embedder, waits for it.

use std::sync::PoisonError;

use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::fork::{CloneFlags, KernelCloneArgs};
use crate::kernel::Kernel;
use crate::nsproxy::NSPROXY_FLAGS;
use crate::setns::SetnsTarget;
use crate::task::TaskId;

impl Kernel {
    /// Makes a process in the namespaces and the root directory of `target`: leader of a session of its own, with
    /// credentials `cred`, which must be of the target's user namespace. On failure nothing has changed.
    ///
    /// # Errors
    /// `ESRCH` for a task that has ended; `EINVAL` for credentials of another user namespace; `ENOMEM` when the init of
    /// its pid namespace has; `EAGAIN` at the limit of tasks; what the policy says.
    pub fn enter(&mut self, target: TaskId, cred: Cred, now: u64) -> Result<TaskId> {
        let task = self.task(target).filter(|task| !task.exiting).ok_or(Errno::ESRCH)?;
        if cred.user_ns != task.cred.user_ns {
            return Err(Errno::EINVAL);
        }
        let fs = task.fs.clone().ok_or(Errno::ESRCH)?;
        let foreign = task.cred.user_ns != *self.init_user_ns();
        // The helper is none of the sandbox's tasks.
        self.max_threads += 1;
        let made = self.enter_by_helper(target, foreign, now);
        self.max_threads -= 1;
        let child = made?;
        self.commit_creds(child, cred);
        // setns(CLONE_NEWNS) goes to the namespace's root; a task in a chroot is entered where it is.
        if let Some(own) = self.task(child).and_then(|task| task.fs.clone()) {
            let fs = fs.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
            (own.root, own.pwd, own.umask) = (fs.root, fs.pwd, 0o022);
        }
        let _ = self.setsid(child);
        Ok(child)
    }

    fn enter_by_helper(&mut self, target: TaskId, foreign: bool, now: u64) -> Result<TaskId> {
        let outside = self.init_task();
        let helper = self.kernel_clone(outside, &KernelCloneArgs::fork(now))?.child;
        let made = self.enter_by(helper, target, foreign, now);
        let vanished = self.abort_clone(helper);
        debug_assert!(vanished.is_ok(), "the helper has no children of its own");
        made
    }

    fn enter_by(&mut self, helper: TaskId, target: TaskId, foreign: bool, now: u64) -> Result<TaskId> {
        // Nobody re-enters the user namespace he is in.
        let user = if foreign { CloneFlags::NEWUSER } else { CloneFlags::empty() };
        self.setns(helper, &SetnsTarget::Task(target), (NSPROXY_FLAGS | user).bits())?;
        let flags = CloneFlags::PARENT;
        Ok(self.kernel_clone(helper, &KernelCloneArgs { flags, ..KernelCloneArgs::fork(now) })?.child)
    }
}
