//! SPEC 1.1 to 1.4 and 2.2.

use std::sync::Arc;

use super::*;
use crate::errno::Errno;
use crate::ns_common::NsKind;
use crate::policy::{ForkRequest, Policy};
use crate::ptrace::PtraceEvents;
use crate::rlimit::Resource;

fn refused(k: &mut Kernel, caller: TaskId, flags: CloneFlags) -> Errno {
    let before = observe(k);
    let errno = clone(k, caller, flags).unwrap_err();
    assert_eq!(observe(k), before, "a refused clone with {flags:?} left a trace");
    errno
}

#[test]
fn the_first_process_is_pid_1_with_namespaces_of_its_own() {
    let (k, init) = boot();
    assert_eq!(k.task_pid_vnr(init, init), 1);
    assert_eq!(k.task_ppid_vnr(init, init), 0);
    assert_eq!(k.getsid(init, 0), Ok(1));
    let (first, initial) = (k.task(init).unwrap().nsproxy().unwrap(), k.init_nsproxy());
    for (a, b) in first.namespaces().iter().zip(initial.namespaces()) {
        let shared = matches!(a.kind(), NsKind::Mnt | NsKind::Cgroup | NsKind::Time);
        assert_eq!(a.inum() == b.inum(), shared, "{a:?}");
    }
    assert_eq!(k.utsname(init).unwrap().nodename, b"box");
    check(&k);
}

#[test]
fn fork_shares_the_nsproxy_and_copies_the_fs() {
    let (mut k, init) = boot();
    let child = fork(&mut k, init);
    let nsproxy = |k: &Kernel, t| k.task(t).unwrap().nsproxy().unwrap().clone();
    assert!(Arc::ptr_eq(&nsproxy(&k, init), &nsproxy(&k, child)));
    assert_eq!(nsproxy(&k, init).count(), 2);
    assert_eq!(nsproxy(&k, init).uts.common().count(), 1);
    assert_eq!((k.fs_users(child), k.task_pid_vnr(child, init)), (1, 2));
    let sharing = clone(&mut k, init, CloneFlags::FS).unwrap();
    assert_eq!(k.fs_users(sharing), 2);
}

#[test]
fn a_new_uts_namespace_copies_the_nsproxy_but_shares_the_rest() {
    let (mut k, init) = boot();
    let child = clone(&mut k, init, CloneFlags::NEWUTS).unwrap();
    let (old, new) = (k.task(init).unwrap().nsproxy().unwrap(), k.task(child).unwrap().nsproxy().unwrap());
    assert_eq!((old.count(), new.count()), (1, 1));
    assert_eq!((old.uts.common().count(), new.uts.common().count()), (1, 1));
    assert_eq!(new.ipc.common().count(), 2);
    k.sethostname(child, b"inner").unwrap();
    assert_eq!(k.utsname(init).unwrap().nodename, b"box");
    assert_eq!(k.utsname(child).unwrap().nodename, b"inner");
}

#[test]
fn contradicting_flags_are_einval() {
    use CloneFlags as F;
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    for flags in [
        F::NEWNS | F::FS,
        F::NEWUSER | F::FS,
        F::THREAD | F::VM,
        F::THREAD,
        F::SIGHAND,
        F::THREAD | F::SIGHAND | F::VM | F::NEWPID,
        F::THREAD | F::SIGHAND | F::VM | F::NEWUSER,
        F::NEWIPC | F::SYSVSEM,
        F::PIDFD | F::DETACHED,
    ] {
        assert_eq!(refused(&mut k, task, flags), Errno::EINVAL, "{flags:?}");
    }
    let at_one_place = KernelCloneArgs::clone((F::PIDFD | F::PARENT_SETTID).bits() | 17, 0);
    assert_eq!(k.kernel_clone(task, &at_one_place), Err(Errno::EINVAL));
}

#[test]
fn init_cannot_have_siblings_but_others_can() {
    let (mut k, init) = boot();
    assert_eq!(refused(&mut k, init, CloneFlags::PARENT), Errno::EINVAL);
    let child = fork(&mut k, init);
    let sibling = clone(&mut k, child, CloneFlags::PARENT).unwrap();
    assert_eq!(k.task(sibling).unwrap().real_parent(), init);
    let inner_init = clone(&mut k, child, CloneFlags::NEWPID).unwrap();
    assert_eq!(refused(&mut k, inner_init, CloneFlags::PARENT), Errno::EINVAL);
}

#[test]
fn after_unsharing_the_pid_namespace_threads_are_refused_and_new_namespaces_too() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    k.unshare(task, CloneFlags::NEWPID.bits()).unwrap();
    assert_eq!(refused(&mut k, task, THREAD), Errno::EINVAL);
    assert_eq!(refused(&mut k, task, CloneFlags::NEWPID), Errno::EINVAL);
    // CLONE_VM alone is not a thread: vfork and posix_spawn work.
    let child = clone(&mut k, task, CloneFlags::VM).unwrap();
    assert_eq!(k.task_pid_vnr(child, child), 1);
    assert_eq!(k.task_pid_vnr(child, task), 3);
    assert_eq!(k.task_ppid_vnr(child, child), 0, "the parent is not visible inside");
}

#[test]
fn new_namespaces_need_cap_sys_admin_unless_a_user_namespace_comes_with_them() {
    use CloneFlags as F;
    let (mut k, init) = boot();
    let user = fork(&mut k, init);
    become_user(&mut k, user, 1000);
    for flags in [F::NEWNS, F::NEWUTS, F::NEWIPC, F::NEWPID, F::NEWNET, F::NEWCGROUP, F::NEWTIME] {
        assert_eq!(refused(&mut k, user, flags), Errno::EPERM, "{flags:?}");
        let with_user_ns = clone(&mut k, user, flags | F::NEWUSER).unwrap();
        assert!(k.task(with_user_ns).unwrap().cred().ns_capable(
            &k.task(with_user_ns).unwrap().cred().user_ns.clone(),
            crate::capability::Cap::SYS_ADMIN
        ));
    }
    // EPERM comes before the check of NEWIPC with SYSVSEM.
    assert_eq!(refused(&mut k, user, F::NEWIPC | F::SYSVSEM), Errno::EPERM);
}

#[test]
fn a_pid_has_numbers_at_every_level() {
    let (mut k, init) = boot();
    let mut at = init;
    for _ in 0..3 {
        at = clone(&mut k, at, CloneFlags::NEWPID).unwrap();
    }
    let numbers: Vec<i32> = k.task(at).unwrap().pid().numbers().iter().map(|u| u.nr).collect();
    assert_eq!(numbers, [4, 4, 3, 2, 1]);
    assert_eq!(k.find_task_by_vpid(init, 4), Some(at));
    assert_eq!(k.find_task_by_vpid(at, 1), Some(at));
    assert_eq!(k.find_task_by_vpid(at, 4), None);
}

#[test]
fn the_event_for_the_tracer_follows_the_flags_and_what_is_enabled() {
    let (mut k, init) = boot();
    let event = |k: &mut Kernel, args: KernelCloneArgs| k.kernel_clone(init, &args).unwrap().ptrace_event;
    assert_eq!(event(&mut k, KernelCloneArgs::fork(0)), PtraceEvents::empty());
    k.task_mut(init).unwrap().ptrace_events = PtraceEvents::all();
    assert_eq!(event(&mut k, KernelCloneArgs::fork(0)), PtraceEvents::FORK);
    assert_eq!(event(&mut k, KernelCloneArgs::vfork(0)), PtraceEvents::VFORK);
    assert_eq!(event(&mut k, KernelCloneArgs::clone(0, 0)), PtraceEvents::CLONE);
    let untraced = KernelCloneArgs::clone(CloneFlags::UNTRACED.bits() | 17, 0);
    assert_eq!(event(&mut k, untraced), PtraceEvents::empty());
}

#[test]
fn the_outcome_has_the_numbers_for_parent_and_child() {
    let (mut k, init) = boot();
    let args = KernelCloneArgs::clone((CloneFlags::NEWPID | CloneFlags::PARENT_SETTID).bits() | 17, 7);
    let out = k.kernel_clone(init, &args).unwrap();
    assert_eq!((out.pid, out.parent_tid, out.child_tid), (2, Some(2), 1));
    assert_eq!(k.task(out.child).unwrap().start_time(), 7);
}

#[test]
fn clone3_refuses_what_it_does_not_know() {
    let make = |flags, signal| KernelCloneArgs::clone3(flags, signal, Vec::new(), 0).map(|_| ());
    assert_eq!(make(1 << 40, 17), Err(Errno::EINVAL));
    assert_eq!(make(CloneFlags::DETACHED.bits(), 17), Err(Errno::EINVAL));
    assert_eq!(make(17, 0), Err(Errno::EINVAL));
    assert_eq!(make(0, 65), Err(Errno::EINVAL));
    assert_eq!(make(THREAD.bits(), 17), Err(Errno::EINVAL));
    assert_eq!(make((CloneFlags::SIGHAND | CloneFlags::CLEAR_SIGHAND).bits(), 0), Err(Errno::EINVAL));
    assert_eq!(make(THREAD.bits(), 0), Ok(()));
    assert_eq!(make(CloneFlags::NEWTIME.bits(), 17), Ok(()));
}

#[test]
fn rlimit_nproc_counts_the_new_process_and_spares_root() {
    let (mut k, init) = boot();
    let user = fork(&mut k, init);
    let limit = Rlimit { cur: 2, max: 2 };
    k.prlimit(user, user, Resource::Nproc, Some(limit)).unwrap();
    for _ in 0..5 {
        fork(&mut k, user);
    }
    become_user(&mut k, user, 1000);
    fork(&mut k, user);
    assert_eq!(refused(&mut k, user, CloneFlags::empty()), Errno::EAGAIN);
    // A user namespace is no way around it: the creator pays.
    assert_eq!(refused(&mut k, user, CloneFlags::NEWUSER), Errno::EAGAIN);
}

#[test]
fn the_thread_limit_is_eagain_for_root_too() {
    let (mut k, init) =
        boot_with(KernelConfig { max_threads: 3, ..config(Cred::root(UserNamespace::initial())) });
    fork(&mut k, init);
    assert_eq!(refused(&mut k, init, CloneFlags::empty()), Errno::EAGAIN);
    assert_eq!(refused(&mut k, init, CloneFlags::NEWUSER | CloneFlags::NEWNS), Errno::EAGAIN);
}

#[test]
fn exhausted_numbers_give_back_everything_taken() {
    let (mut k, init) = boot();
    k.active_pid_ns(init).unwrap().set_pid_max(301).unwrap();
    while clone(&mut k, init, CloneFlags::empty()).is_ok() {}
    let all = CloneFlags::NEWNS | CloneFlags::NEWUTS | CloneFlags::NEWPID | CloneFlags::NEWUSER;
    assert_eq!(refused(&mut k, init, all), Errno::EAGAIN);
}

#[test]
fn the_policy_is_asked_after_the_flags_and_its_error_is_given() {
    struct NoThreads;
    impl Policy for NoThreads {
        fn may_fork(&self, request: &ForkRequest<'_>) -> Result<()> {
            if request.flags.contains(CloneFlags::THREAD) { Err(Errno::EACCES) } else { Ok(()) }
        }
    }
    let policy: Option<Arc<dyn Policy>> = Some(Arc::new(NoThreads));
    let (mut k, init) = boot_with(KernelConfig { policy, ..config(Cred::root(UserNamespace::initial())) });
    fork(&mut k, init);
    assert_eq!(refused(&mut k, init, THREAD), Errno::EACCES);
    assert_eq!(refused(&mut k, init, CloneFlags::THREAD), Errno::EINVAL);
}

#[test]
fn an_aborted_clone_leaves_no_trace() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    let before = observe(&k);
    for flags in [CloneFlags::empty(), THREAD, CloneFlags::NEWPID | CloneFlags::NEWUSER | CloneFlags::NEWNS] {
        let child = clone(&mut k, task, flags).unwrap();
        k.abort_clone(child).unwrap();
        check(&k);
        assert_eq!(observe(&k), before);
    }
    // The first process of a namespace that was unshared can be tried again.
    k.unshare(task, CloneFlags::NEWPID.bits()).unwrap();
    for _ in 0..2 {
        let child = fork(&mut k, task);
        assert_eq!(k.task_pid_vnr(child, child), 1);
        k.abort_clone(child).unwrap();
    }
    assert_eq!(k.abort_clone(init), Err(Errno::EBUSY));
}

#[test]
fn a_new_mount_namespace_moves_root_and_working_directory_of_the_child_only() {
    let (mut k, init) = boot();
    let mount_of = |k: &Kernel, t| k.task(t).unwrap().fs().unwrap().lock().unwrap().root.mnt.id();
    let before = mount_of(&k, init);
    let child = clone(&mut k, init, CloneFlags::NEWNS).unwrap();
    assert_eq!(mount_of(&k, init), before);
    assert_ne!(mount_of(&k, child), before);
}
