//! Path walk and the calls that work on names (`fs/namei.c`, `path_resolution(7)`, `openat2(2)`).
//!
//! Every call takes a [`WalkContext`]: the caller's root, the directory that relative paths start from (the working
//! directory, or the place a `dirfd` stands for), its credentials and umask. Paths are bytes without a NUL.
//!
//! Errors common to all of them: `ENOENT` (a component is missing, or the path is empty), `ENOTDIR` (a component that
//! must be a directory is none), `EACCES` (no search permission), `ELOOP` (more than 40 symbolic links),
//! `ENAMETOOLONG` (a component above 255 bytes, a path above 4095).

mod create;
mod open;
mod remove;
mod rename;
mod walk;

use std::sync::Arc;

pub use create::{link, link_handle, mkdir, mknod, symlink, with_new_name};
pub use open::{OpenResult, open, vfs_open};
pub use remove::{rmdir, unlink};
pub use rename::{RenameFlags, rename};
use walk::{Nameidata, Target};

use super::dcache::Keep;
use super::{Attr, Inode, Path, WalkCred, watch};
use crate::errno::{Errno, Result};

/// Where a walk starts and who walks.
#[derive(Clone, Copy)]
pub struct WalkContext<'a> {
    /// Root directory of the caller.
    pub root: &'a Path,
    /// Start of relative paths: the working directory or a `dirfd`. May be no directory (then `ENOTDIR`, or with an
    /// empty path and [`LookupFlags::EMPTY`] the object itself).
    pub pwd: &'a Path,
    /// Credentials.
    pub cred: &'a WalkCred<'a>,
    /// Umask, for calls that create.
    pub umask: u32,
}

bitflags::bitflags! {
    /// How a path is walked: the last component's treatment and `openat2(2)`'s `RESOLVE_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct LookupFlags: u32 {
        /// Refuse to cross mounts: `RESOLVE_NO_XDEV`, `EXDEV`.
        const NO_XDEV = 0x01;
        /// Refuse magic links of proc: `RESOLVE_NO_MAGICLINKS`, `ELOOP`.
        const NO_MAGICLINKS = 0x02;
        /// Refuse all symbolic links: `RESOLVE_NO_SYMLINKS`, `ELOOP`.
        const NO_SYMLINKS = 0x04;
        /// Refuse to leave the start directory: `RESOLVE_BENEATH`, `EXDEV`.
        const BENEATH = 0x08;
        /// Take the start directory for the root: `RESOLVE_IN_ROOT`.
        const IN_ROOT = 0x10;
        /// Refuse to ask a file system: `RESOLVE_CACHED`, `EAGAIN`.
        const CACHED = 0x20;
        /// Follow a symbolic link that is the last component.
        const FOLLOW = 0x100;
        /// The result must be a directory, `ENOTDIR`.
        const DIRECTORY = 0x200;
        /// An empty path is the start itself: `AT_EMPTY_PATH`.
        const EMPTY = 0x400;
        /// What is mounted on the result is the result, and walking there does not count as use: `LOOKUP_MOUNTPOINT`, for
        /// `umount2(2)`.
        const MOUNTPOINT = 0x800;
        /// Refuse names that others than this sandbox may change ([`super::SuperBlock::cacheable`]), `EAGAIN`, and watch the
        /// directories ([`super::watch`]).
        const OWN = 0x1000;
    }
}

impl LookupFlags {
    /// The flags of a `RESOLVE_*` mask. `EINVAL`: an unknown bit, or both `RESOLVE_BENEATH` and `RESOLVE_IN_ROOT`.
    pub fn from_resolve(resolve: u64) -> Result<LookupFlags> {
        let flags = match u32::try_from(resolve) {
            Ok(bits) if bits & !0x3f == 0 => LookupFlags::from_bits_retain(bits),
            _ => return Err(Errno::EINVAL),
        };
        if flags.contains(LookupFlags::BENEATH | LookupFlags::IN_ROOT) {
            return Err(Errno::EINVAL);
        }
        Ok(flags)
    }

    fn scoped(self) -> bool {
        self.intersects(LookupFlags::BENEATH | LookupFlags::IN_ROOT)
    }
}

/// Finds the place a path names: `user_path_at`.
pub fn path_lookup(ctx: &WalkContext<'_>, name: &[u8], flags: LookupFlags) -> Result<Path> {
    let mut nd = Nameidata::new(ctx, name, flags)?;
    match nd.lookup_to_end(Keep::All)? {
        Target::Place => Ok(nd.path),
        Target::Leaf(inode) => Ok(Path::anonymous(&nd.path.mnt, inode)),
    }
}

/// Attributes of what a path names (`stat(2)` with `FOLLOW`, `lstat(2)` without), at the cost of one lookup.
pub fn stat(ctx: &WalkContext<'_>, name: &[u8], flags: LookupFlags) -> Result<Attr> {
    with_inode(ctx, name, flags, |_, inode| inode.getattr())
}

/// `readlink(2)`. `EINVAL`: not a symbolic link; `ENOENT` for an empty path that stands for no link.
pub fn readlink(ctx: &WalkContext<'_>, name: &[u8], flags: LookupFlags) -> Result<Vec<u8>> {
    with_inode(ctx, name, flags - LookupFlags::FOLLOW, |_, inode| {
        if inode.file_type() != super::S_IFLNK {
            return Err(if name.is_empty() { Errno::ENOENT } else { Errno::EINVAL });
        }
        inode.readlink()
    })
}

/// Calls `f` with the mount and inode a path names, without making a dentry for the last component.
pub fn with_inode<T>(
    ctx: &WalkContext<'_>,
    name: &[u8],
    flags: LookupFlags,
    f: impl FnOnce(&crate::mount::Mount, &Arc<dyn Inode>) -> Result<T>,
) -> Result<T> {
    let mut nd = Nameidata::new(ctx, name, flags)?;
    match nd.lookup_to_end(Keep::Dirs)? {
        Target::Place => {
            if flags.contains(LookupFlags::OWN) && nd.path.dentry.is_dir() {
                watch::watch(&nd.path, true)?;
            }
            f(&nd.path.mnt, nd.path.inode())
        }
        Target::Leaf(inode) => f(&nd.path.mnt, &inode),
    }
}
