//! Sending: to an address, with ancillary data.

use core::mem::offset_of;

use nomina_abi::{SOCKADDR_MAX, SPAN_NULL};

use super::{CONTROL_MAX, Control, HEADER, MANY, MMsgHdr, MsgHdr, SCM_CREDENTIALS, SCM_RIGHTS, SOL_SOCKET, descriptor};
use crate::area::Area;
use crate::marshal::Arena;
use crate::slot::{exchange, out};
use crate::socket::{is_seqpacket, restartable};
use crate::sys::{self, err, nr};
use crate::uaccess::{get_user, put_user};
use crate::window::window;
use crate::written;

/// Longest datagram that goes with a request.
const INLINE_MAX: usize = 12 * 1024;

/// What becomes of a message.
enum Route {
    /// The host sends it, without an address.
    Native,
    /// The host sends it with this descriptor, which stands for where it goes.
    Tagged(i32),
    /// It is sent: so many bytes.
    Sent(i64),
}

/// A message as a guest sends it.
struct Outgoing {
    socket: u64,
    flags: u64,
    /// Address and its length.
    address: (u64, u64),
    /// Ancillary data and their length.
    control: (u64, u64),
    /// Array of `struct iovec` and its length.
    iov: (u64, u64),
}

/// Asks where a message goes. Datagrams of moderate size travel with the question, in case the supervisor sends them.
fn route(area: &Area, message: &Outgoing) -> Result<Route, i64> {
    let Outgoing { socket, flags, address, control, iov } = *message;
    let len = address.1 as u32 as u64;
    if address.0 != 0 && len > SOCKADDR_MAX as u64 {
        return Err(err::EINVAL);
    }
    let mut arena = Arena::new(area);
    let address = if address.0 == 0 { SPAN_NULL } else { arena.bytes(address.0, len)? };
    let (mut control_span, mut data_span, mut total) = (SPAN_NULL, SPAN_NULL, 0);
    if is_seqpacket(socket) {
        if control.0 != 0 && control.1 > 0 && control.1 <= CONTROL_MAX as u64 {
            control_span = arena.bytes(control.0, control.1)?;
        }
        let (gathered, len) = arena.gather(iov.0, iov.1, INLINE_MAX)?;
        (data_span, total) = (gathered.unwrap_or(SPAN_NULL), len);
    }
    let ask = [socket, data_span, control_span, flags, address, total];
    let (ret, received) = exchange(area, nr::SENDTO as u32, &ask);
    if ret < 0 {
        received.close();
        return Err(ret);
    }
    Ok(match received.count {
        0 if out(area, 0) != 0 => Route::Sent(ret),
        0 => Route::Native,
        _ => Route::Tagged(received.fds[0]),
    })
}

/// `sendto(2)` with an address.
pub fn sendto(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [socket, buffer, len, flags, address, address_len] = *args;
    let iov = [buffer, len];
    let route = match address {
        0 => Route::Native,
        _ => {
            let (address, iov) = ((address, address_len), (&raw const iov as u64, 1));
            route(area, &Outgoing { socket, flags, address, control: (0, 0), iov })?
        }
    };
    match route {
        Route::Sent(sent) => Ok(sent),
        Route::Native => Ok(sent(area, socket, nr::SENDTO, [socket, buffer, len, flags, 0, 0])),
        Route::Tagged(tag) => {
            let mut control = Control::new();
            control.push(SCM_RIGHTS, &tag.to_ne_bytes());
            let ret = send(area, socket, &raw const iov as u64, 1, &control, flags, true);
            sys::close(tag);
            Ok(ret)
        }
    }
}

/// Sends with ancillary data of ours; `named`: it holds the tag of a destination.
fn send(
    area: &Area,
    socket: u64,
    iov: u64,
    iov_len: u64,
    control: &Control,
    flags: u64,
    named: bool,
) -> i64 {
    let message = MsgHdr {
        name: 0,
        name_len: 0,
        pad: 0,
        iov,
        iov_len,
        control: if control.len == 0 { 0 } else { control.bytes.as_ptr() as u64 },
        control_len: control.len as u64,
        flags: 0,
        pad2: 0,
    };
    let call = [socket, &raw const message as u64, flags, 0, 0, 0];
    if named {
        return restartable(window(area, area.guest_mask(), nr::SENDMSG, call));
    }
    sent(area, socket, nr::SENDMSG, call)
}

/// Sends natively. A send without an address may report itself.
fn sent(area: &Area, socket: u64, number: u64, call: [u64; 6]) -> i64 {
    written::result(area, socket, restartable(window(area, area.guest_mask(), number, call)))
}

/// Whether ancillary data have something that a protocol other than `AF_UNIX` understands.
fn is_for_protocol(message: &MsgHdr) -> Result<bool, i64> {
    let Some(given) = Control::of_guest(message.control, message.control_len)? else { return Ok(false) };
    let mut at = 0;
    while let Some((header, _, next)) = given.entry(at) {
        if header.level != SOL_SOCKET {
            return Ok(true);
        }
        at = next;
    }
    Ok(false)
}

/// The guest's ancillary data without credentials: it may only give its own, which the receiver learns anyway.
fn filtered(area: &Area, message: &MsgHdr, control: &mut Control) -> Result<(), i64> {
    let given = Control::of_guest(message.control, message.control_len)?.ok_or(err::ENOBUFS)?;
    let mut at = 0;
    while let Some((header, payload, next)) = given.entry(at) {
        if header.level == SOL_SOCKET && header.kind == SCM_CREDENTIALS {
            if payload.len() < 12 {
                return Err(err::EINVAL);
            }
            if descriptor(payload, 0) != Some(area.pid.get()) {
                return Err(err::EPERM);
            }
        } else if header.level != SOL_SOCKET || !control.push(header.kind, payload) {
            return Err(err::EINVAL);
        }
        at = next;
    }
    Ok(())
}

/// `sendmsg(2)`.
pub fn sendmsg(area: &Area, socket: u64, at: u64, flags: u64) -> Result<i64, i64> {
    let message: MsgHdr = get_user(at)?;
    let named = message.name != 0 && message.name_len != 0;
    let ancillary = message.control != 0 && message.control_len >= HEADER as u64;
    if !named && !ancillary {
        let call = [socket, at, flags, 0, 0, 0];
        return Ok(sent(area, socket, nr::SENDMSG, call));
    }
    let mut control = Control::new();
    let mut tag = None;
    if named || is_for_protocol(&message)? {
        let address = if named { (message.name, message.name_len as u64) } else { (0, 0) };
        let control = (message.control, message.control_len);
        let iov = (message.iov, message.iov_len);
        match route(area, &Outgoing { socket, flags, address, control, iov })? {
            Route::Sent(sent) => return Ok(sent),
            Route::Tagged(descriptor) => tag = Some(descriptor),
            Route::Native => {}
        }
    }
    let result = (|| {
        if let Some(tag) = tag {
            control.push(SCM_RIGHTS, &tag.to_ne_bytes());
        }
        if ancillary {
            filtered(area, &message, &mut control)?;
        }
        Ok(send(area, socket, message.iov, message.iov_len, &control, flags, tag.is_some()))
    })();
    if let Some(tag) = tag {
        sys::close(tag);
    }
    result
}

/// `sendmmsg(2)`.
pub fn sendmmsg(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [socket, messages, count, flags, ..] = *args;
    let mut done = 0;
    while done < u64::from(count as u32).min(MANY) {
        let at = messages + done * size_of::<MMsgHdr>() as u64;
        let sent = sendmsg(area, socket, at, flags).and_then(|sent| {
            if sent < 0 {
                return Err(sent);
            }
            put_user(at + offset_of!(MMsgHdr, len) as u64, sent as u32)
        });
        match sent {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done as i64)
}
