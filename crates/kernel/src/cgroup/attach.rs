//! Tasks in groups: where a new one comes to be, how one is moved, and how it leaves (`cgroup_can_fork`,
//! `cgroup_attach_task`, `cgroup_exit`).

use std::sync::Arc;

use super::{Cgroup, CgroupNamespace, CgroupRootFlags, files};
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::fork::{CloneFlags, KernelCloneArgs};
use crate::kernel::Kernel;
use crate::task::{Task, TaskId};
use crate::vfs::permission::{MAY_WRITE, generic_permission};

impl Kernel {
    /// `cgroup_can_fork`: the group a child of `caller` will be in, which counts it already.
    ///
    /// # Errors
    /// `EAGAIN` where `pids.max` forbids another task; with CLONE_INTO_CGROUP `ENODEV` for a group that was removed, and the
    /// errors of moving a task there.
    pub(crate) fn cgroup_can_fork(&self, caller: TaskId, args: &KernelCloneArgs) -> Result<Arc<Cgroup>> {
        let task = self.task(caller).ok_or(Errno::ESRCH)?;
        let dst = match &args.cgroup {
            Some(dst) => {
                if dst.is_dead() {
                    return Err(Errno::ENODEV);
                }
                may_write(dst, &task.cred)?;
                let ns = task.nsproxy.as_ref().ok_or(Errno::ESRCH)?.cgroup.clone();
                let threadgroup = !args.flags.contains(CloneFlags::THREAD);
                self.attach_permissions(&task.cgroup, dst, &task.cred, &ns, threadgroup)?;
                dst.clone()
            }
            None => task.cgroup.clone(),
        };
        dst.pids_try_charge(self.cgroup_root.flags())?;
        Ok(dst)
    }

    /// `cgroup_exit`: the task no longer populates its group. It is still counted until it is released.
    pub(crate) fn cgroup_exit(&mut self, id: TaskId) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if std::mem::take(&mut task.in_cgroup) {
            let cgrp = task.cgroup.clone();
            cgrp.add_tasks(-1);
        }
    }

    /// `cgroup_attach_permissions`
    fn attach_permissions(
        &self,
        src: &Arc<Cgroup>,
        dst: &Arc<Cgroup>,
        cred: &Cred,
        ns: &CgroupNamespace,
        threadgroup: bool,
    ) -> Result<()> {
        // cgroup_procs_write_permission: whoever moves must be allowed to in the group around both.
        let common = src.and_ancestors().find(|cgrp| dst.is_descendant(cgrp)).ok_or(Errno::ENOENT)?;
        may_write(common, cred)?;
        let delegated = self.cgroup_root.flags().contains(CgroupRootFlags::NS_DELEGATE);
        if delegated && !(src.is_descendant(ns.root()) && dst.is_descendant(ns.root())) {
            return Err(Errno::ENOENT);
        }
        // cgroup_migrate_vet_dst: no tasks beside groups that compete for resources with them.
        if !dst.domain().is_valid_domain() {
            return Err(Errno::EOPNOTSUPP);
        }
        if !dst.can_be_thread_root() && !dst.is_threaded() && !dst.subtree_control().is_empty() {
            return Err(Errno::EBUSY);
        }
        if !threadgroup && !Arc::ptr_eq(src.domain(), dst.domain()) {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(())
    }

    /// A write to `cgroup.procs` (`threadgroup`) or `cgroup.threads` of `dst` by `writer`: moves the process or thread of that
    /// number, the writer's own for 0.
    ///
    /// # Errors
    /// `EINVAL` for what is no number; `ENODEV` for a group that was removed; `ESRCH` for no such task; `EACCES` where the group
    /// around both may not be written; `ENOENT` across the boundary of a cgroup namespace; `EBUSY` for a group whose children
    /// have controllers; `EOPNOTSUPP` for an invalid domain, and a thread to another domain.
    pub(super) fn cgroup_procs_write(
        &mut self,
        dst: &Arc<Cgroup>,
        writer: TaskId,
        text: &[u8],
        threadgroup: bool,
    ) -> Result<()> {
        if dst.is_dead() {
            return Err(Errno::ENODEV);
        }
        let nr = files::kstrtoint(text).map_err(|_| Errno::EINVAL)?;
        let target = match nr {
            ..0 => return Err(Errno::EINVAL),
            0 => writer,
            _ => self.find_task_by_vpid(writer, nr).ok_or(Errno::ESRCH)?,
        };
        let target = if threadgroup { self.leader_of(target).ok_or(Errno::ESRCH)? } else { target };
        let caller = self.task(writer).ok_or(Errno::ESRCH)?;
        let ns = caller.nsproxy.as_ref().ok_or(Errno::ESRCH)?.cgroup.clone();
        let src = self.task(target).ok_or(Errno::ESRCH)?.cgroup.clone();
        self.attach_permissions(&src, dst, &caller.cred, &ns, threadgroup)?;
        let moved = if threadgroup { self.threads_of(target).to_vec() } else { vec![target] };
        for id in moved {
            self.migrate(id, dst);
        }
        Ok(())
    }

    /// `cgroup_migrate`: one that is exiting stays.
    fn migrate(&mut self, id: TaskId, dst: &Arc<Cgroup>) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        if !task.in_cgroup || Arc::ptr_eq(&task.cgroup, dst) {
            return;
        }
        let src = std::mem::replace(&mut task.cgroup, dst.clone());
        dst.pids_charge(1);
        src.pids_uncharge(1);
        // The new one first, so that a group around both is never empty in between.
        dst.add_tasks(1);
        src.add_tasks(-1);
    }

    /// The processes of a group and of the threaded ones that belong to it: leaders, also dead ones that other threads outlive
    /// (`CSS_TASK_ITER_PROCS | CSS_TASK_ITER_THREADED`).
    pub fn cgroup_procs(&self, cgrp: &Arc<Cgroup>) -> Vec<TaskId> {
        let of = |task: &&Task| {
            let inside = Arc::ptr_eq(&task.cgroup, cgrp)
                || task.cgroup.is_threaded() && Arc::ptr_eq(task.cgroup.domain(), cgrp);
            inside && task.exit_signal.is_some() && task.id != self.init_task()
        };
        let lives = |task: &&Task| {
            let threads = self.threads_of(task.id).iter();
            task.in_cgroup || threads.filter_map(|id| self.task(*id)).any(|thread| thread.in_cgroup)
        };
        self.tasks().filter(of).filter(lives).map(|task| task.id).collect()
    }

    /// The living threads of a group.
    pub fn cgroup_threads(&self, cgrp: &Arc<Cgroup>) -> Vec<TaskId> {
        let inside = |task: &&Task| task.in_cgroup && Arc::ptr_eq(&task.cgroup, cgrp);
        self.tasks().filter(inside).map(|task| task.id).collect()
    }
}

/// `cgroup_may_write`: whether `cgroup.procs` there may be written.
fn may_write(cgrp: &Arc<Cgroup>, cred: &Cred) -> Result<()> {
    let attr = files::PROCS.attr(cgrp);
    cred.with_walk_cred(|cred| generic_permission(attr.mode, attr.uid, attr.gid, cred, MAY_WRITE))
}
