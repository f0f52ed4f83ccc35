//! `open(2)`: the order of errors and what is created.

use super::*;
use crate::vfs::namei::{OpenResult, open};

const O_WRONLY: u32 = 1;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const O_DIRECTORY: u32 = 0o200000;
const O_NOFOLLOW: u32 = 0o400000;
const O_NOATIME: u32 = 0o1000000;
const O_PATH: u32 = 0o10000000;
const O_TMPFILE: u32 = 0o20000000 | O_DIRECTORY;

fn open_as(world: &World, cred: &WalkCred<'_>, name: &str, flags: u32) -> Result<OpenResult> {
    open(&world.at.walk(cred), name.as_bytes(), flags, 0o644, LookupFlags::default())
}

#[test]
fn opening_is_refused_as_linux_does() {
    let world = World::populated();
    world.symlink("loop", "/loop").unwrap();
    world.symlink("nowhere/x", "/dangling").unwrap();
    world.symlink("a/", "/dirlink").unwrap();
    namei::mknod(&world.ctx(&ROOT), b"/sock", S_IFSOCK | 0o777, 0).unwrap();
    for (name, flags, error) in [
        ("missing", 0, Errno::ENOENT),
        ("f/", 0, Errno::ENOTDIR),
        ("f", O_DIRECTORY, Errno::ENOTDIR),
        ("l", O_NOFOLLOW, Errno::ELOOP),
        ("l", O_NOFOLLOW | O_DIRECTORY, Errno::ENOTDIR),
        ("loop", 0, Errno::ELOOP),
        ("a", O_WRONLY, Errno::EISDIR),
        ("a", O_TRUNC, Errno::EISDIR),
        ("a", O_CREAT, Errno::EISDIR),
        (".", O_CREAT, Errno::EISDIR),
        ("a/..", O_CREAT, Errno::EISDIR),
        ("new/", O_CREAT, Errno::EISDIR),
        ("f/", O_CREAT, Errno::EISDIR),
        ("dirlink", O_CREAT, Errno::EISDIR),
        ("f", O_CREAT | O_EXCL, Errno::EEXIST),
        ("a", O_CREAT | O_EXCL, Errno::EEXIST),
        ("l", O_CREAT | O_EXCL, Errno::EEXIST),
        (".", O_CREAT | O_EXCL, Errno::EEXIST),
        ("dangling", O_CREAT | O_EXCL, Errno::EEXIST),
        ("dangling", O_CREAT, Errno::ENOENT),
        ("a", O_CREAT | O_DIRECTORY, Errno::EINVAL),
        ("a", O_TMPFILE, Errno::EINVAL),
        ("f", O_TMPFILE | O_WRONLY, Errno::ENOTDIR),
        ("sock", 0, Errno::ENXIO),
    ] {
        assert_eq!(refused(open_as(&world, &ROOT, name, flags)), error, "{name} {flags:o}");
    }
}

#[test]
fn files_are_created_where_a_link_points_and_opened_with_the_flags_asked_for() {
    let world = World::populated();
    world.symlink("a/new", "/dangling").unwrap();
    let result = open_as(&world, &ROOT, "dangling", O_CREAT | O_WRONLY | O_TRUNC).unwrap();
    assert!(result.created);
    assert_eq!(world.d_path(&result.path), "/a/new");
    let again = open_as(&world, &ROOT, "/a/new", O_CREAT | O_WRONLY | O_TRUNC).unwrap();
    assert!(!again.created);
    let Opened::Text(flags) = again.opened else { panic!("not the file system's answer") };
    assert_eq!(flags, b"1001", "truncation and access mode reach the file system, O_CREAT does not");
    let result = open_as(&world, &ROOT, "/a", O_TMPFILE | O_WRONLY).unwrap();
    assert!(result.created && world.d_path(&result.path) == "/a");
}

#[test]
fn permissions_are_those_of_mode_and_capabilities() {
    let world = World::populated();
    chmod(&world, "/f", 0o640);
    assert_eq!(refused(open_as(&world, &USER, "f", 0)), Errno::EACCES);
    assert!(open_as(&world, &WalkCred::user(1000, 1000, &[0]), "f", 0).is_ok());
    assert_eq!(refused(open_as(&world, &WalkCred::user(1000, 1000, &[0]), "f", O_TRUNC)), Errno::EACCES);
    assert!(open_as(&world, &WalkCred { dac_read_search: true, ..USER }, "f", 0).is_ok());
    assert_eq!(refused(open_as(&world, &WalkCred { dac_read_search: true, ..USER }, "f", 2)), Errno::EACCES);
    assert!(open_as(&world, &WalkCred { dac_override: true, ..USER }, "f", 2).is_ok());
    assert_eq!(refused(open_as(&world, &USER, "/a/new", O_CREAT)), Errno::EACCES);
    assert!(open_as(&world, &USER, "/u/new", O_CREAT | O_WRONLY).is_ok());
    chmod(&world, "/u/new", 0);
    assert_eq!(refused(open_as(&world, &USER, "/u/new", O_CREAT)), Errno::EACCES);
    namei::unlink(&world.ctx(&USER), b"/u/new").unwrap();
    let mut at = world.at.clone();
    at.umask = 0o777;
    assert!(
        open(&at.walk(&USER), b"/u/new", O_CREAT | 2, 0o644, LookupFlags::default()).is_ok(),
        "the creator opens whatever the mode"
    );
    assert_eq!(refused(open_as(&world, &USER, "/l", O_NOATIME)), Errno::EPERM);
    chmod(&world, "/a", 0o744);
    assert_eq!(refused(world.lookup_as(&USER, "/a/b")), Errno::EACCES);
    assert!(world.lookup_as(&WalkCred { dac_read_search: true, ..USER }, "/a/b").is_ok());
    assert!(open_as(&world, &USER, "/a", 0).is_ok(), "readable, not searchable");
    assert!(open_as(&world, &USER, "/f", O_PATH).is_ok(), "O_PATH asks nothing of the target");
    assert!(open_as(&world, &USER, "l", O_PATH | O_NOFOLLOW).unwrap().path.dentry.is_symlink());
}

#[test]
fn capabilities_count_only_over_inodes_that_the_user_namespace_maps() {
    let world = World::populated();
    chmod(&world, "/f", 0o600);
    let mapped = |uid: u32, _gid: u32| uid == 1000;
    let inner_root = WalkCred { fsuid: 1000, fsgid: 1000, mapped: Some(&mapped), ..ROOT };
    assert_eq!(refused(open_as(&world, &inner_root, "f", 0)), Errno::EACCES);
    chmod(&world, "/u", 0);
    assert!(open_as(&world, &inner_root, "/u/new", O_CREAT).is_ok());
    // The file system can store an owner whom the caller's user namespace does not map.
    let nobody = WalkCred { fsuid: 7, ..inner_root };
    assert!(open_as(&world, &nobody, "/u/other", O_CREAT).is_ok());
}

#[test]
fn read_only_and_nodev_mounts_refuse_what_they_should() {
    let world = World::populated();
    namei::mknod(&world.ctx(&ROOT), b"/null", S_IFCHR | 0o666, 0x103).unwrap();
    namei::mknod(&world.ctx(&ROOT), b"/fifo", S_IFIFO | 0o666, 0).unwrap();
    assert!(matches!(open_as(&world, &USER, "null", O_WRONLY).unwrap().opened, Opened::Device(0x103)));
    mount::remount_flags(&world.ns, &world.at.root, MountFlags::READONLY | MountFlags::NODEV).unwrap();
    assert_eq!(refused(open_as(&world, &ROOT, "null", 0)), Errno::EACCES);
    assert_eq!(refused(open_as(&world, &ROOT, "f", O_WRONLY)), Errno::EROFS);
    assert_eq!(
        refused(open_as(&world, &USER, "f", O_WRONLY)),
        Errno::EACCES,
        "the mode is asked before the mount"
    );
    assert_eq!(
        refused(open_as(&world, &USER, "f", O_TRUNC)),
        Errno::EROFS,
        "but truncation asks the mount first"
    );
    assert_eq!(refused(open_as(&world, &ROOT, "new", O_CREAT)), Errno::EROFS);
    assert_eq!(refused(open_as(&world, &ROOT, "/a", O_TMPFILE | 2)), Errno::EROFS);
    assert!(open_as(&world, &ROOT, "f", O_CREAT).is_ok(), "what exists need not be created");
    assert!(open_as(&world, &ROOT, "fifo", O_WRONLY).is_ok(), "a FIFO is not the file system's to write");
}

#[test]
fn truncation_by_an_ordinary_user_takes_privileges_away() {
    let world = World::populated();
    chmod(&world, "/f", 0o6777);
    open_as(&world, &ROOT, "f", O_TRUNC | O_WRONLY).unwrap();
    assert_eq!(world.stat("/f").unwrap().mode & 0o7777, 0o6777);
    open_as(&world, &USER, "f", O_TRUNC | O_WRONLY).unwrap();
    assert_eq!(world.stat("/f").unwrap().mode & 0o7777, 0o777);
}

#[test]
fn a_file_that_appears_under_our_hands_is_opened_not_refused() {
    let world = World::of(TestFs::new(false));
    world.fs.plant("/x", S_IFREG | 0o644);
    assert!(!open_as(&world, &ROOT, "x", O_CREAT).unwrap().created);
    world.fs.remove("x");
    assert!(open_as(&world, &ROOT, "x", O_CREAT).unwrap().created);
    world.fs.plant_link("/dangling", "y");
    assert!(open_as(&world, &ROOT, "dangling", O_CREAT).unwrap().created);
    assert_eq!(refused(open_as(&world, &ROOT, "y", O_CREAT | O_EXCL)), Errno::EEXIST);
}
