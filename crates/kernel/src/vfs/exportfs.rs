//! File handles: names of objects that outlive their paths (`fs/exportfs`, `open_by_handle_at(2)`).
//!
//! In Linux a file system makes the handle of an inode from its number and generation, and finds the inode again by reading
//! its own tables; so a handle that somebody guesses is as good as one that was given out. Here the host keeps those tables, and
//! does not let an ordinary user ask. A super block therefore remembers the handles it has given out, and knows no other: what
//! a handle leads to has been reached by its path before, in this sandbox.
//!
//! Where ours differs: only the last [`MOST_KEPT`] handles of a file system are known, older ones are `ESTALE`; so are those of an
//! earlier sandbox with the same layer. A file with several names whose handle was made by one that is removed is `ESTALE`
//! until its handle is asked for again by another; it is the same handle then.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use super::dcache::Dentry;
use super::inode::{Attr, Timespec};
use super::super_block::ActiveSuper;
use crate::errno::{Errno, Result};

/// `FILEID_INO32_GEN`, which tmpfs uses for a generation and a 64-bit number.
const FILEID_INO32_GEN: i32 = 1;
/// `FILEID_INO64_GEN`: number and generation, of file systems whose handles are only compared.
const FILEID_INO64_GEN: i32 = 0x81;
/// `FILEID_KERNFS`: the 64-bit number.
const FILEID_KERNFS: i32 = 0xfe;
/// `FILEID_INVALID`: the type that is told where the handle does not fit.
pub const FILEID_INVALID: i32 = 0xff;

/// How many handles of a file system are remembered: as many as directories are.
const MOST_KEPT: usize = 16384;

/// How a file system makes handles: `s_export_op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// It has none: only handles that are compared (`AT_HANDLE_FID`).
    No,
    /// As tmpfs: generation and number.
    Generation,
    /// As kernfs: a number that is never used again.
    Kernfs,
}

/// The opaque part of `struct file_handle`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileId {
    /// `handle_type`
    pub kind: i32,
    /// `f_handle`
    pub bytes: Vec<u8>,
}

/// Whose handle it is.
enum Alias {
    /// A name in use.
    Named(Arc<Dentry>),
    /// The name has been removed; somebody may still have it open.
    Removed(Weak<Dentry>),
}

impl Alias {
    fn dentry(&self) -> Option<Arc<Dentry>> {
        match self {
            Alias::Named(dentry) => Some(dentry.clone()),
            Alias::Removed(dentry) => dentry.upgrade(),
        }
    }
}

struct Given {
    dev: u64,
    btime: Option<Timespec>,
    alias: Alias,
}

/// Number and generation.
type Key = (u64, u32);

/// The handles a super block has given out.
#[derive(Default)]
pub(crate) struct Handles {
    given: HashMap<Key, Given>,
    /// Generation by device and number.
    current: HashMap<(u64, u64), u32>,
    /// Key by the address of a dentry that `given` holds.
    named: HashMap<usize, Key>,
    /// In the order in which they were given out.
    order: VecDeque<Key>,
    last_generation: u32,
}

impl Handles {
    /// The generation of the object `attr`, whose name is `dentry`. What is let go of goes to `gone`, to be dropped without the
    /// lock.
    fn give(&mut self, attr: &Attr, dentry: &Arc<Dentry>, numbered: bool, gone: &mut Vec<Alias>) -> u32 {
        let object = (attr.dev, attr.ino);
        if let Some(&generation) = self.current.get(&object)
            && let Some(given) = self.given.get_mut(&(attr.ino, generation))
        {
            let alive = given.alias.dentry().is_some_and(|alias| !alias.is_deleted());
            if alive {
                return generation;
            }
            // Another name of the same object, or an object that has its number by now: the time of creation tells.
            if !numbered || given.btime == attr.btime {
                gone.push(std::mem::replace(&mut given.alias, Alias::Named(dentry.clone())));
                self.named.insert(address(dentry), (attr.ino, generation));
                return generation;
            }
        }
        if self.order.len() >= MOST_KEPT
            && let Some(oldest) = self.order.pop_front()
            && let Some(Given { dev, alias, .. }) = self.given.remove(&oldest)
        {
            if self.current.get(&(dev, oldest.0)) == Some(&oldest.1) {
                self.current.remove(&(dev, oldest.0));
            }
            if let Alias::Named(dentry) = &alias {
                self.named.remove(&address(dentry));
            }
            gone.push(alias);
        }
        let generation = if numbered { self.last_generation.wrapping_add(1).max(1) } else { 0 };
        self.last_generation = generation;
        let key = (attr.ino, generation);
        let given = Given { dev: attr.dev, btime: attr.btime, alias: Alias::Named(dentry.clone()) };
        gone.extend(self.given.insert(key, given).map(|old| old.alias));
        self.named.insert(address(dentry), key);
        self.current.insert(object, generation);
        self.order.push_back(key);
        generation
    }

    /// A name has been removed: its handle keeps nothing alive.
    fn removed(&mut self, dentry: &Arc<Dentry>) -> Option<Alias> {
        let key = self.named.remove(&address(dentry))?;
        let given = self.given.get_mut(&key)?;
        Some(std::mem::replace(&mut given.alias, Alias::Removed(Arc::downgrade(dentry))))
    }
}

fn address(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry).addr()
}

impl ActiveSuper {
    /// The handle of an object: `exportfs_encode_fh`; with `only_compared` one that may not be opened (`AT_HANDLE_FID`).
    ///
    /// # Errors
    /// `EOPNOTSUPP`: the file system has no handles that can be opened.
    pub fn encode_fh(&self, dentry: &Arc<Dentry>, only_compared: bool) -> Result<FileId> {
        let named = dentry.parent().is_some() || Arc::ptr_eq(dentry, self.root());
        // What is known by an open handle only cannot be found again.
        let export = if named { self.ops().export() } else { Export::No };
        if export == Export::No && !only_compared {
            return Err(Errno::EOPNOTSUPP);
        }
        let attr = dentry.inode().getattr()?;
        let ino = attr.ino.to_le_bytes();
        let generation = if export == Export::No {
            0
        } else {
            let mut gone = Vec::new();
            let mut handles = self.handles.lock();
            let generation = handles.give(&attr, dentry, export == Export::Generation, &mut gone);
            // Who removes the name marks it as removed first, and then looks for this mark.
            dentry.mark_exported();
            if dentry.is_deleted() {
                gone.extend(handles.removed(dentry));
            }
            drop(handles);
            drop(gone);
            generation
        };
        Ok(match export {
            Export::No => {
                FileId { kind: FILEID_INO64_GEN, bytes: [&ino[..], &generation.to_le_bytes()].concat() }
            }
            Export::Generation => {
                FileId { kind: FILEID_INO32_GEN, bytes: [&generation.to_le_bytes()[..], &ino].concat() }
            }
            Export::Kernfs => FileId { kind: FILEID_KERNFS, bytes: ino.to_vec() },
        })
    }

    /// The object a handle was given out for: `exportfs_decode_fh`.
    ///
    /// # Errors
    /// `ESTALE`: it is gone, or there never was such a handle.
    pub fn decode_fh(&self, id: &FileId) -> Result<Arc<Dentry>> {
        let (generation, ino) = match (self.ops().export(), id.kind, id.bytes.len()) {
            (Export::Generation, FILEID_INO32_GEN, 12) => id.bytes.split_at(4),
            (Export::Kernfs, FILEID_KERNFS, 8) => (&[0; 4][..], &id.bytes[..]),
            _ => return Err(Errno::ESTALE),
        };
        let generation = u32::from_le_bytes(generation.try_into().map_err(|_| Errno::ESTALE)?);
        let ino = u64::from_le_bytes(ino.try_into().map_err(|_| Errno::ESTALE)?);
        let found = self.handles.lock().given.get(&(ino, generation)).and_then(|given| given.alias.dentry());
        let dentry = found.ok_or(Errno::ESTALE)?;
        // On file systems that change by themselves a name may have gone unnoticed.
        dentry.inode().getattr().map_err(|_| Errno::ESTALE)?;
        Ok(dentry)
    }

    /// The name of `dentry` has been removed.
    pub(crate) fn forget_handle(&self, dentry: &Arc<Dentry>) {
        let held = self.handles.lock().removed(dentry);
        drop(held);
    }
}
