//! Random requests against a server without a guest: what a forged slot can say must neither panic nor take long.
//!
//! `NOMINA_FUZZ_ROUNDS=N cargo test -p nomina fuzz` for longer; `NOMINA_FUZZ_SEED` repeats a run that failed.

use std::cell::Cell;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nomina_abi::{self as abi, op};

use super::guest::GuestThread;
use super::sys::clone;
use super::{Server, worker};
use crate::sandbox::config::Root;
use crate::sandbox::spawn::{Prepared, prepare};
use crate::sandbox::{HostFacts, Sandbox};

/// Requests to one server.
const REQUESTS: usize = 600;
/// No request may take longer, on a machine that does other things too.
const LONGEST: Duration = Duration::from_secs(5);

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

const WORDS: [u64; 16] = [
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    255,
    4096,
    0x1000,
    1 << 31,
    u32::MAX as u64,
    i64::MAX as u64,
    u64::MAX,
    1 << 63,
    1000,
];
const NAMES: [&str; 25] = [
    "tmpfs",
    "proc",
    "mode",
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "a",
    "a/b",
    "a/../b",
    "/proc/self",
    "/proc/self/fd/0",
    "/proc/self/exe",
    "/proc/1/uid_map",
    "/dev/null",
    "/dev/tty",
    "/dev/pts/0",
    "/proc/self/ns/uts",
    "a/",
    "//a//",
    "/proc/sys/kernel/hostname",
    "/tmp/x",
    "/proc/self/task/1/comm",
    "/dev/ptmx",
];

fn argument(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.next(),
        1 => random.pick(&WORDS),
        2 => abi::SPAN_NULL,
        // Descriptors, and the one that stands for the working directory.
        3 => random.pick(&[0, 1, 2, u64::from(libc::AT_FDCWD as u32), 1024, 1025]),
        4 => random.below(64),
        5 => 1 << random.below(64),
        // A name at the start of the data, or a buffer somewhere.
        6 => abi::span(0, random.below(64) as u32),
        _ => abi::span(random.below(abi::SLOT_DATA as u64 + 64) as u32, random.pick(&WORDS) as u32),
    }
}

fn request(random: &mut Random, thread: &GuestThread) {
    let Some(image) = thread.image() else { return };
    let numbers = (random.below(470) as u32, op::BASE + random.below(0x44) as u32, random.next() as u32);
    let number = match random.below(12) {
        0 => numbers.2,
        1 | 2 => numbers.1,
        _ => numbers.0,
    };
    let mut data = vec![0u8; 512];
    data.fill_with(|| random.next() as u8);
    let name = random.pick(&NAMES);
    data[..name.len()].copy_from_slice(name.as_bytes());
    if random.below(3) == 0 {
        data[..48].fill_with(|| random.pick(&[0u8, 0, 0, 1, 2, 0xff]));
    }
    let mut words = number.to_ne_bytes().to_vec();
    words.extend([0; 4]);
    for at in 0..6 {
        let mut value = argument(random);
        if at < 2 && random.below(2) == 0 {
            value = abi::span(0, name.len() as u32);
        }
        words.extend(value.to_ne_bytes());
    }
    let at = u64::from(image.index()) * abi::SLOT_SIZE as u64;
    rustix::io::pwrite(image.space().region.fd(), &words, at + 8).unwrap();
    rustix::io::pwrite(image.space().region.fd(), &data, at + 128).unwrap();
}

fn serve_random_requests(random: &mut Random) {
    let dir = tempfile::tempdir().unwrap();
    for name in ["etc", "tmp", "proc", "dev", "sys", "a"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    std::fs::write(dir.path().join("a/b"), "#! /a/b x\n").unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let host = HostFacts {
        cwd: dir.path().into(),
        scratch: vec![scratch.path().into()],
        ..HostFacts::current().unwrap()
    };
    let builder = Sandbox::builder().root(Root::Dir(dir.path().into())).command(["/a/b"]);
    let plan = builder.plan(&host).unwrap();
    let Prepared { server, thread, socket: _socket, scratch: _lock } = prepare(&builder, &plan).unwrap();
    // Stands for the guest's process: what a request does to its caller's process is done to this one.
    let mut child =
        Command::new("sleep").arg("60").stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let thread: Arc<GuestThread> = clone::attach(&server, child.id() as i32, thread.token).unwrap();
    for _ in 0..REQUESTS {
        request(random, &thread);
        let started = Instant::now();
        let number = thread.image().map(|image| image.slot.request());
        worker::serve(&server, &thread, None);
        assert!(started.elapsed() < LONGEST, "{number:x?} took {:?}", started.elapsed());
        assert_eq!(PANICS.get(), 0, "{number:x?} panicked");
    }
    let _ = child.kill();
    child.wait().unwrap();
    finish(&server);
}

fn finish(server: &Server) {
    server.handles.remove_scratch();
}

#[test]
fn random_requests_neither_panic_nor_take_long() {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.set(PANICS.get() + 1);
        hook(info);
    }));
    let seed = number("NOMINA_FUZZ_SEED").unwrap_or(0x5eed);
    for round in 0..number("NOMINA_FUZZ_ROUNDS").unwrap_or(8) {
        eprintln!("NOMINA_FUZZ_SEED={}", seed + round);
        serve_random_requests(&mut Random((seed + round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
    }
}
