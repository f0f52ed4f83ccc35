//! New tasks: the model's `kernel_clone`, and the binding of host threads to its tasks.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use nomina_gate::sock;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::fork::{CloneFlags, KernelCloneArgs};

use super::super::Server;
use super::super::guest::{GuestFiles, GuestProcess, GuestThread, Image};
use super::super::request::{Ctx, Reply, host};

/// A token nobody can guess.
///
/// # Errors
/// `EIO` when the host gives no random bytes.
pub fn token() -> Result<u64> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(|_| Errno::EIO)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// [`nomina_abi::op::CLONE`].
pub fn clone(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let flags = CloneFlags::from_bits(ctx.args[0]).ok_or(Errno::EINVAL)?;
    let set_tid = match ctx.int(2) {
        0 => Vec::new(),
        nr => vec![nr],
    };
    let args = KernelCloneArgs {
        flags,
        exit_signal: ctx.int(1),
        set_tid,
        pidfd_at_parent_tid: false,
        now: server.now(),
    };
    let new_thread = flags.contains(CloneFlags::THREAD);
    if new_thread {
        ctx.thread.process.threaded.store(true, Ordering::Release);
    }
    let own_image = ctx.thread.image.lock().unwrap().clone();
    // What can fail on the host comes before what the model has to take back.
    let token = token()?;
    let image = if flags.contains(CloneFlags::VM) {
        let index = own_image.space.slots.lock().unwrap().alloc().ok_or(Errno::EAGAIN)?;
        Image { slot: own_image.space.region.slot(index), index, space: own_image.space.clone() }
    } else {
        let space = server.spares.space().map_err(host)?;
        Image { slot: space.region.slot(0), index: 0, space }
    };
    let release_slot = |image: &Image| {
        if flags.contains(CloneFlags::VM) {
            image.space.slots.lock().unwrap().free(image.index);
        }
    };
    let mut fds = Vec::new();
    if !flags.contains(CloneFlags::VM) {
        fds.push(image.space.region.fd().try_clone_to_owned().map_err(host)?);
    }
    let files = if flags.contains(CloneFlags::FILES) {
        ctx.thread.files.clone()
    } else {
        let (ours, theirs) = server.spares.sockets().map_err(|error| {
            release_slot(&image);
            host(error)
        })?;
        fds.push(theirs);
        Arc::new(GuestFiles { socket: ours })
    };
    let mut kernel = server.kernel.lock().unwrap();
    let outcome = kernel.kernel_clone(ctx.task(), &args).inspect_err(|_| release_slot(&image))?;
    let tgid = kernel.task_tgid_vnr(outcome.child, outcome.child);
    let is_init = kernel.signal_of(outcome.child).is_some_and(|signal| signal.is_init()) && !new_thread;
    drop(kernel);
    ctx.out = [token, outcome.child_tid as u64, tgid as u64, image.index.into(), u64::from(is_init), 0, 0];
    ctx.fds = fds;
    server.guests.expect(Arc::new(GuestThread {
        task: outcome.child,
        host_tid: AtomicI32::new(0),
        token,
        process: if new_thread {
            ctx.thread.process.clone()
        } else {
            GuestProcess::child(&ctx.thread.process)
        },
        files,
        image: Mutex::new(image),
        pace: Default::default(),
    }));
    Ok(outcome.pid.into())
}

/// [`nomina_abi::op::CLONE_FAILED`].
pub fn failed(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let thread = ctx.server.guests.forget(ctx.args[0]).ok_or(Errno::ESRCH)?;
    let image = thread.image.lock().unwrap().clone();
    if Arc::ptr_eq(&image.space, &ctx.thread.image.lock().unwrap().space) {
        image.space.slots.lock().unwrap().free(image.index);
    }
    ctx.server.kernel.lock().unwrap().abort_clone(thread.task)?;
    Ok(().into())
}

/// Binds host thread `tid`, which made a gate call with `token`, to the task the token was made for.
pub fn attach(server: &Arc<Server>, tid: i32, token: u64) -> Option<Arc<GuestThread>> {
    let thread = server.guests.attach(tid, token)?;
    if thread.process.pidfd.get().is_none() {
        // A process introduces itself by its leader; pidfd_open refuses other threads.
        if thread.process.bind(tid).is_err() {
            server.guests.remove(&thread);
            return None;
        }
        server.pids.bind(&server.kernel.lock().unwrap(), thread.task, tid);
        server.reaper.watch(&thread);
    }
    Some(thread)
}

/// Sends the first message on a socket: used by the launch and at exec.
///
/// # Errors
/// Those of `sendmsg(2)`.
pub fn send(thread: &GuestThread, data: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<()> {
    sock::send(thread.files.socket.as_fd(), data, fds).map_err(host)
}

/// Host tid of a thread, if it has introduced itself.
pub fn host_tid(thread: &GuestThread) -> Option<i32> {
    Some(thread.host_tid.load(Ordering::Acquire)).filter(|&tid| tid != 0)
}
