//! Mounts and unmounts carried along the links of peers and slaves (`fs/pnode.c`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::copy::{CopyFlags, copy_tree};
use super::{Mount, NamespaceLock};
use crate::errno::Result;
use crate::vfs::Dentry;

/// Makes the copies of `source` for every mount that receives from `dest`, with their places set but not visible yet:
/// `propagate_mnt`. They are pushed to `copies`, also before a failure.
///
/// The first copy in a group that receives as slave is a slave of the latest copy in the closest group above that has
/// one; the others are copied from one another and so become its peers.
///
/// `ENOSPC`: too many mounts in a namespace that receives one. Errors of [`copy_tree`].
pub(super) fn propagate_mnt(
    dest: &Arc<Mount>,
    mountpoint: &Arc<Dentry>,
    source: &Arc<Mount>,
    copies: &mut Vec<Arc<Mount>>,
    lock: &mut NamespaceLock<'_>,
) -> Result<()> {
    // The latest copy in each group.
    let mut latest: HashMap<u32, Arc<Mount>> = HashMap::new();
    let own_group = lock.pnodes.group_id(dest);
    latest.insert(own_group, source.clone());
    for (n, group) in lock.pnodes.receiving_groups(dest).into_iter().enumerate() {
        let mut copy = if n == 0 { Some(source.clone()) } else { None };
        for receiver in group {
            let Some(ns) = need_secondary(&receiver, mountpoint) else { continue };
            let id = lock.pnodes.group_id(&receiver);
            let mut how = CopyFlags::empty();
            how.set(CopyFlags::MAKE_SHARED, id != 0);
            let from = match &copy {
                Some(copy) => copy.clone(),
                None => {
                    how |= CopyFlags::SLAVE;
                    let mut master = lock.pnodes.master(&receiver);
                    loop {
                        let Some(mount) = master else { break source.clone() };
                        if let Some(copy) = latest.get(&lock.pnodes.group_id(&mount)) {
                            break copy.clone();
                        }
                        master = lock.pnodes.master(&mount);
                    }
                }
            };
            let this = copy_tree(&from, &from.root, how, lock)?;
            this.set_mountpoint(&receiver, mountpoint);
            copies.push(this.clone());
            ns.count_mounts(this.tree_size())?;
            if id != 0 {
                latest.insert(id, this.clone());
            }
            copy = Some(this);
        }
    }
    Ok(())
}

/// `need_secondary`: the namespace of a receiver that shows the mount point, unless it is part of a detached tree.
fn need_secondary(receiver: &Mount, mountpoint: &Arc<Dentry>) -> Option<Arc<super::NsMounts>> {
    receiver.ns().filter(|ns| !ns.is_anon() && mountpoint.is_subdir(&receiver.root))
}

/// `propagation_would_overmount`: whether what is mounted at `mountpoint` of `from` would be propagated on top of `to`.
pub(super) fn propagation_would_overmount(
    from: &Arc<Mount>,
    to: &Arc<Mount>,
    mountpoint: &Arc<Dentry>,
    lock: &NamespaceLock<'_>,
) -> bool {
    if !lock.pnodes.is_shared(from) || !Arc::ptr_eq(&to.root, mountpoint) {
        return false;
    }
    let mut at = Some(to.clone());
    while let Some(mount) = at {
        if lock.pnodes.peers(from, &mount) {
            return true;
        }
        at = lock.pnodes.master(&mount);
    }
    false
}

/// The mounts that an unmount of `mount` reaches: at the same place of each mount that receives from its parent.
fn cognates(mount: &Mount, lock: &NamespaceLock<'_>) -> Vec<Arc<Mount>> {
    let mut found = Vec::new();
    let Some((parent, mountpoint)) = mount.parent_and_mountpoint() else { return found };
    let mut at = lock.pnodes.propagation_next(&parent, &parent);
    while let Some(receiver) = at {
        found.extend(receiver.lookup_mnt(&mountpoint));
        at = lock.pnodes.propagation_next(&receiver, &parent);
    }
    found
}

/// `propagate_mount_busy`: whether `mount` has users beside the caller or mounts on it, or one that would be unmounted
/// along with it has users. Those with mounts on them that would stay (other than one that covers all of it) do not
/// matter, for they stay themselves.
pub(super) fn propagate_mount_busy(mount: &Arc<Mount>, lock: &NamespaceLock<'_>) -> bool {
    if mount.has_children() || mount.users() > 0 {
        return true;
    }
    cognates(mount, lock).iter().any(|child| {
        let children = child.children.read().order.len();
        let goes = children == 0 || (children == 1 && child.overmount().is_some());
        goes && child.users() > 0
    })
}

/// `propagate_mount_unlock`: the mounts that go along with `mount`, which its owner may unmount, are not locked then.
pub(super) fn propagate_mount_unlock(mount: &Mount, lock: &NamespaceLock<'_>) {
    for child in cognates(mount, lock) {
        child.set_locked(false);
    }
}

/// The set of mounts that may be unmounted beside those that will be: `Documentation/filesystems/propagate_umount.txt`.
#[derive(Default)]
struct Candidates {
    members: HashSet<u64>,
    /// `T_MARKED`: seen on the way up; all candidates below are overmounts.
    marked: HashSet<u64>,
}

impl Candidates {
    fn contains(&self, mount: &Mount) -> bool {
        self.members.contains(&mount.unique_id)
    }

    fn remove(&mut self, mount: &Mount) {
        self.members.remove(&mount.unique_id);
    }

    /// A mount on `mount` stays: whatever it is mounted in stays, unless it only covers it completely (`trim_ancestors`).
    fn trim_ancestors(&mut self, mount: &Arc<Mount>) {
        let mut mount = mount.clone();
        while let Some((parent, mountpoint)) = mount.parent_and_mountpoint() {
            if !self.contains(&parent) || !self.marked.insert(mount.unique_id) {
                return;
            }
            if !Arc::ptr_eq(&mountpoint, &parent.root) {
                self.remove(&parent);
            }
            mount = parent;
        }
    }
}

/// Extends `set`, a tree whose mounts are marked `UMOUNT`, by the mounts that receive the unmounts, as far as nothing
/// would be lost or uncovered by them: `propagate_umount`.
///
/// A mount stays when something is mounted in it that stays (the set is *non-shifting*), and a locked one when its
/// parent stays (*non-revealing*). A surviving mount that covered an unmounted one completely takes its place; for a
/// moment two mounts are at one place, but the caller detaches the other one.
pub(super) fn propagate_umount(set: &mut Vec<Arc<Mount>>, lock: &mut NamespaceLock<'_>) {
    let mut candidates = Candidates::default();
    let list = gather_candidates(set, &mut candidates, lock);
    let mut to_umount = Vec::new();
    let undecided = list.into_iter().filter(|mount| trim_one(mount, &mut candidates, &mut to_umount, lock));
    let undecided: Vec<_> = undecided.collect();
    for mount in &undecided {
        handle_locked(mount, &mut candidates, &mut to_umount, lock);
    }
    for mount in &to_umount {
        if let Some(over) = mount.overmount().filter(|over| !over.is_umount()) {
            reparent(&over, lock);
        }
    }
    set.append(&mut to_umount);
}

/// `gather_candidates`
fn gather_candidates(
    set: &[Arc<Mount>],
    candidates: &mut Candidates,
    lock: &NamespaceLock<'_>,
) -> Vec<Arc<Mount>> {
    let (mut seen, mut list) = (HashSet::new(), Vec::new());
    for mount in set {
        let Some((parent, mountpoint)) = mount.parent_and_mountpoint() else { continue };
        if !seen.insert(mount.unique_id) {
            continue;
        }
        let mut at = lock.pnodes.propagation_next(&parent, &parent);
        while let Some(receiver) = at {
            if let Some(child) = receiver.lookup_mnt(&mountpoint) {
                if !seen.insert(child.unique_id) {
                    // Found for an earlier mount, with all that receives from it.
                    at = lock.pnodes.skip_propagation_subtree(&receiver, &parent);
                    continue;
                }
                if !child.is_umount() {
                    candidates.members.insert(child.unique_id);
                    list.push(child);
                }
            }
            at = lock.pnodes.propagation_next(&receiver, &parent);
        }
    }
    list.reverse();
    list
}

/// `umount_one`
fn umount_one(mount: &Arc<Mount>, to_umount: &mut Vec<Arc<Mount>>, lock: &mut NamespaceLock<'_>) {
    mount.set_flags(mount.flags() | super::MountFlags::UMOUNT);
    if let Some(ns) = mount.ns() {
        ns.remove(mount, lock);
    }
    to_umount.push(mount.clone());
}

/// Removes what must stay because of mounts on `mount`, and unmounts `mount` where nothing speaks against it:
/// `trim_one`. Whether it is still undecided.
fn trim_one(
    mount: &Arc<Mount>,
    candidates: &mut Candidates,
    to_umount: &mut Vec<Arc<Mount>>,
    lock: &mut NamespaceLock<'_>,
) -> bool {
    if !candidates.contains(mount) {
        return false;
    }
    let (mut any, mut stays, mut in_it) = (false, false, false);
    for child in mount.children().iter().filter(|child| !child.is_umount()) {
        any = true;
        if !candidates.contains(child) {
            stays = true;
            in_it |= mount.overmount().is_none_or(|over| !Arc::ptr_eq(&over, child));
        }
    }
    if stays {
        candidates.trim_ancestors(mount);
    }
    let goes = !any && !mount.is_locked();
    if in_it || goes {
        candidates.remove(mount);
    }
    if goes {
        umount_one(mount, to_umount, lock);
    }
    !in_it && !goes
}

/// `handle_locked`: unmounts `mount` and the candidates it is on, from the lowest that is not locked, or that is on a mount
/// which goes, upwards.
fn handle_locked(
    mount: &Arc<Mount>,
    candidates: &mut Candidates,
    to_umount: &mut Vec<Arc<Mount>>,
    lock: &mut NamespaceLock<'_>,
) {
    let (mut chain, mut going) = (Vec::new(), 0);
    let mut at = Some(mount.clone());
    while let Some(mount) = at {
        if !candidates.contains(&mount) {
            if mount.is_umount() {
                going = chain.len();
            }
            break;
        }
        candidates.remove(&mount);
        at = mount.parent();
        chain.push(mount);
        if chain.last().is_some_and(|mount| !mount.is_locked()) {
            going = chain.len();
        }
    }
    for mount in &chain[..going] {
        umount_one(mount, to_umount, lock);
    }
}

/// Slides `over`, which covers the topmost of a stack of mounts that go, to where the stack is mounted: `reparent`.
fn reparent(over: &Arc<Mount>, lock: &mut NamespaceLock<'_>) {
    let mut place = over.parent_and_mountpoint();
    while let Some((parent, mountpoint)) = place {
        if !parent.is_umount() {
            over.change_mountpoint(&parent, &mountpoint, lock);
            return;
        }
        place = parent.parent_and_mountpoint();
    }
}
