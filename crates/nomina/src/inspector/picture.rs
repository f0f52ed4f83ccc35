//! A picture of a sandbox.

use std::collections::BTreeMap;

use super::view::{MountView, View};

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

/// The picture.
pub fn svg(view: &View) -> String {
    let _ = view;
    String::new()
}
