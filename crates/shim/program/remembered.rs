//! Answers that are remembered (`nomina_abi::reply::HOLDS`): the same question asked again needs no request.
//!
//! Who asks something for the second time says so, and the supervisor lets the answer hold if only requests can change it: as long as
//! the stamp that came with it stands in the region. The same goes for the attributes of a file, which come with its open in programs that
//! ask for them afterwards, and where a directory ends comes with its last entries. Answers belong to the thread that got them, since credentials, root and
//! working directory are a thread's.

use core::cell::UnsafeCell;
use core::ptr::read_volatile;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use nomina_abi::ahead::{
    ACCESS, END, Head, Identity, OPEN, READLINK, REMEMBER, REMEMBERED_DATA, REMEMBERED_PATH, STAT_SIZE,
};
use nomina_abi::reply;

use crate::ahead::{Question, fstat_of, put_fstat, question};
use crate::area::{Area, REGION};
use crate::lock::Lock;
use crate::marshal::Arena;
use crate::slot::{data, out, request, request_with_flags};
use crate::sys::{nr, sys};

/// Questions that a thread knows to have asked.
const ASKED: usize = 64;
/// Answers that an address space remembers.
const ANSWERS: usize = 128;
/// Open files of which the attributes are remembered.
const FILES: usize = 8;
/// Opens after which nobody has asked for the attributes, until they are no longer asked for with the open.
const UNUSED: u32 = 8;
/// The last word of a reply's `out`.
const STAMP: usize = 6;
const O_ACCMODE: u32 = 3;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const O_PATH: u32 = 0o10000000;
/// Where the mode is in a `struct stat`.
const ST_MODE: usize = 24;
const S_IFMT: u32 = 0o170000;
const S_IFREG: u32 = 0o100000;
const S_IFDIR: u32 = 0o040000;
/// Where `st_mtime` is in a `struct stat`, in words.
const ST_MTIME: usize = 11;
/// Directories of which the end is remembered.
const DIRECTORIES: usize = 4;
const SEEK_CUR: u64 = 1;

/// The latest questions of a thread, as hashes: whichever comes last has an entry. One with [`REFUSED`] set is not to be remembered.
pub struct Asked(UnsafeCell<[u32; ASKED]>);

const REFUSED: u32 = 1 << 31;

impl Asked {
    fn entry(&self, hash: u32) -> &mut u32 {
        // SAFETY: only the area's thread gets here, one call at a time, and keeps the reference for no longer than that.
        unsafe { &mut (&mut *self.0.get())[hash as usize % ASKED] }
    }
}

/// An answer.
struct Answer {
    stamp: u64,
    /// Token of the thread.
    owner: u64,
    op: u32,
    flags: u32,
    ret: i64,
    path_len: u32,
    data_len: u32,
    path: [u8; REMEMBERED_PATH],
    data: [u8; REMEMBERED_DATA],
}

const NONE: Answer = Answer {
    stamp: 0,
    owner: 0,
    op: 0,
    flags: 0,
    ret: 0,
    path_len: 0,
    data_len: 0,
    path: [0; REMEMBERED_PATH],
    data: [0; REMEMBERED_DATA],
};

/// Attributes of a file that was opened.
#[derive(Clone, Copy)]
struct File {
    stamp: u64,
    owner: u64,
    identity: Identity,
}

const NO_FILE: File =
    File { stamp: 0, owner: 0, identity: Identity { dev: 0, ino: 0, generation: 0, stat: [0; STAT_SIZE / 8] } };

/// Where a directory ends: device, inode, generation of its placeholder, and the position.
#[derive(Clone, Copy)]
struct End {
    stamp: u64,
    of: [u64; 4],
}

struct Ends(UnsafeCell<[End; DIRECTORIES]>);

// SAFETY: only used with the lock held.
unsafe impl Sync for Ends {}

struct Files(UnsafeCell<[File; FILES]>);

// SAFETY: only used with the lock held.
unsafe impl Sync for Files {}

struct Table(UnsafeCell<[Answer; ANSWERS]>);

// SAFETY: only used with the lock held.
unsafe impl Sync for Table {}

#[unsafe(link_section = ".bss.y")]
static TABLE: Table = Table(UnsafeCell::new([NONE; ANSWERS]));
#[unsafe(link_section = ".bss.A0")]
static ENDS: Ends = Ends(UnsafeCell::new([End { stamp: 0, of: [0; 4] }; DIRECTORIES]));
/// How many ends have been remembered; the low bits are where the next one goes.
static ENDED: AtomicU32 = AtomicU32::new(0);
static OPENED: Files = Files(UnsafeCell::new([NO_FILE; FILES]));
/// Whether opens ask for attributes: programs mostly ask for those of a file that they have opened, or never do.
static WANTED: AtomicBool = AtomicBool::new(false);
/// Opens that have done so since attributes were last asked for; the low bits are where the next ones go.
static OPENS: AtomicU32 = AtomicU32::new(0);
#[unsafe(link_section = ".bss.shared")]
static BUSY: Lock = Lock::new();

/// In a forked child: whoever held the lock does not exist.
pub fn reset_lock() {
    BUSY.reset();
}

fn stamp() -> u64 {
    let head = REGION.load(Ordering::Relaxed) as *mut Head;
    // SAFETY: the word is in the region, and only used atomically.
    unsafe { AtomicU64::from_ptr((&raw mut (*head).stamp).cast()) }.load(Ordering::Acquire)
}

/// The path of a question; the supervisor has no part in it.
fn path<'a>(area: &Area, question: &Question) -> &'a [u8] {
    let (at, len) = (question.path as u32 as usize, (question.path >> 32) as usize);
    // SAFETY: spans are made by `Arena`, inside the slot's data. Nobody writes there before the request is made.
    unsafe { core::slice::from_raw_parts(data(area).add(at), len) }
}

fn hash(question: &Question, path: &[u8]) -> u32 {
    nomina_abi::ahead::hash(question.op, question.flags, path) & !REFUSED
}

/// Answers a call whose arguments are in the slot, or has it answered.
pub fn ask(area: &Area, number: u64, args: &mut [u64; 6], arena: &mut Arena) -> i64 {
    if let Some((fd, to)) = fstat_of(number, args) {
        return fstat(area, number, args, fd, to);
    }
    if matches!(number, nr::OPEN | nr::OPENAT) {
        return open(area, number, args, arena);
    }
    if number == nr::GETDENTS64 {
        return getdents(area, args);
    }
    match question(number, args) {
        Some(question) if question.op != OPEN => ask_question(area, number, args, &question),
        _ => request(area, number as u32, args),
    }
}

/// `open(2)`, `openat(2)`. Neither uses the last two of `args`.
fn open(area: &Area, number: u64, args: &mut [u64; 6], arena: &mut Arena) -> i64 {
    args[5] = 0;
    let flags = if number == nr::OPEN { args[1] } else { args[2] } as u32;
    if !WANTED.load(Ordering::Relaxed)
        || flags & (O_ACCMODE | O_CREAT | O_TRUNC | O_PATH) != 0
        || area.claimed.get()
    {
        return request(area, number as u32, args);
    }
    let Ok(to) = arena.room_for(size_of::<Identity>() as u64) else {
        return request(area, number as u32, args);
    };
    args[4] = to;
    args[5] = REMEMBER;
    let (ret, flags) = request_with_flags(area, number as u32, args);
    if ret < 0 || flags & reply::HOLDS == 0 {
        return ret;
    }
    let opens = OPENS.fetch_add(1, Ordering::Relaxed);
    if opens >= UNUSED {
        WANTED.store(false, Ordering::Relaxed);
    }
    if let Some(_guard) = BUSY.try_lock() {
        // SAFETY: the lock is held; the bytes stand in the slot's data, and all bits are valid.
        unsafe {
            let identity = data(area).add(to as u32 as usize).cast::<Identity>().read_unaligned();
            let owner = area.token.get();
            (*OPENED.0.get())[opens as usize % FILES] = File { stamp: out(area, STAMP), owner, identity };
        }
    }
    ret
}

/// `fstat(2)`: of a file that was opened just now the host says which it is.
fn fstat(area: &Area, number: u64, args: &mut [u64; 6], fd: u64, to: u64) -> i64 {
    if WANTED.load(Ordering::Relaxed) && !area.claimed.get() {
        let mut native = [0u64; STAT_SIZE / 8];
        // SAFETY: the kernel writes the structure.
        let found = unsafe { sys!(nr::FSTAT, fd as u32, native.as_mut_ptr()) } == 0;
        if let Some(_guard) = BUSY.try_lock().filter(|_| found) {
            let stamp = stamp();
            // SAFETY: the lock is held.
            for file in unsafe { &*OPENED.0.get() } {
                if stamp != 0
                    && (file.stamp, file.owner) == (stamp, area.token.get())
                    && (file.identity.dev, file.identity.ino) == (native[0], native[1])
                    && put_known(area, &file.identity, &native, to)
                {
                    OPENS.store(0, Ordering::Relaxed);
                    return 0;
                }
            }
        }
    }
    let ret = request(area, number as u32, args);
    if ret == 0 && (to >> 32) as usize == STAT_SIZE {
        // SAFETY: inside the bytes of the answer, in the slot's data.
        let mode = unsafe {
            data(area).add(to as u32 as usize + ST_MODE).cast::<u32>().read_unaligned()
        };
        if matches!(mode & S_IFMT, S_IFREG | S_IFDIR) && !WANTED.load(Ordering::Relaxed) {
            OPENS.store(0, Ordering::Relaxed);
            WANTED.store(true, Ordering::Relaxed);
        }
    }
    ret
}

/// Writes the attributes of an open file or directory. False: they are not known.
fn put_known(area: &Area, known: &Identity, native: &[u64; STAT_SIZE / 8], to: u64) -> bool {
    if known.generation == 0 {
        return put_fstat(area, known, native, to);
    }
    if known.generation != native[ST_MTIME] || (to >> 32) as usize != STAT_SIZE {
        return false;
    }
    // SAFETY: into the slot's data, where `Arena` has left room.
    unsafe {
        let to = data(area).add(to as u32 as usize);
        core::ptr::copy_nonoverlapping(known.stat.as_ptr().cast(), to, STAT_SIZE);
    }
    true
}

/// `getdents64(2)`, which does not use the last three of `args`. The position of a placeholder is the host's to say, however many have it
/// open: at the end that was told, and as long as nothing has changed, there is nothing more.
fn getdents(area: &Area, args: &mut [u64; 6]) -> i64 {
    args[5] = 0;
    if area.claimed.get() {
        return request(area, nr::GETDENTS64 as u32, args);
    }
    let fd = args[0] as u32;
    let now = stamp();
    let mut candidates = false;
    if now != 0
        && let Some(_guard) = BUSY.try_lock()
    {
        // SAFETY: the lock is held.
        candidates = unsafe { (*ENDS.0.get()).iter().any(|end| end.stamp == now) };
    }
    if candidates {
        let mut native = [0u64; STAT_SIZE / 8];
        // SAFETY: the kernel writes the structure.
        let found = unsafe { sys!(nr::FSTAT, fd, native.as_mut_ptr()) } == 0;
        // SAFETY: no memory.
        let position = unsafe { sys!(nr::LSEEK, fd, 0u64, SEEK_CUR) };
        if found
            && position >= 0
            && let Some(_guard) = BUSY.try_lock()
        {
            let of = [native[0], native[1], native[ST_MTIME], position as u64];
            let now = stamp();
            // SAFETY: the lock is held.
            if now != 0 && unsafe { (*ENDS.0.get()).iter().any(|end| end.stamp == now && end.of == of) } {
                return 0;
            }
        }
    }
    args[5] = REMEMBER;
    let (ret, flags) = request_with_flags(area, nr::GETDENTS64 as u32, args);
    if ret > 0
        && flags & reply::HOLDS != 0
        && let Some(_guard) = BUSY.try_lock()
    {
        let of = core::array::from_fn(|word| out(area, END + word));
        let index = ENDED.fetch_add(1, Ordering::Relaxed) as usize % DIRECTORIES;
        // SAFETY: the lock is held.
        unsafe { (*ENDS.0.get())[index] = End { stamp: out(area, STAMP), of } };
    }
    ret
}

/// Answers a question, or has it answered. `args` are the call's, of which the last is not used by any such call.
fn ask_question(area: &Area, number: u64, args: &mut [u64; 6], question: &Question) -> i64 {
    args[5] = 0;
    let (len, room) = ((question.path >> 32) as usize, question.to >> 32);
    if len == 0 || len > REMEMBERED_PATH || area.claimed.get() {
        return request(area, number as u32, args);
    }
    let asked_path = path(area, question);
    let hash = hash(question, asked_path);
    let known = area.asked.entry(hash);
    if *known == hash | REFUSED {
        return request(area, number as u32, args);
    }
    // Who reads links looks for the true names of many files, which have directories in common.
    if *known != hash && question.op != READLINK {
        *known = hash;
        return request(area, number as u32, args);
    }
    let index = (hash >> 6) as usize % ANSWERS;
    if let Some(_guard) = BUSY.try_lock() {
        // SAFETY: the lock is held.
        let answer = unsafe { &(*TABLE.0.get())[index] };
        if answer.stamp != 0
            && answer.stamp == stamp()
            && answer.owner == area.token.get()
            && (answer.op, answer.flags) == (question.op, question.flags)
            && answer.path[..answer.path_len as usize] == *asked_path
            && u64::from(answer.data_len) <= room
        {
            // SAFETY: into the slot's data, where `Arena` has left room.
            unsafe {
                let to = data(area).add(question.to as u32 as usize);
                core::ptr::copy_nonoverlapping(answer.data.as_ptr(), to, answer.data_len as usize);
            }
            return answer.ret;
        }
    }
    // The bytes of the answer do not come over the path.
    args[5] = REMEMBER;
    let (ret, flags) = request_with_flags(area, number as u32, args);
    if flags & reply::HOLDS == 0 {
        *known = hash | REFUSED;
        return ret;
    }
    let data_len = match question.op {
        ACCESS => 0,
        _ if ret < 0 => 0,
        READLINK => ret as usize,
        _ => room as usize,
    };
    if data_len <= REMEMBERED_DATA
        && let Some(_guard) = BUSY.try_lock()
    {
        // SAFETY: the lock is held; the bytes stand in the slot's data.
        unsafe {
            let answer = &mut (*TABLE.0.get())[index];
            answer.stamp = out(area, STAMP);
            answer.owner = area.token.get();
            (answer.op, answer.flags, answer.ret) = (question.op, question.flags, ret);
            (answer.path_len, answer.data_len) = (len as u32, data_len as u32);
            answer.path[..len].copy_from_slice(path(area, question));
            for (index, byte) in answer.data[..data_len].iter_mut().enumerate() {
                *byte = read_volatile(data(area).add(question.to as u32 as usize + index));
            }
        }
    }
    ret
}
