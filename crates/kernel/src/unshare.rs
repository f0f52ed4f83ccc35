//! `unshare(2)`: a task leaves namespaces and other things it shares.

use std::sync::Arc;

use crate::capability::Cap;
use crate::errno::{Errno, Result};
use crate::fork::{CloneFlags, copy_fs_struct};
use crate::kernel::Kernel;
use crate::nsproxy::NSPROXY_FLAGS;
use crate::task::TaskId;

impl Kernel {
    /// `ksys_unshare`. The descriptor table is the host's.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags; for THREAD, SIGHAND, VM or NEWUSER in a process with several threads; for SIGHAND or VM
    /// where handlers or memory are shared with another process; for NEWPID when an earlier one has not been followed by
    /// a fork. `EPERM` without CAP_SYS_ADMIN in the (new) user namespace, or as [`UserNamespace::create`] says. `ENOSPC`
    /// for namespaces nested too deep. `ESRCH` for a task that is gone.
    ///
    /// [`UserNamespace::create`]: crate::user_namespace::UserNamespace
    pub fn unshare(&mut self, caller: TaskId, flags: u64) -> Result<()> {
        use CloneFlags as F;
        let task = self.task(caller).filter(|t| !t.exiting).ok_or(Errno::ESRCH)?;
        let old_cred = task.cred.clone();
        let old = task.nsproxy.clone().ok_or(Errno::ESRCH)?;
        let fs = task.fs.clone().ok_or(Errno::ESRCH)?;
        let mut flags = F::from_bits(flags).ok_or(Errno::EINVAL)?;
        if flags.contains(F::NEWUSER) {
            flags |= F::THREAD | F::FS;
        }
        if flags.contains(F::VM) {
            flags |= F::SIGHAND;
        }
        if flags.contains(F::SIGHAND) {
            flags |= F::THREAD;
        }
        if flags.contains(F::NEWNS) {
            flags |= F::FS;
        }
        self.check_unshare_flags(caller, flags)?;
        let new_fs = (flags.contains(F::FS) && self.fs_users(caller) > 1).then(|| copy_fs_struct(&fs));
        let new_cred = match flags.contains(F::NEWUSER) {
            true => Some(self.create_user_ns(caller, &old_cred)?),
            false => None,
        };
        // CLONE_NEWIPC must also detach from the undo list: its semaphores would be out of reach.
        let detach = flags.intersects(F::NEWIPC | F::SYSVSEM);
        if flags.intersects(NSPROXY_FLAGS) {
            let user_ns = new_cred.as_ref().map_or(&old_cred.user_ns, |c| &c.user_ns).clone();
            if !old_cred.ns_capable(&user_ns, Cap::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            let moved = new_fs.as_ref().unwrap_or(&fs);
            let new = self.create_new_namespaces(flags, caller, &old, &user_ns, moved)?;
            if detach {
                self.exit_sem(caller);
            }
            self.switch_task_namespaces(caller, Some(Arc::new(new)));
        } else if detach {
            self.exit_sem(caller);
        }
        if let Some(new_fs) = new_fs {
            self.tasks.entry(caller).and_modify(|t| t.fs = Some(new_fs));
        }
        if let Some(cred) = new_cred {
            self.commit_creds(caller, cred);
        }
        Ok(())
    }

    /// `check_unshare_flags`: what cannot be unshared may be asked for only where it is not shared.
    fn check_unshare_flags(&self, caller: TaskId, flags: CloneFlags) -> Result<()> {
        use CloneFlags as F;
        let known =
            NSPROXY_FLAGS | F::NEWUSER | F::THREAD | F::FS | F::SIGHAND | F::VM | F::FILES | F::SYSVSEM;
        let threads = flags.intersects(F::THREAD | F::SIGHAND | F::VM) && !self.thread_group_empty(caller);
        let handlers = flags.intersects(F::SIGHAND | F::VM) && self.sighand_users(caller) > 1;
        let memory = flags.contains(F::VM) && !self.is_single_threaded(caller);
        if !known.contains(flags) || threads || handlers || memory { Err(Errno::EINVAL) } else { Ok(()) }
    }
}
