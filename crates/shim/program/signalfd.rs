//! `signalfd(2)`: a native descriptor, so that it is polled, inherited and closed natively, whose records are put right when they are read.
//!
//! The host's records tell host pids, and for what the supervisor sends the supervisor's codes. So a descriptor is *watched* from its
//! making on: a seccomp filter of the process's traps reading from that number, and copying it to another, which is then watched
//! as well. Other numbers are read natively; a `read(2)` in such a process takes some tens of nanoseconds more, as the filters have to
//! look at its argument. Filters are inherited by fork and exec, so all that have the descriptor from their makers watch it too.
//!
//! Where ours differs: who gets the descriptor by a message does not watch it; of records in a scattered `readv(2)` those that
//! stand in one piece are translated; nothing is watched beyond [`MOST`] numbers.

use core::sync::atomic::{AtomicU32, Ordering};

use nomina_abi::SHIM_BASE;

use crate::arch::shim_end;
use crate::area::Area;
use crate::frame::SigInfo;
use crate::masked::native_mask;
use crate::own_filter::{self, ARGS, Instruction, NR, RET_ALLOW, RET_ERRNO, TRAP, at_least, equal, load, ret};
use crate::signal::translate_info;
use crate::sys::{err, nr, sys};
use crate::uaccess::{get_user, put_user};
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
    let ret = restartable(window(area, area.guest_mask(), nr::READV, *args));
    let mut left = ret;
    for index in 0..args[2] {
        if left <= 0 {
            break;
        }
        let [base, len]: [u64; 2] = get_user(args[1] + index * 16)?;
        let here = left.min(len as i64);
        translate(area, args[0], base, here);
        left -= here;
    }
    Ok(ret)
}

fn restartable(ret: i64) -> i64 {
    if ret == err::EINTR { err::ERESTARTSYS } else { ret }
}

/// Translates the records that have been read to `at`, if they are any.
fn translate(area: &Area, fd: u64, at: u64, read: i64) {
    if read < RECORD as i64 || read as u64 % RECORD != 0 {
        return;
    }
    // A signalfd does not seek.
    // SAFETY: nothing is read.
    if unsafe { sys!(nr::PREAD64, fd, 0, 0, 0) } != err::ESPIPE {
        return;
    }
    for at in (at..at + read as u64).step_by(RECORD as usize) {
        let Ok(record) = get_user::<Record>(at) else { return };
        let (true, Some(translated)) = (record.is_plausible(), record.translated(area)) else { continue };
        if put_user(at, translated).is_err() {
            return;
        }
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
