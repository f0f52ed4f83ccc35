//! System call filters that programs give themselves (`seccomp(2)`, `kernel/seccomp.c`).
//!
//! A task has a mode and, in filter mode, the youngest of its filters, each of which points to the one before: the filters of
//! related tasks form a tree that grows towards the leaves. All filters of a task see every call; the most restrictive answer
//! wins, and of equal ones that of the youngest filter.
//!
//! In Linux the kernel asks the filters itself. Here the same filter is in force twice: natively for the calls that the host runs, and
//! in this model for those that are served, where the embedder asks [`Seccomp::judge`] before it serves. User notification
//! (`SECCOMP_FILTER_FLAG_NEW_LISTENER`) is not supported, as on a kernel before 5.0.

pub mod bpf;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitflags::bitflags;

use crate::capability::Cap;
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::task::TaskId;
use bpf::{Data, MAX_INSTRUCTIONS, Program};

/// `AUDIT_ARCH_X86_64`.
pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// `SECCOMP_RET_KILL_PROCESS`.
pub const RET_KILL_PROCESS: u32 = 0x8000_0000;
/// `SECCOMP_RET_KILL_THREAD`.
pub const RET_KILL_THREAD: u32 = 0;
/// `SECCOMP_RET_TRAP`.
pub const RET_TRAP: u32 = 0x0003_0000;
/// `SECCOMP_RET_ERRNO`.
pub const RET_ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_USER_NOTIF`.
pub const RET_USER_NOTIF: u32 = 0x7fc0_0000;
/// `SECCOMP_RET_TRACE`.
pub const RET_TRACE: u32 = 0x7ff0_0000;
/// `SECCOMP_RET_LOG`.
pub const RET_LOG: u32 = 0x7ffc_0000;
/// `SECCOMP_RET_ALLOW`.
pub const RET_ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_ACTION_FULL`: the action without its data.
pub const RET_ACTION_FULL: u32 = 0xffff_0000;
/// `SECCOMP_RET_DATA`.
pub const RET_DATA: u32 = 0x0000_ffff;

/// `MAX_INSNS_PER_PATH`: most instructions of all filters of a task, after translation.
const MAX_INSTRUCTIONS_PER_PATH: usize = (1 << 18) / 8;
/// What each older filter counts besides.
const PENALTY: usize = 4;
/// Most instructions of all filters of a sandbox. Linux charges filters to no limit; here the memory is the supervisor's.
pub(crate) const MAX_INSTRUCTIONS_IN_ALL: usize = 1 << 20;
/// Numbers below this are in a filter's bitmap.
pub const BITMAP_BITS: u32 = 512;
/// System calls that always pass, a bit each.
pub type Bitmap = [u64; BITMAP_BITS as usize / 64];

/// The calls that strict mode leaves: `read(2)`, `write(2)`, `rt_sigreturn(2)`, `exit(2)`.
pub const STRICT_CALLS: [u32; 4] = [0, 1, 15, 60];

bitflags! {
    /// Flags of `SECCOMP_SET_MODE_FILTER`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FilterFlags: u64 {
        /// All threads get the caller's filters.
        const TSYNC = 1;
        /// Denied calls are logged.
        const LOG = 2;
        /// Without mitigation of speculation.
        const SPEC_ALLOW = 4;
        /// A thread that cannot be synchronised is `ESRCH` instead of its number.
        const TSYNC_ESRCH = 16;
    }
}

/// `SECCOMP_GET_ACTION_AVAIL`. `EOPNOTSUPP` for an action that is not known.
pub fn get_action_avail(action: u32) -> Result<()> {
    match action {
        RET_KILL_PROCESS | RET_KILL_THREAD | RET_TRAP | RET_ERRNO | RET_TRACE | RET_LOG | RET_ALLOW => Ok(()),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// A filter (`struct seccomp_filter`).
pub struct Filter {
    program: Program,
    prev: Option<Arc<Filter>>,
    /// Instructions of this filter and all before, as Linux counts them for the next.
    path: usize,
    /// How many filters, this one included.
    depth: u32,
    always: Bitmap,
    in_all: Arc<AtomicUsize>,
}

impl Filter {
    pub(crate) fn new(
        program: Program,
        prev: Option<Arc<Filter>>,
        in_all: Arc<AtomicUsize>,
    ) -> Result<Filter> {
        let before = prev.as_ref().map_or(0, |prev| prev.path);
        let own = program.converted_len();
        if own + before > MAX_INSTRUCTIONS_PER_PATH {
            return Err(Errno::ENOMEM);
        }
        let depth = prev.as_ref().map_or(0, |prev| prev.depth) + 1;
        let mut always = prev.as_ref().map_or([u64::MAX; 8], |prev| prev.always);
        for (bits, own) in always.iter_mut().zip(program.always()) {
            *bits &= own;
        }
        let len = program.len();
        let reserve = |used: usize| Some(used + len).filter(|&used| used <= MAX_INSTRUCTIONS_IN_ALL);
        if in_all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_err() {
            return Err(Errno::ENOMEM);
        }
        Ok(Filter { program, prev, path: own + before + PENALTY, depth, always, in_all })
    }

    /// How many filters there are from this one to the oldest.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The calls that this filter and all before allow whatever their arguments.
    pub fn always(&self) -> &Bitmap {
        &self.always
    }

    /// `seccomp_run_filters`: the most restrictive answer, of equal ones the youngest filter's.
    pub fn run(&self, data: &Data) -> u32 {
        // Compared as signed numbers: ending the process is the lowest.
        let rank = |ret: u32| (ret & RET_ACTION_FULL) as i32;
        let mut result = RET_ALLOW;
        let mut filter = Some(self);
        while let Some(Filter { program, prev, .. }) = filter {
            let ret = program.run(data);
            if rank(ret) < rank(result) {
                result = ret;
            }
            filter = prev.as_deref();
        }
        result
    }

    fn is_or_descends_from(&self, ancestor: &Filter) -> bool {
        let mut filter = Some(self);
        while let Some(here) = filter {
            if std::ptr::eq(here, ancestor) {
                return true;
            }
            filter = here.prev.as_deref();
        }
        false
    }
}

impl Drop for Filter {
    /// One after the other: a chain may be longer than a stack.
    fn drop(&mut self) {
        self.in_all.fetch_sub(self.program.len(), Ordering::Relaxed);
        let mut prev = self.prev.take();
        while let Some(mut filter) = prev.and_then(Arc::into_inner) {
            prev = filter.prev.take();
        }
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// What the filters say: a `SECCOMP_RET_*` with its data.
    Filtered(u32),
    /// Not allowed in strict mode: the thread ends as by SIGKILL.
    StrictKill,
}

impl Judgement {
    /// Whether the call is made.
    pub fn passes(self) -> bool {
        matches!(self, Judgement::Filtered(ret) if matches!(ret & RET_ACTION_FULL, RET_ALLOW | RET_LOG))
    }
}

/// A task's mode and filters (`struct seccomp`).
#[derive(Clone, Default)]
pub enum Seccomp {
    /// Every call is made.
    #[default]
    Disabled,
    /// `SECCOMP_MODE_STRICT`: only [`STRICT_CALLS`].
    Strict,
    /// `SECCOMP_MODE_FILTER`; the youngest filter.
    Filter(Arc<Filter>),
}

impl Seccomp {
    /// Whether both are the same mode and the same filters.
    pub fn is_same_as(&self, other: &Seccomp) -> bool {
        match (self, other) {
            (Seccomp::Filter(one), Seccomp::Filter(other)) => Arc::ptr_eq(one, other),
            _ => self.mode() == other.mode(),
        }
    }

    /// What `PR_GET_SECCOMP` answers.
    pub fn mode(&self) -> u32 {
        match self {
            Seccomp::Disabled => 0,
            Seccomp::Strict => 1,
            Seccomp::Filter(_) => 2,
        }
    }

    /// `Seccomp_filters` of `/proc/PID/status`.
    pub fn filter_count(&self) -> u32 {
        self.filter().map_or(0, |filter| filter.depth)
    }

    /// The youngest filter.
    pub fn filter(&self) -> Option<&Arc<Filter>> {
        match self {
            Seccomp::Filter(filter) => Some(filter),
            _ => None,
        }
    }

    /// The calls that pass whatever their arguments.
    pub fn always(&self) -> Bitmap {
        match self {
            Seccomp::Disabled => [u64::MAX; 8],
            Seccomp::Filter(filter) => filter.always,
            Seccomp::Strict => {
                let mut bits = [0; 8];
                for nr in STRICT_CALLS {
                    bits[nr as usize / 64] |= 1 << (nr % 64);
                }
                bits
            }
        }
    }

    /// `__secure_computing`.
    pub fn judge(&self, data: &Data) -> Judgement {
        match self {
            Seccomp::Disabled => Judgement::Filtered(RET_ALLOW),
            Seccomp::Strict if STRICT_CALLS.contains(&data.nr) => Judgement::Filtered(RET_ALLOW),
            Seccomp::Strict => Judgement::StrictKill,
            Seccomp::Filter(filter) => {
                let is_always = data.arch == AUDIT_ARCH_X86_64
                    && data.nr < BITMAP_BITS
                    && filter.always[data.nr as usize / 64] & 1 << (data.nr % 64) != 0;
                Judgement::Filtered(if is_always { RET_ALLOW } else { filter.run(data) })
            }
        }
    }

    /// `seccomp_may_assign_mode`. `EINVAL` in the other mode.
    fn may_assign(&self, mode: u32) -> Result<()> {
        if self.mode() == 0 || self.mode() == mode { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

/// What a program that is to become a filter has come to.
pub enum Prepared {
    /// It can be attached.
    Ready(Arc<Filter>),
    /// The thread with this number, as the caller sees it, has filters that the caller has not.
    Unsynchronised(i32),
}

impl Kernel {
    /// The mode and filters of a task; none for one that is gone.
    pub fn seccomp(&self, task: TaskId) -> Seccomp {
        self.task(task).map_or(Seccomp::Disabled, |task| task.seccomp.clone())
    }

    /// `SECCOMP_SET_MODE_STRICT`. `EINVAL` in filter mode.
    pub fn seccomp_set_mode_strict(&mut self, caller: TaskId) -> Result<()> {
        let task = self.task_mut(caller).ok_or(Errno::ESRCH)?;
        task.seccomp.may_assign(1)?;
        task.seccomp = Seccomp::Strict;
        Ok(())
    }

    /// What `SECCOMP_SET_MODE_FILTER` checks before it reads the program, of `len` instructions or at an address that cannot be read.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags and bad lengths; `EFAULT` without a length; `EACCES` for a caller that can get privileges
    /// by exec and has not CAP_SYS_ADMIN in its user namespace.
    pub fn seccomp_may_load(&self, caller: TaskId, flags: u64, len: Option<usize>) -> Result<FilterFlags> {
        let flags = FilterFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        if !(1..=MAX_INSTRUCTIONS).contains(&len.ok_or(Errno::EFAULT)?) {
            return Err(Errno::EINVAL);
        }
        let task = self.task(caller).ok_or(Errno::ESRCH)?;
        if !task.no_new_privs && !task.cred.ns_capable(&task.cred.user_ns, Cap::SYS_ADMIN) {
            return Err(Errno::EACCES);
        }
        Ok(flags)
    }

    /// Makes a filter of a program, for [`Kernel::seccomp_attach`].
    ///
    /// # Errors
    /// `EINVAL` in strict mode; `ENOMEM` when the task's filters, or those of the sandbox, are too long; `ESRCH` for a thread
    /// that cannot be synchronised with [`FilterFlags::TSYNC_ESRCH`].
    pub fn seccomp_prepare(&self, caller: TaskId, flags: FilterFlags, program: Program) -> Result<Prepared> {
        let own = &self.task(caller).ok_or(Errno::ESRCH)?.seccomp;
        own.may_assign(2)?;
        let filter = Filter::new(program, own.filter().cloned(), self.seccomp_in_all.clone())?;
        if flags.contains(FilterFlags::TSYNC) {
            match self.seccomp_can_sync_threads(caller) {
                Some(_) if flags.contains(FilterFlags::TSYNC_ESRCH) => return Err(Errno::ESRCH),
                Some(thread) => return Ok(Prepared::Unsynchronised(thread)),
                None => {}
            }
        }
        Ok(Prepared::Ready(Arc::new(filter)))
    }

    /// `seccomp_can_sync_threads`: the first thread whose filters are not the caller's or older ones of the caller's.
    fn seccomp_can_sync_threads(&self, caller: TaskId) -> Option<i32> {
        let own = self.seccomp(caller);
        let can = |theirs: &Seccomp| match (theirs, own.filter()) {
            (Seccomp::Disabled, _) => true,
            (Seccomp::Filter(theirs), Some(own)) => own.is_or_descends_from(theirs),
            _ => false,
        };
        let others = self.threads_of(caller).iter().filter(|&&thread| thread != caller);
        let failed =
            others.filter(|&&thread| self.task(thread).is_some_and(|t| !t.exiting && !can(&t.seccomp)));
        failed.map(|&thread| self.task_pid_vnr(thread, caller)).next()
    }

    /// Puts a filter in force, for all threads with `tsync` (`seccomp_attach_filter`, `seccomp_sync_threads`).
    ///
    /// # Errors
    /// `EAGAIN` when the caller's filters are not those any more that the filter was made for.
    pub fn seccomp_attach(&mut self, caller: TaskId, filter: Arc<Filter>, tsync: bool) -> Result<()> {
        let task = self.task_mut(caller).ok_or(Errno::ESRCH)?;
        let fits = match (&task.seccomp, &filter.prev) {
            (Seccomp::Disabled, None) => true,
            (Seccomp::Filter(own), Some(prev)) => Arc::ptr_eq(own, prev),
            _ => false,
        };
        if !fits {
            return Err(Errno::EAGAIN);
        }
        let no_new_privs = task.no_new_privs;
        task.seccomp = Seccomp::Filter(filter.clone());
        if tsync {
            for thread in self.threads_of(caller).to_vec() {
                if let Some(task) = self.task_mut(thread).filter(|task| !task.exiting) {
                    task.seccomp = Seccomp::Filter(filter.clone());
                    task.no_new_privs |= no_new_privs;
                }
            }
        }
        Ok(())
    }
}
