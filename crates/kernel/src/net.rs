//! Network namespaces (`network_namespaces(7)`): devices, addresses, routes, sockets.
//!
//! In this version a namespace of this kind has an identity, an owner and a count; what it isolates is not modelled yet.

use std::sync::Arc;

use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;

/// A namespace of this kind.
pub struct NetNamespace {
    common: NsCommon,
}
impl_ns!(NetNamespace);

impl NetNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>) -> Arc<NetNamespace> {
        Arc::new(NetNamespace { common: NsCommon::new(NsKind::Net, inum, Some(owner)) })
    }
}
