//! Shared subtrees: the tables of `Documentation/filesystems/sharedsubtree` and the examples of `mount_namespaces(7)`.

use super::*;
use MountPropagation::{Private, Shared, Slave, Unbindable};

/// Kinds of mounts in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Shared,
    Private,
    Slave,
    SharedSlave,
    Unbindable,
}

const KINDS: [Kind; 5] = [Kind::Shared, Kind::Private, Kind::Slave, Kind::SharedSlave, Kind::Unbindable];

impl Kind {
    /// Whether something receives from it, whether it receives.
    fn tags(self, shared: bool, slave: bool) -> bool {
        let expected = match self {
            Kind::Shared => (true, false),
            Kind::Private | Kind::Unbindable => (false, false),
            Kind::Slave => (false, true),
            Kind::SharedSlave => (true, true),
        };
        expected == (shared, slave)
    }
}

/// A mount at `at` of the given kind. A slave's master is at `/d`.
fn mount_of_kind(world: &World, at: &str, kind: Kind) {
    match kind {
        Kind::Slave | Kind::SharedSlave => {
            world.mount("/d");
            world.make("/d", Shared);
            world.bind("/d", at, false).unwrap();
            world.make(at, Slave);
        }
        _ => drop(world.mount(at)),
    }
    match kind {
        Kind::Shared | Kind::SharedSlave => world.make(at, Shared),
        Kind::Unbindable => world.make(at, Unbindable),
        _ => {}
    }
    let tags = world.tags(at);
    assert!(kind.tags(tags.contains("shared:"), tags.contains("master:")), "{kind:?} {tags}");
}

/// Source at `/a`, destination at `/c` with the directory `x`, a peer of the destination at `/e`.
fn source_and_destination(source: Kind, dest_is_shared: bool) -> World {
    let world = World::new();
    world.mkdir("/e");
    world.mount("/c");
    world.mkdir("/c/x");
    if dest_is_shared {
        world.make("/c", Shared);
    }
    world.bind("/c", "/e", false).unwrap();
    mount_of_kind(&world, "/a", source);
    world
}

#[test]
fn a_bind_has_the_kind_that_the_table_of_sharedsubtree_says() {
    for dest_is_shared in [true, false] {
        for source in KINDS {
            let world = source_and_destination(source, dest_is_shared);
            let group = world.tags("/a");
            let bound = world.bind("/a", "/c/x", false);
            if source == Kind::Unbindable {
                assert_eq!(refused(bound), Errno::EINVAL);
                continue;
            }
            bound.unwrap();
            let tags = world.tags("/c/x");
            let (shared, slave) = (tags.contains("shared:"), tags.contains("master:"));
            let expected = match (dest_is_shared, source) {
                (true, Kind::Private) => Kind::Shared,
                (true, Kind::Slave) => Kind::SharedSlave,
                (_, kind) => kind,
            };
            assert!(expected.tags(shared, slave), "{source:?} to shared {dest_is_shared}: {tags}");
            if matches!(source, Kind::Shared | Kind::SharedSlave) {
                assert_eq!(tags, group, "a peer of the source");
            }
            assert_eq!(world.places().contains(&"/e/x".to_string()), dest_is_shared);
            if dest_is_shared {
                assert_eq!(world.tags("/e/x"), tags, "peers of one another");
            }
            world.check();
        }
    }
}

#[test]
fn a_moved_mount_has_the_kind_that_the_table_of_sharedsubtree_says() {
    for dest_is_shared in [true, false] {
        for source in KINDS {
            let world = source_and_destination(source, dest_is_shared);
            let moved = move_mount(&world.ns, &world.path("/a"), &world.path("/c/x"));
            if dest_is_shared && source == Kind::Unbindable {
                assert_eq!(moved, Err(Errno::EINVAL));
                continue;
            }
            moved.unwrap();
            let tags = world.tags("/c/x");
            let (shared, slave) = (tags.contains("shared:"), tags.contains("master:"));
            let expected = match (dest_is_shared, source) {
                (true, Kind::Private) => Kind::Shared,
                (true, Kind::Slave) => Kind::SharedSlave,
                (_, kind) => kind,
            };
            assert!(expected.tags(shared, slave), "{source:?} to shared {dest_is_shared}: {tags}");
            assert_eq!(tags.contains("unbindable"), source == Kind::Unbindable);
            assert_eq!(world.places().contains(&"/e/x".to_string()), dest_is_shared);
            world.check();
        }
    }
}

#[test]
fn a_new_mount_is_shared_on_a_shared_mount_and_appears_at_its_peers() {
    let world = source_and_destination(Kind::Private, true);
    world.mount("/c/x");
    assert!(world.tags("/c/x").starts_with("shared:"));
    assert_eq!(world.tags("/c/x"), world.tags("/e/x"));
    world.umount("/e/x", UmountFlags::empty()).unwrap();
    assert_eq!(world.places(), ["/", "/c", "/e", "/a"]);
    world.check();
}

#[test]
fn the_kinds_change_as_the_table_of_mount_namespaces_says() {
    // The rows of "Propagation type transitions": what a mount is, and after make-shared, -slave, -private, -unbindable.
    for (before, after) in [
        (Kind::Shared, [Kind::Shared, Kind::Private, Kind::Private, Kind::Unbindable]),
        (Kind::Slave, [Kind::SharedSlave, Kind::Slave, Kind::Private, Kind::Unbindable]),
        (Kind::SharedSlave, [Kind::SharedSlave, Kind::Slave, Kind::Private, Kind::Unbindable]),
        (Kind::Private, [Kind::Shared, Kind::Private, Kind::Private, Kind::Unbindable]),
        (Kind::Unbindable, [Kind::Shared, Kind::Unbindable, Kind::Private, Kind::Unbindable]),
    ] {
        for (change, after) in [Shared, Slave, Private, Unbindable].into_iter().zip(after) {
            let world = World::new();
            mount_of_kind(&world, "/a", before);
            world.make("/a", change);
            let tags = world.tags("/a");
            assert!(after.tags(tags.contains("shared:"), tags.contains("master:")), "{before:?} {change:?}");
            assert_eq!(tags.contains("unbindable"), after == Kind::Unbindable, "{before:?} {change:?}");
            world.check();
        }
    }
    // A shared mount with peers becomes a slave of them.
    let world = World::new();
    world.mount("/a");
    world.make("/a", Shared);
    world.bind("/a", "/c", false).unwrap();
    world.make("/c", Slave);
    assert_eq!((world.tags("/a"), world.tags("/c")), ("shared:1".into(), "master:1".into()));
}

#[test]
fn slaves_receive_and_do_not_send_across_namespaces() {
    let world = World::new();
    world.rmake("/", Shared);
    let child = world.unshare(false);
    assert_eq!(child.tags("/"), world.tags("/"));
    child.rmake("/", Slave);
    assert_eq!((world.tags("/"), child.tags("/")), ("shared:1".into(), "master:1".into()));
    let grandchild = child.unshare(false);
    assert_eq!(grandchild.tags("/"), "master:1");
    world.mount("/a");
    for other in [&child, &grandchild] {
        assert_eq!(other.places(), ["/", "/a"]);
        assert_eq!(other.tags("/a"), "master:2");
    }
    child.mount("/c");
    assert_eq!(world.places(), ["/", "/a"]);
    assert_eq!(grandchild.places(), ["/", "/a"]);
    world.umount("/a", UmountFlags::empty()).unwrap();
    assert_eq!((child.places(), grandchild.places()), (vec!["/".into(), "/c".into()], vec!["/".into()]));
    world.check();
}

#[test]
fn a_namespace_of_another_user_gets_slaves_and_locked_mounts() {
    let world = World::new();
    world.rmake("/", Shared);
    world.mount("/a");
    let child = world.unshare(true);
    assert_eq!(child.tags("/"), "master:1");
    assert_eq!(child.tags("/a"), "master:2");
    world.mkdir("/a/x");
    let tree = world.mount("/d");
    world.mkdir("/d/in");
    assert!(world.bind("/d", "/a/x", true).is_ok());
    drop(tree);
    assert_eq!(child.umount("/a/x", UmountFlags::empty()), Ok(()), "what has just arrived is not locked");
    assert_eq!(child.umount("/a", UmountFlags::empty()), Err(Errno::EINVAL));
    // A tree that arrives in one piece is locked together.
    world.mount("/d/in");
    world.bind("/d", "/c", true).unwrap();
    assert_eq!(child.umount("/c/in", UmountFlags::empty()), Err(Errno::EINVAL));
    assert_eq!(world.umount("/c", UmountFlags::DETACH), Ok(()));
    assert!(!child.places().contains(&"/c/in".into()));
    world.check();
}

#[test]
fn a_mount_that_receives_goes_below_what_is_there_and_from_there() {
    let world = World::new();
    world.make("/", Shared);
    let child = world.unshare(false);
    child.make("/", Slave);
    let own = child.mount("/a");
    let received = world.mount("/a");
    assert!(Arc::ptr_eq(&child.path("/a").mnt, &own), "the child's own mount stays on top");
    let below = own.parent().unwrap();
    assert!(Arc::ptr_eq(below.sb(), received.sb()));
    drop((below, received));
    assert_eq!(child.places(), ["/", "/a", "/a"]);
    world.umount("/a", UmountFlags::empty()).unwrap();
    assert_eq!(child.places(), ["/", "/a"]);
    assert!(Arc::ptr_eq(&own.parent().unwrap(), &child.at.root.mnt), "back on the root");
    assert!(Arc::ptr_eq(&child.path("/a").mnt, &own));
    world.check();
}

#[test]
fn an_unmount_spares_a_receiver_with_something_in_it() {
    let world = World::new();
    world.make("/", Shared);
    let child = world.unshare(false);
    child.make("/", Slave);
    world.mount("/a");
    world.mkdir("/a/x");
    child.mount("/a/x");
    world.umount("/a", UmountFlags::empty()).unwrap();
    assert_eq!(child.places(), ["/", "/a", "/a/x"]);
    assert_eq!(child.tags("/a"), "", "nothing is left to receive from");
    world.check();
}

#[test]
fn a_mount_is_busy_where_one_that_goes_along_is() {
    let world = World::new();
    world.make("/", Shared);
    let child = world.unshare(false);
    world.mount("/a");
    let held = child.path("/a");
    assert_eq!(world.umount("/a", UmountFlags::empty()), Err(Errno::EBUSY));
    drop(held);
    assert_eq!(world.umount("/a", UmountFlags::empty()), Ok(()));
    assert_eq!(child.places(), ["/"]);
}

#[test]
fn nothing_moves_out_of_a_shared_mount_and_nothing_pivots_on_one() {
    let mut world = World::new();
    world.mount("/a");
    world.mkdir("/a/x");
    world.mount("/a/x");
    world.make("/a", Shared);
    assert_eq!(move_mount(&world.ns, &world.path("/a/x"), &world.path("/c")), Err(Errno::EINVAL));
    world.mkdir("/a/put");
    let pivot =
        |world: &World| pivot_root(&world.ns, &world.path("/a"), &world.path("/a/put"), &world.at.root);
    assert_eq!(refused(pivot(&world)), Errno::EINVAL, "put_old is on a shared mount");
    world.make("/a", Private);
    world.make("/", Shared);
    assert_eq!(refused(pivot(&world)), Errno::EINVAL, "the new root is on a shared mount");
    world.make("/", Private);
    let (old, new) = pivot(&world).unwrap();
    world.at.replace_root(&old, &new);
    assert_eq!(world.places(), ["/put", "/", "/x"]);
}

#[test]
fn a_copy_does_not_receive_itself() {
    let world = World::new();
    world.make("/", Shared);
    world.bind("/", "/a", true).unwrap();
    assert_eq!(world.places(), ["/", "/a"]);
    assert_eq!(world.tags("/a"), world.tags("/"));
    world.mount("/c");
    assert_eq!(world.places(), ["/", "/a", "/c", "/a/c"]);
    world.umount("/a/c", UmountFlags::empty()).unwrap();
    world.umount("/a", UmountFlags::empty()).unwrap();
    assert_eq!(world.places(), ["/"]);
    world.check();
}

#[test]
fn group_ids_are_the_lowest_free_ones() {
    let world = World::new();
    for at in ["/a", "/c", "/d"] {
        world.mount(at);
        world.make(at, Shared);
    }
    assert_eq!(["/a", "/c", "/d"].map(|at| world.tags(at)), ["shared:1", "shared:2", "shared:3"]);
    world.make("/c", Private);
    world.mount("/c");
    world.make("/c", Shared);
    assert_eq!(world.tags("/c"), "shared:2");
    world.umount("/a", UmountFlags::empty()).unwrap();
    world.mount("/a");
    world.make("/a", Shared);
    assert_eq!(world.tags("/a"), "shared:1");
}

#[test]
fn propagate_from_names_the_closest_group_that_the_reader_sees() {
    // The example of mount_namespaces(7), "/proc/PID/mountinfo and propagate_from".
    let mut world = World::new();
    world.mkdir("/c/mnt");
    world.mount("/a");
    world.make("/a", Shared);
    world.bind("/a", "/d", false).unwrap();
    world.make("/d", Slave);
    world.make("/d", Shared);
    world.mount("/c");
    world.mkdir("/c/mnt");
    world.mkdir("/c/dir");
    world.bind("/d", "/c/mnt", false).unwrap();
    world.make("/c/mnt", Slave);
    world.bind("/a", "/c/dir", false).unwrap();
    assert_eq!((world.tags("/d"), world.tags("/c/mnt")), ("shared:2 master:1".into(), "master:2".into()));
    world.at.root = world.path("/c");
    world.at.pwd = world.at.root.clone();
    assert_eq!(world.tags("/mnt"), "master:2 propagate_from:1");
}

#[test]
fn the_limit_of_mounts_counts_what_other_namespaces_receive() {
    let world = World::new();
    world.make("/", Shared);
    let child = world.unshare(false);
    child.ns.inner().count_mounts(MntNamespace::MOUNT_MAX - 2).unwrap();
    let sb = ActiveSuper::new(TestFs::new(true), SuperFlags::empty());
    let mounted = do_mount(&world.ns, sb.clone(), &world.path("/a"), MountFlags::empty());
    assert_eq!(refused(mounted), Errno::ENOSPC);
    assert_eq!((world.places(), child.places()), (vec!["/".into()], vec!["/".into()]));
    assert_eq!(Arc::strong_count(&sb), 1, "no copy is left");
    world.check();
    assert!(world.ns.table().namespace_lock().pnodes.groups_in_use().len() == 1);
    do_mount(&world.ns, sb, &world.path("/a"), MountFlags::empty()).unwrap();
    assert_eq!(child.places(), ["/", "/a"]);
}

#[test]
fn events_are_counted_where_something_changes() {
    let world = World::new();
    world.make("/", Shared);
    let (child, other) = (world.unshare(false), world.unshare(false));
    other.make("/", Private);
    let events = || [&world, &child, &other].map(|world| world.ns.event());
    let before = events();
    world.mount("/a");
    let after = events();
    assert!(after[0] != before[0] && after[1] != before[1]);
    assert_eq!(after[2], before[2]);
    world.umount("/a", UmountFlags::empty()).unwrap();
    let gone = events();
    assert!(gone[0] != after[0] && gone[1] != after[1]);
    assert_eq!(gone[2], before[2]);
}

#[test]
fn a_mount_can_be_put_beneath_the_topmost_one() {
    let world = World::new();
    let top = world.mount("/a");
    world.mount("/c");
    world.mkdir("/c/seen");
    let root = world.path("/");
    let beneath =
        |from: &str, to: &str| move_mount_beneath(&world.ns, &world.path(from), &world.path(to), &root);
    assert_eq!(beneath("/c", "/d"), Err(Errno::EINVAL), "nothing is mounted there");
    assert_eq!(beneath("/c", "/"), Err(Errno::EINVAL), "the caller's root");
    assert_eq!(beneath("/c", "/a"), Ok(()));
    assert!(Arc::ptr_eq(&world.path("/a").mnt, &top));
    assert_eq!(world.places(), ["/", "/a", "/a"]);
    drop(top);
    world.umount("/a", UmountFlags::empty()).unwrap();
    assert!(world.exists("/a/seen"));
}

#[test]
fn a_private_mount_can_join_the_groups_of_a_wider_one() {
    let world = World::new();
    for at in ["/c", "/d"] {
        world.bind("/", at, false).unwrap();
    }
    world.bind("/a", "/a", false).unwrap();
    let join = |from: &str, to: &str| set_group(&world.ns, &|_| true, &world.path(from), &world.path(to));
    assert_eq!(join("/c", "/a"), Err(Errno::EINVAL), "both are private");
    world.make("/c", Shared);
    world.bind("/c", "/d", false).unwrap();
    world.make("/d", Slave);
    world.make("/d", Shared);
    assert_eq!(join("/a", "/c"), Err(Errno::EINVAL), "the source is narrower");
    assert_eq!(join("/d", "/a"), Ok(()));
    assert_eq!(world.tags("/a"), world.tags("/d"));
    assert_eq!(join("/d", "/a"), Err(Errno::EINVAL), "it is private no more");
    world.check();
}
