//! Flags of a mount: `MNT_*` (`include/linux/mount.h`).

bitflags::bitflags! {
    /// Flags of a mount: `MNT_*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MountFlags: u32 {
        /// Set-user-ID bits and file capabilities count for nothing.
        const NOSUID = 0x01;
        /// Device nodes cannot be opened.
        const NODEV = 0x02;
        /// Nothing can be executed.
        const NOEXEC = 0x04;
        /// Access times are not kept.
        const NOATIME = 0x08;
        /// Access times of directories are not kept.
        const NODIRATIME = 0x10;
        /// Access times are kept where they tell something.
        const RELATIME = 0x20;
        /// Nothing can be changed through this mount.
        const READONLY = 0x40;
        /// Symbolic links are not followed.
        const NOSYMFOLLOW = 0x80;
        /// Cannot be bound elsewhere.
        const UNBINDABLE = 0x2000;
        /// `MNT_LOCK_ATIME`
        const LOCK_ATIME = 0x04_0000;
        /// `MNT_LOCK_NOEXEC`
        const LOCK_NOEXEC = 0x08_0000;
        /// `MNT_LOCK_NOSUID`
        const LOCK_NOSUID = 0x10_0000;
        /// `MNT_LOCK_NODEV`
        const LOCK_NODEV = 0x20_0000;
        /// `MNT_LOCK_READONLY`
        const LOCK_READONLY = 0x40_0000;
        /// Came with a namespace of a more privileged user: cannot be unmounted on its own.
        const LOCKED = 0x80_0000;
        /// `MNT_SYNC_UMOUNT`: unmounted when nobody used it, not lazily.
        const SYNC_UMOUNT = 0x200_0000;
        /// `MNT_UMOUNT`: has been, or is being, unmounted.
        const UMOUNT = 0x800_0000;
    }
}

impl MountFlags {
    /// What a copy of a mount does not inherit: `MNT_INTERNAL_FLAGS`.
    pub(super) const INTERNAL: MountFlags =
        MountFlags::LOCKED.union(MountFlags::SYNC_UMOUNT).union(MountFlags::UMOUNT);

    /// `MNT_ATIME_MASK`
    pub(super) const ATIME: MountFlags =
        MountFlags::NOATIME.union(MountFlags::NODIRATIME).union(MountFlags::RELATIME);

    /// The flags a user sets.
    pub const USER_SETTABLE: MountFlags = MountFlags::from_bits_truncate(0xff);

    /// The flags that the `MS_*` bits of `mount(2)` ask for: `relatime` unless another treatment of access times is
    /// asked for (`path_mount`).
    pub fn from_ms(ms: u64) -> MountFlags {
        const MS_STRICTATIME: u64 = 1 << 24;
        let mut flags = MountFlags::empty();
        for (bit, flag) in [
            (1, MountFlags::READONLY),
            (1 << 1, MountFlags::NOSUID),
            (1 << 2, MountFlags::NODEV),
            (1 << 3, MountFlags::NOEXEC),
            (1 << 8, MountFlags::NOSYMFOLLOW),
            (1 << 10, MountFlags::NOATIME),
            (1 << 11, MountFlags::NODIRATIME),
        ] {
            if ms & bit != 0 {
                flags |= flag;
            }
        }
        if ms & MS_STRICTATIME != 0 {
            flags -= MountFlags::NOATIME;
        } else if !flags.contains(MountFlags::NOATIME) {
            flags |= MountFlags::RELATIME;
        }
        flags
    }

    /// Whether set-user-ID bits count for nothing.
    pub fn nosuid(self) -> bool {
        self.contains(MountFlags::NOSUID)
    }

    /// Whether device nodes cannot be opened.
    pub fn nodev(self) -> bool {
        self.contains(MountFlags::NODEV)
    }

    /// Whether nothing can be executed.
    pub fn noexec(self) -> bool {
        self.contains(MountFlags::NOEXEC)
    }

    /// Whether symbolic links are not followed.
    pub fn nosymfollow(self) -> bool {
        self.contains(MountFlags::NOSYMFOLLOW)
    }
}
