//! Messages of the FUSE protocol (`linux/fuse.h`, Documentation/filesystems/fuse), version 7.13.
//!
//! All are little structures of fixed layout in the byte order of the machine, followed by names that end with NUL. Later
//! minor versions are not offered: from 7.14 on libfuse moves requests with `splice(2)`, which the socket that stands for
//! the device does not do.

use nomina_kernel::vfs::{Attr, StatFs, Timespec};
use nomina_kernel::{Errno, Result};

/// `FUSE_KERNEL_VERSION`
pub const MAJOR: u32 = 7;
/// The minor version offered.
pub const MINOR: u32 = 13;
/// `FUSE_ROOT_ID`
pub const ROOT_ID: u64 = 1;
/// Most data in one READ or WRITE, in bytes: what one message of the socket holds beside its header.
pub const MAX_DATA: u32 = 128 * 1024;
/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = MAX_DATA as usize + 4096;

/// Operations: `enum fuse_opcode`.
#[allow(missing_docs, reason = "each is the system call of its name")]
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const CREATE: u32 = 35;
    pub const DESTROY: u32 = 38;
}

/// `FUSE_NOTIFY_INVAL_INODE`
pub const NOTIFY_INVAL_INODE: i32 = 2;
/// `FUSE_NOTIFY_INVAL_ENTRY`
pub const NOTIFY_INVAL_ENTRY: i32 = 3;

/// `FOPEN_DIRECT_IO`
pub const FOPEN_DIRECT_IO: u32 = 1;

/// `FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC`-free set that INIT offers: `FUSE_BIG_WRITES` and `FUSE_DONT_MASK` are the only
/// ones that mean something here. The mask of the caller has been applied before.
pub const INIT_FLAGS: u32 = 1 << 5 | 1 << 6;

/// Which fields SETATTR sets: `FATTR_*`.
pub mod fattr {
    #![allow(missing_docs, reason = "each is a field of the attributes")]
    pub const MODE: u32 = 1;
    pub const UID: u32 = 1 << 1;
    pub const GID: u32 = 1 << 2;
    pub const SIZE: u32 = 1 << 3;
    pub const ATIME: u32 = 1 << 4;
    pub const MTIME: u32 = 1 << 5;
    pub const FH: u32 = 1 << 6;
    pub const ATIME_NOW: u32 = 1 << 7;
    pub const MTIME_NOW: u32 = 1 << 8;
}

/// Builds the body of a request.
#[derive(Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// Appends a `u32`.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    /// Appends a `u64`.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    /// Appends a name and its NUL.
    pub fn name(mut self, name: &[u8]) -> Self {
        self.0.extend_from_slice(name);
        self.0.push(0);
        self
    }
    /// Appends bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }
}

/// Who asks, for the header of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Process number.
    pub pid: u32,
}

/// A request: `struct fuse_in_header` and its body.
pub fn request(unique: u64, opcode: u32, nodeid: u64, caller: Caller, body: &[u8]) -> Vec<u8> {
    let mut message = Body(Vec::with_capacity(40 + body.len()))
        .u32(40 + body.len() as u32)
        .u32(opcode)
        .u64(unique)
        .u64(nodeid)
        .u32(caller.uid)
        .u32(caller.gid)
        .u32(caller.pid)
        .u32(0);
    message.0.extend_from_slice(body);
    message.0
}

/// What came from the server: `struct fuse_out_header` and what follows.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The request; 0 for a notification.
    pub unique: u64,
    /// Negative errno (never one of the kernel's own from 512 on), 0, or the kind of a notification.
    pub error: i32,
    /// What follows the header.
    pub body: &'a [u8],
}

/// Reads a message of the server. `None` for one that is no answer (`EINVAL` at its `write(2)` in Linux).
pub fn answer(message: &[u8]) -> Option<Answer<'_>> {
    let mut reader = Reader(message);
    let (len, error, unique) = (reader.u32()?, reader.u32()? as i32, reader.u64()?);
    let valid = len as usize == message.len() && (unique == 0 || (-511..=0).contains(&error));
    valid.then_some(Answer { unique, error, body: reader.0 })
}

/// Reads structures; `None` at the end.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `u16`.
    pub fn u16(&mut self) -> Option<u16> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_ne_bytes(*head))
    }
    /// The next `u32`.
    pub fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_ne_bytes(*head))
    }
    /// The next `u64`.
    pub fn u64(&mut self) -> Option<u64> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_ne_bytes(*head))
    }
    /// The next bytes.
    pub fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }
}

/// How long an answer may be believed.
pub type Validity = std::time::Duration;

fn validity(sec: u64, nsec: u32) -> Validity {
    // More than a year is for ever; an `Instant` must not overflow.
    Validity::new(sec.min(366 * 86_400), nsec.min(999_999_999))
}

/// `struct fuse_attr`
fn attr(reader: &mut Reader<'_>) -> Option<Attr> {
    let (ino, size, blocks) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let secs = [reader.u64()?, reader.u64()?, reader.u64()?].map(|sec| sec as i64);
    let nsecs = [reader.u32()?, reader.u32()?, reader.u32()?].map(|nsec| nsec.min(999_999_999));
    let time = |i: usize| Timespec { sec: secs[i], nsec: nsecs[i] };
    let (mode, nlink, uid, gid) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let (rdev, blksize, _padding) = (reader.u32()?, reader.u32()?, reader.u32()?);
    Some(Attr {
        dev: 0,
        ino,
        mode,
        nlink: nlink.into(),
        uid,
        gid,
        rdev: decode_dev(rdev),
        size: size.min(i64::MAX as u64),
        blksize: if blksize == 0 { 4096 } else { blksize },
        blocks,
        atime: time(0),
        mtime: time(1),
        ctime: time(2),
        btime: None,
    })
}

/// `new_decode_dev`
fn decode_dev(dev: u32) -> u64 {
    rustix::fs::makedev((dev & 0xfff00) >> 8, dev & 0xff | (dev >> 12) & 0xfff00)
}

/// `new_encode_dev`
pub fn encode_dev(dev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// `struct fuse_attr_out`
pub fn attr_out(body: &[u8]) -> Result<(Attr, Validity)> {
    let mut reader = Reader(body);
    let mut read = || {
        let (sec, nsec, _) = (reader.u64()?, reader.u32()?, reader.u32()?);
        Some((attr(&mut reader)?, validity(sec, nsec)))
    };
    read().ok_or(Errno::EIO)
}

/// `struct fuse_entry_out`
pub struct Entry {
    /// Number of the node; 0 says that the name does not exist, and for how long.
    pub nodeid: u64,
    /// Attributes.
    pub attr: Attr,
    /// How long the name may be believed.
    pub entry_valid: Validity,
    /// How long the attributes may be.
    pub attr_valid: Validity,
}

/// Reads one, and gives what follows it.
pub fn entry_out(body: &[u8]) -> Result<(Entry, &[u8])> {
    let mut reader = Reader(body);
    let mut read = || {
        let (nodeid, _generation) = (reader.u64()?, reader.u64()?);
        let (entry_sec, attr_sec) = (reader.u64()?, reader.u64()?);
        let (entry_nsec, attr_nsec) = (reader.u32()?, reader.u32()?);
        Some(Entry {
            nodeid,
            attr: attr(&mut reader)?,
            entry_valid: validity(entry_sec, entry_nsec),
            attr_valid: validity(attr_sec, attr_nsec),
        })
    };
    let entry = read().ok_or(Errno::EIO)?;
    Ok((entry, reader.0))
}

/// `struct fuse_open_out`: handle and `FOPEN_*` flags.
pub fn open_out(body: &[u8]) -> Result<(u64, u32)> {
    let mut reader = Reader(body);
    let mut read = || Some((reader.u64()?, reader.u32()?));
    read().ok_or(Errno::EIO)
}

/// `struct fuse_statfs_out`
pub fn statfs_out(body: &[u8]) -> Result<StatFs> {
    let mut reader = Reader(body);
    let mut read = || {
        let blocks = (reader.u64()?, reader.u64()?, reader.u64()?);
        let files = (reader.u64()?, reader.u64()?);
        let (bsize, namelen) = (reader.u32()?, reader.u32()?);
        /// `FUSE_SUPER_MAGIC`
        const MAGIC: u64 = 0x6573_5546;
        Some(StatFs { magic: MAGIC, bsize: bsize.into(), blocks, files, namelen: namelen.into(), fsid: 0 })
    };
    read().ok_or(Errno::EIO)
}

/// What INIT's answer says: `struct fuse_init_out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitOut {
    /// Major version of the server.
    pub major: u32,
    /// Most bytes in one WRITE.
    pub max_write: u32,
}

/// Reads it; servers of very old versions send less.
pub fn init_out(body: &[u8]) -> Result<InitOut> {
    let mut reader = Reader(body);
    let mut read = || {
        let (major, _minor) = (reader.u32()?, reader.u32()?);
        let _ = (reader.u32(), reader.u32(), reader.u16(), reader.u16());
        let max_write = reader.u32().unwrap_or(4096).clamp(4096, MAX_DATA);
        Some(InitOut { major, max_write })
    };
    read().ok_or(Errno::EIO)
}

/// One `struct fuse_dirent` of READDIR.
pub struct Dirent<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where the next one is read from.
    pub off: u64,
    /// `DT_*`
    pub kind: u32,
    /// The name.
    pub name: &'a [u8],
}

/// Reads the entries of a READDIR answer. `EIO` for names that no directory can have.
pub fn dirents(body: &[u8]) -> Result<Vec<Dirent<'_>>> {
    let mut entries = Vec::new();
    let mut reader = Reader(body);
    while reader.0.len() >= 24 {
        let mut read = || {
            let (ino, off, len, kind) = (reader.u64()?, reader.u64()?, reader.u32()?, reader.u32()?);
            let name = reader.bytes(len as usize)?;
            let padding = (8 - len as usize % 8) % 8;
            reader.bytes(padding.min(reader.0.len()))?;
            Some(Dirent { ino, off, kind, name })
        };
        // A last entry that does not fit is cut off by the server; Linux leaves it as well.
        let Some(entry) = read() else { break };
        if entry.name.is_empty() || entry.name.len() > 255 || entry.name.iter().any(|&b| b == 0 || b == b'/')
        {
            return Err(Errno::EIO);
        }
        entries.push(entry);
    }
    Ok(entries)
}
