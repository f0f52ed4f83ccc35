//! Tracing on the host's side: tracees that are parked in their shims, tracers that wait, and the memory of tracees.
//!
//! The host's ptrace is not used. A tracee's shim posts the tracee's registers and waits; what its tracer changes is changed in a
//! copy here, which the tracee gets when it goes on. A tracee that lies about itself deceives its tracer and nobody else:
//! everything the tracer asks is checked against the model.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_abi::ptrace as abi;
use nomina_abi::{SHIM_BASE, SHIM_END, SI_NOMINA, SIG_CALL, called, span};
use nomina_gate::region::SlotRef;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::exit::ExitOutcome;
use nomina_kernel::kernel::Kernel;
use nomina_kernel::ptrace::{PtraceOptions, Released, ResumeMode, Tracee};
use nomina_kernel::task::TaskId;
use rustix::fs::{Mode, OFlags};

use super::Server;
use super::guest::GuestThread;
use super::lock::Mutex;
use super::sys::clone::host_tid;

/// `si_code` of SIGCHLD: a tracee has stopped.
pub const CLD_TRAPPED: i32 = 4;
/// `si_code` of SIGCHLD: a tracee is stopped with its process.
pub const CLD_STOPPED: i32 = 5;
const CLD_EXITED: i32 = 1;
const CLD_KILLED: i32 = 2;

/// A tracee that stands still.
pub struct Parked {
    /// Its registers, as it posted them and its tracer changed them.
    pub registers: abi::Registers,
    slot: SlotRef,
}

/// Tracees that stand still and tracers that wait. Both locks are leaves below the kernel's.
#[derive(Default)]
pub struct Tracees {
    parked: Mutex<HashMap<TaskId, Parked>>,
    waiters: Mutex<HashMap<TaskId, Arc<GuestThread>>>,
}

/// [`abi::mode`] of a tracee that goes on.
pub fn mode_of(tracee: &Tracee) -> u32 {
    let option = |option, bit| if tracee.options.contains(option) { bit } else { 0 };
    abi::mode::TRACED
        | option(PtraceOptions::EXIT, abi::mode::EXIT)
        | option(PtraceOptions::EXEC, abi::mode::EXEC)
        | option(PtraceOptions::VFORK_DONE, abi::mode::VFORK_DONE)
        | if tracee.seized { abi::mode::SEIZED } else { 0 }
        | if tracee.attention.is_empty() { 0 } else { abi::mode::ATTEND }
        | match tracee.mode {
            ResumeMode::Cont => 0,
            ResumeMode::Syscall => abi::mode::SYSCALL,
            ResumeMode::SingleStep => abi::mode::STEP,
        }
}

/// Reads [`abi::Registers`].
pub fn registers_from(bytes: &[u8]) -> Option<abi::Registers> {
    let word = |at: usize| super::layout::u64_at(bytes, at * 8);
    (bytes.len() == abi::REGISTERS_SIZE).then(|| abi::Registers {
        user: std::array::from_fn(word),
        sigmask: word(27),
        fpstate: word(28),
        fpstate_size: word(29),
        info: std::array::from_fn(|at| bytes[240 + at]),
        mode: word(46),
    })
}

fn registers_to(registers: &abi::Registers) -> Vec<u8> {
    let mut bytes: Vec<u8> = registers.user.iter().flat_map(|word| word.to_ne_bytes()).collect();
    for word in [registers.sigmask, registers.fpstate, registers.fpstate_size] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(registers.info);
    bytes.extend(registers.mode.to_ne_bytes());
    bytes
}

impl Tracees {
    /// A tracee stands still. With the kernel locked.
    pub fn park(&self, task: TaskId, slot: SlotRef, registers: abi::Registers) {
        self.parked.lock().unwrap().insert(task, Parked { registers, slot });
    }

    /// Works on a parked tracee's registers. `ESRCH` if it is not parked.
    pub fn with<T>(&self, task: TaskId, with: impl FnOnce(&mut abi::Registers) -> T) -> Result<T> {
        let mut parked = self.parked.lock().unwrap();
        parked.get_mut(&task).map(|parked| with(&mut parked.registers)).ok_or(Errno::ESRCH)
    }

    /// Lets a parked tracee go on; `mode` as in [`abi::mode`].
    pub fn unpark(&self, task: TaskId, mode: u32) {
        let Some(mut parked) = self.parked.lock().unwrap().remove(&task) else { return };
        parked.registers.mode = mode.into();
        let bytes = registers_to(&parked.registers);
        parked.slot.write(span(0, bytes.len() as u32), &bytes);
        parked.slot.resume();
    }

    /// A thread waits for its tracees. With the kernel locked.
    pub fn wait(&self, thread: &Arc<GuestThread>) {
        self.waiters.lock().unwrap().insert(thread.task, thread.clone());
    }

    /// A task is gone.
    pub fn forget(&self, task: TaskId) {
        self.parked.lock().unwrap().remove(&task);
        self.waiters.lock().unwrap().remove(&task);
    }

    fn take_waiters(&self, kernel: &Kernel, tracer: TaskId) -> Vec<Arc<GuestThread>> {
        let mut waiters = self.waiters.lock().unwrap();
        let of_tracer: Vec<TaskId> =
            waiters.keys().copied().filter(|waiter| kernel.same_thread_group(*waiter, tracer)).collect();
        of_tracer.iter().filter_map(|waiter| waiters.remove(waiter)).collect()
    }
}

/// Calls a thread to its shim, for [`called`]: no guest can block it.
pub fn kick(server: &Arc<Server>, thread: &Arc<GuestThread>, what: u32) {
    let Some(tid) = host_tid(thread).or_else(|| server.seek(thread)) else { return };
    let pid = thread.process.host_pid.load(Ordering::Acquire);
    if let Some(image) = thread.image() {
        image.slot.call(what);
    }
    let mut info = [0u8; 128];
    info[..4].copy_from_slice(&SIG_CALL.to_ne_bytes());
    info[8..12].copy_from_slice(&abi::SI_KICK.to_ne_bytes());
    info[24..28].copy_from_slice(&what.to_ne_bytes());
    // SAFETY: a valid siginfo; both numbers are those of a guest.
    unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, SIG_CALL, info.as_ptr()) };
}

/// As [`kick`], by task.
pub fn kick_task(server: &Arc<Server>, task: TaskId, what: u32) {
    if let Some(thread) = server.guests.by_task(task) {
        kick(server, &thread, what);
    }
}

/// What a SIGCHLD about a tracee says, made with the kernel locked.
pub struct News {
    tracer: Option<Arc<GuestThread>>,
    waiters: Vec<Arc<GuestThread>>,
    pid: i32,
    uid: u32,
    code: i32,
    status: i32,
}

impl News {
    /// News about `tracee` for its tracer: a stop with this code (signal, and above it the event).
    pub fn of_stop(server: &Server, kernel: &Kernel, tracer: TaskId, tracee: TaskId, code: i32) -> News {
        let target = kernel.signal_target(tracee, tracer);
        let pid = kernel.task_pid_vnr(tracee, tracer);
        News::new(server, kernel, tracer, (pid, target.si_uid), CLD_TRAPPED, code & 0x7f)
    }

    fn new(
        server: &Server,
        kernel: &Kernel,
        tracer: TaskId,
        who: (i32, u32),
        code: i32,
        status: i32,
    ) -> News {
        News {
            tracer: server.guests.by_task(tracer),
            waiters: server.tracees.take_waiters(kernel, tracer),
            pid: who.0,
            uid: who.1,
            code,
            status,
        }
    }

    /// News of dead tracees.
    pub fn of_ends(server: &Server, kernel: &Kernel, tracers: &[TaskId]) -> Vec<News> {
        let end = |tracer: &TaskId| {
            let zombie = kernel.ptrace_zombie_of(*tracer)?;
            let (code, status) = match zombie.status & 0x7f {
                0 => (CLD_EXITED, zombie.status >> 8 & 0xff),
                signal => (CLD_KILLED, signal),
            };
            let ns = kernel.active_pid_ns(*tracer)?;
            Some(News::new(server, kernel, *tracer, (zombie.pid.nr_ns(&ns), zombie.uid), code, status))
        };
        tracers.iter().filter_map(end).collect()
    }

    /// Tells the tracer: whoever of its threads waits is called, and it gets a SIGCHLD.
    pub fn tell(self, server: &Arc<Server>) {
        for waiter in &self.waiters {
            // One that has come back for another reason asks again by itself.
            if waiter.image().is_some_and(|image| image.slot.waits()) {
                kick(server, waiter, called::TRACER);
            }
        }
        let Some(pidfd) = self.tracer.as_ref().and_then(|tracer| tracer.process.pidfd.get()) else { return };
        let mut info = [0u8; 128];
        info[..4].copy_from_slice(&libc::SIGCHLD.to_ne_bytes());
        info[8..12].copy_from_slice(&SI_NOMINA.to_ne_bytes());
        info[16..20].copy_from_slice(&self.pid.to_ne_bytes());
        info[20..24].copy_from_slice(&self.uid.to_ne_bytes());
        info[24..28].copy_from_slice(&self.status.to_ne_bytes());
        info[28..32].copy_from_slice(&self.code.to_ne_bytes());
        // SAFETY: a valid siginfo; the pidfd is a guest's.
        unsafe {
            use std::os::fd::AsRawFd;
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGCHLD, info.as_ptr(), 0)
        };
    }
}

/// What follows from the end of tasks: tracers learn of it, and what the dead have traced goes on.
pub fn after_exit(server: &Arc<Server>, outcome: &ExitOutcome) {
    release(server, &outcome.untraced);
    if !outcome.tracers.is_empty() {
        let news = News::of_ends(server, &server.kernel.lock().unwrap(), &outcome.tracers);
        for news in news {
            news.tell(server);
        }
    }
}

/// Tracees whose tracer is gone go on by themselves.
pub fn release(server: &Arc<Server>, released: &[Released]) {
    for released in released {
        if released.kill {
            super::sys::process::kill_all(server, &[released.task]);
        }
        if released.stopped {
            server.tracees.unpark(released.task, 0);
        } else {
            kick_task(server, released.task, called::TRACEE);
        }
    }
}

/// The memory of a guest process that a caller may look into.
pub struct Memory {
    file: File,
}

impl Memory {
    /// Opens it, and then asks `allowed`, with the kernel locked: an exec meanwhile gives the process other memory than the one
    /// opened, so that either the memory is the new one and the new credentials are looked at, or it is memory that nobody has any more.
    ///
    /// # Errors
    /// Those of `allowed`; `EPERM` while an exec gives privilege; `ESRCH`, and `EIO` where the host does not give the memory.
    pub fn open(
        server: &Arc<Server>,
        thread: &GuestThread,
        allowed: impl FnOnce(&mut Kernel) -> Result<()>,
    ) -> Result<Memory> {
        let file = Memory::handle(server, thread, libc::O_RDWR, allowed)?;
        Ok(Memory { file: File::from(file) })
    }

    /// As [`Memory::open`], with open flags of choice.
    ///
    /// # Errors
    /// As [`Memory::open`].
    pub fn handle(
        server: &Arc<Server>,
        thread: &GuestThread,
        flags: i32,
        allowed: impl FnOnce(&mut Kernel) -> Result<()>,
    ) -> Result<OwnedFd> {
        let pid = thread.process.host_pid.load(Ordering::Acquire);
        if pid == 0 {
            return Err(Errno::ESRCH);
        }
        let access = OFlags::from_bits_retain((flags & libc::O_ACCMODE) as u32);
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(format!("/proc/{pid}/mem"), flags, Mode::empty());
        let mut kernel = server.kernel.lock().unwrap();
        allowed(&mut kernel)?;
        if thread.process.gains_privilege.load(Ordering::Acquire) {
            return Err(Errno::EPERM);
        }
        drop(kernel);
        // The number may have been another's: then it is not the process of the pidfd any more.
        let alive = thread.process.pidfd.get().is_some_and(super::reaper::is_zombie_or_alive);
        if alive { file.map_err(|_| Errno::EIO) } else { Err(Errno::ESRCH) }
    }

    /// How much of a range may be touched: up to the shim, or nothing.
    fn visible(at: u64, len: usize) -> usize {
        let end = at.saturating_add(len as u64);
        let hidden = SHIM_BASE - 0x1000..SHIM_END;
        if at >= hidden.end || end <= hidden.start { len } else { hidden.start.saturating_sub(at) as usize }
    }

    /// Reads as much as can be read.
    ///
    /// # Errors
    /// `EFAULT` when that is nothing.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        let len = Memory::visible(at, into.len());
        self.read_anywhere(at, &mut into[..len])
    }

    /// As [`Memory::read`], the shim's memory included: the registers in the tracee's signal frame.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn read_anywhere(&self, at: u64, into: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.file.read_at(&mut into[done..], at.wrapping_add(done as u64)) {
                Ok(0) | Err(_) => break,
                Ok(read) => done += read,
            }
        }
        if done == 0 && !into.is_empty() { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// Writes as much as can be written, read-only private memory included.
    ///
    /// # Errors
    /// `EFAULT` when that is nothing.
    pub fn write(&self, at: u64, from: &[u8]) -> Result<usize> {
        let len = Memory::visible(at, from.len());
        self.write_anywhere(at, &from[..len])
    }

    /// As [`Memory::read_anywhere`].
    ///
    /// # Errors
    /// As [`Memory::write`].
    pub fn write_anywhere(&self, at: u64, from: &[u8]) -> Result<usize> {
        let mut done = 0;
        while done < from.len() {
            match self.file.write_at(&from[done..], at.wrapping_add(done as u64)) {
                Ok(0) | Err(_) => break,
                Ok(written) => done += written,
            }
        }
        if done == 0 && !from.is_empty() { Err(Errno::EFAULT) } else { Ok(done) }
    }
}
