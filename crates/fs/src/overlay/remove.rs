//! Removing and renaming: whiteouts, opaque directories and redirects.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_kernel::vfs::{S_IFIFO, S_IFSOCK};
use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, RenameFlags};

use super::copy_up::Data;
use super::create::lose_name;
use super::fresh;
use super::layer::{Fs, OPAQUE, REDIRECT, lock};
use super::node::{Entry, Node, WHT};
use crate::at::{At, errno, id_of};

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

impl Node {
    /// Makes `name` a whiteout in place of the upper file of that name, or where there is none. The tree is locked for
    /// writing and this directory is an upper one.
    pub(crate) fn whiteout(&self, name: &[u8]) -> Result<()> {
        let fd = self.upper_fd()?;
        if !self.with_state(|s| s.marked)? {
            let at = At::new(&*fd, b"");
            self.fs.store.set(at, id_of(&at.statx()?), OPAQUE, b"x")?;
            self.with_state(|s| s.marked = true)?;
        }
        let temp = self.fs.temp_whiteout()?;
        if let Err(error) = rustix::fs::renameat(&self.fs.work, &temp, &*fd, name) {
            self.fs.discard(&temp);
            return Err(errno(error));
        }
        self.with_state(|s| s.names.as_mut().map(|n| n.insert(name.into(), Entry { kind: WHT, ino: 0 })))?;
        Ok(())
    }

    /// A handle for those who hold `self` beyond its name; none where nobody does. `known` is the number of references
    /// the caller has.
    fn keep(self: &Arc<Node>, known: usize) -> Result<Option<Arc<OwnedFd>>> {
        if Arc::strong_count(self) <= known {
            return Ok(None);
        }
        let (spot, _) = self.spot()?;
        Ok(Some(if spot.name.is_empty() { spot.fd } else { Arc::new(spot.at().open_path()?) }))
    }

    /// Removes the host object behind a placeholder with its last name.
    fn drop_companion(&self) -> Result<()> {
        if matches!(self.kind, S_IFIFO | S_IFSOCK) && self.is_upper() {
            let seen = self.see()?;
            if seen.stat.stx_nlink == 1 {
                self.fs.discard(&Fs::companion_name(seen.stat.stx_ino));
            }
        }
        Ok(())
    }

    /// Deletes an upper directory with nothing but whiteouts: moved out of the way first where it has any.
    fn delete_upper_dir(&self, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        let whiteouts = self.with_state(|s| {
            s.names.as_ref().map(|n| n.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
        })?;
        if whiteouts.is_empty() {
            return rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(errno);
        }
        let temp = self.fs.temp_name();
        rustix::fs::renameat(parent, name, &self.fs.work, &temp).map_err(errno)?;
        let dir = At::new(&self.fs.work, &temp).open_path()?;
        for whiteout in whiteouts {
            rustix::fs::unlinkat(&dir, &*whiteout, AtFlags::empty()).map_err(errno)?;
        }
        rustix::fs::unlinkat(&self.fs.work, &temp, AtFlags::REMOVEDIR).map_err(errno)
    }

    /// `unlink(2)`, or `rmdir(2)` with `dir`. The tree is not locked by the caller.
    pub(crate) fn remove_name(&self, name: &[u8], dir: bool) -> Result<()> {
        self.dir()?;
        let _tree = self.fs.write();
        let child = self.find(name)?;
        fresh::clear();
        match (dir, child.dir.is_some()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) if !child.is_empty()? => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let upper = child.is_upper();
        let below = self.lower_has(name)?;
        if !upper && !below {
            // The host has removed it meanwhile.
            self.with_state(|s| s.remove_child(name))?;
            return Err(Errno::ENOENT);
        }
        let kept = child.keep(1)?;
        child.drop_companion()?;
        self.copy_up_dir()?;
        let fd = self.upper_fd()?;
        let told_later = self.fs.loses_name(At::new(&*fd, name));
        if upper && dir {
            child.delete_upper_dir(&fd, name)?;
            self.with_state(|s| s.names.as_mut().and_then(|n| n.remove(name)))?;
        }
        if below {
            self.whiteout(name)?;
        } else if !dir {
            rustix::fs::unlinkat(&*fd, name, AtFlags::empty()).map_err(errno)?;
            self.with_state(|s| s.names.as_mut().and_then(|n| n.remove(name)))?;
        }
        self.with_state(|s| s.remove_child(name))?;
        if !told_later {
            self.fs.free_inode();
        }
        lose_name(&child, kept);
        Ok(())
    }

    /// Prepares an upper directory for another place: what shows through it must not change with its name.
    fn prepare_move(self: &Arc<Node>, to: &Node) -> Result<()> {
        let dir = self.dir()?;
        let fd = self.upper_fd()?;
        let at = At::new(&*fd, b"");
        let id = id_of(&at.statx()?);
        match &dir.lower {
            Some(lower) => {
                let path = lower.path();
                self.fs.store.set(at, id, REDIRECT, &path)?;
                self.fs.note_moved(path, self);
                Ok(())
            }
            None if to.dir()?.lower.is_some() => self.fs.store.set(at, id, OPAQUE, b"y"),
            None => Ok(()),
        }
    }

    /// `renameat2(2)`. The tree is not locked by the caller.
    pub(crate) fn rename_to(&self, old: &[u8], to: &Node, new: &[u8], flags: u32) -> Result<()> {
        if flags & !(NOREPLACE | EXCHANGE) != 0 || flags == NOREPLACE | EXCHANGE {
            return Err(Errno::EINVAL);
        }
        if !Arc::ptr_eq(&self.fs, &to.fs) {
            return Err(Errno::EXDEV);
        }
        self.dir()?;
        to.dir()?;
        loop {
            // Data is copied before the tree is locked; if the object is another one by then, once more.
            let (source, target) = {
                let _tree = self.fs.read();
                let target = if flags == EXCHANGE { Some(to.find(new)?) } else { None };
                (self.find(old)?, target)
            };
            for node in [Some(&source), target.as_ref()].into_iter().flatten() {
                if node.dir.is_none() {
                    node.copy_up(Data::IfReadable)?;
                }
            }
            drop((source, target));
            let _tree = self.fs.write();
            if self.rename_locked(old, to, new, flags)? {
                return Ok(());
            }
        }
    }

    /// False where a file has to be copied up first.
    fn rename_locked(&self, old: &[u8], to: &Node, new: &[u8], flags: u32) -> Result<bool> {
        let source = self.find(old)?;
        let target = match to.find(new) {
            Ok(node) => Some(node),
            Err(Errno::ENOENT) if flags != EXCHANGE && !to.is_gone() => None,
            Err(error) => return Err(error),
        };
        fresh::clear();
        let lower_file = |node: &Node| node.dir.is_none() && !node.is_upper();
        if lower_file(&source) || (flags == EXCHANGE && target.as_deref().is_some_and(lower_file)) {
            return Ok(false);
        }
        if flags == NOREPLACE && target.is_some() {
            return Err(Errno::EEXIST);
        }
        if source.dir.is_some() && to.is_within(&source) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = &target {
            if target.dir.is_some() && self.is_within(target) {
                return Err(if flags == EXCHANGE { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            if Arc::ptr_eq(&source, target) || same_file(&source, target)? {
                return Ok(true);
            }
            if flags != EXCHANGE {
                match (source.dir.is_some(), target.dir.is_some()) {
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    (true, true) if !target.is_empty()? => return Err(Errno::ENOTEMPTY),
                    _ => {}
                }
            }
        }
        self.copy_up_dir()?;
        to.copy_up_dir()?;
        if source.dir.is_some() {
            source.copy_up_dir()?;
            source.prepare_move(to)?;
        }
        let (from_fd, to_fd) = (self.upper_fd()?, to.upper_fd()?);
        if let (EXCHANGE, Some(target)) = (flags, &target) {
            if target.dir.is_some() {
                target.copy_up_dir()?;
                target.prepare_move(self)?;
            }
            rustix::fs::renameat_with(&*from_fd, old, &*to_fd, new, RenameFlags::EXCHANGE).map_err(errno)?;
            let entries = (self.take_entry(old)?, to.take_entry(new)?);
            self.put_entry(old, entries.1, target)?;
            to.put_entry(new, entries.0, &source)?;
            return Ok(true);
        }
        let below = self.lower_has(old)?;
        let slot = to.with_state(|s| s.names.as_ref().and_then(|n| n.get(new)).copied())?;
        let mut kept = None;
        if let Some(target) = &target {
            kept = target.keep(1)?;
            target.drop_companion()?;
        }
        match (&target, slot) {
            (Some(target), Some(_)) if target.dir.is_some() => {
                target.delete_upper_dir(&to_fd, new)?;
                to.take_entry(new)?;
            }
            (None, Some(_)) if source.dir.is_some() => {
                // A directory cannot be renamed over the whiteout, which is a file.
                rustix::fs::unlinkat(&*to_fd, new, AtFlags::empty()).map_err(errno)?;
                to.take_entry(new)?;
            }
            _ => {}
        }
        let told_later = target.is_some() && self.fs.loses_name(At::new(&*to_fd, new));
        rustix::fs::renameat(&*from_fd, old, &*to_fd, new).map_err(errno)?;
        if let Some(target) = &target {
            if !told_later {
                self.fs.free_inode();
            }
            lose_name(target, kept);
        }
        let entry = self.take_entry(old)?;
        to.put_entry(new, entry, &source)?;
        if below {
            self.whiteout(old)?;
        }
        Ok(true)
    }

    fn take_entry(&self, name: &[u8]) -> Result<Option<Entry>> {
        self.with_state(|s| {
            s.remove_child(name);
            s.names.as_mut().and_then(|n| n.remove(name))
        })
    }

    fn put_entry(&self, name: &[u8], entry: Option<Entry>, node: &Arc<Node>) -> Result<()> {
        let entry = entry.unwrap_or(Entry { kind: 0, ino: 0 });
        self.with_state(|s| {
            s.add_child(name, node);
            s.names.as_mut().map(|n| n.insert(name.into(), entry))
        })?;
        let mut place = lock(&node.place);
        place.parent = Some(self.arc()?);
        place.name = name.into();
        Ok(())
    }
}

/// Two names of one upper file.
fn same_file(a: &Node, b: &Node) -> Result<bool> {
    if a.dir.is_some() || b.dir.is_some() || !a.is_upper() || !b.is_upper() {
        return Ok(false);
    }
    Ok(id_of(&a.see()?.stat) == id_of(&b.see()?.stat))
}
