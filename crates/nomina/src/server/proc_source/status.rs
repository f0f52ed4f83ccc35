//! What proc tells of a task: its numbers, ids and name.

use std::sync::atomic::Ordering;

use nomina_fs::proc::{TaskInfo, TaskKey};
use nomina_kernel::pid::PidType;
use nomina_kernel::task::TaskId;

use super::super::Server;
use super::super::guest::GuestThread;
use super::super::sys::seccomp::look_for_killed_threads;
use super::{PidNsView, numbers};

impl PidNsView {
    /// What `stat`, `status` and their like show of a task, to `viewer`.
    pub(super) fn task_info(&self, key: TaskKey, viewer: Option<TaskKey>) -> Option<TaskInfo> {
        let (server, thread) = self.thread(key).ok()?;
        look_for_killed_threads(&server, &thread);
        let ns = self.ns.get()?;
        let comm = server.renamed_comm(&thread);
        let host_pid = thread.process.host_pid.load(Ordering::Acquire);
        let host_tid = thread.host_tid.load(Ordering::Acquire);
        let kernel = server.kernel.lock().unwrap();
        let id = TaskId(key.0);
        let task = kernel.task(id)?;
        let signal = kernel.signal_of(id)?;
        let leader = kernel.task(signal.leader())?;
        let cred = task.cred();
        let viewer_cred = viewer
            .and_then(|viewer| kernel.task(TaskId(viewer.0)))
            .map_or_else(|| server.nobody.clone(), |task| task.cred().clone());
        let user_ns = &viewer_cred.user_ns;
        let uid = |id| user_ns.from_kuid_munged(id);
        let gid = |id| user_ns.from_kgid_munged(id);
        let parent = kernel.task(task.real_parent()).and_then(|parent| {
            let leader = kernel.signal_of(parent.id())?.leader();
            Some(kernel.task(leader)?.pid().nr_ns(ns))
        });
        Some(TaskInfo {
            pid: task.pid().nr_ns(ns),
            tgid: leader.pid().nr_ns(ns),
            ppid: parent.unwrap_or(0),
            tracer: kernel
                .tracee(id)
                .map_or(0, |tracee| kernel.task(tracee.tracer).map_or(0, |tracer| tracer.pid().nr_ns(ns))),
            pgrp: signal.pid(PidType::Pgid).nr_ns(ns),
            session: signal.pid(PidType::Sid).nr_ns(ns),
            tty_nr: host_tty(host_pid).0,
            tpgid: {
                let group = host_tty(host_pid).1;
                match server.pids.from_host(group).and_then(|nr| server.first_pid_ns.get()?.find(nr)) {
                    Some(pid) => pid.nr_ns(ns),
                    None => -1,
                }
            },
            host_pid,
            host_tid,
            comm,
            // On the host it waits for the answer to its own question.
            state: if kernel.tracee(id).is_some_and(|tracee| tracee.stop.is_some()) {
                Some(b't')
            } else {
                viewer.is_some_and(|viewer| viewer == key).then_some(b'R')
            },
            blocked: viewer
                .is_some_and(|viewer| viewer == key)
                .then(|| thread.image().map(|image| image.slot.mask()))
                .flatten(),
            uids: [uid(cred.uid), uid(cred.euid), uid(cred.suid), uid(cred.fsuid)],
            gids: [gid(cred.gid), gid(cred.egid), gid(cred.sgid), gid(cred.fsgid)],
            groups: cred.groups.iter().map(|&group| gid(group)).collect(),
            caps: [
                cred.cap_inheritable.bits(),
                cred.cap_permitted.bits(),
                cred.cap_effective.bits(),
                cred.cap_bset.bits(),
                cred.cap_ambient.bits(),
            ],
            no_new_privs: task.no_new_privs(),
            seccomp: (kernel.seccomp(id).mode(), kernel.seccomp(id).filter_count()),
            nstgid: numbers(leader.pid(), task.pid(), ns),
            nspid: numbers(task.pid(), task.pid(), ns),
            nspgid: numbers(signal.pid(PidType::Pgid), task.pid(), ns),
            nssid: numbers(signal.pid(PidType::Sid), task.pid(), ns),
            threads: signal.threads().len(),
            exit_signal: task.exit_signal().unwrap_or(-1),
            umask: task.fs().and_then(|fs| fs.try_lock().ok().map(|fs| fs.umask)),
            starttime: None,
            exit_code: 0,
        })
    }
}

/// `tty_nr` and `tpgid` of a host process's `stat`.
fn host_tty(pid: i32) -> (i32, i32) {
    let read = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut words = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().skip(4);
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    read().unwrap_or((0, -1))
}

/// The name of a thread that was written to its `comm`.
///
/// The host lets a thread's name be set only by its own process, and guests set it natively (`PR_SET_NAME`). So a name that was
/// written holds until the host's is another than it was then.
pub struct Renamed {
    pub(super) host: Vec<u8>,
    pub(super) comm: Vec<u8>,
}

/// What the host calls a thread.
pub(super) fn host_comm(thread: &GuestThread) -> Option<Vec<u8>> {
    let pid = thread.process.host_pid.load(Ordering::Acquire);
    let tid = thread.host_tid.load(Ordering::Acquire);
    std::fs::read(format!("/proc/{pid}/task/{tid}/comm")).ok()
}

impl Server {
    /// The name that was written to a thread's `comm`, if it still holds.
    pub fn renamed_comm(&self, thread: &GuestThread) -> Option<Vec<u8>> {
        let mut table = self.renamed.lock().unwrap();
        let renamed = table.get(&thread.task)?;
        if host_comm(thread).as_ref() == Some(&renamed.host) {
            return Some(renamed.comm.clone());
        }
        table.remove(&thread.task);
        None
    }
}
