//! System calls whose service is "copy in, ask, copy out", driven by `nomina_abi::ARGS`.

use nomina_abi::{ARGS, FSCONFIG_SET_BINARY, Kind, MAX_HANDLE_SZ, SLOT_DATA, SPAN_NULL, span};

use crate::area::Area;
use crate::slot::{data, out};
use crate::sys::{err, nr};
use crate::uaccess::{copy_from_user, copy_to_user, get_user, put_user, strncpy_from_user};

/// Longest path with its NUL.
pub const PATH_MAX: usize = 4096;
/// Longest socket address that the kernel takes.
const SOCKADDR_MAX: u64 = 128;

/// Longest host name and domain name.
const NEW_UTS_LEN: u64 = 64;
/// Most supplementary groups.
const NGROUPS_MAX: u64 = 65536;

const NONE: u8 = u8::MAX;

/// Row of [`ARGS`] by system call number.
static ROW_OF: [u8; 512] = {
    let mut table = [NONE; 512];
    let mut at = 0;
    while at < ARGS.len() {
        table[ARGS[at].nr as usize] = at as u8;
        at += 1;
    }
    assert!(ARGS.len() < NONE as usize);
    table
};

/// The arguments of a system call, if it is one with generic arguments.
pub fn kinds(number: u64) -> Option<&'static [Kind]> {
    match ROW_OF.get(number as usize) {
        Some(&row) if row != NONE => Some(ARGS[row as usize].kinds),
        _ => None,
    }
}

/// Hands out the slot's data.
pub struct Arena {
    base: *mut u8,
    used: usize,
}

impl Arena {
    /// All of a thread's data.
    pub fn new(area: &Area) -> Arena {
        crate::slot::ready(area);
        Arena { base: data(area), used: 0 }
    }

    fn room(&self) -> usize {
        SLOT_DATA - self.used
    }

    fn take(&mut self, len: usize) -> Result<(usize, *mut u8), i64> {
        if len > self.room() {
            return Err(err::E2BIG);
        }
        let at = self.used;
        self.used = (at + len).next_multiple_of(8).min(SLOT_DATA);
        // SAFETY: inside the slot's data.
        Ok((at, unsafe { self.base.add(at) }))
    }

    /// Copies a string in. `ENAMETOOLONG` if it is longer than a path may be, `EFAULT` if it cannot be read.
    pub fn path(&mut self, from: u64) -> Result<u64, i64> {
        let max = self.room().min(PATH_MAX);
        // SAFETY: `max` bytes are left.
        let (at, to) = (self.used, unsafe { self.base.add(self.used) });
        // SAFETY: as above.
        let len = unsafe { strncpy_from_user(to, from, max)? };
        if len >= max {
            return Err(err::ENAMETOOLONG);
        }
        self.take(len)?;
        Ok(span(at as u32, len as u32))
    }

    /// Copies bytes in. `E2BIG` if they do not fit.
    pub fn bytes(&mut self, from: u64, len: u64) -> Result<u64, i64> {
        let len = usize::try_from(len).map_err(|_| err::E2BIG)?;
        let (at, to) = self.take(len)?;
        // SAFETY: `take` gave `len` bytes.
        unsafe { copy_from_user(to, from, len)? };
        Ok(span(at as u32, len as u32))
    }

    /// Copies a structure in, and zeros up to the size that a newer one has.
    pub fn padded(&mut self, from: u64, len: u64, size: usize) -> Result<u64, i64> {
        let (at, to) = self.take(size)?;
        let len = (len as usize).min(size);
        // SAFETY: `take` gave `size` bytes.
        unsafe {
            copy_from_user(to, from, len)?;
            core::ptr::write_bytes(to.add(len), 0, size - len);
        }
        Ok(span(at as u32, size as u32))
    }

    /// Copies what an array of `struct iovec` describes in, in one piece; `None` if that is more than `most` bytes. Gives its length,
    /// too.
    pub fn gather(&mut self, iov: u64, count: u64, most: usize) -> Result<(Option<u64>, u64), i64> {
        const IOV_MAX: u64 = 1024;
        if count > IOV_MAX {
            return Err(err::EMSGSIZE);
        }
        let at = |index: u64| get_user::<[u64; 2]>(iov + index * 16);
        let mut total = 0u64;
        for index in 0..count {
            total = total.saturating_add(at(index)?[1]);
        }
        if total > most.min(self.room()) as u64 {
            return Ok((None, total));
        }
        let (start, to) = self.take(total as usize)?;
        let mut done = 0;
        for index in 0..count {
            let [base, len] = at(index)?;
            // Another thread may have changed it.
            let len = (len as usize).min(total as usize - done);
            // SAFETY: `done + len` is at most what `take` gave.
            unsafe { copy_from_user(to.add(done), base, len)? };
            done += len;
        }
        Ok((Some(span(start as u32, total as u32)), total))
    }

    /// Leaves room for what the supervisor writes.
    /// Copies the instructions of a `struct sock_fprog`.
    pub fn filter(&mut self, from: u64) -> Result<u64, i64> {
        const INSTRUCTION: u64 = 8;
        let count: u16 = get_user(from)?;
        let at: u64 = get_user(from.wrapping_add(8))?;
        self.bytes(at, u64::from(count) * INSTRUCTION)
    }

    pub fn room_for(&mut self, len: u64) -> Result<u64, i64> {
        let len = (len as usize).min(self.room());
        let (at, _) = self.take(len)?;
        Ok(span(at as u32, len as u32))
    }
}

/// Copies a stretch of the slot's data to the guest.
pub fn copy_out(area: &Area, from: u64, to: u64, len: u64) -> Result<(), i64> {
    let (offset, room) = (from as u32 as usize, from >> 32);
    // SAFETY: spans are made by `Arena`, inside the data.
    unsafe { copy_to_user(to, data(area).add(offset), len.min(room) as usize) }
}

/// Serves a system call by its kinds.
pub fn generic(area: &Area, number: u64, kinds: &[Kind], guest: &[u64; 6]) -> Result<i64, i64> {
    if let Some(id) = area.own_id(number) {
        return Ok(id);
    }
    let mut arena = Arena::new(area);
    let mut args = *guest;
    for (index, kind) in kinds.iter().enumerate() {
        let pointer = guest[index];
        let null = pointer == 0;
        match *kind {
            Kind::V => {}
            Kind::PN | Kind::I(_) | Kind::O(_) | Kind::X(_) | Kind::B(_) | Kind::B4(_) | Kind::ID(_) | Kind::FV
                if null =>
            {
                args[index] = SPAN_NULL;
            }
            Kind::P | Kind::PN => args[index] = arena.path(pointer)?,
            Kind::I(len) | Kind::X(len) => args[index] = arena.bytes(pointer, u64::from(len))?,
            Kind::B(length) => {
                let len = guest[length as usize];
                let most = match number {
                    nr::CONNECT | nr::BIND => SOCKADDR_MAX,
                    nr::SETHOSTNAME | nr::SETDOMAINNAME => NEW_UTS_LEN,
                    _ => u64::MAX,
                };
                // These lengths are C ints.
                if most != u64::MAX && len as u32 as u64 > most {
                    return Err(err::EINVAL);
                }
                args[index] = arena.bytes(pointer, len)?;
            }
            Kind::B4(count) => {
                // A C int; the only call of this kind is `setgroups(2)`.
                let count = guest[count as usize] as u32 as u64;
                if count > NGROUPS_MAX {
                    return Err(err::EINVAL);
                }
                let bytes = count * 4;
                args[index] = arena.bytes(pointer, bytes)?;
            }
            Kind::O(len) => args[index] = arena.room_for(u64::from(len))?,
            Kind::OB(capacity) => {
                let wanted = guest[capacity as usize];
                // A negative int, as in `readlink(2)`, is the call's business.
                args[index] = arena.room_for(if wanted as i64 > 0 { wanted } else { 0 })?;
                args[capacity as usize] = if wanted as i64 > 0 { args[index] >> 32 } else { wanted };
            }
            Kind::O4(count) => {
                let wanted = guest[count as usize] as i32;
                args[index] = arena.room_for(u64::from(wanted.max(0) as u32) * 4)?;
                args[count as usize] =
                    if wanted > 0 { (args[index] >> 32) / 4 } else { wanted as i64 as u64 };
            }
            Kind::S(most) => {
                let size: u32 = get_user(pointer)?;
                args[index] = arena.bytes(pointer, u64::from(size.min(u32::from(most))))?;
            }
            Kind::O8(count) => {
                args[index] = arena.room_for(guest[count as usize].saturating_mul(8))?;
            }
            Kind::OL(capacity) => {
                args[index] = arena.room_for(guest[capacity as usize])?;
            }
            Kind::FH => {
                let announced: u32 = get_user(pointer)?;
                if announced > MAX_HANDLE_SZ {
                    return Err(err::EINVAL);
                }
                args[index] = arena.bytes(pointer, u64::from(announced) + 8)?;
            }
            Kind::ID(_) => args[index] = arena.room_for(8)?,
            Kind::FV if guest[1] as u32 == FSCONFIG_SET_BINARY => {
                args[index] = arena.bytes(pointer, u64::from((guest[4] as i32).max(0) as u32))?;
            }
            Kind::FV => args[index] = arena.path(pointer)?,
            Kind::A(length) => {
                let len: i32 = get_user(guest[length as usize])?;
                if len < 0 {
                    return Err(err::EINVAL);
                }
                args[index] = arena.room_for((len as u64).min(SOCKADDR_MAX))?;
                args[length as usize] = len as u64;
            }
        }
    }
    let ret = match crate::ahead::answer(area, number, &args) {
        Some(ret) => ret,
        None => crate::remembered::ask(area, number, &mut args, &mut arena),
    };
    give_back(area, kinds, guest, &args, ret)?;
    Ok(ret)
}

fn give_back(area: &Area, kinds: &[Kind], guest: &[u64; 6], args: &[u64; 6], ret: i64) -> Result<(), i64> {
    for (index, kind) in kinds.iter().enumerate() {
        let (from, to) = (args[index], guest[index]);
        match *kind {
            Kind::X(len) if from != SPAN_NULL => copy_out(area, from, to, u64::from(len))?,
            Kind::FH => copy_out(area, from, to, out(area, 0))?,
            // The size of a handle that does not fit comes with an error.
            Kind::ID(flags) if from != SPAN_NULL && out(area, 0) != 0 => {
                copy_out(area, from, to, if guest[flags as usize] & 1 != 0 { 8 } else { 4 })?;
            }
            _ if ret < 0 => {}
            Kind::O8(_) => copy_out(area, from, to, ret as u64 * 8)?,
            Kind::OL(_) => copy_out(area, from, to, out(area, 0))?,
            Kind::O(len) if from != SPAN_NULL => copy_out(area, from, to, u64::from(len))?,
            Kind::OB(_) => copy_out(area, from, to, ret as u64)?,
            Kind::O4(_) => copy_out(area, from, to, ret as u64 * 4)?,
            Kind::A(length) => {
                let full = out(area, 0);
                if to != 0 {
                    copy_out(area, from, to, full)?;
                }
                put_user(guest[length as usize], full as u32)?;
            }
            _ => {}
        }
    }
    Ok(())
}
