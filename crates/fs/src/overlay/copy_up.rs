//! Copy-up: giving an object of the lower tree a place in the upper one before it is changed.
//!
//! The copy is made in the work directory and moved into place whole. Data is copied before the tree is locked, so that
//! a large file holds up nobody else; if somebody was quicker, the copy is thrown away.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_kernel::vfs::posix_acl::is_acl;
use nomina_kernel::vfs::{S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SetTime, Timespec};
use nomina_kernel::{Errno, Result};
use rustix::fs::{Mode, OFlags, SeekFrom, Statx};

use super::fresh;
use super::layer::{Fs, NO_DATA, OPAQUE, lock};
use super::node::{Entry, Node, Seen};
use crate::at::{At, dtype, errno, id_of};
use crate::names;
use crate::override_stat::{Override, XATTR};

/// How much of a file is needed in the upper tree.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// All of it. `EACCES` where it cannot be read; an empty file has nothing to read.
    Full,
    /// None: it is about to be truncated.
    Truncated,
    /// All where it can be read, and only the attributes otherwise.
    IfReadable,
}

impl Node {
    /// Makes sure that this object is in the upper tree. The tree is not locked by the caller.
    ///
    /// # Errors
    /// `EACCES` as [`Data`] says, `ENOSPC` and what else the host answers.
    pub(crate) fn copy_up(&self, data: Data) -> Result<()> {
        fresh::clear();
        let seen = {
            let _tree = self.fs.read();
            if self.is_upper() {
                return Ok(());
            }
            if self.dir.is_none() { Some(self.see()?) } else { None }
        };
        let Some(seen) = seen else {
            let _tree = self.fs.write();
            return self.copy_up_dir();
        };
        let temp = self.fs.temp_name();
        let copied = self.make_copy(&temp, &seen, data).and_then(|()| {
            let _tree = self.fs.write();
            self.install_copy(&temp, &seen)
        });
        if copied != Ok(true) {
            self.fs.discard(&temp);
        }
        copied.map(|_| ())
    }

    /// Makes a copy of the object `seen` as `temp` in the work directory.
    fn make_copy(&self, temp: &[u8], seen: &Seen, data: Data) -> Result<()> {
        let fs = &*self.fs;
        let source = seen.spot.at();
        let host_kind = u32::from(seen.stat.stx_mode) & S_IFMT;
        let over = Override {
            uid: seen.attr.uid,
            gid: seen.attr.gid,
            mode: seen.attr.mode & 0o7777,
            kind: Some(self.kind),
            rdev: seen.attr.rdev,
        };
        let to = At::new(&fs.work, temp);
        if host_kind == S_IFLNK {
            let target = source.readlink()?;
            if (over.uid, over.gid) == (fs.map.uid, fs.map.gid) {
                rustix::fs::symlinkat(&target, &fs.work, temp).map_err(errno)?;
            } else {
                let file = fs.temp_file(temp)?;
                write_all(&file, &target)?;
            }
        } else {
            let file = fs.temp_file(temp)?;
            // Lock files and the like are often closed to others and empty: they need no reading.
            if host_kind == S_IFREG && data != Data::Truncated && seen.stat.stx_size != 0 {
                let copied = open_lower(source, OFlags::RDONLY | OFlags::NOATIME | OFlags::NONBLOCK)
                    .and_then(|from| copy_data(&from, &file, seen.stat.stx_size));
                match copied {
                    Err(Errno::EACCES) if data == Data::IfReadable => {
                        rustix::fs::ftruncate(&file, seen.stat.stx_size).map_err(errno)?;
                        fs.store.set(to, id_of(&to.statx()?), NO_DATA, b"")?;
                        fs.any_no_data.store(true, Ordering::Release);
                    }
                    other => other?,
                }
                if fs.durable {
                    // As overlayfs: after a power failure the lower file's content must not be gone.
                    rustix::fs::fdatasync(&file).map_err(errno)?;
                }
            }
            copy_xattrs(fs, source, to, host_kind)?;
        }
        fs.store.place(to, &to.statx()?, false, &fs.map, &over)?;
        to.set_times(Some(accessed(&seen.stat)), Some(modified(&seen.stat)))
    }

    /// Moves a copy into place; false where the object needs it no more. The tree is locked for writing.
    fn install_copy(&self, temp: &[u8], seen: &Seen) -> Result<bool> {
        let (parent, name, gone) = {
            let place = lock(&self.place);
            if place.upper {
                return Ok(false);
            }
            (place.parent.clone(), place.name.clone(), place.gone.is_some())
        };
        let fs = &*self.fs;
        let copy = At::new(&fs.work, temp).statx()?;
        // As overlayfs: a file goes on to show its number, unless others of its names go on to show the lower file.
        let shown = seen.stat.stx_nlink == 1;
        if gone {
            // It has lost its name while somebody holds it: the copy lives on without one as well.
            let fd = At::new(&fs.work, temp).open_path()?;
            fs.discard(temp);
            let mut place = lock(&self.place);
            place.gone = Some(Arc::new(fd));
            place.upper = true;
        } else {
            let parent = parent.ok_or(Errno::EIO)?;
            parent.copy_up_dir()?;
            parent.install(
                temp,
                &name,
                Entry { kind: dtype(self.kind), ino: if shown { seen.attr.ino } else { copy.stx_ino } },
            )?;
            lock(&self.place).upper = true;
        }
        lock(&fs.copied).insert(id_of(&seen.stat), id_of(&copy), shown);
        Ok(true)
    }

    /// Moves `temp` from the work directory to `name` here, keeping the times of this directory: for guests nothing
    /// happened to it.
    fn install(&self, temp: &[u8], name: &[u8], entry: Entry) -> Result<()> {
        self.with_state(|_| ())?;
        self.keeping_times(|dir| {
            rustix::fs::renameat(&self.fs.work, temp, dir, name).map_err(errno)?;
            self.with_state(|state| state.names.as_mut().map(|names| names.insert(name.into(), entry)))?;
            Ok(())
        })
    }

    /// Does something to this directory of the upper tree that guests must not see in its times.
    pub(crate) fn keeping_times(&self, change: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<()> {
        let fd = self.upper_fd()?;
        let at = At::new(&*fd, b"");
        let before = at.statx()?;
        change(&fd)?;
        at.set_times(Some(accessed(&before)), Some(modified(&before)))
    }

    /// Makes sure that this directory, and with it all above, is in the upper tree. The tree is locked for writing.
    pub(crate) fn copy_up_dir(&self) -> Result<()> {
        if self.is_upper() && !self.is_gone() {
            return Ok(());
        }
        let mut chain = Vec::new();
        let mut at = self.arc()?;
        loop {
            let parent = {
                let place = lock(&at.place);
                if place.gone.is_some() {
                    return Err(Errno::ENOENT);
                }
                if place.upper {
                    break;
                }
                place.parent.clone().ok_or(Errno::EIO)?
            };
            chain.push(std::mem::replace(&mut at, parent));
        }
        chain.iter().rev().try_for_each(|dir| dir.copy_up_one_dir())
    }

    /// Copies this directory up, whose parent is in the upper tree.
    fn copy_up_one_dir(&self) -> Result<()> {
        let (parent, name) = {
            let place = lock(&self.place);
            (place.parent.clone().ok_or(Errno::EIO)?, place.name.clone())
        };
        let seen = self.see()?;
        let temp = self.fs.temp_name();
        let made = self
            .make_dir_copy(&temp, &seen, false)
            .and_then(|()| parent.install(&temp, &name, Entry { kind: libc::DT_DIR, ino: seen.attr.ino }));
        if made.is_err() {
            self.fs.discard(&temp);
            return made;
        }
        lock(&self.place).upper = true;
        self.with_state(|state| {
            state.names = Some(Default::default());
            state.marked = false;
        })
    }

    /// Makes an empty directory `temp` in the work directory with the attributes of the lower directory `seen`.
    pub(crate) fn make_dir_copy(&self, temp: &[u8], seen: &Seen, opaque: bool) -> Result<()> {
        let fs = &*self.fs;
        rustix::fs::mkdirat(&fs.work, temp, Mode::from_raw_mode(0o700)).map_err(errno)?;
        let to = At::new(&fs.work, temp);
        let stat = to.statx()?;
        fs.forget(id_of(&stat));
        if opaque {
            fs.store.set(to, id_of(&stat), OPAQUE, b"y")?;
        }
        copy_xattrs(fs, seen.spot.at(), to, S_IFDIR)?;
        let over = Override {
            uid: seen.attr.uid,
            gid: seen.attr.gid,
            mode: seen.attr.mode & 0o7777,
            kind: Some(S_IFDIR),
            rdev: 0,
        };
        fs.store.place(to, &stat, false, &fs.map, &over)?;
        to.set_times(Some(accessed(&seen.stat)), Some(modified(&seen.stat)))
    }
}

/// Opens a file of the lower tree and makes sure that it is one: the host may have put something else there since it
/// was looked up. `ENXIO` for what is no regular file.
pub(crate) fn open_lower(at: At<'_>, flags: OFlags) -> Result<OwnedFd> {
    let fd = at.open(flags | OFlags::NONBLOCK)?;
    let stat = rustix::fs::fstat(&fd).map_err(errno)?;
    if stat.st_mode & S_IFMT != S_IFREG {
        return Err(Errno::ENXIO);
    }
    if !flags.contains(OFlags::NONBLOCK) {
        match rustix::fs::fcntl_setfl(&fd, flags) {
            Err(rustix::io::Errno::PERM) => {
                rustix::fs::fcntl_setfl(&fd, flags - OFlags::NOATIME).map_err(errno)?
            }
            other => other.map_err(errno)?,
        }
    }
    Ok(fd)
}

pub(crate) fn accessed(stat: &Statx) -> SetTime {
    SetTime::At(Timespec { sec: stat.stx_atime.tv_sec, nsec: stat.stx_atime.tv_nsec })
}

pub(crate) fn modified(stat: &Statx) -> SetTime {
    SetTime::At(Timespec { sec: stat.stx_mtime.tv_sec, nsec: stat.stx_mtime.tv_nsec })
}

/// Copies what a guest could see of the extended attributes. Only files and directories have any that matter.
fn copy_xattrs(fs: &Fs, from: At<'_>, to: At<'_>, kind: u32) -> Result<()> {
    if !matches!(kind, S_IFREG | S_IFDIR) {
        return Ok(());
    }
    // A file whose attributes we may not read has none for guests either.
    let Ok(list) = from.listxattr() else { return Ok(()) };
    for name in list.split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let kept = if name == names::CAPABILITY || is_acl(name) {
            [names::PREFIX, name].concat()
        } else if name.starts_with(b"user.") && !names::is_mark(name) && name != XATTR {
            name.to_vec()
        } else {
            continue;
        };
        let Ok(mut value) = from.getxattr(name) else { continue };
        if is_acl(name) {
            value = fs.map.acl_inside(value);
        }
        if kept.starts_with(names::PREFIX) {
            fs.store.set(to, id_of(&to.statx()?), &kept, &value)?;
        } else {
            match to.setxattr(&kept, &value, 0) {
                // An upper file system without attributes cannot hold them; overlayfs goes on as well.
                Err(Errno::EOPNOTSUPP) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Writes all of `data`.
pub(crate) fn write_all(file: &OwnedFd, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        let done = rustix::io::write(file, data).map_err(errno)?;
        data = &data[done..];
    }
    Ok(())
}

/// Copies the data of a file: shared extents where the file system can, otherwise only what is not a hole.
pub(crate) fn copy_data(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let mut pos = 0;
    while pos < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(pos)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            // No SEEK_DATA here (FUSE, proc): everything is data.
            Err(_) => pos,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).max(start + 1);
        copy_range(from, to, start, end)?;
        pos = end;
    }
    rustix::fs::ftruncate(to, size).map_err(errno)
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> Result<()> {
    let (mut at_in, mut at_out) = (start, start);
    while at_in < end {
        let left = usize::try_from(end - at_in).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut at_in), to, Some(&mut at_out), left) {
            Ok(0) => break,
            Ok(_) => {}
            Err(rustix::io::Errno::NOSPC) => return Err(Errno::ENOSPC),
            Err(_) => return copy_by_hand(from, to, at_in, end),
        }
    }
    // Some file systems answer 0 for files that they cannot copy this way.
    if at_in < end { copy_by_hand(from, to, at_in, end) } else { Ok(()) }
}

fn copy_by_hand(from: &OwnedFd, to: &OwnedFd, mut pos: u64, end: u64) -> Result<()> {
    let mut buf = vec![0; 1 << 16];
    while pos < end {
        let want = usize::try_from(end - pos).unwrap_or(usize::MAX).min(buf.len());
        let got = rustix::io::pread(from, &mut buf[..want], pos).map_err(errno)?;
        if got == 0 {
            break;
        }
        let mut written = 0;
        while written < got {
            written += rustix::io::pwrite(to, &buf[written..got], pos + written as u64).map_err(errno)?;
        }
        pos += got as u64;
    }
    Ok(())
}
