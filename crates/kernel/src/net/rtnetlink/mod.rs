//! rtnetlink: how programs look at a network namespace and configure it (`rtnetlink(7)`, `net/core/rtnetlink.c`).
//!
//! Served are links, addresses, routes, rules, neighbours and stations of bridges, namespace ids, and the dumps of `netconf` and
//! of the parameters of neighbours. Everything else is `EOPNOTSUPP`, as on a kernel that is built without it. What changes is
//! told to the members of groups: messages for them are collected in the [`Stack`].

mod addr;
mod link;
mod link_fill;
mod neigh;
mod netconf;
mod nsid;
mod route;
mod route_fill;
mod rule;

use super::NetNamespace;
use super::nlattr::{Attrs, Message, NLMSG_HDRLEN, NlResult, nlm_f};
use super::stack::Stack;
use crate::errno::{Errno, Result};

/// `RTM_*`
pub const RTM_NEWLINK: u16 = 16;
/// `RTM_*`
pub const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
/// `RTM_*`
pub const RTM_NEWADDR: u16 = 20;
/// `RTM_*`
pub const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
/// `RTM_*`
pub const RTM_NEWROUTE: u16 = 24;
/// `RTM_*`
pub const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
/// `RTM_*`
pub const RTM_NEWNEIGH: u16 = 28;
/// `RTM_*`
pub const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_GETRULE: u16 = 34;
const RTM_GETNEIGHTBL: u16 = 66;
const RTM_NEWNETCONF: u16 = 80;
const RTM_GETNETCONF: u16 = 82;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;

/// Address families of messages.
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const AF_INET6: u8 = 10;

/// Multicast groups: `RTNLGRP_*`.
pub mod rtnlgrp {
    /// Links.
    pub const LINK: u32 = 1;
    /// Neighbours, and stations of bridges.
    pub const NEIGH: u32 = 3;
    /// Addresses of IPv4.
    pub const IPV4_IFADDR: u32 = 5;
    /// Routes of IPv4.
    pub const IPV4_ROUTE: u32 = 7;
    /// Rules of IPv4.
    pub const IPV4_RULE: u32 = 8;
    /// Addresses of IPv6.
    pub const IPV6_IFADDR: u32 = 9;
    /// Routes of IPv6.
    pub const IPV6_ROUTE: u32 = 11;
    /// Rules of IPv6.
    pub const IPV6_RULE: u32 = 19;
    /// Settings of IPv4.
    pub const IPV4_NETCONF: u32 = 24;
    /// Settings of IPv6.
    pub const IPV6_NETCONF: u32 = 25;
    /// Ids of other namespaces.
    pub const NSID: u32 = 28;
    /// The highest that there is.
    pub const MAX: u32 = 39;
}

/// A message for the members of a group.
pub struct Notification {
    /// Inode number of the namespace.
    pub net: u64,
    /// `RTNLGRP_*`
    pub group: u32,
    /// The datagram.
    pub message: Vec<u8>,
}

/// A network namespace that somebody names by a process or a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetRef {
    /// Its inode number.
    pub inum: u64,
    /// Whether who names it has `CAP_NET_ADMIN` over it.
    pub may_change: bool,
}

/// Finds network namespaces as the sender of a message names them.
pub trait Nets {
    /// That of a process, by its number as the sender sees it: `get_net_ns_by_pid`.
    ///
    /// # Errors
    /// `ESRCH`.
    fn by_pid(&self, pid: u32) -> Result<NetRef>;

    /// That of a descriptor of the sender's: `get_net_ns_by_fd`.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL`: not of a network namespace.
    fn by_fd(&self, fd: u32) -> Result<NetRef>;
}

/// Who sends a message.
pub struct Sender<'a> {
    /// Port of the socket.
    pub port: u32,
    /// Whether it may change the namespace: `CAP_NET_ADMIN` over it, of the socket and of the sender.
    pub may_change: bool,
    /// Kernel id of the user.
    pub uid: u32,
    /// `NETLINK_EXT_ACK`: errors come with a text.
    pub ext_ack: bool,
    /// `NETLINK_CAP_ACK`: errors come without the message.
    pub cap_ack: bool,
    /// `NETLINK_GET_STRICT_CHK`: dumps look at what they are asked for.
    pub strict: bool,
    /// Finds other namespaces.
    pub nets: &'a dyn Nets,
}

/// A message as the functions of the families see it.
#[derive(Clone, Copy)]
struct Request<'a> {
    /// Inode number of the socket's namespace.
    net: u64,
    sender: &'a Sender<'a>,
    kind: u16,
    flags: u16,
    seq: u32,
    payload: &'a [u8],
}

impl<'a> Request<'a> {
    fn is_dump(&self) -> bool {
        self.kind & 3 == 2 && self.flags & nlm_f::DUMP == nlm_f::DUMP
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The fixed structure and the attributes behind it. `EINVAL`: too short; a dump may come with the family alone.
    fn split<const N: usize>(&self) -> NlResult<([u8; N], Attrs<'a>)> {
        match self.payload.first_chunk() {
            Some(fixed) => {
                Ok((*fixed, Attrs::new(&self.payload[N.next_multiple_of(4).min(self.payload.len())..])))
            }
            None if self.is_dump() && !self.payload.is_empty() => {
                let mut fixed = [0; N];
                fixed[0] = self.payload[0];
                Ok((fixed, Attrs::default()))
            }
            None => Err(Errno::EINVAL.into()),
        }
    }

    fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(AF_UNSPEC)
    }

    /// A message of an answer.
    fn reply(&self, kind: u16, fixed: &[u8]) -> Message {
        let flags = if self.is_dump() { nlm_f::MULTI } else { 0 };
        Message::new(kind, flags, self.seq, self.sender.port, fixed)
    }
}

/// Messages of an answer, in order; those of a dump are put together.
type Replies = Vec<Vec<u8>>;

/// The text of an error.
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLMSG_MIN_TYPE`: smaller types are control messages.
const NLMSG_MIN_TYPE: u16 = 16;
/// How much of a dump goes into one datagram, in bytes (`NLMSG_GOODSIZE`).
const DUMP_SIZE: usize = 8192 - 320;

/// Serves a datagram of a program: `rtnetlink_rcv`. The datagrams that answer it, in order.
pub fn rtnetlink_rcv(ns: &NetNamespace, sender: &Sender<'_>, datagram: &[u8]) -> Vec<Vec<u8>> {
    let net = ns.common().inum();
    netlink_rcv(sender.port, sender.cap_ack, sender.ext_ack, datagram, |header, payload| {
        let request =
            Request { net, sender, kind: header.kind, flags: header.flags, seq: header.seq, payload };
        let mut replies = Replies::new();
        let result = rcv_msg(ns, &request, &mut replies);
        let dump = request.is_dump();
        (result, replies, dump)
    })
}

/// The header of a message: `struct nlmsghdr`.
#[derive(Clone, Copy)]
pub struct Header {
    /// Type.
    pub kind: u16,
    /// `NLM_F_*`
    pub flags: u16,
    /// Chosen by the sender.
    pub seq: u32,
}

/// Serves the messages of a datagram one by one, with what `serve` answers to each: its result, its messages, and whether they are
/// those of a dump (`netlink_rcv_skb`).
pub fn netlink_rcv(
    port: u32,
    cap_ack: bool,
    ext_ack: bool,
    datagram: &[u8],
    mut serve: impl FnMut(Header, &[u8]) -> (NlResult<()>, Vec<Vec<u8>>, bool),
) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    let mut rest = datagram;
    while rest.len() >= NLMSG_HDRLEN {
        let word = |at: usize| u32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
        let len = word(0) as usize;
        if len < NLMSG_HDRLEN || len > rest.len() {
            break;
        }
        let header = Header { kind: word(4) as u16, flags: (word(4) >> 16) as u16, seq: word(8) };
        let message = &rest[..len];
        rest = &rest[len.next_multiple_of(4).min(rest.len())..];
        if header.flags & nlm_f::REQUEST == 0 {
            continue;
        }
        let (result, replies, dump) = if header.kind < NLMSG_MIN_TYPE {
            (Ok(()), Vec::new(), false)
        } else {
            serve(header, &message[NLMSG_HDRLEN..])
        };
        let failed = result.is_err();
        // A dump that fails ends with its error; one that there is not is refused.
        if dump && !matches!(&result, Err(error) if matches!(error.errno, Errno::EOPNOTSUPP | Errno::EPERM)) {
            answers.extend(dumped(port, header.seq, replies, result, ext_ack));
            continue;
        }
        answers.extend(replies);
        if failed || header.flags & nlm_f::ACK != 0 {
            answers.push(ack(port, cap_ack, ext_ack, header, message, result));
        }
    }
    answers
}

/// `netlink_ack`: the error, or 0, and the message it is about.
fn ack(
    port: u32,
    cap_ack: bool,
    ext_ack: bool,
    header: Header,
    message: &[u8],
    result: NlResult<()>,
) -> Vec<u8> {
    let failed = result.is_err();
    let (errno, text) = result.err().map_or((0, None), |error| (error.errno.0, error.text));
    let text = text.filter(|_| ext_ack);
    let capped = !failed || cap_ack;
    let about = if capped { &message[..NLMSG_HDRLEN] } else { message };
    let mut flags = if capped { nlm_f::CAPPED } else { 0 };
    if text.is_some() {
        flags |= nlm_f::ACK_TLVS;
    }
    let mut fixed = (-errno).to_ne_bytes().to_vec();
    fixed.extend(about);
    let mut out = Message::new(NLMSG_ERROR, flags, header.seq, port, &fixed);
    if let Some(text) = text {
        out.put_string(NLMSGERR_ATTR_MSG, text);
    }
    out.finish()
}

/// The datagrams of a dump, with `NLMSG_DONE` at its end.
fn dumped(port: u32, seq: u32, messages: Vec<Vec<u8>>, result: NlResult<()>, ext_ack: bool) -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    for message in messages {
        match out.last_mut().filter(|last| last.len() + message.len() <= DUMP_SIZE) {
            Some(last) => last.extend(message),
            None => out.push(message),
        }
    }
    let (errno, text) = result.err().map_or((0, None), |error| (error.errno.0, error.text));
    let text = text.filter(|_| ext_ack);
    let flags = nlm_f::MULTI | if text.is_some() { nlm_f::ACK_TLVS } else { 0 };
    let mut done = Message::new(NLMSG_DONE, flags, seq, port, &(-errno).to_ne_bytes());
    if let Some(text) = text {
        done.put_string(NLMSGERR_ATTR_MSG, text);
    }
    out.push(done.finish());
    out
}

/// One message: `rtnetlink_rcv_msg`.
fn rcv_msg(ns: &NetNamespace, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    /// The last two bits of a type: new, delete, get, set.
    const GET: u16 = 2;
    if request.kind & 3 != GET && !request.sender.may_change {
        return Err(Errno::EPERM.into());
    }
    let stack = ns.stack();
    match request.kind {
        RTM_NEWLINK | RTM_SETLINK => link::newlink(stack, request, replies),
        RTM_DELLINK => link::dellink(stack, request),
        RTM_GETLINK => link::getlink(stack, request, replies),
        RTM_NEWADDR => addr::newaddr(&mut stack.lock(), request),
        RTM_DELADDR => addr::deladdr(&mut stack.lock(), request),
        RTM_GETADDR => addr::getaddr(stack, request, replies),
        RTM_NEWROUTE => route::newroute(&mut stack.lock(), request),
        RTM_DELROUTE => route::delroute(&mut stack.lock(), request),
        RTM_GETROUTE if request.is_dump() => route_fill::dump(&stack.lock(), request, replies),
        RTM_GETROUTE => route_fill::getroute(&stack.lock(), request, replies),
        RTM_NEWNEIGH => neigh::newneigh(&mut stack.lock(), request),
        RTM_DELNEIGH => neigh::delneigh(&mut stack.lock(), request),
        RTM_GETNEIGH => neigh::getneigh(&stack.lock(), request, replies),
        RTM_NEWRULE => rule::newrule(&mut stack.lock(), request),
        RTM_DELRULE => rule::delrule(&mut stack.lock(), request),
        RTM_GETRULE => rule::getrule(&stack.lock(), request, replies),
        RTM_GETNEIGHTBL => neigh::getneightbl(&stack.lock(), request, replies),
        RTM_GETNETCONF => netconf::getnetconf(&stack.lock(), request, replies),
        RTM_NEWNSID => nsid::newnsid(stack, request),
        RTM_GETNSID => nsid::getnsid(stack, request, replies),
        _ => Err(Errno::EOPNOTSUPP.into()),
    }
}

/// Most messages that wait for the members of groups; what comes then is lost.
const MAX_PENDING: usize = 4096;

impl Stack {
    /// From now on there is somebody who takes notifications.
    pub fn listen(&mut self) {
        self.listening = true;
    }

    /// Tells the members of a group in a namespace: `rtnl_notify`.
    pub(super) fn rtnl_notify(&mut self, net: u64, group: u32, message: Message) {
        if self.listening && self.pending.len() < MAX_PENDING {
            if self.pending.is_empty()
                && let Some(wake) = &self.on_notify
            {
                wake();
            }
            self.pending.push(Notification { net, group, message: message.finish() });
        }
    }

    /// What members of groups are to be told, in order.
    pub fn take_notifications(&mut self) -> Vec<Notification> {
        std::mem::take(&mut self.pending)
    }
}
