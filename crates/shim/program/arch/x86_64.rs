//! What must be written in assembly: entry, signal return, child start, guest memory access, and the interruptible window.

use core::arch::global_asm;

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
    .globl nomina_uaccess_end
nomina_uaccess_end:
nomina_uaccess_fault:
    mov rax, -14
    ret

    # A system call under the guest's signal mask: rdi = number and six arguments, rsi = mask. A signal that arrives before the
    # call has begun, or whose call would be restarted by the kernel, makes it return -ERESTARTSYS.
    .globl nomina_window
nomina_window:
    push rbx
    mov rbx, rdi
    mov edi, 2
    xor edx, edx
    mov r10d, 8
    mov eax, 14
    .globl nomina_window_begin
nomina_window_begin:
    syscall
    mov rax, [rbx]
    mov rdi, [rbx + 8]
    mov rsi, [rbx + 16]
    mov rdx, [rbx + 24]
    mov r10, [rbx + 32]
    mov r8, [rbx + 40]
    mov r9, [rbx + 48]
    .globl nomina_window_syscall
nomina_window_syscall:
    syscall
    pop rbx
    ret
nomina_window_interrupted:
    mov rax, -512
    pop rbx
    ret

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
    pub fn nomina_window(call: *const [u64; 7], mask: *const u64) -> i64;
    fn nomina_uaccess_begin();
    fn nomina_uaccess_end();
    fn nomina_uaccess_fault();
    fn nomina_window_begin();
    fn nomina_window_syscall();
    fn nomina_window_interrupted();
    static etext: u8;
}

/// Whether an instruction pointer is in the shim.
pub fn in_shim(rip: u64) -> bool {
    rip >= nomina_abi::SHIM_BASE && rip < &raw const etext as u64
}

/// Where to continue after a fault at `rip`, if it is in one of the functions that access guest memory.
pub fn fault_fixup(rip: u64) -> Option<u64> {
    let range = nomina_uaccess_begin as *const () as u64..nomina_uaccess_end as *const () as u64;
    range.contains(&rip).then_some(nomina_uaccess_fault as *const () as u64)
}

/// Where to continue after a signal at `rip`, if the system call of the window has not begun or is to be restarted.
pub fn window_fixup(rip: u64) -> Option<u64> {
    let range = nomina_window_begin as *const () as u64..=nomina_window_syscall as *const () as u64;
    range.contains(&rip).then_some(nomina_window_interrupted as *const () as u64)
}
