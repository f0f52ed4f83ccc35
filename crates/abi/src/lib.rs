//! Layout of the messages between the shim and the supervisor.
//!
//! The shim (in every guest address space, untrusted) asks the supervisor through the *gate*: the system call [`GATE_NR`]
//! with [`GATE_MAGIC`], which the seccomp filter turns into a user notification. The words of a request do not travel in registers but in a [`Slot`]: a piece of a shared *region*, one region per guest address space, one slot per
//! thread. Host handles travel as `SCM_RIGHTS` on a hidden socket, [`FD_SOCK`].
//!
//! # A request
//! The shim fills `nr` (a Linux system call number or one of the [`op`]s), `args` and `data`, then either, when
//! `channel` is [`CHANNEL_WATCHED`], moves it to [`CHANNEL_REQUEST`] and spins until it is neither that nor [`CHANNEL_SERVING`], or makes the gate
//! call [`GATE_CALL`]. Pointers of the guest never travel: [`ARGS`] says for each system call which arguments
//! are strings and buffers; their bytes are copied into `data` and the argument becomes a [`span`].
//!
//! # A reply
//! `ret` is what the system call returns (negative errno on failure); `flags` says what the shim must do with it
//! ([`reply`]); `out` has further numbers, described at each operation.
#![no_std]

pub mod ahead;
mod args;
pub mod ptrace;

pub use args::{ARGS, ArgSpec, BPF_ATTR, FSCONFIG_SET_BINARY, Kind, MAX_HANDLE_SZ, arg_spec};

use core::sync::atomic::AtomicU32;

/// Where the shim is linked: below the area where Linux maps libraries and inside the range that sanitizers' shadow
/// memory leaves to applications.
pub const SHIM_BASE: u64 = 0x7e90_0000_0000;
/// First address behind the shim's text and data.
pub const SHIM_END: u64 = SHIM_BASE + 0x10_0000;
/// The system call number of the gate: `get_robust_list(2)`. Around Nomina there may be another filter, as in containers,
/// whose "refuse" outranks our "notify"; so it is one that the default profiles of container engines allow, while numbers
/// that Linux does not have are refused there. Programs hardly ever call it.
pub const GATE_NR: u32 = 274;
/// The third argument, all 64 bits, that makes [`GATE_NR`] the gate. Elsewhere a pointer to a length; no program has an address
/// like this, which is not canonical.
pub const GATE_MAGIC: u64 = 0x4e6f_6d69_6e61_2121;

/// Lowest of the descriptors that belong to the shim.
pub const HIDDEN_FD_BASE: u32 = 1024;
/// How many descriptors, from [`HIDDEN_FD_BASE`] on, belong to the shim. All of them are always open, so that a guest
/// whose `RLIMIT_NOFILE` is 1024 (natively 1024 plus this) meets `EMFILE` exactly where Linux has it.
pub const HIDDEN_FDS: u32 = 8;
/// What the supervisor answers to `flock(2)` of anything but a directory: it is the caller's own to do.
pub const FLOCK_NATIVE: i64 = 1;
/// The sealed memfd of the shim, what `execveat` runs.
pub const FD_SHIM: i32 = 1024;
/// The hidden socket (`SOCK_SEQPACKET`), over which the supervisor sends handles.
pub const FD_SOCK: i32 = 1025;
/// Another, from which an image takes the descriptors of answers sent [`ahead`].
pub const FD_AHEAD: i32 = 1026;

/// Gate call: serve the request in the caller's slot. Second argument: the token of [`op::CLONE`], by which a thread that
/// is not known yet is recognised. Returns 0 when served, negative errno otherwise.
pub const GATE_CALL: u64 = 1;
/// Gate call: first call of a new image after `execveat`. On return 0 one message is on [`FD_SOCK`]: a [`StartInfo`] with
/// the region, the executable, if [`StartInfo::has_interp`] the interpreter, and where descriptors were sent [`ahead`] the socket for
/// [`FD_AHEAD`].
pub const GATE_START: u64 = 2;
/// Gate call: a new task made with [`op::CLONE`] introduces itself. Second argument: the token. A thread does so when it
/// starts. A process with memory of its own does so before its first request, if it ever makes one: on return 0
/// it has a socket of its own at [`FD_SOCK`] with one message on it, which carries its region. `EBADF`: `RLIMIT_NOFILE` is too
/// low for [`FD_SOCK`].
pub const GATE_ATTACH: u64 = 3;

/// What the filter of the sandbox says with `SECCOMP_RET_TRAP`, so that a trap of a filter of the guest's own is another.
pub const TRAP_DATA: u16 = 0x4e6f;
/// In [`Slot::flags`] of a request: the other bits are the number of the guest's system call that it is made for, and [`Slot::out`] has
/// that call's arguments and instruction pointer. Only processes with seccomp filters say it.
pub const CLAIM: u32 = 1 << 31;

/// Size of a slot in bytes.
pub const SLOT_SIZE: usize = 16384;
/// Size of [`Slot::data`].
pub const SLOT_DATA: usize = SLOT_SIZE - 128 - NOTES_SIZE;
/// Size of [`Notes`].
pub const NOTES_SIZE: usize = 576;
/// Entries of [`Notes::born`].
pub const NOTES_BORN: usize = 16;
/// Entries of [`Notes::reaped`].
pub const NOTES_REAPED: usize = 29;
/// Entries of [`Notes::promised`].
pub const NOTES_PROMISED: usize = 8;
/// Slots of a region, and so the limit of threads in an address space.
pub const REGION_SLOTS: usize = 1021;
/// Where the slots of a region begin. Before them stands what was sent [`ahead`].
pub const SLOTS_OFFSET: usize = 3 * SLOT_SIZE;
/// Stands for the index of no slot.
pub const NO_SLOT: u32 = u32::MAX;
/// Size of a region in bytes (a sparse memfd).
pub const REGION_SIZE: usize = SLOTS_OFFSET + SLOT_SIZE * REGION_SLOTS;

/// [`Slot::channel`]: nobody watches; use the gate.
pub const CHANNEL_ASLEEP: u32 = 0;
/// [`Slot::channel`]: the supervisor spins on this word; a request may be posted.
pub const CHANNEL_WATCHED: u32 = 1;
/// [`Slot::channel`]: the shim has posted a request and spins.
pub const CHANNEL_REQUEST: u32 = 2;
/// [`Slot::channel`]: the reply is there and the supervisor still watches: as good as [`CHANNEL_WATCHED`] for the next
/// request. Any state but [`CHANNEL_REQUEST`] and [`CHANNEL_SERVING`] tells the shim that the reply is there; the supervisor may have gone to sleep
/// ([`CHANNEL_ASLEEP`]) before the shim looks.
pub const CHANNEL_DONE_WATCHED: u32 = 3;
/// [`Slot::channel`]: the supervisor has taken the request. Until then the shim may withdraw it ([`CHANNEL_ASLEEP`]) and use the
/// gate: the supervisor's processor was taken away.
pub const CHANNEL_SERVING: u32 = 4;

/// One thread's shared page set.
#[repr(C, align(4096))]
pub struct Slot {
    /// State of the spinning channel.
    pub channel: AtomicU32,
    /// Number of descriptors sent with the reply.
    pub nfds: u32,
    /// System call number or operation.
    pub nr: u32,
    /// Reply flags. In a request: what it is made for ([`CLAIM`]).
    pub flags: u32,
    /// Arguments: values or [`span`]s.
    pub args: [u64; 6],
    /// Result. In a request: the guest's signal mask.
    pub ret: i64,
    /// Further results. In a request: see [`CLAIM`].
    pub out: [u64; 7],
    /// Strings and buffers.
    pub data: [u8; SLOT_DATA],
    /// What the supervisor may learn when it wants to.
    pub notes: Notes,
}

/// Children of the thread: what the supervisor need not be asked about, but may want to know. An entry is the child's number
/// as the thread sees it in the high, its host pid in the low 32 bits. The supervisor believes nothing of it unchecked.
#[repr(C)]
pub struct Notes {
    /// A ring of the latest children made by a fork.
    pub born: [u64; NOTES_BORN],
    /// Where the next one goes, counted without wrapping.
    pub born_next: u32,
    /// How many entries of `reaped` are valid; the supervisor sets it to 0 when it has read them.
    pub reaped_len: u32,
    /// Children whose zombies native waits have consumed.
    pub reaped: [u64; NOTES_REAPED],
    /// Changed by the supervisor when a tracee goes on: what it waits on (a futex).
    pub resumed: AtomicU32,
    /// Set, and woken as a futex, by the supervisor for a thread that sleeps ([`reply::SLEEP`]).
    pub wake: AtomicU32,
    /// Not 0 while the thread waits for its tracees: it wants to be called ([`called::TRACER`]) when there is news.
    pub waits: AtomicU32,
    /// What the thread is called for ([`called`]), set before [`SIG_CALL`] is sent: of two that come together, the host keeps one.
    pub called: AtomicU32,
    /// Forks that may be made without a request.
    pub promised: [Promised; NOTES_PROMISED],
}

/// A plain fork that may be made without [`op::CLONE`], which the supervisor takes note of before it serves anybody's next request. What the
/// slot says is for the shim only: the supervisor has its own.
#[repr(C)]
pub struct Promised {
    /// [`PROMISED`]: it may be made. The shim sets [`FORKED`] first, by compare and exchange; the supervisor takes a promise back with 0.
    pub state: AtomicU32,
    /// Number of the child.
    pub pid: i32,
    /// Its token.
    pub token: u64,
    /// Index of the slot that it has borrowed.
    pub slot: u32,
    /// Nothing.
    pub pad: u32,
}

/// [`Promised::state`].
pub const PROMISED: u32 = 1;
/// [`Promised::state`].
pub const FORKED: u32 = 2;

const _: () = assert!(core::mem::size_of::<Notes>() == NOTES_SIZE);

const _: () = assert!(core::mem::size_of::<Slot>() == SLOT_SIZE);
const _: () = assert!(core::mem::offset_of!(Slot, data) == 128);

/// A stretch of [`Slot::data`] as an argument: offset in the low, length in the high 32 bits. Strings are without their NUL.
pub const fn span(offset: u32, len: u32) -> u64 {
    offset as u64 | (len as u64) << 32
}

/// Longest socket address (`sizeof(struct sockaddr_storage)`).
pub const SOCKADDR_MAX: usize = 128;

/// The argument that stands for a null pointer.
pub const SPAN_NULL: u64 = u64::MAX;

/// Flags of a reply.
pub mod reply {
    /// The result is a descriptor: the first one sent; the call returns the number it gets.
    pub const FD: u32 = 1;
    /// Receive descriptors with close-on-exec.
    pub const CLOEXEC: u32 = 2;
    /// The operation would block: wait (interruptibly) until the descriptor sent is readable, close it, ask again.
    pub const WAIT: u32 = 4;
    /// Ask again after `sched_yield`.
    pub const RETRY: u32 = 8;
    /// Send descriptor number `ret` over [`super::FD_SOCK`], with a [`super::Given`], and ask again.
    pub const GIVE: u32 = 16;
    /// The operation sleeps: wait (interruptibly, and no longer than the call allows) until [`super::Notes::wake`] is not 0, a futex that
    /// is shared; then ask again, with the [`super::ipc`] phase that says how the wait ended.
    pub const SLEEP: u32 = 32;
    /// The answer may be given again as long as [`super::ahead::Head::stamp`] is the last word of `out`.
    pub const HOLDS: u32 = 64;
    /// With [`FD`]: it is a terminal, which becomes the controlling one of a session leader that has none. The host decides (`TIOCSCTTY`).
    pub const TTY: u32 = 128;
}

/// The message with a descriptor that was asked for ([`reply::GIVE`]). Without a descriptor: there is none of that number.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Given {
    /// Index of the slot whose request needs it.
    pub slot: u32,
    /// Its number.
    pub fd: i32,
}

/// Operations that are not Linux system calls.
pub mod op {
    /// First number of the operations.
    pub const BASE: u32 = 0x8000;
    /// Before a native clone. args: clone flags, exit signal, `set_tid` (0: none), the descriptor of a
    /// control group with `CLONE_INTO_CGROUP`. ret: the new pid as the caller
    /// sees it. out: [0] token, [1] tid in the child's own namespace, [2] tgid in the child's own namespace, [3] index of the
    /// child's slot in the caller's region ([`super::NO_SLOT`]: none), [4] 1 for the init of a pid namespace, [5] the event
    /// ([`super::ptrace::event`]) that the caller has to stop for, and, from bit 8 on, 1 for a child that is traced. In a child that
    /// has memory of its own the slot is *borrowed*: it may ask for [`EXEC`] there before it has introduced itself, as long as
    /// neither it nor its maker has got other credentials; otherwise the gate call fails with `ESTALE`.
    pub const CLONE: u32 = 0x8000;
    /// The native clone failed. args: token.
    pub const CLONE_FAILED: u32 = 0x8001;
    /// Before a native exec. args: dirfd, path span, `execveat` flags. ret 0. out: [0] number of strings that replace
    /// `argv[0]` (0: none, not a script), which stand in `data` from 0 on, each ended by NUL.
    pub const EXEC: u32 = 0x8002;
    /// The native exec failed; forget what [`EXEC`] prepared.
    pub const EXEC_FAILED: u32 = 0x8003;
    /// The calling thread is about to exit. args: exit code. Its slot must not be used afterwards.
    pub const THREAD_EXIT: u32 = 0x8004;
    /// Translates a number. args: kind ([`super::xlate`]), number. ret: the number asked for, or negative errno.
    pub const XLATE: u32 = 0x8005;
    /// A native wait consumed the zombie `args[0]` (host pid). ret: its pid as the caller sees it; `ECHILD` if it is no child in
    /// the model.
    pub const REAP: u32 = 0x8006;
    /// Asks about the mapping at an address of the caller's. ret 0 if it is a private, executable mapping of a file that cannot
    /// be written, otherwise `EINVAL`. out: [0] its start, [1] its end.
    pub const TEXT: u32 = 0x8008;
    /// Whether a descriptor of the caller's is a signalfd. args: the descriptor. ret: 1, or 0.
    pub const SIGNALFD: u32 = 0x800c;
    /// A native write has come back from a handle that reports its writes (the supervisor had the host send [`super::SIG_CALL`]). args: the call's first and third argument, one of which is the handle, and its result. ret:
    /// the result the guest must see.
    pub const WRITTEN: u32 = 0x8007;
    /// The caller was told to end ([`super::SI_END`]) and has marked the robust locks it holds.
    pub const MARKED: u32 = 0x8010;
    /// Who sent a message. args: datagram socket, the first descriptor that came with the message, span for the address.
    /// out: [0] length of the address, [1] pid, [2] uid, [3] gid of the sender, [4] whether the socket wants them
    /// (`SO_PASSCRED`). Fails for other sockets and other descriptors.
    pub const SENDER: u32 = 0x8009;
    /// Whether the view of the mount table `args[0]` (a descriptor) has changed since somebody was told; the caller is. ret: 0
    /// or 1; fails for other descriptors.
    pub const MOUNTS_CHANGED: u32 = 0x800a;
    /// Before a wait for the packet socket `args[0]`, which has a ring: makes it readable exactly if there is something in the ring.
    /// Fails for other descriptors.
    pub const PACKET_RING: u32 = 0x800b;
    /// Brings a program that is to become a seccomp filter. args: flags, number of instructions ([`super::UNREADABLE`]: not
    /// known), index of the first that is brought, span ([`super::SPAN_NULL`]: none yet). ret: how many have been brought. With the
    /// last: 0 when the filter can be installed, or the number of a thread that cannot be synchronised. out: [0] how many
    /// instructions to install natively before the program's own, [1] flags to install it with. data: the calls that
    /// always pass, 512 bits, then those instructions.
    pub const SECCOMP_LOAD: u32 = 0x8030;
    /// The filter that was brought is installed natively: it is in force.
    pub const SECCOMP_ATTACH: u32 = 0x8031;
    /// `SECCOMP_SET_MODE_STRICT`, before the native filter that does the same. data and out of the reply: as [`SECCOMP_LOAD`].
    pub const SECCOMP_STRICT: u32 = 0x8032;
    /// What the caller's filters say of the call that [`super::CLAIM`] describes. ret: `SECCOMP_RET_*`, or
    /// [`super::STRICT_KILL`].
    pub const SECCOMP_JUDGE: u32 = 0x8033;
    /// A tracee stops. args: [`super::ptrace::stop`] and what belongs to it; data: [`super::ptrace::Registers`]. ret 0: it is to wait on
    /// [`super::Notes::resumed`]; `ESRCH`: it is not traced (any more).
    pub const PTRACE_STOP: u32 = 0x8040;
    /// A thread asks how it is traced. out: [0] [`super::ptrace::mode`], [1] [`super::ptrace::attention`], [2] its signal.
    pub const PTRACE_POLL: u32 = 0x8041;
    /// A wait for tracees. args: as of `waitid(2)`: kind, id, options. ret: the number of one with news, 0: wait, `ECHILD`: there is none.
    /// out: [0] wait status, [1] uid. The thread that is told to wait is called ([`super::called::TRACER`]).
    pub const PTRACE_WAIT: u32 = 0x8042;
    /// A tracee is about to end. args: wait status; 1 for the whole process.
    pub const PTRACE_EXIT: u32 = 0x8043;
}

/// Calls on IPC objects. Their arguments are those of the system calls, but for pointers.
pub mod ipc {
    /// The sixth argument of a call that may sleep: it is made.
    pub const FRESH: u64 = 0;
    /// It has been woken.
    pub const WOKEN: u64 = 1;
    /// A signal came. The reply is final: the call may have been done all the same.
    pub const INTERRUPTED: u64 = 2;
    /// Its time is over. As above.
    pub const TIMED_OUT: u64 = 3;
    /// The second argument of `shmdt(2)` when the caller has unmapped what it was told.
    pub const DETACHED: u64 = 1;
    /// A command of `semctl(2)` of our own: how many semaphores there are.
    pub const SEM_NSEMS: i32 = 0x4e53;
}

/// Labels: descriptors that come with datagrams of the Internet families. A label is a file that says what came with the message: its
/// kind, the length of an address, the length of ancillary data and a reserved word, 32 bits each; then both.
pub mod label {
    /// The message has a sender: a `struct sockaddr_in` or `struct sockaddr_in6`, and ancillary data as `recvmsg(2)` gives it.
    pub const INET: u32 = 0x4e01;
    /// There is no message but an error, whose number stands for the address.
    pub const ERROR: u32 = 0x4e02;
    /// It goes to the address, from a guest. The ancillary data are the supervisor's signature.
    pub const DESTINATION: u32 = 0x4e03;
    /// Where the address stands.
    pub const ADDRESS_AT: usize = 16;
    /// Where the ancillary data stand.
    pub const CONTROL_AT: usize = 48;
    /// Longest label.
    pub const MAX: usize = 512;
}

/// Kinds of [`op::XLATE`].
pub mod xlate {
    /// Guest pid (caller's namespace) of a child to host pid; `ECHILD` if it is no child.
    pub const CHILD_TO_HOST: u64 = 0;
    /// Host pid or tid to the number the caller sees; 0 when it sees none. out: [0] uid, [1] gid as the caller sees them. With
    /// a fourth argument that is not 0, processes that have not asked for anything yet are looked for, too. The third
    /// argument of the request may be the number of a child of the caller that the host pid is, for the case that the
    /// supervisor has not met it.
    pub const FROM_HOST: u64 = 1;
    /// Guest process group to host process group; `ESRCH`.
    pub const PGRP_TO_HOST: u64 = 2;
    /// Host process group or session to guest number; 0 when it sees none.
    pub const PGRP_FROM_HOST: u64 = 3;
    /// Guest tid of a thread of the caller's own process to host tid; `ESRCH`.
    pub const THREAD_TO_HOST: u64 = 4;
}

/// [`op::SECCOMP_LOAD`]: the guest's `struct sock_fprog` cannot be read.
pub const UNREADABLE: u64 = u64::MAX;
/// [`op::SECCOMP_JUDGE`]: strict mode ends the thread.
pub const STRICT_KILL: i64 = 1 << 32;

/// `si_code` of signals that the supervisor sends for a guest's `kill`, `tkill` and `tgkill`: an ordinary process may not
/// send `SI_USER` with another's pid. `si_pid` and `si_uid` are as the receiver sees them, `si_value` (`sival_int`) is the
/// code the guest must see ([`SI_USER`] or [`SI_TKILL`]).
pub const SI_NOMINA: i32 = -0x4e;
/// What counts of `si_fd` in a signal that a descriptor sends: the supervisor sets `O_ASYNC` for the guest, with a number of its own.
pub const SI_FD_MASK: i32 = 0xfff;
/// The signal by which the supervisor, and the host for it, calls a thread to its shim: `SIGSTKFLT`, which no kernel raises and hardly
/// a program uses. Its disposition and whether it is blocked are the shim's natively, like those of `SIGSYS`; what a guest does with the
/// two is only noted, and those that are sent to it travel in this one ([`CARRIED`]).
///
/// It is another signal than `SIGSYS`, because the host keeps one pending signal of a number and drops the next: one that came in
/// the same microsecond as the filter's would take its place, and the trapped system call would be lost.
pub const SIG_CALL: i32 = 16;
/// Where in the `siginfo_t` of [`SIG_CALL`] the number of the guest's signal stands, if it carries one other than its own. Behind the
/// value that goes with a queued signal.
pub const CARRIED: usize = 32;

/// What a thread is called for: bits of [`Notes::called`], and of the value of a [`SIG_CALL`] with [`ptrace::SI_KICK`].
pub mod called {
    /// The thread's process traces, and one of its tracees has news.
    pub const TRACER: u32 = 1;
    /// Ask with [`super::op::PTRACE_POLL`].
    pub const TRACEE: u32 = 2;
    /// Stays: the thread has handles that report writes. So it asks ([`super::op::WRITTEN`]) whatever it is called for.
    pub const REPORTS: u32 = 4;
}

/// `si_code` of the [`SIG_CALL`] that the supervisor sends to a thread which waits in `poll(2)` or `select(2)` for a view of the mount
/// table that has changed. `si_value` (`sival_int`) is the number of that call.
pub const SI_MOUNTS: i32 = -0x4f;
/// What `poll(2)` finds of a regular file at once: `POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM`.
pub const POLL_FILE: i16 = 0x145;
/// `si_code` of a [`SIG_CALL`] that the supervisor sends to a process which is about to be ended by the signal in its
/// `si_value`: unless it blocks that, it marks the robust locks that it holds, and it answers ([`op::MARKED`]).
pub const SI_END: i32 = -0x50;
/// Last `si_code` of signals that a descriptor sends (`F_SETSIG`): `POLL_IN` is 1, this is `POLL_HUP`.
pub const POLL_HUP: i32 = 6;
/// `kill(2)`.
pub const SI_USER: i32 = 0;
/// `tkill(2)`, `tgkill(2)`.
pub const SI_TKILL: i32 = -6;

/// What kind of init a process is ([`StartInfo::init`]).
pub mod init {
    /// None: an ordinary process.
    pub const NONE: u32 = 0;
    /// That of a pid namespace that was made inside.
    pub const NESTED: u32 = 1;
    /// The sandbox's first process: what the host sends it, a terminal's signals among them, does what it does to any process.
    pub const FIRST: u32 = 2;
}

/// What a new image learns at [`GATE_START`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StartInfo {
    /// Own tid in the own pid namespace.
    pub tid: i32,
    /// Own tgid in the own pid namespace.
    pub pid: i32,
    /// Index of the slot in the region.
    pub slot: u32,
    /// AT_SECURE.
    pub secure: u32,
    /// AT_UID, AT_EUID, AT_GID, AT_EGID.
    pub ids: [u32; 4],
    /// Whether an interpreter was sent.
    pub has_interp: u32,
    /// After how many traps a call site is rewritten; 0: never.
    pub patch_after: u32,
    /// How it is traced ([`ptrace::mode`]).
    pub traced: u32,
    /// The tid that the thread had before, where its tracer has to know.
    pub old_tid: i32,
    /// How many answers were sent ahead ([`ahead`]).
    pub ahead: u32,
    /// Whether the process is the init of a pid namespace ([`init`]).
    pub init: u32,
    /// Signals that such a process ignores, a bit each (argument 3 of [`op::EXEC`]).
    pub ignored: u64,
    /// 1: only the thread itself changes `ids`.
    pub ids_stay: u64,
    /// For the choice of addresses.
    pub random: u64,
    /// System calls that the task's seccomp filters always allow, a bit each.
    pub always: [u64; 8],
    /// The name for `PR_SET_NAME`, NUL-terminated.
    pub comm: [u8; 16],
    /// AT_EXECFN, NUL-terminated. The message ends behind the NUL.
    pub execfn: [u8; 4096],
}
