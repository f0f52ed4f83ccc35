//! IPC namespaces (`ipc_namespaces(7)`): System V IPC objects (`sysvipc(7)`) and POSIX message queues (`mq_overview(7)`).
//!
//! One file per concept under its name in Linux: [`namespace`] (`ipc/namespace.c`), [`util`] (ids, keys and permissions), [`shm`],
//! [`sem`], [`msg`] and [`mqueue`]. A call that cannot go on at once leaves a [`Sleeper`] in the object's queue; whoever makes it
//! possible completes it there, in the order in which the sleepers came, and wakes it. So a sleeper that is woken has its result,
//! and nobody can come in between.

pub mod mqueue;
pub mod msg;
pub mod namespace;
pub mod sem;
pub mod shm;
pub mod sleeper;
pub mod task;
pub mod util;

pub use namespace::{IpcMemory, IpcNamespace};
pub use sleeper::Sleeper;
pub use task::{IpcWait, IpcWoken};
pub use util::IpcCaller;

/// A key that is never found: a new object of one's own.
pub const IPC_PRIVATE: i32 = 0;
/// `*get(2)`: make the object when there is none with the key.
pub const IPC_CREAT: i32 = 0o1000;
/// `*get(2)`: and fail when there is one.
pub const IPC_EXCL: i32 = 0o2000;
/// Fail with `EAGAIN` rather than sleep.
pub const IPC_NOWAIT: i32 = 0o4000;

/// Permission bits for all three classes.
pub const S_IRUGO: u32 = 0o444;
/// As above, to write.
pub const S_IWUGO: u32 = 0o222;
/// As above, everything.
pub const S_IRWXUGO: u32 = 0o777;
