//! POSIX access control lists: `fs/posix_acl.c`, `acl(5)`.
//!
//! A list is the extended attribute `system.posix_acl_access`, a directory's list for what is created in it
//! `system.posix_acl_default`. A file system that has lists ([`has_acls`](super::SuperBlock::has_acls), `SB_POSIXACL`) stores
//! them as they are and gives what is created its directory's ([`inherited`]); what they mean is decided here.
//!
//! Ids in a list are those of the initial user namespace; the system call layer translates them for others
//! ([`translate_ids`]).

use std::sync::Arc;

use super::inode::{Attr, Inode, S_IFDIR, S_IFLNK, S_IFMT, SetAttr};
use super::permission::WalkCred;
use super::{Path, attr};
use crate::errno::{Errno, Result};

/// The list that decides about access.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// A directory's list for what is created in it.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
const S_ISGID: u32 = 0o2000;

/// Whom an entry is about: `e_tag` with the id where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    UserObj,
    User(u32),
    GroupObj,
    Group(u32),
    Mask,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    perm: u32,
}

/// An access control list, whole and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PosixAcl(Vec<Entry>);

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl PosixAcl {
    /// Reads an attribute's value: `posix_acl_from_xattr`. An empty list is `None`.
    ///
    /// # Errors
    /// `EINVAL`: malformed, or not a list that `acl(5)` calls valid. `EOPNOTSUPP`: another version.
    pub fn from_xattr(value: &[u8]) -> Result<Option<PosixAcl>> {
        if value.len() < HEADER || !(value.len() - HEADER).is_multiple_of(ENTRY) {
            return Err(Errno::EINVAL);
        }
        if u32_at(value, 0) != VERSION {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut entries = Vec::new();
        for entry in value[HEADER..].chunks_exact(ENTRY) {
            let (perm, id) = (u32::from(u16_at(entry, 2)), u32_at(entry, 4));
            let tag = match u16_at(entry, 0) {
                0x01 => Tag::UserObj,
                0x02 if id != u32::MAX => Tag::User(id),
                0x04 => Tag::GroupObj,
                0x08 if id != u32::MAX => Tag::Group(id),
                0x10 => Tag::Mask,
                0x20 => Tag::Other,
                _ => return Err(Errno::EINVAL),
            };
            entries.push(Entry { tag, perm });
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = PosixAcl(entries);
        if acl.is_valid() { Ok(Some(acl)) } else { Err(Errno::EINVAL) }
    }

    /// `posix_acl_valid`: the owner's entry, users, the group's, groups, the mask (needed where there are users or groups) and
    /// others, in this order.
    fn is_valid(&self) -> bool {
        let rank = |tag: Tag| match tag {
            Tag::UserObj => 0,
            Tag::User(_) => 1,
            Tag::GroupObj => 2,
            Tag::Group(_) => 3,
            Tag::Mask => 4,
            Tag::Other => 5,
        };
        let count = |wanted: i32| self.0.iter().filter(|entry| rank(entry.tag) == wanted).count();
        let ordered = self.0.windows(2).all(|pair| rank(pair[0].tag) <= rank(pair[1].tag));
        let named = count(1) + count(3) > 0;
        ordered
            && self.0.iter().all(|entry| entry.perm <= 7)
            && count(0) == 1
            && count(2) == 1
            && count(5) == 1
            && (count(4) == 1 || (count(4) == 0 && !named))
    }

    /// `posix_acl_to_xattr`
    #[must_use]
    pub fn to_xattr(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            let (tag, id): (u16, u32) = match entry.tag {
                Tag::UserObj => (0x01, u32::MAX),
                Tag::User(id) => (0x02, id),
                Tag::GroupObj => (0x04, u32::MAX),
                Tag::Group(id) => (0x08, id),
                Tag::Mask => (0x10, u32::MAX),
                Tag::Other => (0x20, u32::MAX),
            };
            out.extend(tag.to_le_bytes());
            out.extend((entry.perm as u16).to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    fn mask(&self) -> Option<u32> {
        self.0.iter().find(|entry| entry.tag == Tag::Mask).map(|entry| entry.perm)
    }

    /// The permission bits of a mode that the list stands for, and whether they say all that it says:
    /// `posix_acl_equiv_mode`.
    fn equiv_mode(&self) -> (u32, bool) {
        let (mut mode, mut equivalent) = (0, true);
        for entry in &self.0 {
            match entry.tag {
                Tag::UserObj => mode |= entry.perm << 6,
                Tag::GroupObj => mode |= entry.perm << 3,
                Tag::Other => mode |= entry.perm,
                Tag::User(_) | Tag::Group(_) | Tag::Mask => equivalent = false,
            }
        }
        if let Some(mask) = self.mask() {
            mode = mode & !0o070 | mask << 3;
        }
        (mode, equivalent)
    }

    /// Whether the list allows `want` on an object of these owners: `posix_acl_permission`.
    ///
    /// # Errors
    /// `EACCES`
    fn permission(&self, uid: u32, gid: u32, cred: &WalkCred<'_>, want: u32) -> Result<()> {
        let check = |perm: u32| if perm & want == want { Ok(()) } else { Err(Errno::EACCES) };
        let masked = |perm: u32| check(perm & self.mask().unwrap_or(7));
        let mut in_group = false;
        for entry in &self.0 {
            match entry.tag {
                Tag::UserObj if cred.fsuid == uid => return check(entry.perm),
                Tag::User(user) if cred.fsuid == user => return masked(entry.perm),
                Tag::GroupObj if cred.in_group(gid) => {
                    in_group = true;
                    if entry.perm & want == want {
                        return masked(entry.perm);
                    }
                }
                Tag::Group(group) if cred.in_group(group) => {
                    in_group = true;
                    if entry.perm & want == want {
                        return masked(entry.perm);
                    }
                }
                Tag::Other => return if in_group { Err(Errno::EACCES) } else { check(entry.perm) },
                _ => {}
            }
        }
        Err(Errno::EACCES)
    }

    /// Restricts the list to a mode asked for, and the mode to the list: `posix_acl_create_masq`. Whether the mode says all.
    fn create_masq(&mut self, mode: &mut u32) -> bool {
        let has_mask = self.mask().is_some();
        let mut equivalent = true;
        let mut bits = *mode & !0o777;
        for entry in &mut self.0 {
            let shift = match entry.tag {
                Tag::UserObj => 6,
                Tag::GroupObj if !has_mask => 3,
                Tag::Mask => {
                    equivalent = false;
                    3
                }
                Tag::Other => 0,
                Tag::GroupObj => continue,
                Tag::User(_) | Tag::Group(_) => {
                    equivalent = false;
                    continue;
                }
            };
            entry.perm &= *mode >> shift & 7;
            bits |= entry.perm << shift;
        }
        *mode = bits;
        equivalent
    }

    /// Takes over the permission bits of a mode: `__posix_acl_chmod_masq`.
    fn chmod_masq(&mut self, mode: u32) {
        let has_mask = self.mask().is_some();
        for entry in &mut self.0 {
            match entry.tag {
                Tag::UserObj => entry.perm = mode >> 6 & 7,
                Tag::GroupObj if !has_mask => entry.perm = mode >> 3 & 7,
                Tag::Mask => entry.perm = mode >> 3 & 7,
                Tag::Other => entry.perm = mode & 7,
                _ => {}
            }
        }
    }
}

/// Whether an attribute is a list.
#[must_use]
pub fn is_acl(name: &[u8]) -> bool {
    name == ACCESS || name == DEFAULT
}

/// Rewrites the ids in an attribute's value; what is no list is left to [`PosixAcl::from_xattr`] to refuse.
pub fn translate_ids(value: &mut [u8], user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) {
    for entry in value.get_mut(HEADER..).unwrap_or_default().chunks_exact_mut(ENTRY) {
        let id = u32_at(entry, 4);
        let new = match u16_at(entry, 0) {
            0x02 => user(id),
            0x08 => group(id),
            _ => continue,
        };
        entry[4..8].copy_from_slice(&new.to_le_bytes());
    }
}

/// A list of an object; `None` where it has none or its file system has no lists: `get_inode_acl`.
fn get_inode_acl(inode: &dyn Inode, name: &[u8]) -> Result<Option<PosixAcl>> {
    match inode.getxattr(name) {
        Ok(value) => PosixAcl::from_xattr(&value),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A directory's list, from the dentry's memory where names are cached.
fn get_acl(path: &Path, name: &[u8]) -> Result<Option<Arc<PosixAcl>>> {
    let sb = path.mnt.sb();
    if !sb.ops().has_acls() {
        return Ok(None);
    }
    let cached = path.dentry.is_dir() && sb.cacheable();
    if cached && let Some(known) = path.dentry.cached_acl(name == DEFAULT) {
        return Ok(known);
    }
    let acl = get_inode_acl(&**path.inode(), name)?.map(Arc::new);
    if cached {
        path.dentry.set_cached_acl(name == DEFAULT, Some(acl.clone()));
    }
    Ok(acl)
}

/// What the list of an object says about `cred`, who is not its owner: `check_acl`. `None`: there is none.
pub(super) fn check_acl(
    path: &Path,
    (mode, uid, gid): (u32, u32, u32),
    cred: &WalkCred<'_>,
    mask: u32,
) -> Result<Option<Result<()>>> {
    // The group's bits are the mask: without any, the list can allow nothing to those it names.
    if mode & 0o070 == 0 || mode & S_IFMT == S_IFLNK {
        return Ok(None);
    }
    Ok(get_acl(path, ACCESS)?.map(|acl| acl.permission(uid, gid, cred, mask & 7)))
}

/// Mode of what is created in `dir` with `mode`: by the directory's default list, or else by the umask.
pub(super) fn create_mode(dir: &Path, mode: u32, umask: u32) -> Result<u32> {
    if mode & S_IFMT == S_IFLNK {
        return Ok(mode);
    }
    match get_acl(dir, DEFAULT)? {
        None => Ok(mode & !(umask & 0o777)),
        Some(default) => {
            let mut mode = mode;
            PosixAcl::clone(&default).create_masq(&mut mode);
            Ok(mode)
        }
    }
}

/// The lists of what a file system creates with `mode` in a directory whose default list is `default`: the access list and
/// the default list as attributes' values (`posix_acl_create`). `None`: the mode says all.
#[must_use]
pub fn inherited(default: &[u8], mode: u32) -> (Option<Vec<u8>>, Option<Vec<u8>>) {
    let Ok(Some(acl)) = PosixAcl::from_xattr(default) else { return (None, None) };
    if mode & S_IFMT == S_IFLNK {
        return (None, None);
    }
    let (mut access, mut mode) = (acl, mode);
    let is_dir = mode & S_IFMT == S_IFDIR;
    let equivalent = access.create_masq(&mut mode);
    ((!equivalent).then(|| access.to_xattr()), is_dir.then(|| default.to_vec()))
}

/// `setxattr(2)` and `removexattr(2)` (`None`) of a list: `vfs_set_acl`. The access list's owner, mask and others are the mode's
/// bits as well.
///
/// # Errors
/// `EOPNOTSUPP`: no lists here, or a symbolic link. `EPERM`: neither owner nor `CAP_FOWNER`. `EACCES`: a default list for what
/// is no directory. `EINVAL`: not a valid list.
pub(super) fn vfs_set_acl(path: &Path, cred: &WalkCred<'_>, name: &[u8], value: Option<&[u8]>) -> Result<()> {
    if !path.mnt.sb().ops().has_acls() || path.dentry.is_symlink() {
        return Err(Errno::EOPNOTSUPP);
    }
    let acl = match value {
        Some(value) if !value.is_empty() => PosixAcl::from_xattr(value)?,
        _ => None,
    };
    let inode = path.inode();
    let now = inode.getattr()?;
    if name == DEFAULT && !path.dentry.is_dir() {
        return if acl.is_some() { Err(Errno::EACCES) } else { Ok(()) };
    }
    if !cred.owner_or_capable(&now) {
        return Err(Errno::EPERM);
    }
    let (mut mode, mut keep) = (None, acl.is_some());
    if let (Some(acl), true) = (&acl, name == ACCESS) {
        let (bits, equivalent) = acl.equiv_mode();
        let mut new = now.mode & 0o7000 | bits;
        if !cred.in_group_or_capable(now.uid, now.gid) {
            new &= !S_ISGID;
        }
        mode = Some(new);
        keep = !equivalent;
    }
    let stored = match acl.filter(|_| keep) {
        Some(acl) => inode.setxattr(name, &acl.to_xattr(), 0),
        None => match inode.removexattr(name) {
            Err(Errno::ENODATA) => Ok(()),
            other => other,
        },
    };
    path.dentry.set_cached_acl(name == DEFAULT, None);
    stored?;
    match mode {
        Some(mode) if mode != now.mode & 0o7777 => {
            attr::notify_change(path, &SetAttr { mode: Some(mode), ..SetAttr::default() })
        }
        _ => Ok(()),
    }
}

/// Lets the access list follow `chmod(2)`: `posix_acl_chmod`.
pub(super) fn acl_chmod(path: &Path, was: &Attr, mode: u32) -> Result<()> {
    if !path.mnt.sb().ops().has_acls() || was.mode & 0o777 == mode & 0o777 {
        return Ok(());
    }
    let Some(acl) = get_acl(path, ACCESS)? else { return Ok(()) };
    let mut acl = PosixAcl::clone(&acl);
    acl.chmod_masq(mode);
    let stored = path.inode().setxattr(ACCESS, &acl.to_xattr(), 0);
    path.dentry.set_cached_acl(false, None);
    stored
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(Tag, u32)]) -> PosixAcl {
        PosixAcl(entries.iter().map(|&(tag, perm)| Entry { tag, perm }).collect())
    }

    fn full() -> PosixAcl {
        acl(&[
            (Tag::UserObj, 7),
            (Tag::User(10), 6),
            (Tag::GroupObj, 4),
            (Tag::Group(20), 7),
            (Tag::Mask, 5),
            (Tag::Other, 0),
        ])
    }

    #[test]
    fn a_list_survives_being_written_and_read() {
        assert_eq!(PosixAcl::from_xattr(&full().to_xattr()), Ok(Some(full())));
        assert_eq!(PosixAcl::from_xattr(&VERSION.to_le_bytes()), Ok(None));
        assert_eq!(PosixAcl::from_xattr(&1u32.to_le_bytes()), Err(Errno::EOPNOTSUPP));
        for odd in [&b""[..], b"\x02\0\0", b"\x02\0\0\0abc"] {
            assert_eq!(PosixAcl::from_xattr(odd), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn lists_without_order_or_mask_are_invalid() {
        let minimal = acl(&[(Tag::UserObj, 6), (Tag::GroupObj, 4), (Tag::Other, 0)]);
        assert!(minimal.is_valid() && full().is_valid());
        let unmasked = acl(&[(Tag::UserObj, 6), (Tag::User(1), 4), (Tag::GroupObj, 4), (Tag::Other, 0)]);
        let reversed = acl(&[(Tag::Other, 0), (Tag::GroupObj, 4), (Tag::UserObj, 6)]);
        let two = acl(&[(Tag::UserObj, 6), (Tag::UserObj, 6), (Tag::GroupObj, 4), (Tag::Other, 0)]);
        assert!(!unmasked.is_valid() && !reversed.is_valid() && !two.is_valid());
    }

    #[test]
    fn the_first_entry_that_fits_decides_and_the_mask_limits_it() {
        let allowed = |uid, groups: &[u32], want| {
            full().permission(1, 2, &WalkCred::user(uid, 99, groups), want).is_ok()
        };
        assert!(allowed(1, &[], 7), "the owner is not masked");
        assert!(allowed(10, &[], 4) && !allowed(10, &[], 2), "a named user is");
        assert!(allowed(5, &[2], 4) && !allowed(5, &[2], 1));
        assert!(allowed(5, &[2, 20], 5), "any of the groups may allow");
        assert!(
            !allowed(5, &[20], 2) && !allowed(5, &[2], 7),
            "of a group, but none allows: others do not count"
        );
        assert!(!allowed(5, &[], 4));
    }

    #[test]
    fn what_is_created_gets_no_more_than_the_mode_asked_for() {
        let (access, default) = inherited(&full().to_xattr(), S_IFDIR | 0o750);
        let access = PosixAcl::from_xattr(&access.unwrap()).unwrap().unwrap();
        assert_eq!(access.equiv_mode(), (0o750, false));
        assert_eq!(default.unwrap(), full().to_xattr());
        let minimal = acl(&[(Tag::UserObj, 6), (Tag::GroupObj, 4), (Tag::Other, 0)]);
        assert_eq!(inherited(&minimal.to_xattr(), 0o100_666), (None, None));
        let mut mode = 0o100_666;
        minimal.clone().create_masq(&mut mode);
        assert_eq!(mode, 0o100_640);
    }

    #[test]
    fn chmod_changes_the_mask_where_there_is_one() {
        let mut list = full();
        list.chmod_masq(0o711);
        assert_eq!((list.mask(), list.equiv_mode().0), (Some(1), 0o711));
        assert_eq!(list.0[2].perm, 4, "the group's own entry stays");
    }
}
