//! Files of nsfs as mounts: they keep a namespace, and must not make one keep itself.

use std::any::Any;

use super::*;
use crate::mnt_ns::MntNs;
use crate::nsfs::NsRef;
use crate::user_namespace::UserNamespace;
use crate::vfs::{Attr, Inode, Opened, S_IFREG, StatFs, SuperBlock};

struct NsFile(NsRef);

impl Inode for NsFile {
    fn getattr(&self) -> Result<Attr> {
        Ok(Attr { mode: S_IFREG | 0o444, ..Attr::default() })
    }
    fn file_type(&self) -> u32 {
        S_IFREG
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn namespace(&self) -> Option<NsRef> {
        Some(self.0.clone())
    }
    fn open(&self, _flags: u32) -> Result<Opened> {
        Ok(Opened::Text(Vec::new()))
    }
}

struct NsSb(NsRef);

impl SuperBlock for NsSb {
    fn fs_type(&self) -> &'static str {
        "nsfs"
    }
    fn source(&self) -> Vec<u8> {
        b"nsfs".to_vec()
    }
    fn dev(&self) -> u64 {
        4
    }
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(NsFile(self.0.clone()))
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs::default())
    }
    fn cacheable(&self) -> bool {
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A place for the file of a namespace, in no tree.
fn file_of(table: &Arc<MountTable>, ns: &Arc<MntNamespace>) -> Path {
    let ns = NsRef::Mnt(MntNs::new(UserNamespace::initial(), ns.clone()));
    let sb = ActiveSuper::new(Arc::new(NsSb(ns)), SuperFlags::empty());
    let root = sb.root().clone();
    Path::mount_root(&Mount::new(table, sb, root, MountFlags::empty()))
}

fn world_with_files() -> World {
    let world = World::new();
    for name in ["/f", "/g"] {
        crate::vfs::namei::mknod(&world.at.walk(&ROOT), name.as_bytes(), 0o644, 0).unwrap();
    }
    world
}

#[test]
fn the_file_of_a_younger_namespace_can_be_mounted_and_keeps_it() {
    let world = world_with_files();
    let table = world.ns.table().clone();
    let child = world.unshare(false);
    let file = file_of(&table, &child.ns);
    let id = child.ns.id();
    bind_mount(&world.ns, &file, &world.path("/f"), false).unwrap();
    drop((child, file));
    assert!(table.lookup_mnt_ns(id).is_some());
    let line = format!(" mnt:[{id}] /f rw - nsfs nsfs rw");
    assert!(world.info().contains(&line), "{}", world.info());
    world.umount("/f", UmountFlags::empty()).unwrap();
    assert!(table.lookup_mnt_ns(id).is_none());
}

#[test]
fn a_namespace_cannot_contain_itself_or_an_older_one() {
    let world = world_with_files();
    let table = world.ns.table().clone();
    let child = world.unshare(false);
    let (older, younger) = (file_of(&table, &world.ns), file_of(&table, &child.ns));
    for file in [&older, &younger] {
        assert_eq!(refused(bind_mount(&child.ns, file, &child.path("/f"), false)), Errno::EINVAL);
    }
    // Not by a copy either: with the namespace that holds it, the file is left out.
    bind_mount(&world.ns, &younger, &world.path("/f"), false).unwrap();
    let third = world.unshare(false);
    assert_eq!((world.places(), third.places()), (vec!["/".into(), "/f".into()], vec!["/".into()]));
    // Nor by propagation.
    world.make("/", MountPropagation::Shared);
    let fourth = world.unshare(false);
    assert_eq!(refused(bind_mount(&world.ns, &younger, &world.path("/g"), false)), Errno::EINVAL);
    assert_eq!((world.ns.nr_mounts(), fourth.ns.nr_mounts()), (3, 2));
    world.check();
    // Nor by a detached tree that is moved later.
    let tree = DetachedMount::open_tree(&child.ns, &younger, false).unwrap();
    assert_eq!(move_mount(&child.ns, &tree.path(), &child.path("/g")), Err(Errno::ELOOP));
}
