//! Workers: take gate calls, serve them, and after bursts of calls watch the caller's channel.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use nomina_abi as abi;
use nomina_fs::proc::{TaskKey, with_current};
use nomina_gate::listener::Call;
use nomina_kernel::errno::Errno;

use super::Server;
use super::guest::GuestThread;
use super::request::Ctx;
use super::sys;

/// How many workers serve a sandbox.
pub fn count() -> usize {
    std::thread::available_parallelism().map_or(4, |n| n.get()).clamp(4, 8)
}

/// Starts the workers. They end when the last guest has ended.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(server: &Arc<Server>) -> io::Result<()> {
    for index in 0..count() {
        let server = server.clone();
        std::thread::Builder::new()
            .name(format!("nomina-work-{index}"))
            .stack_size(512 * 1024)
            .spawn(move || work(&server))?;
    }
    Ok(())
}

fn work(server: &Arc<Server>) {
    let Some(listener) = server.listener.get() else { return };
    while let Ok(Some(call)) = listener.recv() {
        // A panic is our bug, not the guest's to exploit: the call fails, the sandbox lives.
        let value = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer(server, &call)))
            .unwrap_or(-i64::from(Errno::EIO.0));
        listener.reply(call.id, value);
    }
}

/// Serves one gate call; gives what the call returns.
fn answer(server: &Arc<Server>, call: &Call) -> i64 {
    let denied = -i64::from(Errno::EPERM.0);
    if call.nr as u32 != abi::GATE_NR || call.args[2] != abi::GATE_MAGIC {
        return -i64::from(Errno::ENOSYS.0);
    }
    let tid = call.tid as i32;
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
            if !serve(server, &thread, Some(call.id)) {
                return denied;
            }
            server.watcher.pace(server, &thread);
            0
        }
        abi::GATE_ATTACH => errno_value(sys::clone::equip(server, &thread, call.id)),
        _ => errno_value(sys::exec::start(server, &thread, tid, call.id)),
    }
}

fn errno_value(result: nomina_kernel::errno::Result<()>) -> i64 {
    result.map_or_else(|errno| -i64::from(errno.0), |()| 0)
}

/// Serves the request in a thread's slot; false if it has none. `call` is the notification, if it asked by one.
pub fn serve(server: &Arc<Server>, thread: &Arc<GuestThread>, call: Option<u64>) -> bool {
    server.controls.apply();
    let started = Instant::now();
    let Some(image) = thread.image() else { return false };
    for (number, host_pid) in image.slot.take_reaped() {
        sys::process::note_reaped(server, thread, number, host_pid);
    }
    let mut ctx = Ctx::new(server, thread, image.slot, call);
    let nr = ctx.nr;
    // A panic is our bug, not the guest's to exploit: the request fails, the sandbox lives.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        with_current(TaskKey(thread.task.0), || sys::dispatch(&mut ctx))
    }))
    .unwrap_or(Err(Errno::EIO));
    let enosys = matches!(result, Err(Errno::ENOSYS));
    ctx.finish(result);
    server.stats.count(nr, started.elapsed(), enosys);
    true
}
