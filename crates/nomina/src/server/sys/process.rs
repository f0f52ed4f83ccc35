//! Processes: numbers, groups, sessions, limits, the end of threads, waiting (`getpid(2)`, `setpgid(2)`, `setsid(2)`,
//! `prlimit(2)`, `prctl(2)`, `wait(2)` …).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_abi::{HIDDEN_FD_BASE, HIDDEN_FDS, xlate};
use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::exit::status_exited;
use nomina_kernel::kernel::Kernel;
use nomina_kernel::pid::PidType;
use nomina_kernel::ptrace::PtraceCreds;
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
///
/// # Errors
/// `ESRCH`.
pub fn target(kernel: &Kernel, caller: TaskId, pid: i32) -> Result<TaskId> {
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
        let mut wanted =
            new.map(|new| libc::rlimit { rlim_cur: beyond(new.cur), rlim_max: beyond(new.max).max(least) });
        if let Some(wanted) = wanted.as_mut().filter(|_| resource == Resource::Memlock) {
            // As the shim does for itself: what the host allows remains.
            // SAFETY: as below.
            unsafe { libc::prlimit(pid, libc::RLIMIT_MEMLOCK, std::ptr::null(), &raw mut native) };
            wanted.rlim_max = native.rlim_max;
            wanted.rlim_cur = wanted.rlim_cur.min(native.rlim_max);
        }
        let new_ptr = wanted.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: valid structures; the process is a guest of ours, whose pid its pidfd keeps from being reused.
        if unsafe { libc::prlimit(pid, ctx.uint(1) as _, new_ptr, &raw mut native) } != 0 {
            return Err(host(std::io::Error::last_os_error()));
        }
        if !matches!(resource, Resource::Nofile | Resource::Memlock) {
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

const PR_SET_MM_AUXV: u64 = 12;
const PR_SET_IO_FLUSHER: i32 = 57;
const PR_GET_IO_FLUSHER: i32 = 58;
const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;

/// The parts of `prctl(2)` that are about the model. out[0] = 1: out[1] is to be stored at argument 2; 2: the call is to be made
/// natively; 3: a name in out[1] and out[2] is to be stored.
pub fn prctl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let rest = [ctx.args[1], ctx.args[2], ctx.args[3], ctx.args[4]];
    if ctx.int(0) == libc::PR_GET_NAME {
        return Ok(get_name(ctx));
    }
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
        // What is another program's to see (PR_SET_MM) or the host's to give: refused as to who has no right to it, and to others as by a
        // kernel without it.
        libc::PR_SET_MM if rest[3] == 0 && (rest[2] == 0 || rest[0] == PR_SET_MM_AUXV) => {
            return Err(if kernel.capable(task, Cap::SYS_RESOURCE) { Errno::EINVAL } else { Errno::EPERM });
        }
        PR_SET_IO_FLUSHER | PR_GET_IO_FLUSHER if !kernel.capable(task, Cap::SYS_RESOURCE) => {
            return Err(Errno::EPERM);
        }
        // Off it is.
        PR_SET_SYSCALL_USER_DISPATCH if rest == [0; 4] => 0,
        _ => return Err(Errno::EINVAL),
    };
    Ok(value.into())
}

/// `PR_GET_NAME`: the host's, unless it has been written in proc.
fn get_name(ctx: &mut Ctx<'_>) -> Reply {
    ctx.out[0] = 2;
    if let Some(comm) = ctx.server.renamed_comm(ctx.thread) {
        let mut name = [0; 16];
        let len = comm.len().min(15);
        name[..len].copy_from_slice(&comm[..len]);
        (ctx.out[0], ctx.out[1], ctx.out[2]) = (3, u64_at(&name, 0), u64_at(&name, 8));
    }
    Reply::Value(0)
}

/// `get_robust_list(2)` of another thread: `ESRCH`, or `EPERM`, as from a thread that cannot be looked into. Where a list
/// is, only the shim of its thread knows.
pub fn get_robust_list(ctx: &mut Ctx<'_>) -> Result<Reply> {
    target(&ctx.server.kernel.lock().unwrap(), ctx.task(), ctx.int(0))?;
    Err(Errno::EPERM)
}

/// `migrate_pages(2)` and `move_pages(2)` of another process: `ESRCH`, `EPERM`, and `ENOSYS` where it would be allowed.
pub fn pages_of_other(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let kernel = ctx.server.kernel.lock().unwrap();
    let task = target(&kernel, ctx.task(), ctx.int(0))?;
    kernel.ptrace_may_access(ctx.task(), task, PtraceCreds::Real)?;
    Err(Errno::ENOSYS)
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
            // A thread is nobody's child.
            let leads = kernel.leader_of(child) == Some(child);
            drop(kernel);
            if !leads {
                return Err(Errno::ECHILD);
            }
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
                // Of no group perhaps: the host says so, as it knows the session of the process with that number.
                Some(host) => Ok(host.into()),
                None if pid.members(PidType::Pgid).is_empty() => Err(Errno::ESRCH),
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
    server.spares.bury(&server.ahead, &thread);
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
    server.spares.bury(&server.ahead, &child);
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
