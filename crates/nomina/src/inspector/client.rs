//! The asking side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use super::InspectError;
use super::protocol::{ANSWER_MAX, Answer, ExecRequest, KillRequest, Request, recv, send};
use super::runtime_dir::{Connected, ID_LEN, RuntimeDir};
use super::view::View;

/// How long a supervisor may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A sandbox that is running, or whose supervisor is stopped.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its id.
    pub id: String,
    dir: Arc<RuntimeDir>,
}

/// All sandboxes of the calling user, by id. Entries of killed supervisors are removed.
pub fn list() -> Vec<Found> {
    let mut all = Vec::new();
    for dir in RuntimeDir::existing().into_iter().map(Arc::new) {
        for id in dir.ids() {
            match dir.connect(&id, PATIENCE) {
                Ok(Connected::Stale) => dir.remove_stale(&id),
                // Ended just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                _ => all.push(Found { id, dir: dir.clone() }),
            }
        }
    }
    all
}

/// The sandbox with this name, this id, or an id that begins so; without any, the only one there is.
///
/// # Errors
/// [`InspectError::NoSuchSandbox`], [`InspectError::Ambiguous`], [`InspectError::NotOne`].
pub fn find(which: Option<&str>) -> Result<Found, InspectError> {
    let mut all = list();
    let Some(which) = which else {
        return if all.len() == 1 { Ok(all.remove(0)) } else { Err(InspectError::NotOne(all.len())) };
    };
    if let Some(found) = all.iter().find(|found| found.dir.owner_of(which).is_some_and(|id| id == found.id)) {
        return Ok(found.clone());
    }
    all.retain(|found| !which.is_empty() && found.id.starts_with(which));
    match all.len() {
        0 => Err(InspectError::NoSuchSandbox(which.to_owned())),
        1 => Ok(all.remove(0)),
        _ if which.len() == ID_LEN => Ok(all.remove(0)),
        _ => Err(InspectError::Ambiguous(which.to_owned())),
    }
}

impl Found {
    /// Asks; leaves the connection open.
    fn ask(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(UnixStream, Answer), InspectError> {
        let silent = |error| InspectError::Silent { id: self.id.clone(), error };
        let stream = match self.dir.connect(&self.id, PATIENCE).map_err(silent)? {
            Connected::Yes(socket) => UnixStream::from(socket),
            Connected::Stale => return Err(InspectError::NoSuchSandbox(self.id.clone())),
        };
        // The id goes along: an entry may have been moved to another's place.
        send(&stream, &(&self.id, request), fds).map_err(silent)?;
        match recv::<Answer>(&stream, ANSWER_MAX).map_err(silent)? {
            Some((Answer::Refused { what, code }, _)) => Err(InspectError::Refused { what, code }),
            Some((answer, _)) => Ok((stream, answer)),
            None => Err(silent(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn unexpected(&self) -> InspectError {
        InspectError::Silent { id: self.id.clone(), error: io::ErrorKind::InvalidData.into() }
    }

    /// What is inside; with `mounts`, the mounts of each mount namespace too.
    ///
    /// # Errors
    /// [`InspectError::Silent`] when the supervisor is stopped.
    pub fn view(&self, mounts: bool) -> Result<View, InspectError> {
        match self.ask(Request::View { mounts }, &[])? {
            (_, Answer::View(view)) => Ok(*view),
            _ => Err(self.unexpected()),
        }
    }

    /// Sends a signal; gives to how many processes.
    ///
    /// # Errors
    /// [`InspectError::Refused`] when there is no such process or signal.
    pub fn kill(&self, request: &KillRequest) -> Result<usize, InspectError> {
        match self.ask(Request::Kill(request.clone()), &[])? {
            (_, Answer::Killed(count)) => Ok(count),
            _ => Err(self.unexpected()),
        }
    }

    /// Starts a process with these standard streams, which are no directories, `O_PATH` descriptors or datagram sockets.
    ///
    /// # Errors
    /// [`InspectError::Refused`] with what stands against it.
    pub fn exec(&self, request: &ExecRequest, stdio: [BorrowedFd<'_>; 3]) -> Result<Process, InspectError> {
        match self.ask(Request::Exec(request.clone()), &stdio)? {
            (stream, Answer::Started { pid, host_pid }) => {
                let silent = |error| InspectError::Silent { id: self.id.clone(), error };
                stream.set_read_timeout(None).map_err(silent)?;
                Ok(Process { pid, host_pid, id: self.id.clone(), stream })
            }
            _ => Err(self.unexpected()),
        }
    }
}

/// A process that was started in a running sandbox. It goes on when this is dropped.
#[derive(Debug)]
pub struct Process {
    /// Its number in the sandbox's first pid namespace.
    pub pid: i32,
    /// Its number on the host.
    pub host_pid: i32,
    id: String,
    stream: UnixStream,
}

/// How a process that was started ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    /// With this wait status.
    Exited(i32),
    /// With its sandbox.
    SandboxEnded,
}

impl Process {
    /// Sends it a signal.
    ///
    /// # Errors
    /// Those of `sendmsg(2)`, when it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        send(&self.stream, &(&self.id, Request::Signal(signal)), &[])
    }

    /// Waits for its end.
    pub fn wait(&self) -> ExecEvent {
        match recv::<Answer>(&self.stream, ANSWER_MAX) {
            Ok(Some((Answer::Exited { status }, _))) => ExecEvent::Exited(status),
            _ => ExecEvent::SandboxEnded,
        }
    }
}

impl AsFd for Process {
    /// Readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
