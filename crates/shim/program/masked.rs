//! System calls that take a signal mask: the host's, with the shim's own signals kept open.

use crate::area::Area;
use crate::frame::{ALWAYS_OPEN, SigInfo, UContext, UNBLOCKABLE};
use crate::packet_ring;
use crate::poll;
use crate::signal::{take_held, translate_info};
use crate::slot::{data, out};
use crate::sys::{err, nr, sys, syscall};
use crate::uaccess::{get_user, put_user, put_user_opt};
use crate::window::window;

/// A mask of the guest's as the host may have it.
pub fn native_mask(mask: u64) -> u64 {
    mask & !ALWAYS_OPEN
}

/// Puts a mask in force until the call ends; a handler that runs returns to the old one.
fn replace_mask(area: &Area, context: &mut UContext, mask: u64) {
    area.saved_mask.set(Some(context.sigmask));
    context.sigmask = native_mask(mask) & !UNBLOCKABLE;
}

/// `rt_sigsuspend(2)`.
pub fn rt_sigsuspend(area: &Area, context: &mut UContext, set: u64, size: u64) -> Result<i64, i64> {
    if size != 8 {
        return Err(err::EINVAL);
    }
    let mask = native_mask(get_user(set)?);
    replace_mask(area, context, mask);
    // SAFETY: the kernel reads the mask.
    unsafe { sys!(nr::RT_SIGSUSPEND, &raw const mask, 8) };
    Err(err::ERESTARTNOHAND)
}

/// `ppoll(2)`, `epoll_pwait(2)` and `epoll_pwait2(2)`: the mask is argument `index`, its size the next.
pub fn with_mask(
    area: &Area,
    context: &mut UContext,
    number: u64,
    args: &[u64; 6],
    index: usize,
) -> Result<i64, i64> {
    packet_ring::settle(area);
    let mut call = *args;
    area.unnoticed.set(false);
    if args[index] == 0 {
        let ret = poll::finish(area, number, args, window(area, context.sigmask, number, call));
        return Ok(unless_only_called(area, ret));
    }
    if args[index + 1] != 8 {
        return Err(err::EINVAL);
    }
    let mask = native_mask(get_user(args[index])?);
    call[index] = &raw const mask as u64;
    replace_mask(area, context, mask);
    // SAFETY: the guest's arguments, with the mask in our memory. The host puts the mask in force and blocks in one step.
    let ret = unsafe { syscall(number, call) };
    Ok(unless_only_called(area, poll::finish(area, number, args, ret)))
}

/// The result of a wait that nothing of the guest's has interrupted: the wait begins again, for what is left of its time where the host
/// tells that. A stop ends some waits for good, without a handler.
pub fn unless_only_called(area: &Area, ret: i64) -> i64 {
    if ret == err::EINTR && area.unnoticed.get() && !area.pending.get() { err::ERESTARTNOHAND } else { ret }
}

/// `pselect6(2)`: the mask stands in a structure with its size.
pub fn pselect6(area: &Area, context: &mut UContext, args: &[u64; 6]) -> Result<i64, i64> {
    let [mask_at, size] = if args[5] == 0 { [0, 0] } else { get_user::<[u64; 2]>(args[5])? };
    packet_ring::settle(area);
    let mut call = *args;
    area.unnoticed.set(false);
    if mask_at == 0 {
        call[5] = 0;
        let ret = window(area, context.sigmask, nr::PSELECT6, call);
        return Ok(unless_only_called(area, poll::finish(area, nr::PSELECT6, args, ret)));
    }
    if size != 8 {
        return Err(err::EINVAL);
    }
    let mask = native_mask(get_user(mask_at)?);
    let pair = [&raw const mask as u64, 8];
    call[5] = &raw const pair as u64;
    replace_mask(area, context, mask);
    // SAFETY: as in `with_mask`.
    let ret = unsafe { syscall(nr::PSELECT6, call) };
    Ok(unless_only_called(area, poll::finish(area, nr::PSELECT6, args, ret)))
}

/// `rt_sigtimedwait(2)`. `EAGAIN` after the timeout, `EINTR` if a handler ran.
pub fn rt_sigtimedwait(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [set, info_at, timeout, size, ..] = *args;
    if size != 8 {
        return Err(err::EINVAL);
    }
    let set = get_user(set)?;
    let mut info = SigInfo::ZERO;
    area.unnoticed.set(false);
    let ret = match take_held(area, set) {
        Some(held) => {
            info = held;
            info.signo().into()
        }
        None => {
            let set = native_mask(set);
            let call = [&raw const set as u64, &raw mut info as u64, timeout, 8, 0, 0];
            window(area, area.guest_mask(), nr::RT_SIGTIMEDWAIT, call)
        }
    };
    let ret = unless_only_called(area, ret);
    if ret == err::ERESTARTSYS {
        return Err(err::ERESTARTNOHAND);
    }
    if ret > 0 && info_at != 0 {
        translate_info(area, &mut info);
        put_user(info_at, info)?;
    }
    Ok(ret)
}

/// `rt_sigpending(2)`.
pub fn rt_sigpending(area: &Area, context: &UContext, set_at: u64, size: u64) -> Result<i64, i64> {
    if size > 8 {
        return Err(err::EINVAL);
    }
    let mut set = 0u64;
    // SAFETY: the kernel writes the set.
    unsafe { sys!(nr::RT_SIGPENDING, &raw mut set, 8) };
    // The shim itself has blocked everything; pending are the guest's.
    put_user_opt(set_at, native_mask(set) & context.sigmask | area.held.get())?;
    Ok(0)
}

/// Copies what the supervisor left at the start of the data, as many bytes as `out[0]` says, at most `max`.
pub fn copy_reply(area: &Area, to: u64, max: u64) -> Result<(), i64> {
    let len = out(area, 0).min(max);
    // SAFETY: inside the data.
    unsafe { crate::uaccess::copy_to_user(to, data(area), len as usize) }
}
