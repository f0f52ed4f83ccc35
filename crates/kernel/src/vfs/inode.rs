//! The interface between path walk and file systems: what Linux splits between `struct inode_operations`,
//! `struct super_operations` and the `open` of `struct file_operations`.
//!
//! The model never makes a host call. A file system does, behind these traits; what it hands out (`OwnedFd`) is for the
//! model an opaque handle.

use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::vfs::Path;
use crate::vfs::exportfs::Export;

/// Type bits of `st_mode` (`inode(7)`).
pub const S_IFMT: u32 = 0o170000;
/// Socket.
pub const S_IFSOCK: u32 = 0o140000;
/// Symbolic link.
pub const S_IFLNK: u32 = 0o120000;
/// Regular file.
pub const S_IFREG: u32 = 0o100000;
/// Block device.
pub const S_IFBLK: u32 = 0o060000;
/// Directory.
pub const S_IFDIR: u32 = 0o040000;
/// Character device.
pub const S_IFCHR: u32 = 0o020000;
/// FIFO.
pub const S_IFIFO: u32 = 0o010000;

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timespec {
    /// Whole seconds.
    pub sec: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nsec: u32,
}

/// What `stat(2)` tells. Owner ids are those of the initial user namespace of the sandbox (`kuid_t`, `kgid_t`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    /// Device of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, for device nodes.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Preferred block size.
    pub blksize: u32,
    /// Allocated 512-byte blocks.
    pub blocks: u64,
    /// Last access.
    pub atime: Timespec,
    /// Last change of the data.
    pub mtime: Timespec,
    /// Last change of the inode.
    pub ctime: Timespec,
    /// Creation, where the file system knows it.
    pub btime: Option<Timespec>,
}

/// A time to set: `utimensat(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The current time.
    Now,
    /// This time.
    At(Timespec),
}

/// The changes of `chmod`, `chown`, `truncate` and `utimensat`: `struct iattr`. Permission is checked before. Any change
/// sets the time of change, also one that gives what is there already, and one of nothing (`chown` without ids).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
}

/// Owner and mode of something created. `mode` has the umask (or default ACL) applied already and includes type bits.
#[derive(Clone, Copy, Debug)]
pub struct NewInode {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group (the directory's when it is set-group-ID).
    pub gid: u32,
    /// Device number, for device nodes.
    pub rdev: u64,
}

/// One entry of `getdents64(2)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode number as `stat` would give it (0 where unknown).
    pub ino: u64,
    /// `DT_*` value, `DT_UNKNOWN` (0) where unknown.
    pub kind: u8,
    /// The name.
    pub name: Vec<u8>,
}

/// What following a symbolic link means.
pub enum Link {
    /// An ordinary link: walk this text.
    Text(Vec<u8>),
    /// A magic link of proc: jump to this place (`nd_jump_link`).
    Jump(Path),
}

/// What `open` gives.
pub enum Opened {
    /// A host handle that is harmless in a guest's hands and has the access mode asked for.
    Host(OwnedFd),
    /// As `Host`, a file that has the contents but is not the file itself: the caller lets it answer for the place, in `fstat(2)`
    /// and the like.
    Copy(OwnedFd),
    /// A directory: the caller makes the handle (directories are never handed out as host directories).
    Directory,
    /// A file whose text is made at open time (proc, sysfs): the caller hands out a sealed copy.
    Text(Vec<u8>),
    /// A view of the mount table, whose text changes with the mounts and which tells so who polls it.
    Mounts(crate::mount::ProcMounts),
    /// A file whose writes must reach [`Inode::write_text`]; reading gives the text.
    Control(Vec<u8>),
    /// A device node with this number: the caller's device table opens it.
    Device(u64),
    /// Opening would block until there is a peer (a FIFO): wait for the peer, then ask again.
    WouldBlock,
}

/// What `statfs(2)` tells.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatFs {
    /// Magic number.
    pub magic: u64,
    /// Block size.
    pub bsize: u64,
    /// Blocks in all, free, and free for ordinary users.
    pub blocks: (u64, u64, u64),
    /// Inodes in all and free.
    pub files: (u64, u64),
    /// Longest name.
    pub namelen: u64,
    /// Device number, used as the file system id.
    pub fsid: u64,
}

/// A mounted file system instance: `struct super_block`.
pub trait SuperBlock: Send + Sync {
    /// Type as in `/proc/filesystems`.
    fn fs_type(&self) -> &'static str;
    /// Type and subtype as `/proc/self/mountinfo` shows them: `fuse.sshfs`.
    fn full_type(&self) -> &str {
        self.fs_type()
    }
    /// Source as `/proc/self/mountinfo` shows it.
    fn source(&self) -> Vec<u8>;
    /// Options specific to the file system, as mountinfo shows them after the super block's `rw` or `ro`.
    fn show_options(&self) -> String {
        String::new()
    }
    /// The place in the file system that mountinfo shows for a mount whose root is `_root`; `None`: its path.
    fn show_path(&self, _root: &dyn Inode) -> Option<Vec<u8>> {
        None
    }
    /// `st_dev` that mountinfo shows.
    fn dev(&self) -> u64;
    /// The root of the file system.
    fn root(&self) -> Arc<dyn Inode>;
    /// `statfs(2)`.
    fn statfs(&self) -> Result<StatFs>;
    /// Whether directories looked up once may be kept in the dentry cache without asking again: true where nobody but
    /// this sandbox changes names (overlay, tmpfs), false for host directories written through and proc.
    fn cacheable(&self) -> bool;
    /// Whether names can be created and removed at all. Where not (proc), Linux finds nothing to create before it looks at
    /// permissions: creating is `ENOENT`, removing `EPERM`.
    fn has_fixed_names(&self) -> bool {
        false
    }
    /// Whether it can never be written, however it is mounted: in Linux, whether its device is write-protected.
    fn is_write_protected(&self) -> bool {
        false
    }
    /// What file handles of its objects are made of.
    fn export(&self) -> Export {
        Export::No
    }
    /// Whether objects have access control lists (`SB_POSIXACL`): the attributes of [`crate::vfs::posix_acl`] are stored, and what
    /// is created in a directory gets its default list.
    fn has_acls(&self) -> bool {
        false
    }
    /// The guest path (relative to this file system's root, starting with `/`) of a host path below it, for
    /// `readlink /proc/PID/fd/N`. `None` when the path is not in this file system.
    fn path_of_host(&self, _host: &[u8]) -> Option<Vec<u8>> {
        None
    }
    /// Whether [`SuperBlock::path_of_host`] knows one, where that is cheaper to tell.
    fn has_host_path(&self, host: &[u8]) -> bool {
        self.path_of_host(host).is_some()
    }
    /// For downcasts inside a file system (rename and link between its own inodes).
    fn as_any(&self) -> &dyn Any;
}

/// A file system object: `struct inode` with its operations. Operations on the wrong type of object answer as Linux
/// does (`ENOTDIR`, `EINVAL`, `EPERM` …); permission checks are path walk's ([`crate::vfs::namei`]), not the inode's.
pub trait Inode: Send + Sync {
    /// `stat`. Costs at most one or two host calls.
    fn getattr(&self) -> Result<Attr>;
    /// Inode number as `stat` gives it, for `readdir`; cheaper where it is known.
    fn ino(&self) -> Result<u64> {
        Ok(self.getattr()?.ino)
    }
    /// Whether a directory lets the caller in although its mode refuses (`i_op->permission`).
    fn lets_in(&self) -> bool {
        false
    }
    /// Type bits of the mode, without a host call.
    fn file_type(&self) -> u32;
    /// Whether attributes change only by calls on this file system, and not by what is done with open handles.
    fn is_stable(&self) -> bool {
        false
    }
    /// Whether its name has gone without a call on a file system that is [cacheable](super::SuperBlock::cacheable): that of a device
    /// which has been removed. Asked of character devices only.
    fn is_gone(&self) -> bool {
        false
    }
    /// For downcasts inside a file system.
    fn as_any(&self) -> &dyn Any;
    /// The namespace that this file of nsfs stands for: `get_proc_ns`.
    fn namespace(&self) -> Option<crate::nsfs::NsRef> {
        None
    }
    /// Finds `name` (never `.` or `..`) in this directory. `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`.
    fn lookup(&self, _name: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }
    /// Text or target of a symbolic link.
    fn get_link(&self) -> Result<Link> {
        Err(Errno::EINVAL)
    }
    /// What `readlink(2)` prints.
    fn readlink(&self) -> Result<Vec<u8>> {
        match self.get_link()? {
            Link::Text(text) => Ok(text),
            Link::Jump(_) => Err(Errno::EINVAL),
        }
    }
    /// Whether this is a directory in which nothing will ever be (`is_empty_dir_inode`): a place made to be mounted on, such as
    /// `/proc/sys/fs/binfmt_misc`.
    fn is_always_empty(&self) -> bool {
        false
    }
    /// All entries without `.` and `..`.
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        Err(Errno::ENOTDIR)
    }
    /// Opens with `open(2)` flags (access mode, O_APPEND, O_TRUNC, O_NONBLOCK, O_DIRECT, O_NOATIME …; O_CREAT, O_EXCL and
    /// O_NOFOLLOW are path walk's). Opening for writing copies up where the file system needs to.
    fn open(&self, flags: u32) -> Result<Opened>;
    /// Creates a regular file and opens it. `EEXIST` where the name exists.
    fn create(&self, _name: &[u8], _new: NewInode, _flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        Err(Errno::EROFS)
    }
    /// `O_TMPFILE`; with `O_EXCL` the file can never get a name.
    fn tmpfile(&self, _new: NewInode, _flags: u32) -> Result<Opened> {
        Err(Errno::EOPNOTSUPP)
    }
    /// `mkdir(2)`.
    fn mkdir(&self, _name: &[u8], _new: NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EROFS)
    }
    /// `mknod(2)` of a FIFO, socket, device node or regular file.
    fn mknod(&self, _name: &[u8], _new: NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EROFS)
    }
    /// `symlink(2)`.
    fn symlink(&self, _name: &[u8], _target: &[u8], _new: NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EROFS)
    }
    /// `link(2)`: gives `target`, an inode of the same file system, the name `name` here. `EXDEV` otherwise.
    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EROFS)
    }
    /// `linkat` of an open file without a name (`/proc/self/fd/N` of an O_TMPFILE or of any open host file).
    fn link_handle(&self, _name: &[u8], _handle: &OwnedFd) -> Result<()> {
        Err(Errno::EXDEV)
    }
    /// `unlink(2)`. `EISDIR` for directories.
    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }
    /// `rmdir(2)`.
    fn rmdir(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }
    /// `renameat2(2)` from here to `new_dir`, a directory of the same file system (`EXDEV` otherwise), with
    /// `RENAME_NOREPLACE` (1), `RENAME_EXCHANGE` (2), `RENAME_WHITEOUT` (4). Inodes that were found below the old name
    /// stay valid and stand for the object under its new name.
    fn rename(&self, _old: &[u8], _new_dir: &Arc<dyn Inode>, _new: &[u8], _flags: u32) -> Result<()> {
        Err(Errno::EROFS)
    }
    /// Changes attributes.
    fn setattr(&self, _set: &SetAttr) -> Result<()> {
        Err(Errno::EROFS)
    }
    /// One extended attribute; `ENODATA` where absent.
    fn getxattr(&self, _name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Names of all extended attributes, each ended by NUL.
    fn listxattr(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    /// Sets one, with `XATTR_CREATE` (1) and `XATTR_REPLACE` (2).
    fn setxattr(&self, _name: &[u8], _value: &[u8], _flags: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Removes one.
    fn removexattr(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// A write of all of `text` at `_offset` to a file opened as [`Opened::Control`].
    fn write_text(&self, _text: &[u8], _offset: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }
    /// A host directory and a name in it, or a handle (`O_PATH`) alone, that stand for this object in the host's file
    /// system, for host calls no trait method covers (binding and connecting sockets, inotify). With `for_write` the
    /// object is one this sandbox may change (copied up first).
    fn host_handle(&self, _for_write: bool) -> Result<OwnedFd> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Creates a socket inode `name` here by binding `socket` to it.
    fn bind_socket(&self, _name: &[u8], _new: NewInode, _socket: &OwnedFd) -> Result<()> {
        Err(Errno::EROFS)
    }
}
