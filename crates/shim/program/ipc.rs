//! System V IPC and POSIX message queues: `shmat(2)` and its relatives, `semop(2)`, `msgsnd(2)`, `msgrcv(2)` and the `*ctl(2)` calls.
//!
//! The objects are the supervisor's. Memory of segments is mapped here, natively. A call that sleeps does so here, too, on a word of
//! the slot, and then asks again ([`sleeping`]). Payloads that are too long for the slot travel in a memfd.
//!
//! Where ours differs: a stop and `SIGCONT` do not end `semop(2)` with `EINTR` (`signal(7)`).

use core::sync::atomic::AtomicU32;

use nomina_abi::{SLOT_DATA, SPAN_NULL, ipc, reply};

use crate::area::Area;
use crate::marshal::Arena;
use crate::slot::{Received, ask, data, out, request};
use crate::sys::{self, err, nr, sys};
use crate::uaccess::{copy_to_user, get_user, put_user};
use crate::window::window;

const PAGE_SIZE: u64 = 4096;
const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;
const MAP_SHARED: u64 = 1;
const MAP_FIXED: u64 = 0x10;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const MFD_CLOEXEC: u64 = 1;

const SHM_RDONLY: u64 = 0o10000;
const SHM_RND: u64 = 0o20000;
const SHM_REMAP: u64 = 0o40000;
const SHM_EXEC: u64 = 0o100000;

const IPC_SET: i32 = 1;
const IPC_INFO: i32 = 3;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
/// Sizes of `struct shmid64_ds`, `semid64_ds`, `msqid64_ds`.
const SHMID_DS: u64 = 112;
const SEMID_DS: u64 = 104;
const MSQID_DS: u64 = 120;
const SEMBUF: u64 = 6;
/// More operations than any limit that fits a message allows.
const SEMOPM: u64 = (SLOT_DATA as u64) / SEMBUF;

const FUTEX_WAIT_BITSET: u64 = 9;
const FUTEX_CLOCK_REALTIME: u64 = 256;
const ANY: u64 = 0xffff_ffff;
const CLOCK_MONOTONIC: u64 = 1;
const NSEC_PER_SEC: i64 = 1_000_000_000;

/// When a call stops sleeping.
pub enum Until {
    /// Never.
    Forever,
    /// At a time of `CLOCK_MONOTONIC`.
    Monotonic([i64; 2]),
    /// At a time of `CLOCK_REALTIME`.
    Realtime([i64; 2]),
}

/// Makes a call that may sleep. `EINTR` when a signal came first, or what the supervisor says when the time is over.
pub fn sleeping(area: &Area, number: u64, args: [u64; 6], until: &Until) -> (i64, Received) {
    let mut call = args;
    call[5] = ipc::FRESH;
    loop {
        let (ret, flags, received) = ask(area, number as u32, &call);
        if flags & reply::SLEEP == 0 {
            return (ret, received);
        }
        // SAFETY: only an address is computed.
        let word: *mut AtomicU32 = unsafe { &raw mut (*area.slot.get()).notes.wake };
        let (clock, time): (u64, u64) = match until {
            Until::Forever => (0, 0),
            Until::Monotonic(time) => (0, time.as_ptr() as u64),
            Until::Realtime(time) => (FUTEX_CLOCK_REALTIME, time.as_ptr() as u64),
        };
        let wait = [word as u64, FUTEX_WAIT_BITSET | clock, 0, time, 0, ANY];
        call[5] = match window(area, area.guest_mask(), nr::FUTEX, wait) {
            0 | err::EAGAIN => ipc::WOKEN,
            err::ETIMEDOUT => ipc::TIMED_OUT,
            _ => ipc::INTERRUPTED,
        };
    }
}

/// The end of a call that is restarted unless a handler ran (`ERESTARTNOHAND`).
fn no_handler(ret: i64) -> i64 {
    if ret == err::EINTR { err::ERESTARTNOHAND } else { ret }
}

/// Puts a payload where the supervisor finds it: a span, or its length and one more than the number of a file that has it.
pub struct Payload {
    /// The argument for the payload.
    pub arg: u64,
    /// The argument for the file.
    pub file: u64,
}

impl Payload {
    /// Of the guest's memory.
    pub fn new(area: &Area, from: u64, len: u64) -> Result<Payload, i64> {
        if len <= SLOT_DATA as u64 {
            return Ok(Payload { arg: Arena::new(area).bytes(from, len)?, file: 0 });
        }
        let name = *b"nomina-text\0";
        // SAFETY: the kernel reads the name.
        let fd = unsafe { sys!(nr::MEMFD_CREATE, name.as_ptr(), MFD_CLOEXEC) };
        if fd < 0 {
            return Err(fd);
        }
        let payload = Payload { arg: len, file: fd as u64 + 1 };
        let mut done = 0;
        while done < len {
            // SAFETY: the kernel reads the guest's memory, and checks it.
            match unsafe { sys!(nr::WRITE, fd, from + done, len - done) } {
                more @ 1.. => done += more as u64,
                0 => return Err(err::EFAULT),
                error => return Err(error),
            }
        }
        Ok(payload)
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        if self.file != 0 {
            sys::close(self.file as i32 - 1);
        }
    }
}

/// Copies what the supervisor gave, as many bytes as `out[0]` says, to the guest.
pub fn take(area: &Area, received: &Received, to: u64) -> Result<(), i64> {
    let len = out(area, 0);
    if received.count == 0 {
        // SAFETY: inside the data.
        return unsafe { copy_to_user(to, data(area), len.min(SLOT_DATA as u64) as usize) };
    }
    let mut done = 0;
    while done < len {
        // SAFETY: the kernel writes the guest's memory, and checks it.
        match unsafe { sys!(nr::PREAD64, received.fds[0], to + done, len - done, done) } {
            more @ 1.. => done += more as u64,
            0 => return Err(err::EIO),
            error => return Err(error),
        }
    }
    Ok(())
}

/// A call whose reply has bytes for `to`.
fn fetching(area: &Area, number: u64, args: &[u64; 6], to: u64) -> Result<i64, i64> {
    let (ret, _, received) = ask(area, number as u32, args);
    let taken = if ret >= 0 && out(area, 0) != 0 { take(area, &received, to) } else { Ok(()) };
    received.close();
    taken.map(|()| ret)
}

/// `shmat(2)`. `EINVAL` for an address that is not aligned, or where something is mapped and `SHM_REMAP` is not given.
pub fn shmat(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [shmid, addr, flags, ..] = *args;
    let at = if flags & SHM_RND != 0 { addr & !(PAGE_SIZE - 1) } else { addr };
    if (shmid as i32) < 0 || at % PAGE_SIZE != 0 || (at == 0 && flags & SHM_REMAP != 0) {
        return Err(err::EINVAL);
    }
    let (ret, _, received) = ask(area, nr::SHMAT as u32, &[shmid, addr, flags, 0, 0, 0]);
    if ret < 0 || received.count == 0 {
        received.close();
        return Err(if ret < 0 { ret } else { err::EIO });
    }
    let len = out(area, 0);
    let mut protection = PROT_READ;
    if flags & SHM_RDONLY == 0 {
        protection |= PROT_WRITE;
    }
    if flags & SHM_EXEC != 0 {
        protection |= PROT_EXEC;
    }
    let place = match (at, flags & SHM_REMAP) {
        (0, _) => 0,
        (_, 0) => MAP_FIXED_NOREPLACE,
        _ => MAP_FIXED,
    };
    // SAFETY: where the guest wants it, or where nothing is.
    let mapped = unsafe { sys!(nr::MMAP, at, len, protection, MAP_SHARED | place, received.fds[0], 0) };
    received.close();
    Ok(if mapped == err::EEXIST { err::EINVAL } else { mapped })
}

/// `shmdt(2)`. `EINVAL` when no segment is attached there.
pub fn shmdt(area: &Area, addr: u64) -> Result<i64, i64> {
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(err::EINVAL);
    }
    let ret = request(area, nr::SHMDT as u32, &[addr, 0, 0, 0, 0, 0]);
    if ret < 0 {
        return Err(ret);
    }
    let count = (out(area, 0) as usize).min(SLOT_DATA / 16);
    for index in 0..count {
        // SAFETY: inside the data, which is aligned.
        let [start, end] = unsafe { data(area).cast::<[u64; 2]>().add(index).read_volatile() };
        // SAFETY: the guest's own mapping of a segment.
        unsafe { sys!(nr::MUNMAP, start, end - start) };
    }
    request(area, nr::SHMDT as u32, &[addr, ipc::DETACHED, 0, 0, 0, 0]);
    Ok(0)
}

/// `shmctl(2)` and `msgctl(2)`.
pub fn control(area: &Area, number: u64, args: &[u64; 6]) -> Result<i64, i64> {
    let [id, command, at, ..] = *args;
    let mut call = [id, command, 0, 0, 0, 0];
    if command as i32 == IPC_SET {
        let len = if number == nr::SHMCTL { SHMID_DS } else { MSQID_DS };
        call[2] = Arena::new(area).bytes(at, len)?;
    }
    fetching(area, number, &call, at)
}

/// `semctl(2)`.
pub fn semctl(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [semid, num, command, arg, ..] = *args;
    let mut call = [semid, num, command, 0, 0, 0];
    match command as i32 {
        IPC_SET => call[3] = Arena::new(area).bytes(arg, SEMID_DS)?,
        SETVAL => call[3] = arg,
        SETALL => {
            let ask_number = [semid, 0, ipc::SEM_NSEMS as u64, 0, 0, 0];
            let ret = request(area, nr::SEMCTL as u32, &ask_number);
            if ret < 0 {
                return Err(ret);
            }
            let payload = Payload::new(area, arg, out(area, 0) * 2)?;
            (call[3], call[4]) = (payload.arg, payload.file);
            return Ok(request(area, nr::SEMCTL as u32, &call));
        }
        ipc::SEM_NSEMS => return Err(err::EINVAL),
        _ => {}
    }
    fetching(area, nr::SEMCTL, &call, arg)
}

/// `semop(2)`, `semtimedop(2)`. Never restarted.
pub fn semop(area: &Area, number: u64, args: &[u64; 6], timeout: u64) -> Result<i64, i64> {
    let [semid, sops, nsops, ..] = *args;
    let nsops = u64::from(nsops as u32);
    let time = if timeout == 0 { None } else { Some(get_user::<[i64; 2]>(timeout)?) };
    if nsops < 1 || (semid as i32) < 0 {
        return Err(err::EINVAL);
    }
    if nsops > SEMOPM {
        return Err(err::E2BIG);
    }
    let span = match Arena::new(area).bytes(sops, nsops * SEMBUF) {
        // Too many is said before they are looked at; the supervisor knows how many that is.
        Err(err::EFAULT) => nomina_abi::span(0, 0),
        span => span?,
    };
    let until = match time {
        None => Until::Forever,
        Some([sec, nsec]) if sec < 0 || !(0..NSEC_PER_SEC).contains(&nsec) => return Err(err::EINVAL),
        Some(time) => Until::Monotonic(from_now(time)),
    };
    let (ret, received) = sleeping(area, number, [semid, span, nsops, 0, 0, 0], &until);
    received.close();
    Ok(ret)
}

/// A time of `CLOCK_MONOTONIC`, so long from now.
fn from_now([sec, nsec]: [i64; 2]) -> [i64; 2] {
    let mut now = [0i64; 2];
    // SAFETY: the kernel writes the time.
    unsafe { sys!(nr::CLOCK_GETTIME, CLOCK_MONOTONIC, now.as_mut_ptr()) };
    let nsec = now[1] + nsec;
    [now[0].saturating_add(sec).saturating_add(nsec / NSEC_PER_SEC), nsec % NSEC_PER_SEC]
}

/// `msgsnd(2)`.
pub fn msgsnd(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [msqid, at, len, flags, ..] = *args;
    let mtype: i64 = get_user(at)?;
    if (len as i64) < 0 || (msqid as i32) < 0 || mtype < 1 {
        return Err(err::EINVAL);
    }
    if len > SLOT_DATA as u64 {
        // The limit comes before the reading.
        request(area, nr::MSGCTL as u32, &[0, IPC_INFO as u64, 0, 0, 0, 0]);
        // SAFETY: inside the data, which is aligned; the third number of `struct msginfo`.
        let msgmax = unsafe { data(area).cast::<u32>().add(2).read_volatile() };
        if len > u64::from(msgmax) {
            return Err(err::EINVAL);
        }
    }
    let payload = Payload::new(area, at.wrapping_add(8), len)?;
    let call = [msqid, payload.arg, mtype as u64, flags, payload.file, 0];
    let (ret, received) = sleeping(area, nr::MSGSND, call, &Until::Forever);
    received.close();
    Ok(no_handler(ret))
}

/// `msgrcv(2)`.
pub fn msgrcv(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [msqid, at, room, mtype, flags, _] = *args;
    let call = [msqid, room, mtype, flags, 0, 0];
    let (ret, received) = sleeping(area, nr::MSGRCV, call, &Until::Forever);
    let taken = if ret >= 0 {
        put_user(at, out(area, 1)).and_then(|()| take(area, &received, at.wrapping_add(8)))
    } else {
        Ok(())
    };
    received.close();
    taken.map(|()| no_handler(ret))
}

/// `mq_notify(2)`.
pub fn mq_notify(area: &Area, queue: u64, event: u64) -> Result<i64, i64> {
    const SIGEVENT: u64 = 64;
    const SIGEV_THREAD: u32 = 2;
    const COOKIE: u64 = 32;
    let mut call = [queue, SPAN_NULL, SPAN_NULL, 0, 0, 0];
    if event != 0 {
        let mut arena = Arena::new(area);
        call[1] = arena.bytes(event, SIGEVENT)?;
        if get_user::<u32>(event.wrapping_add(12))? == SIGEV_THREAD {
            call[2] = arena.bytes(get_user(event)?, COOKIE)?;
        }
    }
    Ok(request(area, nr::MQ_NOTIFY as u32, &call))
}

/// The time until which a queue is waited for. `EINVAL` for none that can be.
fn deadline(at: u64) -> Result<Until, i64> {
    if at == 0 {
        return Ok(Until::Forever);
    }
    let [sec, nsec] = get_user::<[i64; 2]>(at)?;
    if sec < 0 || !(0..NSEC_PER_SEC).contains(&nsec) {
        return Err(err::EINVAL);
    }
    Ok(Until::Realtime([sec, nsec]))
}

/// The end of a call that handlers with `SA_RESTART` restart.
fn restartable(ret: i64) -> i64 {
    if ret == err::EINTR { err::ERESTARTSYS } else { ret }
}

/// `mq_timedsend(2)`.
pub fn mq_timedsend(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    const LONGEST: u64 = 16 << 20;
    let [queue, text, len, prio, timeout, _] = *args;
    let until = deadline(timeout)?;
    // More than any queue takes.
    if len > LONGEST {
        return Err(err::EMSGSIZE);
    }
    let payload = Payload::new(area, text, len)?;
    let call = [queue, payload.arg, u64::from(prio as u32), 0, payload.file, 0];
    let (ret, received) = sleeping(area, nr::MQ_TIMEDSEND, call, &until);
    received.close();
    Ok(restartable(ret))
}

/// `mq_timedreceive(2)`.
pub fn mq_timedreceive(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [queue, text, room, prio, timeout, _] = *args;
    let until = deadline(timeout)?;
    let (ret, received) = sleeping(area, nr::MQ_TIMEDRECEIVE, [queue, room, 0, 0, 0, 0], &until);
    let taken = if ret >= 0 {
        let stored = if prio == 0 { Ok(()) } else { put_user(prio, out(area, 1) as u32) };
        stored.and_then(|()| take(area, &received, text))
    } else {
        Ok(())
    };
    received.close();
    taken.map(|()| restartable(ret))
}
