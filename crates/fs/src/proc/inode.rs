//! Entries that belong to no task: a fixed tree of files, as `proc_create` and `register_sysctl` build it in Linux.

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::vfs::{Attr, DirEntry, Inode, Link, Opened, S_IFDIR, S_IFLNK, S_IFREG};
use nomina_kernel::{Errno, Result};
use rustix::fs::{Mode, OFlags};

use super::ProcInfo;
use super::generic::{dirent, generated_attr, hash_ino, host_errno, read_host, wants_write};
use super::net_sysctl::NetSysctlDir;
use super::source::{TaskKey, current};

/// Where the text of a fixed file comes from.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// The host's file of the same path, handed out as it is: it holds no names, and following the host's numbers while
    /// the file stays open is what `top` and `vmstat` do.
    Live,
    /// A copy of the host's file of the same path.
    Host,
    /// There, but not to be opened (`EPERM`), whoever asks.
    Closed,
    /// Always the same.
    Fixed(&'static str),
    /// Made at open.
    Made(fn(&ProcInfo, Option<TaskKey>) -> Result<Vec<u8>>),
    /// Made at open, and writable: text and offset.
    Control(
        fn(&ProcInfo, Option<TaskKey>) -> Result<Vec<u8>>,
        fn(&ProcInfo, Option<TaskKey>, &[u8], u64) -> Result<()>,
    ),
    /// A limit of the viewer's IPC namespace, of the file's name.
    Ipc,
}

/// A fixed file.
pub(crate) struct StaticFile {
    pub(crate) path: &'static str,
    pub(crate) mode: u32,
    pub(crate) content: Content,
}

/// A name in a fixed directory.
pub(crate) enum StaticEntry {
    Dir(Arc<StaticDir>),
    File(&'static StaticFile),
    Link(&'static str),
}

/// A fixed directory; entries keep the order of their table.
#[derive(Default)]
pub(crate) struct StaticDir {
    pub(crate) path: String,
    pub(crate) entries: Vec<(&'static str, StaticEntry)>,
}

impl StaticDir {
    /// Builds the tree of all these files, directories that have none of them, and symbolic links at its root.
    pub(crate) fn build(
        files: impl IntoIterator<Item = &'static StaticFile>,
        dirs: &[&'static str],
        links: &[(&'static str, &'static str)],
    ) -> StaticDir {
        let mut root = StaticDir::default();
        for (name, target) in links {
            root.entries.push((name, StaticEntry::Link(target)));
        }
        for file in files {
            let (dir, name) = file.path.rsplit_once('/').unwrap_or(("", file.path));
            root.make_dirs(dir).entries.push((name, StaticEntry::File(file)));
        }
        for dir in dirs {
            root.make_dirs(dir);
        }
        root
    }

    fn make_dirs(&mut self, path: &'static str) -> &mut StaticDir {
        let mut dir = self;
        for name in path.split('/').filter(|n| !n.is_empty()) {
            let at = match dir.entries.iter().position(|(n, _)| *n == name) {
                Some(at) => at,
                None => {
                    let path = if dir.path.is_empty() { name.into() } else { format!("{}/{name}", dir.path) };
                    let new = StaticDir { path, entries: Vec::new() };
                    dir.entries.push((name, StaticEntry::Dir(Arc::new(new))));
                    dir.entries.len() - 1
                }
            };
            let StaticEntry::Dir(next) = &mut dir.entries[at].1 else {
                unreachable!("the table has a file where {path} needs a directory");
            };
            dir = Arc::get_mut(next).expect("nobody else holds a tree under construction");
        }
        dir
    }

    /// The directory in it of a name.
    pub(crate) fn dir(&self, name: &[u8]) -> Option<Arc<StaticDir>> {
        self.entries.iter().find_map(|(known, entry)| match entry {
            StaticEntry::Dir(dir) if known.as_bytes() == name => Some(dir.clone()),
            _ => None,
        })
    }

    fn ino(&self, name: &str) -> u64 {
        hash_ino(0, format!("{}/{name}", self.path).as_bytes())
    }

    pub(crate) fn lookup(&self, fs: &Arc<ProcInfo>, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let (name, entry) = self.entries.iter().find(|(n, _)| n.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let (fs, ino) = (fs.clone(), self.ino(name));
        Ok(match entry {
            StaticEntry::Dir(dir) if dir.path == "sys/net" => {
                Arc::new(NetSysctlDir { fs, ino, path: String::new(), fixed: Some(dir.clone()) })
            }
            StaticEntry::Dir(dir) => Arc::new(DirInode { fs, ino, dir: dir.clone() }),
            StaticEntry::File(file) => {
                // A host without this file has no such setting: neither have we.
                if matches!(file.content, Content::Live | Content::Host)
                    && rustix::fs::stat(format!("/proc/{}", file.path)).is_err()
                {
                    return Err(Errno::ENOENT);
                }
                Arc::new(FileInode { fs, ino, file })
            }
            StaticEntry::Link(target) => {
                Arc::new(LinkInode { fs, ino, text: target.as_bytes().to_vec(), owner: (0, 0) })
            }
        })
    }

    pub(crate) fn readdir(&self) -> Vec<DirEntry> {
        let mode = |entry: &StaticEntry| match entry {
            StaticEntry::Dir(_) => S_IFDIR,
            StaticEntry::File(_) => S_IFREG,
            StaticEntry::Link(_) => S_IFLNK,
        };
        self.entries.iter().map(|(name, entry)| dirent(self.ino(name), mode(entry), *name)).collect()
    }
}

/// A directory of the fixed tree.
struct DirInode {
    fs: Arc<ProcInfo>,
    ino: u64,
    dir: Arc<StaticDir>,
}

impl Inode for DirInode {
    fn getattr(&self) -> Result<Attr> {
        let mut attr = generated_attr(self.fs.dev, self.ino, S_IFDIR | 0o555, (0, 0), self.fs.born);
        attr.nlink +=
            self.dir.entries.iter().filter(|(_, e)| matches!(e, StaticEntry::Dir(_))).count() as u64;
        Ok(attr)
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.dir.lookup(&self.fs, name)
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        Ok(self.dir.readdir())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
}

/// A file of the fixed tree.
struct FileInode {
    fs: Arc<ProcInfo>,
    ino: u64,
    file: &'static StaticFile,
}

impl FileInode {
    fn text(&self) -> Result<Vec<u8>> {
        match self.file.content {
            Content::Live | Content::Host => read_host(&format!("/proc/{}", self.file.path)),
            Content::Fixed(text) => Ok(text.into()),
            Content::Closed => Err(Errno::EPERM),
            Content::Made(make) | Content::Control(make, _) => make(&self.fs, current()),
            Content::Ipc => self.fs.source.ipc_sysctl(current(), self.file.path).ok_or(Errno::ENOENT),
        }
    }
}

impl Inode for FileInode {
    fn getattr(&self) -> Result<Attr> {
        let owner = match self.file.content {
            Content::Ipc => self.fs.source.ipc_root(current()),
            _ if self.file.path.starts_with("sys/net/") => self.fs.source.net_root(current()),
            _ => (0, 0),
        };
        Ok(generated_attr(self.fs.dev, self.ino, S_IFREG | self.file.mode, owner, self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    /// `EACCES` for a kernel setting that cannot be written: `sysctl_perm` does not let CAP_DAC_OVERRIDE pass.
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) {
            if self.file.path.starts_with("sys/")
                && !matches!(self.file.content, Content::Control(..) | Content::Ipc)
            {
                return Err(Errno::EACCES);
            }
            return Ok(Opened::Control(self.text()?));
        }
        if matches!(self.file.content, Content::Live) {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            return rustix::fs::open(format!("/proc/{}", self.file.path), flags, Mode::empty())
                .map(Opened::Host)
                .map_err(host_errno);
        }
        self.text().map(Opened::Text)
    }
    /// `EIO` for a file that takes no writes, as `proc_reg_write` answers.
    fn write_text(&self, text: &[u8], offset: u64) -> Result<()> {
        match self.file.content {
            Content::Control(..) | Content::Ipc if text.is_empty() => Ok(()),
            Content::Control(_, write) => write(&self.fs, current(), text, offset),
            // What goes on where another write has ended is no number of its own.
            Content::Ipc if offset > 0 => Ok(()),
            Content::Ipc => self.fs.source.set_ipc_sysctl(current(), self.file.path, text),
            _ => Err(Errno::EIO),
        }
    }
    /// `open` with O_TRUNC changes nothing; modes and owners are fixed (`EPERM`).
    fn setattr(&self, set: &nomina_kernel::vfs::SetAttr) -> Result<()> {
        super::base::setattr_of_proc(set)
    }
}

/// An ordinary symbolic link, of the fixed tree or `self`.
pub(crate) struct LinkInode {
    pub(crate) fs: Arc<ProcInfo>,
    pub(crate) ino: u64,
    pub(crate) text: Vec<u8>,
    pub(crate) owner: (u32, u32),
}

impl Inode for LinkInode {
    fn getattr(&self) -> Result<Attr> {
        Ok(generated_attr(self.fs.dev, self.ino, S_IFLNK | 0o777, self.owner, self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFLNK
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn get_link(&self) -> Result<Link> {
        Ok(Link::Text(self.text.clone()))
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Err(Errno::ELOOP)
    }
}
