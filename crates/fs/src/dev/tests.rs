//! devtmpfs over a small backing file system of empty files in memory.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use nomina_kernel::vfs::{
    Attr, Inode, Link, NewInode, Opened, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG, SetAttr,
    StatFs, SuperBlock,
};
use nomina_kernel::{Errno, Result};
use rustix::fs::makedev;

use super::*;

#[derive(Default)]
struct Backing {
    files: Arc<Mutex<BTreeMap<Vec<u8>, Arc<BackingFile>>>>,
}

struct BackingFile {
    ino: u64,
    mode: u32,
}

struct BackingRoot(Arc<Mutex<BTreeMap<Vec<u8>, Arc<BackingFile>>>>);

struct FileRef(Arc<BackingFile>);

impl SuperBlock for Backing {
    fn fs_type(&self) -> &'static str {
        "tmpfs"
    }
    fn source(&self) -> Vec<u8> {
        b"tmpfs".to_vec()
    }
    fn dev(&self) -> u64 {
        99
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(BackingRoot(self.files.clone()))
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs::default())
    }
    fn cacheable(&self) -> bool {
        true
    }
    fn path_of_host(&self, host: &[u8]) -> Option<Vec<u8>> {
        host.strip_prefix(b"/private").map(<[u8]>::to_vec)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Inode for BackingRoot {
    fn getattr(&self) -> Result<Attr> {
        Ok(Attr { mode: S_IFDIR | 0o755, ..Attr::default() })
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Ok(Opened::Directory)
    }
    fn create(&self, name: &[u8], new: NewInode, _flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        Ok((self.mknod(name, new)?, Opened::Text(Vec::new())))
    }
    fn mknod(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        let mut files = self.0.lock().unwrap();
        let file = Arc::new(BackingFile { ino: 1000 + files.len() as u64, mode: new.mode });
        files.insert(name.to_vec(), file.clone());
        Ok(Arc::new(FileRef(file)))
    }
    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.0.lock().unwrap().remove(name).map(drop).ok_or(Errno::ENOENT)
    }
}

impl Inode for FileRef {
    fn getattr(&self) -> Result<Attr> {
        Ok(Attr { dev: 99, ino: self.0.ino, mode: self.0.mode, ..Attr::default() })
    }
    fn file_type(&self) -> u32 {
        self.0.mode & S_IFMT
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Ok(Opened::Text(Vec::new()))
    }
}

/// A host without terminals that says who was asked.
struct Host(Mutex<Vec<String>>);

impl DeviceHost for Host {
    fn caller_ids(&self) -> (u32, u32) {
        (0, 0)
    }
    fn open_fuse(&self, _flags: u32) -> Result<OwnedFd> {
        Err(Errno::ENXIO)
    }
    fn open_tun(&self, _flags: u32) -> Result<OwnedFd> {
        Err(Errno::ENXIO)
    }
    fn open_tap(&self, _minor: u32, _flags: u32) -> Result<OwnedFd> {
        Err(Errno::ENODEV)
    }
    fn open_tty(&self, _flags: u32) -> Result<OwnedFd> {
        self.0.lock().unwrap().push("tty".into());
        Err(Errno::ENXIO)
    }
    fn open_ptmx(&self, _flags: u32) -> Result<OwnedFd> {
        self.0.lock().unwrap().push("ptmx".into());
        Err(Errno::ENOSPC)
    }
    fn open_pts(&self, index: u32, _flags: u32) -> Result<OwnedFd> {
        self.0.lock().unwrap().push(format!("pts {index}"));
        Err(Errno::EIO)
    }
}

const RDWR: u32 = libc::O_RDWR as u32;

fn devtmpfs() -> (Arc<DevTmpfs>, Arc<Backing>, Arc<Host>) {
    let backing = Arc::new(Backing::default());
    let host = Arc::new(Host(Mutex::default()));
    (DevTmpfs::new(7, backing.clone(), host.clone()), backing, host)
}

fn new(mode: u32, rdev: u64) -> NewInode {
    NewInode { mode, uid: 0, gid: 0, rdev }
}

fn names(dir: &Arc<dyn Inode>) -> Vec<String> {
    dir.readdir().unwrap().into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect()
}

#[test]
fn the_standard_nodes_are_the_hosts_devices() {
    let (fs, _, _) = devtmpfs();
    let root = fs.root();
    for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
        let inode = root.lookup(name.as_bytes()).unwrap();
        let attr = inode.getattr().unwrap();
        assert_eq!((attr.mode, attr.rdev), (S_IFCHR | 0o666, makedev(1, minor)), "{name}");
        let Opened::Host(fd) = inode.open(RDWR).unwrap() else { panic!("{name} is not native") };
        let stat = rustix::fs::fstat(&fd).unwrap();
        assert_eq!((stat.st_mode & S_IFMT, stat.st_rdev), (S_IFCHR, attr.rdev), "{name}");
    }
    let mut buf = [1; 4];
    let Opened::Host(zero) = root.lookup(b"zero").unwrap().open(0).unwrap() else { panic!() };
    rustix::io::read(&zero, &mut buf).unwrap();
    assert_eq!(buf, [0; 4]);
    assert_eq!(rustix::io::write(&zero, b"x"), Err(rustix::io::Errno::BADF), "opened for reading only");
}

#[test]
fn links_lead_where_programs_expect() {
    let (fs, _, _) = devtmpfs();
    for (name, want) in [("fd", "/proc/self/fd"), ("stderr", "/proc/self/fd/2"), ("ptmx", "pts/ptmx")] {
        let Ok(Link::Text(text)) = fs.root().lookup(name.as_bytes()).unwrap().get_link() else {
            panic!("{name}")
        };
        assert_eq!(text, want.as_bytes());
    }
}

#[test]
fn only_the_devices_of_a_sandbox_open() {
    let (_, _, host) = devtmpfs();
    let open = |major, minor, kind| open_device(makedev(major, minor), kind, RDWR, &*host).err();
    assert_eq!(open(1, 1, S_IFCHR), Some(Errno::ENXIO), "mem");
    assert_eq!(open(1, 11, S_IFCHR), Some(Errno::ENXIO), "kmsg");
    assert_eq!(open(10, 232, S_IFCHR), Some(Errno::ENXIO), "kvm");
    assert_eq!(open(254, 0, S_IFBLK), Some(Errno::ENXIO), "vda");
    assert_eq!(open(1, 3, S_IFBLK), Some(Errno::ENXIO), "a block device with the number of null");
    assert_eq!(open(5, 0, S_IFCHR), Some(Errno::ENXIO));
    assert_eq!(open(5, 2, S_IFCHR), Some(Errno::ENOSPC));
    assert_eq!(open(136, 300, S_IFCHR), Some(Errno::EIO));
    assert_eq!(*host.0.lock().unwrap(), ["tty", "ptmx", "pts 300"]);
}

#[test]
fn nodes_can_be_made_renamed_and_removed() {
    let (fs, _, _) = devtmpfs();
    let root = fs.root();
    let disk = root.mknod(b"sda", new(S_IFBLK | 0o660, makedev(8, 0))).unwrap();
    assert_eq!(disk.getattr().unwrap().rdev, makedev(8, 0));
    assert_eq!(disk.open(0).err(), Some(Errno::ENXIO));
    assert_eq!(root.mknod(b"sda", new(S_IFBLK, 0)).err(), Some(Errno::EEXIST));
    let dir = root.mkdir(b"mapper", new(0o755, 0)).unwrap();
    root.rename(b"sda", &dir, b"root", 0).unwrap();
    assert_eq!(root.lookup(b"sda").err(), Some(Errno::ENOENT));
    assert_eq!(names(&dir), ["root"]);
    assert_eq!(root.rmdir(b"mapper"), Err(Errno::ENOTEMPTY));
    assert_eq!(root.unlink(b"mapper"), Err(Errno::EISDIR));
    dir.unlink(b"root").unwrap();
    assert_eq!(disk.getattr().unwrap().nlink, 0);
    root.rmdir(b"mapper").unwrap();
    assert_eq!(
        dir.mkdir(b"late", new(0o755, 0)).err(),
        Some(Errno::ENOENT),
        "a removed directory takes no names"
    );
    assert_eq!(dir.getattr().unwrap().nlink, 0);
}

#[test]
fn a_directory_cannot_be_moved_into_itself_nor_replace_a_file() {
    let (fs, _, _) = devtmpfs();
    let root = fs.root();
    let a = root.mkdir(b"a", new(0o755, 0)).unwrap();
    let b = a.mkdir(b"b", new(0o755, 0)).unwrap();
    assert_eq!(root.rename(b"a", &b, b"c", 0), Err(Errno::EINVAL));
    assert_eq!(root.rename(b"a", &root, b"null", 0), Err(Errno::ENOTDIR));
    assert_eq!(root.rename(b"null", &root, b"a", 0), Err(Errno::EISDIR));
    assert_eq!(a.rename(b"b", &root, b"a", 0), Err(Errno::ENOTEMPTY));
    assert_eq!(root.rename(b"null", &root, b"zero", 1), Err(Errno::EEXIST));
    assert_eq!(root.rename(b"null", &root, b"none", 2), Err(Errno::ENOENT));
    assert_eq!(root.rename(b"null", &root, b"x", 4), Err(Errno::EINVAL));
    root.rename(b"null", &root, b"zero", 2).unwrap();
    assert_eq!(root.lookup(b"null").unwrap().getattr().unwrap().rdev, makedev(1, 5));
    assert_eq!(a.rename(b"b", &root, b"shm", 0), Ok(()), "an empty directory is replaced");
}

#[test]
fn files_live_in_the_backing_file_system_until_their_last_name_is_gone() {
    let (fs, backing, _) = devtmpfs();
    let root = fs.root();
    let count = || backing.files.lock().unwrap().len();
    let dir = root.mkdir(b"d", new(0o755, 0)).unwrap();
    let (file, _) = dir.create(b"secret name", new(S_IFREG | 0o600, 0), RDWR).unwrap();
    dir.mknod(b"fifo", new(S_IFIFO | 0o600, 0)).unwrap();
    assert_eq!(count(), 2);
    root.link(b"other", &file).unwrap();
    let backing_name = backing.files.lock().unwrap().keys().next().unwrap().clone();
    let host = [b"/private/", &backing_name[..]].concat();
    assert!([&b"/d/secret name"[..], b"/other"].contains(&fs.path_of_host(&host).unwrap().as_slice()));
    dir.unlink(b"secret name").unwrap();
    assert_eq!(fs.path_of_host(&host).unwrap(), b"/other");
    assert_eq!(count(), 2, "another name is left");
    root.mknod(b"new", new(S_IFREG | 0o600, 0)).unwrap();
    root.rename(b"new", &root, b"other", 0).unwrap();
    assert_eq!(count(), 2, "replaced");
    dir.unlink(b"fifo").unwrap();
    assert_eq!(count(), 1);
    assert_eq!(fs.path_of_host(&host), None);
    assert_eq!(fs.path_of_host(b"/elsewhere"), None);
}

#[test]
fn attributes_of_nodes_can_be_changed_and_sizes_cannot() {
    let (fs, _, _) = devtmpfs();
    let null = fs.root().lookup(b"null").unwrap();
    null.setattr(&SetAttr { mode: Some(0o640), uid: Some(3), ..SetAttr::default() }).unwrap();
    let attr = null.getattr().unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid), (S_IFCHR | 0o640, 3, 0));
    assert_eq!(null.setattr(&SetAttr { size: Some(0), ..SetAttr::default() }), Err(Errno::EINVAL));
    assert_eq!(fs.root().setattr(&SetAttr { size: Some(0), ..SetAttr::default() }), Err(Errno::EISDIR));
}

#[test]
fn overlong_names_are_refused() {
    let (fs, _, _) = devtmpfs();
    let long = vec![b'x'; 256];
    assert_eq!(fs.root().lookup(&long).err(), Some(Errno::ENAMETOOLONG));
    assert_eq!(fs.root().mkdir(&long, new(0o755, 0)).err(), Some(Errno::ENAMETOOLONG));
}
