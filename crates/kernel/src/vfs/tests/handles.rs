//! File handles: [`crate::vfs::exportfs`].

use super::*;
use crate::vfs::exportfs::FileId;

fn encode(path: &Path) -> FileId {
    path.mnt.sb().encode_fh(&path.dentry, false).unwrap()
}

fn decode(world: &World, id: &FileId) -> Result<Arc<Dentry>> {
    world.path("/").mnt.sb().decode_fh(id)
}

#[test]
fn a_handle_leads_to_its_object_by_whatever_name_it_has() {
    let world = World::populated();
    let id = encode(&world.path("/a/b"));
    assert_eq!(encode(&world.path("/a/b")), id);
    world.rename("/a/b", "/u/new", namei::RenameFlags::empty()).unwrap();
    let found = decode(&world, &id).unwrap();
    assert!(found.is_same(&world.path("/u/new").dentry));
    assert_eq!(encode(&world.path("/u/new")), id);
}

#[test]
fn the_handle_of_a_removed_name_is_stale_unless_somebody_holds_it() {
    let world = World::populated();
    let file = encode(&world.path("/f"));
    let dir = world.path("/a/b/c");
    let held = encode(&dir);
    namei::unlink(&world.ctx(&ROOT), b"/f").unwrap();
    namei::rmdir(&world.ctx(&ROOT), b"/a/b/c").unwrap();
    assert_eq!(decode(&world, &file).err(), Some(Errno::ESTALE));
    assert!(decode(&world, &held).unwrap().is_same(&dir.dentry));
    drop(dir);
    assert_eq!(decode(&world, &held).err(), Some(Errno::ESTALE));
}

#[test]
fn only_handles_that_were_given_out_lead_anywhere() {
    let world = World::populated();
    let id = encode(&world.path("/f"));
    for at in 0..id.bytes.len() {
        let mut forged = id.clone();
        forged.bytes[at] ^= 1;
        assert_eq!(decode(&world, &forged).err(), Some(Errno::ESTALE), "byte {at}");
    }
    for bytes in [&id.bytes[..11], &[&id.bytes[..], &[0]].concat()] {
        assert!(decode(&world, &FileId { kind: id.kind, bytes: bytes.to_vec() }).is_err());
    }
    assert!(decode(&world, &FileId { kind: 0x81, bytes: id.bytes.clone() }).is_err());
    // Nobody has asked for this one.
    let attr = world.stat("/a").unwrap();
    let guess = [&2u32.to_le_bytes()[..], &attr.ino.to_le_bytes()].concat();
    assert!(decode(&world, &FileId { kind: id.kind, bytes: guess }).is_err());
}

#[test]
fn what_is_known_by_an_open_handle_only_has_no_file_handle() {
    let world = World::populated();
    let file = world.path("/f");
    let open = Path::anonymous(&file.mnt, file.inode().clone());
    assert!(open.is_anonymous() && !file.is_anonymous() && !world.path("/").is_anonymous());
    assert_eq!(open.mnt.sb().encode_fh(&open.dentry, false).err(), Some(Errno::EOPNOTSUPP));
    assert!(open.mnt.sb().encode_fh(&open.dentry, true).is_ok());
}

#[test]
fn the_oldest_handles_are_forgotten() {
    let world = World::new();
    world.creat("/first").unwrap();
    let first = encode(&world.path("/first"));
    for i in 0..16384 {
        let name = format!("/{i}");
        world.creat(&name).unwrap();
        encode(&world.path(&name));
        namei::unlink(&world.ctx(&ROOT), name.as_bytes()).unwrap();
    }
    assert_eq!(decode(&world, &first).err(), Some(Errno::ESTALE));
    let again = encode(&world.path("/first"));
    assert_ne!(again, first);
    assert!(decode(&world, &again).unwrap().is_same(&world.path("/first").dentry));
}
