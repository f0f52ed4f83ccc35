//! Filters and their notifications (`seccomp(2)`, `seccomp_unotify(2)`), each with a whole round trip.

use std::mem;

use nomina_kernel::Errno;

use super::{Finding, Status, last_errno, outcome};
use crate::bpf::Instruction;
use crate::child::in_child;

/// What the trial's guest calls, with the gate's argument: what an outer filter says to it, it says to the gate.
const CALL: u32 = nomina_abi::GATE_NR;
/// What the trial's supervisor answers.
const ANSWER: i64 = 77;

/// How long a notification may take. An outer filter that answers the call itself leaves us waiting for nothing.
const PATIENCE_MS: i32 = 500;

const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;
/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, Linux 6.6.
const NOTIF_SET_FLAGS: libc::c_ulong = 0x4008_2104;
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
const SYNC_WAKE_UP: u64 = 1;

const LOAD_NR: Instruction = Instruction { code: 0x20, jt: 0, jf: 0, k: 0 };
const IF_CALL: Instruction = Instruction { code: 0x15, jt: 0, jf: 1, k: CALL };
const NOTIFY: Instruction = Instruction { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_USER_NOTIF };
const ALLOW: Instruction = Instruction { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };

/// Installs a filter that notifies of [`CALL`]; a descriptor, or minus the errno.
fn install(flags: libc::c_ulong) -> i32 {
    install_program(&[LOAD_NR, IF_CALL, NOTIFY, ALLOW], flags)
}

fn install_program(code: &[Instruction], flags: libc::c_ulong) -> i32 {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel reads `program` and `code`, which outlive the call; the prctl reads no memory.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &program)
    };
    if result < 0 { -last_errno() } else { result as i32 }
}

/// In a child: becomes a supervisor, forks a guest that makes the call, and answers it. 0 or an errno.
fn round_trip(flags: libc::c_ulong, sync_wake_up: bool) -> i32 {
    let listener = install(flags | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if listener < 0 {
        return -listener;
    }
    // SAFETY: takes a number, no memory.
    if sync_wake_up && unsafe { libc::ioctl(listener, NOTIF_SET_FLAGS, SYNC_WAKE_UP) } != 0 {
        return last_errno();
    }
    // SAFETY: the child makes one system call without memory and ends. Single-threaded.
    let guest = unsafe { libc::fork() };
    if guest == 0 {
        // SAFETY: the call takes no memory; _exit ends the child.
        unsafe {
            let code = match libc::syscall(CALL.into(), 0, 0, nomina_abi::GATE_MAGIC) {
                ANSWER => 0,
                -1 => last_errno(),
                _ => libc::EPROTO,
            };
            libc::_exit(code)
        };
    }
    if guest < 0 {
        return last_errno();
    }
    let answered = answer(listener);
    let mut status = 0;
    // SAFETY: the guest is a child that was not waited for; `status` is ours.
    unsafe {
        if answered != 0 {
            libc::kill(guest, libc::SIGKILL);
        }
        libc::waitpid(guest, &mut status, 0);
    }
    match (answered, libc::WIFEXITED(status)) {
        // What an outer filter answered in place of the notification says more than that there was none.
        (_, true) if libc::WEXITSTATUS(status) != 0 => libc::WEXITSTATUS(status),
        (0, false) => libc::EPROTO,
        (errno, _) => errno,
    }
}

/// Answers the next notification; 0 or an errno, `ETIMEDOUT` when none comes.
fn answer(listener: i32) -> i32 {
    let mut ready = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
    // SAFETY: all-zero is a valid value, and the one the kernel demands here.
    let mut request: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: one element, and structures of the sizes that are part of the commands.
    unsafe {
        match libc::poll(&mut ready, 1, PATIENCE_MS) {
            0 => return libc::ETIMEDOUT,
            1 if ready.revents & libc::POLLIN != 0 => {}
            _ => return libc::EIO,
        }
        if libc::ioctl(listener, NOTIF_RECV, &mut request) != 0 {
            return last_errno();
        }
        let mut answer = libc::seccomp_notif_resp { id: request.id, val: ANSWER, error: 0, flags: 0 };
        if libc::ioctl(listener, NOTIF_SEND, &mut answer) == 0 { 0 } else { last_errno() }
    }
}

fn try_filter() -> Result<(), Errno> {
    outcome(in_child(|| if install(0) < 0 { last_errno() } else { 0 }))
}

fn try_round_trip(flags: libc::c_ulong, sync_wake_up: bool) -> Result<(), Errno> {
    outcome(in_child(|| round_trip(flags, sync_wake_up)))
}

pub(super) fn findings() -> [Finding; 4] {
    [
        Finding::tried(
            "seccomp filter",
            try_filter(),
            Status::Missing,
            "stops guests at every system call that carries a name",
            "needs CONFIG_SECCOMP_FILTER, and an outer sandbox that allows seccomp(2)",
        ),
        Finding::tried(
            "seccomp user notification",
            try_round_trip(0, false),
            Status::Missing,
            "how guests ask the supervisor",
            "needs Linux 5.0; EBUSY: an outer sandbox has a listener, and the kernel allows one; EPERM or ENOSYS: an outer \
             filter refuses get_robust_list before the notification, allow it in its profile",
        ),
        Finding::tried(
            "seccomp WAIT_KILLABLE_RECV",
            try_round_trip(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, false),
            Status::Degraded,
            "a request that was taken is not torn by a signal; without it system calls may fail with EINTR",
            "use Linux 5.19 or newer",
        ),
        Finding::tried(
            "seccomp SYNC_WAKE_UP",
            try_round_trip(0, true),
            Status::Degraded,
            "answers come on the same CPU; without it every request takes some 12 times longer",
            "use Linux 6.6 or newer",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_needs_a_supervisor_that_answers() {
        if try_round_trip(0, false).is_err() {
            eprintln!("skipped: no user notification here");
            return;
        }
        // Flags no kernel knows: the trial reports the kernel's refusal instead of a success.
        assert_eq!(try_round_trip(1 << 30, false), Err(Errno::EINVAL));
    }

    #[test]
    fn an_outer_filter_that_answers_the_gates_call_is_noticed() {
        let refuse = Instruction { k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32, ..NOTIFY };
        let outer = [LOAD_NR, IF_CALL, refuse, ALLOW];
        let code = in_child(|| {
            if install_program(&outer, 0) < 0 {
                return 255;
            }
            round_trip(0, false)
        });
        assert_eq!(code, Ok(libc::ENOSYS));
    }

    #[test]
    fn the_structures_have_the_size_that_the_commands_encode() {
        assert_eq!(size_of::<libc::seccomp_notif>() as u64, NOTIF_RECV >> 16 & 0x3fff);
        assert_eq!(size_of::<libc::seccomp_notif_resp>() as u64, NOTIF_SEND >> 16 & 0x3fff);
    }
}
