//! `nomina doctor`: what this host offers, what that means for Nomina, and what to do about each lack.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use clap::Args;
use nomina::inspector::runtime_dir::RuntimeDir;
use nomina_gate::probe::{Finding, Status, probe, worst};
use serde::Serialize;

use super::Failure;

/// Say what this host offers and what to do about what it lacks
#[derive(Args, Debug)]
#[command(after_help = "Exit code: 0 when Nomina can run here, 1 when something it needs is missing.")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'f> {
    usable: bool,
    verdict: String,
    findings: &'f [Finding],
}

/// Probes and prints.
pub fn doctor(args: &DoctorArgs) -> Result<u8, Failure> {
    let mut findings = probe();
    findings.push(runtime_dir());
    if args.json {
        let mut out = io::stdout().lock();
        let report = Report { usable: usable(&findings), verdict: verdict(&findings), findings: &findings };
        serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write_table(&findings, anstream::stdout().lock())?;
    }
    Ok(u8::from(!usable(&findings)))
}

/// Whether sandboxes are found by `nomina ps` and its like.
fn runtime_dir() -> Finding {
    let meaning = "running sandboxes are found there by nomina ps, ns, exec and kill".into();
    let name = "runtime directory".into();
    match RuntimeDir::create() {
        Ok(dir) => {
            let value = dir.path().display().to_string();
            Finding { name, value, status: Status::Ok, meaning, advice: String::new() }
        }
        Err(error) => Finding {
            name,
            value: "none can be used".into(),
            status: Status::Degraded,
            meaning,
            advice: error.to_string(),
        },
    }
}

fn word(status: Status) -> (&'static str, Style) {
    let color = |color: AnsiColor| color.on_default();
    match status {
        Status::Ok => ("OK", color(AnsiColor::Green)),
        Status::Degraded => ("degraded", color(AnsiColor::Yellow)),
        Status::Missing => ("missing", color(AnsiColor::Red).bold()),
    }
}

fn count(findings: &[Finding], status: Status) -> usize {
    findings.iter().filter(|finding| finding.status == status).count()
}

fn usable(findings: &[Finding]) -> bool {
    worst(findings) < Status::Missing
}

fn verdict(findings: &[Finding]) -> String {
    match (count(findings, Status::Missing), count(findings, Status::Degraded)) {
        (0, 0) => "Nomina runs here, with everything it can use.".into(),
        (0, degraded) => {
            format!("Nomina runs here; {degraded} of its features or its speed could be better.")
        }
        (missing, _) => format!("Nomina cannot run here: {missing} of what it needs is missing."),
    }
}

fn write_table(findings: &[Finding], mut out: impl Write) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let dim = Style::new().dimmed();
    for finding in findings {
        let (word, style) = word(finding.status);
        writeln!(out, "{style}{word:8}{style:#}  {:width$}  {}", finding.name, finding.value)?;
        writeln!(out, "{:8}  {dim}{}{dim:#}", "", finding.meaning)?;
        if finding.status != Status::Ok && !finding.advice.is_empty() {
            writeln!(out, "{:8}  -> {}", "", finding.advice)?;
        }
    }
    writeln!(out, "\n{}", verdict(findings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &'static str, status: Status) -> Finding {
        Finding { name: name.into(), value: "v".into(), status, meaning: "m".into(), advice: "a".into() }
    }

    fn table(findings: &[Finding]) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        write_table(findings, &mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn the_table_is_aligned_and_gives_advice_only_where_something_lacks() {
        let findings = [finding("kernel", Status::Ok), finding("landlock", Status::Degraded)];
        assert_eq!(
            table(&findings),
            "OK        kernel    v\n          m\ndegraded  landlock  v\n          m\n          -> a\n\n\
             Nomina runs here; 1 of its features or its speed could be better.\n"
        );
    }

    #[test]
    fn only_what_is_missing_makes_a_host_unusable() {
        assert!(usable(&[finding("a", Status::Ok), finding("b", Status::Degraded)]));
        assert!(!usable(&[finding("a", Status::Missing)]));
        assert!(verdict(&[finding("a", Status::Missing)]).starts_with("Nomina cannot run here"));
    }
}
