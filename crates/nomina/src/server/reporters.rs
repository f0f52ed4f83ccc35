//! Native writes that report themselves: to files of a tmpfs with a limit.
//!
//! In Linux a write to a tmpfs charges each page before it exists. Here it is native. So every thread that opens such a file
//! for writing, or is executed with one open, gets an inotify instance, which watches the files for `IN_MODIFY` and has the
//! host call the thread at each event (as for [control files](super::controls)): while the write returns, the shim
//! asks ([`nomina_abi::op::WRITTEN`]), and the write is made to have failed if there is no room ([`Space::written`]).
//!
//! The host merges an event with an equal one that has not been read yet, and then sends nothing. So reading is what asks for
//! the next report. Where there is plenty of room left it is put off by some milliseconds, and a program writes at native
//! speed in between; where little is left, each write reports.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use nomina_fs::overlay::OverlaySb;
use nomina_fs::tmpfs::Space;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::SuperBlock;
use rustix::fs::inotify;

use super::Server;
use super::controls::report_writes;
use super::guest::GuestThread;
use super::lock::Mutex;
use super::request::host;

/// Most threads that are watched: a user has 128 inotify instances by default, and guests need some themselves.
const MOST: usize = 32;
/// With so much room left, reports are put off …
const PLENTY: u64 = 32 << 20;
/// … for so long. No host writes more than [`PLENTY`] in that time.
const PAUSE: Duration = Duration::from_millis(4);

/// A watched thread.
struct Reporter {
    inotify: OwnedFd,
    /// Inode numbers of the watched files, by watch.
    files: HashMap<i32, u64>,
    used: Instant,
    /// Events have been left unread.
    resting: bool,
}

impl Reporter {
    fn new(thread: &GuestThread) -> Result<Reporter> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags).map_err(host)?;
        report_writes(inotify.as_fd(), thread).map_err(host)?;
        Ok(Reporter { inotify, files: HashMap::new(), used: Instant::now(), resting: false })
    }

    fn watch(&mut self, file: &Path, ino: u64) -> Result<()> {
        self.used = Instant::now();
        let watch = inotify::add_watch(&self.inotify, file, inotify::WatchFlags::MODIFY).map_err(host)?;
        self.files.insert(watch, ino);
        Ok(())
    }

    /// Reads all events: the next write reports again.
    fn read(&mut self) {
        self.resting = false;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        while let Ok(event) = reader.next() {
            // The file is gone.
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                self.files.remove(&event.wd());
            }
        }
    }
}

#[derive(Default)]
struct Table {
    reporters: HashMap<TaskId, Reporter>,
    /// Whose files are watched, by inode number (private directories are on one file system). An account lives as long as
    /// one of its files is open, mounted or not.
    spaces: HashMap<u64, Arc<Space>>,
}

/// All watched threads.
#[derive(Default)]
pub struct Reporters {
    table: Mutex<Table>,
    count: AtomicUsize,
    /// The thread that reads what was left unread is running.
    awake: AtomicBool,
}

impl Reporters {
    /// `thread` has opened `file` of `sb`: if that is limited, writes to it are reported. Where they cannot be (the host's limit of
    /// inotify instances is reached), the file is accounted for with the next one that is opened.
    pub fn opened(&self, server: &Server, thread: &Arc<GuestThread>, sb: &dyn SuperBlock, file: &OwnedFd) {
        let Some(space) = sb.as_any().downcast_ref::<OverlaySb>().and_then(OverlaySb::space) else { return };
        if !space.is_limited() || space.opened(file).is_err() {
            return;
        }
        let Ok(stat) = rustix::fs::fstat(file) else { return };
        let mut table = self.table.lock().unwrap();
        if table.spaces.len() >= 64 && table.spaces.len().is_power_of_two() {
            table.forget_unwatched();
        }
        // What cannot be watched is written without report; nothing else can be done about it.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        if table.watch(server, thread, path.as_ref(), stat.st_ino).is_ok() {
            table.spaces.insert(stat.st_ino, space.clone());
        }
        self.count.store(table.spaces.len(), Ordering::Release);
    }

    /// `thread` is a new image: what it has open is watched for it.
    pub fn executed(&self, server: &Server, thread: &Arc<GuestThread>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let pid = thread.process.host_pid.load(Ordering::Acquire);
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return };
        for entry in fds.flatten() {
            use std::os::unix::fs::MetadataExt;
            let Ok(stat) = std::fs::metadata(entry.path()) else { continue };
            let mut table = self.table.lock().unwrap();
            if !stat.is_file() || !table.spaces.contains_key(&stat.ino()) {
                continue;
            }
            // A file that is no longer at this number is watched in vain.
            let _ = table.watch(server, thread, &entry.path(), stat.ino());
        }
    }

    /// What a native call of `thread` that may have written to `file` shall have returned; `None` for a file that is not watched.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn result(&self, thread: &GuestThread, file: &OwnedFd, native: i64) -> Option<Result<i64>> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let stat = rustix::fs::fstat(file).ok()?;
        let (space, first) = {
            let table = self.table.lock().unwrap();
            let resting = table.reporters.get(&thread.task).is_none_or(|reporter| reporter.resting);
            (table.spaces.get(&stat.st_ino)?.clone(), !resting)
        };
        Some(space.written(file, native, first))
    }

    /// `thread` has been told of events: asks for the next report, at once or in a while.
    pub fn reported(&self, server: &Arc<Server>, thread: &GuestThread, file: Option<&OwnedFd>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut table = self.table.lock().unwrap();
        let ino = file.and_then(|file| Some(rustix::fs::fstat(file).ok()?.st_ino));
        let left = ino.and_then(|ino| table.spaces.get(&ino)?.left());
        let Some(reporter) = table.reporters.get_mut(&thread.task) else { return };
        if left.is_none_or(|left| left < PLENTY) {
            return reporter.read();
        }
        reporter.resting = true;
        drop(table);
        if !self.awake.swap(true, Ordering::AcqRel) {
            let server = Arc::downgrade(server);
            let started =
                std::thread::Builder::new().name("nomina-tmpfs".into()).spawn(move || rest(&server));
            if started.is_err() {
                self.awake.store(false, Ordering::Release);
                self.read_resting();
            }
        }
    }

    /// Reads what was left unread; whether there was anything.
    fn read_resting(&self) -> bool {
        let mut table = self.table.lock().unwrap();
        let mut any = false;
        for reporter in table.reporters.values_mut().filter(|reporter| reporter.resting) {
            reporter.read();
            any = true;
        }
        any
    }
}

/// Reads what was left unread, until for some time there is nothing.
fn rest(server: &Weak<Server>) {
    let mut idle = 0;
    while idle < 64 {
        std::thread::sleep(PAUSE);
        let Some(server) = server.upgrade() else { return };
        idle = if server.reporters.read_resting() { 0 } else { idle + 1 };
    }
    if let Some(server) = server.upgrade() {
        server.reporters.awake.store(false, Ordering::Release);
        server.reporters.read_resting();
    }
}

impl Table {
    /// Forgets the accounts of files that nobody watches.
    fn forget_unwatched(&mut self) {
        self.reporters.values_mut().filter(|reporter| !reporter.resting).for_each(Reporter::read);
        let watched: HashSet<u64> = self.reporters.values().flat_map(|r| r.files.values().copied()).collect();
        self.spaces.retain(|ino, _| watched.contains(ino));
    }

    fn watch(&mut self, server: &Server, thread: &Arc<GuestThread>, file: &Path, ino: u64) -> Result<()> {
        if let Some(reporter) = self.reporters.get_mut(&thread.task) {
            return reporter.watch(file, ino);
        }
        if self.reporters.len() >= MOST {
            self.reporters.retain(|task, _| server.guests.by_task(*task).is_some());
            self.forget_unwatched();
        }
        if self.reporters.len() >= MOST {
            let oldest = self.reporters.iter().min_by_key(|(_, reporter)| reporter.used);
            let oldest = oldest.map(|(task, _)| *task).ok_or(Errno::EMFILE)?;
            self.reporters.remove(&oldest);
        }
        let mut reporter = Reporter::new(thread)?;
        reporter.watch(file, ino)?;
        self.reporters.insert(thread.task, reporter);
        Ok(())
    }
}
