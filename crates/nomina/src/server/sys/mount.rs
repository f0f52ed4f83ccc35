//! `mount(2)`, `umount2(2)`, `pivot_root(2)`: the checks of `path_mount`, `can_umount` and `pivot_root` (`fs/namespace.c`), in
//! their order. What they do to the tree is the model's ([`nomina_kernel::mount`]).

use std::sync::Arc;

use nomina_kernel::capability::Cap;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mnt_ns::MntNs;
use nomina_kernel::mount::{
    MntNamespace, Mount, MountFlags, MountPropagation, UmountFlags, bind_mount, change_propagation,
    do_add_mount, mount_too_revealing, move_mount, pivot_root as pivot_mounts, remount_flags,
    umount as umount_path,
};
use nomina_kernel::user_namespace::UserNamespace;
use nomina_kernel::vfs::fs_context::{
    FsCaller, FsContext, FsParameter, FsValue, reconfigure_super, vfs_create_mount, vfs_get_tree,
    vfs_parse_fs_param,
};
use nomina_kernel::vfs::{ActiveSuper, FsStruct, LookupFlags, Path, SuperFlags, namei};

use super::super::Server;
use super::super::request::{Ctx, Reply};

/// Flags of `mount(2)`: `MS_*`.
mod ms {
    pub const REMOUNT: u64 = libc::MS_REMOUNT;
    pub const BIND: u64 = libc::MS_BIND;
    pub const MOVE: u64 = libc::MS_MOVE;
    pub const REC: u64 = libc::MS_REC;
    pub const SILENT: u64 = libc::MS_SILENT;
    pub const UNBINDABLE: u64 = libc::MS_UNBINDABLE;
    pub const PRIVATE: u64 = libc::MS_PRIVATE;
    pub const SLAVE: u64 = libc::MS_SLAVE;
    pub const SHARED: u64 = libc::MS_SHARED;
    pub const PROPAGATION: u64 = UNBINDABLE | PRIVATE | SLAVE | SHARED;
    pub const ATIME: u64 = libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;
    pub const NOUSER: u64 = 1 << 31;
    pub const MGC_VAL: u64 = 0xc0ed_0000;
    pub const MGC_MSK: u64 = 0xffff_0000;
}

/// `MNT_ATIME_MASK`
const MNT_ATIME: MountFlags = MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);

/// `MS_RMT_MASK`: the flags of a super block that a remount changes.
pub const RMT_MASK: SuperFlags =
    SuperFlags::RDONLY.union(SuperFlags::SYNCHRONOUS).union(SuperFlags::MANDLOCK).union(SuperFlags::LAZYTIME);

/// The caller as mount calls need it.
pub struct Caller {
    /// What file system types see of it.
    pub fs_caller: FsCaller,
    /// Its mount namespace.
    pub mnt_ns: Arc<MntNs>,
    server: Arc<Server>,
}

impl Caller {
    /// Credentials.
    pub fn cred(&self) -> &Arc<Cred> {
        &self.fs_caller.cred
    }

    /// Its root directory.
    pub fn root(&self) -> &Path {
        &self.fs_caller.fs.root
    }

    /// The mount tree.
    pub fn ns(&self) -> &Arc<MntNamespace> {
        self.mnt_ns.mounts()
    }

    /// The user namespace that owns its mount namespace.
    pub fn owner(&self) -> Result<&Arc<UserNamespace>> {
        self.mnt_ns.common().owner().ok_or(Errno::EPERM)
    }

    /// `may_mount`: `EPERM` without `CAP_SYS_ADMIN` in the owner of the mount namespace.
    pub fn may_mount(&self) -> Result<()> {
        if self.cred().ns_capable(self.owner()?, Cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `ns_capable(user_ns, CAP_SYS_ADMIN)`
    pub fn is_admin_of(&self, user_ns: &Arc<UserNamespace>) -> bool {
        self.cred().ns_capable(user_ns, Cap::SYS_ADMIN)
    }

    /// Finds a place as the caller does.
    pub fn lookup(&self, name: &[u8], flags: LookupFlags) -> Result<Path> {
        let fs: &FsStruct = &self.fs_caller.fs;
        let found = self.cred().with_walk_cred(|cred| namei::path_lookup(&fs.walk(cred), name, flags))?;
        Ok(self.server.named_place(found, self.ns()))
    }

    /// `ns_capable(sb->s_user_ns, CAP_SYS_ADMIN)`
    pub fn owns(&self, sb: &ActiveSuper) -> bool {
        match sb.user_ns() {
            Some(user_ns) => self.cred().ns_capable(user_ns, Cap::SYS_ADMIN),
            None => self.cred().capable(Cap::SYS_ADMIN),
        }
    }
}

impl Ctx<'_> {
    /// Takes a snapshot of the caller.
    ///
    /// # Errors
    /// `ESRCH`: it is gone.
    pub fn mount_caller(&self) -> Result<Caller> {
        let kernel = self.server.kernel.lock().unwrap();
        let task = kernel.task(self.task()).ok_or(Errno::ESRCH)?;
        let (cred, nsproxy) = (task.cred().clone(), task.nsproxy().cloned().ok_or(Errno::ESRCH)?);
        let fs = task.fs().cloned().ok_or(Errno::ESRCH)?;
        let pid_ns = kernel.active_pid_ns(self.task()).ok_or(Errno::ESRCH)?;
        drop(kernel);
        let fs = fs.lock().unwrap().clone();
        let mnt_ns = nsproxy.mnt_ns().clone();
        let fs_caller = FsCaller { cred, nsproxy, pid_ns, fs };
        Ok(Caller { fs_caller, mnt_ns, server: self.server.clone() })
    }
}

/// `mount(2)`: source, target, type, flags, data.
pub fn mount(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (source, data) = (ctx.bytes_opt(0)?, ctx.bytes_opt(4)?);
    let fs_type = ctx.bytes_opt(2)?;
    let target = ctx.path(1)?;
    ctx.server.handles.sweep_closed();
    let caller = ctx.mount_caller()?;
    let path = caller.lookup(&target, LookupFlags::FOLLOW)?;
    path_mount(ctx, &caller, &path, source.as_deref(), fs_type.as_deref(), ctx.args[3], data.as_deref())?;
    Ok(().into())
}

/// `path_mount`: what the flags ask for.
fn path_mount(
    ctx: &Ctx<'_>,
    caller: &Caller,
    path: &Path,
    source: Option<&[u8]>,
    fs_type: Option<&[u8]>,
    flags: u64,
    data: Option<&[u8]>,
) -> Result<()> {
    let mut flags = flags;
    if flags & ms::MGC_MSK == ms::MGC_VAL {
        flags &= !ms::MGC_MSK;
    }
    if flags & ms::NOUSER != 0 {
        return Err(Errno::EINVAL);
    }
    caller.may_mount()?;
    let mut mnt_flags = MountFlags::from_ms(flags);
    if flags & ms::REMOUNT != 0 && flags & ms::ATIME == 0 {
        // A remount that says nothing about access times keeps what there is.
        mnt_flags = (mnt_flags - MNT_ATIME) | (path.mnt.flags() & MNT_ATIME);
    }
    let sb_flags = SuperFlags::from_bits_truncate(flags as u32);
    if flags & ms::REMOUNT != 0 && flags & ms::BIND != 0 {
        if mnt_flags.contains(MountFlags::READONLY) {
            path.mnt.may_change_flags(mnt_flags)?;
            ctx.server.hold_writers(&ctx.look()?, &path.mnt, false)?;
        }
        return remount_flags(caller.ns(), path, mnt_flags);
    }
    if flags & ms::REMOUNT != 0 {
        return do_remount(ctx, caller, path, sb_flags, mnt_flags, data);
    }
    if flags & ms::BIND != 0 {
        let from = old_path(caller, source)?;
        return bind_mount(caller.ns(), &from, path, flags & ms::REC != 0).map(drop);
    }
    if flags & ms::PROPAGATION != 0 {
        return do_change_type(caller, path, flags);
    }
    if flags & ms::MOVE != 0 {
        let from = old_path(caller, source)?;
        return move_mount(caller.ns(), &from, path);
    }
    do_new_mount(ctx, caller, path, fs_type, (sb_flags, mnt_flags), source, data)
}

/// The source of a bind mount or move: `EINVAL` without a name.
fn old_path(caller: &Caller, source: Option<&[u8]>) -> Result<Path> {
    match source {
        None | Some(b"") => Err(Errno::EINVAL),
        Some(name) => caller.lookup(name, LookupFlags::FOLLOW),
    }
}

/// `do_change_type`: `EINVAL` for several types at once, or another flag than `MS_REC` and `MS_SILENT`.
fn do_change_type(caller: &Caller, path: &Path, flags: u64) -> Result<()> {
    let kind = match flags & !(ms::REC | ms::SILENT) {
        ms::SHARED => MountPropagation::Shared,
        ms::PRIVATE => MountPropagation::Private,
        ms::SLAVE => MountPropagation::Slave,
        ms::UNBINDABLE => MountPropagation::Unbindable,
        _ => return Err(Errno::EINVAL),
    };
    change_propagation(caller.ns(), &|owner| caller.is_admin_of(owner), path, kind, flags & ms::REC != 0)
}

/// `do_new_mount`
fn do_new_mount(
    ctx: &Ctx<'_>,
    caller: &Caller,
    path: &Path,
    fs_type: Option<&[u8]>,
    (sb_flags, mnt_flags): (SuperFlags, MountFlags),
    source: Option<&[u8]>,
    data: Option<&[u8]>,
) -> Result<()> {
    let name = fs_type.ok_or(Errno::EINVAL)?;
    let fs_type = ctx.server.filesystems.get(name).ok_or(Errno::ENODEV)?;
    let subtype = name.iter().position(|&byte| byte == b'.').map(|dot| &name[dot + 1..]);
    if subtype == Some(b"") {
        return Err(Errno::EINVAL);
    }
    let mut fc = FsContext::for_mount(fs_type, sb_flags, caller.fs_caller.clone())?;
    fc.oldapi = true;
    for (key, value) in [("subtype", subtype), ("source", source)] {
        if let Some(value) = value {
            let param = FsParameter { key: key.into(), value: FsValue::String(value.to_vec()) };
            vfs_parse_fs_param(&mut fc, &param)?;
        }
    }
    parse_monolithic(&mut fc, data)?;
    if !fc.mount_capable() {
        return Err(Errno::EPERM);
    }
    vfs_get_tree(&mut fc)?;
    let mount = create_mount(caller, &mut fc, mnt_flags)?;
    do_add_mount(caller.ns(), &mount, path)
}

/// A mount of the context's instance, where that shows nothing that is to stay hidden.
///
/// # Errors
/// `EPERM`: it does.
pub fn create_mount(caller: &Caller, fc: &mut FsContext, flags: MountFlags) -> Result<Arc<Mount>> {
    let sb = fc.root.clone().ok_or(Errno::EINVAL)?;
    let mut flags = flags;
    if mount_too_revealing(caller.ns(), caller.owner()?, &sb, &mut flags) {
        fc.errorfcp("VFS", "Mount too revealing");
        return Err(Errno::EPERM);
    }
    vfs_create_mount(fc, caller.ns().table(), flags)
}

/// `parse_monolithic_mount_data`
fn parse_monolithic(fc: &mut FsContext, data: Option<&[u8]>) -> Result<()> {
    let fs_type = fc.fs_type.clone();
    data.map_or(Ok(()), |data| fs_type.parse_monolithic(fc, data))
}

/// `do_remount`: changes the file system itself and the mount.
fn do_remount(
    ctx: &Ctx<'_>,
    caller: &Caller,
    path: &Path,
    sb_flags: SuperFlags,
    mnt_flags: MountFlags,
    data: Option<&[u8]>,
) -> Result<()> {
    let sb = path.mnt.sb().clone();
    // The checks of the mount come first, before anything is changed; setting what is set already makes them.
    if !Arc::ptr_eq(&path.dentry, path.mnt.root()) || !path.mnt.is_in(caller.ns()) {
        return Err(Errno::EINVAL);
    }
    path.mnt.may_change_flags(mnt_flags)?;
    if let Some(fs_type) = ctx.server.filesystems.get(sb.ops().fs_type().as_bytes()) {
        let mut fc = FsContext::for_reconfigure(fs_type, &sb, sb_flags, RMT_MASK, caller.fs_caller.clone())?;
        fc.oldapi = true;
        parse_monolithic(&mut fc, data)?;
        if !caller.owns(&sb) {
            return Err(Errno::EPERM);
        }
        may_become_readonly(ctx, &sb, fc.sb_flags)?;
        reconfigure_super(&mut fc)?;
    } else if !caller.owns(&sb) {
        return Err(Errno::EPERM);
    } else {
        may_become_readonly(ctx, &sb, sb_flags)?;
        sb.change_flags(RMT_MASK, sb_flags)?;
    }
    remount_flags(caller.ns(), path, mnt_flags)
}

/// `EBUSY`: a file of a file system that is to become read-only is open for writing.
fn may_become_readonly(ctx: &Ctx<'_>, sb: &Arc<ActiveSuper>, flags: SuperFlags) -> Result<()> {
    let becomes = flags.contains(SuperFlags::RDONLY) && !sb.flags().contains(SuperFlags::RDONLY);
    if becomes { ctx.server.hold_all_writers(&ctx.look()?, sb) } else { Ok(()) }
}

/// `umount2(2)`: target, flags.
pub fn umount(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let flags = UmountFlags::from_bits(ctx.uint(1)).ok_or(Errno::EINVAL)?;
    let name = ctx.path(0)?;
    ctx.server.handles.sweep_closed();
    let mut caller = ctx.mount_caller()?;
    let mut lookup = LookupFlags::MOUNTPOINT;
    lookup.set(LookupFlags::FOLLOW, !flags.contains(UmountFlags::NOFOLLOW));
    let path = caller.lookup(&name, lookup)?;
    caller.may_mount()?;
    let mount = &path.mnt;
    if !Arc::ptr_eq(&path.dentry, mount.root())
        || !mount.is_in(caller.ns())
        || mount.flags().contains(MountFlags::LOCKED)
    {
        return Err(Errno::EINVAL);
    }
    if flags.contains(UmountFlags::FORCE) && !caller.owns(mount.sb()) {
        return Err(Errno::EPERM);
    }
    let is_root = Arc::ptr_eq(mount, &caller.root().mnt);
    if is_root && !flags.intersects(UmountFlags::DETACH | UmountFlags::EXPIRE) {
        // The root is not unmounted but made read-only: `do_umount_root`.
        if !caller.owns(mount.sb()) {
            return Err(Errno::EPERM);
        }
        let sb = mount.sb();
        may_become_readonly(ctx, sb, SuperFlags::RDONLY)?;
        sb.change_flags(SuperFlags::RDONLY, SuperFlags::RDONLY)?;
        return Ok(().into());
    }
    // The snapshot's working directory is a reference that does not count.
    let root = caller.root().clone();
    caller.fs_caller.fs.pwd = root.clone();
    if !flags.contains(UmountFlags::DETACH) {
        // Who is gone, and perhaps waited for already, stands nowhere any more.
        ctx.server.look_for_the_dead();
    }
    // What native handles hold is a reference like every other, as long as the model counts.
    let held = match flags.contains(UmountFlags::DETACH) {
        true => Vec::new(),
        false => ctx.server.mounts_held(&ctx.look()?, path.mnt.sb()),
    };
    umount_path(caller.ns(), path, flags, &root)?;
    drop(held);
    Ok(().into())
}

/// `pivot_root(2)`: the new root, where to put the old one.
pub fn pivot_root(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (new_root, put_old) = (ctx.path(0)?, ctx.path(1)?);
    ctx.server.handles.sweep_closed();
    let caller = ctx.mount_caller()?;
    caller.may_mount()?;
    let lookup = LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
    let (new, old) = (caller.lookup(&new_root, lookup)?, caller.lookup(&put_old, lookup)?);
    let (from, to) = pivot_mounts(caller.ns(), &new, &old, caller.root())?;
    // chroot_fs_refs: every task that stands at the old root moves to the new one.
    let all: Vec<_> = {
        let kernel = ctx.server.kernel.lock().unwrap();
        kernel.tasks().filter_map(|task| task.fs().cloned()).collect()
    };
    for fs in all {
        fs.lock().unwrap().replace_root(&from, &to);
    }
    Ok(().into())
}
