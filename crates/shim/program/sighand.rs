//! The table of signal handlers (`struct sighand_struct`) and `rt_sigaction(2)`.
//!
//! The host kernel has for every signal that a guest catches the shim's own handler, and the default or ignored dispositions as
//! they are, so that it acts on those itself. SIGSEGV and SIGBUS always are the shim's, because access to guest memory may
//! fault, SIGSYS, because it carries the system calls, and the signal by which a thread is called (`call`).

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use nomina_abi::{SI_NOMINA, SIG_CALL};

use crate::arch::nomina_restorer;
use crate::area::Area;
use crate::frame::{BLOCK_ALL, CALL_BIT, SigInfo, UNBLOCKABLE};
use crate::lock::Lock;
use crate::sys::{err, nr, sys};
use crate::uaccess::{get_user, put_user};

/// `SIG_DFL`.
pub const SIG_DFL: u64 = 0;
/// `SIG_IGN`.
pub const SIG_IGN: u64 = 1;
/// Flags of `struct sigaction`.
pub const SA_NOCLDSTOP: u64 = 1;
/// See [`SA_NOCLDSTOP`].
pub const SA_NOCLDWAIT: u64 = 2;
/// See [`SA_NOCLDSTOP`].
pub const SA_SIGINFO: u64 = 4;
/// See [`SA_NOCLDSTOP`].
pub const SA_RESTORER: u64 = 0x0400_0000;
/// See [`SA_NOCLDSTOP`].
pub const SA_ONSTACK: u64 = 0x0800_0000;
/// See [`SA_NOCLDSTOP`].
pub const SA_RESTART: u64 = 0x1000_0000;
/// See [`SA_NOCLDSTOP`].
pub const SA_NODEFER: u64 = 0x4000_0000;
/// See [`SA_NOCLDSTOP`].
pub const SA_RESETHAND: u64 = 0x8000_0000;
const SA_EXPOSE_TAGBITS: u64 = 0x800;
/// Flags that the kernel knows (`UAPI_SA_FLAGS`); it clears the others, which is how programs ask what is supported.
const SA_KNOWN: u64 = SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_RESTORER
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | SA_EXPOSE_TAGBITS;

/// Numbers of the signals with a meaning here.
pub const SIGILL: i32 = 4;
/// See [`SIGILL`].
pub const SIGTRAP: i32 = 5;
/// See [`SIGILL`].
pub const SIGBUS: i32 = 7;
/// See [`SIGILL`].
pub const SIGFPE: i32 = 8;
/// See [`SIGILL`].
pub const SIGKILL: i32 = 9;
/// See [`SIGILL`].
pub const SIGSEGV: i32 = 11;
/// See [`SIGILL`].
pub const SIGCHLD: i32 = 17;
/// See [`SIGILL`].
pub const SIGSTOP: i32 = 19;
/// See [`SIGILL`].
pub const SIGSYS: i32 = 31;
/// The shim's signals of which the host kernel is told across an exec that the guest ignores them. SIGSYS is not: a thread that the
/// exec is about to end may still make system calls.
const TOLD: [i32; 3] = [SIGSEGV, SIGBUS, SIG_CALL];
/// Number of signals.
pub const NSIG: usize = 64;
/// Signals that end or stop a process by default and whose disposition is natively the guest's: not KILL, STOP, SEGV, BUS, SYS,
/// STKFLT, nor CHLD, CONT, URG, WINCH.
const FATAL: u64 = !(1 << 15 | 1 << 8 | 1 << 18 | 1 << 10 | 1 << 6 | 1 << 30 | 1 << 16 | 1 << 17 | 1 << 22 | 1 << 27);

/// Of these, the signals of which it depends on the sender what they do to the sandbox's first process by default: not those of faults,
/// which are more than a number, nor the terminal's stops.
const JUDGED: u64 = FATAL & !(1 << 3 | 1 << 4 | 1 << 7 | 0b111 << 19);

/// `struct sigaction` as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct KernelSigaction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

impl KernelSigaction {
    /// The default disposition.
    pub const DEFAULT: KernelSigaction = KernelSigaction { handler: SIG_DFL, flags: 0, restorer: 0, mask: 0 };

    /// Whether a function of the guest handles the signal.
    pub fn is_caught(&self) -> bool {
        self.handler > SIG_IGN
    }
}

/// The handlers of a process.
pub struct Sighand {
    lock: Lock,
    /// Signals whose entry is true; those of others (ignored since exec?) the host kernel knows.
    known: AtomicU64,
    /// Threads that are traced. While there are any, the host kernel has the shim's handler for all signals.
    traced: AtomicU32,
    /// Of the init of a pid namespace: what it does not handle does nothing (`SIGNAL_UNKILLABLE`). The host kernel, for which it is
    /// a process like any other, has those signals ignored.
    unkillable: AtomicBool,
    /// Whether it is that of the sandbox's first process.
    first: AtomicBool,
    /// In the first process, signals for which the host kernel has the shim's handler although the guest has none: what guests have sent
    /// does nothing, what the host has sent does what it does by default.
    judged: AtomicU64,
    actions: UnsafeCell<[KernelSigaction; NSIG]>,
}

// SAFETY: `actions` is accessed with `lock` held.
unsafe impl Sync for Sighand {}

/// Whether the host kernel always has the shim's handler for a signal.
pub fn is_always_ours(signal: i32) -> bool {
    is_fault(signal) || signal == SIG_CALL
}

/// Whether an instruction may raise a signal for which the host kernel always has the shim's handler.
pub fn is_fault(signal: i32) -> bool {
    matches!(signal, SIGSEGV | SIGBUS | SIGSYS)
}

fn native_action(signal: i32, new: Option<&KernelSigaction>) -> KernelSigaction {
    let mut old = KernelSigaction::DEFAULT;
    let new = new.map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: both structures live through the call; handlers installed are the shim's.
    unsafe { sys!(nr::RT_SIGACTION, signal, new, &raw mut old, 8) };
    old
}

/// The action by which the host kernel calls the shim.
fn wrapped(handler: u64, flags: u64, mask: u64) -> KernelSigaction {
    KernelSigaction {
        handler,
        flags: flags | SA_SIGINFO | SA_ONSTACK | SA_RESTORER,
        restorer: nomina_restorer as *const () as u64,
        mask,
    }
}

/// Installs what a new image needs.
pub fn install() {
    // NODEFER, as for the faults: a handler meets further faults when it accesses guest memory, and a system call within SIGSYS's
    // handler must not be fatal.
    let system_call = crate::trap::system_call as *const () as u64;
    native_action(SIGSYS, Some(&wrapped(system_call, SA_NODEFER, BLOCK_ALL)));
    for signal in TOLD {
        if install_own(signal).handler == SIG_IGN {
            crate::area::SIGHAND
                .set_initial(signal, KernelSigaction { handler: SIG_IGN, ..KernelSigaction::DEFAULT });
        }
    }
}

fn install_own(signal: i32) -> KernelSigaction {
    let action = if signal == SIG_CALL {
        // Not NODEFER: calls without end must not fill the stack.
        wrapped(crate::call::called as *const () as u64, SA_RESTART, BLOCK_ALL | CALL_BIT)
    } else {
        wrapped(crate::signal::arrived as *const () as u64, SA_NODEFER, BLOCK_ALL)
    };
    native_action(signal, Some(&action))
}

/// Runs a native exec. What a process ignores stays ignored in the new image, but the host kernel knows it of the shim's signals only
/// if it is told.
pub fn across_exec(area: &Area, exec: impl FnOnce() -> i64) -> i64 {
    let ignored = TOLD.map(|signal| area.sighand().get(signal).handler == SIG_IGN);
    for (signal, ignored) in TOLD.into_iter().zip(ignored) {
        if ignored {
            native_action(signal, Some(&KernelSigaction { handler: SIG_IGN, ..KernelSigaction::DEFAULT }));
        }
    }
    let table = area.sighand();
    let caught_for_tracer = |signal: &i32| {
        !matches!(*signal, SIGKILL | SIGSTOP)
            && !is_always_ours(*signal)
            && table.get(*signal).handler == SIG_IGN
    };
    if table.is_traced() {
        for signal in (1..=NSIG as i32).filter(caught_for_tracer) {
            native_action(signal, Some(&KernelSigaction { handler: SIG_IGN, ..KernelSigaction::DEFAULT }));
        }
    }
    let error = exec();
    if table.is_traced() {
        table.install_all();
    }
    for (signal, ignored) in TOLD.into_iter().zip(ignored) {
        if ignored {
            install_own(signal);
        }
    }
    error
}

/// Gives a signal the default disposition natively, whatever the guest's.
pub fn set_native_default(signal: i32) {
    native_action(signal, Some(&KernelSigaction::DEFAULT));
}

impl Sighand {
    /// A table in which nothing is known yet.
    pub const fn new() -> Sighand {
        Sighand {
            lock: Lock::new(),
            known: AtomicU64::new(0),
            traced: AtomicU32::new(0),
            unkillable: AtomicBool::new(false),
            first: AtomicBool::new(false),
            judged: AtomicU64::new(0),
            actions: UnsafeCell::new([KernelSigaction::DEFAULT; NSIG]),
        }
    }

    fn bit(signal: i32) -> u64 {
        1 << (signal - 1)
    }

    fn set_initial(&self, signal: i32, action: KernelSigaction) {
        self.with(signal, |entry| *entry = action);
    }

    /// Runs `what` on an entry, with the table locked.
    fn with<R>(&self, signal: i32, what: impl FnOnce(&mut KernelSigaction) -> R) -> R {
        let _guard = self.lock.lock();
        // SAFETY: the lock is held, the index is checked by callers (1..=64).
        let entry = unsafe { &mut (&mut *self.actions.get())[(signal - 1) as usize] };
        if self.known.load(Ordering::Relaxed) & Self::bit(signal) == 0 {
            if !is_always_ours(signal) && native_action(signal, None).handler == SIG_IGN {
                entry.handler = SIG_IGN;
            }
            self.known.fetch_or(Self::bit(signal), Ordering::Relaxed);
        }
        what(entry)
    }

    /// The action of a signal.
    pub fn get(&self, signal: i32) -> KernelSigaction {
        self.with(signal, |entry| *entry)
    }

    /// The action for a signal that is delivered now; `SA_RESETHAND` takes effect.
    pub fn take(&self, signal: i32) -> KernelSigaction {
        self.with(signal, |entry| {
            let action = *entry;
            if action.is_caught() && action.flags & SA_RESETHAND != 0 {
                entry.handler = SIG_DFL;
                if !is_always_ours(signal) && !self.is_traced() {
                    self.install(signal, entry);
                }
            }
            action
        })
    }

    /// Replaces an action, here and in the host kernel.
    fn set(&self, signal: i32, action: KernelSigaction) -> KernelSigaction {
        self.with(signal, |entry| {
            let old = core::mem::replace(entry, action);
            if !is_always_ours(signal) {
                self.install(signal, &action);
            }
            old
        })
    }

    /// Tells the host kernel of an action.
    fn install(&self, signal: i32, action: &KernelSigaction) {
        let arrived = crate::signal::arrived as *const () as u64;
        let child = action.flags & (SA_NOCLDSTOP | SA_NOCLDWAIT);
        let native = if self.is_traced() {
            // What is restarted is decided when the tracer has decided about the signal.
            let no_zombies = signal == SIGCHLD && action.handler == SIG_IGN;
            let child = if no_zombies { child | SA_NOCLDWAIT } else { child };
            wrapped(arrived, child | SA_RESTART, BLOCK_ALL)
        } else if action.is_caught() {
            wrapped(arrived, child | action.flags & SA_RESTART, BLOCK_ALL)
        } else if action.handler == SIG_DFL && self.judged.load(Ordering::Relaxed) & Self::bit(signal) != 0 {
            wrapped(arrived, SA_RESTART, BLOCK_ALL)
        } else {
            let does_nothing = action.handler == SIG_DFL && self.is_unkillable() && FATAL & Self::bit(signal) != 0;
            let handler = if does_nothing { SIG_IGN } else { action.handler };
            KernelSigaction { restorer: 0, mask: 0, flags: child, handler }
        };
        native_action(signal, Some(&native));
    }

    fn install_all(&self) {
        for signal in (1..=NSIG as i32).filter(|&signal| !is_always_ours(signal)) {
            if !matches!(signal, SIGKILL | SIGSTOP) {
                self.with(signal, |action| self.install(signal, action));
            }
        }
    }

    /// Whether it is that of the init of a pid namespace.
    pub fn is_unkillable(&self) -> bool {
        self.unkillable.load(Ordering::Relaxed)
    }

    /// Makes it that of the init of a pid namespace. `ignored`: what the guest ignores, where the host kernel ignores more
    /// already.
    pub fn make_unkillable(&self, ignored: Option<u64>) {
        for signal in 1..=NSIG as i32 {
            match ignored.filter(|_| FATAL & Self::bit(signal) != 0) {
                Some(set) => self.with(signal, |action| {
                    action.handler = if set & Self::bit(signal) == 0 { SIG_DFL } else { SIG_IGN };
                }),
                None => self.with(signal, |_| ()),
            }
        }
        self.unkillable.store(true, Ordering::Relaxed);
        self.first.store(false, Ordering::Relaxed);
        self.judged.store(0, Ordering::Relaxed);
        self.install_all();
    }

    /// Makes it that of the sandbox's first process, which begins with some signals blocked.
    pub fn make_first(&self, blocked: u64) {
        self.first.store(true, Ordering::Relaxed);
        self.blocks(blocked);
    }

    /// The guest blocks signals from now on: in the sandbox's first process those that come meanwhile stay until it takes them or lets
    /// them in, and then do nothing. (`sig_ignored()`: what is blocked is not ignored.)
    #[inline(always)]
    pub fn blocks(&self, mask: u64) {
        if self.first.load(Ordering::Relaxed) {
            self.judge(mask & JUDGED);
        }
    }

    #[cold]
    fn judge(&self, signals: u64) {
        let new = signals & !self.judged.fetch_or(signals, Ordering::Relaxed);
        for signal in (1..=NSIG as i32).filter(|&signal| new & Self::bit(signal) != 0) {
            self.with(signal, |action| self.install(signal, action));
        }
    }

    /// Whether a signal does nothing, as it was sent by a guest to the sandbox's first process, which has not said what it should do.
    pub fn discards(&self, info: &SigInfo) -> bool {
        let signal = info.signo();
        info.code() == SI_NOMINA
            && self.judged.load(Ordering::Relaxed) & Self::bit(signal) != 0
            && !self.is_traced()
            && self.get(signal).handler == SIG_DFL
    }

    /// In a copy of an init's table: it is that of an ordinary process. Until now signals are blocked, so that none was ignored.
    pub fn make_killable(&self) {
        // A store would have the host copy the page.
        if self.first.load(Ordering::Relaxed) {
            self.first.store(false, Ordering::Relaxed);
        }
        let judged = self.judged.load(Ordering::Relaxed);
        if judged != 0 {
            self.judged.store(0, Ordering::Relaxed);
        }
        if self.unkillable.load(Ordering::Relaxed) {
            self.unkillable.store(false, Ordering::Relaxed);
            self.install_all();
        } else {
            for signal in (1..=NSIG as i32).filter(|&signal| judged & Self::bit(signal) != 0) {
                self.with(signal, |action| self.install(signal, action));
            }
        }
    }

    /// What the guest ignores, of what an init does not handle.
    pub fn ignored(&self) -> u64 {
        let ignores = |signal: &i32| FATAL & Self::bit(*signal) != 0 && self.get(*signal).handler == SIG_IGN;
        (1..=NSIG as i32).filter(ignores).map(Self::bit).sum()
    }

    /// Whether a thread is traced.
    pub fn is_traced(&self) -> bool {
        self.traced.load(Ordering::Relaxed) != 0
    }

    /// A thread is traced, or is not any more.
    pub fn trace(&self, on: bool) {
        if on {
            if !self.is_traced() {
                // While the host still knows what is ignored.
                for signal in 1..=NSIG as i32 {
                    self.get(signal);
                }
            }
            if self.traced.fetch_add(1, Ordering::Relaxed) == 0 {
                self.install_all();
            }
        } else if self.traced.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.install_all();
        }
    }

    /// In a process with a copy of its maker's table: whether it is traced, whatever its maker is.
    pub fn trace_again(&self, on: bool) {
        if self.is_traced() != on {
            self.traced.store(u32::from(!on), Ordering::Relaxed);
            self.trace(on);
        }
        self.traced.store(u32::from(on), Ordering::Relaxed);
    }

    /// A traced thread ends.
    pub fn forget_traced(&self) {
        self.traced.fetch_sub(1, Ordering::Relaxed);
    }

    /// In a forked child: whoever held the lock does not exist.
    pub fn reset_lock(&self) {
        self.lock.reset();
    }

    /// Copies another table.
    pub fn copy_from(&self, other: &Sighand) {
        if core::ptr::eq(self, other) {
            self.lock.reset();
            return;
        }
        // SAFETY: this table is not in use yet, and nobody changes the other: its lock is held, or its other users do not exist.
        unsafe { *self.actions.get() = *other.actions.get() };
        self.known.store(other.known.load(Ordering::Relaxed), Ordering::Relaxed);
        self.traced.store(other.traced.load(Ordering::Relaxed), Ordering::Relaxed);
        self.unkillable.store(other.is_unkillable(), Ordering::Relaxed);
        self.first.store(other.first.load(Ordering::Relaxed), Ordering::Relaxed);
        self.judged.store(other.judged.load(Ordering::Relaxed), Ordering::Relaxed);
        self.lock.reset();
    }

    /// Makes every caught signal default (`CLONE_CLEAR_SIGHAND`).
    pub fn clear_caught(&self) {
        for signal in 1..=NSIG as i32 {
            if self.get(signal).is_caught() {
                self.set(signal, KernelSigaction::DEFAULT);
            }
        }
    }
}

/// `rt_sigaction(2)`. `EINVAL` for a bad number or size and for changing SIGKILL or SIGSTOP, `EFAULT` for bad pointers.
pub fn rt_sigaction(area: &Area, signal: u64, new: u64, old: u64, size: u64) -> Result<i64, i64> {
    let signal = signal as i32;
    if size != 8 {
        return Err(err::EINVAL);
    }
    let action = if new == 0 { None } else { Some(get_user::<KernelSigaction>(new)?) };
    if !(1..=NSIG as i32).contains(&signal) || (action.is_some() && matches!(signal, SIGKILL | SIGSTOP)) {
        return Err(err::EINVAL);
    }
    let was = match action {
        Some(mut action) => {
            action.mask &= !UNBLOCKABLE;
            action.flags &= SA_KNOWN;
            area.sighand().set(signal, action)
        }
        None => area.sighand().get(signal),
    };
    if old != 0 {
        put_user(old, was)?;
    }
    Ok(0)
}
