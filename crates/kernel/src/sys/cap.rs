//! `capget(2)` and `capset(2)`.

use crate::capability::{Cap, CapSet};
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::task::TaskId;

/// The three sets these calls deal in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapData {
    /// In force.
    pub effective: CapSet,
    /// May be made effective.
    pub permitted: CapSet,
    /// Kept over exec where the file has them too.
    pub inheritable: CapSet,
}

impl Kernel {
    /// `capget(2)` for a thread id, 0 for the caller. `EINVAL` for a negative number, `ESRCH` when nobody has it.
    pub fn capget(&self, caller: TaskId, pid: i32) -> Result<CapData> {
        let target = match pid {
            0 => caller,
            1.. => self.find_task_by_vpid(caller, pid).ok_or(Errno::ESRCH)?,
            _ => return Err(Errno::EINVAL),
        };
        let cred = self.cred_of(target)?;
        Ok(CapData {
            effective: cred.cap_effective,
            permitted: cred.cap_permitted,
            inheritable: cred.cap_inheritable,
        })
    }

    /// `capset(2)`; `pid` is the caller's thread id or 0.
    ///
    /// # Errors
    /// `EPERM` for another thread; for an inheritable capability beyond the inheritable and bounding sets, or (without
    /// CAP_SETPCAP) beyond the inheritable and permitted ones; for a gain of permitted capabilities; for effective ones
    /// that are not permitted.
    pub fn capset(&mut self, caller: TaskId, pid: i32, new: CapData) -> Result<()> {
        if pid != 0 && pid != self.task_pid_vnr(caller, caller) {
            return Err(Errno::EPERM);
        }
        let old = self.cred_of(caller)?;
        let capped = !old.ns_capable(&old.user_ns, Cap::SETPCAP);
        let beyond_permitted =
            capped && !new.inheritable.is_subset(old.cap_inheritable.or(old.cap_permitted));
        if beyond_permitted
            || !new.inheritable.is_subset(old.cap_inheritable.or(old.cap_bset))
            || !new.permitted.is_subset(old.cap_permitted)
            || !new.effective.is_subset(new.permitted)
        {
            return Err(Errno::EPERM);
        }
        let mut cred = (*old).clone();
        cred.cap_effective = new.effective;
        cred.cap_permitted = new.permitted;
        cred.cap_inheritable = new.inheritable;
        cred.cap_ambient = old.cap_ambient.and(new.permitted).and(new.inheritable);
        self.commit_creds(caller, cred);
        Ok(())
    }
}
