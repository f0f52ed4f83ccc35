//! `struct sockaddr_in` and `struct sockaddr_in6`.
//!
//! Inside, an IPv4 address is an IPv4 address even where an `AF_INET6` socket calls it `::ffff:a.b.c.d`; the form depends on who
//! looks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::{AF_INET, AF_INET6};
use crate::errno::{Errno, Result};

/// `sizeof(struct sockaddr_in)`
const SOCKADDR_IN: usize = 16;
/// `SIN6_LEN_RFC2133`: without the scope.
const SIN6_LEN_RFC2133: usize = 24;
/// `sizeof(struct sockaddr_in6)`
const SOCKADDR_IN6: usize = 28;

/// An address as the model keeps it: no IPv4 in the form of IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// The family of an address, whose first two bytes it is.
///
/// # Errors
/// `EINVAL` for something shorter.
pub fn family(bytes: &[u8]) -> Result<u16> {
    let family = bytes.first_chunk::<2>().ok_or(Errno::EINVAL)?;
    Ok(u16::from_ne_bytes(*family))
}

/// What a socket of family `of` is told as an address of its own family.
///
/// # Errors
/// `EINVAL`: too short. `EAFNOSUPPORT`: another family.
pub fn parse(of: u16, bytes: &[u8]) -> Result<SocketAddr> {
    let least = if of == AF_INET6 { SIN6_LEN_RFC2133 } else { SOCKADDR_IN };
    if bytes.len() < least {
        return Err(Errno::EINVAL);
    }
    if family(bytes)? != of {
        return Err(Errno::EAFNOSUPPORT);
    }
    parse_any(bytes)
}

/// An address of either family.
///
/// # Errors
/// `EINVAL`: too short. `EAFNOSUPPORT`: another family.
pub fn parse_any(bytes: &[u8]) -> Result<SocketAddr> {
    let port = |bytes: &[u8]| u16::from_be_bytes([bytes[2], bytes[3]]);
    match family(bytes)? {
        AF_INET if bytes.len() >= SOCKADDR_IN => {
            let ip = Ipv4Addr::from(*bytes[4..].first_chunk::<4>().ok_or(Errno::EINVAL)?);
            Ok(SocketAddr::new(ip.into(), port(bytes)))
        }
        AF_INET6 if bytes.len() >= SIN6_LEN_RFC2133 => {
            let ip = Ipv6Addr::from(*bytes[8..].first_chunk::<16>().ok_or(Errno::EINVAL)?);
            let flow = u32::from_be_bytes(*bytes[4..].first_chunk::<4>().ok_or(Errno::EINVAL)?);
            let scope = bytes.get(24..28).map_or(0, |b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
            Ok(canonical(SocketAddr::V6(SocketAddrV6::new(ip, port(bytes), flow, scope))))
        }
        AF_INET | AF_INET6 => Err(Errno::EINVAL),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The destination of a datagram of a socket of family `of`: one of `AF_INET` takes addresses without a family, one of `AF_INET6`
/// those of IPv4.
///
/// # Errors
/// As [`parse`].
pub fn parse_as(of: u16, bytes: &[u8]) -> Result<SocketAddr> {
    if of == AF_INET6 {
        return parse_any(bytes);
    }
    let mut named = bytes.to_vec();
    if family(bytes)? == 0 {
        named[..2].copy_from_slice(&of.to_ne_bytes());
    }
    parse(of, &named)
}

/// An address as a socket of family `of` shows it.
pub fn format(of: u16, address: SocketAddr) -> Vec<u8> {
    let mut out = of.to_ne_bytes().to_vec();
    out.extend(address.port().to_be_bytes());
    if of == AF_INET6 {
        let (ip, flow, scope) = match address {
            SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv6Addr::UNSPECIFIED, 0, 0),
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
        };
        out.extend(flow.to_be_bytes());
        out.extend(ip.octets());
        out.extend(scope.to_ne_bytes());
        debug_assert_eq!(out.len(), SOCKADDR_IN6);
    } else {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        out.extend(ip.octets());
        out.extend([0; 8]);
    }
    out
}

/// The address of no one in particular, of family `of`.
pub fn any(of: u16) -> IpAddr {
    if of == AF_INET6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

/// `127.0.0.1` or `::1`, where an address means "this host": `INADDR_ANY` as a destination.
pub fn this_host(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_looks_as_the_family_of_the_socket_has_it() {
        let v4: SocketAddr = "1.2.3.4:80".parse().unwrap();
        let plain = format(AF_INET, v4);
        assert_eq!(parse(AF_INET, &plain), Ok(v4));
        assert_eq!(parse(AF_INET6, &plain), Err(Errno::EINVAL));
        let mapped = format(AF_INET6, v4);
        assert_eq!(mapped.len(), 28);
        assert_eq!(mapped[18..24], [0xff, 0xff, 1, 2, 3, 4]);
        assert_eq!(parse(AF_INET6, &mapped), Ok(v4));
        assert_eq!(parse(AF_INET, &mapped), Err(Errno::EAFNOSUPPORT));
        assert_eq!(parse(AF_INET, &plain[..15]), Err(Errno::EINVAL));
        assert_eq!(parse_any(&[]), Err(Errno::EINVAL));
    }
}
