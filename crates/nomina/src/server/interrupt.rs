//! Calls on a guest's descriptor that must not block although the guest can make them block.
//!
//! `O_NONBLOCK` belongs to the open file description, which the guest shares: it can take the flag away between our setting
//! it and our call. So while such a call runs, a timer of the calling thread sends a signal whose handler does nothing
//! but interrupt it, again and again until the call has returned.

use std::cell::OnceCell;
use std::ptr;
use std::time::Duration;

/// The signal, one that programs rarely use: the library is a guest in its caller's process.
fn signal() -> i32 {
    libc::SIGRTMAX() - 7
}

struct Timer(libc::timer_t);

thread_local! {
    static TIMER: OnceCell<Option<Timer>> = const { OnceCell::new() };
}

impl Timer {
    fn new() -> Option<Timer> {
        extern "C" fn nothing(_: i32) {}
        // SAFETY: the structures are valid and zero is a valid start for them; the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            // No SA_RESTART: the call must return.
            action.sa_sigaction = nothing as *const () as libc::sighandler_t;
            libc::sigaction(signal(), &raw const action, ptr::null_mut());
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal();
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer: libc::timer_t = std::mem::zeroed();
            (libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) == 0)
                .then_some(Timer(timer))
        }
    }

    fn set(&self, every: Duration) {
        let every =
            libc::timespec { tv_sec: every.as_secs() as libc::time_t, tv_nsec: every.subsec_nanos().into() };
        let value = libc::itimerspec { it_interval: every, it_value: every };
        // SAFETY: a timer of ours and a valid structure.
        unsafe { libc::timer_settime(self.0, 0, &raw const value, ptr::null_mut()) };
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: a timer of ours, used no more.
        unsafe { libc::timer_delete(self.0) };
    }
}

/// Makes `call`, a single system call, fail with `EINTR` when it blocks longer than `limit`. `None` when no timer can be had.
pub fn at_most<T>(limit: Duration, call: impl FnOnce() -> T) -> Option<T> {
    TIMER.with(|timer| {
        let timer = timer.get_or_init(Timer::new).as_ref()?;
        timer.set(limit);
        let result = call();
        timer.set(Duration::ZERO);
        Some(result)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_blocks_is_interrupted() {
        let (read, _write) = rustix::pipe::pipe().unwrap();
        for _ in 0..2 {
            let result = at_most(Duration::from_millis(5), || rustix::io::read(&read, &mut [0u8; 1]));
            assert_eq!(result, Some(Err(rustix::io::Errno::INTR)));
        }
    }
}
