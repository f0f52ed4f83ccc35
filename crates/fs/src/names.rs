//! Names of extended attributes: which a guest may see, and under which name the host keeps them (`xattr(7)`).
//!
//! `user.*` keeps its name, except where that is our own bookkeeping, which no guest sees: a guest's own `user.overlay.X`
//! is kept as `user.overlay.overlay.X`, as overlayfs does it, and its `user.containers.override_stat` below
//! `user.nomina.`, so that layers can be made inside. `trusted.*` and `security.*` need rights on
//! the host that we do not have: they are kept as `user.nomina.trusted.*` and so on, and
//! so are access control lists (`system.posix_acl_*`), whose ids an ordinary user could set, but which must not let anybody
//! in on the host.

use nomina_kernel::vfs::posix_acl::is_acl;
use nomina_kernel::vfs::{S_IFDIR, S_IFREG};
use nomina_kernel::{Errno, Result};

use crate::override_stat::XATTR;

/// Prefix under which attributes are kept that the host would not let us set.
pub(crate) const PREFIX: &[u8] = b"user.nomina.";

/// Prefix of the marks of overlayfs.
const OVERLAY: &[u8] = b"user.overlay.";
/// What a guest's own marks have after [`OVERLAY`].
const ESCAPE: &[u8] = b"overlay.";

/// Whether an attribute of a guest's is kept below [`PREFIX`].
fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"trusted.") || name.starts_with(b"security.") || name == XATTR || is_acl(name)
}

/// Whether a host attribute is a mark of overlayfs that says something about the layer it is in.
pub(crate) fn is_mark(name: &[u8]) -> bool {
    name.strip_prefix(OVERLAY).is_some_and(|mark| !mark.starts_with(ESCAPE))
}

/// Host name of a guest's attribute on a file of type `kind` that we can write. `write` chooses the error of what does
/// not exist. `EOPNOTSUPP`, `EPERM` (`user.*` on what is neither file nor directory), `ENODATA`.
pub(crate) fn to_host(name: &[u8], kind: u32, write: bool) -> Result<Vec<u8>> {
    let refused = if write { Errno::EPERM } else { Errno::ENODATA };
    if name.len() > 255 {
        return Err(Errno::ERANGE);
    }
    if name.starts_with(b"user.") {
        if name.len() == 5 {
            return Err(Errno::EINVAL);
        }
        if !matches!(kind, S_IFREG | S_IFDIR) || name.starts_with(PREFIX) {
            return Err(refused);
        }
        if let Some(rest) = name.strip_prefix(OVERLAY) {
            let host = [OVERLAY, ESCAPE, rest].concat();
            return if host.len() > 255 { Err(Errno::ERANGE) } else { Ok(host) };
        }
        if !is_kept(name) {
            return Ok(name.to_vec());
        }
    }
    if is_kept(name) {
        if name.len() + PREFIX.len() > 255 {
            return Err(Errno::ERANGE);
        }
        return Ok([PREFIX, name].concat());
    }
    Err(Errno::EOPNOTSUPP)
}

/// Guest names of a host list, for a file of type `kind`.
pub(crate) fn list_to_guest(list: &[u8], kind: u32, lower: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for name in list.split(|&b| b == 0).filter(|n| !n.is_empty()) {
        let has_user = matches!(kind, S_IFREG | S_IFDIR);
        let guest: Option<Vec<u8>> = if let Some(kept) = name.strip_prefix(PREFIX) {
            is_kept(kept).then(|| kept.to_vec())
        } else if let Some(mark) = name.strip_prefix(OVERLAY) {
            mark.strip_prefix(ESCAPE).filter(|_| has_user).map(|rest| [OVERLAY, rest].concat())
        } else if name.starts_with(b"user.") {
            (has_user && name != XATTR).then(|| name.to_vec())
        } else {
            (lower && (name == CAPABILITY || is_acl(name))).then(|| name.to_vec())
        };
        if let Some(guest) = guest {
            out.extend_from_slice(&guest);
            out.push(0);
        }
    }
    out
}

/// The one attribute of the host's `security.*` that files below an overlay show (`capabilities(7)`).
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

#[cfg(test)]
mod tests {
    use nomina_kernel::vfs::S_IFLNK;

    use super::*;

    #[test]
    fn bookkeeping_can_neither_be_read_nor_set() {
        assert_eq!(to_host(b"user.nomina.trusted.x", S_IFREG, true), Err(Errno::EPERM));
        assert_eq!(to_host(b"user.nomina.trusted.x", S_IFREG, false), Err(Errno::ENODATA));
        for name in [&b"user.overlay.opaque"[..], b"user.containers.override_stat", b"user.nomina.nodata"] {
            assert!(list_to_guest(name, S_IFREG, false).is_empty());
        }
    }

    #[test]
    fn marks_that_a_guest_makes_are_told_from_ours() {
        for name in [&b"user.overlay.opaque"[..], b"user.containers.override_stat"] {
            let host = to_host(name, S_IFREG, true).unwrap();
            assert_ne!(host, name);
            assert_eq!(list_to_guest(&host, S_IFREG, false), [name, b"\0"].concat());
        }
    }

    #[test]
    fn privileged_names_are_kept_under_ours() {
        assert_eq!(to_host(b"trusted.x", S_IFLNK, true).unwrap(), b"user.nomina.trusted.x");
        assert_eq!(list_to_guest(b"user.nomina.trusted.x\0user.a\0", S_IFREG, false), b"trusted.x\0user.a\0");
    }

    #[test]
    fn user_attributes_belong_to_files_and_directories_only() {
        assert_eq!(to_host(b"user.a", S_IFLNK, true), Err(Errno::EPERM));
        assert_eq!(to_host(b"user.a", S_IFLNK, false), Err(Errno::ENODATA));
        assert_eq!(to_host(b"system.other", S_IFREG, true), Err(Errno::EOPNOTSUPP));
    }
}
