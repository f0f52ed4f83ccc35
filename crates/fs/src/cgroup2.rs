//! cgroup2: the hierarchy of control groups as directories and files (`cgroups(7)`).
//!
//! The groups, their files and what these do are the model's ([`nomina_kernel::cgroup`]); here they become inodes. There is one
//! instance; a mount made in a cgroup namespace shows the namespace's root and what is below.
//!
//! Differences from Linux: a file shows what was there when it was opened, and nobody can wait for a change of
//! `cgroup.events`.

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::cgroup::files::{self, Cftype};
use nomina_kernel::cgroup::{Cgroup, CgroupAttr, CgroupRoot, CgroupRootFlags};
use nomina_kernel::kernel::Kernel;
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::exportfs::Export;
use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, NewInode, Opened, S_IFDIR, S_IFREG, SetAttr, StatFs, SuperBlock,
};
use nomina_kernel::{Errno, Result};

use crate::proc::generic::{dirent, generated_attr, now, wants_write};
use crate::proc::{TaskKey, current};

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Whoever owns the model and the host's processes behind it.
pub trait CgroupSource: Send + Sync {
    /// Calls `with` with the model locked; not at all when there is none any more.
    fn with_kernel(&self, with: &mut dyn FnMut(&mut Kernel));
    /// Kills tasks on the host.
    fn kill(&self, tasks: &[TaskId]);
}

struct Info {
    dev: u64,
    root: Arc<CgroupRoot>,
    source: Arc<dyn CgroupSource>,
}

impl Info {
    fn with_kernel<T>(&self, with: impl FnOnce(&mut Kernel) -> Result<T>) -> Result<T> {
        let (mut with, mut result) = (Some(with), Err(Errno::ENODEV));
        self.source.with_kernel(&mut |kernel| {
            if let Some(with) = with.take() {
                result = with(kernel);
            }
        });
        result
    }

    fn dir(self: &Arc<Info>, cgrp: Arc<Cgroup>) -> Arc<dyn Inode> {
        Arc::new(Dir { fs: self.clone(), cgrp })
    }
}

/// The instance.
pub struct CgroupFs {
    info: Arc<Info>,
}

impl CgroupFs {
    /// Makes it, with `dev` as its `st_dev`.
    pub fn new(dev: u64, root: Arc<CgroupRoot>, source: Arc<dyn CgroupSource>) -> Arc<CgroupFs> {
        Arc::new(CgroupFs { info: Arc::new(Info { dev, root, source }) })
    }

    /// The hierarchy.
    pub fn hierarchy(&self) -> &Arc<CgroupRoot> {
        &self.info.root
    }
}

/// Options and their names.
pub const OPTIONS: [(CgroupRootFlags, &str); 5] = [
    (CgroupRootFlags::NS_DELEGATE, "nsdelegate"),
    (CgroupRootFlags::FAVOR_DYNMODS, "favordynmods"),
    (CgroupRootFlags::MEMORY_LOCAL_EVENTS, "memory_localevents"),
    (CgroupRootFlags::MEMORY_RECURSIVE_PROT, "memory_recursiveprot"),
    (CgroupRootFlags::PIDS_LOCAL_EVENTS, "pids_localevents"),
];

/// The group of a directory of this file system.
pub fn cgroup_of(inode: &dyn Inode) -> Option<&Arc<Cgroup>> {
    inode.as_any().downcast_ref::<Dir>().map(|dir| &dir.cgrp)
}

impl SuperBlock for CgroupFs {
    fn fs_type(&self) -> &'static str {
        "cgroup2"
    }
    fn source(&self) -> Vec<u8> {
        b"cgroup2".to_vec()
    }
    fn show_options(&self) -> String {
        let flags = self.info.root.flags();
        OPTIONS.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| format!(",{name}")).collect()
    }
    /// `cgroup_show_path`: as the reader's cgroup namespace shows it.
    fn show_path(&self, root: &dyn Inode) -> Option<Vec<u8>> {
        let cgrp = cgroup_of(root)?;
        let TaskKey(reader) = current()?;
        let of_reader = self.info.with_kernel(|kernel| {
            let nsproxy = kernel.task(TaskId(reader)).and_then(|task| task.nsproxy()).ok_or(Errno::ESRCH)?;
            Ok(nsproxy.cgroup_ns().root().clone())
        });
        Some(cgrp.path_from(&of_reader.ok()?))
    }
    fn dev(&self) -> u64 {
        self.info.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.info.dir(self.info.root.cgrp().clone())
    }
    fn statfs(&self) -> Result<StatFs> {
        let fsid = self.info.dev;
        Ok(StatFs { magic: CGROUP2_SUPER_MAGIC, bsize: 4096, namelen: 255, fsid, ..StatFs::default() })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn export(&self) -> Export {
        Export::Kernfs
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn changed(old: CgroupAttr, set: &SetAttr) -> CgroupAttr {
    CgroupAttr {
        mode: set.mode.map_or(old.mode, |mode| mode & 0o7777),
        uid: set.uid.unwrap_or(old.uid),
        gid: set.gid.unwrap_or(old.gid),
    }
}

/// The directory of a group.
struct Dir {
    fs: Arc<Info>,
    cgrp: Arc<Cgroup>,
}

impl Inode for Dir {
    fn getattr(&self) -> Result<Attr> {
        let attr = self.cgrp.attr();
        let (mode, owner) = (S_IFDIR | attr.mode, (attr.uid, attr.gid));
        let mut attr = generated_attr(self.fs.dev, self.cgrp.ino(), mode, owner, self.cgrp.born());
        attr.blksize = 4096;
        attr.nlink = if self.cgrp.is_dead() { 0 } else { 2 + self.cgrp.nr_children() as u64 };
        Ok(attr)
    }
    fn ino(&self) -> Result<u64> {
        Ok(self.cgrp.ino())
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if let Some(child) = self.cgrp.child(name) {
            return Ok(self.fs.dir(child));
        }
        if self.cgrp.is_dead() {
            return Err(Errno::ENOENT);
        }
        let (ino, file) = files::find(&self.cgrp, name).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(File { fs: self.fs.clone(), cgrp: self.cgrp.clone(), file, ino }))
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        if self.cgrp.is_dead() {
            return Ok(Vec::new());
        }
        let files = files::all(&self.cgrp).map(|(ino, file)| dirent(ino, S_IFREG, file.name));
        let groups = self.cgrp.children().into_iter().map(|(name, child)| dirent(child.ino(), S_IFDIR, name));
        Ok(files.chain(groups).collect())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
    fn mkdir(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        let attr = CgroupAttr { mode: new.mode & 0o7777, uid: new.uid, gid: new.gid };
        let child =
            self.fs.with_kernel(|kernel| kernel.cgroup_root().mkdir(&self.cgrp, name, attr, now()))?;
        Ok(self.fs.dir(child))
    }
    fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.fs.with_kernel(|_| self.cgrp.child(name).ok_or(Errno::ENOENT)?.rmdir())
    }
    // Nothing but groups is made here, and the files are not removed.
    fn create(&self, _name: &[u8], _new: NewInode, _flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        Err(Errno::EACCES)
    }
    fn mknod(&self, _name: &[u8], _new: NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }
    fn symlink(&self, _name: &[u8], _target: &[u8], _new: NewInode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EPERM)
    }
    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }
    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }
    fn rename(&self, _old: &[u8], _new_dir: &Arc<dyn Inode>, _new: &[u8], _flags: u32) -> Result<()> {
        Err(Errno::EPERM)
    }
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        self.fs.with_kernel(|_| {
            self.cgrp.set_attr(changed(self.cgrp.attr(), set));
            Ok(())
        })
    }
    fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.cgrp.getxattr(name)
    }
    fn listxattr(&self) -> Result<Vec<u8>> {
        Ok(self.cgrp.listxattr().into_iter().flat_map(|name| [name, vec![0]].concat()).collect())
    }
    fn setxattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        if name.starts_with(b"system.") {
            return Err(Errno::EOPNOTSUPP);
        }
        let flag = |bit: libc::c_int| flags & bit as u32 != 0;
        self.cgrp.setxattr(name, Some(value), flag(libc::XATTR_CREATE), flag(libc::XATTR_REPLACE))
    }
    fn removexattr(&self, name: &[u8]) -> Result<()> {
        self.cgrp.setxattr(name, None, false, false)
    }
}

/// A file of a group.
struct File {
    fs: Arc<Info>,
    cgrp: Arc<Cgroup>,
    file: &'static Cftype,
    ino: u64,
}

impl Inode for File {
    fn getattr(&self) -> Result<Attr> {
        let attr = self.file.attr(&self.cgrp);
        let (mode, owner) = (S_IFREG | attr.mode, (attr.uid, attr.gid));
        let attr = generated_attr(self.fs.dev, self.ino, mode, owner, self.cgrp.born());
        Ok(Attr { blksize: 4096, ..attr })
    }
    fn ino(&self) -> Result<u64> {
        Ok(self.ino)
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    /// `EINVAL` for a way of access that nobody has by the file's mode (`kernfs_fop_open`).
    fn open(&self, flags: u32) -> Result<Opened> {
        let access = flags & libc::O_ACCMODE as u32;
        let (reads, writes) = (access != libc::O_WRONLY as u32, wants_write(flags));
        let (mode, (readable, writable)) = (self.file.attr(&self.cgrp).mode, self.file.access());
        if reads && !(readable && mode & 0o444 != 0) || writes && !(writable && mode & 0o222 != 0) {
            return Err(Errno::EINVAL);
        }
        let text = match reads {
            true => self.fs.with_kernel(|kernel| {
                let reader = current().map_or(kernel.init_task(), |TaskKey(key)| TaskId(key));
                self.file.show(kernel, &self.cgrp, reader)
            })?,
            false if self.cgrp.is_dead() => return Err(Errno::ENODEV),
            false => Vec::new(),
        };
        Ok(if writes { Opened::Control(text) } else { Opened::Text(text) })
    }
    fn write_text(&self, text: &[u8], _offset: u64) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let TaskKey(writer) = current().ok_or(Errno::EPERM)?;
        let effects =
            self.fs.with_kernel(|kernel| self.file.write(kernel, &self.cgrp, TaskId(writer), text))?;
        self.fs.source.kill(&effects.killed);
        Ok(())
    }
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        self.fs.with_kernel(|_| {
            self.file.set_attr(&self.cgrp, changed(self.file.attr(&self.cgrp), set));
            Ok(())
        })
    }
}
