//! `signalfd(2)`: a native descriptor, so that it is polled, inherited and closed natively, whose records are put right when they are read.
//!
//! The host's records tell host pids, and for what the supervisor sends the supervisor's codes. So a descriptor is *watched* from its
//! making on: a seccomp filter of the process's traps reading from that number, and copying it to another, which is then watched
//! as well. Other numbers are read natively; a `read(2)` in such a process takes some tens of nanoseconds more, as the filters have to
//! look at its argument. Filters are inherited by fork and exec, so all that have the descriptor from their makers watch it too; who gets
//! it by a message watches it from then on.
//!
//! Where ours differs: nothing is watched beyond [`MOST`] numbers, nor what a process has by `pidfd_getfd(2)`.

use core::sync::atomic::{AtomicU32, Ordering};

use nomina_abi::{SHIM_BASE, op};

use crate::arch::shim_end;
use crate::area::Area;
use crate::frame::SigInfo;
use crate::masked::native_mask;
use crate::own_filter::{self, ARGS, Instruction, NR, RET_ALLOW, RET_ERRNO, TRAP, at_least, equal, load, ret};
use crate::seccomp;
use crate::signal::translate_info;
use crate::slot::request;
use crate::sys::{err, nr, sys};
use crate::uaccess::{copy_from_user, copy_to_user, get_user, put_user};
use crate::window::window;

/// Most numbers that are watched.
const MOST: u32 = 32;
const F_DUPFD: u32 = 0;
const F_DUPFD_CLOEXEC: u32 = 1030;
/// What tells the probe of [`is_watched`] from a call of the guest's, and what the filter answers.
const PROBE: u32 = 0x7369_6766;
const WATCHED: i64 = -117;
/// Size of a `struct signalfd_siginfo`.
const RECORD: u64 = 128;
/// Of `struct stat`: its size, and where the mode is.
const STAT_SIZE: usize = 144;
const ST_MODE: usize = 24;
const S_IFMT: u32 = 0o170_000;

/// How many numbers have been watched.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// `signalfd(2)` and `signalfd4(2)`. Those of the manual page.
pub fn signalfd(number: u64, fd: u64, set: u64, size: u64, flags: u64) -> Result<i64, i64> {
    if size != 8 {
        return Err(err::EINVAL);
    }
    let set = native_mask(get_user(set)?);
    // SAFETY: the kernel reads the set.
    let fd = unsafe { sys!(number, fd, &raw const set, 8, flags) };
    if fd >= 0 {
        watch(fd as u32);
    }
    Ok(fd)
}

/// `dup(2)` and its like have made `copy` of `fd`.
pub fn duplicated(fd: u64, copy: i64) {
    if copy >= 0 && is_watched(fd as u32) {
        watch(copy as u32);
    }
}

/// `read(2)` from a watched number.
pub fn read(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let ret = restartable(window(area, area.guest_mask(), nr::READ, *args));
    translate(area, args[0], args[1], ret);
    Ok(ret)
}

/// `readv(2)` from a watched number.
pub fn readv(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [fd, iov, count, ..] = *args;
    let ret = restartable(window(area, area.guest_mask(), nr::READV, *args));
    if may_be_records(fd, ret) {
        for offset in (0..ret as u64).step_by(RECORD as usize) {
            let mut bytes = [0u8; RECORD as usize];
            scattered(iov, count, offset, |at, here| {
                // SAFETY: `here` is a range of the bytes of one record.
                unsafe { copy_from_user(bytes[here.clone()].as_mut_ptr(), at, here.len()) }
            })?;
            // SAFETY: as many bytes, of which all are valid.
            let record: Record = unsafe { core::mem::transmute(bytes) };
            let Some(translated) = record.translated(area) else { continue };
            // SAFETY: as above.
            bytes = unsafe { core::mem::transmute::<Record, [u8; RECORD as usize]>(translated) };
            scattered(iov, count, offset, |at, here| {
                // SAFETY: as above.
                unsafe { copy_to_user(at, bytes[here.clone()].as_ptr(), here.len()) }
            })?;
        }
    }
    Ok(ret)
}

/// Calls `with` for each piece of the record at `offset` of what was scattered: where it is, and which part of the record.
fn scattered(
    iov: u64,
    count: u64,
    offset: u64,
    mut with: impl FnMut(u64, core::ops::Range<usize>) -> Result<(), i64>,
) -> Result<(), i64> {
    let end = offset + RECORD;
    let mut from = 0;
    for index in 0..count {
        let [base, len]: [u64; 2] = get_user(iov + index * 16)?;
        let (start, stop) = (from.max(offset), from.saturating_add(len).min(end));
        if start < stop {
            with(base + (start - from), (start - offset) as usize..(stop - offset) as usize)?;
        }
        from = from.saturating_add(len);
        if from >= end {
            break;
        }
    }
    Ok(())
}

fn restartable(ret: i64) -> i64 {
    if ret == err::EINTR { err::ERESTARTSYS } else { ret }
}

/// Whether what has been read from a watched number may be records: a signalfd does not seek.
fn may_be_records(fd: u64, read: i64) -> bool {
    // SAFETY: nothing is read.
    read >= RECORD as i64 && read as u64 % RECORD == 0 && unsafe { sys!(nr::PREAD64, fd, 0, 0, 0) } == err::ESPIPE
}

/// Translates the records that have been read to `at`, if they are any.
fn translate(area: &Area, fd: u64, at: u64, read: i64) {
    if !may_be_records(fd, read) {
        return;
    }
    for at in (at..at + read as u64).step_by(RECORD as usize) {
        let Ok(record) = get_user::<Record>(at) else { return };
        let Some(translated) = record.translated(area) else { continue };
        if put_user(at, translated).is_err() {
            return;
        }
    }
}

/// A descriptor has come by a message.
pub fn received(area: &Area, fd: i32) {
    // Files without a name have no type. What the host says of the others is enough, if it may be asked.
    if seccomp::always_allows(nr::FSTAT) {
        let mut stat = [0u64; STAT_SIZE / 8];
        // SAFETY: the kernel writes the structure.
        let known = unsafe { sys!(nr::FSTAT, fd, stat.as_mut_ptr()) } == 0;
        if known && stat[ST_MODE / 8] as u32 & S_IFMT != 0 {
            return;
        }
    }
    if request(area, op::SIGNALFD, &[fd as u64, 0, 0, 0, 0, 0]) == 1 {
        watch(fd as u32);
    }
}

/// `struct signalfd_siginfo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Record {
    signo: u32,
    errno: i32,
    code: i32,
    pid: u32,
    uid: u32,
    fd: i32,
    tid: u32,
    band: u32,
    overrun: u32,
    trapno: u32,
    status: i32,
    int: i32,
    ptr: u64,
    times: [u64; 3],
    rest: [u32; 12],
}

const _: () = assert!(size_of::<Record>() as u64 == RECORD);

impl Record {
    /// Whether it is one: other descriptors that do not seek may have the number by now.
    fn is_plausible(&self) -> bool {
        const SIGNALS: u32 = 64;
        (1..=SIGNALS).contains(&self.signo) && self.errno == 0 && self.rest[5..] == [0; 7]
    }

    /// As the guest must see it; `None` if as it is.
    fn translated(mut self, area: &Area) -> Option<Record> {
        if !self.is_plausible() {
            return None;
        }
        let mut info = SigInfo::ZERO;
        info.set_signo(self.signo as i32);
        info.set_code(self.code);
        info.set_pid(self.pid as i32);
        info.set_uid(self.uid as i32);
        info.set_value(self.ptr);
        translate_info(area, &mut info);
        let carried = info.code() != self.code;
        if !carried && info.pid() as u32 == self.pid {
            return None;
        }
        self.code = info.code();
        self.pid = info.pid() as u32;
        self.uid = info.uid() as u32;
        if carried {
            // What the supervisor had to say is not the sender's.
            (self.int, self.ptr) = (0, 0);
            if self.code > 0 {
                self.status = info.value();
            }
        }
        Some(self)
    }
}

/// The filter for a number: traps what reads from it or copies it, except from the shim's text, and answers the probe.
fn program(fd: u32) -> [Instruction; 26] {
    use own_filter::IP;
    [
        load(NR),
        equal(nr::READ as u32, 9, 0),
        equal(nr::READV as u32, 8, 0),
        equal(nr::DUP as u32, 7, 0),
        equal(nr::DUP2 as u32, 6, 0),
        equal(nr::DUP3 as u32, 5, 0),
        equal(nr::PREAD64 as u32, 10, 0),
        equal(nr::FCNTL as u32, 0, 15),
        load(ARGS + 8),
        equal(F_DUPFD, 1, 0),
        equal(F_DUPFD_CLOEXEC, 0, 12),
        // 11: is it this number, and not the shim that calls?
        load(ARGS),
        equal(fd, 0, 10),
        load(IP + 4),
        equal((SHIM_BASE >> 32) as u32, 0, 9),
        load(IP),
        at_least(shim_end() as u32, 7, 6),
        // 17: is it the probe of this number?
        load(ARGS),
        equal(fd, 0, 4),
        load(ARGS + 8),
        equal(PROBE, 0, 2),
        load(ARGS + 16),
        equal(0, 2, 0),
        // 23
        ret(RET_ALLOW),
        ret(TRAP),
        ret(RET_ERRNO | WATCHED.unsigned_abs() as u32),
    ]
}

/// Whether a filter of [`watch`]'s for the number is in force for the calling thread.
fn is_watched(fd: u32) -> bool {
    // SAFETY: nothing is read.
    unsafe { sys!(nr::PREAD64, fd, PROBE, 0, 0) == WATCHED }
}

/// Has reading from a number trap, in all threads if they have the same filters.
fn watch(fd: u32) {
    if !is_watched(fd) && COUNT.fetch_add(1, Ordering::Relaxed) < MOST {
        own_filter::install(&program(fd));
    }
}
