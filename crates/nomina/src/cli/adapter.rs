//! Where the command line meets the rest: what it asks of the sandbox and of the gate, in its own types.

use nomina::sandbox::{ExitStatus, HostFacts, SandboxBuilder, SpawnError, StatRow};
use serde::Serialize;

/// How good a host is at one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All there.
    Ok,
    /// Nomina runs without it, slower or with less.
    Degraded,
    /// Nomina cannot run without it.
    Missing,
}

/// One thing of the host that Nomina depends on.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The thing.
    pub name: String,
    /// What was found.
    pub value: String,
    /// How good that is.
    pub status: Status,
    /// What that means for Nomina.
    pub meaning: String,
    /// What to do about it.
    pub advice: String,
}

/// One row of the gate's table.
#[derive(Clone, Debug, Serialize)]
pub struct SyscallRow {
    /// Number (x86-64).
    pub number: u32,
    /// Name.
    pub name: String,
    /// What is done with it.
    pub class: String,
    /// Under which conditions on its arguments.
    pub conditions: String,
    /// Why that is sound.
    pub reason: String,
}

/// The end of a sandbox.
#[derive(Debug)]
pub struct Finished {
    /// How the first program ended.
    pub exit: ExitStatus,
    /// Counts of requests, when asked for.
    pub stats: Vec<StatRow<'static>>,
}

/// Runs a sandbox to its end; `note` gets the remarks that come before its start.
pub fn run(builder: SandboxBuilder, note: impl Fn(&str)) -> Result<Finished, SpawnError> {
    builder.check_streams()?;
    let plan = builder.plan(&HostFacts::current()?)?;
    plan.notes.iter().for_each(|text| note(text));
    Err(SpawnError::NotBuilt("supervisor"))
}

/// What `nomina doctor` reports.
pub fn probe() -> Result<Vec<Finding>, SpawnError> {
    Err(SpawnError::NotBuilt("gate::probe"))
}

/// What `nomina syscalls` prints.
pub fn syscalls() -> Result<Vec<SyscallRow>, SpawnError> {
    Err(SpawnError::NotBuilt("gate::table"))
}
