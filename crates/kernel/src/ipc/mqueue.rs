//! POSIX message queues (`ipc/mqueue.c`).

use super::IpcNamespace;
use super::namespace::lock;
use crate::errno::{Errno, Result};

/// Most messages of a queue, whatever the limits (`HARD_MSGMAX`).
const HARD_MSGMAX: i32 = 65536;
/// The longest message, whatever the limits (`HARD_MSGSIZEMAX`).
const HARD_MSGSIZEMAX: i32 = 16 << 20;
/// The least that `msgsize_max` can be (`MIN_MSGSIZEMAX`).
const MIN_MSGSIZEMAX: i32 = 128;

/// Limits of a namespace (`/proc/sys/fs/mqueue`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MqLimits {
    /// Queues.
    pub queues_max: i32,
    /// Messages of a queue.
    pub msg_max: i32,
    /// Bytes of a message.
    pub msgsize_max: i32,
    /// Messages of a queue for which nothing else is asked.
    pub msg_default: i32,
    /// Bytes of a message, likewise.
    pub msgsize_default: i32,
}

impl Default for MqLimits {
    fn default() -> Self {
        MqLimits { queues_max: 256, msg_max: 10, msgsize_max: 8192, msg_default: 10, msgsize_default: 8192 }
    }
}

/// All queues of a namespace.
#[derive(Default)]
pub(super) struct MqueueState {
    limits: MqLimits,
}

impl IpcNamespace {
    /// The limits.
    pub fn mq_limits(&self) -> MqLimits {
        lock(&self.mqueue).limits
    }

    /// Changes the limits.
    ///
    /// # Errors
    /// `EINVAL` for what is out of range.
    pub fn set_mq_limits(&self, limits: MqLimits) -> Result<()> {
        let counts = [limits.msg_max, limits.msg_default];
        let sizes = [limits.msgsize_max, limits.msgsize_default];
        if counts.iter().any(|count| !(1..=HARD_MSGMAX).contains(count))
            || sizes.iter().any(|size| !(MIN_MSGSIZEMAX..=HARD_MSGSIZEMAX).contains(size))
        {
            return Err(Errno::EINVAL);
        }
        lock(&self.mqueue).limits = limits;
        Ok(())
    }
}
