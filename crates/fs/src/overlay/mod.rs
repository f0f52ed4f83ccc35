//! Overlay: a read-only host directory (*lower*) under a private writable one (*upper*), copied up on the first change.
//!
//! In Linux this is overlayfs. The on-disk format of the upper directory is the one overlayfs reads from a *lower* layer
//! with the `userxattr` option (`lowerdir=OURS:LOWER`), as an ordinary user can write it:
//!
//! - a **whiteout** is a zero-size regular file with `user.overlay.whiteout` in a directory with
//!   `user.overlay.opaque=x` (Linux 6.7); a rename that must leave one leaves the older form, a character device 0/0, since
//!   the host makes that in one step with the rename (`RENAME_WHITEOUT`);
//! - an **opaque** directory has `user.overlay.opaque=y`: nothing of the lower directory shows through;
//! - a **renamed directory** that shows a lower one keeps showing it: `user.overlay.redirect` holds the lower path, so
//!   that renaming a large directory costs as much as a small one and never fails with `EXDEV` (overlayfs follows
//!   redirects only without `userxattr`).
//!
//! Owners, modes, device numbers and types that an ordinary user cannot give a file are in
//! `user.containers.override_stat` ([`crate::override_stat`]). FIFOs, sockets, device nodes and symbolic links of other
//! owners are regular files whose override says what they are (a link's content is its target); the host's FIFO or
//! socket behind such a placeholder stands in the work directory as `node-INODE`.
//!
//! Where ours differs from overlayfs:
//! - Upper and work directory have one writer, this process, so the names of an upper directory are read once and then
//!   known. The lower tree may change under us; what was looked up before may then answer `ENOENT` or `ESTALE`.
//! - A directory below that cannot be read shows empty, and can be written. A file below that cannot be read can be
//!   renamed, removed, and given another owner or mode; opening it remains `EACCES`.
//! - `st_dev` and `st_ino` stay what they are when a file or directory is copied up, but for files with several names. (A
//!   second sandbox with the same upper directory sees other numbers for files than the first did.) A lower file with
//!   several names loses its link to the others when copied up.
//! - Set-ID bits are cleared when a file is opened for writing, not when it is written: guests write natively.
//! - Of the lower directories, where there are several ([`stack`]), none is ever written to.

mod copy_up;
mod create;
mod fresh;
mod handles;
mod inode;
mod layer;
mod node;
mod remove;
mod stack;
#[cfg(test)]
pub(crate) mod tests;

use std::any::Any;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nomina_kernel::vfs::exportfs::Export;
use nomina_kernel::vfs::{Inode, S_IFDIR, S_IFREG, SetAttr, StatFs, SuperBlock};
use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, Mode, OFlags};

use self::copy_up::{accessed, modified};
pub(crate) use self::copy_up::{copy_data, write_all};
use self::layer::{FdSlot, Fs, FsParts, UPPER_ROOT, lock};
use self::node::{Dir, Entry, Place};
use crate::at::{At, check_name, dtype, errno, id_of};
use crate::override_stat::{IdMap, Override, XATTR};
use crate::store::Store;
use crate::tmpfs::Space;

pub(crate) use self::create::bind_in;
pub use self::node::Node;
pub use self::stack::MAX_LAYERS;

/// What an overlay is made of.
#[derive(Clone, Debug)]
pub struct OverlayOptions {
    /// The lower directory, or the upper-most of them; none makes an empty file system.
    pub lower: Option<PathBuf>,
    /// More lower directories, each below the one before; at most [`MAX_LAYERS`] in all.
    pub below: Vec<PathBuf>,
    /// The upper directory, which must exist and be ours alone. One filled earlier shows what it holds.
    pub upper: PathBuf,
    /// The work directory: ours alone, on the file system of `upper`.
    pub work: PathBuf,
    /// Whose files show as whose.
    pub map: IdMap,
    /// Directories below that show empty from the start, with these modes. Those that do not exist are left out.
    pub hide: Vec<(PathBuf, u32)>,
    /// Keep overrides in memory although the upper file system may have extended attributes. Chosen by itself where it
    /// has none.
    pub memory_xattrs: bool,
    /// The upper directory outlives the sandbox.
    pub durable: bool,
    /// Most directory handles to keep open; `None` for a quarter of `RLIMIT_NOFILE`, at most 2048.
    pub max_fds: Option<usize>,
    /// Type in `/proc/filesystems`: `overlay`, `tmpfs` or `ramfs`.
    pub fs_type: &'static str,
    /// What the files are charged to, for a tmpfs.
    pub space: Option<Arc<Space>>,
}

impl OverlayOptions {
    /// An overlay of `upper` over `lower` with nothing hidden.
    pub fn new(lower: Option<PathBuf>, upper: PathBuf, work: PathBuf, map: IdMap) -> Self {
        OverlayOptions {
            lower,
            below: Vec::new(),
            upper,
            work,
            map,
            hide: Vec::new(),
            memory_xattrs: false,
            durable: false,
            max_fds: None,
            fs_type: "overlay",
            space: None,
        }
    }
}

/// A mounted overlay.
pub struct OverlaySb {
    fs: Arc<Fs>,
    root: Arc<Node>,
    fs_type: &'static str,
    dev: u64,
}

impl OverlaySb {
    /// Mounts an overlay.
    ///
    /// # Errors
    /// What the host answers for a directory that is missing or closed to us; `EINVAL` for too many; `EXDEV` where work and upper directory
    /// are on different file systems.
    pub fn new(options: &OverlayOptions) -> Result<Arc<OverlaySb>> {
        let open = |path: &Path| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(errno)
        };
        let upper = Arc::new(open(&options.upper)?);
        let work = open(&options.work)?;
        let at = At::new(&*upper, b"");
        let stat = at.statx()?;
        let upper_id = id_of(&stat);
        if id_of(&At::new(&work, b"").statx()?).0 != upper_id.0 {
            return Err(Errno::EXDEV);
        }
        clean(&work)?;
        let filled = !at.read_dir()?.is_empty();
        let store = choose_store(at, options.memory_xattrs)?;
        let marked = store.get(at, upper_id, UPPER_ROOT)?.is_some();
        let layers: Vec<&PathBuf> = options.lower.iter().chain(&options.below).collect();
        if layers.len() > MAX_LAYERS {
            return Err(Errno::EINVAL);
        }
        let layers = layers.into_iter().map(|path| Ok(Arc::new(open(path)?))).collect::<Result<Vec<_>>>()?;
        let mut lower_id = None;
        if let Some(top) = layers.first() {
            lower_id = Some(id_of(&At::new(&**top, b"").statx()?));
        }
        let lower_always = layers.iter().any(|fd| At::new(&**fd, b"").getxattr(XATTR).is_ok());
        let lower = stack::root_of(layers);
        let fs = Arc::new(Fs::new(FsParts {
            map: options.map,
            store,
            work,
            lower: lower.clone(),
            upper_id,
            lower_always,
            upper_always: filled && !marked,
            reused: filled || marked,
            durable: options.durable,
            max_fds: options.max_fds.unwrap_or_else(default_max_fds),
            space: options.space.clone(),
        }));
        let place = Place { parent: None, name: Box::default(), upper: true, depth: 0, gone: None };
        let upper_fd = FdSlot::pinned(upper.clone());
        let root =
            Node::new(&fs, S_IFDIR, place, Some(Dir { lower, lower_id, upper_fd, state: Mutex::default() }));
        let _ = fs.root.set(Arc::downgrade(&root));
        let sb = OverlaySb { fs, root, fs_type: options.fs_type, dev: upper_id.0 };
        if !filled && !marked {
            sb.start(at)?;
        }
        for (path, mode) in &options.hide {
            sb.hide(path, *mode)?;
        }
        Ok(Arc::new(sb))
    }

    /// Gives a new upper root the attributes of the lower root.
    fn start(&self, upper: At<'_>) -> Result<()> {
        let fs = &*self.fs;
        let Some(fd) = fs.lower.as_ref().and_then(|lower| lower.slot.get()) else {
            return fs.mark_upper(upper);
        };
        let stat = At::new(&*fd, b"").statx()?;
        let (attr, _) = fs.attr(At::new(&*fd, b""), &stat, false)?;
        let over =
            Override { uid: attr.uid, gid: attr.gid, mode: attr.mode & 0o7777, kind: Some(S_IFDIR), rdev: 0 };
        fs.store.place(upper, &upper.statx()?, false, &fs.map, &over)?;
        upper.set_times(Some(accessed(&stat)), Some(modified(&stat)))?;
        // Last, since a directory with the mark is taken as it is.
        fs.mark_upper(upper)
    }

    /// The inode at a path from the root. Symbolic links are not followed. For the supervisor's own use: no permission
    /// is checked.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn resolve(&self, path: &[u8]) -> Result<Arc<Node>> {
        let _tree = self.fs.read();
        self.root.walk(path)
    }

    /// What the files of a tmpfs are charged to.
    pub fn space(&self) -> Option<&Arc<Space>> {
        self.fs.space.as_ref()
    }

    /// The root as this file system's own node.
    pub fn root_node(&self) -> &Arc<Node> {
        &self.root
    }

    /// Makes a directory below show empty, with its owner and the given mode.
    fn hide(&self, path: &Path, mode: u32) -> Result<()> {
        let path = path.as_os_str().as_bytes();
        let _tree = self.fs.write();
        let node = match self.root.walk(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            other => other?,
        };
        if node.dir.is_none() || Arc::ptr_eq(&node, &self.root) || node.is_upper() {
            return Ok(());
        }
        let (parent, name) = {
            let place = lock(&node.place);
            (place.parent.clone().ok_or(Errno::EIO)?, place.name.clone())
        };
        parent.copy_up_dir()?;
        let seen = node.see()?;
        let fs = &*self.fs;
        let temp = fs.temp_name();
        node.make_dir_copy(&temp, &seen, true)?;
        let at = At::new(&fs.work, &temp);
        let stat = at.statx()?;
        let over = fs.store.override_of(at, &stat, false)?;
        let set = SetAttr { mode: Some(mode & 0o7777), ..SetAttr::default() };
        fs.store.change_owner_mode(at, &stat, over.as_ref(), &fs.map, &set)?;
        rustix::fs::renameat(&fs.work, &temp, &*parent.upper_fd()?, &*name).map_err(errno)?;
        parent.with_state(|s| {
            s.remove_child(&name);
            let entry = Entry { kind: libc::DT_DIR, ino: stat.stx_ino };
            s.names.as_mut().map(|n| n.insert(name, entry))
        })?;
        Ok(())
    }

    /// Puts a file with this content and these attributes at `path`, whose directory must exist, in place of what is
    /// there.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR` for the directory, `EISDIR` for the path itself.
    pub fn seed(&self, path: &[u8], content: &[u8], mode: u32, uid: u32, gid: u32) -> Result<()> {
        let split = path.iter().rposition(|&b| b == b'/').map_or(0, |i| i + 1);
        let (dir, name) = path.split_at(split);
        check_name(name)?;
        let _tree = self.fs.write();
        let dir = self.root.walk(dir)?;
        match dir.find(name) {
            Ok(node) if node.dir.is_some() => return Err(Errno::EISDIR),
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
        dir.copy_up_dir()?;
        let fs = &*self.fs;
        let temp = fs.temp_name();
        let file = fs.temp_file(&temp)?;
        write_all(&file, content)?;
        let at = At::new(&fs.work, &temp);
        let stat = at.statx()?;
        let over = Override { uid, gid, mode: mode & 0o7777, kind: Some(S_IFREG), rdev: 0 };
        fs.store.place(at, &stat, false, &fs.map, &over)?;
        rustix::fs::renameat(&fs.work, &temp, &*dir.upper_fd()?, name).map_err(errno)?;
        dir.with_state(|s| {
            s.remove_child(name);
            let entry = Entry { kind: dtype(S_IFREG), ino: stat.stx_ino };
            s.names.as_mut().map(|n| n.insert(name.into(), entry))
        })?;
        Ok(())
    }
}

impl Node {
    /// Walks from this directory, without following links. The tree is locked.
    pub(crate) fn walk(self: &Arc<Node>, path: &[u8]) -> Result<Arc<Node>> {
        let mut node = self.clone();
        for name in path.split(|&b| b == b'/').filter(|n| !n.is_empty()) {
            node = node.find(name)?;
        }
        Ok(node)
    }
}

impl SuperBlock for OverlaySb {
    fn fs_type(&self) -> &'static str {
        self.fs_type
    }

    fn source(&self) -> Vec<u8> {
        self.fs_type.into()
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<StatFs> {
        const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
        let upper = self.root.upper_fd()?;
        if let Some(space) = &self.fs.space {
            return Ok(space.statfs(&upper, self.dev));
        }
        Ok(StatFs { magic: OVERLAYFS_SUPER_MAGIC, ..statfs_of(&upper, self.dev)? })
    }

    fn show_options(&self) -> String {
        self.fs.space.as_ref().map_or_else(String::new, |space| space.show_options())
    }

    fn cacheable(&self) -> bool {
        true
    }

    fn export(&self) -> Export {
        Export::Generation
    }

    fn has_acls(&self) -> bool {
        true
    }

    fn path_of_host(&self, host: &[u8]) -> Option<Vec<u8>> {
        self.root.path_of(host)
    }
    fn has_host_path(&self, host: &[u8]) -> bool {
        self.root.has_path_of(host)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `fstatfs(2)` of a host directory.
pub(crate) fn statfs_of(fd: &OwnedFd, fsid: u64) -> Result<StatFs> {
    let host = rustix::fs::fstatfs(fd).map_err(errno)?;
    Ok(StatFs {
        magic: host.f_type as u64,
        bsize: host.f_bsize as u64,
        blocks: (host.f_blocks, host.f_bfree, host.f_bavail),
        files: (host.f_files, host.f_ffree),
        namelen: host.f_namelen as u64,
        fsid,
    })
}

/// Removes what an earlier process left half made, and the host's sockets and FIFOs behind placeholders, which nobody holds
/// any more.
fn clean(work: &OwnedFd) -> Result<()> {
    let number = |name: &[u8], prefix: &[u8]| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit))
    };
    for entry in At::new(work, b"").read_dir()? {
        if !number(&entry.name, b"t") && !number(&entry.name, b"node-") {
            continue;
        }
        if entry.kind == libc::DT_DIR {
            let dir = At::new(work, &entry.name).open_path()?;
            for inner in At::new(&dir, b"").read_dir()? {
                rustix::fs::unlinkat(&dir, &inner.name, AtFlags::empty()).map_err(errno)?;
            }
        }
        let flags = if entry.kind == libc::DT_DIR { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        rustix::fs::unlinkat(work, &entry.name, flags).map_err(errno)?;
    }
    Ok(())
}

/// Attributes of the files themselves where the file system has them.
fn choose_store(upper: At<'_>, memory: bool) -> Result<Store> {
    const PROBE: &[u8] = b"user.nomina.probe";
    if memory {
        return Ok(Store::Memory(Mutex::default()));
    }
    match upper.setxattr(PROBE, b"1", 0) {
        Ok(()) => upper.removexattr(PROBE).map(|()| Store::Xattr),
        Err(Errno::EOPNOTSUPP | Errno::EPERM) => Ok(Store::Memory(Mutex::default())),
        Err(error) => Err(error),
    }
}

fn default_max_fds() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(4096);
    usize::try_from(limit / 4).unwrap_or(2048).clamp(64, 2048)
}
