//! `nomina run`: from options to a [`SandboxBuilder`].

use std::ffi::OsString;
use std::path::PathBuf;

use anstream::eprintln;
use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::{Args, ValueHint};
use nomina::egress::{HostRule, Publish};
use nomina::sandbox::{Bind, EnvChange, Net, Root, Sandbox, SandboxBuilder, Upper, User};

use super::{Failure, adapter, stats};

const EXAMPLES: &str = "\
Examples:
  nomina run
      A root shell in a private copy of this system. Everything that is changed is gone when it ends.
  nomina run apt-get install ./package.deb
      Try a package without installing it.
  nomina run --keep changes make install
      See afterwards, in changes/root, what was written where.
  nomina run --upper changes
      Go on from there.
  nomina run --rw . -- cargo build --release
      Build in the current directory, for real; everything else is private.
  nomina run --root ./debian --hostname box /bin/bash
      Another system, from `debootstrap stable debian` or an unpacked image.
  nomina run --root ./app --lower ./base ./serve
      The layers of an image, the upper-most first.
  nomina run --net user --allow deb.debian.org:80 apt-get update
      Reach one service and nothing else; --net-log - shows what is refused.
  nomina run --net user -p 8080:80 nginx -g 'daemon off;'
      A server that this machine finds at http://localhost:8080.
  nomina run --user 1000 --clear-env -e LANG --tmpfs /tmp ./untrusted
      As an ordinary user inside, with none of the variables but LANG.

Exit code: the program's; 125 Nomina's own error, 126 not executable, 127 not found, 128+N ended by signal N.";

/// Run a program in a sandbox (default: the user's shell)
///
/// The program is root with full capabilities in a private copy of the system: the host's files read-only underneath, changes
/// in a layer of their own that is thrown away at the end. Home directories, /tmp, /run and other places where people and
/// sessions keep things are empty. The current directory is visible, and changes to it are private as well.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// Use the root file system in DIR instead of the host's (a debootstrap tree, an unpacked image)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Files")]
    root: Option<PathBuf>,

    /// Show DIR through --root as well, read-only; may be repeated: each lies below the one before, as in `lowerdir=ROOT:DIR…` of
    /// overlay mounts. Whiteouts and `user.overlay.*` attributes in them are heeded
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "root", help_heading = "Files")]
    lower: Vec<PathBuf>,

    /// Keep the changes in DIR, which must be new or empty
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "upper", help_heading = "Files")]
    keep: Option<PathBuf>,

    /// Go on from the changes kept in DIR, and keep the new ones there
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Files")]
    upper: Option<PathBuf>,

    /// Show the host's SRC at DST (default: its own path), written through unless `:ro`
    #[arg(
        long,
        value_name = "SRC[:DST][:ro]",
        value_parser = bind_parser(),
        value_hint = ValueHint::AnyPath,
        help_heading = "Files"
    )]
    bind: Vec<Bind>,

    /// Show PATH at its own path and write it through to the host, as in `--rw .`
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath, help_heading = "Files")]
    rw: Vec<PathBuf>,

    /// Mount an empty directory at DST
    #[arg(long, value_name = "DST", help_heading = "Files")]
    tmpfs: Vec<PathBuf>,

    /// Set a variable, or with only a name pass the value it has outside
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = env_parser(), help_heading = "Program")]
    env: Vec<EnvChange>,

    /// Inherit no variables but TERM
    #[arg(long, help_heading = "Program")]
    clear_env: bool,

    /// Start in DIR (default: the current directory where it is visible, else the user's home)
    #[arg(short, long, value_name = "DIR", help_heading = "Program")]
    workdir: Option<PathBuf>,

    /// Be this user and group, in numbers (default: 0, root with full capabilities)
    #[arg(short, long, value_name = "UID[:GID]", help_heading = "Program")]
    user: Option<User>,

    /// The host name (default: a copy of the host's)
    #[arg(long, value_name = "NAME", help_heading = "Program")]
    hostname: Option<OsString>,

    /// What is behind the network: `none` (loopback only), `user` (other hosts, as --allow and --deny say; not this machine), or
    /// `host` (the same, with this machine's addresses)
    #[arg(
        long,
        value_name = "NETWORK",
        default_value = "none",
        hide_default_value = true,
        help_heading = "Network"
    )]
    net: Net,

    /// Reach only HOST (a name, *.NAME, an address, 10.0.0.0/8 or *); may be repeated
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Network")]
    allow: Vec<HostRule>,

    /// Do not reach HOST, whatever is allowed; may be repeated
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Network")]
    deny: Vec<HostRule>,

    /// Let this machine reach port GUESTPORT of the sandbox at HOSTPORT (0: any) of its loopback, or of ADDRESS
    #[arg(short, long, value_name = "[ADDRESS:]HOSTPORT:GUESTPORT[/udp]", help_heading = "Network")]
    publish: Vec<Publish>,

    /// Append a line to FILE (`-`: standard error) for each host that is asked for, allowed or refused
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Network")]
    net_log: Option<PathBuf>,

    /// Call the sandbox NAME in `nomina ps`, `ns`, `exec` and `kill`; no two that run have one name
    #[arg(long, value_name = "NAME", help_heading = "Program")]
    name: Option<String>,

    /// Allow at most N processes and threads at a time
    #[arg(long, value_name = "N", help_heading = "Program")]
    pids: Option<u32>,

    /// Rewrite a system call instruction of the program when it has trapped N times (0: never), for debugging
    #[arg(long, value_name = "N", help_heading = "Program")]
    patch_after: Option<u32>,

    /// Print at the end what Nomina was asked, how often, and how long it took (on standard error)
    #[arg(long, help_heading = "Facts")]
    stats: bool,

    /// Print the facts of --stats as JSON
    #[arg(long, requires = "stats", help_heading = "Facts")]
    json: bool,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true, value_hint = ValueHint::CommandWithArguments)]
    command: Vec<OsString>,
}

fn bind_parser() -> ValueParser {
    ValueParser::new(OsStringValueParser::new().try_map(|text| Bind::parse(&text)))
}

fn env_parser() -> ValueParser {
    ValueParser::new(OsStringValueParser::new().try_map(|text| EnvChange::parse(&text)))
}

impl RunArgs {
    fn builder(self) -> SandboxBuilder {
        let mut builder = Sandbox::builder()
            .user(self.user.unwrap_or_default())
            .stats(self.stats)
            .command(self.command)
            .net(self.net);
        if let Some(dir) = self.root {
            builder = builder.root(Root::Dir(dir));
        }
        if let Some(dir) = self.keep {
            builder = builder.upper(Upper::Keep(dir));
        }
        if let Some(dir) = self.upper {
            builder = builder.upper(Upper::Reuse(dir));
        }
        if self.clear_env {
            builder = builder.clear_env();
        }
        if let Some(dir) = self.workdir {
            builder = builder.workdir(dir);
        }
        if let Some(name) = self.hostname {
            builder = builder.hostname(name);
        }
        if let Some(name) = self.name {
            builder = builder.name(name);
        }
        if let Some(limit) = self.pids {
            builder = builder.pids(limit);
        }
        if let Some(traps) = self.patch_after {
            builder = builder.patch_after(traps);
        }
        if let Some(file) = self.net_log {
            builder = builder.net_log(file);
        }
        builder = self.lower.into_iter().fold(builder, SandboxBuilder::lower);
        builder = self.allow.into_iter().fold(builder, SandboxBuilder::allow);
        builder = self.deny.into_iter().fold(builder, SandboxBuilder::deny);
        builder = self.publish.into_iter().fold(builder, SandboxBuilder::publish);
        builder = self.bind.into_iter().fold(builder, SandboxBuilder::bind);
        builder = self.rw.into_iter().fold(builder, SandboxBuilder::rw);
        builder = self.tmpfs.into_iter().fold(builder, SandboxBuilder::tmpfs);
        self.env.into_iter().fold(builder, SandboxBuilder::env)
    }
}

/// Runs the program and gives its exit code.
pub fn run(args: RunArgs) -> Result<u8, Failure> {
    let json = args.json;
    let wants_stats = args.stats;
    let finished = adapter::run(args.builder(), |note| eprintln!("nomina: {note}"))?;
    if wants_stats {
        let stderr = anstream::stderr().lock();
        if json {
            stats::write_json(&finished.stats, stderr)?
        } else {
            stats::write_table(&finished.stats, stderr)?
        }
    }
    Ok(finished.exit.code())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: RunArgs,
    }

    fn parse(words: &[&str]) -> Result<RunArgs, clap::Error> {
        Only::try_parse_from(["run"].iter().chain(words)).map(|only| only.args)
    }

    #[test]
    fn options_end_where_the_program_begins() {
        let args = parse(&["--pids", "5", "ls", "--rw", "-l", "--", "x"]).unwrap();
        assert_eq!(args.command, ["ls", "--rw", "-l", "--", "x"]);
        assert!(args.rw.is_empty());
        assert_eq!(parse(&["--", "--odd-name", "-x"]).unwrap().command, ["--odd-name", "-x"]);
    }

    #[test]
    fn an_unknown_option_before_the_program_is_an_error() {
        assert!(parse(&["--no-such-option", "ls"]).is_err());
    }

    #[test]
    fn what_may_be_repeated_is_kept_in_order() {
        let args = parse(&["-e", "A=1", "--env", "A=2", "-e", "LANG", "--bind", "/a", "--bind", "/b:/c:ro"])
            .unwrap();
        assert_eq!(
            args.env,
            [
                EnvChange::Set("A".into(), "1".into()),
                EnvChange::Set("A".into(), "2".into()),
                EnvChange::Pass("LANG".into())
            ]
        );
        assert_eq!(args.bind.len(), 2);
        assert!(args.bind[1].read_only);
    }

    #[test]
    fn options_that_contradict_or_mean_nothing_are_refused() {
        for words in [
            &["--keep", "a", "--upper", "b"][..],
            &["--json"],
            &["--lower", "a"],
            &["--user", "alice"],
            &["--bind", "a:b:c:d"],
            &["-e", "=x"],
            &["--pids", "-1"],
            &["--net", "bridge"],
            &["--allow", "a:http"],
            &["-p", "80"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_short_forms_mean_the_long_ones() {
        let args = parse(&["-u", "1000:100", "-w", "/usr", "-e", "A=1"]).unwrap();
        assert_eq!(args.user, Some(User { uid: 1000, gid: Some(100) }));
        assert_eq!(args.workdir, Some("/usr".into()));
    }
}
