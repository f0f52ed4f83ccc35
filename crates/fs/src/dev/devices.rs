//! The device table: what opening a device node means, whichever file system the node is in (`chrdev_open` in Linux).
//!
//! A sandbox has the memory devices, terminals, `/dev/fuse`, `/dev/net/tun` and the taps of its macvtaps. The memory devices are harmless in anyone's hands and are the
//! host's own, so reading and writing them is native. Everything else does not exist: `ENXIO`, as for a number without a
//! driver. Nodes of other numbers can be made, shown and copied.

use std::os::fd::OwnedFd;

use nomina_kernel::vfs::{Opened, S_IFCHR, S_IFMT};
use nomina_kernel::{Errno, Result};
use rustix::fs::{FileType, Mode, OFlags, major, makedev, minor};

use crate::proc::generic::host_errno;

/// Major number of the memory devices (`MEM_MAJOR`).
pub const MEM_MAJOR: u32 = 1;
/// Major number of `/dev/tty`, `console` and `ptmx` (`TTYAUX_MAJOR`).
pub const TTYAUX_MAJOR: u32 = 5;
/// Major number of miscellaneous devices (`MISC_MAJOR`).
pub const MISC_MAJOR: u32 = 10;
/// Minor number of `/dev/fuse` (`FUSE_MINOR`).
pub const FUSE_MINOR: u32 = 229;
/// Minor number of `/dev/net/tun` (`TUN_MINOR`).
pub const TUN_MINOR: u32 = 200;
/// Major number of the pseudo terminals of devpts (`UNIX98_PTY_SLAVE_MAJOR`).
pub const PTS_MAJOR: u32 = 136;

/// Major number of `/dev/tapN`, which `alloc_chrdev_region` would choose (234 to 254).
pub const TAP_MAJOR: u32 = 246;

/// Terminals, which depend on the caller: given by whoever knows tasks and sessions. `flags` are those of `open(2)`.
///
/// None of these may make the terminal the controlling terminal of Nomina itself (always open with `O_NOCTTY`); making it
/// the caller's is a native `TIOCSCTTY` of its shim.
pub trait DeviceHost: Send + Sync {
    /// `/dev/tty`: the controlling terminal of the caller. `ENXIO` without one.
    fn open_tty(&self, flags: u32) -> Result<OwnedFd>;
    /// File system user and group of the caller.
    fn caller_ids(&self) -> (u32, u32);
    /// `/dev/ptmx`: a new pseudo terminal's master, registered in the caller's devpts.
    fn open_ptmx(&self, flags: u32) -> Result<OwnedFd>;
    /// `/dev/fuse`: a connection for a server ([`crate::fuse`]).
    fn open_fuse(&self, flags: u32) -> Result<OwnedFd>;
    /// `/dev/net/tun`: a descriptor that can be attached to a network device.
    fn open_tun(&self, flags: u32) -> Result<OwnedFd>;
    /// `/dev/tapN`: a queue of the macvtap with this minor number. `ENODEV` for one that there is not.
    fn open_tap(&self, minor: u32, flags: u32) -> Result<OwnedFd>;
    /// `136:index` wherever the node is. `ENXIO` for one that the sandbox did not make.
    fn open_pts(&self, index: u32, flags: u32) -> Result<OwnedFd>;
}

/// Flags of `open(2)` that mean something to a device. `O_NOCTTY` is added always.
pub(crate) fn device_flags(flags: u32) -> OFlags {
    let kept = OFlags::RWMODE | OFlags::NONBLOCK | OFlags::APPEND;
    (OFlags::from_bits_retain(flags) & kept) | OFlags::CLOEXEC | OFlags::NOCTTY
}

/// Opens the device `rdev` whose node has the type bits of `mode`. `ENXIO` for one there is no driver for.
pub fn open_device(rdev: u64, mode: u32, flags: u32, host: &dyn DeviceHost) -> Result<Opened> {
    if mode & S_IFMT != S_IFCHR {
        return Err(Errno::ENXIO);
    }
    match (major(rdev), minor(rdev)) {
        (MEM_MAJOR, 3) => open_host_device(c"/dev/null", rdev, flags),
        (MEM_MAJOR, 5) => open_host_device(c"/dev/zero", rdev, flags),
        (MEM_MAJOR, 7) => open_host_device(c"/dev/full", rdev, flags),
        (MEM_MAJOR, 8) => open_host_device(c"/dev/random", rdev, flags),
        (MEM_MAJOR, 9) => open_host_device(c"/dev/urandom", rdev, flags),
        (MISC_MAJOR, FUSE_MINOR) => host.open_fuse(flags),
        (MISC_MAJOR, TUN_MINOR) => host.open_tun(flags),
        (TAP_MAJOR, minor) => host.open_tap(minor, flags),
        (TTYAUX_MAJOR, 0) => host.open_tty(flags),
        (TTYAUX_MAJOR, 2) => host.open_ptmx(flags),
        (PTS_MAJOR, index) => host.open_pts(index, flags),
        _ => Err(Errno::ENXIO),
    }
    .map(Opened::Host)
}

/// Opens the host's node and makes sure that it is the device meant. `ENXIO` otherwise.
fn open_host_device(path: &std::ffi::CStr, rdev: u64, flags: u32) -> Result<OwnedFd> {
    let fd =
        rustix::fs::open(path, device_flags(flags) | OFlags::NOFOLLOW, Mode::empty()).map_err(host_errno)?;
    let stat = rustix::fs::fstat(&fd).map_err(host_errno)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != rdev {
        return Err(Errno::ENXIO);
    }
    Ok(fd)
}

/// The device number of a memory device.
pub(crate) fn mem_device(minor: u32) -> u64 {
    makedev(MEM_MAJOR, minor)
}
