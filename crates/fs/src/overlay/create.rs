//! New names: files, directories, device nodes, links, sockets.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nomina_kernel::vfs::posix_acl::{self, DEFAULT};
use nomina_kernel::vfs::{NewInode, Opened, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};
use nomina_kernel::{Errno, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};

use super::copy_up::{Data, write_all};
use super::fresh;
use super::layer::{Fs, OPAQUE, UPPER_ROOT, lock};
use super::node::{Dir, Entry, Names, Node, Place, State, WHT};
use crate::at::{ALWAYS, At, GUEST_FLAGS, check_name, dtype, errno, id_of};
use crate::names;
use crate::override_stat::{Override, attr_of};
use crate::store::Placement;

/// The override that a new inode needs, if the host cannot hold its attributes itself.
fn wanted(new: &NewInode) -> Override {
    Override {
        uid: new.uid,
        gid: new.gid,
        mode: new.mode & 0o7777,
        kind: Some(new.mode & S_IFMT),
        rdev: new.rdev,
    }
}

/// Where a new object is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// In place: one host call makes it, and what a crash leaves of it is known as unfinished.
    InPlace,
    /// In the work directory, since it is not whole at once.
    Work,
}

impl Node {
    /// Makes `name` here with `make`, which is given the place and whether lower names show here: all that comes before and
    /// after. What has to replace a whiteout is made in the work directory and takes its place in one step, so that the
    /// lower file never shows again. The tree is locked for writing.
    fn make<T>(
        &self,
        name: &[u8],
        is_dir: bool,
        stage: Stage,
        make: impl FnOnce(At<'_>, bool) -> Result<(T, Entry)>,
    ) -> Result<T> {
        self.dir()?;
        fresh::clear();
        check_name(name)?;
        if self.is_gone() {
            return Err(Errno::ENOENT);
        }
        if self.exists(name)? {
            return Err(Errno::EEXIST);
        }
        self.copy_up_dir()?;
        // What gets more than a mode from its directory is not whole at once either.
        let stage = if self.default_acl()?.is_some() { Stage::Work } else { stage };
        let whiteout = self.with_state(|s| {
            s.remove_child(name);
            s.names.as_ref().and_then(|n| n.get(name)).is_some_and(|e| e.kind == WHT)
        })?;
        let fd = self.upper_fd()?;
        let merged = self.dir()?.lower.is_some();
        self.fs.charge_inode()?;
        let made = if whiteout || stage == Stage::Work {
            let fs = &*self.fs;
            let temp = fs.temp_name();
            let made = make(At::new(&fs.work, &temp), merged).and_then(|made| {
                let moved = if !whiteout && is_dir {
                    rustix::fs::renameat(&fs.work, &temp, &*fd, name)
                } else if !whiteout {
                    // A link rather than a move: who watches the directory is told of a new name.
                    rustix::fs::linkat(&fs.work, &temp, &*fd, name, AtFlags::empty())
                } else if is_dir {
                    rustix::fs::renameat_with(&fs.work, &temp, &*fd, name, RenameFlags::EXCHANGE)
                } else {
                    rustix::fs::renameat(&fs.work, &temp, &*fd, name)
                };
                moved.map_err(errno).map(|()| made)
            });
            if made.is_err() || whiteout == is_dir {
                fs.discard(&temp);
            }
            made
        } else {
            make(At::new(&*fd, name), merged)
        };
        match made.inspect_err(|_| self.fs.free_inode()) {
            Ok((made, entry)) => {
                self.with_state(|s| s.names.as_mut().map(|n| n.insert(name.into(), entry)))?;
                Ok(made)
            }
            Err(error) => {
                self.with_state(|s| s.remove_child(name))?;
                Err(error)
            }
        }
    }

    /// Gives what was just made at `at` its owner and mode, and makes the node `name`. On failure it is removed again.
    fn adopt(&self, at: At<'_>, name: &[u8], new: &NewInode, opaque: bool) -> Result<(Arc<Node>, Entry)> {
        let adopted = self.try_adopt(at, name, new, opaque);
        if adopted.is_err() {
            let flags = if new.mode & S_IFMT == S_IFDIR { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            let _ = rustix::fs::unlinkat(at.fd, at.name, flags);
        }
        adopted
    }

    fn try_adopt(&self, at: At<'_>, name: &[u8], new: &NewInode, opaque: bool) -> Result<(Arc<Node>, Entry)> {
        let fs = &self.fs;
        let stat = at.statx()?;
        fs.forget(id_of(&stat));
        self.inherit_acls(at, id_of(&stat), new.mode)?;
        if opaque {
            fs.store.set(at, id_of(&stat), OPAQUE, b"y")?;
        }
        fs.store.place(at, &stat, false, &fs.map, &wanted(new))?;
        let kind = new.mode & S_IFMT;
        let dir = (kind == S_IFDIR).then(|| Dir {
            lower: None,
            lower_id: None,
            upper_fd: Arc::default(),
            state: Mutex::new(State { names: Some(Names::new()), ..State::default() }),
        });
        let place = Place { parent: Some(self.arc()?), name: name.into(), upper: true, depth: 0, gone: None };
        let node = Node::new(fs, kind, place, dir);
        self.with_state(|s| s.add_child(name, &node))?;
        let attr = attr_of(&stat, None, &fs.map);
        if (attr.mode, attr.uid, attr.gid) == (new.mode, new.uid, new.gid) {
            fresh::set(node.id, attr);
        }
        Ok((node, Entry { kind: dtype(kind), ino: stat.stx_ino }))
    }

    /// The list that what is created here gets, if any. The tree is locked.
    fn default_acl(&self) -> Result<Option<Arc<[u8]>>> {
        if let Some(known) = &lock(&self.dir()?.state).default_acl {
            return Ok(known.clone());
        }
        let acl = match self.xattr_locked(DEFAULT) {
            Ok(value) => Some(Arc::from(value)),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => None,
            Err(error) => return Err(error),
        };
        lock(&self.dir()?.state).default_acl = Some(acl.clone());
        Ok(acl)
    }

    /// Gives a new object the lists of its directory.
    fn inherit_acls(&self, at: At<'_>, id: (u64, u64), mode: u32) -> Result<()> {
        let Some(default) = self.default_acl()? else { return Ok(()) };
        let (access, default) = posix_acl::inherited(&default, mode);
        for (name, value) in [(posix_acl::ACCESS, access), (DEFAULT, default)] {
            if let Some(value) = value {
                self.fs.store.set(at, id, &[names::PREFIX, name].concat(), &value)?;
            }
        }
        Ok(())
    }

    /// Host mode for a new object.
    fn host_mode(&self, new: &NewInode, host_kind: u32) -> Mode {
        Mode::from_raw_mode(Placement::expected(&wanted(new), host_kind, &self.fs.map).host_mode())
    }

    pub(crate) fn create_file(&self, name: &[u8], new: &NewInode, flags: u32) -> Result<(Arc<Node>, Opened)> {
        let _tree = self.fs.write();
        let new = NewInode { mode: new.mode & 0o7777 | S_IFREG, rdev: 0, ..*new };
        self.make(name, false, Stage::InPlace, |at, _| {
            let asked = OFlags::from_bits_retain(flags & GUEST_FLAGS) - OFlags::NOATIME - OFlags::TRUNC;
            let flags = asked | OFlags::CREATE | OFlags::EXCL | ALWAYS;
            let mode = self.host_mode(&new, S_IFREG);
            let fd = rustix::fs::openat(at.fd, at.name, flags, mode).map_err(errno)?;
            let (node, entry) = self.adopt(at, name, &new, false)?;
            Ok(((node, Opened::Host(fd)), entry))
        })
    }

    pub(crate) fn make_dir(&self, name: &[u8], new: &NewInode) -> Result<Arc<Node>> {
        let _tree = self.fs.write();
        let new = NewInode { mode: new.mode & 0o7777 | S_IFDIR, rdev: 0, ..*new };
        self.make(name, true, Stage::InPlace, |at, merged| {
            rustix::fs::mkdirat(at.fd, at.name, self.host_mode(&new, S_IFDIR)).map_err(errno)?;
            // A directory of that name may have been deleted below, or appear there: it must not show through.
            self.adopt(at, name, &new, merged)
        })
    }

    /// FIFOs, sockets and device nodes become regular files whose override says what they are.
    pub(crate) fn make_node(&self, name: &[u8], new: &NewInode) -> Result<Arc<Node>> {
        let kind = match new.mode & S_IFMT {
            0 => S_IFREG,
            S_IFDIR => return Err(Errno::EPERM),
            S_IFLNK => return Err(Errno::EINVAL),
            kind => kind,
        };
        let _tree = self.fs.write();
        let new = NewInode { mode: new.mode & 0o7777 | kind, ..*new };
        self.make(name, false, Stage::InPlace, |at, _| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | ALWAYS;
            rustix::fs::openat(at.fd, at.name, flags, self.host_mode(&new, S_IFREG)).map_err(errno)?;
            self.adopt(at, name, &new, false)
        })
    }

    pub(crate) fn make_symlink(&self, name: &[u8], target: &[u8], new: &NewInode) -> Result<Arc<Node>> {
        match target.len() {
            0 => return Err(Errno::ENOENT),
            1..4096 => {}
            _ => return Err(Errno::ENAMETOOLONG),
        }
        let _tree = self.fs.write();
        let new = NewInode { mode: 0o777 | S_IFLNK, rdev: 0, ..*new };
        let plain = (new.uid, new.gid) == (self.fs.map.uid, self.fs.map.gid);
        let stage = if plain { Stage::InPlace } else { Stage::Work };
        self.make(name, false, stage, |at, _| {
            if plain {
                rustix::fs::symlinkat(target, at.fd, at.name).map_err(errno)?;
            } else {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | ALWAYS;
                let file =
                    rustix::fs::openat(at.fd, at.name, flags, Mode::from_raw_mode(0o600)).map_err(errno)?;
                write_all(&file, target)?;
            }
            self.adopt(at, name, &new, false)
        })
    }

    pub(crate) fn make_link(&self, name: &[u8], target: &Node) -> Result<()> {
        self.dir()?;
        if !Arc::ptr_eq(&self.fs, &target.fs) {
            return Err(Errno::EXDEV);
        }
        if target.dir.is_some() {
            let _tree = self.fs.read();
            return Err(if self.exists(name)? { Errno::EEXIST } else { Errno::EPERM });
        }
        loop {
            target.copy_up(Data::IfReadable)?;
            let _tree = self.fs.write();
            if target.is_gone() {
                return Err(Errno::ENOENT);
            }
            if !target.is_upper() {
                continue;
            }
            return self.make(name, false, Stage::InPlace, |at, _| {
                let (spot, _) = target.spot()?;
                let from = spot.at();
                rustix::fs::linkat(from.fd, from.name, at.fd, at.name, AtFlags::empty()).map_err(errno)?;
                let id = id_of(&at.statx()?);
                let (_, ino) = lock(&self.fs.copied).shown(id).unwrap_or(id);
                Ok(((), Entry { kind: dtype(target.kind), ino }))
            });
        }
    }

    /// `linkat` of an open file that never had a name, or of one whose name in this overlay is found again.
    pub(crate) fn make_link_of(&self, name: &[u8], handle: &OwnedFd, named: Option<Arc<Node>>) -> Result<()> {
        if let Some(node) = named {
            return self.make_link(name, &node);
        }
        let stat = At::new(handle, b"").statx()?;
        let work = At::new(&self.fs.work, b"").statx()?;
        if id_of(&stat).0 != id_of(&work).0 {
            return Err(Errno::EXDEV);
        }
        // A file with a name that is not ours is the host's: a link to it would let guests write it. Ours may have names that
        // its handle knows nothing of: it was made as O_TMPFILE, or the name it was opened by is gone.
        let ours = || self.root().is_ok_and(|root| root.is_in_layer(handle));
        if u32::from(stat.stx_mode) & S_IFMT != S_IFREG || stat.stx_nlink != 0 && !ours() {
            return Err(Errno::EXDEV);
        }
        let _tree = self.fs.write();
        self.make(name, false, Stage::InPlace, |at, _| {
            let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
            rustix::fs::linkat(CWD, path, at.fd, at.name, AtFlags::SYMLINK_FOLLOW).map_err(errno)?;
            let (_, ino) = lock(&self.fs.copied).shown(id_of(&stat)).unwrap_or(id_of(&stat));
            Ok(((), Entry { kind: libc::DT_REG, ino }))
        })?;
        if stat.stx_nlink == 0 && self.fs.space.as_ref().is_some_and(|space| space.is_limited()) {
            // It has been charged when it was made.
            self.fs.free_inode();
        }
        Ok(())
    }

    /// `O_TMPFILE`. The file is made in the work directory, which is on the same file system: nothing needs copying up.
    pub(crate) fn make_tmpfile(&self, new: &NewInode, flags: u32) -> Result<Opened> {
        self.dir()?;
        if self.is_gone() {
            return Err(Errno::ENOENT);
        }
        if flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32 {
            return Err(Errno::EINVAL);
        }
        let new = NewInode { mode: new.mode & 0o7777 | S_IFREG, rdev: 0, ..*new };
        let asked = OFlags::from_bits_retain(flags & (GUEST_FLAGS | libc::O_EXCL as u32)) - OFlags::TRUNC;
        let flags = asked | OFlags::TMPFILE | OFlags::CLOEXEC;
        let fd =
            rustix::fs::openat(&self.fs.work, ".", flags, self.host_mode(&new, S_IFREG)).map_err(errno)?;
        let at = At::new(&fd, b"");
        let stat = at.statx()?;
        self.fs.forget(id_of(&stat));
        {
            let _tree = self.fs.read();
            self.inherit_acls(at, id_of(&stat), new.mode)?;
        }
        self.fs.store.place(at, &stat, false, &self.fs.map, &wanted(&new))?;
        if let Some(space) = &self.fs.space {
            space.charge_inode()?;
            if !space.is_nameless(&fd, stat.stx_ino) {
                space.free_inode();
            }
        }
        Ok(Opened::Host(fd))
    }

    /// Binds a socket: the name is a placeholder as any socket's, the host's socket stands in the work directory.
    pub(crate) fn make_socket(&self, name: &[u8], new: &NewInode, socket: &OwnedFd) -> Result<()> {
        let new = NewInode { mode: new.mode & 0o7777 | S_IFSOCK, ..*new };
        let node = match self.make_node(name, &new) {
            Err(Errno::EEXIST) => return Err(Errno::EADDRINUSE),
            other => other?,
        };
        let bound = (|| {
            let _tree = self.fs.read();
            let companion = Fs::companion_name(node.see()?.stat.stx_ino);
            self.fs.discard(&companion);
            bind_in(socket, &self.fs.work, &companion)
        })();
        if bound.is_err() {
            let _ = self.remove_name(name, false);
        }
        bound
    }
}

/// Binds `socket` to `name` in `dir` by way of the directory's handle, whose path is short enough for any socket.
pub(crate) fn bind_in(socket: &OwnedFd, dir: &OwnedFd, name: &[u8]) -> Result<()> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let address = rustix::net::SocketAddrUnix::new(path.as_slice()).map_err(|_| Errno::ENAMETOOLONG)?;
    rustix::net::bind(socket, &address).map_err(errno)
}

impl Fs {
    /// Marks the upper root as filled by us.
    pub(crate) fn mark_upper(&self, root: At<'_>) -> Result<()> {
        self.store.set(root, self.upper_id, UPPER_ROOT, b"1")
    }
}

/// Marks `node` as without a name; `fd` keeps it reachable for those who hold it.
pub(crate) fn lose_name(node: &Node, fd: Option<Arc<OwnedFd>>) {
    let mut place = lock(&node.place);
    place.gone = fd;
    place.parent = None;
}
