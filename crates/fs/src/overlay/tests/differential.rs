//! Random operations on an overlay and on a plain copy of its lower tree: the host kernel is the judge.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::at::dtype;
use crate::host::HostSb;

pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn path(&mut self) -> String {
        let depth = 1 + self.below(3);
        (0..depth).map(|_| ["a", "b", "c", "d"][self.below(4) as usize]).collect::<Vec<_>>().join("/")
    }
}

pub(crate) fn populate(random: &mut Random, dir: &Path, depth: u32) {
    for name in ["a", "b", "c", "d"] {
        let path = dir.join(name);
        match random.below(if depth < 3 { 6 } else { 4 }) {
            0 => {}
            1 | 2 => std::fs::write(&path, format!("{depth}{name}{}", random.below(100))).unwrap(),
            3 => std::os::unix::fs::symlink(format!("to-{name}"), &path).unwrap(),
            _ => {
                std::fs::create_dir(&path).unwrap();
                populate(random, &path, depth + 1);
            }
        }
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(done.success());
}

pub(crate) type Snapshot = BTreeMap<String, (u32, u64, Vec<u8>)>;

/// Everything a guest can see, checking on the way that readdir and stat agree.
fn snapshot(node: &Arc<dyn Inode>, path: &str, out: &mut Snapshot) {
    for entry in node.readdir().unwrap() {
        let name = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let child = node.lookup(&entry.name).unwrap_or_else(|e| panic!("{name} is listed but {e:?}"));
        let (first, attr) = (child.getattr().unwrap(), child.getattr().unwrap());
        assert_eq!(first, attr, "{name}: the second stat differs");
        assert_eq!(attr.mode & libc::S_IFMT, child.file_type(), "{name}");
        assert_eq!(entry.ino, attr.ino, "{name}: d_ino");
        if entry.kind != 0 {
            assert_eq!(entry.kind, dtype(attr.mode), "{name}: d_type");
        }
        let (links, text) = match child.file_type() {
            libc::S_IFDIR => (0, Vec::new()),
            libc::S_IFLNK => (attr.nlink, child.readlink().unwrap()),
            _ => match child.open(READ).unwrap() {
                Opened::Host(fd) => (attr.nlink, content(&fd)),
                _ => panic!("{name} has no handle"),
            },
        };
        let old = out.insert(name.clone(), (attr.mode, links, text));
        assert!(old.is_none(), "{name} is listed twice");
        if child.file_type() == libc::S_IFDIR {
            snapshot(&child, &name, out);
        }
    }
}

pub(crate) fn see(guest: &Guest) -> Snapshot {
    let mut out = Snapshot::new();
    snapshot(&guest.root, "", &mut out);
    out
}

/// Runs one random operation; what it was, and what it answered.
pub(crate) fn step(random: &mut Random, guest: &Guest) -> (String, Result<Vec<u8>>) {
    let (op, a, b) = (random.below(16), random.path(), random.path());
    let (number, bits) = (random.below(9), random.below(0o1000) as u32);
    let empty = |done: Result<()>| done.map(|()| Vec::new());
    match op {
        0 | 1 => (format!("write {a} {number}"), empty(guest.write(&a, &format!("text {number}")))),
        2 | 3 => (format!("mkdir {a}"), empty(guest.mkdir(&a))),
        4 | 5 => (format!("unlink {a}"), empty(guest.unlink(&a))),
        6 => (format!("rmdir {a}"), empty(guest.rmdir(&a))),
        7..=9 => (format!("rename {a} {b}"), empty(guest.rename(&a, &b, 0))),
        10 => {
            let flags = 1 + (number % 2) as u32;
            (format!("rename {a} {b} flags {flags}"), empty(guest.rename(&a, &b, flags)))
        }
        11 => (format!("link {a} {b}"), empty(guest.link(&a, &b))),
        12 => (format!("symlink {a}"), empty(guest.symlink(&format!("target {number}"), &a))),
        13 => {
            let is_link = guest.walk(&a).is_ok_and(|n| n.file_type() == libc::S_IFLNK);
            if is_link {
                (String::new(), Ok(Vec::new()))
            } else {
                (format!("chmod {a} {bits:o}"), empty(guest.set(&a, mode(bits))))
            }
        }
        14 => {
            let size = SetAttr { size: Some(number), ..SetAttr::default() };
            (format!("truncate {a} {number}"), empty(guest.set(&a, size)))
        }
        _ => (format!("read {a}"), guest.read(&a)),
    }
}

fn run(seed: u64, steps: u32, memory: bool) {
    let trees = Trees::new();
    let plain = trees.dir.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    populate(&mut Random(seed), &trees.lower(""), 1);
    copy(&trees.lower(""), &plain);
    let untouched = trees.dir.path().join("untouched");
    std::fs::create_dir(&untouched).unwrap();
    copy(&trees.lower(""), &untouched);
    let mount = || trees.mount_with(|o| (o.memory_xattrs, o.max_fds) = (memory, Some(8)));
    let mut overlay = mount();
    let host = Guest { root: HostSb::new(&plain, IdMap::to(0, 0)).unwrap().root(), sb: None };
    let (mut left, mut right) = (Random(seed ^ 77), Random(seed ^ 77));
    let mut log = Vec::new();
    for number in 0..steps {
        let (op, expected) = step(&mut right, &host);
        log.push(op.clone());
        let (same, got) = step(&mut left, &overlay);
        assert_eq!(op, same);
        // A guest that is root inside may read what mode 0 forbids the invoking user on the plain tree.
        let closed = expected == Err(Errno::EACCES);
        assert!(
            closed || got == expected,
            "seed {seed}: {op}: {got:?}, host {expected:?}\n{}",
            log.join("\n")
        );
        if closed {
            return;
        }
        if number % 8 == 7 {
            let open = rustix::process::geteuid().is_root();
            if open {
                assert_eq!(see(&overlay), see(&host), "seed {seed} after\n{}", log.join("\n"));
            }
        }
        // What is on disk must be all there is.
        if number % 40 == 39 && !memory {
            drop(overlay);
            overlay = mount();
        }
    }
    let lower = Guest { root: HostSb::new(&trees.lower(""), IdMap::to(0, 0)).unwrap().root(), sb: None };
    let before = Guest { root: HostSb::new(&untouched, IdMap::to(0, 0)).unwrap().root(), sb: None };
    assert_eq!(see(&lower), see(&before), "seed {seed}: the lower tree was changed");
}

#[test]
fn random_operations_answer_as_on_the_host() {
    for seed in 0..60 {
        run(seed, 120, false);
    }
}

#[test]
fn random_operations_answer_as_on_the_host_without_extended_attributes() {
    for seed in 1000..1020 {
        run(seed, 80, true);
    }
}

#[test]
fn threads_that_change_one_tree_neither_deadlock_nor_lose_it() {
    let trees = Trees::new();
    populate(&mut Random(5), &trees.lower(""), 1);
    let guest = trees.mount_with(|o| o.max_fds = Some(8));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let guest = &guest;
            scope.spawn(move || {
                let mut random = Random(thread);
                for _ in 0..2000 {
                    step(&mut random, guest).1.ok();
                    if let Ok(node) = guest.walk(&random.path()) {
                        node.getattr().ok();
                        node.readdir().ok();
                    }
                }
            });
        }
    });
    let seen = see(&guest);
    drop(guest);
    if rustix::process::geteuid().is_root() {
        assert_eq!(see(&trees.mount()), seen, "what is on disk differs from what was seen");
    }
}
