//! The set of namespaces a task is in (`struct nsproxy`, `namespaces(7)`), shared by all tasks that share *all* of them.
//!
//! Its count is the number of tasks that hold it; the count of each namespace ([`NsCommon::count`]) is the number of
//! counted nsproxies that point to it. Both are kept explicitly rather than read from `Arc`, whose counts include
//! whoever looks at the moment: an nsproxy enters the count of its namespaces with its first task and leaves it with the
//! last. The user namespace is not here but in the credentials.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::capability::Cap;
use crate::cgroup::CgroupNamespace;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::fork::CloneFlags;
use crate::ipc::IpcNamespace;
use crate::kernel::Kernel;
use crate::mnt_ns::MntNs;
use crate::mount::copy_mnt_ns;
use crate::net::NetNamespace;
use crate::ns_common::NsCommon;
use crate::pid_namespace::PidNamespace;
use crate::task::TaskId;
use crate::time::TimeNamespace;
use crate::user_namespace::UserNamespace;
use crate::uts::UtsNamespace;
use crate::vfs::FsStruct;

/// A set of namespaces.
#[derive(Debug)]
pub struct NsProxy {
    count: AtomicUsize,
    /// Host and domain name.
    pub uts: Arc<UtsNamespace>,
    /// System V IPC and POSIX message queues.
    pub ipc: Arc<IpcNamespace>,
    /// Mounts.
    pub mnt: Arc<MntNs>,
    /// The pid namespace children will be in; the task's own is [`Kernel::active_pid_ns`].
    pub pid_for_children: Arc<PidNamespace>,
    /// Network stack.
    pub net: Arc<NetNamespace>,
    /// Root of control groups.
    pub cgroup: Arc<CgroupNamespace>,
    /// Clocks.
    pub time: Arc<TimeNamespace>,
    /// The time namespace children will be in.
    pub time_for_children: Arc<TimeNamespace>,
}

impl NsProxy {
    #[allow(clippy::too_many_arguments, reason = "one per kind of namespace")]
    pub(crate) fn new(
        uts: Arc<UtsNamespace>,
        ipc: Arc<IpcNamespace>,
        mnt: Arc<MntNs>,
        pid_for_children: Arc<PidNamespace>,
        net: Arc<NetNamespace>,
        cgroup: Arc<CgroupNamespace>,
        time: Arc<TimeNamespace>,
        time_for_children: Arc<TimeNamespace>,
    ) -> Arc<NsProxy> {
        let count = AtomicUsize::new(0);
        Arc::new(NsProxy { count, uts, ipc, mnt, pid_for_children, net, cgroup, time, time_for_children })
    }

    /// An uncounted copy to be changed before a task takes it.
    pub(crate) fn duplicate(&self) -> NsProxy {
        NsProxy {
            count: AtomicUsize::new(0),
            uts: self.uts.clone(),
            ipc: self.ipc.clone(),
            mnt: self.mnt.clone(),
            pid_for_children: self.pid_for_children.clone(),
            net: self.net.clone(),
            cgroup: self.cgroup.clone(),
            time: self.time.clone(),
            time_for_children: self.time_for_children.clone(),
        }
    }

    /// The number of tasks that hold it.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The mount namespace.
    pub fn mnt_ns(&self) -> &Arc<MntNs> {
        &self.mnt
    }

    /// IPC namespace.
    pub fn ipc_ns(&self) -> &Arc<IpcNamespace> {
        &self.ipc
    }

    /// Cgroup namespace.
    pub fn cgroup_ns(&self) -> &Arc<CgroupNamespace> {
        &self.cgroup
    }

    /// The time namespace children will be in.
    pub fn time_ns_for_children(&self) -> &Arc<TimeNamespace> {
        &self.time_for_children
    }

    /// The network namespace.
    pub fn net_ns(&self) -> &Arc<NetNamespace> {
        &self.net
    }

    /// What is common of each namespace it points to, each once.
    pub fn namespaces(&self) -> Vec<&NsCommon> {
        let mut all = vec![
            self.uts.common(),
            self.ipc.common(),
            self.mnt.common(),
            self.pid_for_children.common(),
            self.net.common(),
            self.cgroup.common(),
            self.time.common(),
        ];
        if !Arc::ptr_eq(&self.time, &self.time_for_children) {
            all.push(self.time_for_children.common());
        }
        all
    }

    /// A task takes it (`get_nsproxy`).
    pub(crate) fn get(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0 {
            self.namespaces().into_iter().for_each(NsCommon::inc);
        }
    }
    /// A task lets go of it (`put_nsproxy`, `free_nsproxy`).
    pub(crate) fn put(&self) {
        let before = self.count.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "nsproxy put more often than taken");
        if before == 1 {
            self.namespaces().into_iter().for_each(NsCommon::dec);
        }
    }

    /// `timens_on_fork`: a process that does not share memory enters the time namespace prepared for children.
    pub(crate) fn enter_time_for_children(&mut self) {
        self.time = self.time_for_children.clone();
        self.time.freeze();
    }
}

/// The flags that ask for a new namespace in the nsproxy (all but NEWUSER).
pub(crate) const NSPROXY_FLAGS: CloneFlags = CloneFlags::NEWNS
    .union(CloneFlags::NEWUTS)
    .union(CloneFlags::NEWIPC)
    .union(CloneFlags::NEWPID)
    .union(CloneFlags::NEWNET)
    .union(CloneFlags::NEWCGROUP)
    .union(CloneFlags::NEWTIME);

impl Kernel {
    /// `copy_namespaces`: the namespaces of a new task with credentials `new_cred`, made by `caller`; `fs` is the new
    /// task's own copy, moved along into a new mount namespace. Nothing is counted yet.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN in the new task's user namespace; `EINVAL` for NEWIPC with SYSVSEM, and what
    /// [`Kernel::create_new_namespaces`] gives.
    pub(crate) fn copy_namespaces(
        &mut self,
        flags: CloneFlags,
        caller: TaskId,
        new_cred: &Cred,
        fs: &Mutex<FsStruct>,
    ) -> Result<Arc<NsProxy>> {
        let task = self.task(caller).ok_or(Errno::ESRCH)?;
        let old = task.nsproxy.clone().ok_or(Errno::ESRCH)?;
        if !flags.intersects(NSPROXY_FLAGS) {
            // The fast path of nearly every fork.
            if flags.contains(CloneFlags::VM) || Arc::ptr_eq(&old.time, &old.time_for_children) {
                return Ok(old);
            }
        } else if !task.cred.ns_capable(&new_cred.user_ns, Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        if flags.contains(CloneFlags::NEWIPC | CloneFlags::SYSVSEM) {
            return Err(Errno::EINVAL);
        }
        let mut new = self.create_new_namespaces(flags, caller, &old, &new_cred.user_ns, fs)?;
        if !flags.contains(CloneFlags::VM) {
            new.enter_time_for_children();
        }
        Ok(Arc::new(new))
    }

    /// `create_new_namespaces`: a new nsproxy with each namespace copied or shared, in Linux's order, so that the first
    /// reason to fail is the same. Namespaces made before a failure are dropped; `fs` is changed only on success.
    ///
    /// # Errors
    /// `EINVAL` for NEWPID when the caller's pid namespace for children is not its own, or its user namespace is not
    /// below the one that owns the pid namespace; `ENOSPC` for pid namespaces nested too deep; `EPERM` for NEWCGROUP
    /// without CAP_SYS_ADMIN in `user_ns`; errors of copying the mounts.
    pub(crate) fn create_new_namespaces(
        &mut self,
        flags: CloneFlags,
        caller: TaskId,
        old: &Arc<NsProxy>,
        user_ns: &Arc<UserNamespace>,
        fs: &Mutex<FsStruct>,
    ) -> Result<NsProxy> {
        let cred = self.task(caller).ok_or(Errno::ESRCH)?.cred.clone();
        let active_pid_ns = self.active_pid_ns(caller).ok_or(Errno::ESRCH)?;
        let mut new = old.duplicate();
        let mut moved_fs = None;
        if flags.contains(CloneFlags::NEWNS) {
            let mut copy = fs.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let mounts = copy_mnt_ns(user_ns, old.mnt.mounts(), &mut copy)?;
            new.mnt = MntNs::new(user_ns.clone(), mounts);
            moved_fs = Some(copy);
        }
        if flags.contains(CloneFlags::NEWUTS) {
            new.uts = UtsNamespace::new(self.inums.alloc(), user_ns.clone(), old.uts.names());
        }
        if flags.contains(CloneFlags::NEWIPC) {
            new.ipc = IpcNamespace::new(self.inums.alloc(), user_ns.clone(), self.ipc_memory.clone());
        }
        if flags.contains(CloneFlags::NEWPID) {
            if active_pid_ns != old.pid_for_children {
                return Err(Errno::EINVAL);
            }
            new.pid_for_children =
                PidNamespace::create(self.inums.alloc(), user_ns.clone(), &old.pid_for_children)?;
        }
        if flags.contains(CloneFlags::NEWCGROUP) {
            if !cred.ns_capable(user_ns, Cap::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            new.cgroup = {
                let root = self.task(caller).ok_or(Errno::ESRCH)?.cgroup.clone();
                CgroupNamespace::new(self.inums.alloc(), user_ns.clone(), root)
            };
        }
        if flags.contains(CloneFlags::NEWNET) {
            new.net = old.net.copy_net_ns(self.inums.alloc(), user_ns.clone());
        }
        if flags.contains(CloneFlags::NEWTIME) {
            new.time_for_children = TimeNamespace::new(self.inums.alloc(), user_ns.clone());
        }
        if let Some(copy) = moved_fs {
            *fs.lock().unwrap_or_else(PoisonError::into_inner) = copy;
        }
        Ok(new)
    }

    /// `switch_task_namespaces`: the task takes `new` (or none, at its end) and lets go of the old one.
    pub(crate) fn switch_task_namespaces(&mut self, task: TaskId, new: Option<Arc<NsProxy>>) {
        let Some(task) = self.tasks.get_mut(&task) else { return };
        if let Some(new) = &new {
            new.get();
        }
        if let Some(old) = std::mem::replace(&mut task.nsproxy, new) {
            old.put();
        }
    }
}
