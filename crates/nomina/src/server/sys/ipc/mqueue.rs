//! `mq_open(2)`, `mq_unlink(2)`, `mq_timedsend(2)`, `mq_timedreceive(2)`, `mq_notify(2)`, `mq_getsetattr(2)`.

use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::mqueue::{MQ_PRIO_MAX, MqEvent, MqMsg, MqNotify, MqOpen};
use nomina_kernel::ipc::{IpcCaller, IpcMemory, IpcWait, IpcWoken};
use nomina_kernel::pid::{Pid, PidType};
use nomina_kernel::task::ExitState;
use rustix::fs::OFlags;

use super::super::super::Server;
use super::super::super::ipc::mqueue::MqFile;
use super::super::super::layout::{u32_at, u64_at};
use super::super::super::netlink::NetlinkSocket;
use super::super::super::request::{Ctx, Reply, host};
use super::super::process::native_rlimit;
use super::super::signal;
use super::structures::Fields;
use super::{IpcCall, give, payload, resume, sleep, waker};

const SIGEV_SIGNAL: u32 = 0;
const SIGEV_NONE: u32 = 1;
const SIGEV_THREAD: u32 = 2;
/// The last byte of what a thread is sent: a message has come, or it is registered no more.
const NOTIFY_WOKENUP: u8 = 1;
const NOTIFY_REMOVED: u8 = 2;

/// `mq_open(2)`: name, flags, mode, attributes.
pub fn mq_open(ctx: &mut Ctx<'_>) -> Result<Reply> {
    sweep(ctx.server);
    let name = ctx.path(0)?;
    let flags = ctx.int(1);
    let attr = ctx.structure::<64>(3)?.map(|attr| (u64_at(&attr, 8) as i64, u64_at(&attr, 16) as i64));
    let umask = ctx.fs().umask;
    let open = MqOpen {
        create: (flags & libc::O_CREAT != 0).then(|| ctx.uint(2) & 0o7777 & !umask),
        excl: flags & libc::O_EXCL != 0,
        wanted: match flags & libc::O_ACCMODE {
            libc::O_RDONLY => 4,
            libc::O_WRONLY => 2,
            libc::O_RDWR => 6,
            _ => return Err(Errno::EINVAL),
        },
        attr,
        rlimit: native_rlimit(ctx, libc::RLIMIT_MSGQUEUE)?,
    };
    let call = IpcCall::new(ctx)?;
    let ino = call.ns.mq_open(&call.caller, &name, &open)?;
    let flags = OFlags::from_bits_retain(flags as u32);
    let fd = ctx.server.mqueues.open(&call.ns, ino, flags).inspect_err(|_| {
        call.ns.mq_close(ino, 0);
    })?;
    Ok(Reply::Fd { fd, cloexec: true })
}

/// `mq_unlink(2)`: name.
pub fn mq_unlink(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let name = ctx.path(0)?;
    let call = IpcCall::new(ctx)?;
    call.ns.mq_unlink(&call.caller, &name)?;
    sweep(ctx.server);
    Ok(().into())
}

/// The queue of a descriptor, and the flags of its description.
fn queue_of(ctx: &Ctx<'_>) -> Result<(MqFile, OFlags)> {
    let fd = ctx.getfd(ctx.int(0))?;
    let file = ctx.server.mqueues.find(&fd).ok_or(Errno::EBADF)?;
    Ok((file, rustix::fs::fcntl_getfl(&fd).map_err(host)?))
}

/// `mq_timedsend(2)`: descriptor, text, priority, -, file of the text.
pub fn mq_send(ctx: &mut Ctx<'_>) -> Result<Reply> {
    match resume(ctx) {
        Some(Ok(_)) => return Ok(().into()),
        Some(Err(sleep)) => return sleep.reply(Errno::ETIMEDOUT),
        None => {}
    }
    let prio = ctx.uint(2);
    if prio >= MQ_PRIO_MAX {
        return Err(Errno::EINVAL);
    }
    let (file, flags) = queue_of(ctx)?;
    if flags & OFlags::RWMODE == OFlags::RDONLY {
        return Err(Errno::EBADF);
    }
    let text = payload(ctx, 1, 4, IpcMemory::MAX)?;
    let call = IpcCall::new(ctx)?;
    let nonblock = flags.contains(OFlags::NONBLOCK);
    let (wait, told) = file.ns.mq_send(file.ino, prio, text, nonblock, &waker(ctx))?;
    ctx.server.mqueues.show(&file);
    if let Some(notify) = told {
        tell(ctx.server, &call.caller, &notify);
    }
    match wait {
        None => Ok(().into()),
        Some(wait) => sleep(ctx, IpcWait::MqSend(file.ns, wait)),
    }
}

/// `mq_timedreceive(2)`: descriptor, room. out[0] is the length of the text, out[1] the priority.
pub fn mq_receive(ctx: &mut Ctx<'_>) -> Result<Reply> {
    match resume(ctx) {
        Some(Ok(IpcWoken::MqMsg(msg))) => return received(ctx, &msg),
        Some(Ok(_)) => return Err(Errno::EINTR),
        Some(Err(sleep)) => return sleep.reply(Errno::ETIMEDOUT),
        None => {}
    }
    let (file, flags) = queue_of(ctx)?;
    if flags & OFlags::RWMODE == OFlags::WRONLY {
        return Err(Errno::EBADF);
    }
    // What has died receives nothing.
    IpcCall::new(ctx)?;
    let nonblock = flags.contains(OFlags::NONBLOCK);
    match file.ns.mq_receive(file.ino, ctx.args[1], nonblock, &waker(ctx))? {
        Ok(msg) => {
            ctx.server.mqueues.show(&file);
            received(ctx, &msg)
        }
        Err(wait) => sleep(ctx, IpcWait::MqReceive(file.ns, wait)),
    }
}

fn received(ctx: &mut Ctx<'_>, msg: &MqMsg) -> Result<Reply> {
    give(ctx, &msg.text)?;
    ctx.out[1] = msg.prio.into();
    Ok(msg.text.len().into())
}

/// `mq_getsetattr(2)`: descriptor, new attributes, old attributes.
pub fn mq_getsetattr(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let new = ctx.structure::<64>(1)?.map(|attr| u64_at(&attr, 0));
    let nonblock = u64::from(OFlags::NONBLOCK.bits());
    if new.is_some_and(|flags| flags & !nonblock != 0) {
        return Err(Errno::EINVAL);
    }
    let fd = ctx.getfd(ctx.int(0))?;
    let file = ctx.server.mqueues.find(&fd).ok_or(Errno::EBADF)?;
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(host)?;
    let attr = file.ns.mq_stat(file.ino)?.attr;
    if let Some(new) = new {
        let flags = if new & nonblock != 0 { flags | OFlags::NONBLOCK } else { flags - OFlags::NONBLOCK };
        rustix::fs::fcntl_setfl(&fd, flags).map_err(host)?;
    }
    let mut fields = Fields::default();
    fields.long(u64::from((flags & OFlags::NONBLOCK).bits()));
    fields.long(attr.maxmsg as u64).long(attr.msgsize as u64).long(attr.curmsgs as u64);
    fields.long(0).long(0).long(0).long(0);
    ctx.write(2, &fields.0)?;
    Ok(().into())
}

/// `mq_notify(2)`: descriptor, event, what a thread is sent.
pub fn mq_notify(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let event = match ctx.structure::<64>(1)? {
        None => None,
        Some(event) => Some(match u32_at(&event, 12) {
            SIGEV_NONE => MqEvent::None,
            SIGEV_SIGNAL if u32_at(&event, 8) <= 64 => {
                MqEvent::Signal(u32_at(&event, 8) as i32, u64_at(&event, 0))
            }
            SIGEV_THREAD => {
                let cookie = ctx.structure::<32>(2)?.ok_or(Errno::EFAULT)?;
                let socket = ctx.getfd(u32_at(&event, 8) as i32)?;
                MqEvent::Thread(cookie, ctx.server.netlink.find(&socket).ok_or(Errno::ENOTSOCK)?)
            }
            _ => return Err(Errno::EINVAL),
        }),
    };
    let (file, _) = queue_of(ctx)?;
    let call = IpcCall::new(ctx)?;
    sweep(ctx.server);
    let owner = call.caller.tgid.clone();
    match event {
        None => {
            let removed = file.ns.mq_remove_notify(file.ino, &owner)?;
            removed.iter().for_each(forget);
        }
        Some(event) => {
            let server = ctx.server;
            let notify = MqNotify { event, owner, by: file.serial };
            file.ns.mq_notify(file.ino, notify, |pid| is_alive(server, pid))?;
        }
    }
    Ok(().into())
}

fn is_alive(server: &Arc<Server>, pid: &Pid) -> bool {
    let kernel = server.kernel.lock().unwrap();
    let leader = pid.task(PidType::Tgid).and_then(|leader| kernel.task(leader));
    leader.is_some_and(|leader| leader.exit_state() == ExitState::Running)
}

/// Takes note of descriptors that were closed.
pub fn sweep(server: &Arc<Server>) {
    server.mqueues.sweep().iter().for_each(forget);
}

/// Tells a thread that it is registered no more.
fn forget(notify: &MqNotify) {
    send_cookie(notify, NOTIFY_REMOVED);
}

fn send_cookie(notify: &MqNotify, why: u8) {
    if let MqEvent::Thread(cookie, socket) = &notify.event
        && let Some(socket) = socket.downcast_ref::<NetlinkSocket>()
    {
        let mut cookie = *cookie;
        cookie[31] = why;
        socket.send(&cookie);
    }
}

/// `__do_notify`: a message of `sender` has come.
fn tell(server: &Arc<Server>, sender: &IpcCaller, notify: &MqNotify) {
    if let MqEvent::Signal(signo, value) = notify.event {
        signal::send_mesgq(server, sender, &notify.owner, signo, value);
    }
    send_cookie(notify, NOTIFY_WOKENUP);
}
