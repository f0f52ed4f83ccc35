use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::*;

const READ: u32 = libc::O_RDONLY as u32;
const RDWR: u32 = libc::O_RDWR as u32;

fn mounted() -> (tempfile::TempDir, Arc<dyn Inode>) {
    let dir = tempfile::tempdir().unwrap();
    let sb = HostSb::new(dir.path(), IdMap::to(0, 0)).unwrap();
    (dir, sb.root())
}

fn new(mode: u32) -> NewInode {
    NewInode { mode, uid: 0, gid: 0, rdev: 0 }
}

fn handle(opened: Opened) -> OwnedFd {
    let Opened::Host(fd) = opened else { panic!("a host handle was expected") };
    fd
}

#[test]
fn what_is_written_inside_is_on_the_host_and_the_other_way_round() {
    let (dir, root) = mounted();
    let (_, opened) = root.create(b"a", new(0o640), RDWR).unwrap();
    rustix::io::write(handle(opened), b"inside").unwrap();
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"inside");
    assert_eq!(std::fs::metadata(dir.path().join("a")).unwrap().mode() & 0o7777, 0o640);
    std::fs::write(dir.path().join("b"), "outside").unwrap();
    assert_eq!(root.lookup(b"b").unwrap().getattr().unwrap().size, 7);
    root.rename(b"b", &root, b"c", 0).unwrap();
    assert!(dir.path().join("c").exists());
    root.unlink(b"c").unwrap();
    assert_eq!(root.lookup(b"c").err(), Some(Errno::ENOENT));
}

#[test]
fn the_invoking_user_shows_as_the_default_user_and_nothing_can_be_given_away() {
    let (dir, root) = mounted();
    std::fs::write(dir.path().join("a"), "").unwrap();
    let a = root.lookup(b"a").unwrap();
    assert_eq!(a.getattr().unwrap().uid, 0);
    a.setattr(&SetAttr { uid: Some(0), gid: Some(0), ..SetAttr::default() }).unwrap();
    let foreign = SetAttr { uid: Some(33), ..SetAttr::default() };
    assert_eq!(a.setattr(&foreign), Err(Errno::EPERM));
    let setuid = SetAttr { mode: Some(0o4755), ..SetAttr::default() };
    assert_eq!(a.setattr(&setuid), Err(Errno::EPERM));
    assert_eq!(a.setxattr(b"user.containers.override_stat", b"0:0:0644", 0), Err(Errno::EPERM));
}

#[test]
fn devices_cannot_be_made_and_those_of_the_host_are_not_opened() {
    let (_dir, root) = mounted();
    assert_eq!(root.mknod(b"d", new(S_IFCHR | 0o600)).err(), Some(Errno::EPERM));
    let dev = HostSb::new(Path::new("/dev"), IdMap::to(0, 0)).unwrap();
    let null = dev.root().lookup(b"null").unwrap();
    assert_eq!(null.getattr().unwrap().rdev, libc::makedev(1, 3));
    assert_eq!(null.open(READ).err(), Some(Errno::ENXIO));
}

#[test]
fn a_link_is_text_and_never_followed() {
    let (dir, root) = mounted();
    symlink("/etc/passwd", dir.path().join("l")).unwrap();
    symlink("/etc", dir.path().join("d")).unwrap();
    let link = root.lookup(b"l").unwrap();
    assert_eq!(link.readlink().unwrap(), b"/etc/passwd");
    assert_eq!(link.open(READ).err(), Some(Errno::ELOOP));
    assert_eq!(root.lookup(b"d").unwrap().lookup(b"passwd").err(), Some(Errno::ENOTDIR));
    for name in [&b".."[..], b".", b"d/passwd", b"/etc/passwd", b""] {
        assert!(root.lookup(name).is_err());
    }
}

#[test]
fn a_directory_swapped_for_a_link_never_leads_outside() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let (dir, root) = mounted();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    std::fs::write(dir.path().join("real/secret"), "mine").unwrap();
    symlink(outside.path(), dir.path().join("link")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let cwd = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&cwd, "real", &cwd, "link", RenameFlags::EXCHANGE).unwrap();
            }
        });
        // On a busy machine the directory may be away whenever it is looked for: then longer.
        let (begun, mut tries, mut reached) = (Instant::now(), 0, 0);
        while tries < 3000 || reached == 0 && begun.elapsed() < Duration::from_secs(30) {
            tries += 1;
            let Ok(file) = root.lookup(b"real").and_then(|d| d.lookup(b"secret")) else { continue };
            let fd = handle(file.open(READ).unwrap());
            let mut buf = [0; 16];
            let len = rustix::io::read(&fd, &mut buf).unwrap();
            assert_eq!(&buf[..len], b"mine");
            reached += 1;
        }
        stop.store(true, Ordering::Relaxed);
        assert!(reached > 0);
    });
}

#[test]
fn hard_links_and_temporary_files_get_names() {
    let (dir, root) = mounted();
    std::fs::write(dir.path().join("a"), "x").unwrap();
    root.link(b"b", &root.lookup(b"a").unwrap()).unwrap();
    assert_eq!(root.lookup(b"a").unwrap().getattr().unwrap().nlink, 2);
    let fd = handle(root.tmpfile(new(0o600), RDWR).unwrap());
    root.link_handle(b"t", &fd).unwrap();
    let read_only = handle(root.lookup(b"a").unwrap().open(READ).unwrap());
    assert_eq!(root.link_handle(b"u", &read_only), Err(Errno::EXDEV));
    assert_eq!(std::fs::metadata(dir.path().join("t")).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_path_of_the_host_is_told_relative_to_the_mount() {
    let dir = tempfile::tempdir().unwrap();
    let sb = HostSb::new(dir.path(), IdMap::to(0, 0)).unwrap();
    let path =
        |tail: &str| [dir.path().canonicalize().unwrap().as_os_str().as_bytes(), tail.as_bytes()].concat();
    assert_eq!(sb.path_of_host(&path("/a/b")).unwrap(), b"/a/b");
    assert_eq!(sb.path_of_host(&path("")).unwrap(), b"/");
    assert_eq!(sb.path_of_host(&path("x")), None);
    assert_eq!(sb.path_of_host(b"/etc"), None);
}

#[test]
fn a_directory_shown_read_only_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "text").unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    let sb = HostSb::new_read_only(dir.path(), IdMap::to(0, 0)).unwrap();
    assert!(sb.is_write_protected());
    let root = sb.root();
    let file = root.lookup(b"f").unwrap();
    let new = |kind| NewInode { mode: kind | 0o644, uid: 0, gid: 0, rdev: 0 };
    assert!(matches!(file.open(libc::O_RDONLY as u32), Ok(Opened::Host(_))));
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC, 3] {
        assert!(matches!(file.open(flags as u32), Err(Errno::EROFS)), "{flags:o}");
    }
    assert!(matches!(root.create(b"n", new(S_IFREG), 1), Err(Errno::EROFS)));
    assert!(matches!(root.tmpfile(new(S_IFREG), 2), Err(Errno::EROFS)));
    assert!(matches!(file.host_handle(true), Err(Errno::EROFS)));
    let refused = [
        root.mkdir(b"n", new(S_IFDIR)).map(drop),
        root.mknod(b"n", new(S_IFIFO)).map(drop),
        root.symlink(b"n", b"f", new(S_IFLNK)).map(drop),
        root.link(b"n", &file),
        root.unlink(b"f"),
        root.rmdir(b"d"),
        root.rename(b"f", &root, b"n", 0),
        file.setattr(&SetAttr { mode: Some(0), ..SetAttr::default() }),
        file.setattr(&SetAttr { size: Some(0), ..SetAttr::default() }),
        file.setattr(&SetAttr::default()),
        file.setxattr(b"user.x", b"1", 0),
        file.removexattr(b"user.x"),
    ];
    assert!(refused.iter().all(|result| *result == Err(Errno::EROFS)), "{refused:?}");
    assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), b"text");
}
