//! Attributes, extended attributes, and who may change them.

use super::*;
use crate::vfs::attr::{may_exec, vfs_access, vfs_chmod, vfs_statfs, vfs_truncate, vfs_utimes};
use crate::vfs::xattr::{vfs_getxattr, vfs_listxattr, vfs_removexattr, vfs_setxattr};

fn mode(world: &World, name: &str) -> u32 {
    world.stat(name).unwrap().mode & 0o7777
}

#[test]
fn chmod_is_the_owners_and_keeps_set_group_id_only_for_members() {
    let world = World::populated();
    world.creat("/u/f").unwrap();
    attr::vfs_chown(&world.path("/u/f"), &ROOT, Some(1000), Some(50)).unwrap();
    let f = world.path("/u/f");
    assert_eq!(vfs_chmod(&f, &WalkCred::user(2000, 50, &[]), 0o777), Err(Errno::EPERM));
    vfs_chmod(&f, &USER, 0o6755).unwrap();
    assert_eq!(mode(&world, "/u/f"), 0o4755);
    vfs_chmod(&f, &WalkCred::user(1000, 1000, &[50]), 0o6755).unwrap();
    assert_eq!(mode(&world, "/u/f"), 0o6755);
    let link = world.lookup("/l", LookupFlags::default()).unwrap();
    assert_eq!(vfs_chmod(&link, &ROOT, 0o777), Err(Errno::EOPNOTSUPP));
}

#[test]
fn chown_needs_the_capability_or_a_group_of_ones_own_and_drops_privileges() {
    let world = World::populated();
    world.creat("/u/f").unwrap();
    vfs_chown(&world, "/u/f", 1000);
    let f = world.path("/u/f");
    let member = WalkCred::user(1000, 1000, &[50]);
    let chown = |cred: &WalkCred<'_>, uid, gid| attr::vfs_chown(&f, cred, uid, gid);
    assert_eq!(chown(&member, Some(0), None), Err(Errno::EPERM));
    assert_eq!(chown(&member, None, Some(51)), Err(Errno::EPERM));
    assert_eq!(chown(&WalkCred::user(2000, 50, &[]), None, Some(50)), Err(Errno::EPERM));
    chmod(&world, "/u/f", 0o6755);
    assert_eq!(chown(&member, Some(1000), Some(50)), Ok(()));
    assert_eq!(mode(&world, "/u/f"), 0o755);
    chmod(&world, "/u/f", 0o6745);
    assert_eq!(chown(&ROOT, Some(0), Some(0)), Ok(()));
    assert_eq!(mode(&world, "/u/f"), 0o2745, "set-group-ID without group execution means locking");
    chmod(&world, "/a", 0o6755);
    attr::vfs_chown(&world.path("/a"), &ROOT, Some(1), Some(1)).unwrap();
    assert_eq!(mode(&world, "/a"), 0o6755, "directories keep theirs");
}

#[test]
fn chown_drops_file_capabilities() {
    let world = World::populated();
    chmod(&world, "/f", 0o755);
    let f = world.path("/f");
    let caps = [0u8, 0, 0, 2].into_iter().chain([0; 16]).collect::<Vec<u8>>();
    vfs_setxattr(&f, &ROOT, b"security.capability", &caps, 0).unwrap();
    attr::vfs_chown(&f, &ROOT, Some(1), None).unwrap();
    assert_eq!(vfs_getxattr(&f, &ROOT, b"security.capability"), Err(Errno::ENODATA));
}

#[test]
fn times_are_set_by_owners_and_touched_by_writers() {
    let world = World::populated();
    let f = world.path("/f");
    let at = Some(SetTime::At(Timespec { sec: 5, nsec: 0 }));
    let now = Some(SetTime::Now);
    assert_eq!(vfs_utimes(&f, &USER, at, at), Err(Errno::EPERM));
    assert_eq!(vfs_utimes(&f, &USER, now, now), Err(Errno::EACCES));
    assert_eq!(vfs_utimes(&f, &USER, None, None), Ok(()));
    chmod(&world, "/f", 0o666);
    assert_eq!(vfs_utimes(&f, &USER, now, now), Ok(()));
    assert_eq!(vfs_utimes(&f, &USER, now, None), Err(Errno::EPERM));
    assert_eq!(vfs_utimes(&f, &ROOT, None, at), Ok(()));
    assert_eq!(world.stat("/f").unwrap().mtime.sec, 5);
}

#[test]
fn truncate_is_for_regular_files_that_may_be_written() {
    let world = World::populated();
    assert_eq!(vfs_truncate(&world.path("/a"), &USER, 0, u64::MAX), Err(Errno::EISDIR));
    namei::mknod(&world.ctx(&ROOT), b"/fifo", S_IFIFO | 0o666, 0).unwrap();
    assert_eq!(vfs_truncate(&world.path("/fifo"), &ROOT, 0, u64::MAX), Err(Errno::EINVAL));
    assert_eq!(vfs_truncate(&world.path("/f"), &USER, 0, u64::MAX), Err(Errno::EACCES));
    chmod(&world, "/f", 0o4766);
    assert_eq!(vfs_truncate(&world.path("/f"), &USER, 9, 8), Err(Errno::EFBIG));
    assert_eq!(vfs_truncate(&world.path("/f"), &USER, 9, u64::MAX), Ok(()));
    assert_eq!((world.stat("/f").unwrap().size, mode(&world, "/f")), (9, 0o766));
}

#[test]
fn access_tells_what_open_and_exec_would() {
    let world = World::populated();
    let f = world.path("/f");
    assert_eq!(vfs_access(&f, &ROOT, 8), Err(Errno::EINVAL));
    assert_eq!(vfs_access(&f, &ROOT, 1), Err(Errno::EACCES), "nobody may execute it, root neither");
    assert_eq!(vfs_access(&f, &USER, 4), Ok(()));
    assert_eq!(vfs_access(&f, &USER, 2), Err(Errno::EACCES));
    chmod(&world, "/f", 0o755);
    assert_eq!(may_exec(&f, &USER), Ok(()));
    assert_eq!(may_exec(&world.path("/a"), &ROOT), Err(Errno::EACCES));
    mount::remount_flags(&world.ns, &world.at.root, MountFlags::READONLY | MountFlags::NOEXEC).unwrap();
    assert_eq!(may_exec(&f, &ROOT), Err(Errno::EACCES));
    assert_eq!(vfs_access(&f, &ROOT, 1), Err(Errno::EACCES));
    assert_eq!(vfs_access(&f, &ROOT, 2), Err(Errno::EROFS));
    assert_eq!(vfs_access(&f, &USER, 2), Err(Errno::EACCES));
    assert_eq!(vfs_access(&world.path("/a"), &USER, 1), Ok(()), "directories are searched, not executed");
    let (_, flags) = vfs_statfs(&f).unwrap();
    assert_eq!(flags, 0x20 | 0x1 | 0x8);
    for error in [
        vfs_chmod(&f, &USER, 0o600),
        attr::vfs_chown(&f, &USER, Some(1), None),
        vfs_truncate(&f, &USER, 0, u64::MAX),
        vfs_setxattr(&f, &USER, b"user.x", b"", 0),
    ] {
        assert_eq!(error, Err(Errno::EROFS));
    }
}

#[test]
fn extended_attributes_have_name_spaces_with_rules_of_their_own() {
    let world = World::populated();
    let (f, t) = (world.path("/f"), world.path("/t"));
    let link = world.lookup("/l", LookupFlags::default()).unwrap();
    let set =
        |path: &Path, cred: &WalkCred<'_>, name: &str| vfs_setxattr(path, cred, name.as_bytes(), b"v", 0);
    assert_eq!(set(&f, &ROOT, ""), Err(Errno::ERANGE));
    assert_eq!(set(&f, &ROOT, &format!("user.{}", "x".repeat(251))), Err(Errno::ERANGE));
    assert_eq!(set(&f, &ROOT, "other.x"), Err(Errno::EOPNOTSUPP));
    assert_eq!(vfs_setxattr(&f, &ROOT, b"user.x", &[0; 65537], 0), Err(Errno::E2BIG));
    assert_eq!(vfs_setxattr(&f, &ROOT, b"user.x", b"", 4), Err(Errno::EINVAL));
    assert_eq!(set(&f, &USER, "user.x"), Err(Errno::EACCES));
    assert_eq!(set(&f, &USER, "trusted.x"), Err(Errno::EPERM));
    assert_eq!(set(&f, &USER, "security.capability"), Err(Errno::EINVAL));
    let caps = [0u8, 0, 0, 2].into_iter().chain([0; 16]).collect::<Vec<u8>>();
    assert_eq!(vfs_setxattr(&f, &USER, b"security.capability", &caps, 0), Err(Errno::EPERM));
    assert_eq!(set(&f, &USER, "other.x"), Err(Errno::EACCES));
    assert_eq!(vfs_getxattr(&f, &USER, b"other.x"), Err(Errno::EOPNOTSUPP));
    assert_eq!(set(&f, &USER, "security.other"), Err(Errno::EPERM));
    assert_eq!(vfs_setxattr(&f, &USER, b"system.posix_acl_access", b"", 0), Err(Errno::EPERM));
    assert_eq!(set(&link, &ROOT, "user.x"), Err(Errno::EPERM));
    assert_eq!(vfs_getxattr(&link, &ROOT, b"user.x"), Err(Errno::ENODATA));
    assert_eq!(set(&t, &USER, "user.x"), Err(Errno::EPERM), "a sticky directory's are its owner's");
    assert_eq!(set(&f, &ROOT, "user.x"), Ok(()));
    assert_eq!(set(&f, &ROOT, "trusted.x"), Ok(()));
    assert_eq!(vfs_getxattr(&f, &USER, b"user.x").as_deref(), Ok(&b"v"[..]));
    assert_eq!(vfs_getxattr(&f, &USER, b"trusted.x"), Err(Errno::ENODATA));
    assert_eq!(vfs_listxattr(&f, &USER).as_deref(), Ok(&b"user.x\0"[..]));
    assert_eq!(vfs_listxattr(&f, &ROOT).as_deref(), Ok(&b"trusted.x\0user.x\0"[..]));
    assert_eq!(vfs_removexattr(&f, &USER, b"user.x"), Err(Errno::EACCES));
    assert_eq!(vfs_removexattr(&f, &ROOT, b"user.x"), Ok(()));
}

#[test]
fn changing_directories_needs_search_permission_and_chroot_the_capability() {
    let mut world = World::populated();
    chmod(&world, "/a", 0o644);
    assert_eq!(world.at.chdir(&USER, b"/a"), Err(Errno::EACCES));
    assert_eq!(world.at.chdir(&ROOT, b"/f"), Err(Errno::ENOTDIR));
    assert_eq!(world.at.chdir(&ROOT, b"/missing"), Err(Errno::ENOENT));
    let f = world.path("/f");
    assert_eq!(world.at.fchdir(&ROOT, &f), Err(Errno::ENOTDIR));
    assert_eq!(world.at.chroot(&USER, b"/a"), Err(Errno::EACCES));
    assert_eq!(world.at.chroot(&USER, b"/u"), Err(Errno::EPERM));
    assert_eq!(world.at.chroot(&USER, b"/missing"), Err(Errno::ENOENT));
    assert_eq!(world.at.chdir(&ROOT, b"/a/b"), Ok(()));
    assert_eq!(world.at.chroot(&ROOT, b"/a"), Ok(()));
    assert_eq!(d_path::getcwd(&world.at.pwd, &world.at.root).as_deref(), Ok(&b"/b"[..]));
    let empty = LookupFlags::EMPTY;
    assert_eq!(namei::readlink(&world.ctx(&ROOT), b"/b", LookupFlags::default()), Err(Errno::EINVAL));
    assert_eq!(namei::readlink(&world.ctx(&ROOT), b"", empty), Err(Errno::ENOENT));
    assert_eq!(namei::stat(&world.ctx(&ROOT), b"", empty), world.stat("/b"));
}
