//! `open(2)` and `openat2(2)`: `path_openat`.

use super::create::new_inode;
use super::walk::{LastType, Nameidata};
use super::{LookupFlags, WalkContext, path_lookup};
use crate::errno::{Errno, Result};
use crate::vfs::attr::file_remove_privs;
use crate::vfs::dcache::{Found, Keep};
use crate::vfs::permission::{
    MAY_EXEC, MAY_READ, MAY_WRITE, WalkCred, get_write_access, may_create, path_permission,
};
use crate::vfs::{NAME_MAX, Opened, Path, S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG, S_IFSOCK, watch};

const O_ACCMODE: u32 = 3;
const O_WRONLY: u32 = 1;
const O_RDWR: u32 = 2;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_TRUNC: u32 = 0o1000;
const O_DIRECTORY: u32 = 0o200000;
const O_NOFOLLOW: u32 = 0o400000;
const O_NOATIME: u32 = 0o1000000;
const O_CLOEXEC: u32 = 0o2000000;
const O_PATH: u32 = 0o10000000;
/// `__O_TMPFILE`: the bit of `O_TMPFILE` beside `O_DIRECTORY`.
const O_TMPFILE_BIT: u32 = 0o20000000;

/// How often a name that appears and vanishes under our hands is tried again.
const RACES: u32 = 8;

/// What `open` found or made.
pub struct OpenResult {
    /// The place opened. For `O_TMPFILE` the directory: the file has no name.
    pub path: Path,
    /// The handle. [`Opened::Directory`] also for `O_PATH` of whatever type: the caller makes the placeholder.
    pub opened: Opened,
    /// Whether the file was created by this call.
    pub created: bool,
}

/// `openat2(2)`: `flags` as of `open(2)`, `mode` with the bits 07777, `resolve` the `RESOLVE_*` part of [`LookupFlags`].
///
/// `EINVAL`: `O_CREAT` with `O_DIRECTORY`, or `O_TMPFILE` without write access. With `O_CREAT`: `EISDIR` (a slash after the
/// name, or a directory), `EEXIST` (`O_EXCL`), `EROFS` and `EACCES` of the directory. `ENOTDIR` (`O_DIRECTORY`). `ELOOP` (a
/// symbolic link with `O_NOFOLLOW`). `EISDIR` (a directory for writing). `EACCES` (a device on a `nodev` mount, or refused by
/// the mode). `EPERM` (`O_NOATIME` by another than the owner). `EROFS`. `ETXTBSY` (a program that runs, for writing). `ENXIO` (a socket). `EOPNOTSUPP` (no `O_TMPFILE`
/// here). Nothing is asked of the target with `O_PATH`.
pub fn open(
    ctx: &WalkContext<'_>,
    name: &[u8],
    flags: u32,
    mode: u32,
    resolve: LookupFlags,
) -> Result<OpenResult> {
    let mut flags = flags;
    if flags & O_PATH != 0 {
        flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    }
    if flags & (O_CREAT | O_DIRECTORY) == O_CREAT | O_DIRECTORY {
        return Err(Errno::EINVAL);
    }
    if flags & O_TMPFILE_BIT != 0 && (flags & O_DIRECTORY == 0 || acc_mode(flags) & MAY_WRITE == 0) {
        return Err(Errno::EINVAL);
    }
    let mut lookup = resolve;
    if flags & O_DIRECTORY != 0 {
        lookup |= LookupFlags::DIRECTORY;
    }
    let exclusive = flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL;
    if flags & O_NOFOLLOW == 0 && !exclusive {
        lookup |= LookupFlags::FOLLOW;
    }
    if lookup.contains(LookupFlags::CACHED) && flags & (O_TRUNC | O_CREAT | O_TMPFILE_BIT) != 0 {
        return Err(Errno::EAGAIN);
    }
    if flags & O_PATH != 0 {
        let path = path_lookup(ctx, name, lookup)?;
        return Ok(OpenResult { path, opened: Opened::Directory, created: false });
    }
    if flags & O_TMPFILE_BIT != 0 {
        return tmpfile(ctx, name, flags, mode, lookup);
    }
    for _ in 0..RACES {
        if let Some(result) = open_once(ctx, name, flags, mode, lookup)? {
            return Ok(result);
        }
    }
    Err(Errno::EAGAIN)
}

/// `acc_mode` of `struct open_flags`: the permissions that opening asks for. Access mode 3 asks for both.
fn acc_mode(flags: u32) -> u32 {
    let access = match flags & O_ACCMODE {
        0 => MAY_READ,
        O_WRONLY => MAY_WRITE,
        _ => MAY_READ | MAY_WRITE,
    };
    if flags & O_TRUNC != 0 { access | MAY_WRITE } else { access }
}

/// One try; `None` where the name has appeared between looking it up and creating it.
fn open_once(
    ctx: &WalkContext<'_>,
    name: &[u8],
    flags: u32,
    mode: u32,
    lookup: LookupFlags,
) -> Result<Option<OpenResult>> {
    let mut nd = Nameidata::new(ctx, name, lookup)?;
    loop {
        nd.link_path_walk()?;
        if nd.last_type != LastType::Norm {
            nd.handle_dots()?;
            break;
        }
        let found = if flags & O_CREAT == 0 {
            if nd.trailing_slash {
                nd.flags |= LookupFlags::FOLLOW | LookupFlags::DIRECTORY;
            }
            nd.lookup_last(Keep::All)?
        } else {
            if nd.trailing_slash {
                return Err(Errno::EISDIR);
            }
            match lookup_open(ctx, &nd, flags, mode)? {
                LookupOpen::Found(found) => found,
                LookupOpen::Created(result) => return Ok(Some(result)),
                LookupOpen::Raced => return Ok(None),
            }
        };
        if found.file_type() == S_IFLNK && nd.flags.contains(LookupFlags::FOLLOW) {
            nd.pick_link(&found)?;
            continue;
        }
        match found {
            Found::Dentry(dentry) => nd.step_into(dentry)?,
            Found::Inode(inode) => nd.path = Path::anonymous(&nd.path.mnt, inode),
        }
        break;
    }
    nd.path.mnt.clear_expiry_mark();
    nd.complete_walk()?;
    do_open(nd, flags).map(Some)
}

enum LookupOpen {
    Found(Found),
    Created(OpenResult),
    Raced,
}

/// The last component of an `open` with `O_CREAT`: `lookup_open`.
fn lookup_open(ctx: &WalkContext<'_>, nd: &Nameidata<'_>, flags: u32, mode: u32) -> Result<LookupOpen> {
    let (dir, name, sb) = (&nd.path, nd.last_name(), nd.path.mnt.sb());
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let _exclusive = dir.dentry.i_rwsem.write();
    match dir.dentry.lookup_locked(name, sb, Keep::All) {
        Err(Errno::ENOENT) if !sb.ops().has_fixed_names() => {}
        other => return Ok(LookupOpen::Found(other?)),
    }
    if dir.dentry.is_deleted() {
        return Err(Errno::ENOENT);
    }
    dir.mnt.want_write()?;
    watch::will_change_names(dir);
    may_create(dir, ctx.cred)?;
    let new = new_inode(ctx, dir, S_IFREG | mode & 0o7777)?;
    let open_flags = flags & !(O_CREAT | O_EXCL | O_NOFOLLOW | O_TRUNC);
    match dir.inode().create(name, new, open_flags) {
        Ok((inode, opened)) => {
            let dentry = dir.dentry.d_add(name, inode, sb);
            let path = Path { mnt: dir.mnt.clone(), dentry };
            Ok(LookupOpen::Created(OpenResult { path, opened, created: true }))
        }
        Err(Errno::EEXIST) if flags & O_EXCL == 0 => Ok(LookupOpen::Raced),
        Err(error) => Err(error),
    }
}

/// Opens what the walk has found: `do_open`.
fn do_open(nd: Nameidata<'_>, flags: u32) -> Result<OpenResult> {
    let is_dir = nd.path.dentry.is_dir();
    if flags & O_CREAT != 0 {
        if flags & O_EXCL != 0 {
            return Err(Errno::EEXIST);
        }
        if is_dir {
            return Err(Errno::EISDIR);
        }
    }
    if nd.flags.contains(LookupFlags::DIRECTORY) && !is_dir {
        return Err(Errno::ENOTDIR);
    }
    let opened = vfs_open(&nd.path, nd.cred, flags)?;
    Ok(OpenResult { path: nd.path, opened, created: false })
}

/// Opens a place already found, with the checks of `may_open`; also for opening `/proc/PID/fd/N` of an `O_PATH` handle.
pub fn vfs_open(path: &Path, cred: &WalkCred<'_>, flags: u32) -> Result<Opened> {
    let file_type = path.dentry.file_type();
    let mask = acc_mode(flags);
    let truncates = flags & O_TRUNC != 0 && file_type == S_IFREG;
    if truncates {
        path.mnt.want_write()?;
    }
    match file_type {
        S_IFLNK => return Err(Errno::ELOOP),
        S_IFDIR if mask & MAY_WRITE != 0 => return Err(Errno::EISDIR),
        S_IFCHR | S_IFBLK if !path.mnt.may_open_dev() => return Err(Errno::EACCES),
        _ => {}
    }
    debug_assert!(mask & MAY_EXEC == 0);
    path_permission(path, cred, mask)?;
    let unrestricted = cred.fowner && cred.mapped.is_none();
    if flags & O_NOATIME != 0 && !unrestricted && !cred.owner_or_capable(&path.inode().getattr()?) {
        return Err(Errno::EPERM);
    }
    match file_type {
        S_IFDIR => return Ok(Opened::Directory),
        S_IFSOCK => return Err(Errno::ENXIO),
        S_IFCHR | S_IFBLK => return Ok(Opened::Device(path.inode().getattr()?.rdev)),
        S_IFREG if mask & MAY_WRITE != 0 => {
            path.mnt.want_write()?;
            watch::will_change(&path.mnt, &path.dentry);
            get_write_access(path, cred)?;
        }
        _ => {}
    }
    let mut inode_flags = flags & !(O_CREAT | O_EXCL | O_NOFOLLOW | O_DIRECTORY);
    if !truncates {
        inode_flags &= !O_TRUNC;
    }
    if flags & O_ACCMODE == O_ACCMODE {
        // Access mode 3 allows neither reading nor writing, only ioctl; reading and writing have been checked.
        inode_flags = inode_flags & !O_ACCMODE | O_RDWR;
    }
    // `handle_truncate`. What is written later takes the bits away then, which is the embedder's to see.
    if truncates {
        watch::will_change(&path.mnt, &path.dentry);
        file_remove_privs(&path.dentry, cred)?;
    }
    path.inode().open(inode_flags)
}

/// `do_tmpfile`
fn tmpfile(
    ctx: &WalkContext<'_>,
    name: &[u8],
    flags: u32,
    mode: u32,
    lookup: LookupFlags,
) -> Result<OpenResult> {
    let path = path_lookup(ctx, name, lookup | LookupFlags::DIRECTORY)?;
    path.mnt.want_write()?;
    path_permission(&path, ctx.cred, MAY_WRITE | MAY_EXEC)?;
    let new = new_inode(ctx, &path, S_IFREG | mode & 0o7777)?;
    let opened = path.inode().tmpfile(new, flags & !(O_CREAT | O_NOFOLLOW | O_TRUNC))?;
    Ok(OpenResult { path, opened, created: true })
}
