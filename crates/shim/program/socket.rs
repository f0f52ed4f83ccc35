//! Socket calls in which an address, a name, meets a native descriptor.

use nomina_abi::SPAN_NULL;

use crate::area::Area;
use crate::marshal::{Arena, copy_out, generic, kinds};
use crate::slot::{out, request};
use crate::sys::{self, err, nr};
use crate::uaccess::{get_user, put_user};
use crate::window::window;

/// Largest socket option that is asked for through the supervisor.
const OPTION_MAX: i32 = 128;
const SOCKADDR_MAX: u64 = 128;
const SOL_SOCKET: u32 = 1;

fn restartable(ret: i64) -> i64 {
    if ret == err::EINTR { err::ERESTARTSYS } else { ret }
}

/// `accept(2)` and `accept4(2)` with an address: the host accepts, the supervisor knows the peer's name.
pub fn accept(area: &Area, args: &[u64; 6], flags: u64) -> Result<i64, i64> {
    let [socket, address, len, ..] = *args;
    let call = [socket, 0, 0, flags, 0, 0];
    let accepted = restartable(window(area, area.guest_mask(), nr::ACCEPT4, call));
    if accepted < 0 || address == 0 {
        return Ok(accepted);
    }
    let kinds = kinds(nr::GETPEERNAME).ok_or(err::ENOSYS)?;
    let named = generic(area, nr::GETPEERNAME, kinds, &[accepted as u64, address, len, 0, 0, 0]);
    if let Err(error) = named {
        sys::close(accepted as i32);
        return Err(error);
    }
    if named.is_ok_and(|ret| ret < 0) {
        // The peer has gone already, as may happen before any `getpeername`: no address.
        put_user(len, 0u32)?;
    }
    Ok(accepted)
}

/// `recvfrom(2)` with an address: of a connected socket, which gives none.
pub fn recvfrom(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [socket, buffer, len, flags, _, address_len] = *args;
    let call = [socket, buffer, len, flags, 0, 0];
    let ret = restartable(window(area, area.guest_mask(), nr::RECVFROM, call));
    if ret >= 0 && address_len != 0 {
        put_user(address_len, 0u32)?;
    }
    Ok(ret)
}

/// `sendto(2)` with an address: the supervisor says whether the host may send without it.
pub fn sendto(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [socket, buffer, len, flags, address, address_len] = *args;
    let mut ask = *args;
    if address != 0 {
        if address_len as u32 as u64 > SOCKADDR_MAX {
            return Err(err::EINVAL);
        }
        ask[4] = Arena::new(area).bytes(address, address_len as u32 as u64)?;
        let ret = request(area, nr::SENDTO as u32, &ask);
        if ret != 0 {
            return Ok(ret);
        }
    }
    let call = [socket, buffer, len, flags, 0, 0];
    Ok(restartable(window(area, area.guest_mask(), nr::SENDTO, call)))
}

/// `SO_TYPE`, `SO_ERROR`, `SO_ACCEPTCONN`, `SO_PROTOCOL`, `SO_DOMAIN`.
const OF_THE_HANDLE: [u32; 5] = [3, 4, 30, 38, 39];

/// `getsockopt(2)`: of the handle itself natively, of what names processes or users by the supervisor.
pub fn getsockopt(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [_, level, option, value, len_at, _] = *args;
    if level as u32 == SOL_SOCKET && OF_THE_HANDLE.contains(&(option as u32)) {
        // SAFETY: the guest's call as it is.
        return Ok(unsafe { sys::syscall(nr::GETSOCKOPT, *args) });
    }
    let len: i32 = get_user(len_at)?;
    if len < 0 {
        return Err(err::EINVAL);
    }
    let mut ask = *args;
    ask[3] = if value == 0 { SPAN_NULL } else { Arena::new(area).room_for(len.min(OPTION_MAX) as u64)? };
    ask[4] = len as u64;
    let ret = request(area, nr::GETSOCKOPT as u32, &ask);
    if ret >= 0 {
        let full = out(area, 0);
        if value != 0 {
            copy_out(area, ask[3], value, full)?;
        }
        put_user(len_at, full as u32)?;
    }
    Ok(ret)
}

/// `setsockopt(2)` of options that are not plainly the descriptor's: the value travels as argument 3.
pub fn setsockopt(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [_, _, _, value, len, _] = *args;
    let len = len as i32;
    if len < 0 {
        return Err(err::EINVAL);
    }
    let mut ask = *args;
    ask[3] = if value == 0 { SPAN_NULL } else { Arena::new(area).bytes(value, len as u64)? };
    ask[4] = len as u64;
    Ok(request(area, nr::SETSOCKOPT as u32, &ask))
}
