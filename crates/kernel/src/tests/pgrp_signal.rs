//! Process groups, sessions and whom `kill(2)` reaches.

use super::*;
use crate::errno::Errno;

fn targets(k: &Kernel, caller: TaskId, pid: i32, signal: i32) -> Result<Vec<TaskId>> {
    k.kill_targets(caller, pid, signal).map(|all| all.into_iter().map(|t| t.task).collect())
}

#[test]
fn setpgid_refuses_as_its_manual_page_says() {
    let (mut k, init) = boot();
    let a = fork(&mut k, init);
    let b = fork(&mut k, a);
    let nr = |k: &Kernel, t| k.task_pid_vnr(t, init);
    assert_eq!(k.setpgid(a, 0, -1), Err(Errno::EINVAL));
    assert_eq!(k.setpgid(a, 99, 0), Err(Errno::ESRCH));
    assert_eq!(k.setpgid(a, nr(&k, init), 0), Err(Errno::ESRCH), "neither itself nor a child");
    assert_eq!(k.setpgid(init, 0, 0), Err(Errno::EPERM), "a session leader");
    assert_eq!(k.setpgid(a, nr(&k, b), 77), Err(Errno::EPERM), "no such group");
    assert_eq!(k.setpgid(a, nr(&k, b), 0), Ok((b, nr(&k, b))));
    assert_eq!(k.setpgid(a, 0, nr(&k, b)), Ok((a, nr(&k, b))));
    let other = thread(&mut k, a);
    assert_eq!(k.setpgid(a, nr(&k, other), 0), Err(Errno::EINVAL));
    let cred = crate::exec::ExecCred { cred: (**k.task(b).unwrap().cred()).clone(), secure: false };
    k.begin_exec(b, b"/x", b"x", cred).unwrap();
    assert_eq!(k.setpgid(a, nr(&k, b), 0), Err(Errno::EACCES));
    assert_eq!(k.setpgid(b, 0, 1), Ok((b, 1)));
    check(&k);
}

#[test]
fn setsid_makes_a_session_once_and_not_for_a_group_leader() {
    let (mut k, init) = boot();
    let a = fork(&mut k, init);
    let b = fork(&mut k, init);
    k.setpgid(b, 0, 0).unwrap();
    assert_eq!(k.setsid(b), Err(Errno::EPERM));
    k.signal_of_mut(a).unwrap().tty = Some(0x8800);
    assert_eq!(k.setsid(a), Ok(2));
    assert_eq!(k.signal_of(a).unwrap().tty, None);
    assert_eq!(k.setsid(a), Err(Errno::EPERM));
    assert_eq!(
        (k.getsid(init, 2), k.getpgid(init, 2), k.getsid(init, 99)),
        (Ok(2), Ok(2), Err(Errno::ESRCH))
    );
    let child = fork(&mut k, a);
    assert_eq!(k.setpgid(init, 2, 0), Err(Errno::EPERM), "a child in another session");
    assert_eq!(k.getsid(child, 0), Ok(2));
    check(&k);
}

#[test]
fn numbers_outside_show_as_0_inside() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    assert_eq!((k.getpgid(inner, 0), k.getsid(inner, 0)), (Ok(0), Ok(0)));
    assert_eq!(k.setsid(inner), Ok(1));
    assert_eq!(k.task_session_vnr(inner, init), 2);
}

#[test]
fn kill_finds_processes_groups_and_everyone() {
    let (mut k, init) = boot();
    let a = fork(&mut k, init);
    let b = fork(&mut k, a);
    let other = thread(&mut k, b);
    assert_eq!(
        targets(&k, init, k.task_pid_vnr(other, init), 15),
        Ok(vec![b]),
        "any thread means its process"
    );
    assert_eq!(targets(&k, a, 0, 15), Ok(vec![init, a, b]));
    assert_eq!(targets(&k, a, -1, 15), Ok(vec![b]), "not init, not itself");
    assert_eq!(targets(&k, a, -1, 99), Err(Errno::EINVAL));
    assert_eq!(targets(&k, a, 99, 0), Err(Errno::ESRCH));
    assert_eq!(targets(&k, a, -99, 0), Err(Errno::ESRCH));
    assert_eq!(targets(&k, a, i32::MIN, 0), Err(Errno::ESRCH));
    k.setpgid(b, 0, 0).unwrap();
    assert_eq!(targets(&k, init, -k.task_pid_vnr(b, init), 15), Ok(vec![b]));
    let alone = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    assert_eq!(targets(&k, alone, -1, 15), Err(Errno::ESRCH));
}

#[test]
fn permission_to_signal_follows_ids_and_sigcont_the_session() {
    let (mut k, init) = boot();
    let (a, b, c) = (fork(&mut k, init), fork(&mut k, init), fork(&mut k, init));
    become_user(&mut k, a, 1000);
    become_user(&mut k, b, 1000);
    become_user(&mut k, c, 1001);
    let nr = |t| k.task_pid_vnr(t, init);
    assert_eq!(targets(&k, a, nr(b), 15), Ok(vec![b]));
    assert_eq!(targets(&k, a, nr(c), 15), Err(Errno::EPERM));
    assert_eq!(targets(&k, a, nr(c), 18), Ok(vec![c]));
    assert_eq!(targets(&k, a, 0, 15), Ok(vec![a, b]), "those allowed");
    assert_eq!(targets(&k, c, -1, 15), Ok(vec![]), "no error even if none is");
    let args = (nr(c), nr(b));
    assert_eq!(k.tgkill_target(init, Some(args.0), args.1, 15).err(), Some(Errno::ESRCH));
    assert_eq!(k.tgkill_target(init, Some(0), args.1, 15).err(), Some(Errno::EINVAL));
    assert_eq!(k.tgkill_target(a, None, args.0, 15).err(), Some(Errno::EPERM));
    assert_eq!(k.tgkill_target(a, Some(args.1), args.1, 15).map(|t| t.task), Ok(b));
}

#[test]
fn the_receiver_learns_the_sender_in_its_own_terms() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID | CloneFlags::NEWUSER).unwrap();
    let down = k.signal_target(init, inner);
    assert_eq!((down.si_pid, down.si_uid), (0, 65534));
    let up = k.signal_target(inner, init);
    assert_eq!((up.si_pid, up.si_uid), (2, 0));
}

#[test]
fn init_is_immune_to_what_it_does_not_handle_except_from_outside() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    let child = fork(&mut k, inner);
    assert!(!k.signal_reaches(Some(child), inner, 15, false));
    assert!(k.signal_reaches(Some(child), inner, 15, true));
    assert!(!k.signal_reaches(Some(child), inner, 9, false));
    assert!(!k.signal_reaches(Some(inner), inner, 9, false));
    assert!(k.signal_reaches(Some(init), inner, 9, false));
    assert!(!k.signal_reaches(Some(init), inner, 15, false));
    assert!(k.signal_reaches(Some(inner), child, 15, false));
}
