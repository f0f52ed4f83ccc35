//! `ptrace(2)`, `process_vm_readv(2)` and what the shims of tracers and tracees ask ([`nomina_abi::ptrace`]).

use std::sync::Arc;

use nomina_abi::ptrace::{self as abi, attention, reg, stop};
use nomina_abi::{SLOT_DATA, called, span};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ptrace::{
    Attention, EVENT_STOP, PtraceCreds, PtraceOptions, ResumeMode, SIGTRAP, StopKind,
};
use nomina_kernel::task::TaskId;
use nomina_kernel::wait::WaitFor;

use super::super::Server;
use super::super::layout::{u32_at, u64_at};
use super::super::ptrace::{Memory, News, kick, kick_task, mode_of, registers_from, release};
use super::super::request::{Ctx, Reply};

const PTRACE_TRACEME: i32 = 0;
const PTRACE_PEEKTEXT: i32 = 1;
const PTRACE_PEEKDATA: i32 = 2;
const PTRACE_PEEKUSER: i32 = 3;
const PTRACE_POKETEXT: i32 = 4;
const PTRACE_POKEDATA: i32 = 5;
const PTRACE_POKEUSER: i32 = 6;
const PTRACE_CONT: i32 = 7;
const PTRACE_KILL: i32 = 8;
const PTRACE_SINGLESTEP: i32 = 9;
const PTRACE_GETREGS: i32 = 12;
const PTRACE_SETREGS: i32 = 13;
const PTRACE_GETFPREGS: i32 = 14;
const PTRACE_SETFPREGS: i32 = 15;
const PTRACE_ATTACH: i32 = 16;
const PTRACE_DETACH: i32 = 17;
const PTRACE_SYSCALL: i32 = 24;
const PTRACE_SETOPTIONS: i32 = 0x4200;
const PTRACE_GETEVENTMSG: i32 = 0x4201;
const PTRACE_GETSIGINFO: i32 = 0x4202;
const PTRACE_SETSIGINFO: i32 = 0x4203;
const PTRACE_GETREGSET: i32 = 0x4204;
const PTRACE_SETREGSET: i32 = 0x4205;
const PTRACE_SEIZE: i32 = 0x4206;
const PTRACE_INTERRUPT: i32 = 0x4207;
const PTRACE_LISTEN: i32 = 0x4208;
const PTRACE_GETSIGMASK: i32 = 0x420a;
const PTRACE_SETSIGMASK: i32 = 0x420b;
const PTRACE_GET_SYSCALL_INFO: i32 = 0x420e;

const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;

/// Bytes of the legacy part of an extended state, and where software's own bytes stand in it.
const FXSAVE: usize = 512;
const SOFTWARE: std::ops::Range<usize> = 464..512;

/// `offsetof(struct user, u_debugreg)`, and `sizeof(struct user)`.
const USER_DEBUGREG: u64 = 848;
const USER_SIZE: u64 = 912;
const USER_REGS: usize = 27 * 8;

/// Flags that a tracer can change (`FLAG_MASK`).
const EFLAGS_MASK: u64 = 0x5_4dd5;
const TASK_SIZE: u64 = (1 << 47) - 4096;
const NSIG: u64 = 64;

/// `ptrace(2)`. args: request, pid, addr, data, and a span with what the request reads. What it writes goes to the start of the data,
/// `out[0]` says how much.
///
/// # Errors
/// Those of the manual page: `ESRCH` for a process that is not the caller's tracee or not stopped, `EPERM`, `EIO` for requests that
/// are unknown and memory that is not there, `EINVAL`.
pub fn ptrace(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let (request, pid) = (ctx.int(0), ctx.int(1));
    if request == PTRACE_TRACEME {
        let mut kernel = server.kernel.lock().unwrap();
        let parent = kernel.ptrace_traceme(ctx.task())?;
        let threads = kernel.threads_of(parent).to_vec();
        drop(kernel);
        // The parent may be waiting natively.
        for thread in threads {
            kick_task(server, thread, called::TRACER);
        }
        return Ok(().into());
    }
    let target = server.kernel.lock().unwrap().find_task_by_vpid(ctx.task(), pid).ok_or(Errno::ESRCH)?;
    match request {
        PTRACE_ATTACH => attach(ctx, target, None),
        PTRACE_SEIZE => {
            if ctx.args[2] != 0 {
                return Err(Errno::EIO);
            }
            let options = options_from(ctx.args[3]).map_err(|_| Errno::EIO)?;
            attach(ctx, target, Some(options))
        }
        _ => of_tracee(ctx, request, target),
    }
}

fn options_from(bits: u64) -> Result<PtraceOptions> {
    u32::try_from(bits).ok().and_then(PtraceOptions::from_bits).ok_or(Errno::EINVAL)
}

fn attach(ctx: &Ctx<'_>, target: TaskId, seize: Option<PtraceOptions>) -> Result<Reply> {
    let server = ctx.server;
    let thread = server.guests.by_task(target).ok_or(Errno::ESRCH)?;
    let mut kernel = server.kernel.lock().unwrap();
    if thread.process.gains_privilege.load(std::sync::atomic::Ordering::Acquire) {
        return Err(Errno::EPERM);
    }
    kernel.ptrace_attach(ctx.task(), target, seize)?;
    drop(kernel);
    kick(server, &thread, called::TRACEE);
    Ok(().into())
}

/// Requests about a tracee.
fn of_tracee(ctx: &mut Ctx<'_>, request: i32, target: TaskId) -> Result<Reply> {
    let server = ctx.server;
    let (addr, data) = (ctx.args[2], ctx.args[3]);
    let any_state = matches!(request, PTRACE_KILL | PTRACE_INTERRUPT);
    let mut kernel = server.kernel.lock().unwrap();
    let tracee = kernel.ptrace_check_attach(ctx.task(), target, any_state)?;
    match request {
        PTRACE_CONT | PTRACE_SYSCALL | PTRACE_SINGLESTEP | PTRACE_DETACH => {
            drop(kernel);
            return resume(ctx, target, request, data);
        }
        PTRACE_KILL => {
            drop(kernel);
            super::process::kill_all(server, &[target]);
            return Ok(().into());
        }
        PTRACE_INTERRUPT => {
            if !tracee.seized {
                return Err(Errno::EIO);
            }
            if !tracee.attention.iter().any(|what| matches!(what, Attention::Trap(_))) {
                tracee.attention.push(Attention::Trap(SIGTRAP));
            }
            let running = tracee.stop.is_none();
            let news = match &mut tracee.stop {
                Some(stop) if stop.listening => {
                    (stop.listening, stop.reported) = (false, false);
                    tracee.attention.retain(|what| !matches!(what, Attention::Trap(_)));
                    Some(stop.code)
                }
                _ => None,
            };
            let news = news.map(|code| News::of_stop(server, &kernel, ctx.task(), target, code));
            drop(kernel);
            if let Some(news) = news {
                news.tell(server);
            }
            if running {
                kick_task(server, target, called::TRACEE);
            }
            return Ok(().into());
        }
        PTRACE_LISTEN => {
            let stop = tracee.stop.as_mut().filter(|stop| stop.code >> 8 == EVENT_STOP).ok_or(Errno::EIO)?;
            stop.listening = true;
            return Ok(().into());
        }
        PTRACE_SETOPTIONS => {
            kernel.ptrace_set_options(target, options_from(data)?);
            return Ok(().into());
        }
        _ => {}
    }
    let (stop, message) = (tracee.stop.ok_or(Errno::ESRCH)?, tracee.message);
    drop(kernel);
    let tracees = &server.tracees;
    let answer: Vec<u8> = match request {
        PTRACE_PEEKTEXT | PTRACE_PEEKDATA => {
            let mut word = [0; 8];
            match memory(ctx, target)?.read(addr, &mut word) {
                Ok(8) => word.to_vec(),
                _ => return Err(Errno::EIO),
            }
        }
        PTRACE_POKETEXT | PTRACE_POKEDATA => {
            return match memory(ctx, target)?.write(addr, &data.to_ne_bytes()) {
                Ok(8) => Ok(().into()),
                _ => Err(Errno::EIO),
            };
        }
        PTRACE_PEEKUSER => match addr {
            _ if addr % 8 != 0 || addr >= USER_SIZE => return Err(Errno::EIO),
            ..216 => tracees.with(target, |r| r.user[addr as usize / 8])?.to_ne_bytes().to_vec(),
            _ => vec![0; 8],
        },
        PTRACE_POKEUSER => match addr {
            _ if addr % 8 != 0 || addr >= USER_SIZE => return Err(Errno::EIO),
            ..216 => return set_register(ctx, target, addr as usize / 8, data).map(Reply::from),
            // No breakpoints in hardware, as on a machine without any that is free.
            USER_DEBUGREG.. if data != 0 => return Err(Errno::ENOSPC),
            _ => return Ok(().into()),
        },
        PTRACE_GETREGS => user_regs(ctx, target)?,
        PTRACE_SETREGS => return set_user_regs(ctx, target, &ctx.bytes(4)?).map(Reply::from),
        PTRACE_GETFPREGS => {
            let mut state = xstate(ctx, target)?;
            state.truncate(FXSAVE);
            state[SOFTWARE].fill(0);
            state
        }
        PTRACE_SETFPREGS => return set_xstate(ctx, target, &ctx.bytes(4)?, true).map(Reply::from),
        PTRACE_GETREGSET => match addr {
            NT_PRSTATUS => user_regs(ctx, target)?,
            NT_PRFPREG => {
                let mut state = xstate(ctx, target)?;
                state.truncate(FXSAVE);
                state[SOFTWARE].fill(0);
                state
            }
            NT_X86_XSTATE => xstate(ctx, target)?,
            _ => return Err(Errno::EINVAL),
        },
        PTRACE_SETREGSET => {
            let bytes = ctx.bytes(4)?;
            let done = match addr {
                NT_PRSTATUS => set_user_regs(ctx, target, &bytes),
                NT_PRFPREG => set_xstate(ctx, target, &bytes, true),
                NT_X86_XSTATE => set_xstate(ctx, target, &bytes, false),
                _ => Err(Errno::EINVAL),
            };
            ctx.out[0] = bytes.len() as u64;
            return done.map(Reply::from);
        }
        PTRACE_GETEVENTMSG => message.to_ne_bytes().to_vec(),
        PTRACE_GETSIGINFO if stop.kind == StopKind::Group => return Err(Errno::EINVAL),
        PTRACE_GETSIGINFO => tracees.with(target, |r| r.info)?.to_vec(),
        PTRACE_SETSIGINFO if stop.kind == StopKind::Group => return Err(Errno::EINVAL),
        PTRACE_SETSIGINFO => {
            let info = ctx.structure::<128>(4)?.ok_or(Errno::EFAULT)?;
            return tracees.with(target, |r| r.info = info).map(Reply::from);
        }
        PTRACE_GETSIGMASK if addr != 8 => return Err(Errno::EINVAL),
        PTRACE_GETSIGMASK => tracees.with(target, |r| r.sigmask)?.to_ne_bytes().to_vec(),
        PTRACE_SETSIGMASK if addr != 8 => return Err(Errno::EINVAL),
        PTRACE_SETSIGMASK => {
            let mask = u64::from_ne_bytes(ctx.structure::<8>(4)?.ok_or(Errno::EFAULT)?);
            return tracees.with(target, |r| r.sigmask = mask).map(Reply::from);
        }
        PTRACE_GET_SYSCALL_INFO => {
            let good = stop.code == SIGTRAP | 0x80;
            let info = tracees.with(target, |r| syscall_info(&r.user, stop.kind, good))?;
            ctx.write_data(&info)?;
            ctx.out[0] = (info.len() as u64).min(addr);
            return Ok(info.len().into());
        }
        _ => return Err(Errno::EIO),
    };
    ctx.write_data(&answer)?;
    ctx.out[0] = answer.len() as u64;
    Ok(().into())
}

/// `struct ptrace_syscall_info`, as much of it as the kind of stop has.
fn syscall_info(user: &[u64; 27], kind: StopKind, good: bool) -> Vec<u8> {
    const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    let kind = if good { kind } else { StopKind::Signal };
    let op: u8 = match kind {
        StopKind::SyscallEntry => 1,
        StopKind::SyscallExit => 2,
        _ => 0,
    };
    let mut info = vec![op, 0, 0, 0];
    info.extend(AUDIT_ARCH_X86_64.to_ne_bytes());
    info.extend(user[reg::RIP].to_ne_bytes());
    info.extend(user[reg::RSP].to_ne_bytes());
    match kind {
        StopKind::SyscallEntry => {
            for register in [reg::ORIG_RAX, reg::RDI, reg::RSI, reg::RDX, reg::R10, reg::R8, reg::R9] {
                info.extend(user[register].to_ne_bytes());
            }
        }
        StopKind::SyscallExit => {
            let value = user[reg::RAX] as i64;
            info.extend(value.to_ne_bytes());
            info.push(u8::from((-4095..0).contains(&value)));
        }
        _ => {}
    }
    info
}

/// The memory of a tracee, while it is stopped.
fn memory(ctx: &Ctx<'_>, target: TaskId) -> Result<Memory> {
    let thread = ctx.server.guests.by_task(target).ok_or(Errno::ESRCH)?;
    let caller = ctx.task();
    Memory::open(ctx.server, &thread, |kernel| kernel.ptrace_check_attach(caller, target, false).map(|_| ()))
}

fn user_regs(ctx: &Ctx<'_>, target: TaskId) -> Result<Vec<u8>> {
    let user = ctx.server.tracees.with(target, |r| r.user)?;
    Ok(user.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

fn set_user_regs(ctx: &Ctx<'_>, target: TaskId, bytes: &[u8]) -> Result<()> {
    if bytes.len() > USER_REGS || !bytes.len().is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    for (index, word) in bytes.chunks_exact(8).enumerate() {
        set_register(ctx, target, index, u64_at(word, 0))?;
    }
    Ok(())
}

/// `putreg`. Segments stay what they are, of the flags only those change that a program can change itself.
fn set_register(ctx: &Ctx<'_>, target: TaskId, index: usize, value: u64) -> Result<()> {
    ctx.server.tracees.with(target, |registers| {
        let old = &mut registers.user[index];
        match index {
            reg::FS_BASE | reg::GS_BASE if value >= TASK_SIZE => return Err(Errno::EIO),
            reg::CS | reg::SS | 23.. => {}
            reg::EFLAGS => *old = *old & !EFLAGS_MASK | value & EFLAGS_MASK,
            _ => *old = value,
        }
        Ok(())
    })?
}

/// The extended state of a stopped tracee, in the form of `NT_X86_XSTATE`: from its signal frame.
fn xstate(ctx: &Ctx<'_>, target: TaskId) -> Result<Vec<u8>> {
    const MAGIC: u32 = 0x4650_5853;
    const MOST: u64 = 12 << 10;
    let (at, size) = ctx.server.tracees.with(target, |r| (r.fpstate, r.fpstate_size))?;
    if at == 0 || size < FXSAVE as u64 || size > MOST {
        return Err(Errno::EIO);
    }
    let mut state = vec![0; size as usize];
    let read = memory(ctx, target)?.read_anywhere(at, &mut state).map_err(|_| Errno::EIO)?;
    if read != state.len() {
        return Err(Errno::EIO);
    }
    let extended = u32_at(&state, SOFTWARE.start) == MAGIC;
    let features = if extended { u64_at(&state, SOFTWARE.start + 8) } else { 3 };
    let len = if extended { u32_at(&state, SOFTWARE.start + 16) as usize } else { FXSAVE };
    state.truncate(len.max(FXSAVE));
    state[SOFTWARE].fill(0);
    state[SOFTWARE.start..SOFTWARE.start + 8].copy_from_slice(&features.to_ne_bytes());
    Ok(state)
}

fn set_xstate(ctx: &Ctx<'_>, target: TaskId, bytes: &[u8], legacy: bool) -> Result<()> {
    let (at, size) = ctx.server.tracees.with(target, |r| (r.fpstate, r.fpstate_size))?;
    if at == 0 || bytes.len() < SOFTWARE.start || legacy && bytes.len() > FXSAVE {
        return Err(Errno::EINVAL);
    }
    let memory = memory(ctx, target)?;
    let io = |result: Result<usize>| result.map(|_| ()).map_err(|_| Errno::EIO);
    io(memory.write_anywhere(at, &bytes[..SOFTWARE.start]))?;
    if legacy {
        // x87 and SSE are in use now.
        let mut features = [0; 8];
        if size > FXSAVE as u64 + 8 && memory.read_anywhere(at + FXSAVE as u64, &mut features) == Ok(8) {
            features[0] |= 3;
            io(memory.write_anywhere(at + FXSAVE as u64, &features))?;
        }
    } else if bytes.len() > FXSAVE {
        let end = bytes.len().min(size.saturating_sub(4) as usize);
        io(memory.write_anywhere(at + FXSAVE as u64, &bytes[FXSAVE..end.max(FXSAVE)]))?;
    }
    Ok(())
}

/// `PTRACE_CONT` and its like, and `PTRACE_DETACH`.
fn resume(ctx: &Ctx<'_>, target: TaskId, request: i32, signal: u64) -> Result<Reply> {
    let server = ctx.server;
    if signal > NSIG {
        return Err(Errno::EIO);
    }
    let mut kernel = server.kernel.lock().unwrap();
    let sender = kernel.signal_target(ctx.task(), target);
    let tracee = kernel.ptrace_check_attach(ctx.task(), target, false)?;
    let kind = tracee.stop.take().map(|stop| stop.kind);
    tracee.mode = match request {
        PTRACE_SYSCALL => ResumeMode::Syscall,
        PTRACE_SINGLESTEP => ResumeMode::SingleStep,
        _ => ResumeMode::Cont,
    };
    let mut mode = mode_of(tracee);
    if request == PTRACE_DETACH {
        kernel.ptrace_unlink(target);
        mode = 0;
    }
    drop(kernel);
    let signal = signal as i32;
    let delivers = kind == Some(StopKind::Signal);
    let info = super::signal::info(signal, libc::SI_USER, sender.si_pid, sender.si_uid, 0);
    let _ = server.tracees.with(target, |registers| {
        if signal == 0 || !delivers {
            registers.info = [0; 128];
        } else if u32_at(&registers.info, 0) as i32 != signal {
            registers.info = info;
        }
    });
    if signal != 0 && matches!(kind, Some(StopKind::SyscallEntry | StopKind::SyscallExit)) {
        let info =
            super::signal::info(signal, nomina_abi::SI_NOMINA, sender.si_pid, sender.si_uid, libc::SI_USER);
        let _ = super::signal::send(server, ctx.task(), &sender, signal, &info, true);
    }
    server.tracees.unpark(target, mode);
    Ok(().into())
}

/// [`nomina_abi::op::PTRACE_STOP`].
pub fn stopped(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let task = ctx.task();
    let bytes = ctx.slot.bytes(span(0, abi::REGISTERS_SIZE as u32)).ok_or(Errno::EFAULT)?;
    let mut registers = registers_from(&bytes).ok_or(Errno::EFAULT)?;
    let (value, message) = (ctx.int(1), ctx.args[2]);
    let mut kernel = server.kernel.lock().unwrap();
    let tracee = kernel.tracee(task).ok_or(Errno::ESRCH)?;
    let (tracer, seized) = (tracee.tracer, tracee.seized);
    let good = if tracee.options.contains(PtraceOptions::SYSGOOD) { 0x80 } else { 0 };
    let signal = value & 0x7f;
    let (kind, code) = match ctx.args[0] {
        stop::SIGNAL => (StopKind::Signal, u32_at(&registers.info, 0) as i32 & 0x7f),
        stop::ENTRY => (StopKind::SyscallEntry, SIGTRAP | good),
        stop::EXIT => (StopKind::SyscallExit, SIGTRAP | good),
        stop::EVENT => (StopKind::Event, (value & 0xff) << 8 | SIGTRAP),
        stop::GROUP if seized => (StopKind::Group, EVENT_STOP << 8 | signal),
        stop::GROUP => (StopKind::Group, signal),
        stop::TRAP => (StopKind::Event, EVENT_STOP << 8 | signal),
        _ => return Err(Errno::EINVAL),
    };
    let message = match ctx.args[0] {
        stop::ENTRY => 1,
        stop::EXIT => 2,
        stop::EVENT if value as u32 != abi::event::EXIT => {
            // A number, as the tracer sees it.
            let named = kernel.find_task_by_vpid(task, message as i32);
            named.map_or(message, |named| kernel.task_pid_vnr(named, tracer) as u64)
        }
        _ => message,
    };
    if kind != StopKind::Signal {
        let own = kernel.signal_target(task, task);
        let pid = kernel.task_pid_vnr(task, task);
        registers.info = super::signal::info(code & 0x7f, code, pid, own.si_uid, 0);
        if matches!(kind, StopKind::SyscallEntry | StopKind::SyscallExit) {
            registers.info[..4].copy_from_slice(&SIGTRAP.to_ne_bytes());
        }
    }
    let others = match ctx.args[0] {
        stop::GROUP if ctx.args[2] == 1 => kernel.ptrace_group_stop(task, signal),
        _ => Vec::new(),
    };
    kernel.ptrace_stop(task, kind, code, message)?;
    server.tracees.park(task, ctx.slot.clone(), registers);
    let news = News::of_stop(server, &kernel, tracer, task, code);
    drop(kernel);
    for other in others {
        kick_task(server, other, called::TRACEE);
    }
    news.tell(server);
    Ok(().into())
}

/// [`nomina_abi::op::PTRACE_POLL`].
pub fn poll(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let mut kernel = ctx.server.kernel.lock().unwrap();
    let Some(tracee) = kernel.tracee_mut(ctx.task()) else { return Ok(().into()) };
    let first = (!tracee.attention.is_empty()).then(|| tracee.attention.remove(0));
    ctx.out[0] = (mode_of(tracee)).into();
    match first {
        None => ctx.out[1] = attention::NONE,
        Some(Attention::Signal(queued)) => {
            drop(kernel);
            ctx.out[1] = attention::SIGNAL;
            ctx.write_data(&super::signal::info(queued.signal, queued.code, queued.pid, queued.uid, 0))?;
        }
        Some(Attention::Trap(signal)) => (ctx.out[1], ctx.out[2]) = (attention::TRAP, signal as u64),
        Some(Attention::Group(signal)) => (ctx.out[1], ctx.out[2]) = (attention::GROUP, signal as u64),
    }
    Ok(().into())
}

/// [`nomina_abi::op::PTRACE_WAIT`].
pub fn wait(ctx: &mut Ctx<'_>) -> Result<Reply> {
    const P_PIDFD: u32 = 3;
    let server = ctx.server;
    let options = ctx.uint(2);
    let mut kernel = server.kernel.lock().unwrap();
    let (target, options) = match (ctx.uint(0), ctx.int(1)) {
        // By pidfd: none of the tracees that only the model knows.
        (P_PIDFD, _) => return Err(Errno::ECHILD),
        (kind, id) => kernel.waitid_target(ctx.task(), kind, id, options)?,
    };
    let target = match target {
        WaitFor::Nobody => kernel.ptrace_zombie_pid(ctx.task(), ctx.int(1)).map_or(target, WaitFor::Pid),
        target => target,
    };
    if matches!(target, WaitFor::Nobody) {
        return Err(Errno::ECHILD);
    }
    match kernel.ptrace_wait(ctx.task(), &target, options)? {
        Some(waited) => {
            (ctx.out[0], ctx.out[1]) = (waited.status as u32 as u64, waited.uid.into());
            Ok(waited.pid.into())
        }
        None => {
            if options.contains(nomina_kernel::wait::WaitOptions::NOHANG) {
                return Ok(0.into());
            }
            server.tracees.wait(ctx.thread);
            Ok(0.into())
        }
    }
}

/// [`nomina_abi::op::PTRACE_EXIT`].
pub fn exiting(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let (status, group) = (ctx.int(0), ctx.args[1] != 0);
    let mut kernel = server.kernel.lock().unwrap();
    let threads = if group { kernel.traced_threads(ctx.task()) } else { vec![ctx.task()] };
    let mut tracers = Vec::new();
    for thread in threads {
        if let Some(tracee) = kernel.tracee_mut(thread) {
            tracee.exit_status.get_or_insert(status);
        }
        if !kernel.ptrace_waits_natively(thread) {
            tracers.extend(kernel.ptrace_ended(thread, status));
        }
    }
    let news = News::of_ends(server, &kernel, &tracers);
    drop(kernel);
    for news in news {
        news.tell(server);
    }
    Ok(().into())
}

/// `process_vm_readv(2)` and `process_vm_writev(2)` of one range. args: pid, address, length, and for writing a span.
///
/// # Errors
/// `ESRCH`; `EPERM` for a process that the caller may not look into; `EFAULT`.
pub fn process_vm(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let caller = ctx.task();
    let target = server.kernel.lock().unwrap().find_task_by_vpid(caller, ctx.int(0)).ok_or(Errno::ESRCH)?;
    let thread = server.guests.by_task(target).ok_or(Errno::ESRCH)?;
    if server.host_pid_of(target).is_none() {
        return Ok(Reply::Retry);
    }
    let memory =
        Memory::open(server, &thread, |kernel| kernel.ptrace_may_access(caller, target, PtraceCreds::Real))?;
    let at = ctx.args[1];
    if ctx.nr == 311 {
        return Ok(memory.write(at, &ctx.bytes(3)?)?.into());
    }
    let mut bytes = vec![0; (ctx.args[2] as usize).min(SLOT_DATA)];
    let read = memory.read(at, &mut bytes)?;
    ctx.write_data(&bytes[..read])?;
    Ok(read.into())
}

/// A signal that stops or continues a process whose threads are traced: its tracers decide. False: the host sends it.
pub fn intercept(
    server: &Arc<Server>,
    target: TaskId,
    thread: bool,
    signal: i32,
    pid: i32,
    uid: u32,
) -> bool {
    let mut kernel = server.kernel.lock().unwrap();
    let threads = if thread { vec![target] } else { kernel.threads_of(target).to_vec() };
    if signal == libc::SIGCONT {
        let told: Vec<News> = kernel
            .ptrace_continue_group(&threads)
            .into_iter()
            .filter_map(|task| {
                let tracer = kernel.tracee(task)?.tracer;
                Some(News::of_stop(server, &kernel, tracer, task, SIGTRAP))
            })
            .collect();
        drop(kernel);
        for news in told {
            news.tell(server);
        }
        return false;
    }
    let Some(chosen) = kernel.ptrace_send_stop(&threads, signal, pid, uid) else { return false };
    let running = kernel.tracee(chosen).is_some_and(|tracee| tracee.stop.is_none());
    drop(kernel);
    if running {
        kick_task(server, chosen, called::TRACEE);
    }
    true
}

/// After an exec by a thread whose fellows have traced.
pub fn after_exec(server: &Arc<Server>, untraced: &[nomina_kernel::ptrace::Released]) {
    release(server, untraced);
}
