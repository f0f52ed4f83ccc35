//! The relay: takes messages at our ends of guests' sockets and sends them on.
//!
//! When a receiver has no room, the message waits with its sender and nothing more is taken from that one, so that its own
//! calls block or fail with `EAGAIN` as its buffer fills; the receiver's end tells when there is room again.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use nomina_fs::wait::descriptor_share;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno as HostErrno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::super::Server;
use super::tag::Source;
use super::{Datagram, Datagrams, orphan};

/// Most descriptors in one message (`SCM_MAX_FD`).
const MAX_FDS: usize = 253;
/// More than a socket's buffer takes (twice `net.core.wmem_max`); larger messages are lost.
const LARGEST: usize = 512 << 10;
/// How many messages of one socket are taken before others have their turn.
const TURN: usize = 64;

/// A message on its way.
pub struct Message {
    to: Weak<Datagram>,
    /// It goes to the peer, not to a name.
    to_peer: bool,
    data: Vec<u8>,
    fds: Vec<OwnedFd>,
    tag: Option<Arc<OwnedFd>>,
}

/// What the relay has of a socket.
#[derive(Default)]
pub struct Outbox {
    /// A message that its receiver has no room for.
    pending: Option<Message>,
    /// The tag of the latest message.
    tag: Option<(Source, Arc<OwnedFd>)>,
}

enum Taken {
    Message(Message),
    /// For nobody.
    Lost,
    Nothing,
    /// The guest's end is closed.
    End,
}

enum Sent {
    /// Or refused, which nobody can be told any more.
    Done,
    Full(u64),
    /// There is no such socket any more.
    Dead,
}

/// Starts the relay, a thread that ends with the last socket.
///
/// # Errors
/// When a thread cannot be started.
pub fn start(server: &Arc<Server>) -> std::io::Result<()> {
    let epoll = server.datagrams.epoll.try_clone()?;
    let server = Arc::downgrade(server);
    let builder = std::thread::Builder::new().name("nomina-relay".into()).stack_size(256 * 1024);
    builder.spawn(move || {
        let mut events = Vec::with_capacity(64);
        let mut buffer = vec![0; LARGEST];
        loop {
            events.clear();
            match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(HostErrno::INTR) => {}
                Err(_) => return,
            }
            let Some(server) = server.upgrade() else { return };
            let ready = events.iter().map(|event| (event.data.u64(), event.flags)).collect();
            // A panic is our bug, not the guest's to exploit: messages are lost, the sandbox lives.
            let _ = catch_unwind(AssertUnwindSafe(|| relay(&server, ready, &mut buffer)));
            if server.datagrams.rests() {
                return;
            }
        }
    })?;
    Ok(())
}

/// Serves sockets of which something is ready.
fn relay(server: &Arc<Server>, ready: Vec<(u64, epoll::EventFlags)>, buffer: &mut [u8]) {
    let datagrams = &server.datagrams;
    let mut turns: VecDeque<Arc<Datagram>> = VecDeque::new();
    let mut orphans = Vec::new();
    for (ino, flags) in ready {
        if flags.contains(epoll::EventFlags::OUT) {
            turns.extend(datagrams.take_stalled(ino));
        }
        turns.extend(datagrams.by_ino(ino));
    }
    while let Some(socket) = turns.pop_front() {
        match pump(server, &socket, buffer) {
            Pumped::Dry => {}
            Pumped::More => turns.push_back(socket),
            Pumped::End => {
                orphans.extend(datagrams.orphans_of(&socket));
                turns.extend(datagrams.remove(&socket));
            }
            Pumped::Orphan => orphans.push(socket),
        }
    }
    orphan::adopt(server, &orphans);
}

enum Pumped {
    Dry,
    More,
    End,
    /// Its peer is gone.
    Orphan,
}

/// Sends on what a guest has sent.
fn pump(server: &Arc<Server>, socket: &Arc<Datagram>, buffer: &mut [u8]) -> Pumped {
    let mut outbox = socket.outbox.lock().unwrap();
    for _ in 0..TURN {
        let message = match outbox.pending.take() {
            Some(message) => {
                server.datagrams.held.fetch_sub(message.fds.len(), Ordering::Relaxed);
                message
            }
            None => match take(server, socket, &mut outbox, buffer) {
                Taken::Message(message) => message,
                Taken::Lost => continue,
                Taken::Nothing => return Pumped::Dry,
                Taken::End => return Pumped::End,
            },
        };
        let mut sent = send(socket, &message);
        if let Sent::Full(receiver) = sent {
            server.datagrams.stall(receiver, socket);
            // Room may have come before anybody was known to wait for it.
            sent = send(socket, &message);
        }
        match sent {
            Sent::Done => {}
            // It is lost: sockets that hold one another in such messages would stay for ever.
            Sent::Full(_) if server.datagrams.holds_enough(&message) => {}
            Sent::Full(_) => {
                server.datagrams.held.fetch_add(message.fds.len(), Ordering::Relaxed);
                outbox.pending = Some(message);
                return Pumped::Dry;
            }
            Sent::Dead if message.to_peer => return Pumped::Orphan,
            Sent::Dead => {}
        }
    }
    Pumped::More
}

/// Takes the next message of a guest.
fn take(server: &Arc<Server>, socket: &Arc<Datagram>, outbox: &mut Outbox, buffer: &mut [u8]) -> Taken {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = match rustix::net::recvmsg(&socket.ours, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
        Ok(got) => got,
        Err(HostErrno::AGAIN | HostErrno::INTR) => return Taken::Nothing,
        Err(_) => return Taken::End,
    };
    let mut fds = Vec::new();
    let mut sender = None;
    for part in control.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                sender = Some(credentials.pid.as_raw_nonzero().get());
            }
            _ => {}
        }
    }
    // Every message has a sender; the end of all messages has none.
    let Some(host_pid) = sender else {
        return if is_closed(socket.ours.as_fd()) { Taken::End } else { Taken::Nothing };
    };
    if got.flags.contains(ReturnFlags::TRUNC) {
        return Taken::Lost;
    }
    let destination = fds.first().and_then(|tag| server.datagrams.tags.destination_of(tag));
    let (to, to_peer) = match destination {
        Some(ino) => {
            fds.remove(0);
            (server.datagrams.by_ino(ino).map(|to| Arc::downgrade(&to)).unwrap_or_default(), false)
        }
        None => {
            let peer = socket.state.lock().unwrap().peer.clone();
            let Some(peer) = peer else {
                socket.lost_one();
                return Taken::Lost;
            };
            (peer, true)
        }
    };
    let (uid, gid) = server.real_ids_of_host_pid(host_pid).unwrap_or((65534, 65534));
    let source = Source { host_pid, uid, gid, name: socket.name().unwrap_or_default() };
    let tag = match &outbox.tag {
        Some((of, tag)) if *of == source => Some(tag.clone()),
        _ => {
            let tag = server.datagrams.tags.source(&source).ok().map(Arc::new);
            outbox.tag = tag.clone().map(|tag| (source, tag));
            tag
        }
    };
    Taken::Message(Message { to, to_peer, data: buffer[..got.bytes].to_vec(), fds, tag })
}

fn is_closed(fd: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::HUP)
}

fn send(from: &Datagram, message: &Message) -> Sent {
    let Some(to) = message.to.upgrade() else { return Sent::Dead };
    // Without a tag the first descriptor of the sender's would pass for one.
    if !from.may_send(&to) || (message.tag.is_none() && !message.fds.is_empty()) {
        return Sent::Done;
    }
    let fds: Vec<BorrowedFd<'_>> =
        message.tag.iter().map(|tag| tag.as_fd()).chain(message.fds.iter().map(|fd| fd.as_fd())).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = &fds[..fds.len().min(MAX_FDS)];
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Sent::Done;
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::sendmsg(&to.ours, &[IoSlice::new(&message.data)], &mut control, flags) {
        Err(HostErrno::AGAIN) => Sent::Full(to.ino),
        _ => Sent::Done,
    }
}

impl Datagrams {
    /// Whether the descriptors of one more message that waits would be too many.
    fn holds_enough(&self, message: &Message) -> bool {
        let more = message.fds.len();
        more > 0 && self.held.load(Ordering::Relaxed) + more > descriptor_share()
    }

    /// Notes that `sender` waits for room at the socket with number `receiver`.
    fn stall(&self, receiver: u64, sender: &Arc<Datagram>) {
        let mut table = self.table.lock().unwrap();
        let waiting = table.stalled.entry(receiver).or_default();
        waiting.retain(|other| other.upgrade().is_some_and(|other| other.ino != sender.ino));
        waiting.push(Arc::downgrade(sender));
    }

    /// Who waits for room at a socket.
    fn take_stalled(&self, receiver: u64) -> Vec<Arc<Datagram>> {
        let waiting = self.table.lock().unwrap().stalled.remove(&receiver).unwrap_or_default();
        waiting.iter().filter_map(Weak::upgrade).collect()
    }

    /// Forgets a socket whose guest's end is closed; gives those who waited for it.
    fn remove(&self, socket: &Datagram) -> Vec<Arc<Datagram>> {
        let _ = epoll::delete(&self.epoll, &socket.ours);
        let pending = socket.outbox.lock().unwrap().pending.take();
        if let Some(message) = pending {
            self.held.fetch_sub(message.fds.len(), Ordering::Relaxed);
        }
        self.table.lock().unwrap().sockets.remove(&socket.ino);
        self.take_stalled(socket.ino)
    }

    /// The sockets whose peer this is.
    fn orphans_of(&self, socket: &Datagram) -> Vec<Arc<Datagram>> {
        let others: Vec<_> = self.table.lock().unwrap().sockets.values().cloned().collect();
        let is_peer = |other: &Arc<Datagram>| other.peer().is_some_and(|peer| peer.ino == socket.ino);
        others.into_iter().filter(is_peer).collect()
    }

    /// Whether there is no socket, so that the relay may end.
    fn rests(&self) -> bool {
        let mut table = self.table.lock().unwrap();
        table.relaying = !table.sockets.is_empty();
        !table.relaying
    }
}
