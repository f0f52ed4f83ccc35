//! Several lower directories.

use super::*;

/// All of a tree: paths of directories, and of files with what they hold.
fn whole(guest: &Guest) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        for name in guest.list(&dir) {
            let path = format!("{dir}/{name}");
            if guest.walk(&path).unwrap().file_type() == S_IFDIR {
                found.push(format!("{path}/"));
                dirs.push(path);
            } else {
                found.push(format!("{path}={}", String::from_utf8(guest.read(&path).unwrap()).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Mounts over the upper directories of `layers`, the last of them upper-most, and over their lower one.
fn over(trees: &Trees, layers: &[&Trees]) -> Guest {
    trees.mount_with(|options| {
        let mut dirs = layers.iter().rev().map(|layer| layer.upper(""));
        options.lower = dirs.next();
        options.below = dirs.chain([layers[0].lower("")]).collect();
    })
}

#[test]
fn kept_layers_show_below_a_new_one_what_they_showed_when_they_were_made() {
    let base = Trees::new();
    base.file("a/one", "1").file("a/two", "2").file("b/c/deep", "d").file("b/file", "f").file("gone/x", "x");
    base.file("redo/old", "o").file("was-dir/in", "i").file("was-file", "w");
    let first = base.mount();
    first.unlink("a/one").unwrap();
    first.write("a/three", "3").unwrap();
    first.unlink("gone/x").unwrap();
    first.rmdir("gone").unwrap();
    first.unlink("redo/old").unwrap();
    first.rmdir("redo").unwrap();
    first.mkdir("redo").unwrap();
    first.write("redo/new", "n").unwrap();
    first.rename("b", "moved", 0).unwrap();
    first.unlink("was-dir/in").unwrap();
    first.rmdir("was-dir").unwrap();
    first.write("was-dir", "a file").unwrap();
    first.unlink("was-file").unwrap();
    first.mkdir("was-file").unwrap();
    let want = whole(&first);
    drop(first);

    let middle = Trees::new();
    let second = over(&middle, &[&base]);
    assert_eq!(whole(&second), want);
    assert_eq!(second.walk("a/one").err(), Some(Errno::ENOENT));
    assert_eq!(second.walk("b").err(), Some(Errno::ENOENT));
    // Directories that the layer moved are moved again, and names come back where it had deleted them.
    second.rename("moved/c", "c", 0).unwrap();
    second.write("c/deep2", "D").unwrap();
    second.rename("moved", "a/again", 0).unwrap();
    second.write("a/one", "new").unwrap();
    second.mkdir("gone").unwrap();
    second.rename("redo/new", "redo/newer", 0).unwrap();
    second.unlink("was-dir").unwrap();
    let want = whole(&second);
    assert!(
        want.contains(&"/a/again/file=f".to_string()) && want.contains(&"/c/deep=d".to_string()),
        "{want:?}"
    );
    drop(second);

    let top = Trees::new();
    let third = over(&top, &[&base, &middle]);
    assert_eq!(whole(&third), want);
    // Nothing of a layer is written: what is changed is copied.
    third.write("a/two", "changed").unwrap();
    third.unlink("c/deep").unwrap();
    assert_eq!(third.list("c"), ["deep2"]);
    assert_eq!(std::fs::read_to_string(base.lower("a/two")).unwrap(), "2");
    assert_eq!(whole(&over(&Trees::new(), &[&base, &middle])), want);
}

#[test]
fn directories_merge_downwards_until_one_is_opaque_or_something_else() {
    let trees = Trees::new();
    let dir = |path: &str| trees.dir.path().join(path);
    for (path, text) in [
        ("1/d/top", "1"),
        ("2/d/top", "2"),
        ("2/d/middle", "2"),
        ("3/d/bottom", "3"),
        ("3/d/middle", "3"),
        ("2/wall/in2", "2"),
        ("3/wall/in3", "3"),
        ("1/stop/in1", "1"),
        ("2/stop", "a file"),
        ("3/stop/in3", "3"),
        ("3/dead", "3"),
        ("3/d/dead", "3"),
    ] {
        std::fs::create_dir_all(dir(path).parent().unwrap()).unwrap();
        std::fs::write(dir(path), text).unwrap();
    }
    let set = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(dir(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("2/wall", "user.overlay.opaque", b"y");
    set("2/d", "user.overlay.opaque", b"x");
    std::fs::write(dir("2/d/dead"), "").unwrap();
    set("2/d/dead", "user.overlay.whiteout", b"");
    // Its directory says nothing of whiteouts: it is a file.
    std::fs::write(dir("2/dead"), "").unwrap();
    set("2/dead", "user.overlay.whiteout", b"");
    let guest = trees.mount_with(|options| {
        options.lower = Some(dir("1"));
        options.below = vec![dir("2"), dir("3")];
    });
    let want = [
        "/d/",
        "/d/bottom=3",
        "/d/middle=2",
        "/d/top=1",
        "/dead=",
        "/stop/",
        "/stop/in1=1",
        "/wall/",
        "/wall/in2=2",
    ];
    assert_eq!(whole(&guest), want);
}

#[test]
fn there_are_at_most_as_many_layers_as_overlayfs_takes() {
    let trees = Trees::new();
    let mount = |count: usize| {
        let mut options = trees.options();
        options.below = vec![trees.lower(""); count - 1];
        OverlaySb::new(&options).map(drop)
    };
    assert_eq!(mount(MAX_LAYERS), Ok(()));
    assert_eq!(mount(MAX_LAYERS + 1), Err(Errno::EINVAL));
}
