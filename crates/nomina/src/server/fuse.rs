//! FUSE in a sandbox: what [`nomina_fs::fuse`] asks of it, and the type for `mount -t fuse`.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use nomina_fs::fuse::{Caller, FuseHost, FuseOptions, FuseSb};
use nomina_fs::proc::{TaskKey, current};
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::task::TaskId;
use nomina_kernel::vfs::fs_context::{FileSystemType, FsContext, FsFlags, FsParameter};
use nomina_kernel::vfs::{ActiveSuper, S_IFDIR, S_IFMT, SuperIflags};
use rustix::fs::{Mode, OFlags};

use super::Server;
use super::filesystems::anon_dev;
use super::request::host;

/// The sandbox, as FUSE sees it.
pub struct Host {
    /// The sandbox; set when it exists.
    pub server: OnceLock<Weak<Server>>,
    /// Where contents of files are kept.
    dir: PathBuf,
}

impl Host {
    /// Contents are kept in `layer`, on the disk of the layer, as files without names.
    pub fn new(layer: &Path) -> Host {
        Host { server: OnceLock::new(), dir: layer.join("work") }
    }

    fn server(&self) -> Option<Arc<Server>> {
        self.server.get().and_then(Weak::upgrade)
    }
}

impl FuseHost for Host {
    fn caller(&self, task: Option<TaskKey>) -> Caller {
        let task = task.map(|key| TaskId(key.0));
        let found = self.server().and_then(|server| {
            let kernel = server.kernel.lock().unwrap();
            let task = task?;
            let cred = kernel.task(task)?.cred().clone();
            Some(Caller { uid: cred.fsuid, gid: cred.fsgid, pid: kernel.task_pid_vnr(task, task) as u32 })
        });
        // Nobody may do anything.
        found.unwrap_or(Caller { uid: u32::MAX, gid: u32::MAX, pid: 0 })
    }

    fn scratch_file(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let open = || rustix::fs::open(&self.dir, flags, Mode::RUSR | Mode::WUSR);
        match open() {
            Err(rustix::io::Errno::NOENT) => {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
                Ok(open()?)
            }
            other => Ok(other?),
        }
    }

    fn closed(&self, key: (u64, u64)) {
        if let Some(server) = self.server() {
            server.handles.forget(key);
        }
    }
}

/// The type `fuse`, with any subtype.
pub struct FuseType {
    /// The sandbox.
    pub server: Weak<Server>,
}

#[derive(Default)]
struct Parameters {
    fd: Option<Arc<OwnedFd>>,
    root_mode: Option<u32>,
    user_id: Option<u32>,
    group_id: Option<u32>,
    options: FuseOptions,
}

impl FuseType {
    fn fd_of_caller(&self, number: i32) -> Result<OwnedFd> {
        let server = self.server.upgrade().ok_or(Errno::ENODEV)?;
        let task = TaskId(current().ok_or(Errno::EINVAL)?.0);
        let thread = server.guests.by_task(task).ok_or(Errno::EINVAL)?;
        super::given::look_at(&thread, number).map(|(fd, _)| fd).map_err(|_| Errno::EINVAL)
    }
}

impl FileSystemType for FuseType {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn flags(&self) -> FsFlags {
        FsFlags::USERNS_MOUNT | FsFlags::HAS_SUBTYPE
    }

    fn parse_param(&self, fc: &mut FsContext, param: &FsParameter) -> Result<bool> {
        let key = param.key().to_owned();
        let bad = |fc: &mut FsContext| fc.invalf(format_args!("Bad value for '{key}'"));
        let text = || param.string().ok();
        match param.key() {
            "fd" => {
                let number = text().and_then(|text| text.parse().ok()).ok_or_else(|| bad(fc))?;
                let fd = self.fd_of_caller(number).map_err(|_| fc.invalf("fd is not open"))?;
                fc.private::<Parameters>().fd = Some(Arc::new(fd));
            }
            "rootmode" => {
                let mode = text().and_then(|text| u32::from_str_radix(text, 8).ok());
                let mode = mode.ok_or_else(|| bad(fc))?;
                fc.private::<Parameters>().root_mode = Some(mode);
            }
            "user_id" | "group_id" => {
                let id = text().and_then(|text| text.parse().ok());
                let user_ns = fc.user_ns.clone();
                let id = if key == "user_id" {
                    id.and_then(|id| user_ns.make_kuid(id))
                } else {
                    id.and_then(|id| user_ns.make_kgid(id))
                };
                let id = id.ok_or_else(|| bad(fc))?;
                let parameters = fc.private::<Parameters>();
                let place = if key == "user_id" { &mut parameters.user_id } else { &mut parameters.group_id };
                *place = Some(id);
            }
            "allow_other" => fc.private::<Parameters>().options.allow_other = true,
            "default_permissions" => fc.private::<Parameters>().options.default_permissions = true,
            "max_read" => {
                let max = text().and_then(|text| text.parse().ok()).ok_or_else(|| bad(fc))?;
                fc.private::<Parameters>().options.max_read = max;
            }
            "subtype" => {
                let subtype = text().filter(|text| !text.is_empty()).ok_or_else(|| bad(fc))?;
                fc.private::<Parameters>().options.subtype = Some(format!("fuse.{subtype}"));
            }
            "blksize" => return Err(fc.invalf("blksize only supported for fuseblk")),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn get_tree(&self, fc: &mut FsContext) -> Result<Arc<ActiveSuper>> {
        let server = self.server.upgrade().ok_or(Errno::ENODEV)?;
        let source = fc.source.clone().unwrap_or_else(|| b"none".to_vec());
        let user_ns = fc.user_ns.clone();
        let parameters = fc.private::<Parameters>();
        let (Some(fd), Some(mode), Some(user_id), Some(group_id)) =
            (parameters.fd.take(), parameters.root_mode, parameters.user_id, parameters.group_id)
        else {
            return Err(fc.invalf("fd, rootmode, user_id and group_id must be given"));
        };
        if mode & S_IFMT != S_IFDIR {
            return Err(fc.invalf("the root must be a directory"));
        }
        let options = FuseOptions { source, user_id, group_id, ..parameters.options.clone() };
        let ops = FuseSb::new(&server.fuse, &fd, options, anon_dev(), user_ns.clone())?;
        let sb = ActiveSuper::new(ops, fc.sb_flags);
        sb.set_user_ns(&user_ns);
        if user_ns.parent().is_some() {
            sb.add_iflags(SuperIflags::NODEV);
        }
        Ok(sb)
    }
}

/// Opens `/dev/fuse`.
///
/// # Errors
/// Those of `socketpair(2)`.
pub fn open_device(server: &Server, flags: u32) -> Result<OwnedFd> {
    server.fuse.open(flags & libc::O_NONBLOCK as u32 != 0).map_err(host)
}
