//! System V message queues (`ipc/msg.c`): `msgget(2)`, `msgsnd(2)`, `msgrcv(2)`, `msgctl(2)`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use super::namespace::{Charge, lock};
use super::util::{IPCMNI, IpcCaller, IpcIds, IpcObject, IpcPermSet, KernIpcPerm};
use super::{IPC_NOWAIT, IpcNamespace, S_IRUGO, S_IWUGO, Sleeper};
use crate::capability::Cap;
use crate::errno::{Errno, Result};
use crate::pid::Pid;

/// `msgrcv(2)`: cut a message that is too long.
pub const MSG_NOERROR: i32 = 0o10000;
/// `msgrcv(2)`: any type but the one named.
pub const MSG_EXCEPT: i32 = 0o20000;
/// `msgrcv(2)`: a copy, of the message at an index.
pub const MSG_COPY: i32 = 0o40000;

/// Limits of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsgLimits {
    /// Bytes of a message (`msgmax`).
    pub msgmax: i32,
    /// Bytes in a new queue (`msgmnb`).
    pub msgmnb: i32,
    /// Queues (`msgmni`).
    pub msgmni: i32,
}

impl Default for MsgLimits {
    fn default() -> Self {
        MsgLimits { msgmax: 8192, msgmnb: 16384, msgmni: 32000 }
    }
}

/// A message (`struct msg_msg`).
#[derive(Debug)]
pub struct Msg {
    /// Its type.
    pub mtype: i64,
    /// What it says.
    pub text: Vec<u8>,
    _charge: Charge,
}

/// Which message a receiver wants (`convert_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Any,
    Equal(i64),
    NotEqual(i64),
    /// The lowest type that is not above this.
    LessEqual(i64),
    /// The one at this place (`MSG_COPY`).
    Number(i64),
}

impl Search {
    fn new(mtype: i64, flags: i32) -> Search {
        match mtype {
            _ if flags & MSG_COPY != 0 => Search::Number(mtype),
            0 => Search::Any,
            // The least of all has no counterpart.
            ..0 => Search::LessEqual(mtype.checked_neg().unwrap_or(i64::MAX)),
            _ if flags & MSG_EXCEPT != 0 => Search::NotEqual(mtype),
            _ => Search::Equal(mtype),
        }
    }

    /// `testmsg`.
    fn takes(self, msg: &Msg) -> bool {
        match self {
            Search::Any | Search::Number(_) => true,
            Search::Equal(mtype) => msg.mtype == mtype,
            Search::NotEqual(mtype) => msg.mtype != mtype,
            Search::LessEqual(mtype) => msg.mtype <= mtype,
        }
    }
}

/// A task that sleeps in `msgrcv(2)` (`struct msg_receiver`).
struct MsgReceiver {
    caller: IpcCaller,
    search: Search,
    max: usize,
    noerror: bool,
    sleeper: Arc<Sleeper<Result<Msg>>>,
}

/// A task that sleeps in `msgsnd(2)` (`struct msg_sender`), with what it wants to send.
struct MsgSender {
    caller: IpcCaller,
    msg: Msg,
    sleeper: Arc<Sleeper<Result<()>>>,
}

/// A queue (`struct msg_queue`).
struct MsgQueue {
    perm: KernIpcPerm,
    stime: i64,
    rtime: i64,
    ctime: i64,
    cbytes: u64,
    qbytes: u64,
    lspid: Option<Arc<Pid>>,
    lrpid: Option<Arc<Pid>>,
    messages: VecDeque<Msg>,
    receivers: Vec<MsgReceiver>,
    senders: VecDeque<MsgSender>,
    _charge: Charge,
}

impl IpcObject for MsgQueue {
    fn perm(&self) -> &KernIpcPerm {
        &self.perm
    }
    fn perm_mut(&mut self) -> &mut KernIpcPerm {
        &mut self.perm
    }
}

/// All queues of a namespace.
#[derive(Default)]
pub(super) struct MsgIds {
    ids: IpcIds<MsgQueue>,
    limits: MsgLimits,
}

/// What `IPC_STAT` tells (`struct msqid64_ds`).
#[derive(Clone, Debug)]
pub struct MsqidDs {
    /// Identity and permissions.
    pub perm: KernIpcPerm,
    /// Last `msgsnd(2)`.
    pub stime: i64,
    /// Last `msgrcv(2)`.
    pub rtime: i64,
    /// Last change.
    pub ctime: i64,
    /// Bytes in it.
    pub cbytes: u64,
    /// Messages in it.
    pub qnum: usize,
    /// Most bytes in it.
    pub qbytes: u64,
    /// Who sent last.
    pub lspid: Option<Arc<Pid>>,
    /// Who received last.
    pub lrpid: Option<Arc<Pid>>,
}

/// What `IPC_INFO` and `MSG_INFO` tell.
#[derive(Clone, Copy, Debug)]
pub struct MsgInfo {
    /// The limits.
    pub limits: MsgLimits,
    /// Queues in use.
    pub queues: usize,
    /// Messages in all of them.
    pub messages: usize,
    /// Bytes in all of them.
    pub bytes: u64,
    /// The highest index in use.
    pub max_index: i32,
}

/// A call that sleeps.
pub struct MsgWait<T> {
    msqid: i32,
    /// Who sleeps.
    pub sleeper: Arc<Sleeper<Result<T>>>,
}

/// Bytes that a message takes besides its text, and a queue.
const MSG_SIZE: usize = 128;
const QUEUE_SIZE: usize = 512;

/// The message as a receiver with room for `max` bytes gets it.
fn deliver(mut msg: Msg, max: usize, noerror: bool) -> Result<Msg> {
    if msg.text.len() > max {
        if !noerror {
            return Err(Errno::E2BIG);
        }
        msg.text.truncate(max);
    }
    Ok(msg)
}

impl MsgQueue {
    /// `msg_fits_inqueue`.
    fn fits(&self, len: usize) -> bool {
        len as u64 + self.cbytes <= self.qbytes && (self.messages.len() as u64) < self.qbytes
    }

    /// The end of `do_msgsnd`: to a receiver that sleeps (`pipelined_send`), or into the queue.
    fn send(&mut self, caller: &IpcCaller, msg: Msg, now: i64) {
        self.lspid = Some(caller.tgid.clone());
        self.stime = now;
        while let Some(at) = self.receivers.iter().position(|receiver| receiver.search.takes(&msg)) {
            let receiver = self.receivers.remove(at);
            if msg.text.len() > receiver.max && !receiver.noerror {
                receiver.sleeper.complete(Err(Errno::E2BIG));
                continue;
            }
            self.lrpid = Some(receiver.caller.tgid.clone());
            self.rtime = now;
            receiver.sleeper.complete(deliver(msg, receiver.max, receiver.noerror));
            return;
        }
        self.cbytes += msg.text.len() as u64;
        self.messages.push_back(msg);
    }

    /// `ss_wakeup`: the senders whose messages have room now, in the order in which they came.
    fn wake_senders(&mut self, now: i64) {
        let mut at = 0;
        while let Some(sender) = self.senders.get(at) {
            if !self.fits(sender.msg.text.len()) {
                at += 1;
                continue;
            }
            if let Some(MsgSender { caller, msg, sleeper }) = self.senders.remove(at) {
                self.send(&caller, msg, now);
                sleeper.complete(Ok(()));
            }
        }
    }

    /// `find_msg`.
    fn find(&self, search: Search) -> Option<usize> {
        match search {
            Search::Number(number) => {
                usize::try_from(number).ok().filter(|&number| number < self.messages.len())
            }
            Search::LessEqual(_) => {
                let of = |at: &usize| self.messages[*at].mtype;
                (0..self.messages.len()).filter(|&at| search.takes(&self.messages[at])).min_by_key(of)
            }
            _ => self.messages.iter().position(|msg| search.takes(msg)),
        }
    }

    fn stat(&self) -> MsqidDs {
        MsqidDs {
            perm: self.perm,
            stime: self.stime,
            rtime: self.rtime,
            ctime: self.ctime,
            cbytes: self.cbytes,
            qnum: self.messages.len(),
            qbytes: self.qbytes,
            lspid: self.lspid.clone(),
            lrpid: self.lrpid.clone(),
        }
    }
}

impl IpcNamespace {
    /// `msgget(2)`.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `EACCES`; `ENOSPC` and `ENOMEM` for limits.
    pub fn msgget(&self, caller: &IpcCaller, key: i32, flags: i32) -> Result<i32> {
        let mut msg = lock(&self.msg);
        if let Some(id) = msg.ids.get(self, caller, key, flags, |_| Ok(()))? {
            return Ok(id);
        }
        let limits = msg.limits;
        let queue = MsgQueue {
            perm: KernIpcPerm::new(caller, key, flags),
            stime: 0,
            rtime: 0,
            ctime: caller.now,
            cbytes: 0,
            qbytes: limits.msgmnb as u64,
            lspid: None,
            lrpid: None,
            messages: VecDeque::new(),
            receivers: Vec::new(),
            senders: VecDeque::new(),
            _charge: self.memory.charge(QUEUE_SIZE)?,
        };
        msg.ids.add(queue, limits.msgmni)
    }

    /// `msgsnd(2)`: `Some` when the call sleeps.
    ///
    /// # Errors
    /// `EINVAL` for a bad identifier, type or length; `EIDRM`, `EACCES`, `ENOMEM`; `EAGAIN` with `IPC_NOWAIT`.
    pub fn msgsnd(
        &self,
        caller: &IpcCaller,
        msqid: i32,
        mtype: i64,
        text: Vec<u8>,
        flags: i32,
        waker: &Waker,
    ) -> Result<Option<MsgWait<()>>> {
        let mut ids = lock(&self.msg);
        if msqid < 0 || mtype < 1 || text.len() > ids.limits.msgmax as usize {
            return Err(Errno::EINVAL);
        }
        let charge = self.memory.charge(MSG_SIZE + text.len())?;
        let queue = ids.ids.find_mut(msqid)?;
        queue.perm.check(self, &caller.cred, S_IWUGO)?;
        let msg = Msg { mtype, text, _charge: charge };
        if queue.fits(msg.text.len()) {
            queue.send(caller, msg, caller.now);
            return Ok(None);
        }
        if flags & IPC_NOWAIT != 0 {
            return Err(Errno::EAGAIN);
        }
        let sleeper = Arc::new(Sleeper::new(waker));
        queue.senders.push_back(MsgSender { caller: caller.clone(), msg, sleeper: sleeper.clone() });
        Ok(Some(MsgWait { msqid, sleeper }))
    }

    /// `msgrcv(2)`: a message, or the call sleeps.
    ///
    /// # Errors
    /// `EINVAL` for a bad identifier or flags that do not go together; `EIDRM`, `EACCES`, `E2BIG`, `ENOMEM`; `ENOMSG` with
    /// `IPC_NOWAIT`.
    pub fn msgrcv(
        &self,
        caller: &IpcCaller,
        msqid: i32,
        max: usize,
        mtype: i64,
        flags: i32,
        waker: &Waker,
    ) -> Result<Result<Msg, MsgWait<Msg>>> {
        if msqid < 0 || i64::try_from(max).is_err() {
            return Err(Errno::EINVAL);
        }
        if flags & MSG_COPY != 0 && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
            return Err(Errno::EINVAL);
        }
        let search = Search::new(mtype, flags);
        let noerror = flags & MSG_NOERROR != 0;
        let mut ids = lock(&self.msg);
        let queue = ids.ids.find_mut(msqid)?;
        queue.perm.check(self, &caller.cred, S_IRUGO)?;
        if let Some(at) = queue.find(search) {
            if queue.messages[at].text.len() > max && !noerror {
                return Err(Errno::E2BIG);
            }
            if flags & MSG_COPY != 0 {
                let msg = &queue.messages[at];
                // copy_msg cuts nothing off, whatever MSG_NOERROR says.
                if msg.text.len() > max {
                    return Err(Errno::EINVAL);
                }
                let text = msg.text.clone();
                let charge = self.memory.charge(MSG_SIZE + text.len())?;
                return Ok(Ok(Msg { mtype: msg.mtype, text, _charge: charge }));
            }
            let msg = queue.messages.remove(at).ok_or(Errno::ENOMSG)?;
            queue.cbytes -= msg.text.len() as u64;
            queue.rtime = caller.now;
            queue.lrpid = Some(caller.tgid.clone());
            queue.wake_senders(caller.now);
            return deliver(msg, max, noerror).map(Ok);
        }
        if flags & IPC_NOWAIT != 0 {
            return Err(Errno::ENOMSG);
        }
        let sleeper = Arc::new(Sleeper::new(waker));
        queue.receivers.push(MsgReceiver {
            caller: caller.clone(),
            search,
            max,
            noerror,
            sleeper: sleeper.clone(),
        });
        Ok(Err(MsgWait { msqid, sleeper }))
    }

    /// A sender gives up. `Some`: it has its result all the same.
    pub fn msgsnd_cancel(&self, wait: &MsgWait<()>) -> Option<Result<()>> {
        let mut msg = lock(&self.msg);
        if let Ok(queue) = msg.ids.find_mut(wait.msqid) {
            queue.senders.retain(|sender| !Arc::ptr_eq(&sender.sleeper, &wait.sleeper));
        }
        wait.sleeper.take()
    }

    /// A receiver gives up. `Some`: it has its result all the same.
    pub fn msgrcv_cancel(&self, wait: &MsgWait<Msg>) -> Option<Result<Msg>> {
        let mut msg = lock(&self.msg);
        if let Ok(queue) = msg.ids.find_mut(wait.msqid) {
            queue.receivers.retain(|receiver| !Arc::ptr_eq(&receiver.sleeper, &wait.sleeper));
        }
        wait.sleeper.take()
    }

    /// `IPC_STAT`; with `index` `MSG_STAT`, and `MSG_STAT_ANY` when `any`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EACCES`.
    pub fn msg_stat(&self, caller: &IpcCaller, id: i32, index: bool, any: bool) -> Result<MsqidDs> {
        let msg = lock(&self.msg);
        let queue = if index { msg.ids.at(id)? } else { msg.ids.find(id)? };
        if !any {
            queue.perm.check(self, &caller.cred, S_IRUGO)?;
        }
        Ok(queue.stat())
    }

    /// What `IPC_INFO` and `MSG_INFO` tell.
    pub fn msg_info(&self) -> MsgInfo {
        let msg = lock(&self.msg);
        MsgInfo {
            limits: msg.limits,
            queues: msg.ids.in_use(),
            messages: msg.ids.iter().map(|queue| queue.messages.len()).sum(),
            bytes: msg.ids.iter().map(|queue| queue.cbytes).sum(),
            max_index: msg.ids.max_index(),
        }
    }

    /// All queues, for `/proc/sysvipc/msg`.
    pub fn msg_list(&self) -> Vec<MsqidDs> {
        lock(&self.msg).ids.iter().map(MsgQueue::stat).collect()
    }

    /// `IPC_SET`. Receivers are judged anew by the permissions.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`; `EPERM`, also for a queue larger than `msgmnb` without CAP_SYS_RESOURCE.
    pub fn msg_set(&self, caller: &IpcCaller, msqid: i32, set: &IpcPermSet, qbytes: u64) -> Result<()> {
        let mut msg = lock(&self.msg);
        let most = msg.limits.msgmnb as u64;
        let queue = msg.ids.find_mut(msqid)?;
        queue.perm.check_owner(self, &caller.cred)?;
        if qbytes > most && !caller.cred.capable(Cap::SYS_RESOURCE) {
            return Err(Errno::EPERM);
        }
        queue.perm.update(&caller.cred, set)?;
        queue.qbytes = qbytes;
        queue.ctime = caller.now;
        let perm = queue.perm;
        queue.receivers.retain(|receiver| match perm.check(self, &receiver.caller.cred, S_IRUGO) {
            Ok(()) => true,
            Err(errno) => {
                receiver.sleeper.complete(Err(errno));
                false
            }
        });
        queue.senders.retain(|sender| match perm.check(self, &sender.caller.cred, S_IWUGO) {
            Ok(()) => true,
            Err(errno) => {
                sender.sleeper.complete(Err(errno));
                false
            }
        });
        queue.wake_senders(caller.now);
        Ok(())
    }

    /// `IPC_RMID` (`freeque`): sleepers get `EIDRM`.
    ///
    /// # Errors
    /// `EINVAL`, `EIDRM`, `EPERM`.
    pub fn msg_rmid(&self, caller: &IpcCaller, msqid: i32) -> Result<()> {
        let mut msg = lock(&self.msg);
        msg.ids.find(msqid)?.perm.check_owner(self, &caller.cred)?;
        let Some(queue) = msg.ids.remove(msqid) else { return Ok(()) };
        queue.receivers.iter().for_each(|receiver| receiver.sleeper.complete(Err(Errno::EIDRM)));
        queue.senders.iter().for_each(|sender| sender.sleeper.complete(Err(Errno::EIDRM)));
        Ok(())
    }

    /// The limits.
    pub fn msg_limits(&self) -> MsgLimits {
        lock(&self.msg).limits
    }

    /// Changes the limits.
    ///
    /// # Errors
    /// `EINVAL` for more than [`IPCMNI`] queues or a negative number.
    pub fn set_msg_limits(&self, limits: MsgLimits) -> Result<()> {
        if limits.msgmax < 0 || limits.msgmnb < 0 || !(0..=IPCMNI).contains(&limits.msgmni) {
            return Err(Errno::EINVAL);
        }
        lock(&self.msg).limits = limits;
        Ok(())
    }
}
