//! The directory of a task: `/proc/PID` for a thread group and `/proc/PID/task/TID` for a thread.

use std::any::Any;
use std::fmt::Write as _;
use std::sync::Arc;

use nomina_kernel::vfs::{Attr, DirEntry, Inode, Link, Opened, S_IFDIR, S_IFLNK, S_IFREG, SetAttr};
use nomina_kernel::{Errno, Result};

use super::fd::{FdDir, FdDirKind};
use super::generic::{dirent, generated_attr, hash_ino, name_to_int, parse_int, read_host, wants_write};
use super::namespaces::NsDir;
use super::proc_net::NetDir;
use super::source::{IdMapKind, MagicLink, MountTable, TaskInfo, TaskKey, current};
use super::{HidePid, ProcInfo, array, task_mmu};

/// In which of the two directories a file is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Both,
    Group,
    Thread,
}

/// Makes the text of a file.
type Read = fn(&TaskFile) -> Result<Vec<u8>>;
/// Takes what was written to a file.
type Write = fn(&TaskFile, &[u8]) -> Result<()>;

/// A row of the table of files: `struct pid_entry`.
struct Entry {
    name: &'static str,
    mode: u32,
    scope: Scope,
    /// Whether opening needs `ptrace_may_access`.
    guarded: bool,
    read: Read,
    write: Option<Write>,
}

const fn file(name: &'static str, mode: u32, read: Read) -> Entry {
    Entry { name, mode, scope: Scope::Both, guarded: false, read, write: None }
}

const fn writable(name: &'static str, mode: u32, read: Read, write: Write) -> Entry {
    Entry { name, mode, scope: Scope::Both, guarded: false, read, write: Some(write) }
}

const fn guarded(name: &'static str, mode: u32, read: Read) -> Entry {
    Entry { name, mode, scope: Scope::Both, guarded: true, read, write: None }
}

const fn only(scope: Scope, entry: Entry) -> Entry {
    Entry { scope, ..entry }
}

static ENTRIES: [Entry; 38] = [
    guarded("auxv", 0o400, |f| f.fs.source.auxv(f.task).map_or_else(|| f.host("auxv"), Ok)),
    file("cgroup", 0o444, |f| Ok([b"0::", &f.fs.source.cgroup(f.task, current())?[..], b"\n"].concat())),
    only(Scope::Thread, file("children", 0o444, children)),
    file("cmdline", 0o444, |f| f.fs.source.cmdline(f.task).map_or_else(|| f.host("cmdline"), Ok)),
    writable("comm", 0o644, comm, set_comm),
    only(Scope::Group, file("coredump_filter", 0o444, |f| f.host("coredump_filter"))),
    file("cpuset", 0o444, |_| Ok(b"/\n".to_vec())),
    guarded("environ", 0o400, |f| f.fs.source.environ(f.task).map_or_else(|| f.host("environ"), Ok)),
    writable("gid_map", 0o644, |f| id_map(f, IdMapKind::Gid), |f, t| set_id_map(f, IdMapKind::Gid, t)),
    guarded("io", 0o400, |f| f.host("io")),
    file("limits", 0o444, limits),
    writable("loginuid", 0o644, loginuid, set_loginuid),
    guarded("maps", 0o444, task_mmu::maps),
    // Opened, not read: see `TaskFile::open`.
    guarded("mem", 0o600, |_| Err(Errno::EIO)),
    file("mountinfo", 0o444, |f| f.fs.source.mounts(f.task, MountTable::Info)),
    file("mounts", 0o444, |f| f.fs.source.mounts(f.task, MountTable::Mounts)),
    only(Scope::Group, file("mountstats", 0o400, |f| f.fs.source.mounts(f.task, MountTable::Stats))),
    writable("oom_adj", 0o644, oom_adj, set_oom_adj),
    file("oom_score", 0o444, |f| f.host("oom_score")),
    writable("oom_score_adj", 0o644, oom_score_adj, set_oom_score_adj),
    guarded("personality", 0o400, |f| f.host("personality")),
    writable(
        "projid_map",
        0o644,
        |f| id_map(f, IdMapKind::Projid),
        |f, t| set_id_map(f, IdMapKind::Projid, t),
    ),
    file("sched", 0o444, array::sched),
    file("schedstat", 0o444, |f| f.host("schedstat")),
    file("sessionid", 0o444, |f| {
        f.fs.source.audit(f.task).map(|(_, s)| s.to_string().into()).ok_or(Errno::ESRCH)
    }),
    writable("setgroups", 0o644, setgroups, set_setgroups),
    guarded("smaps", 0o444, task_mmu::smaps),
    guarded("smaps_rollup", 0o444, task_mmu::smaps_rollup),
    file("stat", 0o444, array::stat),
    file("statm", 0o444, |f| f.host("statm")),
    file("status", 0o444, array::status),
    only(Scope::Group, writable("timens_offsets", 0o644, timens_offsets, set_timens_offsets)),
    only(Scope::Group, file("timerslack_ns", 0o444, |f| f.host("timerslack_ns"))),
    writable("uid_map", 0o644, |f| id_map(f, IdMapKind::Uid), |f, t| set_id_map(f, IdMapKind::Uid, t)),
    file("wchan", 0o444, |_| Ok(b"0".to_vec())),
    // No security module: reading says so, as Linux does without one.
    file("attr/current", 0o666, |_| Err(Errno::EINVAL)),
    file("attr/exec", 0o666, |_| Err(Errno::EINVAL)),
    file("attr/prev", 0o444, |_| Err(Errno::EINVAL)),
];

/// Symbolic links of a task that jump.
const MAGIC: [(&str, MagicLink); 3] =
    [("cwd", MagicLink::Cwd), ("exe", MagicLink::Exe), ("root", MagicLink::Root)];

/// Subdirectories; `task` only in a thread group's.
const DIRS: [(&str, u32); 6] =
    [("attr", 0o555), ("fd", 0o500), ("fdinfo", 0o555), ("net", 0o555), ("ns", 0o511), ("task", 0o555)];

/// What `chmod`, `chown` and `truncate` do in proc: modes and owners are fixed (`EPERM`); a size or a time is ignored,
/// so that `O_TRUNC` and `touch` work.
pub(crate) fn setattr_of_proc(set: &SetAttr) -> Result<()> {
    if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() { Err(Errno::EPERM) } else { Ok(()) }
}

/// Attributes of something that belongs to a task: the owner's while it is dumpable, root's otherwise
/// (`task_dump_owner`). `ENOENT` when the task is gone.
pub(crate) fn task_attr(fs: &ProcInfo, task: TaskKey, ino: u64, mode: u32) -> Result<Attr> {
    let owner = fs.source.owner(task).ok_or(Errno::ENOENT)?;
    // The directory itself shows the owner always, so that `ps` can tell it.
    let shown = owner.dumpable || mode == S_IFDIR | 0o555;
    let ids = if shown { (owner.uid, owner.gid) } else { (0, 0) };
    Ok(generated_attr(fs.dev, ino, mode, ids, fs.born))
}

/// `/proc/PID` or `/proc/PID/task/TID`.
#[derive(Clone)]
pub(crate) struct TaskDir {
    pub(crate) fs: Arc<ProcInfo>,
    pub(crate) task: TaskKey,
    pub(crate) thread: bool,
}

impl TaskDir {
    pub(crate) fn ino(task: TaskKey, thread: bool) -> u64 {
        hash_ino(task.0, if thread { b"task/" } else { b"/" })
    }

    fn child_ino(&self, name: &str) -> u64 {
        hash_ino(task_ino_key(self.task, self.thread), name.as_bytes())
    }

    fn has(&self, entry: &Entry) -> bool {
        if matches!(entry.name, "loginuid" | "sessionid") && self.fs.source.audit(self.task).is_none() {
            return false;
        }
        match entry.scope {
            Scope::Both => true,
            Scope::Group => !self.thread,
            Scope::Thread => self.thread,
        }
    }

    /// A file of the table, those of `attr` by their full name.
    fn file(&self, name: &str) -> Result<Arc<dyn Inode>> {
        let entry = ENTRIES.iter().find(|e| e.name == name && self.has(e)).ok_or(Errno::ENOENT)?;
        let ino = self.child_ino(entry.name);
        Ok(Arc::new(TaskFile { fs: self.fs.clone(), task: self.task, thread: self.thread, ino, entry }))
    }

    /// `ENOENT` for a task that is gone; what [`ProcInfo::pid_permission`] says to who must not look into its directory.
    fn searchable(&self) -> Result<()> {
        self.fs.source.owner(self.task).ok_or(Errno::ENOENT)?;
        if self.thread { Ok(()) } else { self.fs.pid_permission(self.task) }
    }
}

/// The task whose directory an inode is, if it is `/proc/PID` (`tgid_pidfd_to_pid`).
pub fn task_of_dir(inode: &dyn Inode) -> Option<TaskKey> {
    let dir = inode.as_any().downcast_ref::<TaskDir>()?;
    (!dir.thread).then_some(dir.task)
}

/// Key of inode numbers below a task's directory: the two directories of a leader differ.
fn task_ino_key(task: TaskKey, thread: bool) -> u64 {
    task.0 << 1 | u64::from(thread)
}

impl Inode for TaskDir {
    fn getattr(&self) -> Result<Attr> {
        if !self.thread && !self.fs.may_see(self.task, HidePid::Invisible) {
            return Err(Errno::ENOENT);
        }
        let mut attr = task_attr(&self.fs, self.task, Self::ino(self.task, self.thread), S_IFDIR | 0o555)?;
        attr.nlink += DIRS.len() as u64 - u64::from(self.thread);
        Ok(attr)
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.searchable()?;
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        if name.contains('/') {
            return Err(Errno::ENOENT);
        }
        let (fs, task, ino) = (self.fs.clone(), self.task, self.child_ino(name));
        if let Some((_, link)) = MAGIC.iter().find(|(n, _)| *n == name) {
            return Ok(Arc::new(MagicInode { fs, task, ino, link: *link }));
        }
        Ok(match name {
            "attr" => Arc::new(AttrDir { dir: self.clone() }),
            "fd" => Arc::new(FdDir { fs, task, ino, kind: FdDirKind::Fd }),
            "fdinfo" => Arc::new(FdDir { fs, task, ino, kind: FdDirKind::Fdinfo }),
            "net" => Arc::new(NetDir { fs, task, ino }),
            "ns" => Arc::new(NsDir { fs, task, ino }),
            "task" if !self.thread => Arc::new(ThreadsDir { fs, task, ino }),
            _ => return self.file(name),
        })
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        self.searchable()?;
        let mut entries = Vec::with_capacity(ENTRIES.len() + MAGIC.len() + DIRS.len());
        for (name, _) in DIRS.iter().filter(|(n, _)| !self.thread || *n != "task") {
            entries.push(dirent(self.child_ino(name), S_IFDIR, *name));
        }
        for (name, _) in MAGIC {
            entries.push(dirent(self.child_ino(name), S_IFLNK, name));
        }
        for entry in ENTRIES.iter().filter(|e| self.has(e) && !e.name.contains('/')) {
            entries.push(dirent(self.child_ino(entry.name), S_IFREG, entry.name));
        }
        Ok(entries)
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) {
            return Err(Errno::EISDIR);
        }
        self.searchable()?;
        Ok(Opened::Directory)
    }
}

/// `/proc/PID/task`.
struct ThreadsDir {
    fs: Arc<ProcInfo>,
    task: TaskKey,
    ino: u64,
}

impl Inode for ThreadsDir {
    fn getattr(&self) -> Result<Attr> {
        let mut attr = task_attr(&self.fs, self.task, self.ino, S_IFDIR | 0o555)?;
        attr.nlink += self.fs.source.threads(self.task).len() as u64;
        Ok(attr)
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    /// A thread of this group; numbers of other groups' threads are `ENOENT`.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let nr = name_to_int(name).ok_or(Errno::ENOENT)?;
        if !self.fs.source.threads(self.task).contains(&nr) {
            return Err(Errno::ENOENT);
        }
        let task = self.fs.source.find(nr).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(TaskDir { fs: self.fs.clone(), task, thread: true }))
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        self.fs.source.owner(self.task).ok_or(Errno::ENOENT)?;
        let threads = self.fs.source.threads(self.task);
        let entry = |nr: &i32| {
            let task = self.fs.source.find(*nr)?;
            Some(dirent(TaskDir::ino(task, true), S_IFDIR, nr.to_string()))
        };
        Ok(threads.iter().filter_map(entry).collect())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
}

/// `/proc/PID/attr`.
struct AttrDir {
    dir: TaskDir,
}

impl Inode for AttrDir {
    fn getattr(&self) -> Result<Attr> {
        task_attr(&self.dir.fs, self.dir.task, self.dir.child_ino("attr"), S_IFDIR | 0o555)
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let name = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        self.dir.file(&format!("attr/{name}"))
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        let names = ENTRIES.iter().filter_map(|e| Some((e.name, e.name.strip_prefix("attr/")?)));
        Ok(names.map(|(full, name)| dirent(self.dir.child_ino(full), S_IFREG, name)).collect())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
}

/// A link that jumps to an object. Reading or following it needs `ptrace_may_access` (`EACCES`).
pub(crate) struct MagicInode {
    pub(crate) fs: Arc<ProcInfo>,
    pub(crate) task: TaskKey,
    pub(crate) ino: u64,
    pub(crate) link: MagicLink,
}

impl MagicInode {
    fn check(&self) -> Result<()> {
        self.fs.source.owner(self.task).ok_or(Errno::ENOENT)?;
        if self.fs.source.may_access(current(), self.task) { Ok(()) } else { Err(Errno::EACCES) }
    }
}

impl Inode for MagicInode {
    fn getattr(&self) -> Result<Attr> {
        let mode = match self.link {
            MagicLink::Fd(fd) => {
                let open = self.fs.source.fd_mode(self.task, fd)?;
                (if open.read { 0o500 } else { 0 }) | (if open.write { 0o300 } else { 0 })
            }
            _ => 0o777,
        };
        let mut attr = task_attr(&self.fs, self.task, self.ino, S_IFLNK | mode)?;
        if matches!(self.link, MagicLink::Fd(_)) {
            attr.size = 64;
        }
        Ok(attr)
    }
    fn file_type(&self) -> u32 {
        S_IFLNK
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn get_link(&self) -> Result<Link> {
        self.check()?;
        self.fs.source.link_target(self.task, self.link).map(Link::Jump)
    }
    fn readlink(&self) -> Result<Vec<u8>> {
        self.check()?;
        self.fs.source.link_text(self.task, self.link, current())
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Err(Errno::ELOOP)
    }
}

/// A file of a task.
pub(crate) struct TaskFile {
    pub(crate) fs: Arc<ProcInfo>,
    pub(crate) task: TaskKey,
    thread: bool,
    ino: u64,
    entry: &'static Entry,
}

impl TaskFile {
    /// What the model knows. `ESRCH` when the task is gone.
    pub(crate) fn info(&self) -> Result<TaskInfo> {
        self.fs.source.task(self.task, current()).ok_or(Errno::ESRCH)
    }

    /// The host's file of this task. `ESRCH` when the host's process is gone: the check after reading makes sure that
    /// the text is not that of another process which got the number.
    pub(crate) fn host(&self, name: &str) -> Result<Vec<u8>> {
        self.host_of(&self.info()?, name)
    }

    /// The same for a caller who has asked the model already.
    pub(crate) fn host_of(&self, info: &TaskInfo, name: &str) -> Result<Vec<u8>> {
        let path = if self.thread {
            format!("/proc/{}/task/{}/{name}", info.host_pid, info.host_tid)
        } else {
            format!("/proc/{}/{name}", info.host_tid)
        };
        let text = read_host(&path).map_err(|e| if e == Errno::ENOENT { Errno::ESRCH } else { e })?;
        if self.fs.source.host_exists(self.task) { Ok(text) } else { Err(Errno::ESRCH) }
    }

    /// Whether the viewer may see where things are in the task's memory.
    pub(crate) fn permitted(&self) -> bool {
        self.fs.source.may_access(current(), self.task)
    }

    fn check(&self) -> Result<()> {
        self.fs.source.owner(self.task).ok_or(Errno::ESRCH)?;
        if self.entry.guarded && !self.permitted() {
            return Err(Errno::EACCES);
        }
        Ok(())
    }
}

impl Inode for TaskFile {
    fn getattr(&self) -> Result<Attr> {
        task_attr(&self.fs, self.task, self.ino, S_IFREG | self.entry.mode)
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    /// `EACCES` without `ptrace_may_access` where the file needs it, `ESRCH` for a task that is gone.
    fn open(&self, flags: u32) -> Result<Opened> {
        self.check()?;
        if self.entry.name == "mem" {
            return self.fs.source.memory(self.task, current(), flags).map(Opened::Host);
        }
        if !wants_write(flags) {
            let table = match self.entry.name {
                "mountinfo" => Some(MountTable::Info),
                "mounts" => Some(MountTable::Mounts),
                _ => None,
            };
            if let Some(table) = table
                && let Some(mounts) = self.fs.source.open_mounts(self.task, table)?
            {
                return Ok(Opened::Mounts(mounts));
            }
            return (self.entry.read)(self).map(Opened::Text);
        }
        if self.entry.name == "setgroups" && !self.fs.source.may_set_setgroups(self.task, current()) {
            return Err(Errno::EACCES);
        }
        // Write-only opens must not fail because there is nothing to read.
        let readable = flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32;
        let text = if readable { (self.entry.read)(self)? } else { Vec::new() };
        Ok(Opened::Control(text))
    }
    /// `EINVAL` for a file that takes no writes.
    fn write_text(&self, text: &[u8], offset: u64) -> Result<()> {
        self.check()?;
        let write = self.entry.write.ok_or(Errno::EINVAL)?;
        // Taken in one piece or not at all.
        let whole = ["uid_map", "gid_map", "projid_map", "setgroups", "loginuid"];
        if offset != 0 && whole.contains(&self.entry.name) {
            return Err(Errno::EINVAL);
        }
        write(self, text)
    }
    fn setattr(&self, set: &SetAttr) -> Result<()> {
        setattr_of_proc(set)
    }
}

fn children(file: &TaskFile) -> Result<Vec<u8>> {
    Ok(file
        .fs
        .source
        .children(file.task)
        .iter()
        .fold(String::new(), |text, nr| text + &nr.to_string() + " ")
        .into())
}

fn comm(file: &TaskFile) -> Result<Vec<u8>> {
    match file.info()?.comm {
        Some(comm) => Ok([&comm[..], b"\n"].concat()),
        None => file.host("comm"),
    }
}

fn loginuid(file: &TaskFile) -> Result<Vec<u8>> {
    file.fs.source.audit(file.task).map(|(uid, _)| uid.to_string().into()).ok_or(Errno::ESRCH)
}

fn set_loginuid(file: &TaskFile, text: &[u8]) -> Result<()> {
    let uid = std::str::from_utf8(text).ok().and_then(|t| t.trim().parse().ok()).ok_or(Errno::EINVAL)?;
    file.fs.source.set_loginuid(file.task, uid, current())
}

/// At most 15 bytes count (`TASK_COMM_LEN` without the NUL).
fn set_comm(file: &TaskFile, text: &[u8]) -> Result<()> {
    let text = &text[..text.len().min(15)];
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    file.fs.source.set_comm(file.task, &text[..end], current())
}

/// Names and units of the resource limits in the order of their numbers.
const LIMITS: [(&str, &str); 16] = [
    ("Max cpu time", "seconds"),
    ("Max file size", "bytes"),
    ("Max data size", "bytes"),
    ("Max stack size", "bytes"),
    ("Max core file size", "bytes"),
    ("Max resident set", "bytes"),
    ("Max processes", "processes"),
    ("Max open files", "files"),
    ("Max locked memory", "bytes"),
    ("Max address space", "bytes"),
    ("Max file locks", "locks"),
    ("Max pending signals", "signals"),
    ("Max msgqueue size", "bytes"),
    ("Max nice priority", ""),
    ("Max realtime priority", ""),
    ("Max realtime timeout", "us"),
];

fn limits(file: &TaskFile) -> Result<Vec<u8>> {
    let limits = file.fs.source.limits(file.task)?;
    let value = |v: u64| if v == u64::MAX { "unlimited".to_string() } else { v.to_string() };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ((name, unit), (soft, hard)) in LIMITS.iter().zip(limits) {
        // Linux ends a line without unit after the padding of the hard limit.
        let unit = if unit.is_empty() { String::new() } else { format!("{unit:<10}") };
        writeln!(text, "{name:<25} {:<20} {:<20} {unit}", value(soft), value(hard))
            .map_err(|_| Errno::ENOMEM)?;
    }
    Ok(text.into())
}

fn id_map(file: &TaskFile, kind: IdMapKind) -> Result<Vec<u8>> {
    let map = file.fs.source.id_map(file.task, kind, current())?;
    let line = |e: &super::source::IdMapExtent| format!("{:10} {:10} {:10}\n", e.inside, e.outside, e.count);
    Ok(map.iter().map(line).collect::<String>().into())
}

fn set_id_map(file: &TaskFile, kind: IdMapKind, text: &[u8]) -> Result<()> {
    file.fs.source.set_id_map(file.task, kind, text, current())
}

fn setgroups(file: &TaskFile) -> Result<Vec<u8>> {
    Ok(if file.fs.source.setgroups(file.task)? { b"allow\n".to_vec() } else { b"deny\n".to_vec() })
}

/// `allow` or `deny` and nothing after it but white space. `EINVAL`.
fn set_setgroups(file: &TaskFile, text: &[u8]) -> Result<()> {
    let allow = match text.trim_ascii_end() {
        b"allow" => true,
        b"deny" => false,
        _ => return Err(Errno::EINVAL),
    };
    file.fs.source.set_setgroups(file.task, allow, current())
}

fn timens_offsets(_file: &TaskFile) -> Result<Vec<u8>> {
    Ok(b"monotonic           0         0\nboottime            0         0\n".to_vec())
}

fn set_timens_offsets(file: &TaskFile, text: &[u8]) -> Result<()> {
    file.fs.source.set_timens_offsets(file.task, text, current())
}

/// `OOM_SCORE_ADJ_MAX`.
const OOM_SCORE_ADJ_MAX: i32 = 1000;
/// `OOM_ADJUST_MAX` and, negated, `OOM_DISABLE`.
const OOM_ADJUST_MAX: i32 = 15;
const OOM_DISABLE: i32 = -17;

fn score_adj(file: &TaskFile) -> Result<i32> {
    file.fs.source.oom_score_adj(file.task).map_or_else(|| parse_int(&file.host("oom_score_adj")?), Ok)
}

fn oom_score_adj(file: &TaskFile) -> Result<Vec<u8>> {
    Ok(format!("{}\n", score_adj(file)?).into())
}

fn set_oom_score_adj(file: &TaskFile, text: &[u8]) -> Result<()> {
    let value = parse_int(text)?;
    if !(-OOM_SCORE_ADJ_MAX..=OOM_SCORE_ADJ_MAX).contains(&value) {
        return Err(Errno::EINVAL);
    }
    file.fs.source.set_oom_score_adj(file.task, value, current())
}

fn oom_adj(file: &TaskFile) -> Result<Vec<u8>> {
    let adj = score_adj(file)?;
    let old = if adj == OOM_SCORE_ADJ_MAX { OOM_ADJUST_MAX } else { adj * -OOM_DISABLE / OOM_SCORE_ADJ_MAX };
    Ok(format!("{old}\n").into())
}

/// The old scale, from -17 (never) to 15.
fn set_oom_adj(file: &TaskFile, text: &[u8]) -> Result<()> {
    let old = parse_int(text)?;
    if old != OOM_DISABLE && !(-16..=OOM_ADJUST_MAX).contains(&old) {
        return Err(Errno::EINVAL);
    }
    let adj = if old == OOM_ADJUST_MAX { OOM_SCORE_ADJ_MAX } else { old * OOM_SCORE_ADJ_MAX / -OOM_DISABLE };
    file.fs.source.set_oom_score_adj(file.task, adj, current())
}
