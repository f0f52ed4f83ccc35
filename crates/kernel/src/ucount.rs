//! Counts per user (`struct ucounts`): how many processes a user has, for RLIMIT_NPROC. A process of a user in a nested
//! user namespace also counts for the user who created that namespace, and so on to the initial one.
//!
//! Linux counts namespaces per user too (`/proc/sys/user/max_*_namespaces`); this version does not.

use std::collections::BTreeMap;

use crate::cred::Cred;
use crate::user_namespace::{Kuid, UserNamespace};

/// Processes per user namespace (by inode number) and real user id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ucounts {
    nproc: BTreeMap<(u64, Kuid), u64>,
}

/// The accounts a process of `cred` counts for: its own user, then the creators of the enclosing namespaces.
fn accounts(cred: &Cred) -> impl Iterator<Item = (&UserNamespace, Kuid)> {
    let first: (&UserNamespace, Kuid) = (&cred.user_ns, cred.uid);
    std::iter::successors(Some(first), |(ns, _)| {
        ns.parent().map(|parent| -> (&UserNamespace, Kuid) { (parent, ns.owner_uid()) })
    })
}

impl Ucounts {
    pub(crate) fn inc_nproc(&mut self, cred: &Cred) {
        for (ns, uid) in accounts(cred) {
            *self.nproc.entry((ns.common().inum(), uid)).or_default() += 1;
        }
    }

    pub(crate) fn dec_nproc(&mut self, cred: &Cred) {
        for (ns, uid) in accounts(cred) {
            let key = (ns.common().inum(), uid);
            match self.nproc.get_mut(&key) {
                Some(1) => drop(self.nproc.remove(&key)),
                Some(n) => *n -= 1,
                None => debug_assert!(false, "process of uid {uid} was never counted"),
            }
        }
    }

    /// Processes of this real user in this namespace.
    pub(crate) fn nproc(&self, ns: &UserNamespace, uid: Kuid) -> u64 {
        self.nproc.get(&(ns.common().inum(), uid)).copied().unwrap_or(0)
    }

    /// `is_rlimit_overlimit`: whether the user has more than `limit` processes, or the creator of an enclosing namespace
    /// more than that namespace was given.
    pub(crate) fn nproc_over_limit(&self, cred: &Cred, limit: u64) -> bool {
        let mut max = limit;
        accounts(cred).any(|(ns, uid)| {
            let over = self.nproc(ns, uid) > max;
            max = ns.nproc_max;
            over
        })
    }

    /// Whether `count` more processes keep every account below its limit.
    pub(crate) fn nproc_has_room(&self, cred: &Cred, limit: u64, count: u64) -> bool {
        let mut max = limit;
        accounts(cred).all(|(ns, uid)| {
            let has_room = self.nproc(ns, uid).saturating_add(count) < max;
            max = ns.nproc_max;
            has_room
        })
    }
}

#[cfg(test)]
impl Ucounts {
    /// All accounts, for a recount.
    pub(crate) fn snapshot(&self) -> BTreeMap<(u64, Kuid), u64> {
        self.nproc.clone()
    }
}
