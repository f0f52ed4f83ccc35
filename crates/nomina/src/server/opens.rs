//! Which mounts guests' native handles hold.
//!
//! In Linux an open file holds the mount it was opened by, which makes that busy for `umount2(2)`. Here the open file is
//! the host's and knows nothing of our mounts; guests copy, pass on and close it natively. So who wants to know looks
//! at the descriptors and maps of all guests: that happens only when something is unmounted. A file opened by another mount
//! than the first of its file system is noted, by device and inode number; what is not noted was opened by the first. So is every
//! file opened by an overlay that guests have mounted, whose handles are those of its layers.
//!
//! Where ours differs: descriptors that are on their way in a socket are not seen; device nodes, terminals and proc's
//! files of the whole machine hold no mount; a file that has been opened by several mounts holds all of them.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use nomina_fs::overlayfs::OvlSuper;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::Mount;
use nomina_kernel::vfs::{ActiveSuper, Path};

use super::Server;
use super::instances::first_mount;
use super::lock::Mutex;

/// Device and inode number of a host file.
type Key = (u64, u64);

#[derive(Default)]
struct Table {
    mounts: HashMap<Key, Vec<Weak<Mount>>>,
    /// How many files may be noted before those that nobody holds are sought.
    limit: usize,
}

/// The notes.
#[derive(Default)]
pub struct Opens {
    table: Mutex<Table>,
    /// Somebody looks at what guests hold.
    looking: AtomicBool,
}

/// The right to look at what all guests hold. There is one, since looking takes long where guests hold much: no more than one
/// worker does so at a time, however many guests ask for it.
pub struct Look<'a>(&'a AtomicBool);

impl Drop for Look<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Notes below which nothing is sought.
const FEW: usize = 4096;

impl Opens {
    fn insert(&self, key: Key, mount: &Arc<Mount>) -> bool {
        let mut table = self.table.lock().unwrap();
        let mounts = table.mounts.entry(key).or_default();
        mounts.retain(|known| known.strong_count() > 0);
        if !mounts.iter().any(|known| known.as_ptr() == Arc::as_ptr(mount)) {
            mounts.push(Arc::downgrade(mount));
        }
        table.mounts.len() > table.limit.max(FEW)
    }

    /// `None`: somebody else is looking.
    pub fn look(&self) -> Option<Look<'_>> {
        (!self.looking.swap(true, Ordering::Acquire)).then_some(Look(&self.looking))
    }

    fn mounts_of(&self, key: Key) -> Vec<Arc<Mount>> {
        let table = self.table.lock().unwrap();
        table.mounts.get(&key).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }
}

impl Server {
    /// Notes that `mount` was the way to an open file.
    pub fn note_open(&self, fd: &OwnedFd, mount: &Arc<Mount>) {
        if mount.sb().is_first_mount(mount) && overlay_of(mount.sb()).is_none() {
            return;
        }
        let Ok(stat) = rustix::fs::fstat(fd) else { return };
        if self.opens.insert((stat.st_dev, stat.st_ino), mount) {
            self.prune_opens();
        }
    }

    /// The mount by which a host file of this instance was opened, as far as that is known.
    pub fn mount_of_open(&self, sb: &ActiveSuper, key: Key) -> Option<Arc<Mount>> {
        let noted = self.opens.mounts_of(key);
        noted.into_iter().find(|mount| std::ptr::eq(&**mount.sb(), sb)).or_else(|| first_mount(sb))
    }

    /// The file systems that show an open host file, and its path there: the overlay by which it was opened, then the one it
    /// is of.
    pub fn instances_of_open(&self, fd: &OwnedFd) -> Vec<(Arc<ActiveSuper>, Vec<u8>)> {
        let name = super::places::host_link(fd).ok().filter(|name| name.first() == Some(&b'/'));
        let (Some(name), Ok(stat)) = (name, rustix::fs::fstat(fd)) else { return Vec::new() };
        self.instances_of(&name, (stat.st_dev, stat.st_ino))
    }

    /// The same for an open or mapped host file by its name and key.
    fn instances_of(&self, name: &[u8], key: Key) -> Vec<(Arc<ActiveSuper>, Vec<u8>)> {
        let noted = self.opens.mounts_of(key);
        let overlays = noted.iter().filter_map(|mount| {
            Some((mount.sb().clone(), overlay_of(mount.sb())?.path_of_layer_file(name)?))
        });
        let all = self.instances.all();
        let own = all.iter().find_map(|sb| Some((sb.clone(), sb.ops().path_of_host(name)?)));
        overlays.chain(own).collect()
    }

    /// A mapped host file by its name and key: the path below `root`, and the device and inode number that `stat(2)` shows of it.
    pub fn mapped_file(&self, host: &[u8], key: Key, root: &Path) -> Option<(Vec<u8>, Key)> {
        let shown = self.instances_of(host, key);
        // On an overlay the inode keeps its number; the device is the overlay's.
        let overlay =
            shown.first().filter(|(sb, _)| overlay_of(sb).is_some()).map(|(sb, _)| (sb.ops().dev(), key.1));
        let copied = || self.instances.find_overlay(|_, overlay| overlay.shown(key));
        let path = self.path_of_shown(shown, key, root)?;
        Some((path, overlay.or_else(copied).unwrap_or(key)))
    }

    /// The file system that a host file was opened by, and the mount.
    pub fn instance_of_open(&self, fd: &OwnedFd) -> Option<(Arc<ActiveSuper>, Option<Arc<Mount>>)> {
        let (sb, _) = self.instances_of_open(fd).into_iter().next()?;
        let stat = rustix::fs::fstat(fd).ok()?;
        let mount = self.mount_of_open(&sb, (stat.st_dev, stat.st_ino));
        Some((sb, mount))
    }

    /// Forgets files that nobody holds.
    fn prune_opens(&self) {
        let mut held = HashSet::new();
        self.each_held(|key, _, _| {
            held.insert(key);
        });
        let mut table = self.opens.table.lock().unwrap();
        table.mounts.retain(|key, mounts| held.contains(key) && mounts.iter().any(|m| m.strong_count() > 0));
        table.limit = table.mounts.len() * 2;
    }

    /// The mounts of a file system that native handles and maps of guests hold.
    pub fn mounts_held(&self, look: &Look<'_>, sb: &Arc<ActiveSuper>) -> Vec<Arc<Mount>> {
        self.find_held(look, false, |of| Arc::ptr_eq(of, sb))
    }

    /// Whether a mount, with `recurse` one below it, may become read-only: `mnt_hold_writers`.
    ///
    /// # Errors
    /// `EBUSY`: a guest has a file open for writing by it.
    pub fn hold_writers(&self, look: &Look<'_>, mount: &Arc<Mount>, recurse: bool) -> Result<()> {
        let mut mounts = if recurse { mount.preorder() } else { vec![mount.clone()] };
        mounts.retain(|mount| !mount.is_readonly());
        // One look for all of them.
        let mounts: HashSet<*const Mount> = mounts.iter().map(Arc::as_ptr).collect();
        let written = self.find_held(look, true, |_| true);
        if written.iter().any(|held| mounts.contains(&Arc::as_ptr(held))) {
            Err(Errno::EBUSY)
        } else {
            Ok(())
        }
    }

    /// Whether a file system may become read-only: `sb_prepare_remount_readonly`.
    ///
    /// # Errors
    /// `EBUSY`: a guest has a file of it open for writing.
    pub fn hold_all_writers(&self, look: &Look<'_>, sb: &Arc<ActiveSuper>) -> Result<()> {
        let held = self.find_held(look, true, |of| Arc::ptr_eq(of, sb));
        if held.is_empty() { Ok(()) } else { Err(Errno::EBUSY) }
    }

    /// The mounts of those file systems for which `is_meant` that guests hold.
    fn find_held(
        &self,
        _look: &Look<'_>,
        only_writers: bool,
        is_meant: impl Fn(&Arc<ActiveSuper>) -> bool,
    ) -> Vec<Arc<Mount>> {
        let mut finder = Finder::new(self.instances.all());
        let mut held: HashMap<*const Mount, Arc<Mount>> = HashMap::new();
        let mut add = |mount: Arc<Mount>| {
            held.insert(Arc::as_ptr(&mount), mount);
        };
        self.each_held(|key, name, writes| {
            if only_writers && !writes {
                return;
            }
            let (overlays, noted): (Vec<_>, Vec<_>) =
                self.opens.mounts_of(key).into_iter().partition(|mount| overlay_of(mount.sb()).is_some());
            let by_overlay = !overlays.is_empty();
            overlays.into_iter().filter(|mount| is_meant(mount.sb())).for_each(&mut add);
            let Some(sb) = finder.find(name).filter(|of| is_meant(of)) else { return };
            let sb = &sb;
            let noted: Vec<_> = noted.into_iter().filter(|mount| Arc::ptr_eq(mount.sb(), sb)).collect();
            // An overlay uses its layers by mounts of its own.
            if noted.is_empty() && by_overlay {
                return;
            }
            if noted.is_empty() {
                first_mount(sb).into_iter().for_each(&mut add);
            } else {
                noted.into_iter().for_each(&mut add);
            }
        });
        held.into_values().collect()
    }

    /// Calls `with` for every file that a guest has open or mapped: its key, what the host calls it, and whether it is open for
    /// writing.
    fn each_held(&self, mut with: impl FnMut(Key, &[u8], bool)) {
        let mut seen = HashSet::new();
        for thread in self.guests.all() {
            let pid = thread.process.host_pid.load(Ordering::Acquire);
            if pid == 0 || !seen.insert(pid) {
                continue;
            }
            for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                let Ok(name) = std::fs::read_link(entry.path()) else { continue };
                let name = name.as_os_str().as_bytes();
                if name.first() == Some(&b'/')
                    && let Ok(stat) = std::fs::metadata(entry.path())
                {
                    // The link's mode is that of the descriptor.
                    let writes =
                        std::fs::symlink_metadata(entry.path()).is_ok_and(|link| link.mode() & 0o200 != 0);
                    with((stat.dev(), stat.ino()), name, writes);
                }
            }
            let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
            for (key, name) in maps.split(|&byte| byte == b'\n').filter_map(mapped_file) {
                with(key, name, false);
            }
        }
    }
}

/// The overlay that a guest has mounted, if it is one.
fn overlay_of(sb: &ActiveSuper) -> Option<&OvlSuper> {
    sb.ops().as_any().downcast_ref()
}

/// Finds the instances of many files: those of one directory are of one instance, except where the file itself is mounted.
struct Finder {
    directories: Vec<Arc<ActiveSuper>>,
    single_files: Vec<Arc<ActiveSuper>>,
    known: HashMap<Box<[u8]>, Option<Arc<ActiveSuper>>>,
}

impl Finder {
    fn new(instances: Vec<Arc<ActiveSuper>>) -> Finder {
        let (directories, single_files) = instances.into_iter().partition(|sb| sb.root().is_dir());
        Finder { directories, single_files, known: HashMap::new() }
    }

    fn find(&mut self, name: &[u8]) -> Option<Arc<ActiveSuper>> {
        if let Some(sb) = self.single_files.iter().find(|sb| sb.ops().has_host_path(name)) {
            return Some(sb.clone());
        }
        let end = name.iter().rposition(|&byte| byte == b'/')?;
        if let Some(known) = self.known.get(&name[..end]) {
            return known.clone();
        }
        let sb = self.directories.iter().find(|sb| sb.ops().has_host_path(name)).cloned();
        self.known.insert(name[..end].into(), sb.clone());
        sb
    }
}

/// Key and name of the file that a line of `maps` shows (`proc_pid_maps(5)`).
fn mapped_file(line: &[u8]) -> Option<(Key, &[u8])> {
    let name = &line[line.iter().position(|&byte| byte == b'/')?..];
    let text = std::str::from_utf8(&line[..line.len() - name.len()]).ok()?;
    let mut words = text.split_ascii_whitespace().skip(3);
    let (major, minor) = words.next()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let dev = rustix::fs::makedev(number(major)?, number(minor)?);
    Some(((dev, words.next()?.parse().ok()?), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_tells_device_inode_and_name() {
        let line = b"7f0000000000-7f0000001000 r-xp 00002000 fe:01 4711                       /usr/lib/a b.so (deleted)";
        let (key, name) = mapped_file(line).unwrap();
        assert_eq!((rustix::fs::major(key.0), rustix::fs::minor(key.0), key.1), (0xfe, 1, 4711));
        assert_eq!(name, b"/usr/lib/a b.so (deleted)");
        assert!(mapped_file(b"7ffc0000-7ffc1000 rw-p 00000000 00:00 0            [stack]").is_none());
        assert!(mapped_file(b"").is_none());
    }
}
