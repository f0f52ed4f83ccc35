//! `/proc/PID/fd` and `/proc/PID/fdinfo`: open files as magic links and as text (`proc_pid_fd(5)`).

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::vfs::{Attr, DirEntry, Inode, Opened, S_IFDIR, S_IFLNK, S_IFREG};
use nomina_kernel::{Errno, Result};

use super::ProcInfo;
use super::base::{MagicInode, task_attr};
use super::generic::{dirent, hash_ino, name_to_int, read_host, wants_write};
use super::source::{MagicLink, TaskKey, current};

/// Which of the two directories.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum FdDirKind {
    Fd,
    Fdinfo,
}

/// One of the two directories.
pub(crate) struct FdDir {
    pub(crate) fs: Arc<ProcInfo>,
    pub(crate) task: TaskKey,
    pub(crate) ino: u64,
    pub(crate) kind: FdDirKind,
}

impl FdDir {
    fn check(&self) -> Result<()> {
        self.fs.source.owner(self.task).ok_or(Errno::ENOENT)?;
        if self.fs.source.may_access(current(), self.task) { Ok(()) } else { Err(Errno::EACCES) }
    }
}

impl Inode for FdDir {
    fn getattr(&self) -> Result<Attr> {
        let mode = if self.kind == FdDirKind::Fd { 0o500 } else { 0o555 };
        task_attr(&self.fs, self.task, self.ino, S_IFDIR | mode)
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    /// Threads of the process see its descriptors, whatever it has become: `proc_fd_permission`.
    fn lets_in(&self) -> bool {
        let group = |task| self.fs.source.self_nr(task).map(|(tgid, _)| tgid);
        let viewer = current().and_then(group);
        self.kind == FdDirKind::Fd && viewer.is_some() && viewer == group(self.task)
    }
    /// `ENOENT` for a descriptor that is not open, `EACCES` without `ptrace_may_access`.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.check()?;
        let fd = name_to_int(name).ok_or(Errno::ENOENT)?;
        self.fs.source.fd_mode(self.task, fd)?;
        let (fs, task, ino) = (self.fs.clone(), self.task, hash_ino(self.ino, name));
        Ok(match self.kind {
            FdDirKind::Fd => Arc::new(MagicInode { fs, task, ino, link: MagicLink::Fd(fd) }),
            FdDirKind::Fdinfo => Arc::new(FdinfoFile { fs, task, ino, fd }),
        })
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        self.check()?;
        let mode = if self.kind == FdDirKind::Fd { S_IFLNK } else { S_IFREG };
        let entry = |fd: i32| {
            let name = fd.to_string();
            dirent(hash_ino(self.ino, name.as_bytes()), mode, name)
        };
        Ok(self.fs.source.fds(self.task)?.into_iter().map(entry).collect())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) {
            return Err(Errno::EISDIR);
        }
        self.check()?;
        Ok(Opened::Directory)
    }
}

/// `/proc/PID/fdinfo/FD`.
struct FdinfoFile {
    fs: Arc<ProcInfo>,
    task: TaskKey,
    ino: u64,
    fd: i32,
}

impl Inode for FdinfoFile {
    fn getattr(&self) -> Result<Attr> {
        task_attr(&self.fs, self.task, self.ino, S_IFREG | 0o444)
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    /// `ENOENT` for a closed descriptor, `EACCES` without `ptrace_may_access`, `EPERM` for writing.
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) {
            return Err(Errno::EPERM);
        }
        if !self.fs.source.may_access(current(), self.task) {
            return Err(Errno::EACCES);
        }
        if let Some(text) = self.fs.source.fdinfo(self.task, self.fd)? {
            return Ok(Opened::Text(text));
        }
        // The descriptor may be one of Nomina's own, which the guest does not have.
        self.fs.source.fd_mode(self.task, self.fd)?;
        let info = self.fs.source.task(self.task, current()).ok_or(Errno::ENOENT)?;
        let text = read_host(&format!("/proc/{}/fdinfo/{}", info.host_tid, self.fd))?;
        // Without a mount of ours it is a pipe, a socket or the like: of a file system that is mounted nowhere.
        let (mount, ino) = self.fs.source.fd_place(self.task, self.fd).unwrap_or((0, None));
        let numbers = |host| self.fs.source.numbers_of_host(host);
        let text = rewrite_fdinfo(&text, mount, ino, numbers);
        if self.fs.source.host_exists(self.task) { Ok(Opened::Text(text)) } else { Err(Errno::ENOENT) }
    }
}

/// The text with the mount id, inode number and process numbers of the sandbox in place of the host's. `numbers` gives those of the
/// host's process, from the pid namespace of the instance inwards.
fn rewrite_fdinfo(text: &[u8], mount: u32, ino: Option<u64>, numbers: impl Fn(i32) -> Vec<i32>) -> Vec<u8> {
    // Those of a pidfd: -1 when its process has been reaped, 0 when it is not seen from here.
    let pids = |value: &[u8]| -> Vec<i32> {
        match std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
        {
            Some(host @ 1..) => Some(numbers(host)).filter(|found| !found.is_empty()).unwrap_or(vec![0]),
            _ => vec![-1],
        }
    };
    let mut out = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"mnt_id:") {
            out.extend_from_slice(format!("mnt_id:\t{mount}\n").as_bytes());
        } else if let (true, Some(ino)) = (line.starts_with(b"ino:"), ino) {
            out.extend_from_slice(format!("ino:\t{ino}\n").as_bytes());
        } else if let Some(value) = line.strip_prefix(b"Pid:") {
            out.extend_from_slice(format!("Pid:\t{}\n", pids(value)[0]).as_bytes());
        } else if let Some(value) = line.strip_prefix(b"NSpid:") {
            out.extend_from_slice(
                format!("NSpid:\t{}\n", super::array::numbers(&pids(value), "\t")).as_bytes(),
            );
        } else {
            out.extend_from_slice(line);
        }
    }
    out
}
