//! A server in a thread, which answers from memory, and one that answers nonsense.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nomina_kernel::user_namespace::UserNamespace;
use nomina_kernel::vfs::{NewInode, Opened, S_IFDIR, S_IFREG, SetAttr, SuperBlock};
use nomina_kernel::{Errno, Result};
use rustix::event::{PollFd, PollFlags, poll};

use super::abi::{Body, Reader, op};
use super::*;
use crate::proc::{TaskKey, with_current};
use crate::wait;

#[derive(Default)]
struct Host {
    closed: AtomicUsize,
}

impl FuseHost for Host {
    fn caller(&self, _task: Option<TaskKey>) -> Caller {
        Caller { uid: 0, gid: 0, pid: 7 }
    }
    fn scratch_file(&self) -> io::Result<OwnedFd> {
        Ok(tempfile::tempfile()?.into())
    }
    fn closed(&self, _key: (u64, u64)) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the server has: contents by name, in one directory. Nodes are numbered in the order they were made, from 2.
#[derive(Default)]
struct Disk {
    files: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
    asked: Vec<u32>,
}

impl Disk {
    fn find(&self, name: &[u8]) -> Option<u64> {
        self.files.iter().find(|(_, (known, _))| known == name).map(|(&nodeid, _)| nodeid)
    }

    fn attr(&self, nodeid: u64) -> Body {
        let (size, mode) = match self.files.get(&nodeid) {
            Some((_, data)) => (data.len() as u64, S_IFREG | 0o644),
            None => (0, S_IFDIR | 0o755),
        };
        let body = Body::default().u64(nodeid).u64(size).u64(0).u64(1).u64(size).u64(3);
        body.u32(0).u32(0).u32(0).u32(mode).u32(1).u32(0).u32(0).u32(0).u32(4096).u32(0)
    }

    fn entry(&self, nodeid: u64) -> Body {
        Body::default().u64(nodeid).u64(0).u64(0).u64(0).u32(0).u32(0).bytes(&self.attr(nodeid).0)
    }

    fn serve(&mut self, opcode: u32, nodeid: u64, body: &[u8]) -> Result<Body> {
        self.asked.push(opcode);
        let name = || body.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        let mut reader = Reader(body);
        match opcode {
            op::INIT => Ok(Body::default().u32(7).u32(31).u32(0).u32(0).u32(0).u32(4096)),
            op::LOOKUP => Ok(self.entry(self.find(&name()).ok_or(Errno::ENOENT)?)),
            op::GETATTR => Ok(Body::default().u64(0).u64(0).bytes(&self.attr(nodeid).0)),
            op::OPEN | op::OPENDIR => Ok(Body::default().u64(nodeid).u64(0)),
            op::READ => {
                let (_, offset, size) = (reader.u64(), reader.u64().unwrap() as usize, reader.u32().unwrap());
                let data = &self.files.get(&nodeid).ok_or(Errno::EIO)?.1;
                let end = data.len().min(offset + size as usize);
                Ok(Body::default().bytes(data.get(offset..end).unwrap_or_default()))
            }
            op::SETATTR => {
                let (valid, _, _) = (reader.u32().unwrap(), reader.u32(), reader.u64());
                let size = reader.u64().unwrap() as usize;
                if valid & super::abi::fattr::SIZE != 0 {
                    self.files.get_mut(&nodeid).ok_or(Errno::EIO)?.1.resize(size, 0);
                }
                Ok(Body::default().u64(0).u64(0).bytes(&self.attr(nodeid).0))
            }
            op::WRITE => {
                let (_, offset) = (reader.u64(), reader.u64().unwrap() as usize);
                let (size, data) = (reader.u32().unwrap(), &body[40..]);
                let file = &mut self.files.get_mut(&nodeid).ok_or(Errno::EIO)?.1;
                file.resize(file.len().max(offset + data.len()), 0);
                file[offset..offset + data.len()].copy_from_slice(data);
                Ok(Body::default().u32(size).u32(0))
            }
            op::CREATE => {
                let name = body[16..body.len() - 1].to_vec();
                let new = self.files.keys().last().map_or(2, |last| last + 1);
                self.files.insert(new, (name, Vec::new()));
                Ok(self.entry(new).u64(new).u64(0))
            }
            op::READDIR => {
                let (_, offset) = (reader.u64(), reader.u64().unwrap());
                let mut out = Body::default();
                for (&nodeid, (name, _)) in self.files.range(offset + 1..).take(2) {
                    out = out.u64(nodeid).u64(nodeid).u32(name.len() as u32).u32(8).bytes(name);
                    out = out.bytes(&vec![0; (8 - name.len() % 8) % 8]);
                }
                Ok(out)
            }
            op::RELEASE | op::RELEASEDIR | op::FLUSH | op::FSYNC => Ok(Body::default()),
            _ => Err(Errno::ENOSYS),
        }
    }
}

fn run_server(end: OwnedFd, disk: Arc<Mutex<Disk>>) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(len @ 1..) = rustix::io::read(&end, &mut buffer) {
        let mut reader = Reader(&buffer[..len]);
        let (_, opcode, unique) = (reader.u32(), reader.u32().unwrap(), reader.u64().unwrap());
        let nodeid = reader.u64().unwrap();
        reader.bytes(16);
        let result = disk.lock().unwrap().serve(opcode, nodeid, reader.0);
        if matches!(opcode, op::FORGET | op::DESTROY) {
            continue;
        }
        let (error, body) = result.map_or_else(|e| (-e.0, Vec::new()), |body| (0, body.0));
        let message = Body::default().u32(16 + body.len() as u32).u32(error as u32).u64(unique).bytes(&body);
        if rustix::io::write(&end, &message.0).is_err() {
            return;
        }
    }
}

struct Mounted {
    fuse: Fuse,
    sb: Arc<FuseSb>,
    host: Arc<Host>,
    disk: Arc<Mutex<Disk>>,
}

fn mounted(serve: impl FnOnce(OwnedFd, Arc<Mutex<Disk>>) + Send + 'static) -> Mounted {
    let host = Arc::new(Host::default());
    let fuse = Fuse::new(host.clone()).unwrap();
    let end = fuse.open(false).unwrap();
    let sb = FuseSb::new(&fuse, &end, FuseOptions::default(), 99, UserNamespace::initial()).unwrap();
    let disk = Arc::new(Mutex::new(Disk::default()));
    let theirs = disk.clone();
    std::thread::spawn(move || serve(end, theirs));
    Mounted { fuse, sb, host, disk }
}

impl Mounted {
    /// Makes a system call: again and again, until it does not wait any more.
    fn call<T>(&self, f: impl Fn() -> Result<T>) -> Result<T> {
        let (task, request) = (TaskKey(1), (1, [0; 6]));
        loop {
            self.fuse.replays().begin(task, request);
            let result = with_current(task, &f);
            let waits = matches!(result, Err(Errno::ERESTARTSYS));
            self.fuse.replays().end(task, request, waits);
            if !waits {
                return result;
            }
            let fd = wait::take().expect("something to wait for");
            let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)), Ok(1), "no answer");
        }
    }

    fn add(&self, name: &[u8], data: &[u8]) {
        let mut disk = self.disk.lock().unwrap();
        let new = disk.files.keys().last().map_or(2, |last| last + 1);
        disk.files.insert(new, (name.to_vec(), data.to_vec()));
    }

    fn open(&self, name: &[u8], flags: i32) -> Result<OwnedFd> {
        let root = self.sb.root();
        match self.call(|| root.lookup(name)?.open(flags as u32))? {
            Opened::Copy(fd) => Ok(fd),
            _ => panic!("not a copy"),
        }
    }

    fn data(&self, name: &[u8]) -> Vec<u8> {
        let disk = self.disk.lock().unwrap();
        disk.find(name).map(|nodeid| disk.files[&nodeid].1.clone()).unwrap_or_default()
    }
}

fn content(fd: &OwnedFd) -> Vec<u8> {
    let mut data = vec![0; 1 << 20];
    let len = rustix::io::pread(fd, &mut data[..], 0).unwrap();
    data.truncate(len);
    data
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn names_and_attributes_are_the_servers() {
    let fs = mounted(run_server);
    let root = fs.sb.root();
    assert!(matches!(fs.call(|| root.lookup(b"hello")), Err(Errno::ENOENT)));
    fs.add(b"hello", b"twelve bytes");
    let attr = fs.call(|| root.lookup(b"hello")?.getattr()).unwrap();
    assert_eq!((attr.dev, attr.ino, attr.size, attr.mode), (99, 2, 12, S_IFREG | 0o644));
    assert!(matches!(
        fs.call(|| root.mkdir(b"d", NewInode { mode: S_IFDIR, uid: 0, gid: 0, rdev: 0 })),
        Err(Errno::ENOSYS)
    ));
}

#[test]
fn a_directory_is_read_to_its_end() {
    let fs = mounted(run_server);
    for i in 0..7 {
        fs.add(format!("name-{i}").as_bytes(), b"");
    }
    let root = fs.sb.root();
    let names: Vec<_> = fs.call(|| root.readdir()).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), 7);
    assert_eq!(names[6], b"name-6");
}

#[test]
fn contents_longer_than_a_message_are_read_whole_and_only_once() {
    let fs = mounted(run_server);
    let long: Vec<u8> = (0..300_000u32).map(|i| (i / 7) as u8).collect();
    fs.add(b"long", &long);
    let fd = fs.open(b"long", libc::O_RDONLY).unwrap();
    assert!(content(&fd) == long);
    let reads = || fs.disk.lock().unwrap().asked.iter().filter(|&&opcode| opcode == op::READ).count();
    let before = reads();
    let again = fs.open(b"long", libc::O_RDONLY).unwrap();
    assert!(content(&again) == long);
    assert_eq!(reads(), before);
    drop((fd, again));
    eventually("the file is let go", || fs.host.closed.load(Ordering::SeqCst) == 1);
}

#[test]
fn what_was_written_is_at_the_server_after_close() {
    let fs = mounted(run_server);
    let root = fs.sb.root();
    let new = NewInode { mode: S_IFREG | 0o644, uid: 0, gid: 0, rdev: 0 };
    let made = fs.call(|| root.create(b"new", new, libc::O_RDWR as u32));
    let (inode, Opened::Copy(fd)) = made.unwrap() else { panic!("not a copy") };
    rustix::io::write(&fd, &[b'x'; 10_000]).unwrap();
    assert_eq!(fs.call(|| inode.getattr()).unwrap().size, 10_000, "seen before it is written back");
    assert_eq!(fs.data(b"new"), b"");
    drop(fd);
    eventually("written back", || fs.data(b"new") == [b'x'; 10_000]);
    let fd = fs.open(b"new", libc::O_WRONLY | libc::O_TRUNC).unwrap();
    rustix::io::write(&fd, b"short").unwrap();
    drop(fd);
    eventually("written again", || fs.data(b"new") == b"short");
    fs.call(|| inode.setattr(&SetAttr { size: Some(2), ..SetAttr::default() })).unwrap();
    assert_eq!(fs.data(b"new"), b"sh");
    assert_eq!(content(&fs.open(b"new", libc::O_RDONLY).unwrap()), b"sh");
}

#[test]
fn fsync_writes_back_while_the_file_is_open() {
    let fs = mounted(run_server);
    fs.add(b"f", b"old");
    let node = fs.call(|| fs.sb.root().lookup(b"f")).unwrap();
    let file = node.as_any().downcast_ref::<FuseInode>().unwrap();
    fs.call(|| file.fsync()).unwrap();
    let fd = fs.open(b"f", libc::O_RDWR).unwrap();
    for text in [b"one", b"two"] {
        rustix::io::pwrite(&fd, text, 0).unwrap();
        fs.call(|| file.fsync()).unwrap();
        assert_eq!(fs.data(b"f"), text);
    }
    assert_eq!(fs.disk.lock().unwrap().asked.iter().filter(|&&opcode| opcode == op::FSYNC).count(), 2);
    drop(fd);
    eventually("the file is let go", || fs.host.closed.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_file_without_size_and_end_is_not_read_for_ever() {
    let fs = mounted(|end, disk| {
        let mut buffer = vec![0; 1 << 20];
        while let Ok(len @ 40..) = rustix::io::read(&end, &mut buffer) {
            let (opcode, nodeid) = (buffer[4], buffer[16].into());
            let body = match opcode.into() {
                op::READ => vec![b'y'; u32::from_ne_bytes(buffer[56..60].try_into().unwrap()) as usize],
                op::OPEN => Body::default().u64(1).u32(super::abi::FOPEN_DIRECT_IO).u32(0).0,
                opcode => {
                    disk.lock().unwrap().serve(opcode, nodeid, &buffer[40..len]).map_or(Vec::new(), |b| b.0)
                }
            };
            let message =
                Body::default().u32(16 + body.len() as u32).u32(0).bytes(&buffer[8..16]).bytes(&body);
            if rustix::io::write(&end, &message.0).is_err() {
                return;
            }
        }
    });
    fs.add(b"yes", b"");
    assert!(matches!(fs.open(b"yes", libc::O_RDONLY), Err(Errno::EFBIG)));
}

#[test]
fn a_server_that_goes_away_leaves_enotconn() {
    let fs = mounted(|end, disk| {
        let mut disk = disk;
        let mut buffer = [0; 4096];
        // Answers INIT and dies with the next request.
        let len = rustix::io::read(&end, &mut buffer).unwrap();
        assert!(len > 40);
        let body = Arc::get_mut(&mut disk).is_none();
        assert!(body);
        let init = disk.lock().unwrap().serve(op::INIT, 0, &[]).unwrap().0;
        let message = Body::default().u32(16 + init.len() as u32).u32(0).bytes(&buffer[8..16]).bytes(&init);
        rustix::io::write(&end, &message.0).unwrap();
        let _ = rustix::io::read(&end, &mut buffer);
    });
    let root = fs.sb.root();
    assert!(matches!(fs.call(|| root.lookup(b"x")), Err(Errno::ENOTCONN)));
    assert!(matches!(fs.call(|| root.getattr()), Err(Errno::ENOTCONN)));
}

#[test]
fn a_descriptor_that_is_no_device_or_is_mounted_already_is_einval() {
    let host = Arc::new(Host::default());
    let fuse = Fuse::new(host).unwrap();
    let mount = |fd: &OwnedFd| FuseSb::new(&fuse, fd, FuseOptions::default(), 1, UserNamespace::initial());
    let file: OwnedFd = tempfile::tempfile().unwrap().into();
    assert!(matches!(mount(&file), Err(Errno::EINVAL)));
    let end = fuse.open(true).unwrap();
    let sb = mount(&end).unwrap();
    assert!(matches!(mount(&end), Err(Errno::EINVAL)));
    drop(sb);
    eventually("the server reads the end", || {
        matches!(rustix::io::read(end.as_fd(), &mut [0u8; 4096][..]), Ok(0))
    });
}

/// Answers everything with bytes of a small generator, now and then with a right header.
fn nonsense(seed: u64) -> impl FnOnce(OwnedFd, Arc<Mutex<Disk>>) + Send {
    move |end, disk| {
        let mut state = seed;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let mut buffer = vec![0; 1 << 20];
        while let Ok(len @ 24..) = rustix::io::read(&end, &mut buffer) {
            let opcode = u32::from_ne_bytes(buffer[4..8].try_into().unwrap());
            let nodeid = u64::from_ne_bytes(buffer[16..24].try_into().unwrap());
            let honest = disk.lock().unwrap().serve(opcode, nodeid.min(1), &buffer[40.min(len)..len]);
            let mut body = match honest {
                Ok(body) if opcode == op::INIT || random() % 4 != 0 => body.0,
                _ => (0..random() % 300).map(|_| random() as u8).collect(),
            };
            if opcode != op::INIT && !body.is_empty() && random() % 2 == 0 {
                let at = random() % body.len();
                body[at] = random() as u8;
                let cut = random() % (2 * body.len());
                body.truncate(cut);
            }
            let error = if opcode == op::INIT || random() % 3 != 0 { 0 } else { -((random() % 5000) as i32) };
            let message = Body::default().u32(16 + body.len() as u32).u32(error as u32);
            if rustix::io::write(&end, &message.bytes(&buffer[8..16]).bytes(&body).0).is_err() {
                return;
            }
            if error < -511 {
                // Not an answer: nobody would ever be told otherwise.
                let message = Body::default().u32(16).u32(-5i32 as u32).bytes(&buffer[8..16]);
                let _ = rustix::io::write(&end, &message.0);
            }
        }
    }
}

#[test]
fn nonsense_from_a_server_is_an_error_and_no_panic() {
    for seed in 0..60 {
        let fs = mounted(nonsense(seed));
        fs.add(b"a", b"some contents");
        let root = fs.sb.root();
        for _ in 0..10 {
            let _ = fs.call(|| root.getattr());
            let _ = fs.call(|| root.readdir());
            let found = fs.call(|| root.lookup(b"a"));
            if let Ok(inode) = found {
                let _ = fs.call(|| inode.getattr());
                let _ = fs.call(|| inode.open(libc::O_RDWR as u32));
                let _ = fs.call(|| inode.readlink());
                let _ = fs.call(|| inode.listxattr());
            }
            let _ = fs.call(|| fs.sb.statfs());
        }
    }
}
