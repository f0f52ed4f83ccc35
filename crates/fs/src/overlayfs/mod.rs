//! overlayfs as guests mount it: `mount -t overlay -o lowerdir=…,upperdir=…,workdir=…`, on directories of the sandbox.
//!
//! In Linux overlayfs is a file system over other mounted ones, and so it is here: a layer is a place in a mount tree
//! inside (tmpfs, a bind mount, the root, another overlay), and every operation on it is the ordinary one of the file
//! switch, made with the credentials of who mounted (`override_creds`). What is written to the upper directory is what
//! Linux's overlayfs writes: whiteouts are character devices 0/0, marks are `trusted.overlay.*` or, with `userxattr`,
//! `user.overlay.*`. So an upper directory made here can be packed up and used by Linux, and the other way round.
//!
//! This is not [`crate::overlay`], which makes the sandbox's root from directories of the *host*, where an ordinary user
//! can make neither devices nor `trusted.*`.
//!
//! Where ours differs from Linux's:
//! - Handles are those of the layers' files, and nothing about a handle tells whether it was opened through the overlay
//!   or through the layer. So files (not directories) have the device and inode numbers of the layer
//!   they are in, as overlayfs has them without `xino` on several file systems; they change when a file is copied up.
//! - `index`, `nfs_export` and `verity` are never in effect: they are accepted and fall back to `off`, as Linux does where
//!   the upper file system cannot encode file handles. `xino=on` is ignored, as where all layers are on one file system.
//! - `metacopy=on` is accepted and copies data up at once, as where the upper file system has no extended attributes. Upper
//!   and lower files that are metadata copies (made by Linux) are read as such.

mod copy_up;
mod dir;
mod inode;
mod layers;
mod namei;
mod params;
mod readdir;
#[cfg(test)]
mod tests;
mod xattrs;

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use nomina_kernel::mount::clone_private_mount;
use nomina_kernel::vfs::d_path::dentry_path;
use nomina_kernel::vfs::{Inode, Path, S_IFDIR, StatFs, SuperBlock, attr};
use nomina_kernel::{Errno, Result};

pub use self::inode::OvlInode;
pub use self::layers::Mounter;
use self::layers::{Layer, RealDir, Workdir};
pub use self::params::{OvlParams, Redirect};
use self::xattrs::{Marks, OPAQUE};

/// `OVERLAYFS_SUPER_MAGIC`
const OVERLAYFS_SUPER_MAGIC: u64 = 0x794c_7630;
/// `FILESYSTEM_MAX_STACK_DEPTH`: an overlay on an overlay is possible, a third one is not.
const MAX_STACK_DEPTH: u32 = 2;

/// Locks a mutex; what they guard is replaced in single steps.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all inodes of one overlay share: `struct ovl_fs`.
///
/// Lock order: an inode's `copying`, then `tree`, then an inode's `state`. Under them only locks of the file systems below
/// are taken, which are never this one's.
pub(crate) struct OvlFs {
    pub params: OvlParams,
    pub marks: Marks,
    pub mounter: Mounter,
    /// The upper layer's root, where there is one.
    pub upper: Option<Path>,
    /// Where objects are prepared that are then moved into the upper layer.
    pub work: Option<Workdir>,
    /// Lower layers, the uppermost first.
    pub layers: Vec<Layer>,
    /// `st_dev` of directories.
    pub dev: u64,
    /// File systems of the layers, in the order met.
    devs: Mutex<Vec<u64>>,
    /// Names and layers: read to look at them, written to change them. Never held while data is copied.
    tree: RwLock<()>,
    next: AtomicU64,
}

impl OvlFs {
    pub fn read(&self) -> RwLockReadGuard<'_, ()> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, ()> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name in the work directory that nobody uses.
    pub fn temp_name(&self) -> Vec<u8> {
        format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed)).into_bytes()
    }
}

/// A mounted overlay: `struct super_block` of overlayfs.
pub struct OvlSuper {
    fs: Arc<OvlFs>,
    root: Arc<OvlInode>,
    depth: u32,
}

impl OvlSuper {
    /// Puts the layers together: `ovl_fill_super`. `params` has been checked by [`OvlParams::finish`]; `dev` is the number of
    /// the new file system. Whether it must be mounted read-only says [`OvlSuper::is_readonly`].
    ///
    /// # Errors
    /// `EINVAL`: upper and work directory are on different mounts, one inside the other, or the upper directory was last used
    /// with `volatile`; the upper directory is on an overlay; too many overlays on one another. `ELOOP`: a layer is inside another one. `EROFS`: the upper
    /// directory's mount is read-only. Errors of preparing the work directory.
    pub fn new(mut params: OvlParams, mounter: Mounter, dev: u64) -> Result<Arc<OvlSuper>> {
        check_overlaps(&params)?;
        let mut depth = 0;
        for path in params.all_dirs() {
            let below = path.mnt.sb().ops().as_any().downcast_ref::<OvlSuper>();
            depth = depth.max(below.map_or(0, |below| below.depth));
        }
        let on_overlay =
            params.upper.as_ref().is_some_and(|upper| upper.path.mnt.sb().ops().as_any().is::<OvlSuper>());
        if depth + 1 > MAX_STACK_DEPTH || on_overlay {
            return Err(Errno::EINVAL);
        }
        let marks = Marks { user: params.userxattr };
        let (mut upper, mut work) = (None, None);
        if let (Some(upperdir), Some(workdir)) = (&params.upper, &params.work) {
            upperdir.path.mnt.want_write()?;
            // One private mount for both, so that names can be moved between them.
            let mnt = clone_private_mount(&upperdir.path)?;
            let inside = |path: &Path| Path { mnt: mnt.clone(), dentry: path.dentry.clone() };
            let top = inside(&upperdir.path);
            work = Some(Workdir::prepare(&inside(&workdir.path), &top, &mounter, marks, params.volatile)?);
            upper = Some(top);
        }
        let layers = params.lower.iter().map(|lower| {
            let mnt = clone_private_mount(&lower.path)?;
            Ok(Layer { root: Path { mnt, dentry: lower.path.dentry.clone() }, data_only: lower.data_only })
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        params.move_to(upper.as_ref(), &layers);
        let fs = Arc::new(OvlFs {
            params,
            marks,
            mounter,
            upper: upper.clone(),
            work,
            layers,
            dev,
            devs: Mutex::default(),
            tree: RwLock::new(()),
            next: AtomicU64::new(1),
        });
        let real_dir = |layer, path: &Path| {
            let opaque = marks.get(path, &fs.mounter, OPAQUE)?;
            Ok(RealDir { layer, path: path.clone(), xwhiteouts: opaque.as_deref() == Some(b"x") })
        };
        let lower = fs.layers.iter().enumerate().filter(|(_, layer)| !layer.data_only);
        let lower = lower.map(|(index, layer)| real_dir(index, &layer.root)).collect::<Result<Vec<_>>>()?;
        let upper = upper.map(|path| real_dir(0, &path)).transpose()?;
        let root = OvlInode::new(&fs, S_IFDIR, None, b"", upper, lower, None);
        Ok(Arc::new(OvlSuper { fs, root, depth: depth + 1 }))
    }

    /// The path of a host file of one of the layers, as the overlay shows it where no directory was renamed. Whether it was
    /// opened by the overlay the file does not tell.
    pub fn path_of_layer_file(&self, host: &[u8]) -> Option<Vec<u8>> {
        let roots = self.fs.upper.iter().chain(self.fs.layers.iter().map(|layer| &layer.root));
        roots.into_iter().find_map(|root| {
            let ops = root.mnt.sb().ops();
            let below = match ops.as_any().downcast_ref::<OvlSuper>() {
                Some(overlay) => overlay.path_of_layer_file(host),
                None => ops.path_of_host(host),
            };
            strip_directory(&below?, &dentry_path(&root.dentry))
        })
    }

    /// Whether nothing can be written: there is no upper directory.
    pub fn is_readonly(&self) -> bool {
        self.fs.upper.is_none()
    }
}

/// The path below the directory `top` of what is at `path`, if it is there.
fn strip_directory(path: &[u8], top: &[u8]) -> Option<Vec<u8>> {
    match path.strip_prefix(top) {
        _ if top == b"/" => Some(path.to_vec()),
        Some(b"") => Some(b"/".to_vec()),
        Some(rest) if rest.starts_with(b"/") => Some(rest.to_vec()),
        _ => None,
    }
}

/// `ovl_workdir_ok` and `ovl_check_overlapping_layers`. A lower directory may contain the upper one, but not lie in it.
fn check_overlaps(params: &OvlParams) -> Result<()> {
    let inside = |path: &Path, other: &Path| {
        Arc::ptr_eq(path.mnt.sb(), other.mnt.sb()) && path.dentry.is_subdir(&other.dentry)
    };
    if let (Some(upper), Some(work)) = (&params.upper, &params.work) {
        let apart = !inside(&upper.path, &work.path) && !inside(&work.path, &upper.path);
        if !Arc::ptr_eq(&upper.path.mnt, &work.path.mnt) || !apart {
            return Err(Errno::EINVAL);
        }
    }
    for (index, lower) in params.lower.iter().enumerate() {
        let in_upper = params.upper.iter().chain(&params.work).any(|up| inside(&lower.path, &up.path));
        let in_lower = params.lower[..index]
            .iter()
            .any(|other| inside(&lower.path, &other.path) || inside(&other.path, &lower.path));
        if in_upper || in_lower {
            return Err(Errno::ELOOP);
        }
    }
    Ok(())
}

impl SuperBlock for OvlSuper {
    fn fs_type(&self) -> &'static str {
        "overlay"
    }

    fn source(&self) -> Vec<u8> {
        b"overlay".to_vec()
    }

    fn show_options(&self) -> String {
        self.fs.params.show()
    }

    fn dev(&self) -> u64 {
        self.fs.dev
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn statfs(&self) -> Result<StatFs> {
        let path = self.fs.upper.as_ref().or_else(|| self.fs.layers.last().map(|layer| &layer.root));
        let (stat, _) = attr::vfs_statfs(path.ok_or(Errno::EIO)?)?;
        Ok(StatFs { magic: OVERLAYFS_SUPER_MAGIC, fsid: self.fs.dev, ..stat })
    }

    fn has_acls(&self) -> bool {
        true
    }

    /// As Linux: changes of a layer behind the overlay's back give undefined results.
    fn cacheable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
