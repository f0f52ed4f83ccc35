//! What the host offers, found out by trying: the facts behind `nomina doctor`.
//!
//! A kernel's version says little about what a process may do: distributions switch parts off, and outer sandboxes refuse
//! calls. So everything that can be tried is tried, in a forked child where a process could not take it back.

mod host;
mod kernel;
mod seccomp;

use std::fmt;

use nomina_kernel::Errno;
use serde::Serialize;

/// How well a fact serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Nomina works, but slower, with less protection or with fewer features.
    Degraded,
    /// Nomina cannot run guests.
    Missing,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Ok => "ok",
            Status::Degraded => "degraded",
            Status::Missing => "missing",
        })
    }
}

/// A fact about the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: String,
    /// What was found.
    pub value: String,
    /// How well that serves.
    pub status: Status,
    /// What it means for Nomina.
    pub meaning: String,
    /// What to do about it; empty when there is nothing to do.
    pub advice: String,
}

impl Finding {
    fn new(name: &str, value: impl Into<String>, status: Status, meaning: &str, advice: &str) -> Finding {
        let advice = if status == Status::Ok { "" } else { advice };
        let [name, meaning, advice] = [name, meaning, advice].map(str::to_owned);
        Finding { name, value: value.into(), status, meaning, advice }
    }

    /// A feature that was tried: there when the trial succeeded, `otherwise` when it failed.
    fn tried(
        name: &str,
        trial: Result<(), Errno>,
        otherwise: Status,
        meaning: &str,
        advice: &str,
    ) -> Finding {
        let (value, status) = match trial {
            Ok(()) => ("yes".to_owned(), Status::Ok),
            Err(error) => (refusal(error), otherwise),
        };
        Finding::new(name, value, status, meaning, advice)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { name, value, status, meaning, advice } = self;
        write!(f, "{name}: {value} ({status}): {meaning}")?;
        if advice.is_empty() { Ok(()) } else { write!(f, "; {advice}") }
    }
}

fn refusal(error: Errno) -> String {
    match error.name() {
        Some(name) => format!("no ({name})"),
        None => format!("no (errno {})", error.0),
    }
}

/// Turns the exit code of a trial, 0 or an errno, into a result.
fn outcome(code: Result<i32, Errno>) -> Result<(), Errno> {
    match code? {
        0 => Ok(()),
        errno => Err(Errno(errno)),
    }
}

/// The errno of the last failed call, for exit codes of trials.
fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Tries everything and reports in the order of importance. Takes some milliseconds.
pub fn probe() -> Vec<Finding> {
    let mut findings = vec![kernel::version(), kernel::architecture()];
    findings.extend(seccomp::findings());
    findings.extend(kernel::findings());
    findings.extend(host::findings());
    findings
}

/// The worst status among findings; [`Status::Ok`] when there are none.
pub fn worst(findings: &[Finding]) -> Status {
    findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_says_what_it_means_and_every_lack_what_to_do() {
        let findings = probe();
        assert!(findings.len() >= 18, "{}", findings.len());
        for finding in &findings {
            assert!(
                !finding.name.is_empty() && !finding.value.is_empty() && !finding.meaning.is_empty(),
                "{finding}"
            );
            assert_eq!(finding.advice.is_empty(), finding.status == Status::Ok, "{finding}");
        }
        let mut names: Vec<&str> = findings.iter().map(|finding| finding.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), findings.len(), "names are unique");
    }

    #[test]
    fn the_worst_finding_decides() {
        let finding = |status| Finding::new("n", "v", status, "m", "a");
        assert_eq!(worst(&[]), Status::Ok);
        assert_eq!(worst(&[finding(Status::Degraded), finding(Status::Ok)]), Status::Degraded);
        assert_eq!(worst(&[finding(Status::Missing), finding(Status::Degraded)]), Status::Missing);
    }

    #[test]
    fn a_failed_trial_tells_its_error() {
        let finding = Finding::tried("n", Err(Errno::ENOSYS), Status::Degraded, "m", "a");
        assert_eq!(finding.to_string(), "n: no (ENOSYS) (degraded): m; a");
        assert_eq!(Finding::tried("n", Ok(()), Status::Missing, "m", "a").to_string(), "n: yes (ok): m");
    }
}
