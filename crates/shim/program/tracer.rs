//! The tracer's side of `ptrace(2)`, `process_vm_readv(2)`, and waiting for tracees.

use core::sync::atomic::{AtomicU32, Ordering};

use nomina_abi::ptrace::mode;
use nomina_abi::{SLOT_DATA, SPAN_NULL, op, span};

use crate::area::Area;
use crate::marshal::{Arena, copy_out};
use crate::ptrace::{TRACER, set_mode};
use crate::slot::{out, request};
use crate::sys::{err, nr};
use crate::uaccess::{get_user, put_user};

const PTRACE_TRACEME: u64 = 0;
const PTRACE_SETREGS: u64 = 13;
const PTRACE_SETFPREGS: u64 = 15;
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SETSIGINFO: u64 = 0x4203;
const PTRACE_GETREGSET: u64 = 0x4204;
const PTRACE_SETREGSET: u64 = 0x4205;
const PTRACE_SEIZE: u64 = 0x4206;
const PTRACE_SETSIGMASK: u64 = 0x420b;

const WNOHANG: u64 = 1;
/// Most ranges of `process_vm_readv(2)` (`UIO_MAXIOV`).
const UIO_MAXIOV: u64 = 1024;
/// Most bytes of one request.
const CHUNK: u64 = SLOT_DATA as u64 & !4095;

/// `ptrace(2)`.
pub fn ptrace(area: &'static Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [what, pid, addr, at, ..] = *args;
    let mut iov = [at, 0u64];
    let reads = match what {
        PTRACE_SETREGS => 216,
        PTRACE_SETFPREGS => 512,
        PTRACE_SETSIGINFO => 128,
        PTRACE_SETSIGMASK => 8,
        PTRACE_GETREGSET | PTRACE_SETREGSET => {
            iov = get_user(at)?;
            if what == PTRACE_SETREGSET { iov[1].min(CHUNK) } else { 0 }
        }
        _ => 0,
    };
    let given = if reads == 0 { SPAN_NULL } else { Arena::new(area).bytes(iov[0], reads)? };
    let ret = request(area, nr::PTRACE as u32, &[what, pid, addr, at, given, 0]);
    if ret < 0 {
        return Err(ret);
    }
    let mut len = out(area, 0);
    match what {
        PTRACE_TRACEME => set_mode(area, mode::TRACED),
        PTRACE_ATTACH | PTRACE_SEIZE => TRACER.store(true, Ordering::Relaxed),
        PTRACE_GETREGSET => {
            len = len.min(iov[1]);
            copy_out(area, span(0, SLOT_DATA as u32), iov[0], len)?;
            put_user(at + 8, len)?;
        }
        PTRACE_SETREGSET => put_user(at + 8, len)?,
        _ if len != 0 => copy_out(area, span(0, SLOT_DATA as u32), at, len)?,
        _ => {}
    }
    Ok(ret)
}

/// What a tracee has told.
pub struct News {
    /// Its number.
    pub pid: i32,
    /// Its user.
    pub uid: i32,
    /// Its wait status.
    pub status: i32,
}

/// Asks for news of tracees, as `waitid(2)` names them. `None`: there are tracees, and the thread is called when there is news.
/// `ECHILD`: there is none.
pub fn wait(area: &Area, kind: u64, id: u64, options: u64) -> Result<Option<News>, i64> {
    if !TRACER.load(Ordering::Relaxed) {
        return Err(err::ECHILD);
    }
    crate::slot::ready(area);
    if options & WNOHANG == 0 {
        waits(area).store(1, Ordering::Release);
    }
    match request(area, op::PTRACE_WAIT, &[kind, id, options, 0, 0, 0]) {
        0 => Ok(None),
        error @ ..0 => Err(error),
        pid => Ok(Some(News { pid: pid as i32, uid: out(area, 1) as i32, status: out(area, 0) as i32 })),
    }
}

/// What tells the supervisor that the thread may be called.
fn waits(area: &Area) -> &AtomicU32 {
    // SAFETY: the slot is mapped as long as the process lives; the word is only used atomically.
    unsafe { AtomicU32::from_ptr((&raw mut (*area.slot.get()).notes.waits).cast()) }
}

/// After [`wait`], and what was waited for natively: the thread must not be called any more.
pub fn waited(area: &Area) {
    if TRACER.load(Ordering::Relaxed) && !area.slot.get().is_null() {
        waits(area).store(0, Ordering::Release);
    }
}

/// A list of ranges, taken piece by piece.
struct Ranges {
    list: u64,
    left: u64,
    at: u64,
    len: u64,
}

impl Ranges {
    fn new(list: u64, count: u64) -> Result<Ranges, i64> {
        if count > UIO_MAXIOV { Err(err::EINVAL) } else { Ok(Ranges { list, left: count, at: 0, len: 0 }) }
    }

    /// What is left of the present range. `None`: there is no more.
    fn present(&mut self) -> Result<Option<(u64, u64)>, i64> {
        while self.len == 0 {
            if self.left == 0 {
                return Ok(None);
            }
            [self.at, self.len] = get_user(self.list)?;
            self.list += 16;
            self.left -= 1;
        }
        Ok(Some((self.at, self.len)))
    }

    fn advance(&mut self, by: u64) {
        self.at = self.at.wrapping_add(by);
        self.len -= by;
    }
}

/// `process_vm_readv(2)` and `process_vm_writev(2)`. As many bytes as could be copied; an error only if there was none.
pub fn process_vm(area: &Area, number: u64, args: &[u64; 6]) -> Result<i64, i64> {
    let [pid, local, local_count, remote, remote_count, flags] = *args;
    if flags != 0 {
        return Err(err::EINVAL);
    }
    let (mut ours, mut theirs) = (Ranges::new(local, local_count)?, Ranges::new(remote, remote_count)?);
    let mut done = 0;
    while let (Some((to, room)), Some((from, len))) = (ours.present()?, theirs.present()?) {
        let len = room.min(len).min(CHUNK);
        let piece = if number == nr::PROCESS_VM_WRITEV {
            Arena::new(area).bytes(to, len).map(|given| [pid, from, len, given, 0, 0])
        } else {
            Ok([pid, from, len, 0, 0, 0])
        };
        let copied = piece.and_then(|ask| {
            let copied = request(area, number as u32, &ask);
            if copied < 0 {
                return Err(copied);
            }
            if number == nr::PROCESS_VM_READV {
                copy_out(area, span(0, SLOT_DATA as u32), to, copied as u64)?;
            }
            Ok(copied as u64)
        });
        match copied {
            Ok(copied) => {
                done += copied;
                ours.advance(copied);
                theirs.advance(copied);
                if copied < len {
                    break;
                }
            }
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done as i64)
}
