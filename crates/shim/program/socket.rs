//! Socket calls in which an address, a name, meets a native descriptor.

use nomina_abi::SPAN_NULL;

use crate::area::Area;
use crate::marshal::{Arena, copy_out, generic, kinds};
use crate::packet_ring;
use crate::slot::{exchange, out, request};
use crate::sys::{self, err, nr};
use crate::uaccess::{copy_to_user, get_user, put_user};
use crate::window::window;

/// Largest socket option that is asked for through the supervisor.
const OPTION_MAX: i32 = 128;
const SOL_SOCKET: u32 = 1;
const SO_TYPE: u32 = 3;
const SO_PEERPIDFD: u32 = 77;
const SOCK_SEQPACKET: i32 = 5;
const SOL_PACKET: u32 = 263;
const PACKET_RX_RING: u32 = 5;
const PACKET_HDRLEN: u32 = 11;

/// The result of a call that may be restarted.
pub fn restartable(ret: i64) -> i64 {
    if ret == err::EINTR { err::ERESTARTSYS } else { ret }
}

/// Puts `fresh` in the place of `socket`, as the supervisor wants it.
fn replace(socket: u64, fresh: i64) -> Result<(), i64> {
    const F_GETFD: u64 = 1;
    const FD_CLOEXEC: i64 = 1;
    const O_CLOEXEC: u64 = 0o2000000;
    // SAFETY: the guest's own descriptors; no memory.
    let ret = unsafe {
        let flags = sys::sys!(nr::FCNTL, socket, F_GETFD);
        let cloexec = if flags >= 0 && flags & FD_CLOEXEC != 0 { O_CLOEXEC } else { 0 };
        sys::sys!(nr::DUP3, fresh, socket, cloexec)
    };
    sys::close(fresh as i32);
    if ret < 0 { Err(ret) } else { Ok(()) }
}

/// `connect(2)`. The host's socket behind one of TCP can be used up; then the supervisor gives another.
pub fn connect(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let kinds = kinds(nr::CONNECT).ok_or(err::ENOSYS)?;
    let ret = generic(area, nr::CONNECT, kinds, args)?;
    if ret <= 0 {
        return Ok(ret);
    }
    replace(args[0], ret)?;
    generic(area, nr::CONNECT, kinds, args)
}

/// `listen(2)`: the supervisor binds the host's socket, the host listens.
pub fn listen(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let mut ret = request(area, nr::LISTEN as u32, args);
    if ret > 0 {
        replace(args[0], ret)?;
        ret = request(area, nr::LISTEN as u32, args);
    }
    if ret != 0 {
        return Ok(ret);
    }
    // SAFETY: the guest's call with the backlog that the supervisor says; no memory.
    Ok(unsafe { sys::sys!(nr::LISTEN, args[0], out(area, 0)) })
}

/// `accept(2)` and `accept4(2)` with an address: the host accepts, the supervisor knows the peer's name.
pub fn accept(area: &Area, number: u64, args: &[u64; 6], flags: u64) -> Result<i64, i64> {
    let [socket, address, len, ..] = *args;
    let call = [socket, 0, 0, flags, 0, 0];
    let accepted = restartable(window(area, area.guest_mask(), number, call));
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

/// Whether the host has a socket for one of type `SOCK_SEQPACKET`, behind which may be a guest's datagram socket.
pub fn is_seqpacket(socket: u64) -> bool {
    let (mut kind, mut len) = (0i32, 4u32);
    let args = [socket, SOL_SOCKET.into(), SO_TYPE.into(), &raw mut kind as u64, &raw mut len as u64, 0];
    // SAFETY: the kernel writes one number of four bytes.
    unsafe { sys::syscall(nr::GETSOCKOPT, args) == 0 && kind == SOCK_SEQPACKET }
}

/// `socketpair(2)` of datagram sockets.
pub fn socketpair(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    const SOCK_CLOEXEC: u64 = 0o2000000;
    let (ret, received) = exchange(area, nr::SOCKETPAIR as u32, args);
    if ret < 0 || received.count < 2 {
        received.close();
        return Err(if ret < 0 { ret } else { err::EMFILE });
    }
    if args[1] & SOCK_CLOEXEC != 0 {
        for fd in &received.fds[..2] {
            // SAFETY: F_SETFD of FD_CLOEXEC; no memory.
            unsafe { sys::sys!(nr::FCNTL, *fd, 2, 1) };
        }
    }
    if let Err(error) = put_user(args[3], [received.fds[0], received.fds[1]]) {
        received.close();
        return Err(error);
    }
    Ok(0)
}

/// `getsockopt(2)` of options that are not plainly the descriptor's: only the supervisor knows what the socket stands for.
pub fn getsockopt(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [_, level, option, value, len_at, _] = *args;
    let len: i32 = get_user(len_at)?;
    if len < 0 {
        return Err(err::EINVAL);
    }
    if (level as u32, option as u32) == (SOL_SOCKET, SO_PEERPIDFD) {
        let fd = request(area, nr::GETSOCKOPT as u32, args);
        if fd < 0 {
            return Err(fd);
        }
        let len = (len as u32).min(4);
        // SAFETY: a local of four bytes.
        let stored = unsafe { copy_to_user(value, (fd as i32).to_ne_bytes().as_ptr(), len as usize) };
        return match stored.and_then(|()| put_user(len_at, len)) {
            Ok(()) => Ok(0),
            Err(error) => {
                sys::close(fd as i32);
                Err(error)
            }
        };
    }
    let mut ask = *args;
    ask[3] = if value == 0 { SPAN_NULL } else { Arena::new(area).room_for(len.min(OPTION_MAX) as u64)? };
    ask[4] = len as u64;
    if (level as u32, option as u32) == (SOL_PACKET, PACKET_HDRLEN) && len >= 4 {
        // The version that is asked about stands where the answer goes.
        ask[5] = get_user::<u32>(value)?.into();
    }
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
    const SO_ATTACH_FILTER: u32 = 26;
    let [_, level, option, value, len, _] = *args;
    let len = len as i32;
    if len < 0 {
        return Err(err::EINVAL);
    }
    let mut ask = *args;
    ask[3] = match value {
        0 => SPAN_NULL,
        // A `struct sock_fprog` leads to the instructions.
        _ if level as u32 == SOL_SOCKET && option as u32 == SO_ATTACH_FILTER => Arena::new(area).filter(value)?,
        _ => Arena::new(area).bytes(value, len as u64)?,
    };
    ask[4] = len as u64;
    let ret = request(area, nr::SETSOCKOPT as u32, &ask);
    if ret == 0 && (level as u32, option as u32) == (SOL_PACKET, PACKET_RX_RING) {
        packet_ring::made(args[0]);
    }
    Ok(ret)
}
