//! The first program: where it is, and its streams.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nomina_kernel::errno::Errno;
use nomina_kernel::vfs::FsStruct;

use super::SpawnError;
use super::config::Stdio;
use crate::server::Server;
use crate::server::guest::GuestThread;
use crate::server::sys::exec;

/// A stream of the first program: the one asked for, or /dev/null where the caller has none.
pub(super) fn open_stream(stream: &Stdio, index: usize) -> io::Result<OwnedFd> {
    let null = || -> io::Result<OwnedFd> {
        Ok(fs::File::options().read(true).write(true).open("/dev/null")?.into())
    };
    match stream {
        Stdio::Null => null(),
        Stdio::Fd(fd) => fd.try_clone(),
        Stdio::Inherit => {
            let inherited = match index {
                0 => io::stdin().as_fd().try_clone_to_owned(),
                1 => io::stdout().as_fd().try_clone_to_owned(),
                _ => io::stderr().as_fd().try_clone_to_owned(),
            };
            inherited.or_else(|_| null())
        }
    }
}

/// Looks the program up as `execvp(3)` does, in the PATH of the inside, and prepares its exec. Gives what replaces
/// `argv[0]` for a script.
pub(crate) fn find_program(
    server: &Arc<Server>,
    thread: &Arc<GuestThread>,
    program: &OsStr,
    env: &[(std::ffi::OsString, std::ffi::OsString)],
    fs: &FsStruct,
) -> Result<Vec<Vec<u8>>, SpawnError> {
    let name = program.as_bytes();
    let shown = || program.to_string_lossy().into_owned();
    let failed = |errno: Errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => SpawnError::NotFound(shown()),
        errno => SpawnError::NotExecutable { program: shown(), reason: errno.message().into() },
    };
    if name.contains(&b'/') {
        return exec::prepare_first(server, thread, fs, name).map_err(failed);
    }
    let path = env
        .iter()
        .find(|(key, _)| key == "PATH")
        .map_or(&b"/bin:/usr/bin"[..], |(_, value)| value.as_bytes());
    let mut denied = None;
    for dir in path.split(|&byte| byte == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let candidate = [dir, b"/", name].concat();
        match exec::prepare_first(server, thread, fs, &candidate) {
            Ok(prefix) => return Ok(prefix),
            Err(errno @ (Errno::EACCES | Errno::ENOEXEC)) => denied = Some(errno),
            Err(_) => {}
        }
    }
    Err(failed(denied.unwrap_or(Errno::ENOENT)))
}
