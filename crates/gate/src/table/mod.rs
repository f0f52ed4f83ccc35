//! Every system call of x86-64 Linux, with what the gate does with it and why that is sound.
//!
//! Linux has no such table: any process may make any call, and each one checks for itself. Here a call either acts on
//! *handles* (descriptors, memory, the caller itself), and then the host kernel runs it at native speed, or it carries a
//! *name* (a path, a pid, an address, a user id), and then the shim serves it. This table is the only place that says
//! which; the seccomp filter ([`crate::bpf`]) and the documentation (`nomina syscalls`) are generated from it.
//!
//! # What the reasons rest on
//! A guest owns its address space, shim text included: whatever is native *somewhere* is native for a hostile guest
//! with any arguments that pass the conditions. [`Verdict::ShimOnly`] keeps honest programs from by-passing the shim by
//! accident; it is no protection. So every reason of a call that is ever native has to hold for hostile arguments, given
//! that
//! 1. guests have no capabilities on the host and `no_new_privs` is set (a supervisor started by the host's root must
//!    drop all capabilities in guests before installing the filter);
//! 2. Landlock closes the host's file system to them ([`crate::landlock`]), without which `execveat` would be a way to
//!    name files; the gate does not start guests where it is missing;
//! 3. descriptors given to guests reach no further than policy by *any* native call: regular files in the right mode,
//!    pipes, stream and seqpacket sockets, memfds, ptys and harmless character devices, never host directories, host
//!    datagram sockets, nsfs, procfs or devices with reach;
//! 4. memfds the supervisor shares with guests are sealed against resizing and further seals.
//!
//! # Which half of an argument is compared
//! Registers are 64 bits wide, most parameters are `int`, `unsigned int` or `pid_t`, and the kernel drops the upper half
//! of those. A filter that compared it would call `ioctl(fd, 1<<32 | TIOCSTI)` unknown where the kernel sees `TIOCSTI`.
//! So conditions compare the low word of every parameter that the kernel truncates; only pointers ([`Test::Null`], [`Test::Whole`]) are
//! compared whole. Where the parameter is an `unsigned long` (`clone`, `unshare`, the argument of `F_SETFL`) the kernel
//! either ignores the upper half or refuses the call for it.

mod conditions;
mod render;
mod rows;

use nomina_kernel::Errno;

pub use render::markdown;
pub use rows::SYSCALLS;

/// One past the highest system call number in the table. Numbers above, and those in the gaps, fail with `ENOSYS`, as on a
/// kernel that does not have them.
pub const END: u32 = 470;

/// Bit that marks a call of the x32 ABI; all of those fail with `ENOSYS`, as on a kernel without `CONFIG_X86_X32`.
pub const X32_BIT: u32 = 0x4000_0000;

/// What happens to a call that meets the conditions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The host kernel runs it, wherever it is made.
    Native,
    /// The host kernel runs it when the instruction is in shim text, otherwise as [`Verdict::Trap`].
    ShimOnly,
    /// `SIGSYS`: the shim serves it, mostly by asking the supervisor through the gate.
    Trap,
    /// It fails with this error.
    Refuse(Errno),
    /// A user notification, wherever it is made: a request to the supervisor.
    Notify,
}

/// A constant of the kernel's interface with its name.
pub type Named = (&'static str, u32);

/// A condition on one argument (counted from 0). See the module documentation for which half is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Test {
    /// The low word is one of these. Frequent values stand first, because they are compared in this order.
    In(usize, &'static [Named]),
    /// The low word and this mask is one of these.
    Masked(usize, u32, &'static [Named]),
    /// The pointer is null; all 64 bits are compared.
    Null(usize),
    /// The argument is this; all 64 bits are compared.
    Whole(usize, u64),
    /// The descriptor is none of the shim's hidden ones.
    NotHidden(usize),
    /// The descriptor is below the hidden ones.
    BelowHidden(usize),
    /// The descriptor is above the hidden ones.
    AboveHidden(usize),
}

/// A verdict with the conditions that lead to it, all of which must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// Conditions.
    pub when: &'static [Test],
    /// What happens then.
    pub then: Verdict,
}

/// What the gate does with a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Always native. The filter reads neither arguments nor instruction pointer for it, so that the kernel answers from
    /// its bitmap of constant actions.
    Native,
    /// Native when these hold, otherwise [`Class::Trap`].
    NativeIf(&'static [Test]),
    /// Always served by the shim.
    Trap,
    /// Native from shim text, otherwise trapped.
    ShimOnly,
    /// Native from shim text when these hold, otherwise trapped.
    ShimOnlyIf(&'static [Test]),
    /// Always fails with this error.
    Refused(Errno),
    /// The first case that applies; [`Class::Trap`] when none does.
    Cases(&'static [Case]),
}

/// A system call.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number on x86-64.
    pub nr: u32,
    /// Its name as in `syscalls(2)`.
    pub name: &'static str,
    /// What the gate does with it.
    pub class: Class,
    /// Why that is sound.
    pub reason: &'static str,
}

/// The row of system call `nr`; `None` for numbers Linux does not use or that are newer than the table.
pub fn row(nr: u32) -> Option<&'static Row> {
    SYSCALLS.binary_search_by_key(&nr, |row| row.nr).ok().map(|at| &SYSCALLS[at])
}

/// The name of system call `nr`.
pub fn name(nr: u32) -> Option<&'static str> {
    row(nr).map(|row| row.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The x86-64 calls of Linux 6.18's `syscall_64.tbl` that are newer than the headers of some distributions.
    const NEWER: &[(u32, &str)] = &[
        (335, "uretprobe"),
        (336, "uprobe"),
        (449, "futex_waitv"),
        (450, "set_mempolicy_home_node"),
        (451, "cachestat"),
        (452, "fchmodat2"),
        (453, "map_shadow_stack"),
        (454, "futex_wake"),
        (455, "futex_wait"),
        (456, "futex_requeue"),
        (457, "statmount"),
        (458, "listmount"),
        (459, "lsm_get_self_attr"),
        (460, "lsm_set_self_attr"),
        (461, "lsm_list_modules"),
        (462, "mseal"),
        (463, "setxattrat"),
        (464, "getxattrat"),
        (465, "listxattrat"),
        (466, "removexattrat"),
        (467, "open_tree_attr"),
        (468, "file_getattr"),
        (469, "file_setattr"),
    ];

    fn names_and_numbers_of_the_headers() -> Option<Vec<(u32, String)>> {
        let text = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())?;
        let parse = |line: &str| {
            let mut words = line.strip_prefix("#define __NR_")?.split_whitespace();
            Some((words.clone().nth(1)?.parse().ok()?, words.next()?.to_owned()))
        };
        Some(text.lines().filter_map(parse).collect())
    }

    #[test]
    fn every_number_of_the_system_headers_is_in_the_table_under_its_name() {
        let Some(known) = names_and_numbers_of_the_headers() else {
            eprintln!("skipped: no kernel headers installed");
            return;
        };
        assert!(known.len() > 330, "the header was not understood");
        for (nr, expected) in known {
            if nr < END {
                assert_eq!(name(nr), Some(expected.as_str()), "number {nr}");
            }
        }
    }

    #[test]
    fn newer_calls_are_in_the_table() {
        for &(nr, expected) in NEWER {
            assert_eq!(name(nr), Some(expected), "number {nr}");
        }
        assert_eq!(SYSCALLS.last().map(|row| row.nr + 1), Some(END));
    }

    #[test]
    fn the_table_has_exactly_the_gaps_linux_has() {
        for nr in 0..END {
            assert_eq!(row(nr).is_none(), (337..424).contains(&nr), "number {nr}");
        }
        assert!(row(END).is_none());
    }

    #[test]
    fn rows_are_ascending_and_have_a_reason_of_one_line() {
        assert!(SYSCALLS.windows(2).all(|pair| pair[0].nr < pair[1].nr));
        for row in SYSCALLS {
            assert!(row.reason.len() > 10 && !row.reason.contains('\n'), "{}: no reason", row.name);
            assert!(!row.reason.contains('|'), "{}: would break the Markdown table", row.name);
        }
    }

    #[test]
    fn calls_the_shim_marshals_reach_it() {
        for spec in nomina_abi::ARGS {
            let row = row(spec.nr).expect("a number that is not in the table");
            assert!(
                !matches!(row.class, Class::Native | Class::Refused(_)),
                "{} never reaches the shim, which has marshalling for it",
                row.name
            );
        }
    }

    #[test]
    fn calls_that_name_other_processes_or_files_are_never_native() {
        let never = [
            "open",
            "openat",
            "openat2",
            "creat",
            "execve",
            "stat",
            "statx",
            "kill",
            "tkill",
            "tgkill",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
            "pidfd_send_signal",
            "pidfd_getfd",
            "pidfd_open",
            "connect",
            "bind",
            "setns",
            "mount",
            "chdir",
            "fchdir",
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "bpf",
            "clone3",
            "io_uring_setup",
            "open_by_handle_at",
            "shmget",
            "shmat",
            "mq_open",
            "inotify_add_watch",
            "kcmp",
        ];
        for name in never {
            let row = SYSCALLS.iter().find(|row| row.name == name).expect(name);
            assert!(matches!(row.class, Class::Trap | Class::Refused(_)), "{name} may be native");
        }
    }

    #[test]
    fn argument_indices_are_in_range() {
        for row in SYSCALLS {
            for case in row.cases() {
                for test in case.when {
                    let (Test::In(arg, _)
                    | Test::Masked(arg, _, _)
                    | Test::Null(arg)
                    | Test::Whole(arg, _)
                    | Test::NotHidden(arg)
                    | Test::BelowHidden(arg)
                    | Test::AboveHidden(arg)) = *test;
                    assert!(arg < 6, "{}", row.name);
                }
            }
        }
    }
}
