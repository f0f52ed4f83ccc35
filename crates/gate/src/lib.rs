//! The syscall table, seccomp filter, Landlock rules and the request path between guests and the supervisor.

pub mod bpf;
mod child;
pub mod landlock;
pub mod probe;
pub mod table;
