//! Landlock: the host's file system, TCP ports, abstract sockets and processes closed to guests a second time.
//!
//! In Linux a process stacks *domains* upon itself that nothing can take off again (`landlock(7)`). A domain handles a set of
//! rights, and refuses each of them but where a rule allows it. Ours handles all rights the running kernel knows and has
//! no rule, so that a call that slips past the system call filter with a name in it (`execveat` from shim text is the only
//! one meant to) still opens nothing. Descriptors that the supervisor opened, which is in no domain, keep all their rights.
//!
//! The system calls are made raw: between `fork` and `exec` nothing may be allocated, so the rule set is prepared before
//! and only [`Ruleset::restrict_self`] runs in the child.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nomina_kernel::Errno;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

const ACCESS_FS_EXECUTE: u64 = 1 << 0;
const ACCESS_FS_READ_FILE: u64 = 1 << 2;
const ACCESS_NET_BIND_TCP: u64 = 1 << 0;
const ACCESS_NET_CONNECT_TCP: u64 = 1 << 1;
const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
const SCOPE_SIGNAL: u64 = 1 << 1;

/// `struct landlock_ruleset_attr`. Older kernels accept only the front of it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// All rights that a kernel of this ABI version can handle, and how much of the structure it knows.
fn everything(abi: u32) -> (RulesetAttr, usize) {
    let fs_rights = match abi {
        1 => 13,     // execute ... make_sym
        2 => 14,     // refer
        3 | 4 => 15, // truncate
        _ => 16,     // ioctl_dev
    };
    let attr = RulesetAttr {
        handled_access_fs: (1 << fs_rights) - 1,
        handled_access_net: if abi >= 4 { ACCESS_NET_BIND_TCP | ACCESS_NET_CONNECT_TCP } else { 0 },
        scoped: if abi >= 6 { SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL } else { 0 },
    };
    let words = match abi {
        0..=3 => 1,
        4 | 5 => 2,
        _ => 3,
    };
    (attr, words * size_of::<u64>())
}

fn last_errno() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// The Landlock ABI version of the running kernel.
///
/// # Errors
/// `ENOSYS` when the kernel has no Landlock, `EOPNOTSUPP` when it was not enabled at boot, and what an outer sandbox's
/// filter returns.
pub fn abi() -> Result<u32, Errno> {
    // SAFETY: with this flag the kernel reads no memory of ours; the other arguments must be null and 0.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<RulesetAttr>(),
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).map_err(|_| last_errno())
}

/// A prepared set of rules, to be applied to guests.
#[derive(Debug)]
pub struct Ruleset {
    fd: OwnedFd,
    abi: u32,
}

impl Ruleset {
    /// Prepares a domain in which nothing that the running kernel can handle is allowed.
    ///
    /// # Errors
    /// As [`abi`], and `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn deny_all() -> Result<Ruleset, Errno> {
        let abi = abi()?;
        let (attr, size) = everything(abi);
        // SAFETY: `attr` is the structure that the call reads and `size` is not more than its size.
        let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &attr, size, 0u32) };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the kernel just returned this descriptor and nobody else has it.
        Ok(Ruleset { fd: unsafe { OwnedFd::from_raw_fd(fd as i32) }, abi })
    }

    /// The ABI version this set was made for.
    pub fn abi(&self) -> u32 {
        self.abi
    }

    /// Allows that one file, and nothing else, to be executed: the shim, on hosts where a memfd may not be
    /// (`vm.memfd_noexec`). Executing opens for reading, so that right comes with it.
    ///
    /// # Errors
    /// `EBADFD` for a descriptor that is no file of a file system, such as a memfd (which needs no rule).
    pub fn allow_execute(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        let rule = PathBeneathAttr {
            allowed_access: ACCESS_FS_EXECUTE | ACCESS_FS_READ_FILE,
            parent_fd: file.as_raw_fd(),
        };
        // SAFETY: `rule` is the structure that a rule of this type reads.
        let result = unsafe {
            libc::syscall(libc::SYS_landlock_add_rule, self.fd.as_raw_fd(), RULE_PATH_BENEATH, &rule, 0u32)
        };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }

    /// Puts the calling thread, and all it makes or executes from now on, into the domain. May be called after `fork` in a
    /// process that had several threads: it allocates nothing and takes no lock.
    ///
    /// # Errors
    /// `EPERM` unless `no_new_privs` was set before; `E2BIG` in more than 15 domains inside each other.
    pub fn restrict_self(&self) -> Result<(), Errno> {
        // SAFETY: takes a descriptor and flags, no memory.
        let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.fd.as_raw_fd(), 0u32) };
        if result == 0 { Ok(()) } else { Err(last_errno()) }
    }
}

impl AsFd for Ruleset {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::fs::File;

    use super::*;
    use crate::child::{in_child, smallest_program};

    fn set() -> Option<Ruleset> {
        Ruleset::deny_all().inspect_err(|error| eprintln!("skipped: no Landlock here: {error}")).ok()
    }

    fn enter(set: &Ruleset) -> bool {
        // SAFETY: prctl with these arguments reads no memory.
        unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && set.restrict_self().is_ok() }
    }

    fn open_errno(path: &CStr, flags: i32) -> i32 {
        // SAFETY: a valid string; no other thread of this child closes descriptors.
        match unsafe { libc::open(path.as_ptr(), flags, 0o600) } {
            -1 => last_errno().0,
            _ => 0,
        }
    }

    #[test]
    fn a_restricted_process_opens_nothing_but_keeps_what_it_has() {
        let Some(set) = set() else { return };
        let held = File::open("/etc/passwd").unwrap();
        let status = in_child(|| {
            if !enter(&set) {
                return 1;
            }
            if open_errno(c"/etc/passwd", libc::O_RDONLY) != libc::EACCES
                || open_errno(c"/", libc::O_RDONLY) != libc::EACCES
                || open_errno(c"/tmp/nomina-landlock-test", libc::O_RDWR | libc::O_CREAT) != libc::EACCES
            {
                return 2;
            }
            let mut byte = [0u8; 1];
            // SAFETY: reads one byte into a buffer of one.
            if unsafe { libc::read(held.as_raw_fd(), byte.as_mut_ptr().cast(), 1) } == 1 { 0 } else { 3 }
        });
        assert_eq!(status, Ok(0));
    }

    #[test]
    fn a_restricted_process_signals_nobody_outside() {
        let Some(set) = set() else { return };
        if set.abi() < 6 {
            eprintln!("skipped: this kernel cannot scope signals");
            return;
        }
        let outside = std::process::id() as i32;
        let status = in_child(|| {
            if !enter(&set) {
                return 1;
            }
            // SAFETY: signal 0 only checks permission.
            let refused = unsafe { libc::kill(outside, 0) } == -1 && last_errno() == Errno::EPERM;
            i32::from(!refused)
        });
        assert_eq!(status, Ok(0));
    }

    fn exec_status(set: &Ruleset, file: &File) -> Result<i32, Errno> {
        let argv = [c"true".as_ptr(), std::ptr::null()];
        in_child(|| {
            if !enter(set) {
                return 1;
            }
            // SAFETY: valid strings and null-terminated arrays of them.
            unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    file.as_raw_fd(),
                    c"".as_ptr(),
                    argv.as_ptr(),
                    argv[1..].as_ptr(),
                    libc::AT_EMPTY_PATH,
                )
            };
            100 + last_errno().0
        })
    }

    #[test]
    fn host_files_cannot_be_executed_even_by_descriptor() {
        let Some(set) = set() else { return };
        let host = File::open("/bin/true").unwrap();
        assert_eq!(exec_status(&set, &host), Ok(100 + libc::EACCES));
    }

    #[test]
    fn one_file_can_be_allowed_to_be_executed() {
        let Some(set) = set() else { return };
        let dir = std::env::temp_dir().join(format!("nomina-landlock-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("program");
        std::fs::write(&path, smallest_program(7)).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();

        assert_eq!(exec_status(&set, &file), Ok(100 + libc::EACCES), "without a rule");
        set.allow_execute(file.as_fd()).unwrap();
        assert_eq!(exec_status(&set, &file), Ok(7), "with a rule");
    }

    #[test]
    fn older_kernels_are_asked_only_for_what_they_know() {
        assert_eq!(
            everything(1),
            (RulesetAttr { handled_access_fs: 0x1fff, handled_access_net: 0, scoped: 0 }, 8)
        );
        assert_eq!(everything(3).0.handled_access_fs, 0x7fff);
        assert_eq!(everything(4).1, 16);
        assert_eq!(everything(6), everything(7));
        assert_eq!(
            everything(7),
            (RulesetAttr { handled_access_fs: 0xffff, handled_access_net: 3, scoped: 3 }, 24)
        );
    }
}
