//! `nomina exec`: a program in a sandbox that runs.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anstream::eprintln;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::{Args, ValueHint};
use nomina::inspector::protocol::Bytes;
use nomina::inspector::{ExecEvent, ExecRequest, Process, find};
use nomina::sandbox::{EnvChange, ExitStatus};
use rustix::event::{PollFd, PollFlags, poll};

use super::Failure;
use super::terminal::{Relay, Signals};

const EXAMPLES: &str = "\
Examples:
  nomina exec web sh
      A shell in the running sandbox `web` (nomina run --name web …), with a terminal of its own.
  nomina exec web ps -ef
      What runs there, as it looks from inside.
  tar -c . | nomina exec -w /srv web tar -x
      Input, output and errors are passed through.
  nomina exec --pid 17 web sh
      In the namespaces and as the user of process 17 (its number inside), which may be in nested ones.
  nomina exec -u www-data -e DEBUG=1 web ./check

The program gets the variables that the sandbox's first program was given, and starts in the working directory of \
the process whose namespaces it enters. It has no parent inside (number 0) and ends with the sandbox at the latest. \
Killing `nomina exec` does not end it; if it has a terminal, that hangs up (SIGHUP).

Exit code: the program's; 125 Nomina's own error, 126 not executable, 127 not found, 128+N ended by signal N.";

/// Run a program in a running sandbox
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ExecArgs {
    /// Set a variable, or with only a name pass the value it has outside
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = env_parser())]
    env: Vec<EnvChange>,

    /// Start with no variables but TERM
    #[arg(long)]
    clear_env: bool,

    /// Start in DIR
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,

    /// Be this user, by number or by name inside, and this group (default: the user of the process whose namespaces are entered)
    #[arg(short, long, value_name = "USER[:GID]", value_parser = parse_user)]
    user: Option<Who>,

    /// Enter the namespaces of this process, by its number inside (default: those of the first one)
    #[arg(short, long, value_name = "PID", value_parser = super::kill::parse_pid)]
    pid: Option<i32>,

    /// Give it a terminal (default: when standard input and output are one)
    #[arg(short, long, conflicts_with = "no_tty")]
    tty: bool,

    /// Pass standard input, output and error as they are, even if they are a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,

    /// Does nothing: standard input is always passed on. For those who are used to `docker exec -it`
    #[arg(short, long, hide = true)]
    interactive: bool,

    /// Its name, its id, or the first digits of its id
    #[arg(value_name = "SANDBOX")]
    sandbox: String,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, required = true, value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

fn env_parser() -> ValueParser {
    ValueParser::new(OsStringValueParser::new().try_map(|text| EnvChange::parse(&text)))
}

/// A user inside.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Who {
    uid: Option<u32>,
    name: Option<String>,
    gid: Option<u32>,
}

/// Reads `USER[:GID]`.
fn parse_user(text: &str) -> Result<Who, String> {
    let number = |text: &str| text.parse().ok().filter(|id| *id != u32::MAX);
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let gid = group.map(|group| number(group).ok_or("the group must be a number")).transpose()?;
    match number(user) {
        Some(uid) => Ok(Who { uid: Some(uid), name: None, gid }),
        None if !user.is_empty() && !user.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok(Who { uid: None, name: Some(user.to_owned()), gid })
        }
        None => Err("not a user; give a number from 0 to 4294967294 or a name".into()),
    }
}

impl ExecArgs {
    fn request(&self, tty: bool) -> ExecRequest {
        let bytes = |text: &std::ffi::OsStr| Bytes::from(text.as_bytes());
        let mut env = Vec::new();
        if tty || self.clear_env {
            env.extend(std::env::var_os("TERM").map(|term| (bytes("TERM".as_ref()), bytes(&term))));
        }
        for change in &self.env {
            match change {
                EnvChange::Set(name, value) => env.push((bytes(name), bytes(value))),
                EnvChange::Pass(name) => {
                    env.extend(std::env::var_os(name).map(|value| (bytes(name), bytes(&value))));
                }
            }
        }
        ExecRequest {
            argv: self.command.iter().map(|word| bytes(word)).collect(),
            env,
            clear_env: self.clear_env,
            workdir: self.workdir.as_ref().map(|dir| bytes(dir.as_os_str())),
            user: self.user.as_ref().and_then(|user| user.uid),
            user_name: self.user.as_ref().and_then(|user| Some(bytes(user.name.as_deref()?.as_ref()))),
            group: self.user.as_ref().and_then(|user| user.gid),
            pid: self.pid,
            tty,
        }
    }
}

/// Runs the program and gives its exit code.
pub fn exec(args: ExecArgs) -> Result<u8, Failure> {
    let sandbox = find(Some(&args.sandbox))?;
    let is_terminal = |fd: BorrowedFd<'_>| rustix::termios::isatty(fd);
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let tty = args.tty || (!args.no_tty && is_terminal(stdin.as_fd()) && is_terminal(stdout.as_fd()));
    let request = args.request(tty);
    let signals = Signals::take().map_err(Failure::Terminal)?;
    let event = if tty {
        let relay = Relay::new().map_err(Failure::Terminal)?;
        let slave = relay.slave();
        let process = sandbox.exec(&request, [slave, slave, slave])?;
        relay.run(&process, &signals).map_err(Failure::Terminal)?
    } else {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        let own = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        // A closed one has nothing to pass.
        let stdio = own.map(|fd| if rustix::fs::fstat(fd).is_ok() { fd } else { null.as_fd() });
        let process = sandbox.exec(&request, stdio)?;
        // They are the program's: who has the other end of a pipe must see it closed when the program closes it.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        attend(&process, &signals)
    };
    match event {
        ExecEvent::Exited(status) => Ok(ExitStatus::from_wait_status(status).code()),
        ExecEvent::SandboxEnded => {
            eprintln!("nomina: sandbox {} has ended, and the program with it", args.sandbox);
            Ok(ExitStatus::Signal(libc::SIGKILL as u8).code())
        }
    }
}

/// Waits for the end of the process, passing on the signals that we get.
fn attend(process: &Process, signals: &Signals) -> ExecEvent {
    loop {
        let mut fds = [PollFd::new(process, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[0].revents().is_empty() {
            return process.wait();
        }
        for signal in signals.read().into_iter().filter(|signal| *signal != libc::SIGWINCH) {
            let _ = process.signal(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: ExecArgs,
    }

    fn parse(words: &[&str]) -> Result<ExecArgs, clap::Error> {
        Only::try_parse_from(["exec"].iter().chain(words)).map(|only| only.args)
    }

    #[test]
    fn options_end_where_the_program_begins() {
        let args = parse(&["-u", "5:6", "-it", "web", "ls", "-l", "--pid", "3"]).unwrap();
        assert_eq!((args.sandbox.as_str(), args.pid), ("web", None));
        assert_eq!(args.command, ["ls", "-l", "--pid", "3"]);
        let request = args.request(true);
        assert_eq!((request.user, request.group, request.tty), (Some(5), Some(6), true));
        assert_eq!(parse(&["web", "--", "--odd"]).unwrap().command, ["--odd"]);
    }

    #[test]
    fn a_user_is_a_number_or_a_name() {
        let who = |uid, name: Option<&str>, gid| Ok(Who { uid, name: name.map(str::to_owned), gid });
        assert_eq!(parse_user("5"), who(Some(5), None, None));
        assert_eq!(parse_user("www-data:7"), who(None, Some("www-data"), Some(7)));
        for text in ["", ":5", "4294967295", "a:b"] {
            assert!(parse_user(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_is_needed_and_contradictions_are_refused() {
        for words in [&["web"][..], &["-t", "-T", "web", "sh"], &["--pid", "0", "web", "sh"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
