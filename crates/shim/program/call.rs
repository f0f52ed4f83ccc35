//! Calls from outside: the handler of [`SIG_CALL`].
//!
//! The supervisor calls a thread, and the host calls it for the supervisor when something is written to a handle, to have the shim do
//! something that the guest does not ask for: report a write, stop for a tracer, tell who polls that mounts have changed. The host
//! keeps one pending signal of a number, so what a thread is called for stands in its slot as well (`Notes::called`), and every
//! call is taken for all that stands there.
//!
//! The signal is open wherever the guest's code runs, and in the shim; only this handler blocks it, so that calls without end
//! cannot fill the stack. It restarts what it interrupts: nobody must notice it.

use core::sync::atomic::{AtomicU32, Ordering};

use nomina_abi::ptrace::SI_KICK;
use nomina_abi::{POLL_HUP, SI_END, SI_MOUNTS, SI_USER, SIG_CALL, called, op};

use crate::arch::{in_shim, leave_window, window_fixup};
use crate::area::Area;
use crate::frame::{BLOCK_ALL, CALL_BIT, SigInfo, UContext};
use crate::ptrace::TRACER;
use crate::sighand::{SIGKILL, SIGSYS};
use crate::slot::request;
use crate::sys::{err, nr};
use crate::uaccess::get_user;
use crate::window::window_until;
use crate::{futex, patch, poll, ptrace, signal, written};

/// The instruction `syscall`.
const SYSCALL: u16 = 0x050f;
/// Something can be read (`si_band`).
const POLLIN: u64 = 1;

/// What a thread is called for.
struct Call {
    /// Bits of [`called`].
    what: u32,
    /// The mounts have changed: the call that waits for that.
    mounts: Option<u64>,
    /// A signal of the guest's.
    signal: Option<SigInfo>,
}

impl Call {
    /// Puts together what the signal says and what stands in the slot, which is taken from there.
    fn take(area: &Area, info: &SigInfo) -> Call {
        let mut call = Call { what: 0, mounts: None, signal: None };
        match info.code() {
            // Not the end of the handle, which is reported as well, inside `close(2)`.
            1..=POLL_HUP if info.band() & POLLIN != 0 => call.what = called::REPORTS,
            1..=POLL_HUP => {}
            SI_KICK => call.what = info.value() as u32,
            SI_MOUNTS => call.mounts = Some(info.value() as u32 as u64),
            // The host had no memory for what belongs to a signal: one that a process sends names it.
            SI_USER if info.pid() == 0 => call.what = called::TRACEE,
            _ => {
                let mut carried = *info;
                carried.set_signo(if info.carried() == SIGSYS { SIGSYS } else { SIG_CALL });
                call.signal = Some(carried);
            }
        }
        let slot = area.slot.get();
        if !slot.is_null() {
            // SAFETY: the slot is mapped as long as the process lives; the word is only used atomically.
            let noted = unsafe { AtomicU32::from_ptr((&raw mut (*slot).notes.called).cast()) };
            call.what |= noted.fetch_and(called::REPORTS, Ordering::AcqRel);
        }
        call
    }
}

/// Does what the thread is called for.
pub extern "C" fn called(_: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: the kernel wrote both for this handler.
    let (info, context) = unsafe { (&*info, &mut *context) };
    if info.code() == SI_END {
        return about_to_end(info.value(), context);
    }
    let area = Area::current();
    area.unnoticed.set(true);
    let call = Call::take(area, info);
    if call.what & called::TRACER != 0 {
        TRACER.store(true, Ordering::Relaxed);
        area.woken.set(true);
    }
    if call.what & called::TRACEE != 0 {
        area.kicked.set(true);
    }
    let rip = context.mcontext.rip;
    if patch::complete(area, context) || !(in_shim(rip) || patch::in_trampoline(rip)) {
        in_guest(area, context, &call);
    } else {
        in_shim_itself(area, context, &call);
    }
}

/// The shim was interrupted: it looks at the marks itself.
fn in_shim_itself(area: &'static Area, context: &mut UContext, call: &Call) {
    if call.what & called::REPORTS != 0 {
        area.reported.set(true);
    }
    if call.mounts.is_some() {
        area.mounts_changed.set(true);
    }
    if area.sleeps.get() && call.signal.is_none() {
        // SAFETY: nothing of this handler's is needed.
        unsafe { leave_window(&context.mcontext) };
    }
    if call.what & (called::TRACER | called::TRACEE) != 0
        && let Some((rip, pops)) = window_fixup(context.mcontext.rip)
    {
        context.mcontext.rip = rip;
        context.mcontext.rsp += pops;
    }
    if let Some(info) = &call.signal {
        signal::arrived(info.signo(), info, context);
    }
}

fn in_guest(area: &'static Area, context: &mut UContext, call: &Call) {
    area.woken.set(false);
    area.context.set(context);
    signal::open_faults(context);
    let behind_call = get_user::<u16>(context.mcontext.rip.wrapping_sub(2)) == Ok(SYSCALL);
    if call.what & called::REPORTS != 0 {
        written::reported(area, context, behind_call);
    }
    if let Some(info) = &call.signal {
        return signal::arrived(info.signo(), info, context);
    }
    let interrupted = context.mcontext.rip;
    if area.kicked.get() || area.trace.get() != 0 {
        ptrace::interrupted(area, context, None);
    }
    let sleeps = behind_call
        && context.mcontext.rip == interrupted
        && context.mcontext.rax as i64 == err::EINTR;
    if sleeps && let Some(number) = call.mounts {
        poll::mounts_changed(area, context, number);
    }
    if sleeps && context.mcontext.rax as i64 == err::EINTR {
        sleep_on(area, context);
    } else {
        signal::leave(area, context);
    }
    area.note_mask(context.sigmask);
}

/// A signal has interrupted the guest that does nothing: as if it had not come.
pub fn unnoticed(area: &'static Area, context: &mut UContext) {
    in_guest(area, context, &Call { what: 0, mounts: None, signal: None });
}

/// The supervisor is about to send `signal`, which ends a process.
fn about_to_end(signal: i32, context: &UContext) {
    let area = Area::current();
    let waits = in_shim(context.mcontext.rip);
    let mask = if waits { area.guest_mask() } else { context.sigmask };
    let blocked = signal != SIGKILL && mask >> (signal as u32).wrapping_sub(1) & 1 != 0;
    signal::open_faults(context);
    if !blocked {
        futex::exit_robust_lists(area);
    }
    request(area, op::MARKED, &[0; 6]);
}

/// Goes on with a native sleep that a call has interrupted: only a handler of the guest's may. The host kernel still knows
/// the sleep, if it was one, as long as no signal frame has been returned from.
fn sleep_on(area: &'static Area, context: &mut UContext) {
    if let Some(number @ (nr::PAUSE | nr::SELECT | nr::PSELECT6 | nr::PPOLL)) = number_at_site(context) {
        // Only a handler ends these (`ERESTARTNOHAND`), and the host kernel has forgotten them.
        context.mcontext.rax = number;
        context.mcontext.rip -= 2;
        return;
    }
    while context.mcontext.rax as i64 == err::EINTR && !area.pending.get() {
        let rip = context.mcontext.rip;
        area.sleeps.set(true);
        // Calls wait outside of the window: a handler that is returned from makes the host kernel forget the sleep.
        let closed = BLOCK_ALL | CALL_BIT;
        let ret = window_until(area, area.guest_mask(), closed, nr::RESTART_SYSCALL, [0; 6]);
        area.sleeps.set(false);
        let again = ret == err::ERESTARTSYS;
        if !again {
            context.mcontext.rax = ret as u64;
        }
        written::acknowledge(area);
        if area.kicked.get() || area.trace.get() != 0 {
            ptrace::interrupted(area, context, None);
        }
        if !again || context.mcontext.rip != rip {
            break;
        }
    }
    signal::leave(area, context);
}

/// The number that the instruction before the `syscall` has loaded, if it is `mov $NR,%eax`, as in nearly all libraries.
fn number_at_site(context: &UContext) -> Option<u64> {
    let site: [u8; 5] = get_user(context.mcontext.rip.wrapping_sub(7)).ok()?;
    (site[0] == 0xb8).then(|| u64::from(u32::from_le_bytes([site[1], site[2], site[3], site[4]])))
}
