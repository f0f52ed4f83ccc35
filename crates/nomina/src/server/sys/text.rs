//! What an address of the caller's is mapped to (`op::TEXT`): the shim asks before it rewrites a call site.
//!
//! The answer is as good as the caller's own view (`/proc/self/maps`), and as little binding: he may map something else the next
//! moment.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

use nomina_kernel::errno::{Errno, Result};

use super::super::request::{Ctx, Reply, host};

/// `struct procmap_query` (Linux 6.11).
#[repr(C)]
#[derive(Default)]
struct ProcmapQuery {
    size: u64,
    query_flags: u64,
    query_addr: u64,
    vma_start: u64,
    vma_end: u64,
    vma_flags: u64,
    vma_page_size: u64,
    vma_offset: u64,
    inode: u64,
    dev_major: u32,
    dev_minor: u32,
    vma_name_size: u32,
    build_id_size: u32,
    vma_name_addr: u64,
    build_id_addr: u64,
}

/// `PROCMAP_QUERY`: `_IOWR('f', 17, struct procmap_query)`.
const PROCMAP_QUERY: libc::c_ulong = 0xc068_6611;
const VMA_READABLE: u64 = 1;
const VMA_EXECUTABLE: u64 = 4;
/// All of readable, writable, executable and shared.
const VMA_FLAGS: u64 = 0xf;
const FILE_BACKED_VMA: u64 = 0x20;

/// `op::TEXT`. `EINVAL` for anything but private text of a file.
pub fn text(ctx: &mut Ctx<'_>) -> Result<Reply> {
    let at = ctx.args[0];
    let maps = File::open(format!("/proc/{}/maps", ctx.host_pid())).map_err(host)?;
    let (start, end) = match query(&maps, at) {
        Err(Errno::ENOTTY) => search(maps, at)?,
        other => other?,
    };
    (ctx.out[0], ctx.out[1]) = (start, end);
    Ok(().into())
}

fn query(maps: &File, at: u64) -> Result<(u64, u64)> {
    let mut query = ProcmapQuery {
        size: size_of::<ProcmapQuery>() as u64,
        query_flags: FILE_BACKED_VMA,
        query_addr: at,
        ..ProcmapQuery::default()
    };
    // SAFETY: the structure has the size that the request's number and its first field say.
    let done = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
    if done < 0 {
        let errno = host(std::io::Error::last_os_error());
        return Err(if errno == Errno::ENOTTY { errno } else { Errno::EINVAL });
    }
    let wanted = VMA_READABLE | VMA_EXECUTABLE;
    if query.vma_flags & VMA_FLAGS == wanted {
        Ok((query.vma_start, query.vma_end))
    } else {
        Err(Errno::EINVAL)
    }
}

/// The same for older kernels.
fn search(mut maps: File, at: u64) -> Result<(u64, u64)> {
    let mut text = String::new();
    maps.read_to_string(&mut text).map_err(host)?;
    text.lines()
        .find_map(|line| private_text(line).filter(|&(start, end)| (start..end).contains(&at)))
        .ok_or(Errno::EINVAL)
}

/// The range of a line of `/proc/PID/maps`, if it is private text of a file.
fn private_text(line: &str) -> Option<(u64, u64)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let range = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let (mode, inode) = (words.next()?, words.nth(2)?);
    (mode == "r-xp" && inode != "0").then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_private_text_of_files_is_text() {
        let line = |mode, inode| {
            format!("7f00aa000000-7f00aa155000 {mode} 00026000 fe:00 {inode}   /usr/lib/libc.so.6")
        };
        assert_eq!(private_text(&line("r-xp", 12)), Some((0x7f00_aa00_0000, 0x7f00_aa15_5000)));
        for (mode, inode) in [("r-xs", 12), ("rwxp", 12), ("r--p", 12), ("r-xp", 0)] {
            assert_eq!(private_text(&line(mode, inode)), None, "{mode} {inode}");
        }
        assert_eq!(private_text(""), None);
    }

    #[test]
    fn both_ways_to_ask_find_the_text_of_this_program() {
        let at = text as *const () as u64;
        let open = || File::open("/proc/self/maps").unwrap();
        let found = search(open(), at).unwrap();
        assert!((found.0..found.1).contains(&at));
        match query(&open(), at) {
            Err(Errno::ENOTTY) => {}
            other => assert_eq!(other, Ok(found)),
        }
        let stack = &raw const found as u64;
        assert_eq!(search(open(), stack), Err(Errno::EINVAL));
    }
}
