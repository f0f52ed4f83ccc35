//! The host's network as it shows itself to everybody: devices, addresses and routes (`rtnetlink(7)`).

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`
const FLAGS: u16 = 0x301;
const HEADER: usize = 16;
/// Room for a datagram of a dump: the kernel's are at most 32 KiB.
const ROOM: usize = 64 << 10;

/// What the host tells of its devices, then of their addresses, then of its routes: messages one behind the other.
///
/// # Errors
/// Those of the socket, and of what the host answers.
pub fn dump() -> io::Result<Vec<u8>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // `NETLINK_ROUTE`
        None,
    )?;
    let mut all = Vec::new();
    let mut buffer = vec![0; ROOM];
    for kind in [RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE] {
        // The longest of the structures that may follow: all begin with a family, which is to be any.
        let mut request = [0; HEADER + 16];
        request[..4].copy_from_slice(&(HEADER as u32 + 16).to_ne_bytes());
        request[4..6].copy_from_slice(&kind.to_ne_bytes());
        request[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
        rustix::net::send(&socket, &request, SendFlags::empty())?;
        while {
            let (len, _) = rustix::net::recv(&socket, &mut *buffer, RecvFlags::empty())?;
            take(&buffer[..len], &mut all)?
        } {}
    }
    Ok(all)
}

/// Takes the messages of a datagram; false: that was the last one.
fn take(datagram: &[u8], all: &mut Vec<u8>) -> io::Result<bool> {
    let mut rest = datagram;
    while let Some(header) = rest.first_chunk::<HEADER>() {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let padded = len.next_multiple_of(4).min(rest.len());
        if len < HEADER || len > rest.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match u16::from_ne_bytes([header[4], header[5]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let errno = rest.get(HEADER..HEADER + 4).and_then(|bytes| bytes.first_chunk().copied());
                return Err(io::Error::from_raw_os_error(-i32::from_ne_bytes(errno.unwrap_or_default())));
            }
            _ => all.extend(&rest[..padded]),
        }
        rest = &rest[padded..];
    }
    Ok(!datagram.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_tells_of_its_loopback_device() {
        let dump = dump().unwrap();
        assert!(dump.windows(3).any(|bytes| bytes == b"lo\0"));
        assert_eq!(dump.len() % 4, 0);
    }
}
