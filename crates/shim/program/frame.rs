//! Signal frames: the layout the x86-64 kernel pushes and `rt_sigreturn(2)` reads.
//!
//! Guests unwind through these frames, change registers in them and copy them, so what the shim builds on a guest's stack is
//! what the kernel would have built.

/// Most bytes of a siginfo.
pub const SIGINFO_SIZE: usize = 128;
/// Bit of SIGSYS in a mask.
pub const SIGSYS_BIT: u64 = 1 << (31 - 1);
/// Bit of the signal by which a thread is called.
pub const CALL_BIT: u64 = 1 << (nomina_abi::SIG_CALL - 1);
/// Bits of the signals that are never blocked natively: how system calls arrive, and how a thread is called. What the guest
/// believes of them is [`Area::blocks`](crate::area::Area::blocks).
pub const ALWAYS_OPEN: u64 = SIGSYS_BIT | CALL_BIT;
/// Bits of the signals that no mask can block.
pub const UNBLOCKABLE: u64 = 1 << (9 - 1) | 1 << (19 - 1);
/// Bits of the faults that access to guest memory may meet.
pub const FAULT_BITS: u64 = 1 << (11 - 1) | 1 << (7 - 1);
/// The mask under which the shim runs.
pub const BLOCK_ALL: u64 = !(ALWAYS_OPEN | FAULT_BITS);

/// `SS_ONSTACK`.
pub const SS_ONSTACK: u32 = 1;
/// `SS_DISABLE`.
pub const SS_DISABLE: u32 = 2;
/// `SS_AUTODISARM`.
pub const SS_AUTODISARM: u32 = 1 << 31;

/// Offset of `sw_reserved` in the legacy area of an extended state: what software says about it.
const SW_RESERVED: u64 = 464;
/// Where the XSAVE header stands.
const XSAVE_HEADER: u64 = 512;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const MXCSR_OFFSET: u64 = 24;
const MXCSR_DEFAULT: u32 = 0x1f80;
/// The feature whose state a handler inherits: protection keys.
const XFEATURE_PKRU: u64 = 1 << 9;

/// `stack_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StackT {
    /// Lowest address.
    pub sp: u64,
    /// `SS_*`.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
    /// Size.
    pub size: u64,
}

impl StackT {
    /// No alternate stack.
    pub const DISABLED: StackT = StackT { sp: 0, flags: SS_DISABLE, pad: 0, size: 0 };

    /// Whether a stack pointer is on this stack, as `on_sig_stack` of the kernel decides.
    pub fn contains(&self, sp: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && sp > self.sp && sp - self.sp <= self.size
    }
}

/// `struct sigcontext`.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    pub fpstate: u64,
    pub reserved: [u64; 8],
}

/// `struct ucontext` as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UContext {
    /// `UC_*` flags.
    pub flags: u64,
    /// Unused by the kernel.
    pub link: u64,
    /// The alternate stack to restore.
    pub stack: StackT,
    /// Registers.
    pub mcontext: SigContext,
    /// The mask to restore.
    pub sigmask: u64,
}

/// `siginfo_t`; the fields differ by signal, so they are read by offset.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct SigInfo(pub [u8; SIGINFO_SIZE]);

#[allow(missing_docs)]
impl SigInfo {
    /// All zero.
    pub const ZERO: SigInfo = SigInfo([0; SIGINFO_SIZE]);

    fn word(&self, at: usize) -> i32 {
        i32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn set_word(&mut self, at: usize, value: i32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    /// The fields of a child's signal: signo, errno, code, padding, pid, uid, status.
    pub fn words(&self) -> [u32; 7] {
        core::array::from_fn(|index| self.word(index * 4) as u32)
    }

    pub fn signo(&self) -> i32 {
        self.word(0)
    }

    pub fn set_signo(&mut self, signal: i32) {
        self.set_word(0, signal);
    }

    pub fn code(&self) -> i32 {
        self.word(8)
    }

    pub fn set_code(&mut self, code: i32) {
        self.set_word(8, code);
    }

    pub fn pid(&self) -> i32 {
        self.word(16)
    }

    pub fn set_pid(&mut self, pid: i32) {
        self.set_word(16, pid);
    }

    pub fn uid(&self) -> i32 {
        self.word(20)
    }

    pub fn set_uid(&mut self, uid: i32) {
        self.set_word(20, uid);
    }

    /// `si_value.sival_int` of queued signals.
    pub fn value(&self) -> i32 {
        self.word(24)
    }

    /// The signal that a [`nomina_abi::SIG_CALL`] carries.
    pub fn carried(&self) -> i32 {
        self.word(nomina_abi::CARRIED)
    }

    /// What the supervisor puts behind the value for a SIGCHLD about a tracee: its `si_code`.
    pub fn child_code(&self) -> i32 {
        self.word(28)
    }

    pub fn set_value(&mut self, value: u64) {
        self.0[24..32].copy_from_slice(&value.to_ne_bytes());
    }

    /// `si_fd` of signals that a descriptor sends.
    pub fn set_fd(&mut self, fd: i32) {
        self.set_word(24, fd);
    }

    /// `si_band` of signals that a descriptor sends: the poll events.
    pub fn band(&self) -> u64 {
        u64::from(self.word(16) as u32) | u64::from(self.word(20) as u32) << 32
    }

    pub fn errno(&self) -> i32 {
        self.word(4)
    }

    /// Makes it that of a SIGSYS of a filter.
    pub fn set_sigsys(&mut self, code: i32, errno: i32, address: u64, syscall: i32, arch: u32) {
        const SIGSYS: i32 = 31;
        self.set_word(0, SIGSYS);
        self.set_word(4, errno);
        self.set_word(8, code);
        self.0[16..24].copy_from_slice(&address.to_ne_bytes());
        self.set_word(24, syscall);
        self.set_word(28, arch as i32);
    }

    /// `si_syscall` of SIGSYS.
    pub fn syscall(&self) -> i32 {
        self.word(24)
    }
}

/// `struct rt_sigframe`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct RtSigFrame {
    /// Return address: the restorer.
    pub pretcode: u64,
    /// Context.
    pub uc: UContext,
    /// Signal information.
    pub info: SigInfo,
}

const _: () = assert!(size_of::<SigContext>() == 256);
const _: () = assert!(size_of::<UContext>() == 304);
const _: () = assert!(size_of::<RtSigFrame>() == 440);

/// Reads a plain value at an address.
///
/// # Safety
/// Must be valid for reads.
unsafe fn peek<T: Copy>(at: u64) -> T {
    // SAFETY: the caller's duty.
    unsafe { (at as *const T).read_unaligned() }
}

/// Writes a plain value at an address.
///
/// # Safety
/// Must be valid for writes.
unsafe fn poke<T: Copy>(at: u64, value: T) {
    // SAFETY: the caller's duty.
    unsafe { (at as *mut T).write_unaligned(value) }
}

/// Size in bytes of a floating point state with everything the kernel appended to it.
///
/// # Safety
/// `fpstate` must be 0 or a state that the kernel wrote.
pub unsafe fn fpstate_size(fpstate: u64) -> u64 {
    if fpstate == 0 {
        return 0;
    }
    // SAFETY: a state has at least the legacy area.
    unsafe {
        if peek::<u32>(fpstate + SW_RESERVED) == FP_XSTATE_MAGIC1 {
            u64::from(peek::<u32>(fpstate + SW_RESERVED + 4))
        } else {
            XSAVE_HEADER
        }
    }
}

/// Makes a state the initial one, which signal handlers start with.
///
/// # Safety
/// `fpstate` must be 0 or a state that the kernel wrote.
pub unsafe fn clear_fpstate(fpstate: u64) {
    if fpstate == 0 {
        return;
    }
    // SAFETY: as in `fpstate_size`; with the magic an XSAVE header follows.
    unsafe {
        if peek::<u32>(fpstate + SW_RESERVED) == FP_XSTATE_MAGIC1 {
            let kept = peek::<u64>(fpstate + XSAVE_HEADER) & XFEATURE_PKRU;
            poke(fpstate + XSAVE_HEADER, kept);
        }
        poke(fpstate + MXCSR_OFFSET, MXCSR_DEFAULT);
    }
}

/// What a guest's frame says about its floating point state.
pub struct GuestFp {
    /// Bytes of the state proper, without the magic behind it; 512 for a legacy state.
    pub size: u64,
    /// Features saved; x87 and SSE for a legacy state.
    pub features: u64,
}

impl GuestFp {
    /// Reads the software bytes (48 from offset 464) of a guest's state.
    pub fn from_software_bytes(bytes: &[u8; 48]) -> GuestFp {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let size = u64::from(word(16));
        if word(0) == FP_XSTATE_MAGIC1 && size >= XSAVE_HEADER + 64 {
            GuestFp { size, features: u64::from(word(8)) | u64::from(word(12)) << 32 }
        } else {
            GuestFp { size: XSAVE_HEADER, features: 3 }
        }
    }
}

/// Size of the software bytes of a state, and where they stand.
pub const SOFTWARE_BYTES: (u64, usize) = (SW_RESERVED, 48);

/// Puts a guest's floating point state into a native frame's.
///
/// # Safety
/// `native` must be a state that the kernel wrote; `copy(to, from, len)` copies from the guest.
pub unsafe fn restore_fpstate(
    native: u64,
    guest: u64,
    copy: impl Fn(u64, u64, u64) -> Result<(), i64>,
) -> Result<(), i64> {
    let mut software = [0u8; SOFTWARE_BYTES.1];
    copy(software.as_mut_ptr() as u64, guest + SW_RESERVED, SOFTWARE_BYTES.1 as u64)?;
    let described = GuestFp::from_software_bytes(&software);
    copy(native, guest, SW_RESERVED)?;
    // SAFETY: the native state has the legacy area, and as much more as its software bytes say.
    unsafe {
        if peek::<u32>(native + SW_RESERVED) != FP_XSTATE_MAGIC1 {
            return Ok(());
        }
        let own_size = u64::from(peek::<u32>(native + SW_RESERVED + 16));
        let size = described.size.min(own_size);
        if size > XSAVE_HEADER {
            copy(native + XSAVE_HEADER, guest + XSAVE_HEADER, size - XSAVE_HEADER)?;
            let saved = peek::<u64>(native + XSAVE_HEADER);
            poke(native + XSAVE_HEADER, saved & described.features);
        } else {
            poke(native + XSAVE_HEADER, 3u64);
        }
    }
    Ok(())
}

/// Places for a frame below `sp`: of the floating point state, and of the frame, aligned as the kernel does.
pub fn place(sp: u64, fpstate_size: u64) -> (u64, u64) {
    let fp = sp.wrapping_sub(fpstate_size) & !63;
    let frame = (fp.wrapping_sub(size_of::<RtSigFrame>() as u64) & !15).wrapping_sub(8);
    (fp, frame)
}
