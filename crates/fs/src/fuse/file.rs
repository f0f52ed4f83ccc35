//! Contents of files (`fs/fuse/file.c`).
//!
//! In Linux the page cache stands between programs and the server. Here its place takes a file of ours without a name, whose
//! descriptors guests read, write and map natively: filled by READ when the file is opened, written back by WRITE when a
//! descriptor that could write is closed, or by `fsync(2)`, which tells of errors. So other mounts of what the server serves see
//! changes at close (as NFS has it), and an error of writing then is told by the next `open(2)`. All descriptors of one node share
//! the contents.
//!
//! The kernel tells of closed descriptors by inotify, and by a lease (`F_SETLEASE`) whether there are others.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use nomina_kernel::vfs::{Attr, Opened, SetAttr, Timespec};
use nomina_kernel::{Errno, Result};
use rustix::fs::{Mode, OFlags, inotify};

use super::abi::Caller;
use super::abi::{self, Body, MAX_DATA, fattr, op};
use super::inode::FuseInode;
use super::replay::{Answered, Question};

/// What tells whether contents are still those of the server.
type Stamp = (u64, Timespec, Timespec);

fn stamp(attr: &Attr) -> Stamp {
    (attr.size, attr.mtime, attr.ctime)
}

/// The contents of a node, where it has been opened.
#[derive(Default)]
pub(super) struct Contents {
    /// Open for reading, so that a lease tells of writers.
    file: Option<OwnedFd>,
    key: (u64, u64),
    watch: Option<i32>,
    /// What they were filled from.
    filled: Option<Stamp>,
    /// Handles of the server by which they can be written back.
    writers: Vec<u64>,
    writing_back: bool,
    /// Calls of `fsync(2)` that wait for the next write-back: one under way may have read already what is to be written.
    syncs: Vec<Arc<Question>>,
    error: Option<Errno>,
}

/// Flags of `open(2)` that servers are not told of: those that have been dealt with, and `O_APPEND`, since what is written
/// back says at which offset.
pub(super) const KERNEL_FLAGS: u32 =
    (libc::O_TRUNC | libc::O_APPEND | libc::O_CREAT | libc::O_EXCL | libc::O_NOCTTY) as u32;

fn host(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

fn reopened(file: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(link, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map_err(host)
}

/// Whether nobody else has `file` open, with `F_WRLCK`, or open for writing, with `F_RDLCK`.
fn lease(file: BorrowedFd<'_>, kind: libc::c_int) -> bool {
    // SAFETY: a descriptor of ours; the lease is given back at once, so nobody's open waits for it.
    unsafe {
        let got = libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) == 0;
        if got {
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK);
        }
        got
    }
}

impl Contents {
    /// Whether they are newer than what the server has.
    fn dirty(&self) -> bool {
        self.file.is_some() && (!self.writers.is_empty() || self.writing_back)
    }

    /// Attributes with the size of contents that the server does not have yet.
    pub fn overrides(&self, attr: Attr) -> Attr {
        let Some(file) = self.file.as_ref().filter(|_| self.dirty()) else { return attr };
        let Ok(stat) = rustix::fs::fstat(file) else { return attr };
        let time = |sec: i64, nsec: u64| Timespec { sec, nsec: nsec as u32 };
        let mtime = time(stat.st_mtime, stat.st_mtime_nsec).max(attr.mtime);
        Attr { size: stat.st_size as u64, blocks: stat.st_blocks as u64, mtime, ..attr }
    }

    /// The server says that it has others.
    pub fn invalidate(&mut self) {
        self.filled = None;
    }

    /// The size has been set, at the server too.
    pub fn resize(&mut self, size: u64, attr: &Attr) -> Result<()> {
        if let Some(file) = &self.file {
            let file = reopened(file.as_fd(), OFlags::WRONLY)?;
            rustix::fs::ftruncate(&file, size).map_err(host)?;
            self.filled = self.filled.map(|_| stamp(attr));
        }
        Ok(())
    }
}

impl FuseInode {
    /// The file of the contents, made where there is none.
    fn file(self: &Arc<Self>, contents: &mut Contents) -> Result<()> {
        if contents.file.is_some() {
            return Ok(());
        }
        let hub = self.connection.hub()?;
        let made = hub.host.scratch_file().map_err(|e| Errno(e.raw_os_error().unwrap_or(libc::EIO)))?;
        let file = reopened(made.as_fd(), OFlags::RDONLY)?;
        let stat = rustix::fs::fstat(&file).map_err(host)?;
        contents.key = (stat.st_dev, stat.st_ino);
        contents.filled = None;
        contents.file = Some(file);
        Ok(())
    }

    /// A descriptor for a guest.
    fn hand_out(self: &Arc<Self>, contents: &mut Contents, flags: u32) -> Result<Opened> {
        let file = contents.file.as_ref().ok_or(Errno::EIO)?;
        let asked = OFlags::from_bits_retain(flags);
        let kept = OFlags::RWMODE | OFlags::APPEND | OFlags::NONBLOCK | OFlags::SYNC | OFlags::DSYNC;
        let fd = reopened(file.as_fd(), asked & kept)?;
        if contents.watch.is_none() {
            let hub = self.connection.hub()?;
            let link = format!("/proc/self/fd/{}", file.as_raw_fd());
            let events = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CLOSE_NOWRITE;
            let watch = inotify::add_watch(&hub.inotify, link, events).map_err(host)?;
            hub.keep(watch, self.clone(), self.sb()?);
            contents.watch = Some(watch);
        }
        Ok(Opened::Copy(fd))
    }

    /// Opens a regular file.
    pub(super) fn open_contents(&self, flags: u32) -> Result<Opened> {
        let me = self.me.upgrade().ok_or(Errno::EIO)?;
        let truncates = flags & libc::O_TRUNC as u32 != 0;
        let mut asked = flags & !KERNEL_FLAGS;
        if !truncates && asked & libc::O_ACCMODE as u32 == libc::O_WRONLY as u32 {
            // What is not written must be read first, as with Linux's write-back cache.
            asked = asked & !(libc::O_ACCMODE as u32) | libc::O_RDWR as u32;
        }
        let (fh, open_flags) = match self.ask(op::OPEN, Body::default().u32(asked).u32(0)) {
            Ok(answer) => abi::open_out(&answer.body)?,
            Err(Errno::ENOSYS) => (0, 0),
            Err(error) => return Err(error),
        };
        if let Some(error) = self.contents().error.take() {
            self.release(op::RELEASE, fh, asked);
            return Err(error);
        }
        if truncates {
            use nomina_kernel::vfs::Inode;
            self.setattr(&SetAttr { size: Some(0), ..SetAttr::default() })?;
        }
        let attr = self.server_attr()?;
        let direct = open_flags & abi::FOPEN_DIRECT_IO != 0;
        if !truncates && self.is_stale(&attr, direct) {
            self.ask_job(&fh.to_ne_bytes(), |question| me.fill(fh, attr, direct, question))?;
        }
        // Nothing waits from here on, so this is done once.
        let mut contents = self.contents();
        me.file(&mut contents)?;
        if truncates {
            contents.filled = Some(stamp(&attr));
        }
        let opened = me.hand_out(&mut contents, flags)?;
        if flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32 {
            drop(contents);
            self.release(op::RELEASE, fh, asked);
        } else {
            contents.writers.push(fh);
        }
        Ok(opened)
    }

    /// The descriptor of a file that CREATE has made and opened.
    pub(super) fn created(&self, fh: u64, flags: u32) -> Result<Opened> {
        let me = self.me.upgrade().ok_or(Errno::EIO)?;
        let mut contents = self.contents();
        me.file(&mut contents)?;
        let opened = me.hand_out(&mut contents, flags)?;
        contents.writers.push(fh);
        Ok(opened)
    }

    fn is_stale(&self, attr: &Attr, direct: bool) -> bool {
        let contents = self.contents();
        if contents.file.is_some() && contents.dirty() {
            return false;
        }
        direct || contents.file.is_none() || contents.filled != Some(stamp(attr))
    }

    /// Tells the server that a handle is not used any longer.
    pub(super) fn release(&self, opcode: u32, fh: u64, flags: u32) {
        let body = Body::default().u64(fh).u32(flags).u32(0).u64(0);
        // What a server says to that changes nothing, as in Linux.
        self.connection.submit(opcode, self.nodeid, Caller::default(), &body.0, |_| {});
    }

    /// Reads the whole file from the server.
    fn fill(self: &Arc<Self>, fh: u64, attr: Attr, direct: bool, question: Arc<Question>) {
        let file = {
            let mut contents = self.contents();
            self.file(&mut contents).and_then(|()| {
                let file = contents.file.as_ref().ok_or(Errno::EIO)?;
                reopened(file.as_fd(), OFlags::WRONLY)
            })
        };
        match file {
            Ok(file) => Arc::new(Fill { inode: self.clone(), file, fh, attr, direct, question }).step(0),
            Err(error) => question.answer(Err(error)),
        }
    }

    /// A descriptor of the contents has been closed, by whomever: on the connection's thread.
    pub(super) fn closed(self: &Arc<Self>) {
        let mut contents = self.contents();
        let Some(file) = contents.file.as_ref() else { return };
        if contents.writing_back {
            return;
        }
        if !contents.writers.is_empty() {
            let last = lease(file.as_fd(), libc::F_RDLCK);
            return self.write_back(contents, last);
        }
        if lease(file.as_fd(), libc::F_WRLCK) {
            let (watch, key) = (contents.watch.take(), contents.key);
            drop(contents);
            if let (Ok(hub), Some(watch)) = (self.connection.hub(), watch) {
                hub.host.closed(key);
                // Fails only for a watch that is gone already.
                let _ = inotify::remove_watch(&hub.inotify, watch);
                hub.release(watch);
            }
        }
    }
}

impl FuseInode {
    /// Starts writing back, in the name of the oldest writer; after the `last` one was closed, its handle is released too.
    fn write_back(self: &Arc<Self>, mut contents: MutexGuard<'_, Contents>, last: bool) {
        let fh = contents.writers.first().copied().unwrap_or(0);
        let syncs = std::mem::take(&mut contents.syncs);
        let copy = contents.file.as_ref().map_or(Err(Errno::EIO), |file| {
            file.try_clone().map_err(|error| Errno(error.raw_os_error().unwrap_or(libc::EIO)))
        });
        match copy {
            Ok(file) => {
                contents.writing_back = true;
                let writers = if last { std::mem::take(&mut contents.writers) } else { Vec::new() };
                drop(contents);
                let size = AtomicU64::new(0);
                Arc::new(WriteBack { inode: self.clone(), file, fh, writers, syncs, size }).start();
            }
            Err(error) => {
                contents.error = Some(error);
                drop(contents);
                syncs.iter().for_each(|question| question.answer(Err(error)));
            }
        }
    }

    /// `fsync(2)`: writes back what the server does not have yet, and has it make that durable.
    ///
    /// # Errors
    /// Those of the server.
    pub fn fsync(&self) -> Result<()> {
        let me = self.me.upgrade().ok_or(Errno::EIO)?;
        self.ask_job(b"fsync", |question| {
            let mut contents = me.contents();
            if !contents.dirty() {
                drop(contents);
                return question.answer(Ok(Answered::default()));
            }
            contents.syncs.push(question);
            if !contents.writing_back {
                me.write_back(contents, false);
            }
        })?;
        Ok(())
    }
}

/// Reads a file piece by piece.
struct Fill {
    inode: Arc<FuseInode>,
    file: OwnedFd,
    fh: u64,
    attr: Attr,
    /// The size says nothing: read to the end, which is not beyond [`MOST_DIRECT`].
    direct: bool,
    question: Arc<Question>,
}

/// Most bytes of a file that has no size (`FOPEN_DIRECT_IO`): it may never end, and all of it is read at once.
const MOST_DIRECT: u64 = 64 << 20;

impl Fill {
    fn step(self: Arc<Self>, offset: u64) {
        let rest = if self.direct { u64::MAX } else { self.attr.size.saturating_sub(offset) };
        let want = rest.min(MAX_DATA.into()) as u32;
        if want == 0 {
            return self.done(offset);
        }
        let body = Body::default().u64(self.fh).u64(offset).u32(want).u32(0).u64(0).u32(0).u32(0);
        let inode = self.inode.clone();
        inode.connection.submit(
            op::READ,
            inode.nodeid,
            Caller::default(),
            &body.0,
            move |result| match result.and_then(|data| self.take(offset, want, data)) {
                Ok(next) if next < offset + u64::from(want) => self.done(next),
                Ok(next) if self.direct && next >= MOST_DIRECT => self.question.answer(Err(Errno::EFBIG)),
                Ok(next) => self.step(next),
                Err(error) => self.question.answer(Err(error)),
            },
        );
    }

    fn take(&self, offset: u64, want: u32, data: &[u8]) -> Result<u64> {
        if data.len() > want as usize {
            return Err(Errno::EIO);
        }
        let mut at = 0;
        while at < data.len() {
            at += rustix::io::pwrite(&self.file, &data[at..], offset + at as u64).map_err(host)?;
        }
        offset.checked_add(data.len() as u64).filter(|&end| end < i64::MAX as u64).ok_or(Errno::EFBIG)
    }

    fn done(&self, end: u64) {
        // A file shorter than its size said ends in zeros, as pages beyond the end that the server gave.
        let size = if self.direct { end } else { self.attr.size };
        let result = rustix::fs::ftruncate(&self.file, size).map_err(host);
        if result.is_ok() {
            self.inode.contents().filled = Some(stamp(&self.attr));
        }
        self.question.answer(result.map(|()| Answered { body: Arc::default(), node: None }));
    }
}

/// Writes contents back: the size, the data, FSYNC if that is wanted, FLUSH after a close, and after the last writer RELEASE.
struct WriteBack {
    inode: Arc<FuseInode>,
    file: OwnedFd,
    fh: u64,
    /// Handles that are released at the end.
    writers: Vec<u64>,
    /// Calls of `fsync(2)` that wait for it.
    syncs: Vec<Arc<Question>>,
    size: AtomicU64,
}

impl WriteBack {
    fn submit(
        self: &Arc<Self>,
        opcode: u32,
        body: &Body,
        then: impl FnOnce(Arc<Self>, Result<&[u8]>) + Send + 'static,
    ) {
        let me = self.clone();
        let inode = &self.inode;
        inode
            .connection
            .submit(opcode, inode.nodeid, Caller::default(), &body.0, move |result| then(me, result));
    }

    fn start(self: Arc<Self>) {
        let size = rustix::fs::fstat(&self.file).map_or(0, |stat| stat.st_size as u64);
        self.size.store(size, Ordering::Relaxed);
        let body = Body::default().u32(fattr::SIZE | fattr::FH).u32(0).u64(self.fh).u64(size).u64(0);
        let body = body.u64(0).u64(0).u64(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0);
        self.submit(op::SETATTR, &body, |me, result| match result {
            Ok(_) | Err(Errno::ENOSYS) => me.step(0),
            Err(error) => me.finish(Some(error)),
        });
    }

    fn step(self: Arc<Self>, offset: u64) {
        let size = self.size.load(Ordering::Relaxed);
        let want = size.saturating_sub(offset).min(self.inode.connection.max_write().into()) as usize;
        if want == 0 {
            return self.written();
        }
        let mut data = vec![0; want];
        let read = match rustix::io::pread(&self.file, &mut data[..], offset) {
            Ok(0) => return self.written(),
            Ok(read) => read,
            Err(error) => return self.finish(Some(host(error))),
        };
        let body = Body::default().u64(self.fh).u64(offset).u32(read as u32).u32(0).u64(0).u32(0).u32(0);
        let body = body.bytes(&data[..read]);
        self.submit(op::WRITE, &body, move |me, result| {
            let written = result.map(|body| abi::Reader(body).u32().unwrap_or(0));
            match written {
                Ok(written) if written > 0 && written as usize <= read => {
                    me.step(offset + u64::from(written))
                }
                Ok(_) => me.finish(Some(Errno::EIO)),
                Err(error) => me.finish(Some(error)),
            }
        });
    }

    /// All has been written.
    fn written(self: Arc<Self>) {
        if self.syncs.is_empty() {
            return self.flush();
        }
        let body = Body::default().u64(self.fh).u32(0).u32(0);
        self.submit(op::FSYNC, &body, |me, result| match result {
            Ok(_) | Err(Errno::ENOSYS) if me.writers.is_empty() => me.finish(None),
            Ok(_) | Err(Errno::ENOSYS) => me.flush(),
            Err(error) => me.finish(Some(error)),
        });
    }

    fn flush(self: Arc<Self>) {
        let body = Body::default().u64(self.fh).u32(0).u32(0).u64(0);
        self.submit(op::FLUSH, &body, |me, result| {
            me.finish(result.err().filter(|&error| error != Errno::ENOSYS));
        });
    }

    fn finish(self: Arc<Self>, error: Option<Errno>) {
        for &fh in &self.writers {
            self.inode.release(op::RELEASE, fh, libc::O_RDWR as u32);
        }
        // The times are the server's now; contents stay as they are until it says something newer.
        let body = Body::default().u32(0).u32(0).u64(0);
        self.submit(op::GETATTR, &body, move |me, result| {
            let inode = &me.inode;
            inode.forget_attr();
            let mut done = me.syncs.clone();
            let again = {
                let mut contents = inode.contents();
                contents.writing_back = false;
                // Whom fsync has told need not be told again.
                contents.error = error.filter(|_| me.syncs.is_empty()).or(contents.error);
                contents.filled = result.and_then(abi::attr_out).ok().map(|(attr, _)| stamp(&attr));
                if contents.writers.is_empty() {
                    // Nobody has written since.
                    done.append(&mut contents.syncs);
                }
                // Whether a writer was closed meanwhile; others will tell.
                let file = contents.file.as_ref();
                !contents.syncs.is_empty()
                    || contents.writers.is_empty()
                    || file.is_some_and(|file| lease(file.as_fd(), libc::F_RDLCK))
            };
            for question in done {
                question.answer(error.map_or_else(|| Ok(Answered::default()), Err));
            }
            if again {
                inode.closed();
            }
        });
    }
}
