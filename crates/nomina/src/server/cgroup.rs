//! What the file system of control groups needs of the sandbox: the model, and the end of processes.

use std::sync::{Arc, OnceLock, Weak};

use nomina_fs::cgroup2::CgroupSource;
use nomina_kernel::kernel::Kernel;
use nomina_kernel::task::TaskId;

use super::Server;
use super::sys::process::kill_all;

/// The sandbox, told when it exists.
#[derive(Default)]
pub struct CgroupView {
    /// The sandbox.
    pub server: OnceLock<Weak<Server>>,
}

impl CgroupView {
    fn server(&self) -> Option<Arc<Server>> {
        self.server.get()?.upgrade()
    }
}

impl CgroupSource for CgroupView {
    fn with_kernel(&self, with: &mut dyn FnMut(&mut Kernel)) {
        if let Some(server) = self.server() {
            with(&mut server.kernel.lock().unwrap());
        }
    }

    fn kill(&self, tasks: &[TaskId]) {
        if let (Some(server), false) = (self.server(), tasks.is_empty()) {
            kill_all(&server, tasks);
        }
    }
}
