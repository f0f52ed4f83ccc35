//! Linux namespaces as a pure model: no host system call, no unsafe code, no clock and no randomness of its own.
#![forbid(unsafe_code)]

pub mod errno;
pub mod mount;
pub mod vfs;

pub use errno::{Errno, Result};
