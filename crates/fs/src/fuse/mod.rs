//! FUSE: file systems served by programs of the sandbox (Documentation/filesystems/fuse, `fuse(4)`).
//!
//! A server opens `/dev/fuse` ([`Fuse::open`]), somebody mounts a file system with that descriptor ([`FuseSb::new`]), and
//! from then on names in it are questions to the server. Nothing of the host's FUSE is used.
//!
//! | here | in Linux |
//! |---|---|
//! | `abi` | `include/uapi/linux/fuse.h` |
//! | `dev` | `fs/fuse/dev.c` |
//! | `inode` | `fs/fuse/inode.c`, `dir.c`, `xattr.c` |
//! | `file` | `fs/fuse/file.c` |
//! | `replay` | the sleeping task |
//!
//! Differences from Linux: contents are written back when a descriptor is closed or synced (see `file`); permission is always checked
//! by the modes that the server tells (`default_permissions`); `ioctl`, `poll`, locks and `fallocate` are not passed on: files are
//! always ready, locks are those of the sandbox, as where a server has none of these; a
//! server whose file system has been unmounted reads the end of file rather than `ENODEV`; interrupted requests are not
//! announced to it. FIFOs, sockets and devices in a FUSE file system can be made and seen, not opened.

mod abi;
mod dev;
mod file;
mod inode;
mod replay;
#[cfg(test)]
mod tests;

pub use abi::Caller;
pub use dev::{Fuse, FuseHost};
pub use inode::{FuseInode, FuseSb};
pub use replay::{Replays, RequestId};

use nomina_kernel::user_namespace::UserNamespace;

/// Options of a mount, beside `fd`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FuseOptions {
    /// What mountinfo shows as the type, where the mount named one after `fuse.`.
    pub subtype: Option<String>,
    /// What mountinfo shows as the source.
    pub source: Vec<u8>,
    /// `user_id=`: who mounted, and may look (an id of the first user namespace).
    pub user_id: u32,
    /// `group_id=`
    pub group_id: u32,
    /// `allow_other`: everybody may.
    pub allow_other: bool,
    /// `default_permissions`
    pub default_permissions: bool,
    /// `max_read=`, in bytes; 0 where not given.
    pub max_read: u32,
}

impl FuseOptions {
    fn show(&self, user_ns: &UserNamespace) -> String {
        let mut shown = format!(
            "user_id={},group_id={}",
            user_ns.from_kuid_munged(self.user_id),
            user_ns.from_kgid_munged(self.group_id)
        );
        if self.default_permissions {
            shown += ",default_permissions";
        }
        if self.allow_other {
            shown += ",allow_other";
        }
        if self.max_read != 0 {
            shown += &format!(",max_read={}", self.max_read);
        }
        shown
    }
}
