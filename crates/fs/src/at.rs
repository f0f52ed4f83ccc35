//! An object of the host's file system, named by a directory handle and one name in it, or by an `O_PATH` handle alone.
//!
//! No function here resolves more than one name, and none follows a symbolic link, so that nothing outside the
//! directory can be reached however names change under us. Where Linux has no `*at` call that takes an `O_PATH` handle
//! (extended attributes, `chmod`), the call goes through `/proc/self/fd/N` or `/proc/self/fd/N/NAME`, whose first part
//! is a magic link to the very object.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::vfs::{DirEntry, SetTime};
use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, Statx, StatxFlags, Timespec, Timestamps, XattrFlags};

/// The model's error number of a host call's.
pub(crate) fn errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

/// Flags of `open(2)` that a guest may choose; the others are path walk's or ours.
pub(crate) const GUEST_FLAGS: u32 = (libc::O_ACCMODE
    | libc::O_APPEND
    | libc::O_TRUNC
    | libc::O_NONBLOCK
    | libc::O_SYNC
    | libc::O_DSYNC
    | libc::O_DIRECT
    | libc::O_NOATIME) as u32;

/// Flags every host open gets: never follow a link, never become a terminal's session leader, never leak over exec.
pub(crate) const ALWAYS: OFlags = OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// Whether `open(2)` flags ask for writing.
pub(crate) fn wants_write(flags: u32) -> bool {
    flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32 || flags & libc::O_TRUNC as u32 != 0
}

/// An object: `name` in the directory `fd`, or `fd` itself where `name` is empty.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub fd: BorrowedFd<'a>,
    pub name: &'a [u8],
}

/// An [`At`] that keeps its handle open.
pub(crate) struct Spot {
    pub fd: Arc<OwnedFd>,
    pub name: Box<[u8]>,
}

impl Spot {
    pub fn at(&self) -> At<'_> {
        At { fd: self.fd.as_fd(), name: &self.name }
    }
}

impl<'a> At<'a> {
    pub fn new(fd: &'a impl AsFd, name: &'a [u8]) -> Self {
        At { fd: fd.as_fd(), name }
    }

    /// `statx(2)`, with the time of creation where the host knows it.
    pub fn statx(self) -> Result<Statx> {
        let flags = if self.name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
        let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        rustix::fs::statx(self.fd, self.name, flags | AtFlags::NO_AUTOMOUNT, mask).map_err(errno)
    }

    fn proc_path(self) -> Vec<u8> {
        let mut path = format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into_bytes();
        if !self.name.is_empty() {
            path.push(b'/');
            path.extend_from_slice(self.name);
        }
        path
    }

    /// Opens with exactly these flags (plus [`ALWAYS`]). `O_NOATIME` is dropped where the host refuses it.
    pub fn open(self, flags: OFlags) -> Result<OwnedFd> {
        let open = |flags: OFlags| {
            if self.name.is_empty() {
                // The magic link must be followed; it leads to the object itself, even if that is a symbolic link.
                let flags = (flags | ALWAYS) - OFlags::NOFOLLOW;
                rustix::fs::openat(CWD, self.proc_path(), flags, Mode::empty())
            } else {
                rustix::fs::openat(self.fd, self.name, flags | ALWAYS, Mode::empty())
            }
        };
        match open(flags) {
            Err(rustix::io::Errno::PERM) if flags.contains(OFlags::NOATIME) => {
                open(flags - OFlags::NOATIME).map_err(errno)
            }
            other => other.map_err(errno),
        }
    }

    /// An `O_PATH` handle of the object.
    pub fn open_path(self) -> Result<OwnedFd> {
        self.open(OFlags::PATH)
    }

    /// Target of a symbolic link.
    pub fn readlink(self) -> Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(self.fd, self.name, Vec::new()).map_err(errno)?.into_bytes())
    }

    /// One extended attribute under its host name.
    pub fn getxattr(self, name: &[u8]) -> Result<Vec<u8>> {
        let path = self.proc_path();
        let read = |buf: &mut [u8]| {
            if self.name.is_empty() {
                rustix::fs::getxattr(&path, name, buf)
            } else {
                rustix::fs::lgetxattr(&path, name, buf)
            }
        };
        let mut small = [0u8; 256];
        match read(&mut small) {
            Ok(len) => Ok(small[..len].to_vec()),
            Err(rustix::io::Errno::RANGE) => {
                // 64 KiB is the most an attribute can hold (XATTR_SIZE_MAX).
                let mut big = vec![0u8; 65536];
                let len = read(&mut big).map_err(errno)?;
                big.truncate(len);
                Ok(big)
            }
            Err(error) => Err(errno(error)),
        }
    }

    /// Host names of all extended attributes, each ended by NUL.
    pub fn listxattr(self) -> Result<Vec<u8>> {
        let path = self.proc_path();
        let read = |buf: &mut [u8]| {
            if self.name.is_empty() {
                rustix::fs::listxattr(&path, buf)
            } else {
                rustix::fs::llistxattr(&path, buf)
            }
        };
        let mut small = [0u8; 256];
        match read(&mut small) {
            Ok(len) => Ok(small[..len].to_vec()),
            Err(rustix::io::Errno::RANGE) => {
                let mut big = vec![0u8; 65536];
                let len = read(&mut big).map_err(errno)?;
                big.truncate(len);
                Ok(big)
            }
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(Vec::new()),
            Err(error) => Err(errno(error)),
        }
    }

    /// Sets an extended attribute under its host name.
    pub fn setxattr(self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let path = self.proc_path();
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        if self.name.is_empty() {
            rustix::fs::setxattr(&path, name, value, flags).map_err(errno)
        } else {
            rustix::fs::lsetxattr(&path, name, value, flags).map_err(errno)
        }
    }

    /// Removes an extended attribute under its host name.
    pub fn removexattr(self, name: &[u8]) -> Result<()> {
        let path = self.proc_path();
        if self.name.is_empty() {
            rustix::fs::removexattr(&path, name).map_err(errno)
        } else {
            rustix::fs::lremovexattr(&path, name).map_err(errno)
        }
    }

    /// `chmod(2)`. With a name only for objects that cannot turn into a symbolic link meanwhile.
    pub fn chmod(self, mode: u32) -> Result<()> {
        rustix::fs::chmodat(CWD, self.proc_path(), Mode::from_raw_mode(mode), AtFlags::empty()).map_err(errno)
    }

    /// Changes the time of change only, as `chown(2)` without any id does.
    pub fn touch_ctime(self) -> Result<()> {
        let flags = if self.name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
        rustix::fs::chownat(self.fd, self.name, None, None, flags).map_err(errno)
    }

    /// `utimensat(2)`; `None` leaves a time as it is.
    pub fn set_times(self, atime: Option<SetTime>, mtime: Option<SetTime>) -> Result<()> {
        let times = Timestamps { last_access: host_time(atime), last_modification: host_time(mtime) };
        if self.name.is_empty() {
            rustix::fs::utimensat(CWD, self.proc_path(), &times, AtFlags::empty()).map_err(errno)
        } else {
            rustix::fs::utimensat(self.fd, self.name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(errno)
        }
    }

    /// All entries of a directory without `.` and `..`.
    pub fn read_dir(self) -> Result<Vec<DirEntry>> {
        self.read_dir_with(OFlags::NOATIME)
    }

    /// [`At::read_dir`] of what is mostly somebody else's directory, which cannot be read without leaving an access time.
    pub fn read_foreign_dir(self) -> Result<Vec<DirEntry>> {
        self.read_dir_with(OFlags::empty())
    }

    fn read_dir_with(self, flags: OFlags) -> Result<Vec<DirEntry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | flags;
        let dir = At { fd: self.fd, name: if self.name.is_empty() { b"." } else { self.name } };
        let fd = match dir.open(flags) {
            // `.` takes the right to search, which reading does not.
            Err(Errno::EACCES) if self.name.is_empty() => self.open(flags)?,
            other => other?,
        };
        let mut buf = vec![MaybeUninit::uninit(); 32768];
        let mut raw = RawDir::new(fd, &mut buf);
        let mut entries = Vec::new();
        while let Some(entry) = raw.next() {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                let kind = dtype(entry.file_type().as_raw_mode());
                entries.push(DirEntry { ino: entry.ino(), kind, name: name.to_vec() });
            }
        }
        Ok(entries)
    }
}

/// `DT_*` value of the type bits of a mode.
pub(crate) fn dtype(mode: u32) -> u8 {
    ((mode & libc::S_IFMT) >> 12) as u8
}

fn host_time(time: Option<SetTime>) -> Timespec {
    match time {
        None => Timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        Some(SetTime::Now) => Timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        Some(SetTime::At(t)) => Timespec { tv_sec: t.sec, tv_nsec: t.nsec.into() },
    }
}

/// Device and inode number, which identify a file on the host.
pub(crate) fn id_of(stat: &Statx) -> (u64, u64) {
    (libc::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino)
}

/// Refuses names no directory can hold. `ENAMETOOLONG`, and `ENOENT` for those path walk never asks for.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    match name {
        b"" | b"." | b".." => Err(Errno::ENOENT),
        _ if name.len() > 255 => Err(Errno::ENAMETOOLONG),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Errno::ENOENT),
        _ => Ok(()),
    }
}
