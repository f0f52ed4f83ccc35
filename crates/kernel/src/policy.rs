//! A hook by which the embedder may refuse new tasks: SPEC 1.4's security module (`security_task_alloc`).

use crate::cred::Cred;
use crate::errno::Result;
use crate::fork::CloneFlags;

/// What is known about a task that is about to be created.
#[derive(Debug)]
#[non_exhaustive]
pub struct ForkRequest<'a> {
    /// What `clone(2)` was asked.
    pub flags: CloneFlags,
    /// Process id of the caller in its own pid namespace.
    pub tgid: i32,
    /// Name of the caller.
    pub comm: &'a [u8],
    /// Credentials of the caller.
    pub cred: &'a Cred,
    /// Tasks that exist in the sandbox, zombies included.
    pub tasks: usize,
}

/// Decisions of the embedder. Called with the kernel locked: answer at once, and call nothing of the sandbox.
pub trait Policy: Send + Sync {
    /// Whether the task may be created; the error is what the caller's `fork(2)` gives (`EPERM`, `EAGAIN`).
    fn may_fork(&self, request: &ForkRequest<'_>) -> Result<()>;
}
