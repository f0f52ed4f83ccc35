//! `nomina kill`: signals from outside of every namespace (`pid_namespaces(7)`): an init gets SIGKILL and SIGSTOP, and others
//! only if it has a handler.

use std::sync::Arc;

use nomina_kernel::errno::Errno;
use nomina_kernel::signal::SignalTarget;
use nomina_kernel::task::TaskId;

use super::super::Server;
use super::super::sys::signal;
use super::Refusal;
use crate::inspector::protocol::KillRequest;

/// Sends what is asked; gives to how many processes.
pub fn kill(server: &Arc<Server>, request: &KillRequest) -> Result<usize, Refusal> {
    let targets: Vec<SignalTarget> = {
        let kernel = server.kernel.lock().unwrap();
        let ns =
            server.first_pid_ns.get().ok_or_else(|| Refusal::new("kill: the sandbox has no processes"))?;
        let outside = kernel.init_task();
        let tasks: Vec<TaskId> = if request.all {
            kernel.tasks_in_ns(ns).into_iter().map(|(_, task)| task).collect()
        } else {
            let pids = if request.pids.is_empty() { &[1][..] } else { &request.pids[..] };
            let find = |pid: &i32| {
                let task = ns.find(*pid).and_then(|pid| pid.task(nomina_kernel::pid::PidType::Pid));
                task.and_then(|task| kernel.leader_of(task)).ok_or_else(|| {
                    Refusal::new(format!(
                        "pid {pid}: no such process inside; `nomina ps` shows their numbers"
                    ))
                })
            };
            pids.iter().map(find).collect::<Result<_, _>>()?
        };
        tasks.into_iter().map(|task| kernel.signal_target(outside, task)).collect()
    };
    let mut sent = 0;
    for target in targets {
        match signal::send_from_outside(server, &target, request.signal) {
            Ok(()) => sent += 1,
            Err(Errno::ESRCH) => {}
            Err(errno) => {
                return Err(Refusal::new(format!("signal {}: {}", request.signal, errno.message())));
            }
        }
    }
    Ok(sent)
}
