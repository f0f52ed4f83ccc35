//! A sandbox: how it is described ([`config`]) and started.

pub mod config;
mod host_net;
mod network;
mod outcome;
pub(crate) mod passwd;
pub(crate) mod program;
mod running;
pub(crate) mod scratch;
mod seed;
pub(crate) mod spawn;
mod terminal;
mod view;

pub use config::{
    Bind, ConfigError, EnvChange, HostFacts, Net, Plan, Root, SandboxBuilder, Stdio, Upper, User,
};
pub use outcome::{ExitStatus, SpawnError, StatRow};
pub use running::{Running, stat_row};
pub use terminal::Foreground;

/// A group of programs in namespaces of their own.
#[derive(Debug)]
pub struct Sandbox;

impl Sandbox {
    /// Describes a sandbox: everything has a default, so `Sandbox::builder()` alone is a root shell in a private copy of
    /// the system.
    pub fn builder() -> SandboxBuilder {
        SandboxBuilder::default()
    }
}
