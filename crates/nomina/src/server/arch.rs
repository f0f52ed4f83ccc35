//! What depends on the processor.

/// `e_machine` of programs this host runs: `EM_X86_64`.
#[cfg(target_arch = "x86_64")]
pub const ELF_MACHINE: u16 = 62;

/// `machine` of `uname(2)`.
#[cfg(target_arch = "x86_64")]
pub const MACHINE: &[u8] = b"x86_64";
