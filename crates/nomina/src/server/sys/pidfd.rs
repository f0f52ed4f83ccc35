//! Process descriptors (`pidfd_open(2)`, `pidfd_getfd(2)`, `pidfd_send_signal(2)`, `fs/pidfs.c`) and `kcmp(2)`.
//!
//! A pidfd in a guest's hands is the host's, of a guest. Polling and waiting for it are native; which task it stands for, the
//! host says.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use nomina_abi as abi;
use nomina_fs::proc::task_of_dir;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::nsfs::NsLink;
use nomina_kernel::ptrace::PtraceCreds;
use nomina_kernel::signal::SignalScope;
use nomina_kernel::task::TaskId;

use super::super::Server;
use super::super::layout::u64_at;
use super::super::request::{Ctx, Reply, host};
use super::clone::host_tid;
use super::files::FdPath;
use super::signal;

const PIDFD_NONBLOCK: u32 = libc::O_NONBLOCK as u32;
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

/// `pidfd_open(2)`. `EINVAL`, `ESRCH`; `ENOENT` for a thread that leads no process, without `PIDFD_THREAD`.
pub fn pidfd_open(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (nr, flags) = (ctx.int(0), ctx.uint(1));
    if flags & !(PIDFD_NONBLOCK | PIDFD_THREAD) != 0 || nr <= 0 {
        return Err(Errno::EINVAL);
    }
    let kernel = ctx.server.kernel.lock().unwrap();
    let task = kernel.find_task_by_vpid(ctx.task(), nr).ok_or(Errno::ESRCH)?;
    let leader = kernel.signal_of(task).is_some_and(|signal| signal.leader() == task);
    drop(kernel);
    if !leader && flags & PIDFD_THREAD == 0 {
        return Err(Errno::ENOENT);
    }
    match open(ctx.server, task, flags)? {
        Some(fd) => Ok(Reply::Fd { fd, cloexec: true }),
        None => Ok(Reply::Retry),
    }
}

/// A pidfd of a task; `None` while it has not introduced itself.
///
/// # Errors
/// `ESRCH`.
pub fn open(server: &Arc<Server>, task: TaskId, flags: u32) -> Result<Option<OwnedFd>> {
    let thread = server.guests.by_task(task).ok_or(Errno::ESRCH)?;
    let Some(tid) = host_tid(&thread).or_else(|| server.seek(&thread)) else { return Ok(None) };
    // SAFETY: two integers; the result, when not negative, is a descriptor that only we own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, tid, flags) };
    if fd < 0 {
        return Err(host(io::Error::last_os_error()));
    }
    // SAFETY: just opened.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}

/// The host process a pidfd is of. `EBADF` when it is none, `ESRCH` when the process has been reaped.
fn host_pid_of(fd: BorrowedFd<'_>) -> Result<i32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map_err(host)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(Errno::EBADF)?;
    match line.trim().parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(Errno::ESRCH),
    }
}

/// The task a pidfd in the guest's hands stands for.
///
/// # Errors
/// `EBADF` when it is no pidfd, `ESRCH` when its process is no guest any more.
pub fn task_of_pidfd(ctx: &Ctx<'_>, fd: i32) -> Result<TaskId> {
    let copy = ctx.getfd(fd)?;
    let pid = host_pid_of(copy.as_fd())?;
    ctx.server.guest_of_host_pid(pid).map(|thread| thread.task).ok_or(Errno::ESRCH)
}

/// As [`task_of_pidfd`], also of an open directory of proc (`pidfd_to_pid`), and whether it is of a thread.
fn task_of_any(ctx: &Ctx<'_>, fd: i32) -> Result<(TaskId, bool)> {
    let copy = ctx.getfd(fd)?;
    match host_pid_of(copy.as_fd()) {
        Err(Errno::EBADF) => {
            let FdPath::Place(path) = ctx.fd_path(fd)? else { return Err(Errno::EBADF) };
            let task = task_of_dir(&**path.inode()).ok_or(Errno::EBADF)?;
            let task = TaskId(task.0);
            ctx.server.kernel.lock().unwrap().task(task).ok_or(Errno::ESRCH)?;
            Ok((task, false))
        }
        pid => {
            let thread = ctx.server.guest_of_host_pid(pid?).ok_or(Errno::ESRCH)?;
            let flags = rustix::fs::fcntl_getfl(&copy).map_err(host)?;
            Ok((thread.task, flags.bits() & PIDFD_THREAD != 0))
        }
    }
}

/// `pidfd_send_signal(2)`. `EBADF`, `EINVAL`, `EPERM`, `ESRCH`.
pub fn pidfd_send_signal(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const THREAD: u32 = 1;
    const THREAD_GROUP: u32 = 2;
    const PROCESS_GROUP: u32 = 4;
    let asked = match ctx.uint(3) {
        0 => None,
        THREAD => Some(SignalScope::Thread),
        THREAD_GROUP => Some(SignalScope::Process),
        PROCESS_GROUP => Some(SignalScope::Group),
        _ => return Err(Errno::EINVAL),
    };
    let signal = ctx.int(1);
    let (task, of_thread) = task_of_any(ctx, ctx.int(0))?;
    let scope = asked.unwrap_or(if of_thread { SignalScope::Thread } else { SignalScope::Process });
    let server = ctx.server;
    let (seen, own) = {
        let kernel = server.kernel.lock().unwrap();
        (kernel.task_pid_vnr(task, ctx.task()) != 0, task == ctx.task())
    };
    if !seen {
        return Err(Errno::EINVAL);
    }
    let given = match ctx.structure::<128>(2)? {
        None => None,
        Some(mut given) => {
            if super::super::layout::u32_at(&given, 0) as i32 != signal {
                return Err(Errno::EINVAL);
            }
            signal::vet(&mut given, signal, own)?;
            Some(given)
        }
    };
    let targets = server.kernel.lock().unwrap().signal_targets(ctx.task(), task, scope, signal)?;
    let thread = scope == SignalScope::Thread;
    let code = if thread { abi::SI_TKILL } else { abi::SI_USER };
    signal::send_all(ctx, &targets, signal, thread, |target| {
        given.unwrap_or_else(|| signal::info(signal, abi::SI_NOMINA, target.si_pid, target.si_uid, code))
    })
}

/// `pidfd_getfd(2)`: a descriptor of another process, of whom the caller may trace. `EBADF`, `EINVAL`, `EPERM`, `ESRCH`.
/// Where the host lets nobody take descriptors (`EPERM`), neither can a guest.
pub fn pidfd_getfd(ctx: &mut Ctx<'_>) -> Result<Reply> {
    if ctx.uint(2) != 0 {
        return Err(Errno::EINVAL);
    }
    let task = task_of_pidfd(ctx, ctx.int(0))?;
    let server = ctx.server;
    let thread = server.guests.by_task(task).ok_or(Errno::ESRCH)?;
    if server.host_pid_of(task).is_none() {
        return Ok(Reply::Retry);
    }
    let allowed = || {
        let kernel = server.kernel.lock().unwrap();
        kernel.ptrace_may_access(ctx.task(), task, PtraceCreds::Real)?;
        let gains = thread.process.gains_privilege.load(std::sync::atomic::Ordering::Acquire);
        if gains { Err(Errno::EPERM) } else { Ok(()) }
    };
    allowed()?;
    let fd = thread.process.getfd(ctx.int(1)).map_err(host)?;
    // It may have executed something that gave it privilege meanwhile.
    allowed()?;
    Ok(Reply::Fd { fd, cloexec: true })
}

/// `process_mrelease(2)`. `EBADF`, `ESRCH`; `EINVAL` for a process that is not being killed.
pub fn process_mrelease(ctx: &mut Ctx<'_>) -> Result<Reply> {
    if ctx.uint(1) != 0 {
        return Err(Errno::EINVAL);
    }
    let pidfd = ctx.getfd(ctx.int(0))?;
    host_pid_of(pidfd.as_fd())?;
    // SAFETY: two integers; a guest's pidfd is of a guest.
    match unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0) } {
        0 => Ok(().into()),
        _ => Err(host(io::Error::last_os_error())),
    }
}

/// `kcmp(2)` of two processes that the caller may look into. `EPERM`, `ESRCH`, `EBADF`, `EINVAL`; `ENOSYS` on hosts
/// without it.
pub fn kcmp(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const KCMP_FILE: i32 = 0;
    const KCMP_EPOLL_TFD: i32 = 7;
    let kind = ctx.int(2);
    let mut tids = [0; 2];
    for (index, tid) in tids.iter_mut().enumerate() {
        let nr = ctx.int(index);
        let kernel = ctx.server.kernel.lock().unwrap();
        let task = kernel.find_task_by_vpid(ctx.task(), nr).ok_or(Errno::ESRCH)?;
        kernel.ptrace_may_access(ctx.task(), task, PtraceCreds::Real)?;
        drop(kernel);
        let thread = ctx.server.guests.by_task(task).ok_or(Errno::ESRCH)?;
        match host_tid(&thread).or_else(|| ctx.server.seek(&thread)) {
            Some(host) => *tid = host,
            None => return Ok(Reply::Retry),
        }
    }
    // How an epoll's targets are found is in guest memory; who checkpoints processes gets the rest.
    if kind == KCMP_EPOLL_TFD {
        return Err(Errno::EOPNOTSUPP);
    }
    if kind == KCMP_FILE && (3..5).any(|index| super::super::given::is_hidden(ctx.int(index))) {
        return Err(Errno::EBADF);
    }
    // SAFETY: integers; both threads are guests'.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, tids[0], tids[1], kind, ctx.args[3], ctx.args[4]) };
    if result < 0 {
        return Err(host(io::Error::last_os_error()));
    }
    Ok(Reply::Value(result))
}

/// `PIDFS_IOCTL_MAGIC`: the type byte of the commands below.
pub const IOCTL_MAGIC: u32 = 0xff;
/// `PIDFD_GET_INFO` without its size.
const GET_INFO: u32 = 0xc000_ff0b;
/// Smallest `struct pidfd_info` (`PIDFD_INFO_SIZE_VER0`).
const INFO_SIZE: usize = 64;
/// `PIDFD_INFO_CGROUPID`.
const INFO_CGROUPID: u64 = 4;

/// `ioctl(2)` on a pidfd. `ENOTTY` for what is none of its commands; `EBADF` when the descriptor is no pidfd.
pub fn ioctl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let command = ctx.uint(1);
    let copy = ctx.getfd(ctx.int(0))?;
    let pid = host_pid_of(copy.as_fd());
    if pid == Err(Errno::EBADF) {
        return Err(Errno::ENOTTY);
    }
    let task = pid.and_then(|pid| ctx.server.guest_of_host_pid(pid).map(|t| t.task).ok_or(Errno::ESRCH));
    let size = (command >> 16 & 0x3fff) as usize;
    if command & 0xc000_ffff == GET_INFO && size >= INFO_SIZE {
        return get_info(ctx, &copy, command, task.ok());
    }
    // PIDFD_GET_CGROUP_NAMESPACE and so on: _IO(0xff, 1) to _IO(0xff, 10), in the order of /proc/PID/ns.
    let link = (command & 0xff).checked_sub(1).and_then(|index| NsLink::ALL.get(index as usize));
    let link = *link.filter(|_| command & 0xffff_ff00 == IOCTL_MAGIC << 8).ok_or(Errno::ENOTTY)?;
    if ctx.args[2] != 0 {
        return Err(Errno::EINVAL);
    }
    let task = task?;
    let ns = {
        let kernel = ctx.server.kernel.lock().unwrap();
        kernel.ptrace_may_access(ctx.task(), task, PtraceCreds::Fs).map_err(|_| Errno::EACCES)?;
        kernel.ns_get(task, link)?
    };
    let fd = ctx.server.handles.open_path(ctx.server.ns_path(ns), libc::O_RDONLY as u32).map_err(host)?;
    Ok(Reply::Fd { fd, cloexec: true })
}

/// `PIDFD_GET_INFO`: what the host says of its process, with the numbers and ids that the caller sees.
fn get_info(ctx: &mut Ctx<'_>, pidfd: &OwnedFd, command: u32, task: Option<TaskId>) -> Result<Reply> {
    let mut info = ctx.bytes_opt(3)?.filter(|_| ctx.args[2] != 0).ok_or(Errno::EINVAL)?;
    // SAFETY: the buffer has the size that is a part of the command.
    if unsafe { libc::ioctl(pidfd.as_raw_fd(), command.into(), info.as_mut_ptr()) } < 0 {
        return Err(host(io::Error::last_os_error()));
    }
    let mut mask = u64_at(&info, 0);
    let (mut cgroup, mut numbers) = (0u64, [0u32; 11]);
    if let Some(task) = task {
        let kernel = ctx.server.kernel.lock().unwrap();
        let (caller, them) = (ctx.task(), kernel.task(task).ok_or(Errno::ESRCH)?);
        let tgid = kernel.task_tgid_vnr(task, caller);
        if tgid == 0 {
            // Not a number of the caller's pid namespace.
            return Err(Errno::EREMOTE);
        }
        let user_ns = &kernel.task(caller).ok_or(Errno::ESRCH)?.cred().user_ns;
        let (uid, gid) = (|id| user_ns.from_kuid_munged(id), |id| user_ns.from_kgid_munged(id));
        let cred = them.cred();
        let pid = kernel.task_pid_vnr(task, caller);
        numbers = [
            pid as u32,
            tgid as u32,
            kernel.task_ppid_vnr(task, caller) as u32,
            uid(cred.uid),
            gid(cred.gid),
            uid(cred.euid),
            gid(cred.egid),
            uid(cred.suid),
            gid(cred.sgid),
            uid(cred.fsuid),
            gid(cred.fsgid),
        ];
        cgroup = them.cgroup().ino();
    } else {
        // The host's control group is none of the guest's business.
        mask &= !INFO_CGROUPID;
    }
    info[..8].copy_from_slice(&mask.to_ne_bytes());
    info[8..16].copy_from_slice(&cgroup.to_ne_bytes());
    for (index, number) in numbers.into_iter().enumerate() {
        info[16 + index * 4..20 + index * 4].copy_from_slice(&number.to_ne_bytes());
    }
    ctx.out[0] = info.len() as u64;
    ctx.write(3, &info)?;
    Ok(().into())
}
