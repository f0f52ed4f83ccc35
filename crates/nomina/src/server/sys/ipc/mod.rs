//! System V IPC and POSIX message queues: what their calls share.

pub mod mqueue;
pub mod msg;
pub mod sem;
pub mod shm;
mod structures;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::Waker;

use nomina_abi::{SLOT_DATA, ipc};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::util::{IpcPermSet, KernIpcPerm};
use nomina_kernel::ipc::{IpcCaller, IpcNamespace, IpcWait, IpcWoken};
use nomina_kernel::pid::Pid;
use rustix::fs::MemfdFlags;

use super::super::ipc::waker_of;
use super::super::request::{Ctx, Reply, host};

/// Commands of `*ctl(2)`.
const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;

/// Which argument says whether a call goes on after a sleep ([`ipc`]).
const PHASE: usize = 5;

/// A call as the model sees it.
struct IpcCall {
    ns: Arc<IpcNamespace>,
    caller: IpcCaller,
}

impl IpcCall {
    /// The call of `ctx`. What ended before it has ended.
    fn new(ctx: &Ctx<'_>) -> Result<IpcCall> {
        ctx.server.reaper.drain(ctx.server);
        let (ns, caller) = ctx.server.kernel.lock().unwrap().ipc_caller(ctx.task())?;
        Ok(IpcCall { ns, caller })
    }

    /// The number of a process as the caller sees it.
    fn pid_vnr(&self, pid: Option<&Arc<Pid>>) -> i32 {
        pid.map_or(0, |pid| pid.nr_ns(self.caller.tgid.ns()))
    }

    /// `kernel_to_ipc64_perm`: ids as the caller sees them.
    fn perm(&self, perm: &KernIpcPerm) -> KernIpcPerm {
        let ns = &self.caller.cred.user_ns;
        KernIpcPerm {
            uid: ns.from_kuid_munged(perm.uid),
            gid: ns.from_kgid_munged(perm.gid),
            cuid: ns.from_kuid_munged(perm.cuid),
            cgid: ns.from_kgid_munged(perm.cgid),
            ..*perm
        }
    }
}

/// The beginning of a call that may sleep: `Some` is its result when it goes on after a sleep.
fn resume(ctx: &Ctx<'_>) -> Option<Result<IpcWoken, Sleep>> {
    let phase = ctx.args[PHASE];
    let wait = ctx.server.kernel.lock().unwrap().task_mut(ctx.task()).and_then(|task| task.ipc_wait.take());
    if phase == ipc::FRESH {
        // Left by a guest that does not keep to the rules.
        wait.inspect(|wait| drop(wait.cancel()));
        return None;
    }
    let Some(wait) = wait else { return Some(Err(Sleep::Failed(Errno::EINTR))) };
    let outcome = if phase == ipc::WOKEN {
        ctx.slot.clear_wake();
        wait.take()
    } else {
        wait.cancel()
    };
    Some(match outcome {
        Some(result) => result.map_err(Sleep::Failed),
        None if phase == ipc::WOKEN => {
            let still = sleep(ctx, wait);
            Err(if still.is_ok() { Sleep::Still } else { Sleep::Failed(Errno::EINTR) })
        }
        None if phase == ipc::TIMED_OUT => Err(Sleep::TimedOut),
        None => Err(Sleep::Failed(Errno::EINTR)),
    })
}

/// Why a call that slept has no result.
enum Sleep {
    /// It goes on sleeping.
    Still,
    /// Its time is over.
    TimedOut,
    /// It failed.
    Failed(Errno),
}

impl Sleep {
    /// As a reply; `late` is what a call fails with when its time is over.
    fn reply(self, late: Errno) -> Result<Reply> {
        match self {
            Sleep::Still => Ok(Reply::Sleep),
            Sleep::TimedOut => Err(late),
            Sleep::Failed(errno) => Err(errno),
        }
    }
}

/// What wakes the caller.
fn waker(ctx: &Ctx<'_>) -> Waker {
    waker_of(&ctx.slot)
}

/// The caller sleeps until it is woken.
fn sleep(ctx: &Ctx<'_>, wait: IpcWait) -> Result<Reply> {
    let mut kernel = ctx.server.kernel.lock().unwrap();
    match kernel.task_mut(ctx.task()).filter(|task| !task.is_exiting()) {
        Some(task) => task.ipc_wait = Some(wait),
        None => {
            drop(kernel);
            wait.cancel();
            return Err(Errno::EINTR);
        }
    }
    Ok(Reply::Sleep)
}

/// A payload of the guest's: in the slot, or, if it is long, at the start of a file of which the guest says the number.
fn payload(ctx: &Ctx<'_>, at: usize, file_at: usize, longest: usize) -> Result<Vec<u8>> {
    if ctx.args[file_at] == 0 {
        return ctx.bytes(at);
    }
    let len = usize::try_from(ctx.args[at]).ok().filter(|&len| len <= longest).ok_or(Errno::EINVAL)?;
    let file = ctx.getfd(ctx.int(file_at) - 1)?;
    if rustix::fs::fstat(&file).map_err(host)?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; len];
    let mut done = 0;
    while done < len {
        match rustix::io::pread(&file, &mut bytes[done..], done as u64).map_err(host)? {
            0 => return Err(Errno::EFAULT),
            more => done += more,
        }
    }
    Ok(bytes)
}

/// Gives the guest bytes: `out[0]` says how many, which stand in the slot or, if they do not fit, in a file.
fn give(ctx: &mut Ctx<'_>, bytes: &[u8]) -> Result<()> {
    ctx.out[0] = bytes.len() as u64;
    if bytes.len() <= SLOT_DATA {
        return ctx.write_data(bytes);
    }
    let file: OwnedFd = rustix::fs::memfd_create("nomina-text", MemfdFlags::CLOEXEC).map_err(host)?;
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::pwrite(&file, &bytes[done..], done as u64).map_err(host)?;
    }
    ctx.fds = vec![file];
    Ok(())
}

/// The part of a structure that `IPC_SET` takes: `struct ipc64_perm`.
fn perm_set(bytes: &[u8]) -> Result<IpcPermSet> {
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map(u32::from_ne_bytes).ok_or(Errno::EFAULT)
    };
    Ok(IpcPermSet { uid: word(4)?, gid: word(8)?, mode: word(20)? })
}
