//! Time namespaces (`time_namespaces(7)`): offsets of the boot and monotonic clocks.
//!
//! In this version a namespace of this kind has an identity, an owner and a count; what it isolates is not modelled yet.

use std::sync::Arc;

use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;

/// A namespace of this kind.
pub struct TimeNamespace {
    common: NsCommon,
}
impl_ns!(TimeNamespace);

impl TimeNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>) -> Arc<TimeNamespace> {
        Arc::new(TimeNamespace { common: NsCommon::new(NsKind::Time, inum, Some(owner)) })
    }
}
