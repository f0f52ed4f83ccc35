//! UTS namespaces (`uts_namespaces(7)`): the host name and the NIS domain name that `uname(2)` reports. The other fields of
//! `struct utsname` do not differ between namespaces and are not kept here.

use std::sync::{Arc, Mutex, PoisonError};

use crate::ns_common::{NsCommon, NsKind, impl_ns};
use crate::user_namespace::UserNamespace;

/// Longest host or domain name, without the final NUL (`__NEW_UTS_LEN`).
pub const NEW_UTS_LEN: usize = 64;

/// The names of a UTS namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UtsName {
    /// Host name.
    pub nodename: Vec<u8>,
    /// NIS domain name.
    pub domainname: Vec<u8>,
}

/// A UTS namespace.
pub struct UtsNamespace {
    common: NsCommon,
    /// A leaf lock: nothing else is taken while it is held.
    names: Mutex<UtsName>,
}
impl_ns!(UtsNamespace);

impl UtsNamespace {
    pub(crate) fn new(inum: u64, owner: Arc<UserNamespace>, names: UtsName) -> Arc<UtsNamespace> {
        Arc::new(UtsNamespace {
            common: NsCommon::new(NsKind::Uts, inum, Some(owner)),
            names: Mutex::new(names),
        })
    }
    /// A copy of the names.
    pub fn names(&self) -> UtsName {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub(crate) fn update(&self, change: impl FnOnce(&mut UtsName)) {
        change(&mut self.names.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
