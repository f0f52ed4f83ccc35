//! Removing and renaming: whiteouts, opaque directories and redirects.
//!
//! Every change of what a name shows is one rename on the host, so that a layer whose process was killed shows either what
//! was before or what is after: what replaces a name is prepared in the work directory, and what a name must not show any
//! more is moved there.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_kernel::vfs::{S_IFCHR, S_IFIFO, S_IFSOCK};
use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, RenameFlags};

use super::copy_up::Data;
use super::create::lose_name;
use super::fresh;
use super::layer::{Fs, OPAQUE, REDIRECT, lock};
use super::node::{Entry, Node, WHT};
use crate::at::{At, errno, id_of};
use crate::override_stat::Override;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

impl Node {
    /// Makes `name` a whiteout in place of the upper file of that name, or where there is none. The tree is locked for
    /// writing and this directory is an upper one.
    fn whiteout(&self, name: &[u8]) -> Result<()> {
        self.replace_by_whiteout(name, RenameFlags::empty())
    }

    /// With `EXCHANGE` an upper directory changes places with the whiteout, and is removed in the work directory.
    fn replace_by_whiteout(&self, name: &[u8], flags: RenameFlags) -> Result<()> {
        let fd = self.upper_fd()?;
        self.mark()?;
        let temp = self.fs.temp_whiteout()?;
        let moved = rustix::fs::renameat_with(&self.fs.work, &temp, &*fd, name, flags).map_err(errno);
        if moved.is_err() {
            self.fs.discard(&temp);
        } else if flags.contains(RenameFlags::EXCHANGE) {
            self.fs.discard_dir(&temp);
        }
        moved?;
        self.with_state(|s| s.names.as_mut().map(|n| n.insert(name.into(), Entry { kind: WHT, ino: 0 })))?;
        Ok(())
    }

    /// Marks this upper directory as one with whiteouts among its files. Where nothing is below, they hide nothing; and
    /// the mark would take the place of the one that says so.
    fn mark(&self) -> Result<()> {
        if self.dir()?.lower.is_some() && !self.with_state(|s| s.marked)? {
            let fd = self.upper_fd()?;
            let at = At::new(&*fd, b"");
            self.fs.store.set(at, id_of(&at.statx()?), OPAQUE, b"x")?;
            self.with_state(|s| s.marked = true)?;
        }
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

    /// Whether the upper directory has entries, all of which are whiteouts (the caller knows that it shows none).
    fn has_whiteouts(&self) -> Result<bool> {
        self.with_state(|s| s.names.as_ref().is_some_and(|names| !names.is_empty()))
    }

    /// Deletes an upper directory with nothing but whiteouts, which no lower one is below: moved out of the way first where it
    /// has any.
    fn delete_upper_dir(&self, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        if !self.has_whiteouts()? {
            return rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR).map_err(errno);
        }
        let temp = self.fs.temp_name();
        rustix::fs::renameat(parent, name, &self.fs.work, &temp).map_err(errno)?;
        self.fs.discard_dir(&temp);
        Ok(())
    }

    /// Replaces an upper directory that has nothing but whiteouts by an opaque one without any, over which another can be
    /// renamed: `ovl_clear_empty`.
    fn clear_empty(&self, parent: &OwnedFd, name: &[u8]) -> Result<()> {
        let temp = self.fs.temp_name();
        let made = self.make_dir_copy(&temp, &self.see()?, true).and_then(|()| {
            rustix::fs::renameat_with(&self.fs.work, &temp, parent, name, RenameFlags::EXCHANGE)
                .map_err(errno)
        });
        self.fs.discard_dir(&temp);
        made
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
        if below {
            let exchange = if upper && dir { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
            self.replace_by_whiteout(name, exchange)?;
        } else {
            if dir {
                child.delete_upper_dir(&fd, name)?;
            } else {
                rustix::fs::unlinkat(&*fd, name, AtFlags::empty()).map_err(errno)?;
            }
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
        let leaves_whiteout = flags & WHITEOUT != 0;
        let flags = flags & !WHITEOUT;
        if flags & !(NOREPLACE | EXCHANGE) != 0
            || (flags & EXCHANGE != 0 && (flags != EXCHANGE || leaves_whiteout))
        {
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
            if self.rename_locked(old, to, new, flags, leaves_whiteout)? {
                return Ok(());
            }
        }
    }

    /// False where a file has to be copied up first.
    fn rename_locked(
        &self,
        old: &[u8],
        to: &Node,
        new: &[u8],
        flags: u32,
        leaves_whiteout: bool,
    ) -> Result<bool> {
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
        let over_whiteout = target.is_none() && slot.is_some() && source.dir.is_some();
        if let (Some(target), Some(_)) = (&target, slot)
            && target.dir.is_some()
            && target.has_whiteouts()?
        {
            target.clear_empty(&to_fd, new)?;
        }
        let told_later = target.is_some() && self.fs.loses_name(At::new(&*to_fd, new));
        if over_whiteout {
            // A directory cannot be renamed over the whiteout, which is a file, but change places with it.
            self.mark()?;
            rustix::fs::renameat_with(&*from_fd, old, &*to_fd, new, RenameFlags::EXCHANGE).map_err(errno)?;
        } else if leaves_whiteout || !below {
            rustix::fs::renameat(&*from_fd, old, &*to_fd, new).map_err(errno)?;
        } else {
            self.rename_leaving_whiteout(&from_fd, old, &to_fd, new)?;
        }
        if let Some(target) = &target {
            if !told_later {
                self.fs.free_inode();
            }
            lose_name(target, kept);
        }
        let entry = self.take_entry(old)?;
        to.put_entry(new, entry, &source)?;
        if leaves_whiteout {
            self.leave_whiteout(old)?;
        } else if below {
            self.with_state(|s| s.names.as_mut().map(|n| n.insert(old.into(), Entry { kind: WHT, ino: 0 })))?;
        } else if over_whiteout {
            rustix::fs::unlinkat(&*from_fd, old, AtFlags::empty()).map_err(errno)?;
        }
        Ok(true)
    }

    /// Renames and leaves a whiteout, in one step where the host's file system can.
    fn rename_leaving_whiteout(&self, from: &OwnedFd, old: &[u8], to: &OwnedFd, new: &[u8]) -> Result<()> {
        use rustix::io::Errno as Host;
        match rustix::fs::renameat_with(from, old, to, new, RenameFlags::WHITEOUT) {
            // FUSE and network file systems cannot, and a container's filter or device rules may be against it.
            Err(Host::INVAL | Host::PERM | Host::ACCESS | Host::OPNOTSUPP | Host::NOSYS | Host::NODEV) => {
                rustix::fs::renameat(from, old, to, new).map_err(errno)?;
                self.whiteout(old)
            }
            other => other.map_err(errno),
        }
    }

    /// Puts the device 0/0 that guests see where a name was: `RENAME_WHITEOUT`, for an overlay that is made inside.
    fn leave_whiteout(&self, name: &[u8]) -> Result<()> {
        let fs = &*self.fs;
        let temp = fs.temp_name();
        let file = fs.temp_file(&temp)?;
        let at = At::new(&file, b"");
        let stat = at.statx()?;
        let over = Override { uid: fs.map.uid, gid: fs.map.gid, mode: 0, kind: Some(S_IFCHR), rdev: 0 };
        let made = fs
            .store
            .place(at, &stat, false, &fs.map, &over)
            .and_then(|()| rustix::fs::renameat(&fs.work, &temp, &*self.upper_fd()?, name).map_err(errno));
        if made.is_err() {
            fs.discard(&temp);
            return made;
        }
        let entry = Entry { kind: libc::DT_CHR, ino: stat.stx_ino };
        self.with_state(|s| s.names.as_mut().map(|n| n.insert(name.into(), entry))).map(drop)
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
