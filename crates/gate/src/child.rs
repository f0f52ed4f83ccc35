//! Trials in a forked child, for what a process cannot take back: filters, domains, descriptors it must not keep.

use std::io;

use nomina_kernel::Errno;

/// Runs `trial` in a forked child and returns its result, 0 to 255, as the child's exit code.
///
/// The parent may have several threads, so `trial` must not allocate, lock, panic or unwind: system calls and arithmetic
/// only.
///
/// # Errors
/// `EAGAIN`, `ENOMEM` and what else `fork(2)` gives; [`Errno::EINTR`] when a signal ended the child.
pub(crate) fn in_child(trial: impl FnOnce() -> i32) -> Result<i32, Errno> {
    // SAFETY: the child runs only `trial`, which is bound by the contract above, and ends with _exit.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EAGAIN))),
        0 => {
            let code = trial();
            // SAFETY: ends the child without running destructors or handlers of the parent.
            unsafe { libc::_exit(code) }
        }
        _ => {
            let mut status = 0;
            // SAFETY: waits for the child made above; `status` is ours.
            while unsafe { libc::waitpid(pid, &mut status, 0) } == -1 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(Errno(error.raw_os_error().unwrap_or(libc::ECHILD)));
                }
            }
            if libc::WIFEXITED(status) { Ok(libc::WEXITSTATUS(status)) } else { Err(Errno::EINTR) }
        }
    }
}
