//! User namespaces (`user_namespaces(7)`): a hierarchy in which user ids, group ids and capabilities have meaning.
//!
//! Ids are kept everywhere as *kernel ids* ([`Kuid`], [`Kgid`]: ids of the initial user namespace of the sandbox) and
//! translated at the system call boundary, as Linux does. Project ids are not modelled.

use std::fmt::Write as _;
use std::sync::{Arc, PoisonError, RwLock};

use crate::capability::Cap;
use crate::cred::Cred;
use crate::errno::{Errno, Result};
use crate::ns_common::{NsCommon, NsKind, impl_ns};

/// A user id of the initial user namespace (`kuid_t`).
pub type Kuid = u32;
/// A group id of the initial user namespace (`kgid_t`).
pub type Kgid = u32;

/// What an id without a mapping shows as (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW_UID: u32 = 65534;
/// What a group id without a mapping shows as (`/proc/sys/kernel/overflowgid`).
pub const OVERFLOW_GID: u32 = 65534;
/// Deepest nesting: a task at level 33 cannot create another.
pub const MAX_USER_NS_LEVEL: usize = 32;
/// Most lines of a map (`UID_GID_MAP_MAX_EXTENTS`).
pub const MAP_MAX_EXTENTS: usize = 340;

/// `count` ids from `first` inside are those from `lower_first` of the initial namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdExtent {
    /// First id inside the namespace.
    pub first: u32,
    /// First kernel id.
    pub lower_first: u32,
    /// How many.
    pub count: u32,
}

/// A user or group id map (`struct uid_gid_map`); empty until written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap(Vec<IdExtent>);

impl IdMap {
    fn identity() -> IdMap {
        IdMap(vec![IdExtent { first: 0, lower_first: 0, count: u32::MAX }])
    }
    /// The lines of the map.
    pub fn extents(&self) -> &[IdExtent] {
        &self.0
    }
    /// `map_id_range_down`: the kernel id of `first`, when `count` ids from it are all in one extent.
    fn down(&self, first: u32, count: u32) -> Option<u32> {
        let last = first.checked_add(count - 1)?;
        self.0
            .iter()
            .find(|e| first >= e.first && last - e.first < e.count)
            .map(|e| e.lower_first + (first - e.first))
    }
    /// `map_id_up`.
    fn up(&self, lower: u32) -> Option<u32> {
        self.0
            .iter()
            .find(|e| lower >= e.lower_first && lower - e.lower_first < e.count)
            .map(|e| e.first + (lower - e.lower_first))
    }
}

#[derive(Clone, Debug)]
struct Maps {
    uid: IdMap,
    gid: IdMap,
    setgroups_allowed: bool,
}

/// Which of the two maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `/proc/PID/uid_map`.
    Uid,
    /// `/proc/PID/gid_map`.
    Gid,
}

/// A user namespace.
pub struct UserNamespace {
    common: NsCommon,
    level: usize,
    owner: Kuid,
    group: Kgid,
    /// Whether the creator had CAP_SETFCAP in the parent: needed to map the parent's root (since Linux 5.12).
    parent_could_setfcap: bool,
    /// RLIMIT_NPROC of the creator: a bound on the processes of all users in here together, as seen from outside.
    pub(crate) nproc_max: u64,
    /// A leaf lock: nothing else is taken while it is held.
    maps: RwLock<Maps>,
}
impl_ns!(UserNamespace);

impl PartialEq for UserNamespace {
    fn eq(&self, other: &UserNamespace) -> bool {
        std::ptr::eq(self, other)
    }
}
impl Eq for UserNamespace {}

impl UserNamespace {
    /// The initial user namespace of a sandbox, in which every id maps to itself.
    pub fn initial() -> Arc<UserNamespace> {
        // Below the numbers NsInums hands out: it is made before a kernel exists.
        UserNamespace::top(0xf0ff_ffff)
    }

    fn top(inum: u64) -> Arc<UserNamespace> {
        Arc::new(UserNamespace {
            common: NsCommon::new(NsKind::User, inum, None),
            level: 0,
            owner: 0,
            group: 0,
            parent_could_setfcap: true,
            nproc_max: u64::MAX,
            maps: RwLock::new(Maps {
                uid: IdMap::identity(),
                gid: IdMap::identity(),
                setgroups_allowed: true,
            }),
        })
    }

    /// One that nobody inside is in, nor has anything over what it owns: the host's.
    pub fn outside() -> Arc<UserNamespace> {
        UserNamespace::top(0xf0ff_fffe)
    }

    /// `create_user_ns`: a child of the namespace of `cred`, owned by its effective ids. The caller installs it with
    /// [`Cred::set_user_ns`]. `chrooted` is whether the caller's root directory is not the root of its mount namespace;
    /// `nproc_max` bounds the processes inside.
    ///
    /// # Errors
    /// `ENOSPC` beyond 33 levels (`EUSERS` before Linux 4.9); `EPERM` when chrooted, or when the effective user or group
    /// id has no mapping in the parent namespace.
    pub(crate) fn create(
        inum: u64,
        cred: &Cred,
        chrooted: bool,
        nproc_max: u64,
    ) -> Result<Arc<UserNamespace>> {
        let parent = &cred.user_ns;
        if parent.level > MAX_USER_NS_LEVEL {
            return Err(Errno::ENOSPC);
        }
        if chrooted || parent.from_kuid(cred.euid).is_none() || parent.from_kgid(cred.egid).is_none() {
            return Err(Errno::EPERM);
        }
        let setgroups_allowed = parent.read().setgroups_allowed;
        Ok(Arc::new(UserNamespace {
            common: NsCommon::new(NsKind::User, inum, Some(parent.clone())),
            level: parent.level + 1,
            owner: cred.euid,
            group: cred.egid,
            parent_could_setfcap: cred.cap_effective.has(Cap::SETFCAP),
            nproc_max,
            maps: RwLock::new(Maps { uid: IdMap::default(), gid: IdMap::default(), setgroups_allowed }),
        }))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namespace it was created in; `None` for the initial one.
    pub fn parent(&self) -> Option<&Arc<UserNamespace>> {
        self.common.owner()
    }
    /// Distance from the initial namespace.
    pub fn level(&self) -> usize {
        self.level
    }
    /// Effective user id of its creator, who has every capability in it.
    pub fn owner_uid(&self) -> Kuid {
        self.owner
    }
    /// Effective group id of its creator.
    pub fn owner_gid(&self) -> Kgid {
        self.group
    }
    /// `in_userns`: whether `self` is `ancestor` or below it.
    pub fn is_in(&self, ancestor: &UserNamespace) -> bool {
        let mut ns = self;
        while ns.level > ancestor.level {
            let Some(parent) = ns.parent() else { return false };
            ns = parent;
        }
        ns == ancestor
    }

    /// The kernel id of a user id of this namespace; `None` without a mapping (a call then fails with `EINVAL`).
    pub fn make_kuid(&self, uid: u32) -> Option<Kuid> {
        self.read().uid.down(uid, 1)
    }
    /// The kernel id of a group id of this namespace.
    pub fn make_kgid(&self, gid: u32) -> Option<Kgid> {
        self.read().gid.down(gid, 1)
    }
    /// The id here of a kernel user id.
    pub fn from_kuid(&self, kuid: Kuid) -> Option<u32> {
        self.read().uid.up(kuid)
    }
    /// The id here of a kernel group id.
    pub fn from_kgid(&self, kgid: Kgid) -> Option<u32> {
        self.read().gid.up(kgid)
    }
    /// The id here of a kernel user id, [`OVERFLOW_UID`] where it has none.
    pub fn from_kuid_munged(&self, kuid: Kuid) -> u32 {
        if self.level == 0 { kuid } else { self.from_kuid(kuid).unwrap_or(OVERFLOW_UID) }
    }
    /// The id here of a kernel group id, [`OVERFLOW_GID`] where it has none.
    pub fn from_kgid_munged(&self, kgid: Kgid) -> u32 {
        if self.level == 0 { kgid } else { self.from_kgid(kgid).unwrap_or(OVERFLOW_GID) }
    }
    /// A copy of a map, its lower ids being kernel ids.
    pub fn map(&self, kind: MapKind) -> IdMap {
        match kind {
            MapKind::Uid => self.read().uid.clone(),
            MapKind::Gid => self.read().gid.clone(),
        }
    }
    /// Whether `setgroups(2)` works in here: not denied, and the group map is written (`userns_may_setgroups`).
    pub fn may_setgroups(&self) -> bool {
        let maps = self.read();
        maps.setgroups_allowed && !maps.gid.0.is_empty()
    }

    /// The text of `/proc/PID/uid_map` or `gid_map` for a reader in `viewer`.
    pub fn show_map(&self, kind: MapKind, viewer: &UserNamespace) -> String {
        // A reader inside sees lower ids of the parent, anyone else those of their own namespace.
        let lower_ns = if viewer == self { self.parent().map_or(self, |p| p) } else { viewer };
        let mut text = String::new();
        for e in self.map(kind).extents() {
            let lower = match kind {
                MapKind::Uid => lower_ns.from_kuid(e.lower_first),
                MapKind::Gid => lower_ns.from_kgid(e.lower_first),
            };
            let lower = lower.unwrap_or(u32::MAX);
            let _ = writeln!(text, "{:>10} {:>10} {:>10}", e.first, lower, e.count);
        }
        text
    }

    /// The text of `/proc/PID/setgroups`.
    pub fn show_setgroups(&self) -> &'static str {
        if self.read().setgroups_allowed { "allow\n" } else { "deny\n" }
    }

    /// A write to `/proc/PID/uid_map` or `gid_map` of a task in this namespace: `opener` opened the file, `writer` writes.
    ///
    /// # Errors
    /// `EPERM` when the map is written already or the rules of `user_namespaces(7)` ("Defining user and group ID
    /// mappings: writing to uid_map and gid_map") forbid it; `EINVAL` when the text is not a map.
    pub fn write_map(&self, kind: MapKind, text: &[u8], opener: &Cred, writer: &Cred) -> Result<()> {
        let parent = self.parent().ok_or(Errno::EPERM)?;
        if *opener.user_ns != *self && opener.user_ns != *parent {
            return Err(Errno::EPERM);
        }
        if text.len() >= 4096 {
            return Err(Errno::EINVAL);
        }
        // Held from the check to the change: of two writers one loses with EPERM.
        let mut maps = self.write();
        let current = if kind == MapKind::Uid { &maps.uid } else { &maps.gid };
        if !current.0.is_empty() || !opener.ns_capable(self, Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let mut extents = parse_map(text)?;
        if !self.map_permitted(kind, &extents, maps.setgroups_allowed, opener, writer) {
            return Err(Errno::EPERM);
        }
        let parent_map = parent.map(kind);
        for e in &mut extents {
            e.lower_first = parent_map.down(e.lower_first, e.count).ok_or(Errno::EPERM)?;
        }
        match kind {
            MapKind::Uid => maps.uid = IdMap(extents),
            MapKind::Gid => maps.gid = IdMap(extents),
        }
        Ok(())
    }

    /// `new_idmap_permitted`. Lower ids in `extents` are still those of the parent.
    fn map_permitted(
        &self,
        kind: MapKind,
        extents: &[IdExtent],
        setgroups_allowed: bool,
        opener: &Cred,
        writer: &Cred,
    ) -> bool {
        let Some(parent) = self.parent() else { return false };
        // Mapping the parent's root lets the creator write file capabilities that the parent's root trusts.
        let maps_root = kind == MapKind::Uid && extents.iter().any(|e| e.lower_first == 0);
        if maps_root {
            let allowed = if *opener.user_ns == *self {
                self.parent_could_setfcap
            } else {
                opener.ns_capable(parent, Cap::SETFCAP)
            };
            if !allowed {
                return false;
            }
        }
        // Anyone may map the own id alone; the own group only once setgroups is given up.
        if let [IdExtent { lower_first, count: 1, .. }] = *extents
            && self.owner == opener.euid
        {
            let own = match kind {
                MapKind::Uid => parent.make_kuid(lower_first) == Some(opener.euid),
                MapKind::Gid => !setgroups_allowed && parent.make_kgid(lower_first) == Some(opener.egid),
            };
            if own {
                return true;
            }
        }
        let cap = if kind == MapKind::Uid { Cap::SETUID } else { Cap::SETGID };
        writer.ns_capable(parent, cap) && opener.ns_capable(parent, cap)
    }

    /// A write to `/proc/PID/setgroups`; `opener` opened the file.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN here, for `allow` after `deny`, and for `deny` after the group map is written;
    /// `EINVAL` for any other text.
    pub fn write_setgroups(&self, text: &[u8], opener: &Cred) -> Result<()> {
        if !opener.ns_capable(self, Cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let mut maps = self.write();
        match c_string(text).trim_ascii_end() {
            b"allow" if maps.setgroups_allowed => Ok(()),
            b"allow" => Err(Errno::EPERM),
            b"deny" if maps.gid.0.is_empty() => {
                maps.setgroups_allowed = false;
                Ok(())
            }
            b"deny" => Err(Errno::EPERM),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// What the kernel reads of a text: it ends at the first NUL, which runc writes.
fn c_string(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or(text)
}

fn parse_map(text: &[u8]) -> Result<Vec<IdExtent>> {
    let text = std::str::from_utf8(c_string(text)).map_err(|_| Errno::EINVAL)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let mut extents: Vec<IdExtent> = Vec::new();
    for line in text.split('\n') {
        let mut fields = line.split_ascii_whitespace().map(|f| f.parse::<u32>().map_err(|_| Errno::EINVAL));
        let mut next = || fields.next().unwrap_or(Err(Errno::EINVAL));
        let e = IdExtent { first: next()?, lower_first: next()?, count: next()? };
        let invalid = fields.next().is_some()
            || e.first == u32::MAX
            || e.lower_first == u32::MAX
            || e.count == 0
            || e.first.checked_add(e.count).is_none()
            || e.lower_first.checked_add(e.count).is_none();
        let overlaps = |a: u32, b: u32, n: u32, m: u32| a < b + m && b < a + n;
        let clash = |o: &IdExtent| {
            overlaps(e.first, o.first, e.count, o.count)
                || overlaps(e.lower_first, o.lower_first, e.count, o.count)
        };
        if invalid || extents.iter().any(clash) || extents.len() == MAP_MAX_EXTENTS {
            return Err(Errno::EINVAL);
        }
        extents.push(e);
    }
    Ok(extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::CapSet;

    fn user(uid: u32, ns: &Arc<UserNamespace>) -> Cred {
        let mut cred = Cred::root(ns.clone());
        (cred.uid, cred.euid, cred.suid, cred.fsuid) = (uid, uid, uid, uid);
        (cred.gid, cred.egid, cred.sgid, cred.fsgid) = (uid, uid, uid, uid);
        cred.cap_permitted = CapSet::EMPTY;
        cred.cap_effective = CapSet::EMPTY;
        cred
    }

    fn child_of(cred: &Cred) -> (Arc<UserNamespace>, Cred) {
        let ns = UserNamespace::create(1, cred, false, u64::MAX).unwrap();
        let mut inside = cred.clone();
        inside.set_user_ns(ns.clone());
        (ns, inside)
    }

    #[test]
    fn an_unprivileged_user_maps_only_itself_and_its_group_only_after_denying_setgroups() {
        let outside = user(1000, &UserNamespace::initial());
        let (ns, inside) = child_of(&outside);
        assert_eq!(inside.show_uid(), OVERFLOW_UID);
        assert_eq!(ns.write_map(MapKind::Uid, b"0 1000 2\n", &inside, &inside), Err(Errno::EPERM));
        assert_eq!(ns.write_map(MapKind::Uid, b"0 1001 1\n", &inside, &inside), Err(Errno::EPERM));
        assert_eq!(ns.write_map(MapKind::Uid, b"0 1000 1\n", &inside, &inside), Ok(()));
        assert_eq!(ns.write_map(MapKind::Uid, b"0 1000 1\n", &inside, &inside), Err(Errno::EPERM));
        assert_eq!(inside.show_uid(), 0);
        assert_eq!(ns.write_map(MapKind::Gid, b"0 1000 1", &inside, &inside), Err(Errno::EPERM));
        assert_eq!(ns.write_setgroups(b"deny", &inside), Ok(()));
        assert_eq!(ns.write_map(MapKind::Gid, b"0 1000 1", &inside, &inside), Ok(()));
        assert_eq!(ns.write_setgroups(b"allow", &inside), Err(Errno::EPERM));
        assert!(!ns.may_setgroups());
    }

    #[test]
    fn maps_show_lower_ids_as_the_reader_knows_them() {
        let root = Cred::root(UserNamespace::initial());
        let (ns, inside) = child_of(&root);
        ns.write_map(MapKind::Uid, b"0 100000 65536\n", &root, &root).unwrap();
        assert_eq!(ns.show_map(MapKind::Uid, &inside.user_ns), "         0     100000      65536\n");
        assert_eq!(ns.make_kuid(5), Some(100005));
        assert_eq!(ns.make_kuid(65536), None);
        assert_eq!(ns.from_kuid_munged(0), OVERFLOW_UID);
        ns.write_map(MapKind::Gid, b"0 0 10\n", &root, &root).unwrap();
        let (grandchild, deep) = child_of(&Cred { euid: 100000, ..inside.clone() });
        assert_eq!(grandchild.show_map(MapKind::Uid, &deep.user_ns), "");
    }

    #[test]
    fn a_map_that_overlaps_overflows_or_is_not_three_numbers_is_invalid() {
        for text in
            ["", "0 0", "0 0 0", "0 0 1 1", "0 0 5\n4 100 1", "0 0 5\n9 3 1", "4294967290 0 10", "a b c"]
        {
            assert_eq!(parse_map(text.as_bytes()), Err(Errno::EINVAL), "{text:?}");
            assert_eq!(parse_map(&[text.as_bytes(), b"\0"].concat()), Err(Errno::EINVAL), "{text:?}");
        }
    }

    #[test]
    fn a_map_ends_at_the_first_nul() {
        let extent = parse_map(b"0 1000 1\n").unwrap();
        assert_eq!(parse_map(b"0 1000 1\n\0"), Ok(extent.clone()));
        assert_eq!(parse_map(b"0 1000 1\0 2 2 2"), Ok(extent));
    }

    #[test]
    fn nesting_ends_at_level_33() {
        let mut cred = Cred::root(UserNamespace::initial());
        for _ in 0..=MAX_USER_NS_LEVEL {
            let (ns, mut inside) = child_of(&cred);
            ns.write_map(MapKind::Uid, b"0 0 10", &cred, &cred).unwrap();
            ns.write_map(MapKind::Gid, b"0 0 10", &cred, &cred).unwrap();
            std::mem::swap(&mut cred, &mut inside);
        }
        assert_eq!(UserNamespace::create(1, &cred, false, 0).err(), Some(Errno::ENOSPC));
    }

    #[test]
    fn a_chrooted_or_unmapped_creator_is_refused() {
        let cred = user(1000, &UserNamespace::initial());
        assert_eq!(UserNamespace::create(1, &cred, true, 0).err(), Some(Errno::EPERM));
        let (_, unmapped) = child_of(&cred);
        assert_eq!(UserNamespace::create(1, &unmapped, false, 0).err(), Some(Errno::EPERM));
    }
}
