//! File systems behind the traits of `nomina_kernel::vfs`.
//!
//! | module | in Linux | here |
//! |---|---|---|
//! | [`overlay`] | overlayfs | a read-only host directory under a private writable one: the root |
//! | [`overlayfs`] | overlayfs | directories of the sandbox on one another, as guests mount it |
//! | [`host`] | a bind mount | a host directory as it is, written through |
//! | [`cgroup2`] | the same | the model's hierarchy of control groups |
//! | [`mqueue`] | the same | the queues of an IPC namespace |
//! | [`tmpfs`] | tmpfs, ramfs | an overlay without a lower directory |
//! | [`proc`] | proc | one per pid namespace, from the model and the host's files |
//! | [`sysfs`] | sysfs | a selection of the host's |
//! | [`fuse`] | FUSE | questions to a server inside the sandbox |
//! | [`dev`], [`devpts`] | devtmpfs, devpts | harmless devices and the sandbox's own terminals |
//!
//! What they share: [`override_stat`] (owners, modes and device numbers that an ordinary user cannot give a host file),
//! [`handle`] (attributes of files guests hold open) and the private helpers `at` (an object of the host as a directory
//! handle and a name), `names` (which extended attribute is stored under which name) and `fifo` (opening FIFOs without
//! ever blocking).

mod at;
pub mod cgroup2;
pub mod dev;
pub mod devpts;
mod fifo;
pub mod fuse;
pub mod handle;
pub mod host;
pub mod mqueue;
mod names;
pub mod overlay;
pub mod overlayfs;
pub mod override_stat;
pub mod proc;
mod store;
pub mod sysfs;
pub mod tmpfs;
pub mod wait;

pub use override_stat::IdMap;
