//! What proc asks of whoever owns the tasks: the boundary between this file system and the process model.
//!
//! Numbers that go in and out are those of *one* pid namespace, the one the proc instance was mounted for (as Linux's
//! `proc_pid_ns(sb)`); a task itself is meant by a [`TaskKey`], which is never used twice. So an inode of a dead task
//! stays dead although its number may live again.

use std::cell::Cell;
use std::os::fd::OwnedFd;

use nomina_kernel::mount::ProcMounts;
pub use nomina_kernel::net::NetSysctl;
pub use nomina_kernel::nsfs::NsLink;
use nomina_kernel::vfs::Path;
use nomina_kernel::{Errno, Result};

/// The identity of a task (a thread). Unlike a pid it is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskKey(pub u64);

thread_local! {
    static CURRENT: Cell<Option<TaskKey>> = const { Cell::new(None) };
}

/// Runs `f` with `viewer` as the task that makes the system call: what `self`, `thread-self` and access checks mean.
/// May be nested; the former viewer returns afterwards, on a panic too.
pub fn with_current<R>(viewer: TaskKey, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<TaskKey>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.set(self.0);
        }
    }
    let _restore = Restore(CURRENT.replace(Some(viewer)));
    f()
}

/// The task on whose behalf this thread works (Linux's `current`), `None` outside [`with_current`].
pub fn current() -> Option<TaskKey> {
    CURRENT.get()
}

/// Owner of a task's files in proc: its effective ids. `dumpable` as `prctl(2)` `PR_SET_DUMPABLE`: when false the files
/// belong to root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskOwner {
    /// Effective user (an id of the sandbox's first user namespace).
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Whether the owner may look inside.
    pub dumpable: bool,
}

/// The model's part of `stat` and `status`. Everything else in them (memory, times, signals) is the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskInfo {
    /// The task's number.
    pub pid: i32,
    /// Its thread group's number.
    pub tgid: i32,
    /// The parent's number, 0 when the parent is outside this pid namespace.
    pub ppid: i32,
    /// The tracer's number, 0 without one.
    pub tracer: i32,
    /// Process group, 0 when outside.
    pub pgrp: i32,
    /// Session, 0 when outside.
    pub session: i32,
    /// Device number of the controlling terminal as `stat` prints it (`new_encode_dev`: minor bits 0–7, major bits 8–19,
    /// the rest of the minor above), or 0.
    pub tty_nr: i32,
    /// Foreground process group of that terminal, or -1.
    pub tpgid: i32,
    /// The host's number of the thread group.
    pub host_pid: i32,
    /// The host's number of the thread.
    pub host_tid: i32,
    /// Name, when it differs from the one the host knows.
    pub comm: Option<Vec<u8>>,
    /// State letter, when it differs from the host's.
    pub state: Option<u8>,
    /// Blocked signals, when the host knows only what is blocked while a system call is served.
    pub blocked: Option<u64>,
    /// Real, effective, saved and file system user, in the viewer's user namespace.
    pub uids: [u32; 4],
    /// Real, effective, saved and file system group, in the viewer's user namespace.
    pub gids: [u32; 4],
    /// Supplementary groups, in the viewer's user namespace.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding and ambient capabilities.
    pub caps: [u64; 5],
    /// `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// Seccomp mode the program itself set (0, 1 or 2) and the number of its filters; Nomina's own does not count.
    pub seccomp: (u32, u32),
    /// Thread group numbers from this pid namespace inwards.
    pub nstgid: Vec<i32>,
    /// Thread numbers from this pid namespace inwards.
    pub nspid: Vec<i32>,
    /// Process group numbers from this pid namespace inwards.
    pub nspgid: Vec<i32>,
    /// Session numbers from this pid namespace inwards.
    pub nssid: Vec<i32>,
    /// Threads in the group.
    pub threads: usize,
    /// Signal sent to the parent at exit (-1 for a thread that is not the leader).
    pub exit_signal: i32,
    /// File mode creation mask, when it differs from the host's.
    pub umask: Option<u32>,
    /// Start time in clock ticks since boot, when it differs from the host's.
    pub starttime: Option<u64>,
    /// Exit status as `wait` would give it (shown only to those who may trace).
    pub exit_code: i32,
}

/// A magic link: one that jumps to an object instead of walking a text (`proc_pid_get_link` in Linux).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MagicLink {
    /// The program's file.
    Exe,
    /// Working directory.
    Cwd,
    /// Root directory.
    Root,
    /// An open file.
    Fd(i32),
    /// A namespace.
    Ns(NsLink),
}

/// Access mode of an open file, which the mode bits of its link in `/proc/PID/fd` show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdMode {
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
}

/// Which view of the mount table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountTable {
    /// `/proc/PID/mountinfo`.
    Info,
    /// `/proc/PID/mounts`.
    Mounts,
    /// `/proc/PID/mountstats`.
    Stats,
}

/// Which id map (`user_namespaces(7)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdMapKind {
    /// `/proc/PID/uid_map`.
    Uid,
    /// `/proc/PID/gid_map`.
    Gid,
    /// `/proc/PID/projid_map`.
    Projid,
}

/// One line of an id map: first id inside, first id outside (as the viewer sees it), how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMapExtent {
    /// First id inside.
    pub inside: u32,
    /// First id in the parent (or the viewer's) namespace.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// Fields of `struct new_utsname` that `/proc/sys/kernel` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UtsField {
    /// `hostname`.
    Nodename,
    /// `domainname`.
    Domainname,
    /// `ostype`.
    Sysname,
    /// `osrelease`.
    Release,
    /// `version`.
    Version,
}

/// The process model as one proc instance sees it. Implemented by the owner of the tasks.
///
/// `viewer` is the task that makes the system call, `None` when Nomina itself looks. Methods about a task that is gone
/// answer `None` or `ESRCH`.
pub trait ProcSource: Send + Sync {
    /// Numbers of all thread groups visible in this pid namespace, ascending.
    fn thread_groups(&self) -> Vec<i32>;
    /// The task (any thread, leader or not) with this number.
    fn find(&self, nr: i32) -> Option<TaskKey>;
    /// Numbers of the viewer's thread group and thread here, `None` when it is not visible in this pid namespace.
    fn self_nr(&self, viewer: TaskKey) -> Option<(i32, i32)>;
    /// The owner of a task's files. Asked by every `stat`: cheap.
    fn owner(&self, task: TaskKey) -> Option<TaskOwner>;
    /// Everything `stat` and `status` need.
    fn task(&self, task: TaskKey, viewer: Option<TaskKey>) -> Option<TaskInfo>;
    /// Numbers of the threads of the task's group, ascending.
    fn threads(&self, task: TaskKey) -> Vec<i32>;
    /// Numbers of the children that this thread made, in the order of their making.
    fn children(&self, task: TaskKey) -> Vec<i32>;
    /// Whether the host's process is still the one the task had from the start (running or a zombie that nobody has
    /// reaped). Asked *after* a host file of it was read and before the text is shown: the host may have given the
    /// number to a process outside the sandbox in between.
    fn host_exists(&self, task: TaskKey) -> bool;
    /// `ptrace_may_access` with `PTRACE_MODE_READ_FSCREDS` (`ptrace(2)`): whether the viewer may see the task's memory
    /// layout, environment and links.
    fn may_access(&self, viewer: Option<TaskKey>, task: TaskKey) -> bool;

    /// `in_group_p`: whether a kernel group id is the viewer's file system group or one of its supplementary groups.
    fn in_group(&self, _viewer: Option<TaskKey>, _gid: u32) -> bool {
        false
    }

    /// What `readlink` prints for a magic link, such as `/usr/bin/env`, `pipe:[4711]` or `uts:[4026532451]`, as the
    /// viewer's root sees it. `ENOENT` for a closed descriptor.
    fn link_text(&self, task: TaskKey, link: MagicLink, viewer: Option<TaskKey>) -> Result<Vec<u8>>;
    /// Where a magic link leads. `ENOENT` for a closed descriptor.
    fn link_target(&self, task: TaskKey, link: MagicLink) -> Result<Path>;
    /// Numbers of the open descriptors, ascending, Nomina's own left out.
    fn fds(&self, task: TaskKey) -> Result<Vec<i32>>;
    /// Access mode of one descriptor. `ENOENT` when it is closed.
    fn fd_mode(&self, task: TaskKey, fd: i32) -> Result<FdMode>;
    /// Numbers of the task that runs as thread `host` of the host, from this pid namespace inwards; none when it is not seen here.
    fn numbers_of_host(&self, _host: i32) -> Vec<i32> {
        Vec::new()
    }
    /// Text of `/proc/PID/fdinfo/FD`; `None` shows the host's.
    fn fdinfo(&self, _task: TaskKey, _fd: i32) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// The id of the mount that a descriptor was opened by and, where it is another than the host's, its inode number.
    fn fd_place(&self, _task: TaskKey, _fd: i32) -> Option<(u32, Option<u64>)> {
        None
    }

    /// Arguments, each ended by NUL; `None` shows what the host's kernel finds in the process.
    fn cmdline(&self, _task: TaskKey) -> Option<Vec<u8>> {
        None
    }
    /// Environment, each variable ended by NUL; `None` shows what the host's kernel finds in the process.
    fn environ(&self, _task: TaskKey) -> Option<Vec<u8>> {
        None
    }
    /// Auxiliary vector as the program got it; `None` shows the host's.
    fn auxv(&self, _task: TaskKey) -> Option<Vec<u8>> {
        None
    }
    /// The host's handle of a task's memory (`/proc/PID/mem`), for an opener who may trace it. It is bound to the memory that the
    /// task has now: an exec leaves it with memory that nobody uses.
    fn memory(&self, _task: TaskKey, _viewer: Option<TaskKey>, _flags: u32) -> Result<OwnedFd> {
        Err(Errno::EACCES)
    }
    /// Changes a thread's name (at most 15 bytes). `EINVAL` unless the viewer is in the same thread group.
    fn set_comm(&self, task: TaskKey, comm: &[u8], viewer: Option<TaskKey>) -> Result<()>;
    /// Guest path of a host path found in `maps`, `None` when the guest has no name for it. The path may be that of a
    /// deleted file; the mark ` (deleted)` is already taken off.
    fn guest_path(&self, host: &[u8]) -> Option<Vec<u8>>;
    /// What the viewer knows a mapped host file by, of which the host tells path, device and inode number: path, device and inode number.
    fn mapped_file(
        &self,
        host: &[u8],
        key: (u64, u64),
        _viewer: Option<TaskKey>,
    ) -> Option<(Vec<u8>, (u64, u64))> {
        Some((self.guest_path(host)?, key))
    }
    /// Text of a view of the mount table of the task's mount namespace, below its root.
    fn mounts(&self, task: TaskKey, table: MountTable) -> Result<Vec<u8>>;
    /// Such a view that follows the changes of the mounts; `None` where only the text is to be had.
    fn open_mounts(&self, _task: TaskKey, _table: MountTable) -> Result<Option<ProcMounts>> {
        Ok(None)
    }
    /// Soft and hard limits in the order of the `RLIMIT_*` numbers, `u64::MAX` for unlimited.
    fn limits(&self, task: TaskKey) -> Result<[(u64, u64); 16]>;
    /// An id map of the task's user namespace.
    fn id_map(&self, task: TaskKey, kind: IdMapKind, viewer: Option<TaskKey>) -> Result<Vec<IdMapExtent>>;
    /// Writes an id map: `text` is what the program wrote. `EPERM`, `EINVAL` as `user_namespaces(7)` says.
    fn set_id_map(&self, task: TaskKey, kind: IdMapKind, text: &[u8], viewer: Option<TaskKey>) -> Result<()>;
    /// Whether `setgroups` is allowed in the task's user namespace.
    fn setgroups(&self, task: TaskKey) -> Result<bool>;
    /// Whether the viewer may open the file that allows and denies it for writing: CAP_SYS_ADMIN in the task's user
    /// namespace.
    fn may_set_setgroups(&self, _task: TaskKey, _viewer: Option<TaskKey>) -> bool {
        true
    }
    /// Allows or denies it. `EPERM` as `user_namespaces(7)` says.
    fn set_setgroups(&self, task: TaskKey, allow: bool, viewer: Option<TaskKey>) -> Result<()>;
    /// Writes the offsets of the time namespace for the task's children. Errors as `time_namespaces(7)` says.
    fn set_timens_offsets(&self, _task: TaskKey, _text: &[u8], _viewer: Option<TaskKey>) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// A setting of the viewer's network namespace.
    fn net_sysctl(&self, _viewer: Option<TaskKey>, _which: NetSysctl) -> Result<Vec<u8>> {
        Err(Errno::ESRCH)
    }
    /// Writes it.
    fn set_net_sysctl(&self, _viewer: Option<TaskKey>, _which: NetSysctl, _text: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// The names in a directory below `sys/net` of the viewer's network namespace, each with whether it is a directory.
    fn net_sysctl_names(&self, _viewer: Option<TaskKey>, _dir: &str) -> Vec<(String, bool)> {
        Vec::new()
    }
    /// The text of a file there.
    fn net_sysctl_text(&self, _viewer: Option<TaskKey>, _path: &str) -> Result<Vec<u8>> {
        Err(Errno::ENOENT)
    }
    /// Writes it. `EPERM` without `CAP_NET_ADMIN` over the namespace.
    fn set_net_sysctl_text(&self, _viewer: Option<TaskKey>, _path: &str, _text: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// `oom_score_adj` when the model keeps it; `None` shows the host's.
    fn oom_score_adj(&self, _task: TaskKey) -> Option<i32> {
        None
    }
    /// Writes it (-1000 to 1000). Without an implementation the host decides, and refuses to lower it with `EACCES`.
    fn set_oom_score_adj(&self, task: TaskKey, value: i32, viewer: Option<TaskKey>) -> Result<()> {
        let info = self.task(task, viewer).ok_or(Errno::ESRCH)?;
        super::generic::write_host(
            &format!("/proc/{}/oom_score_adj", info.host_pid),
            value.to_string().as_bytes(),
        )
    }
    /// Login user and session of the audit system. `None`, as on a kernel without one, means that the files `loginuid` and
    /// `sessionid` do not exist, which `pam_loginuid(8)` takes for an answer.
    fn audit(&self, _task: TaskKey) -> Option<(u32, u32)> {
        None
    }
    /// Writes the login user. `EPERM`.
    fn set_loginuid(&self, _task: TaskKey, _uid: u32, _viewer: Option<TaskKey>) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// Path of the task's control group as `/proc/PID/cgroup` shows it to the viewer.
    fn cgroup(&self, _task: TaskKey, _viewer: Option<TaskKey>) -> Result<Vec<u8>> {
        Ok(b"/".to_vec())
    }
    /// How many control groups there are.
    fn nr_cgroups(&self) -> usize {
        1
    }

    /// Text of `/proc/PID/net/NAME` for the task's network namespace; `None` shows a namespace with nothing in it.
    fn net(&self, _task: TaskKey, _name: &str) -> Option<Vec<u8>> {
        None
    }
    /// Lines of `/proc/PID/net/NAME` for the sockets of the task's network namespace; `None` for other files.
    fn net_sockets(&self, _task: TaskKey, _name: &str) -> Option<String> {
        None
    }
    /// Text of a limit of the viewer's IPC namespace, by its path below `/proc`; `None` where there is no such limit.
    fn ipc_sysctl(&self, _viewer: Option<TaskKey>, _path: &str) -> Option<Vec<u8>> {
        None
    }
    /// Writes it. `EINVAL` for what it cannot be.
    fn set_ipc_sysctl(&self, _viewer: Option<TaskKey>, _path: &str, _text: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// User and group to whom these limits belong: root in the user namespace that owns the IPC namespace.
    fn ipc_root(&self, _viewer: Option<TaskKey>) -> (u32, u32) {
        (0, 0)
    }
    /// User and group to whom settings of the viewer's network namespace belong: root in the user namespace that owns it
    /// (`net_ctl_set_ownership`).
    fn net_root(&self, _viewer: Option<TaskKey>) -> (u32, u32) {
        (0, 0)
    }
    /// Lines of `/proc/sysvipc/{msg,sem,shm}` after the heading, for the viewer's IPC namespace.
    fn sysvipc(&self, _viewer: Option<TaskKey>, _name: &str) -> Vec<u8> {
        Vec::new()
    }
    /// A field of the viewer's UTS namespace.
    fn uts(&self, viewer: Option<TaskKey>, field: UtsField) -> Vec<u8>;
    /// Sets [`UtsField::Nodename`] or [`UtsField::Domainname`] (at most 64 bytes). `EPERM`.
    fn set_uts(&self, viewer: Option<TaskKey>, field: UtsField, value: &[u8]) -> Result<()>;
    /// `/proc/sys/kernel/pid_max` of this pid namespace.
    fn pid_max(&self) -> i32;
    /// `/proc/sys/kernel/threads-max`.
    fn threads_max(&self) -> i32;
    /// `/proc/sys/kernel/ns_last_pid` of this pid namespace.
    fn last_pid(&self) -> i32;
    /// Sets it. `EPERM` without CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
    fn set_last_pid(&self, _last: i32, _viewer: Option<TaskKey>) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// File system types of `/proc/filesystems`: whether it needs no device, and its name.
    fn filesystems(&self) -> Vec<(bool, String)> {
        ["sysfs", "tmpfs", "proc", "devtmpfs", "sockfs", "pipefs", "devpts", "overlay", "mqueue"]
            .map(|name| (true, name.to_string()))
            .to_vec()
    }
}
