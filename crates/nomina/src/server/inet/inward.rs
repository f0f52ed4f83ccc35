//! Connections that come from outside to a guest's listener.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::NetNamespace;

use super::super::sys::socket::unix::connect_host;
use super::{Connection, Inet, host_socket};

impl Inet {
    /// Connects, in the name of `from`, to whoever listens at `to` in a namespace: our end of the connection, which does not
    /// wait.
    ///
    /// # Errors
    /// `ECONNREFUSED`: nobody listens. `EAGAIN`: there is no room in the backlog. Those of the host's sockets.
    pub fn join_from(&self, net: &Arc<NetNamespace>, from: SocketAddr, to: SocketAddr) -> Result<OwnedFd> {
        let (ours, _) = host_socket::stream(true)?;
        let serial = self.next();
        host_socket::bind_abstract(&ours, &[&self.mark[..], serial.to_string().as_bytes()].concat())?;
        let mut names = self.names();
        let listener = names.listener(net.common().inum(), to, self.random()).ok_or(Errno::ECONNREFUSED)?;
        let connection = Connection::to(&listener, from, to);
        names.connections.insert(serial, Arc::new(connection));
        // Nobody tells when it is closed; the oldest are forgotten.
        names.linger(serial);
        drop(names);
        connect_host(&ours, self.path(&listener).as_os_str().as_bytes())?;
        Ok(ours)
    }
}
