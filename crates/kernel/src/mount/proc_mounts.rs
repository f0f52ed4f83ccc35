//! `/proc/PID/{mountinfo,mounts,mountstats}`: `fs/proc_namespace.c`, `proc_pid_mountinfo(5)`.

use std::sync::Arc;

use super::{MntNamespace, Mount, MountFlags};
use crate::vfs::d_path::{dentry_path, path_below};
use crate::vfs::{Path, SuperFlags};

/// Appends `text` with the bytes in `special` as octal escapes: `seq_escape`.
fn mangle(out: &mut Vec<u8>, text: &[u8], special: &[u8]) {
    for &byte in text {
        if special.contains(&byte) {
            out.extend_from_slice(format!("\\{byte:03o}").as_bytes());
        } else {
            out.push(byte);
        }
    }
}

const PATH_SPECIAL: &[u8] = b" \t\n\\";
const SOURCE_SPECIAL: &[u8] = b" \t\n\\#";

fn mount_options(flags: MountFlags) -> String {
    let mut text = String::new();
    for (flag, name) in [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::RELATIME, ",relatime"),
        (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
    ] {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text
}

fn super_options(mount: &Mount) -> String {
    let flags = mount.sb().flags();
    let mut text = String::new();
    for (flag, name) in [
        (SuperFlags::SYNCHRONOUS, ",sync"),
        (SuperFlags::DIRSYNC, ",dirsync"),
        (SuperFlags::MANDLOCK, ",mand"),
        (SuperFlags::LAZYTIME, ",lazytime"),
    ] {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text
}

pub(super) fn fs_options(mount: &Mount) -> String {
    let options = mount.sb().ops().show_options();
    if options.is_empty() || options.starts_with(',') { options } else { format!(",{options}") }
}

/// The root of a mount in its file system: `show_path`.
pub(super) fn show_path(mount: &Mount) -> Vec<u8> {
    let root = mount.root().inode();
    match root.namespace() {
        Some(ns) => ns.link_text().into_bytes(),
        None => mount.sb().ops().show_path(&**root).unwrap_or_else(|| dentry_path(mount.root())),
    }
}

pub(super) fn source(mount: &Mount) -> Vec<u8> {
    let source = mount.devname().map_or_else(|| mount.sb().ops().source(), <[u8]>::to_vec);
    if source.is_empty() { b"none".to_vec() } else { source }
}

/// Major and minor number of a `dev_t`.
pub(super) fn major_minor(dev: u64) -> (u64, u64) {
    (((dev >> 8) & 0xfff) | ((dev >> 32) & 0xffff_f000), (dev & 0xff) | ((dev >> 12) & 0xffff_ff00))
}

/// The mounts of a namespace that can be reached from `root`, with their paths below it.
fn reachable(ns: &MntNamespace, root: &Path) -> impl Iterator<Item = (Arc<Mount>, Vec<u8>)> {
    ns.mounts().into_iter().filter_map(move |mount| {
        let path = path_below(&Path::mount_root(&mount), root)?;
        Some((mount, path))
    })
}

/// `/proc/PID/mountinfo` of a task in `ns` with root directory `root`.
pub fn show_mountinfo(ns: &MntNamespace, root: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    let lock = ns.table().namespace_lock();
    for (mount, path) in reachable(ns, root) {
        let parent = mount.parent().map_or(mount.id(), |parent| parent.id());
        let (major, minor) = major_minor(mount.sb().ops().dev());
        out.extend_from_slice(format!("{} {parent} {major}:{minor} ", mount.id()).as_bytes());
        mangle(&mut out, &show_path(&mount), PATH_SPECIAL);
        out.push(b' ');
        mangle(&mut out, &path, PATH_SPECIAL);
        let flags = mount.flags();
        out.extend_from_slice(if flags.contains(MountFlags::READONLY) { b" ro" } else { b" rw" });
        out.extend_from_slice(mount_options(flags).as_bytes());
        let propagation = lock.pnodes.propagation(&mount);
        if let Some(group) = propagation.shared {
            out.extend_from_slice(format!(" shared:{group}").as_bytes());
        }
        if let Some(group) = propagation.master {
            out.extend_from_slice(format!(" master:{group}").as_bytes());
            // A master that the reader does not see: the closest above it that it does.
            if let Some(dominating) = lock.pnodes.dominating_id(&mount, root).filter(|id| *id != group) {
                out.extend_from_slice(format!(" propagate_from:{dominating}").as_bytes());
            }
        }
        if flags.contains(MountFlags::UNBINDABLE) {
            out.extend_from_slice(b" unbindable");
        }
        out.extend_from_slice(b" - ");
        mangle(&mut out, mount.sb().ops().full_type().as_bytes(), SOURCE_SPECIAL);
        out.push(b' ');
        mangle(&mut out, &source(&mount), SOURCE_SPECIAL);
        let readonly = mount.sb().flags().contains(SuperFlags::RDONLY);
        out.extend_from_slice(if readonly { b" ro" } else { b" rw" });
        out.extend_from_slice(super_options(&mount).as_bytes());
        out.extend_from_slice(fs_options(&mount).as_bytes());
        out.push(b'\n');
    }
    out
}

/// `/proc/PID/mounts`, in the format of `fstab(5)`.
pub fn show_mounts(ns: &MntNamespace, root: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for (mount, path) in reachable(ns, root) {
        mangle(&mut out, &source(&mount), SOURCE_SPECIAL);
        out.push(b' ');
        mangle(&mut out, &path, PATH_SPECIAL);
        out.push(b' ');
        mangle(&mut out, mount.sb().ops().full_type().as_bytes(), SOURCE_SPECIAL);
        out.extend_from_slice(if mount.is_readonly() { b" ro" } else { b" rw" });
        out.extend_from_slice(super_options(&mount).as_bytes());
        out.extend_from_slice(mount_options(mount.flags()).as_bytes());
        out.extend_from_slice(fs_options(&mount).as_bytes());
        out.extend_from_slice(b" 0 0\n");
    }
    out
}

/// `/proc/PID/mountstats`.
pub fn show_mountstats(ns: &MntNamespace, root: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for (mount, path) in reachable(ns, root) {
        out.extend_from_slice(b"device ");
        mangle(&mut out, &source(&mount), SOURCE_SPECIAL);
        out.extend_from_slice(b" mounted on ");
        mangle(&mut out, &path, PATH_SPECIAL);
        out.extend_from_slice(b" with fstype ");
        mangle(&mut out, mount.sb().ops().full_type().as_bytes(), SOURCE_SPECIAL);
        out.push(b'\n');
    }
    out
}

/// An open `mountinfo` or `mounts`: `struct proc_mounts`. It keeps the namespace, and the root directory that paths are shown
/// from, of the task it was opened through.
pub struct ProcMounts {
    ns: Arc<MntNamespace>,
    root: Path,
    show: fn(&MntNamespace, &Path) -> Vec<u8>,
}

impl ProcMounts {
    /// The mounts of `ns` below `root`, in the format of `show`.
    pub fn new(ns: Arc<MntNamespace>, root: Path, show: fn(&MntNamespace, &Path) -> Vec<u8>) -> ProcMounts {
        ProcMounts { ns, root, show }
    }

    /// What reading gives now.
    pub fn text(&self) -> Vec<u8> {
        (self.show)(&self.ns, &self.root)
    }

    /// Number of the namespace ([`MntNamespace::id`]), whose changes who polls the file is told of.
    pub fn ns_id(&self) -> u64 {
        self.ns.id()
    }

    /// Whether both always read the same.
    pub fn shows_the_same(&self, other: &ProcMounts) -> bool {
        self.ns_id() == other.ns_id()
            && self.root == other.root
            && std::ptr::fn_addr_eq(self.show, other.show)
    }
}
