//! The file system types of a sandbox: what `mount -t` takes and `/proc/filesystems` lists.
//!
//! A type that is missing here is unknown (`ENODEV`), as on a kernel that is built without it. Missing on purpose: what shows or
//! steers the host's kernel as a whole and what Linux therefore refuses to containers anyway (`debugfs`, `tracefs`, `securityfs`,
//! `configfs`, `bpf`, `pstore`, `hugetlbfs`), `binfmt_misc`, since programs are executed by the shim, and whatever needs a block
//! device, since there is none.

mod memory;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use nomina_fs::cgroup2::{self, CgroupFs};
use nomina_fs::devpts;
use nomina_fs::proc::{self, ProcFs};
use nomina_fs::sysfs::{NetClass, SysFs, SysNetDevice};
use nomina_kernel::cgroup::CgroupRootFlags;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::{NetDevice, NetNamespace};
use nomina_kernel::vfs::fs_context::{FileSystemType, FsContext, FsFlags, FsParameter, FsValue};
use nomina_kernel::vfs::{ActiveSuper, SuperBlock, SuperIflags};

use super::Server;
use super::overlayfs::Overlay;
use super::proc_source::PidNsView;
use memory::Memory;

/// Numbers of devices that are none (`get_anon_bdev`). Those mounted at the start have numbers below.
static NEXT_ANON: AtomicU64 = AtomicU64::new(0x40);

/// A device number for an instance without a device.
pub fn anon_dev() -> u64 {
    let minor = NEXT_ANON.fetch_add(1, Ordering::Relaxed);
    minor & 0xff | (minor & 0xf_ff00) << 12
}

/// Registers all types.
///
/// # Errors
/// `EBUSY`: one of them twice.
pub fn register_all(server: &Arc<Server>) -> Result<()> {
    let weak = Arc::downgrade(server);
    let types: [Arc<dyn FileSystemType>; 10] = [
        Arc::new(Sysfs),
        Arc::new(Memory { name: "tmpfs", server: weak.clone() }),
        Arc::new(Proc { server: weak.clone() }),
        Arc::new(Cgroup2 { server: weak.clone() }),
        Arc::new(DevTmpfs { server: weak.clone() }),
        Arc::new(DevPts { server: weak.clone() }),
        Arc::new(super::fuse::FuseType { server: weak.clone() }),
        Arc::new(Memory { name: "ramfs", server: weak.clone() }),
        Arc::new(Overlay { server: weak }),
        Arc::new(Mqueue),
    ];
    types.into_iter().try_for_each(|fs_type| server.filesystems.register(fs_type))
}

/// A new instance, with the flags and the owner that its context asks for.
fn fill_super(fc: &FsContext, ops: Arc<dyn SuperBlock>, iflags: SuperIflags) -> Arc<ActiveSuper> {
    let sb = ActiveSuper::new(ops, fc.sb_flags);
    sb.set_user_ns(&fc.user_ns);
    sb.add_iflags(iflags);
    sb
}

/// What proc and sysfs instances are.
pub const REVEALING: SuperIflags =
    SuperIflags::USERNS_VISIBLE.union(SuperIflags::NOEXEC).union(SuperIflags::NODEV);

fn upgrade(server: &Weak<Server>) -> Result<Arc<Server>> {
    server.upgrade().ok_or(Errno::ENODEV)
}

/// proc: of the pid namespace of who mounts it.
struct Proc {
    server: Weak<Server>,
}

impl FileSystemType for Proc {
    fn name(&self) -> &'static str {
        "proc"
    }
    fn flags(&self) -> FsFlags {
        FsFlags::USERNS_MOUNT
    }
    fn init_fs_context(&self, fc: &mut FsContext) -> Result<()> {
        if let Some(owner) = fc.caller.pid_ns.common().owner() {
            fc.user_ns = owner.clone();
        }
        Ok(())
    }
    fn parse_param(&self, fc: &mut FsContext, param: &FsParameter) -> Result<bool> {
        let key = param.key();
        if key == "gid" {
            let gid = parse_kgid(fc, param)?;
            fc.private::<proc::GivenOptions>().set_gid(gid);
            return Ok(true);
        }
        let known = fc.private::<proc::GivenOptions>().parse(key, text_of(param)?);
        known.map_err(|_| fc.invalf(format_args!("Bad value for '{key}'")))
    }
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let view = PidNsView {
            server: OnceLock::from(self.server.clone()),
            ns: OnceLock::from(fc.caller.pid_ns.clone()),
        };
        let ops = ProcFs::new(anon_dev(), Arc::new(view));
        ops.reconfigure(fc.private::<proc::GivenOptions>());
        Ok(fill_super(fc, ops, REVEALING))
    }
    fn reconfigure(&self, fc: &mut FsContext, sb: &Arc<ActiveSuper>) -> Result<()> {
        if let Some(ops) = sb.ops().as_any().downcast_ref::<ProcFs>() {
            ops.reconfigure(fc.private::<proc::GivenOptions>());
        }
        Ok(())
    }
}

/// sysfs.
struct Sysfs;

impl FileSystemType for Sysfs {
    fn name(&self) -> &'static str {
        "sysfs"
    }
    fn flags(&self) -> FsFlags {
        FsFlags::USERNS_MOUNT
    }
    fn init_fs_context(&self, fc: &mut FsContext) -> Result<()> {
        if let Some(owner) = fc.caller.nsproxy.net_ns().common().owner() {
            fc.user_ns = owner.clone();
        }
        Ok(())
    }
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let devices = NetDevices::default();
        devices.of(fc.caller.nsproxy.net_ns());
        Ok(fill_super(fc, SysFs::of(anon_dev(), Arc::new(devices)), REVEALING))
    }
}

/// The devices of a network namespace, as sysfs shows them. A mount does not keep the namespace.
#[derive(Default)]
pub struct NetDevices(OnceLock<Weak<NetNamespace>>);

impl NetDevices {
    /// Says whose they are, once.
    pub fn of(&self, net: &Arc<NetNamespace>) {
        let _ = self.0.set(Arc::downgrade(net));
    }
}

impl NetClass for NetDevices {
    fn devices(&self) -> Vec<SysNetDevice> {
        let Some(net) = self.0.get().and_then(Weak::upgrade) else { return Vec::new() };
        let stack = net.stack().lock();
        let name = |id| stack.dev(id).map(|dev| dev.name.clone());
        let shown = |dev: &NetDevice| SysNetDevice {
            iflink: dev.link().and_then(|id| stack.dev(id)).map_or(dev.ifindex, |link| link.ifindex),
            master: dev.master.and_then(name),
            ports: stack.ports_of(dev.id).map(|port| port.name.clone()).collect(),
            dev: dev.clone(),
        };
        stack.devices_of(net.common().inum()).map(shown).collect()
    }
}

/// devtmpfs: one instance, which all mounts show.
struct DevTmpfs {
    server: Weak<Server>,
}

impl FileSystemType for DevTmpfs {
    fn name(&self) -> &'static str {
        "devtmpfs"
    }
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let server = upgrade(&self.server)?;
        let ops = server.devtmpfs.clone().ok_or(Errno::ENODEV)?;
        Ok(fill_super(fc, ops, SuperIflags::empty()))
    }
}

/// cgroup2: one instance, which all mounts show, from the root of the cgroup namespace on.
struct Cgroup2 {
    server: Weak<Server>,
}

impl FileSystemType for Cgroup2 {
    fn name(&self) -> &'static str {
        "cgroup2"
    }
    fn flags(&self) -> FsFlags {
        FsFlags::USERNS_MOUNT
    }
    fn init_fs_context(&self, fc: &mut FsContext) -> Result<()> {
        if let Some(owner) = fc.caller.nsproxy.cgroup_ns().common().owner() {
            fc.user_ns = owner.clone();
        }
        Ok(())
    }
    fn parse_param(&self, fc: &mut FsContext, param: &FsParameter) -> Result<bool> {
        let Some((flag, _)) = cgroup2::OPTIONS.iter().find(|(_, name)| *name == param.key()) else {
            return Ok(false);
        };
        if !matches!(param.value, FsValue::Flag) {
            return Err(fc.invalf(format_args!("Unexpected value for '{}'", param.key())));
        }
        *fc.private::<CgroupRootFlags>() |= *flag;
        Ok(true)
    }
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        if fc.exclusive {
            return Err(Errno::EBUSY);
        }
        let sb = upgrade(&self.server)?.cgroup_sb.clone();
        apply_root_flags(fc, &sb);
        let path = fc.caller.nsproxy.cgroup_ns().root().path();
        // Nothing is left of a namespace whose root was removed.
        fc.root_dentry = Some(sb.dentry_at(&path)?);
        Ok(sb)
    }
    fn reconfigure(&self, fc: &mut FsContext, sb: &Arc<ActiveSuper>) -> Result<()> {
        apply_root_flags(fc, sb);
        Ok(())
    }
}

/// The options of the hierarchy are its own: they count only from the initial cgroup namespace (`apply_cgroup_root_flags`).
fn apply_root_flags(fc: &mut FsContext, sb: &ActiveSuper) {
    let flags = *fc.private::<CgroupRootFlags>();
    let initial = fc.caller.nsproxy.cgroup_ns().is_initial();
    if let (true, Some(fs)) = (initial, sb.ops().as_any().downcast_ref::<CgroupFs>()) {
        fs.hierarchy().set_flags(flags);
    }
}

/// mqueue.
struct Mqueue;

impl FileSystemType for Mqueue {
    fn name(&self) -> &'static str {
        "mqueue"
    }
    fn flags(&self) -> FsFlags {
        FsFlags::USERNS_MOUNT
    }
    fn init_fs_context(&self, fc: &mut FsContext) -> Result<()> {
        if let Some(owner) = fc.caller.nsproxy.ipc_ns().common().owner() {
            fc.user_ns = owner.clone();
        }
        Ok(())
    }
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let iflags = SuperIflags::NOEXEC | SuperIflags::NODEV;
        Ok(fill_super(
            fc,
            nomina_fs::mqueue::new(anon_dev(), fc.caller.nsproxy.ipc_ns(), fc.caller.pid_ns.clone()),
            iflags,
        ))
    }
}

/// devpts: every mount has terminals of its own.
struct DevPts {
    server: Weak<Server>,
}

impl FileSystemType for DevPts {
    fn name(&self) -> &'static str {
        "devpts"
    }
    fn flags(&self) -> FsFlags {
        FsFlags::USERNS_MOUNT
    }
    fn parse_param(&self, fc: &mut FsContext, param: &FsParameter) -> Result<bool> {
        let key = param.key();
        match key {
            "uid" => {
                let uid = parse_kuid(fc, param)?;
                fc.private::<devpts::Options>().uid = Some(uid);
                return Ok(true);
            }
            "gid" => {
                let gid = parse_kgid(fc, param)?;
                fc.private::<devpts::Options>().gid = Some(gid);
                return Ok(true);
            }
            _ => {}
        }
        let known = fc.private::<devpts::Options>().parse(key, text_of(param)?);
        known.map_err(|_| fc.invalf(format_args!("Bad value for '{key}'")))
    }
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let server = upgrade(&self.server)?;
        let options = *fc.private::<devpts::Options>();
        let ops = devpts::DevPts::new(anon_dev(), server.terminals.clone(), options);
        // Not SB_I_NODEV, whoever owns it: its nodes are terminals that it has made itself.
        let sb = ActiveSuper::new(ops, fc.sb_flags);
        sb.add_iflags(SuperIflags::NOEXEC);
        server.instances.add(&sb);
        Ok(sb)
    }
    fn reconfigure(&self, fc: &mut FsContext, sb: &Arc<ActiveSuper>) -> Result<()> {
        if let Some(ops) = sb.ops().as_any().downcast_ref::<devpts::DevPts>() {
            ops.reconfigure(*fc.private::<devpts::Options>());
        }
        Ok(())
    }
}

/// A parameter's value as text; `None` where it has none.
///
/// # Errors
/// `EINVAL` where it is something else.
fn text_of(param: &FsParameter) -> Result<Option<&str>> {
    match &param.value {
        FsValue::Flag => Ok(None),
        _ => param.string().map(Some),
    }
}

/// A user id of the context's user namespace (`fsparam_uid`).
fn parse_kuid(fc: &mut FsContext, param: &FsParameter) -> Result<u32> {
    let id = text_of(param)?.and_then(|text| text.parse().ok()).and_then(|id| fc.user_ns.make_kuid(id));
    id.ok_or_else(|| fc.invalf(format_args!("Bad value for '{}'", param.key())))
}

/// A group id of the context's user namespace (`fsparam_gid`).
fn parse_kgid(fc: &mut FsContext, param: &FsParameter) -> Result<u32> {
    let id = text_of(param)?.and_then(|text| text.parse().ok()).and_then(|id| fc.user_ns.make_kgid(id));
    id.ok_or_else(|| fc.invalf(format_args!("Bad value for '{}'", param.key())))
}
