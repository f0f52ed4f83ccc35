//! The families of netlink that are served: `NETLINK_ROUTE`; `NETLINK_GENERIC`, in which no family is registered, so that programs
//! go on without; `NETLINK_KOBJECT_UEVENT`, on which nothing is ever heard; and `NETLINK_SOCK_DIAG`. For all others there is no socket, as
//! on a kernel built without them: programs for netfilter say that the protocol is not supported.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_kernel::errno::Errno;
use nomina_kernel::net::nlattr::NlError;
use nomina_kernel::net::rtnetlink::{Sender, netlink_rcv, rtnetlink_rcv};

use super::super::Server;
use super::options::{CAP_ACK, EXT_ACK, GET_STRICT_CHK};
use super::sender::Process;
use super::{NetlinkSocket, sock_diag};

/// A family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `NETLINK_ROUTE`
    Route,
    /// `NETLINK_KOBJECT_UEVENT`
    KobjectUevent,
    /// `NETLINK_GENERIC`
    Generic,
    /// `NETLINK_SOCK_DIAG`
    SockDiag,
}

impl Family {
    /// By the protocol of `socket(2)`.
    pub fn from_protocol(protocol: i32) -> Option<Family> {
        match protocol {
            libc::NETLINK_ROUTE => Some(Family::Route),
            libc::NETLINK_KOBJECT_UEVENT => Some(Family::KobjectUevent),
            libc::NETLINK_GENERIC => Some(Family::Generic),
            libc::NETLINK_SOCK_DIAG => Some(Family::SockDiag),
            _ => None,
        }
    }

    /// `NETLINK_*`
    pub fn protocol(self) -> i32 {
        match self {
            Family::Route => libc::NETLINK_ROUTE,
            Family::KobjectUevent => libc::NETLINK_KOBJECT_UEVENT,
            Family::Generic => libc::NETLINK_GENERIC,
            Family::SockDiag => libc::NETLINK_SOCK_DIAG,
        }
    }

    /// The highest group.
    pub fn groups(self) -> u32 {
        match self {
            Family::Route => nomina_kernel::net::rtnetlink::rtnlgrp::MAX,
            Family::KobjectUevent => 1,
            Family::Generic => 32,
            // SKNLGRP_INET6_UDP_DESTROY
            Family::SockDiag => 4,
        }
    }
}

/// The datagrams that answer one from the process with host pid `host_pid`.
pub fn answer(
    server: &Arc<Server>,
    socket: &NetlinkSocket,
    host_pid: Option<i32>,
    datagram: &[u8],
) -> Vec<Vec<u8>> {
    let port = socket.port.load(Ordering::Relaxed);
    let (cap_ack, ext_ack) = (socket.has_option(CAP_ACK), socket.has_option(EXT_ACK));
    match socket.family {
        Family::KobjectUevent => Vec::new(),
        Family::SockDiag => {
            let process = Process::new(server, host_pid);
            netlink_rcv(port, cap_ack, ext_ack, datagram, |header, payload| {
                sock_diag::answer(server, socket, &process, header, payload)
            })
        }
        Family::Generic => netlink_rcv(port, cap_ack, ext_ack, datagram, |header, _| {
            /// `GENL_ID_CTRL`: the family that knows the others.
            const GENL_ID_CTRL: u16 = 16;
            /// `NLM_F_DUMP`
            const DUMP: u16 = 0x300;
            let dump = header.flags & DUMP == DUMP;
            let result = match header.kind {
                GENL_ID_CTRL if dump => Ok(()),
                _ => Err(NlError { errno: Errno::ENOENT, text: None }),
            };
            (result, Vec::new(), dump)
        }),
        Family::Route => {
            let process = Process::new(server, host_pid);
            server.net_stack.lock().set_now(server.now());
            let sender = Sender {
                port,
                may_change: socket.may_change && process.net_admin_over(&socket.net),
                uid: process.uid(),
                ext_ack,
                cap_ack,
                strict: socket.has_option(GET_STRICT_CHK),
                nets: &process,
            };
            rtnetlink_rcv(&socket.net, &sender, datagram)
        }
    }
}
