//! The pids controller: how many tasks there may be in a group and below it (`kernel/cgroup/pids.c`).
//!
//! A task is counted in its group and every group above from its fork until it is released, so zombies count. Only forks
//! are limited: tasks may be moved into a group that is full. Where Linux counts in the closest groups that have the controller,
//! each group here counts always, and limits only where it has the controller; a group to which the controller is given again
//! starts without limit, as there.

use std::sync::Arc;

use super::control::Controllers;
use super::{Cgroup, CgroupRootFlags};
use crate::errno::{Errno, Result};

/// Upper bound of a limit: no limit can be this or more (`PIDS_MAX`).
pub(crate) const PIDS_MAX: i64 = 4_194_304 + 1;

/// `struct pids_cgroup`
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PidsState {
    /// Tasks in the group and below.
    pub counter: u64,
    /// `None`: "max".
    pub limit: Option<u64>,
    /// Most there have been.
    pub watermark: u64,
    /// Forks that the limit of this group or one below refused.
    pub events: u64,
    /// Forks that this group's own limit refused.
    pub events_local: u64,
    /// Forks in this group that some limit refused (`PIDCG_FORKFAIL`).
    pub fork_failures: u64,
}

impl PidsState {
    /// A fresh state when the controller comes or goes.
    pub(super) fn reset(&mut self) {
        *self = PidsState { counter: self.counter, watermark: self.counter, ..PidsState::default() };
    }
}

impl Cgroup {
    /// Whether the controller is enabled here (a `pids.max` exists).
    fn limits_pids(&self) -> bool {
        self.parent().is_some_and(|parent| parent.lock().subtree_control.contains(Controllers::PIDS))
    }

    /// Whether no limit here or above is near.
    pub(crate) fn pids_have_room(self: &Arc<Cgroup>, count: u64) -> bool {
        self.and_ancestors().all(|cgrp| {
            let limits = cgrp.limits_pids();
            let pids = &cgrp.lock().pids;
            !limits || pids.limit.is_none_or(|limit| pids.counter + count < limit)
        })
    }

    /// `pids_can_fork`: counts one more task here.
    ///
    /// # Errors
    /// `EAGAIN`: a limit here or above; nothing is counted then.
    pub(super) fn pids_try_charge(self: &Arc<Cgroup>, flags: CgroupRootFlags) -> Result<()> {
        for cgrp in self.and_ancestors() {
            let limits = cgrp.limits_pids();
            let full = {
                let pids = &cgrp.lock().pids;
                limits && pids.limit.is_some_and(|limit| pids.counter >= limit)
            };
            if full {
                self.pids_event(cgrp, flags);
                return Err(Errno::EAGAIN);
            }
        }
        self.pids_charge(1);
        Ok(())
    }

    /// `pids_event`: a fork in `self` met the limit of `over_limit`.
    fn pids_event(self: &Arc<Cgroup>, over_limit: &Arc<Cgroup>, flags: CgroupRootFlags) {
        self.lock().pids.fork_failures += 1;
        if flags.contains(CgroupRootFlags::PIDS_LOCAL_EVENTS) {
            return;
        }
        over_limit.lock().pids.events_local += 1;
        for cgrp in over_limit.and_ancestors() {
            cgrp.lock().pids.events += 1;
        }
    }

    /// Counts tasks that are there already, whatever the limits.
    pub(super) fn pids_charge(self: &Arc<Cgroup>, count: u64) {
        for cgrp in self.and_ancestors() {
            let state = &mut cgrp.lock().pids;
            state.counter += count;
            state.watermark = state.watermark.max(state.counter);
        }
    }

    /// Counts tasks no longer.
    pub(crate) fn pids_uncharge(self: &Arc<Cgroup>, count: u64) {
        for cgrp in self.and_ancestors() {
            let state = &mut cgrp.lock().pids;
            debug_assert!(state.counter >= count, "{cgrp:?} counts fewer tasks than leave it");
            state.counter = state.counter.saturating_sub(count);
        }
    }
}
