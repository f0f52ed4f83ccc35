//! Cgroup namespaces (`cgroup_namespaces(7)`): the group that its tasks see as the root, in `/proc/PID/cgroup`, in mountinfo and
//! as what a new mount of the hierarchy shows.

use std::sync::Arc;

use super::Cgroup;
use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;

/// `struct cgroup_namespace`
pub struct CgroupNamespace {
    common: NsCommon,
    root: Arc<Cgroup>,
    initial: bool,
}
impl_ns!(CgroupNamespace);

impl CgroupNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>, root: Arc<Cgroup>) -> Arc<CgroupNamespace> {
        let common = NsCommon::new(NsKind::Cgroup, inum, Some(owner));
        Arc::new(CgroupNamespace { common, root, initial: false })
    }

    /// `init_cgroup_ns`
    pub(crate) fn initial(inum: u64, owner: Arc<UserNamespace>, root: Arc<Cgroup>) -> Arc<CgroupNamespace> {
        let common = NsCommon::new(NsKind::Cgroup, inum, Some(owner));
        Arc::new(CgroupNamespace { common, root, initial: true })
    }

    /// Whether it is the initial one, for which the boundaries of delegation are none.
    pub fn is_initial(&self) -> bool {
        self.initial
    }

    /// The group its creator was in (`root_cset`).
    pub fn root(&self) -> &Arc<Cgroup> {
        &self.root
    }
}
