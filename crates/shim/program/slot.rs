//! The request path: a request in the thread's slot, by the spinning channel or by notification, and the descriptors of a reply.

use core::ptr::{read_volatile, write_volatile};
use core::sync::atomic::{AtomicU32, Ordering, fence};

use nomina_abi::{
    CHANNEL_ASLEEP, CHANNEL_DONE_WATCHED, CHANNEL_REQUEST, CHANNEL_SERVING, CHANNEL_WATCHED, CLAIM, FD_SOCK, GATE_ATTACH, GATE_CALL, GATE_MAGIC, GATE_NR, Given,
    NOTES_BORN, NOTES_REAPED, SLOT_SIZE, SLOTS_OFFSET, Slot,
    op, reply, FORKED, NOTES_PROMISED, PROMISED,
};

use crate::area::{Area, FilesGuard, REGION, THREADED};
use crate::sys::{self, err, nr, sys};
use crate::window::window;

/// Rounds of spinning before the processor is given to others between looks.
const SPINS: u32 = 10_000;
/// Rounds in which the supervisor must have taken the request: some microseconds.
const PICK_UP: u32 = 500;
/// Rounds of yielding between which the supervisor is asked whether it is alive.
const YIELDS_PER_PROBE: u32 = 50_000;
/// Most descriptors in one reply.
pub const MAX_FDS: usize = 8;

/// Descriptors that came with a reply.
#[derive(Clone, Copy)]
pub struct Received {
    /// The descriptors, -1 where there is none.
    pub fds: [i32; MAX_FDS],
    /// How many.
    pub count: usize,
}

impl Received {
    const NONE: Received = Received { fds: [-1; MAX_FDS], count: 0 };

    /// Closes all of them.
    pub fn close(&self) {
        for &fd in &self.fds[..self.count] {
            sys::close(fd);
        }
    }
}

/// The gate call itself. A supervisor that is gone ends the process.
pub fn gate(call: u64, token: u64) -> i64 {
    loop {
        // SAFETY: the filter makes it a notification; without the filter the kernel would find no such address.
        match unsafe { sys!(u64::from(GATE_NR), call, token, GATE_MAGIC) } {
            err::EINTR => {}
            err::ENOSYS => sys::exit_group(137),
            ret => return ret,
        }
    }
}

/// Whether the reply of a call never carries descriptors: then the socket's lock is not needed.
fn never_receives(number: u32) -> bool {
    matches!(number,
        4..=6 | 21 | 29 | 64 | 65 | 67..=69 | 101 | 310 | 311 | 39 | 49 | 51 | 52 | 54 | 55 | 62 | 63 | 79..=84 | 86..=95 | 102..=126 | 140 | 141 | 188..=200 | 217 | 234 | 235
        | 258..=269 | 280 | 302 | 316 | 332 | 439 | 452
        | op::CLONE_FAILED | op::EXEC | op::EXEC_FAILED | op::XLATE | op::REAP | op::WRITTEN | op::TEXT
        | op::PTRACE_STOP | op::PTRACE_POLL | op::PTRACE_WAIT | op::PTRACE_EXIT | op::MARKED | op::SIGNALFD
        | op::SECCOMP_JUDGE)
}

/// Whether a call may give the thread other ids, or other numbers for them.
fn changes_ids(number: u32) -> bool {
    // set*uid, set*gid, unshare, setns
    matches!(number, 105 | 106 | 113 | 114 | 117 | 119 | 122 | 123 | 272 | 308)
}

fn socket_lock(area: &Area, number: u32) -> Option<FilesGuard> {
    (THREADED.load(Ordering::Relaxed) && !never_receives(number)).then(|| area.files().lock())
}

/// In a forked process before its first request: introduces it, and receives its socket and its region.
#[cold]
pub fn introduce(area: &Area) {
    let token = area.token.get();
    // With a descriptor table that others use, too, a message may be theirs.
    let _guard = THREADED.load(Ordering::Relaxed).then(|| area.files().lock());
    let answer = match gate(GATE_ATTACH, token) {
        // A limit below the hidden numbers keeps the supervisor from installing the socket.
        err::EBADF => crate::fd::with_hidden_numbers(|| gate(GATE_ATTACH, token)),
        other => other,
    };
    if answer < 0 {
        sys::exit_group(137);
    }
    area.borrowed.set(core::ptr::null_mut());
    let at = REGION.load(Ordering::Relaxed);
    let mapped = crate::fd::with_higher_limit(|| receive_fds(FD_SOCK, true, &mut [0; 8]))
        .and_then(|received| crate::start::map_region(received.fds[0], at));
    if mapped.is_err() {
        sys::exit_group(125);
    }
    area.set_slot(0);
}

/// Makes sure that the thread has a slot.
#[inline(always)]
pub fn ready(area: &Area) {
    if area.slot.get().is_null() {
        introduce(area);
    }
}

/// Notes a forked child's numbers where the supervisor can find them.
pub fn note_born(area: &Area, guest: i32, host: i32) {
    // SAFETY: as in `post`.
    unsafe {
        let notes = &raw mut (*area.slot.get()).notes;
        let next = read_volatile(&raw const (*notes).born_next);
        let entry = u64::from(guest as u32) << 32 | u64::from(host as u32);
        write_volatile(&raw mut (*notes).born[next as usize % NOTES_BORN], entry);
        write_volatile(&raw mut (*notes).born_next, next.wrapping_add(1));
    }
}

/// Takes a fork that was promised: number, token and borrowed slot of the child.
pub fn take_promise(area: &Area) -> Option<(i32, u64, u32)> {
    let slot = area.slot.get();
    if slot.is_null() {
        return None;
    }
    for index in 0..NOTES_PROMISED {
        // SAFETY: as in `post`.
        unsafe {
            let promised = &raw mut (*slot).notes.promised[index];
            let state = AtomicU32::from_ptr((&raw mut (*promised).state).cast());
            if state.compare_exchange(PROMISED, FORKED, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                return Some((
                    read_volatile(&raw const (*promised).pid),
                    read_volatile(&raw const (*promised).token),
                    read_volatile(&raw const (*promised).slot),
                ));
            }
        }
    }
    None
}

/// Notes that a child's zombie is gone, for the supervisor to read with the next request. False: there is no room.
pub fn note_reaped(area: &Area, guest: i32, host: i32) -> bool {
    if area.slot.get().is_null() {
        return false;
    }
    // SAFETY: as in `post`.
    unsafe {
        let notes = &raw mut (*area.slot.get()).notes;
        let len = read_volatile(&raw const (*notes).reaped_len);
        if len as usize >= NOTES_REAPED {
            return false;
        }
        let entry = u64::from(guest as u32) << 32 | u64::from(host as u32);
        write_volatile(&raw mut (*notes).reaped[len as usize], entry);
        write_volatile(&raw mut (*notes).reaped_len, len + 1);
        true
    }
}

/// Posts what is in the slot and waits for the reply.
fn post(area: &Area, slot: *mut Slot, number: u32, args: &[u64; 6]) -> i64 {
    // SAFETY: the slot is mapped as long as the process lives, and only this thread posts in it. The supervisor writes it too, so
    // accesses are volatile and no reference is made.
    unsafe {
        write_volatile(&raw mut (*slot).nr, number);
        write_volatile(&raw mut (*slot).args, *args);
        write_volatile(&raw mut (*slot).ret, area.mask.get() as i64);
        if area.claimed.get() {
            let [call, words @ ..] = area.claim.get();
            write_volatile(&raw mut (*slot).flags, CLAIM | call as u32);
            write_volatile(&raw mut (*slot).out, words);
        }
        let channel = AtomicU32::from_ptr((&raw mut (*slot).channel).cast());
        let state = channel.load(Ordering::Acquire);
        let watched = state == CHANNEL_WATCHED || state == CHANNEL_DONE_WATCHED;
        let posted = watched
            && channel.compare_exchange(state, CHANNEL_REQUEST, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !(posted && spin(channel)) {
            let served = gate(GATE_CALL, area.token.get());
            if served < 0 {
                write_volatile(&raw mut (*slot).flags, 0);
                write_volatile(&raw mut (*slot).nfds, 0);
                return served;
            }
            fence(Ordering::Acquire);
        }
        read_volatile(&raw const (*slot).ret)
    }
}

#[cold]
fn yield_or_probe(rounds: u32) {
    sys::sched_yield();
    if rounds.is_multiple_of(YIELDS_PER_PROBE) {
        gate(0, 0);
    }
}

/// Waits for the reply. False: the supervisor did not take the request, which is withdrawn.
fn spin(channel: &AtomicU32) -> bool {
    let mut rounds = 0u32;
    loop {
        // Done, and perhaps asleep again by the time we look.
        let state = channel.load(Ordering::Acquire);
        if state != CHANNEL_REQUEST && state != CHANNEL_SERVING {
            return true;
        }
        if state == CHANNEL_REQUEST
            && rounds > PICK_UP
            && channel
                .compare_exchange(CHANNEL_REQUEST, CHANNEL_ASLEEP, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            return false;
        }
        rounds = rounds.wrapping_add(1);
        if rounds < SPINS {
            core::hint::spin_loop();
        } else {
            yield_or_probe(rounds - SPINS + 1);
        }
    }
}

/// Most descriptors that one request can need.
const MAX_GIVEN: u32 = 8;

/// Sends the supervisor a descriptor that the request in `slot` names; only word of it, if there is none of that number.
#[cold]
fn give(slot: *mut Slot, fd: i32) -> i64 {
    let index = (slot as u64 - REGION.load(Ordering::Relaxed) - SLOTS_OFFSET as u64) / SLOT_SIZE as u64;
    let mut given = Given { slot: index as u32, fd };
    let mut iov = IoVec { base: (&raw mut given).cast(), len: size_of::<Given>() };
    let mut control = Control { len: 20, level: SOL_SOCKET, kind: SCM_RIGHTS, fds: [fd; MAX_FDS] };
    let mut message = MsgHdr {
        name: 0,
        name_len: 0,
        iov: &raw mut iov,
        iov_len: 1,
        control: &raw mut control,
        control_len: 24,
        flags: 0,
    };
    let flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    // SAFETY: the header describes buffers that live through the call.
    let sent = unsafe { sys!(nr::SENDMSG, FD_SOCK, &raw mut message, flags) };
    if sent != err::EBADF {
        return sent;
    }
    message.control_len = 0;
    // SAFETY: as above.
    unsafe { sys!(nr::SENDMSG, FD_SOCK, &raw mut message, flags) }
}

/// Asks, and gives back the result with the descriptors that came. `WAIT` and `RETRY` are not followed.
fn ask_once(area: &Area, number: u32, args: &[u64; 6]) -> (i64, u32, Received) {
    if changes_ids(number) {
        area.ids.set(None);
    }
    ready(area);
    let slot = area.slot.get();
    let _guard = socket_lock(area, number);
    let mut ret = post(area, slot, number, args);
    // SAFETY: as in `post`.
    let words =
        || unsafe { (read_volatile(&raw const (*slot).flags), read_volatile(&raw const (*slot).nfds)) };
    let (mut flags, mut nfds) = words();
    let mut given = 0;
    while flags & reply::GIVE != 0 {
        given += 1;
        let error = if given > MAX_GIVEN { err::EIO } else { give(slot, ret as i32) };
        if error < 0 {
            return (error, 0, Received::NONE);
        }
        ret = post(area, slot, number, args);
        (flags, nfds) = words();
    }
    if nfds == 0 {
        return (ret, flags, Received::NONE);
    }
    match receive_fds(FD_SOCK, flags & reply::CLOEXEC != 0, &mut [0; 8]) {
        Ok(received) => (ret, flags, received),
        Err(error) => (error, 0, Received::NONE),
    }
}

/// Asks, and gives back the reply's flags as well. Only `RETRY` is followed.
pub fn ask(area: &Area, number: u32, args: &[u64; 6]) -> (i64, u32, Received) {
    loop {
        let (ret, flags, received) = ask_once(area, number, args);
        if flags & reply::RETRY == 0 {
            return (ret, flags, received);
        }
        received.close();
        sys::sched_yield();
    }
}

/// Asks; the descriptors of the reply are close-on-exec or not as the reply says.
pub fn exchange(area: &Area, number: u32, args: &[u64; 6]) -> (i64, Received) {
    let (ret, _, received) = ask(area, number, args);
    (ret, received)
}

/// Tells that the thread ends. By the gate, and without a look at the reply: the slot may have another owner by then.
pub fn farewell(area: &Area, code: u64) {
    ready(area);
    let slot = area.slot.get();
    // SAFETY: as in `post`.
    unsafe {
        write_volatile(&raw mut (*slot).nr, op::THREAD_EXIT);
        write_volatile(&raw mut (*slot).args, [code, 0, 0, 0, 0, 0]);
    }
    gate(GATE_CALL, area.token.get());
}

/// Asks, and does with the reply what its flags say.
#[inline]
pub fn request(area: &Area, number: u32, args: &[u64; 6]) -> i64 {
    request_with_flags(area, number, args).0
}

/// The same, with the flags of the reply that are not followed.
pub fn request_with_flags(area: &Area, number: u32, args: &[u64; 6]) -> (i64, u32) {
    loop {
        let (ret, flags, received) = ask_once(area, number, args);
        if flags & !reply::HOLDS == 0 && received.count == 0 {
            return (ret, flags);
        }
        if flags & reply::WAIT != 0 {
            if area.patched.get() {
                // Nothing has been done yet: the trap asks again, and can wait.
                received.close();
                return (err::NEEDS_FRAME, 0);
            }
            let interrupted = received.count > 0 && wait_readable(area, received.fds[0]) < 0;
            received.close();
            if interrupted {
                return (err::ERESTARTSYS, 0);
            }
        } else if flags & reply::RETRY != 0 {
            received.close();
            sys::sched_yield();
        } else if flags & reply::FD != 0 && received.count > 0 && ret >= 0 {
            for &fd in &received.fds[1..received.count] {
                sys::close(fd);
            }
            if flags & reply::TTY != 0 {
                // SAFETY: touches no memory. The host makes it the controlling terminal of a session leader without one, and of nobody else.
                unsafe { sys!(nr::IOCTL, received.fds[0], TIOCSCTTY, 0) };
            }
            return (i64::from(received.fds[0]), flags & reply::HOLDS);
        } else {
            received.close();
            return (ret, 0);
        }
    }
}

/// A word of the reply's `out`.
pub fn out(area: &Area, index: usize) -> u64 {
    // SAFETY: as in `post`.
    unsafe { read_volatile(&raw const (*area.slot.get()).out[index]) }
}

/// Address of the slot's data.
pub fn data(area: &Area) -> *mut u8 {
    // SAFETY: only an address is computed.
    unsafe { (&raw mut (*area.slot.get()).data).cast() }
}

fn wait_readable(area: &Area, fd: i32) -> i64 {
    let mut pollfd = fd as u32 as u64 | 1 << 32;
    window(area, area.guest_mask(), nr::POLL, [&raw mut pollfd as u64, 1, u64::MAX, 0, 0, 0])
}

#[repr(C)]
struct IoVec {
    base: *mut u8,
    len: usize,
}

#[repr(C)]
struct MsgHdr {
    name: u64,
    name_len: u64,
    iov: *mut IoVec,
    iov_len: usize,
    control: *mut Control,
    control_len: usize,
    flags: u64,
}

#[repr(C, align(8))]
struct Control {
    len: usize,
    level: i32,
    kind: i32,
    fds: [i32; MAX_FDS],
}

const TIOCSCTTY: u64 = 0x540e;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const MSG_DONTWAIT: u64 = 0x40;
const MSG_NOSIGNAL: u64 = 0x4000;
const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
const MSG_CTRUNC: u64 = 8;

/// Receives one message and its descriptors. `EMFILE` if not all of them found room; `EIO` if there is no message.
pub fn receive_fds(socket: i32, cloexec: bool, payload: &mut [u8]) -> Result<Received, i64> {
    let mut control = Control { len: 0, level: 0, kind: 0, fds: [-1; MAX_FDS] };
    let mut iov = IoVec { base: payload.as_mut_ptr(), len: payload.len() };
    let mut message = MsgHdr {
        name: 0,
        name_len: 0,
        iov: &raw mut iov,
        iov_len: 1,
        control: &raw mut control,
        control_len: size_of::<Control>(),
        flags: 0,
    };
    let flags = MSG_DONTWAIT | if cloexec { MSG_CMSG_CLOEXEC } else { 0 };
    // SAFETY: the header describes buffers that live through the call.
    let got = unsafe { sys!(nr::RECVMSG, socket, &raw mut message, flags) };
    if got < 0 {
        return Err(err::EIO);
    }
    let mut received = Received::NONE;
    if message.control_len >= 16 && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS {
        received.count = ((control.len - 16) / 4).min(MAX_FDS);
        received.fds = control.fds;
    }
    if message.flags & MSG_CTRUNC != 0 {
        received.close();
        return Err(err::EMFILE);
    }
    Ok(received)
}
