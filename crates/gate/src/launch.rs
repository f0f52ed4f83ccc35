//! The launch of the first guest: supervisor → guardian → first guest, which locks itself down and then runs the shim.
//!
//! Everything the two forked processes need is prepared before the fork, since they may not allocate.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use crate::guardian::{self, REPORT_EXIT, REPORT_FAILED, REPORT_PID, REPORT_STOPPED, Report, raw};
use lockdown::{Recruit, Session, native_nproc};

mod enter;
mod lockdown;

use crate::sock;
pub(crate) use enter::Reception;
pub use enter::{Enter, Entered, Entrance, Visit};

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
    /// Making the terminal the controlling one.
    Terminal,
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
        10 => "making the terminal its own",
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
        let (pid, listener) = receive_listener(control.as_fd(), guest_control.as_fd())?;
        Ok(Launched { listener: Some(listener), pid, guardian, control, guest_control })
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
            let recruit = Recruit {
                shim: raw(self.shim),
                landlock: raw(self.landlock),
                stdio: self.stdio.map(raw),
                socket: raw(self.socket),
                control: guest_control,
                filter: self.filter,
                nofile: self.nofile,
                nproc,
                session: if self.foreground { Session::Foreground } else { Session::Callers },
                argv: argv.as_ptr(),
                envp: envp.as_ptr(),
            };
            let first = libc::fork();
            if first == 0 {
                recruit.run();
            }
            let report = if first > 0 {
                Report { kind: REPORT_PID, value: first, errno: 0 }
            } else {
                Report { kind: REPORT_FAILED, value: 0, errno: errno() }
            };
            let bytes = report.bytes();
            libc::send(control, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
            // Keep nothing of the supervisor's but what this process lives on, and what more guests are made of.
            let mut keep = [supervisor, control, recruit.shim, recruit.landlock];
            keep.sort_unstable();
            let mut from = 0;
            for fd in keep {
                if from < fd {
                    libc::syscall(libc::SYS_close_range, from, fd - 1, 0);
                }
                from = fd + 1;
            }
            libc::syscall(libc::SYS_close_range, from, i32::MAX, 0);
            guardian::watch(supervisor, control, first, &mut Reception::new(recruit));
            libc::_exit(0)
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
        let_go(self.guest_control.as_fd())?;
        Ok(Control { socket: Arc::new(self.control), guardian: self.guardian })
    }
}

/// Waits until a guest has locked itself down: its host pid by the guardian's report, and its listener.
fn receive_listener(
    control: BorrowedFd<'_>,
    guest_control: BorrowedFd<'_>,
) -> Result<(i32, OwnedFd), LaunchError> {
    let mut data = [0u8; 12];
    sock::recv(control, &mut data)
        .map_err(|source| LaunchError::Prepare { what: "the guardian died", source })?;
    let pid = match Report::parse(&data) {
        Some(Report { kind: REPORT_PID, value, .. }) => value,
        Some(Report { kind: REPORT_EXIT, value, .. }) => return Err(LaunchError::Died(value)),
        Some(Report { kind: REPORT_FAILED, errno, .. }) => {
            let source = io::Error::from_raw_os_error(errno);
            return Err(LaunchError::Prepare { what: "fork", source });
        }
        _ => 0,
    };
    match sock::recv(guest_control, &mut data) {
        Ok((_, mut fds)) if fds.len() == 1 => Ok((pid, fds.remove(0))),
        Ok(_) => match Report::parse(&data) {
            Some(Report { kind: REPORT_FAILED, value, errno }) => {
                Err(LaunchError::Guest { step: value, source: io::Error::from_raw_os_error(errno) })
            }
            _ => Err(LaunchError::Died(0)),
        },
        Err(_) => {
            let status = match sock::recv(control, &mut data).ok().and(Report::parse(&data)) {
                Some(report) if report.kind == REPORT_EXIT => report.value,
                _ => 0,
            };
            Err(LaunchError::Died(status))
        }
    }
}

/// Lets a guest that has locked itself down run the shim.
fn let_go(guest_control: BorrowedFd<'_>) -> Result<(), LaunchError> {
    let gone = |source| LaunchError::Prepare { what: "the first guest died", source };
    sock::send(guest_control, b"g", &[]).map_err(gone)?;
    let mut data = [0u8; 12];
    // A successful exec closes the guest's end.
    match sock::recv(guest_control, &mut data) {
        Ok(_) => {
            let report = Report::parse(&data).unwrap_or(Report { kind: 0, value: 8, errno: 0 });
            let source = io::Error::from_raw_os_error(report.errno);
            Err(LaunchError::Guest { step: report.value, source })
        }
        Err(_) => Ok(()),
    }
}

/// The supervisor's hold on the guardian. Dropping it ends every guest.
pub struct Control {
    socket: Arc<OwnedFd>,
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

    /// Where more processes can be started, as long as this is not dropped.
    pub fn entrance(&self) -> Entrance {
        Entrance::new(&self.socket)
    }

    /// Ends every guest and waits for the guardian.
    pub fn finish(self) {
        let guardian = self.guardian;
        drop(self);
        // SAFETY: waits for our own child.
        unsafe { libc::waitpid(guardian, ptr::null_mut(), 0) };
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Not by closing it: who starts a process at this moment holds it too.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
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
