//! Tests of mount trees and their copies.

mod detached;
mod nsfs;
mod random;
mod shared;

use super::*;
use crate::vfs::namei::{mkdir, path_lookup, rmdir, stat};
use crate::vfs::testfs::{TestFs, namespace};
use crate::vfs::{FsStruct, LookupFlags, Path, WalkCred, d_path};

const ROOT: WalkCred<'static> = WalkCred::root();

struct World {
    ns: Arc<MntNamespace>,
    at: FsStruct,
}

impl World {
    /// Directories `/a/b`, `/c`, `/d`.
    fn new() -> World {
        let (ns, at) = namespace(&TestFs::new(true));
        let world = World { ns, at };
        for dir in ["/a", "/a/b", "/c", "/d"] {
            world.mkdir(dir);
        }
        world
    }

    fn mkdir(&self, name: &str) {
        mkdir(&self.at.walk(&ROOT), name.as_bytes(), 0o755).unwrap();
    }

    fn path(&self, name: &str) -> Path {
        path_lookup(&self.at.walk(&ROOT), name.as_bytes(), LookupFlags::FOLLOW).unwrap()
    }

    fn exists(&self, name: &str) -> bool {
        stat(&self.at.walk(&ROOT), name.as_bytes(), LookupFlags::FOLLOW).is_ok()
    }

    fn mount(&self, at: &str) -> Arc<Mount> {
        let sb = ActiveSuper::new(TestFs::new(true), SuperFlags::empty());
        do_mount(&self.ns, sb, &self.path(at), MountFlags::RELATIME).unwrap()
    }

    fn bind(&self, from: &str, at: &str, recurse: bool) -> Result<Arc<Mount>> {
        bind_mount(&self.ns, &self.path(from), &self.path(at), recurse)
    }

    fn umount(&self, name: &str, flags: UmountFlags) -> Result<()> {
        let lookup = LookupFlags::FOLLOW | LookupFlags::MOUNTPOINT;
        let path = path_lookup(&self.at.walk(&ROOT), name.as_bytes(), lookup).unwrap();
        umount(&self.ns, path, flags, &self.at.root)
    }

    fn unshare(&self, user_ns_differs: bool) -> World {
        let mut at = self.at.clone();
        let owner = match user_ns_differs {
            true => crate::user_namespace::UserNamespace::initial(),
            false => self.ns.user_ns().unwrap().clone(),
        };
        World { ns: copy_mnt_ns(&owner, &self.ns, &mut at).unwrap(), at }
    }

    fn info(&self) -> String {
        String::from_utf8(show_mountinfo(&self.ns, &self.at.root)).unwrap()
    }

    fn make(&self, name: &str, kind: MountPropagation) {
        change_propagation(&self.ns, &|_| true, &self.path(name), kind, false).unwrap();
    }

    fn rmake(&self, name: &str, kind: MountPropagation) {
        change_propagation(&self.ns, &|_| true, &self.path(name), kind, true).unwrap();
    }

    /// What mountinfo says about propagation of the topmost mount at `name`, such as `shared:1 master:2`.
    fn tags(&self, name: &str) -> String {
        let id = self.path(name).mnt.id().to_string();
        let info = self.info();
        let line = info.lines().find(|line| line.split(' ').next() == Some(&id)).unwrap_or_default();
        let words = line.split(' ').skip(6).take_while(|word| *word != "-");
        words.collect::<Vec<_>>().join(" ")
    }

    /// Panics where the propagation links of this world contradict one another.
    fn check(&self) {
        self.ns.table().namespace_lock().pnodes.check();
    }

    /// Mount points that mountinfo shows.
    fn places(&self) -> Vec<String> {
        self.info().lines().map(|line| line.split(' ').nth(4).unwrap().to_string()).collect()
    }
}

#[track_caller]
fn refused<T>(result: Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error,
    }
}

#[test]
fn mountinfo_has_the_format_of_the_manual() {
    let world = World::new();
    world.mkdir("/d/with space");
    let mount = world.mount("/d/with space");
    remount_flags(
        &world.ns,
        &world.path("/d/with space"),
        MountFlags::READONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
    )
    .unwrap();
    mount.sb().change_flags(SuperFlags::RDONLY, SuperFlags::RDONLY).unwrap();
    let bound = world.bind("/a/b", "/c", false).unwrap();
    change_propagation(&world.ns, &|_| true, &world.path("/c"), MountPropagation::Unbindable, false).unwrap();
    let dev = |mount: &Mount| {
        let (major, minor) = proc_mounts::major_minor(mount.sb().ops().dev());
        format!("{major}:{minor}")
    };
    let root = world.ns.root().unwrap();
    let expected = format!(
        "{r} {p} {rd} / / rw - testfs test\\040source rw,size=1k\n\
         {m} {r} {md} / /d/with\\040space ro,nosuid,nodev,noexec - testfs test\\040source ro,size=1k\n\
         {b} {r} {rd} /a/b /c rw unbindable - testfs test\\040source rw,size=1k\n",
        r = root.id(),
        p = root.parent().unwrap().id(),
        m = mount.id(),
        b = bound.id(),
        rd = dev(&root),
        md = dev(&mount),
    );
    assert_eq!(world.info(), expected);
    let mounts = String::from_utf8(show_mounts(&world.ns, &world.at.root)).unwrap();
    assert_eq!(
        mounts.lines().nth(1),
        Some("test\\040source /d/with\\040space testfs ro,nosuid,nodev,noexec,size=1k 0 0")
    );
    let stats = String::from_utf8(show_mountstats(&world.ns, &world.at.root)).unwrap();
    assert_eq!(stats.lines().next(), Some("device test\\040source mounted on / with fstype testfs"));
}

#[test]
fn mountinfo_is_relative_to_the_root_directory_and_shows_deleted_roots() {
    let mut world = World::new();
    world.mount("/a/b");
    world.mount("/d");
    world.bind("/a", "/c", true).unwrap();
    world.at.root = world.path("/a");
    assert_eq!(world.places(), ["/b"]);
    let world = World::new();
    world.bind("/a/b", "/c", false).unwrap();
    rmdir(&world.at.walk(&ROOT), b"/a/b").unwrap();
    assert!(world.info().contains(" /a/b//deleted /c "));
}

#[test]
fn device_numbers_are_split_as_the_kernel_splits_them() {
    assert_eq!(proc_mounts::major_minor(0x1234_5678_9abc_def0), (0x1234_5cde, 0x6789_abf0));
    assert_eq!(proc_mounts::major_minor(0xfd01), (0xfd, 1));
}

#[test]
fn a_new_namespace_is_a_copy_that_root_and_pwd_move_into() {
    let mut world = World::new();
    world.mount("/a");
    world.mkdir("/a/in");
    let below = world.mount("/a/in");
    change_propagation(&world.ns, &|_| true, &world.path("/a"), MountPropagation::Unbindable, false).unwrap();
    world.at.pwd = world.path("/a/in");
    let child = world.unshare(false);
    assert_ne!(child.ns.ino(), world.ns.ino());
    assert_eq!(child.places(), world.places());
    assert_eq!(child.ns.nr_mounts(), 4, "unbindable mounts are copied too");
    assert!(!Arc::ptr_eq(&child.at.root.mnt, &world.at.root.mnt));
    assert!(Arc::ptr_eq(&child.at.root.mnt, &child.ns.root().unwrap()));
    assert!(!Arc::ptr_eq(&child.at.pwd.mnt, &below));
    assert!(child.at.pwd.mnt.is_in(&child.ns));
    assert_eq!(d_path::getcwd(&child.at.pwd, &child.at.root).as_deref(), Ok(&b"/a/in"[..]));
    for mount in child.ns.mounts() {
        assert!(mount.is_in(&child.ns));
        assert!(world.ns.mounts().iter().all(|other| other.id() != mount.id()));
    }
    child.mount("/c");
    assert_eq!((child.ns.nr_mounts(), world.ns.nr_mounts()), (5, 4));
    world.mount("/d");
    assert_eq!(child.places(), ["/", "/a", "/a/in", "/c"]);
    assert_eq!(refused(bind_mount(&child.ns, &world.path("/d"), &child.path("/c"), false)), Errno::EINVAL);
}

#[test]
fn lock_step_matches_stacked_and_bound_mounts() {
    let mut world = World::new();
    world.bind("/a", "/c", false).unwrap();
    world.bind("/a", "/d", false).unwrap();
    world.bind("/c", "/d", false).unwrap();
    world.at.pwd = world.path("/d");
    let child = world.unshare(false);
    let place = |world: &World| d_path::getcwd(&world.at.pwd, &world.at.root).unwrap();
    assert_eq!(place(&child), b"/d");
    assert!(Arc::ptr_eq(&child.at.pwd.mnt, &child.path("/d").mnt));
    assert!(!Arc::ptr_eq(&child.at.pwd.mnt, &world.at.pwd.mnt));
}

#[test]
fn a_less_privileged_namespace_cannot_take_the_copy_apart() {
    let world = World::new();
    world.mount("/a");
    remount_flags(&world.ns, &world.path("/a"), MountFlags::READONLY | MountFlags::NOSUID).unwrap();
    let child = world.unshare(true);
    assert_eq!(child.umount("/a", UmountFlags::empty()), Err(Errno::EINVAL));
    assert_eq!(child.umount("/a", UmountFlags::DETACH), Err(Errno::EINVAL));
    assert_eq!(move_mount(&child.ns, &child.path("/a"), &child.path("/c")), Err(Errno::EINVAL));
    assert_eq!(refused(child.bind("/", "/c", false)), Errno::EINVAL, "it would uncover /a");
    assert!(child.bind("/", "/c", true).is_ok());
    let a = child.path("/a");
    assert_eq!(remount_flags(&child.ns, &a, MountFlags::NOSUID), Err(Errno::EPERM));
    assert_eq!(remount_flags(&child.ns, &a, MountFlags::READONLY), Err(Errno::EPERM));
    let both = MountFlags::READONLY | MountFlags::NOSUID;
    assert_eq!(remount_flags(&child.ns, &a, both | MountFlags::NOATIME), Err(Errno::EPERM));
    assert_eq!(remount_flags(&child.ns, &a, both | MountFlags::NODEV), Ok(()));
    assert_eq!(child.umount("/c/a", UmountFlags::empty()), Err(Errno::EINVAL));
    assert_eq!(world.umount("/a", UmountFlags::empty()), Ok(()), "the parent may");
}

#[test]
fn mounting_is_refused_as_linux_does() {
    let world = World::new();
    crate::vfs::namei::mknod(&world.at.walk(&ROOT), b"/f", 0o644, 0).unwrap();
    let sb = ActiveSuper::new(TestFs::new(true), SuperFlags::empty());
    let mount = |at: &Path| do_mount(&world.ns, sb.clone(), at, MountFlags::empty());
    assert_eq!(refused(mount(&world.path("/f"))), Errno::ENOTDIR);
    mount(&world.path("/c")).unwrap();
    assert_eq!(refused(mount(&world.path("/c"))), Errno::EBUSY);
    mount(&world.path("/d")).unwrap();
    let gone = world.path("/a/b");
    rmdir(&world.at.walk(&ROOT), b"/a/b").unwrap();
    assert_eq!(refused(mount(&gone)), Errno::ENOENT);
    assert_eq!(refused(world.bind("/f", "/a", false)), Errno::ENOTDIR);
    let other = world.unshare(false);
    assert_eq!(refused(mount(&other.path("/a"))), Errno::EINVAL);
    assert_eq!(
        change_propagation(&world.ns, &|_| true, &world.at.root, MountPropagation::Private, true),
        Ok(())
    );
    assert_eq!(
        change_propagation(&world.ns, &|_| true, &world.path("/a"), MountPropagation::Private, true),
        Err(Errno::EINVAL)
    );
}

#[test]
fn binds_copy_what_is_below_unless_it_is_unbindable() {
    let world = World::new();
    world.mount("/a");
    for dir in ["/a/x", "/a/y", "/a/y/z"] {
        world.mkdir(dir);
    }
    world.mount("/a/x");
    world.mount("/a/y/z");
    world.mkdir("/a/x/deep");
    change_propagation(&world.ns, &|_| true, &world.path("/a/y/z"), MountPropagation::Unbindable, false)
        .unwrap();
    world.bind("/a", "/c", true).unwrap();
    assert_eq!(world.places(), ["/", "/a", "/a/x", "/a/y/z", "/c", "/c/x"]);
    assert!(world.exists("/c/x/deep"));
    world.bind("/a/y", "/d", true).unwrap();
    assert!(world.exists("/d/z") && world.ns.nr_mounts() == 8);
    assert_eq!(refused(world.bind("/a/y/z", "/d", false)), Errno::EINVAL);
}

#[test]
fn busy_mounts_stay_unless_they_are_detached() {
    let mut world = World::new();
    world.mount("/a");
    world.mkdir("/a/in");
    world.mount("/a/in");
    assert_eq!(world.umount("/a", UmountFlags::empty()), Err(Errno::EBUSY), "something is mounted on it");
    let held = world.path("/a/in");
    assert_eq!(world.umount("/a/in", UmountFlags::empty()), Err(Errno::EBUSY), "somebody holds it");
    assert_eq!(world.umount("/a/in", UmountFlags::EXPIRE | UmountFlags::DETACH), Err(Errno::EINVAL));
    assert_eq!(world.umount("/c", UmountFlags::empty()), Err(Errno::EINVAL));
    assert_eq!(world.umount("/", UmountFlags::empty()), Err(Errno::EBUSY));
    drop(held);
    assert_eq!(world.umount("/a/in", UmountFlags::EXPIRE), Err(Errno::EAGAIN));
    assert_eq!(world.umount("/a/in", UmountFlags::EXPIRE), Ok(()));
    world.mount("/a/in");
    world.mkdir("/a/in/cwd");
    world.at.pwd = world.path("/a/in/cwd");
    assert_eq!(world.umount("/a", UmountFlags::DETACH), Ok(()));
    assert_eq!(world.places(), ["/"]);
    assert_eq!(d_path::getcwd(&world.at.pwd, &world.at.root).as_deref(), Ok(&b"(unreachable)/cwd"[..]));
    assert!(world.exists("../cwd"), "who stands there still walks there");
    assert!(!world.path("/a").dentry.is_mountpoint());
}

#[test]
fn a_moved_mount_takes_along_what_is_on_it() {
    let world = World::new();
    world.mount("/a");
    world.mkdir("/a/in");
    world.mount("/a/in");
    assert_eq!(move_mount(&world.ns, &world.path("/a"), &world.path("/a/in")), Err(Errno::ELOOP));
    assert_eq!(move_mount(&world.ns, &world.path("/c"), &world.path("/d")), Err(Errno::EINVAL));
    assert_eq!(move_mount(&world.ns, &world.path("/a"), &world.path("/c")), Ok(()));
    assert_eq!(world.places(), ["/", "/c", "/c/in"]);
    assert!(world.exists("/a/b"));
}

#[test]
fn pivot_root_swaps_the_tree_and_can_put_the_old_root_on_top_of_the_new() {
    let mut world = World::new();
    world.mount("/c");
    world.mkdir("/c/old");
    let pivot = |world: &World, new: &str, old: &str| {
        pivot_root(&world.ns, &world.path(new), &world.path(old), &world.at.root)
    };
    assert_eq!(refused(pivot(&world, "/d", "/c/old")), Errno::EBUSY);
    assert_eq!(refused(pivot(&world, "/c", "/d")), Errno::EBUSY);
    assert_eq!(refused(pivot(&world, "/c/old", "/c/old")), Errno::EINVAL);
    let (old, new) = pivot(&world, "/c", "/c/old").unwrap();
    world.at.replace_root(&old, &new);
    assert_eq!(world.places(), ["/old", "/"]);
    assert!(world.exists("/old/a/b"));

    let mut world = World::new();
    world.mount("/c");
    world.mkdir("/c/marker");
    let (old, new) = pivot(&world, "/c", "/c").unwrap();
    world.at.replace_root(&old, &new);
    world.at.pwd = old.clone();
    drop((old, new));
    let here = world.at.pwd.clone();
    assert_eq!(umount(&world.ns, here, UmountFlags::DETACH, &world.at.root), Ok(()));
    assert_eq!(world.places(), ["/"]);
    assert!(world.exists("/marker"));
}

#[test]
fn the_end_of_a_namespace_takes_its_mounts_out_of_the_way() {
    let world = World::new();
    let child = world.unshare(false);
    child.mount("/a");
    child.mkdir("/a/x");
    let held = child.path("/a/x");
    assert!(world.path("/a").dentry.is_mountpoint());
    let weak: Vec<_> = child.ns.mounts().iter().map(Arc::downgrade).collect();
    drop(child);
    assert!(!world.path("/a").dentry.is_mountpoint());
    assert_eq!(d_path::d_path(&held, &world.at.root), b"/x");
    assert!(!held.mnt.in_namespace());
    assert_eq!(weak.iter().filter(|weak| weak.strong_count() > 0).count(), 1, "only the held one is left");
}

#[test]
fn walks_renames_and_mounts_at_once_neither_deadlock_nor_lose_names() {
    let world = World::new();
    for n in 0..4 {
        world.mkdir(&format!("/a/n{n}"));
        world.mkdir(&format!("/c/n{n}"));
    }
    std::thread::scope(|scope| {
        for n in 0..4 {
            let world = &world;
            scope.spawn(move || {
                let ctx = world.at.walk(&ROOT);
                let (there, here) = (format!("/a/n{n}/x"), format!("/c/n{n}/x"));
                for round in 0..500 {
                    let none = crate::vfs::namei::RenameFlags::empty();
                    let _ = mkdir(&ctx, there.as_bytes(), 0o755);
                    let _ = crate::vfs::namei::rename(&ctx, there.as_bytes(), &ctx, here.as_bytes(), none);
                    let (up, down) = (format!("/a/n{n}"), format!("/c/n{}/x", (n + 1) % 4));
                    // Into another thread's directory, which may be gone or in the way.
                    let _ = crate::vfs::namei::rename(&ctx, up.as_bytes(), &ctx, down.as_bytes(), none);
                    let _ = crate::vfs::namei::rename(&ctx, down.as_bytes(), &ctx, up.as_bytes(), none);
                    let _ = rmdir(&ctx, here.as_bytes());
                    if !world.exists(&up) {
                        let _ = mkdir(&ctx, up.as_bytes(), 0o755);
                    }
                    let _ = rmdir(&ctx, there.as_bytes());
                    if round % 10 == 0 {
                        let mut child = world.unshare(round % 20 == 0);
                        child.mount("/d");
                        child.at.pwd = child.path("/d");
                        let _ = child.umount("/d", UmountFlags::DETACH);
                        // `EINVAL` where another thread has just unmounted the place found.
                        let sb = ActiveSuper::new(TestFs::new(true), SuperFlags::empty());
                        let _ = do_mount(&world.ns, sb, &world.path("/d"), MountFlags::empty());
                        let _ = world.umount("/d", UmountFlags::DETACH);
                        assert!(!child.info().is_empty());
                    }
                }
            });
        }
    });
    while world.umount("/d", UmountFlags::DETACH).is_ok() {}
    assert!(!world.path("/d").dentry.is_mountpoint());
    assert_eq!(world.ns.nr_mounts(), 2);
    let seen = || -> Vec<bool> {
        let names =
            ["/a/n0", "/a/n1", "/a/n2", "/a/n3", "/c/n0/x", "/c/n1/x", "/c/n2/x", "/c/n3/x", "/a/n0/x"];
        names.iter().map(|name| world.exists(name)).collect()
    };
    let cached = seen();
    world.at.root.mnt.sb().shrink_dcache();
    assert_eq!(seen(), cached, "the cache knows what the file system knows");
}

#[test]
fn mounts_on_an_expiry_list_go_when_nobody_has_used_them_between_two_looks() {
    let world = World::new();
    let list = Arc::new(ExpiryList::default());
    let table = world.ns.table().clone();
    world.make("/", MountPropagation::Shared);
    mnt_set_expiry(&world.mount("/a"), &list);
    let child = world.unshare(true);
    assert_eq!(child.umount("/a", UmountFlags::empty()), Ok(()), "what expires is not locked");
    let child = world.unshare(false);
    let held = child.path("/a");
    mark_mounts_for_expiry(&table, &list);
    mark_mounts_for_expiry(&table, &list);
    assert_eq!((world.places().len(), child.places().len()), (2, 2), "one of them is in use");
    drop(held);
    mark_mounts_for_expiry(&table, &list);
    assert_eq!((world.places().len(), child.places().len()), (1, 1));
    // Who moves a mount keeps it.
    mnt_set_expiry(&world.mount("/a"), &list);
    world.make("/", MountPropagation::Private);
    move_mount(&world.ns, &world.path("/a"), &world.path("/c")).unwrap();
    mark_mounts_for_expiry(&table, &list);
    mark_mounts_for_expiry(&table, &list);
    assert_eq!(world.places(), ["/", "/c"]);
}

#[test]
fn a_removed_mount_point_takes_its_tree_along_in_one_piece() {
    let world = World::new();
    let child = world.unshare(false);
    child.mount("/a/b");
    child.mkdir("/a/b/in");
    child.mount("/a/b/in");
    child.mkdir("/a/b/in/deep");
    let held = child.path("/a/b");
    rmdir(&world.at.walk(&ROOT), b"/a/b").unwrap();
    assert_eq!(child.places(), ["/"]);
    let inside = FsStruct::new(held);
    assert!(path_lookup(&inside.walk(&ROOT), b"in/deep", LookupFlags::empty()).is_ok());
}

#[test]
fn a_removed_directory_that_is_still_mounted_cannot_be_mounted_again() {
    let world = World::new();
    world.bind("/a/b", "/c", false).unwrap();
    rmdir(&world.at.walk(&ROOT), b"/a/b").unwrap();
    assert_eq!(refused(world.bind("/c", "/d", false)), Errno::ENOENT);
    assert_eq!(move_mount(&world.ns, &world.path("/c"), &world.path("/d")), Err(Errno::ENOENT));
    assert_eq!(world.places(), ["/", "/c"]);
}

#[test]
fn a_private_clone_is_no_way_around_unbindable_and_locked_mounts() {
    let world = World::new();
    world.mount("/a");
    let clone = clone_private_mount(&world.path("/")).unwrap();
    assert!(!clone.is_mounted() && clone.children().is_empty());
    let child = world.unshare(true);
    assert_eq!(refused(clone_private_mount(&child.path("/"))), Errno::EINVAL, "it would uncover /a");
    assert!(clone_private_mount(&child.path("/c")).is_ok());
    world.make("/a", MountPropagation::Unbindable);
    assert_eq!(refused(clone_private_mount(&world.path("/a"))), Errno::EINVAL);
}

#[test]
fn a_deep_stack_of_mounts_is_dropped_without_a_deep_stack_of_calls() {
    let world = World::new();
    let sb = ActiveSuper::new(TestFs::new(true), SuperFlags::empty());
    // As deep as the limit of mounts allows, without a namespace.
    let top = Mount::new(world.ns.table(), sb.clone(), sb.root().clone(), MountFlags::empty());
    let mut at = top.clone();
    for _ in 0..MntNamespace::MOUNT_MAX {
        let next = Mount::new(world.ns.table(), sb.clone(), sb.root().clone(), MountFlags::empty());
        next.attach(&at, at.root());
        at = next;
    }
    drop(at);
    drop(top);
}

#[test]
fn watchers_are_told_which_trees_have_changed_after_the_change() {
    let world = World::new();
    world.make("/", MountPropagation::Shared);
    let child = world.unshare(false);
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let hook = seen.clone();
    let table = Arc::downgrade(world.ns.table());
    world.ns.table().set_on_change(move |ns| {
        // No lock is held: this would wait for ever.
        assert!(table.upgrade().unwrap().namespace_sem.lock().groups_in_use().len() < 10);
        hook.lock().unwrap().push(ns);
    });
    world.mount("/a");
    assert_eq!(*seen.lock().unwrap(), [world.ns.id(), child.ns.id()]);
    seen.lock().unwrap().clear();
    child.make("/a", MountPropagation::Private);
    assert_eq!(*seen.lock().unwrap(), [child.ns.id()]);
}

#[test]
fn who_walks_out_of_a_mount_that_moves_always_finds_a_way_up() {
    let world = World::new();
    world.mount("/a");
    world.mkdir("/a/in");
    for at in ["/c", "/d"] {
        world.mkdir(&format!("{at}/here"));
    }
    move_mount(&world.ns, &world.path("/a"), &world.path("/c/here")).unwrap();
    let inside = FsStruct { pwd: world.path("/c/here/in"), ..FsStruct::new(world.at.root.clone()) };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let up = path_lookup(&inside.walk(&ROOT), b"../../here", LookupFlags::empty());
                assert!(up.is_ok(), "above the mount is a directory that has its mount point");
            }
        });
        for round in 0..2000 {
            let places = ["/c/here", "/d/here"];
            let (from, to) = (places[round % 2], places[(round + 1) % 2]);
            move_mount(&world.ns, &world.path(from), &world.path(to)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
