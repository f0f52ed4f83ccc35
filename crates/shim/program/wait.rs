//! `wait4(2)` and `waitid(2)`: native waits on native children, with the guest's numbers.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use nomina_abi::{op, xlate};

use crate::area::Area;
use crate::frame::SigInfo;
use crate::slot::{note_reaped, out, request};
use crate::sys::{err, nr, sys};
use crate::tracer;
use crate::uaccess::{put_user, put_user_opt};
use crate::window::window;

const WNOHANG: u64 = 1;
const WEXITED: u64 = 4;
const WNOWAIT: u64 = 0x0100_0000;
const P_PID: u64 = 1;
const P_PGID: u64 = 2;
const CLD_EXITED: i32 = 1;
const CLD_DUMPED: i32 = 3;
const RUSAGE_SIZE: usize = 144;

/// Marks an entry whose zombie is gone: no wait may find it any more.
const REAPED: u64 = 1 << 63;

/// The latest children of this address space, as guest and host pid, so that a wait for one needs no question.
pub struct Children {
    entries: [AtomicU64; 40],
    next: AtomicUsize,
}

/// See [`Children`].
#[unsafe(link_section = ".bss.shared")]
pub static CHILDREN: Children =
    Children { entries: [const { AtomicU64::new(0) }; 40], next: AtomicUsize::new(0) };

impl Children {
    /// Remembers a child.
    pub fn insert(&self, guest: i32, host: i32) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.entries.len();
        self.entries[at].store(u64::from(guest as u32) << 32 | u64::from(host as u32), Ordering::Relaxed);
    }

    /// The host pid of a child, if it is one of the latest.
    pub fn host(&self, guest: i32) -> Option<i32> {
        let next = self.next.load(Ordering::Relaxed);
        (1..=next.min(self.entries.len())).find_map(|back| {
            let at = next.wrapping_sub(back) % self.entries.len();
            let entry = self.entries[at].load(Ordering::Relaxed);
            (entry != 0 && (entry >> 32) as i32 == guest).then_some(entry as u32 as i32)
        })
    }

    /// The guest pid of a child, even if it has been reaped meanwhile: its SIGCHLD may be delivered later.
    pub fn guest(&self, host: i32) -> Option<i32> {
        let next = self.next.load(Ordering::Relaxed);
        (1..=next.min(self.entries.len())).find_map(|back| {
            let at = next.wrapping_sub(back) % self.entries.len();
            let entry = self.entries[at].load(Ordering::Relaxed);
            (entry != 0 && entry as u32 as i32 == host).then_some(((entry & !REAPED) >> 32) as i32)
        })
    }

    /// Forgets all: a forked process has no children yet.
    pub fn clear(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    fn forget(&self, host: i32) {
        for entry in &self.entries {
            if entry.load(Ordering::Relaxed) as u32 as i32 == host {
                entry.fetch_or(REAPED, Ordering::Relaxed);
            }
        }
    }
}

fn translate(area: &Area, kind: u64, number: i64) -> i64 {
    // The supervisor may not know the host pid of a child that never asked for anything.
    let hint = if kind == xlate::FROM_HOST { CHILDREN.guest(number as i32).unwrap_or(0) } else { 0 };
    request(area, op::XLATE, &[kind, number as u64, hint as u64, 0, 0, 0])
}

fn child_to_host(area: &Area, guest: i32) -> Result<i64, i64> {
    if let Some(host) = CHILDREN.host(guest) {
        return Ok(i64::from(host));
    }
    let host = translate(area, xlate::CHILD_TO_HOST, i64::from(guest));
    if host < 0 { Err(host) } else { Ok(host) }
}

fn group_to_host(area: &Area, guest: i64) -> Result<i64, i64> {
    let host = translate(area, xlate::PGRP_TO_HOST, guest);
    if host <= 0 { Err(err::ECHILD) } else { Ok(host) }
}

/// A zombie is gone: forget it, and let the model forget it. Its number as the guest sees it. `ECHILD` if it was none of the
/// model's children: the host gives the orphans of a pid namespace that ends to whoever adopts orphans outside.
fn reap(area: &Area, host: i64) -> i64 {
    let known = CHILDREN.guest(host as i32);
    CHILDREN.forget(host as i32);
    if let Some(guest) = known
        && note_reaped(area, guest, host as i32)
    {
        return i64::from(guest);
    }
    request(area, op::REAP, &[host as u64, 0, 0, 0, 0, 0])
}

/// What `window` gave, as a system call that handlers with `SA_RESTART` restart.
fn restartable(ret: i64) -> i64 {
    if ret == err::EINTR { err::ERESTARTSYS } else { ret }
}

/// What a native wait that found no child gives a caller that has tracees: it waits for the supervisor's call.
fn for_tracees(area: &Area, ret: i64, has_tracees: bool, options: u64) -> i64 {
    if ret != err::ECHILD || !has_tracees {
        ret
    } else if options & WNOHANG != 0 {
        0
    } else {
        window(area, area.guest_mask(), nr::POLL, [0, 0, u64::MAX, 0, 0, 0])
    }
}

/// For a traced caller: what a wait gives without waiting. It often stops while its child ends, and the kernel looks for children before it
/// looks for signals.
fn at_once(area: &Area, number: u64, mut call: [u64; 6], options: usize) -> i64 {
    if area.trace.get() == 0 {
        return 0;
    }
    call[options] |= WNOHANG;
    // SAFETY: the caller's own structures, which live through the call.
    unsafe { crate::sys::syscall(number, call) }
}

/// Whether nothing but the supervisor's call to a tracer has ended a wait.
fn is_only_woken(area: &Area) -> bool {
    area.woken.get() && !area.pending.get() && !area.kicked.get()
}

/// What `waitid(2)` tells of a tracee.
fn child_info(news: &tracer::News) -> SigInfo {
    const CLD_KILLED: i32 = 2;
    const CLD_TRAPPED: i32 = 4;
    let (code, status) = match news.status & 0xff {
        0x7f => (CLD_TRAPPED, news.status >> 8),
        0 => (CLD_EXITED, news.status >> 8 & 0xff),
        status if status & 0x80 != 0 => (CLD_DUMPED, status & 0x7f),
        status => (CLD_KILLED, status),
    };
    let mut info = SigInfo::ZERO;
    info.set_signo(crate::sighand::SIGCHLD);
    info.set_code(code);
    info.set_pid(news.pid);
    info.set_uid(news.uid);
    info.set_value(u64::from(status as u32));
    info
}

/// `wait4(2)`. `ECHILD` if there is no such child, `EINTR` if a handler without `SA_RESTART` ran.
pub fn wait4(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [pid, status_at, options, usage_at, ..] = *args;
    let pid = pid as i32;
    if pid == i32::MIN {
        return Err(err::ESRCH);
    }
    let find = || match pid {
        1.. => child_to_host(area, pid),
        ..-1 => group_to_host(area, -i64::from(pid)).map(|group| -group),
        -1 | 0 => Ok(i64::from(pid)),
    };
    let mut status = 0i32;
    let mut usage = [0u8; RUSAGE_SIZE];
    let usage_pointer = if usage_at == 0 { 0 } else { usage.as_mut_ptr() as u64 };
    let (kind, id) = match pid {
        -1 => (0, 0),
        1.. => (P_PID, pid as u64),
        _ => (P_PGID, -i64::from(pid) as u64),
    };
    let guest = loop {
        area.woken.set(false);
        let traced = tracer::wait(area, kind, id, options | WEXITED);
        if let Ok(Some(news)) = &traced {
            tracer::waited(area);
            status = news.status;
            break i64::from(news.pid);
        }
        let ret = match find() {
            Ok(host) => {
                let call = [host as u64, &raw mut status as u64, options, usage_pointer, 0, 0];
                match at_once(area, nr::WAIT4, call, 2) {
                    0 => window(area, area.guest_mask(), nr::WAIT4, call),
                    done => done,
                }
            }
            Err(error) => error,
        };
        let ret = restartable(for_tracees(area, ret, traced.is_ok(), options));
        tracer::waited(area);
        if ret == err::ERESTARTSYS && is_only_woken(area) {
            continue;
        }
        if ret <= 0 {
            return Ok(ret);
        }
        let stopped = status & 0xff == 0x7f || status == 0xffff;
        let guest = if stopped { translate(area, xlate::FROM_HOST, ret) } else { reap(area, ret) };
        if guest > 0 {
            break guest;
        }
    };
    put_user_opt(status_at, status)?;
    if usage_at != 0 {
        put_user(usage_at, usage)?;
    }
    Ok(guest)
}

/// `waitid(2)`.
pub fn waitid(area: &Area, args: &[u64; 6]) -> Result<i64, i64> {
    let [kind, id, info_at, options, usage_at, _] = *args;
    let find = || match kind as u32 as u64 {
        P_PID if id as i32 > 0 => child_to_host(area, id as i32).map(|host| host as u64),
        P_PGID if id as i32 > 0 => group_to_host(area, i64::from(id as i32)).map(|host| host as u64),
        _ => Ok(id),
    };
    let mut info = SigInfo::ZERO;
    let mut usage = [0u8; RUSAGE_SIZE];
    let usage_pointer = if usage_at == 0 { 0 } else { usage.as_mut_ptr() as u64 };
    let ret = loop {
        area.woken.set(false);
        let traced = tracer::wait(area, kind, id, options);
        if let Ok(Some(news)) = &traced {
            tracer::waited(area);
            info = child_info(news);
            break 0;
        }
        let ret = match find() {
            Ok(host) => {
                let call = [kind, host, &raw mut info as u64, options, usage_pointer, 0];
                match at_once(area, nr::WAITID, call, 3) {
                    0 if info.pid() == 0 => window(area, area.guest_mask(), nr::WAITID, call),
                    done => done,
                }
            }
            Err(error) => error,
        };
        let ret = restartable(for_tracees(area, ret, traced.is_ok(), options));
        tracer::waited(area);
        if ret == err::ERESTARTSYS && is_only_woken(area) {
            continue;
        }
        if ret < 0 {
            return Ok(ret);
        }
        let child = i64::from(info.pid());
        if child == 0 {
            break ret;
        }
        let ended = (CLD_EXITED..=CLD_DUMPED).contains(&info.code());
        let guest = translate(area, xlate::FROM_HOST, child);
        let uid = out(area, 0) as i32;
        let known = CHILDREN.guest(child as i32);
        let guest = if ended && options & WNOWAIT == 0 {
            reap(area, child)
        } else if guest > 0 {
            guest
        } else if ended && known.is_none() {
            // As in `reap`; nobody else will take it away.
            // SAFETY: takes no pointers.
            unsafe { sys!(nr::WAIT4, child, 0, WNOHANG, 0) };
            0
        } else {
            i64::from(known.unwrap_or(0))
        };
        if guest > 0 {
            info.set_pid(guest as i32);
            info.set_uid(uid);
            if usage_at != 0 {
                put_user(usage_at, usage)?;
            }
            break ret;
        }
        info = SigInfo::ZERO;
    };
    if info_at != 0 {
        // The kernel writes only these fields.
        put_user::<[u32; 7]>(info_at, info.words())?;
    }
    Ok(ret)
}
