//! Peer groups and slaves: who receives mounts and unmounts from whom (`fs/pnode.c`, `mount_namespaces(7)`, "shared
//! subtrees").
//!
//! The peers of a group form a ring (`mnt_share`). A slave hangs on one peer of its master group (`mnt_master`), in
//! that peer's list of slaves (`mnt_slave_list`). All peers of a group that is a slave itself hang on the same master,
//! side by side. A mount that is neither shared nor a slave is private and has no entry here.
//!
//! Linux keeps these links in `struct mount`. Here they are what `namespace_sem` guards, so that nothing can touch them
//! without it; mounts are named by their unique ids, and the links hold no mount alive: each is cut when its mount is
//! unmounted ([`Pnodes::bulk_make_private`]).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::copy::CopyFlags;
use super::ida::Ida;
use super::{Mount, MountFlags, MountPropagation};
use crate::vfs::Path;

/// What mountinfo shows of a mount's peer groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Propagation {
    /// Peer group whose members see each other's mounts: `shared:N`.
    pub shared: Option<u32>,
    /// Peer group this mount receives from: `master:N`.
    pub master: Option<u32>,
}

/// Unique id of a mount, [`NONE`] for no mount.
type Id = u64;
const NONE: Id = 0;

struct Pnode {
    mount: Weak<Mount>,
    /// `mnt_group_id`. A mount about to become shared has one already.
    group_id: u32,
    /// `T_SHARED`
    shared: bool,
    /// `mnt_share`: the mount itself where it is alone.
    next_peer: Id,
    prev_peer: Id,
    /// `mnt_master`
    master: Id,
    /// `mnt_slave`
    next_slave: Id,
    prev_slave: Id,
    /// `mnt_slave_list`
    first_slave: Id,
}

/// The propagation links of all mounts.
pub(super) struct Pnodes {
    nodes: HashMap<Id, Pnode>,
    /// `mnt_group_ida`
    group_ida: Ida,
}

impl Pnodes {
    pub(super) fn new() -> Pnodes {
        Pnodes { nodes: HashMap::new(), group_ida: Ida::new(1) }
    }

    fn get(&self, id: Id) -> Option<&Pnode> {
        self.nodes.get(&id)
    }

    fn edit(&mut self, id: Id, change: impl FnOnce(&mut Pnode)) {
        if let Some(node) = self.nodes.get_mut(&id) {
            change(node);
        }
    }

    /// Makes an entry for a mount that may have none.
    fn enter(&mut self, mount: &Arc<Mount>) {
        let id = mount.unique_id;
        self.nodes.entry(id).or_insert_with(|| Pnode {
            mount: Arc::downgrade(mount),
            group_id: 0,
            shared: false,
            next_peer: id,
            prev_peer: id,
            master: NONE,
            next_slave: NONE,
            prev_slave: NONE,
            first_slave: NONE,
        });
    }

    /// Forgets a mount that has become private.
    fn leave(&mut self, id: Id) {
        if self.get(id).is_some_and(|n| n.group_id == 0 && n.master == NONE && n.first_slave == NONE) {
            self.nodes.remove(&id);
        }
    }

    fn mount(&self, id: Id) -> Option<Arc<Mount>> {
        self.get(id)?.mount.upgrade()
    }

    fn master_id(&self, id: Id) -> Id {
        self.get(id).map_or(NONE, |node| node.master)
    }

    fn next_peer(&self, id: Id) -> Id {
        self.get(id).map_or(id, |node| node.next_peer)
    }

    fn first_slave(&self, id: Id) -> Id {
        self.get(id).map_or(NONE, |node| node.first_slave)
    }

    fn next_slave(&self, id: Id) -> Id {
        self.get(id).map_or(NONE, |node| node.next_slave)
    }

    /// `IS_MNT_SHARED`
    pub(super) fn is_shared(&self, mount: &Mount) -> bool {
        self.get(mount.unique_id).is_some_and(|node| node.shared)
    }

    /// `IS_MNT_SLAVE`
    pub(super) fn is_slave(&self, mount: &Mount) -> bool {
        self.master_id(mount.unique_id) != NONE
    }

    /// `mnt_group_id`, 0 for none.
    pub(super) fn group_id(&self, mount: &Mount) -> u32 {
        self.group_of(mount.unique_id)
    }

    fn group_of(&self, id: Id) -> u32 {
        self.get(id).map_or(0, |node| node.group_id)
    }

    /// `mnt_master`
    pub(super) fn master(&self, mount: &Mount) -> Option<Arc<Mount>> {
        self.mount(self.master_id(mount.unique_id))
    }

    fn same_group(&self, a: Id, b: Id) -> bool {
        let group = self.group_of(a);
        group != 0 && group == self.group_of(b)
    }

    /// `peers`
    pub(super) fn peers(&self, a: &Mount, b: &Mount) -> bool {
        self.same_group(a.unique_id, b.unique_id)
    }

    pub(super) fn propagation(&self, mount: &Mount) -> Propagation {
        let Some(node) = self.get(mount.unique_id) else { return Propagation::default() };
        let master = (node.master != NONE).then(|| self.group_of(node.master));
        Propagation { shared: node.shared.then_some(node.group_id), master }
    }

    /// All mounts of a group, from `mount` around the ring.
    fn ring(&self, id: Id) -> Vec<Id> {
        let mut ring = vec![id];
        let mut next = self.next_peer(id);
        while next != id {
            ring.push(next);
            next = self.next_peer(next);
        }
        ring
    }

    /// `get_dominating_id`: the closest group that `mount` receives from, however indirectly, with a member that can be
    /// reached from `root`: `propagate_from:N`.
    pub(super) fn dominating_id(&self, mount: &Mount, root: &Path) -> Option<u32> {
        let ns = mount.ns()?;
        let mut master = self.master_id(mount.unique_id);
        while master != NONE {
            let reachable = self.ring(master).into_iter().filter_map(|peer| self.mount(peer)).any(|peer| {
                peer.ns().is_some_and(|own| Arc::ptr_eq(&own, &ns))
                    && crate::vfs::d_path::path_is_under(&Path::mount_root(&peer), root)
            });
            if reachable {
                return Some(self.group_of(master));
            }
            master = self.master_id(master);
        }
        None
    }

    /// `set_mnt_shared`: the mount has a group id.
    pub(super) fn set_shared(&mut self, mount: &Arc<Mount>) {
        self.edit(mount.unique_id, |node| node.shared = true);
        mount.set_flags(mount.flags() - MountFlags::UNBINDABLE);
    }

    /// `invent_group_ids`: every mount of a tree, or only its root, gets a group id before it is made shared.
    pub(super) fn invent_group_ids(&mut self, tree: &Arc<Mount>, recurse: bool) {
        let mounts = if recurse { tree.preorder() } else { vec![tree.clone()] };
        for mount in mounts {
            self.enter(&mount);
            if self.group_id(&mount) == 0 {
                self.alloc_group_id(mount.unique_id);
            }
        }
    }

    /// `cleanup_group_ids`: takes back ids of a tree that has not become shared.
    pub(super) fn cleanup_group_ids(&mut self, tree: &Arc<Mount>) {
        for mount in tree.preorder() {
            if self.group_id(&mount) != 0 && !self.is_shared(&mount) {
                self.release_group_id(mount.unique_id);
                self.leave(mount.unique_id);
            }
        }
    }

    /// `mnt_alloc_group_id`
    fn alloc_group_id(&mut self, id: Id) {
        let group = self.group_ida.alloc();
        self.edit(id, |node| node.group_id = group);
    }

    /// `mnt_release_group_id`
    fn release_group_id(&mut self, id: Id) {
        let group = self.group_of(id);
        if group != 0 {
            self.group_ida.free(group);
        }
        self.edit(id, |node| node.group_id = 0);
    }

    /// Puts `new` into the ring behind `old`.
    fn link_peer(&mut self, new: Id, old: Id) {
        let next = self.next_peer(old);
        self.edit(new, |node| (node.prev_peer, node.next_peer) = (old, next));
        self.edit(old, |node| node.next_peer = new);
        self.edit(next, |node| node.prev_peer = new);
    }

    fn unlink_peer(&mut self, id: Id) {
        let Some((prev, next)) = self.get(id).map(|node| (node.prev_peer, node.next_peer)) else { return };
        self.edit(prev, |node| node.next_peer = next);
        self.edit(next, |node| node.prev_peer = prev);
        self.edit(id, |node| (node.prev_peer, node.next_peer) = (id, id));
    }

    /// Makes `id` the first slave of `master`.
    fn link_slave(&mut self, id: Id, master: Id) {
        let first = self.first_slave(master);
        self.edit(id, |node| (node.master, node.prev_slave, node.next_slave) = (master, NONE, first));
        self.edit(first, |node| node.prev_slave = id);
        self.edit(master, |node| node.first_slave = id);
    }

    /// Makes `id` a slave of the master of `sibling`, next to it.
    fn link_slave_behind(&mut self, id: Id, sibling: Id) {
        let (master, next) = (self.master_id(sibling), self.next_slave(sibling));
        self.edit(id, |node| (node.master, node.prev_slave, node.next_slave) = (master, sibling, next));
        self.edit(sibling, |node| node.next_slave = id);
        self.edit(next, |node| node.prev_slave = id);
    }

    /// Takes `id` out of its master's list. Its master stays recorded: the caller sets another.
    fn unlink_slave(&mut self, id: Id) {
        let Some((prev, next, master)) = self.get(id).map(|n| (n.prev_slave, n.next_slave, n.master)) else {
            return;
        };
        if prev != NONE {
            self.edit(prev, |node| node.next_slave = next);
        } else if self.first_slave(master) == id {
            self.edit(master, |node| node.first_slave = next);
        }
        self.edit(next, |node| node.prev_slave = prev);
        self.edit(id, |node| (node.prev_slave, node.next_slave) = (NONE, NONE));
    }

    /// The links of a copy: the part of `clone_mnt` that concerns propagation.
    pub(super) fn clone_links(&mut self, new: &Arc<Mount>, old: &Arc<Mount>, copy: CopyFlags) {
        let old_group = self.group_id(old);
        let (id, old_id) = (new.unique_id, old.unique_id);
        if old_group == 0 && !self.is_slave(old) && !copy.contains(CopyFlags::MAKE_SHARED) {
            return;
        }
        self.enter(new);
        if old_group != 0 && !copy.contains(CopyFlags::SLAVE) {
            self.edit(id, |node| node.group_id = old_group);
            self.link_peer(id, old_id);
        } else if copy.contains(CopyFlags::MAKE_SHARED) {
            self.alloc_group_id(id);
        }
        if self.group_of(id) != 0 {
            self.set_shared(new);
        }
        if copy.contains(CopyFlags::SLAVE) && old_group != 0 {
            self.link_slave(id, old_id);
        } else if self.is_slave(old) {
            self.link_slave_behind(id, old_id);
        }
    }

    /// Gives the slaves of `from` to `to`, before those it has; without a new master they are slaves no more:
    /// `transfer_propagation`.
    fn transfer_propagation(&mut self, from: Id, to: Id) {
        let first = self.first_slave(from);
        let (mut slave, mut last) = (first, NONE);
        while slave != NONE {
            let next = self.next_slave(slave);
            self.edit(slave, |node| node.master = to);
            if to == NONE {
                self.edit(slave, |node| (node.prev_slave, node.next_slave) = (NONE, NONE));
                self.leave(slave);
            }
            (slave, last) = (next, slave);
        }
        self.edit(from, |node| node.first_slave = NONE);
        if to != NONE && last != NONE {
            let before = self.first_slave(to);
            self.edit(last, |node| node.next_slave = before);
            self.edit(before, |node| node.prev_slave = last);
            self.edit(to, |node| node.first_slave = first);
        }
    }

    /// `change_mnt_propagation`. For `Shared` the mount has a group id already ([`Pnodes::invent_group_ids`]).
    ///
    /// A shared mount that leaves its group leaves its slaves to a peer, or, as the last peer, to its own master; as a
    /// slave it hangs on that same mount. So a mount that was shared with nobody becomes a slave of nobody: private.
    pub(super) fn change_mnt_propagation(&mut self, mount: &Arc<Mount>, kind: MountPropagation) {
        let id = mount.unique_id;
        if kind == MountPropagation::Shared {
            self.set_shared(mount);
            return;
        }
        let mut master = self.master_id(id);
        if self.is_shared(mount) {
            let peer = self.next_peer(id);
            if peer == id {
                self.release_group_id(id);
            } else {
                self.unlink_peer(id);
                self.edit(id, |node| node.group_id = 0);
                master = peer;
            }
            self.edit(id, |node| node.shared = false);
            self.transfer_propagation(id, master);
        }
        self.unlink_slave(id);
        self.edit(id, |node| node.master = NONE);
        if kind == MountPropagation::Slave {
            if master != NONE {
                self.link_slave(id, master);
            }
        } else {
            let mut flags = mount.flags();
            flags.set(MountFlags::UNBINDABLE, kind == MountPropagation::Unbindable);
            mount.set_flags(flags);
        }
        self.leave(id);
    }

    /// `MOVE_MOUNT_SET_GROUP`: makes private `to` a peer of `from` and a slave beside it.
    pub(super) fn set_group(&mut self, from: &Arc<Mount>, to: &Arc<Mount>) {
        self.enter(to);
        let (from_id, to_id) = (from.unique_id, to.unique_id);
        if self.is_slave(from) {
            self.link_slave_behind(to_id, from_id);
        }
        if self.is_shared(from) {
            let group = self.group_of(from_id);
            self.edit(to_id, |node| node.group_id = group);
            self.link_peer(to_id, from_id);
            self.set_shared(to);
        }
    }

    /// Takes all of `set`, marked `UMOUNT`, out of the links at once: `bulk_make_private`. The slaves of each go to the
    /// mount that is left to receive for it: a peer, else its master, else a peer of that one …
    pub(super) fn bulk_make_private(&mut self, set: &[Arc<Mount>]) {
        let mut heirs: HashMap<Id, Id> = HashMap::new();
        for mount in set {
            if heirs.contains_key(&mount.unique_id) || self.get(mount.unique_id).is_none() {
                continue;
            }
            // Everything on the way to an heir has the same one.
            let mut way = vec![mount.unique_id];
            let heir = loop {
                let id = way[way.len() - 1];
                let mut next = self.next_peer(id);
                if next != id {
                    self.unlink_peer(id);
                    self.edit(id, |node| node.group_id = 0);
                } else {
                    self.release_group_id(id);
                    next = self.master_id(id);
                }
                self.unlink_slave(id);
                self.edit(id, |node| (node.shared, node.master) = (false, NONE));
                if let Some(known) = heirs.get(&next) {
                    break *known;
                }
                if next == NONE || self.mount(next).is_none_or(|next| !next.is_umount()) {
                    break next;
                }
                way.push(next);
            };
            heirs.extend(way.into_iter().map(|id| (id, heir)));
        }
        for mount in set {
            let id = mount.unique_id;
            if let Some(heir) = heirs.get(&id) {
                self.transfer_propagation(id, *heir);
                self.leave(id);
            }
        }
    }

    /// The mount after `mount` among those that receive from `origin`, in depth: `propagation_next`. `None` at the end.
    /// Mounts that are in no namespace yet pass nothing on.
    pub(super) fn propagation_next(&self, mount: &Mount, origin: &Mount) -> Option<Arc<Mount>> {
        let slave = self.first_slave(mount.unique_id);
        if slave != NONE && mount.is_mounted() {
            return self.mount(slave);
        }
        self.mount(self.next_beside(mount.unique_id, origin.unique_id))
    }

    /// The same without what receives from `mount`: `skip_propagation_subtree`.
    pub(super) fn skip_propagation_subtree(&self, mount: &Mount, origin: &Mount) -> Option<Arc<Mount>> {
        let mut next = self.next_beside(mount.unique_id, origin.unique_id);
        while next != NONE && self.same_group(mount.unique_id, next) {
            next = self.next_beside(next, origin.unique_id);
        }
        self.mount(next)
    }

    /// Forward, or up and forward.
    fn next_beside(&self, mut id: Id, origin: Id) -> Id {
        loop {
            if id == origin || self.same_group(id, origin) {
                let next = self.next_peer(id);
                return if next == origin { NONE } else { next };
            }
            let next = self.next_slave(id);
            if next != NONE {
                return next;
            }
            id = self.master_id(id);
            if id == NONE {
                return NONE;
            }
        }
    }

    /// The groups that receive from `dest`, each before its slaves: first its own peers without itself, then one group
    /// (or lone slave) after another (`next_group`).
    pub(super) fn receiving_groups(&self, dest: &Mount) -> Vec<Vec<Arc<Mount>>> {
        let mut own = self.ring(dest.unique_id);
        let mut groups = Vec::new();
        let members =
            |ids: &[Id]| -> Vec<Arc<Mount>> { ids.iter().filter_map(|id| self.mount(*id)).collect() };
        // Groups still to be entered, the next one last.
        let mut todo: Vec<Vec<Id>> = Vec::new();
        self.push_slave_groups(&own, &mut todo);
        own.remove(0);
        groups.push(members(&own));
        while let Some(group) = todo.pop() {
            self.push_slave_groups(&group, &mut todo);
            groups.push(members(&group));
        }
        groups
    }

    fn push_slave_groups(&self, peers: &[Id], todo: &mut Vec<Vec<Id>>) {
        let at = todo.len();
        for peer in peers {
            if self.mount(*peer).is_none_or(|peer| !peer.is_mounted()) {
                continue;
            }
            let mut slave = self.first_slave(*peer);
            while slave != NONE {
                let mut group = vec![slave];
                let mut next = self.next_slave(slave);
                // Peers of a slave group stand side by side.
                while next != NONE && self.same_group(slave, next) {
                    group.push(next);
                    next = self.next_slave(next);
                }
                todo.push(group);
                slave = next;
            }
        }
        todo[at..].reverse();
    }

    /// Panics where a link does not match its counterpart or names a mount that is gone.
    #[cfg(test)]
    pub(super) fn check(&self) {
        let mut groups: HashMap<u32, Vec<Id>> = HashMap::new();
        for (&id, node) in &self.nodes {
            let mount = node.mount.upgrade().expect("links only between living mounts");
            assert!(!mount.is_umount(), "unmounted mounts are private");
            assert!(node.group_id != 0 || node.master != NONE, "private mounts have no entry");
            assert_eq!(node.shared, node.group_id != 0);
            assert!(!node.shared || !mount.is_unbindable());
            assert_eq!(self.nodes[&node.next_peer].prev_peer, id);
            assert_eq!(self.nodes[&node.prev_peer].next_peer, id);
            for peer in self.ring(id) {
                assert_eq!((self.group_of(peer), self.master_id(peer)), (node.group_id, node.master));
            }
            if node.shared {
                groups.entry(node.group_id).or_default().push(id);
            }
            if node.master != NONE {
                assert!(self.nodes[&node.master].shared, "masters are shared");
                match node.prev_slave {
                    NONE => assert_eq!(self.first_slave(node.master), id),
                    prev => assert_eq!(self.next_slave(prev), id),
                }
            } else {
                assert_eq!((node.prev_slave, node.next_slave), (NONE, NONE));
            }
            let (mut slave, mut seen, mut last) = (node.first_slave, Vec::new(), 0);
            while slave != NONE {
                assert_eq!(self.master_id(slave), id);
                let group = self.group_of(slave);
                assert!(group == 0 || group == last || !seen.contains(&group), "groups are contiguous");
                seen.push(group);
                (slave, last) = (self.next_slave(slave), group);
            }
        }
        for members in groups.values() {
            assert_eq!(self.ring(members[0]).len(), members.len(), "one ring for each group");
        }
    }

    /// Peer group ids in use.
    #[cfg(test)]
    pub(super) fn groups_in_use(&self) -> std::collections::BTreeSet<u32> {
        self.nodes.values().map(|node| node.group_id).filter(|id| *id != 0).collect()
    }
}
