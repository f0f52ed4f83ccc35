//! Whose a file in a guest's hands is.
//!
//! In Linux a descriptor leads back to its inode: `/proc/self/fd/N` can be opened again in another mode, `fchmod` and
//! `futimens` change the file of a descriptor that is open for reading only. Here the file behind a descriptor may be the
//! host's: below an overlay, in a directory bound read-only, standard input. A handle of it is a capability for what it
//! was opened for and for no more. So every change through a handle goes by the file's name inside, where there is one,
//! which copies it up or meets the mount's flags; without a name only files of the sandbox's own are changed.

use std::collections::HashSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nomina_fs::host::HostSb;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::{Mount, MountFlags};
use nomina_kernel::vfs::{Inode, S_IFDIR, S_IFMT, S_IFREG};
use rustix::fs::{OFlags, Stat};

use super::Server;
use super::instances::first_mount;
use super::lock::RwLock;

/// Whose a file is.
pub enum Whose {
    /// It has a name inside: the object there and the mount it is on.
    Named(Arc<Mount>, Arc<dyn Inode>),
    /// It has no name, and nobody outside has it: a deleted file of a layer, a pipe or a memfd made inside.
    Sandbox,
    /// It has no name inside and is the host's: nothing but the descriptor itself may be used.
    Host,
}

/// Device and inode numbers of the standard streams that were passed in from outside.
#[derive(Default)]
pub struct Streams(RwLock<HashSet<(u64, u64)>>);

impl Streams {
    /// Adds these descriptors.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn add(&self, fds: &[BorrowedFd<'_>; 3]) -> std::io::Result<()> {
        for fd in fds {
            let stat = rustix::fs::fstat(fd)?;
            self.0.write().unwrap().insert((stat.st_dev, stat.st_ino));
        }
        Ok(())
    }

    fn contain(&self, id: (u64, u64)) -> bool {
        self.0.read().unwrap().contains(&id)
    }
}

impl Server {
    /// Whose the file behind a guest's descriptor, opened with `held`, is.
    pub fn whose(&self, fd: &OwnedFd, held: OFlags, stat: &Stat) -> Whose {
        let kind = stat.st_mode & S_IFMT;
        if let Some(inode) = self.device_inode(stat.st_rdev, stat.st_mode) {
            return Whose::Named(self.root_mount(), inode);
        }
        if kind == S_IFREG || kind == S_IFDIR {
            return self.whose_file(fd, held, stat);
        }
        let passed = self.streams.contain((stat.st_dev, stat.st_ino));
        // A FIFO or socket of a file system has a path; what has none was made by socketpair, pipe and the like.
        match self.named(fd) {
            Some(named) => named,
            None if passed => Whose::Host,
            None if self.is_in_overlay(fd) => Whose::Sandbox,
            None if link_of(fd).is_some_and(|link| !link.starts_with(b"/")) => Whose::Sandbox,
            None => Whose::Host,
        }
    }

    fn whose_file(&self, fd: &OwnedFd, held: OFlags, stat: &Stat) -> Whose {
        if let Some(named) = self.named(fd) {
            return named;
        }
        // O_TMPFILE in a directory that is written through: the handle can do everything to a file without a name.
        if stat.st_nlink == 0 && check_no_more(held, libc::O_RDWR as u32).is_ok() {
            return Whose::Sandbox;
        }
        let ours = self.is_in_overlay(fd);
        // F_GET_SEALS answers for memory files only; a name in `/` starting with "memfd:" alone would prove nothing.
        let memfd = || {
            link_of(fd).is_some_and(|link| link.starts_with(b"/memfd:"))
                && rustix::fs::fcntl_get_seals(fd).is_ok()
        };
        if ours || memfd() { Whose::Sandbox } else { Whose::Host }
    }

    /// The object inside that has the file's name. What a mount writes through goes before what an overlay would copy, and
    /// that before what is read-only.
    fn named(&self, fd: &OwnedFd) -> Option<Whose> {
        let instances = self.instances.all();
        let bound = |read_only: bool| {
            instances
                .iter()
                .filter_map(|sb| first_mount(sb))
                .filter(move |mount| mount.flags().contains(MountFlags::READONLY) == read_only)
                .find_map(|mount| {
                    let sb = mount.sb().ops().as_any().downcast_ref::<HostSb>()?;
                    let inode = sb.inode_of_handle(fd.as_fd())?;
                    Some(Whose::Named(mount, inode))
                })
        };
        let layered = || {
            self.instances.find_overlay(|sb, overlay| {
                let inode = overlay.inode_of_handle(fd.as_fd())?;
                let stat = rustix::fs::fstat(fd).ok()?;
                Some(Whose::Named(self.mount_of_open(sb, (stat.st_dev, stat.st_ino))?, inode))
            })
        };
        bound(false).or_else(layered).or_else(|| bound(true))
    }

    fn is_in_overlay(&self, fd: &OwnedFd) -> bool {
        self.instances.find_overlay(|_, overlay| overlay.is_ours(fd.as_fd()).then_some(())).is_some()
    }

    fn root_mount(&self) -> Arc<Mount> {
        self.first_fs.root.mnt.clone()
    }
}

/// What the host calls the file.
fn link_of(fd: &OwnedFd) -> Option<Vec<u8>> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Some(rustix::fs::readlink(link, Vec::new()).ok()?.into_bytes())
}

/// Checks that opening a handle again with `flags` asks for nothing that the handle, opened with `held`, cannot do already.
///
/// # Errors
/// `EACCES`.
pub fn check_no_more(held: OFlags, flags: u32) -> Result<()> {
    let access = |flags: OFlags| match flags & OFlags::RWMODE {
        OFlags::RDONLY => (true, false),
        OFlags::WRONLY => (false, true),
        _ => (true, true),
    };
    let asked = OFlags::from_bits_retain(flags);
    let ((read, write), (can_read, can_write)) = (access(asked), access(held));
    let write = write || asked.contains(OFlags::TRUNC);
    if held.contains(OFlags::PATH) || (read && !can_read) || (write && !can_write) {
        return Err(Errno::EACCES);
    }
    Ok(())
}
