//! Whether a process has really been replaced by a new image of the shim.
//!
//! The shim belongs to the guest, so a guest that prepares the exec of a set-user-ID program could ask for its start
//! without making the exec, or after running a program of its own (`execveat` of any memfd is native from shim text), and
//! its own code would go on with the new credentials. When an exec gives privilege, the supervisor therefore checks
//! that the process runs the sealed shim and that its memory is another than when the exec was prepared, and gives it a hidden
//! socket and a shim that nobody else has.

use std::os::unix::fs::MetadataExt;

/// Where the host put stack, arguments and environment of a process's image. The process cannot change these (`PR_SET_MM` is
/// not native), and every exec draws them anew.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Memory([u64; 4]);

/// That of host process `pid`; `None` when the host does not tell.
pub fn memory_of(pid: i32) -> Option<Memory> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields of proc_pid_stat(5), counted from 1; those behind the name start with the 3rd.
    const START_STACK: usize = 28;
    const ARG_START: usize = 48;
    let words: Vec<u64> =
        stat[stat.rfind(')')? + 1..].split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let field = |number: usize| words.get(number - 3).copied().filter(|&address| address != 0);
    Some(Memory([field(START_STACK)?, field(ARG_START)?, field(ARG_START + 1)?, field(ARG_START + 2)?]))
}

/// Whether host process `pid` runs the file with this device and inode number.
pub fn runs(pid: i32, program: (u64, u64)) -> bool {
    std::fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| (exe.dev(), exe.ino()) == program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_not_been_replaced_has_the_same_memory() {
        let pid = std::process::id() as i32;
        let own = memory_of(pid).unwrap();
        assert_eq!(memory_of(pid).unwrap(), own);
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        // The child is known before its exec has set up all of its memory.
        let mut other = None;
        while other.is_none() {
            other = memory_of(child.id() as i32);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_ne!(other.as_ref(), Some(&own));
    }

    #[test]
    fn the_running_program_is_recognised_by_its_inode() {
        let exe = std::fs::metadata(std::env::current_exe().unwrap()).unwrap();
        let pid = std::process::id() as i32;
        assert!(runs(pid, (exe.dev(), exe.ino())));
        assert!(!runs(pid, (exe.dev(), exe.ino() + 1)));
    }
}
