//! The supervisor's side of [`crate::inspector`]: who asks is the user who started the sandbox, never a guest.
//!
//! One thread accepts, and each connection is served by one of its own, at most [`MOST`] at a time: a client that is slow,
//! or waits for the end of what it has started, holds up nobody. These threads ask the model as workers do.

pub mod enter;
mod kill;
mod snapshot;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::SocketFlags;

use super::Server;
use crate::inspector::protocol::{Answer, REQUEST_MAX, Request, recv, send};
use crate::inspector::runtime_dir::Entry;

/// Most connections at a time.
const MOST: usize = 600;
/// How long a client may take to say what it wants, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the sandbox is called, and what it was started with.
pub struct Identity {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Environment of its first program.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why something is refused: for the person, with the exit code.
pub(crate) struct Refusal {
    what: String,
    code: u8,
}

impl Refusal {
    fn new(what: impl Into<String>) -> Refusal {
        Refusal { what: what.into(), code: 125 }
    }
}

/// Serves who connects to `listener`, until that is shut down.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(server: &Arc<Server>, listener: OwnedFd, identity: Identity) -> io::Result<()> {
    let server = server.clone();
    let identity = Arc::new(identity);
    std::thread::Builder::new().name("nomina-inspect".into()).stack_size(128 * 1024).spawn(move || {
        let busy = Arc::new(AtomicUsize::new(0));
        while !server.is_ending() {
            let stream = match rustix::net::accept_with(&listener, SocketFlags::CLOEXEC) {
                Ok(stream) => UnixStream::from(stream),
                Err(rustix::io::Errno::INVAL) => return,
                // Out of descriptors, perhaps.
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            };
            if !Entry::may_ask(&stream) || busy.fetch_add(1, Ordering::AcqRel) >= MOST {
                busy.fetch_sub(1, Ordering::AcqRel);
                continue;
            }
            let (server, identity, mine) = (server.clone(), identity.clone(), busy.clone());
            let serving = std::thread::Builder::new().name("nomina-asked".into()).stack_size(512 * 1024);
            let started = serving.spawn(move || {
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let _ = serve(&server, &identity, &stream);
                }));
                mine.fetch_sub(1, Ordering::AcqRel);
            });
            if started.is_err() {
                busy.fetch_sub(1, Ordering::AcqRel);
            }
        }
    })?;
    Ok(())
}

fn serve(server: &Arc<Server>, identity: &Identity, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let Some(((id, request), fds)) = recv::<(String, Request)>(stream, REQUEST_MAX)? else { return Ok(()) };
    drop(server.settle_all());
    let answer = match request {
        _ if id != identity.id => {
            Err(Refusal::new(format!("sandbox {id}: its entry leads to another sandbox")))
        }
        Request::View { mounts } => Ok(Answer::View(Box::new(snapshot::view(server, identity, mounts)))),
        Request::Kill(request) => kill::kill(server, &request).map(Answer::Killed),
        Request::Exec(request) => enter::exec(server, identity, &request, fds, stream),
        Request::Signal(_) => Err(Refusal::new("signal: nothing was started by this connection")),
    };
    let refused = |refusal: Refusal| Answer::Refused { what: refusal.what, code: refusal.code };
    send(stream, &answer.unwrap_or_else(refused), &[])
}
