//! The conditions of calls whose soundness depends on an argument, each with the reason for every value that is not in
//! its list. All lists are allow lists: a command that a newer kernel adds is trapped until it has been thought about.

use nomina_kernel::Errno;

use super::Verdict::{Native, Notify, Refuse, ShimOnly};
use super::{Case, Named, Test};

macro_rules! named {
    ($($name:ident = $value:expr),* $(,)?) => { &[$((stringify!($name), $value)),*] };
}

const ZERO: &[Named] = &[("0", 0)];

/// The gate. The notification is decided upon by the supervisor, which believes only the thread id in it.
pub(super) const GATE: &[Case] = &[Case { when: &[Test::Whole(2, nomina_abi::GATE_MAGIC)], then: Notify }];

/// A pid, tid or process group argument that means the caller itself.
pub(super) const SELF: &[Test] = &[Test::In(0, ZERO)];

/// `which` and `who` of `getpriority(2)`. `PRIO_PGRP` and `PRIO_USER` with 0 would reach the supervisor and every other
/// process of the host user.
pub(super) const PRIORITY: &[Test] = &[Test::In(0, named![PRIO_PROCESS = 0]), Test::In(1, ZERO)];

/// The same for `ioprio_set(2)`, whose constants start at 1.
pub(super) const IO_PRIORITY: &[Test] = &[Test::In(0, named![IOPRIO_WHO_PROCESS = 1]), Test::In(1, ZERO)];

/// `personality(2)`: query, the default, and what debuggers and test suites set. Others change `uname` or memory layout.
pub(super) const PERSONALITY: &[Test] =
    &[Test::In(0, named![QUERY = 0xffff_ffff, PER_LINUX = 0, ADDR_NO_RANDOMIZE = 0x004_0000])];

const UNCOUNTED_LIMITS: &[Named] = named![
    RLIMIT_CPU = 0,
    RLIMIT_FSIZE = 1,
    RLIMIT_DATA = 2,
    RLIMIT_STACK = 3,
    RLIMIT_CORE = 4,
    RLIMIT_RSS = 5,
    RLIMIT_AS = 9,
    RLIMIT_LOCKS = 10,
    RLIMIT_SIGPENDING = 11,
    RLIMIT_MSGQUEUE = 12,
    RLIMIT_NICE = 13,
    RLIMIT_RTPRIO = 14,
    RLIMIT_RTTIME = 15,
];

/// Own limits other than `RLIMIT_NOFILE` (the host's is higher by the hidden descriptors), `RLIMIT_NPROC` (counted per
/// user of the sandbox) and `RLIMIT_MEMLOCK` (which root of the sandbox may raise beyond the host's). From shim text those too: a limit cannot be raised past the hard one.
pub(super) const RLIMIT: &[Case] =
    &[Case { when: &[Test::In(0, UNCOUNTED_LIMITS)], then: Native }, Case { when: &[], then: ShimOnly }];

/// As [`RLIMIT`], for `prlimit64(2)` of the caller itself.
pub(super) const PRLIMIT: &[Case] = &[
    Case { when: &[Test::In(0, ZERO), Test::In(1, UNCOUNTED_LIMITS)], then: Native },
    Case { when: SELF, then: ShimOnly },
];

/// A descriptor argument that is not hidden; from shim text any, because a guest that closes its own shim's descriptors
/// only deafens itself.
pub(super) const FD: &[Case] =
    &[Case { when: &[Test::NotHidden(0)], then: Native }, Case { when: &[], then: ShimOnly }];

/// Two descriptor arguments.
pub(super) const TWO_FDS: &[Case] = &[
    Case { when: &[Test::NotHidden(0), Test::NotHidden(1)], then: Native },
    Case { when: &[], then: ShimOnly },
];

/// A range of descriptors that does not meet the hidden ones; the shim splits others.
pub(super) const FD_RANGE: &[Case] = &[
    Case { when: &[Test::BelowHidden(1)], then: Native },
    Case { when: &[Test::AboveHidden(0)], then: Native },
    Case { when: &[], then: ShimOnly },
];

macro_rules! mask_in {
    ($arg:literal) => {
        &[Case { when: &[Test::Null($arg)], then: Native }, Case { when: &[], then: ShimOnly }]
    };
}

/// Calls that replace the signal mask while they wait: the shim takes `SIGSYS` out of the mask first. A guest that blocks it
/// by jumping there is killed by its next trapped call.
pub(super) const PPOLL: &[Case] = mask_in!(3);
/// See [`PPOLL`].
pub(super) const EPOLL_PWAIT: &[Case] = mask_in!(4);
/// See [`PPOLL`].
pub(super) const PSELECT: &[Case] = mask_in!(5);
/// `SIGEV_THREAD_ID` carries a thread id, which the kernel accepts only from the caller's own thread group.
pub(super) const TIMER_CREATE: &[Case] = mask_in!(1);

/// All `CLONE_NEW*` flags that `clone(2)` knows. `CLONE_NEWTIME` is a part of the exit signal there. The kernel takes
/// `lower_32_bits` of the flags.
const CLONE_NEW: u32 = 0x7e02_0000;
/// No new namespaces: a user namespace would come with capabilities.
pub(super) const CLONE: &[Test] = &[Test::Masked(0, CLONE_NEW, ZERO)];

/// `unshare(2)` of what only the caller's own kernel objects can do: `CLONE_FS` 0x200, `CLONE_FILES` 0x400,
/// `CLONE_SYSVSEM` 0x40000. A set bit in the upper half is `EINVAL`.
pub(super) const UNSHARE: &[Test] = &[Test::Masked(0, !0x4_0600, ZERO)];

/// `execveat(2)` of a descriptor.
pub(super) const EXECVEAT: &[Test] = &[Test::In(4, named![AT_EMPTY_PATH = 0x1000])];

/// `seccomp(2)` that installs a filter, without a listener: `SECCOMP_FILTER_FLAG_TSYNC` 1, `LOG` 2, `SPEC_ALLOW` 4, `TSYNC_ESRCH` 16.
pub(super) const SECCOMP: &[Test] =
    &[Test::In(0, named![SECCOMP_SET_MODE_FILTER = 1]), Test::Masked(1, !0x17, ZERO)];

const UNIX: &[Named] = named![AF_UNIX = 1];
/// Unix sockets that reach a peer only by `connect`, which is trapped. A datagram socket (and `SOCK_RAW`, which is one)
/// can send to any name with `sendmsg`.
pub(super) const SOCKET: &[Test] =
    &[Test::In(0, UNIX), Test::Masked(1, 0xf, named![SOCK_STREAM = 1, SOCK_SEQPACKET = 5])];

/// No address is asked for or given.
pub(super) const ACCEPT: &[Test] = &[Test::Null(1)];
/// See [`ACCEPT`].
pub(super) const SENDTO: &[Test] = &[Test::Null(4)];

const SOL_SOCKET: &[Named] = named![SOL_SOCKET = 1];
const PLAIN_OPTIONS: &[Named] = named![
    SO_SNDBUF = 7,
    SO_RCVBUF = 8,
    SO_RCVTIMEO = 20,
    SO_SNDTIMEO = 21,
    SO_RCVTIMEO_NEW = 66,
    SO_SNDTIMEO_NEW = 67,
    SO_LINGER = 13,
    SO_RCVLOWAT = 18,
    SO_PEEK_OFF = 42,
];

/// Options of the buffer behind a descriptor. Not in the list: `SO_PEERCRED` and its like (they tell host pids),
/// `SO_PASSCRED` and `SO_PASSPIDFD` (they make `recvmsg` tell them, which the shim has to know), `SO_ATTACH_FILTER` and `SO_ATTACH_BPF` (guest code in
/// the host kernel's BPF), what a socket standing for one of another family must answer itself (`SO_TYPE`, `SO_DOMAIN`,
/// `SO_ERROR`), and all protocol levels.
pub(super) const SOCKOPT_SET: &[Test] = &[Test::In(1, SOL_SOCKET), Test::In(2, PLAIN_OPTIONS)];

/// As [`SOCKOPT_SET`], and from shim text what only describes the descriptor itself.
pub(super) const SOCKOPT_GET: &[Case] = &[
    Case { when: SOCKOPT_SET, then: Native },
    Case {
        when: &[
            Test::In(1, SOL_SOCKET),
            Test::In(
                2,
                named![SO_ERROR = 4, SO_TYPE = 3, SO_ACCEPTCONN = 30, SO_DOMAIN = 39, SO_PROTOCOL = 38],
            ),
        ],
        then: ShimOnly,
    },
];

/// `fcntl(2)`. Not in the list, and never native: `F_SETOWN`, `F_SETOWN_EX` and `F_SETSIG` (a signal of choice to any
/// process of the host user), `F_SETFL` with `O_ASYNC` (on a terminal it makes the host's foreground group the owner),
/// `F_SETLEASE` (delays host programs that open a file the guest may only read), `F_NOTIFY`, `F_SET_RW_HINT` (changes an
/// inode through a read-only descriptor), `F_GETOWN*` (host pids). `F_GETLK` tells the host pid of a lock's holder, which
/// the shim translates.
pub(super) const FCNTL: &[Case] = &[
    Case {
        when: &[Test::In(
            1,
            named![
                F_GETFL = 3,
                F_SETFD = 2,
                F_GETFD = 1,
                F_DUPFD_CLOEXEC = 1030,
                F_DUPFD = 0,
                F_SETLK = 6,
                F_SETLKW = 7,
                F_OFD_SETLK = 37,
                F_OFD_SETLKW = 38,
                F_GETLEASE = 1025,
                F_DUPFD_QUERY = 1027,
                F_CREATED_QUERY = 1028,
                F_SETPIPE_SZ = 1031,
                F_GETPIPE_SZ = 1032,
                F_ADD_SEALS = 1033,
                F_GET_SEALS = 1034,
            ],
        )],
        then: Native,
    },
    Case { when: &[Test::In(1, named![F_SETFL = 4]), Test::Masked(2, 0x2000, ZERO)], then: Native },
    Case { when: &[Test::In(1, named![F_GETLK = 5, F_OFD_GETLK = 36])], then: ShimOnly },
];

/// `futex(2)` without priority inheritance. The command is what is left without `FUTEX_PRIVATE_FLAG` and
/// `FUTEX_CLOCK_REALTIME`. The PI operations take a thread id from guest memory and would raise the priority of whatever
/// host thread has that number.
pub(super) const FUTEX: &[Test] = &[Test::Masked(
    1,
    !0x180,
    named![
        FUTEX_WAIT = 0,
        FUTEX_WAKE = 1,
        FUTEX_WAIT_BITSET = 9,
        FUTEX_WAKE_BITSET = 10,
        FUTEX_CMP_REQUEUE = 4,
        FUTEX_WAKE_OP = 5,
        FUTEX_REQUEUE = 3,
    ],
)];

/// `ioctl(2)`. Not in the list, and never native: `FIOASYNC`, `FIOSETOWN` and `SIOCSPGRP` (as `F_SETOWN`), `FS_IOC_SETFLAGS`
/// and `FS_IOC_FSSETXATTR` (they change a file of the host user through a read-only descriptor), `FIDEDUPERANGE` (so does
/// it), `TIOCEXCL` (would lock the host user's terminal beyond the sandbox's end), `TIOCSETD` (loads line disciplines),
/// `TIOCCONS`, `TIOCGPTPEER` and `NS_GET_*` (a descriptor with reach), `SIOC*` of network devices, and whatever block
/// devices, consoles and others understand. `TIOCSPGRP` is limited by the kernel to the caller's controlling terminal and
/// the groups of its session; a sandbox that must not take the foreground from the user's shell gets a session of its own.
pub(super) const IOCTL: &[Case] = &[
    Case {
        when: &[Test::In(
            1,
            named![
                TCGETS = 0x5401,
                FIONREAD = 0x541b,
                TIOCGWINSZ = 0x5413,
                FIONBIO = 0x5421,
                TCSETSW = 0x5403,
                TCSETS = 0x5402,
                TCSETSF = 0x5404,
                FIOCLEX = 0x5451,
                FIONCLEX = 0x5450,
                TIOCSWINSZ = 0x5414,
                TIOCOUTQ = 0x5411,
                FICLONE = 0x4004_9409,
                FICLONERANGE = 0x4020_940d,
                FS_IOC_FIEMAP = 0xc020_660b,
                FIGETBSZ = 2,
                FIOQSIZE = 0x5460,
                SIOCATMARK = 0x8905,
                TCGETA = 0x5405,
                TCSETA = 0x5406,
                TCSETAW = 0x5407,
                TCSETAF = 0x5408,
                TCGETS2 = 0x802c_542a,
                TCSETS2 = 0x402c_542b,
                TCSETSW2 = 0x402c_542c,
                TCSETSF2 = 0x402c_542d,
                TCSBRK = 0x5409,
                TCSBRKP = 0x5425,
                TCXONC = 0x540a,
                TCFLSH = 0x540b,
                TIOCSCTTY = 0x540e,
                TIOCNOTTY = 0x5422,
                TIOCNXCL = 0x540d,
                TIOCGEXCL = 0x8004_5440,
                TIOCGETD = 0x5424,
                TIOCPKT = 0x5420,
                TIOCGPKT = 0x8004_5438,
                TIOCGPTN = 0x8004_5430,
                TIOCSPTLCK = 0x4004_5431,
                TIOCGPTLCK = 0x8004_5439,
                TIOCSIG = 0x4004_5436,
                RNDGETENTCNT = 0x8004_5200,
            ],
        )],
        then: Native,
    },
    Case { when: &[Test::In(1, named![TIOCSTI = 0x5412, TIOCLINUX = 0x541c])], then: Refuse(Errno::EPERM) },
    Case {
        when: &[Test::In(1, named![TIOCGPGRP = 0x540f, TIOCSPGRP = 0x5410, TIOCGSID = 0x5429])],
        then: ShimOnly,
    },
];

/// `prctl(2)`. Not in the list: what the sandbox has of its own (capabilities, `no_new_privs`, seccomp, securebits,
/// keepcaps), what would blind the supervisor (`PR_SET_DUMPABLE`, `PR_SET_PTRACER`, `PR_SET_MM`), what is another program's
/// (`PR_GET_AUXV` is the shim's), what takes a pid (`PR_SCHED_CORE`). `PR_SET_SYSCALL_USER_DISPATCH`
/// makes calls of the caller's own raise `SIGSYS`, before any filter; so the shim of a tracee sees them all. `PR_SET_CHILD_SUBREAPER` only gathers orphans of the caller's own descendants, but the
/// model has to know. The name that `PR_GET_NAME` gives may
/// have been written by another thread (`/proc/PID/task/TID/comm`), of which the host knows nothing.
pub(super) const PRCTL: &[Case] = &[
    Case {
        when: &[Test::In(
            0,
            named![
                PR_SET_NAME = 15,
                PR_SET_VMA = 0x5356_4d41,
                PR_SET_PDEATHSIG = 1,
                PR_GET_PDEATHSIG = 2,
                PR_GET_TIMING = 13,
                PR_SET_TIMING = 14,
                PR_GET_TSC = 25,
                PR_SET_TSC = 26,
                PR_SET_TIMERSLACK = 29,
                PR_GET_TIMERSLACK = 30,
                PR_TASK_PERF_EVENTS_DISABLE = 31,
                PR_TASK_PERF_EVENTS_ENABLE = 32,
                PR_MCE_KILL = 33,
                PR_MCE_KILL_GET = 34,
                PR_GET_TID_ADDRESS = 40,
                PR_SET_THP_DISABLE = 41,
                PR_GET_THP_DISABLE = 42,
                PR_GET_SPECULATION_CTRL = 52,
                PR_SET_SPECULATION_CTRL = 53,
                PR_SET_MDWE = 65,
                PR_GET_MDWE = 66,
                PR_SET_MEMORY_MERGE = 67,
                PR_GET_MEMORY_MERGE = 68,
                PR_TIMER_CREATE_RESTORE_IDS = 77,
                PR_FUTEX_HASH = 78,
            ],
        )],
        then: Native,
    },
    Case {
        when: &[Test::In(
            0,
            named![PR_GET_NAME = 16, PR_SET_CHILD_SUBREAPER = 36, PR_SET_SYSCALL_USER_DISPATCH = 59],
        )],
        then: ShimOnly,
    },
];

/// `arch_prctl(2)`. Not in the list: `ARCH_SHSTK_*`, because the signal frames the shim builds are unknown to a shadow
/// stack, and `ARCH_MAP_VDSO_*`: they fail as on a kernel without them.
pub(super) const ARCH_PRCTL: &[Case] = &[
    Case {
        when: &[Test::In(
            0,
            named![
                ARCH_SET_FS = 0x1002,
                ARCH_GET_FS = 0x1003,
                ARCH_SET_GS = 0x1001,
                ARCH_GET_GS = 0x1004,
                ARCH_GET_CPUID = 0x1011,
                ARCH_SET_CPUID = 0x1012,
                ARCH_GET_XCOMP_SUPP = 0x1021,
                ARCH_GET_XCOMP_PERM = 0x1022,
                ARCH_REQ_XCOMP_PERM = 0x1023,
                ARCH_GET_UNTAG_MASK = 0x4001,
                ARCH_ENABLE_TAGGED_ADDR = 0x4002,
                ARCH_GET_MAX_TAG_BITS = 0x4003,
            ],
        )],
        then: Native,
    },
    Case { when: &[], then: Refuse(Errno::EINVAL) },
];
