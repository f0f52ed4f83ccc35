//! Credentials and threads over `execve(2)`.

use super::*;
use crate::capability::{Cap, CapSet, VfsCaps};
use crate::errno::Errno;
use crate::exec::{ExecCred, ExecFile, ExecUnsafe, prepare_exec_cred};
use crate::task::Dumpable;

const PLAIN: ExecFile = ExecFile { uid: 0, gid: 0, mode: 0o755, nosuid: false, caps: None };
const SUID_ROOT: ExecFile = ExecFile { mode: 0o4755, ..PLAIN };

fn user() -> Cred {
    Cred::user(1000, 1000, &[1000], UserNamespace::initial())
}

fn net_raw(effective: bool) -> ExecFile {
    let permitted = CapSet::EMPTY.with(Cap::NET_RAW);
    let caps = VfsCaps { permitted, inheritable: CapSet::EMPTY, effective, rootid: 0 };
    ExecFile { caps: Some(caps), ..PLAIN }
}

fn exec(cred: &Cred, file: &ExecFile) -> ExecCred {
    prepare_exec_cred(cred, file, ExecUnsafe::default()).unwrap()
}

#[test]
fn a_set_user_id_program_of_root_has_everything_and_distrusts_its_environment() {
    let new = exec(&user(), &SUID_ROOT);
    assert_eq!((new.cred.uid, new.cred.euid, new.cred.suid, new.cred.fsuid), (1000, 0, 0, 0));
    assert_eq!(
        (new.cred.cap_permitted, new.cred.cap_effective, new.secure),
        (CapSet::FULL, CapSet::FULL, true)
    );
    for file in [ExecFile { nosuid: true, ..SUID_ROOT }, PLAIN] {
        let user = user();
        assert_eq!(exec(&user, &file), ExecCred { cred: user, secure: false });
    }
    let root = Cred::root(UserNamespace::initial());
    assert_eq!(exec(&root, &PLAIN), ExecCred { cred: root.clone(), secure: false });
}

#[test]
fn no_new_privs_and_a_shared_root_directory_withhold_privilege() {
    let limits = ExecUnsafe { no_new_privs: true, ..ExecUnsafe::default() };
    let new = prepare_exec_cred(&user(), &SUID_ROOT, limits).unwrap();
    assert_eq!((new.cred.euid, new.cred.cap_permitted), (1000, CapSet::EMPTY));
    let new = prepare_exec_cred(&user(), &net_raw(true), limits).unwrap();
    assert_eq!(new.cred.cap_permitted, CapSet::EMPTY);
    let new = prepare_exec_cred(&user(), &SUID_ROOT, ExecUnsafe { shared_fs: true, ..ExecUnsafe::default() })
        .unwrap();
    assert_eq!((new.cred.euid, new.cred.cap_permitted), (1000, CapSet::EMPTY));
}

#[test]
fn set_group_id_counts_only_with_group_execute() {
    let file = ExecFile { gid: 5, mode: 0o2755, ..PLAIN };
    assert_eq!((exec(&user(), &file).cred.egid, exec(&user(), &file).secure), (5, true));
    assert_eq!(exec(&user(), &ExecFile { mode: 0o2745, ..file }).cred.egid, 1000);
}

#[test]
fn file_capabilities_are_permitted_and_with_the_flag_effective() {
    let new = exec(&user(), &net_raw(true));
    let raw = CapSet::EMPTY.with(Cap::NET_RAW);
    assert_eq!((new.cred.cap_permitted, new.cred.cap_effective, new.secure), (raw, raw, true));
    let new = exec(&user(), &net_raw(false));
    assert_eq!((new.cred.cap_permitted, new.cred.cap_effective), (raw, CapSet::EMPTY));
    let mut bounded = user();
    bounded.cap_bset = CapSet::FULL.without(Cap::NET_RAW);
    assert_eq!(prepare_exec_cred(&bounded, &net_raw(true), ExecUnsafe::default()), Err(Errno::EPERM));
    assert_eq!(exec(&bounded, &net_raw(false)).cred.cap_permitted, CapSet::EMPTY);
}

#[test]
fn ambient_capabilities_survive_an_ordinary_program_only() {
    let raw = CapSet::EMPTY.with(Cap::NET_RAW);
    let mut cred = user();
    (cred.cap_permitted, cred.cap_inheritable, cred.cap_ambient) = (raw, raw, raw);
    let new = exec(&cred, &PLAIN).cred;
    assert_eq!((new.cap_permitted, new.cap_effective, new.cap_ambient), (raw, raw, raw));
    let new = exec(&cred, &ExecFile { gid: 5, mode: 0o2755, ..PLAIN }).cred;
    assert_eq!((new.cap_permitted, new.cap_ambient), (CapSet::EMPTY, CapSet::EMPTY));
}

#[test]
fn capabilities_not_ambient_are_lost_by_a_user_that_executes() {
    let mut cred = user();
    (cred.cap_permitted, cred.cap_effective) = (CapSet::FULL, CapSet::FULL);
    let new = exec(&cred, &PLAIN);
    assert_eq!((new.cred.cap_permitted, new.secure), (CapSet::EMPTY, false));
}

#[test]
fn set_user_id_of_an_unmapped_owner_is_ignored() {
    let outside = user();
    let ns = UserNamespace::create(1, &outside, false, u64::MAX).unwrap();
    let mut inside = outside.clone();
    inside.set_user_ns(ns);
    assert_eq!(exec(&inside, &SUID_ROOT).cred.euid, 1000);
}

#[test]
fn exec_by_a_thread_takes_the_number_of_the_leader() {
    let (mut k, init) = boot();
    let leader = fork(&mut k, init);
    let (other, third) = (thread(&mut k, leader), thread(&mut k, leader));
    let child = fork(&mut k, third);
    let cred = k.prepare_exec(other, &PLAIN).unwrap();
    let out =
        k.begin_exec(other, b"/bin/a_very_long_program_name", b"a_very_long_program_name", cred).unwrap();
    check(&k);
    assert_eq!(out.vanished, [leader, third]);
    assert_eq!((k.task_pid_vnr(other, init), k.find_task_by_vpid(init, 2)), (2, Some(other)));
    assert_eq!(k.find_vpid(init, 3).map(|p| p.own_nr()), None, "its own number is free");
    assert_eq!(k.task(child).unwrap().real_parent(), other);
    assert_eq!(k.task(init).unwrap().children(), [other]);
    let task = k.task(other).unwrap();
    assert_eq!(
        (task.comm.as_slice(), task.mm().unwrap().exe()),
        (&b"a_very_long_pro"[..], &b"/bin/a_very_long_program_name"[..])
    );
    k.exit_group(other, 0).unwrap();
    k.reap(init, other).unwrap();
    check(&k);
}

#[test]
fn exec_by_a_thread_of_init_keeps_it_init() {
    let (mut k, init) = boot();
    let inner = clone(&mut k, init, CloneFlags::NEWPID).unwrap();
    let other = thread(&mut k, inner);
    let cred = k.prepare_exec(other, &PLAIN).unwrap();
    k.begin_exec(other, b"/x", b"x", cred).unwrap();
    check(&k);
    assert_eq!(k.active_pid_ns(other).unwrap().child_reaper(), Some(other));
    let orphan = fork(&mut k, other);
    assert_eq!(k.exit_group(other, 0).unwrap().killed, [orphan]);
}

#[test]
fn exec_ends_vfork_ignores_old_exit_signals_and_resets_dumpable() {
    let (mut k, init) = boot();
    let args = KernelCloneArgs { exit_signal: 10, ..KernelCloneArgs::vfork(0) };
    let child = k.kernel_clone(init, &args).unwrap().child;
    let cred = k.prepare_exec(child, &PLAIN).unwrap();
    assert_eq!(k.begin_exec(child, b"/x", b"x", cred).unwrap().vfork_done, Some(init));
    assert_eq!(k.task(child).unwrap().exit_signal(), Some(17));
    become_user(&mut k, child, 1000);
    assert_eq!(k.dumpable(child), Ok(Dumpable::Disable));
    let cred = k.prepare_exec(child, &PLAIN).unwrap();
    k.begin_exec(child, b"/x", b"x", cred).unwrap();
    assert_eq!(k.dumpable(child), Ok(Dumpable::User));
    let cred = k.prepare_exec(child, &SUID_ROOT).unwrap();
    assert!(cred.secure);
    k.begin_exec(child, b"/x", b"x", cred).unwrap();
    assert_eq!((k.dumpable(child), k.getresuid(child)), (Ok(Dumpable::Disable), Ok((1000, 0, 0))));
    check(&k);
}
