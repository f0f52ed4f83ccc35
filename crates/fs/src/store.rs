//! Where our own bookkeeping about a file is kept.
//!
//! Normally in extended attributes of the file. On a file system without `user.*` attributes it is kept in memory by
//! device and inode number, and is then lost with the sandbox: such a directory cannot be used a second time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use nomina_kernel::vfs::{S_IFMT, SetAttr};
use nomina_kernel::{Errno, Result};
use rustix::fs::Statx;

use crate::at::{At, id_of};
use crate::override_stat::{IdMap, MARK, Override, XATTR, attr_of};

type Table = HashMap<(u64, u64), HashMap<Vec<u8>, Vec<u8>>>;

/// Keeper of bookkeeping attributes.
pub(crate) enum Store {
    /// In the file's own extended attributes.
    Xattr,
    /// In memory.
    Memory(Mutex<Table>),
}

impl Store {
    /// The value of `name`, `None` where absent.
    pub fn get(&self, at: At<'_>, id: (u64, u64), name: &[u8]) -> Result<Option<Vec<u8>>> {
        match self {
            Store::Xattr => match at.getxattr(name) {
                Ok(value) => Ok(Some(value)),
                Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM) => Ok(None),
                Err(error) => Err(error),
            },
            Store::Memory(table) => {
                let table = table.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(table.get(&id).and_then(|names| names.get(name)).cloned())
            }
        }
    }

    /// Sets `name`.
    pub fn set(&self, at: At<'_>, id: (u64, u64), name: &[u8], value: &[u8]) -> Result<()> {
        match self {
            Store::Xattr => at.setxattr(name, value, 0),
            Store::Memory(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                table.entry(id).or_default().insert(name.to_vec(), value.to_vec());
                Ok(())
            }
        }
    }

    /// Sets `name` with the flags of `setxattr(2)`.
    pub fn set_flags(&self, at: At<'_>, id: (u64, u64), name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        if let Store::Xattr = self {
            return at.setxattr(name, value, flags);
        }
        match (flags, self.get(at, id, name)?) {
            (1, Some(_)) => Err(Errno::EEXIST),
            (2, None) => Err(Errno::ENODATA),
            (0..=2, _) => self.set(at, id, name, value),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Names kept beside the file's own attributes, each ended by NUL.
    pub fn list(&self, id: (u64, u64)) -> Vec<u8> {
        let Store::Memory(table) = self else { return Vec::new() };
        let table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let names = table.get(&id).into_iter().flat_map(|names| names.keys());
        names.flat_map(|name| name.iter().copied().chain([0])).collect()
    }

    /// Removes `name`; no error where absent.
    pub fn remove(&self, at: At<'_>, id: (u64, u64), name: &[u8]) -> Result<()> {
        match self {
            Store::Xattr => match at.removexattr(name) {
                Err(Errno::ENODATA) => Ok(()),
                other => other,
            },
            Store::Memory(table) => {
                let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(names) = table.get_mut(&id) {
                    names.remove(name);
                }
                Ok(())
            }
        }
    }

    /// Forgets all about a file: called for new files, whose inode number may have had an owner before.
    pub fn forget(&self, id: (u64, u64)) {
        if let Store::Memory(table) = self {
            table.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        }
    }

    /// The override of a file with host side `stat`. Unmarked files have none, unless `always` (directories filled by
    /// other tools, which know no mark).
    pub fn override_of(&self, at: At<'_>, stat: &Statx, always: bool) -> Result<Option<Override>> {
        let mode = u32::from(stat.stx_mode);
        let can = matches!(mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR);
        if !can || (mode & MARK == 0 && !always) {
            return Ok(None);
        }
        Ok(self.get(at, id_of(stat), XATTR)?.and_then(|text| Override::parse(&text)))
    }

    /// Whether a file of a layer is one whose making was interrupted (by `kill -9`, say): it has the mark but no record, and
    /// nothing was written to it yet. One with content has lost its record otherwise, to a copy without extended attributes
    /// perhaps, and is kept.
    pub fn is_unfinished(&self, at: At<'_>, stat: &Statx) -> Result<bool> {
        let mode = u32::from(stat.stx_mode);
        let empty = match mode & libc::S_IFMT {
            libc::S_IFREG => stat.stx_size == 0,
            libc::S_IFDIR => true,
            _ => false,
        };
        let recorded = matches!(self, Store::Memory(_)) || mode & MARK == 0;
        Ok(empty && !recorded && self.get(at, id_of(stat), XATTR)?.is_none())
    }

    /// Applies the owner and mode parts of `set` to a file of ours, in the host's own fields where these can hold them.
    pub fn change_owner_mode(
        &self,
        at: At<'_>,
        stat: &Statx,
        over: Option<&Override>,
        map: &IdMap,
        set: &SetAttr,
    ) -> Result<()> {
        let now = attr_of(stat, over, map);
        let new = Override {
            uid: set.uid.unwrap_or(now.uid),
            gid: set.gid.unwrap_or(now.gid),
            mode: set.mode.unwrap_or(now.mode) & 0o7777,
            kind: Some(now.mode & S_IFMT),
            rdev: over.map_or(0, |o| o.rdev),
        };
        self.put(at, stat, over.is_some(), map, &new, true)
    }

    /// Makes a file of ours have the owner, mode, type and device number of `new`.
    pub fn place(&self, at: At<'_>, stat: &Statx, had: bool, map: &IdMap, new: &Override) -> Result<()> {
        self.put(at, stat, had, map, new, false)
    }

    /// With `touch`, a file that has all this already is written to nevertheless: its ctime changes and those who watch it are
    /// told, as `chmod(2)` does.
    fn put(
        &self,
        at: At<'_>,
        stat: &Statx,
        had: bool,
        map: &IdMap,
        new: &Override,
        touch: bool,
    ) -> Result<()> {
        let host_mode = u32::from(stat.stx_mode) & 0o7777;
        match Placement::of(new, stat, map) {
            Placement::Host(mode) => {
                let link = u32::from(stat.stx_mode) & libc::S_IFMT == libc::S_IFLNK;
                if touch && link {
                    at.touch_ctime()?;
                } else if mode != host_mode || touch {
                    at.chmod(mode)?;
                }
                if had {
                    self.remove(at, id_of(stat), XATTR)?;
                }
            }
            Placement::Override(mode) => {
                self.set(at, id_of(stat), XATTR, new.format().as_bytes())?;
                // An attribute that is set to what it is leaves the ctime alone.
                if mode != host_mode || touch {
                    at.chmod(mode)?;
                }
            }
        }
        Ok(())
    }
}

/// Where owner and mode of a file of ours are kept.
pub(crate) enum Placement {
    /// In the host's fields, with this host mode.
    Host(u32),
    /// In the override attribute, with this host mode (which keeps the file within our reach, and carries the mark).
    Override(u32),
}

impl Placement {
    /// Decides for a file whose host side is `stat`.
    pub fn of(new: &Override, stat: &Statx, map: &IdMap) -> Placement {
        let host_owned = stat.stx_uid == map.host_uid && stat.stx_gid == map.host_gid;
        Placement::on(new, u32::from(stat.stx_mode) & libc::S_IFMT, host_owned, map)
    }

    /// What will be decided for a new file of this type on the host. Created with the host mode this gives, a file is never
    /// seen with attributes that are not its own: with the mark but without its record, it is one that was not finished
    /// ([`Store::is_unfinished`]).
    pub fn expected(new: &Override, host_kind: u32, map: &IdMap) -> Placement {
        Placement::on(new, host_kind, true, map)
    }

    /// The mode on the host.
    pub fn host_mode(&self) -> u32 {
        match self {
            Placement::Host(mode) | Placement::Override(mode) => *mode,
        }
    }

    fn on(new: &Override, host_kind: u32, host_owned: bool, map: &IdMap) -> Placement {
        let same_kind = new.kind.is_none_or(|kind| kind == host_kind);
        let owned = host_owned && (new.uid, new.gid) == (map.uid, map.gid);
        if host_kind == libc::S_IFLNK && same_kind && owned {
            return Placement::Host(0o777);
        }
        let reach = if host_kind == libc::S_IFDIR { 0o700 } else { 0o600 };
        if same_kind && owned && new.mode & 0o7000 == 0 && new.mode & reach == reach {
            Placement::Host(new.mode)
        } else {
            Placement::Override(new.mode & 0o777 | reach | MARK)
        }
    }
}
