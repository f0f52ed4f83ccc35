//! How much a tmpfs instance holds and may hold: `struct shmem_sb_info`.
//!
//! In Linux every page and every inode is charged to the instance before it exists. Here inodes are (all names are made by
//! this process), pages are not: guests write natively, to files of the host. So a write is looked at as soon as it has come
//! back ([`Space::written`], called for handles that report their writes): if it has made the instance too large, what is
//! too much is cut off again, and the guest sees a short write or `ENOSPC`, as if there had been no room.
//!
//! What that does not hold back: pages written through a memory map or into a hole of a file, and writes by a thread that
//! neither opened the file nor was executed with it open. They count, and the next write that makes a file longer fails.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nomina_kernel::vfs::StatFs;
use nomina_kernel::{Errno, Result};
use rustix::fs::{SeekFrom, Stat, inotify};

use super::options::{TmpfsOptions, default_blocks};
use crate::at::{At, errno};

/// Size of a block.
pub const PAGE: u64 = 4096;
/// Entries of a tree that `statfs(2)` looks at; of a larger one it tells what is known.
const WALK_MAX: usize = 65536;

/// A file that has been open for writing.
#[derive(Clone, Copy, Default)]
struct Held {
    pages: u64,
    size: u64,
}

struct State {
    options: TmpfsOptions,
    /// 0: no limit.
    max_pages: u64,
    /// 0: no limit.
    max_inodes: u64,
    pages: u64,
    inodes: u64,
    files: HashMap<u64, Held>,
    /// Tells when a file without a name is closed for the last time.
    closed: Option<OwnedFd>,
    /// Inode numbers by watch.
    nameless: HashMap<i32, u64>,
}

/// The account of one instance.
pub struct Space {
    is_ramfs: bool,
    state: Mutex<State>,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.lock();
        write!(
            f,
            "Space {{ {} of {} pages, {} of {} inodes }}",
            state.pages, state.max_pages, state.inodes, state.max_inodes
        )
    }
}

fn pages_of(stat: &Stat) -> u64 {
    // Blocks of the host that hold no data of the file (extents, attributes) are not the guest's.
    (stat.st_blocks as u64).div_ceil(PAGE / 512).min((stat.st_size as u64).div_ceil(PAGE))
}

impl Space {
    /// With the limits of `options`.
    pub fn new(options: &TmpfsOptions) -> Space {
        Space::with(
            options,
            options.blocks.unwrap_or(default_blocks()),
            options.inodes.unwrap_or(default_blocks()),
        )
    }

    /// A ramfs: no limit at all.
    pub fn unlimited(options: &TmpfsOptions) -> Space {
        Space { is_ramfs: true, ..Space::with(options, 0, 0) }
    }

    fn with(options: &TmpfsOptions, max_pages: u64, max_inodes: u64) -> Space {
        let state = State {
            options: options.clone(),
            max_pages,
            max_inodes,
            pages: 0,
            // The root.
            inodes: 1,
            files: HashMap::new(),
            closed: None,
            nameless: HashMap::new(),
        };
        Space { is_ramfs: false, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether writes have to be looked at.
    pub fn is_limited(&self) -> bool {
        self.lock().is_limited()
    }

    /// Bytes that are left, `None` without a limit.
    pub fn left(&self) -> Option<u64> {
        let state = self.lock();
        state.is_limited().then(|| state.max_pages.saturating_sub(state.pages) * PAGE)
    }

    /// Charges a new name: `shmem_reserve_inode`. A further name of a file costs as much as a new file.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub(crate) fn charge_inode(&self) -> Result<()> {
        let mut state = self.lock();
        if state.max_inodes != 0 && state.inodes >= state.max_inodes {
            state.forget_closed();
            if state.inodes >= state.max_inodes {
                return Err(Errno::ENOSPC);
            }
        }
        state.inodes += 1;
        Ok(())
    }

    /// Takes back what [`Space::charge_inode`] charged: `shmem_free_inode`.
    pub(crate) fn free_inode(&self) {
        let mut state = self.lock();
        state.inodes = state.inodes.saturating_sub(1);
    }

    /// The file `at` is about to lose its only name: it counts until nobody has it open. False when that cannot be told.
    pub(crate) fn loses_name(&self, at: At<'_>, ino: u64) -> bool {
        let mut state = self.lock();
        state.is_limited() && state.watch_closing(at, ino)
    }

    /// A file without a name is open: it counts until it is closed. False when that cannot be told.
    pub(crate) fn is_nameless(&self, file: &OwnedFd, ino: u64) -> bool {
        self.loses_name(At::new(file, b""), ino)
    }

    /// A file is open for writing, or has another size: it is accounted for, in an instance whose writes are looked at.
    ///
    /// # Errors
    /// Those of `fstat(2)`.
    pub fn opened(&self, file: &OwnedFd) -> Result<()> {
        let mut state = self.lock();
        if state.is_limited() {
            // Its inode number may have been that of a file that is gone.
            state.forget_closed();
            let stat = rustix::fs::fstat(file).map_err(errno)?;
            state.count(&stat);
        }
        Ok(())
    }

    /// What a native call that may have written to `file` shall have returned, when the host returned `native`. Where the
    /// instance has become too large, what the call has put at the end of the file is cut off. `first`: no call before it has
    /// gone without report.
    ///
    /// # Errors
    /// `ENOSPC` when nothing of the write is left; those of `fstat(2)` and `ftruncate(2)`.
    pub fn written(&self, file: &OwnedFd, native: i64, first: bool) -> Result<i64> {
        let mut state = self.lock();
        let stat = rustix::fs::fstat(file).map_err(errno)?;
        let Some(before) = state.count(&stat) else { return Ok(native) };
        let (size, pages) = (stat.st_size as u64, pages_of(&stat));
        let mut over = state.over();
        if over > 0 {
            state.forget_closed();
            over = state.over();
        }
        if over == 0 || pages <= before.pages || size <= before.size || native < 0 || (native == 0 && !first)
        {
            return Ok(native);
        }
        // `fallocate(2)` gives all or nothing. Nothing is cut but what this call has written.
        let start =
            if native > 0 { before.size.max(size.saturating_sub(native as u64)) } else { before.size };
        let left = if native > 0 { size.div_ceil(PAGE).saturating_sub(over) * PAGE } else { 0 };
        let left = left.clamp(start, size);
        rustix::fs::ftruncate(file, left).map_err(errno)?;
        let cut = (size - left) as i64;
        // A write at the file's position has moved it to the end.
        if rustix::fs::seek(file, SeekFrom::Current(0)).is_ok_and(|position| position == size) {
            rustix::fs::seek(file, SeekFrom::Start(left)).map_err(errno)?;
        }
        let stat = rustix::fs::fstat(file).map_err(errno)?;
        state.count(&stat);
        if native > cut { Ok(native - cut) } else { Err(Errno::ENOSPC) }
    }

    /// `mount -o remount`: `shmem_reconfigure`. `limits` are the new limits on pages and inodes, where they were given.
    ///
    /// # Errors
    /// The reason, for which the errno is `EINVAL`.
    pub fn reconfigure(&self, limits: (Option<u64>, Option<u64>)) -> std::result::Result<(), &'static str> {
        let mut state = self.lock();
        state.forget_closed();
        if let Some(blocks) = limits.0.filter(|&blocks| blocks != 0) {
            if state.max_pages == 0 {
                return Err("Cannot retroactively limit size");
            }
            if state.pages > blocks {
                return Err("Too small a size for current use");
            }
        }
        if let Some(inodes) = limits.1.filter(|&inodes| inodes != 0) {
            if state.max_inodes == 0 {
                return Err("Cannot retroactively limit inodes");
            }
            if state.inodes > inodes {
                return Err("Too few inodes for current use");
            }
        }
        if let Some(blocks) = limits.0 {
            (state.max_pages, state.options.blocks) = (blocks, Some(blocks));
        }
        if let Some(inodes) = limits.1 {
            (state.max_inodes, state.options.inodes) = (inodes, Some(inodes));
        }
        Ok(())
    }

    /// `statfs(2)` of an instance whose files are below `upper`.
    pub(crate) fn statfs(&self, upper: &OwnedFd, fsid: u64) -> StatFs {
        const TMPFS_MAGIC: u64 = 0x0102_1994;
        const RAMFS_MAGIC: u64 = 0x8584_58f6;
        let magic = if self.is_ramfs { RAMFS_MAGIC } else { TMPFS_MAGIC };
        let mut stat = StatFs { magic, bsize: PAGE, namelen: 255, fsid, ..StatFs::default() };
        if self.is_ramfs {
            return stat;
        }
        let mut walked = HashMap::new();
        let mut room = WALK_MAX;
        let whole = walk(At::new(upper, b"."), &mut walked, &mut room).is_ok();
        let mut state = self.lock();
        state.forget_closed();
        if whole {
            state.settle(walked);
        }
        let free = state.max_pages.saturating_sub(state.pages);
        if state.max_pages != 0 {
            stat.blocks = (state.max_pages, free, free);
        }
        if state.max_inodes != 0 {
            stat.files = (state.max_inodes, state.max_inodes.saturating_sub(state.inodes));
        }
        stat
    }

    /// What mountinfo shows.
    pub(crate) fn show_options(&self) -> String {
        let state = self.lock();
        if !self.is_ramfs {
            return state.options.show();
        }
        // `ramfs_show_options`
        let mode = state.options.mode;
        if mode == 0o755 { String::new() } else { format!("mode={mode:o}") }
    }
}

/// Counts the pages of all files below a directory. `ENOSPC` when there are more than `room`.
fn walk(dir: At<'_>, files: &mut HashMap<u64, Held>, room: &mut usize) -> Result<()> {
    let fd = dir.open(rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY)?;
    for entry in At::new(&fd, b"").read_dir()? {
        *room = room.checked_sub(1).ok_or(Errno::ENOSPC)?;
        let at = At::new(&fd, &entry.name);
        if entry.kind == libc::DT_DIR {
            walk(at, files, room)?;
        } else if entry.kind == libc::DT_REG {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            if let Ok(stat) = rustix::fs::statat(&fd, &*entry.name, flags) {
                files.insert(stat.st_ino, Held { pages: pages_of(&stat), size: stat.st_size as u64 });
            }
        }
    }
    Ok(())
}

impl State {
    fn is_limited(&self) -> bool {
        self.options.blocks.is_some() && self.max_pages != 0
    }

    /// Pages beyond the limit.
    fn over(&self) -> u64 {
        if self.is_limited() { self.pages.saturating_sub(self.max_pages) } else { 0 }
    }

    /// Brings a file's account up to date; gives what it was, `None` for one that was not known.
    fn count(&mut self, stat: &Stat) -> Option<Held> {
        let now = Held { pages: pages_of(stat), size: stat.st_size as u64 };
        let before = self.files.insert(stat.st_ino, now);
        self.pages = (self.pages + now.pages).saturating_sub(before.unwrap_or_default().pages);
        before
    }

    /// Replaces the accounts of all files with names; those without stay.
    fn settle(&mut self, mut walked: HashMap<u64, Held>) {
        for ino in self.nameless.values() {
            if let Some(held) = self.files.get(ino) {
                walked.entry(*ino).or_insert(*held);
            }
        }
        self.pages = walked.values().map(|held| held.pages).sum();
        // An instance without a limit is walked each time; its files need not be remembered.
        self.files = if self.is_limited() { walked } else { HashMap::new() };
    }

    fn watch_closing(&mut self, at: At<'_>, ino: u64) -> bool {
        if self.closed.is_none() {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            self.closed = inotify::init(flags).ok();
        }
        let Some(closed) = &self.closed else { return false };
        let Ok(handle) = at.open_path() else { return false };
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        match inotify::add_watch(closed, path, inotify::WatchFlags::DELETE_SELF) {
            Ok(watch) => {
                self.nameless.insert(watch, ino);
                true
            }
            Err(_) => false,
        }
    }

    /// Forgets files that nobody has open any more.
    fn forget_closed(&mut self) {
        let Some(closed) = &self.closed else { return };
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(closed.as_fd(), &mut buffer);
        while let Ok(event) = reader.next() {
            if !event.events().contains(inotify::ReadFlags::IGNORED) {
                continue;
            }
            let Some(ino) = self.nameless.remove(&event.wd()) else { continue };
            self.inodes = self.inodes.saturating_sub(1);
            if let Some(held) = self.files.remove(&ino) {
                self.pages = self.pages.saturating_sub(held.pages);
            }
        }
    }
}
