//! Names of places: `fs/d_path.c`.

use std::sync::Arc;

use super::{Dentry, Path};
use crate::errno::{Errno, Result};

/// How a climb from a place towards a root ended: the return value of `prepend_path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    /// At the root asked for.
    Root,
    /// At the root of the mount namespace, without having met the root asked for.
    Outside,
    /// At the root of a mount that is in no namespace any more.
    Detached,
    /// At a place that is not below the root of its own mount.
    Escaped,
    /// Nowhere: the path was longer than asked for.
    TooLong,
}

/// The path from `root`, with the place the climb ended.
pub(crate) fn prepend_path(path: &Path, root: &Path) -> (Vec<u8>, Reached) {
    prepend_path_within(path, root, usize::MAX)
}

/// As [`prepend_path`], for a path of at most `most` bytes: directories can be far deeper than any buffer is long.
fn prepend_path_within(path: &Path, root: &Path, most: usize) -> (Vec<u8>, Reached) {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    let mut len = 0;
    let mut mnt = path.mnt.clone();
    let mut dentry = path.dentry.clone();
    let reached = loop {
        if Arc::ptr_eq(&dentry, &root.dentry) && Arc::ptr_eq(&mnt, &root.mnt) {
            break Reached::Root;
        }
        if Arc::ptr_eq(&dentry, mnt.root()) {
            match mnt.parent_and_mountpoint() {
                Some((parent, mountpoint)) => {
                    mnt = parent;
                    dentry = mountpoint;
                    continue;
                }
                None if mnt.in_namespace() => break Reached::Outside,
                None => break Reached::Detached,
            }
        }
        let (parent, name) = dentry.location();
        let Some(parent) = parent else {
            parts.clear();
            break Reached::Escaped;
        };
        len += name.len() + 1;
        if len > most {
            parts.clear();
            break Reached::TooLong;
        }
        parts.push(name);
        dentry = parent;
    };
    (join(&parts), reached)
}

fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    if parts.is_empty() {
        return b"/".to_vec();
    }
    let mut text = Vec::with_capacity(parts.iter().map(|part| part.len() + 1).sum());
    for part in parts.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(part);
    }
    text
}

/// The path as a process with root directory `root` sees it in `/proc/PID/{exe,cwd,fd}`: `d_path`. A removed name ends
/// in ` (deleted)`; a place outside of `root` shows the path from the top of its mount tree.
pub fn d_path(path: &Path, root: &Path) -> Vec<u8> {
    let (mut text, _) = prepend_path(path, root);
    if path.dentry.is_deleted() {
        text.extend_from_slice(b" (deleted)");
    }
    text
}

/// The path below `root`, or `None` where `path` cannot be reached from it.
pub fn path_below(path: &Path, root: &Path) -> Option<Vec<u8>> {
    match prepend_path(path, root) {
        (text, Reached::Root) => Some(text),
        _ => None,
    }
}

/// Whether `path` is `root` or below it in the mount tree: `path_is_under`.
pub fn path_is_under(path: &Path, root: &Path) -> bool {
    prepend_path(path, root).1 == Reached::Root
}

/// `getcwd(2)`: without the terminating NUL. A directory outside of the root has `(unreachable)` before its path.
///
/// `ENOENT`: the working directory has been removed. `ENAMETOOLONG`: longer than `PATH_MAX`.
pub fn getcwd(pwd: &Path, root: &Path) -> Result<Vec<u8>> {
    if pwd.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    let (text, reached) = prepend_path_within(pwd, root, super::PATH_MAX);
    if reached == Reached::TooLong {
        return Err(Errno::ENAMETOOLONG);
    }
    let text = if reached == Reached::Root { text } else { [b"(unreachable)", &text[..]].concat() };
    if text.len() >= super::PATH_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(text) }
}

/// The path from the root of the file system, as the fourth field of `/proc/PID/mountinfo`: `dentry_path`.
pub fn dentry_path(dentry: &Arc<Dentry>) -> Vec<u8> {
    let mut parts = Vec::new();
    let mut at = dentry.clone();
    while let (Some(parent), name) = at.location() {
        parts.push(name);
        at = parent;
    }
    let mut text = join(&parts);
    if dentry.is_deleted() {
        text.extend_from_slice(b"//deleted");
    }
    text
}
