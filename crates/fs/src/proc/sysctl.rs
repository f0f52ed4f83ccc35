//! Kernel settings below `/proc/sys` (`proc_sys(5)`).
//!
//! Settings of the host that programs read to adapt to (limits, buffer sizes) are the host's and cannot be written.
//! Settings that belong to a namespace are that namespace's: the host name of the viewer's UTS namespace, the last pid
//! of this instance's pid namespace, the limits of the viewer's IPC namespace, which are that namespace's root's to change. Limits on the number of namespaces are Nomina's, not the host's: a host that
//! forbids namespaces does not keep Nomina from having them.

use nomina_kernel::{Errno, Result};

use super::ProcInfo;
use super::generic::parse_int;
use super::inode::{Content, StaticFile};
use super::source::{NetSysctl, TaskKey, UtsField};

/// `__NEW_UTS_LEN`.
const NEW_UTS_LEN: usize = 64;

const fn sysctl(path: &'static str, mode: u32, content: Content) -> StaticFile {
    StaticFile { path, mode, content }
}

/// All settings.
pub(crate) static SYSCTLS: [StaticFile; 109] = [
    sysctl("sys/fs/aio-max-nr", 0o444, Content::Host),
    sysctl("sys/fs/aio-nr", 0o444, Content::Host),
    sysctl("sys/fs/dentry-state", 0o444, Content::Host),
    sysctl("sys/fs/epoll/max_user_watches", 0o444, Content::Host),
    sysctl("sys/fs/file-max", 0o444, Content::Host),
    sysctl("sys/fs/file-nr", 0o444, Content::Host),
    sysctl("sys/fs/inode-nr", 0o444, Content::Host),
    sysctl("sys/fs/inode-state", 0o444, Content::Host),
    sysctl("sys/fs/inotify/max_queued_events", 0o444, Content::Host),
    sysctl("sys/fs/inotify/max_user_instances", 0o444, Content::Host),
    sysctl("sys/fs/inotify/max_user_watches", 0o444, Content::Host),
    sysctl("sys/fs/lease-break-time", 0o444, Content::Host),
    sysctl("sys/fs/leases-enable", 0o444, Content::Host),
    sysctl("sys/fs/mount-max", 0o444, Content::Host),
    sysctl("sys/fs/mqueue/msg_default", 0o644, Content::Ipc),
    sysctl("sys/fs/mqueue/msg_max", 0o644, Content::Ipc),
    sysctl("sys/fs/mqueue/msgsize_default", 0o644, Content::Ipc),
    sysctl("sys/fs/mqueue/msgsize_max", 0o644, Content::Ipc),
    sysctl("sys/fs/mqueue/queues_max", 0o644, Content::Ipc),
    sysctl("sys/fs/nr_open", 0o444, Content::Host),
    sysctl("sys/fs/overflowgid", 0o444, Content::Host),
    sysctl("sys/fs/overflowuid", 0o444, Content::Host),
    sysctl("sys/fs/pipe-max-size", 0o444, Content::Host),
    sysctl("sys/fs/pipe-user-pages-hard", 0o444, Content::Host),
    sysctl("sys/fs/pipe-user-pages-soft", 0o444, Content::Host),
    sysctl("sys/fs/protected_fifos", 0o444, Content::Host),
    sysctl("sys/fs/protected_hardlinks", 0o444, Content::Host),
    sysctl("sys/fs/protected_regular", 0o444, Content::Host),
    sysctl("sys/fs/protected_symlinks", 0o444, Content::Host),
    sysctl("sys/fs/suid_dumpable", 0o444, Content::Host),
    sysctl("sys/kernel/arch", 0o444, Content::Host),
    sysctl("sys/kernel/cap_last_cap", 0o444, Content::Host),
    sysctl("sys/kernel/core_pattern", 0o444, Content::Fixed("core\n")),
    sysctl("sys/kernel/core_uses_pid", 0o444, Content::Host),
    sysctl("sys/kernel/dmesg_restrict", 0o444, Content::Host),
    sysctl("sys/kernel/domainname", 0o644, Content::Control(domainname, set_domainname)),
    sysctl("sys/kernel/hostname", 0o644, Content::Control(hostname, set_hostname)),
    sysctl("sys/kernel/kptr_restrict", 0o444, Content::Host),
    sysctl("sys/kernel/msgmax", 0o644, Content::Ipc),
    sysctl("sys/kernel/msgmnb", 0o644, Content::Ipc),
    sysctl("sys/kernel/msgmni", 0o644, Content::Ipc),
    sysctl("sys/kernel/ngroups_max", 0o444, Content::Host),
    sysctl("sys/kernel/ns_last_pid", 0o666, Content::Control(ns_last_pid, set_ns_last_pid)),
    sysctl("sys/kernel/osrelease", 0o444, Content::Made(osrelease)),
    sysctl("sys/kernel/ostype", 0o444, Content::Made(ostype)),
    sysctl("sys/kernel/overflowgid", 0o444, Content::Host),
    sysctl("sys/kernel/overflowuid", 0o444, Content::Host),
    sysctl("sys/kernel/panic", 0o444, Content::Host),
    sysctl("sys/kernel/perf_event_paranoid", 0o444, Content::Host),
    sysctl("sys/kernel/pid_max", 0o444, Content::Made(pid_max)),
    sysctl("sys/kernel/printk", 0o444, Content::Host),
    sysctl("sys/kernel/pty/max", 0o444, Content::Host),
    sysctl("sys/kernel/pty/nr", 0o444, Content::Host),
    sysctl("sys/kernel/pty/reserve", 0o444, Content::Host),
    sysctl("sys/kernel/random/boot_id", 0o444, Content::Host),
    sysctl("sys/kernel/random/entropy_avail", 0o444, Content::Host),
    sysctl("sys/kernel/random/poolsize", 0o444, Content::Host),
    sysctl("sys/kernel/random/urandom_min_reseed_secs", 0o444, Content::Host),
    sysctl("sys/kernel/random/uuid", 0o444, Content::Host),
    sysctl("sys/kernel/random/write_wakeup_threshold", 0o444, Content::Host),
    sysctl("sys/kernel/randomize_va_space", 0o444, Content::Host),
    sysctl("sys/kernel/sched_autogroup_enabled", 0o444, Content::Host),
    sysctl("sys/kernel/sched_rr_timeslice_ms", 0o444, Content::Host),
    sysctl("sys/kernel/sched_rt_period_us", 0o444, Content::Host),
    sysctl("sys/kernel/sched_rt_runtime_us", 0o444, Content::Host),
    sysctl("sys/kernel/seccomp/actions_avail", 0o444, Content::Host),
    sysctl("sys/kernel/seccomp/actions_logged", 0o444, Content::Host),
    sysctl("sys/kernel/sem", 0o644, Content::Ipc),
    sysctl("sys/kernel/shm_rmid_forced", 0o644, Content::Ipc),
    sysctl("sys/kernel/shmall", 0o644, Content::Ipc),
    sysctl("sys/kernel/shmmax", 0o644, Content::Ipc),
    sysctl("sys/kernel/shmmni", 0o644, Content::Ipc),
    sysctl("sys/kernel/tainted", 0o444, Content::Host),
    sysctl("sys/kernel/threads-max", 0o444, Content::Made(threads_max)),
    sysctl("sys/kernel/unprivileged_bpf_disabled", 0o444, Content::Host),
    sysctl("sys/kernel/version", 0o444, Content::Made(version)),
    sysctl("sys/net/core/rmem_default", 0o444, Content::Host),
    sysctl("sys/net/core/rmem_max", 0o444, Content::Host),
    sysctl("sys/net/core/wmem_default", 0o444, Content::Host),
    sysctl("sys/net/core/wmem_max", 0o444, Content::Host),
    sysctl(
        "sys/net/ipv4/ip_unprivileged_port_start",
        0o644,
        Content::Control(
            |fs, viewer| fs.source.net_sysctl(viewer, NetSysctl::UnprivilegedPortStart),
            |fs, viewer, text, _| fs.source.set_net_sysctl(viewer, NetSysctl::UnprivilegedPortStart, text),
        ),
    ),
    sysctl(
        "sys/net/ipv4/ping_group_range",
        0o644,
        Content::Control(
            |fs, viewer| fs.source.net_sysctl(viewer, NetSysctl::PingGroupRange),
            |fs, viewer, text, _| fs.source.set_net_sysctl(viewer, NetSysctl::PingGroupRange, text),
        ),
    ),
    sysctl("sys/user/max_cgroup_namespaces", 0o444, Content::Fixed("65536\n")),
    sysctl("sys/user/max_inotify_instances", 0o444, Content::Host),
    sysctl("sys/user/max_inotify_watches", 0o444, Content::Host),
    sysctl("sys/user/max_ipc_namespaces", 0o444, Content::Fixed("65536\n")),
    sysctl("sys/user/max_mnt_namespaces", 0o444, Content::Fixed("65536\n")),
    sysctl("sys/user/max_net_namespaces", 0o444, Content::Fixed("65536\n")),
    sysctl("sys/user/max_pid_namespaces", 0o444, Content::Fixed("65536\n")),
    sysctl("sys/user/max_time_namespaces", 0o444, Content::Fixed("65536\n")),
    sysctl("sys/user/max_user_namespaces", 0o444, Content::Fixed("65536\n")),
    sysctl("sys/user/max_uts_namespaces", 0o444, Content::Fixed("65536\n")),
    sysctl("sys/vm/dirty_background_ratio", 0o444, Content::Host),
    sysctl("sys/vm/dirty_ratio", 0o444, Content::Host),
    sysctl("sys/vm/legacy_va_layout", 0o444, Content::Host),
    sysctl("sys/vm/max_map_count", 0o444, Content::Host),
    sysctl("sys/vm/memfd_noexec", 0o444, Content::Host),
    sysctl("sys/vm/min_free_kbytes", 0o444, Content::Host),
    sysctl("sys/vm/mmap_min_addr", 0o444, Content::Host),
    sysctl("sys/vm/mmap_rnd_bits", 0o444, Content::Host),
    sysctl("sys/vm/mmap_rnd_compat_bits", 0o444, Content::Host),
    sysctl("sys/vm/nr_hugepages", 0o444, Content::Host),
    sysctl("sys/vm/overcommit_kbytes", 0o444, Content::Host),
    sysctl("sys/vm/overcommit_memory", 0o444, Content::Host),
    sysctl("sys/vm/overcommit_ratio", 0o444, Content::Host),
    sysctl("sys/vm/page-cluster", 0o444, Content::Host),
    sysctl("sys/vm/swappiness", 0o444, Content::Host),
    sysctl("sys/vm/unprivileged_userfaultfd", 0o444, Content::Host),
    sysctl("sys/vm/vfs_cache_pressure", 0o444, Content::Host),
];

fn uts(fs: &ProcInfo, viewer: Option<TaskKey>, field: UtsField) -> Result<Vec<u8>> {
    let mut text = fs.source.uts(viewer, field);
    text.push(b'\n');
    Ok(text)
}

/// Text up to the first NUL or newline, cut at the field's size, as `proc_dostring` takes it: behind what earlier writes to
/// the same handle have put there, and nowhere when that is shorter than the offset.
fn set_uts(fs: &ProcInfo, viewer: Option<TaskKey>, field: UtsField, text: &[u8], offset: u64) -> Result<()> {
    let mut name = Vec::new();
    if offset > 0 {
        name = fs.source.uts(viewer, field);
        match usize::try_from(offset) {
            Ok(offset) if offset <= name.len() => name.truncate(offset),
            _ => return Ok(()),
        }
    }
    let end = text.iter().position(|b| matches!(b, 0 | b'\n')).unwrap_or(text.len());
    name.extend_from_slice(&text[..end]);
    name.truncate(NEW_UTS_LEN);
    fs.source.set_uts(viewer, field, &name)
}

fn hostname(fs: &ProcInfo, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    uts(fs, viewer, UtsField::Nodename)
}

fn set_hostname(fs: &ProcInfo, viewer: Option<TaskKey>, text: &[u8], offset: u64) -> Result<()> {
    set_uts(fs, viewer, UtsField::Nodename, text, offset)
}

fn domainname(fs: &ProcInfo, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    uts(fs, viewer, UtsField::Domainname)
}

fn set_domainname(fs: &ProcInfo, viewer: Option<TaskKey>, text: &[u8], offset: u64) -> Result<()> {
    set_uts(fs, viewer, UtsField::Domainname, text, offset)
}

fn ostype(fs: &ProcInfo, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    uts(fs, viewer, UtsField::Sysname)
}

fn osrelease(fs: &ProcInfo, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    uts(fs, viewer, UtsField::Release)
}

fn version(fs: &ProcInfo, viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    uts(fs, viewer, UtsField::Version)
}

fn pid_max(fs: &ProcInfo, _viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    Ok(format!("{}\n", fs.source.pid_max()).into_bytes())
}

fn threads_max(fs: &ProcInfo, _viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    Ok(format!("{}\n", fs.source.threads_max()).into_bytes())
}

fn ns_last_pid(fs: &ProcInfo, _viewer: Option<TaskKey>) -> Result<Vec<u8>> {
    Ok(format!("{}\n", fs.source.last_pid()).into_bytes())
}

/// A number is written at the start; what comes behind is ignored (`proc_first_pos_non_zero_ignore`).
fn set_ns_last_pid(fs: &ProcInfo, viewer: Option<TaskKey>, text: &[u8], offset: u64) -> Result<()> {
    if offset > 0 {
        return Ok(());
    }
    let last = parse_int(text)?;
    if !(0..fs.source.pid_max()).contains(&last) {
        return Err(Errno::EINVAL);
    }
    fs.source.set_last_pid(last, viewer)
}
