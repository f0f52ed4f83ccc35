//! Limits, CPUs and the file systems on which a sandbox keeps its private files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nomina_kernel::Errno;
use rustix::process::{Resource, getrlimit};

use super::kernel::{EXECUTED, execute};
use super::{Finding, Status, last_errno};
use crate::child::smallest_program;

/// The attribute in which owner, mode and device numbers are kept that the host cannot hold.
const OVERRIDE_STAT: &std::ffi::CStr = c"user.containers.override_stat";

/// Open files of the supervisor below which sandboxes with many processes meet the limit.
const MANY_FILES: u64 = 16_384;
/// Processes below which ordinary builds meet the limit.
const MANY_PROCESSES: u64 = 1_024;

fn errno(error: io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

fn check(result: libc::c_int) -> Result<(), Errno> {
    if result == 0 { Ok(()) } else { Err(Errno(last_errno())) }
}

/// A new file in `dir` that has no name any more, opened for writing and once more for reading.
fn nameless_file(dir: &Path, content: &[u8]) -> Result<(File, File), Errno> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!(".nomina-probe-{}-{count}", std::process::id()));
    let mut writer =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o700).open(&path).map_err(errno)?;
    let written = writer.write_all(content).and_then(|()| File::open(&path)).map_err(errno);
    fs::remove_file(&path).map_err(errno)?;
    Ok((writer, written?))
}

fn set_attribute(dir: &Path) -> Result<(), Errno> {
    let (file, _) = nameless_file(dir, b"")?;
    let value = b"0:0:644";
    // SAFETY: a valid string, and a value of the given length.
    check(unsafe {
        libc::fsetxattr(file.as_raw_fd(), OVERRIDE_STAT.as_ptr(), value.as_ptr().cast(), value.len(), 0)
    })
}

fn clone_file(dir: &Path) -> Result<(), Errno> {
    let (_, from) = nameless_file(dir, &[1; 4096])?;
    let (to, _) = nameless_file(dir, b"")?;
    // SAFETY: takes a descriptor, no memory.
    check(unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) })
}

/// Executes a file there and maps it executable, as the shim's loader does with programs.
fn execute_file(dir: &Path) -> Result<(), Errno> {
    let (writer, reader) = nameless_file(dir, &smallest_program(EXECUTED as u8))?;
    drop(writer); // ETXTBSY otherwise
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a fresh private mapping, never touched and unmapped at once.
    unsafe {
        let map =
            libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE, reader.as_raw_fd(), 0);
        if map == libc::MAP_FAILED {
            return Err(Errno(last_errno()));
        }
        libc::munmap(map, 4096);
    }
    execute(&reader.into())
}

fn shared_memory(dir: &Path) -> Result<(), Errno> {
    let (file, _) = nameless_file(dir, &[0; 4096])?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a fresh shared mapping of a file of this size, written inside its bounds and unmapped.
    unsafe {
        let map = libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0);
        if map == libc::MAP_FAILED {
            return Err(Errno(last_errno()));
        }
        map.cast::<u8>().write_volatile(1);
        libc::munmap(map, 4096);
    }
    Ok(())
}

fn limit(resource: Resource) -> (u64, u64, String) {
    let limit = getrlimit(resource);
    let word = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
    let text = format!("{} (hard {})", word(limit.current), word(limit.maximum));
    (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX), text)
}

fn open_files() -> Finding {
    let (_, hard, text) = limit(Resource::Nofile);
    let needed = u64::from(nomina_abi::HIDDEN_FD_BASE + nomina_abi::HIDDEN_FDS);
    let status = match hard {
        _ if hard < needed => Status::Missing,
        _ if hard < MANY_FILES => Status::Degraded,
        _ => Status::Ok,
    };
    Finding::new(
        "RLIMIT_NOFILE",
        text,
        status,
        "guests see 1024, above which the shim has its own; the supervisor holds a few for every process and directory",
        "raise the hard limit to 65536 or more (limits.conf, or LimitNOFILE= of the service)",
    )
}

fn processes() -> Finding {
    let (soft, _, text) = limit(Resource::Nproc);
    let status = if soft < MANY_PROCESSES { Status::Degraded } else { Status::Ok };
    Finding::new(
        "RLIMIT_NPROC",
        text,
        status,
        "guests are processes of the invoking user and count together with all others of that user",
        "raise it with ulimit -u, or in limits.conf",
    )
}

fn cpus() -> Finding {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let status = if count > 1 { Status::Ok } else { Status::Degraded };
    Finding::new(
        "CPUs",
        count.to_string(),
        status,
        "with a second one the supervisor can spin on requests that follow each other; otherwise each is a notification",
        "give it more CPUs",
    )
}

pub(super) fn findings() -> Vec<Finding> {
    let dir = std::env::temp_dir();
    let mut files = [
        Finding::tried(
            "TMPDIR user xattrs",
            set_attribute(&dir),
            Status::Degraded,
            "hold owners, modes and device numbers of a sandbox's files; otherwise memory does, and they end with the sandbox",
            "set TMPDIR, or --upper, to a file system with user extended attributes (ext4, xfs, btrfs; tmpfs since Linux 6.6)",
        ),
        Finding::tried(
            "TMPDIR executable",
            execute_file(&dir),
            Status::Degraded,
            "programs a sandbox makes or changes lie there; on a noexec mount they do not run",
            "set TMPDIR, or --upper, to a directory on a file system mounted without noexec",
        ),
        Finding::tried(
            "TMPDIR reflinks",
            clone_file(&dir),
            Status::Degraded,
            "the first write to a file of the host shares its blocks; otherwise it copies them",
            "set TMPDIR, or --upper, to btrfs or xfs on the same file system as the files; large files then change faster",
        ),
    ];
    for finding in &mut files {
        finding.value += &format!(", {}", dir.display());
    }
    let mut findings = Vec::from(files);
    findings.extend([
        Finding::tried(
            "/dev/shm",
            shared_memory(Path::new("/dev/shm")),
            Status::Degraded,
            "memory that sandboxes share through files; otherwise TMPDIR is used",
            "mount a tmpfs there",
        ),
        open_files(),
        processes(),
        cpus(),
    ]);
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trials_leave_no_files_and_fail_where_nothing_can_be_written() {
        let dir = std::env::temp_dir().join(format!("nomina-probe-test-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        for trial in [set_attribute, clone_file, execute_file, shared_memory] {
            let _ = trial(&dir);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir(&dir).unwrap();
        for trial in [set_attribute, clone_file, execute_file, shared_memory] {
            assert_eq!(trial(&dir), Err(Errno::ENOENT));
        }
    }
}
