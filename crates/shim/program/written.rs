//! Native writes whose result is not the host's: to control files of proc, to files of a memory file system with a limit.
//!
//! The guest writes to such a handle natively. The supervisor holds its other end (or watches its file) and has asked the host
//! to send `SIGSYS` to the guest when something is written (`F_SETSIG`, `F_SETOWN_EX`). The host does so inside the writing
//! call, so the signal arrives when that call returns: its registers are those of the call, and what it returned can still
//! be changed before the guest sees it. Other writes cost nothing.

use nomina_abi::op;

use crate::arch::in_shim;
use crate::area::Area;
use crate::frame::{SigInfo, UContext};
use crate::patch::in_trampoline;
use crate::signal;
use crate::slot::request;
use crate::uaccess::get_user;

/// The instruction `syscall`.
const SYSCALL: u16 = 0x050f;
/// Something can be read.
const POLLIN: u64 = 1;
/// No descriptor.
const NO_FD: u64 = u64::MAX;

/// A descriptor reports a write. If the interrupted code has just returned from a system call that did not fail, the
/// supervisor says what it shall have returned. It may be another thread's write that is reported; then nothing changes.
pub fn reported(info: &SigInfo, context: &mut UContext) {
    // Not the end of the handle, which is reported as well, inside `close(2)`.
    if info.band() & POLLIN == 0 {
        return;
    }
    let area = Area::current();
    if in_shim(context.mcontext.rip) || in_trampoline(context.mcontext.rip) {
        area.reported.set(true);
        return;
    }
    area.context.set(context);
    signal::open_faults(context);
    let registers = &context.mcontext;
    let returned = registers.rax as i64 >= 0 && get_user::<u16>(registers.rip.wrapping_sub(2)) == Ok(SYSCALL);
    let (first, third) = if returned { (registers.rdi, registers.rdx) } else { (NO_FD, NO_FD) };
    let native = registers.rax;
    let told = request(area, op::WRITTEN, &[first, third, native, 0, 0, 0]);
    area.reported.set(false);
    if returned {
        context.mcontext.rax = told as u64;
    }
    if area.trace.get() != 0 || area.kicked.get() {
        crate::ptrace::interrupted(area, context, None);
    } else {
        signal::leave(area, context);
    }
    area.note_mask(context.sigmask);
}

/// What a native call of the shim on a handle, which gave `native`, shall have returned.
pub fn result(area: &Area, fd: u64, native: i64) -> i64 {
    if native < 0 || !area.reported.replace(false) {
        return native;
    }
    request(area, op::WRITTEN, &[fd, NO_FD, native as u64, 0, 0, 0])
}

/// Before a system call ends: another thread's write was reported during it. The supervisor has to know, or it gets no further
/// reports.
#[inline]
pub fn acknowledge(area: &Area) {
    if area.reported.get() {
        area.reported.set(false);
        request(area, op::WRITTEN, &[NO_FD, NO_FD, u64::MAX, 0, 0, 0]);
    }
}
