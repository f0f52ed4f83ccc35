//! Guests' own system call filters (`seccomp(2)`).
//!
//! The shim brings the program, installs it natively, and says so; then it is in force here, too. Before every request of a filtered
//! task its filters are asked once more ([`admit`]): a guest that forges requests gets no service that its filters forbid. What
//! the request is for the shim says ([`abi::CLAIM`]), and of that only what the request itself does not show is believed:
//! pointers, and the instruction pointer.
//!
//! As a request is judged when it is served, and not when the call began, a call that waits is refused when another thread
//! installs a filter against it for all threads.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nomina_abi::{self as abi, Kind, op};
use nomina_gate::bpf::shim_calls::before_a_guests_filter;
use nomina_gate::bpf::{BuildOptions, Instruction};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::seccomp::bpf::{self, Data, MAX_INSTRUCTIONS, Program};
use nomina_kernel::seccomp::{
    self, AUDIT_ARCH_X86_64, Bitmap, Filter, FilterFlags, Judgement, Prepared, RET_ACTION_FULL, RET_ALLOW,
    RET_DATA, RET_ERRNO, RET_TRAP, STRICT_CALLS,
};

use super::super::Server;
use super::super::guest::GuestThread;
use super::super::request::{Ctx, Reply};
use super::clone::host_tid;

const SIZE: usize = bpf::Instruction::SIZE;

/// What a sandbox has for its guests' filters.
pub struct Filters {
    /// Whether any task has ever had one. Until then nothing is asked.
    used: AtomicBool,
    /// What goes natively before each.
    before: Vec<Instruction>,
}

impl Default for Filters {
    fn default() -> Filters {
        let options = BuildOptions { shim_text: nomina_shim::text(), ..BuildOptions::default() };
        Filters { used: AtomicBool::new(false), before: before_a_guests_filter(&options) }
    }
}

/// A program that a thread is bringing.
pub struct Loading {
    flags: FilterFlags,
    len: usize,
    bytes: Vec<u8>,
    /// When all of it has come and has been checked.
    ready: Option<Arc<Filter>>,
}

/// [`op::SECCOMP_LOAD`].
pub fn load(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let len = (ctx.args[1] != abi::UNREADABLE).then_some(ctx.args[1] as usize);
    let flags = ctx.server.kernel.lock().unwrap().seccomp_may_load(ctx.task(), ctx.args[0], len)?;
    let len = len.ok_or(Errno::EFAULT)?;
    let mut place = ctx.thread.loading.lock().unwrap();
    if ctx.is_null(3) {
        *place = Some(Loading { flags, len, bytes: Vec::new(), ready: None });
        return Ok(0.into());
    }
    let more = ctx.bytes(3)?;
    let loading = place.as_mut().ok_or(Errno::EINVAL)?;
    let fits = loading.flags == flags
        && loading.len == len
        && ctx.args[2] == (loading.bytes.len() / SIZE) as u64
        && more.len().is_multiple_of(SIZE)
        && loading.bytes.len() + more.len() <= len * SIZE;
    if !fits {
        return Err(Errno::EINVAL);
    }
    loading.bytes.extend_from_slice(&more);
    if loading.bytes.len() < len * SIZE {
        return Ok(0.into());
    }
    let bytes = std::mem::take(&mut loading.bytes);
    drop(place);
    look_for_killed_threads(ctx.server, ctx.thread);
    let before = &ctx.server.seccomp.before;
    if len + before.len() > MAX_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    let instructions: Vec<_> =
        bytes.as_chunks::<SIZE>().0.iter().map(|bytes| bpf::Instruction::from_bytes(*bytes)).collect();
    let program = Program::new(&instructions)?;
    let prepared = ctx.server.kernel.lock().unwrap().seccomp_prepare(ctx.task(), flags, program)?;
    let filter = match prepared {
        Prepared::Unsynchronised(thread) => return Ok(thread.into()),
        Prepared::Ready(filter) => filter,
    };
    let always = *filter.always();
    *ctx.thread.loading.lock().unwrap() =
        Some(Loading { flags, len, bytes: Vec::new(), ready: Some(filter) });
    // That threads can be synchronised has been seen to.
    tell(ctx, &always, &[], flags.difference(FilterFlags::TSYNC_ESRCH))?;
    Ok(0.into())
}

/// Tells the shim what to install natively.
fn tell(ctx: &mut Ctx<'_>, always: &Bitmap, own: &[Instruction], flags: FilterFlags) -> Result<()> {
    let mut data: Vec<u8> = always.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let before = &ctx.server.seccomp.before;
    for Instruction { code, jt, jf, k } in before.iter().chain(own) {
        data.extend_from_slice(&code.to_ne_bytes());
        data.extend_from_slice(&[*jt, *jf]);
        data.extend_from_slice(&k.to_ne_bytes());
    }
    ctx.out[0] = (before.len() + own.len()) as u64;
    ctx.out[1] = flags.bits();
    ctx.write_data(&data)
}

/// [`op::SECCOMP_ATTACH`].
pub fn attach(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let Loading { flags, ready, .. } = ctx.thread.loading.lock().unwrap().take().ok_or(Errno::EINVAL)?;
    let filter = ready.ok_or(Errno::EINVAL)?;
    ctx.server.seccomp.used.store(true, Ordering::Release);
    let tsync = flags.contains(FilterFlags::TSYNC);
    ctx.server.kernel.lock().unwrap().seccomp_attach(ctx.task(), filter, tsync)?;
    Ok(0.into())
}

/// [`op::SECCOMP_STRICT`].
pub fn set_mode_strict(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const LOAD_NR: Instruction = Instruction { code: 0x20, jt: 0, jf: 0, k: 0 };
    const RETURN: u16 = 0x06;
    ctx.server.seccomp.used.store(true, Ordering::Release);
    let always = {
        let mut kernel = ctx.server.kernel.lock().unwrap();
        kernel.seccomp_set_mode_strict(ctx.task())?;
        kernel.seccomp(ctx.task()).always()
    };
    // What is not allowed comes to the shim as what is served does, and asks.
    let mut own = vec![LOAD_NR];
    let calls = STRICT_CALLS.len() as u8;
    own.extend((0..calls).map(|at| Instruction {
        code: 0x15,
        jt: calls - at,
        jf: 0,
        k: STRICT_CALLS[usize::from(at)],
    }));
    let returns = [RET_TRAP | u32::from(abi::TRAP_DATA), RET_ALLOW];
    own.extend(returns.map(|k| Instruction { code: RETURN, jt: 0, jf: 0, k }));
    tell(ctx, &always, &own, FilterFlags::empty())?;
    Ok(0.into())
}

/// `seccomp(SECCOMP_GET_ACTION_AVAIL)`; the action travels as the last argument.
pub fn get_action_avail(ctx: &mut Ctx<'_>) -> Result<Reply> {
    seccomp::get_action_avail(ctx.uint(2)).map(Into::into)
}

/// [`op::SECCOMP_JUDGE`].
pub fn judge(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (nr, args, instruction_pointer) = ctx.slot.claim().ok_or(Errno::EINVAL)?;
    match judgement(ctx, nr, args, instruction_pointer) {
        Judgement::Filtered(ret) => Ok(Reply::Value(ret.into())),
        Judgement::StrictKill => {
            if ctx.server.kernel.lock().unwrap().threads_of(ctx.task()).len() <= 1 {
                kill(ctx);
            }
            Ok(Reply::Value(abi::STRICT_KILL))
        }
    }
}

fn judgement(ctx: &Ctx<'_>, nr: u32, args: [u64; 6], instruction_pointer: u64) -> Judgement {
    let seccomp = ctx.server.kernel.lock().unwrap().seccomp(ctx.task());
    seccomp.judge(&Data { nr, arch: AUDIT_ARCH_X86_64, instruction_pointer, args })
}

/// Takes note of threads of a process that a filter has ended (`SECCOMP_RET_KILL_THREAD`): nobody is told of them. That is done
/// when somebody asks for the threads there are.
pub fn look_for_killed_threads(server: &Server, thread: &GuestThread) {
    let host_pid = thread.process.host_pid.load(Ordering::Acquire);
    if host_pid == 0 || !server.seccomp.used.load(Ordering::Acquire) {
        return;
    }
    let threads = server.kernel.lock().unwrap().threads_of(thread.task).to_vec();
    for guest in threads.into_iter().filter_map(|task| server.guests.by_task(task)) {
        let Some(tid) = host_tid(&guest).filter(|&tid| tid != host_pid) else { continue };
        // A thread without the process is the process's end, which is seen by its pidfd.
        let exists = |path: String| std::fs::exists(path).unwrap_or(true);
        if exists(format!("/proc/{host_pid}/task/{tid}")) || !exists(format!("/proc/{host_pid}")) {
            continue;
        }
        if server.kernel.lock().unwrap().exit_thread(guest.task, libc::SIGSYS).is_ok() {
            server.guests.remove(&guest);
        }
    }
}

fn kill(ctx: &Ctx<'_>) {
    if let Some(pidfd) = ctx.thread.process.pidfd.get() {
        let _ = rustix::process::pidfd_send_signal(pidfd.as_fd(), rustix::process::Signal::KILL);
    }
}

/// Whether the caller's filters let a request be served. The shim has asked before ([`judge`]), so this meets forged requests.
///
/// # Errors
/// What a filter says, if that is an error; otherwise `EPERM`.
pub fn admit(ctx: &Ctx<'_>) -> Result<()> {
    if !ctx.server.seccomp.used.load(Ordering::Acquire) {
        return Ok(());
    }
    let claim = ctx.slot.claim();
    let Some((nr, args, ip)) = call_of(ctx, claim) else { return Ok(()) };
    match judgement(ctx, nr, args, ip) {
        judgement if judgement.passes() => Ok(()),
        Judgement::Filtered(ret) if ret & RET_ACTION_FULL == RET_ERRNO && ret & RET_DATA != 0 => {
            Err(Errno((ret & RET_DATA).min(4095) as i32))
        }
        _ => Err(Errno::EPERM),
    }
}

/// The system call that a request amounts to; `None` for what is part of no call in particular and reaches nothing.
fn call_of(ctx: &Ctx<'_>, claim: Option<(u32, [u64; 6], u64)>) -> Option<(u32, [u64; 6], u64)> {
    let (claimed, mut args, ip) = claim.unwrap_or((ctx.nr, ctx.args, 0));
    let nr = match ctx.nr {
        op::CLONE => {
            const FORK: u64 = 0;
            const VFORK: u64 = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
            match (i64::from(claimed), ctx.args[0], ctx.int(1)) {
                (libc::SYS_clone3, ..) => {}
                (libc::SYS_fork, FORK, libc::SIGCHLD) | (libc::SYS_vfork, VFORK, libc::SIGCHLD) => {}
                (_, flags, signal) => {
                    args[0] = flags | signal as u64 & 0xff;
                    return Some((libc::SYS_clone as u32, args, ip));
                }
            }
            claimed
        }
        op::EXEC => {
            if i64::from(claimed) == libc::SYS_execve && ctx.int(0) == libc::AT_FDCWD && ctx.args[2] == 0 {
                claimed
            } else {
                (args[0], args[4]) = (ctx.args[0], ctx.args[2]);
                libc::SYS_execveat as u32
            }
        }
        nr if nr >= op::BASE => return None,
        nr => {
            if is_alias(ctx, claimed) {
                return Some((claimed, args, ip));
            }
            // The end of a process that a fault or a signal kills: to itself it may always send one.
            if i64::from(nr) == libc::SYS_tgkill && claimed != nr && is_own(ctx, ctx.int(0)) {
                return None;
            }
            for (index, arg) in args.iter_mut().enumerate() {
                if claimed != nr || shows(nr, index) {
                    *arg = ctx.args[index];
                }
            }
            nr
        }
    };
    Some((nr, args, ip))
}

fn is_own(ctx: &Ctx<'_>, tgid: i32) -> bool {
    ctx.server.kernel.lock().unwrap().task_tgid_vnr(ctx.task(), ctx.task()) == tgid
}

/// Whether a request that has another number than the guest's call does what that call does.
fn is_alias(ctx: &Ctx<'_>, claimed: u32) -> bool {
    match (i64::from(ctx.nr), i64::from(claimed)) {
        (libc::SYS_prlimit64, libc::SYS_getrlimit) => ctx.int(0) == 0 && ctx.is_null(2),
        (libc::SYS_prlimit64, libc::SYS_setrlimit) => ctx.int(0) == 0,
        // The name of who has connected.
        (libc::SYS_getpeername, libc::SYS_accept | libc::SYS_accept4) => true,
        // Where a message goes.
        (libc::SYS_sendto, libc::SYS_sendmsg | libc::SYS_sendmmsg) => true,
        _ => false,
    }
}

/// Whether an argument of a request is that of the guest's call, rather than what the shim put in its place.
fn shows(nr: u32, index: usize) -> bool {
    if let Some(spec) = abi::arg_spec(nr) {
        // Capacities are cut to what fits.
        let is_capacity = |kind: &Kind| matches!(*kind, Kind::OB(at) | Kind::O4(at) | Kind::A(at) if usize::from(at) == index);
        return matches!(spec.kinds.get(index), Some(Kind::V)) && !spec.kinds.iter().any(is_capacity);
    }
    match i64::from(nr) {
        libc::SYS_sendto => index == 0,
        libc::SYS_setsid => false,
        libc::SYS_ioctl | libc::SYS_setpgid | libc::SYS_seccomp => index < 2,
        libc::SYS_getsockopt | libc::SYS_setsockopt => index < 3,
        _ => true,
    }
}
