//! Receiving: who has sent a message, and what came with it.

use core::mem::offset_of;

use nomina_abi::{SOCKADDR_MAX, SPAN_NULL, label, op, span, xlate};

use super::{
    CONTROL_MAX, CMsgHdr, Control, HEADER, MANY, MMsgHdr, MsgHdr, SCM_CREDENTIALS, SCM_RIGHTS, SOL_SOCKET, TAG_SPACE, descriptor,
};
use crate::area::Area;
use crate::marshal::{Arena, copy_out};
use crate::signalfd;
use crate::slot::{data, out, request};
use crate::socket::{is_seqpacket, restartable};
use crate::sys::{self, err, nr};
use crate::uaccess::{copy_to_user, get_user, put_user};
use crate::window::window;

/// `SCM_TIMESTAMP`, `SCM_TIMESTAMPNS`, and both with 64 bits: when the host's end got the message.
const SCM_TIMESTAMPS: [i32; 4] = [29, 35, 63, 64];
const MSG_CTRUNC: u32 = 8;
const MSG_DONTWAIT: u64 = 0x40;
const MSG_ERRQUEUE: u64 = 0x2000;
const MSG_WAITFORONE: u64 = 0x1_0000;
/// Length of a `sockaddr_nl`, and of the name by which the host tells that a message came from the other end of a netlink
/// socket.
const NETLINK_NAME: usize = 12;

/// What came with a message.
struct Received {
    /// Result of the call.
    len: i64,
    /// `msg_flags`.
    flags: u32,
    /// Whether the sender's address, of this length, is in the slot at this span.
    address: Option<(u64, u64)>,
    /// Whether it came from the kernel, on a netlink socket.
    from_kernel: bool,
    /// `SCM_CREDENTIALS`, if the socket wants them.
    credentials: Option<[u32; 3]>,
    /// Ancillary data of the label, a span of the slot.
    label_control: (u64, usize),
    control: Control,
}

impl Received {
    /// The payload of the first entry of a kind.
    fn entry(&self, kind: i32) -> &[u8] {
        let mut at = 0;
        while let Some((header, payload, next)) = self.control.entry(at) {
            if header.level == SOL_SOCKET && header.kind == kind {
                return payload;
            }
            at = next;
        }
        &[]
    }

    /// The descriptors that came, without the tag.
    fn descriptors(&self) -> &[u8] {
        let fds = self.entry(SCM_RIGHTS);
        if self.address.is_some() { &fds[4..] } else { fds }
    }
}

/// Credentials of a process as the guest sees them: pid, user, group.
fn translated(area: &Area, host_pid: i32) -> [u32; 3] {
    let pid = request(area, op::XLATE, &[xlate::FROM_HOST, host_pid as u64, 0, 1, 0, 0]);
    [pid.max(0) as u32, out(area, 0) as u32, out(area, 1) as u32]
}

/// Puts right what the host has given the guest as ancillary data.
fn put_right(area: &Area, message: &MsgHdr) -> Result<(), i64> {
    if message.control == 0 || message.control_len < HEADER as u64 {
        return Ok(());
    }
    translate_credentials(area, message)?;
    let Some(control) = Control::of_guest(message.control, message.control_len)? else { return Ok(()) };
    let mut at = 0;
    while let Some((header, payload, next)) = control.entry(at) {
        if (header.level, header.kind) == (SOL_SOCKET, SCM_RIGHTS) {
            watch_all(area, payload);
        }
        at = next;
    }
    Ok(())
}

/// Descriptors have come: of signals, perhaps.
fn watch_all(area: &Area, fds: &[u8]) {
    for fd in (0..fds.len() / 4).filter_map(|index| descriptor(fds, index)) {
        signalfd::received(area, fd);
    }
}

/// Translates the credentials that the host put at the front of the guest's ancillary data.
fn translate_credentials(area: &Area, message: &MsgHdr) -> Result<(), i64> {
    if message.control_len < (HEADER + 12) as u64 {
        return Ok(());
    }
    let header: CMsgHdr = get_user(message.control)?;
    if (header.level, header.kind) != (SOL_SOCKET, SCM_CREDENTIALS) {
        return Ok(());
    }
    let at = message.control + HEADER as u64;
    put_user(at, translated(area, get_user(at)?))
}

/// Result of [`receive_one`]: it was no message.
const AGAIN: i64 = i64::MIN;

/// Receives on a seqpacket socket of the host, with room for `room` bytes of the guest's ancillary data.
fn receive(area: &Area, socket: u64, iov: u64, iov_len: u64, room: u64, flags: u64) -> Received {
    loop {
        let received = receive_one(area, socket, iov, iov_len, room, flags);
        if received.len != AGAIN {
            return received;
        }
    }
}

/// Receives on a seqpacket socket of the host, with room for `room` bytes of the guest's ancillary data.
fn receive_one(area: &Area, socket: u64, iov: u64, iov_len: u64, room: u64, flags: u64) -> Received {
    let mut control = Control::new();
    let room = room.min(CONTROL_MAX as u64) as usize + TAG_SPACE;
    let mut name = [0u8; SOCKADDR_MAX];
    let mut message = MsgHdr {
        name: name.as_mut_ptr() as u64,
        name_len: SOCKADDR_MAX as i32,
        pad: 0,
        iov,
        iov_len,
        control: control.bytes.as_mut_ptr() as u64,
        control_len: room as u64,
        flags: 0,
        pad2: 0,
    };
    let call = [socket, &raw mut message as u64, flags, 0, 0, 0];
    let len = match flags & MSG_ERRQUEUE {
        0 => restartable(window(area, area.guest_mask(), nr::RECVMSG, call)),
        // No errors are queued.
        _ => err::EAGAIN,
    };
    if len >= 0 {
        control.len = (message.control_len as usize).min(room);
    }
    let from_kernel = len >= 0 && message.name_len as usize == NETLINK_NAME && name[2..4] == [0, 1];
    let mut received =
        Received { len, flags: message.flags, address: None, from_kernel, credentials: None, label_control: (SPAN_NULL, 0), control };
    if let Some(host_pid) = descriptor(received.entry(SCM_CREDENTIALS), 0) {
        received.credentials = Some(translated(area, host_pid));
    }
    let Some(tag) = descriptor(received.descriptors(), 0) else { return received };
    if read_label(area, socket, tag, &mut received) {
        return received;
    }
    let Ok(span) = Arena::new(area).room_for(SOCKADDR_MAX as u64) else { return received };
    if request(area, op::SENDER, &[socket, tag as u64, span, 0, 0, 0]) == 0 {
        sys::close(tag);
        received.address = Some((span, out(area, 0)));
        received.credentials = (out(area, 4) != 0).then(|| [1, 2, 3].map(|at| out(area, at) as u32));
    }
    received
}

/// The error that a message has told of, or [`AGAIN`] when somebody has asked for it already.
fn pending_error(area: &Area, socket: u64) -> i64 {
    const SO_ERROR: u64 = 4;
    let Ok(value) = Arena::new(area).room_for(4) else { return AGAIN };
    let ret = request(area, nr::GETSOCKOPT as u32, &[socket, SOL_SOCKET as u64, SO_ERROR, value, 4, 0]);
    // SAFETY: the arena's four bytes, aligned.
    match unsafe { data(area).add(value as u32 as usize).cast::<i32>().read_volatile() } {
        errno @ 1..4096 if ret >= 0 => -i64::from(errno),
        _ => AGAIN,
    }
}

/// Takes the label off a message, if that is what came with it.
fn read_label(area: &Area, socket: u64, tag: i32, received: &mut Received) -> bool {
    let Ok(room) = Arena::new(area).room_for(label::MAX as u64) else { return false };
    let (at, len) = (room as u32, (room >> 32) as usize);
    // SAFETY: `len` bytes of the slot's data from `at` on are the arena's.
    let text = unsafe { data(area).add(at as usize) };
    // SAFETY: as above.
    let got = unsafe { sys::sys!(nr::PREAD64, tag, text, len, 0) };
    if got < label::CONTROL_AT as i64 {
        return false;
    }
    // SAFETY: inside of what was read; the slot's data are aligned.
    let word = |index: usize| unsafe { text.cast::<u32>().add(index).read_volatile() };
    let (kind, address_len, control_len) = (word(0), word(1), word(2));
    if kind != label::INET && kind != label::ERROR {
        return false;
    }
    sys::close(tag);
    if kind == label::ERROR {
        received.len = pending_error(area, socket);
        return true;
    }
    let address_len = address_len.min((label::CONTROL_AT - label::ADDRESS_AT) as u32);
    let control_len = control_len.min(got as u32 - label::CONTROL_AT as u32);
    received.address = Some((span(at + label::ADDRESS_AT as u32, address_len), address_len.into()));
    received.label_control = (span(at + label::CONTROL_AT as u32, control_len), control_len as usize);
    true
}

/// `recvfrom(2)` with an address; sockets other than datagram sockets give none.
pub fn recvfrom(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [socket, buffer, len, flags, address, address_len] = *args;
    if address == 0 || !is_seqpacket(socket) {
        let call = [socket, buffer, len, flags, 0, 0];
        let ret = restartable(window(area, area.guest_mask(), nr::RECVFROM, call));
        if ret >= 0 && address_len != 0 {
            put_user(address_len, 0u32)?;
        }
        return Ok(ret);
    }
    let iov = [buffer, len];
    let received = receive(area, socket, &raw const iov as u64, 1, 0, flags);
    close_all(received.descriptors());
    if received.len >= 0 {
        put_address(area, &received, address, address_len)?;
    }
    Ok(received.len)
}

fn close_all(fds: &[u8]) {
    for index in 0..fds.len() / 4 {
        if let Some(fd) = descriptor(fds, index) {
            sys::close(fd);
        }
    }
}

/// Tells the guest an address, whose room and length are at `len_at` (`move_addr_to_user`).
fn put_address(area: &Area, received: &Received, to: u64, len_at: u64) -> Result<(), i64> {
    if received.from_kernel {
        const AF_NETLINK: u32 = 16;
        let room: u32 = get_user(len_at)?;
        if room as usize >= NETLINK_NAME {
            put_user(to, [AF_NETLINK, 0, 0])?;
        }
        return put_user(len_at, NETLINK_NAME as u32);
    }
    let (span, len) = received.address.unwrap_or((SPAN_NULL, 0));
    let room: i32 = get_user(len_at)?;
    if room < 0 {
        return Err(err::EINVAL);
    }
    if len > 0 {
        copy_out(area, span, to, len.min(room as u64))?;
    }
    put_user(len_at, len as u32)
}

/// `recvmsg(2)`.
pub fn recvmsg(area: &Area, socket: u64, at: u64, flags: u64) -> Result<i64, i64> {
    if !is_seqpacket(socket) {
        let call = [socket, at, flags, 0, 0, 0];
        let ret = restartable(window(area, area.guest_mask(), nr::RECVMSG, call));
        if ret >= 0 {
            put_right(area, &get_user(at)?)?;
        }
        return Ok(ret);
    }
    let message: MsgHdr = get_user(at)?;
    if message.name_len < 0 && message.name != 0 {
        return Err(err::EINVAL);
    }
    let room = if message.control == 0 { 0 } else { message.control_len };
    let received = receive(area, socket, message.iov, message.iov_len, room, flags);
    if received.len < 0 {
        return Ok(received.len);
    }
    let len_at = at + offset_of!(MsgHdr, name_len) as u64;
    if message.name == 0 {
        put_user(len_at, 0u32)?;
    } else {
        put_address(area, &received, message.name, len_at)?;
    }
    let (control_len, truncated) = match received.label_control.1 {
        0 => put_control(&received, message.control, room)?,
        _ => put_label(area, received.label_control, message.control, room)?,
    };
    let flags = received.flags | if truncated { MSG_CTRUNC } else { 0 };
    put_user(at + offset_of!(MsgHdr, flags) as u64, flags)?;
    put_user(at + offset_of!(MsgHdr, control_len) as u64, control_len)?;
    watch_all(area, received.descriptors());
    Ok(received.len)
}

/// Gives the guest the ancillary data of a label, as many entries as there is room for; whether some did not fit.
fn put_label(area: &Area, (from, len): (u64, usize), to: u64, room: u64) -> Result<(u64, bool), i64> {
    // SAFETY: `read_label` has checked that these bytes are inside of the slot.
    let entry_len = |at: usize| unsafe { data(area).add(from as u32 as usize + at).cast::<u64>().read_volatile() };
    let mut fits = 0;
    while fits + HEADER <= len {
        let next = fits + (entry_len(fits) as usize).max(HEADER).next_multiple_of(8);
        if next > len || next as u64 > room {
            break;
        }
        fits = next;
    }
    if fits > 0 {
        copy_out(area, from, to, fits as u64)?;
    }
    Ok((fits as u64, fits < len))
}

/// Gives the guest its ancillary data, cut to its room; whether something did not fit.
fn put_control(received: &Received, to: u64, room: u64) -> Result<(u64, bool), i64> {
    let mut control = Control::new();
    for kind in SCM_TIMESTAMPS {
        let time = received.entry(kind);
        if !time.is_empty() {
            control.push(kind, time);
        }
    }
    if let Some(words) = received.credentials {
        control.push(SCM_CREDENTIALS, words.map(u32::to_ne_bytes).as_flattened());
    }
    let fds = received.descriptors();
    let left = (room as usize).saturating_sub(control.len + HEADER);
    let taken = fds.len().min(left / 4 * 4);
    if taken > 0 {
        control.push(SCM_RIGHTS, &fds[..taken]);
    }
    close_all(&fds[taken..]);
    let len = control.len.min(room as usize);
    // SAFETY: `len` bytes of the entries made above.
    unsafe { copy_to_user(to, control.bytes.as_ptr(), len)? };
    Ok((len as u64, taken < fds.len() || len < control.len))
}

/// `recvmmsg(2)`. A timeout, which Linux looks at between messages, is here as if the first message took all of it.
pub fn recvmmsg(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [socket, messages, count, flags, timeout, _] = *args;
    let only_first = flags & MSG_WAITFORONE != 0 || timeout != 0;
    let mut flags = flags & !MSG_WAITFORONE;
    let mut done = 0;
    while done < u64::from(count as u32).min(MANY) {
        let at = messages + done * size_of::<MMsgHdr>() as u64;
        let got = recvmsg(area, socket, at, flags).and_then(|got| {
            if got < 0 {
                return Err(got);
            }
            put_user(at + offset_of!(MMsgHdr, len) as u64, got as u32)
        });
        match got {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if only_first {
            flags |= MSG_DONTWAIT;
        }
    }
    Ok(done as i64)
}
