//! Messages of netlink and their attributes (`netlink(7)`, `lib/nlattr.c`): a header, a fixed structure, and a list of
//! attributes, each with a length and a type.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dev::MacAddr;
use crate::errno::{Errno, Result};

/// Length of `struct nlmsghdr`, in bytes.
pub const NLMSG_HDRLEN: usize = 16;

/// Flags of a message: `NLM_F_*`.
pub mod nlm_f {
    /// To the kernel.
    pub const REQUEST: u16 = 0x1;
    /// One of several.
    pub const MULTI: u16 = 0x2;
    /// Asks to be told of success as well.
    pub const ACK: u16 = 0x4;
    /// Asks to be sent its notification.
    pub const ECHO: u16 = 0x8;
    /// Asks for all.
    pub const DUMP: u16 = 0x300;
    /// Takes the place of another.
    pub const REPLACE: u16 = 0x100;
    /// Only where there is none.
    pub const EXCL: u16 = 0x200;
    /// Makes it where there is none.
    pub const CREATE: u16 = 0x400;
    /// Comes after others.
    pub const APPEND: u16 = 0x800;
    /// Of the request only the header comes back.
    pub const CAPPED: u16 = 0x100;
    /// Attributes say more about an error.
    pub const ACK_TLVS: u16 = 0x200;
    /// The answer holds what was asked for only.
    pub const DUMP_FILTERED: u16 = 0x20;
}

/// Why a message is refused: the errno, and what `NETLINK_EXT_ACK` says besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NlError {
    /// The error.
    pub errno: Errno,
    /// `NLMSGERR_ATTR_MSG`: the kernel's text.
    pub text: Option<&'static str>,
}

impl From<Errno> for NlError {
    fn from(errno: Errno) -> NlError {
        NlError { errno, text: None }
    }
}

/// What serving a message gives.
pub type NlResult<T> = std::result::Result<T, NlError>;

impl Errno {
    /// With the text for `NETLINK_EXT_ACK`.
    pub(super) fn with(self, text: &'static str) -> NlError {
        NlError { errno: self, text: Some(text) }
    }
}

/// The attributes of a message, or of one of its attributes.
#[derive(Clone, Copy, Default)]
pub struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// Those in `bytes`. What is malformed ends the list, as `nla_parse_deprecated` has it.
    pub fn new(bytes: &'a [u8]) -> Attrs<'a> {
        Attrs(bytes)
    }

    /// All, in order.
    pub fn iter(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        /// `NLA_TYPE_MASK`: without the bits for nesting and byte order.
        const TYPE: u16 = 0x3fff;
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let header = rest.get(..4)?;
            let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE;
            if len < 4 || len > rest.len() {
                return None;
            }
            let payload = &rest[4..len];
            rest = &rest[len.next_multiple_of(4).min(rest.len())..];
            Some((kind, payload))
        })
    }

    /// The last of a type.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.iter().filter(|(known, _)| *known == kind).last().map(|(_, payload)| payload)
    }

    /// Whether there is one of the type.
    pub fn has(self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    /// The attributes in one.
    pub fn nested(self, kind: u16) -> Option<Attrs<'a>> {
        self.get(kind).map(Attrs)
    }

    fn fixed<const N: usize>(self, kind: u16) -> Result<Option<[u8; N]>> {
        let Some(payload) = self.get(kind) else { return Ok(None) };
        payload.first_chunk().copied().map(Some).ok_or(Errno::ERANGE)
    }

    /// A number of 8 bits.
    ///
    /// # Errors
    /// `ERANGE`, here and below: too short.
    pub fn u8(self, kind: u16) -> Result<Option<u8>> {
        Ok(self.fixed::<1>(kind)?.map(|[byte]| byte))
    }

    /// A number of 16 bits.
    pub fn u16(self, kind: u16) -> Result<Option<u16>> {
        Ok(self.fixed(kind)?.map(u16::from_ne_bytes))
    }

    /// A number of 32 bits.
    pub fn u32(self, kind: u16) -> Result<Option<u32>> {
        Ok(self.fixed(kind)?.map(u32::from_ne_bytes))
    }

    /// A signed number of 32 bits.
    pub fn i32(self, kind: u16) -> Result<Option<i32>> {
        Ok(self.fixed(kind)?.map(i32::from_ne_bytes))
    }

    /// A string: up to its NUL, if it has one.
    ///
    /// # Errors
    /// `ERANGE`: longer than `longest` bytes. `EINVAL`: not UTF-8, which names of devices are here.
    pub fn string(self, kind: u16, longest: usize) -> Result<Option<&'a str>> {
        let Some(payload) = self.get(kind) else { return Ok(None) };
        let text = payload.split(|&byte| byte == 0).next().unwrap_or_default();
        if text.len() > longest {
            return Err(Errno::ERANGE);
        }
        std::str::from_utf8(text).map(Some).map_err(|_| Errno::EINVAL)
    }

    /// An address of IPv4 or IPv6, by its length.
    ///
    /// # Errors
    /// `EINVAL`: neither.
    pub fn ip(self, kind: u16) -> Result<Option<IpAddr>> {
        let Some(payload) = self.get(kind) else { return Ok(None) };
        ip_of(payload).map(Some).ok_or(Errno::EINVAL)
    }

    /// An Ethernet address.
    ///
    /// # Errors
    /// `EINVAL`: of another length.
    pub fn mac(self, kind: u16) -> Result<Option<MacAddr>> {
        let Some(payload) = self.get(kind) else { return Ok(None) };
        payload.try_into().map(|bytes| Some(MacAddr(bytes))).map_err(|_| Errno::EINVAL)
    }
}

/// The address that 4 or 16 bytes are.
pub fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// A message that is being written.
pub struct Message(Vec<u8>);

impl Message {
    /// With its header and the fixed structure behind it.
    pub fn new(kind: u16, flags: u16, seq: u32, port: u32, fixed: &[u8]) -> Message {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(seq.to_ne_bytes());
        bytes.extend(port.to_ne_bytes());
        bytes.extend(fixed);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Message(bytes)
    }

    /// An attribute.
    pub fn put(&mut self, kind: u16, payload: &[u8]) {
        let len = 4 + payload.len().min(usize::from(u16::MAX) - 4);
        self.0.extend((len as u16).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(&payload[..len - 4]);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// An attribute of 8 bits.
    pub fn put_u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    /// An attribute of 16 bits.
    pub fn put_u16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// An attribute of 32 bits.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// An attribute of 64 bits.
    pub fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// A string, with its NUL.
    pub fn put_string(&mut self, kind: u16, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// An address.
    pub fn put_ip(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.put(kind, &address.octets()),
            IpAddr::V6(address) => self.put(kind, &address.octets()),
        }
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) {
        let start = self.0.len();
        self.put(kind, &[]);
        fill(self);
        let len = (self.0.len() - start).min(usize::from(u16::MAX)) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// Bytes without a header of their own.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Where the next byte goes, for [`Message::set_len`].
    pub fn here(&self) -> usize {
        self.0.len()
    }

    /// Writes the length of a structure that began at `start` and begins with its 16-bit length.
    pub fn set_len(&mut self, start: usize) {
        let len = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// The bytes, with the length in the header.
    pub fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0
    }
}
