//! The command line. It only uses the library: whatever it can do, [`nomina::sandbox`] can.

mod adapter;
mod doctor;
mod exec;
mod generate;
mod kill;
mod ns;
mod ps;
mod run;
mod stats;
mod syscalls;
mod table;
mod terminal;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anstream::eprintln;
use clap::{CommandFactory, Parser, Subcommand};
use nomina::inspector::InspectError;
use nomina::sandbox::SpawnError;

/// Exit code of Nomina's own errors, as `env(1)`, `chroot(1)` and docker have it.
const OWN_ERROR: u8 = 125;

/// Run unmodified Linux programs in namespaces of their own, without privilege.
///
/// Nomina gives a program a private copy of the system: its own files, users, process numbers and host name. It needs no
/// root, no user namespaces, no KVM and no daemon.
#[derive(Debug, Parser)]
#[command(name = "nomina", version, subcommand_required = true, arg_required_else_help = true)]
#[command(
    after_help = "Begin with:\n  nomina run              a root shell in a private copy of this system\n  \
    nomina doctor           what this host offers, and what to do about what it lacks\n  \
    nomina run --help       all options, with examples\n  \
    nomina ps               what is running\n  \
    nomina exec NAME sh     a shell in a sandbox that runs (`nomina run --name NAME`)"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Ps(ps::PsArgs),
    Ns(ns::NsArgs),
    Exec(Box<exec::ExecArgs>),
    Kill(kill::KillArgs),
    Doctor(doctor::DoctorArgs),
    Syscalls(syscalls::SyscallsArgs),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

/// Why a command failed: one line for the person.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The sandbox was not started or broke.
    #[error("{0}")]
    Run(#[from] SpawnError),
    /// A running sandbox could not be looked into or acted on.
    #[error("{0}")]
    Inspect(#[from] InspectError),
    /// The terminal for a program in a sandbox could not be made or used.
    #[error("terminal: {0}; -T does without one")]
    Terminal(#[source] io::Error),
    /// Writing the answer failed.
    #[error("output: {0}; check where it is written to")]
    Output(#[from] io::Error),
    /// A file that was to be written.
    #[error("{}: {error}; choose a file that can be written", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why it cannot be.
        error: io::Error,
    },
    /// A name that is not a system call's.
    #[error("system call {0}: not known; `nomina syscalls` lists all of them")]
    UnknownSyscall(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Run(error) => error.exit_code(),
            Self::Inspect(error) => error.exit_code(),
            // Whoever reads has seen enough: `nomina syscalls | head`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) | Self::File { .. } | Self::Terminal(_) | Self::UnknownSyscall(_) => OWN_ERROR,
        }
    }
}

/// A wrong option in one line: what clap says in several, without the usage that `--help` shows better. `None` for help
/// and version.
fn usage(error: &clap::Error) -> Option<String> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayHelpOnMissingArgumentOrSubcommand | DisplayVersion) {
        return None;
    }
    let text = error.render().to_string();
    let mut line = String::new();
    for part in text.lines().map(str::trim).take_while(|part| !part.starts_with("Usage:")) {
        let (separator, part) = match (part.strip_prefix("error: "), part.strip_prefix("tip: ")) {
            (Some(what), _) => ("", what),
            (_, Some(tip)) => ("; ", tip),
            _ if part.is_empty() || part.starts_with("For more information") => continue,
            _ => (" ", part),
        };
        line.push_str(separator);
        line.push_str(part);
    }
    if !line.contains("; ") {
        line.push_str("; see --help");
    }
    Some(line)
}

/// Parses the arguments, does the work, prints the error if there is one.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(kill::short_signals(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` are errors to clap, but they go to standard output and are none.
            let code = if error.use_stderr() { OWN_ERROR } else { 0 };
            match usage(&error) {
                Some(line) => eprintln!("nomina: {line}"),
                // Help: clap pages, wraps and colours it.
                None => drop(error.print()),
            }
            return ExitCode::from(code);
        }
    };
    let result = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Ps(args) => ps::ps(&args),
        Command::Ns(args) => ns::ns(&args),
        Command::Exec(args) => exec::exec(*args),
        Command::Kill(args) => kill::kill(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Syscalls(args) => syscalls::syscalls(&args),
        Command::Completions(args) => generate::completions(&args, &mut Cli::command()),
        Command::Man(args) => generate::man(&args, Cli::command()),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            let code = failure.code();
            if code != 0 {
                eprintln!("nomina: {failure}");
            }
            ExitCode::from(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_options_is_consistent() {
        Cli::command().debug_assert();
    }

    fn refused(words: &[&str]) -> String {
        usage(&Cli::try_parse_from(words).unwrap_err()).unwrap()
    }

    #[test]
    fn a_wrong_option_is_one_line_that_says_what_to_do() {
        assert_eq!(
            refused(&["nomina", "run", "--bnd", "/usr"]),
            "unexpected argument '--bnd' found; a similar argument exists: '--bind'; to pass '--bnd' as a value, use \
             '-- --bnd'"
        );
        assert_eq!(
            refused(&["nomina", "run", "--json"]),
            "the following required arguments were not provided: --stats; see --help"
        );
        assert!(refused(&["nomina", "run", "-u", "alice"]).ends_with("as `id -u NAME` prints them"));
    }

    #[test]
    fn help_and_version_are_no_errors() {
        for word in ["--help", "--version"] {
            assert!(usage(&Cli::try_parse_from(["nomina", word]).unwrap_err()).is_none());
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_error_but_a_full_disk_is() {
        assert_eq!(Failure::Output(io::ErrorKind::BrokenPipe.into()).code(), 0);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).code(), 125);
    }
}
