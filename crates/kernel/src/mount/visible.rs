//! Whether a file system that tells much may be mounted by who owns a mount namespace only in a user namespace of its own
//! (`mount_too_revealing`, `fs/namespace.c`).
//!
//! Whoever made the namespace may have covered parts of proc or sysfs. A fresh instance would show them again, so one is
//! allowed only where another of the same type is already fully visible.

use super::{MntNamespace, Mount, MountFlags};
use crate::user_namespace::UserNamespace;
use crate::vfs::{ActiveSuper, SuperFlags, SuperIflags};

const ATIME: MountFlags = MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);

/// Whether a mount of `sb` in `ns`, which `owner` owns, would show what is hidden there. Adds to `flags` what a mount that
/// is already visible is locked to.
pub fn mount_too_revealing(
    ns: &MntNamespace,
    owner: &UserNamespace,
    sb: &ActiveSuper,
    flags: &mut MountFlags,
) -> bool {
    if owner.parent().is_none() || !sb.iflags().contains(SuperIflags::USERNS_VISIBLE) {
        return false;
    }
    for mount in ns.mounts() {
        let mut seen = mount.flags();
        if mount.sb().flags().contains(SuperFlags::RDONLY) {
            seen |= MountFlags::LOCK_READONLY;
        }
        if is_fully_visible(&mount, sb) && allows(seen, *flags) {
            *flags |= seen & (MountFlags::LOCK_READONLY | MountFlags::LOCK_ATIME);
            return false;
        }
    }
    true
}

/// Whether a mount shows all of a file system of the type of `sb`.
fn is_fully_visible(mount: &Mount, sb: &ActiveSuper) -> bool {
    mount.sb().ops().fs_type() == sb.ops().fs_type()
        && std::sync::Arc::ptr_eq(mount.root(), mount.sb().root())
        && mount.children().iter().all(|child| {
            // Mounts on directories that are always empty hide nothing; only proc has such, made for that purpose.
            !child.flags().contains(MountFlags::LOCKED)
                || child.parent_and_mountpoint().is_some_and(|(_, place)| place.inode().is_always_empty())
        })
}

/// Whether flags that are locked on the mount that is seen are kept by the new one.
fn allows(seen: MountFlags, new: MountFlags) -> bool {
    let readonly = seen.contains(MountFlags::LOCK_READONLY) && !new.contains(MountFlags::READONLY);
    let atime = seen.contains(MountFlags::LOCK_ATIME) && seen & ATIME != new & ATIME;
    !readonly && !atime
}
