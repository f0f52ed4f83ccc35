//! Inodes of an overlay: `struct ovl_inode` and `fs/overlayfs/inode.c`.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, Link, NewInode, Opened, Path, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, SetAttr, attr,
    namei as vfs,
};
use nomina_kernel::{Errno, Result};

use super::layers::RealDir;
use super::{OvlFs, lock};
use crate::at::wants_write;

/// How far the numbers of layers' file systems are apart in inode numbers of directories.
const FSID_SHIFT: u32 = 48;

/// Children somebody holds, so that one name is one inode.
#[derive(Default)]
pub(crate) struct Children {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_name: HashMap<Box<[u8]>, Weak<OvlInode>>,
    sweep_at: usize,
}

impl Children {
    pub fn child(&self, name: &[u8]) -> Option<Arc<OvlInode>> {
        lock(&self.table).by_name.get(name).and_then(Weak::upgrade)
    }

    /// Adds a child, or gives the one that was quicker.
    pub fn add_child(&self, name: &[u8], child: Arc<OvlInode>) -> Arc<OvlInode> {
        let mut table = lock(&self.table);
        if let Some(other) = table.by_name.get(name).and_then(Weak::upgrade) {
            return other;
        }
        if table.by_name.len() >= table.sweep_at.max(32) {
            table.by_name.retain(|_, child| child.strong_count() > 0);
            table.sweep_at = table.by_name.len() * 2;
        }
        table.by_name.insert(name.into(), Arc::downgrade(&child));
        child
    }

    pub fn remove_child(&self, name: &[u8]) -> Option<Arc<OvlInode>> {
        lock(&self.table).by_name.remove(name).and_then(|child| child.upgrade())
    }
}

/// What changes about an inode.
pub(crate) struct State {
    /// Its object in the upper layer.
    pub upper: Option<RealDir>,
    /// The directory it is in; `None` for the root and for what has no name any more.
    pub parent: Option<Arc<OvlInode>>,
    /// Its name there.
    pub name: Box<[u8]>,
    /// The name has been removed.
    pub gone: bool,
    /// The upper object is a metadata copy: its data is in [`OvlInode::data`].
    pub needs_data: bool,
}

/// An inode of an overlay.
pub struct OvlInode {
    pub(crate) me: Weak<OvlInode>,
    pub(crate) fs: Arc<OvlFs>,
    pub(crate) kind: u32,
    /// What the lower layers have: for a directory those that are merged, otherwise one.
    pub(crate) lower: Vec<RealDir>,
    /// Where the data of a metadata copy is.
    pub(crate) data: Option<Path>,
    /// Held while the object is copied up.
    pub(crate) copying: Mutex<()>,
    pub(crate) state: Mutex<State>,
    pub(crate) dir: Option<Children>,
}

impl OvlInode {
    pub(crate) fn new(
        fs: &Arc<OvlFs>,
        kind: u32,
        parent: Option<Arc<OvlInode>>,
        name: &[u8],
        upper: Option<RealDir>,
        lower: Vec<RealDir>,
        data: Option<Path>,
    ) -> Arc<OvlInode> {
        let needs_data = upper.is_some() && data.is_some();
        Arc::new_cyclic(|me| OvlInode {
            me: me.clone(),
            fs: fs.clone(),
            kind,
            lower,
            data,
            copying: Mutex::default(),
            state: Mutex::new(State { upper, parent, name: name.into(), gone: false, needs_data }),
            dir: (kind == S_IFDIR).then(Children::default),
        })
    }

    pub(crate) fn arc(&self) -> Result<Arc<OvlInode>> {
        self.me.upgrade().ok_or(Errno::ESTALE)
    }

    pub(crate) fn check_dir(&self) -> Result<&Children> {
        self.dir.as_ref().ok_or(Errno::ENOTDIR)
    }

    /// The object in the upper layer.
    pub(crate) fn upper(&self) -> Option<Path> {
        lock(&self.state).upper.as_ref().map(|upper| upper.path.clone())
    }

    pub(crate) fn upper_dir(&self) -> Option<RealDir> {
        lock(&self.state).upper.clone()
    }

    pub(crate) fn is_gone(&self) -> bool {
        lock(&self.state).gone
    }

    /// Whether a directory shows what lower ones have.
    pub(crate) fn is_merged(&self) -> bool {
        !self.lower.is_empty()
    }

    /// The object whose attributes are shown: `ovl_path_real`.
    pub(crate) fn real(&self) -> Result<Path> {
        let lower = || self.lower.first().map(|lower| lower.path.clone());
        self.upper().or_else(lower).ok_or(Errno::EIO)
    }

    /// The object whose data is read: `ovl_path_realdata`.
    pub(crate) fn real_data(&self) -> Result<Path> {
        let in_upper = {
            let state = lock(&self.state);
            state.upper.is_some() && !state.needs_data
        };
        match &self.data {
            Some(data) if !in_upper => Ok(data.clone()),
            _ => self.real(),
        }
    }

    /// `stat(2)`: `ovl_getattr`.
    fn shown_attr(&self) -> Result<Attr> {
        let real = self.real()?;
        let mut shown = real.inode().getattr()?;
        if self.kind == S_IFDIR {
            // The number of what was there first goes on to be shown after copy-up.
            let origin = match self.lower.first() {
                Some(lower) if lock(&self.state).upper.is_some() => lower.path.inode().getattr()?,
                _ => shown,
            };
            shown.ino = origin.ino ^ (self.fs.fsid(origin.dev) << FSID_SHIFT);
            shown.dev = self.fs.dev;
            if self.is_merged() {
                // As Linux: subdirectories of several layers are not counted.
                shown.nlink = 1;
            }
        } else if let Some(data) =
            self.data.as_ref().filter(|_| self.real_data().is_ok_and(|path| path != real))
        {
            shown.blocks = data.inode().getattr()?.blocks;
        }
        if self.is_gone() && (self.kind == S_IFDIR || self.upper().is_none()) {
            shown.nlink = 0;
        }
        Ok(shown)
    }

    fn open_real(&self, path: &Path, flags: u32) -> Result<Opened> {
        self.fs.mounter.with(|cred| vfs::vfs_open(path, cred, flags))
    }

    fn change(&self, set: &SetAttr) -> Result<()> {
        if set.size.is_some() && self.kind != S_IFREG {
            return Err(if self.kind == S_IFDIR { Errno::EISDIR } else { Errno::EINVAL });
        }
        self.copy_up(set.size == Some(0), set.size.is_some())?;
        let upper = self.upper().ok_or(Errno::EROFS)?;
        let now = upper.inode().getattr()?;
        let allowed = self.fs.mounter.with(|cred| {
            let chown =
                set.uid.is_some_and(|uid| uid != now.uid) || set.gid.is_some_and(|gid| gid != now.gid);
            let owner = set.mode.is_some() || set.atime.is_some() || set.mtime.is_some();
            (!chown || cred.capable_wrt(cred.chown, now.uid, now.gid))
                && (!owner || cred.owner_or_capable(&now))
        });
        if !allowed {
            return Err(Errno::EPERM);
        }
        attr::notify_change(&upper, set)
    }

    fn change_xattr(&self, change: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        self.copy_up(false, false)?;
        let upper = self.upper().ok_or(Errno::EROFS)?;
        upper.mnt.want_write()?;
        let changed = change(&upper);
        upper.dentry.forget_cached_acls();
        changed
    }
}

impl OvlFs {
    /// A small number for the file system of a layer's object, 0 for the first one met.
    fn fsid(&self, dev: u64) -> u64 {
        let mut devs = lock(&self.devs);
        let known = devs.iter().position(|&known| known == dev);
        known.unwrap_or_else(|| {
            devs.push(dev);
            devs.len() - 1
        }) as u64
    }
}

impl Drop for OvlInode {
    /// Drops the chain of parents in a loop: trees can be deeper than the stack.
    fn drop(&mut self) {
        let take = |inode: &mut OvlInode| {
            inode.state.get_mut().unwrap_or_else(PoisonError::into_inner).parent.take()
        };
        let mut next = take(self);
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut inode| take(&mut inode));
        }
    }
}

/// The overlay's inode behind one of path walk's; `EXDEV` for another file system's.
fn ours(inode: &Arc<dyn Inode>) -> Result<&OvlInode> {
    inode.as_any().downcast_ref::<OvlInode>().ok_or(Errno::EXDEV)
}

impl Inode for OvlInode {
    fn getattr(&self) -> Result<Attr> {
        self.shown_attr()
    }

    fn file_type(&self) -> u32 {
        self.kind
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.check_dir()?;
        crate::at::check_name(name)?;
        if self.is_gone() {
            return Err(Errno::ENOENT);
        }
        let _tree = self.fs.read();
        Ok(self.find(name)?)
    }

    fn get_link(&self) -> Result<Link> {
        if self.kind != S_IFLNK {
            return Err(Errno::EINVAL);
        }
        self.real()?.inode().get_link()
    }

    fn readdir(&self) -> Result<Vec<DirEntry>> {
        self.check_dir()?;
        let _tree = self.fs.read();
        self.entries()
    }

    fn open(&self, flags: u32) -> Result<Opened> {
        match self.kind {
            S_IFDIR if wants_write(flags) => Err(Errno::EISDIR),
            S_IFDIR => Ok(Opened::Directory),
            S_IFLNK => Err(Errno::ELOOP),
            S_IFREG => {
                if wants_write(flags) {
                    self.copy_up(flags & libc::O_TRUNC as u32 != 0, true)?;
                }
                self.open_real(&self.real_data()?, flags)
            }
            S_IFIFO => {
                // The pipe of a lower layer is another one: it may be in use there.
                if self.fs.upper.is_some() {
                    self.copy_up(false, false)?;
                }
                self.open_real(&self.real()?, flags)
            }
            // Sockets cannot be opened; devices are opened by their number.
            _ => Err(Errno::ENXIO),
        }
    }

    fn create(&self, name: &[u8], new: NewInode, flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        let (inode, opened) = self.create_file(name, &new, flags)?;
        Ok((inode, opened))
    }

    fn tmpfile(&self, new: NewInode, flags: u32) -> Result<Opened> {
        self.make_tmpfile(&new, flags)
    }

    fn mkdir(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        Ok(self.make(name, &NewInode { mode: new.mode & 0o7777 | S_IFDIR, ..new }, b"")?)
    }

    fn mknod(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        Ok(self.make(name, &new, b"")?)
    }

    fn symlink(&self, name: &[u8], target: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        Ok(self.make(name, &NewInode { mode: S_IFLNK | 0o777, ..new }, target)?)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        self.make_link(name, ours(target)?)
    }

    fn link_handle(&self, name: &[u8], handle: &OwnedFd) -> Result<()> {
        self.make_link_of(name, handle)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.remove_name(name, false)
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.remove_name(name, true)
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        self.rename_to(old, ours(new_dir)?, new, flags)
    }

    fn setattr(&self, set: &SetAttr) -> Result<()> {
        self.change(set)
    }

    fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.real()?.inode().getxattr(&self.fs.marks.to_real(name))
    }

    fn listxattr(&self) -> Result<Vec<u8>> {
        let list = self.real()?.inode().listxattr()?;
        let names = list.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        let shown = names.filter_map(|name| self.fs.marks.to_guest(name));
        Ok(shown.flat_map(|name| name.into_iter().chain([0])).collect())
    }

    fn setxattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let real = self.fs.marks.to_real(name);
        self.change_xattr(|upper| upper.inode().setxattr(&real, value, flags))
    }

    fn removexattr(&self, name: &[u8]) -> Result<()> {
        let real = self.fs.marks.to_real(name);
        // Nothing is copied up for what is not there.
        self.real()?.inode().getxattr(&real)?;
        self.change_xattr(|upper| upper.inode().removexattr(&real))
    }

    fn host_handle(&self, for_write: bool) -> Result<OwnedFd> {
        if for_write {
            self.copy_up(false, false)?;
        }
        self.real()?.inode().host_handle(for_write)
    }

    fn bind_socket(&self, name: &[u8], new: NewInode, socket: &OwnedFd) -> Result<()> {
        self.make_socket(name, &new, socket)
    }
}
