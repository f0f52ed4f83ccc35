//! The upper part: processes as rows, namespaces as bars in lanes; and a card for each namespace below its lane.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::view::{NamespaceView, ProcessView, View};
use super::paint::{BOLD, DIM, HEAD, NAME, Paint, fit, width};
use super::{MARGIN, colours};

/// Lanes after that of the nsproxies.
const KINDS: [&str; 8] = ["uts", "ipc", "mnt", "pid", "net", "cgroup", "time", "user"];
const TREE: f64 = 300.0;
const PROXY: f64 = 92.0;
const LANE: f64 = 98.0;
const GAP: f64 = 8.0;
const ROW: f64 = 24.0;
/// Height of a row when there are many.
const LOW_ROW: f64 = 19.0;
const MANY_ROWS: usize = 60;
/// How many namespaces of a kind have cards.
const MOST_CARDS: usize = 6;
const CARD_LINE: f64 = 15.0;

/// A row: tasks of one process that are in the same namespaces.
struct Row {
    /// Index of its process.
    process: usize,
    depth: usize,
    /// The row of its parent.
    parent: Option<usize>,
    label: String,
    note: String,
    nsproxy: Option<usize>,
    /// Namespace of each lane; the pid namespace is the one the tasks are in.
    inums: [Option<u64>; KINDS.len()],
    /// The pid namespace for children, where it is another.
    pid_for_children: Option<u64>,
    zombie: bool,
}

/// The rows.
pub struct Lanes(Vec<Row>);

/// The short numbers that namespaces have in the picture, by kind, in the order of rows.
pub struct Numbers(HashMap<(&'static str, u64), usize>);

impl Numbers {
    /// Of all that rows show, then of all others.
    pub fn of(view: &View, lanes: &Lanes) -> Numbers {
        let mut numbers = Numbers(HashMap::new());
        for row in &lanes.0 {
            for (kind, inum) in KINDS.iter().zip(row.inums) {
                inum.iter().for_each(|inum| numbers.add(kind, *inum));
            }
        }
        for ns in &view.namespaces {
            if let Some(kind) = KINDS.iter().find(|kind| **kind == ns.kind) {
                numbers.add(kind, ns.inum);
            }
        }
        numbers
    }

    fn add(&mut self, kind: &'static str, inum: u64) {
        let next = self.0.keys().filter(|(known, _)| *known == kind).count();
        self.0.entry((kind, inum)).or_insert(next);
    }

    /// The number of a namespace.
    pub fn get(&self, kind: &'static str, inum: u64) -> usize {
        self.0.get(&(kind, inum)).copied().unwrap_or(0)
    }
}

/// Processes behind their parents, by index, with their depth.
fn tree(view: &View) -> Vec<(usize, usize)> {
    let mut children: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
    let mut order = Vec::new();
    let mut stack = Vec::new();
    for (index, process) in view.processes.iter().enumerate() {
        match process.pid {
            0 => order.push((index, 0)),
            _ => children.entry(process.ppid).or_default().push(index),
        }
    }
    let mut push = |stack: &mut Vec<(usize, usize)>, pid: i32, depth: usize| {
        stack.extend(children.remove(&pid).unwrap_or_default().into_iter().rev().map(|index| (index, depth)));
    };
    push(&mut stack, 0, 1);
    let mut seen = HashSet::new();
    loop {
        while let Some((index, depth)) = stack.pop() {
            seen.insert(index);
            order.push((index, depth));
            push(&mut stack, view.processes[index].pid, depth + 1);
        }
        // Whose parent is not among them.
        let rest = |(index, process): &(usize, &ProcessView)| process.pid != 0 && !seen.contains(index);
        match view.processes.iter().enumerate().find(rest) {
            Some((index, _)) => stack.push((index, 1)),
            None => return order,
        }
    }
}

impl Lanes {
    /// The rows of a view.
    pub fn of(view: &View) -> Lanes {
        let mut rows: Vec<Row> = Vec::new();
        let mut row_of_pid: HashMap<i32, usize> = HashMap::new();
        for (index, depth) in tree(view) {
            let process = &view.processes[index];
            let parent = row_of_pid.get(&process.ppid).copied().filter(|_| process.pid != 0);
            row_of_pid.entry(process.pid).or_insert(rows.len());
            // Tasks by what they are in: nsproxy, user and pid namespace.
            type Group = ((Option<usize>, u64, u64), Vec<i32>);
            let mut groups: Vec<Group> = Vec::new();
            for thread in &process.threads {
                let key = (thread.nsproxy, thread.user_ns, thread.pid_ns);
                match groups.iter_mut().find(|(known, _)| *known == key) {
                    Some((_, tids)) => tids.push(thread.tid),
                    None => groups.push((key, vec![thread.tid])),
                }
            }
            for (number, ((nsproxy, user_ns, pid_ns), tids)) in groups.into_iter().enumerate() {
                let proxy = nsproxy.and_then(|id| view.nsproxies.iter().find(|proxy| proxy.id == id));
                let inums = match proxy {
                    None => [None; KINDS.len()],
                    Some(p) => [p.uts, p.ipc, p.mnt, pid_ns, p.net, p.cgroup, p.time, user_ns].map(Some),
                };
                let (label, note) = match (number, tids.len()) {
                    (0, 1) => (format!("{} {}", process.pid, process.comm), String::new()),
                    (0, more) => (format!("{} {}", process.pid, process.comm), format!("{more} threads")),
                    (_, 1) => (format!("thread {}", tids[0]), String::new()),
                    (_, more) => (format!("{more} threads"), format!("{} …", tids[0])),
                };
                rows.push(Row {
                    process: index,
                    depth: depth + usize::from(number > 0),
                    parent: if number > 0 { row_of_pid.get(&process.pid).copied() } else { parent },
                    label,
                    note,
                    nsproxy,
                    inums,
                    pid_for_children: proxy.map(|p| p.pid_for_children).filter(|inum| *inum != pid_ns),
                    zombie: process.state == "Z",
                });
            }
        }
        Lanes(rows)
    }

    /// Width of the picture without margins.
    pub fn width(&self) -> f64 {
        TREE + GAP + PROXY + KINDS.len() as f64 * (LANE + GAP)
    }

    /// Height of a row.
    fn row(&self) -> f64 {
        if self.0.len() > MANY_ROWS { LOW_ROW } else { ROW }
    }

    fn lane_x(lane: usize) -> f64 {
        MARGIN + TREE + GAP + PROXY + GAP + lane as f64 * (LANE + GAP)
    }

    /// Draws rows and bars below `top`; gives where they end.
    pub fn draw(&self, paint: &mut Paint, view: &View, numbers: &Numbers, top: f64) -> f64 {
        paint.text((MARGIN, top), HEAD, "PROCESSES");
        paint.text((MARGIN + TREE + GAP, top), HEAD, "NSPROXY");
        for (lane, kind) in KINDS.iter().enumerate() {
            paint.text((Self::lane_x(lane), top), HEAD, &kind.to_uppercase());
        }
        let top = top + 10.0;
        let height = self.row();
        let end = top + self.0.len().max(1) as f64 * height;
        let row_y = |row: usize| top + row as f64 * height;
        paint.rect((MARGIN - 6.0, top), (TREE + 6.0, end - top), "#ffffff", "#e4e7eb", "");
        for (index, row) in self.0.iter().enumerate() {
            self.draw_process(paint, view, row, index, &row_y);
        }
        let proxy = |row: &Row| row.nsproxy.map(|id| id as u64);
        let label = |id: u64, _: &Row| {
            let count = view.nsproxies.iter().find(|p| p.id as u64 == id).map_or(0, |p| p.count);
            (id as usize, id.to_string(), if count == 1 { "1 task".into() } else { format!("{count} tasks") })
        };
        self.bars(paint, "nsproxy", (MARGIN + TREE + GAP, PROXY), &row_y, &proxy, &label);
        for (lane, kind) in KINDS.into_iter().enumerate() {
            let inum = |row: &Row| row.inums[lane];
            let label = |inum: u64, row: &Row| {
                let number = numbers.get(kind, inum);
                let ns = view.namespace(kind, inum);
                let mut more = match (kind, ns) {
                    ("uts", Some(ns)) => ns.hostname.clone().unwrap_or_default(),
                    ("user", Some(ns)) => format!("level {}", ns.level.unwrap_or(0)),
                    _ => String::new(),
                };
                if let ("pid", Some(children)) = (kind, row.pid_for_children) {
                    more = format!("→ {}", numbers.get("pid", children));
                }
                (number, number.to_string(), more)
            };
            self.bars(paint, kind, (Self::lane_x(lane), LANE), &row_y, &inum, &label);
        }
        end
    }

    fn draw_process(
        &self,
        paint: &mut Paint,
        view: &View,
        row: &Row,
        index: usize,
        row_y: &impl Fn(usize) -> f64,
    ) {
        let process = &view.processes[row.process];
        let indent = |depth: usize| MARGIN + 6.0 + (depth.saturating_sub(1).min(10) as f64) * 16.0;
        let base = row_y(index) + self.row() / 2.0 + 4.0;
        if let Some(parent) = row.parent.filter(|parent| *parent < index && row.depth > 1) {
            let x = indent(self.0[parent].depth) + 5.0;
            let middle = self.row() / 2.0;
            paint.branch((x, row_y(parent) + middle + 8.0), (indent(row.depth) - 1.0, row_y(index) + middle));
        }
        let x = indent(row.depth) + if row.depth > 1 { 3.0 } else { 0.0 };
        let room = MARGIN + TREE - x - 8.0;
        let outside = process.pid == 0;
        let shown = if outside { "0 swapper" } else { &row.label };
        let font = if row.zombie || outside { DIM } else { NAME };
        let label = fit(shown, font, room * 0.72);
        paint.text((x, base), font, &label);
        let user = process.user.clone().unwrap_or_else(|| process.uid.to_string());
        let note = match (outside, row.zombie, row.note.is_empty()) {
            (true, ..) => "Nomina itself".to_owned(),
            (_, true, _) => "zombie".to_owned(),
            (.., true) if user == "root" => String::new(),
            (.., true) => user,
            _ => row.note.clone(),
        };
        let at = x + width(&label, font) + 10.0;
        paint.text((at, base), DIM, &fit(&note, DIM, (MARGIN + TREE - 6.0 - at).max(7.0)));
    }

    /// The bars of a lane: neighbours in the same namespace share one. `label` gives number, name, and what else there is to say.
    fn bars(
        &self,
        paint: &mut Paint,
        kind: &'static str,
        (x, lane_width): (f64, f64),
        row_y: &impl Fn(usize) -> f64,
        key: &impl Fn(&Row) -> Option<u64>,
        label: &impl Fn(u64, &Row) -> (usize, String, String),
    ) {
        let mut from = 0;
        while from < self.0.len() {
            let mut to = from + 1;
            let own = key(&self.0[from]);
            let shown = own.map(|own| label(own, &self.0[from]));
            while to < self.0.len() && key(&self.0[to]) == own {
                if own.map(|own| label(own, &self.0[to])) != shown {
                    break;
                }
                to += 1;
            }
            if let Some((number, name, more)) = shown {
                let (fill, stroke) = colours(kind, number);
                let at = (x, row_y(from) + 2.0);
                let size = (lane_width, (to - from) as f64 * self.row() - 4.0);
                let title = if kind == "nsproxy" {
                    format!("nsproxy {name}: {more}")
                } else {
                    format!("{kind}:[{}]", own.unwrap_or(0))
                };
                paint.rect(at, size, &fill, &stroke, &title);
                let base = row_y(from) + self.row() / 2.0 + 4.0;
                paint.text((x + 8.0, base), BOLD, &name);
                let beside = x + 8.0 + width(&name, BOLD) + 7.0;
                paint.coloured(
                    (beside, base),
                    DIM,
                    "#3e4c59",
                    &fit(&more, DIM, x + lane_width - 4.0 - beside),
                );
            }
            from = to;
        }
    }

    /// Draws the namespaces below their lanes; gives where they end.
    pub fn draw_cards(&self, paint: &mut Paint, view: &View, numbers: &Numbers, top: f64) -> f64 {
        paint.text((MARGIN, top), HEAD, "NAMESPACES");
        let top = top + 10.0;
        let legend = [
            "A process holds one nsproxy, which points to",
            "one namespace of each kind; the user one",
            "belongs to its credentials.",
            "A bar is one namespace, as far as neighbours",
            "share it. Equal numbers in a lane are one.",
            "",
            "count: nsproxies that point to it",
            "tasks: tasks that are in it",
            "owner: the user namespace that rules it",
        ];
        let mut end = top;
        for line in legend {
            end += CARD_LINE;
            paint.text((MARGIN, end), DIM, line);
        }
        for (lane, kind) in KINDS.into_iter().enumerate() {
            let mut all: Vec<&NamespaceView> = view.namespaces.iter().filter(|ns| ns.kind == kind).collect();
            all.sort_by_key(|ns| numbers.get(kind, ns.inum));
            let mut y = top;
            for ns in all.iter().take(MOST_CARDS) {
                y = draw_card(paint, ns, kind, numbers, (Self::lane_x(lane), y)) + GAP;
            }
            if all.len() > MOST_CARDS {
                y += CARD_LINE;
                let more = format!("… {} more", all.len() - MOST_CARDS);
                paint.text((Self::lane_x(lane) + 8.0, y - 4.0), DIM, &more);
            }
            end = end.max(y - GAP);
        }
        end
    }
}

/// What there is to say of one namespace.
fn draw_card(
    paint: &mut Paint,
    ns: &NamespaceView,
    kind: &'static str,
    numbers: &Numbers,
    (x, y): (f64, f64),
) -> f64 {
    let mut lines = vec![ns.inum.to_string()];
    lines.extend(ns.hostname.clone());
    lines.extend(ns.count.map(|count| format!("count {count}")));
    lines.push(format!("tasks {}", ns.tasks));
    match (kind, ns.parent) {
        ("pid", Some(parent)) => lines.push(format!("in pid {}", numbers.get("pid", parent))),
        ("user", Some(parent)) => lines.push(format!("in user {}", numbers.get("user", parent))),
        _ => {}
    }
    if kind == "user" {
        lines.push(match ns.uid_map[..] {
            [] => "no uid_map".to_owned(),
            [[first, lower, count]] if count != u32::MAX => format!("{first}←{lower} ×{count}"),
            [_] => "all uids".to_owned(),
            ref more => format!("{} uid ranges", more.len()),
        });
    } else if let Some(owner) = ns.owner {
        lines.push(format!("owner user {}", numbers.get("user", owner)));
    }
    if let Some(mounts) = &ns.mounts {
        lines.push(format!("{} mounts", mounts.len()));
    }
    let number = numbers.get(kind, ns.inum);
    let (fill, stroke) = colours(kind, number);
    let height = 27.0 + lines.len() as f64 * CARD_LINE;
    paint.rect((x, y), (LANE, height), "#ffffff", &stroke, "");
    paint.rect((x, y), (LANE, 20.0), &fill, &stroke, "");
    paint.text((x + 8.0, y + 14.0), BOLD, &format!("{kind} {number}"));
    for (index, line) in lines.iter().enumerate() {
        let at = (x + 8.0, y + 34.0 + index as f64 * CARD_LINE);
        paint.text(at, DIM, &fit(line, DIM, LANE - 10.0));
    }
    y + height
}
