//! The files of a group: `cgroup_base_files` and those of the controllers, with what reading and writing each does.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::control::Controllers;
use super::pids::PIDS_MAX;
use super::{Cgroup, CgroupAttr, CgroupRootFlags};
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::task::{Task, TaskId};

/// Who reads or writes, and which group.
struct At<'a> {
    cgrp: &'a Arc<Cgroup>,
    task: TaskId,
}

type Show = fn(&Kernel, At<'_>) -> Result<Vec<u8>>;
type Write = fn(&mut Kernel, At<'_>, &[u8]) -> Result<CgroupEffects>;

/// What is left to do on the host after a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupEffects {
    /// Tasks to be killed.
    pub killed: Vec<TaskId>,
}

/// A kind of file: `struct cftype`.
pub struct Cftype {
    /// Its name.
    pub name: &'static str,
    mode: u32,
    /// Not in the root group (`CFTYPE_NOT_ON_ROOT`).
    not_on_root: bool,
    /// May be written in the root of a cgroup namespace from inside it (`CFTYPE_NS_DELEGATABLE`).
    delegatable: bool,
    /// Whose it is; `None`: of the hierarchy itself.
    controller: Option<Controllers>,
    show: Option<Show>,
    write: Option<Write>,
}

const BASE: Cftype = Cftype {
    name: "",
    mode: 0o444,
    not_on_root: false,
    delegatable: false,
    controller: None,
    show: None,
    write: None,
};
const CHILD: Cftype = Cftype { not_on_root: true, ..BASE };
const PIDS: Cftype = Cftype { not_on_root: true, controller: Some(Controllers::PIDS), ..BASE };

/// `cgroup.procs`
pub(super) static PROCS: &Cftype = &TYPES[7];

static TYPES: [Cftype; 15] = [
    Cftype { name: "cgroup.controllers", show: Some(|_, at| Ok(at.cgrp.controllers().print())), ..BASE },
    Cftype {
        name: "cgroup.events",
        show: Some(|_, at| Ok(format!("populated {}\nfrozen 0\n", u8::from(at.cgrp.is_populated())).into())),
        ..CHILD
    },
    Cftype { name: "cgroup.kill", mode: 0o200, write: Some(kill), ..CHILD },
    Cftype {
        name: "cgroup.max.depth",
        mode: 0o644,
        show: Some(|_, at| Ok(print_max(at.cgrp.lock().max_depth.map(u64::from)))),
        write: Some(|_, at, text| {
            let limit = parse_max(text)?;
            at.cgrp.live()?.lock().max_depth = limit;
            Ok(CgroupEffects::default())
        }),
        ..BASE
    },
    Cftype {
        name: "cgroup.max.descendants",
        mode: 0o644,
        show: Some(|_, at| Ok(print_max(at.cgrp.lock().max_descendants.map(u64::from)))),
        write: Some(|_, at, text| {
            let limit = parse_max(text)?;
            at.cgrp.live()?.lock().max_descendants = limit;
            Ok(CgroupEffects::default())
        }),
        ..BASE
    },
    Cftype {
        name: "cgroup.type",
        mode: 0o644,
        show: Some(|_, at| Ok(at.cgrp.show_type().into())),
        write: Some(|_, at, text| {
            if text.trim_ascii() != b"threaded" {
                return Err(Errno::EINVAL);
            }
            at.cgrp.live()?.enable_threaded().map(|()| CgroupEffects::default())
        }),
        ..CHILD
    },
    Cftype { name: "cgroup.stat", show: Some(|_, at| Ok(show_stat(at.cgrp))), ..BASE },
    Cftype {
        name: "cgroup.procs",
        mode: 0o644,
        delegatable: true,
        show: Some(|kernel, at| {
            if at.cgrp.is_threaded() {
                return Err(Errno::EOPNOTSUPP);
            }
            Ok(numbers(kernel, at.task, kernel.cgroup_procs(at.cgrp)))
        }),
        write: Some(|kernel, at, text| {
            kernel.cgroup_procs_write(at.cgrp, at.task, text, true).map(|()| CgroupEffects::default())
        }),
        ..BASE
    },
    Cftype {
        name: "cgroup.subtree_control",
        mode: 0o644,
        delegatable: true,
        show: Some(|_, at| Ok(at.cgrp.subtree_control().print())),
        write: Some(|kernel, at, text| {
            let cred = kernel.task(at.task).ok_or(Errno::ESRCH)?.cred();
            let owner = (cred.fsuid, cred.fsgid);
            at.cgrp.write_subtree_control(text.trim_ascii(), owner).map(|()| CgroupEffects::default())
        }),
        ..BASE
    },
    Cftype {
        name: "cgroup.threads",
        mode: 0o644,
        delegatable: true,
        show: Some(|kernel, at| Ok(numbers(kernel, at.task, kernel.cgroup_threads(at.cgrp)))),
        write: Some(|kernel, at, text| {
            kernel.cgroup_procs_write(at.cgrp, at.task, text, false).map(|()| CgroupEffects::default())
        }),
        ..BASE
    },
    Cftype {
        name: "pids.current",
        show: Some(|_, at| Ok(format!("{}\n", at.cgrp.lock().pids.counter).into())),
        ..PIDS
    },
    Cftype {
        name: "pids.events",
        show: Some(|kernel, at| Ok(show_pids_events(kernel, at.cgrp, false))),
        ..PIDS
    },
    Cftype {
        name: "pids.events.local",
        show: Some(|kernel, at| Ok(show_pids_events(kernel, at.cgrp, true))),
        ..PIDS
    },
    Cftype {
        name: "pids.max",
        mode: 0o644,
        show: Some(|_, at| Ok(print_max(at.cgrp.lock().pids.limit))),
        write: Some(|_, at, text| {
            let limit = match text.trim_ascii() {
                b"max" => None,
                text => {
                    let limit = kstrtoll(text)?;
                    if !(0..PIDS_MAX).contains(&limit) {
                        return Err(Errno::EINVAL);
                    }
                    Some(limit as u64)
                }
            };
            at.cgrp.lock().pids.limit = limit;
            Ok(CgroupEffects::default())
        }),
        ..PIDS
    },
    Cftype {
        name: "pids.peak",
        show: Some(|_, at| Ok(format!("{}\n", at.cgrp.lock().pids.watermark).into())),
        ..PIDS
    },
];

/// The files that a group has, each with its inode number.
pub fn all(cgrp: &Cgroup) -> impl Iterator<Item = (u64, &'static Cftype)> {
    let (root, controllers) = (cgrp.parent().is_none(), cgrp.controllers());
    (cgrp.ino() + 1..).zip(&TYPES).filter(move |(_, file)| {
        !(root && file.not_on_root) && file.controller.is_none_or(|one| controllers.contains(one))
    })
}

/// The file of that name, where the group has it.
pub fn find(cgrp: &Cgroup, name: &[u8]) -> Option<(u64, &'static Cftype)> {
    all(cgrp).find(|(_, file)| file.name.as_bytes() == name)
}

impl Cftype {
    /// Mode and owner in one group.
    pub fn attr(&self, cgrp: &Cgroup) -> CgroupAttr {
        let state = cgrp.lock();
        let owner = match self.controller {
            Some(_) => state.controllers_owner,
            None => state.made_by,
        };
        let default = CgroupAttr { mode: self.mode, uid: owner.0, gid: owner.1 };
        state.attrs.get(self.name).copied().unwrap_or(default)
    }

    /// Changes them.
    pub fn set_attr(&self, cgrp: &Cgroup, attr: CgroupAttr) {
        cgrp.lock().attrs.insert(self.name, attr);
    }

    /// Whether it can be read, and written.
    pub fn access(&self) -> (bool, bool) {
        (self.show.is_some(), self.write.is_some())
    }

    /// What `reader` reads.
    ///
    /// # Errors
    /// `ENODEV` in a group that was removed; `EINVAL` for a file that is only written; `EOPNOTSUPP` for the processes of a
    /// threaded group.
    pub fn show(&self, kernel: &Kernel, cgrp: &Arc<Cgroup>, reader: TaskId) -> Result<Vec<u8>> {
        let show = self.show.ok_or(Errno::EINVAL)?;
        if cgrp.is_dead() {
            return Err(Errno::ENODEV);
        }
        show(kernel, At { cgrp, task: reader })
    }

    /// A write by `writer` (`cgroup_file_write`).
    ///
    /// # Errors
    /// `ENODEV` in a group that was removed; `EPERM` for what steers the root of the writer's cgroup namespace, where namespaces
    /// are boundaries of delegation; `EINVAL` for a file that is only read, and what it does not take; others as the file says.
    pub fn write(
        &self,
        kernel: &mut Kernel,
        cgrp: &Arc<Cgroup>,
        writer: TaskId,
        text: &[u8],
    ) -> Result<CgroupEffects> {
        let write = self.write.ok_or(Errno::EINVAL)?;
        if cgrp.is_dead() {
            return Err(Errno::ENODEV);
        }
        let ns = kernel.task(writer).and_then(|task| task.nsproxy()).ok_or(Errno::ESRCH)?.cgroup_ns();
        let inside = !ns.is_initial() && Arc::ptr_eq(ns.root(), cgrp);
        let delegated = kernel.cgroup_root.flags().contains(CgroupRootFlags::NS_DELEGATE);
        if inside && delegated && !self.delegatable {
            return Err(Errno::EPERM);
        }
        write(kernel, At { cgrp, task: writer }, text)
    }
}

impl Cgroup {
    /// `cgroup_kn_lock_live`: `ENOENT` for one that was removed.
    fn live(self: &Arc<Cgroup>) -> Result<&Arc<Cgroup>> {
        if self.is_dead() { Err(Errno::ENOENT) } else { Ok(self) }
    }
}

/// `cgroup_kill_write`: everything in the group and below, whoever it belongs to.
///
/// `ERANGE` for another number than 1; `EOPNOTSUPP` in a threaded group.
fn kill(kernel: &mut Kernel, at: At<'_>, text: &[u8]) -> Result<CgroupEffects> {
    const SIGKILL: i32 = 9;
    if kstrtoint(text)? != 1 {
        return Err(Errno::ERANGE);
    }
    let cgrp = at.cgrp.live()?;
    if cgrp.is_threaded() {
        return Err(Errno::EOPNOTSUPP);
    }
    let inside =
        kernel.tasks().filter(|task| task.in_cgroup && task.cgroup.is_descendant(cgrp)).map(Task::id);
    // A namespace's init dies only at the hands of somebody outside, as by any other signal.
    let killed = inside.filter(|id| kernel.signal_reaches(Some(at.task), *id, SIGKILL, false)).collect();
    Ok(CgroupEffects { killed })
}

/// `cgroup.stat`
fn show_stat(cgrp: &Arc<Cgroup>) -> Vec<u8> {
    let groups = cgrp.and_descendants();
    let with_pids = groups.iter().filter(|cgrp| cgrp.controllers().contains(Controllers::PIDS)).count();
    let dying = cgrp.nr_dying_descendants.load(Ordering::Relaxed);
    let live = groups.len() - 1;
    format!("nr_descendants {live}\nnr_subsys_pids {with_pids}\nnr_dying_descendants {dying}\n").into()
}

/// `pids.events` and `pids.events.local`
fn show_pids_events(kernel: &Kernel, cgrp: &Cgroup, local: bool) -> Vec<u8> {
    let pids = cgrp.lock().pids;
    let events = if kernel.cgroup_root.flags().contains(CgroupRootFlags::PIDS_LOCAL_EVENTS) {
        pids.fork_failures
    } else if local {
        pids.events_local
    } else {
        pids.events
    };
    format!("max {events}\n").into()
}

/// The numbers by which `reader` knows tasks, one a line; 0 for one it does not.
fn numbers(kernel: &Kernel, reader: TaskId, tasks: Vec<TaskId>) -> Vec<u8> {
    let mut text = String::new();
    for task in tasks {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", kernel.task_pid_vnr(task, reader));
    }
    text.into()
}

fn print_max(limit: Option<u64>) -> Vec<u8> {
    limit.map_or_else(|| "max\n".into(), |limit| format!("{limit}\n")).into()
}

/// "max" or a number that is not negative (`ERANGE`).
fn parse_max(text: &[u8]) -> Result<Option<u32>> {
    match text.trim_ascii() {
        b"max" => Ok(None),
        text => u32::try_from(kstrtoint(text)?).map(Some).map_err(|_| Errno::ERANGE),
    }
}

/// A number as the kernel's `kstrtoll` takes it with base 0, white space around it allowed. `EINVAL`, `ERANGE`.
pub(super) fn kstrtoll(text: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?.trim_ascii();
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.strip_prefix("0x") {
        Some(hex) => (16, hex),
        None if lower.starts_with('0') && lower.len() > 1 => (8, &lower[1..]),
        None => (10, &lower[..]),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(Errno::EINVAL);
    }
    let value = i128::from_str_radix(digits, radix).map_err(|_| Errno::ERANGE)?;
    i64::try_from(if negative { -value } else { value }).map_err(|_| Errno::ERANGE)
}

/// `kstrtoint`
pub(super) fn kstrtoint(text: &[u8]) -> Result<i32> {
    i32::try_from(kstrtoll(text)?).map_err(|_| Errno::ERANGE)
}
