//! The root directory: `self`, `thread-self`, files of the whole system, and one directory per thread group.

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::vfs::{Attr, DirEntry, Inode, Opened, S_IFDIR, S_IFLNK};
use nomina_kernel::{Errno, Result};

use super::base::TaskDir;
use super::generic::{dirent, generated_attr, hash_ino, name_to_int, read_host, wants_write};
use super::inode::{Content, LinkInode, StaticDir, StaticFile};
use super::source::{TaskKey, current};
use super::sysctl;
use super::{HidePid, ProcInfo};

/// Inode number of the root (`PROC_ROOT_INO`).
const ROOT_INO: u64 = 1;

const fn file(path: &'static str, content: Content) -> StaticFile {
    StaticFile { path, mode: 0o444, content }
}

/// Names of nothing in the host: block devices and swap areas are not the sandbox's, so their lists are empty.
static FILES: [StaticFile; 29] = [
    file("buddyinfo", Content::Live),
    file("cgroups", Content::Made(cgroups)),
    file("cmdline", Content::Host),
    file("cpuinfo", Content::Live),
    file("devices", Content::Host),
    file("diskstats", Content::Fixed("")),
    file("filesystems", Content::Made(filesystems)),
    file("interrupts", Content::Live),
    // The host's kernel log: only who has CAP_SYSLOG there may read it. Programs hide it by mounting on it.
    StaticFile { path: "kmsg", mode: 0o400, content: Content::Closed },
    file("loadavg", Content::Made(loadavg)),
    file("meminfo", Content::Live),
    file("misc", Content::Host),
    file("modules", Content::Fixed("")),
    file("partitions", Content::Fixed("major minor  #blocks  name\n\n")),
    file("pressure/cpu", Content::Host),
    file("pressure/io", Content::Host),
    file("pressure/memory", Content::Host),
    file("softirqs", Content::Live),
    file("stat", Content::Live),
    file("swaps", Content::Fixed("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")),
    file("sysvipc/msg", Content::Made(sysvipc_msg)),
    file("sysvipc/sem", Content::Made(sysvipc_sem)),
    file("sysvipc/shm", Content::Made(sysvipc_shm)),
    file("tty/drivers", Content::Fixed(TTY_DRIVERS)),
    file("tty/ldiscs", Content::Fixed("n_tty       0\n")),
    file("uptime", Content::Live),
    file("version", Content::Host),
    file("vmstat", Content::Live),
    file("zoneinfo", Content::Live),
];

/// `ps` and `who` find terminal names by it.
const TTY_DRIVERS: &str = "\
/dev/tty             /dev/tty        5       0 system:/dev/tty
/dev/console         /dev/console    5       1 system:console
/dev/ptmx            /dev/ptmx       5       2 system
pty_slave            /dev/pts      136 0-1048575 pty:slave
pty_master           /dev/ptm      128 0-1048575 pty:master
";

/// The tree of everything that belongs to no task.
pub(crate) fn static_tree() -> Arc<StaticDir> {
    let links = [("mounts", "self/mounts"), ("net", "self/net")];
    let tree = StaticDir::build(
        FILES.iter().chain(&sysctl::SYSCTLS),
        &["bus", "driver", "fs", "irq", "sys/fs/binfmt_misc"],
        &links,
    );
    Arc::new(tree)
}

/// The controllers that there are, in the hierarchy without a number.
fn cgroups(fs: &ProcInfo, _viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    let groups = fs.source.nr_cgroups();
    Ok(format!("#subsys_name\thierarchy\tnum_cgroups\tenabled\npids\t0\t{groups}\t1\n").into_bytes())
}

fn filesystems(fs: &ProcInfo, _viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    let types = fs.source.filesystems();
    let line = |(nodev, name): &(bool, String)| format!("{}\t{name}\n", if *nodev { "nodev" } else { "" });
    Ok(types.iter().map(line).collect::<String>().into_bytes())
}

/// The load is the host's; the last pid is that of this pid namespace.
fn loadavg(fs: &ProcInfo, _viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    let text = read_host("/proc/loadavg")?;
    let load = text.rsplitn(2, |b| *b == b' ').nth(1).ok_or(Errno::EIO)?;
    Ok([load, b" ", fs.source.last_pid().to_string().as_bytes(), b"\n"].concat())
}

fn sysvipc(fs: &ProcInfo, viewer: Option<TaskKey>, name: &str, heading: &str) -> Result<Vec<u8>> {
    Ok([heading.as_bytes(), &fs.source.sysvipc(viewer, name)].concat())
}

fn sysvipc_msg(fs: &ProcInfo, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    let heading = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      \
                   rtime      ctime\n";
    sysvipc(fs, viewer, "msg", heading)
}

fn sysvipc_sem(fs: &ProcInfo, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    let heading = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
    sysvipc(fs, viewer, "sem", heading)
}

fn sysvipc_shm(fs: &ProcInfo, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    let heading = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      \
                   dtime      ctime                   rss                  swap\n";
    sysvipc(fs, viewer, "shm", heading)
}

/// The root directory.
pub(crate) struct RootDir {
    pub(crate) fs: Arc<ProcInfo>,
}

impl RootDir {
    /// `self` or `thread-self`. The owner of the link is root as in Linux. `ENOENT` for a viewer from outside.
    fn self_link(&self, thread: bool) -> Result<Arc<dyn Inode>> {
        let viewer = current().ok_or(Errno::ENOENT)?;
        let (tgid, tid) = self.fs.source.self_nr(viewer).ok_or(Errno::ENOENT)?;
        let (name, text) =
            if thread { ("thread-self", format!("{tgid}/task/{tid}")) } else { ("self", tgid.to_string()) };
        let ino = hash_ino(0, name.as_bytes());
        Ok(Arc::new(LinkInode { fs: self.fs.clone(), ino, text: text.into_bytes(), owner: (0, 0) }))
    }
}

impl Inode for RootDir {
    fn getattr(&self) -> Result<Attr> {
        let mut attr = generated_attr(self.fs.dev, ROOT_INO, S_IFDIR | 0o555, (0, 0), self.fs.born);
        attr.nlink += self.fs.source.thread_groups().len() as u64;
        Ok(attr)
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        match name {
            b"self" => return self.self_link(false),
            b"thread-self" => return self.self_link(true),
            _ => {}
        }
        match name_to_int(name) {
            // Any thread's number leads to its group's directory, though only leaders are listed.
            Some(nr) => {
                let task = self.fs.source.find(nr).ok_or(Errno::ENOENT)?;
                let only_ptraceable = self.fs.options().hide_pid == HidePid::Ptraceable;
                if only_ptraceable && !self.fs.may_see(task, HidePid::Invisible) {
                    return Err(Errno::ENOENT);
                }
                Ok(Arc::new(TaskDir { fs: self.fs.clone(), task, thread: false }))
            }
            None if self.fs.options().pid_only => Err(Errno::ENOENT),
            None => self.fs.tree.lookup(&self.fs, name),
        }
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        let mut entries = if self.fs.options().pid_only { Vec::new() } else { self.fs.tree.readdir() };
        entries.extend(["self", "thread-self"].map(|n| dirent(hash_ino(0, n.as_bytes()), S_IFLNK, n)));
        for nr in self.fs.source.thread_groups() {
            if let Some(task) = self.fs.source.find(nr)
                && self.fs.may_see(task, HidePid::Invisible)
            {
                entries.push(dirent(TaskDir::ino(task, false), S_IFDIR, nr.to_string()));
            }
        }
        Ok(entries)
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
}
