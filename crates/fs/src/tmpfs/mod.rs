//! tmpfs and ramfs: private file systems that start empty (`tmpfs(5)`).
//!
//! In Linux their files live in the page cache. Here they are files of a private host directory, so that guests' handles
//! are native ones: an overlay without a lower directory, with an account of what it holds ([`Space`]).
//!
//! Where ours differs from Linux: the limit on blocks is enforced where it was asked for (`size=`, `nr_blocks=`); the half of
//! the memory that is the default is only shown by `statfs(2)`. See [`Space`] for what enforcing means. `huge=`, `mpol=`,
//! `noswap` and `inode32` are accepted, as they promise nothing that could be seen. What is in these file systems takes
//! disk space, not memory, when the layer's directory is on a disk.

mod options;
mod space;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use nomina_kernel::Result;
use nomina_kernel::vfs::{Inode, SetAttr};

pub use options::{TmpfsOptions, default_blocks, memparse};
pub use space::{PAGE, Space};

use crate::overlay::{OverlayOptions, OverlaySb};
use crate::override_stat::IdMap;

/// Makes a tmpfs with the default options.
///
/// # Errors
/// As [`mount`].
pub fn new(dir: PathBuf, work: PathBuf, map: IdMap) -> Result<Arc<OverlaySb>> {
    mount("tmpfs", dir, work, map, &TmpfsOptions::default())
}

/// Makes a `tmpfs` or `ramfs` whose files are kept in `dir`, an empty directory of ours, with `work` beside it on the same file
/// system.
///
/// # Errors
/// What the host answers for a directory that is missing or closed to us.
pub fn mount(
    fs_type: &'static str,
    dir: PathBuf,
    work: PathBuf,
    map: IdMap,
    options: &TmpfsOptions,
) -> Result<Arc<OverlaySb>> {
    let space = Arc::new(if fs_type == "ramfs" { Space::unlimited(options) } else { Space::new(options) });
    let sb = OverlaySb::new(&OverlayOptions {
        fs_type,
        space: Some(space),
        ..OverlayOptions::new(None, dir, work, map)
    })?;
    let (mode, uid, gid) = (Some(options.mode), Some(options.uid), Some(options.gid));
    sb.root_node().setattr(&SetAttr { mode, uid, gid, ..SetAttr::default() })?;
    Ok(sb)
}
