//! The small program in every guest address space, built as an embedded ELF image.
//!
//! The image is compiled by `build.rs` from `program/`. The supervisor puts it into a sealed memfd; every `exec` of a guest
//! executes it, and it loads the program that the guest named.

use std::ops::Range;

/// The image: a static ELF executable linked at `nomina_abi::SHIM_BASE`.
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim"));

/// Address of a NUL byte in the image that is always there: the only path that the host kernel may be asked to execute.
pub const EMPTY_PATH: u64 = nomina_abi::SHIM_BASE + 9;

const PT_LOAD: u32 = 1;
const PF_X: u32 = 1;

struct ProgramHeader {
    kind: u32,
    flags: u32,
    vaddr: u64,
    memsz: u64,
}

fn word(at: usize) -> u64 {
    u64::from_le_bytes(IMAGE[at..at + 8].try_into().expect("eight bytes"))
}

fn program_headers() -> impl Iterator<Item = ProgramHeader> {
    let table = word(32) as usize;
    let count = word(56) as u16 as usize;
    (0..count).map(move |index| {
        let at = table + index * 56;
        ProgramHeader {
            kind: word(at) as u32,
            flags: (word(at) >> 32) as u32,
            vaddr: word(at + 16),
            memsz: word(at + 40),
        }
    })
}

/// Addresses from which the shim's own system calls are made: its executable segment.
pub fn text() -> Range<u64> {
    let text = program_headers().find(|header| header.kind == PT_LOAD && header.flags & PF_X != 0);
    text.map_or(0..0, |header| header.vaddr..header.vaddr + header.memsz)
}

// The parts of the program that compute without touching a guest are tested on the host.
#[cfg(test)]
#[allow(dead_code, unused_imports, unused_macros, reason = "the program uses all of it")]
#[path = "../program/elf.rs"]
mod elf;
#[cfg(test)]
#[allow(dead_code, unused_imports, unused_macros, reason = "the program uses all of it")]
#[path = "../program/frame.rs"]
mod frame;
#[cfg(test)]
#[allow(dead_code, unused_imports, unused_macros, reason = "the program uses all of it")]
#[path = "../program/sys.rs"]
mod sys;
#[cfg(test)]
mod tests;
