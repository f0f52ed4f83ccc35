//! IPC namespaces (`ipc_namespaces(7)`): System V IPC objects and POSIX message queues.
//!
//! In this version a namespace of this kind has an identity, an owner and a count; what it isolates is not modelled yet.

use std::sync::Arc;

use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;

/// A namespace of this kind.
pub struct IpcNamespace {
    common: NsCommon,
}
impl_ns!(IpcNamespace);

impl IpcNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>) -> Arc<IpcNamespace> {
        Arc::new(IpcNamespace { common: NsCommon::new(NsKind::Ipc, inum, Some(owner)) })
    }
}
