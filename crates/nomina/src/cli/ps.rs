//! `nomina ps`: running sandboxes and their processes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use anstream::eprintln;
use clap::Args;
use nomina::inspector::view::{ProcessView, PublishedView, ThreadView, View};
use nomina::inspector::{Found, InspectError, find, list, runtime_dir};
use serde::Serialize;

use super::Failure;
use super::table::Table;

const EXAMPLES: &str = "\
Examples:
  nomina ps
      Every process of every sandbox of yours. PID is its number inside, HOST its number outside.
  nomina ps web
      Those of one sandbox, by its name, its id, or the first digits of its id.
  nomina ps -q
      Only the ids, for scripts: nomina ps -q | xargs -n1 nomina kill
  nomina ps --json | jq '.[] | select(.uid == 0) | .host_pid'
      One JSON object for each process.

Sandboxes are found in $XDG_RUNTIME_DIR/nomina, /run/user/UID/nomina and /tmp/nomina-UID, or in $NOMINA_RUNTIME_DIR only when that is set. Those of other users are not shown.";

/// List running sandboxes and their processes
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct PsArgs {
    /// Only these sandboxes: names, ids, or the beginnings of ids (default: all)
    #[arg(value_name = "SANDBOX")]
    sandboxes: Vec<String>,

    /// Show zombies and threads too
    #[arg(short, long)]
    all: bool,

    /// Only processes of this user inside: a number, or a name of the sandbox's /etc/passwd
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,

    /// Print only the sandboxes' ids
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A process or thread with its sandbox.
#[derive(Serialize)]
struct Row<'v> {
    sandbox: &'v str,
    name: Option<&'v str>,
    tid: i32,
    published: &'v [PublishedView],
    #[serde(flatten)]
    process: &'v ProcessView,
}

/// The sandboxes with these names, in that order; all of them without names.
pub fn chosen(names: &[String]) -> Result<Vec<Found>, InspectError> {
    if names.is_empty() { Ok(list()) } else { names.iter().map(|name| find(Some(name))).collect() }
}

/// Prints the list.
pub fn ps(args: &PsArgs) -> Result<u8, Failure> {
    let found = chosen(&args.sandboxes)?;
    let mut out = anstream::stdout().lock();
    if args.quiet {
        found.iter().try_for_each(|sandbox| writeln!(out, "{}", sandbox.id))?;
        return Ok(0);
    }
    let mut views = Vec::new();
    let mut code = 0;
    for sandbox in &found {
        match sandbox.view(false) {
            Ok(view) => views.push(view),
            // Ended between the two looks.
            Err(InspectError::NoSuchSandbox(_)) if args.sandboxes.is_empty() => {}
            Err(error) => {
                eprintln!("nomina: {error}");
                code = super::OWN_ERROR;
            }
        }
    }
    let rows: Vec<Row<'_>> = views.iter().flat_map(|view| rows(view, args)).collect();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &rows).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        if found.is_empty() {
            note_none();
        }
        write_table(&views, &rows, &mut out)?;
    }
    Ok(code)
}

/// Says, to the person, that there is nothing to show, and where it was looked for.
pub fn note_none() {
    let places: Vec<String> = runtime_dir::candidates().iter().map(|dir| dir.display().to_string()).collect();
    eprintln!("nomina: no sandbox of yours is running (looked for in {})", places.join(", "));
}

/// The processes of a sandbox, children behind their parents.
fn rows<'v>(view: &'v View, args: &PsArgs) -> Vec<Row<'v>> {
    let mut children: BTreeMap<i32, Vec<&ProcessView>> = BTreeMap::new();
    for process in view.processes.iter().filter(|process| process.pid != 0) {
        children.entry(process.ppid).or_default().push(process);
    }
    let mut stack: Vec<&ProcessView> = children.remove(&0).unwrap_or_default();
    stack.reverse();
    let mut ordered = Vec::new();
    while let Some(process) = stack.pop() {
        ordered.push(process);
        stack.extend(children.remove(&process.pid).unwrap_or_default().into_iter().rev());
    }
    let wanted = |process: &&ProcessView| {
        let user = args
            .user
            .as_ref()
            .is_none_or(|user| process.user.as_ref() == Some(user) || process.uid.to_string() == *user);
        user && (args.all || process.state != "Z")
    };
    let of = |process: &'v ProcessView| {
        let threads =
            if args.all { &process.threads[..] } else { &process.threads[..1.min(process.threads.len())] };
        threads.iter().map(move |thread: &ThreadView| Row {
            sandbox: &view.id,
            name: view.name.as_deref(),
            tid: thread.tid,
            published: &view.published,
            process,
        })
    };
    ordered.into_iter().filter(wanted).flat_map(of).collect()
}

fn write_table(views: &[View], rows: &[Row<'_>], out: impl Write) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut table = Table::new(&["SANDBOX", "NAME", "USER", ">PID", ">HOST", "STATE", ">AGE", "COMMAND"]);
    for row in rows {
        let process = row.process;
        let depth = views.iter().find(|view| view.id == row.sandbox).map_or(0, |view| depth(view, process));
        let thread = row.tid != process.pid;
        let command = if thread { format!("[thread of {}]", process.pid) } else { process.shown_command() };
        table.row(vec![
            row.sandbox.to_owned(),
            row.name.unwrap_or("-").to_owned(),
            process.user.clone().unwrap_or_else(|| process.uid.to_string()),
            row.tid.to_string(),
            process.host_pid.map_or("-".into(), |pid| pid.to_string()),
            process.state.clone(),
            age(now.saturating_sub(process.started)),
            format!("{}{command}", "  ".repeat(depth)),
        ]);
    }
    table.write("", out)
}

/// How many ancestors a process has inside.
fn depth(view: &View, process: &ProcessView) -> usize {
    let mut at = process.ppid;
    let mut depth = 0;
    while at != 0 && depth < 16 {
        depth += 1;
        at = view.processes.iter().find(|parent| parent.pid == at).map_or(0, |parent| parent.ppid);
    }
    depth
}

/// Seconds in at most two units.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, ppid: i32) -> ProcessView {
        let threads = vec![ThreadView { tid: pid, ..ThreadView::default() }];
        ProcessView {
            pid,
            ppid,
            state: "S".into(),
            threads,
            comm: format!("p{pid}"),
            ..ProcessView::default()
        }
    }

    #[test]
    fn children_stand_behind_their_parents_and_the_swapper_not_at_all() {
        let processes =
            vec![process(0, 0), process(1, 0), process(2, 1), process(3, 1), process(4, 2), process(9, 0)];
        let view = View { processes, ..View::default() };
        let args = PsArgs { sandboxes: vec![], all: false, user: None, quiet: false, json: false };
        let order: Vec<i32> = rows(&view, &args).iter().map(|row| row.tid).collect();
        assert_eq!(order, [1, 2, 4, 3, 9]);
        assert_eq!(depth(&view, &process(4, 2)), 2);
    }

    #[test]
    fn zombies_are_shown_when_asked_for() {
        let mut zombie = process(2, 1);
        zombie.state = "Z".into();
        let view = View { processes: vec![process(1, 0), zombie], ..View::default() };
        let args = |all| PsArgs { sandboxes: vec![], all, user: None, quiet: false, json: false };
        assert_eq!(rows(&view, &args(false)).len(), 1);
        assert_eq!(rows(&view, &args(true)).len(), 2);
    }

    #[test]
    fn ages_have_two_units() {
        assert_eq!([59, 61, 3600, 90000].map(age), ["59s", "1m01s", "1h00m", "1d01h"]);
    }
}
