//! The lower part: the mounts of each mount namespace as trees, with how they propagate.

use std::collections::{BTreeMap, HashSet};

use super::super::view::{MountView, NamespaceView, View};
use super::lanes::Numbers;
use super::paint::{BOLD, DIM, HEAD, NAME, Paint, fit, width};
use super::{MARGIN, colours};

const LINE: f64 = 17.0;
const GAP: f64 = 16.0;
/// How many mounts of a namespace are drawn.
const MOST: usize = 60;

/// Mounts behind what they are mounted on, with their depth.
pub fn mount_order(mounts: &[MountView]) -> Vec<(&MountView, usize)> {
    let known = |id: u32| mounts.iter().any(|mount| mount.id == id);
    let mut children: BTreeMap<u32, Vec<&MountView>> = BTreeMap::new();
    let mut stack = Vec::new();
    for mount in mounts {
        if mount.parent != mount.id && known(mount.parent) {
            children.entry(mount.parent).or_default().push(mount);
        } else {
            stack.push((mount, 0));
        }
    }
    stack.reverse();
    let mut ordered = Vec::new();
    while let Some((mount, depth)) = stack.pop() {
        ordered.push((mount, depth));
        let mut below = children.remove(&mount.id).unwrap_or_default();
        below.sort_by(|a, b| b.mountpoint.cmp(&a.mountpoint));
        stack.extend(below.into_iter().map(|mount| (mount, depth + 1)));
    }
    ordered
}

/// Draws a card for each mount namespace, two or three beside each other; gives where they end.
pub fn draw(paint: &mut Paint, view: &View, numbers: &Numbers, top: f64, room: f64) -> f64 {
    let mut all: Vec<(&NamespaceView, &Vec<MountView>)> =
        view.namespaces.iter().filter_map(|ns| Some((ns, ns.mounts.as_ref()?))).collect();
    if all.is_empty() {
        return top - 26.0;
    }
    all.sort_by_key(|(ns, _)| numbers.get("mnt", ns.inum));
    paint.text((MARGIN, top), HEAD, "MOUNTS");
    let columns = all.len().clamp(1, 3) as f64;
    let card = ((room - (columns - 1.0) * GAP) / columns).min(620.0);
    // What every card but the first repeats is not the news.
    let first: HashSet<(&str, &str)> =
        all[0].1.iter().map(|mount| (mount.mountpoint.as_str(), mount.fstype.as_str())).collect();
    let mut ends = vec![top + 10.0; columns as usize];
    for (index, (ns, mounts)) in all.iter().enumerate() {
        let column = (0..ends.len()).min_by(|a, b| ends[*a].total_cmp(&ends[*b])).unwrap_or(0);
        let at = (MARGIN + column as f64 * (card + GAP), ends[column]);
        let known = |mount: &MountView| {
            index > 0 && first.contains(&(mount.mountpoint.as_str(), mount.fstype.as_str()))
        };
        ends[column] = draw_card(paint, numbers.get("mnt", ns.inum), ns, mounts, at, card, &known) + GAP;
    }
    ends.into_iter().fold(top, f64::max) - GAP
}

fn draw_card(
    paint: &mut Paint,
    number: usize,
    ns: &NamespaceView,
    mounts: &[MountView],
    (x, y): (f64, f64),
    card: f64,
    known: &impl Fn(&MountView) -> bool,
) -> f64 {
    let order = mount_order(mounts);
    let shown = order.len().min(MOST);
    let rest = order.len() - shown;
    let height = 34.0 + (shown + usize::from(rest > 0)) as f64 * LINE;
    let (fill, stroke) = colours("mnt", number);
    paint.rect((x, y), (card, height), "#ffffff", &stroke, "");
    paint.rect((x, y), (card, 22.0), &fill, &stroke, "");
    paint.text((x + 10.0, y + 15.0), BOLD, &format!("mnt {number}"));
    paint.text((x + 72.0, y + 15.0), DIM, &format!("{} mounts · {}", order.len(), ns.inum));
    // Where the line of each depth comes from.
    let mut above: Vec<f64> = Vec::new();
    for (index, (mount, depth)) in order.iter().take(shown).enumerate() {
        let base = y + 40.0 + index as f64 * LINE;
        let left = x + 12.0 + (*depth).min(8) as f64 * 14.0;
        above.truncate(*depth);
        if let Some(from) = above.last() {
            paint.branch((left - 9.0, *from + 3.0), (left - 2.0, base - 4.0));
        }
        above.push(base);
        let font = if known(mount) { DIM } else { NAME };
        let pill = mount.propagation();
        let pill_width = if pill == "private" { 0.0 } else { width(&pill, DIM) + 14.0 };
        let fstype_width = width("overlay", DIM) + 14.0;
        let name = fit(&mount.mountpoint, font, x + card - left - pill_width - fstype_width - 18.0);
        paint.text((left, base), font, &name);
        paint.text((left + width(&name, font) + 9.0, base), DIM, &fit(&mount.fstype, DIM, fstype_width));
        if pill_width > 0.0 {
            let at = (x + card - pill_width - 8.0, base - 12.0);
            let (fill, ink) = match (mount.shared, mount.master) {
                (Some(group), None) => (format!("hsl({},60%,90%)", peers(group)), "#1f2933"),
                (_, Some(group)) => (format!("hsl({},60%,90%)", peers(group)), "#7c2d12"),
                _ => ("#fde8e8".to_owned(), "#9b1c1c"),
            };
            paint.rect(at, (pill_width, 15.0), &fill, "none", "");
            paint.coloured((at.0 + 7.0, base - 0.5), DIM, ink, &pill);
        }
    }
    if rest > 0 {
        paint.text((x + 12.0, y + 40.0 + shown as f64 * LINE), DIM, &format!("… {rest} more"));
    }
    y + height
}

/// The hue of a peer group: the same wherever its members are.
fn peers(group: u32) -> u32 {
    (group * 137 + 60) % 360
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_stand_behind_what_they_are_on() {
        let mount = |id, parent, mountpoint: &str| MountView {
            id,
            parent,
            mountpoint: mountpoint.into(),
            ..MountView::default()
        };
        let mounts = [mount(5, 1, "/b"), mount(1, 0, "/"), mount(7, 5, "/b/c"), mount(3, 1, "/a")];
        let order: Vec<(u32, usize)> = mount_order(&mounts).iter().map(|(m, depth)| (m.id, *depth)).collect();
        assert_eq!(order, [(1, 0), (3, 1), (5, 1), (7, 2)]);
    }
}
