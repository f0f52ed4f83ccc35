//! The process side of mount namespaces: who owns one and how many nsproxies point to it. The mounts themselves are
//! [`crate::mount`]'s.

use std::sync::Arc;

use crate::mount::MntNamespace;
use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;
use crate::vfs::{FsStruct, Path};

/// A mount namespace as tasks hold it.
pub struct MntNs {
    common: NsCommon,
    mounts: Arc<MntNamespace>,
}
impl_ns!(MntNs);

impl MntNs {
    pub(crate) fn new(owner: Arc<UserNamespace>, mounts: Arc<MntNamespace>) -> Arc<MntNs> {
        mounts.set_user_ns(owner.clone());
        // Mount namespaces are numbered where their trees are made.
        Arc::new(MntNs { common: NsCommon::new(NsKind::Mnt, mounts.ino(), Some(owner)), mounts })
    }
    /// The mount tree.
    pub fn mounts(&self) -> &Arc<MntNamespace> {
        &self.mounts
    }
}

/// Where root and working directory go on entering the namespace: on top of everything mounted at its root. `None` when
/// even that has been unmounted.
pub(crate) fn root_path(mounts: &MntNamespace) -> Option<Path> {
    mounts.root().map(|root| Path::mount_root(&root))
}

/// Whether the root directory of `fs` is not the root of the mount namespace (`current_chrooted`).
pub(crate) fn is_chrooted(mounts: &MntNamespace, fs: &FsStruct) -> bool {
    root_path(mounts).is_none_or(|root| root != fs.root)
}
