//! `setns(2)` and `ioctl_ns(2)`.

use super::*;
use crate::errno::Errno;
use crate::ns_common::NsKind;
use crate::nsfs::{NsLink, NsRef};
use crate::setns::SetnsTarget;

fn setns(k: &mut Kernel, task: TaskId, target: SetnsTarget, flags: CloneFlags) -> Result<()> {
    let before = observe(k);
    let result = k.setns(task, &target, flags.bits());
    check(k);
    if result.is_err() {
        assert_eq!(observe(k), before, "a refused setns left a trace");
    }
    result
}

fn ns(k: &Kernel, task: TaskId, link: NsLink) -> SetnsTarget {
    SetnsTarget::Namespace(k.ns_get(task, link).unwrap())
}

#[test]
fn a_namespace_outlives_its_last_task_by_its_file() {
    let (mut k, init) = boot();
    let child = clone(&mut k, init, CloneFlags::NEWUTS).unwrap();
    k.sethostname(child, b"kept").unwrap();
    let file = ns(&k, child, NsLink::Uts);
    k.exit_group(child, 0).unwrap();
    let SetnsTarget::Namespace(kept) = &file else { unreachable!() };
    assert_eq!(kept.common().count(), 0);
    let task = fork(&mut k, init);
    assert_eq!(setns(&mut k, task, file.clone(), CloneFlags::NEWIPC), Err(Errno::EINVAL));
    assert_eq!(setns(&mut k, task, file, CloneFlags::NEWUTS), Ok(()));
    assert_eq!(k.utsname(task).unwrap().nodename, b"kept");
}

#[test]
fn a_pid_namespace_can_be_entered_downwards_only() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    let task = fork(&mut k, init);
    let (down, up) = (ns(&k, inner, NsLink::Pid), ns(&k, init, NsLink::Pid));
    assert_eq!(setns(&mut k, inner, up.clone(), CloneFlags::empty()), Err(Errno::EINVAL));
    assert_eq!(setns(&mut k, task, down, CloneFlags::empty()), Ok(()));
    let child = fork(&mut k, task);
    assert_eq!(k.task_pid_vnr(child, inner), 2);
    assert_eq!(setns(&mut k, task, up, CloneFlags::empty()), Ok(()), "back to the own one");
}

#[test]
fn several_namespaces_of_a_task_are_entered_at_once_or_not_at_all() {
    use CloneFlags as F;
    let (mut k, init) = boot();
    let user = fork(&mut k, init);
    become_user(&mut k, user, 1000);
    k.set_dumpable(user, 1).unwrap();
    let boxed = clone(&mut k, user, F::NEWUSER | F::NEWUTS | F::NEWNS | F::NEWPID).unwrap();
    let other = fork(&mut k, user);
    let all = F::NEWUSER | F::NEWUTS | F::NEWNS | F::NEWPID;
    assert_eq!(setns(&mut k, other, SetnsTarget::Task(boxed), F::NEWUTS), Err(Errno::EPERM));
    assert_eq!(setns(&mut k, other, SetnsTarget::Task(boxed), F::empty()), Err(Errno::EINVAL));
    assert_eq!(setns(&mut k, other, SetnsTarget::Task(boxed), all | F::FILES), Err(Errno::EINVAL));
    // The time namespace is the same one, owned by the initial user namespace: no capability there, so nothing changes.
    assert_eq!(setns(&mut k, other, SetnsTarget::Task(boxed), all | F::NEWTIME), Err(Errno::EPERM));
    assert_eq!(setns(&mut k, other, SetnsTarget::Task(boxed), all), Ok(()));
    for link in [NsLink::User, NsLink::Uts, NsLink::Mnt, NsLink::PidForChildren] {
        let ino = |t| k.ns_get(t, link).unwrap().info().ino;
        assert_eq!(ino(other), ino(boxed), "{link:?}");
    }
    let root = |t: TaskId| k.task(t).unwrap().fs().unwrap().lock().unwrap().root.mnt.id();
    assert_eq!(root(other), root(boxed));
}

#[test]
fn a_user_namespace_is_entered_once_alone_and_by_the_privileged() {
    let (mut k, init) = boot();
    let user = fork(&mut k, init);
    become_user(&mut k, user, 1000);
    let inside = clone(&mut k, user, CloneFlags::NEWUSER).unwrap();
    let file = ns(&k, inside, NsLink::User);
    assert_eq!(setns(&mut k, inside, file.clone(), CloneFlags::empty()), Err(Errno::EINVAL));
    let stranger = fork(&mut k, init);
    become_user(&mut k, stranger, 1001);
    assert_eq!(setns(&mut k, stranger, file.clone(), CloneFlags::empty()), Err(Errno::EPERM));
    let other = thread(&mut k, user);
    assert_eq!(setns(&mut k, other, file.clone(), CloneFlags::empty()), Err(Errno::EINVAL));
    k.exit_thread(other, 0).unwrap();
    let sharer = clone(&mut k, user, CloneFlags::FS).unwrap();
    assert_eq!(setns(&mut k, user, file.clone(), CloneFlags::empty()), Err(Errno::EINVAL));
    k.exit_group(sharer, 0).unwrap();
    assert_eq!(setns(&mut k, user, file, CloneFlags::empty()), Ok(()));
    let parent = ns(&k, init, NsLink::User);
    assert_eq!(setns(&mut k, user, parent, CloneFlags::empty()), Err(Errno::EPERM), "no way back up");
}

#[test]
fn a_mount_namespace_needs_a_root_directory_of_ones_own() {
    let (mut k, init) = boot();
    let other = clone(&mut k, init, CloneFlags::NEWNS).unwrap();
    let task = fork(&mut k, init);
    let file = ns(&k, other, NsLink::Mnt);
    let sharer = clone(&mut k, task, CloneFlags::FS).unwrap();
    assert_eq!(setns(&mut k, task, file.clone(), CloneFlags::empty()), Err(Errno::EINVAL));
    k.exit_group(sharer, 0).unwrap();
    assert_eq!(setns(&mut k, task, file, CloneFlags::empty()), Ok(()));
}

#[test]
fn pid_for_children_is_no_file_before_the_first_child() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    k.unshare(task, CloneFlags::NEWPID.bits()).unwrap();
    assert_eq!(k.ns_get(task, NsLink::PidForChildren).err(), Some(Errno::ENOENT));
    fork(&mut k, task);
    assert_eq!(k.ns_get(task, NsLink::PidForChildren).unwrap().info().kind, NsKind::Pid);
}

#[test]
fn relations_are_told_within_the_own_namespaces_only() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID | CloneFlags::NEWUSER).unwrap();
    let (pid, user, uts) = (
        k.ns_get(inner, NsLink::Pid).unwrap(),
        k.ns_get(inner, NsLink::User).unwrap(),
        k.ns_get(inner, NsLink::Uts).unwrap(),
    );
    assert_eq!(k.ns_get_parent(init, &pid).unwrap().info(), k.ns_get(init, NsLink::Pid).unwrap().info());
    assert_eq!(k.ns_get_parent(inner, &pid).err(), Some(Errno::EPERM));
    assert_eq!(k.ns_get_parent(init, &uts).err(), Some(Errno::EINVAL));
    assert_eq!(NsRef::User(k.ns_get_userns(inner, &pid).unwrap()).info(), user.info());
    assert_eq!(k.ns_get_userns(inner, &user).err(), Some(Errno::EPERM));
    assert_eq!(k.ns_get_owner_uid(init, &user), Ok(0));
    assert_eq!(k.ns_get_owner_uid(init, &pid), Err(Errno::EINVAL));
    assert!(k.init_nsproxy().uts.common().inum() < 0xffff_ffff);
}
