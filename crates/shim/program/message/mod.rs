//! Messages with addresses and ancillary data: `sendto(2)`, `sendmsg(2)`, `recvfrom(2)`, `recvmsg(2)` and their forms for many.
//!
//! The guest's datagram sockets are seqpacket sockets of the host, connected to the supervisor. A message to an address carries
//! a descriptor as its first, the *tag*, which the supervisor gives for the address; one that is received carries one for
//! which the supervisor tells the sender. All else is native.

mod receive;
mod send;

use crate::uaccess::copy_from_user;

pub use receive::{recvfrom, recvmmsg, recvmsg};
pub use send::{sendmmsg, sendmsg, sendto};

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const SCM_CREDENTIALS: i32 = 2;
/// Most messages in one call (`UIO_MAXIOV`).
const MANY: u64 = 1024;

/// `struct user_msghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MsgHdr {
    name: u64,
    name_len: i32,
    pad: u32,
    iov: u64,
    iov_len: u64,
    control: u64,
    control_len: u64,
    flags: u32,
    pad2: u32,
}

/// `struct mmsghdr`.
#[repr(C)]
struct MMsgHdr {
    header: MsgHdr,
    len: u32,
    pad: u32,
}

/// `struct cmsghdr`.
#[repr(C)]
#[derive(Clone, Copy)]
struct CMsgHdr {
    len: u64,
    level: i32,
    kind: i32,
}

const HEADER: usize = size_of::<CMsgHdr>();
/// `CMSG_SPACE(sizeof(int))`.
const TAG_SPACE: usize = 24;
/// Ancillary data beyond this is not looked at: it holds `SCM_MAX_FD` descriptors.
const CONTROL_MAX: usize = 1040;

/// Ancillary data.
#[repr(C, align(8))]
struct Control {
    bytes: [u8; CONTROL_MAX + TAG_SPACE],
    len: usize,
}

impl Control {
    const fn new() -> Control {
        Control { bytes: [0; CONTROL_MAX + TAG_SPACE], len: 0 }
    }

    /// A guest's, if they are not more than what is looked at. `EFAULT`.
    fn of_guest(at: u64, len: u64) -> Result<Option<Control>, i64> {
        let Some(len) = usize::try_from(len).ok().filter(|len| *len <= CONTROL_MAX) else { return Ok(None) };
        let mut control = Control::new();
        // SAFETY: there is room for `CONTROL_MAX` bytes.
        unsafe { copy_from_user(control.bytes.as_mut_ptr(), at, len)? };
        control.len = len;
        Ok(Some(control))
    }

    /// Adds one entry; false without room.
    fn push(&mut self, kind: i32, payload: &[u8]) -> bool {
        let space = HEADER + payload.len().next_multiple_of(8);
        if self.len + space > self.bytes.len() {
            return false;
        }
        let header = CMsgHdr { len: (HEADER + payload.len()) as u64, level: SOL_SOCKET, kind };
        // SAFETY: there is room for both, checked above; the place is aligned, as all entries are.
        unsafe {
            let at = self.bytes.as_mut_ptr().add(self.len);
            at.cast::<CMsgHdr>().write(header);
            at.add(HEADER).copy_from_nonoverlapping(payload.as_ptr(), payload.len());
        }
        self.len += space;
        true
    }

    /// The entry at `at`: its header and payload, and where the next one is.
    fn entry(&self, at: usize) -> Option<(CMsgHdr, &[u8], usize)> {
        if at + HEADER > self.len {
            return None;
        }
        // SAFETY: a header is inside; all bit patterns are valid, and entries are aligned.
        let header = unsafe { self.bytes.as_ptr().add(at).cast::<CMsgHdr>().read() };
        let len = usize::try_from(header.len).ok()?;
        let payload = self.bytes.get(at + HEADER..at.checked_add(len)?)?;
        Some((header, payload, at + len.next_multiple_of(8)))
    }
}

fn descriptor(bytes: &[u8], index: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(index * 4..index * 4 + 4)?.try_into().ok()?))
}
