//! The shim: the program in every guest address space.
//!
//! The host kernel executes this image instead of the program a guest names; `start` then loads that program beside itself.
//! System calls of the guest that carry a name arrive as SIGSYS (`trap`), are put into the thread's slot (`marshal`, `slot`)
//! and answered by the supervisor. The shim is not trusted: it can do nothing that the guest could not.
//!
//! There is no thread-local storage, no allocation and no unwinding here, because all of those belong to the guest.
#![no_std]
#![no_main]

mod ahead;
#[path = "arch/x86_64.rs"]
mod arch;
mod area;
mod call;
mod clone;
mod elf;
mod exec;
mod fd;
mod frame;
mod futex;
mod ipc;
mod load;
mod lock;
mod marshal;
mod masked;
mod message;
mod own_filter;
mod packet_ring;
mod patch;
mod poll;
mod process;
mod ptrace;
mod remembered;
mod bpf;
mod seccomp;
mod sighand;
mod signal;
mod signalfd;
mod slot;
mod socket;
mod start;
mod sys;
mod tracer;
mod trap;
mod uaccess;
mod wait;
mod window;
mod written;

/// A broken invariant: the process ends, because nothing it does afterwards could be relied upon.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::exit_group(125)
}

/// Named by the precompiled core library; never called, because panics abort.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
