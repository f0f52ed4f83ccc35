//! Cgroup namespaces (`cgroup_namespaces(7)`): the root of what `/proc/PID/cgroup` shows.
//!
//! In this version a namespace of this kind has an identity, an owner and a count; what it isolates is not modelled yet.

use std::sync::Arc;

use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;

/// A namespace of this kind.
pub struct CgroupNamespace {
    common: NsCommon,
}
impl_ns!(CgroupNamespace);

impl CgroupNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>) -> Arc<CgroupNamespace> {
        Arc::new(CgroupNamespace { common: NsCommon::new(NsKind::Cgroup, inum, Some(owner)) })
    }
}
