//! Scheduling of threads by their number: `getpriority(2)`, `setpriority(2)`, `sched_setscheduler(2)` and its relatives,
//! `sched_setaffinity(2)`, `ioprio_set(2)`. What is about the caller itself it does natively.
//!
//! Who may change whom is decided here, by the users inside; the host kernel does it, with the target's own limits
//! (`RLIMIT_NICE`, `RLIMIT_RTPRIO`).

use std::io;

use nomina_kernel::capability::Cap;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::kernel::Kernel;
use nomina_kernel::task::TaskId;

use super::super::request::{Ctx, Reply, host};
use super::clone::host_tid;
use super::process::target;

/// What an id of `getpriority(2)` or `ioprio_get(2)` names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Process,
    Group,
    User,
}

/// Ids of whom the caller must share one to change the target; else it needs CAP_SYS_NICE there.
#[derive(Clone, Copy)]
enum Owner {
    /// `check_same_owner`: the caller's effective id is the target's effective or real one.
    Effective,
    /// `set_task_ioprio`: the target's real id is the caller's effective or real one.
    Real,
}

fn may_change(caller: &Cred, them: &Cred, owner: Owner) -> bool {
    let same = match owner {
        Owner::Effective => caller.euid == them.euid || caller.euid == them.uid,
        Owner::Real => them.uid == caller.euid || them.uid == caller.uid,
    };
    same || caller.ns_capable(&them.user_ns, Cap::SYS_NICE)
}

/// `EPERM` when the caller may not change how `target` is scheduled.
fn check_owner(kernel: &Kernel, caller: TaskId, target: TaskId, owner: Owner) -> Result<()> {
    let (me, them) = (kernel.task(caller).ok_or(Errno::ESRCH)?, kernel.task(target).ok_or(Errno::ESRCH)?);
    if may_change(me.cred(), them.cred(), owner) { Ok(()) } else { Err(Errno::EPERM) }
}

/// The threads that `who` names, 0 for the caller, its group, its user.
fn named(kernel: &Kernel, caller: TaskId, which: Who, who: i32) -> Result<Vec<TaskId>> {
    if which == Who::Process {
        return target(kernel, caller, who).map(|task| vec![task]);
    }
    let me = kernel.task(caller).ok_or(Errno::ESRCH)?.cred().clone();
    let ns = kernel.active_pid_ns(caller).ok_or(Errno::ESRCH)?;
    let leaders = kernel.tasks_in_ns(&ns).into_iter().map(|(_, task)| task);
    if which == Who::Group {
        let group = if who == 0 { kernel.getpgid(caller, 0)? } else { who };
        return Ok(leaders.filter(|&task| kernel.task_pgrp_vnr(task, caller) == group).collect());
    }
    let uid = if who == 0 { Some(me.uid) } else { me.user_ns.make_kuid(who as u32) };
    let uid = uid.ok_or(Errno::ESRCH)?;
    let threads = leaders.flat_map(|leader| kernel.threads_of(leader).to_vec());
    Ok(threads.filter(|&task| kernel.task(task).is_some_and(|t| t.cred().uid == uid)).collect())
}

impl Ctx<'_> {
    /// Host thread ids of tasks; `None` when one has not introduced itself. Those that have ended are left out.
    fn host_tids(&self, tasks: &[TaskId]) -> Option<Vec<(TaskId, i32)>> {
        let threads = tasks.iter().filter_map(|&task| self.server.guests.by_task(task));
        threads.map(|t| Some((t.task, host_tid(&t).or_else(|| self.server.seek(&t))?))).collect()
    }
}

/// Result of a raw system call.
fn result(value: i64) -> Result<i64> {
    if value < 0 { Err(host(io::Error::last_os_error())) } else { Ok(value) }
}

/// Lowest nice value that the limits of a thread let anybody without a capability give it (`can_nice`).
fn least_nice(tid: i32) -> i64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a guest's limit into a local structure.
    unsafe { libc::prlimit(tid, libc::RLIMIT_NICE, std::ptr::null(), &raw mut limit) };
    20 - i64::try_from(limit.rlim_cur).unwrap_or(40).min(40)
}

/// `getpriority(2)` (returns 20 - nice) and `setpriority(2)`. `EINVAL`, `ESRCH`, `EPERM`, `EACCES`.
pub fn priority(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let which = match ctx.int(0) {
        0 => Who::Process,
        1 => Who::Group,
        2 => Who::User,
        _ => return Err(Errno::EINVAL),
    };
    let caller = ctx.task();
    let nice = i64::from(ctx.int(2)).clamp(-20, 19);
    let tasks = named(&ctx.server.kernel.lock().unwrap(), caller, which, ctx.int(1))?;
    let Some(tids) = ctx.host_tids(&tasks) else { return Ok(Reply::Retry) };
    if ctx.nr == 140 {
        // SAFETY: integers; the threads are guests'.
        let values = tids.iter().map(|(_, tid)| unsafe { libc::syscall(libc::SYS_getpriority, 0, *tid) });
        return values.filter(|&value| value >= 0).max().map(Reply::Value).ok_or(Errno::ESRCH);
    }
    let mut outcome = Err(Errno::ESRCH);
    for (task, tid) in tids {
        // SAFETY: integers; the thread is a guest's.
        let Ok(now) = result(unsafe { libc::syscall(libc::SYS_getpriority, 0, tid) }) else { continue };
        let allowed = {
            let kernel = ctx.server.kernel.lock().unwrap();
            let (Some(me), Some(them)) = (kernel.task(caller), kernel.task(task)) else { continue };
            let (me, them) = (me.cred(), them.cred());
            // `set_one_prio_perm`: only the caller's effective id counts.
            them.uid == me.euid || them.euid == me.euid || me.ns_capable(&them.user_ns, Cap::SYS_NICE)
        };
        let done = if !allowed {
            Err(Errno::EPERM)
        } else if nice < 20 - now && nice < least_nice(tid) {
            Err(Errno::EACCES)
        } else {
            // SAFETY: as above.
            result(unsafe { libc::syscall(libc::SYS_setpriority, 0, tid, nice) })
        };
        outcome = match (outcome, done) {
            (Err(Errno::ESRCH), Ok(_)) => Ok(Reply::Value(0)),
            (outcome, Ok(_)) => outcome,
            (_, Err(errno)) => Err(errno),
        };
    }
    outcome
}

/// `ioprio_set(2)`, `ioprio_get(2)`. `EINVAL`, `ESRCH`, `EPERM`.
pub fn io_priority(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    let which = match ctx.int(0) {
        IOPRIO_WHO_PROCESS => Who::Process,
        2 => Who::Group,
        3 => Who::User,
        _ => return Err(Errno::EINVAL),
    };
    let caller = ctx.task();
    let tasks = named(&ctx.server.kernel.lock().unwrap(), caller, which, ctx.int(1))?;
    let Some(tids) = ctx.host_tids(&tasks) else { return Ok(Reply::Retry) };
    let class = |priority: i64| if priority >> 13 == 0 { i64::MAX } else { priority };
    let mut best: Option<i64> = None;
    for (task, tid) in tids {
        let value = if ctx.nr == 252 {
            // SAFETY: integers; the thread is a guest's.
            unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid) }
        } else {
            check_owner(&ctx.server.kernel.lock().unwrap(), caller, task, Owner::Real)?;
            // SAFETY: as above.
            unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid, ctx.int(2)) }
        };
        let value = result(value)?;
        // Lower numbers are better; none comes last.
        best = Some(best.map_or(value, |best| if class(value) < class(best) { value } else { best }));
    }
    best.map(Reply::Value).ok_or(Errno::ESRCH)
}

/// Host thread id of the thread that argument `index` names.
///
/// # Errors
/// `ESRCH`; `EPERM` when it is to be changed and the caller may not. `Ok(None)`: it has not introduced itself.
fn thread(ctx: &Ctx<'_>, index: usize, changes: bool) -> Result<Option<i32>> {
    if ctx.int(index) < 0 {
        return Err(Errno::EINVAL);
    }
    let kernel = ctx.server.kernel.lock().unwrap();
    let task = target(&kernel, ctx.task(), ctx.int(index))?;
    if changes {
        check_owner(&kernel, ctx.task(), task, Owner::Effective)?;
    }
    drop(kernel);
    let thread = ctx.server.guests.by_task(task).ok_or(Errno::ESRCH)?;
    Ok(host_tid(&thread).or_else(|| ctx.server.seek(&thread)))
}

/// `sched_setaffinity(2)`, `sched_getaffinity(2)` of another thread.
pub fn affinity(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let changes = ctx.nr == 203;
    let Some(tid) = thread(ctx, 0, changes)? else { return Ok(Reply::Retry) };
    if changes {
        let mask = ctx.bytes(2)?;
        // SAFETY: a valid buffer of that length.
        result(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) })?;
        return Ok(().into());
    }
    let mut mask = vec![0u8; ctx.capacity(2).min(1024)];
    // SAFETY: a valid buffer of that length.
    let len =
        result(unsafe { libc::syscall(libc::SYS_sched_getaffinity, tid, mask.len(), mask.as_mut_ptr()) })?;
    ctx.write(2, &mask[..len as usize])?;
    Ok(Reply::Value(len))
}

/// Policy and parameters of another thread: `sched_setparam(2)`, `sched_getparam(2)`, `sched_setscheduler(2)`,
/// `sched_getscheduler(2)`, `sched_rr_get_interval(2)`.
pub fn scheduler(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const SETPARAM: u32 = 142;
    const GETPARAM: u32 = 143;
    const SETSCHEDULER: u32 = 144;
    const GETSCHEDULER: u32 = 145;
    let given = match ctx.nr {
        SETPARAM => Some(ctx.structure::<4>(1)?.ok_or(Errno::EINVAL)?),
        SETSCHEDULER => Some(ctx.structure::<4>(2)?.ok_or(Errno::EINVAL)?),
        GETPARAM if ctx.is_null(1) => return Err(Errno::EINVAL),
        _ => None,
    };
    let Some(tid) = thread(ctx, 0, given.is_some())? else { return Ok(Reply::Retry) };
    let mut interval = [0u8; 16];
    let mut param = given.unwrap_or_default();
    let nr = i64::from(ctx.nr);
    // SAFETY: each call reads or writes the structure it is given, which is a local of its size.
    let value = result(unsafe {
        match ctx.nr {
            SETPARAM | GETPARAM => libc::syscall(nr, tid, param.as_mut_ptr()),
            SETSCHEDULER => libc::syscall(nr, tid, ctx.int(1), param.as_ptr()),
            GETSCHEDULER => libc::syscall(nr, tid),
            _ => libc::syscall(nr, tid, interval.as_mut_ptr()),
        }
    })?;
    match ctx.nr {
        GETPARAM => ctx.write(1, &param)?,
        SETPARAM | SETSCHEDULER | GETSCHEDULER => {}
        _ => ctx.write(1, &interval)?,
    }
    Ok(Reply::Value(value))
}

/// `sched_setattr(2)` and `sched_getattr(2)` of another thread.
pub fn attributes(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let changes = ctx.nr == 314;
    let mut attr = if changes { ctx.bytes(1)? } else { vec![0; ctx.capacity(1).min(256)] };
    let Some(tid) = thread(ctx, 0, changes)? else { return Ok(Reply::Retry) };
    let nr = i64::from(ctx.nr);
    // SAFETY: a buffer of the length that is told, by its first word in the one case and by the argument in the other.
    result(unsafe {
        match changes {
            true => {
                // `size` says how much follows; what the shim could not carry is not claimed.
                let size = (attr.len() as u32).to_ne_bytes();
                attr.get_mut(..4).ok_or(Errno::EINVAL)?.copy_from_slice(&size);
                libc::syscall(nr, tid, attr.as_ptr(), ctx.uint(2))
            }
            false => libc::syscall(nr, tid, attr.as_mut_ptr(), attr.len(), ctx.uint(3)),
        }
    })?;
    if !changes {
        ctx.out[0] = attr.len() as u64;
        ctx.write(1, &attr)?;
    }
    Ok(().into())
}
