//! `execve(2)` and `execveat(2)`.
//!
//! The supervisor looks the file up and remembers it (`op::EXEC`); then the host kernel executes the shim's image, which asks
//! for it. The path given to the host is the empty string at a fixed address of the image.

use nomina_abi::{FD_SHIM, SHIM_BASE, op};

use crate::area::Area;
use crate::marshal::Arena;
use crate::sighand::across_exec;
use crate::slot::{data, exchange, out, request};
use crate::sys::{self, err, nr, sys};
use crate::uaccess::get_user;
use crate::window::window;

const AT_EMPTY_PATH: u64 = 0x1000;
const AT_FDCWD: i64 = -100;
/// A NUL in the padding of the image's ELF header: the empty string.
const EMPTY_PATH: u64 = SHIM_BASE + 9;
/// Longest argument list in strings; the host kernel has its own limit in bytes.
const MAX_ARGS: u64 = 1 << 22;

/// `execve(2)`.
pub fn execve(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    execveat(area, &[AT_FDCWD as u64, args[0], args[1], args[2], 0, 0])
}

/// `execveat(2)`. Returns only on failure; a signal that comes first is handled, and the call is made again.
pub fn execveat(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let borrowed = area.borrowed.get();
    if !area.slot.get().is_null() || borrowed.is_null() || args[0] as i32 != AT_FDCWD as i32 {
        return exec(area, args);
    }
    // A forked process that execs at once needs neither region nor, unless it names a descriptor, a socket of its own.
    area.slot.set(borrowed);
    let failed = exec(area, args);
    area.slot.set(core::ptr::null_mut());
    if failed != Err(err::ESTALE) {
        return failed;
    }
    crate::slot::introduce(area);
    exec(area, args)
}

fn exec(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [dir, path, argv, envp, flags, _] = *args;
    let path = Arena::new(area).path(path)?;
    let ignored = if area.sighand().is_unkillable() { area.sighand().ignored() } else { 0 };
    let ret = request(area, op::EXEC, &[dir, path, flags, ignored, 0, 0]);
    if ret < 0 {
        return Err(ret);
    }
    let strings = out(area, 0);
    let error = match script_arguments(area, strings, argv) {
        Ok((list, scratch)) => {
            area.exec_scratch.set(scratch);
            let call = [FD_SHIM as u64, EMPTY_PATH, list, envp, AT_EMPTY_PATH, 0];
            let error = across_exec(area, || window(area, area.guest_mask(), nr::EXECVEAT, call));
            area.exec_scratch.set((0, 0));
            free(scratch);
            error
        }
        Err(error) => error,
    };
    exchange(area, op::EXEC_FAILED, &[0; 6]);
    // A signal came before: as if it had come before the call.
    Err(if error == err::ERESTARTSYS { err::ERESTARTNOINTR } else { error })
}

/// For a script: the argument list with the interpreter's strings in place of `argv[0]`, in memory of its own.
fn script_arguments(area: &Area, strings: u64, argv: u64) -> Result<(u64, (u64, u64)), i64> {
    if strings == 0 {
        return Ok((argv, (0, 0)));
    }
    let mut count = 0;
    while argv != 0 && get_user::<u64>(argv + count * 8)? != 0 {
        count += 1;
        if count > MAX_ARGS {
            return Err(err::E2BIG);
        }
    }
    let kept = count.saturating_sub(1);
    let table_len = (strings + kept + 1) * 8;
    let text_len = text_len(area, strings);
    let len = (table_len + text_len).next_multiple_of(4096);
    let at = sys::map_anonymous(len)?;
    let scratch = (at, len);
    // SAFETY: the mapping holds the table and the text behind it.
    unsafe {
        let table = at as *mut u64;
        let text = (at + table_len) as *mut u8;
        core::ptr::copy_nonoverlapping(data(area), text, text_len as usize);
        let mut string = text;
        for index in 0..strings {
            *table.add(index as usize) = string as u64;
            while *string != 0 {
                string = string.add(1);
            }
            string = string.add(1);
        }
        for index in 0..kept {
            match get_user::<u64>(argv + (index + 1) * 8) {
                Ok(pointer) => *table.add((strings + index) as usize) = pointer,
                Err(error) => {
                    free(scratch);
                    return Err(error);
                }
            }
        }
    }
    Ok((at, scratch))
}

/// Length of so many NUL-terminated strings in the slot's data.
fn text_len(area: &Area, strings: u64) -> u64 {
    let mut left = strings;
    let mut len = 0;
    while left > 0 && len < nomina_abi::SLOT_DATA {
        // SAFETY: inside the data.
        if unsafe { data(area).add(len).read_volatile() } == 0 {
            left -= 1;
        }
        len += 1;
    }
    // Room for a NUL that the supervisor may have left out at the very end.
    len as u64 + left
}

fn free((at, len): (u64, u64)) {
    if len != 0 {
        // SAFETY: made by `script_arguments`.
        unsafe { sys!(nr::MUNMAP, at, len) };
    }
}
