//! Random sequences of what tasks do to each other. After every step all counts are recounted, and a step that failed
//! has left no trace.

use proptest::prelude::*;

use super::*;
use crate::exit::status_exited;
use crate::nsfs::{NsLink, NsRef};
use crate::setns::SetnsTarget;
use crate::task::SigchldAction;
use crate::wait::{WaitFor, WaitOptions};

#[derive(Clone, Debug)]
enum Step {
    Clone(usize, u64),
    Abort(usize, u64),
    Thread(usize),
    Unshare(usize, u64),
    Keep(usize, usize),
    SetnsFile(usize, usize),
    SetnsTask(usize, usize, u64),
    Exit(usize),
    ExitThread(usize),
    Wait(usize),
    Exec(usize),
    Setpgid(usize, usize),
    Setsid(usize),
    Setuid(usize, u32),
    Map(usize),
    Subreaper(usize),
    Autoreap(usize, bool),
    Enter(usize),
}

const CLONE_BITS: &[CloneFlags] = &[
    CloneFlags::NEWUTS,
    CloneFlags::NEWPID,
    CloneFlags::NEWUSER,
    CloneFlags::NEWNS,
    CloneFlags::NEWIPC,
    CloneFlags::NEWTIME,
    CloneFlags::FS,
    CloneFlags::VM,
    CloneFlags::PARENT,
];

fn flags() -> impl Strategy<Value = u64> {
    let some = proptest::collection::vec(0..CLONE_BITS.len(), 0..4);
    some.prop_map(|bits| bits.into_iter().fold(0, |all, bit| all | CLONE_BITS[bit].bits()))
}

fn step() -> impl Strategy<Value = Step> {
    let n = || any::<usize>();
    prop_oneof![
        8 => (n(), flags()).prop_map(|(a, f)| Step::Clone(a, f)),
        2 => (n(), flags()).prop_map(|(a, f)| Step::Abort(a, f)),
        4 => n().prop_map(Step::Thread),
        3 => (n(), flags()).prop_map(|(a, f)| Step::Unshare(a, f)),
        3 => (n(), n()).prop_map(|(a, b)| Step::Keep(a, b)),
        3 => (n(), n()).prop_map(|(a, b)| Step::SetnsFile(a, b)),
        2 => (n(), n(), flags()).prop_map(|(a, b, f)| Step::SetnsTask(a, b, f)),
        4 => n().prop_map(Step::Exit),
        3 => n().prop_map(Step::ExitThread),
        4 => n().prop_map(Step::Wait),
        2 => n().prop_map(Step::Exec),
        2 => (n(), n()).prop_map(|(a, b)| Step::Setpgid(a, b)),
        2 => n().prop_map(Step::Setsid),
        2 => (n(), 0..3u32).prop_map(|(a, u)| Step::Setuid(a, u)),
        2 => n().prop_map(Step::Map),
        1 => n().prop_map(Step::Subreaper),
        1 => (n(), any::<bool>()).prop_map(|(a, b)| Step::Autoreap(a, b)),
        2 => n().prop_map(Step::Enter),
    ]
}

/// Does one step; `false` when it was refused.
fn run(k: &mut Kernel, files: &mut Vec<NsRef>, step: &Step) -> bool {
    let tasks: Vec<TaskId> = k.tasks().map(|t| t.id()).filter(|t| *t != k.init_task()).collect();
    if tasks.is_empty() {
        return false;
    }
    let pick = |n: usize| tasks[n % tasks.len()];
    match *step {
        Step::Clone(a, flags) => clone(k, pick(a), CloneFlags::from_bits_retain(flags)).is_ok(),
        Step::Abort(a, flags) => {
            let before = observe(k);
            if let Ok(child) = clone(k, pick(a), CloneFlags::from_bits_retain(flags)) {
                k.abort_clone(child).unwrap();
            }
            assert_eq!(observe(k), before);
            true
        }
        Step::Thread(a) => clone(k, pick(a), THREAD).is_ok(),
        Step::Unshare(a, flags) => k.unshare(pick(a), flags).is_ok(),
        Step::Keep(a, link) => match k.ns_get(pick(a), NsLink::ALL[link % NsLink::ALL.len()]) {
            Ok(ns) => {
                files.push(ns);
                true
            }
            Err(_) => false,
        },
        Step::SetnsFile(a, file) if !files.is_empty() => {
            k.setns(pick(a), &SetnsTarget::Namespace(files[file % files.len()].clone()), 0).is_ok()
        }
        Step::SetnsFile(..) => false,
        Step::SetnsTask(a, b, flags) => k.setns(pick(a), &SetnsTarget::Task(pick(b)), flags).is_ok(),
        Step::Exit(a) => match k.exit_group(pick(a), status_exited(1)) {
            Ok(out) => {
                for gone in out.released {
                    assert!(k.task(gone).is_none());
                }
                true
            }
            Err(_) => false,
        },
        Step::ExitThread(a) => k.exit_thread(pick(a), status_exited(1)).is_ok(),
        Step::Wait(a) => k
            .wait_zombie(pick(a), &WaitFor::Any, WaitOptions::EXITED | WaitOptions::ALL)
            .is_ok_and(|waited| waited.is_some()),
        Step::Exec(a) => {
            let id = pick(a);
            let file = crate::exec::ExecFile { uid: 0, gid: 0, mode: 0o4755, nosuid: false, caps: None };
            let cred = match k.prepare_exec(id, &file) {
                Ok(cred) => cred,
                Err(_) => return false,
            };
            k.begin_exec(id, b"/x", b"x", cred).is_ok()
        }
        Step::Setpgid(a, b) => {
            let (a, b) = (pick(a), pick(b));
            k.setpgid(a, 0, k.task_pid_vnr(b, a)).is_ok()
        }
        Step::Setsid(a) => k.setsid(pick(a)).is_ok(),
        Step::Setuid(a, uid) => k.setresuid(pick(a), uid, uid, u32::MAX).is_ok(),
        Step::Map(a) => {
            let cred = k.task(pick(a)).unwrap().cred().clone();
            let Some(parent) = cred.user_ns.parent() else { return false };
            // Whatever is allowed, as root of the parent would write it.
            let root = Cred::root(parent.clone());
            for kind in [crate::user_namespace::MapKind::Uid, crate::user_namespace::MapKind::Gid] {
                let _ = cred.user_ns.write_map(kind, b"0 0 3", &root, &root);
            }
            true
        }
        Step::Subreaper(a) => k.set_child_subreaper(pick(a), true).is_ok(),
        Step::Autoreap(a, on) => {
            let action = if on { SigchldAction::Ignore } else { SigchldAction::Notify };
            k.signal_of_mut(pick(a)).unwrap().sigchld = action;
            true
        }
        Step::Enter(a) => {
            let cred = (**k.task(pick(a)).unwrap().cred()).clone();
            k.enter(pick(a), cred, 0).is_ok()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn counts_hold_and_failures_leave_no_trace(steps in proptest::collection::vec(step(), 1..120)) {
        let (mut k, _) = boot();
        let mut files = Vec::new();
        for step in &steps {
            let before = observe(&k);
            if !run(&mut k, &mut files, step) {
                prop_assert_eq!(observe(&k), before, "{:?} was refused but changed something", step);
            }
            check(&k);
        }
        // The end of the sandbox leaves the swapper and init's zombie, and after it no number is taken. Which task is
        // init may have changed by an exec in one of its threads.
        let children = k.task(k.init_task()).unwrap().children().to_vec();
        if let Some(init) = children.first() {
            let _ = k.exit_group(*init, 0);
            check(&k);
        }
        // With init those who entered from outside have died.
        for child in children {
            if k.task(child).is_some() {
                k.reap(k.init_task(), child).unwrap();
            }
        }
        for file in &files {
            let initial = k.init_nsproxy().namespaces().iter().any(|ns| ns.inum() == file.common().inum());
            prop_assert_eq!(file.common().count(), usize::from(initial), "{:?}", file);
        }
        prop_assert_eq!(k.nr_threads(), 1);
        prop_assert_eq!(k.active_pid_ns(k.init_task()).unwrap().pid_allocated(), 0);
    }
}
