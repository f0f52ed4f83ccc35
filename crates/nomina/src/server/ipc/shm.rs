//! Memory of System V segments.
//!
//! A segment is a sealed memfd that the supervisor holds. Who attaches it gets a descriptor with an open file description of its own,
//! maps it and closes the descriptor; after that only mappings hold the description, across `fork(2)` and partial `munmap(2)`. Each
//! has an OFD lock (`fcntl(2)`), which the host drops with the description, so one question tells whether a segment is attached. How
//! often, as `ipcs` shows it, is counted in the memory maps of the guests.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::shm::ShmFile;
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};

use super::super::Server;
use super::super::lock::Mutex;
use super::super::request::host;

/// Device and inode number.
type Key = (u64, u64);

/// What the host calls the memory of a segment, before its key in hexadecimal digits.
const NAME: &str = "SYSV";
const PAGE_SIZE: u64 = 4096;

/// The memory of a segment.
pub struct Memory {
    memfd: OwnedFd,
    key: Key,
}

/// The segments of all namespaces.
#[derive(Default)]
pub struct Segments(Mutex<HashMap<Key, Weak<Memory>>>);

impl ShmFile for Memory {
    fn is_attached(&self) -> bool {
        // SAFETY: a structure of integers, for which all bits are valid.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_WRLCK as i16;
        // SAFETY: reads and writes the structure.
        let asked = unsafe { libc::fcntl(self.memfd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
        asked < 0 || lock.l_type != libc::F_UNLCK as i16
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Memory {
    /// A descriptor to map it by; it is attached until the last mapping made with it is gone.
    ///
    /// # Errors
    /// Those of `open(2)` and `fcntl(2)`.
    pub fn open(&self, readonly: bool) -> Result<OwnedFd> {
        let link = format!("/proc/self/fd/{}", self.memfd.as_raw_fd());
        let access = if readonly { OFlags::RDONLY } else { OFlags::RDWR };
        let fd = rustix::fs::open(link, access | OFlags::CLOEXEC, Mode::empty()).map_err(host)?;
        // SAFETY: a structure of integers, for which all bits are valid.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = libc::F_RDLCK as i16;
        // SAFETY: reads the structure.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } < 0 {
            return Err(host(std::io::Error::last_os_error()));
        }
        Ok(fd)
    }

    /// Pages in memory.
    pub fn rss(&self) -> u64 {
        rustix::fs::fstat(&self.memfd).map_or(0, |stat| stat.st_blocks as u64 * 512 / PAGE_SIZE)
    }

    /// Its device and inode number.
    pub fn key(&self) -> Key {
        self.key
    }
}

impl Segments {
    /// Makes the memory of a segment with a key.
    ///
    /// # Errors
    /// `ENOMEM` for more than the machine has; `ENOSPC` when there are too many; those of `memfd_create(2)`.
    pub fn create(&self, key: i32, size: u64, reserve: bool) -> Result<Arc<dyn ShmFile>> {
        let mut all = self.0.lock().unwrap();
        all.retain(|_, memory| memory.strong_count() > 0);
        if all.len() >= nomina_fs::wait::descriptor_share() {
            return Err(Errno::ENOSPC);
        }
        // `__vm_enough_memory`, as it guesses.
        let info = rustix::system::sysinfo();
        let machine = (info.totalram as u64 + info.totalswap as u64).saturating_mul(info.mem_unit.into());
        if reserve && size > machine {
            return Err(Errno::ENOMEM);
        }
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create(format!("{NAME}{key:08x}"), flags).map_err(host)?;
        rustix::fs::ftruncate(&memfd, size.next_multiple_of(PAGE_SIZE)).map_err(|_| Errno::ENOMEM)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memfd, seals).map_err(host)?;
        let stat = rustix::fs::fstat(&memfd).map_err(host)?;
        let memory = Arc::new(Memory { memfd, key: (stat.st_dev, stat.st_ino) });
        all.insert(memory.key, Arc::downgrade(&memory));
        Ok(memory)
    }

    /// Whether a file is the memory of a segment.
    pub fn has(&self, key: Key) -> bool {
        self.0.lock().unwrap().get(&key).is_some_and(|memory| memory.strong_count() > 0)
    }
}

/// A mapping of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Behind the last.
    pub end: u64,
    /// Where in the segment it begins, in bytes.
    pub offset: u64,
    /// Device and inode number of the segment's memory.
    pub key: Key,
}

/// The mappings of segments in the memory of a host process.
pub fn mappings_of(host_pid: i32) -> Vec<Mapping> {
    let maps = std::fs::read(format!("/proc/{host_pid}/maps")).unwrap_or_default();
    maps.split(|&byte| byte == b'\n').filter_map(mapping).collect()
}

/// A line of `maps` (`proc_pid_maps(5)`), if it shows a segment.
fn mapping(line: &[u8]) -> Option<Mapping> {
    let name = &line[line.iter().position(|&byte| byte == b'/')?..];
    name.strip_prefix(b"/memfd:")?.strip_prefix(NAME.as_bytes())?;
    let text = std::str::from_utf8(&line[..line.len() - name.len()]).ok()?;
    let mut words = text.split_ascii_whitespace();
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = words.next()?.split_once('-')?;
    let offset = hex(words.nth(1)?)?;
    let (major, minor) = words.next()?.split_once(':')?;
    let dev = rustix::fs::makedev(hex(major)? as u32, hex(minor)? as u32);
    let ino = words.next()?.parse().ok()?;
    Some(Mapping { start: hex(start)?, end: hex(end)?, offset, key: (dev, ino) })
}

/// What `shmdt(2)` of `addr` unmaps: from the mapping on that shows the segment where it would begin at `addr`, all others of it in
/// their places.
pub fn detached_at(mappings: &[Mapping], addr: u64, size: impl Fn(Key) -> u64) -> Vec<(u64, u64)> {
    let in_place = |m: &&Mapping| m.end > addr && m.start.checked_sub(addr) == Some(m.offset);
    let Some(first) = mappings.iter().find(in_place) else { return Vec::new() };
    let size = size(first.key).max(first.end - addr);
    mappings
        .iter()
        .filter(|m| m.key == first.key && m.start >= first.start && m.end - addr <= size)
        .filter(in_place)
        .map(|m| (m.start, m.end))
        .collect()
}

impl Server {
    /// How often each of the segments with these keys is mapped (`shm_nattch`).
    pub fn count_attached(self: &Arc<Self>) -> HashMap<Key, u64> {
        let mut counts = HashMap::new();
        let (mut pids, mut spaces) = (HashSet::new(), HashSet::new());
        for thread in self.guests.all() {
            let pid = match thread.process.host_pid.load(Ordering::Acquire) {
                // One that was forked and has asked for nothing yet has what its maker had.
                0 => self.seek(&thread).unwrap_or(0),
                pid => pid,
            };
            // What shares memory, a vfork or a clone with CLONE_VM, is one.
            let fresh = thread.image().is_none_or(|image| spaces.insert(Arc::as_ptr(image.space())));
            if pid == 0 || !fresh || !pids.insert(pid) {
                continue;
            }
            for mapping in mappings_of(pid) {
                *counts.entry(mapping.key).or_default() += 1;
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_attached_as_long_as_a_description_lives() {
        let segments = Segments::default();
        let file = segments.create(1, 5000, true).unwrap();
        let memory = file.as_any().downcast_ref::<Memory>().unwrap();
        assert!(segments.has(memory.key()));
        assert!(!file.is_attached());
        let (a, b) = (memory.open(true).unwrap(), memory.open(false).unwrap());
        let copy = a.try_clone().unwrap();
        drop((a, b));
        assert!(file.is_attached());
        drop(copy);
        assert!(!file.is_attached());
        let key = memory.key();
        drop(file);
        assert!(!segments.has(key));
    }

    #[test]
    fn a_segment_cannot_be_made_smaller_by_who_attaches_it() {
        let file = Segments::default().create(0, 1, true).unwrap();
        let fd = file.as_any().downcast_ref::<Memory>().unwrap().open(false).unwrap();
        assert_eq!(rustix::fs::ftruncate(&fd, 0), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 4096);
    }

    #[test]
    fn only_lines_of_segments_are_mappings() {
        let line = b"7f00aa000000-7f00aa002000 rw-s 00001000 00:01 4711     /memfd:SYSV0000002a (deleted)";
        let (start, end) = (0x7f00_aa00_0000, 0x7f00_aa00_2000);
        assert_eq!(mapping(line), Some(Mapping { start, end, offset: 0x1000, key: (1, 4711) }));
        assert_eq!(
            mapping(b"7f00aa000000-7f00aa002000 rw-s 00001000 00:01 4711  /memfd:nomina-region"),
            None
        );
        assert_eq!(mapping(b"7f00aa000000-7f00aa002000 rw-p 00000000 00:00 0 "), None);
        assert_eq!(mapping(b""), None);
    }

    #[test]
    fn what_is_left_of_an_attachment_is_detached_together() {
        let at = |start, end, offset, ino| Mapping { start, end, offset, key: (1, ino) };
        let mappings = [
            at(0x1000, 0x2000, 0x0, 7),
            at(0x2000, 0x3000, 0x0, 8),
            at(0x3000, 0x5000, 0x2000, 7),
            at(0x9000, 0xd000, 0x0, 7),
        ];
        let size = |_| 0x4000;
        assert_eq!(detached_at(&mappings, 0x1000, size), [(0x1000, 0x2000), (0x3000, 0x5000)]);
        assert_eq!(detached_at(&mappings, 0x9000, size), [(0x9000, 0xd000)]);
        assert!(detached_at(&mappings, 0x4000, size).is_empty());
        assert_eq!(detached_at(&mappings[2..], 0x1000, size), [(0x3000, 0x5000)]);
    }
}
