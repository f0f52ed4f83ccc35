//! Shared regions: one memfd per guest address space, one slot of it per thread.
//!
//! The guest may write every byte of a region at any moment. So nothing here hands out a reference into it: requests are
//! copied out once, replies are copied in, and the only word read twice is the channel's atomic.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nomina_abi as abi;
use nomina_abi::ahead::{BUCKETS, Head, MAX_ENTRIES};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// A region and the supervisor's mapping of it.
pub struct Region {
    fd: OwnedFd,
    base: NonNull<u8>,
}

// SAFETY: the mapping lives as long as the value, and every access goes through raw volatile copies or atomics.
unsafe impl Send for Region {}
// SAFETY: as above; concurrent access is as defined as concurrent access by the guest, which can never be excluded.
unsafe impl Sync for Region {}

impl Region {
    /// Makes a region: a sparse memfd whose size is sealed, so that a guest cannot truncate it under the supervisor.
    ///
    /// # Errors
    /// What `memfd_create(2)`, `ftruncate(2)` and `mmap(2)` give.
    pub fn new() -> io::Result<Arc<Region>> {
        let fd = rustix::fs::memfd_create("nomina-region", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, abi::REGION_SIZE as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // SAFETY: a fresh shared mapping of a memfd of that size at an address the kernel chooses.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                abi::REGION_SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &fd,
                0,
            )?
        };
        let base = NonNull::new(base.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Arc::new(Region { fd, base }))
    }

    /// The memfd, to be sent to the guest.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Slot `index` (below [`abi::REGION_SLOTS`]).
    pub fn slot(self: &Arc<Self>, index: u32) -> SlotRef {
        assert!((index as usize) < abi::REGION_SLOTS);
        SlotRef { region: self.clone(), offset: abi::SLOTS_OFFSET + index as usize * abi::SLOT_SIZE }
    }

    /// Puts answers into the region that are not valid yet. `entries` and `bytes` follow each other; `buckets` say where to look for an entry.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn write_ahead(&self, buckets: &[u16; BUCKETS], entries: &[abi::ahead::Entry], bytes: &[u8]) {
        let entries_at = size_of::<Head>();
        let bytes_at = entries_at + size_of_val(entries);
        assert!(bytes_at + bytes.len() <= abi::SLOTS_OFFSET);
        self.ahead_valid().store(0, Ordering::Release);
        let base = self.base.as_ptr();
        // SAFETY: checked to be inside the mapping, before the slots; the sources are ours.
        unsafe {
            let head = base.cast::<Head>();
            ptr::write_volatile(&raw mut (*head).count, entries.len() as u32);
            ptr::write_volatile(&raw mut (*head).used, [0; _]);
            ptr::write_volatile(&raw mut (*head).buckets, *buckets);
            ptr::copy_nonoverlapping(
                entries.as_ptr().cast::<u8>(),
                base.add(entries_at),
                size_of_val(entries),
            );
            ptr::copy_nonoverlapping(bytes.as_ptr(), base.add(bytes_at), bytes.len());
        }
    }

    /// Whether the answers sent ahead hold.
    pub fn ahead_valid(&self) -> &AtomicU32 {
        // SAFETY: the word is aligned, inside the mapping for the life of `self`, and only ever used atomically here.
        unsafe { &(*self.base.as_ptr().cast::<Head>()).valid }
    }

    /// Which of the answers that the guest remembers hold.
    pub fn stamp(&self) -> &AtomicU64 {
        // SAFETY: the word is aligned, inside the mapping for the life of `self`, and only ever used atomically here.
        unsafe { &(*self.base.as_ptr().cast::<Head>()).stamp }
    }

    /// Which answers the guest says it has used.
    pub fn ahead_used(&self) -> [u64; MAX_ENTRIES / 64] {
        // SAFETY: the field is inside the mapping; volatile, since the guest may write at any moment.
        unsafe { ptr::read_volatile(&raw const (*self.base.as_ptr().cast::<Head>()).used) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `new`; no SlotRef outlives the Arc.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), abi::REGION_SIZE) };
    }
}

/// The words of a request, copied out once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request {
    /// System call number or operation.
    pub nr: u32,
    /// Arguments.
    pub args: [u64; 6],
}

/// The words of a reply.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyWords {
    /// Result.
    pub ret: i64,
    /// Flags, [`abi::reply`].
    pub flags: u32,
    /// Descriptors sent.
    pub nfds: u32,
    /// Further results.
    pub out: [u64; 7],
}

/// One slot of a region.
#[derive(Clone)]
pub struct SlotRef {
    region: Arc<Region>,
    offset: usize,
}

impl SlotRef {
    fn slot(&self) -> *mut abi::Slot {
        // SAFETY: `offset` is that of a slot inside the mapping (checked in `Region::slot`).
        unsafe { self.region.base.as_ptr().add(self.offset).cast() }
    }

    /// Index in its region.
    pub fn index(&self) -> u32 {
        ((self.offset - abi::SLOTS_OFFSET) / abi::SLOT_SIZE) as u32
    }

    /// The channel word.
    pub fn channel(&self) -> &AtomicU32 {
        // SAFETY: the word is aligned, inside the mapping for the life of `self`, and only ever used atomically here.
        unsafe { &(*self.slot()).channel }
    }

    /// The signal mask that the guest had when it made the request; meaningful until the reply is written.
    pub fn mask(&self) -> u64 {
        // SAFETY: the field is inside the mapping; volatile, since the guest may write at any moment.
        unsafe { ptr::read_volatile(&raw const (*self.slot()).ret) as u64 }
    }

    /// Copies the request out.
    pub fn request(&self) -> Request {
        let slot = self.slot();
        // SAFETY: both fields are inside the mapping; volatile, since the guest may write at any moment.
        unsafe {
            Request {
                nr: ptr::read_volatile(&raw const (*slot).nr),
                args: ptr::read_volatile(&raw const (*slot).args),
            }
        }
    }

    /// What a process with seccomp filters says its request is for ([`abi::CLAIM`]): number and arguments of the guest's call, and
    /// its instruction pointer. Meaningful until the reply is written.
    pub fn claim(&self) -> Option<(u32, [u64; 6], u64)> {
        let slot = self.slot();
        // SAFETY: both fields are inside the mapping; volatile, since the guest may write at any moment.
        let (flags, [args @ .., ip]) = unsafe {
            (ptr::read_volatile(&raw const (*slot).flags), ptr::read_volatile(&raw const (*slot).out))
        };
        (flags & abi::CLAIM != 0).then_some((flags & !abi::CLAIM, args, ip))
    }

    /// Copies a span of the data area out; `None` when it is not inside the data area.
    pub fn bytes(&self, span: u64) -> Option<Vec<u8>> {
        let (offset, len) = (span as u32 as usize, (span >> 32) as usize);
        if offset.checked_add(len)? > abi::SLOT_DATA {
            return None;
        }
        let mut copy = vec![0u8; len];
        // SAFETY: the range was checked to be inside the data area; the copy is ours.
        unsafe {
            ptr::copy_nonoverlapping(
                (&raw const (*self.slot()).data).cast::<u8>().add(offset),
                copy.as_mut_ptr(),
                len,
            );
        }
        Some(copy)
    }

    /// Writes `bytes` into a span of the data area, cut to its length; gives how many were written, or `None` when the
    /// span is not inside the data area.
    pub fn write(&self, span: u64, bytes: &[u8]) -> Option<usize> {
        let (offset, len) = (span as u32 as usize, (span >> 32) as usize);
        if offset.checked_add(len)? > abi::SLOT_DATA {
            return None;
        }
        let len = len.min(bytes.len());
        // SAFETY: the range was checked to be inside the data area.
        unsafe {
            ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                (&raw mut (*self.slot()).data).cast::<u8>().add(offset),
                len,
            );
        }
        Some(len)
    }

    /// Takes the notes about reaped children out: (number, host pid), at most [`abi::NOTES_REAPED`].
    pub fn take_reaped(&self) -> Vec<(i32, i32)> {
        let slot = self.slot();
        // SAFETY: all fields are inside the mapping; volatile, since the guest may write at any moment.
        unsafe {
            let len = ptr::read_volatile(&raw const (*slot).notes.reaped_len) as usize;
            if len == 0 {
                return Vec::new();
            }
            let entries = ptr::read_volatile(&raw const (*slot).notes.reaped);
            ptr::write_volatile(&raw mut (*slot).notes.reaped_len, 0);
            entries.iter().take(len).map(|&entry| ((entry >> 32) as i32, entry as i32)).collect()
        }
    }

    /// What the guest says is the host pid of the child that it calls `number`.
    pub fn born(&self, number: i32) -> Option<i32> {
        // SAFETY: the field is inside the mapping.
        let entries = unsafe { ptr::read_volatile(&raw const (*self.slot()).notes.born) };
        entries.iter().find(|&&entry| (entry >> 32) as i32 == number && entry != 0).map(|&entry| entry as i32)
    }

    fn promised_state(&self, index: usize) -> &AtomicU32 {
        // SAFETY: the word is aligned, inside the mapping for the life of `self`, and only ever used atomically here.
        unsafe { &(*self.slot()).notes.promised[index].state }
    }

    /// Promises a fork in entry `index`.
    pub fn promise(&self, index: usize, pid: i32, token: u64, slot: u32) {
        // SAFETY: all fields are inside the mapping; volatile, since the guest may write at any moment.
        unsafe {
            let promised = &raw mut (*self.slot()).notes.promised[index];
            ptr::write_volatile(&raw mut (*promised).pid, pid);
            ptr::write_volatile(&raw mut (*promised).token, token);
            ptr::write_volatile(&raw mut (*promised).slot, slot);
        }
        self.promised_state(index).store(abi::PROMISED, Ordering::SeqCst);
    }

    /// Whether the guest has made the fork that entry `index` promises; nothing but what was stored there says that it has not.
    pub fn is_forked(&self, index: usize) -> bool {
        self.promised_state(index).load(Ordering::SeqCst) != abi::PROMISED
    }

    /// Takes a promise back. False: the guest has made use of it.
    pub fn take_back(&self, index: usize) -> bool {
        self.promised_state(index).swap(0, Ordering::SeqCst) == abi::PROMISED
    }

    fn wake_word(&self) -> &AtomicU32 {
        // SAFETY: the word is aligned, inside the mapping for the life of `self`, and only ever used atomically here.
        unsafe { &(*self.slot()).notes.wake }
    }

    /// Before the thread is told to sleep ([`abi::reply::SLEEP`]): what wakes it from now on counts.
    pub fn clear_wake(&self) {
        self.wake_word().store(0, Ordering::SeqCst);
    }

    /// Wakes the thread if it sleeps, or is about to.
    pub fn wake(&self) {
        let word = self.wake_word();
        word.store(1, Ordering::SeqCst);
        // SAFETY: the address of a word inside the mapping; the host reads nothing else.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    /// Writes the words of the reply.
    pub fn reply(&self, words: &ReplyWords) {
        let slot = self.slot();
        // SAFETY: all fields are inside the mapping.
        unsafe {
            ptr::write_volatile(&raw mut (*slot).ret, words.ret);
            ptr::write_volatile(&raw mut (*slot).flags, words.flags);
            ptr::write_volatile(&raw mut (*slot).nfds, words.nfds);
            ptr::write_volatile(&raw mut (*slot).out, words.out);
        }
    }

    /// Whether the guest says that it waits for its tracees (`abi::Notes::waits`).
    pub fn waits(&self) -> bool {
        // SAFETY: the word is aligned, inside the mapping for the life of `self`, and only ever used atomically here.
        unsafe { &(*self.slot()).notes.waits }.load(Ordering::Acquire) != 0
    }

    /// Notes what the thread is called for ([`abi::called`]), before it is.
    pub fn call(&self, what: u32) {
        // SAFETY: as in `waits`.
        unsafe { &(*self.slot()).notes.called }.fetch_or(what, Ordering::AcqRel);
    }

    /// The slot gets another owner, who has been called for nothing.
    pub fn clear_calls(&self) {
        // SAFETY: as in `waits`.
        unsafe { &(*self.slot()).notes.called }.store(0, Ordering::Release);
    }

    /// Wakes a tracee that waits in this slot (`abi::Notes::resumed`).
    pub fn resume(&self) {
        // SAFETY: the word is aligned, inside the mapping for the life of `self`, and only ever used atomically here.
        let word = unsafe { &(*self.slot()).notes.resumed };
        word.fetch_add(1, Ordering::Release);
        let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), 1);
    }

    /// Takes a posted request, so that the shim cannot withdraw it.
    pub fn take_request(&self) -> bool {
        let (from, to) = (abi::CHANNEL_REQUEST, abi::CHANNEL_SERVING);
        self.channel().compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Spins until a request is posted, at most `spins` rounds. True: a request is there (the channel says
    /// [`abi::CHANNEL_REQUEST`]). False: the channel sleeps again and the shim will use the gate.
    pub fn watch(&self, spins: u32) -> bool {
        let channel = self.channel();
        for _ in 0..spins {
            if channel.load(Ordering::Acquire) == abi::CHANNEL_REQUEST {
                return true;
            }
            std::hint::spin_loop();
        }
        for watched in [abi::CHANNEL_WATCHED, abi::CHANNEL_DONE_WATCHED] {
            if channel
                .compare_exchange(watched, abi::CHANNEL_ASLEEP, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
            {
                return false;
            }
        }
        // Either a request came in the last moment, or the guest scribbles on the word: the former is served, the
        // latter goes back to the gate.
        if channel.load(Ordering::Acquire) == abi::CHANNEL_REQUEST {
            return true;
        }
        channel.store(abi::CHANNEL_ASLEEP, Ordering::Release);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_outside_the_data_area_are_refused() {
        let slot = Region::new().unwrap().slot(3);
        assert!(slot.bytes(abi::span(0, abi::SLOT_DATA as u32)).is_some());
        assert!(slot.bytes(abi::span(1, abi::SLOT_DATA as u32)).is_none());
        assert!(slot.bytes(abi::span(u32::MAX, 1)).is_none());
        assert!(slot.bytes(abi::SPAN_NULL).is_none());
        assert!(slot.write(abi::span(abi::SLOT_DATA as u32, 1), b"x").is_none());
        assert_eq!(slot.write(abi::span(8, 2), b"xyz"), Some(2));
        assert_eq!(slot.bytes(abi::span(8, 3)).unwrap(), b"xy\0");
    }

    #[test]
    fn a_guest_cannot_shrink_a_region() {
        let region = Region::new().unwrap();
        assert_eq!(rustix::fs::ftruncate(region.fd(), 0), Err(rustix::io::Errno::PERM));
    }

    #[test]
    fn an_unwatched_channel_falls_asleep() {
        let slot = Region::new().unwrap().slot(0);
        slot.channel().store(abi::CHANNEL_WATCHED, Ordering::Release);
        assert!(!slot.watch(10));
        assert_eq!(slot.channel().load(Ordering::Acquire), abi::CHANNEL_ASLEEP);
        slot.channel().store(abi::CHANNEL_REQUEST, Ordering::Release);
        assert!(slot.watch(10));
    }
}
