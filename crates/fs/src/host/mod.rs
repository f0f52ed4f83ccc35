//! A host directory as it is: what a bind mount shows, written through.
//!
//! In Linux `mount --bind` attaches the same file system a second time. Here each object is an `O_PATH` handle of the
//! host's: names in it may change at any time by hands we do not see, so every operation acts on the object a lookup
//! found, or on one name in the directory that a handle holds. No path is ever walked again and no symbolic link is
//! followed on the host's side: neither `..` nor a link put in place of a directory leads out.
//!
//! Owners and modes are the host's own, renamed by the [`IdMap`]. Nothing is kept beside them: to give a file to another
//! user is `EPERM`, and so are set-user-ID and set-group-ID bits on files, which would outlive the sandbox as the
//! invoking user's. Read-only mounts are path walk's affair.

#[cfg(test)]
mod tests;

use std::any::Any;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use nomina_kernel::vfs::posix_acl;
use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, Link, NewInode, Opened, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT,
    S_IFREG, S_IFSOCK, SetAttr, StatFs, SuperBlock,
};
use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};

use crate::at::{ALWAYS, At, GUEST_FLAGS, check_name, errno, id_of, wants_write};
use crate::fifo::Fifos;
use crate::names;
use crate::overlay::{bind_in, statfs_of};
use crate::override_stat::{IdMap, attr_of};

/// What the objects of one host directory share.
struct Shared {
    map: IdMap,
    fifos: Fifos,
    read_only: bool,
}

/// A host directory, or a single host file, mounted as it is.
pub struct HostSb {
    root: Arc<HostInode>,
    dev: u64,
}

impl HostSb {
    /// Mounts the host's `path`, which is resolved once, here, links and all.
    ///
    /// # Errors
    /// What the host answers to opening it.
    pub fn new(path: &Path, map: IdMap) -> Result<Arc<HostSb>> {
        HostSb::open(path, map, false)
    }

    /// As [`HostSb::new`], but nothing is ever written, whatever the flags of mounts: those are guests' to change.
    ///
    /// # Errors
    /// As [`HostSb::new`].
    pub fn new_read_only(path: &Path, map: IdMap) -> Result<Arc<HostSb>> {
        HostSb::open(path, map, true)
    }

    fn open(path: &Path, map: IdMap, read_only: bool) -> Result<Arc<HostSb>> {
        let fd = rustix::fs::open(path.as_os_str().as_bytes(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let shared = Arc::new(Shared { map, fifos: Fifos::default(), read_only });
        let root = HostInode::new(shared, fd.map_err(errno)?)?;
        let dev = root.getattr()?.dev;
        Ok(Arc::new(HostSb { root, dev }))
    }
}

impl HostSb {
    /// The inode of a file that a guest holds open, found by the host's path of the handle and checked by device and inode
    /// number. `None` for what has no name here.
    pub fn inode_of_handle(&self, fd: BorrowedFd<'_>) -> Option<Arc<dyn Inode>> {
        let id = id_of(&At { fd, name: b"" }.statx().ok()?);
        let link = rustix::fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new()).ok()?;
        let path = self.path_of_host(link.as_bytes())?;
        let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        let found = names.into_iter().try_fold(self.root.clone(), |dir, name| dir.child(name)).ok()?;
        (id_of(&found.at().statx().ok()?) == id).then_some(found as Arc<dyn Inode>)
    }
}

impl SuperBlock for HostSb {
    fn fs_type(&self) -> &'static str {
        "host"
    }

    fn source(&self) -> Vec<u8> {
        b"host".to_vec()
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<StatFs> {
        statfs_of(&self.root.fd, self.dev)
    }

    fn cacheable(&self) -> bool {
        false
    }

    fn is_write_protected(&self) -> bool {
        self.root.shared.read_only
    }

    /// The host's own: what is created in a directory gets its default list by the host.
    fn has_acls(&self) -> bool {
        true
    }

    fn path_of_host(&self, host: &[u8]) -> Option<Vec<u8>> {
        let link = format!("/proc/self/fd/{}", self.root.fd.as_raw_fd());
        let root = rustix::fs::readlink(link, Vec::new()).ok()?.into_bytes();
        let root = if root == b"/" { &[] } else { &root[..] };
        match host.strip_prefix(root)? {
            b"" => Some(b"/".to_vec()),
            rest if rest[0] == b'/' => Some(rest.to_vec()),
            _ => None,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An object of the host: one `O_PATH` handle.
pub struct HostInode {
    shared: Arc<Shared>,
    fd: OwnedFd,
    kind: u32,
}

impl HostInode {
    fn new(shared: Arc<Shared>, fd: OwnedFd) -> Result<Arc<HostInode>> {
        let kind = u32::from(At::new(&fd, b"").statx()?.stx_mode) & S_IFMT;
        Ok(Arc::new(HostInode { shared, fd, kind }))
    }

    fn at(&self) -> At<'_> {
        At::new(&self.fd, b"")
    }

    fn child(&self, name: &[u8]) -> Result<Arc<HostInode>> {
        self.check_dir()?;
        check_name(name)?;
        HostInode::new(self.shared.clone(), At::new(&self.fd, name).open_path()?)
    }

    fn check_dir(&self) -> Result<()> {
        if self.kind == S_IFDIR { Ok(()) } else { Err(Errno::ENOTDIR) }
    }

    /// `EROFS` where nothing may be written.
    fn check_writable(&self) -> Result<()> {
        if self.shared.read_only { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// Checks what is needed to make or remove `name` here.
    fn check_new(&self, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        self.check_dir()?;
        check_name(name)
    }

    /// Makes the umask of this process, which has nothing to do with the guest's, undone.
    fn settle(&self, name: &[u8], mode: u32) -> Result<Arc<HostInode>> {
        let node = self.child(name)?;
        let now = u32::from(node.at().statx()?.stx_mode) & 0o777;
        if now != mode & 0o777 && node.kind != S_IFLNK {
            node.at().chmod(mode & 0o777)?;
        }
        Ok(node)
    }

    /// Opens the object of this very handle; regular files only.
    fn open_regular(&self, flags: OFlags) -> Result<OwnedFd> {
        if flags.intersects(OFlags::RWMODE | OFlags::TRUNC | OFlags::CREATE) {
            self.check_writable()?;
        }
        self.at().open(flags)
    }
}

/// The node behind an inode of path walk's; `EXDEV` for other file systems' inodes.
fn ours(inode: &Arc<dyn Inode>) -> Result<&HostInode> {
    inode.as_any().downcast_ref::<HostInode>().ok_or(Errno::EXDEV)
}

/// Gives the object of a handle the name `name` in `dir`.
fn link_fd(handle: &OwnedFd, dir: &OwnedFd, name: &[u8]) -> Result<()> {
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    rustix::fs::linkat(CWD, path, dir, name, AtFlags::SYMLINK_FOLLOW).map_err(errno)
}

/// Mode bits that may be given to the host's files.
fn host_mode(mode: u32, kind: u32) -> Result<Mode> {
    if kind == S_IFREG && mode & (libc::S_ISUID | libc::S_ISGID) != 0 {
        return Err(Errno::EPERM);
    }
    Ok(Mode::from_raw_mode(mode & 0o7777))
}

/// Name under which the host keeps an attribute: only its own `user.*` can be used.
fn host_xattr(name: &[u8], kind: u32, write: bool) -> Result<Vec<u8>> {
    if name.starts_with(b"user.overlay.") && matches!(kind, S_IFREG | S_IFDIR) {
        // The directory is no layer of ours: what is written there is meant for overlayfs.
        return Ok(name.to_vec());
    }
    if posix_acl::is_acl(name) {
        return Ok(name.to_vec());
    }
    let host = names::to_host(name, kind, write)?;
    match (host.starts_with(names::PREFIX), write) {
        (true, true) => Err(Errno::EPERM),
        (true, false) => Err(Errno::ENODATA),
        _ => Ok(host),
    }
}

impl Inode for HostInode {
    fn getattr(&self) -> Result<Attr> {
        Ok(attr_of(&self.at().statx()?, None, &self.shared.map))
    }

    fn file_type(&self) -> u32 {
        self.kind
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Ok(self.child(name)?)
    }

    fn get_link(&self) -> Result<Link> {
        if self.kind != S_IFLNK {
            return Err(Errno::EINVAL);
        }
        Ok(Link::Text(self.at().readlink()?))
    }

    fn readdir(&self) -> Result<Vec<DirEntry>> {
        self.check_dir()?;
        self.at().read_dir()
    }

    fn open(&self, flags: u32) -> Result<Opened> {
        let asked = OFlags::from_bits_retain(flags & GUEST_FLAGS);
        match self.kind {
            S_IFDIR if wants_write(flags) => Err(Errno::EISDIR),
            S_IFDIR => Ok(Opened::Directory),
            S_IFLNK => Err(Errno::ELOOP),
            S_IFREG => Ok(Opened::Host(self.open_regular(asked)?)),
            S_IFIFO => self.shared.fifos.open(self.at(), flags),
            _ => Err(Errno::ENXIO),
        }
    }

    fn create(&self, name: &[u8], new: NewInode, flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        self.check_new(name)?;
        let mode = host_mode(new.mode & 0o7777, S_IFREG)?;
        let asked = OFlags::from_bits_retain(flags & GUEST_FLAGS) - OFlags::NOATIME - OFlags::TRUNC;
        let flags = asked | OFlags::CREATE | OFlags::EXCL | ALWAYS;
        let fd = rustix::fs::openat(&self.fd, name, flags, mode).map_err(errno)?;
        let made = At::new(&fd, b"").statx()?;
        let node = self.settle(name, new.mode)?;
        if id_of(&node.at().statx()?) != id_of(&made) {
            // Somebody on the host has replaced it already.
            return Err(Errno::ESTALE);
        }
        Ok((node, Opened::Host(fd)))
    }

    fn tmpfile(&self, new: NewInode, flags: u32) -> Result<Opened> {
        self.check_writable()?;
        self.check_dir()?;
        let mode = host_mode(new.mode & 0o7777, S_IFREG)?;
        let asked = OFlags::from_bits_retain(flags & (GUEST_FLAGS | libc::O_EXCL as u32)) - OFlags::TRUNC;
        let flags = asked | OFlags::TMPFILE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, mode).map_err(errno)?;
        rustix::fs::fchmod(&fd, mode).map_err(errno)?;
        Ok(Opened::Host(fd))
    }

    fn mkdir(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        self.check_new(name)?;
        rustix::fs::mkdirat(&self.fd, name, host_mode(new.mode & 0o1777, S_IFDIR)?).map_err(errno)?;
        Ok(self.settle(name, new.mode)?)
    }

    fn mknod(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        self.check_new(name)?;
        let kind = match new.mode & S_IFMT {
            0 | S_IFREG => FileType::RegularFile,
            S_IFIFO => FileType::Fifo,
            S_IFSOCK => FileType::Socket,
            S_IFLNK => return Err(Errno::EINVAL),
            S_IFDIR | S_IFBLK | S_IFCHR => return Err(Errno::EPERM),
            _ => return Err(Errno::EINVAL),
        };
        let mode = host_mode(new.mode & 0o7777, S_IFREG)?;
        rustix::fs::mknodat(&self.fd, name, kind, mode, 0).map_err(errno)?;
        Ok(self.settle(name, new.mode)?)
    }

    fn symlink(&self, name: &[u8], target: &[u8], _new: NewInode) -> Result<Arc<dyn Inode>> {
        self.check_new(name)?;
        rustix::fs::symlinkat(target, &self.fd, name).map_err(errno)?;
        Ok(self.child(name)?)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        self.check_new(name)?;
        let target = ours(target)?;
        if !Arc::ptr_eq(&self.shared, &target.shared) {
            return Err(Errno::EXDEV);
        }
        link_fd(&target.fd, &self.fd, name)
    }

    fn link_handle(&self, name: &[u8], handle: &OwnedFd) -> Result<()> {
        self.check_new(name)?;
        // A handle for reading may be of a file of the host that guests must not change, such as one below an overlay: a
        // name for it in a directory written through would open it for writing.
        let mode = rustix::fs::fcntl_getfl(handle).map_err(errno)?;
        let writable = !mode.contains(OFlags::PATH) && mode & OFlags::RWMODE != OFlags::RDONLY;
        if !writable {
            return Err(Errno::EXDEV);
        }
        link_fd(handle, &self.fd, name)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.check_new(name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(errno)
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.check_new(name)?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(errno)
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        self.check_new(old)?;
        let to = ours(new_dir)?;
        to.check_new(new)?;
        if !Arc::ptr_eq(&self.shared, &to.shared) {
            return Err(Errno::EXDEV);
        }
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        rustix::fs::renameat_with(&self.fd, old, &to.fd, new, flags).map_err(errno)
    }

    fn setattr(&self, set: &SetAttr) -> Result<()> {
        self.check_writable()?;
        let now = self.getattr()?;
        if set.uid.is_some_and(|uid| uid != now.uid) || set.gid.is_some_and(|gid| gid != now.gid) {
            return Err(Errno::EPERM);
        }
        if let Some(size) = set.size {
            match self.kind {
                S_IFREG => {}
                S_IFDIR => return Err(Errno::EISDIR),
                _ => return Err(Errno::EINVAL),
            }
            rustix::fs::ftruncate(self.open_regular(OFlags::WRONLY)?, size).map_err(errno)?;
        }
        if let Some(mode) = set.mode {
            if self.kind == S_IFLNK {
                return Err(Errno::EOPNOTSUPP);
            }
            self.at().chmod(host_mode(mode, self.kind)?.as_raw_mode())?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            self.at().set_times(set.atime, set.mtime)?;
        }
        if (set.size, set.mode, set.atime, set.mtime) == (None, None, None, None) {
            self.at().touch_ctime()?;
        }
        Ok(())
    }

    fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let value = self.at().getxattr(&host_xattr(name, self.kind, false)?)?;
        Ok(if posix_acl::is_acl(name) { self.shared.map.acl_inside(value) } else { value })
    }

    fn listxattr(&self) -> Result<Vec<u8>> {
        let list = self.at().listxattr()?;
        let names = list.split_inclusive(|&b| b == 0).filter(|name| !name.starts_with(names::PREFIX));
        // Marks of overlayfs are as they are here: see `host_xattr`.
        let (marks, own): (Vec<&[u8]>, Vec<&[u8]>) = names.partition(|n| n.starts_with(b"user.overlay."));
        let mut shown = names::list_to_guest(&own.concat(), self.kind, false);
        shown.extend(marks.concat());
        for list in own.iter().filter(|name| posix_acl::is_acl(&name[..name.len() - 1])) {
            shown.extend_from_slice(list);
        }
        Ok(shown)
    }

    fn setxattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.check_writable()?;
        let host = host_xattr(name, self.kind, true)?;
        if posix_acl::is_acl(name) {
            return self.at().setxattr(&host, &self.shared.map.acl_outside(value), flags);
        }
        self.at().setxattr(&host, value, flags)
    }

    fn removexattr(&self, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        self.at().removexattr(&host_xattr(name, self.kind, true)?)
    }

    fn host_handle(&self, for_write: bool) -> Result<OwnedFd> {
        if for_write {
            self.check_writable()?;
        }
        self.fd.try_clone().map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EMFILE)))
    }

    fn bind_socket(&self, name: &[u8], new: NewInode, socket: &OwnedFd) -> Result<()> {
        self.check_new(name)?;
        bind_in(socket, &self.fd, name)?;
        self.settle(name, new.mode)?;
        Ok(())
    }
}
