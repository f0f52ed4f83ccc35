//! The log of `--net-log`: a line for every destination that is asked for.
//!
//! ```text
//! 2026-01-31T12:00:00Z refused tcp 192.0.2.1:443 (example.com) by curl[12]: no --allow matches
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use super::super::lock::Mutex;
use crate::egress::{Protocol, Verdict};

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    /// Name of the program, as `ps` shows it.
    pub comm: String,
    /// Its number in the first pid namespace.
    pub pid: i32,
}

/// Where lines go.
#[derive(Default)]
pub struct Log(Option<Mutex<File>>);

impl Log {
    /// Appends to `path`, or writes to standard error for `-`.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: &Path) -> io::Result<Log> {
        let file = if path == Path::new("-") {
            File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?)
        } else {
            OpenOptions::new().append(true).create(true).open(path)?
        };
        Ok(Log(Some(Mutex::new(file))))
    }

    fn line(&self, what: &str) {
        if let Some(file) = &self.0 {
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            // One write, so that lines of several sandboxes do not mix; a full disk must not stop the sandbox.
            let _ = file.lock().unwrap().write_all(format!("{now} {what}\n").as_bytes());
        }
    }

    /// A destination that was asked for.
    pub fn destination(
        &self,
        protocol: Protocol,
        to: SocketAddr,
        names: &[String],
        who: &Who,
        verdict: &Verdict,
    ) {
        let names = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        self.line(&format!("{} {protocol} {to}{names} by {}", word(verdict), because(who, verdict)));
    }

    /// A name that was asked for.
    pub fn name(&self, name: &str, who: &Who, verdict: &Verdict) {
        self.line(&format!("{} name {} by {}", word(verdict), name.escape_debug(), because(who, verdict)));
    }
}

fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed(_) => "allowed",
        Verdict::Refused(_) => "refused",
    }
}

fn because(who: &Who, verdict: &Verdict) -> String {
    let (Verdict::Allowed(reason) | Verdict::Refused(reason)) = verdict;
    // A program chooses its name, and could choose one with line breaks.
    format!("{}[{}]: {reason}", who.comm.escape_debug(), who.pid)
}
