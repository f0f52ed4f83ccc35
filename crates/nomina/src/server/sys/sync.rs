//! `fsync(2)`, `fdatasync(2)` and `syncfs(2)` of directories, whose descriptors are placeholders, and of files of FUSE.
//!
//! Natively they would make the placeholder durable, and not the names in the directory it stands for. The host's directory is
//! synced by a thread of its own, since that takes long, and the caller waits for it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use nomina_fs::fuse::FuseInode;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::task::TaskId;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags};

use super::super::lock::Mutex;
use super::super::request::{Ctx, Reply, host};

/// Most that run at a time.
const MOST: usize = 16;

/// One call.
struct SyncCall {
    /// Number of the call, device and inode number of the directory.
    what: (u32, u64, u64),
    /// Becomes readable when there is a result.
    done: OwnedFd,
    result: OnceLock<Result<()>>,
}

/// Those that run, and those whose result was not fetched, by who made them.
#[derive(Default)]
pub struct Syncs {
    by_task: Mutex<HashMap<TaskId, Arc<SyncCall>>>,
}

/// The call, for a descriptor that the host has synced already: nothing more is to do unless it is a directory's.
///
/// # Errors
/// Those of the host's call; `EINVAL` for a directory of a file system that keeps nothing.
pub fn sync(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let server = ctx.server;
    let fd = ctx.getfd(ctx.int(0))?;
    let Some(handle) = server.handles.find(fd.as_fd()) else { return Ok(().into()) };
    if !handle.path.dentry.is_dir() {
        if let Some(file) = handle.path.inode().as_any().downcast_ref::<FuseInode>() {
            file.fsync()?;
        }
        return Ok(().into());
    }
    // Their directories have no `fsync`.
    let has_none = matches!(handle.path.mnt.sb().ops().fs_type(), "proc" | "sysfs" | "cgroup2");
    if has_none && i64::from(ctx.nr) != libc::SYS_syncfs {
        return Err(Errno::EINVAL);
    }
    let attr = handle.path.inode().getattr()?;
    let what = (ctx.nr, attr.dev, attr.ino);
    let mut calls = server.syncs.by_task.lock().unwrap();
    if let Some(call) = calls.get(&ctx.task()).filter(|call| call.what == what).cloned() {
        return match call.result.get() {
            Some(result) => {
                calls.remove(&ctx.task());
                result.map(|()| ().into())
            }
            None => call.done.try_clone().map(Reply::Wait).map_err(host),
        };
    }
    // Some have been interrupted while they waited, and some of those are no more.
    calls.retain(|task, call| call.result.get().is_none() || server.guests.by_task(*task).is_some());
    if calls.values().filter(|call| call.result.get().is_none()).count() >= MOST {
        return super::soon().map(Reply::Wait).map_err(host);
    }
    // A directory that is nowhere on the host, or cannot be opened there, has no changes.
    let Some(directory) = handle.path.inode().host_handle(false).ok().and_then(open_directory) else {
        return Ok(().into());
    };
    let done = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host)?;
    let wait = done.try_clone().map_err(host)?;
    let call = Arc::new(SyncCall { what, done, result: OnceLock::new() });
    let running = call.clone();
    let run = move || {
        let _ = running.result.set(sync_host(running.what.0, &directory).map_err(host));
        let _ = rustix::io::write(&running.done, &1u64.to_ne_bytes());
    };
    std::thread::Builder::new().name("nomina-sync".into()).stack_size(128 * 1024).spawn(run).map_err(host)?;
    calls.insert(ctx.task(), call);
    Ok(Reply::Wait(wait))
}

fn open_directory(handle: OwnedFd) -> Option<OwnedFd> {
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    rustix::fs::open(link, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()
}

fn sync_host(nr: u32, directory: &OwnedFd) -> io::Result<()> {
    match i64::from(nr) {
        libc::SYS_fdatasync => rustix::fs::fdatasync(directory)?,
        libc::SYS_syncfs => rustix::fs::syncfs(directory)?,
        _ => rustix::fs::fsync(directory)?,
    }
    Ok(())
}
