//! What must be written in assembly: entry, signal return, child start, guest memory access, and the interruptible window.

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::ops::Range;

use crate::area::{Area, MARK, Patched};
use crate::frame::SigContext;
use crate::sys::err::EINTR;

global_asm!(
    r#"
    .globl _start
_start:
    xor ebp, ebp
    mov rdi, rsp
    and rsp, -16
    call {start}
    ud2

    .globl nomina_restorer
nomina_restorer:
    mov eax, 15
    syscall
    ud2

    # Jumps to the guest program: rdi = its initial stack, rsi = its entry point.
    .globl nomina_enter_guest
nomina_enter_guest:
    mov rsp, rdi
    mov rcx, rsi
    xor eax, eax
    xor ebx, ebx
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor ebp, ebp
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    jmp rcx

    # clone(2) with a child that shares the memory: rdi = flags, rsi = signal frame on the child's own area, rdx = parent_tid,
    # rcx = child_tid, r8 = tls. The child never touches the caller's stack.
    .globl nomina_clone_shared
nomina_clone_shared:
    mov r10, rcx
    mov eax, 56
    syscall
    test rax, rax
    jz 1f
    ret
1:  xor ebp, ebp
    mov rbx, rsp
    and rsp, -16
    call {child_born}
    lea rsp, [rbx + 8]
    mov eax, 15
    syscall
    ud2

    # Leaves an area for good: rdi = word of the area's chunk, esi = its bit, edx = exit code. From the first instruction on
    # another thread may take the area, so the stack is not used.
    .globl nomina_exit_thread
nomina_exit_thread:
    not esi
    lock and dword ptr [rdi], esi
    mov edi, edx
    mov eax, 60
    syscall
    ud2

    # Copies from or to guest memory. A fault anywhere between begin and end returns -EFAULT instead.
    .globl nomina_uaccess_begin
nomina_uaccess_begin:
    # rdi = destination, rsi = source, rdx = length; returns 0
    .globl nomina_copy_user
nomina_copy_user:
    mov rcx, rdx
    rep movsb
    xor eax, eax
    ret
    # rdi = destination, rsi = source, rdx = maximum; returns the length without NUL, or the maximum if there is no NUL
    .globl nomina_copy_string
nomina_copy_string:
    xor eax, eax
2:  cmp rax, rdx
    je 3f
    mov cl, byte ptr [rsi + rax]
    mov byte ptr [rdi + rax], cl
    test cl, cl
    je 3f
    inc rax
    jmp 2b
3:  ret
    # rdi = address, esi = expected, edx = new; returns what was there
    .globl nomina_compare_exchange_user
nomina_compare_exchange_user:
    mov eax, esi
    lock cmpxchg dword ptr [rdi], edx
    ret
    # rdi = address, rsi = expected, rdx = new; returns 0, or 1 if something else was there
    .globl nomina_compare_exchange_code
nomina_compare_exchange_code:
    mov rax, rsi
    lock cmpxchg qword ptr [rdi], rdx
    setne al
    movzx eax, al
    ret
    .globl nomina_uaccess_end
nomina_uaccess_end:
nomina_uaccess_fault:
    mov rax, -14
    ret

    # A system call under the guest's signal mask: rdi = number and six arguments, rsi = mask. A signal that arrives before the
    # call has begun, or whose call would be restarted by the kernel, makes it return -ERESTARTSYS. The call is made by the given
    # instruction, which has a name.
    .macro window name, made, instruction:vararg
    .globl \name
    .globl \name\()_begin
    .globl \made
\name:
    push rbx
    mov rbx, rdi
    mov edi, 2
    xor edx, edx
    mov r10d, 8
    mov eax, 14
\name\()_begin:
    syscall
    mov rax, [rbx + 56]
    cmp word ptr [rax], 0
    jne nomina_window_interrupted
    mov rax, [rbx]
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov rdx, [rbx + 24]
    mov r10, [rbx + 32]
    mov r8, [rbx + 40]
    mov r9, [rbx + 48]
\made:
    \instruction
    pop rbx
    ret
    .endm

    window nomina_window, nomina_window_syscall, syscall
    # By a stub elsewhere, whose address follows in the words.
    window nomina_window_stub, nomina_window_stub_call, call qword ptr [rbx + 64]
nomina_window_interrupted:
    mov rax, -512
    pop rbx
    ret

    # Leaves a signal handler without rt_sigreturn: rdi = the registers that a function's caller relies on (rbx, rbp, r12 to r15),
    # then rsp and rip.
    .globl nomina_leap
nomina_leap:
    mov rbx, [rdi]
    mov rbp, [rdi + 8]
    mov r12, [rdi + 16]
    mov r13, [rdi + 24]
    mov r14, [rdi + 32]
    mov r15, [rdi + 40]
    mov rsp, [rdi + 48]
    jmp qword ptr [rdi + 56]

    # As nomina_enter_guest for a traced program, which has to stop first: a call that is always trapped makes a signal frame.
    .globl nomina_enter_traced
nomina_enter_traced:
    mov rsp, rdi
    xor ebx, ebx
    xor edx, edx
    xor esi, esi
    xor edi, edi
    xor ebp, ebp
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    mov eax, 57
    syscall
    .globl nomina_traced_entry
nomina_traced_entry:
    ud2

    # Where trampolines lead: eax = number, rcx = where to go on, everything else is the guest's (see `patch`). The flags are kept
    # in ax, the number in r11, until there is a stack to put them on.
    .globl nomina_patched
nomina_patched:
    mov r11, rax
    lahf
    seto al
    .globl nomina_patched_probe
nomina_patched_probe:
    cmp dword ptr gs:[{mark}], {MARK}
    jne 12f
    mov qword ptr gs:[{guest_sp}], rsp
    mov rsp, qword ptr gs:[{patched_top}]
    sub rsp, {PATCHED}
    mov [rsp + {args}], rdi
    mov [rsp + {args} + 8], rsi
    mov [rsp + {args} + 16], rdx
    mov [rsp + {args} + 24], r10
    mov [rsp + {args} + 32], r8
    mov [rsp + {args} + 40], r9
    mov [rsp + {number}], r11
    mov [rsp + {back}], rcx
    mov [rsp + {flags}], rax
    # The direction flag set: nobody does that, so it may cost a trap.
    pushfq
    pop rdx
    test dh, 4
    jnz 11f
    movaps [rsp], xmm0
    movaps [rsp + 16], xmm1
    movaps [rsp + 32], xmm2
    movaps [rsp + 48], xmm3
    movaps [rsp + 64], xmm4
    movaps [rsp + 80], xmm5
    movaps [rsp + 96], xmm6
    movaps [rsp + 112], xmm7
    movaps [rsp + 128], xmm8
    movaps [rsp + 144], xmm9
    movaps [rsp + 160], xmm10
    movaps [rsp + 176], xmm11
    movaps [rsp + 192], xmm12
    movaps [rsp + 208], xmm13
    movaps [rsp + 224], xmm14
    movaps [rsp + 240], xmm15
    mov rdi, rsp
    call {patched_call}
    movaps xmm0, [rsp]
    movaps xmm1, [rsp + 16]
    movaps xmm2, [rsp + 32]
    movaps xmm3, [rsp + 48]
    movaps xmm4, [rsp + 64]
    movaps xmm5, [rsp + 80]
    movaps xmm6, [rsp + 96]
    movaps xmm7, [rsp + 112]
    movaps xmm8, [rsp + 128]
    movaps xmm9, [rsp + 144]
    movaps xmm10, [rsp + 160]
    movaps xmm11, [rsp + 176]
    movaps xmm12, [rsp + 192]
    movaps xmm13, [rsp + 208]
    movaps xmm14, [rsp + 224]
    movaps xmm15, [rsp + 240]
    test al, al
    jz 11f
    # From here to the end a signal finds everything it needs in memory and completes the call itself (`patch::complete`).
    .globl nomina_patched_leave
nomina_patched_leave:
    cmp word ptr gs:[{pending}], 0
    jne 10f
    mov rdi, [rsp + {args}]
    mov rsi, [rsp + {args} + 8]
    mov rdx, [rsp + {args} + 16]
    mov r10, [rsp + {args} + 24]
    mov r8, [rsp + {args} + 32]
    mov r9, [rsp + {args} + 40]
    mov rcx, [rsp + {back}]
    mov rax, [rsp + {flags}]
    add al, 127
    sahf
    mov rax, [rsp + {result}]
    mov rsp, qword ptr gs:[{guest_sp}]
    jmp rcx
    .globl nomina_patched_left
nomina_patched_left:
    # A signal came meanwhile. All others are blocked now; the trap delivers it, and gives the result.
10: mov byte ptr gs:[{has_result}], 1
    # The call needs a signal frame: the site's own `syscall` makes one.
11: mov rdi, [rsp + {args}]
    mov rsi, [rsp + {args} + 8]
    mov rdx, [rsp + {args} + 16]
    mov r10, [rsp + {args} + 24]
    mov r8, [rsp + {args} + 32]
    mov r9, [rsp + {args} + 40]
    mov rcx, [rsp + {back}]
    lea r11, [rcx - 2]
    mov rax, [rsp + {flags}]
    add al, 127
    sahf
    mov rax, [rsp + {number}]
    mov rsp, qword ptr gs:[{guest_sp}]
    jmp r11
    # The same without anything saved.
12: add al, 127
    sahf
    mov rax, r11
    lea r11, [rcx - 2]
    jmp r11

    # What the compiler calls without being asked.
    .globl memcpy
    .globl strlen
    .globl memmove
    .globl memset
    .globl memcmp
    .globl bcmp
memmove:
    mov rax, rdi
    sub rax, rsi
    cmp rax, rdx
    jb 4f
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret
4:  mov rax, rdi
    mov rcx, rdx
    lea rdi, [rdi + rdx - 1]
    lea rsi, [rsi + rdx - 1]
    std
    rep movsb
    cld
    ret
memset:
    mov r8, rdi
    mov rcx, rdx
    mov eax, esi
    rep stosb
    mov rax, r8
    ret
memcmp:
bcmp:
    xor ecx, ecx
5:  cmp rcx, rdx
    je 6f
    movzx eax, byte ptr [rdi + rcx]
    movzx r8d, byte ptr [rsi + rcx]
    inc rcx
    sub eax, r8d
    je 5b
    ret
6:  xor eax, eax
    ret
strlen:
    mov rax, -1
7:  inc rax
    cmp byte ptr [rdi + rax], 0
    jne 7b
    ret
"#,
    start = sym crate::start::start,
    child_born = sym crate::clone::child_born,
    patched_call = sym crate::patch::patched_call,
    MARK = const MARK,
    PATCHED = const size_of::<Patched>(),
    mark = const offset_of!(Area, mark),
    guest_sp = const offset_of!(Area, guest_sp),
    patched_top = const offset_of!(Area, patched_top),
    pending = const offset_of!(Area, pending),
    has_result = const offset_of!(Area, has_result),
    args = const offset_of!(Patched, args),
    number = const offset_of!(Patched, number),
    back = const offset_of!(Patched, back),
    flags = const offset_of!(Patched, flags),
    result = const offset_of!(Patched, result),
);

unsafe extern "C" {
    /// `rt_sigreturn` for native signal frames.
    pub fn nomina_restorer();
    /// Never returns.
    pub fn nomina_enter_guest(stack: u64, entry: u64) -> !;
    /// `clone(2)` with shared memory.
    pub fn nomina_clone_shared(flags: u64, frame: u64, parent_tid: u64, child_tid: u64, tls: u64) -> i64;
    /// Frees an area and ends the thread.
    pub fn nomina_exit_thread(word: *const u32, bit: u32, code: u32) -> !;
    /// See the assembly.
    pub fn nomina_copy_user(destination: u64, source: u64, len: u64) -> i64;
    /// See the assembly.
    pub fn nomina_copy_string(destination: u64, source: u64, max: u64) -> i64;
    /// See the assembly.
    pub fn nomina_compare_exchange_user(address: u64, expected: u32, new: u32) -> i64;
    /// See the assembly.
    pub fn nomina_window(call: *const [u64; 8], mask: *const u64) -> i64;
    /// See the assembly.
    pub fn nomina_window_stub(call: *const [u64; 9], mask: *const u64) -> i64;
    fn nomina_leap(registers: *const [u64; 8]) -> !;
    /// Never returns.
    pub fn nomina_enter_traced(stack: u64) -> !;
    /// See the assembly.
    pub fn nomina_patched();
    fn nomina_compare_exchange_code(address: u64, expected: u64, new: u64) -> i64;
    fn nomina_patched_probe();
    fn nomina_patched_leave();
    fn nomina_patched_left();
    fn nomina_uaccess_begin();
    fn nomina_uaccess_end();
    fn nomina_uaccess_fault();
    fn nomina_window_begin();
    fn nomina_window_syscall();
    fn nomina_window_interrupted();
    fn nomina_window_stub_begin();
    fn nomina_window_stub_call();
    fn nomina_traced_entry();
    static etext: u8;
}

/// Whether an instruction pointer is in the shim or its stub.
pub fn in_shim(rip: u64) -> bool {
    rip >= crate::ptrace::STUB && rip < shim_end()
}

/// Address behind the shim's text.
pub fn shim_end() -> u64 {
    &raw const etext as u64
}

/// Where `nomina_enter_traced` makes its call.
pub fn traced_entry() -> u64 {
    nomina_traced_entry as *const () as u64
}

/// Where to continue after a fault at `rip`, if it is in one of the functions that access guest memory.
pub fn fault_fixup(rip: u64) -> Option<u64> {
    let range = nomina_uaccess_begin as *const () as u64..nomina_uaccess_end as *const () as u64;
    range.contains(&rip).then_some(nomina_uaccess_fault as *const () as u64)
}

/// Where to continue after a signal at `rip`, if the system call of the window has not begun or is to be restarted, and how far
/// the stack shrinks.
pub fn window_fixup(rip: u64) -> Option<(u64, u64)> {
    let window = nomina_window_begin as *const () as u64..=nomina_window_syscall as *const () as u64;
    let stub = nomina_window_stub_begin as *const () as u64..=nomina_window_stub_call as *const () as u64;
    let interrupted = nomina_window_interrupted as *const () as u64;
    match rip {
        crate::ptrace::STUB => Some((interrupted, 8)),
        rip if window.contains(&rip) || stub.contains(&rip) => Some((interrupted, 0)),
        _ => None,
    }
}

/// After a signal at `context` in the window, when the window's system call has not been made or was interrupted: leaves the handler
/// as if the window had returned `ERESTARTSYS`. Without `rt_sigreturn(2)` the host kernel goes on knowing the sleep that
/// `restart_syscall(2)` resumes. Otherwise it returns.
///
/// # Safety
/// Nothing of the handler's may be needed any more. The mask and the floating point state stay the handler's.
pub unsafe fn leave_window(context: &SigContext) {
    let syscall = nomina_window_syscall as *const () as u64;
    let made = context.rip == syscall + 2;
    if made && context.rax as i64 != EINTR
        || !(nomina_window_begin as *const () as u64..=syscall + 2).contains(&context.rip)
    {
        return;
    }
    let c = context;
    let registers =
        [c.rbx, c.rbp, c.r12, c.r13, c.r14, c.r15, c.rsp, nomina_window_interrupted as *const () as u64];
    // SAFETY: the registers are those of a call of the window's on this stack, which has not returned.
    unsafe { nomina_leap(&raw const registers) }
}

/// Where the look for the area's mark may fault.
pub fn patched_probe() -> u64 {
    nomina_patched_probe as *const () as u64
}

/// Where a call that came by a trampoline is over and the guest's registers are being restored.
pub fn patched_leave() -> Range<u64> {
    nomina_patched_leave as *const () as u64..nomina_patched_left as *const () as u64
}

/// The code of a trampoline: the instruction it stands for, `lea back(%rip),%rcx`, `jmp *entry(%rip)`.
pub fn trampoline(replaced: &[u8; 8], back: [u8; 4], entry: [u8; 4]) -> [u8; 18] {
    let mut code = [0; 18];
    code[..5].copy_from_slice(&replaced[..5]);
    code[5..8].copy_from_slice(&[0x48, 0x8d, 0x0d]);
    code[8..12].copy_from_slice(&back);
    code[12..14].copy_from_slice(&[0xff, 0x25]);
    code[14..].copy_from_slice(&entry);
    code
}

/// Replaces eight bytes of code at once, if they are what they should be. `EAGAIN` if not, `EFAULT`.
///
/// # Safety
/// The new bytes must be as good for whoever executes them.
pub unsafe fn store_code(at: u64, expected: u64, new: u64) -> i64 {
    // SAFETY: a fault is caught; the rest is the caller's duty.
    match unsafe { nomina_compare_exchange_code(at, expected, new) } {
        1 => crate::sys::err::EAGAIN,
        other => other,
    }
}

/// Sets the base of `gs`.
///
/// # Safety
/// The kernel must have enabled the instruction (`HWCAP2_FSGSBASE`).
pub unsafe fn set_gs_base(base: u64) {
    // SAFETY: the caller's duty; nothing else here uses the register.
    unsafe { asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) };
}
