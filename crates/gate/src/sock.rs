//! The hidden sockets: how handles reach guests (`SCM_RIGHTS`, `unix(7)`).
//!
//! Four times cheaper than `SECCOMP_IOCTL_NOTIF_ADDFD`, which has to wake the guest to install the descriptor.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

/// Most descriptors taken from one message.
pub const MAX_FDS: usize = 4;
/// Most descriptors sent in one message.
const MAX_SENT: usize = 7;

/// A pair of connected sockets that keep message boundaries and name no address: (supervisor's end, guest's end).
///
/// # Errors
/// What `socketpair(2)` gives.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends `data` (not empty) and up to seven descriptors. Never blocks.
///
/// # Errors
/// `EAGAIN` when the guest does not take its messages, `EPIPE` when it is gone, and others of `sendmsg(2)`.
pub fn send(socket: BorrowedFd<'_>, data: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SENT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(data)],
        &mut control,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// From now on messages received on `socket` say which process sent them (`SO_PASSCRED`).
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn pass_credentials(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_passcred(socket, true)?)
}

/// A message and its sender.
pub struct Message {
    /// Process of the sender, as the kernel says; 0 if it does not.
    pub pid: i32,
    /// Descriptors (close-on-exec).
    pub fds: Vec<OwnedFd>,
}

/// Receives one message if there is one. Never blocks. What of `data` the message does not fill is 0.
///
/// # Errors
/// Those of `recvmsg(2)` but `EAGAIN`; `UnexpectedEof` when the other end is closed.
pub fn try_recv(socket: BorrowedFd<'_>, data: &mut [u8]) -> io::Result<Option<Message>> {
    data.fill(0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let got = match rustix::net::recvmsg(socket, &mut [io::IoSliceMut::new(data)], &mut control, flags) {
        Err(rustix::io::Errno::AGAIN) => return Ok(None),
        other => other?,
    };
    let mut message = Message { pid: 0, fds: Vec::new() };
    for part in control.drain() {
        match part {
            RecvAncillaryMessage::ScmRights(rights) => message.fds.extend(rights),
            RecvAncillaryMessage::ScmCredentials(sender) => message.pid = sender.pid.as_raw_nonzero().get(),
            _ => {}
        }
    }
    if got.bytes == 0 && message.fds.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(message))
}

/// Receives one message and its descriptors (close-on-exec).
///
/// # Errors
/// Those of `recvmsg(2)`; `UnexpectedEof` when the other end is closed.
pub fn recv(socket: BorrowedFd<'_>, data: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(socket, &mut [io::IoSliceMut::new(data)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 && fds.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((got.bytes, fds))
}
