//! proc: the process tree and the kernel's settings as files (`proc(5)`).
//!
//! In Linux a proc instance belongs to the pid namespace of the task that mounted it and shows the tasks of that
//! namespace only. So does ours: a [`ProcFs`] is made over a [`ProcSource`], the view one pid namespace has of the
//! process model. Names (numbers of tasks, users, groups, paths, namespaces) come from there; numbers that are not names
//! (memory, times, counters) are taken from the host's own proc file of the same process when a file is opened, and the
//! names in it are rewritten.
//!
//! Where ours differs: text is made once, at open, not at every read; a program that keeps a per-process file open and
//! reads it again from the start sees the old text. Files of the whole system that hold no names (`stat`, `meminfo`,
//! `uptime` …) do not have that limit: the host's own file is handed out, read-only. `mem`, `pagemap`, `map_files`,
//! `syscall` and `stack` do not exist, and kernel settings other than the host and domain name cannot be written.
//!
//! Each file here has the name of the file in Linux's `fs/proc/` that does the same.

mod array;
mod base;
mod fd;
pub(crate) mod generic;
mod inode;
mod namespaces;
mod net_sysctl;
mod options;
mod proc_net;
mod root;
mod source;
mod sysctl;
mod task_mmu;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::sync::{Arc, PoisonError, RwLock};

use nomina_kernel::vfs::{Inode, StatFs, SuperBlock, Timespec};
use nomina_kernel::{Errno, Result};

pub use base::task_of_dir;
pub use options::{GivenOptions, HidePid, ProcOptions};
pub use source::*;

/// `PROC_SUPER_MAGIC`.
const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// State all inodes of one instance share.
pub(crate) struct ProcInfo {
    source: Arc<dyn ProcSource>,
    dev: u64,
    /// Time all inodes show: when the instance was made.
    born: Timespec,
    tree: Arc<inode::StaticDir>,
    options: RwLock<ProcOptions>,
}

impl ProcInfo {
    pub(crate) fn options(&self) -> ProcOptions {
        *self.options.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// `has_pid_permissions`: whether the viewer may know of a task what is hidden from `least` on.
    pub(crate) fn may_see(&self, task: TaskKey, least: HidePid) -> bool {
        let options = self.options();
        let hides = match options.hide_pid {
            HidePid::Off => false,
            HidePid::NoAccess => least == HidePid::NoAccess,
            HidePid::Invisible | HidePid::Ptraceable => true,
        };
        let viewer = current();
        let in_group =
            || options.hide_pid != HidePid::Ptraceable && self.source.in_group(viewer, options.gid);
        !hides || in_group() || self.source.may_access(viewer, task)
    }

    /// `proc_pid_permission`: whether the viewer may look into a task's directory. `ENOENT` where it must not even know that
    /// there is one, else `EPERM`.
    pub(crate) fn pid_permission(&self, task: TaskKey) -> Result<()> {
        match self.options().hide_pid {
            _ if self.may_see(task, HidePid::NoAccess) => Ok(()),
            HidePid::Invisible => Err(Errno::ENOENT),
            _ => Err(Errno::EPERM),
        }
    }
}

/// A proc instance for one pid namespace.
pub struct ProcFs {
    info: Arc<ProcInfo>,
}

impl ProcFs {
    /// Makes an instance with `dev` as its `st_dev`.
    pub fn new(dev: u64, source: Arc<dyn ProcSource>) -> Arc<ProcFs> {
        let tree = root::static_tree();
        let info = ProcInfo { source, dev, born: generic::now(), tree, options: RwLock::default() };
        Arc::new(ProcFs { info: Arc::new(info) })
    }

    /// Puts mount options into force.
    pub fn reconfigure(&self, given: &GivenOptions) {
        self.info.options.write().unwrap_or_else(PoisonError::into_inner).apply(given);
    }
}

impl SuperBlock for ProcFs {
    fn fs_type(&self) -> &'static str {
        "proc"
    }
    fn source(&self) -> Vec<u8> {
        b"proc".to_vec()
    }
    fn show_options(&self) -> String {
        self.info.options().show()
    }
    fn dev(&self) -> u64 {
        self.info.dev
    }
    fn has_fixed_names(&self) -> bool {
        true
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(root::RootDir { fs: self.info.clone() })
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs {
            magic: PROC_SUPER_MAGIC,
            bsize: 4096,
            namelen: 255,
            fsid: self.info.dev,
            ..StatFs::default()
        })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
