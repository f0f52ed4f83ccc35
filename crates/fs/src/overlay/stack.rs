//! The lower tree where it is made of several layers, as the `lowerdir=A:B:C` of overlayfs: each shows through the one above.
//!
//! A lower directory is that of the upper-most layer that has it, and knows the one of a layer further down that it is merged
//! with. Layers are never written, so both are looked up once. What a layer says with whiteouts, `user.overlay.opaque` and
//! `user.overlay.redirect` is as in the upper directory (see [`super`]), so a directory that an earlier sandbox kept is a layer too;
//! beyond that a redirect may be a single name, as overlayfs writes it for a renaming within one directory. With one layer
//! none of this is asked for: a device node 0/0 in it is a device node.
//!
//! Files that a redirected directory of a *layer* shows have no path that `/proc/PID/fd` could tell while they are open: they
//! look deleted there.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_kernel::vfs::{DirEntry, S_IFDIR, S_IFMT};
use nomina_kernel::{Errno, Result};
use rustix::fs::Statx;

use super::layer::{Fs, LowerDir, NO_DATA, OPAQUE, REDIRECT, WHITEOUT};
use super::node::hidden;
use crate::at::{At, check_name, id_of};

/// Most lower directories: so many layers takes overlayfs (`OVL_MAX_STACK`).
pub const MAX_LAYERS: usize = 500;

/// What a lower directory knows where there are several layers.
pub(crate) struct Stacked {
    /// The directory further down that shows through.
    pub below: Option<Arc<LowerDir>>,
    /// Path in the lower tree.
    pub path: Vec<u8>,
    /// Which layer it is of, 0 for the upper-most.
    pub layer: u16,
}

/// An object of the lower tree.
pub(super) struct Found {
    pub fd: Arc<OwnedFd>,
    pub stat: Statx,
    /// The directory of one layer that has it.
    pub dir: Arc<LowerDir>,
    /// How many directories of layers are above that one.
    pub depth: u16,
}

/// A lower directory, with its device and inode number.
pub(super) type Below = (Option<Arc<LowerDir>>, Option<(u64, u64)>);

impl LowerDir {
    /// This directory and those it is merged with, downwards.
    pub(super) fn layers(self: &Arc<LowerDir>) -> impl Iterator<Item = &Arc<LowerDir>> {
        std::iter::successors(Some(self), |dir| dir.stacked.as_ref()?.below.as_ref())
    }

    /// Path of `name` in it from the lower root.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if path != b"/" {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}

/// The root of the lower tree, from the handles of its layers, the upper-most first.
pub(super) fn root_of(layers: Vec<Arc<OwnedFd>>) -> Option<Arc<LowerDir>> {
    let several = layers.len() > 1;
    layers.into_iter().enumerate().rev().fold(None, |below, (layer, fd)| {
        let layer = u16::try_from(layer).unwrap_or(u16::MAX);
        let stacked = several.then(|| Stacked { below, path: b"/".to_vec(), layer });
        Some(LowerDir::root(fd, stacked))
    })
}

fn is_dir(stat: &Statx) -> bool {
    u32::from(stat.stx_mode) & S_IFMT == S_IFDIR
}

/// Whether an object of a layer says that its name is deleted. `marked`: its directory says that such files may be in it.
fn is_whiteout(at: At<'_>, stat: &Statx, marked: impl FnOnce() -> bool) -> bool {
    match u32::from(stat.stx_mode) & S_IFMT {
        libc::S_IFCHR => (stat.stx_rdev_major, stat.stx_rdev_minor) == (0, 0),
        libc::S_IFREG => stat.stx_size == 0 && marked() && at.getxattr(WHITEOUT).is_ok(),
        _ => false,
    }
}

fn is_marked(dir: &OwnedFd) -> bool {
    At::new(dir, b"").getxattr(OPAQUE).is_ok_and(|value| value == b"x")
}

impl Fs {
    /// Looks `name` up in a lower directory. `ENOENT`, and what the host says of the upper-most layer.
    pub(super) fn lower_find(&self, here: &Arc<LowerDir>, name: &[u8]) -> Result<Found> {
        let mut missing = None;
        for (depth, dir) in (0..).zip(here.layers()) {
            let looked = dir.fd(self).and_then(|fd| {
                let stat = At::new(&*fd, name).statx()?;
                Ok((fd, stat))
            });
            let (fd, stat) = match looked {
                Ok(found) => found,
                Err(error) if hidden(error) == Errno::ENOENT => {
                    missing.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if dir.stacked.is_some() && is_whiteout(At::new(&*fd, name), &stat, || is_marked(&fd)) {
                return Err(Errno::ENOENT);
            }
            return Ok(Found { fd, stat, dir: dir.clone(), depth });
        }
        Err(missing.unwrap_or(Errno::ENOENT))
    }

    /// The lower directory that is at `at`, in the directory `layer` of one layer, `depth` directories down in `here`.
    pub(super) fn lower_child(
        &self,
        layer: Arc<LowerDir>,
        depth: u16,
        at: At<'_>,
        here: Option<&Arc<LowerDir>>,
    ) -> Result<Arc<LowerDir>> {
        let (Some(stacked), Some(here)) = (&layer.stacked, here) else { return Ok(layer.child(at.name)) };
        let further = here.layers().nth(usize::from(depth) + 1);
        let below = match at.getxattr(REDIRECT) {
            Ok(path) if path.starts_with(b"/") => {
                let root =
                    self.lower.as_ref().and_then(|root| root.layers().nth(usize::from(stacked.layer) + 1));
                root.and_then(|root| self.lower_walk(root, &path).0)
            }
            Ok(name) => further.and_then(|dir| self.lower_dir_in(dir, &name)?.0),
            Err(_) if at.getxattr(OPAQUE).is_ok_and(|value| value == b"y") => None,
            Err(_) => further.and_then(|dir| self.lower_dir_in(dir, at.name)?.0),
        };
        let path = here.path_of(at.name);
        Ok(layer.child_over(at.name, Some(Stacked { below, path, layer: stacked.layer })))
    }

    /// The lower directory `name` of a lower directory; `None` where that has none, or something else.
    pub(super) fn lower_dir_in(&self, here: &Arc<LowerDir>, name: &[u8]) -> Option<Below> {
        check_name(name).ok()?;
        let found = self.lower_find(here, name).ok().filter(|found| is_dir(&found.stat))?;
        let dir = self.lower_child(found.dir, found.depth, At::new(&*found.fd, name), Some(here)).ok()?;
        Some((Some(dir), Some(id_of(&found.stat))))
    }

    fn lower_walk(&self, root: &Arc<LowerDir>, path: &[u8]) -> Below {
        let Ok(stat) = root.fd(self).and_then(|fd| At::new(&*fd, b"").statx()) else { return (None, None) };
        let mut below = (Some(root.clone()), Some(id_of(&stat)));
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            // The lower tree has lost it: what was written to the layer above remains.
            below = below.0.and_then(|dir| self.lower_dir_in(&dir, name)).unwrap_or_default();
        }
        below
    }

    /// The lower directory at a path from the lower root.
    pub(super) fn lower_dir(&self, path: &[u8]) -> Result<Below> {
        Ok(self.lower.as_ref().map_or((None, None), |root| self.lower_walk(root, path)))
    }

    /// Entries of a lower directory; an unreadable one counts as empty.
    pub(super) fn lower_entries(&self, lower: &Arc<LowerDir>) -> Result<Vec<DirEntry>> {
        if lower.stacked.is_none() {
            return self.entries_of_layer(lower);
        }
        let mut known = HashSet::new();
        let mut out = Vec::new();
        for dir in lower.layers() {
            let entries = self.entries_of_layer(dir)?;
            let Ok(fd) = dir.fd(self) else { continue };
            let marked = is_marked(&fd);
            for entry in entries {
                if !known.insert(entry.name.clone()) {
                    continue;
                }
                let may_hide = entry.kind == libc::DT_CHR
                    || (marked && matches!(entry.kind, libc::DT_REG | libc::DT_UNKNOWN));
                let at = At::new(&*fd, &entry.name);
                if !may_hide || !at.statx().is_ok_and(|stat| is_whiteout(at, &stat, || marked)) {
                    out.push(entry);
                }
            }
        }
        Ok(out)
    }

    fn entries_of_layer(&self, lower: &LowerDir) -> Result<Vec<DirEntry>> {
        let read = lower.fd(self).and_then(|fd| {
            let entries = At::new(&*fd, b"").read_foreign_dir()?;
            // A directory that may be listed but not searched shows nothing either: no name in it can be reached.
            if let Some(first) = entries.first()
                && At::new(&*fd, &first.name).statx().err() == Some(Errno::EACCES)
            {
                return Ok(Vec::new());
            }
            Ok(entries)
        });
        match read {
            Err(Errno::EACCES | Errno::ENOENT | Errno::ENOTDIR) => Ok(Vec::new()),
            other => other,
        }
    }

    /// `EACCES` for a file of a kept layer whose data could not be read when it was copied up.
    pub(super) fn check_lower_data(&self, at: At<'_>) -> Result<()> {
        let several = self.lower.as_ref().is_some_and(|root| root.stacked.is_some());
        if several && at.getxattr(NO_DATA).is_ok() { Err(Errno::EACCES) } else { Ok(()) }
    }
}
