//! sysfs: devices and kernel objects as files (`sysfs(5)`).
//!
//! Programs look here for the processors and memory they may use (`lscpu`, the C library, JVMs). Those subtrees of the
//! host's sysfs are shown as they are, read-only; the rest of the host's devices is not the sandbox's, so there is none:
//! directories that programs expect to find are there and empty. A symbolic link of the host that leads outside of what
//! is shown is not shown either.

mod net;

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, Link, Opened, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SetAttr, StatFs, SuperBlock,
    Timespec,
};
use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, Mode, OFlags};

pub use self::net::{NetClass, SysNetDevice};
use crate::proc::generic::{dirent, generated_attr, hash_ino, host_errno, now, read_all, wants_write};

/// `SYSFS_MAGIC`.
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// Subtrees of the host that are shown.
const HOST: [&str; 6] = [
    "devices/system/clocksource",
    "devices/system/cpu",
    "devices/system/memory",
    "devices/system/node",
    "kernel/mm/hugepages",
    "kernel/mm/transparent_hugepage",
];

/// Directories of our own. Each one's parent is here too.
const DIRS: [&str; 22] = [
    "block",
    "bus",
    "class",
    "class/block",
    "class/macvtap",
    "class/net",
    "class/tty",
    "dev",
    "dev/block",
    "dev/char",
    "devices",
    "devices/system",
    "devices/virtual",
    "devices/virtual/net",
    "firmware",
    "fs",
    "fs/cgroup",
    "kernel",
    "kernel/cgroup",
    "kernel/mm",
    "module",
    "power",
];

/// Files of our own: what control groups can do.
const FILES: [(&str, &str); 2] = [
    ("kernel/cgroup/delegate", "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\n"),
    (
        "kernel/cgroup/features",
        "nsdelegate\nfavordynmods\nmemory_localevents\nmemory_recursiveprot\npids_localevents\n",
    ),
];

struct SysInfo {
    dev: u64,
    born: Timespec,
    /// Whose devices are shown.
    net: Arc<dyn NetClass>,
    /// Handle on the host's `/sys`, `None` on a host without.
    host: Option<OwnedFd>,
}

/// A sysfs instance.
pub struct SysFs {
    info: Arc<SysInfo>,
}

impl SysFs {
    /// Makes an instance with `dev` as its `st_dev`, and the devices of a new network namespace.
    pub fn new(dev: u64) -> Arc<SysFs> {
        SysFs::of(dev, Arc::new(net::NewNamespace))
    }

    /// Makes an instance with `dev` as its `st_dev`, and these network devices.
    pub fn of(dev: u64, net: Arc<dyn NetClass>) -> Arc<SysFs> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host = rustix::fs::open(c"/sys", flags, Mode::empty()).ok();
        Arc::new(SysFs { info: Arc::new(SysInfo { dev, born: now(), net, host }) })
    }
}

impl SuperBlock for SysFs {
    fn fs_type(&self) -> &'static str {
        "sysfs"
    }
    fn source(&self) -> Vec<u8> {
        b"sysfs".to_vec()
    }
    fn dev(&self) -> u64 {
        self.info.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(SysInode { fs: self.info.clone(), path: String::new(), kind: Kind::Dir })
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: SYSFS_MAGIC, bsize: 4096, namelen: 255, fsid: self.info.dev, ..StatFs::default() })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Whether `path` is `dir` or below it.
fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the host's object at `path` is shown.
fn shown_of_host(path: &str) -> bool {
    HOST.iter().any(|dir| is_below(path, dir))
}

/// The place a relative link in the directory of `link` leads to, by its text alone; `None` above the root.
fn resolve(link: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = link.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Name in `dir` when `path` is directly in it.
fn name_in<'a>(dir: &str, path: &'a str) -> Option<&'a str> {
    let name = if dir.is_empty() { path } else { path.strip_prefix(dir)?.strip_prefix('/')? };
    (!name.contains('/')).then_some(name)
}

enum Kind {
    Dir,
    Text(&'static str),
    /// Made now, or why it cannot be read.
    Made(Result<String>),
    Link(String),
    /// Mode and size of the host's object.
    HostDir(u32),
    HostFile(u32, u64),
}

struct SysInode {
    fs: Arc<SysInfo>,
    path: String,
    kind: Kind,
}

impl SysInfo {
    fn host(&self) -> Result<&OwnedFd> {
        self.host.as_ref().ok_or(Errno::ENOENT)
    }

    /// An object of the host below one of the subtrees. No component of `path` is a symbolic link: each was looked up as
    /// a directory, and sysfs is not changed by users.
    fn host_kind(&self, path: &str) -> Result<Kind> {
        let stat = rustix::fs::statat(self.host()?, path, AtFlags::SYMLINK_NOFOLLOW).map_err(host_errno)?;
        match stat.st_mode & S_IFMT {
            S_IFDIR => Ok(Kind::HostDir(stat.st_mode & 0o555)),
            S_IFREG => Ok(Kind::HostFile(stat.st_mode & 0o444, stat.st_size as u64)),
            S_IFLNK => {
                let target = rustix::fs::readlinkat(self.host()?, path, Vec::new()).map_err(host_errno)?;
                let target = target.into_string().map_err(|_| Errno::ENOENT)?;
                let shown =
                    !target.starts_with('/') && resolve(path, &target).is_some_and(|to| shown_of_host(&to));
                if shown { Ok(Kind::Link(target)) } else { Err(Errno::ENOENT) }
            }
            _ => Err(Errno::ENOENT),
        }
    }

    fn kind(&self, path: &str) -> Result<Kind> {
        if DIRS.contains(&path) {
            return Ok(Kind::Dir);
        }
        if let Some((_, text)) = FILES.iter().find(|(p, _)| *p == path) {
            return Ok(Kind::Text(text));
        }
        match net::entry(&*self.net, path) {
            Some(net::Entry::Dir) => return Ok(Kind::Dir),
            Some(net::Entry::Text(text)) => return Ok(Kind::Made(text)),
            Some(net::Entry::Link(target)) => return Ok(Kind::Link(target)),
            None => {}
        }
        if shown_of_host(path) { self.host_kind(path) } else { Err(Errno::ENOENT) }
    }
}

impl SysInode {
    fn child_path(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}/{name}", self.path) }
    }

    fn ino_of(path: &str) -> u64 {
        if path.is_empty() { 1 } else { hash_ino(1, path.as_bytes()) }
    }

    fn read_host_dir(&self, entries: &mut Vec<DirEntry>) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.fs.host()?, &self.path, flags, Mode::empty()).map_err(host_errno)?;
        for entry in rustix::fs::Dir::new(fd).map_err(host_errno)? {
            let entry = entry.map_err(host_errno)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            let path = self.child_path(name);
            let mode = match entry.file_type() {
                rustix::fs::FileType::Directory => S_IFDIR,
                rustix::fs::FileType::RegularFile => S_IFREG,
                rustix::fs::FileType::Symlink if self.fs.host_kind(&path).is_ok() => S_IFLNK,
                _ => continue,
            };
            entries.push(dirent(Self::ino_of(&path), mode, name));
        }
        Ok(())
    }
}

impl Inode for SysInode {
    fn getattr(&self) -> Result<Attr> {
        let (mode, size) = match &self.kind {
            Kind::Dir => (S_IFDIR | 0o555, 0),
            Kind::Text(_) | Kind::Made(_) => (S_IFREG | 0o444, 4096),
            Kind::Link(target) => (S_IFLNK | 0o777, target.len() as u64),
            Kind::HostDir(mode) => (S_IFDIR | mode, 0),
            Kind::HostFile(mode, size) => (S_IFREG | mode, *size),
        };
        let mut attr = generated_attr(self.fs.dev, Self::ino_of(&self.path), mode, (0, 0), self.fs.born);
        (attr.size, attr.blksize) = (size, 4096);
        Ok(attr)
    }
    fn file_type(&self) -> u32 {
        match self.kind {
            Kind::Dir | Kind::HostDir(_) => S_IFDIR,
            Kind::Text(_) | Kind::Made(_) | Kind::HostFile(..) => S_IFREG,
            Kind::Link(_) => S_IFLNK,
        }
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if self.file_type() != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(Errno::ENOENT);
        }
        let path = self.child_path(name);
        let kind = self.fs.kind(&path)?;
        Ok(Arc::new(SysInode { fs: self.fs.clone(), path, kind }))
    }
    fn get_link(&self) -> Result<Link> {
        match &self.kind {
            Kind::Link(target) => Ok(Link::Text(target.clone().into_bytes())),
            _ => Err(Errno::EINVAL),
        }
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        if self.file_type() != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        let mut entries = Vec::new();
        if matches!(self.kind, Kind::HostDir(_)) {
            self.read_host_dir(&mut entries)?;
            return Ok(entries);
        }
        let dirs = DIRS.iter().map(|path| (*path, S_IFDIR));
        let files = FILES.iter().map(|(path, _)| (*path, S_IFREG));
        for (path, mode) in dirs.chain(files) {
            if let Some(name) = name_in(&self.path, path) {
                entries.push(dirent(Self::ino_of(path), mode, name));
            }
        }
        for name in net::names(&*self.fs.net, &self.path) {
            let path = self.child_path(&name);
            let mode = match net::entry(&*self.fs.net, &path) {
                Some(net::Entry::Dir) => S_IFDIR,
                Some(net::Entry::Text(_)) => S_IFREG,
                Some(net::Entry::Link(_)) => S_IFLNK,
                None => continue,
            };
            entries.push(dirent(Self::ino_of(&path), mode, name));
        }
        for path in HOST {
            if let Some(name) = name_in(&self.path, path)
                && self.fs.host_kind(path).is_ok()
            {
                entries.push(dirent(Self::ino_of(path), S_IFDIR, name));
            }
        }
        Ok(entries)
    }
    /// `EACCES` for writing, and whatever the host answers to reading.
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) {
            return Err(if self.file_type() == S_IFDIR { Errno::EISDIR } else { Errno::EACCES });
        }
        match &self.kind {
            Kind::Dir | Kind::HostDir(_) => Ok(Opened::Directory),
            Kind::Link(_) => Err(Errno::ELOOP),
            Kind::Text(text) => Ok(Opened::Text((*text).into())),
            Kind::Made(text) => text.clone().map(|text| Opened::Text(text.into_bytes())),
            Kind::HostFile(..) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(self.fs.host()?, &self.path, flags, Mode::empty())
                    .map_err(host_errno)?;
                read_all(fd).map(Opened::Text)
            }
        }
    }
    /// Modes and owners are fixed (`EPERM`).
    fn setattr(&self, _set: &SetAttr) -> Result<()> {
        Err(Errno::EPERM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(path: &str) -> Result<Arc<dyn Inode>> {
        path.split('/').try_fold(SysFs::new(60).root(), |dir, name| dir.lookup(name.as_bytes()))
    }

    fn text(path: &str) -> Vec<u8> {
        match walk(path).unwrap().open(0).unwrap() {
            Opened::Text(text) => text,
            _ => panic!("{path} is not text"),
        }
    }

    #[test]
    fn the_processors_are_the_hosts() {
        assert_eq!(
            text("devices/system/cpu/online"),
            std::fs::read("/sys/devices/system/cpu/online").unwrap()
        );
        let list = walk("devices/system/cpu").unwrap().readdir().unwrap();
        assert!(list.iter().any(|e| e.name == b"cpu0" && e.kind == libc::DT_DIR));
    }

    #[test]
    fn nothing_else_of_the_host_is_there() {
        for hidden in
            ["firmware/acpi", "devices/pci0000:00", "devices/platform", "kernel/security", "class/block/vda"]
        {
            assert_eq!(walk(hidden).err(), Some(Errno::ENOENT), "{hidden}");
        }
        assert_eq!(walk("block").unwrap().readdir().unwrap(), []);
        // Links of shown directories to hidden places are hidden, in listings too.
        assert_eq!(walk("devices/system/cpu/cpu0/subsystem").err(), Some(Errno::ENOENT));
        let cpu0 = walk("devices/system/cpu/cpu0").unwrap().readdir().unwrap();
        assert!(!cpu0.iter().any(|e| e.name == b"subsystem"));
    }

    #[test]
    fn every_listed_name_can_be_looked_up() {
        fn check(dir: Arc<dyn Inode>, path: &str, depth: usize) {
            for entry in dir.readdir().unwrap() {
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                let inode = dir.lookup(&entry.name).unwrap_or_else(|e| panic!("{path}/{name}: {e:?}"));
                let attr = inode.getattr().unwrap();
                assert_eq!(attr.ino, entry.ino, "{path}/{name}");
                assert_eq!(attr.mode & 0o222 & !S_IFMT, if entry.kind == libc::DT_LNK { 0o222 } else { 0 });
                if entry.kind == libc::DT_DIR && depth > 0 {
                    check(inode, &format!("{path}/{name}"), depth - 1);
                }
            }
        }
        check(SysFs::new(60).root(), "", 4);
    }

    #[test]
    fn hostile_names_and_writes_are_refused() {
        let cpu = walk("devices/system/cpu").unwrap();
        for name in [&b".."[..], b".", b"", b"../../../firmware", b"cpu0/../../..", b"cpu0\0", b"\xff"] {
            assert_eq!(cpu.lookup(name).err(), Some(Errno::ENOENT), "{name:?}");
        }
        assert_eq!(walk("devices/system/cpu/cpu0/uevent").unwrap().open(1).err(), Some(Errno::EACCES));
    }

    #[test]
    fn links_resolve_by_their_text() {
        assert_eq!(resolve("a/b/c", "../x").as_deref(), Some("a/x"));
        assert_eq!(resolve("a/b", "../../../x"), None);
        assert!(!shown_of_host("devices/system/cpufoo"));
    }
}
