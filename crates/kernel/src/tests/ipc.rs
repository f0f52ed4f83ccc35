//! IPC objects as tasks come and go.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use proptest::prelude::*;

use super::*;
use crate::errno::Errno;
use crate::exit::status_exited;
use crate::ipc::msg::{MSG_COPY, MSG_EXCEPT, MSG_NOERROR, MsgLimits};
use crate::ipc::sem::{SEM_UNDO, Sembuf};
use crate::ipc::shm::{SHM_DEST, ShmFile, ShmLimits};
use crate::ipc::util::{IPCMNI, IpcPermSet};
use crate::ipc::{IPC_CREAT, IPC_EXCL, IPC_NOWAIT, IPC_PRIVATE, IpcCaller, IpcMemory, IpcNamespace, IpcWait};

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn noop() -> Waker {
    Waker::noop().clone()
}

fn of(k: &Kernel, task: TaskId) -> (Arc<IpcNamespace>, IpcCaller) {
    k.ipc_caller(task).unwrap()
}

fn op(num: u16, op: i16, flg: i32) -> Sembuf {
    Sembuf { num, op, flg: flg as i16 }
}

const UNDO: i32 = SEM_UNDO as i32;

/// A `semop` that may sleep; true if it was done at once.
fn semop(k: &mut Kernel, task: TaskId, id: i32, sops: &[Sembuf]) -> Result<bool> {
    let (ns, caller) = of(k, task);
    let undo = k.sem_undo_list(task).unwrap();
    Ok(match ns.semtimedop(&caller, &undo, id, sops, &noop())? {
        None => true,
        Some(wait) => {
            k.task_mut(task).unwrap().ipc_wait = Some(IpcWait::Sem(ns, wait));
            false
        }
    })
}

fn woken(k: &mut Kernel, task: TaskId) -> Option<Result<()>> {
    let wait = k.task_mut(task).unwrap().ipc_wait.as_ref()?;
    wait.take().map(|result| result.map(drop))
}

fn values(k: &Kernel, task: TaskId, id: i32) -> Vec<u16> {
    let (ns, caller) = of(k, task);
    ns.sem_getall(&caller, id).unwrap()
}

fn array(k: &Kernel, task: TaskId, values: &[u16]) -> i32 {
    let (ns, caller) = of(k, task);
    let id = ns.semget(&caller, IPC_PRIVATE, values.len() as i32, 0o600).unwrap();
    ns.sem_setall(&caller, id, values).unwrap();
    id
}

#[test]
fn an_identifier_is_a_sequence_number_and_an_index_that_rests_for_a_cycle() {
    let (k, init) = boot();
    let (ns, caller) = of(&k, init);
    let make = || ns.msgget(&caller, IPC_PRIVATE, 0o600).unwrap();
    assert_eq!([make(), make(), make()], [0, 1, 2]);
    ns.msg_rmid(&caller, 1).unwrap();
    assert_eq!(make(), 3);
    for index in 4..64 {
        assert_eq!(make(), index);
        ns.msg_rmid(&caller, index).unwrap();
    }
    // The cycle ends: the lowest free index, and the next sequence number.
    assert_eq!(make(), IPCMNI + 1);
    assert_eq!(ns.msg_stat(&caller, 1, false, false).unwrap_err(), Errno::EIDRM);
    assert_eq!(ns.msg_stat(&caller, 4, false, false).unwrap_err(), Errno::EINVAL);
    assert_eq!(ns.msg_stat(&caller, 1, true, false).unwrap().perm.id, IPCMNI + 1);
    assert_eq!(ns.msg_info().max_index, 3);
}

#[test]
fn a_key_finds_an_object_only_with_the_right_flags_and_permissions() {
    let (mut k, init) = boot();
    let user = fork(&mut k, init);
    become_user(&mut k, user, 1000);
    let (ns, root) = of(&k, init);
    let (_, user) = of(&k, user);
    assert_eq!(ns.msgget(&root, 7, 0), Err(Errno::ENOENT));
    let id = ns.msgget(&root, 7, 0o640 | IPC_CREAT).unwrap();
    assert_eq!(ns.msgget(&root, 7, IPC_CREAT | IPC_EXCL), Err(Errno::EEXIST));
    assert_eq!(ns.msgget(&user, 7, 0), Ok(id));
    assert_eq!(ns.msgget(&user, 7, 0o400), Err(Errno::EACCES));
    assert_eq!(ns.msg_stat(&user, id, false, false).unwrap_err(), Errno::EACCES);
    assert!(ns.msg_stat(&user, id, true, true).is_ok());
    assert_eq!(ns.msg_rmid(&user, id), Err(Errno::EPERM));
    let set = IpcPermSet { uid: 1000, gid: 1000, mode: 0o7604 };
    assert_eq!(ns.msg_set(&user, id, &set, 1), Err(Errno::EPERM));
    ns.msg_set(&root, id, &set, 1 << 20).unwrap();
    assert_eq!(ns.msg_set(&user, id, &set, 1 << 20), Err(Errno::EPERM), "larger than msgmnb");
    assert_eq!(ns.msg_stat(&user, id, false, false).unwrap().perm.mode, 0o604);
    ns.msg_rmid(&user, id).unwrap();
    assert_eq!(ns.msgget(&root, 7, 0), Err(Errno::ENOENT));
}

#[test]
fn objects_are_private_to_their_namespace_and_go_with_it() {
    let (mut k, init) = boot();
    let child = clone(&mut k, init, CloneFlags::NEWIPC).unwrap();
    let (ns, caller) = of(&k, child);
    let id = ns.semget(&caller, 5, 3, 0o600 | IPC_CREAT).unwrap();
    let (outer, root) = of(&k, init);
    assert_eq!(outer.semget(&root, 5, 0, 0), Err(Errno::ENOENT));
    assert_eq!(outer.sem_getval(&root, id, 0), Err(Errno::EINVAL));
    let weak = Arc::downgrade(&ns);
    assert!(k.ipc_memory.used() > 0);
    drop((ns, caller));
    k.exit_group(child, 0).unwrap();
    assert!(weak.upgrade().is_none());
    assert_eq!(k.ipc_memory.used(), 0);
}

#[test]
fn all_operations_are_done_or_none() {
    let (mut k, init) = boot();
    let id = array(&k, init, &[1, 0, 5]);
    let sops = |last| [op(0, -1, 0), op(1, 1, 0), op(2, last, IPC_NOWAIT)];
    assert_eq!(semop(&mut k, init, id, &sops(-6)), Err(Errno::EAGAIN));
    assert_eq!(values(&k, init, id), [1, 0, 5]);
    assert_eq!(semop(&mut k, init, id, &sops(-5)), Ok(true));
    assert_eq!(values(&k, init, id), [0, 1, 0]);
    assert_eq!(semop(&mut k, init, id, &[op(0, 1, 0), op(1, 32767, 0)]), Err(Errno::ERANGE));
    assert_eq!(semop(&mut k, init, id, &[op(3, 1, 0)]), Err(Errno::EFBIG));
    assert_eq!(semop(&mut k, init, id, &vec![op(0, 0, 0); 501]), Err(Errno::E2BIG));
    assert_eq!(values(&k, init, id), [0, 1, 0]);
}

#[test]
fn sleepers_go_on_in_the_order_in_which_they_came_as_far_as_they_can() {
    let (mut k, init) = boot();
    let id = array(&k, init, &[0, 0]);
    let tasks: Vec<TaskId> = (0..4).map(|_| fork(&mut k, init)).collect();
    for (at, &task) in tasks.iter().enumerate() {
        let wants = if at == 1 { -3 } else { -1 };
        assert_eq!(semop(&mut k, task, id, &[op(0, wants, 0)]), Ok(false));
    }
    let (ns, caller) = of(&k, init);
    assert_eq!(ns.sem_getcnt(&caller, id, 0, false), Ok(4));
    semop(&mut k, init, id, &[op(0, 2, 0)]).unwrap();
    let state: Vec<_> = tasks.iter().map(|&task| woken(&mut k, task)).collect();
    assert_eq!(state, [Some(Ok(())), None, Some(Ok(())), None]);
    semop(&mut k, init, id, &[op(0, 3, 0)]).unwrap();
    assert_eq!(woken(&mut k, tasks[1]), Some(Ok(())));
    assert_eq!(woken(&mut k, tasks[3]), None);
    ns.sem_rmid(&caller, id).unwrap();
    assert_eq!(woken(&mut k, tasks[3]), Some(Err(Errno::EIDRM)));
}

#[test]
fn who_waits_for_zero_goes_before_who_takes() {
    let (mut k, init) = boot();
    let id = array(&k, init, &[1]);
    let [taker, zero, last] = std::array::from_fn(|_| fork(&mut k, init));
    semop(&mut k, taker, id, &[op(0, -2, 0)]).unwrap();
    semop(&mut k, zero, id, &[op(0, 0, 0)]).unwrap();
    semop(&mut k, last, id, &[op(0, 0, 0), op(0, 2, 0)]).unwrap();
    semop(&mut k, init, id, &[op(0, -1, 0)]).unwrap();
    for task in [taker, zero, last] {
        assert_eq!(woken(&mut k, task), Some(Ok(())));
    }
    assert_eq!(values(&k, init, id), [0]);
}

#[test]
fn what_a_task_did_is_undone_at_its_end_unless_it_was_set_meanwhile() {
    let (mut k, init) = boot();
    let id = array(&k, init, &[0, 3, 0]);
    let child = fork(&mut k, init);
    semop(&mut k, child, id, &[op(0, 2, UNDO), op(1, -2, UNDO), op(2, 1, 0)]).unwrap();
    assert_eq!(values(&k, init, id), [2, 1, 1]);
    let (ns, caller) = of(&k, init);
    ns.sem_setval(&caller, id, 1, 9).unwrap();
    // Its sleep ends with it, too, and takes nothing.
    let thread = thread(&mut k, child);
    semop(&mut k, thread, id, &[op(0, -3, 0)]).unwrap();
    k.exit_group(child, status_exited(0)).unwrap();
    assert_eq!(values(&k, init, id), [0, 9, 1]);
    assert_eq!(ns.sem_getcnt(&caller, id, 0, false), Ok(0));
}

#[test]
fn an_undo_list_is_shared_by_sysvsem_and_undone_by_the_last() {
    let (mut k, init) = boot();
    let id = array(&k, init, &[0]);
    let a = fork(&mut k, init);
    let b = clone(&mut k, a, CloneFlags::SYSVSEM).unwrap();
    semop(&mut k, b, id, &[op(0, 1, UNDO)]).unwrap();
    k.exit_group(b, 0).unwrap();
    assert_eq!(values(&k, init, id), [1]);
    semop(&mut k, a, id, &[op(0, 1, UNDO)]).unwrap();
    k.unshare(a, CloneFlags::SYSVSEM.bits()).unwrap();
    assert_eq!(values(&k, init, id), [0]);
    semop(&mut k, a, id, &[op(0, 1, UNDO)]).unwrap();
    k.unshare(a, CloneFlags::NEWIPC.bits()).unwrap();
    assert_eq!(values(&k, init, id), [0]);
}

#[test]
fn messages_are_found_by_type() {
    let (k, init) = boot();
    let (ns, caller) = of(&k, init);
    let id = ns.msgget(&caller, IPC_PRIVATE, 0o600).unwrap();
    for (mtype, text) in [(3, "three"), (1, "one"), (2, "two"), (1, "again")] {
        assert!(ns.msgsnd(&caller, id, mtype, text.into(), 0, &noop()).unwrap().is_none());
    }
    let get = |mtype, max, flags| {
        let got = ns.msgrcv(&caller, id, max, mtype, flags | IPC_NOWAIT, &noop())?;
        Ok(got.ok().map(|msg| String::from_utf8(msg.text).unwrap()).unwrap())
    };
    assert_eq!(get(3, 9, MSG_COPY), Ok("again".into()));
    assert_eq!(get(4, 9, MSG_COPY), Err(Errno::ENOMSG));
    assert_eq!(get(-2, 9, 0), Ok("one".into()));
    assert_eq!(get(1, 2, 0), Err(Errno::E2BIG));
    assert_eq!(get(1, 2, MSG_NOERROR), Ok("ag".into()));
    assert_eq!(get(3, 9, MSG_EXCEPT), Ok("two".into()));
    assert_eq!(get(7, 9, 0), Err(Errno::ENOMSG));
    assert_eq!(ns.msg_stat(&caller, id, false, false).unwrap().cbytes, 5);
    assert_eq!(get(0, 9, 0), Ok("three".into()));
    assert_eq!(ns.msg_stat(&caller, id, false, false).unwrap().cbytes, 0);
    assert_eq!(k.ipc_memory.used(), 512);
}

#[test]
fn a_full_queue_lets_senders_in_as_there_is_room() {
    let (k, init) = boot();
    let (ns, caller) = of(&k, init);
    ns.set_msg_limits(MsgLimits { msgmnb: 10, ..MsgLimits::default() }).unwrap();
    let id = ns.msgget(&caller, IPC_PRIVATE, 0o600).unwrap();
    let count = Arc::new(Count::default());
    let waker = Waker::from(count.clone());
    let send = |text: &str, flags| ns.msgsnd(&caller, id, 1, text.into(), flags, &waker);
    assert!(send("123456", 0).unwrap().is_none());
    let big = send("1234567", 0).unwrap().unwrap();
    let small = send("12345", 0).unwrap().unwrap();
    let given_up = send("12345", 0).unwrap().unwrap();
    assert!(matches!(send("12345", IPC_NOWAIT), Err(Errno::EAGAIN)));
    assert!(ns.msgsnd_cancel(&given_up).is_none());
    let get = || ns.msgrcv(&caller, id, 100, 0, 0, &noop()).unwrap().ok().unwrap().text.len();
    assert_eq!(get(), 6);
    assert!(big.sleeper.take().is_some() && small.sleeper.take().is_none());
    assert_eq!(get(), 7);
    assert!(small.sleeper.take().is_some());
    assert_eq!(count.0.load(Ordering::Relaxed), 2);
    assert_eq!(get(), 5);
}

#[test]
fn a_receiver_gets_the_message_even_when_it_gives_up_at_that_moment() {
    let (k, init) = boot();
    let (ns, caller) = of(&k, init);
    let id = ns.msgget(&caller, IPC_PRIVATE, 0o600).unwrap();
    let wait = ns.msgrcv(&caller, id, 9, 5, 0, &noop()).unwrap().unwrap_err();
    let short = ns.msgrcv(&caller, id, 1, 0, 0, &noop()).unwrap().unwrap_err();
    ns.msgsnd(&caller, id, 5, b"five".to_vec(), 0, &noop()).unwrap();
    assert_eq!(ns.msgrcv_cancel(&wait).unwrap().unwrap().text, b"five");
    ns.msgsnd(&caller, id, 5, b"five".to_vec(), 0, &noop()).unwrap();
    assert_eq!(short.sleeper.take().unwrap().unwrap_err(), Errno::E2BIG);
    assert_eq!(ns.msg_stat(&caller, id, false, false).unwrap().qnum, 1);
}

#[test]
fn memory_for_messages_is_limited_whatever_the_namespace_says() {
    let (k, init) = boot();
    let (ns, caller) = of(&k, init);
    let much = MsgLimits { msgmax: i32::MAX, msgmnb: i32::MAX, msgmni: 100 };
    ns.set_msg_limits(much).unwrap();
    let id = ns.msgget(&caller, IPC_PRIVATE, 0o600).unwrap();
    let mut sent = 0;
    let refused = loop {
        match ns.msgsnd(&caller, id, 1, vec![0; 32 << 20], IPC_NOWAIT, &noop()) {
            Ok(_) => sent += 32 << 20,
            Err(errno) => break errno,
        }
    };
    assert_eq!(refused, Errno::ENOMEM);
    assert!(sent <= IpcMemory::MAX);
    ns.msg_rmid(&caller, id).unwrap();
    assert_eq!(k.ipc_memory.used(), 0);
}

struct Pages(AtomicBool);

impl ShmFile for Pages {
    fn is_attached(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[test]
fn a_removed_segment_stays_until_it_is_detached() {
    let (k, init) = boot();
    let (ns, caller) = of(&k, init);
    let pages = Arc::new(Pages(AtomicBool::new(false)));
    let make = |_| Ok(pages.clone() as Arc<dyn ShmFile>);
    let id = ns.shmget(&caller, 3, 5000, 0o600 | IPC_CREAT, make).unwrap();
    assert_eq!(ns.shm_info().pages, 2);
    assert_eq!(ns.shmget(&caller, 3, 5001, 0, make), Err(Errno::EINVAL));
    ns.shmat(&caller, id, 0, |_| {
        pages.0.store(true, Ordering::Relaxed);
        Ok(())
    })
    .unwrap();
    ns.shm_rmid(&caller, id).unwrap();
    ns.shm_sweep();
    assert_eq!(ns.shm_stat(&caller, id, false, false).unwrap().perm.mode, SHM_DEST | 0o600);
    assert_eq!(ns.shmget(&caller, 3, 1, 0, make), Err(Errno::ENOENT));
    pages.0.store(false, Ordering::Relaxed);
    ns.shm_sweep();
    assert_eq!(ns.shm_stat(&caller, id, false, false).err(), Some(Errno::EINVAL));
    assert_eq!(ns.shm_info().pages, 0);
}

#[test]
fn limits_of_segments_hold_and_forced_removal_takes_what_nobody_has() {
    let (mut k, init) = boot();
    let (ns, caller) = of(&k, init);
    let make = |_| Ok(Arc::new(Pages(AtomicBool::new(false))) as Arc<dyn ShmFile>);
    let limits = ShmLimits { shmmax: 8192, shmall: 3, shmmni: 2, rmid_forced: false };
    ns.set_shm_limits(limits).unwrap();
    assert_eq!(ns.shmget(&caller, IPC_PRIVATE, 8193, 0o600, make), Err(Errno::EINVAL));
    ns.shmget(&caller, IPC_PRIVATE, 8192, 0o600, make).unwrap();
    assert_eq!(ns.shmget(&caller, IPC_PRIVATE, 8192, 0o600, make), Err(Errno::ENOSPC));
    let child = fork(&mut k, init);
    let (_, other) = of(&k, child);
    ns.shmget(&other, IPC_PRIVATE, 1, 0o600, make).unwrap();
    assert_eq!(ns.shmget(&caller, IPC_PRIVATE, 1, 0o600, make), Err(Errno::ENOSPC));
    k.exit_group(child, 0).unwrap();
    assert_eq!(ns.shm_info().used, 2);
    ns.set_shm_limits(ShmLimits { rmid_forced: true, ..limits }).unwrap();
    assert_eq!(ns.shm_info().used, 1, "whose maker lives stays");
    assert_eq!(ns.set_shm_limits(ShmLimits { shmmni: IPCMNI + 1, ..limits }), Err(Errno::EINVAL));
}

proptest! {
    /// Tasks take and give with `SEM_UNDO`, sleep, give up and die. What nobody holds is there, nobody sleeps who could go on, and
    /// at the end all is as it was.
    #[test]
    fn nothing_is_lost_of_semaphores_that_are_undone(
        steps in proptest::collection::vec((0..6usize, 0..2u16, -3..4i16, 0..12u8), 1..120)
    ) {
        let (mut k, init) = boot();
        let id = array(&k, init, &[4, 4]);
        let mut tasks: Vec<TaskId> = (0..6).map(|_| fork(&mut k, init)).collect();
        let mut held = [[0i32; 2]; 6];
        let mut asked: [Option<Vec<Sembuf>>; 6] = Default::default();
        for (who, num, amount, what) in steps {
            let task = tasks[who];
            match what {
                0 => {
                    k.exit_group(task, 0).unwrap();
                    tasks[who] = fork(&mut k, init);
                    (held[who], asked[who]) = ([0; 2], None);
                }
                1 => {
                    if let Some(wait) = k.task_mut(task).unwrap().ipc_wait.take() {
                        prop_assert!(wait.cancel().is_none());
                        asked[who] = None;
                    }
                }
                _ if asked[who].is_none() => {
                    let amount = if amount > 0 { amount.min(held[who][usize::from(num)] as i16) } else { amount };
                    let mut sops = vec![op(num, amount, UNDO)];
                    if what > 8 {
                        sops.push(op(1 - num, -1, UNDO));
                    }
                    if semop(&mut k, task, id, &sops).unwrap() {
                        sops.iter().for_each(|sop| held[who][usize::from(sop.num)] -= i32::from(sop.op));
                    } else {
                        asked[who] = Some(sops);
                    }
                }
                _ => {}
            }
            for at in 0..6 {
                if asked[at].is_some() && woken(&mut k, tasks[at]).is_some() {
                    k.task_mut(tasks[at]).unwrap().ipc_wait = None;
                    let sops = asked[at].take().unwrap();
                    sops.iter().for_each(|sop| held[at][usize::from(sop.num)] -= i32::from(sop.op));
                }
            }
            let now = values(&k, init, id);
            for num in 0..2 {
                let sum: i32 = held.iter().map(|held| held[num]).sum();
                prop_assert_eq!(i32::from(now[num]) + sum, 4);
            }
            for sops in asked.iter().flatten() {
                let could = sops.iter().all(|sop| {
                    let val = i32::from(now[usize::from(sop.num)]);
                    if sop.op == 0 { val == 0 } else { val + i32::from(sop.op) >= 0 }
                });
                prop_assert!(!could, "{:?} sleeps at {:?}", sops, now);
            }
        }
        tasks.into_iter().for_each(|task| drop(k.exit_group(task, 0)));
        prop_assert_eq!(values(&k, init, id), [4, 4]);
    }
}
