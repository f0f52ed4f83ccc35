//! `statmount(2)` and `listmount(2)`: mounts by their unique ids.

use std::sync::Arc;

use super::proc_mounts::{fs_options, major_minor, show_path, source};
use super::{MntNamespace, Mount, MountFlags};
use crate::errno::{Errno, Result};
use crate::vfs::d_path::{path_below, path_is_under};
use crate::vfs::{Path, SuperFlags};

/// `LSMT_ROOT`: in place of a mount's id, the caller's root directory.
pub const LSMT_ROOT: u64 = u64::MAX;

/// Who looks at the mounts of which namespace.
#[derive(Clone, Copy)]
pub struct MountView<'a> {
    /// The namespace.
    pub ns: &'a MntNamespace,
    /// The caller's root directory, where `ns` is the caller's own namespace.
    pub own_root: Option<&'a Path>,
    /// Whether the caller has `CAP_SYS_ADMIN` over `ns`: then it may see what it cannot reach.
    pub capable: bool,
}

impl MountView<'_> {
    /// `grab_requested_root`: the caller's root, or, in another namespace, that of who enters it.
    fn root(&self) -> Result<Path> {
        if let Some(root) = self.own_root {
            return Ok(root.clone());
        }
        let bottom = self.ns.inner().root().ok_or(Errno::ENOENT)?;
        let mounts = self.ns.mounts();
        let on_bottom =
            |mount: &&Arc<Mount>| mount.parent().is_some_and(|parent| Arc::ptr_eq(&parent, &bottom));
        mounts.iter().find(on_bottom).map(Path::mount_root).ok_or(Errno::ENOENT)
    }
}

/// What `listmount(2)` asks for.
#[derive(Clone, Copy, Debug)]
pub struct ListMount {
    /// The mount whose descendants are wanted, or [`LSMT_ROOT`].
    pub parent: u64,
    /// Go on behind this one; 0: from the start.
    pub last: u64,
    /// Youngest first.
    pub reverse: bool,
    /// No more than this.
    pub max: usize,
}

/// `do_listmount`: unique ids of the mounts below one.
///
/// `ENOENT`: no such mount, or an empty namespace. `EPERM`: it cannot be reached from the root directory.
pub fn listmount(view: MountView<'_>, request: ListMount) -> Result<Vec<u64>> {
    let _lock = view.ns.table().namespace_lock();
    let root = view.root()?;
    let top = match request.parent {
        LSMT_ROOT => root.clone(),
        id => Path::mount_root(&view.ns.inner().find(id).ok_or(Errno::ENOENT)?),
    };
    if !path_is_under(&top, &root) && !view.capable {
        return Err(Errno::EPERM);
    }
    let mut mounts = view.ns.mounts();
    if request.reverse {
        mounts.reverse();
    }
    let (last, reverse) = (request.last, request.reverse);
    let ids = mounts.iter().filter(|mount| {
        let id = mount.unique_id;
        let behind = last == 0 || if reverse { id < last } else { id > last };
        behind && id != request.parent && path_is_under(&Path::mount_root(mount), &top)
    });
    Ok(ids.map(|mount| mount.unique_id).take(request.max).collect())
}

/// What `statmount(2)` tells, before it is laid out as asked.
#[derive(Clone, Debug)]
pub struct StatMount {
    /// `sb_dev_major` and `sb_dev_minor`.
    pub sb_dev: (u64, u64),
    /// Magic number of the file system.
    pub sb_magic: u64,
    /// `RDONLY`, `SYNCHRONOUS`, `DIRSYNC`, `LAZYTIME`.
    pub sb_flags: SuperFlags,
    /// Type of the file system.
    pub fs_type: String,
    /// `mnt_id`: unique id.
    pub mnt_id: u64,
    /// Unique id of the parent; of the mount itself where it has none.
    pub mnt_parent_id: u64,
    /// `mnt_id_old`: the id in mountinfo.
    pub mnt_id_old: u32,
    /// The same of the parent.
    pub mnt_parent_id_old: u32,
    /// Flags; the caller shows them as `MOUNT_ATTR_*`.
    pub mnt_flags: MountFlags,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_UNBINDABLE`, or `MS_PRIVATE`.
    pub mnt_propagation: u64,
    /// Peer group, 0 for none.
    pub mnt_peer_group: u64,
    /// Peer group received from, 0 for none.
    pub mnt_master: u64,
    /// The closest group received from that the reader sees, 0 for none.
    pub propagate_from: u64,
    /// Root of the mount in its file system.
    pub mnt_root: Vec<u8>,
    /// Path of the mount below the reader's root; `None`: it cannot be reached from there.
    pub mnt_point: Option<Vec<u8>>,
    /// Number of the namespace ([`MntNamespace::id`]).
    pub mnt_ns_id: u64,
    /// Options of the file system, without leading comma.
    pub mnt_opts: String,
    /// Source.
    pub sb_source: Vec<u8>,
}

/// `do_statmount` of the mount with unique id `id`.
///
/// `ENOENT`: no such mount in the namespace. `EPERM`: it cannot be reached from the root directory. Errors of `statfs(2)`.
pub fn statmount(view: MountView<'_>, id: u64) -> Result<StatMount> {
    let mount = view.ns.inner().find(id).ok_or(Errno::ENOENT)?;
    // The file system is asked before the lock: it may take its time.
    let sb_magic = mount.sb.ops().statfs()?.magic;
    let lock = view.ns.table().namespace_lock();
    if !mount.is_in(view.ns) {
        return Err(Errno::ENOENT);
    }
    let root = view.root()?;
    let place = Path::mount_root(&mount);
    if !path_is_under(&place, &root) && !view.capable {
        return Err(Errno::EPERM);
    }
    const MS_UNBINDABLE: u64 = 1 << 17;
    const MS_PRIVATE: u64 = 1 << 18;
    const MS_SLAVE: u64 = 1 << 19;
    const MS_SHARED: u64 = 1 << 20;
    let propagation = lock.pnodes.propagation(&mount);
    let mut kinds = 0;
    for (is, kind) in [
        (propagation.shared.is_some(), MS_SHARED),
        (propagation.master.is_some(), MS_SLAVE),
        (mount.is_unbindable(), MS_UNBINDABLE),
    ] {
        if is {
            kinds |= kind;
        }
    }
    let parent = mount.parent().unwrap_or_else(|| mount.clone());
    let ops = mount.sb.ops();
    let shown = SuperFlags::RDONLY | SuperFlags::SYNCHRONOUS | SuperFlags::DIRSYNC | SuperFlags::LAZYTIME;
    Ok(StatMount {
        sb_dev: major_minor(ops.dev()),
        sb_magic,
        sb_flags: mount.sb.flags() & shown,
        fs_type: ops.fs_type().to_string(),
        mnt_id: mount.unique_id,
        mnt_parent_id: parent.unique_id,
        mnt_id_old: mount.id,
        mnt_parent_id_old: parent.id,
        mnt_flags: mount.flags(),
        mnt_propagation: if kinds == 0 { MS_PRIVATE } else { kinds },
        mnt_peer_group: propagation.shared.unwrap_or(0).into(),
        mnt_master: propagation.master.unwrap_or(0).into(),
        propagate_from: lock.pnodes.dominating_id(&mount, &root).unwrap_or(0).into(),
        mnt_root: show_path(&mount),
        mnt_point: path_below(&place, &root),
        mnt_ns_id: view.ns.id(),
        mnt_opts: fs_options(&mount).trim_start_matches(',').to_string(),
        sb_source: source(&mount),
    })
}
