//! What one system call costs: the child that measures inside, and the parent that gathers.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsString, c_int, c_void},
    hint::black_box,
    io::{self, BufRead, BufReader},
    process::{ExitCode, Stdio},
    ptr,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Instant,
};

use crate::{
    report::Report,
    systems::{System, WorkDir},
};

/// Runs the child several times in every system, round by round, and reports medians of ns per call.
///
/// # Errors
/// Only of our own pipes; a system in which the child fails gets a note.
pub fn measure(systems: &[System], work: &WorkDir, quick: bool, report: &mut Report) -> io::Result<()> {
    let rounds = if quick { 1 } else { 5 };
    let mut order = Vec::new();
    let mut all: BTreeMap<(String, &str), Vec<f64>> = BTreeMap::new();
    for round in 0..rounds {
        for s in systems {
            let argv: Vec<OsString> =
                vec!["./bench".into(), "child".into(), if quick { "quick" } else { "full" }.into()];
            let mut child = s.command(work, &argv).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
            let out = child.stdout.take().map(BufReader::new);
            for line in out.into_iter().flat_map(BufRead::lines) {
                let line = line?;
                let Some((name, ns)) = line.rsplit_once('\t') else { continue };
                let Ok(ns) = ns.parse::<f64>() else { continue };
                if !order.contains(&name.to_owned()) {
                    order.push(name.to_owned());
                }
                all.entry((name.to_owned(), s.name)).or_default().push(ns);
            }
            let status = child.wait()?;
            if !status.success() {
                report.note(format!(
                    "{}: measuring calls ended with {status} in round {}",
                    s.name,
                    round + 1
                ));
            }
        }
    }
    for name in order {
        for s in systems {
            if let Some(v) = all.remove(&(name.clone(), s.name)) {
                report.add(&name, "ns", s.name, v);
            }
        }
    }
    Ok(())
}

/// Ends the program with what has failed when a call has.
pub fn check(r: c_int, what: &str) -> c_int {
    if r < 0 {
        eprintln!("nomina-bench: {what}: {}", io::Error::last_os_error());
        std::process::exit(1);
    }
    r
}

fn open(path: &str, flags: c_int) -> c_int {
    let p = CString::new(path).unwrap_or_default();
    // SAFETY: p is a terminated string that outlives the call.
    check(unsafe { libc::open(p.as_ptr(), flags, 0o600) }, path)
}

/// Times a closure in batches of `n` and prints the fastest third's median: what a call costs when nothing interferes.
pub fn time(name: &str, n: u32, mut f: impl FnMut()) {
    f();
    let mut batches: Vec<f64> = (0..7)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..n {
                f();
            }
            start.elapsed().as_nanos() as f64 / f64::from(n)
        })
        .collect();
    batches.sort_by(f64::total_cmp);
    println!("{name}\t{:.1}", batches[batches.len() / 3]);
}

/// The measuring process: one line per call, its name and nanoseconds.
pub fn child(quick: bool) -> ExitCode {
    let n = |full: u32| if quick { full / 10 + 1 } else { full };
    handles(&n);
    names(&n);
    processes(&n);
    crate::ipc::measure(&n);
    // A system without a network has no such rows.
    let _ = crate::sockets::measure(&n);
    crate::networks::measure(&n);
    ExitCode::SUCCESS
}

fn handles(n: &dyn Fn(u32) -> u32) {
    let (zero, null) = (open("/dev/zero", libc::O_RDONLY), open("/dev/null", libc::O_WRONLY));
    let file = open("bench-file", libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
    let mut buf = [1u8; 1024];
    let p = buf.as_mut_ptr().cast::<c_void>();
    // SAFETY: buf holds 1024 bytes.
    unsafe {
        check(libc::write(file, p, 1024) as c_int, "write");
    }
    // SAFETY: takes no arguments.
    time("getppid", n(50_000), || unsafe {
        black_box(libc::syscall(libc::SYS_getppid));
    });
    // SAFETY: buf holds one byte.
    time("read 1 B of /dev/zero", n(50_000), || unsafe {
        black_box(libc::read(zero, p, 1));
    });
    // SAFETY: buf holds 1024 bytes.
    time("pread 1 KiB of a file", n(50_000), || unsafe {
        black_box(libc::pread(file, p, 1024, 0));
    });
    // SAFETY: buf holds 1024 bytes.
    time("write 1 KiB to /dev/null", n(50_000), || unsafe {
        black_box(libc::write(null, p, 1024));
    });
    // On one processor, or it depends on the scheduler's mood whether the other side has to be woken at all.
    let before = pin_to_one();
    ping_pong(n(4_000));
    futex(n(4_000));
    unpin(&before);
    time("mmap, touch, munmap 64 KiB", n(3_000), || {
        // SAFETY: a fresh anonymous mapping, touched within its length and unmapped whole.
        unsafe {
            let m = libc::mmap(ptr::null_mut(), 65536, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            if m == libc::MAP_FAILED {
                check(-1, "mmap");
            }
            for i in 0..16 {
                m.cast::<u8>().add(i * 4096).write_volatile(1);
            }
            libc::munmap(m, 65536);
        }
    });
}

/// Binds this thread and those it starts to the processor it runs on; the former set is the result.
pub fn pin_to_one() -> libc::cpu_set_t {
    // SAFETY: an all-zero set is valid, and both calls get its true size.
    unsafe {
        let (mut before, mut one): (libc::cpu_set_t, libc::cpu_set_t) = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&before), &mut before);
        libc::CPU_SET(usize::try_from(libc::sched_getcpu()).unwrap_or(0), &mut one);
        libc::sched_setaffinity(0, size_of_val(&one), &one);
        before
    }
}

/// Undoes [`pin_to_one`].
pub fn unpin(before: &libc::cpu_set_t) {
    // SAFETY: the set is valid and its true size is given.
    unsafe { libc::sched_setaffinity(0, size_of_val(before), before) };
}

fn pipe() -> [c_int; 2] {
    let mut fds = [0; 2];
    // SAFETY: fds has room for the two descriptors.
    check(unsafe { libc::pipe(fds.as_mut_ptr()) }, "pipe");
    fds
}

/// Waits for the end of a child.
pub fn wait(pid: c_int) {
    let mut status = 0;
    // SAFETY: status is a valid place for the result.
    check(unsafe { libc::waitpid(pid, &mut status, 0) }, "waitpid");
}

/// A byte to another process and back: two writes, two reads, two switches.
fn ping_pong(n: u32) {
    let (there, back) = (pipe(), pipe());
    let mut b = 0u8;
    let p = ptr::from_mut(&mut b).cast::<c_void>();
    // SAFETY: this process has one thread, and the child only reads, writes and exits.
    let pid = check(unsafe { libc::fork() }, "fork");
    if pid == 0 {
        // SAFETY: p points to one byte; descriptors are ours.
        unsafe {
            libc::close(there[1]);
            while libc::read(there[0], p, 1) == 1 {
                libc::write(back[1], p, 1);
            }
            libc::_exit(0);
        }
    }
    // SAFETY: p points to one byte.
    time("pipe ping-pong, two processes", n, || unsafe {
        libc::write(there[1], p, 1);
        libc::read(back[0], p, 1);
    });
    // SAFETY: plain descriptors of ours.
    unsafe {
        libc::close(there[1]);
        libc::close(there[0]);
        libc::close(back[0]);
        libc::close(back[1]);
    }
    wait(pid);
}

fn futex_call(word: &AtomicU32, op: c_int, value: u32) {
    // SAFETY: the word outlives the call; no timeout is given.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), op, value, ptr::null::<libc::timespec>(), 0, 0) };
}

/// Two threads that wake each other, and a wake nobody waits for.
fn futex(n: u32) {
    static TURN: AtomicU32 = AtomicU32::new(0);
    const STOP: u32 = u32::MAX;
    let other = std::thread::spawn(|| {
        loop {
            match TURN.load(SeqCst) {
                STOP => return,
                1 => {
                    TURN.store(0, SeqCst);
                    futex_call(&TURN, libc::FUTEX_WAKE, 1);
                }
                v => futex_call(&TURN, libc::FUTEX_WAIT, v),
            }
        }
    });
    time("futex ping-pong, two threads", n, || {
        TURN.store(1, SeqCst);
        futex_call(&TURN, libc::FUTEX_WAKE, 1);
        while TURN.load(SeqCst) != 0 {
            futex_call(&TURN, libc::FUTEX_WAIT, 1);
        }
    });
    TURN.store(STOP, SeqCst);
    futex_call(&TURN, libc::FUTEX_WAKE, 1);
    if other.join().is_err() {
        eprintln!("nomina-bench: the futex thread panicked");
    }
    let word = AtomicU32::new(0);
    time("futex wake of nobody", n * 10, || futex_call(&word, libc::FUTEX_WAKE, 1));
}

fn names(n: &dyn Fn(u32) -> u32) {
    let (there, missing) = (c"bench-file", c"bench-missing");
    let fd = open("bench-file", libc::O_RDONLY);
    // SAFETY: an all-zero stat is a valid value of the plain structure.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is terminated, st is a valid place for the result.
    time("stat", n(5_000), || unsafe {
        black_box(libc::stat(there.as_ptr(), &mut st));
    });
    // SAFETY: as for stat above.
    time("stat of nothing (ENOENT)", n(5_000), || unsafe {
        black_box(libc::stat(missing.as_ptr(), &mut st));
    });
    // SAFETY: as for stat above.
    time("stat /usr/lib/os-release", n(5_000), || unsafe {
        black_box(libc::stat(c"/usr/lib/os-release".as_ptr(), &mut st));
    });
    // SAFETY: as for stat above.
    time("fstat", n(5_000), || unsafe {
        black_box(libc::fstat(fd, &mut st));
    });
    time("open and close", n(3_000), || {
        // SAFETY: the path is terminated; the descriptor is closed once.
        unsafe {
            libc::close(libc::open(there.as_ptr(), libc::O_RDONLY));
        }
    });
    let _ = std::fs::create_dir("bench-dir");
    for i in 0..100 {
        let _ = std::fs::write(format!("bench-dir/entry{i}"), "");
    }
    time("readdir, 100 entries", n(300), || {
        black_box(std::fs::read_dir("bench-dir").map_or(0, Iterator::count));
    });
    time("create and unlink", n(500), || {
        // SAFETY: the path is terminated; the descriptor is closed once.
        unsafe {
            libc::close(libc::open(c"bench-new".as_ptr(), libc::O_CREAT | libc::O_RDWR, 0o600));
            libc::unlink(c"bench-new".as_ptr());
        }
    });
    crowded(n);
}

/// The cost of a name must not grow with what else there is: many names beside it, many mounts around it. Where mounts
/// cannot be made there is no row for them.
fn crowded(n: &dyn Fn(u32) -> u32) {
    const NAMES: usize = 10_000;
    const MOUNTS: usize = 1_000;
    let _ = std::fs::create_dir("bench-many");
    for i in 0..NAMES {
        let _ = std::fs::write(format!("bench-many/{i}"), "");
    }
    // SAFETY: an all-zero stat is a valid value of the plain structure.
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is terminated, st is a valid place for the result.
    time("stat in a directory of 10,000", n(5_000), || unsafe {
        black_box(libc::stat(c"bench-many/7777".as_ptr(), &mut st));
    });
    let none = ptr::null();
    // SAFETY: no memory but terminated paths. Nobody else is in the new namespace, and what is mounted ends with it.
    let is_alone = unsafe {
        libc::unshare(libc::CLONE_NEWNS) == 0
            && libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, ptr::null()) == 0
    };
    let mounted = |i: usize| {
        let dir = format!("bench-mounts/{i}");
        let Ok(name) = std::ffi::CString::new(dir.as_str()) else { return false };
        // SAFETY: terminated paths.
        std::fs::create_dir_all(&dir).is_ok()
            && unsafe { libc::mount(c".".as_ptr(), name.as_ptr(), none, libc::MS_BIND, ptr::null()) } == 0
    };
    if is_alone && (0..MOUNTS).all(mounted) {
        // SAFETY: as for stat above.
        time("stat among 1,000 mounts", n(5_000), || unsafe {
            black_box(libc::stat(c"bench-file".as_ptr(), &mut st));
        });
        // SAFETY: as for stat above.
        time("stat through one of 1,000 mounts", n(5_000), || unsafe {
            black_box(libc::stat(c"bench-mounts/777/bench-file".as_ptr(), &mut st));
        });
    }
}

fn processes(n: &dyn Fn(u32) -> u32) {
    time("fork and wait", n(200), || {
        // SAFETY: the child only exits.
        let pid = check(unsafe { libc::fork() }, "fork");
        if pid == 0 {
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        wait(pid);
    });
    let argv = [c"true".as_ptr().cast_mut(), ptr::null_mut()];
    let env = [ptr::null_mut::<libc::c_char>()];
    time("fork, exec /bin/true, wait", n(100), || {
        // SAFETY: between fork and exec the child calls only execve and _exit; arrays are terminated.
        let pid = check(unsafe { libc::fork() }, "fork");
        if pid == 0 {
            // SAFETY: as above.
            unsafe {
                libc::execve(c"/bin/true".as_ptr(), argv.as_ptr().cast(), env.as_ptr().cast());
                libc::_exit(127);
            }
        }
        wait(pid);
    });
    time("posix_spawn /bin/true, wait", n(100), || {
        let mut pid = 0;
        // SAFETY: null attributes and actions are allowed; arrays are terminated.
        let r = unsafe {
            libc::posix_spawn(
                &mut pid,
                c"/bin/true".as_ptr(),
                ptr::null(),
                ptr::null(),
                argv.as_ptr(),
                env.as_ptr(),
            )
        };
        if r == 0 {
            wait(pid);
        } else {
            check(-1, "posix_spawn");
        }
    });
    time("thread create and join", n(500), || {
        let _ = std::thread::spawn(|| {}).join();
    });
}
