//! Copy-up, handles, attributes, special files.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nomina_kernel::vfs::{NewInode, S_IFBLK, S_IFCHR, S_IFIFO, S_IFSOCK, SetTime, Timespec};

use super::*;

#[test]
fn writing_copies_up_and_leaves_the_lower_file() {
    let trees = Trees::new();
    trees.file("d/a", "lower text");
    let guest = trees.mount();
    let fd = guest.open("d/a", RDWR).unwrap();
    rustix::io::pwrite(&fd, b"UPPER", 0).unwrap();
    assert_eq!(guest.read("d/a").unwrap(), b"UPPER text");
    assert_eq!(std::fs::read(trees.lower("d/a")).unwrap(), b"lower text");
    assert_eq!(std::fs::read(trees.upper("d/a")).unwrap(), b"UPPER text");
}

#[test]
fn a_file_shows_the_same_numbers_before_and_after_copy_up() {
    let trees = Trees::new();
    trees.file("d/a", "lower text");
    let guest = trees.mount();
    let id = |attr: nomina_kernel::vfs::Attr| (attr.dev, attr.ino);
    let reader = guest.open("d/a", READ).unwrap();
    let before = id(guest.walk("d/a").unwrap().getattr().unwrap());
    let writer = guest.open("d/a", RDWR).unwrap();
    rustix::io::pwrite(&writer, b"UPPER", 0).unwrap();
    assert_eq!(id(guest.walk("d/a").unwrap().getattr().unwrap()), before);
    for handle in [&reader, &writer] {
        let attr = guest.sb().attr_of_handle(handle.as_fd()).unwrap();
        assert_eq!((id(attr), attr.size), (before, 10));
    }
    guest.link("d/a", "d/b").unwrap();
    guest.rename("d/a", "d/c", 0).unwrap();
    let entries = guest.walk("d").unwrap().readdir().unwrap();
    assert!(entries.iter().all(|entry| entry.ino == before.1), "{entries:?}");
}

#[test]
fn a_lower_file_with_several_names_gets_a_number_of_its_own() {
    let trees = Trees::new();
    trees.file("a", "text");
    std::fs::hard_link(trees.lower("a"), trees.lower("b")).unwrap();
    let guest = trees.mount();
    drop(guest.open("a", RDWR).unwrap());
    let ino = |name: &str| guest.walk(name).unwrap().getattr().unwrap().ino;
    assert_ne!(ino("a"), ino("b"));
}

#[test]
fn directories_list_their_names_in_the_same_order_each_time() {
    let trees = Trees::new();
    let guest = trees.mount();
    for n in 0..200 {
        guest.write(&format!("f{n}"), "").unwrap();
    }
    let root = guest.walk("").unwrap();
    assert_eq!(root.readdir().unwrap(), root.readdir().unwrap());
}

#[test]
fn truncating_copies_no_data() {
    let trees = Trees::new();
    trees.file("a", "lower");
    let guest = trees.mount();
    drop(guest.open("a", WRITE | TRUNC).unwrap());
    assert_eq!(guest.read("a").unwrap(), b"");
    assert_eq!(guest.walk("a").unwrap().getattr().unwrap().size, 0);
}

#[test]
fn copy_up_keeps_times_modes_attributes_and_holes() {
    let trees = Trees::new();
    trees.file("a", "");
    let lower = std::fs::OpenOptions::new().write(true).open(trees.lower("a")).unwrap();
    rustix::io::pwrite(&lower, b"end", 8 << 20).unwrap();
    rustix::fs::fsetxattr(&lower, "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap();
    let at = At::new(&lower, b"");
    at.chmod(0o4711).unwrap();
    at.set_times(None, Some(SetTime::At(Timespec { sec: 1000, nsec: 7 }))).unwrap();
    let guest = trees.mount();
    let before = guest.walk("a").unwrap().getattr().unwrap();
    drop(guest.open("a", RDWR).unwrap());
    let after = guest.walk("a").unwrap().getattr().unwrap();
    assert_eq!((before.mode, before.mtime, before.size), (after.mode, after.mtime, after.size));
    assert_eq!(after.mode & 0o7777, 0o4711);
    assert_eq!(
        std::fs::metadata(trees.upper("a")).unwrap().mode() & 0o6000,
        0,
        "no set-user-ID file on the host"
    );
    assert_eq!(guest.walk("a").unwrap().getxattr(b"user.colour").unwrap(), b"red");
    assert!(after.blocks * 512 < 4 << 20, "{} blocks: the hole was filled", after.blocks);
    assert!(guest.read("a").unwrap().ends_with(b"\0end"));
}

#[test]
fn owners_and_modes_that_the_host_cannot_hold_are_kept() {
    let trees = Trees::new();
    trees.file("d/a", "a");
    let guest = trees.mount();
    guest.set("d/a", owner(33, 44)).unwrap();
    guest.set("d/a", mode(0o6755)).unwrap();
    guest.set("d", owner(5, 6)).unwrap();
    guest.set("d", mode(0o2070)).unwrap();
    guest.write("plain", "p").unwrap();
    for guest in [guest, trees.mount()] {
        let attr = guest.walk("d/a").unwrap().getattr().unwrap();
        assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (33, 44, 0o6755));
        let attr = guest.walk("d").unwrap().getattr().unwrap();
        assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (5, 6, 0o2070));
        let handle = guest.open("d/a", READ).unwrap();
        let attr = crate::handle::attr_from_fd(handle.as_fd(), &IdMap::to(0, 0)).unwrap();
        assert_eq!((attr.uid, attr.gid, attr.mode & 0o7777), (33, 44, 0o6755));
    }
    let upper = rustix::fs::open(trees.upper(""), OFlags::PATH, Mode::empty()).unwrap();
    assert_eq!(At::new(&upper, b"plain").getxattr(XATTR), Err(Errno::ENODATA));
    assert_eq!(std::fs::metadata(trees.upper("d/a")).unwrap().mode() & 0o7777, 0o1755);
}

#[test]
fn giving_a_file_back_removes_the_override() {
    let trees = Trees::new();
    let guest = trees.mount();
    guest.write("a", "a").unwrap();
    guest.set("a", owner(33, 33)).unwrap();
    guest.set("a", owner(0, 0)).unwrap();
    let upper = rustix::fs::open(trees.upper(""), OFlags::PATH, Mode::empty()).unwrap();
    assert_eq!(At::new(&upper, b"a").getxattr(XATTR), Err(Errno::ENODATA));
    assert_eq!(std::fs::metadata(trees.upper("a")).unwrap().mode() & 0o7777, 0o644);
}

#[test]
fn layers_of_containers_storage_are_understood() {
    let trees = Trees::new();
    trees.file("dev/null", "");
    let lower = rustix::fs::open(trees.lower(""), OFlags::PATH, Mode::empty()).unwrap();
    At::new(&lower, b"").setxattr(XATTR, b"0:0:0755", 0).unwrap();
    let dev = At::new(&lower, b"dev").open_path().unwrap();
    At::new(&dev, b"null").setxattr(XATTR, b"7:8:0666:char-1-3", 0).unwrap();
    let guest = trees.mount();
    let node = guest.walk("dev/null").unwrap();
    let attr = node.getattr().unwrap();
    assert_eq!((attr.uid, attr.gid, attr.rdev), (7, 8, libc::makedev(1, 3)));
    assert_eq!(node.file_type(), S_IFCHR);
    assert_eq!(node.open(READ).err(), Some(Errno::ENXIO));
    assert_eq!(node.listxattr().unwrap(), b"");
}

#[test]
fn nodes_links_and_fifos_of_any_owner_can_be_made_and_renamed() {
    let trees = Trees::new();
    trees.file("d/x", "x");
    let guest = trees.mount();
    let dir = guest.walk("d").unwrap();
    let kinds = [("chr", S_IFCHR), ("blk", S_IFBLK), ("fifo", S_IFIFO), ("sock", S_IFSOCK)];
    for (name, kind) in kinds {
        let new = NewInode { mode: kind | 0o640, uid: 1, gid: 2, rdev: libc::makedev(4, 300) };
        dir.mknod(name.as_bytes(), new).unwrap();
        guest.rename(&format!("d/{name}"), name, 0).unwrap();
    }
    let new = NewInode { mode: 0o777, uid: 1, gid: 2, rdev: 0 };
    dir.symlink(b"link", b"some/where", new).unwrap();
    dir.symlink(b"mine", b"else", super::new(0o777)).unwrap();
    guest.set("d/mine", owner(9, 9)).unwrap();
    for guest in [guest, trees.mount()] {
        for (name, kind) in kinds {
            let node = guest.walk(name).unwrap();
            let attr = node.getattr().unwrap();
            assert_eq!(
                (node.file_type(), attr.mode, attr.uid, attr.gid),
                (kind, kind | 0o640, 1, 2),
                "{name}"
            );
        }
        assert_eq!(guest.walk("chr").unwrap().getattr().unwrap().rdev, libc::makedev(4, 300));
        assert_eq!(guest.walk("chr").unwrap().open(READ).err(), Some(Errno::ENXIO));
        assert_eq!(guest.walk("sock").unwrap().open(READ).err(), Some(Errno::ENXIO));
        let link = guest.walk("d/link").unwrap();
        let attr = link.getattr().unwrap();
        assert_eq!((link.readlink().unwrap(), attr.uid, attr.size), (b"some/where".to_vec(), 1, 10));
        assert_eq!(guest.walk("d/mine").unwrap().getattr().unwrap().uid, 9);
        assert_eq!(guest.walk("d/mine").unwrap().readlink().unwrap(), b"else");
        let listed = guest.walk("d").unwrap().readdir().unwrap();
        let kind = |name: &str| listed.iter().find(|e| e.name == name.as_bytes()).unwrap().kind;
        assert_eq!((kind("link"), kind("mine"), kind("x")), (libc::DT_LNK, libc::DT_LNK, libc::DT_REG));
        assert!(matches!(guest.walk("fifo").unwrap().open(READ).unwrap(), Opened::WouldBlock));
        assert!(matches!(guest.walk("fifo").unwrap().open(RDWR).unwrap(), Opened::Host(_)));
    }
}

#[test]
fn a_fifo_below_is_not_the_hosts_when_opened() {
    let trees = Trees::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, trees.lower("f"), Mode::from_raw_mode(0o666)).unwrap();
    let guest = trees.mount();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let host = rustix::fs::open(trees.lower("f"), flags, Mode::empty()).unwrap();
    let Opened::Host(inside) = guest.walk("f").unwrap().open(RDWR).unwrap() else { panic!("no handle") };
    rustix::io::write(&inside, b"x").unwrap();
    assert_eq!(rustix::io::read(&host, &mut [0u8; 4]), Ok(0), "no writer on the host's FIFO");
}

#[test]
fn a_bound_socket_is_found_and_goes_with_its_name() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, listen, socket};
    let trees = Trees::new();
    let guest = trees.mount();
    let server = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let new = NewInode { mode: S_IFSOCK | 0o600, uid: 3, gid: 3, rdev: 0 };
    guest.root.bind_socket(b"s", new, &server).unwrap();
    assert_eq!(guest.root.bind_socket(b"s", new, &server), Err(Errno::EADDRINUSE));
    listen(&server, 1).unwrap();
    assert_eq!(guest.walk("s").unwrap().getattr().unwrap().mode, S_IFSOCK | 0o600);
    let handle = guest.walk("s").unwrap().host_handle(false).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    let client = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    connect(&client, &SocketAddrUnix::new(path.as_str()).unwrap()).unwrap();
    guest.unlink("s").unwrap();
    let left = std::fs::read_dir(trees.dir.path().join("work")).unwrap().count();
    assert_eq!(left, 0, "the host's socket must go with the name");
}

#[test]
fn hard_links_are_one_file_after_copy_up() {
    let trees = Trees::new();
    trees.file("a", "a");
    let guest = trees.mount();
    guest.link("a", "b").unwrap();
    drop(guest.open("b", WRITE | TRUNC).unwrap());
    assert_eq!(guest.read("a").unwrap(), b"");
    let (a, b) = (guest.walk("a").unwrap().getattr().unwrap(), guest.walk("b").unwrap().getattr().unwrap());
    assert_eq!((a.ino, a.nlink), (b.ino, 2));
    guest.set("b", owner(7, 7)).unwrap();
    assert_eq!(guest.walk("a").unwrap().getattr().unwrap().uid, 7);
    assert_eq!(guest.rename("a", "b", 0), Ok(()), "two names of one file: nothing happens");
    assert_eq!(guest.list(""), ["a", "b"]);
    assert_eq!(guest.link("", "c"), Err(Errno::EPERM));
}

#[test]
fn an_open_file_outlives_its_name() {
    let trees = Trees::new();
    trees.file("low", "low text");
    let guest = trees.mount();
    guest.write("up", "up text").unwrap();
    for name in ["low", "up"] {
        let (held, fd) = (guest.walk(name).unwrap(), guest.open(name, READ).unwrap());
        guest.unlink(name).unwrap();
        assert_eq!(content(&fd), format!("{name} text").as_bytes());
        assert_eq!(held.getattr().unwrap().nlink, 0);
        held.setattr(&mode(0o600)).unwrap();
        assert_eq!(held.getattr().unwrap().mode & 0o777, 0o600);
        assert!(matches!(held.open(READ).unwrap(), Opened::Host(_)));
        assert_eq!(guest.root.link(b"again", &held), Err(Errno::ENOENT));
    }
    assert_eq!(std::fs::metadata(trees.lower("low")).unwrap().mode() & 0o777, 0o644 & !umask());
}

fn umask() -> u32 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(line.trim(), 8).unwrap()
}

#[test]
fn a_temporary_file_gets_a_name_by_its_handle_only() {
    let trees = Trees::new();
    trees.file("d/a", "a");
    let guest = trees.mount();
    let dir = guest.walk("d").unwrap();
    let new = NewInode { mode: 0o4600, uid: 4, gid: 4, rdev: 0 };
    let Opened::Host(fd) = dir.tmpfile(new, RDWR).unwrap() else { panic!("no handle") };
    rustix::io::write(&fd, b"text").unwrap();
    assert!(guest.sb().path_of_host(&link(&fd)).unwrap().ends_with(b" (deleted)"));
    dir.link_handle(b"t", &fd).unwrap();
    let attr = guest.walk("d/t").unwrap().getattr().unwrap();
    assert_eq!((attr.mode & 0o7777, attr.uid, attr.nlink, attr.size), (0o4600, 4, 1, 4));
    assert_eq!(guest.list("d"), ["a", "t"]);
}

#[test]
fn a_file_of_the_host_cannot_be_linked_into_the_upper_directory() {
    let trees = Trees::new();
    trees.file("a", "lower");
    std::fs::write(trees.dir.path().join("outside"), "outside").unwrap();
    let guest = trees.mount();
    let outside: OwnedFd = std::fs::File::open(trees.dir.path().join("outside")).unwrap().into();
    assert_eq!(guest.root.link_handle(b"x", &outside), Err(Errno::EXDEV));
    // A lower file opened for reading is linked by copying it up.
    let fd = guest.open("a", READ).unwrap();
    guest.root.link_handle(b"b", &fd).unwrap();
    drop(guest.open("b", WRITE | TRUNC).unwrap());
    assert_eq!(std::fs::read(trees.lower("a")).unwrap(), b"lower");
}

fn link(fd: &OwnedFd) -> Vec<u8> {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd));
    rustix::fs::readlink(path, Vec::new()).unwrap().into_bytes()
}

#[test]
fn changes_through_a_handle_of_a_lower_file_copy_it_up() {
    let trees = Trees::new();
    trees.file("d/a", "a");
    let guest = trees.mount();
    let fd = guest.open("d/a", READ).unwrap();
    guest.sb().set_attr_of_handle(fd.as_fd(), &owner(12, 13)).unwrap();
    guest.sb().set_xattr_of_handle(fd.as_fd(), b"user.x", b"1", 0).unwrap();
    let attr = guest.walk("d/a").unwrap().getattr().unwrap();
    assert_eq!((attr.uid, attr.gid), (12, 13));
    assert_eq!(guest.sb().attr_of_handle(fd.as_fd()).unwrap(), attr);
    assert_eq!(guest.walk("d/a").unwrap().listxattr().unwrap(), b"user.x\0");
    let lower = rustix::fs::open(trees.lower("d"), OFlags::PATH, Mode::empty()).unwrap();
    assert_eq!(At::new(&lower, b"a").getxattr(b"user.x"), Err(Errno::ENODATA));
    guest.unlink("d/a").unwrap();
    guest.write("d/a", "other").unwrap();
    assert!(guest.sb().inode_of_handle(fd.as_fd()).is_none(), "another file has the name now");
    assert_eq!(guest.sb().set_attr_of_handle(fd.as_fd(), &mode(0o600)), Err(Errno::EROFS));
}

#[test]
fn handles_are_found_again_under_the_guests_path() {
    let trees = Trees::new();
    trees.file("usr/lib/a", "a").file("b", "b");
    let guest = trees.mount();
    let (a, b) = (guest.open("usr/lib/a", READ).unwrap(), guest.open("b", READ).unwrap());
    guest.rename("usr/lib", "moved", 0).unwrap();
    assert_eq!(guest.sb().path_of_host(&link(&a)).unwrap(), b"/moved/a");
    assert!(guest.sb().inode_of_handle(a.as_fd()).is_some());
    guest.unlink("b").unwrap();
    assert_eq!(guest.sb().path_of_host(&link(&b)).unwrap(), b"/b (deleted)");
    guest.write("up", "up").unwrap();
    let up = guest.open("up", READ).unwrap();
    assert_eq!(guest.sb().path_of_host(&link(&up)).unwrap(), b"/up");
    assert_eq!(guest.sb().path_of_host(b"/nowhere/else"), None);
}

#[test]
fn attributes_of_guests_are_kept_and_ours_are_not_shown() {
    let trees = Trees::new();
    trees.file("a", "a");
    for memory in [false, true] {
        let guest = trees.mount_with(|o| o.memory_xattrs = memory);
        let a = guest.walk("a").unwrap();
        assert_eq!(a.getxattr(b"user.x"), Err(Errno::ENODATA));
        assert_eq!(a.getxattr(b"security.capability"), Err(Errno::ENODATA));
        a.setxattr(b"user.x", b"1", 0).unwrap();
        a.setxattr(b"security.capability", b"caps", 0).unwrap();
        a.setxattr(b"trusted.t", b"t", 1).unwrap();
        assert_eq!(a.setxattr(b"trusted.t", b"t", 1), Err(Errno::EEXIST));
        a.setattr(&owner(3, 3)).unwrap();
        let mut names: Vec<_> = a.listxattr().unwrap().split(|&b| b == 0).map(<[u8]>::to_vec).collect();
        names.sort();
        assert_eq!(names, [&b""[..], b"security.capability", b"trusted.t", b"user.x"]);
        assert_eq!(a.getxattr(b"security.capability").unwrap(), b"caps");
        a.removexattr(b"trusted.t").unwrap();
        a.removexattr(b"security.capability").unwrap();
        a.removexattr(b"user.x").unwrap();
        assert_eq!(a.removexattr(b"trusted.t"), Err(Errno::ENODATA));
        // A guest's own attribute of that name is no override.
        a.setxattr(XATTR, b"9:9:0777", 0).unwrap();
        assert_eq!(a.getxattr(XATTR).unwrap(), b"9:9:0777");
        assert_eq!(a.getattr().unwrap().uid, 3);
        a.removexattr(XATTR).unwrap();
        assert_eq!(a.setxattr(b"system.other", b"", 0), Err(Errno::EOPNOTSUPP));
    }
}
