//! Names: creating, removing, renaming (`fs/overlayfs/dir.c`).
//!
//! Whatever replaces something is prepared in the work directory and moved into place in one step, so that the upper layer
//! is whole at every moment.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_kernel::vfs::posix_acl;
use nomina_kernel::vfs::{
    LookupFlags, NewInode, Opened, Path, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, WalkContext,
    namei as vfs,
};
use nomina_kernel::{Errno, Result};

use super::inode::OvlInode;
use super::layers::RealDir;
use super::lock;
use super::params::Redirect;
use super::xattrs::{OPAQUE, REDIRECT};

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;
const O_CREAT_EXCL: u32 = (libc::O_CREAT | libc::O_EXCL) as u32;
/// Longest redirect: `redirect_max`.
const REDIRECT_MAX: usize = 256;

impl OvlInode {
    /// Makes sure that `name` can be made here, and gives the upper directory and whether a whiteout is in the way. The tree
    /// is locked for writing.
    fn prepare_new(&self, name: &[u8]) -> Result<(Path, bool)> {
        self.check_dir()?;
        crate::at::check_name(name)?;
        if self.is_gone() {
            return Err(Errno::ENOENT);
        }
        match self.find(name) {
            Ok(_) => return Err(Errno::EEXIST),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        self.copy_up_dirs()?;
        let whiteout = self.has_whiteout(name)?;
        Ok((self.upper().ok_or(Errno::EROFS)?, whiteout))
    }

    /// Makes an object with `make`, which is given a directory of the upper layer's file system and a name in it: in place, or
    /// in the work directory where a whiteout has to be replaced (`ovl_create_over_whiteout`).
    fn make_in<T>(
        &self,
        name: &[u8],
        is_dir: bool,
        make: impl FnOnce(&Path, &[u8]) -> Result<T>,
    ) -> Result<(T, Path)> {
        let (dir, whiteout) = self.prepare_new(name)?;
        let (fs, mounter) = (&*self.fs, &self.fs.mounter);
        let found = |dir: &Path, name: &[u8]| mounter.lookup(dir, name)?.ok_or(Errno::ENOENT);
        if !whiteout {
            let made = make(&dir, name)?;
            let path = found(&dir, name)?;
            if is_dir && self.is_merged() && fs.params.redirect == Redirect::On {
                // Nothing below has the name now, and without `redirect_dir` the layers may be changed between two mounts
                // (`ovl_allow_offline_changes`). The mark only saves looking, and may be missing.
                let _ = fs.marks.set(&path, mounter, OPAQUE, b"y");
            }
            return Ok((made, path));
        }
        let work = fs.work.as_ref().ok_or(Errno::EROFS)?;
        let temp = fs.temp_name();
        let made = (|| {
            let made = make(&work.path, &temp)?;
            let path = found(&work.path, &temp)?;
            // In place the layer's file system does it.
            inherit_acls(&dir, &path)?;
            if is_dir {
                fs.marks.set(&path, mounter, OPAQUE, b"y")?;
            }
            let flags = if is_dir { EXCHANGE } else { 0 };
            mounter.rename(&work.path, &temp, &dir, name, flags)?;
            Ok((made, path))
        })();
        if is_dir || made.is_err() {
            work.discard(mounter, &temp);
        }
        made
    }

    fn adopt(&self, name: &[u8], path: Path) -> Result<Arc<OvlInode>> {
        let kind = path.dentry.file_type();
        let upper = Some(RealDir { layer: 0, path, xwhiteouts: false });
        let child = OvlInode::new(&self.fs, kind, Some(self.arc()?), name, upper, Vec::new(), None);
        Ok(self.check_dir()?.add_child(name, child))
    }

    /// `mkdir(2)`, `mknod(2)`, `symlink(2)`.
    ///
    /// # Errors
    /// `EPERM`: the device 0/0, which would be a whiteout.
    pub(crate) fn make(&self, name: &[u8], new: &NewInode, target: &[u8]) -> Result<Arc<OvlInode>> {
        let kind = new.mode & S_IFMT;
        if kind == S_IFCHR && new.rdev == 0 {
            return Err(Errno::EPERM);
        }
        let _tree = self.fs.write();
        let work = self.fs.work.as_ref().ok_or(Errno::EROFS)?;
        let ((), path) = self.make_in(name, kind == S_IFDIR, |dir, name| {
            if dir.dentry.is_same(&work.path.dentry) {
                return work.create(&self.fs.mounter, name, new, target).map(drop);
            }
            self.fs.mounter.creating(dir, new, |walk| match kind {
                S_IFDIR => vfs::mkdir(walk, name, new.mode & 0o7777),
                S_IFLNK => vfs::symlink(walk, target, name),
                _ => vfs::mknod(walk, name, new.mode, new.rdev),
            })
        })?;
        self.adopt(name, path)
    }

    pub(crate) fn create_file(
        &self,
        name: &[u8],
        new: &NewInode,
        flags: u32,
    ) -> Result<(Arc<OvlInode>, Opened)> {
        let _tree = self.fs.write();
        let new = NewInode { mode: new.mode & 0o7777 | S_IFREG, ..*new };
        let (opened, path) = self.make_in(name, false, |dir, name| {
            self.fs.mounter.creating(dir, &new, |walk| {
                let flags = flags | O_CREAT_EXCL;
                Ok(vfs::open(walk, name, flags, new.mode & 0o7777, LookupFlags::empty())?.opened)
            })
        })?;
        Ok((self.adopt(name, path)?, opened))
    }

    pub(crate) fn make_tmpfile(&self, new: &NewInode, flags: u32) -> Result<Opened> {
        self.check_dir()?;
        {
            let _tree = self.fs.write();
            self.copy_up_dirs()?;
        }
        let dir = self.upper().ok_or(Errno::EROFS)?;
        self.fs.mounter.creating(&dir, new, |walk| {
            let flags = flags | libc::O_TMPFILE as u32;
            Ok(vfs::open(walk, b".", flags, new.mode & 0o7777, LookupFlags::empty())?.opened)
        })
    }

    /// `link(2)`. As Linux without `index`: a lower file with several names loses its link to the others.
    pub(crate) fn make_link(&self, name: &[u8], target: &OvlInode) -> Result<()> {
        if !Arc::ptr_eq(&self.fs, &target.fs) {
            return Err(Errno::EXDEV);
        }
        self.check_dir()?;
        if target.dir.is_some() {
            let _tree = self.fs.read();
            return Err(if self.find(name).is_ok() { Errno::EEXIST } else { Errno::EPERM });
        }
        target.copy_up(false, false)?;
        let _tree = self.fs.write();
        if target.is_gone() {
            return Err(Errno::ENOENT);
        }
        let old = target.upper().ok_or(Errno::EROFS)?;
        let (_, path) = self.make_in(name, false, |dir, name| {
            self.fs.mounter.with(|cred| {
                let at = |dir| WalkContext { root: dir, pwd: dir, cred, umask: 0 };
                vfs::link(&at(&old), b"", LookupFlags::EMPTY, &at(dir), name)
            })
        })?;
        self.adopt(name, path).map(drop)
    }

    pub(crate) fn make_link_of(&self, name: &[u8], handle: &OwnedFd) -> Result<()> {
        let _tree = self.fs.write();
        let mounter = &self.fs.mounter;
        self.make_in(name, false, |dir, name| mounter.at(dir, |walk| vfs::link_handle(walk, handle, name)))?;
        Ok(())
    }

    pub(crate) fn make_socket(&self, name: &[u8], new: &NewInode, socket: &OwnedFd) -> Result<()> {
        let _tree = self.fs.write();
        let mode = new.mode & 0o7777 | S_IFSOCK;
        let (dir, whiteout) = self.prepare_new(name)?;
        if whiteout {
            // A bound socket cannot be moved to where its address says it is.
            self.fs.mounter.at(&dir, |walk| vfs::unlink(walk, name))?;
        }
        self.fs.mounter.creating(&dir, new, |walk| {
            vfs::with_new_name(walk, name, mode, 0, |dir, name, new| {
                dir.inode().bind_socket(name, new, socket)
            })
        })
    }

    /// `unlink(2)`, or `rmdir(2)` with `is_dir`.
    pub(crate) fn remove_name(&self, name: &[u8], is_dir: bool) -> Result<()> {
        self.check_dir()?;
        let (fs, mounter) = (&*self.fs, &self.fs.mounter);
        let work = fs.work.as_ref().ok_or(Errno::EROFS)?;
        let _tree = fs.write();
        let child = self.find(name)?;
        let whiteouts = match (is_dir, child.dir.is_some()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) => child.check_empty()?,
            (false, false) => Vec::new(),
        };
        let below = self.lower_has(name)?;
        self.copy_up_dirs()?;
        let dir = self.upper().ok_or(Errno::EROFS)?;
        let temp = fs.temp_name();
        if below {
            work.whiteout(mounter, &temp)?;
            let exchange = is_dir && child.upper().is_some();
            let moved = mounter.rename(&work.path, &temp, &dir, name, if exchange { EXCHANGE } else { 0 });
            if exchange || moved.is_err() {
                work.discard(mounter, &temp);
            }
            moved?;
        } else if !whiteouts.is_empty() {
            mounter.rename(&dir, name, &work.path, &temp, 0)?;
            work.discard(mounter, &temp);
        } else {
            mounter.at(&dir, |walk| if is_dir { vfs::rmdir(walk, name) } else { vfs::unlink(walk, name) })?;
        }
        self.lose(name, &child);
        Ok(())
    }

    /// `child` has lost its name here.
    fn lose(&self, name: &[u8], child: &OvlInode) {
        if let Some(children) = &self.dir {
            children.remove_child(name);
        }
        let mut state = lock(&child.state);
        state.gone = true;
        state.parent = None;
    }

    /// Replaces an upper directory that has nothing but whiteouts by an opaque one without them: `ovl_clear_empty`.
    fn clear_empty(&self, dir: &Path, name: &[u8]) -> Result<()> {
        let (fs, mounter) = (&*self.fs, &self.fs.mounter);
        let work = fs.work.as_ref().ok_or(Errno::EROFS)?;
        let upper = self.upper().ok_or(Errno::EIO)?;
        let was = upper.inode().getattr()?;
        let temp = fs.temp_name();
        let new = NewInode { mode: was.mode, uid: was.uid, gid: was.gid, rdev: 0 };
        let cleared = work.create(mounter, &temp, &new, b"").and_then(|path| {
            fs.marks.copy_all(&**upper.inode(), &**path.inode())?;
            fs.marks.set(&path, mounter, OPAQUE, b"y")?;
            mounter.rename(&work.path, &temp, dir, name, EXCHANGE)?;
            Ok(path)
        });
        work.discard(mounter, &temp);
        lock(&self.state).upper = Some(RealDir { layer: 0, path: cleared?, xwhiteouts: false });
        Ok(())
    }

    /// Prepares a directory for another place: what shows through it must not change with its name.
    ///
    /// # Errors
    /// `EXDEV`: what it is merged with could not be found again.
    fn prepare_move(&self, name: &[u8], from: &OvlInode, to: &OvlInode) -> Result<()> {
        let (fs, mounter) = (&*self.fs, &self.fs.mounter);
        let upper = self.upper().ok_or(Errno::EIO)?;
        let Some(lower) = self.lower.first() else {
            return if to.is_merged() { fs.marks.set(&upper, mounter, OPAQUE, b"y") } else { Ok(()) };
        };
        let in_place = std::ptr::eq(from, to);
        if let Some(old) = fs.marks.get(&upper, mounter, REDIRECT)?
            && (in_place || old.starts_with(b"/"))
        {
            return Ok(());
        }
        let root = &fs.layers[lower.layer].root.dentry;
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = lower.path.dentry.clone();
        while !at.is_same(root) {
            names.push(at.name());
            at = at.parent().ok_or(Errno::EIO)?;
        }
        let path: Vec<u8> = names.iter().rev().flat_map(|name| [b"/", &name[..]].concat()).collect();
        let path = if in_place { name.to_vec() } else { path };
        if path.len() > REDIRECT_MAX {
            return Err(Errno::EXDEV);
        }
        fs.marks.set(&upper, mounter, REDIRECT, &path).map_err(|_| Errno::EXDEV)
    }

    /// Whether the directory can be moved: `ovl_can_move`.
    fn can_move(&self) -> bool {
        self.dir.is_none() || !self.is_merged() || self.fs.params.redirect == Redirect::On
    }

    /// `renameat2(2)`.
    ///
    /// # Errors
    /// `EINVAL`: `RENAME_WHITEOUT`. `EXDEV`: a directory that lower layers have, without `redirect_dir=on`; `mv(1)` then copies.
    pub(crate) fn rename_to(&self, old: &[u8], to: &OvlInode, new: &[u8], flags: u32) -> Result<()> {
        if flags & !(NOREPLACE | EXCHANGE) != 0 || flags == NOREPLACE | EXCHANGE {
            return Err(Errno::EINVAL);
        }
        if !Arc::ptr_eq(&self.fs, &to.fs) {
            return Err(Errno::EXDEV);
        }
        self.check_dir()?;
        to.check_dir()?;
        loop {
            // Data is copied before the tree is locked; if the object is another one by then, once more.
            let (source, target) = {
                let _tree = self.fs.read();
                let target = if flags == EXCHANGE { Some(to.find(new)?) } else { None };
                (self.find(old)?, target)
            };
            for inode in [Some(&source), target.as_ref()].into_iter().flatten() {
                if !inode.can_move() {
                    return Err(Errno::EXDEV);
                }
                if inode.dir.is_none() {
                    inode.copy_up(false, false)?;
                }
            }
            let _tree = self.fs.write();
            let same = Arc::ptr_eq(&source, &self.find(old)?)
                && target.is_none_or(|target| to.find(new).is_ok_and(|now| Arc::ptr_eq(&now, &target)));
            if same {
                return self.rename_locked(&source, old, to, new, flags);
            }
        }
    }

    fn rename_locked(
        &self,
        source: &Arc<OvlInode>,
        old: &[u8],
        to: &OvlInode,
        new: &[u8],
        flags: u32,
    ) -> Result<()> {
        let (fs, mounter) = (&*self.fs, &self.fs.mounter);
        let target = match to.find(new) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) if flags != EXCHANGE => None,
            Err(error) => return Err(error),
        };
        if flags == NOREPLACE && target.is_some() {
            return Err(Errno::EEXIST);
        }
        let is_dir = source.dir.is_some();
        if is_dir && to.is_within(source) {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = &target {
            if target.dir.is_some() && self.is_within(target) {
                return Err(if flags == EXCHANGE { Errno::EINVAL } else { Errno::ENOTEMPTY });
            }
            if Arc::ptr_eq(source, target) {
                return Ok(());
            }
        }
        let mut whiteouts = Vec::new();
        if let (Some(target), false) = (&target, flags == EXCHANGE) {
            match (is_dir, target.dir.is_some()) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) => whiteouts = target.check_empty()?,
                (false, false) => {}
            }
        }
        self.copy_up_dirs()?;
        to.copy_up_dirs()?;
        let (from_dir, to_dir) = (self.upper().ok_or(Errno::EROFS)?, to.upper().ok_or(Errno::EROFS)?);
        if is_dir {
            source.copy_up_dirs()?;
            source.prepare_move(old, self, to)?;
        }
        if let (Some(target), EXCHANGE) = (&target, flags) {
            if target.dir.is_some() {
                target.copy_up_dirs()?;
                target.prepare_move(new, to, self)?;
            }
            mounter.rename(&from_dir, old, &to_dir, new, EXCHANGE)?;
            self.place(old, target)?;
            to.place(new, source)?;
            return Ok(());
        }
        let below = self.lower_has(old)?;
        let over_whiteout = target.is_none() && to.has_whiteout(new)?;
        if let Some(target) = target.as_ref().filter(|_| !whiteouts.is_empty()) {
            target.clear_empty(&to_dir, new)?;
        }
        if over_whiteout && is_dir {
            // A directory cannot replace the whiteout, but change places with it.
            mounter.rename(&from_dir, old, &to_dir, new, EXCHANGE)?;
            if !below {
                mounter.at(&from_dir, |walk| vfs::unlink(walk, old))?;
            }
        } else {
            mounter.rename(&from_dir, old, &to_dir, new, if below { WHITEOUT } else { 0 })?;
        }
        if let Some(target) = &target {
            to.lose(new, target);
        }
        if let Some(children) = &self.dir {
            children.remove_child(old);
        }
        debug_assert!(fs.work.is_some());
        to.place(new, source)
    }

    /// Whether this is `other` or inside it.
    fn is_within(&self, other: &OvlInode) -> bool {
        let mut at = self.me.upgrade();
        while let Some(inode) = at {
            if std::ptr::eq(&*inode, other) {
                return true;
            }
            at = lock(&inode.state).parent.clone();
        }
        false
    }

    /// Notes that `child` is `name` here now.
    fn place(&self, name: &[u8], child: &Arc<OvlInode>) -> Result<()> {
        let children = self.check_dir()?;
        children.remove_child(name);
        children.add_child(name, child.clone());
        let parent = Some(self.arc()?);
        let mut state = lock(&child.state);
        let old = std::mem::replace(&mut state.parent, parent);
        state.name = name.into();
        drop(state);
        drop(old);
        Ok(())
    }
}

/// Gives an object made in the work directory the lists it would have got in `dir`.
fn inherit_acls(dir: &Path, path: &Path) -> Result<()> {
    let default = match dir.inode().getxattr(posix_acl::DEFAULT) {
        Ok(value) => value,
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error),
    };
    let (access, default) = posix_acl::inherited(&default, path.inode().getattr()?.mode);
    for (name, value) in [(posix_acl::ACCESS, access), (posix_acl::DEFAULT, default)] {
        if let Some(value) = value {
            path.inode().setxattr(name, &value, 0)?;
        }
    }
    path.dentry.forget_cached_acls();
    Ok(())
}
