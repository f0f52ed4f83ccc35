//! Numbers by which a namespace knows others (`net/core/net_namespace.c`): `RTM_NEWNSID`, `RTM_GETNSID`.

use super::super::nlattr::{Message, NlResult};
use super::super::stack::{NetStack, Stack};
use super::{NetRef, RTM_NEWNSID, Replies, Request, rtnlgrp};
use crate::errno::Errno;

/// `NETNSA_*`
const NETNSA_NSID: u16 = 1;
const NETNSA_PID: u16 = 2;
const NETNSA_FD: u16 = 3;

/// `NETNSA_NSID_NOT_ASSIGNED`
const NOT_ASSIGNED: i32 = -1;

fn peer(request: &Request<'_>) -> NlResult<(Option<NetRef>, Option<i32>)> {
    let (_, attrs) = request.split::<4>()?;
    let nsid = attrs.i32(NETNSA_NSID)?;
    let peer = if let Some(pid) = attrs.u32(NETNSA_PID)? {
        Some(request.sender.nets.by_pid(pid)?)
    } else if let Some(fd) = attrs.u32(NETNSA_FD)? {
        Some(request.sender.nets.by_fd(fd)?)
    } else {
        None
    };
    Ok((peer, nsid))
}

/// `rtnl_net_newid`
pub(super) fn newnsid(stack: &NetStack, request: &Request<'_>) -> NlResult<()> {
    let (peer, nsid) = peer(request)?;
    let nsid = nsid.ok_or(Errno::EINVAL.with("nsid is missing"))?;
    let peer = peer.ok_or(Errno::EINVAL.with("Peer netns reference is missing"))?;
    let mut stack = stack.lock();
    let net = stack.net_mut(request.net).ok_or(Errno::ENODEV)?;
    if net.nsids.values().any(|known| *known == peer.inum) {
        return Err(Errno::EEXIST.with("Peer netns already has a nsid assigned"));
    }
    let nsid = match nsid {
        NOT_ASSIGNED => net.alloc_nsid(),
        nsid if nsid < 0 => return Err(Errno::EINVAL.into()),
        nsid if net.nsids.contains_key(&nsid) => {
            return Err(Errno::EEXIST.with("The specified nsid is already used"));
        }
        nsid => nsid,
    };
    net.nsids.insert(nsid, peer.inum);
    stack.notify_nsid(request.net, nsid);
    Ok(())
}

/// `rtnl_net_getid`, `rtnl_net_dumpid`
pub(super) fn getnsid(stack: &NetStack, request: &Request<'_>, replies: &mut Replies) -> NlResult<()> {
    let reply = |nsid: i32| {
        let mut message = request.reply(RTM_NEWNSID, &[0; 4]);
        message.put_u32(NETNSA_NSID, nsid as u32);
        message.finish()
    };
    if request.is_dump() {
        let stack = stack.lock();
        let net = stack.net(request.net).ok_or(Errno::ENODEV)?;
        replies.extend(net.nsids.keys().map(|nsid| reply(*nsid)));
        return Ok(());
    }
    let (peer, nsid) = peer(request)?;
    let stack = stack.lock();
    let net = stack.net(request.net).ok_or(Errno::ENODEV)?;
    let found = match (peer, nsid) {
        (Some(peer), _) => net.nsid_of(peer.inum).unwrap_or(NOT_ASSIGNED),
        (None, Some(nsid)) if net.nsids.contains_key(&nsid) => nsid,
        (None, Some(_)) => return Err(Errno::ENOENT.with("Peer netns reference is invalid")),
        (None, None) => return Err(Errno::EINVAL.with("Peer netns reference is missing")),
    };
    replies.push(reply(found));
    Ok(())
}

impl Stack {
    /// The number by which namespace `of` knows namespace `peer`, made where there is none: `peernet2id_alloc`.
    pub(super) fn peernet2id_alloc(&mut self, of: u64, peer: u64) -> Option<i32> {
        let net = self.net_mut(of)?;
        if let Some(nsid) = net.nsid_of(peer) {
            return Some(nsid);
        }
        let nsid = net.alloc_nsid();
        net.nsids.insert(nsid, peer);
        self.notify_nsid(of, nsid);
        Some(nsid)
    }

    fn notify_nsid(&mut self, net: u64, nsid: i32) {
        let mut message = Message::new(RTM_NEWNSID, 0, 0, 0, &[0; 4]);
        message.put_u32(NETNSA_NSID, nsid as u32);
        self.rtnl_notify(net, rtnlgrp::NSID, message);
    }
}
