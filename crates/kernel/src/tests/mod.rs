//! Tests of the process side that need a whole kernel; what a module can show alone is tested beside it.

mod cred;
mod enter;
mod exec;
mod exit;
mod fork;
mod ipc;
mod pgrp_signal;
mod ptrace;
mod random;
mod seccomp;
mod setns;
mod unshare;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cred::Cred;
use crate::errno::Result;
use crate::fork::{CloneFlags, KernelCloneArgs};
use crate::kernel::{Kernel, KernelConfig};
use crate::mount::{MntNamespace, MountFlags, MountTable};
use crate::ns_common::NsCommon;
use crate::pid::PidType;
use crate::rlimit::{RLIM_NLIMITS, Rlimit};
use crate::task::TaskId;
use crate::user_namespace::UserNamespace;
use crate::vfs::{ActiveSuper, Attr, FsStruct, Inode, Opened, Path, S_IFDIR, StatFs, SuperBlock, SuperFlags};

/// A file system that is one empty directory.
struct EmptyFs;
struct EmptyDir;

impl SuperBlock for EmptyFs {
    fn fs_type(&self) -> &'static str {
        "empty"
    }
    fn source(&self) -> Vec<u8> {
        b"none".to_vec()
    }
    fn dev(&self) -> u64 {
        1
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(EmptyDir)
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs::default())
    }
    fn cacheable(&self) -> bool {
        true
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Inode for EmptyDir {
    fn getattr(&self) -> Result<Attr> {
        Ok(Attr { mode: S_IFDIR | 0o755, nlink: 2, ..Attr::default() })
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Ok(Opened::Directory)
    }
}

/// A mount namespace of one mount, and a task's place at its root.
fn root_fs() -> (Arc<MntNamespace>, FsStruct) {
    let sb = ActiveSuper::new(Arc::new(EmptyFs), SuperFlags::empty());
    let ns = MntNamespace::new(&MountTable::new(), sb, MountFlags::empty());
    let root = Path::mount_root(&ns.root().unwrap());
    (ns, FsStruct::new(root))
}

fn config(init_cred: Cred) -> KernelConfig {
    let (mnt_ns, fs) = root_fs();
    KernelConfig {
        init_cred,
        hostname: b"box".to_vec(),
        domainname: b"(none)".to_vec(),
        limits: [Rlimit::INFINITY; RLIM_NLIMITS],
        max_threads: 1000,
        pid_max: 32768,
        policy: None,
        net_owner: None,
        cgroup_root: crate::cgroup::CgroupRoot::new(crate::vfs::Timespec::default()),
        fs,
        mnt_ns,
        now: 0,
    }
}

/// A kernel with root as its first process.
pub(crate) fn boot() -> (Kernel, TaskId) {
    boot_with(config(Cred::root(UserNamespace::initial())))
}

fn boot_with(config: KernelConfig) -> (Kernel, TaskId) {
    let mut k = Kernel::new(config);
    let init = k.spawn_first(b"init").unwrap();
    (k, init)
}

fn clone(k: &mut Kernel, caller: TaskId, flags: CloneFlags) -> Result<TaskId> {
    let args = KernelCloneArgs { flags, ..KernelCloneArgs::fork(0) };
    let result = k.kernel_clone(caller, &args).map(|out| out.child);
    check(k);
    result
}

pub(crate) fn fork(k: &mut Kernel, caller: TaskId) -> TaskId {
    clone(k, caller, CloneFlags::empty()).unwrap()
}

const THREAD: CloneFlags = CloneFlags::THREAD
    .union(CloneFlags::SIGHAND)
    .union(CloneFlags::VM)
    .union(CloneFlags::FS)
    .union(CloneFlags::FILES);

fn thread(k: &mut Kernel, caller: TaskId) -> TaskId {
    clone(k, caller, THREAD).unwrap()
}

/// Makes the task an ordinary user for good.
fn become_user(k: &mut Kernel, task: TaskId, uid: u32) {
    k.setresgid(task, uid, uid, uid).unwrap();
    k.setresuid(task, uid, uid, uid).unwrap();
}

/// Recounts everything that is kept as a number or a link twice, and compares (SPEC 2.1).
fn check(k: &Kernel) {
    // nsproxies and namespaces
    let mut holders = BTreeMap::new();
    for task in k.tasks() {
        if let Some(nsproxy) = task.nsproxy() {
            holders.entry(Arc::as_ptr(nsproxy).addr()).or_insert((nsproxy, 0)).1 += 1;
        }
    }
    let mut pointers: BTreeMap<u64, (&NsCommon, usize)> = BTreeMap::new();
    for (nsproxy, tasks) in holders.values() {
        assert_eq!(nsproxy.count(), *tasks, "tasks that hold {nsproxy:?}");
        for ns in nsproxy.namespaces() {
            pointers.entry(ns.inum()).or_insert((ns, 0)).1 += 1;
        }
    }
    for (ns, nsproxies) in pointers.values() {
        assert_eq!(ns.count(), *nsproxies, "nsproxies that point to {ns:?}");
    }

    // pids: every number leads to a task or to a group or session with members, and every task is found by its number
    let mut pid_nss = BTreeMap::new();
    for task in k.tasks().filter(|t| t.id() != k.init_task()) {
        let signal = k.signal_of(task.id()).unwrap();
        let leads = task.exit_signal().is_some();
        for kind in PidType::ALL {
            let pid = if kind == PidType::Pid { task.pid() } else { signal.pid(kind) };
            let listed = pid.members(kind).iter().filter(|t| **t == task.id()).count();
            assert_eq!(listed, usize::from(leads || kind == PidType::Pid), "{:?} as {kind:?}", task.id());
            for upid in pid.numbers() {
                pid_nss.insert(upid.ns.common().inum(), upid.ns.clone());
                if upid.nr != 0 {
                    assert_eq!(upid.ns.find(upid.nr).as_ref(), Some(pid));
                }
            }
        }
        assert_eq!(signal.threads().iter().filter(|t| **t == task.id()).count(), 1);
        assert_eq!(leads, signal.leader() == task.id());
        let parent = k.task(task.real_parent()).expect("a parent exists");
        assert_eq!(parent.children().iter().filter(|c| **c == task.id()).count(), usize::from(leads));
    }
    for ns in pid_nss.values() {
        for (nr, pid) in ns.pids() {
            assert_eq!(pid.nr_ns(ns), nr);
            assert!(!pid.is_unused(), "{pid:?} is leaked");
        }
    }
    for task in k.tasks() {
        for child in task.children() {
            assert_eq!(k.task(*child).expect("a child exists").real_parent(), task.id());
        }
    }

    // processes per user
    let mut nproc: BTreeMap<(u64, u32), u64> = BTreeMap::new();
    for task in k.tasks() {
        let mut account = (&task.cred().user_ns, task.cred().uid);
        loop {
            *nproc.entry((account.0.common().inum(), account.1)).or_default() += 1;
            let Some(parent) = account.0.parent() else { break };
            account = (parent, account.0.owner_uid());
        }
    }
    assert_eq!(k.ucounts.snapshot(), nproc);
}

/// All that can be observed of a kernel, for "a failure leaves no trace". The search position of pid numbers and the
/// next inode number are not part of it.
fn observe(k: &Kernel) -> Vec<String> {
    let tasks = k.tasks().map(|t| {
        let ns: Vec<_> = t
            .nsproxy()
            .map(|n| (n.count(), n.namespaces().iter().map(|c| (c.inum(), c.count())).collect::<Vec<_>>()))
            .into_iter()
            .collect();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {ns:?} {:?} {:p} {}",
            t.id(),
            t.pid(),
            t.real_parent(),
            t.children(),
            t.cred(),
            t.exit_state(),
            t.fs().map_or(std::ptr::null(), Arc::as_ptr),
            t.pid().ns().pid_allocated(),
        )
    });
    tasks.chain([format!("{:?}", k.ucounts.snapshot())]).collect()
}
