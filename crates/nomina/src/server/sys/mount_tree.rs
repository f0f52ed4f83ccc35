//! Mounts by descriptor: `open_tree(2)`, `move_mount(2)`, `mount_setattr(2)`, `open_tree_attr(2)`.

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::mount::{
    DetachedMount, MountFlags, MountKattr, MountPropagation, mount_setattr as set_attributes,
    move_mount as move_tree, move_mount_beneath, set_group,
};
use nomina_kernel::vfs::{LookupFlags, Path};

use super::super::layout::u64_at;
use super::super::request::{Ctx, Reply, host};
use super::mount::Caller;
use super::mount_attr::{ATTR_ATIME, ATTR_IDMAP, attr_to_atime, attr_to_flags};

const AT_RECURSIVE: i32 = 0x8000;
const OPEN_TREE_CLONE: i32 = 1;
const OPEN_TREE_CLOEXEC: i32 = libc::O_CLOEXEC;

/// Flags of `move_mount(2)`.
mod move_mount_flags {
    pub const F_SYMLINKS: u32 = 0x01;
    pub const F_EMPTY_PATH: u32 = 0x04;
    pub const T_SYMLINKS: u32 = 0x10;
    pub const T_EMPTY_PATH: u32 = 0x40;
    pub const SET_GROUP: u32 = 0x100;
    pub const BENEATH: u32 = 0x200;
    pub const MASK: u32 = 0x377;
}

/// Size of `struct mount_attr` in its first version, and the largest taken.
const MOUNT_ATTR_SIZE: usize = 32;
const PAGE_SIZE: u64 = 4096;

fn at_lookup(flags: i32) -> LookupFlags {
    let mut lookup = LookupFlags::empty();
    lookup.set(LookupFlags::FOLLOW, flags & libc::AT_SYMLINK_NOFOLLOW == 0);
    lookup.set(LookupFlags::EMPTY, flags & libc::AT_EMPTY_PATH != 0);
    lookup
}

/// What [`open_tree`] gives: a place as with `O_PATH`, or a copy of a tree.
enum Tree {
    Place(Path),
    Copy(DetachedMount),
}

impl Tree {
    fn path(&self) -> Path {
        match self {
            Tree::Place(path) => path.clone(),
            Tree::Copy(tree) => tree.path(),
        }
    }
}

/// `vfs_open_tree`
fn vfs_open_tree(ctx: &Ctx<'_>, caller: &Caller) -> Result<Tree> {
    let flags = ctx.int(2);
    let known = libc::AT_EMPTY_PATH
        | libc::AT_NO_AUTOMOUNT
        | AT_RECURSIVE
        | libc::AT_SYMLINK_NOFOLLOW
        | OPEN_TREE_CLONE
        | OPEN_TREE_CLOEXEC;
    if flags & !known != 0 || flags & (AT_RECURSIVE | OPEN_TREE_CLONE) == AT_RECURSIVE {
        return Err(Errno::EINVAL);
    }
    if flags & OPEN_TREE_CLONE != 0 {
        caller.may_mount()?;
    }
    let path = ctx.mount_path(ctx.int(0), &ctx.path(1)?, at_lookup(flags))?;
    if flags & OPEN_TREE_CLONE == 0 {
        return Ok(Tree::Place(path));
    }
    Ok(Tree::Copy(DetachedMount::open_tree(caller.ns(), &path, flags & AT_RECURSIVE != 0)?))
}

fn tree_fd(ctx: &Ctx<'_>, tree: Tree) -> Result<Reply> {
    let handles = &ctx.server.handles;
    let flags = libc::O_PATH as u32;
    let fd = match tree {
        Tree::Place(path) => handles.open_path(path, flags),
        Tree::Copy(tree) => handles.open_detached(tree, flags),
    };
    Ok(Reply::Fd { fd: fd.map_err(host)?, cloexec: ctx.int(2) & OPEN_TREE_CLOEXEC != 0 })
}

/// `open_tree(2)`: directory, path, flags.
pub fn open_tree(ctx: &mut Ctx<'_>) -> Result<Reply> {
    ctx.server.handles.sweep_closed();
    let caller = ctx.mount_caller()?;
    let tree = vfs_open_tree(ctx, &caller)?;
    tree_fd(ctx, tree)
}

/// `open_tree_attr(2)`: directory, path, flags, attributes, their size.
pub fn open_tree_attr(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let attributes = ctx.bytes_opt(3)?;
    if attributes.is_none() && ctx.args[4] != 0 {
        return Err(Errno::EINVAL);
    }
    ctx.server.handles.sweep_closed();
    let caller = ctx.mount_caller()?;
    let tree = vfs_open_tree(ctx, &caller)?;
    if attributes.is_some()
        && let Some(mut kattr) = wants_mount_setattr(ctx, &caller)?
    {
        kattr.recurse = ctx.int(2) & AT_RECURSIVE != 0;
        do_mount_setattr(ctx, &caller, &tree.path(), &kattr)?;
    }
    tree_fd(ctx, tree)
}

/// `move_mount(2)`: from directory and path, to directory and path, flags.
pub fn move_mount(ctx: &mut Ctx<'_>) -> Result<Reply> {
    use move_mount_flags as flag;
    ctx.server.handles.sweep_closed();
    let caller = ctx.mount_caller()?;
    caller.may_mount()?;
    let flags = ctx.uint(4);
    let both = flag::BENEATH | flag::SET_GROUP;
    if flags & !flag::MASK != 0 || flags & both == both {
        return Err(Errno::EINVAL);
    }
    let place = |dirfd: i32, name: &[u8], follow: u32, empty: u32| {
        let mut lookup = LookupFlags::empty();
        lookup.set(LookupFlags::FOLLOW, flags & follow != 0);
        lookup.set(LookupFlags::EMPTY, flags & empty != 0);
        ctx.mount_path(dirfd, name, lookup)
    };
    let to = place(ctx.int(2), &ctx.path(3)?, flag::T_SYMLINKS, flag::T_EMPTY_PATH)?;
    let from = place(ctx.int(0), &ctx.path(1)?, flag::F_SYMLINKS, flag::F_EMPTY_PATH)?;
    if flags & flag::SET_GROUP != 0 {
        set_group(caller.ns(), &|owner| caller.is_admin_of(owner), &from, &to)?;
    } else if flags & flag::BENEATH != 0 {
        move_mount_beneath(caller.ns(), &from, &to, &ctx.fs().root)?;
    } else {
        move_tree(caller.ns(), &from, &to)?;
    }
    Ok(().into())
}

/// `mount_setattr(2)`: directory, path, flags, attributes, their size.
pub fn mount_setattr(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let flags = ctx.int(2);
    let known = libc::AT_EMPTY_PATH | AT_RECURSIVE | libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let caller = ctx.mount_caller()?;
    let Some(mut kattr) = wants_mount_setattr(ctx, &caller)? else { return Ok(().into()) };
    kattr.recurse = flags & AT_RECURSIVE != 0;
    let path = ctx.mount_path(ctx.int(0), &ctx.path(1)?, at_lookup(flags))?;
    do_mount_setattr(ctx, &caller, &path, &kattr)?;
    Ok(().into())
}

/// The checks of the attributes in arguments 3 and 4; `None`: nothing is to change.
fn wants_mount_setattr(ctx: &Ctx<'_>, caller: &Caller) -> Result<Option<MountKattr>> {
    let size = ctx.args[4];
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    if size < MOUNT_ATTR_SIZE as u64 {
        return Err(Errno::EINVAL);
    }
    caller.may_mount()?;
    let attr = ctx.bytes(3)?;
    if attr.len() < MOUNT_ATTR_SIZE {
        return Err(Errno::EFAULT);
    }
    if attr[MOUNT_ATTR_SIZE..].iter().any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let (set, clr, propagation) = (u64_at(&attr, 0), u64_at(&attr, 8), u64_at(&attr, 16));
    if (set, clr, propagation) == (0, 0, 0) {
        return Ok(None);
    }
    build_mount_kattr(set, clr, propagation).map(Some)
}

/// `build_mount_kattr`. Mounts whose owners are mapped (`MOUNT_ATTR_IDMAP`) do not exist: `EINVAL`, as for a file system that
/// cannot do it.
fn build_mount_kattr(set: u64, clr: u64, propagation: u64) -> Result<MountKattr> {
    let propagation = match propagation {
        0 => None,
        libc::MS_SHARED => Some(MountPropagation::Shared),
        libc::MS_PRIVATE => Some(MountPropagation::Private),
        libc::MS_SLAVE => Some(MountPropagation::Slave),
        libc::MS_UNBINDABLE => Some(MountPropagation::Unbindable),
        _ => return Err(Errno::EINVAL),
    };
    if (set | clr) & ATTR_IDMAP != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = |attr| attr_to_flags(attr).ok_or(Errno::EINVAL);
    let mut kattr = MountKattr { attr_set: flags(set)?, attr_clr: flags(clr)?, propagation, recurse: false };
    match clr & ATTR_ATIME {
        0 if set & ATTR_ATIME == 0 => {}
        ATTR_ATIME => {
            // They exclude one another.
            kattr.attr_clr |= MountFlags::RELATIME | MountFlags::NOATIME;
            kattr.attr_set |= attr_to_atime(set & ATTR_ATIME).ok_or(Errno::EINVAL)?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(kattr)
}

fn do_mount_setattr(ctx: &Ctx<'_>, caller: &Caller, path: &Path, kattr: &MountKattr) -> Result<()> {
    if kattr.attr_set.contains(MountFlags::READONLY) {
        ctx.server.hold_writers(&ctx.look()?, &path.mnt, kattr.recurse)?;
    }
    set_attributes(caller.ns(), path, kattr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_times_are_changed_as_a_whole_or_not_at_all() {
        let relatime = build_mount_kattr(0, ATTR_ATIME, 0).unwrap();
        assert_eq!(relatime.attr_set, MountFlags::RELATIME);
        assert!(relatime.attr_clr.contains(MountFlags::NOATIME | MountFlags::RELATIME));
        assert_eq!(build_mount_kattr(0x10, 0, 0).unwrap_err(), Errno::EINVAL);
        assert_eq!(build_mount_kattr(0x10, 0x20, 0).unwrap_err(), Errno::EINVAL);
        assert_eq!(build_mount_kattr(0x30, ATTR_ATIME, 0).unwrap_err(), Errno::EINVAL);
    }

    #[test]
    fn only_one_propagation_type_is_taken() {
        assert!(build_mount_kattr(0, 0, libc::MS_SHARED).is_ok());
        assert_eq!(build_mount_kattr(0, 0, libc::MS_SHARED | libc::MS_SLAVE).unwrap_err(), Errno::EINVAL);
        assert_eq!(build_mount_kattr(ATTR_IDMAP, 0, 0).unwrap_err(), Errno::EINVAL);
    }
}
