//! Control groups: the one hierarchy of version 2 (`cgroups(7)`, `kernel/cgroup/cgroup.c`).
//!
//! Every task is in one [`Cgroup`] of a tree; groups are made and removed as directories and steered by files
//! ([`files`]), tasks are moved between them ([`attach`]), and the controllers that a group passes on to its children
//! ([`control`]) limit what is below.
//!
//! Differences from Linux: the hierarchy is the sandbox's own. Of the controllers there is [`pids`], which the model enforces
//! itself at every fork, and instead of the devices controller programs ([`bpf`]); what would need the host's scheduler or memory management is not offered, and neither is freezing.
//! The files are those of a kernel without pressure information. How many groups there may be and how deep has a fixed limit
//! ([`MAX_DESCENDANTS`], [`MAX_DEPTH`]), which answers as the limits of the hierarchy do.
//!
//! Locks: everything here changes with the kernel's lock held; the one inside a group is a leaf, held for a moment by those who
//! look without it.

pub mod attach;
pub mod bpf;
pub mod control;
pub mod files;
pub mod namespace;
pub mod pids;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use namespace::CgroupNamespace;

use crate::errno::{Errno, Result};
use crate::vfs::Timespec;
use control::Controllers;
use pids::PidsState;

/// Most groups below the root.
pub const MAX_DESCENDANTS: usize = 16384;
/// Most levels below the root.
pub const MAX_DEPTH: usize = 512;
/// Longest name (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Distance of the inode numbers of two groups: the numbers between are those of the files.
pub const INO_STEP: u64 = 64;

bitflags::bitflags! {
    /// Options of the hierarchy, as they are mounted (`CGRP_ROOT_*`).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CgroupRootFlags: u32 {
        /// `nsdelegate`: cgroup namespaces are boundaries of delegation.
        const NS_DELEGATE = 1 << 3;
        /// `favordynmods`: kept and shown.
        const FAVOR_DYNMODS = 1 << 4;
        /// `memory_localevents`: kept and shown.
        const MEMORY_LOCAL_EVENTS = 1 << 16;
        /// `memory_recursiveprot`: kept and shown.
        const MEMORY_RECURSIVE_PROT = 1 << 17;
        /// `pids_localevents`: `pids.events` counts what failed in the group itself.
        const PIDS_LOCAL_EVENTS = 1 << 19;
    }
}

/// The hierarchy (`cgrp_dfl_root`).
#[derive(Debug)]
pub struct CgroupRoot {
    cgrp: Arc<Cgroup>,
    flags: AtomicU32,
    next_ino: Mutex<u64>,
    /// Some group has had a program attached.
    attached: AtomicBool,
}

impl CgroupRoot {
    /// A hierarchy of one group, with the option that systemd mounts it with.
    pub fn new(now: Timespec) -> Arc<CgroupRoot> {
        let owner = CgroupAttr { mode: 0o755, uid: 0, gid: 0 };
        Arc::new(CgroupRoot {
            cgrp: Arc::new(Cgroup {
                ino: 1,
                parent: None,
                name: Vec::new(),
                level: 0,
                born: now,
                nr_dying_descendants: AtomicUsize::new(0),
                state: Mutex::new(State::new(owner)),
            }),
            flags: AtomicU32::new(CgroupRootFlags::NS_DELEGATE.bits()),
            next_ino: Mutex::new(INO_STEP),
            attached: AtomicBool::new(false),
        })
    }

    /// The root group.
    pub fn cgrp(&self) -> &Arc<Cgroup> {
        &self.cgrp
    }

    /// Options.
    pub fn flags(&self) -> CgroupRootFlags {
        CgroupRootFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    /// Sets them (`apply_cgroup_root_flags`).
    pub fn set_flags(&self, flags: CgroupRootFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// How many groups there are (`nr_cgrps`).
    pub fn nr_cgrps(&self) -> usize {
        self.cgrp.lock().nr_descendants + 1
    }

    fn alloc_ino(&self) -> u64 {
        let mut next = self.next_ino.lock().unwrap_or_else(PoisonError::into_inner);
        *next += INO_STEP;
        *next - INO_STEP
    }

    /// `cgroup_mkdir`: a new group below `parent`, whose directory and files get these owners and mode.
    ///
    /// # Errors
    /// `EINVAL` for a name with a newline; `ENAMETOOLONG`; `ENODEV` below a group that was removed; `EAGAIN` where
    /// `cgroup.max.depth` or `cgroup.max.descendants` of a group above forbid it; `EEXIST`.
    pub fn mkdir(
        &self,
        parent: &Arc<Cgroup>,
        name: &[u8],
        attr: CgroupAttr,
        now: Timespec,
    ) -> Result<Arc<Cgroup>> {
        if name.contains(&b'\n') {
            return Err(Errno::EINVAL);
        }
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if parent.is_dead() {
            return Err(Errno::ENODEV);
        }
        if !parent.within_hierarchy_limits() {
            return Err(Errno::EAGAIN);
        }
        if parent.lock().children.contains_key(name) || files::find(parent, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let child = Arc::new(Cgroup {
            ino: self.alloc_ino(),
            parent: Some(parent.clone()),
            name: name.to_vec(),
            level: parent.level + 1,
            born: now,
            nr_dying_descendants: AtomicUsize::new(0),
            state: Mutex::new(State::new(attr)),
        });
        parent.lock().children.insert(name.to_vec(), child.clone());
        for ancestor in parent.and_ancestors() {
            ancestor.lock().nr_descendants += 1;
        }
        Ok(child)
    }
}

impl Drop for CgroupRoot {
    /// Parents and children hold each other.
    fn drop(&mut self) {
        let mut left = vec![self.cgrp.clone()];
        while let Some(cgrp) = left.pop() {
            left.extend(std::mem::take(&mut cgrp.lock().children).into_values());
        }
    }
}

/// Mode and owner of a directory or file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupAttr {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

pub(crate) struct State {
    dead: bool,
    children: BTreeMap<Vec<u8>, Arc<Cgroup>>,
    /// Living groups below.
    nr_descendants: usize,
    /// Limits of those; `None`: "max".
    max_descendants: Option<u32>,
    max_depth: Option<u32>,
    /// Tasks that have not exited.
    nr_tasks: usize,
    /// Children with tasks in or below them, and one for tasks of its own.
    nr_populated: usize,
    /// Belongs to the domain of its parent.
    threaded: bool,
    /// Controllers that children have.
    subtree_control: Controllers,
    pids: PidsState,
    programs: bpf::Programs,
    dir: CgroupAttr,
    /// Owner of its own files: who made it.
    made_by: (u32, u32),
    /// Owner of the controllers' files: who enabled them.
    controllers_owner: (u32, u32),
    /// Files whose mode or owner was changed.
    attrs: BTreeMap<&'static str, CgroupAttr>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl State {
    fn new(dir: CgroupAttr) -> State {
        State {
            dead: false,
            children: BTreeMap::new(),
            nr_descendants: 0,
            max_descendants: None,
            max_depth: None,
            nr_tasks: 0,
            nr_populated: 0,
            threaded: false,
            subtree_control: Controllers::empty(),
            pids: PidsState::default(),
            programs: bpf::Programs::default(),
            dir,
            made_by: (dir.uid, dir.gid),
            controllers_owner: (dir.uid, dir.gid),
            attrs: BTreeMap::new(),
            xattrs: BTreeMap::new(),
        }
    }
}

/// A control group: `struct cgroup`.
pub struct Cgroup {
    ino: u64,
    parent: Option<Arc<Cgroup>>,
    name: Vec<u8>,
    level: usize,
    born: Timespec,
    /// Groups below that were removed and that something still holds.
    nr_dying_descendants: AtomicUsize,
    state: Mutex<State>,
}

impl Cgroup {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Inode number of its directory.
    pub fn ino(&self) -> u64 {
        self.ino
    }
    /// When it was made.
    pub fn born(&self) -> Timespec {
        self.born
    }
    /// The group above; `None` for the root.
    pub fn parent(&self) -> Option<&Arc<Cgroup>> {
        self.parent.as_ref()
    }
    /// Whether it has been removed (`cgroup_is_dead`).
    pub fn is_dead(&self) -> bool {
        self.lock().dead
    }
    /// The groups directly below, by name.
    pub fn children(&self) -> Vec<(Vec<u8>, Arc<Cgroup>)> {
        self.lock().children.iter().map(|(name, child)| (name.clone(), child.clone())).collect()
    }
    /// How many those are.
    pub fn nr_children(&self) -> usize {
        self.lock().children.len()
    }
    /// The group directly below of that name.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Cgroup>> {
        self.lock().children.get(name).cloned()
    }

    /// Itself, then those above up to the root.
    pub fn and_ancestors(self: &Arc<Cgroup>) -> impl Iterator<Item = &Arc<Cgroup>> {
        std::iter::successors(Some(self), |cgrp| cgrp.parent.as_ref())
    }
    /// Itself and all living groups below, each before its children.
    pub fn and_descendants(self: &Arc<Cgroup>) -> Vec<Arc<Cgroup>> {
        let mut all = vec![self.clone()];
        let mut at = 0;
        while at < all.len() {
            let children: Vec<_> = all[at].lock().children.values().cloned().collect();
            all.extend(children);
            at += 1;
        }
        all
    }
    /// Whether it is `ancestor` or below it (`cgroup_is_descendant`).
    pub fn is_descendant(self: &Arc<Cgroup>, ancestor: &Arc<Cgroup>) -> bool {
        self.and_ancestors().any(|cgrp| Arc::ptr_eq(cgrp, ancestor))
    }

    /// Whether there are tasks in it or below it (`cgroup_is_populated`).
    pub fn is_populated(&self) -> bool {
        self.lock().nr_populated > 0
    }
    /// Whether there are tasks in it (`cgroup_has_tasks`).
    pub(crate) fn has_tasks(&self) -> bool {
        self.lock().nr_tasks > 0
    }

    /// `cgroup_check_hierarchy_limits`: whether a child may be made here.
    fn within_hierarchy_limits(self: &Arc<Cgroup>) -> bool {
        let allowed = |(level, cgrp): (usize, &Arc<Cgroup>)| {
            let state = cgrp.lock();
            let below = |limit: Option<u32>, most: usize| limit.map_or(most, |limit| limit as usize);
            state.nr_descendants < below(state.max_descendants, MAX_DESCENDANTS)
                && level < below(state.max_depth, MAX_DEPTH)
        };
        self.and_ancestors().enumerate().all(allowed)
    }

    /// `cgroup_rmdir`. What still holds the group sees it dead.
    ///
    /// # Errors
    /// `EBUSY` with tasks or groups in it, and for the root.
    pub fn rmdir(self: &Arc<Cgroup>) -> Result<()> {
        let parent = self.parent.as_ref().ok_or(Errno::EBUSY)?;
        {
            let mut state = self.lock();
            if state.dead {
                return Ok(());
            }
            if state.nr_populated > 0 || !state.children.is_empty() {
                return Err(Errno::EBUSY);
            }
            state.dead = true;
        }
        parent.lock().children.remove(&self.name);
        for ancestor in parent.and_ancestors() {
            ancestor.lock().nr_descendants -= 1;
            ancestor.nr_dying_descendants.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Counts tasks in or out (`css_set_update_populated`, `cgroup_update_populated`).
    pub(crate) fn add_tasks(self: &Arc<Cgroup>, by: isize) {
        let mut state = self.lock();
        let before = state.nr_tasks > 0;
        state.nr_tasks = state.nr_tasks.saturating_add_signed(by);
        let after = state.nr_tasks > 0;
        drop(state);
        if before == after {
            return;
        }
        for cgrp in self.and_ancestors() {
            let mut state = cgrp.lock();
            let before = state.nr_populated > 0;
            state.nr_populated = state.nr_populated.saturating_add_signed(if after { 1 } else { -1 });
            if before == (state.nr_populated > 0) {
                break;
            }
        }
    }

    /// Its path from the root of the hierarchy.
    pub fn path(self: &Arc<Cgroup>) -> Vec<u8> {
        let root = self.and_ancestors().last().unwrap_or(self);
        self.path_from(root)
    }

    /// Its path below `root` (`cgroup_path_ns`); what is not below has `/..` for each step up.
    pub fn path_from(self: &Arc<Cgroup>, root: &Arc<Cgroup>) -> Vec<u8> {
        let common = root.and_ancestors().find(|cgrp| self.is_descendant(cgrp));
        let common_level = common.map_or(0, |cgrp| cgrp.level);
        let mut path = b"/..".repeat(root.level - common_level);
        let below: Vec<_> = self.and_ancestors().take(self.level - common_level).collect();
        for cgrp in below.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(&cgrp.name);
        }
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    /// Mode and owner of the directory.
    pub fn attr(&self) -> CgroupAttr {
        self.lock().dir
    }
    /// Changes them.
    pub fn set_attr(&self, attr: CgroupAttr) {
        self.lock().dir = attr;
    }
    /// An extended attribute of the directory; `ENODATA` where there is none.
    pub fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.lock().xattrs.get(name).cloned().ok_or(Errno::ENODATA)
    }
    /// The names of all.
    pub fn listxattr(&self) -> Vec<Vec<u8>> {
        self.lock().xattrs.keys().cloned().collect()
    }
    /// Sets or (`None`) removes one. `EEXIST` and `ENODATA` as `setxattr(2)` says; `ENOSPC` for too many or too much
    /// (`KERNFS_MAX_USER_XATTRS`, `KERNFS_USER_XATTR_SIZE_LIMIT`).
    pub fn setxattr(&self, name: &[u8], value: Option<&[u8]>, create: bool, replace: bool) -> Result<()> {
        const MOST: usize = 128;
        const SIZE_LIMIT: usize = 128 << 10;
        let xattrs = &mut self.lock().xattrs;
        let Some(value) = value else {
            return xattrs.remove(name).map(drop).ok_or(Errno::ENODATA);
        };
        match xattrs.contains_key(name) {
            true if create => return Err(Errno::EEXIST),
            false if replace => return Err(Errno::ENODATA),
            _ => {}
        }
        let others = xattrs.iter().filter(|(known, _)| *known != name);
        let (count, size) = others.fold((0, 0), |(count, size), (_, value)| (count + 1, size + value.len()));
        if count >= MOST || size + value.len() > SIZE_LIMIT {
            return Err(Errno::ENOSPC);
        }
        xattrs.insert(name.to_vec(), value.to_vec());
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.state.get_mut().unwrap_or_else(PoisonError::into_inner).dead {
            return;
        }
        let mut above = self.parent.as_ref();
        while let Some(cgrp) = above {
            cgrp.nr_dying_descendants.fetch_sub(1, Ordering::Relaxed);
            above = cgrp.parent.as_ref();
        }
    }
}

impl fmt::Debug for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cgroup#{} {:?}", self.ino, String::from_utf8_lossy(&self.name))
    }
}
