//! Credentials (`credentials(7)`, `struct cred`): the ids and capabilities a task acts with, always relative to a user
//! namespace. A `Cred` is never changed once a task holds it; a change is a new one committed by
//! `Kernel::commit_creds`.

use std::sync::Arc;

use bitflags::bitflags;

use crate::capability::{Cap, CapSet};
use crate::kernel::Kernel;
use crate::task::TaskId;
use crate::user_namespace::{Kgid, Kuid, UserNamespace};
use crate::vfs::WalkCred;

bitflags! {
    /// Secure bits (`capabilities(7)`). Every bit but the last pairs has its lock just above it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Securebits: u32 {
        /// Root's user id gives no capabilities.
        const NOROOT = 1 << 0;
        /// Lock of the above.
        const NOROOT_LOCKED = 1 << 1;
        /// Changes of user id do not change capabilities.
        const NO_SETUID_FIXUP = 1 << 2;
        /// Lock of the above.
        const NO_SETUID_FIXUP_LOCKED = 1 << 3;
        /// Permitted capabilities survive giving up user id 0.
        const KEEP_CAPS = 1 << 4;
        /// Lock of the above.
        const KEEP_CAPS_LOCKED = 1 << 5;
        /// The ambient set cannot grow.
        const NO_CAP_AMBIENT_RAISE = 1 << 6;
        /// Lock of the above.
        const NO_CAP_AMBIENT_RAISE_LOCKED = 1 << 7;
        /// Interpreters should ask before they run a file.
        const EXEC_RESTRICT_FILE = 1 << 8;
        /// Lock of the above.
        const EXEC_RESTRICT_FILE_LOCKED = 1 << 9;
        /// Interpreters should refuse interactive commands.
        const EXEC_DENY_INTERACTIVE = 1 << 10;
        /// Lock of the above.
        const EXEC_DENY_INTERACTIVE_LOCKED = 1 << 11;
    }
}

/// The credentials of a task. Ids are kernel ids (see [`crate::user_namespace`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cred {
    /// Real user id.
    pub uid: Kuid,
    /// Real group id.
    pub gid: Kgid,
    /// Saved user id.
    pub suid: Kuid,
    /// Saved group id.
    pub sgid: Kgid,
    /// Effective user id.
    pub euid: Kuid,
    /// Effective group id.
    pub egid: Kgid,
    /// User id for file access.
    pub fsuid: Kuid,
    /// Group id for file access.
    pub fsgid: Kgid,
    /// Secure bits.
    pub securebits: Securebits,
    /// Capabilities kept over an exec of a file that has them inheritable.
    pub cap_inheritable: CapSet,
    /// Capabilities the task may make effective.
    pub cap_permitted: CapSet,
    /// Capabilities in force.
    pub cap_effective: CapSet,
    /// Limit of what an exec can give.
    pub cap_bset: CapSet,
    /// Capabilities kept over an exec of an ordinary file.
    pub cap_ambient: CapSet,
    /// Supplementary groups, sorted.
    pub groups: Arc<[Kgid]>,
    /// The namespace in which all that holds.
    pub user_ns: Arc<UserNamespace>,
}

impl Cred {
    /// Root with every capability in `user_ns`: what `init_cred` is in the initial namespace.
    pub fn root(user_ns: Arc<UserNamespace>) -> Cred {
        Cred {
            uid: 0,
            gid: 0,
            suid: 0,
            sgid: 0,
            euid: 0,
            egid: 0,
            fsuid: 0,
            fsgid: 0,
            securebits: Securebits::empty(),
            cap_inheritable: CapSet::EMPTY,
            cap_permitted: CapSet::FULL,
            cap_effective: CapSet::FULL,
            cap_bset: CapSet::FULL,
            cap_ambient: CapSet::EMPTY,
            groups: Arc::from([]),
            user_ns,
        }
    }

    /// An ordinary user without capabilities in `user_ns`.
    pub fn user(uid: Kuid, gid: Kgid, groups: &[Kgid], user_ns: Arc<UserNamespace>) -> Cred {
        let mut sorted = groups.to_vec();
        sorted.sort_unstable();
        Cred {
            uid,
            gid,
            suid: uid,
            sgid: gid,
            euid: uid,
            egid: gid,
            fsuid: uid,
            fsgid: gid,
            cap_permitted: CapSet::EMPTY,
            cap_effective: CapSet::EMPTY,
            groups: sorted.into(),
            ..Cred::root(user_ns)
        }
    }

    /// `cap_capable`: whether these credentials have `cap` in force in `ns`: by the effective set in their own
    /// namespace, or by having created an ancestor of `ns` (or `ns` itself) from the own namespace.
    pub fn ns_capable(&self, ns: &UserNamespace, cap: Cap) -> bool {
        let mut ns = ns;
        loop {
            if *ns == *self.user_ns {
                return self.cap_effective.has(cap);
            }
            if ns.level() <= self.user_ns.level() {
                return false;
            }
            let Some(parent) = ns.parent() else { return false };
            if **parent == *self.user_ns && ns.owner_uid() == self.euid {
                return true;
            }
            ns = parent;
        }
    }

    /// Whether they have `cap` in the initial user namespace (`capable`).
    pub fn capable(&self, cap: Cap) -> bool {
        self.user_ns.level() == 0 && self.cap_effective.has(cap)
    }

    /// `capable_wrt_inode_uidgid`: whether they have `cap` in their own namespace over a file with this owner and group,
    /// which both must be mapped there.
    pub fn capable_wrt_inode(&self, cap: Cap, uid: Kuid, gid: Kgid) -> bool {
        self.cap_effective.has(cap)
            && (self.user_ns.level() == 0
                || self.user_ns.from_kuid(uid).is_some() && self.user_ns.from_kgid(gid).is_some())
    }

    /// `in_group_p`: whether `gid` is the file-access group or a supplementary one.
    pub fn in_group(&self, gid: Kgid) -> bool {
        self.fsgid == gid || self.groups.binary_search(&gid).is_ok()
    }
    /// `in_egroup_p`: the same with the effective group.
    pub fn in_egroup(&self, gid: Kgid) -> bool {
        self.egid == gid || self.groups.binary_search(&gid).is_ok()
    }

    /// Calls `f` with these credentials as path walk wants them.
    pub fn with_walk_cred<R>(&self, f: impl FnOnce(&WalkCred<'_>) -> R) -> R {
        let mapped =
            |uid, gid| self.user_ns.from_kuid(uid).is_some() && self.user_ns.from_kgid(gid).is_some();
        let has = |cap| self.cap_effective.has(cap);
        f(&WalkCred {
            fsuid: self.fsuid,
            fsgid: self.fsgid,
            groups: &self.groups,
            dac_override: has(Cap::DAC_OVERRIDE),
            dac_read_search: has(Cap::DAC_READ_SEARCH),
            fowner: has(Cap::FOWNER),
            fsetid: has(Cap::FSETID),
            chown: has(Cap::CHOWN),
            // Device nodes and trusted attributes concern the whole system.
            mknod: self.capable(Cap::MKNOD),
            sys_admin: self.capable(Cap::SYS_ADMIN),
            sys_chroot: has(Cap::SYS_CHROOT),
            setfcap: has(Cap::SETFCAP),
            mapped: if self.user_ns.level() == 0 { None } else { Some(&mapped) },
            runs: None,
        })
    }

    /// The credentials `access(2)` answers for (`access_override_creds`): file access with the real ids, and the
    /// capabilities an exec by the real user would have.
    #[must_use]
    pub fn for_access(&self) -> Cred {
        let mut cred = self.clone();
        (cred.fsuid, cred.fsgid) = (self.uid, self.gid);
        if !self.securebits.contains(Securebits::NO_SETUID_FIXUP) {
            let root = self.user_ns.make_kuid(0) == Some(self.uid);
            cred.cap_effective = if root { self.cap_permitted } else { CapSet::EMPTY };
        }
        cred
    }

    /// `set_cred_user_ns`: enters `ns`: every capability there, securebits reset. Ids stay as they are.
    pub fn set_user_ns(&mut self, ns: Arc<UserNamespace>) {
        self.securebits = Securebits::empty();
        self.cap_inheritable = CapSet::EMPTY;
        self.cap_permitted = CapSet::FULL;
        self.cap_effective = CapSet::FULL;
        self.cap_ambient = CapSet::EMPTY;
        self.cap_bset = CapSet::FULL;
        self.user_ns = ns;
    }

    /// The real user id as the task itself sees it (`getuid(2)`).
    pub fn show_uid(&self) -> u32 {
        self.user_ns.from_kuid_munged(self.uid)
    }
    /// The real group id as the task itself sees it (`getgid(2)`).
    pub fn show_gid(&self) -> u32 {
        self.user_ns.from_kgid_munged(self.gid)
    }

    /// `cred_cap_issubset`: whether `new` has no capability that `self` lacks, or lives in a namespace that `self` owns.
    fn covers_caps_of(&self, new: &Cred) -> bool {
        if self.user_ns == new.user_ns && new.cap_permitted.is_subset(self.cap_permitted) {
            return true;
        }
        let mut ns: &UserNamespace = &new.user_ns;
        while let Some(parent) = ns.parent() {
            if *parent == self.user_ns && ns.owner_uid() == self.euid {
                return true;
            }
            ns = parent;
        }
        false
    }
}

impl Cred {
    /// Whether a task that goes from these credentials to `new` becomes undumpable: its effective ids change, or it gains capabilities.
    pub(crate) fn is_changed_by(&self, new: &Cred) -> bool {
        let ids = |cred: &Cred| (cred.euid, cred.egid, cred.fsuid, cred.fsgid);
        ids(self) != ids(new) || !self.covers_caps_of(new)
    }
}

impl Kernel {
    /// Whether the task has `cap` in the initial user namespace. `false` for a task that is gone.
    pub fn capable(&self, task: TaskId, cap: Cap) -> bool {
        self.task(task).is_some_and(|t| t.cred().capable(cap))
    }

    /// Whether the task has `cap` in `ns`. `false` for a task that is gone.
    pub fn ns_capable(&self, task: TaskId, ns: &UserNamespace, cap: Cap) -> bool {
        self.task(task).is_some_and(|t| t.cred().ns_capable(ns, cap))
    }

    /// Gives the task new credentials (`commit_creds`): a change of the effective ids or a gain of capabilities makes the
    /// address space undumpable, and the process moves to the account of its new real user.
    pub(crate) fn commit_creds(&mut self, task: TaskId, new: Cred) {
        let Some(t) = self.tasks.get_mut(&task) else { return };
        let old = t.cred.clone();
        if old.is_changed_by(&new)
            && let Some(mm) = &t.mm
        {
            mm.set_dumpable(self.suid_dumpable);
        }
        let new = Arc::new(new);
        t.cred = new.clone();
        if old.uid != new.uid || old.user_ns != new.user_ns {
            self.ucounts.inc_nproc(&new);
            self.ucounts.dec_nproc(&old);
        }
    }
}
