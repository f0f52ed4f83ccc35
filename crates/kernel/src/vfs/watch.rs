//! Which directories answers depend on that an embedder lets hold.
//!
//! Linux has nothing like it; `fsnotify` is related. A walk with [`super::LookupFlags::OWN`] finds an answer that is to hold until something
//! changes. It *watches* the directories in which it looks names up, and those whose attributes are the answer. What is about to
//! change a name or an object asks here first: if the directory is watched, the [`Watcher`] is told before the change. So an answer
//! about `/usr` outlives a new file in `/tmp`.
//!
//! Only changes by [`super::namei`] and [`super::attr`] that call [`will_change_names`] or [`will_change`] are told one by one. For
//! any other call the embedder takes all answers back first.

use std::sync::Arc;

use super::{Dentry, Inode, Path, S_IFDIR};
use crate::errno::{Errno, Result};
use crate::mount::Mount;

/// Who keeps answers.
pub trait Watcher: Send + Sync {
    /// Begins to watch a directory: [`Dentry::set_watched`]. It is to be kept, so that the dentry is not made anew, until no answer depends
    /// on it any more: then [`Dentry::clear_watched`]. False: there are too many.
    fn watch(&self, dir: &Arc<Dentry>, attributes: bool) -> bool;

    /// Something that answers depend on is about to change.
    fn will_change(&self);
}

const S_ISVTX: u32 = 0o1000;

/// Notes that an answer depends on the names in a directory, or (`attributes`) on its own attributes.
///
/// `EAGAIN`: nothing that concerns it may hold. That is so on file systems that others change or that are
/// made of others, and in directories with the sticky bit, in which
/// names come and go.
pub fn watch(dir: &Path, attributes: bool) -> Result<()> {
    let sb = dir.mnt.sb();
    if !sb.cacheable()
        || sb.changes_others()
        || dir.dentry.cached_perm().is_some_and(|perm| perm.mode & S_ISVTX != 0)
    {
        return Err(Errno::EAGAIN);
    }
    let watcher = sb.watcher().ok_or(Errno::EAGAIN)?;
    let known = if attributes { dir.dentry.attr_watched() } else { dir.dentry.names_watched() };
    if known || watcher.watch(&dir.dentry, attributes) { Ok(()) } else { Err(Errno::EAGAIN) }
}

/// Tells that names in `dir` are about to change. A directory that is copied up for that takes its parents along.
pub(super) fn will_change_names(dir: &Path) {
    let Some(watcher) = dir.mnt.sb().watcher() else { return };
    if dir.mnt.sb().changes_others() || dir.dentry.names_watched() || attributes_above(&dir.dentry) {
        watcher.will_change();
    }
}

/// Tells that an object is about to change: its attributes, its content, or whether it has this name.
pub(super) fn will_change(mnt: &Mount, object: &Arc<Dentry>) {
    let Some(watcher) = mnt.sb().watcher() else { return };
    let parent = object.parent();
    if mnt.sb().changes_others()
        || object.names_watched()
        || attributes_above(object)
        || parent.is_none_or(|dir| dir.names_watched())
        || has_other_names(&**object.inode())
    {
        watcher.will_change();
    }
}

/// The same for an object in a directory of which names change, too.
pub(super) fn will_change_inode(mnt: &Mount, object: &dyn Inode) {
    if let Some(watcher) = mnt.sb().watcher().filter(|_| has_other_names(object)) {
        watcher.will_change();
    }
}

fn has_other_names(object: &dyn Inode) -> bool {
    object.file_type() != S_IFDIR && object.getattr().map_or(true, |attr| attr.nlink > 1)
}

/// Whether the attributes of a directory, or of one above it, are watched.
fn attributes_above(dir: &Arc<Dentry>) -> bool {
    let mut at = Some(dir.clone());
    while let Some(dentry) = at {
        if dentry.attr_watched() {
            return true;
        }
        at = dentry.parent();
    }
    false
}
