//! Tracing: what a tracee posts when it stops and gets when it goes on.
//!
//! A tracee stops in the shim: it puts its registers into its slot ([`Registers`], at the start of the data), tells of the stop
//! ([`super::op::PTRACE_STOP`]) and waits on [`super::Notes::resumed`], a futex, until the supervisor has put the registers it goes
//! on with there and has changed the word.

/// Indices in [`Registers::user`], which is `struct user_regs_struct` of x86-64.
#[allow(missing_docs)]
pub mod reg {
    pub const R15: usize = 0;
    pub const R14: usize = 1;
    pub const R13: usize = 2;
    pub const R12: usize = 3;
    pub const RBP: usize = 4;
    pub const RBX: usize = 5;
    pub const R11: usize = 6;
    pub const R10: usize = 7;
    pub const R9: usize = 8;
    pub const R8: usize = 9;
    pub const RAX: usize = 10;
    pub const RCX: usize = 11;
    pub const RDX: usize = 12;
    pub const RSI: usize = 13;
    pub const RDI: usize = 14;
    pub const ORIG_RAX: usize = 15;
    pub const RIP: usize = 16;
    pub const CS: usize = 17;
    pub const EFLAGS: usize = 18;
    pub const RSP: usize = 19;
    pub const SS: usize = 20;
    pub const FS_BASE: usize = 21;
    pub const GS_BASE: usize = 22;
}

/// Registers of a tracee.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Registers {
    /// `struct user_regs_struct`.
    pub user: [u64; 27],
    /// Signal mask.
    pub sigmask: u64,
    /// Address of the extended state in the tracee's memory, 0 if there is none.
    pub fpstate: u64,
    /// Its size.
    pub fpstate_size: u64,
    /// The signal to be delivered. Number 0: none.
    pub info: [u8; 128],
    /// [`mode`], when the tracee goes on.
    pub mode: u64,
}

/// Size of [`Registers`].
pub const REGISTERS_SIZE: usize = size_of::<Registers>();

/// How a thread is traced, as it has to know.
pub mod mode {
    /// It is.
    pub const TRACED: u32 = 1;
    /// Stop at system calls.
    pub const SYSCALL: u32 = 2;
    /// Stop after the next instruction.
    pub const STEP: u32 = 4;
    /// Stop before the end.
    pub const EXIT: u32 = 8;
    /// Stop at an exec.
    pub const EXEC: u32 = 16;
    /// Attached by `PTRACE_SEIZE`.
    pub const SEIZED: u32 = 32;
    /// Stop at the end of a wait of `vfork(2)`.
    pub const VFORK_DONE: u32 = 64;
    /// There is something to ask for ([`super::super::op::PTRACE_POLL`]).
    pub const ATTEND: u32 = 128;
}

/// Kinds of stops.
pub mod stop {
    /// A signal, in [`super::Registers::info`]. The tracer chooses which one is delivered.
    pub const SIGNAL: u64 = 0;
    /// Before a system call.
    pub const ENTRY: u64 = 1;
    /// After one.
    pub const EXIT: u64 = 2;
    /// An event: its number and its message follow.
    pub const EVENT: u64 = 3;
    /// Stopped with its process: the signal follows.
    pub const GROUP: u64 = 4;
    /// The trap of `PTRACE_INTERRUPT` and the like: the signal follows.
    pub const TRAP: u64 = 5;
}

/// What [`super::op::PTRACE_POLL`] answers in `out[1]`.
pub mod attention {
    /// Nothing.
    pub const NONE: u64 = 0;
    /// Stop for the signal that is in the data (a siginfo).
    pub const SIGNAL: u64 = 1;
    /// Stop with [`super::stop::TRAP`]; the signal is `out[2]`.
    pub const TRAP: u64 = 2;
    /// Stop with [`super::stop::GROUP`]; the signal is `out[2]`.
    pub const GROUP: u64 = 3;
}

/// `PTRACE_EVENT_*`.
pub mod event {
    /// `fork(2)`.
    pub const FORK: u32 = 1;
    /// `vfork(2)`.
    pub const VFORK: u32 = 2;
    /// `clone(2)`.
    pub const CLONE: u32 = 3;
    /// `execve(2)`.
    pub const EXEC: u32 = 4;
    /// End of the wait of `vfork(2)`.
    pub const VFORK_DONE: u32 = 5;
    /// The end.
    pub const EXIT: u32 = 6;
}

/// `si_code` of the [`super::SIG_CALL`] that concerns tracing. The value says what for ([`super::called`]).
pub const SI_KICK: i32 = -0x51;
