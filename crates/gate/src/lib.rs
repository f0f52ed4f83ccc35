//! The trusted boundary between guests and the supervisor: the system call table and the seccomp filter made from it, the
//! Landlock rules, the user notification listener, the shared regions and the hidden sockets, and the launch of the first
//! guest under a guardian.
//!
//! Everything a guest can influence enters the supervisor through [`listener`], [`region`] and [`sock`].

mod arch;
pub mod bpf;
mod child;
pub mod guardian;
pub mod landlock;
pub mod launch;
pub mod listener;
pub mod probe;
pub mod region;
pub mod sock;
pub mod table;
