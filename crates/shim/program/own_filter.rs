//! Seccomp filters that a process gets from its shim, so that calls on a descriptor trap that are native otherwise.
//!
//! They take nothing from the guest that it could not give itself back: who jumps around them gets what the host answers.

use nomina_abi::TRAP_DATA;

use crate::sys::{nr, sys};

const SECCOMP_SET_MODE_FILTER: u64 = 1;
const FILTER_FLAG_TSYNC: u64 = 1;
const RET_TRAP: u32 = 0x0003_0000;
/// What filters return: the call goes on.
pub const RET_ALLOW: u32 = 0x7fff_0000;
/// It fails with the errno that is added.
pub const RET_ERRNO: u32 = 0x0005_0000;
/// It comes to the shim.
pub const TRAP: u32 = RET_TRAP | TRAP_DATA as u32;

/// Offset in `struct seccomp_data`: number of the call.
pub const NR: u32 = 0;
/// Instruction pointer.
pub const IP: u32 = 8;
/// First argument.
pub const ARGS: u32 = 16;

/// `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Instruction {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

/// Loads a word of `struct seccomp_data`.
pub const fn load(offset: u32) -> Instruction {
    Instruction { code: 0x20, jt: 0, jf: 0, k: offset }
}

pub const fn equal(k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: 0x15, jt, jf, k }
}

pub const fn at_least(k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: 0x35, jt, jf, k }
}

pub const fn ret(k: u32) -> Instruction {
    Instruction { code: 0x06, jt: 0, jf: 0, k }
}

/// Puts a filter in force, in all threads if they have the same filters.
pub fn install(instructions: &[Instruction]) {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const Instruction,
    }
    let program = Program { len: instructions.len() as u16, filter: instructions.as_ptr() };
    for flags in [FILTER_FLAG_TSYNC, 0] {
        // SAFETY: the kernel reads the program.
        if unsafe { sys!(nr::SECCOMP, SECCOMP_SET_MODE_FILTER, flags, &raw const program) } == 0 {
            return;
        }
    }
}
