//! `/proc/sys/net`: settings of the viewer's network namespace, which come and go with its devices. Beside them stand the fixed
//! ones of this directory in the table of `sysctl.rs`.

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::vfs::{Attr, DirEntry, Inode, Opened, S_IFDIR, S_IFREG};
use nomina_kernel::{Errno, Result};

use super::ProcInfo;
use super::generic::{dirent, generated_attr, hash_ino, wants_write};
use super::inode::StaticDir;
use super::source::current;

/// A directory.
pub(crate) struct NetSysctlDir {
    pub(crate) fs: Arc<ProcInfo>,
    pub(crate) ino: u64,
    /// Below `sys/net`; empty for that itself.
    pub(crate) path: String,
    /// The fixed directory of the same path, if there is one.
    pub(crate) fixed: Option<Arc<StaticDir>>,
}

impl NetSysctlDir {
    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}/{name}", self.path) }
    }

    fn ino_of(&self, name: &str) -> u64 {
        hash_ino(0, format!("sys/net/{}", self.below(name)).as_bytes())
    }
}

impl Inode for NetSysctlDir {
    fn getattr(&self) -> Result<Attr> {
        Ok(generated_attr(self.fs.dev, self.ino, S_IFDIR | 0o555, (0, 0), self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let names = self.fs.source.net_sysctl_names(current(), &self.path);
        let found = names.into_iter().find(|(known, _)| known.as_bytes() == name);
        let fixed = self.fixed.as_ref().and_then(|fixed| fixed.dir(name));
        match (found, fixed) {
            (Some((name, false)), _) => {
                let (ino, path) = (self.ino_of(&name), self.below(&name));
                Ok(Arc::new(NetSysctlFile { fs: self.fs.clone(), ino, path }))
            }
            (Some((name, true)), fixed) => {
                let (ino, path) = (self.ino_of(&name), self.below(&name));
                Ok(Arc::new(NetSysctlDir { fs: self.fs.clone(), ino, path, fixed }))
            }
            (None, _) => self.fixed.as_ref().ok_or(Errno::ENOENT)?.lookup(&self.fs, name),
        }
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        let names = self.fs.source.net_sysctl_names(current(), &self.path);
        let mut entries: Vec<DirEntry> = names
            .into_iter()
            .map(|(name, is_dir)| dirent(self.ino_of(&name), if is_dir { S_IFDIR } else { S_IFREG }, name))
            .collect();
        for entry in self.fixed.as_ref().map(|fixed| fixed.readdir()).unwrap_or_default() {
            if !entries.iter().any(|known| known.name == entry.name) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
}

/// A setting.
struct NetSysctlFile {
    fs: Arc<ProcInfo>,
    ino: u64,
    path: String,
}

impl Inode for NetSysctlFile {
    fn getattr(&self) -> Result<Attr> {
        Ok(generated_attr(self.fs.dev, self.ino, S_IFREG | 0o644, (0, 0), self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        let text = self.fs.source.net_sysctl_text(current(), &self.path)?;
        Ok(if wants_write(flags) { Opened::Control(text) } else { Opened::Text(text) })
    }
    fn write_text(&self, text: &[u8], offset: u64) -> Result<()> {
        // What goes on where another write has ended is no number of its own (`proc_first_pos_non_zero_ignore`).
        if text.is_empty() || offset > 0 {
            return Ok(());
        }
        self.fs.source.set_net_sysctl_text(current(), &self.path, text)
    }
    fn setattr(&self, set: &nomina_kernel::vfs::SetAttr) -> Result<()> {
        super::base::setattr_of_proc(set)
    }
}
