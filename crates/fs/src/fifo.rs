//! Opening FIFOs without blocking (`fifo(7)`).
//!
//! In Linux `open` of a FIFO sleeps until there is a peer. Nothing may sleep in the supervisor: an open that would is
//! answered with [`Opened::WouldBlock`], and the caller asks again. Two callers that only ask again would never meet,
//! because a non-blocking open for writing needs a reader that has the FIFO open. A refused reader therefore leaves a
//! reading end behind, for a short time: a writer finds it, and the reader's next attempt finds the writer, or, by the
//! hang-up that the kernel reports on an end that was open while a writer came and went, that there has been one.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nomina_kernel::vfs::Opened;
use nomina_kernel::{Errno, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, tee};

use crate::at::{At, GUEST_FLAGS, errno, id_of};

/// How long a refused reader counts as waiting without asking again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Readers that wait, by device and inode number of the FIFO.
#[derive(Default)]
pub(crate) struct Fifos {
    waiting: Mutex<HashMap<(u64, u64), (OwnedFd, Instant)>>,
}

impl Fifos {
    /// Opens the FIFO `at` with a guest's flags. `ENXIO` for `O_WRONLY|O_NONBLOCK` without a reader.
    pub fn open(&self, at: At<'_>, flags: u32) -> Result<Opened> {
        let asked = OFlags::from_bits_retain(flags & GUEST_FLAGS) - OFlags::TRUNC;
        let nonblocking = asked.contains(OFlags::NONBLOCK);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|_, (_, since)| since.elapsed() < PATIENCE);
        let fd = match at.open(asked | OFlags::NONBLOCK) {
            Err(Errno::ENXIO) if !nonblocking => return Ok(Opened::WouldBlock),
            other => other?,
        };
        let stat = At::new(&fd, b"").statx()?;
        if u32::from(stat.stx_mode) & libc::S_IFMT != libc::S_IFIFO {
            return Err(Errno::ENXIO);
        }
        if nonblocking {
            return Ok(Opened::Host(fd));
        }
        let id = id_of(&stat);
        if asked & OFlags::RWMODE == OFlags::RDONLY {
            let met = waiting.get(&id).is_some_and(|(end, _)| hung_up(end));
            if !met && !has_writer(&fd)? {
                let end = waiting.remove(&id).map_or(fd, |(end, _)| end);
                waiting.insert(id, (end, Instant::now()));
                return Ok(Opened::WouldBlock);
            }
            waiting.remove(&id);
        }
        rustix::fs::fcntl_setfl(&fd, asked).map_err(errno)?;
        Ok(Opened::Host(fd))
    }
}

/// Whether a writer came and went since `end` was opened.
fn hung_up(end: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(end, PollFlags::IN)];
    let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&zero)).is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::IN)
}

/// Whether the FIFO has a writer or data: `tee(2)` looks without taking, and tells "no writer" (0) from "nothing yet"
/// (`EAGAIN`).
fn has_writer(fd: &OwnedFd) -> Result<bool> {
    let (_read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(errno)?;
    match tee(fd, &write, 1, SpliceFlags::NONBLOCK) {
        Ok(copied) => Ok(copied > 0),
        Err(rustix::io::Errno::AGAIN) => Ok(true),
        Err(error) => Err(errno(error)),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode};

    use super::*;

    fn fifo() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(CWD, dir.path().join("f"), Mode::from_raw_mode(0o600)).unwrap();
        let fd = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        (dir, fd)
    }

    const READ: u32 = libc::O_RDONLY as u32;
    const WRITE: u32 = libc::O_WRONLY as u32;

    #[test]
    fn a_waiting_reader_and_a_waiting_writer_meet() {
        let (_dir, fd) = fifo();
        let (fifos, at) = (Fifos::default(), At::new(&fd, b"f"));
        assert!(matches!(fifos.open(at, WRITE).unwrap(), Opened::WouldBlock));
        assert!(matches!(fifos.open(at, READ).unwrap(), Opened::WouldBlock));
        let Opened::Host(writer) = fifos.open(at, WRITE).unwrap() else {
            panic!("the writer must find the reader")
        };
        let Opened::Host(reader) = fifos.open(at, READ).unwrap() else {
            panic!("the reader must find the writer")
        };
        rustix::io::write(&writer, b"x").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0u8; 4]).unwrap(), 1);
        assert!(!rustix::fs::fcntl_getfl(&reader).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_reader_learns_of_a_writer_that_came_and_went() {
        let (_dir, fd) = fifo();
        let (fifos, at) = (Fifos::default(), At::new(&fd, b"f"));
        assert!(matches!(fifos.open(at, READ).unwrap(), Opened::WouldBlock));
        drop(fifos.open(at, WRITE).unwrap());
        assert!(matches!(fifos.open(at, READ).unwrap(), Opened::Host(_)));
        assert!(matches!(fifos.open(at, READ).unwrap(), Opened::WouldBlock));
    }

    #[test]
    fn non_blocking_opens_answer_at_once() {
        let (_dir, fd) = fifo();
        let (fifos, at, nonblock) = (Fifos::default(), At::new(&fd, b"f"), libc::O_NONBLOCK as u32);
        assert_eq!(fifos.open(at, WRITE | nonblock).err(), Some(Errno::ENXIO));
        assert!(matches!(fifos.open(at, READ | nonblock).unwrap(), Opened::Host(_)));
        assert!(matches!(fifos.open(at, libc::O_RDWR as u32).unwrap(), Opened::Host(_)));
    }
}
