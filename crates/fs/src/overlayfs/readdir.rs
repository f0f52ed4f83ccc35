//! Directories whose entries come from several layers: `fs/overlayfs/readdir.c`.

use std::collections::HashSet;

use nomina_kernel::vfs::DirEntry;
use nomina_kernel::{Errno, Result};

use super::inode::OvlInode;
use super::layers::RealDir;
use crate::at::dtype;

impl OvlInode {
    /// The layers' directories, the uppermost first.
    fn real_dirs(&self) -> Vec<RealDir> {
        self.upper_dir().into_iter().chain(self.lower.iter().cloned()).collect()
    }

    /// Whether an entry of a layer's directory is a whiteout. Only such types are looked at as can be one.
    fn hides(&self, dir: &RealDir, entry: &DirEntry) -> Result<bool> {
        let may = match entry.kind {
            libc::DT_CHR | libc::DT_UNKNOWN => true,
            libc::DT_REG => dir.xwhiteouts,
            _ => false,
        };
        if !may {
            return Ok(false);
        }
        match self.fs.mounter.lookup(&dir.path, &entry.name)? {
            Some(path) => self.fs.marks.is_whiteout(&path, &self.fs.mounter),
            None => Ok(false),
        }
    }

    /// All entries, without those that whiteouts delete. The tree is locked.
    pub(crate) fn entries(&self) -> Result<Vec<DirEntry>> {
        if self.is_gone() {
            return Ok(Vec::new());
        }
        let mut out = Vec::new();
        let mut seen = HashSet::new();
        let dirs = self.real_dirs();
        for (index, dir) in dirs.iter().enumerate() {
            let last = index + 1 == dirs.len();
            for mut entry in dir.path.inode().readdir()? {
                if seen.contains(&entry.name) {
                    continue;
                }
                let hides = self.hides(dir, &entry)?;
                if !last {
                    seen.insert(entry.name.clone());
                }
                if hides {
                    continue;
                }
                if matches!(entry.kind, libc::DT_DIR | libc::DT_UNKNOWN) {
                    // Directories have numbers of their own.
                    match self.find(&entry.name) {
                        Ok(child) => {
                            entry.kind = dtype(child.kind);
                            entry.ino = nomina_kernel::vfs::Inode::getattr(&*child)?.ino;
                        }
                        // Linux lists what it cannot look up.
                        Err(Errno::ENOENT | Errno::EACCES | Errno::EIO) => {}
                        Err(error) => return Err(error),
                    }
                }
                out.push(entry);
            }
        }
        Ok(out)
    }

    /// Whether there is no entry, and which whiteouts the upper directory has: `ovl_check_empty_dir`. The tree is locked.
    ///
    /// # Errors
    /// `ENOTEMPTY`.
    pub(crate) fn check_empty(&self) -> Result<Vec<Vec<u8>>> {
        let mut hidden: HashSet<Vec<u8>> = HashSet::new();
        let mut whiteouts = Vec::new();
        for (index, dir) in self.real_dirs().iter().enumerate() {
            for entry in dir.path.inode().readdir()? {
                if hidden.contains(&entry.name) {
                    continue;
                }
                if !self.hides(dir, &entry)? {
                    return Err(Errno::ENOTEMPTY);
                }
                if index == 0 && self.upper_dir().is_some() {
                    whiteouts.push(entry.name.clone());
                }
                hidden.insert(entry.name);
            }
        }
        Ok(whiteouts)
    }
}
