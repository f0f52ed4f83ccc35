//! eBPF programs that decide about devices (`bpf(2)`, [`ProgType::CgroupDevice`]).
//!
//! In a hierarchy of version 2 a program attached to a group takes the place of the devices controller
//! ([`crate::cgroup::bpf`]); container engines make one of the rules of a container. [`verifier`] accepts what such programs consist
//! of, and [`Program::run`] is the interpreter (`___bpf_prog_run`).
//!
//! Differences from Linux: a program has at most some 1,990 instructions, and there is no stack, no map, no helper function and no jump backwards; one with these is refused
//! as the verifier refuses one that it cannot follow.

#[cfg(test)]
mod tests;
pub mod verifier;

use std::sync::Arc;

use crate::errno::{Errno, Result};

/// What a program is about (`enum bpf_prog_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgType {
    /// `BPF_PROG_TYPE_CGROUP_SKB`: packets. Such a program can be loaded where it looks at none, and not be attached: libraries load one
    /// to learn whether there are attachments.
    CgroupSkb,
    /// `BPF_PROG_TYPE_CGROUP_DEVICE`.
    CgroupDevice,
}

impl ProgType {
    /// By its number. `EINVAL` for those that there are not.
    pub fn new(nr: u32) -> Result<ProgType> {
        match nr {
            8 => Ok(ProgType::CgroupSkb),
            15 => Ok(ProgType::CgroupDevice),
            _ => Err(Errno::EINVAL),
        }
    }
}
/// `BPF_CGROUP_DEVICE`, the type of attachment.
pub const BPF_CGROUP_DEVICE: u32 = 6;
/// `BPF_MAXINSNS`: most instructions.
pub const BPF_MAXINSNS: usize = 4096;
/// Number of registers that a program may name (`MAX_BPF_REG`), without the frame pointer.
const REGISTERS: usize = 10;

/// `BPF_DEVCG_ACC_MKNOD`.
pub const ACC_MKNOD: u32 = 1;
/// `BPF_DEVCG_ACC_READ`.
pub const ACC_READ: u32 = 2;
/// `BPF_DEVCG_ACC_WRITE`.
pub const ACC_WRITE: u32 = 4;
/// `BPF_DEVCG_DEV_BLOCK`.
pub const DEV_BLOCK: u32 = 1;
/// `BPF_DEVCG_DEV_CHAR`.
pub const DEV_CHAR: u32 = 2;

/// `struct bpf_cgroup_dev_ctx`: what a program is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceAccess {
    /// Which access, and to which kind of device: `(ACC_* << 16) | DEV_*`.
    pub access_type: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl DeviceAccess {
    fn word(&self, offset: usize) -> u32 {
        [self.access_type, self.major, self.minor].get(offset / 4).copied().unwrap_or(0)
    }
}

/// `struct bpf_insn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Operation.
    pub code: u8,
    /// Destination register.
    pub dst: u8,
    /// Source register.
    pub src: u8,
    /// Offset of a jump or in memory.
    pub off: i16,
    /// Immediate operand.
    pub imm: i32,
}

/// Size of an instruction in memory.
pub const INSN_SIZE: usize = 8;

impl Insn {
    /// Instructions as they stand in memory.
    pub fn decode(bytes: &[u8]) -> Vec<Insn> {
        let decode = |b: &[u8; INSN_SIZE]| Insn {
            code: b[0],
            dst: b[1] & 0xf,
            src: b[1] >> 4,
            off: i16::from_ne_bytes([b[2], b[3]]),
            imm: i32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        };
        bytes.as_chunks().0.iter().map(decode).collect()
    }

    /// Class (`BPF_CLASS`).
    pub fn class(self) -> u8 {
        self.code & 7
    }
    /// Operation of an arithmetic instruction or a jump (`BPF_OP`).
    pub fn op(self) -> u8 {
        self.code & 0xf0
    }
    /// Whether the second operand is a register (`BPF_X`).
    pub fn is_x(self) -> bool {
        self.code & 8 != 0
    }
}

/// Classes and operations (`linux/bpf.h`, `linux/bpf_common.h`).
#[allow(missing_docs, reason = "the names are those of the instruction set")]
pub mod code {
    pub const LD: u8 = 0;
    pub const LDX: u8 = 1;
    pub const ALU: u8 = 4;
    pub const JMP: u8 = 5;
    pub const JMP32: u8 = 6;
    pub const ALU64: u8 = 7;
    pub const LDX_MEM_W: u8 = 0x61;
    pub const LDX_MEM_H: u8 = 0x69;
    pub const LDX_MEM_B: u8 = 0x71;
    pub const LD_IMM64: u8 = 0x18;
    pub const ADD: u8 = 0x00;
    pub const SUB: u8 = 0x10;
    pub const MUL: u8 = 0x20;
    pub const DIV: u8 = 0x30;
    pub const OR: u8 = 0x40;
    pub const AND: u8 = 0x50;
    pub const LSH: u8 = 0x60;
    pub const RSH: u8 = 0x70;
    pub const NEG: u8 = 0x80;
    pub const MOD: u8 = 0x90;
    pub const XOR: u8 = 0xa0;
    pub const MOV: u8 = 0xb0;
    pub const ARSH: u8 = 0xc0;
    pub const JA: u8 = 0x00;
    pub const JEQ: u8 = 0x10;
    pub const JGT: u8 = 0x20;
    pub const JGE: u8 = 0x30;
    pub const JSET: u8 = 0x40;
    pub const JNE: u8 = 0x50;
    pub const JSGT: u8 = 0x60;
    pub const JSGE: u8 = 0x70;
    pub const EXIT: u8 = 0x90;
    pub const JLT: u8 = 0xa0;
    pub const JLE: u8 = 0xb0;
    pub const JSLT: u8 = 0xc0;
    pub const JSLE: u8 = 0xd0;
}

/// A program that was verified: `struct bpf_prog`.
#[derive(Debug)]
pub struct Program {
    id: u32,
    kind: ProgType,
    insns: Vec<Insn>,
}

impl Program {
    /// Verifies a program. `id` is its number in the system.
    ///
    /// # Errors
    /// Those of [`verifier::check`].
    pub fn load(id: u32, kind: ProgType, insns: Vec<Insn>) -> Result<Arc<Program>> {
        verifier::check(&insns, kind)?;
        Ok(Arc::new(Program { id, kind, insns }))
    }

    /// What it is about.
    pub fn kind(&self) -> ProgType {
        self.kind
    }

    /// Number that `BPF_PROG_QUERY` shows.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it allows an access. The verifier has made sure that it ends.
    pub fn run(&self, access: &DeviceAccess) -> bool {
        self.interpret(access).unwrap_or(0) != 0
    }

    fn interpret(&self, access: &DeviceAccess) -> Option<u64> {
        let mut r = [0u64; REGISTERS];
        let mut at = 0;
        loop {
            let insn = *self.insns.get(at)?;
            let dst = usize::from(insn.dst);
            at += 1;
            match insn.class() {
                code::LDX => {
                    let offset = usize::try_from(insn.off).ok()?;
                    let word = u64::from(access.word(offset)) >> (offset % 4 * 8);
                    *r.get_mut(dst)? = match insn.code {
                        code::LDX_MEM_H => word & 0xffff,
                        code::LDX_MEM_B => word & 0xff,
                        _ => word,
                    };
                }
                code::LD => {
                    let high = self.insns.get(at)?.imm;
                    at += 1;
                    *r.get_mut(dst)? = u64::from(insn.imm as u32) | u64::from(high as u32) << 32;
                }
                code::ALU | code::ALU64 => {
                    let operand =
                        if insn.is_x() { *r.get(usize::from(insn.src))? } else { insn.imm as i64 as u64 };
                    let register = r.get_mut(dst)?;
                    *register = if insn.class() == code::ALU64 {
                        alu64(insn.op(), *register, operand)
                    } else {
                        alu32(insn.op(), *register as u32, operand as u32).into()
                    };
                }
                _ if insn.op() == code::EXIT => return Some(r[0]),
                _ => {
                    let operand =
                        if insn.is_x() { *r.get(usize::from(insn.src))? } else { insn.imm as i64 as u64 };
                    let mut value = *r.get(dst)?;
                    let mut operand = operand;
                    if insn.class() == code::JMP32 {
                        // Signed comparisons are of 32 bits, too.
                        (value, operand) = match insn.op() {
                            code::JSGT | code::JSGE | code::JSLT | code::JSLE => {
                                (value as i32 as i64 as u64, operand as i32 as i64 as u64)
                            }
                            _ => (value as u32 as u64, operand as u32 as u64),
                        };
                    }
                    if jumps(insn.op(), value, operand) {
                        at += usize::try_from(insn.off).ok()?;
                    }
                }
            }
        }
    }
}

fn alu64(op: u8, a: u64, b: u64) -> u64 {
    match op {
        code::ADD => a.wrapping_add(b),
        code::SUB => a.wrapping_sub(b),
        code::MUL => a.wrapping_mul(b),
        code::DIV => a.checked_div(b).unwrap_or(0),
        code::OR => a | b,
        code::AND => a & b,
        code::LSH => a.wrapping_shl(b as u32),
        code::RSH => a.wrapping_shr(b as u32),
        code::NEG => a.wrapping_neg(),
        code::MOD => a.checked_rem(b).unwrap_or(a),
        code::XOR => a ^ b,
        code::ARSH => (a as i64).wrapping_shr(b as u32) as u64,
        _ => b,
    }
}

fn alu32(op: u8, a: u32, b: u32) -> u32 {
    match op {
        code::DIV => a.checked_div(b).unwrap_or(0),
        code::LSH => a.wrapping_shl(b),
        code::RSH => a.wrapping_shr(b),
        code::MOD => a.checked_rem(b).unwrap_or(a),
        code::ARSH => (a as i32).wrapping_shr(b) as u32,
        _ => alu64(op, a.into(), b.into()) as u32,
    }
}

fn jumps(op: u8, a: u64, b: u64) -> bool {
    match op {
        code::JA => true,
        code::JEQ => a == b,
        code::JGT => a > b,
        code::JGE => a >= b,
        code::JSET => a & b != 0,
        code::JNE => a != b,
        code::JSGT => a as i64 > b as i64,
        code::JSGE => a as i64 >= b as i64,
        code::JLT => a < b,
        code::JLE => a <= b,
        code::JSLT => (a as i64) < b as i64,
        _ => a as i64 <= b as i64,
    }
}

/// What `struct bpf_attr` says to load, as far as it matters here.
///
/// # Errors
/// `E2BIG` for no instructions, for more than [`BPF_MAXINSNS`], and for those that did not come: a request has room for some 1,990.
pub fn decode_program(bytes: &[u8], count: u32) -> Result<Vec<Insn>> {
    if count == 0 || count as usize > BPF_MAXINSNS {
        return Err(Errno::E2BIG);
    }
    let insns = Insn::decode(bytes);
    if insns.len() == count as usize { Ok(insns) } else { Err(Errno::E2BIG) }
}
