//! Overlays on memory file systems of ours, and against plain directories: the host kernel is the judge.

use std::sync::Arc;

use nomina_kernel::cred::Cred;
use nomina_kernel::mount::{MntNamespace, MountFlags, MountTable, do_mount};
use nomina_kernel::user_namespace::UserNamespace;
use nomina_kernel::vfs::{
    ActiveSuper, LookupFlags, Path, SuperBlock, SuperFlags, WalkContext, WalkCred, namei as vfs, xattr,
};
use nomina_kernel::{Errno, Result};

use super::*;
use crate::IdMap;
use crate::host::HostSb;
use crate::overlay::tests::differential::{Random, copy, populate, see, step};
use crate::overlay::tests::{Guest, READ, WRITE, content, mode, new};

/// A mount namespace whose root is a memory file system.
struct World {
    _dir: tempfile::TempDir,
    ns: Arc<MntNamespace>,
    root: Path,
}

fn root() -> Mounter {
    Mounter::new(Arc::new(Cred::root(UserNamespace::initial())))
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let (files, work) = (dir.path().join("files"), dir.path().join("work"));
        std::fs::create_dir(&files).unwrap();
        std::fs::create_dir(&work).unwrap();
        let sb = crate::tmpfs::new(files, work, IdMap::to(0, 0)).unwrap();
        let table = MountTable::new();
        let ns = MntNamespace::new(&table, ActiveSuper::new(sb, SuperFlags::empty()), MountFlags::empty());
        let root = Path::mount_root(&ns.root().unwrap());
        let world = World { _dir: dir, ns, root };
        for name in ["a", "b", "u", "w", "m", "n"] {
            world.mkdir(name);
        }
        world
    }

    fn walk<T>(&self, f: impl FnOnce(&WalkContext<'_>) -> Result<T>) -> Result<T> {
        let cred = WalkCred::root();
        f(&WalkContext { root: &self.root, pwd: &self.root, cred: &cred, umask: 0o022 })
    }

    fn at(&self, path: &str) -> Result<Path> {
        self.walk(|walk| vfs::path_lookup(walk, path.as_bytes(), LookupFlags::empty()))
    }

    fn mkdir(&self, path: &str) {
        self.walk(|walk| vfs::mkdir(walk, path.as_bytes(), 0o755)).unwrap();
    }

    fn write(&self, path: &str, text: &str) {
        let opened = self.walk(|walk| {
            let flags = WRITE | (libc::O_CREAT | libc::O_TRUNC) as u32;
            Ok(vfs::open(walk, path.as_bytes(), flags, 0o644, LookupFlags::empty())?.opened)
        });
        let Ok(nomina_kernel::vfs::Opened::Host(fd)) = opened else { panic!("{path}: no handle") };
        crate::overlay::write_all(&fd, text.as_bytes()).unwrap();
    }

    fn read(&self, path: &str) -> Result<String> {
        let opened =
            self.walk(|walk| Ok(vfs::open(walk, path.as_bytes(), READ, 0, LookupFlags::empty())?.opened));
        match opened? {
            nomina_kernel::vfs::Opened::Host(fd) => Ok(String::from_utf8(content(&fd)).unwrap()),
            _ => Err(Errno::EISDIR),
        }
    }

    fn list(&self, path: &str) -> Vec<String> {
        let entries = self.at(path).unwrap().inode().readdir().unwrap();
        let mut names: Vec<_> = entries.into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect();
        names.sort();
        names
    }

    fn params(&self, options: &str) -> Result<OvlParams> {
        let mut params = OvlParams::default();
        for option in options.split(',') {
            let (key, value) =
                option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
            params.parse(key.as_bytes(), value.map(str::as_bytes), &mut |name| {
                self.walk(|walk| vfs::path_lookup(walk, name, LookupFlags::FOLLOW))
            })?;
        }
        params.finish()
    }

    fn overlay(&self, options: &str) -> Result<Arc<OvlSuper>> {
        OvlSuper::new(self.params(options)?, root(), 77)
    }

    fn mount(&self, options: &str, on: &str) {
        let sb = self.overlay(options).unwrap();
        let flags = if sb.is_readonly() { SuperFlags::RDONLY } else { SuperFlags::empty() };
        do_mount(&self.ns, ActiveSuper::new(sb, flags), &self.at(on).unwrap(), MountFlags::empty()).unwrap();
    }

    fn unlink(&self, path: &str) -> Result<()> {
        self.walk(|walk| vfs::unlink(walk, path.as_bytes()))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.walk(|walk| vfs::rename(walk, from.as_bytes(), walk, to.as_bytes(), vfs::RenameFlags::empty()))
    }

    fn xattr(&self, path: &str, name: &str) -> Result<Vec<u8>> {
        xattr::vfs_getxattr(&self.at(path)?, &WalkCred::root(), name.as_bytes())
    }
}

#[test]
fn several_lower_layers_are_merged_and_the_upper_one_takes_the_changes() {
    let world = World::new();
    for (path, text) in [("a/both", "a"), ("b/both", "b"), ("b/deep", "b")] {
        world.write(path, text);
    }
    world.mkdir("a/d");
    world.mkdir("b/d");
    world.write("a/d/x", "ax");
    world.write("b/d/y", "by");
    world.mount("lowerdir=a:b,upperdir=u,workdir=w", "m");
    assert_eq!(world.list("m"), ["both", "d", "deep"]);
    assert_eq!(world.list("m/d"), ["x", "y"]);
    assert_eq!(world.read("m/both").unwrap(), "a");
    world.write("m/deep", "changed");
    world.write("m/d/new", "n");
    world.unlink("m/d/y").unwrap();
    assert_eq!(
        (world.read("m/deep").unwrap(), world.read("b/deep").unwrap()),
        ("changed".into(), "b".into())
    );
    assert_eq!(world.list("m/d"), ["new", "x"]);
    assert_eq!(world.read("b/d/y").unwrap(), "by", "a lower layer was changed");
    // What is in the upper layer is what Linux's overlayfs writes.
    let whiteout = world.at("u/d/y").unwrap().inode().getattr().unwrap();
    assert_eq!((whiteout.mode & libc::S_IFMT, whiteout.rdev), (libc::S_IFCHR, 0));
    assert_eq!(world.list("u"), ["d", "deep"]);
    assert_eq!(world.list("w/work"), [""; 0], "the work directory is not clean");
}

#[test]
fn a_directory_made_over_a_whiteout_is_opaque() {
    let world = World::new();
    world.mkdir("a/d");
    world.write("a/d/old", "x");
    world.mount("lowerdir=a,upperdir=u,workdir=w", "m");
    world.unlink("m/d/old").unwrap();
    world.walk(|walk| vfs::rmdir(walk, b"m/d")).unwrap();
    world.mkdir("m/d");
    assert_eq!(world.list("m/d"), [""; 0]);
    assert_eq!(world.xattr("u/d", "trusted.overlay.opaque").unwrap(), b"y");
    assert_eq!(world.xattr("m/d", "trusted.overlay.opaque"), Err(Errno::ENODATA), "guests see marks");
    // The same with the marks of userxattr.
    let world = World::new();
    world.mkdir("a/d");
    world.mount("lowerdir=a,upperdir=u,workdir=w,userxattr", "m");
    world.walk(|walk| vfs::rmdir(walk, b"m/d")).unwrap();
    world.mkdir("m/d");
    assert_eq!(world.xattr("u/d", "user.overlay.opaque").unwrap(), b"y");
}

#[test]
fn a_merged_directory_is_renamed_with_redirect_dir_only() {
    for (options, expected) in [("", Err(Errno::EXDEV)), (",redirect_dir=on", Ok(()))] {
        let world = World::new();
        world.mkdir("a/d");
        world.write("a/d/x", "x");
        let options = format!("lowerdir=a:b,upperdir=u,workdir=w{options}");
        world.mount(&options, "m");
        assert_eq!(world.rename("m/d", "m/e"), expected, "{options}");
        if expected.is_ok() {
            assert_eq!(world.list("m"), ["e"]);
            assert_eq!(world.read("m/e/x").unwrap(), "x");
            assert_eq!(world.xattr("u/e", "trusted.overlay.redirect").unwrap(), b"d");
            // Another mount of the same layers shows the same.
            world.mount("lowerdir=u:a:b", "n");
            assert_eq!(world.read("n/e/x").unwrap(), "x");
            assert_eq!(world.list("n"), ["e"]);
        }
    }
}

#[test]
fn an_overlay_can_be_on_an_overlay_but_not_a_third_one() {
    let world = World::new();
    world.write("a/f", "a");
    world.mkdir("o");
    world.mount("lowerdir=a:b", "n");
    world.mount("lowerdir=n,upperdir=u,workdir=w", "m");
    assert_eq!(world.read("m/f").unwrap(), "a");
    assert!(world.at("n").unwrap().mnt.is_readonly());
    assert_eq!(world.overlay("lowerdir=m:b").err(), Some(Errno::EINVAL));
    for odd in
        ["lowerdir=a", "lowerdir=a,upperdir=u", "upperdir=u,workdir=w", "lowerdir=a,upperdir=u,workdir=u"]
    {
        assert_eq!(world.overlay(odd).err(), Some(Errno::EINVAL), "{odd}");
    }
    for inside in ["lowerdir=u,upperdir=u,workdir=w", "lowerdir=a:a"] {
        assert_eq!(world.overlay(inside).err(), Some(Errno::ELOOP), "{inside}");
    }
}

#[test]
fn whiteouts_and_opaque_marks_in_lower_layers_hide_what_is_below() {
    let world = World::new();
    for dir in ["a", "b"] {
        world.mkdir(&format!("{dir}/d"));
    }
    world.write("b/gone", "b");
    world.write("b/d/hidden", "b");
    world.write("b/empty", "b");
    world.walk(|walk| vfs::mknod(walk, b"a/gone", libc::S_IFCHR, 0)).unwrap();
    let set = |path: &str, name: &str, value: &[u8]| {
        let path = world.at(path).unwrap();
        xattr::vfs_setxattr(&path, &WalkCred::root(), name.as_bytes(), value, 0).unwrap();
    };
    set("a/d", "user.overlay.opaque", b"y");
    // A file marked as a whiteout, in a directory that says that there are such.
    set("a", "user.overlay.opaque", b"x");
    world.write("a/empty", "");
    set("a/empty", "user.overlay.whiteout", b"");
    world.mount("lowerdir=a:b,userxattr", "m");
    assert_eq!(world.list("m"), ["d"]);
    assert_eq!(world.list("m/d"), [""; 0]);
    assert_eq!(world.read("m/gone"), Err(Errno::ENOENT));
}

#[test]
fn an_upper_directory_used_with_volatile_is_not_used_again() {
    let world = World::new();
    let options = "lowerdir=a,upperdir=u,workdir=w";
    drop(world.overlay(&format!("{options},volatile")).unwrap());
    assert_eq!(world.overlay(options).err(), Some(Errno::EINVAL));
    world.walk(|walk| vfs::unlink(walk, b"w/work/incompat/volatile/dirty")).unwrap();
    world.walk(|walk| vfs::rmdir(walk, b"w/work/incompat/volatile")).unwrap();
    drop(world.overlay(options).unwrap());
}

#[test]
fn who_mounts_gets_no_more_than_he_has() {
    let world = World::new();
    world.write("a/secret", "x");
    let secret = world.at("a/secret").unwrap();
    attr::notify_change(&secret, &mode(0o600)).unwrap();
    let user = Mounter::new(Arc::new(Cred::user(1000, 1000, &[], UserNamespace::initial())));
    let params = world.params("lowerdir=a:b").unwrap();
    let overlay = OvlSuper::new(params, user.clone(), 78).unwrap();
    let found = overlay.root().lookup(b"secret").unwrap();
    assert_eq!(found.open(READ).err(), Some(Errno::EACCES));
    // Nor can he prepare anything in a work directory that is not his.
    let params = world.params("lowerdir=a,upperdir=u,workdir=w").unwrap();
    assert_eq!(OvlSuper::new(params, user, 78).err(), Some(Errno::EACCES));
}

#[test]
fn handles_of_removed_files_go_on_to_work() {
    let world = World::new();
    world.write("a/f", "old");
    world.mount("lowerdir=a,upperdir=u,workdir=w", "m");
    let held = world.at("m/f").unwrap();
    world.unlink("m/f").unwrap();
    assert_eq!(held.inode().getattr().unwrap().nlink, 0);
    attr::notify_change(&held, &mode(0o600)).unwrap();
    assert_eq!(held.inode().getattr().unwrap().mode & 0o777, 0o600);
    assert_eq!(world.list("m"), [""; 0]);
    let made = world.at("m").unwrap();
    made.inode().create(b"f", new(0o644), WRITE).unwrap();
    assert_eq!(world.read("m/f").unwrap(), "");
}

/// A tree on the host copied into a directory of the memory file system.
fn import(world: &World, from: &std::path::Path, to: &str) {
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let path = format!("{to}/{}", entry.file_name().to_str().unwrap());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            world.mkdir(&path);
            import(world, &entry.path(), &path);
        } else if kind.is_symlink() {
            let target = std::fs::read_link(entry.path()).unwrap();
            world
                .walk(|walk| vfs::symlink(walk, target.to_str().unwrap().as_bytes(), path.as_bytes()))
                .unwrap();
        } else {
            world.write(&path, &std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

fn run(seed: u64, steps: u32) {
    let world = World::new();
    let host = tempfile::tempdir().unwrap();
    let (low, high) = (host.path().join("low"), host.path().join("high"));
    let plain = host.path().join("plain");
    for dir in [&low, &high, &plain] {
        std::fs::create_dir(dir).unwrap();
    }
    // Two lower layers: the plain tree starts as what they make together.
    populate(&mut Random(seed), &low, 1);
    import(&world, &low, "b");
    copy(&low, &plain);
    for name in ["p", "q"] {
        std::fs::create_dir(high.join(name)).unwrap();
        populate(&mut Random(seed ^ 5), &high.join(name), 2);
    }
    import(&world, &high, "a");
    copy(&high, &plain);
    let options = "lowerdir=a:b,upperdir=u,workdir=w,redirect_dir=on";
    let mount = || {
        let sb = world.overlay(options).unwrap();
        Guest { root: sb.root(), sb: None }
    };
    let mut overlay = mount();
    let plain = Guest { root: HostSb::new(&plain, IdMap::to(0, 0)).unwrap().root(), sb: None };
    let (mut left, mut right) = (Random(seed ^ 77), Random(seed ^ 77));
    let mut log = Vec::new();
    for number in 0..steps {
        let (op, expected) = step(&mut right, &plain);
        log.push(op.clone());
        let (same, got) = step(&mut left, &overlay);
        assert_eq!(op, same);
        if expected == Err(Errno::EACCES) {
            return;
        }
        assert!(got == expected, "seed {seed}: {op}: {got:?}, host {expected:?}\n{}", log.join("\n"));
        if number % 8 == 7 && rustix::process::geteuid().is_root() {
            assert_eq!(see(&overlay), see(&plain), "seed {seed} after\n{}", log.join("\n"));
        }
        // What is in the layers must be all there is.
        if number % 40 == 39 {
            drop(overlay);
            overlay = mount();
        }
    }
}

#[test]
fn random_operations_answer_as_on_the_host() {
    for seed in 0..40 {
        run(seed, 120);
    }
}
