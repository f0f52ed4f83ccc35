//! Filters of socket dumps (`INET_DIAG_REQ_BYTECODE`; `inet_diag_bc_run` and `inet_diag_bc_audit` in `net/ipv4/inet_diag.c`): what `ss`
//! makes of `sport = :80 or dst 10.0.0.0/8`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nomina_kernel::errno::{Errno, Result};
use nomina_kernel::net::nlattr::ip_of;

use super::sock_diag::{Told, word};

/// Instructions: `INET_DIAG_BC_*`.
mod op {
    pub const NOP: u8 = 0;
    pub const JMP: u8 = 1;
    pub const S_GE: u8 = 2;
    pub const S_LE: u8 = 3;
    pub const D_GE: u8 = 4;
    pub const D_LE: u8 = 5;
    pub const AUTO: u8 = 6;
    pub const S_COND: u8 = 7;
    pub const D_COND: u8 = 8;
    pub const DEV_COND: u8 = 9;
    pub const S_EQ: u8 = 11;
    pub const D_EQ: u8 = 12;
}

/// Bytes of a `struct inet_diag_bc_op`.
const OP: usize = 4;
/// Bytes of a `struct inet_diag_hostcond` without its address.
const HOSTCOND: usize = 8;

/// A filter whose every jump goes forward and ends inside, or right behind the end.
pub struct Code(Vec<u8>);

impl Code {
    /// Checks a filter.
    ///
    /// # Errors
    /// `EINVAL`: an instruction that there is not, one that is cut off, or a jump that leads nowhere. `EPERM`: one about marks.
    pub fn new(bytes: &[u8]) -> Result<Code> {
        const MARK_COND: u8 = 10;
        let len = bytes.len();
        // Where instructions begin, and where jumps lead: nowhere else, or behind the end.
        let (mut starts, mut targets) = (Vec::new(), Vec::new());
        let mut at = 0;
        while at < len {
            let [code, yes, no @ ..]: [u8; OP] =
                bytes.get(at..at + OP).and_then(|op| op.try_into().ok()).ok_or(Errno::EINVAL)?;
            let no = usize::from(u16::from_ne_bytes(no));
            let need = match code {
                op::NOP | op::JMP | op::AUTO => OP,
                op::S_GE | op::S_LE | op::D_GE | op::D_LE | op::S_EQ | op::D_EQ | op::DEV_COND => 2 * OP,
                op::S_COND | op::D_COND => {
                    let family = bytes.get(at + OP).copied().ok_or(Errno::EINVAL)?;
                    OP + HOSTCOND + address_len(family).ok_or(Errno::EINVAL)?
                }
                MARK_COND => return Err(Errno::EPERM),
                _ => return Err(Errno::EINVAL),
            };
            let yes = usize::from(yes);
            // A jump to four bytes behind the end refuses.
            let sound = |to: usize| to >= OP && to.is_multiple_of(OP) && at + to <= len + OP;
            if at + need > len || yes < need || !sound(yes) || at + yes > len {
                return Err(Errno::EINVAL);
            }
            if code != op::NOP {
                targets.push(at + no);
                if !sound(no) {
                    return Err(Errno::EINVAL);
                }
            }
            starts.push(at);
            at += yes;
        }
        let leads_in = |target: &usize| *target >= len || starts.binary_search(target).is_ok();
        if targets.iter().all(leads_in) { Ok(Code(bytes.to_vec())) } else { Err(Errno::EINVAL) }
    }

    /// Whether a socket is wanted.
    pub fn wants(&self, told: &Told) -> bool {
        let (bytes, mut at) = (&self.0, 0);
        while at < bytes.len() {
            let Some(&[code, yes, a, b]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<OP>()) else {
                return false;
            };
            let no = u16::from_ne_bytes([a, b]);
            // The port stands in the second half of an instruction that is there for it only.
            let operand = bytes.get(at + 6..at + 8).map_or(0, |half| u16::from_ne_bytes([half[0], half[1]]));
            let (own, other) = (told.end(true).1, told.end(false).1);
            let holds = match code {
                op::NOP => true,
                op::JMP => false,
                op::S_EQ => own == operand,
                op::S_GE => own >= operand,
                op::S_LE => own <= operand,
                op::D_EQ => other == operand,
                op::D_GE => other >= operand,
                op::D_LE => other <= operand,
                // The port was chosen by the kernel: by the range it is in.
                op::AUTO => own >= nomina_kernel::net::inet::bind::LOCAL_PORT_RANGE.0,
                op::DEV_COND => word(bytes, at + OP).is_ok_and(|index| index == told.ifindex),
                _ => host_matches(&bytes[(at + OP).min(bytes.len())..], told.end(code == op::S_COND)),
            };
            // Jumps go forward, so this ends.
            at += usize::from(if holds { yes.into() } else { no }).max(OP);
        }
        at == bytes.len()
    }
}

fn address_len(family: u8) -> Option<usize> {
    match i32::from(family) {
        libc::AF_UNSPEC => Some(0),
        libc::AF_INET => Some(4),
        libc::AF_INET6 => Some(16),
        _ => None,
    }
}

/// `struct inet_diag_hostcond`: family, length of the prefix, port or -1, address.
fn host_matches(condition: &[u8], (ip, port): (IpAddr, u16)) -> bool {
    let Some(&[family, prefix, ..]) = condition.first_chunk::<HOSTCOND>() else { return false };
    let wanted = word(condition, 4).unwrap_or(0) as i32;
    if wanted != -1 && wanted != i32::from(port) {
        return false;
    }
    if prefix == 0 {
        return true;
    }
    let address = address_len(family).and_then(|len| ip_of(condition.get(HOSTCOND..HOSTCOND + len)?));
    match (address, ip) {
        (Some(IpAddr::V4(wanted)), IpAddr::V4(ip)) => {
            same_prefix(mapped(wanted), mapped(ip), 96 + u32::from(prefix))
        }
        (Some(IpAddr::V6(wanted)), IpAddr::V6(ip)) => same_prefix(wanted, ip, prefix.into()),
        // An IPv4 address of a socket of IPv6.
        (Some(IpAddr::V4(wanted)), IpAddr::V6(ip)) => same_prefix(mapped(wanted), ip, 96 + u32::from(prefix)),
        _ => false,
    }
}

fn mapped(ip: Ipv4Addr) -> Ipv6Addr {
    ip.to_ipv6_mapped()
}

fn same_prefix(one: Ipv6Addr, other: Ipv6Addr, len: u32) -> bool {
    let shift = 128 - len.min(128);
    (u128::from(one) ^ u128::from(other)).checked_shr(shift).unwrap_or(0) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_leads_nowhere_is_refused() {
        // sport = :80, as ss makes it.
        let good = [op::S_EQ, 8, 12, 0, 0, 0, 80, 0];
        assert!(Code::new(&good).is_ok());
        for wrong in [
            &good[..7],
            &good[..3],
            &[op::S_EQ, 8, 16, 0, 0, 0, 80, 0],
            &[op::S_EQ, 4, 12, 0, 0, 0, 80, 0],
            &[op::S_EQ, 8, 0, 0, 0, 0, 80, 0],
            &[op::S_EQ, 8, 3, 0, 0, 0, 80, 0],
            &[op::S_EQ, 8, 4, 0, 0, 0, 80, 0],
            &[99, 8, 12, 0, 0, 0, 80, 0],
            &[op::S_COND, 12, 16, 0, 77, 8, 0, 0, 255, 255, 255, 255],
        ] {
            assert_eq!(Code::new(wrong).err(), Some(Errno::EINVAL), "{wrong:?}");
        }
        assert!(Code::new(&[]).is_ok());
    }
}
