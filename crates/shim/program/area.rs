//! Thread areas: for each guest thread 64 KiB that belong to the shim.
//!
//! An area begins with a guard page; near its end stands the thread's state, below it the alternate stack on which every signal
//! handler of the shim runs, and behind it, in the first area, what the threads of an address space share and change at forks.
//! So all of these share a page: each page that is written costs a fault at a start, and two at a fork. Areas are aligned to their size, so that the stack pointer names the area: no thread-local storage is needed, which
//! belongs to the guest. The first areas are part of the program's image; more come in chunks and are reused, never unmapped.

use core::cell::{Cell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use nomina_abi::{NO_SLOT, SLOT_SIZE, SLOTS_OFFSET, Slot};

use crate::frame::{SigInfo, StackT, UContext};
use crate::lock::{Guard, Lock};
use crate::patch::Traps;
use crate::remembered::Asked;
use crate::sighand::Sighand;
use crate::sys::{self, nr, sys};

/// Size and alignment of an area.
pub const AREA_SIZE: u64 = 64 << 10;
/// Size of the guard.
const GUARD: u64 = 4096;
/// Where handlers stand that are the area's own.
const SIGHAND_OFFSET: u64 = GUARD;
/// Where the stacks of an area begin: above those. The lower one is for calls that come by a trampoline, since on the other one the host
/// kernel puts the frame of a signal that comes meanwhile.
const PATCHED_OFFSET: u64 = SIGHAND_OFFSET + 4096;
/// What belongs to signals that are held, by `signal::held_index`: hardly ever used, so not in the page of the state.
type HeldInfo = [SigInfo; 4];
const HELD_OFFSET: u64 = PATCHED_OFFSET - size_of::<HeldInfo>() as u64;
const STACK_OFFSET: u64 = PATCHED_OFFSET + (16 << 10);
/// Room behind the state: in the first area for the section `.bss.shared`.
const SHARED: u64 = 512;
/// Where the state stands, and the stack ends.
const STATE_OFFSET: u64 = AREA_SIZE - SHARED - size_of::<Area>() as u64;
/// What [`Area::mark`] says.
pub const MARK: u32 = 0x4e6f_6d69;
const AREAS_PER_CHUNK: u32 = 16;
const CHUNKS: usize = 128;
/// Areas in the program's image: room for the guards and what a few threads need.
const STATIC_AREAS: u32 = 12;

/// State of a thread. Only the thread itself uses it, except that its maker fills it in before it starts.
#[repr(C, align(64))]
pub struct Area {
    /// The slot in the shared region; null in a forked process until its first request.
    pub slot: Cell<*mut Slot>,
    /// In a forked process before its first request: a slot in its maker's region, where it may ask for an exec. Null if none.
    pub borrowed: Cell<*mut Slot>,
    /// Own thread id in the own pid namespace.
    pub tid: Cell<i32>,
    /// Own process id in the own pid namespace.
    pub pid: Cell<i32>,
    /// Real and effective user, real and effective group, until the thread asks for something that may change them.
    pub ids: Cell<Option<[u32; 4]>>,
    /// Token of `op::CLONE`, by which the supervisor tells the thread from one that had its host tid before; 0 after exec.
    pub token: Cell<u64>,
    /// Signal handlers, shared as `CLONE_SIGHAND` says.
    pub sighand: Cell<*const Sighand>,
    /// The descriptor table, shared as `CLONE_FILES` says.
    pub files: Cell<*const Files>,
    /// The guest's alternate signal stack.
    pub altstack: Cell<StackT>,
    /// What the guest gave to `set_robust_list(2)`.
    pub robust_list: Cell<u64>,
    /// The signal frame of the system call that is being served.
    pub context: Cell<*mut UContext>,
    /// Mask to be restored after the call, if the call has put another in place (`rt_sigsuspend(2)`, `ppoll(2)`).
    pub saved_mask: Cell<Option<u64>>,
    /// A signal that arrived inside the shim, to be delivered when the call ends. The assembly looks at this and the next two.
    pub pending: Cell<bool>,
    /// The supervisor has called for the thread as a tracee.
    pub kicked: Cell<bool>,
    /// The supervisor has called for the thread as a tracer, since the system call began.
    pub woken: Cell<bool>,
    /// A handler of the shim's has run that the guest must not notice, since the wait began that looks at this.
    pub unnoticed: Cell<bool>,
    /// How the thread is traced (`nomina_abi::ptrace::mode`); 0: it is not.
    pub trace: Cell<u32>,
    /// The call in which a traced thread is, or -1.
    pub orig_rax: Cell<u64>,
    /// The call that `restart_syscall(2)` stands for; 0 if none.
    pub restart: Cell<[u64; 7]>,
    /// Whether the tracer has asked for a single step.
    pub stepping: Cell<bool>,
    /// Whether the guest believes to block SIGTRAP.
    pub blocks_sigtrap: Cell<bool>,
    /// For a new thread: it is traced.
    pub born_traced: Cell<bool>,
    /// Whether the thread goes on with a native sleep of the guest's (`call`).
    pub sleeps: Cell<bool>,
    /// What the host clears when a child of vfork leaves its maker's memory.
    pub vfork_done: AtomicU32,
    /// That signal.
    pub pending_info: UnsafeCell<SigInfo>,
    /// For a new thread: where `CLONE_CHILD_SETTID` stores its id, or 0.
    pub child_settid: Cell<u64>,
    /// For a new thread: `CLONE_CLEAR_SIGHAND`.
    pub clear_sighand: Cell<bool>,
    /// Memory that an exec left behind: the parent of a vfork frees it.
    pub exec_scratch: Cell<(u64, u64)>,
    /// Descriptor table of a process that shares memory but not descriptors.
    pub own_files: Files,
    /// Whether a write was reported while the shim was running.
    pub reported: Cell<bool>,
    /// Whether the supervisor has interrupted a call of the shim's because mounts have changed.
    pub mounts_changed: Cell<bool>,
    /// Which of the signals that are never blocked natively the guest believes to block.
    pub blocks: Cell<u64>,
    /// Those of them that have come meanwhile, and of the faults those that were sent while the shim had them open.
    pub held: Cell<u64>,
    /// [`MARK`]: by this `nomina_patched` knows that the base of `gs` is an area.
    pub mark: Cell<u32>,
    /// Where the stack for calls that come by a trampoline ends.
    pub patched_top: Cell<u64>,
    /// The guest's stack pointer during such a call.
    pub guest_sp: Cell<u64>,
    /// The guest's signal mask, as of the last signal frame.
    pub mask: Cell<u64>,
    /// Whether a call that came by a trampoline is being served.
    pub patched: Cell<bool>,
    /// Such a call is over, and only traps so that a signal is delivered.
    pub has_result: Cell<bool>,
    /// Whether `claim` tells the guest's call that is being served.
    pub claimed: Cell<bool>,
    /// Number, arguments and instruction pointer of that call (`seccomp`).
    pub claim: Cell<[u64; 8]>,
    /// How often which sites have trapped.
    pub traps: Traps,
    /// What the thread has asked.
    pub asked: Asked,
}

/// A call that came by a trampoline. The layout is known to `nomina_patched`.
#[repr(C, align(16))]
pub struct Patched {
    /// Vector registers that the shim's code may use.
    pub vectors: [[u64; 2]; 16],
    /// Arguments.
    pub args: [u64; 6],
    /// System call number.
    pub number: u64,
    /// Where to go on.
    pub back: u64,
    /// The guest's flags: bits 8 to 15 as `lahf` gives them, bit 0 is the overflow flag.
    pub flags: u64,
    /// What the call returns.
    pub result: i64,
}

const _: () = assert!(core::mem::size_of::<Patched>() % 16 == 0);

impl Patched {
    /// `eflags` with the flags that `saved` has, in the form of [`Patched::flags`].
    pub fn flags_of(saved: u64, eflags: u64) -> u64 {
        const STATUS: u64 = 0xd5;
        const OVERFLOW: u64 = 0x800;
        let kept = eflags & !(STATUS | OVERFLOW);
        kept | saved >> 8 & STATUS | if saved & 1 != 0 { OVERFLOW } else { 0 }
    }

    /// `eflags` as the guest had them before the call.
    pub fn merge_flags(&self, eflags: u64) -> u64 {
        Patched::flags_of(self.flags, eflags)
    }
}

/// A descriptor table: who may receive from the hidden socket in it. Processes that share the table but not the memory share
/// a lock in memory of its own, too. It is for life: a process killed within it would leave the others waiting, which is
/// accepted for a combination (`CLONE_FILES` without `CLONE_VM`) that next to nobody uses.
pub struct Files {
    lock: Lock,
    across: AtomicU64,
}

/// Holds a table's locks.
pub struct FilesGuard {
    _across: Option<Guard<'static>>,
    _own: Guard<'static>,
}

impl Files {
    /// A table of one process.
    pub const fn new() -> Files {
        Files { lock: Lock::new(), across: AtomicU64::new(0) }
    }

    /// Waits until nobody else receives.
    pub fn lock(&'static self) -> FilesGuard {
        let own = self.lock.lock();
        let across = self.across.load(Ordering::Relaxed) as *const Lock;
        // SAFETY: null, or a mapping made by `share` that stays.
        let across = unsafe { across.as_ref() }.map(Lock::lock_shared);
        FilesGuard { _across: across, _own: own }
    }

    /// Prepares for a child with the same table and a copy of the memory. `ENOMEM`.
    pub fn share(&'static self) -> Result<(), i64> {
        let _guard = self.lock.lock();
        if self.across.load(Ordering::Relaxed) == 0 {
            self.across.store(sys::map_shared_anonymous(4096)?, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives another table what this one shares across processes.
    pub fn carry_to(&self, other: &Files) {
        other.across.store(self.across.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// In a forked child: the other threads do not exist. `same`: it shares its parent's table.
    pub fn reset(&self, same: bool) {
        self.lock.reset();
        // A store would have the host copy the page.
        if !same && self.across.load(Ordering::Relaxed) != 0 {
            self.across.store(0, Ordering::Relaxed);
        }
    }
}

const _: () = assert!(size_of::<Area>() as u64 + SHARED <= 1600 && size_of::<Sighand>() <= (HELD_OFFSET - SIGHAND_OFFSET) as usize);

/// Base of the region of slots. The same address in every process of a fork tree.
#[unsafe(link_section = ".bss.shared")]
pub static REGION: AtomicU64 = AtomicU64::new(0);
/// Whether the address space has ever had a second thread.
#[unsafe(link_section = ".bss.shared")]
pub static THREADED: AtomicBool = AtomicBool::new(false);
/// Handlers of the process that the image was started for.
#[unsafe(link_section = ".bss.start0")]
pub static SIGHAND: Sighand = Sighand::new();
/// Descriptor table of that process.
#[unsafe(link_section = ".bss.shared")]
pub static FILES: Files = Files::new();

struct Chunk {
    base: AtomicU64,
    used: AtomicU32,
    guarded: AtomicU32,
}

impl Chunk {
    const NONE: Chunk = Chunk { base: AtomicU64::new(0), used: AtomicU32::new(0), guarded: AtomicU32::new(0) };
}

/// The areas in the program's image.
#[unsafe(link_section = ".bss.shared")]
static FIRST_CHUNK: Chunk = Chunk::NONE;
#[unsafe(link_section = ".bss.z")]
static MORE_CHUNKS: [Chunk; CHUNKS - 1] = [const { Chunk::NONE }; CHUNKS - 1];

/// How many of them are mapped. They are in order, and so nobody looks at those that are not.
#[unsafe(link_section = ".bss.shared")]
static MORE_MAPPED: AtomicU32 = AtomicU32::new(0);

fn mapped_chunks() -> impl Iterator<Item = &'static Chunk> {
    let more = MORE_MAPPED.load(Ordering::Acquire) as usize;
    core::iter::once(&FIRST_CHUNK).chain(&MORE_CHUNKS[..more.min(CHUNKS - 1)])
}

#[unsafe(link_section = ".bss.shared")]
static GROW: Lock = Lock::new();

/// All but its guard, which is a page that is not mapped (`shim.ld`), and what stands behind the state.
#[repr(C, align(64))]
struct FirstArea(UnsafeCell<[u8; (AREA_SIZE - GUARD - SHARED) as usize]>);

/// The others, which come right behind it.
#[repr(C, align(4096))]
struct OtherAreas(UnsafeCell<[u8; (AREA_SIZE * (STATIC_AREAS as u64 - 1)) as usize]>);

// SAFETY: every area in it is handed out once at a time by the bits of its chunk.
unsafe impl Sync for FirstArea {}
// SAFETY: as above.
unsafe impl Sync for OtherAreas {}

#[unsafe(link_section = ".bss.first")]
static FIRST: FirstArea = FirstArea(UnsafeCell::new([0; (AREA_SIZE - GUARD - SHARED) as usize]));
/// Only its place counts.
#[used]
#[unsafe(link_section = ".bss.areas")]
static OTHERS: OtherAreas = OtherAreas(UnsafeCell::new([0; (AREA_SIZE * (STATIC_AREAS as u64 - 1)) as usize]));

impl Area {
    /// The calling thread's area.
    #[inline(always)]
    pub fn current() -> &'static Area {
        let sp: u64;
        // SAFETY: reads the stack pointer. All code of the shim except `start` runs on an area's stack.
        unsafe {
            core::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags));
            &*(((sp & !(AREA_SIZE - 1)) + STATE_OFFSET) as *const Area)
        }
    }

    /// The answer to a call that asks for one of the thread's own ids, if it is known.
    #[inline]
    pub fn own_id(&self, number: u64) -> Option<i64> {
        let index = match number {
            nr::GETUID => 0,
            nr::GETEUID => 1,
            nr::GETGID => 2,
            nr::GETEGID => 3,
            _ => return None,
        };
        self.ids.get().map(|ids| i64::from(ids[index]))
    }

    /// Address of the area's state.
    pub fn state(&self) -> u64 {
        self as *const Area as u64
    }

    fn base(&self) -> u64 {
        self.state() - STATE_OFFSET
    }

    /// Address behind the area's stack.
    pub fn top(&self) -> u64 {
        self.state()
    }

    /// Handlers of a process that shares memory but not handlers.
    pub fn own_sighand(&self) -> &'static Sighand {
        // SAFETY: inside the area, which is never unmapped; all-zero bytes, as they are at first, are a valid table.
        unsafe { &*((self.base() + SIGHAND_OFFSET) as *const Sighand) }
    }

    /// What belongs to the signals in [`Area::held`].
    pub fn held_info(&self) -> *mut HeldInfo {
        (self.base() + HELD_OFFSET) as *mut HeldInfo
    }

    /// The alternate stack as the host kernel is told.
    pub fn native_stack(&self) -> StackT {
        StackT {
            sp: self.base() + STACK_OFFSET,
            flags: crate::frame::SS_AUTODISARM,
            pad: 0,
            size: STATE_OFFSET - STACK_OFFSET,
        }
    }

    /// Sets the slot by its index in the region.
    pub fn set_slot(&self, index: u32) {
        self.slot.set(slot_at(index));
    }

    /// Handlers of the thread's process.
    pub fn sighand(&self) -> &'static Sighand {
        // SAFETY: points to `SIGHAND` or into an area that is in use as long as the process lives.
        unsafe { &*self.sighand.get() }
    }

    /// The thread's descriptor table.
    pub fn files(&self) -> &'static Files {
        // SAFETY: as in `sighand`.
        unsafe { &*self.files.get() }
    }

    /// Guest's signal mask during a system call.
    pub fn guest_mask(&self) -> u64 {
        if self.patched.get() {
            return self.mask.get();
        }
        // SAFETY: `context` is set on entry of the handler, which runs below its frame.
        unsafe { (*self.context.get()).sigmask }
    }

    /// Notes the guest's signal mask when its code goes on.
    pub fn note_mask(&self, mask: u64) {
        self.mask.set(mask);
    }

    /// Address of what interrupts a call before it begins.
    pub fn interruptions(&self) -> u64 {
        (&raw const self.kicked) as u64
    }

    /// The call that came by a trampoline.
    pub fn patched_frame(&self) -> &Patched {
        // SAFETY: inside the area, where `nomina_patched` put it; all bits are valid.
        unsafe { &*((self.patched_top.get() - size_of::<Patched>() as u64) as *const Patched) }
    }

    /// Takes a free area, zeroed.
    pub fn allocate() -> Result<&'static Area, i64> {
        for (number, chunk) in core::iter::once(&FIRST_CHUNK).chain(&MORE_CHUNKS).enumerate() {
            let mut base = chunk.base.load(Ordering::Acquire);
            if base == 0 {
                let _guard = GROW.lock();
                base = chunk.base.load(Ordering::Acquire);
                if base == 0 {
                    base = map_chunk()?;
                    chunk.base.store(base, Ordering::Release);
                    MORE_MAPPED.store(number as u32, Ordering::Release);
                }
            }
            let mut used = chunk.used.load(Ordering::Relaxed);
            while (used.trailing_ones()) < AREAS_PER_CHUNK {
                let index = used.trailing_ones();
                match chunk.used.compare_exchange_weak(
                    used,
                    used | 1 << index,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return Ok(prepare(chunk, base, index)),
                    Err(now) => used = now,
                }
            }
        }
        Err(sys::err::EAGAIN)
    }

    /// The first area of an image.
    pub fn first() -> &'static Area {
        let chunk = &FIRST_CHUNK;
        let base = FIRST.0.get() as u64 - GUARD;
        chunk.guarded.store(1, Ordering::Relaxed);
        chunk.base.store(base, Ordering::Relaxed);
        let beyond = !0u32 << STATIC_AREAS;
        chunk.used.store(beyond | 1, Ordering::Relaxed);
        prepare(chunk, base, 0)
    }

    /// Calls `with` for every area in use, that of a thread which has just ended possibly among them.
    pub fn each(mut with: impl FnMut(&'static Area)) {
        for (number, chunk) in mapped_chunks().enumerate() {
            let base = chunk.base.load(Ordering::Acquire);
            let beyond = if number == 0 { !0 << STATIC_AREAS } else { 0 };
            let used = chunk.used.load(Ordering::Acquire) & !beyond;
            for index in (0..AREAS_PER_CHUNK).filter(|index| base != 0 && used & 1 << index != 0) {
                // SAFETY: an area that was handed out stays mapped, and all bits are valid.
                with(unsafe { &*((base + u64::from(index) * AREA_SIZE + STATE_OFFSET) as *const Area) });
            }
        }
    }

    /// The word and the bit that say that the area is in use.
    pub fn used_bit(&self) -> (&'static AtomicU32, u32) {
        for chunk in mapped_chunks() {
            let base = chunk.base.load(Ordering::Acquire);
            let index = self.base().wrapping_sub(base) / AREA_SIZE;
            if base != 0 && index < u64::from(AREAS_PER_CHUNK) {
                return (&chunk.used, 1 << index);
            }
        }
        sys::exit_group(125)
    }

    /// Whether the caller is the only thread of the address space.
    pub fn is_only(&self) -> bool {
        let used = |(number, chunk): (usize, &Chunk)| {
            let beyond = if number == 0 { !0 << STATIC_AREAS } else { 0 };
            (chunk.used.load(Ordering::Relaxed) & !beyond).count_ones()
        };
        mapped_chunks().enumerate().map(used).sum::<u32>() == 1
    }

    /// Gives the area back. Not for the caller's own.
    pub fn free(&self) {
        let (word, bit) = self.used_bit();
        word.fetch_and(!bit, Ordering::Release);
    }

    /// In a forked child: the areas of the threads that did not come along are free.
    pub fn keep_only_own(&self) {
        for (number, chunk) in mapped_chunks().enumerate() {
            chunk.used.store(if number == 0 { !0 << STATIC_AREAS } else { 0 }, Ordering::Relaxed);
        }
        let (word, bit) = self.used_bit();
        word.fetch_or(bit, Ordering::Relaxed);
        GROW.reset();
    }
}

/// The slot with an index in the region; null for [`NO_SLOT`].
pub fn slot_at(index: u32) -> *mut Slot {
    if index == NO_SLOT {
        return core::ptr::null_mut();
    }
    (REGION.load(Ordering::Relaxed) + SLOTS_OFFSET as u64 + u64::from(index) * SLOT_SIZE as u64) as *mut Slot
}

fn map_chunk() -> Result<u64, i64> {
    let len = AREA_SIZE * u64::from(AREAS_PER_CHUNK);
    let at = sys::map_anonymous(len + AREA_SIZE)?;
    let base = at.next_multiple_of(AREA_SIZE);
    let behind = at + AREA_SIZE - base;
    // SAFETY: gives back the unaligned ends of the mapping made above.
    unsafe {
        if base > at {
            sys!(nr::MUNMAP, at, base - at);
        }
        if behind > 0 {
            sys!(nr::MUNMAP, base + len, behind);
        }
    }
    Ok(base)
}

fn prepare(chunk: &Chunk, base: u64, index: u32) -> &'static Area {
    let at = base + u64::from(index) * AREA_SIZE;
    if chunk.guarded.fetch_or(1 << index, Ordering::Relaxed) & 1 << index == 0 {
        // SAFETY: the guard page is never accessed on purpose.
        unsafe { sys!(nr::MPROTECT, at, GUARD, 0) };
    }
    // SAFETY: the area is ours alone, and all-zero bytes are a valid Area except for the references set below.
    unsafe {
        let state = (at + STATE_OFFSET) as *mut Area;
        core::ptr::write_bytes(state, 0, 1);
        let area = &*state;
        area.sighand.set(&raw const SIGHAND);
        area.files.set(&raw const FILES);
        area.altstack.set(StackT::DISABLED);
        area.mark.set(MARK);
        area.patched_top.set(at + STACK_OFFSET);
        area
    }
}
