//! The seccomp filter, compiled from [`crate::table`] to classic BPF.
//!
//! Linux runs the filter of a process on every system call (`seccomp(2)`, `Documentation/userspace-api/seccomp_filter.rst`),
//! unless it knows the answer without: when a filter is installed, `kernel/seccomp.c` emulates it for every number and, where
//! it returns "allow" having looked at nothing but number and architecture, sets a bit in a bitmap that answers from then
//! on. Existing compilers do not compare the instruction pointer and do not promise that layout; so this one is ours:
//!
//! 1. another architecture (`int 0x80`, a 32-bit code segment) kills the process;
//! 2. a binary search over the number, in which neighbours with the same treatment are one range, leads to
//! 3. a body: `return` alone for what is constant, otherwise the conditions of the row. Only bodies load arguments or the
//!    instruction pointer, so every native row stays eligible for the bitmap.
//!
//! Numbers behind the table, in its gaps and of the x32 ABI (bit 30 set, so larger than all others) return `ENOSYS`.
//!
//! The instruction pointer that the kernel reports is the address behind the `syscall` instruction.

use std::collections::HashMap;
use std::ops::Range;

use nomina_kernel::Errno;

use crate::table::{self, Case, Test, Verdict};

/// `BPF_MAXINSNS`: longer programs are refused.
const MAX_INSTRUCTIONS: usize = 4096;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

// Offsets in `struct seccomp_data`.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_IP_LOW: u32 = 8;
const OFFSET_IP_HIGH: u32 = 12;
const OFFSET_ARGS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_ABOVE: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// `struct sock_filter`: an instruction of classic BPF.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// How many instructions a jump whose condition holds skips.
    pub jt: u8,
    /// How many one skips whose condition does not hold.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());

/// What the filter has to know besides the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildOptions {
    /// Addresses of the shim's text, from which shim-only calls are native.
    pub shim_text: Range<u64>,
    /// Descriptors that belong to the shim.
    pub hidden_fds: Range<u32>,
}

impl Default for BuildOptions {
    /// What [`nomina_abi`] lays down.
    fn default() -> BuildOptions {
        BuildOptions {
            shim_text: nomina_abi::SHIM_BASE..nomina_abi::SHIM_END,
            hidden_fds: nomina_abi::HIDDEN_FD_BASE..nomina_abi::HIDDEN_FD_BASE + nomina_abi::HIDDEN_FDS,
        }
    }
}

/// Why no filter can be built.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FilterError {
    /// The high words of the first and the last address differ, or there is none.
    #[error("shim text {0:#x?} is empty or crosses a 4 GiB boundary; link it inside one")]
    ShimText(Range<u64>),
    /// There is no hidden descriptor.
    #[error("the range of hidden descriptors {0:?} is empty")]
    HiddenFds(Range<u32>),
    /// The conditions of a row need jumps of more than 255 instructions.
    #[error("the conditions of system call {0} are too long for BPF's jumps; split its lists")]
    BodyTooLong(u32),
    /// The program is longer than the kernel accepts.
    #[error("the filter has {0} instructions, the kernel accepts 4096")]
    TooLong(usize),
}

/// A compiled filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    instructions: Vec<Instruction>,
}

impl Filter {
    /// Compiles the table.
    ///
    /// # Errors
    /// [`FilterError`] when the options cannot be expressed.
    pub fn build(options: &BuildOptions) -> Result<Filter, FilterError> {
        let Range { start, end } = options.shim_text;
        if start >= end || start >> 32 != (end - 1) >> 32 {
            return Err(FilterError::ShimText(options.shim_text.clone()));
        }
        if options.hidden_fds.is_empty() {
            return Err(FilterError::HiddenFds(options.hidden_fds.clone()));
        }

        let mut ranges: Vec<(u32, Vec<Instruction>)> = Vec::new();
        for nr in 0..=table::END {
            let body = match table::row(nr) {
                Some(row) => body(options, &row.cases()).ok_or(FilterError::BodyTooLong(nr))?,
                None => vec![ret(action(Verdict::Refuse(Errno::ENOSYS)))],
            };
            if ranges.last().is_none_or(|(_, last)| *last != body) {
                ranges.push((nr, body));
            }
        }

        let mut instructions = vec![
            load(OFFSET_ARCH),
            Instruction { code: JUMP_EQUAL, jt: 1, jf: 0, k: AUDIT_ARCH_X86_64 },
            ret(libc::SECCOMP_RET_KILL_PROCESS),
            load(OFFSET_NR),
        ];
        instructions.extend(search(&ranges));
        if instructions.len() > MAX_INSTRUCTIONS {
            return Err(FilterError::TooLong(instructions.len()));
        }
        Ok(Filter { instructions })
    }

    /// The program.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The program as the C library spells it, for `struct sock_fprog`.
    pub fn as_sock_filters(&self) -> &[libc::sock_filter] {
        let Filter { instructions } = self;
        // SAFETY: both types are the C structure `sock_filter` (`repr(C)`, same fields in the same order, same size), and
        // the slice lives as long as `self`.
        unsafe { std::slice::from_raw_parts(instructions.as_ptr().cast(), instructions.len()) }
    }
}

const fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jt: 0, jf: 0, k: offset }
}

const fn ret(action: u32) -> Instruction {
    Instruction { code: RETURN, jt: 0, jf: 0, k: action }
}

/// The return value of a verdict that does not depend on the instruction pointer.
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::Native => libc::SECCOMP_RET_ALLOW,
        Verdict::Trap | Verdict::ShimOnly => libc::SECCOMP_RET_TRAP | nomina_abi::TRAP_DATA as u32,
        Verdict::Refuse(errno) => libc::SECCOMP_RET_ERRNO | errno.0 as u32,
        Verdict::Notify => libc::SECCOMP_RET_USER_NOTIF,
    }
}

/// Binary search over the number in the accumulator. Every body ends in a return, so a subtree can be skipped as a block.
fn search(ranges: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    let middle = ranges.len() / 2;
    if middle == 0 {
        return ranges[0].1.clone();
    }
    let (low, high) = (search(&ranges[..middle]), search(&ranges[middle..]));
    let pivot = ranges[middle].0;
    let mut code = match u8::try_from(low.len()) {
        Ok(skip) => vec![Instruction { code: JUMP_AT_LEAST, jt: skip, jf: 0, k: pivot }],
        // Conditional jumps reach 255 instructions, unconditional ones everything.
        Err(_) => vec![
            Instruction { code: JUMP_AT_LEAST, jt: 0, jf: 1, k: pivot },
            Instruction { code: JUMP, jt: 0, jf: 0, k: low.len() as u32 },
        ],
    };
    code.extend(low);
    code.extend(high);
    code
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Label(usize);

/// An instruction and, for jumps, where it goes when its condition holds and when it does not.
type Unresolved = (Instruction, Option<(Label, Label)>);

/// Instructions whose jumps go to labels further down.
#[derive(Default)]
struct Assembler {
    code: Vec<Unresolved>,
    places: HashMap<Label, usize>,
    labels: usize,
}

impl Assembler {
    fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels)
    }

    fn place(&mut self, label: Label) {
        self.places.insert(label, self.code.len());
    }

    fn emit(&mut self, instruction: Instruction) {
        self.code.push((instruction, None));
    }

    /// Goes on at `inside` if the call is made from the shim's text, which lies in one window of 4 GiB.
    fn in_shim_text(&mut self, text: &Range<u64>, inside: Label, outside: Label) {
        let [same_window, not_below] = [(); 2].map(|()| self.label());
        self.emit(load(OFFSET_IP_HIGH));
        self.jump(JUMP_EQUAL, (text.start >> 32) as u32, same_window, outside);
        self.place(same_window);
        self.emit(load(OFFSET_IP_LOW));
        self.jump(JUMP_AT_LEAST, text.start as u32, not_below, outside);
        self.place(not_below);
        // Above the last address rather than at least the end, whose low word may have wrapped around to 0.
        self.jump(JUMP_ABOVE, (text.end - 1) as u32, outside, inside);
    }

    fn jump(&mut self, code: u16, k: u32, yes: Label, no: Label) {
        self.code.push((Instruction { code, jt: 0, jf: 0, k }, Some((yes, no))));
    }

    /// Goes on only if the accumulator is one of `values`.
    fn one_of(&mut self, values: &[table::Named], yes: Label, no: Label) {
        let Some(((_, last), others)) = values.split_last() else {
            self.jump(JUMP, 0, no, no);
            return;
        };
        for (_, value) in others {
            let next = self.label();
            self.jump(JUMP_EQUAL, *value, yes, next);
            self.place(next);
        }
        self.jump(JUMP_EQUAL, *last, yes, no);
    }

    fn test(&mut self, options: &BuildOptions, test: Test, yes: Label, no: Label) {
        let low = |arg: usize| load(OFFSET_ARGS + 8 * arg as u32);
        let high = |arg: usize| load(OFFSET_ARGS + 8 * arg as u32 + 4);
        let Range { start, end } = options.hidden_fds;
        match test {
            Test::In(arg, values) => {
                self.emit(low(arg));
                self.one_of(values, yes, no);
            }
            Test::Masked(arg, mask, values) => {
                self.emit(low(arg));
                self.emit(Instruction { code: AND, jt: 0, jf: 0, k: mask });
                self.one_of(values, yes, no);
            }
            Test::Null(arg) => self.test(options, Test::Whole(arg, 0), yes, no),
            Test::Whole(arg, value) => {
                let next = self.label();
                self.emit(low(arg));
                self.jump(JUMP_EQUAL, value as u32, next, no);
                self.place(next);
                self.emit(high(arg));
                self.jump(JUMP_EQUAL, (value >> 32) as u32, yes, no);
            }
            Test::NotHidden(arg) => {
                let next = self.label();
                self.emit(low(arg));
                self.jump(JUMP_AT_LEAST, start, next, yes);
                self.place(next);
                self.jump(JUMP_AT_LEAST, end, yes, no);
            }
            Test::BelowHidden(arg) => {
                self.emit(low(arg));
                self.jump(JUMP_AT_LEAST, start, no, yes);
            }
            Test::AboveHidden(arg) => {
                self.emit(low(arg));
                self.jump(JUMP_AT_LEAST, end, yes, no);
            }
        }
    }

    /// Resolves the labels; `None` when a conditional jump would be too long.
    fn finish(self) -> Option<Vec<Instruction>> {
        let resolve = |(at, (instruction, targets)): (usize, &Unresolved)| {
            let Some((yes, no)) = targets else { return Some(*instruction) };
            let skip = |label: &Label| self.places[label] - at - 1;
            if instruction.code == JUMP {
                return Some(Instruction { k: skip(yes) as u32, ..*instruction });
            }
            Some(Instruction {
                jt: skip(yes).try_into().ok()?,
                jf: skip(no).try_into().ok()?,
                ..*instruction
            })
        };
        self.code.iter().enumerate().map(resolve).collect()
    }
}

/// The code of one row. It may start with anything in the accumulator and ends in a return on every path.
fn body(options: &BuildOptions, cases: &[Case]) -> Option<Vec<Instruction>> {
    let mut verdicts: Vec<(Verdict, Label)> = Vec::new();
    let mut asm = Assembler::default();
    let verdict_label = |asm: &mut Assembler, verdicts: &mut Vec<(Verdict, Label)>, verdict| {
        if let Some((_, label)) = verdicts.iter().find(|(known, _)| *known == verdict) {
            return *label;
        }
        let label = asm.label();
        verdicts.push((verdict, label));
        label
    };

    let mut decided = false;
    for case in cases {
        let then = verdict_label(&mut asm, &mut verdicts, case.then);
        let Some((last, others)) = case.when.split_last() else {
            asm.jump(JUMP, 0, then, then);
            decided = true;
            break;
        };
        let otherwise = asm.label();
        for test in others {
            let next = asm.label();
            asm.test(options, *test, next, otherwise);
            asm.place(next);
        }
        asm.test(options, *last, then, otherwise);
        asm.place(otherwise);
    }
    if !decided {
        let trap = verdict_label(&mut asm, &mut verdicts, Verdict::Trap);
        asm.jump(JUMP, 0, trap, trap);
    }

    for (verdict, label) in verdicts {
        asm.place(label);
        if verdict == Verdict::ShimOnly {
            let [allow, trap] = [(); 2].map(|()| asm.label());
            asm.in_shim_text(&options.shim_text, allow, trap);
            asm.place(allow);
            asm.emit(ret(action(Verdict::Native)));
            asm.place(trap);
        }
        asm.emit(ret(action(verdict)));
    }
    let mut code = asm.finish()?;
    // A jump to the very next instruction, which bodies without conditions start with.
    if code[0] == (Instruction { code: JUMP, jt: 0, jf: 0, k: 0 }) {
        code.remove(0);
    }
    Some(code)
}

pub mod shim_calls;

#[cfg(test)]
#[path = "bpf_tests.rs"]
mod tests;
