//! `setns(2)`: a task enters existing namespaces, one by its nsfs file or several of another task by its pidfd.

use std::sync::{Arc, Mutex, PoisonError};

use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::fork::{CloneFlags, copy_fs_struct};
use crate::kernel::Kernel;
use crate::ns_common::{NsKind, owner_of};
use crate::nsfs::NsRef;
use crate::nsproxy::{NSPROXY_FLAGS, NsProxy};
use crate::ptrace::PtraceCreds;
use crate::task::TaskId;
use crate::vfs::FsStruct;

/// What the descriptor of `setns(2)` refers to.
#[derive(Clone, Debug)]
pub enum SetnsTarget {
    /// One namespace: an nsfs file.
    Namespace(NsRef),
    /// The namespaces of a task: a pidfd.
    Task(TaskId),
}

/// What is prepared before anything of the task changes (`struct nsset`).
struct NsSet {
    nsproxy: NsProxy,
    cred: Option<Cred>,
    fs: Arc<Mutex<FsStruct>>,
    /// A place to move root and working directory to.
    root: Option<crate::vfs::Path>,
}

impl Kernel {
    /// `setns(2)`. Nothing changes when it fails.
    ///
    /// # Errors
    /// `EINVAL` when `flags` do not name the namespace's kind, or for a task name nothing or something unknown; entering
    /// the own user namespace, or one with several threads or a shared root directory; entering a pid namespace that is
    /// not a descendant, or a mount namespace with a shared root directory. `EPERM` without CAP_SYS_ADMIN (and
    /// CAP_SYS_CHROOT for mounts) in the target's owner and the own user namespace, or when the caller may not look into
    /// the task. `EUSERS` for a time namespace in a process with several threads. `ESRCH` for a task that has ended.
    pub fn setns(&mut self, caller: TaskId, target: &SetnsTarget, flags: u64) -> Result<()> {
        let wanted = match target {
            SetnsTarget::Namespace(ns) => {
                if flags != 0 && flags != ns.common().kind().clone_flag().bits() {
                    return Err(Errno::EINVAL);
                }
                vec![ns.clone()]
            }
            SetnsTarget::Task(task) => self.namespaces_of(caller, *task, flags)?,
        };
        let task = self.task(caller).filter(|t| !t.exiting).ok_or(Errno::ESRCH)?;
        let mut set = NsSet {
            nsproxy: task.nsproxy.as_ref().ok_or(Errno::ESRCH)?.duplicate(),
            cred: None,
            fs: task.fs.clone().ok_or(Errno::ESRCH)?,
            root: None,
        };
        // With the mount namespace among several a copy is prepared, so that sharing does not matter.
        let private_fs = wanted.len() > 1 && wanted.iter().any(|ns| matches!(ns, NsRef::Mnt(_)));
        if private_fs {
            set.fs = copy_fs_struct(&set.fs);
        }
        for ns in &wanted {
            self.install(caller, ns, &mut set, private_fs)?;
        }
        // commit_nsset
        if let Some(root) = set.root {
            let mut fs = set.fs.lock().unwrap_or_else(PoisonError::into_inner);
            fs.root = root.clone();
            fs.pwd = root;
        }
        if private_fs {
            let copied = set.fs;
            // Linux copies root and working directory back into the structure the task has, shared or not.
            if let Some(own) = self.task(caller).and_then(|t| t.fs.as_ref()) {
                let copied = copied.lock().unwrap_or_else(PoisonError::into_inner);
                let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                own.root = copied.root.clone();
                own.pwd = copied.pwd.clone();
            }
        }
        if let Some(cred) = set.cred {
            self.commit_creds(caller, cred);
        }
        if wanted.iter().any(|ns| matches!(ns, NsRef::Ipc(_))) {
            self.exit_sem(caller);
        }
        self.switch_task_namespaces(caller, Some(Arc::new(set.nsproxy)));
        Ok(())
    }

    /// The namespaces of `task` that `flags` name, in the order Linux enters them: the user namespace first, for its
    /// capabilities count for the others.
    fn namespaces_of(&self, caller: TaskId, task: TaskId, flags: u64) -> Result<Vec<NsRef>> {
        let flags = CloneFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        if flags.is_empty() || !(NSPROXY_FLAGS | CloneFlags::NEWUSER).contains(flags) {
            return Err(Errno::EINVAL);
        }
        let target = self.task(task).ok_or(Errno::ESRCH)?;
        self.ptrace_may_access(caller, task, PtraceCreds::Real)?;
        let nsproxy = target.nsproxy.as_ref().ok_or(Errno::ESRCH)?;
        let all = [
            NsRef::User(target.cred.user_ns.clone()),
            NsRef::Mnt(nsproxy.mnt.clone()),
            NsRef::Uts(nsproxy.uts.clone()),
            NsRef::Ipc(nsproxy.ipc.clone()),
            NsRef::Pid(target.pid.ns().clone()),
            NsRef::Cgroup(nsproxy.cgroup.clone()),
            NsRef::Net(nsproxy.net.clone()),
            NsRef::Time(nsproxy.time.clone()),
        ];
        Ok(all.into_iter().filter(|ns| flags.contains(ns.common().kind().clone_flag())).collect())
    }

    /// The `install` operation of each kind of namespace.
    fn install(&self, caller: TaskId, ns: &NsRef, set: &mut NsSet, private_fs: bool) -> Result<()> {
        let task = self.task(caller).ok_or(Errno::ESRCH)?;
        let cred = &task.cred;
        if let NsRef::User(user_ns) = ns {
            // Re-entering would give back dropped capabilities.
            if *user_ns == cred.user_ns || !self.thread_group_empty(caller) || self.fs_users(caller) != 1 {
                return Err(Errno::EINVAL);
            }
            if !cred.ns_capable(user_ns, Cap::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            let mut new = (**cred).clone();
            new.set_user_ns(user_ns.clone());
            set.cred = Some(new);
            return Ok(());
        }
        if ns.common().kind() == NsKind::Time && !self.is_single_threaded(caller) {
            return Err(Errno::EUSERS);
        }
        // The caller's capabilities, in the user namespace it is about to be in.
        let own_ns = set.cred.as_ref().map_or(&cred.user_ns, |c| &c.user_ns);
        let admin = |user_ns| cred.ns_capable(user_ns, Cap::SYS_ADMIN);
        let chroot = ns.common().kind() != NsKind::Mnt || cred.ns_capable(own_ns, Cap::SYS_CHROOT);
        if !admin(owner_of(ns.common())) || !admin(own_ns) || !chroot {
            return Err(Errno::EPERM);
        }
        match ns {
            NsRef::Cgroup(ns) => set.nsproxy.cgroup = ns.clone(),
            NsRef::Ipc(ns) => set.nsproxy.ipc = ns.clone(),
            NsRef::Net(ns) => set.nsproxy.net = ns.clone(),
            NsRef::Uts(ns) => set.nsproxy.uts = ns.clone(),
            NsRef::Time(ns) => {
                ns.freeze();
                set.nsproxy.time = ns.clone();
                set.nsproxy.time_for_children = ns.clone();
            }
            NsRef::Pid(ns) => {
                // The own one or below: no task may see itself from outside.
                if !ns.is_in(task.pid.ns()) {
                    return Err(Errno::EINVAL);
                }
                set.nsproxy.pid_for_children = ns.clone();
            }
            NsRef::Mnt(ns) => {
                if !private_fs && self.fs_users(caller) != 1 {
                    return Err(Errno::EINVAL);
                }
                set.root = Some(crate::mnt_ns::root_path(ns.mounts()).ok_or(Errno::EINVAL)?);
                set.nsproxy.mnt = ns.clone();
            }
            NsRef::User(_) => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}
