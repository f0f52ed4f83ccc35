//! `mount_setattr(2)`: flags and propagation of one mount or a whole tree at once.

use std::sync::Arc;

use super::tree::is_mount_root;
use super::{MntNamespace, Mount, MountFlags, MountPropagation};
use crate::errno::{Errno, Result};
use crate::vfs::Path;

/// What is to change: `struct mount_kattr`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountKattr {
    /// Flags to set.
    pub attr_set: MountFlags,
    /// Flags to clear, before others are set.
    pub attr_clr: MountFlags,
    /// New propagation type.
    pub propagation: Option<MountPropagation>,
    /// All mounts below as well (`AT_RECURSIVE`).
    pub recurse: bool,
}

impl MountKattr {
    /// `recalc_flags`
    fn recalc(&self, mount: &Mount) -> MountFlags {
        let clr = self.attr_clr & MountFlags::USER_SETTABLE;
        (mount.flags() - clr) | (self.attr_set & MountFlags::USER_SETTABLE)
    }
}

/// `do_mount_setattr`. Either all mounts change or none.
///
/// `EINVAL`: not the root of a mount in the caller's namespace or of a detached tree. `EPERM`: a flag of one of the mounts
/// that a more privileged user has locked.
pub fn mount_setattr(ns: &Arc<MntNamespace>, path: &Path, kattr: &MountKattr) -> Result<()> {
    let mut lock = ns.table().namespace_lock();
    let top = &path.mnt;
    if !is_mount_root(path) || !(top.is_anon_root() || top.is_in(ns)) {
        return Err(Errno::EINVAL);
    }
    let mounts = if kattr.recurse { top.preorder() } else { vec![top.clone()] };
    mounts.iter().try_for_each(|mount| mount.may_change_flags(kattr.recalc(mount)))?;
    if kattr.propagation == Some(MountPropagation::Shared) {
        lock.pnodes.invent_group_ids(top, kattr.recurse);
    }
    for mount in &mounts {
        mount.set_flags(kattr.recalc(mount));
        if let Some(kind) = kattr.propagation {
            lock.pnodes.change_mnt_propagation(mount, kind);
        }
    }
    if let Some(of_mount) = top.ns() {
        lock.touch(&of_mount);
    }
    Ok(())
}
