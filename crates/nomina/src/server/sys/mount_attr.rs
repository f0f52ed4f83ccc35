//! Attributes of mounts as the calls of the new mount interface have them: `MOUNT_ATTR_*` (`mount_setattr(2)`).

use nomina_kernel::mount::MountFlags;

/// `MOUNT_ATTR__ATIME`
pub const ATTR_ATIME: u64 = 0x70;
const ATTR_RELATIME: u64 = 0;
const ATTR_NOATIME: u64 = 0x10;
const ATTR_STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_IDMAP`
pub const ATTR_IDMAP: u64 = 0x10_0000;

const FLAGS: [(u64, MountFlags); 6] = [
    (0x01, MountFlags::READONLY),
    (0x02, MountFlags::NOSUID),
    (0x04, MountFlags::NODEV),
    (0x08, MountFlags::NOEXEC),
    (0x80, MountFlags::NODIRATIME),
    (0x20_0000, MountFlags::NOSYMFOLLOW),
];

/// The flags of a mask of attributes, without those of access times (`attr_flags_to_mnt_flags`); `None`: an unknown one.
pub fn attr_to_flags(attr: u64) -> Option<MountFlags> {
    let known = FLAGS.iter().fold(ATTR_ATIME, |known, (bit, _)| known | bit);
    if attr & !known != 0 {
        return None;
    }
    Some(FLAGS.iter().filter(|(bit, _)| attr & bit != 0).map(|(_, flag)| *flag).collect())
}

/// The flags of a choice of access times; `None`: none of the choices.
pub fn attr_to_atime(attr: u64) -> Option<MountFlags> {
    match attr {
        ATTR_RELATIME => Some(MountFlags::RELATIME),
        ATTR_NOATIME => Some(MountFlags::NOATIME),
        ATTR_STRICTATIME => Some(MountFlags::empty()),
        _ => None,
    }
}

/// The attributes that a mount's flags are: `mnt_to_attr_flags`.
pub fn flags_to_attr(flags: MountFlags) -> u64 {
    let attr = FLAGS.iter().filter(|(_, flag)| flags.contains(*flag)).fold(0, |attr, (bit, _)| attr | bit);
    if flags.contains(MountFlags::NOATIME) {
        attr | ATTR_NOATIME
    } else if flags.contains(MountFlags::RELATIME) {
        attr | ATTR_RELATIME
    } else {
        attr | ATTR_STRICTATIME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_become_flags_and_come_back() {
        for attr in [0, 0x0f, 0x10 | 0x80, 0x20 | 0x20_0000] {
            let flags = attr_to_flags(attr).unwrap() | attr_to_atime(attr & ATTR_ATIME).unwrap();
            assert_eq!(flags_to_attr(flags), attr);
        }
        assert_eq!(attr_to_flags(0x40_0000), None);
        assert_eq!(attr_to_atime(0x30), None);
    }
}
