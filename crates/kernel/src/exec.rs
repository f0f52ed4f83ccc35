//! What `execve(2)` changes besides memory (`fs/exec.c`, `security/commoncap.c`): credentials by set-user-ID bits, file
//! capabilities and the ambient set; the other threads vanish; the process gets a new name and address space.

use std::sync::Arc;

use crate::capability::{Cap, CapSet, VfsCaps, owns};
use crate::cred::{Cred, Securebits};
use crate::errno::{Errno, Result};
use crate::kernel::{Kernel, SIGCHLD};
use crate::pid::PidType;
use crate::ptrace::PtraceEvents;
use crate::rlimit::Resource;
use crate::task::{Dumpable, Mm, Sighand, TaskId};
use crate::user_namespace::{Kgid, Kuid};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o0010;

/// What about the executed file bears on credentials.
#[derive(Clone, Copy, Debug)]
pub struct ExecFile {
    /// Owner, a kernel id.
    pub uid: Kuid,
    /// Group, a kernel id.
    pub gid: Kgid,
    /// Mode.
    pub mode: u32,
    /// Whether the mount is nosuid.
    pub nosuid: bool,
    /// The decoded `security.capability`.
    pub caps: Option<VfsCaps>,
}

/// Limits on what an exec may give (`bprm->unsafe`).
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecUnsafe {
    /// `PR_SET_NO_NEW_PRIVS` is set.
    pub no_new_privs: bool,
    /// Root and working directory are shared with another process.
    pub shared_fs: bool,
    /// It is traced by somebody without CAP_SYS_PTRACE over it.
    pub ptrace: bool,
}

/// Credentials after an exec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCred {
    /// The credentials.
    pub cred: Cred,
    /// Whether the program must distrust its environment (`AT_SECURE`).
    pub secure: bool,
}

/// What an exec brought about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecOutcome {
    /// The other threads, which are gone. The caller has the leader's number now.
    pub vanished: Vec<TaskId>,
    /// What the vanished threads have traced.
    pub untraced: Vec<crate::ptrace::Released>,
    /// The parent whose wait in `vfork(2)` ends.
    pub vfork_done: Option<TaskId>,
    /// Events for that parent's tracer ([`PtraceEvents::VFORK_DONE`]).
    pub ptrace_event: PtraceEvents,
}

/// `bprm_creds_from_file`: the credentials after an exec of `file` (`capabilities(7)`, "Transformation of capabilities
/// during execve()").
///
/// # Errors
/// `EPERM` for a file whose effective capabilities the bounding set withholds.
pub fn prepare_exec_cred(old: &Cred, file: &ExecFile, limits: ExecUnsafe) -> Result<ExecCred> {
    let mut new = old.clone();
    let ns = old.user_ns.clone();
    // bprm_fill_uid
    let mapped = ns.from_kuid(file.uid).is_some() && ns.from_kgid(file.gid).is_some();
    if !file.nosuid && !limits.no_new_privs && mapped {
        if file.mode & S_ISUID != 0 {
            new.euid = file.uid;
        }
        // Without group execute the bit means mandatory locking.
        if file.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
            new.egid = file.gid;
        }
    }
    let has_fcap;
    let mut effective = false;
    (new.cap_permitted, has_fcap) = match file.caps.filter(|c| !file.nosuid && owns(&old.user_ns, c.rootid)) {
        Some(caps) => {
            let permitted = new.cap_bset.and(caps.permitted).or(new.cap_inheritable.and(caps.inheritable));
            // A program that cannot ask for its capabilities must have them all.
            if caps.effective && !caps.permitted.is_subset(permitted) {
                return Err(Errno::EPERM);
            }
            effective = caps.effective;
            (permitted, true)
        }
        None => (CapSet::EMPTY, false),
    };
    let root = ns.make_kuid(0);
    let is_root = |uid| Some(uid) == root;
    // handle_privileged_root; a set-user-ID-root file with capabilities gives just those.
    let suid_root = !is_root(new.uid) && is_root(new.euid);
    let root_is_plain = new.securebits.contains(Securebits::NOROOT) || has_fcap && suid_root;
    if !root_is_plain {
        if is_root(new.euid) || is_root(new.uid) {
            new.cap_permitted = old.cap_bset.or(old.cap_inheritable);
        }
        if is_root(new.euid) {
            effective = true;
        }
    }
    let id_changed = new.euid != old.euid || !old.in_group(new.egid);
    let gained = !new.cap_permitted.is_subset(old.cap_permitted);
    if (id_changed || gained) && (limits.no_new_privs || limits.shared_fs || limits.ptrace) {
        if limits.no_new_privs || !old.ns_capable(&ns, Cap::SETUID) {
            new.euid = new.uid;
            new.egid = new.gid;
        }
        new.cap_permitted = new.cap_permitted.and(old.cap_permitted);
    }
    (new.suid, new.fsuid) = (new.euid, new.euid);
    (new.sgid, new.fsgid) = (new.egid, new.egid);
    if has_fcap || id_changed {
        new.cap_ambient = CapSet::EMPTY;
    }
    new.cap_permitted = new.cap_permitted.or(new.cap_ambient);
    new.cap_effective = if effective { new.cap_permitted } else { new.cap_ambient };
    new.securebits.remove(Securebits::KEEP_CAPS);
    let grew = !new.cap_permitted.is_subset(new.cap_ambient);
    let secure =
        id_changed || new.euid != old.uid || new.egid != old.gid || !is_root(new.uid) && (effective || grew);
    Ok(ExecCred { cred: new, secure })
}

impl Kernel {
    /// [`prepare_exec_cred`] for a task, with what is known about it.
    ///
    /// # Errors
    /// `EAGAIN` when a change of user id had exceeded RLIMIT_NPROC and it still is; `EPERM` as there; `ESRCH`.
    pub fn prepare_exec(&mut self, id: TaskId, file: &ExecFile) -> Result<ExecCred> {
        let limit = self.rlimit(id, Resource::Nproc)?.cur;
        let task = self.task(id).ok_or(Errno::ESRCH)?;
        if task.nproc_exceeded && self.ucounts.nproc_over_limit(&task.cred, limit) {
            return Err(Errno::EAGAIN);
        }
        // Only asked when it matters: it costs a look at every task.
        let gives = file.mode & (S_ISUID | S_ISGID) != 0 || file.caps.is_some();
        let in_group = self.threads_of(id).len();
        let tracer = self.tracee(id).and_then(|tracee| self.task(tracee.tracer));
        let limits = ExecUnsafe {
            no_new_privs: task.no_new_privs,
            shared_fs: gives && self.fs_users(id) > in_group,
            ptrace: tracer.is_some_and(|t| !t.cred.ns_capable(&task.cred.user_ns, Cap::SYS_PTRACE)),
        };
        let prepared = prepare_exec_cred(&task.cred, file, limits)?;
        self.tasks.entry(id).and_modify(|t| t.nproc_exceeded = false);
        Ok(prepared)
    }

    /// The point of no return of an exec by `id`: the other threads vanish, the caller becomes the leader with the
    /// leader's numbers, takes the credentials, a new address space of program `exe`, and its base name `comm`.
    ///
    /// # Errors
    /// `ESRCH` for a task that is gone.
    pub fn begin_exec(&mut self, id: TaskId, exe: &[u8], comm: &[u8], cred: ExecCred) -> Result<ExecOutcome> {
        if self.task(id).is_none_or(|t| t.exiting) {
            return Err(Errno::ESRCH);
        }
        let mut out = ExecOutcome::default();
        out.vanished = self.de_thread(id, &mut out.untraced);
        if let Some(parent) = self.complete_vfork(id) {
            out.vfork_done = Some(parent);
            out.ptrace_event = self.vfork_done_event(parent);
        }
        // exec_task_namespaces: a new address space enters the time namespace prepared for children.
        if let Some(old) = self.task(id).and_then(|t| t.nsproxy.clone())
            && !Arc::ptr_eq(&old.time, &old.time_for_children)
        {
            let mut new = old.duplicate();
            new.enter_time_for_children();
            self.switch_task_namespaces(id, Some(Arc::new(new)));
        }
        // What begin_new_exec and then commit_creds, of the new address space, look at.
        let old = self.task(id).ok_or(Errno::ESRCH)?.cred.clone();
        let ids_differ = old.euid != old.uid || old.egid != old.gid;
        let undumpable = ids_differ || old.is_changed_by(&cred.cred);
        let dumpable = if undumpable { self.suid_dumpable } else { Dumpable::User };
        let user_ns = cred.cred.user_ns.clone();
        self.commit_creds(id, cred.cred);
        if let Some(task) = self.tasks.get_mut(&id) {
            task.mm = Some(Mm::new(exe.to_vec(), user_ns, dumpable));
            task.sighand = Some(Sighand::new());
            task.exit_signal = Some(SIGCHLD);
            task.forknoexec = false;
            task.set_comm(comm);
        }
        if let Some(signal) = self.signal_of_mut(id) {
            signal.sigchld = signal.sigchld.flushed();
        }
        Ok(out)
    }

    /// `de_thread`: the other threads, which are gone.
    fn de_thread(&mut self, id: TaskId, untraced: &mut Vec<crate::ptrace::Released>) -> Vec<TaskId> {
        let others: Vec<TaskId> = self.threads_of(id).iter().copied().filter(|t| *t != id).collect();
        let Some(leader) = self.leader_of(id) else { return others };
        for other in &others {
            let Some(task) = self.tasks.get_mut(other) else { continue };
            task.exiting = true;
            task.mm = None;
            task.fs = None;
            let children = std::mem::take(&mut task.children);
            if task.pid.ns().child_reaper() == Some(*other) {
                task.pid.ns().set_child_reaper(Some(id));
            }
            for child in &children {
                for thread in self.threads_of(*child).to_vec() {
                    self.tasks.entry(thread).and_modify(|t| t.real_parent = id);
                }
            }
            self.tasks.entry(id).and_modify(|t| t.children.extend(children));
            self.exit_ipc(*other);
            self.switch_task_namespaces(*other, None);
            self.cgroup_exit(*other);
        }
        self.ptrace_vanished(&others, leader);
        for other in &others {
            untraced.extend(self.exit_ptrace(*other));
        }
        if leader != id {
            self.take_over_leader(id, leader);
        }
        for other in &others {
            self.unhash(*other);
        }
        others
    }

    /// The caller and the leader exchange numbers (`exchange_tids`), and the caller takes the leader's place everywhere.
    fn take_over_leader(&mut self, id: TaskId, leader: TaskId) {
        let (old_pid, leader_pid) = (self.tasks[&id].pid.clone(), self.tasks[&leader].pid.clone());
        old_pid.replace(PidType::Pid, id, leader);
        leader_pid.replace(PidType::Pid, leader, id);
        let start_time = self.tasks[&leader].start_time;
        self.tasks.entry(id).and_modify(|t| {
            t.pid = leader_pid;
            t.start_time = start_time;
            t.exit_signal = Some(SIGCHLD);
        });
        self.tasks.entry(leader).and_modify(|t| {
            t.pid = old_pid;
            t.exit_signal = None;
        });
        if let Some(group) = self.signal_of_mut(id) {
            group.threads.retain(|t| *t != id);
            group.threads.insert(0, id);
            for kind in [PidType::Tgid, PidType::Pgid, PidType::Sid] {
                group.pid(kind).replace(kind, leader, id);
            }
        }
        let parent = self.tasks[&id].real_parent;
        if let Some(parent) = self.tasks.get_mut(&parent) {
            for child in &mut parent.children {
                if *child == leader {
                    *child = id;
                }
            }
        }
    }
}
