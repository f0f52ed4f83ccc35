//! Trees of mounts outside of every namespace that tasks can be in: what `open_tree(2)` with `OPEN_TREE_CLONE` and
//! `fsmount(2)` give, and `move_mount(2)` puts in place.

use std::sync::Arc;

use super::namespace::NsMounts;
use super::tree::do_loopback;
use super::umount::{UmountTree, umount_tree};
use super::{MntNamespace, Mount};
use crate::errno::Result;
use crate::vfs::Path;

/// A detached tree, in an anonymous namespace of its own. It belongs to an open file (`FMODE_NEED_UNMOUNT`): with the last
/// descriptor the tree is unmounted, unless it has been moved to a place by then.
pub struct DetachedMount {
    mount: Arc<Mount>,
}

impl DetachedMount {
    /// `fsmount(2)`: a new mount, in no namespace yet.
    pub fn new(ns: &MntNamespace, mount: Arc<Mount>) -> DetachedMount {
        let _lock = ns.table().namespace_lock();
        NsMounts::new_anon(ns, None).adopt_tree(&mount);
        DetachedMount { mount }
    }

    /// `open_tree(2)` with `OPEN_TREE_CLONE`: a copy of the mount at `path` from there downwards, with `recurse`
    /// (`AT_RECURSIVE`) of all mounts below as well. `ns` is the caller's namespace.
    ///
    /// `EINVAL`: an unbindable mount; one that is neither in the caller's namespace, nor in a detached tree that comes from
    /// there, nor a file of nsfs; an unmounted one with `recurse`; without it, one with locked mounts on it. `EPERM`: a
    /// locked mount that cannot be copied.
    pub fn open_tree(ns: &Arc<MntNamespace>, path: &Path, recurse: bool) -> Result<DetachedMount> {
        let mut lock = ns.table().namespace_lock();
        let source = path.mnt.ns();
        let mount = do_loopback(ns, path, recurse, &mut lock)?;
        NsMounts::new_anon(ns, source.as_deref()).adopt_tree(&mount);
        Ok(DetachedMount { mount })
    }

    /// The root of the tree.
    pub fn path(&self) -> Path {
        Path::mount_root(&self.mount)
    }
}

impl Drop for DetachedMount {
    /// `dissolve_on_fput`
    fn drop(&mut self) {
        let table = self.mount.table.clone();
        let mut lock = table.namespace_lock();
        if self.mount.is_anon_root() {
            umount_tree(&self.mount, UmountTree::CONNECTED, &mut lock);
        }
    }
}
