//! mqueue: POSIX message queues as files (`mq_overview(7)`).
//!
//! In Linux the file system shows the queues of an IPC namespace. Here `mq_open(2)` and its like do not exist (`ENOSYS`), so
//! there is never a queue: the file system can be mounted, as containers do, and is empty.

use std::sync::Arc;

use crate::flat::FlatFs;

/// `MQUEUE_MAGIC`.
const MQUEUE_MAGIC: u64 = 0x1980_0202;

/// Makes an instance with `dev` as its `st_dev`.
pub fn new(dev: u64) -> Arc<FlatFs> {
    FlatFs::new("mqueue", MQUEUE_MAGIC, dev, 0o1777, Vec::new())
}
