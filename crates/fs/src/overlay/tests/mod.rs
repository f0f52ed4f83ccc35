//! Tests on real directories. [`Guest`] is a small path walk over inodes.

mod crash;
pub(crate) mod differential;
mod files;
mod names;
mod privilege;
mod stack;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nomina_kernel::vfs::Opened;

use super::*;

pub const READ: u32 = libc::O_RDONLY as u32;
pub const WRITE: u32 = libc::O_WRONLY as u32;
pub const RDWR: u32 = libc::O_RDWR as u32;
pub const TRUNC: u32 = libc::O_TRUNC as u32;

/// Directories of one overlay.
pub struct Trees {
    pub dir: tempfile::TempDir,
}

impl Trees {
    pub fn new() -> Trees {
        let dir = tempfile::tempdir().unwrap();
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Trees { dir }
    }

    pub fn lower(&self, path: &str) -> PathBuf {
        self.dir.path().join("lower").join(path)
    }

    pub fn upper(&self, path: &str) -> PathBuf {
        self.dir.path().join("upper").join(path)
    }

    pub fn file(&self, path: &str, content: &str) -> &Self {
        if let Some(dir) = self.lower(path).parent() {
            std::fs::create_dir_all(dir).unwrap();
        }
        std::fs::write(self.lower(path), content).unwrap();
        self
    }

    pub fn options(&self) -> OverlayOptions {
        OverlayOptions::new(
            Some(self.lower("")),
            self.upper(""),
            self.dir.path().join("work"),
            IdMap::to(0, 0),
        )
    }

    pub fn mount(&self) -> Guest {
        self.mount_with(|_| ())
    }

    pub fn mount_with(&self, change: impl FnOnce(&mut OverlayOptions)) -> Guest {
        let mut options = self.options();
        change(&mut options);
        let sb = OverlaySb::new(&options).unwrap();
        Guest { root: sb.root(), sb: Some(sb) }
    }
}

/// Path calls over a root inode.
pub struct Guest {
    pub root: Arc<dyn Inode>,
    pub sb: Option<Arc<OverlaySb>>,
}

impl Guest {
    pub fn walk(&self, path: &str) -> Result<Arc<dyn Inode>> {
        let mut node = self.root.clone();
        for name in path.split('/').filter(|n| !n.is_empty()) {
            node = node.lookup(name.as_bytes())?;
        }
        Ok(node)
    }

    pub fn split<'a>(&self, path: &'a str) -> Result<(Arc<dyn Inode>, &'a [u8])> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.walk(dir)?, name.as_bytes()))
    }

    pub fn open(&self, path: &str, flags: u32) -> Result<OwnedFd> {
        match self.walk(path)?.open(flags)? {
            Opened::Host(fd) => Ok(fd),
            _ => Err(Errno::EISDIR),
        }
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        Ok(content(&self.open(path, READ)?))
    }

    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let (dir, name) = self.split(path)?;
        let fd = match dir.create(name, new(0o644), WRITE) {
            Ok((_, Opened::Host(fd))) => fd,
            Ok(_) => panic!("create must give a handle"),
            Err(Errno::EEXIST) => self.open(path, WRITE | TRUNC)?,
            Err(error) => return Err(error),
        };
        write_all(&fd, text.as_bytes())
    }

    pub fn mkdir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.split(path)?;
        dir.mkdir(name, new(0o755)).map(drop)
    }

    pub fn unlink(&self, path: &str) -> Result<()> {
        let (dir, name) = self.split(path)?;
        dir.unlink(name)
    }

    pub fn rmdir(&self, path: &str) -> Result<()> {
        let (dir, name) = self.split(path)?;
        dir.rmdir(name)
    }

    pub fn rename(&self, from: &str, to: &str, flags: u32) -> Result<()> {
        let ((old_dir, old), (new_dir, new)) = (self.split(from)?, self.split(to)?);
        old_dir.rename(old, &new_dir, new, flags)
    }

    pub fn link(&self, from: &str, to: &str) -> Result<()> {
        let (target, (dir, name)) = (self.walk(from)?, self.split(to)?);
        dir.link(name, &target)
    }

    pub fn symlink(&self, target: &str, path: &str) -> Result<()> {
        let (dir, name) = self.split(path)?;
        dir.symlink(name, target.as_bytes(), new(0o777)).map(drop)
    }

    pub fn set(&self, path: &str, set: SetAttr) -> Result<()> {
        self.walk(path)?.setattr(&set)
    }

    /// Names in order.
    pub fn list(&self, path: &str) -> Vec<String> {
        let entries = self.walk(path).unwrap().readdir().unwrap();
        let mut names: Vec<_> = entries.into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect();
        names.sort();
        names
    }

    pub fn mode(&self, path: &str) -> u32 {
        self.walk(path).unwrap().getattr().unwrap().mode & 0o7777
    }

    pub fn sb(&self) -> &OverlaySb {
        self.sb.as_deref().unwrap()
    }
}

pub fn new(mode: u32) -> nomina_kernel::vfs::NewInode {
    nomina_kernel::vfs::NewInode { mode, uid: 0, gid: 0, rdev: 0 }
}

pub fn mode(mode: u32) -> SetAttr {
    SetAttr { mode: Some(mode), ..SetAttr::default() }
}

pub fn owner(uid: u32, gid: u32) -> SetAttr {
    SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() }
}

pub fn content(fd: &OwnedFd) -> Vec<u8> {
    let size = rustix::fs::fstat(fd).unwrap().st_size as usize;
    let mut buf = vec![0; size];
    let len = rustix::io::pread(fd, &mut buf[..], 0).unwrap();
    buf.truncate(len);
    buf
}
