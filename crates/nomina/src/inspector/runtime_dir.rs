//! The user's runtime directory, where running sandboxes are found: `$XDG_RUNTIME_DIR/nomina`, else `/run/user/UID/nomina`,
//! else `/tmp/nomina-UID`. Sandboxes are looked for in all of these, since not every login has the variable. With
//! `$NOMINA_RUNTIME_DIR` it is that directory only.
//!
//! A sandbox is a socket `ID.sock` in it, and, when it has a name, a symbolic link `NAME.name` to that. The link is made by one
//! call that fails when there is one already, so a name belongs to one sandbox at a time. A socket nobody listens at any more
//! (`ECONNREFUSED`) is what a killed supervisor left behind: whoever meets it removes it. For that, and to enter a socket,
//! the directory is locked (`flock(2)`), since a socket that is bound but does not listen yet looks the same.
//!
//! Before it is used a directory is opened without following a link and looked at by its descriptor: it must be ours and closed to
//! all others, since `/tmp` is everybody's.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const SOCKET: &str = ".sock";
const NAME: &str = ".name";
/// Length of an id.
pub const ID_LEN: usize = 12;
/// The longest name.
pub const NAME_MAX: usize = 64;

/// Why a sandbox cannot be entered in the runtime directory.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// No directory can be used.
    #[error("no runtime directory: {0}; set XDG_RUNTIME_DIR to a directory that only you can use")]
    None(String),
    /// Not a name.
    #[error("name {0}: not usable; take 1 to 64 letters, digits, `.`, `_` and `-`, a letter or digit first")]
    BadName(String),
    /// Another one has it.
    #[error(
        "name {0}: sandbox {1} that is running has it; choose another, or end that one with `nomina kill {0}`"
    )]
    NameTaken(String, String),
    /// The host refused.
    #[error("entering the sandbox in {}: {error}; without --name this is not needed", dir.display())]
    Host {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        error: io::Error,
    },
}

/// A runtime directory that has been looked at.
#[derive(Debug)]
pub struct RuntimeDir {
    fd: OwnedFd,
    path: PathBuf,
}

/// An open socket, or the news that nobody listens at it.
pub(super) enum Connected {
    Yes(OwnedFd),
    Stale,
}

/// Where sandboxes of the calling user may be found, best first.
pub fn candidates() -> Vec<PathBuf> {
    if let Some(dir) = std::env::var_os("NOMINA_RUNTIME_DIR") {
        return vec![dir.into()];
    }
    let uid = rustix::process::geteuid().as_raw();
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let mut all: Vec<PathBuf> = xdg.into_iter().map(|dir| dir.join("nomina")).collect();
    all.push(format!("/run/user/{uid}/nomina").into());
    all.push(format!("/tmp/nomina-{uid}").into());
    all.dedup();
    all
}

/// Whether a sandbox can be called that.
pub fn is_name(name: &str) -> bool {
    let ordinary = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    name.len() <= NAME_MAX
        && name.bytes().all(ordinary)
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn new_id() -> io::Result<String> {
    let mut bytes = [0u8; ID_LEN / 2];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

impl RuntimeDir {
    /// Opens a directory and looks whether it is ours alone.
    ///
    /// # Errors
    /// Those of `open(2)`; `EPERM` when it is somebody else's or open to others.
    pub fn open(path: &Path) -> io::Result<RuntimeDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        Ok(RuntimeDir { fd, path: path.to_owned() })
    }

    /// The first of the candidates that can be used, made if need be.
    ///
    /// # Errors
    /// [`RuntimeDirError::None`] tells the last reason.
    pub fn create() -> Result<RuntimeDir, RuntimeDirError> {
        let mut why = String::new();
        for path in candidates() {
            let made = rustix::fs::mkdirat(CWD, &path, Mode::RWXU);
            match RuntimeDir::open(&path) {
                Ok(dir) => return Ok(dir),
                Err(error) => {
                    let error =
                        made.err().filter(|e| *e != rustix::io::Errno::EXIST).map_or(error, Into::into);
                    why = format!("{}: {error}", path.display());
                }
            }
        }
        Err(RuntimeDirError::None(why))
    }

    /// Those of the candidates that are there and ours.
    pub fn existing() -> Vec<RuntimeDir> {
        candidates().iter().filter_map(|path| RuntimeDir::open(path).ok()).collect()
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> io::Result<Locked> {
        let fd = rustix::fs::openat(&self.fd, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::flock(&fd, FlockOperation::LockExclusive)?;
        Ok(Locked(fd))
    }

    fn entries(&self, suffix: &str) -> Vec<String> {
        let Ok(dir) = rustix::fs::Dir::read_from(&self.fd) else { return Vec::new() };
        let names = dir.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        let mut all: Vec<String> =
            names.filter_map(|name| name.strip_suffix(suffix).map(str::to_owned)).collect();
        all.sort();
        all
    }

    /// Ids of the sandboxes entered here, dead ones included.
    pub(super) fn ids(&self) -> Vec<String> {
        self.entries(SOCKET).into_iter().filter(|id| is_id(id)).collect()
    }

    /// Connects to a sandbox's supervisor within `timeout`.
    pub(super) fn connect(&self, id: &str, timeout: std::time::Duration) -> io::Result<Connected> {
        let file = format!("{id}{SOCKET}");
        let stat = rustix::fs::statat(&self.fd, &*file, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(io::Error::from_raw_os_error(libc::ENOTSOCK));
        }
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        for kind in [rustix::net::sockopt::Timeout::Send, rustix::net::sockopt::Timeout::Recv] {
            rustix::net::sockopt::set_socket_timeout(&socket, kind, Some(timeout))?;
        }
        match rustix::net::connect(&socket, &self.address(&file)?) {
            Ok(()) => Ok(Connected::Yes(socket)),
            Err(rustix::io::Errno::CONNREFUSED) => Ok(Connected::Stale),
            Err(error) => Err(error.into()),
        }
    }

    /// An address that is short however deep the directory is.
    fn address(&self, file: &str) -> io::Result<SocketAddrUnix> {
        Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{file}", self.fd.as_raw_fd()))?)
    }

    /// Removes an entry nobody listens at. Under the lock it is tried again, so that none is removed that just begins.
    pub(super) fn remove_stale(&self, id: &str) {
        let Ok(locked) = self.lock() else { return };
        self.remove_stale_locked(id, &locked);
    }

    fn remove_stale_locked(&self, id: &str, locked: &Locked) {
        if matches!(self.connect(id, std::time::Duration::from_secs(1)), Ok(Connected::Stale)) {
            self.remove(id, locked);
        }
    }

    /// Removes an entry and its name.
    fn remove(&self, id: &str, _locked: &Locked) {
        for name in self.entries(NAME) {
            if self.owner_of(&name).as_deref() == Some(id) {
                let _ = rustix::fs::unlinkat(&self.fd, format!("{name}{NAME}"), AtFlags::empty());
            }
        }
        let _ = rustix::fs::unlinkat(&self.fd, format!("{id}{SOCKET}"), AtFlags::empty());
    }

    /// The id of the sandbox that has a name.
    pub(super) fn owner_of(&self, name: &str) -> Option<String> {
        let link = rustix::fs::readlinkat(&self.fd, format!("{name}{NAME}"), Vec::new()).ok()?;
        let id = link.to_str().ok()?.strip_suffix(SOCKET)?.to_owned();
        is_id(&id).then_some(id)
    }
}

struct Locked(#[expect(dead_code, reason = "the lock is held while it is open")] OwnedFd);

/// A sandbox's entry; removed when it is dropped.
#[derive(Debug)]
pub struct Entry {
    dir: RuntimeDir,
    /// Its id: twelve hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// Where its supervisor listens.
    pub listener: OwnedFd,
}

impl Entry {
    /// Enters a new sandbox and listens for it.
    ///
    /// # Errors
    /// [`RuntimeDirError`] tells why not.
    pub fn create(name: Option<&str>) -> Result<Entry, RuntimeDirError> {
        if let Some(name) = name
            && !is_name(name)
        {
            return Err(RuntimeDirError::BadName(name.to_owned()));
        }
        Entry::create_in(RuntimeDir::create()?, name)
    }

    fn create_in(dir: RuntimeDir, name: Option<&str>) -> Result<Entry, RuntimeDirError> {
        let path = dir.path.clone();
        let failed = |error: io::Error| RuntimeDirError::Host { dir: path.clone(), error };
        let id = new_id().map_err(failed)?;
        let file = format!("{id}{SOCKET}");
        let locked = dir.lock().map_err(failed)?;
        if let Some(name) = name {
            if let Some(owner) = dir.owner_of(name) {
                dir.remove_stale_locked(&owner, &locked);
            }
            match rustix::fs::symlinkat(&file, &dir.fd, format!("{name}{NAME}")) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => {
                    let owner = dir.owner_of(name).unwrap_or_default();
                    return Err(RuntimeDirError::NameTaken(name.to_owned(), owner));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        let listen = || -> io::Result<OwnedFd> {
            let listener = rustix::net::socket_with(
                AddressFamily::UNIX,
                SocketType::STREAM,
                SocketFlags::CLOEXEC,
                None,
            )?;
            rustix::net::bind(&listener, &dir.address(&file)?)?;
            rustix::net::listen(&listener, 64)?;
            Ok(listener)
        };
        match listen() {
            Ok(listener) => Ok(Entry { dir, id, name: name.map(str::to_owned), listener }),
            Err(error) => {
                dir.remove(&id, &locked);
                Err(failed(error))
            }
        }
    }

    /// Whom the listener is for: the user himself and root.
    pub(crate) fn may_ask(peer: &impl AsFd) -> bool {
        rustix::net::sockopt::socket_peercred(peer)
            .is_ok_and(|cred| cred.uid.is_root() || cred.uid == rustix::process::geteuid())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Ends the wait of who accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        if let Ok(locked) = self.dir.lock() {
            self.dir.remove(&self.id, &locked);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    use super::*;

    fn dir_in(base: &tempfile::TempDir) -> RuntimeDir {
        let path = base.path().join("nomina");
        let _ = rustix::fs::mkdirat(CWD, &path, Mode::RWXU);
        RuntimeDir::open(&path).unwrap()
    }

    #[test]
    fn a_directory_that_others_can_use_or_that_is_a_link_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("open");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
        assert!(RuntimeDir::open(&path).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        assert!(RuntimeDir::open(&path).is_ok());
        symlink(&path, base.path().join("link")).unwrap();
        assert!(RuntimeDir::open(&base.path().join("link")).is_err());
    }

    #[test]
    fn a_name_belongs_to_one_sandbox_until_it_ends() {
        let base = tempfile::tempdir().unwrap();
        let first = Entry::create_in(dir_in(&base), Some("web")).unwrap();
        let taken = Entry::create_in(dir_in(&base), Some("web")).unwrap_err();
        assert!(matches!(taken, RuntimeDirError::NameTaken(name, id) if name == "web" && id == first.id));
        drop(first);
        assert!(Entry::create_in(dir_in(&base), Some("web")).is_ok());
    }

    #[test]
    fn an_entry_goes_with_its_sandbox_and_a_stale_one_with_who_meets_it() {
        let base = tempfile::tempdir().unwrap();
        let (dir, timeout) = (dir_in(&base), Duration::from_secs(1));
        let entry = Entry::create_in(dir_in(&base), Some("a")).unwrap();
        assert_eq!(dir.ids(), std::slice::from_ref(&entry.id));
        assert!(matches!(dir.connect(&entry.id, timeout), Ok(Connected::Yes(_))));
        dir.remove_stale(&entry.id);
        assert_eq!(dir.ids().len(), 1, "it is not stale");
        // Killed: nobody listens, and nothing is tidied up.
        let id = entry.id.clone();
        rustix::net::shutdown(&entry.listener, rustix::net::Shutdown::Both).unwrap();
        assert!(matches!(dir.connect(&id, timeout), Ok(Connected::Stale)));
        dir.remove_stale(&id);
        assert!(dir.ids().is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nor is the name left");
        drop(entry);
    }

    #[test]
    fn names_are_short_and_ordinary() {
        for good in ["a", "web-1", "Box.2_x", "0"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "-a", "a/b", "a b", "ä", "../x", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
