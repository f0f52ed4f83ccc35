//! `fsopen(2)`, `fspick(2)`, `fsconfig(2)`, `fsmount(2)` (`fs/fsopen.c`): instances of file systems made and changed step by step.

use std::os::fd::AsFd;
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::{DetachedMount, Mount, MountFlags};
use nomina_kernel::vfs::fs_context::{
    FsContext, FsParameter, FsPhase, FsPurpose, FsValue, reconfigure_super, vfs_get_tree, vfs_parse_fs_param,
};
use nomina_kernel::vfs::{LookupFlags, Path, SuperFlags};

use super::super::fs_contexts::OpenContext;
use super::super::request::{Ctx, Reply, host};
use super::mount::{Caller, create_mount};
use super::mount_attr::{ATTR_ATIME, attr_to_atime, attr_to_flags};

const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;

const FSPICK_CLOEXEC: u32 = 1;
const FSPICK_SYMLINK_NOFOLLOW: u32 = 2;
const FSPICK_NO_AUTOMOUNT: u32 = 4;
const FSPICK_EMPTY_PATH: u32 = 8;

/// Longest key and text value, with the NUL.
const PARAM_MAX: usize = 256;

/// Commands of `fsconfig(2)`.
mod fsconfig_cmd {
    pub const SET_FLAG: u32 = 0;
    pub const SET_STRING: u32 = 1;
    pub const SET_BINARY: u32 = 2;
    pub const SET_PATH: u32 = 3;
    pub const SET_PATH_EMPTY: u32 = 4;
    pub const SET_FD: u32 = 5;
    pub const CREATE: u32 = 6;
    pub const RECONFIGURE: u32 = 7;
    pub const CREATE_EXCL: u32 = 8;
}

/// `fsopen(2)`: type, flags.
pub fn fsopen(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let name = ctx.path(0)?;
    let caller = ctx.mount_caller()?;
    caller.may_mount()?;
    let flags = ctx.uint(1);
    if flags & !FSOPEN_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let fs_type = ctx.server.filesystems.get(&name).ok_or(Errno::ENODEV)?;
    let context = FsContext::for_mount(fs_type, SuperFlags::empty(), caller.fs_caller.clone())?;
    let fd = ctx.server.fs_contexts.open(context)?;
    Ok(Reply::Fd { fd, cloexec: flags & FSOPEN_CLOEXEC != 0 })
}

/// `fspick(2)`: directory, path, flags.
pub fn fspick(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let caller = ctx.mount_caller()?;
    caller.may_mount()?;
    let flags = ctx.uint(2);
    let known = FSPICK_CLOEXEC | FSPICK_SYMLINK_NOFOLLOW | FSPICK_NO_AUTOMOUNT | FSPICK_EMPTY_PATH;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & FSPICK_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & FSPICK_EMPTY_PATH != 0);
    let path = ctx.mount_path(ctx.int(0), &ctx.path(1)?, lookup)?;
    if !Arc::ptr_eq(&path.dentry, path.mnt.root()) {
        return Err(Errno::EINVAL);
    }
    let sb = path.mnt.sb();
    let fs_type = ctx.server.filesystems.get(sb.ops().fs_type().as_bytes()).ok_or(Errno::EOPNOTSUPP)?;
    let none = SuperFlags::empty();
    let context = FsContext::for_reconfigure(fs_type, sb, none, none, caller.fs_caller.clone())?;
    let fd = ctx.server.fs_contexts.open(context)?;
    Ok(Reply::Fd { fd, cloexec: flags & FSPICK_CLOEXEC != 0 })
}

impl Ctx<'_> {
    /// Finds the place that a descriptor and a path name.
    ///
    /// # Errors
    /// `EBADF`; those of path walk.
    pub fn mount_path(&self, dirfd: i32, name: &[u8], lookup: LookupFlags) -> Result<Path> {
        if name.is_empty() && lookup.contains(LookupFlags::EMPTY) {
            let path = self.fd_path(dirfd)?.path().clone();
            return Ok(self.server.named_place(path, self.mount_caller()?.ns()));
        }
        let path =
            self.with_walk(dirfd, name, |walk| nomina_kernel::vfs::namei::path_lookup(walk, name, lookup))?;
        Ok(self.server.named_place(path, self.mount_caller()?.ns()))
    }

    fn fs_context(&self, fd: i32) -> Result<Arc<OpenContext>> {
        let copy = self.getfd(fd)?;
        if rustix::fs::fcntl_getfl(&copy).is_ok_and(|flags| flags.contains(rustix::fs::OFlags::PATH)) {
            return Err(Errno::EBADF);
        }
        self.server.fs_contexts.find(copy.as_fd()).ok_or(Errno::EINVAL)
    }
}

/// A key or text value: `strndup_user`.
fn text(ctx: &Ctx<'_>, index: usize) -> Result<Vec<u8>> {
    let text = ctx.path(index)?;
    if text.len() >= PARAM_MAX { Err(Errno::EINVAL) } else { Ok(text) }
}

/// `fsconfig(2)`: context, command, key, value, auxiliary.
pub fn fsconfig(ctx: &mut Ctx<'_>) -> Result<Reply> {
    use fsconfig_cmd as cmd;
    let (fd, command, aux) = (ctx.int(0), ctx.uint(1), ctx.int(4));
    let (key, value) = (!ctx.is_null(2), !ctx.is_null(3));
    if fd < 0 {
        return Err(Errno::EINVAL);
    }
    let right = match command {
        cmd::SET_FLAG => key && !value && aux == 0,
        cmd::SET_STRING => key && value && aux == 0,
        cmd::SET_BINARY => key && value && (1..=1 << 20).contains(&aux),
        cmd::SET_PATH | cmd::SET_PATH_EMPTY => key && value && (aux == libc::AT_FDCWD || aux >= 0),
        cmd::SET_FD => key && !value && aux >= 0,
        cmd::CREATE | cmd::CREATE_EXCL | cmd::RECONFIGURE => !key && !value && aux == 0,
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if !right {
        return Err(Errno::EINVAL);
    }
    let open = ctx.fs_context(fd)?;
    let param = match command {
        cmd::CREATE | cmd::CREATE_EXCL | cmd::RECONFIGURE => None,
        _ => Some(FsParameter { key: text(ctx, 2)?, value: param_value(ctx, command, aux)? }),
    };
    let caller = ctx.mount_caller()?;
    let mut context = open.context.lock().unwrap();
    let result = fsconfig_locked(&caller, &mut context, command, param);
    open.publish(&mut context);
    result?;
    Ok(().into())
}

fn param_value(ctx: &Ctx<'_>, command: u32, aux: i32) -> Result<FsValue> {
    use fsconfig_cmd as cmd;
    Ok(match command {
        cmd::SET_STRING => FsValue::String(text(ctx, 3)?),
        cmd::SET_BINARY => FsValue::Blob(ctx.bytes(3)?),
        cmd::SET_PATH | cmd::SET_PATH_EMPTY => {
            let mut lookup = LookupFlags::FOLLOW;
            lookup.set(LookupFlags::EMPTY, command == cmd::SET_PATH_EMPTY);
            FsValue::Path(ctx.mount_path(aux, &ctx.path(3)?, lookup)?)
        }
        cmd::SET_FD => FsValue::File(ctx.fd_path(aux)?.path().clone()),
        _ => FsValue::Flag,
    })
}

/// `vfs_fsconfig_locked`
fn fsconfig_locked(
    caller: &Caller,
    fc: &mut FsContext,
    command: u32,
    param: Option<FsParameter>,
) -> Result<()> {
    use fsconfig_cmd as cmd;
    finish_clean_context(fc)?;
    match command {
        cmd::CREATE | cmd::CREATE_EXCL => {
            if fc.phase != FsPhase::CreateParams {
                return Err(Errno::EBUSY);
            }
            if !fc.mount_capable() {
                return Err(Errno::EPERM);
            }
            fc.exclusive = command == cmd::CREATE_EXCL;
            fc.phase = FsPhase::Failed;
            vfs_get_tree(fc)?;
            fc.phase = FsPhase::AwaitingMount;
            Ok(())
        }
        cmd::RECONFIGURE => {
            if fc.phase != FsPhase::ReconfParams {
                return Err(Errno::EBUSY);
            }
            fc.phase = FsPhase::Failed;
            let sb = fc.root.clone().ok_or(Errno::EINVAL)?;
            if !caller.owns(&sb) {
                return Err(Errno::EPERM);
            }
            reconfigure_super(fc)?;
            clean_context(fc);
            Ok(())
        }
        _ => {
            if !matches!(fc.phase, FsPhase::CreateParams | FsPhase::ReconfParams) {
                return Err(Errno::EBUSY);
            }
            param.map_or(Err(Errno::EINVAL), |param| vfs_parse_fs_param(fc, &param))
        }
    }
}

/// `vfs_clean_context`: what was asked for has been done.
fn clean_context(fc: &mut FsContext) {
    fc.private = None;
    fc.sb_flags = SuperFlags::empty();
    fc.sb_flags_mask = SuperFlags::empty();
    fc.source = None;
    fc.exclusive = false;
    fc.purpose = FsPurpose::Reconfigure;
    fc.phase = FsPhase::AwaitingReconf;
}

/// `finish_clean_context`: a context that was used takes parameters of a change.
fn finish_clean_context(fc: &mut FsContext) -> Result<()> {
    if fc.phase != FsPhase::AwaitingReconf {
        return Ok(());
    }
    let fs_type = fc.fs_type.clone();
    if let Err(errno) = fs_type.init_fs_context(fc) {
        fc.phase = FsPhase::Failed;
        return Err(errno);
    }
    fc.phase = FsPhase::ReconfParams;
    Ok(())
}

/// `fsmount(2)`: context, flags, attributes of the mount.
pub fn fsmount(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let caller = ctx.mount_caller()?;
    caller.may_mount()?;
    let (flags, attr) = (ctx.uint(1), u64::from(ctx.uint(2)));
    if flags & !FSMOUNT_CLOEXEC != 0 {
        return Err(Errno::EINVAL);
    }
    let mut mnt_flags = attr_to_flags(attr).ok_or(Errno::EINVAL)?;
    mnt_flags |= attr_to_atime(attr & ATTR_ATIME).ok_or(Errno::EINVAL)?;
    let open = ctx.fs_context(ctx.int(0))?;
    let mut context = open.context.lock().unwrap();
    let made = fsmount_locked(&caller, &mut context, mnt_flags);
    open.publish(&mut context);
    drop(context);
    let tree = DetachedMount::new(caller.ns(), made?);
    let fd = ctx.server.handles.open_detached(tree, libc::O_PATH as u32).map_err(host)?;
    Ok(Reply::Fd { fd, cloexec: flags & FSMOUNT_CLOEXEC != 0 })
}

/// The mount that [`fsmount`] gives. The context goes on as if it came from `fspick(2)`.
fn fsmount_locked(caller: &Caller, fc: &mut FsContext, flags: MountFlags) -> Result<Arc<Mount>> {
    if fc.root.is_none() {
        return Err(Errno::EINVAL);
    }
    let mount = create_mount(caller, fc, flags)?;
    if fc.phase != FsPhase::AwaitingMount {
        return Err(Errno::EBUSY);
    }
    clean_context(fc);
    Ok(mount)
}
