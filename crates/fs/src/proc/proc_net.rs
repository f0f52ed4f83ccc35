//! `/proc/PID/net`: the task's network namespace as text (`proc_pid_net(5)`).
//!
//! The source gives the text of a namespace that has something in it; without, the files are those of a new namespace:
//! a loopback device that is down, no sockets, no routes.

use std::any::Any;
use std::sync::Arc;

use nomina_kernel::vfs::{Attr, DirEntry, Inode, Opened, S_IFDIR, S_IFREG};
use nomina_kernel::{Errno, Result};

use super::ProcInfo;
use super::base::task_attr;
use super::generic::{dirent, generated_attr, hash_ino, wants_write};
use super::source::TaskKey;

/// All files.
const FILES: [&str; 18] = [
    "arp",
    "dev",
    "dev_mcast",
    "if_inet6",
    "igmp",
    "igmp6",
    "ipv6_route",
    "netlink",
    "packet",
    "psched",
    "raw",
    "raw6",
    "route",
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "unix",
];

/// Those whose lines are not padded.
const HEADINGS: [(&str, &str); 6] = [
    ("arp", "IP address       HW type     Flags       HW address            Mask     Device\n"),
    ("dev", DEV),
    ("igmp", "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"),
    ("netlink", "sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"),
    ("packet", "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n"),
    ("unix", "Num       RefCount Protocol Flags    Type St Inode Path\n"),
];

const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0
";
const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
const INET: &str =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
const INET6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue \
                     tr tm->when retrnsmt   uid  timeout inode";

/// Text of a file in a new network namespace.
fn empty(name: &str) -> String {
    // Linux pads lines of these tables to a fixed width.
    match name {
        "raw" => format!("{INET} ref pointer drops\n"),
        "raw6" | "udp6" => format!("{INET6} ref pointer drops\n"),
        "route" => format!("{ROUTE:<127}\n"),
        "tcp" => format!("{INET:<149}\n"),
        "tcp6" => format!("{INET6}\n"),
        "udp" => format!("{:<127}\n", format!(" {INET} ref pointer drops")),
        _ => HEADINGS.iter().find(|(n, _)| *n == name).map_or("", |(_, text)| text).into(),
    }
}

/// The directory.
pub(crate) struct NetDir {
    pub(crate) fs: Arc<ProcInfo>,
    pub(crate) task: TaskKey,
    pub(crate) ino: u64,
}

impl Inode for NetDir {
    fn getattr(&self) -> Result<Attr> {
        task_attr(&self.fs, self.task, self.ino, S_IFDIR | 0o555)
    }
    fn file_type(&self) -> u32 {
        S_IFDIR
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.fs.source.owner(self.task).ok_or(Errno::ENOENT)?;
        let name = FILES.into_iter().find(|n| n.as_bytes() == name).ok_or(Errno::ENOENT)?;
        let ino = hash_ino(self.ino, name.as_bytes());
        Ok(Arc::new(NetFile { fs: self.fs.clone(), task: self.task, ino, name }))
    }
    fn readdir(&self) -> Result<Vec<DirEntry>> {
        self.fs.source.owner(self.task).ok_or(Errno::ENOENT)?;
        let entry = |name: &'static str| dirent(hash_ino(self.ino, name.as_bytes()), S_IFREG, name);
        Ok(FILES.into_iter().map(entry).collect())
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) { Err(Errno::EISDIR) } else { Ok(Opened::Directory) }
    }
}

struct NetFile {
    fs: Arc<ProcInfo>,
    task: TaskKey,
    ino: u64,
    name: &'static str,
}

impl Inode for NetFile {
    fn getattr(&self) -> Result<Attr> {
        Ok(generated_attr(self.fs.dev, self.ino, S_IFREG | 0o444, (0, 0), self.fs.born))
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn open(&self, flags: u32) -> Result<Opened> {
        if wants_write(flags) {
            return Err(Errno::EACCES);
        }
        self.fs.source.owner(self.task).ok_or(Errno::ESRCH)?;
        let sockets = || self.fs.source.net_sockets(self.task, self.name).unwrap_or_default();
        let text = self
            .fs
            .source
            .net(self.task, self.name)
            .unwrap_or_else(|| (empty(self.name) + &sockets()).into());
        Ok(Opened::Text(text))
    }
}
