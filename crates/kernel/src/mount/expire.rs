//! Mounts that go by themselves when nobody has used them for a while: lists of expirable mounts
//! (`mark_mounts_for_expiry`, `fs/namespace.c`).
//!
//! Linux uses them for what a file system mounts by itself (submounts of NFS, automounts). Copies made for a new
//! namespace are on the list of the original.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use super::propagate::propagate_mount_busy;
use super::umount::{UmountTree, umount_tree};
use super::{Mount, MountTable};
use crate::vfs::lock::Mutex;

/// A list of mounts that expire.
#[derive(Default)]
pub struct ExpiryList(Mutex<Vec<Weak<Mount>>>);

/// Puts a mount on a list: `mnt_set_expiry`.
pub fn mnt_set_expiry(mount: &Arc<Mount>, list: &Arc<ExpiryList>) {
    mount.set_expiry_list(Some(list.clone()));
    let mut listed = list.0.lock();
    listed.retain(|other| other.strong_count() > 0 && other.as_ptr() != Arc::as_ptr(mount));
    listed.push(Arc::downgrade(mount));
}

/// Unmounts what is on the list, has not been used since the last time, and is not in use; marks the rest for the next time.
pub fn mark_mounts_for_expiry(table: &MountTable, list: &Arc<ExpiryList>) {
    let mut lock = table.namespace_lock();
    let listed = list.0.lock().clone();
    let mut graveyard = Vec::new();
    for weak in listed {
        // References are held one at a time: they count as use.
        let Some(mount) = weak.upgrade() else { continue };
        let is_on = mount.expiry_list().is_some_and(|own| Arc::ptr_eq(&own, list));
        if !mount.is_mounted() || !is_on {
            lock.unmounted.push(mount);
        } else if mount.expiry_mark.swap(true, Ordering::Relaxed) && !propagate_mount_busy(&mount, &lock) {
            graveyard.push(weak);
        }
    }
    for mount in graveyard {
        if let Some(mount) = mount.upgrade() {
            if !mount.is_umount() {
                umount_tree(&mount, UmountTree::PROPAGATE | UmountTree::SYNC, &mut lock);
            }
            lock.unmounted.push(mount);
        }
    }
}
