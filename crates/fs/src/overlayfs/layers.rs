//! Layers, and the operations on them with the credentials of who mounted.

use std::sync::Arc;

use nomina_kernel::cred::Cred;
use nomina_kernel::vfs::{
    LookupFlags, NewInode, Path, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, SetAttr, WalkContext, WalkCred, attr,
    namei as vfs,
};
use nomina_kernel::{Errno, Result};

use super::xattrs::{INCOMPAT, Marks};

/// Who mounted: the credentials that layers are used with (`creator_cred`). So an overlay gives nobody access to what the
/// mounter could not reach.
#[derive(Clone)]
pub struct Mounter(Arc<Cred>);

impl Mounter {
    /// Keeps `cred`.
    pub fn new(cred: Arc<Cred>) -> Mounter {
        Mounter(cred)
    }

    /// Calls `f` with the credentials.
    pub fn with<T>(&self, f: impl FnOnce(&WalkCred<'_>) -> T) -> T {
        self.0.with_walk_cred(f)
    }

    /// Calls `f` with the credentials and these ids, which own what `f` creates: `ovl_override_creator_creds`.
    pub fn as_user<T>(&self, uid: u32, gid: u32, f: impl FnOnce(&WalkCred<'_>) -> T) -> T {
        self.with(|cred| f(&WalkCred { fsuid: uid, fsgid: gid, ..*cred }))
    }

    /// Calls `f` with a walk that starts at `dir` and cannot leave it by `..` or an absolute path.
    pub fn at<T>(&self, dir: &Path, f: impl FnOnce(&WalkContext<'_>) -> Result<T>) -> Result<T> {
        self.with(|cred| f(&WalkContext { root: dir, pwd: dir, cred, umask: 0 }))
    }

    /// As [`Mounter::at`], for creating an object with the owner `new` says.
    pub fn creating<T>(
        &self,
        dir: &Path,
        new: &NewInode,
        f: impl FnOnce(&WalkContext<'_>) -> Result<T>,
    ) -> Result<T> {
        self.as_user(new.uid, new.gid, |cred| f(&WalkContext { root: dir, pwd: dir, cred, umask: 0 }))
    }

    /// The object `name` in `dir`; `None` where there is none.
    pub fn lookup(&self, dir: &Path, name: &[u8]) -> Result<Option<Path>> {
        match self.at(dir, |walk| vfs::path_lookup(walk, name, LookupFlags::empty())) {
            Ok(path) => Ok(Some(path)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves `old` in `from` to `new` in `to`, directories of one layer.
    pub fn rename(&self, from: &Path, old: &[u8], to: &Path, new: &[u8], flags: u32) -> Result<()> {
        let flags = vfs::RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        self.with(|cred| {
            let at = |dir| WalkContext { root: dir, pwd: dir, cred, umask: 0 };
            vfs::rename(&at(from), old, &at(to), new, flags)
        })
    }

    /// Removes `name` from `dir`, with all that is in it, but not deeper than `depth` directories: `ovl_cleanup`.
    pub fn remove(&self, dir: &Path, name: &[u8], depth: u32) -> Result<()> {
        let Some(path) = self.lookup(dir, name)? else { return Ok(()) };
        if !path.dentry.is_dir() {
            return self.at(dir, |walk| vfs::unlink(walk, name));
        }
        if depth > 0 {
            for entry in path.inode().readdir()? {
                self.remove(&path, &entry.name, depth - 1)?;
            }
        }
        self.at(dir, |walk| vfs::rmdir(walk, name))
    }
}

/// A lower layer.
pub(crate) struct Layer {
    /// Its root, on a private mount: other mounts on it do not show.
    pub root: Path,
    /// It only holds data of metadata copies.
    pub data_only: bool,
}

/// A directory of a layer.
#[derive(Clone)]
pub(crate) struct RealDir {
    /// Index of the lower layer; without meaning for the upper one.
    pub layer: usize,
    /// The place in the layer.
    pub path: Path,
    /// Zero-size files in it may be whiteouts.
    pub xwhiteouts: bool,
}

/// The directory `work` in the work directory.
pub(crate) struct Workdir {
    /// The place, on the upper layer's mount.
    pub path: Path,
}

impl Workdir {
    /// Makes `work` anew in `dir` and clears what an earlier mount left: `ovl_workdir_create`.
    ///
    /// # Errors
    /// `EINVAL`: the upper directory was used with `volatile` and may be incomplete. Errors of making a directory.
    pub fn prepare(
        dir: &Path,
        upper: &Path,
        mounter: &Mounter,
        marks: Marks,
        volatile: bool,
    ) -> Result<Workdir> {
        const WORK: &[u8] = b"work";
        if !marks.user {
            // Whether the upper layer can be marked shows now rather than at the first change.
            let _ = marks.remove(upper, mounter, "probe");
        }
        if let Some(old) = mounter.lookup(dir, WORK)? {
            if let Some(incompat) = mounter.lookup(&old, INCOMPAT)?
                && !incompat.inode().readdir()?.is_empty()
            {
                return Err(Errno::EINVAL);
            }
            // As Linux, which gives up on what is deeper: an object in preparation is a file, or a directory of whiteouts.
            mounter.remove(dir, WORK, 2)?;
        }
        mounter.at(dir, |walk| vfs::mkdir(walk, WORK, 0))?;
        let path = mounter.lookup(dir, WORK)?.ok_or(Errno::ENOENT)?;
        if volatile {
            mounter.at(&path, |walk| {
                vfs::mkdir(walk, INCOMPAT, 0)?;
                vfs::mkdir(walk, b"incompat/volatile", 0)?;
                vfs::mknod(walk, b"incompat/volatile/dirty", 0, 0)
            })?;
        }
        Ok(Workdir { path })
    }

    /// Makes an object in preparation under `temp`.
    pub fn create(&self, mounter: &Mounter, temp: &[u8], new: &NewInode, target: &[u8]) -> Result<Path> {
        mounter.creating(&self.path, new, |walk| match new.mode & S_IFMT {
            S_IFDIR => vfs::mkdir(walk, temp, new.mode & 0o7777),
            S_IFLNK => vfs::symlink(walk, target, temp),
            _ => vfs::mknod(walk, temp, new.mode, new.rdev),
        })?;
        let path = mounter.lookup(&self.path, temp)?.ok_or(Errno::ENOENT)?;
        // mkdir takes no set-ID bits.
        let mode = new.mode & 0o7777;
        if new.mode & S_IFMT == S_IFDIR && path.inode().getattr()?.mode & 0o7777 != mode {
            attr::notify_change(&path, &SetAttr { mode: Some(mode), ..Default::default() })?;
        }
        Ok(path)
    }

    /// Makes a whiteout in preparation.
    pub fn whiteout(&self, mounter: &Mounter, temp: &[u8]) -> Result<()> {
        mounter.at(&self.path, |walk| vfs::mknod(walk, temp, S_IFCHR, 0))
    }

    /// Removes what was in preparation; what cannot be removed is cleared at the next mount.
    pub fn discard(&self, mounter: &Mounter, temp: &[u8]) {
        let _ = mounter.remove(&self.path, temp, 1);
    }
}
