//! A super block in use: what Linux keeps in `struct super_block` beside the file system's own operations.
//!
//! [`SuperBlock`] is what a file system implements; [`ActiveSuper`] adds the dentry tree, the `SB_*` flags and the
//! rename lock that the switch keeps for it. All mounts of one file system instance share one `ActiveSuper` (`s_active`
//! is the count of its `Arc`).

use std::any::Any;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::dcache::{Dentry, DentryLru, Found, Keep};
use super::exportfs::Handles;
use super::inode::SuperBlock;
use super::lock::Mutex;
use super::watch::Watcher;
use crate::errno::{Errno, Result};
use crate::mount::Mount;
use crate::user_namespace::UserNamespace;

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

bitflags::bitflags! {
    /// Properties of an instance that nobody changes later: `s_iflags`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SuperIflags: u32 {
        /// `SB_I_NOEXEC`: nothing on it can be executed, however it is mounted.
        const NOEXEC = 2;
        /// `SB_I_NODEV`: device nodes on it cannot be opened, however it is mounted.
        const NODEV = 4;
        /// `SB_I_USERNS_VISIBLE`: may be mounted in a user namespace only where it is visible already.
        const USERNS_VISIBLE = 0x10;
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
    /// File handles given out.
    pub(crate) handles: Mutex<Handles>,
    iflags: AtomicU32,
    user_ns: OnceLock<Arc<UserNamespace>>,
    /// Mounts of it, some of which may be gone (`s_mounts`), and how many there may be before those are sought.
    mounts: Mutex<Vec<Weak<Mount>>>,
    mounts_limit: AtomicUsize,
    /// Who keeps answers about it, and whether each of its changes is one of other file systems as well.
    watcher: OnceLock<(Weak<dyn Watcher>, bool)>,
    /// What lives as long as the instance.
    kept: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl ActiveSuper {
    /// Takes a file system into use.
    pub fn new(ops: Arc<dyn SuperBlock>, flags: SuperFlags) -> Arc<Self> {
        let root = Dentry::new_root(ops.root());
        let flags = if ops.is_write_protected() { flags | SuperFlags::RDONLY } else { flags };
        Arc::new(ActiveSuper {
            root,
            cacheable: ops.cacheable(),
            ops,
            flags: AtomicU32::new(flags.bits()),
            rename_lock: Mutex::new(()),
            lru: DentryLru::new(DentryLru::DEFAULT_LIMIT),
            handles: Mutex::default(),
            iflags: AtomicU32::new(0),
            user_ns: OnceLock::new(),
            mounts: Mutex::default(),
            mounts_limit: AtomicUsize::new(16),
            watcher: OnceLock::new(),
            kept: OnceLock::new(),
        })
    }

    /// The user namespace that owns the instance (`s_user_ns`); `None`: the initial one.
    pub fn user_ns(&self) -> Option<&Arc<UserNamespace>> {
        self.user_ns.get()
    }

    /// Records the owner, once. In another user namespace than the initial one device nodes cannot be opened
    /// (`SB_I_NODEV`, `alloc_super`).
    pub fn set_user_ns(&self, user_ns: &Arc<UserNamespace>) {
        if user_ns.parent().is_some() {
            self.add_iflags(SuperIflags::NODEV);
        }
        // The owner of an instance never changes; a second call has nothing to say.
        let _ = self.user_ns.set(user_ns.clone());
    }

    /// `s_iflags`
    pub fn iflags(&self) -> SuperIflags {
        SuperIflags::from_bits_retain(self.iflags.load(Ordering::Relaxed))
    }

    /// Sets some of `s_iflags`.
    pub fn add_iflags(&self, flags: SuperIflags) {
        self.iflags.fetch_or(flags.bits(), Ordering::Relaxed);
    }

    /// Has changes told to who keeps answers, once. `changes_others`: it stores what it has on other file systems that guests see.
    pub fn set_watcher(&self, watcher: Weak<dyn Watcher>, changes_others: bool) {
        let _ = self.watcher.set((watcher, changes_others));
    }

    pub(crate) fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        self.watcher.get().and_then(|(watcher, _)| watcher.upgrade())
    }

    pub(crate) fn changes_others(&self) -> bool {
        self.watcher.get().is_some_and(|(_, others)| *others)
    }

    /// Keeps something as long as the instance lives. Once.
    pub fn keep(&self, what: impl Any + Send + Sync) {
        let _ = self.kept.set(Box::new(what));
    }

    /// Notes a mount of this instance.
    pub(crate) fn add_mount(&self, mount: &Arc<Mount>) {
        let mut mounts = self.mounts.lock();
        if mounts.len() >= self.mounts_limit.load(Ordering::Relaxed) {
            mounts.retain(|mount| mount.strong_count() > 0);
            self.mounts_limit.store(mounts.len() * 2 + 16, Ordering::Relaxed);
        }
        mounts.push(Arc::downgrade(mount));
    }

    /// Whether `mount` is the oldest of this instance.
    pub fn is_first_mount(&self, mount: &Arc<Mount>) -> bool {
        let mounts = self.mounts.lock();
        mounts
            .iter()
            .find(|known| known.strong_count() > 0)
            .is_some_and(|known| known.as_ptr() == Arc::as_ptr(mount))
    }

    /// Mounts of this instance, oldest first, those that are in no namespace included.
    pub fn mounts(&self) -> Vec<Arc<Mount>> {
        self.mounts.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The file system's own operations.
    pub fn ops(&self) -> &Arc<dyn SuperBlock> {
        &self.ops
    }

    /// `s_root`
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// The directory at `path` from the root on, whoever may search on the way. `ENOENT`.
    pub fn dentry_at(&self, path: &[u8]) -> Result<Arc<Dentry>> {
        let mut at = self.root.clone();
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            at = match at.lookup(name, self, Keep::All)? {
                Found::Dentry(dentry) => dentry,
                Found::Inode(_) => return Err(Errno::ENOENT),
            };
        }
        Ok(at)
    }

    /// Whether names looked up once may be trusted.
    pub fn cacheable(&self) -> bool {
        self.cacheable
    }

    /// Current `SB_*` flags.
    pub fn flags(&self) -> SuperFlags {
        SuperFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets those of the flags that are in `mask` (`mount -o remount`).
    ///
    /// # Errors
    /// `EACCES`: to be writable, which it can never be.
    pub fn change_flags(&self, mask: SuperFlags, flags: SuperFlags) -> Result<()> {
        let new = (self.flags() - mask) | (flags & mask);
        if self.ops.is_write_protected() && !new.contains(SuperFlags::RDONLY) {
            return Err(Errno::EACCES);
        }
        self.flags.store(new.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Forgets directories that only the cache holds, as `echo 2 > /proc/sys/vm/drop_caches` does.
    pub fn shrink_dcache(&self) {
        self.lru.clear();
    }
}
