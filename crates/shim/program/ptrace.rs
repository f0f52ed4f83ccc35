//! The tracee's side of `ptrace(2)`.
//!
//! The host's ptrace is not used: a tracee stops *here*. What stops it (a signal, a system call, an event, the wish of its tracer)
//! brings it into the shim anyway, where its registers are those of the signal frame. It posts them, tells the supervisor and waits
//! until its tracer lets it go on, perhaps with other registers ([`nomina_abi::ptrace`]).
//!
//! While a thread is traced, the host kernel turns each of its system calls into `SIGSYS` (syscall user dispatch,
//! `PR_SET_SYSCALL_USER_DISPATCH`), the native ones too; those the shim then makes from a *stub* outside of its text, so that the
//! filter judges them as the guest's. All signals are caught natively, and default actions are made here.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use nomina_abi::ptrace::{REGISTERS_SIZE, Registers, attention, event, mode, reg, stop};
use nomina_abi::{SHIM_BASE, SI_NOMINA, Slot, op};

use crate::arch::{nomina_window_stub, shim_end};
use crate::area::Area;
use crate::frame::{ALWAYS_OPEN, BLOCK_ALL, SigInfo, UContext, fpstate_size};
use crate::patch;
use crate::seccomp;
use crate::sighand::{KernelSigaction, SA_NOCLDSTOP, SA_RESTART, SIG_IGN, SIGCHLD, SIGKILL, SIGTRAP};
use crate::signal::{self, EFLAGS_TF};
use crate::slot::{data, out, request};
use crate::sys::{
    self, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE, err, nr, sys,
};
use crate::trap::GUESTS_TRAP;

/// Where the stub is: `syscall`, `ret`.
pub const STUB: u64 = SHIM_BASE - 0x1000;
const STUB_CODE: [u8; 3] = [0x0f, 0x05, 0xc3];
const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;
const FUTEX_WAIT: u64 = 0;
const SIGTRAP_BIT: u64 = 1 << (SIGTRAP - 1);
const TRAP_BRKPT: i32 = 1;
/// `orig_rax` outside of a system call.
const NO_CALL: u64 = u64::MAX;
/// Flags that a tracer can change.
const EFLAGS_MASK: u64 = 0x5_4dd5;

/// Whether a thread of this process traces, or has traced: waits ask the supervisor as well.
#[unsafe(link_section = ".bss.shared")]
pub static TRACER: AtomicBool = AtomicBool::new(false);
/// Where a traced image starts.
pub static ENTRY: AtomicU64 = AtomicU64::new(0);
/// The thread's number before its exec.
pub static OLD_TID: AtomicU32 = AtomicU32::new(0);

/// Changes how the caller is traced.
pub fn set_mode(area: &Area, new: u32) {
    let old = area.trace.replace(new);
    if (old ^ new) & mode::TRACED == 0 {
        return;
    }
    let on = new & mode::TRACED != 0;
    if on {
        patch::undo();
    }
    area.sighand().trace(on);
    dispatch(on);
}

/// Turns the system calls of the calling thread into signals, all but those of the shim and its stub. Without the stub native calls could
/// not be made, so then they are not seen.
fn dispatch(on: bool) {
    if !on {
        // SAFETY: touches no memory.
        unsafe { sys!(nr::PRCTL, PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) };
    } else if map_stub() {
        // SAFETY: touches no memory; the kernel reads no selector.
        unsafe { sys!(nr::PRCTL, PR_SET_SYSCALL_USER_DISPATCH, 1, STUB, shim_end() - STUB, 0) };
    }
}

fn map_stub() -> bool {
    static MAPPED: AtomicBool = AtomicBool::new(false);
    if MAPPED.load(Ordering::Relaxed) {
        return true;
    }
    // SAFETY: a new page where nothing is; text only after it is filled.
    let mapped = unsafe {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
        let at = sys!(nr::MMAP, STUB, 4096, PROT_READ | PROT_WRITE, flags, -1i64, 0);
        if at == STUB as i64 {
            core::ptr::copy_nonoverlapping(STUB_CODE.as_ptr(), STUB as *mut u8, STUB_CODE.len());
            sys!(nr::MPROTECT, STUB, 4096, PROT_READ | PROT_EXEC) == 0
        } else {
            // Another thread's.
            at == err::EEXIST
        }
    };
    MAPPED.store(mapped, Ordering::Relaxed);
    mapped
}

/// Makes a system call as the guest would have. `NOT_NATIVE` when the filter wants the shim to serve it.
fn native(area: &Area, number: u64, args: &[u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = *args;
    let call = [number, a, b, c, d, e, f, area.interruptions(), STUB];
    let mask = area.guest_mask() & !ALWAYS_OPEN;
    // SAFETY: the words live through the call; the arguments are the guest's.
    let ret = unsafe { nomina_window_stub(&raw const call, &raw const mask) };
    sys::set_mask(BLOCK_ALL);
    let ret = crate::poll::finish(area, number, args, ret);
    if ret == err::EINTR && (area.pending.get() || area.kicked.get()) {
        return match number {
            nr::PAUSE | nr::SELECT | nr::PSELECT6 | nr::PPOLL => err::ERESTARTNOHAND,
            nr::POLL | nr::NANOSLEEP | nr::CLOCK_NANOSLEEP | nr::FUTEX => err::ERESTART_RESTARTBLOCK,
            _ => ret,
        };
    }
    ret
}

/// Calls that are never native.
fn is_always_served(number: u64) -> bool {
    matches!(
        number,
        nr::GETPID
            | nr::GETTID
            | nr::RT_SIGACTION
            | nr::RT_SIGPROCMASK
            | nr::SIGALTSTACK
            | nr::RT_SIGSUSPEND
            | nr::RT_SIGTIMEDWAIT
            | nr::RT_SIGPENDING
            | nr::FORK
            | nr::VFORK
            | nr::CLONE
            | nr::CLONE3
            | nr::EXECVE
            | nr::EXECVEAT
            | nr::EXIT
            | nr::WAIT4
            | nr::WAITID
            | nr::SET_TID_ADDRESS
            | nr::SET_ROBUST_LIST
            | nr::SENDMSG
            | nr::RECVMSG
            | nr::PTRACE
    )
}

/// Serves a system call of a traced thread.
#[cold]
pub fn system_call(area: &'static Area, context: &mut UContext, number: u64) {
    enter(area, context, number);
    let mut number = number;
    context.mcontext.rax = err::ENOSYS as u64;
    if area.trace.get() & mode::SYSCALL != 0 {
        stop_here(area, context, stop::ENTRY, 0, 0);
        number = area.orig_rax.get();
    }
    if number as i32 == -1 {
        // The tracer does not want the call.
        let result = context.mcontext.rax as i64;
        return finish(area, context, result);
    }
    if number == nr::RT_SIGRETURN {
        let result = signal::rt_sigreturn(area, context);
        area.orig_rax.set(NO_CALL);
        return finish(area, context, result);
    }
    let registers = &context.mcontext;
    let mut args = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    let mut made = number;
    if number == nr::RESTART_SYSCALL && area.restart.get()[0] != 0 {
        let [number, a, b, c, d, e, f] = area.restart.take();
        (made, args) = (number, [a, b, c, d, e, f]);
    }
    seccomp::claim(area, made, &args, context.mcontext.rip);
    let (Ok(result) | Err(result)) = serve(area, context, made, &args);
    crate::written::acknowledge(area);
    if result == err::ERESTART_RESTARTBLOCK {
        let [mut a, b, mut c, d, e, f] = args;
        // What is left of a sleep, where the host has told.
        match made {
            nr::NANOSLEEP if b != 0 => a = b,
            nr::CLOCK_NANOSLEEP if b == 0 && d != 0 => c = d,
            _ => {}
        }
        area.restart.set([made, a, b, c, d, e, f]);
    }
    finish(area, context, result);
}

fn serve(area: &'static Area, context: &mut UContext, number: u64, args: &[u64; 6]) -> Result<i64, i64> {
    if number == nr::EXIT_GROUP {
        exiting(area, ((args[0] & 0xff) << 8) as i32, true);
    }
    let generic = crate::trap::generic_kinds(number).is_some();
    if !generic && !is_always_served(number) {
        let ret = native(area, number, args);
        if (GUESTS_TRAP - 0xffff..=GUESTS_TRAP).contains(&ret) {
            let info = seccomp::info_of(number, context.mcontext.rip, (GUESTS_TRAP - ret) as i32);
            seccomp::trapped(area, context, &info);
            return Ok(number as i64);
        }
        if ret != err::NOT_NATIVE {
            return Ok(ret);
        }
        if area.pending.get() || area.kicked.get() {
            // As if the signal had come before the call.
            return Err(err::ERESTARTNOINTR);
        }
    }
    if area.claimed.get()
        && let Some(denied) = seccomp::denied(area, context, number)
    {
        return match denied {
            seccomp::Denied::With(result) => Err(result),
            seccomp::Denied::Signal => Ok(number as i64),
        };
    }
    crate::trap::serve(area, context, number, args)
}

/// The beginning of everything that may stop: notes in which call the thread is, and gives the frame the mask that the guest believes
/// to have.
fn enter(area: &Area, context: &mut UContext, orig_rax: u64) {
    area.orig_rax.set(orig_rax);
    area.context.set(context);
    if area.blocks_sigtrap.replace(false) {
        context.sigmask |= SIGTRAP_BIT;
    }
}

/// The end of a system call, whose number is noted.
pub fn finish(area: &'static Area, context: &mut UContext, result: i64) {
    context.mcontext.rax = result as u64;
    if area.trace.get() & mode::SYSCALL != 0 {
        stop_here(area, context, stop::EXIT, 0, 0);
    } else if area.stepping.get() {
        // The step ends behind the call.
        signal_stop(area, context, trap_info(TRAP_BRKPT));
    }
    work(area, context);
}

/// The end of a system call of a thread that is to be traced from now on.
#[cold]
pub fn finish_call(area: &'static Area, context: &mut UContext, number: u64, result: i64) {
    enter(area, context, number);
    context.mcontext.rax = result as u64;
    work(area, context);
}

/// A signal, or the supervisor's call, has interrupted the guest's own code.
#[cold]
pub fn interrupted(area: &'static Area, context: &mut UContext, info: Option<&SigInfo>) {
    enter(area, context, NO_CALL);
    if let Some(info) = info {
        // SAFETY: only this thread uses it.
        unsafe { *area.pending_info.get() = *info };
        area.pending.set(true);
    }
    work(area, context);
}

/// What the kernel does before it returns to user mode: stops and signals, one after the other; then a system call is restarted or not, and
/// a handler is entered.
fn work(area: &'static Area, context: &mut UContext) {
    let saved = area.saved_mask.take();
    let mask = context.sigmask;
    let restored = saved.unwrap_or(mask);
    context.sigmask = restored;
    let mut caught = None;
    while caught.is_none() {
        if area.kicked.replace(false) {
            caught = attend(area, context);
        } else if area.pending.replace(false) {
            // SAFETY: only this thread uses it.
            let mut info = unsafe { *area.pending_info.get() };
            signal::translate_info(area, &mut info);
            if !is_unwanted(area, &info) {
                caught = signal_stop(area, context, info).and_then(|info| act(area, context, info));
            }
        } else {
            break;
        }
    }
    restart(area, context, caught.as_ref().map(|(_, action)| action));
    if let Some((info, action)) = caught {
        let in_force = if saved.is_some() { mask } else { context.sigmask };
        let restored = context.sigmask;
        signal::enter_handler(area, context, &info, &action, in_force, restored);
        if area.stepping.get() {
            // The step ends where the handler begins.
            signal_stop(area, context, trap_info(TRAP_BRKPT));
        }
    }
    if area.trace.get() != 0 && context.sigmask & SIGTRAP_BIT != 0 {
        // A breakpoint must reach the tracer, not kill.
        context.sigmask &= !SIGTRAP_BIT;
        area.blocks_sigtrap.set(true);
    }
}

fn restart(area: &Area, context: &mut UContext, action: Option<&KernelSigaction>) {
    let number = area.orig_rax.get();
    if number as i32 == -1 {
        return;
    }
    let number = match (context.mcontext.rax as i64, action) {
        (err::ERESTART_RESTARTBLOCK, None) => nr::RESTART_SYSCALL,
        (err::ERESTARTNOINTR, _) | (err::ERESTARTSYS | err::ERESTARTNOHAND, None) => number,
        (err::ERESTARTSYS, Some(action)) if action.flags & SA_RESTART != 0 => number,
        (err::ERESTARTSYS | err::ERESTARTNOHAND | err::ERESTART_RESTARTBLOCK, Some(_)) => {
            context.mcontext.rax = err::EINTR as u64;
            return;
        }
        _ => return,
    };
    context.mcontext.rax = number;
    context.mcontext.rip -= 2;
}

/// Whether a child's stop is told to a process that does not want to know (`SA_NOCLDSTOP`).
fn is_unwanted(area: &Area, info: &SigInfo) -> bool {
    const CLD_TRAPPED: i32 = 4;
    const CLD_CONTINUED: i32 = 6;
    info.signo() == SIGCHLD
        && (CLD_TRAPPED..=CLD_CONTINUED).contains(&info.code())
        && area.sighand().get(SIGCHLD).flags & SA_NOCLDSTOP != 0
}

/// Does what the supervisor has for the thread. A signal to be handled ends it.
fn attend(area: &'static Area, context: &mut UContext) -> Option<(SigInfo, KernelSigaction)> {
    loop {
        if request(area, op::PTRACE_POLL, &[0; 6]) < 0 {
            return None;
        }
        let (now, what, value) = (out(area, 0) as u32, out(area, 1), out(area, 2));
        set_mode(area, now & !mode::ATTEND);
        match what {
            attention::SIGNAL => {
                let mut info = SigInfo::ZERO;
                // SAFETY: inside the data; all bits are valid.
                unsafe { core::ptr::copy_nonoverlapping(data(area), info.0.as_mut_ptr(), info.0.len()) };
                let caught = signal_stop(area, context, info).and_then(|info| act(area, context, info));
                if caught.is_some() {
                    area.kicked.set(true);
                    return caught;
                }
            }
            attention::TRAP => {
                stop_here(area, context, stop::TRAP, value, 0);
            }
            attention::GROUP => {
                stop_here(area, context, stop::GROUP, value, 0);
            }
            _ => return None,
        }
    }
}

/// Does what the process has said about a signal. Gives it if a handler is to run.
pub fn act(area: &'static Area, context: &mut UContext, info: SigInfo) -> Option<(SigInfo, KernelSigaction)> {
    const SIGCONT: i32 = 18;
    const SIGSTOP: i32 = 19;
    const SIGTTOU: i32 = 22;
    const SIGURG: i32 = 23;
    const SIGWINCH: i32 = 28;
    let signal = info.signo();
    let action = area.sighand().take(signal);
    match (action.handler, signal) {
        _ if action.is_caught() => return Some((info, action)),
        (SIG_IGN, _) | (_, SIGCHLD | SIGCONT | SIGURG | SIGWINCH) => {}
        // What an init does not handle does nothing (`SIGNAL_UNKILLABLE`).
        _ if area.sighand().is_unkillable() && info.code() <= 0 => {}
        _ if area.pid.get() == 1 && info.code() == SI_NOMINA => {}
        (_, SIGSTOP..=SIGTTOU) if area.trace.get() != 0 => {
            stop_here(area, context, stop::GROUP, signal as u64, 1);
        }
        (_, SIGSTOP..=SIGTTOU) => {
            let pid = area.pid.get() as u64;
            request(area, nr::KILL as u32, &[pid, SIGSTOP as u64, 0, 0, 0, 0]);
        }
        _ => {
            exiting(area, signal, true);
            signal::die(area, signal);
        }
    }
    None
}

fn trap_info(code: i32) -> SigInfo {
    let mut info = SigInfo::ZERO;
    info.set_signo(SIGTRAP);
    info.set_code(code);
    info
}

/// Stops for a signal. The one that the tracer wants to be delivered.
fn signal_stop(area: &'static Area, context: &mut UContext, info: SigInfo) -> Option<SigInfo> {
    if area.trace.get() == 0 || info.signo() == SIGKILL {
        return Some(info);
    }
    let info = park(area, context, [stop::SIGNAL, 0, 0], &info);
    (info.signo() != 0).then_some(info)
}

/// Another stop than for a signal.
pub fn stop_here(area: &'static Area, context: &mut UContext, kind: u64, value: u64, message: u64) {
    park(area, context, [kind, value, message], &SigInfo::ZERO);
}

/// An event, in a system call.
pub fn event(area: &'static Area, context: &mut UContext, number: u32, message: u64) {
    stop_here(area, context, stop::EVENT, number.into(), message);
}

/// Before the end of the thread, or of its process.
pub fn exiting(area: &'static Area, status: i32, group: bool) {
    let traced = area.trace.get();
    if traced == 0 {
        return;
    }
    if traced & mode::EXIT != 0 {
        // SAFETY: set on entry of the handler, which runs below its frame.
        let context = unsafe { &mut *area.context.get() };
        event(area, context, event::EXIT, status as u32 as u64);
    }
    request(area, op::PTRACE_EXIT, &[status as u64, u64::from(group), 0, 0, 0, 0]);
}

/// Posts the registers, waits, and takes the registers to go on with.
fn park(area: &'static Area, context: &mut UContext, what: [u64; 3], info: &SigInfo) -> SigInfo {
    if area.trace.get() == 0 {
        return *info;
    }
    if area.stepping.replace(false) {
        context.mcontext.eflags &= !EFLAGS_TF;
    }
    crate::slot::ready(area);
    let posted = registers(area, context, info);
    // SAFETY: the slot is mapped as long as the process lives, and its data is this thread's while it has no request.
    let word = unsafe {
        data(area).cast::<Registers>().write_unaligned(posted);
        AtomicU32::from_ptr((&raw mut (*area.slot.get()).notes.resumed).cast())
    };
    let seen = word.load(Ordering::Acquire);
    let [kind, value, message] = what;
    if request(area, op::PTRACE_STOP, &[kind, value, message, 0, 0, 0]) < 0 {
        // Let go of meanwhile.
        set_mode(area, 0);
        return *info;
    }
    while word.load(Ordering::Acquire) == seen {
        // SAFETY: the futex word outlives the call.
        unsafe { sys!(nr::FUTEX, word.as_ptr() as u64, FUTEX_WAIT, seen, 0, 0, 0) };
    }
    // SAFETY: as above; all bits are valid.
    let given: Registers = unsafe { data(area).cast::<Registers>().read_unaligned() };
    take_registers(area, context, &posted, &given);
    let now = given.mode as u32;
    if now & mode::ATTEND != 0 {
        area.kicked.set(true);
    }
    set_mode(area, now & !mode::ATTEND);
    if now & mode::STEP != 0 {
        area.stepping.set(true);
        context.mcontext.eflags |= EFLAGS_TF;
    }
    SigInfo(given.info)
}

fn base(option: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the kernel writes the word.
    unsafe { sys!(nr::ARCH_PRCTL, option, &raw mut value) };
    value
}

fn registers(area: &Area, context: &UContext, info: &SigInfo) -> Registers {
    let r = &context.mcontext;
    let gs = base(ARCH_GET_GS);
    // SAFETY: the state is the kernel's.
    let fpstate_size = unsafe { fpstate_size(r.fpstate) };
    Registers {
        user: [
            r.r15,
            r.r14,
            r.r13,
            r.r12,
            r.rbp,
            r.rbx,
            r.r11,
            r.r10,
            r.r9,
            r.r8,
            r.rax,
            r.rcx,
            r.rdx,
            r.rsi,
            r.rdi,
            area.orig_rax.get(),
            r.rip,
            r.cs.into(),
            r.eflags,
            r.rsp,
            r.ss.into(),
            base(ARCH_GET_FS),
            if gs == area.state() { 0 } else { gs },
            0,
            0,
            r.fs.into(),
            r.gs.into(),
        ],
        sigmask: context.sigmask,
        fpstate: r.fpstate,
        fpstate_size,
        info: info.0,
        mode: 0,
    }
}

fn take_registers(area: &Area, context: &mut UContext, posted: &Registers, given: &Registers) {
    let user = &given.user;
    let r = &mut context.mcontext;
    r.r15 = user[reg::R15];
    r.r14 = user[reg::R14];
    r.r13 = user[reg::R13];
    r.r12 = user[reg::R12];
    r.rbp = user[reg::RBP];
    r.rbx = user[reg::RBX];
    r.r11 = user[reg::R11];
    r.r10 = user[reg::R10];
    r.r9 = user[reg::R9];
    r.r8 = user[reg::R8];
    r.rax = user[reg::RAX];
    r.rcx = user[reg::RCX];
    r.rdx = user[reg::RDX];
    r.rsi = user[reg::RSI];
    r.rdi = user[reg::RDI];
    r.rip = user[reg::RIP];
    r.eflags = r.eflags & !EFLAGS_MASK | user[reg::EFLAGS] & EFLAGS_MASK;
    r.rsp = user[reg::RSP];
    area.orig_rax.set(user[reg::ORIG_RAX]);
    context.sigmask = given.sigmask & !(ALWAYS_OPEN | crate::frame::UNBLOCKABLE);
    for (index, option) in [(reg::FS_BASE, ARCH_SET_FS), (reg::GS_BASE, ARCH_SET_GS)] {
        if user[index] != posted.user[index] {
            // SAFETY: touches no memory.
            unsafe { sys!(nr::ARCH_PRCTL, option, user[index]) };
        }
    }
}

/// The first stops of an image that is traced, in the state in which its first instruction will find the processor.
#[cold]
pub fn entered(area: &'static Area, context: &mut UContext) {
    let r = &mut context.mcontext;
    (r.rip, r.rax, r.rcx, r.r11) = (ENTRY.load(Ordering::Relaxed), 0, 0, 0);
    enter(area, context, nr::EXECVE);
    let how = area.trace.get();
    if how & mode::EXEC != 0 {
        event(area, context, event::EXEC, OLD_TID.load(Ordering::Relaxed).into());
    }
    if area.trace.get() & mode::SYSCALL != 0 {
        stop_here(area, context, stop::EXIT, 0, 0);
    }
    if how & (mode::EXEC | mode::SEIZED) == 0 {
        let mut info = trap_info(SI_NOMINA);
        info.set_pid(area.pid.get());
        // SAFETY: only this thread uses it.
        unsafe { *area.pending_info.get() = info };
        area.pending.set(true);
    }
    work(area, context);
    area.note_mask(context.sigmask);
}

/// First of all in a child that is traced, or whose maker is: `same_handlers` says whether it uses its maker's table.
pub fn child_born(area: &'static Area, traced: bool, same_handlers: bool) {
    if !same_handlers {
        area.sighand().trace_again(traced);
    }
    area.trace.set(0);
    if traced {
        if same_handlers {
            area.sighand().trace(true);
        }
        area.trace.set(mode::TRACED);
        dispatch(true);
        area.kicked.set(true);
    }
}

const _: () = assert!(REGISTERS_SIZE <= nomina_abi::SLOT_DATA && size_of::<Slot>() > 0);
