//! Which controllers a group has, and which kind of group it is: `cgroup.subtree_control` and `cgroup.type`.
//!
//! A group is a *domain*, to which processes belong as a whole, or *threaded*: then threads of the processes of the domain above
//! may be spread over it. All controllers here can be used in threaded groups.

use std::sync::Arc;

use super::Cgroup;
use crate::errno::{Errno, Result};

bitflags::bitflags! {
    /// Controllers.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Controllers: u32 {
        /// [`super::pids`]
        const PIDS = 1;
    }
}

/// All there are, with their names.
const NAMES: [(Controllers, &str); 1] = [(Controllers::PIDS, "pids")];

/// Those that can distribute among the groups of a threaded domain (`cgrp_dfl_threaded_ss_mask`).
const THREADED: Controllers = Controllers::PIDS;

impl Controllers {
    /// Names, separated by spaces, and a newline (`cgroup_print_ss_mask`).
    pub fn print(self) -> Vec<u8> {
        let names: Vec<&str> =
            NAMES.iter().filter(|(one, _)| self.contains(*one)).map(|(_, name)| *name).collect();
        format!("{}\n", names.join(" ")).into_bytes()
    }

    /// What `+name` and `-name` in a text enable and disable; the last word about a controller counts.
    ///
    /// # Errors
    /// `EINVAL` for anything else.
    fn parse(text: &[u8]) -> Result<(Controllers, Controllers)> {
        let (mut enable, mut disable) = (Controllers::empty(), Controllers::empty());
        for word in text.split(|&byte| byte == b' ').filter(|word| !word.is_empty()) {
            let known = NAMES.iter().find(|(_, name)| name.as_bytes() == &word[1..]);
            let (one, _) = known.ok_or(Errno::EINVAL)?;
            match word[0] {
                b'+' => (enable, disable) = (enable | *one, disable - *one),
                b'-' => (enable, disable) = (enable - *one, disable | *one),
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok((enable, disable))
    }
}

impl Cgroup {
    /// Belongs to the domain of a group above (`cgroup_is_threaded`).
    pub fn is_threaded(&self) -> bool {
        self.lock().threaded
    }

    /// The domain its processes belong to (`dom_cgrp`).
    pub(super) fn domain(self: &Arc<Cgroup>) -> &Arc<Cgroup> {
        let mut at = self;
        while let (true, Some(parent)) = (at.is_threaded(), at.parent()) {
            at = parent;
        }
        at
    }

    /// Whether domains and threaded groups may be below it at once: the root (`cgroup_is_mixable`).
    fn is_mixable(&self) -> bool {
        self.parent().is_none()
    }

    fn counts_children(&self, which: impl Fn(&Cgroup) -> bool) -> bool {
        self.children().iter().any(|(_, child)| which(child))
    }

    /// `cgroup_can_be_thread_root`
    pub(super) fn can_be_thread_root(&self) -> bool {
        self.is_mixable()
            || !self.is_threaded()
                && !self.counts_children(|child| !child.is_threaded() && child.is_populated())
                && THREADED.contains(self.lock().subtree_control)
    }

    /// `cgroup_is_thread_root`
    fn is_thread_root(&self) -> bool {
        !self.is_threaded()
            && (self.counts_children(Cgroup::is_threaded)
                || self.has_tasks() && self.lock().subtree_control.intersects(THREADED))
    }

    /// Whether processes can be in it (`cgroup_is_valid_domain`).
    pub(super) fn is_valid_domain(self: &Arc<Cgroup>) -> bool {
        !self.is_threaded()
            && self
                .and_ancestors()
                .skip(1)
                .all(|above| (above.is_mixable() || !above.is_thread_root()) && !above.is_threaded())
    }

    /// `cgroup.type`
    pub(super) fn show_type(self: &Arc<Cgroup>) -> &'static str {
        if self.is_threaded() {
            "threaded\n"
        } else if !self.is_valid_domain() {
            "domain invalid\n"
        } else if self.is_thread_root() {
            "domain threaded\n"
        } else {
            "domain\n"
        }
    }

    /// Makes it threaded (`cgroup_enable_threaded`).
    ///
    /// # Errors
    /// `EOPNOTSUPP` with tasks in or below it, or where the domain above cannot take it.
    pub(super) fn enable_threaded(self: &Arc<Cgroup>) -> Result<()> {
        if self.is_threaded() {
            return Ok(());
        }
        let parent = self.parent().ok_or(Errno::EOPNOTSUPP)?;
        let domain = parent.domain();
        let fits = !self.is_populated()
            && THREADED.contains(self.lock().subtree_control)
            && domain.is_valid_domain()
            && domain.can_be_thread_root();
        if !fits {
            return Err(Errno::EOPNOTSUPP);
        }
        self.lock().threaded = true;
        Ok(())
    }

    /// The controllers it has, and may pass on (`cgroup_control`).
    pub fn controllers(&self) -> Controllers {
        let Some(parent) = self.parent() else { return Controllers::all() };
        let passed = parent.subtree_control();
        if self.is_threaded() { passed & THREADED } else { passed }
    }

    /// The controllers its children have.
    pub fn subtree_control(&self) -> Controllers {
        self.lock().subtree_control
    }

    /// Enables and disables controllers for the children (`cgroup_subtree_control_write`); files that appear belong to `owner`.
    ///
    /// # Errors
    /// `EINVAL` for what is no list of changes; `ENODEV` for a group that was removed; `ENOENT` for a controller it does not
    /// have itself; `EBUSY` to disable one that a child passes on, and to enable one for domains below a group with tasks;
    /// `EOPNOTSUPP` in an invalid domain.
    pub(super) fn write_subtree_control(self: &Arc<Cgroup>, text: &[u8], owner: (u32, u32)) -> Result<()> {
        let (enable, disable) = Controllers::parse(text)?;
        if self.is_dead() {
            return Err(Errno::ENODEV);
        }
        let now = self.subtree_control();
        let (enable, disable) = (enable - now, disable & now);
        if !self.controllers().contains(enable) {
            return Err(Errno::ENOENT);
        }
        if self.counts_children(|child| child.subtree_control().intersects(disable)) {
            return Err(Errno::EBUSY);
        }
        if (enable | disable).is_empty() {
            return Ok(());
        }
        self.vet_subtree_control_enable(enable)?;
        self.lock().subtree_control = (now | enable) - disable;
        for (_, child) in self.children() {
            let mut state = child.lock();
            state.pids.reset();
            state.controllers_owner = owner;
            state.attrs.retain(|name, _| !name.starts_with("pids."));
        }
        Ok(())
    }

    /// `cgroup_vet_subtree_control_enable`
    fn vet_subtree_control_enable(self: &Arc<Cgroup>, enable: Controllers) -> Result<()> {
        if enable.is_empty() {
            return Ok(());
        }
        if !self.domain().is_valid_domain() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.is_mixable() {
            return Ok(());
        }
        if THREADED.contains(enable) {
            if self.can_be_thread_root() || self.is_threaded() {
                return Ok(());
            }
        } else if self.is_thread_root() || self.is_threaded() {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.has_tasks() { Err(Errno::EBUSY) } else { Ok(()) }
    }
}
