//! File systems that are one directory of texts made at open time: what `simple_fill_super` makes in Linux.

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, Opened, S_IFDIR, S_IFREG, SetAttr, StatFs, SuperBlock, Timespec,
};
use nomina_kernel::{Errno, Result};

use crate::proc::generic::{dirent, generated_attr, now, wants_write};

/// Makes the text of a file.
pub(crate) type Text = Box<dyn Fn() -> Vec<u8> + Send + Sync>;

/// A file: name, permission bits, text.
pub(crate) struct Entry {
    pub name: &'static str,
    pub mode: u32,
    pub text: Text,
}

struct Info {
    fs_type: &'static str,
    magic: u64,
    dev: u64,
    /// Permission bits of the directory.
    mode: u32,
    born: Timespec,
    entries: Vec<Entry>,
}

/// Such a file system.
pub struct FlatFs {
    info: Arc<Info>,
}

impl FlatFs {
    pub(crate) fn new(
        fs_type: &'static str,
        magic: u64,
        dev: u64,
        mode: u32,
        entries: Vec<Entry>,
    ) -> Arc<FlatFs> {
        Arc::new(FlatFs { info: Arc::new(Info { fs_type, magic, dev, mode, born: now(), entries }) })
    }
}

impl SuperBlock for FlatFs {
    fn fs_type(&self) -> &'static str {
        self.info.fs_type
    }
    fn source(&self) -> Vec<u8> {
        self.info.fs_type.into()
    }
    fn dev(&self) -> u64 {
        self.info.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(Root { fs: self.info.clone() })
    }
    fn statfs(&self) -> Result<StatFs> {
        let fsid = self.info.dev;
        Ok(StatFs { magic: self.info.magic, bsize: 4096, namelen: 255, fsid, ..StatFs::default() })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The directory.
struct Root {
    fs: Arc<Info>,
}

/// Inode number of the first file.
const FIRST: u64 = 2;

impl Inode for Root {
    fn getattr(&self) -> Result<Attr> {
        Ok(generated_attr(self.fs.dev, 1, S_IFDIR | self.fs.mode, (0, 0), self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let at = self.fs.entries.iter().position(|entry| entry.name.as_bytes() == name);
        Ok(Arc::new(File { fs: self.fs.clone(), at: at.ok_or(Errno::ENOENT)? }))
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        Ok((FIRST..).zip(&self.fs.entries).map(|(ino, entry)| dirent(ino, S_IFREG, entry.name)).collect())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
}

/// A file.
struct File {
    fs: Arc<Info>,
    at: usize,
}

impl File {
    fn entry(&self) -> &Entry {
        &self.fs.entries[self.at]
    }
}

impl Inode for File {
    fn getattr(&self) -> Result<Attr> {
        let mode = S_IFREG | self.entry().mode;
        Ok(generated_attr(self.fs.dev, FIRST + self.at as u64, mode, (0, 0), self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EROFS) } else { Ok(Opened::Text((self.entry().text)())) }
    }
    fn setattr(&self, _set: &SetAttr) -> Result<()> {
        Err(Errno::EROFS)
    }
}
