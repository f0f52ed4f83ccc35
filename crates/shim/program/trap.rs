//! Where system calls arrive: the handler of SIGSYS.

use nomina_abi::Kind;

use crate::arch::{in_shim, traced_entry};
use crate::area::Area;
use crate::frame::{SigInfo, UContext};
use crate::sys::{err, nr};
use crate::{
    bpf, clone, exec, fd, futex, ipc, marshal, masked, message, packet_ring, patch, poll, process, ptrace, seccomp, signal, signalfd, slot,
    socket,
    tracer, wait, written,
};

/// `si_code` of a SIGSYS that the filter raised.
const SYS_SECCOMP: i32 = 1;
/// `si_code` of a SIGSYS for a call of a traced thread.
const SYS_USER_DISPATCH: i32 = 2;

/// What the stub's call gives when a filter of the guest's traps it, less the filter's data.
pub const GUESTS_TRAP: i64 = -0x1_0000;

/// Serves one system call.
pub extern "C" fn system_call(number: i32, info: *const SigInfo, context: *mut UContext) {
    // SAFETY: the kernel wrote both for this handler.
    let (info, context) = unsafe { (&*info, &mut *context) };
    if info.code() != SYS_SECCOMP && info.code() != SYS_USER_DISPATCH {
        // A timer of the guest's, or the like.
        return signal::arrived(number, info, context);
    }
    if in_shim(context.mcontext.rip) {
        if context.mcontext.rip == ptrace::STUB + 2 {
            let said = if seccomp::is_ours(info) { 0 } else { GUESTS_TRAP - i64::from(info.errno()) };
            context.mcontext.rax = if said == 0 { err::NOT_NATIVE } else { said } as u64;
            return;
        }
        if context.mcontext.rip == traced_entry() {
            return ptrace::entered(Area::current(), context);
        }
        // The filter refused the shim a call that it tries: like a kernel without it.
        context.mcontext.rax = err::ENOSYS as u64;
        return;
    }
    let area = Area::current();
    area.context.set(context);
    if area.pending.get() {
        // A signal came on the way here by a trampoline, and blocked all others.
        context.sigmask = area.mask.get();
    }
    area.woken.set(false);
    signal::open_faults(context);
    let number = info.syscall() as u32 as u64;
    if info.code() == SYS_SECCOMP && !seccomp::is_ours(info) {
        seccomp::trapped(area, context, info);
        return area.note_mask(context.sigmask);
    }
    let registers = &context.mcontext;
    let args = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    seccomp::claim(area, number, &args, registers.rip);
    if area.has_result.replace(false) {
        signal::finish(area, context, number, area.patched_frame().result);
    } else if area.trace.get() != 0 {
        ptrace::system_call(area, context, number);
    } else if area.claimed.get()
        && let Some(denied) = seccomp::denied(area, context, number)
    {
        if let seccomp::Denied::With(result) = denied {
            signal::finish(area, context, number, result);
        }
    } else if number == nr::RT_SIGRETURN {
        signal::rt_sigreturn(area, context);
        if area.kicked.get() {
            ptrace::interrupted(area, context, None);
        } else {
            signal::leave(area, context);
        }
    } else {
        patch::trapped(area, context, number);
        let (Ok(result) | Err(result)) = serve(area, context, number, &args);
        written::acknowledge(area);
        signal::finish(area, context, number, result);
    }
    area.note_mask(context.sigmask);
}

/// Serves a call that is not native.
#[inline(always)]
pub fn serve(area: &'static Area, context: &mut UContext, number: u64, args: &[u64; 6]) -> Result<i64, i64> {
    match generic_kinds(number) {
        Some(kinds) => marshal::generic(area, number, kinds, args),
        None => special(area, context, number, args),
    }
}

/// Serves a call that came without a signal frame. `NEEDS_FRAME` if it has to have one.
pub fn without_frame(area: &'static Area, number: u64, args: &[u64; 6]) -> Result<i64, i64> {
    let [a, b, c, d, ..] = *args;
    match number {
        nr::GETPID => Ok(i64::from(area.pid.get())),
        nr::GETTID => Ok(i64::from(area.tid.get())),
        nr::RT_SIGACTION => crate::sighand::rt_sigaction(area, a, b, c, d),
        nr::EPOLL_CTL => poll::epoll_ctl(area, args),
        nr::CONNECT => socket::connect(area, args),
        _ => match generic_kinds(number) {
            Some(kinds) => marshal::generic(area, number, kinds, args),
            None => Err(err::NEEDS_FRAME),
        },
    }
}

/// Whether [`without_frame`] serves a call.
pub fn needs_no_frame(number: u64) -> bool {
    matches!(number, nr::GETPID | nr::GETTID | nr::RT_SIGACTION | nr::EPOLL_CTL | nr::CONNECT)
        || generic_kinds(number).is_some()
}

/// The arguments of a call that is only copied in, asked and copied out.
pub fn generic_kinds(number: u64) -> Option<&'static [Kind]> {
    marshal::kinds(number).filter(|_| !has_own_code(number))
}

/// Whether a call with generic arguments is answered here, or natively, in some cases.
fn has_own_code(number: u64) -> bool {
    matches!(
        number,
        nr::SOCKET
            | nr::CONNECT
            | nr::PRLIMIT64
            | nr::UNSHARE
            | nr::GETPRIORITY
            | nr::SETPRIORITY
            | nr::SCHED_SETPARAM
            | nr::SCHED_GETPARAM
            | nr::SCHED_SETSCHEDULER
            | nr::SCHED_GETSCHEDULER
            | nr::SCHED_RR_GET_INTERVAL
            | nr::SCHED_SETAFFINITY
            | nr::SCHED_GETAFFINITY
            | nr::SCHED_SETATTR
            | nr::SCHED_GETATTR
    )
}

/// System calls with code of their own.
fn special(area: &'static Area, context: &mut UContext, number: u64, args: &[u64; 6]) -> Result<i64, i64> {
    let [a, b, c, d, ..] = *args;
    match number {
        nr::GETPID => Ok(i64::from(area.pid.get())),
        nr::GETTID => Ok(i64::from(area.tid.get())),
        nr::RT_SIGACTION => crate::sighand::rt_sigaction(area, a, b, c, d),
        nr::RT_SIGPROCMASK => signal::rt_sigprocmask(area, context, a, b, c, d),
        nr::SIGALTSTACK => signal::sigaltstack(area, context, a, b),
        nr::RT_SIGSUSPEND => masked::rt_sigsuspend(area, context, a, b),
        nr::RT_SIGTIMEDWAIT => masked::rt_sigtimedwait(area, args),
        nr::RT_SIGPENDING => masked::rt_sigpending(area, context, a, b),
        nr::SIGNALFD => signalfd::signalfd(number, a, b, c, 0),
        nr::SIGNALFD4 => signalfd::signalfd(number, a, b, c, d),
        nr::MMAP => packet_ring::mmap(area, args),
        nr::POLL | nr::SELECT | nr::EPOLL_WAIT => packet_ring::wait(area, number, args),
        nr::PPOLL => masked::with_mask(area, context, number, args, 3),
        nr::EPOLL_CTL => poll::epoll_ctl(area, args),
        nr::EPOLL_PWAIT | nr::EPOLL_PWAIT2 => masked::with_mask(area, context, number, args, 4),
        nr::PSELECT6 => masked::pselect6(area, context, args),
        nr::FORK => clone::fork(area, context),
        nr::VFORK => clone::vfork(area, context),
        nr::CLONE => clone::clone(area, context, args),
        nr::CLONE3 => clone::clone3(area, context, a, b),
        nr::EXECVE => exec::execve(area, args),
        nr::EXECVEAT => exec::execveat(area, args),
        nr::EXIT => clone::exit(area, a),
        nr::EXIT_GROUP => {
            futex::exit_robust_lists(area);
            crate::sys::exit_group(a as i32)
        }
        nr::WAIT4 => wait::wait4(area, args),
        nr::WAITID => wait::waitid(area, args),
        nr::PTRACE => tracer::ptrace(area, args),
        nr::PROCESS_VM_READV | nr::PROCESS_VM_WRITEV => tracer::process_vm(area, number, args),
        nr::FUTEX => futex::futex(area, args),
        nr::SET_TID_ADDRESS => Ok(process::set_tid_address(area, a)),
        nr::SET_ROBUST_LIST => futex::set_robust_list(area, a, b),
        nr::GET_ROBUST_LIST => futex::get_robust_list(area, a, b, c),
        nr::CLOSE_RANGE => fd::close_range(a, b, c),
        nr::READ => signalfd::read(area, args),
        nr::READV => signalfd::readv(area, args),
        nr::CLOSE | nr::DUP | nr::DUP2 | nr::DUP3 => Ok(fd::duplicate(number, args)),
        nr::FCNTL => process::fcntl(area, args),
        nr::FLOCK => Ok(fd::flock(area, args)),
        nr::FSYNC | nr::FDATASYNC | nr::SYNCFS => Ok(fd::fsync(area, number, args)),
        nr::GETRLIMIT => fd::prlimit(area, 0, a, 0, b),
        nr::SETRLIMIT => fd::prlimit(area, 0, a, b, 0),
        nr::PRLIMIT64 => fd::prlimit(area, a, b, c, d),
        nr::CONNECT => socket::connect(area, args),
        nr::LISTEN => socket::listen(area, args),
        nr::ACCEPT => socket::accept(area, number, args, 0),
        nr::ACCEPT4 => socket::accept(area, number, args, d),
        nr::RECVFROM => message::recvfrom(area, args),
        nr::SENDTO => message::sendto(area, args),
        nr::SENDMSG => message::sendmsg(area, a, b, c),
        nr::RECVMSG => message::recvmsg(area, a, b, c),
        nr::SENDMMSG => message::sendmmsg(area, args),
        nr::RECVMMSG => message::recvmmsg(area, args),
        nr::SOCKETPAIR => socket::socketpair(area, args),
        nr::GETSOCKOPT => socket::getsockopt(area, args),
        nr::SETSOCKOPT => socket::setsockopt(area, args),
        nr::SHMAT => ipc::shmat(area, args),
        nr::SHMDT => ipc::shmdt(area, a),
        nr::SHMCTL | nr::MSGCTL => ipc::control(area, number, args),
        nr::SEMOP => ipc::semop(area, number, args, 0),
        nr::SEMTIMEDOP => ipc::semop(area, number, args, d),
        nr::SEMCTL => ipc::semctl(area, args),
        nr::MSGSND => ipc::msgsnd(area, args),
        nr::MSGRCV => ipc::msgrcv(area, args),
        nr::MQ_TIMEDSEND => ipc::mq_timedsend(area, args),
        nr::MQ_TIMEDRECEIVE => ipc::mq_timedreceive(area, args),
        nr::MQ_NOTIFY => ipc::mq_notify(area, a, b),
        nr::UNSHARE => Ok(process::unshare(area, a)),
        nr::GETPRIORITY | nr::SETPRIORITY if a as u32 == 0 => process::of_thread(area, number, args, 1),
        nr::GETPRIORITY | nr::SETPRIORITY => Ok(slot::request(area, number as u32, args)),
        nr::SCHED_SETPARAM
        | nr::SCHED_GETPARAM
        | nr::SCHED_SETSCHEDULER
        | nr::SCHED_GETSCHEDULER
        | nr::SCHED_RR_GET_INTERVAL
        | nr::SCHED_SETAFFINITY
        | nr::SCHED_GETAFFINITY
        | nr::SCHED_SETATTR
        | nr::SCHED_GETATTR
        | nr::MIGRATE_PAGES
        | nr::MOVE_PAGES => process::of_thread(area, number, args, 0),
        nr::IOPRIO_SET | nr::IOPRIO_GET if a as u32 == 1 => process::of_thread(area, number, args, 1),
        nr::SETSID => Ok(process::setsid(area)),
        nr::SETPGID => Ok(process::setpgid(area, a, b)),
        nr::IOCTL => process::ioctl(area, args),
        nr::PRCTL => process::prctl(area, args),
        nr::SECCOMP => seccomp::seccomp(area, a, b, c),
        nr::BPF => bpf::bpf(area, a, b, c),
        nr::TIMER_CREATE => process::timer_create(area, args),
        // The supervisor knows what the shim does not.
        _ => Ok(slot::request(area, number as u32, args)),
    }
}
