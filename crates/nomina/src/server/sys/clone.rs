//! New tasks: the model's `kernel_clone`, and the binding of host threads to its tasks.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use nomina_fs::cgroup2::cgroup_of;
use nomina_gate::sock;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::fork::{CloneFlags, CloneOutcome, KernelCloneArgs};
use nomina_kernel::ptrace::PtraceEvents;
use nomina_kernel::task::TaskId;

use super::super::Server;
use super::super::guest::{GuestFiles, GuestProcess, GuestThread, Image};
use super::super::layout::u32_at;
use super::super::lock::Mutex;
use super::super::request::{Ctx, Reply, host};
use super::super::worker::Answer;

/// Tokens nobody can guess: a keyed hash (SipHash, as the standard library's maps use it) of a counter.
pub struct Tokens {
    key: RandomState,
    other_key: RandomState,
    count: AtomicU64,
}

impl Default for Tokens {
    fn default() -> Tokens {
        Tokens { key: RandomState::new(), other_key: RandomState::new(), count: AtomicU64::new(1) }
    }
}

impl Tokens {
    /// The next one; never 0.
    pub fn next(&self) -> u64 {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        (self.key.hash_one(count) ^ self.other_key.hash_one(!count)).max(1)
    }
}

/// [`nomina_abi::op::CLONE`].
pub fn clone(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let flags = CloneFlags::from_bits(ctx.args[0]).ok_or(Errno::EINVAL)?;
    let set_tid = ctx.bytes_opt(2)?.unwrap_or_default();
    let set_tid = (0..set_tid.len() / 4).map(|index| u32_at(&set_tid, index * 4) as i32).collect();
    let cgroup = match flags.contains(CloneFlags::INTO_CGROUP) {
        // A directory of the hierarchy, nothing else (`cgroup_get_from_file`).
        true => {
            let path = ctx.fd_path(ctx.int(3))?;
            Some(cgroup_of(&**path.path().inode()).ok_or(Errno::EBADF)?.clone())
        }
        false => None,
    };
    let args = KernelCloneArgs {
        flags,
        exit_signal: ctx.int(1),
        set_tid,
        cgroup,
        pidfd_at_parent_tid: false,
        now: server.now(),
    };
    let new_thread = flags.contains(CloneFlags::THREAD);
    if new_thread {
        ctx.thread.process.threaded.store(true, Ordering::Release);
    }
    let own_image = ctx.thread.image().ok_or(Errno::EPERM)?;
    // What can fail on the host comes before what the model has to take back.
    let token = server.tokens.next();
    let image = if flags.contains(CloneFlags::VM) {
        Some(own_image.beside().ok_or(Errno::EAGAIN)?)
    } else {
        // It gets a region when it first asks for something else than an exec.
        None
    };
    let borrowed = if image.is_none() { own_image.lend() } else { None };
    let files =
        if flags.contains(CloneFlags::FILES) { ctx.thread.files() } else { Arc::new(GuestFiles::default()) };
    let mut settled = server.settle_all();
    let mut kernel = server.kernel.lock().unwrap();
    let mut outcome = kernel.kernel_clone(ctx.task(), &args);
    if outcome == Err(Errno::EAGAIN) {
        // Some that count may be gone, and only we do not know it yet.
        drop(kernel);
        server.look_for_the_dead();
        kernel = server.kernel.lock().unwrap();
        outcome = kernel.kernel_clone(ctx.task(), &args);
    }
    let outcome = outcome?;
    let tgid = kernel.task_tgid_vnr(outcome.child, outcome.child);
    let is_init = kernel.signal_of(outcome.child).is_some_and(|signal| signal.is_init()) && !new_thread;
    let traced = kernel.tracee(outcome.child).is_some();
    drop(kernel);
    let index = image.as_ref().or(borrowed.as_ref()).map_or(nomina_abi::NO_SLOT, |image| image.index());
    let traced = u64::from(traced) << 8 | event_number(outcome.ptrace_event);
    ctx.out = [token, outcome.child_tid as u64, tgid as u64, index.into(), u64::from(is_init), traced, 0];
    let is_plain = image.is_none()
        && !is_init
        && args.exit_signal == libc::SIGCHLD
        && args.set_tid.is_empty()
        && (flags - (CloneFlags::PARENT_SETTID | CloneFlags::CHILD_SETTID | CloneFlags::CHILD_CLEARTID))
            .is_empty()
        && !ctx.thread.process.threaded.load(Ordering::Acquire);
    let child = NewChild { task: outcome.child, pid: outcome.pid, token, new_thread, files, image, borrowed };
    expect(server, ctx.thread, child);
    if is_plain && traced == 0 {
        server.promise(&mut settled, ctx.thread);
    }
    Ok(outcome.pid.into())
}

/// A task that the model has made, before its host thread introduces itself.
pub struct NewChild {
    task: TaskId,
    /// Its number as its maker sees it.
    pid: i32,
    token: u64,
    new_thread: bool,
    files: Arc<GuestFiles>,
    image: Option<Image>,
    borrowed: Option<Image>,
}

impl NewChild {
    /// Made by a plain fork.
    pub fn forked(outcome: &CloneOutcome, token: u64, borrowed: Image) -> NewChild {
        NewChild {
            task: outcome.child,
            pid: outcome.pid,
            token,
            new_thread: false,
            files: Arc::default(),
            image: None,
            borrowed: Some(borrowed),
        }
    }
}

/// Expects the host thread of a new task of `maker`'s.
pub fn expect(server: &Server, maker: &Arc<GuestThread>, new: NewChild) {
    maker.harvest();
    let child = Arc::new(GuestThread {
        task: new.task,
        host_tid: AtomicI32::new(0),
        gate: maker.gate.clone(),
        token: new.token,
        process: if new.new_thread { maker.process.clone() } else { GuestProcess::child(&maker.process) },
        files: Mutex::new(new.files),
        image: Mutex::new(new.image),
        borrowed: Mutex::new(new.borrowed),
        maker: Some((Arc::downgrade(maker), new.pid)),
        hint: AtomicI32::new(0),
        made_ns: server.now(),
        made: Mutex::default(),
        loading: Mutex::default(),
        pace: Default::default(),
        observed: Mutex::default(),
        reports: std::sync::atomic::AtomicBool::new(false),
        forks: AtomicU32::new(0),
    });
    if !new.new_thread {
        maker.made.lock().unwrap().push((new.pid, Arc::downgrade(&child)));
    }
    server.guests.expect(child);
}

/// `PTRACE_EVENT_*`.
fn event_number(event: PtraceEvents) -> u64 {
    if event.is_empty() { 0 } else { event.bits().trailing_zeros().into() }
}

/// [`nomina_abi::op::CLONE_FAILED`].
pub fn failed(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let thread = ctx.server.guests.forget(ctx.args[0]).ok_or(Errno::ESRCH)?;
    ctx.server.kernel.lock().unwrap().abort_clone(thread.task)?;
    Ok(().into())
}

/// Binds host thread `tid`, which made a gate call with `token`, to the task the token was made for.
pub fn attach(server: &Arc<Server>, tid: i32, token: u64) -> Option<Arc<GuestThread>> {
    let (thread, is_new_process) = server.guests.attach(tid, token)?;
    if is_new_process {
        server.pids.bind(&server.kernel.lock().unwrap(), thread.task, tid);
        server.reaper.watch(&thread);
    }
    Some(thread)
}

/// [`nomina_abi::GATE_ATTACH`]: gives a new process its socket and its region. A thread has both already.
///
/// # Errors
/// `EBADF` when the guest's limit forbids the socket's number; host errors.
pub fn equip(server: &Arc<Server>, thread: &Arc<GuestThread>, call: u64) -> Result<Answer> {
    if thread.image().is_some() {
        return Ok(Answer::Value(0));
    }
    let space = server.spares.space().map_err(host)?;
    let region = space.region.clone();
    *thread.image.lock().unwrap() = Some(Image::first(space));
    *thread.borrowed.lock().unwrap() = None;
    let sent = server.hand_over(thread, call, &[0u8; 4], &[region.fd()]);
    if sent.is_err() {
        *thread.image.lock().unwrap() = None;
    }
    sent
}

impl Server {
    /// Sends a thread a message with descriptors, which it will look for when its gate call returns. A socket that it does not
    /// have yet is installed with the answer to the call: whatever the thread's next request needs must be done before.
    ///
    /// # Errors
    /// `EBADF` when the guest's limit forbids the socket's number; host errors.
    pub fn hand_over(
        &self,
        thread: &GuestThread,
        call: u64,
        message: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Answer> {
        let send = |end: BorrowedFd<'_>| sock::send(end, message, fds).map_err(host);
        let files = thread.files();
        if let Some(end) = files.socket.get() {
            send(end.as_fd())?;
            return Ok(Answer::Value(0));
        }
        let listener = thread.gate.listener.get().ok_or(Errno::EAGAIN)?;
        let (ours, theirs) = self.spares.sockets().map_err(host)?;
        send(ours.as_fd())?;
        files.socket.get_or_init(|| ours);
        if let Err(error) = listener.install_and_reply(call, theirs.as_fd(), nomina_abi::FD_SOCK) {
            // A table without a socket is nobody else's.
            *thread.files.lock().unwrap() = Arc::new(GuestFiles::default());
            return Err(host(error));
        }
        Ok(Answer::Given)
    }

    /// A socket with the descriptors of answers sent ahead, one message for each. `None`: the guest asks.
    pub fn put_ahead(&self, opened: &[(u64, OwnedFd)]) -> Option<OwnedFd> {
        let (ours, theirs) = self.spares.sockets().ok()?;
        for (index, fd) in opened {
            if sock::send(ours.as_fd(), &index.to_le_bytes(), &[fd.as_fd()]).is_err() {
                break;
            }
        }
        Some(theirs)
    }

    /// The supervisor's end of the hidden socket of a thread's descriptor table; made, and installed in the guest, when it
    /// is first needed.
    ///
    /// # Errors
    /// `EBADF` when the guest's limit forbids the number; `EAGAIN` without a notification to install it by; host errors.
    pub fn socket_of(&self, thread: &GuestThread, call: Option<u64>) -> Result<Arc<GuestFiles>> {
        let files = thread.files();
        if files.socket.get().is_some() {
            return Ok(files);
        }
        let listener = thread.gate.listener.get().ok_or(Errno::EAGAIN)?;
        let (ours, theirs) = self.spares.sockets().map_err(host)?;
        listener.install(call.ok_or(Errno::EAGAIN)?, theirs.as_fd(), nomina_abi::FD_SOCK).map_err(host)?;
        files.socket.get_or_init(|| ours);
        Ok(files)
    }

    /// Gives a thread whose exec gives privilege a hidden socket and a shim of its own: others may hold what it had.
    ///
    /// # Errors
    /// As [`Server::socket_of`].
    pub fn renew_files(&self, thread: &GuestThread, call: u64) -> Result<Arc<GuestFiles>> {
        let (listener, shim) =
            (thread.gate.listener.get().ok_or(Errno::EPERM)?, self.shim.get().ok_or(Errno::EPERM)?);
        let (ours, theirs) = self.spares.sockets().map_err(host)?;
        listener.install(call, shim.as_fd(), nomina_abi::FD_SHIM).map_err(host)?;
        listener.install(call, theirs.as_fd(), nomina_abi::FD_SOCK).map_err(host)?;
        let files = Arc::new(GuestFiles::with_socket(ours));
        *thread.files.lock().unwrap() = files.clone();
        Ok(files)
    }

    /// Learns the host pid of a process that has not introduced itself from what its maker noted, if that can be true: it
    /// must be the child of a guest.
    pub fn seek(self: &Arc<Self>, thread: &Arc<GuestThread>) -> Option<i32> {
        let host_pid = thread.noted_pid()?;
        let is_child = || parent_of(host_pid).is_some_and(|parent| self.guests.by_tid(parent).is_some());
        if self.guests.by_tid(host_pid).is_some() || !is_child() {
            return None;
        }
        let attached = attach(self, host_pid, thread.token)?;
        // The number may have changed hands between the look and the pidfd.
        if !is_child() {
            self.guests.remove(&attached);
            return None;
        }
        Some(host_pid)
    }

    /// Takes note of all that ended without our knowledge: what the guests noted, and what the host knows.
    pub fn look_for_the_dead(self: &Arc<Self>) {
        self.reaper.drain(self);
        for thread in self.guests.all() {
            let Some(image) = thread.image() else { continue };
            for (number, host_pid) in image.slot.take_reaped() {
                super::process::note_reaped(self, &thread, number, host_pid);
            }
        }
    }
}

/// The parent of a host process.
pub fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Host tid of a thread, if it has introduced itself.
pub fn host_tid(thread: &GuestThread) -> Option<i32> {
    Some(thread.host_tid.load(Ordering::Acquire)).filter(|&tid| tid != 0)
}
