//! What an ordinary user meets on a host that is not his: run again as `nobody` when the tests run as root.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;

const NOBODY: u32 = 65534;

/// Runs all tests of this file system as an ordinary user too.
#[test]
fn all_tests_pass_for_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let exe = std::env::current_exe().unwrap();
    // The target directory may be closed to others: run a copy.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = dir.path().join("tests");
    std::fs::copy(exe, &copy).unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    let home = dir.path().join("tmp");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o1777)).unwrap();
    let mut command = Command::new(&copy);
    command.env("TMPDIR", &home).env("RUST_BACKTRACE", "1").current_dir("/").uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Closes a lower file or directory to everybody but root; for root nothing is closed.
fn close(path: PathBuf) -> bool {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o0)).unwrap();
    !rustix::process::geteuid().is_root()
}

#[test]
fn an_unreadable_file_can_be_renamed_and_changed_but_not_read() {
    let trees = Trees::new();
    trees.file("d/a", "secret").file("d/b", "b");
    if !close(trees.lower("d/a")) {
        return;
    }
    let guest = trees.mount();
    assert_eq!(guest.open("d/a", READ).err(), Some(Errno::EACCES));
    assert_eq!(guest.open("d/a", RDWR).err(), Some(Errno::EACCES));
    assert_eq!(guest.walk("d/a").unwrap().getattr().unwrap().size, 6);
    guest.set("d/a", owner(1, 1)).unwrap();
    guest.rename("d/a", "c", 0).unwrap();
    for guest in [guest, trees.mount()] {
        assert_eq!(guest.open("c", READ).err(), Some(Errno::EACCES), "zeros are not the data");
        let attr = guest.walk("c").unwrap().getattr().unwrap();
        assert_eq!((attr.size, attr.uid), (6, 1));
    }
    let guest = trees.mount();
    drop(guest.open("c", WRITE | TRUNC).unwrap());
    assert_eq!(guest.read("c").unwrap(), b"");
    guest.unlink("c").unwrap();
}

#[test]
fn an_unreadable_file_without_data_can_be_read_locked_and_written() {
    let trees = Trees::new();
    trees.file("d/lock", "").file("d/empty", "");
    if !close(trees.lower("d/lock")) || !close(trees.lower("d/empty")) {
        return;
    }
    let guest = trees.mount();
    let fd = guest.open("d/lock", RDWR).unwrap();
    rustix::io::pwrite(&fd, b"7", 0).unwrap();
    assert_eq!(guest.read("d/lock").unwrap(), b"7");
    assert_eq!(guest.read("d/empty").unwrap(), b"");
}

#[test]
fn an_unreadable_log_can_be_appended_to_and_stays_closed() {
    let trees = Trees::new();
    trees.file("log", "secret");
    if !close(trees.lower("log")) {
        return;
    }
    let guest = trees.mount();
    let fd = guest.open("log", WRITE | libc::O_APPEND as u32).unwrap();
    rustix::io::write(&fd, b" more").unwrap();
    for guest in [guest, trees.mount()] {
        assert_eq!(guest.walk("log").unwrap().getattr().unwrap().size, 11);
        drop(guest.open("log", WRITE).unwrap());
        assert_eq!(guest.open("log", READ).err(), Some(Errno::EACCES));
        assert_eq!(guest.open("log", RDWR).err(), Some(Errno::EACCES));
    }
}

#[test]
fn an_unreadable_directory_shows_empty_and_can_be_written() {
    let trees = Trees::new();
    trees.file("d/a", "secret");
    let closed = close(trees.lower("d"));
    if closed {
        let guest = trees.mount();
        assert!(guest.list("d").is_empty());
        assert_eq!(guest.walk("d/a").err(), Some(Errno::ENOENT));
        guest.write("d/mine", "m").unwrap();
        assert_eq!(guest.list("d"), ["mine"]);
        guest.unlink("d/mine").unwrap();
        guest.rmdir("d").unwrap();
    }
    std::fs::set_permissions(trees.lower("d"), PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn files_of_other_users_keep_their_owners_when_copied_up() {
    let trees = Trees::new();
    trees.file("a", "a");
    let guest = trees.mount_with(|o| {
        o.lower = Some("/etc".into());
    });
    let before = guest.walk("passwd").unwrap().getattr().unwrap();
    let text = guest.read("passwd").unwrap();
    drop(guest.open("passwd", RDWR).unwrap());
    let after = guest.walk("passwd").unwrap().getattr().unwrap();
    assert_eq!((before.uid, before.gid, before.mode), (after.uid, after.gid, after.mode));
    assert_eq!(guest.read("passwd").unwrap(), text);
}

/// A kernel overlay with our upper directory as a layer must show the same names. Needs a mount: as root only.
#[test]
fn the_kernels_overlayfs_reads_our_whiteouts_and_opaque_directories() {
    let trees = Trees::new();
    trees.file("d/gone", "x").file("d/stays", "x").file("o/hidden", "x");
    let guest = trees.mount();
    guest.unlink("d/gone").unwrap();
    guest.unlink("o/hidden").unwrap();
    guest.rmdir("o").unwrap();
    guest.mkdir("o").unwrap();
    guest.write("o/new", "n").unwrap();
    std::fs::create_dir(trees.dir.path().join("merged")).unwrap();
    let script = "mount -t overlay -o userxattr,lowerdir=upper:lower none merged || exit 77
                  cd merged && find . | LC_ALL=C sort | tr '\\n' ' '";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .current_dir(trees.dir.path())
        .output()
        .unwrap();
    if !output.status.success() {
        eprintln!("skipped: no mount allowed here, or a kernel before 6.7");
        return;
    }
    assert_eq!(String::from_utf8_lossy(&output.stdout), ". ./d ./d/stays ./o ./o/new ");
}
