//! Who the user inside is: `passwd(5)` and `group(5)` of the root, read as the C library's `files` service reads them.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::User;
use crate::sandbox::passwd;

/// A data base longer than this is not read: the tree may be anybody's.
const LONGEST: u64 = 1 << 20;

/// The user of the first program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups, as `initgroups(3)` would set them.
    pub groups: Vec<u32>,
    /// Login name, where there is one.
    pub name: Option<OsString>,
    /// Home directory, `/root` for user 0 and `/` for others where the root does not know the user.
    pub home: PathBuf,
    /// Login shell, `/bin/sh` where the root does not know the user.
    pub shell: PathBuf,
}

impl Identity {
    /// Looks `user` up in `etc/passwd` and `etc/group` of the first of `roots` that has the file.
    pub(super) fn look_up(user: User, roots: &[&Path]) -> Self {
        let passwd = read_first(roots, "etc/passwd");
        let entry = passwd::User::find(&passwd, user.uid);
        let gid = user.gid.or(entry.as_ref().map(|entry| entry.gid)).unwrap_or(user.uid);
        let mut groups = vec![gid];
        // A group given by hand is meant to be the only one.
        if let (None, Some(entry)) = (user.gid, &entry) {
            let text = read_first(roots, "etc/group");
            groups.extend(passwd::groups_of(&text, &entry.name).into_iter().filter(|group| *group != gid));
        }
        let fallback_home = if user.uid == 0 { "/root" } else { "/" };
        let (name, home, shell) = match entry {
            Some(entry) => (Some(entry.name), entry.home, entry.shell),
            None => (None, PathBuf::new(), PathBuf::new()),
        };
        Self {
            uid: user.uid,
            gid,
            groups,
            name,
            home: if home.is_absolute() { home } else { fallback_home.into() },
            shell: if shell.is_absolute() { shell } else { "/bin/sh".into() },
        }
    }
}

/// The home directory that the host's `passwd` gives to `uid`.
pub(super) fn host_home(uid: u32) -> Option<PathBuf> {
    let text = read_first(&[Path::new("/")], "etc/passwd");
    passwd::User::find(&text, uid).map(|entry| entry.home).filter(|home| home.is_absolute())
}

fn read_first(roots: &[&Path], file: &str) -> Vec<u8> {
    for root in roots {
        let path = root.join(file);
        // Only regular files: opening a FIFO in somebody's tree would wait for ever.
        if !fs::metadata(&path).is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        let mut text = Vec::new();
        if fs::File::open(&path).and_then(|file| file.take(LONGEST).read_to_end(&mut text)).is_ok() {
            return text;
        }
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("etc")).unwrap();
        fs::write(
            tree.path().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/bash\nbroken\nalice:x:1000:100:Alice,,,:/home/alice:/usr/bin/zsh\n\
             bare:x:7:7:::\n",
        )
        .unwrap();
        fs::write(
            tree.path().join("etc/group"),
            "root:x:0:\nusers:x:100:\naudio:x:29:bob,alice\nsudo:x:27:alice\n",
        )
        .unwrap();
        tree
    }

    #[test]
    fn a_known_user_has_the_roots_home_shell_and_groups() {
        let tree = tree();
        let identity = Identity::look_up(User { uid: 1000, gid: None }, &[tree.path()]);
        assert_eq!(identity.gid, 100);
        assert_eq!(identity.groups, [100, 29, 27]);
        assert_eq!(identity.name.as_deref(), Some(OsStr::new("alice")));
        assert_eq!(identity.home, Path::new("/home/alice"));
        assert_eq!(identity.shell, Path::new("/usr/bin/zsh"));
    }

    #[test]
    fn a_group_given_by_hand_is_the_only_one() {
        let tree = tree();
        let identity = Identity::look_up(User { uid: 1000, gid: Some(5) }, &[tree.path()]);
        assert_eq!((identity.gid, identity.groups), (5, vec![5]));
    }

    #[test]
    fn an_unknown_user_falls_back() {
        let tree = tree();
        let identity = Identity::look_up(User { uid: 4242, gid: None }, &[tree.path()]);
        assert_eq!((identity.gid, identity.name), (4242, None));
        assert_eq!((identity.home, identity.shell), ("/".into(), "/bin/sh".into()));
        let empty = tempfile::tempdir().unwrap();
        let root = Identity::look_up(User::default(), &[empty.path()]);
        assert_eq!((root.home, root.shell), ("/root".into(), "/bin/sh".into()));
    }

    #[test]
    fn empty_fields_fall_back() {
        let tree = tree();
        let identity = Identity::look_up(User { uid: 7, gid: None }, &[tree.path()]);
        assert_eq!((identity.home, identity.shell), ("/".into(), "/bin/sh".into()));
    }

    #[test]
    fn the_layer_comes_before_the_root() {
        let (upper, lower) = (tree(), tree());
        fs::write(upper.path().join("etc/passwd"), "toor:x:0:0::/toor:/bin/ksh\n").unwrap();
        let identity = Identity::look_up(User::default(), &[upper.path(), lower.path()]);
        assert_eq!(identity.home, Path::new("/toor"));
    }
}
