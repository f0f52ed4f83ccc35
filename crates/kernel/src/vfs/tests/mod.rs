//! Tests of path walk and of the calls on names, over a file system in memory.

mod access;
mod handles;
mod names;
mod opening;
mod oracle;
mod walking;
mod watching;

use std::sync::Arc;

use super::testfs::{TestFs, namespace};
use super::*;
use crate::errno::{Errno, Result};
use crate::mount::{self, MntNamespace, Mount, MountFlags};

/// A world with one file system: what every test starts from.
struct World {
    fs: Arc<TestFs>,
    ns: Arc<MntNamespace>,
    at: FsStruct,
}

const ROOT: WalkCred<'static> = WalkCred::root();
const USER: WalkCred<'static> = WalkCred::user(1000, 1000, &[]);

impl World {
    fn new() -> World {
        World::of(TestFs::new(true))
    }

    fn of(fs: Arc<TestFs>) -> World {
        let (ns, mut at) = namespace(&fs);
        at.umask = 0;
        World { fs, ns, at }
    }

    /// `/a/b/c` directories, `/f` a file, `/l -> a`, `/t` a sticky directory, `/u` a directory of the user's.
    fn populated() -> World {
        let world = World::new();
        for dir in ["/a", "/a/b", "/a/b/c", "/u"] {
            world.mkdir(dir, 0o755).unwrap();
        }
        world.mkdir("/t", 0o1777).unwrap();
        vfs_chown(&world, "/u", 1000);
        world.creat("/f").unwrap();
        world.symlink("a", "/l").unwrap();
        world
    }

    fn ctx<'a>(&'a self, cred: &'a WalkCred<'a>) -> WalkContext<'a> {
        self.at.walk(cred)
    }

    fn mkdir(&self, name: &str, mode: u32) -> Result<()> {
        namei::mkdir(&self.ctx(&ROOT), name.as_bytes(), mode)
    }

    fn creat(&self, name: &str) -> Result<()> {
        namei::mknod(&self.ctx(&ROOT), name.as_bytes(), 0o644, 0)
    }

    fn symlink(&self, target: &str, name: &str) -> Result<()> {
        namei::symlink(&self.ctx(&ROOT), target.as_bytes(), name.as_bytes())
    }

    fn path(&self, name: &str) -> Path {
        self.lookup(name, LookupFlags::FOLLOW).unwrap()
    }

    fn lookup(&self, name: &str, flags: LookupFlags) -> Result<Path> {
        namei::path_lookup(&self.ctx(&ROOT), name.as_bytes(), flags)
    }

    fn lookup_as(&self, cred: &WalkCred<'_>, name: &str) -> Result<Path> {
        namei::path_lookup(&self.at.walk(cred), name.as_bytes(), LookupFlags::FOLLOW)
    }

    fn stat(&self, name: &str) -> Result<Attr> {
        namei::stat(&self.ctx(&ROOT), name.as_bytes(), LookupFlags::FOLLOW)
    }

    fn rename(&self, old: &str, new: &str, flags: namei::RenameFlags) -> Result<()> {
        let ctx = self.ctx(&ROOT);
        namei::rename(&ctx, old.as_bytes(), &ctx, new.as_bytes(), flags)
    }

    /// Mounts a fresh file system.
    fn mount(&self, at: &str, flags: MountFlags) -> (Arc<TestFs>, Arc<Mount>) {
        let fs = TestFs::new(true);
        let sb = ActiveSuper::new(fs.clone(), SuperFlags::empty());
        let mount = mount::do_mount(&self.ns, sb, &self.path(at), flags).unwrap();
        (fs, mount)
    }

    fn d_path(&self, path: &Path) -> String {
        String::from_utf8(d_path::d_path(path, &self.at.root)).unwrap()
    }

    /// The path that a lookup arrives at.
    fn resolve(&self, name: &str, flags: LookupFlags) -> Result<String> {
        self.lookup(name, flags).map(|path| self.d_path(&path))
    }
}

fn vfs_chown(world: &World, name: &str, uid: u32) {
    attr::vfs_chown(&world.path(name), &ROOT, Some(uid), Some(uid)).unwrap();
}

fn chmod(world: &World, name: &str, mode: u32) {
    attr::vfs_chmod(&world.path(name), &ROOT, mode).unwrap();
}

/// The error of a result whose value has no `Debug`.
#[track_caller]
fn refused<T>(result: Result<T>) -> Errno {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error,
    }
}
