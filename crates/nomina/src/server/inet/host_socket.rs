//! What the sockets of the Internet families need of unix sockets of the host.

use std::io;
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, OwnedFd};

use nomina_kernel::errno::{Errno, Result};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::super::request::host;

/// Where the name is in a `struct sockaddr_un`.
const SUN_PATH: usize = offset_of!(libc::sockaddr_un, sun_path);

/// `getsockname(2)` or `getpeername(2)`.
pub type NameCall =
    unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

/// A name of a socket: a path without its NUL, or an abstract name with the NUL before it. Empty: none.
///
/// # Errors
/// Those of the call.
pub fn name(socket: &OwnedFd, call: NameCall) -> Result<Vec<u8>> {
    let mut address = MaybeUninit::<libc::sockaddr_un>::zeroed();
    let mut len = size_of::<libc::sockaddr_un>() as libc::socklen_t;
    // SAFETY: buffer and length are valid and the kernel writes at most the length.
    if unsafe { call(socket.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut len) } != 0 {
        return Err(host(io::Error::last_os_error()));
    }
    // SAFETY: zeroed before, so every byte is initialised.
    let address = unsafe { address.assume_init() };
    let len = (len as usize).saturating_sub(SUN_PATH).min(address.sun_path.len());
    let mut name: Vec<u8> = address.sun_path[..len].iter().map(|&c| c as u8).collect();
    if name.first().is_some_and(|&first| first != 0) {
        name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
    }
    Ok(name)
}

/// Binds a socket to an abstract name, which begins with NUL.
///
/// # Errors
/// Those of `bind(2)`.
pub fn bind_abstract(socket: &OwnedFd, name: &[u8]) -> Result<()> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    if name.len() > address.sun_path.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (to, &from) in address.sun_path.iter_mut().zip(name) {
        *to = from as libc::c_char;
    }
    let len = (SUN_PATH + name.len()) as libc::socklen_t;
    // SAFETY: a valid address of that length.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if result == 0 { Ok(()) } else { Err(host(io::Error::last_os_error())) }
}

/// A stream socket for a guest, and its inode number.
///
/// # Errors
/// Those of `socket(2)`.
pub fn stream(nonblock: bool) -> Result<(OwnedFd, u64)> {
    let flags = if nonblock { SocketFlags::NONBLOCK } else { SocketFlags::empty() } | SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(host)?;
    let ino = rustix::fs::fstat(&socket).map_err(host)?.st_ino;
    Ok((socket, ino))
}

/// Whether `O_NONBLOCK` is set.
///
/// # Errors
/// Those of `fcntl(2)`.
pub fn is_nonblocking(socket: &OwnedFd) -> Result<bool> {
    Ok(rustix::fs::fcntl_getfl(socket).map_err(host)?.contains(OFlags::NONBLOCK))
}

/// Has all who wait for the socket to become writable look again, edge-triggered ones too: the host does so when the size of the
/// buffer is set.
pub fn wake(socket: &OwnedFd) {
    use rustix::net::sockopt;
    if let Ok(size) = sockopt::socket_send_buffer_size(socket) {
        // The host doubles what it is given.
        let _ = sockopt::set_socket_send_buffer_size(socket, size / 2);
    }
}
