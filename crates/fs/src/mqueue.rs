//! mqueue: the POSIX message queues of an IPC namespace as files (`mq_overview(7)`).
//!
//! Listing, removing, `chmod` and `chown` act on the queues; reading a file gives the state of its queue. Where ours differs from Linux:
//! a descriptor that was opened here is good for reading only, and each mount is an instance of its own (all show the same queues).

use std::any::Any;
use std::sync::{Arc, Weak};

use nomina_kernel::ipc::IpcNamespace;
use nomina_kernel::ipc::mqueue::{MqEvent, MqStat};
use nomina_kernel::pid_namespace::PidNamespace;
use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, NewInode, Opened, S_IFDIR, S_IFREG, SetAttr, StatFs, SuperBlock, Timespec,
};
use nomina_kernel::{Errno, Result};

use crate::proc::generic::{dirent, generated_attr, now};

/// `MQUEUE_MAGIC`.
const MQUEUE_MAGIC: u64 = 0x1980_0202;
/// `FILENT_SIZE`: the size that every file shows.
const FILENT_SIZE: u64 = 80;
/// Inode number of the directory; those of queues are above it.
const ROOT_INO: u64 = 1;

struct Info {
    dev: u64,
    born: Timespec,
    ns: Weak<IpcNamespace>,
    /// In which process numbers are shown.
    pids: Arc<PidNamespace>,
    /// Owner of the directory.
    owner: (u32, u32),
}

/// Such a file system.
pub struct MqueueFs {
    info: Arc<Info>,
}

/// Makes an instance for the queues of `ns` with `dev` as its `st_dev`; process numbers are those of `pids`.
pub fn new(dev: u64, ns: &Arc<IpcNamespace>, pids: Arc<PidNamespace>) -> Arc<MqueueFs> {
    let root = ns.user_ns();
    let owner = (root.make_kuid(0).unwrap_or(0), root.make_kgid(0).unwrap_or(0));
    Arc::new(MqueueFs { info: Arc::new(Info { dev, born: now(), ns: Arc::downgrade(ns), pids, owner }) })
}

impl SuperBlock for MqueueFs {
    fn fs_type(&self) -> &'static str {
        "mqueue"
    }
    fn source(&self) -> Vec<u8> {
        b"mqueue".to_vec()
    }
    fn dev(&self) -> u64 {
        self.info.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(Root { fs: self.info.clone() })
    }
    fn statfs(&self) -> Result<StatFs> {
        let fsid = self.info.dev;
        Ok(StatFs { magic: MQUEUE_MAGIC, bsize: 4096, namelen: 255, fsid, ..StatFs::default() })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The directory.
struct Root {
    fs: Arc<Info>,
}

impl Root {
    fn ns(&self) -> Result<Arc<IpcNamespace>> {
        self.fs.ns.upgrade().ok_or(Errno::ENOENT)
    }
}

impl Inode for Root {
    fn getattr(&self) -> Result<Attr> {
        Ok(generated_attr(self.fs.dev, ROOT_INO, S_IFDIR | 0o1777, self.fs.owner, self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let queue = self.ns()?.mq_lookup(name).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(File { fs: self.fs.clone(), ino: queue.ino }))
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        let names = self.fs.ns.upgrade().map_or_else(Vec::new, |ns| ns.mq_names());
        Ok(names.into_iter().map(|(name, ino)| dirent(ROOT_INO + ino, S_IFREG, name)).collect())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if crate::proc::generic::wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
    fn create(&self, name: &[u8], new: NewInode, _flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        let ino = self.ns()?.mq_create(name, (new.uid, new.gid), new.mode & 0o7777, now().sec)?;
        let file = Arc::new(File { fs: self.fs.clone(), ino });
        let text = file.text()?;
        Ok((file, Opened::Text(text)))
    }
    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.ns()?.mq_remove(name)
    }
}

/// A queue.
struct File {
    fs: Arc<Info>,
    ino: u64,
}

impl File {
    fn stat(&self) -> Result<MqStat> {
        self.fs.ns.upgrade().ok_or(Errno::ENOENT)?.mq_stat(self.ino).map_err(|_| Errno::ENOENT)
    }

    /// `mqueue_read_file`.
    fn text(&self) -> Result<Vec<u8>> {
        let queue = self.stat()?;
        let (kind, signal) = match queue.notify.as_ref().map(|notify| &notify.event) {
            None => (0, 0),
            Some(MqEvent::Signal(signal, _)) => (0, *signal),
            Some(MqEvent::None) => (1, 0),
            Some(MqEvent::Thread(..)) => (2, 0),
        };
        let pid = queue.notify.as_ref().map_or(0, |notify| notify.owner.nr_ns(&self.fs.pids));
        let size = queue.qsize;
        Ok(format!("QSIZE:{size:<10} NOTIFY:{kind:<5} SIGNO:{signal:<5} NOTIFY_PID:{pid:<6}\n").into_bytes())
    }
}

impl Inode for File {
    fn getattr(&self) -> Result<Attr> {
        let queue = self.stat()?;
        let time = Timespec { sec: queue.ctime, nsec: 0 };
        let mode = S_IFREG | queue.mode;
        let attr = generated_attr(self.fs.dev, ROOT_INO + self.ino, mode, (queue.uid, queue.gid), time);
        Ok(Attr { size: FILENT_SIZE, ..attr })
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        // `write(2)` of a queue is none of its operations.
        if crate::proc::generic::wants_write(flags) {
            Err(Errno::EINVAL)
        } else {
            self.text().map(Opened::Text)
        }
    }
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        let ns = self.fs.ns.upgrade().ok_or(Errno::ENOENT)?;
        ns.mq_setattr(self.ino, set.uid, set.gid, set.mode, now().sec);
        Ok(())
    }
}
