//! Writing to files with set-user-ID or set-group-ID bits.
//!
//! In Linux the bits go when somebody without `CAP_FSETID` writes (`file_remove_privs`). Here writing is native, and the bits are in
//! a record that the host does not know. So a file that has them when it is opened for writing is watched by inotify, and what
//! was written is looked at before the next request of the sandbox is served: whoever asks for the mode, or executes the file, sees
//! the bits gone.
//!
//! Where ours differs: inotify does not say who wrote. The bits go as soon as one of those who have the file open for writing, or
//! opened it, lacks the capability.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nomina_kernel::cred::Cred;
use nomina_kernel::errno::Result;
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::{Dentry, Path, attr};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};

use super::Server;
use super::context::walk_cred;
use super::guest::GuestThread;
use super::lock::Mutex;
use super::request::host;

/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;
/// Most files that are watched at a time; others lose their bits when they are opened.
const MOST: usize = 256;

struct Watched {
    dentry: Arc<Dentry>,
    /// Device and inode number on the host.
    key: (u64, u64),
    /// Who may have written: who opened it, and who has changed credentials with it open; and the credentials then, for those
    /// who have ended when it is looked at.
    suspects: Vec<(TaskId, Arc<Cred>)>,
}

#[derive(Default)]
struct Table {
    inotify: Option<OwnedFd>,
    files: HashMap<i32, Watched>,
}

/// The watched files.
#[derive(Default)]
pub struct Privs {
    table: Mutex<Table>,
    count: AtomicUsize,
}

impl Privs {
    /// `thread` has `path` open for writing as `fd`, whose mode may have changed.
    ///
    /// # Errors
    /// Those of changing the mode, where the file cannot be watched.
    pub fn opened(&self, server: &Server, thread: &GuestThread, path: &Path, fd: &OwnedFd) -> Result<()> {
        if nomina_fs::handle::attr_from_fd(fd.as_fd(), &server.ids)?.mode & SET_ID == 0 {
            return Ok(());
        }
        let Some(cred) = cred_of(server, thread.task) else { return Ok(()) };
        let mut table = self.table.lock().unwrap();
        let Some(file) = table.watch(path, fd) else {
            drop(table);
            return remove(&path.dentry, &cred);
        };
        if !file.suspects.iter().any(|(task, then)| *task == thread.task && Arc::ptr_eq(then, &cred)) {
            file.suspects.push((thread.task, cred));
        }
        self.count.store(table.files.len(), Ordering::Release);
        Ok(())
    }

    /// `thread` has other credentials now.
    pub fn changed_cred(&self, server: &Server, thread: &GuestThread) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let Some(cred) = cred_of(server, thread.task) else { return };
        for file in self.table.lock().unwrap().files.values_mut() {
            if file.suspects.len() < MOST && holds(thread, file.key) {
                file.suspects.push((thread.task, cred.clone()));
            }
        }
    }

    /// Whether there is anything to look at.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// Looks at what has been written so far.
    pub fn apply(&self, server: &Arc<Server>) {
        if !self.any() {
            return;
        }
        let mut table = self.table.lock().unwrap();
        for (watch, events) in table.read() {
            let Some(file) = table.files.get(&watch) else { continue };
            let writers = writers(server, file.key);
            let held = !writers.is_empty();
            if events.contains(ReadFlags::MODIFY) {
                let now = writers.iter().filter_map(|&task| cred_of(server, task));
                let then =
                    file.suspects.iter().map(|(task, then)| cred_of(server, *task).unwrap_or(then.clone()));
                // A file that cannot be changed any more has nothing to lose.
                for cred in now.chain(then) {
                    let _ = remove(&file.dentry, &cred);
                }
            }
            if !held {
                table.forget(watch);
            }
        }
        self.count.store(table.files.len(), Ordering::Release);
    }
}

impl Table {
    fn watch(&mut self, path: &Path, fd: &OwnedFd) -> Option<&mut Watched> {
        if self.files.len() >= MOST {
            return None;
        }
        if self.inotify.is_none() {
            self.inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).ok();
        }
        let stat = rustix::fs::fstat(fd).map_err(host).ok()?;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let events = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE;
        let watch = inotify::add_watch(self.inotify.as_ref()?, link, events).ok()?;
        let new =
            || Watched { dentry: path.dentry.clone(), key: (stat.st_dev, stat.st_ino), suspects: Vec::new() };
        let file = self.files.entry(watch).or_insert_with(new);
        (file.suspects.len() < MOST).then_some(file)
    }

    /// All events, those of one watch together.
    fn read(&mut self) -> HashMap<i32, ReadFlags> {
        let mut events: HashMap<i32, ReadFlags> = HashMap::new();
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let Some(inotify) = &self.inotify else { return events };
        let mut reader = inotify::Reader::new(inotify.as_fd(), &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                return self.files.keys().map(|&watch| (watch, ReadFlags::MODIFY)).collect();
            }
            *events.entry(event.wd()).or_insert(ReadFlags::empty()) |= event.events();
        }
        events
    }

    fn forget(&mut self, watch: i32) {
        self.files.remove(&watch);
        if let Some(inotify) = &self.inotify {
            let _ = inotify::remove_watch(inotify, watch);
        }
    }
}

fn cred_of(server: &Server, task: TaskId) -> Option<Arc<Cred>> {
    server.kernel.lock().unwrap().task(task).map(|task| task.cred().clone())
}

fn remove(dentry: &Dentry, cred: &Cred) -> Result<()> {
    walk_cred(cred, false, |cred| attr::file_remove_privs(dentry, cred))
}

/// The processes that have a host file open for writing.
fn writers(server: &Arc<Server>, key: (u64, u64)) -> Vec<TaskId> {
    let leaders = server.leaders();
    leaders.iter().filter(|thread| holds(thread, key)).map(|thread| thread.task).collect()
}

/// Whether the process of a thread has a host file open for writing.
fn holds(thread: &GuestThread, key: (u64, u64)) -> bool {
    let pid = thread.process.host_pid.load(Ordering::Acquire);
    let mut fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.any(|entry| {
        // The link's mode is that of the descriptor.
        std::fs::symlink_metadata(entry.path()).is_ok_and(|link| link.mode() & 0o200 != 0)
            && std::fs::metadata(entry.path()).is_ok_and(|stat| (stat.dev(), stat.ino()) == key)
    })
}
