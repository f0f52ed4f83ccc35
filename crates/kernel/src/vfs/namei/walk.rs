//! The walk itself: `link_path_walk`, `..`, mounts and symbolic links.

use std::borrow::Cow;
use std::sync::Arc;

use super::{LookupFlags, WalkContext};
use crate::errno::{Errno, Result};
use crate::vfs::d_path::path_is_under;
use crate::vfs::dcache::{Found, Keep};
use crate::vfs::permission::{MAY_EXEC, WalkCred, dir_permission};
use crate::vfs::{Dentry, Inode, Link, NAME_MAX, PATH_MAX, Path, S_IFLNK, watch};

/// `MAXSYMLINKS`
const MAX_SYMLINKS: u32 = 40;

/// What the last component is: `LAST_NORM` and its kin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastType {
    Norm,
    Dot,
    DotDot,
    /// There is none: the path is `/`, or ended in a jump.
    Root,
}

/// Where a walk to the end has arrived.
pub(super) enum Target {
    /// At `nd.path`.
    Place,
    /// At an object in the directory `nd.path` for which no dentry was wanted.
    Leaf(Arc<dyn Inode>),
}

/// The state of one walk: `struct nameidata`.
pub(super) struct Nameidata<'a> {
    pub(super) cred: &'a WalkCred<'a>,
    pub(super) path: Path,
    pub(super) flags: LookupFlags,
    pub(super) last_type: LastType,
    /// The last component has slashes after it.
    pub(super) trailing_slash: bool,
    root: &'a Path,
    last: (usize, usize),
    links: u32,
    text: Cow<'a, [u8]>,
    pos: usize,
    /// What is left of the paths that contained the links being walked.
    stack: Vec<(Cow<'a, [u8]>, usize)>,
}

impl<'a> Nameidata<'a> {
    /// `path_init`
    pub(super) fn new(ctx: &WalkContext<'a>, name: &'a [u8], flags: LookupFlags) -> Result<Self> {
        if name.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if name.is_empty() && !flags.contains(LookupFlags::EMPTY) {
            return Err(Errno::ENOENT);
        }
        let absolute = name.first() == Some(&b'/');
        if absolute && flags.contains(LookupFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let root = if flags.scoped() { ctx.pwd } else { ctx.root };
        let start = if absolute { root } else { ctx.pwd };
        if !name.is_empty() && !start.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        Ok(Nameidata {
            cred: ctx.cred,
            path: start.clone(),
            flags,
            last_type: LastType::Root,
            trailing_slash: false,
            root,
            last: (0, 0),
            links: 0,
            text: Cow::Borrowed(name),
            pos: 0,
            stack: Vec::new(),
        })
    }

    /// The last component.
    pub(super) fn last_name(&self) -> &[u8] {
        &self.text[self.last.0..self.last.1]
    }

    /// Walks to the directory of the last component, which is left for the caller: `link_path_walk`.
    pub(super) fn link_path_walk(&mut self) -> Result<()> {
        loop {
            while self.text.get(self.pos) == Some(&b'/') {
                self.pos += 1;
            }
            if self.pos >= self.text.len() {
                match self.stack.pop() {
                    Some((text, pos)) => {
                        self.text = text;
                        self.pos = pos;
                        continue;
                    }
                    None => {
                        self.last_type = LastType::Root;
                        self.trailing_slash = false;
                        return Ok(());
                    }
                }
            }
            dir_permission(&self.path, self.cred, MAY_EXEC)?;
            let start = self.pos;
            let rest = &self.text[start..];
            let end = start + rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
            let mut next = end;
            while self.text.get(next) == Some(&b'/') {
                next += 1;
            }
            self.pos = next;
            self.last = (start, end);
            self.last_type = match &self.text[start..end] {
                b"." => LastType::Dot,
                b".." => LastType::DotDot,
                _ => LastType::Norm,
            };
            if next == self.text.len() && self.stack.is_empty() {
                self.trailing_slash = next > end;
                return Ok(());
            }
            match self.last_type {
                LastType::Norm => {
                    let found = self.lookup_last(Keep::DirsAndLinks)?;
                    if found.file_type() == S_IFLNK {
                        self.pick_link(&found)?;
                    } else if let Found::Dentry(dentry) = found {
                        self.step_into(dentry)?;
                    } else {
                        return Err(Errno::ENOTDIR);
                    }
                }
                _ => self.handle_dots()?,
            }
            if !self.path.dentry.is_dir() {
                return Err(Errno::ENOTDIR);
            }
        }
    }

    /// Walks all of the path. A last component that is a symbolic link is followed with `FOLLOW` or a slash after it.
    pub(super) fn lookup_to_end(&mut self, keep: Keep) -> Result<Target> {
        let target = loop {
            self.link_path_walk()?;
            if self.last_type != LastType::Norm {
                self.handle_dots()?;
                break Target::Place;
            }
            if self.trailing_slash {
                self.flags |= LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
            }
            let follow = self.flags.contains(LookupFlags::FOLLOW);
            let keep = if follow && keep == Keep::Dirs { Keep::DirsAndLinks } else { keep };
            let found = self.lookup_last(keep)?;
            if follow && found.file_type() == S_IFLNK {
                self.pick_link(&found)?;
                continue;
            }
            match found {
                Found::Dentry(dentry) => {
                    self.step_into(dentry)?;
                    break Target::Place;
                }
                Found::Inode(_) if self.flags.contains(LookupFlags::DIRECTORY) => return Err(Errno::ENOTDIR),
                Found::Inode(inode) => break Target::Leaf(inode),
            }
        };
        if self.flags.contains(LookupFlags::MOUNTPOINT) {
            self.traverse_mounts()?;
        } else {
            self.path.mnt.clear_expiry_mark();
        }
        if matches!(target, Target::Place) {
            self.complete_walk()?;
            if self.flags.contains(LookupFlags::DIRECTORY) && !self.path.dentry.is_dir() {
                return Err(Errno::ENOTDIR);
            }
        }
        Ok(target)
    }

    /// Finds the last component seen in the current directory.
    pub(super) fn lookup_last(&self, keep: Keep) -> Result<Found> {
        let name = self.last_name();
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if self.flags.contains(LookupFlags::CACHED) {
            return match self.path.dentry.d_lookup(name) {
                Some(dentry) if self.path.mnt.sb().cacheable() && dentry.is_valid() => {
                    Ok(Found::Dentry(dentry))
                }
                _ => Err(Errno::EAGAIN),
            };
        }
        if self.flags.contains(LookupFlags::OWN) {
            watch::watch(&self.path, false)?;
        }
        self.path.dentry.lookup(name, self.path.mnt.sb(), keep)
    }

    /// Moves to a child of the current directory and down the mounts on it: `step_into`.
    pub(super) fn step_into(&mut self, dentry: Arc<Dentry>) -> Result<()> {
        self.path.dentry = dentry;
        self.traverse_mounts()
    }

    /// `traverse_mounts`
    fn traverse_mounts(&mut self) -> Result<()> {
        while self.path.dentry.is_mountpoint() {
            let Some(mounted) = self.path.mnt.lookup_mnt(&self.path.dentry) else { break };
            if self.flags.contains(LookupFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            self.path = Path::mount_root(&mounted);
        }
        Ok(())
    }

    /// `.`, `..` or nothing as a component.
    pub(super) fn handle_dots(&mut self) -> Result<()> {
        if self.last_type == LastType::DotDot { self.follow_dotdot() } else { Ok(()) }
    }

    fn at_root(&self) -> bool {
        Arc::ptr_eq(&self.path.dentry, &self.root.dentry) && Arc::ptr_eq(&self.path.mnt, &self.root.mnt)
    }

    /// `follow_dotdot`: never above the root, from the root of a mount to the directory its mount point is in.
    fn follow_dotdot(&mut self) -> Result<()> {
        let start = self.path.clone();
        loop {
            if self.at_root() {
                break;
            }
            if !Arc::ptr_eq(&self.path.dentry, self.path.mnt.root()) {
                let parent = self.path.dentry.parent();
                // A directory moved out of the part that a bind mount shows has no way up in it (`path_connected`).
                let parent = parent.filter(|parent| {
                    Arc::ptr_eq(self.path.mnt.root(), self.path.mnt.sb().root())
                        || parent.is_subdir(self.path.mnt.root())
                });
                self.path.dentry = parent.ok_or(Errno::ENOENT)?;
                if self.flags.contains(LookupFlags::OWN) {
                    watch::watch(&start, false)?;
                    watch::watch(&self.path, false)?;
                }
                return self.traverse_mounts();
            }
            let Some((mnt, dentry)) = self.path.mnt.parent_and_mountpoint() else { break };
            if self.flags.contains(LookupFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            self.path = Path { mnt, dentry };
        }
        // There is no way up: stay, below whatever is mounted here now.
        if self.flags.contains(LookupFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        self.path = start;
        self.traverse_mounts()
    }

    /// Goes on with the target of a symbolic link found in the current directory: `pick_link`.
    pub(super) fn pick_link(&mut self, link: &Found) -> Result<()> {
        if self.links >= MAX_SYMLINKS {
            return Err(Errno::ELOOP);
        }
        self.links += 1;
        if self.flags.contains(LookupFlags::NO_SYMLINKS) || self.path.mnt.flags().nosymfollow() {
            return Err(Errno::ELOOP);
        }
        match link.get_link(self.path.mnt.sb())? {
            Link::Text(text) => {
                if text.is_empty() {
                    return Err(Errno::ENOENT);
                }
                if text[0] == b'/' {
                    self.jump_root()?;
                }
                let rest = std::mem::replace(&mut self.text, Cow::Owned(text));
                if self.pos < rest.len() {
                    self.stack.push((rest, self.pos));
                }
                self.pos = 0;
            }
            Link::Jump(path) => {
                if self.flags.contains(LookupFlags::NO_MAGICLINKS) {
                    return Err(Errno::ELOOP);
                }
                if self.flags.contains(LookupFlags::NO_XDEV) && !Arc::ptr_eq(&path.mnt, &self.path.mnt) {
                    return Err(Errno::EXDEV);
                }
                if self.flags.scoped() {
                    return Err(Errno::EXDEV);
                }
                self.path = path;
            }
        }
        Ok(())
    }

    /// `nd_jump_root`
    fn jump_root(&mut self) -> Result<()> {
        if self.flags.contains(LookupFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        if self.flags.contains(LookupFlags::NO_XDEV) && !Arc::ptr_eq(&self.path.mnt, &self.root.mnt) {
            return Err(Errno::EXDEV);
        }
        self.path = self.root.clone();
        Ok(())
    }

    /// `complete_walk`: a rename during the walk must not have led out of the directory it is confined to.
    pub(super) fn complete_walk(&self) -> Result<()> {
        if self.flags.scoped() && !path_is_under(&self.path, self.root) {
            return Err(Errno::EXDEV);
        }
        Ok(())
    }
}
