//! The guest's own seccomp filters (`seccomp(2)`, `PR_SET_SECCOMP`).
//!
//! A filter is in force twice: natively, behind instructions that let the shim's own calls pass, and in the supervisor for the calls
//! that it serves. So the host kernel ends the process, or raises SIGSYS, for every call that comes to it; what remains to be done
//! here is to ask about a trapped call before it is served, unless the filters always allow it.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nomina_abi::{SLOT_DATA, SPAN_NULL, STRICT_KILL, TRAP_DATA, UNREADABLE, op};

use crate::area::Area;
use crate::frame::{SIGSYS_BIT, SigInfo, UContext};
use crate::lock::Lock;
use crate::marshal::Arena;
use crate::sighand::{SIGSYS, set_native_default};
use crate::signal::deliver_here;
use crate::slot::{data, out, request};
use crate::sys::{self, err, nr, sys};
use crate::uaccess::get_user;

const SECCOMP_SET_MODE_STRICT: u64 = 0;
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const SECCOMP_GET_ACTION_AVAIL: u64 = 2;
const SECCOMP_MODE_STRICT: u64 = 1;
const SECCOMP_MODE_FILTER: u64 = 2;

const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
/// Most that a filter can make an error number.
const MAX_ERRNO: i64 = 4095;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// `si_code` of a SIGSYS that a filter raised.
const SYS_SECCOMP: i32 = 1;

/// Size of a `struct sock_filter`.
const INSTRUCTION: u64 = 8;
/// Most instructions in one request.
const CHUNK: u64 = (SLOT_DATA as u64 - 64) / INSTRUCTION;
/// Room for the instructions that go before the program.
const BEFORE: u64 = 4096;
/// Bytes of the bitmap at the start of a reply.
const BITMAP: usize = 64;

/// Whether any thread of this address space has, or had, filters.
#[unsafe(link_section = ".bss.shared")]
static FILTERED: AtomicBool = AtomicBool::new(false);
/// The calls that not all of them always allow, a bit each.
static NOT_ALWAYS: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
/// One thread at a time installs a filter, so that model and host agree.
#[unsafe(link_section = ".bss.shared")]
static INSTALLING: Lock = Lock::new();

/// In a forked child: whoever was installing does not exist.
pub fn reset_lock() {
    INSTALLING.reset();
}

/// Takes note of filters: here, what they always allow.
pub fn note(always: &[u64; 8]) {
    if always.iter().any(|bits| *bits != u64::MAX) {
        for (bits, more) in NOT_ALWAYS.iter().zip(always) {
            bits.fetch_or(!*more, Ordering::Relaxed);
        }
        FILTERED.store(true, Ordering::Relaxed);
    }
}

/// Whether nothing has to be asked about a call.
#[inline(always)]
pub fn always_allows(number: u64) -> bool {
    !FILTERED.load(Ordering::Relaxed) || bit(number)
}

#[cold]
fn bit(number: u64) -> bool {
    let bits = NOT_ALWAYS.get(number as usize / 64);
    bits.is_some_and(|bits| bits.load(Ordering::Relaxed) & 1 << (number % 64) == 0)
}

/// Describes the guest's call to the supervisor, for as long as it is being served.
#[inline(always)]
pub fn claim(area: &Area, number: u64, args: &[u64; 6], instruction_pointer: u64) {
    let filtered = FILTERED.load(Ordering::Relaxed);
    area.claimed.set(filtered);
    if filtered {
        let [a, b, c, d, e, f] = *args;
        area.claim.set([number, a, b, c, d, e, f, instruction_pointer]);
    }
}

/// Asks about a call that has been claimed. `Some`: it is not made, and this is its result, or it has got a signal.
#[cold]
pub fn denied(area: &'static Area, context: &mut UContext, number: u64) -> Option<Denied> {
    if bit(number) {
        return None;
    }
    let said = request(area, op::SECCOMP_JUDGE, &[0; 6]);
    if said == STRICT_KILL {
        // The supervisor has ended the process, unless there are other threads.
        crate::clone::exit(area, 9);
    }
    if said < 0 {
        return Some(Denied::With(said));
    }
    let said = said as u32;
    match said & 0xffff_0000 {
        RET_ALLOW | RET_LOG => None,
        RET_ERRNO => Some(Denied::With(-i64::from(said & 0xffff).min(MAX_ERRNO))),
        // Nobody traces and nobody is notified.
        RET_TRACE | RET_USER_NOTIF => Some(Denied::With(err::ENOSYS)),
        RET_TRAP => {
            // It was not so when the call was made: another thread has installed the filter meanwhile.
            let address = context.mcontext.rip;
            trapped(area, context, &info_of(number, address, (said & 0xffff) as i32));
            Some(Denied::Signal)
        }
        // Killing, and what no kernel knows.
        _ => die(area),
    }
}

/// Why a call is not made.
pub enum Denied {
    /// With this result.
    With(i64),
    /// SIGSYS is delivered.
    Signal,
}

/// What is told of a call that a filter traps.
pub fn info_of(number: u64, address: u64, data: i32) -> SigInfo {
    let mut info = SigInfo::ZERO;
    info.set_sigsys(SYS_SECCOMP, data, address, number as i32, AUDIT_ARCH_X86_64);
    info
}

/// A filter of the guest's has raised SIGSYS (`force_sig_seccomp`): without a handler, or blocked, it ends the process.
pub fn trapped(area: &'static Area, context: &mut UContext, info: &SigInfo) {
    if !area.sighand().get(SIGSYS).is_caught() || area.blocks.get() & SIGSYS_BIT != 0 {
        die(area);
    }
    if area.trace.get() != 0 {
        // Its tracer is told first, at the end of the call.
        // SAFETY: only this thread uses it.
        unsafe { *area.pending_info.get() = *info };
        return area.pending.set(true);
    }
    deliver_here(area, context, info);
}

/// Ends the process by SIGSYS.
pub fn die(area: &Area) -> ! {
    crate::futex::exit_robust_lists(area);
    set_native_default(SIGSYS);
    // A call that the sandbox's filter traps.
    // SAFETY: takes no pointers.
    unsafe { sys!(nr::GETPID) };
    sys::exit_group(128 + SIGSYS)
}

/// Whether a trap is of the sandbox's filter.
pub fn is_ours(info: &SigInfo) -> bool {
    info.errno() == i32::from(TRAP_DATA)
}

/// `seccomp(2)`. `EINVAL` for unknown operations and flags, `EFAULT`, `EACCES` without `no_new_privs` and without
/// CAP_SYS_ADMIN, `ENOMEM` when the filters get too long, `ESRCH`, `EOPNOTSUPP`.
pub fn seccomp(area: &Area, operation: u64, flags: u64, at: u64) -> Result<i64, i64> {
    let flags = flags as u32 as u64;
    match operation as u32 as u64 {
        SECCOMP_SET_MODE_STRICT if flags == 0 && at == 0 => set_mode_strict(area),
        SECCOMP_SET_MODE_FILTER => set_mode_filter(area, flags, at),
        SECCOMP_GET_ACTION_AVAIL if flags == 0 => {
            let action = u64::from(get_user::<u32>(at)?);
            Ok(request(area, nr::SECCOMP as u32, &[operation, flags, action, 0, 0, 0]))
        }
        _ => Err(err::EINVAL),
    }
}

/// `prctl(PR_SET_SECCOMP)`. `EINVAL` for an unknown mode, otherwise as [`seccomp`].
pub fn prctl_set_seccomp(area: &Area, mode: u64, at: u64) -> Result<i64, i64> {
    match mode {
        SECCOMP_MODE_STRICT => set_mode_strict(area),
        SECCOMP_MODE_FILTER => set_mode_filter(area, 0, at),
        _ => Err(err::EINVAL),
    }
}

fn set_mode_strict(area: &Area) -> Result<i64, i64> {
    let program = Instructions::new(0)?;
    let _guard = INSTALLING.lock();
    let ret = request(area, op::SECCOMP_STRICT, &[0; 6]);
    if ret < 0 {
        return Err(ret);
    }
    program.install(area)
}

fn set_mode_filter(area: &Area, flags: u64, at: u64) -> Result<i64, i64> {
    // struct sock_fprog: a short, padding, a pointer.
    let (len, from) = match get_user::<[u64; 2]>(at) {
        Ok([len, from]) => (u64::from(len as u16), from),
        Err(_) => (UNREADABLE, 0),
    };
    let _guard = INSTALLING.lock();
    let ret = request(area, op::SECCOMP_LOAD, &[flags, len, 0, SPAN_NULL, 0, 0]);
    if ret < 0 {
        return Err(ret);
    }
    if from == 0 {
        return Err(err::EINVAL);
    }
    let program = Instructions::new(len)?;
    let mut brought = 0;
    while brought < len {
        let count = CHUNK.min(len - brought);
        let span = Arena::new(area).bytes(from + brought * INSTRUCTION, count * INSTRUCTION)?;
        program.put(area, brought, count);
        let ret = request(area, op::SECCOMP_LOAD, &[flags, len, brought, span, 0, 0]);
        if ret < 0 {
            return Err(ret);
        }
        brought += count;
        if brought == len && ret > 0 {
            // A thread that cannot be synchronised.
            return Ok(ret);
        }
    }
    program.install(area)?;
    let ret = request(area, op::SECCOMP_ATTACH, &[0; 6]);
    if ret < 0 { Err(ret) } else { Ok(0) }
}

/// A program in memory of its own, with room before it.
struct Instructions {
    at: u64,
    size: u64,
    len: u64,
}

impl Instructions {
    fn new(len: u64) -> Result<Instructions, i64> {
        let size = BEFORE + (len * INSTRUCTION).next_multiple_of(BEFORE);
        Ok(Instructions { at: sys::map_anonymous(size)?, size, len })
    }

    /// Copies instructions that stand at the start of the slot's data.
    fn put(&self, area: &Area, index: u64, count: u64) {
        let to = (self.at + BEFORE + index * INSTRUCTION) as *mut u8;
        // SAFETY: inside the slot's data, and inside the mapping.
        unsafe { core::ptr::copy_nonoverlapping(data(area), to, (count * INSTRUCTION) as usize) };
    }

    /// Installs the program natively, behind what the supervisor has just replied.
    fn install(&self, area: &Area) -> Result<i64, i64> {
        let before = out(area, 0).min(BEFORE / INSTRUCTION);
        let flags = out(area, 1);
        let mut always = [0u64; BITMAP / 8];
        let start = self.at + BEFORE - before * INSTRUCTION;
        // SAFETY: inside the slot's data, and inside the mapping.
        unsafe {
            core::ptr::copy_nonoverlapping(data(area), always.as_mut_ptr().cast(), BITMAP);
            let (from, bytes) = (data(area).add(BITMAP), (before * INSTRUCTION) as usize);
            core::ptr::copy_nonoverlapping(from, start as *mut u8, bytes);
        }
        let program = [before + self.len, start];
        // Before the filter is in force: other threads may be under it at once.
        note(&always);
        // SAFETY: the kernel reads the program.
        match unsafe { sys!(nr::SECCOMP, SECCOMP_SET_MODE_FILTER, flags, &raw const program) } {
            0 => Ok(0),
            error @ ..0 => Err(error),
            _ => Err(err::ESRCH),
        }
    }
}

impl Drop for Instructions {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { sys!(nr::MUNMAP, self.at, self.size) };
    }
}
