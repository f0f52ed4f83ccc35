//! devpts: the pseudo terminals of a sandbox (`pts(4)`, `devpts` in the kernel's documentation).
//!
//! In Linux each devpts instance numbers the terminals made through its own `ptmx`. Ours shows only those made through
//! it as well, but with the numbers the host gave them: the terminals are the host's, and so native.
//!
//! The host reuses a number as soon as a terminal's master is closed, perhaps for a terminal of the user outside the
//! sandbox. So a terminal is held here not by its number but by an `O_PATH` handle on its node, taken while the master
//! is certainly open: such a handle never leads to another terminal (opening it fails with `EIO` once the master is
//! gone), and the link count of its inode tells when that has happened, at which the entry vanishes.

use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nomina_kernel::vfs::{
    Attr, DirEntry, Inode, Opened, S_IFCHR, S_IFDIR, SetAttr, StatFs, SuperBlock, Timespec,
};
use nomina_kernel::{Errno, Result};
use rustix::fs::{FileType, Mode, OFlags, major, makedev, minor};

use crate::dev::{DeviceHost, PTS_MAJOR, TTYAUX_MAJOR, device_flags};
use crate::proc::generic::{dirent, generated_attr, host_errno, name_to_int, now, wants_write};

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
/// Inode number of terminal 0, as in Linux.
const FIRST_INO: u64 = 3;

/// Most terminals of an instance (`NR_UNIX98_PTY_MAX`).
const PTY_MAX: u32 = 1 << 20;

/// Mount options: `struct pts_mount_opts`. Owners are kernel ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Owner of new terminals; their maker where it is `None`.
    pub uid: Option<u32>,
    /// Group of new terminals; their maker's where it is `None`.
    pub gid: Option<u32>,
    /// Mode of new terminals.
    pub mode: u32,
    /// Mode of `ptmx`.
    pub ptmxmode: u32,
    /// Most terminals.
    pub max: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { uid: None, gid: None, mode: 0o600, ptmxmode: 0, max: PTY_MAX }
    }
}

impl Options {
    /// Those of a system's `/dev/pts`.
    pub const STANDARD: Options =
        Options { uid: None, gid: Some(5), mode: 0o620, ptmxmode: 0o666, max: PTY_MAX };

    /// Takes an option other than `uid` and `gid`. `Ok(false)`: there is no such option. `newinstance` says what is so anyway
    /// (since Linux 4.7).
    ///
    /// # Errors
    /// `EINVAL` for a bad value.
    pub fn parse(&mut self, key: &str, value: Option<&str>) -> Result<bool> {
        let mode = || {
            let mode = value.and_then(|text| u32::from_str_radix(text, 8).ok()).ok_or(Errno::EINVAL)?;
            Ok(mode & 0o7777)
        };
        match key {
            "mode" => self.mode = mode()?,
            "ptmxmode" => self.ptmxmode = mode()?,
            "max" => {
                let max = value.and_then(|text| text.parse().ok()).filter(|&max| max <= PTY_MAX);
                self.max = max.ok_or(Errno::EINVAL)?;
            }
            "newinstance" if value.is_none() => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `devpts_show_options`
    fn show(&self) -> String {
        let id = |key: &str, id: Option<u32>| id.map_or_else(String::new, |id| format!("{key}={id},"));
        let max = if self.max < PTY_MAX { format!(",max={}", self.max) } else { String::new() };
        let (uid, gid) = (id("uid", self.uid), id("gid", self.gid));
        format!("{uid}{gid}mode={:03o},ptmxmode={:03o}{max}", self.mode, self.ptmxmode)
    }
}

/// A terminal.
struct Pty {
    /// Handle on the slave's node.
    node: OwnedFd,
    mode: u32,
    uid: u32,
    gid: u32,
    time: Timespec,
    /// It was made elsewhere, where others use it, too.
    adopted: bool,
}

impl Pty {
    /// Whether the master is still open.
    fn alive(&self) -> bool {
        rustix::fs::fstat(&self.node).is_ok_and(|stat| stat.st_nlink > 0)
    }
}

/// Owner and mode of the directory or of `ptmx`: those of the mounting, until they are changed.
#[derive(Clone, Copy)]
struct Owned {
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Owned {
    fn by_root(mode: u32) -> Mutex<Owned> {
        Mutex::new(Owned { mode, uid: 0, gid: 0 })
    }

    fn change(&mut self, set: &SetAttr) {
        self.mode = set.mode.map_or(self.mode, |mode| mode & 0o7777);
        self.uid = set.uid.unwrap_or(self.uid);
        self.gid = set.gid.unwrap_or(self.gid);
    }
}

struct PtsInfo {
    me: Weak<PtsInfo>,
    dev: u64,
    devices: Arc<dyn DeviceHost>,
    born: Timespec,
    table: Mutex<BTreeMap<u32, Pty>>,
    options: Mutex<Options>,
    root: Mutex<Owned>,
    ptmx: Mutex<Owned>,
}

fn owned(of: &Mutex<Owned>) -> MutexGuard<'_, Owned> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PtsInfo {
    fn table(&self) -> MutexGuard<'_, BTreeMap<u32, Pty>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table without terminals whose master is gone.
    fn living(&self) -> MutexGuard<'_, BTreeMap<u32, Pty>> {
        let mut table = self.table();
        table.retain(|_, pty| pty.alive());
        table
    }

    fn options(&self) -> Options {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_master(&self, flags: u32) -> Result<OwnedFd> {
        if self.living().len() as u64 >= u64::from(self.options().max) {
            return Err(Errno::ENOSPC);
        }
        let master =
            rustix::fs::open(c"/dev/ptmx", device_flags(flags), Mode::empty()).map_err(host_errno)?;
        let mut index: libc::c_uint = 0;
        // SAFETY: TIOCGPTN writes one unsigned int to the place given.
        if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut index) } < 0 {
            return Err(Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::open(format!("/dev/pts/{index}"), flags, Mode::empty()).map_err(host_errno)?;
        let (uid, gid) = self.devices.caller_ids();
        if self.insert(node, uid, gid, false)? != index {
            return Err(Errno::ENXIO);
        }
        Ok(master)
    }

    /// Registers a terminal for who made it, unless the options name another owner.
    fn insert(&self, node: OwnedFd, uid: u32, gid: u32, adopted: bool) -> Result<u32> {
        let stat = rustix::fs::fstat(node.as_fd()).map_err(host_errno)?;
        let tty = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        if !tty || major(stat.st_rdev) != PTS_MAJOR {
            return Err(Errno::ENOTTY);
        }
        let index = minor(stat.st_rdev);
        let options = self.options();
        let (uid, gid) = (options.uid.unwrap_or(uid), options.gid.unwrap_or(gid));
        self.table().insert(index, Pty { node, mode: options.mode, uid, gid, time: now(), adopted });
        Ok(index)
    }

    fn inode(&self, index: u32) -> Result<Arc<dyn Inode>> {
        if !self.table().get(&index).is_some_and(Pty::alive) {
            return Err(Errno::ENOENT);
        }
        Ok(Arc::new(PtyInode { fs: self.me.upgrade().ok_or(Errno::ENOENT)?, index }))
    }

    /// `EIO` when the master is gone or the slave still locked (`unlockpt(3)`), `ENXIO` when it never was here.
    fn open_slave(&self, index: u32, flags: u32) -> Result<OwnedFd> {
        let table = self.table();
        let pty = table.get(&index).ok_or(Errno::ENXIO)?;
        let path = format!("/proc/self/fd/{}", pty.node.as_raw_fd());
        rustix::fs::open(path, device_flags(flags), Mode::empty()).map_err(host_errno)
    }
}

/// A devpts instance.
pub struct DevPts {
    info: Arc<PtsInfo>,
}

impl DevPts {
    /// Makes an instance without terminals. `dev` is its `st_dev`; `devices` knows the caller.
    pub fn new(dev: u64, devices: Arc<dyn DeviceHost>, options: Options) -> Arc<DevPts> {
        let info = Arc::new_cyclic(|me| PtsInfo {
            me: me.clone(),
            dev,
            devices,
            born: now(),
            table: Mutex::default(),
            options: Mutex::new(options),
            root: Owned::by_root(0o755),
            ptmx: Owned::by_root(options.ptmxmode),
        });
        Arc::new(DevPts { info })
    }

    /// The same instance once more.
    pub fn handle(&self) -> Arc<DevPts> {
        Arc::new(DevPts { info: self.info.clone() })
    }

    /// Puts mount options into force: for `ptmx`, and for terminals made from now on.
    pub fn reconfigure(&self, options: Options) {
        owned(&self.info.ptmx).mode = options.ptmxmode;
        *self.info.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
    }

    /// Makes a terminal: opens the host's `ptmx` with `flags` and registers the slave for its maker, or the owner that the
    /// options name. `ENOSPC` when the instance or the host has no more.
    pub fn open_master(&self, flags: u32) -> Result<OwnedFd> {
        self.info.open_master(flags)
    }

    /// Opens the slave of a terminal of this instance: what [`DeviceHost::open_pts`] does. Never makes it anybody's
    /// controlling terminal. `ENXIO` for one of another instance or of the host, `EIO` when its master is gone.
    pub fn open_slave(&self, index: u32, flags: u32) -> Result<OwnedFd> {
        self.info.open_slave(index, flags)
    }

    /// Registers a terminal that was made elsewhere, by a descriptor of its slave: the one Nomina was started on, say.
    /// Gives its number. `ENOTTY` for something else.
    pub fn adopt(&self, slave: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<u32> {
        let path = format!("/proc/self/fd/{}", slave.as_raw_fd());
        let node =
            rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(host_errno)?;
        self.info.insert(node, uid, gid, true)
    }

    /// Forgets a terminal at once, without waiting for its master to be closed.
    pub fn unregister(&self, index: u32) {
        self.info.table().remove(&index);
    }

    /// The node of a terminal, for `fstat` and the like on a descriptor of it. `None` when it is not of this instance.
    pub fn inode(&self, index: u32) -> Option<Arc<dyn Inode>> {
        self.info.inode(index).ok()
    }
}

impl SuperBlock for DevPts {
    fn fs_type(&self) -> &'static str {
        "devpts"
    }
    fn source(&self) -> Vec<u8> {
        b"devpts".to_vec()
    }
    fn show_options(&self) -> String {
        self.info.options().show()
    }
    fn dev(&self) -> u64 {
        self.info.dev
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(RootDir { fs: self.info.clone() })
    }
    fn statfs(&self) -> Result<StatFs> {
        let fsid = self.info.dev;
        Ok(StatFs { magic: DEVPTS_SUPER_MAGIC, bsize: 4096, namelen: 255, fsid, ..StatFs::default() })
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The only directory.
struct RootDir {
    fs: Arc<PtsInfo>,
}

impl Inode for RootDir {
    fn getattr(&self) -> Result<Attr> {
        let root = *owned(&self.fs.root);
        let owner = (root.uid, root.gid);
        Ok(generated_attr(self.fs.dev, ROOT_INO, S_IFDIR | root.mode, owner, self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        if name == b"ptmx" {
            return Ok(Arc::new(PtmxInode { fs: self.fs.clone() }));
        }
        let index = name_to_int(name).and_then(|i| u32::try_from(i).ok()).ok_or(Errno::ENOENT)?;
        self.fs.inode(index)
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        let mut entries = vec![dirent(PTMX_INO, S_IFCHR, "ptmx")];
        let table = self.fs.living();
        entries.extend(table.keys().map(|i| dirent(FIRST_INO + u64::from(*i), S_IFCHR, i.to_string())));
        Ok(entries)
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
    /// Owner and mode; times are ignored.
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        if set.size.is_some() {
            return Err(Errno::EISDIR);
        }
        owned(&self.fs.root).change(set);
        Ok(())
    }
}

/// `ptmx`.
struct PtmxInode {
    fs: Arc<PtsInfo>,
}

impl Inode for PtmxInode {
    fn getattr(&self) -> Result<Attr> {
        let ptmx = *owned(&self.fs.ptmx);
        let owner = (ptmx.uid, ptmx.gid);
        let mut attr = generated_attr(self.fs.dev, PTMX_INO, S_IFCHR | ptmx.mode, owner, self.fs.born);
        attr.rdev = makedev(TTYAUX_MAJOR, 2);
        Ok(attr)
    }
    fn file_type(&self) -> u32 {
        S_IFCHR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        self.fs.open_master(flags).map(Opened::Host)
    }
    /// Owner and mode; times and sizes are ignored.
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        owned(&self.fs.ptmx).change(set);
        Ok(())
    }
}

/// The node of a terminal that was made in this instance, for watching it (`inotify(7)`); nothing else may be done with it.
///
/// # Errors
/// `EOPNOTSUPP` for another file, and for a terminal from elsewhere: when it is used there is not the sandbox's to know.
pub fn node_to_watch(inode: &Arc<dyn Inode>) -> Result<OwnedFd> {
    let inode = inode.as_any().downcast_ref::<PtyInode>().ok_or(Errno::EOPNOTSUPP)?;
    let table = inode.fs.table();
    let pty = table.get(&inode.index).filter(|pty| !pty.adopted).ok_or(Errno::EOPNOTSUPP)?;
    pty.node.try_clone().map_err(|_| Errno::EMFILE)
}

/// The slave of a terminal.
struct PtyInode {
    fs: Arc<PtsInfo>,
    index: u32,
}

impl Inode for PtyInode {
    fn getattr(&self) -> Result<Attr> {
        let table = self.fs.table();
        let pty = table.get(&self.index).ok_or(Errno::ENOENT)?;
        let mode = S_IFCHR | pty.mode;
        let ino = FIRST_INO + u64::from(self.index);
        let mut attr = generated_attr(self.fs.dev, ino, mode, (pty.uid, pty.gid), pty.time);
        attr.rdev = makedev(PTS_MAJOR, self.index);
        Ok(attr)
    }
    fn file_type(&self) -> u32 {
        S_IFCHR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        self.fs.open_slave(self.index, flags).map(Opened::Host)
    }
    /// Owner and mode are kept here, the host's node stays as it is. Times and sizes are ignored.
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        let mut table = self.fs.table();
        let pty = table.get_mut(&self.index).ok_or(Errno::ENOENT)?;
        pty.mode = set.mode.map_or(pty.mode, |m| m & 0o7777);
        pty.uid = set.uid.unwrap_or(pty.uid);
        pty.gid = set.gid.unwrap_or(pty.gid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoTerminals;

    impl DeviceHost for NoTerminals {
        fn open_fuse(&self, _flags: u32) -> Result<OwnedFd> {
            Err(Errno::ENXIO)
        }
        fn open_tun(&self, _flags: u32) -> Result<OwnedFd> {
            Err(Errno::ENXIO)
        }
        fn open_tap(&self, _minor: u32, _flags: u32) -> Result<OwnedFd> {
            Err(Errno::ENODEV)
        }
        fn open_tty(&self, _flags: u32) -> Result<OwnedFd> {
            Err(Errno::ENXIO)
        }
        fn open_ptmx(&self, _flags: u32) -> Result<OwnedFd> {
            Err(Errno::ENXIO)
        }
        fn caller_ids(&self) -> (u32, u32) {
            (1000, 1000)
        }
        fn open_pts(&self, _index: u32, _flags: u32) -> Result<OwnedFd> {
            Err(Errno::ENXIO)
        }
    }

    const RDWR: u32 = libc::O_RDWR as u32;

    fn names(fs: &DevPts) -> Vec<String> {
        let entries = fs.root().readdir().unwrap();
        entries.into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect()
    }

    fn unlock(master: &OwnedFd) {
        let zero: libc::c_int = 0;
        // SAFETY: TIOCSPTLCK reads one int from the place given.
        assert_eq!(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const zero) }, 0);
    }

    fn index_of(fs: &DevPts) -> u32 {
        names(fs).last().unwrap().parse().unwrap()
    }

    #[test]
    fn a_terminal_made_here_can_be_opened_and_talks_to_its_master() {
        let fs = DevPts::new(50, Arc::new(NoTerminals), Options::STANDARD);
        let master = fs.open_master(RDWR).unwrap();
        unlock(&master);
        let index = index_of(&fs);
        let inode = fs.root().lookup(index.to_string().as_bytes()).unwrap();
        let attr = inode.getattr().unwrap();
        assert_eq!((attr.mode, attr.uid, attr.gid), (S_IFCHR | 0o620, 1000, 5));
        assert_eq!(attr.rdev, makedev(136, index));
        let Opened::Host(slave) = inode.open(RDWR).unwrap() else { panic!("not a host handle") };
        rustix::io::write(&slave, b"hi").unwrap();
        let mut buf = [0; 8];
        assert_eq!(rustix::io::read(&master, &mut buf).unwrap(), 2);
        assert_eq!(rustix::fs::fstat(&slave).unwrap().st_rdev, attr.rdev);
    }

    #[test]
    fn terminals_of_others_are_neither_listed_nor_opened() {
        let ours = DevPts::new(50, Arc::new(NoTerminals), Options::STANDARD);
        let others = DevPts::new(51, Arc::new(NoTerminals), Options::STANDARD);
        let master = others.open_master(RDWR).unwrap();
        unlock(&master);
        let index = index_of(&others);
        assert_eq!(names(&ours), ["ptmx"]);
        assert_eq!(ours.root().lookup(index.to_string().as_bytes()).err(), Some(Errno::ENOENT));
        assert_eq!(ours.open_slave(index, RDWR).err(), Some(Errno::ENXIO));
    }

    #[test]
    fn a_reused_number_does_not_lead_to_another_terminal() {
        let ours = DevPts::new(50, Arc::new(NoTerminals), Options::STANDARD);
        let others = DevPts::new(51, Arc::new(NoTerminals), Options::STANDARD);
        let master = ours.open_master(RDWR).unwrap();
        let index = index_of(&ours);
        let held = ours.root().lookup(index.to_string().as_bytes()).unwrap();
        drop(master);
        // The host gives the lowest free number: ours, unless another test took it first.
        let masters: Vec<_> = (0..4).map(|_| others.open_master(RDWR).unwrap()).collect();
        masters.iter().for_each(unlock);
        assert_eq!(held.open(RDWR).err(), Some(Errno::EIO));
        assert_eq!(ours.root().lookup(index.to_string().as_bytes()).err(), Some(Errno::ENOENT));
        assert_eq!(names(&ours), ["ptmx"]);
    }

    #[test]
    fn hostile_names_do_not_exist() {
        let fs = DevPts::new(50, Arc::new(NoTerminals), Options::STANDARD);
        let master = fs.open_master(RDWR).unwrap();
        let index = index_of(&fs);
        for name in
            [format!("0{index}"), format!("+{index}"), format!("{index} "), "../ptmx".into(), "-1".into()]
        {
            assert_eq!(fs.root().lookup(name.as_bytes()).err(), Some(Errno::ENOENT), "{name}");
        }
        drop(master);
    }

    #[test]
    fn owner_and_mode_can_be_changed() {
        let fs = DevPts::new(50, Arc::new(NoTerminals), Options::STANDARD);
        let _master = fs.open_master(RDWR).unwrap();
        let inode = fs.inode(index_of(&fs)).unwrap();
        inode.setattr(&SetAttr { mode: Some(0o600), uid: Some(7), gid: None, ..SetAttr::default() }).unwrap();
        let attr = inode.getattr().unwrap();
        assert_eq!((attr.mode & 0o7777, attr.uid, attr.gid), (0o600, 7, 5));
    }

    #[test]
    fn a_slave_from_elsewhere_can_be_adopted_and_other_files_cannot() {
        let others = DevPts::new(51, Arc::new(NoTerminals), Options::STANDARD);
        let master = others.open_master(RDWR).unwrap();
        unlock(&master);
        let index = index_of(&others);
        let slave = others.open_slave(index, RDWR).unwrap();
        let ours = DevPts::new(50, Arc::new(NoTerminals), Options::STANDARD);
        assert_eq!(ours.adopt(slave.as_fd(), 0, 0), Ok(index));
        assert!(ours.open_slave(index, RDWR).is_ok());
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(ours.adopt(null.as_fd(), 0, 0), Err(Errno::ENOTTY));
    }
}
