//! System calls that read and change what a task is, split by subject. Each is a method of [`crate::Kernel`] under the
//! name of the call, with the calling task first, and ids and numbers as the caller sees them.

mod cap;
mod gid;
mod groups;
mod pgrp;
mod prctl;
mod uid;
mod uts;

pub use cap::CapData;
pub use groups::NGROUPS_MAX;
pub use prctl::{CapAmbient, ambient_request};
