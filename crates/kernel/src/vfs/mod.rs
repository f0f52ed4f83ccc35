//! The virtual file system switch: inodes, dentries, path walk and the file system state of a task.

mod inode;

use std::sync::Arc;

pub use inode::*;

/// A cached name (placeholder until the dentry cache lands).
pub struct Dentry;

/// A place in the mount tree: `struct path`.
#[derive(Clone)]
pub struct Path {
    /// The mount.
    pub mnt: Arc<crate::mount::Mount>,
    /// The name in it.
    pub dentry: Arc<Dentry>,
}

/// Root, working directory and umask: `struct fs_struct`.
#[derive(Clone)]
pub struct FsStruct {
    /// Root directory.
    pub root: Path,
    /// Working directory.
    pub pwd: Path,
    /// Mode bits that creating calls clear.
    pub umask: u32,
}
