//! Raw sockets and ping sockets (`raw(7)`, `icmp(7)`; `net/ipv4/raw.c`, `ping.c`, `net/ipv6/raw.c`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{IpProtocol, Ipv4Packet};

use super::core::offload::transport_sum;
use super::core::skbuff::{SkBuff, eth_p};
use super::core::softirq::{Ancillary, Message, Out};
use super::dev::DevId;
use super::fib::Flow;
use super::ipv4::{self, IpOut, ipproto};
use super::ipv6;
use super::stack::Stack;
use crate::errno::{Errno, Result};

/// What kind of socket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawKind {
    /// `SOCK_RAW`
    Raw,
    /// `SOCK_DGRAM` of `IPPROTO_ICMP`: echo requests with an identifier of its own, and their replies.
    Ping,
}

/// A raw or ping socket: `struct raw_sock`.
#[derive(Clone, Debug)]
pub struct RawSocket {
    /// Its namespace.
    pub net: u64,
    /// What kind it is.
    pub kind: RawKind,
    /// Of `AF_INET6`.
    pub is_v6: bool,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// The address it is bound to.
    pub bound: Option<IpAddr>,
    /// The address it is connected to.
    pub peer: Option<IpAddr>,
    /// Identifier of a ping socket; 0: none yet.
    pub ident: u16,
    /// The device it is bound to: `SO_BINDTODEVICE`.
    pub oif: Option<DevId>,
    /// `IP_HDRINCL`
    pub header_included: bool,
    /// `ICMP_FILTER`, `ICMPV6_FILTER`: types that are not wanted have their bit set.
    pub icmp_filter: [u32; 8],
    /// `IPV6_CHECKSUM`: where the checksum stands.
    pub checksum_at: Option<u16>,
    /// `IP_TTL`, `IPV6_UNICAST_HOPS`
    pub ttl: Option<u8>,
    /// `IP_MULTICAST_TTL`, `IPV6_MULTICAST_HOPS`
    pub multicast_ttl: u8,
    /// `IP_MULTICAST_LOOP`
    pub multicast_loop: bool,
    /// `IP_TOS`, `IPV6_TCLASS`
    pub tos: u8,
    /// `IP_MTU_DISCOVER` forbids fragments.
    pub dont_fragment: bool,
    /// `SO_BROADCAST`
    pub broadcast: bool,
}

impl RawSocket {
    /// A socket with the defaults.
    pub fn new(net: u64, kind: RawKind, is_v6: bool, protocol: u8) -> RawSocket {
        RawSocket {
            net,
            kind,
            is_v6,
            protocol,
            bound: None,
            peer: None,
            ident: 0,
            oif: None,
            header_included: protocol == ipproto::RAW,
            icmp_filter: [0; 8],
            checksum_at: (is_v6 && protocol == ipproto::ICMPV6).then_some(2),
            ttl: None,
            multicast_ttl: 1,
            multicast_loop: true,
            tos: 0,
            dont_fragment: false,
            broadcast: false,
        }
    }

    fn wants(&self, net: u64, dev: DevId, protocol: u8, source: IpAddr, destination: IpAddr) -> bool {
        self.net == net
            && self.kind == RawKind::Raw
            && self.is_v6 == destination.is_ipv6()
            && self.protocol == protocol
            && self.bound.is_none_or(|own| own == destination)
            && self.peer.is_none_or(|peer| peer == source)
            && self.oif.is_none_or(|oif| oif == dev)
    }

    fn filters_out(&self, kind: Option<&u8>) -> bool {
        let Some(kind) = kind.copied() else { return true };
        // Of ICMP only the first 32 types can be chosen.
        if !self.is_v6 && kind >= 32 {
            return false;
        }
        self.icmp_filter[usize::from(kind) / 32] & 1 << (kind % 32) != 0
    }
}

/// A `struct sockaddr_in` or `sockaddr_in6` without a port. `scope`: index of the device, for addresses of a link.
pub fn sockaddr(address: IpAddr, scope: u32) -> Vec<u8> {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    let mut bytes;
    match address {
        IpAddr::V4(address) => {
            bytes = AF_INET.to_ne_bytes().to_vec();
            bytes.extend([0; 2]);
            bytes.extend(address.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(address) => {
            bytes = AF_INET6.to_ne_bytes().to_vec();
            bytes.extend([0; 6]);
            bytes.extend(address.octets());
            let scope = if super::core::is_link_scope(address) { scope } else { 0 };
            bytes.extend(scope.to_ne_bytes());
        }
    }
    bytes
}

impl Stack {
    /// Gives a packet for us to raw sockets: `raw_local_deliver`. Gives whether one took it.
    pub(super) fn raw_deliver(&mut self, net: u64, protocol: u8, skb: &SkBuff) -> bool {
        if self.raw_sockets.is_empty() {
            return false;
        }
        let Ok(packet) = Ipv4Packet::new_checked(skb.network()) else { return false };
        let (source, destination) = (IpAddr::V4(packet.src_addr()), IpAddr::V4(packet.dst_addr()));
        let kind = skb.network().get(usize::from(packet.header_len()));
        let ancillary = self.ancillary_of(skb, destination);
        let mut taken = Vec::new();
        for (id, socket) in &self.raw_sockets {
            if !socket.wants(net, skb.dev, protocol, source, destination) {
                continue;
            }
            if protocol == ipproto::ICMP && socket.filters_out(kind) {
                continue;
            }
            taken.push((*id, skb.network().to_vec()));
        }
        self.hand_to_sockets(taken, source, ancillary)
    }

    /// The same of IPv6, whose payload begins at `at`: `ipv6_raw_deliver`. Raw sockets get it without its header.
    pub(super) fn raw6_deliver(&mut self, net: u64, protocol: u8, at: usize, skb: &SkBuff) -> bool {
        if self.raw_sockets.is_empty() {
            return false;
        }
        let Some((source, destination)) = ipv6::addresses(skb.network()) else { return false };
        let (source, destination) = (IpAddr::V6(source), IpAddr::V6(destination));
        let payload = &skb.network()[at..];
        let ancillary = self.ancillary_of(skb, destination);
        let mut taken = Vec::new();
        for (id, socket) in &self.raw_sockets {
            if !socket.wants(net, skb.dev, protocol, source, destination) {
                continue;
            }
            if protocol == ipproto::ICMPV6 && socket.filters_out(payload.first()) {
                continue;
            }
            let sound = || transport_sum(source, destination, IpProtocol::from(protocol), payload) == 0xffff;
            if socket.checksum_at.is_none() || sound() {
                taken.push((*id, payload.to_vec()));
            }
        }
        self.hand_to_sockets(taken, source, ancillary)
    }

    fn hand_to_sockets(&mut self, taken: Vec<(u64, Vec<u8>)>, source: IpAddr, ancillary: Ancillary) -> bool {
        let any = !taken.is_empty();
        for (socket, data) in taken {
            let message = Message {
                source: sockaddr(source, ancillary.ifindex),
                original_len: data.len(),
                data,
                ancillary,
            };
            self.hand_out(Out::Socket { socket, message });
        }
        any
    }

    /// What a packet of ours tells beside its data.
    pub fn ancillary_of(&self, skb: &SkBuff, destination: IpAddr) -> Ancillary {
        let network = skb.network();
        let at = |index: usize| network.get(index).copied().unwrap_or(0);
        let (ttl, tos) = match destination {
            IpAddr::V4(_) => (at(8), at(1)),
            IpAddr::V6(_) => (at(7), at(0) << 4 | at(1) >> 4),
        };
        let ifindex = self.dev(skb.dev).map_or(0, |dev| dev.ifindex);
        Ancillary { ifindex, ttl, tos, destination: Some(destination), mac_len: 0 }
    }

    /// An echo reply has come: `ping_rcv`.
    pub(super) fn ping_rcv(&mut self, net: u64, source: IpAddr, skb: &SkBuff) {
        let is_v6 = source.is_ipv6();
        let at = match is_v6 {
            false => usize::from(skb.network()[0] & 0xf) * 4,
            true => match ipv6::skip_exthdr(skb.network()) {
                Some((_, at, _)) => at,
                None => return,
            },
        };
        let Some(message) = skb.network().get(at..).filter(|message| message.len() >= 8) else { return };
        let ident = u16::from_be_bytes([message[4], message[5]]);
        let destination = match is_v6 {
            false => Ipv4Packet::new_unchecked(skb.network()).dst_addr().into(),
            true => match ipv6::addresses(skb.network()) {
                Some((_, destination)) => IpAddr::V6(destination),
                None => return,
            },
        };
        let found = self.raw_sockets.iter().find(|(_, socket)| {
            socket.net == net
                && socket.kind == RawKind::Ping
                && socket.is_v6 == is_v6
                && socket.ident == ident
                && socket.bound.is_none_or(|own| own == destination)
                && socket.oif.is_none_or(|oif| oif == skb.dev)
        });
        if let Some((id, _)) = found {
            let taken = vec![(*id, message.to_vec())];
            let ancillary = self.ancillary_of(skb, destination);
            self.hand_to_sockets(taken, source, ancillary);
        }
    }

    /// An error about a packet of a raw or ping socket: only connected ones are told (`raw_err`).
    pub(super) fn raw_error(
        &mut self,
        net: u64,
        protocol: u8,
        own: IpAddr,
        destination: IpAddr,
        errno: Errno,
        fatal: bool,
    ) {
        let told: Vec<u64> = self
            .raw_sockets
            .iter()
            .filter(|(_, socket)| {
                socket.net == net
                    && socket.protocol == protocol
                    && socket.peer == Some(destination)
                    && socket.bound.is_none_or(|bound| bound == own)
                    && fatal
            })
            .map(|(id, _)| *id)
            .collect();
        for socket in told {
            self.hand_out(Out::SocketError { socket, errno });
        }
    }

    /// A free identifier, or the one that is wanted: `ping_get_port`.
    ///
    /// # Errors
    /// `EADDRINUSE`
    pub fn ping_get_port(&mut self, socket: u64, wanted: u16) -> Result<()> {
        let own = self.raw_sockets.get(&socket).ok_or(Errno::EBADF)?;
        let (net, is_v6) = (own.net, own.is_v6);
        let start = self.random() as u16;
        let taken = |ident: u16| {
            self.raw_sockets.iter().any(|(id, other)| {
                *id != socket
                    && other.net == net
                    && other.kind == RawKind::Ping
                    && other.is_v6 == is_v6
                    && other.ident == ident
            })
        };
        let ident = match wanted {
            0 => (0..=u16::MAX).map(|n| start.wrapping_add(n)).find(|ident| *ident != 0 && !taken(*ident)),
            wanted => Some(wanted).filter(|ident| !taken(*ident)),
        };
        let ident = ident.ok_or(Errno::EADDRINUSE)?;
        if let Some(own) = self.raw_sockets.get_mut(&socket) {
            own.ident = ident;
        }
        Ok(())
    }

    /// Sends by a raw or ping socket: `raw_sendmsg`, `rawv6_sendmsg`, `ping_v4_sendmsg`. `scope`: the device of an address of a link.
    ///
    /// # Errors
    /// `EDESTADDRREQ`: no address, and not connected. `EINVAL`: a ping socket's message is no echo request. `EACCES`: to a
    /// broadcast address without `SO_BROADCAST`. `EMSGSIZE`. Then those of [`Stack::ip_send`].
    pub fn raw_send(&mut self, socket: u64, to: Option<(IpAddr, u32)>, data: &[u8]) -> Result<()> {
        let own = self.raw_sockets.get(&socket).ok_or(Errno::EBADF)?.clone();
        let (to, scope) = match to {
            Some(to) => to,
            None => (own.peer.ok_or(Errno::EDESTADDRREQ)?, 0),
        };
        if to.is_ipv6() != own.is_v6 {
            return Err(Errno::EAFNOSUPPORT);
        }
        if data.len() > usize::from(u16::MAX) {
            return Err(Errno::EMSGSIZE);
        }
        let scope = self.dev_get_by_index(own.net, scope).map(|dev| dev.id);
        let is_group = match to {
            IpAddr::V4(to) => to.is_multicast(),
            IpAddr::V6(to) => to.is_multicast(),
        };
        let mut out = IpOut::to(to, own.protocol);
        out.source = own.bound;
        out.oif = own.oif.or(scope);
        out.tos = own.tos;
        out.ttl = if is_group { Some(own.multicast_ttl) } else { own.ttl };
        out.multicast_loop = own.multicast_loop;
        out.dont_fragment = own.dont_fragment;
        if own.header_included && !own.is_v6 {
            return self.raw_send_hdrinc(&own, &out, data);
        }
        let flow =
            Flow { saddr: out.source, oif: out.oif, tos: out.tos, proto: out.protocol, ..Flow::to(to) };
        let dst = self.route_output(own.net, &flow)?;
        if dst.kind == super::fib::RouteType::Broadcast && !own.broadcast {
            return Err(Errno::EACCES);
        }
        let mut data = data.to_vec();
        if own.kind == RawKind::Ping {
            self.ping_prepare(socket, &mut data)?;
        }
        let source = out.source.unwrap_or(dst.prefsrc);
        out.source = Some(source);
        match own.checksum_at.map(usize::from) {
            Some(at) if own.is_v6 => {
                let Some(field) = data.get_mut(at..at + 2) else { return Err(Errno::EINVAL) };
                field.fill(0);
                let sum = !transport_sum(source, to, IpProtocol::from(own.protocol), &data);
                data[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            _ => {}
        }
        self.ip_send(own.net, &out, &data)
    }

    /// `ping_common_sendmsg`: only echo requests, and with the socket's own identifier.
    fn ping_prepare(&mut self, socket: u64, data: &mut [u8]) -> Result<()> {
        let own = self.raw_sockets.get(&socket).ok_or(Errno::EBADF)?;
        let request = if own.is_v6 { 128 } else { 8 };
        if data.len() < 8 || data[0] != request || data[1] != 0 {
            return Err(Errno::EINVAL);
        }
        let is_v6 = own.is_v6;
        if own.ident == 0 {
            self.ping_get_port(socket, 0)?;
        }
        let ident = self.raw_sockets.get(&socket).map_or(0, |own| own.ident);
        data[4..6].copy_from_slice(&ident.to_be_bytes());
        if !is_v6 {
            ipv4::icmp_checksum(data);
        }
        Ok(())
    }

    /// `raw_send_hdrinc`: the header is the program's; what it leaves empty is filled in.
    fn raw_send_hdrinc(&mut self, own: &RawSocket, out: &IpOut, data: &[u8]) -> Result<()> {
        const HEADER_LEN: usize = 20;
        if data.len() < HEADER_LEN {
            return Err(Errno::EINVAL);
        }
        let flow = Flow { saddr: out.source, oif: out.oif, ..Flow::to(out.destination) };
        let dst = self.route_output(own.net, &flow)?;
        if data.len() > dst.mtu as usize {
            return Err(Errno::EMSGSIZE);
        }
        let header_len = usize::from(data[0] & 0xf) * 4;
        if header_len < HEADER_LEN || header_len > data.len() {
            return Err(Errno::EINVAL);
        }
        let mut bytes = data.to_vec();
        let source = Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[12..16]).unwrap_or_default());
        if source.is_unspecified()
            && let IpAddr::V4(prefsrc) = dst.prefsrc
        {
            bytes[12..16].copy_from_slice(&prefsrc.octets());
        }
        let len = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        if bytes[4..6] == [0, 0] {
            let ident = self.random() as u16;
            bytes[4..6].copy_from_slice(&ident.to_be_bytes());
        }
        ipv4::ip_send_check(&mut bytes);
        let skb = SkBuff::new(dst.dev, eth_p::IP, &bytes);
        self.ip_output(own.net, &dst, skb, out.multicast_loop)
    }
}

/// The unspecified address of a family.
pub fn unspecified(is_v6: bool) -> IpAddr {
    if is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}
