//! Zombies, orphans, waiting, and the end of pid namespaces.

use super::*;
use crate::errno::Errno;
use crate::exit::{ExitOutcome, status_exited, status_signaled};
use crate::task::ExitState;
use crate::wait::{WaitFor, WaitOptions, WaitedChild};

fn exit(k: &mut Kernel, task: TaskId) -> ExitOutcome {
    let out = k.exit_group(task, status_exited(0)).unwrap();
    check(k);
    out
}

fn wait_any(k: &mut Kernel, caller: TaskId) -> Result<Option<WaitedChild>> {
    let (target, options) = k.wait4_target(caller, -1, 0).unwrap();
    let result = k.wait_zombie(caller, &target, options);
    check(k);
    result
}

#[test]
fn a_dead_child_stays_a_zombie_until_it_is_waited_for() {
    let (mut k, init) = boot();
    let child = fork(&mut k, init);
    assert_eq!(wait_any(&mut k, init), Ok(None));
    let out = k.exit_group(child, status_exited(3)).unwrap();
    assert_eq!((out.group_dead, out.autoreap, out.notify), (true, false, vec![(init, 17)]));
    assert_eq!(k.task(child).unwrap().exit_state(), ExitState::Zombie);
    assert!(k.task(child).unwrap().nsproxy().is_none());
    assert_eq!(k.exit_group(child, 0), Err(Errno::ESRCH));
    let waited = wait_any(&mut k, init).unwrap().unwrap();
    assert_eq!((waited.pid, waited.status, waited.uid), (2, 0x300, 0));
    assert!(k.task(child).is_none());
    assert_eq!(wait_any(&mut k, init), Err(Errno::ECHILD));
}

#[test]
fn a_parent_that_ignores_sigchld_gets_no_zombies() {
    let (mut k, init) = boot();
    k.signal_of_mut(init).unwrap().sigchld_autoreap = true;
    let child = fork(&mut k, init);
    let out = exit(&mut k, child);
    assert!(out.autoreap && k.task(child).is_none());
}

#[test]
fn orphans_go_to_another_thread_then_to_the_nearest_subreaper_then_to_init() {
    let (mut k, init) = boot();
    let reaper = fork(&mut k, init);
    let father = fork(&mut k, reaper);
    k.set_child_subreaper(reaper, true).unwrap();
    let other = thread(&mut k, father);
    let orphan = fork(&mut k, father);
    let parent = |k: &Kernel| k.task(orphan).unwrap().real_parent();
    k.exit_thread(father, 0).unwrap();
    check(&k);
    assert_eq!(parent(&k), other);
    assert_eq!(exit(&mut k, other).reparented, [(orphan, reaper)]);
    assert_eq!(parent(&k), reaper);
    assert_eq!(exit(&mut k, reaper).reparented.iter().find(|(c, _)| *c == orphan), Some(&(orphan, init)));
}

#[test]
fn a_subreaper_outside_the_pid_namespace_is_not_asked() {
    let (mut k, init) = boot();
    k.set_child_subreaper(init, true).unwrap();
    let inner_init = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    let father = fork(&mut k, inner_init);
    let orphan = fork(&mut k, father);
    exit(&mut k, father);
    assert_eq!(k.task(orphan).unwrap().real_parent(), inner_init);
}

#[test]
fn an_orphaned_zombie_is_waited_for_by_its_new_parent() {
    let (mut k, init) = boot();
    let father = fork(&mut k, init);
    let zombie = fork(&mut k, father);
    exit(&mut k, zombie);
    let out = exit(&mut k, father);
    assert_eq!(out.notify, [(init, 17), (init, 17)]);
    assert_eq!(k.reap(father, zombie), Err(Errno::ECHILD));
    assert_eq!(k.reap(init, zombie), Ok(()));
    assert_eq!(k.reap(init, father), Ok(()));
    assert_eq!(k.reap(init, father), Err(Errno::ESRCH));
    check(&k);
}

#[test]
fn a_dead_leader_is_not_waited_for_while_threads_live() {
    let (mut k, init) = boot();
    let leader = fork(&mut k, init);
    let other = thread(&mut k, leader);
    let out = k.exit_thread(leader, status_exited(1)).unwrap();
    assert!(!out.group_dead && out.notify.is_empty());
    assert_eq!(wait_any(&mut k, init), Ok(None));
    let out = k.exit_thread(other, status_exited(2)).unwrap();
    assert_eq!((out.group_dead, out.notify), (true, vec![(init, 17)]));
    assert_eq!(wait_any(&mut k, init).unwrap().unwrap().status, status_exited(1));
}

#[test]
fn exit_group_overrides_the_status_of_the_leader() {
    let (mut k, init) = boot();
    let leader = fork(&mut k, init);
    let other = thread(&mut k, leader);
    k.exit_thread(leader, status_exited(1)).unwrap();
    k.exit_group(leader, status_exited(7)).unwrap();
    assert!(k.task(other).is_none());
    assert_eq!(wait_any(&mut k, init).unwrap().unwrap().status, status_exited(7));
}

#[test]
fn the_end_of_init_is_the_end_of_its_namespace_and_of_those_inside() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    let a = fork(&mut k, inner);
    let zombie = fork(&mut k, inner);
    exit(&mut k, zombie);
    let nested = clone(&mut k, a, CloneFlags::NEWPID).unwrap();
    let deep = fork(&mut k, nested);
    let (ns, nested_ns) = (k.active_pid_ns(inner).unwrap(), k.active_pid_ns(nested).unwrap());
    let mut out = exit(&mut k, inner);
    out.killed.sort();
    assert_eq!(out.killed, [a, nested, deep]);
    assert!([a, zombie, nested, deep].iter().all(|t| k.task(*t).is_none()));
    assert!(!ns.is_alive() && !nested_ns.is_alive());
    assert_eq!(ns.pid_allocated(), 1, "the zombie of init");
    k.reap(init, inner).unwrap();
    assert_eq!(ns.pid_allocated(), 0);
    check(&k);
}

#[test]
fn what_entered_a_dying_namespace_from_outside_waits_for_its_parent() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    let outside = fork(&mut k, init);
    let ns = crate::nsfs::NsRef::Pid(k.active_pid_ns(inner).unwrap());
    k.setns(outside, &crate::setns::SetnsTarget::Namespace(ns), 0).unwrap();
    let entered = fork(&mut k, outside);
    assert_eq!(k.task_pid_vnr(entered, inner), 2);
    let out = exit(&mut k, inner);
    assert_eq!(out.killed, [entered]);
    let waited = wait_any(&mut k, outside).unwrap().unwrap();
    assert_eq!((waited.child, waited.status), (entered, status_signaled(9, false)));
    assert_eq!(clone(&mut k, outside, CloneFlags::empty()), Err(Errno::ENOMEM));
}

#[test]
fn init_hands_its_role_to_another_thread() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    let other = thread(&mut k, inner);
    let child = fork(&mut k, inner);
    let out = k.exit_thread(inner, 0).unwrap();
    check(&k);
    assert!(out.killed.is_empty());
    assert_eq!(k.active_pid_ns(other).unwrap().child_reaper(), Some(other));
    let out = k.exit_thread(other, 0).unwrap();
    check(&k);
    assert_eq!(out.killed, [child]);
}

#[test]
fn a_group_number_outlives_its_leader() {
    let (mut k, init) = boot();
    let leader = fork(&mut k, init);
    k.setpgid(leader, 0, 0).unwrap();
    let member = fork(&mut k, leader);
    let nr = k.task_pid_vnr(leader, init);
    exit(&mut k, leader);
    k.reap(init, leader).unwrap();
    check(&k);
    assert_eq!(k.getpgid(member, 0), Ok(nr));
    assert_eq!(k.find_task_by_vpid(init, nr), None);
    exit(&mut k, member);
    k.reap(init, member).unwrap();
    assert!(k.find_vpid(init, nr).is_none());
}

#[test]
fn a_vfork_parent_is_released_by_exit() {
    let (mut k, init) = boot();
    let out = k.kernel_clone(init, &KernelCloneArgs::vfork(0)).unwrap();
    assert!(out.vfork);
    assert_eq!(exit(&mut k, out.child).vfork_done, Some(init));
}

#[test]
fn wait_selects_by_group_exit_signal_and_thread() {
    let (mut k, init) = boot();
    let a = fork(&mut k, init);
    k.setpgid(init, k.task_pid_vnr(a, init), 0).unwrap();
    let silent = k.kernel_clone(init, &KernelCloneArgs::clone(0, 0)).unwrap().child;
    let find = |k: &Kernel, caller, pid, options| {
        let (target, options) = k.wait4_target(caller, pid, options).unwrap();
        k.eligible_children(caller, &target, options)
    };
    let clone_children = WaitOptions::CLONE.bits();
    assert_eq!(find(&k, init, -1, 0), [a]);
    assert_eq!(find(&k, init, -1, clone_children), [silent]);
    assert_eq!(find(&k, init, -1, WaitOptions::ALL.bits()), [a, silent]);
    assert_eq!(find(&k, init, -k.task_pid_vnr(a, init), 0), [a]);
    assert!(find(&k, init, 0, 0).is_empty());
    assert!(find(&k, init, 77, 0).is_empty());
    let other = thread(&mut k, init);
    assert_eq!(find(&k, other, -1, 0), [a]);
    assert!(find(&k, other, -1, WaitOptions::NOTHREAD.bits()).is_empty());
    assert_eq!(k.wait4_target(init, i32::MIN, 0).err(), Some(Errno::ESRCH));
    assert_eq!(k.wait4_target(init, -1, WaitOptions::NOWAIT.bits()).err(), Some(Errno::EINVAL));
    assert_eq!(k.waitid_target(init, 1, 0, 4).err(), Some(Errno::EINVAL));
    assert_eq!(k.waitid_target(init, 0, 0, 0).err(), Some(Errno::EINVAL));
}

#[test]
fn wnowait_leaves_the_zombie() {
    let (mut k, init) = boot();
    let child = fork(&mut k, init);
    exit(&mut k, child);
    let look = WaitOptions::EXITED | WaitOptions::NOWAIT;
    assert!(k.wait_zombie(init, &WaitFor::Any, look).unwrap().is_some());
    assert!(k.wait_zombie(init, &WaitFor::Any, WaitOptions::EXITED).unwrap().is_some());
    assert_eq!(k.wait_zombie(init, &WaitFor::Any, look), Err(Errno::ECHILD));
}
