//! Time namespaces (`time_namespaces(7)`): offsets of the boot and monotonic clocks.
//!
//! The clocks are read natively, mostly without any system call, so nothing can be added to them: the only offset here is zero,
//! and another is out of range. For the rest such a namespace is as in Linux: made for the children, and its offsets may
//! be written until the first of them is in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::ns_common::{NsCommon, NsKind, impl_ns, owner_of};
use crate::user_namespace::UserNamespace;

/// A namespace of this kind.
pub struct TimeNamespace {
    common: NsCommon,
    /// A process has entered it: `frozen_offsets`.
    frozen: AtomicBool,
}
impl_ns!(TimeNamespace);

/// The most clocks in one write.
const MAX_OFFSETS: usize = 2;

impl TimeNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>) -> Arc<TimeNamespace> {
        let common = NsCommon::new(NsKind::Time, inum, Some(owner));
        Arc::new(TimeNamespace { common, frozen: AtomicBool::new(false) })
    }

    /// A process enters it (`timens_commit`).
    pub(crate) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// A write to `/proc/PID/timens_offsets`, whose namespace for children this is: lines of clock, seconds and nanoseconds.
    ///
    /// # Errors
    /// `EINVAL` for what is no such line or another clock than `monotonic` (1) and `boottime` (7); `EPERM` without
    /// `CAP_SYS_TIME` over the namespace; `EACCES` when a process is in it; `ERANGE` for an offset that is not zero.
    pub fn write_offsets(&self, text: &[u8], writer: &Cred) -> Result<()> {
        let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
        let lines: Vec<&str> = text.split_terminator('\n').collect();
        if lines.is_empty() || lines.len() > MAX_OFFSETS {
            return Err(Errno::EINVAL);
        }
        let offsets = lines.into_iter().map(parse_offset).collect::<Result<Vec<_>>>()?;
        if !writer.ns_capable(owner_of(&self.common), Cap::SYS_TIME) {
            return Err(Errno::EPERM);
        }
        if self.frozen.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
        if offsets.iter().all(|offset| *offset == (0, 0)) { Ok(()) } else { Err(Errno::ERANGE) }
    }
}

/// A line: seconds and nanoseconds.
fn parse_offset(line: &str) -> Result<(i64, u32)> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [clock, sec, nsec] = words[..] else { return Err(Errno::EINVAL) };
    if !matches!(clock, "monotonic" | "1" | "boottime" | "7") {
        return Err(Errno::EINVAL);
    }
    let sec = sec.parse().map_err(|_| Errno::EINVAL)?;
    let nsec = nsec.parse().map_err(|_| Errno::EINVAL)?;
    if nsec < 1_000_000_000 { Ok((sec, nsec)) } else { Err(Errno::EINVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_offset_is_zero_and_only_until_a_process_is_inside() {
        let user_ns = UserNamespace::initial();
        let (root, user) = (Cred::root(user_ns.clone()), Cred::user(1000, 1000, &[], user_ns.clone()));
        let ns = TimeNamespace::new(1, user_ns);
        assert_eq!(ns.write_offsets(b"boottime 0 0\n", &user), Err(Errno::EPERM));
        assert_eq!(ns.write_offsets(b"monotonic 0 0\nboottime 0 0", &root), Ok(()));
        assert_eq!(ns.write_offsets(b"7 -1000 0", &root), Err(Errno::ERANGE));
        for bad in
            [&b""[..], b"realtime 0 0", b"monotonic 0", b"monotonic 0 1000000000", b"1 0 0\n1 0 0\n1 0 0"]
        {
            assert_eq!(ns.write_offsets(bad, &root), Err(Errno::EINVAL), "{bad:?}");
        }
        ns.freeze();
        assert_eq!(ns.write_offsets(b"boottime 0 0", &root), Err(Errno::EACCES));
    }
}
