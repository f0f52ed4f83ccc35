//! The host side of guests: which host thread is which task, and how to reach it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use nomina_gate::listener::Listener;
use nomina_gate::region::{Region, SlotRef};
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::Path;

use super::lock::{Mutex, RwLock};

/// The filter that a guest runs under, with all that descends from it: where their gate calls arrive.
#[derive(Default)]
pub struct Gate {
    /// Set when the first of them is locked down.
    pub listener: OnceLock<Listener>,
    /// Which workers wait for gate calls.
    pub turns: super::turns::Turns,
}

/// A host process of a guest: what shares one pidfd. A new image after exec is the same process.
pub struct GuestProcess {
    /// Host pid; 0 until the process has introduced itself.
    pub host_pid: AtomicI32,
    /// Its pidfd.
    pub pidfd: OnceLock<OwnedFd>,
    /// Kills it when the supervisor is gone.
    pub tether: OnceLock<OwnedFd>,
    /// The model has seen its exit.
    pub exited: AtomicBool,
    /// The prepared exec, between [`nomina_abi::op::EXEC`] and [`nomina_abi::GATE_START`].
    pub exec: Mutex<Option<super::sys::exec::PreparedExec>>,
    /// An exec that gives privilege is under way: nobody may start to trace it or touch its memory. Changed with the kernel locked.
    pub gains_privilege: AtomicBool,
    /// Whether it ever had a second thread.
    pub threaded: AtomicBool,
    /// Its program's file (`/proc/PID/exe`).
    pub exe: Mutex<Option<Exe>>,
}

/// The program a process runs: `mm->exe_file`.
#[derive(Clone)]
pub struct Exe {
    /// Its place.
    pub path: Path,
    /// Its device and inode number, as `stat` shows them.
    pub id: (u64, u64),
}

/// Which slots of a region are free.
#[derive(Default)]
pub struct SlotAllocator {
    next: u32,
    free: Vec<u32>,
}

impl SlotAllocator {
    /// An allocator whose slot 0 is taken.
    pub fn first_taken() -> SlotAllocator {
        SlotAllocator { next: 1, free: Vec::new() }
    }

    /// How many are taken.
    fn taken(&self) -> usize {
        self.next as usize - self.free.len()
    }

    /// A free slot, if there is one.
    fn alloc(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let next = self.next;
            ((next as usize) < nomina_abi::REGION_SLOTS).then(|| {
                self.next += 1;
                next
            })
        })
    }

    /// Gives a slot back.
    fn free(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

/// An address space: the region and which of its slots are in use. Shared by everything made with CLONE_VM.
pub struct AddressSpace {
    /// The shared region.
    pub region: Arc<Region>,
    /// Its free slots.
    slots: Mutex<SlotAllocator>,
}

impl AddressSpace {
    /// A fresh one, slot 0 taken by its first thread.
    ///
    /// # Errors
    /// Those of [`Region::new`].
    pub fn new() -> io::Result<Arc<AddressSpace>> {
        Ok(Arc::new(AddressSpace { region: Region::new()?, slots: Mutex::new(SlotAllocator::first_taken()) }))
    }

    /// Whether slot 0 is the only one in use.
    pub fn alone(&self) -> bool {
        let slots = self.slots.lock().unwrap();
        !slots.free.contains(&0) && slots.taken() == 1
    }
}

/// The use of a slot. The slot is free again when nobody holds it any more: not the thread, nor who still serves or watches it.
struct Lease {
    space: Arc<AddressSpace>,
    index: u32,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.space.slots.lock().unwrap().free(self.index);
    }
}

/// A descriptor table: the supervisor's end of the hidden socket in it.
#[derive(Default)]
pub struct GuestFiles {
    /// The supervisor's end, once the table has a socket of its own.
    pub socket: OnceLock<OwnedFd>,
    /// Descriptors that were given for requests not yet asked again.
    pub given: Mutex<Vec<super::given::Given>>,
    /// Whether messages on the socket say who sent them.
    pub takes_given: AtomicBool,
}

/// What a thread runs in; replaced at exec.
#[derive(Clone)]
pub struct Image {
    /// Its slot.
    pub slot: SlotRef,
    lease: Arc<Lease>,
}

impl Image {
    /// The first thread of a fresh address space.
    pub fn first(space: Arc<AddressSpace>) -> Image {
        Image { slot: space.region.slot(0), lease: Arc::new(Lease { space, index: 0 }) }
    }

    /// Another thread of the same address space; `None` when it has as many as it can have.
    pub fn beside(&self) -> Option<Image> {
        let space = self.space().clone();
        let index = space.slots.lock().unwrap().alloc()?;
        let slot = space.region.slot(index);
        slot.clear_calls();
        Some(Image { slot, lease: Arc::new(Lease { space, index }) })
    }

    /// A slot of the same region for a child with memory of its own, to prepare an exec in; `None` when threads may need
    /// what is left.
    pub fn lend(&self) -> Option<Image> {
        let few = self.space().slots.lock().unwrap().taken() < nomina_abi::REGION_SLOTS / 2;
        if few { self.beside() } else { None }
    }

    /// Address space.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.lease.space
    }

    /// Slot index in it.
    pub fn index(&self) -> u32 {
        self.lease.index
    }
}

/// A guest thread.
pub struct GuestThread {
    /// The task of the model.
    pub task: TaskId,
    /// Host tid; 0 until it has introduced itself.
    pub host_tid: AtomicI32,
    /// Its filter.
    pub gate: Arc<Gate>,
    /// What it must say to be believed to be this task.
    pub token: u64,
    /// The process.
    pub process: Arc<GuestProcess>,
    /// Its descriptor table.
    pub files: Mutex<Arc<GuestFiles>>,
    /// Address space and slot; `None` for a process that has not asked for anything yet.
    pub image: Mutex<Option<Image>>,
    /// For a process that has not introduced itself: a slot in its maker's region, where it may ask for an exec.
    pub borrowed: Mutex<Option<Image>>,
    /// The thread that made it, and what that calls it: where to look for its host pid before it has introduced itself.
    pub maker: Option<(Weak<GuestThread>, i32)>,
    /// Host pid as its maker noted it; 0 if not known. To be checked before it is used.
    pub hint: AtomicI32,
    /// When it was made, in the sandbox's time.
    pub made_ns: u64,
    /// Children whose host pids have not been read from the notes yet.
    pub made: Mutex<Vec<(i32, Weak<GuestThread>)>>,
    /// A seccomp filter that it is bringing.
    pub loading: Mutex<Option<super::sys::seccomp::Loading>>,
    /// Pace of its requests, for the choice between notification and spinning.
    pub pace: super::watcher::Pace,
    /// What its image asks first.
    pub observed: Mutex<Option<super::ahead::Observed>>,
    /// How often it has asked for a plain fork, as far as promises were of use.
    pub forks: AtomicU32,
    /// It has, or had, handles that report writes ([`nomina_abi::called::REPORTS`]).
    pub reports: AtomicBool,
}

impl GuestFiles {
    /// A table with its socket.
    pub fn with_socket(ours: OwnedFd) -> GuestFiles {
        GuestFiles { socket: OnceLock::from(ours), ..GuestFiles::default() }
    }

    /// The supervisor's end of the socket.
    ///
    /// # Errors
    /// `EAGAIN` when it has not been made.
    pub fn end(&self) -> nomina_kernel::errno::Result<BorrowedFd<'_>> {
        self.socket.get().map(AsFd::as_fd).ok_or(nomina_kernel::errno::Errno::EAGAIN)
    }
}

impl GuestThread {
    /// Its descriptor table.
    pub fn files(&self) -> Arc<GuestFiles> {
        self.files.lock().unwrap().clone()
    }

    /// Reads the host pids of its children that have not introduced themselves, before its notes are overwritten or gone.
    pub fn harvest(&self) {
        let Some(image) = self.image() else { return };
        let mut made = self.made.lock().unwrap();
        made.retain(|(number, child)| {
            let Some(child) = child.upgrade() else { return false };
            if child.host_tid.load(Ordering::Acquire) != 0 {
                return false;
            }
            match image.slot.born(*number) {
                Some(host_pid) => child.hint.store(host_pid, Ordering::Release),
                None => return true,
            }
            false
        });
    }

    /// The host pid as its maker noted it.
    pub fn noted_pid(&self) -> Option<i32> {
        match self.hint.load(Ordering::Acquire) {
            0 => {
                let (maker, number) = self.maker.as_ref()?;
                maker.upgrade()?.image()?.slot.born(*number)
            }
            pid => Some(pid),
        }
        .filter(|&pid| pid > 0)
    }

    /// Address space and slot, if it has any yet.
    pub fn image(&self) -> Option<Image> {
        self.image.lock().unwrap().clone()
    }
}

impl GuestProcess {
    /// The first process.
    pub fn first() -> Arc<GuestProcess> {
        GuestProcess::with_exe(None)
    }

    /// A child that has not introduced itself yet; it runs its parent's program.
    pub fn child(parent: &GuestProcess) -> Arc<GuestProcess> {
        GuestProcess::with_exe(parent.exe.lock().unwrap().clone())
    }

    fn with_exe(exe: Option<Exe>) -> Arc<GuestProcess> {
        Arc::new(GuestProcess {
            host_pid: AtomicI32::new(0),
            pidfd: OnceLock::new(),
            tether: OnceLock::new(),
            exited: AtomicBool::new(false),
            exec: Mutex::new(None),
            gains_privilege: AtomicBool::new(false),
            threaded: AtomicBool::new(false),
            exe: Mutex::new(exe),
        })
    }

    /// Whether it runs the file with this device and inode number. A zombie does not, even where the model has not seen its end.
    /// Nor does a child that has not introduced itself: its end would not be seen.
    fn runs(&self, id: (u64, u64)) -> bool {
        if self.exe.lock().unwrap().as_ref().is_none_or(|exe| exe.id != id) {
            return false;
        }
        let Some(pidfd) = self.pidfd.get() else { return false };
        let mut poll = [rustix::event::PollFd::new(pidfd, rustix::event::PollFlags::IN)];
        matches!(
            rustix::event::poll(&mut poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })),
            Ok(0)
        )
    }

    /// Binds the process to host pid `pid`, which has proved to be a guest by its gate call.
    pub fn bind(&self, pid: i32) -> io::Result<()> {
        if self.pidfd.get().is_none() {
            // SAFETY: two integers; the result, when not negative, is a descriptor that only we own.
            let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: just opened.
            let _ = self.pidfd.set(unsafe { OwnedFd::from_raw_fd(fd as i32) });
            self.host_pid.store(pid, Ordering::Release);
        }
        Ok(())
    }
}

/// All guest threads, by host tid and by task.
#[derive(Default)]
pub struct Guests {
    by_tid: RwLock<HashMap<i32, Arc<GuestThread>>>,
    by_task: RwLock<HashMap<TaskId, Arc<GuestThread>>>,
    /// By token, those that have not introduced themselves. Taken before `by_tid`.
    waiting: Mutex<HashMap<u64, Arc<GuestThread>>>,
}

impl Guests {
    /// The thread with host tid `tid`.
    pub fn by_tid(&self, tid: i32) -> Option<Arc<GuestThread>> {
        self.by_tid.read().unwrap().get(&tid).cloned()
    }

    /// The thread that is task `task`.
    pub fn by_task(&self, task: TaskId) -> Option<Arc<GuestThread>> {
        self.by_task.read().unwrap().get(&task).cloned()
    }

    /// Adds a thread that has not introduced itself.
    pub fn expect(&self, thread: Arc<GuestThread>) {
        self.by_task.write().unwrap().insert(thread.task, thread.clone());
        self.waiting.lock().unwrap().insert(thread.token, thread);
    }

    /// Takes back what [`Guests::expect`] added: the clone failed.
    pub fn forget(&self, token: u64) -> Option<Arc<GuestThread>> {
        let thread = self.waiting.lock().unwrap().remove(&token)?;
        self.by_task.write().unwrap().remove(&thread.task);
        Some(thread)
    }

    /// Those that have not introduced themselves.
    pub fn waiting(&self) -> Vec<Arc<GuestThread>> {
        self.waiting.lock().unwrap().values().cloned().collect()
    }

    /// Whether a thread with this token has not introduced itself yet.
    pub fn is_waiting(&self, token: u64) -> bool {
        self.waiting.lock().unwrap().contains_key(&token)
    }

    /// Recognises host thread `tid` by its token. Whoever finds it by its tid finds its process bound. True: that was done now.
    pub fn attach(&self, tid: i32, token: u64) -> Option<(Arc<GuestThread>, bool)> {
        // Held to the end: two that look for the thread at once, one by its token, must both find it.
        let mut waiting = self.waiting.lock().unwrap();
        let thread = waiting.remove(&token)?;
        // A process introduces itself by its leader; pidfd_open refuses other threads.
        let unbound = thread.process.pidfd.get().is_none();
        if unbound && thread.process.bind(tid).is_err() {
            drop(waiting);
            self.remove(&thread);
            return None;
        }
        thread.host_tid.store(tid, Ordering::Release);
        self.by_tid.write().unwrap().insert(tid, thread.clone());
        Some((thread, unbound))
    }

    /// Removes a thread that has ended.
    pub fn remove(&self, thread: &Arc<GuestThread>) {
        self.by_task.write().unwrap().remove(&thread.task);
        self.waiting.lock().unwrap().remove(&thread.token);
        let tid = thread.host_tid.load(Ordering::Acquire);
        let mut by_tid = self.by_tid.write().unwrap();
        // The number may belong to somebody else by now.
        if by_tid.get(&tid).is_some_and(|present| Arc::ptr_eq(present, thread)) {
            by_tid.remove(&tid);
        }
    }

    /// After an exec by another thread than the leader: the host gives the caller the leader's tid.
    pub fn retid(&self, thread: &Arc<GuestThread>, tid: i32) {
        let mut by_tid = self.by_tid.write().unwrap();
        let old = thread.host_tid.swap(tid, Ordering::AcqRel);
        if by_tid.get(&old).is_some_and(|present| Arc::ptr_eq(present, thread)) {
            by_tid.remove(&old);
        }
        by_tid.insert(tid, thread.clone());
    }

    /// Whether any process runs the file with this device and inode number.
    pub fn run(&self, id: (u64, u64)) -> bool {
        self.by_task.read().unwrap().values().any(|thread| thread.process.runs(id))
    }

    /// All threads.
    pub fn all(&self) -> Vec<Arc<GuestThread>> {
        self.by_task.read().unwrap().values().cloned().collect()
    }
}
