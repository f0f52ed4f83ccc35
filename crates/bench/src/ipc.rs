//! IPC objects, signals, and the birth of a process among many.

use std::{
    ffi::c_int,
    ptr,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use crate::calls::{check, pin_to_one, time, unpin, wait};

/// Processes that are alive while one more is born and dies.
const CROWD: usize = 1_000;

/// Prints a line for each; a system without System V IPC has no rows for it.
pub fn measure(n: &dyn Fn(u32) -> u32) {
    shared_memory(n(1_000));
    semaphores(n(3_000));
    messages(n(3_000));
    to_oneself(n(3_000));
    // On one processor, as for pipes: a signal has to wake its receiver.
    let before = pin_to_one();
    to_another(n(1_000));
    unpin(&before);
    among_many(n(200));
}

fn shared_memory(n: u32) {
    // SAFETY: takes no memory.
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, 65536, libc::IPC_CREAT | 0o600) };
    if id < 0 {
        return;
    }
    time("shmat, touch, shmdt 64 KiB", n, || {
        // SAFETY: the kernel chooses a place for the segment; it is touched within its length and detached.
        unsafe {
            let at = libc::shmat(id, ptr::null(), 0);
            for i in 0..16 {
                at.cast::<u8>().add(i * 4096).write_volatile(1);
            }
            libc::shmdt(at);
        }
    });
    // SAFETY: IPC_RMID takes no memory.
    unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
}

fn semaphores(n: u32) {
    // SAFETY: takes no memory.
    let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, libc::IPC_CREAT | 0o600) };
    if id < 0 {
        return;
    }
    let operation = |sem_op| libc::sembuf { sem_num: 0, sem_op, sem_flg: 0 };
    let (mut up, mut down) = (operation(1), operation(-1));
    time("semop up and down", n, || {
        // SAFETY: one operation each.
        unsafe {
            libc::semop(id, &mut up, 1);
            libc::semop(id, &mut down, 1);
        }
    });
    // SAFETY: IPC_RMID takes no memory.
    unsafe { libc::semctl(id, 0, libc::IPC_RMID) };
}

fn messages(n: u32) {
    #[repr(C)]
    struct Message {
        kind: libc::c_long,
        text: [u8; 64],
    }
    // SAFETY: takes no memory.
    let id = unsafe { libc::msgget(libc::IPC_PRIVATE, libc::IPC_CREAT | 0o600) };
    if id < 0 {
        return;
    }
    let mut message = Message { kind: 1, text: [0; 64] };
    let at = ptr::from_mut(&mut message).cast();
    time("msgsnd and msgrcv 64 B", n, || {
        // SAFETY: the message has 64 bytes after its type.
        unsafe {
            libc::msgsnd(id, at, 64, 0);
            libc::msgrcv(id, at, 64, 0, 0);
        }
    });
    // SAFETY: IPC_RMID takes no memory.
    unsafe { libc::msgctl(id, libc::IPC_RMID, ptr::null_mut()) };
}

static RECEIVED: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_signal(_: c_int) {
    RECEIVED.fetch_add(1, SeqCst);
}

fn to_oneself(n: u32) {
    // SAFETY: the handler only counts; both calls take no other memory.
    unsafe {
        let handler: extern "C" fn(c_int) = on_signal;
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        let me = libc::getpid();
        time("signal to oneself, handled", n, || {
            libc::kill(me, libc::SIGUSR1);
        });
        libc::signal(libc::SIGUSR1, libc::SIG_DFL);
    }
    if RECEIVED.load(SeqCst) < n {
        eprintln!("nomina-bench: a signal to oneself was not handled at once");
    }
}

/// A signal to another process and one back, both waited for.
fn to_another(n: u32) {
    // SAFETY: an all-zero set is valid; sets and numbers are places of ours.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        libc::sigprocmask(libc::SIG_BLOCK, &set, &mut old);
        let parent = libc::getpid();
        let child = check(libc::fork(), "fork");
        let mut got = 0;
        if child == 0 {
            while libc::sigwait(&set, &mut got) == 0 && libc::kill(parent, libc::SIGUSR1) == 0 {}
            libc::_exit(0);
        }
        time("signal ping-pong, two processes", n, || {
            libc::kill(child, libc::SIGUSR1);
            libc::sigwait(&set, &mut got);
        });
        libc::kill(child, libc::SIGKILL);
        wait(child);
        libc::sigprocmask(libc::SIG_SETMASK, &old, ptr::null_mut());
    }
}

fn among_many(n: u32) {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        // SAFETY: the child only waits.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: takes no arguments.
                unsafe { libc::pause() };
            },
            -1 => break,
            pid => crowd.push(pid),
        }
    }
    if crowd.len() == CROWD {
        time("fork and wait among 1,000 processes", n, || {
            // SAFETY: the child only exits.
            let pid = check(unsafe { libc::fork() }, "fork");
            if pid == 0 {
                // SAFETY: ends the child without running anything of the parent's.
                unsafe { libc::_exit(0) };
            }
            wait(pid);
        });
    }
    for pid in &crowd {
        // SAFETY: a child of ours that has not been waited for.
        unsafe { libc::kill(*pid, libc::SIGKILL) };
    }
    for pid in crowd {
        wait(pid);
    }
}
