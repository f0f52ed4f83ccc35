//! devtmpfs: the device nodes of `/dev` (`null(4)`, `random(4)`, `tty(4)`, `ptmx(4)`).
//!
//! In Linux devtmpfs is a tmpfs whose nodes the kernel makes as drivers register devices. Ours starts with the nodes a
//! sandbox has ([`open_device`]) and lets programs make others. Directories, device nodes and symbolic links live in
//! memory, so that looking them up costs no host call; regular files, FIFOs and sockets made in `/dev` are objects of a
//! *backing* file system (a private tmpfs) under names of no meaning there, and the tree here only names them.
//!
//! Locks: `DevInfo::rename` is taken first by everything that changes names; a directory's `children` and an inode's
//! `meta` are leaves, held for one look-up or change.

mod devices;
#[cfg(test)]
mod tests;
mod tree;

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use nomina_kernel::Result;
use nomina_kernel::vfs::exportfs::Export;
use nomina_kernel::vfs::{Inode, NewInode, S_IFCHR, S_IFDIR, S_IFLNK, StatFs, SuperBlock};
use rustix::fs::makedev;

pub(crate) use devices::device_flags;
pub use devices::{DeviceHost, MEM_MAJOR, PTS_MAJOR, TAP_MAJOR, TTYAUX_MAJOR, open_device};
use tree::Node;

/// `TMPFS_MAGIC`: what `statfs` tells of a devtmpfs.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// State all inodes of one instance share.
pub(crate) struct DevInfo {
    dev: u64,
    devices: Arc<dyn DeviceHost>,
    backing: Arc<dyn SuperBlock>,
    /// Serialises everything that changes names.
    rename: Mutex<()>,
    next_ino: AtomicU64,
    next_backing_name: AtomicU64,
    root: OnceLock<Weak<Node>>,
}

impl DevInfo {
    fn root(&self) -> Option<Arc<Node>> {
        self.root.get()?.upgrade()
    }
    fn new_ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }
    fn new_backing_name(&self) -> Vec<u8> {
        format!("{:08x}", self.next_backing_name.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }
}

/// A devtmpfs instance.
pub struct DevTmpfs {
    info: Arc<DevInfo>,
    root: Arc<Node>,
}

impl DevTmpfs {
    /// Makes an instance with the standard nodes. `dev` is its `st_dev`; `backing` an empty writable file system that
    /// nobody else uses.
    pub fn new(dev: u64, backing: Arc<dyn SuperBlock>, devices: Arc<dyn DeviceHost>) -> Arc<DevTmpfs> {
        let info = Arc::new(DevInfo {
            dev,
            devices,
            backing,
            rename: Mutex::new(()),
            next_ino: AtomicU64::new(1),
            next_backing_name: AtomicU64::new(0),
            root: OnceLock::new(),
        });
        let new = |mode, rdev| NewInode { mode, uid: 0, gid: 0, rdev };
        let root = Node::directory(&info, new(S_IFDIR | 0o755, 0));
        info.root.get_or_init(|| Arc::downgrade(&root));
        let mem = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
        for (name, minor) in mem {
            root.insert(name, Node::device(&info, new(S_IFCHR | 0o666, devices::mem_device(minor))));
        }
        let fuse = makedev(devices::MISC_MAJOR, devices::FUSE_MINOR);
        root.insert("fuse", Node::device(&info, new(S_IFCHR | 0o666, fuse)));
        root.insert("tty", Node::device(&info, new(S_IFCHR | 0o666, makedev(TTYAUX_MAJOR, 0))));
        let net = Node::directory(&info, new(S_IFDIR | 0o755, 0));
        let tun = makedev(devices::MISC_MAJOR, devices::TUN_MINOR);
        net.insert("tun", Node::device(&info, new(S_IFCHR | 0o666, tun)));
        root.insert("net", net);
        for (name, mode) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
            root.insert(name, Node::directory(&info, new(S_IFDIR | mode, 0)));
        }
        let links = [
            // The node of the devpts mounted there, so that each devpts instance has its own.
            ("ptmx", "pts/ptmx"),
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("core", "/proc/kcore"),
        ];
        for (name, target) in links {
            root.insert(name, Node::symbolic_link(&info, new(S_IFLNK | 0o777, 0), target.as_bytes()));
        }
        Arc::new(DevTmpfs { info, root })
    }

    /// The node at the top that stands for the device `rdev`.
    pub fn device(&self, rdev: u64) -> Option<Arc<dyn Inode>> {
        self.root.device_child(rdev).map(|node| node as Arc<dyn Inode>)
    }

    /// A driver has registered a character device: its node appears (`devtmpfs_create_node`). A name that is there stays what it is.
    pub fn create_node(&self, name: &str, rdev: u64, mode: u32) {
        let new = NewInode { mode: S_IFCHR | mode, uid: 0, gid: 0, rdev };
        // It fails only where the name is taken.
        let _ = self.root.mknod(name.as_bytes(), new);
    }

    /// The device is gone: so is its node, if it is still the one that was made for it (`devtmpfs_delete_node`).
    pub fn delete_node(&self, name: &str, rdev: u64) {
        self.root.remove_device(name.as_bytes(), rdev);
    }
}

impl SuperBlock for DevTmpfs {
    fn fs_type(&self) -> &'static str {
        "devtmpfs"
    }
    fn source(&self) -> Vec<u8> {
        b"devtmpfs".to_vec()
    }
    fn show_options(&self) -> String {
        "mode=755".into()
    }
    fn dev(&self) -> u64 {
        self.info.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }
    fn statfs(&self) -> Result<StatFs> {
        let backing = self.info.backing.statfs().unwrap_or_default();
        Ok(StatFs { magic: TMPFS_MAGIC, bsize: 4096, namelen: 255, fsid: self.info.dev, ..backing })
    }
    fn cacheable(&self) -> bool {
        true
    }
    fn export(&self) -> Export {
        Export::Generation
    }
    fn path_of_host(&self, host: &[u8]) -> Option<Vec<u8>> {
        let backing = self.info.backing.path_of_host(host)?;
        self.root.path_of_backed(backing.strip_prefix(b"/")?)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
