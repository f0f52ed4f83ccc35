//! Changing objects by name and by handle: mode, owner, times, size, extended attributes.

use std::any::Any;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::capability::{self, Cap};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::Mount;
use nomina_kernel::user_namespace::UserNamespace;
use nomina_kernel::vfs::posix_acl;
use nomina_kernel::vfs::{
    Attr, Inode, LookupFlags, Opened, Path, SetAttr, SetTime, Timespec, WalkCred, attr, namei, xattr,
};
use rustix::fs::OFlags;

use super::super::Server;
use super::super::layout::pair;
use super::super::request::{Ctx, Reply, host};
use super::super::whose::{Whose, check_no_more};

/// What a guest's descriptor stands for.
pub enum FdPath {
    /// A placeholder's object.
    Place(Path),
    /// An open file: a place for calls on its inode, and the copied descriptor.
    Open(Path, Arc<OwnedFd>),
}

impl FdPath {
    /// The place.
    pub fn path(&self) -> &Path {
        match self {
            FdPath::Place(path) | FdPath::Open(path, _) => path,
        }
    }
}

/// The inode of an open file known only by its handle: a pipe, a socket, a deleted file, a file of the overlay.
pub struct HandleInode {
    /// Copy of the guest's descriptor, or its file with `O_PATH`.
    pub fd: Arc<OwnedFd>,
    /// What the guest's was opened with.
    flags: OFlags,
    whose: Whose,
    attr: Attr,
    server: Arc<Server>,
}

impl HandleInode {
    /// Wraps a copy of a guest's descriptor.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn new(server: &Arc<Server>, fd: OwnedFd) -> Result<HandleInode> {
        let flags = rustix::fs::fcntl_getfl(&fd).map_err(host)?;
        HandleInode::with_flags(server, fd, flags)
    }

    /// Wraps the file of a guest's descriptor that was opened with `flags`.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn with_flags(server: &Arc<Server>, fd: OwnedFd, flags: OFlags) -> Result<HandleInode> {
        let attr = server.attr_of_handle(fd.as_fd())?;
        let whose = server.whose(&fd, flags, &rustix::fs::fstat(&fd).map_err(host)?);
        Ok(HandleInode { fd: Arc::new(fd), flags, whose, attr, server: server.clone() })
    }

    /// The mount whose flags changes through the handle go by: that of its name, otherwise the root's.
    pub fn mount(&self) -> Arc<Mount> {
        match &self.whose {
            Whose::Named(mount, _) => mount.clone(),
            _ => self.server.first_fs.root.mnt.clone(),
        }
    }

    /// The place for calls on the handle.
    pub fn place(self) -> Path {
        Path::anonymous(&self.mount(), Arc::new(self))
    }
}

/// The handle behind an inode that is known by its handle.
pub fn handle_of(inode: &Arc<dyn Inode>) -> Option<Arc<OwnedFd>> {
    inode.as_any().downcast_ref::<HandleInode>().map(|inode| inode.fd.clone())
}

impl Inode for HandleInode {
    fn getattr(&self) -> Result<Attr> {
        match &self.whose {
            Whose::Named(_, named) => named.getattr(),
            _ => self.server.attr_of_handle(self.fd.as_fd()),
        }
    }
    fn file_type(&self) -> u32 {
        self.attr.mode & nomina_kernel::vfs::S_IFMT
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        match &self.whose {
            Whose::Named(_, named) => return named.open(flags),
            Whose::Sandbox => {}
            Whose::Host => check_no_more(self.flags, flags)?,
        }
        super::open::reopen(&self.fd, flags).map(Opened::Host)
    }
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        match &self.whose {
            Whose::Named(_, named) => named.setattr(set),
            Whose::Sandbox => nomina_fs::handle::set_attr_fd(self.fd.as_fd(), &self.server.ids, set),
            Whose::Host => Err(Errno::EROFS),
        }
    }
    fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        match &self.whose {
            Whose::Named(_, named) => named.getxattr(name),
            _ => nomina_fs::handle::get_xattr_fd(self.fd.as_fd(), name),
        }
    }
    fn listxattr(&self) -> Result<Vec<u8>> {
        match &self.whose {
            Whose::Named(_, named) => named.listxattr(),
            _ => nomina_fs::handle::list_xattr_fd(self.fd.as_fd()),
        }
    }
    fn setxattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        match &self.whose {
            Whose::Named(_, named) => named.setxattr(name, value, flags),
            Whose::Sandbox => nomina_fs::handle::set_xattr_fd(self.fd.as_fd(), name, value, flags),
            Whose::Host => Err(Errno::EROFS),
        }
    }
    fn removexattr(&self, name: &[u8]) -> Result<()> {
        match &self.whose {
            Whose::Named(_, named) => named.removexattr(name),
            Whose::Sandbox => nomina_fs::handle::remove_xattr_fd(self.fd.as_fd(), name),
            Whose::Host => Err(Errno::EROFS),
        }
    }
    fn host_handle(&self, for_write: bool) -> Result<OwnedFd> {
        match &self.whose {
            Whose::Named(_, named) => named.host_handle(for_write),
            _ if self.flags.contains(OFlags::PATH) == is_path(&self.fd)? => self.fd.try_clone().map_err(host),
            _ => super::open::reopen(&self.fd, (self.flags & OFlags::RWMODE).bits()),
        }
    }
}

fn is_path(fd: &OwnedFd) -> Result<bool> {
    Ok(rustix::fs::fcntl_getfl(fd).map_err(host)?.contains(OFlags::PATH))
}

impl Ctx<'_> {
    /// What descriptor `fd` of the caller stands for.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn fd_path(&self, fd: i32) -> Result<FdPath> {
        if fd == libc::AT_FDCWD {
            return Ok(FdPath::Place(self.fs().pwd));
        }
        let copy = self.getfd(fd)?;
        if let Some(handle) = self.server.handles.find(std::os::fd::AsFd::as_fd(&copy)) {
            return Ok(FdPath::Place(handle.path.clone()));
        }
        if let Some(path) = self.server.controls.find(std::os::fd::AsFd::as_fd(&copy)) {
            return Ok(FdPath::Place(path));
        }
        let inode = HandleInode::new(self.server, copy)?;
        let fd = inode.fd.clone();
        Ok(FdPath::Open(inode.place(), fd))
    }

    /// Finds an object by name and calls `with` on it.
    fn with_place<T>(
        &self,
        dirfd: i32,
        name: &[u8],
        flags: LookupFlags,
        with: impl FnOnce(&Path, &WalkCred<'_>) -> Result<T>,
    ) -> Result<T> {
        self.with_walk(dirfd, name, |walk| {
            let path = namei::path_lookup(walk, name, flags)?;
            with(&path, walk.cred)
        })
    }

    /// Calls `with` on the object descriptor `fd` stands for; `EBADF` for `O_PATH` descriptors.
    fn with_fd<T>(&self, fd: i32, with: impl FnOnce(&Path, &WalkCred<'_>) -> Result<T>) -> Result<T> {
        let target = self.fd_path(fd)?;
        self.refuse_path_fd(fd, &target)?;
        self.with_cred(|cred| with(target.path(), cred))
    }

    /// The place descriptor `fd` stands for, in the mount it was opened by.
    ///
    /// # Errors
    /// `EBADF`, also for `O_PATH` descriptors. `ESTALE`: nothing says which mount that is (pipes, sockets, removed files).
    pub fn open_place(&self, fd: i32) -> Result<Path> {
        let target = self.fd_path(fd)?;
        if fd != libc::AT_FDCWD {
            self.refuse_path_fd(fd, &target)?;
        }
        let place = self.server.named_place(target.path().clone(), self.mount_caller()?.ns());
        if place.is_anonymous() { Err(Errno::ESTALE) } else { Ok(place) }
    }

    fn refuse_path_fd(&self, fd: i32, target: &FdPath) -> Result<()> {
        if let FdPath::Place(_) = target
            && let Ok(copy) = self.getfd(fd)
            && is_path(&copy)?
        {
            return Err(Errno::EBADF);
        }
        Ok(())
    }
}

fn at_flags(flags: i32) -> Result<LookupFlags> {
    if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    Ok(lookup)
}

/// `chmod(2)`, `fchmod(2)`, `fchmodat(2)`, `fchmodat2(2)`.
pub fn chmod(ctx: &mut Ctx<'_>) -> Result<Reply> {
    match ctx.nr {
        90 => {
            let name = ctx.path(0)?;
            ctx.with_place(libc::AT_FDCWD, &name, LookupFlags::FOLLOW, |path, cred| {
                attr::vfs_chmod(path, cred, ctx.uint(1))
            })?;
        }
        91 => ctx.with_fd(ctx.int(0), |path, cred| {
            attr::vfs_chmod(path, cred, ctx.uint(1))?;
            match handle_of(path.inode()).filter(|_| ctx.uint(1) & 0o6000 != 0) {
                Some(fd) => ctx.server.privs.opened(ctx.server, ctx.thread, path, &fd),
                None => Ok(()),
            }
        })?,
        nr => {
            let name = ctx.path(1)?;
            let flags = if nr == 452 { at_flags(ctx.int(3))? } else { LookupFlags::FOLLOW };
            ctx.with_place(ctx.int(0), &name, flags, |path, cred| attr::vfs_chmod(path, cred, ctx.uint(2)))?;
        }
    }
    Ok(().into())
}

/// `chown(2)`, `fchown(2)`, `lchown(2)`, `fchownat(2)`.
pub fn chown(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let ids = |at: usize| -> Result<(Option<u32>, Option<u32>)> {
        let user_ns = &ctx.cred().user_ns;
        let id = |value: u32, make: &dyn Fn(u32) -> Option<u32>| match value {
            u32::MAX => Ok(None),
            value => make(value).map(Some).ok_or(Errno::EINVAL),
        };
        Ok((id(ctx.uint(at), &|v| user_ns.make_kuid(v))?, id(ctx.uint(at + 1), &|v| user_ns.make_kgid(v))?))
    };
    match ctx.nr {
        92 | 94 => {
            let (uid, gid) = ids(1)?;
            let name = ctx.path(0)?;
            let flags = if ctx.nr == 92 { LookupFlags::FOLLOW } else { LookupFlags::empty() };
            ctx.with_place(libc::AT_FDCWD, &name, flags, |path, cred| attr::vfs_chown(path, cred, uid, gid))?;
        }
        93 => {
            let (uid, gid) = ids(1)?;
            ctx.with_fd(ctx.int(0), |path, cred| attr::vfs_chown(path, cred, uid, gid))?;
        }
        _ => {
            let (uid, gid) = ids(2)?;
            let name = ctx.path(1)?;
            let flags = at_flags(ctx.int(4))?;
            ctx.with_place(ctx.int(0), &name, flags, |path, cred| attr::vfs_chown(path, cred, uid, gid))?;
        }
    }
    Ok(().into())
}

/// `truncate(2)`.
pub fn truncate(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let size = u64::try_from(ctx.args[1] as i64).map_err(|_| Errno::EINVAL)?;
    let name = ctx.path(0)?;
    let limit = super::process::native_rlimit(ctx, libc::RLIMIT_FSIZE)?;
    let done = ctx.with_place(libc::AT_FDCWD, &name, LookupFlags::FOLLOW, |path, cred| {
        attr::vfs_truncate(path, cred, size, limit)
    });
    if done == Err(Errno::EFBIG) && size > limit {
        super::signal::force_sig(ctx, libc::SIGXFSZ)?;
    }
    done?;
    Ok(().into())
}

/// `utime(2)`, `utimes(2)`, `futimesat(2)`, `utimensat(2)`.
pub fn utimes(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (dirfd, name_at, times_at) = match ctx.nr {
        132 | 235 => (libc::AT_FDCWD, 0, 1),
        _ => (ctx.int(0), 1, 2),
    };
    let now = (Some(SetTime::Now), Some(SetTime::Now));
    let at = |sec, nsec| SetTime::At(Timespec { sec, nsec });
    // `struct utimbuf`, or two of `timeval` or `timespec`; only a forged request has less.
    let times = ctx.bytes_opt(times_at)?;
    if times.as_ref().is_some_and(|times| times.len() < if ctx.nr == 132 { 16 } else { 32 }) {
        return Err(Errno::EFAULT);
    }
    let (atime, mtime) = match (ctx.nr, times) {
        (_, None) => now,
        (132, Some(bytes)) => {
            let (atime, mtime) = pair(&bytes, 0);
            (Some(at(atime, 0)), Some(at(mtime, 0)))
        }
        (280, Some(bytes)) => {
            let one = |offset| -> Result<Option<SetTime>> {
                let (sec, nsec) = pair(&bytes, offset);
                match nsec {
                    libc::UTIME_NOW => Ok(Some(SetTime::Now)),
                    libc::UTIME_OMIT => Ok(None),
                    0..1_000_000_000 => Ok(Some(at(sec, nsec as u32))),
                    _ => Err(Errno::EINVAL),
                }
            };
            (one(0)?, one(16)?)
        }
        (_, Some(bytes)) => {
            let one = |offset| match pair(&bytes, offset) {
                (sec, usec @ 0..1_000_000) => Ok(Some(at(sec, usec as u32 * 1000))),
                _ => Err(Errno::EINVAL),
            };
            (one(0)?, one(16)?)
        }
    };
    if (atime, mtime) == (None, None) {
        // Nothing to do is found before the file, which need not exist.
        return Ok(().into());
    }
    let flags = if ctx.nr == 280 { at_flags(ctx.int(3))? } else { LookupFlags::FOLLOW };
    match ctx.bytes_opt(name_at)? {
        None if matches!(ctx.nr, 280 | 261) => {
            if dirfd == libc::AT_FDCWD {
                return Err(Errno::EFAULT);
            }
            ctx.with_fd(dirfd, |path, cred| attr::vfs_utimes(path, cred, atime, mtime))?;
        }
        _ => {
            let name = ctx.path(name_at)?;
            ctx.with_place(dirfd, &name, flags, |path, cred| attr::vfs_utimes(path, cred, atime, mtime))?;
        }
    }
    Ok(().into())
}

/// Where an xattr call's object is: by name (following links or not) or by descriptor.
fn with_xattr_target<T>(
    ctx: &Ctx<'_>,
    first: u32,
    with: impl FnOnce(&Path, &WalkCred<'_>) -> Result<T>,
) -> Result<T> {
    match ctx.nr - first {
        2 => ctx.with_fd(ctx.int(0), with),
        form => {
            let name = ctx.path(0)?;
            let flags = if form == 0 { LookupFlags::FOLLOW } else { LookupFlags::empty() };
            ctx.with_place(libc::AT_FDCWD, &name, flags, with)
        }
    }
}

fn put_value(ctx: &Ctx<'_>, out: usize, size: usize, value: &[u8]) -> Result<Reply> {
    if ctx.args[size] == 0 {
        return Ok(value.len().into());
    }
    if value.len() > ctx.capacity(out) {
        return Err(Errno::ERANGE);
    }
    ctx.write(out, value)?;
    Ok(value.len().into())
}

/// The attribute with a program's capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// Translates the ids in an access control list between the caller's user namespace and the initial one
/// (`posix_acl_fix_xattr_userns`). An id without a mapping becomes the invalid one, which is refused.
fn acl_ids(
    ctx: &Ctx<'_>,
    name: &[u8],
    mut value: Vec<u8>,
    user: impl Fn(&UserNamespace, u32) -> Option<u32>,
    group: impl Fn(&UserNamespace, u32) -> Option<u32>,
) -> Vec<u8> {
    let cred = ctx.cred();
    if posix_acl::is_acl(name) && cred.user_ns.parent().is_some() {
        let ns = &cred.user_ns;
        let user = |id| user(ns, id).unwrap_or(u32::MAX);
        let group = |id| group(ns, id).unwrap_or(u32::MAX);
        posix_acl::translate_ids(&mut value, user, group);
    }
    value
}

/// `setxattr(2)`, `lsetxattr(2)`, `fsetxattr(2)`.
pub fn setxattr(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (name, value) = (ctx.path(1)?, ctx.bytes_opt(2)?.unwrap_or_default());
    let flags = ctx.uint(4);
    let value = acl_ids(ctx, &name, value, UserNamespace::make_kuid, UserNamespace::make_kgid);
    let caller = ctx.cred();
    with_xattr_target(ctx, 188, |path, cred| {
        if name != CAPABILITY {
            return xattr::vfs_setxattr(path, cred, &name, &value, flags);
        }
        let privileged = match path.mnt.sb().user_ns() {
            Some(ns) => caller.ns_capable(ns, Cap::SETFCAP),
            None => caller.capable(Cap::SETFCAP),
        };
        let kept = capability::kept_capability(value.clone(), &caller.user_ns, privileged)
            .or_else(|errno| xattr::may_setxattr(path, cred, &name).and(Err(errno)))?;
        xattr::vfs_setxattr(path, cred, &name, &kept, flags)
    })?;
    Ok(().into())
}

/// `getxattr(2)`, `lgetxattr(2)`, `fgetxattr(2)`.
pub fn getxattr(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let name = ctx.path(1)?;
    let value = with_xattr_target(ctx, 191, |path, cred| xattr::vfs_getxattr(path, cred, &name))?;
    let from_kuid = |ns: &UserNamespace, id| Some(ns.from_kuid_munged(id));
    let from_kgid = |ns: &UserNamespace, id| Some(ns.from_kgid_munged(id));
    let mut value = acl_ids(ctx, &name, value, from_kuid, from_kgid);
    if name == CAPABILITY {
        value = capability::shown_capability(value, &ctx.cred().user_ns)?;
    }
    put_value(ctx, 2, 3, &value)
}

/// `listxattr(2)`, `llistxattr(2)`, `flistxattr(2)`.
pub fn listxattr(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let names = with_xattr_target(ctx, 194, xattr::vfs_listxattr)?;
    put_value(ctx, 1, 2, &names)
}

/// `removexattr(2)`, `lremovexattr(2)`, `fremovexattr(2)`.
pub fn removexattr(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let name = ctx.path(1)?;
    with_xattr_target(ctx, 197, |path, cred| xattr::vfs_removexattr(path, cred, &name))?;
    Ok(().into())
}

/// `inotify_add_watch(2)`: the watch is put on the host object that changes of the guest's object touch.
pub fn inotify_add_watch(ctx: &mut Ctx<'_>) -> Result<Reply> {
    use std::os::fd::AsRawFd;
    const IN_ONLYDIR: u32 = 0x0100_0000;
    const IN_DONT_FOLLOW: u32 = 0x0200_0000;
    let name = ctx.path(1)?;
    let mask = ctx.uint(2);
    let mut flags = LookupFlags::empty();
    flags.set(LookupFlags::FOLLOW, mask & IN_DONT_FOLLOW == 0);
    flags.set(LookupFlags::DIRECTORY, mask & IN_ONLYDIR != 0);
    let inotify = ctx.getfd(ctx.int(0))?;
    let target = ctx.with_place(libc::AT_FDCWD, &name, flags, |path, cred| {
        nomina_kernel::vfs::permission::path_permission(
            path,
            cred,
            nomina_kernel::vfs::permission::MAY_READ,
        )?;
        let inode = path.inode();
        // A directory is copied up, so that what the guest creates in it is seen; where it cannot be, the lower one.
        let handle = inode.host_handle(path.dentry.is_dir()).or_else(|_| inode.host_handle(false));
        handle.or_else(|_| nomina_fs::devpts::node_to_watch(inode))
    })?;
    let link =
        std::ffi::CString::new(format!("/proc/self/fd/{}", target.as_raw_fd())).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a valid path; the mask is the guest's, without the flag that would stop at our magic link.
    let watch =
        unsafe { libc::inotify_add_watch(inotify.as_raw_fd(), link.as_ptr(), mask & !IN_DONT_FOLLOW) };
    if watch < 0 { Err(host(std::io::Error::last_os_error())) } else { Ok(watch.into()) }
}
