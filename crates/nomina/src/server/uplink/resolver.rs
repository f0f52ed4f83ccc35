//! The host's resolvers (`resolv.conf(5)`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const PORT: u16 = 53;
/// `MAXNS`
const MOST: usize = 3;

/// The servers that the host asks.
pub fn host_resolvers() -> Vec<SocketAddr> {
    parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn parse(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    let mut servers: Vec<SocketAddr> =
        addresses.map(|address| SocketAddr::new(address, PORT)).take(MOST).collect();
    if servers.is_empty() {
        // As the C library does without a server.
        servers.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT));
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_three_servers_are_asked() {
        let text = "# x\nsearch a\nnameserver 192.0.2.1\nnameserver\tfd00::1\nnameserver what\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let servers: Vec<_> = parse(text).iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[fd00::1]:53", "192.0.2.2:53"]);
        assert_eq!(parse("").len(), 1);
    }
}
