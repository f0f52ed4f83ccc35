//! Descriptors of `/dev/tapN` (`drivers/net/tap.c`), which are like those of [`/dev/net/tun`](super::tun): one read or one write is one
//! frame of the macvtap's. Writing is native and succeeds at once. Where ours differs from Linux: a frame that is refused for what is in it is
//! counted, and its writer not told; `fstat(2)` shows a socket.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_fs::dev::TAP_MAJOR;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::tap::FEATURES;
use nomina_kernel::net::{MacAddr, Stack};
use rustix::fs::makedev;

use super::super::Server;
use super::super::request::{Ctx, Reply};
use super::tun::{IFREQ_LEN, TunEnd, VNET_HDR_LEN, command, make_end, put_name, store};

/// Lets the nodes of taps come and go in the sandbox's devtmpfs, if it has one.
pub fn show_nodes(server: &Server) {
    let (Some(stack), Some(devtmpfs)) = (server.net.stack(), server.devtmpfs.clone()) else { return };
    let ahead = Arc::downgrade(&server.ahead);
    stack.lock().set_tap_node_hook(Box::new(move |number, minor, there| {
        let (name, rdev) = (format!("tap{number}"), makedev(TAP_MAJOR, minor));
        // No answer about the name that was given before holds after.
        let ahead = ahead.upgrade();
        let _changing = ahead.as_ref().map(|ahead| ahead.change());
        if there {
            devtmpfs.create_node(&name, rdev, 0o600);
        } else {
            devtmpfs.delete_node(&name, rdev);
        }
    }));
}

/// Opens the node with number `minor`.
///
/// # Errors
/// Those of [`Stack::tap_open`], `ENFILE`, and those of `socketpair(2)`.
pub fn open(server: &Arc<Server>, minor: u32, flags: u32) -> Result<OwnedFd> {
    make_end(server, flags, true, |stack, end| stack.tap_open(end.ino, minor))
}

/// `tap_ioctl`
pub(super) fn ioctl(ctx: &mut Ctx<'_>, end: &TunEnd) -> Result<Reply> {
    let seen = ctx.bytes_opt(3)?;
    let stack = ctx.server.net.stack().ok_or(Errno::EBADFD)?.clone();
    let answer = {
        let mut stack = stack.lock();
        let answer = answer(&mut stack, end.ino, ctx.uint(1), ctx.uint(2), seen.as_deref())?;
        ctx.server.net.serve(&mut stack);
        answer
    };
    store(ctx, seen.is_some(), answer)
}

/// What a command answers: the bytes that are to be stored at the address, where `seen` is what stands there.
fn answer(
    stack: &mut Stack,
    file: u64,
    command: u32,
    value: u32,
    seen: Option<&[u8]>,
) -> Result<Option<Vec<u8>>> {
    use command::*;
    let given = |len: usize| seen.and_then(|bytes| bytes.get(..len)).ok_or(Errno::EFAULT);
    let number = || given(4).map(|bytes| i32::from_ne_bytes(bytes.try_into().unwrap_or_default()));
    let flags = || given(IFREQ_LEN).map(|ifreq| u16::from_ne_bytes([ifreq[16], ifreq[17]]));
    let int = |value: i32| Ok(Some(value.to_ne_bytes().to_vec()));
    let named = |stack: &Stack| -> Result<Vec<u8>> {
        let name = &stack.tap_dev(file)?.name;
        let mut ifreq = given(IFREQ_LEN)?.to_vec();
        put_name(&mut ifreq, name);
        Ok(ifreq)
    };
    let own = stack.tap_file(file).ok_or(Errno::EBADFD)?;
    match command {
        TUNGETFEATURES => return int(FEATURES.into()),
        TUNSETIFF => stack.tap_set_iff(file, flags()?)?,
        TUNGETIFF => {
            let flags = own.flags;
            let mut ifreq = named(stack)?;
            ifreq[16..18].copy_from_slice(&flags.to_ne_bytes());
            return Ok(Some(ifreq));
        }
        TUNSETQUEUE => stack.tap_set_queue(file, flags()?)?,
        // What is written never waits.
        TUNSETSNDBUF if number()? <= 0 => return Err(Errno::EINVAL),
        TUNSETSNDBUF => {}
        TUNGETVNETHDRSZ => return int(own.vnet_hdr_sz as i32),
        TUNSETVNETHDRSZ => {
            let size = number()?;
            // The upper bound is ours: it is there in every packet that is read.
            if size < VNET_HDR_LEN || size > i32::from(u16::MAX) {
                return Err(Errno::EINVAL);
            }
            own.vnet_hdr_sz = size as usize;
        }
        TUNGETVNETLE => return int(own.vnet_le.into()),
        TUNSETVNETLE => own.vnet_le = number()? != 0,
        TUNSETOFFLOAD => stack.tap_set_offload(file, value)?,
        SIOCGIFHWADDR => {
            let mut ifreq = named(stack)?;
            let device = stack.tap_dev(file)?;
            ifreq[16..18].copy_from_slice(&device.dev_type.to_ne_bytes());
            ifreq[18..24].copy_from_slice(&device.dev_addr.0);
            return Ok(Some(ifreq));
        }
        SIOCSIFHWADDR => {
            let ifreq = given(IFREQ_LEN)?;
            stack.tap_set_address(file, MacAddr(ifreq[18..24].try_into().unwrap_or_default()))?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(None)
}
