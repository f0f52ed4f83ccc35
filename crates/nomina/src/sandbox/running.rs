//! A sandbox that runs, and its end.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path as HostPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use nomina_gate::launch::Control;

use rustix::fs::FlockOperation;

use super::config::{Disposal, Plan};
use super::scratch::{self, remove_tree};
use super::spawn::{SHM, host_error};
use super::terminal::Foreground;
use super::{ExitStatus, SpawnError, StatRow};
use crate::egress::Publish;
use crate::inspector::runtime_dir::Entry;
use crate::server::Server;

/// A running sandbox. Dropping it ends all of its programs.
pub struct Running {
    pub(super) server: Arc<Server>,
    pub(super) control: Option<Control>,
    pub(super) pid: i32,
    pub(super) entry: Option<Entry>,
    pub(super) foreground: Option<Foreground>,
    pub(super) layer: Layer,
    pub(super) sweeper: Option<JoinHandle<()>>,
    pub(super) _scratch: OwnedFd,
}

/// Removes what dead sandboxes have left behind, while the new one runs already: there may be many to look at.
pub(super) fn start_sweeping(plan: &Plan) -> Option<JoinHandle<()>> {
    let layers = (plan.layer.disposal == Disposal::Remove).then(|| plan.layer.dir.parent()).flatten();
    let bases: Vec<PathBuf> =
        layers.into_iter().chain([HostPath::new(SHM)]).map(HostPath::to_owned).collect();
    let sweep = move || bases.iter().for_each(|base| scratch::sweep(base));
    std::thread::Builder::new().name("nomina-sweep".into()).spawn(sweep).ok()
}

/// The layer's directory, in use by nobody else. Removed when it is dropped and was to be thrown away.
pub(super) struct Layer {
    /// The directory to remove.
    remove: Option<PathBuf>,
    /// What marks it as in use.
    _lock: OwnedFd,
}

impl Layer {
    pub(super) fn create(plan: &Plan) -> Result<Layer, SpawnError> {
        let error = host_error("creating the layer's directory");
        let dir = &plan.layer.dir;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(&error)?;
        if plan.layer.disposal == Disposal::Remove {
            let lock = scratch::hold(dir).map_err(&error)?;
            return Ok(Layer { remove: Some(dir.clone()), _lock: lock });
        }
        // A layer has one writer. The directory itself is locked: a kept layer has nothing in it that is not its own.
        let lock: OwnedFd = fs::File::open(dir).map_err(&error)?.into();
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(io::Error::from)
            .map_err(host_error("locking the layer, which another sandbox is using; wait for its end"))?;
        Ok(Layer { remove: None, _lock: lock })
    }

    fn remove(&mut self) {
        if let Some(dir) = self.remove.take() {
            remove_tree(&dir);
        }
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        self.remove();
    }
}

impl Running {
    /// Waits for the first program's end. Everything else in the sandbox ends with it, since it is init.
    ///
    /// # Errors
    /// When the guardian was killed, and the sandbox with it.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        let foreground = self.foreground.as_ref();
        let is_guest = |pid| self.server.guests.by_tid(pid).is_some();
        let stopped = |_signal| foreground.iter().for_each(|foreground| foreground.stopped(is_guest));
        let status = self.control.as_ref().and_then(|control| control.wait(stopped));
        self.end();
        let status = status
            .ok_or_else(|| io::Error::other("the sandbox's guardian was killed, and all programs with it"))?;
        Ok(ExitStatus::from_wait_status(status))
    }

    /// The terminal whose foreground the sandbox has, if any.
    pub fn foreground(&self) -> Option<&Foreground> {
        self.foreground.as_ref()
    }

    /// Host pid of the first program, to send signals to.
    pub fn first_pid(&self) -> i32 {
        self.pid
    }

    /// What `nomina ps` calls it; `None` where there is no runtime directory.
    pub fn id(&self) -> Option<&str> {
        self.entry.as_ref().map(|entry| entry.id.as_str())
    }

    /// Published ports, with the ports that the host has.
    pub fn published(&self) -> &[Publish] {
        self.server.inet.uplink.get().map_or(&[], |attached| &attached.published)
    }

    /// Counts of the requests served so far.
    pub fn stats(&self) -> Vec<(String, u64, u64, u64)> {
        self.server
            .stats
            .rows()
            .into_iter()
            .map(|row| (row.name, row.calls, row.total_ns, row.enosys))
            .collect()
    }

    fn end(&mut self) {
        self.server.ending.store(true, Ordering::Release);
        self.entry = None;
        if let Some(control) = self.control.take() {
            control.finish();
        }
        let server = self.server.clone();
        nomina_gate::guardian::kill_orphans(|pid| server.guests.by_tid(pid).is_some() || runs_shim(pid));
        self.layer.remove();
        server.handles.remove_scratch();
        if let Some(sweeper) = self.sweeper.take() {
            let _ = sweeper.join();
        }
        self.foreground = None;
    }
}

/// Whether a process is a guest of whatever sandbox, by the only program that guests ever execute.
fn runs_shim(pid: i32) -> bool {
    let exe = fs::read_link(format!("/proc/{pid}/exe"));
    exe.is_ok_and(|exe| exe.as_os_str().as_bytes().starts_with(b"/memfd:nomina-shim"))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A row of counts for display.
pub fn stat_row<'n>(row: &'n (String, u64, u64, u64)) -> StatRow<'n> {
    StatRow { name: &row.0, calls: row.1, total_ns: row.2, enosys: row.3 > 0 }
}
