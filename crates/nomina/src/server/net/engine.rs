//! The engine: the thread that runs the stack.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use nomina_kernel::net::Stack;
use nomina_kernel::net::core::softirq::Out;
use rustix::event::{Timespec, epoll};

use super::socket::{Kind, SocketEnd};
use super::tun::{Taken, TunEnd};
use super::{Network, Shared};

/// No inode number of a socket.
pub(super) const WAKE: u64 = 0;
/// Longest packet with its headers, in bytes.
pub(super) const LONGEST: usize = 65535 + 1024;
/// Packets for sockets that may wait.
const MAX_INCOMING: usize = 4096;
/// How many packets of one program are taken before others have their turn.
const TURN: usize = 64;
/// Runs of the stack before programs are looked at again.
const RUNS: usize = 16;

/// What a program holds the other end of.
#[derive(Clone)]
enum End {
    Tun(Arc<TunEnd>),
    Socket(Arc<SocketEnd>),
}

impl End {
    fn ino(&self) -> u64 {
        match self {
            End::Tun(end) => end.ino,
            End::Socket(end) => end.ino,
        }
    }
}

/// Has the engine look at the stack; starts it if it does not run yet.
pub(super) fn wake(shared: &Arc<Shared>) {
    start(shared);
    // A counter that is full wakes as well.
    let _ = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
}

/// Starts the thread, once. Where that fails, packets wait: the next who needs it tries again.
pub(super) fn start(shared: &Arc<Shared>) {
    if shared.started.swap(true, Ordering::AcqRel) {
        return;
    }
    let weak = Arc::downgrade(shared);
    let Ok(epoll) = shared.epoll.try_clone() else {
        shared.started.store(false, Ordering::Release);
        return;
    };
    let thread = std::thread::Builder::new().name("nomina-net".into()).stack_size(512 * 1024);
    if thread.spawn(move || run(&weak, &epoll)).is_err() {
        shared.started.store(false, Ordering::Release);
    }
}

fn run(shared: &Weak<Shared>, epoll: &OwnedFd) {
    let mut buffer = vec![0; LONGEST];
    let mut ready: VecDeque<End> = VecDeque::new();
    let mut timeout = None;
    loop {
        let mut events = Vec::with_capacity(64);
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        // Only the thread itself holds it: the sandbox is gone.
        let Some(shared) = shared.upgrade().filter(|shared| Arc::strong_count(shared) > 1) else { return };
        for event in events {
            let ino = event.data.u64();
            if ino == WAKE {
                // It is only there to wake.
                let _ = rustix::io::read(&shared.wake, &mut [0u8; 8]);
                continue;
            }
            let tun = shared.ends.lock().unwrap().get(&ino).cloned().map(End::Tun);
            let end = tun.or_else(|| shared.sockets.lock().unwrap().get(&ino).cloned().map(End::Socket));
            if !ready.iter().any(|known| known.ino() == ino) {
                ready.extend(end);
            }
        }
        // A panic is our bug, not the guest's to exploit: packets are lost, the sandbox lives.
        let round = catch_unwind(AssertUnwindSafe(|| turn(&shared, &mut ready, &mut buffer)));
        timeout = match round {
            Ok(next) => next,
            Err(_) => {
                ready.clear();
                Some(Timespec { tv_sec: 0, tv_nsec: 10_000_000 })
            }
        };
    }
}

/// Takes what programs have written, runs the stack, and says how long to wait for more.
fn turn(shared: &Arc<Shared>, ready: &mut VecDeque<End>, buffer: &mut [u8]) -> Option<Timespec> {
    let stack = shared.stack.get()?;
    for _ in 0..ready.len() {
        let Some(end) = ready.pop_front() else { break };
        let mut stack = stack.lock();
        stack.set_now(shared.now());
        if let End::Tun(end) = &end {
            end.flush();
        }
        let mut more = true;
        for _ in 0..TURN {
            let taken = match &end {
                End::Tun(end) => end.take(&mut stack, buffer),
                End::Socket(end) => end.take(&mut stack, buffer),
            };
            match taken {
                Taken::One => {}
                Taken::Nothing => {
                    more = false;
                    break;
                }
                Taken::End => {
                    more = false;
                    match &end {
                        End::Tun(end) => {
                            end.close(&mut stack);
                            // Fails only where it is gone already.
                            let _ = epoll::delete(&shared.epoll, end.ours());
                            shared.ends.lock().unwrap().remove(&end.ino);
                        }
                        End::Socket(end) => shared.close_socket(&mut stack, end),
                    }
                    break;
                }
            }
        }
        shared.serve(&mut stack);
        if more {
            ready.push_back(end);
        }
    }
    let mut guard = stack.lock();
    let busy = shared.serve(&mut guard);
    let next = guard.next_timer();
    guard.set_awaited(next);
    drop(guard);
    // Without the lock: sockets have locks of their own, which come before.
    let incoming = std::mem::take(&mut *shared.incoming.lock().unwrap());
    if let Some(transport) = shared.transport.get() {
        incoming.into_iter().for_each(|out| transport(stack, out));
    }
    if busy || !ready.is_empty() {
        return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
    }
    let wait = next?.saturating_sub(shared.now());
    Some(Timespec { tv_sec: (wait / 1_000_000_000) as i64, tv_nsec: (wait % 1_000_000_000) as i64 })
}

impl Shared {
    /// Nanoseconds of the stack's clock.
    pub(super) fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    /// Runs the stack and hands out what it gives. Gives whether there is more to do.
    pub(super) fn serve(&self, stack: &mut Stack) -> bool {
        for _ in 0..RUNS {
            let more = stack.net_rx_action(self.now());
            while let Some(out) = stack.next_out() {
                self.hand_out(stack, out);
            }
            if !more && !stack.is_busy() {
                return false;
            }
        }
        true
    }

    /// A packet, raw or ping socket is closed.
    pub(super) fn close_socket(&self, stack: &mut Stack, end: &SocketEnd) {
        match end.kind {
            Kind::Packet => stack.packet_release(end.ino),
            Kind::Inet | Kind::Inet6 => drop(stack.raw_sockets.remove(&end.ino)),
        }
        // Fails only where it is gone already.
        let _ = epoll::delete(&self.epoll, end.ours());
        self.sockets.lock().unwrap().remove(&end.ino);
    }

    fn hand_out(&self, stack: &mut Stack, out: Out) {
        match out {
            Out::Tun { dev, queue, skb } => {
                let end = self.ends.lock().unwrap().get(&queue).cloned();
                let Some(end) = end else { return };
                let mut packet = stack.tun_headers(dev, skb.protocol);
                packet.extend_from_slice(skb.data());
                let room = stack.dev(dev).map_or(0, |dev| dev.tx_queue_len as usize);
                if !end.send(packet, room) {
                    stack.tun_dropped(dev, skb.len());
                }
            }
            Out::Tap { dev, queue, skb } => {
                let end = self.ends.lock().unwrap().get(&queue).cloned();
                let Some(end) = end else { return };
                let mut packet = stack.tap_headers(queue);
                packet.extend_from_slice(skb.data());
                let room = stack.dev(dev).map_or(0, |dev| dev.tx_queue_len as usize);
                if !end.send(packet, room) {
                    stack.tap_dropped(dev);
                }
            }
            Out::Transport { .. } | Out::TransportError { .. } => {
                let mut incoming = self.incoming.lock().unwrap();
                if incoming.len() < MAX_INCOMING {
                    incoming.push(out);
                }
            }
            Out::Socket { socket, message } => {
                let end = self.sockets.lock().unwrap().get(&socket).cloned();
                if let Some(end) = end
                    && !end.send(&message)
                    && let Some(own) = stack.packet_sockets.get_mut(&socket)
                {
                    own.stats.1 = own.stats.1.wrapping_add(1);
                }
            }
            Out::RingReady { socket } => {
                if let Some(end) = self.sockets.lock().unwrap().get(&socket) {
                    end.ring_bell();
                }
            }
            Out::SocketError { socket, errno } => {
                if let Some(end) = self.sockets.lock().unwrap().get(&socket) {
                    end.state.lock().unwrap().error = Some(errno);
                }
            }
            Out::Changed(_) => {}
        }
    }
}

impl Network {
    /// Runs the stack for who has just given it something, with its lock held.
    pub(super) fn serve(&self, stack: &mut Stack) {
        if self.0.serve(stack) || !self.0.incoming.lock().unwrap().is_empty() {
            wake(&self.0);
        }
    }
}
