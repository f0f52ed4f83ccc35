//! One request: reading its arguments, building its reply.

use std::cell::{Cell, OnceCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nomina_abi as abi;
use nomina_gate::region::{ReplyWords, Request, SlotRef};
use nomina_gate::sock;
use nomina_kernel::cred::Cred;
use nomina_kernel::errno::{Errno, Result};

use super::Server;
use super::guest::GuestThread;
use super::opens::Look;

/// What a service gives back.
pub enum Reply {
    /// A number.
    Value(i64),
    /// A descriptor, whose number in the guest is the result.
    Fd {
        /// The descriptor.
        fd: OwnedFd,
        /// Close-on-exec.
        cloexec: bool,
    },
    /// As [`Reply::Fd`]: a terminal that may become the caller's controlling one.
    Terminal {
        /// The descriptor.
        fd: OwnedFd,
        /// Close-on-exec.
        cloexec: bool,
    },
    /// Wait until this is readable, then ask again.
    Wait(OwnedFd),
    /// Ask again at once.
    Retry,
    /// Sleep until the slot's word is set, then ask again.
    Sleep,
}

impl From<()> for Reply {
    fn from((): ()) -> Reply {
        Reply::Value(0)
    }
}

impl From<i32> for Reply {
    fn from(value: i32) -> Reply {
        Reply::Value(value.into())
    }
}

impl From<usize> for Reply {
    fn from(value: usize) -> Reply {
        Reply::Value(value as i64)
    }
}

/// Host errors as errno.
pub fn host(error: impl Into<io::Error>) -> Errno {
    Errno(error.into().raw_os_error().unwrap_or(libc::EIO))
}

/// A request being served.
pub struct Ctx<'a> {
    /// The sandbox.
    pub server: &'a Arc<Server>,
    /// Who asks.
    pub thread: &'a Arc<GuestThread>,
    /// Its slot.
    pub slot: SlotRef,
    /// The notification it asked by; `None` when it asked by the channel.
    pub call: Option<u64>,
    /// System call number or operation.
    pub nr: u32,
    /// Arguments.
    pub args: [u64; 6],
    /// Further results.
    pub out: [u64; 7],
    /// Descriptors that go with a [`Reply::Value`].
    pub fds: Vec<OwnedFd>,
    /// The caller's credentials, once asked for.
    pub(super) cred: OnceCell<Arc<Cred>>,
    /// Number of a descriptor that the guest has to give before the request can be served.
    pub wanted: Cell<Option<i32>>,
    /// The request can be served only in a moment.
    pub(super) busy: Cell<bool>,
    /// The stamp under which the caller may remember the answer.
    pub(super) holds: Option<u64>,
}

impl<'a> Ctx<'a> {
    /// Copies the request of `thread` out of its slot.
    pub fn new(
        server: &'a Arc<Server>,
        thread: &'a Arc<GuestThread>,
        slot: SlotRef,
        call: Option<u64>,
    ) -> Ctx<'a> {
        let Request { nr, args } = slot.request();
        Ctx {
            server,
            thread,
            slot,
            call,
            nr,
            args,
            out: [0; 7],
            fds: Vec::new(),
            cred: OnceCell::new(),
            wanted: Cell::new(None),
            busy: Cell::new(false),
            holds: None,
        }
    }

    /// The right to look at what guests hold. Who calls this has done nothing yet.
    ///
    /// # Errors
    /// Somebody else is looking: the caller is asked to come again, whatever becomes of the error.
    pub fn look(&self) -> Result<Look<'a>> {
        self.server.opens.look().ok_or_else(|| {
            self.busy.set(true);
            Errno::EAGAIN
        })
    }

    /// Argument as C `int`.
    pub fn int(&self, index: usize) -> i32 {
        self.args[index] as i32
    }

    /// Argument as C `unsigned int`.
    pub fn uint(&self, index: usize) -> u32 {
        self.args[index] as u32
    }

    /// A string or buffer argument, `None` for a null pointer.
    ///
    /// # Errors
    /// `EFAULT` for a span outside the slot (which only a forged request has).
    pub fn bytes_opt(&self, index: usize) -> Result<Option<Vec<u8>>> {
        match self.args[index] {
            abi::SPAN_NULL => Ok(None),
            span => Ok(Some(self.slot.bytes(span).ok_or(Errno::EFAULT)?)),
        }
    }

    /// A string or buffer argument.
    ///
    /// # Errors
    /// `EFAULT` for a null pointer.
    pub fn bytes(&self, index: usize) -> Result<Vec<u8>> {
        self.bytes_opt(index)?.ok_or(Errno::EFAULT)
    }

    /// A path argument: no NUL (a forged request might have one).
    ///
    /// # Errors
    /// `EFAULT`, `EINVAL`.
    pub fn path(&self, index: usize) -> Result<Vec<u8>> {
        let path = self.bytes(index)?;
        if path.contains(&0) { Err(Errno::EINVAL) } else { Ok(path) }
    }

    /// A structure argument of exactly `N` bytes, `None` for a null pointer.
    ///
    /// # Errors
    /// `EFAULT` when the request is forged.
    pub fn structure<const N: usize>(&self, index: usize) -> Result<Option<[u8; N]>> {
        match self.bytes_opt(index)? {
            None => Ok(None),
            Some(bytes) => Ok(Some(bytes.get(..N).and_then(|b| b.try_into().ok()).ok_or(Errno::EFAULT)?)),
        }
    }

    /// Capacity of an output argument in bytes; 0 for a null pointer.
    pub fn capacity(&self, index: usize) -> usize {
        match self.args[index] {
            abi::SPAN_NULL => 0,
            span => (span >> 32) as usize,
        }
    }

    /// Whether an argument is the null pointer.
    pub fn is_null(&self, index: usize) -> bool {
        self.args[index] == abi::SPAN_NULL
    }

    /// Writes an output argument (cut to its capacity); nothing for a null pointer.
    ///
    /// # Errors
    /// `EFAULT` when the request is forged.
    pub fn write(&self, index: usize, bytes: &[u8]) -> Result<()> {
        if !self.is_null(index) {
            self.slot.write(self.args[index], bytes).ok_or(Errno::EFAULT)?;
        }
        Ok(())
    }

    /// Writes bytes at the start of the data area, for operations with replies of their own shape.
    ///
    /// # Errors
    /// `E2BIG` when they do not fit.
    pub fn write_data(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > abi::SLOT_DATA {
            return Err(Errno::E2BIG);
        }
        self.slot.write(abi::span(0, bytes.len() as u32), bytes).ok_or(Errno::EFAULT)?;
        Ok(())
    }

    /// Sends descriptors and writes the reply.
    ///
    /// No copy of a descriptor is left when the caller has its answer: when it closes the last of its own, locks must go, pipes
    /// end and files be free to be executed.
    pub fn finish(mut self, result: Result<Reply>) {
        if let Some(fd) = self.wanted.get() {
            let words = ReplyWords { ret: fd.into(), flags: abi::reply::GIVE, ..ReplyWords::default() };
            return self.slot.reply(&words);
        }
        self.drop_given();
        let result = match self.busy.get() {
            true => super::sys::soon().map(Reply::Wait).map_err(host),
            false => result,
        };
        let mut words = ReplyWords { out: self.out, ..ReplyWords::default() };
        let mut fds = std::mem::take(&mut self.fds);
        match result {
            Ok(Reply::Value(value)) => words.ret = value,
            Ok(Reply::Fd { fd, cloexec }) => {
                words.flags = abi::reply::FD | if cloexec { abi::reply::CLOEXEC } else { 0 };
                fds = vec![fd];
            }
            Ok(Reply::Terminal { fd, cloexec }) => {
                words.flags =
                    abi::reply::FD | abi::reply::TTY | if cloexec { abi::reply::CLOEXEC } else { 0 };
                fds = vec![fd];
            }
            Ok(Reply::Wait(fd)) => {
                words.flags = abi::reply::WAIT | abi::reply::CLOEXEC;
                fds = vec![fd];
            }
            Ok(Reply::Retry) => words.flags = abi::reply::RETRY,
            Ok(Reply::Sleep) => words.flags = abi::reply::SLEEP,
            Err(errno) => {
                words.ret = -i64::from(errno.0);
                fds.clear();
            }
        }
        if !fds.is_empty() {
            let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            let sent = self
                .server
                .socket_of(self.thread, self.call)
                .and_then(|files| sock::send(files.end()?, &[0u8; 4], &borrowed).map_err(host));
            match sent {
                Ok(()) => words.nfds = fds.len() as u32,
                Err(errno) => {
                    // A number too high for the guest's limit is, to the guest, a table that is full.
                    let errno = if errno == Errno::EBADF { Errno::EMFILE } else { errno };
                    words = ReplyWords { ret: -i64::from(errno.0), ..ReplyWords::default() };
                }
            }
        }
        drop(fds);
        if let Some(stamp) = self.holds {
            words.flags |= abi::reply::HOLDS;
            words.out[6] = stamp;
        }
        self.slot.reply(&words);
    }

    /// Host pid of the caller's process.
    pub fn host_pid(&self) -> i32 {
        self.thread.process.host_pid.load(Ordering::Acquire)
    }
}
