//! Supplementary groups: `getgroups(2)`, `setgroups(2)`.

use crate::capability::Cap;
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::task::TaskId;

/// Most supplementary groups.
pub const NGROUPS_MAX: usize = 65536;

impl Kernel {
    /// `getgroups(2)`: ascending kernel ids as the caller sees them.
    pub fn getgroups(&self, caller: TaskId) -> Result<Vec<u32>> {
        let cred = self.cred_of(caller)?;
        Ok(cred.groups.iter().map(|gid| cred.user_ns.from_kgid_munged(*gid)).collect())
    }

    /// `setgroups(2)`.
    ///
    /// # Errors
    /// `EPERM` without CAP_SETGID, or where the user namespace has no group map or has given up setgroups; `EINVAL` for
    /// more than 65536 groups or an unmapped id.
    pub fn setgroups(&mut self, caller: TaskId, groups: &[u32]) -> Result<()> {
        let old = self.cred_of(caller)?;
        if !old.ns_capable(&old.user_ns, Cap::SETGID) || !old.user_ns.may_setgroups() {
            return Err(Errno::EPERM);
        }
        if groups.len() > NGROUPS_MAX {
            return Err(Errno::EINVAL);
        }
        let mut kgids = groups
            .iter()
            .map(|gid| old.user_ns.make_kgid(*gid).ok_or(Errno::EINVAL))
            .collect::<Result<Vec<_>>>()?;
        kgids.sort_unstable();
        let mut new = (*old).clone();
        new.groups = kgids.into();
        self.commit_creds(caller, new);
        Ok(())
    }
}
