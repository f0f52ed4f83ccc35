//! Processes: numbers, groups, sessions, limits, priorities, the end of threads, waiting (`getpid(2)`, `setpgid(2)`,
//! `setsid(2)`, `prlimit(2)`, `prctl(2)`, `wait(2)` …).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_abi::{HIDDEN_FD_BASE, HIDDEN_FDS, xlate};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::exit::status_exited;
use nomina_kernel::kernel::Kernel;
use nomina_kernel::rlimit::{Resource, Rlimit};
use nomina_kernel::sys::ambient_request;
use nomina_kernel::task::{Dumpable, TaskId};

use super::super::Server;
use super::super::guest::GuestThread;
use super::super::layout::u64_at;
use super::super::request::{Ctx, Reply, host};
use super::clone::host_tid;

/// `getppid(2)`.
pub fn getppid(ctx: &mut Ctx<'_>) -> Result<Reply> {
    // The parent's end must be known before its child asks.
    ctx.server.reaper.drain(ctx.server);
    let kernel = ctx.server.kernel.lock().unwrap();
    Ok(kernel.task_ppid_vnr(ctx.task(), ctx.task()).into())
}

/// `getpgid(2)`, `getpgrp(2)`.
pub fn getpgid(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let pid = if ctx.nr == 111 { 0 } else { ctx.int(0) };
    Ok(ctx.server.kernel.lock().unwrap().getpgid(ctx.task(), pid)?.into())
}

/// `getsid(2)`.
pub fn getsid(ctx: &mut Ctx<'_>) -> Result<Reply> {
    Ok(ctx.server.kernel.lock().unwrap().getsid(ctx.task(), ctx.int(0))?.into())
}

/// `setsid(2)`; the shim makes the native call afterwards.
pub fn setsid(ctx: &mut Ctx<'_>) -> Result<Reply> {
    Ok(ctx.server.kernel.lock().unwrap().setsid(ctx.task())?.into())
}

/// `setpgid(2)`. out: host pid and host process group, for the native call.
pub fn setpgid(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let mut kernel = server.kernel.lock().unwrap();
    let (pid, pgid) = (ctx.int(0), ctx.int(1));
    let target = match pid {
        0 => Some(ctx.task()),
        pid => kernel.find_task_by_vpid(ctx.task(), pid),
    };
    let (_, pgid) = kernel.setpgid(ctx.task(), pid, pgid)?;
    let group = kernel.find_vpid(ctx.task(), pgid).ok_or(Errno::EPERM)?;
    drop(kernel);
    // 0 where we do not know yet: the shim of the parent does.
    let target_host = target.and_then(|task| server.host_pid_of(task)).unwrap_or(0);
    ctx.out[0] = target_host as u64;
    ctx.out[1] =
        server.pids.to_host(&group).unwrap_or(if pid == pgid || pgid == 0 { target_host } else { 0 }) as u64;
    Ok(().into())
}

/// The task that `pid` means, 0 for the caller.
fn target(kernel: &Kernel, caller: TaskId, pid: i32) -> Result<TaskId> {
    match pid {
        0 => Ok(caller),
        pid => kernel.find_task_by_vpid(caller, pid).ok_or(Errno::ESRCH),
    }
}

/// `prlimit64(2)`, `getrlimit(2)`, `setrlimit(2)` where they are not the caller's own native business.
pub fn rlimit(ctx: &mut Ctx<'_>) -> Result<Reply> {
    if ctx.nr != 302 {
        return Err(Errno::ENOSYS);
    }
    let server = ctx.server;
    let resource = Resource::new(ctx.uint(1))?;
    let new = ctx.structure::<16>(2)?.map(|bytes| Rlimit { cur: u64_at(&bytes, 0), max: u64_at(&bytes, 8) });
    let mut kernel = server.kernel.lock().unwrap();
    let task = target(&kernel, ctx.task(), ctx.int(0))?;
    let old = kernel.prlimit(ctx.task(), task, resource, new)?;
    let same_process = kernel.task_tgid_vnr(task, ctx.task()) == kernel.task_tgid_vnr(ctx.task(), ctx.task());
    drop(kernel);
    let mut answer = (old.cur, old.max);
    // Limits of another process that the host enforces are the host's.
    if !same_process && !matches!(resource, Resource::Nproc) {
        let Some(pid) = server.host_pid_of(task) else { return Ok(Reply::Retry) };
        let mut native = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // As for the shim that limits itself: the hidden descriptors count only where the limit lies above them.
        let beyond = |limit: u64| match resource {
            Resource::Nofile if (HIDDEN_FD_BASE.into()..libc::RLIM_INFINITY).contains(&limit) => {
                limit.saturating_add(HIDDEN_FDS.into())
            }
            _ => limit,
        };
        let least = if resource == Resource::Nofile { u64::from(HIDDEN_FD_BASE + HIDDEN_FDS) } else { 0 };
        let wanted =
            new.map(|new| libc::rlimit { rlim_cur: beyond(new.cur), rlim_max: beyond(new.max).max(least) });
        let new_ptr = wanted.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: valid structures; the process is a guest of ours, whose pid its pidfd keeps from being reused.
        if unsafe { libc::prlimit(pid, ctx.uint(1) as _, new_ptr, &raw mut native) } != 0 {
            return Err(host(std::io::Error::last_os_error()));
        }
        if resource != Resource::Nofile {
            answer = (native.rlim_cur, native.rlim_max);
        }
    }
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&answer.0.to_ne_bytes());
    bytes[8..].copy_from_slice(&answer.1.to_ne_bytes());
    ctx.write(3, &bytes)?;
    Ok(().into())
}

/// A soft limit of the caller's that the host enforces where it can and we where we act for the guest.
pub fn native_rlimit(ctx: &Ctx<'_>, resource: libc::__rlimit_resource_t) -> Result<u64> {
    let mut native = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a guest's limit into a local structure.
    if unsafe { libc::prlimit(ctx.host_pid(), resource, std::ptr::null(), &raw mut native) } != 0 {
        return Err(host(std::io::Error::last_os_error()));
    }
    Ok(native.rlim_cur)
}

/// `getpriority(2)` (returns 20 - nice) and `setpriority(2)` by process.
pub fn priority(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const PRIO_PROCESS: i32 = 0;
    let (which, who) = (ctx.int(0), ctx.int(1));
    if !(0..=2).contains(&which) {
        return Err(Errno::EINVAL);
    }
    // By process group or user: the tasks meant are the guest's, never the host user's.
    let kernel = ctx.server.kernel.lock().unwrap();
    let tasks: Vec<TaskId> = if which == PRIO_PROCESS {
        vec![target(&kernel, ctx.task(), who)?]
    } else {
        let me = kernel.task(ctx.task()).ok_or(Errno::ESRCH)?.cred().clone();
        let group = if which == 1 { kernel.getpgid(ctx.task(), 0)? } else { 0 };
        let wanted = if who != 0 {
            who
        } else if which == 1 {
            group
        } else {
            me.user_ns.from_kuid_munged(me.uid) as i32
        };
        let ns = kernel.active_pid_ns(ctx.task()).ok_or(Errno::ESRCH)?;
        kernel
            .tasks_in_ns(&ns)
            .into_iter()
            .map(|(_, task)| task)
            .filter(|&task| match which {
                1 => kernel.task_pgrp_vnr(task, ctx.task()) == wanted,
                _ => kernel
                    .task(task)
                    .is_some_and(|t| me.user_ns.from_kuid_munged(t.cred().uid) as i32 == wanted),
            })
            .collect()
    };
    drop(kernel);
    let tids: Vec<i32> = tasks
        .iter()
        .filter_map(|&task| ctx.server.guests.by_task(task))
        .filter_map(|t| host_tid(&t))
        .collect();
    if tids.is_empty() {
        return Err(Errno::ESRCH);
    }
    let mut best: Option<i64> = None;
    for tid in tids {
        // SAFETY: integers; the thread is a guest's.
        let result = unsafe {
            if ctx.nr == 140 {
                libc::syscall(libc::SYS_getpriority, 0, tid)
            } else {
                libc::syscall(libc::SYS_setpriority, 0, tid, ctx.int(2))
            }
        };
        if result < 0 {
            return Err(host(std::io::Error::last_os_error()));
        }
        best = best.max(Some(result));
    }
    Ok(Reply::Value(best.unwrap_or(0)))
}

/// `sched_setaffinity(2)`, `sched_getaffinity(2)` of another thread.
pub fn affinity(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let task = target(&ctx.server.kernel.lock().unwrap(), ctx.task(), ctx.int(0))?;
    let thread = ctx.server.guests.by_task(task).ok_or(Errno::ESRCH)?;
    let Some(tid) = host_tid(&thread).or_else(|| ctx.server.seek(&thread)) else { return Ok(Reply::Retry) };
    if ctx.nr == 203 {
        let mask = ctx.bytes(2)?;
        // SAFETY: a valid buffer of that length.
        let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) };
        return if result < 0 { Err(host(std::io::Error::last_os_error())) } else { Ok(().into()) };
    }
    let mut mask = vec![0u8; ctx.capacity(2).min(1024)];
    // SAFETY: a valid buffer of that length.
    let result = unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len(), mask.as_mut_ptr()) };
    if result < 0 {
        return Err(host(std::io::Error::last_os_error()));
    }
    ctx.write(2, &mask[..result as usize])?;
    Ok(Reply::Value(result))
}

/// The parts of `prctl(2)` that are about the model. out[0] = 1: out[1] is to be stored at argument 2.
pub fn prctl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let rest = [ctx.args[1], ctx.args[2], ctx.args[3], ctx.args[4]];
    let task = ctx.task();
    let mut kernel = ctx.server.kernel.lock().unwrap();
    let value = match ctx.int(0) {
        libc::PR_GET_DUMPABLE => match kernel.dumpable(task)? {
            Dumpable::Disable => 0,
            Dumpable::User => 1,
            Dumpable::Root => 2,
        },
        libc::PR_SET_DUMPABLE => kernel.set_dumpable(task, rest[0]).map(|()| 0)?,
        libc::PR_GET_KEEPCAPS => kernel.keepcaps(task)?.into(),
        libc::PR_SET_KEEPCAPS => kernel.set_keepcaps(task, rest[0]).map(|()| 0)?,
        libc::PR_GET_SECUREBITS => kernel.securebits(task)?.bits() as i32,
        libc::PR_SET_SECUREBITS => kernel.set_securebits(task, rest[0]).map(|()| 0)?,
        libc::PR_CAPBSET_READ => kernel.capbset_read(task, rest[0])?.into(),
        libc::PR_CAPBSET_DROP => kernel.capbset_drop(task, rest[0]).map(|()| 0)?,
        libc::PR_CAP_AMBIENT => kernel.cap_ambient(task, ambient_request(rest)?)?.into(),
        libc::PR_SET_NO_NEW_PRIVS => kernel.set_no_new_privs(task, rest).map(|()| 0)?,
        libc::PR_GET_NO_NEW_PRIVS => {
            if rest != [0; 4] {
                return Err(Errno::EINVAL);
            }
            kernel.task(task).ok_or(Errno::ESRCH)?.no_new_privs().into()
        }
        libc::PR_SET_CHILD_SUBREAPER => {
            kernel.set_child_subreaper(task, rest[0] != 0)?;
            // And natively, so that orphans reach it.
            ctx.out[0] = 2;
            0
        }
        libc::PR_GET_CHILD_SUBREAPER => {
            ctx.out[0] = 1;
            ctx.out[1] = kernel.signal_of(task).is_some_and(|signal| signal.is_child_subreaper()).into();
            0
        }
        libc::PR_GET_SECCOMP => kernel.seccomp(task).mode() as i32,
        _ => return Err(Errno::EINVAL),
    };
    Ok(value.into())
}

/// [`nomina_abi::op::THREAD_EXIT`].
pub fn thread_exit(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let thread = ctx.thread;
    let task = thread.task;
    let mut kernel = server.kernel.lock().unwrap();
    thread.harvest();
    let last = kernel.threads_of(task).len() <= 1;
    if last {
        // The end of the process is seen by its pidfd.
        return Ok(().into());
    }
    let is_leader = kernel.signal_of(task).is_some_and(|signal| signal.leader() == task);
    let outcome = kernel.exit_thread(task, status_exited(ctx.int(0)))?;
    drop(kernel);
    super::super::ptrace::after_exit(server, &outcome);
    if !is_leader {
        server.guests.remove(thread);
    }
    Ok(().into())
}

/// [`nomina_abi::op::XLATE`].
pub fn translate(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let nr = ctx.int(1);
    let caller = ctx.task();
    match ctx.args[0] {
        xlate::CHILD_TO_HOST => {
            let kernel = server.kernel.lock().unwrap();
            let child = kernel.find_task_by_vpid(caller, nr).ok_or(Errno::ECHILD)?;
            drop(kernel);
            match server.host_pid_of(child) {
                Some(pid) => Ok(pid.into()),
                None => Ok(Reply::Retry),
            }
        }
        xlate::FROM_HOST => {
            let known = match ctx.args[3] {
                0 => server.guests.by_tid(nr),
                _ => server.guest_of_host_pid(nr),
            };
            let known = known.map(|thread| thread.task);
            let kernel = server.kernel.lock().unwrap();
            let hinted = || {
                kernel.find_task_by_vpid(caller, ctx.int(2)).filter(|&task| is_child(&kernel, caller, task))
            };
            let Some(found) = known.or_else(hinted) else {
                // A child that has been waited for, most likely.
                let me = kernel.task(caller).ok_or(Errno::ESRCH)?.cred();
                ctx.out[0] = me.user_ns.from_kuid_munged(me.uid).into();
                let ns = kernel.active_pid_ns(caller).ok_or(Errno::ESRCH)?;
                return Ok(server.pids.departed(nr, &ns).unwrap_or(0).into());
            };
            if let (Some(task), Some(me)) = (kernel.task(found), kernel.task(caller)) {
                ctx.out[0] = me.cred().user_ns.from_kuid_munged(task.cred().uid).into();
                ctx.out[1] = me.cred().user_ns.from_kgid_munged(task.cred().gid).into();
            }
            Ok(kernel.task_pid_vnr(found, caller).into())
        }
        xlate::PGRP_TO_HOST => {
            let kernel = server.kernel.lock().unwrap();
            let pid = kernel.find_vpid(caller, nr).ok_or(Errno::ESRCH)?;
            drop(kernel);
            if let (Some(&first), Some(1)) =
                (server.first_pgrp.get(), pid.numbers().get(1).map(|upid| upid.nr))
            {
                return Ok(first.into());
            }
            match server.pids.to_host(&pid) {
                Some(host) => Ok(host.into()),
                None => Ok(Reply::Retry),
            }
        }
        xlate::PGRP_FROM_HOST => {
            let Some(first_level) = server.pids.from_host(nr) else { return Ok(0.into()) };
            let kernel = server.kernel.lock().unwrap();
            let Some(first_ns) = server.first_pid_ns.get() else { return Ok(0.into()) };
            let Some(pid) = first_ns.find(first_level) else { return Ok(0.into()) };
            let ns = kernel.active_pid_ns(caller).ok_or(Errno::ESRCH)?;
            Ok(pid.nr_ns(&ns).into())
        }
        xlate::THREAD_TO_HOST => {
            let kernel = server.kernel.lock().unwrap();
            let task = kernel.find_task_by_vpid(caller, nr).ok_or(Errno::ESRCH)?;
            if !kernel.threads_of(caller).contains(&task) {
                return Err(Errno::ESRCH);
            }
            drop(kernel);
            let thread = server.guests.by_task(task).ok_or(Errno::ESRCH)?;
            match host_tid(&thread) {
                Some(tid) => Ok(tid.into()),
                None => Ok(Reply::Retry),
            }
        }
        _ => Err(Errno::EINVAL),
    }
}

/// [`nomina_abi::op::REAP`].
pub fn reap(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let caller = ctx.task();
    server.reaper.drain(server);
    let host_pid = ctx.int(0);
    let thread = match server.guests.by_tid(host_pid) {
        Some(thread) => thread,
        // A child that died before it introduced itself: its maker has noted the host pid. Anything else is a stranger that
        // the host gave to the caller, an orphan of a pid namespace that has ended.
        None => {
            let kernel = server.kernel.lock().unwrap();
            let children: Vec<TaskId> = kernel
                .threads_of(caller)
                .iter()
                .filter_map(|&t| kernel.task(t))
                .flat_map(|task| task.children().to_vec())
                .collect();
            drop(kernel);
            children
                .into_iter()
                .filter_map(|child| server.guests.by_task(child))
                .find(|thread| host_tid(thread).is_none() && thread.noted_pid() == Some(host_pid))
                .ok_or(Errno::ECHILD)?
        }
    };
    let mut kernel = server.kernel.lock().unwrap();
    let nr = kernel.task_pid_vnr(thread.task, caller);
    if !thread.process.exited.swap(true, Ordering::AcqRel) {
        // The host said so to the parent before it said so to us.
        let outcome = kernel.exit_group(thread.task, 0);
        drop(kernel);
        if let Ok(outcome) = outcome {
            super::super::reaper::after_exit(server, &thread, outcome);
        }
        kernel = server.kernel.lock().unwrap();
    }
    server.pids.depart(&kernel, thread.task, host_pid, host_tid(&thread).is_some());
    let _ = kernel.reap(caller, thread.task);
    drop(kernel);
    server.guests.remove(&thread);
    server.spares.bury(&thread);
    Ok(nr.into())
}

/// Whether `child` is a child of the process of `parent`.
fn is_child(kernel: &Kernel, parent: TaskId, child: TaskId) -> bool {
    let real_parent = kernel.task(child).map(|task| task.real_parent());
    real_parent.is_some_and(|real_parent| kernel.threads_of(parent).contains(&real_parent))
}

/// A thread says that a native wait has consumed the zombie of its child `number`, whose host pid was `host_pid`. Believed when
/// that is a child of its process and the host agrees that it is gone.
pub fn note_reaped(server: &Arc<Server>, thread: &GuestThread, number: i32, host_pid: i32) {
    let mut kernel = server.kernel.lock().unwrap();
    let Some(task) = kernel.find_task_by_vpid(thread.task, number) else { return };
    if !is_child(&kernel, thread.task, task) {
        return;
    }
    let Some(child) = server.guests.by_task(task) else { return };
    let known = child.process.host_pid.load(Ordering::Acquire);
    let gone = match child.process.pidfd.get() {
        Some(pidfd) => known == host_pid && !super::super::reaper::is_zombie_or_alive(pidfd),
        // It never introduced itself, and never will.
        None => true,
    };
    if !gone {
        return;
    }
    if !child.process.exited.swap(true, Ordering::AcqRel) {
        child.harvest();
        let outcome = kernel.exit_group(task, 0);
        drop(kernel);
        if let Ok(outcome) = outcome {
            super::super::reaper::after_exit(server, &child, outcome);
        }
        kernel = server.kernel.lock().unwrap();
    }
    server.pids.depart(&kernel, task, host_pid, known != 0);
    let _ = kernel.reap(thread.task, task);
    drop(kernel);
    server.guests.remove(&child);
    server.spares.bury(&child);
}

/// `pidfd_open(2)`.
pub fn pidfd_open(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const PIDFD_NONBLOCK: u32 = libc::O_NONBLOCK as u32;
    const PIDFD_THREAD: u32 = libc::O_EXCL as u32;
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
    let thread = ctx.server.guests.by_task(task).ok_or(Errno::ESRCH)?;
    let Some(tid) = host_tid(&thread).or_else(|| ctx.server.seek(&thread)) else { return Ok(Reply::Retry) };
    // SAFETY: two integers; the result, when not negative, is a descriptor that only we own.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, tid, flags) };
    if fd < 0 {
        return Err(host(std::io::Error::last_os_error()));
    }
    // SAFETY: just opened.
    let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) };
    Ok(Reply::Fd { fd, cloexec: true })
}

use std::os::fd::FromRawFd;

/// The task a pidfd in the guest's hands stands for.
///
/// # Errors
/// `EBADF` when it is no pidfd, `ESRCH` when its process is no guest any more.
pub fn task_of_pidfd(ctx: &Ctx<'_>, fd: i32) -> Result<TaskId> {
    let copy = ctx.getfd(fd)?;
    host_pid_of_pidfd(copy.as_fd())
        .and_then(|pid| ctx.server.guests.by_tid(pid).ok_or(Errno::ESRCH))
        .map(|thread| thread.task)
}

fn host_pid_of_pidfd(fd: std::os::fd::BorrowedFd<'_>) -> Result<i32> {
    use std::os::fd::AsRawFd;
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map_err(host)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pid:")).ok_or(Errno::EBADF)?;
    match line.trim().parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(Errno::ESRCH),
    }
}

/// Kills what the model says is dead with its pid namespace.
pub fn kill_all(server: &Arc<Server>, tasks: &[TaskId]) {
    for &task in tasks {
        let Some(thread) = server.guests.by_task(task) else { continue };
        if thread.process.pidfd.get().is_none() {
            // Silent so far, but its maker may have noted where it is. If not, its first request ends it.
            server.seek(&thread);
        }
        if let Some(pidfd) = thread.process.pidfd.get() {
            let _ = rustix::process::pidfd_send_signal(pidfd.as_fd(), rustix::process::Signal::KILL);
        }
    }
}
