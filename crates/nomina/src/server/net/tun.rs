//! Descriptors of `/dev/net/tun` (`drivers/net/tun.c`): one read or one write is one packet.
//!
//! Writing is native and succeeds at once. Where the driver would refuse a packet whatever is in it, because the descriptor is not
//! attached (`EBADFD`) or the device has not been up yet (`EIO`), writes of the opener report themselves, as those to
//! [control files](super::super::controls) do, and get the driver's answer. Where ours differs from Linux: a packet that is refused
//! for what is in it, or because the device went down again, is counted and its writer not told; reading from a descriptor that is not attached
//! waits instead of failing with `EBADFD`; `fstat(2)` shows a socket.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use nomina_kernel::capability::Cap;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::tun::{TunCaller, tun_flags};
use nomina_kernel::net::{DevId, MacAddr, Stack};
use nomina_kernel::task::TaskId;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::super::Server;
use super::super::controls::report_writes;
use super::super::lock::Mutex;
use super::super::request::{Ctx, Reply, host};
use super::engine::LONGEST;
use super::{engine, tap};

/// What is asked of the host for the buffers of both ends, in bytes; it gives at most `net.core.wmem_max`.
const BUFFER: usize = 4 << 20;

/// Our end of an open file, of `/dev/net/tun` or of `/dev/tapN`.
pub struct TunEnd {
    /// Inode number of the guest's end, and the file's number in the model.
    pub(super) ino: u64,
    /// It is one of `/dev/tapN` and not of `/dev/net/tun`.
    pub(super) is_tap: bool,
    ours: OwnedFd,
    state: Mutex<EndState>,
}

#[derive(Default)]
struct EndState {
    /// Packets that the socket had no room for.
    backlog: VecDeque<Vec<u8>>,
    /// Writes report themselves.
    reports: bool,
    /// What became of the latest packet, until its writer asks.
    result: Option<Result<()>>,
}

/// What taking a packet off an end gave.
pub(super) enum Taken {
    /// One.
    One,
    /// There is none.
    Nothing,
    /// The guest's end is closed.
    End,
}

impl TunEnd {
    pub(super) fn ours(&self) -> &OwnedFd {
        &self.ours
    }

    /// The file is closed for good.
    pub(super) fn close(&self, stack: &mut Stack) {
        match self.is_tap {
            true => stack.tap_release(self.ino),
            false => stack.tun_close(self.ino),
        }
    }

    /// Gives the stack what the program wrote.
    pub(super) fn take(&self, stack: &mut Stack, buffer: &mut [u8]) -> Taken {
        let len = match rustix::net::recv(&self.ours, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, 0)) if is_closed(&self.ours) => return Taken::End,
            Ok((_, len)) if len <= LONGEST => len,
            Ok(_) => return Taken::One,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Taken::Nothing,
            Err(_) => return Taken::End,
        };
        let result = match self.is_tap {
            true => stack.tap_get_user(self.ino, &buffer[..len]),
            false => stack.tun_get_user(self.ino, &buffer[..len]),
        };
        let mut state = self.state.lock().unwrap();
        if state.reports {
            state.result = Some(result);
            if result.is_ok() {
                // From now on the driver takes packets.
                state.reports = false;
                self.report_no_more();
            }
        }
        Taken::One
    }

    /// Gives the program a packet; false if neither the socket nor a queue of `room` packets has room.
    pub(super) fn send(&self, packet: Vec<u8>, room: usize) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.backlog.is_empty() {
            match rustix::net::send(&self.ours, &packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => return true,
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => {}
                Err(_) => return false,
            }
        }
        if state.backlog.len() >= room {
            return false;
        }
        state.backlog.push_back(packet);
        true
    }

    /// Gives the program what waits, as far as there is room.
    pub(super) fn flush(&self) {
        let mut state = self.state.lock().unwrap();
        while let Some(packet) = state.backlog.front() {
            if rustix::net::send(&self.ours, packet, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
                return;
            }
            state.backlog.pop_front();
        }
    }

    /// Ends the reports.
    fn report_no_more(&self) {
        // SAFETY: a descriptor of ours and integers.
        unsafe {
            let flags = libc::fcntl(self.ours.as_raw_fd(), libc::F_GETFL);
            libc::fcntl(self.ours.as_raw_fd(), libc::F_SETFL, flags & !libc::O_ASYNC);
        }
    }
}

/// Whether the guest's end of a pair is closed.
pub(super) fn is_closed(ours: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ends = [PollFd::new(ours, PollFlags::RDHUP)];
    matches!(poll(&mut ends, Some(&now)), Ok(1..))
        && ends[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP)
}

/// Opens `/dev/net/tun` for the task `caller`.
///
/// # Errors
/// Those of `socketpair(2)`; `ENFILE` when there are too many.
pub fn open(server: &Arc<Server>, caller: TaskId, flags: u32) -> Result<OwnedFd> {
    let net = {
        let kernel = server.kernel.lock().unwrap();
        let task = kernel.task(caller).ok_or(Errno::ENXIO)?;
        task.nsproxy().ok_or(Errno::ENXIO)?.net_ns().common().inum()
    };
    let thread = server.guests.by_task(caller).ok_or(Errno::ENXIO)?;
    make_end(server, flags, false, |stack, end| {
        report_writes(end.ours.as_fd(), &thread).map_err(host)?;
        end.state.lock().unwrap().reports = true;
        stack.tun_open(end.ino, net);
        Ok(())
    })
}

/// Makes a pair, tells the stack of it by `attach`, and gives the program's end.
///
/// # Errors
/// Those of `socketpair(2)` and of `attach`; `ENFILE` when there are too many.
pub(super) fn make_end(
    server: &Arc<Server>,
    flags: u32,
    is_tap: bool,
    attach: impl FnOnce(&mut Stack, &TunEnd) -> Result<()>,
) -> Result<OwnedFd> {
    let network = &server.net;
    if !network.has_room() {
        return Err(Errno::ENFILE);
    }
    let make = || -> io::Result<(OwnedFd, OwnedFd, u64)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for end in [&ours, &theirs] {
            rustix::net::sockopt::set_socket_send_buffer_size(end, BUFFER)?;
        }
        if flags & libc::O_NONBLOCK as u32 != 0 {
            let now = rustix::fs::fcntl_getfl(&theirs)?;
            rustix::fs::fcntl_setfl(&theirs, now | rustix::fs::OFlags::NONBLOCK)?;
        }
        let ino = rustix::fs::fstat(&theirs)?.st_ino;
        Ok((ours, theirs, ino))
    };
    let (ours, theirs, ino) = make().map_err(host)?;
    let end = Arc::new(TunEnd { ino, is_tap, ours, state: Mutex::default() });
    let stack = network.stack().ok_or(Errno::ENXIO)?;
    engine::start(&network.0);
    attach(&mut stack.lock(), &end)?;
    network.0.ends.lock().unwrap().insert(ino, end.clone());
    let events =
        epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if let Err(error) = epoll::add(&network.0.epoll, &end.ours, epoll::EventData::new_u64(ino), events) {
        network.0.ends.lock().unwrap().remove(&ino);
        end.close(&mut stack.lock());
        return Err(host(error));
    }
    Ok(theirs)
}

/// Closes the files whose last descriptor is gone, which the engine may not have noticed yet: the device of one is free at once.
fn close_closed(ctx: &Ctx<'_>, stack: &mut Stack) {
    let ends: Vec<_> = ctx.server.net.0.ends.lock().unwrap().values().cloned().collect();
    for end in ends.iter().filter(|end| is_closed(&end.ours)) {
        let mut buffer = vec![0; LONGEST];
        // What was written before it was closed counts. More than the socket holds cannot come any more.
        while matches!(end.take(stack, &mut buffer), Taken::One) {}
        end.close(stack);
    }
}

/// What a native write that reports itself shall have returned, if `fd` is such a descriptor.
pub fn result(ctx: &Ctx<'_>, fd: &OwnedFd) -> Option<Result<()>> {
    let network = &ctx.server.net;
    let end = network.end_of(fd)?;
    let stack = network.stack()?;
    let mut stack = stack.lock();
    let known = end.state.lock().unwrap().result.take();
    let result = match known {
        Some(result) => result,
        None => {
            end.take(&mut stack, &mut vec![0; LONGEST]);
            end.state.lock().unwrap().result.take()?
        }
    };
    network.serve(&mut stack);
    Some(result)
}

/// Commands: `_IO(R|W)('T', …)` of `<linux/if_tun.h>`.
pub(super) mod command {
    pub const TUNSETNOCSUM: u32 = 0x4004_54c8;
    pub const TUNSETDEBUG: u32 = 0x4004_54c9;
    pub const TUNSETIFF: u32 = 0x4004_54ca;
    pub const TUNSETPERSIST: u32 = 0x4004_54cb;
    pub const TUNSETOWNER: u32 = 0x4004_54cc;
    pub const TUNSETLINK: u32 = 0x4004_54cd;
    pub const TUNSETGROUP: u32 = 0x4004_54ce;
    pub const TUNGETFEATURES: u32 = 0x8004_54cf;
    pub const TUNSETOFFLOAD: u32 = 0x4004_54d0;
    pub const TUNSETTXFILTER: u32 = 0x4004_54d1;
    pub const TUNGETIFF: u32 = 0x8004_54d2;
    pub const TUNGETSNDBUF: u32 = 0x8004_54d3;
    pub const TUNSETSNDBUF: u32 = 0x4004_54d4;
    pub const TUNATTACHFILTER: u32 = 0x4010_54d5;
    pub const TUNDETACHFILTER: u32 = 0x4010_54d6;
    pub const TUNGETVNETHDRSZ: u32 = 0x8004_54d7;
    pub const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
    pub const TUNSETQUEUE: u32 = 0x4004_54d9;
    pub const TUNSETIFINDEX: u32 = 0x4004_54da;
    pub const TUNSETVNETLE: u32 = 0x4004_54dc;
    pub const TUNGETVNETLE: u32 = 0x8004_54dd;
    pub const TUNSETCARRIER: u32 = 0x4004_54e2;
    pub const SIOCGIFHWADDR: u32 = 0x8927;
    pub const SIOCSIFHWADDR: u32 = 0x8924;
}

/// Bytes of a `struct ifreq`, and of a `struct virtio_net_hdr`.
pub(super) const IFREQ_LEN: usize = 40;
pub(super) const VNET_HDR_LEN: i32 = 10;

/// `ioctl(2)` on such a descriptor, or on one of a tap: `tun_chr_ioctl`, `tap_ioctl`. `None` if it is none.
pub fn ioctl(ctx: &mut Ctx<'_>, fd: &OwnedFd) -> Option<Result<Reply>> {
    let end = ctx.server.net.end_of(fd)?;
    Some(if end.is_tap { tap::ioctl(ctx, &end) } else { serve_ioctl(ctx, &end) })
}

fn serve_ioctl(ctx: &mut Ctx<'_>, end: &TunEnd) -> Result<Reply> {
    use command::*;
    let command = ctx.uint(1);
    let seen = ctx.bytes_opt(3)?;
    let file = end.ino;
    let cred = ctx.cred();
    let stack = ctx.server.net.stack().ok_or(Errno::EBADFD)?.clone();
    // What is at the address, of which at least `len` bytes must be readable.
    let given = |len: usize| -> Result<&[u8]> {
        seen.as_deref().and_then(|bytes| bytes.get(..len)).ok_or(Errno::EFAULT)
    };
    let number = |bytes: &[u8]| i32::from_ne_bytes(bytes[..4].try_into().unwrap_or_default());
    let owner = {
        let net = stack.lock().tun_file(file).map(|file| file.net).ok_or(Errno::EBADFD)?;
        let kernel = ctx.server.kernel.lock().unwrap();
        let task = kernel.task(ctx.task()).ok_or(Errno::ESRCH)?;
        let own = task.nsproxy().ok_or(Errno::ESRCH)?.net_ns().clone();
        // A file of another namespace than the caller's: only privilege over the caller's user namespace counts.
        if own.common().inum() == net { own.common().owner().cloned() } else { Some(cred.user_ns.clone()) }
    };
    let net_admin = owner.is_some_and(|owner| cred.ns_capable(&owner, Cap::NET_ADMIN));
    let in_group = |group: u32| cred.fsgid == group || cred.egid == group || cred.groups.contains(&group);
    let caller = TunCaller { euid: cred.euid, in_group: &in_group, net_admin };
    let mut answer: Option<Vec<u8>> = None;
    let mut stack = stack.lock();
    match command {
        TUNGETFEATURES => {
            let all = tun_flags::TUN | tun_flags::TAP | tun_flags::NO_CARRIER | tun_flags::FEATURES;
            answer = Some(u32::from(all).to_ne_bytes().to_vec());
        }
        TUNSETIFF => {
            let mut ifreq = given(IFREQ_LEN)?.to_vec();
            let flags = u16::from_ne_bytes([ifreq[16], ifreq[17]]);
            let name = String::from_utf8_lossy(name_of(&ifreq)).into_owned();
            close_closed(ctx, &mut stack);
            let dev = stack.tun_set_iff(file, &name, flags, &caller)?;
            let name = stack.dev(dev).map(|dev| dev.name.clone()).unwrap_or_default();
            put_name(&mut ifreq, &name);
            answer = Some(ifreq);
        }
        TUNSETQUEUE => {
            let ifreq = given(IFREQ_LEN)?;
            stack.tun_set_queue(file, u16::from_ne_bytes([ifreq[16], ifreq[17]]))?;
        }
        TUNSETIFINDEX => {
            if stack.tun_get(file).is_ok() {
                return Err(Errno::EPERM);
            }
            stack.tun_set_ifindex(file, number(given(4)?))?;
        }
        _ => {
            let dev = stack.tun_get(file)?;
            answer = attached(ctx, &mut stack, file, dev, command, &given)?;
        }
    }
    ctx.server.net.serve(&mut stack);
    drop(stack);
    store(ctx, seen.is_some(), answer)
}

/// Stores what a command answers at the address that came with it, if that is one.
pub(super) fn store(ctx: &mut Ctx<'_>, has_address: bool, answer: Option<Vec<u8>>) -> Result<Reply> {
    if let Some(answer) = answer {
        if !has_address {
            return Err(Errno::EFAULT);
        }
        ctx.write(3, &answer)?;
        ctx.out[0] = answer.len() as u64;
    }
    Ok(().into())
}

/// Puts a device's name into a `struct ifreq`.
pub(super) fn put_name(ifreq: &mut [u8], name: &str) {
    ifreq[..16].fill(0);
    ifreq[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
}

/// The name in a `struct ifreq`.
fn name_of(ifreq: &[u8]) -> &[u8] {
    ifreq[..15].split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Commands of a descriptor that is attached to `dev`. Gives what is to be stored at the address.
fn attached<'a>(
    ctx: &Ctx<'_>,
    stack: &mut Stack,
    file: u64,
    dev: DevId,
    command: u32,
    given: &dyn Fn(usize) -> Result<&'a [u8]>,
) -> Result<Option<Vec<u8>>> {
    use command::*;
    let value = ctx.uint(2);
    let int = |value: i32| Ok(Some(value.to_ne_bytes().to_vec()));
    let number = || given(4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    let is_tap = stack.tun_flags(dev) & tun_flags::TAP != 0;
    match command {
        TUNGETIFF => {
            let (name, flags) = stack.tun_get_iff(file)?;
            let mut ifreq = given(IFREQ_LEN)?.to_vec();
            put_name(&mut ifreq, &name);
            ifreq[16..18].copy_from_slice(&flags.to_ne_bytes());
            return Ok(Some(ifreq));
        }
        TUNSETNOCSUM | TUNSETDEBUG => {}
        TUNSETPERSIST => stack.tun_set_persist(dev, value != 0),
        TUNSETOWNER => {
            let owner = ctx.cred().user_ns.make_kuid(value).ok_or(Errno::EINVAL)?;
            stack.tun_set_owner(dev, Some(owner), None);
        }
        TUNSETGROUP => {
            let group = ctx.cred().user_ns.make_kgid(value).ok_or(Errno::EINVAL)?;
            stack.tun_set_owner(dev, None, Some(group));
        }
        TUNSETLINK => stack.tun_set_link(dev, value as u16)?,
        TUNSETOFFLOAD => stack.tun_set_offload(dev, value)?,
        TUNSETTXFILTER if !is_tap => return Err(Errno::EINVAL),
        TUNSETTXFILTER => {
            const TUN_FLT_ALLMULTI: u16 = 1;
            let head = given(4)?;
            let half = |at: usize| u16::from_ne_bytes([head[at], head[at + 1]]);
            let (flags, count) = (half(0), usize::from(half(2)));
            let bytes = given(4 + 6 * count)?;
            let addresses = bytes[4..].chunks_exact(6);
            let addresses = addresses.map(|bytes| MacAddr(bytes.try_into().unwrap_or_default())).collect();
            let filter = (count > 0).then_some((addresses, flags & TUN_FLT_ALLMULTI != 0));
            stack.tun_state(dev).tx_filter = filter;
        }
        TUNGETSNDBUF => return int(stack.tun_state(dev).sndbuf),
        TUNSETSNDBUF => {
            let size = number()?;
            if size <= 0 {
                return Err(Errno::EINVAL);
            }
            stack.tun_state(dev).sndbuf = size;
        }
        TUNGETVNETHDRSZ => return int(stack.tun_state(dev).vnet_hdr_sz as i32),
        TUNSETVNETHDRSZ => {
            let size = number()?;
            if size < VNET_HDR_LEN || size > i32::from(u16::MAX) {
                return Err(Errno::EINVAL);
            }
            stack.tun_state(dev).vnet_hdr_sz = size as usize;
        }
        TUNGETVNETLE => return int(i32::from(!stack.tun_state(dev).vnet_be)),
        // The host's own order is little endian; the other is not offered (`CONFIG_TUN_VNET_CROSS_LE`).
        TUNSETVNETLE => drop(number()?),
        TUNATTACHFILTER | TUNDETACHFILTER if !is_tap => return Err(Errno::EINVAL),
        TUNATTACHFILTER => {
            let program = ctx.bytes_opt(4)?.ok_or(Errno::EFAULT)?;
            stack.tun_state(dev).filter = Some(super::parse_filter(&program)?);
        }
        TUNDETACHFILTER => stack.tun_state(dev).filter = None,
        TUNSETCARRIER => stack.tun_set_carrier(dev, number()? != 0)?,
        SIOCGIFHWADDR => {
            let mut ifreq = given(IFREQ_LEN)?.to_vec();
            let device = stack.dev(dev).ok_or(Errno::EBADFD)?;
            ifreq[16..18].copy_from_slice(&device.dev_type.to_ne_bytes());
            ifreq[18..24].copy_from_slice(&device.dev_addr.0);
            ifreq[24..32].fill(0);
            return Ok(Some(ifreq));
        }
        SIOCSIFHWADDR => {
            let ifreq = given(IFREQ_LEN)?;
            let address = MacAddr(ifreq[18..24].try_into().unwrap_or_default());
            stack.dev_set_mac_address(dev, address)?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(None)
}
