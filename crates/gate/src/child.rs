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

/// The image of the smallest static x86-64 program, which exits with `code`: header, one program header, three
/// instructions. What is tried with it must not depend on a program of the host.
pub(crate) fn smallest_program(code: u8) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let text = [0xb8, 0x3c, 0, 0, 0, 0xbf, code, 0, 0, 0, 0x0f, 0x05]; // mov $60,%eax; mov $code,%edi; syscall
    let size = HEADERS + text.len() as u64;
    let mut image = Vec::from(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    image.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, EV_CURRENT
    for word in [BASE + HEADERS, 64, 0] {
        image.extend(u64::to_le_bytes(word)); // entry, program headers, no section headers
    }
    image.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // flags and sizes
    image.extend([1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, readable and executable
    for word in [0, BASE, BASE, size, size, 0x1000] {
        image.extend(u64::to_le_bytes(word));
    }
    image.extend(text);
    image
}
