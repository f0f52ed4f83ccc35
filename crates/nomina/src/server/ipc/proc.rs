//! `/proc/sysvipc` and the limits of IPC namespaces below `/proc/sys` (`proc_sysvipc(5)`, `ipc/ipc_sysctl.c`, `ipc/mq_sysctl.c`).

use std::fmt::Write;
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::ipc::shm::ShmLimits;
use nomina_kernel::ipc::util::KernIpcPerm;
use nomina_kernel::ipc::{IpcCaller, IpcNamespace};
use nomina_kernel::pid::Pid;
use nomina_kernel::pid_namespace::PidNamespace;

use super::super::Server;
use super::super::sys::ipc::shm::{nattch, rss};

/// Lines of a file of `/proc/sysvipc` in a proc of `pids`.
pub fn sysvipc(
    server: &Arc<Server>,
    ns: &IpcNamespace,
    viewer: &IpcCaller,
    pids: &PidNamespace,
    name: &str,
) -> Vec<u8> {
    let mut text = String::new();
    let pid = |pid: Option<&Arc<Pid>>| pid.map_or(0, |pid| pid.nr_ns(pids));
    let ids = |perm: &KernIpcPerm| {
        let of = &viewer.cred.user_ns;
        let user = |id| of.from_kuid_munged(id);
        let group = |id| of.from_kgid_munged(id);
        let (uid, gid) = (user(perm.uid), group(perm.gid));
        format!("{uid:5} {gid:5} {:5} {:5}", user(perm.cuid), group(perm.cgid))
    };
    let head = |perm: &KernIpcPerm| format!("{:10} {:10}  {:4o}", perm.key, perm.id, perm.mode);
    // Writing to a string does not fail.
    match name {
        "shm" => {
            ns.shm_sweep();
            for s in ns.shm_list() {
                let (cpid, lpid) = (pid(Some(&s.cpid)), pid(s.lpid.as_ref()));
                let (head, ids, nattch) = (head(&s.perm), ids(&s.perm), nattch(server, &s));
                let _ = write!(text, "{head} {:21} {cpid:5} {lpid:5}  {nattch:5} {ids} ", s.size);
                let _ = write!(text, "{:10} {:10} {:10} ", s.atime, s.dtime, s.ctime);
                let _ = writeln!(text, "{:21} {:21}", rss(&s) * 4096, 0);
            }
        }
        "sem" => {
            for s in ns.sem_list() {
                let (head, ids) = (head(&s.perm), ids(&s.perm));
                let _ = writeln!(text, "{head} {:10} {ids} {:10} {:10}", s.nsems, s.otime, s.ctime);
            }
        }
        _ => {
            for q in ns.msg_list() {
                let (lspid, lrpid) = (pid(q.lspid.as_ref()), pid(q.lrpid.as_ref()));
                let (head, ids) = (head(&q.perm), ids(&q.perm));
                let _ = write!(text, "{head}  {:10} {:10} {lspid:5} {lrpid:5} {ids} ", q.cbytes, q.qnum);
                let _ = writeln!(text, "{:10} {:10} {:10}", q.stime, q.rtime, q.ctime);
            }
        }
    }
    text.into_bytes()
}

/// Text of the limit at a path below `/proc`.
pub fn sysctl(ns: &IpcNamespace, path: &str) -> Option<Vec<u8>> {
    let (shm, sem, msg, mqueue) = (ns.shm_limits(), ns.sem_limits(), ns.msg_limits(), ns.mq_limits());
    let text = match path.strip_prefix("sys/")? {
        "kernel/shmmax" => shm.shmmax.to_string(),
        "kernel/shmall" => shm.shmall.to_string(),
        "kernel/shmmni" => shm.shmmni.to_string(),
        "kernel/shm_rmid_forced" => u8::from(shm.rmid_forced).to_string(),
        "kernel/sem" => format!("{}\t{}\t{}\t{}", sem.semmsl, sem.semmns, sem.semopm, sem.semmni),
        "kernel/msgmax" => msg.msgmax.to_string(),
        "kernel/msgmnb" => msg.msgmnb.to_string(),
        "kernel/msgmni" => msg.msgmni.to_string(),
        "fs/mqueue/queues_max" => mqueue.queues_max.to_string(),
        "fs/mqueue/msg_max" => mqueue.msg_max.to_string(),
        "fs/mqueue/msgsize_max" => mqueue.msgsize_max.to_string(),
        "fs/mqueue/msg_default" => mqueue.msg_default.to_string(),
        "fs/mqueue/msgsize_default" => mqueue.msgsize_default.to_string(),
        _ => return None,
    };
    Some((text + "\n").into_bytes())
}

/// Writes the limit at a path below `/proc`.
///
/// # Errors
/// `EINVAL` for what is no number or out of range; `ENOENT` for another path.
pub fn set_sysctl(ns: &IpcNamespace, path: &str, text: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let words: Vec<&str> = text.split([' ', '\t', '\n', '\0']).filter(|word| !word.is_empty()).collect();
    let first = words.first().ok_or(Errno::EINVAL)?;
    let int = || first.parse::<i32>().map_err(|_| Errno::EINVAL);
    let long = || first.parse::<u64>().map_err(|_| Errno::EINVAL);
    let setting = path.strip_prefix("sys/").ok_or(Errno::ENOENT)?;
    match setting {
        "kernel/shmmax" | "kernel/shmall" | "kernel/shmmni" | "kernel/shm_rmid_forced" => {
            let old = ns.shm_limits();
            ns.set_shm_limits(match setting {
                "kernel/shmmax" => ShmLimits { shmmax: long()?, ..old },
                "kernel/shmall" => ShmLimits { shmall: long()?, ..old },
                "kernel/shmmni" => ShmLimits { shmmni: int()?, ..old },
                _ => match int()? {
                    0 => ShmLimits { rmid_forced: false, ..old },
                    1 => ShmLimits { rmid_forced: true, ..old },
                    _ => return Err(Errno::EINVAL),
                },
            })
        }
        "kernel/sem" => {
            let mut limits = ns.sem_limits();
            let all = [&mut limits.semmsl, &mut limits.semmns, &mut limits.semopm, &mut limits.semmni];
            for (limit, word) in all.into_iter().zip(&words) {
                *limit = word.parse().map_err(|_| Errno::EINVAL)?;
            }
            ns.set_sem_limits(limits)
        }
        "kernel/msgmax" | "kernel/msgmnb" | "kernel/msgmni" => {
            let mut limits = ns.msg_limits();
            *match setting {
                "kernel/msgmax" => &mut limits.msgmax,
                "kernel/msgmnb" => &mut limits.msgmnb,
                _ => &mut limits.msgmni,
            } = int()?;
            ns.set_msg_limits(limits)
        }
        _ => {
            let mut limits = ns.mq_limits();
            *match setting {
                "fs/mqueue/queues_max" => &mut limits.queues_max,
                "fs/mqueue/msg_max" => &mut limits.msg_max,
                "fs/mqueue/msgsize_max" => &mut limits.msgsize_max,
                "fs/mqueue/msg_default" => &mut limits.msg_default,
                "fs/mqueue/msgsize_default" => &mut limits.msgsize_default,
                _ => return Err(Errno::ENOENT),
            } = int()?;
            ns.set_mq_limits(limits)
        }
    }
}
