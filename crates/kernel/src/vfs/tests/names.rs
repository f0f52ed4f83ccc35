//! Names made, removed and moved: the order of errors, sticky and set-group-ID directories, mount points.

use super::*;
use crate::vfs::namei::RenameFlags;

const NONE: RenameFlags = RenameFlags::empty();

fn unlink(world: &World, cred: &WalkCred<'_>, name: &str) -> Result<()> {
    namei::unlink(&world.at.walk(cred), name.as_bytes())
}

fn rmdir(world: &World, cred: &WalkCred<'_>, name: &str) -> Result<()> {
    namei::rmdir(&world.at.walk(cred), name.as_bytes())
}

fn link(world: &World, old: &str, new: &str) -> Result<()> {
    let ctx = world.ctx(&ROOT);
    namei::link(&ctx, old.as_bytes(), LookupFlags::default(), &ctx, new.as_bytes())
}

fn readonly(world: &World) {
    mount::remount_flags(&world.ns, &world.at.root, MountFlags::READONLY).unwrap();
}

#[test]
fn what_exists_or_cannot_be_named_is_not_created() {
    let world = World::populated();
    for (name, error) in [
        ("/", Errno::EEXIST),
        (".", Errno::EEXIST),
        ("a/..", Errno::EEXIST),
        ("a", Errno::EEXIST),
        ("a/", Errno::EEXIST),
        ("f", Errno::EEXIST),
        ("l", Errno::EEXIST),
        ("x/y", Errno::ENOENT),
        ("f/x", Errno::ENOTDIR),
        ("", Errno::ENOENT),
    ] {
        assert_eq!(world.mkdir(name, 0o755), Err(error), "{name}");
    }
    assert_eq!(world.mkdir("new/", 0o755), Ok(()));
    assert_eq!(world.creat("file/"), Err(Errno::ENOENT));
    assert_eq!(world.symlink("a", "link/"), Err(Errno::ENOENT));
    assert_eq!(world.symlink("", "link"), Err(Errno::ENOENT));
    assert_eq!(world.symlink(&"x".repeat(4096), "link"), Err(Errno::ENAMETOOLONG));
    assert_eq!(world.mkdir(&"x".repeat(256), 0o755), Err(Errno::ENAMETOOLONG));
}

#[test]
fn a_read_only_mount_refuses_after_existence_for_creation_and_before_it_for_removal() {
    let world = World::populated();
    readonly(&world);
    assert_eq!(world.mkdir("a", 0o755), Err(Errno::EEXIST));
    assert_eq!(world.mkdir("x", 0o755), Err(Errno::EROFS));
    assert_eq!(world.creat("x/"), Err(Errno::ENOENT));
    assert_eq!(unlink(&world, &ROOT, "missing"), Err(Errno::EROFS));
    assert_eq!(rmdir(&world, &ROOT, "."), Err(Errno::EINVAL));
    assert_eq!(rmdir(&world, &ROOT, "missing"), Err(Errno::EROFS));
    assert_eq!(world.rename("missing", "x", NONE), Err(Errno::EROFS));
    assert_eq!(world.rename(".", "x", NONE), Err(Errno::EBUSY));
    assert_eq!(link(&world, "missing", "x"), Err(Errno::ENOENT));
    assert_eq!(link(&world, "f", "x"), Err(Errno::EROFS));
    assert_eq!(namei::mkdir(&world.ctx(&USER), b"x", 0o755), Err(Errno::EROFS));
}

#[test]
fn mknod_checks_type_before_the_path_and_privilege_after_it() {
    let world = World::populated();
    let mknod = |cred: &WalkCred<'_>, name: &str, mode| {
        namei::mknod(&world.at.walk(cred), name.as_bytes(), mode, 0x105)
    };
    assert_eq!(mknod(&ROOT, "missing/x", S_IFDIR), Err(Errno::EPERM));
    assert_eq!(mknod(&ROOT, "missing/x", S_IFLNK), Err(Errno::EINVAL));
    assert_eq!(mknod(&USER, "/f", S_IFCHR | 0o600), Err(Errno::EEXIST));
    assert_eq!(mknod(&USER, "/dev", S_IFCHR | 0o600), Err(Errno::EACCES));
    assert_eq!(mknod(&USER, "/u/dev", S_IFBLK | 0o600), Err(Errno::EPERM));
    assert_eq!(namei::mknod(&world.ctx(&USER), b"/u/whiteout", S_IFCHR, 0), Ok(()));
    assert_eq!(mknod(&ROOT, "/null", S_IFCHR | 0o666), Ok(()));
    assert_eq!(world.stat("/null").unwrap().rdev, 0x105);
    assert_eq!(mknod(&USER, "/u/fifo", S_IFIFO | 0o600), Ok(()));
    assert_eq!((world.stat("/u/fifo").unwrap().rdev, world.stat("/u/fifo").unwrap().uid), (0, 1000));
}

#[test]
fn umask_and_set_group_id_directories_shape_what_is_created() {
    let mut world = World::populated();
    world.at.umask = 0o027;
    attr::vfs_chown(&world.path("/u"), &ROOT, None, Some(50)).unwrap();
    chmod(&world, "/u", 0o2777);
    namei::mkdir(&world.ctx(&USER), b"/u/d", 0o777).unwrap();
    let attr = world.stat("/u/d").unwrap();
    assert_eq!((attr.mode, attr.uid, attr.gid), (S_IFDIR | 0o2750, 1000, 50));
    let create = |cred: &WalkCred<'_>, name: &str, mode| {
        namei::open(&world.at.walk(cred), name.as_bytes(), 0o101, mode, LookupFlags::default()).unwrap();
        let attr = world.stat(name).unwrap();
        (attr.mode & 0o7777, attr.gid)
    };
    assert_eq!(create(&USER, "/u/sgid", 0o2777), (0o750, 50), "not of the group: no set-group-ID");
    assert_eq!(create(&USER, "/u/sgid-locking", 0o2666), (0o2640, 50), "without group execution it stays");
    assert_eq!(create(&WalkCred::user(1000, 1000, &[50]), "/u/member", 0o2777), (0o2750, 50));
    assert_eq!(create(&ROOT, "/u/root", 0o6777), (0o6750, 50));
    world.symlink("x", "/u/link").unwrap();
    let link = namei::stat(&world.ctx(&ROOT), b"/u/link", LookupFlags::default()).unwrap();
    assert_eq!(link.mode, S_IFLNK | 0o777);
}

#[test]
fn removal_of_the_wrong_kind_is_refused_as_linux_does() {
    let world = World::populated();
    for (name, error) in [
        (".", Errno::EISDIR),
        ("..", Errno::EISDIR),
        ("/", Errno::EISDIR),
        ("a", Errno::EISDIR),
        ("a/", Errno::EISDIR),
        ("f/", Errno::ENOTDIR),
        ("l/", Errno::ENOTDIR),
        ("missing", Errno::ENOENT),
        ("missing/", Errno::ENOENT),
    ] {
        assert_eq!(unlink(&world, &ROOT, name), Err(error), "unlink {name}");
    }
    for (name, error) in [
        (".", Errno::EINVAL),
        ("a/.", Errno::EINVAL),
        ("..", Errno::ENOTEMPTY),
        ("/", Errno::EBUSY),
        ("a", Errno::ENOTEMPTY),
        ("f", Errno::ENOTDIR),
        ("l", Errno::ENOTDIR),
        ("l/", Errno::ENOTDIR),
        ("missing", Errno::ENOENT),
    ] {
        assert_eq!(rmdir(&world, &ROOT, name), Err(error), "rmdir {name}");
    }
    assert_eq!(rmdir(&world, &ROOT, "a/b/c/"), Ok(()));
    assert_eq!(unlink(&world, &ROOT, "l"), Ok(()));
}

#[test]
fn in_a_sticky_directory_only_owners_remove() {
    let world = World::populated();
    world.creat("/t/roots").unwrap();
    world.creat("/t/users").unwrap();
    vfs_chown(&world, "/t/users", 1000);
    world.mkdir("/t/dir", 0o777).unwrap();
    assert_eq!(unlink(&world, &USER, "/t/roots"), Err(Errno::EPERM));
    assert_eq!(
        rmdir(&world, &USER, "/t/roots"),
        Err(Errno::EPERM),
        "before it matters that it is no directory"
    );
    assert_eq!(rmdir(&world, &USER, "/t/dir"), Err(Errno::EPERM));
    let ctx = world.ctx(&USER);
    assert_eq!(namei::rename(&ctx, b"/t/roots", &ctx, b"/t/x", NONE), Err(Errno::EPERM));
    assert_eq!(namei::rename(&ctx, b"/t/users", &ctx, b"/t/roots", NONE), Err(Errno::EPERM));
    assert_eq!(namei::rename(&ctx, b"/t/users", &ctx, b"/t/mine", NONE), Ok(()));
    let other = WalkCred::user(2000, 2000, &[]);
    assert_eq!(unlink(&world, &other, "/t/mine"), Err(Errno::EPERM));
    assert_eq!(unlink(&world, &WalkCred { fowner: true, ..other }, "/t/mine"), Ok(()));
    vfs_chown(&world, "/t", 1000);
    assert_eq!(unlink(&world, &USER, "/t/roots"), Ok(()), "the directory's owner may");
    assert_eq!(unlink(&world, &USER, "/f"), Err(Errno::EACCES));
}

#[test]
fn rename_refuses_as_linux_does() {
    let world = World::populated();
    world.creat("/u/g").unwrap();
    world.mkdir("/empty", 0o755).unwrap();
    for (old, new, error) in [
        ("missing", "x", Errno::ENOENT),
        ("a/.", "x", Errno::EBUSY),
        ("a", "u/..", Errno::EBUSY),
        ("a", "/", Errno::EBUSY),
        ("f/", "x", Errno::ENOTDIR),
        ("f", "x/", Errno::ENOTDIR),
        ("f", "empty", Errno::EISDIR),
        ("f", "empty/", Errno::ENOTDIR),
        ("empty", "f", Errno::ENOTDIR),
        ("empty", "u", Errno::ENOTEMPTY),
        ("a", "a/b/x", Errno::EINVAL),
        ("a", "a/x", Errno::EINVAL),
        ("a/b/c", "a", Errno::ENOTEMPTY),
        ("a/b", "a", Errno::ENOTEMPTY),
        ("empty", "missing/x", Errno::ENOENT),
    ] {
        assert_eq!(world.rename(old, new, NONE), Err(error), "{old} -> {new}");
    }
    assert_eq!(world.rename("a", "a", NONE), Ok(()));
    assert_eq!(world.rename("empty", "new/", NONE), Ok(()));
    assert_eq!(world.rename("f", "u/g", NONE), Ok(()));
    assert_eq!(world.stat("/f"), Err(Errno::ENOENT));
    assert_eq!(world.rename("l", "u/l2", NONE), Ok(()), "links are renamed, not followed");
}

#[test]
fn rename_flags_do_what_they_say() {
    let world = World::populated();
    world.creat("/g").unwrap();
    let (noreplace, exchange) = (RenameFlags::NOREPLACE, RenameFlags::EXCHANGE);
    assert_eq!(world.rename("f", "g", noreplace), Err(Errno::EEXIST));
    assert_eq!(world.rename("f", "a/..", noreplace), Err(Errno::EEXIST));
    assert_eq!(world.rename("f", "h", noreplace), Ok(()));
    assert_eq!(world.rename("h", "missing", exchange), Err(Errno::ENOENT));
    assert_eq!(world.rename("h", "g", exchange | noreplace), Err(Errno::EINVAL));
    assert_eq!(world.rename("h", "g", RenameFlags::from_bits_retain(8)), Err(Errno::EINVAL));
    assert_eq!(world.rename("a/b", "a", exchange), Err(Errno::EINVAL));
    let (c, u) = (world.path("/a/b/c"), world.path("/u"));
    assert_eq!(world.rename("a/b/c", "u", exchange), Ok(()));
    assert_eq!((world.d_path(&c), world.d_path(&u)), ("/u".into(), "/a/b/c".into()));
    assert_eq!(world.rename("h", "u", exchange), Ok(()), "a file for a directory");
    assert!(world.path("/h").dentry.is_dir());
    assert_eq!(world.d_path(&c), "/h");
}

#[test]
fn a_directory_that_gets_a_new_parent_must_be_writable() {
    let world = World::populated();
    world.mkdir("/u/d", 0o755).unwrap();
    world.mkdir("/u/e", 0o777).unwrap();
    let ctx = world.ctx(&USER);
    assert_eq!(namei::rename(&ctx, b"/u/d", &ctx, b"/u/e/d", NONE), Err(Errno::EACCES));
    assert_eq!(namei::rename(&ctx, b"/u/d", &ctx, b"/u/d2", NONE), Ok(()));
}

#[test]
fn two_names_of_one_file_stay_when_renamed_onto_each_other() {
    let world = World::populated();
    link(&world, "f", "g").unwrap();
    assert_eq!(world.rename("f", "g", NONE), Ok(()));
    assert_eq!(world.stat("/f"), world.stat("/g"));
}

#[test]
fn links_are_refused_for_directories_and_across_mounts() {
    let world = World::populated();
    world.mount("/u", MountFlags::empty());
    assert_eq!(link(&world, "a", "x"), Err(Errno::EPERM));
    assert_eq!(link(&world, "a", "f"), Err(Errno::EEXIST));
    assert_eq!(link(&world, "f", "u/x"), Err(Errno::EXDEV));
    assert_eq!(link(&world, "missing", "u/x"), Err(Errno::ENOENT));
    assert_eq!(world.rename("f", "u/x", NONE), Err(Errno::EXDEV));
    assert_eq!(world.rename("missing", "u/x", NONE), Err(Errno::EXDEV), "before the name is looked up");
    link(&world, "l", "l2").unwrap();
    let l2 = namei::stat(&world.ctx(&ROOT), b"/l2", LookupFlags::default()).unwrap();
    assert_eq!(l2.mode & S_IFMT, S_IFLNK, "the link itself");
    let ctx = world.ctx(&ROOT);
    assert_eq!(namei::link(&ctx, b"l", LookupFlags::FOLLOW, &ctx, b"x"), Err(Errno::EPERM));
    assert_eq!(namei::link(&ctx, b"f", LookupFlags::FOLLOW, &world.ctx(&USER), b"x"), Err(Errno::EACCES));
}

#[test]
fn mount_points_are_busy_and_mounts_elsewhere_vanish_with_the_name() {
    let world = World::populated();
    world.mkdir("/m", 0o755).unwrap();
    let mut other = world.at.clone();
    let other_ns = mount::copy_mnt_ns(world.ns.user_ns().unwrap(), &world.ns, &mut other).unwrap();
    let sb = ActiveSuper::new(TestFs::new(true), SuperFlags::empty());
    let at = namei::path_lookup(&other.walk(&ROOT), b"/m", LookupFlags::FOLLOW).unwrap();
    mount::do_mount(&other_ns, sb, &at, MountFlags::empty()).unwrap();
    drop(at);
    world.mount("/u", MountFlags::empty());
    assert_eq!(rmdir(&world, &ROOT, "/u"), Err(Errno::EBUSY));
    assert_eq!(world.rename("u", "v", NONE), Err(Errno::EBUSY));
    assert_eq!(world.rename("m", "u", NONE), Err(Errno::EBUSY));
    assert_eq!(other_ns.nr_mounts(), 3);
    assert_eq!(rmdir(&world, &ROOT, "/m"), Ok(()));
    assert_eq!(other_ns.nr_mounts(), 2);
    assert!(other_ns.root().unwrap().children().is_empty());
}

#[test]
fn a_file_can_be_a_mount_point() {
    let world = World::populated();
    world.creat("/g").unwrap();
    chmod(&world, "/g", 0o604);
    mount::bind_mount(&world.ns, &world.path("/g"), &world.path("/f"), false).unwrap();
    assert_eq!(world.stat("/f").unwrap().mode, S_IFREG | 0o604);
    assert_eq!(unlink(&world, &ROOT, "/f"), Err(Errno::EBUSY));
    assert_eq!(world.d_path(&world.path("/f")), "/f");
    mount::umount(&world.ns, world.path("/f"), mount::UmountFlags::empty(), &world.at.root).unwrap();
    assert_eq!(world.stat("/f").unwrap().mode, S_IFREG | 0o644);
}
