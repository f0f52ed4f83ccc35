//! Who has sent a message, and which namespaces it names in it.

use std::sync::Arc;

use nomina_kernel::capability::Cap;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetNamespace;
use nomina_kernel::net::rtnetlink::{NetRef, Nets};
use nomina_kernel::nsfs::NsRef;

use super::super::Server;
use super::super::guest::GuestThread;
use super::super::nsfs::NsInode;

/// The sending process. It may be gone by now; then it has no right to anything.
pub struct Process<'a> {
    server: &'a Arc<Server>,
    host_pid: i32,
    thread: Option<Arc<GuestThread>>,
    cred: Option<Arc<Cred>>,
}

impl Process<'_> {
    /// By the number of the host that came with the message.
    pub fn new(server: &Arc<Server>, host_pid: Option<i32>) -> Process<'_> {
        let thread = host_pid.and_then(|pid| server.guest_of_host_pid(pid));
        let cred = thread.as_ref().and_then(|thread| {
            let kernel = server.kernel.lock().unwrap();
            kernel.task(thread.task).map(|task| task.cred().clone())
        });
        Process { server, host_pid: host_pid.unwrap_or(0), thread, cred }
    }

    /// Whether it has `CAP_NET_ADMIN` over a namespace: `netlink_ns_capable`.
    pub fn net_admin_over(&self, net: &NetNamespace) -> bool {
        let (Some(cred), Some(owner)) = (&self.cred, net.common().owner()) else { return false };
        cred.ns_capable(owner, Cap::NET_ADMIN)
    }

    /// Its user, as it sees it.
    pub fn uid(&self) -> u32 {
        self.cred.as_ref().map_or(u32::MAX, |cred| cred.user_ns.from_kuid_munged(cred.uid))
    }

    /// A user as it sees it.
    pub fn sees_uid(&self, kuid: u32) -> u32 {
        self.cred.as_ref().map_or(u32::MAX, |cred| cred.user_ns.from_kuid_munged(kuid))
    }

    fn reference(&self, net: &NetNamespace) -> NetRef {
        NetRef { inum: net.common().inum(), may_change: self.net_admin_over(net) }
    }
}

impl Nets for Process<'_> {
    fn by_pid(&self, pid: u32) -> Result<NetRef> {
        let thread = self.thread.as_ref().ok_or(Errno::ESRCH)?;
        let kernel = self.server.kernel.lock().unwrap();
        let task = kernel.find_task_by_vpid(thread.task, pid as i32).ok_or(Errno::ESRCH)?;
        let net = kernel.task(task).and_then(|task| Some(task.nsproxy()?.net_ns().clone()));
        drop(kernel);
        Ok(self.reference(&*net.ok_or(Errno::ESRCH)?))
    }

    /// The descriptor is a placeholder, which its device and inode numbers tell; no copy of it is needed.
    fn by_fd(&self, fd: u32) -> Result<NetRef> {
        self.thread.as_ref().ok_or(Errno::EBADF)?;
        let link = format!("/proc/{}/fd/{}", self.host_pid, fd as i32);
        let stat = rustix::fs::stat(link).map_err(|_| Errno::EBADF)?;
        let handle = self.server.handles.find_key(stat.st_dev, stat.st_ino).ok_or(Errno::EINVAL)?;
        let inode = handle.path.inode().as_any().downcast_ref::<NsInode>().ok_or(Errno::EINVAL)?;
        match &inode.ns {
            NsRef::Net(net) => Ok(self.reference(net)),
            _ => Err(Errno::EINVAL),
        }
    }
}
