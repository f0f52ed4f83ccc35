//! `kill -9` at every host call of every operation: a layer shows what was before or what is after, and nothing else.
//!
//! A child process does one operation under `strace`, which kills it as it enters its Nth changing call.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use nomina_kernel::vfs::{NewInode, S_IFLNK, S_IFREG};

use super::*;

/// Host calls that change something, or come after one that does (`openat` has many other uses).
const CALLS: &str = "renameat,renameat2,unlinkat,linkat,mkdirat,symlinkat,setxattr,lsetxattr,removexattr,\
    lremovexattr,fchmodat,utimensat,ftruncate,pwrite64,copy_file_range,fdatasync";

struct Case {
    name: &'static str,
    before: fn(&Guest),
    op: fn(&Guest) -> Result<()>,
}

fn other(mode: u32, rdev: u64) -> NewInode {
    NewInode { mode, uid: 7, gid: 8, rdev }
}

fn make(guest: &Guest, path: &str) -> Result<()> {
    let (dir, name) = guest.split(path)?;
    dir.create(name, other(0o640, 0), WRITE).map(drop)
}

fn empty_d(guest: &Guest) {
    guest.unlink("d/x").unwrap();
    guest.unlink("d/y").unwrap();
}

fn without_d(guest: &Guest) {
    empty_d(guest);
    guest.rmdir("d").unwrap();
}

fn with_n(guest: &Guest) {
    guest.mkdir("n").unwrap();
    guest.write("n/k", "k").unwrap();
}

fn nothing(_: &Guest) {}

const CASES: &[Case] = &[
    Case { name: "a file of another user", before: nothing, op: |g| make(g, "new") },
    Case { name: "a file over a whiteout", before: |g| g.unlink("f").unwrap(), op: |g| make(g, "f") },
    Case { name: "a directory over a whiteout", before: without_d, op: |g| g.mkdir("d") },
    Case {
        name: "a directory for all",
        before: nothing,
        op: |g| g.root.mkdir(b"all", other(0o1777, 0)).map(drop),
    },
    Case {
        name: "a device",
        before: nothing,
        op: |g| g.root.mknod(b"dev", other(libc::S_IFCHR | 0o620, libc::makedev(1, 3))).map(drop),
    },
    Case {
        name: "a link of another user",
        before: nothing,
        op: |g| g.root.symlink(b"sym", b"target", other(0o777, 0)).map(drop),
    },
    Case {
        name: "a link over a whiteout",
        before: |g| g.unlink("f").unwrap(),
        op: |g| g.symlink("target", "f"),
    },
    Case { name: "removing a lower file", before: nothing, op: |g| g.unlink("f") },
    Case {
        name: "removing a file that was copied up",
        before: |g| g.write("f", "changed").unwrap(),
        op: |g| g.unlink("f"),
    },
    Case { name: "removing a lower directory", before: empty_d, op: |g| g.rmdir("d") },
    Case {
        name: "removing a directory made over a lower one",
        before: |g| {
            without_d(g);
            g.mkdir("d").unwrap();
        },
        op: |g| g.rmdir("d"),
    },
    Case { name: "renaming a lower file", before: nothing, op: |g| g.rename("f", "g", 0) },
    Case { name: "renaming a lower file over another", before: nothing, op: |g| g.rename("f", "d/x", 0) },
    Case {
        name: "renaming a file over a whiteout",
        before: |g| g.unlink("d/x").unwrap(),
        op: |g| g.rename("f", "d/x", 0),
    },
    Case { name: "renaming a lower directory", before: nothing, op: |g| g.rename("d", "m", 0) },
    Case {
        name: "renaming a directory over a whiteout",
        before: |g| {
            without_d(g);
            with_n(g);
        },
        op: |g| g.rename("n", "d", 0),
    },
    Case {
        name: "renaming a lower directory over a whiteout",
        before: |g| g.unlink("f").unwrap(),
        op: |g| g.rename("d", "f", 0),
    },
    Case {
        name: "renaming a directory over an emptied one",
        before: |g| {
            empty_d(g);
            with_n(g);
        },
        op: |g| g.rename("n", "d", 0),
    },
    Case { name: "exchanging a file and a directory", before: nothing, op: |g| g.rename("f", "d", 2) },
    Case { name: "linking a lower file", before: nothing, op: |g| g.link("f", "h") },
    Case {
        name: "linking over a whiteout",
        before: |g| g.unlink("d/x").unwrap(),
        op: |g| g.link("f", "d/x"),
    },
    Case { name: "opening a lower file for writing", before: nothing, op: |g| g.open("f", RDWR).map(drop) },
    Case { name: "giving a lower file away", before: nothing, op: |g| g.set("f", owner(5, 6)) },
    Case { name: "giving a link away", before: nothing, op: |g| g.set("l", owner(5, 6)) },
    Case {
        name: "giving a file with a record back",
        before: |g| g.set("f", owner(5, 6)).unwrap(),
        op: |g| g.set("f", owner(0, 0)),
    },
    Case {
        name: "a set-user-ID bit for another's file",
        before: nothing,
        op: |g| g.set("d/x", SetAttr { mode: Some(0o4711), ..owner(5, 6) }),
    },
    Case { name: "an attribute", before: nothing, op: |g| g.walk("f")?.setxattr(b"user.a", b"1", 0) },
];

type Shown = BTreeMap<String, (u32, u32, u32, u64, Vec<u8>)>;

fn show(node: &Arc<dyn Inode>, path: &str, out: &mut Shown) {
    for entry in node.readdir().unwrap() {
        let name = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let child = node.lookup(&entry.name).unwrap_or_else(|e| panic!("{name} is listed but {e:?}"));
        let attr = child.getattr().unwrap();
        let mut text = match child.file_type() {
            S_IFLNK => child.readlink().unwrap(),
            S_IFREG => match child.open(READ).unwrap() {
                Opened::Host(fd) => content(&fd),
                _ => panic!("{name} has no handle"),
            },
            _ => Vec::new(),
        };
        text.extend(child.listxattr().unwrap());
        out.insert(name.clone(), (attr.mode, attr.uid, attr.gid, attr.rdev, text));
        if child.file_type() == libc::S_IFDIR {
            show(&child, &name, out);
        }
    }
}

fn shown(trees: &Trees) -> Shown {
    let mut out = Shown::new();
    show(&trees.mount().root, "", &mut out);
    out
}

fn prepared(case: &Case) -> Trees {
    let trees = Trees::new();
    trees.file("f", "lower f").file("d/x", "x").file("d/y", "y");
    std::os::unix::fs::symlink("f", trees.lower("l")).unwrap();
    (case.before)(&trees.mount());
    trees
}

/// Run by [`a_layer_killed_at_any_host_call_shows_what_was_or_what_is`] in a process of its own.
#[test]
fn child() {
    let Ok(asked) = std::env::var("NOMINA_CRASH_CASE") else { return };
    let (index, dir) = asked.split_once(':').unwrap();
    let dir = Path::new(dir);
    let path = |name: &str| dir.join(name);
    let options = OverlayOptions {
        durable: true,
        ..OverlayOptions::new(Some(path("lower")), path("upper"), path("work"), IdMap::to(0, 0))
    };
    let sb = OverlaySb::new(&options).unwrap();
    let guest = Guest { root: sb.root(), sb: Some(sb) };
    (CASES[index.parse::<usize>().unwrap()].op)(&guest).unwrap();
    println!("done");
}

/// Does the operation of a case under `strace`; whether it was done to the end.
fn traced(index: usize, trees: &Trees, log: &Path, inject: Option<(&str, usize)>) -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e"]).arg(format!("trace={CALLS}")).arg("-o").arg(log);
    if let Some((call, nth)) = inject {
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={nth}")]);
    }
    let output = strace
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "overlay::tests::crash::child", "--nocapture", "--test-threads=1"])
        .env("NOMINA_CRASH_CASE", format!("{index}:{}", trees.dir.path().display()))
        .output()
        .expect("strace is needed");
    String::from_utf8_lossy(&output.stdout).contains("done\n")
}

/// How often the operation makes each of the calls.
fn calls(index: usize, case: &Case) -> BTreeMap<String, usize> {
    let trees = prepared(case);
    let log = trees.dir.path().join("log");
    assert!(traced(index, &trees, &log, None), "{} is never done", case.name);
    let mut calls = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let call = line.split_whitespace().nth(1).and_then(|call| call.split_once('('));
        if let Some((call, _)) = call {
            *calls.entry(call.to_string()).or_default() += 1;
        }
    }
    calls
}

#[test]
fn a_layer_killed_at_any_host_call_shows_what_was_or_what_is() {
    let null = Path::new("/dev/null");
    for (index, case) in CASES.iter().enumerate() {
        let what = case.name;
        let before = shown(&prepared(case));
        let after = {
            let trees = prepared(case);
            (case.op)(&trees.mount()).unwrap();
            shown(&trees)
        };
        let calls = calls(index, case);
        assert!(calls.values().sum::<usize>() >= 3, "{what}: {calls:?} are too few to be all");
        for (call, nth) in calls.iter().flat_map(|(call, &count)| (1..=count).map(move |nth| (call, nth))) {
            let trees = prepared(case);
            assert!(!traced(index, &trees, null, Some((call, nth))), "{what}: not killed at {call} {nth}");
            let now = shown(&trees);
            assert!(now == before || now == after, "{what}, killed at {call} {nth}: {now:#?}");
            assert_eq!(shown(&trees), now, "{what}, killed at {call} {nth}: the second time");
            let work = std::fs::read_dir(trees.dir.path().join("work")).unwrap();
            let names = work.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let left: Vec<_> = names.filter(|name| name != "whiteout").collect();
            assert!(
                left.is_empty(),
                "{what}, killed at {call} {nth}: {left:?} is left in the work directory"
            );
        }
    }
}
