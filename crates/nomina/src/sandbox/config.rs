//! What a sandbox is asked to be: the builder, and the errors of what cannot be.
//!
//! The builder only collects. [`SandboxBuilder::plan`] checks everything against the host and computes plain data (which
//! directories are hidden, what is mounted where, the environment, the working directory) without changing anything, so
//! that the rules can be tested without starting a program.

mod environ;
mod identity;
mod places;
mod plan;
mod stdio;

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use nomina_kernel::policy::Policy;
use std::path::PathBuf;
use std::str::FromStr;

use crate::egress::{HostRule, Publish};

pub use identity::Identity;
pub use places::{HIDDEN_PLACES, Hidden, HiddenPlace};
pub use plan::{DirPlan, Disposal, HostFacts, Layer, MountKind, MountPlan, NetworkPlan, OverlayPlan, Plan};
pub use stdio::Stdio;

/// The longest host name: `__NEW_UTS_LEN` (`sethostname(2)`).
pub const HOST_NAME_MAX: usize = 64;

/// The root file system underneath the private layer. It is never written to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Root {
    /// The host's own `/`, with [`HIDDEN_PLACES`] empty.
    #[default]
    Host,
    /// A root file system in a directory: a debootstrap tree, an unpacked image. Nothing in it is hidden and nothing
    /// else of the host is shown.
    Dir(PathBuf),
}

/// The private copy-on-write layer over the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Upper {
    /// Thrown away when the sandbox ends.
    #[default]
    Throwaway,
    /// Kept in a directory that is new or empty.
    Keep(PathBuf),
    /// Kept in a directory that an earlier [`Upper::Keep`] filled (or an empty one), with what is in it.
    Reuse(PathBuf),
}

/// A host file or directory shown inside, written through to the host unless `read_only`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The host's path; relative to the current directory.
    pub src: PathBuf,
    /// The path inside; the same as `src` when `None`.
    pub dst: Option<PathBuf>,
    /// Whether writing is refused (`EROFS`).
    pub read_only: bool,
}

impl Bind {
    /// Reads `SRC[:DST][:ro]` (also `:rw`, the default).
    ///
    /// # Errors
    /// [`ConfigError::BindSyntax`] for an empty part or too many of them. Paths with a colon cannot be written this way.
    pub fn parse(text: &OsStr) -> Result<Self, ConfigError> {
        let mut parts: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b':').collect();
        let read_only = match parts.last() {
            Some(&b"ro") if parts.len() > 1 => {
                parts.pop();
                true
            }
            Some(&b"rw") if parts.len() > 1 => {
                parts.pop();
                false
            }
            _ => false,
        };
        if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            return Err(ConfigError::BindSyntax(text.to_owned()));
        }
        let path = |part: &&[u8]| PathBuf::from(OsString::from_vec(part.to_vec()));
        Ok(Self { src: path(&parts[0]), dst: parts.get(1).map(path), read_only })
    }
}

/// Who the first program is, inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id. 0 has every capability inside.
    pub uid: u32,
    /// Group id; `None` is the primary group that the root's `/etc/passwd` gives to `uid`, or the same number as `uid`.
    pub gid: Option<u32>,
}

impl FromStr for User {
    type Err = ConfigError;

    /// Reads `UID[:GID]`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let number = |part: &str| {
            // (uid_t)-1 means "unchanged" to setresuid(2) and belongs to nobody.
            part.parse()
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| ConfigError::UserSyntax(text.to_owned()))
        };
        match text.split_once(':') {
            Some((uid, gid)) => Ok(Self { uid: number(uid)?, gid: Some(number(gid)?) }),
            None => Ok(Self { uid: number(text)?, gid: None }),
        }
    }
}

/// One change of the environment. Later ones win.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvChange {
    /// The variable has this value inside.
    Set(OsString, OsString),
    /// The variable has the value it has outside, even where it would be dropped; nothing happens when it has none.
    Pass(OsString),
}

impl EnvChange {
    /// Reads `NAME=VALUE` or `NAME`.
    ///
    /// # Errors
    /// [`ConfigError::EnvSyntax`] when there is no name.
    pub fn parse(text: &OsStr) -> Result<Self, ConfigError> {
        let bytes = text.as_bytes();
        let own = |part: &[u8]| OsString::from_vec(part.to_vec());
        match bytes.iter().position(|byte| *byte == b'=') {
            Some(0) => Err(ConfigError::EnvSyntax(text.to_owned())),
            Some(at) => Ok(Self::Set(own(&bytes[..at]), own(&bytes[at + 1..]))),
            None if bytes.is_empty() => Err(ConfigError::EnvSyntax(text.to_owned())),
            None => Ok(Self::Pass(own(bytes))),
        }
    }
}

/// What is behind the network of a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Net {
    /// Nothing: there is the loopback device, and what programs make themselves.
    #[default]
    None,
    /// The hosts that the rules allow, through sockets of the host's: a device `eth0` with an address of its own, a gateway and
    /// a resolver.
    User,
    /// The same under the host's name: its devices, addresses and routes are shown, and cannot be changed.
    Host,
}

impl FromStr for Net {
    type Err = ConfigError;

    /// Reads `none`, `user` or `host`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "none" => Ok(Net::None),
            "user" => Ok(Net::User),
            "host" => Ok(Net::Host),
            _ => Err(ConfigError::NetSyntax(text.to_owned())),
        }
    }
}

/// Description of a sandbox. Start with [`super::Sandbox::builder`].
#[derive(Default)]
pub struct SandboxBuilder {
    pub(crate) root: Root,
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: Upper,
    pub(crate) binds: Vec<Bind>,
    pub(crate) rw: Vec<PathBuf>,
    pub(crate) tmpfs: Vec<PathBuf>,
    pub(crate) clear_env: bool,
    pub(crate) env: Vec<EnvChange>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) hostname: Option<OsString>,
    pub(crate) user: User,
    pub(crate) pids: Option<u32>,
    pub(crate) stats: bool,
    pub(crate) patch_after: Option<u32>,
    pub(crate) net: Net,
    pub(crate) allow: Vec<HostRule>,
    pub(crate) deny: Vec<HostRule>,
    pub(crate) publish: Vec<Publish>,
    pub(crate) net_log: Option<PathBuf>,
    pub(crate) stdin: Stdio,
    pub(crate) stdout: Stdio,
    pub(crate) stderr: Stdio,
    pub(crate) command: Vec<OsString>,
    pub(crate) name: Option<String>,
    pub(crate) policy: Option<Arc<dyn Policy>>,
}

impl SandboxBuilder {
    /// The root file system. Default: [`Root::Host`].
    pub fn root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// Shows another directory through a [`Root::Dir`], below it and below those given before. Whiteouts of overlayfs and
    /// `user.overlay.*` attributes in them are heeded, so layers of an image and kept layers can be put on each other.
    pub fn lower(mut self, dir: impl Into<PathBuf>) -> Self {
        self.lower.push(dir.into());
        self
    }

    /// Decides which tasks may be made. Default: all.
    pub fn policy(mut self, policy: Arc<dyn Policy>) -> Self {
        self.policy = Some(policy);
        self
    }

    /// What to call the sandbox in [`crate::inspector`], besides its id. No two that run have one name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What becomes of the changes. Default: [`Upper::Throwaway`].
    pub fn upper(mut self, upper: Upper) -> Self {
        self.upper = upper;
        self
    }

    /// Shows a host file or directory inside.
    pub fn bind(mut self, bind: Bind) -> Self {
        self.binds.push(bind);
        self
    }

    /// Writes a host path through: it is shown at its own path and changes reach the host.
    pub fn rw(mut self, path: impl Into<PathBuf>) -> Self {
        self.rw.push(path.into());
        self
    }

    /// Mounts an empty private directory there, which is not part of the layer that [`Upper::Keep`] keeps.
    pub fn tmpfs(mut self, dst: impl Into<PathBuf>) -> Self {
        self.tmpfs.push(dst.into());
        self
    }

    /// Inherits nothing of the caller's environment but `TERM`.
    pub fn clear_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// Changes the environment, after everything else has been computed.
    pub fn env(mut self, change: EnvChange) -> Self {
        self.env.push(change);
        self
    }

    /// The working directory, inside. Default: the current directory where it is visible, else the user's home.
    pub fn workdir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.workdir = Some(dir.into());
        self
    }

    /// The host name. Default: a copy of the host's.
    pub fn hostname(mut self, name: impl Into<OsString>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// The user inside. Default: 0:0.
    pub fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    /// At most this many tasks (threads count) at a time; more get `EAGAIN` from `clone(2)`.
    pub fn pids(mut self, limit: u32) -> Self {
        self.pids = Some(limit);
        self
    }

    /// After how many traps from one place the system call there is rewritten to reach Nomina without a trap; 0: never. For
    /// debugging; the default is chosen so that it pays.
    pub fn patch_after(mut self, traps: u32) -> Self {
        self.patch_after = Some(traps);
        self
    }

    /// Counts requests and their time.
    pub fn stats(mut self, on: bool) -> Self {
        self.stats = on;
        self
    }

    /// What is behind the network. Default: [`Net::None`].
    pub fn net(mut self, net: Net) -> Self {
        self.net = net;
        self
    }

    /// Allows these destinations and, with at least one such rule, no others ([`crate::egress::EgressPolicy`]).
    pub fn allow(mut self, rule: HostRule) -> Self {
        self.allow.push(rule);
        self
    }

    /// Refuses these destinations, whatever else is allowed.
    pub fn deny(mut self, rule: HostRule) -> Self {
        self.deny.push(rule);
        self
    }

    /// Lets the host, or other machines, reach a port of the sandbox.
    pub fn publish(mut self, publish: Publish) -> Self {
        self.publish.push(publish);
        self
    }

    /// Appends a line to this file for every destination that is asked for: `-` is standard error.
    pub fn net_log(mut self, file: impl Into<PathBuf>) -> Self {
        self.net_log = Some(file.into());
        self
    }

    /// Standard input of the first program.
    pub fn stdin(mut self, stream: impl Into<Stdio>) -> Self {
        self.stdin = stream.into();
        self
    }

    /// Standard output of the first program.
    pub fn stdout(mut self, stream: impl Into<Stdio>) -> Self {
        self.stdout = stream.into();
        self
    }

    /// Standard error of the first program.
    pub fn stderr(mut self, stream: impl Into<Stdio>) -> Self {
        self.stderr = stream.into();
        self
    }

    /// The program, found along the `PATH` inside when it has no slash, and its arguments. Default: the user's shell.
    pub fn command<I, S>(mut self, argv: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        self.command = argv.into_iter().map(Into::into).collect();
        self
    }

    /// Checks that none of the three standard streams reaches further than a stream.
    ///
    /// # Errors
    /// [`ConfigError::Stream`] for the first that does.
    pub fn check_streams(&self) -> Result<(), ConfigError> {
        self.stdin.check("stdin", rustix::stdio::stdin())?;
        self.stdout.check("stdout", rustix::stdio::stdout())?;
        self.stderr.check("stderr", rustix::stdio::stderr())
    }

    /// Checks everything else against the host and says what is to be done. Changes nothing.
    ///
    /// # Errors
    /// The first thing that cannot be, as a [`ConfigError`].
    pub fn plan(&self, host: &HostFacts) -> Result<Plan, ConfigError> {
        plan::compute(self, host)
    }
}

/// Why a sandbox cannot be as described. Each message is one line: what, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A bind that is not `SRC[:DST][:ro]`.
    #[error("bind {}: not of the form SRC[:DST][:ro]; paths with a colon cannot be bound", .0.display())]
    BindSyntax(OsString),
    /// A user that is not `UID[:GID]`.
    #[error(
        "user {0}: not of the form UID[:GID]; give numbers from 0 to 4294967294, as `id -u NAME` prints them"
    )]
    UserSyntax(String),
    /// A variable without a name.
    #[error("env {}: no name before `=`; write NAME=VALUE, or NAME to pass the value it has outside", .0.display())]
    EnvSyntax(OsString),
    /// A network there is not.
    #[error(
        "net {0}: not a network; write none (loopback only), user (the hosts that --allow and --deny leave) or host (the same, with \
         this machine's addresses)"
    )]
    NetSyntax(String),
    /// A rule about a network that is not there.
    #[error("{0}: there is no way out of the sandbox that it could be about; add --net user")]
    NeedsNet(&'static str),
    /// A host path that cannot be used.
    #[error("{option} {}: {}; check the path and its permissions", path.display(), reason(error))]
    HostPath {
        /// The option.
        option: &'static str,
        /// The path as given.
        path: PathBuf,
        /// What the host said.
        #[source]
        error: io::Error,
    },
    /// A root or layer that is not a directory.
    #[error("{option} {}: not a directory; unpack images first, for example with tar", path.display())]
    NotDirectory {
        /// The option.
        option: &'static str,
        /// The path as given.
        path: PathBuf,
    },
    /// An inner path that is relative or has `..` in it.
    #[error("{option} {}: not an absolute path without `..`; write where it is inside, from / on", path.display())]
    InnerPath {
        /// The option.
        option: &'static str,
        /// The path as given.
        path: PathBuf,
    },
    /// Something over `/`.
    #[error(
        "{option} /: cannot stand for the whole root; use --root for another one, and name directories to write through"
    )]
    WholeRoot {
        /// The option.
        option: &'static str,
    },
    /// A mount where Nomina has its own.
    #[error("{option} {}: /proc, /sys and /dev are Nomina's own; choose another place", path.display())]
    Reserved {
        /// The option.
        option: &'static str,
        /// The path inside.
        path: PathBuf,
    },
    /// A bind that has the host's processes or devices in it.
    #[error("{option} {}: the host's /, /proc, /sys and /dev cannot be shown; name directories below / instead", path.display())]
    KernelFiles {
        /// The option.
        option: &'static str,
        /// The path as given.
        path: PathBuf,
    },
    /// Two mounts at one place.
    #[error("{option} {}: asked for twice; leave one of the two out", path.display())]
    Duplicate {
        /// The option of the second.
        option: &'static str,
        /// The path inside.
        path: PathBuf,
    },
    /// `--keep` would mix with what is there.
    #[error("keep {}: not empty; use --upper to go on from a kept layer, or name a new directory", .0.display())]
    KeepNotEmpty(PathBuf),
    /// `--upper` of something else.
    #[error("upper {}: not a layer that --keep made; make one with `nomina run --keep DIR`", .0.display())]
    NotLayer(PathBuf),
    /// The layer would be reachable by a second way, and Nomina could be fooled by what changes under it.
    #[error("layer {}: the programs inside could write to it through {}; keep the layer elsewhere", layer.display(), path.display())]
    LayerExposed {
        /// The host's path that is written through.
        path: PathBuf,
        /// The directory of the layer.
        layer: PathBuf,
    },
    /// Layers below the host's own root, or more than the overlay takes.
    #[error("lower: {0}")]
    Lower(&'static str),
    /// The root is in the layer that is over it.
    #[error("root {}: lies in the layer {}; keep the layer elsewhere", root.display(), layer.display())]
    RootInLayer {
        /// The root.
        root: PathBuf,
        /// The directory of the layer.
        layer: PathBuf,
    },
    /// No directory for a layer.
    #[error(
        "layer: no writable directory for it outside of what is written through; set TMPDIR to one, or use --keep DIR"
    )]
    NoScratch,
    /// A host name the kernel would refuse.
    #[error("hostname {}: empty, longer than 64 bytes or with a control character; choose a shorter, plain one", .0.display())]
    Hostname(OsString),
    /// A limit that even the first program would break.
    #[error("pids 0: the first program counts as well; give at least 1")]
    NoPids,
    /// A NUL byte in a string that a program shall get.
    #[error("{what}: contains a NUL byte, which no program can be given; remove it")]
    Nul {
        /// Which string.
        what: &'static str,
    },
    /// A standard stream that would be a way out.
    #[error(
        "{which}: {what} reaches the host beyond the stream; redirect it to a file, a pipe or a terminal"
    )]
    Stream {
        /// Which of the three.
        which: &'static str,
        /// What it is.
        what: &'static str,
    },
    /// The current directory is gone.
    #[error("current directory: {}; change to one that exists", reason(.0))]
    NoCurrentDir(#[source] io::Error),
}

/// The host's words without Rust's "(os error 2)".
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_has_a_source_an_optional_destination_and_an_optional_mode() {
        let bind = |text: &str| Bind::parse(OsStr::new(text)).unwrap();
        assert_eq!(bind("/a"), Bind { src: "/a".into(), dst: None, read_only: false });
        assert_eq!(bind("/a:ro"), Bind { src: "/a".into(), dst: None, read_only: true });
        assert_eq!(bind("a:/b"), Bind { src: "a".into(), dst: Some("/b".into()), read_only: false });
        assert_eq!(bind("/a:/b:ro"), Bind { src: "/a".into(), dst: Some("/b".into()), read_only: true });
        assert_eq!(bind("/a:/b:rw"), Bind { src: "/a".into(), dst: Some("/b".into()), read_only: false });
        // A directory that happens to be called ro.
        assert_eq!(bind("ro"), Bind { src: "ro".into(), dst: None, read_only: false });
    }

    #[test]
    fn a_bind_with_an_empty_part_or_too_many_is_refused() {
        for text in ["", ":", "a:", ":/b", "a:/b:/c", "a:/b:ro:ro", ":ro"] {
            assert!(matches!(Bind::parse(OsStr::new(text)), Err(ConfigError::BindSyntax(_))), "{text}");
        }
    }

    #[test]
    fn a_user_is_one_or_two_numbers() {
        assert_eq!("1000".parse::<User>().unwrap(), User { uid: 1000, gid: None });
        assert_eq!("0:5".parse::<User>().unwrap(), User { uid: 0, gid: Some(5) });
        for text in ["", "alice", "1:", ":1", "-1", "4294967295", "1:2:3", "4294967296"] {
            assert!(text.parse::<User>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_variable_is_set_or_passed() {
        let parse = |text: &str| EnvChange::parse(OsStr::new(text));
        assert_eq!(parse("A=b=c").unwrap(), EnvChange::Set("A".into(), "b=c".into()));
        assert_eq!(parse("A=").unwrap(), EnvChange::Set("A".into(), "".into()));
        assert_eq!(parse("A").unwrap(), EnvChange::Pass("A".into()));
        assert!(parse("=x").is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn errors_are_one_line_that_says_what_to_do() {
        let error = ConfigError::HostPath {
            option: "bind",
            path: "/nowhere".into(),
            error: io::Error::from_raw_os_error(libc::ENOENT),
        };
        assert_eq!(
            error.to_string(),
            "bind /nowhere: no such file or directory; check the path and its permissions"
        );
    }
}
