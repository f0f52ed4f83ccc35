//! The file system types of a sandbox: what `mount -t` takes and `/proc/filesystems` lists.
//!
//! A type that is missing here is unknown (`ENODEV`), as on a kernel that is built without it.

mod memory;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use nomina_fs::proc::ProcFs;
use nomina_fs::sysfs::SysFs;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::vfs::fs_context::{FileSystemType, FsContext, FsFlags, FsParameter};
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
    let types: [Arc<dyn FileSystemType>; 8] = [
        Arc::new(Sysfs),
        Arc::new(Memory { name: "tmpfs", server: weak.clone() }),
        Arc::new(Proc { server: weak.clone() }),
        Arc::new(DevTmpfs { server: weak.clone() }),
        Arc::new(DevPts { server: weak.clone() }),
        Arc::new(super::fuse::FuseType { server: weak.clone() }),
        Arc::new(Memory { name: "ramfs", server: weak.clone() }),
        Arc::new(Overlay { server: weak }),
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
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let view = PidNsView {
            server: OnceLock::from(self.server.clone()),
            ns: OnceLock::from(fc.caller.pid_ns.clone()),
        };
        Ok(fill_super(fc, ProcFs::new(anon_dev(), Arc::new(view)), REVEALING))
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
        Ok(fill_super(fc, SysFs::new(anon_dev()), REVEALING))
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

/// devpts.
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
    fn parse_param(&self, _fc: &mut FsContext, param: &FsParameter) -> Result<bool> {
        Ok(matches!(param.key(), "uid" | "gid" | "mode" | "ptmxmode" | "newinstance" | "max"))
    }
    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let server = upgrade(&self.server)?;
        // The new owner's device nodes are its own terminals: usable, unlike those of other instances in a user namespace.
        let sb = ActiveSuper::new(server.devpts.clone(), fc.sb_flags);
        sb.add_iflags(SuperIflags::NOEXEC);
        Ok(sb)
    }
}
