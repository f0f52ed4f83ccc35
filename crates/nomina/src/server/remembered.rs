//! Answers that guests remember (`nomina_abi::reply::HOLDS`): the same question asked again needs no request.
//!
//! Compilers and interpreters ask the same of the same names many times: `cc1` reads the link that `/usr` is not for every header
//! that it looks for. Who asks for the second time is told, with the answer, whether it *holds*, and until when: as long as a word
//! of its region is what it was. What holds is what may be answered ahead ([`super::ahead`]), by the same proof: only requests change it, and
//! before one of those is served all words are set to 0.
//!
//! The host's own processes may change the lower side of an overlay without a request. As with Linux's overlayfs nothing is promised then;
//! still, no answer outlives [`LONGEST_LIFE`].

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nomina_abi::ahead::{ACCESS, END, Identity, OPEN, READLINK, REMEMBER, REMEMBERED_DATA, STAT};
use nomina_gate::region::Region;
use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::seccomp::Seccomp;
use nomina_kernel::vfs::{Path, S_IFREG, WalkContext, watch};

use super::ahead::{Epoch, keeps_atime, question};
use super::context::walk_cred;
use super::layout;
use super::request::{Ctx, Reply};

/// How long an answer may be remembered, but for the two milliseconds between two looks.
pub(super) const LONGEST_LIFE: Duration = Duration::from_millis(20);

/// The regions in which answers hold.
#[derive(Default)]
pub(super) struct Holding {
    /// With what stands in them.
    regions: Vec<(Arc<Region>, u64)>,
    /// The latest of those. Each is used for one time only: an answer of before a change never holds again.
    stamp: u64,
    since: Option<Instant>,
}

impl Holding {
    /// Answers hold in `region`, too. Gives their stamp.
    pub(super) fn add(&mut self, region: &Arc<Region>) -> u64 {
        if let Some((_, stamp)) = self.regions.iter().find(|(known, _)| Arc::ptr_eq(known, region)) {
            return *stamp;
        }
        self.stamp += 1;
        self.regions.push((region.clone(), self.stamp));
        self.since.get_or_insert_with(Instant::now);
        region.stamp().store(self.stamp, Ordering::SeqCst);
        self.stamp
    }

    /// None in `region` holds any more.
    pub(super) fn withdraw_from(&mut self, region: &Arc<Region>) {
        self.regions.retain(|(known, _)| !Arc::ptr_eq(known, region));
        region.stamp().store(0, Ordering::SeqCst);
    }

    /// None holds any more.
    pub(super) fn withdraw(&mut self) {
        if self.regions.is_empty() {
            return;
        }
        for (region, _) in self.regions.drain(..) {
            region.stamp().store(0, Ordering::SeqCst);
        }
        self.since = None;
    }

    /// Withdraws them when the first has held for long enough. Gives whether there are any left.
    pub(super) fn expire(&mut self) -> bool {
        if self.since.is_some_and(|since| since.elapsed() >= LONGEST_LIFE) {
            self.withdraw();
        }
        !self.regions.is_empty()
    }
}

/// The answer to a request whose caller would remember it, if that can be. `None`: it is served as any other.
pub(super) fn answer(ctx: &mut Ctx<'_>) -> Option<Result<Reply>> {
    if ctx.args[5] != REMEMBER {
        return None;
    }
    let question = question(ctx).filter(|question| question.op != OPEN)?;
    // Where the bytes go.
    let to = match ctx.nr {
        4 | 6 | 89 => 1,
        _ => 2,
    };
    let room = ctx.capacity(to);
    let server = ctx.server;
    let epoch = epoch_for(ctx)?;
    let (cred, fs) = (ctx.cred(), ctx.fs());
    let found = walk_cred(&cred, question.op == ACCESS, |cred| {
        let walk = WalkContext { root: &fs.root, pwd: &fs.pwd, cred, umask: fs.umask };
        server.find_answer(&walk, &question)
    });
    let reply = match found {
        // A text that is cut says nothing of a longer one.
        Ok((_, bytes, _)) if question.op == READLINK && bytes.len() >= room.min(REMEMBERED_DATA) => {
            return None;
        }
        Ok(_) if question.op == STAT && room != REMEMBERED_DATA => return None,
        Ok((ret, bytes, _)) => {
            if question.op != ACCESS {
                ctx.write(to, &bytes).ok()?;
            }
            Ok(Reply::Value(ret))
        }
        Err(errno @ (Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES)) => Err(errno),
        // No link. The size was looked at.
        Err(Errno::EINVAL) if question.op == READLINK && room > 0 => Err(Errno::EINVAL),
        Err(_) => return None,
    };
    hold(ctx, epoch);
    Some(reply)
}

/// With a file opened for reading, whose opener would remember the attributes.
pub(super) fn identify(ctx: &mut Ctx<'_>, fd: BorrowedFd<'_>, place: &Path) {
    let cacheable = place.dentry.file_type() == S_IFREG && place.mnt.sb().cacheable();
    if ctx.args[5] != REMEMBER || !matches!(ctx.nr, 2 | 257) || !cacheable {
        return;
    }
    let Some(epoch) = epoch_for(ctx) else { return };
    // What changes the file by its name in a directory is told if that is watched; by another, always.
    let dir = place.dentry.parent().map(|dentry| Path { mnt: place.mnt.clone(), dentry });
    if dir.is_none_or(|dir| watch(&dir, false).is_err()) {
        return;
    }
    if let Ok(identity) = ctx.server.identity(fd)
        && ctx.write(4, &identity).is_ok()
    {
        hold(ctx, epoch);
    }
}

/// With a directory opened for reading, as [`identify`]: the descriptor is a placeholder, of which the host only says which it is.
pub(super) fn identify_directory(ctx: &mut Ctx<'_>, placeholder: BorrowedFd<'_>, place: &Path) {
    if ctx.args[5] != REMEMBER || !matches!(ctx.nr, 2 | 257) || !place.mnt.sb().cacheable() {
        return;
    }
    let Some(epoch) = epoch_for(ctx) else { return };
    if watch(place, true).is_err() {
        return;
    }
    let Ok(attr) = place.inode().getattr() else { return };
    let Ok(host) = rustix::fs::fstat(placeholder) else { return };
    if !place.inode().is_stable() || !keeps_atime(&attr) {
        return;
    }
    let mut bytes = Vec::with_capacity(size_of::<Identity>());
    for word in [host.st_dev, host.st_ino, host.st_mtime as u64] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(&layout::stat(&attr));
    if ctx.write(4, &bytes).is_ok() {
        hold(ctx, epoch);
    }
}

/// With the last entries of a directory: where it ends, so that the call which finds no more is not made.
pub(super) fn ends(ctx: &mut Ctx<'_>, placeholder: BorrowedFd<'_>, place: &Path, position: u64) {
    if ctx.args[5] != REMEMBER || ctx.nr != 217 || !place.mnt.sb().cacheable() {
        return;
    }
    let (Some(epoch), Ok(host)) = (epoch_for(ctx), rustix::fs::fstat(placeholder)) else { return };
    // The end stays where it is until somebody rewinds; then more names may have come.
    if watch(place, false).is_err() {
        return;
    }
    ctx.out[END..END + 4].copy_from_slice(&[host.st_dev, host.st_ino, host.st_mtime as u64, position]);
    hold(ctx, epoch);
}

/// The state to which an answer for the caller belongs; `None` where it must always ask.
fn epoch_for(ctx: &Ctx<'_>) -> Option<Epoch> {
    let server = ctx.server;
    let epoch = server.ahead.epoch()?;
    // A filter of the guest's own is asked for each request.
    let filtered = !matches!(server.kernel.lock().unwrap().seccomp(ctx.task()), Seccomp::Disabled);
    (!filtered && ctx.cred().user_ns.parent().is_none()).then_some(epoch)
}

/// Lets the answer hold, if nothing has changed since `epoch`.
fn hold(ctx: &mut Ctx<'_>, epoch: Epoch) {
    let Some(image) = ctx.thread.image() else { return };
    ctx.holds = ctx.server.ahead.let_hold(&image.space().region, epoch);
    if ctx.holds.is_some() {
        ctx.thread.gate.turns.keep_looking();
    }
}

#[cfg(test)]
mod tests {
    use super::super::ahead::Ahead;
    use super::*;

    #[test]
    fn an_answer_of_before_a_change_never_holds_again() {
        let ahead = Ahead::default();
        let region = Region::new().unwrap();
        let epoch = ahead.epoch().unwrap();
        let first = ahead.let_hold(&region, epoch).unwrap();
        assert_eq!(region.stamp().load(Ordering::SeqCst), first);
        let changing = ahead.change();
        assert_eq!(region.stamp().load(Ordering::SeqCst), 0);
        assert_eq!(ahead.epoch(), None);
        assert_eq!(ahead.let_hold(&region, epoch), None);
        drop(changing);
        // Found before the change.
        assert_eq!(ahead.let_hold(&region, epoch), None);
        let second = ahead.let_hold(&region, ahead.epoch().unwrap()).unwrap();
        assert_ne!(first, second);
        assert_eq!(region.stamp().load(Ordering::SeqCst), second);
    }

    #[test]
    fn no_answer_outlives_its_time() {
        let ahead = Ahead::default();
        let region = Region::new().unwrap();
        ahead.let_hold(&region, ahead.epoch().unwrap()).unwrap();
        assert!(ahead.expire());
        std::thread::sleep(LONGEST_LIFE);
        assert!(!ahead.expire());
        assert_eq!(region.stamp().load(Ordering::SeqCst), 0);
    }
}
