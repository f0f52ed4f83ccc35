//! Starting a sandbox from its plan.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as HostPath, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use nomina_fs::IdMap;
use nomina_gate::bpf::{BuildOptions, Filter};
use nomina_gate::landlock::Ruleset;
use nomina_gate::launch::{Control, Launch, LaunchError, shim_memfd};
use nomina_gate::listener::Listener;
use nomina_gate::sock;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::Errno;
use nomina_kernel::kernel::{Kernel, KernelConfig};
use nomina_kernel::mount::{Mount, MountFlags};
use nomina_kernel::rlimit::{RLIM_NLIMITS, Rlimit};
use nomina_kernel::user_namespace::{Kgid, UserNamespace};
use nomina_kernel::vfs::{FsStruct, LookupFlags, Watcher, namei};

use super::config::{Net, Plan};
use super::network;
use super::program::{find_program, open_stream};
use super::running::{Layer, Running, start_sweeping};
use super::scratch;
use super::terminal::{self, Foreground};
use super::view::{active, mount_all, with_root_walk};
use super::{HostFacts, SandboxBuilder, SpawnError};
use crate::inspector::runtime_dir::Entry;
use crate::server::datagram::Datagrams;
use crate::server::filesystems;
use crate::server::guest::{AddressSpace, GuestFiles, GuestProcess, GuestThread, Image};
use crate::server::instances::set_watcher;
use crate::server::lock::Mutex;
use crate::server::nsfs::NsFs;
use crate::server::sys::{clone, socket};
use crate::server::{
    Server, ahead, controls, fuse, handle, inet, inspector, net, netlink, pids, reaper, robust, spares,
    stats, tether, watcher, worker,
};

pub(super) fn host_error(what: &'static str) -> impl Fn(io::Error) -> SpawnError {
    move |error| SpawnError::Host { what, error }
}

pub(super) fn errno_error(what: &'static str) -> impl Fn(Errno) -> SpawnError {
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

/// Where memory has names.
pub(super) const SHM: &str = "/dev/shm";

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
    net::tap::show_nodes(&server);
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
