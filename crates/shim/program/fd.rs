//! The shim's own descriptors, kept where the guest cannot meet them: outside its `RLIMIT_NOFILE`.

use nomina_abi::{FD_SOCK, FLOCK_NATIVE, HIDDEN_FD_BASE, HIDDEN_FDS};

use crate::area::Area;
use crate::marshal::generic;
use crate::slot::request;
use crate::sys::{err, nr, sys};
use crate::uaccess::{get_user, put_user_opt};
use crate::window::window;

const RLIMIT_NOFILE: u64 = 7;
const RLIMIT_MEMLOCK: u64 = 8;
const RLIM_INFINITY: u64 = u64::MAX;
const BASE: u64 = HIDDEN_FD_BASE as u64;
const HIDDEN: u64 = HIDDEN_FDS as u64;
const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;

/// Whether a descriptor number belongs to the shim.
pub fn is_hidden(fd: u64) -> bool {
    (HIDDEN_FD_BASE..HIDDEN_FD_BASE + HIDDEN_FDS).contains(&(fd as u32))
}

/// `struct rlimit64`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Limit {
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

impl Limit {
    /// What the guest shall see, as the host is told. The hidden descriptors count only when the limit lies above them.
    fn to_native(self) -> Limit {
        let raise = |value: u64| match value {
            RLIM_INFINITY => value,
            ..BASE => value,
            _ => value.saturating_add(HIDDEN),
        };
        Limit { soft: raise(self.soft), hard: raise(self.hard) }
    }
}

fn native_limit() -> Limit {
    let mut limit = Limit { soft: 0, hard: 0 };
    // SAFETY: the kernel writes the structure.
    unsafe { sys!(nr::PRLIMIT64, 0, RLIMIT_NOFILE, 0, &raw mut limit) };
    limit
}

fn set_native_limit(limit: Limit) -> i64 {
    // SAFETY: the kernel reads the structure.
    unsafe { sys!(nr::PRLIMIT64, 0, RLIMIT_NOFILE, &raw const limit, 0) }
}

/// Runs `what` with a limit that lets it use the hidden numbers.
pub fn with_hidden_numbers(what: impl Fn() -> i64) -> i64 {
    let ret = what();
    if ret != err::EBADF {
        return ret;
    }
    let limit = native_limit();
    set_native_limit(Limit { soft: (FD_SOCK as u64 + 1).max(limit.soft).min(limit.hard), ..limit });
    let ret = what();
    set_native_limit(limit);
    ret
}

/// Runs `what` with room for a few more descriptors than the guest may have.
pub fn with_higher_limit<R>(what: impl FnOnce() -> R) -> R {
    let limit = native_limit();
    set_native_limit(Limit { soft: limit.soft.saturating_add(8).min(limit.hard), ..limit });
    let result = what();
    set_native_limit(limit);
    result
}

/// `prlimit64(2)`, `getrlimit(2)`, `setrlimit(2)`. The supervisor knows the limits as the guest sees them, and who may change
/// them; the caller's own number of descriptors is then set natively, with room for the hidden ones.
pub fn prlimit(area: &Area, pid: u64, resource: u64, new: u64, old: u64) -> Result<i64, i64> {
    let own = pid as i32 == 0 || pid as i32 == area.pid.get();
    let wanted = if new == 0 { None } else { Some(get_user::<Limit>(new)?) };
    let kinds = crate::marshal::kinds(nr::PRLIMIT64).ok_or(err::ENOSYS)?;
    let ask = |new: u64, old: u64| generic(area, nr::PRLIMIT64, kinds, &[pid, resource, new, old, 0, 0]);
    let limit = match wanted {
        Some(limit) if own && resource as u32 as u64 == RLIMIT_NOFILE => limit,
        Some(limit) if own && resource as u32 as u64 == RLIMIT_MEMLOCK => {
            let ret = ask(new, old)?;
            if ret == 0 {
                limit_locked_memory(limit);
            }
            return Ok(ret);
        }
        _ => return ask(new, old),
    };
    let mut before = Limit { soft: 0, hard: 0 };
    let ret = ask(new, &raw mut before as u64)?;
    if ret < 0 {
        return Ok(ret);
    }
    let mut native = limit.to_native();
    // The shim's own numbers must stay within reach of the hard limit, which can never be raised again.
    native.hard = native.hard.max((HIDDEN_FD_BASE + HIDDEN_FDS) as u64).min(native_limit().hard);
    native.soft = native.soft.min(native.hard);
    let ret = set_native_limit(native);
    if ret < 0 {
        ask(&raw const before as u64, 0)?;
        return Err(ret);
    }
    put_user_opt(old, before)?;
    Ok(0)
}

/// `RLIMIT_MEMLOCK` may be raised beyond what the host allows, and is then what the host allows: the hard limit stays as it is.
fn limit_locked_memory(wanted: Limit) {
    let mut native = Limit { soft: 0, hard: 0 };
    // SAFETY: the kernel reads and writes structures of ours.
    unsafe {
        sys!(nr::PRLIMIT64, 0, RLIMIT_MEMLOCK, 0, &raw mut native);
        native.soft = wanted.soft.min(native.hard);
        sys!(nr::PRLIMIT64, 0, RLIMIT_MEMLOCK, &raw const native, 0);
    }
}

/// `close_range(2)`, around the hidden numbers.
pub fn close_range(first: u64, last: u64, flags: u64) -> Result<i64, i64> {
    let (first, last) = (first as u32, last as u32);
    let (low, high) = (HIDDEN_FD_BASE, HIDDEN_FD_BASE + HIDDEN_FDS);
    if first > last {
        return Err(err::EINVAL);
    }
    let native = |first: u32, last: u32| {
        // SAFETY: closes the guest's own.
        let ret = unsafe { sys!(nr::CLOSE_RANGE, first, last, flags) };
        if ret < 0 { Err(ret) } else { Ok(ret) }
    };
    if last < low || first >= high {
        return native(first, last);
    }
    if first < low {
        native(first, low - 1)?;
    }
    if last >= high {
        native(first.max(high), last)?;
    }
    Ok(0)
}

/// `dup2(2)`, `dup3(2)` and `fcntl(2)` duplications that name a hidden number: as if it were beyond the limit.
pub fn duplicate(number: u64, args: &[u64; 6]) -> i64 {
    let names_hidden = match number {
        nr::FCNTL | nr::CLOSE | nr::DUP => is_hidden(args[0]),
        _ => is_hidden(args[0]) || is_hidden(args[1]),
    };
    if names_hidden {
        return err::EBADF;
    }
    // SAFETY: the guest's own descriptors.
    let copy = unsafe { crate::sys::syscall(number, *args) };
    if number != nr::CLOSE {
        crate::signalfd::duplicated(args[0], copy);
    }
    copy
}

/// `flock(2)`. The supervisor keeps the locks of directories; all others are the handle's own, and waited for natively.
pub fn flock(area: &Area, args: &[u64; 6]) -> i64 {
    match request(area, nr::FLOCK as u32, args) {
        FLOCK_NATIVE => match window(area, area.guest_mask(), nr::FLOCK, *args) {
            err::EINTR => err::ERESTARTSYS,
            ret => ret,
        },
        ret => ret,
    }
}

/// Whether a `fcntl(2)` command duplicates.
pub fn is_duplication(command: u64) -> bool {
    matches!(command as u32 as u64, F_DUPFD | F_DUPFD_CLOEXEC)
}

/// `fsync(2)`, `fdatasync(2)` and `syncfs(2)`: native, but a directory is a placeholder, and a file without names may stand for one of a
/// FUSE server: the supervisor syncs what they stand for.
pub fn fsync(area: &Area, number: u64, args: &[u64; 6]) -> i64 {
    // SAFETY: the guest's descriptor.
    let ret = unsafe { crate::sys::syscall(number, *args) };
    // What can be synced can be read without waiting.
    // SAFETY: nothing is read.
    if ret == 0 && unsafe { sys!(nr::READ, args[0], 0, 0) } == err::EISDIR {
        return request(area, number as u32, args);
    }
    if ret == 0 {
        let mut stat = core::mem::MaybeUninit::<[u64; 18]>::zeroed();
        // SAFETY: room for a `struct stat`, whose third word is the number of links; zeros are a value of it.
        let links = unsafe {
            sys!(nr::FSTAT, args[0], stat.as_mut_ptr());
            stat.assume_init()[2]
        };
        if links == 0 {
            return request(area, number as u32, args);
        }
    }
    ret
}
