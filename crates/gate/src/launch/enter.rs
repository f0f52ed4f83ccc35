//! More first guests for a sandbox that runs: processes that enter it from outside (`docker exec`).
//!
//! The supervisor asks the guardian, which forks them as it has forked the first one, so they take the same way: the same filter,
//! Landlock and lock-down, and they die with the supervisor. A request is one message on the control socket with descriptors: standard
//! streams, the guest's end of its hidden socket and of its own control socket, where the guardian reports of it (pid and
//! exit), and a memory file with its strings. Each has a filter of its own, hence a listener of its own.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Arc, Weak};

use rustix::fs::MemfdFlags;

use super::lockdown::{Recruit, Session};
use super::{LaunchError, errno, let_go, receive_listener};
use crate::guardian::{REPORT_EXIT, REPORT_FAILED, REPORT_PID, Report};
use crate::sock;

/// Descriptors in a request.
const FDS: usize = 7;
/// Most processes that have entered and not ended, at a time.
const VISITORS: usize = 512;
/// The session has a terminal.
const WITH_TERMINAL: u32 = 1;

/// What a process that enters is made of.
pub struct Enter<'a> {
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Guest's end of the hidden socket.
    pub socket: BorrowedFd<'a>,
    /// `argv` of the program.
    pub argv: &'a [CString],
    /// `envp`.
    pub envp: &'a [CString],
    /// Standard input is a terminal, which becomes the controlling one of the process's session.
    pub terminal: bool,
}

/// Where processes enter: a sandbox's guardian. Works until the sandbox is ended.
#[derive(Clone)]
pub struct Entrance(Weak<OwnedFd>);

/// A process that is locked down and waits for [`Entered::go`].
pub struct Entered {
    listener: Option<OwnedFd>,
    /// Its host pid.
    pub pid: i32,
    guest_control: OwnedFd,
    report: OwnedFd,
}

/// A process that has entered and runs.
pub struct Visit {
    report: OwnedFd,
}

impl Entrance {
    pub(super) fn new(control: &Arc<OwnedFd>) -> Entrance {
        Entrance(Arc::downgrade(control))
    }

    /// Has the guardian fork a process and waits until it has locked itself down.
    ///
    /// # Errors
    /// [`LaunchError`] tells the step; the guardian's `EAGAIN` when very many have entered.
    pub fn enter(&self, enter: &Enter<'_>) -> Result<Entered, LaunchError> {
        let prepare = |what| move |source| LaunchError::Prepare { what, source };
        let ended = || prepare("the sandbox has ended")(io::ErrorKind::NotConnected.into());
        let guardian = self.0.upgrade().ok_or_else(ended)?;
        let (guest_control, guest_theirs) = sock::pair().map_err(prepare("socketpair"))?;
        let (report, report_theirs) = sock::pair().map_err(prepare("socketpair"))?;
        let strings = strings(enter.argv, enter.envp).map_err(prepare("writing the arguments"))?;
        let [stdin, stdout, stderr] = enter.stdio;
        let fds: [BorrowedFd<'_>; FDS] = [
            stdin,
            stdout,
            stderr,
            enter.socket,
            guest_theirs.as_fd(),
            report_theirs.as_fd(),
            strings.as_fd(),
        ];
        let flags = if enter.terminal { WITH_TERMINAL } else { 0 };
        sock::send(guardian.as_fd(), &flags.to_ne_bytes(), &fds).map_err(prepare("asking the guardian"))?;
        drop((guest_theirs, report_theirs));
        let (pid, listener) = receive_listener(report.as_fd(), guest_control.as_fd())?;
        Ok(Entered { listener: Some(listener), pid, guest_control, report })
    }
}

impl Entered {
    /// The notification listener, once.
    ///
    /// # Panics
    /// When taken twice.
    pub fn take_listener(&mut self) -> OwnedFd {
        self.listener.take().expect("the listener is taken once")
    }

    /// Lets it run the shim.
    ///
    /// # Errors
    /// It died meanwhile, or the exec failed.
    pub fn go(self) -> Result<Visit, LaunchError> {
        let_go(self.guest_control.as_fd())?;
        Ok(Visit { report: self.report })
    }
}

impl Visit {
    /// Waits for its wait status (`wait(2)`); `None` when the sandbox ends.
    pub fn wait(&self) -> Option<i32> {
        let mut data = [0u8; 12];
        loop {
            sock::recv(self.report.as_fd(), &mut data).ok()?;
            if let Some(Report { kind: REPORT_EXIT, value, .. }) = Report::parse(&data) {
                return Some(value);
            }
        }
    }
}

impl AsFd for Visit {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }
}

/// Strings as the guardian's child uses them where they are: their number, pointers as offsets (0 ends an array), the bytes.
fn strings(argv: &[CString], envp: &[CString]) -> io::Result<OwnedFd> {
    let mut offsets = vec![argv.len() as u64];
    let mut bytes = Vec::new();
    let start = 8 * (1 + argv.len() + 1 + envp.len() + 1);
    for list in [argv, envp] {
        for string in list {
            offsets.push((start + bytes.len()) as u64);
            bytes.extend_from_slice(string.as_bytes_with_nul());
        }
        offsets.push(0);
    }
    let mut image: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
    image.extend(bytes);
    let fd = rustix::fs::memfd_create("nomina-strings", MemfdFlags::CLOEXEC)?;
    let mut at = 0;
    while at < image.len() {
        at += rustix::io::write(&fd, &image[at..])?;
    }
    Ok(fd)
}

/// The guardian's side: who has entered, and the pattern that new ones are made after.
pub(crate) struct Reception<'a> {
    pattern: Recruit<'a>,
    /// Host pid and where to report of it; pid 0: free.
    visitors: [(libc::pid_t, RawFd); VISITORS],
}

impl<'a> Reception<'a> {
    pub(super) fn new(pattern: Recruit<'a>) -> Reception<'a> {
        Reception { pattern, visitors: [(0, -1); VISITORS] }
    }

    /// Takes a request from `control` if there is one. `false`: the supervisor has closed it.
    ///
    /// # Safety
    /// In a process with one thread that nothing but system calls may be made in.
    pub(crate) unsafe fn receive(&mut self, control: RawFd) -> bool {
        // SAFETY: local buffers that are large and aligned enough.
        unsafe {
            let mut flags = 0u32;
            let mut iov = libc::iovec { iov_base: (&raw mut flags).cast(), iov_len: 4 };
            let mut space = [0u64; 16];
            let mut message: libc::msghdr = std::mem::zeroed();
            message.msg_iov = &raw mut iov;
            message.msg_iovlen = 1;
            message.msg_control = space.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&space);
            let got = libc::recvmsg(control, &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC);
            if got <= 0 {
                return got < 0 && matches!(errno(), libc::EAGAIN | libc::EINTR);
            }
            let mut fds = [-1; FDS];
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*header).cmsg_len - libc::CMSG_LEN(0) as usize) / 4;
                for (index, fd) in fds.iter_mut().enumerate().take(count) {
                    *fd = ptr::read_unaligned(libc::CMSG_DATA(header).cast::<RawFd>().add(index));
                }
            }
            if fds.iter().all(|&fd| fd >= 0) {
                self.enter(flags, fds);
            }
            // What the child has is its own; the report's end is closed with its exit.
            let kept = self.visitors.iter().any(|&(pid, fd)| pid != 0 && fd == fds[5]);
            for (index, fd) in fds.into_iter().enumerate() {
                if fd >= 0 && !(index == 5 && kept) {
                    libc::close(fd);
                }
            }
            true
        }
    }

    /// Forks one more guest.
    unsafe fn enter(&mut self, flags: u32, fds: [RawFd; FDS]) {
        let [stdin, stdout, stderr, socket, control, report, strings] = fds;
        let free = self.visitors.iter().position(|&(pid, _)| pid == 0);
        // SAFETY: system calls; the child runs in its copy of this process and never returns.
        unsafe {
            let pid = match free {
                Some(_) => libc::fork(),
                None => {
                    *libc::__errno_location() = libc::EAGAIN;
                    -1
                }
            };
            if pid == 0 {
                let Some((argv, envp)) = map_strings(strings) else { libc::_exit(125) };
                let session = if flags & WITH_TERMINAL != 0 { Session::Terminal } else { Session::Own };
                let stdio = [stdin, stdout, stderr];
                let pattern = &self.pattern;
                Recruit { stdio, socket, control, session, argv, envp, ..*pattern }.run();
            }
            let told = if pid > 0 {
                Report { kind: REPORT_PID, value: pid, errno: 0 }
            } else {
                Report { kind: REPORT_FAILED, value: 0, errno: errno() }
            };
            send(report, told);
            if let Some(free) = free.filter(|_| pid > 0) {
                self.visitors[free] = (pid, report);
            }
        }
    }

    /// A child of the guardian has ended: reports it if it is one of those who entered.
    ///
    /// # Safety
    /// As [`Reception::receive`].
    pub(crate) unsafe fn ended(&mut self, pid: libc::pid_t, status: i32) {
        let visitor = self.visitors.iter_mut().find(|(known, _)| *known == pid);
        if let Some(visitor) = visitor {
            // SAFETY: system calls on a descriptor that is ours.
            unsafe {
                send(visitor.1, Report { kind: REPORT_EXIT, value: status, errno: 0 });
                libc::close(visitor.1);
            }
            *visitor = (0, -1);
        }
    }
}

unsafe fn send(socket: RawFd, report: Report) {
    let bytes = report.bytes();
    // SAFETY: a local buffer.
    unsafe {
        libc::send(socket, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    };
}

type Strings = *const *const libc::c_char;

/// Maps what [`strings`] wrote and makes pointers of its offsets.
unsafe fn map_strings(fd: RawFd) -> Option<(Strings, Strings)> {
    // SAFETY: a private mapping of a whole file that the supervisor made, which has the shape that `strings` gives it.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        if libc::fstat(fd, &raw mut stat) != 0 {
            return None;
        }
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let base = libc::mmap(ptr::null_mut(), stat.st_size as usize, prot, libc::MAP_PRIVATE, fd, 0);
        if base == libc::MAP_FAILED {
            return None;
        }
        let words = base.cast::<u64>();
        let argc = *words as usize;
        let mut at = 1;
        for _ in 0..2 {
            while *words.add(at) != 0 {
                *words.add(at) += base as u64;
                at += 1;
            }
            at += 1;
        }
        Some((words.add(1).cast(), words.add(1 + argc + 1).cast()))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn strings_arrive_as_arrays_that_end_with_null() {
        let list = |words: &[&str]| -> Vec<CString> {
            words.iter().map(|word| CString::new(*word).unwrap()).collect()
        };
        for (argv, envp) in [(list(&["sh", "", "-c"]), list(&["A=1"])), (list(&["x"]), list(&[]))] {
            let fd = strings(&argv, &envp).unwrap();
            // SAFETY: the file was just made by `strings`.
            let (got_argv, got_envp) = unsafe { map_strings(fd.as_raw_fd()) }.unwrap();
            for (got, want) in [(got_argv, argv), (got_envp, envp)] {
                for (index, string) in want.iter().enumerate() {
                    // SAFETY: the arrays have at least as many strings.
                    assert_eq!(unsafe { CStr::from_ptr(*got.add(index)) }, string.as_c_str());
                }
                // SAFETY: and a null behind them.
                assert!(unsafe { *got.add(want.len()) }.is_null());
            }
        }
    }
}
