//! What a system call has asked of servers so far.
//!
//! A system call that waits is made again from its start ([`crate::wait`]), and asks again what it asked before. Those
//! questions find their answers here: a lookup is not repeated, and a directory is made once. The log of a task is forgotten when
//! its system call is answered, or when it makes another one instead (after a signal).

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nomina_kernel::{Errno, Result};
use rustix::event::EventfdFlags;

use super::inode::FuseInode;
use crate::proc::{TaskKey, current};
use crate::wait;

/// The answer to one question.
#[derive(Clone, Default)]
pub(super) struct Answered {
    /// What followed the header.
    pub body: Arc<[u8]>,
    /// The node, where the answer names one. It is counted when the answer arrives, once.
    pub node: Option<Arc<FuseInode>>,
}

/// A question.
pub(super) struct Question {
    answer: Mutex<Option<Result<Answered>>>,
    /// Readable when there is an answer; nobody needs it afterwards.
    event: Mutex<Option<OwnedFd>>,
}

impl Question {
    /// Gives the answer and wakes who waits. Only the first one counts.
    pub fn answer(&self, result: Result<Answered>) {
        {
            let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
            if answer.is_some() {
                return;
            }
            *answer = Some(result);
        }
        if let Some(event) = self.event.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A counter of 1 always has room.
            let _ = rustix::io::write(&event, &1u64.to_ne_bytes());
        }
    }

    fn result(&self) -> Result<Answered> {
        // The answer's lock is held, so that none comes between.
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = &*answer {
            return result.clone();
        }
        let event = self.event.lock().unwrap_or_else(PoisonError::into_inner);
        // The question is the waiting task's alone: what it does with the descriptor concerns nobody else.
        let event = event.as_ref().ok_or(Errno::EIO)?.as_fd().try_clone_to_owned();
        Err(wait::restart_when(event.map_err(|_| Errno::EMFILE)?))
    }

    /// How much of the answer is kept, in bytes.
    fn bytes(&self) -> usize {
        match &*self.answer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Ok(answered)) => answered.body.len(),
            _ => 0,
        }
    }
}

/// Which request of a task the log is of: its number and arguments.
pub type RequestId = (u32, [u64; 6]);

#[derive(Default)]
struct Log {
    request: Option<RequestId>,
    questions: Vec<(Box<[u8]>, Arc<Question>)>,
    bytes: usize,
}

/// Most that one system call may have in its log, in bytes: a directory of a million names fits.
const LOG_BYTES: usize = 64 << 20;

/// What a question counts for beside its text and its answer: the longer a log, the longer every look through it.
const QUESTION_BYTES: usize = 8 << 10;

/// The logs of all tasks.
#[derive(Default)]
pub struct Replays {
    logs: Mutex<HashMap<TaskKey, Log>>,
    live: AtomicUsize,
}

impl Replays {
    /// A task makes a request: what another one has left is forgotten.
    pub fn begin(&self, task: TaskKey, request: RequestId) {
        if self.live.load(Ordering::Acquire) == 0 {
            return;
        }
        let old = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            let same = logs.get(&task).is_none_or(|log| log.request == Some(request));
            let old = if same { None } else { logs.remove(&task) };
            self.live.store(logs.len(), Ordering::Release);
            old
        };
        // Nodes go after the lock: they have something to say to their server.
        drop(old);
    }

    /// The request is answered, or `waits`.
    pub fn end(&self, task: TaskKey, request: RequestId, waits: bool) {
        if self.live.load(Ordering::Acquire) == 0 {
            return;
        }
        let old = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            let old = if waits {
                if let Some(log) = logs.get_mut(&task) {
                    log.request = Some(request);
                }
                None
            } else {
                logs.remove(&task)
            };
            self.live.store(logs.len(), Ordering::Release);
            old
        };
        drop(old);
    }

    /// The answer to the question `key` of the present task. Where it has not been asked yet, `ask` does so.
    ///
    /// # Errors
    /// The server's; `ERESTARTSYS` while there is none; `ENOMEM` for a system call that asks without end.
    pub(super) fn ask(&self, key: Vec<u8>, ask: impl FnOnce(Arc<Question>)) -> Result<Answered> {
        let task = current().unwrap_or(TaskKey(u64::MAX));
        let (question, is_new) = {
            let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
            let log = logs.entry(task).or_default();
            let known = log.questions.iter().find(|(asked, _)| **asked == key[..]).map(|(_, q)| q.clone());
            let (question, is_new) = match known {
                Some(question) => (question, false),
                None if log.bytes > LOG_BYTES => return Err(Errno::ENOMEM),
                None => {
                    let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                        .map_err(|error| Errno(error.raw_os_error()))?;
                    let question =
                        Arc::new(Question { answer: Mutex::new(None), event: Mutex::new(Some(event)) });
                    // One question is open at a time: the one before has its answer.
                    let last = log.questions.last().map_or(0, |(_, question)| question.bytes());
                    log.bytes += key.len() + last + QUESTION_BYTES;
                    log.questions.push((key.into(), question.clone()));
                    (question, true)
                }
            };
            self.live.store(logs.len(), Ordering::Release);
            (question, is_new)
        };
        if is_new {
            ask(question.clone());
        }
        question.result()
    }
}
