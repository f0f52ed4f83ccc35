//! `sethostname(2)`, `setdomainname(2)` and the names in `uname(2)`.

use crate::capability::Cap;
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::ns_common::owner_of;
use crate::task::TaskId;
use crate::uts::{NEW_UTS_LEN, UtsName};

impl Kernel {
    /// Host and domain name as the task sees them.
    pub fn utsname(&self, caller: TaskId) -> Result<UtsName> {
        Ok(self.task(caller).and_then(|t| t.nsproxy.as_ref()).ok_or(Errno::ESRCH)?.uts.names())
    }

    /// `sethostname(2)`. `EPERM` without CAP_SYS_ADMIN in the owner of the UTS namespace; `EINVAL` beyond 64 bytes.
    pub fn sethostname(&mut self, caller: TaskId, name: &[u8]) -> Result<()> {
        self.change_uts(caller, name, |uts, name| uts.nodename = name)
    }

    /// `setdomainname(2)`. Errors as [`Kernel::sethostname`].
    pub fn setdomainname(&mut self, caller: TaskId, name: &[u8]) -> Result<()> {
        self.change_uts(caller, name, |uts, name| uts.domainname = name)
    }

    fn change_uts(&self, caller: TaskId, name: &[u8], set: impl FnOnce(&mut UtsName, Vec<u8>)) -> Result<()> {
        let task = self.task(caller).ok_or(Errno::ESRCH)?;
        let uts = &task.nsproxy.as_ref().ok_or(Errno::ESRCH)?.uts;
        if !task.cred.ns_capable(owner_of(uts.common()), Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        if name.len() > NEW_UTS_LEN {
            return Err(Errno::EINVAL);
        }
        // uname returns C strings: what follows a NUL is never seen.
        let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        uts.update(|uts| set(uts, name[..end].to_vec()));
        Ok(())
    }
}
