//! What the three kinds of System V object share (`ipc/util.c`): identifiers, keys, permissions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{IPC_CREAT, IPC_EXCL, IPC_PRIVATE, IpcNamespace, S_IRWXUGO};
use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::pid::Pid;
use crate::task::TaskId;
use crate::user_namespace::{Kgid, Kuid};

/// Most objects of a kind in a namespace (`IPCMNI`); an identifier is a sequence number times this, plus an index.
pub const IPCMNI: i32 = 1 << IPCMNI_SHIFT;
const IPCMNI_SHIFT: u32 = 15;
/// Sequence numbers stay below it (`ipcid_seq_max`).
const SEQ_MAX: i32 = i32::MAX >> IPCMNI_SHIFT;
/// Indexes are not used again before so many others have been (`RADIX_TREE_MAP_SIZE`).
const MIN_CYCLE: usize = 64;

/// Who makes a call, and when.
#[derive(Clone)]
pub struct IpcCaller {
    /// The task.
    pub task: TaskId,
    /// Its process.
    pub tgid: Arc<Pid>,
    /// Its credentials.
    pub cred: Arc<Cred>,
    /// The time, in seconds since 1970.
    pub now: i64,
}

/// Identity and permissions of an object (`struct kern_ipc_perm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernIpcPerm {
    /// Its identifier.
    pub id: i32,
    /// Its key, [`IPC_PRIVATE`] when it has none.
    pub key: i32,
    /// Owner.
    pub uid: Kuid,
    /// Group.
    pub gid: Kgid,
    /// Creator.
    pub cuid: Kuid,
    /// The creator's group.
    pub cgid: Kgid,
    /// Permission bits, and above them what the kind of object keeps there.
    pub mode: u32,
    /// Sequence number.
    pub seq: u16,
}

impl KernIpcPerm {
    /// That of a new object with the permission bits of `flags`; its identifier is given by [`IpcIds::add`].
    pub(super) fn new(caller: &IpcCaller, key: i32, flags: i32) -> KernIpcPerm {
        let (uid, gid) = (caller.cred.euid, caller.cred.egid);
        let mode = flags as u32 & S_IRWXUGO;
        KernIpcPerm { id: 0, key, uid, gid, cuid: uid, cgid: gid, mode, seq: 0 }
    }

    /// `ipcperms`: whether `cred` may use the object in the ways `wanted` says, in whichever of its three classes of bits.
    ///
    /// # Errors
    /// `EACCES`.
    pub fn check(&self, ns: &IpcNamespace, cred: &Cred, wanted: u32) -> Result<()> {
        let requested = (wanted >> 6) | (wanted >> 3) | wanted;
        let granted = if cred.euid == self.cuid || cred.euid == self.uid {
            self.mode >> 6
        } else if cred.in_group(self.cgid) || cred.in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if requested & !granted & 0o7 != 0 && !cred.ns_capable(ns.user_ns(), Cap::IPC_OWNER) {
            return Err(Errno::EACCES);
        }
        Ok(())
    }

    /// Whether `cred` may change or remove the object (`ipcctl_obtain_check`).
    ///
    /// # Errors
    /// `EPERM` for all but owner, creator and who has CAP_SYS_ADMIN.
    pub(super) fn check_owner(&self, ns: &IpcNamespace, cred: &Cred) -> Result<()> {
        let owner = cred.euid == self.cuid || cred.euid == self.uid;
        if owner || cred.ns_capable(ns.user_ns(), Cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `ipc_update_perm`: `IPC_SET`.
    ///
    /// # Errors
    /// `EINVAL` for ids that have no meaning in the caller's user namespace.
    pub(super) fn update(&mut self, cred: &Cred, set: &IpcPermSet) -> Result<()> {
        let uid = cred.user_ns.make_kuid(set.uid).ok_or(Errno::EINVAL)?;
        let gid = cred.user_ns.make_kgid(set.gid).ok_or(Errno::EINVAL)?;
        (self.uid, self.gid) = (uid, gid);
        self.mode = self.mode & !S_IRWXUGO | set.mode & S_IRWXUGO;
        Ok(())
    }
}

/// What `IPC_SET` changes of every kind of object; ids as the caller knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpcPermSet {
    /// New owner.
    pub uid: u32,
    /// New group.
    pub gid: u32,
    /// New permission bits.
    pub mode: u32,
}

/// An object with an identifier.
pub(super) trait IpcObject {
    fn perm(&self) -> &KernIpcPerm;
    fn perm_mut(&mut self) -> &mut KernIpcPerm;
}

/// The objects of a kind (`struct ipc_ids`).
pub(super) struct IpcIds<T> {
    by_index: BTreeMap<usize, T>,
    by_key: HashMap<i32, usize>,
    seq: i32,
    last_index: Option<usize>,
    /// Where the search for a free index begins (`idr_alloc_cyclic`).
    next: usize,
}

impl<T> Default for IpcIds<T> {
    fn default() -> Self {
        IpcIds { by_index: BTreeMap::new(), by_key: HashMap::new(), seq: 0, last_index: None, next: 0 }
    }
}

impl<T: IpcObject> IpcIds<T> {
    /// How many there are.
    pub fn in_use(&self) -> usize {
        self.by_index.len()
    }

    /// The highest index in use, as `IPC_INFO` and its like return it: 0 when there is none.
    pub fn max_index(&self) -> i32 {
        self.by_index.last_key_value().map_or(0, |(&index, _)| index as i32)
    }

    /// `ipcget`: what `flags` say about the object with a key. `None`: the caller makes a new one.
    ///
    /// # Errors
    /// `EEXIST` and `ENOENT` as the flags say; those of `more_checks`; `EACCES`.
    pub fn get(
        &self,
        ns: &IpcNamespace,
        caller: &IpcCaller,
        key: i32,
        flags: i32,
        more_checks: impl FnOnce(&T) -> Result<()>,
    ) -> Result<Option<i32>> {
        let found = if key == IPC_PRIVATE { None } else { self.by_key.get(&key) };
        match found.and_then(|index| self.by_index.get(index)) {
            None if key == IPC_PRIVATE || flags & IPC_CREAT != 0 => Ok(None),
            None => Err(Errno::ENOENT),
            Some(_) if flags & IPC_CREAT != 0 && flags & IPC_EXCL != 0 => Err(Errno::EEXIST),
            Some(object) => {
                more_checks(object)?;
                object.perm().check(ns, &caller.cred, flags as u32)?;
                Ok(Some(object.perm().id))
            }
        }
    }

    /// `ipc_addid`: gives a new object its identifier.
    ///
    /// # Errors
    /// `ENOSPC` when there are `limit` of them.
    pub fn add(&mut self, mut object: T, limit: i32) -> Result<i32> {
        let limit = limit.clamp(0, IPCMNI) as usize;
        if self.in_use() >= limit {
            return Err(Errno::ENOSPC);
        }
        let cycle = (self.in_use() * 3 / 2).max(MIN_CYCLE).min(IPCMNI as usize);
        let free = |range: std::ops::Range<usize>| range.into_iter().find(|i| !self.by_index.contains_key(i));
        let index = free(self.next.min(cycle)..cycle).or_else(|| free(0..cycle)).ok_or(Errno::ENOSPC)?;
        self.next = index + 1;
        if self.last_index.is_some_and(|last| index <= last) {
            self.seq = if self.seq + 1 >= SEQ_MAX { 0 } else { self.seq + 1 };
        }
        self.last_index = Some(index);
        let perm = object.perm_mut();
        perm.seq = self.seq as u16;
        perm.id = (self.seq << IPCMNI_SHIFT) + index as i32;
        let (id, key) = (perm.id, perm.key);
        if key != IPC_PRIVATE {
            self.by_key.insert(key, index);
        }
        self.by_index.insert(index, object);
        Ok(id)
    }

    fn index(id: i32) -> usize {
        (id & (IPCMNI - 1)) as usize
    }

    /// `ipc_obtain_object_check`: the object with an identifier.
    ///
    /// # Errors
    /// `EINVAL` when there is none at its index, `EIDRM` when there is another.
    pub fn find(&self, id: i32) -> Result<&T> {
        if id < 0 {
            return Err(Errno::EINVAL);
        }
        let object = self.by_index.get(&Self::index(id)).ok_or(Errno::EINVAL)?;
        if object.perm().id == id { Ok(object) } else { Err(Errno::EIDRM) }
    }

    /// As [`IpcIds::find`].
    pub fn find_mut(&mut self, id: i32) -> Result<&mut T> {
        self.find(id)?;
        self.by_index.get_mut(&Self::index(id)).ok_or(Errno::EINVAL)
    }

    /// `ipc_obtain_object_idr`: the object at an index, which is what `*_STAT` takes; sequence numbers do not count.
    ///
    /// # Errors
    /// `EINVAL` when there is none.
    pub fn at(&self, index: i32) -> Result<&T> {
        if index < 0 {
            return Err(Errno::EINVAL);
        }
        self.by_index.get(&Self::index(index)).ok_or(Errno::EINVAL)
    }

    /// `ipc_rmid`: takes it out.
    pub fn remove(&mut self, id: i32) -> Option<T> {
        self.find(id).ok()?;
        let object = self.by_index.remove(&Self::index(id))?;
        self.forget_key(object.perm().key);
        Some(object)
    }

    /// `ipc_set_key_private`: nobody finds it by its key any more.
    pub fn set_key_private(&mut self, id: i32) {
        let Ok(object) = self.find_mut(id) else { return };
        let key = std::mem::replace(&mut object.perm_mut().key, IPC_PRIVATE);
        self.forget_key(key);
    }

    fn forget_key(&mut self, key: i32) {
        if key != IPC_PRIVATE {
            self.by_key.remove(&key);
        }
    }

    /// All of them, by index.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.by_index.values()
    }

    /// As [`IpcIds::iter`].
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.by_index.values_mut()
    }
}
