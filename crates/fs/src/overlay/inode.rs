//! The inode operations of the overlay: opening, attributes, extended attributes, and the rest by delegation.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_kernel::vfs::posix_acl::{DEFAULT, is_acl};
use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, Link, NewInode, Opened, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK, SetAttr,
};
use nomina_kernel::{Errno, Result};
use rustix::fs::OFlags;

use super::copy_up::{Data, accessed, modified, open_lower, write_all};
use super::fresh;
use super::layer::{Fs, NO_DATA, lock};
use super::node::{Node, Seen};
use crate::at::{At, GUEST_FLAGS, errno, id_of, wants_write};
use crate::names;
use crate::override_stat::Override;

/// The overlay's own node behind an inode of path walk's; `EXDEV` for other file systems' inodes.
fn ours(inode: &Arc<dyn Inode>) -> Result<&Node> {
    inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)
}

impl Node {
    fn open_regular(&self, flags: u32) -> Result<Opened> {
        let asked = OFlags::from_bits_retain(flags & GUEST_FLAGS);
        let truncated = flags & libc::O_TRUNC as u32 != 0;
        let write_only = flags & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32;
        if wants_write(flags) {
            self.copy_up(match (truncated, write_only) {
                (true, _) => Data::Truncated,
                // Appending to a log that only root may read: what it holds stays closed.
                (false, true) => Data::IfReadable,
                (false, false) => Data::Full,
            })?;
        }
        let mut tree = self.fs.read();
        if !self.is_upper() {
            let (spot, _) = self.spot()?;
            self.fs.check_lower_data(spot.at())?;
            match open_lower(spot.at(), asked) {
                // There is nothing to hide in an empty file: the guest may read a copy of it.
                Err(Errno::EACCES) if spot.at().statx()?.stx_size == 0 => {}
                opened => return Ok(Opened::Host(opened?)),
            }
            drop(tree);
            self.copy_up(Data::Full)?;
            tree = self.fs.read();
        }
        let _tree = tree;
        let (spot, _) = self.spot()?;
        if self.fs.any_no_data.load(Ordering::Acquire) {
            self.check_data(spot.at(), truncated, write_only)?;
        }
        Ok(Opened::Host(spot.at().open(asked)?))
    }

    /// `EACCES` for a file whose data could not be read when it was copied up, unless it is about to be truncated or will
    /// not be read.
    fn check_data(&self, at: At<'_>, truncated: bool, write_only: bool) -> Result<()> {
        let id = id_of(&at.statx()?);
        if self.fs.store.get(at, id, NO_DATA)?.is_none() {
            return Ok(());
        }
        match (truncated, write_only) {
            (true, _) => self.fs.store.remove(at, id, NO_DATA),
            (false, true) => Ok(()),
            (false, false) => Err(Errno::EACCES),
        }
    }

    fn open_fifo(&self, flags: u32) -> Result<Opened> {
        // The FIFO of the lower tree is the host's: guests get one of their own, as on overlayfs.
        self.copy_up(Data::Full)?;
        let _tree = self.fs.read();
        let seen = self.see()?;
        if seen.over.is_none() {
            return self.fs.fifos.open(seen.spot.at(), flags);
        }
        let name = self.fs.fifo(seen.stat.stx_ino)?;
        self.fs.fifos.open(At::new(&self.fs.work, &name), flags)
    }

    fn link_text(&self) -> Result<Vec<u8>> {
        if self.kind != S_IFLNK {
            return Err(Errno::EINVAL);
        }
        let _tree = self.fs.read();
        let (spot, _) = self.spot()?;
        match spot.at().readlink() {
            // A link that the host cannot own is a file whose content is the target.
            Err(Errno::EINVAL | Errno::ENOENT) => {
                let file = open_lower(spot.at(), OFlags::RDONLY)?;
                let mut text = vec![0; 4096];
                let len = rustix::io::pread(&file, &mut text[..], 0).map_err(errno)?;
                text.truncate(len);
                Ok(text)
            }
            other => other,
        }
    }

    fn change(&self, set: &SetAttr) -> Result<()> {
        if set.size.is_some() && self.kind != S_IFREG {
            return Err(if self.kind == S_IFDIR { Errno::EISDIR } else { Errno::EINVAL });
        }
        if set.mode.is_some() && self.kind == S_IFLNK {
            return Err(Errno::EOPNOTSUPP);
        }
        fresh::clear();
        match set.size {
            Some(0) => self.copy_up(Data::Truncated)?,
            Some(_) => self.copy_up(Data::Full)?,
            None if self.is_gone() && self.dir.is_some() && !self.is_upper() => return Err(Errno::EROFS),
            None => self.copy_up(Data::IfReadable)?,
        }
        let _tree = self.fs.write();
        if let Some(size) = set.size {
            let (spot, _) = self.spot()?;
            if self.fs.any_no_data.load(Ordering::Acquire) {
                self.check_data(spot.at(), size == 0, false)?;
            }
            let file = spot.at().open(OFlags::WRONLY)?;
            rustix::fs::ftruncate(&file, size).map_err(errno)?;
            if let Some(space) = &self.fs.space {
                space.opened(&file)?;
            }
        }
        if *set == SetAttr::default() {
            self.spot()?.0.at().touch_ctime()?;
        }
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            let seen = self.see()?;
            let real_link = u32::from(seen.stat.stx_mode) & libc::S_IFMT == S_IFLNK;
            let owner = (set.uid.unwrap_or(seen.attr.uid), set.gid.unwrap_or(seen.attr.gid));
            if real_link && owner != (seen.attr.uid, seen.attr.gid) {
                self.replace_link(&seen, owner)?;
            } else {
                let (at, over) = (seen.spot.at(), seen.over.as_ref());
                self.fs.store.change_owner_mode(at, &seen.stat, over, &self.fs.map, set)?;
            }
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let (spot, _) = self.spot()?;
            spot.at().set_times(set.atime, set.mtime)?;
        }
        Ok(())
    }

    /// Replaces a symbolic link of the host by a placeholder that can have another owner.
    fn replace_link(&self, seen: &Seen, (uid, gid): (u32, u32)) -> Result<()> {
        let (parent, name) = {
            let place = lock(&self.place);
            (place.parent.clone().ok_or(Errno::EPERM)?, place.name.clone())
        };
        let fs = &*self.fs;
        let temp = fs.temp_name();
        let file = fs.temp_file(&temp)?;
        let made = write_all(&file, &seen.spot.at().readlink()?).and_then(|()| {
            let at = At::new(&fs.work, &temp);
            let over = Override { uid, gid, mode: 0o777, kind: Some(S_IFLNK), rdev: 0 };
            fs.store.place(at, &at.statx()?, false, &fs.map, &over)?;
            at.set_times(Some(accessed(&seen.stat)), Some(modified(&seen.stat)))?;
            parent.keeping_times(|dir| rustix::fs::renameat(&fs.work, &temp, dir, &*name).map_err(errno))
        });
        if made.is_err() {
            fs.discard(&temp);
        }
        made?;
        let ino = self.see()?.attr.ino;
        parent.with_state(|s| {
            if let Some(entry) = s.names.as_mut().and_then(|n| n.get_mut(&name)) {
                entry.ino = ino;
            }
        })
    }

    fn xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let _tree = self.fs.read();
        self.xattr_locked(name)
    }

    /// An extended attribute. The tree is locked.
    pub(crate) fn xattr_locked(&self, name: &[u8]) -> Result<Vec<u8>> {
        let host = names::to_host(name, self.kind, false)?;
        let (spot, upper) = self.spot()?;
        let at = spot.at();
        if !upper {
            if is_acl(name)
                && let Ok(value) = at.getxattr(name)
            {
                return Ok(self.fs.map.acl_inside(value));
            }
            return match at.getxattr(&host) {
                Err(Errno::ENODATA | Errno::EOPNOTSUPP) if name == names::CAPABILITY => {
                    match at.getxattr(name) {
                        Err(Errno::EOPNOTSUPP) => Err(Errno::ENODATA),
                        other => other,
                    }
                }
                Err(Errno::EACCES) => Err(Errno::ENODATA),
                Err(Errno::EOPNOTSUPP) if host.starts_with(names::PREFIX) => Err(Errno::ENODATA),
                other => other,
            };
        }
        if host.starts_with(names::PREFIX) {
            self.fs.store.get(at, id_of(&at.statx()?), &host)?.ok_or(Errno::ENODATA)
        } else {
            at.getxattr(&host)
        }
    }

    fn change_xattr(&self, name: &[u8], change: impl FnOnce(&Fs, At<'_>, &[u8]) -> Result<()>) -> Result<()> {
        let host = names::to_host(name, self.kind, true)?;
        fresh::clear();
        if self.is_gone() && self.dir.is_some() && !self.is_upper() {
            return Err(Errno::EROFS);
        }
        self.copy_up(Data::IfReadable)?;
        let _tree = self.fs.write();
        let (spot, _) = self.spot()?;
        let changed = change(&self.fs, spot.at(), &host);
        if name == DEFAULT
            && let Some(dir) = &self.dir
        {
            lock(&dir.state).default_acl = None;
        }
        changed
    }
}

impl Inode for Node {
    fn is_stable(&self) -> bool {
        // What is written to a file through a handle does not come by here.
        self.kind != S_IFREG || !self.is_upper()
    }

    fn getattr(&self) -> Result<Attr> {
        if let Some(attr) = fresh::take(self.id) {
            return Ok(attr);
        }
        let _tree = self.fs.read();
        Ok(self.see()?.attr)
    }

    fn ino(&self) -> Result<u64> {
        match self.dir.as_ref().and_then(|dir| dir.lower_id) {
            Some((_, ino)) => Ok(ino),
            None => Ok(self.getattr()?.ino),
        }
    }

    fn file_type(&self) -> u32 {
        self.kind
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let _tree = self.fs.read();
        Ok(self.find(name)?)
    }

    fn get_link(&self) -> Result<Link> {
        Ok(Link::Text(self.link_text()?))
    }

    fn readdir(&self) -> Result<Vec<DirEntry>> {
        let _tree = self.fs.read();
        self.dir()?;
        self.entries()
    }

    fn open(&self, flags: u32) -> Result<Opened> {
        fresh::clear();
        match self.kind {
            S_IFDIR if wants_write(flags) => Err(Errno::EISDIR),
            S_IFDIR => Ok(Opened::Directory),
            S_IFLNK => Err(Errno::ELOOP),
            S_IFREG => self.open_regular(flags),
            S_IFIFO => self.open_fifo(flags),
            // Sockets cannot be opened; device nodes are opened by the table of devices, never on the host.
            _ => Err(Errno::ENXIO),
        }
    }

    fn create(&self, name: &[u8], new: NewInode, flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        let (node, opened) = self.create_file(name, &new, flags)?;
        Ok((node, opened))
    }

    fn tmpfile(&self, new: NewInode, flags: u32) -> Result<Opened> {
        self.make_tmpfile(&new, flags)
    }

    fn mkdir(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        Ok(self.make_dir(name, &new)?)
    }

    fn mknod(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        Ok(self.make_node(name, &new)?)
    }

    fn symlink(&self, name: &[u8], target: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        Ok(self.make_symlink(name, target, &new)?)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        self.make_link(name, ours(target)?)
    }

    fn link_handle(&self, name: &[u8], handle: &OwnedFd) -> Result<()> {
        let named = self.root()?.node_of_handle(handle);
        self.make_link_of(name, handle, named)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.remove_name(name, false)
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.remove_name(name, true)
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        self.rename_to(old, ours(new_dir)?, new, flags)
    }

    fn setattr(&self, set: &SetAttr) -> Result<()> {
        self.change(set)
    }

    fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattr(name)
    }

    fn listxattr(&self) -> Result<Vec<u8>> {
        let _tree = self.fs.read();
        let (spot, upper) = self.spot()?;
        match spot.at().listxattr() {
            Err(Errno::EACCES) => Ok(Vec::new()),
            Ok(mut list) => {
                if upper {
                    list.extend(self.fs.store.list(id_of(&spot.at().statx()?)));
                }
                Ok(names::list_to_guest(&list, self.kind, !upper))
            }
            Err(error) => Err(error),
        }
    }

    fn setxattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.change_xattr(name, |fs, at, host| {
            if host.starts_with(names::PREFIX) {
                fs.store.set_flags(at, id_of(&at.statx()?), host, value, flags)
            } else {
                at.setxattr(host, value, flags)
            }
        })
    }

    fn removexattr(&self, name: &[u8]) -> Result<()> {
        self.change_xattr(name, |fs, at, host| {
            if host.starts_with(names::PREFIX) {
                let id = id_of(&at.statx()?);
                fs.store.get(at, id, host)?.ok_or(Errno::ENODATA)?;
                fs.store.remove(at, id, host)
            } else {
                at.removexattr(host)
            }
        })
    }

    fn host_handle(&self, for_write: bool) -> Result<OwnedFd> {
        if for_write {
            self.copy_up(Data::IfReadable)?;
        }
        let _tree = self.fs.read();
        let seen = self.see()?;
        if matches!(self.kind, S_IFIFO | S_IFSOCK) && seen.over.is_some() {
            let name = Fs::companion_name(seen.stat.stx_ino);
            return match At::new(&self.fs.work, &name).open_path() {
                // A socket made by mknod, or whose listener belongs to an earlier sandbox.
                Err(Errno::ENOENT) => Err(Errno::ECONNREFUSED),
                other => other,
            };
        }
        seen.spot.at().open_path()
    }

    fn bind_socket(&self, name: &[u8], new: NewInode, socket: &OwnedFd) -> Result<()> {
        self.make_socket(name, &new, socket)
    }
}
