//! Where the command line meets the sandbox.

use std::sync::atomic::{AtomicI32, Ordering};

use nomina::sandbox::{ExitStatus, HostFacts, SandboxBuilder, SpawnError, StatRow, stat_row};

/// The end of a sandbox.
#[derive(Debug)]
pub struct Finished {
    /// How the first program ended.
    pub exit: ExitStatus,
    /// Counts of requests, when asked for.
    pub stats: Vec<StatRow<'static>>,
}

/// Host pid of the first program, for the signal handler.
static FIRST: AtomicI32 = AtomicI32::new(0);

/// Runs a sandbox to its end; `note` gets the remarks that come before its start.
pub fn run(builder: SandboxBuilder, note: impl Fn(&str)) -> Result<Finished, SpawnError> {
    builder.check_streams()?;
    let plan = builder.plan(&HostFacts::current()?)?;
    plan.notes.iter().for_each(|text| note(text));
    let chosen: Vec<usize> =
        (0..).zip(&plan.network.publish).filter(|(_, p)| p.host_port == 0).map(|(n, _)| n).collect();
    let mut running = builder.spawn_plan(plan)?;
    // Nobody else says which port the host has chosen.
    for publish in chosen.into_iter().filter_map(|n| running.published().get(n)) {
        note(&format!("published {publish}"));
    }
    FIRST.store(running.first_pid(), Ordering::Release);
    forward_signals();
    running.foreground().iter().for_each(|foreground| foreground.follow());
    let exit =
        running.wait().map_err(|error| SpawnError::Host { what: "waiting for the first program", error })?;
    // The names of the rows live as long as the report, which ends the process.
    let rows: &'static [_] = Box::leak(running.stats().into_boxed_slice());
    Ok(Finished { exit, stats: rows.iter().map(stat_row).collect() })
}

/// What asks us to end asks the first program to end; it decides, as it would without us. Terminal signals reach it
/// without us when it is in the foreground. Asked a third time by SIGINT or SIGTERM, we end it whatever it decides.
fn forward_signals() {
    const PATIENCE: i32 = 3;
    static ASKED: AtomicI32 = AtomicI32::new(0);
    extern "C" fn forward(signal: i32) {
        let pid = FIRST.load(Ordering::Acquire);
        let ends = matches!(signal, libc::SIGINT | libc::SIGTERM);
        let signal = match ends && ASKED.fetch_add(1, Ordering::AcqRel) + 1 >= PATIENCE {
            true => libc::SIGKILL,
            false => signal,
        };
        if pid > 0 {
            // SAFETY: kill is async-signal-safe; the pid is our guardian's child, reaped only after our end.
            unsafe { libc::kill(pid, signal) };
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2] {
        // SAFETY: the handler only reads an atomic and calls kill.
        unsafe { libc::signal(signal, forward as *const () as libc::sighandler_t) };
    }
}
