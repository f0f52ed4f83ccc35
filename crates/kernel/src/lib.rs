//! Linux namespaces as a pure model: no host system call, no unsafe code, no clock and no randomness of its own.
//!
//! [`Kernel`] owns every task and answers the system calls that name tasks, users and namespaces. One concept per
//! module, under its name in Linux; where ours differs, the module's documentation says so.
#![forbid(unsafe_code)]

pub mod bpf;
pub mod capability;
pub mod cgroup;
pub mod cred;
pub mod enter;
pub mod errno;
pub mod exec;
pub mod exit;
pub mod fork;
mod fork_ahead;
pub mod ipc;
pub mod kernel;
pub mod mnt_ns;
pub mod mount;
pub mod net;
pub mod ns_common;
pub mod nsfs;
pub mod nsproxy;
pub mod pid;
pub mod pid_namespace;
pub mod policy;
pub mod ptrace;
pub mod rlimit;
pub mod seccomp;
pub mod setns;
pub mod signal;
pub mod sys;
pub mod task;
#[cfg(test)]
mod tests;
pub mod time;
pub mod ucount;
pub mod unshare;
pub mod user_namespace;
pub mod uts;
pub mod vfs;
pub mod wait;

pub use errno::{Errno, Result};
pub use kernel::{Kernel, KernelConfig};
pub use task::TaskId;
