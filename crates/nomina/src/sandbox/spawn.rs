//! Starting a sandbox from its plan.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as HostPath, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use nomina_fs::IdMap;
use nomina_fs::cgroup2::CgroupFs;
use nomina_fs::dev::{DevTmpfs, TAP_MAJOR};
use nomina_fs::devpts::DevPts;
use nomina_fs::host::HostSb;
use nomina_fs::overlay::{OverlayOptions, OverlaySb};
use nomina_fs::proc::ProcFs;
use nomina_fs::sysfs::SysFs;
use nomina_gate::bpf::{BuildOptions, Filter};
use nomina_gate::landlock::Ruleset;
use nomina_gate::launch::{Control, Launch, LaunchError, shim_memfd};
use nomina_gate::listener::Listener;
use nomina_gate::sock;
use nomina_kernel::cgroup::CgroupRoot;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::Errno;
use nomina_kernel::kernel::{Kernel, KernelConfig};
use nomina_kernel::mount::{MntNamespace, Mount, MountFlags, MountTable, do_mount};
use nomina_kernel::rlimit::{RLIM_NLIMITS, Rlimit};
use nomina_kernel::user_namespace::{Kgid, UserNamespace};
use nomina_kernel::vfs::{
    ActiveSuper, FsStruct, LookupFlags, Path, SuperBlock, SuperFlags, Timespec, WalkContext, WalkCred,
    Watcher, namei,
};

use rustix::fs::FlockOperation;

use super::config::{DirPlan, Disposal, MountKind, Net, OverlayPlan, Plan, Stdio};
use super::network;
use super::scratch::{self, remove_tree};
use super::seed::seed;
use super::terminal::{self, Foreground};
use super::{ExitStatus, HostFacts, SandboxBuilder, SpawnError, StatRow};
use crate::egress::Publish;
use crate::inspector::runtime_dir::Entry;
use crate::server::cgroup::CgroupView;
use crate::server::datagram::Datagrams;
use crate::server::filesystems::NetDevices;
use crate::server::filesystems::{self, REVEALING};
use crate::server::guest::{AddressSpace, GuestFiles, GuestProcess, GuestThread, Image};
use crate::server::instances::{Instances, PrivateDir, PrivateDirs, set_watcher};
use crate::server::lock::Mutex;
use crate::server::proc_source::{NsFs, PidNsView};
use crate::server::sys::{clone, exec, socket};
use crate::server::tty::Terminals;
use crate::server::{
    Server, ahead, controls, fuse, handle, inet, inspector, net, netlink, pids, reaper, robust, spares,
    stats, tether, watcher, worker,
};

/// Numbers for file systems that have no host device of their own: anonymous devices, as Linux gives them.
const PROC_DEV: u64 = 0x16;
const SYSFS_DEV: u64 = 0x17;
const DEV_DEV: u64 = 0x6;
const DEVPTS_DEV: u64 = 0x18;
const CGROUP_DEV: u64 = 0x19;

/// A running sandbox. Dropping it ends all of its programs.
pub struct Running {
    server: Arc<Server>,
    control: Option<Control>,
    pid: i32,
    entry: Option<Entry>,
    foreground: Option<Foreground>,
    layer: Layer,
    sweeper: Option<JoinHandle<()>>,
    _scratch: OwnedFd,
}

fn host_error(what: &'static str) -> impl Fn(io::Error) -> SpawnError {
    move |error| SpawnError::Host { what, error }
}

fn errno_error(what: &'static str) -> impl Fn(Errno) -> SpawnError {
    move |errno| SpawnError::Host { what, error: io::Error::from_raw_os_error(errno.0) }
}

fn launch_error(error: LaunchError) -> SpawnError {
    SpawnError::Launch(error)
}

impl SandboxBuilder {
    /// Starts the sandbox.
    ///
    /// The calling process becomes the sandbox's supervisor: it serves the guests from threads of its own, its umask becomes
    /// 0, its soft limit of descriptors becomes the hard one, and it becomes a child subreaper (`PR_SET_CHILD_SUBREAPER`).
    ///
    /// # Errors
    /// [`SpawnError`]: each message says what failed, where, and what to do.
    pub fn spawn(self) -> Result<Running, SpawnError> {
        self.check_streams()?;
        let plan = self.plan(&HostFacts::current()?)?;
        self.spawn_plan(plan)
    }

    /// Starts the sandbox from a plan that [`SandboxBuilder::plan`] made, perhaps shown to somebody before.
    ///
    /// # Errors
    /// As [`SandboxBuilder::spawn`].
    pub fn spawn_plan(self, plan: Plan) -> Result<Running, SpawnError> {
        rustix::process::umask(rustix::fs::Mode::empty());
        nomina_gate::guardian::become_subreaper().map_err(host_error("becoming a subreaper"))?;
        let entry = match &self.name {
            Some(name) => Some(Entry::create(Some(name))?),
            // It can run unseen.
            None => Entry::create(None).ok(),
        };
        let layer = Layer::create(&plan)?;
        let result = start(&self, &plan, entry.as_ref());
        match result {
            Ok((server, control, pid, scratch, foreground)) => {
                let sweeper = start_sweeping(&plan);
                let control = Some(control);
                Ok(Running { server, control, pid, entry, foreground, layer, sweeper, _scratch: scratch })
            }
            Err(error) => Err(error),
        }
    }
}

/// Removes what dead sandboxes have left behind, while the new one runs already: there may be many to look at.
fn start_sweeping(plan: &Plan) -> Option<JoinHandle<()>> {
    let layers = (plan.layer.disposal == Disposal::Remove).then(|| plan.layer.dir.parent()).flatten();
    let bases: Vec<PathBuf> =
        layers.into_iter().chain([HostPath::new(SHM)]).map(HostPath::to_owned).collect();
    let sweep = move || bases.iter().for_each(|base| scratch::sweep(base));
    std::thread::Builder::new().name("nomina-sweep".into()).spawn(sweep).ok()
}

/// The layer's directory, in use by nobody else. Removed when it is dropped and was to be thrown away.
struct Layer {
    /// The directory to remove.
    remove: Option<PathBuf>,
    /// What marks it as in use.
    _lock: OwnedFd,
}

impl Layer {
    fn create(plan: &Plan) -> Result<Layer, SpawnError> {
        let error = host_error("creating the layer's directory");
        let dir = &plan.layer.dir;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(&error)?;
        if plan.layer.disposal == Disposal::Remove {
            let lock = scratch::hold(dir).map_err(&error)?;
            return Ok(Layer { remove: Some(dir.clone()), _lock: lock });
        }
        // A layer has one writer. The directory itself is locked: a kept layer has nothing in it that is not its own.
        let lock: OwnedFd = fs::File::open(dir).map_err(&error)?.into();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(host_error("locking the layer, which another sandbox is using; wait for its end"))?;
        Ok(Layer { remove: None, _lock: lock })
    }

    fn remove(&mut self) {
        if let Some(dir) = self.remove.take() {
            remove_tree(&dir);
        }
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The first program's view: everything mounted.
struct Mounted {
    table: Arc<MountTable>,
    ns: Arc<MntNamespace>,
    root: Path,
    instances: Instances,
    private_dirs: PrivateDirs,
    devpts: Arc<DevPts>,
    devtmpfs: Option<Arc<DevTmpfs>>,
    terminals: Arc<Terminals>,
    proc: Arc<PidNsView>,
    cgroup_root: Arc<CgroupRoot>,
    cgroup_view: Arc<CgroupView>,
    net_devices: Arc<NetDevices>,
    cgroup_sb: Arc<ActiveSuper>,
}

fn overlay(plan: &OverlayPlan, ids: IdMap, durable: bool) -> Result<Arc<OverlaySb>, SpawnError> {
    for dir in [&plan.upper, &plan.work] {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(host_error("creating the layer"))?;
    }
    let hide = plan.hidden.iter().map(|hidden| (hidden.path.clone(), hidden.mode)).collect();
    let options = OverlayOptions {
        hide,
        durable,
        below: plan.below.clone(),
        ..OverlayOptions::new(Some(plan.lower.clone()), plan.upper.clone(), plan.work.clone(), ids)
    };
    OverlaySb::new(&options).map_err(errno_error("making the copy-on-write layer"))
}

fn active(sb: Arc<dyn SuperBlock>) -> Arc<ActiveSuper> {
    ActiveSuper::new(sb, SuperFlags::empty())
}

/// Walks as root of the sandbox.
fn with_root_walk<T>(
    root: &Path,
    with: impl FnOnce(&WalkContext<'_>) -> nomina_kernel::Result<T>,
) -> nomina_kernel::Result<T> {
    let cred = WalkCred::root();
    with(&WalkContext { root, pwd: root, cred: &cred, umask: 0o022 })
}

/// Makes a directory and its parents where they are missing.
fn make_dirs(root: &Path, dir: &HostPath) -> nomina_kernel::Result<()> {
    let mut path = PathBuf::from("/");
    for component in dir.components().skip(1) {
        path.push(component);
        let made = with_root_walk(root, |walk| namei::mkdir(walk, path.as_os_str().as_bytes(), 0o755));
        match made {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn make_dir(root: &Path, plan: &DirPlan) -> nomina_kernel::Result<()> {
    let name = plan.path.as_os_str().as_bytes();
    let exists = with_root_walk(root, |walk| namei::path_lookup(walk, name, LookupFlags::FOLLOW)).is_ok();
    if exists {
        return Ok(());
    }
    make_dirs(root, &plan.path)?;
    with_root_walk(root, |walk| {
        let path = namei::path_lookup(walk, name, LookupFlags::FOLLOW)?;
        nomina_kernel::vfs::attr::vfs_chown(&path, walk.cred, Some(plan.uid), Some(plan.gid))?;
        nomina_kernel::vfs::attr::vfs_chmod(&path, walk.cred, plan.mode)
    })
}

fn mount_all(plan: &Plan, ids: IdMap) -> Result<Mounted, SpawnError> {
    let table = MountTable::new();
    let durable = plan.layer.disposal == Disposal::Keep;
    let root_overlay = overlay(&plan.root, ids, durable)?;
    seed(&plan.root, ids, &root_overlay).map_err(errno_error("writing what the user may not read"))?;
    network::name_resolver(&plan.network, &root_overlay).map_err(errno_error("naming the resolver"))?;
    let instances = Instances::default();
    let root_sb = active(root_overlay);
    instances.add(&root_sb);
    let ns = MntNamespace::new(&table, root_sb, MountFlags::RELATIME);
    let root_mount = ns.root().ok_or_else(|| errno_error("mounting the root")(Errno::ENOENT))?;
    let root = Path::mount_root(&root_mount);
    for dir in &plan.dirs {
        make_dir(&root, dir).map_err(errno_error("making a directory inside"))?;
    }
    let terminals = Arc::new(Terminals::default());
    let devpts = DevPts::new(DEVPTS_DEV, terminals.clone(), nomina_fs::devpts::Options::STANDARD);
    let _ = terminals.devpts.set(Arc::downgrade(&devpts));
    let proc = PidNsView::new();
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let cgroup_root = CgroupRoot::new(Timespec { sec: now.tv_sec, nsec: now.tv_nsec as u32 });
    let cgroup_view = Arc::new(CgroupView::default());
    let net_devices = Arc::new(NetDevices::default());
    let cgroup_fs = CgroupFs::new(CGROUP_DEV, cgroup_root.clone(), cgroup_view.clone());
    let cgroup_sb = active(cgroup_fs.clone());
    let mut devtmpfs = None;
    let private_dirs = PrivateDirs::new(&plan.layer.dir);
    let private = |name: &str| -> Result<(Arc<OverlaySb>, PrivateDir), SpawnError> {
        let dir = private_dirs.create(name).map_err(host_error("creating the layer"))?;
        let sb =
            nomina_fs::tmpfs::new(dir.upper(), dir.work(), ids).map_err(errno_error("making a tmpfs"))?;
        Ok((sb, dir))
    };
    for mount in &plan.mounts {
        let is_file = matches!(mount.kind, MountKind::Host { directory: false, .. });
        let made = if is_file {
            make_dirs(&root, mount.dst.parent().unwrap_or(HostPath::new("/"))).and_then(|()| {
                let name = mount.dst.as_os_str().as_bytes();
                match with_root_walk(&root, |walk| namei::mknod(walk, name, libc::S_IFREG | 0o644, 0)) {
                    Err(Errno::EEXIST) => Ok(()),
                    other => other,
                }
            })
        } else {
            make_dirs(&root, &mount.dst)
        };
        made.map_err(errno_error("making a mount point inside"))?;
        let place = with_root_walk(&root, |walk| {
            namei::path_lookup(walk, mount.dst.as_os_str().as_bytes(), LookupFlags::FOLLOW)
        })
        .map_err(errno_error("finding a mount point inside"))?;
        let standard = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let mut kept = None;
        let (sb, flags): (Arc<dyn SuperBlock>, MountFlags) = match &mount.kind {
            MountKind::Proc => (ProcFs::new(PROC_DEV, proc.clone()), standard),
            MountKind::Sysfs => (SysFs::of(SYSFS_DEV, net_devices.clone()), standard | MountFlags::READONLY),
            MountKind::Cgroup2 => (cgroup_fs.clone(), standard),
            MountKind::Dev => {
                let (backing, dir) = private("dev")?;
                kept = Some(dir);
                let sb = DevTmpfs::new(DEV_DEV, backing, terminals.clone());
                devtmpfs = Some(sb.clone());
                (sb, MountFlags::NOSUID)
            }
            MountKind::Devpts => (devpts.clone(), MountFlags::NOSUID | MountFlags::NOEXEC),
            MountKind::Tmpfs => {
                let (sb, dir) = private("tmpfs")?;
                kept = Some(dir);
                (sb, MountFlags::NOSUID | MountFlags::NODEV)
            }
            MountKind::Overlay(plan) => {
                let sb = overlay(plan, ids, durable)?;
                (sb, MountFlags::empty())
            }
            MountKind::Host { src, read_only, .. } => {
                let new = if *read_only { HostSb::new_read_only } else { HostSb::new };
                let sb = new(src, ids).map_err(errno_error("opening a directory to bind"))?;
                let ro = if *read_only { MountFlags::READONLY } else { MountFlags::empty() };
                (sb, MountFlags::NOSUID | MountFlags::NODEV | ro)
            }
        };
        let is_tmpfs = matches!(mount.kind, MountKind::Tmpfs);
        let sb = match mount.kind {
            // All mounts of it show one instance.
            MountKind::Cgroup2 => cgroup_sb.clone(),
            _ => active(sb),
        };
        if matches!(mount.kind, MountKind::Proc | MountKind::Sysfs) {
            sb.add_iflags(REVEALING);
        }
        if let Some(dir) = kept {
            sb.keep(dir);
        }
        instances.add(&sb);
        // `mount(2)` makes relatime the default.
        let flags = flags | MountFlags::RELATIME;
        let mounted = do_mount(&ns, sb, &place, flags).map_err(errno_error("mounting"))?;
        if is_tmpfs {
            let top = Path::mount_root(&mounted);
            nomina_kernel::vfs::attr::vfs_chmod(&top, &WalkCred::root(), 0o1777)
                .map_err(errno_error("setting the mode of a tmpfs"))?;
        }
    }
    Ok(Mounted {
        table,
        ns,
        root,
        instances,
        private_dirs,
        devpts,
        devtmpfs,
        terminals,
        proc,
        cgroup_root,
        cgroup_view,
        net_devices,
        cgroup_sb,
    })
}

/// Where memory has names.
const SHM: &str = "/dev/shm";

fn scratch_dir(layer: &HostPath) -> Result<PathBuf, SpawnError> {
    let error = host_error("creating the directory for handles");
    let name = format!("{}{}-{:x}", scratch::PREFIX, std::process::id(), clone::Tokens::default().next());
    // Memory is faster; where /dev/shm is missing, the layer does.
    for base in [HostPath::new(SHM), layer] {
        let dir = base.join(&name);
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(_) if base != layer => {}
            Err(failed) => return Err(error(failed)),
        }
    }
    Err(error(io::ErrorKind::NotFound.into()))
}

fn limits() -> [Rlimit; RLIM_NLIMITS] {
    std::array::from_fn(|resource| {
        let mut native = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: reads a limit into a local structure.
        unsafe { libc::getrlimit(resource as _, &raw mut native) };
        if resource == libc::RLIMIT_NOFILE as usize && native.rlim_max != libc::RLIM_INFINITY {
            // The guest's, which does not count the shim's descriptors.
            native.rlim_max = native.rlim_max.saturating_sub(nomina_abi::HIDDEN_FDS.into());
            native.rlim_cur = native.rlim_cur.min(native.rlim_max);
        }
        Rlimit { cur: native.rlim_cur, max: native.rlim_max }
    })
}

/// Default of `pid_max` and `threads-max`.
const PID_MAX: i32 = 4_194_304;
const MAX_THREADS: usize = 32768;

/// What [`start`] gives: the server, the guardian's control, the first program's host pid, the lock of the scratch directory, and the
/// terminal if the sandbox has its foreground.
type Started = (Arc<Server>, Control, i32, OwnedFd, Option<Foreground>);

/// A server and its first thread, before there is any process.
pub(crate) struct Prepared {
    pub(crate) server: Arc<Server>,
    pub(crate) thread: Arc<GuestThread>,
    /// Guest's end of the hidden socket.
    pub(crate) socket: OwnedFd,
    /// Marks the directory for handles as in use.
    pub(crate) scratch: OwnedFd,
}

/// Mounts everything and makes the server.
pub(crate) fn prepare(builder: &SandboxBuilder, plan: &Plan) -> Result<Prepared, SpawnError> {
    let identity = &plan.identity;
    let ids = IdMap::to(identity.uid, identity.gid);
    let mounted = mount_all(plan, ids)?;
    let user_ns = UserNamespace::initial();
    let groups: Vec<Kgid> = identity.groups.clone();
    let (uid, gid) = (identity.uid, identity.gid);
    let init_cred = if identity.uid == 0 {
        Cred { groups: groups.into(), gid, egid: gid, sgid: gid, fsgid: gid, ..Cred::root(user_ns.clone()) }
    } else {
        Cred::user(uid, gid, &groups, user_ns.clone())
    };
    let nobody = Arc::new(Cred::user(65534, 65534, &[], user_ns));

    // The first program: its working directory must exist.
    let workdir = plan.workdir.as_os_str().as_bytes();
    let pwd = with_root_walk(&mounted.root, |walk| {
        namei::path_lookup(walk, workdir, LookupFlags::FOLLOW | LookupFlags::DIRECTORY)
    })
    .map_err(|errno| SpawnError::Workdir { dir: plan.workdir.clone(), reason: errno.message().into() })?;
    let fs = FsStruct { pwd, ..FsStruct::new(mounted.root.clone()) };
    let hostname = match &plan.hostname {
        Some(name) => name.as_bytes().to_vec(),
        None => rustix::system::uname().nodename().to_bytes().to_vec(),
    };
    let max_threads =
        plan.pids.map_or(MAX_THREADS.min(half_of_all_pids() as usize), |pids| pids as usize + 1);
    let mut kernel = Kernel::new(KernelConfig {
        init_cred,
        hostname,
        domainname: b"(none)".to_vec(),
        limits: limits(),
        max_threads,
        pid_max: PID_MAX,
        policy: builder.policy.clone(),
        fs: fs.clone(),
        mnt_ns: mounted.ns.clone(),
        net_owner: (plan.network.net == Net::Host).then(UserNamespace::outside),
        cgroup_root: mounted.cgroup_root,
        now: 0,
    });
    kernel.set_wall_clock(|| rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec);
    let first = kernel.spawn_first(b"nomina").map_err(errno_error("making the first task"))?;
    let first_pid_ns =
        kernel.active_pid_ns(first).ok_or_else(|| errno_error("making the first task")(Errno::ESRCH))?;
    // As in a container: the loopback device of the first namespace is up.
    let first_net = kernel.task(first).and_then(|task| task.nsproxy().map(|ns| ns.net_ns().clone()));
    let first_net = first_net.ok_or_else(|| errno_error("making the first task")(Errno::ESRCH))?;
    first_net.set_up("lo", true).map_err(errno_error("bringing up the loopback device"))?;
    let scratch = scratch_dir(&plan.layer.dir)?;
    let scratch_lock = scratch::hold(&scratch).map_err(host_error("locking the directory for handles"))?;
    let sockets = scratch.join("s");
    fs::create_dir(&sockets).map_err(host_error("creating the directory for sockets"))?;
    let ns_sb = active(Arc::new(NsFs));
    let ns_mnt = Mount::new(&mounted.table, ns_sb.clone(), ns_sb.root().clone(), MountFlags::empty());

    let fuse_host = Arc::new(fuse::Host::new(&plan.layer.dir));
    mounted.net_devices.of(&first_net);
    let server = Arc::new(Server {
        net_stack: first_net.stack().clone(),
        kernel: Mutex::new(kernel),
        guests: Default::default(),
        pids: pids::Pids::default(),
        bpf: Default::default(),
        handles: handle::Handles::new(scratch).map_err(host_error("preparing handles"))?,
        controls: controls::Controls::default(),
        datagrams: Datagrams::new().map_err(host_error("preparing sockets"))?,
        reporters: Default::default(),
        privs: Default::default(),
        inet: inet::Inet::new(sockets.clone()).map_err(host_error("preparing sockets"))?,
        unix: socket::unix::UnixNames::new(sockets),
        ids,
        nobody,
        first_fs: fs,
        instances: mounted.instances,
        opens: Default::default(),
        syncs: Default::default(),
        private_dirs: mounted.private_dirs,
        fs_contexts: Default::default(),
        filesystems: Default::default(),
        cgroup_sb: mounted.cgroup_sb,
        ns_mnt,
        devpts: mounted.devpts,
        devtmpfs: mounted.devtmpfs,
        mqueues: Default::default(),
        segments: Default::default(),
        net: net::Network::new().map_err(host_error("preparing the network"))?,
        netlink: netlink::Netlink::new().map_err(host_error("preparing netlink"))?,
        fuse: nomina_fs::fuse::Fuse::new(fuse_host.clone()).map_err(host_error("preparing FUSE"))?,
        terminals: mounted.terminals.clone(),
        streams: Default::default(),
        entrance: OnceLock::new(),
        shim: OnceLock::new(),
        reaper: reaper::Reaper::new().map_err(host_error("watching for exits"))?,
        tethers: tether::Tethers::new().map_err(host_error("making a pipe"))?,
        robust: robust::Robust::new().map_err(host_error("making a timer"))?,
        tokens: clone::Tokens::default(),
        watcher: watcher::Watcher::default(),
        renamed: Mutex::default(),
        spares: spares::Spares::default(),
        tracees: Default::default(),
        ahead: Arc::default(),
        promises: Default::default(),
        programs: Default::default(),
        stats: stats::Stats::default(),
        first_pgrp: OnceLock::new(),
        first_pid_ns: OnceLock::from(first_pid_ns.clone()),
        max_threads,
        ending: AtomicBool::new(false),
        patch_after: plan.patch_after,
        seccomp: Default::default(),
        started: Instant::now(),
    });
    if plan.stats {
        server.stats.switch_on();
    }
    server.net.attach(first_net.stack());
    if let Some(devtmpfs) = server.devtmpfs.clone() {
        let ahead = Arc::downgrade(&server.ahead);
        server.net.set_tap_nodes(Box::new(move |number, minor, there| {
            let (name, rdev) = (format!("tap{number}"), rustix::fs::makedev(TAP_MAJOR, minor));
            // No answer about the name that was given before holds after.
            let _changing = ahead.upgrade();
            let _changing = _changing.as_ref().map(|ahead| ahead.change());
            match there {
                true => devtmpfs.create_node(&name, rdev, 0o600),
                false => devtmpfs.delete_node(&name, rdev),
            }
        }));
    }
    let transport = Arc::downgrade(&server);
    server.net.set_transport(Box::new(move |stack, out| {
        if let Some(server) = transport.upgrade() {
            server.inet.transport(&server, stack, out);
        }
    }));
    network::attach(&server, &first_net, &plan.network)?;
    let _ = fuse_host.server.set(Arc::downgrade(&server));
    let watcher: Weak<dyn Watcher> = Arc::<ahead::Ahead>::downgrade(&server.ahead);
    for mount in mounted.ns.mounts() {
        set_watcher(mount.sb(), &watcher);
    }
    server.instances.set_watcher(watcher);
    let _ = mounted.terminals.server.set(Arc::downgrade(&server));
    let _ = mounted.proc.server.set(Arc::downgrade(&server));
    let _ = mounted.cgroup_view.server.set(Arc::downgrade(&server));
    server.netlink.serve(&server);
    let _ = mounted.proc.ns.set(first_pid_ns);
    let watching = Arc::downgrade(&server);
    mounted.table.set_on_change(move |ns| {
        if let Some(server) = watching.upgrade() {
            server.handles.mounts.changed(&server, ns);
        }
    });
    filesystems::register_all(&server).map_err(errno_error("registering file systems"))?;

    // The first thread.
    let (ours, theirs) = sock::pair().map_err(host_error("making the hidden socket"))?;
    let space = AddressSpace::new().map_err(host_error("making the shared region"))?;
    let thread = Arc::new(GuestThread {
        task: first,
        host_tid: AtomicI32::new(0),
        gate: Default::default(),
        token: server.tokens.next(),
        process: GuestProcess::first(),
        files: Mutex::new(Arc::new(GuestFiles::with_socket(ours))),
        image: Mutex::new(Some(Image::first(space))),
        borrowed: Mutex::default(),
        maker: None,
        hint: AtomicI32::new(0),
        made_ns: 0,
        made: Mutex::default(),
        loading: Mutex::default(),
        pace: Default::default(),
        observed: Mutex::default(),
        reports: std::sync::atomic::AtomicBool::new(false),
        forks: std::sync::atomic::AtomicU32::new(0),
    });
    server.guests.expect(thread.clone());
    Ok(Prepared { server, thread, socket: theirs, scratch: scratch_lock })
}

/// Answers who finds the sandbox by its entry.
fn listen(server: &Arc<Server>, entry: &Entry, plan: &Plan) -> io::Result<()> {
    let bytes = |text: &std::ffi::OsString| text.as_bytes().to_vec();
    let identity = inspector::Identity {
        id: entry.id.clone(),
        name: entry.name.clone(),
        env: plan.env.iter().map(|(key, value)| (bytes(key), bytes(value))).collect(),
    };
    inspector::start(server, entry.listener.try_clone()?, identity)
}

fn start(builder: &SandboxBuilder, plan: &Plan, entry: Option<&Entry>) -> Result<Started, SpawnError> {
    let identity = &plan.identity;
    let Prepared { server, thread, socket: theirs, scratch: scratch_lock } = prepare(builder, plan)?;
    let program = &plan.argv[0];
    let prefix = find_program(&server, &thread, program, &plan.env, &server.first_fs)?;
    let mut argv: Vec<&[u8]> = plan.argv.iter().map(|arg| arg.as_bytes()).collect();
    if !prefix.is_empty() {
        argv.splice(0..1, prefix.iter().map(Vec::as_slice));
    }
    let envp: Vec<Vec<u8>> =
        plan.env.iter().map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat()).collect();
    let nul =
        |_| SpawnError::Host { what: "building the arguments", error: io::ErrorKind::InvalidInput.into() };
    let argv: Vec<CString> = nomina_gate::launch::c_strings(argv).map_err(nul)?;
    let envp: Vec<CString> = nomina_gate::launch::c_strings(envp.iter().map(Vec::as_slice)).map_err(nul)?;

    let shim = shim_memfd(nomina_shim::IMAGE).map_err(host_error("making the shim's memfd"))?;
    let _ = server.shim.set(shim.try_clone().map_err(host_error("keeping the shim's memfd"))?);
    let filter =
        Filter::build(&BuildOptions { shim_text: nomina_shim::text(), ..BuildOptions::default() }).map_err(
            |error| SpawnError::Host { what: "building the filter", error: io::Error::other(error) },
        )?;
    let landlock = Ruleset::deny_all().map_err(|errno| SpawnError::Host {
        what: "making Landlock rules",
        error: io::Error::from_raw_os_error(errno.0),
    })?;
    let stdio = [&builder.stdin, &builder.stdout, &builder.stderr];
    let stdio: Vec<OwnedFd> = stdio
        .into_iter()
        .enumerate()
        .map(|(index, stream)| open_stream(stream, index))
        .collect::<io::Result<_>>()
        .map_err(host_error("opening the standard streams"))?;
    let borrowed = [stdio[0].as_fd(), stdio[1].as_fd(), stdio[2].as_fd()];
    server.streams.add(&borrowed).map_err(host_error("looking at the standard streams"))?;
    let foreground = terminal::is_foreground(&borrowed);
    if let Some(terminal) = crate::server::tty::first_terminal(&borrowed) {
        let _ = server.devpts.adopt(terminal, identity.uid, 5);
    }
    let mut launched = Launch {
        shim: shim.as_fd(),
        filter: filter.as_sock_filters(),
        landlock: landlock.as_fd(),
        stdio: borrowed,
        socket: theirs.as_fd(),
        argv: &argv,
        envp: &envp,
        nofile: limits()[libc::RLIMIT_NOFILE as usize].cur,
        nproc: plan.pids.map(u64::from),
        nproc_total: half_of_all_pids(),
        foreground,
    }
    .start()
    .map_err(launch_error)?;
    raise_descriptor_limit();
    let pid = launched.pid;
    let foreground = match foreground {
        true => Some(Foreground::new(stdio[0].as_fd(), pid).map_err(host_error("keeping the terminal"))?),
        false => None,
    };
    let (listener, _) = Listener::new(launched.take_listener());
    let _ = thread.gate.listener.set(listener);
    let tid_error = host_error("binding the first guest");
    clone::attach(&server, pid, thread.token).ok_or_else(|| tid_error(io::Error::last_os_error()))?;
    // SAFETY: an integer.
    let group = unsafe { libc::getpgid(pid) };
    let _ = server.first_pgrp.set(group);
    server.pids.alias(1, group);
    worker::start(&server, &thread.gate).map_err(host_error("starting the workers"))?;
    server.reaper.watch_timer(&server.robust.timer).map_err(host_error("watching a timer"))?;
    reaper::start(&server).map_err(host_error("starting the reaper"))?;
    watcher::start(&server).map_err(host_error("starting the watcher"))?;
    spares::start(&server).map_err(host_error("starting the maker of spares"))?;
    let control = launched.go().map_err(launch_error)?;
    let _ = server.entrance.set(control.entrance());
    if let Some(entry) = entry {
        listen(&server, entry, plan).map_err(host_error("listening for `nomina ps` and its like"))?;
    }
    Ok((server, control, pid, scratch_lock, foreground))
}

/// Half of the numbers the host has for tasks: the other half is left to others, whatever guests do.
fn half_of_all_pids() -> u64 {
    let text = fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    text.trim().parse().unwrap_or(32768) / 2
}

/// The supervisor holds a descriptor or two for each guest process: its soft limit becomes the hard one. Guests have been
/// given theirs already.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    // Where it is refused, forks fail a little sooner with EAGAIN.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}

fn open_stream(stream: &Stdio, index: usize) -> io::Result<OwnedFd> {
    let null = || -> io::Result<OwnedFd> {
        Ok(fs::File::options().read(true).write(true).open("/dev/null")?.into())
    };
    match stream {
        Stdio::Null => null(),
        Stdio::Fd(fd) => fd.try_clone(),
        Stdio::Inherit => {
            let inherited = match index {
                0 => io::stdin().as_fd().try_clone_to_owned(),
                1 => io::stdout().as_fd().try_clone_to_owned(),
                _ => io::stderr().as_fd().try_clone_to_owned(),
            };
            inherited.or_else(|_| null())
        }
    }
}

/// Looks the program up as `execvp(3)` does, in the PATH of the inside, and prepares its exec. Gives what replaces
/// `argv[0]` for a script.
pub(crate) fn find_program(
    server: &Arc<Server>,
    thread: &Arc<GuestThread>,
    program: &OsStr,
    env: &[(std::ffi::OsString, std::ffi::OsString)],
    fs: &FsStruct,
) -> Result<Vec<Vec<u8>>, SpawnError> {
    let name = program.as_bytes();
    let shown = || program.to_string_lossy().into_owned();
    let failed = |errno: Errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => SpawnError::NotFound(shown()),
        errno => SpawnError::NotExecutable { program: shown(), reason: errno.message().into() },
    };
    if name.contains(&b'/') {
        return exec::prepare_first(server, thread, fs, name).map_err(failed);
    }
    let path = env
        .iter()
        .find(|(key, _)| key == "PATH")
        .map_or(&b"/bin:/usr/bin"[..], |(_, value)| value.as_bytes());
    let mut denied = None;
    for dir in path.split(|&byte| byte == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let candidate = [dir, b"/", name].concat();
        match exec::prepare_first(server, thread, fs, &candidate) {
            Ok(prefix) => return Ok(prefix),
            Err(errno @ (Errno::EACCES | Errno::ENOEXEC)) => denied = Some(errno),
            Err(_) => {}
        }
    }
    Err(failed(denied.unwrap_or(Errno::ENOENT)))
}

impl Running {
    /// Waits for the first program's end. Everything else in the sandbox ends with it, since it is init.
    ///
    /// # Errors
    /// When the guardian was killed, and the sandbox with it.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let foreground = self.foreground.as_ref();
        let is_guest = |pid| self.server.guests.by_tid(pid).is_some();
        let stopped = |_signal| foreground.iter().for_each(|foreground| foreground.stopped(is_guest));
        let status = self.control.as_ref().and_then(|control| control.wait(stopped));
        self.end();
        let status = status
            .ok_or_else(|| io::Error::other("the sandbox's guardian was killed, and all programs with it"))?;
        Ok(ExitStatus::from_wait_status(status))
    }

    /// The terminal whose foreground the sandbox has, if any.
    pub fn foreground(&self) -> Option<&Foreground> {
        self.foreground.as_ref()
    }

    /// Host pid of the first program, to send signals to.
    pub fn first_pid(&self) -> i32 {
        self.pid
    }

    /// What `nomina ps` calls it; `None` where there is no runtime directory.
    pub fn id(&self) -> Option<&str> {
        self.entry.as_ref().map(|entry| entry.id.as_str())
    }

    /// Published ports, with the ports that the host has.
    pub fn published(&self) -> &[Publish] {
        self.server.inet.uplink.get().map_or(&[], |attached| &attached.published)
    }

    /// Counts of the requests served so far.
    pub fn stats(&self) -> Vec<(String, u64, u64, u64)> {
        self.server
            .stats
            .rows()
            .into_iter()
            .map(|row| (row.name, row.calls, row.total_ns, row.enosys))
            .collect()
    }

    fn end(&mut self) {
        self.server.ending.store(true, Ordering::Release);
        self.entry = None;
        if let Some(control) = self.control.take() {
            control.finish();
        }
        let server = self.server.clone();
        nomina_gate::guardian::kill_orphans(|pid| server.guests.by_tid(pid).is_some() || runs_shim(pid));
        self.layer.remove();
        server.handles.remove_scratch();
        if let Some(sweeper) = self.sweeper.take() {
            let _ = sweeper.join();
        }
        self.foreground = None;
    }
}

/// Whether a process is a guest of whatever sandbox, by the only program that guests ever execute.
fn runs_shim(pid: i32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    exe.is_ok_and(|exe| exe.as_os_str().as_bytes().starts_with(b"/memfd:nomina-shim"))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A row of counts for display.
pub fn stat_row<'n>(row: &'n (String, u64, u64, u64)) -> StatRow<'n> {
    StatRow { name: &row.0, calls: row.1, total_ns: row.2, enosys: row.3 > 0 }
}
