//! `bpf(2)`: the attributes point to instructions and to room for numbers, which are brought here.

use nomina_abi::{BPF_ATTR, SPAN_NULL};

use crate::area::Area;
use crate::marshal::{Arena, copy_out};
use crate::slot::{out, request};
use crate::sys::{err, nr};
use crate::uaccess::{get_user, put_user};

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_QUERY: i32 = 16;
/// Size of an instruction.
const INSN: u64 = 8;
/// Most of `union bpf_attr` that a caller may bring.
const PAGE: u64 = 4096;
/// Most numbers that are asked for: more programs no group has.
const MOST_IDS: u64 = 64 * 512;

/// `bpf(2)`. `EFAULT`, `E2BIG` for attributes that no kernel knows, otherwise what the supervisor says.
pub fn bpf(area: &Area, command: u64, at: u64, size: u64) -> Result<i64, i64> {
    let (command, size) = (command as i32, u64::from(size as u32));
    if size > PAGE {
        return Err(err::E2BIG);
    }
    for beyond in BPF_ATTR as u64..size {
        if get_user::<u8>(at + beyond)? != 0 {
            return Err(err::E2BIG);
        }
    }
    let word = |offset: u64| if offset + 4 <= size { get_user::<u32>(at + offset) } else { Ok(0) };
    let pointer = |offset: u64| Ok::<u64, i64>(u64::from(word(offset)?) | u64::from(word(offset + 4)?) << 32);
    let mut arena = Arena::new(area);
    let attr = arena.padded(at, size.min(BPF_ATTR as u64), BPF_ATTR)?;
    let mut span = SPAN_NULL;
    if command == BPF_PROG_LOAD {
        let bytes = u64::from(word(4)?) * INSN;
        // More than fit are too many for the supervisor, too.
        if bytes > 0 && bytes <= nomina_abi::SLOT_DATA as u64 {
            span = arena.bytes(pointer(8)?, bytes)?;
        }
    } else if command == BPF_PROG_QUERY && pointer(16)? != 0 {
        let room = u64::from(word(24)?) * 4;
        span = if room > 0 { arena.room_for(room.min(MOST_IDS))? } else { SPAN_NULL };
    }
    let ret = request(area, nr::BPF as u32, &[command as u32 as u64, attr, span, 0, 0, 0]);
    if command == BPF_PROG_QUERY && (ret == 0 || ret == err::ENOSPC) {
        let [flags, count, given] = [out(area, 0), out(area, 1), out(area, 2)];
        if given > 0 {
            copy_out(area, span, pointer(16)?, given * 4)?;
        }
        put_user(at + 12, flags as u32)?;
        put_user(at + 24, count as u32)?;
    }
    Ok(ret)
}
