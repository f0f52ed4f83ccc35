//! What ends guests when the supervisor and the guardian are killed at one moment.
//!
//! Either of them kills the guests when the other dies. So that nothing depends on one of them living, the host itself is asked to:
//! the supervisor holds both ends of a pipe, and for each guest process an open file of the reading end that sends `SIGKILL` to it
//! (`F_SETSIG`, `F_SETOWN_EX`) when the last writer is gone. The host closes the supervisor's descriptors in descending
//! order (`exit_files` puts them on a list that is worked off from its end), so the writing end has the highest number.
//!
//! Guests have none of these descriptors. Processes are tied by the thread that looks after exits, within half a second of
//! their beginning; those that the supervisor does not know (made behind its back) are not.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use super::Server;
use super::controls::signal_at_events;
use super::guest::GuestProcess;
use super::lock::Mutex;
use super::reaper::is_zombie_or_alive;

/// The pipe.
pub struct Tethers {
    reader: OwnedFd,
    writer: Mutex<OwnedFd>,
}

/// How far above the others the writing end is put.
const ABOVE: i32 = 256;

impl Tethers {
    /// No guest is tied yet.
    ///
    /// # Errors
    /// Those of `pipe2(2)`.
    pub fn new() -> io::Result<Tethers> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let tethers = Tethers { reader, writer: Mutex::new(writer) };
        tethers.raise(tethers.reader.as_raw_fd())?;
        Ok(tethers)
    }

    /// Puts the writing end above `fd`.
    fn raise(&self, fd: i32) -> io::Result<()> {
        let mut writer = self.writer.lock().unwrap();
        if writer.as_raw_fd() < fd {
            // Where the limit of descriptors leaves less room.
            let higher = [ABOVE, 16, 1]
                .into_iter()
                .find_map(|room| rustix::io::fcntl_dupfd_cloexec(&*writer, fd + room).ok());
            *writer = higher.ok_or(io::ErrorKind::QuotaExceeded)?;
        }
        Ok(())
    }

    /// Ties the guests that are not tied yet. One that cannot be is tied the next time.
    pub fn tie_all(&self, server: &Server) {
        for thread in server.guests.all() {
            let process = &thread.process;
            if process.tether.get().is_none()
                && !process.exited.load(Ordering::Acquire)
                && let Ok(tether) = self.tie(process)
            {
                let _ = process.tether.set(tether);
            }
        }
    }

    fn tie(&self, process: &GuestProcess) -> io::Result<OwnedFd> {
        let pidfd = process.pidfd.get().ok_or(io::ErrorKind::NotFound)?;
        // An open file of its own: the owner belongs to that.
        let link = format!("/proc/self/fd/{}", self.reader.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let tether = rustix::fs::open(link, flags, Mode::empty())?;
        self.raise(tether.as_raw_fd())?;
        let pid = process.host_pid.load(Ordering::Acquire);
        signal_at_events(tether.as_fd(), libc::SIGKILL, pid, false)?;
        // A number that belongs to somebody else by now must not be killed. From here on it cannot change hands: the host
        // keeps the process, not its number.
        if is_zombie_or_alive(pidfd) { Ok(tether) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}
