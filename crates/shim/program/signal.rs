//! Delivery of signals to guests.
//!
//! A signal that a guest catches arrives in [`arrived`], on the thread's area. If guest code was interrupted, a frame is built on
//! the guest's own stack, as the kernel would have, and the native frame is edited to return into the guest's handler. If the
//! shim was interrupted (only possible while it waits for the guest, see `window`), the signal is kept until the system call ends.

use core::arch::asm;

use nomina_abi::{SI_FD_MASK, SI_NOMINA, SI_TKILL, SI_USER, op, xlate};

use crate::arch::{fault_fixup, in_shim, window_fixup};
use crate::area::Area;
use crate::frame::{
    ALWAYS_OPEN, BLOCK_ALL, FAULT_BITS, RtSigFrame, SIGSYS_BIT, SS_AUTODISARM, SS_DISABLE, SigInfo, StackT, UContext,
    UNBLOCKABLE, clear_fpstate, fpstate_size, place, restore_fpstate,
};
use crate::sighand::{
    KernelSigaction, SA_NODEFER, SA_ONSTACK, SA_RESTORER, SIGBUS, SIGCHLD, SIGFPE, SIGILL, SIGSEGV, SIGSYS,
    SIGTRAP, is_always_ours, is_fault, set_native_default,
};
use crate::{call, futex, patch, ptrace};
use crate::slot::{out, request};
use crate::sys::{self, err, nr};
use crate::uaccess::{copy_from_user, copy_to_user, get_user, put_user};
use crate::wait::CHILDREN;

/// The trap flag.
pub const EFLAGS_TF: u64 = 0x100;
const EFLAGS_DF: u64 = 0x400;
const EFLAGS_RF: u64 = 0x1_0000;
const CLD_EXITED: i32 = 1;
const CLD_CONTINUED: i32 = 6;
const USER_CS: u16 = 0x33;
const USER_SS: u16 = 0x2b;
/// Smallest alternate stack (`MINSIGSTKSZ`).
const MINSIGSTKSZ: u64 = 2048;

/// The handler that the host kernel has for every caught signal, and for the faults.
pub extern "C" fn arrived(signal: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: the kernel wrote both for this handler.
    let (info, context) = unsafe { (&*info, &mut *context) };
    let is_fault = is_fault(signal) && info.code() > 0;
    let area = Area::current();
    let in_guest = patch::complete(area, context)
        || !(in_shim(context.mcontext.rip) || patch::in_trampoline(context.mcontext.rip));
    let bit = 1u64 << (signal - 1);
    let blocked = area.blocks.get() | if in_guest { 0 } else { area.guest_mask() & FAULT_BITS };
    if !is_fault && bit & blocked != 0 {
        return hold(area, info);
    }
    if !is_fault && area.sighand().discards(info) {
        area.unnoticed.set(true);
        if in_guest {
            call::unnoticed(area, context);
        }
        return;
    }
    if in_guest {
        if is_fault && context.sigmask & 1 << (signal - 1) != 0 {
            // The guest blocks the fault: the kernel would have killed it.
            futex::exit_robust_lists(area);
            return set_native_default(signal);
        }
        if area.trace.get() != 0 || area.kicked.get() {
            ptrace::interrupted(area, context, Some(info));
        } else {
            deliver(area, context, info, context.sigmask, context.sigmask);
        }
        area.note_mask(context.sigmask);
        return;
    }
    if is_fault {
        if patch::without_area(context) {
            return;
        }
        match fault_fixup(context.mcontext.rip) {
            Some(rip) => context.mcontext.rip = rip,
            // A defect of the shim: let the instruction fault again and end the process with this signal.
            None => set_native_default(signal),
        }
        return;
    }
    if info.code() > 0 && matches!(signal, SIGILL | SIGTRAP | SIGFPE) {
        // As above: the shim executes nothing that should raise these.
        return set_native_default(signal);
    }
    if area.pending.replace(true) {
        return;
    }
    // SAFETY: only this thread uses it.
    unsafe { *area.pending_info.get() = *info };
    context.sigmask = BLOCK_ALL;
    if let Some((rip, pops)) = window_fixup(context.mcontext.rip) {
        context.mcontext.rip = rip;
        context.mcontext.rsp += pops;
    }
}

/// Where a signal is kept.
fn held_index(bit: u64) -> usize {
    const SIGSEGV_BIT: u64 = 1 << (SIGSEGV - 1);
    const SIGBUS_BIT: u64 = 1 << (SIGBUS - 1);
    match bit {
        SIGSYS_BIT => 0,
        SIGSEGV_BIT => 1,
        SIGBUS_BIT => 2,
        _ => 3,
    }
}

/// Keeps a signal that the guest blocks, but the host kernel does not (the faults, while the shim runs). As there, one of a
/// number.
fn hold(area: &Area, info: &SigInfo) {
    area.unnoticed.set(true);
    let bit = 1u64 << (info.signo() - 1);
    if area.held.get() & bit == 0 {
        area.held.set(area.held.get() | bit);
        // SAFETY: only this thread uses it.
        unsafe { (*area.held_info())[held_index(bit)] = *info };
    }
}

/// Takes one of the kept signals that are in a set.
pub fn take_held(area: &Area, set: u64) -> Option<SigInfo> {
    let held = area.held.get() & set;
    let bit = held & held.wrapping_neg();
    area.held.set(area.held.get() & !bit);
    // SAFETY: only this thread uses it.
    (bit != 0).then(|| unsafe { (*area.held_info())[held_index(bit)] })
}

/// The guest blocks less than before: what it now lets in is delivered at the end of the call.
fn unhold(area: &Area, mask: u64) {
    let let_in = !(area.blocks.get() | mask & FAULT_BITS);
    if area.held.get() & let_in != 0 && !area.pending.get()
        && let Some(info) = take_held(area, let_in)
    {
        area.pending.set(true);
        // SAFETY: only this thread uses it.
        unsafe { *area.pending_info.get() = info };
    }
}

/// Makes the end of a system call: puts its result into the frame, restarts it if a signal came first, delivers that signal,
/// restores the mask that the call had replaced.
pub fn finish(area: &'static Area, context: &mut UContext, number: u64, result: i64) {
    if area.trace.get() != 0 || area.kicked.get() {
        return ptrace::finish_call(area, context, number, result);
    }
    let mut result = result;
    let pending = area.pending.get();
    if matches!(result, err::ERESTARTSYS | err::ERESTARTNOINTR | err::ERESTARTNOHAND) {
        // SAFETY: only this thread uses it.
        let restart = !pending
            || result == err::ERESTARTNOINTR
            || (result == err::ERESTARTSYS && {
                // SAFETY: the area is the thread's own; only plain memory is read.
                let signal = unsafe { (*area.pending_info.get()).signo() };
                let action = area.sighand().get(signal);
                !action.is_caught() || action.flags & crate::sighand::SA_RESTART != 0
            });
        if restart {
            // The instruction `syscall` is two bytes long.
            context.mcontext.rip -= 2;
            result = number as i64;
        } else {
            result = err::EINTR;
        }
    }
    context.mcontext.rax = result as u64;
    leave(area, context);
}

/// Delivers the signal that arrived inside the shim, if any, and restores the mask that a system call had replaced.
pub fn leave(area: &'static Area, context: &mut UContext) {
    let saved = area.saved_mask.take();
    if area.pending.get() {
        // SAFETY: only this thread uses it.
        let info = unsafe { *area.pending_info.get() };
        area.pending.set(false);
        let mask = context.sigmask;
        let restored = saved.unwrap_or(mask);
        context.sigmask = restored;
        deliver(area, context, &info, mask, restored);
    } else if let Some(mask) = saved {
        context.sigmask = mask;
    }
}

/// Puts the sender's numbers as the guest sees them into a siginfo.
pub fn translate_info(area: &Area, info: &mut SigInfo) {
    match info.code() {
        SI_NOMINA => {
            if info.signo() == SIGCHLD && info.child_code() != 0 {
                info.set_code(info.child_code());
                info.set_value(u64::from(info.value() as u32));
            } else {
                info.set_code(info.value());
                info.set_value(0);
            }
        }
        code if code == SI_USER
            || code == SI_TKILL
            || (info.signo() == SIGCHLD && code > 0 && code < 0x80) =>
        {
            if info.pid() != 0 {
                let host = info.pid() as u64;
                let seen = request(area, op::XLATE, &[xlate::FROM_HOST, host, 0, 0, 0, 0]) as i32;
                // A child that has been reaped before its signal is delivered has no number any more.
                let pid = if seen > 0 { Some(seen) } else { CHILDREN.guest(info.pid()) };
                info.set_pid(pid.unwrap_or(0));
                info.set_uid(out(area, 0) as i32);
            }
        }
        // A child whose exit signal is another (`clone(2)`); the same codes come from descriptors (`F_SETSIG`).
        CLD_EXITED..=CLD_CONTINUED if !matches!(info.signo(), SIGILL | SIGTRAP | SIGFPE | SIGSEGV | SIGBUS) => {
            if let Some(child) = CHILDREN.guest(info.pid()) {
                let ask = [xlate::FROM_HOST, info.pid() as u64, child as u64, 0, 0, 0];
                request(area, op::XLATE, &ask);
                info.set_pid(child);
                info.set_uid(out(area, 0) as i32);
            } else {
                info.set_fd(info.value() & SI_FD_MASK);
            }
        }
        _ => {}
    }
}

/// Lets the guest handle a signal that its own call has raised.
pub fn deliver_here(area: &'static Area, context: &mut UContext, info: &SigInfo) {
    let mask = context.sigmask;
    deliver(area, context, info, mask, mask);
}

/// Lets the guest handle a signal: `mask` is in force while the handler runs (with what the handler adds), `restored` after it.
fn deliver(area: &'static Area, context: &mut UContext, info: &SigInfo, mask: u64, restored: u64) {
    let signal = info.signo();
    let action = area.sighand().take(signal);
    if !action.is_caught() {
        // Ignored meanwhile, or one that is always ours. A fault cannot be ignored: it happens again, natively.
        let is_fault = is_fault(signal) && info.code() > 0;
        if is_always_ours(signal) && (action.handler == crate::sighand::SIG_DFL || is_fault) {
            if !is_fault {
                // What an init does not handle does nothing (`SIGNAL_UNKILLABLE`).
                if area.pid.get() != 1 {
                    die(area, signal);
                }
                return;
            }
            futex::exit_robust_lists(area);
            set_native_default(signal);
        } else if action.handler == crate::sighand::SIG_DFL && !area.sighand().discards(info) {
            // Caught natively for another thread's sake, or since the host's signals end the sandbox's first process.
            ptrace::act(area, context, *info);
        }
        return;
    }
    let mut info = *info;
    translate_info(area, &mut info);
    enter_handler(area, context, &info, &action, mask, restored);
}

/// Builds the frame of a handler, which is entered when the shim returns: `mask` is in force while it runs (with what it adds),
/// `restored` after it.
pub fn enter_handler(
    area: &Area,
    context: &mut UContext,
    info: &SigInfo,
    action: &KernelSigaction,
    mask: u64,
    restored: u64,
) {
    let (info, signal) = (*info, info.signo());
    let altstack = area.altstack.get();
    let interrupted_sp = context.mcontext.rsp;
    let on_altstack = altstack.contains(interrupted_sp);
    let mut sp = interrupted_sp.wrapping_sub(128);
    let enters = action.flags & SA_ONSTACK != 0 && !on_altstack && altstack.size > 0;
    if enters {
        sp = altstack.sp + altstack.size;
    }
    let native_fp = context.mcontext.fpstate;
    // SAFETY: the state is the kernel's.
    let fp_size = unsafe { fpstate_size(native_fp) };
    let (fp, at) = place(sp, fp_size);
    if action.flags & SA_RESTORER == 0 || ((on_altstack || enters) && at <= altstack.sp) {
        return die(area, SIGSEGV);
    }

    let mut frame = RtSigFrame { pretcode: action.restorer, uc: *context, info };
    frame.uc.link = 0;
    frame.uc.stack = altstack;
    let shown = restored & !ALWAYS_OPEN | area.blocks.get();
    frame.uc.sigmask = shown;
    frame.uc.mcontext.oldmask = shown;
    frame.uc.mcontext.fpstate = if fp_size == 0 { 0 } else { fp };
    // SAFETY: the state has this size; the frame is a local.
    let written = unsafe {
        copy_to_user(fp, native_fp as *const u8, fp_size as usize)
            .and_then(|()| copy_to_user(at, (&raw const frame).cast(), size_of::<RtSigFrame>()))
    };
    if written.is_err() {
        return die(area, SIGSEGV);
    }
    if altstack.flags & SS_AUTODISARM != 0 {
        area.altstack.set(StackT::DISABLED);
    }

    let registers = &mut context.mcontext;
    registers.rdi = signal as u64;
    registers.rsi = at + core::mem::offset_of!(RtSigFrame, info) as u64;
    registers.rdx = at + core::mem::offset_of!(RtSigFrame, uc) as u64;
    registers.rax = 0;
    registers.rsp = at;
    registers.rip = action.handler;
    registers.eflags &= !(EFLAGS_TF | EFLAGS_DF | EFLAGS_RF);
    registers.cs = USER_CS;
    registers.ss = USER_SS;
    // SAFETY: the state is the kernel's.
    unsafe { clear_fpstate(native_fp) };
    let own = if action.flags & SA_NODEFER == 0 { 1 << (signal - 1) } else { 0 };
    area.blocks.set(area.blocks.get() | (action.mask | own) & ALWAYS_OPEN);
    context.sigmask = (mask | action.mask | own) & !(ALWAYS_OPEN | UNBLOCKABLE);
}

/// Ends the process by a signal, as the kernel does when a frame cannot be built.
pub fn die(area: &Area, signal: i32) {
    if signal == SIGSYS {
        crate::seccomp::die(area);
    }
    futex::exit_robust_lists(area);
    set_native_default(signal);
    let (pid, tid) = (area.pid.get() as u64, area.tid.get() as u64);
    request(area, nr::TGKILL as u32, &[pid, tid, signal as u64, 0, 0, 0]);
    sys::unblock(1 << (signal - 1));
    if signal == SIGSEGV {
        // The supervisor could not send it: fault. Page zero is never mapped by an ordinary user.
        // SAFETY: only ends the process.
        unsafe { asm!("mov byte ptr [0], 0", options(nostack)) };
    }
    sys::exit_group(128 + signal);
}

/// `rt_sigreturn(2)`. A frame that cannot be read ends the process with SIGSEGV.
pub fn rt_sigreturn(area: &Area, context: &mut UContext) -> i64 {
    match restore(area, context) {
        Ok(()) => context.mcontext.rax as i64,
        Err(_) => {
            die(area, SIGSEGV);
            0
        }
    }
}

fn restore(area: &Area, context: &mut UContext) -> Result<(), i64> {
    // `ret` has taken the return address off the stack: the context is at its top.
    let guest: UContext = get_user(context.mcontext.rsp)?;
    let native_fp = context.mcontext.fpstate;
    if native_fp != 0 {
        if guest.mcontext.fpstate == 0 {
            // SAFETY: the state is the kernel's.
            unsafe { clear_fpstate(native_fp) };
        } else {
            // SAFETY: the native state is the kernel's, and `restore_fpstate` stays inside it.
            unsafe {
                restore_fpstate(native_fp, guest.mcontext.fpstate, |to, from, len| {
                    copy_from_user(to as *mut u8, from, len as usize)
                })?;
            }
        }
    }
    let old = context.mcontext;
    context.mcontext = guest.mcontext;
    context.mcontext.fpstate = native_fp;
    context.mcontext.cs = old.cs;
    context.mcontext.gs = old.gs;
    context.mcontext.fs = old.fs;
    context.mcontext.ss = old.ss;
    context.sigmask = guest.sigmask & !(ALWAYS_OPEN | UNBLOCKABLE);
    area.blocks.set(guest.sigmask & ALWAYS_OPEN);
    area.sighand().blocks(context.sigmask);
    unhold(area, context.sigmask);
    let _ = set_altstack(area, &guest.stack, context.mcontext.rsp);
    Ok(())
}

fn set_altstack(area: &Area, new: &StackT, sp: u64) -> Result<(), i64> {
    if area.altstack.get().contains(sp) {
        return Err(err::EPERM);
    }
    match new.flags & !SS_AUTODISARM {
        SS_DISABLE => area.altstack.set(StackT::DISABLED),
        0 | crate::frame::SS_ONSTACK => {
            if new.size < MINSIGSTKSZ {
                return Err(err::ENOMEM);
            }
            area.altstack.set(StackT { flags: new.flags & SS_AUTODISARM, pad: 0, ..*new });
        }
        _ => return Err(err::EINVAL),
    }
    Ok(())
}

/// `sigaltstack(2)`. `EPERM` while on the stack, `ENOMEM` for one that is too small, `EINVAL` for unknown flags.
pub fn sigaltstack(area: &Area, context: &UContext, new: u64, old: u64) -> Result<i64, i64> {
    let sp = context.mcontext.rsp;
    let mut was = area.altstack.get();
    if new != 0 {
        let stack: StackT = get_user(new)?;
        set_altstack(area, &stack, sp)?;
    }
    if old != 0 {
        if was.contains(sp) {
            was.flags |= crate::frame::SS_ONSTACK;
        }
        put_user(old, was)?;
    }
    Ok(0)
}

/// `rt_sigprocmask(2)`. `EINVAL` for a bad size or `how`. The shim's own signals seem to be blocked and are not.
pub fn rt_sigprocmask(
    area: &Area,
    context: &mut UContext,
    how: u64,
    new: u64,
    old: u64,
    size: u64,
) -> Result<i64, i64> {
    if size != 8 {
        return Err(err::EINVAL);
    }
    let was = context.sigmask | area.blocks.get();
    if new != 0 {
        let set: u64 = get_user(new)?;
        let wanted = match how as u32 as u64 {
            sys::SIG_BLOCK => was | set,
            sys::SIG_UNBLOCK => was & !set,
            sys::SIG_SETMASK => set,
            _ => return Err(err::EINVAL),
        };
        area.blocks.set(wanted & ALWAYS_OPEN);
        context.sigmask = wanted & !(ALWAYS_OPEN | UNBLOCKABLE);
        area.sighand().blocks(context.sigmask);
        unhold(area, context.sigmask);
    }
    if old != 0 {
        put_user(old, was)?;
    }
    Ok(0)
}

/// Opens the faults if the guest blocks them: a fault that is blocked would kill instead of giving `EFAULT`.
#[inline]
pub fn open_faults(context: &UContext) {
    if context.sigmask & FAULT_BITS != 0 {
        sys::unblock(FAULT_BITS);
    }
}
