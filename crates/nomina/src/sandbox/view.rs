//! What the first program sees: file systems made and mounted as the plan says.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as HostPath, PathBuf};
use std::sync::Arc;

use nomina_fs::IdMap;
use nomina_fs::cgroup2::CgroupFs;
use nomina_fs::dev::DevTmpfs;
use nomina_fs::devpts::DevPts;
use nomina_fs::host::HostSb;
use nomina_fs::overlay::{OverlayOptions, OverlaySb};
use nomina_fs::proc::ProcFs;
use nomina_fs::sysfs::SysFs;
use nomina_kernel::cgroup::CgroupRoot;
use nomina_kernel::errno::Errno;
use nomina_kernel::mount::{MntNamespace, MountFlags, MountTable, do_mount};
use nomina_kernel::vfs::{
    ActiveSuper, LookupFlags, Path, SuperBlock, SuperFlags, Timespec, WalkContext, WalkCred, namei,
};

use super::SpawnError;
use super::config::{DirPlan, Disposal, MountKind, OverlayPlan, Plan};
use super::network;
use super::seed::seed;
use super::spawn::{errno_error, host_error};
use crate::server::cgroup::CgroupView;
use crate::server::filesystems::{NetDevices, REVEALING};
use crate::server::instances::{Instances, PrivateDir, PrivateDirs};
use crate::server::proc_source::PidNsView;
use crate::server::tty::Terminals;

/// Numbers for file systems that have no host device of their own: anonymous devices, as Linux gives them.
const PROC_DEV: u64 = 0x16;
const SYSFS_DEV: u64 = 0x17;
const DEV_DEV: u64 = 0x6;
const DEVPTS_DEV: u64 = 0x18;
const CGROUP_DEV: u64 = 0x19;

/// The first program's view: everything mounted.
pub(super) struct Mounted {
    pub(super) table: Arc<MountTable>,
    pub(super) ns: Arc<MntNamespace>,
    pub(super) root: Path,
    pub(super) instances: Instances,
    pub(super) private_dirs: PrivateDirs,
    pub(super) devpts: Arc<DevPts>,
    pub(super) devtmpfs: Option<Arc<DevTmpfs>>,
    pub(super) terminals: Arc<Terminals>,
    pub(super) proc: Arc<PidNsView>,
    pub(super) cgroup_root: Arc<CgroupRoot>,
    pub(super) cgroup_view: Arc<CgroupView>,
    pub(super) net_devices: Arc<NetDevices>,
    pub(super) cgroup_sb: Arc<ActiveSuper>,
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

pub(super) fn active(sb: Arc<dyn SuperBlock>) -> Arc<ActiveSuper> {
    ActiveSuper::new(sb, SuperFlags::empty())
}

/// Walks as root of the sandbox.
pub(super) fn with_root_walk<T>(
    root: &Path,
    with: impl FnOnce(&WalkContext<'_>) -> nomina_kernel::Result<T>,
) -> nomina_kernel::Result<T> {
    let cred = WalkCred::root();
    with(&WalkContext { root, pwd: root, cred: &cred, umask: 0o022 })
}

/// Makes a directory and its parents where they are missing.
pub(super) fn make_dirs(root: &Path, dir: &HostPath) -> nomina_kernel::Result<()> {
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

pub(super) fn mount_all(plan: &Plan, ids: IdMap) -> Result<Mounted, SpawnError> {
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
