//! Call sites that are rewritten, so that a system call that is made often needs no trap.
//!
//! A trap (SIGSYS and the return from it) costs more than the request it carries. So the instruction before a `syscall` that has
//! trapped often enough (`mov $NR,%eax` in most libraries) is replaced by a jump to a *trampoline* near by, which does
//! what that instruction did and goes on to the shim (`arch`, `nomina_patched`) instead of to the kernel:
//!
//! ```text
//! site:  mov $NR,%eax        site:  jmp trampoline        trampoline:  mov $NR,%eax
//!        syscall                    syscall                            lea site+7(%rip),%rcx
//!                                                                      jmp nomina_patched
//! ```
//!
//! One instruction is replaced by one of the same length, and `syscall` stays where it is. A thread is therefore always either
//! before or behind what changes, whoever jumps to the `syscall` still traps, and whatever the shim cannot do without a
//! signal frame (blocking, signals, new threads) it does by jumping there. `rcx` and `r11` are the kernel's to
//! destroy, so nothing of the guest is lost; its stack, its red zone included, is not touched.
//!
//! A signal in a trampoline or behind it is one in the shim (`signal::arrived`): it is delivered when the call ends. The shim
//! finds its area by the base of `gs`, which 64-bit programs do not use. Where one does (Wine), the area's mark is not found and
//! the call traps.
//!
//! Rewriting costs a process two `mprotect` calls and a private copy of the page, so it is done for a site only when that has
//! trapped as often as [`AFTER`] says. Only private mappings of files are rewritten. A process that forbids writable text
//! (`PR_SET_MDWE`), or whose host does, goes on trapping.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use nomina_abi::op;

use crate::arch::{nomina_patched, patched_leave, patched_probe, set_gs_base, store_code, trampoline};
use crate::area::{Area, Patched, THREADED};
use crate::frame::{FAULT_BITS, UContext};
use crate::lock::Lock;
use crate::slot::{out, request};
use crate::sys::{
    self, MAP_ANONYMOUS, MAP_FIXED_NOREPLACE, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE, err, nr, sys,
};
use crate::uaccess::get_user;

/// After how many traps a site is rewritten; 0: never. Set at the start, cleared when rewriting turns out to be impossible.
#[unsafe(link_section = ".bss.shared")]
static AFTER: AtomicU32 = AtomicU32::new(0);
/// Threads set the base of `gs`. For the life of the image: sites that are rewritten stay so when [`AFTER`] is cleared, and a thread
/// that did not set it would work on its maker's area.
#[unsafe(link_section = ".bss.shared")]
static SETS_GS: AtomicBool = AtomicBool::new(false);
/// Only one thread rewrites at a time; others leave it.
#[unsafe(link_section = ".bss.shared")]
static BUSY: Lock = Lock::new();

const PAGE: u64 = 4096;
/// Length of the instruction that is replaced.
const MOV: u64 = 5;
/// Length of what stands at a site: that instruction, and `syscall`.
const SITE: u64 = 7;
/// Bytes of a page of trampolines before the first of them: the address they all jump to.
const HEADER: u64 = 8;
/// Bytes of a trampoline.
const TRAMPOLINE: u64 = 24;
/// How far a jump reaches, with room to spare.
const REACH: u64 = 0x7fff_0000;
/// Most pages of trampolines: one for each library whose calls are rewritten, or more.
const PAGES: usize = 32;

/// A page of trampolines. Written with [`BUSY`] held.
struct Page {
    at: AtomicU64,
    used: AtomicU64,
}

static TABLE: [Page; PAGES] = [const { Page { at: AtomicU64::new(0), used: AtomicU64::new(0) } }; PAGES];
#[unsafe(link_section = ".bss.shared")]
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// What one thread knows of the sites that trap: the low half of the address behind each, and how often it has trapped.
pub struct Traps(UnsafeCell<[(u32, u32); 32]>);

impl Traps {
    /// Counts a trap. Sites share entries; whichever comes last has it.
    fn count(&self, behind: u64) -> u32 {
        let index = (behind ^ behind >> 5) as usize % 32;
        // SAFETY: only the area's thread gets here, one call at a time.
        let entry = unsafe { &mut (&mut *self.0.get())[index] };
        if entry.0 != behind as u32 {
            *entry = (behind as u32, 0);
        }
        entry.1 = entry.1.saturating_add(1);
        entry.1
    }
}

/// Prepares a new image: after `after` traps a site is rewritten, if the processor can tell the shim's area.
pub fn start(area: &Area, after: u32, can_set_gs: bool) {
    if after != 0 && can_set_gs {
        AFTER.store(after, Ordering::Relaxed);
        SETS_GS.store(true, Ordering::Relaxed);
        begin_thread(area);
    }
}

/// Lets a thread find its area without a signal frame.
pub fn begin_thread(area: &Area) {
    if SETS_GS.load(Ordering::Relaxed) {
        // SAFETY: the processor has the instruction, or `SETS_GS` would be false.
        unsafe { set_gs_base(area.state()) };
    }
}

/// In a forked child: whoever was rewriting does not exist.
pub fn reset_lock() {
    BUSY.reset();
}

/// Puts back what stood at all rewritten sites, and rewrites no more: a tracer must see the program as it is. Threads that are in a
/// trampoline go on there.
pub fn undo() {
    AFTER.store(0, Ordering::Relaxed);
    let Some(_guard) = BUSY.try_lock() else { return };
    let count = COUNT.load(Ordering::Acquire).min(PAGES);
    for page in &TABLE[..count] {
        let (at, used) = (page.at.load(Ordering::Relaxed), page.used.load(Ordering::Relaxed));
        for trampoline in (0..used).map(|index| at + HEADER + index * TRAMPOLINE) {
            // Whatever does not work leaves the site as it is.
            let _ = restore(trampoline);
        }
    }
}

fn restore(trampoline: u64) -> Result<(), i64> {
    let code: [u8; 12] = get_user(trampoline)?;
    let back = i32::from_le_bytes([code[8], code[9], code[10], code[11]]);
    let site = (trampoline + 12).wrapping_add_signed(back.into()) - SITE;
    let mut jump = [0xe9, 0, 0, 0, 0];
    jump[1..].copy_from_slice(&distance(site + MOV, trampoline)?);
    let word = if site & 7 <= 8 - MOV { site & !7 } else { site };
    let old: [u8; 8] = get_user(word)?;
    let from = (site - word) as usize;
    if old[from..from + MOV as usize] != jump {
        return Err(err::EAGAIN);
    }
    let mut new = old;
    new[from..from + MOV as usize].copy_from_slice(&code[..MOV as usize]);
    with_writable(word, 8, || {
        // SAFETY: as when the site was rewritten.
        unsafe { store_code(word, u64::from_le_bytes(old), u64::from_le_bytes(new)) }
    })
}

/// Whether an address is in a page of trampolines.
pub fn in_trampoline(rip: u64) -> bool {
    let count = COUNT.load(Ordering::Acquire).min(PAGES);
    TABLE[..count].iter().any(|page| rip.wrapping_sub(page.at.load(Ordering::Relaxed)) < PAGE)
}

/// Serves a call that came by a trampoline. False: it needs a signal frame.
pub extern "C" fn patched_call(call: &mut Patched) -> bool {
    let area = Area::current();
    if !crate::seccomp::always_allows(call.number) {
        // The host kernel judges it first.
        return false;
    }
    crate::seccomp::claim(area, call.number, &call.args, call.back);
    // A fault that is blocked would kill instead of giving `EFAULT`.
    area.patched.set(true);
    let blocked = area.mask.get() & FAULT_BITS;
    if blocked != 0 {
        sys::unblock(blocked);
    }
    let result = crate::trap::without_frame(area, call.number, &call.args);
    crate::written::acknowledge(area);
    if blocked != 0 {
        sys::block(blocked);
    }
    area.patched.set(false);
    let (Ok(result) | Err(result)) = result;
    call.result = result;
    result != err::NEEDS_FRAME
}

/// A signal came when a call that came by a trampoline was over and its registers were being restored: restores them. False: the
/// address is not there.
pub fn complete(area: &Area, context: &mut UContext) -> bool {
    let registers = &mut context.mcontext;
    if !patched_leave().contains(&registers.rip) {
        return false;
    }
    let call = area.patched_frame();
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = call.args;
    registers.eflags = call.merge_flags(registers.eflags);
    registers.rcx = call.back;
    registers.rip = call.back;
    registers.rax = call.result as u64;
    registers.rsp = area.guest_sp.get();
    true
}

/// A fault: if it is the look for the area's mark, there is no area, and the call traps. False: it is something else.
pub fn without_area(context: &mut UContext) -> bool {
    let registers = &mut context.mcontext;
    if registers.rip != patched_probe() {
        return false;
    }
    registers.eflags = Patched::flags_of(registers.rax, registers.eflags);
    registers.rax = registers.r11;
    registers.rip = registers.rcx - 2;
    true
}

/// Takes note of a trap, and rewrites its site when it has been the one too many.
pub fn trapped(area: &Area, context: &UContext, number: u64) {
    let after = AFTER.load(Ordering::Relaxed);
    if after == 0 || area.traps.count(context.mcontext.rip) != after
        || !crate::trap::needs_no_frame(number)
        || !crate::seccomp::always_allows(number)
    {
        return;
    }
    let Some(_guard) = BUSY.try_lock() else { return };
    if let Some(site) = Site::at(context, number) {
        // Whatever does not work leaves the site as it is.
        let _ = site.rewrite(area);
    }
}

/// A place that can be rewritten.
struct Site {
    at: u64,
    bytes: [u8; 8],
}

impl Site {
    /// What stands before the `syscall` that has just trapped, if it is an instruction of the right length that can be moved.
    ///
    /// Instructions cannot be read backwards with certainty, so what the bytes seem to say must agree with the registers.
    fn at(context: &UContext, number: u64) -> Option<Site> {
        let registers = &context.mcontext;
        let at = registers.rip.wrapping_sub(SITE);
        let before: u8 = get_user(at - 1).ok()?;
        let bytes: [u8; 8] = get_user(at).ok()?;
        if bytes[5..7] != [0x0f, 0x05] {
            return None;
        }
        let immediate = u64::from(u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]));
        let prefixed = before & 0xf0 == 0x40;
        let agrees = match bytes[0] {
            0xb8 => !prefixed && immediate == number,
            0xba => !prefixed && immediate == registers.rdx,
            0xbe => !prefixed && immediate == registers.rsi,
            0xbf => !prefixed && immediate == registers.rdi,
            // mov 8(%rsp),%r9, as in `syscall(3)`.
            0x4c => {
                bytes[1..5] == [0x8b, 0x4c, 0x24, 0x08] && get_user(registers.rsp + 8) == Ok(registers.r9)
            }
            _ => false,
        };
        agrees.then_some(Site { at, bytes })
    }

    fn rewrite(&self, area: &Area) -> Result<(), i64> {
        let ret = request(area, op::TEXT, &[self.at, 0, 0, 0, 0, 0]);
        if ret < 0 {
            return Err(ret);
        }
        let text = out(area, 0)..out(area, 1);
        // The eight bytes that are written at once.
        let in_word = self.at & 7 <= 8 - MOV;
        let word = if in_word { self.at & !7 } else { self.at };
        if !text.contains(&word) || !text.contains(&(word + 7)) {
            return Err(err::EINVAL);
        }
        // The word is aligned, so every processor sees it change at once; or nobody else is there to see it. (Not across cache
        // lines: such a locked access stops the whole machine.)
        // Who has made a process in this memory by vfork(2) waits for it.
        let alone = !THREADED.load(Ordering::Relaxed);
        if !in_word && (!alone || word % 64 > 56) {
            return Err(err::EAGAIN);
        }
        let trampoline = self.trampoline(text.start)?;
        let mut jump = [0xe9, 0, 0, 0, 0];
        jump[1..].copy_from_slice(&distance(self.at + MOV, trampoline)?);
        let old: [u8; 8] = get_user(word)?;
        let mut new = old;
        let from = (self.at - word) as usize;
        new[from..from + MOV as usize].copy_from_slice(&jump);
        if old[from..from + MOV as usize] != self.bytes[..MOV as usize] {
            return Err(err::EAGAIN);
        }
        with_writable(word, 8, || {
            // SAFETY: the mapping is private, so only this process sees it; a fault is caught.
            unsafe { store_code(word, u64::from_le_bytes(old), u64::from_le_bytes(new)) }
        })
    }

    /// Makes the trampoline for the site.
    fn trampoline(&self, text: u64) -> Result<u64, i64> {
        let (page, used) = page_near(self.at, text)?;
        let at = page + HEADER + used * TRAMPOLINE;
        let code = trampoline(&self.bytes, distance(at + 12, self.at + SITE)?, distance(at + 18, page)?);
        with_writable(at, TRAMPOLINE, || {
            // SAFETY: a place in our own page that nobody uses yet.
            unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), at as *mut u8, code.len()) };
            0
        })?;
        Ok(at)
    }
}

fn distance(from: u64, to: u64) -> Result<[u8; 4], i64> {
    i32::try_from(to.wrapping_sub(from) as i64).map(i32::to_le_bytes).map_err(|_| err::EINVAL)
}

/// Runs `what` while text is writable. It stays executable: other threads may be in it.
fn with_writable(at: u64, len: u64, what: impl FnOnce() -> i64) -> Result<(), i64> {
    let start = at & !(PAGE - 1);
    let len = (at + len).next_multiple_of(PAGE) - start;
    // SAFETY: adds a permission to private text, and takes it away again.
    unsafe {
        let ret = sys!(nr::MPROTECT, start, len, PROT_READ | PROT_WRITE | PROT_EXEC);
        if ret < 0 {
            // Forbidden here; it will not be allowed for the next site.
            AFTER.store(0, Ordering::Relaxed);
            return Err(ret);
        }
        let ret = what();
        sys!(nr::MPROTECT, start, len, PROT_READ | PROT_EXEC);
        if ret < 0 { Err(ret) } else { Ok(()) }
    }
}

/// A page of trampolines with room in it that a jump at `site` reaches, and how many are in use, the new one not counted.
fn page_near(site: u64, text: u64) -> Result<(u64, u64), i64> {
    let near = |at: u64| at.abs_diff(site) < REACH;
    let count = COUNT.load(Ordering::Relaxed);
    for page in &TABLE[..count] {
        let (at, used) = (page.at.load(Ordering::Relaxed), page.used.load(Ordering::Relaxed));
        if near(at) && HEADER + (used + 1) * TRAMPOLINE <= PAGE {
            page.used.store(used + 1, Ordering::Relaxed);
            return Ok((at, used));
        }
    }
    if count == PAGES {
        return Err(err::ENOMEM);
    }
    let at = map_near(text, near)?;
    // SAFETY: a new page of our own.
    unsafe {
        (at as *mut u64).write(nomina_patched as *const () as u64);
        let ret = sys!(nr::MPROTECT, at, PAGE, PROT_READ | PROT_EXEC);
        if ret < 0 {
            sys!(nr::MUNMAP, at, PAGE);
            AFTER.store(0, Ordering::Relaxed);
            return Err(ret);
        }
    }
    TABLE[count].at.store(at, Ordering::Relaxed);
    TABLE[count].used.store(1, Ordering::Relaxed);
    COUNT.store(count + 1, Ordering::Release);
    Ok((at, 0))
}

/// Maps a page near: where the host would put a library, or else below the text (behind it may be the heap).
fn map_near(text: u64, near: impl Fn(u64) -> bool) -> Result<u64, i64> {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    let map = |hint: u64, flags: u64| {
        // SAFETY: a new mapping where nothing is.
        unsafe { sys!(nr::MMAP, hint, PAGE, PROT_READ | PROT_WRITE, flags, -1i64, 0) }
    };
    let anywhere = map(0, flags);
    if anywhere > 0 {
        if near(anywhere as u64) {
            return Ok(anywhere as u64);
        }
        // SAFETY: just mapped.
        unsafe { sys!(nr::MUNMAP, anywhere, PAGE) };
    }
    let mut below = 16 * PAGE;
    while below < REACH {
        let Some(hint) = text.checked_sub(below).filter(|&hint| hint >= 16 * PAGE) else { break };
        if map(hint, flags | MAP_FIXED_NOREPLACE) == hint as i64 {
            return Ok(hint);
        }
        below *= 2;
    }
    Err(err::ENOMEM)
}
