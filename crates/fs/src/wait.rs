//! Operations that cannot be answered yet.
//!
//! Nothing may sleep in the supervisor. An operation that has to wait for somebody (the server of a FUSE file system) ends
//! with [`Errno::ERESTARTSYS`], as an interrupted one does inside Linux, and leaves a descriptor here: when that is
//! readable, the whole system call is made again.

use std::cell::RefCell;
use std::os::fd::OwnedFd;

use nomina_kernel::Errno;

thread_local! {
    static WAITED_FOR: RefCell<Option<OwnedFd>> = const { RefCell::new(None) };
}

/// Leaves `fd` as what the present system call waits for, and gives the error it ends with.
pub fn restart_when(fd: OwnedFd) -> Errno {
    WAITED_FOR.with_borrow_mut(|waited| *waited = Some(fd));
    Errno::ERESTARTSYS
}

/// What the system call that this thread has just served waits for.
pub fn take() -> Option<OwnedFd> {
    WAITED_FOR.with_borrow_mut(Option::take)
}

/// How many descriptors of one kind guests may make the supervisor hold: a part of its limit (`RLIMIT_NOFILE`), so that what needs
/// none of the kind goes on when somebody hoards them.
pub fn descriptor_share() -> usize {
    static SHARE: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *SHARE.get_or_init(|| {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        usize::try_from(limit.unwrap_or(1 << 20) / 8).unwrap_or(1 << 17)
    })
}
