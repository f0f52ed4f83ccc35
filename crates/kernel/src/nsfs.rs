//! Namespaces as files (`/proc/PID/ns/*`, `ioctl_ns(2)`).

use std::sync::Arc;

use crate::cgroup::CgroupNamespace;
use crate::errno::{Errno, Result};
use crate::ipc::IpcNamespace;
use crate::kernel::Kernel;
use crate::mnt_ns::MntNs;
use crate::net::NetNamespace;
use crate::ns_common::{NsCommon, NsKind};
use crate::pid_namespace::PidNamespace;
use crate::task::TaskId;
use crate::time::TimeNamespace;
use crate::user_namespace::UserNamespace;
use crate::uts::UtsNamespace;

/// A namespace of any kind: what an nsfs file refers to, and what keeps it alive.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "one per kind of namespace")]
pub enum NsRef {
    Cgroup(Arc<CgroupNamespace>),
    Ipc(Arc<IpcNamespace>),
    Mnt(Arc<MntNs>),
    Net(Arc<NetNamespace>),
    Pid(Arc<PidNamespace>),
    Time(Arc<TimeNamespace>),
    User(Arc<UserNamespace>),
    Uts(Arc<UtsNamespace>),
}

/// The links of `/proc/PID/ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the links")]
pub enum NsLink {
    Cgroup,
    Ipc,
    Mnt,
    Net,
    Pid,
    PidForChildren,
    Time,
    TimeForChildren,
    User,
    Uts,
}

impl NsLink {
    /// All of them, in the order of the directory.
    pub const ALL: [NsLink; 10] = [
        NsLink::Cgroup,
        NsLink::Ipc,
        NsLink::Mnt,
        NsLink::Net,
        NsLink::Pid,
        NsLink::PidForChildren,
        NsLink::Time,
        NsLink::TimeForChildren,
        NsLink::User,
        NsLink::Uts,
    ];
    /// The name of the link.
    pub fn name(self) -> &'static str {
        match self {
            NsLink::Cgroup => "cgroup",
            NsLink::Ipc => "ipc",
            NsLink::Mnt => "mnt",
            NsLink::Net => "net",
            NsLink::Pid => "pid",
            NsLink::PidForChildren => "pid_for_children",
            NsLink::Time => "time",
            NsLink::TimeForChildren => "time_for_children",
            NsLink::User => "user",
            NsLink::Uts => "uts",
        }
    }
}

/// What a namespace shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NsInfo {
    /// Inode number in nsfs.
    pub ino: u64,
    /// Kind.
    pub kind: NsKind,
}

impl NsRef {
    /// Kind, inode number, owner and count.
    pub fn common(&self) -> &NsCommon {
        match self {
            NsRef::Cgroup(ns) => ns.common(),
            NsRef::Ipc(ns) => ns.common(),
            NsRef::Mnt(ns) => ns.common(),
            NsRef::Net(ns) => ns.common(),
            NsRef::Pid(ns) => ns.common(),
            NsRef::Time(ns) => ns.common(),
            NsRef::User(ns) => ns.common(),
            NsRef::Uts(ns) => ns.common(),
        }
    }
    /// Number and kind.
    pub fn info(&self) -> NsInfo {
        NsInfo { ino: self.common().inum(), kind: self.common().kind() }
    }
    /// The text of the link, such as `uts:[4043309060]`.
    pub fn link_text(&self) -> String {
        format!("{:?}", self.common())
    }
}

impl Kernel {
    /// The namespace behind `/proc/PID/ns/LINK` of a task.
    ///
    /// # Errors
    /// `ENOENT` for a task that has ended (but for `user` and `pid`), and for `pid_for_children` while that namespace has
    /// no init; `ESRCH` for one that is released.
    pub fn ns_get(&self, task: TaskId, link: NsLink) -> Result<NsRef> {
        let task = self.task(task).ok_or(Errno::ESRCH)?;
        match link {
            NsLink::User => return Ok(NsRef::User(task.cred.user_ns.clone())),
            NsLink::Pid => return Ok(NsRef::Pid(task.pid.ns().clone())),
            _ => {}
        }
        let nsproxy = task.nsproxy.as_ref().ok_or(Errno::ENOENT)?;
        Ok(match link {
            NsLink::Cgroup => NsRef::Cgroup(nsproxy.cgroup.clone()),
            NsLink::Ipc => NsRef::Ipc(nsproxy.ipc.clone()),
            NsLink::Mnt => NsRef::Mnt(nsproxy.mnt.clone()),
            NsLink::Net => NsRef::Net(nsproxy.net.clone()),
            NsLink::Time => NsRef::Time(nsproxy.time.clone()),
            NsLink::TimeForChildren => NsRef::Time(nsproxy.time_for_children.clone()),
            NsLink::Uts => NsRef::Uts(nsproxy.uts.clone()),
            NsLink::PidForChildren => {
                // Only before the first process is born there: one whose init has died is shown.
                let ns = &nsproxy.pid_for_children;
                if ns.is_alive() && ns.child_reaper().is_none() {
                    return Err(Errno::ENOENT);
                }
                NsRef::Pid(ns.clone())
            }
            NsLink::User | NsLink::Pid => return Err(Errno::EINVAL),
        })
    }

    /// `NS_GET_USERNS`: the user namespace that owns it. `EPERM` when that is outside the caller's.
    pub fn ns_get_userns(&self, caller: TaskId, ns: &NsRef) -> Result<Arc<UserNamespace>> {
        let mine = &self.task(caller).ok_or(Errno::ESRCH)?.cred.user_ns;
        ns.common().owner().filter(|owner| owner.is_in(mine)).cloned().ok_or(Errno::EPERM)
    }

    /// `NS_GET_PARENT`. `EINVAL` for kinds without hierarchy; `EPERM` when it is outside the caller's own namespace.
    pub fn ns_get_parent(&self, caller: TaskId, ns: &NsRef) -> Result<NsRef> {
        match ns {
            NsRef::User(_) => self.ns_get_userns(caller, ns).map(NsRef::User),
            NsRef::Pid(ns) => {
                let mine = self.active_pid_ns(caller).ok_or(Errno::ESRCH)?;
                ns.parent().filter(|parent| parent.is_in(&mine)).cloned().map(NsRef::Pid).ok_or(Errno::EPERM)
            }
            _ => Err(Errno::EINVAL),
        }
    }

    /// `NS_GET_OWNER_UID`: the creator's user id as the caller sees it. `EINVAL` for other than user namespaces.
    pub fn ns_get_owner_uid(&self, caller: TaskId, ns: &NsRef) -> Result<u32> {
        let NsRef::User(ns) = ns else { return Err(Errno::EINVAL) };
        Ok(self.task(caller).ok_or(Errno::ESRCH)?.cred.user_ns.from_kuid_munged(ns.owner_uid()))
    }
}
