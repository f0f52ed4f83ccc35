//! Looking into running sandboxes and acting on them: what `nomina ps`, `ns`, `exec` and `kill` do.
//!
//! There is no daemon. Each supervisor listens on a socket in the user's runtime directory ([`runtime_dir`]), from the start of
//! its first program to its end, and answers one request for each connection ([`protocol`]). [`list`] finds all of them,
//! [`find`] one by id or name; [`Found::view`] tells what is inside ([`view`]), [`Found::exec`] starts a process there and
//! [`Found::kill`] sends signals.
//!
//! Only the user who started a sandbox and root get answers: the directory is closed to others, and the kernel names who
//! asks (`SO_PEERCRED`). Guests reach neither directory nor socket.

mod client;
pub mod picture;
pub mod protocol;
pub mod runtime_dir;
pub mod view;

pub use client::{ExecEvent, Found, Process, find, list};
pub use protocol::{ExecRequest, KillRequest};
pub use runtime_dir::RuntimeDirError;
pub use view::View;

/// Why a sandbox could not be looked into or acted on. Each message is one line: what, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// No running sandbox is called that.
    #[error("sandbox {0}: none of that id or name is running; `nomina ps` lists all of yours")]
    NoSuchSandbox(String),
    /// The beginning of an id that several have.
    #[error("sandbox {0}: several ids begin so; give more of the id, or the name")]
    Ambiguous(String),
    /// None was named, and there is not exactly one.
    #[error("{0} sandboxes are running; name one of them (`nomina ps` lists them)")]
    NotOne(usize),
    /// The supervisor does not answer: stopped, or too busy.
    #[error("sandbox {id}: its supervisor does not answer ({error}); is it stopped (`fg` continues it)?")]
    Silent {
        /// The sandbox.
        id: String,
        /// What the host said.
        error: std::io::Error,
    },
    /// The sandbox refuses.
    #[error("{what}")]
    Refused {
        /// What and why, in the supervisor's words.
        what: String,
        /// The exit code for it: 125, 126 or 127 as for `nomina run`.
        code: u8,
    },
}

impl InspectError {
    /// The exit code for it, as `env(1)` and docker have them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { code, .. } => *code,
            _ => 125,
        }
    }
}
