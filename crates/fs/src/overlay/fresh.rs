//! The attributes the last lookup of this thread saw, for the `stat` that nearly always follows.
//!
//! A lookup has to ask the host for the type of what it finds and gets everything else with it. Path walk asks for the
//! attributes next. They are handed over once, to the same thread, for the same inode, and only within a time in which
//! nothing a guest does in between could be noticed.

use std::cell::Cell;
use std::time::{Duration, Instant};

use nomina_kernel::vfs::Attr;

const FRESH: Duration = Duration::from_micros(50);

thread_local! {
    static LAST: Cell<Option<(u64, Instant, Attr)>> = const { Cell::new(None) };
}

/// Remembers what was just seen of inode `id`.
pub(crate) fn set(id: u64, attr: Attr) {
    LAST.set(Some((id, Instant::now(), attr)));
}

/// Takes it, if it is of this inode and still fresh.
pub(crate) fn take(id: u64) -> Option<Attr> {
    let (seen, at, attr) = LAST.take()?;
    (seen == id && at.elapsed() < FRESH).then_some(attr)
}

/// Forgets it: something is about to change.
pub(crate) fn clear() {
    LAST.set(None);
}
