//! The files of proc against the host's own, with a small model of two processes: 1, which is this test's process, and 7,
//! a sleeping child.

use std::collections::BTreeSet;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use nomina_kernel::vfs::{Inode, Link, Opened, Path, S_IFDIR, S_IFLNK, S_IFMT, SuperBlock};
use nomina_kernel::{Errno, Result};

use super::*;

const INIT: TaskKey = TaskKey(100);
const CHILD: TaskKey = TaskKey(101);
const OUTSIDER: TaskKey = TaskKey(999);
const WRONLY: u32 = libc::O_WRONLY as u32;

struct Model {
    child: Mutex<Child>,
    gone: Mutex<bool>,
    reused: Mutex<bool>,
    log: Mutex<Vec<String>>,
    comm: Mutex<Vec<u8>>,
}

impl Model {
    fn say(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }
    fn child_alive(&self) -> bool {
        !*self.gone.lock().unwrap()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl ProcSource for Model {
    fn thread_groups(&self) -> Vec<i32> {
        if self.child_alive() { vec![1, 7] } else { vec![1] }
    }
    fn find(&self, nr: i32) -> Option<TaskKey> {
        match nr {
            1 => Some(INIT),
            7 if self.child_alive() => Some(CHILD),
            _ => None,
        }
    }
    fn self_nr(&self, viewer: TaskKey) -> Option<(i32, i32)> {
        match viewer {
            INIT => Some((1, 1)),
            CHILD => Some((7, 7)),
            _ => None,
        }
    }
    fn owner(&self, task: TaskKey) -> Option<TaskOwner> {
        match task {
            INIT => Some(TaskOwner { uid: 1000, gid: 1001, dumpable: true }),
            CHILD if self.child_alive() => Some(TaskOwner { uid: 5, gid: 6, dumpable: false }),
            _ => None,
        }
    }
    fn task(&self, task: TaskKey, _viewer: Option<TaskKey>) -> Option<TaskInfo> {
        self.owner(task)?;
        let (pid, host) = match task {
            INIT => (1, std::process::id() as i32),
            _ => (7, self.child.lock().unwrap().id() as i32),
        };
        Some(TaskInfo {
            pid,
            tgid: pid,
            ppid: if pid == 1 { 0 } else { 1 },
            pgrp: pid,
            session: 1,
            tpgid: -1,
            host_pid: host,
            host_tid: host,
            comm: (pid == 7).then(|| self.comm.lock().unwrap().clone()),
            uids: [1, 2, 3, 4],
            gids: [5, 6, 7, 8],
            groups: vec![9, 10],
            caps: [0, 0x1ff, 0x1ff, 0x1ff_ffff_ffff, 0],
            nstgid: vec![pid, 1],
            nspid: vec![pid, 1],
            nspgid: vec![pid, 1],
            nssid: vec![1, 0],
            threads: 1,
            exit_signal: 17,
            ..TaskInfo::default()
        })
    }
    fn threads(&self, task: TaskKey) -> Vec<i32> {
        if task == INIT { vec![1] } else { vec![7] }
    }
    fn children(&self, task: TaskKey) -> Vec<i32> {
        if task == INIT { vec![7] } else { Vec::new() }
    }
    fn host_exists(&self, _task: TaskKey) -> bool {
        !*self.reused.lock().unwrap()
    }
    fn may_access(&self, viewer: Option<TaskKey>, task: TaskKey) -> bool {
        viewer.is_none_or(|v| v == INIT || v == task)
    }
    fn link_text(&self, task: TaskKey, link: MagicLink, _viewer: Option<TaskKey>) -> Result<Vec<u8>> {
        Ok(format!("{}:{link:?}", task.0).into())
    }
    fn link_target(&self, task: TaskKey, link: MagicLink) -> Result<Path> {
        self.say(format!("jump {}:{link:?}", task.0));
        Err(Errno::ENXIO)
    }
    fn fds(&self, _task: TaskKey) -> Result<Vec<i32>> {
        Ok(vec![0, 1])
    }
    fn fd_mode(&self, _task: TaskKey, fd: i32) -> Result<FdMode> {
        match fd {
            0 => Ok(FdMode { read: true, write: false }),
            1 => Ok(FdMode { read: false, write: true }),
            _ => Err(Errno::ENOENT),
        }
    }
    fn set_comm(&self, task: TaskKey, comm: &[u8], viewer: Option<TaskKey>) -> Result<()> {
        if viewer != Some(task) {
            return Err(Errno::EINVAL);
        }
        *self.comm.lock().unwrap() = comm.to_vec();
        Ok(())
    }
    fn guest_path(&self, host: &[u8]) -> Option<Vec<u8>> {
        Some([b"/guest", host].concat())
    }
    fn mounts(&self, _task: TaskKey, table: MountTable) -> Result<Vec<u8>> {
        Ok(format!("{table:?}\n").into())
    }
    fn limits(&self, _task: TaskKey) -> Result<[(u64, u64); 16]> {
        let text = std::fs::read_to_string("/proc/self/limits").unwrap();
        let number = |s: &str| if s == "unlimited" { u64::MAX } else { s.parse().unwrap() };
        let mut limits = [(0, 0); 16];
        for (limit, line) in limits.iter_mut().zip(text.lines().skip(1)) {
            *limit = (number(line[26..47].trim()), number(line[47..67].trim()));
        }
        Ok(limits)
    }
    fn id_map(&self, _task: TaskKey, _kind: IdMapKind, _viewer: Option<TaskKey>) -> Result<Vec<IdMapExtent>> {
        Ok(vec![IdMapExtent { inside: 0, outside: 0, count: u32::MAX }])
    }
    fn set_id_map(
        &self,
        task: TaskKey,
        kind: IdMapKind,
        text: &[u8],
        _viewer: Option<TaskKey>,
    ) -> Result<()> {
        self.say(format!("map {} {kind:?} {}", task.0, String::from_utf8_lossy(text)));
        Ok(())
    }
    fn setgroups(&self, _task: TaskKey) -> Result<bool> {
        Ok(true)
    }
    fn set_setgroups(&self, _task: TaskKey, allow: bool, _viewer: Option<TaskKey>) -> Result<()> {
        self.say(format!("setgroups {allow}"));
        Ok(())
    }
    fn uts(&self, viewer: Option<TaskKey>, field: UtsField) -> Vec<u8> {
        match (field, viewer) {
            (UtsField::Nodename, Some(CHILD)) => b"inner".to_vec(),
            (UtsField::Nodename, _) => b"outer".to_vec(),
            (field, _) => format!("{field:?}").into(),
        }
    }
    fn set_uts(&self, viewer: Option<TaskKey>, field: UtsField, value: &[u8]) -> Result<()> {
        self.say(format!("{viewer:?} {field:?} {}", String::from_utf8_lossy(value)));
        Ok(())
    }
    fn pid_max(&self) -> i32 {
        32768
    }
    fn threads_max(&self) -> i32 {
        1234
    }
    fn last_pid(&self) -> i32 {
        7
    }
}

fn proc() -> (Arc<ProcFs>, Arc<Model>) {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    // Until it sleeps its memory and state change.
    let stat = format!("/proc/{}/stat", child.id());
    while !std::fs::read_to_string(&stat).unwrap().contains("(sleep) S") {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let model = Arc::new(Model {
        child: Mutex::new(child),
        gone: Mutex::new(false),
        reused: Mutex::new(false),
        log: Mutex::default(),
        comm: Mutex::new(b"we) R \\ird".to_vec()),
    });
    (ProcFs::new(42, model.clone()), model)
}

/// Walks names without following links.
fn walk(fs: &ProcFs, path: &str) -> Result<Arc<dyn Inode>> {
    path.split('/').try_fold(fs.root(), |dir, name| dir.lookup(name.as_bytes()))
}

fn text(fs: &ProcFs, path: &str) -> String {
    let opened = walk(fs, path).unwrap_or_else(|e| panic!("{path}: {e:?}")).open(0);
    match opened.unwrap_or_else(|e| panic!("{path}: {e:?}")) {
        Opened::Text(text) => String::from_utf8(text).unwrap(),
        _ => panic!("{path} is not text"),
    }
}

fn write(fs: &ProcFs, path: &str, text: &[u8]) -> Result<()> {
    let inode = walk(fs, path)?;
    match inode.open(WRONLY)? {
        Opened::Control(_) => inode.write_text(text, 0),
        _ => panic!("{path} cannot be written"),
    }
}

fn keys(text: &str) -> Vec<&str> {
    text.lines().filter_map(|l| l.split_once(':')).map(|(key, _)| key).collect()
}

fn value<'a>(text: &'a str, key: &str) -> &'a str {
    text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(":\t")).unwrap_or_else(|| panic!("no {key}"))
}

#[test]
fn status_has_the_hosts_keys_and_the_sandboxs_numbers() {
    let (fs, _model) = proc();
    let ours = text(&fs, "7/status");
    let host = std::fs::read_to_string("/proc/self/status").unwrap();
    assert_eq!(keys(&ours), keys(&host));
    for (key, want) in [
        ("Name", "we) R \\\\ird"),
        ("Pid", "7"),
        ("Tgid", "7"),
        ("PPid", "1"),
        ("TracerPid", "0"),
        ("Uid", "1\t2\t3\t4"),
        ("Gid", "5\t6\t7\t8"),
        ("Groups", "9 10 "),
        ("NSpid", "7\t1"),
        ("NSsid", "1\t0"),
        ("CapPrm", "00000000000001ff"),
        ("CapBnd", "000001ffffffffff"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "0"),
    ] {
        assert_eq!(value(&ours, key), want, "{key}");
    }
}

#[test]
fn stat_has_the_hosts_fields_even_with_a_hostile_name() {
    let (fs, model) = proc();
    let ours = text(&fs, "7/stat");
    let host_pid = model.child.lock().unwrap().id();
    let host = std::fs::read_to_string(format!("/proc/{host_pid}/stat")).unwrap();
    assert!(ours.starts_with("7 (we) R \\ird) S 1 7 1 0 -1 "), "{ours}");
    let tail =
        |s: &str| s.rsplit_once(')').unwrap().1.split_whitespace().map(String::from).collect::<Vec<_>>();
    let (ours, host) = (tail(&ours), tail(&host));
    assert_eq!(ours.len(), host.len());
    // Start time, priority and memory are the host's.
    for nr in [9, 18, 19, 22, 23, 26, 28] {
        assert_eq!(ours[nr - 3], host[nr - 3], "field {nr}");
    }
}

#[test]
fn files_without_names_are_the_hosts() {
    let (fs, model) = proc();
    let host_pid = model.child.lock().unwrap().id();
    for name in ["statm", "cmdline", "environ", "io", "oom_score_adj"] {
        let host = std::fs::read_to_string(format!("/proc/{host_pid}/{name}")).unwrap();
        assert_eq!(text(&fs, &format!("7/{name}")), host, "{name}");
    }
    assert_eq!(text(&fs, "7/task/7/cmdline"), "sleep\x0060\0");
    assert!(text(&fs, "7/sched").starts_with("we) R \\ird (7, #threads: 1)\n---"));
}

#[test]
fn limits_print_as_linux_prints_them() {
    let (fs, _model) = proc();
    assert_eq!(text(&fs, "1/limits"), std::fs::read_to_string("/proc/self/limits").unwrap());
}

#[test]
fn id_maps_print_as_linux_prints_them() {
    let (fs, model) = proc();
    assert_eq!(text(&fs, "1/uid_map"), "         0          0 4294967295\n");
    write(&fs, "7/gid_map", b"0 5 1").unwrap();
    assert_eq!(*model.log.lock().unwrap(), ["map 101 Gid 0 5 1"]);
    write(&fs, "7/setgroups", b"deny\n").unwrap();
    assert_eq!(write(&fs, "7/setgroups", b"denyx"), Err(Errno::EINVAL));
    assert_eq!(*model.log.lock().unwrap(), ["map 101 Gid 0 5 1", "setgroups false"]);
}

#[test]
fn maps_show_guest_paths_and_smaps_have_the_same_mappings() {
    let (fs, _model) = proc();
    let maps = text(&fs, "7/maps");
    assert!(maps.lines().any(|l| l.contains("/guest/") && l.contains("r-xp")), "{maps}");
    let ranges = |text: &str| {
        let first = text.lines().map(|l| l.split(' ').next().unwrap().to_string());
        first.filter(|w| w.contains('-') && !w.contains(':')).collect::<Vec<_>>()
    };
    assert_eq!(ranges(&maps), ranges(&text(&fs, "7/smaps")));
}

#[test]
fn self_is_the_viewer_and_nobody_for_outsiders() {
    let (fs, _model) = proc();
    let read = |viewer, name: &str| with_current(viewer, || walk(&fs, name)?.readlink());
    assert_eq!(read(INIT, "self"), Ok(b"1".to_vec()));
    assert_eq!(read(CHILD, "self"), Ok(b"7".to_vec()));
    assert_eq!(read(CHILD, "thread-self"), Ok(b"7/task/7".to_vec()));
    assert_eq!(read(OUTSIDER, "self"), Err(Errno::ENOENT));
    assert_eq!(walk(&fs, "self").err(), Some(Errno::ENOENT));
    with_current(INIT, || {
        assert_eq!(with_current(CHILD, current), Some(CHILD));
        assert_eq!(current(), Some(INIT));
    });
    assert_eq!(walk(&fs, "net").unwrap().readlink(), Ok(b"self/net".to_vec()));
}

#[test]
fn the_current_task_is_restored_after_a_panic() {
    let caught = std::panic::catch_unwind(|| with_current(INIT, || panic!("inside")));
    assert!(caught.is_err());
    assert_eq!(current(), None);
}

#[test]
fn magic_links_jump_where_the_source_says() {
    let (fs, model) = proc();
    for (path, link) in [
        ("7/exe", "Exe"),
        ("7/cwd", "Cwd"),
        ("7/root", "Root"),
        ("7/fd/1", "Fd(1)"),
        ("7/ns/uts", "Ns(Uts)"),
        ("7/ns/pid_for_children", "Ns(PidForChildren)"),
        ("7/task/7/ns/net", "Ns(Net)"),
    ] {
        let inode = walk(&fs, path).unwrap();
        assert_eq!(inode.file_type(), S_IFLNK);
        assert_eq!(inode.readlink(), Ok(format!("101:{link}").into()), "{path}");
        assert_eq!(inode.get_link().map(|l| matches!(l, Link::Jump(_))), Err(Errno::ENXIO));
        assert_eq!(model.log.lock().unwrap().pop().unwrap(), format!("jump 101:{link}"));
    }
}

#[test]
fn links_of_a_task_one_may_not_trace_are_refused() {
    let (fs, _model) = proc();
    with_current(CHILD, || {
        assert_eq!(walk(&fs, "1/exe").unwrap().readlink(), Err(Errno::EACCES));
        assert_eq!(walk(&fs, "1/ns/uts").unwrap().get_link().err(), Some(Errno::EACCES));
        assert_eq!(walk(&fs, "1/fd/0").err(), Some(Errno::EACCES));
        assert_eq!(walk(&fs, "1/environ").unwrap().open(0).err(), Some(Errno::EACCES));
        assert_eq!(walk(&fs, "1/maps").unwrap().open(0).err(), Some(Errno::EACCES));
        assert!(walk(&fs, "1/status").unwrap().open(0).is_ok());
        let stat = text(&fs, "1/stat");
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        assert_eq!((fields[26 - 3], fields[28 - 3], fields[48 - 3]), ("1", "0", "0"), "{stat}");
        assert!(walk(&fs, "7/maps").unwrap().open(0).is_ok());
    });
}

#[test]
fn descriptors_show_their_access_mode_and_closed_ones_are_not_there() {
    let (fs, _model) = proc();
    let mode = |path: &str| walk(&fs, path).unwrap().getattr().unwrap().mode & 0o7777;
    assert_eq!(mode("1/fd/0"), 0o500);
    assert_eq!(mode("1/fd/1"), 0o300);
    assert_eq!(walk(&fs, "1/fd/2").err(), Some(Errno::ENOENT));
    let host = std::fs::read_to_string("/proc/self/fdinfo/0").unwrap();
    assert_eq!(keys(&text(&fs, "1/fdinfo/0")), keys(&host));
}

#[test]
fn modes_and_owners_are_those_of_linux() {
    use std::os::unix::fs::MetadataExt;
    let (fs, _model) = proc();
    // The owner of this test's process shows as 1000:1001; what belongs to root there belongs to root here.
    for dir in ["self", "self/ns", "self/task", "self/attr", "thread-self"] {
        for entry in walk(&fs, &dir.replace("thread-self", "1/task/1").replace("self", "1"))
            .unwrap()
            .readdir()
            .unwrap()
        {
            let name = String::from_utf8(entry.name).unwrap();
            let host = std::fs::symlink_metadata(format!("/proc/{dir}/{name}"));
            let Ok(host) = host else { continue };
            let ours =
                walk(&fs, &format!("{}/{name}", dir.replace("thread-self", "1/task/1").replace("self", "1")));
            let Ok(ours) = ours else { panic!("{dir}/{name} is listed but not there") };
            let ours = ours.getattr().unwrap();
            assert_eq!(ours.mode & S_IFMT, host.mode() & S_IFMT, "{dir}/{name}");
            // Settings we do not let be written show no write permission.
            let unwritable = ["coredump_filter", "timens_offsets", "timerslack_ns", "sched"];
            if !unwritable.contains(&name.as_str()) && !name.bytes().all(|b| b.is_ascii_digit()) {
                assert_eq!(ours.mode & 0o7777, host.mode() & 0o7777, "{dir}/{name}");
            }
            assert_eq!((ours.uid, ours.gid, ours.dev), (1000, 1001, 42), "{dir}/{name}");
        }
    }
    let owner = |path: &str| walk(&fs, path).unwrap().getattr().map(|a| (a.uid, a.gid)).unwrap();
    assert_eq!(owner("7"), (5, 6));
    assert_eq!(owner("7/environ"), (0, 0), "not dumpable");
}

#[test]
fn every_listed_name_has_the_listed_type_and_number() {
    fn check(dir: &Arc<dyn Inode>, path: &str, seen: &mut BTreeSet<u64>) {
        for entry in dir.readdir().unwrap() {
            let name = String::from_utf8(entry.name.clone()).unwrap();
            let inode = match dir.lookup(&entry.name) {
                Ok(inode) => inode,
                Err(Errno::ENOENT) if name == "self" || name == "thread-self" => continue,
                // Settings that this host does not have.
                Err(Errno::ENOENT) if !std::fs::exists(format!("/proc{path}/{name}")).unwrap() => continue,
                Err(e) => panic!("{path}/{name}: {e:?}"),
            };
            let attr = inode.getattr().unwrap();
            assert_eq!(generic::dirent_type(attr.mode), entry.kind, "{path}/{name}");
            assert_eq!(attr.ino, entry.ino, "{path}/{name}");
            assert!(seen.insert(attr.ino), "{path}/{name} has the number of another file");
            if attr.mode & S_IFMT == S_IFDIR {
                check(&inode, &format!("{path}/{name}"), seen);
            }
        }
    }
    let (fs, _model) = proc();
    let mut seen = BTreeSet::new();
    check(&fs.root(), "", &mut seen);
    assert!(seen.len() > 300, "{}", seen.len());
}

#[test]
fn readable_files_of_the_whole_system_open() {
    let (fs, _model) = proc();
    for name in ["cpuinfo", "meminfo", "stat", "uptime", "vmstat"] {
        let opened = walk(&fs, name).unwrap().open(0).unwrap();
        let Opened::Host(fd) = opened else { panic!("{name} does not follow the host") };
        assert!(!generic::read_all(fd).unwrap().is_empty());
        assert!(matches!(walk(&fs, name).unwrap().open(WRONLY), Ok(Opened::Control(_))));
        assert_eq!(write(&fs, name, b"x"), Err(Errno::EIO));
    }
    let loadavg = text(&fs, "loadavg");
    assert_eq!(loadavg.split_whitespace().count(), 5);
    assert!(loadavg.ends_with(" 7\n"), "{loadavg}");
    assert!(text(&fs, "filesystems").contains("nodev\tproc\n"));
    assert_eq!(text(&fs, "version"), std::fs::read_to_string("/proc/version").unwrap());
}

#[test]
fn heads_of_tables_are_the_hosts() {
    let (fs, _model) = proc();
    for name in ["sysvipc/msg", "sysvipc/sem", "sysvipc/shm", "swaps", "partitions"] {
        let host = std::fs::read_to_string(format!("/proc/{name}")).unwrap();
        assert_eq!(text(&fs, name).lines().next(), host.lines().next(), "{name}");
    }
    for name in ["arp", "packet", "raw", "route", "tcp", "tcp6", "udp", "udp6", "unix", "netlink", "igmp"] {
        let Ok(host) = std::fs::read_to_string(format!("/proc/net/{name}")) else { continue };
        let ours = text(&fs, &format!("1/net/{name}"));
        assert_eq!(ours.lines().next().map(str::trim_end), host.lines().next().map(str::trim_end), "{name}");
        assert_eq!(ours.lines().next(), host.lines().next(), "{name}");
    }
}

#[test]
fn host_and_domain_name_are_the_viewers() {
    let (fs, model) = proc();
    assert_eq!(with_current(CHILD, || text(&fs, "sys/kernel/hostname")), "inner\n");
    assert_eq!(with_current(INIT, || text(&fs, "sys/kernel/hostname")), "outer\n");
    with_current(CHILD, || write(&fs, "sys/kernel/hostname", b"box\nrest")).unwrap();
    assert_eq!(model.log.lock().unwrap().pop().unwrap(), "Some(TaskKey(101)) Nodename box");
    assert_eq!(write(&fs, "sys/kernel/pid_max", b"100"), Err(Errno::EACCES));
    assert_eq!(write(&fs, "sys/kernel/ns_last_pid", b"100\n"), Err(Errno::EPERM));
    assert_eq!(write(&fs, "sys/kernel/ns_last_pid", b"99999"), Err(Errno::EINVAL));
    assert_ne!(text(&fs, "sys/kernel/random/uuid"), text(&fs, "sys/kernel/random/uuid"));
}

#[test]
fn a_name_is_cut_and_can_be_set_by_its_own_group_only() {
    let (fs, _model) = proc();
    with_current(CHILD, || write(&fs, "7/comm", b"0123456789abcdefgh")).unwrap();
    assert_eq!(text(&fs, "7/comm"), "0123456789abcde\n");
    assert_eq!(with_current(INIT, || write(&fs, "7/task/7/comm", b"x")), Err(Errno::EINVAL));
}

#[test]
fn oom_values_are_checked_before_anyone_is_asked() {
    let (fs, _model) = proc();
    for bad in [&b"1001"[..], b"-1001", b"x", b""] {
        assert_eq!(write(&fs, "7/oom_score_adj", bad), Err(Errno::EINVAL), "{bad:?}");
    }
    write(&fs, "7/oom_score_adj", b"1000\n").unwrap();
    assert_eq!(text(&fs, "7/oom_score_adj"), "1000\n");
    assert_eq!(text(&fs, "7/oom_adj"), "15\n");
}

#[test]
fn an_inode_of_a_dead_task_stays_dead() {
    let (fs, model) = proc();
    let dir = walk(&fs, "7").unwrap();
    let stat = walk(&fs, "7/stat").unwrap();
    *model.gone.lock().unwrap() = true;
    assert_eq!(dir.lookup(b"stat").err(), Some(Errno::ENOENT));
    assert_eq!(dir.readdir().err(), Some(Errno::ENOENT));
    assert_eq!(dir.getattr().err(), Some(Errno::ENOENT));
    assert_eq!(stat.open(0).err(), Some(Errno::ESRCH));
    assert_eq!(walk(&fs, "7").err(), Some(Errno::ENOENT));
    let pids =
        |e: &nomina_kernel::vfs::DirEntry| e.name.iter().all(u8::is_ascii_digit).then(|| e.name.clone());
    let listed: Vec<_> = fs.root().readdir().unwrap().iter().filter_map(pids).collect();
    assert_eq!(listed, [b"1".to_vec()]);
}

#[test]
fn nothing_is_shown_of_a_process_that_took_over_the_hosts_number() {
    let (fs, model) = proc();
    *model.reused.lock().unwrap() = true;
    for name in ["environ", "cmdline", "maps", "status", "io"] {
        assert_eq!(walk(&fs, &format!("7/{name}")).unwrap().open(0).err(), Some(Errno::ESRCH), "{name}");
    }
}

#[test]
fn the_hosts_kernel_log_can_be_mounted_on_and_not_opened() {
    let (fs, _model) = proc();
    let kmsg = walk(&fs, "kmsg").unwrap();
    for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
        assert_eq!(kmsg.open(flags as u32).err(), Some(Errno::EPERM));
    }
}

#[test]
fn hostile_names_do_not_exist() {
    let (fs, _model) = proc();
    for name in [&b"01"[..], b"-1", b"1/..", b"../1", b"", b"2", b"4294967297", b"1\0", b"\xff", b"kcore"] {
        assert_eq!(fs.root().lookup(name).err(), Some(Errno::ENOENT), "{name:?}");
    }
    let task = walk(&fs, "1").unwrap();
    for name in [&b"attr/current"[..], b"pagemap", b"children", b"loginuid", b"", b"\xff", b"fd/0"] {
        assert_eq!(task.lookup(name).err(), Some(Errno::ENOENT), "{name:?}");
    }
    assert_eq!(walk(&fs, "1/task/7").err(), Some(Errno::ENOENT), "a thread of another group");
    assert_eq!(text(&fs, "1/task/1/children"), "7 ");
}
