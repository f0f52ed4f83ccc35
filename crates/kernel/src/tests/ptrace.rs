//! Tracing: who may trace whom, stops and waits, what a clone, an exec and the end of tracer and tracee bring about.

use super::{THREAD, become_user, boot, clone, fork, thread};
use crate::capability::VfsCaps;
use crate::errno::Errno;
use crate::exec::ExecFile;
use crate::fork::{CloneFlags, KernelCloneArgs};
use crate::kernel::Kernel;
use crate::ptrace::{Attention, EVENT_STOP, PtraceOptions, Released, SIGTRAP, StopKind, WaitedTracee};
use crate::task::TaskId;
use crate::wait::{WaitFor, WaitOptions};

const ANY: WaitOptions = WaitOptions::EXITED;

fn wait(k: &mut Kernel, tracer: TaskId) -> Result<Option<i32>, Errno> {
    Ok(k.ptrace_wait(tracer, &WaitFor::Any, ANY)?.map(|waited| waited.status))
}

fn stop(k: &mut Kernel, task: TaskId, signal: i32) {
    k.ptrace_stop(task, StopKind::Signal, signal, 0).unwrap();
}

#[test]
fn a_child_that_asks_for_it_is_traced_by_its_parent_once() {
    let (mut k, init) = boot();
    let child = fork(&mut k, init);
    assert_eq!(k.ptrace_traceme(child), Ok(init));
    assert_eq!(k.ptrace_traceme(child), Err(Errno::EPERM));
    assert_eq!(k.ptrace_attach(init, child, None), Err(Errno::EPERM));
    assert_eq!(k.ptrace_traceme(init), Err(Errno::EPERM), "nobody in the sandbox is its parent");
    assert_eq!(wait(&mut k, init), Ok(None));
    assert_eq!(k.ptrace_check_attach(init, child, false).err(), Some(Errno::ESRCH), "it runs");
    stop(&mut k, child, 19);
    assert!(k.ptrace_check_attach(init, child, false).is_ok());
    assert_eq!(k.ptrace_check_attach(child, child, false).err(), Some(Errno::ESRCH));
    assert_eq!(wait(&mut k, init), Ok(Some(19 << 8 | 0x7f)));
    assert_eq!(wait(&mut k, init), Ok(None), "a stop is told once");
}

#[test]
fn attaching_needs_the_right_to_look_into_the_task() {
    let (mut k, init) = boot();
    let (mine, own) = (fork(&mut k, init), fork(&mut k, init));
    become_user(&mut k, mine, 1000);
    become_user(&mut k, own, 1000);
    assert_eq!(k.ptrace_attach(mine, init, None), Err(Errno::EPERM));
    assert_eq!(k.ptrace_attach(mine, own, None), Err(Errno::EPERM), "not dumpable");
    k.set_dumpable(own, 1).unwrap();
    assert_eq!(k.ptrace_attach(mine, own, None), Ok(()));
    let sibling = thread(&mut k, mine);
    assert_eq!(k.ptrace_attach(mine, sibling, None), Err(Errno::EPERM), "a thread of its own process");
    let first = k.tracee(own).unwrap().attention.first().copied();
    assert!(matches!(first, Some(Attention::Signal(queued)) if queued.signal == 19));
    k.ptrace_unlink(own);
    assert_eq!(k.ptrace_attach(mine, own, Some(PtraceOptions::EXIT)), Ok(()));
    assert!(k.tracee(own).unwrap().attention.is_empty(), "seizing does not stop");
}

#[test]
fn a_parent_with_fewer_capabilities_does_not_become_tracer() {
    let (mut k, init) = boot();
    let parent = fork(&mut k, init);
    let child = fork(&mut k, parent);
    become_user(&mut k, parent, 1000);
    assert_eq!(k.ptrace_traceme(child), Err(Errno::EPERM));
    become_user(&mut k, child, 1000);
    assert_eq!(k.ptrace_traceme(child), Ok(parent));
}

#[test]
fn children_are_traced_where_the_tracer_wants_the_event() {
    let (mut k, init) = boot();
    let tracee = fork(&mut k, init);
    k.ptrace_traceme(tracee).unwrap();
    let untraced = fork(&mut k, tracee);
    assert!(k.tracee(untraced).is_none());
    k.ptrace_set_options(tracee, PtraceOptions::FORK | PtraceOptions::CLONE);
    let child = fork(&mut k, tracee);
    assert_eq!(k.tracee(child).unwrap().options, PtraceOptions::FORK | PtraceOptions::CLONE);
    let args = KernelCloneArgs { flags: THREAD, ..KernelCloneArgs::default() };
    let thread = k.kernel_clone(tracee, &args).unwrap();
    assert!(k.tracee(thread.child).is_some());
    let hidden = clone(&mut k, tracee, CloneFlags::UNTRACED | CloneFlags::PTRACE).unwrap();
    assert!(k.tracee(hidden).is_none());
    let forced = clone(&mut k, untraced, CloneFlags::PTRACE).unwrap();
    assert!(k.tracee(forced).is_none(), "its maker is not traced");
}

#[test]
fn another_threads_tracees_are_waited_for_unless_it_says_no() {
    let (mut k, init) = boot();
    let tracer = fork(&mut k, init);
    let fellow = thread(&mut k, tracer);
    let tracee = fork(&mut k, tracer);
    k.ptrace_traceme(tracee).unwrap();
    stop(&mut k, tracee, 5);
    assert_eq!(k.ptrace_wait(fellow, &WaitFor::Any, ANY | WaitOptions::NOTHREAD), Err(Errno::ECHILD));
    assert!(k.ptrace_wait(fellow, &WaitFor::Any, ANY | WaitOptions::NOWAIT).unwrap().is_some());
    assert!(k.ptrace_wait(fellow, &WaitFor::Any, ANY).unwrap().is_some());
    assert_eq!(k.ptrace_wait(init, &WaitFor::Any, ANY), Err(Errno::ECHILD));
}

#[test]
fn the_end_of_a_thread_and_of_anothers_child_is_told_to_the_tracer() {
    let (mut k, init) = boot();
    let tracer = fork(&mut k, init);
    let stranger = fork(&mut k, init);
    let second = thread(&mut k, stranger);
    for task in [stranger, second] {
        k.ptrace_attach(tracer, task, None).unwrap();
    }
    let number = k.task_pid_vnr(second, tracer);
    k.tracee_mut(second).unwrap().exit_status = Some(3 << 8);
    assert_eq!(k.exit_thread(second, 3 << 8).unwrap().tracers, [tracer]);
    let waited = k.ptrace_wait(tracer, &WaitFor::Any, ANY).unwrap();
    assert_eq!(waited, Some(WaitedTracee { pid: number, uid: 0, status: 3 << 8 }));
    assert_eq!(k.exit_group(stranger, 0).unwrap().tracers, [tracer]);
    let number = k.task_pid_vnr(stranger, tracer);
    k.reap(init, stranger).unwrap();
    assert!(k.ptrace_zombie_pid(tracer, number).is_some(), "its parent was faster");
    assert!(k.ptrace_zombie_pid(init, number).is_none());
    assert_eq!(wait(&mut k, tracer), Ok(Some(9)), "it did not say how it ends");
    assert_eq!(wait(&mut k, tracer), Err(Errno::ECHILD));
    let own = fork(&mut k, tracer);
    k.ptrace_traceme(own).unwrap();
    assert!(k.exit_group(own, 0).unwrap().tracers.is_empty(), "a child is waited for as ever");
}

#[test]
fn tracees_outlive_their_tracer_unless_it_wants_otherwise() {
    let (mut k, init) = boot();
    let tracer = fork(&mut k, init);
    let (stopped, doomed) = (fork(&mut k, init), fork(&mut k, init));
    k.ptrace_attach(tracer, stopped, Some(PtraceOptions::empty())).unwrap();
    k.ptrace_attach(tracer, doomed, Some(PtraceOptions::EXITKILL)).unwrap();
    stop(&mut k, stopped, 5);
    let outcome = k.exit_group(tracer, 0).unwrap();
    let released = |task, kill, stopped| Released { task, kill, stopped };
    assert_eq!(outcome.untraced, [released(stopped, false, true), released(doomed, true, false)]);
    assert!(k.tracee(stopped).is_none() && !k.is_tracer(init));
}

#[test]
fn a_program_gains_nothing_while_an_unprivileged_tracer_looks() {
    let (mut k, init) = boot();
    let tracer = fork(&mut k, init);
    become_user(&mut k, tracer, 1000);
    let tracee = fork(&mut k, tracer);
    k.ptrace_traceme(tracee).unwrap();
    let suid = ExecFile { uid: 0, gid: 0, mode: 0o4755, nosuid: false, caps: None::<VfsCaps> };
    assert_eq!(k.prepare_exec(tracee, &suid).unwrap().cred.euid, 1000);
    k.ptrace_unlink(tracee);
    assert_eq!(k.prepare_exec(tracee, &suid).unwrap().cred.euid, 0);
}

#[test]
fn an_exec_keeps_the_tracing_of_its_thread_and_ends_that_of_the_others() {
    let (mut k, init) = boot();
    let leader = fork(&mut k, init);
    let second = thread(&mut k, leader);
    for task in [leader, second] {
        k.ptrace_attach(init, task, Some(PtraceOptions::empty())).unwrap();
    }
    let file = ExecFile { uid: 0, gid: 0, mode: 0o755, nosuid: false, caps: None };
    let cred = k.prepare_exec(second, &file).unwrap();
    k.begin_exec(second, b"/bin/true", b"true", cred).unwrap();
    assert!(k.tracee(second).is_some() && k.tracee(leader).is_none());
    stop(&mut k, second, SIGTRAP);
    let number = k.task_pid_vnr(second, init);
    assert_eq!(k.ptrace_wait(init, &WaitFor::Any, ANY).unwrap().map(|waited| waited.pid), Some(number));
}

#[test]
fn a_stop_signal_goes_to_a_tracee_and_its_end_to_who_listens() {
    let (mut k, init) = boot();
    let process = fork(&mut k, init);
    let second = thread(&mut k, process);
    let threads = [process, second];
    assert_eq!(k.ptrace_send_stop(&threads, 19, 1, 0), None, "nobody is traced");
    k.ptrace_attach(init, second, Some(PtraceOptions::empty())).unwrap();
    assert_eq!(k.ptrace_send_stop(&threads, 19, 1, 0), Some(second));
    assert_eq!(k.ptrace_send_stop(&threads, 19, 1, 0), Some(second));
    assert_eq!(k.tracee(second).unwrap().attention.len(), 1, "like any signal it is pending once");
    assert!(k.ptrace_group_stop(second, 19).is_empty());
    k.ptrace_stop(second, StopKind::Group, EVENT_STOP << 8 | 19, 0).unwrap();
    k.tracee_mut(second).unwrap().stop.as_mut().unwrap().listening = true;
    assert_eq!(wait(&mut k, init), Ok(None), "a listener has been told");
    assert!(k.ptrace_check_attach(init, second, false).is_err());
    assert_eq!(k.ptrace_continue_group(&threads), [second]);
    assert_eq!(wait(&mut k, init), Ok(Some((EVENT_STOP << 8 | SIGTRAP) << 8 | 0x7f)));
}
