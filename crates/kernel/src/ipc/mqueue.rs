//! POSIX message queues (`ipc/mqueue.c`, `mq_overview(7)`).
//!
//! A queue is an inode with at most one name in its namespace. Descriptors are the embedder's: it opens a queue ([`IpcNamespace::mq_open`])
//! and says when a description is gone ([`IpcNamespace::mq_close`]); a queue without name and description ceases to be.

use std::any::Any;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use super::namespace::{Charge, lock};
use super::{IpcCaller, IpcNamespace, Sleeper};
use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::pid::Pid;
use crate::user_namespace::{Kgid, Kuid};

/// Most messages of a queue, whatever the limits (`HARD_MSGMAX`).
const HARD_MSGMAX: i32 = 65536;
/// The longest message, whatever the limits (`HARD_MSGSIZEMAX`).
const HARD_MSGSIZEMAX: i32 = 16 << 20;
/// The least that `msgsize_max` can be (`MIN_MSGSIZEMAX`).
const MIN_MSGSIZEMAX: i32 = 128;

/// Limits of a namespace (`/proc/sys/fs/mqueue`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MqLimits {
    /// Queues.
    pub queues_max: i32,
    /// Messages of a queue.
    pub msg_max: i32,
    /// Bytes of a message.
    pub msgsize_max: i32,
    /// Messages of a queue for which nothing else is asked.
    pub msg_default: i32,
    /// Bytes of a message, likewise.
    pub msgsize_default: i32,
}

impl Default for MqLimits {
    fn default() -> Self {
        MqLimits { queues_max: 256, msg_max: 10, msgsize_max: 8192, msg_default: 10, msgsize_default: 8192 }
    }
}

/// Priorities are below it (`MQ_PRIO_MAX`).
pub const MQ_PRIO_MAX: u32 = 32768;
/// Longest name.
const NAME_MAX: usize = 255;
/// What `RLIMIT_MSGQUEUE` counts of a message besides its text: `sizeof(struct msg_msg)`, and once for every priority there can be
/// `sizeof(struct posix_msg_tree_node)`.
const MSG_MSG: u64 = 48;
const TREE_NODE: u64 = 48;
/// Bytes that we take for a queue, and for a message besides its text.
const QUEUE_SIZE: usize = 1024;
const MSG_SIZE: usize = 128;

/// A message.
#[derive(Debug)]
pub struct MqMsg {
    /// Its priority.
    pub prio: u32,
    /// What it says.
    pub text: Vec<u8>,
    _charge: Charge,
}

/// How a process wants to be told of a message (`struct sigevent`).
#[derive(Clone)]
pub enum MqEvent {
    /// Not at all; but nobody else is.
    None,
    /// By a signal, with a value.
    Signal(i32, u64),
    /// By a message to a socket, whose last byte says why.
    Thread([u8; 32], Arc<dyn Any + Send + Sync>),
}

/// Who is told (`notify_owner`).
#[derive(Clone)]
pub struct MqNotify {
    /// How.
    pub event: MqEvent,
    /// The process.
    pub owner: Arc<Pid>,
    /// The description by which it asked.
    pub by: u64,
}

/// Size and number of messages (`struct mq_attr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MqAttr {
    /// Most messages.
    pub maxmsg: i64,
    /// Most bytes of each.
    pub msgsize: i64,
    /// Messages now.
    pub curmsgs: i64,
}

/// A queue (`struct mqueue_inode_info`).
struct Mqueue {
    linked: bool,
    uid: Kuid,
    gid: Kgid,
    mode: u32,
    ctime: i64,
    attr: MqAttr,
    /// Whom it is charged to, and how much.
    user: Kuid,
    bytes: u64,
    opens: usize,
    serial: u64,
    qsize: u64,
    messages: BTreeMap<(Reverse<u32>, u64), MqMsg>,
    notify: Option<MqNotify>,
    receivers: Vec<Arc<Sleeper<Result<MqMsg>>>>,
    senders: Vec<(MqMsg, Arc<Sleeper<Result<()>>>)>,
    _charge: Charge,
}

impl Mqueue {
    fn new(
        (uid, gid): (Kuid, Kgid),
        mode: u32,
        (maxmsg, msgsize): (i64, i64),
        (user, bytes): (Kuid, u64),
        charge: Charge,
        now: i64,
    ) -> Mqueue {
        Mqueue {
            linked: true,
            uid,
            gid,
            mode,
            ctime: now,
            attr: MqAttr { maxmsg, msgsize, curmsgs: 0 },
            user,
            bytes,
            opens: 0,
            serial: 0,
            qsize: 0,
            messages: BTreeMap::new(),
            notify: None,
            receivers: Vec::new(),
            senders: Vec::new(),
            _charge: charge,
        }
    }

    /// `msg_insert`.
    fn insert(&mut self, msg: MqMsg) {
        self.serial += 1;
        self.qsize += msg.text.len() as u64;
        self.attr.curmsgs += 1;
        self.messages.insert((Reverse(msg.prio), self.serial), msg);
    }

    /// `msg_get`: the oldest of the highest priority.
    fn get(&mut self) -> Option<MqMsg> {
        let (_, msg) = self.messages.pop_first()?;
        self.qsize -= msg.text.len() as u64;
        self.attr.curmsgs -= 1;
        Some(msg)
    }

    fn stat(&self, ino: u64) -> MqStat {
        MqStat {
            ino,
            uid: self.uid,
            gid: self.gid,
            mode: self.mode,
            ctime: self.ctime,
            attr: self.attr,
            qsize: self.qsize,
            notify: self.notify.clone(),
        }
    }

    /// `inode_permission`.
    fn check(&self, ns: &IpcNamespace, cred: &Cred, wanted: u32) -> Result<()> {
        let granted = if cred.fsuid == self.uid {
            self.mode >> 6
        } else if cred.in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        let may = || {
            cred.ns_capable(ns.user_ns(), Cap::DAC_OVERRIDE)
                || (wanted == 4 && cred.ns_capable(ns.user_ns(), Cap::DAC_READ_SEARCH))
        };
        if wanted & !granted & 7 == 0 || may() { Ok(()) } else { Err(Errno::EACCES) }
    }
}

/// What is to be seen of a queue.
#[derive(Clone)]
pub struct MqStat {
    /// Its inode number.
    pub ino: u64,
    /// Owner.
    pub uid: Kuid,
    /// Group.
    pub gid: Kgid,
    /// Permission bits.
    pub mode: u32,
    /// When it was made or changed.
    pub ctime: i64,
    /// Its attributes.
    pub attr: MqAttr,
    /// Bytes in it.
    pub qsize: u64,
    /// Who is to be told of a message.
    pub notify: Option<MqNotify>,
}

/// What is asked for when a queue is opened.
#[derive(Clone, Copy, Debug)]
pub struct MqOpen {
    /// Make it if there is none, with these permission bits.
    pub create: Option<u32>,
    /// Fail if there is one.
    pub excl: bool,
    /// Permission to ask for: 4 to receive, 2 to send.
    pub wanted: u32,
    /// Size of a new queue; `None` for the default.
    pub attr: Option<(i64, i64)>,
    /// The caller's `RLIMIT_MSGQUEUE`.
    pub rlimit: u64,
}

/// A call that sleeps.
pub struct MqWait<T> {
    ino: u64,
    /// Who sleeps.
    pub sleeper: Arc<Sleeper<Result<T>>>,
}

/// All queues of a namespace.
#[derive(Default)]
pub(super) struct MqueueState {
    limits: MqLimits,
    queues: BTreeMap<u64, Mqueue>,
    names: BTreeMap<Vec<u8>, u64>,
    last_ino: u64,
}

impl MqueueState {
    fn queue(&mut self, ino: u64) -> Result<&mut Mqueue> {
        self.queues.get_mut(&ino).ok_or(Errno::EBADF)
    }

    fn add(&mut self, name: &[u8], queue: Mqueue) -> u64 {
        self.last_ino += 1;
        self.queues.insert(self.last_ino, queue);
        self.names.insert(name.to_vec(), self.last_ino);
        self.last_ino
    }

    /// Ends a queue that nobody can reach.
    fn put(&mut self, ns: &IpcNamespace, ino: u64) {
        if self.queues.get(&ino).is_some_and(|queue| !queue.linked && queue.opens == 0)
            && let Some(queue) = self.queues.remove(&ino)
        {
            ns.memory.uncharge_mqueue(queue.user, queue.bytes);
        }
    }
}

impl IpcNamespace {
    /// `mq_open(2)`: the inode number of the queue, which has one more description.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EACCES`, `ENAMETOOLONG`; for a new queue `EINVAL` for a bad size, `ENOSPC` for too many queues, `EMFILE` for
    /// more than `RLIMIT_MSGQUEUE` allows, `ENOMEM`.
    pub fn mq_open(&self, caller: &IpcCaller, name: &[u8], open: &MqOpen) -> Result<u64> {
        check_name(name)?;
        let mut state = lock(&self.mqueue);
        if let Some(&ino) = state.names.get(name) {
            if open.create.is_some() && open.excl {
                return Err(Errno::EEXIST);
            }
            let queue = state.queue(ino)?;
            queue.check(self, &caller.cred, open.wanted)?;
            queue.opens += 1;
            return Ok(ino);
        }
        let mode = open.create.ok_or(Errno::ENOENT)?;
        let limits = state.limits;
        let privileged = caller.cred.capable(Cap::SYS_RESOURCE);
        if state.queues.len() >= usize::try_from(limits.queues_max).unwrap_or(0) && !privileged {
            return Err(Errno::ENOSPC);
        }
        let default =
            (limits.msg_max.min(limits.msg_default), limits.msgsize_max.min(limits.msgsize_default));
        let (maxmsg, msgsize) = open.attr.unwrap_or((default.0.into(), default.1.into()));
        let most =
            if privileged { (HARD_MSGMAX, HARD_MSGSIZEMAX) } else { (limits.msg_max, limits.msgsize_max) };
        if !(1..=i64::from(most.0)).contains(&maxmsg) || !(1..=i64::from(most.1)).contains(&msgsize) {
            return Err(Errno::EINVAL);
        }
        let (count, size) = (maxmsg as u64, msgsize as u64);
        let tree = count * MSG_MSG + count.min(MQ_PRIO_MAX.into()) * TREE_NODE;
        let bytes = tree + count * size;
        let charge = self.memory.charge(QUEUE_SIZE)?;
        self.memory.charge_mqueue(caller.cred.uid, bytes, open.rlimit)?;
        let owner = (caller.cred.fsuid, caller.cred.fsgid);
        let queue = Mqueue::new(owner, mode, (maxmsg, msgsize), (caller.cred.uid, bytes), charge, caller.now);
        let ino = state.add(name, queue);
        state.queue(ino)?.opens = 1;
        Ok(ino)
    }

    /// Makes a queue of the default size by its name in the file system (`mqueue_create`).
    ///
    /// # Errors
    /// `EEXIST`, `ENOSPC`, `ENOMEM`.
    pub fn mq_create(&self, name: &[u8], owner: (Kuid, Kgid), mode: u32, now: i64) -> Result<u64> {
        let mut state = lock(&self.mqueue);
        if state.names.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let limits = state.limits;
        if state.queues.len() >= usize::try_from(limits.queues_max).unwrap_or(0) {
            return Err(Errno::ENOSPC);
        }
        let size = (limits.msg_max.min(limits.msg_default), limits.msgsize_max.min(limits.msgsize_default));
        let charge = self.memory.charge(QUEUE_SIZE)?;
        let size = (i64::from(size.0), i64::from(size.1));
        let queue = Mqueue::new(owner, mode, size, (owner.0, 0), charge, now);
        Ok(state.add(name, queue))
    }

    /// Removes a name, whoever asks.
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn mq_remove(&self, name: &[u8]) -> Result<()> {
        let mut state = lock(&self.mqueue);
        let ino = state.names.remove(name).ok_or(Errno::ENOENT)?;
        state.queue(ino)?.linked = false;
        state.put(self, ino);
        Ok(())
    }

    /// Takes back what users were charged for.
    pub(super) fn free_mqueues(&self) {
        for queue in lock(&self.mqueue).queues.values() {
            self.memory.uncharge_mqueue(queue.user, queue.bytes);
        }
    }

    /// A description is gone. What is returned was to be told of a message by it.
    pub fn mq_close(&self, ino: u64, description: u64) -> Option<MqNotify> {
        let mut state = lock(&self.mqueue);
        let queue = state.queue(ino).ok()?;
        queue.opens = queue.opens.saturating_sub(1);
        let removed = queue.notify.take_if(|notify| notify.by == description);
        state.put(self, ino);
        removed
    }

    /// `mq_unlink(2)`.
    ///
    /// # Errors
    /// `ENOENT`; `EPERM` for who is neither its owner nor the owner of the directory, which is sticky.
    pub fn mq_unlink(&self, caller: &IpcCaller, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let mut state = lock(&self.mqueue);
        let ino = *state.names.get(name).ok_or(Errno::ENOENT)?;
        let cred = &caller.cred;
        let root = self.user_ns().make_kuid(0);
        let queue = state.queue(ino)?;
        if cred.fsuid != queue.uid
            && Some(cred.fsuid) != root
            && !cred.capable_wrt_inode(Cap::FOWNER, queue.uid, queue.gid)
        {
            return Err(Errno::EPERM);
        }
        queue.linked = false;
        state.names.remove(name);
        state.put(self, ino);
        Ok(())
    }

    /// `mq_timedsend(2)`, without the time: `Some` when the call sleeps, and who is to be told of the message.
    ///
    /// # Errors
    /// `EBADF`, `EMSGSIZE`, `ENOMEM`; `EAGAIN` with `nonblock`.
    pub fn mq_send(
        &self,
        ino: u64,
        prio: u32,
        text: Vec<u8>,
        nonblock: bool,
        waker: &Waker,
    ) -> Result<(Option<MqWait<()>>, Option<MqNotify>)> {
        let mut state = lock(&self.mqueue);
        let queue = state.queue(ino)?;
        if text.len() as u64 > queue.attr.msgsize as u64 {
            return Err(Errno::EMSGSIZE);
        }
        let full = queue.attr.curmsgs >= queue.attr.maxmsg;
        if full && nonblock {
            return Err(Errno::EAGAIN);
        }
        let charge = self.memory.charge(MSG_SIZE + text.len())?;
        let msg = MqMsg { prio, text, _charge: charge };
        if full {
            let sleeper = Arc::new(Sleeper::new(waker));
            queue.senders.push((msg, sleeper.clone()));
            return Ok((Some(MqWait { ino, sleeper }), None));
        }
        if !queue.receivers.is_empty() {
            queue.receivers.remove(0).complete(Ok(msg));
            return Ok((None, None));
        }
        queue.insert(msg);
        // `__do_notify`: only a message that comes into an empty queue is told, once.
        let told = if queue.attr.curmsgs == 1 { queue.notify.take() } else { None };
        Ok((None, told))
    }

    /// `mq_timedreceive(2)`, without the time, with room for `room` bytes: a message, or the call sleeps.
    ///
    /// # Errors
    /// `EBADF`, `EMSGSIZE`; `EAGAIN` with `nonblock`.
    pub fn mq_receive(
        &self,
        ino: u64,
        room: u64,
        nonblock: bool,
        waker: &Waker,
    ) -> Result<Result<MqMsg, MqWait<MqMsg>>> {
        let mut state = lock(&self.mqueue);
        let queue = state.queue(ino)?;
        if room < queue.attr.msgsize as u64 {
            return Err(Errno::EMSGSIZE);
        }
        if let Some(msg) = queue.get() {
            if !queue.senders.is_empty() {
                let (next, sleeper) = queue.senders.remove(0);
                queue.insert(next);
                sleeper.complete(Ok(()));
            }
            return Ok(Ok(msg));
        }
        if nonblock {
            return Err(Errno::EAGAIN);
        }
        let sleeper = Arc::new(Sleeper::new(waker));
        queue.receivers.push(sleeper.clone());
        Ok(Err(MqWait { ino, sleeper }))
    }

    /// A sender gives up. `Some`: it has its result all the same.
    pub fn mq_send_cancel(&self, wait: &MqWait<()>) -> Option<Result<()>> {
        let mut state = lock(&self.mqueue);
        if let Ok(queue) = state.queue(wait.ino) {
            queue.senders.retain(|(_, sleeper)| !Arc::ptr_eq(sleeper, &wait.sleeper));
        }
        wait.sleeper.take()
    }

    /// A receiver gives up. `Some`: it has its result all the same.
    pub fn mq_receive_cancel(&self, wait: &MqWait<MqMsg>) -> Option<Result<MqMsg>> {
        let mut state = lock(&self.mqueue);
        if let Ok(queue) = state.queue(wait.ino) {
            queue.receivers.retain(|sleeper| !Arc::ptr_eq(sleeper, &wait.sleeper));
        }
        wait.sleeper.take()
    }

    /// `mq_notify(2)`: registers a process. `is_alive` says whether one that is registered still is.
    ///
    /// # Errors
    /// `EBADF`; `EBUSY` when a process is registered.
    pub fn mq_notify(&self, ino: u64, notify: MqNotify, is_alive: impl Fn(&Pid) -> bool) -> Result<()> {
        let mut state = lock(&self.mqueue);
        let queue = state.queue(ino)?;
        if queue.notify.as_ref().is_some_and(|notify| is_alive(&notify.owner)) {
            return Err(Errno::EBUSY);
        }
        queue.notify = Some(notify);
        Ok(())
    }

    /// `mq_notify(2)` without an event: the process is registered no more, if it was.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn mq_remove_notify(&self, ino: u64, owner: &Pid) -> Result<Option<MqNotify>> {
        Ok(lock(&self.mqueue).queue(ino)?.notify.take_if(|notify| *notify.owner == *owner))
    }

    /// A queue.
    ///
    /// # Errors
    /// `EBADF`.
    pub fn mq_stat(&self, ino: u64) -> Result<MqStat> {
        Ok(lock(&self.mqueue).queue(ino)?.stat(ino))
    }

    /// The queue with a name.
    pub fn mq_lookup(&self, name: &[u8]) -> Option<MqStat> {
        let mut state = lock(&self.mqueue);
        let ino = *state.names.get(name)?;
        state.queue(ino).ok().map(|queue| queue.stat(ino))
    }

    /// Names and inode numbers of all queues.
    pub fn mq_names(&self) -> Vec<(Vec<u8>, u64)> {
        lock(&self.mqueue).names.iter().map(|(name, &ino)| (name.clone(), ino)).collect()
    }

    /// Changes owner and permission bits, as far as they are given; who may is decided by the caller.
    pub fn mq_setattr(&self, ino: u64, uid: Option<Kuid>, gid: Option<Kgid>, mode: Option<u32>, now: i64) {
        let mut state = lock(&self.mqueue);
        if let Ok(queue) = state.queue(ino) {
            queue.uid = uid.unwrap_or(queue.uid);
            queue.gid = gid.unwrap_or(queue.gid);
            queue.mode = mode.map_or(queue.mode, |mode| mode & 0o7777);
            queue.ctime = now;
        }
    }

    /// The limits.
    pub fn mq_limits(&self) -> MqLimits {
        lock(&self.mqueue).limits
    }

    /// Changes the limits.
    ///
    /// # Errors
    /// `EINVAL` for what is out of range.
    pub fn set_mq_limits(&self, limits: MqLimits) -> Result<()> {
        let counts = [limits.msg_max, limits.msg_default];
        let sizes = [limits.msgsize_max, limits.msgsize_default];
        if counts.iter().any(|count| !(1..=HARD_MSGMAX).contains(count))
            || sizes.iter().any(|size| !(MIN_MSGSIZEMAX..=HARD_MSGSIZEMAX).contains(size))
        {
            return Err(Errno::EINVAL);
        }
        lock(&self.mqueue).limits = limits;
        Ok(())
    }
}

/// `lookup_noperm_common`: names are those of files in one directory.
fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() {
        return Err(Errno::ENOENT);
    }
    if name == b"." || name == b".." || name.contains(&b'/') {
        return Err(Errno::EACCES);
    }
    if name.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(()) }
}
