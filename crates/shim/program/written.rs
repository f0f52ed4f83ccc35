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

/// A descriptor reports a write. If the interrupted code has just returned from a system call that did not fail, the
/// supervisor says what it shall have returned. It may be another thread's write that is reported; then nothing changes.
pub fn reported(info: &SigInfo, context: &mut UContext) {
    // Not the end of the handle, which is reported as well, inside `close(2)`.
    if info.band() & POLLIN == 0 {
        return;
    }
    let registers = &context.mcontext;
    if in_shim(registers.rip) || in_trampoline(registers.rip) || (registers.rax as i64) < 0 {
        return;
    }
    let area = Area::current();
    area.context.set(context);
    signal::open_faults(context);
    let registers = &context.mcontext;
    if get_user::<u16>(registers.rip.wrapping_sub(2)) != Ok(SYSCALL) {
        return;
    }
    let args = [registers.rdi, registers.rdx, registers.rax, 0, 0, 0];
    let result = request(area, op::WRITTEN, &args);
    signal::finish(area, context, 0, result);
}
