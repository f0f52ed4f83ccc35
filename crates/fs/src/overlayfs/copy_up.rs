//! Copy-up: giving an object of a lower layer a place in the upper one before it is changed (`fs/overlayfs/copy_up.c`).
//!
//! The copy is made in the work directory, with everything it needs, and moved into place whole. Data is copied before the
//! tree is locked, so that a large file holds up nobody else.

use std::sync::Arc;

use nomina_kernel::vfs::{
    Link, NewInode, Opened, Path, S_IFLNK, S_IFREG, SetAttr, SetTime, attr, namei as vfs,
};
use nomina_kernel::{Errno, Result};

use super::inode::OvlInode;
use super::layers::RealDir;
use super::lock;
use super::xattrs::METACOPY;
use crate::overlay::copy_data;

const O_RDONLY: u32 = libc::O_RDONLY as u32;
const O_WRONLY: u32 = libc::O_WRONLY as u32;

impl OvlInode {
    /// Makes sure that the object is in the upper layer. With `truncated` its data is not needed; `data`: its data is about
    /// to change. The tree is not locked by the caller.
    ///
    /// # Errors
    /// `EROFS`: there is no upper layer. `ENOENT`: a directory on the way has been removed. Those of the file systems.
    pub(crate) fn copy_up(&self, truncated: bool, data: bool) -> Result<()> {
        let work = self.fs.work.as_ref().ok_or(Errno::EROFS)?;
        if self.has_upper(data) {
            return Ok(());
        }
        let _copying = lock(&self.copying);
        if self.has_upper(data) {
            return Ok(());
        }
        if self.upper().is_some() {
            return self.copy_up_data(truncated);
        }
        if self.dir.is_some() {
            let _tree = self.fs.write();
            return self.copy_up_dirs();
        }
        let temp = self.fs.temp_name();
        let copied = self.make_copy(&temp, truncated).and_then(|copy| {
            let _tree = self.fs.write();
            self.install(&temp, copy)
        });
        if copied.is_err() {
            work.discard(&self.fs.mounter, &temp);
        }
        copied
    }

    fn has_upper(&self, data: bool) -> bool {
        let state = lock(&self.state);
        state.upper.is_some() && !(data && state.needs_data)
    }

    /// Makes a copy as `temp` in the work directory.
    fn make_copy(&self, temp: &[u8], truncated: bool) -> Result<Path> {
        let fs = &*self.fs;
        let work = fs.work.as_ref().ok_or(Errno::EROFS)?;
        let lower = &self.lower.first().ok_or(Errno::EIO)?.path;
        let was = lower.inode().getattr()?;
        let target = match self.kind {
            S_IFLNK => match lower.inode().get_link()? {
                Link::Text(text) => text,
                Link::Jump(_) => return Err(Errno::EINVAL),
            },
            _ => Vec::new(),
        };
        let new = NewInode { mode: was.mode, uid: was.uid, gid: was.gid, rdev: was.rdev };
        let copy = work.create(&fs.mounter, temp, &new, &target)?;
        if self.kind == S_IFREG && !truncated && was.size != 0 {
            self.copy_file(self.data.as_ref().unwrap_or(lower), &copy, was.size)?;
        }
        fs.marks.copy_all(&**lower.inode(), &**copy.inode())?;
        let now = copy.inode().getattr()?;
        // Set-ID bits go with an owner, and with a write.
        let mode =
            (now.mode & 0o7777 != was.mode & 0o7777 && self.kind != S_IFLNK).then_some(was.mode & 0o7777);
        let owner = (now.uid, now.gid) != (was.uid, was.gid);
        let set = SetAttr {
            mode,
            uid: owner.then_some(was.uid),
            gid: owner.then_some(was.gid),
            atime: Some(SetTime::At(was.atime)),
            mtime: Some(SetTime::At(was.mtime)),
            ..SetAttr::default()
        };
        attr::notify_change(&copy, &set)?;
        Ok(copy)
    }

    /// `ovl_copy_up_file`
    fn copy_file(&self, from: &Path, to: &Path, size: u64) -> Result<()> {
        let open = |path: &Path, flags| self.fs.mounter.with(|cred| vfs::vfs_open(path, cred, flags));
        let Opened::Host(to) = open(to, O_WRONLY)? else { return Err(Errno::EIO) };
        match open(from, O_RDONLY)? {
            Opened::Host(from) => copy_data(&from, &to, size)?,
            Opened::Text(text) | Opened::Control(text) => crate::overlay::write_all(&to, &text)?,
            Opened::Mounts(mounts) => crate::overlay::write_all(&to, &mounts.text())?,
            _ => return Err(Errno::EIO),
        }
        // As Linux: what is moved into place is on disk, unless the mount is volatile.
        if !self.fs.params.volatile {
            rustix::fs::fdatasync(&to).map_err(crate::at::errno)?;
        }
        Ok(())
    }

    /// Gives a metadata copy in the upper layer its data.
    fn copy_up_data(&self, truncated: bool) -> Result<()> {
        let (upper, data) = (self.upper().ok_or(Errno::EIO)?, self.data.as_ref().ok_or(Errno::EIO)?);
        let now = upper.inode().getattr()?;
        if !truncated {
            self.copy_file(data, &upper, now.size)?;
            let set = SetAttr {
                mode: Some(now.mode & 0o7777),
                atime: Some(SetTime::At(now.atime)),
                mtime: Some(SetTime::At(now.mtime)),
                ..SetAttr::default()
            };
            attr::notify_change(&upper, &set)?;
        }
        self.fs.marks.remove(&upper, &self.fs.mounter, METACOPY)?;
        lock(&self.state).needs_data = false;
        Ok(())
    }

    /// Moves a copy into place. The tree is locked for writing.
    fn install(&self, temp: &[u8], copy: Path) -> Result<()> {
        let fs = &*self.fs;
        let work = fs.work.as_ref().ok_or(Errno::EROFS)?;
        let (parent, name, gone) = {
            let state = lock(&self.state);
            (state.parent.clone(), state.name.clone(), state.gone)
        };
        if gone {
            // It has lost its name while somebody holds it: the copy lives on without one as well.
            fs.mounter.remove(&work.path, temp, 0)?;
        } else {
            let parent = parent.ok_or(Errno::EIO)?;
            parent.copy_up_dirs()?;
            let dir = parent.upper().ok_or(Errno::EIO)?;
            let before = dir.inode().getattr()?;
            fs.mounter.rename(&work.path, temp, &dir, &name, 0)?;
            // For guests nothing happened to the directory.
            let set = SetAttr {
                atime: Some(SetTime::At(before.atime)),
                mtime: Some(SetTime::At(before.mtime)),
                ..SetAttr::default()
            };
            attr::notify_change(&dir, &set)?;
        }
        lock(&self.state).upper = Some(RealDir { layer: 0, path: copy, xwhiteouts: false });
        Ok(())
    }

    /// Makes sure that this directory, and with it all above, is in the upper layer. The tree is locked for writing.
    pub(crate) fn copy_up_dirs(&self) -> Result<()> {
        let mut chain: Vec<Arc<OvlInode>> = Vec::new();
        let mut at = self.arc()?;
        while at.upper().is_none() {
            let (parent, gone) = {
                let state = lock(&at.state);
                (state.parent.clone(), state.gone)
            };
            if gone {
                return Err(Errno::ENOENT);
            }
            chain.push(std::mem::replace(&mut at, parent.ok_or(Errno::EROFS)?));
        }
        for dir in chain.iter().rev() {
            let temp = self.fs.temp_name();
            let copied = dir.make_copy(&temp, true).and_then(|copy| dir.install(&temp, copy));
            if let (Err(error), Some(work)) = (copied, &self.fs.work) {
                work.discard(&self.fs.mounter, &temp);
                return Err(error);
            }
        }
        Ok(())
    }
}
