//! What a task's paths start from: `struct fs_struct` (`fs/fs_struct.c`), shared by tasks with `CLONE_FS`.

use super::namei::path_lookup;
use super::permission::{MAY_EXEC, WalkCred, path_permission};
use super::{LookupFlags, Path, WalkContext};
use crate::errno::{Errno, Result};

/// Root, working directory and umask: `struct fs_struct`.
#[derive(Clone)]
pub struct FsStruct {
    /// Root directory.
    pub root: Path,
    /// Working directory.
    pub pwd: Path,
    /// Mode bits that creating calls clear.
    pub umask: u32,
}

impl FsStruct {
    /// Starts at `root` with the umask 022.
    pub fn new(root: Path) -> FsStruct {
        FsStruct { pwd: root.clone(), root, umask: 0o022 }
    }

    /// A walk that starts in the working directory.
    pub fn walk<'a>(&'a self, cred: &'a WalkCred<'a>) -> WalkContext<'a> {
        WalkContext { root: &self.root, pwd: &self.pwd, cred, umask: self.umask }
    }

    /// `chdir(2)`. Errors of path walk, and `EACCES` without search permission on the directory.
    pub fn chdir(&mut self, cred: &WalkCred<'_>, name: &[u8]) -> Result<()> {
        let path = path_lookup(&self.walk(cred), name, LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
        self.pwd = may_chdir(path, cred)?;
        Ok(())
    }

    /// `fchdir(2)`: `ENOTDIR` where it is none, `EACCES` without search permission.
    pub fn fchdir(&mut self, cred: &WalkCred<'_>, path: &Path) -> Result<()> {
        if !path.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        self.pwd = may_chdir(path.clone(), cred)?;
        Ok(())
    }

    /// `chroot(2)`. The working directory stays. `EPERM` without `CAP_SYS_CHROOT`, asked after the walk as Linux does.
    pub fn chroot(&mut self, cred: &WalkCred<'_>, name: &[u8]) -> Result<()> {
        let path = path_lookup(&self.walk(cred), name, LookupFlags::FOLLOW | LookupFlags::DIRECTORY)?;
        let path = may_chdir(path, cred)?;
        if !cred.sys_chroot {
            return Err(Errno::EPERM);
        }
        self.root = path;
        Ok(())
    }

    /// Moves from `old` to `new` whichever of root and working directory is at `old`: one task's part of
    /// `chroot_fs_refs` after `pivot_root(2)`.
    pub fn replace_root(&mut self, old: &Path, new: &Path) {
        for place in [&mut self.root, &mut self.pwd] {
            if *place == *old {
                *place = new.clone();
            }
        }
    }
}

fn may_chdir(path: Path, cred: &WalkCred<'_>) -> Result<Path> {
    path_permission(&path, cred, MAY_EXEC)?;
    Ok(path)
}
