//! What the kernel itself offers besides filters.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nomina_kernel::Errno;

use super::{Finding, Status, last_errno, outcome, refusal};
use crate::child::{in_child, smallest_program};
use crate::landlock::{self, Ruleset};

const MFD_EXEC: libc::c_uint = 0x10;

pub(super) fn version() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0u32));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Finding::new(
        "kernel",
        format!("Linux {release}"),
        match version {
            (6, 12..) | (7.., _) => Status::Ok,
            (5, 13..) | (6, _) => Status::Degraded,
            _ => Status::Missing,
        },
        "5.13 is the oldest that has all that is needed, 6.12 has all that is used",
        "use a newer kernel; what exactly is lacking is said below",
    )
}

pub(super) fn architecture() -> Finding {
    let status = if cfg!(target_arch = "x86_64") { Status::Ok } else { Status::Missing };
    Finding::new(
        "architecture",
        std::env::consts::ARCH,
        status,
        "the shim and the table of system calls are written for x86-64",
        "use an x86-64 host",
    )
}

fn landlock_abi() -> Finding {
    let trial = Ruleset::deny_all().and_then(|rules| {
        outcome(in_child(|| {
            // SAFETY: prctl with these arguments reads no memory.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            rules.restrict_self().map_or_else(|error| error.0, |()| 0)
        }))
    });
    let (value, status) = match trial.and_then(|()| landlock::abi()) {
        Ok(abi @ ..6) => (format!("ABI {abi}"), Status::Degraded),
        Ok(abi) => (format!("ABI {abi}"), Status::Ok),
        Err(error) => (refusal(error), Status::Missing),
    };
    Finding::new(
        "Landlock",
        value,
        status,
        "closes the host's files to guests a second time, from ABI 4 TCP, from 6 (Linux 6.12) signals and abstract sockets",
        "use Linux 6.12 or newer with landlock in the lsm= boot parameter",
    )
}

/// Runs a program from a descriptor; `EPROTO` when it ran but not as it should.
pub(super) fn execute(program: &OwnedFd) -> Result<(), Errno> {
    let argv = [c"probe".as_ptr(), std::ptr::null()];
    let code = in_child(|| {
        // SAFETY: valid strings and null-terminated arrays of them.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                argv[1..].as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        last_errno()
    })?;
    match code {
        EXECUTED => Ok(()),
        errno => Err(Errno(errno)),
    }
}

/// Exit code of a trial program; no errno that `execveat` has.
pub(super) const EXECUTED: i32 = 200;

fn executable_memfd() -> Result<OwnedFd, Errno> {
    let create = |flags| {
        // SAFETY: a valid string.
        unsafe {
            libc::memfd_create(c"nomina-probe".as_ptr(), flags | libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING)
        }
    };
    // Before Linux 6.3 there is no MFD_EXEC, and every memfd is executable.
    let fd = match create(MFD_EXEC) {
        -1 if last_errno() == libc::EINVAL => create(0),
        fd => fd,
    };
    if fd < 0 {
        return Err(Errno(last_errno()));
    }
    // SAFETY: the kernel just returned this descriptor and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::write(&fd, &smallest_program(EXECUTED as u8)).map_err(|error| Errno(error.raw_os_error()))?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: takes numbers, no memory.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) } != 0 {
        return Err(Errno(last_errno()));
    }
    Ok(fd)
}

fn memfd_exec() -> Finding {
    let sysctl = fs::read_to_string("/proc/sys/vm/memfd_noexec").ok();
    let mut finding = Finding::tried(
        "executable memfd",
        executable_memfd().and_then(|fd| execute(&fd)),
        Status::Degraded,
        "the shim runs from sealed memory; otherwise from its file on disk, which nobody else may be able to write",
        "set the sysctl vm.memfd_noexec to 0 or 1",
    );
    if let Some(level) = sysctl {
        finding.value += &format!(", vm.memfd_noexec = {}", level.trim());
    }
    finding
}

/// Takes a descriptor of a child through its pidfd, then ends the child through it.
fn take_descriptor() -> Result<(), Errno> {
    let (held, _) = rustix::pipe::pipe().map_err(|error| Errno(error.raw_os_error()))?;
    let supervisor = std::process::id() as i32;
    // SAFETY: the child makes only async-signal-safe calls and ends with the parent.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: no memory is involved; the getppid closes the race with a parent that is gone already.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
            while libc::getppid() == supervisor {
                libc::pause();
            }
            libc::_exit(0);
        }
    }
    if child < 0 {
        return Err(Errno(last_errno()));
    }
    // SAFETY: the calls take numbers; the descriptors they return are closed here and known to nobody else; the child is
    // ours and not yet waited for, so its pid is its own.
    unsafe {
        let pidfd = libc::syscall(libc::SYS_pidfd_open, child, 0);
        let mut result = if pidfd < 0 { Err(Errno(last_errno())) } else { Ok(()) };
        if result.is_ok() {
            let copy = libc::syscall(libc::SYS_pidfd_getfd, pidfd, held.as_raw_fd(), 0);
            if copy < 0 {
                result = Err(Errno(last_errno()));
            } else {
                libc::close(copy as i32);
            }
            libc::close(pidfd as i32);
        }
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
        result
    }
}

fn mseal() -> Result<(), Errno> {
    outcome(in_child(|| {
        // SAFETY: maps a fresh page in the child and seals it; nothing else uses it.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0);
            if libc::syscall(libc::SYS_mseal, page, 4096, 0) != 0 {
                return last_errno();
            }
            // Sealed means that it cannot be unmapped any more.
            if libc::munmap(page, 4096) == 0 { libc::EPROTO } else { 0 }
        }
    }))
}

fn user_namespaces() -> Finding {
    // SAFETY: takes a number; affects the child alone.
    let trial = outcome(in_child(|| match unsafe { libc::unshare(libc::CLONE_NEWUSER) } {
        0 => 0,
        _ => last_errno(),
    }));
    let value = trial.map_or_else(refusal, |()| "allowed".to_owned());
    Finding::new("host user namespaces", value, Status::Ok, "not needed; other sandboxes need them", "")
}

/// `kernel.yama.ptrace_scope` says who may attach to whom, which `pidfd_getfd` depends on.
fn yama() -> Finding {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").ok();
    let scope = scope.as_deref().map(str::trim);
    let status = match scope {
        None | Some("0" | "1") => Status::Ok,
        _ => Status::Degraded,
    };
    Finding::new(
        "yama ptrace_scope",
        scope.unwrap_or("not built in"),
        status,
        "up to 1 the supervisor may take descriptors of guests, which are its descendants",
        "set the sysctl kernel.yama.ptrace_scope to 0 or 1",
    )
}

fn privileges() -> Finding {
    // SAFETY: takes numbers, no memory.
    let no_new_privs = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) };
    let uid = rustix::process::geteuid().as_raw();
    let value = format!("uid {uid}, no_new_privs = {no_new_privs}");
    let (status, meaning) = match uid {
        0 => (
            Status::Degraded,
            "no privilege is needed; root's reach is what a flaw of the supervisor would open",
        ),
        _ => (Status::Ok, "an ordinary user is all that is needed; guests always run with no_new_privs"),
    };
    Finding::new("privileges", value, status, meaning, "run as an ordinary user")
}

fn security_modules() -> Option<Finding> {
    let list = fs::read_to_string("/sys/kernel/security/lsm").ok()?;
    Some(Finding::new(
        "security modules",
        list.trim(),
        Status::Ok,
        "what else restricts processes on this host",
        "",
    ))
}

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![
        landlock_abi(),
        memfd_exec(),
        Finding::tried(
            "pidfd_getfd",
            take_descriptor(),
            Status::Degraded,
            "how the supervisor looks at descriptors that guests name; otherwise it asks for them, which takes twice as long",
            "needs Linux 5.6, kernel.yama.ptrace_scope up to 1, and an outer sandbox that allows pidfd_getfd (containers: \
             --cap-add SYS_PTRACE)",
        ),
        yama(),
        Finding::tried(
            "mseal",
            mseal(),
            Status::Degraded,
            "keeps programs from unmapping the shim by mistake; a hostile one gains nothing by it either way",
            "use Linux 6.10 or newer",
        ),
        user_namespaces(),
        privileges(),
    ];
    findings.extend(security_modules());
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memfd_program_really_runs() {
        if executable_memfd().is_err() {
            eprintln!("skipped: memfds may not be executable here");
            return;
        }
        assert_eq!(execute(&executable_memfd().unwrap()), Ok(()));
        let text: OwnedFd = fs::File::open("/proc/self/status").unwrap().into();
        assert_eq!(execute(&text), Err(Errno::EACCES), "what cannot be executed is not reported as executed");
    }

    #[test]
    fn no_child_is_left_behind() {
        let _ = take_descriptor();
        let _ = mseal();
        let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        assert_eq!(children.trim(), "");
    }
}
