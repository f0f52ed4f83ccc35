//! Terminals of a sandbox: `/dev/tty`, `/dev/ptmx` and the slaves (`DeviceHost`).

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

use nomina_fs::dev::DeviceHost;
use nomina_fs::devpts::DevPts;
use nomina_fs::proc::current;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::{Inode, Path, d_path};
use rustix::fs::{Mode, OFlags, major, minor};

use super::Server;
use super::request::host;

/// Opens terminals for guests. The server and the devpts instance are told to it when they exist.
#[derive(Default)]
pub struct Terminals {
    /// The sandbox.
    pub server: OnceLock<Weak<Server>>,
    /// Where new terminals are registered.
    pub devpts: OnceLock<Weak<DevPts>>,
}

impl Terminals {
    fn server(&self) -> Result<Arc<Server>> {
        self.server.get().and_then(Weak::upgrade).ok_or(Errno::ENXIO)
    }

    fn devpts(&self) -> Result<Arc<DevPts>> {
        self.devpts.get().and_then(Weak::upgrade).ok_or(Errno::ENXIO)
    }
}

impl DeviceHost for Terminals {
    fn open_tty(&self, flags: u32) -> Result<OwnedFd> {
        let server = self.server()?;
        let caller = TaskId(current().ok_or(Errno::ENXIO)?.0);
        let pid = server.host_pid_of(caller).ok_or(Errno::ENXIO)?;
        let device = tty_of(pid).ok_or(Errno::ENXIO)?;
        if major(device) == nomina_fs::dev::PTS_MAJOR
            && let Ok(fd) = self.open_pts(minor(device), flags)
        {
            return Ok(fd);
        }
        // The terminal that Nomina itself was started on: the guest's session is ours.
        if tty_of(std::process::id() as i32) != Some(device) {
            return Err(Errno::ENXIO);
        }
        let kept = OFlags::from_bits_retain(flags) & (OFlags::RWMODE | OFlags::NONBLOCK);
        rustix::fs::open("/dev/tty", kept | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map_err(host)
    }

    fn caller_ids(&self) -> (u32, u32) {
        self.server().ok().and_then(|server| server.caller_ids()).unwrap_or((0, 0))
    }

    /// A `ptmx` node outside of devpts makes terminals of the first instance.
    fn open_ptmx(&self, flags: u32) -> Result<OwnedFd> {
        self.devpts()?.open_master(flags)
    }

    fn open_fuse(&self, flags: u32) -> Result<OwnedFd> {
        super::fuse::open_device(&*self.server()?, flags)
    }

    fn open_tun(&self, flags: u32) -> Result<OwnedFd> {
        let caller = TaskId(current().ok_or(Errno::ENXIO)?.0);
        super::net::tun::open(&self.server()?, caller, flags)
    }

    fn open_tap(&self, minor: u32, flags: u32) -> Result<OwnedFd> {
        super::net::tap::open(&self.server()?, minor, flags)
    }

    fn open_pts(&self, index: u32, flags: u32) -> Result<OwnedFd> {
        self.server()?.devpts_of(index).ok_or(Errno::ENXIO)?.open_slave(index, flags)
    }
}

/// Device number of a host process's controlling terminal.
fn tty_of(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in parentheses: state, ppid, pgrp, session, tty_nr.
    let number: u32 =
        stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(4)?.parse::<i32>().ok()? as u32;
    // new_encode_dev of the kernel.
    let device = rustix::fs::makedev(number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xfff00);
    (number != 0).then_some(device)
}

impl Server {
    /// The devpts instance that a terminal is of.
    fn devpts_of(&self, index: u32) -> Option<Arc<DevPts>> {
        if self.devpts.inode(index).is_some() {
            return Some(self.devpts.clone());
        }
        self.instances.all().iter().find_map(|sb| {
            let devpts = sb.ops().as_any().downcast_ref::<DevPts>()?.handle();
            devpts.inode(index).map(|_| devpts)
        })
    }

    /// The path of a terminal below `root`: where its instance is mounted there.
    pub fn terminal_path(&self, index: u32, root: &Path) -> Option<Vec<u8>> {
        self.instances.all().iter().find_map(|sb| {
            sb.ops().as_any().downcast_ref::<DevPts>()?.inode(index)?;
            let top =
                sb.mounts().iter().find_map(|mount| d_path::path_below(&Path::mount_root(mount), root))?;
            Some([&top[..], b"/", index.to_string().as_bytes()].concat())
        })
    }

    /// The node of a terminal or memory device in a guest's hands, whose owner, mode and inode number are not those of the
    /// host's node. `None` for anything else.
    pub fn device_inode(&self, rdev: u64, mode: u32) -> Option<Arc<dyn Inode>> {
        if mode & libc::S_IFMT != libc::S_IFCHR {
            return None;
        }
        match major(rdev) {
            nomina_fs::dev::PTS_MAJOR => self.devpts_of(minor(rdev))?.inode(minor(rdev)),
            nomina_fs::dev::MEM_MAJOR => self.devtmpfs.as_ref()?.device(rdev),
            _ => None,
        }
    }
}

/// The first of these descriptors that is a terminal.
pub fn first_terminal<'f>(fds: &[std::os::fd::BorrowedFd<'f>]) -> Option<std::os::fd::BorrowedFd<'f>> {
    fds.iter().copied().find(|fd| rustix::termios::isatty(fd))
}

/// Number of a descriptor, for messages.
pub fn number(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}
