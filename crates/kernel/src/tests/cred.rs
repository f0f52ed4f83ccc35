//! Changes of ids, capabilities and securebits.

use super::*;
use crate::capability::{Cap, CapSet};
use crate::cred::Securebits;
use crate::errno::Errno;
use crate::rlimit::Resource;
use crate::sys::{CapAmbient, CapData, ambient_request};
use crate::task::Dumpable;
use crate::user_namespace::MapKind;

const KEEP: u32 = u32::MAX;

#[test]
fn setuid_of_root_is_for_good_and_of_a_user_goes_between_real_and_saved() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    k.setresuid(task, 1000, 0, 1001).unwrap();
    k.seteuid_for_test(task, 1000);
    assert_eq!(k.setuid(task, 5), Err(Errno::EPERM));
    assert_eq!(k.setuid(task, 1001), Ok(()));
    assert_eq!(k.getresuid(task), Ok((1000, 1001, 1001)));
    let root = fork(&mut k, init);
    k.setuid(root, 1000).unwrap();
    assert_eq!(k.getresuid(root), Ok((1000, 1000, 1000)));
    assert_eq!(k.setuid(root, 0), Err(Errno::EPERM));
    assert_eq!(k.setuid(root, KEEP), Err(Errno::EINVAL));
    check(&k);
}

impl Kernel {
    fn seteuid_for_test(&mut self, task: TaskId, euid: u32) {
        self.setresuid(task, KEEP, euid, KEEP).unwrap();
    }
}

#[test]
fn setreuid_sets_the_saved_id_when_the_real_one_is_given() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    k.setresuid(task, 10, 20, 30).unwrap();
    assert_eq!(k.setreuid(task, 30, KEEP), Err(Errno::EPERM), "the saved id cannot become the real one");
    assert_eq!(k.setreuid(task, KEEP, 30), Ok(()));
    assert_eq!(k.getresuid(task), Ok((10, 30, 30)));
    assert_eq!(k.setreuid(task, 30, 10), Ok(()));
    assert_eq!(k.getresuid(task), Ok((30, 10, 10)));
}

#[test]
fn group_ids_follow_the_same_rules_without_touching_capabilities() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    k.setresgid(task, 10, 20, 30).unwrap();
    assert!(k.capable(task, Cap::SETGID));
    become_uid_only(&mut k, task);
    assert_eq!(k.setgid(task, 20), Err(Errno::EPERM));
    assert_eq!(k.setregid(task, KEEP, 30), Ok(()));
    assert_eq!(k.setgid(task, 10), Ok(()));
    assert_eq!(k.getresgid(task), Ok((10, 10, 30)));
    assert_eq!(k.setfsgid(task, 99), Ok(10));
    assert_eq!(k.setfsgid(task, 30), Ok(10));
    assert_eq!(k.setfsgid(task, KEEP), Ok(30));
}

fn become_uid_only(k: &mut Kernel, task: TaskId) {
    k.setuid(task, 1000).unwrap();
}

#[test]
fn capabilities_follow_the_user_ids() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    let caps = |k: &Kernel| k.capget(task, 0).unwrap();
    k.setresuid(task, KEEP, 1000, KEEP).unwrap();
    assert_eq!((caps(&k).effective, caps(&k).permitted), (CapSet::EMPTY, CapSet::FULL));
    k.setresuid(task, KEEP, 0, KEEP).unwrap();
    assert_eq!(caps(&k).effective, CapSet::FULL);
    k.setfsuid(task, 1000).unwrap();
    assert_eq!(caps(&k).effective, CapSet::FULL.minus(CapSet::FS));
    k.setfsuid(task, 0).unwrap();
    assert_eq!(caps(&k).effective, CapSet::FULL);
    k.set_keepcaps(task, 1).unwrap();
    k.setuid(task, 1000).unwrap();
    assert_eq!((caps(&k).effective, caps(&k).permitted), (CapSet::EMPTY, CapSet::FULL));
    let dropped = fork(&mut k, init);
    k.setuid(dropped, 1000).unwrap();
    assert_eq!(k.capget(dropped, 0).unwrap().permitted, CapSet::EMPTY);
    assert_eq!(k.dumpable(dropped), Ok(Dumpable::Disable));
}

#[test]
fn capset_only_gives_up() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    let raw = CapSet::EMPTY.with(Cap::NET_RAW);
    let some = CapData { effective: raw, permitted: raw, inheritable: CapSet::EMPTY };
    assert_eq!(k.capset(task, 1, some), Err(Errno::EPERM), "another task");
    assert_eq!(k.capset(task, 2, some), Ok(()));
    assert_eq!(k.capset(task, 0, CapData { permitted: CapSet::FULL, ..some }), Err(Errno::EPERM));
    assert_eq!(
        k.capset(task, 0, CapData { inheritable: CapSet::EMPTY.with(Cap::CHOWN), ..some }),
        Err(Errno::EPERM)
    );
    assert_eq!(k.capset(task, 0, CapData { effective: CapSet::FULL, ..some }), Err(Errno::EPERM));
    assert_eq!(k.capset(task, 0, CapData { inheritable: raw, ..some }), Ok(()));
    assert_eq!(k.capget(task, -1).err(), Some(Errno::EINVAL));
    assert_eq!(k.capget(task, 99).err(), Some(Errno::ESRCH));
}

#[test]
fn ambient_capabilities_need_the_permitted_and_inheritable_ones() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    let raise = CapAmbient::Raise(Cap::NET_RAW);
    assert_eq!(k.cap_ambient(task, raise), Err(Errno::EPERM));
    let data = k.capget(task, 0).unwrap();
    k.capset(task, 0, CapData { inheritable: CapSet::EMPTY.with(Cap::NET_RAW), ..data }).unwrap();
    assert_eq!(k.cap_ambient(task, raise), Ok(false));
    assert_eq!(k.cap_ambient(task, CapAmbient::IsSet(Cap::NET_RAW)), Ok(true));
    k.capset(task, 0, data).unwrap();
    assert_eq!(
        k.cap_ambient(task, CapAmbient::IsSet(Cap::NET_RAW)),
        Ok(false),
        "follows the inheritable set"
    );
    assert_eq!(ambient_request([2, 41, 0, 0]), Err(Errno::EINVAL));
    assert_eq!(ambient_request([4, 1, 0, 0]), Err(Errno::EINVAL));
    assert_eq!(ambient_request([2, 13, 0, 0]), Ok(raise));
}

#[test]
fn securebits_lock() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    let bits = Securebits::NOROOT | Securebits::NOROOT_LOCKED;
    assert_eq!(k.set_securebits(task, 1 << 12), Err(Errno::EPERM));
    assert_eq!(k.set_securebits(task, bits.bits().into()), Ok(()));
    assert_eq!(k.set_securebits(task, 0), Err(Errno::EPERM));
    assert_eq!(k.set_securebits(task, Securebits::NOROOT_LOCKED.bits().into()), Err(Errno::EPERM));
    assert_eq!(k.set_keepcaps(task, 2), Err(Errno::EINVAL));
    become_user(&mut k, task, 1000);
    k.capset(
        task,
        0,
        CapData { effective: CapSet::EMPTY, permitted: CapSet::EMPTY, inheritable: CapSet::EMPTY },
    )
    .unwrap();
    assert_eq!(k.capbset_drop(task, 1), Err(Errno::EPERM));
    assert_eq!(k.capbset_read(task, 41), Err(Errno::EINVAL));
    let interpreters = bits | Securebits::EXEC_RESTRICT_FILE;
    assert_eq!(k.set_securebits(task, interpreters.bits().into()), Ok(()), "needs no privilege");
}

#[test]
fn setgroups_needs_a_group_map_and_sorts() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    assert_eq!(k.setgroups(task, &[30, 10, 20]), Ok(()));
    assert_eq!(k.getgroups(task), Ok(vec![10, 20, 30]));
    assert!(k.task(task).unwrap().cred().in_group(20));
    assert_eq!(k.setgroups(task, &vec![0; 65537]), Err(Errno::EINVAL));
    k.unshare(task, CloneFlags::NEWUSER.bits()).unwrap();
    assert_eq!(k.setgroups(task, &[]), Err(Errno::EPERM));
    let root = k.task(init).unwrap().cred().clone();
    let ns = k.task(task).unwrap().cred().user_ns.clone();
    ns.write_map(MapKind::Gid, b"0 100 10", &root, &root).unwrap();
    assert_eq!(k.setgroups(task, &[3]), Ok(()));
    assert_eq!(k.setgroups(task, &[30]), Err(Errno::EINVAL));
    assert_eq!(&*k.task(task).unwrap().cred().groups, [103]);
}

#[test]
fn a_host_name_is_limited_to_64_bytes_and_to_the_privileged() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    assert_eq!(k.sethostname(task, &[b'a'; 65]), Err(Errno::EINVAL));
    assert_eq!(k.setdomainname(task, &[b'a'; 64]), Ok(()));
    become_user(&mut k, task, 1000);
    assert_eq!(k.sethostname(task, &[b'a'; 65]), Err(Errno::EPERM));
}

#[test]
fn limits_are_lowered_freely_and_raised_by_the_privileged() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    let set = |k: &mut Kernel, caller, target, cur, max| {
        k.prlimit(caller, target, Resource::Nofile, Some(Rlimit { cur, max })).map(|old| (old.cur, old.max))
    };
    assert_eq!(set(&mut k, task, task, 10, 1 << 21), Err(Errno::EPERM), "above nr_open");
    assert_eq!(set(&mut k, task, task, 10, 100), Ok((u64::MAX, u64::MAX)));
    assert_eq!(set(&mut k, task, task, 20, 10), Err(Errno::EINVAL));
    assert_eq!(set(&mut k, task, task, 20, 200), Ok((10, 100)));
    become_user(&mut k, task, 1000);
    assert_eq!(set(&mut k, task, task, 20, 300), Err(Errno::EPERM));
    assert_eq!(set(&mut k, task, init, 20, 20), Err(Errno::EPERM));
    assert_eq!(k.rlimit(init, Resource::Nofile), Ok(Rlimit::INFINITY));
    assert!(Resource::new(16).is_err());
}

#[test]
fn an_excess_of_processes_by_setuid_shows_at_exec_unless_it_has_passed() {
    let (mut k, init) = boot();
    let crowd = [fork(&mut k, init), fork(&mut k, init)];
    for member in crowd {
        become_user(&mut k, member, 1000);
    }
    let task = fork(&mut k, init);
    k.prlimit(task, task, Resource::Nproc, Some(Rlimit { cur: 1, max: 1 })).unwrap();
    become_user(&mut k, task, 1000);
    let file = crate::exec::ExecFile { uid: 0, gid: 0, mode: 0o755, nosuid: false, caps: None };
    assert_eq!(k.prepare_exec(task, &file).err(), Some(Errno::EAGAIN));
    for member in crowd {
        k.exit_group(member, 0).unwrap();
        k.reap(init, member).unwrap();
    }
    assert!(k.prepare_exec(task, &file).is_ok());
}

#[test]
fn looking_into_another_task_needs_its_ids_and_no_more_capabilities() {
    use crate::ptrace::PtraceCreds::Real;
    let (mut k, init) = boot();
    let (a, b, other) = (fork(&mut k, init), fork(&mut k, init), fork(&mut k, init));
    become_user(&mut k, a, 1000);
    become_user(&mut k, b, 1000);
    become_user(&mut k, other, 1001);
    assert_eq!(k.ptrace_may_access(a, b, Real), Err(Errno::EPERM), "not dumpable since it changed user");
    k.set_dumpable(b, 1).unwrap();
    assert_eq!(k.ptrace_may_access(a, b, Real), Ok(()));
    assert_eq!(k.ptrace_may_access(a, other, Real), Err(Errno::EPERM));
    assert_eq!(k.ptrace_may_access(a, init, Real), Err(Errno::EPERM));
    assert_eq!(k.ptrace_may_access(init, other, Real), Ok(()));
    assert_eq!(k.set_dumpable(b, 2), Err(Errno::EINVAL));
}

#[test]
fn no_new_privs_is_set_once_and_inherited() {
    let (mut k, init) = boot();
    let task = fork(&mut k, init);
    assert_eq!(k.set_no_new_privs(task, [0, 0, 0, 0]), Err(Errno::EINVAL));
    assert_eq!(k.set_no_new_privs(task, [1, 0, 0, 0]), Ok(()));
    let child = fork(&mut k, task);
    assert!(k.task(child).unwrap().no_new_privs());
}
