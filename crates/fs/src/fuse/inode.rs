//! Nodes and names (`fs/fuse/inode.c`, `fs/fuse/dir.c`).

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use nomina_kernel::user_namespace::UserNamespace;
use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, Link, NewInode, Opened, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SetAttr, SetTime,
    StatFs, SuperBlock,
};
use nomina_kernel::{Errno, Result};

use super::FuseOptions;
use super::abi::{self, Body, fattr, op};
use super::dev::{Connection, Fuse};
use super::file::{Contents, KERNEL_FLAGS};
use super::replay::Answered;
use crate::proc::current;

/// A mounted FUSE file system.
pub struct FuseSb {
    pub(super) connection: Arc<Connection>,
    pub(super) options: FuseOptions,
    dev: u64,
    user_ns: Arc<UserNamespace>,
    nodes: Mutex<HashMap<u64, Weak<FuseInode>>>,
    me: Weak<FuseSb>,
}

impl FuseSb {
    /// Mounts the connection whose server has `fd` open: `fuse_fill_super`. `dev` is the `st_dev`; ids of the server are those
    /// of `user_ns`. The server is asked INIT, which nobody waits for.
    ///
    /// # Errors
    /// `EINVAL` where `fd` is no device, or one that is mounted already.
    pub fn new(
        fuse: &Fuse,
        fd: &OwnedFd,
        options: FuseOptions,
        dev: u64,
        user_ns: Arc<UserNamespace>,
    ) -> Result<Arc<FuseSb>> {
        let connection = fuse.connection_of(fd)?;
        let sb = Arc::new_cyclic(|me| FuseSb {
            connection: connection.clone(),
            options,
            dev,
            user_ns,
            nodes: Mutex::default(),
            me: me.clone(),
        });
        connection.start(&sb)?;
        Ok(sb)
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<u64, Weak<FuseInode>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node of this number, counted `lookups` times more: `fuse_iget`. One whose type has changed is another one.
    fn iget(&self, nodeid: u64, mode: u32, lookups: u64) -> Arc<FuseInode> {
        let mut nodes = self.nodes();
        let known = nodes.get(&nodeid).and_then(Weak::upgrade);
        if let Some(inode) = known.filter(|inode| inode.kind == mode & S_IFMT) {
            inode.lookups.fetch_add(lookups, Ordering::Relaxed);
            return inode;
        }
        if nodes.len() >= 1024 && nodes.len().is_power_of_two() {
            nodes.retain(|_, inode| inode.strong_count() > 0);
        }
        let inode = Arc::new_cyclic(|me| FuseInode {
            me: me.clone(),
            fs: self.me.clone(),
            connection: self.connection.clone(),
            nodeid,
            kind: mode & S_IFMT,
            lookups: AtomicU64::new(lookups),
            attr: Mutex::default(),
            entries: Mutex::default(),
            contents: Mutex::default(),
        });
        nodes.insert(nodeid, Arc::downgrade(&inode));
        inode
    }

    /// Takes a `struct fuse_entry_out` that has just come: the node with its attributes, and what follows. `None` where
    /// the name does not exist.
    fn node_of<'a>(&self, body: &'a [u8]) -> Result<(Option<Arc<FuseInode>>, &'a [u8])> {
        let (entry, rest) = abi::entry_out(body)?;
        if entry.nodeid == 0 {
            return Ok((None, rest));
        }
        let kind = entry.attr.mode & S_IFMT;
        if entry.nodeid == abi::ROOT_ID || !is_valid_type(kind) {
            return Err(Errno::EIO);
        }
        let inode = self.iget(entry.nodeid, kind, 1);
        inode.remember(self.mapped(entry.attr), entry.attr_valid);
        Ok((Some(inode), rest))
    }

    /// Attributes with this file system's device number and ids of the first user namespace.
    fn mapped(&self, attr: Attr) -> Attr {
        const OVERFLOW: u32 = 65534;
        Attr {
            dev: self.dev,
            uid: self.user_ns.make_kuid(attr.uid).unwrap_or(OVERFLOW),
            gid: self.user_ns.make_kgid(attr.gid).unwrap_or(OVERFLOW),
            ..attr
        }
    }

    /// The server says that a node, or a name in it, has changed.
    pub(super) fn invalidate(&self, nodeid: u64, name: Option<&[u8]>) {
        let inode = self.nodes().get(&nodeid).and_then(Weak::upgrade);
        if let Some(inode) = inode {
            inode.forget_attr();
            match name {
                Some(name) => inode.forget_name(name),
                None => inode.contents().invalidate(),
            }
        }
    }
}

impl Drop for FuseSb {
    fn drop(&mut self) {
        self.connection.close();
    }
}

fn is_valid_type(kind: u32) -> bool {
    use nomina_kernel::vfs::{S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK};
    matches!(kind, S_IFREG | S_IFDIR | S_IFLNK | S_IFCHR | S_IFBLK | S_IFIFO | S_IFSOCK)
}

impl SuperBlock for FuseSb {
    fn fs_type(&self) -> &'static str {
        "fuse"
    }
    fn full_type(&self) -> &str {
        self.options.subtype.as_deref().unwrap_or("fuse")
    }
    fn source(&self) -> Vec<u8> {
        self.options.source.clone()
    }
    fn show_options(&self) -> String {
        self.options.show(&self.user_ns)
    }
    fn dev(&self) -> u64 {
        self.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        self.iget(abi::ROOT_ID, S_IFDIR, 0)
    }
    fn statfs(&self) -> Result<StatFs> {
        let root = self.iget(abi::ROOT_ID, S_IFDIR, 0);
        let stat = abi::statfs_out(&root.ask(op::STATFS, Body::default())?.body)?;
        Ok(StatFs { fsid: self.dev, ..stat })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Names that a directory remembers, as long as the server allows.
type Entries = HashMap<Box<[u8]>, (Option<Arc<FuseInode>>, Instant)>;

/// Most names a directory remembers.
const ENTRIES_MAX: usize = 4096;

/// A node: `struct fuse_inode`.
pub struct FuseInode {
    pub(super) me: Weak<FuseInode>,
    pub(super) fs: Weak<FuseSb>,
    pub(super) connection: Arc<Connection>,
    pub(super) nodeid: u64,
    kind: u32,
    lookups: AtomicU64,
    attr: Mutex<Option<(Attr, Instant)>>,
    entries: Mutex<Entries>,
    contents: Mutex<Contents>,
}

impl Drop for FuseInode {
    fn drop(&mut self) {
        let lookups = *self.lookups.get_mut();
        if lookups > 0 {
            self.connection.tell(op::FORGET, self.nodeid, &lookups.to_ne_bytes());
        }
    }
}

impl FuseInode {
    pub(super) fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sb(&self) -> Result<Arc<FuseSb>> {
        self.fs.upgrade().ok_or(Errno::ENOTCONN)
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, attr: Attr, valid: abi::Validity) {
        *self.attr.lock().unwrap_or_else(PoisonError::into_inner) = Some((attr, Instant::now() + valid));
    }

    pub(super) fn forget_attr(&self) {
        *self.attr.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn forget_name(&self, name: &[u8]) {
        let old = self.entries().remove(name);
        drop(old);
    }

    fn remember_name(&self, name: &[u8], node: Option<Arc<FuseInode>>, valid: abi::Validity) {
        let old = {
            let mut entries = self.entries();
            let old =
                if entries.len() >= ENTRIES_MAX { std::mem::take(&mut *entries) } else { Entries::new() };
            if !valid.is_zero() {
                let replaced = entries.insert(name.into(), (node, Instant::now() + valid));
                (old, replaced)
            } else {
                (old, entries.remove(name))
            }
        };
        // Nodes go after the lock.
        drop(old);
    }

    /// Asks the server on behalf of the present task.
    ///
    /// # Errors
    /// The server's, `ENOTCONN` without one, `ERESTARTSYS` until it has answered; `EACCES` for users other than the one who
    /// mounted (`fuse_allow_current_process`), unless `allow_other`.
    pub(super) fn ask(&self, opcode: u32, body: Body) -> Result<Answered> {
        self.ask_for(opcode, body, |_, body| Ok(Answered { body: body.into(), node: None }))
    }

    /// As [`FuseInode::ask`], for answers that start with a `struct fuse_entry_out`; what follows it is the body.
    fn ask_entry(&self, opcode: u32, body: Body) -> Result<Answered> {
        self.ask_for(opcode, body, |sb, body| {
            let (node, rest) = sb.node_of(body)?;
            Ok(Answered { body: rest.into(), node })
        })
    }

    fn ask_for(
        &self,
        opcode: u32,
        body: Body,
        take: impl FnOnce(&FuseSb, &[u8]) -> Result<Answered> + Send + 'static,
    ) -> Result<Answered> {
        let hub = self.connection.hub()?;
        let sb = self.sb()?;
        let mut caller = hub.host.caller(current());
        if !sb.options.allow_other && caller.uid != sb.options.user_id {
            return Err(Errno::EACCES);
        }
        caller.uid = sb.user_ns.from_kuid_munged(caller.uid);
        caller.gid = sb.user_ns.from_kgid_munged(caller.gid);
        let mut key = self.connection.id.to_ne_bytes().to_vec();
        key.extend(opcode.to_ne_bytes());
        key.extend(self.nodeid.to_ne_bytes());
        key.extend(&body.0);
        let fs = self.fs.clone();
        hub.replays.ask(key, |question| {
            self.connection.submit(opcode, self.nodeid, caller, &body.0, move |result| {
                let sb = fs.upgrade().ok_or(Errno::ENOTCONN);
                question.answer(result.and_then(|body| take(&*sb?, body)));
            });
        })
    }

    /// A question that is no message of its own but answered by what `start` sets off.
    pub(super) fn ask_job(
        &self,
        what: &[u8],
        start: impl FnOnce(Arc<super::replay::Question>),
    ) -> Result<Answered> {
        let mut key = self.connection.id.to_ne_bytes().to_vec();
        key.extend(u32::MAX.to_ne_bytes());
        key.extend(self.nodeid.to_ne_bytes());
        key.extend(what);
        self.connection.hub()?.replays.ask(key, start)
    }

    /// Makes something named `name` here.
    fn make(&self, opcode: u32, name: &[u8], body: Body) -> Result<Arc<dyn Inode>> {
        let made = self.ask_entry(opcode, body)?;
        self.changed(name);
        made.node.map(|node| node as Arc<dyn Inode>).ok_or(Errno::EIO)
    }

    /// A name here has changed.
    fn changed(&self, name: &[u8]) {
        self.forget_name(name);
        self.forget_attr();
    }

    /// Attributes as the server knows them.
    pub(super) fn server_attr(&self) -> Result<Attr> {
        let known = *self.attr.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((attr, _)) = known.filter(|(_, until)| Instant::now() < *until) {
            return Ok(attr);
        }
        let answer = self.ask(op::GETATTR, Body::default().u32(0).u32(0).u64(0))?;
        let (attr, valid) = abi::attr_out(&answer.body)?;
        if attr.mode & S_IFMT != self.kind {
            return Err(Errno::EIO);
        }
        let attr = self.sb()?.mapped(attr);
        self.remember(attr, valid);
        Ok(attr)
    }

    fn node(inode: &Arc<dyn Inode>) -> Result<&FuseInode> {
        inode.as_any().downcast_ref::<FuseInode>().ok_or(Errno::EXDEV)
    }
}

/// The answers of an operation that a server does not have: `ENOSYS` becomes `EOPNOTSUPP`.
fn unsupported(error: Errno) -> Errno {
    if error == Errno::ENOSYS { Errno::EOPNOTSUPP } else { error }
}

/// Largest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
const XATTR_SIZE_MAX: u32 = 65536;
/// How much of a directory is asked for at once, in bytes.
const READDIR_SIZE: u32 = 64 * 1024;

impl Inode for FuseInode {
    fn getattr(&self) -> Result<Attr> {
        let attr = self.server_attr()?;
        Ok(self.contents().overrides(attr))
    }

    fn file_type(&self) -> u32 {
        self.kind
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if self.kind != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        let known = self.entries().get(name).filter(|(_, until)| Instant::now() < *until).cloned();
        if let Some((node, _)) = known {
            return node.map(|node| node as Arc<dyn Inode>).ok_or(Errno::ENOENT);
        }
        let fs = self.fs.clone();
        let me = self.me.clone();
        let asked: Box<[u8]> = name.into();
        let found = self.ask_for(op::LOOKUP, Body::default().name(name), move |sb, body| {
            let (entry, _) = abi::entry_out(body)?;
            let (node, rest) = sb.node_of(body)?;
            if let Some(me) = me.upgrade() {
                me.remember_name(&asked, node.clone(), entry.entry_valid);
            }
            drop(fs);
            Ok(Answered { body: rest.into(), node })
        })?;
        found.node.map(|node| node as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }

    fn get_link(&self) -> Result<Link> {
        if self.kind != S_IFLNK {
            return Err(Errno::EINVAL);
        }
        let text = self.ask(op::READLINK, Body::default())?.body.to_vec();
        if text.len() >= nomina_kernel::vfs::PATH_MAX || text.contains(&0) {
            return Err(Errno::EIO);
        }
        Ok(Link::Text(text))
    }

    fn readdir(&self) -> Result<Vec<DirEntry>> {
        if self.kind != S_IFDIR {
            return Err(Errno::ENOTDIR);
        }
        let opened = self.ask(op::OPENDIR, Body::default().u32(libc::O_DIRECTORY as u32).u32(0));
        let (fh, opened) = match opened {
            Ok(answer) => (abi::open_out(&answer.body)?.0, true),
            Err(Errno::ENOSYS) => (0, false),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        let mut offset = 0;
        loop {
            let body = Body::default().u64(fh).u64(offset).u32(READDIR_SIZE).u32(0).u64(0).u32(0).u32(0);
            let answer = self.ask(op::READDIR, body)?;
            let dirents = abi::dirents(&answer.body)?;
            let Some(last) = dirents.last() else { break };
            offset = last.off;
            entries.extend(dirents.iter().filter(|entry| !matches!(entry.name, b"." | b"..")).map(|entry| {
                DirEntry { ino: entry.ino, kind: (entry.kind & 15) as u8, name: entry.name.to_vec() }
            }));
        }
        if opened {
            self.release(op::RELEASEDIR, fh, libc::O_DIRECTORY as u32);
        }
        Ok(entries)
    }

    fn open(&self, flags: u32) -> Result<Opened> {
        match self.kind {
            S_IFDIR => Ok(Opened::Directory),
            S_IFREG => self.open_contents(flags),
            S_IFLNK => Err(Errno::ELOOP),
            _ => Err(Errno::ENXIO),
        }
    }

    fn create(&self, name: &[u8], new: NewInode, flags: u32) -> Result<(Arc<dyn Inode>, Opened)> {
        let mode = new.mode;
        let body = Body::default()
            .u32(flags & !KERNEL_FLAGS | libc::O_CREAT as u32)
            .u32(mode)
            .u32(0)
            .u32(0)
            .name(name);
        match self.ask_entry(op::CREATE, body) {
            Ok(created) => {
                self.changed(name);
                let node = created.node.ok_or(Errno::EIO)?;
                let (fh, _) = abi::open_out(&created.body)?;
                if node.kind != S_IFREG {
                    return Err(Errno::EIO);
                }
                let opened = node.created(fh, flags)?;
                Ok((node, opened))
            }
            Err(Errno::ENOSYS) => {
                let inode = self.mknod(name, new)?;
                let opened = inode.open(flags)?;
                Ok((inode, opened))
            }
            Err(error) => Err(error),
        }
    }

    fn mkdir(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        let body = Body::default().u32(new.mode & 0o7777).u32(0).name(name);
        self.make(op::MKDIR, name, body)
    }

    fn mknod(&self, name: &[u8], new: NewInode) -> Result<Arc<dyn Inode>> {
        let body = Body::default().u32(new.mode).u32(abi::encode_dev(new.rdev)).u32(0).u32(0);
        self.make(op::MKNOD, name, body.name(name))
    }

    fn symlink(&self, name: &[u8], target: &[u8], _new: NewInode) -> Result<Arc<dyn Inode>> {
        self.make(op::SYMLINK, name, Body::default().name(name).name(target))
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let target = Self::node(target)?;
        if !Arc::ptr_eq(&target.connection, &self.connection) {
            return Err(Errno::EXDEV);
        }
        self.make(op::LINK, name, Body::default().u64(target.nodeid).name(name))?;
        target.forget_attr();
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        let known = self.entries().get(name).and_then(|(node, _)| node.clone());
        self.ask(op::UNLINK, Body::default().name(name))?;
        if let Some(node) = known {
            node.forget_attr();
        }
        self.changed(name);
        Ok(())
    }

    fn rmdir(&self, name: &[u8]) -> Result<()> {
        self.ask(op::RMDIR, Body::default().name(name))?;
        self.changed(name);
        Ok(())
    }

    fn rename(&self, old: &[u8], new_dir: &Arc<dyn Inode>, new: &[u8], flags: u32) -> Result<()> {
        let to = Self::node(new_dir)?;
        if !Arc::ptr_eq(&to.connection, &self.connection) {
            return Err(Errno::EXDEV);
        }
        if flags != 0 {
            // RENAME2 came with protocol 7.23.
            return Err(Errno::EINVAL);
        }
        self.ask(op::RENAME, Body::default().u64(to.nodeid).name(old).name(new))?;
        self.changed(old);
        to.changed(new);
        Ok(())
    }

    fn setattr(&self, set: &SetAttr) -> Result<()> {
        let sb = self.sb()?;
        let mut valid = 0;
        let mut field = |bit: u32, value: Option<u32>| {
            valid |= if value.is_some() { bit } else { 0 };
            value.unwrap_or(0)
        };
        let mode = field(fattr::MODE, set.mode.map(|mode| mode & 0o7777 | self.kind));
        let uid = field(fattr::UID, set.uid.map(|uid| sb.user_ns.from_kuid_munged(uid)));
        let gid = field(fattr::GID, set.gid.map(|gid| sb.user_ns.from_kgid_munged(gid)));
        let mut time = |bit: u32, now: u32, value: Option<SetTime>| match value {
            None => (0, 0),
            Some(SetTime::Now) => {
                valid |= bit | now;
                (0, 0)
            }
            Some(SetTime::At(at)) => {
                valid |= bit;
                (at.sec as u64, at.nsec)
            }
        };
        let (atime, atime_nsec) = time(fattr::ATIME, fattr::ATIME_NOW, set.atime);
        let (mtime, mtime_nsec) = time(fattr::MTIME, fattr::MTIME_NOW, set.mtime);
        valid |= if set.size.is_some() { fattr::SIZE } else { 0 };
        let body = Body::default().u32(valid).u32(0).u64(0).u64(set.size.unwrap_or(0)).u64(0);
        let body = body.u64(atime).u64(mtime).u64(0).u32(atime_nsec).u32(mtime_nsec).u32(0);
        let body = body.u32(mode).u32(0).u32(uid).u32(gid).u32(0);
        let answer = self.ask(op::SETATTR, body)?;
        let (attr, validity) = abi::attr_out(&answer.body)?;
        if attr.mode & S_IFMT != self.kind {
            return Err(Errno::EIO);
        }
        let attr = sb.mapped(attr);
        self.remember(attr, validity);
        if let Some(size) = set.size {
            self.contents().resize(size, &attr)?;
        }
        Ok(())
    }

    fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        let body = Body::default().u32(XATTR_SIZE_MAX).u32(0).name(name);
        Ok(self.ask(op::GETXATTR, body).map_err(unsupported)?.body.to_vec())
    }

    fn listxattr(&self) -> Result<Vec<u8>> {
        match self.ask(op::LISTXATTR, Body::default().u32(XATTR_SIZE_MAX).u32(0)) {
            Ok(answer) if answer.body.last().is_none_or(|&last| last == 0) => Ok(answer.body.to_vec()),
            Ok(_) => Err(Errno::EIO),
            Err(Errno::ENOSYS) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn setxattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let body = Body::default().u32(value.len() as u32).u32(flags).name(name).bytes(value);
        self.ask(op::SETXATTR, body).map_err(unsupported)?;
        self.forget_attr();
        Ok(())
    }

    fn removexattr(&self, name: &[u8]) -> Result<()> {
        self.ask(op::REMOVEXATTR, Body::default().name(name)).map_err(unsupported)?;
        self.forget_attr();
        Ok(())
    }
}
