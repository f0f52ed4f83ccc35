//! Nomina: run unmodified Linux programs in namespaces of their own, without privilege.
//!
//! [`sandbox::Sandbox::builder`] is the way in; the command line has no other.

pub mod egress;
pub mod inspector;
pub mod sandbox;
pub mod server;
