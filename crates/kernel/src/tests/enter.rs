//! Processes that enter from outside.

use super::*;
use crate::errno::Errno;
use crate::ns_common::NsKind;

fn namespaces(k: &Kernel, task: TaskId) -> Vec<(NsKind, u64)> {
    let nsproxy = k.task(task).unwrap().nsproxy().unwrap();
    nsproxy.namespaces().iter().map(|ns| (ns.kind(), ns.inum())).collect()
}

fn enter(k: &mut Kernel, target: TaskId) -> Result<TaskId> {
    let before = observe(k);
    let cred = (**k.task(target).ok_or(Errno::ESRCH)?.cred()).clone();
    let result = k.enter(target, cred, 7);
    check(k);
    if result.is_err() {
        assert_eq!(observe(k), before, "a refused entry left a trace");
    }
    result
}

#[test]
fn a_process_from_outside_is_in_all_namespaces_of_its_target_and_has_no_parent_there() {
    let (mut k, init) = boot();
    let entered = enter(&mut k, init).unwrap();
    assert_eq!(namespaces(&k, entered), namespaces(&k, init));
    assert_eq!(k.task_pid_vnr(entered, init), 2);
    assert_eq!(k.task_ppid_vnr(entered, entered), 0);
    assert_eq!(k.task_session_vnr(entered, entered), 2, "it leads a session");
    assert_eq!(k.task(entered).unwrap().start_time(), 7);
    k.exit_group(entered, 0).unwrap();
    k.reap(k.init_task(), entered).unwrap();
    check(&k);
}

#[test]
fn a_nested_namespace_is_entered_with_a_number_at_each_level() {
    let (mut k, init) = boot();
    let all = CloneFlags::NEWUSER | CloneFlags::NEWPID | CloneFlags::NEWNS | CloneFlags::NEWUTS;
    let inner = clone(&mut k, init, all).unwrap();
    let entered = enter(&mut k, inner).unwrap();
    assert_eq!(namespaces(&k, entered), namespaces(&k, inner));
    assert_eq!((k.task_pid_vnr(entered, inner), k.task_pid_vnr(entered, init)), (2, 3));
    let cred = k.task(entered).unwrap().cred();
    assert_eq!(cred.user_ns, k.task(inner).unwrap().cred().user_ns);
    // With the namespace's init it dies, and the embedder is told of it.
    let out = k.exit_group(inner, 0).unwrap();
    assert_eq!(out.killed, [entered]);
    check(&k);
}

#[test]
fn the_target_must_live_and_the_credentials_be_of_its_user_namespace() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWUSER | CloneFlags::NEWPID).unwrap();
    let foreign = Cred::root(k.init_user_ns().clone());
    assert_eq!(k.enter(inner, foreign, 0), Err(Errno::EINVAL));
    k.exit_group(inner, 0).unwrap();
    assert_eq!(enter(&mut k, inner), Err(Errno::ESRCH));
}

#[test]
fn who_enters_counts_as_one_task() {
    let mut config = config(Cred::root(UserNamespace::initial()));
    // The swapper, init, and one more.
    config.max_threads = 3;
    let (mut k, init) = boot_with(config);
    assert!(enter(&mut k, init).is_ok());
    assert_eq!(enter(&mut k, init), Err(Errno::EAGAIN));
}
