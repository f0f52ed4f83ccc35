//! Names of extended attributes: which a guest may see, and under which name the host keeps them (`xattr(7)`).
//!
//! `user.*` keeps its name, except our own bookkeeping, which no guest sees. `trusted.*` and `security.*` need rights on
//! the host that we do not have: they are kept as `user.nomina.trusted.*` and so on. `system.*` (access control lists)
//! is `EOPNOTSUPP`, as on a file system mounted without them.

use nomina_kernel::vfs::{S_IFDIR, S_IFREG};
use nomina_kernel::{Errno, Result};

/// Prefix under which attributes are kept that the host would not let us set.
pub(crate) const PREFIX: &[u8] = b"user.nomina.";

const OURS: [&[u8]; 3] = [b"user.overlay.", b"user.containers.override_stat", PREFIX];

/// Whether a host attribute is bookkeeping.
fn ours(name: &[u8]) -> bool {
    OURS.iter().any(|prefix| name.starts_with(prefix))
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
        return match kind {
            S_IFREG | S_IFDIR if !ours(name) => Ok(name.to_vec()),
            _ => Err(refused),
        };
    }
    if name.starts_with(b"trusted.") || name.starts_with(b"security.") {
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
        let kept =
            name.strip_prefix(PREFIX).filter(|n| n.starts_with(b"trusted.") || n.starts_with(b"security."));
        let guest = match kept {
            Some(name) => Some(name),
            None if ours(name) => None,
            None if name.starts_with(b"user.") => matches!(kind, S_IFREG | S_IFDIR).then_some(name),
            None => (lower && name == CAPABILITY).then_some(name),
        };
        if let Some(guest) = guest {
            out.extend_from_slice(guest);
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
        for name in [&b"user.overlay.opaque"[..], b"user.containers.override_stat", b"user.nomina.trusted.x"]
        {
            assert_eq!(to_host(name, S_IFREG, true), Err(Errno::EPERM));
            assert_eq!(to_host(name, S_IFREG, false), Err(Errno::ENODATA));
            assert!(list_to_guest(name, S_IFREG, false).is_empty() || name.ends_with(b"trusted.x"));
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
        assert_eq!(to_host(b"system.posix_acl_access", S_IFREG, true), Err(Errno::EOPNOTSUPP));
    }
}
