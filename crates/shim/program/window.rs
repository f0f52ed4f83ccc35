//! System calls that may block, made for the guest under the guest's signal mask.
//!
//! The handlers of the shim run with all signals blocked, so that nothing of the guest interrupts them. A call that may block
//! needs the guest's mask, and a signal that arrives after the mask is open but before the call blocks must not be lost: the
//! signal handler moves such a call to its `EINTR` exit (`arch::window_fixup`).

use crate::arch::nomina_window;
use crate::area::Area;
use crate::frame::{ALWAYS_OPEN, BLOCK_ALL};
use crate::sys::{self, nr};

/// Makes a native system call under `mask`. `ERESTARTSYS` when a signal, or a call of the supervisor's, came first; a signal is then pending
/// in the area.
pub fn window(area: &Area, mask: u64, number: u64, args: [u64; 6]) -> i64 {
    window_until(area, mask, BLOCK_ALL, number, args)
}

/// As [`window`], with a mask of choice for afterwards.
pub fn window_until(area: &Area, mask: u64, after: u64, number: u64, args: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args;
    let call = [number, a, b, c, d, e, f, area.interruptions()];
    // A write that is reported (`written`) before a new image has its handlers must wait for them.
    let open = number != nr::EXECVEAT;
    let mask = if open { mask & !ALWAYS_OPEN } else { mask | ALWAYS_OPEN };
    // SAFETY: the words live through the call; the arguments are the caller's.
    let ret = unsafe { nomina_window(&raw const call, &raw const mask) };
    sys::set_mask(after);
    ret
}
