//! The file system instances of a sandbox whose files guests hold as host handles, and private directories to keep them in.
//!
//! Linux goes from a descriptor to its inode and from there to its super block. Here a guest's descriptor is the host's, and
//! the instances are asked one after the other whether its file is theirs.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as HostPath, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use nomina_fs::overlay::OverlaySb;
use nomina_fs::overlayfs::OvlSuper;
use nomina_kernel::mount::Mount;
use nomina_kernel::vfs::{ActiveSuper, Watcher};

use super::lock::RwLock;

/// All instances that are in use, the latest first: what was mounted later may show a part of what was there before.
#[derive(Default)]
pub struct Instances {
    list: RwLock<Vec<Weak<ActiveSuper>>>,
    watcher: OnceLock<Weak<dyn Watcher>>,
}

impl Instances {
    /// Has changes of all of them told, of those to come as well.
    pub fn set_watcher(&self, watcher: Weak<dyn Watcher>) {
        let watcher = self.watcher.get_or_init(|| watcher);
        for sb in self.all() {
            set_watcher(&sb, watcher);
        }
    }

    /// Adds one.
    pub fn add(&self, sb: &Arc<ActiveSuper>) {
        if let Some(watcher) = self.watcher.get() {
            set_watcher(sb, watcher);
        }
        let mut list = self.list.write().unwrap();
        list.retain(|known| known.strong_count() > 0);
        list.insert(0, Arc::downgrade(sb));
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<ActiveSuper>> {
        self.list.read().unwrap().iter().filter_map(Weak::upgrade).collect()
    }

    /// Calls `with` for the overlays, until it answers.
    pub fn find_overlay<T>(
        &self,
        mut with: impl FnMut(&Arc<ActiveSuper>, &OverlaySb) -> Option<T>,
    ) -> Option<T> {
        // No lock is held while a file system is asked.
        self.all().iter().find_map(|sb| with(sb, sb.ops().as_any().downcast_ref::<OverlaySb>()?))
    }
}

/// Has changes of an instance told. An overlay that a guest has mounted keeps its files where guests can see them as well.
pub fn set_watcher(sb: &ActiveSuper, watcher: &Weak<dyn Watcher>) {
    sb.set_watcher(watcher.clone(), sb.ops().as_any().is::<OvlSuper>());
}

/// The mount that stands for an instance where it is not known by which one a file was opened: the oldest.
pub fn first_mount(sb: &ActiveSuper) -> Option<Arc<Mount>> {
    sb.mounts().into_iter().next()
}

/// Where instances that live in memory in Linux keep their files: directories of the layer, none of which outlives its
/// instance.
pub struct PrivateDirs {
    base: PathBuf,
    serial: AtomicU64,
}

/// The directories of one instance; removed when it is dropped.
pub struct PrivateDir {
    base: PathBuf,
}

impl PrivateDirs {
    /// Directories below `base`.
    pub fn new(base: &HostPath) -> PrivateDirs {
        PrivateDirs { base: base.to_path_buf(), serial: AtomicU64::new(1) }
    }

    /// Makes the directories of a new instance. `name` tells people what they are.
    ///
    /// # Errors
    /// Those of `mkdir(2)`.
    pub fn create(&self, name: &str) -> io::Result<PrivateDir> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let base = self.base.join(format!("{name}{serial}"));
        // A kept layer may hold what a sandbox that was killed has left.
        let _ = fs::remove_dir_all(&base);
        let made = PrivateDir { base };
        for dir in [made.upper(), made.work()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(made)
    }
}

impl PrivateDir {
    /// Where the files are.
    pub fn upper(&self) -> PathBuf {
        self.base.join("upper")
    }

    /// Where files are made.
    pub fn work(&self) -> PathBuf {
        self.base.join("work")
    }
}

impl Drop for PrivateDir {
    /// Removed aside: whoever unmounts does not wait for it, and nothing waits in the supervisor.
    fn drop(&mut self) {
        let base = std::mem::take(&mut self.base);
        let removed = std::thread::Builder::new()
            .name("nomina-remove".into())
            .spawn(move || crate::sandbox::scratch::remove_tree(&base));
        // Without a thread it is left to the end of the sandbox, which removes the layer.
        drop(removed);
    }
}
