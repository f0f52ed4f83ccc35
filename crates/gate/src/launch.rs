//! The launch of the first guest: supervisor → guardian → first guest, which locks itself down and then runs the shim.
//!
//! Everything the two forked processes need is prepared before the fork, since they may not allocate.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use nomina_abi as abi;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::guardian::{self, REPORT_EXIT, REPORT_FAILED, REPORT_PID, REPORT_STOPPED, Report, raw};
use crate::sock;

/// Steps of the launch that can fail in the first guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Step {
    /// Standard descriptors and hidden descriptors.
    Descriptors = 1,
    /// `RLIMIT_NOFILE`.
    Limits,
    /// `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivs,
    /// Landlock.
    Landlock,
    /// Giving up the host's capabilities, when the host's root starts a sandbox.
    Capabilities,
    /// The page from which the first exec is made.
    Trampoline,
    /// The seccomp filter.
    Seccomp,
    /// The hand-over of the listener.
    Handover,
    /// `execveat` of the shim.
    Exec,
}

/// Why no guest could be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A step in the supervisor failed.
    #[error("cannot prepare the sandbox: {what}: {source}")]
    Prepare {
        /// What was tried.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// A step in the first guest failed.
    #[error("cannot lock the first guest down: {}: {source}; `nomina doctor` tells what this host lacks", step_text(*.step))]
    Guest {
        /// Number of the [`Step`].
        step: i32,
        /// The reason.
        source: io::Error,
    },
    /// The first guest vanished.
    #[error(
        "the first guest died before it started (wait status {0:#x}); `nomina doctor` tells what this host lacks"
    )]
    Died(i32),
}

fn step_text(step: i32) -> &'static str {
    match step {
        1 => "installing descriptors",
        2 => "setting RLIMIT_NOFILE (the hard limit must be at least 1040)",
        3 => "setting no_new_privs",
        4 => "restricting itself with Landlock",
        5 => "giving up capabilities",
        6 => "mapping the trampoline",
        7 => "installing the seccomp filter with user notification",
        8 => "handing the listener over",
        9 => "running the shim (are memfds executable? vm.memfd_noexec)",
        _ => "unknown step",
    }
}

/// What the first guest is made of.
pub struct Launch<'a> {
    /// The shim's image.
    pub shim: BorrowedFd<'a>,
    /// Compiled filter.
    pub filter: &'a [libc::sock_filter],
    /// Landlock ruleset that allows nothing. Never optional: without it the exec rule of the filter does not hold.
    pub landlock: BorrowedFd<'a>,
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Guest's end of the hidden socket.
    pub socket: BorrowedFd<'a>,
    /// `argv` of the program (the shim hands it on).
    pub argv: &'a [CString],
    /// `envp`.
    pub envp: &'a [CString],
    /// Soft `RLIMIT_NOFILE` the guest shall see.
    pub nofile: u64,
    /// How many tasks there may be. The model counts them; this is the bound for guests that make tasks behind its back.
    pub nproc: Option<u64>,
    /// How many tasks the user may have at all, so that others find numbers for theirs (`kernel.pid_max`).
    pub nproc_total: u64,
    /// Become the foreground process group of this terminal (one of `stdio`).
    pub foreground: bool,
}

/// A launched first guest, waiting for [`Launched::go`].
pub struct Launched {
    listener: Option<OwnedFd>,
    /// Host pid of the first guest.
    pub pid: i32,
    /// Host pid of the guardian.
    pub guardian: i32,
    control: OwnedFd,
    guest_control: OwnedFd,
}

/// Puts the shim into a sealed, executable memfd, opened for reading only.
///
/// # Errors
/// What `memfd_create(2)` and `open(2)` give; `EACCES` where `vm.memfd_noexec` forbids executable memfds.
pub fn shim_memfd(image: &[u8]) -> io::Result<OwnedFd> {
    // MFD_EXEC is unknown before Linux 6.3, where memfds are executable anyway.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("nomina-shim", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("nomina-shim", flags))?;
    let mut at = 0;
    while at < image.len() {
        at += rustix::io::write(&fd, &image[at..])?;
    }
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o500))?;
    rustix::fs::fcntl_add_seals(
        &fd,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Launch<'_> {
    /// Forks guardian and first guest and waits until the guest is locked down and has handed its listener over.
    ///
    /// # Errors
    /// [`LaunchError`] tells the step.
    pub fn start(&self) -> Result<Launched, LaunchError> {
        let prepare = |what| move |source| LaunchError::Prepare { what, source };
        let (control, theirs) = sock::pair().map_err(prepare("socketpair"))?;
        // The guest's own control socket: its end of file must not look like the guardian's.
        let (guest_control, guest_theirs) = sock::pair().map_err(prepare("socketpair"))?;
        let me = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
            .map_err(|e| LaunchError::Prepare { what: "pidfd_open", source: e.into() })?;
        let argv: Vec<*const libc::c_char> =
            self.argv.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        let envp: Vec<*const libc::c_char> =
            self.envp.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        // SAFETY: the child only makes system calls (see the module documentation) and never returns.
        let guardian = unsafe { libc::fork() };
        if guardian < 0 {
            return Err(LaunchError::Prepare { what: "fork", source: io::Error::last_os_error() });
        }
        if guardian == 0 {
            self.guardian(raw(me.as_fd()), raw(theirs.as_fd()), raw(guest_theirs.as_fd()), &argv, &envp);
        }
        drop((theirs, guest_theirs));
        let mut pid = 0;
        let mut data = [0u8; 12];
        sock::recv(control.as_fd(), &mut data).map_err(prepare("the guardian died"))?;
        match Report::parse(&data) {
            Some(Report { kind: REPORT_PID, value, .. }) => pid = value,
            Some(Report { kind: REPORT_EXIT, value, .. }) => return Err(LaunchError::Died(value)),
            _ => {}
        }
        match sock::recv(guest_control.as_fd(), &mut data) {
            Ok((_, mut fds)) if fds.len() == 1 => {
                let listener = fds.remove(0);
                Ok(Launched { listener: Some(listener), pid, guardian, control, guest_control })
            }
            Ok(_) => match Report::parse(&data) {
                Some(Report { kind: REPORT_FAILED, value, errno }) => {
                    Err(LaunchError::Guest { step: value, source: io::Error::from_raw_os_error(errno) })
                }
                _ => Err(LaunchError::Died(0)),
            },
            Err(_) => {
                let status = match sock::recv(control.as_fd(), &mut data).ok().and(Report::parse(&data)) {
                    Some(report) if report.kind == REPORT_EXIT => report.value,
                    _ => 0,
                };
                Err(LaunchError::Died(status))
            }
        }
    }

    /// The guardian's process.
    fn guardian(
        &self,
        supervisor: RawFd,
        control: RawFd,
        guest_control: RawFd,
        argv: &[*const libc::c_char],
        envp: &[*const libc::c_char],
    ) -> ! {
        // SAFETY: system calls on descriptors and memory that the fork copied.
        unsafe {
            libc::prctl(libc::PR_SET_NAME, c"nomina-guard".as_ptr());
            libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
            let nproc =
                self.nproc.and_then(|tasks| native_nproc(tasks)).unwrap_or(u64::MAX).min(self.nproc_total);
            let first = libc::fork();
            if first == 0 {
                let mut limit: libc::rlimit = std::mem::zeroed();
                libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit);
                let limit =
                    libc::rlimit { rlim_cur: limit.rlim_cur.min(nproc), rlim_max: limit.rlim_max.min(nproc) };
                libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit);
                self.first_guest(guest_control, argv, envp);
            }
            let report = if first > 0 {
                Report { kind: REPORT_PID, value: first, errno: 0 }
            } else {
                Report { kind: REPORT_FAILED, value: 0, errno: errno() }
            };
            let bytes = report.bytes();
            libc::send(control, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
            // Keep nothing of the supervisor's but the two descriptors this process lives on.
            let low = supervisor.min(control);
            let high = supervisor.max(control);
            for (from, to) in [(0, low - 1), (low + 1, high - 1), (high + 1, i32::MAX)] {
                if from <= to {
                    libc::syscall(libc::SYS_close_range, from, to, 0);
                }
            }
            guardian::watch(supervisor, control, first);
            libc::_exit(0)
        }
    }

    /// The first guest's process, until it is the shim.
    fn first_guest(&self, control: RawFd, argv: &[*const libc::c_char], envp: &[*const libc::c_char]) -> ! {
        let failed = |step: Step| -> ! {
            // SAFETY: system calls only.
            unsafe {
                let bytes = Report { kind: REPORT_FAILED, value: step as i32, errno: errno() }.bytes();
                libc::send(control, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
                libc::_exit(125)
            }
        };
        // SAFETY: system calls only, on descriptors and memory that the fork copied.
        unsafe {
            if self.foreground {
                libc::setpgid(0, 0);
                libc::signal(libc::SIGTTOU, libc::SIG_IGN);
                for fd in self.stdio.map(raw) {
                    if libc::isatty(fd) == 1 && libc::tcsetpgrp(fd, libc::getpid()) == 0 {
                        break;
                    }
                }
                libc::signal(libc::SIGTTOU, libc::SIG_DFL);
            }
            for signal in 1..32 {
                // A Rust program ignores SIGPIPE; the guest starts with defaults.
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());

            let hidden = u64::from(abi::HIDDEN_FD_BASE + abi::HIDDEN_FDS);
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
            limit.rlim_cur = hidden.max(limit.rlim_cur).min(limit.rlim_max);
            if limit.rlim_cur < hidden || libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
                failed(Step::Limits);
            }
            // Sources may stand below 3 or in each other's way: move them up first.
            let up = |fd| libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 64);
            let stdio = self.stdio.map(|fd| up(raw(fd)));
            let (socket, shim) = (up(raw(self.socket)), up(raw(self.shim)));
            let (control, landlock) = (up(control), up(raw(self.landlock)));
            for (to, from) in stdio.into_iter().enumerate() {
                if libc::dup2(from, to as i32) < 0 {
                    failed(Step::Descriptors);
                }
            }
            for fd in abi::HIDDEN_FD_BASE..abi::HIDDEN_FD_BASE + abi::HIDDEN_FDS {
                let from = if fd as i32 == abi::FD_SOCK { socket } else { shim };
                if libc::dup2(from, fd as i32) < 0 {
                    failed(Step::Descriptors);
                }
            }
            // Whatever else the caller had open without close-on-exec must not reach the guest.
            let above = abi::HIDDEN_FD_BASE + abi::HIDDEN_FDS;
            for (from, to) in [(3, abi::HIDDEN_FD_BASE - 1), (above, u32::MAX)] {
                libc::syscall(libc::SYS_close_range, from, to, libc::CLOSE_RANGE_CLOEXEC);
            }
            // Below the hidden numbers the guest's limit is the host's; above, the hidden ones do not count.
            let hidden =
                if self.nofile < abi::HIDDEN_FD_BASE.into() { 0 } else { u64::from(abi::HIDDEN_FDS) };
            limit.rlim_cur = (self.nofile + hidden).min(limit.rlim_max);
            if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) != 0 {
                failed(Step::Limits);
            }
            libc::chdir(c"/".as_ptr());
            libc::umask(0);

            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                failed(Step::NoNewPrivs);
            }
            if libc::syscall(libc::SYS_landlock_restrict_self, landlock, 0) != 0 {
                failed(Step::Landlock);
            }
            if !drop_capabilities() {
                failed(Step::Capabilities);
            }
            let Some(trampoline) = trampoline() else { failed(Step::Trampoline) };
            let program =
                libc::sock_fprog { len: self.filter.len() as u16, filter: self.filter.as_ptr().cast_mut() };
            let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
            let listener =
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program);
            if listener < 0 {
                failed(Step::Seccomp);
            }
            if !send_fd(trampoline, control, listener as RawFd) {
                failed(Step::Handover);
            }
            let mut go = 0u8;
            if libc::read(control, (&raw mut go).cast(), 1) != 1 {
                libc::_exit(125);
            }
            trampoline(
                libc::SYS_execveat,
                i64::from(abi::FD_SHIM),
                c"".as_ptr() as i64,
                argv.as_ptr() as i64,
                envp.as_ptr() as i64,
                i64::from(libc::AT_EMPTY_PATH),
            );
            failed(Step::Exec)
        }
    }
}

impl Launched {
    /// The notification listener, once.
    ///
    /// # Panics
    /// When taken twice.
    pub fn take_listener(&mut self) -> OwnedFd {
        self.listener.take().expect("the listener is taken once")
    }

    /// Lets the guest run the shim. Gives the control socket: it carries [`Report`]s, and closing it ends the sandbox.
    ///
    /// # Errors
    /// The guest died meanwhile, or the exec failed.
    pub fn go(self) -> Result<Control, LaunchError> {
        let gone = |source| LaunchError::Prepare { what: "the first guest died", source };
        sock::send(self.guest_control.as_fd(), b"g", &[]).map_err(gone)?;
        let mut data = [0u8; 12];
        // A successful exec closes the guest's end.
        match sock::recv(self.guest_control.as_fd(), &mut data) {
            Ok(_) => {
                let report = Report::parse(&data).unwrap_or(Report { kind: 0, value: 8, errno: 0 });
                let source = io::Error::from_raw_os_error(report.errno);
                Err(LaunchError::Guest { step: report.value, source })
            }
            Err(_) => Ok(Control { socket: self.control, guardian: self.guardian }),
        }
    }
}

/// The supervisor's hold on the guardian. Dropping it ends every guest.
pub struct Control {
    socket: OwnedFd,
    guardian: i32,
}

impl Control {
    /// Waits for the first guest's wait status (`wait(2)`); `None` if the guardian died first. `stopped` is called with the stop
    /// signal when the guest stops.
    pub fn wait(&self, mut stopped: impl FnMut(i32)) -> Option<i32> {
        let mut data = [0u8; 12];
        loop {
            sock::recv(self.socket.as_fd(), &mut data).ok()?;
            match Report::parse(&data) {
                Some(Report { kind: REPORT_EXIT, value, .. }) => return Some(value),
                Some(Report { kind: REPORT_STOPPED, value, .. }) => stopped(libc::WSTOPSIG(value)),
                _ => {}
            }
        }
    }

    /// Ends every guest and waits for the guardian.
    pub fn finish(self) {
        let Control { socket, guardian } = self;
        drop(socket);
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(guardian, ptr::null_mut(), 0) };
    }
}

/// Room beside the guests' tasks in the limit of [`native_nproc`]: what the user starts elsewhere meanwhile must not use it up.
const NPROC_SLACK: u64 = 1024;

/// The native `RLIMIT_NPROC` under which a sandbox can have `tasks` tasks. The kernel compares it with the number of all tasks
/// of the user, in whatever container, which only forks can find out. `None` for users whom the limit does not bind (root),
/// and where it is tighter already.
unsafe fn native_nproc(tasks: u64) -> Option<u64> {
    // SAFETY: system calls on local structures; the children only exit.
    unsafe {
        let mut before: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NPROC, &raw mut before);
        let can_fork = |limit: u64| {
            let limit = libc::rlimit { rlim_cur: limit, ..before };
            libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit);
            match libc::fork() {
                0 => libc::_exit(0),
                pid if pid > 0 => {
                    libc::waitpid(pid, ptr::null_mut(), 0);
                    true
                }
                _ => false,
            }
        };
        // The lowest limit under which a fork works counts the new task.
        let (mut low, mut high) = (0, before.rlim_max.min(1 << 22));
        let bound = !can_fork(0);
        while bound && low < high {
            let middle = low + (high - low) / 2;
            if can_fork(middle) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        libc::setrlimit(libc::RLIMIT_NPROC, &raw const before);
        let wanted = low + tasks + NPROC_SLACK;
        (bound && wanted < before.rlim_max).then_some(wanted)
    }
}

type Trampoline = extern "C" fn(i64, i64, i64, i64, i64, i64) -> i64;

/// Empties all capability sets and the bounding set (`capabilities(7)`). Nothing to do for an ordinary user.
unsafe fn drop_capabilities() -> bool {
    // SAFETY: system calls on local structures.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0
                && errno() != libc::EINVAL
                && errno() != libc::EPERM
            {
                return false;
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        // struct __user_cap_header_struct of version 3, then two words of each set.
        let header: [u32; 2] = [0x2008_0522, 0];
        let data = [0u32; 6];
        libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) == 0
    }
}

/// A page at the shim's address with one system call in it. The filter allows `execveat` of an empty path only from
/// there, and the exec replaces the page by the shim.
unsafe fn trampoline() -> Option<Trampoline> {
    // SAFETY: a fixed mapping at an address that nothing else in this process uses; NOREPLACE fails otherwise.
    unsafe {
        let code: &[u8] = crate::arch::TRAMPOLINE;
        let page = libc::mmap(
            abi::SHIM_BASE as *mut libc::c_void,
            4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
            -1,
            0,
        );
        if page as u64 != abi::SHIM_BASE {
            return None;
        }
        ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
        if libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC) != 0 {
            return None;
        }
        Some(std::mem::transmute::<*mut libc::c_void, Trampoline>(page))
    }
}

/// Sends one descriptor without allocating.
unsafe fn send_fd(trampoline: Trampoline, socket: RawFd, fd: RawFd) -> bool {
    // SAFETY: the control buffer is large and aligned enough for one descriptor.
    unsafe {
        let mut byte = 0u8;
        let mut iov = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut space = [0u64; 4];
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = space.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as usize;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast(), fd);
        trampoline(libc::SYS_sendmsg, socket.into(), &raw const message as i64, 0, 0, 0) == 1
    }
}

fn errno() -> i32 {
    // SAFETY: errno is this thread's.
    unsafe { *libc::__errno_location() }
}

/// Strings for `execveat`.
///
/// # Errors
/// `InvalidInput` for a string with a NUL byte.
pub fn c_strings<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> io::Result<Vec<CString>> {
    strings.into_iter().map(|s| CString::new(s).map_err(|_| io::ErrorKind::InvalidInput.into())).collect()
}
