//! Mounts (`struct mount`, `fs/mount.h`) and mount namespaces (`mount_namespaces(7)`).
//!
//! A [`Mount`] shows a file system, from one of its directories downwards, at a place in another mount. A
//! [`MntNamespace`] is a tree of mounts. `namespace.rs` copies trees for `CLONE_NEWNS`; `tree.rs` changes them for `mount(2)`
//! and `umount2(2)`; `proc_mounts.rs` shows them as `/proc/PID/mountinfo`.
//!
//! In this version every mount is private. The fields of peer groups exist ([`Propagation`]) and mountinfo shows them,
//! but making a mount shared is refused with `EOPNOTSUPP`; making it private or a slave of nothing succeeds, as it changes
//! nothing.
//!
//! # Locking
//!
//! All namespaces that descend from one another share a [`MountTable`]; its `namespace_sem` serialises every change of
//! a tree. Path walk never takes it: it reads a mount's children only at a dentry marked as a mount point, and a mount's
//! parent only on the way up. See [`crate::vfs`]'s `lock.rs` for the order.

mod namespace;
mod proc_mounts;
#[cfg(test)]
mod tests;
mod tree;
mod visible;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

pub use namespace::{MntNamespace, copy_mnt_ns};
pub use proc_mounts::{show_mountinfo, show_mounts, show_mountstats};
pub use tree::{
    MountPropagation, UmountFlags, bind_mount, change_propagation, do_add_mount, do_mount, move_mount,
    pivot_root, remount_flags, umount,
};
pub(crate) use tree::{detach_mounts, is_local_mountpoint};
pub use visible::mount_too_revealing;

use crate::errno::{Errno, Result};
use crate::vfs::lock::{Mutex, RwLock};
use crate::vfs::{ActiveSuper, Dentry, Path, SuperFlags, SuperIflags};

bitflags::bitflags! {
    /// Flags of a mount: `MNT_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        /// Set-user-ID bits and file capabilities count for nothing.
        const NOSUID = 0x01;
        /// Device nodes cannot be opened.
        const NODEV = 0x02;
        /// Nothing can be executed.
        const NOEXEC = 0x04;
        /// Access times are not kept.
        const NOATIME = 0x08;
        /// Access times of directories are not kept.
        const NODIRATIME = 0x10;
        /// Access times are kept where they tell something.
        const RELATIME = 0x20;
        /// Nothing can be changed through this mount.
        const READONLY = 0x40;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 0x80;
        /// Cannot be bound elsewhere.
        const UNBINDABLE = 0x2000;
        /// `MNT_LOCK_ATIME`
        const LOCK_ATIME = 0x04_0000;
        /// `MNT_LOCK_NOEXEC`
        const LOCK_NOEXEC = 0x08_0000;
        /// `MNT_LOCK_NOSUID`
        const LOCK_NOSUID = 0x10_0000;
        /// `MNT_LOCK_NODEV`
        const LOCK_NODEV = 0x20_0000;
        /// `MNT_LOCK_READONLY`
        const LOCK_READONLY = 0x40_0000;
        /// Came with a namespace of a more privileged user: cannot be unmounted on its own.
        const LOCKED = 0x80_0000;
    }
}

impl MountFlags {
    /// The flags a user sets.
    pub const USER_SETTABLE: MountFlags = MountFlags::from_bits_truncate(0xff);

    /// The flags that the `MS_*` bits of `mount(2)` ask for: `relatime` unless another treatment of access times is
    /// asked for (`path_mount`).
    pub fn from_ms(ms: u64) -> MountFlags {
        const MS_STRICTATIME: u64 = 1 << 24;
        let mut flags = MountFlags::empty();
        for (bit, flag) in [
            (1, MountFlags::READONLY),
            (1 << 1, MountFlags::NOSUID),
            (1 << 2, MountFlags::NODEV),
            (1 << 3, MountFlags::NOEXEC),
            (1 << 8, MountFlags::NOSYMFOLLOW),
            (1 << 10, MountFlags::NOATIME),
            (1 << 11, MountFlags::NODIRATIME),
        ] {
            if ms & bit != 0 {
                flags |= flag;
            }
        }
        if ms & MS_STRICTATIME != 0 {
            flags -= MountFlags::NOATIME;
        } else if !flags.contains(MountFlags::NOATIME) {
            flags |= MountFlags::RELATIME;
        }
        flags
    }

    /// Whether set-user-ID bits count for nothing.
    pub fn nosuid(self) -> bool {
        self.contains(MountFlags::NOSUID)
    }

    /// Whether device nodes cannot be opened.
    pub fn nodev(self) -> bool {
        self.contains(MountFlags::NODEV)
    }

    /// Whether nothing can be executed.
    pub fn noexec(self) -> bool {
        self.contains(MountFlags::NOEXEC)
    }

    /// Whether symbolic links are not followed.
    pub fn nosymfollow(self) -> bool {
        self.contains(MountFlags::NOSYMFOLLOW)
    }
}

/// What all mount trees of one sandbox share: the lock of their shape and the counters of their numbers.
pub struct MountTable {
    namespace_sem: Mutex<()>,
    next_mount: AtomicU32,
    next_ns: AtomicU64,
}

impl MountTable {
    /// Where inode numbers of mount namespaces start.
    const FIRST_NS: u64 = 0xf400_0000;

    /// A table of its own.
    pub fn new() -> Arc<MountTable> {
        Arc::new(MountTable {
            namespace_sem: Mutex::new(()),
            next_mount: AtomicU32::new(1),
            next_ns: AtomicU64::new(Self::FIRST_NS),
        })
    }
}

/// The peer groups a mount belongs to (`mount_namespaces(7)`, "shared subtrees").
#[derive(Clone, Default)]
pub struct Propagation {
    /// Peer group whose members see each other's mounts.
    pub shared: Option<u32>,
    /// Peer group this mount receives from.
    pub master: Option<u32>,
}

struct MountState {
    parent: Weak<Mount>,
    mountpoint: Option<Arc<Dentry>>,
    ns: Weak<MntNamespace>,
    propagation: Propagation,
}

/// One mount: `struct mount` with its `struct vfsmount`.
pub struct Mount {
    id: u32,
    root: Arc<Dentry>,
    sb: Arc<ActiveSuper>,
    devname: OnceLock<Box<[u8]>>,
    flags: AtomicU32,
    expiry_mark: AtomicBool,
    state: RwLock<MountState>,
    /// Mounts on this one, by the address of their mount point's dentry, which they keep alive.
    children: RwLock<HashMap<usize, Arc<Mount>>>,
    table: Arc<MountTable>,
}

/// A mount of the directory at `path` for a file system made of others (overlayfs): in no namespace, so that what is mounted
/// below does not show.
pub fn clone_private_mount(path: &Path) -> Result<Arc<Mount>> {
    Ok(Mount::private_clone(path))
}

fn key(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry).addr()
}

impl Mount {
    /// A mount of `sb` from `root` downwards that is nowhere yet: `vfs_create_mount`.
    pub fn new(
        table: &Arc<MountTable>,
        sb: Arc<ActiveSuper>,
        root: Arc<Dentry>,
        flags: MountFlags,
    ) -> Arc<Mount> {
        let mount = Arc::new(Mount {
            id: table.next_mount.fetch_add(1, Ordering::Relaxed),
            root,
            sb,
            devname: OnceLock::new(),
            flags: AtomicU32::new(flags.bits()),
            expiry_mark: AtomicBool::new(false),
            state: RwLock::new(MountState {
                parent: Weak::new(),
                mountpoint: None,
                ns: Weak::new(),
                propagation: Propagation::default(),
            }),
            children: RwLock::default(),
            table: table.clone(),
        });
        mount.sb.add_mount(&mount);
        mount
    }

    /// A mount of the directory at `path` that is in no namespace, so that nothing is mounted on it: `clone_private_mount`.
    fn private_clone(path: &Path) -> Arc<Mount> {
        let mnt = &path.mnt;
        Mount::new(&mnt.table, mnt.sb().clone(), path.dentry.clone(), mnt.flags())
    }

    /// Mount id, as mountinfo shows it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// `mnt_root`
    pub fn root(&self) -> &Arc<Dentry> {
        &self.root
    }

    /// The file system.
    pub fn sb(&self) -> &Arc<ActiveSuper> {
        &self.sb
    }

    /// What was given as its source (`mnt_devname`): with `mount(2)` each mount of one instance may have another.
    pub fn devname(&self) -> Option<&[u8]> {
        self.devname.get().map(|name| &name[..])
    }

    /// Records its source, once.
    pub fn set_devname(&self, name: &[u8]) {
        let _ = self.devname.set(name.into());
    }

    /// Whether device nodes can be opened: `may_open_dev`.
    pub fn may_open_dev(&self) -> bool {
        !self.flags().nodev() && !self.sb.iflags().contains(SuperIflags::NODEV)
    }

    /// Whether nothing can be executed: `path_noexec`.
    pub fn noexec(&self) -> bool {
        self.flags().noexec() || self.sb.iflags().contains(SuperIflags::NOEXEC)
    }

    /// Current flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Whether changes through this mount are refused: `__mnt_is_readonly`.
    pub fn is_readonly(&self) -> bool {
        self.flags().contains(MountFlags::READONLY) || self.sb.flags().contains(SuperFlags::RDONLY)
    }

    /// `mnt_want_write`: `EROFS` where this mount or its file system is read-only.
    pub fn want_write(&self) -> Result<()> {
        if self.is_readonly() { Err(Errno::EROFS) } else { Ok(()) }
    }

    /// The mount this one is on, and where.
    pub fn parent_and_mountpoint(&self) -> Option<(Arc<Mount>, Arc<Dentry>)> {
        let state = self.state.read();
        Some((state.parent.upgrade()?, state.mountpoint.clone()?))
    }

    /// The namespace whose tree this mount is in.
    pub fn namespace(&self) -> Option<Arc<MntNamespace>> {
        self.state.read().ns.upgrade()
    }

    pub(crate) fn in_namespace(&self) -> bool {
        self.state.read().ns.strong_count() > 0
    }

    fn in_this_namespace(&self, ns: &Arc<MntNamespace>) -> bool {
        self.state.read().ns.as_ptr() == Arc::as_ptr(ns)
    }

    /// Peer groups.
    pub fn propagation(&self) -> Propagation {
        self.state.read().propagation.clone()
    }

    /// The mount at `dentry` of this mount: `lookup_mnt`.
    pub fn lookup_mnt(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        self.children.read().get(&key(dentry)).cloned()
    }

    /// Mounts on this one, oldest first.
    pub fn children(&self) -> Vec<Arc<Mount>> {
        let mut children: Vec<_> = self.children.read().values().cloned().collect();
        children.sort_unstable_by_key(|mount| mount.id);
        children
    }

    /// This mount and all below it, parents first and siblings by age: the order of `next_mnt`.
    pub fn preorder(self: &Arc<Mount>) -> Vec<Arc<Mount>> {
        let mut order = Vec::new();
        let mut todo = vec![self.clone()];
        while let Some(mount) = todo.pop() {
            todo.extend(mount.children().into_iter().rev());
            order.push(mount);
        }
        order
    }

    /// The `ST_*` flags of `statfs(2)`.
    pub fn statfs_flags(&self) -> u64 {
        let flags = self.flags();
        let mut st = 0;
        for (flag, bit) in [
            (MountFlags::NOSUID, 0x0002),
            (MountFlags::NODEV, 0x0004),
            (MountFlags::NOEXEC, 0x0008),
            (MountFlags::NOATIME, 0x0400),
            (MountFlags::NODIRATIME, 0x0800),
            (MountFlags::RELATIME, 0x1000),
            (MountFlags::NOSYMFOLLOW, 0x2000),
        ] {
            if flags.contains(flag) {
                st |= bit;
            }
        }
        if self.is_readonly() {
            st |= 0x0001;
        }
        if self.sb.flags().contains(SuperFlags::SYNCHRONOUS) {
            st |= 0x0010;
        }
        st
    }

    /// Puts this mount on `parent` at `mountpoint`: `mnt_set_mountpoint` and `attach_mnt`.
    fn attach(self: &Arc<Mount>, parent: &Arc<Mount>, mountpoint: &Arc<Dentry>) {
        {
            let mut state = self.state.write();
            state.parent = Arc::downgrade(parent);
            state.mountpoint = Some(mountpoint.clone());
        }
        parent.children.write().insert(key(mountpoint), self.clone());
        mountpoint.add_mount(self);
    }

    /// Takes this mount off its parent: `umount_mnt`.
    fn detach(self: &Arc<Mount>) {
        let (parent, mountpoint) = {
            let mut state = self.state.write();
            (std::mem::take(&mut state.parent), state.mountpoint.take())
        };
        if let Some(mountpoint) = mountpoint {
            mountpoint.remove_mount(self);
            if let Some(parent) = parent.upgrade() {
                let removed = parent.children.write().remove(&key(&mountpoint));
                drop(removed);
            }
        }
    }
}
