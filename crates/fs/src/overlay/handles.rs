//! From a host handle or path back to the overlay: `/proc/PID/fd`, `fstat` and `fchmod` on what a guest holds open.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use nomina_kernel::vfs::{Attr, Inode, S_IFREG, SetAttr};
use nomina_kernel::{Errno, Result};

use super::OverlaySb;
use super::layer::{Fs, lock};
use super::node::Node;
use crate::at::{At, errno, id_of};
use crate::handle;

/// Which tree a host path is in.
enum Tree {
    Upper(Vec<u8>),
    Work(Vec<u8>),
    Lower(Vec<u8>),
}

/// The path `/proc/self/fd` shows for a handle.
fn link_of(fd: impl AsFd) -> Result<Vec<u8>> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(rustix::fs::readlink(path, Vec::new()).map_err(errno)?.into_bytes())
}

/// `path` without the directory `root`: starting with `/`, or `None` where it is elsewhere.
fn below<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    if root == b"/" {
        return path.starts_with(b"/").then_some(path);
    }
    match path.strip_prefix(root)? {
        b"" => Some(b"/"),
        rest if rest[0] == b'/' => Some(rest),
        _ => None,
    }
}

impl Node {
    pub(crate) fn root(&self) -> Result<Arc<Node>> {
        self.fs.root.get().and_then(|root| root.upgrade()).ok_or(Errno::ESTALE)
    }

    fn tree_of(&self, host: &[u8]) -> Option<Tree> {
        let upper = link_of(&*self.upper_fd().ok()?).ok()?;
        if let Some(rest) = below(host, &upper) {
            return Some(Tree::Upper(rest.to_vec()));
        }
        if let Some(rest) = below(host, &link_of(&self.fs.work).ok()?) {
            return Some(Tree::Work(rest.to_vec()));
        }
        self.fs.lower.as_ref()?.layers().find_map(|layer| {
            below(host, &link_of(&*layer.slot.get()?).ok()?).map(|rest| Tree::Lower(rest.to_vec()))
        })
    }

    /// Whether a handle is of an object of the upper or work directory, deleted or not.
    pub(crate) fn is_in_layer(&self, fd: impl AsFd) -> bool {
        link_of(fd).is_ok_and(|link| matches!(self.tree_of(&link), Some(Tree::Upper(_) | Tree::Work(_))))
    }

    /// Where a path of the lower tree shows, renamed directories considered.
    fn place_of_lower(&self, path: &[u8]) -> Option<Vec<u8>> {
        let moved = lock(&self.fs.moved).clone();
        let longest =
            moved.iter().filter(|(from, _)| below(path, from).is_some()).max_by_key(|(from, _)| from.len());
        let Some((from, node)) = longest else { return Some(path.to_vec()) };
        let mut to = node.path()?;
        if let Some(rest) = below(path, from)
            && rest != b"/"
        {
            to.extend_from_slice(rest);
        }
        Some(to)
    }

    pub(crate) fn has_path_of(self: &Arc<Node>, host: &[u8]) -> bool {
        self.tree_of(host).is_some()
    }

    pub(crate) fn path_of(self: &Arc<Node>, host: &[u8]) -> Option<Vec<u8>> {
        match self.tree_of(host)? {
            // The upper tree has the shape of the overlay, and the host says " (deleted)" itself.
            Tree::Upper(path) => Some(path),
            Tree::Work(path) => Some(path),
            Tree::Lower(path) => {
                let Some(mut place) = self.place_of_lower(&path) else {
                    return Some([&path[..], b" (deleted)"].concat());
                };
                let _tree = self.fs.read();
                if self.walk(&place).is_err() {
                    place.extend_from_slice(b" (deleted)");
                }
                Some(place)
            }
        }
    }

    /// The inode of a file a guest holds open; `None` where its name is gone or now another file's.
    pub(crate) fn node_of_handle(self: &Arc<Node>, fd: impl AsFd) -> Option<Arc<Node>> {
        let fd = fd.as_fd();
        let id = id_of(&At { fd, name: b"" }.statx().ok()?);
        let path = match self.tree_of(&link_of(fd).ok()?)? {
            Tree::Upper(path) => path,
            Tree::Work(_) => return None,
            Tree::Lower(path) => self.place_of_lower(&path)?,
        };
        let _tree = self.fs.read();
        let node = self.walk(&path).ok()?;
        let now = id_of(&node.see().ok()?.stat);
        let copy = lock(&self.fs.copied).of(id);
        (now == id || copy == Some(now)).then_some(node)
    }
}

impl Fs {
    /// Notes that the lower directory `path` shows as `node`, which is not where its path says.
    pub(crate) fn note_moved(&self, path: Vec<u8>, node: &Arc<Node>) {
        let mut moved = lock(&self.moved);
        moved.retain(|(other, node)| *other != path && !node.is_gone());
        moved.push((path, node.clone()));
    }
}

impl Drop for OverlaySb {
    fn drop(&mut self) {
        lock(&self.fs.moved).clear();
    }
}

impl OverlaySb {
    /// The inode of an open regular file, found by the host path of the handle and checked by device and inode number.
    /// `None` for files without a name (deleted, `O_TMPFILE`) and for what is not of this overlay.
    pub fn inode_of_handle(&self, fd: BorrowedFd<'_>) -> Option<Arc<dyn Inode>> {
        Some(self.root.node_of_handle(fd)?)
    }

    /// The device and inode number that a host file of the layer shows, where these are not its own.
    pub fn shown(&self, key: (u64, u64)) -> Option<(u64, u64)> {
        lock(&self.fs.copied).shown(key)
    }

    /// What `fstat(2)` shows on a guest's handle of a file of this overlay that has been copied up, given what the host says of
    /// the handle: the numbers of the lower file where it is of the copy, all of the copy where it is of the lower file. `None`:
    /// what the host says.
    pub fn attr_of_copied(&self, fd: BorrowedFd<'_>, host: &Attr) -> Option<Attr> {
        let id = (host.dev, host.ino);
        let (shown, copied) = {
            let copied = lock(&self.fs.copied);
            (copied.shown(id), copied.of(id).is_some())
        };
        if let Some((dev, ino)) = shown {
            return Some(Attr { dev, ino, ..*host });
        }
        copied.then(|| self.root.node_of_handle(fd)?.getattr().ok()).flatten()
    }

    /// `fstat(2)` on a guest's handle of a file of this overlay: of the copy where the handle is of the lower file and
    /// that has been copied up since.
    ///
    /// # Errors
    /// Those of the host.
    pub fn attr_of_handle(&self, fd: BorrowedFd<'_>) -> Result<Attr> {
        let attr = handle::attr_in(&self.fs.store, fd, &self.fs.map)?;
        Ok(self.attr_of_copied(fd, &attr).unwrap_or(attr))
    }

    /// `fchmod(2)`, `fchown(2)`, `futimens(2)` and `ftruncate(2)` on a guest's handle of a file of this overlay.
    ///
    /// # Errors
    /// `EROFS` for a lower file that has no name any more: nothing could be changed but the host's file.
    pub fn set_attr_of_handle(&self, fd: BorrowedFd<'_>, set: &SetAttr) -> Result<()> {
        if self.may_change(fd)? {
            return handle::set_attr_in(&self.fs.store, fd, &self.fs.map, set);
        }
        self.root.node_of_handle(fd).ok_or(Errno::EROFS)?.setattr(set)
    }

    /// `fsetxattr(2)` on a guest's handle of a file of this overlay.
    ///
    /// # Errors
    /// As [`Self::set_attr_of_handle`], and those of `setxattr(2)`.
    pub fn set_xattr_of_handle(
        &self,
        fd: BorrowedFd<'_>,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        match self.root.node_of_handle(fd) {
            Some(node) => node.setxattr(name, value, flags),
            None if self.may_change(fd)? => handle::set_xattr_fd(fd, name, value, flags),
            None => Err(Errno::EROFS),
        }
    }

    /// `fremovexattr(2)` on a guest's handle of a file of this overlay.
    ///
    /// # Errors
    /// As [`Self::set_attr_of_handle`], and those of `removexattr(2)`.
    pub fn remove_xattr_of_handle(&self, fd: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
        match self.root.node_of_handle(fd) {
            Some(node) => node.removexattr(name),
            None if self.may_change(fd)? => handle::remove_xattr_fd(fd, name),
            None => Err(Errno::EROFS),
        }
    }

    /// Whether a handle is of an object of the layer, deleted or not: nobody outside has it.
    pub fn is_ours(&self, fd: BorrowedFd<'_>) -> bool {
        self.root.is_in_layer(fd)
    }

    /// Whether a handle is of a regular file of ours, which may be changed directly.
    fn may_change(&self, fd: BorrowedFd<'_>) -> Result<bool> {
        let stat = rustix::fs::fstat(fd).map_err(errno)?;
        let ours = matches!(self.root.tree_of(&link_of(fd)?), Some(Tree::Upper(_) | Tree::Work(_)));
        Ok(ours && stat.st_mode & libc::S_IFMT == S_IFREG)
    }
}
