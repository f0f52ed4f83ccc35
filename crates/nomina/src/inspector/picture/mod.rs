//! `nomina ns --svg`: a picture of who shares which namespace.
//!
//! On top one row for each process, as a tree, and one lane for each kind of namespace: a bar in a lane is one namespace, as long
//! as neighbours share it, with its number. Below each lane its namespaces with what counts them; below that the mounts
//! of each mount namespace, those that the first one has not in colour. The network namespaces' lane leaves room for links.
//!
//! The same view gives the same picture, and no text in it is taken for anything but text.

mod lanes;
mod mounts;
mod paint;

use super::view::View;
use lanes::{Lanes, Numbers};
pub use mounts::mount_order;
use paint::{DIM, Paint, TITLE};

const MARGIN: f64 = 24.0;

/// What a kind of namespace is drawn in: its hue.
fn hue(kind: &str) -> u32 {
    match kind {
        "nsproxy" => 215,
        "uts" => 205,
        "ipc" => 172,
        "mnt" => 128,
        "pid" => 268,
        "net" => 28,
        "cgroup" => 48,
        "time" => 322,
        _ => 356,
    }
}

/// Fill and stroke of the namespace with number `number` of its kind: the first ones are light, later ones stand out.
fn colours(kind: &str, number: usize) -> (String, String) {
    let hue = hue(kind);
    let saturation = if kind == "nsproxy" { 18 } else { 62 };
    let light = [95, 86, 76, 68, 81, 72][number % 6];
    (format!("hsl({hue},{saturation}%,{light}%)"), format!("hsl({hue},{}%,{}%)", saturation * 7 / 10, 58))
}

/// Draws a sandbox.
pub fn svg(view: &View) -> String {
    let mut paint = Paint::default();
    let title = match &view.name {
        Some(name) => format!("{name} · {}", view.id),
        None => view.id.clone(),
    };
    let plural = |number: usize, what: &str, many: &str| match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {many}"),
    };
    let facts = [
        plural(view.tasks().count(), "task", "tasks"),
        plural(view.nsproxies.len(), "nsproxy", "nsproxies"),
        plural(view.namespaces.len(), "namespace", "namespaces"),
    ];
    paint.text((MARGIN, MARGIN + 18.0), TITLE, &title);
    paint.text((MARGIN, MARGIN + 38.0), DIM, &facts.join(" · "));
    let lanes = Lanes::of(view);
    let numbers = Numbers::of(view, &lanes);
    let mut y = lanes.draw(&mut paint, view, &numbers, MARGIN + 62.0);
    y = lanes.draw_cards(&mut paint, view, &numbers, y + 26.0);
    y = mounts::draw(&mut paint, view, &numbers, y + 26.0, lanes.width());
    paint.finish((lanes.width() + 2.0 * MARGIN, y + MARGIN), &format!("Namespaces of the sandbox {title}"))
}

#[cfg(test)]
mod tests {
    use super::super::view::{NamespaceView, NsProxyView, ProcessView, ThreadView};
    use super::*;

    /// A sandbox of `count` processes, every third in a UTS namespace of its own.
    fn view(count: i32) -> View {
        let proxy =
            |id: usize| NsProxyView { id, count: 1, uts: 100 + id as u64, mnt: 7, ..NsProxyView::default() };
        let ns = |kind: &str, inum: u64| NamespaceView {
            kind: kind.into(),
            inum,
            count: Some(1),
            hostname: Some("<a&b>".into()),
            ..NamespaceView::default()
        };
        let process = |pid: i32| ProcessView {
            pid,
            ppid: pid / 2,
            comm: format!("p{pid}\u{1b}"),
            state: "S".into(),
            threads: vec![ThreadView {
                tid: pid,
                nsproxy: Some((pid / 3) as usize),
                ..ThreadView::default()
            }],
            ..ProcessView::default()
        };
        let proxies = (0..=count / 3).map(|id| proxy(id as usize));
        View {
            id: "0123456789ab".into(),
            name: Some("<\"x\">".into()),
            processes: (0..count).map(process).collect(),
            namespaces: proxies.clone().map(|p| ns("uts", p.uts)).chain([ns("mnt", 7)]).collect(),
            nsproxies: proxies.collect(),
            ..View::default()
        }
    }

    /// `NOMINA_WRITE=1 cargo test -p nomina picture` draws it anew.
    #[test]
    fn the_picture_in_the_readme_is_what_is_drawn() {
        let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/namespaces");
        let view = std::fs::read(format!("{assets}.json")).unwrap();
        let picture = svg(&serde_json::from_slice(&view).unwrap());
        if std::env::var_os("NOMINA_WRITE").is_some() {
            std::fs::write(format!("{assets}.svg"), &picture).unwrap();
        }
        assert!(std::fs::read_to_string(format!("{assets}.svg")).unwrap() == picture);
    }

    #[test]
    fn text_cannot_be_taken_for_markup() {
        let svg = svg(&view(5));
        assert!(svg.contains("&lt;&quot;x&quot;&gt;") && svg.contains("&lt;a&amp;b&gt;"));
        assert!(!svg.contains("<a&") && !svg.contains('\u{1b}'));
    }

    #[test]
    fn one_view_gives_one_picture_however_many_tasks_there_are() {
        for count in [0, 1, 2, 100] {
            let view = view(count);
            let picture = svg(&view);
            assert_eq!(picture, svg(&view));
            for process in view.processes.iter().filter(|process| process.pid != 0) {
                assert!(picture.contains(&format!(">{} p{}", process.pid, process.pid)), "{count}");
            }
        }
    }

    #[test]
    fn a_tree_of_parents_that_are_each_other_ends() {
        let mut view = view(4);
        view.processes[1].ppid = 3;
        view.processes[3].ppid = 1;
        svg(&view);
    }
}
