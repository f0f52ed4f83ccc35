//! Directories of a sandbox that must not outlive it: its layer and the directory of its handles.
//!
//! Each has a file `lock`, which the supervisor keeps locked (`flock(2)`) while it lives. A supervisor that was killed
//! leaves its directories behind, and the next one to start finds them by a lock that nobody holds.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

/// What the names of all such directories start with.
pub const PREFIX: &str = "nomina-";
const LOCK: &str = "lock";
/// How old a directory without a lock must be to be taken for left behind: its supervisor may be about to lock it.
const SETTLED: Duration = Duration::from_secs(60);

/// Marks `dir` as in use until the descriptor is closed.
///
/// # Errors
/// Those of `open(2)` and `flock(2)`.
pub fn hold(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(dir.join(LOCK), flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

/// Removes what supervisors that are gone have left in `base`. Nothing but directories of our own user with a lock file
/// that nobody holds is touched.
pub fn sweep(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    let own = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(dir) = entry.metadata() else { continue };
        let settled = dir.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > SETTLED));
        if !dir.is_dir() || dir.uid() != own || dir.mode() & 0o7777 != 0o700 || !settled {
            continue;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(lock) = rustix::fs::open(entry.path().join(LOCK), flags, Mode::empty()) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove_tree(&entry.path());
        }
    }
}

/// Removes a directory and everything in it, as far as that can be done.
///
/// Guests make trees deeper than any stack and any limit of descriptors, so there is no recursion: directories that are not
/// empty are moved to the top first. Directories of a layer always have owner rwx, since the overlay keeps it so.
pub fn remove_tree(root: &Path) {
    let mut serial = 0u64;
    let mut queue = vec![root.to_path_buf()];
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = fs::remove_file(&path);
            } else if fs::remove_dir(&path).is_err() {
                if dir == root {
                    queue.push(path);
                    continue;
                }
                loop {
                    let to = root.join(format!(".removed-{serial}"));
                    serial += 1;
                    match fs::rename(&path, &to) {
                        Ok(()) => queue.push(to),
                        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => continue,
                        Err(_) => {}
                    }
                    break;
                }
            }
        }
        if dir != root {
            let _ = fs::remove_dir(&dir);
        }
    }
    let _ = fs::remove_dir(root);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_tree_deeper_than_descriptors_and_paths_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let root = base.path().join("deep");
        fs::create_dir(&root).unwrap();
        let mut at = rustix::fs::open(&root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "directory", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "directory", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        drop(at);
        fs::write(root.join("file"), "x").unwrap();
        std::os::unix::fs::symlink("/", root.join("directory/link")).unwrap();
        remove_tree(&root);
        assert!(!root.exists());
    }

    #[test]
    fn only_old_directories_whose_lock_nobody_holds_are_swept() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str, locked: bool, old: bool| {
            let dir = base.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
            let lock = locked.then(|| hold(&dir).unwrap());
            if old {
                let past = std::time::SystemTime::now() - SETTLED * 2;
                fs::File::open(&dir).unwrap().set_modified(past).unwrap();
            }
            (dir, lock)
        };
        let (stale, lock) = make("nomina-stale", true, true);
        drop(lock);
        let (fresh, lock) = make("nomina-fresh", true, false);
        drop(lock);
        let (held, _lock) = make("nomina-held", true, true);
        let (other, _) = make("nomina-sources", false, true);
        sweep(base.path());
        assert_eq!([&stale, &fresh, &held, &other].map(|dir| dir.exists()), [false, true, true, true]);
    }
}
