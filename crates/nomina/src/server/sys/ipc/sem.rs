//! `semget(2)`, `semop(2)`, `semtimedop(2)`, `semctl(2)`.

use nomina_abi::ipc;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::IpcWait;
use nomina_kernel::ipc::sem::Sembuf;

use super::super::super::request::{Ctx, Reply};
use super::structures::{Fields, seminfo};
use super::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, IpcCall, give, payload, perm_set, resume, sleep, waker};

const GETPID: i32 = 11;
const GETVAL: i32 = 12;
const GETALL: i32 = 13;
const GETNCNT: i32 = 14;
const GETZCNT: i32 = 15;
const SETVAL: i32 = 16;
const SETALL: i32 = 17;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

/// `semget(2)`: key, number, flags.
pub fn semget(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let call = IpcCall::new(ctx)?;
    Ok(call.ns.semget(&call.caller, ctx.int(0), ctx.int(1), ctx.int(2))?.into())
}

/// `semop(2)`, `semtimedop(2)`: identifier, operations; how long it may sleep is the caller's affair.
pub fn semop(ctx: &mut Ctx<'_>) -> Result<Reply> {
    match resume(ctx) {
        Some(Ok(_)) => return Ok(().into()),
        Some(Err(sleep)) => return sleep.reply(Errno::EAGAIN),
        None => {}
    }
    let bytes = ctx.bytes(1)?;
    let half = |op: &[u8], at: usize| i16::from_ne_bytes([op[at], op[at + 1]]);
    let sops: Vec<Sembuf> = bytes
        .chunks_exact(6)
        .map(|op| Sembuf { num: half(op, 0) as u16, op: half(op, 2), flg: half(op, 4) })
        .collect();
    let call = IpcCall::new(ctx)?;
    if sops.len() != ctx.uint(2) as usize {
        // The caller could not read them.
        return Err(if ctx.uint(2) as usize > call.ns.sem_limits().most_ops() {
            Errno::E2BIG
        } else {
            Errno::EFAULT
        });
    }
    let undo = ctx.server.kernel.lock().unwrap().sem_undo_list(ctx.task())?;
    match call.ns.semtimedop(&call.caller, &undo, ctx.int(0), &sops, &waker(ctx))? {
        None => Ok(().into()),
        Some(wait) => sleep(ctx, IpcWait::Sem(call.ns, wait)),
    }
}

/// `semctl(2)`: identifier, number, command, and what the command takes. [`ipc::SEM_NSEMS`] tells the number of semaphores in out[0].
pub fn semctl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (semid, num, command) = (ctx.int(0), ctx.int(1), ctx.int(2));
    if semid < 0 {
        return Err(Errno::EINVAL);
    }
    let call = IpcCall::new(ctx)?;
    let (ns, caller) = (&call.ns, &call.caller);
    match command {
        ipc::SEM_NSEMS => {
            ctx.out[0] = ns.sem_nsems(semid)? as u64;
            Ok(().into())
        }
        IPC_INFO | SEM_INFO => {
            let info = ns.sem_info();
            give(ctx, &seminfo(&info, command == SEM_INFO))?;
            Ok(info.max_index.into())
        }
        IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            let array = ns.sem_stat(caller, semid, command != IPC_STAT, command == SEM_STAT_ANY)?;
            let mut fields = Fields::default();
            fields.perm(&call.perm(&array.perm)).long(array.otime as u64).long(0);
            fields.long(array.ctime as u64).long(0).long(array.nsems as u64).long(0).long(0);
            give(ctx, &fields.0)?;
            Ok(if command == IPC_STAT { 0 } else { array.perm.id }.into())
        }
        GETVAL => Ok(ns.sem_getval(caller, semid, num)?.into()),
        GETPID => Ok(call.pid_vnr(ns.sem_getpid(caller, semid, num)?.as_ref()).into()),
        GETNCNT | GETZCNT => Ok(ns.sem_getcnt(caller, semid, num, command == GETZCNT)?.into()),
        GETALL => {
            let values = ns.sem_getall(caller, semid)?;
            give(ctx, values.iter().flat_map(|value| value.to_ne_bytes()).collect::<Vec<u8>>().as_slice())?;
            Ok(().into())
        }
        SETVAL => {
            ns.sem_setval(caller, semid, num, ctx.int(3))?;
            Ok(().into())
        }
        SETALL => {
            let bytes = payload(ctx, 3, 4, 2 * usize::from(u16::MAX))?;
            let values: Vec<u16> =
                bytes.chunks_exact(2).map(|value| u16::from_ne_bytes([value[0], value[1]])).collect();
            ns.sem_setall(caller, semid, &values)?;
            Ok(().into())
        }
        IPC_SET => {
            ns.sem_set(caller, semid, &perm_set(&ctx.bytes(3)?)?)?;
            Ok(().into())
        }
        IPC_RMID => {
            ns.sem_rmid(caller, semid)?;
            Ok(().into())
        }
        _ => Err(Errno::EINVAL),
    }
}
