//! `nomina ns`: who shares which namespace.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueHint};
use nomina::inspector::view::{MountView, NamespaceView, View};
use nomina::inspector::{InspectError, picture};

use super::Failure;
use super::ps::chosen;
use super::table::{Table, plain};

const EXAMPLES: &str = "\
Examples:
  nomina ns
For every sandbox: its sets of namespaces with the processes that hold each, and its namespaces with what counts \
them.
  nomina ns web --mounts
      The tree of mounts of each mount namespace, and how mounts propagate.
  nomina ns web --svg web.svg
      A picture of it.
  nomina ns --json | jq '.[].namespaces[] | select(.kind == \"uts\")'
      The same facts for scripts.

How to read it: a task holds one nsproxy, which points to one namespace of each kind. An nsproxy counts the tasks that hold it, a namespace the nsproxies that point to it. Nsproxy 0 is that of Nomina itself (the kernel's init_nsproxy), held by task 0.";

/// Show namespaces: who shares which, who owns them, what they count
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct NsArgs {
    /// Only these sandboxes: names, ids, or the beginnings of ids (default: all)
    #[arg(value_name = "SANDBOX")]
    sandboxes: Vec<String>,

    /// Show the tree of mounts of each mount namespace
    #[arg(short, long)]
    mounts: bool,

    /// Draw a picture of one sandbox into FILE (`-`: to standard output)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "json")]
    svg: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints or draws.
pub fn ns(args: &NsArgs) -> Result<u8, Failure> {
    let found = chosen(&args.sandboxes)?;
    if let Some(file) = &args.svg {
        let [sandbox] = &found[..] else { return Err(InspectError::NotOne(found.len()).into()) };
        let svg = picture::svg(&sandbox.view(true)?);
        if file.as_os_str() == "-" {
            io::stdout().write_all(svg.as_bytes())?;
        } else {
            std::fs::write(file, svg).map_err(|error| Failure::File { path: file.clone(), error })?;
        }
        return Ok(0);
    }
    let mut views = Vec::new();
    for sandbox in &found {
        match sandbox.view(args.mounts) {
            Ok(view) => views.push(view),
            Err(InspectError::NoSuchSandbox(_)) if args.sandboxes.is_empty() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut out = anstream::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &views).map_err(io::Error::from)?;
        writeln!(out)?;
        return Ok(0);
    }
    if views.is_empty() {
        super::ps::note_none();
    }
    for (index, view) in views.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        write_view(view, &mut out)?;
    }
    Ok(0)
}

fn write_view(view: &View, out: &mut impl Write) -> io::Result<()> {
    let name = view.name.as_ref().map_or(String::new(), |name| format!(" ({name})"));
    writeln!(
        out,
        "sandbox {}{name}: {}, {}, {}",
        view.id,
        count(view.tasks().count(), "task"),
        count(view.nsproxies.len(), "nsproxy"),
        count(view.namespaces.len(), "namespace"),
    )?;
    writeln!(out)?;
    nsproxies(view).write("", &mut *out)?;
    writeln!(out)?;
    namespaces(view).write("", &mut *out)?;
    for ns in &view.namespaces {
        let Some(mounts) = &ns.mounts else { continue };
        writeln!(out, "\nmnt:[{}]: {}", ns.inum, count(mounts.len(), "mount"))?;
        mount_tree(mounts).write("  ", &mut *out)?;
    }
    Ok(())
}

fn count(number: usize, what: &str) -> String {
    match (number, what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {what}s"),
    }
}

/// Kinds in the order of `struct nsproxy`.
const KINDS: [&str; 7] = ["uts", "ipc", "mnt", "pid", "net", "cgroup", "time"];

/// One line for each nsproxy; `"` is the namespace of the line above.
fn nsproxies(view: &View) -> Table {
    let mut table =
        Table::new(&[">NSPROXY", ">TASKS", "UTS", "IPC", "MNT", "PID", "NET", "CGROUP", "TIME", "HELD BY"]);
    let mut above: [u64; 7] = [0; 7];
    for nsproxy in &view.nsproxies {
        let own = [
            nsproxy.uts,
            nsproxy.ipc,
            nsproxy.mnt,
            nsproxy.pid_for_children,
            nsproxy.net,
            nsproxy.cgroup,
            nsproxy.time,
        ];
        let mut cells = vec![nsproxy.id.to_string(), nsproxy.count.to_string()];
        cells.extend(
            own.iter().zip(above).map(
                |(inum, above)| {
                    if *inum == above { "\"".to_owned() } else { inum.to_string() }
                },
            ),
        );
        cells.push(holders(view, nsproxy.id));
        table.row(cells);
        above = own;
    }
    table
}

/// Who holds an nsproxy: numbers and names, the first few.
fn holders(view: &View, nsproxy: usize) -> String {
    const SHOWN: usize = 5;
    let mut all: Vec<String> = Vec::new();
    for process in &view.processes {
        let threads = process.threads.iter().filter(|thread| thread.nsproxy == Some(nsproxy)).count();
        match threads {
            0 => {}
            1 => all.push(format!("{} {}", process.pid, process.comm)),
            more => all.push(format!("{} {} (x{more})", process.pid, process.comm)),
        }
    }
    let rest = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let more = if rest > 0 { format!(", {rest} more") } else { String::new() };
    all.join(", ") + &more
}

/// One line for each namespace, pid and user namespaces below their parents.
fn namespaces(view: &View) -> Table {
    let mut table = Table::new(&["KIND", "NUMBER", ">NSPROXIES", ">TASKS", "OWNER", "WHAT"]);
    for kind in KINDS.into_iter().chain(["user"]) {
        for (ns, depth) in tree(view, kind) {
            table.row(vec![
                kind.to_owned(),
                format!("{}{}", "  ".repeat(depth), ns.inum),
                ns.count.map_or("-".into(), |count| count.to_string()),
                ns.tasks.to_string(),
                ns.owner.map_or("-".into(), |owner| owner.to_string()),
                what(view, ns),
            ]);
        }
    }
    table
}

/// The namespaces of a kind, children behind their parents, with their depth.
fn tree<'v>(view: &'v View, kind: &str) -> Vec<(&'v NamespaceView, usize)> {
    let all: Vec<&NamespaceView> = view.namespaces.iter().filter(|ns| ns.kind == kind).collect();
    let known = |inum: u64| all.iter().any(|ns| ns.inum == inum);
    let mut children: BTreeMap<u64, Vec<&NamespaceView>> = BTreeMap::new();
    let mut stack = Vec::new();
    for &ns in &all {
        match ns.parent.filter(|parent| known(*parent)) {
            Some(parent) => children.entry(parent).or_default().push(ns),
            None => stack.push((ns, 0)),
        }
    }
    stack.reverse();
    let mut ordered = Vec::new();
    while let Some((ns, depth)) = stack.pop() {
        ordered.push((ns, depth));
        let below = children.remove(&ns.inum).unwrap_or_default();
        stack.extend(below.into_iter().rev().map(|ns| (ns, depth + 1)));
    }
    ordered
}

/// What there is to say of a namespace.
fn what(view: &View, ns: &NamespaceView) -> String {
    let map = |name: &str, map: &[[u32; 3]]| match map {
        [] => format!("{name} unset"),
        [[0, 0, u32::MAX]] => format!("{name} all"),
        lines => {
            let lines: Vec<String> = lines.iter().map(|[a, b, n]| format!("{a} {b} {n}")).collect();
            format!("{name} {}", lines.join(", "))
        }
    };
    match ns.kind.as_str() {
        "uts" => ns.hostname.clone().unwrap_or_default(),
        "user" => format!(
            "made by {}, {}, {}",
            ns.owner_uid.unwrap_or(0),
            map("uids", &ns.uid_map),
            map("gids", &ns.gid_map)
        ),
        "pid" => {
            let of = |process: &&nomina::inspector::view::ProcessView| {
                process.pids.last() == Some(&1)
                    && process.threads.iter().any(|thread| thread.pid_ns == ns.inum)
            };
            let init = view.processes.iter().find(of);
            init.map_or(String::new(), |init| format!("init is {} {}", init.pid, init.comm))
        }
        "mnt" => ns.mounts.as_ref().map_or(String::new(), |mounts| count(mounts.len(), "mount")),
        _ => String::new(),
    }
}

/// The mounts of a namespace as a tree.
fn mount_tree(mounts: &[MountView]) -> Table {
    let mut table = Table::new(&["MOUNT", "TYPE", "SOURCE", "PROPAGATION", "OPTIONS"]);
    for (mount, depth) in picture::mount_order(mounts) {
        table.row(vec![
            format!("{}{}", "  ".repeat(depth), plain(&mount.mountpoint)),
            mount.fstype.clone(),
            mount.source.clone(),
            mount.propagation(),
            mount.options.clone(),
        ]);
    }
    table
}
