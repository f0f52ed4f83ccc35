//! Files that an ordinary user cannot read but that programs inside must find.
//!
//! The supervisor reads as the user who started it, so a file that is closed to that user is closed to root inside as well.
//! For most that is right (private keys, logs). A few are needed for a system to work at all: `shadow(5)` and `gshadow(5)`
//! for `useradd`, `passwd` and `su`, `sudoers(5)` for `sudo`. In their places lie files with the same owner and mode and a
//! content that needs no secret: nobody has a password, and Debian's rules for `sudo`.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nomina_fs::IdMap;
use nomina_fs::overlay::OverlaySb;
use nomina_kernel::{Errno, Result};
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::config::OverlayPlan;

/// A data base longer than this is not read: the tree may be anybody's.
const LONGEST: u64 = 1 << 22;

/// `sudoers(5)` as Debian installs it, without the mail to the administrator.
const SUDOERS: &[u8] = b"Defaults\tenv_reset\n\
    Defaults\tsecure_path=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n\
    root\tALL=(ALL:ALL) ALL\n\
    %sudo\tALL=(ALL:ALL) ALL\n\
    @includedir /etc/sudoers.d\n";

/// Puts the files where they are needed. `shadow` and `gshadow` of the host are never shown, even when we could read them.
///
/// # Errors
/// Of the upper file system.
pub(super) fn seed(plan: &OverlayPlan, ids: IdMap, overlay: &OverlaySb) -> Result<()> {
    let mut above = vec![plan.upper.as_path()];
    for lower in [&plan.lower].into_iter().chain(&plan.below) {
        seed_from(lower, &above, ids, overlay)?;
        above.push(lower);
    }
    Ok(())
}

fn seed_from(lower: &Path, above: &[&Path], ids: IdMap, overlay: &OverlaySb) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::openat(CWD, lower, flags, Mode::empty()) else { return Ok(()) };
    let tree = Tree { root, above, ids, overlay };
    let host = lower == Path::new("/");
    for (names, file, tail) in
        [("etc/passwd", "etc/shadow", ":*:19000:0:99999:7:::"), ("etc/group", "etc/gshadow", ":*::")]
    {
        tree.replace(file, host, || nobodys_passwords(&tree.read(names), tail))?;
    }
    tree.replace("etc/sudoers", false, || SUDOERS.to_vec())?;
    for name in tree.list("etc/sudoers.d") {
        tree.replace(&format!("etc/sudoers.d/{name}"), false, Vec::new)?;
    }
    Ok(())
}

/// One line without a password for each line of `passwd(5)` or `group(5)`.
fn nobodys_passwords(names: &[u8], tail: &str) -> Vec<u8> {
    let mut content = Vec::new();
    for line in names.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        content.extend_from_slice(line.split(|&byte| byte == b':').next().unwrap_or_default());
        content.extend_from_slice(tail.as_bytes());
        content.push(b'\n');
    }
    content
}

/// A root below an overlay. It may be anybody's, so links in it lead nowhere else.
struct Tree<'a> {
    root: OwnedFd,
    /// The directories that are over it.
    above: &'a [&'a Path],
    ids: IdMap,
    overlay: &'a OverlaySb,
}

impl Tree<'_> {
    fn open(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        // `openat2` refuses all but a few flags beside O_PATH.
        let harmless =
            if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK | OFlags::NOCTTY };
        let flags = flags | harmless | OFlags::CLOEXEC;
        rustix::fs::openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let mut text = Vec::new();
        if let Ok(file) = self.open(path, OFlags::RDONLY) {
            // What could be read until an error is good enough: the names after it have no password either.
            let _ = fs::File::from(file).take(LONGEST).read_to_end(&mut text);
        }
        text
    }

    fn list(&self, path: &str) -> Vec<String> {
        let Ok(dir) = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY).and_then(Dir::new) else {
            return Vec::new();
        };
        dir.flatten()
            .filter(|entry| matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown))
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .collect()
    }

    /// The regular file itself, where it is closed to us or `always`.
    fn closed(&self, path: &str, always: bool) -> Option<Stat> {
        let fd = self.open(path, OFlags::PATH | OFlags::NOFOLLOW).ok()?;
        let stat = rustix::fs::fstat(&fd).ok()?;
        let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let closed = || self.open(path, OFlags::RDONLY).err() == Some(rustix::io::Errno::ACCESS);
        (regular && (always || closed())).then_some(stat)
    }

    fn replace(&self, path: &str, always: bool, content: impl FnOnce() -> Vec<u8>) -> Result<()> {
        // A kept layer has its own, or has deleted it.
        if self.above.iter().any(|above| above.join(path).symlink_metadata().is_ok()) {
            return Ok(());
        }
        let Some(stat) = self.closed(path, always) else { return Ok(()) };
        let (uid, gid) = (self.ids.uid_inside(stat.st_uid), self.ids.gid_inside(stat.st_gid));
        let path = Path::new(path).as_os_str().as_bytes();
        match self.overlay.seed(path, &content(), stat.st_mode & 0o7777, uid, gid) {
            // A directory above hides this one.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use nomina_fs::overlay::OverlayOptions;

    use super::*;

    #[test]
    fn only_regular_files_inside_the_root_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (lower, upper) = (dir.path().join("lower"), dir.path().join("upper"));
        for path in [&lower.join("etc"), &upper, &dir.path().join("work")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(lower.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
        fs::write(lower.join("etc/shadow"), "secret").unwrap();
        std::os::unix::fs::symlink("/etc/hosts", lower.join("etc/gshadow")).unwrap();
        let ids = IdMap::to(0, 0);
        let options = OverlayOptions::new(Some(lower.clone()), upper.clone(), dir.path().join("work"), ids);
        let overlay = OverlaySb::new(&options).unwrap();
        let root = rustix::fs::open(&lower, OFlags::PATH, Mode::empty()).unwrap();
        let above = [upper.as_path()];
        let tree = Tree { root, above: &above, ids, overlay: &overlay };
        assert!(tree.closed("etc/shadow", false).is_none(), "it can be read");
        for file in ["etc/shadow", "etc/gshadow", "etc/sudoers"] {
            tree.replace(file, true, || nobodys_passwords(&tree.read("etc/passwd"), ":*:")).unwrap();
        }
        assert_eq!(fs::read(upper.join("etc/shadow")).unwrap(), b"root:*:\n");
        assert!(!upper.join("etc/gshadow").exists() && !upper.join("etc/sudoers").exists());
        tree.replace("etc/shadow", true, || panic!("a kept layer has its own")).unwrap();
    }

    #[test]
    fn every_name_gets_a_line_without_a_password() {
        let text =
            nobodys_passwords(b"root:x:0:0:root:/root:/bin/bash\n\nbob:x:1:1::/:\n", ":*:19000:0:99999:7:::");
        assert_eq!(text, b"root:*:19000:0:99999:7:::\nbob:*:19000:0:99999:7:::\n");
    }
}
