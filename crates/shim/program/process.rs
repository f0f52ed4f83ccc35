//! Calls about processes, groups, sessions and terminals in which the guest's number and the host's must agree.

use nomina_abi::{SPAN_NULL, op, xlate};

use crate::area::Area;
use crate::marshal::Arena;
use crate::masked::copy_reply;
use crate::slot::{out, request};
use crate::sys::{err, nr, sys, syscall};
use crate::uaccess::{get_user, put_user};
use crate::wait::CHILDREN;
use crate::window::window;

const TIOCGPGRP: u64 = 0x540f;
const TIOCSPGRP: u64 = 0x5410;
const TIOCGSID: u64 = 0x5429;
const F_GETLK: u64 = 5;
const F_OFD_GETLK: u64 = 36;
const F_SETOWN_EX: u64 = 15;
const F_GETOWN_EX: u64 = 16;
/// Size of `struct f_owner_ex`.
const F_OWNER_EX: u64 = 8;
/// `CLONE_FILES`: what the host must do. Root and working directory are the model's.
const UNSHARE_NATIVE: u64 = 0x400;
const SIGEV_THREAD_ID: i32 = 4;
/// Commands of `netdevice(7)` and `route(8)` whose structures lead further.
const SIOCADDRT: u64 = 0x890b;
const SIOCDELRT: u64 = 0x890c;
const SIOCGIFCONF: u64 = 0x8912;
/// Length of a `struct rtentry`, and where the pointer to the name of a device stands in it.
const RTENTRY: u64 = 120;
const RT_DEV: u64 = 88;
const IFNAMSIZ: u64 = 16;
/// What the supervisor sees of the memory an `ioctl(2)` points to.
const IOCTL_WINDOW: u64 = 64;
/// The same of a structure whose size is a part of the command.
const IOCTL_WINDOW_MAX: u64 = 1024;
const PIDFS_IOCTL_MAGIC: u32 = 0xff;
/// `struct ifreq` and an int are shorter.
const IOCTL_WINDOWS: [u64; 3] = [IOCTL_WINDOW, 40, 4];
/// Its argument is a `struct sock_fprog`.
const TUNATTACHFILTER: u32 = 0x4010_54d5;
const PR_SET_SECCOMP: u32 = 22;
/// `out[0]` of a `prctl(2)` reply: store `out[1]`, an int, where the second argument points.
const PRCTL_STORE: u64 = 1;
/// `out[0]` of a `prctl(2)` reply: make the call natively too.
const PRCTL_NATIVE: u64 = 2;
/// `out[0]` of a `prctl(2)` reply: store `out[1]` and `out[2]`, a name, where the second argument points.
const PRCTL_NAME: u64 = 3;

/// `unshare(2)`: namespaces in the model, the rest in the host.
pub fn unshare(area: &Area, flags: u64) -> i64 {
    let ret = request(area, nr::UNSHARE as u32, &[flags, 0, 0, 0, 0, 0]);
    if ret >= 0 && flags & UNSHARE_NATIVE != 0 {
        // SAFETY: the caller's own kernel objects.
        let native = unsafe { sys!(nr::UNSHARE, flags & UNSHARE_NATIVE) };
        // A host that refuses the call altogether: nothing is amiss when nobody shares the table.
        return if native == err::EPERM && area.is_only() { ret } else { native };
    }
    ret
}

/// Calls on a thread by its id, where 0 is the caller: native for the caller, otherwise the supervisor's.
pub fn of_thread(area: &Area, number: u64, args: &[u64; 6], index: usize) -> Result<i64, i64> {
    let tid = args[index] as i32;
    if tid == 0 || tid == area.tid.get() {
        let mut call = *args;
        call[index] = 0;
        // SAFETY: the guest's own arguments, about the guest's own thread.
        return Ok(unsafe { syscall(number, call) });
    }
    match crate::marshal::kinds(number) {
        Some(kinds) => crate::marshal::generic(area, number, kinds, args),
        None => Ok(request(area, number as u32, args)),
    }
}

/// `setsid(2)`: in the model, then in the host.
pub fn setsid(area: &Area) -> i64 {
    let ret = request(area, nr::SETSID as u32, &[0; 6]);
    if ret >= 0 {
        // SAFETY: touches no memory.
        unsafe { sys!(nr::SETSID) };
    }
    ret
}

/// `setpgid(2)`: in the model, then in the host.
pub fn setpgid(area: &Area, pid: u64, group: u64) -> i64 {
    let ret = request(area, nr::SETPGID as u32, &[pid, group, 0, 0, 0, 0]);
    if ret == 0 {
        // The supervisor learns the host pid of a child only from the child itself; the parent may be faster.
        let known = |number: u64, guest: u64| match number {
            0 => CHILDREN.host(guest as i32).map_or(0, |host| host as u64),
            host => host,
        };
        let host_pid = known(out(area, 0), pid);
        let host_group = known(out(area, 1), if group as i32 == 0 { pid } else { group });
        // SAFETY: touches no memory.
        unsafe { sys!(nr::SETPGID, host_pid, host_group) };
    }
    ret
}

/// `ioctl(2)` commands that carry a name: terminals' process groups here, the others in the supervisor.
pub fn ioctl(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [fd, command, at, ..] = *args;
    match command as u32 as u64 {
        TIOCSPGRP => {
            let group: i32 = get_user(at)?;
            if group < 0 {
                return Err(err::EINVAL);
            }
            let host = match request(area, op::XLATE, &[xlate::PGRP_TO_HOST, group as u64, 0, 0, 0, 0]) {
                // As in `setpgid`: a leader that has not introduced itself yet.
                error @ ..=0 => CHILDREN.host(group).ok_or(if error == 0 { err::ESRCH } else { error })?,
                host => host as i32,
            };
            // A background process is stopped here, so its mask counts.
            let call = [fd, command, &raw const host as u64, 0, 0, 0];
            let ret = window(area, area.guest_mask(), nr::IOCTL, call);
            Ok(if ret == err::EINTR { err::ERESTARTSYS } else { ret })
        }
        TIOCGPGRP | TIOCGSID => {
            let mut host = 0i32;
            // SAFETY: the kernel writes the number.
            let ret = unsafe { sys!(nr::IOCTL, fd, command, &raw mut host) };
            if ret < 0 {
                return Err(ret);
            }
            let ask = [xlate::PGRP_FROM_HOST, host as u64, 0, 0, 0, 0];
            put_user(at, request(area, op::XLATE, &ask).max(0) as i32)?;
            Ok(0)
        }
        SIOCGIFCONF => {
            // `struct ifconf`: how much room there is, and where.
            let (room, to): (i32, u64) = (get_user(at)?, get_user(at + 8)?);
            let room = room.max(0) as u64;
            let ret = request(area, nr::IOCTL as u32, &[fd, command, room, SPAN_NULL, u64::from(to == 0), 0]);
            if ret >= 0 {
                let len = out(area, 1) as i32;
                if to != 0 {
                    copy_reply(area, to, room)?;
                }
                put_user(at, len)?;
            }
            Ok(ret)
        }
        SIOCADDRT | SIOCDELRT => {
            // `struct rtentry`, in which a pointer leads to the name of a device.
            let mut arena = Arena::new(area);
            let entry = arena.bytes(at, RTENTRY)?;
            let name = match get_user::<u64>(at + RT_DEV)? {
                0 => SPAN_NULL,
                name => arena.bytes(name, IFNAMSIZ)?,
            };
            Ok(request(area, nr::IOCTL as u32, &[fd, command, at, entry, name, 0]))
        }
        _ => {
            let mut arena = Arena::new(area);
            // Commands of pidfds say how large their structure is. The shorter ones where a structure ends at the end of what can be read.
            let whole = match command as u32 >> 8 & 0xff {
                PIDFS_IOCTL_MAGIC => [(command >> 16 & 0x3fff).min(IOCTL_WINDOW_MAX); 3],
                _ => IOCTL_WINDOWS,
            };
            let seen = whole.iter().find_map(|len| arena.bytes(at, *len).ok()).unwrap_or(SPAN_NULL);
            let filter = match command as u32 {
                TUNATTACHFILTER => arena.filter(at)?,
                _ => SPAN_NULL,
            };
            let ret = request(area, nr::IOCTL as u32, &[fd, command, at, seen, filter, 0]);
            if ret >= 0 && seen != SPAN_NULL {
                copy_reply(area, at, whole[0])?;
            }
            Ok(ret)
        }
    }
}

/// `prctl(2)` options that the model keeps.
pub fn prctl(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    if args[0] as u32 == PR_SET_SECCOMP {
        return crate::seccomp::prctl_set_seccomp(area, args[1], args[2]);
    }
    let ret = request(area, nr::PRCTL as u32, args);
    if ret >= 0 {
        match out(area, 0) {
            PRCTL_STORE => put_user(args[1], out(area, 1) as i32)?,
            PRCTL_NAME => {
                let words = [out(area, 1), out(area, 2)];
                put_user(args[1], words)?;
            }
            // SAFETY: the supervisor knows the option to be harmless.
            PRCTL_NATIVE => return Ok(unsafe { syscall(nr::PRCTL, *args) }),
            _ => {}
        }
    }
    Ok(ret)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Flock {
    kind: i16,
    whence: i16,
    pad: u32,
    start: i64,
    len: i64,
    pid: i32,
    pad2: u32,
}

/// `fcntl(2)` commands that are not native.
pub fn fcntl(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [fd, command, at, ..] = *args;
    match command as u32 as u64 {
        F_GETLK | F_OFD_GETLK => {
            let mut lock: Flock = get_user(at)?;
            // SAFETY: the kernel reads and writes the structure.
            let ret = unsafe { sys!(nr::FCNTL, fd, command, &raw mut lock) };
            if ret >= 0 {
                if lock.pid > 0 {
                    let ask = [xlate::FROM_HOST, lock.pid as u64, 0, 0, 0, 0];
                    lock.pid = request(area, op::XLATE, &ask).max(0) as i32;
                }
                put_user(at, lock)?;
            }
            Ok(ret)
        }
        command if crate::fd::is_duplication(command) || crate::fd::is_hidden(fd) => {
            Ok(crate::fd::duplicate(nr::FCNTL, args))
        }
        F_SETOWN_EX | F_GETOWN_EX => {
            let owner = Arena::new(area).bytes(at, F_OWNER_EX)?;
            let ret = request(area, nr::FCNTL as u32, &[fd, command, at, owner, 0, 0]);
            if ret >= 0 && command as u32 as u64 == F_GETOWN_EX {
                copy_reply(area, at, F_OWNER_EX)?;
            }
            Ok(ret)
        }
        _ => Ok(request(area, nr::FCNTL as u32, args)),
    }
}

/// `timer_create(2)`; the thread to be notified is the guest's number.
pub fn timer_create(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [clock, event_at, id_at, ..] = *args;
    if event_at == 0 {
        // SAFETY: the guest's arguments.
        return Ok(unsafe { syscall(nr::TIMER_CREATE, *args) });
    }
    // struct sigevent: value, signal number, kind, then the thread id.
    let mut event: [u32; 16] = get_user(event_at)?;
    if event[3] as i32 == SIGEV_THREAD_ID {
        let ask = [xlate::THREAD_TO_HOST, u64::from(event[4]), 0, 0, 0, 0];
        let host = request(area, op::XLATE, &ask);
        if host < 0 {
            return Err(err::EINVAL);
        }
        event[4] = host as u32;
    }
    // SAFETY: the kernel reads the event, and checks the guest's pointer.
    Ok(unsafe { sys!(nr::TIMER_CREATE, clock, &raw const event, id_at) })
}

/// `set_tid_address(2)`: the host clears the word at the thread's end.
pub fn set_tid_address(area: &Area, at: u64) -> i64 {
    // SAFETY: only an address is passed.
    unsafe { sys!(nr::SET_TID_ADDRESS, at) };
    i64::from(area.tid.get())
}
