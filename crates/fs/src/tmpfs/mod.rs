//! A private file system that starts empty: what `mount -t tmpfs` gives.
//!
//! In Linux its files live in the page cache. Here they are files of a private host directory, so that guests' handles
//! are native ones: an overlay without a lower directory. Its size is bounded by the host's file system only.

use std::path::PathBuf;
use std::sync::Arc;

use nomina_kernel::Result;

use crate::overlay::{OverlayOptions, OverlaySb};
use crate::override_stat::IdMap;

/// Makes one whose files are kept in `dir`, an empty directory of ours, with `work` beside it on the same file system.
/// The root has the owner `map` gives and the mode of `dir`.
///
/// # Errors
/// What the host answers for a directory that is missing or closed to us.
pub fn new(dir: PathBuf, work: PathBuf, map: IdMap) -> Result<Arc<OverlaySb>> {
    OverlaySb::new(&OverlayOptions { fs_type: "tmpfs", ..OverlayOptions::new(None, dir, work, map) })
}
