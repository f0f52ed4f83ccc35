//! Extended attributes with which overlayfs marks what is in a layer, and how a guest sees attributes of that name.

use nomina_kernel::vfs::{Inode, Path, S_IFCHR, S_IFREG, attr, xattr};
use nomina_kernel::{Errno, Result};

use super::layers::Mounter;

/// On a directory: `y`, nothing of the layers below shows; `x`, zero-size files in it may be whiteouts.
pub(crate) const OPAQUE: &str = "opaque";
/// On a directory: what it was called below, as a name in the same directory or a path from the layer's root. On a
/// metadata copy: where its data is.
pub(crate) const REDIRECT: &str = "redirect";
/// On a file: only attributes were copied up.
pub(crate) const METACOPY: &str = "metacopy";
/// On a zero-size file: a whiteout, where the directory is marked `x`.
pub(crate) const WHITEOUT: &str = "whiteout";
/// Directory in the work directory that says what must not be mounted again.
pub(crate) const INCOMPAT: &[u8] = b"incompat";

/// In which name space the marks are.
#[derive(Clone, Copy)]
pub(crate) struct Marks {
    /// `user.overlay.` rather than `trusted.overlay.`.
    pub user: bool,
}

impl Marks {
    fn prefix(self) -> &'static [u8] {
        if self.user { b"user.overlay." } else { b"trusted.overlay." }
    }

    fn name(self, mark: &str) -> Vec<u8> {
        [self.prefix(), mark.as_bytes()].concat()
    }

    /// The value of a mark, `None` where there is none.
    pub fn get(self, path: &Path, mounter: &Mounter, mark: &str) -> Result<Option<Vec<u8>>> {
        match mounter.with(|cred| xattr::vfs_getxattr(path, cred, &self.name(mark))) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a mark.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `EPERM`: the layer has no such attributes, or they are not the mounter's to set.
    pub fn set(self, path: &Path, mounter: &Mounter, mark: &str, value: &[u8]) -> Result<()> {
        mounter.with(|cred| xattr::vfs_setxattr(path, cred, &self.name(mark), value, 0))
    }

    /// Removes a mark; no error where there is none.
    pub fn remove(self, path: &Path, mounter: &Mounter, mark: &str) -> Result<()> {
        match mounter.with(|cred| xattr::vfs_removexattr(path, cred, &self.name(mark))) {
            Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM) => Ok(()),
            other => other,
        }
    }

    /// Whether an object of a layer stands for a deleted name: `ovl_path_is_whiteout`. For files with the mark of a whiteout it
    /// does not matter here whether their directory is marked as one that has some; for listing it does.
    pub fn is_whiteout(self, path: &Path, mounter: &Mounter) -> Result<bool> {
        match path.dentry.file_type() {
            S_IFCHR => Ok(path.inode().getattr()?.rdev == 0),
            S_IFREG if attr::vfs_getattr(path)?.size == 0 => Ok(self.get(path, mounter, WHITEOUT)?.is_some()),
            _ => Ok(false),
        }
    }

    /// The layer's name of a guest's attribute. A guest's own attributes of the overlay's name space get a further
    /// `overlay.`, so that overlays can be made on overlays ("Nesting overlayfs mounts").
    pub fn to_real(self, name: &[u8]) -> Vec<u8> {
        match name.strip_prefix(self.prefix()) {
            Some(rest) => [self.prefix(), b"overlay.", rest].concat(),
            None => name.to_vec(),
        }
    }

    /// The guest's name of a layer's attribute; `None` for a mark.
    pub fn to_guest(self, name: &[u8]) -> Option<Vec<u8>> {
        match name.strip_prefix(self.prefix()) {
            Some(rest) => Some([self.prefix(), rest.strip_prefix(b"overlay.")?].concat()),
            None => Some(name.to_vec()),
        }
    }

    /// Copies the extended attributes of an object that a copy has as well: `ovl_copy_xattr`.
    ///
    /// # Errors
    /// Those of the upper file system; attributes it does not have at all are left out.
    pub fn copy_all(self, from: &dyn Inode, to: &dyn Inode) -> Result<()> {
        for name in from.listxattr()?.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            if self.to_guest(name).is_none() {
                continue;
            }
            match from.getxattr(name) {
                Ok(value) => match to.setxattr(name, &value, 0) {
                    Err(Errno::EOPNOTSUPP) => {}
                    other => other?,
                },
                Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_name_a_mark_but_can_nest_overlays() {
        let marks = Marks { user: false };
        let name = b"trusted.overlay.opaque";
        assert_eq!(marks.to_real(name), b"trusted.overlay.overlay.opaque");
        assert_eq!(marks.to_guest(&marks.to_real(name)).unwrap(), name);
        assert_eq!(marks.to_guest(name), None);
        assert_eq!(marks.to_real(b"user.overlay.opaque"), b"user.overlay.opaque");
        assert_eq!(Marks { user: true }.to_real(b"user.a"), b"user.a");
    }
}
