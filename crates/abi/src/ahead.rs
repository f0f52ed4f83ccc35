//! Answers sent ahead: what a program that has just been executed will ask first, which is mostly what it asked last time.
//!
//! The supervisor puts them at the beginning of an image's region, before the slots: a [`Head`], `count` [`Entry`]s, and their bytes. The descriptors of opens wait on [`super::FD_AHEAD`] in the order of their
//! entries, each with its index as an 8-byte message. The shim may use an answer, of an open once, as long as [`Head::valid`] is
//! 1; the supervisor sets it to 0 before anything changes that an answer depends on.
//!
//! Answers to requests may be *remembered* by the same right: as long as [`Head::stamp`] is what came with them.

use core::sync::atomic::{AtomicU32, AtomicU64};

/// [`Entry::op`]: `open(2)`, `openat(2)` for reading; `flags` are the flags. An answer that is not negative is a descriptor, with an
/// [`Identity`] as its bytes.
pub const OPEN: u32 = 1;
/// [`Entry::op`]: `access(2)`, `faccessat(2)`; `flags` is the mode.
pub const ACCESS: u32 = 2;
/// [`Entry::op`]: `stat(2)`, `lstat(2)`, `newfstatat(2)`; `flags` is `AT_SYMLINK_NOFOLLOW` or 0. The bytes are the `struct stat`.
pub const STAT: u32 = 3;
/// [`Entry::op`]: `readlink(2)`, `readlinkat(2)`. The bytes are the text.
pub const READLINK: u32 = 4;

/// Most entries.
pub const MAX_ENTRIES: usize = 384;
/// Where the search for an entry begins.
pub const BUCKETS: usize = 512;
/// Size of `struct stat`.
pub const STAT_SIZE: usize = 144;

/// The beginning of the answers.
#[repr(C)]
pub struct Head {
    /// 1: the answers hold.
    pub valid: AtomicU32,
    /// How many entries follow.
    pub count: u32,
    /// A bit for each entry that the shim has used, for the supervisor to foresee better.
    pub used: [u64; MAX_ENTRIES / 64],
    /// Which of the answers that were given with a stamp ([`super::reply::HOLDS`]) hold: those with this one; 0: none. The supervisor
    /// sets it to 0 before anything changes that such an answer depends on.
    pub stamp: AtomicU64,
    /// By [`hash`]: the first entry, counted from 1; 0: none.
    pub buckets: [u16; BUCKETS],
}

/// Of a question.
pub fn hash(op: u32, flags: u32, path: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ op as u64 ^ (flags as u64) << 8;
    for chunk in path.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    ((hash ^ hash >> 29) >> 16) as u32
}

/// Where the reply to a `getdents64(2)` that was asked with [`REMEMBER`] and holds says at which position of which placeholder (device, inode,
/// [`Identity::generation`]) the directory ends: from there on in the words of its `out`.
pub const END: usize = 0;
/// The sixth argument of a request for what [`ACCESS`], [`STAT`] and [`READLINK`] stand for, and of `getdents64(2)`: the caller has asked this before, and would
/// remember the answer. Otherwise it is 0.
pub const REMEMBER: u64 = 0x5245_4d45_4d42_4552;
/// Longest path, and most bytes of an answer, that are remembered.
pub const REMEMBERED_PATH: usize = 96;
/// See [`REMEMBERED_PATH`].
pub const REMEMBERED_DATA: usize = STAT_SIZE;

/// One answer. Positions are in bytes from the [`Head`].
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Entry {
    /// What is asked.
    pub op: u32,
    /// How.
    pub flags: u32,
    /// Where the path stands, which is absolute and has no NUL.
    pub path: u32,
    /// Its length.
    pub path_len: u16,
    /// The next entry with the same bucket, counted from 1; 0: none.
    pub next: u16,
    /// What the call returns.
    pub ret: i64,
    /// Where the bytes of the answer stand.
    pub data: u32,
    /// How many they are.
    pub data_len: u32,
}

/// What goes with the descriptor of an open, so that the `fstat(2)` which mostly follows can be answered: the object on the
/// host, and its attributes. Sizes and times of files are what the host says then.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Device on the host.
    pub dev: u64,
    /// Inode on the host.
    pub ino: u64,
    /// Of a directory: when the host says that the placeholder was last modified (`st_mtime`), which is another number each time that it
    /// stands for another one. 0 for a file.
    pub generation: u64,
    /// `struct stat` as the guest sees it.
    pub stat: [u64; STAT_SIZE / 8],
}

const _: () = assert!(core::mem::size_of::<Head>() == 64 + 2 * BUCKETS);
const _: () = assert!(core::mem::size_of::<Entry>() == 32);
const _: () = assert!(core::mem::size_of::<Identity>() == 168);
