//! Whiteouts, opaque directories, renames, hidden directories.

use super::*;

#[test]
fn an_untouched_lower_tree_shows_through_and_leaves_the_upper_empty() {
    let trees = Trees::new();
    trees.file("etc/passwd", "root").file("bin/sh", "elf");
    let guest = trees.mount();
    assert_eq!(guest.list(""), ["bin", "etc"]);
    assert_eq!(guest.read("etc/passwd").unwrap(), b"root");
    assert_eq!(guest.walk("etc/none").err(), Some(Errno::ENOENT));
    assert_eq!(guest.walk("etc/passwd/x").err(), Some(Errno::ENOTDIR));
    assert_eq!(guest.walk(&"n".repeat(256)).err(), Some(Errno::ENAMETOOLONG));
    assert_eq!(std::fs::read_dir(trees.upper("")).unwrap().count(), 0);
}

#[test]
fn a_deleted_lower_name_is_a_whiteout_as_overlayfs_writes_it() {
    let trees = Trees::new();
    trees.file("d/a", "a").file("d/b", "b");
    let guest = trees.mount();
    guest.unlink("d/a").unwrap();
    assert_eq!(guest.list("d"), ["b"]);
    assert_eq!(guest.walk("d/a").err(), Some(Errno::ENOENT));
    assert!(trees.lower("d/a").exists());
    let upper = rustix::fs::open(trees.upper("d"), OFlags::PATH, Mode::empty()).unwrap();
    assert_eq!(At::new(&upper, b"").getxattr(b"user.overlay.opaque").unwrap(), b"x");
    assert_eq!(At::new(&upper, b"a").getxattr(b"user.overlay.whiteout").unwrap(), b"");
    assert_eq!(std::fs::metadata(trees.upper("d/a")).unwrap().len(), 0);
    drop(guest);
    assert_eq!(trees.mount().list("d"), ["b"]);
}

#[test]
fn a_name_without_a_lower_one_leaves_no_whiteout() {
    let trees = Trees::new();
    trees.file("d/a", "a");
    let guest = trees.mount();
    guest.write("d/new", "n").unwrap();
    guest.unlink("d/new").unwrap();
    assert_eq!(std::fs::read_dir(trees.upper("d")).unwrap().count(), 0);
}

#[test]
fn a_directory_made_over_a_deleted_one_is_opaque() {
    let trees = Trees::new();
    trees.file("d/old", "x");
    let guest = trees.mount();
    assert_eq!(guest.rmdir("d"), Err(Errno::ENOTEMPTY));
    guest.unlink("d/old").unwrap();
    guest.rmdir("d").unwrap();
    guest.mkdir("d").unwrap();
    assert!(guest.list("d").is_empty());
    drop(guest);
    assert!(trees.mount().list("d").is_empty());
}

#[test]
fn a_directory_stays_opaque_when_a_name_in_it_changes_places_with_a_whiteout() {
    let trees = Trees::new();
    trees.file("d/old", "x").file("gone/file", "y");
    let guest = trees.mount();
    for (file, dir) in [("d/old", "d"), ("gone/file", "gone")] {
        guest.unlink(file).unwrap();
        guest.rmdir(dir).unwrap();
    }
    guest.mkdir("d").unwrap();
    guest.mkdir("d/sub").unwrap();
    guest.rename("d/sub", "gone", 0).unwrap();
    for guest in [guest, trees.mount()] {
        assert!(guest.list("d").is_empty());
        assert!(guest.list("gone").is_empty());
    }
}

#[test]
fn a_merged_directory_is_renamed_without_copying_its_files() {
    let trees = Trees::new();
    trees.file("usr/lib/big", "big").file("usr/lib/sub/deep", "deep");
    let guest = trees.mount();
    guest.write("usr/lib/mine", "mine").unwrap();
    guest.unlink("usr/lib/big").unwrap();
    let before = guest.walk("usr/lib").unwrap().getattr().unwrap();
    guest.rename("usr/lib", "moved", 0).unwrap();
    for guest in [guest, trees.mount()] {
        assert_eq!(guest.list("moved"), ["mine", "sub"]);
        assert_eq!(guest.read("moved/sub/deep").unwrap(), b"deep");
        assert!(guest.list("usr").is_empty());
        let after = guest.walk("moved").unwrap().getattr().unwrap();
        assert_eq!((before.dev, before.ino), (after.dev, after.ino));
    }
    assert!(!trees.upper("moved/sub").exists());
}

#[test]
fn the_inode_number_of_a_directory_survives_copy_up() {
    let trees = Trees::new();
    trees.file("d/a", "a");
    let guest = trees.mount();
    let held = guest.walk("d").unwrap();
    let before = held.getattr().unwrap();
    guest.write("d/b", "b").unwrap();
    let after = held.getattr().unwrap();
    assert_eq!((before.dev, before.ino, before.mode), (after.dev, after.ino, after.mode));
    let listed = guest.root.readdir().unwrap();
    assert_eq!(listed[0].ino, before.ino);
}

#[test]
fn copy_up_of_a_child_leaves_the_times_of_its_directory() {
    let trees = Trees::new();
    trees.file("d/a", "a");
    let guest = trees.mount();
    let before = guest.walk("d").unwrap().getattr().unwrap().mtime;
    guest.set("d/a", mode(0o600)).unwrap();
    assert_eq!(guest.walk("d").unwrap().getattr().unwrap().mtime, before);
}

#[test]
fn a_removed_directory_that_is_held_answers_as_linux_does() {
    let trees = Trees::new();
    std::fs::create_dir(trees.lower("low")).unwrap();
    let guest = trees.mount();
    guest.mkdir("up").unwrap();
    for name in ["low", "up"] {
        let held = guest.walk(name).unwrap();
        guest.rmdir(name).unwrap();
        assert_eq!(held.getattr().unwrap().nlink, 0);
        assert!(held.readdir().unwrap().is_empty());
        assert_eq!(held.lookup(b"x").err(), Some(Errno::ENOENT));
        assert_eq!(held.create(b"x", new(0o600), WRITE).err(), Some(Errno::ENOENT));
        assert_eq!(held.mkdir(b"x", new(0o700)).err(), Some(Errno::ENOENT));
    }
}

#[test]
fn hidden_directories_are_empty_and_have_the_mode_asked_for() {
    let trees = Trees::new();
    trees.file("home/user/.ssh/id", "secret").file("tmp/x", "x");
    let hide = |o: &mut OverlayOptions| {
        o.hide = vec![("/home".into(), 0o755), ("/tmp".into(), 0o1777), ("/none".into(), 0o700)];
    };
    for guest in [trees.mount_with(hide), trees.mount_with(hide)] {
        assert_eq!(guest.list(""), ["home", "tmp"]);
        assert!(guest.list("home").is_empty());
        assert_eq!(guest.walk("home/user").err(), Some(Errno::ENOENT));
        assert_eq!(guest.mode("tmp"), 0o1777);
    }
}

#[test]
fn a_seeded_file_replaces_the_lower_one() {
    let trees = Trees::new();
    trees.file("etc/shadow", "host secret");
    let guest = trees.mount();
    guest.sb().seed(b"/etc/shadow", b"root:*:", 0o640, 0, 42).unwrap();
    assert_eq!(guest.read("etc/shadow").unwrap(), b"root:*:");
    let attr = guest.walk("etc/shadow").unwrap().getattr().unwrap();
    assert_eq!((attr.mode & 0o7777, attr.uid, attr.gid), (0o640, 0, 42));
    assert_eq!(guest.list("etc"), ["shadow"]);
    assert_eq!(guest.sb().seed(b"/none/x", b"", 0o600, 0, 0), Err(Errno::ENOENT));
}

#[test]
fn the_upper_directory_is_not_seen_through_the_lower_one() {
    let trees = Trees::new();
    trees.file("a", "a");
    std::fs::create_dir(trees.lower("upper")).unwrap();
    std::fs::create_dir(trees.lower("work")).unwrap();
    let guest = trees.mount_with(|o| {
        o.upper = trees.lower("upper");
        o.work = trees.lower("work");
    });
    assert_eq!(guest.walk("upper").err(), Some(Errno::ENOENT));
    assert_eq!(guest.list(""), ["a", "work"]);
}

#[test]
fn few_directory_handles_suffice_for_a_deep_tree() {
    let trees = Trees::new();
    let deep: Vec<String> = (0..40).map(|n| format!("d{n}")).collect();
    trees.file(&format!("{}/f", deep.join("/")), "deep");
    let guest = trees.mount_with(|o| o.max_fds = Some(8));
    assert_eq!(guest.read(&format!("{}/f", deep.join("/"))).unwrap(), b"deep");
    guest.write(&format!("{}/g", deep.join("/")), "new").unwrap();
    assert_eq!(guest.list(&deep.join("/")), ["f", "g"]);
}

#[test]
fn a_tmpfs_starts_empty_and_is_written() {
    let trees = Trees::new();
    let sb = crate::tmpfs::new(trees.upper(""), trees.dir.path().join("work"), IdMap::to(0, 0)).unwrap();
    let guest = Guest { root: sb.root(), sb: Some(sb) };
    assert!(guest.list("").is_empty());
    guest.mkdir("d").unwrap();
    guest.write("d/a", "a").unwrap();
    guest.rename("d", "e", 0).unwrap();
    assert_eq!(guest.read("e/a").unwrap(), b"a");
    guest.unlink("e/a").unwrap();
    guest.rmdir("e").unwrap();
    assert_eq!(std::fs::read_dir(trees.upper("")).unwrap().count(), 0);
    assert_eq!(guest.sb().statfs().unwrap().magic, 0x0102_1994);
}
