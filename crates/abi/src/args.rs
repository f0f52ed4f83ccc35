//! Which arguments of which system calls are pointers, and to what.
//!
//! Only system calls whose service is "copy in, ask, copy out" stand here; the others have code of their own in the shim.

/// What an argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A value.
    V,
    /// A string, at most 4095 bytes (`ENAMETOOLONG`), never null (`EFAULT`).
    P,
    /// A string or null.
    PN,
    /// A structure of so many bytes that is read, or null.
    I(u16),
    /// A buffer that is read; its length is the argument of this index. Null stands for null. `E2BIG` if it does not fit.
    B(u8),
    /// An array of 32-bit numbers that is read; the argument of this index counts them.
    B4(u8),
    /// A structure of so many bytes that is written when the call succeeds, or null.
    O(u16),
    /// A structure that is read, and written whatever the result.
    X(u16),
    /// A buffer that is written: as many bytes as the call returns; capacity is the argument of this index (passed on,
    /// clamped to what fits).
    OB(u8),
    /// An array of 32-bit numbers that is written: as many as the call returns; capacity is the argument of this index.
    O4(u8),
    /// A socket address that is written; the argument of this index is a `socklen_t *`, read and written. `out[0]` of the
    /// reply is the full length.
    A(u8),
    /// A structure whose first 32-bit number is its size, of which at most so many bytes are read.
    S(u16),
    /// An array of 64-bit numbers that is written: as many as the call returns; capacity is the argument of this index, passed on as
    /// it is.
    O8(u8),
    /// A buffer that is written when the call succeeds: as many bytes as `out[0]` of the reply says; capacity is the argument
    /// of this index.
    OL(u8),
    /// A `struct file_handle`: read with the bytes that it announces, at most [`MAX_HANDLE_SZ`]; written whatever the result, as
    /// many bytes as `out[0]` of the reply says.
    FH,
    /// A mount id that is written when a [`Kind::FH`] is, or null: 32 bits, or 64 when the argument of this index has bit 0.
    ID(u8),
    /// The value of `fsconfig(2)`, or null: a string; bytes as many as argument 4 says with [`FSCONFIG_SET_BINARY`] as
    /// argument 1.
    FV,
}

/// Most bytes of a file handle.
pub const MAX_HANDLE_SZ: u32 = 128;
/// Bytes of a `union bpf_attr` that matter to `bpf(2)` here.
pub const BPF_ATTR: usize = 144;
/// The command of `fsconfig(2)` whose value is no string.
pub const FSCONFIG_SET_BINARY: u32 = 2;

use Kind::*;

/// The arguments of one system call, from the first to the last that counts.
pub struct ArgSpec {
    /// System call number (x86-64).
    pub nr: u32,
    /// Kinds.
    pub kinds: &'static [Kind],
}

const fn spec(nr: u32, kinds: &'static [Kind]) -> ArgSpec {
    ArgSpec { nr, kinds }
}

const STAT: Kind = O(144);
const STATFS: Kind = O(120);

/// All system calls with generic arguments, ascending by number.
pub const ARGS: &[ArgSpec] = &[
    spec(2, &[P, V, V]),               // open
    spec(4, &[P, STAT]),               // stat
    spec(5, &[V, STAT]),               // fstat
    spec(6, &[P, STAT]),               // lstat
    spec(21, &[P, V]),                 // access
    spec(41, &[V, V, V]),              // socket
    spec(42, &[V, B(2), V]),           // connect
    spec(49, &[V, B(2), V]),           // bind
    spec(51, &[V, A(2), V]),           // getsockname
    spec(52, &[V, A(2), V]),           // getpeername
    spec(62, &[V, V]),                 // kill
    spec(63, &[O(390)]),               // uname
    spec(76, &[P, V]),                 // truncate
    spec(78, &[V, OB(2), V]),          // getdents
    spec(79, &[OB(1), V]),             // getcwd
    spec(80, &[P]),                    // chdir
    spec(81, &[V]),                    // fchdir
    spec(82, &[P, P]),                 // rename
    spec(83, &[P, V]),                 // mkdir
    spec(84, &[P]),                    // rmdir
    spec(85, &[P, V]),                 // creat
    spec(86, &[P, P]),                 // link
    spec(87, &[P]),                    // unlink
    spec(88, &[P, P]),                 // symlink
    spec(89, &[P, OB(2), V]),          // readlink
    spec(90, &[P, V]),                 // chmod
    spec(91, &[V, V]),                 // fchmod
    spec(92, &[P, V, V]),              // chown
    spec(93, &[V, V, V]),              // fchown
    spec(94, &[P, V, V]),              // lchown
    spec(102, &[]),                    // getuid
    spec(104, &[]),                    // getgid
    spec(105, &[V]),                   // setuid
    spec(106, &[V]),                   // setgid
    spec(107, &[]),                    // geteuid
    spec(108, &[]),                    // getegid
    spec(110, &[]),                    // getppid
    spec(111, &[]),                    // getpgrp
    spec(113, &[V, V]),                // setreuid
    spec(114, &[V, V]),                // setregid
    spec(115, &[V, O4(0)]),            // getgroups
    spec(116, &[V, B4(0)]),            // setgroups
    spec(117, &[V, V, V]),             // setresuid
    spec(118, &[O(4), O(4), O(4)]),    // getresuid
    spec(119, &[V, V, V]),             // setresgid
    spec(120, &[O(4), O(4), O(4)]),    // getresgid
    spec(121, &[V]),                   // getpgid
    spec(122, &[V]),                   // setfsuid
    spec(123, &[V]),                   // setfsgid
    spec(124, &[V]),                   // getsid
    spec(125, &[X(8), O(24)]),         // capget
    spec(126, &[X(8), I(24)]),         // capset
    spec(129, &[V, V, I(128)]),        // rt_sigqueueinfo
    spec(132, &[P, I(16)]),            // utime
    spec(133, &[P, V, V]),             // mknod
    spec(137, &[P, STATFS]),           // statfs
    spec(138, &[V, STATFS]),           // fstatfs
    spec(140, &[V, V]),                // getpriority
    spec(141, &[V, V, V]),             // setpriority
    spec(142, &[V, I(4)]),             // sched_setparam
    spec(143, &[V, O(4)]),             // sched_getparam
    spec(144, &[V, V, I(4)]),          // sched_setscheduler
    spec(145, &[V]),                   // sched_getscheduler
    spec(148, &[V, O(16)]),            // sched_rr_get_interval
    spec(155, &[P, P]),                // pivot_root
    spec(161, &[P]),                   // chroot
    spec(165, &[PN, P, PN, V, PN]),    // mount
    spec(166, &[P, V]),                // umount2
    spec(170, &[B(1), V]),             // sethostname
    spec(171, &[B(1), V]),             // setdomainname
    spec(179, &[V, PN, V, V]),         // quotactl
    spec(188, &[P, P, B(3), V, V]),    // setxattr
    spec(189, &[P, P, B(3), V, V]),    // lsetxattr
    spec(190, &[V, P, B(3), V, V]),    // fsetxattr
    spec(191, &[P, P, OB(3), V]),      // getxattr
    spec(192, &[P, P, OB(3), V]),      // lgetxattr
    spec(193, &[V, P, OB(3), V]),      // fgetxattr
    spec(194, &[P, OB(2), V]),         // listxattr
    spec(195, &[P, OB(2), V]),         // llistxattr
    spec(196, &[V, OB(2), V]),         // flistxattr
    spec(197, &[P, P]),                // removexattr
    spec(198, &[P, P]),                // lremovexattr
    spec(199, &[V, P]),                // fremovexattr
    spec(200, &[V, V]),                // tkill
    spec(203, &[V, V, B(1)]),          // sched_setaffinity
    spec(204, &[V, V, OB(1)]),         // sched_getaffinity
    spec(217, &[V, OB(2), V]),         // getdents64
    spec(234, &[V, V, V]),             // tgkill
    spec(235, &[P, I(32)]),            // utimes
    spec(240, &[P, V, V, I(64)]),      // mq_open
    spec(241, &[P]),                   // mq_unlink
    spec(245, &[V, I(64), O(64)]),     // mq_getsetattr
    spec(254, &[V, P, V]),             // inotify_add_watch
    spec(257, &[V, P, V, V]),          // openat
    spec(258, &[V, P, V]),             // mkdirat
    spec(259, &[V, P, V, V]),          // mknodat
    spec(260, &[V, P, V, V, V]),       // fchownat
    spec(261, &[V, PN, I(32)]),        // futimesat
    spec(262, &[V, P, STAT, V]),       // newfstatat
    spec(263, &[V, P, V]),             // unlinkat
    spec(264, &[V, P, V, P]),          // renameat
    spec(265, &[V, P, V, P, V]),       // linkat
    spec(266, &[P, V, P]),             // symlinkat
    spec(267, &[V, P, OB(3), V]),      // readlinkat
    spec(268, &[V, P, V]),             // fchmodat
    spec(269, &[V, P, V]),             // faccessat
    spec(272, &[V]),                   // unshare
    spec(280, &[V, PN, I(32), V]),     // utimensat
    spec(297, &[V, V, V, I(128)]),     // rt_tgsigqueueinfo
    spec(302, &[V, V, I(16), O(16)]),  // prlimit64
    spec(303, &[V, P, FH, ID(4), V]),  // name_to_handle_at
    spec(304, &[V, FH, V]),            // open_by_handle_at
    spec(308, &[V, V]),                // setns
    spec(314, &[V, S(56), V]),         // sched_setattr
    spec(315, &[V, OL(2), V, V]),      // sched_getattr
    spec(316, &[V, P, V, P, V]),       // renameat2
    spec(332, &[V, PN, V, V, O(256)]), // statx
    spec(424, &[V, V, I(128), V]),     // pidfd_send_signal
    spec(428, &[V, P, V]),             // open_tree
    spec(429, &[V, P, V, P, V]),       // move_mount
    spec(430, &[P, V]),                // fsopen
    spec(431, &[V, V, PN, FV, V]),     // fsconfig
    spec(432, &[V, V, V]),             // fsmount
    spec(433, &[V, P, V]),             // fspick
    spec(434, &[V, V]),                // pidfd_open
    spec(437, &[V, P, B(3), V]),       // openat2
    spec(439, &[V, P, V, V]),          // faccessat2
    spec(442, &[V, P, V, B(4), V]),    // mount_setattr
    spec(452, &[V, P, V, V]),          // fchmodat2
    spec(443, &[V, V, V, V]),          // quotactl_fd
    spec(457, &[S(32), OL(2), V, V]),  // statmount
    spec(458, &[S(32), O8(2), V, V]),  // listmount
    spec(467, &[V, P, V, B(4), V]),    // open_tree_attr
];

/// The arguments of system call `nr`, if it is one with generic arguments.
pub fn arg_spec(nr: u32) -> Option<&'static ArgSpec> {
    ARGS.binary_search_by_key(&nr, |spec| spec.nr).ok().map(|at| &ARGS[at])
}
