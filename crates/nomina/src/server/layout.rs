//! Structures of the Linux ABI as bytes: `struct stat`, `statx`, `statfs`, `linux_dirent64` (x86-64).

use std::sync::Arc;

use nomina_kernel::mount::Mount;
use nomina_kernel::vfs::{Attr, DirEntry, Inode, StatFs, Timespec};

/// A buffer that fields are put into.
struct Fields<const N: usize>([u8; N]);

impl<const N: usize> Fields<N> {
    fn u16(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    fn u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    fn u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }
    fn time(&mut self, at: usize, time: Timespec) {
        self.u64(at, time.sec as u64);
        self.u64(at + 8, time.nsec.into());
    }
}

/// `struct stat` (`stat(2)`).
pub fn stat(attr: &Attr) -> [u8; 144] {
    let mut s = Fields([0; 144]);
    s.u64(0, attr.dev);
    s.u64(8, attr.ino);
    s.u64(16, attr.nlink);
    s.u32(24, attr.mode);
    s.u32(28, attr.uid);
    s.u32(32, attr.gid);
    s.u64(40, attr.rdev);
    s.u64(48, attr.size);
    s.u64(56, attr.blksize.into());
    s.u64(64, attr.blocks);
    s.time(72, attr.atime);
    s.time(88, attr.mtime);
    s.time(104, attr.ctime);
    s.0
}

/// `STATX_BASIC_STATS`.
const STATX_BASIC_STATS: u32 = 0x7ff;
/// `STATX_BTIME`.
const STATX_BTIME: u32 = 0x800;
/// `STATX_MNT_ID`.
const STATX_MNT_ID: u32 = 0x1000;
/// `STATX_MNT_ID_UNIQUE`.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
/// `STATX_ATTR_MOUNT_ROOT`.
const STATX_ATTR_MOUNT_ROOT: u64 = 0x2000;

/// What `statx(2)` tells of the mount an object was found by.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountIds {
    id: u32,
    unique: u64,
    is_root: bool,
}

impl MountIds {
    /// Of `inode`, found by `mount`.
    pub fn of(mount: &Mount, inode: &Arc<dyn Inode>) -> MountIds {
        let is_root = Arc::ptr_eq(mount.root().inode(), inode);
        MountIds { id: mount.id(), unique: mount.unique_id(), is_root }
    }
}

/// `struct statx` (`statx(2)`).
pub fn statx(attr: &Attr, mount: &MountIds, mask: u32) -> [u8; 256] {
    let mut s = Fields([0; 256]);
    let unique = mask & STATX_MNT_ID_UNIQUE != 0;
    let which = if unique { STATX_MNT_ID_UNIQUE } else { STATX_MNT_ID };
    let btime = if attr.btime.is_some() { STATX_BTIME } else { 0 };
    s.u32(0, STATX_BASIC_STATS | which | btime);
    s.u64(8, if mount.is_root { STATX_ATTR_MOUNT_ROOT } else { 0 });
    s.u64(56, STATX_ATTR_MOUNT_ROOT);
    s.u32(4, attr.blksize);
    s.u32(16, attr.nlink as u32);
    s.u32(20, attr.uid);
    s.u32(24, attr.gid);
    s.u16(28, attr.mode as u16);
    s.u64(32, attr.ino);
    s.u64(40, attr.size);
    s.u64(48, attr.blocks);
    let mut time = |at, time: Timespec| {
        s.u64(at, time.sec as u64);
        s.u32(at + 8, time.nsec);
    };
    time(64, attr.atime);
    time(80, attr.btime.unwrap_or_default());
    time(96, attr.ctime);
    time(112, attr.mtime);
    s.u32(128, rustix::fs::major(attr.rdev));
    s.u32(132, rustix::fs::minor(attr.rdev));
    s.u32(136, rustix::fs::major(attr.dev));
    s.u32(140, rustix::fs::minor(attr.dev));
    s.u64(144, if unique { mount.unique } else { mount.id.into() });
    s.0
}

/// `struct statfs` (`statfs(2)`); `flags` are `ST_*` mount flags.
pub fn statfs(fs: &StatFs, flags: u64) -> [u8; 120] {
    let mut s = Fields([0; 120]);
    s.u64(0, fs.magic);
    s.u64(8, fs.bsize);
    s.u64(16, fs.blocks.0);
    s.u64(24, fs.blocks.1);
    s.u64(32, fs.blocks.2);
    s.u64(40, fs.files.0);
    s.u64(48, fs.files.1);
    s.u64(56, fs.fsid);
    s.u64(64, fs.namelen);
    s.u64(72, fs.bsize);
    /// `ST_VALID`: f_flags is meaningful.
    const ST_VALID: u64 = 0x20;
    s.u64(80, flags | ST_VALID);
    s.0
}

/// Appends a `linux_dirent64` (`getdents64(2)`) if it fits into `capacity` bytes; `next` is the position behind it.
pub fn push_dirent64(buffer: &mut Vec<u8>, capacity: usize, entry: &DirEntry, next: u64) -> bool {
    let len = (19 + entry.name.len() + 1).next_multiple_of(8);
    if buffer.len() + len > capacity {
        return false;
    }
    let start = buffer.len();
    // Inode number 0 means "deleted" to old programs; entries whose number is unknown get 1.
    buffer.extend_from_slice(&entry.ino.max(1).to_ne_bytes());
    buffer.extend_from_slice(&next.to_ne_bytes());
    buffer.extend_from_slice(&(len as u16).to_ne_bytes());
    buffer.push(entry.kind);
    buffer.extend_from_slice(&entry.name);
    buffer.resize(start + len, 0);
    true
}

/// Appends an old `linux_dirent` (`getdents(2)`).
pub fn push_dirent(buffer: &mut Vec<u8>, capacity: usize, entry: &DirEntry, next: u64) -> bool {
    let len = (18 + entry.name.len() + 2).next_multiple_of(8);
    if buffer.len() + len > capacity {
        return false;
    }
    let start = buffer.len();
    buffer.extend_from_slice(&entry.ino.max(1).to_ne_bytes());
    buffer.extend_from_slice(&next.to_ne_bytes());
    buffer.extend_from_slice(&(len as u16).to_ne_bytes());
    buffer.extend_from_slice(&entry.name);
    buffer.resize(start + len - 1, 0);
    buffer.push(entry.kind);
    true
}

/// A `struct timespec` or `timeval` field pair.
pub fn pair(bytes: &[u8], at: usize) -> (i64, i64) {
    let word = |at: usize| i64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    (word(at), word(at + 8))
}

/// A `u32` field.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// A `u64` field.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_has_the_layout_of_libc() {
        let attr = Attr {
            dev: 1,
            ino: 2,
            mode: 0o100644,
            nlink: 3,
            uid: 4,
            gid: 5,
            rdev: 6,
            size: 7,
            blksize: 8,
            blocks: 9,
            mtime: Timespec { sec: 10, nsec: 11 },
            ..Attr::default()
        };
        // SAFETY: any bytes are a valid `struct stat`.
        let libc: libc::stat = unsafe { std::mem::transmute(stat(&attr)) };
        assert_eq!((libc.st_dev, libc.st_ino, libc.st_mode, libc.st_nlink), (1, 2, 0o100644, 3));
        assert_eq!((libc.st_uid, libc.st_gid, libc.st_rdev, libc.st_size), (4, 5, 6, 7));
        assert_eq!((libc.st_blksize, libc.st_blocks, libc.st_mtime, libc.st_mtime_nsec), (8, 9, 10, 11));
    }

    #[test]
    fn entries_are_aligned_and_stop_at_the_capacity() {
        let entry = DirEntry { ino: 5, kind: 4, name: b"name".to_vec() };
        let mut buffer = Vec::new();
        assert!(push_dirent64(&mut buffer, 50, &entry, 1));
        assert_eq!(buffer.len(), 24);
        assert!(push_dirent64(&mut buffer, 50, &entry, 2));
        assert!(!push_dirent64(&mut buffer, 50, &entry, 3));
        assert_eq!(buffer.len(), 48);
    }
}
