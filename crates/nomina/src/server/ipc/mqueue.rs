//! Descriptors of POSIX message queues.
//!
//! In Linux the descriptor of a queue is a file that can be polled. Here it is a FIFO without a name, one for each open file
//! description, that holds as many packets as polling it tells the truth: none when the queue is empty, two, which fill it, when the
//! queue is full, else one. An OFD lock (`fcntl(2)`) on the guest's description goes with its last copy, by which we know that it is
//! closed.
//!
//! Where ours differs: reading such a descriptor does not give the state of the queue; reading its file in a mounted mqueue does. What a
//! program writes into its own descriptor spoils its own polling until the queue changes.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::IpcNamespace;
use nomina_kernel::ipc::mqueue::MqNotify;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;

use super::super::lock::Mutex;
use super::super::request::host;

type Key = (u64, u64);

/// Pages of a FIFO: one for each packet.
const ROOM: i32 = 2 * 4096;

/// An open file description.
#[derive(Clone)]
pub struct MqFile {
    /// The namespace of its queue.
    pub ns: Arc<IpcNamespace>,
    /// The inode number of its queue.
    pub ino: u64,
    /// Its own number.
    pub serial: u64,
    ours: Arc<OwnedFd>,
}

/// All of them, by device and inode number of the FIFO.
#[derive(Default)]
pub struct MqFiles {
    open: Mutex<(HashMap<Key, MqFile>, u64)>,
}

impl MqFiles {
    /// Makes a description for a queue that the model has opened.
    ///
    /// # Errors
    /// `ENFILE` when there are too many; those of `pipe2(2)`, `open(2)` and `fcntl(2)`.
    pub fn open(&self, ns: &Arc<IpcNamespace>, ino: u64, flags: OFlags) -> Result<OwnedFd> {
        let mut open = self.open.lock().unwrap();
        if open.0.len() >= nomina_fs::wait::descriptor_share() {
            return Err(Errno::ENFILE);
        }
        let (reader, _writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(host)?;
        let again = |fd: &OwnedFd, access| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::open(link, access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map_err(host)
        };
        let ours = again(&reader, OFlags::RDWR)?;
        rustix::pipe::fcntl_setpipe_size(&ours, ROOM as usize).map_err(host)?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK | OFlags::DIRECT).map_err(host)?;
        let theirs = again(&ours, flags & OFlags::RWMODE)?;
        rustix::fs::fcntl_setfl(&theirs, flags & OFlags::NONBLOCK).map_err(host)?;
        let kind = if flags & OFlags::RWMODE == OFlags::WRONLY { libc::F_WRLCK } else { libc::F_RDLCK };
        // SAFETY: a structure of integers, for which all bits are valid.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as i16;
        // SAFETY: reads the structure.
        if unsafe { libc::fcntl(theirs.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } < 0 {
            return Err(host(std::io::Error::last_os_error()));
        }
        let stat = rustix::fs::fstat(&ours).map_err(host)?;
        open.1 += 1;
        let file = MqFile { ns: ns.clone(), ino, serial: open.1, ours: Arc::new(ours) };
        file.show();
        open.0.insert((stat.st_dev, stat.st_ino), file);
        Ok(theirs)
    }

    /// What a guest's descriptor is open on, if it is a queue.
    pub fn find(&self, fd: &OwnedFd) -> Option<MqFile> {
        let stat = rustix::fs::fstat(fd).ok()?;
        self.open.lock().unwrap().0.get(&(stat.st_dev, stat.st_ino)).cloned()
    }

    /// Whether a file is the FIFO of a queue.
    pub fn has(&self, key: Key) -> bool {
        self.open.lock().unwrap().0.contains_key(&key)
    }

    /// Lets those who poll a queue see how it is.
    pub fn show(&self, of: &MqFile) {
        let open = self.open.lock().unwrap();
        open.0
            .values()
            .filter(|file| file.ino == of.ino && Arc::ptr_eq(&file.ns, &of.ns))
            .for_each(MqFile::show);
    }

    /// Takes note of what was closed: who was registered by it, and is no more.
    pub fn sweep(&self) -> Vec<MqNotify> {
        let mut gone = Vec::new();
        self.open.lock().unwrap().0.retain(|_, file| {
            let open = file.is_open();
            if !open {
                gone.push((file.ns.clone(), file.ino, file.serial));
            }
            open
        });
        gone.into_iter().filter_map(|(ns, ino, serial)| ns.mq_close(ino, serial)).collect()
    }
}

impl MqFile {
    fn is_open(&self) -> bool {
        // SAFETY: a structure of integers, for which all bits are valid.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_WRLCK as i16;
        // SAFETY: reads and writes the structure.
        let asked = unsafe { libc::fcntl(self.ours.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        asked < 0 || lock.l_type != libc::F_UNLCK as i16
    }

    fn show(&self) {
        let Ok(stat) = self.ns.mq_stat(self.ino) else { return };
        let packets = match stat.attr.curmsgs {
            0 => 0,
            count if count >= stat.attr.maxmsg => 2,
            _ => 1,
        };
        let mut there = rustix::io::ioctl_fionread(&*self.ours).unwrap_or(0);
        // A guest may have written what it likes: start anew.
        if there > 2 {
            let mut rest = [0u8; ROOM as usize];
            while rustix::io::read(&*self.ours, &mut rest[..]).is_ok_and(|len| len > 0 && there > 0) {
                there -= 1;
            }
            there = 0;
        }
        while there < packets && rustix::io::write(&*self.ours, b"m").is_ok() {
            there += 1;
        }
        while there > packets && rustix::io::read(&*self.ours, &mut [0u8; 1]).is_ok() {
            there -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    #[test]
    fn a_fifo_of_packets_tells_empty_from_full_and_from_neither() {
        let (reader, _writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let link = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let ours = rustix::fs::open(link, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
        rustix::pipe::fcntl_setpipe_size(&ours, ROOM as usize).unwrap();
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK | OFlags::DIRECT).unwrap();
        let states = [PollFlags::OUT, PollFlags::OUT | PollFlags::IN, PollFlags::IN];
        for expected in states {
            let mut fds = [PollFd::new(&ours, PollFlags::IN | PollFlags::OUT)];
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
            assert_eq!(fds[0].revents(), expected);
            let _ = rustix::io::write(&ours, b"m");
        }
    }
}
