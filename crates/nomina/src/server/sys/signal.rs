//! Sending signals (`kill(2)`, `tgkill(2)`, `rt_sigqueueinfo(2)`).
//!
//! A guest never sends natively: the supervisor does, to the host threads of the tasks the model names, in the guest's
//! name ([`nomina_abi::SI_NOMINA`]).

use std::os::fd::AsRawFd;
use std::sync::Arc;

use nomina_abi as abi;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::IpcCaller;
use nomina_kernel::pid::{Pid, PidType};
use nomina_kernel::signal::SignalTarget;
use nomina_kernel::task::TaskId;

use super::super::Server;
use super::super::layout::u32_at;
use super::super::request::{Ctx, Reply, host};
use super::super::robust::Info;
use super::clone::host_tid;

/// The information that goes with a signal.
pub fn info(signal: i32, code: i32, pid: i32, uid: u32, value: i32) -> Info {
    let mut info = [0; 128];
    info[..4].copy_from_slice(&signal.to_ne_bytes());
    info[8..12].copy_from_slice(&code.to_ne_bytes());
    info[16..20].copy_from_slice(&pid.to_ne_bytes());
    info[20..24].copy_from_slice(&uid.to_ne_bytes());
    info[24..28].copy_from_slice(&value.to_ne_bytes());
    info
}

/// How a signal of a guest's travels: `SIGSYS` is the filter's natively, and goes in the shim's other signal ([`abi::SIG_CALL`]).
fn carried(signal: i32, info: &Info) -> (i32, Info) {
    let mut info = *info;
    if !matches!(signal, libc::SIGSYS | abi::SIG_CALL) {
        return (signal, info);
    }
    info[..4].copy_from_slice(&abi::SIG_CALL.to_ne_bytes());
    info[abi::CARRIED..abi::CARRIED + 4].copy_from_slice(&signal.to_ne_bytes());
    (abi::SIG_CALL, info)
}

/// Whether `signal`, sent to the init of a pid namespace, does there what it should: runs a handler, waits behind a mask, or
/// nothing. The shim of an init ignores natively what the guest has no handler for, before it lets any signal in; that of the sandbox's first
/// process catches what the guest has ever blocked. What the first process has neither blocked nor handles, it must not get.
fn is_safe_for_init(host_pid: i32, signal: i32, first: bool) -> bool {
    // The shim's, whatever the guest's; and those that do nothing by default.
    const ALWAYS: [i32; 8] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGSYS,
        abi::SIG_CALL,
        libc::SIGCHLD,
        libc::SIGCONT,
        libc::SIGURG,
        libc::SIGWINCH,
    ];
    if ALWAYS.contains(&signal) {
        return true;
    }
    let Ok(status) = std::fs::read_to_string(format!("/proc/{host_pid}/status")) else { return false };
    let has = |field: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field));
        mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
            .is_some_and(|mask| mask & 1 << (signal - 1) != 0)
    };
    has("SigCgt:") || has("SigIgn:") || !first && has("SigBlk:")
}

/// Whether a code is one by which shims know what the supervisor sends: no guest may say it to another.
fn is_own_code(code: i32) -> bool {
    matches!(code, abi::SI_NOMINA | abi::SI_MOUNTS | abi::SI_END | abi::ptrace::SI_KICK)
}

/// Sends to a process (or with `thread` to one thread). `Ok(false)`: it has not introduced itself yet.
pub fn send(
    server: &Arc<Server>,
    sender: TaskId,
    target: &SignalTarget,
    signal: i32,
    info: &Info,
    thread: bool,
) -> Result<bool> {
    let Some(guest) = server.guests.by_task(target.task) else { return Ok(true) };
    server.host_pid_of(target.task);
    let (Some(pidfd), Some(tid)) = (guest.process.pidfd.get(), host_tid(&guest)) else { return Ok(false) };
    let host_pid = guest.process.host_pid.load(std::sync::atomic::Ordering::Acquire);
    if signal == 0 {
        return Ok(true);
    }
    if matches!(signal, libc::SIGSTOP | libc::SIGCONT)
        && super::ptrace::intercept(server, target.task, thread, signal, target.si_pid, target.si_uid)
    {
        return Ok(true);
    }
    let kernel = server.kernel.lock().unwrap();
    let is_init = kernel.signal_of(target.task).is_some_and(|group| group.is_init());
    let first = is_init && server.first_pid_ns.get() == kernel.active_pid_ns(target.task).as_ref();
    let reaches = !is_init
        || kernel.signal_reaches(
            Some(sender),
            target.task,
            signal,
            is_safe_for_init(host_pid, signal, first),
        );
    drop(kernel);
    if !reaches || server.robust.tell(&guest.process, signal, info) {
        return Ok(true);
    }
    let (signal, info) = &carried(signal, info);
    // SAFETY: a valid siginfo; the pidfd and, behind it, the tid are those of a guest.
    let result = unsafe {
        if thread {
            libc::syscall(libc::SYS_rt_tgsigqueueinfo, host_pid, tid, *signal, info.as_ptr())
        } else {
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), *signal, info.as_ptr(), 0)
        }
    };
    if result == 0 {
        return Ok(true);
    }
    match host(std::io::Error::last_os_error()) {
        // A zombie, or gone meanwhile: as if it had ended a moment later.
        Errno::ESRCH => Ok(true),
        // `kill(2)` never fails for a full queue (`RLIMIT_SIGPENDING`): the signal comes without information.
        Errno::EAGAIN if !thread && u32_at(info, 8) as i32 == abi::SI_NOMINA => {
            let no_info = std::ptr::null::<libc::siginfo_t>();
            // SAFETY: as above; no information is given.
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), *signal, no_info, 0) };
            Ok(true)
        }
        errno => Err(errno),
    }
}

/// Sends to a process in the name of who stands outside of every namespace.
///
/// # Errors
/// `EINVAL` for what is no signal; `EAGAIN` when the process cannot be found on the host yet.
pub fn send_from_outside(server: &Arc<Server>, target: &SignalTarget, signal: i32) -> Result<()> {
    if !(0..=nomina_kernel::fork::NSIG).contains(&signal) {
        return Err(Errno::EINVAL);
    }
    let outside = server.kernel.lock().unwrap().init_task();
    let info = info(signal, abi::SI_NOMINA, target.si_pid, target.si_uid, abi::SI_USER);
    if send(server, outside, target, signal, &info, false)? { Ok(()) } else { Err(Errno::EAGAIN) }
}

/// A signal to the calling thread itself that the kernel causes: `send_sig(signal, current, 0)`.
pub fn force_sig(ctx: &Ctx<'_>, signal: i32) -> Result<()> {
    let server = ctx.server;
    let target = {
        let kernel = server.kernel.lock().unwrap();
        let own = kernel.task_pid_vnr(ctx.task(), ctx.task());
        kernel.tgkill_target(ctx.task(), None, own, signal)?
    };
    let info = info(signal, abi::SI_NOMINA, target.si_pid, target.si_uid, abi::SI_USER);
    send(server, ctx.task(), &target, signal, &info, true)?;
    Ok(())
}

/// The signal that a POSIX message queue sends: the process `owner` learns of a message of `sender`.
pub fn send_mesgq(server: &Arc<Server>, sender: &IpcCaller, owner: &Pid, signal: i32, value: u64) {
    const SI_MESGQ: i32 = -3;
    let Some(leader) = owner.task(PidType::Tgid) else { return };
    let uid = {
        let kernel = server.kernel.lock().unwrap();
        kernel.task(leader).map_or(0, |task| task.cred().user_ns.from_kuid_munged(sender.cred.uid))
    };
    let mut info = info(signal, SI_MESGQ, sender.tgid.nr_ns(owner.ns()), uid, 0);
    info[24..32].copy_from_slice(&value.to_ne_bytes());
    let (signal, info) = carried(signal, &info);
    server.host_pid_of(leader);
    let Some(guest) = server.guests.by_task(leader) else { return };
    let Some(pidfd) = guest.process.pidfd.get().filter(|_| signal != 0) else { return };
    // SAFETY: a valid siginfo; the pidfd is a guest's. It fails only for a process that has ended.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info.as_ptr(), 0) };
}

/// `kill(2)`.
pub fn kill(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (pid, signal) = (ctx.int(0), ctx.int(1));
    let server = ctx.server;
    server.reaper.drain(server);
    let mut targets = server.kernel.lock().unwrap().kill_targets(ctx.task(), pid, signal)?;
    // kill(-1) by who may signal nobody has no targets, and is no failure.
    let some = !targets.is_empty();
    targets.retain(|target| !server.is_reaped(target.task));
    if some && targets.is_empty() {
        return Err(Errno::ESRCH);
    }
    send_all(ctx, &targets, signal, false, |target| {
        info(signal, abi::SI_NOMINA, target.si_pid, target.si_uid, abi::SI_USER)
    })
}

/// Sends to several, each with its own information.
///
/// # Errors
/// Those of [`send`].
pub fn send_all(
    ctx: &Ctx<'_>,
    targets: &[SignalTarget],
    signal: i32,
    thread: bool,
    info: impl Fn(&SignalTarget) -> Info,
) -> Result<Reply> {
    let server = ctx.server;
    // All must be reachable before any is sent to, or a repetition would send twice.
    if targets.iter().any(|target| {
        server.host_pid_of(target.task).is_none() && server.guests.by_task(target.task).is_some()
    }) {
        return Ok(Reply::Retry);
    }
    let mut sent = true;
    for target in targets {
        sent &= send(server, ctx.task(), target, signal, &info(target), thread)?;
    }
    if sent || targets.len() > 1 { Ok(().into()) } else { Ok(Reply::Retry) }
}

/// Checks information that a guest gives with a signal, and puts it into the form in which it can be sent. `own`: to the calling
/// thread itself, which may tell itself anything.
///
/// # Errors
/// `EPERM` where it would be taken for the kernel's or for that of `kill(2)`.
pub fn vet(given: &mut Info, signal: i32, own: bool) -> Result<()> {
    let code = u32_at(given, 8) as i32;
    let is_told = code >= 0 || code == abi::SI_TKILL || is_own_code(code);
    if is_told && !own {
        return Err(Errno::EPERM);
    }
    given[..4].copy_from_slice(&signal.to_ne_bytes());
    if is_told {
        // The host lets nobody but the process itself forge these; carried as ours.
        *given = info(signal, abi::SI_NOMINA, u32_at(given, 16) as i32, u32_at(given, 20), code);
    }
    Ok(())
}

/// `tkill(2)`, `tgkill(2)`.
pub fn tkill(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (tgid, tid, signal) = if ctx.nr == 200 {
        (None, ctx.int(0), ctx.int(1))
    } else {
        (Some(ctx.int(0)), ctx.int(1), ctx.int(2))
    };
    let server = ctx.server;
    let target = server.kernel.lock().unwrap().tgkill_target(ctx.task(), tgid, tid, signal)?;
    let info = info(signal, abi::SI_NOMINA, target.si_pid, target.si_uid, abi::SI_TKILL);
    if send(server, ctx.task(), &target, signal, &info, true)? { Ok(().into()) } else { Ok(Reply::Retry) }
}

/// `rt_sigqueueinfo(2)`, `rt_tgsigqueueinfo(2)`.
pub fn sigqueue(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let (thread, pid, tid, signal, at) = if ctx.nr == 129 {
        (false, ctx.int(0), ctx.int(0), ctx.int(1), 2)
    } else {
        (true, ctx.int(0), ctx.int(1), ctx.int(2), 3)
    };
    let mut given = ctx.structure::<128>(at)?.ok_or(Errno::EFAULT)?;
    let kernel = server.kernel.lock().unwrap();
    let own = kernel.task_pid_vnr(ctx.task(), ctx.task());
    vet(&mut given, signal, own == tid)?;
    let target = if thread {
        kernel.tgkill_target(ctx.task(), Some(pid), tid, signal)?
    } else {
        if pid <= 0 {
            return Err(Errno::ESRCH);
        }
        *kernel.kill_targets(ctx.task(), pid, signal)?.first().ok_or(Errno::ESRCH)?
    };
    drop(kernel);
    if send(server, ctx.task(), &target, signal, &given, thread)? { Ok(().into()) } else { Ok(Reply::Retry) }
}
