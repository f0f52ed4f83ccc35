//! The auxiliary vector of a guest's program (`/proc/PID/auxv`).

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Most words below the vector: arguments and environment.
const MOST_WORDS: usize = 1 << 16;

/// The vector on the stack of host process `pid`, where the shim has put the program's values in, of the length that the host's has.
pub fn of_program(pid: i32, len: usize) -> Option<Vec<u8>> {
    const START_STACK: usize = 28;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let start: u64 = fields.nth(START_STACK - 3)?.parse().ok()?;
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut at = start.checked_add(8)?;
    let mut nulls = 0;
    let mut words = [0u8; 4096];
    // Arguments, a null pointer, environment, a null pointer.
    for _ in 0..MOST_WORDS / 512 {
        let read = memory.read_at(&mut words, at).ok().filter(|&read| read >= 8)?;
        for word in words[..read].chunks_exact(8) {
            at += 8;
            nulls += usize::from(word.iter().all(|&byte| byte == 0));
            if nulls == 2 {
                let mut vector = vec![0; len];
                memory.read_exact_at(&mut vector, at).ok()?;
                return Some(vector);
            }
        }
    }
    None
}
