//! Where the command line meets the sandbox.

use nomina::sandbox::{ExitStatus, HostFacts, SandboxBuilder, SpawnError, StatRow};

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
