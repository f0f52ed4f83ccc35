//! `fork(2)`, `vfork(2)`, `clone(2)`, `clone3(2)`, and the end of a thread.
//!
//! The supervisor makes the task of the model first (`op::CLONE`), then the host kernel makes the thread or process without
//! what the model does itself: namespaces, and ids stored in memory, which are the guest's numbers.

use core::sync::atomic::Ordering;

use nomina_abi::ptrace::{event, mode};
use nomina_abi::{GATE_ATTACH, SPAN_NULL, op};

use crate::arch::{nomina_clone_shared, nomina_exit_thread};
use crate::area::{Area, FILES, SIGHAND, THREADED, slot_at};
use crate::frame::{UContext, fpstate_size};
use crate::marshal::Arena;
use crate::ptrace;
use crate::slot::{exchange, farewell, gate, out};
use crate::sighand::SIGCHLD;
use crate::start::adopt_orphans;
use crate::sys::{self, err, nr, sys};
use crate::uaccess::{copy_from_user, get_user, put_user_opt};

const CSIGNAL: u64 = 0xff;
const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
const CLONE_SIGHAND: u64 = 0x800;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_VFORK: u64 = 0x4000;
const CLONE_PARENT: u64 = 0x8000;
const CLONE_THREAD: u64 = 0x1_0000;
const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_DETACHED: u64 = 0x40_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
const CLONE_CHILD_SETTID: u64 = 0x100_0000;
const CLONE_NEWUSER: u64 = 0x1000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// End of the memory a process can have.
const TASK_SIZE_MAX: u64 = (1 << 47) - 4096;
/// Most pids in `set_tid`.
const MAX_PID_NS_LEVEL: u64 = 32;
/// Size of `struct clone_args` from the version on that has `cgroup`.
const CLONE_ARGS_SIZE_VER2: u64 = 88;
/// What the host kernel does: VM, FS, FILES, SIGHAND, PIDFD, VFORK, PARENT, THREAD, SYSVSEM, SETTLS, CHILD_CLEARTID, IO.
const NATIVE: u64 = 0x100
    | 0x200
    | 0x400
    | 0x800
    | 0x1000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x4_0000
    | 0x8_0000
    | 0x20_0000
    | 0x8000_0000;

/// Arguments of a clone, of whichever call.
#[derive(Clone, Copy, Default)]
pub struct CloneArgs {
    /// `CLONE_*` without the exit signal.
    pub flags: u64,
    /// Signal to the parent at the child's end.
    pub exit_signal: u64,
    /// Initial stack pointer, 0 to keep it.
    pub stack: u64,
    /// Where `CLONE_PARENT_SETTID` stores.
    pub parent_tid: u64,
    /// Where `CLONE_CHILD_SETTID` and `CLONE_CHILD_CLEARTID` store.
    pub child_tid: u64,
    /// Where `CLONE_PIDFD` stores.
    pub pidfd: u64,
    /// For `CLONE_SETTLS`.
    pub tls: u64,
    /// The pids asked for, innermost first: address and count.
    pub set_tid: (u64, u64),
    /// Descriptor of the control group to start in, with `CLONE_INTO_CGROUP`.
    pub cgroup: u64,
}

/// `fork(2)`.
pub fn fork(area: &'static Area, context: &mut UContext) -> Result<i64, i64> {
    clone_process(area, context, &CloneArgs { exit_signal: 17, ..CloneArgs::default() })
}

/// `vfork(2)`.
pub fn vfork(area: &'static Area, context: &mut UContext) -> Result<i64, i64> {
    let flags = CLONE_VM | CLONE_VFORK;
    clone_process(area, context, &CloneArgs { flags, exit_signal: 17, ..CloneArgs::default() })
}

/// `clone(2)` with the argument order of x86-64. `EINVAL` for `CLONE_PIDFD` together with `CLONE_PARENT_SETTID` or
/// `CLONE_DETACHED`, and whatever the model refuses.
pub fn clone(area: &'static Area, context: &mut UContext, args: &[u64; 6]) -> Result<i64, i64> {
    // The kernel takes the low 32 bits.
    let flags = args[0] & 0xffff_ff00;
    if flags & CLONE_PIDFD != 0 && flags & (CLONE_PARENT_SETTID | CLONE_DETACHED) != 0 {
        return Err(err::EINVAL);
    }
    let request = CloneArgs {
        flags,
        exit_signal: args[0] & CSIGNAL,
        stack: args[1],
        parent_tid: args[2],
        child_tid: args[3],
        pidfd: args[2],
        tls: args[4],
        ..CloneArgs::default()
    };
    clone_process(area, context, &request)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Clone3 {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `clone3(2)`. `EINVAL` and `E2BIG` as Linux.
pub fn clone3(area: &'static Area, context: &mut UContext, at: u64, size: u64) -> Result<i64, i64> {
    const SIZE: usize = size_of::<Clone3>();
    if size > 4096 {
        return Err(err::E2BIG);
    }
    if size < 64 {
        return Err(err::EINVAL);
    }
    let mut bytes = [0u64; SIZE / 8];
    // SAFETY: the buffer holds as much as is copied.
    unsafe { copy_from_user(bytes.as_mut_ptr().cast(), at, (size as usize).min(SIZE))? };
    for beyond in SIZE as u64..size {
        if get_user::<u8>(at + beyond)? != 0 {
            return Err(err::E2BIG);
        }
    }
    // SAFETY: same size, plain numbers.
    let args: Clone3 = unsafe { core::mem::transmute(bytes) };
    // `clone3_stack_valid`: both or neither, and below the end of the address space.
    let bad_stack = (args.stack == 0) != (args.stack_size == 0)
        || args.stack.checked_add(args.stack_size).is_none_or(|end| end > TASK_SIZE_MAX);
    let handlers = args.flags & (CLONE_SIGHAND | CLONE_CLEAR_SIGHAND) == CLONE_SIGHAND | CLONE_CLEAR_SIGHAND;
    if args.flags & (CLONE_DETACHED | (CSIGNAL & !0x80)) != 0
        || args.flags >> 34 != 0
        || args.exit_signal > 64
        || args.set_tid_size > MAX_PID_NS_LEVEL
        || (args.set_tid == 0) != (args.set_tid_size == 0)
        || args.flags & CLONE_INTO_CGROUP != 0 && (args.cgroup > i32::MAX as u64 || size < CLONE_ARGS_SIZE_VER2)
        || bad_stack
        || handlers
        || (args.flags & (CLONE_THREAD | CLONE_PARENT) != 0 && args.exit_signal != 0)
    {
        return Err(err::EINVAL);
    }
    let request = CloneArgs {
        flags: args.flags,
        exit_signal: args.exit_signal,
        stack: args.stack.wrapping_add(args.stack_size),
        parent_tid: args.parent_tid,
        child_tid: args.child_tid,
        pidfd: args.pidfd,
        tls: args.tls,
        set_tid: (args.set_tid, args.set_tid_size),
        cgroup: args.cgroup,
    };
    clone_process(area, context, &request)
}

/// What the supervisor said about the new task.
struct Child {
    /// As the caller sees it.
    pid: i64,
    token: u64,
    tid: i32,
    tgid: i32,
    slot: u32,
    /// Init of a pid namespace.
    init: bool,
    /// What the caller must stop for (`PTRACE_EVENT_*`), 0 if nothing.
    event: u32,
    /// The child is traced.
    traced: bool,
}

fn clone_process(area: &'static Area, context: &mut UContext, args: &CloneArgs) -> Result<i64, i64> {
    let shared = args.flags & CLONE_VM != 0;
    if shared && args.flags & CLONE_VFORK == 0 {
        THREADED.store(true, Ordering::Relaxed);
    }
    let set_tid = match args.set_tid {
        (0, _) => SPAN_NULL,
        (at, count) => Arena::new(area).bytes(at, count * 4)?,
    };
    let child = match promised(area, args) {
        Some(child) => child,
        None => {
            let ask = [args.flags, args.exit_signal, set_tid, args.cgroup, 0, 0];
            let (pid, _) = exchange(area, op::CLONE, &ask);
            if pid < 0 {
                return Err(pid);
            }
            Child {
                pid,
                token: out(area, 0),
                tid: out(area, 1) as i32,
                tgid: out(area, 2) as i32,
                slot: out(area, 3) as u32,
                init: out(area, 4) != 0,
                event: out(area, 5) as u32 & 0xff,
                traced: out(area, 5) >> 8 != 0,
            }
        }
    };
    let pid = child.pid;
    let native = if shared {
        clone_shared(area, context, args, &child)
    } else {
        clone_copied(area, context, args, &child)
    };
    if let Ok(0) = native
        && !shared
    {
        return Ok(0);
    }
    match native {
        Ok(host) => {
            crate::wait::CHILDREN.insert(pid as i32, host as i32);
            crate::slot::note_born(area, pid as i32, host as i32);
            // In shared memory it has been stored before: the child may be gone by now, and its word cleared.
            if !shared && args.flags & CLONE_PARENT_SETTID != 0 {
                // As in the kernel, a bad pointer is not an error.
                let _ = put_user_opt(args.parent_tid, pid as i32);
            }
            if child.event != 0 && !(shared && args.flags & CLONE_VFORK != 0) {
                ptrace::event(area, context, child.event, pid as u64);
            }
            Ok(pid)
        }
        Err(error) => {
            exchange(area, op::CLONE_FAILED, &[child.token, 0, 0, 0, 0, 0]);
            Err(error)
        }
    }
}

/// What the supervisor has promised about the next child, if that is to be a plain one (`nomina_abi::Promised`).
fn promised(area: &Area, args: &CloneArgs) -> Option<Child> {
    const PLAIN: u64 = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    let is_plain = args.flags & !PLAIN == 0 && args.exit_signal == SIGCHLD as u64 && args.set_tid.0 == 0;
    if !is_plain
        || THREADED.load(Ordering::Relaxed)
        || area.trace.get() != 0
        || area.claimed.get()
        || area.sighand().is_traced()
    {
        return None;
    }
    let (pid, token, slot) = crate::slot::take_promise(area)?;
    Some(Child { pid: pid.into(), token, tid: pid, tgid: pid, slot, init: false, event: 0, traced: false })
}

fn native_flags(args: &CloneArgs) -> u64 {
    args.flags & NATIVE | args.exit_signal
}

/// A child with its own memory: it continues here, on its copy of the stack.
fn clone_copied(
    area: &'static Area,
    context: &mut UContext,
    args: &CloneArgs,
    child: &Child,
) -> Result<i64, i64> {
    let same_files = args.flags & CLONE_FILES != 0;
    if same_files {
        area.files().share()?;
        THREADED.store(true, Ordering::Relaxed);
    }
    // SAFETY: the child has a copy of everything, and keeps its stack.
    let ret = unsafe { sys!(nr::CLONE, native_flags(args), 0, args.pidfd, args.child_tid, args.tls) };
    if ret < 0 {
        return Err(ret);
    }
    if ret > 0 {
        return Ok(ret);
    }
    // Every page written here is copied by the host: what is right already is left alone.
    if !core::ptr::eq(area.sighand.get(), &raw const SIGHAND) {
        SIGHAND.copy_from(area.sighand());
        area.sighand.set(&raw const SIGHAND);
    }
    if !core::ptr::eq(area.files.get(), &raw const FILES) {
        area.files().carry_to(&FILES);
        area.files.set(&raw const FILES);
    }
    // Other threads may have held these.
    SIGHAND.reset_lock();
    FILES.reset(same_files);
    crate::patch::reset_lock();
    crate::seccomp::reset_lock();
    crate::remembered::reset_lock();
    if THREADED.load(Ordering::Relaxed) {
        THREADED.store(same_files, Ordering::Relaxed);
        area.keep_only_own();
    }
    if area.held.get() != 0 {
        area.held.set(0);
    }
    area.robust_list.set(0);
    crate::ahead::forget();
    // Region and socket are the parent's: this process gets its own with its first request, unless that is an exec.
    area.slot.set(core::ptr::null_mut());
    area.borrowed.set(slot_at(child.slot));
    if args.flags & CLONE_NEWUSER != 0 {
        area.ids.set(None);
    }
    area.tid.set(child.tid);
    area.pid.set(child.tgid);
    area.token.set(child.token);
    crate::wait::CHILDREN.clear();
    if ptrace::TRACER.load(Ordering::Relaxed) {
        ptrace::TRACER.store(false, Ordering::Relaxed);
    }
    if area.trace.get() != 0 || child.traced || area.sighand().is_traced() {
        ptrace::child_born(area, child.traced, false);
    }
    if child.init {
        adopt_orphans();
        area.sighand().make_unkillable(None);
    } else {
        area.sighand().make_killable();
    }
    if args.flags & CLONE_CLEAR_SIGHAND != 0 {
        area.sighand().clear_caught();
    }
    if args.flags & CLONE_CHILD_SETTID != 0 {
        let _ = put_user_opt(args.child_tid, child.tid);
    }
    if args.stack != 0 {
        context.mcontext.rsp = args.stack;
    }
    Ok(0)
}

/// A child in the same memory: it starts on an area of its own, with a copy of the signal frame, which `rt_sigreturn` enters.
fn clone_shared(
    area: &'static Area,
    context: &mut UContext,
    args: &CloneArgs,
    child: &Child,
) -> Result<i64, i64> {
    let new = Area::allocate()?;
    new.set_slot(child.slot);
    new.tid.set(child.tid);
    new.pid.set(child.tgid);
    new.token.set(child.token);
    new.ids.set(area.ids.get().filter(|_| args.flags & CLONE_NEWUSER == 0));
    new.clear_sighand.set(args.flags & CLONE_CLEAR_SIGHAND != 0);
    if args.flags & CLONE_SIGHAND != 0 {
        new.sighand.set(area.sighand.get());
    } else {
        new.own_sighand().copy_from(area.sighand());
        new.sighand.set(new.own_sighand());
    }
    if args.flags & CLONE_FILES != 0 {
        new.files.set(area.files.get());
    } else {
        new.files.set(&raw const new.own_files);
    }
    if args.flags & CLONE_VFORK != 0 {
        new.altstack.set(area.altstack.get());
    }
    new.blocks.set(area.blocks.get());
    new.note_mask(context.sigmask);
    if args.flags & CLONE_CHILD_SETTID != 0 {
        new.child_settid.set(args.child_tid);
    }
    if args.flags & CLONE_PARENT_SETTID != 0 {
        // The child must find it.
        let _ = put_user_opt(args.parent_tid, child.pid as i32);
    }
    let frame = copy_frame(new, context, args.stack);
    new.context.set((frame + 8) as *mut UContext);
    new.born_traced.set(child.traced);
    new.blocks_sigtrap.set(area.blocks_sigtrap.get());
    let mut flags = native_flags(args);
    let mut child_tid = args.child_tid;
    // A traced caller must be able to stop before it waits. The host tells when the child has left this memory.
    let waits = area.trace.get() != 0 && args.flags & (CLONE_VFORK | CLONE_CHILD_CLEARTID) == CLONE_VFORK;
    if waits {
        new.vfork_done.store(1, Ordering::Relaxed);
        flags = flags & !CLONE_VFORK | CLONE_CHILD_CLEARTID;
        child_tid = new.vfork_done.as_ptr() as u64;
    }
    // SAFETY: the child starts on its own area, with the frame just made.
    let ret = unsafe { nomina_clone_shared(flags, frame, args.pidfd, child_tid, args.tls) };
    if ret > 0 && waits {
        if child.event != 0 {
            ptrace::event(area, context, child.event, child.pid as u64);
        }
        while new.vfork_done.load(Ordering::Acquire) != 0 {
            // SAFETY: the futex word outlives the call.
            unsafe { sys!(nr::FUTEX, new.vfork_done.as_ptr() as u64, 0, 1, 0, 0, 0) };
        }
        if area.trace.get() & mode::VFORK_DONE != 0 {
            ptrace::event(area, context, event::VFORK_DONE, child.pid as u64);
        }
    }
    if ret < 0 || args.flags & CLONE_VFORK != 0 {
        // The child has left this memory, or never was.
        let (scratch, len) = new.exec_scratch.get();
        if len != 0 {
            // SAFETY: made by the child for its exec.
            unsafe { sys!(nr::MUNMAP, scratch, len) };
        }
        new.free();
    }
    if ret < 0 { Err(ret) } else { Ok(ret) }
}

/// Copies the signal frame to the top of another area, with result 0 and the child's stack.
fn copy_frame(new: &Area, context: &UContext, stack: u64) -> u64 {
    // SAFETY: the kernel wrote the state, and the area's stack has room for several frames.
    unsafe {
        let fp_size = fpstate_size(context.mcontext.fpstate);
        let fp = (new.top() - fp_size) & !63;
        core::ptr::copy_nonoverlapping(
            context.mcontext.fpstate as *const u8,
            fp as *mut u8,
            fp_size as usize,
        );
        let frame = (fp - size_of::<UContext>() as u64 - 8) & !63;
        let copy = &mut *((frame + 8) as *mut UContext);
        *copy = *context;
        copy.mcontext.fpstate = if fp_size == 0 { 0 } else { fp };
        copy.mcontext.rax = 0;
        if stack != 0 {
            copy.mcontext.rsp = stack;
        }
        copy.stack = new.native_stack();
        frame
    }
}

/// First code of a child that shares memory, on its area; its frame is restored afterwards.
pub extern "C" fn child_born() {
    let area = Area::current();
    crate::patch::begin_thread(area);
    // A process of its own is known by the token when it first asks; a thread must be known before others name it.
    let own = core::ptr::eq(area.sighand.get(), area.own_sighand());
    if core::ptr::eq(area.files.get(), &raw const area.own_files) {
        if area.tid.get() == 1 {
            adopt_orphans();
            if own {
                area.own_sighand().make_unkillable(None);
            }
        } else if own {
            area.own_sighand().make_killable();
        }
    } else if gate(GATE_ATTACH, area.token.get()) < 0 {
        sys::exit_group(137);
    }
    if area.born_traced.get() || own && area.own_sighand().is_traced() {
        crate::ptrace::child_born(area, area.born_traced.get(), !own);
    }
    if area.clear_sighand.get() {
        area.sighand().clear_caught();
    }
    let _ = put_user_opt(area.child_settid.get(), area.tid.get());
    if area.kicked.get() {
        // SAFETY: made by `copy_frame` on this area.
        let context = unsafe { &mut *area.context.get() };
        ptrace::interrupted(area, context, None);
        area.note_mask(context.sigmask);
    }
}

/// `exit(2)`: the end of a thread.
pub fn exit(area: &'static Area, code: u64) -> ! {
    ptrace::exiting(area, ((code & 0xff) << 8) as i32, false);
    if area.trace.get() != 0 {
        area.sighand().forget_traced();
    }
    crate::futex::exit_robust_list(area);
    farewell(area, code & 0xff);
    let (word, bit) = area.used_bit();
    sys::set_mask(u64::MAX);
    // SAFETY: no handler can run any more, so the stack is not used after the area is free.
    unsafe { nomina_exit_thread(word.as_ptr(), bit, code as u32) }
}
