//! The services, by subject, and the table from system call number to service.

pub mod binfmt;
pub mod bpf;
pub mod clone;
pub mod cred;
pub mod datagram;
pub mod dirs;
pub mod exec;
pub mod fasync;
pub mod file_handle;
pub mod files;
pub mod fsopen;
pub mod ipc;
pub mod misc;
pub mod mount;
pub mod mount_attr;
pub mod mount_tree;
pub mod namespace;
pub mod open;
pub mod pidfd;
pub mod poll;
pub mod process;
pub mod ptrace;
pub mod quota;
pub mod sched;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod stat;
pub mod statmount;
pub mod sync;
pub mod text;
pub mod uts;
pub mod written;

use std::io;
use std::os::fd::OwnedFd;

use nomina_abi::op;
use nomina_kernel::errno::{Errno, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::net::ring as packet_ring;
use super::request::{Ctx, Reply};

/// Serves one request. What has no service is `ENOSYS`.
pub fn dispatch(ctx: &mut Ctx<'_>) -> Result<Reply> {
    seccomp::admit(ctx)?;
    match ctx.nr {
        2 => open::open(ctx),
        4 | 6 => stat::stat(ctx),
        5 => stat::fstat(ctx),
        9 => packet_ring::mmap(ctx),
        16 => misc::ioctl(ctx),
        21 | 269 | 439 => stat::access(ctx),
        29 => ipc::shm::shmget(ctx),
        30 => ipc::shm::shmat(ctx),
        31 => ipc::shm::shmctl(ctx),
        41 => socket::socket(ctx),
        42 => socket::connect(ctx),
        44 => socket::sendto(ctx),
        49 => socket::bind(ctx),
        50 => socket::listen(ctx),
        51 | 52 => socket::name_of(ctx),
        53 => socket::socket(ctx),
        54 => socket::set_option(ctx),
        55 => socket::get_option(ctx),
        62 => signal::kill(ctx),
        63 => uts::uname(ctx),
        64 => ipc::sem::semget(ctx),
        65 | 220 => ipc::sem::semop(ctx),
        66 => ipc::sem::semctl(ctx),
        67 => ipc::shm::shmdt(ctx),
        68 => ipc::msg::msgget(ctx),
        69 => ipc::msg::msgsnd(ctx),
        70 => ipc::msg::msgrcv(ctx),
        71 => ipc::msg::msgctl(ctx),
        72 => misc::fcntl(ctx),
        73 => dirs::flock(ctx),
        74 | 75 | 306 => sync::sync(ctx),
        76 => files::truncate(ctx),
        78 | 217 => dirs::getdents(ctx),
        79 => dirs::getcwd(ctx),
        80 => dirs::chdir(ctx),
        81 => dirs::fchdir(ctx),
        82 | 264 | 316 => dirs::rename(ctx),
        83 | 258 => dirs::mkdir(ctx),
        84 | 87 | 263 => dirs::unlink(ctx),
        85 => open::creat(ctx),
        86 | 265 => dirs::link(ctx),
        88 | 266 => dirs::symlink(ctx),
        89 | 267 => stat::readlink(ctx),
        90 | 91 | 268 | 452 => files::chmod(ctx),
        92 | 93 | 94 | 260 => files::chown(ctx),
        95 => misc::umask(ctx),
        97 | 160 | 302 => process::rlimit(ctx),
        101 => ptrace::ptrace(ctx),
        102 | 104 | 107 | 108 => cred::get_id(ctx),
        105 | 106 | 113 | 114 | 117 | 119 | 122 | 123 => cred::set_id(ctx),
        109 => process::setpgid(ctx),
        110 => process::getppid(ctx),
        111 | 121 => process::getpgid(ctx),
        112 => process::setsid(ctx),
        115 => cred::getgroups(ctx),
        116 => cred::setgroups(ctx),
        118 | 120 => cred::get_res(ctx),
        124 => process::getsid(ctx),
        125 => cred::capget(ctx),
        126 => cred::capset(ctx),
        129 | 297 => signal::sigqueue(ctx),
        132 | 235 | 261 | 280 => files::utimes(ctx),
        133 | 259 => dirs::mknod(ctx),
        137 | 138 => stat::statfs(ctx),
        140 | 141 => sched::priority(ctx),
        142..=145 | 148 => sched::scheduler(ctx),
        155 => mount::pivot_root(ctx),
        157 => process::prctl(ctx),
        161 => dirs::chroot(ctx),
        165 => mount::mount(ctx),
        166 => mount::umount(ctx),
        170 | 171 => uts::set_name(ctx),
        179 => quota::quotactl(ctx),
        188..=190 => files::setxattr(ctx),
        191..=193 => files::getxattr(ctx),
        194..=196 => files::listxattr(ctx),
        197..=199 => files::removexattr(ctx),
        200 | 234 => signal::tkill(ctx),
        203 | 204 => sched::affinity(ctx),
        233 => poll::epoll_ctl(ctx),
        240 => ipc::mqueue::mq_open(ctx),
        241 => ipc::mqueue::mq_unlink(ctx),
        242 => ipc::mqueue::mq_send(ctx),
        243 => ipc::mqueue::mq_receive(ctx),
        244 => ipc::mqueue::mq_notify(ctx),
        245 => ipc::mqueue::mq_getsetattr(ctx),
        251 | 252 => sched::io_priority(ctx),
        254 => files::inotify_add_watch(ctx),
        256 | 279 => process::pages_of_other(ctx),
        257 => open::openat(ctx),
        262 => stat::newfstatat(ctx),
        272 => namespace::unshare(ctx),
        274 => process::get_robust_list(ctx),
        303 => file_handle::name_to_handle_at(ctx),
        304 => file_handle::open_by_handle_at(ctx),
        308 => namespace::setns(ctx),
        310 | 311 => ptrace::process_vm(ctx),
        312 => pidfd::kcmp(ctx),
        314 | 315 => sched::attributes(ctx),
        317 => seccomp::get_action_avail(ctx),
        321 => bpf::bpf(ctx),
        332 => stat::statx(ctx),
        424 => pidfd::pidfd_send_signal(ctx),
        428 => mount_tree::open_tree(ctx),
        429 => mount_tree::move_mount(ctx),
        430 => fsopen::fsopen(ctx),
        431 => fsopen::fsconfig(ctx),
        432 => fsopen::fsmount(ctx),
        433 => fsopen::fspick(ctx),
        434 => pidfd::pidfd_open(ctx),
        437 => open::openat2(ctx),
        438 => pidfd::pidfd_getfd(ctx),
        442 => mount_tree::mount_setattr(ctx),
        443 => quota::quotactl_fd(ctx),
        448 => pidfd::process_mrelease(ctx),
        457 => statmount::statmount(ctx),
        458 => statmount::listmount(ctx),
        467 => mount_tree::open_tree_attr(ctx),
        op::CLONE => clone::clone(ctx),
        op::CLONE_FAILED => clone::failed(ctx),
        op::EXEC => exec::exec(ctx),
        op::EXEC_FAILED => exec::failed(ctx),
        op::THREAD_EXIT => process::thread_exit(ctx),
        op::XLATE => process::translate(ctx),
        op::REAP => process::reap(ctx),
        op::TEXT => text::text(ctx),
        op::SIGNALFD => misc::is_signalfd(ctx),
        op::WRITTEN => written::written(ctx),
        op::PACKET_RING => packet_ring::settle(ctx),
        op::MOUNTS_CHANGED => poll::mounts_changed(ctx),
        op::PTRACE_STOP => ptrace::stopped(ctx),
        op::PTRACE_POLL => ptrace::poll(ctx),
        op::PTRACE_WAIT => ptrace::wait(ctx),
        op::PTRACE_EXIT => ptrace::exiting(ctx),
        op::MARKED => {
            ctx.server.robust.marked(&ctx.thread.process);
            Ok(().into())
        }
        op::SENDER => datagram::sender(ctx),
        op::SECCOMP_LOAD => seccomp::load(ctx),
        op::SECCOMP_ATTACH => seccomp::attach(ctx),
        op::SECCOMP_STRICT => seccomp::set_mode_strict(ctx),
        op::SECCOMP_JUDGE => seccomp::judge(ctx),
        _ => Err(Errno::ENOSYS),
    }
}

/// A descriptor that becomes readable in a moment: what a guest waits on when nothing tells better.
///
/// # Errors
/// Those of `timerfd_create(2)`.
pub fn soon() -> io::Result<OwnedFd> {
    const AFTER_NS: i64 = 2_000_000;
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let value = Timespec { tv_sec: 0, tv_nsec: AFTER_NS };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value: value })?;
    Ok(timer)
}
