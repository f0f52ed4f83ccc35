//! The links in a process's directory that lead somewhere without a name: `exe`, `cwd`, `root`, `fd/*`, `ns/*`.

use std::os::fd::AsFd;

use nomina_fs::proc::{MagicLink, TaskKey};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::{Path, d_path};

use super::super::nsfs::NsInode;
use super::super::places::host_link;
use super::super::request::host;
use super::super::sys::files::HandleInode;
use super::PidNsView;

impl PidNsView {
    /// What `readlink(2)` says of a link of a process's directory, to `viewer`.
    ///
    /// # Errors
    /// `ESRCH`: the task is gone. Those of looking at its descriptors.
    pub(super) fn text_of(&self, task: TaskKey, link: MagicLink, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
        match link {
            MagicLink::Ns(link) => {
                self.server().ok_or(Errno::ESRCH)?;
                let text = self.need(|_, kernel, _| Some(kernel.ns_get(TaskId(task.0), link)))?;
                Ok(text?.link_text().into_bytes())
            }
            MagicLink::Fd(fd) => {
                let server = self.server().ok_or(Errno::ESRCH)?;
                let (copy, _) = self.look_at(task, fd)?;
                if let Some(handle) = server.handles.find(copy.as_fd()) {
                    if let Some(ns) = handle.path.inode().as_any().downcast_ref::<NsInode>() {
                        return Ok(ns.ns.link_text().into_bytes());
                    }
                    return Ok(d_path::d_path(&handle.path, &self.root_of(viewer)?));
                }
                if let Some(path) = server.controls.find(copy.as_fd()) {
                    return Ok(d_path::d_path(&path, &self.root_of(viewer)?));
                }
                let text = host_link(&copy)?;
                // The devices of the sandbox's /dev are the host's, under their names there.
                let stat = rustix::fs::fstat(&copy).map_err(host)?;
                let major = rustix::fs::major(stat.st_rdev);
                if stat.st_mode & libc::S_IFMT == libc::S_IFCHR
                    && major == nomina_fs::dev::PTS_MAJOR
                    && let Some(path) =
                        server.terminal_path(rustix::fs::minor(stat.st_rdev), &self.root_of(viewer)?)
                {
                    return Ok(path);
                }
                let is_device = server.device_inode(stat.st_rdev, stat.st_mode).is_some();
                if !text.starts_with(b"/") || text.starts_with(b"/memfd:") || is_device {
                    return Ok(text);
                }
                Ok(server.path_of_open(&copy, &self.root_of(viewer)?).unwrap_or(text))
            }
            _ => Ok(d_path::d_path(&self.target_of(task, link)?, &self.root_of(viewer)?)),
        }
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// As [`PidNsView::text_of`]; `ENOENT`: there is no program.
    pub(super) fn target_of(&self, task: TaskKey, link: MagicLink) -> Result<Path> {
        let server = self.server().ok_or(Errno::ESRCH)?;
        let fs = || -> Result<_> {
            let fs = self.need(|_, kernel, _| kernel.task(TaskId(task.0))?.fs().cloned())?;
            let fs = fs.lock().unwrap();
            Ok(fs.clone())
        };
        match link {
            MagicLink::Exe => {
                let (_, thread) = self.thread(task)?;
                let exe = thread.process.exe.lock().unwrap().clone();
                exe.map(|exe| exe.path).ok_or(Errno::ENOENT)
            }
            MagicLink::Cwd => Ok(fs()?.pwd),
            MagicLink::Root => Ok(fs()?.root),
            MagicLink::Fd(fd) => {
                let (copy, flags) = self.look_at(task, fd)?;
                if let Some(handle) = server.handles.find(copy.as_fd()) {
                    return Ok(handle.path.clone());
                }
                if let Some(path) = server.controls.find(copy.as_fd()) {
                    return Ok(path);
                }
                Ok(HandleInode::with_flags(&server, copy, flags)?.place())
            }
            MagicLink::Ns(link) => {
                let ns = self.need(|_, kernel, _| Some(kernel.ns_get(TaskId(task.0), link)))??;
                Ok(server.ns_path(ns))
            }
        }
    }
}
