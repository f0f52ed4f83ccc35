//! A terminal for a program elsewhere: a pair of which we keep one end, and copy between that and our own terminal.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use nomina::inspector::{ExecEvent, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

/// Signals as something to poll: those that are passed on, and SIGWINCH.
pub struct Signals(OwnedFd);

impl Signals {
    /// Takes the signals away from their default actions.
    pub fn take() -> io::Result<Signals> {
        // SAFETY: a local set; the descriptor is fresh and ours.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [
                libc::SIGINT,
                libc::SIGTERM,
                libc::SIGHUP,
                libc::SIGQUIT,
                libc::SIGUSR1,
                libc::SIGUSR2,
                libc::SIGWINCH,
            ] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(Signals(OwnedFd::from_raw_fd(fd))) }
        }
    }

    /// Those that have come.
    pub fn read(&self) -> Vec<i32> {
        let mut buffer = [0u8; 16 * size_of::<libc::signalfd_siginfo>()];
        let got = rustix::io::read(&self.0, &mut buffer[..]).unwrap_or(0);
        let size = size_of::<libc::signalfd_siginfo>();
        let number = |info: &[u8]| Some(u32::from_ne_bytes(info.get(..4)?.try_into().ok()?) as i32);
        buffer[..got].chunks_exact(size).filter_map(number).collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Our own terminal in raw mode; as it was before when this is dropped.
struct Raw(Termios);

impl Raw {
    fn make() -> Option<Raw> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw).ok()?;
        Some(Raw(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// The pair.
pub struct Relay {
    master: OwnedFd,
    slave: OwnedFd,
}

impl Relay {
    /// A new one, as large as our own terminal.
    pub fn new() -> io::Result<Relay> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let slave =
            ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let relay = Relay { master, slave };
        relay.resize();
        Ok(relay)
    }

    /// The program's end.
    pub fn slave(&self) -> BorrowedFd<'_> {
        self.slave.as_fd()
    }

    fn resize(&self) {
        let stdin = io::stdin();
        let own = [stdin.as_fd(), rustix::stdio::stdout()].into_iter().find(|fd| isatty(*fd));
        if let Some(size) = own.and_then(|fd| tcgetwinsize(fd).ok()) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// Copies until the process has ended and what it wrote is written.
    pub fn run(self, process: &Process, signals: &Signals) -> io::Result<ExecEvent> {
        let master = &self.master;
        let raw = Raw::make();
        let stdin = io::stdin();
        let mut input = Some(stdin.as_fd());
        // What was typed and not taken yet.
        let mut pending: Vec<u8> = Vec::new();
        rustix::io::ioctl_fionbio(master, true)?;
        let event = loop {
            let ready = if pending.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            let mut fds = vec![
                PollFd::new(master, ready),
                PollFd::new(process, PollFlags::IN),
                PollFd::new(signals, PollFlags::IN),
            ];
            if let Some(input) = input.filter(|_| pending.is_empty()) {
                fds.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
            }
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let revents: Vec<PollFlags> = fds.iter().map(|fd| fd.revents()).collect();
            if revents[0].contains(PollFlags::IN) {
                copy_out(master)?;
            }
            if !revents[1].is_empty() {
                break process.wait();
            }
            for signal in if revents[2].is_empty() { Vec::new() } else { signals.read() } {
                match signal {
                    libc::SIGWINCH => self.resize(),
                    signal => drop(process.signal(signal)),
                }
            }
            if revents.get(3).is_some_and(|flags| !flags.is_empty()) {
                let mut buffer = [0u8; 4096];
                match rustix::io::read(stdin.as_fd(), &mut buffer[..]) {
                    Ok(0) => {
                        // End of file, as the terminal has it.
                        pending.push(4);
                        input = None;
                    }
                    Ok(got) => pending.extend_from_slice(&buffer[..got]),
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                    Err(_) => input = None,
                }
            }
            if !pending.is_empty()
                && let Ok(written) = rustix::io::write(master, &pending)
            {
                pending.drain(..written);
            }
        };
        // What is left was written before its end.
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        while poll(&mut [PollFd::new(master, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0) {
            if !copy_out(master)? {
                break;
            }
        }
        drop(raw);
        Ok(event)
    }
}

/// Copies what the program has written; `false` when there was nothing.
fn copy_out(master: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0u8; 16384];
    let got = match rustix::io::read(master, &mut buffer[..]) {
        Ok(got) => got,
        Err(rustix::io::Errno::INTR) => return Ok(true),
        // EIO: nobody has the other end.
        Err(_) => 0,
    };
    let mut rest = &buffer[..got];
    while !rest.is_empty() {
        match rustix::io::write(rustix::stdio::stdout(), rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let stdout = rustix::stdio::stdout();
                let _ = poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(got > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_at_one_end_is_read_at_the_other() {
        let relay = Relay::new().unwrap();
        assert!(isatty(relay.slave()));
        rustix::io::write(relay.slave(), b"x").unwrap();
        let mut buffer = [0u8; 8];
        assert_eq!(rustix::io::read(&relay.master, &mut buffer[..]), Ok(1));
    }
}
