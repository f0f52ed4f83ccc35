//! User ids: `setuid(2)`, `setreuid(2)`, `setresuid(2)`, `setfsuid(2)` and their readers.
//!
//! -1 leaves an id alone where the call says so. Capabilities follow the ids as `capabilities(7)` ("Effect of user ID
//! changes on capabilities") says, unless securebits forbid it.

use crate::capability::{Cap, CapSet};
use crate::cred::{Cred, Securebits};
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::rlimit::Resource;
use crate::task::TaskId;
use crate::user_namespace::Kuid;

/// "Do not change".
const KEEP: u32 = u32::MAX;

/// The kernel id of `uid`, `None` for -1. `EINVAL` without a mapping.
fn kuid(cred: &Cred, uid: u32) -> Result<Option<Kuid>> {
    if uid == KEEP { Ok(None) } else { cred.user_ns.make_kuid(uid).map(Some).ok_or(Errno::EINVAL) }
}

/// `cap_emulate_setxuid`: giving up the last id that is root drops capabilities, and the effective ones follow the
/// effective id.
fn fixup_capabilities(new: &mut Cred, old: &Cred) {
    if old.securebits.contains(Securebits::NO_SETUID_FIXUP) {
        return;
    }
    let root = old.user_ns.make_kuid(0);
    let has_root = |c: &Cred| [c.uid, c.euid, c.suid].iter().any(|id| Some(*id) == root);
    if has_root(old) && !has_root(new) {
        if !old.securebits.contains(Securebits::KEEP_CAPS) {
            new.cap_permitted = CapSet::EMPTY;
            new.cap_effective = CapSet::EMPTY;
        }
        // The ambient set ends even where permitted capabilities are kept.
        new.cap_ambient = CapSet::EMPTY;
    }
    if Some(old.euid) == root && Some(new.euid) != root {
        new.cap_effective = CapSet::EMPTY;
    }
    if Some(old.euid) != root && Some(new.euid) == root {
        new.cap_effective = new.cap_permitted;
    }
}

/// The part of `cap_task_fix_setuid` for `setfsuid`: capabilities over files follow the file-access id.
fn fixup_fs_capabilities(new: &mut Cred, old: &Cred) {
    if old.securebits.contains(Securebits::NO_SETUID_FIXUP) {
        return;
    }
    let root = old.user_ns.make_kuid(0);
    if Some(old.fsuid) == root && Some(new.fsuid) != root {
        new.cap_effective = new.cap_effective.minus(CapSet::FS);
    }
    if Some(old.fsuid) != root && Some(new.fsuid) == root {
        new.cap_effective = new.cap_effective.or(new.cap_permitted.and(CapSet::FS));
    }
}

impl Kernel {
    pub(super) fn cred_of(&self, task: TaskId) -> Result<std::sync::Arc<Cred>> {
        self.task(task).map(|t| t.cred.clone()).ok_or(Errno::ESRCH)
    }

    /// Commits a change of user ids, and marks the task when its new user has too many processes: not this call but the
    /// next exec fails (`flag_nproc_exceeded`).
    fn commit_uids(&mut self, caller: TaskId, old: &Cred, new: Cred) -> Result<()> {
        let limit = self.rlimit(caller, Resource::Nproc)?.cur;
        if new.uid != old.uid {
            let exceeded = new.uid != 0 && self.ucounts.nproc_over_limit(&new, limit);
            self.tasks.entry(caller).and_modify(|t| t.nproc_exceeded = exceeded);
        }
        self.commit_creds(caller, new);
        Ok(())
    }

    /// `setuid(2)`. `EINVAL` for an unmapped id; `EPERM` without CAP_SETUID when it is neither real nor saved id.
    pub fn setuid(&mut self, caller: TaskId, uid: u32) -> Result<()> {
        let old = self.cred_of(caller)?;
        let id = old.user_ns.make_kuid(uid).ok_or(Errno::EINVAL)?;
        let mut new = (*old).clone();
        if old.ns_capable(&old.user_ns, Cap::SETUID) {
            (new.uid, new.suid) = (id, id);
        } else if id != old.uid && id != old.suid {
            return Err(Errno::EPERM);
        }
        (new.euid, new.fsuid) = (id, id);
        fixup_capabilities(&mut new, &old);
        self.commit_uids(caller, &old, new)
    }

    /// `setreuid(2)`. `EINVAL` for an unmapped id; `EPERM` without CAP_SETUID when the real id is not to be the real or
    /// effective one, or the effective id none of the three.
    pub fn setreuid(&mut self, caller: TaskId, ruid: u32, euid: u32) -> Result<()> {
        let old = self.cred_of(caller)?;
        let (ruid, euid) = (kuid(&old, ruid)?, kuid(&old, euid)?);
        let capable = old.ns_capable(&old.user_ns, Cap::SETUID);
        let real_ok = ruid.is_none_or(|id| id == old.uid || id == old.euid);
        let effective_ok = euid.is_none_or(|id| id == old.uid || id == old.euid || id == old.suid);
        if !(capable || real_ok && effective_ok) {
            return Err(Errno::EPERM);
        }
        let mut new = (*old).clone();
        new.uid = ruid.unwrap_or(old.uid);
        new.euid = euid.unwrap_or(old.euid);
        if ruid.is_some() || euid.is_some_and(|id| id != old.uid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        fixup_capabilities(&mut new, &old);
        self.commit_uids(caller, &old, new)
    }

    /// `setresuid(2)`. `EINVAL` for an unmapped id; `EPERM` without CAP_SETUID when one is none of the three old ones.
    pub fn setresuid(&mut self, caller: TaskId, ruid: u32, euid: u32, suid: u32) -> Result<()> {
        let old = self.cred_of(caller)?;
        let (ruid, euid, suid) = (kuid(&old, ruid)?, kuid(&old, euid)?, kuid(&old, suid)?);
        let known = |id: Option<Kuid>| id.is_none_or(|id| [old.uid, old.euid, old.suid].contains(&id));
        let capable = old.ns_capable(&old.user_ns, Cap::SETUID);
        if !(capable || known(ruid) && known(euid) && known(suid)) {
            return Err(Errno::EPERM);
        }
        let mut new = (*old).clone();
        new.uid = ruid.unwrap_or(old.uid);
        new.euid = euid.unwrap_or(old.euid);
        new.suid = suid.unwrap_or(old.suid);
        new.fsuid = new.euid;
        fixup_capabilities(&mut new, &old);
        self.commit_uids(caller, &old, new)
    }

    /// `setfsuid(2)`: never fails, and returns the previous id whether it changed or not.
    pub fn setfsuid(&mut self, caller: TaskId, uid: u32) -> Result<u32> {
        let old = self.cred_of(caller)?;
        let previous = old.user_ns.from_kuid_munged(old.fsuid);
        let Some(id) = old.user_ns.make_kuid(uid) else { return Ok(previous) };
        let known = [old.uid, old.euid, old.suid, old.fsuid].contains(&id);
        if id != old.fsuid && (known || old.ns_capable(&old.user_ns, Cap::SETUID)) {
            let mut new = (*old).clone();
            new.fsuid = id;
            fixup_fs_capabilities(&mut new, &old);
            self.commit_creds(caller, new);
        }
        Ok(previous)
    }

    /// `getresuid(2)`: real, effective and saved id; unmapped ones show as the overflow id. `getuid(2)` and `geteuid(2)`
    /// are the first two.
    pub fn getresuid(&self, caller: TaskId) -> Result<(u32, u32, u32)> {
        let cred = self.cred_of(caller)?;
        let show = |id| cred.user_ns.from_kuid_munged(id);
        Ok((show(cred.uid), show(cred.euid), show(cred.suid)))
    }
}
