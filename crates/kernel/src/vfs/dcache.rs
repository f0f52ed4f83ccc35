//! Dentries: the tree of names in use (`fs/dcache.c`).
//!
//! A [`Dentry`] is a name in a directory together with the inode it stands for. It stays alive as long as something
//! holds it: a working directory, a mount, a child, a handle. In addition the directories of a file system that only
//! this sandbox changes ([`super::SuperBlock::cacheable`]) and the symbolic links followed there are kept in a bounded
//! list of recently used ones, so that a walk through them costs no question to the file system.
//!
//! Differences from Linux: nothing else is kept without a user; there are no negative dentries; on file systems
//! that change under us every name is looked up again, and a dentry still in use is recognised by its inode number
//! (`d_revalidate`), which keeps mounts and working directories in place.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use super::inode::{Inode, Link, S_IFCHR, S_IFDIR, S_IFLNK};
use super::lock::{Mutex, RwLock};
use super::posix_acl::PosixAcl;
use super::super_block::ActiveSuper;
use crate::errno::{Errno, Result};
use crate::mount::Mount;

/// The name was removed (`d_unlinked`).
const DELETED: u32 = 1;
/// Used since the clock hand passed (`DCACHE_REFERENCED`).
const REFERENCED: u32 = 2;
/// Something is mounted here in some namespace (`DCACHE_MOUNTED`).
const MOUNTED: u32 = 4;
/// A handle of it has been given out ([`super::exportfs`]).
const EXPORTED: u32 = 8;
/// Answers that hold depend on the names in this directory ([`super::watch`]).
const NAMES_WATCHED: u32 = 16;
/// Answers that hold are this directory's attributes.
const ATTR_WATCHED: u32 = 32;

const NO_SLOT: usize = usize::MAX;

struct Location {
    parent: Option<Arc<Dentry>>,
    name: Box<[u8]>,
}

/// Access and default list: known, known to be none, or not known.
type KnownAcls = [Option<Option<Arc<PosixAcl>>>; 2];

/// Mode and owner of a directory, kept so that search permission needs no question to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirPerm {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A name and its inode: `struct dentry`.
pub struct Dentry {
    inode: Arc<dyn Inode>,
    file_type: u32,
    flags: AtomicU32,
    location: RwLock<Location>,
    /// Dentries in use below this directory. They hold their parent, not the other way round.
    children: RwLock<HashMap<Box<[u8]>, Weak<Dentry>>>,
    /// Serialises changes of this directory's names; lookups that fill the cache hold it shared.
    pub(crate) i_rwsem: RwLock<()>,
    /// Mounts here in every namespace, by unique id.
    mounts: Mutex<BTreeMap<u64, Weak<Mount>>>,
    perm: RwLock<Option<DirPerm>>,
    /// A directory's access and default list, where they are known.
    acls: RwLock<Option<Box<KnownAcls>>>,
    link: OnceLock<Box<[u8]>>,
    lru_slot: AtomicUsize,
}

/// Which objects a lookup makes dentries for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Directories only: for calls that need no more than the inode.
    Dirs,
    /// Directories and the symbolic links that the walk follows.
    DirsAndLinks,
    /// Everything.
    All,
}

/// The result of a lookup.
pub(crate) enum Found {
    Dentry(Arc<Dentry>),
    Inode(Arc<dyn Inode>),
}

impl Found {
    pub(crate) fn inode(&self) -> &Arc<dyn Inode> {
        match self {
            Found::Dentry(dentry) => &dentry.inode,
            Found::Inode(inode) => inode,
        }
    }

    pub(crate) fn file_type(&self) -> u32 {
        match self {
            Found::Dentry(dentry) => dentry.file_type,
            Found::Inode(inode) => inode.file_type(),
        }
    }

    pub(crate) fn get_link(&self, sb: &ActiveSuper) -> Result<Link> {
        match self {
            Found::Dentry(dentry) => dentry.get_link(sb),
            Found::Inode(inode) => inode.get_link(),
        }
    }
}

impl Dentry {
    fn new(inode: Arc<dyn Inode>, parent: Option<Arc<Dentry>>, name: &[u8]) -> Arc<Dentry> {
        Arc::new(Dentry {
            file_type: inode.file_type(),
            inode,
            flags: AtomicU32::new(0),
            location: RwLock::new(Location { parent, name: name.into() }),
            children: RwLock::default(),
            i_rwsem: RwLock::new(()),
            mounts: Mutex::default(),
            perm: RwLock::new(None),
            acls: RwLock::new(None),
            link: OnceLock::new(),
            lru_slot: AtomicUsize::new(NO_SLOT),
        })
    }

    pub(crate) fn new_root(inode: Arc<dyn Inode>) -> Arc<Dentry> {
        Dentry::new(inode, None, b"/")
    }

    /// A dentry for an inode whose name is not known: `d_obtain_alias`. For calls on a handle.
    pub fn anonymous(inode: Arc<dyn Inode>) -> Arc<Dentry> {
        Dentry::new(inode, None, b"/")
    }

    /// The object this name stands for.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// Type bits of the mode.
    pub fn file_type(&self) -> u32 {
        self.file_type
    }

    /// `d_is_dir`
    pub fn is_dir(&self) -> bool {
        self.file_type == S_IFDIR
    }

    /// `d_is_symlink`
    pub fn is_symlink(&self) -> bool {
        self.file_type == S_IFLNK
    }

    /// Whether the name has been removed: `d_unlinked`.
    pub fn is_deleted(&self) -> bool {
        self.flags.load(Ordering::Acquire) & DELETED != 0
    }

    /// Answers depend on the names in this directory from now on, or on its attributes.
    pub fn set_watched(&self, attributes: bool) {
        let bit = if attributes { ATTR_WATCHED } else { NAMES_WATCHED };
        self.flags.fetch_or(bit, Ordering::SeqCst);
    }

    /// No answer depends on this directory any more.
    pub fn clear_watched(&self) {
        self.flags.fetch_and(!(NAMES_WATCHED | ATTR_WATCHED), Ordering::SeqCst);
    }

    /// Whether answers depend on the names in this directory.
    pub(crate) fn names_watched(&self) -> bool {
        self.flags.load(Ordering::SeqCst) & NAMES_WATCHED != 0
    }

    /// Whether answers are this directory's attributes.
    pub(crate) fn attr_watched(&self) -> bool {
        self.flags.load(Ordering::SeqCst) & ATTR_WATCHED != 0
    }

    /// The directory this name is in; `None` for the root of a file system.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.location.read().parent.clone()
    }

    /// The name (`/` for the root of a file system).
    pub fn name(&self) -> Vec<u8> {
        self.location.read().name.to_vec()
    }

    pub(crate) fn location(&self) -> (Option<Arc<Dentry>>, Vec<u8>) {
        let location = self.location.read();
        (location.parent.clone(), location.name.to_vec())
    }

    /// Whether this is the very name `other` is.
    pub fn is_same(self: &Arc<Dentry>, other: &Arc<Dentry>) -> bool {
        Arc::ptr_eq(self, other)
    }

    /// Whether `self` is `ancestor` or below it: `is_subdir`.
    pub fn is_subdir(self: &Arc<Dentry>, ancestor: &Arc<Dentry>) -> bool {
        Arc::ptr_eq(self, ancestor) || self.ancestor_below(ancestor).is_some()
    }

    /// The ancestor of `self` (or `self`) whose parent is `ancestor`: `d_ancestor`.
    pub(crate) fn ancestor_below(self: &Arc<Dentry>, ancestor: &Arc<Dentry>) -> Option<Arc<Dentry>> {
        let mut at = self.clone();
        while let Some(parent) = at.parent() {
            if Arc::ptr_eq(&parent, ancestor) {
                return Some(at);
            }
            at = parent;
        }
        None
    }

    /// The dentry in use for `name`, without asking the file system: `d_lookup`.
    pub(crate) fn d_lookup(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        self.children.read().get(name).and_then(Weak::upgrade)
    }

    /// Whether the name still stands for this without asking the file system: `d_revalidate`.
    pub(crate) fn is_valid(&self) -> bool {
        self.file_type() != S_IFCHR || !self.inode.is_gone()
    }

    /// Finds `name` here, in the cache or by the file system. Permission has been checked.
    pub(crate) fn lookup(self: &Arc<Self>, name: &[u8], sb: &ActiveSuper, keep: Keep) -> Result<Found> {
        if sb.cacheable()
            && let Some(dentry) = self.d_lookup(name).filter(|dentry| dentry.is_valid())
        {
            dentry.touch();
            return Ok(Found::Dentry(dentry));
        }
        let _shared = self.i_rwsem.read();
        self.lookup_locked(name, sb, keep)
    }

    /// [`Dentry::lookup`] for a caller that holds `i_rwsem`.
    pub(crate) fn lookup_locked(
        self: &Arc<Self>,
        name: &[u8],
        sb: &ActiveSuper,
        keep: Keep,
    ) -> Result<Found> {
        let live = self.d_lookup(name);
        if let Some(dentry) = &live
            && (sb.cacheable() && dentry.is_valid() || dentry.is_mountpoint())
        {
            return Ok(Found::Dentry(dentry.clone()));
        }
        if self.is_deleted() {
            return Err(Errno::ENOENT);
        }
        let inode = match self.inode.lookup(name) {
            Ok(inode) => inode,
            Err(error) => {
                if let (Some(dentry), Errno::ENOENT) = (&live, error) {
                    dentry.d_delete(sb);
                }
                return Err(error);
            }
        };
        if let Some(dentry) = live {
            if same_inode(&dentry.inode, &inode) {
                return Ok(Found::Dentry(dentry));
            }
            self.children.write().remove(name);
        }
        let wanted = match inode.file_type() {
            S_IFDIR => true,
            S_IFLNK => keep != Keep::Dirs,
            _ => keep == Keep::All,
        };
        if wanted { Ok(Found::Dentry(self.d_add(name, inode, sb))) } else { Ok(Found::Inode(inode)) }
    }

    /// Makes the dentry for a name just found or created. The caller holds `i_rwsem`.
    pub(crate) fn d_add(
        self: &Arc<Self>,
        name: &[u8],
        inode: Arc<dyn Inode>,
        sb: &ActiveSuper,
    ) -> Arc<Dentry> {
        let fresh = Dentry::new(inode, Some(self.clone()), name);
        let raced = {
            let mut children = self.children.write();
            match children.get(name).and_then(Weak::upgrade) {
                Some(other) => Some(other),
                None => {
                    children.insert(name.into(), Arc::downgrade(&fresh));
                    None
                }
            }
        };
        if let Some(other) = raced {
            return other;
        }
        if sb.cacheable() && (fresh.is_dir() || fresh.is_symlink()) {
            sb.lru.insert(&fresh);
        }
        fresh
    }

    /// Marks the name as removed and forgets it: `d_delete`. The caller holds the parent's `i_rwsem`.
    pub(crate) fn d_delete(self: &Arc<Self>, sb: &ActiveSuper) {
        let (parent, name) = self.location();
        if let Some(parent) = parent {
            let mut children = parent.children.write();
            if children.get(&name[..]).is_some_and(|weak| weak.as_ptr() == Arc::as_ptr(self)) {
                children.remove(&name[..]);
            }
        }
        let flags = self.flags.fetch_or(DELETED, Ordering::AcqRel);
        sb.lru.remove(self);
        if flags & EXPORTED != 0 {
            sb.forget_handle(self);
        }
    }

    /// Gives the dentry a new place: `d_move`. A dentry that was there has been deleted. The caller holds both
    /// directories' `i_rwsem`.
    pub(crate) fn d_move(self: &Arc<Self>, new_parent: &Arc<Dentry>, new_name: &[u8]) {
        let (old_parent, old_name) = self.location();
        if let Some(parent) = &old_parent {
            parent.children.write().remove(&old_name[..]);
        }
        self.relocate(new_parent, new_name);
    }

    /// Swaps the places of two dentries: `d_exchange`.
    pub(crate) fn d_exchange(self: &Arc<Self>, other: &Arc<Dentry>) {
        let (a, b) = (self.location(), other.location());
        if let (Some(a_parent), Some(b_parent)) = (a.0, b.0) {
            self.relocate(&b_parent, &b.1);
            other.relocate(&a_parent, &a.1);
        }
    }

    fn relocate(self: &Arc<Self>, parent: &Arc<Dentry>, name: &[u8]) {
        parent.children.write().insert(name.into(), Arc::downgrade(self));
        let place = Location { parent: Some(parent.clone()), name: name.into() };
        let old = std::mem::replace(&mut *self.location.write(), place);
        drop(old);
    }

    /// Notes that a handle has been given out, which has to be forgotten with the name.
    pub(crate) fn mark_exported(&self) {
        self.flags.fetch_or(EXPORTED, Ordering::AcqRel);
    }

    /// Whether something is mounted here in some namespace: `d_mountpoint`.
    pub fn is_mountpoint(&self) -> bool {
        self.flags.load(Ordering::Acquire) & MOUNTED != 0
    }

    pub(crate) fn add_mount(&self, mount: &Arc<Mount>) {
        let mut mounts = self.mounts.lock();
        mounts.insert(mount.unique_id(), Arc::downgrade(mount));
        self.flags.fetch_or(MOUNTED, Ordering::Release);
    }

    pub(crate) fn remove_mount(&self, mount: &Arc<Mount>) {
        let mut mounts = self.mounts.lock();
        mounts.remove(&mount.unique_id());
        if mounts.is_empty() {
            self.flags.fetch_and(!MOUNTED, Ordering::Release);
        }
    }

    /// All mounts whose mount point this is, in every namespace.
    pub(crate) fn mounts_here(&self) -> Vec<Arc<Mount>> {
        if !self.is_mountpoint() {
            return Vec::new();
        }
        self.mounts.lock().values().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn cached_perm(&self) -> Option<DirPerm> {
        *self.perm.read()
    }

    /// A directory's access (or default) list as far as it is known.
    #[allow(clippy::option_option, reason = "not known, known to be none, known")]
    pub(crate) fn cached_acl(&self, default: bool) -> Option<Option<Arc<PosixAcl>>> {
        self.acls.read().as_ref().and_then(|acls| acls[usize::from(default)].clone())
    }

    /// Remembers a directory's list, or forgets it.
    #[allow(clippy::option_option, reason = "as cached_acl")]
    pub(crate) fn set_cached_acl(&self, default: bool, acl: Option<Option<Arc<PosixAcl>>>) {
        let mut acls = self.acls.write();
        if acl.is_some() || acls.is_some() {
            acls.get_or_insert_default()[usize::from(default)] = acl;
        }
    }

    /// Forgets what is known of the lists: they have been changed behind path walk's back.
    pub fn forget_cached_acls(&self) {
        *self.acls.write() = None;
    }

    pub(crate) fn set_cached_perm(&self, perm: Option<DirPerm>) {
        *self.perm.write() = perm;
    }

    /// What following this symbolic link means, from memory where names are cached (`i_link`).
    fn get_link(&self, sb: &ActiveSuper) -> Result<Link> {
        if let Some(text) = self.link.get() {
            return Ok(Link::Text(text.to_vec()));
        }
        let link = self.inode.get_link()?;
        if let Link::Text(text) = &link
            && sb.cacheable()
        {
            let _ = self.link.set(text.as_slice().into());
        }
        Ok(link)
    }

    fn touch(&self) {
        // Reading first keeps the cache line shared between walkers.
        if self.flags.load(Ordering::Relaxed) & REFERENCED == 0 {
            self.flags.fetch_or(REFERENCED, Ordering::Relaxed);
        }
    }

    fn take_referenced(&self) -> bool {
        self.flags.fetch_and(!REFERENCED, Ordering::Relaxed) & REFERENCED != 0
    }

    /// Takes this dying dentry out of its parent's table and gives the parent back.
    fn detach(&mut self) -> Option<Arc<Dentry>> {
        let location = self.location.get_mut();
        let parent = location.parent.take()?;
        let mut children = parent.children.write();
        // Another dentry may live under the name by now; only a dead entry is ours.
        if children.get(&location.name).is_some_and(|weak| weak.strong_count() == 0) {
            children.remove(&location.name);
        }
        drop(children);
        Some(parent)
    }
}

impl Drop for Dentry {
    /// Drops the chain of parents in a loop: paths can be deeper than the stack.
    fn drop(&mut self) {
        let mut next = self.detach();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut dentry| dentry.detach());
        }
    }
}

/// Whether two inodes are the same object: by device and inode number where they are not one Rust object.
pub(crate) fn same_inode(a: &Arc<dyn Inode>, b: &Arc<dyn Inode>) -> bool {
    if Arc::ptr_eq(a, b) {
        return true;
    }
    match (b.getattr(), a.getattr()) {
        (Ok(b), Ok(a)) => (a.dev, a.ino) == (b.dev, b.ino),
        _ => false,
    }
}

/// Recently used directories of one file system, with clock replacement.
pub(crate) struct DentryLru {
    limit: usize,
    clock: Mutex<Clock>,
}

#[derive(Default)]
struct Clock {
    slots: Vec<Option<Arc<Dentry>>>,
    free: Vec<usize>,
    hand: usize,
}

impl DentryLru {
    /// Directories kept per file system.
    pub(crate) const DEFAULT_LIMIT: usize = 16384;
    /// How far the hand looks for an unused one before it takes a used one.
    const PATIENCE: usize = 64;

    pub(crate) fn new(limit: usize) -> Self {
        DentryLru { limit, clock: Mutex::new(Clock::default()) }
    }

    fn insert(&self, dentry: &Arc<Dentry>) {
        let mut guard = self.clock.lock();
        let clock = &mut *guard;
        let slot = match clock.free.pop() {
            Some(slot) => slot,
            None if clock.slots.len() < self.limit => {
                clock.slots.push(None);
                clock.slots.len() - 1
            }
            None => {
                let len = clock.slots.len();
                for _ in 0..Self::PATIENCE {
                    match &clock.slots[clock.hand] {
                        Some(victim) if victim.take_referenced() => clock.hand = (clock.hand + 1) % len,
                        _ => break,
                    }
                }
                let slot = clock.hand;
                clock.hand = (clock.hand + 1) % len;
                slot
            }
        };
        let victim = clock.slots[slot].replace(dentry.clone());
        if let Some(victim) = &victim {
            victim.lru_slot.store(NO_SLOT, Ordering::Relaxed);
        }
        dentry.lru_slot.store(slot, Ordering::Relaxed);
        drop(guard);
        drop(victim);
    }

    fn remove(&self, dentry: &Arc<Dentry>) {
        let mut guard = self.clock.lock();
        let slot = dentry.lru_slot.swap(NO_SLOT, Ordering::Relaxed);
        if slot == NO_SLOT {
            return;
        }
        let removed = guard.slots[slot].take();
        guard.free.push(slot);
        drop(guard);
        drop(removed);
    }

    pub(crate) fn clear(&self) {
        let slots = {
            let mut clock = self.clock.lock();
            for dentry in clock.slots.iter().flatten() {
                dentry.lru_slot.store(NO_SLOT, Ordering::Relaxed);
            }
            std::mem::take(&mut *clock).slots
        };
        drop(slots);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.clock.lock().slots.iter().flatten().count()
    }
}
