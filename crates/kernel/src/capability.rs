//! Capabilities (`capabilities(7)`): the units root's power is divided into, and sets of them (`kernel_cap_t`).

use std::fmt;
use std::sync::Arc;

use crate::errno::{Errno, Result};
use crate::user_namespace::UserNamespace;

/// One capability, such as [`Cap::SYS_ADMIN`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cap(u8);

macro_rules! caps {
    ($($name:ident = $nr:literal, $text:literal;)*) => {
        impl Cap {
            $(#[doc = concat!("`", $text, "`.")] pub const $name: Cap = Cap($nr);)*
            /// The name as `capabilities(7)` and libcap write it in lower case, such as `cap_sys_admin`.
            pub fn name(self) -> &'static str {
                match self.0 { $($nr => $text,)* _ => unreachable!("Cap is only made of valid numbers") }
            }
        }
    };
}

caps! {
    CHOWN = 0, "cap_chown";
    DAC_OVERRIDE = 1, "cap_dac_override";
    DAC_READ_SEARCH = 2, "cap_dac_read_search";
    FOWNER = 3, "cap_fowner";
    FSETID = 4, "cap_fsetid";
    KILL = 5, "cap_kill";
    SETGID = 6, "cap_setgid";
    SETUID = 7, "cap_setuid";
    SETPCAP = 8, "cap_setpcap";
    LINUX_IMMUTABLE = 9, "cap_linux_immutable";
    NET_BIND_SERVICE = 10, "cap_net_bind_service";
    NET_BROADCAST = 11, "cap_net_broadcast";
    NET_ADMIN = 12, "cap_net_admin";
    NET_RAW = 13, "cap_net_raw";
    IPC_LOCK = 14, "cap_ipc_lock";
    IPC_OWNER = 15, "cap_ipc_owner";
    SYS_MODULE = 16, "cap_sys_module";
    SYS_RAWIO = 17, "cap_sys_rawio";
    SYS_CHROOT = 18, "cap_sys_chroot";
    SYS_PTRACE = 19, "cap_sys_ptrace";
    SYS_PACCT = 20, "cap_sys_pacct";
    SYS_ADMIN = 21, "cap_sys_admin";
    SYS_BOOT = 22, "cap_sys_boot";
    SYS_NICE = 23, "cap_sys_nice";
    SYS_RESOURCE = 24, "cap_sys_resource";
    SYS_TIME = 25, "cap_sys_time";
    SYS_TTY_CONFIG = 26, "cap_sys_tty_config";
    MKNOD = 27, "cap_mknod";
    LEASE = 28, "cap_lease";
    AUDIT_WRITE = 29, "cap_audit_write";
    AUDIT_CONTROL = 30, "cap_audit_control";
    SETFCAP = 31, "cap_setfcap";
    MAC_OVERRIDE = 32, "cap_mac_override";
    MAC_ADMIN = 33, "cap_mac_admin";
    SYSLOG = 34, "cap_syslog";
    WAKE_ALARM = 35, "cap_wake_alarm";
    BLOCK_SUSPEND = 36, "cap_block_suspend";
    AUDIT_READ = 37, "cap_audit_read";
    PERFMON = 38, "cap_perfmon";
    BPF = 39, "cap_bpf";
    CHECKPOINT_RESTORE = 40, "cap_checkpoint_restore";
}

impl Cap {
    /// `CAP_LAST_CAP`: what `/proc/sys/kernel/cap_last_cap` shows.
    pub const LAST: Cap = Cap::CHECKPOINT_RESTORE;

    /// The capability with this number, `None` beyond [`Cap::LAST`] (`cap_valid`).
    pub fn new(nr: u64) -> Option<Cap> {
        (nr <= u64::from(Self::LAST.0)).then_some(Cap(nr as u8))
    }

    /// Its number.
    pub fn nr(self) -> u8 {
        self.0
    }
}

impl fmt::Debug for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct CapSet(u64);

impl CapSet {
    /// None.
    pub const EMPTY: CapSet = CapSet(0);
    /// All up to [`Cap::LAST`].
    pub const FULL: CapSet = CapSet((1 << (Cap::LAST.0 + 1)) - 1);
    /// Those that bear on file ownership and permissions (`CAP_FS_SET`): dropped and raised with the fsuid.
    pub const FS: CapSet = CapSet(
        1 << Cap::CHOWN.0
            | 1 << Cap::MKNOD.0
            | 1 << Cap::DAC_OVERRIDE.0
            | 1 << Cap::DAC_READ_SEARCH.0
            | 1 << Cap::FOWNER.0
            | 1 << Cap::FSETID.0
            | 1 << Cap::LINUX_IMMUTABLE.0
            | 1 << Cap::MAC_OVERRIDE.0,
    );

    /// The set with these bits; bits beyond [`Cap::LAST`] are dropped, as `capset(2)` does.
    pub const fn from_bits(bits: u64) -> CapSet {
        CapSet(bits & Self::FULL.0)
    }
    /// The bits, as `/proc/PID/status` prints them.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// Whether `cap` is in the set.
    pub const fn has(self, cap: Cap) -> bool {
        self.0 & (1 << cap.0) != 0
    }
    /// The set with `cap`.
    #[must_use]
    pub const fn with(self, cap: Cap) -> CapSet {
        CapSet(self.0 | 1 << cap.0)
    }
    /// The set without `cap`.
    #[must_use]
    pub const fn without(self, cap: Cap) -> CapSet {
        CapSet(self.0 & !(1 << cap.0))
    }
    /// What is in both.
    #[must_use]
    pub const fn and(self, other: CapSet) -> CapSet {
        CapSet(self.0 & other.0)
    }
    /// What is in either.
    #[must_use]
    pub const fn or(self, other: CapSet) -> CapSet {
        CapSet(self.0 | other.0)
    }
    /// What is here but not in `other`.
    #[must_use]
    pub const fn minus(self, other: CapSet) -> CapSet {
        CapSet(self.0 & !other.0)
    }
    /// Whether every member is in `other`.
    pub const fn is_subset(self, other: CapSet) -> bool {
        self.0 & !other.0 == 0
    }
    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// The members in order.
    pub fn iter(self) -> impl Iterator<Item = Cap> {
        (0..=Cap::LAST.0).map(Cap).filter(move |cap| self.has(*cap))
    }
}

impl fmt::Debug for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::FULL { f.write_str("{all}") } else { f.debug_set().entries(self.iter()).finish() }
    }
}

/// Capabilities of an executable file: the decoded extended attribute `security.capability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VfsCaps {
    /// Added to the permitted set, within the bounding set.
    pub permitted: CapSet,
    /// Added to the permitted set where the task's inheritable set has them too.
    pub inheritable: CapSet,
    /// Whether the new permitted set is effective at once.
    pub effective: bool,
    /// The id (a kernel id) that must be root of the task's user namespace or of an ancestor for the rest to count.
    pub rootid: u32,
}

const VFS_CAP_REVISION_MASK: u32 = 0xff00_0000;
const VFS_CAP_REVISION_1: u32 = 0x0100_0000;
const VFS_CAP_REVISION_2: u32 = 0x0200_0000;
const VFS_CAP_REVISION_3: u32 = 0x0300_0000;
const VFS_CAP_FLAGS_EFFECTIVE: u32 = 1;

impl VfsCaps {
    /// Decodes the attribute (`struct vfs_ns_cap_data`). `EINVAL` when size and revision do not fit together.
    pub fn parse(xattr: &[u8]) -> Result<VfsCaps> {
        if !xattr.len().is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let words: Vec<u64> =
            xattr.chunks_exact(4).map(|c| u64::from(u32::from_le_bytes([c[0], c[1], c[2], c[3]]))).collect();
        let magic = *words.first().ok_or(Errno::EINVAL)? as u32;
        let (permitted, inheritable, rootid) = match (magic & VFS_CAP_REVISION_MASK, words.len()) {
            (VFS_CAP_REVISION_1, 3) => (words[1], words[2], 0),
            (VFS_CAP_REVISION_2, 5) => (words[1] | words[3] << 32, words[2] | words[4] << 32, 0),
            (VFS_CAP_REVISION_3, 6) => {
                (words[1] | words[3] << 32, words[2] | words[4] << 32, words[5] as u32)
            }
            _ => return Err(Errno::EINVAL),
        };
        Ok(VfsCaps {
            permitted: CapSet::from_bits(permitted),
            inheritable: CapSet::from_bits(inheritable),
            effective: magic & VFS_CAP_FLAGS_EFFECTIVE != 0,
            rootid,
        })
    }
}

/// A value of `security.capability` as a reader in `user_ns` sees it (`cap_inode_getsecurity`): of revision 3 where its root has a
/// number there other than 0, of revision 2 where it is root there or around. Anything malformed is shown as it is.
///
/// # Errors
/// `EOVERFLOW` for capabilities of a user namespace the reader is not in.
pub fn shown_capability(value: Vec<u8>, user_ns: &Arc<UserNamespace>) -> Result<Vec<u8>> {
    let Ok(caps) = VfsCaps::parse(&value) else { return Ok(value) };
    if value.len() < 20 {
        return Ok(value);
    }
    let mut value = value[..20].to_vec();
    match user_ns.from_kuid(caps.rootid) {
        Some(root) if root != 0 => {
            value[3] = 3;
            value.extend(root.to_le_bytes());
        }
        _ if owns(user_ns, caps.rootid) => value[3] = 2,
        _ => return Err(Errno::EOVERFLOW),
    }
    Ok(value)
}

/// A value of `security.capability` as it is kept when somebody in `user_ns` writes it (`cap_convert_nscap`): what who has no
/// CAP_SETFCAP where the file system belongs (`privileged`) gives away counts below that user namespace's root only.
///
/// # Errors
/// `EINVAL` for a root without a number.
pub fn kept_capability(value: Vec<u8>, user_ns: &UserNamespace, privileged: bool) -> Result<Vec<u8>> {
    let root = match (value.len(), value.get(3)) {
        (20, Some(2)) if privileged => return Ok(value),
        (20, Some(2)) => 0,
        (24, Some(3)) => u32::from_le_bytes([value[20], value[21], value[22], value[23]]),
        // Refused later.
        _ => return Ok(value),
    };
    let root = user_ns.make_kuid(root).ok_or(Errno::EINVAL)?;
    let mut kept = value[..20].to_vec();
    kept[3] = 3;
    kept.extend(root.to_le_bytes());
    Ok(kept)
}

/// `rootid_owns_currentns`: whether the id is root of the user namespace or of one around it.
pub(crate) fn owns(user_ns: &Arc<UserNamespace>, rootid: u32) -> bool {
    let mut ns = Some(user_ns);
    while let Some(at) = ns {
        if at.from_kuid(rootid) == Some(0) {
            return true;
        }
        ns = at.parent();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_set_is_what_a_root_shell_shows_in_proc_status() {
        assert_eq!(CapSet::FULL.bits(), 0x1ff_ffff_ffff);
        assert_eq!(CapSet::FULL.iter().count(), 41);
        assert_eq!(Cap::new(41), None);
    }

    #[test]
    fn setcap_net_raw_ep_decodes() {
        let xattr = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let caps = VfsCaps::parse(&xattr).unwrap();
        assert_eq!(caps.permitted, CapSet::EMPTY.with(Cap::NET_RAW));
        assert!(caps.effective);
        assert_eq!(VfsCaps::parse(&xattr[..16]), Err(Errno::EINVAL));
    }
}
