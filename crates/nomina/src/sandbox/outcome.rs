//! How a sandbox ends, or why it does not begin.

use std::io;

use super::ConfigError;

/// How the first program ended: what `wait(2)` would tell its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// By `exit_group(2)`, with this status.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

impl ExitStatus {
    /// From a wait status (`wait(2)`).
    pub fn from_wait_status(status: i32) -> ExitStatus {
        match libc::WIFEXITED(status) {
            true => ExitStatus::Code(libc::WEXITSTATUS(status) as u8),
            false => ExitStatus::Signal(libc::WTERMSIG(status) as u8),
        }
    }

    /// The exit code that a shell gives it: the status, or 128 and the signal.
    pub fn code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128_u8.saturating_add(signal),
        }
    }
}

/// One kind of request that the supervisor served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatRow<'n> {
    /// System call or operation.
    pub name: &'n str,
    /// How often it was asked for.
    pub calls: u64,
    /// Time spent on it in the supervisor.
    pub total_ns: u64,
    /// Whether the answer was `ENOSYS`: not implemented, or not known.
    pub enosys: bool,
}

impl StatRow<'_> {
    /// Average time of one request.
    pub fn mean_ns(&self) -> u64 {
        self.total_ns.checked_div(self.calls).unwrap_or(0)
    }
}

/// Why a sandbox did not start. Each message is one line: what, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// It cannot be as described.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The program is not there (`ENOENT`).
    #[error(
        "{0}: not found; check the name and the PATH inside, and whether its directory is hidden (--bind shows it)"
    )]
    NotFound(String),
    /// The program is there but cannot be run (`EACCES`, `ENOEXEC`, `EISDIR` …).
    #[error("{program}: {reason}; check its permissions and its format")]
    NotExecutable {
        /// The program.
        program: String,
        /// The kernel's words.
        reason: String,
    },
    /// The host refused something.
    #[error("{what}: {error}; `nomina doctor` says what this host lacks")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What the host said.
        #[source]
        error: io::Error,
    },
    /// The log of the network cannot be written.
    #[error("net-log {}: {error}; choose a file that can be appended to, or - for standard error", file.display())]
    NetLog {
        /// The file.
        file: std::path::PathBuf,
        /// What the host said.
        #[source]
        error: io::Error,
    },
    /// The host's side of a published port cannot be had.
    #[error("publish {publish}: {error}; choose a port that is free and, for an ordinary user, from 1024 on")]
    Publish {
        /// Which.
        publish: crate::egress::Publish,
        /// What the host said.
        #[source]
        error: io::Error,
    },
    /// The guest could not be locked down and started.
    #[error(transparent)]
    Launch(#[from] nomina_gate::launch::LaunchError),
    /// It cannot have the name it was to have.
    #[error(transparent)]
    Name(#[from] crate::inspector::RuntimeDirError),
    /// The working directory inside cannot be entered.
    #[error("workdir {}: {reason}; choose a directory that exists inside with --workdir", dir.display())]
    Workdir {
        /// The directory.
        dir: std::path::PathBuf,
        /// The kernel's words.
        reason: String,
    },
}

impl SpawnError {
    /// The exit code for it, as `env(1)` and docker have them: 127 not found, 126 not executable, 125 the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotExecutable { .. } => 126,
            Self::Config(_)
            | Self::Host { .. }
            | Self::NetLog { .. }
            | Self::Publish { .. }
            | Self::Launch(_)
            | Self::Name(_)
            | Self::Workdir { .. } => 125,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_programs_or_128_and_the_signal() {
        assert_eq!(ExitStatus::Code(3).code(), 3);
        assert_eq!(ExitStatus::Signal(15).code(), 143);
    }

    #[test]
    fn a_program_that_is_not_there_differs_from_one_that_cannot_run() {
        assert_eq!(SpawnError::NotFound("x".into()).exit_code(), 127);
        assert_eq!(SpawnError::NotExecutable { program: "x".into(), reason: "r".into() }.exit_code(), 126);
        assert_eq!(SpawnError::Config(ConfigError::NoPids).exit_code(), 125);
    }

    #[test]
    fn no_calls_have_no_average() {
        assert_eq!(StatRow { name: "x", calls: 0, total_ns: 0, enosys: false }.mean_ns(), 0);
    }
}
