//! What a program may do (`kernel/bpf/verifier.c`, `check_cfg` and `do_check`).
//!
//! Control flow only goes forward, so one pass in the order of the instructions sees each after all that lead to it. A register
//! is unset, a number up to a bound, or the context; where two ways meet with different kinds it counts as unset.
//!
//! Difference from Linux: bounds are those that `mov`, `and`, `rsh` and loads by constants give, and nothing can be done with the
//! context's address but copying it and loading from it.

use super::{Insn, ProgType, REGISTERS, code};
use crate::errno::{Errno, Result};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Unset,
    /// At most this (`umax_value`).
    Number(u64),
    /// `PTR_TO_CTX`
    Context,
}

type Registers = [Kind; REGISTERS];

/// Size of what a program may look at, of devices a `struct bpf_cgroup_dev_ctx`, and the highest result.
fn bounds(kind: ProgType) -> (i16, u64) {
    match kind {
        ProgType::CgroupDevice => (12, 1),
        ProgType::CgroupSkb => (0, 3),
    }
}

/// Checks a program.
///
/// # Errors
/// `EINVAL` for what is no instruction, is never reached, jumps backwards or leaves the program. `EACCES` for the use of a register
/// that was not set, memory beside the context, arithmetic with pointers, and a program that gives no number; one that may give another than
/// 0 or 1 is `EINVAL`.
pub fn check(insns: &[Insn], kind: ProgType) -> Result<()> {
    let (context_size, highest) = bounds(kind);
    let mut before: Vec<Option<Registers>> = vec![None; insns.len()];
    let mut start = [Kind::Unset; REGISTERS];
    start[1] = Kind::Context;
    *before.first_mut().ok_or(Errno::EINVAL)? = Some(start);
    let mut at = 0;
    while let Some(&insn) = insns.get(at) {
        // "unreachable insn"
        let mut r = before[at].ok_or(Errno::EINVAL)?;
        let next = at + 1;
        match insn.class() {
            code::LDX => {
                let size = check_load(insn, &r, context_size)?;
                *set(&mut r, insn.dst)? = Kind::Number((1 << (8 * size)) - 1);
            }
            code::LD => {
                // The upper half stands in a second instruction.
                let high = insns.get(next).ok_or(Errno::EINVAL)?;
                let plain = (high.code, high.dst, high.src, high.off) == (0, 0, 0, 0) && insn.off == 0;
                if insn.code != code::LD_IMM64 || insn.src != 0 || !plain {
                    return Err(Errno::EINVAL);
                }
                *set(&mut r, insn.dst)? =
                    Kind::Number(u64::from(insn.imm as u32) | u64::from(high.imm as u32) << 32);
                flow(&mut before, next + 1, &r)?;
                at = next + 1;
                continue;
            }
            code::ALU | code::ALU64 => check_alu(insn, &mut r)?,
            code::JMP | code::JMP32 => {
                if check_jump(insn, &r, highest)? {
                    at = next;
                    continue;
                }
                let target = next + usize::try_from(insn.off).map_err(|_| Errno::EINVAL)?;
                flow(&mut before, target, &r)?;
                if insn.op() == code::JA {
                    at = next;
                    continue;
                }
            }
            // Stores, and the stack that they would be to.
            _ => return Err(Errno::EACCES),
        }
        flow(&mut before, next, &r)?;
        at = next;
    }
    Ok(())
}

/// Control comes to `to` with these registers. "jump out of range"
fn flow(before: &mut [Option<Registers>], to: usize, r: &Registers) -> Result<()> {
    let there = before.get_mut(to).ok_or(Errno::EINVAL)?;
    match there {
        None => *there = Some(*r),
        Some(known) => {
            for (known, kind) in known.iter_mut().zip(r) {
                *known = match (*known, *kind) {
                    (Kind::Number(one), Kind::Number(other)) => Kind::Number(one.max(other)),
                    (one, other) if one == other => one,
                    _ => Kind::Unset,
                };
            }
        }
    }
    Ok(())
}

fn set(r: &mut Registers, number: u8) -> Result<&mut Kind> {
    // The frame pointer is read-only.
    r.get_mut(usize::from(number)).ok_or(if number == 10 { Errno::EACCES } else { Errno::EINVAL })
}

/// The bound of a register that is a number.
fn number(r: &Registers, register: u8) -> Result<u64> {
    match r.get(usize::from(register)) {
        Some(Kind::Number(most)) => Ok(*most),
        Some(_) => Err(Errno::EACCES),
        None => Err(if register == 10 { Errno::EACCES } else { Errno::EINVAL }),
    }
}

/// `cgroup_dev_is_valid_access`: words; of the access type smaller pieces as well. Gives the size.
fn check_load(insn: Insn, r: &Registers, context_size: i16) -> Result<i16> {
    let size = match insn.code {
        code::LDX_MEM_W => 4,
        code::LDX_MEM_H => 2,
        code::LDX_MEM_B => 1,
        _ => return Err(Errno::EINVAL),
    };
    if insn.imm != 0 {
        return Err(Errno::EINVAL);
    }
    let from =
        r.get(usize::from(insn.src)).ok_or(if insn.src == 10 { Errno::EACCES } else { Errno::EINVAL })?;
    let inside = (0..context_size).contains(&insn.off) && insn.off % size == 0;
    if *from != Kind::Context || !inside || (size != 4 && insn.off >= 4) {
        return Err(Errno::EACCES);
    }
    Ok(size)
}

fn check_alu(insn: Insn, r: &mut Registers) -> Result<()> {
    let is_64 = insn.class() == code::ALU64;
    let widest = if is_64 { u64::MAX } else { u32::MAX.into() };
    let constant = if is_64 { insn.imm as i64 as u64 } else { u64::from(insn.imm as u32) };
    let known = matches!(
        insn.op(),
        code::ADD
            | code::SUB
            | code::MUL
            | code::DIV
            | code::OR
            | code::AND
            | code::LSH
            | code::RSH
            | code::MOD
            | code::XOR
            | code::MOV
            | code::ARSH
            | code::NEG
    );
    let unused = if insn.is_x() { insn.imm != 0 } else { insn.src != 0 };
    if !known || unused || insn.off != 0 {
        return Err(Errno::EINVAL);
    }
    if insn.op() == code::NEG {
        if insn.is_x() || insn.imm != 0 {
            return Err(Errno::EINVAL);
        }
        number(r, insn.dst)?;
        *set(r, insn.dst)? = Kind::Number(widest);
        return Ok(());
    }
    if insn.op() == code::MOV {
        let kind = match insn.is_x() {
            true => *r.get(usize::from(insn.src)).ok_or(if insn.src == 10 {
                Errno::EACCES
            } else {
                Errno::EINVAL
            })?,
            false => Kind::Number(constant),
        };
        // Of a pointer only all of it can be had.
        if kind == Kind::Unset || (kind == Kind::Context && !is_64) {
            return Err(Errno::EACCES);
        }
        *set(r, insn.dst)? = match kind {
            // The upper half is cut off.
            Kind::Number(most) if most > widest => Kind::Number(widest),
            kind => kind,
        };
        return Ok(());
    }
    let bits = if is_64 { 64 } else { 32 };
    let shifts = matches!(insn.op(), code::LSH | code::RSH | code::ARSH);
    let divides = matches!(insn.op(), code::DIV | code::MOD);
    if !insn.is_x() && (shifts && !(0..bits).contains(&insn.imm) || divides && insn.imm == 0) {
        return Err(Errno::EINVAL);
    }
    if insn.is_x() {
        number(r, insn.src)?;
    }
    let most = number(r, insn.dst)?;
    // Of 32 bits only the lower half takes part.
    let most = if most > widest { widest } else { most };
    *set(r, insn.dst)? = Kind::Number(match insn.op() {
        code::AND if !insn.is_x() => most.min(constant),
        code::RSH if !insn.is_x() => most >> constant,
        _ => widest,
    });
    Ok(())
}

/// Whether the program ends here; otherwise it may jump.
fn check_jump(insn: Insn, r: &Registers, highest: u64) -> Result<bool> {
    match (insn.class(), insn.op()) {
        (code::JMP, code::EXIT) => {
            if insn.is_x() || insn.imm != 0 || insn.src != 0 || insn.dst != 0 || insn.off != 0 {
                return Err(Errno::EINVAL);
            }
            // `check_return_code`
            return if number(r, 0)? <= highest { Ok(true) } else { Err(Errno::EINVAL) };
        }
        (code::JMP, code::JA) => {
            if insn.is_x() || insn.imm != 0 || insn.src != 0 || insn.dst != 0 {
                return Err(Errno::EINVAL);
            }
        }
        // Helper functions.
        (code::JMP, 0x80) => return Err(Errno::EINVAL),
        (
            _,
            code::JEQ
            | code::JGT
            | code::JGE
            | code::JSET
            | code::JNE
            | code::JSGT
            | code::JSGE
            | code::JLT
            | code::JLE
            | code::JSLT
            | code::JSLE,
        ) => {
            if insn.is_x() {
                if insn.imm != 0 {
                    return Err(Errno::EINVAL);
                }
                number(r, insn.src)?;
            } else if insn.src != 0 {
                return Err(Errno::EINVAL);
            }
            number(r, insn.dst)?;
        }
        _ => return Err(Errno::EINVAL),
    }
    // "back-edge"
    if insn.off < 0 { Err(Errno::EINVAL) } else { Ok(false) }
}
