//! Structures of System V IPC as bytes (x86-64).

use nomina_kernel::ipc::msg::{MsgInfo, MsgLimits};
use nomina_kernel::ipc::sem::{SemInfo, SemLimits};
use nomina_kernel::ipc::shm::{ShmInfo, ShmLimits};
use nomina_kernel::ipc::util::KernIpcPerm;

/// Bytes to which numbers are added.
#[derive(Default)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    /// Adds an `int` or `unsigned int`.
    pub fn int(&mut self, value: i32) -> &mut Fields {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    /// Adds a `long` or `unsigned long`.
    pub fn long(&mut self, value: u64) -> &mut Fields {
        self.0.extend_from_slice(&value.to_ne_bytes());
        self
    }
    /// Adds `struct ipc64_perm`.
    pub fn perm(&mut self, perm: &KernIpcPerm) -> &mut Fields {
        let ids = [perm.uid, perm.gid, perm.cuid, perm.cgid, perm.mode];
        self.int(perm.key);
        ids.iter().for_each(|&id| {
            self.int(id as i32);
        });
        self.int(i32::from(perm.seq)).int(0).long(0).long(0)
    }
}

/// `struct shminfo64`.
pub fn shminfo(limits: &ShmLimits) -> Vec<u8> {
    let mut fields = Fields::default();
    let shmmni = limits.shmmni as u64;
    fields.long(limits.shmmax).long(1).long(shmmni).long(shmmni).long(limits.shmall);
    (0..4).for_each(|_| {
        fields.long(0);
    });
    fields.0
}

/// `struct shm_info`.
pub fn shm_info(info: &ShmInfo, rss: u64) -> Vec<u8> {
    let mut fields = Fields::default();
    fields.int(info.used as i32).int(0).long(info.pages).long(rss).long(0).long(0).long(0);
    fields.0
}

/// `struct seminfo`, for `IPC_INFO` or, with `used`, for `SEM_INFO`.
pub fn seminfo(info: &SemInfo, used: bool) -> Vec<u8> {
    const SEMMNS: i32 = 1_024_000_000;
    const SEMUME: i32 = 500;
    const SEMUSZ: i32 = 20;
    const SEMAEM: i32 = 32767;
    let SemLimits { semmsl, semmns, semopm, semmni } = info.limits;
    let (semusz, semaem) = if used { (info.arrays as i32, info.used) } else { (SEMUSZ, SEMAEM) };
    let mut fields = Fields::default();
    fields.int(SEMMNS).int(semmni).int(semmns).int(SEMMNS).int(semmsl).int(semopm);
    fields.int(SEMUME).int(semusz).int(nomina_kernel::ipc::sem::SEMVMX).int(semaem);
    fields.0
}

/// `struct msginfo`, for `IPC_INFO` or, with `used`, for `MSG_INFO`.
pub fn msginfo(info: &MsgInfo, used: bool) -> Vec<u8> {
    const MSGMNB: i32 = 16384;
    const MSGMNI: i32 = 32000;
    const MSGSSZ: i32 = 16;
    const MSGSEG: i32 = 0xffff;
    let MsgLimits { msgmax, msgmnb, msgmni } = info.limits;
    let (pool, map, tql) = if used {
        (info.queues as i32, info.messages as i32, info.bytes as i32)
    } else {
        (MSGMNI * (MSGMNB / 1024), MSGMNB, MSGMNB)
    };
    let mut fields = Fields::default();
    fields.int(pool).int(map).int(msgmax).int(msgmnb).int(msgmni).int(MSGSSZ).int(tql).int(MSGSEG);
    fields.0
}
