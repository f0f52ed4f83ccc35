//! Open `/proc/PID/{mountinfo,mounts}`, which tell who polls them of changes (`mounts_poll` in `fs/proc_namespace.c`,
//! `proc_pid_mounts(5)`).
//!
//! In Linux such a file reads as the mounts are now, and after a change polling it gives `POLLERR | POLLPRI`, once. Here the
//! guest holds a memfd, so that it reads and seeks natively, whose text we replace when the mounts change. No memfd can be
//! waited for, so:
//!
//! - `epoll_ctl(2)` fails natively (`EPERM`), and the shim asks us, who put a socket into the guest's epoll in place of the file
//!   ([`MountsFile::epoll_ctl`]). Its urgent data is the change.
//! - A thread that waits for the file in `poll(2)` or `select(2)` sleeps natively. After a change we look for such threads and
//!   call each ([`nomina_abi::SI_MOUNTS`]), which makes the call return, and its shim asks which files have changed
//!   ([`nomina_abi::op::MOUNTS_CHANGED`]). Who is not asleep yet is found later: we look until somebody was told.
//!
//! Where ours differs: `epoll_wait` tells `EPOLLPRI` (with `EPOLLIN`, where that was asked for) and not `EPOLLERR`; a `poll` that
//! does not wait, and one that asks for `POLLIN` as well and so never waits, do not tell of changes; nor are sleepers found where
//! `/proc/PID/syscall` is closed to us (`kernel.yama.ptrace_scope` above 1).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use nomina_abi as abi;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::ProcMounts;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::Server;
use super::guest::GuestThread;
use super::lock::Mutex;
use super::request::host;

/// How many may be open; the text of further ones does not change. Each takes descriptors of ours.
const MOST: usize = 64;
/// Texts up to this length are replaced before the change is answered; longer ones some milliseconds later, so that many
/// mounts and many open files together cost no more than that.
const SHORT: usize = 32 * 1024;
/// How long we wait before looking for sleepers again: at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_secs(1));
/// Most entries of a `poll` that are looked at.
const ENTRIES: usize = 1024;

/// One open file description.
pub struct MountsFile {
    mounts: ProcMounts,
    /// The memfd, open for writing.
    file: OwnedFd,
    key: (u64, u64),
    /// The text is older than the mounts.
    stale: AtomicBool,
    /// The mounts have changed, and nobody who polls has been told.
    changed: AtomicBool,
    length: Mutex<usize>,
    signal: OnceLock<Signal>,
}

/// What stands for the file in guests' epolls: a socket that has something to read, and urgent data after a change.
struct Signal {
    watched: OwnedFd,
    ours: OwnedFd,
}

impl Signal {
    fn new() -> io::Result<Signal> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (watched, ours) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::send(&ours, b"m", SendFlags::NOSIGNAL)?;
        Ok(Signal { watched, ours })
    }

    /// Takes back what was raised last.
    fn lower(&self) {
        let _ = rustix::net::recv(&self.watched, &mut [0u8; 1][..], RecvFlags::OOB);
    }

    fn raise(&self) {
        // Epoll has told of the last one, or tells of it with this one.
        self.lower();
        let _ = rustix::net::send(&self.ours, b"!", SendFlags::OOB | SendFlags::NOSIGNAL);
    }
}

impl MountsFile {
    /// A file and the descriptor of it for the guest.
    ///
    /// # Errors
    /// Those of `memfd_create(2)` and `open(2)`.
    pub fn open(mounts: ProcMounts) -> io::Result<(Arc<MountsFile>, OwnedFd)> {
        let file = rustix::fs::memfd_create("nomina-mounts", MemfdFlags::CLOEXEC)?;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let fd = rustix::fs::open(link, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        let file = MountsFile {
            mounts,
            file,
            key: (stat.st_dev, stat.st_ino),
            stale: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            length: Mutex::new(0),
            signal: OnceLock::new(),
        };
        file.replace(&file.mounts.text())?;
        Ok((Arc::new(file), fd))
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let mut length = self.length.lock().unwrap();
        let mut at = 0;
        while at < text.len() {
            at += rustix::io::pwrite(&self.file, &text[at..], at as u64)?;
        }
        rustix::fs::ftruncate(&self.file, text.len() as u64)?;
        *length = text.len();
        Ok(())
    }

    /// Whether there was a change that nobody was told of; now somebody is.
    pub fn take_changed(&self) -> bool {
        self.changed.swap(false, Ordering::AcqRel)
    }

    /// `epoll_ctl(2)` for the file: `events` and `data` are those of the guest's event.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn epoll_ctl(&self, epoll: &OwnedFd, op: i32, events: u32, data: u64) -> Result<()> {
        let signal = match self.signal.get() {
            Some(signal) => signal,
            None => {
                let signal = Signal::new().map_err(host)?;
                self.signal.get_or_init(|| signal)
            }
        };
        // `ep_insert` and `ep_modify` look at the file, and so take note of changes before.
        signal.lower();
        self.take_changed();
        let mut event = libc::epoll_event { events, u64: data };
        if events & (libc::EPOLLIN | libc::EPOLLRDNORM) as u32 == 0 {
            // A change is told once, and who asks for changes is told in Linux whether it asks for errors or priority.
            event.events |= (libc::EPOLLET | libc::EPOLLPRI) as u32;
        }
        // SAFETY: descriptors of ours and a valid structure.
        let failed =
            unsafe { libc::epoll_ctl(epoll.as_raw_fd(), op, signal.watched.as_raw_fd(), &raw mut event) < 0 };
        if failed { Err(host(io::Error::last_os_error())) } else { Ok(()) }
    }
}

/// All that are open.
#[derive(Default)]
pub struct MountsFiles {
    open: Mutex<Vec<Weak<MountsFile>>>,
    /// The thread that looks for sleepers is running.
    awake: AtomicBool,
    /// There was a change after it looked last.
    again: AtomicBool,
}

impl MountsFiles {
    /// Whether no more can be opened.
    pub fn is_full(&self) -> bool {
        let mut open = self.open.lock().unwrap();
        open.retain(|file| file.strong_count() > 0);
        open.len() >= MOST
    }

    /// Adds one.
    pub fn insert(&self, file: &Arc<MountsFile>) {
        self.open.lock().unwrap().push(Arc::downgrade(file));
    }

    fn all(&self) -> Vec<Arc<MountsFile>> {
        self.open.lock().unwrap().iter().filter_map(Weak::upgrade).collect()
    }

    /// The mounts of a namespace have changed.
    pub fn changed(&self, server: &Arc<Server>, ns: u64) {
        let is_of_ns = |file: &Arc<MountsFile>| file.mounts.ns_id() == ns;
        if !self.all().iter().any(is_of_ns) {
            return;
        }
        // Who has closed the file is not told through an epoll that is still open.
        server.handles.sweep_closed();
        let of_ns: Vec<_> = self.all().into_iter().filter(is_of_ns).collect();
        for file in &of_ns {
            file.stale.store(true, Ordering::Release);
        }
        refresh(of_ns.iter().filter(|file| *file.length.lock().unwrap() <= SHORT).cloned().collect());
        for file in &of_ns {
            file.changed.store(true, Ordering::Release);
            if let Some(signal) = file.signal.get() {
                signal.raise();
            }
        }
        self.again.store(true, Ordering::Release);
        if !self.awake.swap(true, Ordering::AcqRel) {
            let server = Arc::downgrade(server);
            let look = move || look_for_sleepers(&server);
            if std::thread::Builder::new().name("nomina-mounts".into()).spawn(look).is_err() {
                self.awake.store(false, Ordering::Release);
            }
        }
    }
}

/// Replaces the texts that are stale, making each text once.
fn refresh(mut files: Vec<Arc<MountsFile>>) {
    while let Some(first) = files.pop() {
        if !first.stale.load(Ordering::Acquire) {
            continue;
        }
        let (mut same, others): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| file.mounts.shows_the_same(&first.mounts));
        files = others;
        same.push(first);
        for file in &same {
            file.stale.store(false, Ordering::Release);
        }
        let text = same[0].mounts.text();
        for file in &same {
            // Without memory the old text stays.
            let _ = file.replace(&text);
        }
    }
}

/// Wakes those who wait for changed files, until all changes were told.
fn look_for_sleepers(server: &Weak<Server>) {
    let mut pause = PAUSES.0;
    loop {
        std::thread::sleep(pause);
        let Some(server) = server.upgrade().filter(|server| !server.is_ending()) else { return };
        let files = &server.handles.mounts;
        pause = if files.again.swap(false, Ordering::AcqRel) { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
        // A closed file has nobody to tell.
        server.handles.sweep_closed();
        let open = files.all();
        refresh(open.clone());
        let changed: Vec<_> = open.into_iter().filter(|file| file.changed.load(Ordering::Acquire)).collect();
        if changed.is_empty() {
            files.awake.store(false, Ordering::Release);
            if !files.again.load(Ordering::Acquire) || files.awake.swap(true, Ordering::AcqRel) {
                return;
            }
        }
        for thread in server.guests.all() {
            wake_if_waiting(&thread, &changed);
        }
    }
}

/// Sends to `thread` if it sleeps in a call that waits for a changed file.
fn wake_if_waiting(thread: &GuestThread, changed: &[Arc<MountsFile>]) {
    let pid = thread.process.host_pid.load(Ordering::Acquire);
    let tid = thread.host_tid.load(Ordering::Acquire);
    if pid == 0 || tid == 0 {
        return;
    }
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")) else { return };
    let Some((number, args)) = parse_syscall(&text) else { return };
    let waits = awaited(pid, number, &args).iter().any(|fd| {
        let Ok(stat) = std::fs::metadata(format!("/proc/{pid}/fd/{fd}")) else { return false };
        changed.iter().any(|file| file.key == (stat.dev(), stat.ino()))
    });
    if waits {
        let mut info = [0u8; 128];
        for (at, word) in [(0, abi::SIG_CALL), (8, abi::SI_MOUNTS), (24, number as i32)] {
            info[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        // SAFETY: a valid siginfo, for a thread of a guest. One that is gone needs none.
        unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, abi::SIG_CALL, info.as_ptr()) };
    }
}

/// Number and arguments of the system call that a thread sleeps in, from `/proc/PID/syscall`.
fn parse_syscall(text: &str) -> Option<(i64, [u64; 6])> {
    let mut words = text.split_ascii_whitespace();
    let number = words.next()?.parse().ok().filter(|number| *number >= 0)?;
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, args))
}

/// The descriptors that a sleeping call waits for and that it would not have waited for if they could be read: files can.
fn awaited(pid: i32, number: i64, args: &[u64; 6]) -> Vec<i32> {
    let read = |at: u64, len: usize| {
        let mut bytes = vec![0; len];
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
        memory.read_exact_at(&mut bytes, at).ok()?;
        Some(bytes)
    };
    match number {
        libc::SYS_poll | libc::SYS_ppoll => {
            let bytes = read(args[0], (args[1] as usize).min(ENTRIES) * 8).unwrap_or_default();
            let word = |entry: &[u8]| i32::from_ne_bytes([entry[0], entry[1], entry[2], entry[3]]);
            let events = |entry: &[u8]| i16::from_ne_bytes([entry[4], entry[5]]);
            let entries = bytes.chunks_exact(8).map(|entry| (word(entry), events(entry)));
            entries
                .filter(|(fd, events)| *fd >= 0 && events & abi::POLL_FILE == 0)
                .map(|(fd, _)| fd)
                .collect()
        }
        libc::SYS_select | libc::SYS_pselect6 if args[3] != 0 => {
            let count = (args[0] as usize).min(ENTRIES);
            let bytes = read(args[3], count.div_ceil(64) * 8).unwrap_or_default();
            (0..count)
                .filter(|fd| bytes.get(fd / 8).is_some_and(|byte| byte & 1 << (fd % 8) != 0))
                .map(|fd| fd as i32)
                .collect()
        }
        _ => Vec::new(),
    }
}

impl Server {
    /// The open view of a mount table that `fd` is.
    ///
    /// # Errors
    /// `EPERM`: it is something else.
    pub fn mounts_file(&self, fd: &OwnedFd) -> Result<Arc<MountsFile>> {
        let handle = self.handles.find(std::os::fd::AsFd::as_fd(fd)).ok_or(Errno::EPERM)?;
        handle.mounts.clone().ok_or(Errno::EPERM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_sleeping_call_is_understood() {
        let text = "7 0x7ffd 0x1 0xffffffffffffffff 0x0 0x0 0x7f 0x7ffc10 0x7f2b\n";
        assert_eq!(parse_syscall(text), Some((7, [0x7ffd, 1, u64::MAX, 0, 0, 0x7f])));
        assert_eq!(parse_syscall("running\n"), None);
        assert_eq!(parse_syscall("-1 0x7ffc10 0x7f2b\n"), None);
    }

    #[test]
    fn entries_that_ask_for_reading_are_not_waited_for() {
        let fds: [libc::pollfd; 3] = [
            libc::pollfd { fd: 3, events: libc::POLLPRI, revents: 0 },
            libc::pollfd { fd: 4, events: libc::POLLIN | libc::POLLPRI, revents: 0 },
            libc::pollfd { fd: -1, events: libc::POLLPRI, revents: 0 },
        ];
        let pid = std::process::id() as i32;
        assert_eq!(awaited(pid, libc::SYS_poll, &[fds.as_ptr() as u64, 3, 0, 0, 0, 0]), [3]);
        let set = [0b1001_0000u64];
        assert_eq!(awaited(pid, libc::SYS_select, &[8, 0, 0, set.as_ptr() as u64, 0, 0]), [4, 7]);
    }
}
