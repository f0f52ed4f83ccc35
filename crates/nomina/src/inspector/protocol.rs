//! What goes over a sandbox's socket: a request, with it perhaps descriptors, then answers; each a length in four bytes, little
//! endian, and JSON.
//!
//! Client and supervisor need not be of one build, so unknown fields are passed over and missing ones have defaults.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::view::View;

/// Longest request: arguments and environment of a program.
pub const REQUEST_MAX: usize = 4 << 20;
/// Longest answer: a sandbox of very many tasks and mounts.
pub const ANSWER_MAX: usize = 256 << 20;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// What is inside: answered by [`Answer::View`].
    View {
        /// With the mounts of each mount namespace.
        mounts: bool,
    },
    /// Send signals: answered by [`Answer::Killed`].
    Kill(KillRequest),
    /// Start a process: three descriptors come with it. Answered by [`Answer::Started`], and [`Answer::Exited`] at its
    /// end; meanwhile [`Request::Signal`] may follow.
    Exec(ExecRequest),
    /// A signal for the process that this connection has started.
    Signal(i32),
}

/// A signal to processes of a sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KillRequest {
    /// Its number; 0 only asks.
    pub signal: i32,
    /// To whom, by numbers in the sandbox's first pid namespace. Empty: to its init.
    pub pids: Vec<i32>,
    /// To every process instead.
    pub all: bool,
}

/// A process to be started in a sandbox.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecRequest {
    /// The program, found along the `PATH` inside when it has no slash, and its arguments.
    pub argv: Vec<Bytes>,
    /// Changes of the environment that the sandbox's first program was given.
    pub env: Vec<(Bytes, Bytes)>,
    /// Start with no variables but those in `env`.
    pub clear_env: bool,
    /// Working directory; default: that of the process whose namespaces are entered.
    pub workdir: Option<Bytes>,
    /// User, as the entered user namespace numbers them; default: who the entered process is.
    pub user: Option<u32>,
    /// The same by its name in the sandbox's `/etc/passwd`.
    pub user_name: Option<Bytes>,
    /// Group; default: the primary one of the user by the sandbox's `/etc/passwd`, else the user's number.
    pub group: Option<u32>,
    /// Whose namespaces to enter, by its number in the sandbox's first pid namespace; default: the init's.
    pub pid: Option<i32>,
    /// The descriptors are a terminal that becomes the process's controlling one.
    pub tty: bool,
}

/// What is answered.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// What is inside.
    View(Box<View>),
    /// How many processes the signal was sent to.
    Killed(usize),
    /// The process runs.
    Started {
        /// Its number in the sandbox's first pid namespace.
        pid: i32,
        /// Its number on the host.
        host_pid: i32,
    },
    /// The process has ended.
    Exited {
        /// Its wait status (`wait(2)`).
        status: i32,
    },
    /// It cannot be done.
    Refused {
        /// What and why.
        what: String,
        /// The exit code for it.
        code: u8,
    },
}

/// Bytes that JSON can hold: as a string where they are UTF-8, else as numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Bytes {
    /// UTF-8.
    Text(String),
    /// Anything.
    Raw(Vec<u8>),
}

impl From<&[u8]> for Bytes {
    fn from(bytes: &[u8]) -> Bytes {
        match std::str::from_utf8(bytes) {
            Ok(text) => Bytes::Text(text.to_owned()),
            Err(_) => Bytes::Raw(bytes.to_vec()),
        }
    }
}

impl Bytes {
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Text(text) => text.as_bytes(),
            Bytes::Raw(bytes) => bytes,
        }
    }
}

/// Sends a message, and `fds` with its first byte.
///
/// # Errors
/// Those of `sendmsg(2)`.
pub fn send(
    mut socket: &std::os::unix::net::UnixStream,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let json = serde_json::to_vec(message)?;
    let mut bytes = (json.len() as u32).to_le_bytes().to_vec();
    bytes.extend(json);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(&bytes[sent..])
}

/// Receives a message of at most `most` bytes and the descriptors that came with it. `None`: the other side has closed.
///
/// # Errors
/// Those of `recvmsg(2)`; `InvalidData` for what is no message.
pub fn recv<T: DeserializeOwned>(
    mut socket: &std::os::unix::net::UnixStream,
    most: usize,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut length = [0u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        let into = &mut [IoSliceMut::new(&mut length)];
        rustix::net::recvmsg(socket.as_fd(), into, &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut length[got.bytes..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Room is made as bytes come, not as they are announced.
    let mut json = Vec::new();
    socket.take(length as u64).read_to_end(&mut json)?;
    if json.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((serde_json::from_slice(&json)?, fds)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent_with_its_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let request = ExecRequest {
            argv: vec![Bytes::from(&b"/bin/echo"[..]), Bytes::from(&b"\xff"[..])],
            tty: true,
            ..ExecRequest::default()
        };
        let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        send(&a, &Request::Exec(request.clone()), &stdio).unwrap();
        drop(a);
        let (got, fds) = recv::<Request>(&b, REQUEST_MAX).unwrap().unwrap();
        let Request::Exec(got) = got else { panic!("{got:?}") };
        assert_eq!((got.argv, got.tty, fds.len()), (request.argv, true, 3));
        assert!(recv::<Request>(&b, REQUEST_MAX).unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_an_error_and_takes_no_room() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(recv::<Request>(&b, REQUEST_MAX).is_err());
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(b"\x03\0\0\0abc").unwrap();
        assert!(recv::<Request>(&b, REQUEST_MAX).is_err());
    }
}
