//! Classic BPF as seccomp uses it: what `bpf_check_classic` and `seccomp_check_filter` accept, and its meaning.
//!
//! Linux translates a filter to eBPF and compiles that. Here it is interpreted, because it only decides calls that the supervisor
//! serves; for those that stay native the host kernel compiles it. What of the translation shows, its length ([`Program::converted_len`]),
//! is computed.

use super::{AUDIT_ARCH_X86_64, BITMAP_BITS, Bitmap, RET_ALLOW};
use crate::errno::{Errno, Result};

/// `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// `BPF_MEMWORDS`: words of scratch memory.
const MEMORY_WORDS: usize = 16;
/// `sizeof(struct seccomp_data)`.
const DATA_SIZE: u32 = 64;

const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// `struct sock_filter`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when the condition of a jump holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

impl Instruction {
    /// Size in memory.
    pub const SIZE: usize = 8;

    /// Reads one as it stands in memory.
    pub fn from_bytes(bytes: [u8; Instruction::SIZE]) -> Instruction {
        let [c0, c1, jt, jf, k @ ..] = bytes;
        Instruction { code: u16::from_ne_bytes([c0, c1]), jt, jf, k: u32::from_ne_bytes(k) }
    }
}

/// `struct seccomp_data`: what a filter sees of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Data {
    /// System call number.
    pub nr: u32,
    /// `AUDIT_ARCH_*` of the convention by which it was made.
    pub arch: u32,
    /// Address behind the instruction that made it.
    pub instruction_pointer: u64,
    /// Arguments.
    pub args: [u64; 6],
}

impl Data {
    /// The word at an offset that the verifier has accepted.
    fn word(&self, offset: u32) -> u32 {
        let (at, high) = (offset / 8, offset & 4 != 0);
        let long = match at {
            0 => u64::from(self.nr) | u64::from(self.arch) << 32,
            1 => self.instruction_pointer,
            _ => self.args.get(at as usize - 2).copied().unwrap_or(0),
        };
        if high { (long >> 32) as u32 } else { long as u32 }
    }
}

/// Operands of operations that have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    K,
    X,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    Lsh,
    Rsh,
    Xor,
    Neg,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Condition {
    Equal,
    Greater,
    AtLeast,
    Set,
}

/// The instructions that `seccomp_check_filter` lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    /// `LD W ABS`.
    LoadData,
    /// `LD W LEN`, `LDX W LEN`: the size of the data.
    LoadLen(Register),
    LoadImmediate(Register),
    LoadMemory(Register),
    Store(Register),
    Alu(Alu, Source),
    Jump,
    JumpIf(Condition, Source),
    ReturnK,
    ReturnA,
    /// `TAX`.
    ToX,
    /// `TXA`.
    ToA,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    A,
    X,
}

impl Op {
    fn of(code: u16) -> Option<Op> {
        use Register::{A, X};
        let source = if code & 0x08 == 0 { Source::K } else { Source::X };
        Some(match code {
            0x20 => Op::LoadData,
            0x80 => Op::LoadLen(A),
            0x81 => Op::LoadLen(X),
            0x00 => Op::LoadImmediate(A),
            0x01 => Op::LoadImmediate(X),
            0x60 => Op::LoadMemory(A),
            0x61 => Op::LoadMemory(X),
            0x02 => Op::Store(A),
            0x03 => Op::Store(X),
            0x04 | 0x0c => Op::Alu(Alu::Add, source),
            0x14 | 0x1c => Op::Alu(Alu::Sub, source),
            0x24 | 0x2c => Op::Alu(Alu::Mul, source),
            0x34 | 0x3c => Op::Alu(Alu::Div, source),
            0x44 | 0x4c => Op::Alu(Alu::Or, source),
            0x54 | 0x5c => Op::Alu(Alu::And, source),
            0x64 | 0x6c => Op::Alu(Alu::Lsh, source),
            0x74 | 0x7c => Op::Alu(Alu::Rsh, source),
            0x84 => Op::Alu(Alu::Neg, Source::K),
            0xa4 | 0xac => Op::Alu(Alu::Xor, source),
            0x05 => Op::Jump,
            0x15 | 0x1d => Op::JumpIf(Condition::Equal, source),
            0x25 | 0x2d => Op::JumpIf(Condition::Greater, source),
            0x35 | 0x3d => Op::JumpIf(Condition::AtLeast, source),
            0x45 | 0x4d => Op::JumpIf(Condition::Set, source),
            0x06 => Op::ReturnK,
            0x16 => Op::ReturnA,
            0x07 => Op::ToX,
            0x87 => Op::ToA,
            _ => return None,
        })
    }
}

/// A filter program that has been checked.
#[derive(PartialEq, Eq, Debug)]
pub struct Program {
    code: Box<[(Op, Instruction)]>,
    always: Bitmap,
}

impl Program {
    /// Checks a program.
    ///
    /// # Errors
    /// `EINVAL` if it is empty or too long, has an instruction that seccomp does not know, a jump beyond its end, a shift by
    /// 32 or more, a division by 0, an unaligned load or one beyond the data, scratch memory that does not exist or is read
    /// before it is written, or does not end with a return.
    pub fn new(instructions: &[Instruction]) -> Result<Program> {
        if instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS {
            return Err(Errno::EINVAL);
        }
        let mut code = Vec::with_capacity(instructions.len());
        for (at, instruction) in instructions.iter().enumerate() {
            let op = Op::of(instruction.code).ok_or(Errno::EINVAL)?;
            if !is_valid(op, *instruction, instructions.len() - at - 1) {
                return Err(Errno::EINVAL);
            }
            code.push((op, *instruction));
        }
        let ends = matches!(code.last(), Some((Op::ReturnK | Op::ReturnA, _)));
        if !ends || !writes_before_it_reads(&code) {
            return Err(Errno::EINVAL);
        }
        let mut program = Program { code: code.into(), always: [0; 8] };
        for nr in 0..BITMAP_BITS {
            if program.constant(nr, AUDIT_ARCH_X86_64) == Some(RET_ALLOW) {
                program.always[nr as usize / 64] |= 1 << (nr % 64);
            }
        }
        Ok(program)
    }

    /// The calls that it allows whatever their arguments.
    pub fn always(&self) -> &Bitmap {
        &self.always
    }

    /// Number of instructions.
    pub fn len(&self) -> usize {
        self.code.len()
    }

    /// Never: an empty program is refused.
    pub fn is_empty(&self) -> bool {
        self.code.is_empty()
    }

    /// How many instructions Linux has after its translation (`bpf_convert_filter`): by these it limits filters.
    pub fn converted_len(&self) -> usize {
        const PROLOGUE: usize = 3;
        let of = |&(op, Instruction { jt, jf, k, .. }): &(Op, Instruction)| match op {
            Op::Alu(Alu::Div, Source::X) => 5,
            Op::ReturnK => 2,
            Op::JumpIf(condition, source) => {
                let extended = source == Source::K && (k as i32) < 0;
                let single = jf == 0 || (jt == 0 && condition != Condition::Set);
                usize::from(extended) + if single { 1 } else { 2 }
            }
            _ => 1,
        };
        PROLOGUE + self.code.iter().map(of).sum::<usize>()
    }

    /// What the program returns for a call.
    pub fn run(&self, data: &Data) -> u32 {
        const A: usize = Register::A as usize;
        const X: usize = Register::X as usize;
        let (mut registers, mut memory) = ([0u32; 2], [0u32; MEMORY_WORDS]);
        let mut at = 0;
        // The verifier saw to it that jumps go forward and stay inside and that the last instruction returns.
        while let Some(&(op, Instruction { jt, jf, k, .. })) = self.code.get(at) {
            at += 1;
            let operand = |source, x| if source == Source::K { k } else { x };
            match op {
                Op::LoadData => registers[A] = data.word(k),
                Op::LoadLen(register) => registers[register as usize] = DATA_SIZE,
                Op::LoadImmediate(register) => registers[register as usize] = k,
                Op::LoadMemory(register) => registers[register as usize] = memory[k as usize % MEMORY_WORDS],
                Op::Store(register) => memory[k as usize % MEMORY_WORDS] = registers[register as usize],
                Op::ToX => registers[X] = registers[A],
                Op::ToA => registers[A] = registers[X],
                Op::Alu(alu, source) => match alu.apply(registers[A], operand(source, registers[X])) {
                    Some(result) => registers[A] = result,
                    // A division by 0 ends the program with 0.
                    None => return 0,
                },
                Op::Jump => at += k as usize,
                Op::JumpIf(condition, source) => {
                    let holds = condition.holds(registers[A], operand(source, registers[X]));
                    at += usize::from(if holds { jt } else { jf });
                }
                Op::ReturnK => return k,
                Op::ReturnA => return registers[A],
            }
        }
        0
    }

    /// What the program returns for a call of which only number and architecture are known; `None` if it looks at anything else
    /// (`seccomp_is_const_allow`, whose answers the kernel keeps as a bitmap).
    pub fn constant(&self, nr: u32, arch: u32) -> Option<u32> {
        let (mut a, mut at) = (0u32, 0);
        loop {
            let &(op, Instruction { jt, jf, k, .. }) = self.code.get(at)?;
            at += 1;
            match op {
                Op::LoadData if k == OFFSET_NR => a = nr,
                Op::LoadData if k == OFFSET_ARCH => a = arch,
                Op::Alu(Alu::And, Source::K) => a &= k,
                Op::Jump => at += k as usize,
                Op::JumpIf(condition, Source::K) => {
                    at += usize::from(if condition.holds(a, k) { jt } else { jf });
                }
                Op::ReturnK => return Some(k),
                _ => return None,
            }
        }
    }
}

impl Alu {
    fn apply(self, a: u32, operand: u32) -> Option<u32> {
        Some(match self {
            Alu::Add => a.wrapping_add(operand),
            Alu::Sub => a.wrapping_sub(operand),
            Alu::Mul => a.wrapping_mul(operand),
            Alu::Div => a.checked_div(operand)?,
            Alu::Or => a | operand,
            Alu::And => a & operand,
            Alu::Xor => a ^ operand,
            // As eBPF's 32-bit shifts.
            Alu::Lsh => a << (operand & 31),
            Alu::Rsh => a >> (operand & 31),
            Alu::Neg => a.wrapping_neg(),
        })
    }
}

impl Condition {
    fn holds(self, a: u32, operand: u32) -> bool {
        match self {
            Condition::Equal => a == operand,
            Condition::Greater => a > operand,
            Condition::AtLeast => a >= operand,
            Condition::Set => a & operand != 0,
        }
    }
}

/// The checks of one instruction with `rest` others behind it.
fn is_valid(op: Op, Instruction { jt, jf, k, .. }: Instruction, rest: usize) -> bool {
    match op {
        Op::LoadData => k < DATA_SIZE && k.is_multiple_of(4),
        Op::LoadMemory(_) | Op::Store(_) => (k as usize) < MEMORY_WORDS,
        Op::Alu(Alu::Div, Source::K) => k != 0,
        Op::Alu(Alu::Lsh | Alu::Rsh, Source::K) => k < 32,
        Op::Jump => (k as usize) < rest,
        Op::JumpIf(..) => usize::from(jt) < rest && usize::from(jf) < rest,
        _ => true,
    }
}

/// `check_load_and_stores`: no path reads a word of scratch memory that it has not written.
fn writes_before_it_reads(code: &[(Op, Instruction)]) -> bool {
    // Per instruction: the words that every jump to it has written.
    let mut known = vec![u16::MAX; code.len()];
    let mut written = 0u16;
    for (at, &(op, Instruction { jt, jf, k, .. })) in code.iter().enumerate() {
        written &= known[at];
        match op {
            Op::Store(_) => written |= 1 << k,
            Op::LoadMemory(_) if written & 1 << k == 0 => return false,
            Op::Jump => {
                known[at + 1 + k as usize] &= written;
                written = u16::MAX;
            }
            Op::JumpIf(..) => {
                known[at + 1 + usize::from(jt)] &= written;
                known[at + 1 + usize::from(jf)] &= written;
                written = u16::MAX;
            }
            _ => {}
        }
    }
    true
}
