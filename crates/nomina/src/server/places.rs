//! Names of what is known by a handle only: where in the sandbox an open host file is.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nomina_kernel::errno::Result;
use nomina_kernel::mount::{MntNamespace, Mount};
use nomina_kernel::vfs::{ActiveSuper, Inode, LookupFlags, Path, WalkContext, WalkCred, d_path, namei};

use super::Server;
use super::context::walk_cred;
use super::instances::first_mount;
use super::request::host;
use super::sys::files::{HandleInode, handle_of};

/// What the host calls a descriptor.
pub fn host_link(fd: &OwnedFd) -> Result<Vec<u8>> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(host)?;
    Ok(link.as_os_str().as_bytes().to_vec())
}

impl Server {
    /// A place for an open file, under its name if it still has one.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn place_of_handle(self: &Arc<Self>, fd: OwnedFd) -> Result<Path> {
        let shown = self.instances_of_open(&fd);
        let inode: Arc<dyn Inode> = Arc::new(HandleInode::new(self, fd)?);
        for (sb, below) in shown {
            if let Some(mount) = first_mount(&sb)
                && let Some(place) = self.place_at(&mount, &below, &inode)
            {
                return Ok(place);
            }
        }
        Ok(Path::anonymous(&self.first_fs.root.mnt, inode))
    }

    /// The named place of an open file that is known only by its handle (`/proc/self/fd/N` leads to such), for calls on mounts:
    /// by the mount it was opened by, or else another one in `ns` that shows it. Any other place is itself.
    pub fn named_place(&self, path: Path, ns: &MntNamespace) -> Path {
        let find = || {
            let inode = path.inode();
            let handle = handle_of(inode)?;
            let stat = rustix::fs::fstat(&handle).ok()?;
            self.instances_of_open(&handle).into_iter().find_map(|(sb, below)| {
                let noted = self.mount_of_open(&sb, (stat.st_dev, stat.st_ino));
                let mut mounts = noted.into_iter().chain(sb.mounts()).filter(|mount| mount.is_in(ns));
                mounts.find_map(|mount| self.place_at(&mount, &below_mount(&mount, &below)?, inode))
            })
        };
        find().unwrap_or(path)
    }

    /// The place `below` the root of a mount, if it is the object `inode`.
    fn place_at(&self, mount: &Arc<Mount>, below: &[u8], inode: &Arc<dyn Inode>) -> Option<Path> {
        let root = Path::mount_root(mount);
        let found = walk_cred(&self.nobody, false, |cred| {
            // The kernel's own walk: nobody's permissions count.
            let cred = WalkCred { dac_override: true, dac_read_search: true, ..*cred };
            let walk = WalkContext { root: &root, pwd: &root, cred: &cred, umask: 0 };
            namei::path_lookup(&walk, below, LookupFlags::NO_SYMLINKS)
        });
        let found = found.ok()?;
        let (named, open) = (found.inode().getattr().ok()?, inode.getattr().ok()?);
        ((named.dev, named.ino) == (open.dev, open.ino)).then_some(found)
    }

    /// The path, below `root`, of an open file; below the root of its file system if it cannot be reached from there, as
    /// `d_path` has it.
    pub fn path_of_open(&self, fd: &OwnedFd, root: &Path) -> Option<Vec<u8>> {
        let stat = rustix::fs::fstat(fd).ok()?;
        self.path_of_shown(self.instances_of_open(fd), (stat.st_dev, stat.st_ino), root)
    }

    /// The same for what the file systems show of a host file with this device and inode number.
    pub(super) fn path_of_shown(
        &self,
        shown: Vec<(Arc<ActiveSuper>, Vec<u8>)>,
        key: (u64, u64),
        root: &Path,
    ) -> Option<Vec<u8>> {
        let reached = shown.iter().find_map(|(sb, below)| {
            let noted = self.mount_of_open(sb, key);
            noted.into_iter().chain(sb.mounts()).find_map(|mount| path_in_mount(&mount, below, root))
        });
        reached.or_else(|| shown.into_iter().next().map(|(_, below)| below))
    }

    /// The path, below `root`, of a host file that one of the mounts made at the start shows.
    pub fn guest_path(&self, path: &[u8], root: &Path) -> Option<Vec<u8>> {
        self.instances.all().iter().find_map(|sb| {
            let below = sb.ops().path_of_host(path)?;
            sb.mounts().iter().find_map(|mount| path_in_mount(mount, &below, root))
        })
    }
}

/// The path below the root of a mount of what is at `below` in its file system, if this mount shows it.
fn below_mount(mount: &Mount, below: &[u8]) -> Option<Vec<u8>> {
    let top = d_path::dentry_path(mount.root());
    match below.strip_prefix(&top[..]) {
        _ if top == b"/" => Some(below.to_vec()),
        Some(b"") => Some(b"/".to_vec()),
        Some(rest) if rest.starts_with(b"/") => Some(rest.to_vec()),
        _ => None,
    }
}

/// The path, below `root`, of what is at `below` in a file system, if this mount shows it.
fn path_in_mount(mount: &Arc<Mount>, below: &[u8], root: &Path) -> Option<Vec<u8>> {
    let below = below_mount(mount, below)?;
    let mut text = d_path::path_below(&Path::mount_root(mount), root)?;
    if text == b"/" {
        text.clear();
    }
    if below != b"/" || text.is_empty() {
        text.extend_from_slice(&below);
    }
    Some(text)
}
