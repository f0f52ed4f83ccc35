//! Owners, modes and device numbers beside the host's: the extended attribute `user.containers.override_stat`.
//!
//! An ordinary user cannot give a file to another user, and should not make a host file set-user-ID because root inside
//! the sandbox did. What `chown`, `chmod` and `mknod` inside decide is therefore kept in the attribute that
//! containers/storage defines (`UID:GID:MODE[:TYPE]`, mode octal, type one of `file`, `dir`, `symlink`, `pipe`,
//! `socket`, `block-MAJ-MIN`, `char-MAJ-MIN`), so that Podman's tools can read a layer of ours and we can read theirs.
//!
//! Reading the attribute costs a host call for every `stat`. Files of ours that carry it are therefore marked with the
//! sticky bit of their *host* mode, which means nothing for regular files and nothing to others in a private directory:
//! without the mark there is no attribute to look for.

use nomina_kernel::vfs::posix_acl;
use nomina_kernel::vfs::{
    Attr, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, Timespec,
};
use rustix::fs::{Statx, StatxFlags};

use crate::at::id_of;

/// Name of the attribute.
pub const XATTR: &[u8] = b"user.containers.override_stat";

/// Bit of the host mode that says that [`XATTR`] exists.
pub(crate) const MARK: u32 = libc::S_ISVTX;

/// Which host user and group stand for which inside: the invoking user's files show as the sandbox's default user's.
/// All other host ids show as themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    /// The invoking user on the host.
    pub host_uid: u32,
    /// The invoking user's group on the host.
    pub host_gid: u32,
    /// The sandbox's default user (0 unless `--user`).
    pub uid: u32,
    /// The sandbox's default group.
    pub gid: u32,
}

impl IdMap {
    /// The map from this process's effective ids to `uid` and `gid`.
    pub fn to(uid: u32, gid: u32) -> Self {
        IdMap {
            host_uid: rustix::process::geteuid().as_raw(),
            host_gid: rustix::process::getegid().as_raw(),
            uid,
            gid,
        }
    }

    /// The user inside that a host user shows as.
    pub fn uid_inside(&self, host: u32) -> u32 {
        if host == self.host_uid { self.uid } else { host }
    }

    /// The group inside that a host group shows as.
    pub fn gid_inside(&self, host: u32) -> u32 {
        if host == self.host_gid { self.gid } else { host }
    }
}

impl IdMap {
    /// An access control list of the host's as it shows inside.
    pub(crate) fn acl_inside(&self, mut value: Vec<u8>) -> Vec<u8> {
        posix_acl::translate_ids(&mut value, |id| self.uid_inside(id), |id| self.gid_inside(id));
        value
    }

    /// A list of the inside as the host keeps it.
    pub(crate) fn acl_outside(&self, value: &[u8]) -> Vec<u8> {
        let mut value = value.to_vec();
        let user = |id| if id == self.uid { self.host_uid } else { id };
        let group = |id| if id == self.gid { self.host_gid } else { id };
        posix_acl::translate_ids(&mut value, user, group);
        value
    }
}

/// Content of the attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Permission bits (07777).
    pub mode: u32,
    /// Type bits (`S_IFMT`) where the attribute names a type.
    pub kind: Option<u32>,
    /// Device number, for device nodes.
    pub rdev: u64,
}

impl Override {
    /// Reads the attribute's text; `None` where it is malformed.
    pub fn parse(text: &[u8]) -> Option<Override> {
        let text = std::str::from_utf8(text).ok()?;
        let mut fields = text.split(':');
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok()? & 0o7777;
        let mut parsed = Override { uid, gid, mode, kind: None, rdev: 0 };
        if let Some(kind) = fields.next() {
            let mut parts = kind.split('-');
            parsed.kind = Some(match parts.next()? {
                "file" => S_IFREG,
                "dir" => S_IFDIR,
                "symlink" => S_IFLNK,
                "pipe" => S_IFIFO,
                "socket" => S_IFSOCK,
                "block" => S_IFBLK,
                "char" => S_IFCHR,
                _ => return None,
            });
            if matches!(parsed.kind, Some(S_IFBLK | S_IFCHR)) {
                parsed.rdev = libc::makedev(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            }
        }
        Some(parsed)
    }

    /// The attribute's text.
    pub fn format(&self) -> String {
        let (major, minor) = (libc::major(self.rdev), libc::minor(self.rdev));
        let kind = match self.kind {
            None => String::new(),
            Some(S_IFDIR) => ":dir".into(),
            Some(S_IFLNK) => ":symlink".into(),
            Some(S_IFIFO) => ":pipe".into(),
            Some(S_IFSOCK) => ":socket".into(),
            Some(S_IFBLK) => format!(":block-{major}-{minor}"),
            Some(S_IFCHR) => format!(":char-{major}-{minor}"),
            Some(_) => ":file".into(),
        };
        format!("{}:{}:0{:o}{kind}", self.uid, self.gid, self.mode)
    }
}

/// What a guest sees of a host file.
pub(crate) fn attr_of(stat: &Statx, over: Option<&Override>, map: &IdMap) -> Attr {
    let time = |t: &rustix::fs::StatxTimestamp| Timespec { sec: t.tv_sec, nsec: t.tv_nsec };
    let (dev, ino) = id_of(stat);
    let known = StatxFlags::from_bits_retain(stat.stx_mask);
    let mut attr = Attr {
        dev,
        ino,
        mode: stat.stx_mode.into(),
        nlink: stat.stx_nlink.into(),
        uid: map.uid_inside(stat.stx_uid),
        gid: map.gid_inside(stat.stx_gid),
        rdev: libc::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        size: stat.stx_size,
        blksize: stat.stx_blksize,
        blocks: stat.stx_blocks,
        atime: time(&stat.stx_atime),
        mtime: time(&stat.stx_mtime),
        ctime: time(&stat.stx_ctime),
        btime: known.contains(StatxFlags::BTIME).then(|| time(&stat.stx_btime)),
    };
    if let Some(over) = over {
        attr.uid = over.uid;
        attr.gid = over.gid;
        attr.mode = over.kind.unwrap_or(attr.mode & S_IFMT) | over.mode;
        attr.rdev = over.rdev;
    }
    attr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_survives_format_and_parse() {
        for kind in
            [None, Some(S_IFREG), Some(S_IFDIR), Some(S_IFLNK), Some(S_IFIFO), Some(S_IFSOCK), Some(S_IFCHR)]
        {
            let rdev = if kind == Some(S_IFCHR) { libc::makedev(1, 3) } else { 0 };
            let over = Override { uid: 1000, gid: 5, mode: 0o4755, kind, rdev };
            assert_eq!(Override::parse(over.format().as_bytes()), Some(over));
        }
    }

    #[test]
    fn text_of_containers_storage_is_understood() {
        let over = Override::parse(b"0:42:0640:block-8-1").unwrap();
        assert_eq!((over.uid, over.gid, over.mode), (0, 42, 0o640));
        assert_eq!((over.kind, over.rdev), (Some(S_IFBLK), libc::makedev(8, 1)));
        assert_eq!(Override::parse(b"0:0:0755").unwrap().kind, None);
    }

    #[test]
    fn malformed_text_is_no_override() {
        for text in ["", "0", "0:0", "x:0:0644", "0:0:999", "0:0:0644:door", "0:0:0644:char-1", "-1:0:0644"] {
            assert_eq!(Override::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn only_the_invoking_user_is_renamed() {
        let map = IdMap { host_uid: 1000, host_gid: 1001, uid: 0, gid: 0 };
        assert_eq!((map.uid_inside(1000), map.uid_inside(0), map.uid_inside(33)), (0, 0, 33));
        assert_eq!((map.gid_inside(1001), map.gid_inside(1000)), (0, 1000));
    }
}
