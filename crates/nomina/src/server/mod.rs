//! The supervisor: serves the requests of a sandbox's guests from the model and the file systems.
//!
//! One [`Server`] per sandbox. Several workers ([`worker`]) take gate calls from the listener; each request becomes a
//! [`request::Ctx`], goes through [`dispatch`](sys::dispatch) to the service for its number, and is answered in the caller's
//! slot. Nothing here blocks: what would, tells the guest what to wait on.
//!
//! Locks, outermost first: the kernel model; a task's `fs_struct`; the tables of guests and handles. File system calls
//! are made with none of them held.

pub mod ahead;
pub mod arch;
pub mod auxv;
pub mod cgroup;
pub mod context;
pub mod controls;
pub mod datagram;
pub mod filesystems;
pub mod fresh;
pub mod fs_contexts;
pub mod fuse;
#[cfg(test)]
mod fuzz;
pub mod given;
pub mod guest;
pub mod handle;
pub mod inet;
pub mod inspector;
pub mod instances;
pub mod interrupt;
pub mod ipc;
mod kept;
pub mod labels;
pub mod layout;
pub mod lock;
pub mod mounts_poll;
pub mod net;
pub mod netlink;
pub mod nsfs;
pub mod opens;
pub mod overlayfs;
pub mod pids;
pub mod places;
pub mod privs;
pub mod proc_source;
pub mod promises;
pub mod ptrace;
pub mod reaper;
pub mod remembered;
pub mod reporters;
pub mod request;
pub mod robust;
pub mod spares;
pub mod stats;
pub mod sys;
pub mod tether;
pub mod tty;
pub mod turns;
pub mod uplink;
pub mod watcher;
pub mod whose;
pub mod worker;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nomina_fs::IdMap;
use nomina_fs::dev::DevTmpfs;
use nomina_fs::devpts::DevPts;
use nomina_gate::launch::Entrance;
use nomina_kernel::cred::Cred;
use nomina_kernel::kernel::Kernel;
use nomina_kernel::mount::Mount;
use nomina_kernel::pid_namespace::PidNamespace;
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::fs_context::FileSystems;
use nomina_kernel::vfs::{ActiveSuper, Attr, FsStruct, S_IFMT, S_IFSOCK};

use guest::{GuestThread, Guests};
use lock::Mutex;

/// A running sandbox.
pub struct Server {
    /// The model.
    pub kernel: Mutex<Kernel>,
    /// Host threads of guests.
    pub guests: Guests,
    /// Host processes behind the model's numbers.
    pub pids: pids::Pids,
    /// Directories, `O_PATH` handles and texts in guests' hands.
    pub handles: handle::Handles,
    /// Files whose writes come to us.
    pub controls: controls::Controls,
    /// Datagram sockets.
    pub datagrams: datagram::Datagrams,
    /// Threads whose writes to limited file systems are looked at.
    pub reporters: reporters::Reporters,
    /// Files with set-ID bits that are open for writing.
    pub privs: privs::Privs,
    /// Names of unix sockets.
    pub unix: sys::socket::unix::UnixNames,
    /// Sockets of the Internet families.
    pub inet: inet::Inet,
    /// Host owner and sandbox user.
    pub ids: IdMap,
    /// Who a task that is gone acts as.
    pub nobody: Arc<Cred>,
    /// Root and working directory of the first process at its start.
    pub first_fs: FsStruct,
    /// The file systems in use, to find a file's name by its handle.
    pub instances: instances::Instances,
    /// Directories that are being made durable.
    pub syncs: sys::sync::Syncs,
    /// By which mounts guests have opened files.
    pub opens: opens::Opens,
    /// Where instances that have no place of their own keep their files.
    pub private_dirs: instances::PrivateDirs,
    /// Descriptors of `fsopen(2)`.
    pub fs_contexts: fs_contexts::FsContexts,
    /// What can be mounted.
    pub filesystems: FileSystems,
    /// The hierarchy of control groups, mounted.
    pub cgroup_sb: Arc<ActiveSuper>,
    /// Programs that decide about devices.
    pub bpf: sys::bpf::Programs,
    /// Where namespaces are files.
    pub ns_mnt: Arc<Mount>,
    /// Threads whose name was written to their `comm`.
    pub renamed: Mutex<std::collections::HashMap<TaskId, proc_source::Renamed>>,
    /// Descriptors of POSIX message queues.
    pub mqueues: ipc::mqueue::MqFiles,
    /// Memory of System V segments.
    pub segments: ipc::shm::Segments,
    /// Pseudo terminals.
    pub devpts: Arc<DevPts>,
    /// The device nodes of `/dev`.
    pub devtmpfs: Option<Arc<DevTmpfs>>,
    /// The network of all namespaces. Its lock is taken after the kernel's.
    pub net_stack: Arc<nomina_kernel::net::NetStack>,
    /// Packets.
    pub net: net::Network,
    /// Sockets to the kernel.
    pub netlink: netlink::Netlink,
    /// File systems served by guests.
    pub fuse: nomina_fs::fuse::Fuse,
    /// Opens terminals.
    pub terminals: Arc<tty::Terminals>,
    /// The standard streams that were passed in, at the launch and since.
    pub streams: whose::Streams,
    /// Where processes enter from outside; set at the launch.
    pub entrance: OnceLock<Entrance>,
    /// The sealed memfd of the shim; set at the launch.
    pub shim: OnceLock<OwnedFd>,
    /// Exits of guest processes.
    pub reaper: reaper::Reaper,
    /// Tracees that stand still, and tracers that wait.
    pub tracees: ptrace::Tracees,
    /// What kills guests when nobody of ours is left.
    pub tethers: tether::Tethers,
    /// Processes that are about to be ended.
    pub robust: robust::Robust,
    /// Tokens of new tasks.
    pub tokens: sys::clone::Tokens,
    /// Spins for guests that ask often.
    pub watcher: watcher::Watcher,
    /// Regions and sockets made ahead.
    pub spares: spares::Spares,
    /// What new images are answered before they ask.
    pub ahead: Arc<ahead::Ahead>,
    /// Forks promised ahead.
    pub promises: promises::Promises,
    /// Programs that were executed lately.
    pub programs: sys::binfmt::Programs,
    /// Counts of requests.
    pub stats: stats::Stats,
    /// The first guest's host process group, which stands for process group 1.
    pub first_pgrp: OnceLock<i32>,
    /// The sandbox's first pid namespace.
    pub first_pid_ns: OnceLock<Arc<PidNamespace>>,
    /// Limit of tasks.
    pub max_threads: usize,
    /// After how many traps guests' call sites are rewritten; 0: never.
    pub patch_after: u32,
    /// Guests' own system call filters.
    pub seccomp: sys::seccomp::Filters,
    /// The sandbox is being taken down.
    pub ending: AtomicBool,
    /// Start of the clock for start times.
    pub started: std::time::Instant,
}

impl Server {
    /// Whether the sandbox is being taken down.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Time for the model: nanoseconds since the start.
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// File system ids of the task whose request is served on this thread.
    pub fn caller_ids(&self) -> Option<(u32, u32)> {
        let caller = nomina_fs::proc::current()?;
        let kernel = self.kernel.lock().unwrap();
        let cred = kernel.task(TaskId(caller.0))?.cred();
        Some((cred.fsuid, cred.fsgid))
    }

    /// Attributes of an open file.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn attr_of_handle(&self, fd: BorrowedFd<'_>) -> nomina_kernel::errno::Result<Attr> {
        let mut attr = nomina_fs::handle::attr_from_fd(fd, &self.ids)?;
        if attr.mode & S_IFMT == S_IFSOCK
            && let Some((uid, gid)) = self.caller_ids()
        {
            // A socket's own inode belongs to who made it, most likely who holds it: on the host all are the supervisor's.
            (attr.uid, attr.gid) = (uid, gid);
        }
        let copied = self.instances.find_overlay(|_, overlay| overlay.attr_of_copied(fd, &attr));
        Ok(copied.unwrap_or(attr))
    }

    /// The number that `viewer` sees for the process with host pid `host`, if it is a guest it can see, or was one until
    /// recently.
    pub fn vnr_of_host(&self, viewer: &GuestThread, host: i32) -> Option<i32> {
        let thread = self.guests.by_tid(host);
        let kernel = self.kernel.lock().unwrap();
        let Some(thread) = thread else {
            return self.pids.departed(host, &*kernel.active_pid_ns(viewer.task)?);
        };
        match kernel.task_pid_vnr(thread.task, viewer.task) {
            0 => None,
            nr => Some(nr),
        }
    }

    /// The guest with host pid `host`, also one that has not asked for anything yet.
    pub fn guest_of_host_pid(self: &Arc<Self>, host: i32) -> Option<Arc<GuestThread>> {
        self.guests.by_tid(host).or_else(|| {
            let silent = self.guests.waiting().into_iter().find(|thread| thread.noted_pid() == Some(host))?;
            self.seek(&silent).and(Some(silent))
        })
    }

    /// The first threads of all guest processes, those included that have not asked for anything yet.
    pub fn leaders(self: &Arc<Self>) -> Vec<Arc<GuestThread>> {
        for silent in self.guests.waiting() {
            self.seek(&silent);
        }
        let mut all = self.guests.all();
        all.retain(|thread| {
            let pid = thread.process.host_pid.load(Ordering::Acquire);
            pid != 0 && thread.host_tid.load(Ordering::Acquire) == pid
        });
        all
    }

    /// Real user and group of a guest process.
    pub fn real_ids_of_host_pid(self: &Arc<Self>, host: i32) -> Option<(u32, u32)> {
        let thread = self.guest_of_host_pid(host)?;
        let kernel = self.kernel.lock().unwrap();
        let cred = kernel.task(thread.task)?.cred();
        Some((cred.uid, cred.gid))
    }

    /// Effective user and group of a guest process.
    pub fn ids_of_host_pid(&self, host: i32) -> Option<(u32, u32)> {
        let thread = self.guests.by_tid(host)?;
        let kernel = self.kernel.lock().unwrap();
        let cred = kernel.task(thread.task)?.cred();
        Some((cred.euid, cred.egid))
    }

    /// Whether the host has let go of the zombie of `task` already, and only the model still has it: its parent has not told yet that it
    /// has waited, or ignores `SIGCHLD`.
    pub fn is_reaped(&self, task: TaskId) -> bool {
        self.guests.by_task(task).is_some_and(|thread| {
            thread.process.exited.load(Ordering::Acquire)
                && thread.process.pidfd.get().is_some_and(|pidfd| !reaper::is_zombie_or_alive(pidfd))
        })
    }

    /// Host pid of the process a task belongs to; `None` while it has not introduced itself.
    pub fn host_pid_of(self: &Arc<Self>, task: TaskId) -> Option<i32> {
        let thread = self.guests.by_task(task)?;
        match thread.process.host_pid.load(Ordering::Acquire) {
            0 => self.seek(&thread),
            pid => Some(pid),
        }
    }
}
