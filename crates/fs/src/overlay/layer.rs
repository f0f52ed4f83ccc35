//! What all objects of one overlay share: its directories on the host, their cached handles, and the bookkeeping names.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};

use crate::at::{ALWAYS, At, errno, id_of};
use crate::fifo::Fifos;
use crate::overlay::node::Node;
use crate::overlay::stack::Stacked;
use crate::override_stat::IdMap;
use crate::store::Store;
use crate::tmpfs::Space;

/// On a zero-size file: the name is deleted (overlayfs with `userxattr`, Linux 6.7).
pub(crate) const WHITEOUT: &[u8] = b"user.overlay.whiteout";
/// On a directory: `y`, nothing of the lower directory shows; `x`, some names in it may be whiteouts.
pub(crate) const OPAQUE: &[u8] = b"user.overlay.opaque";
/// On a directory: the path of the lower directory it is merged with, which is not the one of the same name.
pub(crate) const REDIRECT: &[u8] = b"user.overlay.redirect";
/// On a file: owner and mode were copied up, the data could not be read.
pub(crate) const NO_DATA: &[u8] = b"user.nomina.nodata";
/// On the upper root: this directory was filled by us, so that marks can be relied on.
pub(crate) const UPPER_ROOT: &[u8] = b"user.nomina.upper";

/// Locks a mutex. A panic elsewhere leaves every structure here usable: they are caches of what the host holds.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The `O_PATH` handle of a directory while it is cached.
#[derive(Default)]
pub(crate) struct FdSlot {
    fd: Mutex<Option<Arc<OwnedFd>>>,
    used: AtomicBool,
}

impl FdSlot {
    /// The handle, if cached.
    pub fn get(&self) -> Option<Arc<OwnedFd>> {
        let fd = lock(&self.fd).clone();
        if fd.is_some() {
            self.used.store(true, Ordering::Relaxed);
        }
        fd
    }

    /// A slot whose handle is never given up.
    pub fn pinned(fd: Arc<OwnedFd>) -> Arc<FdSlot> {
        Arc::new(FdSlot { fd: Mutex::new(Some(fd)), used: AtomicBool::new(true) })
    }
}

/// Bounds the number of cached directory handles: second chance in the order of opening.
pub(crate) struct FdCache {
    limit: usize,
    queue: Mutex<VecDeque<Weak<FdSlot>>>,
}

impl FdCache {
    /// Of a long way down, the handles of so many last directories are kept: who climbs up again asks for them next.
    pub fn near(&self) -> usize {
        self.limit / 2
    }

    pub fn new(limit: usize) -> Self {
        FdCache { limit: limit.max(8), queue: Mutex::default() }
    }

    /// Caches `fd` in `slot`, giving up the handles longest unused.
    pub fn put(&self, slot: &Arc<FdSlot>, fd: Arc<OwnedFd>) {
        let mut queue = lock(&self.queue);
        if lock(&slot.fd).replace(fd).is_none() {
            queue.push_back(Arc::downgrade(slot));
        }
        let mut chances = queue.len();
        while queue.len() > self.limit {
            let Some(weak) = queue.pop_front() else { break };
            let Some(victim) = weak.upgrade() else { continue };
            if chances > 0 && victim.used.swap(false, Ordering::Relaxed) {
                chances -= 1;
                queue.push_back(weak);
            } else {
                lock(&victim.fd).take();
            }
        }
    }

    /// Gives up every handle: the process is out of descriptors.
    pub fn shrink(&self) {
        for slot in lock(&self.queue).drain(..).filter_map(|weak| weak.upgrade()) {
            lock(&slot.fd).take();
        }
    }
}

/// Opens a long way down with few host calls, keeping no handle but the last: what lies between would only push others out of
/// the cache. In a tree of 30,000 levels every step up would otherwise open thousands of directories.
pub(crate) fn open_far<'a>(
    from: Arc<OwnedFd>,
    names: impl Iterator<Item = (Box<[u8]>, &'a Arc<FdSlot>)>,
    fs: &Fs,
) -> Result<Arc<OwnedFd>> {
    let mut fd = from;
    let mut names = names.peekable();
    while names.peek().is_some() {
        let mut path = Vec::new();
        let mut steps = Vec::new();
        while let Some((name, slot)) =
            names.next_if(|(name, _)| path.len() + name.len() < libc::PATH_MAX as usize - 2)
        {
            path.extend_from_slice(&name);
            path.push(b'/');
            steps.push((name, slot));
        }
        path.pop();
        let flags = OFlags::PATH | OFlags::DIRECTORY | ALWAYS;
        // As one name at a time: no link is followed, nothing above is reached.
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
        fd = match rustix::fs::openat2(&*fd, &*path, flags, Mode::empty(), resolve) {
            Ok(far) => Arc::new(far),
            // Not there on this host, or not for us, or something changes: what one step says is the answer.
            Err(_) => steps.iter().try_fold(fd, |fd, (name, slot)| fs.open_dir(slot, &fd, name))?,
        };
    }
    Ok(fd)
}

/// A directory of the lower tree. Its place never changes, whatever guests do.
pub(crate) struct LowerDir {
    parent: Option<Arc<LowerDir>>,
    name: Box<[u8]>,
    pub slot: Arc<FdSlot>,
    pub(super) stacked: Option<Box<Stacked>>,
}

impl LowerDir {
    pub fn root(fd: Arc<OwnedFd>, stacked: Option<Stacked>) -> Arc<LowerDir> {
        let (slot, stacked) = (FdSlot::pinned(fd), stacked.map(Box::new));
        Arc::new(LowerDir { parent: None, name: Box::default(), slot, stacked })
    }

    /// The directory `name` of a lower tree of one layer.
    pub fn child(self: &Arc<LowerDir>, name: &[u8]) -> Arc<LowerDir> {
        self.child_over(name, None)
    }

    /// The directory `name` of this layer, with what it is merged with.
    pub(super) fn child_over(self: &Arc<LowerDir>, name: &[u8], stacked: Option<Stacked>) -> Arc<LowerDir> {
        let (parent, stacked) = (Some(self.clone()), stacked.map(Box::new));
        Arc::new(LowerDir { parent, name: name.into(), slot: Arc::default(), stacked })
    }

    /// Its `O_PATH` handle, opened one name at a time and never through a symbolic link.
    pub fn fd(&self, fs: &Fs) -> Result<Arc<OwnedFd>> {
        if let Some(fd) = self.slot.get() {
            return Ok(fd);
        }
        // In loops: a tree may be deeper than the stack.
        let mut chain = vec![self];
        let mut at = self.parent.as_ref().ok_or(Errno::EIO)?;
        let mut fd = loop {
            if let Some(fd) = at.slot.get() {
                break fd;
            }
            chain.push(at);
            at = at.parent.as_ref().ok_or(Errno::EIO)?;
        };
        let mut below = chain.into_iter().rev();
        let far = below.len().saturating_sub(fs.cache.near());
        fd = open_far(fd, below.by_ref().take(far).map(|dir| (dir.name.clone(), &dir.slot)), fs)?;
        for dir in below {
            fd = fs.open_dir(&dir.slot, &fd, &dir.name)?;
        }
        Ok(fd)
    }

    /// Path from the lower root, `/` for the root itself.
    pub fn path(&self) -> Vec<u8> {
        if let Some(stacked) = &self.stacked {
            return stacked.path.clone();
        }
        let chain = std::iter::successors(Some(self), |dir| dir.parent.as_deref());
        let mut names: Vec<&[u8]> =
            chain.filter(|dir| dir.parent.is_some()).map(|dir| &dir.name[..]).collect();
        if names.is_empty() {
            return b"/".to_vec();
        }
        names.reverse();
        names.iter().flat_map(|name| [b"/", *name].concat()).collect()
    }
}

impl Drop for LowerDir {
    /// Drops the chain of parents in a loop.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(parent) = next {
            next = Arc::into_inner(parent).and_then(|mut dir| dir.parent.take());
        }
    }
}

/// The overlay as its inodes see it. Lock order: `tree`, then a node's `place` (children before parents), then a
/// directory's `state`, then the tables here.
pub(crate) struct Fs {
    pub map: IdMap,
    pub store: Store,
    pub work: OwnedFd,
    /// Root of the lower tree.
    pub lower: Option<Arc<LowerDir>>,
    pub upper_id: (u64, u64),
    /// Files of the lower tree may carry overrides without marks.
    pub lower_always: bool,
    /// Files of the upper tree may carry overrides without marks (it was filled by another tool).
    pub upper_always: bool,
    /// The upper tree was filled before this process began, perhaps by one that was killed.
    pub reused: bool,
    /// The upper tree is kept: what is copied up is on disk before it takes the lower file's place.
    pub durable: bool,
    /// Some file of the upper tree may be [`NO_DATA`].
    pub any_no_data: AtomicBool,
    /// Names and layers: read to look at them, written to change them. Never held while data is copied.
    pub tree: RwLock<()>,
    pub cache: FdCache,
    pub fifos: Fifos,
    /// What the files of a tmpfs are charged to.
    pub space: Option<Arc<Space>>,
    /// Which lower file is the origin of which upper one, for handles of the lower file that guests still hold.
    pub copied: Mutex<Copied>,
    /// Lower directories whose place in the overlay is not their own, after a rename. Emptied when the overlay goes,
    /// as the nodes hold this structure in turn.
    pub moved: Mutex<Vec<(Vec<u8>, Arc<Node>)>>,
    /// The root, for those who have only a node.
    pub root: OnceLock<Weak<Node>>,
    next: AtomicU64,
}

/// Files copied up, by device and inode number.
#[derive(Default)]
pub(crate) struct Copied {
    copy: HashMap<(u64, u64), (u64, u64)>,
    origin: HashMap<(u64, u64), Origin>,
}

struct Origin {
    lower: (u64, u64),
    shown: bool,
}

impl Copied {
    /// With `shown` the copy goes on to show the device and inode number of the lower file.
    pub fn insert(&mut self, lower: (u64, u64), upper: (u64, u64), shown: bool) {
        self.copy.insert(lower, upper);
        self.origin.insert(upper, Origin { lower, shown });
    }

    /// The device and inode number that an upper file shows, where these are not its own.
    pub fn shown(&self, upper: (u64, u64)) -> Option<(u64, u64)> {
        self.origin.get(&upper).filter(|origin| origin.shown).map(|origin| origin.lower)
    }

    /// The copy of a lower file.
    pub fn of(&self, lower: (u64, u64)) -> Option<(u64, u64)> {
        self.copy.get(&lower).copied()
    }
}

/// What [`super::OverlayOptions`] decides about an [`Fs`].
pub(crate) struct FsParts {
    pub map: IdMap,
    pub store: Store,
    pub work: OwnedFd,
    pub lower: Option<Arc<LowerDir>>,
    pub upper_id: (u64, u64),
    pub lower_always: bool,
    pub upper_always: bool,
    pub reused: bool,
    pub durable: bool,
    pub max_fds: usize,
    pub space: Option<Arc<Space>>,
}

impl Fs {
    pub fn new(parts: FsParts) -> Self {
        Fs {
            map: parts.map,
            store: parts.store,
            work: parts.work,
            lower: parts.lower,
            upper_id: parts.upper_id,
            lower_always: parts.lower_always,
            upper_always: parts.upper_always,
            reused: parts.reused,
            durable: parts.durable,
            any_no_data: AtomicBool::new(parts.reused),
            tree: RwLock::new(()),
            cache: FdCache::new(parts.max_fds),
            fifos: Fifos::default(),
            space: parts.space,
            copied: Mutex::default(),
            moved: Mutex::default(),
            root: OnceLock::new(),
            next: AtomicU64::new(1),
        }
    }

    pub fn read(&self) -> RwLockReadGuard<'_, ()> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens directory `name` below `parent` and caches the handle in `slot`.
    pub fn open_dir(&self, slot: &Arc<FdSlot>, parent: &OwnedFd, name: &[u8]) -> Result<Arc<OwnedFd>> {
        let at = At::new(parent, name);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = match at.open(flags) {
            Err(Errno::EMFILE | Errno::ENFILE) => {
                self.cache.shrink();
                at.open(flags)
            }
            other => other,
        };
        let fd = Arc::new(fd?);
        self.cache.put(slot, fd.clone());
        Ok(fd)
    }

    /// A number no other object of this overlay has.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Charges a new name to the instance's account, if it has one. `ENOSPC`.
    pub fn charge_inode(&self) -> Result<()> {
        self.space.as_ref().map_or(Ok(()), |space| space.charge_inode())
    }

    /// Takes back what [`Fs::charge_inode`] charged.
    pub fn free_inode(&self) {
        if let Some(space) = &self.space {
            space.free_inode();
        }
    }

    /// `at` is about to lose a name. True when it will be taken off the account as soon as nobody has it open; otherwise the
    /// caller does so once the name is gone.
    pub fn loses_name(&self, at: At<'_>) -> bool {
        let Some(space) = &self.space else { return false };
        let Ok(stat) = at.statx() else { return false };
        let file = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFREG;
        file && stat.stx_nlink == 1 && space.loses_name(at, stat.stx_ino)
    }

    /// A name in the work directory that nobody uses.
    pub fn temp_name(&self) -> Vec<u8> {
        format!("t{}", self.number()).into_bytes()
    }

    /// Removes a name of the work directory; what cannot be removed is cleaned at the next start.
    pub fn discard(&self, name: &[u8]) {
        if rustix::fs::unlinkat(&self.work, name, AtFlags::empty()).is_err() {
            let _ = rustix::fs::unlinkat(&self.work, name, AtFlags::REMOVEDIR);
        }
    }

    /// Removes a directory of whiteouts from the work directory, as [`Fs::discard`].
    pub fn discard_dir(&self, name: &[u8]) {
        if let Ok(dir) = At::new(&self.work, name).open_path() {
            for entry in At::new(&dir, b"").read_dir().unwrap_or_default() {
                let _ = rustix::fs::unlinkat(&dir, &entry.name, AtFlags::empty());
            }
        }
        self.discard(name);
    }

    /// Forgets all about an upper file: called for new ones, whose inode number may have been another's before.
    pub fn forget(&self, id: (u64, u64)) {
        self.store.forget(id);
        let mut copied = lock(&self.copied);
        if let Some(origin) = copied.origin.remove(&id) {
            copied.copy.remove(&origin.lower);
        }
    }

    /// Makes a new empty file in the work directory.
    pub fn temp_file(&self, name: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | ALWAYS;
        let fd = rustix::fs::openat(&self.work, name, flags, Mode::from_raw_mode(0o600)).map_err(errno)?;
        self.forget(id_of(&At::new(&fd, b"").statx()?));
        Ok(fd)
    }

    /// Links the one whiteout inode to a new name in the work directory.
    pub fn temp_whiteout(&self) -> Result<Vec<u8>> {
        const NAME: &[u8] = b"whiteout";
        let temp = self.temp_name();
        let link =
            || rustix::fs::linkat(&self.work, NAME, &self.work, &temp, AtFlags::empty()).map_err(errno);
        match link() {
            Ok(()) => return Ok(temp),
            Err(Errno::EMLINK) => self.discard(NAME),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        let file = self.temp_file(NAME)?;
        let id = id_of(&At::new(&file, b"").statx()?);
        self.store.set(At::new(&file, b""), id, WHITEOUT, b"")?;
        link()?;
        Ok(temp)
    }

    /// The host object behind a FIFO or socket placeholder with inode number `ino`: a real FIFO or socket cannot carry
    /// the override attribute, so it stands in the work directory.
    pub fn companion_name(ino: u64) -> Vec<u8> {
        format!("node-{ino}").into_bytes()
    }

    /// Name of the real FIFO of a placeholder, made on first use.
    pub fn fifo(&self, ino: u64) -> Result<Vec<u8>> {
        let name = Fs::companion_name(ino);
        match rustix::fs::mkfifoat(self.work.as_fd(), &name, Mode::from_raw_mode(0o600)).map_err(errno) {
            Ok(()) | Err(Errno::EEXIST) => Ok(name),
            Err(error) => Err(error),
        }
    }
}
