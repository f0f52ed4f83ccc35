//! Handles that must not be host handles: open directories, `O_PATH` descriptors and texts made at open time.
//!
//! What the guest holds is a *placeholder*: for directories and `O_PATH` an empty host directory that is already removed, so
//! that no native call can reach anything through it, while `read` answers EISDIR and `lseek` keeps a position shared by
//! duplicates, as Linux has it; for texts a sealed memfd. The placeholder's device and inode number are the key to the
//! real object here. An inotify watch tells when the last copy of a placeholder, wherever it was passed, is closed. An open
//! directory's is then used again: it has one open file description at a time, whose end is `IN_CLOSE_NOWRITE`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::{DetachedMount, ProcMounts};
use nomina_kernel::vfs::{DirEntry, Path};
use rustix::fs::inotify;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, SealFlags, Timespec, Timestamps};

use super::lock::Mutex;
use super::mounts_poll::{MountsFile, MountsFiles};
use super::request::host;

/// What a placeholder stands for.
pub struct Handle {
    /// The object.
    pub path: Path,
    /// Open flags of the guest (`O_PATH`, `O_DIRECTORY` …).
    pub flags: u32,
    /// The detached tree that lives as long as the handle (`FMODE_NEED_UNMOUNT`).
    pub detached: Option<DetachedMount>,
    /// Entries as of the last rewind.
    pub entries: Mutex<Option<Arc<Vec<DirEntry>>>>,
    /// The text that follows the mounts, if that is what the placeholder is.
    pub mounts: Option<Arc<MountsFile>>,
    /// What holds the lock of the directory, while it is locked.
    lock: Mutex<Option<DirLock>>,
}

impl Handle {
    fn new(path: Path, flags: u32) -> Handle {
        Handle {
            path,
            flags,
            detached: None,
            entries: Mutex::default(),
            mounts: None,
            lock: Mutex::default(),
        }
    }
}

/// The `flock(2)` lock of one open directory. Every placeholder is an inode of its own, so a lock on it would meet no other. The
/// lock is therefore that of a file which stands for the directory, opened once for each placeholder.
struct DirLock {
    held: OwnedFd,
    /// The file, for others that open it.
    _file: Arc<OwnedFd>,
}

/// How many open directories may be locked: each costs the supervisor a descriptor or two.
const DIR_LOCKS: usize = 128;

type Key = (u64, u64);

#[derive(Default)]
struct Table {
    by_key: HashMap<Key, Arc<Handle>>,
    by_watch: HashMap<i32, Watched>,
    /// How many of `by_watch` are kept for further use.
    kept: usize,
}

/// What an event of inotify is about.
struct Watched {
    key: Key,
    /// The placeholder, if it is to be used again. Otherwise it goes with its last copy.
    again: Option<OwnedFd>,
    /// It goes with its one open file description, although we have it open.
    once: bool,
}

impl Table {
    fn forget(&mut self, watch: i32) -> Option<Watched> {
        let watched = self.by_watch.remove(&watch)?;
        self.kept -= usize::from(watched.again.is_some());
        Some(watched)
    }
}

/// All placeholders of a sandbox.
pub struct Handles {
    scratch: OwnedFd,
    scratch_path: PathBuf,
    inotify: OwnedFd,
    serial: AtomicUsize,
    generation: AtomicI64,
    blanks: Mutex<Vec<Blank>>,
    /// Taken before `blanks`.
    table: Mutex<Table>,
    /// Open views of mount tables.
    pub mounts: MountsFiles,
    /// The file that stands for a locked directory, by its device and inode number. Taken before a handle's `lock`.
    lock_files: Mutex<HashMap<Key, Weak<OwnedFd>>>,
}

/// A placeholder made ahead: an empty, removed directory that stands for nothing yet.
struct Blank {
    fd: OwnedFd,
    key: Key,
    watch: i32,
}

/// How many blanks are kept, below how many closed ones are looked for, and how few are made up again.
const BLANKS: usize = 48;
const FEW_BLANKS: usize = 24;
const TOO_FEW_BLANKS: usize = 8;
/// Most placeholders in guests' hands that are to be used again: each takes a descriptor of ours.
const MOST_KEPT: usize = 256;
/// Flags of an open directory that `F_GETFL` shows.
const SHOWN_FLAGS: OFlags =
    OFlags::DIRECTORY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::NOATIME);

/// How many handles may stand before closed ones are looked for at each new one.
const SWEEP_FROM: usize = 64;

impl Handles {
    /// Placeholders are made in `scratch`, a private directory (best on tmpfs).
    ///
    /// # Errors
    /// Those of `open(2)` and `inotify_init1(2)`.
    pub fn new(scratch: PathBuf) -> io::Result<Handles> {
        let dir =
            rustix::fs::open(&scratch, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        Ok(Handles {
            scratch: dir,
            scratch_path: scratch,
            inotify,
            serial: AtomicUsize::new(0),
            generation: AtomicI64::new(0),
            blanks: Mutex::default(),
            table: Mutex::default(),
            mounts: MountsFiles::default(),
            lock_files: Mutex::default(),
        })
    }

    /// Makes a placeholder for a directory or an `O_PATH` handle.
    ///
    /// # Errors
    /// Those of `mkdirat(2)` and `openat(2)`, such as `EMFILE`.
    pub fn open_path(&self, path: Path, flags: u32) -> io::Result<OwnedFd> {
        self.open_placeholder(path, flags, None)
    }

    /// Makes a placeholder for a detached tree, which goes with the last copy of it.
    ///
    /// # Errors
    /// As [`Handles::open_path`].
    pub fn open_detached(&self, tree: DetachedMount, flags: u32) -> io::Result<OwnedFd> {
        self.open_placeholder(tree.path(), flags, Some(tree))
    }

    fn open_placeholder(
        &self,
        path: Path,
        flags: u32,
        detached: Option<DetachedMount>,
    ) -> io::Result<OwnedFd> {
        if self.blanks.lock().unwrap().len() <= FEW_BLANKS {
            self.sweep_closed();
        }
        let spare = self.blanks.lock().unwrap().pop();
        let blank = spare.map_or_else(|| self.blank(), Ok)?;
        // The end of an `O_PATH` description is not told, only that of its file.
        let is_path = flags & libc::O_PATH as u32 != 0;
        let kind = if is_path { OFlags::PATH } else { OFlags::RDONLY };
        let shown = OFlags::from_bits_retain(flags) & SHOWN_FLAGS;
        let fd = rustix::fs::openat(&blank.fd, ".", kind | shown | OFlags::CLOEXEC, Mode::empty())?;
        let again = (!is_path).then_some(blank.fd);
        if !is_path {
            // Tells this description from those that the placeholder stood for before (`nomina_abi::ahead::Identity`).
            let time = Timespec { tv_sec: self.generation.fetch_add(1, Ordering::Relaxed) + 1, tv_nsec: 0 };
            rustix::fs::futimens(&fd, &Timestamps { last_access: time, last_modification: time })?;
        }
        let handle = Handle { detached, ..Handle::new(path, flags) };
        self.insert(blank.watch, Watched { key: blank.key, again, once: false }, handle);
        Ok(fd)
    }

    /// Makes a placeholder that stands for nothing yet.
    fn blank(&self) -> io::Result<Blank> {
        let name = format!("h{}", self.serial.fetch_add(1, Ordering::Relaxed));
        rustix::fs::mkdirat(&self.scratch, &name, Mode::RWXU)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.scratch, &name, flags, Mode::empty());
        let removed = rustix::fs::unlinkat(&self.scratch, &name, AtFlags::REMOVEDIR);
        let fd = fd?;
        removed?;
        let (key, watch) = self.watch(&fd, inotify::WatchFlags::CLOSE_NOWRITE)?;
        Ok(Blank { fd, key, watch })
    }

    /// Whether [`Handles::make_blanks`] should be called.
    pub fn is_short_of_blanks(&self) -> bool {
        matches!(self.blanks.lock().unwrap().len(), 0 | TOO_FEW_BLANKS)
    }

    /// Makes placeholders ahead. What fails here is tried again, and told, when one is needed.
    pub fn make_blanks(&self) {
        while self.blanks.lock().unwrap().len() < BLANKS {
            let Ok(blank) = self.blank() else { return };
            self.blanks.lock().unwrap().push(blank);
        }
    }

    /// Makes a sealed, read-only file with `text`, which answers for `path` in `fstat` and the like.
    ///
    /// # Errors
    /// Those of `memfd_create(2)` and `open(2)`.
    pub fn open_text(&self, text: &[u8], path: Path, flags: u32) -> io::Result<OwnedFd> {
        use rustix::fs::MemfdFlags;
        let memfd = rustix::fs::memfd_create("nomina-text", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut at = 0;
        while at < text.len() {
            at += rustix::io::write(&memfd, &text[at..])?;
        }
        rustix::fs::fcntl_add_seals(
            &memfd,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )?;
        let link = format!("/proc/self/fd/{}", memfd.as_raw_fd());
        let fd = rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        self.register(&fd, path, flags)?;
        Ok(fd)
    }

    /// Lets `fd` answer for `path`.
    ///
    /// # Errors
    /// Those of `fstat(2)` and `inotify_add_watch(2)` (`ENOSPC`: `fs.inotify.max_user_watches`).
    pub fn register(&self, fd: &OwnedFd, path: Path, flags: u32) -> io::Result<()> {
        let (key, watch) = self.watch(fd, inotify::WatchFlags::empty())?;
        self.insert(watch, Watched { key, again: None, once: false }, Handle::new(path, flags));
        Ok(())
    }

    /// Makes a file whose text follows the mounts. Where too many are open its text stays as it is.
    ///
    /// # Errors
    /// As [`Handles::open_text`].
    pub fn open_mounts(&self, mounts: ProcMounts, path: Path, flags: u32) -> io::Result<OwnedFd> {
        self.sweep_closed();
        if self.mounts.is_full() {
            return self.open_text(&mounts.text(), path, flags);
        }
        let (file, fd) = MountsFile::open(mounts)?;
        // We keep the file open, so its end is not told, only that of the guest's open file description.
        let (key, watch) = self.watch(&fd, inotify::WatchFlags::CLOSE_NOWRITE)?;
        self.mounts.insert(&file);
        let handle = Handle { mounts: Some(file), ..Handle::new(path, flags) };
        self.insert(watch, Watched { key, again: None, once: true }, handle);
        Ok(fd)
    }

    /// Asks to be told when the file of `fd` is gone, and of other events.
    fn watch(&self, fd: &OwnedFd, others: inotify::WatchFlags) -> io::Result<(Key, i32)> {
        let stat = rustix::fs::fstat(fd)?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let watch = inotify::add_watch(&self.inotify, link, inotify::WatchFlags::DELETE_SELF | others)?;
        Ok(((stat.st_dev, stat.st_ino), watch))
    }

    fn insert(&self, watch: i32, mut watched: Watched, handle: Handle) {
        let mut table = self.table.lock().unwrap();
        let gone = if table.by_key.len() >= SWEEP_FROM { self.sweep(&mut table) } else { Vec::new() };
        if table.kept >= MOST_KEPT {
            watched.again = None;
        }
        table.kept += usize::from(watched.again.is_some());
        table.by_key.insert(watched.key, Arc::new(handle));
        table.by_watch.insert(watch, watched);
        drop(table);
        drop(gone);
    }

    /// What `fd` stands for, if it is a placeholder.
    pub fn find(&self, fd: BorrowedFd<'_>) -> Option<Arc<Handle>> {
        let stat = rustix::fs::fstat(fd).ok()?;
        self.find_key(stat.st_dev, stat.st_ino)
    }

    /// As [`Handles::find`], by device and inode number.
    pub fn find_key(&self, dev: u64, ino: u64) -> Option<Arc<Handle>> {
        self.table.lock().unwrap().by_key.get(&(dev, ino)).cloned()
    }

    /// Forgets a handle that [`Handles::register`] was told of, whose file lives on.
    pub fn forget(&self, key: Key) {
        let gone = self.table.lock().unwrap().by_key.remove(&key);
        drop(gone);
    }

    /// `flock(2)` of the open directory `handle`, whose device and inode number is `dir`. Never waits.
    ///
    /// # Errors
    /// `EWOULDBLOCK`: another has it. `EINVAL`: no such operation. `ENOLCK`: too many open directories are locked.
    pub fn flock(&self, handle: &Handle, dir: Key, op: i32) -> Result<()> {
        let op = match op & !libc::LOCK_NB {
            libc::LOCK_SH => FlockOperation::NonBlockingLockShared,
            libc::LOCK_EX => FlockOperation::NonBlockingLockExclusive,
            libc::LOCK_UN => FlockOperation::NonBlockingUnlock,
            _ => return Err(Errno::EINVAL),
        };
        // Who closed a directory has let go of it.
        self.sweep_closed();
        let mut files = self.lock_files.lock().unwrap();
        let mut lock = handle.lock.lock().unwrap();
        if op == FlockOperation::NonBlockingUnlock {
            *lock = None;
            return Ok(());
        }
        if lock.is_none() {
            files.retain(|_, file| file.strong_count() > 0);
            if files.values().map(Weak::strong_count).sum::<usize>() >= DIR_LOCKS {
                return Err(Errno::ENOLCK);
            }
            let file = match files.get(&dir).and_then(Weak::upgrade) {
                Some(file) => file,
                None => {
                    let file = rustix::fs::memfd_create("nomina-lock", rustix::fs::MemfdFlags::CLOEXEC);
                    let file = Arc::new(file.map_err(host)?);
                    files.insert(dir, Arc::downgrade(&file));
                    file
                }
            };
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            let held = rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            *lock = Some(DirLock { held: held.map_err(host)?, _file: file });
        }
        let held = lock.as_ref().ok_or(Errno::ENOLCK)?;
        rustix::fs::flock(&held.held, op).map_err(host).inspect_err(|_| *lock = None)
    }

    /// Forgets what was closed, so that it keeps no mount busy.
    pub fn sweep_closed(&self) {
        let mut table = self.table.lock().unwrap();
        let gone = self.sweep(&mut table);
        drop(table);
        // Dropped without the lock: the last reference to a file system may go with them.
        drop(gone);
    }

    /// Forgets what was closed, and keeps placeholders that can be used again.
    fn sweep(&self, table: &mut Table) -> Vec<Arc<Handle>> {
        let mut gone = Vec::new();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        while let Ok(event) = reader.next() {
            let (events, watch) = (event.events(), event.wd());
            let ends = events.intersects(inotify::ReadFlags::DELETE_SELF | inotify::ReadFlags::IGNORED);
            let closed = events.intersects(inotify::ReadFlags::CLOSE_NOWRITE)
                && table.by_watch.get(&watch).is_some_and(|watched| watched.again.is_some() || watched.once);
            if (ends || closed)
                && let Some(Watched { key, again, .. }) = table.forget(watch)
            {
                gone.extend(table.by_key.remove(&key));
                let mut blanks = self.blanks.lock().unwrap();
                // One too many goes, and with it its file.
                if let Some(fd) = again.filter(|_| closed && blanks.len() < BLANKS) {
                    blanks.push(Blank { fd, key, watch });
                }
            }
        }
        gone
    }

    /// Removes the scratch directory: the sandbox has ended.
    pub fn remove_scratch(&self) {
        crate::sandbox::scratch::remove_tree(&self.scratch_path);
    }
}
