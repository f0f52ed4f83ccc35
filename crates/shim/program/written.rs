//! Native writes whose result is not the host's: to control files of proc, to files of a memory file system with a limit.
//!
//! The guest writes to such a handle natively. The supervisor holds its other end (or watches its file) and has asked the host
//! to call the guest (`call`) when something is written (`F_SETSIG`, `F_SETOWN_EX`). The host does so inside the writing
//! call, so the signal arrives when that call returns: its registers are those of the call, and what it returned can still
//! be changed before the guest sees it. Other writes cost nothing.

use nomina_abi::op;

use crate::area::Area;
use crate::frame::UContext;
use crate::slot::request;

/// No descriptor.
const NO_FD: u64 = u64::MAX;

/// A descriptor reports a write. If the interrupted code has just returned from a system call that did not fail, the
/// supervisor says what it shall have returned. It may be another thread's write that is reported; then nothing changes.
pub fn reported(area: &Area, context: &mut UContext, behind_call: bool) {
    let registers = &mut context.mcontext;
    let native = registers.rax;
    let returned = behind_call && native as i64 >= 0;
    let (first, third) = if returned { (registers.rdi, registers.rdx) } else { (NO_FD, NO_FD) };
    let told = request(area, op::WRITTEN, &[first, third, native, 0, 0, 0]);
    area.reported.set(false);
    if returned {
        registers.rax = told as u64;
    }
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
