//! The file system at the very bottom of a mount namespace: `rootfs` (`init_mount_tree`).
//!
//! An empty directory that nobody can change. The root that programs see is mounted on top of it, so that it has a parent
//! as every other mount, can be moved, locked, pivoted and unmounted, and `mountinfo` does not show what is below.

use std::any::Any;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::vfs::{Attr, DirEntry, Inode, Opened, S_IFDIR, StatFs, SuperBlock};

/// Magic number of ramfs, which rootfs is.
const RAMFS_MAGIC: u64 = 0x8584_58f6;
/// An unnamed device (major number 0) that no other file system here has.
const DEV: u64 = 1;

pub(super) struct RootFs;

impl SuperBlock for RootFs {
    fn fs_type(&self) -> &'static str {
        "rootfs"
    }
    fn source(&self) -> Vec<u8> {
        b"rootfs".to_vec()
    }
    fn dev(&self) -> u64 {
        DEV
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(RootDir)
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs { magic: RAMFS_MAGIC, bsize: 4096, namelen: 255, ..StatFs::default() })
    }
    fn cacheable(&self) -> bool {
        true
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct RootDir;

impl Inode for RootDir {
    fn getattr(&self) -> Result<Attr> {
        Ok(Attr { dev: DEV, ino: 1, mode: S_IFDIR | 0o755, nlink: 2, blksize: 4096, ..Attr::default() })
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::ENOENT)
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        Ok(Vec::new())
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Ok(Opened::Directory)
    }
}
