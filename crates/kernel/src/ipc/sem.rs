//! System V semaphores (`ipc/sem.c`): `semget(2)`, `semop(2)`, `semctl(2)`, and what is undone at a task's end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;

use super::namespace::{Charge, lock};
use super::util::{IpcCaller, IpcIds, IpcObject, IpcPermSet, KernIpcPerm};
use super::{IPC_NOWAIT, IpcMemory, IpcNamespace, S_IRUGO, S_IWUGO, Sleeper};
use crate::errno::{Errno, Result};
use crate::pid::Pid;

/// The greatest value of a semaphore.
pub const SEMVMX: i32 = 32767;
/// The greatest value that can be undone.
const SEMAEM: i32 = SEMVMX;
/// `sem_flg`: undo the operation at the task's end.
pub const SEM_UNDO: i16 = 0x1000;

/// Limits of a namespace (`/proc/sys/kernel/sem`, in this order).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SemLimits {
    /// Semaphores in an array.
    pub semmsl: i32,
    /// Semaphores altogether.
    pub semmns: i32,
    /// Operations in a call.
    pub semopm: i32,
    /// Arrays.
    pub semmni: i32,
}

impl Default for SemLimits {
    fn default() -> Self {
        SemLimits { semmsl: 32000, semmns: 1_024_000_000, semopm: 500, semmni: 32000 }
    }
}

impl SemLimits {
    /// How many operations a call may have.
    pub fn most_ops(&self) -> usize {
        usize::try_from(self.semopm).unwrap_or(0)
    }
}

/// One operation (`struct sembuf`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sembuf {
    /// Number of the semaphore in its array.
    pub num: u16,
    /// What to add; 0 waits for the semaphore to be 0.
    pub op: i16,
    /// `IPC_NOWAIT`, [`SEM_UNDO`].
    pub flg: i16,
}

impl Sembuf {
    fn has(self, flag: i32) -> bool {
        i32::from(self.flg) & flag != 0
    }
}

/// What a task, and those that share it by `CLONE_SYSVSEM`, has to undo (`struct sem_undo_list`). The adjustments themselves are kept
/// with the arrays.
#[derive(Debug)]
pub struct SemUndoList {
    id: u64,
    /// Tasks that hold it. Changed under the kernel's lock.
    users: AtomicUsize,
    /// Arrays in which it has something.
    arrays: Mutex<BTreeSet<i32>>,
}

impl SemUndoList {
    pub(crate) fn new(id: u64) -> Arc<SemUndoList> {
        Arc::new(SemUndoList { id, users: AtomicUsize::new(1), arrays: Mutex::default() })
    }

    /// Another task shares it.
    pub(crate) fn get(&self) {
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// A task leaves it; true for the last one.
    pub(crate) fn put(&self) -> bool {
        self.users.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn is_dead(&self) -> bool {
        self.users.load(Ordering::Acquire) == 0
    }
}

/// One semaphore.
#[derive(Clone, Default)]
struct Sem {
    val: i32,
    pid: Option<Arc<Pid>>,
}

/// A task that sleeps in `semop(2)` (`struct sem_queue`).
struct SemQueue {
    sops: Vec<Sembuf>,
    undo: Option<Arc<SemUndoList>>,
    pid: Arc<Pid>,
    /// The operation that could not be done.
    blocking: usize,
    sleeper: Arc<Sleeper<Result<()>>>,
}

/// A set of semaphores (`struct sem_array`). Linux keeps several queues so that locks are short; here there are two, in the order of
/// arrival: those that only wait for zeros go first, as there.
pub(super) struct SemArray {
    perm: KernIpcPerm,
    sems: Vec<Sem>,
    otime: i64,
    ctime: i64,
    pending_alter: Vec<SemQueue>,
    pending_const: Vec<SemQueue>,
    /// By undo list and semaphore: what to add at the end.
    undo: HashMap<(u64, u16), (i32, Charge)>,
    _charge: Charge,
}

impl IpcObject for SemArray {
    fn perm(&self) -> &KernIpcPerm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut KernIpcPerm {
        &mut self.perm
    }
}

/// All arrays of a namespace.
#[derive(Default)]
pub(super) struct SemIds {
    ids: IpcIds<SemArray>,
    limits: SemLimits,
    used: i32,
}

/// What `IPC_STAT` tells (`struct semid64_ds`).
#[derive(Clone, Debug)]
pub struct SemidDs {
    /// Identity and permissions.
    pub perm: KernIpcPerm,
    /// Last `semop(2)`.
    pub otime: i64,
    /// Last change by `semctl(2)`.
    pub ctime: i64,
    /// Number of semaphores.
    pub nsems: usize,
}

/// What `IPC_INFO` and `SEM_INFO` tell.
#[derive(Clone, Copy, Debug)]
pub struct SemInfo {
    /// The limits.
    pub limits: SemLimits,
    /// Arrays in use.
    pub arrays: usize,
    /// Semaphores in use.
    pub used: i32,
    /// The highest index in use.
    pub max_index: i32,
}

/// A call that sleeps.
pub struct SemWait {
    semid: i32,
    /// Who sleeps.
    pub sleeper: Arc<Sleeper<Result<()>>>,
}

/// What an attempt came to.
enum Attempt {
    Done,
    /// This operation has to wait.
    Blocks(usize),
}

/// Bytes that a semaphore takes.
const SEM_SIZE: usize = size_of::<Sem>();
/// Bytes that an array takes besides, and an adjustment.
const ARRAY_SIZE: usize = 512;
const UNDO_SIZE: usize = 64;

impl SemArray {
    /// `perform_atomic_semop`: all operations or none.
    fn perform(
        &mut self,
        sops: &[Sembuf],
        undo: Option<&Arc<SemUndoList>>,
        pid: &Arc<Pid>,
        memory: &Arc<IpcMemory>,
    ) -> Result<Attempt> {
        let mut values: BTreeMap<u16, i32> = BTreeMap::new();
        let mut adjust: BTreeMap<u16, i32> = BTreeMap::new();
        for (at, sop) in sops.iter().enumerate() {
            let val = *values.entry(sop.num).or_insert(self.sems[usize::from(sop.num)].val);
            let new = val + i32::from(sop.op);
            if (sop.op == 0 && val != 0) || new < 0 {
                return if sop.has(IPC_NOWAIT) { Err(Errno::EAGAIN) } else { Ok(Attempt::Blocks(at)) };
            }
            if new > SEMVMX {
                return Err(Errno::ERANGE);
            }
            if sop.flg & SEM_UNDO != 0
                && sop.op != 0
                && let Some(list) = undo
            {
                let now = self.undo.get(&(list.id, sop.num)).map_or(0, |(value, _)| *value);
                let value = adjust.entry(sop.num).or_insert(now);
                *value -= i32::from(sop.op);
                if !(-SEMAEM - 1..=SEMAEM).contains(value) {
                    return Err(Errno::ERANGE);
                }
            }
            values.insert(sop.num, new);
        }
        if let Some(list) = undo {
            let known = |num: &u16| self.undo.contains_key(&(list.id, *num));
            let mut charges = Vec::new();
            for _ in adjust.keys().filter(|num| !known(num)) {
                charges.push(memory.charge(UNDO_SIZE)?);
            }
            for (num, value) in adjust {
                match self.undo.entry((list.id, num)) {
                    std::collections::hash_map::Entry::Occupied(mut entry) => entry.get_mut().0 = value,
                    std::collections::hash_map::Entry::Vacant(entry) => {
                        let Some(charge) = charges.pop() else { continue };
                        entry.insert((value, charge));
                    }
                }
                lock(&list.arrays).insert(self.perm.id);
            }
        }
        for (num, val) in values {
            self.sems[usize::from(num)] = Sem { val, pid: Some(pid.clone()) };
        }
        Ok(Attempt::Done)
    }

    /// `do_smart_update`: completes the sleepers that can go on now.
    fn update(&mut self, now: i64, memory: &Arc<IpcMemory>) {
        'again: loop {
            self.wake(true, now, memory);
            for at in 0..self.pending_alter.len() {
                if self.retry(false, at, now, memory) {
                    continue 'again;
                }
            }
            return;
        }
    }

    fn wake(&mut self, constant: bool, now: i64, memory: &Arc<IpcMemory>) {
        let mut at = 0;
        while at < if constant { self.pending_const.len() } else { self.pending_alter.len() } {
            if !self.retry(constant, at, now, memory) {
                at += 1;
            }
        }
    }

    /// Tries a sleeper again; true when it sleeps no more.
    fn retry(&mut self, constant: bool, at: usize, now: i64, memory: &Arc<IpcMemory>) -> bool {
        let queue = if constant { &mut self.pending_const } else { &mut self.pending_alter };
        let mut waiting = queue.remove(at);
        let result = match self.perform(&waiting.sops, waiting.undo.as_ref(), &waiting.pid, memory) {
            Ok(Attempt::Blocks(blocking)) => {
                waiting.blocking = blocking;
                let queue = if constant { &mut self.pending_const } else { &mut self.pending_alter };
                queue.insert(at, waiting);
                return false;
            }
            Ok(Attempt::Done) => {
                self.otime = now;
                Ok(())
            }
            Err(errno) => Err(errno),
        };
        waiting.sleeper.complete(result);
        true
    }

    /// How many sleep because of this semaphore (`count_semcnt`).
    fn count(&self, num: usize, zero: bool) -> i32 {
        let waits = |queue: &&SemQueue| {
            let sop = queue.sops[queue.blocking];
            usize::from(sop.num) == num && if zero { sop.op == 0 } else { sop.op < 0 }
        };
        self.pending_alter.iter().chain(&self.pending_const).filter(waits).count() as i32
    }

    fn stat(&self) -> SemidDs {
        SemidDs { perm: self.perm, otime: self.otime, ctime: self.ctime, nsems: self.sems.len() }
    }

    fn sem(&self, num: i32) -> Result<&Sem> {
        usize::try_from(num).ok().and_then(|num| self.sems.get(num)).ok_or(Errno::EINVAL)
    }
}

impl IpcNamespace {
    /// `semget(2)`.
    ///
    /// # Errors
    /// `EINVAL` for a bad number of semaphores, or more than the array has; `ENOENT`, `EEXIST`, `EACCES`; `ENOSPC` and `ENOMEM` for
    /// limits.
    pub fn semget(&self, caller: &IpcCaller, key: i32, nsems: i32, flags: i32) -> Result<i32> {
        let mut sem = lock(&self.sem);
        let limits = sem.limits;
        if nsems < 0 || nsems > limits.semmsl {
            return Err(Errno::EINVAL);
        }
        let enough =
            |array: &SemArray| if nsems as usize > array.sems.len() { Err(Errno::EINVAL) } else { Ok(()) };
        if let Some(id) = sem.ids.get(self, caller, key, flags, enough)? {
            return Ok(id);
        }
        if nsems == 0 {
            return Err(Errno::EINVAL);
        }
        if i64::from(sem.used) + i64::from(nsems) > i64::from(limits.semmns) {
            return Err(Errno::ENOSPC);
        }
        let charge = self.memory.charge(ARRAY_SIZE + nsems as usize * SEM_SIZE)?;
        let array = SemArray {
            perm: KernIpcPerm::new(caller, key, flags),
            sems: vec![Sem::default(); nsems as usize],
            otime: 0,
            ctime: caller.now,
            pending_alter: Vec::new(),
            pending_const: Vec::new(),
            undo: HashMap::new(),
            _charge: charge,
        };
        let id = sem.ids.add(array, limits.semmni)?;
        sem.used += nsems;
        Ok(id)
    }

    /// `semtimedop(2)`, without the time: `Some` when the call sleeps. `undo` is the caller's undo list.
    ///
    /// # Errors
    /// `E2BIG`, `EFBIG`, `EINVAL`, `EIDRM`, `EACCES`, `ERANGE`, `ENOMEM`, and `EAGAIN` with `IPC_NOWAIT`.
    pub fn semtimedop(
        &self,
        caller: &IpcCaller,
        undo: &Arc<SemUndoList>,
        semid: i32,
        sops: &[Sembuf],
        waker: &Waker,
    ) -> Result<Option<SemWait>> {
        let mut sem = lock(&self.sem);
        if sops.is_empty() || semid < 0 {
            return Err(Errno::EINVAL);
        }
        if sops.len() > sem.limits.most_ops() {
            return Err(Errno::E2BIG);
        }
        let array = sem.ids.find_mut(semid)?;
        if sops.iter().any(|sop| usize::from(sop.num) >= array.sems.len()) {
            return Err(Errno::EFBIG);
        }
        let alter = sops.iter().any(|sop| sop.op != 0);
        array.perm.check(self, &caller.cred, if alter { S_IWUGO } else { S_IRUGO })?;
        let undoes = sops.iter().any(|sop| sop.flg & SEM_UNDO != 0);
        if undoes && undo.is_dead() {
            return Err(Errno::EINTR);
        }
        let undo = undoes.then_some(undo);
        match array.perform(sops, undo, &caller.tgid, &self.memory)? {
            Attempt::Done => {
                array.otime = caller.now;
                if alter {
                    array.update(caller.now, &self.memory);
                }
                Ok(None)
            }
            Attempt::Blocks(blocking) => {
                let sleeper = Arc::new(Sleeper::new(waker));
                let queue = if alter { &mut array.pending_alter } else { &mut array.pending_const };
                queue.push(SemQueue {
                    sops: sops.to_vec(),
                    undo: undo.cloned(),
                    pid: caller.tgid.clone(),
                    blocking,
                    sleeper: sleeper.clone(),
                });
                Ok(Some(SemWait { semid, sleeper }))
            }
        }
    }

    /// A sleeper gives up. `Some`: it has its result all the same.
    pub fn sem_cancel(&self, wait: &SemWait) -> Option<Result<()>> {
        let mut sem = lock(&self.sem);
        if let Ok(array) = sem.ids.find_mut(wait.semid) {
            let others = |queue: &SemQueue| !Arc::ptr_eq(&queue.sleeper, &wait.sleeper);
            array.pending_alter.retain(others);
            array.pending_const.retain(others);
        }
        wait.sleeper.take()
    }

    /// `IPC_STAT`; with `index` `SEM_STAT`, and `SEM_STAT_ANY` when `any`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EACCES`.
    pub fn sem_stat(&self, caller: &IpcCaller, id: i32, index: bool, any: bool) -> Result<SemidDs> {
        let sem = lock(&self.sem);
        let array = if index { sem.ids.at(id)? } else { sem.ids.find(id)? };
        if !any {
            array.perm.check(self, &caller.cred, S_IRUGO)?;
        }
        Ok(array.stat())
    }

    /// What `IPC_INFO` and `SEM_INFO` tell.
    pub fn sem_info(&self) -> SemInfo {
        let sem = lock(&self.sem);
        let (arrays, max_index) = (sem.ids.in_use(), sem.ids.max_index());
        SemInfo { limits: sem.limits, arrays, used: sem.used, max_index }
    }

    /// All arrays, for `/proc/sysvipc/sem`.
    pub fn sem_list(&self) -> Vec<SemidDs> {
        lock(&self.sem).ids.iter().map(SemArray::stat).collect()
    }

    /// How many semaphores an array has.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`.
    pub fn sem_nsems(&self, semid: i32) -> Result<usize> {
        Ok(lock(&self.sem).ids.find(semid)?.sems.len())
    }

    fn sem_read<T>(
        &self,
        caller: &IpcCaller,
        semid: i32,
        with: impl FnOnce(&SemArray) -> Result<T>,
    ) -> Result<T> {
        let sem = lock(&self.sem);
        let array = sem.ids.find(semid)?;
        array.perm.check(self, &caller.cred, S_IRUGO)?;
        with(array)
    }

    /// `GETVAL`.
    ///
    /// # Errors
    /// `EINVAL` for a bad identifier or number; `EIDRM`, `EACCES`. So for those that follow.
    pub fn sem_getval(&self, caller: &IpcCaller, semid: i32, num: i32) -> Result<i32> {
        self.sem_read(caller, semid, |array| Ok(array.sem(num)?.val))
    }

    /// `GETPID`: the process that operated on it last.
    ///
    /// # Errors
    /// As [`IpcNamespace::sem_getval`].
    pub fn sem_getpid(&self, caller: &IpcCaller, semid: i32, num: i32) -> Result<Option<Arc<Pid>>> {
        self.sem_read(caller, semid, |array| Ok(array.sem(num)?.pid.clone()))
    }

    /// `GETZCNT` for `zero`, otherwise `GETNCNT`.
    ///
    /// # Errors
    /// As [`IpcNamespace::sem_getval`].
    pub fn sem_getcnt(&self, caller: &IpcCaller, semid: i32, num: i32, zero: bool) -> Result<i32> {
        self.sem_read(caller, semid, |array| {
            array.sem(num)?;
            Ok(array.count(num as usize, zero))
        })
    }

    /// `GETALL`.
    ///
    /// # Errors
    /// As [`IpcNamespace::sem_getval`].
    pub fn sem_getall(&self, caller: &IpcCaller, semid: i32) -> Result<Vec<u16>> {
        self.sem_read(caller, semid, |array| Ok(array.sems.iter().map(|sem| sem.val as u16).collect()))
    }

    /// `SETVAL`. What others would undo of it is forgotten.
    ///
    /// # Errors
    /// `ERANGE` for a bad value, otherwise as [`IpcNamespace::sem_getval`].
    pub fn sem_setval(&self, caller: &IpcCaller, semid: i32, num: i32, val: i32) -> Result<()> {
        if !(0..=SEMVMX).contains(&val) {
            return Err(Errno::ERANGE);
        }
        let mut sem = lock(&self.sem);
        let array = sem.ids.find_mut(semid)?;
        array.sem(num)?;
        array.perm.check(self, &caller.cred, S_IWUGO)?;
        array.undo.retain(|&(_, of), _| i32::from(of) != num);
        array.sems[num as usize] = Sem { val, pid: Some(caller.tgid.clone()) };
        array.ctime = caller.now;
        array.update(caller.now, &self.memory);
        Ok(())
    }

    /// `SETALL`, with as many values as the array has semaphores.
    ///
    /// # Errors
    /// `ERANGE` for a bad value, `EINVAL` for a wrong number of them, otherwise as [`IpcNamespace::sem_getval`].
    pub fn sem_setall(&self, caller: &IpcCaller, semid: i32, values: &[u16]) -> Result<()> {
        let mut sem = lock(&self.sem);
        let array = sem.ids.find_mut(semid)?;
        array.perm.check(self, &caller.cred, S_IWUGO)?;
        if values.len() != array.sems.len() {
            return Err(Errno::EINVAL);
        }
        if values.iter().any(|&val| i32::from(val) > SEMVMX) {
            return Err(Errno::ERANGE);
        }
        for (sem, &val) in array.sems.iter_mut().zip(values) {
            *sem = Sem { val: val.into(), pid: Some(caller.tgid.clone()) };
        }
        array.undo.clear();
        array.ctime = caller.now;
        array.update(caller.now, &self.memory);
        Ok(())
    }

    /// `IPC_SET`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EPERM`.
    pub fn sem_set(&self, caller: &IpcCaller, semid: i32, set: &IpcPermSet) -> Result<()> {
        let mut sem = lock(&self.sem);
        let array = sem.ids.find_mut(semid)?;
        array.perm.check_owner(self, &caller.cred)?;
        array.perm.update(&caller.cred, set)?;
        array.ctime = caller.now;
        Ok(())
    }

    /// `IPC_RMID` (`freeary`): sleepers get `EIDRM`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EPERM`.
    pub fn sem_rmid(&self, caller: &IpcCaller, semid: i32) -> Result<()> {
        let mut sem = lock(&self.sem);
        sem.ids.find(semid)?.perm.check_owner(self, &caller.cred)?;
        let Some(array) = sem.ids.remove(semid) else { return Ok(()) };
        sem.used -= array.sems.len() as i32;
        for queue in array.pending_alter.iter().chain(&array.pending_const) {
            queue.sleeper.complete(Err(Errno::EIDRM));
        }
        Ok(())
    }

    /// The limits.
    pub fn sem_limits(&self) -> SemLimits {
        lock(&self.sem).limits
    }

    /// Changes the limits.
    ///
    /// # Errors
    /// `EINVAL` for more than [`super::util::IPCMNI`] arrays or a negative number.
    pub fn set_sem_limits(&self, limits: SemLimits) -> Result<()> {
        let all = [limits.semmsl, limits.semmns, limits.semopm, limits.semmni];
        if all.iter().any(|&limit| limit < 0) || limits.semmni > super::util::IPCMNI {
            return Err(Errno::EINVAL);
        }
        lock(&self.sem).limits = limits;
        Ok(())
    }

    /// `exit_sem`, when the last task leaves an undo list: what it holds is undone, as far as values allow.
    pub(crate) fn exit_sem(&self, list: &SemUndoList, pid: &Arc<Pid>, now: i64) {
        let mut sem = lock(&self.sem);
        for semid in std::mem::take(&mut *lock(&list.arrays)) {
            let Ok(array) = sem.ids.find_mut(semid) else { continue };
            let mut nums: Vec<u16> =
                array.undo.keys().filter(|(id, _)| *id == list.id).map(|&(_, num)| num).collect();
            nums.sort_unstable();
            let mut changed = false;
            for num in nums {
                let Some((adjust, _)) = array.undo.remove(&(list.id, num)) else { continue };
                let sem = &mut array.sems[usize::from(num)];
                if adjust != 0 {
                    sem.val = (sem.val + adjust).clamp(0, SEMVMX);
                    sem.pid = Some(pid.clone());
                    changed = true;
                }
            }
            array.otime = now;
            if changed {
                array.update(now, &self.memory);
            }
        }
    }
}
