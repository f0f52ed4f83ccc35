//! Options of netlink sockets: `SOL_NETLINK` (`netlink(7)`), and what every socket tells of itself.

use std::sync::atomic::Ordering;

use nomina_kernel::errno::{Errno, Result};

use super::super::net::parse_filter;
use super::super::request::{Ctx, Reply};
use super::NetlinkSocket;
use super::family::Family;

/// `SOL_NETLINK`
const SOL_NETLINK: i32 = 270;
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const PKTINFO: i32 = 3;
const BROADCAST_ERROR: i32 = 4;
const NO_ENOBUFS: i32 = 5;
const LISTEN_ALL_NSID: i32 = 8;
const LIST_MEMBERSHIPS: i32 = 9;
/// `NETLINK_CAP_ACK`
pub const CAP_ACK: i32 = 10;
/// `NETLINK_EXT_ACK`
pub const EXT_ACK: i32 = 11;
/// `NETLINK_GET_STRICT_CHK`
pub const GET_STRICT_CHK: i32 = 12;

/// `setsockopt(2)`; `None` for options that are not netlink's.
///
/// # Errors
/// `EINVAL`: a short value, or no such group. `ENOPROTOOPT`: no such option. `EOPNOTSUPP`: those that are not served:
/// `NETLINK_PKTINFO` and `NETLINK_LISTEN_ALL_NSID`.
pub fn set_option(ctx: &Ctx<'_>, socket: &NetlinkSocket) -> Option<Result<Reply>> {
    let option = ctx.int(2);
    // There is no message that it could keep away: the sandbox has no devices that come and go. udev's monitors set one.
    if ctx.int(1) == libc::SOL_SOCKET && matches!(socket.family, Family::KobjectUevent) {
        return match option {
            libc::SO_ATTACH_FILTER => {
                let check = || parse_filter(&ctx.bytes(3)?).map(|_| ().into());
                Some(check())
            }
            libc::SO_DETACH_FILTER => Some(Ok(().into())),
            _ => None,
        };
    }
    if ctx.int(1) != SOL_NETLINK {
        return None;
    }
    let serve = || -> Result<Reply> {
        let value = ctx.bytes(3)?;
        let value = u32::from_ne_bytes(value.get(..4).and_then(|b| b.try_into().ok()).ok_or(Errno::EINVAL)?);
        match option {
            ADD_MEMBERSHIP | DROP_MEMBERSHIP => {
                if value == 0 || value > socket.family.groups() {
                    return Err(Errno::EINVAL);
                }
                let bit = 1u64 << (value - 1);
                if option == ADD_MEMBERSHIP {
                    socket.groups.fetch_or(bit, Ordering::Relaxed);
                } else {
                    socket.groups.fetch_and(!bit, Ordering::Relaxed);
                }
            }
            BROADCAST_ERROR | NO_ENOBUFS | CAP_ACK | EXT_ACK | GET_STRICT_CHK => {
                let bit = 1u32 << option;
                if value != 0 {
                    socket.options.fetch_or(bit, Ordering::Relaxed);
                } else {
                    socket.options.fetch_and(!bit, Ordering::Relaxed);
                }
            }
            PKTINFO | LISTEN_ALL_NSID if value == 0 => {}
            PKTINFO | LISTEN_ALL_NSID => return Err(Errno::EOPNOTSUPP),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(().into())
    };
    Some(serve())
}

/// `getsockopt(2)`; `None` for options that the host answers rightly.
///
/// # Errors
/// `EINVAL`: no room for a number. `ENOPROTOOPT`: no such option.
pub fn get_option(ctx: &mut Ctx<'_>, socket: &NetlinkSocket) -> Option<Result<Reply>> {
    let number = match (ctx.int(1), ctx.int(2)) {
        (libc::SOL_SOCKET, libc::SO_DOMAIN) => libc::AF_NETLINK as u32,
        (libc::SOL_SOCKET, libc::SO_PROTOCOL) => socket.family.protocol() as u32,
        (libc::SOL_SOCKET, libc::SO_TYPE) => libc::SOCK_RAW as u32,
        (SOL_NETLINK, LIST_MEMBERSHIPS) => return Some(memberships(ctx, socket)),
        (
            SOL_NETLINK,
            option @ (PKTINFO | BROADCAST_ERROR | NO_ENOBUFS | LISTEN_ALL_NSID | CAP_ACK | EXT_ACK
            | GET_STRICT_CHK),
        ) => socket.has_option(option).into(),
        (SOL_NETLINK, _) => return Some(Err(Errno::ENOPROTOOPT)),
        _ => return None,
    };
    if ctx.args[4] < 4 {
        return Some(Err(Errno::EINVAL));
    }
    ctx.out[0] = 4;
    Some(ctx.write(3, &number.to_ne_bytes()).map(Into::into))
}

/// `NETLINK_LIST_MEMBERSHIPS`: a bit for each group, as many words as there is room for; the length is what all take.
fn memberships(ctx: &mut Ctx<'_>, socket: &NetlinkSocket) -> Result<Reply> {
    let groups = socket.groups.load(Ordering::Relaxed).to_ne_bytes();
    let all = (socket.family.groups() as usize).div_ceil(32) * 4;
    let room = (ctx.args[4] as usize).min(all) & !3;
    ctx.out[0] = all as u64;
    ctx.write(3, &groups[..room])?;
    Ok(().into())
}
