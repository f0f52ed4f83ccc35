//! Group ids: `setgid(2)`, `setregid(2)`, `setresgid(2)`, `setfsgid(2)` and their readers. Capabilities do not follow them.

use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::task::TaskId;
use crate::user_namespace::Kgid;

/// The kernel id of `gid`, `None` for -1. `EINVAL` without a mapping.
fn kgid(cred: &Cred, gid: u32) -> Result<Option<Kgid>> {
    if gid == u32::MAX { Ok(None) } else { cred.user_ns.make_kgid(gid).map(Some).ok_or(Errno::EINVAL) }
}

impl Kernel {
    /// `setgid(2)`. `EINVAL` for an unmapped id; `EPERM` without CAP_SETGID when it is neither real nor saved id.
    pub fn setgid(&mut self, caller: TaskId, gid: u32) -> Result<()> {
        let old = self.cred_of(caller)?;
        let id = old.user_ns.make_kgid(gid).ok_or(Errno::EINVAL)?;
        let mut new = (*old).clone();
        if old.ns_capable(&old.user_ns, Cap::SETGID) {
            (new.gid, new.sgid) = (id, id);
        } else if id != old.gid && id != old.sgid {
            return Err(Errno::EPERM);
        }
        (new.egid, new.fsgid) = (id, id);
        self.commit_creds(caller, new);
        Ok(())
    }

    /// `setregid(2)`. `EINVAL` for an unmapped id; `EPERM` without CAP_SETGID when the real id is not to be the real or
    /// effective one, or the effective id none of the three.
    pub fn setregid(&mut self, caller: TaskId, rgid: u32, egid: u32) -> Result<()> {
        let old = self.cred_of(caller)?;
        let (rgid, egid) = (kgid(&old, rgid)?, kgid(&old, egid)?);
        let capable = old.ns_capable(&old.user_ns, Cap::SETGID);
        let real_ok = rgid.is_none_or(|id| id == old.gid || id == old.egid);
        let effective_ok = egid.is_none_or(|id| id == old.gid || id == old.egid || id == old.sgid);
        if !(capable || real_ok && effective_ok) {
            return Err(Errno::EPERM);
        }
        let mut new = (*old).clone();
        new.gid = rgid.unwrap_or(old.gid);
        new.egid = egid.unwrap_or(old.egid);
        if rgid.is_some() || egid.is_some_and(|id| id != old.gid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        self.commit_creds(caller, new);
        Ok(())
    }

    /// `setresgid(2)`. `EINVAL` for an unmapped id; `EPERM` without CAP_SETGID when one is none of the three old ones.
    pub fn setresgid(&mut self, caller: TaskId, rgid: u32, egid: u32, sgid: u32) -> Result<()> {
        let old = self.cred_of(caller)?;
        let (rgid, egid, sgid) = (kgid(&old, rgid)?, kgid(&old, egid)?, kgid(&old, sgid)?);
        let known = |id: Option<Kgid>| id.is_none_or(|id| [old.gid, old.egid, old.sgid].contains(&id));
        let capable = old.ns_capable(&old.user_ns, Cap::SETGID);
        if !(capable || known(rgid) && known(egid) && known(sgid)) {
            return Err(Errno::EPERM);
        }
        let mut new = (*old).clone();
        new.gid = rgid.unwrap_or(old.gid);
        new.egid = egid.unwrap_or(old.egid);
        new.sgid = sgid.unwrap_or(old.sgid);
        new.fsgid = new.egid;
        self.commit_creds(caller, new);
        Ok(())
    }

    /// `setfsgid(2)`: never fails, and returns the previous id whether it changed or not.
    pub fn setfsgid(&mut self, caller: TaskId, gid: u32) -> Result<u32> {
        let old = self.cred_of(caller)?;
        let previous = old.user_ns.from_kgid_munged(old.fsgid);
        let Some(id) = old.user_ns.make_kgid(gid) else { return Ok(previous) };
        let known = [old.gid, old.egid, old.sgid, old.fsgid].contains(&id);
        if id != old.fsgid && (known || old.ns_capable(&old.user_ns, Cap::SETGID)) {
            let mut new = (*old).clone();
            new.fsgid = id;
            self.commit_creds(caller, new);
        }
        Ok(previous)
    }

    /// `getresgid(2)`: real, effective and saved id; unmapped ones show as the overflow id.
    pub fn getresgid(&self, caller: TaskId) -> Result<(u32, u32, u32)> {
        let cred = self.cred_of(caller)?;
        let show = |id| cred.user_ns.from_kgid_munged(id);
        Ok((show(cred.gid), show(cred.egid), show(cred.sgid)))
    }
}
