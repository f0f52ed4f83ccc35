//! Connections that come from outside to a guest's listener.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetNamespace;

use super::{Inet, host_socket};

impl Inet {
    /// Connects, in the name of `from`, to whoever listens at `to` in a namespace: our end of the connection, which does not
    /// wait.
    ///
    /// # Errors
    /// `ECONNREFUSED`: nobody listens. `EAGAIN`: there is no room in the backlog. Those of the host's sockets.
    pub fn join_from(&self, net: &Arc<NetNamespace>, from: SocketAddr, to: SocketAddr) -> Result<OwnedFd> {
        let (ours, _) = host_socket::stream(true)?;
        let listener = self.names().listener(net.common().inum(), to, self.random());
        self.join_listener(&ours, &listener.ok_or(Errno::ECONNREFUSED)?, from, to)?;
        Ok(ours)
    }
}
