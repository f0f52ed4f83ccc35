//! From what was asked for to what is to be done.
//!
//! The root is one overlay: the host's `/` (or another tree) underneath, a directory of the *layer* on top. Below a hidden
//! directory of the host the current directory is a second overlay, mounted at its own path, so that it is copy-on-write
//! like the rest. What is written through is a host mount over both.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::environ::environment;
use super::identity::host_home;
use super::places::hidden_below;
use super::{ConfigError, EnvChange, HOST_NAME_MAX, Hidden, Identity, Net, Root, SandboxBuilder, Upper};
use crate::egress::{HostRule, Publish};

/// After how many traps a call site is rewritten. Rewriting costs about as much as ten traps, and memory besides; most
/// processes are short.
const PATCH_AFTER: u32 = 16;

/// What [`SandboxBuilder::plan`] must know of the caller, as values.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// Current directory, without symbolic links (`getcwd(2)`).
    pub cwd: PathBuf,
    /// Real user id.
    pub uid: u32,
    /// Home directories of that user: by passwd and by `HOME`.
    pub homes: Vec<PathBuf>,
    /// Environment.
    pub environ: Vec<(OsString, OsString)>,
    /// Where a layer that is thrown away may be, best first.
    pub scratch: Vec<PathBuf>,
    /// Makes the name of a thrown-away layer one of its own.
    pub token: String,
}

impl HostFacts {
    /// The facts about the calling process.
    ///
    /// # Errors
    /// [`ConfigError::NoCurrentDir`] when it was removed or cannot be reached.
    pub fn current() -> Result<Self, ConfigError> {
        let uid = rustix::process::getuid().as_raw();
        let from_env =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let mut random = [0; 8];
        // Only to find a free name, so a short or failed read is no danger: creating the directory is exclusive.
        let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::NONBLOCK);
        Ok(Self {
            cwd: std::env::current_dir().map_err(ConfigError::NoCurrentDir)?,
            uid,
            homes: host_home(uid).into_iter().chain(from_env("HOME")).collect(),
            environ: std::env::vars_os().collect(),
            scratch: from_env("TMPDIR").into_iter().chain(["/var/tmp".into(), "/tmp".into()]).collect(),
            token: format!("{}-{:016x}", std::process::id(), u64::from_ne_bytes(random)),
        })
    }
}

/// What becomes of the layer's directory in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposal {
    /// Removed.
    Remove,
    /// Left.
    Keep,
}

/// The directory that holds the upper sides of all overlays of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Host path. The directory is created (mode 0700) when it does not exist; one that is thrown away must not exist.
    pub dir: PathBuf,
    /// What becomes of it.
    pub disposal: Disposal,
}

/// A copy-on-write directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayPlan {
    /// Host directory underneath.
    pub lower: PathBuf,
    /// Host directories further down, each below the one before.
    pub below: Vec<PathBuf>,
    /// Host directory on top, in the layer.
    pub upper: PathBuf,
    /// Host directory in the layer for files that are being made.
    pub work: PathBuf,
    /// Directories of `lower` that are empty. In a reused layer those that are there already stay as they are.
    pub hidden: Vec<Hidden>,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// The namespace's own `proc(5)`.
    Proc,
    /// `sysfs(5)`.
    Sysfs,
    /// The hierarchy of control groups.
    Cgroup2,
    /// Device nodes.
    Dev,
    /// Terminals.
    Devpts,
    /// An empty private directory, mode 01777.
    Tmpfs,
    /// A copy-on-write directory.
    Overlay(OverlayPlan),
    /// A host file or directory, written through unless read-only.
    Host {
        /// Host path without symbolic links.
        src: PathBuf,
        /// Whether the mount is read-only.
        read_only: bool,
        /// Whether it is a directory (else the mount point is a file).
        directory: bool,
    },
}

/// One mount, below the root overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPlan {
    /// Mount point, absolute; created with its parents (0755, owner 0:0) where it is missing. Symbolic links in it are
    /// followed, as `mount(2)` does.
    pub dst: PathBuf,
    /// What is mounted.
    pub kind: MountKind,
}

/// A directory to be made in the root overlay, with its parents (0755, owner 0:0), unless it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirPlan {
    /// Absolute path inside.
    pub path: PathBuf,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Everything that starting a sandbox needs to know, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where changes are kept.
    pub layer: Layer,
    /// The root.
    pub root: OverlayPlan,
    /// Directories made before the mounts, in order.
    pub dirs: Vec<DirPlan>,
    /// Mounts in order: what is mounted in another mount comes after it.
    pub mounts: Vec<MountPlan>,
    /// User, groups, home and shell.
    pub identity: Identity,
    /// Environment of the first program.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory inside.
    pub workdir: PathBuf,
    /// Program and arguments, at least one.
    pub argv: Vec<OsString>,
    /// Host name; `None` copies the host's.
    pub hostname: Option<OsString>,
    /// Limit of tasks.
    pub pids: Option<u32>,
    /// After how many traps a call site is rewritten; 0: never.
    pub patch_after: u32,
    /// Whether requests are counted.
    pub stats: bool,
    /// Network.
    pub network: NetworkPlan,
    /// One-line remarks for the person who asked.
    pub notes: Vec<String>,
}

/// What is behind the network, and which part of it may be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkPlan {
    /// What there is.
    pub net: Net,
    /// `--allow`
    pub allow: Vec<HostRule>,
    /// `--deny`
    pub deny: Vec<HostRule>,
    /// Ports that the host listens on for the sandbox.
    pub publish: Vec<Publish>,
    /// Where decisions are logged; `-` is standard error.
    pub log: Option<PathBuf>,
}

pub(super) fn compute(builder: &SandboxBuilder, host: &HostFacts) -> Result<Plan, ConfigError> {
    check_strings(builder)?;
    let network = network(builder, &host.cwd)?;
    let on_host = builder.root == Root::Host;
    let lower = match &builder.root {
        Root::Host => PathBuf::from("/"),
        Root::Dir(dir) => real_dir("root", &host.cwd, dir)?,
    };
    let below = further_layers(builder, &host.cwd)?;
    let asked = asked_mounts(builder, &host.cwd)?;
    let layer = layer(builder, host, &asked)?;
    if let Some(root) = [&lower].into_iter().chain(&below).find(|dir| dir.starts_with(&layer.dir)) {
        return Err(ConfigError::RootInLayer { root: root.clone(), layer: layer.dir });
    }
    let mut hidden = if on_host { hidden_below(&lower, &host.homes, host.uid) } else { Vec::new() };

    let mut mounts = own_mounts();
    let mut notes = Vec::new();
    let shown = if on_host { current_dir(host, &hidden, &asked) } else { Shown::No };
    if shown == Shown::OwnMount {
        let name = Path::new("at").join(escape(&host.cwd));
        let kind = MountKind::Overlay(overlay(&layer, &name, host.cwd.clone(), Vec::new()));
        mounts.push(MountPlan { dst: host.cwd.clone(), kind });
    } else if on_host && shown == Shown::No && builder.workdir.is_none() {
        let why = if is_own(&host.cwd) {
            "is the host's own"
        } else {
            "stays hidden, as home directories do; show it with --rw . or --bind .:ro"
        };
        notes.push(format!("current directory {}: {why}", host.cwd.display()));
    }
    mounts.extend(asked);
    // Stable, so that the order of what was asked for stays among mounts of the same depth.
    mounts.sort_by_key(|mount| mount.dst.components().count());

    let upper = layer.dir.join("root");
    let trees: Vec<&Path> =
        [upper.as_path(), lower.as_path()].into_iter().chain(below.iter().map(PathBuf::as_path)).collect();
    let identity = match builder.upper {
        Upper::Reuse(_) => Identity::look_up(builder.user, &trees),
        _ => Identity::look_up(builder.user, &trees[1..]),
    };
    let dirs = if on_host { dirs(&identity, &hidden) } else { Vec::new() };
    let workdir = workdir(builder, host, shown, &identity, &dirs, &hidden)?;
    let env = environment(&host.environ, builder.clear_env, &builder.env, &identity, &workdir);
    let argv = match builder.command.as_slice() {
        [] => vec![shell(&identity, &trees).into_os_string()],
        argv => argv.to_vec(),
    };

    if on_host {
        // Below our own mounts, so that nothing depends on those staying where they are.
        hidden.extend(OWN.map(|path| Hidden { path: path.into(), mode: 0o555, shown_when_current: false }));
    }
    Ok(Plan {
        root: OverlayPlan { below, ..overlay(&layer, Path::new("root"), lower, hidden) },
        layer,
        dirs,
        mounts,
        identity,
        env,
        workdir,
        argv,
        hostname: builder.hostname.clone(),
        pids: builder.pids,
        patch_after: builder.patch_after.unwrap_or(PATCH_AFTER),
        stats: builder.stats,
        network,
        notes,
    })
}

fn network(builder: &SandboxBuilder, cwd: &Path) -> Result<NetworkPlan, ConfigError> {
    if builder.net == Net::None {
        let given = [
            ("allow", !builder.allow.is_empty()),
            ("deny", !builder.deny.is_empty()),
            ("publish", !builder.publish.is_empty()),
            ("net-log", builder.net_log.is_some()),
        ];
        if let Some((option, _)) = given.into_iter().find(|(_, given)| *given) {
            return Err(ConfigError::NeedsNet(option));
        }
    }
    Ok(NetworkPlan {
        net: builder.net,
        allow: builder.allow.clone(),
        deny: builder.deny.clone(),
        publish: builder.publish.clone(),
        log: builder.net_log.as_ref().map(|file| if file == "-" { file.clone() } else { cwd.join(file) }),
    })
}

fn check_strings(builder: &SandboxBuilder) -> Result<(), ConfigError> {
    if let Some(name) = &builder.hostname {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > HOST_NAME_MAX || bytes.iter().any(u8::is_ascii_control) {
            return Err(ConfigError::Hostname(name.clone()));
        }
    }
    if builder.pids == Some(0) {
        return Err(ConfigError::NoPids);
    }
    let nul = |text: &OsStr| text.as_bytes().contains(&0);
    if builder.command.iter().any(|arg| nul(arg)) {
        return Err(ConfigError::Nul { what: "command" });
    }
    for change in &builder.env {
        if let EnvChange::Set(name, value) = change {
            if name.is_empty() || name.as_bytes().contains(&b'=') {
                return Err(ConfigError::EnvSyntax(name.clone()));
            }
            if nul(name) || nul(value) {
                return Err(ConfigError::Nul { what: "env" });
            }
        }
    }
    Ok(())
}

/// Where every sandbox has mounts of Nomina's.
const OWN: [&str; 3] = ["/proc", "/sys", "/dev"];

fn is_own(path: &Path) -> bool {
    OWN.iter().any(|own| path.starts_with(own))
}

/// What every sandbox has.
fn own_mounts() -> Vec<MountPlan> {
    [
        ("/proc", MountKind::Proc),
        ("/sys", MountKind::Sysfs),
        ("/dev", MountKind::Dev),
        ("/dev/pts", MountKind::Devpts),
        ("/dev/shm", MountKind::Tmpfs),
        ("/sys/fs/cgroup", MountKind::Cgroup2),
    ]
    .map(|(dst, kind)| MountPlan { dst: dst.into(), kind })
    .into()
}

/// The mounts of `--bind`, `--rw` and `--tmpfs`.
fn asked_mounts(builder: &SandboxBuilder, cwd: &Path) -> Result<Vec<MountPlan>, ConfigError> {
    let mut mounts: Vec<MountPlan> = Vec::new();
    let mut add = |option: &'static str, dst: PathBuf, kind: MountKind| {
        if dst == Path::new("/") {
            return Err(ConfigError::WholeRoot { option });
        }
        if is_own(&dst) {
            return Err(ConfigError::Reserved { option, path: dst });
        }
        if mounts.iter().any(|other| other.dst == dst) {
            return Err(ConfigError::Duplicate { option, path: dst });
        }
        mounts.push(MountPlan { dst, kind });
        Ok(())
    };
    for bind in &builder.binds {
        let kind = host_mount("bind", cwd, &bind.src, bind.read_only)?;
        let dst = match &bind.dst {
            Some(dst) => inner("bind", dst)?,
            None => own_path(cwd, &bind.src, &kind),
        };
        add("bind", dst, kind)?;
    }
    for path in &builder.rw {
        let kind = host_mount("rw", cwd, path, false)?;
        add("rw", own_path(cwd, path, &kind), kind)?;
    }
    for dst in &builder.tmpfs {
        add("tmpfs", inner("tmpfs", dst)?, MountKind::Tmpfs)?;
    }
    Ok(mounts)
}

fn host_mount(
    option: &'static str,
    cwd: &Path,
    path: &Path,
    read_only: bool,
) -> Result<MountKind, ConfigError> {
    let failed = |error| ConfigError::HostPath { option, path: path.to_owned(), error };
    let src = fs::canonicalize(cwd.join(path)).map_err(failed)?;
    let directory = fs::metadata(&src).map_err(failed)?.is_dir();
    // The host's proc names every process of the host, and its files look like regular ones.
    if src == Path::new("/") || is_own(&src) {
        return Err(ConfigError::KernelFiles { option, path: path.to_owned() });
    }
    Ok(MountKind::Host { src, read_only, directory })
}

/// Where a host path is inside when nothing else was said: at the path it was named by. Only `..` makes the name useless,
/// since what it means depends on symbolic links of the host.
fn own_path(cwd: &Path, path: &Path, kind: &MountKind) -> PathBuf {
    match kind {
        MountKind::Host { src, .. } if path.components().any(|part| part == Component::ParentDir) => {
            src.clone()
        }
        // Joining components drops `.` and doubled slashes.
        _ => cwd.join(path).components().collect(),
    }
}

/// An absolute path inside, without `.`, `..` and doubled slashes.
fn inner(option: &'static str, path: &Path) -> Result<PathBuf, ConfigError> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(ConfigError::InnerPath { option, path: path.to_owned() });
    }
    Ok(path.components().collect())
}

fn real_dir(option: &'static str, cwd: &Path, path: &Path) -> Result<PathBuf, ConfigError> {
    let real = fs::canonicalize(cwd.join(path)).map_err(|error| ConfigError::HostPath {
        option,
        path: path.to_owned(),
        error,
    })?;
    if real.is_dir() { Ok(real) } else { Err(ConfigError::NotDirectory { option, path: path.to_owned() }) }
}

/// What `--lower` names, upper-most first.
fn further_layers(builder: &SandboxBuilder, cwd: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    if !builder.lower.is_empty() && builder.root == Root::Host {
        return Err(ConfigError::Lower("there is no other root that it could be below; add --root DIR"));
    }
    if builder.lower.len() >= nomina_fs::overlay::MAX_LAYERS {
        return Err(ConfigError::Lower("more than 500 directories with --root; put some of them into one"));
    }
    builder.lower.iter().map(|dir| real_dir("lower", cwd, dir)).collect()
}

fn layer(builder: &SandboxBuilder, host: &HostFacts, asked: &[MountPlan]) -> Result<Layer, ConfigError> {
    match &builder.upper {
        Upper::Throwaway => {
            let dir = host
                .scratch
                .iter()
                .filter_map(|base| fs::canonicalize(base).ok())
                .filter(|base| base.is_dir() && writable(base))
                .map(|base| base.join(format!("nomina-{}", host.token)))
                .find(|dir| exposing(asked, dir).is_none())
                .ok_or(ConfigError::NoScratch)?;
            Ok(Layer { dir, disposal: Disposal::Remove })
        }
        Upper::Keep(path) => {
            let dir = match fs::canonicalize(host.cwd.join(path)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => new_dir("keep", &host.cwd, path)?,
                _ => real_dir("keep", &host.cwd, path)?,
            };
            if dir.exists() && !is_empty("keep", &dir)? {
                return Err(ConfigError::KeepNotEmpty(path.clone()));
            }
            kept_layer("keep", dir, asked)
        }
        Upper::Reuse(path) => {
            let dir = real_dir("upper", &host.cwd, path)?;
            if !dir.join("root").is_dir() && !is_empty("upper", &dir)? {
                return Err(ConfigError::NotLayer(path.clone()));
            }
            kept_layer("upper", dir, asked)
        }
    }
}

fn kept_layer(option: &'static str, dir: PathBuf, asked: &[MountPlan]) -> Result<Layer, ConfigError> {
    if !writable(dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"))) {
        let error = io::Error::from_raw_os_error(libc::EACCES);
        return Err(ConfigError::HostPath { option, path: dir, error });
    }
    match exposing(asked, &dir) {
        Some(path) => Err(ConfigError::LayerExposed { path, layer: dir }),
        None => Ok(Layer { dir, disposal: Disposal::Keep }),
    }
}

/// The host path that is written through and has the layer in it, or is in it.
fn exposing(asked: &[MountPlan], layer: &Path) -> Option<PathBuf> {
    asked.iter().find_map(|mount| match &mount.kind {
        MountKind::Host { src, read_only: false, .. } if layer.starts_with(src) || src.starts_with(layer) => {
            Some(src.clone())
        }
        _ => None,
    })
}

fn new_dir(option: &'static str, cwd: &Path, path: &Path) -> Result<PathBuf, ConfigError> {
    let failed = |errno| ConfigError::HostPath {
        option,
        path: path.to_owned(),
        error: io::Error::from_raw_os_error(errno),
    };
    // A path that ends in `..` names nothing that could be made.
    let name = path.file_name().ok_or_else(|| failed(libc::EINVAL))?;
    let parent = path.parent().unwrap_or(Path::new(""));
    Ok(real_dir(option, cwd, &cwd.join(parent)).map_err(|_| failed(libc::ENOENT))?.join(name))
}

fn is_empty(option: &'static str, dir: &Path) -> Result<bool, ConfigError> {
    let mut entries =
        fs::read_dir(dir).map_err(|error| ConfigError::HostPath { option, path: dir.to_owned(), error })?;
    Ok(entries.next().is_none())
}

fn writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

fn overlay(layer: &Layer, name: &Path, lower: PathBuf, mut hidden: Vec<Hidden>) -> OverlayPlan {
    // A layer in the tree that it is over would be seen in itself.
    if let Ok(rest) = layer.dir.strip_prefix(&lower) {
        let path = Path::new("/").join(rest);
        if !hidden.iter().any(|above| path.starts_with(&above.path)) {
            hidden.push(Hidden { path, mode: 0o700, shown_when_current: false });
        }
    }
    OverlayPlan {
        upper: layer.dir.join(name),
        work: layer.dir.join("work").join(name),
        lower,
        below: Vec::new(),
        hidden,
    }
}

/// How the current directory is visible inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// With the root, or with a mount that was asked for.
    Anyway,
    /// It needs a mount of its own.
    OwnMount,
    /// It is not.
    No,
}

fn current_dir(host: &HostFacts, hidden: &[Hidden], asked: &[MountPlan]) -> Shown {
    let cwd = &host.cwd;
    if is_own(cwd) {
        return Shown::No;
    }
    let over = asked.iter().filter(|mount| cwd.starts_with(&mount.dst));
    if let Some(mount) = over.max_by_key(|mount| mount.dst.components().count()) {
        return match (&mount.kind, cwd.strip_prefix(&mount.dst)) {
            (MountKind::Host { src, .. }, Ok(rest))
                if src.components().chain(rest.components()).eq(cwd.components()) =>
            {
                Shown::Anyway
            }
            _ => Shown::No,
        };
    }
    let Some(place) = hidden.iter().find(|hidden| cwd.starts_with(&hidden.path)) else {
        return Shown::Anyway;
    };
    // Standing in one's home, where every shell starts, is not asking for it to be shown; nor is standing above it.
    let at_home =
        host.homes.iter().any(|home| fs::canonicalize(home).is_ok_and(|home| home.starts_with(cwd)));
    if at_home || (place.path == *cwd && !place.shown_when_current) { Shown::No } else { Shown::OwnMount }
}

/// Directories that programs count on in places that are hidden.
fn dirs(identity: &Identity, hidden: &[Hidden]) -> Vec<DirPlan> {
    let mut dirs = Vec::new();
    let mut add = |path: &Path, mode, uid, gid| {
        if hidden.iter().any(|hidden| path.starts_with(&hidden.path) && path != hidden.path) {
            dirs.push(DirPlan { path: path.to_owned(), mode, uid, gid });
        }
    };
    add(Path::new("/run/lock"), 0o1777, 0, 0);
    add(&identity.home, 0o700, identity.uid, identity.gid);
    dirs
}

fn workdir(
    builder: &SandboxBuilder,
    host: &HostFacts,
    shown: Shown,
    identity: &Identity,
    dirs: &[DirPlan],
    hidden: &[Hidden],
) -> Result<PathBuf, ConfigError> {
    let home = &identity.home;
    let home_exists = dirs.iter().any(|dir| dir.path == *home)
        || hidden.iter().any(|hidden| hidden.path == *home)
        || (builder.root == Root::Host && home.is_dir());
    let default = match shown {
        Shown::Anyway | Shown::OwnMount => host.cwd.clone(),
        Shown::No if home_exists => home.clone(),
        Shown::No => PathBuf::from("/"),
    };
    match &builder.workdir {
        Some(dir) => inner("workdir", &default.join(dir)),
        None => Ok(default),
    }
}

/// The shell to start when no command was given: the user's, unless it only turns people away or is not there.
fn shell(identity: &Identity, roots: &[&Path]) -> PathBuf {
    let exists = |shell: &Path| {
        let relative = shell.strip_prefix("/").unwrap_or(shell);
        // Not followed: a link in another root means a file of that root.
        roots.iter().any(|root| fs::symlink_metadata(root.join(relative)).is_ok())
    };
    let turns_away = |shell: &Path| {
        shell.file_name().is_some_and(|name| name == "nologin" || name == "false" || name == "true")
    };
    [identity.shell.as_path(), Path::new("/bin/bash")]
        .into_iter()
        .find(|shell| !turns_away(shell) && exists(shell))
        .unwrap_or(Path::new("/bin/sh"))
        .to_owned()
}

/// One file name for a path: slashes become `+`.
fn escape(path: &Path) -> OsString {
    const LONGEST: usize = 200;
    let mut name = Vec::new();
    for byte in path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes() {
        match byte {
            b'/' => name.push(b'+'),
            b'+' => name.extend_from_slice(b"%2B"),
            b'%' => name.extend_from_slice(b"%25"),
            other => name.push(*other),
        }
    }
    if name.len() > LONGEST {
        // FNV-1a: the name must be the same in every version that reuses the layer, which `std`'s hasher does not promise.
        let hash = name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        name.truncate(LONGEST - 20);
        name.extend_from_slice(format!("%{hash:016x}").as_bytes());
    }
    OsString::from_vec(name)
}

#[cfg(test)]
mod tests;
