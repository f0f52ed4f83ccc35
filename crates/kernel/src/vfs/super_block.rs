//! A super block in use: what Linux keeps in `struct super_block` beside the file system's own operations.
//!
//! [`SuperBlock`] is what a file system implements; [`ActiveSuper`] adds the dentry tree, the `SB_*` flags and the
//! rename lock that the switch keeps for it. All mounts of one file system instance share one `ActiveSuper` (`s_active`
//! is the count of its `Arc`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::dcache::{Dentry, DentryLru};
use super::inode::SuperBlock;
use super::lock::Mutex;

bitflags::bitflags! {
    /// Flags of a file system instance, as `mount(2)` sets them for all mounts of it.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SuperFlags: u32 {
        /// `SB_RDONLY`
        const RDONLY = 1;
        /// `SB_SYNCHRONOUS`
        const SYNCHRONOUS = 1 << 4;
        /// `SB_MANDLOCK`
        const MANDLOCK = 1 << 6;
        /// `SB_DIRSYNC`
        const DIRSYNC = 1 << 7;
        /// `SB_LAZYTIME`
        const LAZYTIME = 1 << 25;
    }
}

/// A file system instance with its dentry tree.
pub struct ActiveSuper {
    ops: Arc<dyn SuperBlock>,
    root: Arc<Dentry>,
    cacheable: bool,
    flags: AtomicU32,
    pub(crate) rename_lock: Mutex<()>,
    pub(crate) lru: DentryLru,
}

impl ActiveSuper {
    /// Takes a file system into use.
    pub fn new(ops: Arc<dyn SuperBlock>, flags: SuperFlags) -> Arc<Self> {
        let root = Dentry::new_root(ops.root());
        Arc::new(ActiveSuper {
            root,
            cacheable: ops.cacheable(),
            ops,
            flags: AtomicU32::new(flags.bits()),
            rename_lock: Mutex::new(()),
            lru: DentryLru::new(DentryLru::DEFAULT_LIMIT),
        })
    }

    /// The file system's own operations.
    pub fn ops(&self) -> &Arc<dyn SuperBlock> {
        &self.ops
    }

    /// `s_root`
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// Whether names looked up once may be trusted.
    pub fn cacheable(&self) -> bool {
        self.cacheable
    }

    /// Current `SB_*` flags.
    pub fn flags(&self) -> SuperFlags {
        SuperFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets the flags (`mount -o remount`).
    pub fn set_flags(&self, flags: SuperFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Forgets directories that only the cache holds, as `echo 2 > /proc/sys/vm/drop_caches` does.
    pub fn shrink_dcache(&self) {
        self.lru.clear();
    }
}
