//! Programs attached to control groups (`kernel/bpf/cgroup.c`): those that decide about devices, and asking them
//! (`devcgroup_check_permission`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bitflags::bitflags;

use super::{Cgroup, CgroupRoot};
use crate::bpf::{DeviceAccess, Program};
use crate::errno::{Errno, Result};

/// `BPF_CGROUP_MAX_PROGS`: most programs of a group.
const MAX_PROGS: usize = 64;

bitflags! {
    /// How a program is attached.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct AttachFlags: u32 {
        /// `BPF_F_ALLOW_OVERRIDE`: a group below may have one of its own instead.
        const ALLOW_OVERRIDE = 1;
        /// `BPF_F_ALLOW_MULTI`: others may be beside and below it, and all are asked.
        const ALLOW_MULTI = 2;
        /// `BPF_F_REPLACE`: in place of another.
        const REPLACE = 4;
    }
}

/// The programs of a group.
#[derive(Default)]
pub(super) struct Programs {
    list: Vec<Arc<Program>>,
    flags: AttachFlags,
}

impl Cgroup {
    /// `hierarchy_allows_attach`.
    fn hierarchy_allows_attach(&self) -> bool {
        let mut above = self.parent();
        while let Some(cgrp) = above {
            let state = cgrp.lock();
            let programs = &state.programs;
            if programs.flags.contains(AttachFlags::ALLOW_MULTI) {
                return true;
            }
            if !programs.list.is_empty() {
                return programs.flags.contains(AttachFlags::ALLOW_OVERRIDE);
            }
            drop(state);
            above = cgrp.parent();
        }
        true
    }

    /// The programs that are asked about tasks in it (`compute_effective_progs`).
    fn effective(self: &Arc<Cgroup>) -> Vec<Arc<Program>> {
        let mut all = Vec::new();
        for cgrp in self.and_ancestors() {
            let state = cgrp.lock();
            if all.is_empty() || state.programs.flags.contains(AttachFlags::ALLOW_MULTI) {
                all.extend(state.programs.list.iter().cloned());
            }
        }
        all
    }

    /// `__cgroup_bpf_query`: numbers of the programs, and how they were attached.
    pub fn programs(self: &Arc<Cgroup>, effective: bool) -> (Vec<u32>, AttachFlags) {
        if effective {
            return (self.effective().iter().map(|program| program.id()).collect(), AttachFlags::empty());
        }
        let state = self.lock();
        (state.programs.list.iter().map(|program| program.id()).collect(), state.programs.flags)
    }
}

impl CgroupRoot {
    /// `__cgroup_bpf_attach`.
    ///
    /// # Errors
    /// `EINVAL` for flags that contradict each other, and for a program that is attached already; `EPERM` where a group above does
    /// not allow it, or the programs that are there were attached in another way; `E2BIG` for too many; `ENOENT` where `replace` is
    /// not attached; `ENODEV` for a group that was removed.
    pub fn attach(
        &self,
        cgrp: &Arc<Cgroup>,
        program: Arc<Program>,
        replace: Option<&Arc<Program>>,
        flags: AttachFlags,
    ) -> Result<()> {
        let multi = flags.contains(AttachFlags::ALLOW_MULTI);
        let replaces = flags.contains(AttachFlags::REPLACE);
        if multi && flags.contains(AttachFlags::ALLOW_OVERRIDE)
            || replaces && !multi
            || replaces != replace.is_some()
        {
            return Err(Errno::EINVAL);
        }
        if cgrp.is_dead() {
            return Err(Errno::ENODEV);
        }
        if !cgrp.hierarchy_allows_attach() {
            return Err(Errno::EPERM);
        }
        let saved = flags.intersection(AttachFlags::ALLOW_OVERRIDE | AttachFlags::ALLOW_MULTI);
        let mut state = cgrp.lock();
        let programs = &mut state.programs;
        if !programs.list.is_empty() && programs.flags != saved {
            return Err(Errno::EPERM);
        }
        if programs.list.len() >= MAX_PROGS {
            return Err(Errno::E2BIG);
        }
        let same = |one: &Arc<Program>, other: &Arc<Program>| Arc::ptr_eq(one, other);
        if !multi {
            programs.list.clear();
            programs.list.push(program);
        } else {
            if programs.list.iter().any(|known| same(known, &program))
                && !replace.is_some_and(|old| same(old, &program))
            {
                return Err(Errno::EINVAL);
            }
            match replace {
                None => programs.list.push(program),
                Some(old) => {
                    let place =
                        programs.list.iter_mut().find(|known| same(known, old)).ok_or(Errno::ENOENT)?;
                    *place = program;
                }
            }
        }
        programs.flags = saved;
        self.attached.store(true, Ordering::Release);
        Ok(())
    }

    /// `__cgroup_bpf_detach`.
    ///
    /// # Errors
    /// `EINVAL` without a program where several may be attached; `ENOENT` where it is not attached.
    pub fn detach(&self, cgrp: &Arc<Cgroup>, program: Option<&Arc<Program>>) -> Result<()> {
        let mut state = cgrp.lock();
        let programs = &mut state.programs;
        let at = if programs.flags.contains(AttachFlags::ALLOW_MULTI) {
            let program = program.ok_or(Errno::EINVAL)?;
            programs.list.iter().position(|known| Arc::ptr_eq(known, program))
        } else {
            // The only one, whichever was named.
            (!programs.list.is_empty()).then_some(0)
        };
        programs.list.remove(at.ok_or(Errno::ENOENT)?);
        if programs.list.is_empty() {
            programs.flags = AttachFlags::empty();
        }
        Ok(())
    }

    /// `__cgroup_bpf_check_dev_permission`: whether all programs that are asked about tasks in `cgrp` allow an access.
    pub fn allows_device(&self, cgrp: &Arc<Cgroup>, access: &DeviceAccess) -> bool {
        !self.attached.load(Ordering::Acquire) || cgrp.effective().iter().all(|program| program.run(access))
    }
}
