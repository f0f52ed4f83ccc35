//! `msgget(2)`, `msgsnd(2)`, `msgrcv(2)`, `msgctl(2)`.

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::msg::Msg;
use nomina_kernel::ipc::{IpcMemory, IpcWait, IpcWoken};

use super::super::super::layout::u64_at;
use super::super::super::request::{Ctx, Reply};
use super::structures::{Fields, msginfo};
use super::{IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, IpcCall, give, payload, perm_set, resume, sleep, waker};

const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// `msgget(2)`: key, flags.
pub fn msgget(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let call = IpcCall::new(ctx)?;
    Ok(call.ns.msgget(&call.caller, ctx.int(0), ctx.int(1))?.into())
}

/// `msgsnd(2)`: identifier, text, type, flags, file of the text.
pub fn msgsnd(ctx: &mut Ctx<'_>) -> Result<Reply> {
    match resume(ctx) {
        Some(Ok(_)) => return Ok(().into()),
        Some(Err(sleep)) => return sleep.reply(Errno::EAGAIN),
        None => {}
    }
    let text = payload(ctx, 1, 4, IpcMemory::MAX)?;
    let call = IpcCall::new(ctx)?;
    let sent = call.ns.msgsnd(&call.caller, ctx.int(0), ctx.args[2] as i64, text, ctx.int(3), &waker(ctx))?;
    match sent {
        None => Ok(().into()),
        Some(wait) => sleep(ctx, IpcWait::Snd(call.ns, wait)),
    }
}

/// `msgrcv(2)`: identifier, room, type, flags. out[0] is the length of the text, out[1] the type.
pub fn msgrcv(ctx: &mut Ctx<'_>) -> Result<Reply> {
    match resume(ctx) {
        Some(Ok(IpcWoken::Msg(msg))) => return received(ctx, &msg),
        Some(Ok(_)) => return Err(Errno::EINTR),
        Some(Err(sleep)) => return sleep.reply(Errno::EAGAIN),
        None => {}
    }
    let call = IpcCall::new(ctx)?;
    let room = usize::try_from(ctx.args[1]).map_err(|_| Errno::EINVAL)?;
    match call.ns.msgrcv(&call.caller, ctx.int(0), room, ctx.args[2] as i64, ctx.int(3), &waker(ctx))? {
        Ok(msg) => received(ctx, &msg),
        Err(wait) => sleep(ctx, IpcWait::Rcv(call.ns, wait)),
    }
}

fn received(ctx: &mut Ctx<'_>, msg: &Msg) -> Result<Reply> {
    give(ctx, &msg.text)?;
    ctx.out[1] = msg.mtype as u64;
    Ok(msg.text.len().into())
}

/// `msgctl(2)`: identifier, command, structure.
pub fn msgctl(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let (msqid, command) = (ctx.int(0), ctx.int(1));
    if msqid < 0 || command < 0 {
        return Err(Errno::EINVAL);
    }
    let call = IpcCall::new(ctx)?;
    let (ns, caller) = (&call.ns, &call.caller);
    match command {
        IPC_INFO | MSG_INFO => {
            let info = ns.msg_info();
            give(ctx, &msginfo(&info, command == MSG_INFO))?;
            Ok(info.max_index.into())
        }
        IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let queue = ns.msg_stat(caller, msqid, command != IPC_STAT, command == MSG_STAT_ANY)?;
            let mut fields = Fields::default();
            fields.perm(&call.perm(&queue.perm));
            fields.long(queue.stime as u64).long(queue.rtime as u64).long(queue.ctime as u64);
            fields.long(queue.cbytes).long(queue.qnum as u64).long(queue.qbytes);
            fields.int(call.pid_vnr(queue.lspid.as_ref())).int(call.pid_vnr(queue.lrpid.as_ref()));
            fields.long(0).long(0);
            give(ctx, &fields.0)?;
            Ok(if command == IPC_STAT { 0 } else { queue.perm.id }.into())
        }
        IPC_SET => {
            let bytes = ctx.structure::<120>(2)?.ok_or(Errno::EFAULT)?;
            ns.msg_set(caller, msqid, &perm_set(&bytes)?, u64_at(&bytes, 88))?;
            Ok(().into())
        }
        IPC_RMID => {
            ns.msg_rmid(caller, msqid)?;
            Ok(().into())
        }
        _ => Err(Errno::EINVAL),
    }
}
