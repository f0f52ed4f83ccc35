use std::fs;
use std::os::fd::OwnedFd;

use nomina_kernel::Errno;
use nomina_kernel::vfs::{NewInode, Opened, S_IFREG, SuperBlock};

use super::{PAGE, TmpfsOptions, memparse, mount};
use crate::overlay::OverlaySb;
use crate::override_stat::IdMap;

const RDWR: u32 = libc::O_RDWR as u32;

struct Mounted {
    _dir: tempfile::TempDir,
    sb: std::sync::Arc<OverlaySb>,
}

fn mounted(options: &TmpfsOptions) -> Mounted {
    let dir = tempfile::tempdir().unwrap();
    let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    let sb = mount("tmpfs", upper, work, IdMap::to(0, 0), options).unwrap();
    Mounted { _dir: dir, sb }
}

impl Mounted {
    fn create(&self, name: &str) -> Result<OwnedFd, Errno> {
        let new = NewInode { mode: S_IFREG | 0o644, uid: 0, gid: 0, rdev: 0 };
        match self.sb.root().create(name.as_bytes(), new, RDWR)?.1 {
            Opened::Host(fd) => {
                self.sb.space().unwrap().opened(&fd)?;
                Ok(fd)
            }
            _ => panic!("not a host handle"),
        }
    }

    fn write(&self, fd: &OwnedFd, len: usize) -> Result<i64, Errno> {
        let written = rustix::io::write(fd, &vec![1; len]).unwrap() as i64;
        self.sb.space().unwrap().written(fd, written, true)
    }

    fn free_blocks(&self) -> u64 {
        self.sb.statfs().unwrap().blocks.1
    }

    fn free_inodes(&self) -> u64 {
        self.sb.statfs().unwrap().files.1
    }
}

fn options(text: &str) -> Result<TmpfsOptions, Errno> {
    let mut options = TmpfsOptions::default();
    for option in text.split(',') {
        let (key, value) = option.split_once('=').map_or((option, None), |(key, value)| (key, Some(value)));
        assert!(options.parse(key, value)?, "{option} is not known");
    }
    Ok(options)
}

#[test]
fn sizes_are_read_and_shown_as_the_kernel_does() {
    for (text, shown) in [
        ("size=1m", "size=1024k"),
        ("size=5k", "size=8k"),
        ("nr_blocks=3", "size=12k"),
        ("size=0", "size=0k"),
        ("size=1m,size=2m", "size=2048k"),
        ("size=16E", "size=0k"),
        ("size=0x10", "size=4k"),
        ("nr_inodes=1k,mode=700", "nr_inodes=1024,mode=700"),
        ("mode=77777", "mode=7777"),
        ("mode=1777,huge=never,mpol=local,inode32", ""),
        ("noswap", "noswap"),
    ] {
        assert_eq!(options(text).unwrap().show(), shown, "{text}");
    }
    for text in
        ["size=x", "size=", "size=1mm", "size", "nr_inodes=-1", "mode=9", "huge=foo", "nr_blocks=16E1"]
    {
        assert_eq!(options(text).err(), Some(Errno::EINVAL), "{text}");
    }
    assert_eq!(memparse("012k rest"), Some((10 << 10, " rest")));
}

#[test]
fn a_write_that_finds_no_room_is_cut_to_what_fits() {
    let fs = mounted(&options("size=64k").unwrap());
    let fd = fs.create("a").unwrap();
    assert_eq!(fs.write(&fd, 50_000), Ok(50_000));
    assert_eq!(fs.write(&fd, 50_000), Ok(65_536 - 50_000));
    assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 65_536);
    assert_eq!(rustix::fs::tell(&fd).unwrap(), 65_536, "the position follows");
    assert_eq!(fs.write(&fd, 1), Err(Errno::ENOSPC));
    assert_eq!(fs.free_blocks(), 0);
    // What is there already can be overwritten, and room that is given back can be used.
    rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(0)).unwrap();
    assert_eq!(fs.write(&fd, 4096), Ok(4096));
    rustix::fs::ftruncate(&fd, 4096).unwrap();
    assert_eq!(fs.sb.space().unwrap().written(&fd, 0, true), Ok(0));
    let other = fs.create("b").unwrap();
    assert_eq!(fs.write(&other, 60 << 10), Ok(60 << 10));
    assert_eq!(fs.write(&other, 1), Err(Errno::ENOSPC));
}

#[test]
fn an_allocation_that_finds_no_room_changes_nothing() {
    let fs = mounted(&options("size=64k").unwrap());
    let fd = fs.create("a").unwrap();
    assert_eq!(fs.write(&fd, 10), Ok(10));
    rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(fs.sb.space().unwrap().written(&fd, 0, true), Err(Errno::ENOSPC));
    assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 10);
    // A hole takes no room.
    rustix::fs::ftruncate(&fd, 1 << 20).unwrap();
    assert_eq!(fs.sb.space().unwrap().written(&fd, 0, true), Ok(0));
    assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 1 << 20);
}

#[test]
fn nothing_is_cut_that_an_unreported_write_has_written() {
    let fs = mounted(&options("size=64k").unwrap());
    let fd = fs.create("a").unwrap();
    rustix::io::write(&fd, &vec![1; 100_000]).unwrap();
    assert_eq!(fs.write(&fd, 1000), Err(Errno::ENOSPC));
    assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 100_000);
    rustix::fs::fallocate(&fd, rustix::fs::FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(fs.sb.space().unwrap().written(&fd, 0, false), Ok(0));
}

#[test]
fn every_name_takes_an_inode() {
    let fs = mounted(&options("size=1m,nr_inodes=4").unwrap());
    let root = fs.sb.root();
    let a = fs.create("a").unwrap();
    let node = root.lookup(b"a").unwrap();
    root.link(b"b", &node).unwrap();
    let new = NewInode { mode: 0o40755, uid: 0, gid: 0, rdev: 0 };
    root.mkdir(b"d", new).unwrap();
    assert_eq!(fs.create("c").err(), Some(Errno::ENOSPC));
    assert_eq!(root.mkdir(b"e", new).err(), Some(Errno::ENOSPC));
    assert_eq!(fs.free_inodes(), 0);
    root.rename(b"a", &root, b"z", 0).unwrap();
    root.rmdir(b"d").unwrap();
    root.unlink(b"b").unwrap();
    assert_eq!(fs.free_inodes(), 2);
    // The last name: the file counts until it is closed.
    assert_eq!(fs.write(&a, 3 * PAGE as usize), Ok(3 * PAGE as i64));
    drop(node);
    root.unlink(b"z").unwrap();
    assert_eq!((fs.free_inodes(), fs.free_blocks()), (2, 253));
    drop(a);
    assert_eq!((fs.free_inodes(), fs.free_blocks()), (3, 256));
}

#[test]
fn limits_can_be_changed_but_not_below_what_is_used() {
    let fs = mounted(&options("size=64k,nr_inodes=10").unwrap());
    let fd = fs.create("a").unwrap();
    fs.write(&fd, 8 << 12).unwrap();
    let space = fs.sb.space().unwrap();
    assert_eq!(space.reconfigure((Some(7), None)), Err("Too small a size for current use"));
    assert_eq!(space.reconfigure((None, Some(1))), Err("Too few inodes for current use"));
    assert_eq!(space.reconfigure((Some(8), Some(2))), Ok(()));
    assert_eq!(fs.sb.show_options(), "size=32k,nr_inodes=2");
    assert_eq!(fs.write(&fd, 1), Err(Errno::ENOSPC));
    assert_eq!(space.reconfigure((Some(0), None)), Ok(()));
    assert_eq!(fs.write(&fd, 1 << 20), Ok(1 << 20));
    assert_eq!(space.reconfigure((Some(1 << 20), None)), Err("Cannot retroactively limit size"));
}

#[test]
fn a_file_with_the_number_of_one_that_is_gone_has_an_account_of_its_own() {
    let fs = mounted(&options("size=64k").unwrap());
    for _ in 0..4 {
        let fd = fs.create("a").unwrap();
        assert_eq!(fs.write(&fd, 40_000), Ok(40_000));
        assert_eq!(fs.write(&fd, 40_000), Ok(65_536 - 40_000));
        assert_eq!(fs.write(&fd, 40_000), Err(Errno::ENOSPC));
        fs.sb.root().unlink(b"a").unwrap();
    }
}
