//! What every pseudo file system here needs: attributes of generated inodes, stable inode numbers, reading host files.

use std::io::Read;

use nomina_kernel::vfs::{
    Attr, DirEntry, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, Timespec,
};
use nomina_kernel::{Errno, Result};
use rustix::fs::{Mode, OFlags};

/// The largest host file shown: far above any real one, so that a hostile process cannot make Nomina hold more.
const HOST_FILE_MAX: u64 = 64 << 20;

/// `O_ACCMODE` part of open flags that is not read-only.
pub(crate) fn wants_write(flags: u32) -> bool {
    flags & libc::O_ACCMODE as u32 != libc::O_RDONLY as u32
}

/// Our errno for a host call's.
pub(crate) fn host_errno(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

/// Our errno for one of the standard library.
pub(crate) fn io_errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno)
}

/// The current wall clock time.
pub(crate) fn now() -> Timespec {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timespec { sec: t.tv_sec, nsec: t.tv_nsec as u32 }
}

/// `DT_*` for the type bits of a mode.
pub(crate) fn dirent_type(mode: u32) -> u8 {
    match mode & S_IFMT {
        S_IFREG => libc::DT_REG,
        S_IFDIR => libc::DT_DIR,
        S_IFLNK => libc::DT_LNK,
        S_IFCHR => libc::DT_CHR,
        S_IFBLK => libc::DT_BLK,
        S_IFIFO => libc::DT_FIFO,
        S_IFSOCK => libc::DT_SOCK,
        _ => libc::DT_UNKNOWN,
    }
}

/// A directory entry.
pub(crate) fn dirent(ino: u64, mode: u32, name: impl Into<Vec<u8>>) -> DirEntry {
    DirEntry { ino, kind: dirent_type(mode), name: name.into() }
}

/// A stable inode number for something that has none: FNV-1a of `key` and `name`, in 48 bits, never 0 or 1 (the root).
pub(crate) fn hash_ino(key: u64, name: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in key.to_le_bytes().iter().chain(name) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    }
    ((hash ^ (hash >> 48)) & 0xffff_ffff_ffff).max(2)
}

/// Attributes of a generated inode.
pub(crate) fn generated_attr(dev: u64, ino: u64, mode: u32, owner: (u32, u32), time: Timespec) -> Attr {
    Attr {
        dev,
        ino,
        mode,
        nlink: if mode & S_IFMT == S_IFDIR { 2 } else { 1 },
        uid: owner.0,
        gid: owner.1,
        blksize: 1024,
        atime: time,
        mtime: time,
        ctime: time,
        ..Attr::default()
    }
}

/// Reads a file of the host's pseudo file systems.
pub(crate) fn read_host(path: &str) -> Result<Vec<u8>> {
    let fd = rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK,
        Mode::empty(),
    )
    .map_err(host_errno)?;
    read_all(fd)
}

/// Reads an open file to its end.
pub(crate) fn read_all(fd: std::os::fd::OwnedFd) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::from(fd).take(HOST_FILE_MAX).read_to_end(&mut text).map_err(|e| io_errno(&e))?;
    Ok(text)
}

/// Writes a file of the host's pseudo file systems in one call.
pub(crate) fn write_host(path: &str, text: &[u8]) -> Result<()> {
    let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(host_errno)?;
    rustix::io::write(&fd, text).map_err(host_errno)?;
    Ok(())
}

/// A decimal number as the kernel's `kstrtoint` takes it: surrounding white space allowed, nothing else. `EINVAL`.
pub(crate) fn parse_int(text: &[u8]) -> Result<i32> {
    std::str::from_utf8(text).ok().and_then(|t| t.trim().parse().ok()).ok_or(Errno::EINVAL)
}

/// The number a directory name in proc means: decimal without leading zeros (`name_to_int`).
pub(crate) fn name_to_int(name: &[u8]) -> Option<i32> {
    if name.is_empty()
        || name.len() > 10
        || (name.len() > 1 && name[0] == b'0')
        || !name.iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_decimal_names_are_numbers() {
        assert_eq!(name_to_int(b"0"), Some(0));
        assert_eq!(name_to_int(b"2147483647"), Some(i32::MAX));
        for bad in [
            &b""[..],
            b"01",
            b"-1",
            b"+1",
            b" 1",
            b"1 ",
            b"2147483648",
            b"99999999999",
            b"1\0",
            b"\xff",
            b"1/..",
        ] {
            assert_eq!(name_to_int(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn inode_numbers_are_stable_and_distinct() {
        assert_eq!(hash_ino(7, b"stat"), hash_ino(7, b"stat"));
        assert_ne!(hash_ino(7, b"stat"), hash_ino(8, b"stat"));
        assert_ne!(hash_ino(7, b"stat"), hash_ino(7, b"statm"));
    }
}
