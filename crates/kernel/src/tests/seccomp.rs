//! The verifier and the meaning of filters, and who has which.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{boot, fork, thread};
use crate::errno::{Errno, Result};
use crate::kernel::Kernel;
use crate::seccomp::bpf::{Data, Instruction, Program};
use crate::seccomp::*;
use crate::task::TaskId;

const fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

const LD: u16 = 0x20;
const LD_MEM: u16 = 0x60;
const ST: u16 = 0x02;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JSET: u16 = 0x45;
const RET: u16 = 0x06;
const RET_A: u16 = 0x16;

fn call(nr: u32, args: [u64; 6]) -> Data {
    Data { nr, arch: AUDIT_ARCH_X86_64, instruction_pointer: 0x1_2345_6789, args }
}

fn check(program: &[Instruction]) -> Result<Program> {
    Program::new(program)
}

/// A filter that answers `action` to call `nr` and allows all others.
fn on(nr: u32, action: u32) -> Program {
    check(&[op(LD, 0), jump(JEQ, nr, 0, 1), op(RET, action), op(RET, RET_ALLOW)]).unwrap()
}

#[test]
fn programs_that_linux_refuses_are_refused() {
    let bad: &[&[Instruction]] = &[
        &[],
        &[op(LD, 0)],
        &[op(LD, 0), op(RET, 0), op(LD, 0)],
        // Unaligned, beyond the data, and the ancillary offsets of sockets.
        &[op(LD, 2), op(RET, 0)],
        &[op(LD, 64), op(RET, 0)],
        &[op(LD, 0xffff_f000), op(RET, 0)],
        // Half words, bytes, indirect loads, MSH, MOD.
        &[op(0x28, 0), op(RET, 0)],
        &[op(0x30, 0), op(RET, 0)],
        &[op(0x40, 0), op(RET, 0)],
        &[op(0xb1, 0), op(RET, 0)],
        &[op(0x94, 3), op(RET, 0)],
        // Division by 0, shifts, scratch memory.
        &[op(0x34, 0), op(RET, 0)],
        &[op(0x64, 32), op(RET, 0)],
        &[op(0x74, 32), op(RET, 0)],
        &[op(ST, 16), op(RET, 0)],
        &[op(LD_MEM, 0), op(RET, 0)],
        // Jumps beyond the end.
        &[op(JA, 1), op(RET, 0)],
        &[op(JA, u32::MAX), op(RET, 0)],
        &[jump(JEQ, 0, 1, 0), op(RET, 0)],
        &[jump(JEQ, 0, 0, 1), op(RET, 0)],
        // Returning X does not exist.
        &[op(0x0e, 0)],
    ];
    for program in bad {
        assert_eq!(check(program).err(), Some(Errno::EINVAL), "{program:?}");
    }
    assert!(check(&vec![op(RET, 0); 4096]).is_ok());
    assert!(check(&vec![op(RET, 0); 4097]).is_err());
}

#[test]
fn scratch_memory_must_be_written_on_every_path_before_it_is_read() {
    let on_one_path = [op(LD, 0), jump(JEQ, 1, 0, 1), op(ST, 3), op(LD_MEM, 3), op(RET_A, 0)];
    assert!(check(&on_one_path).is_err());
    let on_both =
        [op(LD, 0), jump(JEQ, 1, 0, 2), op(ST, 3), op(JA, 1), op(ST, 3), op(LD_MEM, 3), op(RET_A, 0)];
    assert!(check(&on_both).is_ok());
}

#[test]
fn every_part_of_the_data_can_be_loaded() {
    let data =
        call(7, std::array::from_fn(|index| 0x1111_1111_0000_0000 * (index as u64 + 1) + index as u64));
    let load = |offset| check(&[op(LD, offset), op(RET_A, 0)]).unwrap().run(&data);
    assert_eq!([load(0), load(4), load(8), load(12)], [7, AUDIT_ARCH_X86_64, 0x2345_6789, 1]);
    for index in 0..6 {
        assert_eq!(load(16 + 8 * index), index);
        assert_eq!(load(20 + 8 * index), 0x1111_1111 * (index + 1));
    }
}

#[test]
fn arithmetic_is_that_of_32_bits() {
    let run = |code: u16, a: u32, x: u32| {
        // X by way of the accumulator.
        let program = [op(0x00, x), op(0x07, 0), op(0x00, a), op(code, 0), op(RET_A, 0)];
        check(&program).unwrap().run(&call(0, [0; 6]))
    };
    assert_eq!(run(0x0c, u32::MAX, 2), 1);
    assert_eq!(run(0x1c, 1, 2), u32::MAX);
    assert_eq!(run(0x2c, 1 << 31, 2), 0);
    assert_eq!(run(0x3c, 7, 2), 3);
    assert_eq!(run(0x3c, 7, 0), 0);
    assert_eq!(run(0x6c, 1, 33), 2);
    assert_eq!(run(0xac, 6, 3), 5);
    assert_eq!(
        check(&[op(0x80, 0), op(0x84, 0), op(RET_A, 0)]).unwrap().run(&call(0, [0; 6])),
        64u32.wrapping_neg()
    );
}

#[test]
fn the_translated_length_is_what_linux_counts() {
    let len = |program: &[Instruction]| check(program).unwrap().converted_len();
    assert_eq!(len(&[op(RET, 0)]), 5);
    assert_eq!(len(&[op(RET_A, 0)]), 4);
    let with = |jump| len(&[jump, op(RET_A, 0), op(RET_A, 0)]) - 5;
    assert_eq!(with(jump(JEQ, 1, 1, 0)), 1);
    assert_eq!(with(jump(JEQ, 1, 0, 1)), 1);
    assert_eq!(with(jump(JSET, 1, 0, 1)), 2);
    assert_eq!(with(jump(JEQ, 1, 1, 1)), 2);
    assert_eq!(with(jump(JEQ, 1 << 31, 1, 1)), 3);
}

#[test]
fn calls_that_are_always_allowed_are_known_without_arguments() {
    let program = on(42, RET_ERRNO | 1);
    assert_eq!(program.constant(42, AUDIT_ARCH_X86_64), Some(RET_ERRNO | 1));
    assert_eq!(program.constant(43, AUDIT_ARCH_X86_64), Some(RET_ALLOW));
    let looks = check(&[op(LD, 16), op(RET, RET_ALLOW)]).unwrap();
    assert_eq!(looks.constant(1, AUDIT_ARCH_X86_64), None);
}

/// Random bytes as a program: whatever is accepted ends, and what is known of it in advance is what it says.
#[test]
fn random_programs_neither_panic_nor_loop_and_agree_with_their_bitmap() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let codes = [
        0x20, 0x80, 0, 1, 0x60, 0x02, 0x04, 0x3c, 0x54, 0x64, 0x05, 0x15, 0x25, 0x35, 0x45, 0x1d, 0x06, 0x16,
        7, 0x87,
    ];
    let mut accepted = 0;
    for _ in 0..20_000 {
        let len = 1 + next() % 12;
        let mut program: Vec<Instruction> = (0..len)
            .map(|_| {
                let code = if next().is_multiple_of(16) {
                    next() as u16
                } else {
                    codes[next() as usize % codes.len()]
                };
                let k = if next().is_multiple_of(4) { next() as u32 } else { (next() % 16 * 4) as u32 };
                jump(code, k, (next() % 4) as u8, (next() % 4) as u8)
            })
            .collect();
        program.push(op(RET, RET_ALLOW));
        let Ok(program) = check(&program) else { continue };
        accepted += 1;
        for _ in 0..4 {
            let nr = (next() % 500) as u32;
            let said = program.run(&call(nr, std::array::from_fn(|_| next())));
            if let Some(known) = program.constant(nr, AUDIT_ARCH_X86_64) {
                assert_eq!(known, said, "{program:?}");
            }
        }
    }
    assert!(accepted > 500, "{accepted}");
}

fn install(kernel: &mut Kernel, task: TaskId, program: Program, flags: FilterFlags) -> Result<i32> {
    match kernel.seccomp_prepare(task, flags, program)? {
        Prepared::Unsynchronised(pid) => Ok(pid),
        Prepared::Ready(filter) => {
            kernel.seccomp_attach(task, filter, flags.contains(FilterFlags::TSYNC)).map(|()| 0)
        }
    }
}

fn says(kernel: &Kernel, task: TaskId, nr: u32) -> Judgement {
    kernel.seccomp(task).judge(&call(nr, [0; 6]))
}

#[test]
fn the_most_restrictive_answer_wins_and_of_equal_ones_the_youngest() {
    let (mut kernel, task) = boot();
    let order = [
        RET_LOG,
        RET_TRACE | 1,
        RET_USER_NOTIF,
        RET_ERRNO | 5,
        RET_ERRNO | 6,
        RET_TRAP | 7,
        RET_KILL_THREAD,
        RET_KILL_PROCESS,
    ];
    for action in order {
        install(&mut kernel, task, on(1, action), FilterFlags::empty()).unwrap();
        assert_eq!(says(&kernel, task, 1), Judgement::Filtered(action));
    }
    for action in order {
        install(&mut kernel, task, on(1, action), FilterFlags::empty()).unwrap();
        assert_eq!(says(&kernel, task, 1), Judgement::Filtered(RET_KILL_PROCESS));
    }
    assert_eq!(kernel.seccomp(task).filter_count(), 16);
    assert!(says(&kernel, task, 2).passes());
}

#[test]
fn children_inherit_filters_and_parents_do_not() {
    let (mut kernel, task) = boot();
    install(&mut kernel, task, on(1, RET_ERRNO), FilterFlags::empty()).unwrap();
    let child = fork(&mut kernel, task);
    install(&mut kernel, child, on(2, RET_ERRNO), FilterFlags::empty()).unwrap();
    assert!(!says(&kernel, child, 1).passes() && !says(&kernel, child, 2).passes());
    assert!(says(&kernel, task, 2).passes());
}

#[test]
fn filters_need_no_new_privs_or_the_capability() {
    let (mut kernel, task) = boot();
    let may = |kernel: &Kernel| kernel.seccomp_may_load(task, 0, Some(1)).err();
    assert_eq!(may(&kernel), None);
    let mut cred = (*kernel.task(task).unwrap().cred).clone();
    cred.cap_effective = Default::default();
    kernel.commit_creds(task, cred);
    assert_eq!(may(&kernel), Some(Errno::EACCES));
    kernel.set_no_new_privs(task, [1, 0, 0, 0]).unwrap();
    assert_eq!(may(&kernel), None);
    assert_eq!(kernel.seccomp_may_load(task, 1 << 20, Some(1)).err(), Some(Errno::EINVAL));
    assert_eq!(kernel.seccomp_may_load(task, 0, Some(0)).err(), Some(Errno::EINVAL));
    assert_eq!(kernel.seccomp_may_load(task, 0, None).err(), Some(Errno::EFAULT));
}

#[test]
fn strict_mode_and_filters_exclude_each_other() {
    let (mut kernel, task) = boot();
    let other = fork(&mut kernel, task);
    kernel.seccomp_set_mode_strict(task).unwrap();
    kernel.seccomp_set_mode_strict(task).unwrap();
    assert_eq!(install(&mut kernel, task, on(1, 0), FilterFlags::empty()), Err(Errno::EINVAL));
    assert!(says(&kernel, task, 0).passes());
    assert_eq!(says(&kernel, task, 39), Judgement::StrictKill);
    install(&mut kernel, other, on(1, 0), FilterFlags::empty()).unwrap();
    assert_eq!(kernel.seccomp_set_mode_strict(other), Err(Errno::EINVAL));
}

#[test]
fn threads_are_synchronised_unless_one_has_filters_of_its_own() {
    let (mut kernel, task) = boot();
    let (second, third) = (thread(&mut kernel, task), thread(&mut kernel, task));
    install(&mut kernel, task, on(1, RET_ERRNO), FilterFlags::empty()).unwrap();
    assert!(says(&kernel, second, 1).passes());
    assert_eq!(install(&mut kernel, task, on(2, RET_ERRNO), FilterFlags::TSYNC), Ok(0));
    assert!(!says(&kernel, second, 1).passes() && !says(&kernel, third, 2).passes());
    install(&mut kernel, second, on(3, RET_ERRNO), FilterFlags::empty()).unwrap();
    let number = kernel.task_pid_vnr(second, task);
    assert_eq!(install(&mut kernel, task, on(4, RET_ERRNO), FilterFlags::TSYNC), Ok(number));
    let quiet = FilterFlags::TSYNC | FilterFlags::TSYNC_ESRCH;
    assert_eq!(install(&mut kernel, task, on(4, RET_ERRNO), quiet), Err(Errno::ESRCH));
    // The other way the caller has all that the others have.
    assert_eq!(install(&mut kernel, second, on(4, RET_ERRNO), FilterFlags::TSYNC), Ok(0));
    assert!(!says(&kernel, third, 3).passes());
}

#[test]
fn a_filter_made_for_other_filters_is_not_attached() {
    let (mut kernel, task) = boot();
    let Ok(Prepared::Ready(late)) = kernel.seccomp_prepare(task, FilterFlags::empty(), on(1, 0)) else {
        panic!()
    };
    install(&mut kernel, task, on(2, 0), FilterFlags::empty()).unwrap();
    assert_eq!(kernel.seccomp_attach(task, late, false), Err(Errno::EAGAIN));
}

#[test]
fn filters_are_limited_for_a_task_and_for_all_and_are_freed() {
    let (mut kernel, task) = boot();
    let deep = fork(&mut kernel, task);
    let long = || check(&vec![op(RET, RET_ALLOW); 4096]).unwrap();
    let mut count = 0;
    while install(&mut kernel, task, long(), FilterFlags::empty()).is_ok() {
        count += 1;
    }
    assert_eq!(count, 32768 / (8195 + 4));
    // Many short ones: neither running nor freeing them takes a stack for each.
    let short = || check(&[op(RET, RET_ALLOW)]).unwrap();
    while install(&mut kernel, deep, short(), FilterFlags::empty()).is_ok() {}
    assert_eq!(kernel.seccomp(deep).filter_count(), (32768 - 5) / 9 + 1);
    let used = kernel.seccomp_in_all.clone();
    assert_eq!(used.load(Ordering::Relaxed), count * 4096 + kernel.seccomp(deep).filter_count() as usize);
    drop(kernel);
    assert_eq!(used.load(Ordering::Relaxed), 0);

    let all = Arc::new(AtomicUsize::new(MAX_INSTRUCTIONS_IN_ALL - 4000));
    assert_eq!(Filter::new(long(), None, all.clone()).err(), Some(Errno::ENOMEM));
    assert!(Filter::new(short(), None, all).is_ok());
}

#[test]
fn known_actions_are_available_and_others_are_not() {
    assert_eq!(get_action_avail(RET_ERRNO), Ok(()));
    assert_eq!(get_action_avail(RET_ERRNO | 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(get_action_avail(RET_USER_NOTIF), Err(Errno::EOPNOTSUPP));
}
