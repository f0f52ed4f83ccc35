//! Inodes of the overlay: where they are now, what is in a directory, looking up a name.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nomina_kernel::vfs::{Attr, DirEntry, S_IFDIR, S_IFMT};
use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, Statx};

use super::fresh;
use super::layer::{FdSlot, Fs, LowerDir, OPAQUE, REDIRECT, WHITEOUT, lock, open_far};
use crate::at::{At, Spot, check_name, dtype, errno, id_of};
use crate::override_stat::{MARK, Override, attr_of};

/// `DT_WHT`: the name is deleted.
pub(crate) const WHT: u8 = 14;

/// One name of an upper directory.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// `DT_*` value, [`WHT`], or 0 where not known yet.
    pub kind: u8,
    /// Inode number as `stat` gives it, 0 where not known yet.
    pub ino: u64,
}

/// Names of an upper directory.
///
/// In order, so that `readdir` gives names in the same order each time (`seekdir(3)`).
pub(crate) type Names = BTreeMap<Box<[u8]>, Entry>;

/// Where an inode is.
pub(crate) struct Place {
    /// The directory that has it; `None` for the root and for what has no name any more.
    pub parent: Option<Arc<Node>>,
    /// Its name there.
    pub name: Box<[u8]>,
    /// Whether it exists in the upper tree.
    pub upper: bool,
    /// How many layers of the parent's lower directory are above the one that has it, where it is not in the upper tree.
    pub depth: u16,
    /// Its `O_PATH` handle once the name is gone.
    pub gone: Option<Arc<OwnedFd>>,
}

/// What a directory has besides.
pub(crate) struct Dir {
    /// The lower directory that shows through.
    pub lower: Option<Arc<LowerDir>>,
    /// Its device and inode number, which `stat` goes on to show after copy-up.
    pub lower_id: Option<(u64, u64)>,
    pub upper_fd: Arc<FdSlot>,
    pub state: Mutex<State>,
}

/// Names of a directory.
#[derive(Default)]
pub(crate) struct State {
    /// Exactly the names of the upper directory; `None` until read, or where there is none. We are its only writer.
    pub names: Option<Names>,
    /// Children somebody holds.
    pub(super) children: HashMap<Box<[u8]>, Weak<Node>>,
    /// When to look for children nobody holds any more.
    pub(super) sweep_at: usize,
    /// The directory is marked as one with whiteouts.
    pub marked: bool,
    /// The list that what is created here gets; `None` where it is not known yet.
    #[allow(clippy::option_option, reason = "not known, known to be none, known")]
    pub default_acl: Option<Option<Arc<[u8]>>>,
}

impl Dir {
    pub fn new(lower: Option<Arc<LowerDir>>, lower_id: Option<(u64, u64)>) -> Self {
        Dir { lower, lower_id, upper_fd: Arc::default(), state: Mutex::default() }
    }
}

impl State {
    pub fn child(&self, name: &[u8]) -> Option<Arc<Node>> {
        self.children.get(name).and_then(Weak::upgrade)
    }

    pub fn add_child(&mut self, name: &[u8], node: &Arc<Node>) {
        if self.children.len() >= self.sweep_at.max(32) {
            self.children.retain(|_, node| node.strong_count() > 0);
            self.sweep_at = self.children.len() * 2;
        }
        self.children.insert(name.into(), Arc::downgrade(node));
    }

    pub fn remove_child(&mut self, name: &[u8]) {
        self.children.remove(name);
    }
}

/// An inode of the overlay.
pub struct Node {
    pub(crate) id: u64,
    pub(crate) me: Weak<Node>,
    pub(crate) fs: Arc<Fs>,
    /// Type bits as guests see them.
    pub(crate) kind: u32,
    pub(crate) place: Mutex<Place>,
    pub(crate) dir: Option<Box<Dir>>,
}

/// What the host says about an inode now.
pub(crate) struct Seen {
    pub attr: Attr,
    pub stat: Statx,
    pub over: Option<Override>,
    pub spot: Spot,
}

impl Node {
    pub(crate) fn new(fs: &Arc<Fs>, kind: u32, place: Place, dir: Option<Dir>) -> Arc<Node> {
        Arc::new_cyclic(|me| Node {
            id: fs.number(),
            me: me.clone(),
            fs: fs.clone(),
            kind,
            place: Mutex::new(place),
            dir: dir.map(Box::new),
        })
    }

    /// This node as the shared object it always is.
    pub(crate) fn arc(&self) -> Result<Arc<Node>> {
        self.me.upgrade().ok_or(Errno::ESTALE)
    }

    pub(crate) fn dir(&self) -> Result<&Dir> {
        self.dir.as_deref().ok_or(Errno::ENOTDIR)
    }

    pub(crate) fn is_upper(&self) -> bool {
        lock(&self.place).upper
    }

    pub(crate) fn is_gone(&self) -> bool {
        lock(&self.place).gone.is_some()
    }

    /// Handle of the upper directory. The caller knows that there is one.
    pub(crate) fn upper_fd(&self) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.held_fd()? {
            return Ok(fd);
        }
        // Up to the nearest directory whose handle is open, then down again: in loops, for guests make trees deeper than any
        // stack.
        let mut chain = vec![self.arc()?];
        let mut at = self.parent()?;
        let mut fd = loop {
            if let Some(fd) = at.held_fd()? {
                break fd;
            }
            let parent = at.parent()?;
            chain.push(std::mem::replace(&mut at, parent));
        };
        let mut below = chain.iter().rev();
        let far = below.len().saturating_sub(self.fs.cache.near());
        let mut names = Vec::with_capacity(far);
        for node in below.by_ref().take(far) {
            names.push((lock(&node.place).name.clone(), &node.dir()?.upper_fd));
        }
        fd = open_far(fd, names.into_iter(), &self.fs)?;
        for node in below {
            let name = lock(&node.place).name.clone();
            fd = self.fs.open_dir(&node.dir()?.upper_fd, &fd, &name)?;
        }
        Ok(fd)
    }

    /// The handle of the upper directory if it is open.
    fn held_fd(&self) -> Result<Option<Arc<OwnedFd>>> {
        if let Some(fd) = self.dir()?.upper_fd.get() {
            return Ok(Some(fd));
        }
        Ok(lock(&self.place).gone.clone())
    }

    fn parent(&self) -> Result<Arc<Node>> {
        lock(&self.place).parent.clone().ok_or(Errno::EIO)
    }

    /// Where the object is on the host, and whether in the upper tree.
    pub(crate) fn spot(&self) -> Result<(Spot, bool)> {
        let place = lock(&self.place);
        let whole = |fd| Spot { fd, name: Box::default() };
        if let Some(fd) = &place.gone {
            return Ok((whole(fd.clone()), place.upper));
        }
        if let Some(dir) = &self.dir {
            let slot = match (&dir.lower, place.upper) {
                (Some(lower), false) => &lower.slot,
                _ => &dir.upper_fd,
            };
            if let Some(fd) = slot.get() {
                return Ok((whole(fd), place.upper));
            }
        }
        let parent = place.parent.as_ref().ok_or(Errno::EIO)?;
        let fd = if place.upper {
            parent.upper_fd()?
        } else {
            let lower = parent.dir()?.lower.as_ref().ok_or(Errno::ESTALE)?;
            lower.layers().nth(place.depth.into()).ok_or(Errno::ESTALE)?.fd(&self.fs)?
        };
        Ok((Spot { fd, name: place.name.clone() }, place.upper))
    }

    /// Asks the host about the object. The tree is locked.
    pub(crate) fn see(&self) -> Result<Seen> {
        let (spot, upper) = self.spot()?;
        let stat = spot.at().statx()?;
        let (mut attr, over) = self.fs.attr(spot.at(), &stat, upper)?;
        self.adjust(&mut attr, upper);
        Ok(Seen { attr, stat, over, spot })
    }

    /// What differs between the current host file and the overlay's inode.
    fn adjust(&self, attr: &mut Attr, upper: bool) {
        if let Some(dir) = &self.dir
            && let (Some((dev, ino)), true) = (dir.lower_id, upper)
        {
            (attr.dev, attr.ino) = (dev, ino);
            // As overlayfs: subdirectories of merged directories are not counted.
            attr.nlink = 1;
        }
        if (self.dir.is_some() || !upper) && self.is_gone() {
            attr.nlink = 0;
        }
    }

    /// Runs `f` with the upper names, which are read first where they have not been.
    pub(crate) fn with_state<T>(&self, f: impl FnOnce(&mut State) -> T) -> Result<T> {
        let dir = self.dir()?;
        let needs = self.is_upper() && lock(&dir.state).names.is_none();
        let loaded = if needs { Some(self.load_names()?) } else { None };
        let mut state = lock(&dir.state);
        if let (Some((names, marked)), None) = (loaded, &state.names) {
            state.names = Some(names);
            state.marked = marked;
        }
        Ok(f(&mut state))
    }

    fn load_names(&self) -> Result<(Names, bool)> {
        if self.is_gone() {
            return Ok((Names::new(), false));
        }
        let fd = self.upper_fd()?;
        let at = At::new(&*fd, b"");
        let merged = self.dir()?.lower.is_some();
        let marked = merged && {
            let id = id_of(&at.statx()?);
            self.fs.store.get(at, id, OPAQUE)?.as_deref() == Some(b"x")
        };
        let mut names = Names::new();
        for entry in at.read_dir()? {
            let mut known = Entry { kind: entry.kind, ino: entry.ino };
            let file = At::new(&*fd, &entry.name);
            match entry.kind {
                libc::DT_REG | libc::DT_UNKNOWN => {
                    // A regular file may stand for something else: lookup or readdir will see.
                    known.kind = 0;
                    if (marked || self.fs.reused) && self.load_file(file, &mut known)? {
                        continue;
                    }
                }
                libc::DT_DIR => {
                    known.ino = 0;
                    if self.fs.reused && self.discard_unfinished(file, &file.statx()?)? {
                        continue;
                    }
                }
                // The whiteout of overlayfs proper, which a rename leaves in one step with what it moves.
                libc::DT_CHR if file.statx()?.stx_rdev_major == 0 => known.kind = WHT,
                _ => {
                    let id = (self.fs.upper_id.0, entry.ino);
                    (_, known.ino) = lock(&self.fs.copied).shown(id).unwrap_or(id);
                }
            }
            names.insert(entry.name.into_boxed_slice(), known);
        }
        Ok((names, marked))
    }

    /// Looks at a file of the upper directory that may be a whiteout, or unfinished:
    /// then it is removed, and true.
    fn load_file(&self, file: At<'_>, known: &mut Entry) -> Result<bool> {
        let stat = file.statx()?;
        if stat.stx_size != 0 {
            return Ok(false);
        }
        // One in a directory that is not marked was left by a rename that was killed.
        if self.fs.store.get(file, id_of(&stat), WHITEOUT)?.is_some() {
            known.kind = WHT;
            return Ok(false);
        }
        self.discard_unfinished(file, &stat)
    }

    /// Removes what was being made when the process of an earlier sandbox was killed.
    fn discard_unfinished(&self, file: At<'_>, stat: &Statx) -> Result<bool> {
        if !self.fs.reused || self.fs.upper_always || !self.fs.store.is_unfinished(file, stat)? {
            return Ok(false);
        }
        let is_dir = u32::from(stat.stx_mode) & S_IFMT == S_IFDIR;
        let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match rustix::fs::unlinkat(file.fd, file.name, flags) {
            Ok(()) => Ok(true),
            // A directory with something in it was finished.
            Err(rustix::io::Errno::NOTEMPTY) => Ok(false),
            Err(error) => Err(errno(error)),
        }
    }

    /// Whether the lower directory has `name`.
    pub(crate) fn lower_has(&self, name: &[u8]) -> Result<bool> {
        let Some(lower) = &self.dir()?.lower else { return Ok(false) };
        match self.fs.lower_find(lower, name) {
            Ok(found) => Ok(id_of(&found.stat) != self.fs.upper_id),
            Err(Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR | Errno::ENAMETOOLONG) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether `name` exists here, asking the host rather than a cache about lower names.
    pub(crate) fn exists(&self, name: &[u8]) -> Result<bool> {
        let entry = self.with_state(|s| s.names.as_ref().and_then(|n| n.get(name)).copied())?;
        match entry {
            Some(entry) => Ok(entry.kind != WHT),
            None => self.lower_has(name),
        }
    }

    /// Looks `name` up. The tree is locked, for reading at least.
    pub(crate) fn find(&self, name: &[u8]) -> Result<Arc<Node>> {
        let dir = self.dir()?;
        check_name(name)?;
        if self.is_gone() {
            return Err(Errno::ENOENT);
        }
        let (held, entry) = self
            .with_state(|s| (s.child(name), s.names.as_ref().and_then(|names| names.get(name)).copied()))?;
        if entry.is_some_and(|e| e.kind == WHT) {
            return Err(Errno::ENOENT);
        }
        if let Some(node) = held {
            return Ok(node);
        }
        let upper = entry.is_some();
        let (fd, stat, found) = if upper {
            let fd = self.upper_fd()?;
            let stat = At::new(&*fd, name).statx()?;
            (fd, stat, None)
        } else {
            let lower = dir.lower.as_ref().ok_or(Errno::ENOENT)?;
            let found = self.fs.lower_find(lower, name).map_err(hidden)?;
            (found.fd, found.stat, Some((found.dir, found.depth)))
        };
        let at = At::new(&*fd, name);
        if !upper && id_of(&stat) == self.fs.upper_id {
            // Our own upper directory, seen through the lower tree.
            return Err(Errno::ENOENT);
        }
        let (mut attr, _) = self.fs.attr(at, &stat, upper)?;
        let kind = attr.mode & S_IFMT;
        let depth = found.as_ref().map_or(0, |(_, depth)| *depth);
        let child = match (kind, found) {
            (S_IFDIR, None) => Some(self.child_of_upper(at, name, &stat)?),
            (S_IFDIR, Some((layer, depth))) => {
                let lower = self.fs.lower_child(layer, depth, at, dir.lower.as_ref())?;
                Some(Dir::new(Some(lower), Some(id_of(&stat))))
            }
            _ => None,
        };
        let place = Place { parent: Some(self.arc()?), name: name.into(), upper, depth, gone: None };
        let node = Node::new(&self.fs, kind, place, child);
        node.adjust(&mut attr, upper);
        let redirected = node.dir.as_ref().and_then(|d| d.lower.as_ref()).filter(|_| upper).map(|l| l.path());
        let node = self.with_state(|state| {
            if let Some(known) = state.names.as_mut().and_then(|names| names.get_mut(name)) {
                *known = Entry { kind: dtype(kind), ino: attr.ino };
            }
            match state.child(name) {
                Some(node) => node,
                None => {
                    state.add_child(name, &node);
                    node
                }
            }
        })?;
        if let Some(path) = redirected
            && dir.lower.as_ref().is_none_or(|here| here.path_of(name) != path)
        {
            self.fs.note_moved(path, &node);
        }
        fresh::set(node.id, attr);
        Ok(node)
    }

    /// The directory part of a child found at `at`, in the upper directory.
    fn child_of_upper(&self, at: At<'_>, name: &[u8], stat: &Statx) -> Result<Dir> {
        let here = &self.dir()?.lower;
        let (lower, lower_id) = if let Some(path) = self.fs.store.get(at, id_of(stat), REDIRECT)? {
            self.fs.lower_dir(&path)?
        } else if self.fs.store.get(at, id_of(stat), OPAQUE)?.as_deref() == Some(b"y") {
            (None, None)
        } else if let Some(lower) = here {
            self.fs.lower_dir_in(lower, name).unwrap_or_default()
        } else {
            (None, None)
        };
        Ok(Dir::new(lower, lower_id))
    }

    /// Entries of the lower directory; an unreadable one counts as empty.
    fn lower_entries(&self) -> Result<Vec<DirEntry>> {
        self.dir()?.lower.as_ref().map_or_else(|| Ok(Vec::new()), |lower| self.fs.lower_entries(lower))
    }

    /// All entries. The tree is locked.
    pub(crate) fn entries(&self) -> Result<Vec<DirEntry>> {
        if self.is_gone() {
            return Ok(Vec::new());
        }
        let names = self.with_state(|state| state.names.clone())?.unwrap_or_default();
        let mut out: Vec<DirEntry> = Vec::with_capacity(names.len());
        for (name, entry) in &names {
            let mut entry = *entry;
            if entry.kind == WHT {
                continue;
            }
            if entry.kind == 0 || entry.ino == 0 {
                let node = self.find(name)?;
                entry = Entry { kind: dtype(node.kind), ino: node.see()?.attr.ino };
            }
            out.push(DirEntry { ino: entry.ino, kind: entry.kind, name: name.to_vec() });
        }
        let hides_upper = |entry: &DirEntry| {
            entry.kind == libc::DT_DIR
                && entry.ino == self.fs.upper_id.1
                && self.lower_has(&entry.name) == Ok(false)
        };
        for mut entry in self.lower_entries()? {
            if names.contains_key(entry.name.as_slice()) || hides_upper(&entry) {
                continue;
            }
            if self.fs.lower_always && entry.kind == libc::DT_REG {
                entry.kind = libc::DT_UNKNOWN;
            }
            out.push(entry);
        }
        Ok(out)
    }

    /// Whether a directory has no entry. The tree is locked.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        let below = self.lower_entries()?;
        self.with_state(|state| {
            let Some(names) = &state.names else { return below.is_empty() };
            names.values().all(|e| e.kind == WHT) && below.iter().all(|e| names.contains_key(&*e.name))
        })
    }

    /// Path in the overlay, starting with `/`; `None` for what has no name any more.
    pub(crate) fn path(&self) -> Option<Vec<u8>> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut at = self.me.upgrade();
        while let Some(node) = at {
            let place = lock(&node.place);
            if place.gone.is_some() {
                return None;
            }
            if place.parent.is_some() {
                names.push(place.name.clone());
            }
            at = place.parent.clone();
        }
        if names.is_empty() {
            return Some(b"/".to_vec());
        }
        Some(names.iter().rev().flat_map(|name| [b"/", &name[..]].concat()).collect())
    }

    /// Whether `self` is `other` or inside it.
    pub(crate) fn is_within(&self, other: &Node) -> bool {
        if std::ptr::eq(self, other) {
            return true;
        }
        let mut at = lock(&self.place).parent.clone();
        while let Some(node) = at {
            if std::ptr::eq(&*node, other) {
                return true;
            }
            at = lock(&node.place).parent.clone();
        }
        false
    }
}

impl Node {
    fn take_parent(&mut self) -> Option<Arc<Node>> {
        self.place.get_mut().unwrap_or_else(PoisonError::into_inner).parent.take()
    }
}

impl Drop for Node {
    /// Drops the chain of parents in a loop: trees can be deeper than the stack.
    fn drop(&mut self) {
        let mut next = self.take_parent();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut node| node.take_parent());
        }
    }
}

/// What cannot be searched on the host does not exist inside.
pub(super) fn hidden(error: Errno) -> Errno {
    if matches!(error, Errno::EACCES | Errno::ENOTDIR) { Errno::ENOENT } else { error }
}

impl Fs {
    /// Attributes and override of the host object at `at`.
    pub(crate) fn attr(&self, at: At<'_>, stat: &Statx, upper: bool) -> Result<(Attr, Option<Override>)> {
        let over = if upper {
            self.store.override_of(at, stat, self.upper_always)?
        } else {
            crate::store::Store::Xattr.override_of(at, stat, self.lower_always).unwrap_or(None)
        };
        let mut attr = attr_of(stat, over.as_ref(), &self.map);
        if upper && over.is_none() && !self.upper_always && attr.mode & S_IFMT != libc::S_IFLNK {
            attr.mode &= !MARK;
        }
        if upper && let Some(shown) = lock(&self.copied).shown((attr.dev, attr.ino)) {
            (attr.dev, attr.ino) = shown;
        }
        Ok((attr, over))
    }
}
