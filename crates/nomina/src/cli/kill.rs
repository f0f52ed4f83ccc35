//! `nomina kill`: signals from outside, and the end of a sandbox.

use std::ffi::OsString;

use anstream::eprintln;
use clap::Args;
use nomina::inspector::{KillRequest, find};

use super::Failure;

const EXAMPLES: &str = "\
Examples:
  nomina kill web
      End the sandbox: its first program gets SIGKILL, and everything in it ends with that.
  nomina kill -TERM web
      Ask its first program to end. As on Linux, a first program without a handler for the signal ignores it.
  nomina kill web 17
      End one process; 17 is its number inside, as `nomina ps` shows it.
  nomina kill -s HUP --all web
      Send a signal to every process inside.

Exit code: 0 when it was sent, 125 when it was not.";

/// End a sandbox, or send a signal to processes in it
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct KillArgs {
    /// The signal: a name (TERM, SIGTERM, RTMIN+1) or a number; 0 only asks whether the process is there. `-9` and `-TERM` are
    /// understood as well
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = parse_signal)]
    signal: i32,

    /// To every process inside
    #[arg(short, long, conflicts_with = "pids")]
    all: bool,

    /// Its name, its id, or the first digits of its id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,

    /// Processes by their numbers inside (default: the first one, whose end ends the sandbox)
    #[arg(value_name = "PID", value_parser = parse_pid)]
    pids: Vec<i32>,
}

/// Names of signals 1 to 31 on x86-64 (`signal(7)`).
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// Reads a signal as `kill(1)` does.
fn parse_signal(text: &str) -> Result<i32, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = |text: &str| text.parse::<i32>().ok();
    let signal = match (number(text), NAMES.iter().position(|known| *known == name)) {
        (Some(number), _) => Some(number),
        (_, Some(index)) => Some(index as i32 + 1),
        _ if name == "RTMIN" => Some(RTMIN),
        _ if name == "RTMAX" => Some(RTMAX),
        _ => name
            .strip_prefix("RTMIN+")
            .and_then(|rest| Some(RTMIN + number(rest)?))
            .or_else(|| name.strip_prefix("RTMAX-").and_then(|rest| Some(RTMAX - number(rest)?))),
    };
    signal
        .filter(|signal| (0..=RTMAX).contains(signal))
        .ok_or_else(|| "no such signal; give a name as `kill -l` lists them, or a number from 0 to 64".into())
}

/// Reads the number of a process inside.
pub fn parse_pid(text: &str) -> Result<i32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "not the number of a process; `nomina ps` shows them in the column PID".into())
}

/// `-9` and `-TERM` as `kill(1)` has them, in the form that options are defined in.
pub fn short_signals(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    if args.get(1).is_none_or(|command| command != "kill") {
        return args;
    }
    for arg in args.iter_mut().skip(2).take_while(|arg| *arg != "--") {
        let signal = arg.to_str().and_then(|text| text.strip_prefix('-')).map(str::to_owned);
        if let Some(signal) = signal.filter(|signal| parse_signal(signal).is_ok()) {
            *arg = format!("--signal={signal}").into();
        }
    }
    args
}

/// Sends.
pub fn kill(args: &KillArgs) -> Result<u8, Failure> {
    let request = KillRequest { signal: args.signal, pids: args.pids.clone(), all: args.all };
    let sent = find(Some(&args.sandbox))?.kill(&request)?;
    if sent == 0 {
        eprintln!("nomina: sandbox {}: no process was left to send to", args.sandbox);
        return Ok(super::OWN_ERROR);
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_of_a_signal_is_an_option_of_kill_only() {
        let short = |words: &[&str]| short_signals(words.iter().map(OsString::from));
        assert_eq!(short(&["nomina", "kill", "-9", "x"]), ["nomina", "kill", "--signal=9", "x"]);
        assert_eq!(short(&["nomina", "kill", "-sigterm", "x"])[2], "--signal=sigterm");
        for words in [&["nomina", "kill", "-s", "TERM", "-a", "x"][..], &["nomina", "run", "-9"]] {
            assert_eq!(short(words), words);
        }
    }

    #[test]
    fn signals_are_read_as_kill_reads_them() {
        for (text, want) in
            [("TERM", 15), ("sigterm", 15), ("9", 9), ("0", 0), ("RTMIN+1", 35), ("RTMAX", 64), ("SYS", 31)]
        {
            assert_eq!(parse_signal(text), Ok(want), "{text}");
        }
        for text in ["", "TERMS", "65", "-1", "RTMIN+99", "SIGSIGTERM"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
