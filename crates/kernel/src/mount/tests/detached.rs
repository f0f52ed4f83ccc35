//! Detached trees, `mount_setattr(2)`, `statmount(2)` and `listmount(2)`.

use super::*;
use MountPropagation::{Private, Shared, Slave};

fn open_tree(world: &World, name: &str, recurse: bool) -> Result<DetachedMount> {
    DetachedMount::open_tree(&world.ns, &world.path(name), recurse)
}

#[test]
fn a_detached_tree_is_seen_by_nobody_until_it_is_moved_to_a_place() {
    let world = World::new();
    world.mount("/a");
    world.mkdir("/a/in");
    world.mount("/a/in");
    let tree = open_tree(&world, "/a", true).unwrap();
    let nr = world.ns.nr_mounts();
    assert!(!tree.path().mnt.in_namespace());
    assert_eq!(d_path::d_path(&tree.path(), &world.at.root), b"/");
    move_mount(&world.ns, &tree.path(), &world.path("/c")).unwrap();
    assert_eq!(world.ns.nr_mounts(), nr + 2);
    assert_eq!(world.places(), ["/", "/a", "/a/in", "/c", "/c/in"]);
    drop(tree);
    assert_eq!(world.places(), ["/", "/a", "/a/in", "/c", "/c/in"], "it belongs to the namespace now");
}

#[test]
fn a_detached_tree_ends_with_its_file_but_stays_for_who_is_in_it() {
    let world = World::new();
    let mount = world.mount("/a");
    world.mkdir("/a/in");
    world.mount("/a/in");
    world.mkdir("/a/in/deep");
    let sb = mount.sb().clone();
    drop(mount);
    let (tree, lone) = (open_tree(&world, "/", true).unwrap(), open_tree(&world, "/a", false).unwrap());
    let inside = FsStruct::new(tree.path());
    let deep = path_lookup(&inside.walk(&ROOT), b"/a/in/deep", LookupFlags::empty()).unwrap();
    drop((tree, lone));
    assert!(path_lookup(&inside.walk(&ROOT), b"/a/in/deep", LookupFlags::empty()).is_ok());
    assert!(!deep.mnt.is_mounted());
    world.umount("/a", UmountFlags::DETACH).unwrap();
    drop(inside);
    assert_eq!(d_path::d_path(&deep, &world.at.root), b"/deep");
    drop(deep);
    assert_eq!(Arc::strong_count(&sb), 1, "nothing is left of it");
}

#[test]
fn only_the_root_of_a_detached_tree_moves_and_only_where_it_comes_from() {
    let world = World::new();
    world.mount("/a");
    let other = world.unshare(false);
    let tree = open_tree(&world, "/", true).unwrap();
    let inside = FsStruct::new(tree.path());
    let at = |name: &[u8]| path_lookup(&inside.walk(&ROOT), name, LookupFlags::empty()).unwrap();
    let to = |from: &Path, to: &Path| move_mount(&world.ns, from, to);
    assert_eq!(to(&at(b"/a"), &world.path("/c")), Err(Errno::EINVAL));
    assert_eq!(to(&tree.path(), &at(b"/c")), Err(Errno::EINVAL), "into itself");
    assert_eq!(
        to(&world.path("/a"), &at(b"/c")),
        Err(Errno::EINVAL),
        "out of a namespace into a detached tree"
    );
    assert_eq!(refused(DetachedMount::open_tree(&other.ns, &tree.path(), true)), Errno::EINVAL);
    let second = DetachedMount::open_tree(&world.ns, &at(b"/a"), false).unwrap();
    assert_eq!(to(&second.path(), &at(b"/c")), Ok(()), "a tree can grow before it is seen");
    assert_eq!(
        refused(do_mount(&world.ns, second.path().mnt.sb().clone(), &at(b"/d"), MountFlags::empty())),
        Errno::EINVAL
    );
    assert_eq!(to(&tree.path(), &world.path("/d")), Ok(()));
    assert_eq!(world.places(), ["/", "/a", "/d", "/d/a", "/d/c"]);
    drop((tree, second, inside));
    assert_eq!(world.umount("/d", UmountFlags::DETACH), Ok(()));
    world.check();
}

#[test]
fn a_new_mount_of_fsmount_moves_to_a_shared_place_with_copies() {
    let world = World::new();
    world.make("/", Shared);
    let child = world.unshare(false);
    let sb = ActiveSuper::new(TestFs::new(true), SuperFlags::empty());
    let root = sb.root().clone();
    let mount = Mount::new(world.ns.table(), sb, root, MountFlags::RELATIME);
    let tree = DetachedMount::new(&world.ns, mount);
    assert_eq!(child.places(), ["/"]);
    move_mount(&world.ns, &tree.path(), &world.path("/a")).unwrap();
    assert_eq!(
        (world.places(), child.places()),
        (vec!["/".into(), "/a".into()], vec!["/".into(), "/a".into()])
    );
    assert_eq!(
        move_mount(&world.ns, &tree.path(), &world.path("/c")),
        Err(Errno::EINVAL),
        "its parent is shared"
    );
    drop(tree);
    world.check();
}

#[test]
fn attributes_change_on_all_mounts_of_a_tree_or_on_none() {
    let world = World::new();
    world.mount("/a");
    world.mkdir("/a/in");
    world.mount("/a/in");
    let set =
        |world: &World, name: &str, kattr: MountKattr| mount_setattr(&world.ns, &world.path(name), &kattr);
    let flags = |world: &World, name: &str| world.path(name).mnt.flags() & MountFlags::USER_SETTABLE;
    let kattr = MountKattr {
        attr_set: MountFlags::READONLY | MountFlags::NOATIME,
        attr_clr: MountFlags::RELATIME | MountFlags::NOATIME,
        propagation: Some(Shared),
        recurse: true,
    };
    assert_eq!(set(&world, "/c", kattr), Err(Errno::EINVAL));
    assert_eq!(set(&world, "/a", kattr), Ok(()));
    for name in ["/a", "/a/in"] {
        assert_eq!(flags(&world, name), MountFlags::READONLY | MountFlags::NOATIME);
        assert!(world.tags(name).starts_with("shared:"));
    }
    let only_top =
        MountKattr { attr_clr: MountFlags::READONLY, propagation: Some(Private), ..MountKattr::default() };
    assert_eq!(set(&world, "/a", only_top), Ok(()));
    assert!(!flags(&world, "/a").contains(MountFlags::READONLY));
    assert!(flags(&world, "/a/in").contains(MountFlags::READONLY));
    let child = world.unshare(true);
    assert_eq!(
        set(&child, "/a", MountKattr { recurse: true, propagation: Some(Shared), ..only_top }),
        Err(Errno::EPERM)
    );
    assert!(!child.tags("/a").contains("shared:"));
    let tree = open_tree(&world, "/a", true).unwrap();
    assert_eq!(mount_setattr(&world.ns, &tree.path(), &only_top), Ok(()));
    assert_eq!(mount_setattr(&child.ns, &world.path("/a"), &only_top), Err(Errno::EINVAL));
    world.check();
}

#[test]
fn mounts_are_told_by_their_unique_ids() {
    let mut world = World::new();
    let a = world.mount("/a").unique_id();
    world.mkdir("/a/in");
    let inner = world.mount("/a/in").unique_id();
    let c = world.mount("/c").unique_id();
    world.make("/a", Shared);
    assert!(a > MountTable::UNIQUE_ID_OFFSET);
    let root = world.at.root.mnt.unique_id();
    let bottom = world.at.root.mnt.parent().unwrap();
    let all = ListMount { parent: LSMT_ROOT, last: 0, reverse: false, max: 100 };
    let list = |world: &World, request: ListMount| {
        listmount(MountView { ns: &world.ns, own_root: Some(&world.at.root), capable: false }, request)
    };
    assert_eq!(list(&world, all), Ok(vec![root, a, inner, c]));
    assert_eq!(list(&world, ListMount { parent: a, ..all }), Ok(vec![inner]));
    assert_eq!(list(&world, ListMount { last: a, max: 1, ..all }), Ok(vec![inner]));
    assert_eq!(list(&world, ListMount { reverse: true, last: inner, ..all }), Ok(vec![a, root]));
    assert_eq!(list(&world, ListMount { parent: 1, ..all }), Err(Errno::ENOENT));
    assert_eq!(list(&world, ListMount { parent: bottom.unique_id(), ..all }), Err(Errno::EPERM));
    let view = MountView { ns: &world.ns, own_root: None, capable: true };
    assert_eq!(listmount(view, all), Ok(vec![root, a, inner, c]));
    let told = statmount(view, inner).unwrap();
    assert_eq!((told.mnt_id, told.mnt_parent_id), (inner, a));
    assert_eq!(told.mnt_point.as_deref(), Some(&b"/a/in"[..]));
    assert_eq!((told.fs_type.as_str(), told.mnt_opts.as_str(), told.sb_magic), ("testfs", "size=1k", 0x7e57));
    assert_eq!(told.mnt_propagation, 1 << 18);
    let told = statmount(view, a).unwrap();
    assert_eq!((told.mnt_propagation, told.mnt_peer_group, told.mnt_master), (1 << 20, 1, 0));
    assert_eq!(world.ns.table().lookup_mnt_ns(told.mnt_ns_id).map(|ns| ns.ino()), Some(world.ns.ino()));
    world.make("/a", Slave);
    world.at.root = world.path("/a");
    let view = MountView { ns: &world.ns, own_root: Some(&world.at.root), capable: false };
    assert_eq!(statmount(view, c).unwrap_err(), Errno::EPERM);
    assert_eq!(statmount(view, inner).unwrap().mnt_point.as_deref(), Some(&b"/in"[..]));
    let id = world.ns.id();
    let table = world.ns.table().clone();
    drop(world);
    assert!(table.lookup_mnt_ns(id).is_none());
}
