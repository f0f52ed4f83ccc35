//! Path walk: dots, links, mounts, `RESOLVE_*`, the cache.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::*;

const FOLLOW: LookupFlags = LookupFlags::FOLLOW;

#[test]
fn dots_slashes_and_links_arrive_where_they_should() {
    let world = World::populated();
    for (name, place) in [
        ("/", "/"),
        ("//a///b/", "/a/b"),
        ("/a/./b/../b/c/.", "/a/b/c"),
        ("/../../a", "/a"),
        ("l/b", "/a/b"),
        ("l", "/a"),
        ("l/", "/a"),
        ("f", "/f"),
    ] {
        assert_eq!(world.resolve(name, FOLLOW).as_deref(), Ok(place), "{name}");
    }
    assert_eq!(world.resolve("l", LookupFlags::default()).as_deref(), Ok("/l"));
    assert_eq!(world.resolve("l/", LookupFlags::default()).as_deref(), Ok("/a"));
    assert_eq!(world.resolve("l/.", LookupFlags::default()).as_deref(), Ok("/a"));
}

#[test]
fn wrong_paths_are_refused_as_linux_does() {
    let world = World::populated();
    for (name, error) in [
        ("", Errno::ENOENT),
        ("/x", Errno::ENOENT),
        ("/x/y", Errno::ENOENT),
        ("/f/", Errno::ENOTDIR),
        ("/f/x", Errno::ENOTDIR),
        ("/f/.", Errno::ENOTDIR),
        ("/f/..", Errno::ENOTDIR),
    ] {
        assert_eq!(refused(world.lookup(name, FOLLOW)), error, "{name}");
    }
    assert_eq!(refused(world.lookup(&"x".repeat(256), FOLLOW)), Errno::ENAMETOOLONG);
    assert_eq!(refused(world.lookup(&"x".repeat(255), FOLLOW)), Errno::ENOENT);
    assert_eq!(refused(world.lookup(&"./".repeat(2048), FOLLOW)), Errno::ENAMETOOLONG);
    assert!(world.lookup(&"./".repeat(2047), FOLLOW).is_ok());
    assert_eq!(refused(world.lookup("/f", FOLLOW | LookupFlags::DIRECTORY)), Errno::ENOTDIR);
}

#[test]
fn forty_links_are_followed_and_not_one_more() {
    let world = World::populated();
    world.symlink("f", "/n1").unwrap();
    for n in 2..=41 {
        world.symlink(&format!("n{}", n - 1), &format!("/n{n}")).unwrap();
    }
    assert_eq!(world.resolve("/n40", FOLLOW).as_deref(), Ok("/f"));
    assert_eq!(refused(world.lookup("/n41", FOLLOW)), Errno::ELOOP);
    world.symlink("loop", "/loop").unwrap();
    assert_eq!(refused(world.lookup("/loop", FOLLOW)), Errno::ELOOP);
    assert_eq!(refused(world.lookup("/loop/x", LookupFlags::default())), Errno::ELOOP);
}

#[test]
fn links_in_the_middle_go_on_with_the_rest_of_the_path() {
    let world = World::populated();
    world.symlink("../a/b/", "/a/up").unwrap();
    world.symlink("/a/up/c", "/abs").unwrap();
    world.symlink("/", "/slash").unwrap();
    assert_eq!(world.resolve("/a/up/c/../c", FOLLOW).as_deref(), Ok("/a/b/c"));
    assert_eq!(world.resolve("/abs/..", FOLLOW).as_deref(), Ok("/a/b"));
    assert_eq!(world.resolve("/slash/a", FOLLOW).as_deref(), Ok("/a"));
    assert_eq!(world.resolve("/slash", FOLLOW).as_deref(), Ok("/"));
    world.symlink("f/", "/flink").unwrap();
    assert_eq!(refused(world.lookup("/flink", FOLLOW)), Errno::ENOTDIR);
}

#[test]
fn a_link_of_a_cached_file_system_is_read_once() {
    let world = World::populated();
    world.lookup("/l/b", FOLLOW).unwrap();
    let before = world.fs.lookups.load(Ordering::Relaxed);
    world.lookup("/l/b", FOLLOW).unwrap();
    assert_eq!(world.fs.lookups.load(Ordering::Relaxed), before);
    namei::unlink(&world.ctx(&ROOT), b"/l").unwrap();
    world.symlink("u", "/l").unwrap();
    assert_eq!(world.resolve("/l", FOLLOW).as_deref(), Ok("/u"));
}

#[test]
fn magic_links_jump_and_resolve_flags_refuse_them() {
    let world = World::populated();
    let target = world.path("/a/b");
    world.fs.plant_magic("/magic", target);
    world.fs.plant_magic("/tofile", world.path("/f"));
    assert_eq!(world.resolve("/magic/c", FOLLOW).as_deref(), Ok("/a/b/c"));
    assert_eq!(world.resolve("/magic", FOLLOW).as_deref(), Ok("/a/b"));
    assert_eq!(world.resolve("/tofile", FOLLOW).as_deref(), Ok("/f"));
    assert_eq!(refused(world.lookup("/tofile/x", FOLLOW)), Errno::ENOTDIR);
    assert_eq!(refused(world.lookup("/tofile/", FOLLOW)), Errno::ENOTDIR);
    for (flags, error) in [
        (LookupFlags::NO_MAGICLINKS, Errno::ELOOP),
        (LookupFlags::NO_SYMLINKS, Errno::ELOOP),
        (LookupFlags::IN_ROOT, Errno::EXDEV),
    ] {
        assert_eq!(refused(world.lookup("/magic", FOLLOW | flags)), error, "{flags:?}");
    }
    assert_eq!(refused(world.lookup("magic", FOLLOW | LookupFlags::BENEATH)), Errno::EXDEV);
    assert!(world.lookup("/l", FOLLOW | LookupFlags::NO_MAGICLINKS).is_ok());
}

#[test]
fn beneath_and_in_root_confine_the_walk() {
    let mut world = World::populated();
    world.symlink("/f", "/a/abs").unwrap();
    world.symlink("../../f", "/a/rel").unwrap();
    world.creat("/a/f").unwrap();
    world.at.pwd = world.path("/a");
    let beneath = FOLLOW | LookupFlags::BENEATH;
    for name in ["/a", "..", "b/../..", "abs", "rel", "b/../../a"] {
        assert_eq!(refused(world.lookup(name, beneath)), Errno::EXDEV, "{name}");
    }
    assert_eq!(world.resolve("b/..", beneath).as_deref(), Ok("/a"));
    let in_root = FOLLOW | LookupFlags::IN_ROOT;
    for (name, place) in [("/", "/a"), ("..", "/a"), ("/../b", "/a/b"), ("abs", "/a/f"), ("rel", "/a/f")] {
        assert_eq!(world.resolve(name, in_root).as_deref(), Ok(place), "{name}");
    }
    assert_eq!(LookupFlags::from_resolve(0x18), Err(Errno::EINVAL));
    assert_eq!(LookupFlags::from_resolve(0x40), Err(Errno::EINVAL));
    assert_eq!(LookupFlags::from_resolve(1 << 32), Err(Errno::EINVAL));
    assert_eq!(LookupFlags::from_resolve(0x3), Ok(LookupFlags::NO_XDEV | LookupFlags::NO_MAGICLINKS));
}

#[test]
fn no_xdev_stops_at_mounts_in_both_directions_and_cached_needs_the_cache() {
    let world = World::populated();
    world.mount("/a", MountFlags::empty());
    let no_xdev = FOLLOW | LookupFlags::NO_XDEV;
    assert_eq!(refused(world.lookup("/a", no_xdev)), Errno::EXDEV);
    assert!(world.lookup("/u", no_xdev).is_ok());
    let mut inside = World { fs: world.fs.clone(), ns: world.ns.clone(), at: world.at.clone() };
    inside.at.pwd = world.path("/a");
    assert_eq!(refused(inside.lookup("..", no_xdev)), Errno::EXDEV);
    assert!(inside.lookup("/f", no_xdev).is_ok(), "an absolute path starts at the root, wherever that is");
    let cached = FOLLOW | LookupFlags::CACHED;
    assert!(world.lookup("/a", cached).is_ok());
    assert_eq!(refused(world.lookup("/f", cached)), Errno::EAGAIN);
}

#[test]
fn mounts_are_crossed_down_up_and_stacked() {
    let world = World::populated();
    let (_, lower) = world.mount("/a/b", MountFlags::empty());
    world.mkdir("/a/b/in", 0o755).unwrap();
    assert_eq!(world.resolve("/a/b/in/../..", FOLLOW).as_deref(), Ok("/a"));
    assert_eq!(refused(world.lookup("/a/b/c", FOLLOW)), Errno::ENOENT);
    let (_, upper) = world.mount("/a/b", MountFlags::empty());
    assert!(Arc::ptr_eq(&upper.parent_and_mountpoint().unwrap().0, &lower));
    assert_eq!(refused(world.lookup("/a/b/in", FOLLOW)), Errno::ENOENT);
    assert_eq!(world.resolve("/a/b/..", FOLLOW).as_deref(), Ok("/a"));
    assert_eq!(world.resolve("/a/b", FOLLOW).as_deref(), Ok("/a/b"));
}

#[test]
fn dotdot_stops_at_the_root_directory() {
    let mut world = World::populated();
    world.at.root = world.path("/a");
    world.at.pwd = world.path("/b/c");
    assert_eq!(world.resolve("../../../../..", FOLLOW).as_deref(), Ok("/"));
    assert_eq!(world.resolve("/b", FOLLOW).as_deref(), Ok("/b"));
    // A working directory outside of the root climbs to the top of the tree, as in Linux.
    let outside = World::populated();
    let mut at = outside.at.clone();
    at.root = outside.path("/a");
    at.pwd = outside.path("/u");
    let up = namei::path_lookup(&at.walk(&ROOT), b"../f", FOLLOW).unwrap();
    assert_eq!(outside.d_path(&up), "/f");
    assert_eq!(d_path::getcwd(&at.pwd, &at.root).as_deref(), Ok(&b"(unreachable)/u"[..]));
    assert_eq!(d_path::d_path(&at.pwd, &at.root), b"/u");
}

#[test]
fn a_walk_through_cached_directories_asks_the_file_system_once() {
    let world = World::populated();
    world.creat("/a/b/c/file").unwrap();
    world.stat("/a/b/c/file").unwrap();
    let counts = || (world.fs.lookups.load(Ordering::Relaxed), world.fs.getattrs.load(Ordering::Relaxed));
    let (lookups, getattrs) = counts();
    world.stat("/a/b/c/file").unwrap();
    assert_eq!(counts(), (lookups + 1, getattrs + 1));
    namei::stat(&world.ctx(&USER), b"/a/b/c/file", FOLLOW).unwrap();
    let (lookups, getattrs) = counts();
    namei::stat(&world.ctx(&USER), b"/a/b/c/file", FOLLOW).unwrap();
    assert_eq!(counts(), (lookups + 1, getattrs + 1));
    chmod(&world, "/a/b", 0o700);
    assert_eq!(refused(namei::stat(&world.ctx(&USER), b"/a/b/c/file", FOLLOW)), Errno::EACCES);
}

#[test]
fn names_that_change_behind_our_back_are_looked_up_again() {
    let world = World::of(TestFs::new(false));
    world.fs.plant("/d", S_IFDIR | 0o755);
    world.fs.plant("/d/m", S_IFDIR | 0o755);
    let held = world.path("/d");
    assert!(Arc::ptr_eq(&held.dentry, &world.path("/d").dentry));
    world.mount("/d/m", MountFlags::empty());
    drop(held);
    world.mkdir("/d/m/inside", 0o755).unwrap();
    assert!(world.stat("/d/m/inside").is_ok(), "the mount point keeps its dentries");
    let held = world.path("/d");
    world.fs.remove("d");
    assert_eq!(refused(world.stat("/d")), Errno::ENOENT);
    assert_eq!(d_path::getcwd(&held, &world.at.root), Err(Errno::ENOENT));
    world.fs.plant("/d", S_IFDIR | 0o755);
    assert!(!Arc::ptr_eq(&held.dentry, &world.path("/d").dentry));
}

#[test]
fn the_cache_is_bounded_and_evicts_without_losing_names() {
    let world = World::new();
    let sb = world.at.root.mnt.sb().clone();
    for n in 0..20_000 {
        world.fs.plant(&format!("/d{n}"), S_IFDIR | 0o755);
        world.path(&format!("/d{n}"));
    }
    assert_eq!(sb.lru.len(), dcache::DentryLru::DEFAULT_LIMIT);
    assert!(world.stat("/d0").is_ok());
    sb.shrink_dcache();
    assert_eq!(sb.lru.len(), 0);
    assert!(world.stat("/d1").is_ok());
}

#[test]
fn a_path_deeper_than_the_stack_is_dropped_without_recursion() {
    let mut world = World::new();
    for _ in 0..15_000 {
        world.mkdir("d", 0o755).unwrap();
        let below = world.path("d");
        world.at.pwd = below;
    }
    assert_eq!(d_path::getcwd(&world.at.pwd, &world.at.root), Err(Errno::ENAMETOOLONG));
    world.at.pwd.mnt.sb().clone().shrink_dcache();
    world.at.pwd = world.at.root.clone();
    // The test file system itself would recurse.
    std::mem::forget(world);
}

#[test]
fn names_follow_renames_and_tell_when_they_are_gone() {
    let world = World::populated();
    let c = world.path("/a/b/c");
    world.rename("/a", "/u/z", namei::RenameFlags::empty()).unwrap();
    assert_eq!(world.d_path(&c), "/u/z/b/c");
    namei::rmdir(&world.ctx(&ROOT), b"/u/z/b/c").unwrap();
    assert_eq!(world.d_path(&c), "/u/z/b/c (deleted)");
    assert_eq!(d_path::getcwd(&c, &world.at.root), Err(Errno::ENOENT));
    let mut at = world.at.clone();
    at.pwd = c;
    assert_eq!(refused(namei::mkdir(&at.walk(&ROOT), b"x", 0o755)), Errno::ENOENT);
    assert_eq!(refused(namei::path_lookup(&at.walk(&ROOT), b"x", FOLLOW)), Errno::ENOENT);
    assert_eq!(
        refused(namei::open(&at.walk(&ROOT), b"x", 0o101, 0o644, LookupFlags::default())),
        Errno::ENOENT
    );
    assert!(namei::path_lookup(&at.walk(&ROOT), b".", FOLLOW).is_ok());
    assert!(namei::path_lookup(&at.walk(&ROOT), b"..", FOLLOW).is_ok());
}

/// Not a benchmark, a tripwire: prints the cost and fails only when it is out of all proportion.
#[test]
fn a_cached_walk_of_four_components_is_cheap() {
    let world = World::populated();
    world.creat("/a/b/c/file").unwrap();
    let ctx = world.ctx(&ROOT);
    let rounds = 20_000;
    let start = Instant::now();
    for _ in 0..rounds {
        namei::stat(&ctx, b"/a/b/c/file", FOLLOW).unwrap();
    }
    let each = start.elapsed() / rounds;
    println!("stat of a 4-component path: {each:?}");
    assert!(each.as_micros() < 50);
}
