//! Answers sent ahead that are sent once more: to the next image of the same program, as long as nothing has changed.
//!
//! A shell script or a build executes the same few programs many times with little in between. What was found for one image holds for
//! the next with the same credentials and root, while the epoch of [`super::ahead`] is the same; only open files must be new
//! ones, since position and flags are an open file's own.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nomina_abi::ahead::Entry;
use nomina_kernel::cred::Cred;
use nomina_kernel::mount::Mount;
use nomina_kernel::vfs::Path;
use rustix::fs::{Mode, OFlags};

use super::Server;
use super::ahead::{Answers, Epoch, Question};
use super::lock::Mutex;
use super::remembered::LONGEST_LIFE;

/// Programs whose answers are kept: each may hold some open files.
const PROGRAMS: usize = 8;

/// What answers depend on, besides what the epoch stands for.
#[derive(PartialEq, Eq)]
pub(super) struct Given {
    /// Device and inode number of the program.
    pub(super) program: (u64, u64),
    /// When they were found ([`Epoch::withdrawals`]).
    pub(super) withdrawals: u64,
    /// Credentials of the image.
    pub(super) cred: Arc<Cred>,
    /// Its root.
    pub(super) root: Path,
    /// What was asked. All paths are absolute.
    pub(super) questions: Vec<Question>,
}

struct Kept {
    given: Given,
    since: Instant,
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    answered: Vec<Question>,
    opened: Vec<(u64, OwnedFd, Arc<Mount>)>,
}

/// The answers kept for some programs.
#[derive(Default)]
pub(super) struct KeptAnswers {
    kept: Mutex<Vec<Kept>>,
    any: AtomicBool,
}

impl KeptAnswers {
    /// Keeps answers that have not been published yet.
    pub(super) fn keep(&self, given: Given, answers: &Answers) {
        let copies =
            answers.opened.iter().zip(&answers.mounts).map(|((entry, fd), mount)| {
                Ok::<_, std::io::Error>((*entry, fd.try_clone()?, mount.clone()))
            });
        let Ok(opened) = copies.collect() else { return };
        let kept = Kept {
            given,
            since: Instant::now(),
            entries: answers.entries.clone(),
            bytes: answers.bytes.clone(),
            answered: answers.questions.clone(),
            opened,
        };
        let mut all = self.kept.lock().unwrap();
        all.retain(|other| other.given.program != kept.given.program);
        if all.len() == PROGRAMS {
            all.remove(0);
        }
        all.push(kept);
        self.any.store(true, Ordering::SeqCst);
    }

    /// Lets go of all. Those of an earlier epoch are not used in any case, but files that are removed must not be held.
    pub(super) fn forget(&self) {
        if self.any.swap(false, Ordering::SeqCst) {
            self.kept.lock().unwrap().clear();
        }
    }

    /// Lets go of those that are too old.
    pub(super) fn expire(&self) {
        if self.any.load(Ordering::SeqCst) {
            self.kept.lock().unwrap().retain(|kept| kept.since.elapsed() < LONGEST_LIFE);
        }
    }
}

impl Server {
    /// The answers that were found under the same conditions. `None` if there are none.
    pub(super) fn again(&self, given: &Given, epoch: Epoch) -> Option<Answers> {
        let all = self.ahead.kept.kept.lock().unwrap();
        let kept = all.iter().find(|kept| kept.given == *given && kept.since.elapsed() < LONGEST_LIFE)?;
        let mut opened = Vec::with_capacity(kept.opened.len());
        for (entry, fd, mount) in &kept.opened {
            let flags =
                OFlags::from_bits_retain(kept.answered.get(*entry as usize)?.flags) & OFlags::NONBLOCK;
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
            let fd = rustix::fs::open(link, flags, Mode::empty()).ok()?;
            self.note_open(&fd, mount);
            opened.push((*entry, fd));
        }
        Some(Answers {
            entries: kept.entries.clone(),
            bytes: kept.bytes.clone(),
            opened,
            mounts: Vec::new(),
            epoch,
            again: true,
            questions: kept.answered.clone(),
        })
    }
}
