//! The operations of `prctl(2)` on credentials and on the process as a whole. Unused arguments are checked by the caller
//! of these methods only where Linux checks them per operation; that is said at each.

use crate::capability::Cap;
use crate::cred::Securebits;
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::task::{Dumpable, TaskId};

/// A request of `PR_CAP_AMBIENT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapAmbient {
    /// `PR_CAP_AMBIENT_IS_SET`.
    IsSet(Cap),
    /// `PR_CAP_AMBIENT_RAISE`.
    Raise(Cap),
    /// `PR_CAP_AMBIENT_LOWER`.
    Lower(Cap),
    /// `PR_CAP_AMBIENT_CLEAR_ALL`.
    ClearAll,
}

/// The request that arguments 2 to 5 of `prctl(PR_CAP_AMBIENT)` make. `EINVAL` for an unknown one, an invalid capability,
/// or unused arguments that are not 0.
pub fn ambient_request(args: [u64; 4]) -> Result<CapAmbient> {
    let cap = || Cap::new(args[1]).ok_or(Errno::EINVAL);
    match args {
        [4, 0, 0, 0] => Ok(CapAmbient::ClearAll),
        [1, _, 0, 0] => cap().map(CapAmbient::IsSet),
        [2, _, 0, 0] => cap().map(CapAmbient::Raise),
        [3, _, 0, 0] => cap().map(CapAmbient::Lower),
        _ => Err(Errno::EINVAL),
    }
}

const ALL_LOCKS: u32 = 0xaaa;
/// Bits that anyone may set, with their locks.
const UNPRIVILEGED: u32 = 0xf00;

impl Kernel {
    /// `PR_CAPBSET_READ`. `EINVAL` for an invalid capability.
    pub fn capbset_read(&self, caller: TaskId, cap: u64) -> Result<bool> {
        let cap = Cap::new(cap).ok_or(Errno::EINVAL)?;
        Ok(self.cred_of(caller)?.cap_bset.has(cap))
    }

    /// `PR_CAPBSET_DROP`. `EPERM` without CAP_SETPCAP, `EINVAL` for an invalid capability.
    pub fn capbset_drop(&mut self, caller: TaskId, cap: u64) -> Result<()> {
        let old = self.cred_of(caller)?;
        if !old.ns_capable(&old.user_ns, Cap::SETPCAP) {
            return Err(Errno::EPERM);
        }
        let cap = Cap::new(cap).ok_or(Errno::EINVAL)?;
        let mut new = (*old).clone();
        new.cap_bset = new.cap_bset.without(cap);
        self.commit_creds(caller, new);
        Ok(())
    }

    /// `PR_CAP_AMBIENT`: the result of the call. `EPERM` for raising one that is not both permitted and inheritable, or
    /// where securebits forbid it.
    pub fn cap_ambient(&mut self, caller: TaskId, request: CapAmbient) -> Result<bool> {
        let old = self.cred_of(caller)?;
        let mut new = (*old).clone();
        match request {
            CapAmbient::IsSet(cap) => return Ok(old.cap_ambient.has(cap)),
            CapAmbient::ClearAll => new.cap_ambient = Default::default(),
            CapAmbient::Lower(cap) => new.cap_ambient = new.cap_ambient.without(cap),
            CapAmbient::Raise(cap) => {
                let allowed = old.cap_permitted.has(cap)
                    && old.cap_inheritable.has(cap)
                    && !old.securebits.contains(Securebits::NO_CAP_AMBIENT_RAISE);
                if !allowed {
                    return Err(Errno::EPERM);
                }
                new.cap_ambient = new.cap_ambient.with(cap);
            }
        }
        self.commit_creds(caller, new);
        Ok(false)
    }

    /// `PR_GET_SECUREBITS`.
    pub fn securebits(&self, caller: TaskId) -> Result<Securebits> {
        Ok(self.cred_of(caller)?.securebits)
    }

    /// `PR_SET_SECUREBITS`. `EPERM` for unknown bits, for changing a locked bit or unlocking one, and without CAP_SETPCAP
    /// for more than the bits about interpreters.
    pub fn set_securebits(&mut self, caller: TaskId, bits: u64) -> Result<()> {
        let old = self.cred_of(caller)?;
        let wanted = u32::try_from(bits).ok().and_then(Securebits::from_bits).ok_or(Errno::EPERM)?;
        let (had, want) = (old.securebits.bits(), wanted.bits());
        let changed = had ^ want;
        let locked = (had & ALL_LOCKS) >> 1;
        let privileged = changed & !UNPRIVILEGED != 0 || changed == 0;
        if locked & changed != 0
            || had & ALL_LOCKS & !want != 0
            || privileged && !old.ns_capable(&old.user_ns, Cap::SETPCAP)
        {
            return Err(Errno::EPERM);
        }
        let mut new = (*old).clone();
        new.securebits = wanted;
        self.commit_creds(caller, new);
        Ok(())
    }

    /// `PR_GET_KEEPCAPS`.
    pub fn keepcaps(&self, caller: TaskId) -> Result<bool> {
        Ok(self.cred_of(caller)?.securebits.contains(Securebits::KEEP_CAPS))
    }

    /// `PR_SET_KEEPCAPS`. `EINVAL` for other than 0 and 1, `EPERM` when the bit is locked.
    pub fn set_keepcaps(&mut self, caller: TaskId, keep: u64) -> Result<()> {
        let old = self.cred_of(caller)?;
        if keep > 1 {
            return Err(Errno::EINVAL);
        }
        if old.securebits.contains(Securebits::KEEP_CAPS_LOCKED) {
            return Err(Errno::EPERM);
        }
        let mut new = (*old).clone();
        new.securebits.set(Securebits::KEEP_CAPS, keep == 1);
        self.commit_creds(caller, new);
        Ok(())
    }

    /// `PR_SET_NO_NEW_PRIVS` with its arguments 2 to 5. `EINVAL` for other than 1, 0, 0, 0.
    pub fn set_no_new_privs(&mut self, caller: TaskId, args: [u64; 4]) -> Result<()> {
        if args != [1, 0, 0, 0] {
            return Err(Errno::EINVAL);
        }
        self.task_mut(caller).ok_or(Errno::ESRCH)?.no_new_privs = true;
        Ok(())
    }

    /// `PR_GET_DUMPABLE`.
    pub fn dumpable(&self, caller: TaskId) -> Result<Dumpable> {
        Ok(self.task(caller).and_then(|t| t.mm.as_ref()).ok_or(Errno::ESRCH)?.dumpable())
    }

    /// `PR_SET_DUMPABLE`. `EINVAL` for other than 0 and 1.
    pub fn set_dumpable(&mut self, caller: TaskId, dumpable: u64) -> Result<()> {
        let dumpable = match dumpable {
            0 => Dumpable::Disable,
            1 => Dumpable::User,
            _ => return Err(Errno::EINVAL),
        };
        self.task(caller).and_then(|t| t.mm.as_ref()).ok_or(Errno::ESRCH)?.set_dumpable(dumpable);
        Ok(())
    }

    /// `PR_SET_CHILD_SUBREAPER`: orphans among the descendants come to this process from now on. Descendants are marked,
    /// so that at their end an ancestor is looked for; those of an inner pid namespace have their own init.
    pub fn set_child_subreaper(&mut self, caller: TaskId, enable: bool) -> Result<()> {
        self.signal_of_mut(caller).ok_or(Errno::ESRCH)?.is_child_subreaper = enable;
        if !enable {
            return Ok(());
        }
        let mut todo: Vec<TaskId> = self.children_of_group(caller);
        while let Some(child) = todo.pop() {
            let init = self.task(child).is_none_or(|t| t.pid.is_child_reaper());
            let Some(signal) = self.signal_of_mut(child) else { continue };
            if init || signal.has_child_subreaper {
                continue;
            }
            signal.has_child_subreaper = true;
            todo.extend(self.children_of_group(child));
        }
        Ok(())
    }

    fn children_of_group(&self, task: TaskId) -> Vec<TaskId> {
        self.threads_of(task).iter().filter_map(|t| self.task(*t)).flat_map(|t| t.children.clone()).collect()
    }
}
