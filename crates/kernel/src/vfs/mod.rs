//! The virtual file system switch: inodes, dentries, path walk and the file system state of a task (`fs/` in Linux).
//!
//! - [`inode`](Inode): what a file system implements
//! - [`dcache`]: names in use and cached directories
//! - [`namei`]: path walk and the calls that create, remove and open names
//! - [`permission`]: who may do what
//! - [`posix_acl`]: access control lists
//! - [`attr`], [`xattr`]: calls on an object found
//! - [`d_path`]: from a place back to its name
//! - [`exportfs`]: handles of objects that outlive their names
//! - [`fs_struct`]: root, working directory and umask
//! - [`Watcher`]: directories that answers depend on
//! - [`fs_context`]: file system types and the making of their instances

pub mod attr;
pub mod d_path;
pub mod dcache;
pub mod exportfs;
pub mod fs_context;
pub mod fs_struct;
mod inode;
pub(crate) mod lock;
pub mod namei;
pub mod permission;
pub mod posix_acl;
mod super_block;
#[cfg(test)]
pub(crate) mod testfs;
#[cfg(test)]
mod tests;
mod watch;
pub mod xattr;

use std::sync::Arc;

pub use dcache::Dentry;
pub use fs_struct::FsStruct;
pub use inode::*;
pub use namei::{LookupFlags, WalkContext};
pub use permission::WalkCred;
pub use super_block::{ActiveSuper, SuperFlags, SuperIflags};
pub use watch::{Watcher, watch};

use crate::mount::Mount;

/// Longest path of a system call, with its NUL.
pub const PATH_MAX: usize = 4096;
/// Longest component of a path.
pub const NAME_MAX: usize = 255;

/// A place in the mount tree: `struct path`.
#[derive(Clone)]
pub struct Path {
    /// The mount.
    pub mnt: Arc<Mount>,
    /// The name in it.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// The object at this place.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        self.dentry.inode()
    }

    /// The root of a mount.
    pub fn mount_root(mnt: &Arc<Mount>) -> Path {
        Path { mnt: mnt.clone(), dentry: mnt.root().clone() }
    }

    /// A place for calls on a handle whose name is not known (`fchmod` of an open file, say).
    pub fn anonymous(mnt: &Arc<Mount>, inode: Arc<dyn Inode>) -> Path {
        Path { mnt: mnt.clone(), dentry: Dentry::anonymous(inode) }
    }

    /// Whether this is such a place, of which the mount need not be true.
    pub fn is_anonymous(&self) -> bool {
        self.dentry.parent().is_none() && !Arc::ptr_eq(&self.dentry, self.mnt.sb().root())
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.dentry, &other.dentry) && Arc::ptr_eq(&self.mnt, &other.mnt)
    }
}

impl Eq for Path {}
