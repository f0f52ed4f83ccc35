//! The tree of names of a devtmpfs.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, Link, NewInode, Opened, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, SetAttr,
    SetTime, Timespec,
};
use nomina_kernel::{Errno, Result};

use super::DevInfo;
use super::devices::open_device;
use crate::proc::generic::{dirent, now, wants_write};

const NAME_MAX: usize = 255;
const RENAME_NOREPLACE: u32 = 1;
const RENAME_EXCHANGE: u32 = 2;

/// A lock whose holder panicked is still usable: every change under these locks is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An object of the backing file system and how many names it has here.
pub(crate) struct Backed {
    name: Vec<u8>,
    links: AtomicUsize,
    inode: Arc<dyn Inode>,
}

/// What a name stands for.
#[derive(Clone)]
enum Child {
    Own(Arc<Node>),
    Backed(Arc<Backed>),
}

impl Child {
    fn inode(&self) -> Arc<dyn Inode> {
        match self {
            Child::Own(node) => node.clone(),
            Child::Backed(backed) => backed.inode.clone(),
        }
    }
    fn file_type(&self) -> u32 {
        self.inode().file_type()
    }
    fn is_dir(&self) -> bool {
        self.file_type() == S_IFDIR
    }
    fn same(&self, other: &Child) -> bool {
        match (self, other) {
            (Child::Own(a), Child::Own(b)) => Arc::ptr_eq(a, b),
            (Child::Backed(a), Child::Backed(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

enum Kind {
    Directory(Mutex<BTreeMap<Vec<u8>, Child>>),
    SymbolicLink(Vec<u8>),
    Device(u64),
}

struct Meta {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Names of a node; for a directory 1 while it is in the tree and 0 after `rmdir`.
    links: u64,
    atime: Timespec,
    mtime: Timespec,
    ctime: Timespec,
    btime: Timespec,
}

/// A directory, device node or symbolic link.
pub(crate) struct Node {
    me: Weak<Node>,
    fs: Arc<DevInfo>,
    ino: u64,
    kind: Kind,
    meta: Mutex<Meta>,
}

impl Node {
    fn new(fs: &Arc<DevInfo>, new: NewInode, kind: Kind) -> Arc<Node> {
        let t = now();
        let NewInode { mode, uid, gid, .. } = new;
        let meta = Meta { mode, uid, gid, links: 1, atime: t, mtime: t, ctime: t, btime: t };
        let (fs, ino) = (fs.clone(), fs.new_ino());
        Arc::new_cyclic(|me| Node { me: me.clone(), fs, ino, kind, meta: Mutex::new(meta) })
    }

    pub(crate) fn directory(fs: &Arc<DevInfo>, new: NewInode) -> Arc<Node> {
        let new = NewInode { mode: S_IFDIR | new.mode & !S_IFMT, ..new };
        Self::new(fs, new, Kind::Directory(Mutex::default()))
    }

    pub(crate) fn device(fs: &Arc<DevInfo>, new: NewInode) -> Arc<Node> {
        Self::new(fs, new, Kind::Device(new.rdev))
    }

    pub(crate) fn symbolic_link(fs: &Arc<DevInfo>, new: NewInode, target: &[u8]) -> Arc<Node> {
        Self::new(fs, NewInode { mode: S_IFLNK | 0o777, ..new }, Kind::SymbolicLink(target.to_vec()))
    }

    /// Adds a standard node to a directory under construction.
    pub(crate) fn insert(&self, name: &str, node: Arc<Node>) {
        if let Kind::Directory(children) = &self.kind {
            lock(children).insert(name.into(), Child::Own(node));
        }
    }

    /// The first device node in this directory with the number `rdev`.
    pub(crate) fn device_child(&self, rdev: u64) -> Option<Arc<Node>> {
        let Kind::Directory(children) = &self.kind else { return None };
        lock(children).values().find_map(|child| match child {
            Child::Own(node) if matches!(node.kind, Kind::Device(number) if number == rdev) => {
                Some(node.clone())
            }
            _ => None,
        })
    }

    /// Removes `name` if it stands for the character device `rdev`.
    pub(crate) fn remove_device(&self, name: &[u8], rdev: u64) {
        let _names = lock(&self.fs.rename);
        let Ok(children) = self.children() else { return };
        let mut children = lock(children);
        let Some(child) = children.get(name).cloned() else { return };
        let is_it = |node: &Node| matches!(node.kind, Kind::Device(number) if number == rdev);
        if !matches!(&child, Child::Own(node) if is_it(node) && node.file_type() == S_IFCHR) {
            return;
        }
        children.remove(name);
        drop(children);
        self.drop_link(&child);
        self.touch();
    }

    /// Path below here of the object with this name in the backing file system.
    pub(crate) fn path_of_backed(&self, backing: &[u8]) -> Option<Vec<u8>> {
        for (name, child) in lock(self.children().ok()?).iter() {
            let rest = match child {
                Child::Backed(backed) if backed.name == backing => Vec::new(),
                Child::Own(node) => match node.path_of_backed(backing) {
                    Some(rest) => rest,
                    None => continue,
                },
                Child::Backed(_) => continue,
            };
            return Some([b"/", &name[..], &rest].concat());
        }
        None
    }

    fn children(&self) -> Result<&Mutex<BTreeMap<Vec<u8>, Child>>> {
        match &self.kind {
            Kind::Directory(children) => Ok(children),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// The children of a directory that names may be added to: `ENOENT` once it is removed.
    fn living_children(&self) -> Result<MutexGuard<'_, BTreeMap<Vec<u8>, Child>>> {
        let children = self.children()?;
        if lock(&self.meta).links == 0 {
            return Err(Errno::ENOENT);
        }
        Ok(lock(children))
    }

    fn touch(&self) {
        let t = now();
        let mut meta = lock(&self.meta);
        (meta.mtime, meta.ctime) = (t, t);
    }

    /// Adds a name made by `make`. `EEXIST`, `ENOENT`, `ENAMETOOLONG`.
    fn add(&self, name: &[u8], make: impl FnOnce() -> Result<Child>) -> Result<()> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let _names = lock(&self.fs.rename);
        let mut children = self.living_children()?;
        if children.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let child = make()?;
        children.insert(name.to_vec(), child);
        drop(children);
        self.touch();
        Ok(())
    }

    /// Adds a name for a new object of the backing file system, which `make` makes under the name it is given.
    fn add_backed<T>(
        &self,
        name: &[u8],
        make: impl FnOnce(&dyn Inode, &[u8]) -> Result<(Arc<dyn Inode>, T)>,
    ) -> Result<(Arc<dyn Inode>, T)> {
        let mut made = None;
        self.add(name, || {
            let backing_name = self.fs.new_backing_name();
            let (inode, rest) = make(&*self.fs.backing.root(), &backing_name)?;
            made = Some((inode.clone(), rest));
            Ok(Child::Backed(Arc::new(Backed { name: backing_name, links: AtomicUsize::new(1), inode })))
        })?;
        made.ok_or(Errno::EIO)
    }

    fn add_own(&self, name: &[u8], node: Arc<Node>) -> Result<Arc<dyn Inode>> {
        self.add(name, || Ok(Child::Own(node.clone())))?;
        Ok(node)
    }

    /// One name less; the last one takes an object of the backing file system with it.
    fn drop_link(&self, child: &Child) {
        match child {
            Child::Own(node) => {
                let mut meta = lock(&node.meta);
                meta.links = meta.links.saturating_sub(1);
                meta.ctime = now();
            }
            Child::Backed(backed) => {
                if backed.links.fetch_sub(1, Ordering::Relaxed) == 1 {
                    // The name is gone here whatever the backing file system says; a failure only leaves a file that
                    // nobody can reach until the sandbox ends.
                    let _ = self.fs.backing.root().unlink(&backed.name);
                }
            }
        }
    }

    /// The entry for an inode of this file system somewhere below here.
    fn find(&self, inode: &Arc<dyn Inode>) -> Option<Child> {
        let wanted = inode.getattr().ok().map(|a| (a.dev, a.ino))?;
        for child in lock(self.children().ok()?).values() {
            let found = match child {
                Child::Own(node) => node.find(inode),
                Child::Backed(backed) => {
                    let attr = backed.inode.getattr().ok();
                    attr.filter(|a| (a.dev, a.ino) == wanted).map(|_| child.clone())
                }
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Whether `dir` is here or below.
    fn contains(&self, dir: &Node) -> bool {
        let below = |child: &Child| matches!(child, Child::Own(node) if node.contains(dir));
        self.ino == dir.ino || self.children().is_ok_and(|children| lock(children).values().any(below))
    }
}

/// Whether `old` may replace `new`: `EISDIR`, `ENOTDIR`, `ENOTEMPTY`.
fn may_replace(old: &Child, new: &Child) -> Result<()> {
    match (old.is_dir(), new) {
        (true, Child::Own(node)) => match node.children() {
            Ok(children) if lock(children).is_empty() => Ok(()),
            Ok(_) => Err(Errno::ENOTEMPTY),
            Err(_) => Err(Errno::ENOTDIR),
        },
        (true, Child::Backed(_)) => Err(Errno::ENOTDIR),
        (false, _) if new.is_dir() => Err(Errno::EISDIR),
        (false, _) => Ok(()),
    }
}

impl Inode for Node {
    fn getattr(&self) -> Result<Attr> {
        let mut attr = Attr { dev: self.fs.dev, ino: self.ino, blksize: 4096, ..Attr::default() };
        let meta = lock(&self.meta);
        (attr.mode, attr.uid, attr.gid, attr.nlink) = (meta.mode, meta.uid, meta.gid, meta.links);
        (attr.atime, attr.mtime, attr.ctime, attr.btime) =
            (meta.atime, meta.mtime, meta.ctime, Some(meta.btime));
        drop(meta);
        match &self.kind {
            Kind::Directory(children) => {
                let children = lock(children);
                attr.size = 20 * (children.len() as u64 + 2);
                if attr.nlink > 0 {
                    attr.nlink = 2 + children.values().filter(|c| c.is_dir()).count() as u64;
                }
            }
            Kind::SymbolicLink(target) => attr.size = target.len() as u64,
            Kind::Device(rdev) => attr.rdev = *rdev,
        }
        Ok(attr)
    }

    fn file_type(&self) -> u32 {
        lock(&self.meta).mode & S_IFMT
    }

    fn is_gone(&self) -> bool {
        lock(&self.meta).links == 0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let children = self.children()?;
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        lock(children).get(name).map(Child::inode).ok_or(Errno::ENOENT)
    }

    fn get_link(&self) -> Result<Link> {
        match &self.kind {
            Kind::SymbolicLink(target) => Ok(Link::Text(target.clone())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn readdir(&self) -> Result<Vec<DirEntry>> {
        let entry = |(name, child): (&Vec<u8>, &Child)| {
            let ino = match child {
                Child::Own(node) => node.ino,
                Child::Backed(backed) => backed.inode.getattr().map_or(0, |a| a.ino),
            };
            dirent(ino, child.file_type(), name.clone())
        };
        Ok(lock(self.children()?).iter().map(entry).collect())
    }

    /// `ENXIO` for a device that does not exist.
    fn open(&self, flags: u32) -> Result<Opened> {
        match &self.kind {
            Kind::Directory(_) if wants_write(flags) => Err(Errno::EISDIR),
            Kind::Directory(_) => Ok(Opened::Directory),
            Kind::SymbolicLink(_) => Err(Errno::ELOOP),
            Kind::Device(rdev) => open_device(*rdev, self.file_type(), flags, &*self.fs.devices),
        }
    }

    fn create(&self, name: &[u8], new: NewInode, flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        self.add_backed(name, |dir, backing_name| dir.create(backing_name, new, flags))
    }

    fn tmpfile(&self, new: NewInode, flags: u32) -> Result<Opened> {
        self.children()?;
        self.fs.backing.root().tmpfile(new, flags)
    }

    fn mkdir(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        self.add_own(name, Node::directory(&self.fs, new))
    }

    fn mknod(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        match new.mode & S_IFMT {
            S_IFCHR | S_IFBLK => self.add_own(name, Node::device(&self.fs, new)),
            S_IFDIR => Err(Errno::EPERM),
            _ => Ok(self.add_backed(name, |dir, backing_name| Ok((dir.mknod(backing_name, new)?, ())))?.0),
        }
    }

    fn symlink(&self, name: &[u8], target: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        self.add_own(name, Node::symbolic_link(&self.fs, new, target))
    }

    /// `EPERM` for directories, `EXDEV` for an object of another file system, `ENOENT` for one without a name left.
    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        if target.file_type() == S_IFDIR {
            return Err(Errno::EPERM);
        }
        let child = match target.as_any().downcast_ref::<Node>() {
            Some(node) if Arc::ptr_eq(&node.fs, &self.fs) => {
                Child::Own(node.me.upgrade().ok_or(Errno::ENOENT)?)
            }
            Some(_) => return Err(Errno::EXDEV),
            None => self.fs.root().and_then(|root| root.find(target)).ok_or(Errno::EXDEV)?,
        };
        self.add(name, || {
            match &child {
                Child::Own(node) => {
                    let mut meta = lock(&node.meta);
                    if meta.links == 0 {
                        return Err(Errno::ENOENT);
                    }
                    meta.links += 1;
                    meta.ctime = now();
                }
                Child::Backed(backed) => {
                    backed.links.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(child.clone())
        })
    }

    fn link_handle(&self, name: &[u8], handle: &OwnedFd) -> Result<()> {
        let made = self.add_backed(name, |dir, backing_name| {
            dir.link_handle(backing_name, handle)?;
            Ok((dir.lookup(backing_name)?, ()))
        });
        made.map(drop)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        let _names = lock(&self.fs.rename);
        let mut children = lock(self.children()?);
        let child = children.get(name).ok_or(Errno::ENOENT)?.clone();
        if child.is_dir() {
            return Err(Errno::EISDIR);
        }
        children.remove(name);
        drop(children);
        self.drop_link(&child);
        self.touch();
        Ok(())
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        let _names = lock(&self.fs.rename);
        let mut children = lock(self.children()?);
        let child = children.get(name).ok_or(Errno::ENOENT)?.clone();
        let Child::Own(node) = &child else { return Err(Errno::ENOTDIR) };
        if !lock(node.children()?).is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        children.remove(name);
        drop(children);
        self.drop_link(&child);
        self.touch();
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let target_dir = new_dir.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&self.fs, &target_dir.fs) {
            return Err(Errno::EXDEV);
        }
        if new.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if flags & !(RENAME_NOREPLACE | RENAME_EXCHANGE) != 0 || flags == RENAME_NOREPLACE | RENAME_EXCHANGE {
            return Err(Errno::EINVAL);
        }
        let _names = lock(&self.fs.rename);
        // The directories are locked one at a time: no name changes while `rename` is held.
        let from = lock(self.children()?).get(old).cloned().ok_or(Errno::ENOENT)?;
        let to = target_dir.living_children()?.get(new).cloned();
        let inside = |child: &Child, dir: &Node| matches!(child, Child::Own(node) if node.contains(dir));
        if inside(&from, target_dir) {
            return Err(Errno::EINVAL);
        }
        match &to {
            None if flags & RENAME_EXCHANGE != 0 => return Err(Errno::ENOENT),
            None => {}
            Some(_) if flags & RENAME_NOREPLACE != 0 => return Err(Errno::EEXIST),
            Some(to) if from.same(to) => return Ok(()),
            Some(to) if flags & RENAME_EXCHANGE != 0 => {
                if inside(to, self) {
                    return Err(Errno::EINVAL);
                }
                lock(self.children()?).insert(old.to_vec(), to.clone());
                lock(target_dir.children()?).insert(new.to_vec(), from);
                self.touch();
                target_dir.touch();
                return Ok(());
            }
            Some(to) if inside(to, self) => return Err(Errno::ENOTEMPTY),
            Some(to) => may_replace(&from, to)?,
        }
        lock(self.children()?).remove(old);
        lock(target_dir.children()?).insert(new.to_vec(), from);
        if let Some(replaced) = to {
            self.drop_link(&replaced);
        }
        self.touch();
        target_dir.touch();
        Ok(())
    }

    /// `EISDIR` and `EINVAL` for a size, as `truncate(2)`.
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        if set.size.is_some() {
            return Err(if self.children().is_ok() { Errno::EISDIR } else { Errno::EINVAL });
        }
        let t = now();
        let time = |set: SetTime| match set {
            SetTime::Now => t,
            SetTime::At(at) => at,
        };
        let mut meta = lock(&self.meta);
        if let Some(mode) = set.mode {
            meta.mode = meta.mode & S_IFMT | mode & 0o7777;
        }
        meta.uid = set.uid.unwrap_or(meta.uid);
        meta.gid = set.gid.unwrap_or(meta.gid);
        meta.atime = set.atime.map_or(meta.atime, time);
        meta.mtime = set.mtime.map_or(meta.mtime, time);
        meta.ctime = t;
        Ok(())
    }

    fn bind_socket(&self, name: &[u8], new: NewInode, socket: &OwnedFd) -> Result<()> {
        let made = self.add_backed(name, |dir, backing_name| {
            dir.bind_socket(backing_name, new, socket)?;
            Ok((dir.lookup(backing_name)?, ()))
        });
        made.map(drop)
    }
}
