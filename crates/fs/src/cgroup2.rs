//! cgroup2: the hierarchy of control groups (`cgroups(7)`).
//!
//! In Linux tasks are put into groups, whose resources controllers distribute. A sandbox is one group, the root of what it sees, and
//! has no controllers: resources are the host's to give. So the file system is read-only and shows that one group, without any
//! name of the host's. The numbers in `cgroup.procs` are those of the pid namespace that it was mounted in.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::flat::{Entry, FlatFs, Text};
use crate::proc::ProcSource;

/// `CGROUP2_SUPER_MAGIC`.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;

/// Makes an instance with `dev` as its `st_dev`, which shows the tasks of `source`.
pub fn new(dev: u64, source: Arc<dyn ProcSource>) -> Arc<FlatFs> {
    let fixed = |name, mode, text: &'static str| Entry { name, mode, text: Box::new(|| text.into()) };
    let threads = source.clone();
    let procs: Text = Box::new(move || lines(source.thread_groups()));
    let threads: Text = Box::new(move || {
        let groups = threads.thread_groups();
        let tasks = groups.into_iter().filter_map(|nr| threads.find(nr));
        lines(tasks.flat_map(|task| threads.threads(task)))
    });
    let entries = vec![
        fixed("cgroup.controllers", 0o444, "\n"),
        fixed("cgroup.max.depth", 0o644, "max\n"),
        fixed("cgroup.max.descendants", 0o644, "max\n"),
        Entry { name: "cgroup.procs", mode: 0o644, text: procs },
        fixed("cgroup.stat", 0o444, "nr_descendants 0\nnr_dying_descendants 0\n"),
        fixed("cgroup.subtree_control", 0o644, "\n"),
        Entry { name: "cgroup.threads", mode: 0o644, text: threads },
    ];
    FlatFs::new("cgroup2", CGROUP2_SUPER_MAGIC, dev, 0o555, entries)
}

/// One number a line.
fn lines(numbers: impl IntoIterator<Item = i32>) -> Vec<u8> {
    let mut text = String::new();
    for number in numbers {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{number}");
    }
    text.into_bytes()
}
