//! Classic BPF on packets (`SO_ATTACH_FILTER`, `net/core/filter.c`): which of them a socket or a TAP descriptor wants, and how much.

use std::sync::Arc;

use super::core::skbuff::SkBuff;
use crate::errno::{Errno, Result};
pub use crate::seccomp::bpf::Instruction;

/// `BPF_MAXINSNS`
pub const MAX_INSTRUCTIONS: usize = 4096;
/// `BPF_MEMWORDS`
const MEMORY_WORDS: usize = 16;
/// `SKF_AD_OFF`: loads from here on are of what is known about the packet.
const AD_OFF: u32 = 0xffff_f000;
/// `SKF_NET_OFF`: from the network header.
const NET_OFF: u32 = 0xfff0_0000;
/// `SKF_LL_OFF`: from the link-layer header.
const LL_OFF: u32 = 0xffe0_0000;

/// A filter that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(Arc<[Instruction]>);

impl Filter {
    /// `bpf_check_classic`
    ///
    /// # Errors
    /// `EINVAL`: no instructions, too many, an unknown one, a jump beyond the end, a shift or a division that makes no sense, or no
    /// return at the end.
    pub fn new(program: &[Instruction]) -> Result<Filter> {
        if program.is_empty() || program.len() > MAX_INSTRUCTIONS {
            return Err(Errno::EINVAL);
        }
        for (at, op) in program.iter().enumerate() {
            let left = (program.len() - at - 1) as u32;
            let memory = op.k < MEMORY_WORDS as u32;
            let ok = match op.code {
                // ld, ldx of memory; st, stx
                0x60 | 0x61 | 0x02 | 0x03 => memory,
                // ld: imm, len, abs and ind of each size; ldx: imm, len, msh
                0x00 | 0x80 | 0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0x01 | 0x81 | 0xb1 => true,
                // alu: div and mod by 0, shifts beyond the word
                0x34 | 0x94 => op.k != 0,
                0x64 | 0x74 => op.k < 32,
                0x04 | 0x0c | 0x14 | 0x1c | 0x24 | 0x2c | 0x3c | 0x44 | 0x4c | 0x54 | 0x5c | 0x6c | 0x7c
                | 0x84 | 0x9c | 0xa4 | 0xac => true,
                0x05 => op.k < left,
                0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d | 0x45 | 0x4d => {
                    u32::from(op.jt) < left && u32::from(op.jf) < left
                }
                0x06 | 0x16 | 0x07 | 0x87 => true,
                _ => false,
            };
            if !ok {
                return Err(Errno::EINVAL);
            }
        }
        match program.last().map(|op| op.code) {
            Some(0x06 | 0x16) => Ok(Filter(program.into())),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// How many bytes of a packet are wanted, from `data` on; 0: it is not. `ifindex` and `hatype` are those of its device.
    pub fn run(&self, skb: &SkBuff, data: &[u8], ifindex: u32, hatype: u16) -> u32 {
        let mut memory = [0; MEMORY_WORDS];
        let (mut a, mut x): (u32, u32) = (0, 0);
        let mut pc = 0;
        let load = |offset: u32, size: usize| -> Option<u32> {
            let bytes = match offset {
                AD_OFF.. => return ancillary(skb, offset - AD_OFF, ifindex, hatype),
                NET_OFF..AD_OFF => skb.network().get((offset - NET_OFF) as usize..)?,
                LL_OFF..NET_OFF => skb.data().get((offset - LL_OFF) as usize..)?,
                _ => data.get(offset as usize..)?,
            };
            let bytes = bytes.get(..size)?;
            Some(bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)))
        };
        while let Some(op) = self.0.get(pc) {
            pc += 1;
            let k = op.k;
            let operand = if op.code & 0x08 != 0 { x } else { k };
            let mut jump = |condition: bool| pc += usize::from(if condition { op.jt } else { op.jf });
            match op.code {
                0x00 => a = k,
                0x01 => x = k,
                0x80 => a = data.len() as u32,
                0x81 => x = data.len() as u32,
                0x60 => a = memory[k as usize],
                0x61 => x = memory[k as usize],
                0x02 => memory[k as usize] = a,
                0x03 => memory[k as usize] = x,
                0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 => {
                    let size = match op.code & 0x18 {
                        0x00 => 4,
                        0x08 => 2,
                        _ => 1,
                    };
                    let offset = if op.code & 0x40 != 0 { x.wrapping_add(k) } else { k };
                    match load(offset, size) {
                        Some(value) => a = value,
                        None => return 0,
                    }
                }
                0xb1 => match load(k, 1) {
                    Some(value) => x = (value & 0xf) * 4,
                    None => return 0,
                },
                0x04 | 0x0c => a = a.wrapping_add(operand),
                0x14 | 0x1c => a = a.wrapping_sub(operand),
                0x24 | 0x2c => a = a.wrapping_mul(operand),
                0x34 | 0x3c => match a.checked_div(operand) {
                    Some(value) => a = value,
                    None => return 0,
                },
                0x94 | 0x9c => match a.checked_rem(operand) {
                    Some(value) => a = value,
                    None => return 0,
                },
                0x44 | 0x4c => a |= operand,
                0x54 | 0x5c => a &= operand,
                0xa4 | 0xac => a ^= operand,
                0x64 | 0x6c => a = a.wrapping_shl(operand),
                0x74 | 0x7c => a = a.wrapping_shr(operand),
                0x84 => a = a.wrapping_neg(),
                0x05 => pc += k as usize,
                0x15 | 0x1d => jump(a == operand),
                0x25 | 0x2d => jump(a > operand),
                0x35 | 0x3d => jump(a >= operand),
                0x45 | 0x4d => jump(a & operand != 0),
                0x07 => x = a,
                0x87 => a = x,
                0x06 => return k,
                0x16 => return a,
                _ => return 0,
            }
        }
        0
    }
}

/// `bpf_convert_filter`'s extensions: `SKF_AD_*`. `None`: one that there is not here, among them those that look for an attribute of
/// netlink.
fn ancillary(skb: &SkBuff, which: u32, ifindex: u32, hatype: u16) -> Option<u32> {
    Some(match which {
        0 => skb.protocol.into(),
        4 => skb.pkt_type as u32,
        8 => ifindex,
        28 => hatype.into(),
        // SKF_AD_CPU, and what a packet here never has: marks, queues, hashes, tags beside the data.
        12 | 16 | 20 | 24 | 32 | 36 | 44 | 48 | 52 | 60 => 0,
        40 => skb.network().len() as u32,
        56 => 0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::dev::DevId;
    use super::*;

    fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    #[test]
    fn what_tcpdump_makes_of_icmp_takes_icmp_only() {
        // tcpdump -d icmp
        let filter = Filter::new(&[
            op(0x28, 0, 0, 12),
            op(0x15, 0, 3, 0x800),
            op(0x30, 0, 0, 23),
            op(0x15, 0, 1, 1),
            op(0x06, 0, 0, 262144),
            op(0x06, 0, 0, 0),
        ])
        .unwrap();
        let mut frame = vec![0; 34];
        frame[12] = 8;
        frame[23] = 1;
        let skb = SkBuff::new(DevId(1), 0x800, &frame);
        assert_eq!(filter.run(&skb, skb.data(), 1, 1), 262144);
        frame[23] = 6;
        assert_eq!(filter.run(&skb, &frame, 1, 1), 0);
        assert_eq!(filter.run(&skb, &frame[..20], 1, 1), 0);
    }

    #[test]
    fn programs_that_could_go_wrong_are_refused() {
        for bad in [
            vec![],
            vec![op(0x00, 0, 0, 0)],
            vec![op(0x05, 0, 0, 1), op(0x06, 0, 0, 0)],
            vec![op(0x15, 1, 0, 0), op(0x06, 0, 0, 0)],
            vec![op(0x60, 0, 0, 16), op(0x06, 0, 0, 0)],
            vec![op(0x34, 0, 0, 0), op(0x06, 0, 0, 0)],
            vec![op(0xff, 0, 0, 0), op(0x06, 0, 0, 0)],
        ] {
            assert_eq!(Filter::new(&bad), Err(Errno::EINVAL), "{bad:?}");
        }
    }
}
