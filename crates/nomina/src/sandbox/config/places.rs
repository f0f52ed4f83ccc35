//! Which directories of the host are empty inside unless asked for.
//!
//! The rule: a directory is hidden when, by the Filesystem Hierarchy Standard, it holds what belongs to *people or to this
//! session* and not to the system's programs. What an ordinary user may not read (`/etc/shadow`, private keys of services)
//! needs no place here, since the supervisor reads as that user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory that is hidden by default.
#[derive(Clone, Copy, Debug)]
pub struct HiddenPlace {
    /// Absolute path.
    pub path: &'static str,
    /// Permission bits of the empty directory that is seen instead.
    pub mode: u32,
    /// Whether it is shown when it is the current directory.
    pub shown_when_current: bool,
    /// Why it is hidden.
    pub why: &'static str,
}

const fn place(path: &'static str, mode: u32, shown_when_current: bool, why: &'static str) -> HiddenPlace {
    HiddenPlace { path, mode, shown_when_current, why }
}

/// What is hidden of the host's root, besides the home directory of the invoking user wherever it is.
pub const HIDDEN_PLACES: &[HiddenPlace] = &[
    place("/home", 0o755, false, "home directories: keys, tokens, mail, documents"),
    place("/root", 0o700, false, "home directory of the administrator"),
    place("/tmp", 0o1777, true, "private files and sockets of running programs"),
    place("/var/tmp", 0o1777, true, "private files of programs, kept over a restart"),
    place("/run", 0o755, false, "sockets of services and of this session, credentials given to services"),
    place("/var/mail", 0o775, false, "mail of the users"),
    place("/media", 0o755, true, "removable disks"),
    place("/mnt", 0o755, true, "disks mounted by hand, often shares of a network"),
    place("/srv", 0o755, true, "data served by this host"),
];

/// A directory shown empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Path from the root of the overlay it is in, starting with `/`.
    pub path: PathBuf,
    /// Permission bits. The owner is user 0 inside.
    pub mode: u32,
    /// Whether standing in it shows it.
    pub(super) shown_when_current: bool,
}

/// The directories to hide below `root` (the host's `/`), sorted, none below another. Places that do not exist are left
/// out; of a place that is a symbolic link the directory behind it is hidden. `homes` are hidden when `uid` owns them:
/// the passwd entries of services name `/`, `/bin` and the like.
pub(super) fn hidden_below(root: &Path, homes: &[PathBuf], uid: u32) -> Vec<Hidden> {
    let real_root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let inner = |path: &Path| -> Option<PathBuf> {
        let real = fs::canonicalize(real_root.join(path.strip_prefix("/").ok()?)).ok()?;
        let rest = real.strip_prefix(&real_root).ok()?;
        // Hiding all is no root to run in.
        (!rest.as_os_str().is_empty() && real.is_dir()).then(|| Path::new("/").join(rest))
    };
    let defaults = HIDDEN_PLACES.iter().filter_map(|place| {
        let path = inner(Path::new(place.path))?;
        Some(Hidden { path, mode: place.mode, shown_when_current: place.shown_when_current })
    });
    let homes = homes.iter().filter_map(|home| {
        let path = inner(home)?;
        let owner = fs::metadata(real_root.join(path.strip_prefix("/").ok()?)).ok()?.uid();
        (owner == uid).then_some(Hidden { path, mode: 0o700, shown_when_current: false })
    });
    let mut all: Vec<Hidden> = defaults.chain(homes).collect();
    // `/home` before `/home/alice`; the stable sort lets the default go before a home at the same place.
    all.sort_by(|a, b| a.path.cmp(&b.path));
    let mut kept: Vec<Hidden> = Vec::new();
    for hidden in all {
        if !kept.iter().any(|above| hidden.path.starts_with(&above.path)) {
            kept.push(hidden);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn paths(hidden: &[Hidden]) -> Vec<&str> {
        hidden.iter().map(|hidden| hidden.path.to_str().unwrap()).collect()
    }

    fn me() -> u32 {
        rustix::process::getuid().as_raw()
    }

    #[test]
    fn only_places_that_exist_are_hidden() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["home", "tmp", "usr", "var/tmp"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let hidden = hidden_below(root.path(), &[], me());
        assert_eq!(paths(&hidden), ["/home", "/tmp", "/var/tmp"]);
        assert_eq!(hidden[1].mode, 0o1777);
    }

    #[test]
    fn the_directory_behind_a_symbolic_link_is_hidden() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("var/home")).unwrap();
        symlink("var/home", root.path().join("home")).unwrap();
        assert_eq!(paths(&hidden_below(root.path(), &[], me())), ["/var/home"]);
    }

    #[test]
    fn a_home_elsewhere_is_hidden_and_one_below_a_hidden_place_adds_nothing() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["home/alice", "data/alice"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let homes = ["/home/alice".into(), "/data/alice".into(), "/".into(), "/missing".into()];
        assert_eq!(paths(&hidden_below(root.path(), &homes, me())), ["/data/alice", "/home"]);
    }

    #[test]
    fn a_home_that_the_user_does_not_own_stays() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/sbin")).unwrap();
        assert!(hidden_below(root.path(), &["/usr/sbin".into()], me() + 1).is_empty());
    }
}
