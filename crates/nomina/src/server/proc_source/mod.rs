//! What proc shows of the sandbox: the model seen from one pid namespace, with the host's files behind it.

mod links;
mod status;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, Weak};

use nomina_fs::proc::{
    FdMode, IdMapExtent, IdMapKind, MagicLink, MountTable, NetSysctl, ProcSource, TaskInfo, TaskKey,
    TaskOwner, UtsField,
};
use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::{IpcCaller, IpcNamespace};
use nomina_kernel::kernel::Kernel;
use nomina_kernel::mount::{ProcMounts, show_mountinfo, show_mounts, show_mountstats};
use nomina_kernel::pid::{Pid, PidType};
use nomina_kernel::pid_namespace::PidNamespace;
use nomina_kernel::ptrace::PtraceCreds;
use nomina_kernel::rlimit::Resource;
use nomina_kernel::task::{Dumpable, TaskId};
use nomina_kernel::user_namespace::MapKind;
use nomina_kernel::vfs::Path;
use rustix::fs::OFlags;

use super::Server;
use super::given;
use super::guest::GuestThread;
use super::ipc;
use super::request::host;
use super::sys::seccomp::look_for_killed_threads;

pub use status::Renamed;
use status::host_comm;

/// The view from one pid namespace.
pub struct PidNsView {
    /// The sandbox, told when it exists.
    pub server: OnceLock<Weak<Server>>,
    /// The namespace, told when it exists.
    pub ns: OnceLock<Arc<PidNamespace>>,
}

impl PidNsView {
    /// A view that shows nothing until it is told of sandbox and namespace.
    pub fn new() -> Arc<PidNsView> {
        Arc::new(PidNsView { server: OnceLock::new(), ns: OnceLock::new() })
    }

    fn server(&self) -> Option<Arc<Server>> {
        self.server.get()?.upgrade()
    }

    /// Nobody shall see a process live whose end the host has told somebody of.
    fn note_exits(&self) {
        if let Some(server) = self.server() {
            server.reaper.drain(&server);
        }
    }

    fn with<T>(&self, with: impl FnOnce(&Arc<Server>, &Kernel, &PidNamespace) -> Option<T>) -> Option<T> {
        let (server, ns) = (self.server()?, self.ns.get()?);
        let kernel = server.kernel.lock().unwrap();
        with(&server, &kernel, ns)
    }

    fn need<T>(&self, with: impl FnOnce(&Arc<Server>, &Kernel, &PidNamespace) -> Option<T>) -> Result<T> {
        self.with(with).ok_or(Errno::ESRCH)
    }

    fn thread(&self, task: TaskKey) -> Result<(Arc<Server>, Arc<GuestThread>)> {
        let server = self.server().ok_or(Errno::ESRCH)?;
        let thread = server.guests.by_task(TaskId(task.0)).ok_or(Errno::ESRCH)?;
        if thread.host_tid.load(Ordering::Acquire) == 0 {
            // It has asked for nothing yet; whoever reads about it has its number from who made it.
            server.seek(&thread);
        }
        Ok((server, thread))
    }

    /// The viewer's IPC namespace, and who it is there.
    fn ipc(&self, viewer: Option<TaskKey>) -> Option<(Arc<IpcNamespace>, IpcCaller)> {
        self.with(|_, kernel, _| kernel.ipc_caller(TaskId(viewer?.0)).ok())
    }

    fn host_pid(&self, task: TaskKey) -> Result<i32> {
        let (server, thread) = self.thread(task)?;
        let _ = server;
        match thread.process.host_pid.load(Ordering::Acquire) {
            0 => Err(Errno::ESRCH),
            pid => Ok(pid),
        }
    }

    /// The viewer's root directory, or the sandbox's.
    fn root_of(&self, viewer: Option<TaskKey>) -> Result<Path> {
        let fs = self.need(|server, kernel, _| {
            let fs =
                viewer.and_then(|viewer| kernel.task(TaskId(viewer.0))).and_then(|task| task.fs().cloned());
            Some(fs.map_or_else(|| Err(server.first_fs.root.clone()), Ok))
        })?;
        Ok(match fs {
            Ok(fs) => fs.lock().unwrap().root.clone(),
            Err(root) => root,
        })
    }

    fn look_at(&self, task: TaskKey, fd: i32) -> Result<(OwnedFd, OFlags)> {
        let (_, thread) = self.thread(task)?;
        given::look_at(&thread, fd).map_err(|error| match host(error) {
            Errno::EBADF => Errno::ENOENT,
            errno => errno,
        })
    }

    fn proc_mounts(&self, task: TaskKey, table: MountTable) -> Result<ProcMounts> {
        if let Some(server) = self.server() {
            // A closed file of a namespace keeps it, and what it propagates to others, no longer.
            server.handles.sweep_closed();
        }
        let (ns, fs) = self.need(|_, kernel, _| {
            let task = kernel.task(TaskId(task.0))?;
            Some((task.nsproxy()?.mnt_ns().mounts().clone(), task.fs()?.clone()))
        })?;
        let root = fs.lock().unwrap().root.clone();
        let show = match table {
            MountTable::Info => show_mountinfo,
            MountTable::Mounts => show_mounts,
            MountTable::Stats => show_mountstats,
        };
        Ok(ProcMounts::new(ns, root, show))
    }
}

/// The numbers of `pid`, which `of` has as group, session or itself, in the namespaces that `of` is in, from `ns` inwards; 0 where it
/// is not visible.
fn numbers(pid: &Pid, of: &Pid, ns: &PidNamespace) -> Vec<i32> {
    of.numbers().iter().skip(ns.level()).map(|upid| pid.nr_ns(&upid.ns)).collect()
}

impl ProcSource for PidNsView {
    fn thread_groups(&self) -> Vec<i32> {
        self.note_exits();
        self.with(|server, kernel, ns| {
            let tasks = kernel.tasks_in_ns(ns).into_iter();
            Some(tasks.filter(|&(_, task)| !server.is_reaped(task)).map(|(nr, _)| nr).collect())
        })
        .unwrap_or_default()
    }

    fn find(&self, nr: i32) -> Option<TaskKey> {
        self.note_exits();
        self.with(|server, _, ns| {
            let task = ns.find(nr)?.task(PidType::Pid)?;
            (!server.is_reaped(task)).then_some(TaskKey(task.0))
        })
    }

    fn self_nr(&self, viewer: TaskKey) -> Option<(i32, i32)> {
        self.with(|_, kernel, ns| {
            let task = TaskId(viewer.0);
            let tid = kernel.task(task)?.pid().nr_ns(ns);
            let leader = kernel.signal_of(task)?.leader();
            let tgid = kernel.task(leader)?.pid().nr_ns(ns);
            (tid != 0 && tgid != 0).then_some((tgid, tid))
        })
    }

    fn owner(&self, task: TaskKey) -> Option<TaskOwner> {
        self.with(|_, kernel, _| {
            let task = kernel.task(TaskId(task.0))?;
            let dumpable = task.mm().is_none_or(|mm| mm.dumpable() == Dumpable::User);
            Some(TaskOwner { uid: task.cred().euid, gid: task.cred().egid, dumpable })
        })
    }

    fn net_sockets(&self, task: TaskKey, name: &str) -> Option<String> {
        let (server, net, cred) = self.with(|server, kernel, _| {
            let task = kernel.task(TaskId(task.0))?;
            Some((server.clone(), task.nsproxy()?.net_ns().common().inum(), task.cred().clone()))
        })?;
        server.inet.proc_net(net, name, |uid| cred.user_ns.from_kuid_munged(uid))
    }

    fn task(&self, key: TaskKey, viewer: Option<TaskKey>) -> Option<TaskInfo> {
        self.task_info(key, viewer)
    }

    fn threads(&self, task: TaskKey) -> Vec<i32> {
        if let Ok((server, thread)) = self.thread(task) {
            look_for_killed_threads(&server, &thread);
        }
        let numbers = self.with(|_, kernel, ns| {
            let threads = kernel.threads_of(TaskId(task.0)).iter();
            let mut numbers: Vec<i32> =
                threads.filter_map(|&t| Some(kernel.task(t)?.pid().nr_ns(ns))).collect();
            numbers.sort_unstable();
            Some(numbers)
        });
        numbers.unwrap_or_default()
    }

    fn children(&self, task: TaskKey) -> Vec<i32> {
        self.with(|_, kernel, ns| {
            let children = kernel.task(TaskId(task.0))?.children().iter();
            Some(
                children
                    .filter_map(|&child| Some(kernel.task(child)?.pid().nr_ns(ns)))
                    .filter(|&nr| nr != 0)
                    .collect(),
            )
        })
        .unwrap_or_default()
    }

    fn host_exists(&self, task: TaskKey) -> bool {
        let Ok((_, thread)) = self.thread(task) else { return false };
        thread.process.pidfd.get().is_some_and(super::reaper::is_zombie_or_alive)
    }

    fn numbers_of_host(&self, host: i32) -> Vec<i32> {
        let found = self.server().and_then(|server| server.guest_of_host_pid(host));
        found
            .and_then(|thread| {
                self.with(|_, kernel, ns| {
                    let pid = kernel.task(thread.task)?.pid();
                    (pid.nr_ns(ns) != 0).then(|| numbers(pid, pid, ns))
                })
            })
            .unwrap_or_default()
    }

    fn may_access(&self, viewer: Option<TaskKey>, task: TaskKey) -> bool {
        let Some(viewer) = viewer else { return true };
        self.with(|_, kernel, _| {
            Some(kernel.ptrace_may_access(TaskId(viewer.0), TaskId(task.0), PtraceCreds::Fs).is_ok())
        })
        .unwrap_or(false)
    }

    fn memory(&self, task: TaskKey, viewer: Option<TaskKey>, flags: u32) -> Result<OwnedFd> {
        let (server, thread) = self.thread(task)?;
        let viewer = TaskId(viewer.ok_or(Errno::EACCES)?.0);
        super::ptrace::Memory::handle(&server, &thread, flags as i32, |kernel| {
            kernel.ptrace_may_access(viewer, TaskId(task.0), PtraceCreds::Fs).map_err(|_| Errno::EACCES)
        })
    }

    fn auxv(&self, task: TaskKey) -> Option<Vec<u8>> {
        // The host knows the vector that it gave to the shim; the program got it changed, where it still stands.
        let pid = self.host_pid(task).ok()?;
        let host = std::fs::read(format!("/proc/{pid}/auxv")).ok()?;
        super::auxv::of_program(pid, host.len())
    }

    fn in_group(&self, viewer: Option<TaskKey>, gid: u32) -> bool {
        self.with(|_, kernel, _| {
            let cred = kernel.task(TaskId(viewer?.0))?.cred();
            Some(cred.fsgid == gid || cred.groups.contains(&gid))
        })
        .unwrap_or(false)
    }

    fn link_text(&self, task: TaskKey, link: MagicLink, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
        self.text_of(task, link, viewer)
    }

    fn link_target(&self, task: TaskKey, link: MagicLink) -> Result<Path> {
        self.target_of(task, link)
    }

    fn fds(&self, task: TaskKey) -> Result<Vec<i32>> {
        let pid = self.host_pid(task)?;
        let hidden = nomina_abi::HIDDEN_FD_BASE..nomina_abi::HIDDEN_FD_BASE + nomina_abi::HIDDEN_FDS;
        let mut fds: Vec<i32> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .map_err(host)?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|fd| !hidden.contains(&(*fd as u32)))
            .collect();
        fds.sort_unstable();
        if self.host_exists(task) { Ok(fds) } else { Err(Errno::ESRCH) }
    }

    fn fd_mode(&self, task: TaskKey, fd: i32) -> Result<FdMode> {
        let (_, flags) = self.look_at(task, fd)?;
        let access = flags & OFlags::RWMODE;
        let path = flags.contains(OFlags::PATH);
        Ok(FdMode { read: !path && access != OFlags::WRONLY, write: !path && access != OFlags::RDONLY })
    }

    fn cgroup(&self, task: TaskKey, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
        self.need(|_, kernel, _| {
            let cgrp = kernel.task(TaskId(task.0))?.cgroup();
            let viewer = viewer.and_then(|viewer| kernel.task(TaskId(viewer.0))?.nsproxy());
            let ns = viewer.unwrap_or(kernel.init_nsproxy()).cgroup_ns();
            let mut path = cgrp.path_from(ns.root());
            if cgrp.is_dead() {
                path.extend_from_slice(b" (deleted)");
            }
            Some(path)
        })
    }

    fn set_timens_offsets(&self, task: TaskKey, text: &[u8], viewer: Option<TaskKey>) -> Result<()> {
        self.need(|_, kernel, _| {
            let ns = kernel.task(TaskId(task.0))?.nsproxy()?.time_ns_for_children();
            Some(ns.write_offsets(text, kernel.task(TaskId(viewer?.0))?.cred()))
        })?
    }

    fn net_sysctl(&self, viewer: Option<TaskKey>, which: NetSysctl) -> Result<Vec<u8>> {
        self.need(|_, kernel, _| {
            let viewer = kernel.task(TaskId(viewer?.0))?;
            Some(viewer.nsproxy()?.net_ns().show_sysctl(which, viewer.cred()).into_bytes())
        })
    }

    fn set_net_sysctl(&self, viewer: Option<TaskKey>, which: NetSysctl, text: &[u8]) -> Result<()> {
        self.need(|_, kernel, _| {
            let viewer = kernel.task(TaskId(viewer?.0))?;
            Some(viewer.nsproxy()?.net_ns().write_sysctl(which, text, viewer.cred()))
        })?
    }

    fn net(&self, task: TaskKey, name: &str) -> Option<Vec<u8>> {
        let net = self.with(|_, kernel, _| Some(kernel.task(TaskId(task.0))?.nsproxy()?.net_ns().clone()))?;
        let text = net.stack().lock().proc_net(net.common().inum(), name)?;
        Some(text.into_bytes())
    }

    fn net_sysctl_names(&self, viewer: Option<TaskKey>, dir: &str) -> Vec<(String, bool)> {
        let net = self.with(|_, kernel, _| Some(kernel.task(TaskId(viewer?.0))?.nsproxy()?.net_ns().clone()));
        net.map(|net| net.stack().lock().sysctl_names(net.common().inum(), dir)).unwrap_or_default()
    }

    fn net_sysctl_text(&self, viewer: Option<TaskKey>, path: &str) -> Result<Vec<u8>> {
        let net =
            self.need(|_, kernel, _| Some(kernel.task(TaskId(viewer?.0))?.nsproxy()?.net_ns().clone()))?;
        let text = net.stack().lock().sysctl_show(net.common().inum(), path);
        text.map(String::into_bytes).ok_or(Errno::ENOENT)
    }

    fn set_net_sysctl_text(&self, viewer: Option<TaskKey>, path: &str, text: &[u8]) -> Result<()> {
        let (net, cred) = self.need(|_, kernel, _| {
            let viewer = kernel.task(TaskId(viewer?.0))?;
            Some((viewer.nsproxy()?.net_ns().clone(), viewer.cred().clone()))
        })?;
        net.write_sysctl_at(path, text, &cred)
    }

    fn nr_cgroups(&self) -> usize {
        self.with(|_, kernel, _| Some(kernel.cgroup_root().nr_cgrps())).unwrap_or(1)
    }

    fn set_comm(&self, task_key: TaskKey, comm: &[u8], viewer: Option<TaskKey>) -> Result<()> {
        let server = self.server().ok_or(Errno::ESRCH)?;
        let mut kernel = server.kernel.lock().unwrap();
        let id = TaskId(task_key.0);
        if !viewer.is_some_and(|viewer| kernel.threads_of(TaskId(viewer.0)).contains(&id)) {
            return Err(Errno::EINVAL);
        }
        let task = kernel.task_mut(id).ok_or(Errno::ESRCH)?;
        task.set_comm(comm);
        let comm = task.comm.to_vec();
        let mut renamed = server.renamed.lock().unwrap();
        renamed.retain(|&task, _| kernel.task(task).is_some());
        drop(kernel);
        if let Some(host) = host_comm(&self.thread(task_key)?.1) {
            renamed.insert(id, Renamed { host, comm });
        }
        Ok(())
    }

    fn guest_path(&self, path: &[u8]) -> Option<Vec<u8>> {
        let server = self.server()?;
        server.guest_path(path, &server.first_fs.root)
    }

    fn mapped_file(
        &self,
        host: &[u8],
        key: (u64, u64),
        viewer: Option<TaskKey>,
    ) -> Option<(Vec<u8>, (u64, u64))> {
        self.server()?.mapped_file(host, key, &self.root_of(viewer).ok()?)
    }

    fn mounts(&self, task: TaskKey, table: MountTable) -> Result<Vec<u8>> {
        Ok(self.proc_mounts(task, table)?.text())
    }

    fn open_mounts(&self, task: TaskKey, table: MountTable) -> Result<Option<ProcMounts>> {
        self.proc_mounts(task, table).map(Some)
    }

    fn fd_place(&self, task: TaskKey, fd: i32) -> Option<(u32, Option<u64>)> {
        let server = self.server()?;
        let (copy, _) = self.look_at(task, fd).ok()?;
        if let Some(handle) = server.handles.find(copy.as_fd()) {
            let ino = handle.path.inode().getattr().ok().map(|attr| attr.ino);
            return Some((handle.path.mnt.id(), ino));
        }
        let (_, mount) = server.instance_of_open(&copy)?;
        Some((mount?.id(), None))
    }

    fn filesystems(&self) -> Vec<(bool, String)> {
        self.server().map_or_else(Vec::new, |server| server.filesystems.list())
    }

    fn limits(&self, task: TaskKey) -> Result<[(u64, u64); 16]> {
        let pid = self.host_pid(task)?;
        let mut limits = [(0, 0); 16];
        for (resource, limit) in limits.iter_mut().enumerate() {
            let mut native = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: reads a guest's limit into a local structure.
            if unsafe { libc::prlimit(pid, resource as _, std::ptr::null(), &raw mut native) } != 0 {
                return Err(host(std::io::Error::last_os_error()));
            }
            *limit = (native.rlim_cur, native.rlim_max);
        }
        // What the host counts otherwise than guests see it.
        for resource in [Resource::Nproc, Resource::Nofile, Resource::Memlock] {
            let limit = self.need(|_, kernel, _| kernel.rlimit(TaskId(task.0), resource).ok())?;
            limits[resource as usize] = (limit.cur, limit.max);
        }
        Ok(limits)
    }

    fn id_map(&self, task: TaskKey, kind: IdMapKind, viewer: Option<TaskKey>) -> Result<Vec<IdMapExtent>> {
        let text = self.need(|server, kernel, _| {
            let ns = kernel.task(TaskId(task.0))?.cred().user_ns.clone();
            let viewer_ns = viewer
                .and_then(|viewer| kernel.task(TaskId(viewer.0)))
                .map_or_else(|| server.nobody.user_ns.clone(), |task| task.cred().user_ns.clone());
            let kind = if kind == IdMapKind::Gid { MapKind::Gid } else { MapKind::Uid };
            Some(ns.show_map(kind, &viewer_ns))
        })?;
        let extent = |line: &str| {
            let mut words = line.split_ascii_whitespace().filter_map(|word| word.parse().ok());
            Some(IdMapExtent { inside: words.next()?, outside: words.next()?, count: words.next()? })
        };
        Ok(text.lines().filter_map(extent).collect())
    }

    fn set_id_map(&self, task: TaskKey, kind: IdMapKind, text: &[u8], viewer: Option<TaskKey>) -> Result<()> {
        let kind = match kind {
            IdMapKind::Uid => MapKind::Uid,
            IdMapKind::Gid => MapKind::Gid,
            IdMapKind::Projid => return Err(Errno::EPERM),
        };
        let (ns, cred) = self.need(|_, kernel, _| {
            let viewer = kernel.task(TaskId(viewer?.0))?.cred().clone();
            Some((kernel.task(TaskId(task.0))?.cred().user_ns.clone(), viewer))
        })?;
        ns.write_map(kind, text, &cred, &cred)
    }

    fn setgroups(&self, task: TaskKey) -> Result<bool> {
        self.need(|_, kernel, _| {
            Some(kernel.task(TaskId(task.0))?.cred().user_ns.show_setgroups() != "deny\n")
        })
    }

    fn may_set_setgroups(&self, task: TaskKey, viewer: Option<TaskKey>) -> bool {
        let may = |kernel: &Kernel| {
            let ns = kernel.task(TaskId(task.0))?.cred().user_ns.clone();
            Some(kernel.task(TaskId(viewer?.0))?.cred().ns_capable(&ns, Cap::SYS_ADMIN))
        };
        self.with(|_, kernel, _| may(kernel)).unwrap_or(false)
    }

    fn set_setgroups(&self, task: TaskKey, allow: bool, viewer: Option<TaskKey>) -> Result<()> {
        let (ns, cred) = self.need(|_, kernel, _| {
            let viewer = kernel.task(TaskId(viewer?.0))?.cred().clone();
            Some((kernel.task(TaskId(task.0))?.cred().user_ns.clone(), viewer))
        })?;
        ns.write_setgroups(if allow { b"allow" } else { b"deny" }, &cred)
    }

    fn sysvipc(&self, viewer: Option<TaskKey>, name: &str) -> Vec<u8> {
        let Some((ns, caller)) = self.ipc(viewer) else { return Vec::new() };
        match (self.server(), self.ns.get()) {
            (Some(server), Some(pids)) => ipc::proc::sysvipc(&server, &ns, &caller, pids, name),
            _ => Vec::new(),
        }
    }

    fn ipc_sysctl(&self, viewer: Option<TaskKey>, path: &str) -> Option<Vec<u8>> {
        ipc::proc::sysctl(&self.ipc(viewer)?.0, path)
    }

    fn set_ipc_sysctl(&self, viewer: Option<TaskKey>, path: &str, text: &[u8]) -> Result<()> {
        ipc::proc::set_sysctl(&self.ipc(viewer).ok_or(Errno::ESRCH)?.0, path, text)
    }

    fn ipc_root(&self, viewer: Option<TaskKey>) -> (u32, u32) {
        let Some((ns, _)) = self.ipc(viewer) else { return (0, 0) };
        (ns.user_ns().make_kuid(0).unwrap_or(0), ns.user_ns().make_kgid(0).unwrap_or(0))
    }

    fn net_root(&self, viewer: Option<TaskKey>) -> (u32, u32) {
        self.with(|_, kernel, _| {
            let net_ns = kernel.task(TaskId(viewer?.0))?.nsproxy()?.net_ns();
            let user_ns = net_ns.common().owner()?;
            Some((user_ns.make_kuid(0)?, user_ns.make_kgid(0)?))
        })
        .unwrap_or((0, 0))
    }

    fn uts(&self, viewer: Option<TaskKey>, field: UtsField) -> Vec<u8> {
        let host = rustix::system::uname();
        match field {
            UtsField::Sysname => b"Linux".to_vec(),
            UtsField::Release => host.release().to_bytes().to_vec(),
            UtsField::Version => host.version().to_bytes().to_vec(),
            UtsField::Nodename | UtsField::Domainname => {
                let names = self.with(|_, kernel, _| kernel.utsname(TaskId(viewer?.0)).ok());
                let Some(names) = names else { return b"(none)".to_vec() };
                if field == UtsField::Nodename { names.nodename } else { names.domainname }
            }
        }
    }

    fn set_uts(&self, viewer: Option<TaskKey>, field: UtsField, value: &[u8]) -> Result<()> {
        let server = self.server().ok_or(Errno::ESRCH)?;
        let caller = TaskId(viewer.ok_or(Errno::EPERM)?.0);
        let mut kernel = server.kernel.lock().unwrap();
        match field {
            UtsField::Nodename => kernel.sethostname(caller, value),
            UtsField::Domainname => kernel.setdomainname(caller, value),
            _ => Err(Errno::EPERM),
        }
    }

    fn pid_max(&self) -> i32 {
        self.ns.get().map_or(0, |ns| ns.pid_max())
    }

    fn threads_max(&self) -> i32 {
        self.server().map_or(0, |server| server.max_threads as i32)
    }

    fn last_pid(&self) -> i32 {
        self.ns.get().map_or(0, |ns| ns.last_pid())
    }
}
