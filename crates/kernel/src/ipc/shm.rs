//! System V shared memory (`ipc/shm.c`): `shmget(2)`, `shmat(2)`, `shmctl(2)`.
//!
//! Linux counts the mappings of a segment (`shm_nattch`) as they come and go. Mapping and unmapping are native here, so what is kept
//! of a segment is a [`ShmFile`], which knows whether it is in use; a segment that is to be destroyed is looked at with
//! [`IpcNamespace::shm_sweep`] whenever one may have been detached.

use std::any::Any;
use std::sync::Arc;

use super::namespace::lock;
use super::util::{IPCMNI, IpcCaller, IpcIds, IpcObject, IpcPermSet, KernIpcPerm};
use super::{IpcNamespace, S_IRUGO, S_IWUGO};
use crate::capability::Cap;
use crate::errno::{Errno, Result};
use crate::pid::Pid;
use crate::task::TaskId;

/// `shmget(2)`: of huge pages.
pub const SHM_HUGETLB: i32 = 0o4000;
/// Where the binary logarithm of the page size stands in the flags, and how wide.
const SHM_HUGE_SHIFT: i32 = 26;
const SHM_HUGE_MASK: i32 = 0x3f;
/// `shmat(2)`: for reading only.
pub const SHM_RDONLY: i32 = 0o10000;
/// `shmat(2)`: executable.
pub const SHM_EXEC: i32 = 0o100_000;
/// Mode: to be destroyed with the last detachment.
pub const SHM_DEST: u32 = 0o1000;
/// Mode: not to be swapped out.
pub const SHM_LOCKED: u32 = 0o2000;
const SHM_NORESERVE: i32 = 0o10000;
/// The smallest segment.
const SHMMIN: u64 = 1;
const PAGE_SIZE: u64 = 4096;

/// The memory of a segment (`shm_file`).
pub trait ShmFile: Send + Sync {
    /// Whether anybody may have it mapped. Cheap.
    fn is_attached(&self) -> bool;
    /// For the embedder.
    fn as_any(&self) -> &dyn Any;
}

/// Limits of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShmLimits {
    /// Bytes of a segment (`shmmax`).
    pub shmmax: u64,
    /// Pages of all segments (`shmall`).
    pub shmall: u64,
    /// Segments (`shmmni`).
    pub shmmni: i32,
    /// Segments go with the last process that uses them (`shm_rmid_forced`).
    pub rmid_forced: bool,
}

impl Default for ShmLimits {
    fn default() -> Self {
        let most = u64::MAX - (1 << 24);
        ShmLimits { shmmax: most, shmall: most, shmmni: 4096, rmid_forced: false }
    }
}

/// A segment (`struct shmid_kernel`).
struct Segment {
    perm: KernIpcPerm,
    size: u64,
    file: Arc<dyn ShmFile>,
    atime: i64,
    dtime: i64,
    ctime: i64,
    cpid: Arc<Pid>,
    lpid: Option<Arc<Pid>>,
    /// The task that made it, while that lives.
    creator: Option<TaskId>,
}

impl IpcObject for Segment {
    fn perm(&self) -> &KernIpcPerm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut KernIpcPerm {
        &mut self.perm
    }
}

/// All segments of a namespace.
#[derive(Default)]
pub(super) struct ShmIds {
    ids: IpcIds<Segment>,
    limits: ShmLimits,
    /// Pages of all of them (`shm_tot`).
    pages: u64,
}

/// What `IPC_STAT` tells (`struct shmid64_ds`). How often a segment is attached, the embedder asks of `file`.
#[derive(Clone)]
pub struct ShmidDs {
    /// Identity and permissions.
    pub perm: KernIpcPerm,
    /// Bytes.
    pub size: u64,
    /// Last attachment.
    pub atime: i64,
    /// Last detachment.
    pub dtime: i64,
    /// Last change.
    pub ctime: i64,
    /// Who made it.
    pub cpid: Arc<Pid>,
    /// Who attached or detached it last.
    pub lpid: Option<Arc<Pid>>,
    /// Its memory.
    pub file: Arc<dyn ShmFile>,
}

/// What `IPC_INFO` and `SHM_INFO` tell.
#[derive(Clone, Copy, Debug)]
pub struct ShmInfo {
    /// The limits.
    pub limits: ShmLimits,
    /// Segments in use.
    pub used: usize,
    /// Pages of all of them.
    pub pages: u64,
    /// The highest index in use.
    pub max_index: i32,
}

fn pages(size: u64) -> u64 {
    size.div_ceil(PAGE_SIZE)
}

impl Segment {
    fn stat(&self) -> ShmidDs {
        ShmidDs {
            perm: self.perm,
            size: self.size,
            atime: self.atime,
            dtime: self.dtime,
            ctime: self.ctime,
            cpid: self.cpid.clone(),
            lpid: self.lpid.clone(),
            file: self.file.clone(),
        }
    }

    /// `shm_may_destroy`.
    fn may_destroy(&self, forced: bool) -> bool {
        let doomed = self.perm.mode & SHM_DEST != 0 || (forced && self.creator.is_none());
        doomed && !self.file.is_attached()
    }
}

impl ShmIds {
    fn destroy(&mut self, id: i32) {
        if let Some(segment) = self.ids.remove(id) {
            self.pages -= pages(segment.size);
        }
    }
}

impl IpcNamespace {
    /// `shmget(2)`. `make` makes the memory of a new segment.
    ///
    /// # Errors
    /// `EINVAL` for a bad size, or more than the segment has; `ENOENT`, `EEXIST`, `EACCES`; `ENOSPC` for limits; for huge pages `EPERM`
    /// without CAP_IPC_LOCK, and with it `ENOMEM`, for there are none; errors of `make`.
    pub fn shmget(
        &self,
        caller: &IpcCaller,
        key: i32,
        size: u64,
        flags: i32,
        make: impl FnOnce(u64) -> Result<Arc<dyn ShmFile>>,
    ) -> Result<i32> {
        let mut shm = lock(&self.shm);
        let limits = shm.limits;
        let fits = |segment: &Segment| if size > segment.size { Err(Errno::EINVAL) } else { Ok(()) };
        // SHM_NORESERVE and SHM_HUGETLB share bits with nothing that permissions look at.
        if let Some(id) = shm.ids.get(self, caller, key, flags & !(SHM_HUGETLB | SHM_NORESERVE), fits)? {
            return Ok(id);
        }
        if size < SHMMIN || size > limits.shmmax {
            return Err(Errno::EINVAL);
        }
        let count = pages(size);
        if count.checked_mul(PAGE_SIZE).is_none_or(|whole| whole < size)
            || shm.pages.checked_add(count).is_none_or(|sum| sum > limits.shmall)
        {
            return Err(Errno::ENOSPC);
        }
        if flags & SHM_HUGETLB != 0 {
            // hstate_sizelog: the default size, or one that x86-64 has.
            if !matches!(flags >> SHM_HUGE_SHIFT & SHM_HUGE_MASK, 0 | 21 | 30) {
                return Err(Errno::EINVAL);
            }
            let may = caller.cred.ns_capable(&caller.cred.user_ns, Cap::IPC_LOCK);
            return Err(if may { Errno::ENOMEM } else { Errno::EPERM });
        }
        if shm.ids.in_use() >= limits.shmmni.clamp(0, IPCMNI) as usize {
            return Err(Errno::ENOSPC);
        }
        let segment = Segment {
            perm: KernIpcPerm::new(caller, key, flags),
            size,
            file: make(size)?,
            atime: 0,
            dtime: 0,
            ctime: caller.now,
            cpid: caller.tgid.clone(),
            lpid: None,
            creator: Some(caller.task),
        };
        let id = shm.ids.add(segment, limits.shmmni)?;
        shm.pages += count;
        Ok(id)
    }

    /// `shmat(2)`, as far as it is not about addresses: the segment, whose file the embedder opens with `open`. It counts as attached
    /// from then on, since it cannot be destroyed meanwhile.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EACCES`; errors of `open`.
    pub fn shmat<T>(
        &self,
        caller: &IpcCaller,
        shmid: i32,
        flags: i32,
        open: impl FnOnce(&ShmidDs) -> Result<T>,
    ) -> Result<T> {
        let mut shm = lock(&self.shm);
        let mut wanted = if flags & SHM_RDONLY != 0 { S_IRUGO } else { S_IRUGO | S_IWUGO };
        if flags & SHM_EXEC != 0 {
            wanted |= 0o111;
        }
        let segment = shm.ids.find_mut(shmid)?;
        segment.perm.check(self, &caller.cred, wanted)?;
        let opened = open(&segment.stat())?;
        segment.atime = caller.now;
        segment.lpid = Some(caller.tgid.clone());
        Ok(opened)
    }

    /// The segment whose memory satisfies `is`.
    pub fn shm_find(&self, is: impl Fn(&dyn ShmFile) -> bool) -> Option<ShmidDs> {
        lock(&self.shm).ids.iter().find(|segment| is(&*segment.file)).map(Segment::stat)
    }

    /// A process has detached a segment (`shm_close`).
    pub fn shm_close(&self, caller: &IpcCaller, shmid: i32) {
        let mut shm = lock(&self.shm);
        let Ok(segment) = shm.ids.find_mut(shmid) else { return };
        segment.dtime = caller.now;
        segment.lpid = Some(caller.tgid.clone());
    }

    /// Destroys what was to be destroyed with its last detachment and is attached no more.
    pub fn shm_sweep(&self) {
        let mut shm = lock(&self.shm);
        let forced = shm.limits.rmid_forced;
        let doomed: Vec<i32> =
            shm.ids.iter().filter(|segment| segment.may_destroy(forced)).map(|s| s.perm.id).collect();
        doomed.into_iter().for_each(|id| shm.destroy(id));
    }

    /// `exit_shm`: a task that may have made segments ends.
    pub(crate) fn exit_shm(&self, task: TaskId) {
        let mut shm = lock(&self.shm);
        if shm.ids.in_use() == 0 {
            return;
        }
        for segment in shm.ids.iter_mut().filter(|segment| segment.creator == Some(task)) {
            segment.creator = None;
        }
        drop(shm);
        // It may have been the last that had one.
        self.shm_sweep();
    }

    /// `IPC_STAT`; with `index` `SHM_STAT`, and `SHM_STAT_ANY` when `any`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EACCES`.
    pub fn shm_stat(&self, caller: &IpcCaller, id: i32, index: bool, any: bool) -> Result<ShmidDs> {
        let shm = lock(&self.shm);
        let segment = if index { shm.ids.at(id)? } else { shm.ids.find(id)? };
        if !any {
            segment.perm.check(self, &caller.cred, S_IRUGO)?;
        }
        Ok(segment.stat())
    }

    /// What `IPC_INFO` and `SHM_INFO` tell.
    pub fn shm_info(&self) -> ShmInfo {
        let shm = lock(&self.shm);
        let (used, max_index) = (shm.ids.in_use(), shm.ids.max_index());
        ShmInfo { limits: shm.limits, used, pages: shm.pages, max_index }
    }

    /// All segments, for `/proc/sysvipc/shm`.
    pub fn shm_list(&self) -> Vec<ShmidDs> {
        lock(&self.shm).ids.iter().map(Segment::stat).collect()
    }

    /// `IPC_SET`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EPERM`.
    pub fn shm_set(&self, caller: &IpcCaller, shmid: i32, set: &IpcPermSet) -> Result<()> {
        let mut shm = lock(&self.shm);
        let segment = shm.ids.find_mut(shmid)?;
        segment.perm.check_owner(self, &caller.cred)?;
        segment.perm.update(&caller.cred, set)?;
        segment.ctime = caller.now;
        Ok(())
    }

    /// `IPC_RMID` (`do_shm_rmid`): at once, or with the last detachment; nobody finds it by its key any more.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EPERM`.
    pub fn shm_rmid(&self, caller: &IpcCaller, shmid: i32) -> Result<()> {
        let mut shm = lock(&self.shm);
        let segment = shm.ids.find_mut(shmid)?;
        segment.perm.check_owner(self, &caller.cred)?;
        if segment.file.is_attached() {
            segment.perm.mode |= SHM_DEST;
            shm.ids.set_key_private(shmid);
        } else {
            shm.destroy(shmid);
        }
        Ok(())
    }

    /// `SHM_LOCK` and `SHM_UNLOCK`; `memlock` is the caller's `RLIMIT_MEMLOCK`. Whether the host swaps is the host's affair.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`; `EPERM` for who is neither owner nor creator nor has CAP_IPC_LOCK, or may lock nothing.
    pub fn shm_lock(&self, caller: &IpcCaller, shmid: i32, locks: bool, memlock: u64) -> Result<()> {
        let mut shm = lock(&self.shm);
        let segment = shm.ids.find_mut(shmid)?;
        if !caller.cred.ns_capable(self.user_ns(), Cap::IPC_LOCK) {
            let euid = caller.cred.euid;
            if (euid != segment.perm.uid && euid != segment.perm.cuid) || (locks && memlock == 0) {
                return Err(Errno::EPERM);
            }
        }
        if locks {
            segment.perm.mode |= SHM_LOCKED;
        } else {
            segment.perm.mode &= !SHM_LOCKED;
        }
        Ok(())
    }

    /// The limits.
    pub fn shm_limits(&self) -> ShmLimits {
        lock(&self.shm).limits
    }

    /// Changes the limits; with `rmid_forced` segments that nobody uses go at once.
    ///
    /// # Errors
    /// `EINVAL` for more than [`IPCMNI`] segments or a negative number.
    pub fn set_shm_limits(&self, limits: ShmLimits) -> Result<()> {
        if !(0..=IPCMNI).contains(&limits.shmmni) {
            return Err(Errno::EINVAL);
        }
        lock(&self.shm).limits = limits;
        self.shm_sweep();
        Ok(())
    }
}
