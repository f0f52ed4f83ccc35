//! Namespaces as files: `nsfs`.

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::nsfs::NsRef;
use nomina_kernel::vfs::{Attr, Inode, Opened, Path, S_IFREG, StatFs, SuperBlock};

use super::Server;

/// A namespace as a file: what `/proc/PID/ns/*` leads to (nsfs).
pub struct NsInode {
    /// The namespace, kept alive.
    pub ns: NsRef,
}

impl Inode for NsInode {
    fn getattr(&self) -> Result<Attr> {
        Ok(Attr {
            dev: NSFS_DEV,
            ino: self.ns.common().inum(),
            mode: S_IFREG | 0o444,
            nlink: 1,
            blksize: 4096,
            ..Attr::default()
        })
    }
    fn namespace(&self) -> Option<NsRef> {
        Some(self.ns.clone())
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        // A placeholder stands for it in the guest's hands.
        Ok(Opened::Directory)
    }
}

/// `st_dev` of nsfs: an anonymous device number (major 0).
const NSFS_DEV: u64 = 4;

/// The file system namespaces are files of. It is mounted nowhere.
pub struct NsFs;

struct NsFsRoot;

impl Inode for NsFsRoot {
    fn getattr(&self) -> Result<Attr> {
        Ok(Attr {
            dev: NSFS_DEV,
            ino: 1,
            mode: nomina_kernel::vfs::S_IFDIR | 0o555,
            nlink: 2,
            ..Attr::default()
        })
    }
    fn file_type(&self) -> u32 {
        nomina_kernel::vfs::S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Err(Errno::EACCES)
    }
}

impl SuperBlock for NsFs {
    fn fs_type(&self) -> &'static str {
        "nsfs"
    }
    fn source(&self) -> Vec<u8> {
        b"nsfs".to_vec()
    }
    fn dev(&self) -> u64 {
        NSFS_DEV
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(NsFsRoot)
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: 0x6e73_6673, bsize: 4096, namelen: 255, ..StatFs::default() })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Server {
    /// A place for a namespace's file.
    pub fn ns_path(&self, ns: NsRef) -> Path {
        Path::anonymous(&self.ns_mnt, Arc::new(NsInode { ns }))
    }
}
