//! Answers sent ahead to a new image (`nomina_abi::ahead`): which requests it will make first, and what they are answered.
//!
//! A program begins its life with the same few questions each time: the dynamic linker's for its cache and for libraries, then
//! the program's own for its files. What an image asks before it changes anything is noted for its program, and the next image
//! of that program gets the answers with its start. Each saves a signal and an exchange of messages.
//!
//! An answer must be one that the guest could have got by asking at the time it uses it. So an image gets only answers
//! that nothing but requests can change: names on file systems that only this sandbox changes, attributes that no handle
//! changes. They hold until the first request of anybody that may change a name, an attribute, a mount or credentials: all
//! outstanding answers are withdrawn *before* it is served, and none are given out while it is ([`Changing`]). Who reads an
//! answer in that moment has asked before the change was made. Requests that change nothing are listed ([`changes_nothing`]);
//! what is not listed counts as a change.
//!
//! Of requests that create, open for writing, remove or rename ([`changes_names`]), the model says what they are about to change
//! ([`nomina_kernel::vfs::Watcher`]); only when answers depend on that directory are all withdrawn. Which ones they depend on, the walks that find answers
//! note. An answer holds only if no such request was served while it was found: one that begins later meets the note.
//!
//! What the guest says it has used is only believed for guessing better next time.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nomina_abi::ahead::{
    ACCESS, BUCKETS, Entry, Head, Identity, MAX_ENTRIES, OPEN, READLINK, STAT, STAT_SIZE, hash,
};
use nomina_abi::{SLOTS_OFFSET, op};
use nomina_gate::region::Region;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::Mount;
use nomina_kernel::seccomp::Seccomp;
use nomina_kernel::vfs::{Attr, Dentry, LookupFlags, Opened, S_IFREG, WalkContext, Watcher, attr, namei};

use super::Server;
use super::context::walk_cred;
use super::guest::GuestThread;
use super::kept::{Given, KeptAnswers};
use super::layout;
use super::lock::Mutex;
use super::remembered::Holding;
use super::request::Ctx;

/// Programs remembered.
const PROGRAMS: usize = 256;
/// Requests remembered for a program, with those that have not proved useful yet.
const REMEMBERED: usize = 448;
/// Most opens answered ahead: each is a host descriptor that may have been made for nothing.
const MOST_OPENS: usize = 96;
/// How many requests of an image are looked at.
const LOOKED_AT: usize = 768;
/// Longest path answered for.
const LONGEST: usize = 200;
/// Bytes of a readlink's text.
const LONGEST_LINK: usize = 256;
/// The score from which on a request is foreseen, the highest score, and what a useless answer costs.
const FORESEEN: i8 = 1;
const HIGHEST: i8 = 6;
const USELESS: i8 = 2;

/// A request as far as it matters for its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Question {
    /// Of the rest: most comparisons end here.
    hash: u32,
    pub(super) op: u32,
    pub(super) flags: u32,
    path: Arc<[u8]>,
}

impl Question {
    fn new(op: u32, flags: u32, path: &[u8]) -> Question {
        Question { hash: hash(op, flags, path), op, flags, path: path.into() }
    }
}

/// What is returned, the bytes that go with it, and what was opened.
pub(super) type Found = (i64, Vec<u8>, Option<(OwnedFd, Arc<Mount>)>);

struct Remembered {
    question: Question,
    score: i8,
}

/// What an image was sent, and what it has asked for besides.
pub struct Observed {
    ahead: Arc<Ahead>,
    program: (u64, u64),
    region: Arc<Region>,
    sent: Vec<Question>,
    asked: Vec<Question>,
    looked_at: usize,
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.ahead.observing.fetch_sub(1, Ordering::Relaxed);
        self.ahead.judge(self);
    }
}

/// Who may change what at the moment, and whose answers hold.
#[derive(Default)]
struct State {
    /// Requests being served that may change anything, and those that tell.
    changing: usize,
    telling: usize,
    epoch: Epoch,
    /// With the time at which they were sent.
    outstanding: Vec<(Arc<Region>, Instant)>,
    holding: Holding,
    /// Directories on which answers depend.
    watched: Vec<Arc<Dentry>>,
}

/// The state of names and attributes that an answer belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Epoch {
    /// Counts withdrawals.
    pub(super) withdrawals: u64,
    /// Counts requests that tell what they change.
    told: u64,
}

/// How long answers stand: what the host's own processes change below an overlay is no request.
const LONGEST_AHEAD: Duration = Duration::from_millis(250);
/// Most directories on which answers may depend.
const WATCHED: usize = 2048;

/// What nobody depends on any more, to be let go of without the lock.
type Gone = (Vec<(Arc<Region>, Instant)>, Vec<Arc<Dentry>>);

impl State {
    /// No answer holds any more.
    #[must_use]
    fn withdraw(&mut self) -> Gone {
        self.epoch.withdrawals += 1;
        for (region, _) in &self.outstanding {
            region.ahead_valid().store(0, Ordering::SeqCst);
        }
        self.holding.withdraw();
        for dir in &self.watched {
            dir.clear_watched();
        }
        (std::mem::take(&mut self.outstanding), std::mem::take(&mut self.watched))
    }

    /// Whether what was found in `epoch` is still so, and every change to come meets the notes of what it depends on.
    fn is_still(&self, epoch: Epoch) -> bool {
        self.changing == 0 && self.telling == 0 && self.epoch == epoch
    }
}

/// What is known of programs, and the answers that hold.
#[derive(Default)]
pub struct Ahead {
    state: Mutex<State>,
    programs: Mutex<HashMap<(u64, u64), Vec<Remembered>>>,
    observing: AtomicUsize,
    pub(super) kept: KeptAnswers,
}

/// While it lives something may change, and no answers are given out.
pub struct Changing<'a> {
    ahead: &'a Ahead,
    tells: bool,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        let mut state = self.ahead.state.lock().unwrap();
        if self.tells {
            state.telling -= 1;
            state.epoch.told += 1;
        } else {
            state.changing -= 1;
        }
    }
}

/// Answers for an image: to be written into its region, and descriptors to be sent with the index of their entries.
pub struct Answers {
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: Vec<u8>,
    /// (entry, descriptor).
    pub opened: Vec<(u64, OwnedFd)>,
    /// By which mounts.
    pub(super) mounts: Vec<Arc<Mount>>,
    pub(super) epoch: Epoch,
    /// They have been given before: what they depend on has been noted for long.
    pub(super) again: bool,
    pub(super) questions: Vec<Question>,
}

impl Answers {
    /// None yet.
    fn none(epoch: Epoch) -> Answers {
        Answers {
            entries: Vec::new(),
            bytes: Vec::new(),
            opened: Vec::new(),
            mounts: Vec::new(),
            epoch,
            again: false,
            questions: Vec::new(),
        }
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.entries.len()
    }

    fn room(&self) -> usize {
        const ROOM: usize = SLOTS_OFFSET - size_of::<Head>() - MAX_ENTRIES * size_of::<Entry>();
        ROOM.saturating_sub(self.bytes.len())
    }

    fn put(&mut self, bytes: &[u8]) -> (u32, u32) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        (at as u32, bytes.len() as u32)
    }

    fn add(&mut self, question: &Question, ret: i64, data: &[u8]) {
        if self.room() < question.path.len() + data.len() + 16 || self.entries.len() == MAX_ENTRIES {
            return;
        }
        let (path, path_len) = self.put(&question.path);
        let (data, data_len) = self.put(data);
        let (op, flags) = (question.op, question.flags);
        let path_len = path_len as u16;
        self.entries.push(Entry { op, flags, path, path_len, next: 0, ret, data, data_len });
        self.questions.push(question.clone());
    }

    /// Positions in `bytes` become positions in the region. Gives where to look for an entry.
    fn relocate(&mut self) -> [u16; BUCKETS] {
        let base = (size_of::<Head>() + self.entries.len() * size_of::<Entry>()) as u32;
        let mut buckets = [0; BUCKETS];
        // From the last on, so that of two with the same bucket the first is found first.
        for (index, (entry, question)) in self.entries.iter_mut().zip(&self.questions).enumerate().rev() {
            entry.path += base;
            entry.data += base;
            let bucket = &mut buckets[question.hash as usize % BUCKETS];
            entry.next = std::mem::replace(bucket, index as u16 + 1);
        }
        buckets
    }
}

/// Whether serving a request changes no name, attribute, mount or credentials. What is not listed may.
pub fn changes_nothing(nr: u32, args: &[u64; 6]) -> bool {
    let reads = |flags: u64| {
        let writes = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY);
        flags as i32 & writes == libc::O_RDONLY
    };
    match nr {
        // open, openat; not openat2, whose flags are in memory.
        2 => reads(args[1]),
        257 => reads(args[2]),
        // stat and its kin, access, readlink, statfs, getdents, getcwd
        4..=6 | 262 | 332 | 21 | 269 | 439 | 89 | 267 | 137 | 138 | 78 | 217 | 79 => true,
        // Numbers of processes and users, uname, signals, limits, priorities.
        39 | 63 | 102 | 104 | 107 | 108 | 110 | 111 | 115 | 118 | 120 | 121 | 124 | 125 | 62 | 129 | 297
        | 200 | 234 | 424 | 434 | 97 | 302 | 140 | 141 => true,
        // getxattr and listxattr, inotify
        191..=196 | 254 => true,
        // socket, connect, sendto and what asks about sockets
        41 | 42 | 44 | 46 | 51..=55 => true,
        op::CLONE
        | op::CLONE_FAILED
        | op::EXEC
        | op::EXEC_FAILED
        | op::THREAD_EXIT
        | op::XLATE
        | op::REAP
        | op::TEXT
        | op::SIGNALFD
        | op::SENDER
        | op::SECCOMP_JUDGE
        | op::MOUNTS_CHANGED
        | op::PACKET_RING => true,
        _ => false,
    }
}

/// Whether all that a request changes are the credentials of its caller.
pub fn changes_credentials(nr: u32) -> bool {
    // set*uid, set*gid, setgroups, capset
    matches!(nr, 105 | 106 | 113 | 114 | 116 | 117 | 119 | 122 | 123 | 126)
}

/// Whether all that a request changes is what the model tells of: names and objects on the way of these calls.
pub fn changes_names(nr: u32, args: &[u64; 6]) -> bool {
    // O_TMPFILE and O_PATH say little.
    let plain = |flags: u64| flags as i32 & (libc::O_PATH | libc::O_TMPFILE & !libc::O_DIRECTORY) == 0;
    match nr {
        // open, openat, creat
        2 => plain(args[1]),
        257 => plain(args[2]),
        85 => true,
        // rename, mkdir, rmdir, unlink and their kin
        82..=84 | 87 | 258 | 263 | 264 | 316 => true,
        _ => false,
    }
}

/// The question that a request asks, if it can be answered ahead.
pub(super) fn question(ctx: &Ctx<'_>) -> Option<Question> {
    let here = |dirfd: usize| ctx.int(dirfd) == libc::AT_FDCWD;
    let nofollow = libc::AT_SYMLINK_NOFOLLOW as u32;
    let (op, flags, path) = match ctx.nr {
        2 => (OPEN, ctx.uint(1), 0),
        257 if here(0) => (OPEN, ctx.uint(2), 1),
        21 => (ACCESS, ctx.uint(1), 0),
        269 if here(0) => (ACCESS, ctx.uint(2), 1),
        4 => (STAT, 0, 0),
        6 => (STAT, nofollow, 0),
        262 if here(0) && ctx.uint(3) & !nofollow == 0 => (STAT, ctx.uint(3), 1),
        89 => (READLINK, 0, 0),
        267 if here(0) => (READLINK, 0, 1),
        _ => return None,
    };
    const OPEN_FLAGS: i32 = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_NONBLOCK | 0o100000;
    if (op == OPEN && flags as i32 & !OPEN_FLAGS != 0) || (op == ACCESS && flags & !7 != 0) {
        return None;
    }
    let path = ctx.path(path).ok()?;
    (path.len() <= LONGEST).then(|| Question::new(op, flags, &path))
}

/// Whether reading the object cannot change its access time (`relatime`), which would be no request.
pub(super) fn keeps_atime(attr: &Attr) -> bool {
    const HALF_A_DAY: i64 = 12 * 3600;
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse).tv_sec;
    attr.atime > attr.mtime && attr.atime > attr.ctime && now - attr.atime.sec < HALF_A_DAY
}

impl Ahead {
    /// Announces that something may change.
    pub fn change(&self) -> Changing<'_> {
        let mut state = self.state.lock().unwrap();
        state.changing += 1;
        let gone = state.withdraw();
        drop(state);
        drop(gone);
        self.kept.forget();
        Changing { ahead: self, tells: false }
    }

    /// Announces that the credentials of a thread may change, on which only answers in the region of its address space depend.
    pub fn change_own(&self, region: &Arc<Region>) {
        let mut state = self.state.lock().unwrap();
        region.ahead_valid().store(0, Ordering::SeqCst);
        state.holding.withdraw_from(region);
        // What is being found for it belongs to the credentials of before.
        state.epoch.told += 1;
    }

    /// Announces a request of which the model tells what it changes.
    pub fn change_names(&self) -> Changing<'_> {
        self.state.lock().unwrap().telling += 1;
        Changing { ahead: self, tells: true }
    }

    /// The state of names and attributes that an answer found from now on belongs to. `None` while something changes.
    pub fn epoch(&self) -> Option<Epoch> {
        let state = self.state.lock().unwrap();
        (state.changing == 0 && state.telling == 0).then_some(state.epoch)
    }

    /// Whether nothing has changed since `epoch`, and nothing will unnoticed.
    fn is_still(&self, epoch: Epoch) -> bool {
        self.state.lock().unwrap().is_still(epoch)
    }

    /// Lets answers found since `epoch` hold in `region`. Gives the stamp that they get, unless something has changed.
    pub fn let_hold(&self, region: &Arc<Region>, epoch: Epoch) -> Option<u64> {
        let mut state = self.state.lock().unwrap();
        state.is_still(epoch).then(|| state.holding.add(region))
    }

    /// Lets no answer be remembered for longer than it should be. Gives whether there are any left.
    pub fn expire(&self) -> bool {
        self.kept.expire();
        let mut state = self.state.lock().unwrap();
        let (old, young) = std::mem::take(&mut state.outstanding)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, sent)| sent.elapsed() >= LONGEST_AHEAD);
        for (region, _) in &old {
            region.ahead_valid().store(0, Ordering::SeqCst);
        }
        state.outstanding = young;
        // Who walks over a large tree watches many directories, and is soon done with each.
        if state.watched.len() > WATCHED / 2 {
            let gone = state.withdraw();
            drop(state);
            drop(gone);
            self.kept.forget();
            return false;
        }
        let any = state.holding.expire() || !state.outstanding.is_empty();
        drop(state);
        drop(old);
        any
    }

    /// Writes the answers into the image's region and lets them hold, unless something has changed since they were found.
    fn publish(&self, region: &Arc<Region>, answers: &mut Answers) -> bool {
        let buckets = answers.relocate();
        region.write_ahead(&buckets, &answers.entries, &answers.bytes);
        let mut state = self.state.lock().unwrap();
        let holds = match answers.again {
            true => state.changing == 0 && state.epoch.withdrawals == answers.epoch.withdrawals,
            false => state.is_still(answers.epoch),
        };
        if !holds {
            return false;
        }
        state.outstanding.retain(|(known, _)| !Arc::ptr_eq(known, region));
        state.outstanding.push((region.clone(), Instant::now()));
        region.ahead_valid().store(1, Ordering::SeqCst);
        true
    }

    /// A region that nobody uses any more, to be taken down at leisure.
    pub fn forget_region(&self, region: &Arc<Region>) {
        self.state.lock().unwrap().outstanding.retain(|(known, _)| !Arc::ptr_eq(known, region));
    }

    /// Notes what an image asks as long as it changes nothing. Called for every request.
    pub fn observe(&self, ctx: &Ctx<'_>) {
        if self.observing.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut observed = ctx.thread.observed.lock().unwrap();
        let Some(seen) = &mut *observed else { return };
        seen.looked_at += 1;
        let goes_on = seen.looked_at < LOOKED_AT
            && (changes_nothing(ctx.nr, &ctx.args) || changes_names(ctx.nr, &ctx.args))
            && !matches!(ctx.nr, op::EXEC | op::THREAD_EXIT);
        if let Some(asked) = question(ctx).filter(|asked| goes_on && asked.path.first() == Some(&b'/'))
            && !seen.asked.contains(&asked)
        {
            self.remember(seen.program, &asked);
            seen.asked.push(asked);
        }
        if !goes_on {
            *observed = None;
        }
    }

    /// Remembers that an image of `program` has asked this, once more.
    fn remember(&self, program: (u64, u64), question: &Question) {
        let mut programs = self.programs.lock().unwrap();
        if programs.len() >= PROGRAMS && !programs.contains_key(&program) {
            programs.clear();
        }
        let known = programs.entry(program).or_default();
        match known.iter_mut().find(|entry| entry.question == *question) {
            Some(entry) => entry.score = (entry.score + 1).min(HIGHEST),
            None => {
                if known.len() >= REMEMBERED
                    && let Some((worst, _)) = known.iter().enumerate().min_by_key(|(_, entry)| entry.score)
                {
                    known.remove(worst);
                }
                known.push(Remembered { question: question.clone(), score: 0 });
            }
        }
    }

    /// Judges what an image was sent by what it has used of it.
    fn judge(&self, seen: &Observed) {
        if seen.sent.is_empty() {
            return;
        }
        let used = seen.region.ahead_used();
        let mut programs = self.programs.lock().unwrap();
        let Some(known) = programs.get_mut(&seen.program) else { return };
        for (index, question) in seen.sent.iter().enumerate() {
            if let Some(entry) = known.iter_mut().find(|entry| entry.question == *question)
                && !seen.asked.contains(question)
            {
                let used = used[index / 64] & 1 << (index % 64) != 0;
                entry.score = if used { (entry.score + 1).min(HIGHEST) } else { entry.score - USELESS };
            }
        }
        known.retain(|entry| entry.score >= 0);
    }
}

impl Watcher for Ahead {
    fn watch(&self, dir: &Arc<Dentry>, attributes: bool) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.watched.len() >= WATCHED {
            return false;
        }
        dir.set_watched(attributes);
        state.watched.push(dir.clone());
        true
    }

    fn will_change(&self) {
        let gone = self.state.lock().unwrap().withdraw();
        drop(gone);
        self.kept.forget();
    }
}

impl Server {
    /// What the new image of `thread` will probably ask for, answered. `None` if there is nothing to send.
    pub fn foresee(&self, thread: &GuestThread) -> Option<Answers> {
        let program = thread.process.exe.lock().unwrap().as_ref()?.id;
        let epoch = self.ahead.epoch()?;
        let questions: Vec<Question> = {
            let programs = self.ahead.programs.lock().unwrap();
            let known = programs.get(&program)?;
            let good = known.iter().filter(|entry| entry.score >= FORESEEN);
            good.map(|entry| entry.question.clone()).take(MAX_ENTRIES).collect()
        };
        let (cred, fs) = {
            let kernel = self.kernel.lock().unwrap();
            let task = kernel.task(thread.task)?;
            // A filter of the guest's own is asked for each request.
            if !matches!(kernel.seccomp(thread.task), Seccomp::Disabled) {
                return None;
            }
            (task.cred().clone(), task.fs()?.clone())
        };
        if questions.is_empty() || cred.user_ns.parent().is_some() {
            return None;
        }
        let fs = fs.lock().unwrap().clone();
        let withdrawals = epoch.withdrawals;
        let given = Given { program, withdrawals, cred, root: fs.root.clone(), questions };
        if let Some(again) = self.again(&given, epoch) {
            return Some(again);
        }
        let (cred, questions) = (&given.cred, &given.questions);
        let mut answers = Answers::none(epoch);
        for question in questions {
            if question.op == OPEN && answers.opened.len() == MOST_OPENS {
                continue;
            }
            walk_cred(cred, question.op == ACCESS, |cred| {
                let walk = WalkContext { root: &fs.root, pwd: &fs.pwd, cred, umask: fs.umask };
                self.answer(&walk, question, &mut answers);
            });
        }
        if answers.count() == 0 {
            return None;
        }
        if self.ahead.is_still(epoch) {
            self.ahead.kept.keep(given, &answers);
        }
        Some(answers)
    }

    /// Finds what a question is answered, from what only requests can change; `EAGAIN` where that is not so.
    pub(super) fn find_answer(&self, walk: &WalkContext<'_>, question: &Question) -> Result<Found> {
        let follow = match question.op {
            STAT if question.flags != 0 => LookupFlags::OWN,
            READLINK => LookupFlags::OWN,
            _ => LookupFlags::OWN | LookupFlags::FOLLOW,
        };
        match question.op {
            OPEN => {
                let opened = namei::open(walk, &question.path, question.flags, 0, LookupFlags::OWN)?;
                let place = opened.path;
                let Opened::Host(fd) = opened.opened else { return Err(Errno::EAGAIN) };
                if place.dentry.file_type() != S_IFREG || !place.mnt.sb().cacheable() {
                    return Err(Errno::EAGAIN);
                }
                self.note_open(&fd, &place.mnt);
                Ok((0, self.identity(fd.as_fd())?, Some((fd, place.mnt))))
            }
            ACCESS => {
                let place = namei::path_lookup(walk, &question.path, follow)?;
                if !place.mnt.sb().cacheable() {
                    return Err(Errno::EAGAIN);
                }
                attr::vfs_access(&place, walk.cred, question.flags)?;
                Ok((0, Vec::new(), None))
            }
            STAT => namei::with_inode(walk, &question.path, follow, |mount, inode| {
                let attr = inode.getattr()?;
                if !mount.sb().cacheable() || !inode.is_stable() || !keeps_atime(&attr) {
                    return Err(Errno::EAGAIN);
                }
                Ok((0, layout::stat(&attr).to_vec(), None))
            }),
            _ => {
                let text = namei::readlink(walk, &question.path, follow)?;
                if text.len() > LONGEST_LINK {
                    return Err(Errno::EAGAIN);
                }
                Ok((text.len() as i64, text, None))
            }
        }
    }

    /// An [`Identity`] as bytes. `EAGAIN` where that changes without a request.
    pub(super) fn identity(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>> {
        let host = rustix::fs::fstat(fd).map_err(super::request::host)?;
        let attr = self.attr_of_handle(fd)?;
        // A write takes set-id bits away.
        if attr.mode & 0o6000 != 0 {
            return Err(Errno::EAGAIN);
        }
        let mut bytes = Vec::with_capacity(size_of::<Identity>());
        bytes.extend_from_slice(&host.st_dev.to_ne_bytes());
        bytes.extend_from_slice(&host.st_ino.to_ne_bytes());
        bytes.extend_from_slice(&0u64.to_ne_bytes());
        bytes.extend_from_slice(&layout::stat(&attr));
        Ok(bytes)
    }

    /// Adds the answer to a question, unless it is one that must be asked.
    fn answer(&self, walk: &WalkContext<'_>, question: &Question, answers: &mut Answers) {
        match self.find_answer(walk, question) {
            Ok((ret, bytes, fd)) => {
                let before = answers.count();
                answers.add(question, ret, &bytes);
                if let Some((fd, mount)) = fd.filter(|_| answers.count() > before) {
                    answers.opened.push((before as u64, fd));
                    answers.mounts.push(mount);
                }
            }
            Err(errno @ (Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES)) => {
                answers.add(question, -i64::from(errno.0), &[]);
            }
            // No link.
            Err(Errno::EINVAL) if question.op == READLINK => {
                answers.add(question, -i64::from(Errno::EINVAL.0), &[]);
            }
            // Not ours to say, or something that may go better next time.
            Err(_) => {}
        }
    }

    /// Begins to observe the new image, and lets answers hold. Gives how many do.
    pub fn start_ahead(
        &self,
        thread: &GuestThread,
        region: &Arc<Region>,
        answers: Option<&mut Answers>,
    ) -> u32 {
        let Some(program) = thread.process.exe.lock().unwrap().as_ref().map(|exe| exe.id) else { return 0 };
        // What the region says of the image before is read now.
        let old = thread.observed.lock().unwrap().take();
        drop(old);
        let sent = answers.and_then(|answers| self.ahead.publish(region, answers).then_some(answers));
        let count = sent.as_ref().map_or(0, |answers| answers.count() as u32);
        if count > 0 {
            thread.gate.turns.keep_looking();
        }
        if count == 0 {
            // Whatever is there is of another image.
            region.write_ahead(&[0; BUCKETS], &[], &[]);
        }
        self.ahead.observing.fetch_add(1, Ordering::Relaxed);
        let observed = Observed {
            ahead: self.ahead.clone(),
            program,
            region: region.clone(),
            sent: sent.map_or_else(Vec::new, |answers| std::mem::take(&mut answers.questions)),
            asked: Vec::new(),
            looked_at: 0,
        };
        *thread.observed.lock().unwrap() = Some(observed);
        count
    }
}

const _: () = assert!(STAT_SIZE == 144);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_change_an_answer_is_known_to() {
        let none = [0u64; 6];
        // creat, truncate, rename, mkdir, rmdir, link, unlink, symlink, chmod, chown, utime, mknod, xattrs and their kin
        let names = [85, 76, 77, 82, 264, 316, 83, 258, 84, 86, 265, 87, 263, 88, 266, 90, 91, 268, 452];
        let attributes = [92, 93, 94, 260, 132, 235, 261, 280, 133, 259, 188, 189, 190, 197, 198, 199, 285];
        // bind makes a socket; chdir, chroot, mounts, namespaces, credentials, umask
        let others = [49, 80, 81, 161, 155, 165, 166, 428, 429, 430, 431, 432, 433, 442, 467, 272, 308, 95];
        let credentials = [105, 106, 113, 114, 116, 117, 119, 122, 123, 126, 157];
        for nr in names.into_iter().chain(attributes).chain(others).chain(credentials) {
            assert!(!changes_nothing(nr, &none), "{nr}");
        }
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE, 3] {
            assert!(!changes_nothing(2, &[0, flags as u64, 0, 0, 0, 0]), "{flags:o}");
            assert!(!changes_nothing(257, &[0, 0, flags as u64, 0, 0, 0]), "{flags:o}");
        }
        assert!(changes_nothing(257, &[0, 0, (libc::O_CLOEXEC | libc::O_DIRECTORY) as u64, 0, 0, 0]));
        // Numbers nobody has thought of.
        assert!((470..600).all(|nr| !changes_nothing(nr, &none)));
    }

    #[test]
    fn nothing_is_given_out_while_something_changes() {
        let ahead = Ahead::default();
        let region = Region::new().unwrap();
        let answers = |withdrawals| {
            let mut answers = Answers::none(Epoch { withdrawals, told: 0 });
            answers.add(&Question::new(ACCESS, 0, b"/x"), 0, &[]);
            answers
        };
        assert!(ahead.publish(&region, &mut answers(0)));
        assert_eq!(region.ahead_valid().load(Ordering::SeqCst), 1);
        let changing = ahead.change();
        assert_eq!(region.ahead_valid().load(Ordering::SeqCst), 0);
        assert!(!ahead.publish(&region, &mut answers(1)));
        drop(changing);
        // Found before the change was over.
        assert!(!ahead.publish(&region, &mut answers(0)));
        assert!(ahead.publish(&region, &mut answers(1)));
    }

    #[test]
    fn a_full_region_takes_no_more_answers() {
        let mut answers = Answers::none(Epoch::default());
        for number in 0..1000 {
            let path = format!("/{number:0>150}").into_bytes();
            answers.add(&Question::new(READLINK, 0, &path), 200, &[b'x'; LONGEST_LINK]);
        }
        let region = Region::new().unwrap();
        assert!(Ahead::default().publish(&region, &mut answers));
        assert!(answers.count() > 20 && answers.count() <= MAX_ENTRIES);
    }
}
