//! The benchmark: what a system call and a whole program cost natively, inside Nomina, and inside whichever of PRoot
//! and bubblewrap this machine has, in one run.
//!
//! ```text
//! cargo run --release -p nomina-bench -- [--nomina PATH] [--json FILE] [--quick] [--only WORD]
//! ```
//!
//! The program measures by running *itself* inside each sandbox with the argument `child`: one process that times each
//! call and prints nanoseconds. Rounds of the systems alternate, so that a busy moment of the machine does not fall on
//! one of them alone, and the table holds medians. Nothing is asserted about times; what could not be measured is said.

mod calls;
mod facts;
mod ipc;
mod networks;
mod programs;
mod report;
mod sockets;
mod systems;

use std::{path::PathBuf, process::ExitCode};

use report::Report;
use systems::System;

/// What the command line asked for.
struct Options {
    nomina: PathBuf,
    json: Option<PathBuf>,
    quick: bool,
    only: Option<String>,
}

const USAGE: &str =
    "usage: nomina-bench [--nomina PATH] [--json FILE] [--quick] [--only calls|programs|memory]";

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let beside = std::env::current_exe().ok().and_then(|p| Some(p.parent()?.join("nomina")));
    let mut o =
        Options { nomina: beside.unwrap_or_else(|| "nomina".into()), json: None, quick: false, only: None };
    while let Some(a) = args.next() {
        let mut value = || args.next().ok_or(format!("{a} needs a value"));
        match a.as_str() {
            // Commands start in the scratch directory, where a relative path would mean something else.
            "--nomina" => o.nomina = std::path::absolute(value()?).map_err(|e| e.to_string())?,
            "--json" => o.json = Some(value()?.into()),
            "--only" => o.only = Some(value()?),
            "--quick" => o.quick = true,
            _ => return Err(format!("{a}: not an option")),
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.peek().map(String::as_str) == Some("child") {
        return calls::child(args.nth(1).as_deref() == Some("quick"));
    }
    let o = match options(args) {
        Ok(o) => o,
        Err(e) => {
            eprintln!("nomina-bench: {e}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&o) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("nomina-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(o: &Options) -> std::io::Result<()> {
    let work = systems::WorkDir::new()?;
    let (systems, absent) = System::available(&o.nomina, &work)?;
    let mut report = Report::new(facts::gather(), systems.iter().map(|s| s.name.to_owned()).collect());
    for note in absent {
        report.note(note);
    }
    let wanted = |part: &str| o.only.as_deref().is_none_or(|w| w == part);
    if wanted("calls") {
        calls::measure(&systems, &work, o.quick, &mut report)?;
    }
    if wanted("programs") {
        programs::measure(&systems, &work, o.quick, &mut report)?;
    }
    if wanted("memory") {
        programs::memory(&systems, &work, &mut report)?;
    }
    print!("{}", report.table());
    if let Some(path) = &o.json {
        std::fs::write(path, report.json())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        options(args.iter().map(|s| (*s).to_owned()))
    }

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let o = parse(&["--nomina", "/x", "--quick", "--json", "out"]).unwrap();
        assert_eq!(o.nomina, PathBuf::from("/x"));
        assert!(o.quick && o.json == Some("out".into()));
        assert!(parse(&["--json"]).is_err());
        assert!(parse(&["--fast"]).is_err());
    }
}
