//! Workers: take gate calls, serve them, and after bursts of calls watch the caller's channel.

use std::io;
use std::sync::Arc;

use nomina_abi as abi;
use nomina_fs::proc::{TaskKey, with_current};
use nomina_gate::listener::Call;
use nomina_kernel::errno::Errno;

use super::Server;
use super::ahead::{Changing, changes_credentials, changes_names, changes_nothing};
use super::guest::{Gate, GuestThread};
use super::request::{Ctx, Reply};
use super::sys;

/// How many workers serve a sandbox.
pub fn count() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get()).clamp(4, 8)
}

/// Starts the workers that serve the guests under one filter. They end when the last of these has ended.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(server: &Arc<Server>, gate: &Arc<Gate>) -> io::Result<()> {
    super::turns::start(server, gate, count())?;
    for index in 0..count() {
        let (server, gate) = (server.clone(), gate.clone());
        std::thread::Builder::new()
            .name(format!("nomina-work-{index}"))
            .stack_size(512 * 1024)
            .spawn(move || work(&server, &gate))?;
    }
    Ok(())
}

/// How a gate call is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// With a number.
    Value(i64),
    /// It has been already.
    Given,
}

fn work(server: &Arc<Server>, gate: &Gate) {
    let Some(listener) = gate.listener.get() else { return };
    while let Some(call) = gate.turns.take(|| listener.recv().ok().flatten()) {
        // A panic is our bug, not the guest's to exploit: the call fails, the sandbox lives.
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer(server, &call)))
            .unwrap_or(failure(Errno::EIO));
        if let Answer::Value(value) = answer {
            listener.reply(call.id, value);
        }
    }
}

/// Serves one gate call; gives what the call returns.
fn answer(server: &Arc<Server>, call: &Call) -> Answer {
    let denied = failure(Errno::EPERM);
    if call.nr as u32 != abi::GATE_NR || call.args[2] != abi::GATE_MAGIC {
        return failure(Errno::ENOSYS);
    }
    let tid = call.tid as i32;
    // Who calls may have been forked unasked.
    server.settle();
    let thread = match call.args[0] {
        abi::GATE_CALL | abi::GATE_ATTACH => {
            match server.guests.by_tid(tid).filter(|thread| thread.token == call.args[1]) {
                Some(thread) => Some(thread),
                // A new thread, or one whose host tid was somebody else's before.
                None => sys::clone::attach(server, tid, call.args[1]).or_else(|| server.guests.by_tid(tid)),
            }
        }
        abi::GATE_START => server.guests.by_tid(tid).or_else(|| sys::exec::by_process(server, tid)),
        _ => return denied,
    };
    let Some(thread) = thread else { return denied };
    match call.args[0] {
        abi::GATE_CALL => {
            if serve(server, &thread, Some(call.id)) {
                server.watcher.pace(server, &thread);
                return Answer::Value(0);
            }
            match sys::exec::borrowed_slot(server, &thread) {
                Some(slot) => served(Ctx::new(server, &thread, slot, Some(call.id))),
                None => failure(Errno::ESTALE),
            }
        }
        abi::GATE_ATTACH => sys::clone::equip(server, &thread, call.id).unwrap_or_else(failure),
        _ => sys::exec::start(server, &thread, tid, call.id).unwrap_or_else(failure),
    }
}

fn failure(errno: Errno) -> Answer {
    Answer::Value(-i64::from(errno.0))
}

/// Serves the request in a slot that a process has borrowed: only what belongs to an exec.
fn served(ctx: Ctx<'_>) -> Answer {
    if !matches!(ctx.nr, abi::op::EXEC | abi::op::EXEC_FAILED) {
        return failure(Errno::ESTALE);
    }
    run(ctx);
    Answer::Value(0)
}

/// Serves the request in a thread's slot; false if it has none. `call` is the notification, if it asked by one.
pub fn serve(server: &Arc<Server>, thread: &Arc<GuestThread>, call: Option<u64>) -> bool {
    let Some(image) = thread.image() else { return false };
    server.settle();
    for (number, host_pid) in image.slot.take_reaped() {
        sys::process::note_reaped(server, thread, number, host_pid);
    }
    run(Ctx::new(server, thread, image.slot, call));
    true
}

/// Announces what a request may change of what answers depend on that guests have.
fn announce<'a>(ctx: &Ctx<'a>) -> Option<Changing<'a>> {
    let ahead = &ctx.server.ahead;
    match ctx.thread.image() {
        _ if changes_nothing(ctx.nr, &ctx.args) => None,
        _ if changes_names(ctx.nr, &ctx.args) => Some(ahead.change_names()),
        Some(image) if changes_credentials(ctx.nr) => {
            ahead.change_own(&image.space().region);
            None
        }
        _ => Some(ahead.change()),
    }
}

/// Serves a request and writes the reply.
fn run(mut ctx: Ctx<'_>) {
    let (server, thread) = (ctx.server, ctx.thread);
    server.settle_for(thread, ctx.nr, &ctx.args);
    if server.controls.any() || server.privs.any() {
        let _changing = server.ahead.change();
        drop(server.settle_all());
        server.controls.apply();
        server.privs.apply(server);
    }
    let started = server.stats.start();
    let (nr, key, asked) = (ctx.nr, TaskKey(thread.task.0), (ctx.nr, ctx.args));
    server.ahead.observe(&ctx);
    let changing = announce(&ctx);
    server.fuse.replays().begin(key, asked);
    // A panic is our bug, not the guest's to exploit: the request fails, the sandbox lives.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        with_current(key, || super::remembered::answer(&mut ctx).unwrap_or_else(|| sys::dispatch(&mut ctx)))
    }))
    .unwrap_or(Err(Errno::EIO));
    let result = match result {
        Err(Errno::ERESTARTSYS) => nomina_fs::wait::take().map(Reply::Wait).ok_or(Errno::EIO),
        other => other,
    };
    server.fuse.replays().end(key, asked, matches!(result, Ok(Reply::Wait(_))));
    drop(changing);
    let enosys = matches!(result, Err(Errno::ENOSYS));
    ctx.finish(result);
    server.stats.count(nr, started, enosys);
}
