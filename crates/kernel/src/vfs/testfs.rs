//! A file system in memory for the tests of this crate.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::exportfs::Export;
use super::*;
use crate::errno::{Errno, Result};
use crate::mount::{MntNamespace, MountFlags, MountTable};

enum Body {
    Dir(BTreeMap<Vec<u8>, Arc<TestInode>>),
    Text(Vec<u8>),
    Magic(Path),
    Other,
}

/// An object of the test file system.
pub(crate) struct TestInode {
    fs: Weak<TestFs>,
    file_type: u32,
    state: Mutex<(Attr, Body)>,
    xattrs: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// The file system, with counters of what it was asked.
pub(crate) struct TestFs {
    root: Mutex<Option<Arc<TestInode>>>,
    dev: u64,
    cacheable: bool,
    next_ino: AtomicU64,
    pub(crate) lookups: AtomicU64,
    pub(crate) getattrs: AtomicU64,
}

static NEXT_DEV: AtomicU64 = AtomicU64::new(10);

impl TestFs {
    pub(crate) fn new(cacheable: bool) -> Arc<TestFs> {
        let fs = Arc::new(TestFs {
            root: Mutex::new(None),
            dev: NEXT_DEV.fetch_add(1, Ordering::Relaxed),
            cacheable,
            next_ino: AtomicU64::new(1),
            lookups: AtomicU64::new(0),
            getattrs: AtomicU64::new(0),
        });
        let root =
            fs.inode(NewInode { mode: S_IFDIR | 0o755, uid: 0, gid: 0, rdev: 0 }, Body::Dir(BTreeMap::new()));
        *fs.root.lock().unwrap() = Some(root);
        fs
    }

    fn inode(self: &Arc<Self>, new: NewInode, body: Body) -> Arc<TestInode> {
        let attr = Attr {
            dev: self.dev,
            ino: self.next_ino.fetch_add(1, Ordering::Relaxed),
            mode: new.mode,
            nlink: 1,
            uid: new.uid,
            gid: new.gid,
            rdev: new.rdev,
            ..Attr::default()
        };
        Arc::new(TestInode {
            fs: Arc::downgrade(self),
            file_type: new.mode & S_IFMT,
            state: Mutex::new((attr, body)),
            xattrs: Mutex::default(),
        })
    }

    /// A file system object behind the back of the switch, as another process would make it on a host directory.
    pub(crate) fn plant(self: &Arc<Self>, path: &str, mode: u32) -> Arc<TestInode> {
        let body = if mode & S_IFMT == S_IFDIR { Body::Dir(BTreeMap::new()) } else { Body::Other };
        self.plant_body(path, NewInode { mode, uid: 0, gid: 0, rdev: 0x501 }, body)
    }

    pub(crate) fn plant_link(self: &Arc<Self>, path: &str, target: &str) -> Arc<TestInode> {
        let new = NewInode { mode: S_IFLNK | 0o777, uid: 0, gid: 0, rdev: 0 };
        self.plant_body(path, new, Body::Text(target.into()))
    }

    pub(crate) fn plant_magic(self: &Arc<Self>, path: &str, target: Path) -> Arc<TestInode> {
        let new = NewInode { mode: S_IFLNK | 0o777, uid: 0, gid: 0, rdev: 0 };
        self.plant_body(path, new, Body::Magic(target))
    }

    fn plant_body(self: &Arc<Self>, path: &str, new: NewInode, body: Body) -> Arc<TestInode> {
        let mut dir = self.root.lock().unwrap().clone().unwrap();
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            dir = dir.child(part.as_bytes()).unwrap();
        }
        let inode = self.inode(new, body);
        dir.add(name.as_bytes(), inode.clone()).unwrap();
        inode
    }

    /// Removes a name behind the back of the switch.
    pub(crate) fn remove(&self, name: &str) {
        let root = self.root.lock().unwrap().clone().unwrap();
        root.take(name.as_bytes()).unwrap();
    }
}

impl SuperBlock for TestFs {
    fn fs_type(&self) -> &'static str {
        "testfs"
    }
    fn source(&self) -> Vec<u8> {
        b"test source".to_vec()
    }
    fn show_options(&self) -> String {
        "size=1k".to_string()
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.lock().unwrap().clone().unwrap()
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: 0x7e57, ..StatFs::default() })
    }
    fn has_acls(&self) -> bool {
        true
    }
    fn cacheable(&self) -> bool {
        self.cacheable
    }
    fn export(&self) -> Export {
        Export::Generation
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl TestInode {
    fn fs(&self) -> Arc<TestFs> {
        self.fs.upgrade().unwrap()
    }

    fn with_dir<T>(&self, f: impl FnOnce(&mut BTreeMap<Vec<u8>, Arc<TestInode>>) -> Result<T>) -> Result<T> {
        match &mut self.state.lock().unwrap().1 {
            Body::Dir(entries) => f(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn child(&self, name: &[u8]) -> Result<Arc<TestInode>> {
        self.with_dir(|entries| entries.get(name).cloned().ok_or(Errno::ENOENT))
    }

    fn add(&self, name: &[u8], inode: Arc<TestInode>) -> Result<()> {
        self.with_dir(|entries| {
            if entries.contains_key(name) {
                return Err(Errno::EEXIST);
            }
            entries.insert(name.to_vec(), inode);
            Ok(())
        })
    }

    fn take(&self, name: &[u8]) -> Result<Arc<TestInode>> {
        self.with_dir(|entries| entries.remove(name).ok_or(Errno::ENOENT))
    }

    fn is_empty(&self) -> bool {
        self.with_dir(|entries| Ok(entries.is_empty())).unwrap_or(true)
    }

    fn make(&self, name: &[u8], new: NewInode, body: Body) -> Result<Arc<dyn Inode>> {
        let inode = self.fs().inode(new, body);
        self.add(name, inode.clone())?;
        Ok(inode)
    }
}

impl Inode for TestInode {
    fn getattr(&self) -> Result<Attr> {
        self.fs().getattrs.fetch_add(1, Ordering::Relaxed);
        Ok(self.state.lock().unwrap().0)
    }
    fn file_type(&self) -> u32 {
        self.file_type
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.fs().lookups.fetch_add(1, Ordering::Relaxed);
        Ok(self.child(name)?)
    }
    fn get_link(&self) -> Result<Link> {
        match &self.state.lock().unwrap().1 {
            Body::Text(text) if self.file_type == S_IFLNK => Ok(Link::Text(text.clone())),
            Body::Magic(path) => Ok(Link::Jump(path.clone())),
            _ => Err(Errno::EINVAL),
        }
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        Ok(if self.file_type == S_IFDIR {
            Opened::Directory
        } else {
            Opened::Text(format!("{flags:o}").into())
        })
    }
    fn create(&self, name: &[u8], new: NewInode, flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        let inode = self.make(name, new, Body::Other)?;
        let opened = inode.open(flags)?;
        Ok((inode, opened))
    }
    fn tmpfile(&self, _new: NewInode, flags: u32) -> Result<Opened> {
        Ok(Opened::Text(format!("{flags:o}").into()))
    }
    fn mkdir(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        self.make(name, new, Body::Dir(BTreeMap::new()))
    }
    fn mknod(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        self.make(name, new, Body::Other)
    }
    fn symlink(&self, name: &[u8], target: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        self.make(name, new, Body::Text(target.to_vec()))
    }
    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let parent = self.fs();
        fn find(dir: &TestInode, target: &dyn Inode) -> Option<Arc<TestInode>> {
            let entries: Vec<_> = dir.with_dir(|entries| Ok(entries.values().cloned().collect())).ok()?;
            entries.into_iter().find_map(|entry| {
                let same = std::ptr::addr_eq(Arc::as_ptr(&entry), target);
                if same { Some(entry) } else { find(&entry, target) }
            })
        }
        let root = parent.root.lock().unwrap().clone().unwrap();
        let inode = find(&root, &**target).ok_or(Errno::ENOENT)?;
        inode.state.lock().unwrap().0.nlink += 1;
        self.add(name, inode)
    }
    fn link_handle(&self, name: &[u8], _handle: &OwnedFd) -> Result<()> {
        self.make(name, NewInode { mode: S_IFREG | 0o600, uid: 0, gid: 0, rdev: 0 }, Body::Other).map(drop)
    }
    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.take(name).map(drop)
    }
    fn rmdir(&self, name: &[u8]) -> Result<()> {
        if !self.child(name)?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.take(name).map(drop)
    }
    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let new_dir = new_dir.as_any().downcast_ref::<TestInode>().ok_or(Errno::EXDEV)?;
        if flags & 2 == 0 && new_dir.child(new).is_ok_and(|target| !target.is_empty()) {
            return Err(Errno::ENOTEMPTY);
        }
        let source = self.take(old)?;
        let target = new_dir.take(new);
        new_dir.add(new, source)?;
        if let (true, Ok(target)) = (flags & 2 != 0, target) {
            self.add(old, target)?;
        }
        Ok(())
    }
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        let attr = &mut self.state.lock().unwrap().0;
        if let Some(mode) = set.mode {
            attr.mode = attr.mode & S_IFMT | mode;
        }
        attr.uid = set.uid.unwrap_or(attr.uid);
        attr.gid = set.gid.unwrap_or(attr.gid);
        attr.size = set.size.unwrap_or(attr.size);
        if let Some(SetTime::At(time)) = set.atime {
            attr.atime = time;
        }
        if let Some(SetTime::At(time)) = set.mtime {
            attr.mtime = time;
        }
        Ok(())
    }
    fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattrs.lock().unwrap().get(name).cloned().ok_or(Errno::ENODATA)
    }
    fn listxattr(&self) -> Result<Vec<u8>> {
        let xattrs = self.xattrs.lock().unwrap();
        Ok(xattrs.keys().flat_map(|name| name.iter().copied().chain([0])).collect())
    }
    fn setxattr(&self, name: &[u8], value: &[u8], _flags: u32) -> Result<()> {
        self.xattrs.lock().unwrap().insert(name.to_vec(), value.to_vec());
        Ok(())
    }
    fn removexattr(&self, name: &[u8]) -> Result<()> {
        self.xattrs.lock().unwrap().remove(name).map(drop).ok_or(Errno::ENODATA)
    }
}

/// A namespace with one test file system, for tests that need a place to stand.
pub(crate) fn namespace(fs: &Arc<TestFs>) -> (Arc<MntNamespace>, FsStruct) {
    let sb = ActiveSuper::new(fs.clone(), SuperFlags::empty());
    let ns = MntNamespace::new(&MountTable::new(), sb, MountFlags::empty());
    ns.set_user_ns(crate::user_namespace::UserNamespace::initial());
    let root = Path::mount_root(&ns.root().unwrap());
    (ns, FsStruct::new(root))
}
