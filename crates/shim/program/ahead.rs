//! Answers sent ahead (`nomina_abi::ahead`): what the program asks first, answered without a request.

use core::cell::UnsafeCell;
use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nomina_abi::ahead::{
    ACCESS, BUCKETS, Entry, Head, Identity, MAX_ENTRIES, OPEN, READLINK, STAT, STAT_SIZE, hash,
};
use nomina_abi::{FD_AHEAD, FD_SOCK, SLOTS_OFFSET};

use crate::area::{Area, REGION, THREADED};
use crate::slot::{data, receive_fds};
use crate::sys::{self, nr, sys};

const AT_FDCWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_EMPTY_PATH: u64 = 0x1000;
const O_CLOEXEC: u32 = 0o2000000;

/// Descriptors used of which attributes are known.
const KNOWN: usize = 8;

/// What the image has left of its answers.
struct Left {
    /// Bits of entries used.
    used: [u64; MAX_ENTRIES / 64],
    count: u32,
    /// Whether the supervisor's socket is at [`FD_AHEAD`]. What else is there may be of who executed this program.
    opens: bool,
    /// Entries of opens, counted from 1, the latest last.
    known: [u16; KNOWN],
}

struct LeftCell(UnsafeCell<Left>);

// SAFETY: used by the only thread of the image, and by nobody once there is a second one.
unsafe impl Sync for LeftCell {}

#[unsafe(link_section = ".bss.start1")]
static LEFT: LeftCell =
    LeftCell(UnsafeCell::new(Left { used: [0; MAX_ENTRIES / 64], count: 0, opens: false, known: [0; KNOWN] }));
#[unsafe(link_section = ".bss.shared")]
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Notes that so many answers are there, the descriptors among them on `socket`, if that is one.
pub fn start(count: u32, socket: Option<i32>) {
    let opens = socket.is_some_and(|socket| {
        // SAFETY: takes no pointers. A limit below the number is why it may fail: then whoever opens asks.
        let moved = unsafe { sys!(nr::DUP3, socket, FD_AHEAD, O_CLOEXEC) };
        sys::close(socket);
        moved >= 0
    });
    if count == 0 || count as usize > MAX_ENTRIES {
        return;
    }
    // SAFETY: the image has one thread.
    let left = unsafe { &mut *LEFT.0.get() };
    (left.count, left.opens) = (count, opens);
    ACTIVE.store(true, Ordering::Relaxed);
}

fn is_open(entry: &Entry) -> bool {
    entry.op == OPEN && entry.ret >= 0
}

fn head() -> *mut Head {
    REGION.load(Ordering::Relaxed) as *mut Head
}

fn entry(index: u32) -> Option<Entry> {
    let at = REGION.load(Ordering::Relaxed) as usize + size_of::<Head>() + index as usize * size_of::<Entry>();
    // SAFETY: inside the region, before its slots; the supervisor may write it, so it is copied out.
    let entry = unsafe { read_volatile(at as *const Entry) };
    let ends = |at: u32, len: usize| at as usize + len <= SLOTS_OFFSET;
    (ends(entry.path, entry.path_len.into()) && ends(entry.data, entry.data_len as usize)).then_some(entry)
}

fn at(offset: u32) -> *const u8 {
    (REGION.load(Ordering::Relaxed) + u64::from(offset)) as *const u8
}

fn holds() -> bool {
    // SAFETY: the word is in the region, and only used atomically.
    unsafe { AtomicU32::from_ptr((&raw mut (*head()).valid).cast()) }.load(Ordering::Acquire) == 1
}

/// Takes descriptors off the socket, up to the one of entry `index`, which is given back.
fn receive(index: u32, cloexec: bool) -> Option<i64> {
    loop {
        let mut message = [0; 8];
        match receive_fds(FD_AHEAD, cloexec, &mut message) {
            Ok(received) if received.count == 1 && u64::from_le_bytes(message) == u64::from(index) => {
                return Some(i64::from(received.fds[0]));
            }
            // Of an open that the program has not made.
            Ok(received) if received.count == 1 => received.close(),
            // There is none, or no room for it in the descriptor table: the request will say so.
            _ => return None,
        }
    }
}

/// No answer is used any more. What nobody will receive is closed.
#[cold]
fn stop() {
    ACTIVE.store(false, Ordering::Relaxed);
    // SAFETY: takes no pointers.
    unsafe { sys!(nr::DUP3, FD_SOCK, FD_AHEAD, O_CLOEXEC) };
}

/// In a forked child: the answers and what is on the socket are its parent's.
pub fn forget() {
    if ACTIVE.load(Ordering::Relaxed) {
        ACTIVE.store(false, Ordering::Relaxed);
    }
}

/// The answer to a system call whose strings are in the slot, if it is known. Bytes are put where the supervisor would have.
#[inline]
pub fn answer(area: &Area, number: u64, args: &[u64; 6]) -> Option<i64> {
    if !ACTIVE.load(Ordering::Relaxed) {
        return None;
    }
    find(area, number, args)
}

/// What a system call asks, if it is one of those that are answered ahead.
pub struct Question {
    /// As in [`Entry::op`].
    pub op: u32,
    /// As in [`Entry::flags`].
    pub flags: u32,
    /// Span of the path.
    pub path: u64,
    /// Span for the bytes of the answer.
    pub to: u64,
}

/// The question of a system call whose strings are in the slot.
#[inline]
pub fn question(number: u64, args: &[u64; 6]) -> Option<Question> {
    let here = |dirfd: u64| dirfd as i32 == AT_FDCWD;
    let (op, flags, path, to) = match number {
        nr::OPEN => (OPEN, args[1] as u32, args[0], 0),
        nr::OPENAT if here(args[0]) => (OPEN, args[2] as u32, args[1], 0),
        nr::ACCESS => (ACCESS, args[1] as u32, args[0], 0),
        nr::FACCESSAT if here(args[0]) => (ACCESS, args[2] as u32, args[1], 0),
        nr::STAT => (STAT, 0, args[0], args[1]),
        nr::LSTAT => (STAT, AT_SYMLINK_NOFOLLOW as u32, args[0], args[1]),
        nr::NEWFSTATAT if here(args[0]) => (STAT, args[3] as u32, args[1], args[2]),
        nr::READLINK => (READLINK, 0, args[0], args[1]),
        nr::READLINKAT if here(args[0]) => (READLINK, 0, args[1], args[2]),
        _ => return None,
    };
    Some(Question { op, flags, path, to })
}

/// The descriptor and the span for the answer of a call that is `fstat(2)`.
#[inline]
pub fn fstat_of(number: u64, args: &[u64; 6]) -> Option<(u64, u64)> {
    match number {
        nr::FSTAT => Some((args[0], args[1])),
        nr::NEWFSTATAT
            if args[3] == AT_EMPTY_PATH && args[1] >> 32 == 0 && args[0] as i32 != AT_FDCWD =>
        {
            Some((args[0], args[2]))
        }
        _ => None,
    }
}

#[cold]
fn find(area: &Area, number: u64, args: &[u64; 6]) -> Option<i64> {
    if THREADED.load(Ordering::Relaxed) || !holds() {
        stop();
        return None;
    }
    if let Some((fd, to)) = fstat_of(number, args) {
        return fstat(area, fd, to);
    }
    let Question { op, flags, path, to } = question(number, args)?;
    // SAFETY: as in `start`.
    let left = unsafe { &mut *LEFT.0.get() };
    let (text, len) = (path as u32 as usize, (path >> 32) as usize);
    // SAFETY: spans are made by `Arena`, inside the slot's data.
    let asked = unsafe { core::slice::from_raw_parts(data(area).add(text), len) };
    let bucket = hash(op, flags, asked) as usize % BUCKETS;
    // SAFETY: in the region.
    let mut next = unsafe { read_volatile(&raw const (*head()).buckets[bucket]) };
    // No more steps than there are entries, whatever the chain says.
    for _ in 0..left.count {
        let index = u32::from(next.checked_sub(1)?);
        if index >= left.count {
            return None;
        }
        let entry = entry(index)?;
        next = entry.next;
        // SAFETY: checked to lie in the region.
        let of_entry = unsafe { core::slice::from_raw_parts(at(entry.path), entry.path_len.into()) };
        let used = left.used[index as usize / 64] & 1 << (index % 64) != 0;
        let usable = !is_open(&entry) || (left.opens && !used);
        if (entry.op, entry.flags) == (op, flags) && of_entry == asked && usable {
            return give(area, left, index, &entry, to);
        }
    }
    None
}

fn give(area: &Area, left: &mut Left, index: u32, entry: &Entry, to: u64) -> Option<i64> {
    let ret = if is_open(entry) {
        note_used(left, index);
        let fd = receive(index, entry.flags & O_CLOEXEC != 0)?;
        left.known.copy_within(1.., 0);
        left.known[KNOWN - 1] = index as u16 + 1;
        fd
    } else {
        let room = (to >> 32) as usize;
        let len = (entry.data_len as usize).min(room);
        if len > 0 {
            // SAFETY: from the answers to the slot's data, where `Arena` has left room.
            unsafe {
                core::ptr::copy_nonoverlapping(at(entry.data), data(area).add(to as u32 as usize), len);
            }
        }
        if entry.op == READLINK && entry.ret >= 0 { len as i64 } else { entry.ret }
    };
    note_used(left, index);
    Some(ret)
}

fn note_used(left: &mut Left, index: u32) {
    let word = index as usize / 64;
    left.used[word] |= 1 << (index % 64);
    // SAFETY: in the region.
    unsafe { write_volatile(&raw mut (*head()).used[word], left.used[word]) };
}

/// Attributes of a descriptor that came with an answer: which it is the host says.
fn fstat(area: &Area, fd: u64, to: u64) -> Option<i64> {
    // SAFETY: as in `start`.
    let left = unsafe { &*LEFT.0.get() };
    let mut native = [0u64; STAT_SIZE / 8];
    for &number in left.known.iter().rev().filter(|&&number| number != 0) {
        let entry = entry(u32::from(number) - 1)?;
        if entry.data_len as usize != size_of::<Identity>() {
            continue;
        }
        // SAFETY: checked to lie inside the answers; all bits are valid.
        let known = unsafe { at(entry.data).cast::<Identity>().read_unaligned() };
        if native[1] == 0 {
            // SAFETY: the kernel writes the structure.
            if unsafe { sys!(nr::FSTAT, fd as u32, native.as_mut_ptr()) } < 0 {
                return None;
            }
        }
        if (native[0], native[1]) == (known.dev, known.ino) {
            return put_fstat(area, &known, &native, to).then_some(0);
        }
    }
    None
}

/// Writes the attributes of an open file as the guest sees them: what no handle changes as it was, the rest as the host has it.
/// False: not so many bytes are wanted.
pub fn put_fstat(area: &Area, known: &Identity, native: &[u64; STAT_SIZE / 8], to: u64) -> bool {
    let mut stat = known.stat;
    // st_size, st_blocks and the three times.
    stat[6] = native[6];
    stat[8..15].copy_from_slice(&native[8..15]);
    if (to >> 32) as usize != STAT_SIZE {
        return false;
    }
    // SAFETY: into the slot's data, where `Arena` has left room.
    unsafe {
        let to = data(area).add(to as u32 as usize);
        core::ptr::copy_nonoverlapping(stat.as_ptr().cast(), to, STAT_SIZE);
    }
    true
}
