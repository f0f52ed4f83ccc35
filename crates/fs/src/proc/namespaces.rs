//! `/proc/PID/ns`: one magic link per namespace (`namespaces(7)`), leading to a file of nsfs.

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::vfs::{Attr, DirEntry, Inode, Opened, S_IFDIR, S_IFLNK};
use nomina_kernel::{Errno, Result};

use super::ProcInfo;
use super::base::{MagicInode, task_attr};
use super::generic::{dirent, hash_ino, wants_write};
use super::source::{MagicLink, NsLink, TaskKey};

/// The directory.
pub(crate) struct NsDir {
    pub(crate) fs: Arc<ProcInfo>,
    pub(crate) task: TaskKey,
    pub(crate) ino: u64,
}

impl Inode for NsDir {
    fn getattr(&self) -> Result<Attr> {
        task_attr(&self.fs, self.task, self.ino, S_IFDIR | 0o511)
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.fs.source.owner(self.task).ok_or(Errno::ENOENT)?;
        let ns = NsLink::ALL.into_iter().find(|ns| ns.name().as_bytes() == name).ok_or(Errno::ENOENT)?;
        let (fs, task, ino) = (self.fs.clone(), self.task, hash_ino(self.ino, name));
        Ok(Arc::new(MagicInode { fs, task, ino, link: MagicLink::Ns(ns) }))
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        self.fs.source.owner(self.task).ok_or(Errno::ENOENT)?;
        let entry = |ns: NsLink| dirent(hash_ino(self.ino, ns.name().as_bytes()), S_IFLNK, ns.name());
        Ok(NsLink::ALL.into_iter().map(entry).collect())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
}
