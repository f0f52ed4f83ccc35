//! Access to guest memory that may be invalid.
//!
//! As in a kernel: the access is tried, and a fault (SIGSEGV, SIGBUS, which the shim always handles) becomes `EFAULT`.

use core::mem::MaybeUninit;

use crate::arch::{nomina_compare_exchange_user, nomina_copy_string, nomina_copy_user};
use crate::sys::err;

/// Copies `len` bytes from guest memory.
///
/// # Safety
/// `to` must be valid for writes of `len` bytes.
#[inline]
pub unsafe fn copy_from_user(to: *mut u8, from: u64, len: usize) -> Result<(), i64> {
    // SAFETY: a fault on the guest's side is caught; the other side is the caller's duty.
    check(unsafe { nomina_copy_user(to as u64, from, len as u64) })
}

/// Copies `len` bytes to guest memory.
///
/// # Safety
/// `from` must be valid for reads of `len` bytes. The guest's memory is the guest's: what it breaks there is its own.
#[inline]
pub unsafe fn copy_to_user(to: u64, from: *const u8, len: usize) -> Result<(), i64> {
    // SAFETY: as above.
    check(unsafe { nomina_copy_user(to, from as u64, len as u64) })
}

/// Copies a string without its NUL; `Ok(max)` means that no NUL was met.
///
/// # Safety
/// `to` must be valid for writes of `max` bytes.
#[inline]
pub unsafe fn strncpy_from_user(to: *mut u8, from: u64, max: usize) -> Result<usize, i64> {
    // SAFETY: as above.
    let len = unsafe { nomina_copy_string(to as u64, from, max as u64) };
    if len < 0 { Err(len) } else { Ok(len as usize) }
}

/// Reads a plain value.
#[inline]
pub fn get_user<T: Copy>(from: u64) -> Result<T, i64> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` has room; only integer structures are read, for which all bits are valid.
    unsafe {
        copy_from_user(value.as_mut_ptr().cast(), from, size_of::<T>())?;
        Ok(value.assume_init())
    }
}

/// Writes a plain value.
#[inline]
pub fn put_user<T: Copy>(to: u64, value: T) -> Result<(), i64> {
    // SAFETY: `value` is valid for its size.
    unsafe { copy_to_user(to, (&raw const value).cast(), size_of::<T>()) }
}

/// Writes a plain value unless the pointer is null.
#[inline]
pub fn put_user_opt<T: Copy>(to: u64, value: T) -> Result<(), i64> {
    if to == 0 { Ok(()) } else { put_user(to, value) }
}

/// Compare and exchange of a futex word; the value that was there.
pub fn compare_exchange_user(at: u64, expected: u32, new: u32) -> Result<u32, i64> {
    // SAFETY: faults are caught.
    let was = unsafe { nomina_compare_exchange_user(at, expected, new) };
    if was < 0 { Err(was) } else { Ok(was as u32) }
}

fn check(ret: i64) -> Result<(), i64> {
    if ret < 0 { Err(err::EFAULT) } else { Ok(()) }
}
