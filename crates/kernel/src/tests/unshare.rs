//! `unshare(2)`.

use super::*;
use crate::errno::Errno;

fn unshare(k: &mut Kernel, task: TaskId, flags: CloneFlags) -> Result<()> {
    let before = observe(k);
    let result = k.unshare(task, flags.bits());
    check(k);
    if result.is_err() {
        assert_eq!(observe(k), before, "a refused unshare of {flags:?} left a trace");
    }
    result
}

#[test]
fn unsharing_copies_the_nsproxy_once_and_leaves_others_alone() {
    use CloneFlags as F;
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    unshare(&mut k, task, F::NEWUTS | F::NEWIPC | F::NEWNET | F::NEWCGROUP | F::NEWNS).unwrap();
    let (a, b) = (k.task(init).unwrap().nsproxy().unwrap(), k.task(task).unwrap().nsproxy().unwrap());
    assert_eq!((a.count(), b.count(), b.pid_for_children.common().count()), (1, 1, 2));
    for (a, b) in a.namespaces().iter().zip(b.namespaces()) {
        let shared = matches!(a.kind(), crate::ns_common::NsKind::Pid | crate::ns_common::NsKind::Time);
        assert_eq!(a.inum() == b.inum(), shared, "{a:?}");
    }
}

#[test]
fn unsharing_the_pid_namespace_concerns_children_only_and_once() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    let own = k.active_pid_ns(task).unwrap();
    unshare(&mut k, task, CloneFlags::NEWPID).unwrap();
    assert!(k.active_pid_ns(task).unwrap() == own);
    assert_eq!(unshare(&mut k, task, CloneFlags::NEWPID), Err(Errno::EINVAL));
    let child = fork(&mut k, task);
    assert_eq!((k.task_pid_vnr(child, child), k.task_pid_vnr(task, child)), (1, 0));
}

#[test]
fn a_user_needs_a_user_namespace_first_or_at_once() {
    let (mut k, init) = boot();
    let user = fork(&mut k, init);
    become_user(&mut k, user, 1000);
    assert_eq!(unshare(&mut k, user, CloneFlags::NEWUTS), Err(Errno::EPERM));
    assert_eq!(unshare(&mut k, user, CloneFlags::NEWUTS | CloneFlags::NEWUSER), Ok(()));
    assert_eq!(k.sethostname(user, b"mine"), Ok(()));
    assert_eq!(unshare(&mut k, user, CloneFlags::NEWIPC), Ok(()));
    let nsproxy = k.task(user).unwrap().nsproxy().unwrap().clone();
    assert_eq!(nsproxy.uts.names().nodename, b"mine");
    // Without a map the ids inside are the overflow ids, and a second level cannot be made.
    assert_eq!(k.getresuid(user).unwrap().0, 65534);
    assert_eq!(unshare(&mut k, user, CloneFlags::NEWUSER), Err(Errno::EPERM));
}

#[test]
fn what_a_thread_shares_cannot_be_unshared() {
    use CloneFlags as F;
    let (mut k, init) = boot();
    let leader = fork(&mut k, init);
    for flags in [F::THREAD, F::SIGHAND, F::VM, F::FILES, F::SYSVSEM, F::FS] {
        assert_eq!(unshare(&mut k, leader, flags), Ok(()));
    }
    let other = thread(&mut k, leader);
    for flags in [F::THREAD, F::SIGHAND, F::VM, F::NEWUSER] {
        assert_eq!(unshare(&mut k, other, flags), Err(Errno::EINVAL), "{flags:?}");
    }
    assert_eq!(unshare(&mut k, other, F::PARENT), Err(Errno::EINVAL));
    assert_eq!(k.fs_users(other), 2);
    assert_eq!(unshare(&mut k, other, F::NEWNS), Ok(()));
    assert_eq!(k.fs_users(other), 1, "a new mount namespace unshares root and working directory");
    let sharer = clone(&mut k, init, F::VM).unwrap();
    assert_eq!(unshare(&mut k, sharer, F::VM), Err(Errno::EINVAL));
    assert_eq!(
        unshare(&mut k, sharer, F::NEWUSER),
        Ok(()),
        "memory shared with another process is no obstacle"
    );
}

#[test]
fn a_time_namespace_is_entered_by_children_that_do_not_share_memory() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    unshare(&mut k, task, CloneFlags::NEWTIME).unwrap();
    let time = |k: &Kernel, t| {
        let nsproxy = k.task(t).unwrap().nsproxy().unwrap();
        (nsproxy.time.common().inum(), nsproxy.time_for_children.common().inum())
    };
    let (own, new) = time(&k, task);
    assert_ne!(own, new);
    let spawned = clone(&mut k, task, CloneFlags::VM | CloneFlags::VFORK).unwrap();
    assert_eq!(time(&k, spawned), (own, new));
    let child = fork(&mut k, task);
    assert_eq!(time(&k, child), (new, new));
}
